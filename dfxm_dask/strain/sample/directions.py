"""Directions of the diffraction vector of one reflection, and their angle to a reference direction."""

from __future__ import annotations

from typing import Annotated

import numpy as np
from numba import njit
from pydantic import Field

from dfxm_dask.errors import InputError
from dfxm_dask.optics.geometry import rotation_x, rotation_y, rotation_z
from dfxm_dask.reduction import reduction
from dfxm_dask.schema import AXES, SPACE, XYZ, Variable

COM = Variable("com_{axis}", SPACE, "float64", "degree", "centre of mass along {axis}")
DIRECTION = Variable(
    "diffraction_vector", (*SPACE, XYZ), "float64", "1", "unit diffraction vector in the axes of the sample"
)
TURNED = Variable(
    "total_rotation", SPACE, "float64", "degree", "angle between the diffraction vector and the reference direction"
)
ANGLES = ("two_theta", "phi", "chi")


def directions(
    two_theta: np.ndarray, phi: np.ndarray, chi: np.ndarray, setting: tuple[float, float, float, float] | None = None
) -> np.ndarray:
    """Unit diffraction vectors in the axes of the sample.

    Parameters
    ----------
    two_theta : array, degree
        Scattering angle minus 2 theta.
    phi, chi : array, degree
        Angles of the goniometer; the three arrays have one shape or are broadcast.
    setting : (float, float, float, float), degree, optional
        mu, omega, eta, theta. By default the symmetric setting mu = theta with omega = eta = 0, for any theta.

    Returns
    -------
    array (..., xyz), float64

    Examples
    --------
    >>> zero = np.zeros(1)
    >>> directions(zero, zero, np.array([90.0])).round(12).tolist()
    [[0.0, 1.0, 0.0]]
    """
    half, tilt, roll = np.broadcast_arrays(*(np.deg2rad(a) for a in (np.asarray(two_theta) / 2, phi, chi)))
    turned, theta = np.eye(3), 0.0
    if setting is not None:
        mu, omega, eta, theta = np.deg2rad(setting)
        turned = (rotation_y(-mu) @ rotation_z(omega)).T @ rotation_x(eta)
    found = np.empty((half.size, 3))
    _directions(np.ascontiguousarray(turned), theta, half.ravel(), tilt.ravel(), roll.ravel(), found)
    return found.reshape(*half.shape, 3)


# Loops of scalars: functions of numpy arrays round differently with the position in an array, hence with the chunks.
@njit(nogil=True, cache=True)
def _directions(turned, theta, half, tilt, roll, found):
    for k in range(half.size):
        x, z = -np.sin(theta + half[k]), np.cos(theta + half[k])
        v0 = turned[0, 0] * x + turned[0, 2] * z
        v1 = turned[1, 0] * x + turned[1, 2] * z
        v2 = turned[2, 0] * x + turned[2, 2] * z
        w = -np.sin(roll[k]) * v1 + np.cos(roll[k]) * v2
        found[k, 0] = np.cos(tilt[k]) * v0 - np.sin(tilt[k]) * w
        found[k, 1] = np.cos(roll[k]) * v1 + np.sin(roll[k]) * v2
        found[k, 2] = np.sin(tilt[k]) * v0 + np.cos(tilt[k]) * w


@njit(nogil=True, cache=True)
def _angle_to(zero, at, found):
    """Angle (rad) between directions and one of them, exact for small angles."""
    for k in range(at.shape[0]):
        a = at[k, 1] * zero[2] - at[k, 2] * zero[1]
        b = at[k, 2] * zero[0] - at[k, 0] * zero[2]
        c = at[k, 0] * zero[1] - at[k, 1] * zero[0]
        along = at[k, 0] * zero[0] + at[k, 1] * zero[1] + at[k, 2] * zero[2]
        found[k] = np.arctan2(np.sqrt(a * a + b * b + c * c), along)


