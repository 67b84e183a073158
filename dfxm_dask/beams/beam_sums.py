"""Weighted sums of the counts over the scan, each pixel by its own local rocking coordinate.

The outer loops run over strips of pixels along x and groups of frames; the small inner loops each do one operation, so
that all of them except the look-up vectorise. Every pixel adds its frames in the order of the scan, so that the result
does not depend on how the layer is divided.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit

from dfxm_dask.beams.prior import SOFTNESS, WEAK_FROM, WEAK_UNTIL, weak_probability

STRONG_UNTIL = 1.0
WEIGHED_FROM, WEIGHED_SOFTNESS = 1.75, 0.1  # beginning of the tails if their weight is the contrast (our choice)
TABLE_END, TABLE_STEPS = 8, 512  # windows are tabulated: u from -8 to 8, 512 entries per unit
STRIP = 256  # pixels along x that are summed together: their sums stay in the first-level cache
GROUP = 4  # frames added at once, so that the sums are loaded and stored once for four frames
# The strip buffer is one flat array, since the compiler only proves that its rows do not overlap at fixed distances.
# Rows: centre, inverse width and background of each pixel; counts and weights of the strong beam; then, for the weak
# beam below and above the peak, counts, weights, and weights squared times counts and times the noise.
CENTRE, INVERSE, LEVEL, STRONG, STRONG_NORM, BELOW, ABOVE, ROWS = 0, 1, 2, 3, 4, 5, 9, 13


class Frames(NamedTuple):
    """Position and weight of each frame: arrays (frame,), float32.

    Attributes
    ----------
    position
        Along the rocking axis. Positions and peaks count from mid-scan, since float32 would round large angles.
    weight
    read : count²
        Variance without photon noise.
    """

    position: np.ndarray
    weight: np.ndarray
    read: np.ndarray


class Pixels(NamedTuple):
    """Background and local reference of every pixel: arrays (y, x), float32; `lit` is bool."""

    level: np.ndarray
    lit: np.ndarray
    peak: np.ndarray
    width: np.ndarray


class Patches(NamedTuple):
    """Probability of weak beam in each patch of each frame, and the patch and relative position of each pixel."""

    chance: np.ndarray
    patch_y: np.ndarray
    part_y: np.ndarray
    patch_x: np.ndarray
    part_x: np.ndarray


def windows(
    u: np.ndarray, until: float = WEAK_UNTIL, start: float = WEAK_FROM, softness: float = SOFTNESS
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Weights of weak and strong beam as functions of the local rocking coordinate.

    Parameters
    ----------
    u : array
        Local rocking coordinate.
    until : float
        |u| at which the tails end.
    start, softness : float
        |u| at which the tails begin, and softness of that step.

    Returns
    -------
    weak, cut, strong : array
        S((|u| − start)/softness), S((until − |u|)/0.3) and S((1 − |u|)/0.3), S the logistic function. The weight of the
        weak beam is the product of the first two.

    Examples
    --------
    >>> [w.round(2).tolist() for w in windows(np.array([0.0, 2.0, 4.0, 9.0]))]
    [[0.0, 0.5, 1.0, 1.0], [1.0, 1.0, 1.0, 0.0], [0.97, 0.03, 0.0, 0.0]]
    """
    return (
        weak_probability(u, start, softness),
        1 - weak_probability(u, until),
        1 - weak_probability(u, STRONG_UNTIL),
    )


def window_tables(until: float, weighed: bool, curve: tuple[np.ndarray, np.ndarray] | None) -> np.ndarray:
    """Tables of the logistic of the weak beam, cut × contrast, and the logistic of the strong beam."""
    u = (np.arange(2 * TABLE_END * TABLE_STEPS) + 0.5) / TABLE_STEPS - TABLE_END
    rows = list(windows(u, until, *((WEIGHED_FROM, WEIGHED_SOFTNESS) if weighed else ())))
    if curve is not None:
        rows[1] = rows[1] * np.exp(np.interp(u, curve[0], np.log(curve[1])))  # contrast falls by powers of ten
    for row in rows[1:]:
        row[0] = row[-1] = 0.0  # entries of all u outside the table
    return np.array(rows, np.float32)


