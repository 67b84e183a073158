"""Volume: the objects of a stack of layers, and how well two volumes agree.

A weak-beam scan gives a mask of what stands out in each layer; layers make a volume. Its voxels are many times longer
along z than along y (some 40 nm × 120 nm × 1 um), so every distance is in um and every axis is taken at its own step.
Layers that are missing are gaps: nothing is linked across them, and no distance is closed up.

:func:`align_layers` finds how far each layer has jumped aside, which only makes sense where the stage did: dislocations
that are inclined wander too. :func:`link_layers` finds the objects: pieces of each layer are united wherever they
touch, from the lists of pieces and never from the images, and each object has its voxels, box, centroid and principal
axes. :func:`reconstruct` writes them as a volume, each voxel with the number of its object.

Whether such a volume is right can only be said against another: the truth of a simulation, or the volume of another
method. :func:`compare_masks` tells overlap (Dice, IoU) from nearness (symmetric nearest-neighbour distance, HD95,
precision and recall within a distance). No one number does: of two sets of random lines both the ratio of their sizes
and the mean nearest-neighbour distance can look like agreement. So :func:`chance_level` gives the same numbers for a
copy that was moved somewhere else, and :func:`dice_within` is the one score for lines that are thinner than their
images.
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
