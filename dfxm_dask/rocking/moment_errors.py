"""Standard errors of the moments of the rocking curve, from the noise of the camera and the cut of the counts."""

from __future__ import annotations

import math
from itertools import combinations_with_replacement
from typing import Annotated, NamedTuple

import numpy as np
from numba import njit
from pydantic import Field

from dfxm_dask.errors import InputError
from dfxm_dask.memory import frame_lines
from dfxm_dask.reduction import reduction
from dfxm_dask.rocking.errors.cut_gaussian import FLATTEST, STEEPEST, SURFACE, cut_widths, scatter_of_maximum
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
    Frames,
    Noise,
    add_strip,
)
from dfxm_dask.rocking.moments import FLAGS, PEAK, STD, TOTAL, LitAbove, NoiseCut, cut_in_counts, moments
from dfxm_dask.rocking.power_sums import MULTIMODAL
from dfxm_dask.schema import (
    AXES,
    BACKGROUND,
    COM,
    COM_COVARIANCE,
    COM_ERROR,
    COUNTS,
    FRAME_SCALE,
    HOT,
    NOISE,
    PHOTON_GAIN,
    POSITION,
    SPACE,
    PlainBackground,
    Variable,
    plain_background,
)

TOTAL_ERROR = Variable(
    "total_error", SPACE, "float32", "count", "standard error of the sum of the rocking curve above background"
)
PEAK_ERROR = Variable("peak_error", SPACE, "float32", "count", "standard error of the maximum of the rocking curve")
PEAK_AT_ERROR = Variable(
    "peak_{axis}_error", SPACE, "float32", "{units}", "standard error of the position of the maximum along {axis}"
)
STD_ERROR = Variable(
    "std_{axis}_error", SPACE, "float32", "{units}", "standard error of the standard deviation along {axis}"
)
SPLIT = Variable(
    "com_{axis}_split",
    SPACE,
    "float32",
    "{units}",
    "half the difference of the centres of mass of even and odd frames along {axis}",
)
WIDTH = Variable(
    "width_{axis}", SPACE, "float32", "{units}", "standard deviation of a Gaussian curve along {axis} without the cut"
)
WIDTH_ERROR = Variable("width_{axis}_error", SPACE, "float32", "{units}", "standard error of the width along {axis}")

Gain = Annotated[
    float,
    Field(gt=0, description="photons per count of the detector", json_schema_extra={"unit": "1/count"}),
]
ReadNoise = Annotated[
    float | None,
    Field(
        ge=0,
        description="standard deviation of a count without diffracted beam; default: the noise of the layer",
        json_schema_extra={"unit": "count"},
    ),
]
QUANTILE_VARIANCE = 0.1 * 0.9 / 0.1754983 ** 2
"""Variance of the 0.1 quantile of n Gaussian samples, times n: q (1 − q) / φ(z)² (large n)."""
CLEAR = 1.5  # noise units by which a maximum must exceed the cut for errors (our choice, see Notes)
HIGH = 3.0  # cuts: least height of a Gaussian curve with a width (our choice, see Notes)
FIRST_MAPS, PER_AXIS = 2, 5  # total and peak; then for each axis: peak position, std, width, its error, split


class Curves(NamedTuple):
    """Moments of a layer.

    Attributes
    ----------
    total, peak : array (y, x), float32
    com, std : array (axis, y, x), float64 and float32
    several : array (y, x), bool
        Whether the curve has several peaks.
    """

    total: np.ndarray
    peak: np.ndarray
    com: np.ndarray
    std: np.ndarray
    several: np.ndarray


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
    at = math.log(steep / FLATTEST) * (last / math.log(STEEPEST / FLATTEST))
    if not at >= 0:
        return np.nan, np.nan
    k = min(int(at), last - 1)
    part = min(at - k, 1.0)
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
    """Errors of a strip from its sums; the number of pixels whose sum differs from that of the moments."""
    axes = curves.com.shape[0]
    level = np.float64(noise.level) ** 2
    wrong = 0
    for n in range(width):
        x = first + n
        total, peak = np.float64(curves.total[y, x]), np.float64(curves.peak[y, x])
        spread, answer = np.float64(strip[SUM * STRIP + n]), np.float64(strip[ANSWER * STRIP + n])
        errors[0, y, x] = math.sqrt(spread + level * answer * answer) if total == total else np.nan
        lit, q = total > 0, total
        for a in range(axes):
            lit &= curves.std[a, y, x] > 0
            q *= tables.step[a] / curves.std[a, y, x]
        single = noise.dark * noise.dark + max(peak, 0.0) / noise.gain
        clear = lit and peak > noise.cut and (peak - noise.cut) * (peak - noise.cut) > CLEAR * CLEAR * single
        if lit and abs(strip[ALL * STRIP + n] - total) > 1e-3 * total + 1:
            wrong += 1
        errors[1:, y, x] = np.nan
        covariance[:, y, x] = np.nan
        if not lit:
            continue
        one = 1.0 / total
        for a in range(axes):
            even = np.float64(sums[a, EVEN * STRIP + n])
            if even > 0 and total - even > 0.5:
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
            if kept > 0:
                # Noise moves the centre and the sum, which makes the width of noisy curves too small.
                wide = std * math.sqrt(1.0 + (2 * square - spread) * one * one) / kept
                variance = _width_variance(sums, pairs, spread, answer, level, n, a, bend)
                errors[place + 2, y, x] = wide
                errors[place + 3, y, x] = wide * one * math.sqrt(variance)
                if axes == 1 and not curves.several[y, x]:
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
    return wrong


