"""Statistics per patch of a frame: what the normalisation of a classifier needs, gathered while the frame is near."""

from __future__ import annotations

from functools import cache
from math import ceil

import numba
import numpy as np

from dfxm_dask.schema import PATCH, SCAN, Variable

WIDE = 512  # columns worked on together; their sums stay in the first cache
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


@numba.njit(nogil=True, cache=True)
def _accumulate(frame, table, sums, squares, logs, logs2, low, high):  # type: ignore[no-untyped-def]
    """Every column of a patch gathers for itself, then the columns are added in order.

    That way the loops vectorise although no sum is reordered: the result does not depend on the machine.
    """
    ny, nx = frame.shape
    for first in range(0, nx, WIDE):
        width = min(WIDE, nx - first)
        for i in range(low.shape[0]):
            total, square = np.zeros(WIDE, np.uint32), np.zeros(WIDE, np.float64)
            log, log2 = np.zeros(WIDE, np.float32), np.zeros(WIDE, np.float32)
            least, most = np.full(WIDE, 65535, np.uint16), np.zeros(WIDE, np.uint16)
            logarithm = np.empty(WIDE, np.float32)
            for y in range(i * PATCH, min(ny, (i + 1) * PATCH)):
                row = frame[y, first : first + width]
                for x in range(width):
                    logarithm[x] = table[row[x]]
                for x in range(width):
                    total[x] += row[x]
                for x in range(width):
                    value = np.float64(row[x])
                    square[x] += value * value
                for x in range(width):
                    log[x] += logarithm[x]
                    log2[x] += logarithm[x] * logarithm[x]
                for x in range(width):
                    least[x] = min(least[x], row[x])
                for x in range(width):
                    most[x] = max(most[x], row[x])
            for x in range(width):
                j = (first + x) // PATCH
                sums[i, j] += total[x]
                squares[i, j] += square[x]
                logs[i, j] += log[x]
                logs2[i, j] += log2[x]
                low[i, j] = min(low[i, j], least[x])
                high[i, j] = max(high[i, j], most[x])


def _naive(frame: np.ndarray, patch: tuple[int, int]) -> list[float]:
    """The same for one patch of any unsigned dtype."""
    i, j = patch
    part = frame[i * PATCH : (i + 1) * PATCH, j * PATCH : (j + 1) * PATCH].astype(np.float64)
    log = np.log(np.maximum(part, 1))
    return [part.sum(), (part**2).sum(), log.sum(), (log**2).sum(), part.min(), part.max()]


def dark_noise(statistics: dict[str, np.ndarray]) -> np.float32:
    """Noise of a voxel where nothing diffracts, from the statistics of one layer's patches (count).

    The low decile, over all frames and patches of the layer, of the standard deviation of counts within a patch:
    diffraction only adds to that, so dark patches and frames decide. Differences between pixels of the detector add
    too, so it is an upper estimate. Patches cut by the frame's edge to less than a quarter are left out.

    Examples
    --------
    >>> import numpy as np
    >>> frames = np.random.default_rng(0).normal(100, 5, (10, 64, 64)).round().astype(np.uint16)
    >>> rows = [patch_statistics(frame) for frame in frames]
    >>> layer = {name: np.stack([row[name] for row in rows]) for name in rows[0]}
    >>> bool(abs(dark_noise(layer) - 5) < 0.3)
    True
    """
    n = statistics["patch_n"].astype(float)
    n = np.where(n >= min(PATCH**2 / 4, n.max()), n, np.nan)
    variance = statistics["patch_sum2"] / n - (statistics["patch_sum"] / n) ** 2
    return np.float32(np.sqrt(max(0.0, float(np.nanquantile(variance, 0.1)))))


def patch_statistics(frame: np.ndarray) -> dict[str, np.ndarray]:
    """Number, sums and extremes of the counts in 64 x 64 patches of a frame; the ragged rest has patches of its own.

    Parameters
    ----------
    frame : (y, x) uint16 or uint32, count

    Returns
    -------
    dict of str to (patch_y, patch_x) arrays
        As declared in ``PATCH_STATISTICS``. Logarithms are natural, of max(counts, 1); of uint16 counts they are summed
        in float32 along a column of a patch and in float64 over columns (relative error below 1e-5).

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
