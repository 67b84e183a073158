"""Strain: the complete deformation of the lattice, from several reflections of the same volume.

One reflection shows how its lattice planes tilt and how their spacing changes: three of the nine components of the
deformation gradient F. Planes of three directions show the others. Each reflection is a scan of its own, in which the
sample turns about the vertical to an *oblique* setting, so that all reflections image one volume; ``dfxm-dask join``
brings their maps to a common grid. The angles of a pixel give its scattering vector Q, and F follows from
Q = F^-T Q0 by least squares (:func:`deformation`), with the covariance of the nine components. Missing data are never
replaced by zeros: components that the measured angles do not determine are NaN, and :func:`undetermined` names them.

F consists of a rotation of the lattice and a strain (:func:`decompose`). Both vary smoothly in a perfect crystal. Where
the distortion is not the gradient of a displacement, dislocations end the lattice planes: the curl of the distortion
is the Nye tensor (:func:`dislocation_density`), and its integral over an area is the sum of the Burgers vectors that
pierce the area. A map of the curl amplifies noise, since it divides differences of angles by the pixel size; a density
therefore has meaning only beside the density that noise alone causes. A single layer determines three of the nine
components of the Nye tensor; neighbouring layers add the others.

``design`` ranks reflections before the experiment: the predicted covariance of F, and the deformations that a set
leaves undetermined.
"""

from dfxm_dask.strain.decompose import decompose, reference_deformation
from dfxm_dask.strain.deformation import deformation
from dfxm_dask.strain.design import centre_error, design
from dfxm_dask.strain.lines.circuit import circuit
from dfxm_dask.strain.lines.cores import dislocation_cores
from dfxm_dask.strain.null_space import undetermined
from dfxm_dask.strain.nye import dislocation_density
from dfxm_dask.strain.sample.directions import diffraction_vectors
from dfxm_dask.strain.spacing import lattice_spacing
from dfxm_dask.strain.vectors import scattering_vectors

__all__ = [
    "centre_error",
    "circuit",
    "decompose",
    "deformation",
    "design",
    "diffraction_vectors",
    "dislocation_cores",
    "dislocation_density",
    "lattice_spacing",
    "reference_deformation",
    "scattering_vectors",
    "undetermined",
]
