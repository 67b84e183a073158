"""Centre of the rocking curve of every pixel, without the bias of a cut, and its standard error."""

from __future__ import annotations

import math
from itertools import combinations_with_replacement, product
from typing import Annotated

import numpy as np
from numba import njit
from pydantic import Field

from dfxm_dask.memory import frame_lines
from dfxm_dask.reduction import reduction
from dfxm_dask.rocking.errors.moment_errors import Gain, ReadNoise, dark_noise, frame_positions
from dfxm_dask.rocking.moments import STD
from dfxm_dask.schema import (
    AXES,
    BACKGROUND,
    COM,
    COUNTS,
    FRAME_SCALE,
    NOISE,
    POSITION,
    SPACE,
    PlainBackground,
    Variable,
    plain_background,
)

CENTRE = Variable("centre_{axis}", SPACE, "float64", "{units}", "centre of the rocking curve along {axis}")
CENTRE_ERROR = Variable(
    "centre_{axis}_error", SPACE, "float32", "{units}", "standard error of the centre of the rocking curve along {axis}"
)
CENTRE_COVARIANCE = Variable(
    "centre_{axis}_{other}_covariance", SPACE, "float32", "", "covariance of the centres along {axis} and {other}"
)
WINDOW = Variable(
    "window_{axis}", SPACE, "float32", "{units}", "standard deviation of the window of the centre along {axis}"
)
UNLIT, BEYOND, UNSETTLED, DIM = 1, 2, 4, 8
CENTRE_REASON = Variable(
    "centre_reason",
    SPACE,
    "uint8",
    "1",
    "reason of a missing centre of the rocking curve",
    flags=((UNLIT, "unlit"), (BEYOND, "beyond_the_scan"), (UNSETTLED, "without_a_maximum"), (DIM, "too_dim")),
)
"""0 where the centre is determined."""

REACH = 4.0  # standard deviations of the window beyond which a weight is zero
MARGIN = 3.0  # standard deviations of the windowed curve that the scan must contain on both sides of the centre
LARGEST = 0.15  # standard deviations of the window: a larger error is not linear in the noise (our choice)
STEPS = 30
CLOSE = 1e-4  # standard deviations of the window: the last step of a centre; the next would be about its square
STRIP = 64  # pixels along x whose curves are copied at a time


@njit(nogil=True, cache=True)
def _weighted(curve, unit, centre, inverse, away, slope, product):
    """Sums of the windowed curve, with distances in units of the window: total, first and second powers."""
    axes = centre.size
    total = 0.0
    slope[:] = 0
    product[:] = 0
    for f in range(curve.size):
        square = 0.0
        for a in range(axes):
            away[a] = (unit[f, a] - centre[a]) * inverse[a]
            square += away[a] * away[a]
        if square < REACH * REACH:
            part = curve[f] * math.exp(-0.5 * square)
            total += part
            for a in range(axes):
                slope[a] += part * away[a]
                for b in range(a + 1):
                    product[a, b] += part * away[a] * away[b]
    return total


@njit(nogil=True, cache=True)
def _spread(curve, scale, unit, centre, inverse, away, dark, gain, spread):
    """Covariance of the sums of first powers: of the dark camera, and of the counted photons."""
    axes = centre.size
    spread[:] = 0
    for f in range(curve.size):
        square = 0.0
        for a in range(axes):
            away[a] = (unit[f, a] - centre[a]) * inverse[a]
            square += away[a] * away[a]
        if square < REACH * REACH:
            weight = math.exp(-square)
            for a in range(axes):
                for b in range(axes):
                    part = weight * away[a] * away[b]
                    spread[0, a, b] += part * (dark * scale[f]) ** 2
                    spread[1, a, b] += part * scale[f] * curve[f] / gain


@njit(nogil=True, cache=True)
def _inverted(total, product, result):
    """Inverse of total - product, a symmetric matrix. False unless it is positive definite."""
    axes = product.shape[0]
    matrix = np.empty((axes, axes))
    for a in range(axes):
        for b in range(axes):
            matrix[a, b] = (total if a == b else 0.0) - product[max(a, b), min(a, b)]
            result[a, b] = 1.0 if a == b else 0.0
    for a in range(axes):  # Gauss-Jordan: the pivots of a positive definite matrix are positive in any order
        pivot = matrix[a, a]
        if not pivot > 1e-9 * total:
            return False
        for b in range(axes):
            matrix[a, b] /= pivot
            result[a, b] /= pivot
        for c in range(axes):
            if c != a:
                factor = matrix[c, a]
                for b in range(axes):
                    matrix[c, b] -= factor * matrix[a, b]
                    result[c, b] -= factor * result[a, b]
    return True


