"""Counts of a scan round one dislocation, their likelihood, and the descent to its optimum."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit

from dfxm_dask.identify.images import SLOPES, ScanOptics, line_images

UNKNOWNS = 7  # two of the position, phi, its slopes along y and x, chi, logarithm of the brightness
WIDE = 1e-6  # information of a background beforehand: a standard deviation of 1000 counts


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
    middle, spread : float, array (5,)
        Logarithm of the brightness (count) beforehand; standard deviations of the normal priors of phi, its slopes
        along y and x, chi, and the logarithm of the brightness.
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
    middle: float
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
            optics.points, optics.weights, optics.dense_points, optics.dense_weights, optics.core_points,
            optics.core_weights, optics.half, optics.window, optics.along, optics.quadratic, optics.wing, optics.step,
            optics.roll, optics.near, optics.poisson,
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
def evaluate(record, row, unknowns, background, extra, renew, score, information, border, slope, coupling):
    """Minus logarithm of the likelihood and of the normal priors, without constants; chi2 of pixels with contrast.

    ``extra`` (frame, y, x) is the variance of the model, computed here if ``renew``: it stays the same in a descent, so
    that its gradient is zero. The levels of pixels and rows that all frames share are at their optimum. Fills the
    gradient ``score`` and the Fisher information of the unknowns, without those of the backgrounds: their gradient is
    ``slope`` (frame,), their information ``coupling`` (frame, frame), and ``border`` (frame, unknown) couples them.
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
    border[:] = 0.0
    slope[:] = 0.0
    coupling[:] = 0.0
    total, chi2, weight = 0.0, 0.0, 0.0
    # Of the pixels of one row: precision and residual in each frame; sums over frames.
    w, rest = np.empty((columns, frames)), np.empty((columns, frames))
    sums, certainty = np.empty(columns), np.empty(columns)
    common, shared = np.empty((columns, UNKNOWNS)), np.empty(UNKNOWNS)
    of_row, c = np.empty(frames), np.empty(UNKNOWNS)
    for i in range(rows):
        seen_row, row_level = 1e-12, 0.0
        for j in range(columns):
            sums[j], certainty[j] = 0.0, 0.0
            for f in range(frames):
                w[j, f] = 0.0
                if not record.valid[f, i, j]:
                    continue
                mean = brightness * images[f, i, j] + background[f]
                if renew:
                    contrast = images[f, i, j] - record.flat[f]
                    edge = slopes[f, 0, i, j] ** 2 + slopes[f, 1, i, j] ** 2
                    extra[f, i, j] = fault * contrast * contrast + blind * edge
                w[j, f] = 1.0 / (max(gain * (mean - record.offset), 0.0) + noise + extra[f, i, j])
                rest[j, f] = record.counts[f, i, j] - mean
                sums[j] += w[j, f] * rest[j, f]
                certainty[j] += w[j, f]
            free = 1.0 / (1.0 + certainty[j] * record.pattern[i, j])
            row_level += sums[j] * free
            seen_row += certainty[j] * free
        row_level /= seen_row
        total += 0.5 * np.log(seen_row)
        shared[:] = 0.0
        of_row[:] = 0.0
        for j in range(columns):
            held = 1.0 / (certainty[j] + 1.0 / record.pattern[i, j])
            free = held / record.pattern[i, j]
            own = (sums[j] - certainty[j] * row_level) * held
            total += 0.5 * own * own / record.pattern[i, j] - 0.5 * np.log(free)
            common[j, :] = 0.0
            for f in range(frames):
                p = w[j, f]
                if p == 0.0:
                    continue
                image = images[f, i, j]
                contrast = image - record.flat[f]
                off = rest[j, f] - own - row_level
                rate = gain if brightness * image + background[f] > record.offset else 0.0
                part = off * off * p
                total += 0.5 * part - 0.5 * np.log(p)
                if brightness * brightness * contrast * contrast * p > 1.0:
                    chi2 += part
                    weight += 1.0 - p * held
                push = (0.5 * rate * (1.0 - part - p * held) - off) * p
                sharp = p + 0.5 * (rate * p) ** 2
                c[0] = brightness * slopes[f, 0, i, j]
                c[1] = brightness * slopes[f, 1, i, j]
                c[2] = brightness * slopes[f, 2, i, j]
                c[3] = c[2] * (record.y[i] - middle_y)
                c[4] = c[2] * (record.x[j] - middle_x)
                c[5] = brightness * slopes[f, 3, i, j]
                c[6] = brightness * image
                slope[f] += push
                coupling[f, f] += sharp
                of_row[f] += p * free
                for k in range(UNKNOWNS):
                    score[k] += push * c[k]
                    border[f, k] += sharp * c[k]
                    common[j, k] += p * c[k]
                    for m in range(k + 1):
                        information[k, m] += sharp * c[k] * c[m]
            # Elimination of the level of the pixel.
            for f in range(frames):
                by = w[j, f] * held
                for k in range(UNKNOWNS):
                    border[f, k] -= by * common[j, k]
                for g in range(f + 1):
                    coupling[f, g] -= by * w[j, g]
            for k in range(UNKNOWNS):
                shared[k] += free * common[j, k]
                for m in range(k + 1):
                    information[k, m] -= held * common[j, k] * common[j, m]
        # Elimination of the level of the row.
        for f in range(frames):
            by = of_row[f] / seen_row
            for k in range(UNKNOWNS):
                border[f, k] -= by * shared[k]
            for g in range(f + 1):
                coupling[f, g] -= by * of_row[g]
        for k in range(UNKNOWNS):
            for m in range(k + 1):
                information[k, m] -= shared[k] * shared[m] / seen_row
    for f in range(frames):
        coupling[f, f] += WIDE
        for g in range(f):
            coupling[g, f] = coupling[f, g]
    for k in range(5):
        off = (unknowns[2 + k] - (record.middle if k == 4 else 0.0)) / record.spread[k]
        total += 0.5 * off * off
        score[2 + k] += off / record.spread[k]
        information[2 + k, 2 + k] += 1.0 / record.spread[k] ** 2
    for k in range(UNKNOWNS):
        for m in range(k):
            information[m, k] = information[k, m]
    # Elimination of the backgrounds.
    inverse = np.linalg.inv(coupling)
    at = inverse @ border
    score -= at.T @ slope
    information -= border.T @ at
    return total, chi2 / max(weight, 1.0), weight


