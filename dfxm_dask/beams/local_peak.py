"""Where each place of the sample has its peak, and how wide it is: the local reference of weak and strong beam.

And whether there is any use in it: what the same curves say of a weak beam at all.
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
    Variable("tail", ("z",), "float32", "1", "tail height of the median rocking curve, as part of the peak"),
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
    """Fills where pixels are lit and have both a peak and a width; elsewhere both become NaN."""
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
        float, Field(gt=0, description="window of the medians of peak and width", json_schema_extra={"unit": "um"})
    ] = 6.0,
    lit_window: Annotated[
        float, Field(gt=0, description="window of the mean that tells lit from unlit", json_schema_extra={"unit": "um"})
    ] = 1.5,
) -> dict[str, np.ndarray]:
    """Local peak and half width of the rocking curve, where the sample diffracts, and whether there is a weak beam.

    Parameters
    ----------
    counts : array
        All frames on one scale (step ``normalise`` where attenuators were moved).
    noise : array, optional
        With it a scan without light is all unlit.
    axis : str, optional
        Without phi, the first axis of at least three positions.
    background : float or "none", optional
        A map or this parameter must be given.
    lit_window : float, um
        Of the integrated counts. Our choice: with the 6 um of the medians the mask reached 1.5 um beyond straight
        edges. Gaps in the crystal, where fringes are dark, are filled by the mask of that wider window less those 1.5
        um.

    Returns
    -------
    dict
        NaN where unlit. ``has_weak_beam`` follows from the other numbers of the layer
        (:func:`dfxm_dask.beams.weak_beam_verdict.evidence`), which are NaN where nothing is lit.

    Raises
    ------
    InputError
        No background, an axis that the scan has not, fewer than three positions, pixels of unequal size.

    Notes
    -----
    Counts above background are averaged over blocks of about 0.25 um; each block has its own peak and half width
    (:func:`dfxm_dask.beams.prior.peak_and_width`). The medians over 6 um among lit blocks keep the steps between
    subgrains and take out the cores of dislocations. They are taken every 0.5 um, and interpolated to pixels.
    Lit is where the smoothed sum over the scan exceeds 0.25 × its 90th percentile over the layer, and 6 standard
    deviations of the noise where that is known.

    A scan of several axes is summed over all but one: peak and width then are those of the projected curve.

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
    chosen = rocking_axis("local_peak", scan, axis)
    middle = (scan[chosen].min() + scan[chosen].max()) / 2  # float32 would round large angles
    positions = scan[chosen] - middle
    edges = block_edges(y, x, "local_peak")
    pixel = pixel_length("y", "local_peak", y), pixel_length("x", "local_peak", x)
    curves = block_curves(counts, level, edges, frame_places(scan, chosen), positions.size)
    one = 0.0
    if noise is not None:
        frames = prod(p.size for p in scan.values())
        one = float(noise) * np.sqrt(frames / prod(edges))
    total, reach = curves.sum(axis=0, dtype=np.float64), reach_of(window, edges, pixel)
    lit = light_mask(total, reach_of(lit_window, edges, pixel), one)
    lit = without_gaps(lit, light_mask(total, reach, one, dark_beyond=True), reach) & np.isfinite(total)
    peak, width = peak_and_width(curves, positions, lit)
    twice = edges[0] * 2, edges[1] * 2
    maps = [to_pixels(local_median(m, reach), twice, shape) for m in (peak, width)]
    seen = np.empty(shape, bool)
    _hide(lit, *edges, *maps, seen)
    around = block_means(maps[0], edges), block_means(maps[1], edges)
    found = evidence(curves, positions, np.isfinite(around[0]), *around)
    told = {v.name: np.asarray(found[v.name], v.dtype) for v in EVIDENCE}
    return {"lit": seen, "peak_local": maps[0] + np.float64(middle), "width_local": maps[1], **told}
