"""Deformation gradient from several reflections."""

from __future__ import annotations

from typing import Annotated

import numpy as np
from pydantic import Field

from dfxm_dask.errors import InputError
from dfxm_dask.reduction import reduction
from dfxm_dask.schema import SPACE, Variable
from dfxm_dask.strain.goniometer import Reflections, reflections
from dfxm_dask.strain.solver import pattern, solve
from dfxm_dask.strain.variables import (
    CENTRE,
    CENTRE_COVARIANCE,
    DEFORMATION,
    DEFORMATION_COVARIANCE,
    DEFORMATION_ERROR,
    DEFORMATION_REASON,
    HKL,
    RECIPROCAL_LATTICE,
    SETTING,
    WAVELENGTH,
)

MOST = 20
"""Largest number of reflections."""

Plausible = Annotated[
    float,
    Field(
        gt=0, le=1, description="largest norm of F - I; larger deformations mean wrong indices or a wrong orientation"
    ),
]


def checked_set(
    hkl: np.ndarray, setting: np.ndarray, reciprocal_lattice: np.ndarray, wavelength: np.ndarray, plausible: float
) -> Reflections:
    """Reflections of a set that determine at least one component of F if all angles are measured.

    Raises
    ------
    InputError
        See :func:`dfxm_dask.strain.goniometer.reflections`; reflections that determine no component.
    """
    at = reflections(hkl, setting, reciprocal_lattice, wavelength, deviation=plausible)
    if len(at.theta) > MOST:
        raise InputError("set of reflections", f"has {len(at.theta)} reflections", f"join at most {MOST}")
    found = pattern(at, np.ones((len(at.theta), 3), bool))
    if not found.known.any():
        from dfxm_dask.strain.null_space import undetermined

        names = "; ".join(undetermined(at))
        raise InputError(
            f"set of {len(at.theta)} reflections",
            f"determines no component of the deformation gradient: it leaves undetermined {names}",
            "add reflections until three are not coplanar",
        )
    return at


@reduction(
    reads=(CENTRE, CENTRE_COVARIANCE, HKL, SETTING, RECIPROCAL_LATTICE, WAVELENGTH),
    writes=(
        DEFORMATION,
        DEFORMATION_ERROR,
        DEFORMATION_COVARIANCE,
        Variable("deformation_chi2", SPACE, "float32", "1", "chi-square of the fit of the deformation gradient"),
        Variable("deformation_freedom", SPACE, "uint8", "1", "degrees of freedom of the deformation gradient"),
        Variable("deformation_condition", SPACE, "float32", "1", "condition number of the measured angles"),
        DEFORMATION_REASON,
    ),
    min_axes=0,
)
def deformation(
    centre: np.ndarray,
    centre_covariance: np.ndarray,
    hkl: np.ndarray,
    setting: np.ndarray,
    reciprocal_lattice: np.ndarray,
    wavelength: np.ndarray,
    *,
    plausible: Plausible = 0.1,
) -> dict[str, np.ndarray]:
    """Deformation gradient F of every pixel, from the scattering vectors of several reflections.

    The fit weights every measured angle with its covariance. A missing angle or a missing reflection removes the
    equations of that angle or reflection. Components that the remaining equations do not determine are NaN.

    Parameters
    ----------
    plausible : float
        Default 0.1 (our choice): lattice rotations of up to 4 degree and strains of up to 5 %. A pixel beyond is NaN
        with the reason ``implausible_deformation``. A reflection whose setting deviates by more from the orientation
        is an error.

    Returns
    -------
    dict
        Of a deformation that is determined in part, the determined components to first order in F - I. Without a valid
        covariance of the angles, all angles have equal weight, and the errors are NaN.

    Raises
    ------
    InputError
        UB, indices, wavelength and setting of a reflection do not agree; the reflections determine no component.

    Notes
    -----
    The least squares solution for the scattering vectors Q of the reflections, with angles a = (two_theta, phi, chi)
    of covariance C and J = dQ/da::

        H = argmin Σ (Q - (I + H) UB hkl)^T J^-T C^-1 J^-1 (Q - (I + H) UB hkl),   F = (I + H)^-T

    A missing angle has its predicted value and no weight (Gauss-Newton). The covariance of F follows from the normal
    equations. ``deformation_condition`` is the ratio of the largest and smallest singular value of da/dH for equal
    errors of the angles. ``deformation_chi2`` has ``deformation_freedom`` degrees of freedom; it is NaN without any.

    References
    ----------
    A. Henningsson et al., J. Mech. Phys. Solids 204 (2025) 106277; C. Detlefs et al., J. Appl. Cryst. 58 (2025) 1119.

    Examples
    --------
    >>> import dfxm_dask
    >>> reflections = dfxm_dask.example_reflections()
    >>> found = dfxm_dask.deformation(reflections)
    >>> (1e6 * found["deformation_error"].median(("z", "y", "x")).values).round().tolist()
    [[10.0, 9.0, 12.0], [9.0, 10.0, 12.0], [3.0, 3.0, 4.0]]

    The kernel alone, on one layer:

    >>> tables = [reflections[name].values for name in ("hkl", "setting", "reciprocal_lattice", "wavelength")]
    >>> layer = reflections.isel(z=0)
    >>> alone = deformation.kernel(layer["centre"].values, layer["centre_covariance"].values, *tables)
    >>> bool((alone["deformation"] == found["deformation"].isel(z=0).values).all())
    True
    """
    at = checked_set(hkl, setting, reciprocal_lattice, wavelength, plausible)
    found = solve(at, np.asarray(centre), np.asarray(centre_covariance), plausible)
    for name in ("deformation", "deformation_error"):
        found[name] = found[name].reshape(*found[name].shape[:2], 3, 3)
    return found
