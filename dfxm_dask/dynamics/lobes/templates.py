"""Image of dislocations on the flank of a rocking curve, with its derivatives: the forward model of ``detect``.

Positions are pixels. Every dislocation j at c_j adds the field of a straight line, seen through a thin light sheet::

    u_j(r) = ± s·(r - c_j) / ((r - c_j)·M (r - c_j)),     s = (cos angle, sin angle)
    I(r) = B + A Σ_k w_k P((q0 - Σ_j u_j(r - h_k v)) / width)   ⊗ Gaussian of the camera

Fields add, intensities do not. M and v contain the pixel sizes, the direction of the line, and the shear along the
diffracted beam; P is the box of the incident beam with Lorentzian tails, as in
:func:`dfxm_dask.optics.frame_image.accepted_by`. Lengths are in rows: a field of 1/r at r rows is 1/r.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit
from scipy.special import erf

ANGLE, LOG_STRETCH, SHEAR, SMEAR_Y, SMEAR_X, LOG_WIDTH, TAIL, DROOP, LOG_BLUR = range(9)
"""Numbers of a shape: direction of s (rad); ln M_xx and M_yx with M_yy = 1; v, in pixels per standard deviation of the
sheet; ln of the half width of the acceptance; weight of its tails; fall of the box, exp(-DROOP t²/2) at t half widths;
ln of the blur in pixels."""
SHAPE = 9
GAIN, LEVEL, OFFSET = range(3)  # numbers of a window: A, B, q0

NODES = 5  # heights in the sheet, as in simulated movies
SMOOTH_NODES = 11  # heights of a smooth image, whose likelihood has a single minimum
MARGIN = 4  # pixels around a window from which the blur takes light
EDGE = 0.068  # softness of the box over its half width: bandwidth of a silicon 111 monochromator (id06_al111)
WING = 0.18  # half width of the tails over that of the box: 2.5e-5 rad over 1.4e-4 rad
REACH, STEP = 12.0, 0.004  # range and step of the tabulated acceptance, in half widths
CORE = 0.3  # rows around a core from which the microscope accepts no light: the field is far beyond the acceptance


def acceptance_table() -> np.ndarray:
    """Box and tails against |q|/width: (sample, 2), float64."""
    t = STEP * np.arange(int(REACH / STEP) + 2)
    soft = math.sqrt(2) * EDGE
    box = (erf((1 - t) / soft) + erf((1 + t) / soft)) / (2 * erf(1 / soft))
    wing = (np.arctan((1 - t) / WING) + np.arctan((1 + t) / WING)) / (2 * np.arctan(1 / WING))
    return np.ascontiguousarray(np.stack([box, wing], axis=1))


TABLE = acceptance_table()


def sheet(nodes: int) -> np.ndarray:
    """Heights in the sheet, in standard deviations, and their weights: (node, 2), as in ``optics.forward``."""
    height = np.linspace(-2.5, 2.5, nodes)
    weight = np.exp(-0.5 * height**2)
    return np.stack([height, weight / weight.sum()], axis=1)


SHEET, SMOOTH_SHEET = sheet(NODES), sheet(SMOOTH_NODES)
NEAR = np.zeros(3)  # field of distant dislocations, where none is
DARKEST = 0.3  # smallest part of the variance of the background
STILL = 0.003  # pixels; shorter steps end a fit
OUTLIER = 4.0  # standard deviations beyond which a pixel loses weight


@njit(nogil=True, cache=True, error_model="numpy", fastmath=True)
def profile(shape):
    """Acceptance against |q|/width in steps of STEP, and its differences: (sample, 2)."""
    tail, droop = shape[6], shape[7]
    out = np.zeros((TABLE.shape[0], 2))
    for k in range(TABLE.shape[0] - 2):
        t = k * STEP
        out[k, 0] = (1.0 - tail) * TABLE[k, 0] * math.exp(-0.5 * droop * t * t) + tail * TABLE[k, 1]
    for k in range(TABLE.shape[0] - 1):
        out[k, 1] = out[k + 1, 0] - out[k, 0]
    return out.astype(np.float32)


@njit(nogil=True, cache=True, error_model="numpy", fastmath=True)
def _add_rows(top, left, cores, free, signs, window, far, shape, nodes, table, out):
    """The sum over the sheet of :func:`_add_fields` without derivatives by the shape: loops over a row of pixels."""
    # Single precision: twice as fast, and images are exact to 1e-4 counts.
    count, columns, gradient = cores.shape[0], out.shape[2], out.shape[0] > 1
    c, s = np.float32(math.cos(shape[0])), np.float32(math.sin(shape[0]))
    m, n = np.float32(math.exp(shape[1])), np.float32(shape[2])
    per = np.float32(math.exp(-shape[5]) / STEP)
    last = np.float32(table.shape[0] - 2 + 0.5)
    two, least = np.float32(2.0), np.float32(0.01)
    place = np.empty(columns, np.float32)
    q = np.empty(columns, np.float32)
    g = np.empty((2 * free, columns), np.float32)
    out[:] = 0.0
    for i in range(out.shape[1]):
        for node in range(nodes.shape[0]):
            h, w = nodes[node, 0], np.float32(nodes[node, 1])
            base = np.float32(window[2] + far[0] + far[1] * (top + i) + far[2] * left)
            rise = np.float32(far[2])
            for j in range(columns):
                q[j] = base + rise * np.float32(j)
            for k in range(count):
                a = np.float32(top + i - cores[k, 0] - shape[3] * h)
                b0 = np.float32(left - cores[k, 1] - shape[4] * h)
                sign = np.float32(signs[k])
                if gradient and k < free:
                    gy, gx = g[2 * k], g[2 * k + 1]
                    for j in range(columns):
                        b = b0 + np.float32(j)
                        ya, xa = a + n * b, n * a + m * b
                        over = np.float32(1.0) / max(a * ya + b * xa, least)
                        up = sign * over
                        along = c * a + s * b
                        q[j] -= up * along
                        dot = two * along * over
                        gy[j] = up * (c - dot * ya)
                        gx[j] = up * (s - dot * xa)
                else:
                    for j in range(columns):
                        b = b0 + np.float32(j)
                        q[j] -= sign * (c * a + s * b) / max(a * (a + n * b) + b * (n * a + m * b), least)
            for j in range(columns):
                place[j] = min(abs(q[j]) * per, last)
            if gradient:
                turn = w * per
                for j in range(columns):
                    low = np.int32(place[j])
                    step = table[low, 1]
                    out[0, i, j] += w * (table[low, 0] + (place[j] - np.float32(low)) * step)
                    q[j] = turn * step if q[j] >= np.float32(0.0) else -turn * step
                for j in range(columns):
                    out[1, i, j] += q[j]
                for k in range(2 * free):
                    gk, to = g[k], out[2 + k, i]
                    for j in range(columns):
                        to[j] += q[j] * gk[j]
            else:
                for j in range(columns):
                    low = np.int32(place[j])
                    out[0, i, j] += w * (table[low, 0] + (place[j] - np.float32(low)) * table[low, 1])


@njit(nogil=True, cache=True, error_model="numpy", fastmath=True)
def _add_fields(top, left, cores, free, signs, window, far, shape, nodes, out):
    """Sum over the sheet of the acceptance and of its derivatives, without blur: out (image, row, column).

    Images: P, dP/dq0, then two for each free core, then those of the shape except the blur.
    """
    count = cores.shape[0]
    c, s = math.cos(shape[0]), math.sin(shape[0])
    m, n = math.exp(shape[1]), shape[2]
    inverse, tail, droop = math.exp(-shape[5]), shape[6], shape[7]
    q0 = window[2]
    first = 2 + 2 * free
    last = TABLE.shape[0] - 2
    gy = np.empty(count)
    gx = np.empty(count)
    out[:] = 0.0
    for i in range(out.shape[1]):
        for j in range(out.shape[2]):
            start = q0 + far[0] + far[1] * (top + i) + far[2] * (left + j)
            for node in range(nodes.shape[0]):
                h, w = nodes[node, 0], nodes[node, 1]
                q = start
                by_angle, by_stretch, by_shear, by_y, by_x = 0.0, 0.0, 0.0, 0.0, 0.0
                nearest = 1e9
                for k in range(count):
                    a = top + i - cores[k, 0] - shape[3] * h
                    b = left + j - cores[k, 1] - shape[4] * h
                    square = a * a + 2.0 * n * a * b + m * b * b
                    nearest = min(nearest, square)
                    up = signs[k] / square
                    along = c * a + s * b
                    q -= up * along
                    # Derivatives of q, which is minus the field.
                    dot = along / square
                    gy[k] = -up * (c - 2.0 * dot * (a + n * b))
                    gx[k] = -up * (s - 2.0 * dot * (n * a + m * b))
                    by_angle -= up * (c * b - s * a)
                    by_stretch += up * dot * m * b * b
                    by_shear += up * dot * 2.0 * a * b
                    by_y -= gy[k] * h
                    by_x -= gx[k] * h
                if nearest < CORE * CORE:
                    continue
                t = abs(q) * inverse
                place = t / STEP
                if place < last:
                    low = int(place)
                    rest = place - low
                    box, wing = TABLE[low, 0], TABLE[low, 1]
                    box_slope, wing_slope = TABLE[low + 1, 0] - box, TABLE[low + 1, 1] - wing
                    box += rest * box_slope
                    fall = math.exp(-0.5 * droop * t * t)
                    box_slope = (box_slope - droop * t * STEP * box) * fall
                    box *= fall
                    wing += rest * wing_slope
                    slope = ((1.0 - tail) * box_slope + tail * wing_slope) / STEP
                else:
                    box = 0.0
                    wing = TABLE[last, 1] * (last * STEP / t) ** 2
                    slope = -2.0 * tail * wing / t
                out[0, i, j] += w * ((1.0 - tail) * box + tail * wing)
                by_q = w * slope * inverse * (1.0 if q >= 0 else -1.0)
                out[1, i, j] += by_q
                for k in range(free):
                    out[2 + 2 * k, i, j] -= by_q * gy[k]
                    out[3 + 2 * k, i, j] -= by_q * gx[k]
                out[first, i, j] += by_q * by_angle
                out[first + 1, i, j] += by_q * by_stretch
                out[first + 2, i, j] += by_q * by_shear
                out[first + 3, i, j] += by_q * by_y
                out[first + 4, i, j] += by_q * by_x
                out[first + 5, i, j] -= w * slope * t
                out[first + 6, i, j] += w * (wing - box)
                out[first + 7, i, j] -= 0.5 * w * (1.0 - tail) * box * t * t


@njit(nogil=True, cache=True, fastmath=True)
def _blurred(source, kernel, scratch, out):
    """Separable blur of the inner part of an image."""
    reach = kernel.size // 2
    rows, columns = out.shape
    for i in range(source.shape[0]):
        for j in range(columns):
            scratch[i, j] = kernel[reach] * source[i, j + MARGIN]
        for k in range(1, reach + 1):
            for j in range(columns):
                scratch[i, j] += kernel[reach + k] * (source[i, j + MARGIN - k] + source[i, j + MARGIN + k])
    for i in range(rows):
        for j in range(columns):
            out[i, j] = kernel[reach] * scratch[i + MARGIN, j]
        for k in range(1, reach + 1):
            for j in range(columns):
                out[i, j] += kernel[reach + k] * (scratch[i + MARGIN - k, j] + scratch[i + MARGIN + k, j])


@njit(nogil=True, cache=True)
def _gauss(sigma, size):
    kernel = np.empty(size)
    for k in range(size):
        kernel[k] = math.exp(-0.5 * ((k - size // 2) / sigma) ** 2)
    return kernel / kernel.sum()


@njit(nogil=True, cache=True)
def image_of(top, left, rows, columns, cores, free, signs, window, far, shape, nodes, table, level):
    """Image of a window, and its derivatives.

    Parameters
    ----------
    top, left, rows, columns : int
        First pixel and size.
    cores : ndarray (core, 2), pixel
        Row and column of every dislocation whose field counts here.
    free : int
        The first of them, whose positions are fitted.
    signs : ndarray (core,)
    window : ndarray (3,)
        A, B, q0.
    far : ndarray (3,)
        Field of distant dislocations: its value at pixel (0, 0) and its slopes along rows and columns.
    shape : ndarray (9,)
    nodes : ndarray (node, 2)
        From :func:`sheet`.
    table : ndarray (sample, 2)
        From :func:`profile`.
    level : int
        0: image alone. 1: derivatives with respect to A, B, q0 and the free positions. 2: also the shape.

    Returns
    -------
    image : ndarray (row, column)
    derivatives : ndarray (number, row, column)
        With respect to A, B, q0, positions, shape.
    """
    number = 0 if level == 0 else 2 + 2 * free if level == 1 else 10 + 2 * free
    tall, wide = rows + 2 * MARGIN, columns + 2 * MARGIN
    sigma = math.exp(shape[8])
    kernel = _gauss(sigma, 2 * MARGIN + 1)
    image = np.empty((rows, columns))
    out = np.empty((0 if level == 0 else number + 1 if level == 1 else number + 2, rows, columns))
    if level < 2:
        quick = np.empty((max(number, 1), tall, wide), np.float32)
        _add_rows(top - MARGIN, left - MARGIN, cores, free, signs, window, far, shape, nodes, table, quick)
        narrow, lines = kernel.astype(np.float32), np.empty((tall, columns), np.float32)
        _blurred(quick[0], narrow, lines, image)
        for k in range(1, number):
            _blurred(quick[k], narrow, lines, out[1 + k])
    else:
        raw, scratch, wider = np.empty((number, tall, wide)), np.empty((tall, columns)), np.empty((rows, columns))
        _add_fields(top - MARGIN, left - MARGIN, cores, free, signs, window, far, shape, nodes, raw)
        for k in range(1, number):
            _blurred(raw[k], kernel, scratch, out[1 + k])
        _blurred(raw[0], kernel, scratch, image)
        _blurred(raw[0], _gauss(sigma * 1.02, 2 * MARGIN + 1), scratch, wider)
        out[number + 1] = (wider - image) * (window[0] / math.log(1.02))
    if level:
        out[0] = image
        out[1] = 1.0
        out[2 : number + 1] *= window[0]
    return window[1] + window[0] * image, out


@njit(nogil=True, cache=True)
def window_terms(top, left, counts, good, cores, free, signs, window, far, shape, nodes, table, noise, level):
    """Minus the logarithm of the likelihood of a window, its negative gradient, and the Fisher information.

    Notes
    -----
    Counts are normal numbers with the variance v = read² + gain (I - base) + fault² (I - base)², where base is the
    level of the background at which read was measured, and fault is the relative error of the image; ``noise`` is
    (read, base, gain, fault)::

        -ln L = Σ (z² + ln v)/2,    information = Σ J J^T (1/v + v'²/(2 v²)),    v' = dv/dI

    Beyond OUTLIER standard deviations z² is replaced by a straight line (Huber), so that single bad pixels do not pull.
    """
    rows, columns = counts.shape
    read, base, gain, fault = noise[0], noise[1], noise[2], noise[3]
    image, slopes = image_of(top, left, rows, columns, cores, free, signs, window, far, shape, nodes, table, level)
    size = slopes.shape[0]
    right = np.zeros(size)
    normal = np.zeros((size, size))
    line = np.empty(size)
    cost, chi, used = 0.0, 0.0, 0
    for i in range(rows):
        for j in range(columns):
            if not good[i, j]:
                continue
            bright = image[i, j] - base
            error = fault * fault * max(bright, 0.0)
            variance = read * read + gain * bright + error * bright
            slope = gain + 2.0 * error
            if variance < DARKEST * read * read:
                variance, slope = DARKEST * read * read, 0.0
            residual = counts[i, j] - image[i, j]
            z = abs(residual) / math.sqrt(variance)
            weight = 1.0
            loss = z * z
            if z > OUTLIER:
                weight = OUTLIER / z
                loss = OUTLIER * (2.0 * z - OUTLIER)
            cost += 0.5 * loss + 0.5 * math.log(variance)
            chi += loss
            used += 1
            if size:
                pull = weight * residual / variance
                stiff = 1.0 / variance
                noise = 0.5 * slope * (weight * residual * residual / variance - 1.0) / variance
                for k in range(size):
                    line[k] = slopes[k, i, j]
                    right[k] += (pull + noise) * line[k]
                weight = weight * stiff + 0.5 * (slope / variance) ** 2
                for k in range(size):
                    a = weight * line[k]
                    if a != 0.0:
                        for m in range(k + 1):
                            normal[k, m] += a * line[m]
    for k in range(size):
        for m in range(k):
            normal[m, k] = normal[k, m]
    return cost, right, normal, chi, used


@njit(nogil=True, cache=True)
def _with_prior(cost, right, normal, window, before):
    """Add the prior of ln A, B and ln q0 to the likelihood of a window."""
    for n in range(3):
        value, scale = window[n], before[n, 1]
        if n != 1:
            scale = before[n, 1] * value
            value = math.log(value)
        off = (value - before[n, 0]) / before[n, 1]
        cost += 0.5 * off * off
        right[n] -= off / scale
        normal[n, n] += 1.0 / (scale * scale)
    return cost


@njit(nogil=True, cache=True)
def fit_window(top, left, counts, good, cores, free, signs, window, far, shape, nodes, table, noise, before, rounds):
    """A, B, q0 and positions of the free cores by damped Gauss–Newton steps, the other cores and the shape held.

    ``before`` (3, 2) has means and standard deviations of ln A, B and ln q0. ``window`` and ``cores`` receive the
    result; returns minus the logarithm of the posterior, chi squared and the number of pixels.
    """
    cost, right, normal, chi, used = window_terms(
        top, left, counts, good, cores, free, signs, window, far, shape, nodes, table, noise, 1
    )
    cost = _with_prior(cost, right, normal, window, before)
    damping = 1e-3
    trial = window.copy()
    moved = cores.copy()
    for _ in range(rounds):
        damped = normal.copy()
        for k in range(right.size):
            damped[k, k] += damping * normal[k, k] + 1e-9
        step = np.linalg.solve(damped, right)
        if np.abs(step[3:]).max() < STILL:
            break
        trial[0] = max(window[0] + step[0], 0.2 * window[0])
        trial[1] = window[1] + step[1]
        trial[2] = window[2] * math.exp(min(max(step[2] / window[2], -0.3), 0.3))
        for k in range(free):
            moved[k, 0] = cores[k, 0] + min(max(step[3 + 2 * k], -2.0), 2.0)
            moved[k, 1] = cores[k, 1] + min(max(step[4 + 2 * k], -2.0), 2.0)
        new, new_right, new_normal, new_chi, _ = window_terms(
            top, left, counts, good, moved, free, signs, trial, far, shape, nodes, table, noise, 1
        )
        new = _with_prior(new, new_right, new_normal, trial, before)
        if new < cost:
            gained = cost - new
            cost, right, normal, chi = new, new_right, new_normal, new_chi
            window[:] = trial
            cores[:free] = moved[:free]
            damping = max(damping / 10.0, 1e-9)
            if gained < 0.01:
                break
        else:
            damping *= 10.0
            if damping > 1e5:
                break
    return cost, chi, used


def window_image(
    box: tuple[int, int, int, int],
    cores: np.ndarray,
    signs: np.ndarray,
    window: np.ndarray,
    shape: np.ndarray,
    nodes: np.ndarray,
    level: int,
) -> tuple[np.ndarray, np.ndarray]:
    """:func:`image_of` for arrays of any layout. Each layout would be compiled separately."""
    made: tuple[np.ndarray, np.ndarray] = image_of(
        *box, np.ascontiguousarray(cores), len(cores), signs, np.ascontiguousarray(window), NEAR, shape, nodes,
        profile(shape), level,
    )  # fmt: skip
    return made
