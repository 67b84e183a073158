"""Weighted least squares of the deformation gradient in every pixel."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numba import njit

from dfxm_dask.strain.goniometer import Reflections, derivatives
from dfxm_dask.strain.normal_equations import angle_weights, correct, gradient, normal_equations, read_only
from dfxm_dask.strain.variables import (
    ANGLE_MISSING,
    COPLANAR,
    IMPLAUSIBLE,
    REFLECTION_MISSING,
    UNLIT,
    UNSOLVED,
    WITHOUT_ERROR,
)

RANK = 1e-3
"""Least singular value of the equations, relative to the largest one, that counts as determined (our choice)."""
KNOWN = 1e-6
"""Largest share of a component in the null space at which it counts as determined (our choice)."""
ROUNDS = 8
"""Largest number of iterations where an angle is missing; two or three suffice."""


@dataclass(frozen=True, eq=False)
class Pattern:
    """Equations of one combination of measured angles.

    Parameters
    ----------
    rank : int
    basis : ndarray (9, 9), float64
        Determined combinations of the components of H = F^-T - I as the first ``rank`` columns, orthonormal; the null
        space as the others.
    known : ndarray (9,), bool
        Whether a component of F (3 row + column) is determined.
    condition : float
        Largest over smallest singular value of the equations, with equal errors of the angles and without the null
        space.
    reason : int
        Reason of missing components, see :data:`dfxm_dask.strain.variables.DEFORMATION_REASON`.
    """

    rank: int
    basis: np.ndarray
    known: np.ndarray
    condition: float
    reason: int


def equations(at: Reflections) -> np.ndarray:
    """Change of the angles by the components of H = F^-T - I, ndarray (reflection, angle, 9), rad."""
    zero = np.zeros((len(at.theta), 3))
    inverse = np.linalg.inv(derivatives(at, zero))
    return np.einsum("kai,kj->kaij", inverse, at.vectors).reshape(len(at.theta), 3, 9)


def pattern(at: Reflections, measured: np.ndarray) -> Pattern:
    """Determined combinations of components for one combination of measured angles.

    Parameters
    ----------
    at : Reflections
    measured : ndarray (reflection, angle), bool
    """
    measured = np.asarray(measured, bool)
    rows = equations(at)[measured]
    if not len(rows):
        return Pattern(0, np.eye(9), np.zeros(9, bool), np.nan, UNLIT)
    _, size, turned = np.linalg.svd(rows, full_matrices=True)
    rank = int((size > RANK * size[0]).sum())
    null = turned[rank:].reshape(-1, 3, 3)
    known = np.sqrt((null**2).sum(axis=0)).T.ravel() < KNOWN  # F - I = -H^T to first order
    return Pattern(
        rank, turned.T.copy(), known, float(size[0] / size[rank - 1]), 0 if rank == 9 else _reason(at, measured)
    )


def _reason(at: Reflections, measured: np.ndarray) -> int:
    """Reason of an incomplete deformation gradient."""
    used = measured.any(axis=1)
    size = np.linalg.svd(_units(at.vectors[used]), compute_uv=False)
    flat = (size > RANK * size[0]).sum() < 3
    lacking = (used & ~measured.all(axis=1)).any()
    return (0 if used.all() else REFLECTION_MISSING) | (ANGLE_MISSING if lacking else 0) | (COPLANAR if flat else 0)


def _units(vectors: np.ndarray) -> np.ndarray:
    """Unit vectors."""
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def patterns(at: Reflections, centre: np.ndarray) -> tuple[list[Pattern], np.ndarray]:
    """All combinations of measured angles in a block, and the number of the combination of every pixel.

    Parameters
    ----------
    centre : ndarray (reflection, y, x, angle)

    Returns
    -------
    list of Pattern, ndarray (y, x) of int64
    """
    count = centre.shape[0]
    code = np.zeros(centre.shape[1:3], np.int64)
    _code(centre, code)
    full = (1 << 3 * count) - 1
    found = [full]
    number = np.zeros(code.shape, np.int64)
    if (rest := code != full).any():
        others, number[rest] = np.unique(code[rest], return_inverse=True)
        number[rest] += 1
        found += others.tolist()
    bits = np.arange(3 * count).reshape(count, 3)
    return [pattern(at, (one >> bits) & 1) for one in found], number


@njit(nogil=True, cache=True)
def _code(centre, code):
    for y in range(centre.shape[1]):
        for k in range(centre.shape[0]):
            for x in range(centre.shape[2]):
                for a in range(3):
                    if np.isfinite(centre[k, y, x, a]):
                        code[y, x] |= 1 << (3 * k + a)


def solve(at: Reflections, centre: np.ndarray, covariance: np.ndarray, plausible: float) -> dict[str, np.ndarray]:
    """Deformation gradient, covariance, chi-square and reasons of a block.

    Parameters
    ----------
    at : Reflections
    centre : ndarray (reflection, y, x, angle), degree
    covariance : ndarray (reflection, y, x, angle, angle), degree2
    plausible : float
        Largest norm of F - I.
    """
    known, number = patterns(at, centre)
    shape = centre.shape[1:3]
    out = {
        "deformation": np.full((*shape, 9), np.nan),
        "deformation_covariance": np.full((*shape, 9, 9), np.nan, np.float32),
        "deformation_error": np.full((*shape, 9), np.nan, np.float32),
        "deformation_chi2": np.full(shape, np.nan, np.float32),
        "deformation_freedom": np.zeros(shape, np.uint8),
        "deformation_condition": np.array([p.condition for p in known], np.float32)[number],
        "deformation_reason": np.zeros(shape, np.uint8),
    }
    table = (
        np.array([p.rank for p in known]),
        np.stack([p.basis for p in known]),
        np.stack([p.known for p in known]),
        np.array([p.reason for p in known], np.uint8),
    )
    _solve(
        (at.turned, at.theta, at.radius, at.vectors),
        read_only(centre, np.float64),
        read_only(covariance, np.float32),
        number,
        table,
        float(plausible),
        *(out[name] for name in out if name != "deformation_condition"),
    )
    return out


@njit(nogil=True, cache=True)
def _solve(at, centre, covariance, number, table, plausible, deformation, f_covariance, error, chi2, freedom, reason):
    ranks, bases, known, reasons = table
    count = centre.shape[0]
    matrix, spread, work = np.empty((9, 9)), np.empty((9, 9)), np.empty((9, 9))
    right, h, f = np.empty(9), np.empty(9), np.empty(9)
    weights, angles, use = np.empty((count, 3, 3)), np.empty((count, 3)), np.empty(count, np.bool_)
    for y in range(number.shape[0]):
        for x in range(number.shape[1]):
            n = number[y, x]
            rank = ranks[n]
            reason[y, x] = reasons[n]
            if rank == 0:
                continue
            rows, whole, good = 0, True, True
            for k in range(count):
                used = 0
                for a in range(3):
                    angles[k, a] = centre[k, y, x, a]
                    used += np.isfinite(angles[k, a])
                use[k] = used > 0
                rows += used
                whole = whole and (used == 3 or used == 0)
                if used:
                    good = angle_weights(covariance[k, y, x], angles[k], weights[k]) and good
            if not good:  # equal weights, and no error
                reason[y, x] |= WITHOUT_ERROR
                for k in range(count):
                    for a in range(3):
                        for b in range(3):
                            weights[k, a, b] = 1.0 if a == b and np.isfinite(angles[k, a]) else 0.0
            h[:] = 0.0
            size, left = np.inf, 0.0
            for _ in range(1 if whole else ROUNDS):
                left = normal_equations(at, angles, weights, use, h, matrix, right)
                size, gain = correct(matrix, right, rank, bases[n], h, spread)
                left -= gain
                if not size > 1e-13:
                    break
            if not (whole and size < np.inf) and not size < 1e-10:
                reason[y, x] |= UNSOLVED
                continue
            if not gradient(h, rank < 9, f, spread, work):
                reason[y, x] |= IMPLAUSIBLE
                continue
            norm = 0.0
            for i in range(9):
                if known[n, i]:
                    norm += (f[i] - (1.0 if i % 4 == 0 else 0.0)) ** 2
            if norm > plausible * plausible:
                reason[y, x] |= IMPLAUSIBLE
                continue
            freedom[y, x] = rows - rank
            if good and rows > rank:
                chi2[y, x] = max(left, 0.0)
            for i in range(9):
                if not known[n, i]:
                    continue
                deformation[y, x, i] = f[i]
                if good:
                    error[y, x, i] = np.sqrt(spread[i, i])
                    for j in range(9):
                        if known[n, j]:
                            f_covariance[y, x, i, j] = spread[i, j]
