"""Boundaries that were found beside the true boundaries: pairs of both, and rows of a table for each."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy.optimize import linear_sum_assignment

from dfxm_dask.boundaries.vectors.burgers import peak_steps
from dfxm_dask.view.boundaries.words import Tables, families_of, finer, junction_kind, tables_of, with_error
from dfxm_dask.view.compare.distances import boundary_distances

if TYPE_CHECKING:
    import xarray as xr

ANGLE, DISTANCE = 10.0, 5.0
"""Largest angle (degree) and distance (um) of a found plane from its true plane (our choice)."""
LINES = 20.0
"""Largest angle (degree) of a found family of lines from its true family (our choice)."""
UNKNOWN = "not found"
FOUND, INVENTED = "true boundaries found", "false boundaries"
NEEDED = {"normal", "origin", "line", "misorientation", "axis", "set_boundary", "set_line", "set_spacing"}

Row = tuple[str, str, str]


def axis_angles(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Angles between axes, independent of their signs.

    Parameters
    ----------
    a, b : array (a, xyz), array (b, xyz)
        Unit vectors.

    Returns
    -------
    array (a, b), float64, degree
        0 to 90.

    Examples
    --------
    >>> axis_angles(np.array([[1.0, 0, 0]]), np.array([[-1.0, 0, 0], [0.0, 1, 0]])).tolist()
    [[0.0, 90.0]]
    """
    sine = np.linalg.norm(np.cross(a[:, None], b[None]), axis=-1)
    return np.asarray(np.rad2deg(np.arctan2(sine, np.abs(a @ b.T))))


def one_to_one(cost: np.ndarray) -> dict[int, int]:
    """Row of each column: the largest number of pairs, and of these pairings that with the least sum of costs.

    A cost of infinity excludes a pair.

    Examples
    --------
    >>> one_to_one(np.array([[1.0, 2.0], [1.0, np.inf]]))
    {0: 1, 1: 0}
    """
    if not cost.size or not np.isfinite(cost).any():
        return {}
    # Above any sum of finite costs: a pair that may be is always preferred.
    never = 1.0 + cost[np.isfinite(cost)].sum()
    rows, columns = linear_sum_assignment(np.where(np.isfinite(cost), cost, never))
    found = {int(c): int(r) for r, c in zip(rows, columns, strict=True) if np.isfinite(cost[r, c])}
    return dict(sorted(found.items()))


def matched_planes(found: Tables, truth: xr.Dataset) -> tuple[dict[int, int], np.ndarray, np.ndarray]:
    """The plane that was found for each true boundary, one to one, within 10 degree and 5 um.

    Parameters
    ----------
    found : dict
        See :func:`dfxm_dask.view.boundaries.words.tables_of`.
    truth : Dataset
        See :func:`dfxm_dask.view.compare.distances.boundary_distances`.

    Returns
    -------
    partner : dict
        Number of the found plane by that of the true boundary; unpaired boundaries are left out.
    angle : array (found, true), degree
        Between normals.
    distance : array (found, true), um
        Of the centre of the found plane from the true boundary, which ends at its junction.
    """
    angle = axis_angles(found["normal"], np.asarray(truth["normal"], float))
    _, nearest = boundary_distances(truth, *found["centre"].T)
    distance = nearest.T.reshape(angle.shape)
    far = ~((angle < ANGLE) & (distance < DISTANCE))
    return one_to_one(np.where(far, np.inf, angle / ANGLE + distance / DISTANCE)), angle, distance


def boundary_rows(tree: xr.DataTree, truth: xr.Dataset) -> list[Row]:
    """Rows (quantity, found, true) of the boundaries.

    Parameters
    ----------
    tree : DataTree
        With a group ``boundaries``; none without it.
    truth : Dataset
        ``normal``, ``origin``, ``line``, ``axis`` (boundary, xyz), ``misorientation`` rad, ``dihedral`` degree,
        ``twist`` (boundary), ``set_boundary`` (set), ``set_line`` (set, xyz), ``set_spacing`` (set) um. Without them
        there is no true boundary.

    Returns
    -------
    list of (str, str, str)
        Numbers of true boundaries found and of false ones; for each true boundary the deviation of the found one in
        angle and position, direction, period and gap of each set of lines, the angle between the subgrains by Frank's
        rule, b/D, and the jump of the local peak; last the dihedral angles. Values have their errors and units.

    Notes
    -----
    The true jump is that of the local peak along phi by the true rotation, on the side that the found normal points to.
    """
    found = tables_of(tree)
    if found is None:
        return []
    if not NEEDED <= set(map(str, truth.variables)):  # a simulation without boundaries
        return [(FOUND, "0", "0"), (INVENTED, str(len(found["normal"])), "0")]
    partner, angle, distance = matched_planes(found, truth)
    count = truth.sizes["boundary"]
    rows: list[Row] = [
        (FOUND, str(len(partner)), str(count)),
        (INVENTED, str(len(found["normal"]) - len(partner)), "0"),
    ]
    for t in range(count):
        name = f"boundary {t}{_kind(truth, t)}"
        if t not in partner:
            rows.append((f"{name}: plane", UNKNOWN, "present"))
            continue
        k = partner[t]
        off = with_error(angle[k, t], found["normal_error"][k], "degree")
        rows.append((f"{name}, found as {k}: angle between normals", off, "0°"))
        rows.append((f"{name}: distance from the plane", with_error(distance[k, t], np.nan, "um"), "0 µm"))
        rows += _line_rows(found, truth, t, k, name) + _turn_rows(found, truth, t, k, name)
    return rows + _dihedral_rows(found, truth, partner)


