"""Deformation gradient, and the distortion of reciprocal space."""

from __future__ import annotations

import numpy as np
from numba import njit

from dfxm_dask.errors import InputError


def deformation(beta: np.ndarray) -> np.ndarray:
    """Deformation gradient F = I + beta.

    Parameters
    ----------
    beta : array (..., 3, 3)
        Distortion, superposed: distortions of several defects add.

    Returns
    -------
    array (..., 3, 3), float64

    Examples
    --------
    >>> deformation(np.zeros((3, 3))).tolist()
    [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]
    """
    return np.eye(3) + np.asarray(beta, np.float64)


@njit(nogil=True, cache=True, error_model="numpy")
def _inverse_transpose_less_one(f, out):
    """Fills the result by cofactors; returns the smallest determinant, so that one test serves all points."""
    smallest = np.inf
    for i in range(f.shape[0]):
        a, b, c, d, e, g, h, k, m = f[i]
        c1, c2, c3 = e * m - g * k, g * h - d * m, d * k - e * h
        det = a * c1 + b * c2 + c * c3
        smallest = det if not det >= smallest else smallest
        inverse = 1 / det
        out[i, 0] = c1 * inverse - 1
        out[i, 1] = c2 * inverse
        out[i, 2] = c3 * inverse
        out[i, 3] = (c * k - b * m) * inverse
        out[i, 4] = (a * m - c * h) * inverse - 1
        out[i, 5] = (b * h - a * k) * inverse
        out[i, 6] = (b * g - c * e) * inverse
        out[i, 7] = (c * d - a * g) * inverse
        out[i, 8] = (a * e - b * d) * inverse - 1
    return smallest


def reciprocal(deformation: np.ndarray) -> np.ndarray:
    """Distortion of reciprocal space H = F^-T - I, not linearised.

    Parameters
    ----------
    deformation : array (..., 3, 3)
        F.

    Returns
    -------
    array (..., 3, 3), float64
        A reciprocal vector Q of the reference becomes Q + H Q.

    Raises
    ------
    InputError
        A determinant that is zero, negative or not a number.

    Examples
    --------
    >>> reciprocal(np.diag([1.0, 2.0, 4.0])).diagonal().tolist()
    [0.0, -0.5, -0.75]
    """
    f = np.ascontiguousarray(deformation, np.float64)
    if f.shape[-2:] != (3, 3):
        raise InputError("deformation", f"has the shape {f.shape}", "give an array (..., 3, 3)")
    out = np.empty((f.size // 9, 9))
    smallest = _inverse_transpose_less_one(f.reshape(-1, 9), out)
    if not smallest > 0:
        raise InputError(
            "deformation",
            f"has the determinant {smallest:.6g}",
            "keep away from the cores, or give the dislocations a larger core radius",
        )
    return out.reshape(f.shape)
