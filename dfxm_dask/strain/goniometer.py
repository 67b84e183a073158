"""Angles of the goniometer and the detector, and the scattering vector that diffracts at these angles.

The sample turns by R = R_y(-mu) R_z(omega) R_x(chi) R_y(phi); the diffracted beam leaves along
R_x(eta) R_y(-2 theta) x with x along the incident beam (Henningsson et al. (2025), J. Mech. Phys. Solids 204, 106277).
The base tilt mu turns about -y, as at beamline ID03: it is theta in the symmetric setting.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numba import njit

from dfxm_dask.errors import InputError
from dfxm_dask.optics.geometry import rotation_x, rotation_y, rotation_z

SMALLEST_LEVER = 1e-3
"""Least volume of the derivatives of Q / |Q| with respect to the three angles: below it an axis does not move Q
(our choice)."""


@dataclass(frozen=True, eq=False)
class Reflections:
    """Reflections of one crystal, each at its own setting.

    Parameters
    ----------
    hkl : ndarray (reflection, 3), int64
    vectors : ndarray (reflection, xyz), float64, 1/angstrom
        Q = UB hkl of the reference lattice, in the axes of the sample.
    turned : ndarray (reflection, 3, 3), float64
        Rotation (R_y(-mu) R_z(omega))^T R_x(eta): from the plane of diffraction to the axes of the sample.
    theta : ndarray (reflection,), float64, rad
    radius : ndarray (reflection,), float64, 1/angstrom
        4 pi / wavelength.
    """

    hkl: np.ndarray
    vectors: np.ndarray
    turned: np.ndarray
    theta: np.ndarray
    radius: np.ndarray


def reflections(
    hkl: np.ndarray, setting: np.ndarray, reciprocal_lattice: np.ndarray, wavelength: np.ndarray, *, deviation: float
) -> Reflections:
    """Checked reflections of a set.

    Parameters
    ----------
    hkl : ndarray (reflection, 3), int64
    setting : ndarray (reflection, motor), degree
        mu, omega, eta, theta.
    reciprocal_lattice : ndarray (3, 3), 1/angstrom
        UB, 2 pi included.
    wavelength : ndarray (reflection,), angstrom
    deviation : float
        Largest relative deviation between UB hkl and the scattering vector of the setting.

    Raises
    ------
    InputError
        UB or a setting that is not finite, a reflection that does not diffract at its setting, or one that an angle of
        the goniometer does not move.

    Examples
    --------
    >>> cubic = 2 * np.pi / 4.0493 * np.eye(3)
    >>> setting = np.array([[0.0, 6.431574, 20.232593, 15.416830]])
    >>> reflections(np.array([[-1, -1, 3]]), setting, cubic, np.array([0.649132]), deviation=0.01).vectors.round(3)
    array([[-1.552, -1.552,  4.655]])
    """
    hkl, setting = np.asarray(hkl, np.int64), np.asarray(setting, np.float64)
    lattice, waves = np.asarray(reciprocal_lattice, np.float64), np.asarray(wavelength, np.float64)
    if not (np.isfinite(lattice).all() and abs(np.linalg.det(lattice)) > 0):
        raise InputError("reciprocal_lattice", f"is {lattice.tolist()}", "give UB of the crystal, 2 pi included")
    for name, values, good in (
        ("setting", setting, np.isfinite(setting).all(axis=1)),
        ("theta", setting[:, 3], (setting[:, 3] > 0) & (setting[:, 3] < 90)),
        ("wavelength", waves, np.isfinite(waves) & (waves > 0)),
    ):
        if not good.all():
            k = int(np.argmin(good))
            raise InputError(f"{name} of reflection {_named(hkl[k])}", f"is {values[k].tolist()}", "join the set again")
    mu, omega, eta, theta = np.deg2rad(setting).T
    turned = np.stack(
        [(rotation_y(-m) @ rotation_z(o)).T @ rotation_x(e) for m, o, e in zip(mu, omega, eta, strict=True)]
    )
    made = Reflections(hkl, hkl @ lattice.T, turned, theta, 4 * np.pi / waves)
    for k, (expected, zero) in enumerate(zip(made.vectors, vectors(made, np.zeros((len(hkl), 3))), strict=True)):
        name = f"reflection {_named(hkl[k])}"
        length = np.linalg.norm(expected)
        off = np.linalg.norm(zero - expected) / length if length else np.inf
        if not off <= deviation:
            raise InputError(
                name,
                f"UB hkl is {expected.round(4).tolist()} 1/angstrom, but the crystal diffracts at its setting (mu,"
                f" omega, eta, theta = {setting[k].round(4).tolist()} degree) with {zero.round(4).tolist()}",
                "give the orientation, indices, wavelength and setting of the same reflection",
            )
        lever = np.linalg.det(derivatives(made, np.zeros((len(hkl), 3)))[k]) / length**3
        if abs(lever) < SMALLEST_LEVER:
            raise InputError(
                name,
                f"its scattering vector {expected.round(4).tolist()} 1/angstrom is along an axis of the goniometer:"
                " phi, chi and two_theta do not determine it",
                "use another reflection or another orientation of the crystal",
            )
    return made


def _named(hkl: np.ndarray) -> str:
    """Indices as text."""
    return " ".join(str(int(index)) for index in hkl)


def vectors(at: Reflections, angles: np.ndarray) -> np.ndarray:
    """Scattering vectors that diffract at the given angles.

    Parameters
    ----------
    at : Reflections
    angles : ndarray (reflection, ..., angle), rad
        two_theta, phi, chi: deviations from the setting.

    Returns
    -------
    ndarray (reflection, ..., xyz), float64, 1/angstrom

    Notes
    -----
    With theta' = theta + two_theta/2::

        Q = (R_x(chi) R_y(phi))^T (R_y(-mu) R_z(omega))^T R_x(eta) (-sin theta', 0, cos theta') 4 pi sin(theta')/lambda
    """
    return _flat(at, angles)[0]


def derivatives(at: Reflections, angles: np.ndarray) -> np.ndarray:
    """Derivatives of the scattering vector by the angles, ndarray (reflection, ..., xyz, angle), 1/angstrom.

    Parameters
    ----------
    at : Reflections
    angles : ndarray (reflection, ..., angle), rad
        See :func:`vectors`.
    """
    return _flat(at, angles)[1]


def _flat(at: Reflections, angles: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Scattering vectors and their derivatives for angles of any shape."""
    angles = np.asarray(angles, np.float64)
    points = np.ascontiguousarray(angles.reshape(len(angles), -1, 3))
    q, slope = np.empty(points.shape), np.empty((*points.shape, 3))
    _vectors(at.turned, at.theta, at.radius, points, q, slope)
    return q.reshape(angles.shape), slope.reshape(*angles.shape, 3)


@njit(nogil=True, cache=True)
def _vectors(turned, theta, radius, angles, q, slope):
    for k in range(angles.shape[0]):
        for i in range(angles.shape[1]):
            vector_at(
                turned[k], theta[k], radius[k], angles[k, i, 0], angles[k, i, 1], angles[k, i, 2], q[k, i], slope[k, i]
            )


@njit(nogil=True, cache=True)
def vector_at(turned, theta, radius, two_theta, phi, chi, q, slope):
    """Scattering vector at three angles (rad), and its derivatives as columns."""
    half = theta + 0.5 * two_theta
    s, c = np.sin(half), np.cos(half)
    # In the plane of diffraction: R_x(eta)^T Q, and its derivative by two_theta.
    a0, a2 = -radius * s * s, radius * s * c
    d0, d2 = -radius * s * c, 0.5 * radius * (c * c - s * s)
    v0 = turned[0, 0] * a0 + turned[0, 2] * a2
    v1 = turned[1, 0] * a0 + turned[1, 2] * a2
    v2 = turned[2, 0] * a0 + turned[2, 2] * a2
    e0 = turned[0, 0] * d0 + turned[0, 2] * d2
    e1 = turned[1, 0] * d0 + turned[1, 2] * d2
    e2 = turned[2, 0] * d0 + turned[2, 2] * d2
    sp, cp, sc, cc = np.sin(phi), np.cos(phi), np.sin(chi), np.cos(chi)
    w1, w2 = cc * v1 + sc * v2, -sc * v1 + cc * v2  # R_x(-chi)
    f1, f2 = cc * e1 + sc * e2, -sc * e1 + cc * e2
    q[0], q[1], q[2] = cp * v0 - sp * w2, w1, sp * v0 + cp * w2  # R_y(-phi)
    slope[0, 0], slope[1, 0], slope[2, 0] = cp * e0 - sp * f2, f1, sp * e0 + cp * f2
    slope[0, 1], slope[1, 1], slope[2, 1] = -q[2], 0.0, q[0]
    slope[0, 2], slope[1, 2], slope[2, 2] = sp * w1, w2, -cp * w1  # -R_y(-phi) (x × R_x(-chi) v)


def angles_of(at: Reflections, q: np.ndarray) -> np.ndarray:
    """Angles at which scattering vectors diffract.

    Parameters
    ----------
    at : Reflections
    q : ndarray (reflection, ..., xyz), float64, 1/angstrom

    Returns
    -------
    ndarray (reflection, ..., angle), float64, rad
        two_theta, phi, chi: deviations from the setting, the solution with the smaller phi; NaN where the goniometer
        does not reach the vector.

    Examples
    --------
    >>> cubic = 2 * np.pi / 4.0493 * np.eye(3)
    >>> setting = np.array([[0.0, 6.431574, 20.232593, 15.416830]])
    >>> at = reflections(np.array([[-1, -1, 3]]), setting, cubic, np.array([0.649132]), deviation=0.01)
    >>> given = np.array([[[0.001, -0.002, 0.003]]])
    >>> bool(np.allclose(angles_of(at, vectors(at, given)), given, rtol=0, atol=1e-14))
    True
    """
    q = np.asarray(q, np.float64)
    points = np.ascontiguousarray(q.reshape(len(q), -1, 3))
    found = np.empty(points.shape)
    _angles(at.turned, at.theta, at.radius, points, found)
    return found.reshape(q.shape)


@njit(nogil=True, cache=True)
def _angles(turned, theta, radius, q, found):
    for k in range(q.shape[0]):
        for i in range(q.shape[1]):
            angles_at(turned[k], theta[k], radius[k], q[k, i], found[k, i])


@njit(nogil=True, cache=True)
def angles_at(turned, theta, radius, q, found):
    """Angles (rad) at which one scattering vector diffracts: R_x(chi) R_y(phi) Q = v with known v and |v| = |Q|."""
    found[:] = np.nan
    length = np.sqrt(q[0] * q[0] + q[1] * q[1] + q[2] * q[2])
    across = np.sqrt(q[0] * q[0] + q[2] * q[2])
    if not 0.0 < length < radius or across == 0.0:
        return
    s = length / radius
    half = np.arcsin(s)
    c = np.cos(half)
    v0 = length * (-turned[0, 0] * s + turned[0, 2] * c)
    v1 = length * (-turned[1, 0] * s + turned[1, 2] * c)
    v2 = length * (-turned[2, 0] * s + turned[2, 2] * c)
    if abs(v0) > across:
        return
    middle, wide = np.arctan2(q[2], q[0]), np.arccos(v0 / across)
    near, far = wrapped(middle + wide), wrapped(middle - wide)
    phi = near if abs(near) <= abs(far) else far
    w2 = -np.sin(phi) * q[0] + np.cos(phi) * q[2]
    found[0] = 2.0 * (half - theta)
    found[1] = phi
    found[2] = wrapped(np.arctan2(v2, v1) - np.arctan2(w2, q[1]))


@njit(nogil=True, cache=True)
def wrapped(angle):
    """Angle in (-pi, pi]."""
    return angle - 2.0 * np.pi * np.ceil((angle - np.pi) / (2.0 * np.pi))
