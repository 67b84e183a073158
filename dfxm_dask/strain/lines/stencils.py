"""Weighted sums of the distortion and of its covariance around a pixel, compiled.

A derivative along axis a is a sum of the distortion with weights w_a, its covariance the sum of the covariances of the
pixels with products w_a w_b. Both are linear, so that the Nye tensor follows from few sums (:func:`curl_of`).
"""

from __future__ import annotations

import numpy as np
from numba import njit

PRODUCTS = 6
"""Products of two weights: xx, xy, yy, xz, yz, zz. Without a derivative along z, the first three."""


@njit(nogil=True, cache=True)
def add_stencil(beta, flat, points, weights, count, pairs, slope, product):
    """Add pixels to the sums: ``slope`` (3, 9) of the distortion, ``product`` (6, 81) of its covariance.

    Only the first ``pairs`` products are added. ``flat`` is the covariance (z, y, x, 81).
    """
    for n in range(count):
        layer, row, column = points[n, 0], points[n, 1], points[n, 2]
        wx, wy, wz = weights[n, 0], weights[n, 1], weights[n, 2]
        for c in range(9):
            value = beta[layer, row, column, c] - (1.0 if c % 4 == 0 else 0.0)
            slope[0, c] += wx * value
            slope[1, c] += wy * value
            slope[2, c] += wz * value
        xx, xy, yy, xz, yz, zz = wx * wx, wx * wy, wy * wy, wx * wz, wy * wz, wz * wz
        for e in range(81):
            value = np.float64(flat[layer, row, column, e])
            product[0, e] += xx * value
            product[1, e] += xy * value
            product[2, e] += yy * value
            if pairs > 3:
                product[3, e] += xz * value
                product[4, e] += yz * value
                product[5, e] += zz * value


@njit(nogil=True, cache=True)
def curl_of(slope, product, have, first, alpha, spread):
    """Add the Nye tensor (9) and its covariance (9, 9) of columns from ``first``; missing components count as zero."""
    for i in range(3):
        for j in range(first, 3):
            for n in range(3):
                if n != j and have[3 * i + n]:
                    axis = 3 - j - n  # eps_jkn with k = axis
                    sign = 1.0 if (n - j) % 3 == 2 else -1.0
                    alpha[3 * i + j] += sign * slope[axis, 3 * i + n]
                    for m in range(i + 1):
                        for q in range(first, 3):
                            for p in range(3):
                                if p != q and have[3 * m + p]:
                                    other = 3 - q - p
                                    high = max(axis, other)
                                    pair = high * (high + 1) // 2 + min(axis, other)
                                    value = sign * product[pair, 9 * (3 * i + n) + 3 * m + p]
                                    if (p - q) % 3 != 2:
                                        value = -value
                                    spread[3 * i + j, 3 * m + q] += value
                                    if i != m:
                                        spread[3 * m + q, 3 * i + j] += value


@njit(nogil=True, cache=True)
def add_columns(beta, flat, layer, row, gauss, step, slope, product):
    """Sums along y of every column of a row: moments 0 and 1 of the distortion, 0 to 2 of the covariance.

    Weights are ``gauss`` for the distortion and their squares for the covariance, with distances in units of ``step``.
    ``slope`` is (x, 2, 9), ``product`` (x, 3, 81).
    """
    high = gauss.size // 2
    for x in range(beta.shape[2]):
        slope[x] = 0.0
        product[x] = 0.0
        for n in range(gauss.size):
            g, d = gauss[n], (n - high) * step
            for c in range(9):
                value = g * (beta[layer, row + n - high, x, c] - (1.0 if c % 4 == 0 else 0.0))
                slope[x, 0, c] += value
                slope[x, 1, c] += d * value
            g2 = g * g
            gd, gdd = g2 * d, g2 * d * d
            for e in range(81):
                value = np.float64(flat[layer, row + n - high, x, e])
                product[x, 0, e] += g2 * value
                product[x, 1, e] += gd * value
                product[x, 2, e] += gdd * value


@njit(nogil=True, cache=True)
def add_window(columns, squares, x, gauss, step, inverse, pairs, slope, product):
    """Sums over the complete window around a pixel, from :func:`add_columns`.

    ``inverse`` are the factors of the weights along x, y and z: the inverse second moments of the window, and the share
    of its mean in the derivative along z. A factor of 0 leaves out an axis.
    """
    wide = gauss.size // 2
    fx, fy, fz = inverse
    for n in range(gauss.size):
        at, d = x + n - wide, (n - wide) * step
        gx, gy, gz = gauss[n] * d * fx, gauss[n] * fy, gauss[n] * fz
        for c in range(9):
            slope[0, c] += gx * columns[at, 0, c]
            slope[1, c] += gy * columns[at, 1, c]
            slope[2, c] += gz * columns[at, 0, c]
        if fx != 0.0:
            xx, xy, yy = gx * gx, gx * gy, gy * gy
            for e in range(81):
                product[0, e] += xx * squares[at, 0, e]
                product[1, e] += xy * squares[at, 1, e]
                product[2, e] += yy * squares[at, 2, e]
        if fz != 0.0 and pairs > 3:
            xz, yz, zz = gx * gz, gy * gz, gz * gz
            for e in range(81):
                product[3, e] += xz * squares[at, 0, e]
                product[4, e] += yz * squares[at, 1, e]
                product[5, e] += zz * squares[at, 0, e]
