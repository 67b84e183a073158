"""Blocks of about a quarter of a um: a coarse view of a layer where single pixels are finer than needed.

A block is a rectangle of whole pixels, nearly square in length, since the effective pixel differs along x and y.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from dfxm_dask.memory import frame_lines
from dfxm_dask.schema import pixel_length

BLOCK = 0.25  # um: less than the width of a dislocation's image, a dozen pixels of 0.04 × 0.12 um (our choice)
FULL, SPREAD = np.uint64(0xFFFFFFFFFFFFFFFF), np.uint64(0x03F79D71B4CB0A89)  # a de Bruijn sequence of 6 bits
BIT_OF = np.zeros(64, np.uint8)
BIT_OF[[int(SPREAD) * (1 << k) % 2**64 >> 58 for k in range(64)]] = np.arange(64)  # number of the bit of a power of two


def block_edges(y: np.ndarray, x: np.ndarray, asked: str, length: float = BLOCK) -> tuple[int, int]:
    """Rows and columns of a block, in pixels.

    Parameters
    ----------
    y, x : array (y,) and (x,), float64, um
        Positions of the pixels, equally spaced.
    asked : str
        Name of the caller, for the text of an error.
    length : float, um
        Approximate edge of a block.

    Raises
    ------
    InputError
        Pixels of unequal size.

    Examples
    --------
    >>> block_edges(0.04 * np.arange(9), 0.12 * np.arange(9), "blocks")
    (6, 2)
    """
    high, wide = (max(1, round(length / pixel_length(n, asked, p))) for n, p in (("y", y), ("x", x)))
    return high, wide


@njit(nogil=True, cache=True)
def _add_above(line, start, level, total):
    """Add a row of counts above background; NaN adds nothing."""
    for n in range(total.size):
        above = np.float32(line[np.uintp(start) + np.uintp(n)]) - level[n]
        total[n] += above if above == above else np.float32(0)


@njit(nogil=True, cache=True)
def _bin(line, starts, row_step, index, level, high, wide, curves):
    """Add counts above background to the curves of their blocks."""
    rows, columns = level.shape
    total = np.empty(columns, np.float32)
    for i in range(curves.shape[1]):  # rows of blocks in the outer loop: their background stays in the cache
        for f in range(starts.size):
            total[:] = 0
            for y in range(i * high, min(rows, (i + 1) * high)):
                _add_above(line, starts[f] + y * row_step, level[y], total)
            out = curves[index[f], i]
            for part in range(wide):  # strided loops outside, so that the inner one vectorises
                for j in range(columns // wide):
                    out[j] += total[np.uintp(j * wide + part)]
            for x in range(columns // wide * wide, columns):
                out[columns // wide] += total[x]


def known_background(counts: np.ndarray, level: np.ndarray) -> np.ndarray:
    """Background (y, x), set to NaN where a pixel lacks a count in a frame that has others, to exclude that pixel."""
    if counts.dtype.kind != "f":
        return level
    finite = np.ones(level.shape, bool)
    for frame in np.ndindex(*counts.shape[2:]):
        here = np.isfinite(counts[(..., *frame)])
        finite &= here | ~here.any()
    return level if finite.all() else np.where(finite, level, np.float32(np.nan))


def block_sums(image: np.ndarray, edges: tuple[int, int]) -> np.ndarray:
    """Sum of an image over each block; the last blocks may be smaller.

    Returns
    -------
    array (block_y, block_x), float64

    Examples
    --------
    >>> block_sums(np.ones((2, 5)), (2, 2)).tolist()
    [[4.0, 4.0, 2.0]]
    """
    if image.size == 0:
        return np.zeros(tuple(-(-n // e) for n, e in zip(image.shape, edges, strict=True)))
    rows = np.add.reduceat(image, np.arange(0, image.shape[0], edges[0]), axis=0, dtype=np.float64)
    return np.asarray(np.add.reduceat(rows, np.arange(0, image.shape[1], edges[1]), axis=1))


def block_curves(
    counts: np.ndarray, level: np.ndarray, edges: tuple[int, int], index: np.ndarray, length: int
) -> np.ndarray:
    """Mean counts above background of each block, at each position of one scan axis.

    Parameters
    ----------
    counts : array (y, x, scan axes), uint16 or float32, count
    level : array (y, x), float32, count
        Background; a pixel whose background is NaN is left out.
    edges : (int, int)
        Edges of a block in pixels: :func:`block_edges`.
    index : array (frame,), int64
        Index of the position of each frame along the axis; the last scan axis runs fastest.
    length : int
        Number of positions along the axis.

    Returns
    -------
    array (length, block_y, block_x), float32, count
        Summed over the frames of one position. NaN in counts counts as background; a block without any valid pixel is
        NaN.
    """
    pixels = block_sums(np.isfinite(level), edges)
    curves = np.zeros((length, *pixels.shape), np.float32)
    if counts.size:
        line, starts, row_step = frame_lines(counts)
        _bin(line, starts, row_step, index, np.require(level, np.float32, ["C", "W"]), *edges, curves)
    pixels[pixels == 0] = np.nan
    curves /= pixels.astype(np.float32)
    return curves


@njit(nogil=True, cache=True)
def _means(image, high, wide, means):
    """Mean of the finite pixels of each block; NaN without any."""
    rows, columns = image.shape
    total, count = np.empty(columns, np.float32), np.empty(columns, np.float32)
    for i in range(means.shape[0]):
        total[:], count[:] = 0, 0
        for y in range(i * high, min(rows, (i + 1) * high)):
            for x in range(columns):
                value = image[y, x]
                known = value - value == 0  # neither NaN nor infinite
                total[x] += value if known else np.float32(0)
                count[x] += np.float32(1) if known else np.float32(0)
        for j in range(means.shape[1]):
            some, pixels = np.float32(0), np.float32(0)
            for x in range(j * wide, min(columns, (j + 1) * wide)):
                some += total[x]
                pixels += count[x]
            means[i, j] = some / pixels if pixels > 0 else np.nan


def block_means(image: np.ndarray, edges: tuple[int, int]) -> np.ndarray:
    """Mean of the finite pixels of each block, NaN without any: (block_y, block_x), float32.

    Examples
    --------
    >>> block_means(np.array([[1.0, 3.0, np.nan]]), (1, 2)).tolist()
    [[2.0, nan]]
    """
    means = np.empty(tuple(-(-n // e) for n, e in zip(image.shape, edges, strict=True)), np.float32)
    _means(np.require(image, np.float32, ["C", "W"]), *edges, means)
    return means


@njit(nogil=True, cache=True)
def _lowest(word):
    """Number of the lowest bit set."""
    return np.int64(BIT_OF[((word & (~word + np.uint64(1))) * SPREAD) >> np.uint64(58)])


@njit(nogil=True, cache=True)
def _highest(word):
    """Number of the highest bit set."""
    for shift in (1, 2, 4, 8, 16, 32):
        word |= word >> np.uint64(shift)
    return _lowest(word ^ (word >> np.uint64(1)))


@njit(nogil=True, cache=True)
def _next(rank, bits, some):
    """First rank in the window that is at least `rank`; the window must contain one."""
    word = rank >> 6
    rest = bits[np.uintp(word)] & (FULL << np.uint64(rank & 63))
    while rest == 0:
        word += 1
        while word & 63 == 0 and not some[np.uintp(word >> 6)]:
            word += 64
        rest = bits[np.uintp(word)]
    return (word << 6) + _lowest(rest)


@njit(nogil=True, cache=True)
def _last(rank, bits, some):
    """Last rank in the window that is below `rank`; the window must contain one."""
    word = rank >> 6
    rest = bits[np.uintp(word)] & ~(FULL << np.uint64(rank & 63))
    while rest == 0:
        word -= 1
        while word & 63 == 63 and not some[np.uintp(word >> 6)]:
            word -= 64
        rest = bits[np.uintp(word)]
    return (word << 6) + _highest(rest)


@njit(nogil=True, cache=True)
def _median(ranks, ordered, reach_y, reach_x, bits, some, result):
    """Median of a window that slides along x, without sorting.

    Each rank is a bit that is set while its value is in the window. The median moves from its last rank by as many
    ranks as have passed it. `some` marks the groups of 64 words that contain set bits. `ranks` is (x, y).
    """
    columns, rows = ranks.shape
    middle = 0  # rank of the last median, and how many in the window are below it
    for i in range(rows):
        top, bottom = max(0, i - reach_y), min(rows, i + reach_y + 1)
        first, last, count, before = 0, 0, 0, 0
        for j in range(columns):
            left, right = max(0, j - reach_x), min(columns, j + reach_x + 1)
            while last < right:
                for y in range(top, bottom):
                    rank = ranks[last, y]
                    if rank >= 0:
                        bits[np.uintp(rank >> 6)] |= np.uint64(1) << np.uint64(rank & 63)
                        some[np.uintp(rank >> 12)] = True
                        count += 1
                        before += rank < middle
                last += 1
            while first < left:
                for y in range(top, bottom):
                    rank = ranks[first, y]
                    if rank >= 0:
                        bits[np.uintp(rank >> 6)] ^= np.uint64(1) << np.uint64(rank & 63)
                        count -= 1
                        before -= rank < middle
                first += 1
            if count == 0:
                result[i, j] = np.nan
                continue
            wanted = (count - 1) // 2
            while before > wanted:
                middle = _last(middle, bits, some)
                before -= 1
            middle = _next(middle, bits, some)
            while before < wanted:
                middle = _next(middle + 1, bits, some)
                before += 1
            other = middle if count % 2 else _next(middle + 1, bits, some)
            result[i, j] = (ordered[middle] + ordered[other]) * np.float32(0.5)
        bits[:] = 0
        some[:] = False


def running_median(values: np.ndarray, reach: tuple[int, int]) -> np.ndarray:
    """Median over a window around each value, ignoring NaN.

    Parameters
    ----------
    values : array (y, x)
        NaN is ignored.
    reach : (int, int)
        Half the window along y and x: it contains 2 reach + 1 values, fewer at the border.

    Returns
    -------
    array (y, x), float32
        NaN if the window contains NaN only. For an even number of values, the mean of the middle two.

    Examples
    --------
    >>> running_median(np.array([[1.0, 9.0, 2.0, np.nan, 4.0]]), (0, 1)).tolist()
    [[5.0, 2.0, 5.5, 3.0, 4.0]]
    """
    flat = np.ascontiguousarray(values, np.float32).ravel()
    finite = np.flatnonzero(np.isfinite(flat))
    result = np.full(values.shape, np.nan, np.float32)
    if finite.size == 0:
        return result
    order = finite[np.argsort(flat[finite])]
    ranks = np.full(flat.size, -1, np.int32)
    ranks[order] = np.arange(order.size, dtype=np.int32)
    words = (order.size >> 6) + 2
    _median(
        np.ascontiguousarray(ranks.reshape(values.shape).T),
        flat[order],
        *reach,
        np.zeros(words, np.uint64),
        np.zeros((words >> 6) + 1, bool),
        result,
    )
    return result


def reach_of(window: float, edges: tuple[int, int], pixel: tuple[float, float]) -> tuple[int, int]:
    """Half a window (um) in blocks along y and x; none along a side of one pixel."""
    high, wide = (round(window / 2 / (e * p)) if np.isfinite(p) else 0 for e, p in zip(edges, pixel, strict=True))
    return high, wide


@njit(nogil=True, cache=True)
def _gather(values, index, gathered):
    """Take values by index."""
    for n in range(index.size):
        gathered[n] = values[np.uintp(index[n])]


@njit(nogil=True, cache=True, error_model="numpy")
def _mix(here, there, part, result):
    """Interpolate linearly between two rows."""
    for n in range(result.size):
        result[n] = here[n] + (there[n] - here[n]) * part[n]


@njit(nogil=True, cache=True, error_model="numpy")
def _divide(total, result):
    """Divide in place; NaN where the divisor is 0."""
    for n in range(result.size):
        result[n] = result[n] / total[n] if total[n] > 0 else np.float32(np.nan)


@njit(nogil=True, cache=True)
def _spread(blocks, high, wide, result):
    """Interpolate block values bilinearly between block centres; NaN has zero weight."""
    rows, columns = result.shape
    before, after = np.empty(columns, np.int32), np.empty(columns, np.int32)
    part = np.empty(columns, np.float32)
    for x in range(columns):
        at = (x - (wide - 1) / 2) / wide
        before[x] = max(0, int(np.floor(at)))
        after[x] = min(blocks.shape[1] - 1, int(np.floor(at)) + 1)
        part[x] = min(max(at - before[x], 0.0), 1.0)
    value, weight = np.empty(blocks.shape[1], np.float32), np.empty(blocks.shape[1], np.float32)
    here, there, total = np.empty(columns, np.float32), np.empty(columns, np.float32), np.empty(columns, np.float32)
    for y in range(rows):
        at = (y - (high - 1) / 2) / high
        i, k = max(0, int(np.floor(at))), min(blocks.shape[0] - 1, int(np.floor(at)) + 1)
        share = np.float32(min(max(at - i, 0.0), 1.0))
        whole = True
        for j in range(blocks.shape[1]):
            over, under = blocks[i, j], blocks[k, j]
            first = np.float32(1) - share if over == over else np.float32(0)
            second = share if under == under else np.float32(0)
            weight[j] = first + second
            value[j] = over * first if first > 0 else np.float32(0)
            value[j] += under * second if second > 0 else np.float32(0)
            whole &= weight[j] == 1
        _gather(value, before, here)
        _gather(value, after, there)
        _mix(here, there, part, result[y])
        if whole:  # the weights of all pixels of the row are 1
            continue
        _gather(weight, before, here)
        _gather(weight, after, there)
        _mix(here, there, part, total)
        _divide(total, result[y])


def to_pixels(blocks: np.ndarray, edges: tuple[int, int], shape: tuple[int, int]) -> np.ndarray:
    """Block values as a map: bilinear between the centres of the blocks that have a number.

    Parameters
    ----------
    blocks : array (block_y, block_x), float32
    edges : (int, int)
        Edges of a block in pixels.
    shape : (int, int)
        Rows and columns of the map.

    Returns
    -------
    array (y, x), float32
        Constant beyond the outer centres; NaN where all neighbouring blocks are NaN.

    Examples
    --------
    >>> to_pixels(np.array([[0, 2]], np.float32), (1, 2), (1, 4)).tolist()
    [[0.0, 0.5, 1.5, 2.0]]
    """
    result = np.empty(shape, np.float32)
    if blocks.size:
        _spread(np.ascontiguousarray(blocks, np.float32), *edges, result)
    return result
