"""Probabilities of Burgers vectors: Frank's rule with errors of spacing, direction and rotation, and line images."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from typing import NamedTuple

import numpy as np

from dfxm_dask.boundaries.planes.plane import in_plane
from dfxm_dask.errors import InputError

FLOOR = 0.02
"""Fraction of the Burgers content by which a wall may violate Frank's rule besides stated errors (our choice)."""

LEAST = 0.001  # least relative error of a rotation, along every axis (our choice)
WORST = 30.0  # chi² above which no assignment explains the wall, and no result is reported (our choice)
RADIUS = 1.5152  # radius that contains 68 % of a round two-dimensional Gaussian, in standard deviations
HIDDEN, SPARSE = 0.1, 0.2
"""Probability of invisible lines in a wall, and one standard deviation of their number per um (our choice)."""

CONSIDERED = 1e-3, 24
"""Fraction of the largest probability by Frank's rule above which images are computed, and largest number of computed
images (our choice)."""

DRAWS = 1000  # for the errors of misorientation and twist


class Posterior(NamedTuple):
    """Burgers vectors of one wall; NaN if an error is NaN, or if no assignment explains the wall.

    Attributes
    ----------
    probability : array (family, candidate), float64
        Probability of every candidate, of either sign. Every row sums to 1.
    product : array (family,), float64
        Most probable g·b, with the sign of the Burgers vector that belongs to the given line; NaN without g.
    product_probability : array (family,), float64
    burgers : array (family, xyz), float64, um
        The most probable assignment, with its sign.
    sign_probability : float
        Probability of this sign, relative to all signs reversed.
    rotation, rotation_error : array (xyz,), float64, rad
        By Frank's rule alone for that assignment, of the + side of the normal relative to the other; standard errors.
    misorientation, misorientation_error, twist, twist_error : float
        rad, and rotation about the normal over all rotation: 0 tilt, 1 twist.
    hidden : float
        Probability of invisible lines in the wall.
    """

    probability: np.ndarray
    product: np.ndarray
    product_probability: np.ndarray
    burgers: np.ndarray
    sign_probability: float
    rotation: np.ndarray
    rotation_error: np.ndarray
    misorientation: float
    misorientation_error: float
    twist: float
    twist_error: float
    hidden: float


