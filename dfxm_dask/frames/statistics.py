"""Statistics of the patches of a frame, which the classifier needs to standardise counts; computed during ingest."""

from __future__ import annotations

from functools import cache
from math import ceil
from typing import NamedTuple

import numba
import numpy as np

from dfxm_dask.schema import PATCH, PATCH_X, PATCH_Y, SCAN, Variable

BLOCK = 16  # edge in pixels of the blocks from which the noise is estimated
WIDE = 512  # columns worked on together; their sums stay in the first cache
_DIMS = ("z", SCAN, PATCH_Y, PATCH_X)

PATCH_STATISTICS = (
    Variable("patch_n", _DIMS, "uint16", "1", "number of pixels in the patch"),
    Variable("patch_sum", _DIMS, "uint64", "count", "sum of the counts of the patch"),
    Variable("patch_sum2", _DIMS, "float64", "count2", "sum of the squared counts of the patch"),
    Variable("patch_sum_log", _DIMS, "float64", "1", "sum of ln(max(counts, 1)) over the patch"),
    Variable("patch_sum_log2", _DIMS, "float64", "1", "sum of ln(max(counts, 1)) squared over the patch"),
    Variable("patch_min", _DIMS, "uint32", "count", "smallest count of the patch"),
    Variable("patch_max", _DIMS, "uint32", "count", "largest count of the patch"),
)


class Columns(NamedTuple):
    """Sums and extremes along the columns of a patch: arrays (x,)."""

    total: np.ndarray
    square: np.ndarray
    log: np.ndarray
    log2: np.ndarray
    least: np.ndarray
    most: np.ndarray


@cache
def _log_table() -> np.ndarray:
    """Table of ln(max(I, 1)) for every uint16: a lookup costs less time than a logarithm."""
    return np.log(np.maximum(np.arange(65536), 1)).astype(np.float32)


@numba.njit(nogil=True, cache=True)
def _add_rows(a, b, c, d, weight, table, columns):
    """Add four rows to the sums of their columns. With weight 0 only the first counts, and must fill all four."""
    total, square, log, log2, least, most = columns
    n = a.size
    for x in range(n):
        rest = np.uint32(b[x]) + np.uint32(c[x]) + np.uint32(d[x])
        total[x] += np.uint32(a[x]) + np.uint32(weight) * rest
    for x in range(n):
        p, q, r, s = np.float64(a[x]), np.float64(b[x]), np.float64(c[x]), np.float64(d[x])
        square[x] += p * p + weight * (q * q + (r * r + s * s))
    for x in range(n):
        least[x] = min(least[x], min(min(a[x], b[x]), min(c[x], d[x])))
    for x in range(n):
        most[x] = max(most[x], max(max(a[x], b[x]), max(c[x], d[x])))
    part = np.float32(weight)
    for x in range(n):
        p, q, r, s = table[a[x]], table[b[x]], table[c[x]], table[d[x]]
        log[x] += p + part * (q + (r + s))
        log2[x] += p * p + part * (q * q + (r * r + s * s))


@numba.njit(nogil=True, cache=True)
def _accumulate(frame, table, sums, squares, logs, logs2, low, high):
    """Sum every column of a patch separately, then add the columns in order.

    The loops then vectorise without reordering any sum: the result does not depend on the machine.
    """
    ny, nx = frame.shape
    for first in range(0, nx, WIDE):
        width = min(WIDE, nx - first)
        for i in range(low.shape[0]):
            columns = Columns(
                np.zeros(width, np.uint32),
                np.zeros(width, np.float64),
                np.zeros(width, np.float32),
                np.zeros(width, np.float32),
                np.full(width, 65535, np.uint16),
                np.zeros(width, np.uint16),
            )
            end = min(ny, (i + 1) * PATCH)
            y = i * PATCH
            while y < end:
                whole = y + 4 <= end
                last = 1 if whole else 0
                _add_rows(
                    frame[y, first : first + width],
                    frame[y + last, first : first + width],
                    frame[y + 2 * last, first : first + width],
                    frame[y + 3 * last, first : first + width],
                    last,
                    table,
                    columns,
                )
                y += 4 if whole else 1
            for x in range(width):
                j = (first + x) // PATCH
                sums[i, j] += columns.total[x]
                squares[i, j] += columns.square[x]
                logs[i, j] += columns.log[x]
                logs2[i, j] += columns.log2[x]
                low[i, j] = min(low[i, j], columns.least[x])
                high[i, j] = max(high[i, j], columns.most[x])


def _naive(frame: np.ndarray, masked: np.ndarray | None, patch: tuple[int, int]) -> list[float]:
    """Sums and extremes of one patch of any dtype, without masked pixels."""
    box = tuple(slice(k * PATCH, (k + 1) * PATCH) for k in patch)
    part = (frame[box] if masked is None else frame[box][~masked[box]]).astype(np.float64)
    log = np.log(np.maximum(part, 1))
    ends = (part.min(), part.max()) if part.size else (0.0, 0.0)
    return [part.sum(), (part**2).sum(), log.sum(), (log**2).sum(), *ends]