@njit(nogil=True, cache=True)
def _fill(lines, background, curves, frames, noise, tables, errors, covariance):
    """Fills the errors and the covariances of the centre; the number of pixels with another sum than the moments."""
    rows, columns = curves.total.shape
    axes, length = frames.unit.shape[0], frames.order.shape[1]
    curve, near = np.zeros(length * STRIP, np.float32), np.empty(length, np.bool_)
    strip, sums = np.empty(ROWS * STRIP, np.float32), np.empty((axes, AXIS_ROWS * STRIP), np.float32)
    pairs = np.empty((max(1, axes * (axes - 1) // 2), 2 * STRIP), np.float32)
    level = np.zeros(STRIP, np.float32)
    wrong = 0
    for y in range(rows):
        for first in range(0, columns, STRIP):
            width = min(STRIP, columns - first)
            strip[:], sums[:], pairs[:] = 0, 0, 0
            level[:width] = background[y, first : first + width]
            _begin(sums, curves, y, first, width, tables)
            add_strip(lines, y * lines.row_step + first, width, level, frames, noise, curve, near, strip, sums, pairs)
            wrong += _finish(strip, sums, pairs, curves, y, first, width, noise, tables, errors, covariance)
    return wrong


def frame_positions(scan: dict[str, np.ndarray], position: dict[str, np.ndarray]) -> np.ndarray:
    """Positions of all frames: (axis, frame); `position` has those off the grid, for scans of several axes."""
    grid = np.stack([g.ravel() for g in np.meshgrid(*scan.values(), indexing="ij")])
    for name, values in position.items() if len(scan) > 1 else ():
        grid[list(scan).index(name)] = values.ravel()
    return grid


def _frames_of(scan: dict[str, np.ndarray], position: dict[str, np.ndarray], scale: np.ndarray | None) -> tuple:
    """Frames of a scan in lines, and the middle, half range and step of every axis."""
    lengths = tuple(values.size for values in scan.values())
    grid = frame_positions(scan, position)
    low, high = grid.min(axis=1), grid.max(axis=1)
    middle, half = (low + high) / 2, np.where(high > low, (high - low) / 2, 1.0)
    numbers = np.moveaxis(np.arange(grid.shape[1]).reshape(lengths), int(np.argmax(lengths)), -1)
    factors = np.ones(grid.shape[1]) if scale is None else np.asarray(scale).ravel()
    order = np.ascontiguousarray(numbers.reshape(-1, max(lengths)))
    unit = ((grid - middle[:, None]) / half[:, None]).astype(np.float32)
    even = np.indices(lengths).reshape(len(lengths), -1) % 2 == 0
    step = 2 * half / np.maximum(np.array(lengths) - 1, 1)
    return Frames(order, unit, even, factors.astype(np.float32)), middle, half, step


def dark_noise(name: str, read_noise: float | None, noise: np.ndarray | None) -> float:
    """Noise of a count without diffracted beam.

    Raises
    ------
    InputError
        Neither is known.
    """
    if read_noise is not None:
        return float(read_noise)
    if noise is None:
        raise InputError(
            f"{name}: parameter read_noise",
            "is not given, and the noise of the layer is unknown",
            "give read_noise=<counts>, or assign the variable noise (z)",
        )
    return float(noise)


def photons_per_count(name: str, gain: float | None, photon_gain: np.ndarray | None) -> float:
    """Gain of the detector: the given one, else that of the step ``photon_transfer``, else 1.

    Raises
    ------
    InputError
        The counts do not determine it.
    """
    if gain is not None:
        return float(gain)
    if photon_gain is None:
        return 1.0
    if not np.isfinite(photon_gain):
        raise InputError(
            f"{name}: variable 'photon_gain'",
            "is NaN: the counts do not determine the photons per count (see the step photon_transfer)",
            "give gain=<photons per count> of the camera",
        )
    return float(photon_gain)


def _noise(
    dark: float, gain: float, cut: float, background_error: float | None, background_map: np.ndarray | None, frames: int
) -> Noise:
    if background_error is None:
        background_error = 0.0 if background_map is None else dark * math.sqrt(QUANTILE_VARIANCE / frames)
    return Noise(*(np.float32(v) for v in (dark, gain, cut, background_error)))


@reduction(
    reads=(COUNTS, AXES),
    may_read=(BACKGROUND, HOT, NOISE, POSITION, FRAME_SCALE, PHOTON_GAIN, TOTAL, PEAK, COM, STD, FLAGS),
    writes=(
        TOTAL_ERROR,
        PEAK_ERROR,
        PEAK_AT_ERROR,
        COM_ERROR,
        COM_COVARIANCE,
        SPLIT,
        STD_ERROR,
        WIDTH,
        WIDTH_ERROR,
    ),
    over=("scan",),
)
def moment_errors(
    counts: np.ndarray,
    scan: dict[str, np.ndarray],
    background_map: np.ndarray | None = None,
    hot: np.ndarray | None = None,
    noise: np.ndarray | None = None,
    position: dict[str, np.ndarray] | None = None,
    frame_scale: np.ndarray | None = None,
    photon_gain: np.ndarray | None = None,
    total: np.ndarray | None = None,
    peak: np.ndarray | None = None,
    com: dict[str, np.ndarray] | None = None,
    std: dict[str, np.ndarray] | None = None,
    flags: np.ndarray | None = None,
    *,
    background: PlainBackground = None,
    lit_above: LitAbove = 0.0,
    noise_cut: NoiseCut = 0.0,
    gain: Annotated[
        float | None,
        Field(
            gt=0,
            description="photons per count of the detector; default: photon_gain of the scan, else 1",
            json_schema_extra={"unit": "1/count"},
        ),
    ] = None,
    read_noise: ReadNoise = None,
    background_error: Annotated[
        float | None,
        Field(
            ge=0,
            description="standard error of the background; default: 0 for a number, that of a quantile of 0.1 for a map",
            json_schema_extra={"unit": "count"},
        ),
    ] = None,
) -> dict[str, np.ndarray]:
    """Standard errors of the moments of the rocking curve, widths that the cut does not shorten, and a check.

    DOC
    """
    shape = counts.shape[:2]
    names = list(scan)
    level = plain_background("moment_errors", background_map, background, shape)
    dark = dark_noise("moment_errors", read_noise, noise)
    cut = cut_in_counts("moment_errors", noise_cut, noise)
    photons = photons_per_count("moment_errors", gain, photon_gain)
    if total is None or peak is None or com is None or std is None or flags is None:
        found = moments.kernel(
            counts,
            scan,
            background_map,
            hot,
            noise,
            position,
            frame_scale=frame_scale,
            background=background,
            lit_above=lit_above,
            noise_cut=noise_cut,
        )
        total, peak, flags = found["total"], found["peak"], found["flags"]
        com, std = ({n: found[f"{word}_{n}"] for n in names} for word in ("com", "std"))
    errors = np.full((FIRST_MAPS + PER_AXIS * len(names), *shape), np.nan, np.float32)
    pairs = list(combinations_with_replacement(names, 2))
    covariance = np.full((len(pairs), *shape), np.nan)
    if counts.size:
        frames, middle, half, step = _frames_of(scan, position or {}, frame_scale)
        low, widths = 0.0, np.empty((0, 2), np.float32)
        if cut > 0 and len(names) <= len(SURFACE):
            low, widths = cut_widths(dark, photons, cut, len(names), HIGH * cut)
        curves = Curves(
            np.ascontiguousarray(total, np.float32),
            np.ascontiguousarray(peak, np.float32),
            np.stack([np.asarray(com[n], np.float64) for n in names]),
            np.stack([np.asarray(std[n], np.float32) for n in names]),
            (flags & MULTIMODAL) > 0,
        )
        limits = _noise(dark, photons, cut, background_error, background_map, frames.scale.size)
        tables = Tables(low, widths, scatter_of_maximum(), middle, half, step)
        wrong = _fill(frame_lines(counts), level, curves, frames, limits, tables, errors, covariance)
        if wrong:
            raise InputError(
                f"moment_errors: background={background!r}, noise_cut={noise_cut:g}",
                f"give sums that differ from total of moments in {wrong} pixels",
                "give moments and moment_errors the same background and noise_cut",
            )
    result: dict[str, np.ndarray] = {"total_error": errors[0], "peak_error": errors[1]}
    for a, name in enumerate(names):
        row = FIRST_MAPS + a * PER_AXIS
        known = (f"peak_{name}_error", f"std_{name}_error", f"width_{name}", f"width_{name}_error", f"com_{name}_split")
        result |= {word: errors[row + k] for k, word in enumerate(known)}
    for (name, other), values in zip(pairs, covariance, strict=True):
        if name == other:
            result[f"com_{name}_error"] = np.sqrt(values).astype(np.float32)
        else:
            result[f"com_{name}_{other}_covariance"] = values.astype(np.float32)
    return result