def burgers_posterior(
    normal: np.ndarray,
    normal_error: float,
    line: np.ndarray,
    line_error: np.ndarray,
    spacing: np.ndarray,
    spacing_error: np.ndarray,
    candidates: np.ndarray,
    *,
    overtone: np.ndarray | None = None,
    turn: tuple[float, float] | None = None,
    axis: tuple[float, float, float] = (0.0, 1.0, 0.0),
    products: np.ndarray | None = None,
    images: Callable[[np.ndarray, np.ndarray], float] | None = None,
    hidden: float = HIDDEN,
    seed: int = 0,
) -> Posterior:
    """Probability of every candidate Burgers vector for each family of lines, and the resulting rotation.

    Parameters
    ----------
    normal : array (xyz,)
        Unit normal of the boundary.
    normal_error : float, degree
        Radius that contains 68 %.
    line, line_error : array (family, xyz), and (family,), degree
        One or two families, and the standard error of their direction in the plane.
    spacing, spacing_error : array (family,), um
    candidates : array (candidate, xyz), um
        Without signs, as returned by :func:`~dfxm_dask.optics.defects.lattice.lattice_vectors`.
    overtone : array (family,), bool, optional
        Families whose spacing may be twice the stated one: both are equally likely a priori.
    turn : (float, float), rad, optional
        Rotation of the + side relative to the other about ``axis``, and its standard error: the jump along phi.
    axis : (float, float, float)
        Unit vector, y for phi.
    products : array (candidate,), optional
        g·b of every candidate.
    images : callable, optional
        Logarithm of the likelihood of weak-beam images: of spacings (family,) and Burgers vectors (family, xyz).
    hidden : float
        Probability of further lines that are invisible or whose spacing is unknown.
    seed : int
        Seed of drawn rotations.

    Returns
    -------
    Posterior

    Raises
    ------
    InputError
        No family or more than two, arrays that do not fit, errors that are not positive.

    Notes
    -----
    All candidates are equally likely a priori. For two directions v in the plane::

        Σ b (N·v) / D = v × rotation

    up to the errors of D, of N in the plane, and of the normal, and to 2 % of the total content. The rotation is free
    except for ``turn``. Further lines, with their probability, add any content within 0.2 Burgers vectors per um.
    Images are computed for the assignments that remain after Frank's rule; they determine the sign and size of g·b, and
    little else.

    Examples
    --------
    A tilt wall whose normal is known to within a degree: b is along it.

    >>> b = 2.86e-4 / np.sqrt(2) * np.array([[1, 1, 0], [1, 0, 1], [0, 1, 1]])
    >>> normal = np.array([1, 1, 0]) / np.sqrt(2)
    >>> posterior = burgers_posterior(normal, 1.0, [[0, 0, 1]], [0.5], [4.0], [0.04], b)
    >>> posterior.probability.round(2).tolist(), round(1e5 * posterior.misorientation)
    ([[1.0, 0.0, 0.0]], 7)
    """
    normal, line, candidates = (np.asarray(a, np.float64) for a in (normal, line, candidates))
    line_error, spacing, spacing_error = (
        np.atleast_1d(np.asarray(a, np.float64)) for a in (line_error, spacing, spacing_error)
    )
    families = len(spacing)
    shapes = line.shape == (families, 3) and line_error.shape == spacing_error.shape == spacing.shape
    if not (shapes and 1 <= families <= 2 and candidates.ndim == 2 and candidates.shape[1] == 3 and len(candidates)):
        problem = f"lines {line.shape}, spacings {spacing.shape}, candidates {candidates.shape}"
        raise InputError("burgers_posterior", problem, "give one or two families and a list of candidates (number, 3)")
    numbers = np.array([normal_error, *line_error, *spacing, *spacing_error, *(() if turn is None else turn)])
    if not (np.isfinite(numbers).all() and np.isfinite(line).all() and np.isfinite(normal).all()):
        return unknown_posterior(families, len(candidates))
    if not (min(normal_error, line_error.min(), spacing.min(), spacing_error.min()) > 0 and (not turn or turn[1] > 0)):
        raise InputError("burgers_posterior", f"errors and spacings {numbers.tolist()}", "give numbers above zero")
    signed = np.concatenate([candidates, -candidates])
    index = np.array(list(product(range(len(signed)), repeat=families)))
    doubles = [
        np.array(times)
        for times in product(*[(1, 2) if overtone is not None and overtone[m] else (1,) for m in range(families)])
    ]
    scores, worst, plain = [], [], []
    for times in doubles:
        errors = np.deg2rad(line_error), times * spacing_error, np.deg2rad(normal_error) / RADIUS
        equations = _equations(normal, line, times * spacing, errors, signed[index])
        plain.append(equations)
        for sparse, chance in ((0.0, 1 - hidden), (SPARSE, hidden)):
            extra = (sparse * np.linalg.norm(candidates, axis=1).mean()) ** 2 / 3
            score, chi = _scores(equations, extra, turn, np.asarray(axis))
            scores.append(score + np.log(chance))
            worst.append(chi.min())
    if min(worst) > WORST:
        return unknown_posterior(families, len(candidates))
    total = np.array(scores).reshape(len(doubles), 2, -1)  # (double, hidden, assignment)
    if images is not None:
        total = total + _of_images(total, doubles, spacing, signed[index], images)[:, None]
    weight = np.exp(total - total.max())
    weight /= weight.sum()
    each = weight.sum(axis=(0, 1))
    probability = np.array([np.bincount(c % len(candidates), each, len(candidates)) for c in index.T])
    best = int(each.argmax())
    reverse = int(np.flatnonzero((index == (index[best] + len(candidates)) % len(signed)).all(axis=1))[0])
    most_likely, its_probability = _products(index, each, products)
    rotation = _rotation(plain, weight[:, 0], normal, best, seed)
    return Posterior(
        probability,
        most_likely,
        its_probability,
        signed[index[best]],
        float(each[best] / (each[best] + each[reverse])),
        *rotation,
        float(weight[:, 1].sum()),
    )


def unknown_posterior(families: int, candidates: int) -> Posterior:
    """A posterior without values."""
    nothing, vector = np.full(families, np.nan), np.full(3, np.nan)
    return Posterior(
        np.full((families, candidates), np.nan),
        nothing,
        nothing,
        np.full((families, 3), np.nan),
        np.nan,
        vector,
        vector,
        np.nan,
        np.nan,
        np.nan,
        np.nan,
        np.nan,
    )


