"""Curl of the distortion in every pixel, with its covariance, compiled."""

from __future__ import annotations

from math import lgamma

import numpy as np
from numba import njit

from dfxm_dask.strain.lines.stencils import PRODUCTS, add_columns, add_stencil, add_window, curl_of
from dfxm_dask.strain.normal_equations import inverse_symmetric

NO_DEFORMATION, NO_NEIGHBOUR, ONE_LAYER = 1, 2, 4


@njit(nogil=True, cache=True)
def _usable(beta, have, layer, row, column):
    """Whether a pixel has every component that the pixel of interest has."""
    if not (0 <= layer < beta.shape[0] and 0 <= row < beta.shape[1] and 0 <= column < beta.shape[2]):
        return False
    for c in range(have.size):
        if have[c] and not np.isfinite(beta[layer, row, column, c]):
            return False
    return True


@njit(nogil=True, cache=True)
def _slope(before, here, after, back, ahead):
    """Weights of the pixels before, here and after for the derivative at ``here``; False without a neighbour."""
    if back and ahead:
        a, b = here - before, after - here
        return True, -b / (a * (a + b)), (b - a) / (a * b), a / (b * (a + b))
    if ahead:
        return True, 0.0, -1.0 / (after - here), 1.0 / (after - here)
    if back:
        return True, -1.0 / (here - before), 1.0 / (here - before), 0.0
    return False, 0.0, 0.0, 0.0


@njit(nogil=True, cache=True)
def _put(points, weights, count, layer, row, column, axis, weight):
    """One more pixel of the stencil, or one more weight of a pixel that it contains."""
    if weight == 0.0:
        return count
    for n in range(count):
        if points[n, 0] == layer and points[n, 1] == row and points[n, 2] == column:
            weights[n, axis] += weight
            return count
    points[count, 0], points[count, 1], points[count, 2] = layer, row, column
    weights[count, :] = 0.0
    weights[count, axis] = weight
    return count + 1


@njit(nogil=True, cache=True)
def _adjacent(beta, have, at, places, points, weights, known):
    """Stencil of adjacent pixels and layers."""
    layer, row, column = at
    count = 0
    for axis in range(3):
        d = 2 - axis  # x, y, z of the tensor are the last to the first dim
        here = places[d]
        n = at[d]
        lower, upper = max(n - 1, 0), min(n + 1, here.size - 1)
        low = (lower if d == 0 else layer, lower if d == 1 else row, lower if d == 2 else column)
        high = (upper if d == 0 else layer, upper if d == 1 else row, upper if d == 2 else column)
        back = lower < n and _usable(beta, have, low[0], low[1], low[2])
        ahead = upper > n and _usable(beta, have, high[0], high[1], high[2])
        known[axis], before, same, after = _slope(here[lower], here[n], here[upper], back, ahead)
        count = _put(points, weights, count, low[0], low[1], low[2], axis, before)
        count = _put(points, weights, count, layer, row, column, axis, same)
        count = _put(points, weights, count, high[0], high[1], high[2], axis, after)
    return count


@njit(nogil=True, cache=True)
def _plane(beta, have, at, layer, places, size, points, weights, count, known, share):
    """Pixels of one layer with the weights of the mean (times ``share``, axis z) or the slopes of a plane (share 0)."""
    high, wide, scale = size
    moments = np.zeros((3, 3))
    first = count
    for row in range(at[1] - high, at[1] + high + 1):
        for column in range(at[2] - wide, at[2] + wide + 1):
            if not _usable(beta, have, layer, row, column):
                continue
            dy, dx = places[1][row] - places[1][at[1]], places[2][column] - places[2][at[2]]
            g = np.exp(-0.5 * (dy * dy + dx * dx) / (scale * scale))
            r = (1.0, dx, dy)
            for i in range(3):
                for j in range(3):
                    moments[i, j] += g * r[i] * r[j]
            points[count, 0], points[count, 1], points[count, 2] = layer, row, column
            weights[count, 0], weights[count, 1], weights[count, 2] = g, dx, dy
            count += 1
    spread_x, spread_y = moments[1, 1] > 0.0, moments[2, 2] > 0.0
    if not spread_x:
        moments[1, 1] = 1.0
    if not spread_y:
        moments[2, 2] = 1.0
    inverse = np.empty((3, 3))
    if count == first or not inverse_symmetric(moments, inverse):
        return first, False
    for n in range(first, count):
        g, dx, dy = weights[n, 0], weights[n, 1], weights[n, 2]
        for i in range(3):
            weights[n, i] = g * (inverse[i, 0] + inverse[i, 1] * dx + inverse[i, 2] * dy)
        if share == 0.0:
            weights[n, 0], weights[n, 1], weights[n, 2] = weights[n, 1], weights[n, 2], 0.0
        else:
            weights[n, 0], weights[n, 1], weights[n, 2] = 0.0, 0.0, share * weights[n, 0]
    if share == 0.0:
        known[0], known[1] = spread_x, spread_y
    return count, True


