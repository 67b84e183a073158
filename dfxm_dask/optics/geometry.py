"""Frames of the microscope: lab, sample and grain, the diffracted beam, pixels, and the oblique goniometer setting.

The lab frame has x along the beam, z up and y = z × x. The sample frame has z along the scattering vector of the
reference lattice; r_s = R_y(theta) r_l at the nominal setting, and r_s = U_s r_g for the grain frame g (Poulsen et
al., J. Appl. Cryst. 54, 1555 (2021)). All rotations are active and right-handed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from dfxm_dask.errors import InputError
from dfxm_dask.optics.crystal import wavelength


def rotation_x(angle: float) -> np.ndarray:
    """Active rotation about x by ``angle`` (rad), (3, 3), float64.

    Examples
    --------
    >>> (rotation_x(np.pi / 2) @ [0, 1, 0]).round(12).tolist()
    [0.0, 0.0, 1.0]
    """
    c, s = np.cos(angle), np.sin(angle)
    return np.array([[1.0, 0, 0], [0, c, -s], [0, s, c]])


def rotation_y(angle: float) -> np.ndarray:
    """Active rotation about y by ``angle`` (rad), (3, 3), float64.

    Examples
    --------
    >>> (rotation_y(np.pi / 2) @ [0, 0, 1]).round(12).tolist()
    [1.0, 0.0, 0.0]
    """
    c, s = np.cos(angle), np.sin(angle)
    return np.array([[c, 0, s], [0, 1.0, 0], [-s, 0, c]])


def rotation_z(angle: float) -> np.ndarray:
    """Active rotation about z by ``angle`` (rad), (3, 3), float64.

    Examples
    --------
    >>> (rotation_z(np.pi / 2) @ [1, 0, 0]).round(12).tolist()
    [0.0, 1.0, 0.0]
    """
    c, s = np.cos(angle), np.sin(angle)
    return np.array([[c, -s, 0], [s, c, 0], [0, 0, 1.0]])


def _unit(vector: Sequence[float] | np.ndarray, what: str) -> np.ndarray:
    vector = np.asarray(vector, np.float64)
    length = np.linalg.norm(vector)
    if vector.shape != (3,) or not 0 < length < np.inf:
        raise InputError(f"{what} {vector.tolist()}", "is not a direction", "give three finite numbers, not all zero")
    return vector / length


def orientation(up: Sequence[float] | np.ndarray, along: np.ndarray | None = None) -> np.ndarray:
    """Orientation U_s, r_s = U_s r_g, of a grain with ``up`` along z and ``along`` in the xz plane towards +x.

    Parameters
    ----------
    up : array (3,)
        Direction in the grain frame that lies along z_s: for a cubic crystal the hkl of the reflection, in general
        its scattering vector.
    along : array (3,), optional
        Direction in the grain frame; its part perpendicular to ``up`` lies along x_s. If not given, the axis of the
        grain that is farthest from ``up``, the first of equals (our choice).

    Returns
    -------
    array (3, 3), float64
        A proper rotation.

    Raises
    ------
    InputError
        A direction of no length, or two that are parallel.

    Examples
    --------
    >>> (orientation((-1, 1, -1)) @ [-1, 1, -1]).round(6).tolist()
    [0.0, 0.0, 1.732051]
    """
    z = _unit(up, "direction up")
    x = np.eye(3)[np.argmin(np.abs(z).round(9))] if along is None else _unit(along, "direction along")
    x = x - (x @ z) * z
    if np.linalg.norm(x) < 1e-9:
        raise InputError(
            f"orientation with {np.asarray(along).tolist()} along x",
            f"it is parallel to {np.asarray(up).tolist()}, which is up",
            "give two directions that are not parallel",
        )
    x /= np.linalg.norm(x)
    return np.array([x, np.cross(z, x), z])


def lab_to_sample(theta: float) -> np.ndarray:
    """Rotation R_y(theta) that turns lab coordinates into sample coordinates, r_s = R r_l, (3, 3).

    Examples
    --------
    >>> q = rotation_y(-0.2) @ [0, 0, 1]  # the scattering vector leans towards -x in the lab
    >>> (lab_to_sample(0.2) @ q).round(12).tolist()
    [0.0, 0.0, 1.0]
    """
    return rotation_y(theta)


def _check_theta(theta: float) -> None:
    if not 0 < theta < np.pi / 4:
        raise InputError(
            f"Bragg angle {theta} rad", "is not between 0 and pi/4", "give theta in rad, of a forward reflection"
        )


def effective_pixel(
    pixel: float, theta: float, detector: Literal["vertical", "normal"] = "vertical"
) -> tuple[float, float]:
    """Pitch of the pixels in the illuminated layer of the sample, along lab y and along lab x, um.

    Parameters
    ----------
    pixel : float, um
        Pixel referred to the object, across the diffracted beam.
    theta : float, rad
        Bragg angle.
    detector : "vertical" or "normal"
        Parallel to the lab yz plane: p/tan(2 theta) along x; or normal to the diffracted beam: p/sin(2 theta).

    Raises
    ------
    InputError
        Pixel or angle out of range, unknown detector.

    Examples
    --------
    >>> [round(pitch, 4) for pitch in effective_pixel(0.04, 0.15661142)]
    [0.04, 0.1235]
    """
    _check_theta(theta)
    if not 0 < pixel < np.inf:
        raise InputError(f"pixel of {pixel} um", "is not positive and finite", "give the pixel referred to the object")
    if detector not in ("vertical", "normal"):
        raise InputError(f"detector {detector!r}", "is not known", "take 'vertical' or 'normal'")
    stretch = np.tan(2 * theta) if detector == "vertical" else np.sin(2 * theta)
    return float(pixel), float(pixel / stretch)


def oblique(UB: np.ndarray, hkl: np.ndarray | tuple[int, int, int], energy: float) -> np.ndarray:
    """Settings in which a reflection of a grain that turns about the vertical is on the Ewald sphere.

    Parameters
    ----------
    UB : array (3, 3), 1/angstrom
        Orientation times reciprocal lattice, 2 pi included: Q = UB hkl in the frame that turns with omega.
    hkl : 3 int
        Reflection.
    energy : float, keV
        Photon energy.

    Returns
    -------
    array (solution, 3), float64, rad
        Rows (omega, eta, theta) by increasing omega in [0, 2 pi); one row where the two solutions coincide.

    Raises
    ------
    InputError
        No wavelength or rotation that fulfils the Laue condition, Q along the rotation axis, or 0 0 0.

    Notes
    -----
    The sample turns by R_z(omega). With k along x, k·R_z(omega) Q = -|Q|²/2 reads
    Q_x cos(omega) - Q_y sin(omega) = -|Q| sin(theta), so omega = ±arccos(-|Q| sin(theta)/Q_xy) - arg(Q_x + i Q_y).
    eta = -sign(k_y) arccos(k_z/√(k_y² + k_z²)) of the diffracted beam (Henningsson et al., arXiv:2503.22022).

    Examples
    --------
    >>> cubic = 2 * np.pi / 4.0493 * np.eye(3)
    >>> np.degrees(oblique(cubic, (-1, -1, 3), 19.1)[0]).round(3).tolist()
    [6.432, 20.233, 15.417]
    """
    q = np.asarray(UB, np.float64) @ np.asarray(hkl, np.float64)
    length, level = float(np.linalg.norm(q)), float(np.hypot(q[0], q[1]))
    name = f"reflection {' '.join(str(index) for index in np.asarray(hkl).tolist())} at {energy:g} keV"
    if length == 0:
        raise InputError(name, "is the direct beam", "give a reflection of the lattice")
    wave = 2 * np.pi / wavelength(energy)
    sine = length / (2 * wave)
    if sine >= 1:
        raise InputError(name, "does not exist at this wavelength", f"take an energy above {energy * sine:.5g} keV")
    if level < 1e-12 * length:
        raise InputError(name, "its scattering vector lies along the rotation axis", "tilt the grain")
    # Two solutions that coincide come out as a cosine of 1 give or take rounding.
    cosine = -length * sine / level
    if cosine < -1 - 1e-12:
        raise InputError(
            name, "no rotation about the vertical brings it onto the Ewald sphere", "tilt the grain or raise the energy"
        )
    half, start = np.arccos(max(cosine, -1.0)), np.arctan2(q[1], q[0])
    omegas = np.unique(np.mod([half - start, -half - start], 2 * np.pi))
    rows = []
    for omega in omegas:
        k = rotation_z(omega) @ q + [wave, 0, 0]
        rows.append([omega, np.arctan2(-k[1], k[2]), np.arcsin(sine)])
    return np.array(rows)