@njit(nogil=True, cache=True)
def _settled(curve, unit, centre, inverse, away, slope, product, result):
    """Moves the centre to the maximum of the windowed sum. Returns this sum, 0 without a maximum."""
    axes = centre.size
    for _ in range(STEPS):
        total = _weighted(curve, unit, centre, inverse, away, slope, product)
        if not total > 0:
            return 0.0
        sound = _inverted(total, product, result)
        largest = 0.0
        for a in range(axes):
            step = slope[a] / total  # the mean of the windowed curve: approaches a maximum from anywhere
            if sound:
                step = 0.0
                for b in range(axes):
                    step += result[a, b] * slope[b]
            away[a] = max(-1.0, min(1.0, step))
            largest = max(largest, abs(away[a]))
        for a in range(axes):
            if inverse[a] > 0:
                centre[a] += away[a] / inverse[a]
        if largest < CLOSE:
            return total if sound else 0.0
    return 0.0


@njit(nogil=True, cache=True)
def _curves(lines, background, y, first, curves):
    """Curves above background of neighbouring pixels of one row."""
    for f in range(curves.shape[1]):
        corner = lines.starts[f] + y * lines.row_step + first
        for x in range(curves.shape[0]):
            curves[x, f] = np.float64(lines.line[corner + x]) - background[y, first + x]


@njit(nogil=True, cache=True)
def _fill(curves, unit, scale, room, noise, start, window, centre, covariance, reason):
    """Fills the centres of some pixels, their covariance for each pair of axes, and the reason of missing values."""
    axes = unit.shape[1]
    here, inverse, away, slope = np.empty(axes), np.empty(axes), np.empty(axes), np.empty(axes)
    product, result, spread = np.zeros((axes, axes)), np.empty((axes, axes)), np.empty((2, axes, axes))
    for x in range(curves.shape[0]):
        reason[x] = UNLIT
        known = True
        for a in range(axes):
            here[a] = start[a, x]
            known &= np.isfinite(here[a]) and (room[a, 2] == 0 or window[a, x] > 0)
            inverse[a] = 1 / window[a, x] if known and room[a, 2] > 0 else 0.0
        if not known:
            continue
        total = _settled(curves[x], unit, here, inverse, away, slope, product, result)
        if total == 0:
            reason[x] = UNSETTLED
            continue
        reason[x] = 0
        for a in range(axes):
            if inverse[a] > 0:
                reach = MARGIN * math.sqrt(max(product[a, a] / total, 0.0)) / inverse[a]
                if here[a] - reach < room[a, 0] or here[a] + reach > room[a, 1]:
                    reason[x] = BEYOND
        if reason[x]:
            continue
        _spread(curves[x], scale, unit, here, inverse, away, noise[0], noise[1], spread)
        photons = 1.0
        for a in range(axes):  # a dim curve may lie below the background by chance: the dark noise remains
            if spread[1, a, a] < -0.5 * spread[0, a, a]:
                photons = 0.0
        row = 0
        for a in range(axes):
            if inverse[a] > 0:
                centre[a, x] = here[a]
            for b in range(a, axes):
                if inverse[a] > 0 and inverse[b] > 0:
                    value = 0.0
                    for c in range(axes):
                        for d in range(axes):
                            middle = spread[0, c, d] + photons * spread[1, c, d]
                            value += result[a, c] * middle * result[d, b]
                    covariance[row, x] = value / (inverse[a] * inverse[b])
                    if a == b and value > LARGEST * LARGEST:
                        reason[x] = DIM
                row += 1
        if reason[x]:
            centre[:, x], covariance[:, x] = np.nan, np.nan


