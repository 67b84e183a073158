"""Visibility of dislocations in a reflection, along each axis of a scan."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from dfxm_dask.identify.catalogue import Candidates, catalogue, names
from dfxm_dask.identify.equivalence import equivalent
from dfxm_dask.optics.defects.dislocation import frames
from dfxm_dask.optics.forward import setting
from dfxm_dask.optics.geometry import orientation, rotation_y, rotation_z
from dfxm_dask.optics.instrument.microscope import Microscope
from dfxm_dask.optics.resolution import transfer_matrix

AXES = ("phi", "chi", "two_theta")


class Visibility(NamedTuple):
    """Contrast of dislocations in one reflection.

    Attributes
    ----------
    product : array (candidate,), float64
        g·b.
    deviation : array (candidate, axis), float64
        Angular rms of r/b times the rocking, rolling and strain component of -beta^T g of unit length.
    visibility : array (candidate, axis), float64
        Rms shift of the centre of mass at the distance ``radius`` from the line in a scan of that axis alone, over the
        standard deviation of the curve of the perfect crystal.
    """

    product: np.ndarray
    deviation: np.ndarray
    visibility: np.ndarray


def visibility(
    candidates: Candidates,
    hkl: tuple[int, int, int],
    microscope: Microscope,
    *,
    parameter: float,
    poisson: float = 0.334,
    radius: float = 0.3,
    extent: float = 3.0,
    turn: float = 0.0,
) -> Visibility:
    """Visibility of dislocations along the rocking, rolling and strain axis of one reflection.

    Parameters
    ----------
    candidates : Candidates
        From :func:`dfxm_dask.identify.catalogue.catalogue`, in the frame of the crystal.
    hkl : (h, k, l)
        Reflection of the cubic lattice, as indices.
    microscope : Microscope
        Its acceptance.
    parameter : float, um
        Edge of the cell.
    poisson : float
        Poisson ratio.
    radius : float, um
        Distance from the line at which the deviation is compared with the acceptance.
    extent : float, um
        Largest distance from the core, in the layer. A line that is almost in the layer shows only its two sides.
    turn : float, rad
        Rotation of the crystal about the scattering vector, from
        :func:`dfxm_dask.optics.geometry.orientation` of the reflection: it determines the components along phi and chi.

    Returns
    -------
    Visibility

    Notes
    -----
    First order in beta: dq = -beta^T g/|g| in the image frame. Its components x and y tilt the lattice planes along phi
    and chi, z changes their spacing. With a Gaussian acceptance of covariance S, and the change m of q per rad of
    an axis, the centre of mass shifts by -m·S^-1 dq / (m·S^-1 m), in a curve of variance 1 / (m·S^-1 m)::

        visibility = rms(m·S^-1 dq) / sqrt(m·S^-1 m)

    S correlates the rocking angle with the spacing, so that tilts also shift a scan of two_theta. beta of a line falls
    as 1/r, so that an annulus only scales the angular mean, here over the directions across the line in
    which the layer has a point at the distance ``radius``, within ``extent``: all of them unless the line is almost in
    the layer.

    A screw is invisible if and only if g·b = 0. An edge with g·b = 0 is invisible only if g is parallel to the line:
    with g normal to the slip plane it keeps half of the full contrast. Both follow from the isotropic field.

    References
    ----------
    Pal et al., phi-chi scans of dislocations in aluminium; the measure is our own definition.

    Examples
    --------
    >>> from dfxm_dask.optics.instrument.microscope import find_microscope
    >>> found = visibility(catalogue(angles=4), (-1, 1, -1), find_microscope("id06_al111"), parameter=4.05e-4)
    >>> int((np.abs(found.product) < 1e-9).sum()), int((found.visibility.max(1) < 1e-12).sum())
    (18, 6)
    """
    g = np.asarray(hkl, np.float64)
    to_image = rotation_y(microscope.theta) @ rotation_z(turn) @ orientation(hkl)
    sees = np.array(list(axis_weights(microscope).values()))
    unit, up = g / np.linalg.norm(g), (rotation_y(-2 * microscope.theta) @ to_image)[2]
    size = np.linalg.norm(candidates.burgers, axis=1)
    deviation, seen = np.empty((len(size), 3)), np.empty((len(size), 3))
    for k, (b, t, length) in enumerate(zip(candidates.burgers, candidates.line, size, strict=True)):
        angles = _directions(b, t, up, np.sqrt(max((extent / radius) ** 2 - 1, 0.0)))
        around = _deviations(b / length, t, unit, poisson, angles) @ to_image.T
        deviation[k] = np.sqrt((around**2).mean(axis=0))
        seen[k] = np.sqrt(((around @ sees.T) ** 2).mean(axis=0)) * parameter * length / radius
    return Visibility(candidates.burgers @ g, deviation, seen)


AROUND = (np.arange(360) + 0.5) * np.pi / 180
"""Directions across a line, rad."""


def _directions(b: np.ndarray, t: np.ndarray, up: np.ndarray, along: float) -> np.ndarray:
    """Angles about a line at which a layer with the normal ``up`` is met within ``along`` distances along the line."""
    first, second, slope = frames(b[None], t[None])[0] @ up
    height = max(float(np.hypot(first, second)), 1e-30)  # of the steepest direction across the line
    left_out = np.arccos(min(abs(slope) * along / height, 1.0))
    half = left_out + AROUND[:180] / np.pi * (np.pi - 2 * left_out)
    return np.arctan2(second, first) + np.concatenate([half, half + np.pi])


def _deviations(b: np.ndarray, t: np.ndarray, g: np.ndarray, poisson: float, psi: np.ndarray = AROUND) -> np.ndarray:
    """r times -beta^T g of a line at points around it, (point, xyz) in the frame of the crystal."""
    frame = frames(b[None], t[None])[0]
    edge, _, screw = frame @ b
    x, y = np.cos(psi), np.sin(psi)
    a, s = edge / (4 * np.pi * (1 - poisson)), screw / (2 * np.pi)
    first, second = (3 - 2 * poisson) * x**2 + (1 - 2 * poisson) * y**2, (1 - 2 * poisson) * x**2
    second = second + (3 - 2 * poisson) * y**2
    third = (1 + 2 * poisson) * x**2 - (1 - 2 * poisson) * y**2
    g1, g2, g3 = frame @ g
    along = -(-a * y * first * g1 - a * x * second * g2 - s * y * g3)
    across = -(a * x * first * g1 + a * y * third * g2 + s * x * g3)
    return np.stack([along, across], axis=1) @ frame[:2]


def axis_weights(microscope: Microscope) -> dict[str, np.ndarray]:
    """Shift of the centre of mass along every axis per unit of dq, over the standard deviation of the curve.

    Examples
    --------
    >>> from dfxm_dask.optics.instrument.microscope import find_microscope
    >>> {axis: weight.round(-1).tolist() for axis, weight in axis_weights(find_microscope("id06_al111")).items()}
    {'phi': [13140.0, 0.0, -250.0], 'chi': [0.0, 1000.0, 0.0], 'two_theta': [3140.0, 0.0, -1000.0]}
    """
    matrix = transfer_matrix(microscope)
    precision = np.linalg.inv(matrix * variances(microscope) @ matrix.T)
    moves = setting(microscope.theta).moves
    out = {}
    for axis in AXES:
        change = rotation_y(microscope.theta) @ moves[axis]
        out[axis] = precision @ change / np.sqrt(change @ precision @ change)
    return out


def variances(microscope: Microscope) -> np.ndarray:
    """Variances (5,) of the rays: energy, vertical and horizontal divergence, and both angles in the objective."""
    cut, rms = microscope.divergence_v_cut, microscope.divergence_v
    vertical = rms**2 / 12 if microscope.divergence_profile == "uniform" else rms**2
    if cut < np.inf and microscope.divergence_profile == "gaussian":
        vertical = _clipped(rms, cut)
    return np.array(
        [microscope.bandwidth**2, vertical, microscope.divergence_h**2, microscope.aperture**2, microscope.aperture**2]
    )


def _clipped(rms: float, cut: float) -> float:
    """Variance of a normal distribution that ends at ± cut."""
    x = np.linspace(-cut, cut, 2001)
    weight = np.exp(-0.5 * (x / rms) ** 2) if rms else np.ones_like(x)
    return float((weight * x**2).sum() / weight.sum())


def visibility_rows(
    kind: str,
    hkl: tuple[int, int, int],
    microscope: Microscope,
    *,
    parameter: float,
    poisson: float,
    angles: int,
    turn: float = 0.0,
    axes: Sequence[str] = ("phi",),
) -> list[dict[str, object]]:
    """Table of the visibility of every candidate: name, g·b, one number for each axis, and the class of its image."""
    candidates = catalogue(kind, angles=angles)
    crystal = {"energy": microscope.energy, "parameter": parameter, "poisson": poisson}
    classes = equivalent(candidates, [hkl], axes=axes, turn=[turn], **crystal).equal
    found = visibility(candidates, hkl, microscope, parameter=parameter, poisson=poisson, turn=turn)
    rows = []
    for k, name in enumerate(names(candidates)):
        each = {axis: float(found.visibility[k, n]) for n, axis in enumerate(AXES)}
        rows.append(
            {"dislocation": name, "g_b": round(float(found.product[k]), 6) + 0.0, **each, "image": int(classes[k])}
        )
    return rows
