"""One peak on a constant background, fitted to one curve by damped least squares (Levenberg and Marquardt)."""

from __future__ import annotations

import math

import numpy as np
from numba import njit

GAUSSIAN, LORENTZIAN, PSEUDO_VOIGT = 0, 1, 2
AMPLITUDE, CENTRE, FWHM, LEVEL, MIXING = 0, 1, 2, 3, 4  # order of the parameters; the last one only for pseudo-Voigt

LANES = 16  # of the arrays of :func:`buffers`
MOST_TRIALS = 30
SMALL = 1e-5  # converged where a step moves centre and FWHM by less, in scan steps, and the amplitude in its own size
FLAT = 1e-8  # or where the sum of squares falls by less than this fraction: a step of about 1e-4 standard deviations
LN2 = math.log(2)
LN2_4 = 4 * LN2
LOG2_E = 1 / LN2
LAST_BITS = 1.5 * 2.0**52 + 1023  # added to an integer it leaves integer + 1023 in the last bits


@njit(nogil=True, cache=True, error_model="numpy")
def start_values(u, curve, level, peak):
    """Half-width and centre of the run of points above half maximum around the highest point.

    Parameters
    ----------
    u : array (points,)
        Positions in scan steps, monotonic.
    curve : array (points,)
        Counts.
    level : float
        Background to start from.
    peak : int
        Index of the highest point.
    """
    half = (curve[peak] + level) / 2
    low = peak
    while low > 0 and curve[low - 1] > half:
        low -= 1
    high = peak
    while high < curve.size - 1 and curve[high + 1] > half:
        high += 1
    left, right = u[low], u[high]
    if low > 0:
        left += (u[low - 1] - u[low]) * (curve[low] - half) / (curve[low] - curve[low - 1])
    if high < curve.size - 1:
        right += (u[high + 1] - u[high]) * (curve[high] - half) / (curve[high] - curve[high + 1])
    return (left + right) / 2, max(abs(right - left), 1.0)


@njit(nogil=True, cache=True, error_model="numpy")
def _exponentials(u, centre, inverse, result, power):
    """exp(−4 ln 2 s²), s = (u − centre) × inverse, to a relative error of 1e-12; at least exp(−100).

    Vectorised, unlike the exponential of the library: exp(x) = 2**n exp(f), |f| ≤ ln 2 / 2, with a polynomial for
    exp(f); the last bits of a float carry n into its exponent.
    """
    for i in range(result.size):
        s = (u[i] - centre) * inverse
        x = max(-LN2_4 * s * s, -100.0) * LOG2_E
        n = math.floor(x + 0.5)
        power[i] = n + LAST_BITS
        f = (x - n) * LN2
        p = 1 + f * (1 / 10)
        p = 1 + f * (1 / 9) * p
        p = 1 + f * (1 / 8) * p
        p = 1 + f * (1 / 7) * p
        p = 1 + f * (1 / 6) * p
        p = 1 + f * (1 / 5) * p
        p = 1 + f * (1 / 4) * p
        p = 1 + f * (1 / 3) * p
        p = 1 + f * (1 / 2) * p
        result[i] = 1 + f * p
    bits = power.view(np.int64)
    for i in range(bits.size):
        bits[i] = bits[i] << 52
    for i in range(result.size):
        result[i] *= power[i]


@njit(nogil=True, cache=True, error_model="numpy", fastmath={"contract", "reassoc"})
def _normal_equations(u, curve, p, model, basis, matrix, slope):
    """Sum of squared residuals; fills JᵀJ and Jᵀr. `basis` holds the columns of the Jacobian and the residual."""
    points = u.size
    size = 5 if model == PSEUDO_VOIGT else 4
    amplitude, centre, fwhm, level = p[0], p[1], p[2], p[3]
    inverse = 1 / fwhm
    mixing = p[4] if model == PSEUDO_VOIGT else 0.0
    if model != LORENTZIAN:
        _exponentials(u, centre, inverse, basis[5, :points], basis[6, :points])
    chi2 = 0.0
    if model == GAUSSIAN:
        for i in range(points):
            s = (u[i] - centre) * inverse
            g = basis[5, i]
            slant = 2 * LN2_4 * amplitude * inverse * s * g
            basis[0, i], basis[1, i], basis[2, i] = g, slant, slant * s
            r = curve[i] - level - amplitude * g
            basis[4, i] = r
            chi2 += r * r
    else:
        for i in range(points):
            s = (u[i] - centre) * inverse
            one = 1 / (1 + 4 * s * s)
            g = basis[5, i] if model == PSEUDO_VOIGT else 0.0
            part = mixing if model == PSEUDO_VOIGT else 1.0
            shape = part * one + (1 - part) * g
            slant = amplitude * inverse * s * (part * 8 * one * one + (1 - part) * 2 * LN2_4 * g)
            basis[0, i], basis[1, i], basis[2, i] = shape, slant, slant * s
            basis[3, i] = amplitude * (one - g)
            r = curve[i] - level - amplitude * shape
            basis[4, i] = r
            chi2 += r * r
    t00 = t01 = t02 = t03 = t11 = t12 = t13 = t22 = t23 = g0 = g1 = g2 = g3 = 0.0
    for i in range(points):
        a, b, c, r = basis[0, i], basis[1, i], basis[2, i], basis[4, i]
        t00 += a * a
        t01 += a * b
        t02 += a * c
        t03 += a
        t11 += b * b
        t12 += b * c
        t13 += b
        t22 += c * c
        t23 += c
        g0 += a * r
        g1 += b * r
        g2 += c * r
        g3 += r
    matrix[0, 0], matrix[1, 0], matrix[2, 0], matrix[3, 0] = t00, t01, t02, t03
    matrix[1, 1], matrix[2, 1], matrix[3, 1] = t11, t12, t13
    matrix[2, 2], matrix[3, 2], matrix[3, 3] = t22, t23, float(points)
    slope[0], slope[1], slope[2], slope[3] = g0, g1, g2, g3
    if size == 5:
        for k in range(3):
            total = 0.0
            for i in range(points):
                total += basis[k, i] * basis[3, i]
            matrix[4, k] = total
        t34 = t44 = g4 = 0.0
        for i in range(points):
            t34 += basis[3, i]
            t44 += basis[3, i] * basis[3, i]
            g4 += basis[3, i] * basis[4, i]
        matrix[4, 3], matrix[4, 4], slope[4] = t34, t44, g4
    return chi2