@njit(nogil=True, cache=True)
def _entries(position, strip, entry):
    """Entry of the tables at the local coordinate of every pixel of a strip."""
    last, zero = np.float32(2 * TABLE_END * TABLE_STEPS - 1), np.float32(0)
    scale, end = np.float32(TABLE_STEPS), np.float32(TABLE_END)
    for n in range(STRIP):
        u = (position - strip[CENTRE * STRIP + n]) * strip[INVERSE * STRIP + n]
        index = (u + end) * scale
        index = zero if index < zero else index
        index = last if index > last else index
        entry[n] = np.int32(index)


@njit(nogil=True, cache=True)
def _look_up(table, entry, found):
    """Read the entries of a table."""
    for n in range(STRIP):
        found[n] = table[np.uintp(entry[n])]


@njit(nogil=True, cache=True)
def _join(prior, rest, inner, chance, fused, weights):
    """Weights from the probability of the patches, alone or joined with the local coordinate by their log-odds."""
    one = np.float32(1)
    for n in range(STRIP):
        p = chance[n]
        a, b = prior[n] * p, (one - prior[n]) * (one - p)
        c, d = inner[n] * (one - p), (one - inner[n]) * p
        weights[2 * n] = a / (a + b) * rest[n] if fused else p
        weights[2 * n + 1] = c / (c + d) if fused else one - p


@njit(nogil=True, cache=True)
def _take(line, start, counts):
    """Copy a part of a row into a buffer; only this loop waits for memory."""
    for n in range(counts.size):
        counts[n] = line[np.uintp(start) + np.uintp(n)]


@njit(nogil=True, cache=True)
def _add(counts, weigh, read, weights, strip, sums):
    """Add four frames to the sums of the strong beam, and to those of the weak beam on one side of the peak.

    The loop always covers a full strip, so that every pixel uses the same instructions however the layer is divided.
    """
    weigh_a, weigh_b, weigh_c, weigh_d = weigh[0], weigh[1], weigh[2], weigh[3]
    read_a, read_b, read_c, read_d = read[0], read[1], read[2], read[3]
    zero = np.float32(0)
    for n in range(STRIP):
        level = strip[LEVEL * STRIP + n]
        total, norm = sums[n], sums[STRIP + n]
        photons, dark = sums[2 * STRIP + n], sums[3 * STRIP + n]
        strong, strong_norm = strip[STRONG * STRIP + n], strip[STRONG_NORM * STRIP + n]
        count = counts[n]
        known = count == count
        value = np.float32(count) - level if known else zero  # NaN gets zero weight
        w = weights[2 * n] * weigh_a if known else zero
        s = weights[2 * n + 1] * weigh_a if known else zero
        light = w * value
        total, norm, photons, dark = total + light, norm + w, photons + w * light, dark + w * w * read_a
        strong, strong_norm = strong + s * value, strong_norm + s
        count = counts[STRIP + n]
        known = count == count
        value = np.float32(count) - level if known else zero
        w = weights[2 * STRIP + 2 * n] * weigh_b if known else zero
        s = weights[2 * STRIP + 2 * n + 1] * weigh_b if known else zero
        light = w * value
        total, norm, photons, dark = total + light, norm + w, photons + w * light, dark + w * w * read_b
        strong, strong_norm = strong + s * value, strong_norm + s
        count = counts[2 * STRIP + n]
        known = count == count
        value = np.float32(count) - level if known else zero
        w = weights[4 * STRIP + 2 * n] * weigh_c if known else zero
        s = weights[4 * STRIP + 2 * n + 1] * weigh_c if known else zero
        light = w * value
        total, norm, photons, dark = total + light, norm + w, photons + w * light, dark + w * w * read_c
        strong, strong_norm = strong + s * value, strong_norm + s
        count = counts[3 * STRIP + n]
        known = count == count
        value = np.float32(count) - level if known else zero
        w = weights[6 * STRIP + 2 * n] * weigh_d if known else zero
        s = weights[6 * STRIP + 2 * n + 1] * weigh_d if known else zero
        light = w * value
        total, norm, photons, dark = total + light, norm + w, photons + w * light, dark + w * w * read_d
        strong, strong_norm = strong + s * value, strong_norm + s
        sums[n], sums[STRIP + n], sums[2 * STRIP + n], sums[3 * STRIP + n] = total, norm, photons, dark
        strip[STRONG * STRIP + n], strip[STRONG_NORM * STRIP + n] = strong, strong_norm


