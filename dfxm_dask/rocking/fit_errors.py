"""Standard errors of the parameters of a fitted peak, with the noise of every frame estimated from the curve itself.

The variance of frame i is modelled as v_i = a + b g_i with g the fitted shape (1 at the peak): a is the noise off the
peak and b the contribution of the peak, such as counting noise of any gain. The covariance of the unweighted fit is
then a C + b S with C = (JᵀJ)⁻¹ and S = C Jᵀ diag(g) J C, and the square of residual i has the mean a x_i + b z_i with
x_i = 1 − h_i, z_i = (1 − 2 h_i) g_i + J_iᵀ S J_i, h_i = J_iᵀ C J_i. A regression of the squared residuals on x and z,
with the variance 2 (a x_i + b z_i)² of each, therefore yields a and b.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from dfxm_dask.rocking.least_squares import AMPLITUDE, CENTRE, LEVEL, padded

# The next two are set by simulation. A bound of 0 would overestimate the errors where all frames have equal noise.
LOWEST = -0.2  # lower bound of b, in units of a
KNOWN = 0.6  # fraction of the degrees of freedom of b that remains, as its weights come from the same residuals
SAFE = 2.0  # times the threshold of the signal-to-noise ratio: above, peaks do not pass it by chance
BENT = 1.5  # times the shift of a parameter in linear propagation, which weak peaks exceed
OFF_PEAK = 0.05  # frames below this fraction of the peak yield the start value of a
SUMS = {"contract", "reassoc"}


@njit(nogil=True, cache=True, error_model="numpy")
def _covariance(matrix, size, root, inverse):
    """Inverse of a positive definite matrix given by its lower triangle, zero beyond `size`; False where singular."""
    for i in range(5):
        for j in range(i + 1):
            total = matrix[i, j] if i < size else (1.0 if i == j else 0.0)
            for k in range(j):
                total -= root[i, k] * root[j, k]
            if i != j:
                root[i, j] = total * root[j, j]
            elif not total > 1e-13 * (matrix[i, i] if i < size else 1.0):
                return False
            else:
                root[i, i] = 1 / math.sqrt(total)
    for i in range(5):  # from the factor, whose diagonal holds reciprocals, to its inverse
        for j in range(i):
            total = 0.0
            for k in range(j, i):
                total -= root[i, k] * root[k, j]
            root[i, j] = total * root[i, i]
    for i in range(5):
        for j in range(i + 1):
            total = 0.0
            for k in range(i, size):
                total += root[k, i] * root[k, j]
            inverse[i, j] = inverse[j, i] = total
    return True


@njit(nogil=True, cache=True, error_model="numpy", fastmath=SUMS)
def _shaped_products(basis, size, shaped):
    """Fills Jᵀ diag(g) J; returns the sum of squared residuals off the peak and the number of frames there."""
    t00 = t01 = t02 = t03 = t11 = t12 = t13 = t22 = t23 = t33 = off = frames = 0.0
    for n in range(basis.shape[1]):
        g, b, c, r = basis[0, n], basis[1, n], basis[2, n], basis[4, n]
        gg, gb, gc = g * g, g * b, g * c
        t00 += gg * g
        t01 += gg * b
        t02 += gg * c
        t03 += gg
        t11 += gb * b
        t12 += gb * c
        t13 += gb
        t22 += gc * c
        t23 += gc
        t33 += g
        beside = 1.0 if g < OFF_PEAK else 0.0
        frames += beside
        off += beside * r * r
    shaped[0, 0], shaped[0, 1], shaped[0, 2], shaped[0, 3] = t00, t01, t02, t03
    shaped[1, 0], shaped[1, 1], shaped[1, 2], shaped[1, 3] = t01, t11, t12, t13
    shaped[2, 0], shaped[2, 1], shaped[2, 2], shaped[2, 3] = t02, t12, t22, t23
    shaped[3, 0], shaped[3, 1], shaped[3, 2], shaped[3, 3] = t03, t13, t23, t33
    if size == 5:
        t04 = t14 = t24 = t34 = t44 = 0.0
        for n in range(basis.shape[1]):
            gd = basis[0, n] * basis[3, n]
            t04 += gd * basis[0, n]
            t14 += gd * basis[1, n]
            t24 += gd * basis[2, n]
            t34 += gd
            t44 += gd * basis[3, n]
        shaped[0, 4], shaped[1, 4], shaped[2, 4], shaped[3, 4], shaped[4, 4] = t04, t14, t24, t34, t44
        shaped[4, 0], shaped[4, 1], shaped[4, 2], shaped[4, 3] = t04, t14, t24, t34
    return off, frames


@njit(nogil=True, cache=True, error_model="numpy")
def _between(matrix, inverse, product, result):
    """inverse × matrix × inverse, of symmetric 5 × 5 matrices."""
    for i in range(5):
        for j in range(5):
            total = 0.0
            for k in range(5):
                total += inverse[i, k] * matrix[k, j]
            product[i, j] = total
    for i in range(5):
        for j in range(i + 1):
            total = 0.0
            for k in range(5):
                total += product[i, k] * inverse[k, j]
            result[i, j] = result[j, i] = total


@njit(nogil=True, cache=True, error_model="numpy", fastmath=SUMS)
def _regression(basis, frame, plain, peak, a, b):
    """Sums of x², xz, z², x r² and z r² over the frames, each weighted by 1 / (a x + b z)²."""
    c00, c10, c11, c20, c21, c22 = plain[0, 0], plain[1, 0], plain[1, 1], plain[2, 0], plain[2, 1], plain[2, 2]
    c30, c31, c32, c33 = plain[3, 0], plain[3, 1], plain[3, 2], plain[3, 3]
    c40, c41, c42, c43, c44 = plain[4, 0], plain[4, 1], plain[4, 2], plain[4, 3], plain[4, 4]
    s00, s10, s11, s20, s21, s22 = peak[0, 0], peak[1, 0], peak[1, 1], peak[2, 0], peak[2, 1], peak[2, 2]
    s30, s31, s32, s33 = peak[3, 0], peak[3, 1], peak[3, 2], peak[3, 3]
    s40, s41, s42, s43, s44 = peak[4, 0], peak[4, 1], peak[4, 2], peak[4, 3], peak[4, 4]
    xx = xz = zz = xr = zr = 0.0
    for n in range(frame.size):
        g, p, q, d, r = basis[0, n], basis[1, n], basis[2, n], basis[3, n], basis[4, n]
        h = g * (c00 * g + 2 * (c10 * p + c20 * q + c30 + c40 * d)) + p * (c11 * p + 2 * (c21 * q + c31 + c41 * d))
        h += q * (c22 * q + 2 * (c32 + c42 * d)) + c33 + d * (2 * c43 + c44 * d)
        k = g * (s00 * g + 2 * (s10 * p + s20 * q + s30 + s40 * d)) + p * (s11 * p + 2 * (s21 * q + s31 + s41 * d))
        k += q * (s22 * q + 2 * (s32 + s42 * d)) + s33 + d * (2 * s43 + s44 * d)
        x, z = 1 - h, (1 - 2 * h) * g + k
        inverse = frame[n] / max(a * x + b * z, 1e-6 * a)
        x, z, seen = x * inverse, z * inverse, r * r * inverse
        xx += x * x
        xz += x * z
        zz += z * z
        xr += x * seen
        zr += z * seen
    return xx, xz, zz, xr, zr


@njit(nogil=True, cache=True, error_model="numpy")
def _allow_for_luck(p, size, excess, others, a, b, points, room, errors):
    """Increases errors where a signal-to-noise ratio just above its threshold may have passed by chance."""
    _, _, plain, shaped, peak, _ = room
    height, fwhm = p[0], p[2]
    hh = (a * plain[0, 0] + b * peak[0, 0]) / height**2
    hw = (a * plain[0, 2] + b * peak[0, 2]) / (height * fwhm)
    ww = (a * plain[2, 2] + b * peak[2, 2]) / fwhm**2
    total = points * a + b * shaped[3, 3]
    noise = (points * a * a + 2 * a * b * shaped[3, 3] + b * b * shaped[0, 3]) / (2 * total * total)
    noise *= points / (points - size)
    spread = math.sqrt(noise + max(hh + hw + ww / 4, 0.0))
    for k in range(size):
        over = excess if k == CENTRE else others
        if not 1 < over < SAFE:
            continue
        above = math.log(over) / spread
        # The median of a normal deviate that is known to exceed the threshold, solved for its mean, to 3 %.
        luck = math.log(2) / above * math.exp(-above * (0.3 + 0.45 * above)) / spread
        towards = (a * plain[k, 0] + b * peak[k, 0]) / height + (a * plain[k, 2] + b * peak[k, 2]) / (2 * fwhm)
        if k == AMPLITUDE:
            smaller = noise + max((hw + ww / 2) / 2, 0.0)
        elif k == LEVEL:
            smaller = noise
        else:
            smaller = noise + max(hh - ww / 4, 0.0)
        errors[k] = math.hypot(errors[k] * math.exp(luck * smaller), BENT * luck * towards)


@njit(nogil=True, cache=True, error_model="numpy")
def standard_errors(basis, matrix, p, size, chi2, least, excess, others, room, errors):
    """Standard errors of the parameters of an unweighted fit; NaN where they are not determined.

    Parameters
    ----------
    basis : array (7, padded points)
        Derivatives of the model, and residuals, as written by :func:`~dfxm_dask.rocking.least_squares.fit_peak`.
    matrix : array (5, 5)
        JᵀJ, lower triangle.
    p : array (5,)
        Parameters.
    size : int
        Number of parameters.
    chi2 : float
        Sum of squared residuals.
    least : float
        Least variance of a frame.
    excess, others : float
        Signal-to-noise ratio over its threshold for the error of the centre (above 1), and for the other parameters.
    room : tuple of arrays
        See :func:`room`.
    errors : array (parameters,)
        Overwritten with the result.

    Notes
    -----
    Where few frames lie on the peak, the estimate of its noise has few degrees of freedom ν (Satterthwaite). That part
    of the error is multiplied by the 68 % quantile of Student's t, so that the interval of ± 1 error contains the truth
    in 68 % of all cases.
    """
    errors[:] = np.nan
    frame, points, plain, shaped, peak, spare = room
    freedom = points - size
    off, beside = _shaped_products(basis, size, shaped)
    if not _covariance(matrix, size, spare, plain):
        return
    _between(shaped, plain, spare, peak)
    total = shaped[3, 3]
    for i in range(5):
        for j in range(5):
            total -= plain[i, j] * shaped[i, j]
    pooled = max(chi2 / freedom, least)
    beside -= frame.size - points
    a = max(off / beside, least) if beside > 3 else pooled
    b = max((chi2 - a * freedom) / total, 0.0)
    for _ in range(1 if beside > 3 else 3):
        xx, xz, zz, xr, zr = _regression(basis, frame, plain, peak, a, b)
        determinant = xx * zz - xz * xz
        if not determinant > 1e-9 * xx * zz:  # no frame to spare on the peak: one variance for all frames
            a, b = pooled, 0.0
            break
        a = max((zz * xr - xz * zr) / determinant, least)
        b = max((xx * zr - xz * xr) / determinant, LOWEST * a)
    for k in range(size):
        off_part, peak_part = plain[k, k], peak[k, k]
        wide = 1.0
        if b > 0:
            variance = a * off_part + b * peak_part
            spread = (off_part**2 * zz - 2 * off_part * peak_part * xz + peak_part**2 * xx) / determinant
            nu = max(KNOWN * variance * variance / spread, 1.0)
            # Cornish-Fisher expansion of the quantile of t at one standard deviation
            wide = 1 + 0.5 / nu + 0.25 / nu**2 + 0.0625 / nu**3
        errors[k] = math.sqrt(a * off_part + b * peak_part * wide * wide)
    if min(excess, others) < SAFE:
        _allow_for_luck(p, size, excess, others, a, b, points, room, errors)


def room(points: int) -> tuple:
    """Buffers of :func:`standard_errors` for curves of this number of points, allocated once for all pixels."""
    return (np.arange(padded(points)) < points).astype(float), points, *(np.zeros((5, 5)) for _ in range(4))
