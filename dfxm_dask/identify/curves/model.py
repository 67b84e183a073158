"""Maps of the centre of mass about one straight dislocation."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import product
from typing import NamedTuple

import numpy as np
from numba import njit

from dfxm_dask.identify.catalogue import Candidates
from dfxm_dask.identify.visibility import variances
from dfxm_dask.optics.defects.dislocation import frames
from dfxm_dask.optics.forward import Setting, seen
from dfxm_dask.optics.frame_image import accepted_by, frame_image
from dfxm_dask.optics.geometry import rotation_y
from dfxm_dask.optics.instrument.microscope import Microscope
from dfxm_dask.optics.resolution import transfer_matrix

WEAK, STRONG = 0.02, 0.5
"""Acceptance below which a voxel diffracts kinematically, and above which dynamically (our choice)."""
REACH = 2.7  # standard deviations of the profile along its wide axis that the model covers
STEP = 1.25  # largest distance of the points along the wide axis, in narrow widths: the error of the sum is 2e-5
POINTS = 1001  # of a table of the response
MOST_OTHER = 16  # positions of another axis that the response sums over (our choice)


class Response(NamedTuple):
    """Centre of mass of the sampled rocking curve for a lattice that peaks at an angle.

    Attributes
    ----------
    peak : array (axis, entry), rad
        Angles of the peak.
    centre : array (axis, entry), rad
        Centre of mass over the positions of the scan.
    """

    peak: np.ndarray
    centre: np.ndarray


class Lines(NamedTuple):
    """Candidates as lines: four functions of the position across a line describe their maps.

    Attributes
    ----------
    frame : array (candidate, 3, 3)
        Rows e1, n, t.
    factors : array (candidate, axis, 4), rad um
        Factors of cos(a)/r, sin(a)/r, cos(3a)/r and sin(3a)/r, with the distance r and the azimuth a from e1.
    along : array (candidate, 2)
        Direction, across the line, in which the profile of a pixel is widest.
    wide, narrow : array (candidate,), um
        Standard deviations of this profile.
    """

    frame: np.ndarray
    factors: np.ndarray
    along: np.ndarray
    wide: np.ndarray
    narrow: np.ndarray


def sensitivity(microscope: Microscope, at: Setting, axes: list[str]) -> np.ndarray:
    """Change (axis, xyz) of the centre of mass along every scan axis per deviation of the lattice, axes of the store.

    The scan turns the lattice back into the acceptance as far as its axes can: with the inverse covariance K of the
    acceptance and the moves A of the axes, the centre is -(A^T K A)^-1 A^T K q in the image frame.
    """
    image = rotation_y(at.theta)
    matrix = transfer_matrix(microscope)
    # Unless the arm moves, the cut of the divergence fixes the rocking component, whatever the objective accepts.
    wide = np.array([1, 1, 1, 1, 1]) if "two_theta" in axes else np.array([1, 1, 1, 1e4, 1])
    inverse = np.linalg.inv(matrix * (wide * variances(microscope)) @ matrix.T)
    moves = image @ np.stack([at.moves[name] for name in axes], axis=1)
    to_angles = np.linalg.solve(moves.T @ inverse @ moves, moves.T @ inverse)
    return -to_angles @ image @ at.to_sample


def responses(
    microscope: Microscope,
    at: Setting,
    positions: Mapping[str, np.ndarray],
    *,
    tail: float,
    tail_width: float,
    weak: float,
) -> Response:
    """Response of every scan axis, for a scan over the grid of ``positions`` (rad).

    A box of incidence angles that covers a few positions has a centre of mass that changes in steps.
    """
    accepts = accepted_by(microscope, tail=tail, tail_width=tail_width)
    peaks, centres = [], []
    for name, own in positions.items():
        # Beyond the middle part of the scan, truncation would fold the response.
        middle, span = float(own.max() + own.min()) / 2, float(own.max() - own.min())
        peak = middle + np.linspace(-0.3, 0.3, POINTS) * span
        q = np.zeros((1, POINTS, 1, 3), np.float32)
        q[0, :, 0] = -np.outer(peak, at.moves[name])
        others = {other: values for other, values in positions.items() if other != name}
        total, first = np.zeros(POINTS), np.zeros(POINTS)
        for rest in product(*(values[:: -(-values.size // MOST_OTHER)] for values in others.values())):
            for angle in own:
                frame = dict(zip(others, map(float, rest), strict=True)) | {name: float(angle)}
                accepted = frame_image(q, np.ones(1), *seen(at, frame), accepts)[0].astype(np.float64)
                step = np.clip((accepted - WEAK) / (STRONG - WEAK), 0, 1)
                step = step * step * (3 - 2 * step)
                power = (weak * (1 - step) + step) * accepted
                total, first = total + power, first + power * angle
        centre = np.where(total > 1e-12, first / np.maximum(total, 1e-12), peak)
        peaks.append(peak)
        centres.append(np.maximum.accumulate(centre + 1e-6 * (peak - peak[0])))
    return Response(np.array(peaks), np.array(centres))


def lines_of(
    candidates: Candidates, direction: np.ndarray, matrix: np.ndarray, spread: np.ndarray, poisson: float
) -> Lines:
    """Candidates as lines.

    Parameters
    ----------
    candidates : Candidates
        In the axes of the store, um.
    direction : array (xyz,)
        Unit scattering vector.
    matrix : array (axis, xyz)
        From :func:`sensitivity`.
    spread : array (xyz, xyz), um2
        Covariance of the points over which a pixel averages the lattice.
    poisson : float

    Notes
    -----
    With X = x/r², Y = y/r², P = x²y/r⁴, Q = xy²/r⁴, A = b_e / (4 pi (1 - nu)) and S = b_s / (2 pi)::

        b11 = -A [2 P + (1 - 2 nu) Y]     b12 = A [(3 - 2 nu) X - 2 Q]      b31 = -S Y
        b21 = -A [2 Q + (1 - 2 nu) X]     b22 = A [2 P - (1 - 2 nu) Y]      b32 =  S X
    """
    frame = frames(candidates.burgers, candidates.line)
    edge, _, screw = np.einsum("nij,nj->in", frame, candidates.burgers)
    a, s = edge / (4 * np.pi * (1 - poisson)), screw / (2 * np.pi)
    g = np.einsum("nij,j->in", frame, direction)
    rho = np.einsum("nij,aj->ian", frame, matrix)
    less, more = 1 - 2 * poisson, 3 - 2 * poisson
    r1, r2 = rho[0], rho[1]
    x = a * (more * r2 * g[0] - less * r1 * g[1]) + s * r2 * g[2]
    y = a * (-less * r1 * g[0] - less * r2 * g[1]) - s * r1 * g[2]
    p = 2 * a * (r2 * g[1] - r1 * g[0])
    q = -2 * a * (r2 * g[0] + r1 * g[1])
    # X = cos a / r, P = (sin a + sin 3a) / 4r, Q = (cos a - cos 3a) / 4r; com = -g beta rho.
    factors = -np.stack([x + q / 4, y + p / 4, -q / 4, p / 4], axis=-1).transpose(1, 0, 2)
    across = np.einsum("nij,jk,nlk->nil", frame[:, :2], spread, frame[:, :2])
    values, vectors = np.linalg.eigh(across)
    narrow, wide = np.sqrt(np.maximum(values, 1e-6)).T
    return Lines(frame, np.ascontiguousarray(factors), np.ascontiguousarray(vectors[:, :, 1]), wide, narrow)


@njit(cache=True, nogil=True, error_model="numpy", fastmath={"contract", "reassoc", "nsz", "arcp"})
def harmonics(u, v, shift, weight, narrow, out):
    """cos(a)/r, sin(a)/r, cos(3a)/r, sin(3a)/r at points (u, v), averaged over an anisotropic Gaussian; out (4, n).

    Over the narrow width in closed form: cos(m a)/r becomes cos(m a) g_m(r), with z = r²/(4 c) and E = exp(-2 z)::

        g1 = (1 - E) / r,   g3 = (1 + E - (1 - E) / z) / r

    Over the rest of the wide one as a sum over shifts (shift, 2).
    """
    quarter = 0.25 / (narrow * narrow)
    for k in range(u.shape[0]):
        o0, o1, o2, o3 = 0.0, 0.0, 0.0, 0.0
        for j in range(weight.shape[0]):
            x, y = u[k] + shift[j, 0], v[k] + shift[j, 1]
            xx, yy = x * x, y * y
            r2 = xx + yy + 1e-18
            z = quarter * r2
            inverse = 1.0 / r2
            if z > 15.0:
                one = weight[j] * inverse
                three = one * (1 - 1 / z)
            elif z < 0.02:
                one = weight[j] * 2.0 * quarter * (1 - z)
                three = weight[j] * (2.0 / 3.0) * z * z * (1 - z) * inverse
            else:
                fall = np.exp(-2 * z)
                one = weight[j] * (1 - fall) * inverse
                three = weight[j] * (1 + fall - (1 - fall) / z) * inverse
            three *= inverse
            o0 += one * x
            o1 += one * y
            o2 += three * x * (xx - 3 * yy)
            o3 += three * y * (3 * xx - yy)
        out[0, k], out[1, k], out[2, k], out[3, k] = o0, o1, o2, o3


def averaged(lines: Lines, row: int, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """The four functions (4, point) of :func:`harmonics` at points (u, v) across a line."""
    wide, narrow = float(lines.wide[row]), float(lines.narrow[row])
    extra = np.sqrt(max(wide**2 - narrow**2, 0.0))
    half = int(np.ceil(REACH * extra / (STEP * narrow)))
    place = REACH * np.arange(-half, half + 1) / max(half, 1)
    weight = np.exp(-0.5 * place**2)
    out = np.empty((4, u.size))
    shift = np.outer(place * extra, lines.along[row])
    harmonics(np.ascontiguousarray(u), np.ascontiguousarray(v), shift, weight / weight.sum(), narrow, out)
    return out


def tilts(lines: Lines, row: int, place: np.ndarray, at: np.ndarray) -> np.ndarray:
    """Peak angles (axis, point) of a candidate whose line passes the reference point at (u, v), rad."""
    u, v = (place @ lines.frame[row, :2].T - at).T
    return lines.factors[row] @ averaged(lines, row, u, v)
