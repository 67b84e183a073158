"""Boundaries of subgrains: planes of dislocations, their lines, Burgers vectors, and the junctions where they meet.

Two subgrains that are turned against each other by a small angle are parted by a wall of dislocations. A wall of edge
dislocations, Burgers vector b along its normal and spacing D, turns the lattice by b/D about its lines (tilt); two
crossed families of screws turn it about the normal (twist). For any wall Frank's rule says which Burgers vectors, lines
and spacings go with which rotation: no stress is left far away. So a volume of weak-beam images gives the rotation
twice, by counting dislocations and by the jump of the rocking curve's peak, and the two must agree.

:func:`characterise_boundaries` is the one gather of a volume: each layer sends a list of points on what stands out and
their probabilities, never an image. All planes are then found together, as a mixture with points that lie anywhere,
whose number follows from what each plane explains; the published route (MSAC) takes one plane after another. Every
angle and distance comes with an error: of blocks drawn anew, of other starts of the fit, and of other thresholds.
"""

from dfxm_dask.boundaries.characterise import characterise_boundaries

__all__ = ["characterise_boundaries"]
