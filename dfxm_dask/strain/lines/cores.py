"""Dislocations that pierce a layer: positions of their cores and Burgers vectors, from the distortion."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import product
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field
from scipy.stats import chi2

from dfxm_dask.errors import InputError
from dfxm_dask.reduction import Arrays, reduction
from dfxm_dask.schema import XYZ, Variable, X, Y, Z, pixel_length
from dfxm_dask.strain.lines.contours import MISFIT, NO_POSITION, OFF_LATTICE, RARE, REASONS, SEVERAL, contour_burgers
from dfxm_dask.strain.lines.field_fit import CoreFit, fit_core
from dfxm_dask.strain.lines.search import Layer, find_cores
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
FIT = (2.0, 9.0, 0.75)
"""Radii of the pixels for the position, pixels, and the outer one as a part of the half edge of the largest contour."""
AMBIGUOUS = 9.0
"""Least difference of chi-square between the nearest and the second nearest lattice vector (our choice)."""
CENTRINGS: dict[str, list[tuple[float, float, float]]] = {
    "primitive": [(0, 0, 0)],
    "bcc": [(0, 0, 0), (0.5, 0.5, 0.5)],
    "fcc": [(0, 0, 0), (0, 0.5, 0.5), (0.5, 0, 0.5), (0.5, 0.5, 0)],
}
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


def half_edges(parameters: Mapping[str, Any], positions: Mapping[str, np.ndarray]) -> tuple[int, int, np.ndarray]:
    """Half edges of the smallest and the largest contour in pixels, and the signed edges (y, x) of a pixel.

    Raises
    ------
    InputError
        Pixels of unequal size; a radius that is too small or too large, or not larger than ``nearest``.
    """
    y, x = (np.asarray(positions[d], float) for d in ("y", "x"))
    size = [pixel_length(name, "dislocation_cores", axis) for name, axis in (("y", y), ("x", x))]
    steps = np.array(
        [s * np.sign(axis[-1] - axis[0]) if np.isfinite(s) else 1.0 for s, axis in zip(size, (y, x), strict=True)]
    )
    radius, nearest, largest = parameters["radius"], parameters["nearest"], float(np.abs(steps).max())
    half = USUAL if radius is None else int(radius / largest + 1e-9)
    if not SMALLEST < half <= MOST:
        raise InputError(
            f"dislocation_cores: radius {radius:g} um",
            f"is {half} pixels of {largest:.6g} um",
            f"set a radius from {(SMALLEST + 1) * largest:.6g} to {MOST * largest:.6g} um",
        )
    first = max(SMALLEST, int(np.ceil(nearest / largest - 1e-9)))
    if first + 4 > max(FIT[1], FIT[2] * half):
        raise InputError(
            f"dislocation_cores: nearest {nearest:g} um",
            f"leaves too few pixels within {FIT[2]} of the radius {half * largest:.6g} um",
            f"set a radius from {np.ceil((first + 4) / FIT[2]) * largest:.6g} to {MOST * largest:.6g} um",
        )
    return first, half, steps


def _position(layer: Layer, core: np.ndarray, others: np.ndarray, halves: tuple[int, int], poisson: float) -> CoreFit:
    """Position of one core from the pixels around it that are nearer to it than to others."""
    row, column = core
    reach, least = max(FIT[1], FIT[2] * halves[1]), FIT[0] if halves[0] == SMALLEST else float(halves[0])
    if len(others):
        reach = min(reach, max(float(np.abs(others - core).max(axis=1).min()) - 2.0, 4.0))
    rows = np.arange(max(int(row - reach), 0), min(int(row + reach) + 2, layer.y.size))
    columns = np.arange(max(int(column - reach), 0), min(int(column + reach) + 2, layer.x.size))
    r, c = np.meshgrid(rows, columns, indexing="ij")
    away = np.hypot(r - row, c - column)
    beta, covariance = layer.beta[r, c], layer.covariance[r, c]
    use = (
        (away >= least) & (away <= reach) & np.isfinite(beta).all(axis=-1) & np.isfinite(covariance).all(axis=(-2, -1))
    )
    if use.sum() < 20:
        return fit_core(
            np.zeros((1, 3)), np.zeros((1, 9)), np.full((1, 9, 9), np.nan), np.zeros(2), np.ones(2), poisson
        )
    points = np.stack([layer.x[c[use]], layer.y[r[use]], np.zeros(use.sum())], axis=1)
    start = np.array([layer.x[0] + column * layer.steps[1], layer.y[0] + row * layer.steps[0]])
    return fit_core(points, beta[use], covariance[use], start, np.abs(layer.steps[::-1]), poisson)


def _row(
    layer: Layer,
    core: np.ndarray,
    others: np.ndarray,
    halves: tuple[int, int],
    lattice: tuple[np.ndarray, str],
    poisson: float,
    halo: tuple[float, float],
) -> Arrays:
    """One row of the table, without z and significance."""
    fit = _position(layer, core, others, halves, poisson)
    burgers, covariance, reached, reason = contour_burgers(layer, core, others, halves, fit, poisson, halo)
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
    nearest: Annotated[
        float,
        Field(
            ge=0,
            description="distance from the core from which on the map is used; 0: 2 pixels, contours 3 pixels",
            json_schema_extra={"unit": "um"},
        ),
    ] = 0.0,
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
    halo: Annotated[
        float,
        Field(
            ge=0,
            lt=0.5,
            description="part of the light that the camera scatters widely",
            json_schema_extra={"unit": "1"},
        ),
    ] = 0.0,
    halo_width: Annotated[
        float | None,
        Field(
            gt=0,
            description="standard deviation of this blur; by default far larger than the contours",
            json_schema_extra={"unit": "um"},
        ),
    ] = None,
) -> Arrays:
    """Dislocations that pierce a layer: positions of their cores and Burgers vectors, with errors.

    A contour around a core gives its Burgers vector, for every character of the line and in any elastic body. Cores are
    the pixels where small contours exceed both their noise and ``least``, and holes of missing pixels with such
    contours. Two cores within 4 pixels count as one.

    Parameters
    ----------
    radius : float, um, optional
        Contours range from 3 pixels to this half edge, or to the nearest other core.
    nearest : float, um
        Near a core, the height of the beam and the blur of the camera distort the map. About three times the height of
        the beam (FWHM) is enough in simulated frames.
    halo : float
        The blurred light has the field of dislocations spread over ``halo_width``: without correction, a halo of 2 %
        makes the Burgers vector 1 to 2 % too small.
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

    Each c_n is corrected by the error of the trapezoidal rule for a straight line, and divided by the part of b that
    the halo leaves within the contour. The position of this line, its direction and Burgers vector, and a distortion
    linear in x and y are fitted to the pixels from 2 pixels (or ``nearest``) to 9 pixels or three quarters of
    ``radius``. The error of the position grows with the misfit and with the scatter of tiles of 5 pixels, within which
    neighbouring pixels are correlated; the covariance of b grows with the correlation of successive contours.

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
    first, half, steps = half_edges({"radius": radius, "nearest": nearest}, {"y": y, "x": x})
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
            row = _row(
                layer,
                core,
                cores[rest != k],
                (first, half),
                (reciprocal_lattice, structure),
                poisson,
                (halo, halo_width or np.inf),
            )
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
