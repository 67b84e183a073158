"""Dislocations that pierce a layer: positions of their cores and Burgers vectors, from the distortion."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import product
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
from pydantic import Field
from scipy import ndimage
from scipy.stats import chi2

from dfxm_dask.errors import InputError
from dfxm_dask.reduction import Arrays, reduction
from dfxm_dask.schema import XYZ, Variable, X, Y, Z, pixel_length
from dfxm_dask.strain.lines.field_fit import CoreFit, fit_core, unit_fields
from dfxm_dask.strain.lines.loops import loop, loop_map
from dfxm_dask.strain.normal_equations import read_only
from dfxm_dask.strain.variables import DEFORMATION, DEFORMATION_COVARIANCE, INDEX, RECIPROCAL_LATTICE, XYZ2

ROW = ("dislocation",)
BORDER = 64
"""Rows of the neighbouring bands: the contours of a core, and the cores within them."""
MOST = (BORDER - 8) // 2
"""Largest half edge of a contour, pixels."""
USUAL = 12
"""Half edge of the largest contour by default, pixels (our choice)."""
SMALLEST = 3
"""Half edge of the smallest contour, pixels: the distortion near a core is limited by the resolution (our choice)."""
APART = 4
"""Least distance of two cores, pixels; nearer ones count as one dislocation."""
FIT = (2.0, 9.0)
"""Radii of the pixels for the position, pixels."""
RARE = 1e-3
"""Probability below which contours disagree, or a vector is not a lattice vector."""
AMBIGUOUS = 9.0
"""Least difference of chi-square between the nearest and the second nearest lattice vector (our choice)."""
CENTRINGS: dict[str, list[tuple[float, float, float]]] = {
    "primitive": [(0, 0, 0)],
    "bcc": [(0, 0, 0), (0.5, 0.5, 0.5)],
    "fcc": [(0, 0, 0), (0, 0.5, 0.5), (0.5, 0, 0.5), (0.5, 0.5, 0)],
}
REASONS = (
    "contour_leaves_map",
    "pixels_missing",
    "another_core_nearby",
    "contours_disagree",
    "not_a_lattice_vector",
    "several_lattice_vectors",
    "no_position",
    "too_few_contours",
    "field_differs_from_straight_line",
)
LEAVES, MISSING, OTHER, DISAGREE, OFF_LATTICE, SEVERAL, NO_POSITION, FEW, MISFIT = (1 << k for k in range(9))
LARGE = 2.0
"""chi-square per degree of freedom of the fit above which the core is flagged; its error grows in any case."""
WRITES = (
    Variable("z", ROW, "float64", "um", "position of the layer along z"),
    Variable("y", ROW, "float64", "um", "position of the core along y"),
    Variable("x", ROW, "float64", "um", "position of the core along x"),
    Variable("y_error", ROW, "float64", "um", "standard error of the position along y"),
    Variable("x_error", ROW, "float64", "um", "standard error of the position along x"),
    Variable("burgers", (*ROW, XYZ), "float64", "um", "Burgers vector (x, y, z)"),
    Variable("burgers_error", (*ROW, XYZ), "float64", "um", "standard error of the Burgers vector (x, y, z)"),
    Variable("burgers_covariance", (*ROW, XYZ, XYZ2), "float64", "um2", "covariance of the Burgers vector"),
    Variable("burgers_lattice", (*ROW, XYZ), "float64", "um", "nearest lattice vector (x, y, z)"),
    Variable("burgers_index", (*ROW, INDEX), "float64", "1", "nearest lattice vector in units of the cell"),
    Variable(
        "burgers_misfit",
        ROW,
        "float64",
        "1",
        "relative deviation of the Burgers vector from the nearest lattice vector",
    ),
    Variable(
        "burgers_chi2", ROW, "float64", "1", "squared deviation from the nearest lattice vector over the covariance"
    ),
    Variable("significance", ROW, "float64", "1", "Burgers vector within 5 pixels in standard errors"),
    Variable("contour", ROW, "float64", "um", "half edge of the largest contour"),
    Variable(
        "core_reason",
        ROW,
        "int64",
        "1",
        "reason of a missing or uncertain result",
        flags=tuple((1 << k, name) for k, name in enumerate(REASONS)),
    ),
)


def lattice_vectors(
    reciprocal_lattice: np.ndarray, structure: str, around: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Lattice vectors around a vector, and their indices in units of the cell.

    Parameters
    ----------
    reciprocal_lattice : ndarray (3, 3), 1/angstrom
    structure : "fcc", "bcc" or "primitive"
    around : ndarray (3,), um

    Returns
    -------
    ndarray (vector, 3), um, and ndarray (vector, 3)
        Without the vector of length zero.

    Examples
    --------
    >>> found, index = lattice_vectors(2 * np.pi / 4.05 * np.eye(3), "fcc", np.array([2e-4, 1.9e-4, 0.0]))
    >>> index[np.argmin(np.linalg.norm(found - [2e-4, 1.9e-4, 0], axis=1))].tolist()
    [0.5, 0.5, 0.0]
    """
    cell = 1e-4 * 2 * np.pi * np.linalg.inv(reciprocal_lattice).T
    middle = np.linalg.solve(cell, around)
    whole = np.array(list(product((-1, 0, 1, 2), repeat=3)), float)
    index = np.concatenate(
        [whole + np.floor(middle - shift) + shift for shift in np.array(CENTRINGS[structure], float)]
    )
    index = index[np.abs(index).max(axis=1) > 0]
    return index @ cell.T, index