@njit(nogil=True, cache=True)
def _add_split(counts, position, weigh, read, weights, strip):
    """Add a frame that is below the peak of some pixels and above that of others; bitwise equal to :func:`_add`."""
    zero = np.float32(0)
    for n in range(STRIP):
        count = counts[n]
        known = count == count
        value = np.float32(count) - strip[LEVEL * STRIP + n] if known else zero
        w = weights[2 * n] * weigh if known else zero
        s = weights[2 * n + 1] * weigh if known else zero
        strip[STRONG * STRIP + n] += s * value
        strip[STRONG_NORM * STRIP + n] += s
        under = w if position <= strip[CENTRE * STRIP + n] else zero
        over = zero if position <= strip[CENTRE * STRIP + n] else w
        light = under * value
        strip[BELOW * STRIP + n] += light
        strip[(BELOW + 1) * STRIP + n] += under
        strip[(BELOW + 2) * STRIP + n] += under * light
        strip[(BELOW + 3) * STRIP + n] += under * under * read
        light = over * value
        strip[ABOVE * STRIP + n] += light
        strip[(ABOVE + 1) * STRIP + n] += over
        strip[(ABOVE + 2) * STRIP + n] += over * light
        strip[(ABOVE + 3) * STRIP + n] += over * over * read


@njit(nogil=True, cache=True)
def _chances(chance, i, k, part, patch_x, part_x, mixed, width):
    """Probability of weak beam along a strip, interpolated between patch centres."""
    for n in range(width):
        j = patch_x[n]
        m = min(j + 1, chance.shape[1] - 1)
        here = chance[i, j] + (chance[k, j] - chance[i, j]) * part
        there = chance[i, m] + (chance[k, m] - chance[i, m]) * part
        mixed[n] = here + (there - here) * part_x[n]


@njit(nogil=True, cache=True)
def _begin(lit, peak, width, level, strip):
    """Load the local reference of a strip, zeros if missing; return least and largest centre."""
    low, high, zero = np.float32(np.inf), np.float32(-np.inf), np.float32(0)
    for n in range(lit.size):
        seen = lit[n] and width[n] > 0 and peak[n] == peak[n] and level[n] == level[n]
        centre = peak[n]
        low = centre if seen and centre < low else low
        high = centre if seen and centre > high else high
        strip[CENTRE * STRIP + n] = centre if seen else zero
        strip[INVERSE * STRIP + n] = np.float32(1) / width[n] if seen else zero
        strip[LEVEL * STRIP + n] = level[n] if seen else zero
    return low, high


@njit(nogil=True, cache=True, error_model="numpy")
def _finish(strip, gain, least, maps, y, first, last):
    """Compute means and standard deviation where a pixel has a reference and a sufficient sum of weights."""
    weak, strong, minus = maps[0, y, first:last], maps[1, y, first:last], maps[2, y, first:last]
    plus, sigma = maps[3, y, first:last], maps[4, y, first:last]
    nothing, zero = np.float32(np.nan), np.float32(0)
    below, above = strip[BELOW * STRIP : ABOVE * STRIP], strip[ABOVE * STRIP :]
    for n in range(weak.size):
        seen = strip[INVERSE * STRIP + n] > 0
        norm = below[STRIP + n] + above[STRIP + n]
        light = gain * (below[2 * STRIP + n] + above[2 * STRIP + n])
        light = (light if light > 0 else zero) + (below[3 * STRIP + n] + above[3 * STRIP + n])
        good = seen and norm >= least
        weak[n] = (below[n] + above[n]) / norm if good else nothing
        sigma[n] = np.sqrt(light) / norm if good else nothing
        minus[n] = below[n] / below[STRIP + n] if seen and below[STRIP + n] >= least else nothing
        plus[n] = above[n] / above[STRIP + n] if seen and above[STRIP + n] >= least else nothing
        norm = strip[STRONG_NORM * STRIP + n]
        strong[n] = strip[STRONG * STRIP + n] / norm if seen and norm >= least else nothing


