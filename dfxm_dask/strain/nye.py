"""Dislocation density: the Nye tensor, from the curl of the distortion."""

from __future__ import annotations

from collections.abc import Mapping
from math import lgamma
from typing import Annotated, Any, Literal

import numpy as np
from numba import njit
from pydantic import Field

from dfxm_dask.errors import InputError
from dfxm_dask.reduction import reduction
from dfxm_dask.schema import SPACE, Variable, X, Y, Z, pixel_length
from dfxm_dask.strain.normal_equations import inverse_symmetric, read_only
from dfxm_dask.strain.variables import (
    DEFORMATION,
    DEFORMATION_COVARIANCE,
    DENSITY,
    DENSITY_FLOOR,
    NYE,
    NYE_ERROR,
    RECIPROCAL_LATTICE,
)

BORDER = 12
"""Rows of the neighbouring bands; the Gaussian weights end at three standard deviations within them."""
NO_DEFORMATION, NO_NEIGHBOUR, ONE_LAYER = 1, 2, 4
SHORTEST = {"fcc": 0.5 * np.array([1.0, 1, 0]), "bcc": 0.5 * np.array([1.0, 1, 1])}
"""Shortest Burgers vector in units of the cell."""
CUBIC = 0.01
"""Largest relative deviation of a cubic cell (our choice)."""


def burgers_length(reciprocal_lattice: np.ndarray, structure: str, burgers: float | None) -> float:
    """Length of the Burgers vector, um: the given one, or the shortest of a cubic lattice.

    Raises
    ------
    InputError
        The lattice is not cubic and no length is given.

    Examples
    --------
    >>> round(burgers_length(2 * np.pi / 4.05 * np.eye(3), "fcc", None), 8)
    0.00028638
    """
    if burgers is not None:
        return burgers
    metric = np.asarray(reciprocal_lattice).T @ reciprocal_lattice
    size = np.trace(metric) / 3
    if not np.abs(metric - size * np.eye(3)).max() <= CUBIC * size:
        raise InputError(
            "dislocation_density: parameter 'burgers'",
            "is not given, and the lattice is not cubic",
            "give the length of the Burgers vector in um, such as burgers=0.000286",
        )
    return float(1e-4 * 2 * np.pi / np.sqrt(size) * np.linalg.norm(SHORTEST[structure]))


def reach(parameters: Mapping[str, Any], positions: Mapping[str, np.ndarray]) -> tuple[int, int]:
    """Pixels along y and x over which the derivative is smoothed.

    Raises
    ------
    InputError
        Pixels of unequal size, or a scale that needs more rows than the border has.
    """
    scale = parameters["scale"]
    if scale == 0:
        return 0, 0
    steps = [pixel_length(d, "dislocation_density", np.asarray(positions[d])) for d in ("y", "x")]
    pixels = [int(np.ceil(3 * scale / step)) if np.isfinite(step) else 0 for step in steps]
    if pixels[0] > BORDER:
        raise InputError(
            f"dislocation_density: scale {scale:g} um",
            f"needs {pixels[0]} rows of {steps[0]:.6g} um on each side, at most {BORDER} are available",
            f"set a scale of at most {BORDER * steps[0] / 3:.6g} um",
        )
    return pixels[0], pixels[1]