@njit(nogil=True, cache=True)
def _smoothed(beta, have, at, places, size, points, weights, known):
    """Stencil of Gaussian weights in the layer, and of the means of adjacent layers."""
    known[:] = False
    count, _ = _plane(beta, have, at, at[0], places, size, points, weights, 0, known, 0.0)
    own = count
    n, z = at[0], places[0]
    lower, upper = max(n - 1, 0), min(n + 1, z.size - 1)
    # A layer counts if it has the pixel itself.
    back = lower < n and _usable(beta, have, lower, at[1], at[2])
    ahead = upper > n and _usable(beta, have, upper, at[1], at[2])
    known[2], before, same, after = _slope(z[lower], z[n], z[upper], back, ahead)
    for layer, share in ((lower, before), (n, same), (upper, after)):
        if share != 0.0:
            first = count
            count, good = _plane(beta, have, at, layer, places, size, points, weights, count, known, share)
            known[2] = known[2] and good
            if layer == n and count == first + own:  # the same pixels as in the slopes: one error
                for m in range(own):
                    weights[m, 2] = weights[first + m, 2]
                count = first
    return count


@njit(nogil=True, cache=True)
def _finite(beta, layer, row, column):
    """Whether a pixel has all components."""
    total = 0.0
    for c in range(9):
        total += beta[layer, row, column, c]
    return np.isfinite(total)


@njit(nogil=True, cache=True)
def _difference(beta, covariance, axis, weight, first, alpha, spread):
    """Add one pixel, with its weight in the derivative along one axis, to the components of columns from ``first``.

    ``beta`` and ``covariance`` are those of the pixel. The lower half of ``spread`` is filled.
    """
    j1, j2 = (axis + 1) % 3, (axis + 2) % 3
    square = weight * weight
    for i in range(3):
        if j1 >= first:  # eps_jkl with j = k + 1 and l = k + 2
            alpha[3 * i + j1] -= weight * (beta[3 * i + j2] - (1.0 if i == j2 else 0.0))
        if j2 >= first:
            alpha[3 * i + j2] += weight * (beta[3 * i + j1] - (1.0 if i == j1 else 0.0))
        for m in range(i + 1):
            if j1 >= first:
                spread[3 * i + j1, 3 * m + j1] += square * covariance[3 * i + j2, 3 * m + j2]
                if j2 >= first:
                    spread[3 * i + j1, 3 * m + j2] -= square * covariance[3 * i + j2, 3 * m + j1]
                    spread[3 * i + j2, 3 * m + j1] -= square * covariance[3 * i + j1, 3 * m + j2]
            if j2 >= first:
                spread[3 * i + j2, 3 * m + j2] += square * covariance[3 * i + j1, 3 * m + j1]