@njit(nogil=True, cache=True)
def integrate_layer(lines, frames, pixels, windows, patches, method, gain, least, maps):
    """Compute weak, strong, weak below and above the peak, and the standard deviation of weak, strip by strip.

    Parameters
    ----------
    lines : FrameLines
    frames : Frames
    pixels : Pixels
    windows : array (3, entry), float32
        Logistic of the weak beam, factor that cuts it, and logistic of the strong beam.
    patches : Patches
    method : int
        0 by the local coordinate, 1 by the patches, 2 by both.
    gain : float32
    least : float32
        Least sum of weights of a valid mean.
    maps : array (5, y, x), float32
        Output.
    """
    line, starts, row_step = lines
    level, lit, peak, width = pixels
    chance, patch_y, part_y, patch_x, part_x = patches
    rows, columns = level.shape
    strip = np.zeros(ROWS * STRIP, np.float32)
    below, above = strip[BELOW * STRIP : ABOVE * STRIP], strip[ABOVE * STRIP :]
    buffers = np.zeros((4, STRIP), np.float32)
    prior, rest, inner, mixed = buffers[0], buffers[1], buffers[2], buffers[3]
    pairs = np.empty(2 * windows.shape[1], np.float32)
    pairs[0::2], pairs[1::2] = windows[0] * windows[1], windows[2]
    table = pairs.view(np.uint64)  # two weights are read as one word, since a look-up costs loads and stores
    entry = np.zeros(STRIP, np.int32)
    counts = np.zeros(GROUP * STRIP, line.dtype)
    found = np.zeros(GROUP * STRIP, np.uint64)
    weights = found.view(np.float32)
    position, weigh, variance = np.zeros(GROUP, np.float32), np.zeros(GROUP, np.float32), np.zeros(GROUP, np.float32)
    for y in range(rows):
        i = patch_y[y]
        k = min(i + 1, chance.shape[1] - 1)
        for first in range(0, columns, STRIP):
            size = min(STRIP, columns - first)
            last, corner = first + size, y * row_step + first
            strip[:] = 0
            low, high = _begin(
                lit[y, first:last], peak[y, first:last], width[y, first:last], level[y, first:last], strip
            )
            if not low <= high:
                maps[:, y, first:last] = np.nan
                continue
            mixed[:] = np.float32(0.5)
            for group in range(0, starts.size, GROUP):
                before, after = True, True
                for g in range(GROUP):
                    f = min(group + g, starts.size - 1)  # the last group is completed by frames of zero weight
                    _take(line, starts[f] + corner, counts[g * STRIP : g * STRIP + size])
                    position[g], variance[g] = frames.position[f], frames.read[f]
                    weigh[g] = frames.weight[f] if group + g < starts.size else np.float32(0)
                    before &= position[g] <= low
                    after &= position[g] > high
                    _entries(position[g], strip, entry)
                    if method == 0:
                        _look_up(table, entry, found[g * STRIP : (g + 1) * STRIP])
                    else:
                        _look_up(windows[0], entry, prior)
                        _look_up(windows[1], entry, rest)
                        _look_up(windows[2], entry, inner)
                        _chances(chance[f], i, k, part_y[y], patch_x[first:], part_x[first:], mixed, size)
                        joined = weights[2 * g * STRIP : 2 * (g + 1) * STRIP]
                        _join(prior, rest, inner, mixed, method == 2, joined)
                if before:
                    _add(counts, weigh, variance, weights, strip, below)
                elif after:
                    _add(counts, weigh, variance, weights, strip, above)
                else:
                    for g in range(GROUP):
                        part, both = slice(g * STRIP, (g + 1) * STRIP), slice(2 * g * STRIP, 2 * (g + 1) * STRIP)
                        _add_split(counts[part], position[g], weigh[g], variance[g], weights[both], strip)
            _finish(strip, gain, least, maps, y, first, last)