@reduction(
    reads=(DEFORMATION, DEFORMATION_COVARIANCE, RECIPROCAL_LATTICE, Z, Y, X),
    writes=(
        NYE,
        NYE_ERROR,
        DENSITY,
        DENSITY_FLOOR,
        Variable(
            "nye_reason",
            SPACE,
            "uint8",
            "1",
            "reason of missing components of the Nye tensor",
            flags=(
                (NO_DEFORMATION, "deformation_missing"),
                (NO_NEIGHBOUR, "neighbouring_pixel_missing"),
                (ONE_LAYER, "neighbouring_layer_missing"),
            ),
        ),
    ),
    over=("x",),
    halo=1,
    border=BORDER,
    min_axes=0,
    fits=reach,
)
def dislocation_density(
    deformation: np.ndarray,
    deformation_covariance: np.ndarray,
    reciprocal_lattice: np.ndarray,
    z: np.ndarray,
    y: np.ndarray,
    x: np.ndarray,
    *,
    middle: int = 0,
    inner: slice = slice(None),
    scale: Annotated[
        float,
        Field(
            ge=0,
            description="standard deviation of the Gaussian weights of a derivative; 0 uses adjacent pixels",
            json_schema_extra={"unit": "um"},
        ),
    ] = 0.0,
    structure: Annotated[
        Literal["fcc", "bcc"], Field(description="cubic lattice, for the length of its shortest Burgers vector")
    ] = "fcc",
    burgers: Annotated[
        float | None,
        Field(
            gt=1e-5,
            lt=0.01,
            description="length of the Burgers vector; by default from the lattice",
            json_schema_extra={"unit": "um"},
        ),
    ] = None,
) -> dict[str, np.ndarray]:
    """Nye tensor and lower bound of the dislocation density, with the density that noise alone causes.

    A component needs derivatives along two axes. A single layer has no derivative along z and determines only the
    components of the third column: dislocation lines that pierce the layer. Components without all derivatives are NaN.

    Parameters
    ----------
    scale : float, um
        Noise decreases with the square of the scale; dislocations of opposite sign within the scale cancel. The
        derivative along z is smoothed within the layers only.

    Returns
    -------
    dict
        ``density`` and ``density_floor`` of the components that are determined. A density is significant where it
        exceeds the floor severalfold: noise alone scatters about the floor.

    Raises
    ------
    InputError
        Pixels of unequal size, a scale that is too large, or a lattice that is not cubic without ``burgers``.

    Notes
    -----
    With the distortion beta = F - I, the alternating tensor eps and the sum over k, l::

        nye_ij = Σ eps_jkl d(beta_il)/dx_k,    density = sqrt(Σ nye_ij²) / b

    The integral of nye_ij over an area with normal j is component i of the sum of the Burgers vectors of all lines that
    pierce the area: the closed integral of beta along its edge, counter-clockwise about j. Derivatives are the slopes
    of parabolas through adjacent pixels and layers (of a straight line at edges), or of planes fitted with Gaussian
    weights. Errors assume that the errors of pixels are independent. The floor is the mean of sqrt(Σ nye_ij²) / b for
    Gaussian errors, with S the covariance of the components (Satterthwaite's approximation)::

        floor = sqrt(2 tr(S) / n) Γ((n + 1)/2) / Γ(n/2) / b,    n = tr(S)² / tr(S²)

    The density is a lower bound because lines of opposite sign within a pixel cancel, and because of the norm.

    References
    ----------
    J. F. Nye, Acta Metall. 1 (1953) 153; W. Pantleon, Scr. Mater. 58 (2008) 994.

    Examples
    --------
    >>> import dfxm_dask
    >>> reflections = dfxm_dask.example_reflections()
    >>> found = dfxm_dask.deformation(reflections).assign(reciprocal_lattice=reflections["reciprocal_lattice"])
    >>> maps = dfxm_dask.dislocation_density(found)
    >>> bool(maps["density"].isel(z=1)[7:9, 7:9].mean() > 10 * maps["density_floor"].mean())
    True

    The kernel alone, on one layer: a lattice that bends by 1 mrad/um about z along x.

    >>> bent, side = np.tile(np.eye(3), (1, 5, 5, 1, 1)), np.arange(5.0)
    >>> bent[..., 1, 0], bent[..., 0, 1] = 1e-3 * side, -1e-3 * side
    >>> covariance = np.zeros((1, 5, 5, 9, 9), np.float32)
    >>> alone = dislocation_density.kernel(bent, covariance, np.eye(3), np.zeros(1), side, side, burgers=2.86e-4)
    >>> alone["nye"][2, 2].round(9).tolist()
    [[nan, nan, -0.001], [nan, nan, 0.0], [nan, nan, 0.0]]
    """
    high, wide = reach({"scale": scale}, {"y": y, "x": x})
    rows = range(*inner.indices(y.size))
    shape = (len(rows), x.size)
    tensor, error = np.full((*shape, 9), np.nan), np.full((*shape, 9), np.nan, np.float32)
    density, floor = (np.full(shape, np.nan, np.float32) for _ in range(2))
    reason = np.zeros(shape, np.uint8)
    whole = deformation.shape[:3]
    _nye(
        read_only(deformation, np.float64).reshape(*whole, 9),
        read_only(deformation_covariance, np.float32),
        tuple(read_only(values, np.float64) for values in (z, y, x)),
        (middle, rows.start, high, wide, float(scale)),
        burgers_length(reciprocal_lattice, structure, burgers),
        (tensor, error, density, floor, reason),
    )
    return {
        NYE.name: tensor.reshape(*shape, 3, 3),
        NYE_ERROR.name: error.reshape(*shape, 3, 3),
        DENSITY.name: density,
        DENSITY_FLOOR.name: floor,
        "nye_reason": reason,
    }


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
    n, z = at[0], places[0]
    lower, upper = max(n - 1, 0), min(n + 1, z.size - 1)
    # A layer counts if it has the pixel itself.
    back = lower < n and _usable(beta, have, lower, at[1], at[2])
    ahead = upper > n and _usable(beta, have, upper, at[1], at[2])
    known[2], before, same, after = _slope(z[lower], z[n], z[upper], back, ahead)
    for layer, share in ((lower, before), (n, same), (upper, after)):
        if share != 0.0:
            count, good = _plane(beta, have, at, layer, places, size, points, weights, count, known, share)
            known[2] = known[2] and good
    return count


