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
from dfxm_dask.rocking.moments import LitAbove, NoiseCut, cut_in_counts
from dfxm_dask.schema import (
    AXES,
    BACKGROUND,
    COM_COVARIANCE,
    COM_ERROR,
    COUNTS,
    FRAME_SCALE,
    HOT,
    NOISE,
    POSITION,
    SPACE,
    PlainBackground,
    Variable,
    plain_background,
)

TOTAL_ERROR = Variable(
    "total_error", SPACE, "float32", "count", "standard error of the sum of the rocking curve above background"
)

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

STRIP = 64  # pixels along x whose lines of the scan are kept together in the first-level cache
FAR = 6.0  # standard deviations beyond which a count is on one side of the cut for certain


class Frames(NamedTuple):
    """Frames of a scan in lines along its longest axis.

    Attributes
    ----------
    order : array (line, position along the longest axis), int
        Number of the frame.
    unit : array (axis, frame)
        Positions, scaled to −1 … 1.
    scale : array (frame,)
        Factor of the counts of a frame relative to raw counts.
    """

    order: np.ndarray
    unit: np.ndarray
    scale: np.ndarray


class Noise(NamedTuple):
    """Noise of the camera, the cut, and the least peak of a lit pixel.

    Attributes
    ----------
    dark : float, count
        Standard deviation of raw counts without diffracted beam.
    gain : float, 1/count
        Photons per count.
    cut, lit_above : float, count
    """

    dark: float
    gain: float
    cut: float
    lit_above: float


@njit(nogil=True, cache=True)
def variance_of_weight(mean, variance, cut):
    """Variance of a count above background that is set to 0 unless it exceeds a cut, from a smoothed curve.

    Parameters
    ----------
    mean : float
        Estimate of the expected count, with half the variance of a single count.
    variance : float
        Variance of a single count.
    cut : float

    Notes
    -----
    With two independent repeats w and w' of the weight, Var w = E (w - w')²/2. The counts of the repeats are x̄ ± a,
    where x̄ and a are independent and both have half the variance of a count. The expectation over a is analytic, and
    the estimate is unbiased because `mean` fluctuates as x̄ does.
    """
    half = math.sqrt(0.5 * variance)
    above = mean - cut
    if above > FAR * half:
        return variance
    if above < -FAR * half or half == 0.0:
        return 0.0
    t = above / half
    below = 0.5 * math.erfc(-t / math.sqrt(2.0))
    density = math.exp(-0.5 * t * t) / math.sqrt(2 * math.pi)
    square = (mean * mean + half * half) * below + half * (mean + cut) * density
    if above > 0:
        square -= (mean * mean - half * half) * (2 * below - 1) + 2 * half * above * density
    return max(square, 0.0)


@njit(nogil=True, cache=True)
def _smoothed(curve, j, x):
    """Curve at one position with half the variance of a single count; exact for polynomials up to the third degree."""
    last = curve.shape[0] - 1
    if 2 <= j <= last - 2:
        return (
            17 * curve[j, x] + 12 * (curve[j - 1, x] + curve[j + 1, x]) - 3 * (curve[j - 2, x] + curve[j + 2, x])
        ) / 35
    if 1 <= j <= last - 1:
        return (4 * curve[j, x] + curve[j - 1, x] + curve[j + 1, x]) / 6
    return (curve[j, x] + curve[1 if j == 0 and last > 0 else last - 1 if last > 0 else 0, x]) / 2


@njit(nogil=True, cache=True)
def _add_line(curve, width, frames, order, noise, weight, spread, most, lit_frames):
    """Adds one line of the scan to the sums of the weights and of their variances."""
    axes = frames.unit.shape[0]
    for j in range(order.size):
        f = order[j]
        scale = frames.scale[f]
        cut, dark = noise.cut * scale, noise.dark * scale
        for x in range(width):
            above = curve[j, x]
            if not above <= cut:  # in this order NaN stays NaN
                most[x] = max(most[x], above)
                lit_frames[x] += 1
                weight[0, x] += above
                for a in range(axes):
                    weight[1 + a, x] += above * frames.unit[a, f]
            mean = _smoothed(curve, j, x)
            # Not clipped at the dark noise, which would make dark frames noisier on average.
            single = max(dark * dark + scale * mean / noise.gain, 0.25 * dark * dark)
            variance = variance_of_weight(mean, single, cut)
            if variance > 0:
                spread[0, x] += variance
                row = 1 + axes
                for a in range(axes):
                    part = variance * frames.unit[a, f]
                    spread[1 + a, x] += part
                    for b in range(a, axes):
                        spread[row, x] += part * frames.unit[b, f]
                        row += 1


