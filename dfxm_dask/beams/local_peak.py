"""Local peak and half width of the rocking curve: the reference of weak and strong beam at each pixel.

The same curves show whether the scan reaches the weak beam at all.
"""

from __future__ import annotations

from math import prod
from typing import Annotated

import numpy as np
from numba import njit
from pydantic import Field

from dfxm_dask.beams.blocks import (
    block_curves,
    block_edges,
    block_means,
    known_background,
    pixel_length,
    reach_of,
    to_pixels,
)
from dfxm_dask.beams.prior import (
    check_counts,
    frame_places,
    light_mask,
    local_median,
    peak_and_width,
    rocking_axis,
    without_gaps,
)
from dfxm_dask.beams.weak_beam_verdict import evidence
from dfxm_dask.reduction import reduction
from dfxm_dask.schema import (
    AXES,
    BACKGROUND,
    COUNTS,
    HAS_WEAK_BEAM,
    LIT,
    NOISE,
    PEAK_LOCAL,
    WIDTH_LOCAL,
    PlainBackground,
    RockingAxis,
    Variable,
    X,
    Y,
    plain_background,
)

EVIDENCE = (
    HAS_WEAK_BEAM,
    Variable("weak_of_lit", ("z",), "float32", "1", "share of lit voxels in the weak-beam part of the rocking curve"),
    Variable("tail", ("z",), "float32", "1", "tail height relative to the peak of the median rocking curve"),
    Variable(
        "scatter",
        ("z",),
        "float32",
        "1",
        "lower quartile of the distance of local peaks from surrounding peaks, in half widths",
    ),
    Variable("cut_off", ("z",), "float32", "1", "share of lit pixels with the maximum at an end of the scan"),
    Variable("width_steps", ("z",), "float32", "1", "median local half width of the rocking curve, in scan steps"),
)


