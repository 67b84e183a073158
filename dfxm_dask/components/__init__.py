"""Components: the few rocking curves that all curves of a scan are made of, and how much of each is where.

A rocking scan of 31 frames gives every pixel a curve of 31 numbers, but these curves differ in a few ways only: by how
much the place diffracts, by where its peak is, and by what its tails hold, which is where dislocations show. So a
basis of three curves and three coefficients a pixel hold most of what the scan knows, in a tenth of the numbers.

:func:`gram_schmidt` begins with curves that mean something: those of the strong beam and of the weak beam below and
above the peak, each the mean over a region, made orthonormal one after the other. Regions are drawn, or found in the
local coordinate of every place, which means the same in every layer. One basis for all places cannot follow a peak
that wanders by more than its width from one subgrain to the next: compare its maps with those of
:func:`dfxm_dask.beams.integrate_beams`, which give every place its own reference.

:func:`pca` finds the orthonormal curves that leave least, exactly and for any number of layers, since all it needs is
a sum of products of frames. They need not look like any curve of the sample: signs alternate. :func:`nmf` and
:func:`nica` look for curves and coefficients that are not negative, as light is, which suits grains that overlap.

Each of them fits a basis, a small variable that can be kept, drawn, and taken to another scan with the same frames.
``project_<method>`` turns counts into coefficients with it, and says what they leave. Scaling and background are part
of the basis, so that both treat the counts alike.
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
