"""Rotation and strain of the lattice from the deformation gradient."""

from __future__ import annotations

from typing import Annotated, Literal

import numpy as np
from numba import njit
from pydantic import Field

from dfxm_dask.errors import InputError
from dfxm_dask.reduction import Arrays, reduction
from dfxm_dask.schema import SPACE, XYZ, Variable, X, Y
from dfxm_dask.strain.normal_equations import read_only
from dfxm_dask.strain.variables import DEFORMATION, DEFORMATION_COVARIANCE, DEFORMATION_ERROR, REFERENCE, TENSOR

MEASURES = ("small", "lagrange", "stretch")
POLAR_ROUNDS = 12
"""Largest number of Newton iterations of the polar decomposition; four suffice for rotations of some degree."""


def _add(one: Arrays, other: Arrays) -> Arrays:
    """Sum of two summaries."""
    return {name: one[name] + other[name] for name in one}


def _mean(summary: Arrays) -> Arrays:
    """Weighted mean of every component; NaN without a value."""
    with np.errstate(invalid="ignore"):
        return {REFERENCE.name: summary["sum"] / np.where(summary["weight"] > 0, summary["weight"], np.nan)}


@reduction(reads=(DEFORMATION, DEFORMATION_ERROR, Y, X), writes=(REFERENCE,), combine=_add, finish=_mean, min_axes=0)
def reference_deformation(
    deformation: np.ndarray,
    deformation_error: np.ndarray,
    y: np.ndarray,
    x: np.ndarray,
    *,
    region: Annotated[
        tuple[float, float, float, float] | None,
        Field(description="first and last y, first and last x of the reference region in um; by default all pixels"),
    ] = None,
) -> Arrays:
    """Mean deformation gradient of a region, as the reference of rotation and strain.

    Returns
    -------
    dict
        Sums of every component; ``finish`` divides them.

    Notes
    -----
    The mean weights every component of every pixel with its inverse variance; pixels without an error are left out.

    Our own definition.

    Examples
    --------
    >>> import dfxm_dask
    >>> found = dfxm_dask.deformation(dfxm_dask.example_reflections())
    >>> reference = dfxm_dask.reference_deformation(found, region=(0.0, 0.4, 0.0, 1.5))["reference_deformation"]
    >>> reference.shape
    (3, 3)

    The kernel alone, on one layer:

    >>> layer = found.isel(z=0)
    >>> values = [layer[name].values for name in ("deformation", "deformation_error", "y", "x")]
    >>> reference_deformation.finish(reference_deformation.kernel(*values))["reference_deformation"].shape
    (3, 3)
    """
    inside = np.ones((y.size, x.size), bool)
    if region is not None:
        first_y, last_y, first_x, last_x = region
        inside = ((y >= first_y) & (y <= last_y))[:, None] & ((x >= first_x) & (x <= last_x))
    with np.errstate(divide="ignore", invalid="ignore"):
        weight = np.where(inside[..., None, None], 1.0 / np.square(deformation_error, dtype=np.float64), 0.0)
    weight[~(np.isfinite(weight) & np.isfinite(deformation))] = 0.0
    total = np.where(weight > 0, weight * deformation, 0.0).sum(axis=(0, 1))
    return {"sum": total, "weight": weight.sum(axis=(0, 1))}


