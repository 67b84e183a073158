"""Burgers vectors, g·b and rotation of one boundary, from its step, lines and images: rows of the tables."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from dfxm_dask.boundaries.lines.spectrum import FAMILIES
from dfxm_dask.boundaries.planes.plane import in_plane
from dfxm_dask.boundaries.vectors.burgers import burgers_of_wall, peak_steps
from dfxm_dask.boundaries.vectors.posterior import HIDDEN, burgers_posterior
from dfxm_dask.boundaries.vectors.synthesis import folded_strip, image_likelihood, pictures_of
from dfxm_dask.optics.defects.lattice import Crystal, Lattice, crystal_of
from dfxm_dask.reduction import Arrays
from dfxm_dask.schema import XYZ, Dim, Variable

SURE = 0.9  # probability above which a Burgers vector counts as known (as in the specification)
SEEN = 0.9  # probability of lines missing in Frank's rule if a direction without spacing was found (our choice)
UNEVEN = 0.15  # largest relative difference of mean gap and period of even lines (our choice)
OF_GAP = 0.15  # least relative error of a mean gap (our choice)
FINEST = 0.01  # degree: least error of a direction
OF_STEP = 0.05
"""Fraction of the step of the centre of mass by which it may differ from the lattice rotation, besides its error."""

REASONS = (
    (1, "no_lattice"),
    (2, "no_spacing"),
    (4, "no_error"),
    (8, "unexplained"),
    (16, "no_reflection"),
    (32, "no_image"),
    (64, "hidden_lines"),
    (128, "unsure"),
    (256, "of_first_direction"),
)
FLAG = {name: bit for bit, name in REASONS}
B, F = "boundary", Dim("family", FAMILIES)
WRITES = (
    Variable("candidate_burgers", ("candidate", XYZ), "float64", "um", "candidate Burgers vectors of the lattice"),
    Variable(
        "burgers_probability",
        (B, F, "candidate"),
        "float64",
        "1",
        "probability of the candidate Burgers vector for the dislocation lines, either sign",
    ),
    Variable("burgers_sign_probability", (B,), "float64", "1", "probability of the signs of the Burgers vectors"),
    Variable(
        "burgers_reason", (B, F), "int64", "1", "reasons why Burgers vectors are unknown or less certain", REASONS
    ),
    Variable("g_dot_b", (B, F), "float64", "1", "most probable product g·b of reflection and Burgers vector"),
    Variable("g_dot_b_probability", (B, F), "float64", "1", "probability of the product g·b"),
    Variable("rotation_error", (B, XYZ), "float64", "rad", "standard error of the lattice rotation by Frank's rule"),
    Variable("misorientation_error", (B,), "float64", "rad", "standard error of the misorientation angle"),
    Variable("twist_error", (B,), "float64", "1", "standard error of the twist part of the boundary rotation"),
    Variable("step_expected", (B,), "float64", "degree", "step of the rocking peak along phi expected from b/D"),
    Variable("step_expected_error", (B,), "float64", "degree", "standard error of the step expected from b/D"),
)


def crystal_options(lattice: Lattice | None, *, along_phi: bool) -> Arrays:
    """Crystal in the summary of a layer, and whether its steps are along phi."""
    known = crystal_of(lattice) if lattice is not None else Crystal(np.zeros((0, 3)), None, None)
    return {
        "option_burgers": known.burgers,
        "option_products": np.zeros(0) if known.products is None else known.products,
        "option_theta": np.array(np.nan if known.theta is None else known.theta),
        "option_along_phi": np.array(along_phi),
    }


def known_crystal(summary: Arrays) -> Crystal:
    """The crystal of :func:`crystal_options`; without candidates if it is unknown."""
    if not summary.get("option_products", np.zeros(0)).size:  # summaries of earlier versions have none
        return Crystal(summary["option_burgers"], None, None)
    return Crystal(summary["option_burgers"], summary["option_products"], float(summary["option_theta"]))


def give_vectors(tables: Arrays, k: int, crystal: Crystal, cells: np.ndarray, *, along_phi: bool, seed: int) -> None:
    """Fill the rows of one boundary from values already in the tables: normal, step, lines and spacings.

    Parameters
    ----------
    tables : dict of array
        The tables.
    k : int
        Number of the boundary.
    crystal : Crystal
    cells : array (cell, column)
        See :data:`dfxm_dask.boundaries.cells.COLUMNS`; may be empty.
    along_phi : bool
        Whether the step is along phi, in degree.
    seed : int
    """
    normal, reason = tables["normal"][k], tables["burgers_reason"]
    measured = np.isfinite(tables["line"][k, :, 0]) & (
        np.isfinite(tables["spacing"][k]) | np.isfinite(tables["gap"][k])
    )
    reason[k] = np.where(measured, 0, FLAG["no_spacing"])
    if not measured.any():
        return
    _least_misfit(tables, k, crystal.burgers)
    families = np.flatnonzero(measured)
    line, spacing = tables["line"][k, families], tables["spacing"][k, families]
    # Without a period the mean gap of located lines is used, unless some were missed or merged.
    of_gap = ~np.isfinite(spacing)
    spacing = np.where(of_gap, tables["gap"][k, families], spacing)
    error = np.where(
        of_gap, np.fmax(tables["gap_error"][k, families], OF_GAP * spacing), tables["spacing_error"][k, families]
    )
    turn = None
    if along_phi and np.isfinite(tables["step"][k]) and tables["step_error"][k] > 0:
        # A lattice rotated by w about +y peaks at phi = -w.
        step = np.deg2rad([tables["step"][k], np.hypot(tables["step_error"][k], OF_STEP * tables["step"][k])])
        turn = -float(step[0]), float(step[1])
    overtone = tables["spacing_overtone"][k, families] | of_gap
    images = None
    if crystal.theta is not None and not of_gap.any():
        images = _images(cells, normal, tables["centre"][k], tables["corner"][k], line, crystal.theta)
    if crystal.theta is None:
        reason[k, families] |= FLAG["no_reflection"]
    elif images is None:
        reason[k, families] |= FLAG["no_image"]
    second = np.isfinite(tables["line_alias"][k, families, 0])
    reason[k, families] |= np.where(second, FLAG["of_first_direction"], 0)
    directions = int(np.isfinite(tables["line"][k, :, 0]).sum())
    # Identical resamples have no spread; NaN stays NaN.
    normal_error = float(np.maximum(tables["normal_error"][k], FINEST))
    line_error = np.maximum(tables["line_error"][k, families], FINEST)
    error = np.maximum(error, 1e-3 * spacing)
    posterior = burgers_posterior(
        normal,
        normal_error,
        line,
        line_error,
        spacing,
        error,
        crystal.burgers,
        overtone=overtone,
        turn=turn,
        products=crystal.products,
        images=images,
        seed=seed,
        hidden=HIDDEN if directions == len(families) else SEEN,
    )
    if not np.isfinite(posterior.probability).all():
        known_error = np.isfinite([*error, normal_error, *line_error]).all()
        reason[k, families] |= FLAG["unexplained" if known_error else "no_error"]
        return
    for name, values in (
        ("burgers_probability", posterior.probability),
        ("g_dot_b", posterior.product),
        ("g_dot_b_probability", posterior.product_probability),
    ):
        tables[name][k, families] = values
    reason[k, families] |= np.where(posterior.probability.max(axis=1) < SURE, FLAG["unsure"], 0)
    if posterior.hidden > 0.5:  # the located lines do not account for the wall
        reason[k, families] |= FLAG["hidden_lines"]
        return
    tables["burgers"][k, families] = posterior.burgers
    tables["burgers_sign_probability"][k] = posterior.sign_probability
    for name in ("rotation", "rotation_error", "misorientation", "misorientation_error", "twist", "twist_error"):
        tables[name][k] = getattr(posterior, name)
    tables["step_expected"][k], _ = peak_steps(posterior.rotation, 0.0)
    tables["step_expected_error"][k] = np.rad2deg(posterior.rotation_error[1])
    tables["peak_step_expected"][k] = abs(tables["step_expected"][k])


def _images(
    cells: np.ndarray, normal: np.ndarray, origin: np.ndarray, corner: np.ndarray, line: np.ndarray, theta: float
) -> Callable[[np.ndarray, np.ndarray], float] | None:
    """Likelihood of weak-beam images of the boundary for spacings and Burgers vectors; None with too few cells."""
    if not len(cells):
        return None
    strips: dict[tuple[float, ...], tuple[Any, Any]] = {}

    def strip(spacing: np.ndarray) -> tuple[Any, Any]:
        key = tuple(spacing)
        if key not in strips:
            folded = folded_strip(cells[:, :8].astype(np.float64), normal, origin, line, spacing, corner)
            strips[key] = folded, pictures_of(normal, line, spacing, theta) if folded is not None else None
        return strips[key]

    if folded_strip(cells[:, :8].astype(np.float64), normal, origin, line, np.ones(len(line)), corner) is None:
        return None
    return lambda spacing, burgers: image_likelihood(*strip(spacing), burgers)


def _least_misfit(tables: Arrays, k: int, candidates: np.ndarray) -> None:
    """Burgers vectors with the least long-range stress, regardless of errors."""
    line, spacing, gap = tables["line"][k], tables["spacing"][k], tables["gap"][k]
    used = np.isfinite(line[:, 0]) & (np.isfinite(spacing) | np.isfinite(gap)) & (tables["lines"][k] > 1)
    if not used.any():
        return
    families = np.flatnonzero(used)
    line, spacing, gap = line[families], spacing[families], gap[families]
    # For even lines the period is more accurate (lines at the rim are cut, which shifts them), for others the mean.
    even = ~(np.abs(gap / spacing - 1) > UNEVEN) & np.isfinite(spacing)
    normal = tables["normal"][k]
    assignment = burgers_of_wall(normal, line, np.where(even, spacing, gap), candidates)
    tables["burgers"][k, families] = assignment.burgers[0]
    tables["burgers_misfit"][k] = assignment.misfit[0]
    tables["burgers_next"][k] = assignment.misfit[1] if len(assignment.misfit) > 1 else np.nan
    tables["frank_residual"][k] = assignment.residual[0]
    reach = np.cross(normal, line) @ in_plane(normal).T
    tables["frank_rank"][k] = np.linalg.matrix_rank(
        np.einsum("mv,mi->mvi", reach, assignment.burgers[0]).reshape(-1, 6)
    )
    tables["rotation"][k], tables["misorientation"][k] = assignment.rotation[0], np.linalg.norm(assignment.rotation[0])
    tables["twist"][k] = assignment.twist[0]
    tables["peak_step_expected"][k] = abs(peak_steps(assignment.rotation[0], 0.0)[0])