@reduction(
    reads=(COUNTS, AXES, COM, STD),
    may_read=(BACKGROUND, NOISE, POSITION, FRAME_SCALE),
    writes=(CENTRE, CENTRE_ERROR, CENTRE_COVARIANCE, WINDOW, CENTRE_REASON),
    over=("scan",),
)
def centres(
    counts: np.ndarray,
    scan: dict[str, np.ndarray],
    com: dict[str, np.ndarray],
    std: dict[str, np.ndarray],
    background_map: np.ndarray | None = None,
    noise: np.ndarray | None = None,
    position: dict[str, np.ndarray] | None = None,
    frame_scale: np.ndarray | None = None,
    *,
    background: PlainBackground = None,
    window: Annotated[
        float, Field(gt=0, description="standard deviation of the window over that of the rocking curve")
    ] = 1.5,
    gain: Gain = 1.0,
    read_noise: ReadNoise = None,
) -> dict[str, np.ndarray]:
    """Centre of the rocking curve along every scan axis, in a window that follows the curve, and its standard error.

    The centre of mass of counts behind a cut follows displacements below one step too little: on a grid of about one
    standard deviation per step, the counts above the cut are then always those of the same frames. Without a cut, the
    noise of all frames adds to its error. The centre here has neither fault: a Gaussian window selects the frames of
    the curve, and both have the same centre. It suits tilts and strains below one step of the scan.

    Parameters
    ----------
    com, std : dict of arrays
        Start of the search, and width of the curve, from :func:`dfxm_dask.moments`; a cut of the noise is advisable
        there. Unlit and hot pixels have no centre of mass, and no centre.
    background_map : array, optional
        See :func:`dfxm_dask.frames.background`; its own error is not included.
    noise : array, optional
        Ingest estimates the noise of every layer.
    position : dict of arrays, optional
        Only for axes along which frames do not lie on a grid.
    frame_scale : array, optional
        Multiplies the noise of each frame.
    background : float or "none", optional
        This parameter or a background map is required.
    window : float
        Our choice: 1.5, see Notes.
    gain : float, 1/count
        Our choice: 1. A camera with 2.14 counts per photon has a gain of 0.467.

    Returns
    -------
    centre_{axis} : array
        NaN along axes of fewer than three positions.

    Raises
    ------
    InputError
        No background at all, both a map and a number, or an unknown noise.

    Notes
    -----
    With the counts above background w, positions u and the standard deviations s of the window along every axis, the
    centre c is the maximum of the windowed sum next to the centre of mass::

        S(c) = Σ w exp(−|t|²/2),   t = (u − c) / s,   s = window × std, at least one step
        0    = Σ w t exp(−|t|²/2)

    A symmetric curve has this maximum at its centre. For a window of the width of the curve it is the least-squares fit
    of a Gaussian of known width. Constant errors of the background cancel. The covariance follows from the change of
    the sums with the noise of every count, var w = noise² + w / gain, and with the centre itself::

        H        = Σ w (1 − t tᵀ) exp(−|t|²/2)
        cov(c/s) = H⁻¹ [Σ var w · t tᵀ exp(−|t|²)] H⁻¹

    A centre is missing (``centre_reason``) if the pixel is unlit; if the scan contains fewer than 3 standard deviations
    of the windowed curve on one side of the centre; if the windowed sum has no maximum near the centre of mass; or if
    an error exceeds 0.15 s, beyond which the covariance does not hold.
    Of a curve with several peaks, the centre is that of one peak, or of all peaks within the window.

    References
    ----------
    G. M. Bernstein and M. Jarvis, Astronomical Journal 123 (2002) 583, for centres of images in a Gaussian window. The
    covariance: our own derivation.

    Examples
    --------
    >>> import dfxm_dask
    >>> scan = dfxm_dask.example_scan()
    >>> scan = scan.merge(dfxm_dask.moments(scan, background=100, noise_cut=5))
    >>> found = dfxm_dask.centres(scan, background=100)
    >>> found["centre_phi"].isel(z=0, y=0)[[0, -1]].values.round(3).tolist()
    [0.024, 0.036]

    The kernel alone, on one layer; without dark noise, the error is close to 0.3 / sqrt(sum of the counts):

    >>> phi = np.linspace(-1, 1, 21)
    >>> counts = np.round(400 * np.exp(-0.5 * ((phi - 0.02) / 0.2) ** 2))[None, None]
    >>> start = {"phi": np.zeros((1, 1))}, {"phi": np.full((1, 1), 0.2)}
    >>> found = centres.kernel(counts, {"phi": phi}, *start, background=0.0, read_noise=0)
    >>> round(found["centre_phi"].item(), 4), round(found["centre_phi_error"].item(), 3)
    (0.02, 0.005)
    """
    shape = counts.shape[:2]
    level = plain_background("centres", background_map, background, shape)
    noises = np.array([dark_noise("centres", read_noise, noise), float(gain)])
    names = list(scan)
    pairs = list(combinations_with_replacement(names, 2))
    centre = np.full((len(names), *shape), np.nan)
    covariance = np.full((len(pairs), *shape), np.nan)
    reason = np.full(shape, UNLIT, np.uint8)
    widths = np.full(centre.shape, np.nan)
    if counts.size:
        unit = frame_positions(scan, position or {})
        low, high = unit.min(axis=1), unit.max(axis=1)
        lengths = np.array([values.size for values in scan.values()])
        step = (high - low) / np.maximum(lengths - 1, 1)
        room = np.stack([low - step / 2, high + step / 2, (lengths > 2).astype(float)], axis=1)
        widths = np.maximum(window * np.stack([std[n] for n in names]), step[:, None, None])
        scale = np.ones(unit.shape[1]) if frame_scale is None else np.asarray(frame_scale, np.float64).ravel()
        start = np.stack([np.asarray(com[n], np.float64) for n in names])
        frames, lines = np.ascontiguousarray(unit.T), frame_lines(counts)
        for y, first in product(range(shape[0]), range(0, shape[1], STRIP)):
            here = (..., y, slice(first, first + STRIP))
            curves = np.empty((reason[here].size, len(frames)))
            _curves(lines, level, y, first, curves)
            parts = start[here], widths[here], centre[here], covariance[here], reason[here]
            _fill(curves, frames, scale, room, noises, *parts)
    widths[:, reason > 0] = np.nan
    result: dict[str, np.ndarray] = {"centre_reason": reason}
    for k, name in enumerate(names):
        result |= {f"centre_{name}": centre[k], f"window_{name}": widths[k].astype(np.float32)}
    for (name, other), values in zip(pairs, covariance, strict=True):
        if name == other:
            result[f"centre_{name}_error"] = np.sqrt(values).astype(np.float32)
        else:
            result[f"centre_{name}_{other}_covariance"] = values.astype(np.float32)
    return result
