"""Normal equations of the deformation gradient of one pixel, compiled."""

from __future__ import annotations

import numpy as np
from numba import njit

from dfxm_dask.strain.goniometer import angles_at, vector_at


def read_only(values: np.ndarray, dtype: type) -> np.ndarray:
    """View for compiled code, which compiles once for all callers: inputs of a unit are read-only, and need no copy."""
    view: np.ndarray = np.ascontiguousarray(values, dtype).view()
    view.flags.writeable = False
    return view


@njit(nogil=True, cache=True)
def inverse_symmetric(c, out):
    """Inverse of a symmetric matrix 3 × 3; False if it is not positive definite."""
    p, q, r = (
        c[1, 1] * c[2, 2] - c[1, 2] ** 2,
        c[0, 2] * c[1, 2] - c[0, 1] * c[2, 2],
        c[0, 1] * c[1, 2] - c[0, 2] * c[1, 1],
    )
    determinant = c[0, 0] * p + c[0, 1] * q + c[0, 2] * r
    scale = c[0, 0] * c[1, 1] * c[2, 2]
    if not (c[0, 0] > 0.0 and c[0, 0] * c[1, 1] > c[0, 1] ** 2 and determinant > 1e-7 * scale):
        return False
    out[0, 0], out[1, 1], out[2, 2] = p, c[0, 0] * c[2, 2] - c[0, 2] ** 2, c[0, 0] * c[1, 1] - c[0, 1] ** 2
    out[0, 1] = out[1, 0] = q
    out[0, 2] = out[2, 0] = r
    out[1, 2] = out[2, 1] = c[0, 1] * c[0, 2] - c[0, 0] * c[1, 2]
    for i in range(3):
        for j in range(3):
            out[i, j] /= determinant
    return True


@njit(nogil=True, cache=True)
def angle_weights(covariance, centre, weight):
    """Inverse covariance of the measured angles of one reflection, 1/rad2; False if it is not positive definite."""
    square = (np.pi / 180.0) ** 2
    block = np.empty((3, 3))
    for a in range(3):
        for b in range(3):
            known = np.isfinite(centre[a]) and np.isfinite(centre[b])
            block[a, b] = np.float64(covariance[a, b]) * square if known else (1.0 if a == b else 0.0)
    good = inverse_symmetric(block, weight)
    for a in range(3):
        if not np.isfinite(centre[a]):
            weight[a, :] = 0.0
            weight[:, a] = 0.0
    return good


@njit(nogil=True, cache=True)
def _precision(slope, weight, out):
    """J^-T W J^-1: weights of the angles as weights of the scattering vector."""
    k = np.empty((3, 3))
    for i in range(3):
        j, m = (i + 1) % 3, (i + 2) % 3
        for a in range(3):
            b, c = (a + 1) % 3, (a + 2) % 3
            k[i, a] = slope[b, j] * slope[c, m] - slope[c, j] * slope[b, m]
    determinant = k[0, 0] * slope[0, 0] + k[0, 1] * slope[1, 0] + k[0, 2] * slope[2, 0]
    for i in range(3):
        for j in range(i + 1):
            total = 0.0
            for a in range(3):
                for b in range(3):
                    total += k[a, i] * weight[a, b] * k[b, j]
            out[i, j] = out[j, i] = total / (determinant * determinant)


@njit(nogil=True, cache=True)
def _cholesky(a, n):
    """Lower factor in place; False if the matrix is not positive definite."""
    for i in range(n):
        for j in range(i + 1):
            total = a[i, j]
            for m in range(j):
                total -= a[i, m] * a[j, m]
            if i == j:
                if not total > 1e-13 * a[i, i]:
                    return False
                a[i, i] = np.sqrt(total)
            else:
                a[i, j] = total / a[j, j]
    return True


@njit(nogil=True, cache=True)
def _from_factor(low, n, out):
    """Inverse of a matrix from its lower factor; ``low`` is overwritten with the inverse of the factor."""
    for j in range(n):
        low[j, j] = 1.0 / low[j, j]
        for i in range(j + 1, n):
            total = 0.0
            for m in range(j, i):
                total -= low[i, m] * low[m, j]
            low[i, j] = total / low[i, i]
    for i in range(n):
        for j in range(i + 1):
            total = 0.0
            for m in range(i, n):
                total += low[m, i] * low[m, j]
            out[i, j] = out[j, i] = total


