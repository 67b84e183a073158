"""Position of a dislocation core from the distortion around it."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from scipy.optimize import least_squares

from dfxm_dask.optics.defects.dislocation import gradient, lines

STEEPEST = 2.0
"""Largest slope of the line against z, as a tangent (our choice)."""
MOST_SHIFT = 5.0
"""Largest distance of the position from its start, pixels."""


STARTS = ((0.0, 0.0), (0.8, 0.0), (-0.8, 0.0), (0.0, 0.8), (0.0, -0.8))
"""First slopes of the line."""
TILE = 5.0
"""Edge of the tiles whose scatter enters the error, pixels: longer than the correlation of the noise (our choice)."""
ENOUGH = 1.3
"""chi-square per degree of freedom at which no further start is tried."""


class CoreFit(NamedTuple):
    """Straight line through a layer.

    Parameters
    ----------
    position : ndarray (2,), um
        x and y; NaN without a solution.
    covariance : ndarray (2, 2), um2
    line : ndarray (3,)
        Direction, with z component 1.
    burgers : ndarray (3,), um
    misfit : float
        chi-square per degree of freedom; 0 if the pixels have no errors.
    """

    position: np.ndarray
    covariance: np.ndarray
    line: np.ndarray
    burgers: np.ndarray
    misfit: float


def unit_fields(points: np.ndarray, shape: np.ndarray, poisson: float) -> np.ndarray:
    """Distortion (3, point, 9) of lines with a Burgers vector of 1 um along x, y and z; shape is x, y, tan x, tan y."""
    at, line = np.array([shape[0], shape[1], 0.0]), np.array([shape[2], shape[3], 1.0])
    fields = [gradient(points, lines(at, one, line), poisson=poisson) for one in np.eye(3)]
    return np.stack(fields).reshape(3, -1, 9)


def fit_core(
    points: np.ndarray, beta: np.ndarray, covariance: np.ndarray, start: np.ndarray, step: np.ndarray, poisson: float
) -> CoreFit:
    """Least squares fit of a straight dislocation and a distortion that is linear in x and y.

    Parameters
    ----------
    points : ndarray (point, 3), um
    beta : ndarray (point, 9)
    covariance : ndarray (point, 9, 9)
    start, step : ndarray (2,), um
        First position (x, y), and the edges of a pixel.
    poisson : float
    """
    freedom = max(9 * len(points) - 34, 1)
    nothing = CoreFit(np.full(2, np.nan), np.full((2, 2), np.nan), np.zeros(3), np.zeros(3), np.nan)
    spread = covariance.astype(np.float64)
    size = np.trace(spread.mean(axis=0)) / 9
    spread += (1e-6 * size + 1e-24) * np.eye(9)  # the covariance may be singular or zero
    try:
        white = np.linalg.inv(np.linalg.cholesky(spread))
    except np.linalg.LinAlgError:
        return nothing
    if not np.isfinite(white).all():
        return nothing
    near = (points[:, :2] - start) / step
    smooth = np.concatenate([np.ones((len(near), 1)), near], axis=1)
    background = np.einsum("nij,nk->nijk", white, smooth).reshape(len(points) * 9, 27)
    base, _ = np.linalg.qr(background)

    def whitened(fields: np.ndarray) -> np.ndarray:
        """Whitened columns without their part that the background explains."""
        columns = np.einsum("nij,...nj->ni...", white, fields).reshape(len(points) * 9, -1)
        return columns - base @ (base.T @ columns)

    data = whitened(beta)[:, 0]

    def solved(shape: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        columns = whitened(unit_fields(points, shape, poisson))
        burgers, *_ = np.linalg.lstsq(columns, data, rcond=None)
        return data - columns @ burgers, burgers

    reach = np.append(MOST_SHIFT * step, [STEEPEST, STEEPEST])
    middle = np.append(start, [0.0, 0.0])
    found: Any = None
    for slope in STARTS:  # a steep line may need another start
        again = least_squares(
            lambda p: solved(p)[0],
            middle + np.append([0.0, 0.0], slope),
            bounds=(middle - reach, middle + reach),
            x_scale=np.append(0.1 * step, [0.1, 0.1]),
            xtol=1e-7,
            ftol=1e-8,
            gtol=1e-12,
            max_nfev=60,
        )
        if found is None or again.cost < found.cost:
            found = again
        if 2 * found.cost < ENOUGH * freedom:
            break
    left, burgers = solved(found.x)
    misfit = float(left @ left) / freedom if size > 0 else 0.0  # without errors of the pixels, no misfit
    # The bounds are the end of the search: no result.
    if not found.success or (np.abs(found.x - middle)[:2] > 0.98 * reach[:2]).any():
        return nothing
    jacobian = np.concatenate([found.jac, whitened(unit_fields(points, found.x, poisson))], axis=1)
    scale = np.linalg.norm(jacobian, axis=0)
    if not (scale > 0).all():
        return nothing
    inverse = np.linalg.pinv((jacobian / scale).T @ (jacobian / scale), rcond=1e-12) / np.outer(scale, scale)
    stated = max(misfit, 1.0) * inverse[:2, :2]
    if size > 0:
        steps = (jacobian * left[:, None]).reshape(len(points), 9, -1).sum(axis=1) @ inverse[:, :2]
        away = (points[:, :2] - found.x[:2]) / step
        stated = stated * max(1.0, float((tile_scatter(steps, away) / np.diag(inverse)[:2]).max() / max(misfit, 1.0)))
    return CoreFit(found.x[:2], stated, np.array([found.x[2], found.x[3], 1.0]), burgers, misfit)


def tile_scatter(steps: np.ndarray, away: np.ndarray) -> np.ndarray:
    """Variances of a sum over points (point, parameter) from the sums over tiles, within which noise is correlated.

    A tile and its mirror image through the core count together: blur changes the field of a dislocation to both sides
    with opposite sign, so that it does not move the position.
    """
    folded = np.where((away[:, :1] < 0) | ((away[:, :1] == 0) & (away[:, 1:] < 0)), -away, away)
    _, tile = np.unique(np.floor(folded / TILE), axis=0, return_inverse=True)
    sums = np.stack([np.bincount(tile.ravel(), one) for one in steps.T], axis=1)
    return (sums**2).sum(axis=0) * len(sums) / max(len(sums) - 1, 1)
