"""Rocking: the local tilt and spread of the lattice, from the counts of each pixel against angle.

A grain is set to a reflection and turned through it in small steps (``phi``, the rocking angle, often with ``chi``,
the rolling angle, and rarely the scattering angle or the energy as further axes); each pixel images the lattice planes
of one spot in the grain. Its *rocking curve* peaks where these planes fulfil Bragg's law. The position of the peak is
the local tilt, its width the spread of tilts (and strains) along the line through the crystal that the pixel images,
convolved with the divergence and bandwidth of the beam.

``moments`` computes position, width, skewness and kurtosis as moments about the mean: no model, one pass, exact for
several peaks, but sensitive to the tails; the background must be right and the scan must reach it. ``moment_errors``
computes the standard errors of these moments, widths that the cut does not shorten, and a check of the errors by halves
of the scan; ``baseline_sensitivity`` shows how far other backgrounds would move them. ``median_centres`` computes the
median, which tails move less. ``centres`` computes the position alone, in a window that follows the
curve: with little noise and without bias for displacements far below one step, as strains require. ``fit_curves`` fits
one Gaussian, Lorentzian or pseudo-Voigt with its own background: robust against the tails, with an uncertainty, but
wrong where the curve has several peaks. In a clean crystal the two agree; where they differ (or ``flags`` report a
truncated or multimodal curve), look at the curve.

``mosaicity`` shows the tilts along two axes as one colour image, ``kam`` how much the tilt changes within a given
distance: high at subgrain boundaries and around dislocations. ``segment_layers``, ``link_segments`` and ``regions``
divide the crystal into subgrains over all layers, with tables of the subgrains and of their boundaries. All are limited
to the two tilts that one reflection reveals; the rotation about the diffraction vector stays hidden.
``classify_defects`` separates defects of the weak beam with and without a rotation of the lattice.
``integrated_curve`` is the rocking curve of the whole sample: it shows whether the scan covers the reflection, and is
the first result to look at; ``orientation_distribution`` is the distribution of the orientations of all voxels.
"""

from dfxm_dask.rocking.centres import centres
from dfxm_dask.rocking.distribution import orientation_distribution
from dfxm_dask.rocking.errors.baseline import baseline_sensitivity, unlit_background
from dfxm_dask.rocking.errors.moment_errors import moment_errors
from dfxm_dask.rocking.fit_curves import fit_curves
from dfxm_dask.rocking.integrated_curve import integrated_curve
from dfxm_dask.rocking.kam import kam
from dfxm_dask.rocking.median import median_centres
from dfxm_dask.rocking.moments import moments
from dfxm_dask.rocking.mosaicity import colour_key, mosaicity
from dfxm_dask.rocking.rotation import classify_defects
from dfxm_dask.rocking.subgrains.link import link_segments
from dfxm_dask.rocking.subgrains.segment import regions, segment_layers

__all__ = [
    "baseline_sensitivity",
    "centres",
    "classify_defects",
    "colour_key",
    "fit_curves",
    "integrated_curve",
    "kam",
    "link_segments",
    "median_centres",
    "moment_errors",
    "moments",
    "mosaicity",
    "orientation_distribution",
    "regions",
    "segment_layers",
    "unlit_background",
]
