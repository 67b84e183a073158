"""Errors of the moments of every pixel, from the sums of its variances, and its width without the cut."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numba import njit

from dfxm_dask.rocking.errors.cut_gaussian import FLAT, SHARP
from dfxm_dask.rocking.errors.error_sums import (
    ALL,
    ANSWER,
    AXIS_ROWS,
    CENTRE,
    EVEN,
    EVEN_FIRST,
    FIRST_ANSWER,
    FOURTH,
    INVERSE,
    ROWS,
    SQUARE,
    SQUARE_ANSWER,
    STRIP,
    SUM,
    add_strip,
)

CLEAR = 1.5  # noise units by which a maximum must exceed the cut for errors (our choice, see Notes)
HIGH = 3.0  # cuts: least height of a Gaussian curve with a width (our choice, see Notes)
SAMPLED = 1.2  # steps: least standard deviation of a curve that every second frame still samples (our choice)
FIRST_MAPS, PER_AXIS = 2, 5  # total and peak; then for each axis: peak position, std, width, its error, split


class Curves(NamedTuple):
    """Moments of a layer.

    Attributes
    ----------
    total, peak : array (y, x), float32
    com, std : array (axis, y, x), float64 and float32
    odd : array (y, x), bool
        Whether the curve has several peaks, or is truncated or saturated.
    """

    total: np.ndarray
    peak: np.ndarray
    com: np.ndarray
    std: np.ndarray
    odd: np.ndarray


class Tables(NamedTuple):
    """Tables of :mod:`dfxm_dask.rocking.errors.cut_gaussian`, and the positions that they are scaled to.

    Attributes
    ----------
    low : float
    widths, maximum : arrays
        ``widths`` is empty without a cut.
    middle, half, step : array (axis,)
    """

    low: float
    widths: np.ndarray
    maximum: np.ndarray
    middle: np.ndarray
    half: np.ndarray
    step: np.ndarray


@njit(nogil=True, cache=True, error_model="numpy")
def _begin(sums, curves, y, first, width, tables):
    """Centres and inverse standard deviations of a strip; 0 for pixels without."""
    for a in range(curves.com.shape[0]):
        middle, half = tables.middle[a], tables.half[a]
        for n in range(width):
            std = np.float64(curves.std[a, y, first + n])
            good = std > 0
            sums[a, CENTRE * STRIP + n] = (curves.com[a, y, first + n] - middle) / half if good else 0.0
            sums[a, INVERSE * STRIP + n] = half / std if good else 0.0


@njit(nogil=True, cache=True, error_model="numpy")
def _kept(q, tables):
    """Part of the width that the cut keeps, and its logarithmic derivative; NaN for curves below the table."""
    nodes = tables.widths.shape[0]
    if nodes == 0:
        return 1.0, 0.0
    place = math.sqrt(tables.low / q) * (nodes - 1)
    if not place < nodes - 1:
        return np.nan, np.nan
    k = int(place)
    part = place - k
    kept = tables.widths[k, 0] + part * (tables.widths[k + 1, 0] - tables.widths[k, 0])
    return kept, tables.widths[k, 1] + part * (tables.widths[k + 1, 1] - tables.widths[k, 1])


@njit(nogil=True, cache=True, error_model="numpy")
def _maximum(steep, tables):
    """Scatter of the maximum in noise units and the distance of its frame from the centre in steps; NaN if too flat."""
    last = tables.maximum.shape[0] - 1
    t = 1.0 / (1.0 + math.sqrt(steep))
    if not t <= FLAT:
        return np.nan, np.nan
    at = max((t - SHARP) * last / (1 - SHARP), 0.0)
    k = min(int(at), last - 1)
    part = at - k
    high = tables.maximum[k, 0] + part * (tables.maximum[k + 1, 0] - tables.maximum[k, 0])
    return high, tables.maximum[k, 1] + part * (tables.maximum[k + 1, 1] - tables.maximum[k, 1])


@njit(nogil=True, cache=True, error_model="numpy")
def _width_variance(sums, pairs, spread, answer, level, n, a, bend):
    """Variance of the logarithm of the width along axis a, times the squared sum.

    A weight moves this logarithm by own_a + bend (Σ own_b − 1), with own = (d² − 1) / 2 along an axis.
    """
    axes = sums.shape[0]
    variance, moved, pair = bend * bend * spread, -bend * answer, 0
    for b in range(axes):
        factor = bend + (1.0 if b == a else 0.0)
        square, fourth = np.float64(sums[b, SQUARE * STRIP + n]), np.float64(sums[b, FOURTH * STRIP + n])
        variance += factor * factor * 0.25 * (fourth - 2 * square + spread) - bend * factor * (square - spread)
        moved += factor * 0.5 * (sums[b, SQUARE_ANSWER * STRIP + n] - answer)
        for c in range(b + 1, axes):
            mixed = pairs[pair, STRIP + n] - square - sums[c, SQUARE * STRIP + n] + spread
            variance += 0.5 * factor * (bend + (1.0 if c == a else 0.0)) * mixed
            pair += 1
    return max(variance, 0.0) + level * moved * moved


@njit(nogil=True, cache=True, error_model="numpy")
def _finish(strip, sums, pairs, curves, y, first, width, noise, tables, errors, covariance):
    """Errors of a strip from its sums."""
    axes = curves.com.shape[0]
    level = np.float64(noise.level) ** 2
    for n in range(width):
        x = first + n
        total, peak = np.float64(curves.total[y, x]), np.float64(curves.peak[y, x])
        spread, answer = np.float64(strip[SUM * STRIP + n]), np.float64(strip[ANSWER * STRIP + n])
        # Moments of another cut or background, which no error here belongs to.
        other = not abs(strip[ALL * STRIP + n] - total) <= 1e-3 * total + 1
        errors[0, y, x] = math.sqrt(spread + level * answer * answer) if total == total and not other else np.nan
        lit, q = total > 0, total
        for a in range(axes):
            lit &= curves.std[a, y, x] > 0
            q *= tables.step[a] / curves.std[a, y, x]
        single = noise.dark * noise.dark + max(peak, 0.0) / noise.gain
        clear = lit and peak > noise.cut and (peak - noise.cut) * (peak - noise.cut) > CLEAR * CLEAR * single
        if not lit or other:
            continue
        one = 1.0 / total
        for a in range(axes):
            even = np.float64(sums[a, EVEN * STRIP + n])
            if even > 0 and total - even > 0.5 and curves.std[a, y, x] > SAMPLED * tables.step[a]:
                half = 0.5 * sums[a, EVEN_FIRST * STRIP + n] * curves.std[a, y, x]
                errors[FIRST_MAPS + a * PER_AXIS + 4, y, x] = half * total / (even * (total - even))
        if not clear:
            continue
        kept, bend = _kept(q, tables)
        row = pair = 0
        for a in range(axes):
            std = np.float64(curves.std[a, y, x])
            square, fourth = np.float64(sums[a, SQUARE * STRIP + n]), np.float64(sums[a, FOURTH * STRIP + n])
            moved = 0.5 * (sums[a, SQUARE_ANSWER * STRIP + n] - answer)
            variance = 0.25 * (fourth - 2 * square + spread) + level * moved * moved
            place = FIRST_MAPS + a * PER_AXIS
            errors[place + 1, y, x] = std * one * math.sqrt(max(variance, 0.0))
            if kept > 0 and not curves.odd[y, x]:
                # Noise moves the centre and the sum, which makes the width of noisy curves too small.
                wide = std * math.sqrt(1.0 + (2 * square - spread) * one * one) / kept
                variance = _width_variance(sums, pairs, spread, answer, level, n, a, bend)
                errors[place + 2, y, x] = wide
                errors[place + 3, y, x] = wide * one * math.sqrt(variance)
                if axes == 1:
                    ratio = tables.step[a] / wide
                    high, away = _maximum(peak / math.sqrt(single) * ratio * ratio, tables)
                    errors[1, y, x] = math.sqrt(high * high * single + level)
                    errors[place, y, x] = away * tables.step[a]
            for b in range(a, axes):
                value = square if b == a else np.float64(pairs[pair, n])
                pair += 0 if b == a else 1
                both = np.float64(sums[a, FIRST_ANSWER * STRIP + n]) * sums[b, FIRST_ANSWER * STRIP + n]
                covariance[row, y, x] = std * curves.std[b, y, x] * one * one * (value + level * both)
                row += 1


@njit(nogil=True, cache=True)
def fill_errors(lines, background, curves, frames, noise, typical, tables, errors, covariance):
    """Fills the errors of a layer, and the covariances of its centres.

    Parameters
    ----------
    lines : FrameLines
    background : array (y, x), float32
    curves : Curves
    frames : Frames
    noise, typical : Noise
        Of raw counts, and of those of a frame of the median scale.
    tables : Tables
    errors : array (map, y, x), float32
        NaN; filled: errors of total and peak, then for each axis those of the position of the maximum and of the
        standard deviation, the width, its error, and the split of the centre.
    covariance : array (pair of axes, y, x), float64
        NaN; filled. Pixels whose sum differs from that of the moments stay NaN.
    """
    rows, columns = curves.total.shape
    axes, length = frames.unit.shape[0], frames.order.shape[1]
    curve, near = np.zeros(length * STRIP, np.float32), np.empty(length, np.bool_)
    strip, sums = np.empty(ROWS * STRIP, np.float32), np.empty((axes, AXIS_ROWS * STRIP), np.float32)
    pairs = np.empty((max(1, axes * (axes - 1) // 2), 2 * STRIP), np.float32)
    level = np.zeros(STRIP, np.float32)
    for y in range(rows):
        for first in range(0, columns, STRIP):
            width = min(STRIP, columns - first)
            strip[:], sums[:], pairs[:] = 0, 0, 0
            level[:width] = background[y, first : first + width]
            _begin(sums, curves, y, first, width, tables)
            add_strip(lines, y * lines.row_step + first, width, level, frames, noise, curve, near, strip, sums, pairs)
            _finish(strip, sums, pairs, curves, y, first, width, typical, tables, errors, covariance)