@njit(cache=True, nogil=True)
def descend(record, row, start, background, free, cap, tolerance, most, bound, renewed):
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
    bound : float
        Value that must appear within reach after two evaluations: within three times the expected decrease.
    renewed : bool
        Evaluate the optimum with the variance of the model there, so that optima from different starts compare.

    Returns
    -------
    unknowns, background, value, chi2, lit, information, log_backgrounds
        ``lit`` is the number of pixels whose contrast exceeds the noise; ``log_backgrounds`` the logarithm of the
        determinant of the information of the backgrounds.
    """
    frames = background.size
    here, level = start.copy(), background.copy()
    score, information = np.empty(UNKNOWNS), np.empty((UNKNOWNS, UNKNOWNS))
    border, slope, coupling = np.empty((frames, UNKNOWNS)), np.empty(frames), np.empty((frames, frames))
    other, matrix = np.empty_like(score), np.empty_like(information)
    other_border, other_slope, other_coupling = np.empty_like(border), np.empty_like(slope), np.empty_like(coupling)
    extra = np.empty_like(record.counts)
    value, chi2, lit = evaluate(record, row, here, level, extra, True, score, information, border, slope, coupling)
    damping = 0.3
    for done in range(most - 1):
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
        if done > 1 and value + 1.5 * (score @ step) > bound:
            break
        longest = max(np.hypot(step[0], step[1]) / cap, abs(step[6]) / 0.7)
        for k in range(4):
            longest = max(longest, abs(step[2 + k]) / (2.0 * record.spread[k]))
        if longest > 1.0:
            step /= longest
        there = here + step
        # Backgrounds follow the step of the unknowns: the gradient of a background is linear in it.
        next_level = level - np.linalg.solve(coupling, slope + border @ step)
        new, new_chi2, new_lit = evaluate(
            record, row, there, next_level, extra, False, other, matrix, other_border, other_slope, other_coupling
        )
        if new < value:
            gained = value - new
            here, level, value, chi2, lit = there, next_level, new, new_chi2, new_lit
            score, other = other, score
            information, matrix = matrix, information
            border, other_border = other_border, border
            slope, other_slope = other_slope, slope
            coupling, other_coupling = other_coupling, coupling
            damping = max(damping * 0.15, 1e-6)
            if gained < tolerance:
                break
        else:
            if damping > 1e3:
                break
            damping = max(damping * 6.0, 1e-2)
    if renewed:
        value, chi2, lit = evaluate(record, row, here, level, extra, True, score, information, border, slope, coupling)
    return here, level, value, chi2, lit, information, np.linalg.slogdet(coupling)[1]
