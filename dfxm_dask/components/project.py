"""Coefficients of every pixel in a basis: one kernel for all fits."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit

from dfxm_dask.components.curves import STEPS, STRIP, basis_variables, component, dark_level
from dfxm_dask.components.intensity_scaling import multiply_add, scale_counts, take_curves
from dfxm_dask.components.nnls import nonnegative_of_pixel
from dfxm_dask.errors import InputError
from dfxm_dask.memory import frame_lines
from dfxm_dask.reduction import Reduction, reduction
from dfxm_dask.schema import AXES, BACKGROUND, COUNTS, LIT, SPACE, Variable

TOGETHER = 32  # frames summed in float32 before they are added to a sum in float64
SAME_PLACE = 0.01  # of a step: positions that differ by less are the same (our choice)


class Treatment(NamedTuple):
    """Transformation of counts above the background: :func:`dfxm_dask.components.intensity_scaling.scale_counts`."""

    kind: int
    offset: np.float32
    step: float


class Basis(NamedTuple):
    """The basis and the matrices for its coefficients.

    Attributes
    ----------
    mean : array (frame,), float32
        Subtracted from the curve first.
    rows : array (component, frame), float32
    solving : array (component, frame), float32
        Factor of the curves: the rows themselves for non-negative coefficients, otherwise the pseudo-inverse.
    cross : array (component, component), float64
        Products of the rows.
    nonnegative : bool
    """

    mean: np.ndarray
    rows: np.ndarray
    solving: np.ndarray
    cross: np.ndarray
    nonnegative: bool


@njit(nogil=True, cache=True)
def _subtract(curves, step, mean):
    """Convert steps to transformed curves and subtract their mean, in place."""
    for frame in range(curves.shape[0]):
        negative = -mean[frame]
        for n in range(curves.shape[1]):
            curves[frame, n] = multiply_add(curves[frame, n], step, negative)


@njit(nogil=True, cache=True)
def _products(curves, basis, part, products):
    """Products of curves with a basis, in the order of the frames: sums of 32 in float32, added in float64."""
    for k in range(basis.shape[0]):
        products[k, :] = 0.0
        for first in range(0, curves.shape[0], TOGETHER):
            part[:] = np.float32(0)
            for frame in range(first, min(first + TOGETHER, curves.shape[0])):
                factor = basis[k, frame]
                for n in range(part.size):
                    part[n] = multiply_add(factor, curves[frame, n], part[n])
            for n in range(part.size):
                products[k, n] += np.float64(part[n])


@njit(nogil=True, cache=True)
def _leave(curves, basis, coefficient, part, square):
    """Sums of squares of the residual of curves."""
    square[:] = 0.0
    for frame in range(curves.shape[0]):
        for n in range(part.size):
            part[n] = curves[frame, n]
        k = 0
        while k < basis.shape[0]:  # the usual three components share one loop, in half the time
            if k + 3 <= basis.shape[0]:
                a, b, c = -basis[k, frame], -basis[k + 1, frame], -basis[k + 2, frame]
                for n in range(part.size):
                    left = multiply_add(a, coefficient[k, n], part[n])
                    left = multiply_add(b, coefficient[k + 1, n], left)
                    part[n] = multiply_add(c, coefficient[k + 2, n], left)
                k += 3
            else:
                a = -basis[k, frame]
                for n in range(part.size):
                    part[n] = multiply_add(a, coefficient[k, n], part[n])
                k += 1
        for n in range(part.size):
            square[n] += np.float64(part[n] * part[n])


@njit(nogil=True, cache=True)
def _make_nonnegative(cross, products):
    """Replace products with the basis by the best non-negative coefficients, in place."""
    count = cross.shape[0]
    chosen, refused = np.zeros(count, np.bool_), np.zeros(count, np.bool_)
    trial, factor = np.zeros(count), np.zeros((count, count + 2))
    target, solved = np.zeros(count), np.zeros(count)
    for n in range(products.shape[1]):
        for k in range(count):
            target[k] = products[k, n]
        nonnegative_of_pixel(cross, target, solved, chosen, refused, trial, factor)
        for k in range(count):
            products[k, n] = solved[k]


@njit(nogil=True, cache=True)
def _project_layer(lines, columns, level, used, treatment, basis, strip, coefficient, residual):
    """Compute coefficients and residual of used pixels, `strip` of them at a time."""
    line, starts, row_step = lines
    pixels, count = residual.size, basis.rows.shape[0]
    curves, part = np.empty((starts.size, strip), np.float32), np.empty(strip, np.float32)
    products, rounded, square = np.empty((count, strip)), np.empty((count, strip), np.float32), np.empty(strip)
    offsets, dark, where = np.empty(strip, np.int64), np.empty(strip, np.float32), np.empty(strip, np.int64)
    first = row = 0
    while first < pixels:
        filled = 0
        while first < pixels and filled < strip:
            if first >= (row + 1) * columns:
                row += 1
            if used[first]:
                offsets[filled] = first + row * (row_step - columns)
                dark[filled], where[filled] = level[first], first
                filled += 1
            first += 1
        if filled == 0:
            break
        curves[:, filled:] = np.float32(0)
        take_curves(line, starts, offsets[:filled], dark[:filled], curves)
        scale_counts(curves.ravel(), treatment.kind, treatment.offset, treatment.step)
        _subtract(curves, np.float32(treatment.step), basis.mean)
        _products(curves, basis.solving, part, products)
        if basis.nonnegative:
            _make_nonnegative(basis.cross, products)
        for k in range(count):
            for n in range(strip):
                rounded[k, n] = np.float32(products[k, n])
        _leave(curves, basis.rows, rounded, part, square)
        for n in range(filled):
            residual[where[n]] = np.sqrt(square[n] / starts.size)
            for k in range(count):
                coefficient[k, where[n]] = rounded[k, n]


def _check_grid(name: str, method: str, scan: dict[str, np.ndarray], grid: dict[str, np.ndarray]) -> None:
    """Refuse a scan whose frames have other positions than those of the fitted scan.

    Raises
    ------
    InputError
        Positions differ by more than :data:`SAME_PLACE`.
    """
    here = np.meshgrid(*(np.asarray(p, float) for p in scan.values()), indexing="ij")
    for (axis, positions), at in zip(scan.items(), here, strict=True):
        steps = np.abs(np.diff(positions))
        allowed = SAME_PLACE * (float(np.median(steps)) if steps.size else 0.0) + 1e-9
        fitted = grid[axis]
        if fitted.shape != at.shape or not (np.abs(fitted - at) <= allowed).all():
            finite = fitted[np.isfinite(fitted)]
            span = f"{finite.min():.6g} to {finite.max():.6g}" if finite.size else "nothing"
            raise InputError(
                f"{name}: the basis of {method}",
                f"was fitted to other frames: {axis} {span}, not {positions.min():.6g} to {positions.max():.6g} in"
                f" {positions.size} positions",
                "fit it to this scan, or use a scan with the same positions",
            )


_TEXT = """Coefficients of every rocking curve in the basis of :func:`{method}`, and their residual.