@reduction(reads=(COM, AXES), writes=(DIRECTION, TURNED), group="strain", positions="common")
def diffraction_vectors(
    com: dict[str, np.ndarray],
    scan: dict[str, np.ndarray],
    *,
    setting: Annotated[
        tuple[float, float, float, float] | None,
        Field(
            description="mu, omega, eta and theta of the reflection; by default mu = theta and omega = eta = 0",
            json_schema_extra={"unit": "degree"},
        ),
    ] = None,
    reference: Annotated[
        tuple[float, float, float] | None,
        Field(
            description="two_theta, phi and chi of the reference direction; by default mid-scan",
            json_schema_extra={"unit": "degree"},
        ),
    ] = None,
) -> dict[str, np.ndarray]:
    """Diffraction vector of every voxel in the axes of the sample, and its angle to a reference direction.

    The centres of mass along phi, chi and two_theta are the angles at which the voxel diffracts, so that its
    diffraction vector lies in the plane of diffraction at these angles. An axis that was not scanned keeps its value of
    the reference. :func:`scattering_vectors` gives the vectors of a set of reflections with their lengths.

    Parameters
    ----------
    scan : dict of arrays
        Mean positions over layers.
    setting : (float, float, float, float), degree, optional
        By default the symmetric setting: the diffraction vector of a crystal with phi = chi = 0 is the z axis of the
        sample, whatever theta.
    reference : (float, float, float), degree, optional
        By default the middle of each scanned axis, and 0 for phi and chi that were not scanned. two_theta is the
        scattering angle itself: its reference is 2 theta.

    Returns
    -------
    dict
        NaN without a centre of mass. ``total_rotation`` is the rotation of the lattice planes in all scanned axes
        together; a rotation about the diffraction vector is not contained.

    Raises
    ------
    InputError
        A scan axis other than phi, chi and two_theta.

    Notes
    -----
    With t = theta + (two_theta - 2 theta)/2::

        n = (R_y(-mu) R_z(omega) R_x(chi) R_y(phi))^T R_x(eta) (-sin t, 0, cos t)

    phi and chi are the positions of the motors; the axes of the sample are those of the laboratory with all motors at
    zero. Strain changes two_theta and, if two_theta was not scanned, appears as a rotation about y of up to
    tan(theta) times the strain.

    References
    ----------
    A. Henningsson et al., J. Mech. Phys. Solids 204 (2025) 106277.

    Examples
    --------
    >>> import dfxm_dask
    >>> scan = dfxm_dask.example_scan()
    >>> maps = dfxm_dask.moments(scan, background=100, noise_cut=5)
    >>> found = dfxm_dask.diffraction_vectors(scan.merge(maps))
    >>> round(float((found["diffraction_vector"] ** 2).sum("xyz").mean()), 9)
    1.0

    The kernel alone, on one layer:

    >>> tilt = {"phi": np.array([[0.0, 0.3]]), "chi": np.array([[0.0, 0.4]])}
    >>> scan = {"phi": np.array([-1.0, 1.0]), "chi": np.array([-1.0, 1.0])}
    >>> diffraction_vectors.kernel(tilt, scan)["total_rotation"].round(4).tolist()
    [[0.0, 0.5]]
    """
    if other := [name for name in com if name not in ANGLES]:
        raise InputError(
            "diffraction_vectors", f"the scan has an axis {other[0]}", f"use a scan of {', '.join(ANGLES)}"
        )
    middle = {name: (float(p.min()) + float(p.max())) / 2 for name, p in scan.items()}
    start = dict(zip(ANGLES, reference, strict=True)) if reference is not None else middle
    angles = {name: np.asarray(com.get(name, start.get(name, 0.0)), np.float64) for name in ANGLES}
    angles["two_theta"] = angles["two_theta"] - start.get("two_theta", 0.0)
    at = directions(angles["two_theta"], angles["phi"], angles["chi"], setting)
    tilt, roll = (np.array([start.get(name, 0.0)]) for name in ("phi", "chi"))
    zero = directions(np.zeros(1), tilt, roll, setting)[0]
    turned = np.empty(at.shape[:-1])
    _angle_to(zero, at.reshape(-1, 3), turned.reshape(-1))
    return {DIRECTION.name: at, TURNED.name: np.rad2deg(turned)}
