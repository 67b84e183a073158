"""Statistics per patch of a frame: what the normalisation of a classifier needs, gathered while the frame is near."""

from __future__ import annotations

from functools import cache
from math import ceil

import numba
import numpy as np

from dfxm_dask.schema import PATCH, SCAN, Variable

_DIMS = ("z", SCAN, "patch_y", "patch_x")

PATCH_STATISTICS = (
    Variable("patch_n", _DIMS, "uint16", "1", "pixels in the patch"),
    Variable("patch_sum", _DIMS, "uint64", "count", "sum of counts"),
    Variable("patch_sum2", _DIMS, "float64", "count2", "sum of squared counts"),
    Variable("patch_sum_log", _DIMS, "float64", "1", "sum of ln(max(counts, 1))"),
    Variable("patch_sum_log2", _DIMS, "float64", "1", "sum of ln(max(counts, 1)) squared"),
    Variable("patch_min", _DIMS, "uint32", "count", "least counts"),
    Variable("patch_max", _DIMS, "uint32", "count", "largest counts"),
)


@cache
def _log_table() -> np.ndarray:
    """ln(max(I, 1)) for every uint16: a lookup costs less than a logarithm."""
    return np.log(np.maximum(np.arange(65536), 1)).astype(np.float32)


@numba.njit(nogil=True, cache=True, fastmath={"contract", "reassoc", "nsz"})
def _run(values, logarithms, n, i, j, sums, squares, logs, logs2, low, high):  # type: ignore[no-untyped-def]
    """Add n pixels of one row to patch (i, j). float32 holds the sum of 256 uint16 exactly, float64 their squares."""
    total, log, log2 = np.float32(0), np.float32(0), np.float32(0)
    square = 0.0
    least, most = values[0], values[0]
    for x in range(n):
        total += np.float32(values[x])
    for x in range(n):
        v = np.float64(values[x])
        square += v * v
    for x in range(n):
        least, most = min(least, values[x]), max(most, values[x])
    for x in range(n):
        log += logarithms[x]
        log2 += logarithms[x] * logarithms[x]
    sums[i, j] += np.float64(total)
    squares[i, j] += square
    logs[i, j] += np.float64(log)
    logs2[i, j] += np.float64(log2)
    low[i, j] = min(low[i, j], least)
    high[i, j] = max(high[i, j], most)


@numba.njit(nogil=True, cache=True, fastmath={"contract", "reassoc", "nsz"})
def _accumulate(frame, table, sums, squares, logs, logs2, low, high):  # type: ignore[no-untyped-def]
    ny, nx = frame.shape
    whole = nx // PATCH
    logarithms = np.empty(nx, np.float32)
    for y in range(ny):
        i, row = y // PATCH, frame[y]
        for x in range(nx):
            logarithms[x] = table[row[x]]
        for j in range(whole):  # a fixed number of pixels: the compiler unrolls and vectorises
            _run(row[j * PATCH : (j + 1) * PATCH], logarithms[j * PATCH : (j + 1) * PATCH], PATCH, i, j,
                 sums, squares, logs, logs2, low, high)  # fmt: skip
        if nx > whole * PATCH:
            _run(row[whole * PATCH :], logarithms[whole * PATCH :], nx - whole * PATCH, i, whole,
                 sums, squares, logs, logs2, low, high)  # fmt: skip


def _naive(frame: np.ndarray, patch: tuple[int, int]) -> list[float]:
    """The same for one patch of any unsigned dtype."""
    i, j = patch
    part = frame[i * PATCH : (i + 1) * PATCH, j * PATCH : (j + 1) * PATCH].astype(np.float64)
    log = np.log(np.maximum(part, 1))
    return [part.sum(), (part**2).sum(), log.sum(), (log**2).sum(), part.min(), part.max()]


def patch_statistics(frame: np.ndarray) -> dict[str, np.ndarray]:
    """Number, sums and extremes of the counts in 64 x 64 patches of a frame; the ragged rest has patches of its own.

    Parameters
    ----------
    frame : (y, x) uint16 or uint32, count

    Returns
    -------
    dict of str to (patch_y, patch_x) arrays
        As declared in ``PATCH_STATISTICS``. Logarithms are natural, of max(counts, 1); of uint16 counts they are summed
        in float32 along a row of a patch and in float64 over rows (relative error below 1e-5).

    Examples
    --------
    >>> import numpy as np
    >>> statistics = patch_statistics(np.full((70, 64), 3, np.uint16))
    >>> statistics["patch_n"].tolist(), statistics["patch_sum"].tolist()
    ([[4096], [384]], [[12288], [1152]])
    """
    ny, nx = frame.shape
    shape = (ceil(ny / PATCH), ceil(nx / PATCH))
    sums, squares, logs, logs2 = np.zeros((4, *shape))
    low, high = np.full(shape, np.iinfo(np.uint32).max, np.uint32), np.zeros(shape, np.uint32)
    if frame.dtype == np.uint16:
        _accumulate(frame, _log_table(), sums, squares, logs, logs2, low, high)
    else:
        for patch in np.ndindex(shape):
            sums[patch], squares[patch], logs[patch], logs2[patch], low[patch], high[patch] = _naive(frame, patch)
    rows = np.minimum(PATCH, ny - PATCH * np.arange(shape[0]))
    columns = np.minimum(PATCH, nx - PATCH * np.arange(shape[1]))
    return {
        "patch_n": np.outer(rows, columns).astype(np.uint16),
        "patch_sum": sums.astype(np.uint64),
        "patch_sum2": squares,
        "patch_sum_log": logs,
        "patch_sum_log2": logs2,
        "patch_min": low,
        "patch_max": high,
    }
