"""Rocking: what the curve of counts against angle says about the lattice at each pixel.

A grain is set to a reflection and turned through it in small steps (``phi``, the rocking angle, often with ``chi``,
the rolling angle, and rarely the scattering angle or the energy as further axes); each pixel sees the lattice planes of
one place in the grain. Its *rocking curve* peaks where these planes fulfil Bragg's law. The position of the peak is
the local tilt, its width the spread of tilts (and strains) along the line that the pixel looks through, convolved with
the divergence and bandwidth of the beam.

``moments`` takes position, width, skewness and kurtosis as moments about the mean: no model, one pass, exact for
several peaks, but weighing the tails; the background must be right and the scan must reach it. ``fit_curves`` fits one
Gaussian, Lorentzian or pseudo-Voigt with its own background: robust against the tails, with an uncertainty, but wrong
where the curve has several peaks. In a clean crystal the two agree; where they differ (or ``flags`` say truncated or
multimodal) look at the curve.

``mosaicity`` shows the tilts along two axes as one colour image, ``kam`` how much the tilt changes within a given
distance: high at subgrain boundaries and around dislocations. Both see the two tilts that one reflection can tell; the
rotation about the diffraction vector stays hidden. ``classify_defects`` tells which defects of the weak beam lie where
the lattice rotates. ``integrated_curve`` is the rocking curve of everything together: it
tells whether the scan covers the reflection, and is the first thing to look at.
"""

from dfxm_dask.rocking.fit_curves import fit_curves
from dfxm_dask.rocking.integrated_curve import integrated_curve
from dfxm_dask.rocking.kam import kam
from dfxm_dask.rocking.moments import moments
from dfxm_dask.rocking.mosaicity import colour_key, mosaicity
from dfxm_dask.rocking.rotation import classify_defects

__all__ = ["classify_defects", "colour_key", "fit_curves", "integrated_curve", "kam", "moments", "mosaicity"]
