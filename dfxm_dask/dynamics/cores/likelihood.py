"""Likelihood of the window of an image round a few dislocations, its gradient, and its Fisher information."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit

from dfxm_dask.optics.line_images import Optics, core_images

NUISANCES = 5  # rocking angle (rad), its slopes along y and x (rad/um), counts at full acceptance, background counts


class Window(NamedTuple):
    """One window of counts and everything that its likelihood requires apart from the dislocations.

    Attributes
    ----------
    counts : array (y, x), float64
    valid : array (y, x), bool
    y, x : array (y + 2 margin_y,), (x + 2 margin_x,), um
        Pixel centres, with a margin for the blur.
    blur_y, blur_x : array
        One half of the blur of the camera along y and x, centre first; the margins are one less than their lengths.
    optics : Optics
    gain, offset, read_noise, model_error : float
        Counts per photon, counts without light, rms counts of the read-out, and rms error of the model as a fraction of
        the counts above the background.
    poisson : bool
        Shifted Poisson instead of normal distribution.
    box : array (2, 2 core), um
        Lowest and highest y and x of every core: a uniform prior.
    mean, spread : array (5,)
        Normal priors of the NUISANCES; those of spread 0 are known.
    """

    counts: np.ndarray
    valid: np.ndarray
    y: np.ndarray
    x: np.ndarray
    blur_y: np.ndarray
    blur_x: np.ndarray
    optics: Optics
    gain: float
    offset: float
    read_noise: float
    model_error: float
    poisson: bool
    box: np.ndarray
    mean: np.ndarray
    spread: np.ndarray


@njit(cache=True, nogil=True)
def _blurred(image, half_y, half_x, out):
    """Convolution with symmetric kernels, without the margins."""
    ry, rx = half_y.size - 1, half_x.size - 1
    if ry == 0 and rx == 0:
        out[:] = image
        return
    rows = np.empty((out.shape[0], image.shape[1]))
    for i in range(out.shape[0]):
        for j in range(image.shape[1]):
            total = half_y[0] * image[i + ry, j]
            for k in range(1, ry + 1):
                total += half_y[k] * (image[i + ry - k, j] + image[i + ry + k, j])
            rows[i, j] = total
    for i in range(out.shape[0]):
        for j in range(out.shape[1]):
            total = half_x[0] * rows[i, j + rx]
            for k in range(1, rx + 1):
                total += half_x[k] * (rows[i, j + rx - k] + rows[i, j + rx + k])
            out[i, j] = total


@njit(cache=True, nogil=True)
def rendered(window, lines, parameters, gradient):
    """Signal over the scale, and its derivatives (2 line + 3, y, x) but by scale and background.

    ``parameters`` are y and x of every line (um) and the NUISANCES; the slopes of the angle refer to the middle.
    """
    n = lines.shape[0]
    optics = window.optics
    middle_y, middle_x = 0.5 * (window.y[0] + window.y[-1]), 0.5 * (window.x[0] + window.x[-1])
    tilt = np.array([parameters[2 * n + 1], parameters[2 * n + 2], middle_y, middle_x])
    turned = Optics(
        optics.direction, optics.matrix, optics.shift + parameters[2 * n] * optics.move, optics.move, optics.points,
        optics.weights, optics.window, optics.quadratic, optics.along, optics.tail, optics.poisson, tilt,
    )  # fmt: skip
    positions = parameters[: 2 * n].copy().reshape(n, 2)
    sharp = np.empty((window.y.size, window.x.size))
    sharp_slopes = np.empty((2 * n + 3 if gradient else 0, window.y.size, window.x.size))
    core_images(window.y, window.x, positions, lines, turned, sharp, sharp_slopes[: 2 * n + 1])
    for i in range(window.y.size if gradient else 0):
        for j in range(window.x.size):
            sharp_slopes[2 * n + 1, i, j] = sharp_slopes[2 * n, i, j] * (window.y[i] - middle_y)
            sharp_slopes[2 * n + 2, i, j] = sharp_slopes[2 * n, i, j] * (window.x[j] - middle_x)
    image = np.empty(window.counts.shape)
    slopes = np.empty((sharp_slopes.shape[0], *window.counts.shape))
    _blurred(sharp, window.blur_y, window.blur_x, image)
    for k in range(sharp_slopes.shape[0]):
        _blurred(sharp_slopes[k], window.blur_y, window.blur_x, slopes[k])
    return image, slopes


@njit(cache=True, nogil=True)
def minus_log_posterior(window, lines, parameters, score, information):
    """Minus logarithm of likelihood and nuisance priors, without constants; chi2 a pixel.

    Fills ``score`` (gradient) and ``information`` (expected Fisher matrix and prior) unless they have length zero.
    Outside of the box of the positions it is infinite.
    """
    n = lines.shape[0]
    for k in range(2 * n):
        if not window.box[0, k] <= parameters[k] <= window.box[1, k]:
            return np.inf, np.inf
    size = parameters.size
    gradient = score.size > 0
    image, slopes = rendered(window, lines, parameters, gradient)
    scale, background = parameters[size - 2], parameters[size - 1]
    total, chi2, number = 0.0, 0.0, 0
    column = np.empty(size)
    if gradient:
        score[:] = 0.0
        information[:] = 0.0
    gain, floor, fault = window.gain, window.read_noise**2, window.model_error**2
    for i in range(image.shape[0]):
        for j in range(image.shape[1]):
            if not window.valid[i, j]:
                continue
            mean = scale * image[i, j] + background
            light = gain * (mean - window.offset)
            positive = light > 0.0
            signal = scale * image[i, j]
            variance = max(light, 0.0) + floor + fault * signal * signal + 1e-12
            rest = window.counts[i, j] - mean
            number += 1
            chi2 += rest * rest / variance
            if window.poisson:  # without model error
                observed = max((window.counts[i, j] - window.offset) * gain + floor, 0.0) / gain**2
                total += variance / gain**2 - observed * np.log(variance / gain**2)
                slope = (1 - observed * gain**2 / variance) / gain if positive else 0.0
                by_background = slope
                sharpness = 1 / variance
            else:
                total += 0.5 * rest * rest / variance + 0.5 * np.log(variance)
                rate = (gain if positive else 0.0) + 2 * fault * signal
                spread_slope = 0.5 / variance - 0.5 * (rest / variance) ** 2
                slope = -rest / variance + rate * spread_slope
                by_background = slope - 2 * fault * signal * spread_slope
                sharpness = 1 / variance + 0.5 * (rate / variance) ** 2
            if gradient:
                for k in range(size - 2):
                    column[k] = scale * slopes[k, i, j]
                column[size - 2], column[size - 1] = image[i, j], 1.0
                score[size - 1] += by_background - slope
                for k in range(size):
                    score[k] += slope * column[k]
                    for m in range(k + 1):
                        information[k, m] += sharpness * column[k] * column[m]
    for k in range(NUISANCES):
        at = 2 * n + k
        if window.spread[k] > 0:
            off = (parameters[at] - window.mean[k]) / window.spread[k]
            total += 0.5 * off * off
            if gradient:
                score[at] += off / window.spread[k]
                information[at, at] += 1 / window.spread[k] ** 2
        elif gradient:
            score[at] = 0.0
            information[at, :] = 0.0
            information[:, at] = 0.0
            information[at, at] = 1.0
    if gradient:
        for k in range(size):
            for m in range(k):
                information[m, k] = information[k, m]
    return total, chi2 / max(number, 1)


@njit(cache=True, nogil=True)
def descend(window, lines, start, cap, tolerance, most):
    """Damped scoring from one start.

    Returns parameters, minus log posterior, chi2 a pixel, information, number of evaluations, and whether it converged.
    A step moves no core by more than ``cap`` (um) and ends at the box; it converges where it is below ``tolerance``.
    """
    size = start.size
    n = lines.shape[0]
    here = start.copy()
    score, information = np.empty(size), np.empty((size, size))
    other, matrix = np.empty(size), np.empty((size, size))
    value, chi2 = minus_log_posterior(window, lines, here, score, information)
    damping, evaluations, converged = 1e-3, 1, False
    while evaluations < most:
        damped = information.copy()
        for k in range(size):
            damped[k, k] = damped[k, k] * (1 + damping) + 1e-30
        step = -np.linalg.solve(damped, score)
        longest = 0.0
        for m in range(n):
            longest = max(longest, np.hypot(step[2 * m], step[2 * m + 1]))
        if longest > cap:
            step *= cap / longest
        there = here + step
        for k in range(2 * n):
            there[k] = min(max(there[k], window.box[0, k]), window.box[1, k])
        moved = 0.0
        for k in range(2 * n):
            moved = max(moved, abs(there[k] - here[k]))
        new, new_chi2 = minus_log_posterior(window, lines, there, other, matrix)
        evaluations += 1
        if new < value:
            gained = value - new
            here, value, chi2 = there, new, new_chi2
            score, other = other, score
            information, matrix = matrix, information
            damping = max(damping * 0.2, 1e-6)
            if moved < tolerance and gained < 1e-3:
                converged = True
                break
        else:
            if moved < tolerance:
                converged = True
                break
            damping = max(damping * 6.0, 1e-2)
    return here, value, chi2, information, evaluations, converged
