"""The kinematic image of a distorted crystal: geometrical optics, ray by ray.

Every voxel of the illuminated sheet deviates from the nominal scattering vector by q; the microscope accepts it with
the probability p(q) of :mod:`dfxm_dask.optics.resolution`; a pixel sums the voxels along the diffracted beam.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import tan

import numpy as np
from numba import njit

from dfxm_dask.errors import InputError
from dfxm_dask.optics.defects.scene import Scene, distortion
from dfxm_dask.optics.frame_image import accepted_by, frame_image
from dfxm_dask.optics.geometry import rotation_x, rotation_y, rotation_z
from dfxm_dask.optics.instrument.microscope import Microscope

POINTS = 16384  # points of one block of distortions: 9 x 128 KiB


@dataclass(frozen=True, eq=False)
class Setting:
    """Orientation of a crystal in the microscope.

    Parameters
    ----------
    theta : float, rad
    direction : ndarray (xyz,)
        Unit scattering vector in the axes of the store.
    to_sample : ndarray (3, 3)
        Rotation from the axes of the store to the sample frame, whose z axis is the scattering vector.
    shear : ndarray (xyz,)
        Shift along x and y, per unit of z, of the voxels imaged by one pixel: the direction of the diffracted beam over
        its z component.
    moves : mapping of str to ndarray (xyz,)
        Shift of q in the sample frame per rad of each scan axis.
    goniometer : ndarray (3, 3) or None
        Rotation from the axes of the stages chi and phi to the sample frame, for exact rotations by these stages. None:
        rotations to first order.
    """

    theta: float
    direction: np.ndarray
    to_sample: np.ndarray
    shear: np.ndarray
    moves: Mapping[str, np.ndarray]
    goniometer: np.ndarray | None = None


def setting(
    theta: float, *, omega: float = 0.0, eta: float = 0.0, oblique: bool = False, laboratory: bool = False
) -> Setting:
    """The crystal at its Bragg angle.

    Parameters
    ----------
    theta : float, rad
        Bragg angle of the undistorted lattice.
    omega, eta : float, rad
        Rotation about z, and azimuth of the reflection on the Debye–Scherrer ring (oblique geometry).
    oblique : bool
        Goniometer R_z(omega) R_x(chi) R_y(phi) with the axes of the store fixed to the crystal, as for several
        reflections of one field. Otherwise the base tilt is theta, phi and chi turn about the y and x axes of the
        sample, and the axes of the store are those of the laboratory (x along the beam, z up).
    laboratory : bool
        With ``oblique``: the axes of the store are those of the laboratory, in which the crystal is turned by omega.

    Returns
    -------
    Setting

    Notes
    -----
    ``two_theta`` is the movement of the detector arm. To first order it changes q by (1/2, 0, -cot(theta)/2) per rad: a
    lattice that is longer by e along Q peaks at two_theta = -2 e tan(theta), in agreement with Bragg's law. Published
    codes use the opposite sign (``legacy=True`` in :func:`image_stack`).

    References
    ----------
    Poulsen et al. (2021), J. Appl. Cryst. 54, 1555; Henningsson et al. (2025), J. Mech. Phys. Solids 204, 106277.

    Raises
    ------
    InputError
        theta outside (0, pi/4).
    """
    if not 0 < theta < np.pi / 4:
        raise InputError("setting: theta", f"is {theta} rad", "give a Bragg angle between 0 and pi/4")
    to_sample = rotation_y(theta) @ rotation_x(-eta) @ rotation_z(omega)
    stages = to_sample if oblique else None
    phi, chi = np.array([1.0, 0, 0]), np.array([0, 1.0, 0])
    if stages is not None:
        phi = stages @ np.cross([0.0, 1.0, 0.0], stages.T[:, 2])
        chi = stages @ np.cross([1.0, 0.0, 0.0], stages.T[:, 2])
    if laboratory:
        to_sample = to_sample @ rotation_z(-omega)
    direction = to_sample.T[:, 2].copy()
    beam = to_sample.T @ rotation_y(-theta)[:, 0]  # R_y(-2 theta) x in the laboratory
    arm = np.array([0.5, 0.0, -0.5 / tan(theta)])
    return Setting(theta, direction, to_sample, beam / beam[2], {"phi": phi, "chi": chi, "two_theta": arm}, stages)


def deviation(beta: np.ndarray, at: Setting) -> np.ndarray:
    """Deviation of the scattering vector of distorted voxels.

    Parameters
    ----------
    beta : ndarray (9, point), float64
        du_i/dx_j, row-major, in the axes of the store.
    at : Setting

    Returns
    -------
    ndarray (point, xyz), float64
        (F^-T - I) Q/|Q| in the sample frame, with F = I + beta, not linearised.

    Raises
    ------
    InputError
        A voxel that is turned inside out (det F <= 0).

    Notes
    -----
    F^-T - I = -F^-T beta^T, so that nothing cancels where beta is small.
    """
    out = np.empty((beta.shape[1], 3))
    if not _deviation(np.ascontiguousarray(beta), at.direction, at.to_sample, out):
        raise InputError("distortion", "has det F <= 0", "keep voxels outside dislocation cores, or give a core radius")
    return out


@njit(cache=True)
def _deviation(beta, direction, to_sample, out):
    sound = True
    a0, a1, a2 = direction[0], direction[1], direction[2]
    for k in range(beta.shape[1]):
        b00, b01, b02 = beta[0, k], beta[1, k], beta[2, k]
        b10, b11, b12 = beta[3, k], beta[4, k], beta[5, k]
        b20, b21, b22 = beta[6, k], beta[7, k], beta[8, k]
        g0 = -(b00 * a0 + b10 * a1 + b20 * a2)
        g1 = -(b01 * a0 + b11 * a1 + b21 * a2)
        g2 = -(b02 * a0 + b12 * a1 + b22 * a2)
        f00, f11, f22 = 1.0 + b00, 1.0 + b11, 1.0 + b22
        # cofactors of F: F^-T = cofactor / det
        c00, c01, c02 = f11 * f22 - b12 * b21, b12 * b20 - b10 * f22, b10 * b21 - f11 * b20
        c10, c11, c12 = b02 * b21 - b01 * f22, f00 * f22 - b02 * b20, b01 * b20 - f00 * b21
        c20, c21, c22 = b01 * b12 - b02 * f11, b02 * b10 - f00 * b12, f00 * f11 - b01 * b10
        det = f00 * c00 + b01 * c01 + b02 * c02
        sound = sound and det > 0.0
        h0 = (c00 * g0 + c01 * g1 + c02 * g2) / det
        h1 = (c10 * g0 + c11 * g1 + c12 * g2) / det
        h2 = (c20 * g0 + c21 * g1 + c22 * g2) / det
        for i in range(3):
            out[k, i] = to_sample[i, 0] * h0 + to_sample[i, 1] * h1 + to_sample[i, 2] * h2
    return sound


def sheet_nodes(microscope: Microscope, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Heights in the line beam, and their weights.

    Parameters
    ----------
    microscope : Microscope
        ``sheet`` is the rms height of its Gaussian profile.
    count : int
        Nodes; one means an infinitely thin sheet.

    Returns
    -------
    height, weight : ndarray (node,), float64
        um, and 1: the weights sum to 1.

    Notes
    -----
    Evenly spaced over ±2.5 rms, which covers 98.8 % of the beam. Gauss–Hermite nodes would be fewer, but the shear
    along the diffracted beam makes single nodes visible as copies of a dislocation.

    Raises
    ------
    InputError
        No node.
    """
    if count < 1:
        raise InputError("sheet_nodes: count", f"is {count}", "give at least one height")
    height = np.linspace(-2.5, 2.5, count) * microscope.sheet if count > 1 else np.zeros(1)
    weight = np.exp(-0.5 * (height / microscope.sheet) ** 2) if count > 1 else np.ones(1)
    return height, weight / weight.sum()