@reduction(
    reads=(DEFORMATION, DEFORMATION_COVARIANCE),
    may_read=(REFERENCE,),
    writes=(
        Variable("rotation", (*SPACE, XYZ), "float64", "rad", "rotation vector of the lattice (x, y, z)"),
        Variable("rotation_error", (*SPACE, XYZ), "float32", "rad", "standard error of the rotation vector (x, y, z)"),
        Variable("strain", TENSOR, "float64", "1", "strain of the lattice"),
        Variable("strain_error", TENSOR, "float32", "1", "standard error of the strain of the lattice"),
    ),
    min_axes=0,
)
def decompose(
    deformation: np.ndarray,
    deformation_covariance: np.ndarray,
    reference_deformation: np.ndarray | None = None,
    *,
    measure: Annotated[
        Literal["small", "lagrange", "stretch"], Field(description="definition of the strain")
    ] = "lagrange",
    reference: Annotated[
        Literal["lattice", "mean"],
        Field(description="state without strain: the nominal lattice, or the mean of reference_deformation"),
    ] = "lattice",
) -> dict[str, np.ndarray]:
    """Rotation vector and strain tensor of the lattice, by polar decomposition of the deformation gradient.

    Parameters
    ----------
    reference_deformation : array, optional
        F0, see :func:`dfxm_dask.reference_deformation`; used if ``reference`` is "mean".
    measure : "small", "lagrange" or "stretch"
        "small" is also linear in the rotation and overestimates strains where the lattice rotates by more than about
        0.03 rad.
    reference : "lattice" or "mean"
        The nominal lattice spacing is rarely known to 1e-4, so that strains relative to "lattice" have a common offset.

    Returns
    -------
    dict
        Where some components of F are missing, rotation and strain follow from the others to first order, and those
        that need a missing component are NaN.

    Raises
    ------
    InputError
        ``reference`` is "mean", and there is no reference deformation or it has missing components.

    Notes
    -----
    With F relative to the reference, F F0^-1, and F = R U (R a rotation by w, U symmetric)::

        small:     strain = (F + F^T)/2 - I,   w = axial vector of (F - F^T)/2
        lagrange:  strain = (F^T F - I)/2,     w of R
        stretch:   strain = U - I,             w of R

    Errors follow from the covariance of F to first order in strain; the reference has no error.

    References
    ----------
    R. W. Ogden, Non-Linear Elastic Deformations (Dover, 1997), section 2.2.

    Examples
    --------
    >>> import dfxm_dask
    >>> found = dfxm_dask.deformation(dfxm_dask.example_reflections())
    >>> maps = dfxm_dask.decompose(found)
    >>> turn = maps["rotation"].isel(xyz=2).mean("z")  # about the line of the dislocation
    >>> [round(1e3 * float(turn[k, k]), 1) for k in (6, 9)]
    [0.2, -0.2]

    The kernel alone, on one layer:

    >>> strained = np.diag([1.001, 1.0, 1.0])[None, None]
    >>> alone = decompose.kernel(strained, np.zeros((1, 1, 9, 9), np.float32), measure="stretch")
    >>> alone["strain"][0, 0, 0].round(9).tolist()
    [0.001, 0.0, 0.0]
    """
    before = np.eye(3)
    if reference == "mean":
        if reference_deformation is None or not np.isfinite(reference_deformation).all():
            raise InputError(
                "decompose: reference='mean'",
                "there is no complete reference deformation",
                "run the step reference_deformation first, or set reference='lattice'",
            )
        before = np.asarray(reference_deformation, np.float64)
    shape = deformation.shape[:2]
    out = {
        "rotation": np.full((*shape, 3), np.nan),
        "rotation_error": np.full((*shape, 3), np.nan, np.float32),
        "strain": np.full((*shape, 3, 3), np.nan),
        "strain_error": np.full((*shape, 3, 3), np.nan, np.float32),
    }
    _decompose(
        read_only(deformation, np.float64),
        read_only(deformation_covariance, np.float32),
        before,
        np.linalg.inv(before),
        MEASURES.index(measure),
        *out.values(),
    )
    return out


@njit(nogil=True, cache=True)
def _product(a, b, out):
    for i in range(3):
        for j in range(3):
            out[i, j] = a[i, 0] * b[0, j] + a[i, 1] * b[1, j] + a[i, 2] * b[2, j]


