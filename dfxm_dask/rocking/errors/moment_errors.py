"""Standard errors of the moments of the rocking curve, from the noise of the camera and the cut of the counts."""

from __future__ import annotations

import math
from itertools import combinations_with_replacement
from typing import Annotated

import numpy as np
from pydantic import Field

from dfxm_dask.errors import InputError
from dfxm_dask.memory import frame_lines
from dfxm_dask.reduction import reduction
from dfxm_dask.rocking.errors.cut_gaussian import SURFACE, cut_widths, scatter_of_maximum
from dfxm_dask.rocking.errors.error_sums import Frames, Noise
from dfxm_dask.rocking.errors.pixel_errors import FIRST_MAPS, HIGH, PER_AXIS, Curves, Tables, fill_errors
from dfxm_dask.rocking.moments import FLAGS, PEAK, STD, TOTAL, LitAbove, NoiseCut, cut_in_counts, moments
from dfxm_dask.rocking.power_sums import MULTIMODAL, SATURATED, TRUNCATED
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
QUANTILE_VARIANCE = 0.1 * 0.9 / 0.1754983**2
"""Variance of the 0.1 quantile of n Gaussian samples, times n: q (1 − q) / φ(z)² (large n)."""


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


def _noises(frames: Frames, dark: float, gain: float, cut: float, background_error: float) -> tuple[Noise, Noise]:
    """Noise of raw counts, and of the counts of a frame of the median scale."""
    scale = float(np.median(frames.scale))
    raw = (dark, gain, cut, background_error)
    typical = (dark * scale, gain / scale, cut * scale, background_error)
    return Noise(*(np.float32(v) for v in raw)), Noise(*(np.float32(v) for v in typical))


