"""Components: the few rocking curves that combine to all curves of a scan, and a map of the amount of each.

A rocking scan of 31 frames gives every pixel a curve of 31 numbers, but these curves differ in a few ways only: in
their intensity, in the position of their peak, and in their tails, where dislocations show. So a basis of three curves
and three coefficients per pixel contain most of the information of the scan, in a tenth of the numbers.

:func:`gram_schmidt` begins with curves that have a physical meaning: those of the strong beam and of the weak beam
below and above the peak, each the mean over a region, made orthonormal one after the other. Regions are drawn, or found
in the local rocking coordinate of every pixel, which has the same meaning in every layer. A single basis cannot follow
a peak that shifts by more than its width from one subgrain to the next: compare its maps with those of
:func:`dfxm_dask.beams.integrate_beams`, which give every pixel its own reference.

:func:`pca` finds the orthonormal curves with the smallest residual, exactly and for any number of layers, since it
requires only a sum of products of frames. They need not resemble any curve of the sample: signs alternate. :func:`nmf`
and :func:`nica` find curves and coefficients that are not negative, as intensities are, which suits overlapping grains.

Each of them fits a basis, a small variable that can be stored, plotted, and applied to another scan with the same
frames. ``project_<method>`` converts counts into coefficients in this basis, and gives their residual. Scaling and
background are part of the basis, so that fit and projection treat the counts equally.
"""

from dfxm_dask.components.gram_schmidt import gram_schmidt
from dfxm_dask.components.nica import nica
from dfxm_dask.components.nmf import nmf
from dfxm_dask.components.pca import pca
from dfxm_dask.components.project import project_gram_schmidt, project_nica, project_nmf, project_pca

__all__ = [
    "gram_schmidt",
    "nica",
    "nmf",
    "pca",
    "project_gram_schmidt",
    "project_nica",
    "project_nmf",
    "project_pca",
]
