"""Images of up to a few straight dislocations whose fields superpose, with derivatives by the position of each core."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit
from scipy.special import erf

STEPS = 128  # of the tables per unit of the argument of an error function: interpolation is exact to 1e-10
CORE2 = 1e-16  # um2: on the line itself nothing reflects


class Optics(NamedTuple):
    """Crystal, setting and acceptance of an image, in the axes of the laboratory (x along the beam, z up).

    Attributes
    ----------
    direction : array (3,)
        Unit scattering vector.
    matrix, shift : array (3, 3), (3,)
        The image frame has the deviation matrix q + shift.
    move : array (3,)
        Change of the deviation in the image frame per rad of the rocking angle.
    points, weights : array (point, 3), (point,)
        Points of the column of the crystal that a pixel images, relative to the centre of the pixel, um.
    window, quadratic, along : array
        Acceptance exp(-q·K q/2) times a function of |along·q|: (entry, 2) its values and slopes at steps of 1/STEPS.
    tail : array (4,)
        Fraction, half width (rad) and half width of the box (rad) of a Lorentzian tail, and the Gaussian of the rolling
        component.
    poisson : float
    tilt : array (4,)
        Further rocking angle that grows with y and x (rad/um), and the y and x (um) at which it is zero.
    """

    direction: np.ndarray
    matrix: np.ndarray
    shift: np.ndarray
    move: np.ndarray
    points: np.ndarray
    weights: np.ndarray
    window: np.ndarray
    quadratic: np.ndarray
    along: np.ndarray
    tail: np.ndarray
    poisson: float
    tilt: np.ndarray


def acceptance_tables(
    coefficients: np.ndarray, *, tail: float = 0.0, tail_width: float = 2.5e-5, half: float = 0.0, roll: float = 0.0
) -> dict[str, np.ndarray]:
    """Acceptance of an :class:`Optics`: ``window``, ``quadratic``, ``along`` and ``tail``.

    Parameters
    ----------
    coefficients : array (11,)
        From :func:`dfxm_dask.optics.resolution.coefficients` or ``rocking_coefficients``.
    tail, tail_width : float, float (rad)
        Fraction and half width of the Lorentzian of :func:`dfxm_dask.optics.frame_image.accepted_by`.
    half, roll : float
        Half width of its box (rad), and 1/(2 variance) of the rolling component.

    Examples
    --------
    >>> from dfxm_dask.optics.instrument.microscope import find_microscope
    >>> from dfxm_dask.optics.resolution import coefficients
    >>> acceptance_tables(coefficients(find_microscope("id06_al111")))["window"][0].tolist()
    [1.0, 0.0]
    """
    d, scale = coefficients[9], coefficients[10]
    x = np.arange(int((d + 6.5) * STEPS) + 2) / STEPS
    values = scale * (erf(d - x) + erf(d + x))
    slopes = scale * 2 / np.sqrt(np.pi) * (np.exp(-((d + x) ** 2)) - np.exp(-((d - x) ** 2)))
    k = coefficients[[0, 1, 2, 1, 3, 4, 2, 4, 5]].reshape(3, 3)
    return {
        "window": np.stack([values, slopes / STEPS], axis=1),
        "quadratic": k,
        "along": coefficients[6:9].copy(),
        "tail": np.array([tail, tail_width, half, roll]),
    }


@njit(cache=True, error_model="numpy", nogil=True)
def _accept(q0, q1, q2, optics, gradient):
    # Acceptance, and its derivatives by the three components (as a fourfold result).
    window, k, u, tail = optics.window, optics.quadratic, optics.along, optics.tail
    p, g0, g1, g2 = 0.0, 0.0, 0.0, 0.0
    s = u[0] * q0 + u[1] * q1 + u[2] * q2
    place = abs(s) * STEPS
    low = int(place) if place < 1e9 else 1_000_000_000
    if low < window.shape[0] - 1:
        r = place - low
        a, da, b, db = window[low, 0], window[low, 1], window[low + 1, 0], window[low + 1, 1]
        c2 = 3 * (b - a) - 2 * da - db
        c3 = da + db - 2 * (b - a)
        p = a + r * (da + r * (c2 + r * c3))
        slope = (da + r * (2 * c2 + 3 * r * c3)) * STEPS
        if s < 0:
            slope = -slope
        k0 = k[0, 0] * q0 + k[0, 1] * q1 + k[0, 2] * q2
        k1 = k[1, 0] * q0 + k[1, 1] * q1 + k[1, 2] * q2
        k2 = k[2, 0] * q0 + k[2, 1] * q1 + k[2, 2] * q2
        square = q0 * k0 + q1 * k1 + q2 * k2
        fall = (1.0 - tail[0]) * (np.exp(-0.5 * square) if square > 0.0 else 1.0)
        p *= fall
        slope *= fall
        g0, g1, g2 = slope * u[0] - p * k0, slope * u[1] - p * k1, slope * u[2] - p * k2
    if tail[0] > 0.0:
        f, g, half, roll = tail
        norm = f / (2 * np.arctan(half / g)) * np.exp(-roll * q1 * q1)
        wing = norm * (np.arctan((half - q0) / g) + np.arctan((half + q0) / g))
        p += wing
        if gradient:
            g0 += norm * g * (1 / (g * g + (half + q0) ** 2) - 1 / (g * g + (half - q0) ** 2))
            g1 -= 2 * roll * q1 * wing
    return p, g0, g1, g2


# Rows of ``held``, the work space of one row of pixels: 0 to 2 deviation, then derivatives by it; 3 and 4 derivatives
# by u and v of one line; 5 acceptance; 6 to 11 the components b11, b12, b21, b22, b31, b32 of the distortion; 12 and 13
# F^-T q; 14 and 15 F^-1 matrix^T dp/dq.


@njit(cache=True, error_model="numpy", nogil=True, fastmath={"contract", "reassoc", "nsz", "arcp"})
def _add_field(u0, v0, us, vs, constants, held):
    # Distortion of one line at points (u, v) of its frame.
    edge, screw, core2, linear, two_nu = constants
    for p in range(us.shape[0]):
        u, v = us[p] + u0, vs[p] + v0
        uu, vv = u * u, v * v
        r2 = uu + vv
        g = 1.0 / (r2 + core2)
        e, sg, lin = edge * g * g, screw * g, linear * r2
        a, b = lin + 2 * uu, lin + 2 * vv
        held[6, p] -= e * v * a
        held[7, p] += e * u * a
        held[8, p] -= e * u * b
        held[9, p] += e * v * (uu - vv + two_nu * r2)
        held[10, p] -= sg * v
        held[11, p] += sg * u


@njit(cache=True, error_model="numpy", nogil=True, fastmath={"contract", "reassoc", "nsz", "arcp"})
def _deviations(q, matrix, shift, held):
    q0, q1, q2 = q
    for p in range(held.shape[1]):
        d11, d12, d21, d22 = held[6, p], held[7, p], held[8, p], held[9, p]
        w0, w1 = d11 * q0 + d21 * q1 + held[10, p] * q2, d12 * q0 + d22 * q1 + held[11, p] * q2
        f11, f22 = 1.0 + d11, 1.0 + d22
        inverse = -1.0 / (f11 * f22 - d12 * d21)
        h0, h1 = (f22 * w0 - d21 * w1) * inverse, (f11 * w1 - d12 * w0) * inverse
        held[0, p] = matrix[0] * h0 + matrix[1] * h1 + shift[0]
        held[1, p] = matrix[2] * h0 + matrix[3] * h1 + shift[1]
        held[2, p] = matrix[4] * h0 + matrix[5] * h1 + shift[2]
        held[12, p], held[13, p] = q0 + h0, q1 + h1


@njit(cache=True, error_model="numpy", nogil=True, fastmath={"contract", "reassoc", "nsz", "arcp"})
def _forces(back, held):
    # F^-1 matrix^T dp/dq, whose third component no distortion needs.
    for p in range(held.shape[1]):
        d11, d12, d21, d22 = held[6, p], held[7, p], held[8, p], held[9, p]
        f11, f22 = 1.0 + d11, 1.0 + d22
        inverse = 1.0 / (f11 * f22 - d12 * d21)
        t0 = back[0] * held[0, p] + back[2] * held[1, p] + back[4] * held[2, p]
        t1 = back[1] * held[0, p] + back[3] * held[1, p] + back[5] * held[2, p]
        held[14, p], held[15, p] = (f22 * t0 - d12 * t1) * inverse, (f11 * t1 - d21 * t0) * inverse


@njit(cache=True, error_model="numpy", nogil=True, fastmath={"contract", "reassoc", "nsz", "arcp"})
def _gradients(u0, v0, us, vs, constants, q2, held):
    # Derivatives by the position of one line: dp = -(h·dbeta a), and the core moves against the coordinates.
    edge, screw, core2, linear, two_nu = constants
    for p in range(us.shape[0]):
        u, v = us[p] + u0, vs[p] + v0
        hx, hy, ax, ay = held[12, p], held[13, p], held[14, p], held[15, p]
        uu, vv, uv = u * u, v * v, u * v
        r2 = uu + vv
        g = 1.0 / (r2 + core2)
        e, s, lin = edge * g * g, screw * g, linear * r2
        a, b = lin + 2 * uu, lin + 2 * vv
        d11, d12, d21, d22 = -e * v * a, e * u * a, -e * u * b, e * v * (uu - vv + two_nu * r2)
        by_u = hx * e * (-2 * uv * (linear + 2) * ax + (3 * uu * (linear + 2) + linear * vv) * ay)
        by_u += hy * e * (-(3 * linear * uu + (linear + 2) * vv) * ax + 2 * uv * (1 + two_nu) * ay) + q2 * s * ay
        by_v = hx * e * (-((linear + 2) * uu + 3 * linear * vv) * ax + 2 * linear * uv * ay)
        by_v += hy * e * (-2 * uv * (linear + 2) * ax + (uu * (1 + two_nu) - 3 * (1 - two_nu) * vv) * ay)
        by_v -= q2 * s * ax
        both = 4 * g * (hx * (d11 * ax + d12 * ay) + hy * (d21 * ax + d22 * ay)) + 2 * g * q2 * s * (u * ay - v * ax)
        held[3, p] = by_u - u * both
        held[4, p] = by_v - v * both


@njit(cache=True, error_model="numpy", nogil=True)
def _accepted(held, optics, gradient):
    for p in range(held.shape[1]):
        held[5, p], held[0, p], held[1, p], held[2, p] = _accept(held[0, p], held[1, p], held[2, p], optics, gradient)


@njit(cache=True, error_model="numpy", nogil=True, fastmath={"contract", "reassoc", "nsz", "arcp"})
def _lookup(held, window, along):
    # _accept where the window depends on the first component alone and nothing else does.
    last = window.shape[0] - 2
    for p in range(held.shape[1]):
        s = along * held[0, p]
        place = min(abs(s) * STEPS, last + 0.999)
        low = np.int64(place)
        r = place - low
        a, da, b, db = window[low, 0], window[low, 1], window[low + 1, 0], window[low + 1, 1]
        c2, c3 = 3 * (b - a) - 2 * da - db, da + db - 2 * (b - a)
        held[5, p] = a + r * (da + r * (c2 + r * c3))
        slope = (da + r * (2 * c2 + 3 * r * c3)) * (STEPS * along)
        held[0, p] = -slope if s < 0 else slope
        held[1, p] = 0.0
        held[2, p] = 0.0


@njit(cache=True, error_model="numpy", nogil=True)
def _parallel_images(y, x, positions, lines, optics, counts, slopes):
    # Lines of one frame: 2 x 2 matrices, and loops over a row of pixels that the compiler vectorises.
    points, weights, poisson, tilt = optics.points, optics.weights, optics.poisson, optics.tilt
    count, n, m = lines.shape[0], x.shape[0], weights.shape[0]
    gradient = slopes.shape[0] > 0
    us, vs, held = np.empty((count, n * m)), np.empty((count, n * m)), np.empty((16, n * m))
    line = lines[0]
    for c in range(count):
        for j in range(n):
            for k in range(m):
                px, py, pz = x[j] + points[k, 0] - positions[c, 1], points[k, 1], points[k, 2]
                us[c, j * m + k] = px * line[0] + py * line[1] + pz * line[2]
                vs[c, j * m + k] = px * line[3] + py * line[4] + pz * line[5]
    frame = np.ascontiguousarray(line[:9]).reshape(3, 3)
    q = frame @ optics.direction
    seen = (optics.matrix @ frame.T)[:, :2].copy().ravel()
    direction = (q[0], q[1], q[2])
    matrix = (seen[0], seen[1], seen[2], seen[3], seen[4], seen[5])
    shift = (optics.shift[0], optics.shift[1], optics.shift[2])
    move = optics.move
    linear = 1.0 - 2.0 * poisson
    flat = optics.tail[0] == 0.0 and not optics.quadratic.any() and optics.along[1] == 0.0 and optics.along[2] == 0.0
    for i in range(y.shape[0]):
        held[6:12] = 0.0
        for c in range(count):
            off = y[i] - positions[c, 0]
            constants = (lines[c, 11], lines[c, 12], max(lines[c, 13], CORE2), linear, 2.0 * lines[c, 14] * poisson)
            _add_field(off * line[1], off * line[4], us[c], vs[c], constants, held)
        _deviations(direction, matrix, shift, held)
        if tilt[0] != 0.0 or tilt[1] != 0.0:
            for j in range(n):
                more = tilt[0] * (y[i] - tilt[2]) + tilt[1] * (x[j] - tilt[3])
                for side in range(3):
                    held[side, j * m : (j + 1) * m] += more * move[side]
        if flat:
            _lookup(held, optics.window, optics.along[0])
        else:
            _accepted(held, optics, gradient)
        for j in range(n):
            total, moved = 0.0, 0.0
            for k in range(m):
                at = j * m + k
                total += weights[k] * held[5, at]
                if gradient:
                    held[0, at] *= weights[k]
                    held[1, at] *= weights[k]
                    held[2, at] *= weights[k]
                    moved += held[0, at] * move[0] + held[1, at] * move[1] + held[2, at] * move[2]
            counts[i, j] = total
            if gradient:
                slopes[2 * count, i, j] = moved
        if gradient:
            _forces(matrix, held)
            for c in range(count):
                off = y[i] - positions[c, 0]
                constants = (lines[c, 11], lines[c, 12], max(lines[c, 13], CORE2), linear, 2.0 * lines[c, 14] * poisson)
                _gradients(off * line[1], off * line[4], us[c], vs[c], constants, q[2], held)
                for j in range(n):
                    by_u, by_v = 0.0, 0.0
                    for k in range(m):
                        by_u += held[3, j * m + k]
                        by_v += held[4, j * m + k]
                    slopes[2 * c, i, j] = line[1] * by_u + line[4] * by_v
                    slopes[2 * c + 1, i, j] = line[0] * by_u + line[3] * by_v


@njit(cache=True, error_model="numpy", nogil=True)
def core_images(y, x, positions, lines, optics, counts, slopes):
    """Accepted intensity of every pixel, and its derivatives.

    Parameters
    ----------
    y, x : array (y,), (x,), um
        Pixel centres.
    positions : array (line, 2), um
        y and x at which every line crosses the plane z = 0.
    lines : array (line, 15)
        From :func:`dfxm_dask.optics.defects.dislocation.line_table`, in the laboratory; its position is not used.
    optics : Optics
    counts : array (y, x)
        The sum over the points of a pixel.
    slopes : array (2 line + 1, y, x)
        Derivatives by y and x of every line (1/um), and by the rocking angle (1/rad); with length zero, none.
    """
    if np.abs(lines[:, :9] - lines[0, :9]).max() == 0.0:
        _parallel_images(y, x, positions, lines, optics, counts, slopes)
        return
    direction, matrix, shift, move = optics.direction, optics.matrix, optics.shift, optics.move
    points, weights, poisson, tilt = optics.points, optics.weights, optics.poisson, optics.tilt
    q0, q1, q2 = direction[0], direction[1], direction[2]
    n = lines.shape[0]
    number = slopes.shape[0]
    gradient = number > 0
    linear = 1.0 - 2.0 * poisson
    # Position, 1/r² and the six components of every line at one point.
    held = np.empty((n, 9))
    offsets = np.empty((n, 2))
    for m in range(n):
        offsets[m, 0] = lines[m, 1] * positions[m, 0] + lines[m, 0] * positions[m, 1]
        offsets[m, 1] = lines[m, 4] * positions[m, 0] + lines[m, 3] * positions[m, 1]
    own = np.empty(max(number, 1))
    for i in range(y.shape[0]):
        for j in range(x.shape[0]):
            more = tilt[0] * (y[i] - tilt[2]) + tilt[1] * (x[j] - tilt[3])
            total = 0.0
            for c in range(number):
                own[c] = 0.0
            for k in range(weights.shape[0]):
                px, py, pz = x[j] + points[k, 0], y[i] + points[k, 1], points[k, 2]
                b00, b01, b02 = 0.0, 0.0, 0.0
                b10, b11, b12 = 0.0, 0.0, 0.0
                b20, b21, b22 = 0.0, 0.0, 0.0
                for m in range(n):
                    u = px * lines[m, 0] + py * lines[m, 1] + pz * lines[m, 2] - offsets[m, 0]
                    v = px * lines[m, 3] + py * lines[m, 4] + pz * lines[m, 5] - offsets[m, 1]
                    uu, vv = u * u, v * v
                    r2 = uu + vv
                    g = 1.0 / (r2 + max(lines[m, 13], CORE2))
                    e = lines[m, 11] * g * g
                    sg = lines[m, 12] * g
                    two_nu = 2.0 * lines[m, 14] * poisson
                    lin = linear * r2
                    d11, d12, d31 = -e * v * (lin + 2 * uu), e * u * (lin + 2 * uu), -sg * v
                    d21, d22, d32 = -e * u * (lin + 2 * vv), e * v * (uu - vv + two_nu * r2), sg * u
                    held[m, 0], held[m, 1], held[m, 2] = u, v, g
                    held[m, 3], held[m, 4], held[m, 5] = d11, d12, d21
                    held[m, 6], held[m, 7], held[m, 8] = d22, d31, d32
                    for_x = d11 * lines[m, 0] + d21 * lines[m, 3] + d31 * lines[m, 6]
                    for_y = d11 * lines[m, 1] + d21 * lines[m, 4] + d31 * lines[m, 7]
                    for_z = d11 * lines[m, 2] + d21 * lines[m, 5] + d31 * lines[m, 8]
                    b00 += for_x * lines[m, 0]
                    b01 += for_x * lines[m, 1]
                    b02 += for_x * lines[m, 2]
                    b10 += for_y * lines[m, 0]
                    b11 += for_y * lines[m, 1]
                    b12 += for_y * lines[m, 2]
                    b20 += for_z * lines[m, 0]
                    b21 += for_z * lines[m, 1]
                    b22 += for_z * lines[m, 2]
                    for_x = d12 * lines[m, 0] + d22 * lines[m, 3] + d32 * lines[m, 6]
                    for_y = d12 * lines[m, 1] + d22 * lines[m, 4] + d32 * lines[m, 7]
                    for_z = d12 * lines[m, 2] + d22 * lines[m, 5] + d32 * lines[m, 8]
                    b00 += for_x * lines[m, 3]
                    b01 += for_x * lines[m, 4]
                    b02 += for_x * lines[m, 5]
                    b10 += for_y * lines[m, 3]
                    b11 += for_y * lines[m, 4]
                    b12 += for_y * lines[m, 5]
                    b20 += for_z * lines[m, 3]
                    b21 += for_z * lines[m, 4]
                    b22 += for_z * lines[m, 5]
                # dq = F^-T (-beta^T q), by the cofactors of F.
                w0 = -(b00 * q0 + b10 * q1 + b20 * q2)
                w1 = -(b01 * q0 + b11 * q1 + b21 * q2)
                w2 = -(b02 * q0 + b12 * q1 + b22 * q2)
                f00, f11, f22 = 1.0 + b00, 1.0 + b11, 1.0 + b22
                c00, c01, c02 = f11 * f22 - b12 * b21, b12 * b20 - b10 * f22, b10 * b21 - f11 * b20
                c10, c11, c12 = b02 * b21 - b01 * f22, f00 * f22 - b02 * b20, b01 * b20 - f00 * b21
                c20, c21, c22 = b01 * b12 - b02 * f11, b02 * b10 - f00 * b12, f00 * f11 - b01 * b10
                inverse = 1.0 / (f00 * c00 + b01 * c01 + b02 * c02)
                h0 = (c00 * w0 + c01 * w1 + c02 * w2) * inverse
                h1 = (c10 * w0 + c11 * w1 + c12 * w2) * inverse
                h2 = (c20 * w0 + c21 * w1 + c22 * w2) * inverse
                s0 = matrix[0, 0] * h0 + matrix[0, 1] * h1 + matrix[0, 2] * h2 + shift[0] + more * move[0]
                s1 = matrix[1, 0] * h0 + matrix[1, 1] * h1 + matrix[1, 2] * h2 + shift[1] + more * move[1]
                s2 = matrix[2, 0] * h0 + matrix[2, 1] * h1 + matrix[2, 2] * h2 + shift[2] + more * move[2]
                p, g0, g1, g2 = _accept(s0, s1, s2, optics, gradient)
                total += weights[k] * p
                if not gradient or (g0 == 0.0 and g1 == 0.0 and g2 == 0.0):
                    continue
                g0, g1, g2 = weights[k] * g0, weights[k] * g1, weights[k] * g2
                own[number - 1] += g0 * move[0] + g1 * move[1] + g2 * move[2]
                # dp = -(h·dbeta a), a = F^-1 matrix^T dp/dq; the core moves against the coordinates.
                t0 = (matrix[0, 0] * g0 + matrix[1, 0] * g1 + matrix[2, 0] * g2) * inverse
                t1 = (matrix[0, 1] * g0 + matrix[1, 1] * g1 + matrix[2, 1] * g2) * inverse
                t2 = (matrix[0, 2] * g0 + matrix[1, 2] * g1 + matrix[2, 2] * g2) * inverse
                a0 = c00 * t0 + c10 * t1 + c20 * t2
                a1 = c01 * t0 + c11 * t1 + c21 * t2
                a2 = c02 * t0 + c12 * t1 + c22 * t2
                h0, h1, h2 = h0 + q0, h1 + q1, h2 + q2
                for m in range(n):
                    ax = a0 * lines[m, 0] + a1 * lines[m, 1] + a2 * lines[m, 2]
                    ay = a0 * lines[m, 3] + a1 * lines[m, 4] + a2 * lines[m, 5]
                    hx = h0 * lines[m, 0] + h1 * lines[m, 1] + h2 * lines[m, 2]
                    hy = h0 * lines[m, 3] + h1 * lines[m, 4] + h2 * lines[m, 5]
                    hz = h0 * lines[m, 6] + h1 * lines[m, 7] + h2 * lines[m, 8]
                    u, v, g = held[m, 0], held[m, 1], held[m, 2]
                    uu, vv, uv = u * u, v * v, u * v
                    e, s = lines[m, 11] * g * g, lines[m, 12] * g
                    two_nu = 2.0 * lines[m, 14] * poisson
                    # Derivatives of the numerators; those of the denominators follow with the components themselves.
                    by_u = hx * e * (-2 * uv * (linear + 2) * ax + (3 * uu * (linear + 2) + linear * vv) * ay)
                    by_u += hy * e * (-(3 * linear * uu + (linear + 2) * vv) * ax + 2 * uv * (1 + two_nu) * ay)
                    by_u += hz * s * ay
                    by_v = hx * e * (-((linear + 2) * uu + 3 * linear * vv) * ax + 2 * linear * uv * ay)
                    by_v += hy * e * (-2 * uv * (linear + 2) * ax + (uu * (1 + two_nu) - 3 * (1 - two_nu) * vv) * ay)
                    by_v -= hz * s * ax
                    edge = hx * (held[m, 3] * ax + held[m, 4] * ay) + hy * (held[m, 5] * ax + held[m, 6] * ay)
                    both = 4 * g * edge + 2 * g * hz * (held[m, 7] * ax + held[m, 8] * ay)
                    by_u -= u * both
                    by_v -= v * both
                    own[2 * m] += lines[m, 1] * by_u + lines[m, 4] * by_v
                    own[2 * m + 1] += lines[m, 0] * by_u + lines[m, 3] * by_v
            counts[i, j] = total
            for c in range(number):
                slopes[c, i, j] = own[c]