@njit(nogil=True, cache=True)
def _inverse_transpose(a, out):
    for i in range(3):
        j, k = (i + 1) % 3, (i + 2) % 3
        for m in range(3):
            n, p = (m + 1) % 3, (m + 2) % 3
            out[i, m] = a[j, n] * a[k, p] - a[j, p] * a[k, n]
    determinant = a[0, 0] * out[0, 0] + a[0, 1] * out[0, 1] + a[0, 2] * out[0, 2]
    out /= determinant


@njit(nogil=True, cache=True)
def _polar(f, turned, work):
    """Rotation of the polar decomposition, by Newton's method: R = (R + R^-T)/2."""
    turned[:, :] = f
    for _ in range(POLAR_ROUNDS):
        _inverse_transpose(turned, work)
        change = 0.0
        for i in range(3):
            for j in range(3):
                half = 0.5 * (work[i, j] - turned[i, j])
                turned[i, j] += half
                change = max(change, abs(half))
        if not change > 1e-15:
            break


@njit(nogil=True, cache=True)
def _variance(row, covariance):
    total = 0.0
    for i in range(9):
        if row[i] != 0.0:
            for j in range(9):
                if row[j] != 0.0:  # other components may be missing
                    total += row[i] * covariance[i, j] * row[j]
    return np.sqrt(total) if total >= 0.0 else np.nan


@njit(nogil=True, cache=True)
def _decompose(deformation, covariance, before, undo, measure, rotation, rotation_error, strain, strain_error):
    f, turned, work, left = np.empty((3, 3)), np.empty((3, 3)), np.empty((3, 3)), np.empty((3, 3))
    row, identity = np.empty(9), np.eye(3)
    for y in range(deformation.shape[0]):
        for x in range(deformation.shape[1]):
            whole = True
            for i in range(3):
                for j in range(3):
                    whole = whole and np.isfinite(deformation[y, x, i, j])
            if whole:
                _product(deformation[y, x], undo, f)
            else:  # to first order
                for i in range(3):
                    for j in range(3):
                        f[i, j] = deformation[y, x, i, j] - before[i, j] + identity[i, j]
            exact = whole and measure > 0
            turned[:, :] = identity
            left[:, :] = identity
            if exact:
                _polar(f, turned, work)
                left[:, :] = f if measure == 1 else turned
            for k in range(3):
                i, j = (k + 1) % 3, (k + 2) % 3
                # Axial vector of the skew part of dF R^T.
                row[:] = 0.0
                for m in range(3):
                    row[3 * j + m] += 0.5 * turned[i, m]
                    row[3 * i + m] -= 0.5 * turned[j, m]
                rotation[y, x, k] = 0.5 * (turned[j, i] - turned[i, j]) if exact else 0.5 * (f[j, i] - f[i, j])
                rotation_error[y, x, k] = _variance(row, covariance[y, x])
            if exact:
                sine = np.sqrt(rotation[y, x, 0] ** 2 + rotation[y, x, 1] ** 2 + rotation[y, x, 2] ** 2)
                angle = np.arctan2(sine, 0.5 * (turned[0, 0] + turned[1, 1] + turned[2, 2] - 1.0))
                if sine > 0.0:
                    for k in range(3):
                        rotation[y, x, k] *= angle / sine
            for i in range(3):
                for j in range(i + 1):
                    row[:] = 0.0
                    total = 0.0
                    for m in range(3):  # symmetric part of L^T dF
                        row[3 * m + j] += 0.5 * left[m, i]
                        row[3 * m + i] += 0.5 * left[m, j]
                        if exact:
                            total += 0.5 * (left[m, i] * f[m, j] + left[m, j] * f[m, i])
                    if not exact:
                        total = 0.5 * (f[i, j] + f[j, i])
                    unit = identity[i, j]
                    value = 0.5 * (total - unit) if exact and measure == 1 else total - unit
                    strain[y, x, i, j] = strain[y, x, j, i] = value
                    error = _variance(row, covariance[y, x])
                    strain_error[y, x, i, j] = strain_error[y, x, j, i] = error
