"""Standard errors of the parameters of a fitted peak, with the noise of every frame estimated from the curve itself.

The variance of frame i is taken as v_i = a + b g_i with g the fitted shape (1 at the peak): a is the noise off the
peak and b what the peak adds, such as counting noise of any gain. Both follow from the residuals by restricted maximum
likelihood. The covariance of the unweighted fit is then C Jᵀ V J C with C = (JᵀJ)⁻¹.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

ROUNDS = 2  # of the noise model: a third moves errors by about 1 %
# A bound of 0 would make b, and with it the errors, too large on average where all frames have the same noise.
LOWEST = -0.4  # of b, in parts of a
LANES = 16  # columns are padded to a multiple, so that sums run without a scalar rest
OFF_PEAK = 0.05  # frames of less than this part of the peak give the first guess of a


@njit(nogil=True, cache=True, error_model="numpy", fastmath={"contract", "reassoc"})
def _products(jacobian, weight, size, matrix):  # type: ignore[no-untyped-def]
    """Jᵀ diag(weight) J, lower triangle."""
    for i in range(size):
        for j in range(i + 1):
            total = 0.0
            for n in range(weight.size):
                total += jacobian[i, n] * jacobian[j, n] * weight[n]
            matrix[i, j] = total


@njit(nogil=True, cache=True, error_model="numpy", fastmath={"contract", "reassoc"})
def _both_products(white, weight, shape, size, first, second):  # type: ignore[no-untyped-def]
    """The same with the weight, and with weight × shape, in one pass."""
    for i in range(size):
        for j in range(i + 1):
            plain = shaped = 0.0
            for n in range(weight.size):
                term = white[i, n] * white[j, n] * weight[n]
                plain += term
                shaped += term * shape[n]
            first[i, j] = plain
            second[i, j] = shaped


@njit(nogil=True, cache=True, error_model="numpy")
def _root_inverse(matrix, size, inverse):  # type: ignore[no-untyped-def]
    """Inverse of the Cholesky factor of a matrix given by its lower triangle; False where that is singular."""
    for i in range(size):
        for j in range(i + 1):
            total = matrix[i, j]
            for k in range(j):
                total -= matrix[i, k] * matrix[j, k]
            if i == j:
                if not total > 1e-13 * matrix[i, i]:
                    return False
                matrix[i, i] = math.sqrt(total)
            else:
                matrix[i, j] = total / matrix[j, j]
    for i in range(size):
        inverse[i, i] = 1 / matrix[i, i]
        for j in range(i):
            total = 0.0
            for k in range(j, i):
                total -= matrix[i, k] * inverse[k, j]
            inverse[i, j] = total / matrix[i, i]
    return True


@njit(nogil=True, cache=True, error_model="numpy")
def _trace(first, second, size):  # type: ignore[no-untyped-def]
    """Trace of the product of two symmetric matrices, given by their lower triangles."""
    total = 0.0
    for i in range(size):
        total += first[i, i] * second[i, i]
        for j in range(i):
            total += 2 * first[i, j] * second[i, j]
    return total


@njit(nogil=True, cache=True, error_model="numpy", fastmath={"contract", "reassoc"})
def _noise(points, size, chi2, least, room):  # type: ignore[no-untyped-def]
    """Variances a and b, and the information on them: its elements aa, ab and bb."""
    jacobian, residual, shape, inverse, square, leverage, white, matrix, root, first, second = room
    padded = residual.size
    pooled = max(chi2 / (points - size), least)
    off = weight = part = 0.0
    for n in range(points):
        if shape[n] < OFF_PEAK:
            off += residual[n] * residual[n]
            weight += 1
        else:
            part += shape[n]
    a = max(off / weight, least) if weight > 3 else pooled
    b = max((chi2 - a * (points - size)) / max(part / 2, 1.0), 0.0)
    aa, ab, bb = (points - size) / pooled**2, 0.0, 0.0
    for _ in range(ROUNDS):
        for n in range(points):
            inverse[n] = 1 / (a + b * shape[n])  # padding keeps zero
        _products(jacobian, inverse, size, matrix)
        if not _root_inverse(matrix, size, root):
            break
        for n in range(padded):
            leverage[n] = 0.0
            square[n] = residual[n]
        for i in range(size):
            for n in range(padded):
                white[i, n] = root[i, 0] * jacobian[0, n]
            for k in range(1, i + 1):
                factor = root[i, k]
                for n in range(padded):
                    white[i, n] += factor * jacobian[k, n]
            shift = 0.0
            for n in range(padded):
                shift += white[i, n] * inverse[n] * residual[n]
                leverage[n] += white[i, n] * white[i, n]
            for n in range(padded):  # residual of the weighted fit
                square[n] -= shift * white[i, n]
        aa = ab = bb = seen_a = seen_b = 0.0
        for n in range(padded):
            twice = inverse[n] * inverse[n]
            seen = square[n] * square[n] * twice
            seen_a += seen
            seen_b += seen * shape[n]
            square[n] = twice
            known = twice * (1 - 2 * leverage[n] * inverse[n])
            aa += known
            ab += known * shape[n]
            bb += known * shape[n] * shape[n]
        _both_products(white, square, shape, size, first, second)
        aa += _trace(first, first, size)
        ab += _trace(first, second, size)
        bb += _trace(second, second, size)
        determinant = aa * bb - ab * ab
        if not determinant > 1e-9 * aa * bb:  # no frame to spare on the peak: one variance for all frames
            return pooled, 0.0, (points - size) / pooled**2, 0.0, 0.0
        a, b = (bb * seen_a - ab * seen_b) / determinant, (aa * seen_b - ab * seen_a) / determinant
        a = max(a, least)
        b = max(b, LOWEST * a)
    return a, b, aa, ab, bb


@njit(nogil=True, cache=True, error_model="numpy")
def standard_errors(basis, size, chi2, least, room, errors):  # type: ignore[no-untyped-def]
    """Standard errors of the parameters of an unweighted fit; NaN where nothing determines them.

    Parameters
    ----------
    basis : array (7, points)
        Derivatives of the model and residual, as :func:`~dfxm_dask.rocking.least_squares.fit_peak` leaves them.
    size : int
        Number of parameters.
    chi2 : float
        Sum of squared residuals.
    least : float
        Least variance of a frame.
    room : tuple of arrays
        See :func:`room`.
    errors : array (parameters,)
        Overwritten with the result.

    Notes
    -----
    Where few frames lie on the peak its noise is known from few degrees of freedom ν (Satterthwaite). That part of the
    error is multiplied by the 68 % quantile of Student's t, so that ± 1 error holds the truth in 68 % of all cases.
    """
    errors[:] = np.nan
    points = basis.shape[1]
    if points <= size:
        return
    jacobian, residual, shape, inverse, _, _, _, matrix, root, first, second = room
    for n in range(points):
        jacobian[0, n], jacobian[1, n], jacobian[2, n] = basis[0, n], basis[1, n], basis[2, n]
        jacobian[3, n], jacobian[4, n] = 1.0, basis[3, n]
        shape[n], residual[n] = basis[0, n], basis[4, n]
    a, b, aa, ab, bb = _noise(points, size, chi2, least, room)
    inverse[:points] = 1.0
    _both_products(jacobian, inverse, shape, size, matrix, second)
    if not _root_inverse(matrix, size, root):
        return
    for i in range(size):
        for j in range(size):
            total = 0.0
            for k in range(max(i, j), size):
                total += root[k, i] * root[k, j]
            first[i, j] = total
    for k in range(size):
        off_part, peak_part = first[k, k], 0.0
        for i in range(size):
            peak_part += first[k, i] * first[k, i] * second[i, i]
            for j in range(i):
                peak_part += 2 * first[k, i] * first[k, j] * second[i, j]
        wide = 1.0
        if b > 0:
            variance = a * off_part + b * peak_part
            spread = (off_part**2 * bb - 2 * off_part * peak_part * ab + peak_part**2 * aa) / (aa * bb - ab * ab)
            nu = max(variance * variance / spread, 1.0)
            # Cornish-Fisher expansion of the quantile of t at one standard deviation
            wide = 1 + 0.5 / nu + 0.25 / nu**2 + 0.0625 / nu**3
        errors[k] = math.sqrt(a * off_part + b * peak_part * wide * wide)


def room(points: int) -> tuple[np.ndarray, ...]:
    """Room for :func:`standard_errors` on curves of that many points, made once for all pixels."""
    padded = -(-points // LANES) * LANES
    lines = [np.zeros(padded) for _ in range(5)]
    return np.zeros((5, padded)), *lines, np.zeros((5, padded)), *(np.zeros((5, 5)) for _ in range(4))
