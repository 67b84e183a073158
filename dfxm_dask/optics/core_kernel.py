"""Counts of the image of one edge dislocation core: the sum over the light sheet, and its slopes."""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import numpy as np
from numba import njit

from dfxm_dask.errors import InputError
from dfxm_dask.optics.resolution import acceptance

PIXELS = 50
PIXEL = 0.075  # um, along y and, unlike on a real detector, also along x
BURGERS = 2.86e-4  # um
POISSON = 0.334


@cache
def sheet_nodes(n: int, rms: float) -> tuple[np.ndarray, np.ndarray]:
    """Gauss rule for the light sheet: nodes (n,) in [-rms/2, rms/2] and weights (n,) for exp(-z²/(2 rms²)).

    Parameters
    ----------
    n : int
        Number of nodes; exact for polynomials below degree 2 n.
    rms : float
        Height of the sheet; nodes and weights have its unit.

    Raises
    ------
    InputError
        No node, or a sheet without height.

    Notes
    -----
    Golub & Welsch (1969): eigenvalues of the Jacobi matrix, which Lanczos' method takes from the measure on 128
    Gauss-Legendre points.

    Examples
    --------
    >>> nodes, weights = sheet_nodes(10, 600 / 2.355)
    >>> nodes[-1].round(3).item(), weights.sum().round(3).item()
    (124.026, 244.548)
    """
    if not 0 < n <= 64 or not rms > 0:
        raise InputError(
            f"rule of {n} nodes for a sheet of {rms} rms", "is not possible", "take 1 to 64 nodes and rms > 0"
        )
    fine, measure = np.polynomial.legendre.leggauss(128)
    fine = 0.5 * fine
    measure = 0.5 * measure * np.exp(-0.5 * fine**2)
    basis = np.zeros((n, len(fine)))
    jacobi = np.zeros((n, n))
    vector = np.sqrt(measure)
    for k in range(n):
        basis[k] = vector / np.linalg.norm(vector)
        vector = fine * basis[k]
        jacobi[k, : k + 1] = basis[: k + 1] @ vector
        vector = vector - basis[: k + 1].T @ (basis[: k + 1] @ vector)
    nodes, vectors = np.linalg.eigh(np.tril(jacobi, -1) + np.tril(jacobi, -1).T + np.diag(np.diag(jacobi)))
    # The measure is even; the rule then also is, to the last bit.
    weights = measure.sum() * vectors[0] ** 2
    nodes, weights = rms * (nodes - nodes[::-1]) / 2, rms * (weights + weights[::-1]) / 2
    nodes.setflags(write=False)
    weights.setflags(write=False)
    return nodes, weights


class View(NamedTuple):
    """Laboratory and image in the dislocation frame (e1, n, t): the field of an edge has four components there, and
    q is constant.

    Attributes
    ----------
    along, across, step : array (3,)
        Lab x, lab y, and the way along the diffracted beam per um of z.
    q : array (3,)
        Scattering vector over its length.
    offset : float
        Rocking component of the setting.
    image_row : array (3,)
        Direction of the rocking component.
    """

    along: np.ndarray
    across: np.ndarray
    step: np.ndarray
    q: np.ndarray
    offset: float
    image_row: np.ndarray


@njit(cache=True, error_model="numpy")
def images(view, position, sign, rocking, nodes, weights, counts, slopes):
    """Accepted intensity summed over the light sheet, and its derivatives by the position of the core."""
    along, across, step, q, offset, image_row = view
    strength = BURGERS / (4.0 * np.pi * (1.0 - POISSON))
    nu = 2.0 * POISSON
    for i in range(PIXELS):
        for j in range(PIXELS):
            first, second = PIXEL * (i - (PIXELS - 1) / 2), PIXEL * (j - (PIXELS - 1) / 2)
            total, slope_x, slope_y = 0.0, 0.0, 0.0
            for k in range(nodes.shape[0]):
                x = first * along[0] + second * across[0] + nodes[k] * step[0] - position[0]
                y = first * along[1] + second * across[1] + nodes[k] * step[1] - position[1]
                xx, yy = x * x, y * y
                r2 = xx + yy
                if r2 < 1e-16:  # on the line itself nothing reflects
                    continue
                a = strength / (r2 * r2)
                # Components beta = a N and their derivatives a (dN - 4 (x, y) N/r²).
                n11, n12 = -y * ((3 - nu) * xx + (1 - nu) * yy), x * ((3 - nu) * xx + (1 - nu) * yy)
                n21, n22 = -x * ((1 - nu) * xx + (3 - nu) * yy), y * ((1 + sign * nu) * xx - (1 - sign * nu) * yy)
                f11, f12, f21, f22 = 1 + a * n11, a * n12, a * n21, 1 + a * n22
                determinant = f11 * f22 - f12 * f21
                # h = F^-T q, and the deviation h - q.
                h0 = (f22 * q[0] - f21 * q[1]) / determinant
                h1 = (f11 * q[1] - f12 * q[0]) / determinant
                q_rock = offset + image_row[0] * (h0 - q[0]) + image_row[1] * (h1 - q[1])
                p = acceptance(q_rock, 0.0, 0.0, rocking)
                total += weights[k] * p
                if slopes.shape[0] and p > 0.0:
                    slope = weights[k] * _slope(q_rock, p, rocking)
                    tx, ty = 4 * x / r2, 4 * y / r2
                    for direction in range(2):
                        if direction == 0:
                            d11, d12 = -2 * x * y * (3 - nu), 3 * (3 - nu) * xx + (1 - nu) * yy
                            d21, d22 = -3 * (1 - nu) * xx - (3 - nu) * yy, 2 * x * y * (1 + sign * nu)
                            t = tx
                        else:
                            d11, d12 = -(3 - nu) * xx - 3 * (1 - nu) * yy, 2 * x * y * (1 - nu)
                            d21, d22 = -2 * x * y * (3 - nu), (1 + sign * nu) * xx - 3 * (1 - sign * nu) * yy
                            t = ty
                        b11, b12 = a * (d11 - t * n11), a * (d12 - t * n12)
                        b21, b22 = a * (d21 - t * n21), a * (d22 - t * n22)
                        # dh = -F^-T dbeta^T h, and the core moves against the coordinates.
                        w0, w1 = b11 * h0 + b21 * h1, b12 * h0 + b22 * h1
                        g0, g1 = (f22 * w0 - f21 * w1) / determinant, (f11 * w1 - f12 * w0) / determinant
                        moved = slope * (image_row[0] * g0 + image_row[1] * g1)
                        if direction == 0:
                            slope_x += moved
                        else:
                            slope_y += moved
            counts[i, j] = total
            if slopes.shape[0]:
                slopes[i, j, 0], slopes[i, j, 1] = slope_x, slope_y


@njit(cache=True)
def _slope(q, p, k):
    # dp/dq of the one-dimensional acceptance.
    x, d = k[6] * q, k[9]
    edges = np.exp(-((d + x) ** 2)) - np.exp(-((d - x) ** 2))
    return k[10] * np.exp(-0.5 * k[0] * q * q) * edges * 2.0 / np.sqrt(np.pi) * k[6] - p * k[0] * q
