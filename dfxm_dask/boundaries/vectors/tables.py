"""Burgers vectors, g·b and rotation of one boundary, from its step, its lines and its images: rows of the tables."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from dfxm_dask.boundaries.lines.spectrum import FAMILIES
from dfxm_dask.boundaries.planes.plane import in_plane
from dfxm_dask.boundaries.vectors.burgers import burgers_of_wall, peak_steps
from dfxm_dask.boundaries.vectors.lattice import Crystal, Lattice, crystal_of
from dfxm_dask.boundaries.vectors.posterior import HIDDEN, burgers_posterior
from dfxm_dask.boundaries.vectors.synthesis import folded_strip, image_likelihood, pictures_of
from dfxm_dask.reduction import Arrays
from dfxm_dask.schema import XYZ, Dim, Variable

SURE = 0.9  # probability from which a Burgers vector counts as known (as in the specification)
SEEN = 0.9  # chance of lines that Frank's rule lacks where a direction without spacing was found (our choice)
UNEVEN = 0.15  # part by which mean gap and period of even lines may differ (our choice)
OF_GAP = 0.15  # part of a mean gap that is its error at least (our choice)
FINEST = 0.01  # degree: least error of a direction
OF_STEP = 0.05
"""Part of the step of the centre of mass by which it may miss the rotation of the lattice, apart from its error."""

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
    """What the summary of a layer says of the crystal, and whether its steps are along phi."""
    known = crystal_of(lattice) if lattice is not None else Crystal(np.zeros((0, 3)), None, None)
    return {
        "option_burgers": known.burgers,
        "option_products": np.zeros(0) if known.products is None else known.products,
        "option_theta": np.array(np.nan if known.theta is None else known.theta),
        "option_along_phi": np.array(along_phi),
    }


def known_crystal(summary: Arrays) -> Crystal:
    """The crystal of :func:`crystal_options`; without candidates where none is known."""
    if not summary.get("option_products", np.zeros(0)).size:  # summaries of before have none
        return Crystal(summary["option_burgers"], None, None)
    return Crystal(summary["option_burgers"], summary["option_products"], float(summary["option_theta"]))


def give_vectors(made: Arrays, k: int, crystal: Crystal, cells: np.ndarray, *, along_phi: bool, seed: int) -> None:
    """Fill the rows of one boundary from what its rows tell already: normal, step, lines and spacings.

    Parameters
    ----------
    made : dict of array
        The tables.
    k : int
        Number of the boundary.
    crystal : Crystal
    cells : array (cell, column)
        See :data:`dfxm_dask.boundaries.cells.COLUMNS`; may be empty.
    along_phi : bool
        Whether the step is one along phi, in degree.
    seed : int
    """
    normal, reason = made["normal"][k], made["burgers_reason"]
    known = np.isfinite(made["line"][k, :, 0]) & (np.isfinite(made["spacing"][k]) | np.isfinite(made["gap"][k]))
    reason[k] = np.where(known, 0, FLAG["no_spacing"])
    if not known.any():
        return
    _least_misfit(made, k, crystal.burgers)
    families = np.flatnonzero(known)
    line, spacing = made["line"][k, families], made["spacing"][k, families]
    # Without a period the mean gap of located lines is known, unless some were missed or taken for two.
    of_gap = ~np.isfinite(spacing)
    spacing = np.where(of_gap, made["gap"][k, families], spacing)
    error = np.where(
        of_gap, np.fmax(made["gap_error"][k, families], OF_GAP * spacing), made["spacing_error"][k, families]
    )
    turn = None
    if along_phi and np.isfinite(made["step"][k]) and made["step_error"][k] > 0:
        # A lattice turned by w about +y peaks at phi = -w.
        step = np.deg2rad([made["step"][k], np.hypot(made["step_error"][k], OF_STEP * made["step"][k])])
        turn = -float(step[0]), float(step[1])
    overtone = made["spacing_overtone"][k, families] | of_gap
    images = None
    if crystal.theta is not None and not of_gap.any():
        images = _images(cells, normal, made["centre"][k], made["corner"][k], line, crystal.theta)
    if crystal.theta is None:
        reason[k, families] |= FLAG["no_reflection"]
    elif images is None:
        reason[k, families] |= FLAG["no_image"]
    second = np.isfinite(made["line_alias"][k, families, 0])
    reason[k, families] |= np.where(second, FLAG["of_first_direction"], 0)
    directions = int(np.isfinite(made["line"][k, :, 0]).sum())
    # Drawn clouds that are all alike have no spread; NaN stays NaN.
    normal_error = float(np.maximum(made["normal_error"][k], FINEST))
    line_error = np.maximum(made["line_error"][k, families], FINEST)
    error = np.maximum(error, 1e-3 * spacing)
    found = burgers_posterior(
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
    if not np.isfinite(found.probability).all():
        known_error = np.isfinite([*error, normal_error, *line_error]).all()
        reason[k, families] |= FLAG["unexplained" if known_error else "no_error"]
        return
    for name, values in (
        ("burgers_probability", found.probability),
        ("g_dot_b", found.product),
        ("g_dot_b_probability", found.product_probability),
    ):
        made[name][k, families] = values
    reason[k, families] |= np.where(found.probability.max(axis=1) < SURE, FLAG["unsure"], 0)
    if found.hidden > 0.5:  # the lines that were found do not make up the wall
        reason[k, families] |= FLAG["hidden_lines"]
        return
    made["burgers"][k, families] = found.burgers
    made["burgers_sign_probability"][k] = found.sign_probability
    for name in ("rotation", "rotation_error", "misorientation", "misorientation_error", "twist", "twist_error"):
        made[name][k] = getattr(found, name)
    made["step_expected"][k], _ = peak_steps(found.rotation, 0.0)
    made["step_expected_error"][k] = np.rad2deg(found.rotation_error[1])
    made["peak_step_expected"][k] = abs(made["step_expected"][k])


def _images(
    cells: np.ndarray, normal: np.ndarray, origin: np.ndarray, corner: np.ndarray, line: np.ndarray, theta: float
) -> Callable[[np.ndarray, np.ndarray], float] | None:
    """Likelihood of weak-beam images beside the boundary for spacings and Burgers vectors; None of too few."""
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


def _least_misfit(made: Arrays, k: int, candidates: np.ndarray) -> None:
    """Burgers vectors that leave the least stress far away, with no regard to errors."""
    line, spacing, gap = made["line"][k], made["spacing"][k], made["gap"][k]
    used = np.isfinite(line[:, 0]) & (np.isfinite(spacing) | np.isfinite(gap)) & (made["lines"][k] > 1)
    if not used.any():
        return
    families = np.flatnonzero(used)
    line, spacing, gap = line[families], spacing[families], gap[families]
    # Of even lines the period is the better number (those at the rim are cut, which moves them), of others the mean.
    even = ~(np.abs(gap / spacing - 1) > UNEVEN) & np.isfinite(spacing)
    normal = made["normal"][k]
    found = burgers_of_wall(normal, line, np.where(even, spacing, gap), candidates)
    made["burgers"][k, families] = found.burgers[0]
    made["burgers_misfit"][k] = found.misfit[0]
    made["burgers_next"][k] = found.misfit[1] if len(found.misfit) > 1 else np.nan
    made["frank_residual"][k] = found.residual[0]
    reach = np.cross(normal, line) @ in_plane(normal).T
    made["frank_rank"][k] = np.linalg.matrix_rank(np.einsum("mv,mi->mvi", reach, found.burgers[0]).reshape(-1, 6))
    made["rotation"][k], made["misorientation"][k] = found.rotation[0], np.linalg.norm(found.rotation[0])
    made["twist"][k] = found.twist[0]
    made["peak_step_expected"][k] = abs(peak_steps(found.rotation[0], 0.0)[0])