@njit(nogil=True, cache=True, error_model="numpy")
def _solve(matrix, slope, damping, size, factor, step):
    """Solution of (matrix + damping diag(matrix)) step = slope by Cholesky; False where it is singular."""
    for i in range(size):
        for j in range(i + 1):
            total = matrix[i, j]
            if i == j:
                total += damping * matrix[i, i]
            for k in range(j):
                total -= factor[i, k] * factor[j, k]
            if i == j:
                if not total > 1e-14 * matrix[i, i]:
                    return False
                factor[i, i] = math.sqrt(total)
            else:
                factor[i, j] = total / factor[j, j]
    for i in range(size):
        total = slope[i]
        for k in range(i):
            total -= factor[i, k] * step[k]
        step[i] = total / factor[i, i]
    for i in range(size - 1, -1, -1):
        total = step[i]
        for k in range(i + 1, size):
            total -= factor[k, i] * step[k]
        step[i] = total / factor[i, i]
    return True


@njit(nogil=True, cache=True, error_model="numpy")
def fit_peak(u, curve, p, model, work):
    """Least-squares parameters of one curve.

    Parameters
    ----------
    u : array (points,)
        Positions in scan steps.
    curve : array (points,)
        Counts.
    p : array (5,)
        Start values (amplitude, centre, FWHM, background, mixing); overwritten with the result.
    model : int
        GAUSSIAN, LORENTZIAN or PSEUDO_VOIGT.
    work : tuple of arrays
        See :func:`buffers`. Where the fit converged, the rows of the first one then are the derivatives with respect to
        amplitude, centre, FWHM and (pseudo-Voigt only) mixing, and the residual.

    Returns
    -------
    converged : bool
        Whether the last step was small.
    chi2 : float
        Sum of squared residuals.
    matrix : array (5, 5)
        JᵀJ, lower triangle.
    """
    basis, matrix, slope, trial_matrix, trial_slope, factor, step, trial = work
    size = 5 if model == PSEUDO_VOIGT else 4
    chi2 = _normal_equations(u, curve, p, model, basis, matrix, slope)
    damping, converged = 1e-3, False
    for _ in range(MOST_TRIALS):
        # A mixing at its bound that is pulled outwards is held there: the others then take their own best step.
        held = size == 5 and ((p[MIXING] <= 0 and slope[MIXING] < 0) or (p[MIXING] >= 1 and slope[MIXING] > 0))
        step[MIXING] = 0
        if not _solve(matrix, slope, damping, 4 if held else size, factor, step):
            damping *= 10
            continue
        for k in range(size):
            trial[k] = p[k] + step[k]
        if size == 5:
            trial[MIXING] = min(max(trial[MIXING], 0.0), 1.0)
        # A width never turns negative, nor changes by more than a factor in one step: the start may be far off.
        trial[FWHM] = min(max(trial[FWHM], 0.3 * p[FWHM]), 3 * p[FWHM])
        small = abs(trial[CENTRE] - p[CENTRE]) < SMALL and abs(trial[FWHM] - p[FWHM]) < SMALL
        small &= abs(step[AMPLITUDE]) < SMALL * abs(p[AMPLITUDE])
        if size == 5:
            small &= abs(trial[MIXING] - p[MIXING]) < SMALL
        new = _normal_equations(u, curve, trial, model, basis, trial_matrix, trial_slope)
        if new <= chi2:
            small |= chi2 - new <= FLAT * chi2
            chi2 = new
            matrix, trial_matrix = trial_matrix, matrix
            slope, trial_slope = trial_slope, slope
            for k in range(size):
                p[k] = trial[k]
            damping = max(damping * 0.1, 1e-12)
            converged = small and damping < 1  # a small step under strong damping proves nothing
            if abs(p[CENTRE]) > u.size or not 0.1 < p[FWHM] < 4 * u.size:
                return False, chi2, matrix  # far outside the scan: the fit does not return
        else:
            # At the minimum rounding decides whether the sum of squares falls.
            converged = small and damping < 1
            damping *= 10
        if converged or damping > 1e12:
            break
    return converged, chi2, matrix


def padded(points: int) -> int:
    """Number of frames with zeros added to a multiple of the length of vector instructions."""
    return -(-points // LANES) * LANES


def buffers(points: int) -> tuple[np.ndarray, ...]:
    """Buffers of :func:`fit_peak` for curves of this number of points, allocated once for all pixels."""
    return (
        np.zeros((7, padded(points))),
        np.zeros((5, 5)),
        np.zeros(5),
        np.zeros((5, 5)),
        np.zeros(5),
        np.zeros((5, 5)),
        np.zeros(5),
        np.zeros(5),
    )
