"""Beams: where a scan shows dislocations (weak beam), and where dynamical fringes hide them (strong beam).

Every point of a crystal has its own rocking curve, with its own peak: subgrains are misoriented by some ten
microradians. At the peak a thick crystal diffracts dynamically, and the image shows fringes. A few half widths
away the perfect lattice is dark, and only the strained voxels around dislocations fulfil Bragg's law: they light up.
So weak and strong beam are properties of a pixel and a frame together, and the natural coordinate is the local
one, u = (phi - peak_local)/width_local.

:func:`local_peak` finds that reference, and which pixels diffract at all. :func:`classify_beams` gives the probability
of weak beam for each patch of each frame: by u alone, by a small network that looks at one frame at a time and needs
no complete curve, or by both. :func:`integrate_beams` sums the scan softly, every pixel by its own u, into weak-beam
and strong-beam images with their noise. :func:`enhance_beams` expresses the weak-beam image in units of its noise above
its surroundings, and :func:`threshold_beams` selects the pixels that exceed it at a stated rate of false alarms. A
boundary between subgrains appears as a whole; :func:`isolate_lines` shows its single dislocations.

Published work classifies whole patches by a network that was trained on labels of whole frames, replaces strong
patches by a constant, and normalises every frame before the sum: ``legacy=True`` reproduces that recipe.
"""

from dfxm_dask.beams.classify import classify_beams
from dfxm_dask.beams.contrast import enhance_beams
from dfxm_dask.beams.integrate import integrate_beams
from dfxm_dask.beams.isolated_lines import isolate_lines
from dfxm_dask.beams.local_peak import local_peak
from dfxm_dask.beams.mask import threshold_beams

__all__ = ["classify_beams", "enhance_beams", "integrate_beams", "isolate_lines", "local_peak", "threshold_beams"]