def _kind(truth: xr.Dataset, t: int) -> str:
    kind = ("twist" if bool(truth["twist"][t]) else "tilt") + " of " if "twist" in truth else ""
    return f" ({kind}{1e6 * float(truth['misorientation'][t]):.3g} µrad)"


def _line_rows(found: Tables, truth: xr.Dataset, t: int, k: int, name: str) -> list[Row]:
    """Direction, period and gap of every true set of lines of a boundary, and the number of false families."""
    sets = np.flatnonzero(np.asarray(truth["set_boundary"]) == t)
    families = families_of(found, k)
    angle = axis_angles(found["line"][k][families], np.asarray(truth["set_line"], float)[sets])
    partner = one_to_one(np.where(angle < LINES, angle, np.inf))
    rows: list[Row] = []
    for n, index in enumerate(sets):
        spacing = with_error(float(truth["set_spacing"][index]), np.nan, "um")
        of = f"{name}, lines {n + 1} of {len(sets)}" if len(sets) > 1 else f"{name}, lines"
        if n not in partner:
            rows.append((f"{of}: spacing", UNKNOWN, spacing))
            continue
        f = families[partner[n]]
        rows.append(
            (f"{of}: angle between them", with_error(angle[partner[n], n], found["line_error"][k, f], "degree"), "0°")
        )
        rows.append((f"{of}: period", with_error(found["spacing"][k, f], found["spacing_error"][k, f], "um"), spacing))
        if np.isfinite(found["gap"][k, f]):
            rows.append((f"{of}: mean gap", with_error(found["gap"][k, f], found["gap_error"][k, f], "um"), spacing))
    invented = len(families) - len(partner)
    return rows + ([(f"{name}: false families of lines", str(invented), "0")] if invented else [])


def _turn_rows(found: Tables, truth: xr.Dataset, t: int, k: int, name: str) -> list[Row]:
    """Rotation across a boundary by its lines, and by the jump of the peak."""
    turn = float(truth["misorientation"][t])
    side = np.sign(found["normal"][k] @ np.asarray(truth["normal"][t], float))
    step = float(side) * peak_steps(turn * np.asarray(truth["axis"][t], float), 0.0)[0]
    lines = with_error(1e6 * float(found["misorientation"][k]), np.nan, "µrad")
    jump = finer(float(found["peak_step"][k]), float(found["peak_step_error"][k]), "degree")
    return [
        (f"{name}: angle between subgrains, by b/D", lines, f"{1e6 * turn:.3g} µrad"),
        (f"{name}: jump of the peak along phi", jump, finer(step, np.nan, "degree")),
    ]


def _dihedral_rows(found: Tables, truth: xr.Dataset, partner: dict[int, int]) -> list[Row]:
    """Angle from every half plane to the next one about their junction."""
    if "dihedral" not in truth:
        return []
    true, origin = np.asarray(truth["dihedral"], float), np.asarray(truth["origin"], float)
    rows: list[Row] = []
    for t in np.flatnonzero(np.isfinite(true)):
        ring = [int(n) for n in np.flatnonzero(np.isfinite(true)) if np.array_equal(origin[n], origin[t])]
        after = ring[(ring.index(int(t)) + 1) % len(ring)]
        line = np.asarray(truth["line"][t], float)
        both = {int(t), after} <= set(partner)
        value = found_dihedral(found, partner[int(t)], partner[after], line) if both else None
        said = UNKNOWN if value is None else with_error(*value, "degree")
        rows.append((f"dihedral angle from boundary {t} to {after}", said, with_error(true[t], np.nan, "degree")))
    return rows


def found_dihedral(found: Tables, first: int, second: int, line: np.ndarray) -> tuple[float, float] | None:
    """Dihedral angle from one plane to another, counter-clockwise about a line, and its error; degree.

    Parameters
    ----------
    found : dict
        See :func:`dfxm_dask.view.boundaries.words.tables_of`.
    first, second : int
        Numbers of planes.
    line : array (xyz,)

    Returns
    -------
    (float, float) or None
        Of the first junction in which one plane follows the other; None without a junction. Planes that only cross
        form no junction.
    """
    for j, direction in enumerate(found["junction_direction"]):
        if junction_kind(found, j) == "crossing":
            continue
        halves = found["junction_boundary"][j]
        halves = halves[halves >= 0]
        for h, one in enumerate(halves):
            following = halves[(h + 1) % len(halves)]
            # About the opposite direction the order is reversed, and the angles are the same.
            pair = (one, following) if direction @ line > 0 else (following, one)
            if pair == (first, second):
                return float(found["dihedral"][j, h]), float(found["dihedral_error"][j, h])
    return None