def sheet_deviation(
    scene: Scene, at: Setting, y: np.ndarray, x: np.ndarray, z: float, height: np.ndarray, *, sheared: bool = True
) -> np.ndarray:
    """Deviations of all voxels that the pixels of one layer image.

    Parameters
    ----------
    scene : Scene
    at : Setting
    y, x : ndarray (y,), (x,), um
        Pixel centres.
    z : float, um
        Layer.
    height : ndarray (node,), um
        Heights in the sheet.
    sheared : bool
        Sum along the diffracted beam; False is the published simplification (straight up).

    Returns
    -------
    ndarray (y, x, node, xyz), float32
        q in the sample frame. Its rounding, 1e-11, is far below any width of the microscope.
    """
    out = np.empty((y.size, x.size, height.size, 3), np.float32)
    dx = at.shear[0] * height if sheared else np.zeros_like(height)
    dy = at.shear[1] * height if sheared else np.zeros_like(height)
    rows = max(1, POINTS // (x.size * height.size))
    for first in range(0, y.size, rows):
        block = y[first : first + rows]
        shape = (block.size, x.size, height.size)
        px = np.broadcast_to(x[None, :, None] + dx, shape).ravel()
        py = np.broadcast_to(block[:, None, None] + dy, shape).ravel()
        pz = np.broadcast_to(z + height, shape).ravel()
        out[first : first + rows] = deviation(distortion(scene, px, py, pz), at).reshape(*shape, 3)
    return out


def seen(at: Setting, positions: Mapping[str, float], *, legacy: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Matrix and shift that take q from the sample frame to the image frame at one point of the scan.

    Exact for settings with a goniometer, otherwise to first order in the angles.

    Parameters
    ----------
    at : Setting
    positions : mapping of str to float, rad
        ``phi``, ``chi``, ``two_theta``: deviations from the nominal setting; missing axes are at 0.
    legacy : bool
        The published convention: opposite sign of two_theta, and the image frame turned by the whole angle.

    Raises
    ------
    InputError
        An axis that is not in the setting.
    """
    for name in positions:
        if name not in at.moves:
            known = ", ".join(at.moves)
            raise InputError(f"scan axis {name!r}", "does not move the crystal or the detector", f"use {known}")
    arm = positions.get("two_theta", 0.0)
    image = rotation_y(at.theta + (arm if legacy else arm / 2))
    if at.goniometer is not None and not legacy:
        # The stages turn Q = e_z + q, and the detector accepts the vector with half the angle of the arm.
        stages = rotation_x(positions.get("chi", 0.0)) @ rotation_y(positions.get("phi", 0.0))
        turn = at.goniometer @ stages @ at.goniometer.T
        half = at.theta + arm / 2
        aim = rotation_y(-arm / 2)[:, 2] * np.sin(half) / np.sin(at.theta)
        return image @ turn, np.array([0.0, 0.0, 1.0]) - turn.T @ aim
    shift = np.zeros(3)
    for name, value in positions.items():
        shift = shift + at.moves[name] * value * (-1 if legacy and name == "two_theta" else 1)
    return image, shift


def image_stack(
    scene: Scene,
    microscope: Microscope,
    positions: Mapping[str, np.ndarray],
    y: np.ndarray,
    x: np.ndarray,
    *,
    z: float = 0.0,
    nodes: int = 7,
    sheared: bool = True,
    legacy: bool = False,
) -> np.ndarray:
    """Kinematic images of a crystal over a scan.

    Parameters
    ----------
    scene : Scene
    microscope : Microscope
    positions : mapping of str to ndarray (frame,), rad
        ``phi``, ``chi``, ``two_theta`` of every frame, from the nominal setting.
    y, x : ndarray (y,), (x,), um
        Pixel centres in the laboratory: x along the beam.
    z : float, um
        Layer.
    nodes : int
        Heights over which the sheet is summed.
    sheared : bool
        Sum along the diffracted beam (default) or straight up.
    legacy : bool
        Conventions of published codes (see :func:`seen`).

    Returns
    -------
    ndarray (frame, y, x), float32
        Intensity relative to the perfect crystal at its peak.

    Raises
    ------
    InputError
        Unknown axis; axes of different lengths.

    Examples
    --------
    >>> import numpy as np
    >>> from dfxm_dask.optics.instrument.microscope import MICROSCOPES
    >>> phi = np.array([0.0, 5e-4])
    >>> perfect = image_stack(Scene(0.334), MICROSCOPES["id06_al111"], {"phi": phi}, np.zeros(1), np.zeros(1))
    >>> bool(perfect[0, 0, 0] > 0.99 and perfect[1, 0, 0] < 1e-6)
    True
    """
    sizes = {name: np.size(values) for name, values in positions.items()}
    if len(set(sizes.values())) > 1:
        raise InputError("image_stack: positions", f"have lengths {sizes}", "give one value a frame for each axis")
    at = setting(microscope.theta, eta=microscope.eta)
    accepts = accepted_by(microscope)
    height, weight = sheet_nodes(microscope, nodes)
    q = sheet_deviation(scene, at, y, x, z, height, sheared=sheared)
    frames = next(iter(sizes.values()), 1)
    out = np.empty((frames, y.size, x.size), np.float32)
    for k in range(frames):
        matrix, shift = seen(at, {name: float(values[k]) for name, values in positions.items()}, legacy=legacy)
        out[k] = frame_image(q, weight, matrix, shift, accepts)
    return out
