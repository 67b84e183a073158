"""Sums of powers of the scan position, weighted by the counts, and the moments that follow from them.

One pass over the counts, 128 pixels along x at a time: the scan loop outside, the pixels inside, so that the compiler
works on several pixels with each instruction and the sums stay in the first-level cache.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit

UNLIT, TRUNCATED, SATURATED, HOT_PIXEL, MULTIMODAL, SINGLE, NO_COUNT = 1, 2, 4, 8, 16, 32, 64
STRIP = 128  # pixels along x that are summed together: their sums stay in the first-level cache
BOX = 0.65  # standard deviations of a curve that are summed to judge a valley in it (our choice)
SEEN = 4  # times the noise: counts above this level belong to the curve (our choice)
VALLEY = 3.5  # standard deviations by which a valley lies below the lower of two peaks (our choice)
GROUP = 4  # frames added in one go, so that the sums are loaded and stored once for four frames
# The strip buffer is one flat array, since the compiler only proves that its rows do not overlap at fixed distances.
# Rows 0 … 4 hold the sums of w u**k, then: background, maximum above it, frame of the maximum, maximum at the border,
# hot, well full, lit and weight in one position of every axis (0 or 1 each), 0 or NaN where maps are hidden, flags.
LEVEL, MOST, AT, EDGE, HOT_HERE, FULL, LIT, POINT, HIDE, FLAG, ROWS = 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15


class Pixels(NamedTuple):
    """Background, hot and saturated pixels of a layer.

    Attributes
    ----------
    background : array (y, x), float32, count
        Subtracted from the counts.
    hot : array (y, x), bool
        Pixels to leave out.
    full : array (y, x), bool
        Pixels that are saturated, whatever their counts.
    """

    background: np.ndarray
    hot: np.ndarray
    full: np.ndarray


class Scan(NamedTuple):
    """Positions of the frames, and the powers of these positions that multiply the counts.

    Attributes
    ----------
    positions : array (axis, frame)
        Position of each frame.
    place : array (axis, frame), int
        Number of its position along each axis.
    middle, half, step : array (axis,)
        Centre, half range and mean step of each axis.
    inner : array (position along the last axis, 5)
        Powers 0 … 4 of the last axis's positions, scaled to −1 … 1; filled up with zeros to a multiple of GROUP.
    outer : array (frame // length of the last axis, axis except the last)
        Positions along the other axes, scaled to −1 … 1.
    each : array (frame or none, row)
        For frames off the grid: contribution of the weight of each frame to the rows of the sums, instead of `inner`
        and `outer`; see :func:`_add_line`.
    border : array (frame,), int
        Frames at the border of the scan.
    """

    positions: np.ndarray
    place: np.ndarray
    middle: np.ndarray
    half: np.ndarray
    step: np.ndarray
    inner: np.ndarray
    outer: np.ndarray
    each: np.ndarray
    border: np.ndarray


class Limits(NamedTuple):
    """Noise, and thresholds of lit, truncated and saturated pixels.

    Attributes
    ----------
    noise : float, count
        Standard deviation of the counts of a voxel without diffracted beam.
    cut : float, count
        Counts above background that get zero weight; not negative.
    lit_above, edge_fraction, saturation : float
        See :func:`dfxm_dask.rocking.moments`.
    """

    noise: float
    cut: float
    lit_above: float
    edge_fraction: float
    saturation: float


class Maps(NamedTuple):
    """Maps of a layer.

    Attributes
    ----------
    total, peak : array (y, x), float32
    places : array (2 × axis, y, x), float64
        Peak position and centre of mass for each axis.
    shapes : array (map, y, x), float32
        Standard deviation, skewness and excess kurtosis for each axis, then the covariance for each pair.
    flags : array (y, x), uint8
    """

    total: np.ndarray
    peak: np.ndarray
    places: np.ndarray
    shapes: np.ndarray
    flags: np.ndarray


@njit(nogil=True, cache=True, fastmath={"contract"})
def _add_frames(line, start, strip, power, frame, cut):
    """Adds four frames to a strip: sums of w u**k for k = 0 … 4, the maximum above background and its frame.

    The loop always runs over a full strip, so that the instructions for a pixel do not depend on the division of the
    layer into blocks. Frames that fill up the last group have power 0 and repeat the last frame, which changes neither
    sums nor maximum.
    """
    i, j, k, m = np.uintp(start[0]), np.uintp(start[1]), np.uintp(start[2]), np.uintp(start[3])
    a0, a1, a2, a3, a4 = power[0, 0], power[0, 1], power[0, 2], power[0, 3], power[0, 4]
    b0, b1, b2, b3, b4 = power[1, 0], power[1, 1], power[1, 2], power[1, 3], power[1, 4]
    c0, c1, c2, c3, c4 = power[2, 0], power[2, 1], power[2, 2], power[2, 3], power[2, 4]
    d0, d1, d2, d3, d4 = power[3, 0], power[3, 1], power[3, 2], power[3, 3], power[3, 4]
    first, second = np.float64(frame), np.float64(frame + 1)
    third, fourth = np.float64(frame + 2), np.float64(frame + 3)
    for n in range(STRIP):
        x = np.uintp(n)
        level = strip[LEVEL * STRIP + n]
        a = np.float64(line[i + x]) - level
        b = np.float64(line[j + x]) - level
        c = np.float64(line[k + x]) - level
        d = np.float64(line[m + x]) - level
        most, at = strip[MOST * STRIP + n], strip[AT * STRIP + n]
        at = first if a > most else at
        most = a if a > most else most
        at = second if b > most else at
        most = b if b > most else most
        at = third if c > most else at
        most = c if c > most else most
        at = fourth if d > most else at
        most = d if d > most else most
        strip[MOST * STRIP + n], strip[AT * STRIP + n] = most, at
        a = 0.0 if a <= cut else a  # in this order NaN stays NaN
        b = 0.0 if b <= cut else b
        c = 0.0 if c <= cut else c
        d = 0.0 if d <= cut else d
        strip[n] = strip[n] + a * a0 + b * b0 + c * c0 + d * d0
        strip[STRIP + n] = strip[STRIP + n] + a * a1 + b * b1 + c * c1 + d * d1
        strip[2 * STRIP + n] = strip[2 * STRIP + n] + a * a2 + b * b2 + c * c2 + d * d2
        strip[3 * STRIP + n] = strip[3 * STRIP + n] + a * a3 + b * b3 + c * c3 + d * d3
        strip[4 * STRIP + n] = strip[4 * STRIP + n] + a * a4 + b * b4 + c * c4 + d * d4


@njit(nogil=True, cache=True)
def _add_frame(line, start, width, strip, weight, whole, coefficient, frame, cut):
    """Adds a frame to the sums over the whole scan like :func:`_add_frames`, for frames off the grid."""
    for n in range(width):
        above = np.float64(line[np.uintp(start) + np.uintp(n)]) - strip[LEVEL * STRIP + n]
        strip[AT * STRIP + n] = frame if above > strip[MOST * STRIP + n] else strip[AT * STRIP + n]
        strip[MOST * STRIP + n] = above if above > strip[MOST * STRIP + n] else strip[MOST * STRIP + n]
        weight[n] = 0.0 if above <= cut else above
    for row in range(whole.shape[0]):
        for n in range(width):
            whole[row, n] += coefficient[row] * weight[n]


@njit(nogil=True, cache=True)
def _keep_border(line, start, width, strip):
    """Keeps the maximum above background over frames at the border of the scan."""
    for n in range(width):
        above = np.float64(line[np.uintp(start) + np.uintp(n)]) - strip[LEVEL * STRIP + n]
        strip[EDGE * STRIP + n] = above if above > strip[EDGE * STRIP + n] else strip[EDGE * STRIP + n]


@njit(nogil=True, cache=True)
def _add_line(strip, whole, outer):
    """Adds the sums along the last scan axis, at one position of the outer axes, to the sums over the whole scan.

    Rows of `whole`: sum of w; for each axis the sums of w u**k, k = 1 … 4; for each pair of axes the sum of w u v.
    """
    inner = outer.size
    for x in range(STRIP):
        whole[0, x] += strip[x]
    for k in range(1, 5):
        for x in range(STRIP):
            whole[4 * inner + k, x] += strip[k * STRIP + x]
    pair = 1 + 4 * (inner + 1)
    for a in range(inner):
        factor = 1.0
        for k in range(1, 5):
            factor *= outer[a]
            for x in range(STRIP):
                whole[4 * a + k, x] += factor * strip[x]
        for b in range(a + 1, inner):
            for x in range(STRIP):
                whole[pair, x] += outer[a] * outer[b] * strip[x]
            pair += 1
        for x in range(STRIP):
            whole[pair, x] += outer[a] * strip[STRIP + x]
        pair += 1


@njit(nogil=True, cache=True, error_model="numpy")
def _central(total, sums, middle, half, step, shape, several, strip):
    """Moments along one axis about the centre of mass, and whether the bimodality coefficient exceeds 5/9."""
    for x in range(STRIP):
        one = 1.0 / total[x]
        m1, m2 = sums[x] * one, sums[STRIP + x] * one
        m3, m4 = sums[2 * STRIP + x] * one, sums[3 * STRIP + x] * one
        variance = m2 - m1 * m1
        # All weight in one frame, up to rounding: no width, and no skewness or kurtosis.
        point = variance <= 64 * 2.220446049250313e-16 * m2
        deviation = np.sqrt(0.0 if point else variance)
        inverse = 1.0 / (np.nan if point else variance)  # divisions are the slowest part here
        # Chosen, not added: the compiler decides which of two NaN, and thus which sign bit, a sum keeps.
        seen = strip[HIDE * STRIP + x] == 0
        skewness = (m3 - 3 * m1 * m2 + 2 * m1 * m1 * m1) * inverse * (inverse * deviation)
        kurtosis = (m4 - 4 * m1 * m3 + 6 * m1 * m1 * m2 - 3 * m1 * m1 * m1 * m1) * inverse * inverse
        shape[x] = middle + half * m1 if seen else np.nan
        shape[STRIP + x] = half * deviation if seen else np.nan
        shape[2 * STRIP + x] = skewness if seen and not point else np.nan
        shape[3 * STRIP + x] = kurtosis - 3 if seen and not point else np.nan
        # Two neighbouring frames are at most half a step wide and always have the coefficient 1: not judged.
        wide = 1.0 if half * deviation > 0.500001 * step else 0.0
        several[x] = wide if 9 * (skewness * skewness + 1) > 5 * kurtosis else 0.0
        strip[POINT * STRIP + x] = strip[POINT * STRIP + x] if point else 0.0


@njit(nogil=True, cache=True)
def _judge(total, strip, lit_above, edge_fraction, saturation):
    """Flags of a strip, and pixels whose maps are NaN. Numbers instead of branches, so that the loop vectorises."""
    for x in range(STRIP):
        most = strip[MOST * STRIP + x] if strip[MOST * STRIP + x] > 0 else 0.0
        hot = strip[HOT_HERE * STRIP + x]
        known = 0.0 if hot > 0 else 1.0
        known = known if total[x] == total[x] else 0.0
        lit = known if most > lit_above else 0.0
        cut = lit if strip[EDGE * STRIP + x] > edge_fraction * most else 0.0
        full = 1.0 if strip[MOST * STRIP + x] + strip[LEVEL * STRIP + x] >= saturation else strip[FULL * STRIP + x]
        gone = 0.0 if total[x] == total[x] or hot > 0 else 1.0
        wrong = UNLIT * (known - lit) + TRUNCATED * cut + SATURATED * full + HOT_PIXEL * hot + NO_COUNT * gone
        strip[FLAG * STRIP + x] = wrong
        strip[LIT * STRIP + x] = lit
        strip[MOST * STRIP + x] = most if known > 0 else np.nan
        strip[x] = total[x] if known > 0 else np.nan
        strip[HIDE * STRIP + x] = 0.0 if lit > 0 else np.nan


@njit(nogil=True, cache=True, error_model="numpy")
def _covariance(whole, first, second, product, scale, strip, shape):
    """Covariance of two axes, from the rows of their sums and of the sum of their products."""
    for x in range(STRIP):
        one = 1.0 / whole[0, x]
        mixed = whole[product, x] * one - whole[first, x] * one * (whole[second, x] * one)
        shape[x] = scale * mixed if strip[HIDE * STRIP + x] == 0 else np.nan


@njit(nogil=True, cache=True)
def _copy(source, target):
    for n in range(target.size):
        target[n] = source[n]


@njit(nogil=True, cache=True)
def _look_up(position, strip, target):
    """Position of the maximum, or NaN where maps are hidden."""
    for n in range(target.size):
        value = position[np.uintp(np.int64(strip[AT * STRIP + n]))]
        target[n] = value if strip[HIDE * STRIP + n] == 0 else np.nan


@njit(nogil=True, cache=True)
def _has_valley(lines, pixel, level, scan, axis, limits, centre, width, curve):
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


@njit(nogil=True, cache=True)
def _flag_valleys(lines, corner, width, scan, limits, several, around, strip, curve):
    """Flags lit pixels of a strip whose curve along an axis is wide or flat and has a valley."""
    for a in range(scan.middle.size):
        for n in range(width):
            if several[a, n] * strip[LIT * STRIP + n] == 0 or int(strip[FLAG * STRIP + n]) & MULTIMODAL:
                continue
            level = strip[LEVEL * STRIP + n]
            if _has_valley(lines, corner + n, level, scan, a, limits, around[0, n], around[1, n], curve):
                strip[FLAG * STRIP + n] += MULTIMODAL


@njit(nogil=True, cache=True)
def _begin(pixels, y, first, last, strip):
    """Empties the sums of a strip, and copies the background and the hot and saturated pixels."""
    width = last - first
    strip[:] = 0
    strip[MOST * STRIP : (MOST + 1) * STRIP] = -np.inf
    strip[POINT * STRIP : (POINT + 1) * STRIP] = 1
    _copy(pixels.background[y, first:last], strip[LEVEL * STRIP : LEVEL * STRIP + width])
    _copy(pixels.hot[y, first:last], strip[HOT_HERE * STRIP : HOT_HERE * STRIP + width])
    _copy(pixels.full[y, first:last], strip[FULL * STRIP : FULL * STRIP + width])


@njit(nogil=True, cache=True)
def _add_scan(lines, corner, width, scan, cut, strip, whole):
    """Adds all frames to the sums of a strip, line by line of the grid; each by itself where frames lie off it."""
    line, starts = lines.line, lines.starts
    weight, start = np.empty(STRIP), np.empty(GROUP, np.int64)
    spare = np.zeros(GROUP * STRIP, line.dtype)  # room for a strip that is not full
    whole[:] = 0
    for frame in range(scan.each.shape[0]):
        _add_frame(line, starts[frame] + corner, width, strip, weight, whole, scan.each[frame], frame, cut)
    count = scan.outer.shape[0]
    length = starts.size // count
    for i in range(count if scan.each.shape[0] == 0 else 0):
        strip[: 5 * STRIP] = 0
        for j in range(0, length, GROUP):
            for k in range(GROUP):
                start[k] = starts[i * length + min(j + k, length - 1)] + corner
            if width == STRIP:
                _add_frames(line, start, strip, scan.inner[j : j + GROUP], i * length + j, cut)
            else:
                for k in range(GROUP):
                    for n in range(width):
                        spare[k * STRIP + n] = line[start[k] + n]
                    start[k] = k * STRIP
                _add_frames(spare, start, strip, scan.inner[j : j + GROUP], i * length + j, cut)
        _add_line(strip, whole, scan.outer[i])
    for frame in scan.border:
        _keep_border(line, starts[frame] + corner, width, strip)


@njit(nogil=True, cache=True)
def moments_of_layer(lines, pixels, scan, limits, maps):
    """Fills the maps of one layer, strip by strip.

    Parameters
    ----------
    lines : FrameLines
    pixels : Pixels
    scan : Scan
    limits : Limits
    maps : Maps
        Filled.
    """
    rows, columns = maps.total.shape
    axes, half = scan.middle.size, scan.half
    strip = np.zeros(ROWS * STRIP)
    whole = np.empty((1 + 4 * axes + axes * (axes - 1) // 2, STRIP))
    shape = np.empty(4 * STRIP)
    several, around = np.empty((axes, STRIP)), np.empty((2, STRIP, axes))
    curve = np.empty(2 * (scan.place.max() + 1))
    for y in range(rows):
        for first in range(0, columns, STRIP):
            width = min(STRIP, columns - first)
            last, corner = first + width, y * lines.row_step + first
            _begin(pixels, y, first, last, strip)
            _add_scan(lines, corner, width, scan, limits.cut, strip, whole)
            _judge(whole[0], strip, limits.lit_above, limits.edge_fraction, limits.saturation)
            for a in range(axes):
                _look_up(scan.positions[a], strip, maps.places[2 * a, y, first:last])
                sums = whole[1 + 4 * a : 5 + 4 * a].reshape(4 * STRIP)
                _central(whole[0], sums, scan.middle[a], half[a], scan.step[a], shape, several[a], strip)
                _copy(shape[:width], maps.places[2 * a + 1, y, first:last])
                for m in range(3):
                    _copy(shape[(m + 1) * STRIP : (m + 1) * STRIP + width], maps.shapes[3 * a + m, y, first:last])
                around[0, :, a] = shape[:STRIP]
                around[1, :, a] = shape[STRIP : 2 * STRIP]
            pair = 0
            for a in range(axes):
                for b in range(a + 1, axes):
                    _covariance(whole, 4 * a + 1, 4 * b + 1, 1 + 4 * axes + pair, half[a] * half[b], strip, shape)
                    _copy(shape[:width], maps.shapes[3 * axes + pair, y, first:last])
                    pair += 1
            _copy(strip[:width], maps.total[y, first:last])
            _copy(strip[MOST * STRIP : MOST * STRIP + width], maps.peak[y, first:last])
            for n in range(STRIP):
                strip[FLAG * STRIP + n] += SINGLE * strip[LIT * STRIP + n] * strip[POINT * STRIP + n]
            _flag_valleys(lines, corner, width, scan, limits, several, around, strip, curve)
            _copy(strip[FLAG * STRIP : FLAG * STRIP + width], maps.flags[y, first:last])