@njit(nogil=True, cache=True, error_model="numpy")
def _fill(lines, background, hot, frames, noise, half, total, covariance):
    """Fills the standard error of the sum, and the covariance of the centre of mass for each pair of axes."""
    rows, columns = total.shape
    axes, length = frames.unit.shape[0], frames.order.shape[1]
    curve = np.empty((length, STRIP))
    weight, spread = np.empty((1 + axes, STRIP)), np.empty((1 + axes + axes * (axes + 1) // 2, STRIP))
    most, lit_frames = np.empty(STRIP), np.empty(STRIP)
    for y in range(rows):
        for first in range(0, columns, STRIP):
            width = min(STRIP, columns - first)
            corner = y * lines.row_step + first
            weight[:], spread[:], most[:], lit_frames[:] = 0, 0, -np.inf, 0
            for i in range(frames.order.shape[0]):
                for j in range(length):
                    start = lines.starts[frames.order[i, j]] + corner
                    for x in range(width):
                        curve[j, x] = np.float64(lines.line[start + x]) - background[y, first + x]
                _add_line(curve, width, frames, frames.order[i], noise, weight, spread, most, lit_frames)
            for x in range(width):
                sum_ = weight[0, x]
                known = sum_ == sum_ and not hot[y, first + x]
                lit = known and most[x] > noise.lit_above and lit_frames[x] > 1
                total[y, first + x] = math.sqrt(spread[0, x]) if known else np.nan
                row = 0
                for a in range(axes):
                    c = weight[1 + a, x] / sum_
                    for b in range(a, axes):
                        d = weight[1 + b, x] / sum_
                        central = spread[1 + axes + row, x] - c * spread[1 + b, x] - d * spread[1 + a, x]
                        central += c * d * spread[0, x]
                        one = half[a] * half[b] / (sum_ * sum_)
                        covariance[row, y, first + x] = central * one if lit else np.nan
                        row += 1


def frame_positions(scan: dict[str, np.ndarray], position: dict[str, np.ndarray]) -> np.ndarray:
    """Positions of all frames: (axis, frame); `position` has those off the grid, for scans of several axes."""
    grid = np.stack([g.ravel() for g in np.meshgrid(*scan.values(), indexing="ij")])
    for name, values in position.items() if len(scan) > 1 else ():
        grid[list(scan).index(name)] = values.ravel()
    return grid


def _frames_of(scan: dict[str, np.ndarray], position: dict[str, np.ndarray], scale: np.ndarray | None) -> tuple:
    """Frames of a scan in lines, and the half range of every axis; `position` has positions off the grid."""
    lengths = tuple(values.size for values in scan.values())
    grid = frame_positions(scan, position)
    low, high = grid.min(axis=1), grid.max(axis=1)
    half = np.where(high > low, (high - low) / 2, 1.0)
    numbers = np.moveaxis(np.arange(grid.shape[1]).reshape(lengths), int(np.argmax(lengths)), -1)
    factors = np.ones(grid.shape[1]) if scale is None else np.asarray(scale, np.float64).ravel()
    order = np.ascontiguousarray(numbers.reshape(-1, max(lengths)))
    return Frames(order, (grid - (low + high)[:, None] / 2) / half[:, None], factors), half


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


@reduction(
    reads=(COUNTS, AXES),
    may_read=(BACKGROUND, HOT, NOISE, POSITION, FRAME_SCALE),
    writes=(TOTAL_ERROR, COM_ERROR, COM_COVARIANCE),
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
    *,
    background: PlainBackground = None,
    lit_above: LitAbove = 0.0,
    noise_cut: NoiseCut = 0.0,
    gain: Gain = 1.0,
    read_noise: ReadNoise = None,
) -> dict[str, np.ndarray]:
    """Standard error of the centre of mass along every scan axis, and of the sum, of the rocking curve.

    The errors are the standard deviations of the results of :func:`moments` over repeated scans with the same
    ``background``, ``lit_above`` and ``noise_cut``. Each count has the noise of the dark camera and the counting noise
    of its photons. For several scan axes the covariances complete the covariance matrix of the centre of mass.

    Parameters
    ----------
    background_map : array, optional
        See :func:`dfxm_dask.frames.background`; its own error is not included.
    hot : array, optional
        Marked pixels are left out.
    noise : array, optional
        Ingest estimates the noise of every layer. The cut always refers to this noise.
    position : dict of arrays, optional
        Only for axes along which frames do not lie on a grid.
    frame_scale : array, optional
        Multiplies the cut and the noise of each frame.
    background : float or "none", optional
        This parameter or a background map is required.
    gain : float, 1/count
        Our choice: 1. A camera with 2.14 counts per photon has a gain of 0.467.

    Raises
    ------
    InputError
        No background at all, both a map and a number, or an unknown noise.

    Notes
    -----
    With the weights w of :func:`moments`, the position u along a scan axis and v along another::

        var total     = Σ var w
        cov(COM, COM) = Σ var w (u − COM_u) (v − COM_v) / (Σ w)²

    The variance of a count with the mean m above background is noise² + max(m, 0) / gain. A cut turns counts near its
    level into weights that are 0 in some scans and above the cut in others, so var w exceeds the variance of the
    count near the cut and is smaller below. Two independent repeats of a count are s + a and s − a, where s and a are
    independent with half the variance of the count each. Hence::

        var w = ½ E[(w(s + a) − w(s − a))²]

    The expectation over a is analytic. The curve provides s: a fit of a cubic to five positions along the longest
    axis halves the variance of a count. Curves narrower than about two steps (FWHM) have larger stated errors.

    Errors have the mask of the centre of mass. They are NaN also for pixels with weight in one frame only. Errors of
    truncated or saturated curves (``flags`` of :func:`moments`) describe the scatter, not the bias.

    References
    ----------
    Savitzky and Golay, Analytical Chemistry 36 (1964) 1627, for the cubic through five positions. The variance behind
    the cut: our own derivation.

    Examples
    --------
    >>> import dfxm_dask
    >>> scan = dfxm_dask.example_scan()
    >>> errors = dfxm_dask.moment_errors(scan, background=100, noise_cut=5)
    >>> sorted(errors.data_vars)
    ['com_phi_error', 'total_error']

    The kernel alone, on one layer; without dark noise, the errors are 0.3 / sqrt(total) and sqrt(total):

    >>> phi = np.linspace(-1, 1, 21)
    >>> counts = np.round(100 + 400 * np.exp(-0.5 * (phi / 0.3) ** 2))[None, None]
    >>> errors = moment_errors.kernel(counts, {"phi": phi}, background=100, read_noise=0)
    >>> round(errors["com_phi_error"].item(), 4), round(errors["total_error"].item())
    (0.0055, 55)
    """
    shape = counts.shape[:2]
    level = plain_background("moment_errors", background_map, background, shape)
    dark = dark_noise("moment_errors", read_noise, noise)
    cut = cut_in_counts("moment_errors", noise_cut, noise)
    names = list(scan)
    pairs = list(combinations_with_replacement(names, 2))
    total = np.full(shape, np.nan, np.float32)
    covariance = np.full((len(pairs), *shape), np.nan)
    if counts.size:
        frames, half = _frames_of(scan, position or {}, frame_scale)
        left_out = np.zeros(shape, bool) if hot is None else np.require(hot, bool, ["C", "W"])
        # Of normalised counts, moments compares those above the cut of their frame with lit_above.
        least = max(float(lit_above), cut) if frame_scale is None else float(lit_above)
        limits = Noise(dark, float(gain), cut, least)
        _fill(frame_lines(counts), level, left_out, frames, limits, half, total, covariance)
    result: dict[str, np.ndarray] = {"total_error": total}
    for (name, other), values in zip(pairs, covariance, strict=True):
        if name == other:
            result[f"com_{name}_error"] = np.sqrt(values).astype(np.float32)
        else:
            result[f"com_{name}_{other}_covariance"] = values.astype(np.float32)
    return result
