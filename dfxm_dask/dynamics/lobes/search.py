"""Search for bright lobes in one frame: one pass over the pixels, then a matched box in two sizes.

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
HALVINGS = 24  # of the range of the values of a tile, until their median is known
REACH = 5  # sides of a box within which a lobe must end


@njit(nogil=True, cache=True, error_model="numpy")
def _bins(counts, means):
    """Means of 2 × 2 values that are all usable."""
    for i in range(means.shape[0]):
        upper, lower, out = counts[2 * i], counts[2 * i + 1], means[i]
        for j in range(out.size):
            a, b = np.float32(upper[2 * j]), np.float32(upper[2 * j + 1])
            c, d = np.float32(lower[2 * j]), np.float32(lower[2 * j + 1])
            out[j] = np.float32(0.25) * ((a + b) + (c + d))


@njit(nogil=True, cache=True, error_model="numpy")
def _bins_of_usable(counts, means):
    """Means of 2 × 2 values, NaN left out."""
    for i in range(means.shape[0]):
        for j in range(means.shape[1]):
            total, number = np.float32(0.0), 0
            for a in range(2):
                for b in range(2):
                    value = counts[2 * i + a, 2 * j + b]
                    if value == value:
                        total += value
                        number += 1
            means[i, j] = total / number if number else np.nan


@njit(nogil=True, cache=True, error_model="numpy")
def _boxes(means, whole, out):
    """Mean of SIDE × SIDE bins about every bin, NaN beyond the frame or where too few bins are usable."""
    rows, columns = means.shape
    total, number = np.empty(columns, np.float32), np.full(columns, np.float32(SIDE))
    half = SIDE // 2
    out[:] = np.nan
    for i in range(half, rows - half):
        total[:] = 0
        if whole:
            for a in range(i - half, i + half + 1):
                line = means[a]
                for j in range(columns):
                    total[j] += line[j]
            for j in range(half, columns - half):
                out[i, j] = (total[j - 1] + total[j] + total[j + 1]) / np.float32(SIDE * SIDE)
            continue
        number[:] = 0
        for a in range(i - half, i + half + 1):
            line = means[a]
            for j in range(columns):
                usable = line[j] == line[j]
                total[j] += line[j] if usable else np.float32(0)
                number[j] += np.float32(1) if usable else np.float32(0)
        for j in range(half, columns - half):
            used = number[j - 1] + number[j] + number[j + 1]
            mean = (total[j - 1] + total[j] + total[j + 1]) / used
            out[i, j] = mean if used >= LEAST_USED * SIDE * SIDE else np.float32(np.nan)


@njit(nogil=True, cache=True, error_model="numpy")
def _median(values, count):
    """A number with half of the values below it, by halving their range: no branch depends on a value."""
    low = high = values[0]
    for k in range(count):
        low, high = min(low, values[k]), max(high, values[k])
    for _ in range(HALVINGS):
        middle = np.float32(0.5) * (low + high)
        below = np.int32(0)
        for k in range(count):
            below += np.int32(values[k] <= middle)
        if abs(2 * below - count) <= 1:
            return middle
        if 2 * below > count:
            high = middle
        else:
            low = middle
    return high


@njit(nogil=True, cache=True, error_model="numpy")
def _tiles(box, tile, step, level, noise):
    """Median and 1.4826 MAD of every tile, from every ``step``-th bin along both axes."""
    values = np.empty((tile // step + 1) ** 2, np.float32)
    for i in range(level.shape[0]):
        for j in range(level.shape[1]):
            count = 0
            for a in range(i * tile, min((i + 1) * tile, box.shape[0]), step):
                for b in range(j * tile, min((j + 1) * tile, box.shape[1]), step):
                    values[count] = box[a, b]
                    count += int(box[a, b] == box[a, b])
            if count < 16:
                level[i, j] = noise[i, j] = np.nan
                continue
            level[i, j] = middle = _median(values, count)
            for k in range(count):
                values[k] = abs(values[k] - middle)
            noise[i, j] = MAD * _median(values, count)


@njit(nogil=True, cache=True, error_model="numpy")
def _peaks(box, tile, level, noise, least, threshold, found):
    """Bins that exceed level + threshold noise of their tile, and all bins within one side. Returns their number."""
    count = 0
    for ti in range(level.shape[0]):
        for tj in range(level.shape[1]):
            if not level[ti, tj] == level[ti, tj]:
                continue
            spread = max(noise[ti, tj], least)
            cut = np.float32(level[ti, tj] + threshold * spread)
            for i in range(ti * tile, min((ti + 1) * tile, box.shape[0])):
                above = np.int32(0)
                for j in range(tj * tile, min((tj + 1) * tile, box.shape[1])):
                    above += np.int32(box[i, j] > cut)
                if above == 0:
                    continue
                for j in range(tj * tile, min((tj + 1) * tile, box.shape[1])):
                    if box[i, j] > cut and _highest(box, i, j) and count < found.shape[0]:
                        found[count, 0], found[count, 1] = i, j
                        found[count, 2], found[count, 3] = (box[i, j] - level[ti, tj]) / spread, level[ti, tj]
                        count += 1
    return count


@njit(nogil=True, cache=True)
def _highest(box, i, j):
    """Whether a bin exceeds all bins within one side; of equal bins the last one counts."""
    value = box[i, j]
    for a in range(max(i - SIDE, 0), min(i + SIDE + 1, box.shape[0])):
        for b in range(max(j - SIDE, 0), min(j + SIDE + 1, box.shape[1])):
            other = box[a, b]
            if other > value or (other == value and (a < i or (a == i and b < j))):
                return False
    return True


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
    whole = counts.dtype.kind in "iu" or bool(np.isfinite(counts.sum(dtype=np.float64)))
    means, candidates = counts, []
    for bin_size, step in zip(BINS, STEPS, strict=True):
        finer, means = means, np.empty((means.shape[0] // 2, means.shape[1] // 2), np.float32)
        if min(means.shape) < SIDE:
            break
        (_bins if whole else _bins_of_usable)(finer, means)
        tile = TILE // bin_size
        grid = -(-means.shape[0] // tile), -(-means.shape[1] // tile)
        box, level, spread = np.empty_like(means), np.empty(grid), np.empty(grid)
        _boxes(means, whole, box)
        _tiles(box, tile, step, level, spread)
        found = np.empty((most, 4))
        count = _peaks(box, tile, level, spread, noise / (bin_size * SIDE), limit, found)
        for i, j, z, base in found[:count]:
            row, column = round(bin_size * (i + 0.5) - 0.5), round(bin_size * (j + 0.5) - 0.5)
            one = _examined(counts, row, column, bin_size * SIDE, base, noise, limit)
            if one[2] > 0:
                candidates.append((*one, base, z))
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


@njit(nogil=True, cache=True)
def _examined(counts, row, column, size, base, noise, limit):
    """Centre, height and width of a lobe; zeros if it is a step, a border or a few bad pixels."""
    none = (0.0, 0.0, 0.0, 0.0)
    half = size // 2
    values = np.sort(_usable(counts, row - half, row + half + 1, column - half, column + half + 1))
    if values.size < 4:
        return none
    # A tenth of the pixels may be bad: the level of the rest counts.
    peak = values[: max(1, int(0.9 * values.size))].mean()
    error = noise / np.sqrt(values.size)
    if not peak - base > limit * error:
        return none
    middle = base + 0.5 * (values[int(0.75 * values.size)] - base)
    # Extent at half maximum along both axes, from means over three lines.
    top, bottom = _end(counts, row, column, -1, 0, size, middle), _end(counts, row, column, 1, 0, size, middle)
    left, right = _end(counts, row, column, 0, -1, size, middle), _end(counts, row, column, 0, 1, size, middle)
    if min(top, bottom, left, right) < 0:
        return none
    top, bottom, left, right = row - top, row + bottom + 1, column - left, column + right + 1
    beside = _beside(counts, top, bottom, left, right, half)
    if not peak - max(beside, base) > limit * error * np.sqrt(2):
        return none
    total = first = second = 0.0
    for i in range(top, bottom):
        for j in range(left, right):
            weight = counts[i, j] - middle
            if weight > 0 and np.isfinite(weight):
                total += weight
                first += weight * i
                second += weight * j
    if not total > 0:
        return none
    return first / total, second / total, float(bottom - top), float(right - left)


@njit(nogil=True, cache=True)
def _usable(counts, top, bottom, left, right):
    """Usable values of a box, without the part beyond the frame."""
    out = np.empty(max(bottom - top, 0) * max(right - left, 0))
    count = 0
    for i in range(max(top, 0), min(bottom, counts.shape[0])):
        for j in range(max(left, 0), min(right, counts.shape[1])):
            if np.isfinite(counts[i, j]):
                out[count] = counts[i, j]
                count += 1
    return out[:count]


@njit(nogil=True, cache=True)
def _end(counts, row, column, dy, dx, size, level):
    """Number of lines beyond the start whose mean over three pixels exceeds a level; -1 if they do not end."""
    for n in range(1, REACH * size + 1):
        i, j = row + n * dy, column + n * dx
        if not (0 <= i < counts.shape[0] and 0 <= j < counts.shape[1]):
            return -1
        total, number = 0.0, 0
        for k in range(-1, 2):
            a, b = i + k * dx * dx, j + k * dy * dy
            if 0 <= a < counts.shape[0] and 0 <= b < counts.shape[1] and np.isfinite(counts[a, b]):
                total += counts[a, b]
                number += 1
        if not (number > 0 and total > level * number):
            return n - 1
    return -1


@njit(nogil=True, cache=True)
def _beside(counts, top, bottom, left, right, half):
    """Highest of the medians of the areas above, below, left and right of a lobe, -inf without usable pixels."""
    deep, wide = max(bottom - top, 2 * half), max(right - left, 2 * half)
    gap_y, gap_x = deep // 2 + 1, wide // 2 + 1
    row, column = (top + bottom - 1) // 2, (left + right - 1) // 2
    out = -np.inf
    for values in (
        _usable(counts, top - gap_y - deep, top - gap_y, column - half, column + half + 1),
        _usable(counts, bottom - 1 + gap_y, bottom - 1 + gap_y + deep, column - half, column + half + 1),
        _usable(counts, row - half, row + half + 1, left - gap_x - wide, left - gap_x),
        _usable(counts, row - half, row + half + 1, right - 1 + gap_x, right - 1 + gap_x + wide),
    ):
        if values.size:
            out = max(out, np.median(values))
    return out