def _of_images(
    total: np.ndarray,
    doubles: list[np.ndarray],
    spacing: np.ndarray,
    burgers: np.ndarray,
    images: Callable[[np.ndarray, np.ndarray], float],
) -> np.ndarray:
    """Logarithms of image likelihoods, (double, assignment); the least computed value for all others."""
    """Logarithms of the likelihoods of images, (double, assignment); of those not computed the least that was."""
    by_rule = np.logaddexp(total[:, 0], total[:, 1])
    order = np.argsort(-by_rule, axis=None, kind="stable")[: CONSIDERED[1]]
    order = order[by_rule.flat[order] > by_rule.max() + np.log(CONSIDERED[0])]
    likelihoods = [images(doubles[k // len(burgers)] * spacing, burgers[k % len(burgers)]) for k in order]
    out = np.full(by_rule.shape, min(likelihoods))
    out.flat[order] = likelihoods
    return out


def _products(index: np.ndarray, each: np.ndarray, products: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """Most probable g·b of every family, and its probability."""
    families = index.shape[1]
    if products is None:
        return np.full(families, np.nan), np.full(families, np.nan)
    of_signed = np.round(np.concatenate([products, -np.asarray(products)]), 6) + 0.0
    values, number = np.unique(of_signed, return_inverse=True)
    sums = np.array([np.bincount(number[c], each, len(values)) for c in index.T])
    return values[sums.argmax(axis=1)], sums.max(axis=1)


def _equations(
    normal: np.ndarray, line: np.ndarray, spacing: np.ndarray, errors: tuple, burgers: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Content (assignment, 6), its covariance (assignment, 6, 6) from errors, and the matrix (6, 3) of a rotation."""
    line_error, spacing_error, tilt = errors
    plane = in_plane(normal)
    across = np.cross(normal, line) @ plane.T / spacing[:, None]  # (family, v)
    aside = across[:, ::-1] * [-1, 1]  # rotated by 90 degree in the plane
    content = np.einsum("kmi,mv->kvi", burgers, across).reshape(-1, 6)
    turning = np.concatenate([np.cross(v, np.eye(3)).T for v in plane])
    rotation = content @ np.linalg.pinv(turning).T
    covariance = np.zeros((len(burgers), 6, 6))
    parts = [(line_error[m] * aside[m], m) for m in range(len(spacing))]
    parts += [(spacing_error[m] / spacing[m] * across[m], m) for m in range(len(spacing))]
    for change, m in parts:
        moved = np.einsum("ki,v->kvi", burgers[:, m], change).reshape(-1, 6)
        covariance = covariance + moved[:, :, None] * moved[:, None]
    for v in range(2):  # a tilt of the normal moves v out of the plane, along the normal
        moved = np.zeros((len(burgers), 2, 3))
        moved[:, v] = tilt * np.cross(normal, rotation)
        moved = moved.reshape(-1, 6)
        covariance = covariance + moved[:, :, None] * moved[:, None]
    return content, covariance, turning


def _scores(
    equations: tuple[np.ndarray, np.ndarray, np.ndarray],
    extra: float,
    turn: tuple[float, float] | None,
    axis: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Log likelihood and chi² of every assignment, integrated over the rotation."""
    content, covariance, turning = equations
    floor = (FLOOR * np.linalg.norm(content, axis=1)) ** 2 + extra
    covariance = covariance + floor[:, None, None] * np.eye(6)
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


def _rotation(
    plain: list, weight: np.ndarray, normal: np.ndarray, best: int, seed: int
) -> tuple[np.ndarray, np.ndarray, float, float, float, float]:
    """Rotation of the best assignment by Frank's rule alone, its misorientation and twist, with their errors."""
    content, covariance, turning = plain[int(weight[:, best].argmax())]
    content, covariance = content[best], covariance[best]
    precise = np.linalg.inv(covariance + (FLOOR * np.linalg.norm(content)) ** 2 * np.eye(6))
    solving = np.linalg.solve(turning.T @ precise @ turning, turning.T @ precise)
    mean = solving @ content
    spread = solving @ covariance @ solving.T + (LEAST * np.linalg.norm(mean)) ** 2 * np.eye(3)
    values, vectors = np.linalg.eigh(spread)
    drawn = np.random.default_rng(seed).normal(size=(DRAWS, 3)) * np.sqrt(np.maximum(values, 0.0))
    drawn = mean + drawn @ vectors.T
    size = float(np.linalg.norm(mean))
    sizes = np.linalg.norm(drawn, axis=1)
    twists = drawn @ normal / sizes
    error, twist = np.sqrt(np.diag(spread)), abs(float(mean @ normal)) / size
    return mean, error, size, float(sizes.std()), twist, float(twists.std())
