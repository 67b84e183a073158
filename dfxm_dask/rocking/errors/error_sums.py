"""Sums of the variances of the counts of every pixel behind a cut, and the errors of the moments that follow.

One pass over the counts, `STRIP` pixels along x at a time, after the moments are known: each frame then adds the
square of its influence on a moment, times the variance of its weight. Frames without a count near the cut in the strip
and in the frames beside it add nothing and are skipped.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit

STRIP = 64  # pixels along x that are summed together: few enough that many strips are dark in many frames
NEAR = 2.0  # noise below the cut; strips without a count above are skipped with their neighbours
# Gauss–Hermite quadrature of four points: distances of two pairs in standard deviations, and their weights.
FIRST, SECOND = np.float32((3 - 6**0.5) ** 0.5), np.float32((3 + 6**0.5) ** 0.5)
WEIGHT_FIRST, WEIGHT_SECOND = np.float32((3 + 6**0.5) / 12), np.float32((3 - 6**0.5) / 12)
QUARTER, HALF, ZERO, ONE, TWO = np.float32(0.25), np.float32(0.5), np.float32(0), np.float32(1), np.float32(2)
LEAST = np.float32(0.3)  # of the noise at the cut: the least noise in the linear form
STEEPEST_NOISE = np.float32(0.25)  # per count: the largest slope of the linear form
# Rows of two flat arrays, since the compiler only proves that rows at fixed distances do not overlap. Of a frame:
# variance of the weight, response of its mean to the background, weight; and their sums over all frames.
VARIANCE, RESPONSE, WEIGHT, SUM, ANSWER, ALL, ROWS = range(7)
# Of an axis, with the distance d from the centre in standard deviations: centre, 1 / standard deviation, sums of the
# variance times d² and d⁴, of the response times d and d², and of weight and weight times d in even frames.
CENTRE, INVERSE, SQUARE, FOURTH, FIRST_ANSWER, SQUARE_ANSWER, EVEN, EVEN_FIRST, AXIS_ROWS = range(9)


class Frames(NamedTuple):
    """Frames of a scan in lines along its longest axis.

    Attributes
    ----------
    order : array (line, position along the longest axis), int
        Number of the frame.
    unit : array (axis, frame), float32
        Positions, scaled to −1 … 1.
    even : array (axis, frame), bool
        Whether the number of the position along the axis is even.
    scale : array (frame,), float32
        Factor of the counts of a frame relative to raw counts.
    """

    order: np.ndarray
    unit: np.ndarray
    even: np.ndarray
    scale: np.ndarray


class Noise(NamedTuple):
    """Noise of the camera and the cut.

    Attributes
    ----------
    dark : float32, count
        Standard deviation of raw counts without diffracted beam.
    gain : float32, 1/count
        Photons per count.
    cut : float32, count
    level : float32, count
        Standard error of the background.
    """

    dark: np.float32
    gain: np.float32
    cut: np.float32
    level: np.float32


@njit(nogil=True, cache=True, fastmath={"contract"}, error_model="numpy")
def _variances(curve, rows, coefficients, strip, dark2, per_count, cut, half_cut, steep):
    """Variance of the weight in one frame, its response to the background, and the weight, for a strip.

    Two independent repeats of a count are m + a and m − a, where m and a are independent and have half the variance of
    a count each: a smoothed curve gives m, quadrature the expectation of the squared difference over a. Near the cut,
    the standard deviation of a is linear in m, which needs neither roots nor divisions; above it the variance is exact.
    """
    i0, i1, i2 = np.uintp(rows[0]), np.uintp(rows[1]), np.uintp(rows[2])
    i3, i4 = np.uintp(rows[3]), np.uintp(rows[4])
    c0, c1, c2 = coefficients[0], coefficients[1], coefficients[2]
    least, inverse = LEAST * half_cut, ONE / half_cut
    for n in range(STRIP):
        x = np.uintp(n)
        own = curve[i0 + x]
        mean = c0 * own + c1 * (curve[i1 + x] + curve[i2 + x]) + c2 * (curve[i3 + x] + curve[i4 + x])
        beyond = mean - cut
        half = half_cut + steep * beyond
        half = half if half > least else least
        a, b = FIRST * half, SECOND * half
        first = (mean + a if beyond > -a else ZERO) - (mean - a if beyond > a else ZERO)
        second = (mean + b if beyond > -b else ZERO) - (mean - b if beyond > b else ZERO)
        both = WEIGHT_FIRST * first * first + WEIGHT_SECOND * second * second
        both = dark2 + per_count * mean if beyond > b else both
        answer = (WEIGHT_FIRST * FIRST * first + WEIGHT_SECOND * SECOND * second) * inverse * (TWO - half * inverse)
        answer = ONE if beyond > b else answer
        weight = ZERO if own <= cut else own  # in this order NaN stays NaN
        strip[VARIANCE * STRIP + n], strip[RESPONSE * STRIP + n], strip[WEIGHT * STRIP + n] = both, answer, weight
        strip[SUM * STRIP + n] += both
        strip[ANSWER * STRIP + n] += answer
        strip[ALL * STRIP + n] += weight


@njit(nogil=True, cache=True, fastmath={"contract"})
def _add_axis(strip, sums, u):
    """Adds one frame to the sums of one axis."""
    for n in range(STRIP):
        variance, response = strip[VARIANCE * STRIP + n], strip[RESPONSE * STRIP + n]
        d = (u - sums[CENTRE * STRIP + n]) * sums[INVERSE * STRIP + n]
        square = d * d
        sums[SQUARE * STRIP + n] += variance * square
        sums[FOURTH * STRIP + n] += variance * square * square
        sums[FIRST_ANSWER * STRIP + n] += response * d
        sums[SQUARE_ANSWER * STRIP + n] += response * square


@njit(nogil=True, cache=True, fastmath={"contract"})
def _add_even(strip, sums, u):
    """Adds one even frame to the half of an axis."""
    for n in range(STRIP):
        weight = strip[WEIGHT * STRIP + n]
        sums[EVEN * STRIP + n] += weight
        sums[EVEN_FIRST * STRIP + n] += weight * ((u - sums[CENTRE * STRIP + n]) * sums[INVERSE * STRIP + n])


@njit(nogil=True, cache=True, fastmath={"contract"})
def _add_pair(strip, first, second, u, v, pair):
    """Adds one frame to the sums of the variance times the product of the distances along two axes, and its square."""
    for n in range(STRIP):
        d = (u - first[CENTRE * STRIP + n]) * first[INVERSE * STRIP + n]
        e = (v - second[CENTRE * STRIP + n]) * second[INVERSE * STRIP + n]
        product = d * e
        pair[n] += strip[VARIANCE * STRIP + n] * product
        pair[STRIP + n] += strip[VARIANCE * STRIP + n] * product * product


@njit(nogil=True, cache=True)
def _add_frame(strip, sums, pairs, frames, f):
    """Adds one frame to the sums of all axes, after its variances are known."""
    axes = frames.unit.shape[0]
    for a in range(axes):
        _add_axis(strip, sums[a], frames.unit[a, f])
        if frames.even[a, f]:
            _add_even(strip, sums[a], frames.unit[a, f])
    row = 0
    for a in range(axes):
        for b in range(a + 1, axes):
            _add_pair(strip, sums[a], sums[b], frames.unit[a, f], frames.unit[b, f], pairs[row])
            row += 1


@njit(nogil=True, cache=True)
def _smoothing(j, last, rows, coefficients):
    """Rows and coefficients that halve the variance of a count; exact up to the third degree away from the ends."""
    if 2 <= j <= last - 2:
        coefficients[0], coefficients[1], coefficients[2] = (
            np.float32(17 / 35),
            np.float32(12 / 35),
            np.float32(-3 / 35),
        )
        rows[0], rows[1], rows[2], rows[3], rows[4] = j, j - 1, j + 1, j - 2, j + 2
    elif 1 <= j <= last - 1:
        coefficients[0], coefficients[1], coefficients[2] = np.float32(4 / 6), np.float32(1 / 6), ZERO
        rows[0], rows[1], rows[2], rows[3], rows[4] = j, j - 1, j + 1, j, j
    else:
        beside = 0 if last == 0 else 1 if j == 0 else last - 1
        coefficients[0], coefficients[1], coefficients[2] = HALF, QUARTER, ZERO
        rows[0], rows[1], rows[2], rows[3], rows[4] = j, beside, beside, j, j
    for k in range(5):
        rows[k] *= STRIP


@njit(nogil=True, cache=True)
def _load(line, start, width, level, curve, row, limit):
    """Copies one frame of a strip above background; whether any of its counts exceeds the limit."""
    seen = np.int32(0)
    if width == STRIP:
        for n in range(STRIP):
            value = np.float32(line[np.uintp(start) + np.uintp(n)]) - level[n]
            curve[np.uintp(row) + np.uintp(n)] = value
            seen |= np.int32(not value <= limit)  # in this order NaN is seen
    else:
        for n in range(width):
            value = np.float32(line[np.uintp(start) + np.uintp(n)]) - level[n]
            curve[np.uintp(row) + np.uintp(n)] = value
            seen |= np.int32(not value <= limit)  # in this order NaN is seen
    return seen > 0


@njit(nogil=True, cache=True)
def add_strip(lines, corner, width, level, frames, noise, curve, near, strip, sums, pairs):
    """Adds all frames to the sums of a strip.

    Parameters
    ----------
    lines : FrameLines
    corner : int
        Offset of the first pixel of the strip in a frame.
    width : int
        Pixels of the layer in the strip.
    level : array (STRIP,), float32
        Background.
    frames : Frames
    noise : Noise
    curve, near : arrays
        Room for one line of the scan.
    strip, sums, pairs : arrays (row), (axis, row) and (pair, row), float32
        Filled; the centres and inverse standard deviations are known.
    """
    length = frames.order.shape[1]
    last = length - 1
    rows, coefficients = np.empty(5, np.int64), np.empty(3, np.float32)
    for i in range(frames.order.shape[0]):
        any_near = False
        for j in range(length):
            f = frames.order[i, j]
            limit = (
                (noise.cut - np.float32(NEAR) * noise.dark) * frames.scale[f] if noise.cut > ZERO else np.float32(-1e30)
            )
            near[j] = _load(lines.line, lines.starts[f] + corner, width, level, curve, j * STRIP, limit)
            any_near |= near[j]
        if not any_near:
            continue
        for j in range(length):
            first, final = max(0, j - 2), min(last, j + 2)
            here = False
            for k in range(first, final + 1):
                here |= near[k]
            if here:
                f = frames.order[i, j]
                scale = frames.scale[f]
                _smoothing(j, last, rows, coefficients)
                dark2, per_count, cut = (noise.dark * scale) ** 2, scale / noise.gain, noise.cut * scale
                half = max(np.sqrt(HALF * (dark2 + per_count * cut)), np.float32(1e-6))
                steep = min(QUARTER * per_count / half, STEEPEST_NOISE)
                _variances(curve, rows, coefficients, strip, dark2, per_count, cut, half, steep)
                _add_frame(strip, sums, pairs, frames, f)
