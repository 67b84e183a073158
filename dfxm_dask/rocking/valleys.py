"""Valleys in the rocking curve of a pixel, which distinguish two peaks from one flat peak."""

from __future__ import annotations

import numpy as np
from numba import njit

BOX = 0.65  # standard deviations of a curve that are summed to judge a valley in it (our choice)
SEEN = 4  # times the noise: counts above this level belong to the curve (our choice)
VALLEY = 3.5  # standard deviations by which a valley lies below the lower of two peaks (our choice)


@njit(nogil=True, cache=True)
def has_valley(lines, pixel, level, scan, axis, limits, centre, width, curve):
    """Whether the curve of a pixel along an axis has two peaks with a valley that noise does not explain.

    The curve is the sum of the counts without cut over the other axes within two standard deviations, and then over
    boxes of `BOX` standard deviations along the axis. It extends from the first to the last position at which counts
    exceed the cut, or `SEEN` times the noise: dark frames have valleys of noise. The variance of a sum is that of the
    dark noise of its voxels plus its counts, at one count per photon.
    """
    curve[:] = 0
    place, step = scan.place, scan.step
    length = place[axis].max() + 1
    frames, first, last = 0, length, -1
    least = max(limits.cut, SEEN * limits.noise)
    for f in range(lines.starts.size):
        near = True
        for b in range(place.shape[0]):
            reach = max(2 * width[b], 0.500001 * step[b])
            near &= b == axis or abs(scan.positions[b, f] - centre[b]) <= reach
        if near:
            above = np.float64(lines.line[lines.starts[f] + pixel]) - level
            curve[place[axis, f]] += above
            frames += 1
            if above > least:
                first, last = min(first, place[axis, f]), max(last, place[axis, f])
    box = max(1, int(np.round(BOX * width[axis] / step[axis])))
    dark = limits.noise * limits.noise * box * frames / length
    after = curve[length:]  # sums over boxes, then the largest from here on
    curve = curve[first:length]
    length = last + 1 - first
    count = length - box + 1
    if count < 2 * box + 1:
        return False
    total = 0.0
    for k in range(length):
        total += curve[k]
        if k >= box:
            total -= curve[k - box]
        if k >= box - 1:
            after[k - box + 1] = total
    sums = curve[:count]
    sums[:] = after[:count]
    for k in range(count - 2, -1, -1):
        after[k] = max(after[k], after[k + 1])
    before = sums[0]
    for k in range(box, count - box):
        before = max(before, sums[k - box])
        peak = min(before, after[k + box])
        depth = peak - sums[k]
        if depth > 0 and depth * depth > VALLEY * VALLEY * (2 * dark + max(peak, 0.0) + max(sums[k], 0.0)):
            return True
    return False
