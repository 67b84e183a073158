"""Boundaries of subgrains: planes of dislocations, their lines, Burgers vectors, and the junctions where they meet.

A wall of dislocations separates two subgrains that are misoriented by a small angle. A wall of edge dislocations,
Burgers vector b along its normal and spacing D, rotates the lattice by b/D about its lines (tilt); two crossed families
of screws rotate it about the normal (twist). For any wall Frank's rule relates Burgers vectors, lines and spacings to
the rotation such that no long-range stress remains. So a volume of weak-beam images gives the rotation twice, by
counting dislocations and by the jump of the rocking curve's peak, and the two must agree.

:func:`characterise_boundaries` is the only gathering step of a volume: each layer contributes a list of points with
their probabilities, never an image. All planes are then found together, as a mixture that includes a uniform
background, and their number follows from the evidence for each plane; the published method (MSAC) finds one plane after
another. Every angle and distance comes with an error: from resampled blocks, other starts of the fit, and other
thresholds.
"""

from dfxm_dask.boundaries.characterise import characterise_boundaries

__all__ = ["characterise_boundaries"]
