"""The gathering step of a volume: from points of all layers to planes, lines, Burgers vectors and junctions."""

from __future__ import annotations

from typing import Annotated, Any

import numpy as np
from pydantic import Field

from dfxm_dask.boundaries.cells import layer_cells, on_one_scale, rocking_maps
from dfxm_dask.boundaries.junction import find_junctions
from dfxm_dask.boundaries.lines.projected_lines import line_families
from dfxm_dask.boundaries.lines.spectrum import ALIASED, END_OF_RANGE, FAMILIES, OVERTONE, line_sets
from dfxm_dask.boundaries.planes.plane import Planes, in_plane
from dfxm_dask.boundaries.planes.points import SQUARE, away_from_rim, layer_peaks, layer_points
from dfxm_dask.boundaries.planes.stripes import normal_error
from dfxm_dask.boundaries.planes.uncertainty import line_errors, standard_error
from dfxm_dask.boundaries.step import FLAG
from dfxm_dask.boundaries.tables import HALVES, WRITES, empty_tables
from dfxm_dask.boundaries.vectors.burgers import step_across
from dfxm_dask.boundaries.vectors.tables import FLAG as FLAG_BURGERS
from dfxm_dask.boundaries.vectors.tables import crystal_options, give_vectors, known_crystal
from dfxm_dask.boundaries.walls import Walls, find_walls
from dfxm_dask.optics.defects.lattice import Lattice
from dfxm_dask.reduction import Arrays, reduction
from dfxm_dask.schema import (
    COM,
    DEFECTS,
    ENHANCED,
    ISOLATED,
    LIT,
    PEAK_LOCAL,
    STANDS_OUT,
    WEAK_MINUS,
    WEAK_PLUS,
    X,
    Y,
    Z,
)
from dfxm_dask.volume.align import SHIFT_X, SHIFT_Y

SINGLE = 3.0  # standard deviations of the isolated weak beam above which a pixel shows a single line (our choice)
STRIP = (1.5, 8.0)  # um from a boundary within which the peaks of both sides are compared (our choice)
OF_NORMAL = 0.5  # share of the error of a normal that directions of lines in the plane have, too (on simulated walls)
BESIDE = 2.0  # um: from a plane to the images of its lines, which in weak beam are displaced to one side (our choice)


def _joined(first: Arrays, second: Arrays) -> Arrays:
    """Combine two summaries: lists of points are concatenated, options must agree."""
    axis = {"weights": 1, "line_weights": 1}
    lists = ("points", "weights", "peaks", "line_points", "line_weights", "cells", "references")
    joined = {n: np.concatenate([first[n], second[n]], axis=axis.get(n, 0)) for n in lists}
    return joined | {n: v for n, v in first.items() if n.startswith("option_")}


def _sorted(values: np.ndarray) -> np.ndarray:
    """Order of rows that does not depend on the order of their blocks."""
    return np.lexsort(values.T)


def _finish(summary: Arrays) -> Arrays:
    """Compute the boundaries from the points of all layers."""
    order = _sorted(np.concatenate([summary["points"], summary["weights"].T], axis=1)[:, ::-1])
    points, readings = summary["points"][order], summary["weights"][:, order]
    lines = summary["line_points"], summary["line_weights"]
    order = _sorted(np.concatenate([lines[0], lines[1].T], axis=1)[:, ::-1])
    lines = lines[0][order], lines[1][:, order]
    peaks = summary["peaks"][_sorted(summary["peaks"][:, ::-1])]
    seed, replicates = int(summary["option_seed"]), int(summary["option_replicates"])
    crystal = known_crystal(summary)
    cells = on_one_scale(summary["cells"], summary["references"])
    walls = find_walls(points, readings, cells, replicates=replicates, seed=seed)
    tables = empty_tables(0 if walls is None else len(walls.model.planes.sigma), len(crystal.burgers))
    tables["candidate_burgers"] = crystal.burgers
    tables["burgers_reason"][:] = FLAG_BURGERS["no_lattice"]
    of_point = np.full(len(points), -1, np.int64)
    if walls is not None:
        best = walls.shares.argmax(axis=1)
        of_point = np.where(walls.shares.max(axis=1) > 0.5 * readings[0], best, -1)
        tables |= _planes(walls)
        for k in range(len(walls.model.planes.sigma)):
            _describe(tables, k, walls, points, readings, lines, peaks, replicates, seed)
            if len(crystal.burgers):
                give_vectors(
                    tables, k, crystal, walls.cells, along_phi=bool(summary.get("option_along_phi", False)), seed=seed
                )
        tables |= _junctions(walls, points)
    return tables | {
        "point": points,
        "point_weight": readings[0],
        "point_boundary": of_point,
        "line_point": lines[0],
        "line_point_weight": lines[1][0],
    }