@njit(nogil=True, cache=True)
def _hide(lit, high, wide, peak, width, seen):
    """Mark pixels that are lit and have both a peak and a width; elsewhere set both to NaN."""
    rows, columns = seen.shape
    nothing, block = np.float32(np.nan), np.empty(columns, np.bool_)
    for y in range(rows):
        if y % high == 0:
            for x in range(columns):
                block[x] = lit[y // high, x // wide]
        for x in range(columns):
            p, w = peak[y, x], width[y, x]
            here = block[x] & (p - p == 0) & (w - w == 0)
            seen[y, x] = here
            peak[y, x] = p if here else nothing
            width[y, x] = w if here else nothing


@reduction(
    reads=(COUNTS, AXES, Y, X),
    may_read=(BACKGROUND, NOISE),
    writes=(LIT, PEAK_LOCAL, WIDTH_LOCAL, *EVIDENCE),
    over=("scan", "y", "x"),
    min_positions=3,
    group="beams",
)
def local_peak(
    counts: np.ndarray,
    scan: dict[str, np.ndarray],
    y: np.ndarray,
    x: np.ndarray,
    background_map: np.ndarray | None = None,
    noise: np.ndarray | None = None,
    *,
    axis: RockingAxis = None,
    background: PlainBackground = None,
    window: Annotated[
        float,
        Field(gt=0, description="window of the running medians of peak and width", json_schema_extra={"unit": "um"}),
    ] = 6.0,
    lit_window: Annotated[
        float,
        Field(
            gt=0,
            description="window of the running mean that decides whether a pixel is lit",
            json_schema_extra={"unit": "um"},
        ),
    ] = 1.5,
) -> dict[str, np.ndarray]:
    """Peak position and half width of the local rocking curve, lit pixels, and whether the layer has a weak beam.

    Counts above background are averaged over blocks of about 0.25 um. Each block has its own rocking curve, with its
    own peak and half width. Running medians over ``window`` keep the steps between subgrains and remove the cores of
    dislocations; the result is interpolated to pixels. A pixel is lit if the sum of its counts over the scan shows that
    the sample diffracts there. The layer has a weak beam if its curves reach far enough into dark tails and are locally
    uniform.

    Parameters
    ----------
    counts : array (y, x, scan axes), uint16 or float32, count
        All frames must be on one scale (step ``normalise`` if attenuators were moved).
    noise : array (), float32, count, optional
        If it is given, a scan without any diffraction has no lit pixels.
    axis : str, optional
        If phi is not scanned, the first axis with at least three positions.
    background : float or "none", optional
        Either a background map or this parameter is required.
    lit_window : float, um
        Window of the counts summed over the scan. Our choice: with the 6 um of the medians, the mask extended 1.5 um
        beyond straight edges. Gaps inside the crystal, where fringes are dark, are filled from the mask of that wider
        window, reduced by those 1.5 um.

    Returns
    -------
    dict
        NaN where unlit. ``has_weak_beam`` follows from the other numbers of the layer, which are NaN if no pixel is lit
        (:func:`dfxm_dask.beams.weak_beam_verdict.evidence`).

    Raises
    ------
    InputError
        No background, an axis that is not in the scan, fewer than three positions, pixels of unequal size.

    Notes
    -----
    Peak and half width of a block: :func:`dfxm_dask.beams.prior.peak_and_width`. The medians are computed every 0.5 um
    and interpolated to pixels. A pixel is lit if::

        smoothed sum over the scan > 0.25 · its 90th percentile over the layer
        smoothed sum over the scan > 6 · its standard deviation     (where ``noise`` is known)

    A scan of several axes is summed over all axes but one: peak and half width are those of the projected curve.

    Our own definition.

    Examples
    --------
    >>> import dfxm_dask
    >>> scan = dfxm_dask.example_scan()
    >>> peaks = dfxm_dask.local_peak(scan, background=100).isel(z=0, y=10).compute()
    >>> peaks["peak_local"][[2, -2]].values.round(3).tolist(), bool(peaks["has_weak_beam"])
    ([0.024, 0.036], True)

    The kernel alone, on one layer:

    >>> phi = 0.002 * np.arange(31)
    >>> curve = np.where(np.abs(phi - 0.03) < 0.0075, 1000, 100).astype(np.uint16)
    >>> position = 0.25 * np.arange(24.0)
    >>> maps = local_peak.kernel(np.tile(curve, (24, 24, 1)), {"phi": phi}, position, position, background=100)
    >>> maps["lit"].all().item(), round(maps["peak_local"][9, 9].item(), 4), round(maps["width_local"][9, 9].item(), 4)
    (True, 0.03, 0.0048)
    """
    shape = (y.size, x.size)
    check_counts("local_peak", counts, scan, shape)
    level = known_background(counts, plain_background("local_peak", background_map, background, shape))
    rocking = rocking_axis("local_peak", scan, axis)
    middle = (scan[rocking].min() + scan[rocking].max()) / 2  # float32 would round large angles
    positions = scan[rocking] - middle
    edges = block_edges(y, x, "local_peak")
    pixel = pixel_length("y", "local_peak", y), pixel_length("x", "local_peak", x)
    curves = block_curves(counts, level, edges, frame_places(scan, rocking), positions.size)
    sigma = 0.0
    if noise is not None:
        frames = prod(p.size for p in scan.values())
        sigma = float(noise) * np.sqrt(frames / prod(edges))
    total, reach = curves.sum(axis=0, dtype=np.float64), reach_of(window, edges, pixel)
    lit = light_mask(total, reach_of(lit_window, edges, pixel), sigma)
    lit = without_gaps(lit, light_mask(total, reach, sigma, dark_beyond=True), reach) & np.isfinite(total)
    peak, width = peak_and_width(curves, positions, lit)
    twice = edges[0] * 2, edges[1] * 2
    maps = [to_pixels(local_median(m, reach), twice, shape) for m in (peak, width)]
    visible = np.empty(shape, bool)
    _hide(lit, *edges, *maps, visible)
    around = block_means(maps[0], edges), block_means(maps[1], edges)
    numbers = evidence(curves, positions, np.isfinite(around[0]), *around)
    verdict = {v.name: np.asarray(numbers[v.name], v.dtype) for v in EVIDENCE}
    return {"lit": visible, "peak_local": maps[0] + np.float64(middle), "width_local": maps[1], **verdict}
