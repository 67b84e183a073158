"""Weighted sums of the counts over the scan, each pixel by its own local rocking coordinate.

Strips of pixels along x, the scan loop outside, small loops inside that do one thing each: all but the look-up
vectorise, and no sum is reordered, so that a pixel comes out the same wherever the layer is cut.
"""

from __future__ import annotations

import numpy as np
from numba import njit

TABLE_END, TABLE_STEPS = 8, 512  # windows are looked up: u from -8 to 8, 512 entries for 1
STRIP = 256  # pixels along x that are summed together: their sums stay in the first-level cache


@njit(nogil=True, cache=True)
def _entries(position, centre, inverse, entry, below):  # type: ignore[no-untyped-def]
    """Entry of the tables at the local coordinate of every place of a strip, and whether that lies below the peak."""
    last = np.float32(2 * TABLE_END * TABLE_STEPS - 1)
    scale, end, zero, one = np.float32(TABLE_STEPS), np.float32(TABLE_END), np.float32(0), np.float32(1)
    for n in range(STRIP):
        u = (position - centre[n]) * inverse[n]
        place = (u + end) * scale
        place = zero if place < zero else place
        place = last if place > last else place
        entry[n] = np.int32(place)
        below[n] = zero if u > zero else one


@njit(nogil=True, cache=True)
def _look_up(table, entry, found):  # type: ignore[no-untyped-def]
    for n in range(STRIP):
        found[n] = table[np.uintp(entry[n])]


@njit(nogil=True, cache=True)
def _join(prior, rest, inner, chance, fused, weak, strong):  # type: ignore[no-untyped-def]
    """Weights from the probability of the patches, alone or joined with the local coordinate by their log-odds."""
    one = np.float32(1)
    for n in range(STRIP):
        p = chance[n]
        a, b = prior[n] * p, (one - prior[n]) * (one - p)
        c, d = inner[n] * (one - p), (one - inner[n]) * p
        weak[n] = a / (a + b) * rest[n] if fused else p
        strong[n] = c / (c + d) if fused else one - p


@njit(nogil=True, cache=True)
def _above(line, start, level, above, known, width):  # type: ignore[no-untyped-def]
    """Counts above background; where they are no number, 0 and not known."""
    zero, one = np.float32(0), np.float32(1)
    for n in range(width):
        value = np.float32(line[np.uintp(start) + np.uintp(n)]) - level[n]
        known[n] = one if value == value else zero
        above[n] = value if value == value else zero


@njit(nogil=True, cache=True)
def _add(weights, known, above, weigh, total, norm):  # type: ignore[no-untyped-def]
    for n in range(STRIP):
        w = weights[n] * known[n] * weigh
        total[n] += w * above[n]
        norm[n] += w


@njit(nogil=True, cache=True)
def _add_weak(weights, below, known, above, weigh, read, sums):  # type: ignore[no-untyped-def]
    """Adds to the six sums of the weak beam, which stand one after the other."""
    for n in range(STRIP):
        w = weights[n] * known[n] * weigh
        value = w * above[n]
        sums[n] += value
        sums[STRIP + n] += w
        sums[2 * STRIP + n] += value * below[n]
        sums[3 * STRIP + n] += w * below[n]
        sums[4 * STRIP + n] += w * value
        sums[5 * STRIP + n] += w * w * read


@njit(nogil=True, cache=True)
def _chances(chance, i, k, part, patch_x, part_x, mixed, width):  # type: ignore[no-untyped-def]
    """Probability of the weak beam along a strip, between the centres of the patches."""
    for n in range(width):
        j = patch_x[n]
        m = min(j + 1, chance.shape[1] - 1)
        here = chance[i, j] + (chance[k, j] - chance[i, j]) * part
        there = chance[i, m] + (chance[k, m] - chance[i, m]) * part
        mixed[n] = here + (there - here) * part_x[n]


@njit(nogil=True, cache=True)
def integrate_layer(  # type: ignore[no-untyped-def]
    line, starts, row_step, positions, level, lit, peak, width, tables, weight, read, gain, method,
    chance, patch_y, part_y, patch_x, part_x, least, maps,
):  # fmt: skip
    """Fills weak, strong, weak below and above the peak, and the standard deviation of weak, strip by strip."""
    rows, columns = level.shape
    sums = np.zeros((8, STRIP), np.float32)
    buffers = np.zeros((9, STRIP), np.float32)
    flat = sums.reshape(8 * STRIP)
    total, norm, total_below, norm_below, photons, dark, strong_total, strong_norm = (
        sums[0], sums[1], sums[2], sums[3], sums[4], sums[5], sums[6], sums[7],
    )  # fmt: skip
    centre, inverse, below, weak, strong, above, known, mixed, rest = (
        buffers[0], buffers[1], buffers[2], buffers[3], buffers[4], buffers[5], buffers[6], buffers[7], buffers[8],
    )  # fmt: skip
    prior, inner = np.zeros(STRIP, np.float32), np.zeros(STRIP, np.float32)
    entry = np.zeros(STRIP, np.int32)
    seen = np.zeros(STRIP, np.bool_)
    both = tables[0] * tables[1]
    nothing = np.float32(np.nan)
    for y in range(rows):
        i = patch_y[y]
        k = min(i + 1, chance.shape[1] - 1)
        for first in range(0, columns, STRIP):
            size = min(STRIP, columns - first)
            buffers[:] = 0
            mixed[:] = np.float32(0.5)
            some = False
            for n in range(size):
                x = first + n
                seen[n] = lit[y, x] and width[y, x] > 0 and peak[y, x] == peak[y, x]
                centre[n] = peak[y, x] if seen[n] else np.float32(0)
                inverse[n] = np.float32(1) / width[y, x] if seen[n] else np.float32(0)  # u = 0: a place in the tables
                some |= seen[n]
            if not some:
                maps[:, y, first : first + size] = nothing
                continue
            sums[:] = 0
            for f in range(starts.size):
                _entries(positions[f], centre, inverse, entry, below)
                _above(line, starts[f] + y * row_step + first, level[y, first : first + size], above, known, size)
                if method == 0:
                    _look_up(both, entry, weak)
                    _look_up(tables[2], entry, strong)
                else:
                    _look_up(tables[0], entry, prior)
                    _look_up(tables[1], entry, rest)
                    _look_up(tables[2], entry, inner)
                    _chances(chance[f], i, k, part_y[y], patch_x[first:], part_x[first:], mixed, size)
                    _join(prior, rest, inner, mixed, method == 2, weak, strong)
                _add_weak(weak, below, known, above, weight[f], read[f], flat)
                _add(strong, known, above, weight[f], strong_total, strong_norm)
            for n in range(size):
                x = first + n
                over, rest_norm = total[n] - total_below[n], norm[n] - norm_below[n]
                good = seen[n] and norm[n] >= least
                light = gain * photons[n] if photons[n] > 0 else np.float32(0)
                maps[0, y, x] = total[n] / norm[n] if good else nothing
                maps[1, y, x] = strong_total[n] / strong_norm[n] if seen[n] and strong_norm[n] >= least else nothing
                maps[2, y, x] = total_below[n] / norm_below[n] if seen[n] and norm_below[n] >= least else nothing
                maps[3, y, x] = over / rest_norm if seen[n] and rest_norm >= least else nothing
                maps[4, y, x] = np.sqrt(light + dark[n]) / norm[n] if good else nothing