def _planes(walls: Walls) -> Arrays:
    """Rows of the tables that describe planes and steps."""
    planes = walls.model.planes
    steps = [f if f is not None and not f.flags else None for f in walls.fits]
    return {
        "normal": planes.normal,
        "normal_error": np.array([normal_error(c[:2, :2]) for c in walls.covariance]),
        "offset_error": np.sqrt(walls.covariance[:, 2, 2]),
        "reason": walls.reason,
        "step": np.array([f.jump[0] if f else np.nan for f in steps]),
        "step_error": np.array([f.jump_error[0] if f else np.nan for f in steps]),
        "step_width": np.array([f.width if f else np.nan for f in steps]),
        "centre": planes.origin,
        "thickness": planes.sigma,
        "boundary_weight": planes.mass,
    }


def beside_patch(
    points: np.ndarray, normal: np.ndarray, corner: np.ndarray, near: float = BESIDE, margin: float = BESIDE
) -> np.ndarray:
    """Points near the patch of a boundary: (point,), bool.

    Parameters
    ----------
    points : array (point, xyz), um
    normal : array (xyz,)
    corner : array (vertex, xyz), um
    near, margin : float, um
        Largest distance from the plane, and from the patch along the plane.
    """
    axes = in_plane(normal)
    ring = (corner - corner[0]) @ axes.T
    away = points - corner[0]
    flat = away @ axes.T
    inside = (flat > ring.min(axis=0) - margin) & (flat < ring.max(axis=0) + margin)
    return np.asarray((np.abs(away @ normal) < near) & inside.all(axis=1))


def _describe(
    tables: Arrays,
    k: int,
    walls: Walls,
    points: np.ndarray,
    readings: np.ndarray,
    lines: tuple[np.ndarray, np.ndarray],
    peaks: np.ndarray,
    replicates: int,
    seed: int,
) -> None:
    """Write the patch, lines and jump of one boundary into its row of the tables."""
    planes = walls.model.planes
    normal, origin = planes.normal[k], planes.origin[k]
    mine = walls.shares[:, k] > 0
    own, part = points[mine], np.minimum(walls.shares[mine, k], 1.0)
    axes = in_plane(normal)
    flat = (own - origin) @ axes.T
    weight = part / part.sum()
    low, high = (
        np.array([np.interp(q, np.cumsum(weight[o]), flat[o, d]) for d, o in enumerate(np.argsort(flat, axis=0).T)])
        for q in (0.05, 0.95)
    )
    ring = np.array([[low[0], low[1]], [high[0], low[1]], [high[0], high[1]], [low[0], high[1]]])
    tables["corner"][k] = origin + ring @ axes
    if len(walls.cells):
        _give_sets(tables, k, walls.cells, normal, origin, seed)
    else:
        other_weights = [np.minimum(part * r[mine] / np.maximum(readings[0][mine], 1e-9), 1.0) for r in readings]
        if len(lines[0]):  # single lines appear apart from the wall: use those near its patch
            near = beside_patch(lines[0], normal, tables["corner"][k])
            own, other_weights = lines[0][near], [w[near] for w in lines[1]]
        _give_families(tables, k, own, other_weights, normal, replicates, seed)
    # The plane continues beyond its patch, the boundary does not.
    own = peaks[beside_patch(peaks[:, :3], normal, tables["corner"][k], STRIP[1], 0.0)]
    step = step_across(own[:, :3], own[:, 3], normal, origin, strip=STRIP, block=10.0, seed=seed)
    tables["peak_step"][k], tables["peak_step_error"][k] = step.step, step.error


