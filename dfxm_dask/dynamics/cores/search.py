"""Starts for the search of cores: one fine image serves all positions, because a line that moves moves its image."""

from __future__ import annotations

import numpy as np
from numba import njit
from scipy.ndimage import maximum_filter, uniform_filter

from dfxm_dask.dynamics.cores.likelihood import NUISANCES, Window, rendered

DIVISION = 4  # positions per pixel of the search, along each side


def fine_image(
    window: Window, line: np.ndarray, nuisances: np.ndarray, steps: tuple[int, int], division: int
) -> np.ndarray:
    """Image of a core over all positions of the box, on a grid ``division`` times finer than the pixels.

    Pixel (i, j) of the image of position number (a, b) is element [steps_y - 1 - a + i division, ...].
    """
    places = []
    for side, pixels in ((0, window.y), (1, window.x)):
        fine = (pixels[1] - pixels[0]) / division
        first = pixels[0] - window.box[0, side] - (steps[side] - 1) * fine
        places.append(first + fine * np.arange((pixels.size - 1) * division + steps[side]))
    margins = 2 * (window.blur_y.size - 1), 2 * (window.blur_x.size - 1)
    out = np.empty([p.size - division * m for p, m in zip(places, margins, strict=True)])
    # The slopes of the angle refer to the window, which moves with the position here.
    parameters = np.concatenate([[0.0, 0.0], nuisances])
    parameters[3:5] = 0.0
    for a in range(division):
        for b in range(division):
            y, x = places[0][a::division].copy(), places[1][b::division].copy()
            shape = y.size - 2 * (window.blur_y.size - 1), x.size - 2 * (window.blur_x.size - 1)
            one = window._replace(y=y, x=x, counts=np.empty(shape), valid=np.empty(shape, bool))
            out[a::division, b::division] = rendered(one, line, parameters, False)[0]
    return out


@njit(cache=True, nogil=True, fastmath={"contract", "reassoc", "nsz", "arcp"})
def _misfits(fine, counts, weight, mean, inverse, division, steps_y, steps_x):
    # Chi2 of every position with the best scale and background under their priors (mean and 1/variance; inf: known).
    rows, columns = counts.shape
    out = np.empty((steps_y, steps_x, 3))
    total, first, second = 0.0, 0.0, 0.0
    for i in range(rows):
        for j in range(columns):
            total += weight[i, j]
            first += weight[i, j] * counts[i, j]
            second += weight[i, j] * counts[i, j] ** 2
    for a in range(steps_y):
        for b in range(steps_x):
            g, gg, ig = 0.0, 0.0, 0.0
            for i in range(rows):
                row = fine[steps_y - 1 - a + i * division]
                for j in range(columns):
                    value = row[steps_x - 1 - b + j * division]
                    product = weight[i, j] * value
                    g += product
                    gg += product * value
                    ig += product * counts[i, j]
            scale, background = mean[0], mean[1]
            if inverse[0] < np.inf and inverse[1] < np.inf:
                m11, m22 = gg + inverse[0], total + inverse[1]
                r1, r2 = ig + inverse[0] * mean[0], first + inverse[1] * mean[1]
                determinant = m11 * m22 - g * g
                scale, background = (m22 * r1 - g * r2) / determinant, (m11 * r2 - g * r1) / determinant
            elif inverse[0] < np.inf:
                scale = (ig - background * g + inverse[0] * mean[0]) / (gg + inverse[0])
            elif inverse[1] < np.inf:
                background = (first - scale * g + inverse[1] * mean[1]) / (total + inverse[1])
            scale = max(scale, 1e-3 * mean[0])
            misfit = second + scale * scale * gg + background * background * total
            misfit += 2 * (scale * background * g - scale * ig - background * first)
            if inverse[0] < np.inf:
                misfit += inverse[0] * (scale - mean[0]) ** 2
            if inverse[1] < np.inf:
                misfit += inverse[1] * (background - mean[1]) ** 2
            out[a, b, 0], out[a, b, 1], out[a, b, 2] = misfit, scale, background
    return out


def starts(window: Window, line: np.ndarray, most: int, division: int = DIVISION) -> np.ndarray:
    """Parameters (start, 7) of the best local optima on a grid of positions of one line, best first."""
    counts = window.counts
    pitch = np.array([window.y[1] - window.y[0], window.x[1] - window.x[0]])
    steps = np.maximum(np.ceil((window.box[1] - window.box[0]) / pitch * division - 1e-9).astype(int) + 1, 1)
    fine = fine_image(window, line, window.mean, (int(steps[0]), int(steps[1])), division)
    smooth = uniform_filter(np.where(window.valid, counts, window.mean[4]), 3)
    variance = window.gain * np.maximum(smooth - window.offset, 0) + window.read_noise**2 + 1e-12
    weight = np.where(window.valid, 1 / variance, 0.0)
    with np.errstate(divide="ignore"):
        inverse = 1 / window.spread[3:] ** 2
    found = _misfits(fine, np.where(window.valid, counts, 0.0), weight, window.mean[3:], inverse, division, *steps)
    gain = -found[..., 0]
    peak = np.argwhere(gain == maximum_filter(gain, 3, mode="constant", cval=-np.inf))
    peak = peak[np.argsort(-gain[tuple(peak.T)], kind="stable")[:most]]
    out = np.empty((len(peak), 2 + NUISANCES))
    out[:, :2] = np.minimum(window.box[0] + peak * pitch / division, window.box[1])
    out[:, 2:5] = window.mean[:3]
    out[:, 5:] = found[tuple(peak.T)][:, 1:]
    return out