def half_edges(parameters: Mapping[str, Any], positions: Mapping[str, np.ndarray]) -> tuple[int, np.ndarray]:
    """Half edge of the largest contour in pixels, and the signed edges (y, x) of a pixel.

    Raises
    ------
    InputError
        Pixels of unequal size; a radius that is too small or too large.
    """
    y, x = (np.asarray(positions[d], float) for d in ("y", "x"))
    size = [pixel_length(name, "dislocation_cores", axis) for name, axis in (("y", y), ("x", x))]
    steps = np.array(
        [s * np.sign(axis[-1] - axis[0]) if np.isfinite(s) else 1.0 for s, axis in zip(size, (y, x), strict=True)]
    )
    radius = parameters["radius"]
    if radius is None:
        return USUAL, steps
    largest = float(np.abs(steps).max())
    half = int(radius / largest + 1e-9)
    if not SMALLEST < half <= MOST:
        raise InputError(
            f"dislocation_cores: radius {radius:g} um",
            f"is {half} pixels of {largest:.6g} um",
            f"set a radius from {(SMALLEST + 1) * largest:.6g} to {MOST * largest:.6g} um",
        )
    return half, steps


class Layer(NamedTuple):
    """Distortion of a band of a layer, with the positions of its pixels."""

    beta: np.ndarray
    covariance: np.ndarray
    y: np.ndarray
    x: np.ndarray
    steps: np.ndarray


