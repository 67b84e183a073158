"""Probabilities of Burgers vectors: Frank's rule with the errors of spacing, direction and rotation."""

from __future__ import annotations

from itertools import product

import numpy as np

from dfxm_dask.boundaries.plane import in_plane
from dfxm_dask.errors import InputError

FLOOR = 0.02
"""Part of the Burgers content by which a wall may miss Frank's rule apart from stated errors (our choice)."""

WORST = 30.0  # chi² above which no assignment explains the wall, and nothing is stated (our choice)
RADIUS = 1.5152  # radius that holds 68 % of a round two-dimensional Gaussian, in standard deviations


def burgers_probability(
    normal: np.ndarray, normal_error: float, line: np.ndarray, line_error: np.ndarray, spacing: np.ndarray,
    spacing_error: np.ndarray, candidates: np.ndarray, *, overtone: np.ndarray | None = None,
    turn: tuple[float, float] | None = None, axis: tuple[float, float, float] = (0.0, 1.0, 0.0),
) -> np.ndarray:  # fmt: skip
    """Probability of every candidate to be the Burgers vector of each family; (family, candidate), float64.

    Parameters
    ----------
    normal : array (xyz,)
        Unit vector of the boundary.
    normal_error : float, degree
        Radius that holds 68 %.
    line, line_error : array (family, xyz), and (family,), degree
        One or two families, and the standard error of their direction in the plane.
    spacing, spacing_error : array (family,), um
    candidates : array (candidate, xyz), um
        Signs left out, as :func:`~dfxm_dask.boundaries.lattice.lattice_vectors` gives them.
    overtone : array (family,), bool, optional
        Families whose spacing may be twice the stated one: both are equally likely beforehand.
    turn : (float, float), rad, optional
        Rotation of the lattice about ``axis``, and its standard error, either sign: that of the jump along phi.
    axis : (float, float, float)
        Unit vector, as y for phi.

    Returns
    -------
    array (family, candidate), float64
        Every row sums to 1; NaN where an error is NaN, or where no assignment explains the wall.

    Raises
    ------
    InputError
        No family or more than two, numbers that do not fit, errors that are not positive.

    Notes
    -----
    All candidates are equally likely beforehand, and lines without an image do not exist: a family that the reflection
    hides makes the probabilities wrong or the wall inexplicable. For two directions v in the plane the content
    sum b (N·v)/D is v × rotation up to the errors of D, of N in the plane, and of the normal, and a part of 2 % of all.
    The rotation is free but for ``turn``.

    Examples
    --------
    A tilt wall whose normal is known to a degree: b is along it.

    >>> b = 2.86e-4 / np.sqrt(2) * np.array([[1, 1, 0], [1, 0, 1], [0, 1, 1]])
    >>> normal = np.array([1, 1, 0]) / np.sqrt(2)
    >>> burgers_probability(normal, 1.0, [[0, 0, 1]], [0.5], [4.0], [0.04], b).round(3).tolist()
    [[1.0, 0.0, 0.0]]
    """
    normal, line, candidates = (np.asarray(a, np.float64) for a in (normal, line, candidates))
    line_error, spacing, spacing_error = (
        np.atleast_1d(np.asarray(a, np.float64)) for a in (line_error, spacing, spacing_error)
    )
    families = len(spacing)
    shapes = line.shape == (families, 3) and line_error.shape == spacing_error.shape == spacing.shape
    if not (shapes and 1 <= families <= 2 and candidates.ndim == 2 and candidates.shape[1] == 3 and len(candidates)):
        found = f"lines {line.shape}, spacings {spacing.shape}, candidates {candidates.shape}"
        raise InputError("burgers_probability", found, "give one or two families and a list of candidates (number, 3)")
    numbers = np.array([normal_error, *line_error, *spacing, *spacing_error, *(() if turn is None else turn)])
    out = np.full((families, len(candidates)), np.nan)
    if not (np.isfinite(numbers).all() and np.isfinite(line).all() and np.isfinite(normal).all()):
        return out
    if not (min(normal_error, line_error.min(), spacing.min(), spacing_error.min()) > 0 and (not turn or turn[1] > 0)):
        raise InputError("burgers_probability", f"errors and spacings {numbers.tolist()}", "give numbers above zero")
    signed = np.concatenate([candidates, -candidates])
    index = np.array(list(product(range(len(signed)), repeat=families)))
    doubles = product(*[(1, 2) if overtone is not None and overtone[m] else (1,) for m in range(families)])
    scores, worst = [], []
    for times in doubles:
        times = np.array(times)
        errors = np.deg2rad(line_error), times * spacing_error, np.deg2rad(normal_error) / RADIUS
        score, chi = _scores(normal, line, times * spacing, errors, signed[index], turn, np.asarray(axis))
        scores.append(score)
        worst.append(chi)
    if np.min(worst) > WORST:
        return out
    best = np.max(scores)
    weight = np.exp(np.array(scores) - best).sum(axis=0)
    for m in range(families):
        out[m] = np.bincount(index[:, m] % len(candidates), weight, len(candidates)) / weight.sum()
    return out


def _scores(
    normal: np.ndarray, line: np.ndarray, spacing: np.ndarray, errors: tuple, burgers: np.ndarray,
    turn: tuple[float, float] | None, axis: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """Log likelihood, and chi², of every assignment (assignment, family, xyz), with the rotation integrated out."""
    line_error, spacing_error, tilt = errors
    plane = in_plane(normal)
    across = np.cross(normal, line) @ plane.T / spacing[:, None]  # (family, v)
    aside = across[:, ::-1] * [-1, 1]  # turned by 90 degree in the plane
    content = np.einsum("kmi,mv->kvi", burgers, across).reshape(-1, 6)
    turning = np.concatenate([np.cross(v, np.eye(3)).T for v in plane])
    rotation = content @ np.linalg.pinv(turning).T
    size = np.linalg.norm(content, axis=1)
    covariance = (FLOOR * size)[:, None, None] ** 2 * np.eye(6)
    parts = [(line_error[m] * aside[m], m) for m in range(len(spacing))]
    parts += [(spacing_error[m] / spacing[m] * across[m], m) for m in range(len(spacing))]
    for change, m in parts:
        moved = np.einsum("ki,v->kvi", burgers[:, m], change).reshape(-1, 6)
        covariance = covariance + moved[:, :, None] * moved[:, None]
    for v in range(2):  # a tilt of the normal takes v out of the plane, along the normal
        moved = np.zeros((len(burgers), 2, 3))
        moved[:, v] = tilt * np.cross(normal, rotation)
        moved = moved.reshape(-1, 6)
        covariance = covariance + moved[:, :, None] * moved[:, None]
    weight = np.linalg.inv(covariance)
    precision = np.einsum("ai,kab,bj->kij", turning, weight, turning)
    right = np.einsum("ai,kab,kb->ki", turning, weight, content)
    total = np.einsum("ka,kab,kb->k", content, weight, content)
    if turn is not None:
        precision = precision + np.outer(axis, axis) / turn[1] ** 2
        right = right + axis * turn[0] / turn[1] ** 2
        total = total + (turn[0] / turn[1]) ** 2
    chi = total - (right * np.linalg.solve(precision, right[..., None])[..., 0]).sum(axis=1)
    determinants = np.linalg.slogdet(covariance)[1] + np.linalg.slogdet(precision)[1]
    return -0.5 * (chi + determinants), chi
