"""Which dislocation it is: Burgers vector, line direction and slip plane of one line.

A dark-field image shows one projection of the distortion beta of a line, dq = -beta^T g of the reflection g, through
the acceptance of the microscope. The Burgers vector is discrete, and the line lies in a slip plane: a crystal has a few
hundred candidates, fcc with line directions every 10 degree 420. Each of them predicts the counts in every frame of the
scan, and the counts give each a probability, with the position of the line, its brightness, the background and the
local tilt of the lattice as unknowns.

Some candidates cannot be distinguished; :func:`equivalent` names them before the experiment. (b, t) and (-b, -t) are
one dislocation. A screw belongs to every slip plane that contains it. A screw with g·b = 0 has no contrast; an edge
with g·b = 0 keeps half of its contrast unless g is parallel to the line (:func:`visibility`). b and -b exchange the two
sides of the rocking curve: their images are rotated by 180 degree about the core, so that frames on both flanks, or at
several angles, determine the sign. Further reflections see other projections of the same beta.

Maps of the centre of mass show the local tilt itself, with its sign (:func:`burgers_from_curves`).
"""

from dfxm_dask.identify.catalogue import catalogue
from dfxm_dask.identify.combine import combined
from dfxm_dask.identify.curves.step import burgers_from_curves
from dfxm_dask.identify.equivalence import equivalent
from dfxm_dask.identify.match import match
from dfxm_dask.identify.visibility import visibility

__all__ = ["burgers_from_curves", "catalogue", "combined", "equivalent", "match", "visibility"]
