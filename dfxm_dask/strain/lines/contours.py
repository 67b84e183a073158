"""Burgers vector of a dislocation from contours of all sizes around its core."""

from __future__ import annotations

import numpy as np
from scipy.special import erf
from scipy.stats import chi2

from dfxm_dask.strain.lines.field_fit import CoreFit, unit_fields
from dfxm_dask.strain.lines.loops import loop
from dfxm_dask.strain.lines.search import Layer

LEAST = 6
"""Contours from which their correlation can be estimated (our choice)."""
RARE = 1e-3
"""Probability below which contours disagree, or a vector is not a lattice vector."""
REASONS = (
    "contour_leaves_map",
    "pixels_missing",
    "another_core_nearby",
    "contours_disagree",
    "not_a_lattice_vector",
    "several_lattice_vectors",
    "no_position",
    "too_few_contours",
    "field_differs_from_straight_line",
)
LEAVES, MISSING, OTHER, DISAGREE, OFF_LATTICE, SEVERAL, NO_POSITION, FEW, MISFIT = (1 << k for k in range(9))


def contour_burgers(
    layer: Layer,
    core: np.ndarray,
    others: np.ndarray,
    halves: tuple[int, int],
    fit: CoreFit,
    poisson: float,
    halo: tuple[float, float],
) -> tuple[np.ndarray, np.ndarray, int, int]:
    """Burgers vector (um), covariance (um2), half edge of the largest contour, and reasons.

    The mean of the contours of all sizes, weighted with their covariances. The trapezoidal rule is corrected by its
    error on the fitted straight line.
    """
    known = np.isfinite(fit.position).all()
    if known:  # the centre of a hole may be some pixels off
        core = np.array([fit.position[1] - layer.y[0], fit.position[0] - layer.x[0]]) / layer.steps
    row, column = (round(float(v)) for v in core)
    reason, (first, half) = 0, halves
    most = half
    if len(others):
        most = min(most, int(np.abs(others - [row, column]).max(axis=1).min()) - 2)
        reason |= OTHER if most < half else 0
    inside = min(row, column, layer.y.size - 1 - row, layer.x.size - 1 - column)
    reason |= LEAVES if inside < most else 0
    most = min(most, inside)
    sense = np.sign(layer.steps[0] * layer.steps[1])
    total, spread, weight, mean = np.empty(3), np.empty((3, 3)), np.zeros((3, 3)), np.zeros(3)
    model = None
    if known:
        rows, columns = np.arange(row - most, row + most + 1), np.arange(column - most, column + most + 1)
        y, x = np.meshgrid(layer.y[rows] if most >= 0 else [], layer.x[columns] if most >= 0 else [], indexing="ij")
        shape = np.append(fit.position, fit.line[:2])
        field = np.tensordot(fit.burgers, unit_fields(np.stack([x, y, 0 * x], -1), shape, poisson), 1)
        model = field.reshape(*x.shape, 9), np.zeros((*x.shape, 9, 9), np.float32)
    found = []
    for n in range(first, most + 1):
        if not loop(layer.beta, layer.covariance, row, column, n, layer.steps, total, spread):
            reason |= MISSING
            continue
        value, matrix = sense * total, spread + 1e-26 * np.eye(3)
        if model is not None:
            loop(*model, most, most, n, layer.steps, total, spread)
            value = value + fit.burgers - sense * total
        share = remaining(np.abs(n * layer.steps), *halo)
        value, inverse = value / share, share**2 * np.linalg.inv(matrix)
        weight, mean = weight + inverse, mean + inverse @ value
        found.append((n, value, inverse))
    if len(found) < 2:
        return np.full(3, np.nan), np.full((3, 3), np.nan), 0, reason | FEW
    covariance = np.linalg.inv(weight)
    burgers = covariance @ mean
    off = sum(float((value - burgers) @ inverse @ (value - burgers)) for _, value, inverse in found)
    covariance = covariance * _correlation(
        [np.linalg.cholesky(inverse).T @ (value - burgers) for _, value, inverse in found]
    )
    freedom = 3 * (len(found) - 1)
    exact = 1e-4 * np.linalg.norm(burgers)  # below the error of the trapezoidal rule
    wide = max(float(np.linalg.norm(value - burgers)) for _, value, _ in found)
    if off > chi2.isf(RARE, freedom) and wide > exact:
        covariance = covariance * off / freedom
        reason |= DISAGREE
    return burgers, covariance, found[-1][0], reason


def remaining(half: np.ndarray, halo: float, width: float) -> float:
    """Part of a Burgers vector within a rectangle of these half edges if a part ``halo`` of the light is blurred.

    The blurred field is that of dislocations spread like the blur, here a Gaussian of standard deviation ``width``.

    Examples
    --------
    >>> remaining(np.array([1.0, 1.0]), 0.02, np.inf), round(remaining(np.array([1.0, 1.0]), 0.02, 1.0), 4)
    (0.98, 0.9893)
    """
    return 1.0 - halo * (1.0 - float(np.prod(erf(half / (np.sqrt(2) * width)))))


def _correlation(residuals: list[np.ndarray]) -> float:
    """Factor of the variance of a mean from the correlation of successive residuals, which resampling causes."""
    every = np.array(residuals)
    square = float((every**2).mean())
    if len(every) < LEAST or square == 0:
        return 1.0
    return 1.0 + 2.0 * max(0.0, float((every[1:] * every[:-1]).mean()) / square)