@njit(nogil=True, cache=True)
def _accumulate(beta, covariance, points, weights, count, have, alpha, spread):
    """Nye tensor (9) and its covariance (9, 9) from a stencil; missing components count as zero."""
    alpha[:] = 0.0
    spread[:, :] = 0.0
    cross, half = np.zeros((3, 3)), np.empty((3, 3))
    for n in range(count):
        layer, row, column = points[n, 0], points[n, 1], points[n, 2]
        wx, wy, wz = weights[n, 0], weights[n, 1], weights[n, 2]
        # eps_jkl w_k
        cross[0, 1], cross[0, 2], cross[1, 2] = -wz, wy, -wx
        cross[1, 0], cross[2, 0], cross[2, 1] = wz, -wy, wx
        for i in range(3):
            for j in range(3):
                for k in range(3):
                    if have[3 * i + k]:
                        unit = 1.0 if i == k else 0.0
                        alpha[3 * i + j] += cross[j, k] * (beta[layer, row, column, 3 * i + k] - unit)
            for m in range(i + 1):
                for j in range(3):
                    for k in range(3):
                        half[j, k] = 0.0
                        for p in range(3):
                            if have[3 * i + p] and have[3 * m + k]:
                                half[j, k] += cross[j, p] * covariance[layer, row, column, 3 * i + p, 3 * m + k]
                for j in range(3):
                    for q in range(3):
                        total = half[j, 0] * cross[q, 0] + half[j, 1] * cross[q, 1] + half[j, 2] * cross[q, 2]
                        spread[3 * i + j, 3 * m + q] += total
                        if i != m:
                            spread[3 * m + q, 3 * i + j] += total


@njit(nogil=True, cache=True)
def _nye(beta, covariance, places, how, burgers, out):
    middle, first, high, wide, scale = how
    tensor, error, density, floor, reason = out
    most = max(9, 4 * (2 * high + 1) * (2 * wide + 1))
    points, weights = np.empty((most, 3), np.int64), np.empty((most, 3))
    have, known, complete = np.empty(9, np.bool_), np.empty(3, np.bool_), np.empty(9, np.bool_)
    alpha, spread = np.empty(9), np.empty((9, 9))
    for y in range(tensor.shape[0]):
        for x in range(tensor.shape[1]):
            at = (middle, y + first, x)
            some = False
            for c in range(9):
                have[c] = np.isfinite(beta[middle, y + first, x, c])
                some = some or have[c]
            if not some:
                reason[y, x] = NO_DEFORMATION
                continue
            if scale > 0.0:
                count = _smoothed(beta, have, at, places, (high, wide, scale), points, weights, known)
            else:
                count = _adjacent(beta, have, at, places, points, weights, known)
            _accumulate(beta, covariance, points, weights, count, have, alpha, spread)
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
