"""Counts of a scan round one dislocation, their likelihood, and the descent to its optimum."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit

from dfxm_dask.identify.images import SLOPES, ScanOptics, line_images

UNKNOWNS = 7  # two of the position, phi, its slopes along y and x, chi, logarithm of the brightness
ANGLES = slice(2, 6)


class Record(NamedTuple):
    """Counts of a scan with everything that their likelihood requires apart from the dislocation.

    Attributes
    ----------
    counts, valid : array (frame, y, x)
        Mean counts of binned pixels, and whether a pixel has counts.
    y, x : array (y,), (x,), um
        Pixel centres relative to the middle of the frame.
    half_y, half_x : array
        One half of the blur along y and x, centre first.
    optics : ScanOptics
    pattern : array (y, x)
        Variance of a level of every pixel that is the same in all frames: the pattern of the camera.
    flat : array (frame,)
        Acceptance of the undistorted lattice.
    gain, offset, read_noise : float, count
        Counts of one photon, counts without light, rms noise without light.
    model_error : float
        Rms error of the model as a fraction of the contrast.
    sampling : float, um
        Rms distance of the points at which the model samples a pixel from those that represent it: where the image
        varies within a pixel, near the core, this is the largest error of the model.
    pixels : float
        Number of pixels in a binned pixel.
    spread : array (5,)
        Standard deviations of the normal priors of phi, its slopes along y and x, and chi; range of the logarithm of
        the brightness.
    """

    counts: np.ndarray
    valid: np.ndarray
    y: np.ndarray
    x: np.ndarray
    half_y: np.ndarray
    half_x: np.ndarray
    optics: ScanOptics
    pattern: np.ndarray
    flat: np.ndarray
    gain: float
    offset: float
    read_noise: float
    model_error: float
    sampling: float
    pixels: float
    spread: np.ndarray


@njit(cache=True, nogil=True)
def blurred(image, half_y, half_x, out):
    """Convolution of one image with symmetric kernels; beyond an edge it continues with its last row or column."""
    ry, rx = half_y.size - 1, half_x.size - 1
    rows, columns = image.shape
    middle = np.empty((rows, columns))
    for i in range(rows):
        for j in range(columns):
            middle[i, j] = half_y[0] * image[i, j]
        for k in range(1, ry + 1):
            above, below = max(i - k, 0), min(i + k, rows - 1)
            for j in range(columns):
                middle[i, j] += half_y[k] * (image[above, j] + image[below, j])
    for i in range(rows):
        for j in range(columns):
            total = half_x[0] * middle[i, j]
            for k in range(1, rx + 1):
                total += half_x[k] * (middle[i, max(j - k, 0)] + middle[i, min(j + k, columns - 1)])
            out[i, j] = total


@njit(cache=True, nogil=True)
def model_images(record, row, unknowns, gradient):
    """Blurred acceptance (frame, y, x) of a line, and its derivatives (frame, 4, y, x)."""
    frames, rows, columns = record.counts.shape
    optics = record.optics
    if unknowns[5] != 0.0:
        optics = ScanOptics(
            optics.direction, optics.matrix, optics.shifts + unknowns[5] * optics.moves[1], optics.moves,
            optics.points, optics.weights, optics.dense_points, optics.dense_weights, optics.window, optics.along,
            optics.quadratic, optics.wing, optics.step, optics.roll, optics.poisson,
        )  # fmt: skip
    sharp = np.empty((frames, rows, columns))
    edges = np.empty((frames if gradient else 0, SLOPES, rows, columns))
    line_images(record.y, record.x, row, unknowns[:2], unknowns[2:5], optics, sharp, edges)
    images, slopes = np.empty_like(sharp), np.empty_like(edges)
    for f in range(frames):
        blurred(sharp[f], record.half_y, record.half_x, images[f])
        for k in range(SLOPES if gradient else 0):
            blurred(edges[f, k], record.half_y, record.half_x, slopes[f, k])
    return images, slopes


@njit(cache=True, nogil=True)
def evaluate(record, row, unknowns, background, extra, renew, score, information, border, at_background):
    """Minus logarithm of the likelihood and of the normal priors, without constants; chi2 of pixels with contrast.

    ``extra`` (frame, y, x) is the variance of the model, computed here if ``renew``: it stays the same in a descent, so
    that its gradient is zero. Fills the gradient ``score`` and the Fisher information of the unknowns, after
    elimination of the backgrounds; ``border`` (frame, unknown) and ``at_background`` (frame, 2: gradient, information)
    are those of the backgrounds.
    """
    images, slopes = model_images(record, row, unknowns, True)
    frames, rows, columns = images.shape
    brightness = np.exp(unknowns[6])
    middle_y, middle_x = 0.5 * (record.y[0] + record.y[-1]), 0.5 * (record.x[0] + record.x[-1])
    noise = record.read_noise**2 / record.pixels
    gain, fault = record.gain / record.pixels, (record.model_error * brightness) ** 2
    blind = (record.sampling * brightness) ** 2
    score[:] = 0.0
    information[:] = 0.0
    total, chi2, weight = 0.0, 0.0, 0.0
    variance = np.empty_like(images)
    level, certainty = np.zeros((rows, columns)), np.empty((rows, columns))
    certainty[:] = 1.0 / record.pattern
    for f in range(frames):
        for i in range(rows):
            for j in range(columns):
                if not record.valid[f, i, j]:
                    continue
                mean = brightness * images[f, i, j] + background[f]
                if renew:
                    contrast = images[f, i, j] - record.flat[f]
                    edge = slopes[f, 0, i, j] ** 2 + slopes[f, 1, i, j] ** 2
                    extra[f, i, j] = fault * contrast * contrast + blind * edge
                v = max(gain * (mean - record.offset), 0.0) + noise + extra[f, i, j]
                variance[f, i, j] = v
                level[i, j] += (record.counts[f, i, j] - mean) / v
                certainty[i, j] += 1.0 / v
    for i in range(rows):
        for j in range(columns):
            level[i, j] /= certainty[i, j]
            total += 0.5 * np.log(certainty[i, j] * record.pattern[i, j])
            total += 0.5 * level[i, j] * level[i, j] / record.pattern[i, j]
    common = np.zeros((rows, columns, UNKNOWNS))
    c = np.empty(UNKNOWNS)
    for f in range(frames):
        by, h = 0.0, 0.0
        cross = np.zeros(UNKNOWNS)
        for i in range(rows):
            for j in range(columns):
                if not record.valid[f, i, j]:
                    continue
                contrast = images[f, i, j] - record.flat[f]
                mean = brightness * images[f, i, j] + background[f]
                v = variance[f, i, j]
                rest = record.counts[f, i, j] - mean - level[i, j]
                rate = gain if mean > record.offset else 0.0
                part, held = rest * rest / v, 1.0 / (v * certainty[i, j])
                total += 0.5 * part + 0.5 * np.log(v)
                lit = brightness * brightness * contrast * contrast / v
                if lit > 1.0:
                    chi2 += part
                    weight += 1.0 - held
                slope = -rest / v + rate * 0.5 * (1.0 - part - held) / v
                sharp = 1.0 / v + 0.5 * (rate / v) ** 2
                c[0] = brightness * slopes[f, 0, i, j]
                c[1] = brightness * slopes[f, 1, i, j]
                c[2] = brightness * slopes[f, 2, i, j]
                c[3] = c[2] * (record.y[i] - middle_y)
                c[4] = c[2] * (record.x[j] - middle_x)
                c[5] = brightness * slopes[f, 3, i, j]
                c[6] = brightness * images[f, i, j]
                by += slope
                h += sharp - held / v
                for k in range(UNKNOWNS):
                    score[k] += slope * c[k]
                    cross[k] += sharp * c[k]
                    common[i, j, k] += c[k] / v
                    for m in range(k + 1):
                        information[k, m] += sharp * c[k] * c[m]
        at_background[f, 0], at_background[f, 1] = by, h
        border[f] = cross
    # Elimination of the levels of the pixels, then of the backgrounds, whose own coupling is neglected.
    for i in range(rows):
        for j in range(columns):
            for k in range(UNKNOWNS):
                for m in range(k + 1):
                    information[k, m] -= common[i, j, k] * common[i, j, m] / certainty[i, j]
    for f in range(frames):
        for i in range(rows):
            for j in range(columns):
                if record.valid[f, i, j]:
                    w = 1.0 / (variance[f, i, j] * certainty[i, j])
                    for k in range(UNKNOWNS):
                        border[f, k] -= w * common[i, j, k]
        h = max(at_background[f, 1], 1e-12)
        at_background[f, 1] = h
        for k in range(UNKNOWNS):
            score[k] -= border[f, k] * at_background[f, 0] / h
            for m in range(k + 1):
                information[k, m] -= border[f, k] * border[f, m] / h
    for k in range(4):
        off = unknowns[2 + k] / record.spread[k]
        total += 0.5 * off * off
        score[2 + k] += off / record.spread[k]
        information[2 + k, 2 + k] += 1.0 / record.spread[k] ** 2
    for k in range(UNKNOWNS):
        for m in range(k):
            information[m, k] = information[k, m]
    return total, chi2 / max(weight, 1.0), weight


@njit(cache=True, nogil=True)
def descend(record, row, start, background, free, cap, tolerance, most):
    """Damped scoring from one start.

    Parameters
    ----------
    record, row
        Counts, and the line.
    start, background : array (7,), (frame,)
        Unknowns and backgrounds.
    free : array (7,), bool
        Unknowns that may change.
    cap, tolerance, most : float (um), float, int
        Longest step of the position, decrease below which it stops, and largest number of evaluations.

    Returns
    -------
    unknowns, background, value, chi2, lit, information, log_backgrounds
        ``lit`` is the number of pixels whose contrast exceeds the noise; ``log_backgrounds`` the sum of logarithms of
        the information of the backgrounds.
    """
    frames = background.size
    here, level = start.copy(), background.copy()
    score, information = np.empty(UNKNOWNS), np.empty((UNKNOWNS, UNKNOWNS))
    border, at_background = np.empty((frames, UNKNOWNS)), np.empty((frames, 2))
    other, matrix = np.empty_like(score), np.empty_like(information)
    other_border, other_at = np.empty_like(border), np.empty_like(at_background)
    extra = np.empty_like(record.counts)
    value, chi2, lit = evaluate(record, row, here, level, extra, True, score, information, border, at_background)
    damping = 0.3
    for _ in range(most - 1):
        damped = information.copy()
        wanted = -score
        for k in range(UNKNOWNS):
            damped[k, k] = damped[k, k] * (1.0 + damping) + 1e-12
            if not free[k]:
                damped[k, :] = 0.0
                damped[:, k] = 0.0
                damped[k, k] = 1.0
                wanted[k] = 0.0
        step = np.linalg.solve(damped, wanted)
        if not np.isfinite(step).all():
            break
        longest = max(np.hypot(step[0], step[1]) / cap, abs(step[6]) / 0.7)
        for k in range(4):
            longest = max(longest, abs(step[2 + k]) / (2.0 * record.spread[k]))
        if longest > 1.0:
            step /= longest
        there = here + step
        next_level = level.copy()
        for f in range(frames):
            # Backgrounds follow the step of the unknowns: the gradient of a background is linear in it.
            total = at_background[f, 0]
            for k in range(UNKNOWNS):
                total += border[f, k] * step[k]
            next_level[f] = level[f] - total / at_background[f, 1]
        new, new_chi2, new_lit = evaluate(
            record, row, there, next_level, extra, False, other, matrix, other_border, other_at
        )
        if new < value:
            gained = value - new
            here, level, value, chi2, lit = there, next_level, new, new_chi2, new_lit
            score, other = other, score
            information, matrix = matrix, information
            border, other_border = other_border, border
            at_background, other_at = other_at, at_background
            damping = max(damping * 0.15, 1e-6)
            if gained < tolerance:
                break
        else:
            if damping > 1e3:
                break
            damping = max(damping * 6.0, 1e-2)
    return here, level, value, chi2, lit, information, np.log(at_background[:, 1]).sum()
