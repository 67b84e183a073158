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
NEAR = 3e-5, 2.4e-6, 2e-4
"""Largest and least deviation (rad) below which the acceptance is expanded to second order, and the error of this
expansion above which the limit is lower: on the flank of the acceptance."""
STRONG = 6e-5  # rad, deviation above which the image varies within a pixel (our choice)
CORE, BROAD = 2.5e-4, 2.5e-5
"""Rocking deviation (rad) whose radius is that of a core, and product (rad um) of radius and rocking deviation above
which a core is as large as a pixel, so that it requires no finer sampling (our choice)."""
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
    dense_points, dense_weights, core_points, core_weights : array (point, xyz), (point,)
        The same for pixels next to the line, and at its core, where the deviation varies within a few nm.
    half : float, um
        Half of the diagonal of a pixel.
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
    near : float, rad
        Deviation below which the acceptance is expanded to second order.
    poisson : float
    """

    direction: np.ndarray
    matrix: np.ndarray
    shifts: np.ndarray
    moves: np.ndarray
    points: np.ndarray
    weights: np.ndarray
    dense_points: np.ndarray
    dense_weights: np.ndarray
    core_points: np.ndarray
    core_weights: np.ndarray
    half: float
    window: np.ndarray
    along: np.ndarray
    quadratic: np.ndarray
    wing: np.ndarray
    step: float
    roll: float
    near: float
    poisson: float


def scan_optics(
    microscope: Microscope,
    at: Setting,
    positions: Mapping[str, np.ndarray],
    *,
    pitch: tuple[float, float] = (0.0, 0.0),
    heights: int = 9,
    dense: int = 65,
    core: int = 513,
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
    pitch : (float, float), um
        Of the pixels along y and x: the points of a pixel lie at different y, x and heights, so that they average over
        its area.
    heights, dense, core : int
        Heights in the light sheet, and those of pixels next to the line and at its core.
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
    columns = []
    for count in (heights, dense, core):
        height, weight = sheet_nodes(microscope, count)
        columns += [np.outer(height, at.shear) + _within(count, pitch), weight]
    accepts = accepted_by(microscope, tail=tail, tail_width=tail_width)
    d, scale = accepts.numbers[9], accepts.numbers[10]
    s = np.arange(int((d + 6.5) * STEPS) + 2) / STEPS
    k = accepts.numbers[[0, 1, 2, 1, 3, 4, 2, 4, 5]].reshape(3, 3)
    wing = tail * accepts.wing if tail else np.zeros(2)
    made = ScanOptics(
        direction=at.direction,
        matrix=matrix @ at.to_sample,
        shifts=np.array([m @ s for m, s in each]),
        moves=np.array([matrix @ at.moves[name] for name in ("phi", "chi")]),
        points=columns[0],
        weights=columns[1],
        dense_points=columns[2],
        dense_weights=columns[3],
        core_points=columns[4],
        core_weights=columns[5],
        half=0.5 * float(np.hypot(*pitch)),
        window=(1 - tail) * scale * (erf(d - s) + erf(d + s)),
        along=accepts.numbers[6:9].copy(),
        quadratic=k,
        wing=wing,
        step=accepts.step,
        roll=accepts.roll if tail else 0.0,
        near=NEAR[0],
        poisson=poisson,
    )
    return made._replace(near=_reach(made))


def _reach(optics: ScanOptics) -> float:
    """Deviation below which the expansion to second order holds in every frame."""
    near, parts = NEAR[0], np.array([-1.0, -0.5, 0.5, 1.0])
    while near > NEAR[1]:
        flat, slope, _, _, bend = _tangents(optics._replace(near=near)).T
        exact, q = np.empty((len(optics.shifts), parts.size)), np.outer([near, 0.0, 0.0], parts)
        for frame, shift in enumerate(optics.shifts):
            _accepted(q, shift, optics, False, exact[frame], np.empty((3, 0)))
        expanded = flat[:, None] + np.outer(slope, q[0]) + 0.5 * np.outer(bend, q[0] ** 2)
        if np.abs(exact - expanded).max() < NEAR[2]:
            break
        near *= 0.7
    return near


def _within(count: int, pitch: tuple[float, float]) -> np.ndarray:
    """Points (count, xyz) that cover a pixel evenly: the additive recurrence with the plastic number."""
    plastic = 1.32471795724474602596
    steps = (0.5 + np.outer(np.arange(count), [1 / plastic, 1 / plastic**2])) % 1 - 0.5
    steps -= steps.mean(0)
    return np.stack([steps[:, 1] * pitch[1], steps[:, 0] * pitch[0], np.zeros(count)], axis=1)


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
def _across(point, x, y, row, position, at, us, vs):
    # Coordinates of a point across the line.
    px, py, pz = x + point[0], y + point[1], point[2]
    us[at] = row[0] * px + row[1] * py + row[2] * pz - position[0]
    vs[at] = row[3] * px + row[4] * py + row[5] * pz - position[1]


@njit(cache=True, nogil=True, error_model="numpy")
def _rocking(row, optics, none):
    # Largest product of radius and rocking deviation of a line, rad um.
    turn = np.pi / 18 * np.arange(18)
    q = np.empty((3, 18))
    _deviations(np.cos(turn), np.sin(turn), row, optics.direction, optics.matrix, optics.poisson, False, q, none, none)
    return np.abs(q[0]).max()


@njit(cache=True, nogil=True, error_model="numpy")
def _distance(u0, v0, u1, v1):
    # Distance of the origin from a segment.
    du, dv = u1 - u0, v1 - v0
    along = -(u0 * du + v0 * dv) / max(du * du + dv * dv, 1e-30)
    along = min(max(along, 0.0), 1.0)
    return np.hypot(u0 + along * du, v0 + along * dv)


@njit(cache=True, nogil=True, error_model="numpy")
def _tangents(optics):
    # Acceptance of the undistorted lattice, its derivatives, and its second derivative by the rocking component.
    frames = optics.shifts.shape[0]
    out = np.empty((frames, 5))
    q, one, dq = np.zeros((3, 3)), np.empty(3), np.empty((3, 3))
    near = optics.near
    q[0, 1], q[0, 2] = near, -near
    for f in range(frames):
        _accepted(q, optics.shifts[f], optics, True, one, dq)
        out[f, 0], out[f, 1], out[f, 2], out[f, 3] = one[0], (one[1] - one[2]) / (2 * near), dq[1, 0], dq[2, 0]
        out[f, 4] = (one[1] + one[2] - 2 * one[0]) / near**2
    return out


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
    Points whose deviation is below ``optics.near``, which are most of an image, contribute to second order.
    """
    points, weights = optics.points, optics.weights
    n, m = x.shape[0], weights.shape[0]
    most = max(optics.dense_weights.shape[0], optics.core_weights.shape[0])
    gradient = slopes.shape[0] > 0
    size = n * max(m, most)
    more = size if gradient else 0
    us, vs, q, out = np.empty(size), np.empty(size), np.empty((3, size)), np.empty(size)
    du, dv, dq = np.empty((3, more)), np.empty((3, more)), np.empty((3, more))
    owner, part, grade = np.empty(size, np.int64), np.empty(size), np.empty(n, np.int64)
    middle_y, middle_x = 0.5 * (y[0] + y[-1]), 0.5 * (x[0] + x[-1])
    amount, limit = _rocking(row, optics, du), optics.near
    move, tangents = optics.moves, _tangents(optics)
    # Sums over the near points of a pixel: weight, q (3), q0², du (3), dv (3), q0 du0, q0 dv0.
    near = np.empty((13, n))
    for i in range(y.shape[0]):
        for j in range(n):
            for k in range(m):
                _across(points[k], x[j], y[i], row, position, j * m + k, us, vs)
        _deviations(us[: n * m], vs, row, optics.direction, optics.matrix, optics.poisson, False, q, du, dv)
        total = 0
        for j in range(n):
            strongest = 0.0
            for k in range(m):
                p = j * m + k
                strongest = max(strongest, abs(q[0, p]), abs(q[1, p]), abs(q[2, p]))
            apart = _distance(us[j * m], vs[j * m], us[j * m + m - 1], vs[j * m + m - 1]) - optics.half
            grade[j] = 2 if amount > CORE * apart and amount < BROAD else (1 if strongest > STRONG else 0)
        for j in range(n):
            chosen, by = points, weights
            if grade[j] == 1:
                chosen, by = optics.dense_points, optics.dense_weights
            elif grade[j] == 2:
                chosen, by = optics.core_points, optics.core_weights
            for k in range(by.shape[0]):
                _across(chosen[k], x[j], y[i], row, position, total, us, vs)
                owner[total], part[total] = j, by[k]
                total += 1
        _deviations(us[:total], vs, row, optics.direction, optics.matrix, optics.poisson, gradient, q, du, dv)
        near[:] = 0.0
        count = 0
        for p in range(total):
            j, w = owner[p], part[p]
            angle = tilt[0] + tilt[1] * (y[i] - middle_y) + tilt[2] * (x[j] - middle_x)
            q0, q1, q2 = q[0, p] + angle * move[0, 0], q[1, p] + angle * move[0, 1], q[2, p] + angle * move[0, 2]
            if abs(q0) > limit or abs(q1) + abs(q2) > 5 * NEAR[0]:
                # Collected at the front, which the loop has passed.
                q[0, count], q[1, count], q[2, count] = q0, q1, q2
                owner[count], part[count] = j, w
                if gradient:
                    for side in range(3):
                        du[side, count], dv[side, count] = du[side, p], dv[side, p]
                count += 1
                continue
            near[0, j] += w
            near[1, j] += w * q0
            near[2, j] += w * q1
            near[3, j] += w * q2
            near[4, j] += w * q0 * q0
            if gradient:
                for side in range(3):
                    near[5 + side, j] += w * du[side, p]
                    near[8 + side, j] += w * dv[side, p]
                near[11, j] += w * q0 * du[0, p]
                near[12, j] += w * q0 * dv[0, p]
        for f in range(images.shape[0]):
            flat, t0, t1, t2, bend = tangents[f]
            for j in range(n):
                images[f, i, j] = flat * near[0, j] + t0 * near[1, j] + t1 * near[2, j] + t2 * near[3, j]
                images[f, i, j] += 0.5 * bend * near[4, j]
                if gradient:
                    slopes[f, 0, i, j] = -(t0 * near[5, j] + t1 * near[6, j] + t2 * near[7, j] + bend * near[11, j])
                    slopes[f, 1, i, j] = -(t0 * near[8, j] + t1 * near[9, j] + t2 * near[10, j] + bend * near[12, j])
                    for a in range(2):
                        moved = t0 * move[a, 0] + t1 * move[a, 1] + t2 * move[a, 2]
                        slopes[f, 2 + a, i, j] = moved * near[0, j] + bend * move[a, 0] * near[1, j]
            _accepted(q[:, :count], optics.shifts[f], optics, gradient, out, dq)
            for p in range(count):
                j, w = owner[p], part[p]
                images[f, i, j] += w * out[p]
                if gradient:
                    d0, d1, d2 = w * dq[0, p], w * dq[1, p], w * dq[2, p]
                    slopes[f, 0, i, j] -= d0 * du[0, p] + d1 * du[1, p] + d2 * du[2, p]
                    slopes[f, 1, i, j] -= d0 * dv[0, p] + d1 * dv[1, p] + d2 * dv[2, p]
                    slopes[f, 2, i, j] += d0 * move[0, 0] + d1 * move[0, 1] + d2 * move[0, 2]
                    slopes[f, 3, i, j] += d0 * move[1, 0] + d1 * move[1, 1] + d2 * move[1, 2]