@njit(nogil=True, cache=True)
def _whole_pixel(beta, covariance, flat, at, places, points, weights, have, known, sums, alpha, spread):
    """Nye tensor and its covariance from adjacent pixels, where the pixel has all components.

    The pixel itself has a weight only at edges and between unequal layers.
    """
    slope, product = sums
    own = False
    weights[0, :] = 0.0
    points[0, 0], points[0, 1], points[0, 2] = at
    alpha[:] = 0.0
    spread[:, :] = 0.0
    first = 2
    for d in range(3):  # z first: without it, only the third column is determined
        axis, n, here = 2 - d, at[d], places[d]
        lower, upper = max(n - 1, 0), min(n + 1, here.size - 1)
        low = (lower if d == 0 else at[0], lower if d == 1 else at[1], lower if d == 2 else at[2])
        high = (upper if d == 0 else at[0], upper if d == 1 else at[1], upper if d == 2 else at[2])
        back = lower < n and _finite(beta, low[0], low[1], low[2])
        ahead = upper > n and _finite(beta, high[0], high[1], high[2])
        known[axis], before, same, after = _slope(here[lower], here[n], here[upper], back, ahead)
        if axis == 2 and known[2]:
            first = 0
        if abs(same) > 1e-9 * (abs(before) + abs(after)):
            weights[0, axis] = same
            own = True
        if before != 0.0:
            _difference(
                beta[low[0], low[1], low[2]], covariance[low[0], low[1], low[2]], axis, before, first, alpha, spread
            )
        if after != 0.0:
            _difference(
                beta[high[0], high[1], high[2]],
                covariance[high[0], high[1], high[2]],
                axis,
                after,
                first,
                alpha,
                spread,
            )
    for i in range(9):
        for j in range(i + 1):  # blocks of one row are filled in both halves
            spread[j, i] = spread[i, j]
    if own:
        slope[:, :] = 0.0
        product[:, :] = 0.0
        add_stencil(beta, flat, points, weights, 1, 6, slope, product)
        curl_of(slope, product, have, first, alpha, spread)


@njit(nogil=True, cache=True)
def _stencil(beta, flat, at, places, size, points, weights, have, known, sums, alpha, spread):
    """Nye tensor and its covariance of a pixel from any stencil: with missing pixels or components, or at an edge."""
    slope, product = sums
    if size[2] > 0.0:
        count = _smoothed(beta, have, at, places, size, points, weights, known)
    else:
        count = _adjacent(beta, have, at, places, points, weights, known)
    slope[:, :] = 0.0
    product[:, :] = 0.0
    add_stencil(beta, flat, points, weights, count, 6 if known[2] else 3, slope, product)
    alpha[:] = 0.0
    spread[:, :] = 0.0
    curl_of(slope, product, have, 0 if known[2] else 2, alpha, spread)


@njit(nogil=True, cache=True)
def _gaussian(step, reach, scale):
    """Gaussian weights of the pixels along one axis, and the sums of the weights and of their second moments, um2."""
    weights, total, square = np.empty(2 * reach + 1), 0.0, 0.0
    for n in range(weights.size):
        d = (n - reach) * step
        weights[n] = np.exp(-0.5 * d * d / (scale * scale))
        total += weights[n]
        square += weights[n] * d * d
    return weights, total, square


@njit(nogil=True, cache=True)
def _window(beta, windows, at, places, columns, squares, have, known, sums, alpha, spread):
    """Nye tensor and its covariance of a pixel whose windows are complete; False if they are not."""
    slope, product = sums
    (_, total_y, square_y), (gauss_x, total_x, square_x), step = windows
    z, n = places[0], at[0]
    wide = gauss_x.size // 2
    if at[2] < wide or at[2] + wide >= beta.shape[2]:
        return False
    lower, upper = max(n - 1, 0), min(n + 1, z.size - 1)
    back = lower < n and _usable(beta, have, lower, at[1], at[2])
    ahead = upper > n and _usable(beta, have, upper, at[1], at[2])
    known[0], known[1] = True, True
    known[2], before, same, after = _slope(z[lower], z[n], z[upper], back, ahead)
    pairs = 6 if known[2] else 3
    slope[:, :] = 0.0
    product[:, :] = 0.0
    volume = total_x * total_y
    inverse = (1.0 / (square_x * total_y), 1.0 / (total_x * square_y), same / volume)
    add_window(columns[1], squares[1], at[2], gauss_x, step, inverse, pairs, slope, product)
    if before != 0.0:
        add_window(columns[0], squares[0], at[2], gauss_x, step, (0.0, 0.0, before / volume), pairs, slope, product)
    if after != 0.0:
        add_window(columns[2], squares[2], at[2], gauss_x, step, (0.0, 0.0, after / volume), pairs, slope, product)
    for axis in range(3):
        for c in range(9):
            if not np.isfinite(slope[axis, c]):
                return False
    alpha[:] = 0.0
    spread[:, :] = 0.0
    curl_of(slope, product, have, 0 if known[2] else 2, alpha, spread)
    return True


