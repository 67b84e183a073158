"""Rocking curve of the whole sample."""

from __future__ import annotations

import numpy as np
from numba import njit

from dfxm_dask.memory import frame_lines
from dfxm_dask.reduction import reduction
from dfxm_dask.schema import AXES, COUNTS, SCAN, Variable

INTEGRATED_CURVE = Variable("integrated_curve", (SCAN,), "float64", "count", "mean counts of all pixels at each frame")


@njit(nogil=True, cache=True)
def _sum_integers(line, starts, row_step, rows, columns, result):
    """Exact sums of whole counts, frame by frame."""
    for frame in range(starts.size):
        total = np.int64(0)
        for y in range(rows):
            start = starts[frame] + y * row_step
            for x in range(columns):
                total += np.int64(line[np.uintp(start) + np.uintp(x)])
        result[frame] = total


# Any order of additions gives the same sum here (see Notes), so the compiler may choose the fastest.
@njit(nogil=True, cache=True, fastmath={"reassoc"})
def _sum_floats(line, starts, row_step, rows, columns, result, pixels):
    """Sums of counts rounded to 1/1024, frame by frame, and the number of finite pixels."""
    for frame in range(starts.size):
        total, known = 0.0, 0
        for y in range(rows):
            start = starts[frame] + y * row_step
            for x in range(columns):
                value = np.rint(np.float64(line[np.uintp(start) + np.uintp(x)]) * 1024.0)
                total += value if value == value else 0.0
                known += 1 if value == value else 0
        result[frame], pixels[frame] = total / 1024.0, known


def _add(first: dict[str, np.ndarray], second: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name: first[name] + second[name] for name in first}


def _mean(summary: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    total, pixels = summary["curve_sum"], summary["n"]
    return {"integrated_curve": np.divide(total, pixels, out=np.full_like(total, np.nan), where=pixels > 0)}


@reduction(
    reads=(COUNTS, AXES), writes=(INTEGRATED_CURVE,), over=(SCAN,), combine=_add, finish=_mean, positions="common"
)
def integrated_curve(counts: np.ndarray, scan: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Rocking curve of the whole sample: mean counts over all pixels and layers at each scan position.

    The curve shows whether the scan covers the reflection. The background is not subtracted. Counts that are NaN, such
    as those of masked pixels, are left out of the mean.

    Returns
    -------
    dict
        Summary of a part of the scan: ``curve_sum`` (scan axes), float64, count, and ``n`` (scan axes), float64, the
        number of pixels in the sum. Summaries are added; the result is ``integrated_curve`` (scan axes), float64,
        count.

    Notes
    -----
    For the n finite counts I of all pixels and layers at a scan position::

        curve = (1 / n) Σ I

    The result does not depend on the division of the scan into blocks: sums of integers are exact (up to 9e15 counts in
    a frame); floats are first rounded to 1/1024 count, which makes their sum exact in float64 up to 9e12 counts.

    Our own definition.

    Examples
    --------
    >>> import dfxm_dask
    >>> scan = dfxm_dask.example_scan()
    >>> curve = dfxm_dask.integrated_curve(scan)["integrated_curve"]
    >>> curve.dims, round(float(curve.idxmax()), 3)
    (('phi',), 0.036)

    The kernel alone, on one layer:

    >>> counts = np.array([[[100, 300], [200, 500]]], np.uint16)
    >>> summary = integrated_curve.kernel(counts, {"phi": np.arange(2.0)})
    >>> integrated_curve.finish(summary)["integrated_curve"].tolist()
    [150.0, 400.0]
    """
    rows, columns, *lengths = counts.shape
    result = np.zeros(int(np.prod(lengths)))
    pixels = np.full(result.shape, float(rows * columns))
    if counts.size:
        line, starts, row_step = frame_lines(counts)
        if line.dtype.kind == "f":
            _sum_floats(line, starts, row_step, rows, columns, result, pixels)
        else:
            _sum_integers(line, starts, row_step, rows, columns, result)
    return {"curve_sum": result.reshape(lengths), "n": pixels.reshape(lengths)}
