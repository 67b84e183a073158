"""Subgrain boundaries that obey Frank's rule: the dislocations that carry a rotation across a plane.

Everything here is in the axes of the store. The + side of a plane is the one that its normal points to; a jump is the
rotation vector of the + side minus that of the - side.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations

import numpy as np

from dfxm_dask.errors import InputError
from dfxm_dask.optics.defects.scene import Junction
from dfxm_dask.optics.defects.walls import frank_bilby, wall_lines, wall_sheet

MARGIN = 4.0
"""Spacings by which the lines of a wall extend beyond the volume: the missing rest contributes only (spacing /
distance) squared, because the even spread ends with the lines (our choice)."""

SPARSEST = 500.0
"""Spacing in um above which a set of a tilt wall is left out: it would turn the lattice by less than 6e-7 rad."""


@dataclass(frozen=True, eq=False)
class Boundary:
    """Geometry and dislocation content of one boundary.

    Parameters
    ----------
    kind : str
        "tilt" or "twist".
    origin, normal : ndarray (xyz,), um and 1
    along : ndarray (xyz,) or None
        Direction of the half plane from its junction; None for a whole plane.
    jump : ndarray (xyz,), rad
    burgers, line : ndarray (set, xyz), um and 1
        Densest set first.
    spacing : ndarray (set,), um
    """

    kind: str
    origin: np.ndarray
    normal: np.ndarray
    along: np.ndarray | None
    jump: np.ndarray
    burgers: np.ndarray
    line: np.ndarray
    spacing: np.ndarray


@dataclass(frozen=True, eq=False)
class Built:
    """Boundaries with the lines, sheets and subgrains that make them."""

    boundaries: tuple[Boundary, ...]
    lines: np.ndarray
    sheets: np.ndarray
    junction: Junction


def _corners(box: np.ndarray) -> np.ndarray:
    return np.array([[box[i, 0], box[j, 1], box[k, 2]] for i in (0, 1) for j in (0, 1) for k in (0, 1)])


def _one_set(
    origin: np.ndarray,
    normal: np.ndarray,
    line: np.ndarray,
    burgers: np.ndarray,
    spacing: float,
    box: np.ndarray,
    core: float,
    *,
    half: bool,
) -> tuple[np.ndarray, np.ndarray]:
    """One set of parallel lines along a plane (or half plane), as far as it affects the box, and its even spread."""
    reach = (_corners(box) - origin) @ np.cross(normal, line)
    # wall_lines runs along normal x line, our half planes along line x normal.
    low = np.floor(reach.min() / spacing - MARGIN) * spacing
    high = np.ceil(reach.max() / spacing + MARGIN) * spacing
    if half:
        low, high = min(low, -spacing), 0.0
    made = wall_lines(origin, normal, line, burgers, spacing, low, high, core)
    return made, wall_sheet(origin, normal, line, burgers, spacing, low, high)


def edge_sets(target: np.ndarray, candidates: np.ndarray) -> list[tuple[np.ndarray, float]]:
    """The fewest and sparsest sets of edge dislocations whose Burgers vectors add up to a content.

    Parameters
    ----------
    target : ndarray (xyz,), 1
        Burgers vector per unit length.
    candidates : ndarray (burgers, xyz), um
        Lattice Burgers vectors; either sign may be used.

    Returns
    -------
    list of (burgers, spacing)
        Densest first, um.

    Raises
    ------
    InputError
        No one or two candidates add up to the content.
    """
    size = np.linalg.norm(target)
    best: list[tuple[np.ndarray, float]] | None = None
    total = np.inf
    for count in (1, 2):
        for chosen in combinations(range(len(candidates)), count):
            basis = candidates[list(chosen)].T
            density, *_ = np.linalg.lstsq(basis, target, rcond=None)
            if np.linalg.norm(basis @ density - target) > 1e-9 * size:
                continue
            if np.abs(density).sum() < total * (1 - 1e-9):
                total = np.abs(density).sum()
                best = [(np.sign(d) * candidates[k], 1 / abs(d)) for k, d in zip(chosen, density, strict=True) if d]
        if best:
            break
    kept = sorted(((b, d) for b, d in best or () if d < SPARSEST), key=lambda item: item[1])
    if not kept:
        raise InputError("tilt wall", "no one or two Burgers vectors lie along its normal", "choose another line")
    return kept


def tilt_junction(
    origin: np.ndarray,
    line: np.ndarray,
    reference: np.ndarray,
    azimuths: np.ndarray,
    tilts: np.ndarray,
    candidates: np.ndarray,
    box: np.ndarray,
    core: float,
) -> Built:
    """Half planes of edge dislocations that meet along a line.

    Parameters
    ----------
    origin, line, reference : ndarray (xyz,)
        Geometry of the junction; see :class:`~dfxm_dask.optics.defects.scene.Junction`.
    azimuths : ndarray (plane,), rad
        Ascending.
    tilts : ndarray (plane,), rad
        Rotation about ``line`` gained by crossing each half plane counter-clockwise; they add up to zero, or the
        junction would be a disclination.
    candidates : ndarray (burgers, xyz), um
        Burgers vectors that are normal to the line.
    box : ndarray (2, xyz), um
        Volume to fill.
    core : float, um

    Raises
    ------
    InputError
        Tilts that do not add up to zero, or azimuths that do not ascend within one turn.
    """
    if abs(tilts.sum()) > 1e-9 * np.abs(tilts).max():
        raise InputError("tilt_junction: tilts", f"add up to {tilts.sum()} rad", "let them add up to zero")
    if (np.diff(azimuths) <= 0).any() or azimuths[-1] - azimuths[0] >= 2 * np.pi:
        raise InputError("tilt_junction: azimuths", "do not ascend within one turn", "sort them")
    second = np.cross(line, reference)
    made, sheets, boundaries = [], [], []
    for azimuth, tilt in zip(azimuths, tilts, strict=True):
        along = np.cos(azimuth) * reference + np.sin(azimuth) * second
        normal = np.cross(along, line)
        sets = edge_sets(tilt * normal, candidates)
        for burgers, spacing in sets:
            part, sheet = _one_set(origin, normal, line, burgers, spacing, box, core, half=True)
            made.append(part)
            sheets.append(sheet)
        boundaries.append(
            Boundary(
                "tilt",
                origin,
                normal,
                along,
                -tilt * line,
                np.array([b for b, _ in sets]),
                np.tile(line, (len(sets), 1)),
                np.array([s for _, s in sets]),
            )
        )
    turned = np.cumsum(tilts)
    rotations = (turned - turned.mean())[:, None] * line
    junction = Junction(origin, line, reference, azimuths, rotations)
    return Built(tuple(boundaries), np.concatenate(made), np.concatenate(sheets), junction)


def plane_wall(
    kind: str,
    origin: np.ndarray,
    normal: np.ndarray,
    jump: np.ndarray,
    burgers: np.ndarray,
    line: np.ndarray,
    box: np.ndarray,
    core: float,
) -> Built:
    """A boundary that crosses the whole volume, of one to three sets of lines.

    Parameters
    ----------
    kind : str
        "tilt" or "twist".
    origin, normal : ndarray (xyz,)
    jump : ndarray (xyz,), rad
    burgers, line : ndarray (set, xyz), um and 1
        Sets that can carry the jump; their densities follow from Frank's rule.

    Raises
    ------
    InputError
        The sets cannot carry the jump.
    """
    angle = float(np.linalg.norm(jump))
    densities, _, residual = frank_bilby(normal, jump / angle, angle, burgers, line)
    if residual > 1e-6 * angle:
        raise InputError(f"{kind} wall", f"Frank's rule leaves a residual of {residual}", "give sets that can carry it")
    signs = np.sign(densities)
    order = np.argsort(-np.abs(densities))
    made, sheets = [], []
    for k in order:
        part, sheet = _one_set(
            origin, normal, line[k], signs[k] * burgers[k], 1 / abs(densities[k]), box, core, half=False
        )
        made.append(part)
        sheets.append(sheet)
    boundary = Boundary(
        kind, origin, normal, None, jump, (signs[:, None] * burgers)[order], line[order], 1 / np.abs(densities[order])
    )
    reference = np.cross(normal, line[order[0]])
    sides = np.array([jump / 2, -jump / 2])
    junction = Junction(origin, line[order[0]], reference, np.array([0.0, np.pi]), sides)
    return Built((boundary,), np.concatenate(made), np.concatenate(sheets), junction)