def find_cores(layer: Layer, least: float, false_alarms: float) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns of the cores (core, 2), and the squared significance of each, strongest first."""
    shape = layer.beta.shape[:2]
    length, ratio = np.zeros(shape), np.zeros(shape)
    loop_map(layer.beta, layer.covariance, layer.steps, (0, shape[0]), length, ratio)
    strong = (length >= least) & (ratio > chi2.isf(1e-6 * false_alarms, 3))
    if not strong.any():
        return np.zeros((0, 2)), np.zeros(0)
    score = ndimage.uniform_filter(np.where(strong, np.minimum(length, 3 * least), 0.0), 3, mode="constant")
    rows, columns = np.nonzero(strong)
    order = np.lexsort((columns, rows, -np.round(score[rows, columns] / least, 3)))
    left, out, seen = np.ones(shape, bool), [], []
    for row, column in zip(rows[order], columns[order], strict=True):
        if left[row, column]:
            near = slice(max(row - APART, 0), row + APART + 1), slice(max(column - APART, 0), column + APART + 1)
            weight = np.where(left[near] & strong[near], score[near], 0.0)
            r, c = np.mgrid[near]
            out.append(((r * weight).sum() / weight.sum(), (c * weight).sum() / weight.sum()))
            seen.append(ratio[row, column])
            left[near] = False
    return np.array(out), np.array(seen)


def _position(layer: Layer, core: np.ndarray, others: np.ndarray, poisson: float) -> CoreFit:
    """Position of one core from the pixels around it that are nearer to it than to others."""
    row, column = core
    reach = FIT[1]
    if len(others):
        reach = min(reach, max(float(np.abs(others - core).max(axis=1).min()) - 2.0, 4.0))
    rows = np.arange(max(int(row - reach), 0), min(int(row + reach) + 2, layer.y.size))
    columns = np.arange(max(int(column - reach), 0), min(int(column + reach) + 2, layer.x.size))
    r, c = np.meshgrid(rows, columns, indexing="ij")
    away = np.hypot(r - row, c - column)
    beta, covariance = layer.beta[r, c], layer.covariance[r, c]
    use = (
        (away >= FIT[0]) & (away <= reach) & np.isfinite(beta).all(axis=-1) & np.isfinite(covariance).all(axis=(-2, -1))
    )
    if use.sum() < 20:
        return fit_core(
            np.zeros((1, 3)), np.zeros((1, 9)), np.full((1, 9, 9), np.nan), np.zeros(2), np.ones(2), poisson
        )
    points = np.stack([layer.x[c[use]], layer.y[r[use]], np.zeros(use.sum())], axis=1)
    start = np.array([layer.x[0] + column * layer.steps[1], layer.y[0] + row * layer.steps[0]])
    return fit_core(points, beta[use], covariance[use], start, np.abs(layer.steps[::-1]), poisson)


def _burgers(
    layer: Layer, core: np.ndarray, others: np.ndarray, half: int, fit: CoreFit, poisson: float
) -> tuple[np.ndarray, np.ndarray, int, int]:
    """Burgers vector (um), covariance (um2), half edge of the largest contour, and reasons.

    The mean of the contours of all sizes, weighted with their covariances. The trapezoidal rule is corrected by its
    error on the fitted straight line.
    """
    row, column = (round(v) for v in core)
    reason, most = 0, half
    if len(others):
        most = min(most, int(np.abs(others - [row, column]).max(axis=1).min()) - 2)
        reason |= OTHER if most < half else 0
    inside = min(row, column, layer.y.size - 1 - row, layer.x.size - 1 - column)
    reason |= LEAVES if inside < most else 0
    most = min(most, inside)
    sense = np.sign(layer.steps[0] * layer.steps[1])
    total, spread, weight, mean = np.empty(3), np.empty((3, 3)), np.zeros((3, 3)), np.zeros(3)
    model = None
    if np.isfinite(fit.position).all():
        rows, columns = np.arange(row - most, row + most + 1), np.arange(column - most, column + most + 1)
        y, x = np.meshgrid(layer.y[rows] if most >= 0 else [], layer.x[columns] if most >= 0 else [], indexing="ij")
        shape = np.append(fit.position, fit.line[:2])
        field = np.tensordot(fit.burgers, unit_fields(np.stack([x, y, 0 * x], -1), shape, poisson), 1)
        model = field.reshape(*x.shape, 9), np.zeros((*x.shape, 9, 9), np.float32)
    found = []
    for n in range(SMALLEST, most + 1):
        if not loop(layer.beta, layer.covariance, row, column, n, layer.steps, total, spread):
            reason |= MISSING
            continue
        value, matrix = sense * total, spread + 1e-26 * np.eye(3)
        if model is not None:
            loop(*model, most, most, n, layer.steps, total, spread)
            value = value + fit.burgers - sense * total
        inverse = np.linalg.inv(matrix)
        weight, mean = weight + inverse, mean + inverse @ value
        found.append((n, value, inverse))
    if len(found) < 2:
        return np.full(3, np.nan), np.full((3, 3), np.nan), 0, reason | FEW
    covariance = np.linalg.inv(weight)
    burgers = covariance @ mean
    off = sum(float((value - burgers) @ inverse @ (value - burgers)) for _, value, inverse in found)
    freedom = 3 * (len(found) - 1)
    exact = 1e-4 * np.linalg.norm(burgers)  # below the error of the trapezoidal rule
    wide = max(float(np.linalg.norm(value - burgers)) for _, value, _ in found)
    if off > chi2.isf(RARE, freedom) and wide > exact:
        covariance = covariance * off / freedom
        reason |= DISAGREE
    return burgers, covariance, found[-1][0], reason


def _row(
    layer: Layer, core: np.ndarray, others: np.ndarray, half: int, lattice: tuple[np.ndarray, str], poisson: float
) -> Arrays:
    """One row of the table, without z and significance."""
    fit = _position(layer, core, others, poisson)
    burgers, covariance, reached, reason = _burgers(layer, core, others, half, fit, poisson)
    reason |= 0 if np.isfinite(fit.position).all() else NO_POSITION
    reason |= MISFIT if fit.misfit > LARGE else 0
    nearest, index, ratio, misfit = np.full(3, np.nan), np.full(3, np.nan), np.nan, np.nan
    if np.isfinite(burgers).all():
        vectors, indices = lattice_vectors(*lattice, burgers)
        off = vectors - burgers
        far = np.linalg.norm(off, axis=1)
        inverse = np.linalg.pinv(covariance, hermitian=True)
        ratios = np.einsum("ni,ij,nj->n", off, inverse, off)
        order = np.argsort(ratios)
        first = order[0]
        nearest, index, ratio, misfit = (
            vectors[first],
            indices[first],
            ratios[first],
            far[first] / np.linalg.norm(vectors[first]),
        )
        reason |= OFF_LATTICE if ratio > chi2.isf(RARE, 3) and misfit > 1e-3 else 0
        reason |= SEVERAL if ratios[order[1]] - ratio < AMBIGUOUS else 0
    error = np.sqrt(np.diag(fit.covariance))
    return {
        "y": fit.position[1],
        "x": fit.position[0],
        "y_error": error[1],
        "x_error": error[0],
        "burgers": burgers,
        "burgers_error": np.sqrt(np.diag(covariance)),
        "burgers_covariance": covariance,
        "burgers_lattice": nearest,
        "burgers_index": index,
        "burgers_misfit": np.asarray(misfit),
        "burgers_chi2": np.asarray(ratio),
        "contour": reached * np.abs(layer.steps).max() if reached else np.asarray(np.nan),
        "core_reason": np.asarray(reason),
    }


def _joined(first: Arrays, second: Arrays) -> Arrays:
    return {name: np.concatenate([first[name], second[name]]) for name in first}


def _finish(summary: Arrays) -> Arrays:
    """Rows in the order of z, y and x."""
    order = np.lexsort((summary["start_x"], summary["start_y"], summary["z"]))
    return {v.name: summary[v.name][order].astype(v.dtype) for v in WRITES}


@reduction(
    reads=(DEFORMATION, DEFORMATION_COVARIANCE, RECIPROCAL_LATTICE, Z, Y, X),
    writes=WRITES,
    over=("x",),
    border=BORDER,
    combine=_joined,
    finish=_finish,
    min_axes=0,
    group="dislocations",  # a table with columns z, y and x; the group strain has coordinates of these names
    fits=half_edges,
)
def dislocation_cores(
    deformation: np.ndarray,
    deformation_covariance: np.ndarray,
    reciprocal_lattice: np.ndarray,
    z: np.ndarray,
    y: np.ndarray,
    x: np.ndarray,
    *,
    inner: slice = slice(None),
    radius: Annotated[
        float | None,
        Field(
            gt=0,
            description="half edge of the largest contour; by default 12 pixels",
            json_schema_extra={"unit": "um"},
        ),
    ] = None,
    structure: Annotated[
        Literal["fcc", "bcc", "primitive"], Field(description="centring of the lattice, for its lattice vectors")
    ] = "fcc",
    false_alarms: Annotated[
        float, Field(gt=0, le=1e4, description="expected number of false cores in a million pixels of noise")
    ] = 0.01,
    least: Annotated[
        float,
        Field(ge=0, le=1, description="least Burgers vector of a core, relative to the shortest lattice vector"),
    ] = 0.4,
    poisson: Annotated[float, Field(gt=-1, lt=0.5, description="Poisson ratio of the field near a core")] = 0.34,
) -> Arrays:
    """Dislocations that pierce a layer: positions of their cores and Burgers vectors, with errors.

    A contour around a core gives its Burgers vector, for every character of the line and in any elastic body. Cores are
    the pixels where small contours exceed both their noise and ``least``. Two cores within 4 pixels count as one.

    Parameters
    ----------
    radius : float, um, optional
        Contours range from 3 pixels to this half edge, or to the nearest other core.
    false_alarms : float
        Sets the threshold from the covariance of the deformation gradient.
    least : float
        Default 0.4 (our choice): below the partial dislocations of fcc, 0.58.
    poisson : float
        The position follows from the field of an isotropic body; the Burgers vector hardly depends on it.

    Returns
    -------
    dict
        One row for each core, in the order of z, y and x. The Burgers vector belongs to the line direction with
        positive z. Where contours disagree or the field is not that of a straight line, errors grow with the misfit.
        NaN where the data determine no position or no Burgers vector. Pixels without a covariance show no core.

    Raises
    ------
    InputError
        Pixels of unequal size, or a radius that is too small or too large.

    Notes
    -----
    With the distortion beta = F - I, the covariance S_n of the contour n, and its trapezoidal sum c_n::

        b = (Σ S_n^-1)^-1 Σ S_n^-1 c_n,    cov(b) = (Σ S_n^-1)^-1

    Each c_n is corrected by the error of the trapezoidal rule for a straight line. The position of this line, its
    direction and Burgers vector, and a distortion linear in x and y are fitted to the pixels 2 to 9 pixels from the
    core. Errors assume that the errors of pixels are independent.

    References
    ----------
    J. P. Hirth and J. Lothe, Theory of Dislocations (1982), chapters 1 and 3.

    Examples
    --------
    >>> import dfxm_dask
    >>> reflections = dfxm_dask.example_reflections()
    >>> found = dfxm_dask.deformation(reflections).assign(reciprocal_lattice=reflections["reciprocal_lattice"])
    >>> table = dfxm_dask.dislocation_cores.gather(found, radius=0.6)
    >>> table["burgers_index"].values.tolist()
    [[0.5, 0.5, 0.0], [0.5, 0.5, 0.0], [0.5, 0.5, 0.0]]

    The kernel alone, on one layer without a dislocation:

    >>> perfect, side = np.tile(np.eye(3), (16, 16, 1, 1)), 0.1 * np.arange(16)
    >>> covariance = np.zeros((16, 16, 9, 9), np.float32)
    >>> alone = dislocation_cores.kernel(perfect, covariance, 1.55 * np.eye(3), np.array(0.0), side, side)
    >>> dislocation_cores.finish(alone)["y"].size
    0
    """
    half, steps = half_edges({"radius": radius}, {"y": y, "x": x})
    beta = np.array(deformation, np.float64).reshape(y.size, x.size, 9)
    beta -= np.eye(3).ravel()
    layer = Layer(beta, read_only(deformation_covariance, np.float32), np.asarray(y), np.asarray(x), steps)
    vectors, _ = lattice_vectors(reciprocal_lattice, structure, np.zeros(3))
    shortest = float(np.linalg.norm(vectors, axis=1).min())
    cores, significance = find_cores(layer, least * shortest, false_alarms)
    rows = range(*inner.indices(y.size))
    rest = np.arange(len(cores))
    table = []
    for k, core in enumerate(cores):
        if round(core[0]) in rows:
            row = _row(layer, core, cores[rest != k], half, (reciprocal_lattice, structure), poisson)
            row["z"] = np.asarray(z)
            row["significance"] = np.sqrt(significance[k]) if np.isfinite(significance[k]) else np.asarray(np.nan)
            row["start_y"], row["start_x"] = y[0] + core[0] * steps[0], x[0] + core[1] * steps[1]
            table.append(row)
    shapes: dict[str, tuple[int, ...]] = {v.name: (3,) * (len(v.dims) - 1) for v in WRITES} | {
        "start_y": (),
        "start_x": (),
    }
    return {
        name: np.array([row[name] for row in table], np.float64).reshape(len(table), *shape)
        for name, shape in shapes.items()
    }
