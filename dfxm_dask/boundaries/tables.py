"""The tables of the group ``boundaries``: their variables, and tables without values."""

from __future__ import annotations

import numpy as np

from dfxm_dask.boundaries.junction import KINDS
from dfxm_dask.boundaries.step import REASONS
from dfxm_dask.boundaries.vectors import tables as vectors
from dfxm_dask.reduction import Arrays
from dfxm_dask.schema import XYZ, Dim, Variable

HALVES = 6
B, J, P, L = "boundary", "junction", "observation", "line_observation"
FAMILY, VERTEX, HALF = vectors.F, Dim("vertex", 4), Dim("half", HALVES)
WRITES = (
    Variable("normal", (B, XYZ), "float64", "1", "unit normal of the boundary"),
    Variable("normal_error", (B,), "float64", "degree", "angular error (68 %) of the boundary normal"),
    Variable("offset_error", (B,), "float64", "um", "standard error of the boundary position along the normal"),
    Variable("reason", (B,), "int64", "1", "reasons why numbers of the boundary are unknown or less certain", REASONS),
    Variable("step", (B,), "float64", "{units}", "step of the centre of mass, + side minus - side"),
    Variable("step_error", (B,), "float64", "{units}", "standard error of the step of the centre of mass"),
    Variable("step_width", (B,), "float64", "um", "width (standard deviation) of the step across the boundary"),
    Variable("centre", (B, XYZ), "float64", "um", "centre of mass of the boundary points"),
    Variable("thickness", (B,), "float64", "um", "standard deviation of points across the boundary"),
    Variable(
        "corner", (B, VERTEX, XYZ), "float64", "um", "corners of the patch that contains nine tenths of the points"
    ),
    Variable("boundary_weight", (B,), "float64", "1", "sum of point probabilities of the boundary"),
    Variable("line", (B, FAMILY, XYZ), "float64", "1", "direction of dislocation lines, strongest family first"),
    Variable("line_error", (B, FAMILY), "float64", "degree", "standard error of the line direction"),
    Variable("spacing", (B, FAMILY), "float64", "um", "period of the dislocation lines"),
    Variable("spacing_error", (B, FAMILY), "float64", "um", "standard error of the dislocation line period"),
    Variable("spacing_overtone", (B, FAMILY), "bool", "1", "whether the period may be twice the stated one"),
    Variable("line_alias", (B, FAMILY, XYZ), "float64", "1", "second line direction that the layers do not exclude"),
    Variable("spacing_alias", (B, FAMILY), "float64", "um", "period of dislocation lines along the second direction"),
    Variable("gap", (B, FAMILY), "float64", "um", "mean gap between dislocation lines located one by one"),
    Variable("gap_error", (B, FAMILY), "float64", "um", "standard error of the mean gap between dislocation lines"),
    Variable("lines", (B, FAMILY), "int64", "1", "number of dislocation lines located"),
    Variable("contrast", (B, FAMILY), "float64", "1", "contrast of the profile across the dislocation lines, 0 to 1"),
    Variable("burgers", (B, FAMILY, XYZ), "float64", "um", "most probable Burgers vectors"),
    Variable("burgers_misfit", (B,), "float64", "degree", "misfit angle of the best Burgers vectors"),
    Variable("burgers_next", (B,), "float64", "degree", "misfit angle of the next best Burgers vectors"),
    Variable("frank_residual", (B,), "float64", "1", "fraction of the Burgers vector content not due to a rotation"),
    Variable("frank_rank", (B,), "int64", "1", "number of independent line families in Frank's rule (0: unknown)"),
    Variable("rotation", (B, XYZ), "float64", "rad", "lattice rotation across the boundary by Frank's rule"),
    Variable("misorientation", (B,), "float64", "rad", "misorientation angle across the boundary"),
    Variable("twist", (B,), "float64", "1", "twist part of the boundary rotation (0: tilt, 1: twist)"),
    Variable("peak_step", (B,), "float64", "{units}", "step of the local peak, + side minus - side"),
    Variable("peak_step_error", (B,), "float64", "{units}", "standard error of the step of the local peak"),
    Variable("peak_step_expected", (B,), "float64", "degree", "expected step of the local peak along phi"),
    Variable("junction_direction", (J, XYZ), "float64", "1", "direction of the junction line of boundaries"),
    Variable("junction_point", (J, XYZ), "float64", "um", "point on the junction line"),
    Variable("junction_length", (J,), "float64", "um", "length of the junction line"),
    Variable("junction_kind", (J,), "int64", "1", "whether planes end at the junction line or cross", KINDS),
    Variable("junction_boundary", (J, HALF), "int64", "1", "boundary of each half plane (-1: none)"),
    Variable("junction_along", (J, HALF, XYZ), "float64", "1", "direction into the half plane"),
    Variable("dihedral", (J, HALF), "float64", "degree", "dihedral angle to the next half plane, counter-clockwise"),
    Variable("dihedral_error", (J, HALF), "float64", "degree", "standard error of the dihedral angle"),
    Variable("point", (P, XYZ), "float64", "um", "position of points on defects"),
    Variable("point_weight", (P,), "float64", "1", "probability that the point belongs to a defect"),
    Variable("point_boundary", (P,), "int64", "1", "most likely boundary of the point (-1: none)"),
    Variable("line_point", (L, XYZ), "float64", "um", "position of points on images of single dislocation lines"),
    Variable("line_point_weight", (L,), "float64", "1", "probability that the point lies on a line image"),
    *vectors.WRITES,
)


def empty_tables(boundaries: int, candidates: int) -> Arrays:
    """Tables without values for a given number of boundaries and candidate Burgers vectors, without junctions."""
    sizes = {B: boundaries, J: 0, "candidate": candidates}
    return {
        v.name: np.full(
            [int(d.length or 0) if isinstance(d, Dim) else sizes[d] for d in v.dims],
            np.nan if v.dtype == "float64" else 0,
            v.dtype,
        )
        for v in WRITES
        if P not in v.dims and L not in v.dims
    }