def masked_pixels(frame: np.ndarray) -> np.ndarray | None:
    """Pixels (y, x) that a frame marks by the largest value of its dtype; None without any."""
    marked = frame == np.iinfo(frame.dtype).max
    return marked if marked.any() else None


@numba.njit(nogil=True, cache=True)
def _differences(frame, result):
    """Half the mean squared difference of neighbours along x in blocks; elementwise sums, so the order is fixed."""
    rows, columns = result.shape
    total = np.empty(columns * BLOCK, np.float32)
    for i in range(rows):
        total[:] = 0
        for y in range(i * BLOCK, (i + 1) * BLOCK):
            row = frame[y, : columns * BLOCK]
            for x in range(columns * BLOCK - 1):
                step = np.float32(row[x + 1]) - np.float32(row[x])
                total[x] += step * step
        for j in range(columns):
            block = np.float64(0)
            for x in range(j * BLOCK, (j + 1) * BLOCK - 1):
                block += total[x]
            result[i, j] = block / (2 * BLOCK * (BLOCK - 1))


def _known_differences(frame: np.ndarray, masked: np.ndarray, blocks: tuple[int, int]) -> np.ndarray:
    """Half the mean squared difference without masked pixels; NaN for a block without two unmasked neighbours."""
    inside = (slice(0, blocks[0] * BLOCK), slice(0, blocks[1] * BLOCK))
    values = np.where(masked, np.nan, frame)[inside].reshape(blocks[0], BLOCK, blocks[1], BLOCK)
    steps = np.diff(values, axis=3) ** 2
    known = np.isfinite(steps).sum(axis=(1, 3))
    with np.errstate(invalid="ignore"):
        return np.asarray(np.nansum(steps, axis=(1, 3)) / (2 * known))


def dark_noise(frame: np.ndarray, masked: np.ndarray | None = None) -> float:
    """Standard deviation of the counts of a voxel without diffracted beam (count).

    In blocks of 16 x 16 pixels, half the mean squared difference of neighbours along x is the variance of the noise,
    plus contributions of real structure and of the fixed pattern of the detector. The result is the root of the lower
    quartile over the blocks: 4 % below the noise for a frame that is dark in a quarter of its area. A frame smaller
    than 16 pixels is one block. Masked pixels (y, x) are left out.

    Examples
    --------
    >>> import numpy as np
    >>> frame = np.random.default_rng(0).normal(100, 5, (256, 256)).round().astype(np.uint16)
    >>> frame[100:200, 50:150] += np.arange(100, dtype=np.uint16) * 30
    >>> bool(abs(dark_noise(frame) - 5) < 0.4)
    True
    """
    blocks = (frame.shape[0] // BLOCK, frame.shape[1] // BLOCK)
    if 0 in blocks:
        steps = np.diff(frame.astype(np.float64) if masked is None else np.where(masked, np.nan, frame), axis=1)
        steps = steps[np.isfinite(steps)]
        return float(np.sqrt((steps**2).mean() / 2)) if steps.size else 0.0
    if masked is not None:
        known = _known_differences(frame, masked, blocks)
        known = known[np.isfinite(known)]
        return float(np.sqrt(np.quantile(known, 0.25))) if known.size else 0.0
    result = np.empty(blocks, np.float64)
    _differences(frame, result)
    return float(np.sqrt(np.quantile(result, 0.25)))


def _of_patches(mask: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Number of pixels of a mask in each patch."""
    places, count = np.unique(np.argwhere(mask) // PATCH, axis=0, return_counts=True)
    found = np.zeros(shape, np.int64)
    found[tuple(places.T)] = count
    return found


def patch_statistics(frame: np.ndarray, masked: np.ndarray | None = None) -> dict[str, np.ndarray]:
    """Number, sums and extremes of the counts in 64 x 64 patches of a frame; patches at its far edges may be smaller.

    Parameters
    ----------
    frame : (y, x) uint16, uint32 or int32, count
    masked : (y, x) bool, optional
        Pixels to leave out.

    Returns
    -------
    dict of str to (patch_y, patch_x) arrays
        As declared in ``PATCH_STATISTICS``. Logarithms are natural, of max(counts, 1); for uint16 counts their sums are
        float32 along a column of a patch and float64 over columns (relative error below 1e-5).

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
            sums[patch], squares[patch], logs[patch], logs2[patch], low[patch], high[patch] = _naive(
                frame, masked, patch
            )
    rows = np.minimum(PATCH, ny - PATCH * np.arange(shape[0]))
    columns = np.minimum(PATCH, nx - PATCH * np.arange(shape[1]))
    pixels = np.outer(rows, columns)
    if masked is not None:
        pixels = pixels - _of_patches(masked, shape)
        for i, j in zip(*np.nonzero(_of_patches(masked, shape)), strict=True) if frame.dtype == np.uint16 else ():
            place = int(i), int(j)
            sums[place], squares[place], logs[place], logs2[place], low[place], high[place] = _naive(
                frame, masked, place
            )
    return {
        "patch_n": pixels.astype(np.uint16),
        "patch_sum": sums.astype(np.uint64),
        "patch_sum2": squares,
        "patch_sum_log": logs,
        "patch_sum_log2": logs2,
        "patch_min": low,
        "patch_max": high,
    }
