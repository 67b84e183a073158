"""Closed integrals of the distortion along squares of pixels, compiled."""

from __future__ import annotations

import numpy as np
from numba import njit

from dfxm_dask.strain.normal_equations import inverse_symmetric


@njit(nogil=True, cache=True)
def loop(beta, covariance, row, column, half, steps, total, spread):
    """Integral of beta·dl along a square, counter-clockwise about z, and its covariance; False if a pixel is missing.

    Parameters
    ----------
    beta : array (y, x, 9)
    covariance : array (y, x, 9, 9)
    row, column, half : int
        Centre and half edge of the square, pixels.
    steps : array (2,), um
        Edges of a pixel along y and x, with the sign of the axis.
    total, spread : array (3,) and (3, 3)
        The results, um and um2.
    """
    total[:] = 0.0
    spread[:, :] = 0.0
    if row < half or column < half or row + half >= beta.shape[0] or column + half >= beta.shape[1]:
        return False
    count = 8 * half
    for n in range(count):
        side, k = n // (2 * half), n % (2 * half)  # lower row, right column, upper row, left column
        wx, wy = 0.0, 0.0
        if side == 0:
            r, c = row - half, column - half + k
            wx = steps[1]
        elif side == 1:
            r, c = row - half + k, column + half
            wy = steps[0]
        elif side == 2:
            r, c = row + half, column + half - k
            wx = -steps[1]
        else:
            r, c = row + half - k, column - half
            wy = -steps[0]
        if k == 0:  # a corner: half of either side
            if side == 0:
                wx, wy = 0.5 * steps[1], -0.5 * steps[0]
            elif side == 1:
                wx, wy = 0.5 * steps[1], 0.5 * steps[0]
            elif side == 2:
                wx, wy = -0.5 * steps[1], 0.5 * steps[0]
            else:
                wx, wy = -0.5 * steps[1], -0.5 * steps[0]
        for i in range(3):
            total[i] += wx * beta[r, c, 3 * i] + wy * beta[r, c, 3 * i + 1]
            for j in range(i + 1):
                spread[i, j] += (
                    wx * wx * covariance[r, c, 3 * i, 3 * j]
                    + wx * wy * (covariance[r, c, 3 * i, 3 * j + 1] + covariance[r, c, 3 * i + 1, 3 * j])
                    + wy * wy * covariance[r, c, 3 * i + 1, 3 * j + 1]
                )
    good = True
    for i in range(3):
        good = good and np.isfinite(total[i])
        for j in range(i + 1):
            spread[j, i] = spread[i, j]
            good = good and np.isfinite(spread[i, j])
    return good


@njit(nogil=True, cache=True)
def loop_map(beta, covariance, steps, rows, length, chi2):
    """Length of the Burgers vector within a small square around every pixel, and its square over the covariance.

    Both are medians over squares of 3, 5 and 7 pixels: a pixel close to a core falsifies the square that contains it.
    Without noise, ``chi2`` is infinite. Zero where a square is incomplete.
    """
    total, spread, inverse = np.empty(3), np.empty((3, 3)), np.empty((3, 3))
    sizes, ratios = np.empty(3), np.empty(3)
    for row in range(rows[0], rows[1]):
        for column in range(beta.shape[1]):
            whole = True
            for half in (1, 2, 3):
                if not loop(beta, covariance, row, column, half, steps, total, spread):
                    whole = False
                    break
                sizes[half - 1] = np.sqrt(total[0] ** 2 + total[1] ** 2 + total[2] ** 2)
                ratios[half - 1] = np.inf
                if inverse_symmetric(spread, inverse):
                    ratios[half - 1] = 0.0
                    for i in range(3):
                        for j in range(3):
                            ratios[half - 1] += total[i] * inverse[i, j] * total[j]
            if whole:
                length[row, column] = _median(sizes)
                chi2[row, column] = _median(ratios)


@njit(nogil=True, cache=True)
def _median(three):
    a, b, c = three[0], three[1], three[2]
    return max(min(a, b), min(max(a, b), c))