def _give_sets(tables: Arrays, k: int, cells: np.ndarray, normal: np.ndarray, origin: np.ndarray, seed: int) -> None:
    """Write the lines of one boundary, from the spectrum of its strip, into its row."""
    sets = line_sets(cells[:, :8], normal, origin, tables["corner"][k], seed=seed)
    for name, values in (
        ("line", sets.line),
        ("line_error", sets.line_error),
        ("spacing", sets.spacing),
        ("gap", sets.gap),
        ("spacing_error", sets.spacing_error),
        ("spacing_overtone", sets.spacing_overtone),
        ("lines", sets.count),
        ("line_alias", sets.line_alias),
        ("spacing_alias", sets.spacing_alias),
    ):
        tables[name][k] = values
    # The fitted normal differs from the true one.
    tables["line_error"][k] = np.hypot(sets.line_error, OF_NORMAL * tables["normal_error"][k])
    for bit, name in ((OVERTONE, "overtone"), (END_OF_RANGE, "end_of_range"), (ALIASED, "aliased")):
        tables["reason"][k] |= FLAG[name] if (sets.reason & bit).any() else 0


def _give_families(
    tables: Arrays, k: int, own: np.ndarray, weights: list[np.ndarray], normal: np.ndarray, replicates: int, seed: int
) -> None:
    """Write the lines of one boundary, from points of the mask, into its row."""
    families = line_families(own, weights[0], normal, most=FAMILIES, seed=seed)
    count = len(families.spacing)
    if count:
        errors = line_errors(own, weights, normal, families, replicates=max(20, replicates // 5), seed=seed)
        for name, values in (
            ("line", families.line),
            ("spacing", families.spacing),
            ("gap", families.gap),
            ("lines", families.count),
            ("contrast", families.contrast),
            ("line_error", errors.angle),
            ("spacing_error", errors.spacing),
            ("gap_error", errors.gap),
        ):
            tables[name][k, :count] = values
        alone = tables["lines"][k, :count] < 2  # a single line has a direction but no spacing
        for name in ("spacing", "spacing_error", "gap", "gap_error"):
            tables[name][k, :count][alone] = np.nan


def _junctions(walls: Walls, points: np.ndarray) -> Arrays:
    """Rows of the tables that describe junctions."""
    planes = walls.model.planes
    junctions = find_junctions(points, walls.shares, planes)
    tables = {
        "junction_direction": np.array([j.direction for j in junctions]).reshape(-1, 3),
        "junction_point": np.array([j.point for j in junctions]).reshape(-1, 3),
        "junction_length": np.array([j.length for j in junctions]),
        "junction_kind": np.array([j.kind for j in junctions], np.int64),
        "junction_boundary": np.full((len(junctions), HALVES), -1, np.int64),
        "junction_along": np.full((len(junctions), HALVES, 3), np.nan),
        "dihedral": np.full((len(junctions), HALVES), np.nan),
        "dihedral_error": np.full((len(junctions), HALVES), np.nan),
    }
    for n, one in enumerate(junctions):
        halves = len(one.plane)

        def dihedrals(these: Planes, one: Any = one) -> np.ndarray:
            # The half planes stay on their sides; only the normals change.
            rows = these.normal[one.plane]
            rows = rows * np.sign((rows * planes.normal[one.plane]).sum(axis=1))[:, None]
            turned = np.cross(rows, one.direction)
            turned *= np.sign((turned * one.along).sum(axis=1))[:, None]
            first = one.along[0] - (one.along[0] @ one.direction) * one.direction
            second = np.cross(one.direction, first)
            azimuth = np.rad2deg(np.arctan2(turned @ second, turned @ first))
            return np.diff(azimuth, append=azimuth[0]) % 360

        tables["junction_boundary"][n, :halves] = one.plane
        tables["junction_along"][n, :halves] = one.along
        tables["dihedral"][n, :halves] = one.dihedral
        tables["dihedral_error"][n, :halves] = standard_error(dihedrals, planes, walls.drawn)
    return tables


@reduction(
    reads=(ENHANCED, DEFECTS, LIT, PEAK_LOCAL, Y, X, Z),
    may_read=(ISOLATED, WEAK_MINUS, WEAK_PLUS, COM, SHIFT_Y, SHIFT_X, STANDS_OUT),
    writes=WRITES,
    over=("y", "x"),
    combine=_joined,
    finish=_finish,
    min_axes=0,
)
def characterise_boundaries(
    weak_enhanced: np.ndarray,
    defects: np.ndarray,
    lit: np.ndarray,
    peak_local: np.ndarray,
    y: np.ndarray,
    x: np.ndarray,
    z: np.ndarray,
    weak_isolated: np.ndarray | None = None,
    weak_minus: np.ndarray | None = None,
    weak_plus: np.ndarray | None = None,
    com: dict[str, np.ndarray] | None = None,
    shift_y: np.ndarray | None = None,
    shift_x: np.ndarray | None = None,
    stands_out: np.ndarray | None = None,
    *,
    grain: Annotated[
        float,
        Field(gt=0, description="edge of the squares whose pixels become one point", json_schema_extra={"unit": "um"}),
    ] = SQUARE,
    lattice: Annotated[
        Lattice | None,
        Field(
            description="crystal: {parameter: um, x: [h, k, l], z: [h, k, l], hkl: [h, k, l]}, with the crystal"
            " directions along axes x and z; by default the crystal recorded in the store"
        ),
    ] = None,
    replicates: Annotated[int, Field(ge=10, description="number of resamples for the standard errors")] = 200,
    seed: Annotated[int, Field(ge=0, description="seed of hypotheses and resamples")] = 0,
) -> dict[str, np.ndarray]:
    """Subgrain boundaries of a volume: planes of dislocations, their lines, Burgers vectors and junctions.

    Each layer contributes the points of its defect mask with their probabilities. Planes are fitted to the points of
    all layers, as a mixture, and are refined to the surface at which the centre of mass of the rocking curve jumps, if
    the scan shows a step. Directions and spacings of the dislocation lines of a plane follow from the spectrum of
    the weak beam along it. Burgers vectors are assigned by Frank's rule from normal, lines, spacings and the measured
    step, with a probability for each candidate. Lines along which planes meet are junctions, with their dihedral
    angles.

    Parameters
    ----------
    weak_enhanced : array (y, x), float32, 1
        See :func:`dfxm_dask.beams.enhance_beams`.
    weak_isolated : array (y, x), float32, 1, optional
        See :func:`dfxm_dask.beams.isolate_lines`. Lines are detected in it, because a boundary as a whole dominates
        ``weak_enhanced``.
    com : dict of arrays (y, x), float64, optional
        A boundary is located where this map steps. Without it, boundaries are located where the weak beam is bright,
        off by about 0.5 um.
    shift_y, shift_x : array (), um, optional
        See :func:`dfxm_dask.volume.align_layers`.
    stands_out : array (y, x), bool, optional
        Points are those of this mask; ``defects`` is its narrowed part.
    grain : float, um
        Our choice: 0.5, half of the width of a line's image.
    lattice : {kind, parameter, x, z, hkl, two_theta} or {vectors, scattering_vector, two_theta}, optional
        A cubic crystal, or any list of Burgers vectors; see :class:`~dfxm_dask.optics.defects.lattice.Lattice`.
        Burgers vectors require it, g·b requires its reflection.

    Returns
    -------
    dict
        Summary of the layer: ``points`` (point, xyz), um, ``weights`` (reading, point), ``peaks`` (square, 4),
        ``line_points``, ``line_weights`` of single lines, and ``cells``, squares of 0.25 um within 4 um of the mask, 36
        bytes each and 1.2 MB a layer at most. Lists of layers are concatenated; images are not transferred. The result
        are the tables of the group ``boundaries``, with dims boundary, junction and observation, which have length 0 if
        nothing is found. NaN where a value is unknown.

    Raises
    ------
    InputError
        A lattice whose directions are not at right angles.

    Notes
    -----
    Frank's rule, for every vector v in the plane, with normal N, lines l_i, spacings D_i and Burgers vectors b_i::

        Σ_i b_i ((N × l_i)·v) / D_i = v × rotation

    Points: :func:`~dfxm_dask.boundaries.planes.points.layer_points`. Planes:
    :func:`~dfxm_dask.boundaries.walls.find_walls`, located at the step of the lattice where there is one
    (:func:`~dfxm_dask.boundaries.step.fit_step`). Lines: :func:`~dfxm_dask.boundaries.lines.spectrum.line_sets`;
    without a centre of mass :func:`~dfxm_dask.boundaries.lines.projected_lines.line_families`. Burgers vectors: Frank's
    rule, the step along phi, and line images of the forward model (x along the beam, z up), see
    :func:`~dfxm_dask.boundaries.vectors.posterior.burgers_posterior`; if an error is unknown, the vectors of least
    misfit.

    The error of a step is computed from stripes of the plane in both directions. That of a plane of the weak beam is
    computed from a bootstrap over blocks, other starts, thresholds one and two standard deviations higher, and 0.5 um
    over its extent, added in squares. ``reason`` explains why a number is unknown or less certain.

    References
    ----------
    C. Yildirim et al., Sci. Rep. 13 (2023) 3834, whose method this follows, except that planes are found together
    instead of one after the other. F. C. Frank, Symposium on the Plastic Deformation of Crystalline Solids (1950) 150.

    Examples
    --------
    >>> import dfxm_dask
    >>> scan = dfxm_dask.example_scan()
    >>> data = scan.merge(dfxm_dask.local_peak(scan, background=100))
    >>> images = dfxm_dask.integrate_beams(data, background=100)
    >>> data = data.merge(dfxm_dask.enhance_beams(data.merge(images)))
    >>> data = data.merge(dfxm_dask.threshold_beams(data))
    >>> dfxm_dask.characterise_boundaries.gather(data)["normal"].dims
    ('boundary', 'xyz')

    The kernel alone, on one layer:

    >>> contrast = np.zeros((8, 8), np.float32)
    >>> contrast[3:5, 4] = 9
    >>> y = 0.25 * np.arange(8.0)
    >>> summary = characterise_boundaries.kernel(contrast, contrast > 5, contrast >= 0, contrast, y, y, np.array(2.0))
    >>> summary["points"].tolist()
    [[1.0, 0.75, 2.0], [1.0, 1.0, 2.0]]
    >>> characterise_boundaries.finish(summary)["normal"].shape
    (0, 3)
    """
    given = Lattice(**lattice) if isinstance(lattice, dict) else lattice
    at = float(z)
    defects = defects if stands_out is None else stands_out
    points, weights = layer_points(weak_enhanced, defects, y, x, at, grain)
    peaks = layer_peaks(peak_local, lit, defects, y, x, at)
    single = np.zeros(lit.shape, bool)
    if weak_isolated is not None:
        with np.errstate(invalid="ignore"):
            single = (weak_isolated > SINGLE) & away_from_rim(lit, y, x)
    line_points, line_weights = layer_points(
        weak_enhanced if weak_isolated is None else weak_isolated, single, y, x, at, grain
    )
    images = {"isolated": weak_isolated, "minus": weak_minus, "plus": weak_plus}
    cells, reference = layer_cells(rocking_maps(com), images, lit, defects, y, x, at)
    moved = np.array([0.0 if s is None or not np.isfinite(s) else float(s) for s in (shift_x, shift_y)])
    points[:, :2] -= moved
    peaks[:, :2] -= moved
    line_points[:, :2] -= moved
    cells[:, :2] -= moved.astype(np.float32)
    return {
        "points": points,
        "weights": weights,
        "peaks": peaks,
        "line_points": line_points,
        "line_weights": line_weights,
        "cells": cells,
        "references": reference,
        "option_seed": np.array(seed),
        "option_replicates": np.array(replicates),
        **crystal_options(given, along_phi="phi" in (com or {})),
    }
