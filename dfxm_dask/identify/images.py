"""Images of one straight dislocation over all frames of a scan, and their derivatives.

Far fewer operations than a general scene needs: beta of one line has six components other than zero in the frame of the
line, and one field serves all frames.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from numba import njit
from scipy.special import erf

from dfxm_dask.errors import InputError
from dfxm_dask.identify.catalogue import Candidates
from dfxm_dask.optics.defects.dislocation import line_table, lines
from dfxm_dask.optics.forward import Setting, seen, sheet_nodes
from dfxm_dask.optics.frame_image import accepted_by
from dfxm_dask.optics.instrument.microscope import Microscope

STEPS = 256  # of the table of the window per unit of the argument of its error functions
SLOPES = 4  # derivatives: two across the line, and the angles phi and chi


NO_LINE = np.concatenate([np.eye(3).ravel(), np.zeros(4), np.ones(1), np.zeros(1)])
"""Row of a table of lines without a field."""


class ScanOptics(NamedTuple):
    """Crystal, frames and acceptance of a scan, in the axes of the store.

    Attributes
    ----------
    direction : array (xyz,)
        Unit scattering vector.
    matrix : array (3, 3)
        From a deviation in the axes of the store to the image frame.
    shifts : array (frame, 3)
        Deviation of an undistorted lattice in every frame.
    moves : array (2, 3)
        Change of the deviation in the image frame per rad of phi and of chi.
    points, weights : array (point, xyz), (point,)
        Points of the column that a pixel images, relative to its centre (um).
    window : array (entry,)
        (1 - tail) [erf(d - s) + erf(d + s)] / (2 erf(d)) at s = entry / STEPS.
    along : array (3,)
        s = along·q.
    quadratic : array (3, 3)
        Acceptance: window times exp(-q·K q/2).
    wing : array (entry,)
        Lorentzian tail of the acceptance at |q_rock| = entry · step.
    step, roll : float
        Step of ``wing``, and 1/(2 variance) of the rolling component in the tail.
    poisson : float
    """

    direction: np.ndarray
    matrix: np.ndarray
    shifts: np.ndarray
    moves: np.ndarray
    points: np.ndarray
    weights: np.ndarray
    window: np.ndarray
    along: np.ndarray
    quadratic: np.ndarray
    wing: np.ndarray
    step: float
    roll: float
    poisson: float


def scan_optics(
    microscope: Microscope,
    at: Setting,
    positions: Mapping[str, np.ndarray],
    *,
    heights: int = 5,
    tail: float = 0.0,
    tail_width: float = 2.5e-5,
    poisson: float = 0.334,
) -> ScanOptics:
    """Optics of all frames of a scan.

    Parameters
    ----------
    microscope : Microscope
    at : Setting
        Setting of the reflection: the axes of the store.
    positions : mapping of str to array (frame,), rad
        ``phi``, ``chi``, ``two_theta`` of every frame, from the peak of the undistorted lattice.
    heights : int
        Heights in the light sheet.
    tail, tail_width : float, float (rad)
        Lorentzian tail of the acceptance, see :func:`dfxm_dask.optics.frame_image.accepted_by`.
    poisson : float
        Poisson ratio.

    Returns
    -------
    ScanOptics

    Raises
    ------
    InputError
        No frame, axes of different lengths, or an axis that the setting does not have.
    """
    sizes = {name: np.size(values) for name, values in positions.items()}
    if len(set(sizes.values())) != 1 or not all(sizes.values()):
        raise InputError("scan_optics: positions", f"have lengths {sizes}", "give one value a frame for each axis")
    frames = next(iter(sizes.values()))
    each = [seen(at, {name: float(values[k]) for name, values in positions.items()}) for k in range(frames)]
    matrix = seen(at, {})[0]
    height, weight = sheet_nodes(microscope, heights)
    accepts = accepted_by(microscope, tail=tail, tail_width=tail_width)
    d, scale = accepts.numbers[9], accepts.numbers[10]
    s = np.arange(int((d + 6.5) * STEPS) + 2) / STEPS
    k = accepts.numbers[[0, 1, 2, 1, 3, 4, 2, 4, 5]].reshape(3, 3)
    wing = tail * accepts.wing if tail else np.zeros(2)
    return ScanOptics(
        direction=at.direction,
        matrix=matrix @ at.to_sample,
        shifts=np.array([m @ s for m, s in each]),
        moves=np.array([matrix @ at.moves[name] for name in ("phi", "chi")]),
        points=np.outer(height, at.shear),
        weights=weight,
        window=(1 - tail) * scale * (erf(d - s) + erf(d + s)),
        along=accepts.numbers[6:9].copy(),
        quadratic=k,
        wing=wing,
        step=accepts.step,
        roll=accepts.roll if tail else 0.0,
        poisson=poisson,
    )


def line_tables(candidates: Candidates, poisson: float, core: float = 1e-3) -> np.ndarray:
    """Table (candidate, 15) of candidates in the axes of the store; see ``line_table`` of the optics."""
    zero = np.zeros((len(candidates.line), 3))
    return line_table(lines(zero, candidates.burgers, candidates.line, core), poisson)


def flat_images(optics: ScanOptics) -> np.ndarray:
    """Acceptance (frame,) of the undistorted lattice in every frame."""
    out = np.empty((len(optics.shifts), 1, 1))
    one = np.zeros(1)
    line_images(one, one, NO_LINE, np.zeros(2), np.zeros(3), optics, out, np.empty((0, 0, 0, 0)))
    return out[:, 0, 0]


@njit(cache=True, nogil=True, error_model="numpy", fastmath={"contract", "reassoc", "nsz", "arcp"})
def _exponential(x):
    # exp(-x) for x >= 0 to 3e-5 of the value at zero: unlike the function of the library it vectorises.
    y = min(x, 32.0) * (1.0 / 32)
    y = 1.0 - y * (1.0 - y * (0.5 - y * (1.0 / 6)))
    y = y * y
    y = y * y
    y = y * y
    y = y * y
    return y * y


@njit(cache=True, nogil=True, error_model="numpy", fastmath={"contract", "reassoc", "nsz", "arcp"})
def _deviations(us, vs, row, direction, matrix, poisson, gradient, q, du, dv):
    # First-order deviation of points (u, v) in the frame of the line, and its derivatives by u and v.
    edge, screw, core2 = row[11], row[12], row[13]
    linear, two_nu = 1.0 - 2.0 * poisson, 2.0 * poisson
    g0 = row[0] * direction[0] + row[1] * direction[1] + row[2] * direction[2]
    g1 = row[3] * direction[0] + row[4] * direction[1] + row[5] * direction[2]
    g2 = row[6] * direction[0] + row[7] * direction[1] + row[8] * direction[2]
    m = np.empty((3, 2))
    for k in range(3):
        m[k, 0] = matrix[k, 0] * row[0] + matrix[k, 1] * row[1] + matrix[k, 2] * row[2]
        m[k, 1] = matrix[k, 0] * row[3] + matrix[k, 1] * row[4] + matrix[k, 2] * row[5]
    m00, m01, m10, m11, m20, m21 = m[0, 0], m[0, 1], m[1, 0], m[1, 1], m[2, 0], m[2, 1]
    for p in range(us.shape[0]):
        u, v = us[p], vs[p]
        uu, vv, uv = u * u, v * v, u * v
        r2 = uu + vv
        g = 1.0 / (r2 + core2)
        e, s = edge * g * g, screw * g
        a, b, c = linear * r2 + 2 * uu, linear * r2 + 2 * vv, uu - vv + two_nu * r2
        # w = -beta^T g of the directions e1 and n
        w0 = e * (v * a * g0 + u * b * g1) + s * v * g2
        w1 = -e * (u * a * g0 + v * c * g1) - s * u * g2
        q[0, p], q[1, p], q[2, p] = m00 * w0 + m01 * w1, m10 * w0 + m11 * w1, m20 * w0 + m21 * w1
        if gradient:
            es = e * (v * a * g0 + u * b * g1)
            et = -e * (u * a * g0 + v * c * g1)
            ss, st = s * v * g2, -s * u * g2
            w0u = e * (v * 2 * u * (linear + 2) * g0 + (b + 2 * linear * uu) * g1) - 2 * u * g * (2 * es + ss)
            w0v = e * ((a + 2 * linear * vv) * g0 + 2 * uv * (linear + 2) * g1) + s * g2 - 2 * v * g * (2 * es + ss)
            w1u = -e * ((a + 2 * uu * (linear + 2)) * g0 + 2 * uv * (1 + two_nu) * g1) - s * g2
            w1u -= 2 * u * g * (2 * et + st)
            w1v = -e * (2 * uv * linear * g0 + (c + 2 * vv * (two_nu - 1)) * g1) - 2 * v * g * (2 * et + st)
            du[0, p], du[1, p], du[2, p] = m00 * w0u + m01 * w1u, m10 * w0u + m11 * w1u, m20 * w0u + m21 * w1u
            dv[0, p], dv[1, p], dv[2, p] = m00 * w0v + m01 * w1v, m10 * w0v + m11 * w1v, m20 * w0v + m21 * w1v


@njit(cache=True, nogil=True, error_model="numpy", fastmath={"contract", "reassoc", "nsz", "arcp"})
def _accepted(q, shift, optics, gradient, out, dq):
    # Acceptance of deviations q + shift, and its derivatives by them. Loops without branches, which vectorise.
    window, k, wing = optics.window, optics.quadratic, optics.wing
    k00, k01, k02, k11, k12, k22 = k[0, 0], k[0, 1], k[0, 2], k[1, 1], k[1, 2], k[2, 2]
    a0, a1, a2 = optics.along[0], optics.along[1], optics.along[2]
    s0, s1, s2 = shift[0], shift[1], shift[2]
    last, end = window.shape[0] - 1.001, wing.shape[0] - 1.001
    inverse, roll = 1.0 / optics.step, optics.roll
    for p in range(q.shape[1]):
        q0, q1, q2 = q[0, p] + s0, q[1, p] + s1, q[2, p] + s2
        s = a0 * q0 + a1 * q1 + a2 * q2
        place = min(abs(s) * STEPS, last)
        low = np.int32(place)
        slope = window[low + 1] - window[low]
        h0, h1, h2 = k00 * q0 + k01 * q1 + k02 * q2, k01 * q0 + k11 * q1 + k12 * q2, k02 * q0 + k12 * q1 + k22 * q2
        fall = _exponential(max(0.5 * (q0 * h0 + q1 * h1 + q2 * h2), 0.0))
        value = (window[low] + (place - low) * slope) * fall
        out[p] = value
        if gradient:
            slope *= np.copysign(fall * STEPS, s)
            dq[0, p], dq[1, p], dq[2, p] = slope * a0 - value * h0, slope * a1 - value * h1, slope * a2 - value * h2
    if wing[0] == 0.0:
        return
    for p in range(q.shape[1]):
        q0, q1 = q[0, p] + s0, q[1, p] + s1
        place = min(abs(q0) * inverse, end)
        low = np.int32(place)
        slope = wing[low + 1] - wing[low]
        across = _exponential(roll * q1 * q1)
        value = (wing[low] + (place - low) * slope) * across
        out[p] += value
        if gradient:
            dq[0, p] += np.copysign(slope * inverse * across, q0)
            dq[1, p] -= 2.0 * roll * q1 * value


@njit(cache=True, nogil=True, error_model="numpy")
def line_images(y, x, row, position, tilt, optics, images, slopes):
    """Accepted intensity of every pixel in every frame, relative to the undistorted lattice at its peak.

    Parameters
    ----------
    y, x : array (y,), (x,), um
        Pixel centres.
    row : array (15,)
        From :func:`line_tables`.
    position : array (2,), um
        Components along e1 and n of the point of the line nearest to the origin of the axes.
    tilt : array (3,)
        Rocking angle of the lattice (rad), and its slopes along y and x (rad/um) about the middle of the pixels.
    optics : ScanOptics
    images : array (frame, y, x)
        Result.
    slopes : array (frame, 4, y, x)
        Derivatives by the two components of the position (1/um), and by the angles phi and chi (1/rad); with length
        zero, none.

    Notes
    -----
    First order in beta: dq = -beta^T g. The neglected part is beta² and exceeds 1 % of dq only within 5 nm of a core.
    """
    points, weights = optics.points, optics.weights
    n, m = x.shape[0], weights.shape[0]
    gradient = slopes.shape[0] > 0
    us, vs, q = np.empty(n * m), np.empty(n * m), np.empty((3, n * m))
    size = n * m if gradient else 0
    du, dv, dq, out = np.empty((3, size)), np.empty((3, size)), np.empty((3, size)), np.empty(n * m)
    middle_y, middle_x = 0.5 * (y[0] + y[-1]), 0.5 * (x[0] + x[-1])
    move = optics.moves
    for i in range(y.shape[0]):
        for j in range(n):
            for k in range(m):
                px, py, pz = x[j] + points[k, 0], y[i] + points[k, 1], points[k, 2]
                us[j * m + k] = row[0] * px + row[1] * py + row[2] * pz - position[0]
                vs[j * m + k] = row[3] * px + row[4] * py + row[5] * pz - position[1]
        _deviations(us, vs, row, optics.direction, optics.matrix, optics.poisson, gradient, q, du, dv)
        for j in range(n):
            angle = tilt[0] + tilt[1] * (y[i] - middle_y) + tilt[2] * (x[j] - middle_x)
            for side in range(3):
                for k in range(m):
                    q[side, j * m + k] += angle * move[0, side]
        for f in range(images.shape[0]):
            _accepted(q, optics.shifts[f], optics, gradient, out, dq)
            for j in range(n):
                total, by_u, by_v, by_phi, by_chi = 0.0, 0.0, 0.0, 0.0, 0.0
                for k in range(m):
                    p = j * m + k
                    total += weights[k] * out[p]
                    if gradient:
                        d0, d1, d2 = weights[k] * dq[0, p], weights[k] * dq[1, p], weights[k] * dq[2, p]
                        by_u -= d0 * du[0, p] + d1 * du[1, p] + d2 * du[2, p]
                        by_v -= d0 * dv[0, p] + d1 * dv[1, p] + d2 * dv[2, p]
                        by_phi += d0 * move[0, 0] + d1 * move[0, 1] + d2 * move[0, 2]
                        by_chi += d0 * move[1, 0] + d1 * move[1, 1] + d2 * move[1, 2]
                images[f, i, j] = total
                if gradient:
                    slopes[f, 0, i, j], slopes[f, 1, i, j] = by_u, by_v
                    slopes[f, 2, i, j], slopes[f, 3, i, j] = by_phi, by_chi


@njit(cache=True, nogil=True, error_model="numpy")
def contrast_images(y, x, row, optics, near, flat, images):
    """Accepted intensity less that of the undistorted lattice, of a line through the origin; for searches.

    Parameters
    ----------
    y, x, row, optics, images
        See :func:`line_images`.
    near : float
        Points whose deviation is smaller than this contribute in first order: they are most of an image.
    flat : array (frame,)
        Acceptance of the undistorted lattice.
    """
    points, weights = optics.points, optics.weights
    n, m = x.shape[0], weights.shape[0]
    size = n * m
    us, vs, q, none = np.empty(size), np.empty(size), np.empty((3, size)), np.empty((3, 0))
    frames = images.shape[0]
    tangent, out = np.empty((frames, 3)), np.empty(size)
    origin, one, dq = np.zeros((3, 1)), np.empty(1), np.empty((3, 1))
    for f in range(frames):
        _accepted(origin, optics.shifts[f], optics, True, one, dq)
        tangent[f] = dq[:, 0]
    owner, part = np.empty(size, np.int64), np.empty(size)
    sums = np.empty((3, n))
    for i in range(y.shape[0]):
        for j in range(n):
            for k in range(m):
                px, py, pz = x[j] + points[k, 0], y[i] + points[k, 1], points[k, 2]
                us[j * m + k] = row[0] * px + row[1] * py + row[2] * pz
                vs[j * m + k] = row[3] * px + row[4] * py + row[5] * pz
        _deviations(us, vs, row, optics.direction, optics.matrix, optics.poisson, False, q, none, none)
        sums[:] = 0.0
        count = 0
        for j in range(n):
            for k in range(m):
                p = j * m + k
                q0, q1, q2 = q[0, p], q[1, p], q[2, p]
                if abs(q0) > near or abs(q1) + abs(q2) > 5.0 * near:
                    # Collected at the front, which the loop has passed.
                    q[0, count], q[1, count], q[2, count] = q0, q1, q2
                    owner[count], part[count] = j, weights[k]
                    count += 1
                else:
                    sums[0, j] += weights[k] * q0
                    sums[1, j] += weights[k] * q1
                    sums[2, j] += weights[k] * q2
        for f in range(frames):
            _accepted(q[:, :count], optics.shifts[f], optics, False, out, none)
            for j in range(n):
                images[f, i, j] = tangent[f, 0] * sums[0, j] + tangent[f, 1] * sums[1, j] + tangent[f, 2] * sums[2, j]
            for p in range(count):
                images[f, i, owner[p]] += part[p] * (out[p] - flat[f])
