"""Moving dislocations, and positions of dislocation cores below the size of a pixel.

At a temperature near the melting point, dislocations move between the frames of a movie: they vibrate about the
positions that the stress of their neighbours gives them, drift, meet and leave the field. A weak-beam image shows the
distorted lattice beside a dislocation, not its core: a bright lobe where the distortion compensates the offset from the
peak of the rocking curve, and a dark one on the other side. The distance of lobe and core grows with the Burgers vector
and falls with the offset, so a position of the core requires the forward model of :mod:`dfxm_dask.optics`.

Frames are independent: each contributes a few numbers per dislocation, never an image. Paths are linked in one gather
over these tables, and the statistics of a path follow from the fluctuation about its mean. A dislocation in a harmonic
well of stiffness k at temperature T fluctuates by <u²> = k_B T / k and returns within the relaxation time; both follow
from the path together with the error of each position, which must not count as motion. :func:`detect` finds the cores,
:func:`track` links the detections and carries identities through images that two dislocations share, :func:`motion`
fits the walk of each track, with intervals, and :func:`locate` gives the posterior of a core by the forward model.
"""

from dfxm_dask.dynamics.cores.step import locate
from dfxm_dask.dynamics.detect import detect
from dfxm_dask.dynamics.learn_images import learn_images
from dfxm_dask.dynamics.motion import motion, rms_against_temperature
from dfxm_dask.dynamics.ridges import follow_boundary
from dfxm_dask.dynamics.track import napari_tracks, track
from dfxm_dask.dynamics.wavelets import wavelets

__all__ = [
    "detect",
    "follow_boundary",
    "learn_images",
    "locate",
    "motion",
    "napari_tracks",
    "rms_against_temperature",
    "track",
    "wavelets",
]