@njit(nogil=True, cache=True)
def nye_tensor(beta, covariance, places, how, burgers, out):
    """Nye tensor, errors, density, floor and reasons of the rows of ``out``."""
    middle, first, high, wide, scale = how
    tensor, error, density, floor, reason = out
    flat = covariance.reshape((*covariance.shape[:3], 81))
    most = max(9, 4 * (2 * high + 1) * (2 * wide + 1))
    points, weights = np.empty((most, 3), np.int64), np.empty((most, 3))
    have, known, complete = np.empty(9, np.bool_), np.empty(3, np.bool_), np.empty(9, np.bool_)
    alpha, spread = np.empty(9), np.empty((9, 9))
    sums = np.empty((3, 9)), np.empty((PRODUCTS, 81))
    smooth = high > 0 and wide > 0
    across = beta.shape[2] if smooth else 0
    columns, squares = np.empty((3, across, 2, 9)), np.empty((3, across, 3, 81))
    step_y = places[1][1] - places[1][0] if smooth else 1.0
    step_x = places[2][1] - places[2][0] if smooth else 1.0
    windows = _gaussian(step_y, high, max(scale, 1e-30)), _gaussian(step_x, wide, max(scale, 1e-30)), step_x
    for y in range(tensor.shape[0]):
        row = y + first
        whole = smooth and high <= row < beta.shape[1] - high
        if whole:
            for k in range(3):
                layer = middle + k - 1
                if 0 <= layer < beta.shape[0]:
                    add_columns(beta, flat, layer, row, windows[0][0], step_y, columns[k], squares[k])
        for x in range(tensor.shape[1]):
            at = (middle, row, x)
            some, all_of_it = False, True
            for c in range(9):
                have[c] = np.isfinite(beta[middle, row, x, c])
                some = some or have[c]
                all_of_it = all_of_it and have[c]
            if not some:
                reason[y, x] = NO_DEFORMATION
                continue
            if scale == 0.0 and all_of_it:
                _whole_pixel(beta, covariance, flat, at, places, points, weights, have, known, sums, alpha, spread)
            elif not (
                whole
                and all_of_it
                and _window(beta, windows, at, places, columns, squares, have, known, sums, alpha, spread)
            ):
                size = (high, wide, scale)
                _stencil(beta, flat, at, places, size, points, weights, have, known, sums, alpha, spread)
            if not (known[0] and known[1]):
                reason[y, x] |= NO_NEIGHBOUR
            if not known[2]:
                reason[y, x] |= ONE_LAYER
            square, trace, trace2, found = 0.0, 0.0, 0.0, False
            for i in range(3):
                for j in range(3):
                    k, p = (j + 1) % 3, (j + 2) % 3
                    there = have[3 * i + k] and have[3 * i + p]
                    if not there:
                        reason[y, x] |= NO_DEFORMATION
                    c = 3 * i + j
                    complete[c] = there and known[k] and known[p]
                    if complete[c]:
                        found = True
                        tensor[y, x, c] = alpha[c]
                        error[y, x, c] = np.sqrt(spread[c, c])
                        square += alpha[c] ** 2
            if not found:
                continue
            density[y, x] = np.sqrt(square) / burgers
            for i in range(9):
                if complete[i]:
                    trace += spread[i, i]
                    for j in range(9):
                        if complete[j]:
                            trace2 += spread[i, j] ** 2
            if trace2 > 0.0:
                n = trace * trace / trace2
                gamma = np.exp(lgamma(0.5 * (n + 1.0)) - lgamma(0.5 * n))
                floor[y, x] = np.sqrt(2.0 * trace / n) * gamma / burgers
