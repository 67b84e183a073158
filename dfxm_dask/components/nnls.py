"""Non-negative least squares of many curves in a few components, exact."""

from __future__ import annotations

import numpy as np
from numba import njit

LEAST_PIVOT = 1e-12
"""Least share of its square by which a component must differ from those chosen before (our choice)."""


@njit(nogil=True, cache=True)
def _solve_chosen(cross, target, chosen, factor, solution):
    """Least squares on the chosen components by Cholesky; False if one of them is a copy of the others."""
    count = 0
    for j in range(target.size):
        if chosen[j]:
            for b in range(count + 1):
                l = j if b == count else np.int64(factor[b, target.size])  # noqa: E741
                total = cross[j, l]
                for c in range(b):
                    total -= factor[count, c] * factor[b, c]
                if b < count:
                    factor[count, b] = total / factor[b, b]
                elif total <= LEAST_PIVOT * cross[j, j]:
                    return False
                else:
                    factor[count, count] = np.sqrt(total)
            factor[count, target.size] = j
            count += 1
    for a in range(count):
        total = target[np.int64(factor[a, target.size])]
        for c in range(a):
            total -= factor[a, c] * factor[c, target.size + 1]
        factor[a, target.size + 1] = total / factor[a, a]
    solution[:] = 0.0
    for a in range(count - 1, -1, -1):
        total = factor[a, target.size + 1]
        for c in range(a + 1, count):
            total -= factor[c, a] * solution[np.int64(factor[c, target.size])]
        solution[np.int64(factor[a, target.size])] = total / factor[a, a]
    return True


@njit(nogil=True, cache=True)
def nonnegative_of_pixel(cross, target, result, chosen, refused, trial, factor):
    """Find the non-negative c that minimises ½ cᵀ cross c − targetᵀ c: active sets of Lawson and Hanson.

    Parameters
    ----------
    cross : array (component, component), float64
        Products of the components with each other.
    target : array (component,), float64
        Products of the components with the curve; a NaN makes the result NaN.
    result : array (component,), float64
        Output.
    chosen, refused : array (component,), bool
    trial : array (component,), float64
    factor : array (component, component + 2), float64
        Work space.
    """
    count = target.size
    most = 0.0
    for j in range(count):
        if target[j] - target[j] != 0:
            result[:] = np.nan
            return
        most = max(most, abs(target[j]))
        chosen[j], refused[j], result[j] = False, False, 0.0
    # Try all components first: if no coefficient is negative, as in most pixels, that is the solution.
    chosen[:] = True
    if _solve_chosen(cross, target, chosen, factor, trial):
        least = 0.0
        for j in range(count):
            least = min(least, trial[j])
        if least >= 0:
            result[:] = trial
            return
    chosen[:] = False
    for _ in range(3 * count + 10):
        best, entering = 1e-13 * most, -1
        for j in range(count):
            if not chosen[j] and not refused[j]:
                slope = target[j]
                for l in range(count):  # noqa: E741
                    slope -= cross[j, l] * result[l]
                if slope > best:
                    best, entering = slope, j
        if entering < 0:
            return
        chosen[entering] = True
        while True:
            if not _solve_chosen(cross, target, chosen, factor, trial):
                chosen[entering], refused[entering] = False, True
                break
            part, stop = 1.0, -1
            for j in range(count):
                if chosen[j] and trial[j] <= 0:
                    here = result[j] / (result[j] - trial[j]) if result[j] > trial[j] else 0.0
                    if here < part or stop < 0:
                        part, stop = here, j
            if stop < 0:
                result[:] = trial
                refused[:] = False
                break
            if stop == entering and result[entering] == 0:  # rounding: its slope was zero
                chosen[entering], refused[entering] = False, True
                break
            for j in range(count):
                if chosen[j]:
                    result[j] += part * (trial[j] - result[j])
            for j in range(count):
                if chosen[j] and (j == stop or result[j] <= 0):
                    chosen[j], result[j] = False, 0.0


@njit(nogil=True, cache=True)
def _all_pixels(cross, targets, result):
    """Non-negative least squares of all pixels."""
    count = cross.shape[0]
    chosen, refused = np.zeros(count, np.bool_), np.zeros(count, np.bool_)
    trial, factor = np.zeros(count), np.zeros((count, count + 2))
    for p in range(targets.shape[0]):
        nonnegative_of_pixel(cross, targets[p], result[p], chosen, refused, trial, factor)


def nonnegative_coefficients(cross: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Non-negative coefficients of every curve with the least sum of squared residuals.

    Parameters
    ----------
    cross : array (component, component), float64
        Products of the components with each other, B Bᵀ.
    targets : array (pixel, component), float64
        Products of the curves with the components, X Bᵀ.

    Returns
    -------
    array (pixel, component), float64
        C ≥ 0 that minimises |X − C B|²; NaN throughout where a product is NaN.

    Notes
    -----
    Exact up to rounding: the iteration ends where the Kuhn–Tucker conditions hold, C ≥ 0 and no component outside the
    chosen ones would lower the residual. A component that is a copy of others gets 0. Pixels are independent of each
    other, so that the result does not depend on the division of a layer.

    References
    ----------
    C. L. Lawson and R. J. Hanson, Solving Least Squares Problems (1974), chapter 23, algorithm NNLS; on products of
    the components as in R. Bro and S. de Jong, J. Chemometrics 11 (1997) 393.

    Examples
    --------
    >>> basis = np.array([[1.0, 0.0, 1.0], [0.0, 1.0, 1.0]])
    >>> curves = np.array([[2.0, 3.0, 5.0], [1.0, -1.0, 0.0]])
    >>> nonnegative_coefficients(basis @ basis.T, curves @ basis.T).round(6).tolist()
    [[2.0, 3.0], [0.5, 0.0]]
    """
    result = np.empty(targets.shape)
    _all_pixels(np.ascontiguousarray(cross, np.float64), np.ascontiguousarray(targets, np.float64), result)
    return result
