"""Regions of nearly one orientation across layers, and the boundaries between them, as tables."""

from __future__ import annotations

from typing import Annotated

import numpy as np
from pydantic import Field

from dfxm_dask.reduction import Arrays, reduction
from dfxm_dask.rocking.kam import COM
from dfxm_dask.rocking.subgrains.contacts import overlaps, segment_sums, steps_beside
from dfxm_dask.rocking.subgrains.gradient import gradient_size, known_angles, pixel_edges
from dfxm_dask.rocking.subgrains.segment import (
    SCALE,
    SEGMENT,
    SEGMENT_COUNT,
    SEGMENT_REGION,
    SEGMENT_START,
    Scale,
    blurred,
)
from dfxm_dask.rocking.subgrains.tables import BOUNDARY_TABLE, REGION_TABLE, THRESHOLD, linked
from dfxm_dask.schema import COM_ERROR, X, Y, Z

ONE_LAYER = ("axes", "asked", "pixel")


def _join(first: Arrays, second: Arrays) -> Arrays:
    """Combine two summaries."""
    return {n: v if n in ONE_LAYER else np.concatenate([v, second[n]]) for n, v in first.items()}


@reduction(
    reads=(SEGMENT, COM, Y, X, Z),
    may_read=(COM_ERROR,),
    writes=(SEGMENT_REGION, SEGMENT_START, SEGMENT_COUNT, THRESHOLD, *REGION_TABLE, *BOUNDARY_TABLE),
    over=("y", "x"),
    halo=1,
    combine=_join,
    finish=linked,
    group="regions",
)
def link_segments(
    segment: np.ndarray,
    com: dict[str, np.ndarray],
    y: np.ndarray,
    x: np.ndarray,
    z: np.ndarray,
    com_error: dict[str, np.ndarray] | None = None,
    *,
    scale: Scale = SCALE,
    distance: Annotated[
        float,
        Field(
            gt=0,
            description="distance from a boundary on either side at which the orientation is compared",
            json_schema_extra={"unit": "um"},
        ),
    ] = 1.5,
    threshold: Annotated[
        float | None,
        Field(
            gt=0,
            description="least step of the orientation between two regions; by default from the map itself",
            json_schema_extra={"unit": "degree"},
        ),
    ] = None,
    depth: Annotated[
        float,
        Field(
            gt=0,
            description="depth of a region below which a larger step is required",
            json_schema_extra={"unit": "um"},
        ),
    ] = 8.0,
    least_area: Annotated[
        float,
        Field(
            ge=0,
            description="regions whose area in every layer is smaller are removed",
            json_schema_extra={"unit": "um2"},
        ),
    ] = 4.0,
    middle: int = 0,
) -> dict[str, np.ndarray]:
    """Regions of nearly one orientation (subgrains) over all layers, and the boundaries between them.

    Segments that touch, in a layer or from layer to layer, are united unless the orientation steps between them. The
    step is measured locally, across the contact, so that gradual bending within a subgrain does not cut it; it is
    averaged over the whole contact with its sign, so that noise does not cut either, and a faint wall does.
    :func:`regions` then writes the regions as a map.

    Parameters
    ----------
    segment : array (y, x), int32
        See :func:`segment_layers`.
    com_error : dict of arrays, optional
        From :func:`moment_errors`, for the standard errors of the regions.
    z : array (z,), float64, um
        If neighbouring layers are farther apart than 1.5 times the median distance, a layer is missing, and regions end
        there.
    scale : float, um
        That of :func:`segment_layers`.
    distance : float, um
        Half the width of a smeared wall and a margin. Our choice, from simulated layers: 1.5.
    threshold : float, degree, optional
        Default: 3.3 times the step that the gradient of the maps makes over twice the distance, and at least 0.001
        degree (our choice, from simulated layers). The gradient is the lower quartile of a layer, the median of all
        layers: away from walls, it contains the noise of the centre of mass and the bending of the lattice. 0.001
        degree is a wall of dislocations 16 um apart in aluminium.
    depth : float, um
        A region much smaller than this is cut off only by a large step. Our choice, from simulated layers: 8.
    least_area : float, um2
        Regions are removed after everything else is decided; only those that touch no other region are so small.

    Returns
    -------
    dict
        Summaries. The result has ``segment_region``, ``segment_start`` and ``segment_count``, the inputs of
        :func:`regions`; ``step_threshold``; the table of regions along ``region_id``, whose first row is region 1; and
        the table of boundaries along ``boundary_id``, whose ``boundary_region`` are the numbers of both regions.

        ``region_com_{axis}_error`` is the propagated noise of the counts, with pixels as independent; it contains
        neither the bending, which is ``region_spread_{axis}``, nor an error of the motors. NaN without ``com_error``.

        ``boundary_step_{axis}`` is the second region minus the first, at the boundary, averaged over its area.
        ``boundary_misorientation`` is the norm over all axes: a lower bound, as one reflection does not show the
        rotation about the diffraction vector. The errors are standard errors from the scatter of the step between the
        parts of the boundary, some um long, in each layer; NaN for a single part. They contain noise and the variation
        along the boundary, but not the bending over the distance, which adds to the step.

        Areas and volumes assume the median distance of layers; they are NaN for a single layer.

    Raises
    ------
    InputError
        Pixels of unequal size, or layers whose positions are neither ascending nor descending.

    Notes
    -----
    Two regions of volumes U and V with the contact area A and the step s are united while::

        s² min(U V / ((U + V) A), depth) < threshold² depth

    in the order of the left side. Between layers only those segments are compared that overlap over half of the smaller
    one; otherwise a wall that moves from layer to layer would unite its two sides. Steps between layers are
    relative to their median over both layers, as the motor may return to another position.

    References
    ----------
    G. Koepfler, C. Lopez and J. M. Morel, SIAM Journal on Numerical Analysis 31 (1994) 282, for the order of merging;
    the step at the boundary in place of the difference of means, and the cap by the depth, are our own definition.

    Examples
    --------
    >>> import dfxm_dask
    >>> maps = dfxm_dask.moments(dfxm_dask.example_scan(), background=100, noise_cut=5)
    >>> maps = maps.merge(dfxm_dask.segment_layers(maps, scale=1.0))
    >>> table = dfxm_dask.link_segments.gather(maps, scale=1.0, distance=0.5, depth=3.0, least_area=1.0)
    >>> table["region_layers"].values.tolist(), table["boundary_region"].values.tolist()
    ([2, 2], [[1, 2]])

    The kernel alone, on one layer:

    >>> position = np.arange(12.0)
    >>> tilt = np.where(position < 6, 0.0, 0.003) * np.ones((1, 3, 1))
    >>> label = np.where(position < 6, 1, 2) * np.ones((1, 3, 1), np.int32)
    >>> summary = link_segments.kernel(label, {"phi": tilt}, position[:3], position, position[:1])
    >>> summary["pair"].tolist(), summary["sums"][:, 0].tolist()
    ([[0, 1]], [18.0, 18.0])
    """
    pixel = pixel_edges("link_segments", y, x)
    reach = (max(1, round(distance / pixel[0])), max(1, round(distance / pixel[1])))
    label, angles = _within(segment[middle], {a: c[middle] for a, c in com.items()})
    count = int(segment[middle].max(initial=0))
    even = blurred(angles, scale, pixel)
    slope = gradient_size(even, pixel)
    contacts = steps_beside(label, even, reach, pixel)
    errors = None if com_error is None else np.stack([e[middle] for e in com_error.values()])
    below = np.zeros((0, 2), np.int64), np.zeros(0, np.int64), np.zeros((0, len(com)))
    if middle:
        earlier, before = _within(segment[middle - 1], {a: c[middle - 1] for a, c in com.items()})
        below = overlaps(label, earlier, even, blurred(before, scale, pixel))
    return {
        "z": np.array([float(z[middle])]),
        "count": np.array([count]),
        "sums": segment_sums(label, count, angles, errors, y, x),
        "pair": contacts.pair,
        "pairs": np.array([len(contacts.pair)]),
        "faces": contacts.faces,
        "weight": contacts.weight,
        "step": contacts.step,
        "full_step": steps_beside(label, angles, reach, pixel).step,
        "over": below[0],
        "overs": np.array([len(below[0])]),
        "over_pixels": below[1],
        "over_step": below[2],
        "gradient": np.array([np.quantile(slope[label > 0], 0.25) if (label > 0).any() else np.nan]),
        "axes": np.array(list(com)),
        "pixel": np.array(pixel),
        "asked": np.array([np.nan if threshold is None else threshold, distance, depth, least_area]),
    }


def _within(segment: np.ndarray, com: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Segments (y, x), 0 where the centre of mass is unknown, and centres of mass (axis, y, x), NaN outside."""
    angles = known_angles(com, None, None)
    known = (segment > 0) & np.isfinite(angles[0])
    return np.where(known, segment, 0), np.where(known, angles, np.nan)
