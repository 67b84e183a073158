"""Volume: the same objects seen twice, and how well the two agree.

A weak-beam scan gives a mask of what stands out in each layer; layers make a volume. Whether such a volume is right can
only be said against another: the truth of a simulation, or the volume of another method. Dislocations are thin and
sparse, and voxels of such scans are many times longer along z than along y, so every distance is in um.

:func:`compare_masks` tells overlap (Dice, IoU) from nearness (symmetric nearest-neighbour distance, HD95, precision and
recall within a distance). No one number does: of two sets of random lines both the ratio of their sizes and the mean
nearest-neighbour distance can look like agreement. So :func:`chance_level` gives the same numbers for a copy that was
moved somewhere else, and :func:`dice_within` is the one score for lines that are thinner than their images.
"""

from dfxm_dask.volume.compare import chance_level, compare_masks, dice_within

__all__ = ["chance_level", "compare_masks", "dice_within"]
