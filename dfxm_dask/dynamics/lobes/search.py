"""Search for bright lobes in one frame: one pass over the pixels, then a matched box in several sizes.

Frames are divided into tiles. Level and noise of a tile are the median and the median absolute deviation of the box
sums themselves, which include fixed patterns, stripes of the beam and drifting illumination. A lobe
exceeds the counts on every side of its box, which steps at the border of the sample never do.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from scipy.stats import norm

BINS = (2, 4)  # pixels along both axes that are added first, for small and for large lobes
SIDE = 3  # side of a box, in bins
TILE = 64  # side of a tile, in pixels
STEPS = (3, 1)  # every how many bins a tile is sampled
MAD = 1.4826
LEAST_USED = 0.75  # part of the pixels of a box that must be usable


@njit(nogil=True, cache=True)
def _bins(counts, sums):
    """Means of 2 × 2 values, NaN left out. Returns whether the values differ."""
    low, high = np.inf, -np.inf
    for i in range(sums.shape[0]):
        for j in range(sums.shape[1]):
            total = 0.0
            number = 0
            for a in range(2):
                for b in range(2):
                    value = float(counts[2 * i + a, 2 * j + b])
                    if value == value:
                        low = min(low, value)
                        high = max(high, value)
                        total += value
                        number += 1
            sums[i, j] = total / number if number else np.nan
    return high > low


@njit(nogil=True, cache=True)
def _boxes(sums, side, out):
    """Mean of side × side bins about every bin (anchored at side // 2), NaN beyond the frame or without pixels."""
    rows, columns = sums.shape
    line = np.empty(columns)
    number = np.empty(columns)
    half = side // 2
    out[:] = np.nan
    for i in range(rows - side + 1):
        if i == 0:
            line[:] = 0.0
            number[:] = 0.0
            for a in range(side):
                for j in range(columns):
                    if sums[a, j] == sums[a, j]:
                        line[j] += sums[a, j]
                        number[j] += 1.0
        else:
            for j in range(columns):
                gone, came = sums[i - 1, j], sums[i + side - 1, j]
                if gone == gone:
                    line[j] -= gone
                    number[j] -= 1.0
                if came == came:
                    line[j] += came
                    number[j] += 1.0
        total, count = 0.0, 0.0
        for j in range(columns):
            total += line[j]
            count += number[j]
            if j >= side:
                total -= line[j - side]
                count -= number[j - side]
            if j >= side - 1 and count >= LEAST_USED * side * side:
                out[i + half, j - side + 1 + half] = total / count


@njit(nogil=True, cache=True)
def _tiles(box, tile, step, level, noise):
    """Median and 1.4826 MAD of every tile, from every ``step``-th bin along both axes."""
    values = np.empty((tile // step + 1) ** 2)
    for i in range(level.shape[0]):
        for j in range(level.shape[1]):
            count = 0
            for a in range(i * tile, min((i + 1) * tile, box.shape[0]), step):
                for b in range(j * tile, min((j + 1) * tile, box.shape[1]), step):
                    if box[a, b] == box[a, b]:
                        values[count] = box[a, b]
                        count += 1
            if count < 16:
                level[i, j] = noise[i, j] = np.nan
                continue
            middle = np.median(values[:count])
            level[i, j] = middle
            noise[i, j] = MAD * np.median(np.abs(values[:count] - middle))


@njit(nogil=True, cache=True)
def _peaks(box, side, tile, level, noise, least, threshold, found):
    """Bins that exceed level + threshold noise of their tile, and all bins within one side. Returns their number."""
    count = 0
    for ti in range(level.shape[0]):
        for tj in range(level.shape[1]):
            if not level[ti, tj] == level[ti, tj]:
                continue
            cut = level[ti, tj] + threshold * max(noise[ti, tj], least)
            for i in range(ti * tile, min((ti + 1) * tile, box.shape[0])):
                for j in range(tj * tile, min((tj + 1) * tile, box.shape[1])):
                    value = box[i, j]
                    if not value > cut:
                        continue
                    best = True
                    for a in range(max(i - side, 0), min(i + side + 1, box.shape[0])):
                        for b in range(max(j - side, 0), min(j + side + 1, box.shape[1])):
                            other = box[a, b]
                            if other > value or (other == value and (a < i or (a == i and b < j))):
                                best = False
                                break
                        if not best:
                            break
                    if best and count < found.shape[0]:
                        found[count, 0] = i
                        found[count, 1] = j
                        found[count, 2] = (value - level[ti, tj]) / max(noise[ti, tj], least)
                        found[count, 3] = level[ti, tj]
                        count += 1
    return count


def threshold(false_alarms: float, shape: tuple[int, int]) -> float:
    """Number of standard deviations that noise exceeds ``false_alarms`` times in a frame."""
    trials = sum(max(shape[0] // b, 1) * max(shape[1] // b, 1) for b in BINS)
    return float(norm.isf(min(false_alarms / trials, 0.5)))


def search(counts: np.ndarray, limit: float, most: int = 20000) -> tuple[np.ndarray, float]:
    """Bright lobes of a frame.

    Parameters
    ----------
    counts : ndarray (y, x)
        NaN where unusable.
    limit : float
        Standard deviations of a box sum.
    most : int
        Largest number of lobes.

    Returns
    -------
    lobes : ndarray (lobe, 6), float64
        Row and column of the centre, height and width in pixels at half maximum, level around it, significance.
    noise : float
        Standard deviation of a pixel of the background, from differences of neighbours.
    """
    empty = np.empty((0, 6))
    noise = _pixel_noise(counts)
    if not noise > 0:
        return empty, np.nan
    sums, candidates = counts, []
    for bin_size, step in zip(BINS, STEPS, strict=True):
        finer, sums = sums, np.empty((sums.shape[0] // 2, sums.shape[1] // 2), np.float32)
        if not sums.size or not _bins(finer, sums):
            break
        tile = TILE // bin_size
        grid = -(-sums.shape[0] // tile), -(-sums.shape[1] // tile)
        box, level, spread = np.empty_like(sums), np.empty(grid), np.empty(grid)
        if min(sums.shape) < SIDE:
            break
        _boxes(sums, SIDE, box)
        _tiles(box, tile, step, level, spread)
        found = np.empty((most, 4))
        count = _peaks(box, SIDE, tile, level, spread, noise / (bin_size * SIDE), limit, found)
        for i, j, z, base in found[:count]:
            centre = bin_size * (i + 0.5) - 0.5, bin_size * (j + 0.5) - 0.5
            one = _examined(counts, *centre, bin_size * SIDE, base, noise, limit)
            if one is not None:
                candidates.append((*one, z))
    if not candidates:
        return empty, noise
    lobes = np.array(candidates)
    lobes = lobes[np.lexsort((lobes[:, 1], lobes[:, 0], -lobes[:, 5]))]
    kept: list[int] = []
    for k, lobe in enumerate(lobes):
        apart = np.abs(lobes[kept, :2] - lobe[:2])
        if not ((apart[:, 0] < 0.5 * lobes[kept, 2]) & (apart[:, 1] < 0.5 * lobes[kept, 3])).any():
            kept.append(k)
    lobes = lobes[kept]
    return lobes[np.lexsort((lobes[:, 1], lobes[:, 0]))], noise


def _pixel_noise(counts: np.ndarray) -> float:
    """Standard deviation of a pixel, from second neighbours along rows of a part of the frame."""
    step = max(1, counts.size // 60_000)
    part = counts[::step].astype(np.float64) if counts.shape[0] > 4 * step else counts.astype(np.float64)
    pairs = part[:, 2:] - part[:, :-2]
    pairs = pairs[np.isfinite(pairs)]
    if pairs.size < 16:
        return np.nan
    return float(max(MAD * np.median(np.abs(pairs)) / np.sqrt(2), np.sqrt(1 / 12)))


def _examined(
    counts: np.ndarray, row: float, column: float, size: int, base: float, noise: float, limit: float
) -> tuple[float, float, float, float, float] | None:
    """Centre and widths of a lobe, or None if it is a step, a border or a few bad pixels."""
    reach = 5 * size
    r, c = round(row), round(column)
    top, left = max(r - reach, 0), max(c - reach, 0)
    part = counts[top : r + reach + 1, left : c + reach + 1].astype(np.float64)
    half = size // 2
    inner = part[max(r - half - top, 0) : r + half - top + 1, max(c - half - left, 0) : c + half - left + 1]
    values = np.sort(inner[np.isfinite(inner)])
    if values.size < 4:
        return None
    # A tenth of the pixels may be bad: the level of the rest counts.
    peak = values[: max(1, int(0.9 * values.size))].mean()
    error = noise / np.sqrt(values.size)
    if not peak - base > limit * error:
        return None
    middle = base + 0.5 * (values[int(0.75 * values.size)] - base)
    # Extent at half maximum along both axes, from means over three lines.
    with np.errstate(all="ignore"):
        along = np.nanmean(part[:, max(c - left - 1, 0) : c - left + 2], axis=1)
        across = np.nanmean(part[max(r - top - 1, 0) : r - top + 2], axis=0)
    low_y, high_y, open_y = _extent(along, r - top, middle)
    low_x, high_x, open_x = _extent(across, c - left, middle)
    if open_y or open_x:
        return None
    height, width = high_y - low_y + 1, high_x - low_x + 1
    beside = _beside(part, low_y, high_y, low_x, high_x, half)
    if not peak - max(beside, base) > limit * error * np.sqrt(2):
        return None
    box = part[low_y : high_y + 1, low_x : high_x + 1]
    weight = np.where(np.isfinite(box), np.maximum(box - middle, 0), 0)
    if not weight.sum() > 0:
        return None
    centre = (weight.sum(1) @ np.arange(low_y, high_y + 1), weight.sum(0) @ np.arange(low_x, high_x + 1))
    return (
        centre[0] / weight.sum() + top,
        centre[1] / weight.sum() + left,
        float(height),
        float(width),
        base,
    )


def _beside(part: np.ndarray, low_y: int, high_y: int, low_x: int, high_x: int, half: int) -> float:
    """Highest of the medians of the areas above, below, left and right of a lobe."""
    deep, wide = max(high_y - low_y + 1, 2 * half), max(high_x - low_x + 1, 2 * half)
    gap_y, gap_x = deep // 2 + 1, wide // 2 + 1
    middle = (low_y + high_y) // 2, (low_x + high_x) // 2
    rows = slice(max(middle[0] - half, 0), middle[0] + half + 1)
    columns = slice(max(middle[1] - half, 0), middle[1] + half + 1)
    areas = (
        part[max(low_y - gap_y - deep, 0) : max(low_y - gap_y, 0), columns],
        part[high_y + gap_y : high_y + gap_y + deep, columns],
        part[rows, max(low_x - gap_x - wide, 0) : max(low_x - gap_x, 0)],
        part[rows, high_x + gap_x : high_x + gap_x + wide],
    )
    return max((float(np.nanmedian(a)) for a in areas if np.isfinite(a).any()), default=np.nan)


def _extent(profile: np.ndarray, start: int, level: float) -> tuple[int, int, bool]:
    """First and last sample above a level around a start, and whether an end is not in the profile."""
    below = ~(profile > level)
    before, after = np.flatnonzero(below[:start]), np.flatnonzero(below[start + 1 :])
    low = int(before[-1]) + 1 if before.size else 0
    high = start + int(after[0]) if after.size else profile.size - 1
    return low, high, not before.size or not after.size