@njit(nogil=True, cache=True)
def normal_equations(at, centre, weights, use, h, matrix, right):
    """Normal equations of a correction of H (lower half), and chi-square of the present H."""
    turned, theta, radius, vectors = at
    q, predicted, slope, precision, angles = np.empty(3), np.empty(3), np.empty((3, 3)), np.empty((3, 3)), np.empty(3)
    matrix[:, :] = 0.0
    right[:] = 0.0
    chi2 = 0.0
    for k in range(theta.size):
        if not use[k]:
            continue
        g = vectors[k]
        whole = True
        for a in range(3):
            angles[a] = centre[k, a] * (np.pi / 180.0)
            whole = whole and np.isfinite(angles[a])
        for i in range(3):
            predicted[i] = g[i] + h[3 * i] * g[0] + h[3 * i + 1] * g[1] + h[3 * i + 2] * g[2]
        if not whole:
            angles_at(turned[k], theta[k], radius[k], predicted, q)
            for a in range(3):
                if not np.isfinite(angles[a]):
                    angles[a] = q[a]
        vector_at(turned[k], theta[k], radius[k], angles[0], angles[1], angles[2], q, slope)
        _precision(slope, weights[k], precision)
        for i in range(3):
            q[i] -= predicted[i]
        for i in range(3):
            total = precision[i, 0] * q[0] + precision[i, 1] * q[1] + precision[i, 2] * q[2]
            chi2 += total * q[i]
            for c in range(3):
                right[3 * i + c] += total * g[c]
            for j in range(i + 1):
                for c in range(3):
                    for d in range(3):
                        matrix[3 * i + c, 3 * j + d] += precision[i, j] * g[c] * g[d]
    return chi2


@njit(nogil=True, cache=True)
def correct(matrix, right, rank, basis, h, covariance):
    """Solve the normal equations, add the correction to H, and return its size (NaN without a solution) and its gain.

    ``covariance`` receives the covariance of H.
    """
    whole = h.size  # the length as a variable: unrolled loops would take long to compile
    step = np.zeros(whole)
    reduced = np.empty((whole, whole))
    if rank == whole:
        reduced[:, :] = matrix
        step[:] = right
    else:
        product = np.empty((whole, rank))
        for i in range(whole):
            for a in range(rank):
                product[i, a] = 0.0
                for j in range(whole):  # only the lower half is filled
                    product[i, a] += matrix[max(i, j), min(i, j)] * basis[j, a]
        for a in range(rank):
            for i in range(whole):
                step[a] += basis[i, a] * right[i]
            for b in range(rank):
                reduced[a, b] = 0.0
                for i in range(whole):
                    reduced[a, b] += basis[i, a] * product[i, b]
    if not _cholesky(reduced, rank):
        return np.nan, 0.0
    gain = 0.0
    for i in range(rank):
        for m in range(i):
            step[i] -= reduced[i, m] * step[m]
        step[i] /= reduced[i, i]
        gain += step[i] * step[i]
    for i in range(rank - 1, -1, -1):
        for m in range(i + 1, rank):
            step[i] -= reduced[m, i] * step[m]
        step[i] /= reduced[i, i]
    size = 0.0
    for i in range(whole):
        change = step[i] if rank == whole else 0.0
        for a in range(rank if rank < whole else 0):
            change += basis[i, a] * step[a]
        h[i] += change
        size = max(size, abs(change))
    if rank == whole:
        _from_factor(reduced, whole, covariance)
    else:
        small = np.empty((rank, rank))
        _from_factor(reduced, rank, small)
        for i in range(whole):
            for j in range(i + 1):
                total = 0.0
                for a in range(rank):
                    for b in range(rank):
                        total += basis[i, a] * small[a, b] * basis[j, b]
                covariance[i, j] = covariance[j, i] = total
    return size, gain


@njit(nogil=True, cache=True)
def gradient(h, linear, f, covariance, work):
    """F = (I + H)^-T and its covariance, in place of the covariance of H; to first order if ``linear``."""
    if linear:
        for i in range(3):
            for j in range(3):
                f[3 * i + j] = (1.0 if i == j else 0.0) - h[3 * j + i]
                for m in range(9):
                    work[3 * i + j, m] = covariance[3 * j + i, m]
        for i in range(3):
            for j in range(3):
                for m in range(9):
                    covariance[m, 3 * i + j] = work[m, 3 * j + i]
        return True
    a, b, c, d, e, o, g, p, q = 1.0 + h[0], h[1], h[2], h[3], 1.0 + h[4], h[5], h[6], h[7], 1.0 + h[8]
    f[0], f[1], f[2] = e * q - o * p, o * g - d * q, d * p - e * g  # cofactors
    f[3], f[4], f[5] = c * p - b * q, a * q - c * g, b * g - a * p
    f[6], f[7], f[8] = b * o - c * e, c * d - a * o, a * e - b * d
    determinant = a * f[0] + b * f[1] + c * f[2]
    if not determinant > 0.0:
        return False
    for i in range(9):
        f[i] /= determinant
    # dF = -F dH^T F, applied to both sides of the covariance.
    for _ in range(2):
        for m in range(9):
            for i in range(3):
                for u in range(3):
                    work[3 * u + i, m] = (
                        f[3 * i] * covariance[3 * u, m]
                        + f[3 * i + 1] * covariance[3 * u + 1, m]
                        + f[3 * i + 2] * covariance[3 * u + 2, m]
                    )
        for m in range(9):
            for i in range(3):
                for j in range(3):
                    # Transposed, so that the second round treats the other side.
                    covariance[m, 3 * i + j] = -(
                        work[i, m] * f[j] + work[3 + i, m] * f[3 + j] + work[6 + i, m] * f[6 + j]
                    )
    return True