@reduction(
    reads=(COUNTS, AXES),
    may_read=(BACKGROUND, HOT, NOISE, POSITION, FRAME_SCALE, TOTAL, PEAK, COM, STD, FLAGS),
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
    total: np.ndarray | None = None,
    peak: np.ndarray | None = None,
    com: dict[str, np.ndarray] | None = None,
    std: dict[str, np.ndarray] | None = None,
    flags: np.ndarray | None = None,
    *,
    background: PlainBackground = None,
    lit_above: LitAbove = 0.0,
    noise_cut: NoiseCut = 0.0,
    gain: Gain = 1.0,
    read_noise: ReadNoise = None,
    background_error: Annotated[
        float | None,
        Field(
            ge=0,
            description="standard error of the background; default: 0 of a number, that of a 0.1 quantile of a map",
            json_schema_extra={"unit": "count"},
        ),
    ] = None,
) -> dict[str, np.ndarray]:
    """Standard errors of the moments of the rocking curve, and widths that the cut does not shorten.

    The errors are the standard deviations of the results of :func:`moments` over repeated scans with the same
    ``background``, ``lit_above`` and ``noise_cut``. Each count has the noise of the dark camera and the counting noise
    of its photons; the background has its own error. For several scan axes the covariances complete the covariance
    matrix of the centre of mass. ``com_{axis}_split`` checks the errors without any model of the noise.

    Parameters
    ----------
    background_map : array, optional
        See :func:`dfxm_dask.frames.background`.
    hot : array, optional
        Marked pixels are left out.
    noise : array, optional
        Ingest estimates the noise of every layer. The cut always refers to this noise.
    position : dict of arrays, optional
        Only for axes along which frames do not lie on a grid.
    frame_scale : array, optional
        Multiplies the cut and the noise of each frame.
    total, peak, com, std, flags : arrays, optional
        Results of :func:`moments` with the same parameters, computed here if one is absent. Where ``total`` is that of
        another cut or background, the errors are NaN.
    background : float or "none", optional
        This parameter or a background map is required.
    gain : float, 1/count
        Our choice: 1. A camera with 2.14 counts per photon has a gain of 0.467.
    background_error : float, count, optional
        Common to all frames of a pixel. By default, the error of a map is that of a quantile of 0.1 of dark frames:
        noise × 1.71 / sqrt(frames). For a dark image, give its error.

    Raises
    ------
    InputError
        No background at all, both a map and a number, or an unknown noise.

    Notes
    -----
    With the weights w of :func:`moments` and the distance d of a frame from the centre of mass, in standard deviations
    of the curve (d_a, d_b along two axes)::

        var total     = Σ var w + β² (Σ r)²
        cov(COM, COM) = std_a std_b (Σ var w d_a d_b + β² Σ r d_a Σ r d_b) / (Σ w)²
        var std       = std² (Σ var w (d² − 1)² + β² (Σ r (d² − 1))²) / (2 Σ w)²

    Here β is the error of the background and r the derivative of the expected weight with respect to it. The variance
    of a count with the mean m above background is noise² + max(m, 0) / gain. A cut turns counts near its level into
    weights that are 0 in some scans and above the cut in others, so var w exceeds the variance of the count near the
    cut and is smaller below. Two independent repeats of a count are m + a and m − a, where m and a are independent with
    half the variance of the count each. Hence::

        var w = ½ E[(w(m + a) − w(m − a))²],   r = E[a w(m + a)] / E[a²]

    The curve provides m: a fit of a cubic to five positions along the longest axis halves the variance of a count.
    Gauss–Hermite quadrature gives the expectation over a. Curves narrower than about two steps (FWHM) have larger
    stated errors.

    ``width`` is the standard deviation of a Gaussian curve without the cut: std over the part that the cut leaves of
    the width of a Gaussian of this total and std with this noise. The variances of the sums also correct the small
    bias of std that noise causes. For curves of other shapes std remains the moment; without a cut both agree.
    Gaussians lower than three times the cut have no width (NaN), nor do curves with the flag ``truncated``,
    ``saturated`` or ``multimodal``.

    ``peak`` is the largest of several noisy counts. Its error, and that of its position, are those of the maximum of a
    Gaussian curve of this height and width, for scans along one axis and curves with a width (otherwise NaN).
    The error of the position includes the step; that of ``peak`` does not include the bias of a maximum.

    ``com_split`` is half the difference of the centres of mass of the frames at even and odd positions. Its mean square
    over pixels is the variance of the centre of mass. Where the curve rises by more than its noise from frame to frame
    at the level of the cut, it also contains the position of the cut within a step: up to 1.14 of the scatter in
    simulations. It is NaN for curves with a standard deviation below 1.2 steps, which half of the frames do not sample.

    Errors have the mask of the centre of mass. They are NaN also for pixels with weight in one frame only, and where
    the maximum exceeds the cut by less than 1.5 times its noise (our choice): whether this pixel is lit depends on
    the noise. Errors of truncated or saturated curves (``flags`` of :func:`moments`) describe the scatter, not the
    bias. The errors contain neither motors nor the bias of a wrong background: see :func:`baseline_sensitivity`.

    References
    ----------
    Savitzky and Golay, Analytical Chemistry 36 (1964) 1627, for the cubic through five positions. The variance behind
    the cut: our own derivation.

    Examples
    --------
    >>> import dfxm_dask
    >>> scan = dfxm_dask.example_scan()
    >>> errors = dfxm_dask.moment_errors(scan, background=100, noise_cut=5)
    >>> sorted(errors.data_vars)[:3]
    ['com_phi_error', 'com_phi_split', 'peak_error']

    The kernel alone, on one layer; without dark noise, the errors are 0.3 / sqrt(total) and sqrt(total):

    >>> phi = np.linspace(-1, 1, 21)
    >>> counts = np.round(100 + 400 * np.exp(-0.5 * (phi / 0.3) ** 2))[None, None]
    >>> errors = moment_errors.kernel(counts, {"phi": phi}, background=100, read_noise=0)
    >>> round(errors["com_phi_error"].item(), 4), round(errors["total_error"].item())
    (0.0055, 55)
    """
    shape = counts.shape[:2]
    names = list(scan)
    level = plain_background("moment_errors", background_map, background, shape)
    dark = dark_noise("moment_errors", read_noise, noise)
    cut = cut_in_counts("moment_errors", noise_cut, noise)
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
        if background_error is None:
            share = 0.0 if background_map is None else math.sqrt(QUANTILE_VARIANCE / frames.scale.size)
            background_error = share * dark * float(np.median(frames.scale))
        limits, typical = _noises(frames, dark, float(gain), cut, background_error)
        low, widths = 0.0, np.empty((0, 2), np.float32)
        if cut > 0 and len(names) <= len(SURFACE):
            height = HIGH * float(typical.cut)
            low, widths = cut_widths(*(float(v) for v in typical[:3]), len(names), height)
        curves = Curves(
            np.ascontiguousarray(total, np.float32),
            np.ascontiguousarray(peak, np.float32),
            np.stack([np.asarray(com[n], np.float64) for n in names]),
            np.stack([np.asarray(std[n], np.float32) for n in names]),
            (flags & (MULTIMODAL | TRUNCATED | SATURATED)) > 0,
        )
        tables = Tables(low, widths, scatter_of_maximum(), middle, half, step)
        fill_errors(frame_lines(counts), level, curves, frames, limits, typical, tables, errors, covariance)
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
