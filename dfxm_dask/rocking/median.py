"""Median of the rocking curve of every pixel, and the span between its 10 % and 90 % quantiles."""

from __future__ import annotations

import numpy as np
from numba import njit

from dfxm_dask.memory import frame_lines
from dfxm_dask.reduction import reduction
from dfxm_dask.rocking.moments import LitAbove, NoiseCut, cut_in_counts
from dfxm_dask.schema import (
    AXES,
    BACKGROUND,
    COUNTS,
    FRAME_SCALE,
    HOT,
    NOISE,
    SPACE,
    PlainBackground,
    Variable,
    plain_background,
)

MEDIAN = Variable("median_{axis}", SPACE, "float64", "{units}", "median of the rocking curve along {axis}")
SPAN = Variable(
    "span_{axis}", SPACE, "float32", "{units}", "distance between the 10 % and 90 % quantiles of the curve along {axis}"
)
ORDERS = np.array([0.1, 0.5, 0.9])
STRIP = 64  # pixels along x whose curves are kept together


@njit(nogil=True, cache=True)
def _quantiles(curve, edges, orders, found):
    """Quantiles of a curve whose weights are spread evenly over the cells of the positions."""
    whole = curve.sum()
    k, below = 0, 0.0
    for order in range(orders.size):
        wanted = orders[order] * whole
        while k < curve.size - 1 and below + curve[k] < wanted:
            below += curve[k]
            k += 1
        part = (wanted - below) / curve[k] if curve[k] > 0 else 0.0
        found[order] = edges[k] + part * (edges[k + 1] - edges[k])


@njit(nogil=True, cache=True)
def _fill(lines, background, hot, cuts, least, place, edges, lengths, orders, result):
    """Fills the quantiles (axis, order, y, x) of lit pixels."""
    axes, rows, columns = lengths.size, background.shape[0], background.shape[1]
    curves = np.empty((axes, STRIP, lengths.max()))
    most, found = np.empty(STRIP), np.empty(orders.size)
    for y in range(rows):
        for first in range(0, columns, STRIP):
            width = min(STRIP, columns - first)
            curves[:], most[:] = 0, -np.inf
            for f in range(lines.starts.size):
                start = lines.starts[f] + y * lines.row_step + first
                for n in range(width):
                    above = np.float64(lines.line[start + n]) - background[y, first + n]
                    if not above <= cuts[f]:  # in this order NaN stays NaN
                        most[n] = max(most[n], above)
                        for a in range(axes):
                            curves[a, n, place[a, f]] += above
            for n in range(width):
                if hot[y, first + n] or not most[n] > least:
                    continue
                for a in range(axes):
                    if curves[a, n].sum() > 0:
                        _quantiles(curves[a, n, : lengths[a]], edges[a], orders, found)
                        result[a, :, y, first + n] = found


def _edges(positions: np.ndarray) -> np.ndarray:
    """Borders of the cells of positions: the middles between neighbours."""
    if positions.size == 1:
        return np.array([positions[0], positions[0]])
    middles = (positions[1:] + positions[:-1]) / 2
    return np.concatenate([[2 * positions[0] - middles[0]], middles, [2 * positions[-1] - middles[-1]]])


@reduction(
    reads=(COUNTS, AXES),
    may_read=(BACKGROUND, HOT, NOISE, FRAME_SCALE),
    writes=(MEDIAN, SPAN),
    over=("scan",),
)
def median_centres(
    counts: np.ndarray,
    scan: dict[str, np.ndarray],
    background_map: np.ndarray | None = None,
    hot: np.ndarray | None = None,
    noise: np.ndarray | None = None,
    frame_scale: np.ndarray | None = None,
    *,
    background: PlainBackground = None,
    lit_above: LitAbove = 0.0,
    noise_cut: NoiseCut = 0.0,
) -> dict[str, np.ndarray]:
    """Median of the rocking curve along every scan axis, and its span from the 10 % to the 90 % quantile.

    The median divides the counts above background into halves. A weak second peak or a long tail moves it less than the
    centre of mass, and changes the span less than the standard deviation.

    Parameters
    ----------
    background_map : array, optional
        See :func:`dfxm_dask.frames.background`.
    hot : array, optional
        Marked pixels are left out.
    noise : array, optional
        Ingest estimates the noise of every layer.
    frame_scale : array, optional
        Multiplies the cut of each frame.
    background : float or "none", optional
        This parameter or a background map is required.

    Raises
    ------
    InputError
        No background at all, both a map and a number, or a cut without a known noise.

    Notes
    -----
    The weights are those of :func:`moments`, summed over the other axes. Each is spread evenly over the cell of its
    position, up to the middles between positions; the quantiles are those of this histogram. For a Gaussian fully
    covered by the scan and without a cut, the span is 2.563 standard deviations. Unlit and hot pixels are NaN, as are
    pixels with NaN in counts or background. No error is stated.

    Our own definition.

    Examples
    --------
    >>> import dfxm_dask
    >>> scan = dfxm_dask.example_scan()
    >>> maps = dfxm_dask.median_centres(scan, background=100, noise_cut=5)
    >>> maps["median_phi"].isel(z=0, y=0)[[0, -1]].values.round(2).tolist()
    [0.02, 0.04]

    The kernel alone, on one layer:

    >>> counts = np.array([[[0, 10, 10, 0, 0]]], np.uint16)
    >>> maps = median_centres.kernel(counts, {"phi": np.arange(5.0)}, background=0)
    >>> maps["median_phi"].item(), round(maps["span_phi"].item(), 3)
    (1.5, 1.6)
    """
    shape = counts.shape[:2]
    level = plain_background("median_centres", background_map, background, shape)
    cut = cut_in_counts("median_centres", noise_cut, noise)
    result = np.full((len(scan), ORDERS.size, *shape), np.nan)
    if counts.size:
        lengths = np.array([values.size for values in scan.values()])
        place = np.indices(tuple(lengths)).reshape(len(scan), -1)
        cuts = cut * (np.ones(place.shape[1]) if frame_scale is None else np.asarray(frame_scale, float).ravel())
        edges = np.zeros((len(scan), lengths.max() + 1))
        for a, values in enumerate(scan.values()):
            edges[a, : values.size + 1] = _edges(np.asarray(values, float))
        left_out = np.zeros(shape, bool) if hot is None else np.require(hot, bool, ["C", "W"])
        least = max(float(lit_above), cut) if frame_scale is None else float(lit_above)
        _fill(frame_lines(counts), level, left_out, cuts, least, place, edges, lengths, ORDERS, result)
    made: dict[str, np.ndarray] = {}
    for a, name in enumerate(scan):
        made[f"median_{name}"] = result[a, 1]
        made[f"span_{name}"] = (result[a, 2] - result[a, 0]).astype(np.float32)
    return made
