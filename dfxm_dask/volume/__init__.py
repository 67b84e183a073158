"""Volume: the objects of a stack of layers, and how well two volumes agree.

A weak-beam scan gives a mask of defects in each layer; layers form a volume. Its voxels are many times longer along z
than along y (some 40 nm × 120 nm × 1 um), so that every distance is in um and every axis has its own step. Missing
layers are gaps: no object is linked across them, and no distance is shortened.

:func:`align_layers` finds the displacement of each layer, which is only useful if the stage jumped: inclined
dislocations also shift from layer to layer. :func:`link_layers` finds the objects: pieces of each layer are united
wherever they touch, from the lists of pieces and never from the images, and each object has its voxels, box, centroid
and principal axes. :func:`reconstruct` writes them as a volume, each voxel with the number of its object.

Whether a volume is right can only be decided against another one: the truth of a simulation, or the volume of another
method. :func:`compare_masks` distinguishes overlap (Dice, IoU) from proximity (symmetric nearest-neighbour distance,
HD95, precision and recall within a distance). A single number is not sufficient: for two sets of random lines, both the
ratio of their sizes and the mean nearest-neighbour distance can look like agreement. So :func:`chance_level` gives the
same numbers for a randomly shifted copy, and :func:`dice_within` is the appropriate score for lines that are thinner
than their images.
"""

from dfxm_dask.volume.align import align_layers
from dfxm_dask.volume.compare import chance_level, compare_masks, compare_voxels, dice_within
from dfxm_dask.volume.reconstruct import link_layers, reconstruct

__all__ = [
    "align_layers",
    "chance_level",
    "compare_masks",
    "compare_voxels",
    "dice_within",
    "link_layers",
    "reconstruct",
]