Counts are treated as in the fit: the same background, the same transformation, the same frames. Each pixel is then
projected onto the basis by least squares, independently of all others. The residual shows where the basis fails.

Parameters
----------
counts : array (y, x, scan axes), uint16 or float32, count
    All frames must be on one scale.
mean : array (scan axes), float64
    Subtracted from the transformed curve first.
background_map : array (y, x), float32, count, optional
    Required if, and only if, the fit had one.
lit : array (y, x), bool, optional
    By default all pixels are projected.

Returns
-------
dict
    The residual is the root mean square over frames. NaN where unlit, or where a count is not finite.

Raises
------
InputError
    The frames differ from those of the fit by more than 1/100 of a step, or the background is of another kind.

Notes
-----
With J the transformed curve minus the mean, B the basis and c the coefficients::

    minimise |J − Bᵀ c|²
    c = (B Bᵀ)⁻¹ B J

which is c = B J for orthonormal curves; if the fit requires it, the best c ≥ 0. There are no parameters: scaling and
background are those of the fit. Products are in float32, sums of up to 32 frames as well, and all further sums in
float64; the residual is computed from the difference of curves, not from squares that nearly cancel.

References
----------
C. L. Lawson and R. J. Hanson, Solving Least Squares Problems (1974), chapter 23, for non-negative coefficients.

