"""Scattering vectors of all reflections of a set."""

from __future__ import annotations

import numpy as np
from numba import njit

from dfxm_dask.reduction import reduction
from dfxm_dask.strain.deformation import Plausible
from dfxm_dask.strain.goniometer import reflections, vector_at
from dfxm_dask.strain.normal_equations import read_only
from dfxm_dask.strain.variables import (
    CENTRE,
    CENTRE_COVARIANCE,
    HKL,
    RECIPROCAL_LATTICE,
    SCATTERING_VECTOR,
    SCATTERING_VECTOR_COVARIANCE,
    SETTING,
    WAVELENGTH,
)


@reduction(
    reads=(CENTRE, CENTRE_COVARIANCE, HKL, SETTING, RECIPROCAL_LATTICE, WAVELENGTH),
    writes=(SCATTERING_VECTOR, SCATTERING_VECTOR_COVARIANCE),
    min_axes=0,
)
def scattering_vectors(
    centre: np.ndarray,
    centre_covariance: np.ndarray,
    hkl: np.ndarray,
    setting: np.ndarray,
    reciprocal_lattice: np.ndarray,
    wavelength: np.ndarray,
    *,
    plausible: Plausible = 0.1,
) -> dict[str, np.ndarray]:
    """Scattering vector Q of every reflection and pixel, in the axes of the sample.

    A vector needs all three angles: it is NaN where one is missing. :func:`dfxm_dask.deformation` uses the angles
    themselves and needs no scattering vectors.

    Parameters
    ----------
    plausible : float
        A reflection whose setting deviates by more from the orientation is an error.

    Raises
    ------
    InputError
        UB, indices, wavelength and setting of a reflection do not agree.

    Notes
    -----
    With theta' = theta + two_theta/2, and the covariance C of the angles::

        Q = (R_y(-mu) R_z(omega) R_x(chi) R_y(phi))^T R_x(eta) (-sin theta', 0, cos theta') 4 pi sin(theta') / lambda
        cov(Q) = J C J^T,   J = dQ / d(two_theta, phi, chi)

    References
    ----------
    A. Henningsson et al., J. Mech. Phys. Solids 204 (2025) 106277.

    Examples
    --------
    >>> import dfxm_dask
    >>> reflections = dfxm_dask.example_reflections()
    >>> vectors = dfxm_dask.scattering_vectors(reflections)["scattering_vector"]
    >>> vectors.isel(reflection=3).mean(("z", "y", "x")).values.round(2).tolist()
    [1.55, 1.55, 4.65]

    The kernel alone, on one layer:

    >>> setting = np.array([[0.0, 6.431574, 20.232593, 15.416830]])
    >>> covariance, wavelength = np.tile(1e-6 * np.eye(3), (1, 1, 1, 1, 1)), np.array([0.64913193])
    >>> tables = np.array([[-1, -1, 3]]), setting, 2 * np.pi / 4.0493 * np.eye(3), wavelength
    >>> found = scattering_vectors.kernel(np.zeros((1, 1, 1, 3)), covariance, *tables)
    >>> found["scattering_vector"][0, 0, 0].round(4).tolist()
    [-1.5517, -1.5517, 4.655]
    """
    at = reflections(hkl, setting, reciprocal_lattice, wavelength, deviation=plausible)
    q = np.empty(centre.shape)
    spread = np.empty((*centre.shape, 3), np.float32)
    _propagated(
        (at.turned, at.theta, at.radius),
        read_only(centre, np.float64),
        read_only(centre_covariance, np.float32),
        q,
        spread,
    )
    return {SCATTERING_VECTOR.name: q, SCATTERING_VECTOR_COVARIANCE.name: spread}


@njit(nogil=True, cache=True)
def _propagated(at, centre, covariance, q, spread):
    turned, theta, radius = at
    slope, angles, degree = np.empty((3, 3)), np.empty(3), np.pi / 180.0
    for k in range(centre.shape[0]):
        for y in range(centre.shape[1]):
            for x in range(centre.shape[2]):
                for a in range(3):
                    angles[a] = centre[k, y, x, a] * degree
                vector_at(turned[k], theta[k], radius[k], angles[0], angles[1], angles[2], q[k, y, x], slope)
                if not np.isfinite(angles[0] + angles[1] + angles[2]):
                    q[k, y, x, :] = np.nan
                for i in range(3):
                    for j in range(3):
                        total = 0.0
                        for a in range(3):
                            for b in range(3):
                                total += slope[i, a] * covariance[k, y, x, a, b] * slope[j, b]
                        spread[k, y, x, i, j] = total * degree * degree
