"""Blocks of about a quarter of a um: what a layer looks like where single pixels are too fine to be worth their cost.

A block is a rectangle of whole pixels, near to square in length, since the effective pixel differs along x and y.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from dfxm_dask.memory import frame_lines
from dfxm_dask.schema import pixel_length

BLOCK = 0.25  # um: below the width of a dislocation's image, and a dozen pixels of 0.04 × 0.12 um (our choice)
FINE, COARSE = 6, 12  # a node of the two upper levels stands for 2^6 and 2^12 ranks


def block_edges(y: np.ndarray, x: np.ndarray, asked: str, length: float = BLOCK) -> tuple[int, int]:
    """Rows and columns of a block, in pixels.

    Parameters
    ----------
    y, x : array (y,) and (x,), float64, um
        Positions of the pixels, equally spaced.
    asked : str
        Who asks, for the text of an error.
    length : float, um

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
def _add_above(line, start, level, total):  # type: ignore[no-untyped-def]
    for n in range(total.size):
        above = np.float32(line[np.uintp(start) + np.uintp(n)]) - level[n]
        total[n] += above if above == above else np.float32(0)


@njit(nogil=True, cache=True)
def _bin(line, starts, row_step, place, level, high, wide, curves):  # type: ignore[no-untyped-def]
    rows, columns = level.shape
    total = np.empty(columns, np.float32)
    for f in range(starts.size):
        for i in range(curves.shape[1]):
            total[:] = 0
            for y in range(i * high, min(rows, (i + 1) * high)):
                _add_above(line, starts[f] + y * row_step, level[y], total)
            out = curves[place[f], i]
            for part in range(wide):  # strided loops outside: the inner one vectorises
                for j in range(columns // wide):
                    out[j] += total[np.uintp(j * wide + part)]
            for x in range(columns // wide * wide, columns):
                out[columns // wide] += total[x]


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
    counts: np.ndarray, level: np.ndarray, edges: tuple[int, int], place: np.ndarray, length: int
) -> np.ndarray:
    """Mean counts above background of each block, at each position of one scan axis.

    Parameters
    ----------
    counts : array (y, x, scan axes), uint16 or float32, count
    level : array (y, x), float32, count
        Background; a pixel whose background is no number is left out.
    edges : (int, int)
        Of a block: :func:`block_edges`.
    place : array (frame,), int64
        Position along the axis of each frame, the last scan axis running fastest.
    length : int
        Positions along the axis.

    Returns
    -------
    array (length, block_y, block_x), float32, count
        Summed over the frames of one position. A count that is no number counts as background; a block without any
        pixel is NaN.
    """
    pixels = block_sums(np.isfinite(level), edges)
    curves = np.zeros((length, *pixels.shape), np.float32)
    if counts.size:
        line, starts, row_step = frame_lines(counts)
        _bin(line, starts, row_step, place, np.require(level, np.float32, ["C", "W"]), *edges, curves)
    pixels[pixels == 0] = np.nan
    curves /= pixels.astype(np.float32)
    return curves


@njit(nogil=True, cache=True)
def _means(image, high, wide, means):  # type: ignore[no-untyped-def]
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
    """Mean of each block over its pixels that have a number: (block_y, block_x), float32; NaN without any.

    Examples
    --------
    >>> block_means(np.array([[1.0, 3.0, np.nan]]), (1, 2)).tolist()
    [[2.0, nan]]
    """
    means = np.empty(tuple(-(-n // e) for n, e in zip(image.shape, edges, strict=True)), np.float32)
    _means(np.require(image, np.float32, ["C", "W"]), *edges, means)
    return means


@njit(nogil=True, cache=True)
def _enter(rank, change, ones, fine, coarse):  # type: ignore[no-untyped-def]
    ones[rank] += change
    fine[rank >> FINE] += change
    coarse[rank >> COARSE] += change


@njit(nogil=True, cache=True)
def _nth(wanted, ones, fine, coarse):  # type: ignore[no-untyped-def]
    """Rank of the entry that has `wanted` entries before it."""
    k = 0
    while coarse[k] <= wanted:
        wanted -= coarse[k]
        k += 1
    k <<= COARSE - FINE
    while fine[k] <= wanted:
        wanted -= fine[k]
        k += 1
    k <<= FINE
    while ones[k] <= wanted:
        wanted -= ones[k]
        k += 1
    return k


@njit(nogil=True, cache=True)
def _median(ranks, ordered, reach_y, reach_x, ones, fine, coarse, result):  # type: ignore[no-untyped-def]
    """Median of a window that slides along x. Ranks stand in a counting tree of three levels, so nothing is sorted."""
    rows, columns = ranks.shape
    for i in range(result.shape[0]):
        top, bottom = max(0, i - reach_y), min(rows, i + reach_y + 1)
        first, last, count = 0, 0, 0
        for j in range(result.shape[1]):
            left, right = max(0, j - reach_x), min(columns, j + reach_x + 1)
            while last < right:
                for y in range(top, bottom):
                    if ranks[y, last] >= 0:
                        _enter(ranks[y, last], 1, ones, fine, coarse)
                        count += 1
                last += 1
            while first < left:
                for y in range(top, bottom):
                    if ranks[y, first] >= 0:
                        _enter(ranks[y, first], -1, ones, fine, coarse)
                        count -= 1
                first += 1
            if count == 0:
                result[i, j] = np.nan
                continue
            k = _nth((count - 1) // 2, ones, fine, coarse)
            low = ordered[k]
            if count % 2 == 0:
                k += 1
                while ones[k] == 0:
                    k += 1
            result[i, j] = (low + ordered[k]) * np.float32(0.5)
        while first < last:
            for y in range(top, bottom):
                if ranks[y, first] >= 0:
                    _enter(ranks[y, first], -1, ones, fine, coarse)
            first += 1


def running_median(values: np.ndarray, reach: tuple[int, int]) -> np.ndarray:
    """Median over a window around each value, of the values that are numbers.

    Parameters
    ----------
    values : array (y, x)
        NaN is left out.
    reach : (int, int)
        Half the window along y and x: it holds 2 reach + 1 values, fewer at the border.

    Returns
    -------
    array (y, x), float32
        NaN where the window holds no number. The mean of the two middle ones where their number is even.

    Examples
    --------
    >>> running_median(np.array([[1.0, 9.0, 2.0, np.nan, 4.0]]), (0, 1)).tolist()
    [[5.0, 2.0, 5.5, 3.0, 4.0]]
    """
    flat = np.ascontiguousarray(values, np.float32).ravel()
    known = np.flatnonzero(np.isfinite(flat))
    result = np.full(values.shape, np.nan, np.float32)
    if known.size == 0:
        return result
    order = known[np.argsort(flat[known], kind="stable")]
    ranks = np.full(flat.size, -1, np.int32)
    ranks[order] = np.arange(order.size, dtype=np.int32)
    nodes = (order.size >> COARSE) + 1
    _median(
        ranks.reshape(values.shape), flat[order], *reach,
        np.zeros(nodes << COARSE, np.int8), np.zeros(nodes << (COARSE - FINE), np.int8), np.zeros(nodes, np.int32),
        result,
    )  # fmt: skip
    return result


def reach_of(window: float, edges: tuple[int, int], pixel: tuple[float, float]) -> tuple[int, int]:
    """Half a window (um) in blocks along y and x; none along a side of one pixel."""
    high, wide = (round(window / 2 / (e * p)) if np.isfinite(p) else 0 for e, p in zip(edges, pixel, strict=True))
    return high, wide


@njit(nogil=True, cache=True)
def _spread(blocks, high, wide, result):  # type: ignore[no-untyped-def]
    rows, columns = result.shape
    before = np.empty(columns, np.int64)
    after = np.empty(columns, np.int64)
    part = np.empty(columns, np.float32)
    for x in range(columns):
        place = (x - (wide - 1) / 2) / wide
        before[x] = max(0, int(np.floor(place)))
        after[x] = min(blocks.shape[1] - 1, int(np.floor(place)) + 1)
        part[x] = min(max(place - before[x], 0.0), 1.0)
    value = np.empty(blocks.shape[1], np.float32)
    weight = np.empty(blocks.shape[1], np.float32)
    for y in range(rows):
        place = (y - (high - 1) / 2) / high
        i, k = max(0, int(np.floor(place))), min(blocks.shape[0] - 1, int(np.floor(place)) + 1)
        share = np.float32(min(max(place - i, 0.0), 1.0))
        for j in range(blocks.shape[1]):
            here, there = blocks[i, j], blocks[k, j]
            first = np.float32(1) - share if here == here else np.float32(0)
            second = share if there == there else np.float32(0)
            weight[j] = first + second
            value[j] = here * first if first > 0 else np.float32(0)
            value[j] += there * second if second > 0 else np.float32(0)
        for x in range(columns):
            here, there = before[x], after[x]
            total = weight[here] + (weight[there] - weight[here]) * part[x]
            mixed = value[here] + (value[there] - value[here]) * part[x]
            result[y, x] = mixed / total if total > 0 else np.nan


def to_pixels(blocks: np.ndarray, edges: tuple[int, int], shape: tuple[int, int]) -> np.ndarray:
    """Block values as a map: bilinear between the centres of the blocks that have a number.

    Parameters
    ----------
    blocks : array (block_y, block_x), float32
    edges : (int, int)
        Of a block, in pixels.
    shape : (int, int)
        Rows and columns of the map.

    Returns
    -------
    array (y, x), float32
        Constant beyond the outer centres; NaN where none of the nearest blocks has a number.

    Examples
    --------
    >>> to_pixels(np.array([[0, 2]], np.float32), (1, 2), (1, 4)).tolist()
    [[0.0, 0.5, 1.5, 2.0]]
    """
    result = np.full(shape, np.nan, np.float32)
    if blocks.size:
        _spread(np.ascontiguousarray(blocks, np.float32), *edges, result)
    return result