Examples
--------
>>> import dfxm_dask
>>> scan = dfxm_dask.example_scan()
>>> data = scan.merge(dfxm_dask.local_peak(scan, background=100))
>>> data = data.merge(dfxm_dask.{method}(data, background=100))
>>> maps = dfxm_dask.project_{method}(data)
>>> maps["{method}_coefficient"].dims
('z', '{method}_component', 'y', 'x')

The kernel alone, on one layer:

>>> phi = np.arange(3.0)
>>> counts = np.array([[[3, 4, 1]]], np.uint16)
>>> basis, scaling = np.array([[0.6, 0.8, 0.0]]), np.array([2.0, 0.0, 0.0, 0.0])
>>> maps = project_{method}.kernel(counts, {{"phi": phi}}, basis, np.zeros(3), scaling, {{"phi": phi}})
>>> round(maps["{method}_coefficient"].item(), 4), round(maps["{method}_residual"].item(), 4)
(5.0, 0.5774)
"""


def projection(method: str) -> Reduction:
    """The projection onto the basis of a fit, named ``project_<method>``."""
    name = f"project_{method}"
    coefficient = Variable(
        f"{method}_coefficient",
        ("z", component(method), "y", "x"),
        "float32",
        "1",
        f"coefficients of the transformed curve in the {method} basis",
    )
    residual = Variable(
        f"{method}_residual", SPACE, "float32", "1", f"rms residual of the transformed curve in the {method} basis"
    )

    def kernel(
        counts: np.ndarray,
        scan: dict[str, np.ndarray],
        basis: np.ndarray,
        mean: np.ndarray,
        scaling: np.ndarray,
        grid: dict[str, np.ndarray],
        background_map: np.ndarray | None = None,
        lit: np.ndarray | None = None,
    ) -> dict[str, np.ndarray]:
        _check_grid(name, method, scan, grid)
        shape = counts.shape[:2]
        level = dark_level(name, scaling, background_map, shape)
        maps = np.full((len(basis), *shape), np.nan, np.float32)
        left = np.full(shape, np.nan, np.float32)
        rows = np.ascontiguousarray(basis.reshape(len(basis), -1), np.float64)
        if counts.size and np.isfinite(rows).all():
            cross, nonnegative = rows @ rows.T, bool(scaling[3])
            solving = rows if nonnegative else np.linalg.pinv(cross, hermitian=True) @ rows
            code = int(scaling[0])
            used = np.isfinite(level) if lit is None else np.isfinite(level) & lit
            lines = frame_lines(counts)
            _project_layer(
                lines,
                shape[1],
                level.ravel(),
                used.ravel(),
                Treatment(code, np.float32(scaling[1]), STEPS[code]),
                Basis(
                    mean.ravel().astype(np.float32),
                    rows.astype(np.float32),
                    solving.astype(np.float32),
                    cross,
                    nonnegative,
                ),
                max(64, min(STRIP, 2**17 // lines.starts.size)),
                maps.reshape(len(basis), -1),
                left.reshape(-1),
            )
        return {coefficient.name: maps, residual.name: left}

    kernel.__name__ = kernel.__qualname__ = name
    kernel.__doc__ = _TEXT.format(method=method)
    return reduction(
        reads=(COUNTS, AXES, *basis_variables(method)),
        may_read=(BACKGROUND, LIT),
        writes=(coefficient, residual),
        over=("scan",),
        positions="common",
    )(kernel)


project_gram_schmidt = projection("gram_schmidt")
project_pca = projection("pca")
project_nmf = projection("nmf")
project_nica = projection("nica")
