"""Boundaries placed at their steps, one beside the other: what is explained by a boundary is no other one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.spatial import cKDTree
from scipy.special import erf

from dfxm_dask.boundaries.planes.edges import edge_planes, point_planes
from dfxm_dask.boundaries.planes.plane import in_plane
from dfxm_dask.boundaries.planes.plane_support import LINE, heaviest_line
from dfxm_dask.boundaries.step import FLAG, TURNED, StepFit, fit_step
from dfxm_dask.boundaries.strip_cells import BIN, STRIP, trace_frame

ALIKE = 6.0, 1.0  # degree and um: planes nearer than both are one (as in the specification)
BARRED = 1.0  # um from a boundary: cells that another one does not see (our choice)
CLEAR = 2.0  # um from a boundary: the same for the last fit, so that the ends of half planes are their own (our choice)
FAR = 8.0  # um from a boundary within which its step is allowed for (our choice)
AWAY = 1.2  # um from boundaries: edges nearer than this are theirs (our choice)
MOST_TAKEN = 0.35  # of the points of a proposed plane, that other boundaries may take (our choice)
ALIKE_WIDTH = 0.45
"""Over the median width of the steps of other boundaries, below which a step is none: all are smeared alike, and what
single lines do is sharper (set on simulated walls)."""
LIKELY = 0.5  # um: width of the step at a proposed plane, before it is fitted (our choice)
LEAST_BRIGHT = 0.25  # points of the weak beam for each um of trace, over the median of other boundaries (our choice)
ONE_LINE, FROM_LINE = 0.75, 4.0
"""Part of its points that one line holds, and um from that line, for a step that may be what one dislocation does."""
LEAST_STEP = 0.5
"""Step farther from that line, over the step beside it, that a wall has at least (set on simulated walls and on random
lines of another simulator)."""
FEWEST_CELLS = 50  # of each side of a step that is looked at by itself (our choice)
LEAST_TRACE = 5.0  # um of trace in a layer of a plane that edges propose (as in the specification)

Start = tuple[np.ndarray, np.ndarray, np.ndarray, int]
"""A proposed plane: normal, origin, its points, and its number among those of the weak beam (-1: of edges)."""


class Placed(NamedTuple):
    """Proposed planes and their steps.

    Attributes
    ----------
    starts : list of Start
    fits : list of StepFit or None
        The step of every start.
    accepted : list of int
        Starts that are boundaries, most certain first.
    taken : set of int
        Starts most of whose points belong to boundaries that are accepted.
    bright : dict of int to float
        Points of the weak beam for each um of trace of those that are accepted.
    """

    starts: list[Start]
    fits: list[StepFit | None]
    accepted: list[int]
    taken: set[int]
    bright: dict[int, float]


def placed_steps(
    cells: np.ndarray, points: np.ndarray, starts: Sequence[Start], levels: np.ndarray, layer: float, seed: int
) -> Placed:
    """Boundaries at steps of the centre of mass.

    Parameters
    ----------
    cells : array (cell, column)
        Of :func:`~dfxm_dask.boundaries.cells.on_one_scale`.
    points : array (point, xyz), um
        On what stands out of the weak beam: a step without its images is no wall of dislocations.
    starts : sequence of Start
        Planes of the weak beam.
    levels : array (layer,), um
    layer : float, um
        Distance of layers.
    seed : int

    Notes
    -----
    To the starts come planes through edges of the centre of mass, and in a second round planes through those edges and
    points that no boundary of the first explains. Each is fitted beside those that are more certain, the heights of
    whose steps are free: the strip of a plane that crosses a boundary has a step, which is that of the boundary.
    """
    position, values = cells[:, :3].astype(np.float64), cells[:, [3, 8]].astype(np.float64)
    made = Placed(list(starts), [], [], set(), {})
    free = np.ones(len(cells), bool)
    for turn in range(2):
        for normal, origin, own in edge_planes(cells[free], layer=layer, seed=seed + turn):
            made.starts.append((normal, origin, own, -1))
        if turn:
            rest = points[~_any_beside(points, [made.fits[k] for k in made.accepted], AWAY)]
            made.starts.extend((*one, -1) for one in point_planes(rest))
        _tried(position, values, points, made, len(levels))
        free = ~_any_beside(position, [made.fits[k] for k in made.accepted], AWAY)
    for k in sorted(made.accepted, key=lambda k: (_certainty(made.fits[k]), k)):
        # Some were fitted before others were known; the least certain one goes first if it does not stand beside all.
        others = [made.fits[j] for j in made.accepted if j != k]
        last = made.fits[k] = _beside_others(position, values, made.starts[k], made.fits[k], others)
        if last is None or last.flags or not _long_enough(last, made.starts[k], len(levels)):
            made.accepted.remove(k)
        elif _of_one_line(position, values, points, last, [made.fits[j] for j in made.accepted if j != k]):
            made.accepted.remove(k)
    for k in sorted(made.accepted, key=lambda k: (_certainty(made.fits[k]), k)):
        width = {j: fit.width for j in made.accepted if (fit := made.fits[j])}
        others_width = [width[j] for j in width if j != k]
        if len(others_width) > 1 and width[k] < ALIKE_WIDTH * np.median(others_width):
            made.accepted.remove(k)
    boundaries = [made.fits[k] for k in made.accepted]
    for k in made.accepted:
        others = [fit for j, fit in zip(made.accepted, boundaries, strict=True) if j != k]
        clear = _beside_others(position, values, made.starts[k], made.fits[k], others, CLEAR)
        if clear is not None and not clear.flags:  # of fewer cells: it places a boundary, and makes none more certain
            made.fits[k] = clear._replace(certainty=min(clear.certainty, _certainty(made.fits[k])))
    undecided = [k for k in range(len(made.starts)) if k not in made.accepted]
    made.taken.update(k for k in undecided if _taken(made.starts[k][2], boundaries))
    made.accepted.sort(key=lambda k: (-_certainty(made.fits[k]), k))
    return made


def _long_enough(fit: StepFit, start: Start, layers: int) -> bool:
    """Whether a step has the trace that a wall has; what weak-beam points propose may have less."""
    return start[3] >= 0 or BIN * len(fit.region) >= LEAST_TRACE * layers


def _of_one_line(
    position: np.ndarray, values: np.ndarray, points: np.ndarray, fit: StepFit, others: Sequence[StepFit | None]
) -> bool:
    """Whether a step is what one dislocation does to the lattice: near the line that most of its images are on."""
    axes = in_plane(fit.normal)
    own = points[beside(points, fit, BARRED) & ~_any_beside(points, others, BARRED)]
    if len(own) < 3:
        return False
    flat, angles = (own - fit.origin) @ axes.T, np.deg2rad(np.arange(180.0))
    angle, at = heaviest_line(*flat.T, np.ones(len(flat)), angles, LINE)

    def aside(places: np.ndarray) -> np.ndarray:
        u, v = axes @ (places - fit.origin).T
        return np.asarray(np.abs(u * np.sin(angle) - v * np.cos(angle) - at))

    if np.mean(aside(own) <= LINE) < ONE_LINE:
        return False
    s = (position - fit.origin) @ trace_frame(fit.normal)[0]
    c = int(np.argmax(np.abs(fit.jump)))
    used = beside(position, fit, STRIP) & (np.abs(s) > min(1.0, fit.width)) & np.isfinite(values[:, c])
    used &= ~_any_beside(position, others, 1.5 * BARRED)
    away, side, value = aside(position[used]), np.sign(s[used]), values[used, c]
    steps = []
    for where in (away <= FROM_LINE, away > FROM_LINE):
        sides = [value[where & (side == sign)] for sign in (1, -1)]
        if min(map(len, sides)) < FEWEST_CELLS:
            return True
        steps.append(sides[0].mean() - sides[1].mean())
    return bool(steps[1] * steps[0] < LEAST_STEP * steps[0] ** 2)


def _certainty(fit: StepFit | None) -> float:
    return 0.0 if fit is None or fit.flags else fit.certainty


def _tried(position: np.ndarray, values: np.ndarray, points: np.ndarray, made: Placed, layers: int) -> None:
    """Fit the starts that have no fit yet, and accept those that are boundaries."""
    new = range(len(made.fits), len(made.starts))
    for k in new:
        near = [other for other in made.starts if _parallel(made.starts[k], other)]
        both = [other for other in near if min(made.starts[k][3], other[3]) >= 0]
        fit = _fitted(position, values, made.starts[k], both)
        if fit is None and len(near) > len(both):
            fit = _fitted(position, values, made.starts[k], near)
        made.fits.append(fit)
    for k in sorted(new, key=lambda k: (-_certainty(made.fits[k]), k)):
        others = [made.fits[j] for j in made.accepted]
        if not _certainty(made.fits[k]) and _taken(made.starts[k][2], others):
            made.taken.add(k)
            continue
        fit = made.fits[k] = _beside_others(position, values, made.starts[k], made.fits[k], others)
        if fit is None or fit.flags or any(_alike(fit, other) for other in others):
            continue
        trace = BIN * len(fit.region)
        bright = np.count_nonzero(beside(points, fit, BARRED) & ~_any_beside(points, others, BARRED)) / trace
        known = [made.bright[j] for j in made.accepted]
        enough = not known or bright >= LEAST_BRIGHT * np.median(known)
        if enough and _long_enough(fit, made.starts[k], layers):
            made.accepted.append(k)
            made.bright[k] = bright


def _parallel(first: Start, second: Start) -> bool:
    """Whether two proposed planes share a strip: a fit of one step would take both for one, or lie between."""
    turn = abs(float(first[0] @ second[0]))
    apart = float(np.median(np.abs((second[2] - first[1]) @ first[0]))) if len(second[2]) else np.inf
    return turn > np.cos(np.deg2rad(TURNED)) and ALIKE[1] < apart < 1.5 * STRIP


def _fitted(position: np.ndarray, values: np.ndarray, start: Start, others: Sequence[Start]) -> StepFit | None:
    normal, origin, own, weak = start
    steps = np.stack([_step_of(position, _guessed(o)) for o in others], axis=1) if others else None
    return fit_step(position, values, normal, origin, own, others=steps, grow=weak < 0)


def _guessed(start: Start) -> StepFit:
    """A step at a proposed plane, of a likely width, beside which others are fitted."""
    normal, origin, own, _ = start
    _, along = trace_frame(normal)
    places = np.column_stack([np.floor((own - origin) @ along / BIN) * BIN + BIN / 2, own[:, 2] - origin[2]])
    nothing = np.zeros(0)
    return StepFit(
        normal, origin, np.zeros((3, 3)), nothing, nothing, LIKELY, 0.0, 0.0, False, 0, np.unique(places, axis=0)
    )


def _beside_others(
    position: np.ndarray,
    values: np.ndarray,
    start: Start,
    fit: StepFit | None,
    others: Sequence[StepFit | None],
    clear: float = BARRED,
) -> StepFit | None:
    """The fit made anew beside other boundaries: the heights of their steps are free, cells near them are left out."""
    normal, origin, own, weak = start
    good = fit is not None and not fit.flags
    begin = (fit.normal, fit.origin) if good and fit is not None else (normal, origin)
    mine = np.abs((position - begin[1]) @ trace_frame(begin[0])[0]) < 1.5 * STRIP
    near = [o for o in others if o is not None and not (good and _alike(o, fit))]
    near = [o for o in near if (mine & beside(position, o, FAR)).any()]
    if not near:
        return fit
    steps = np.stack([_step_of(position, o) for o in near], axis=1)
    free = own[~_any_beside(own, near, BARRED)]
    again = fit_step(
        position,
        values,
        *begin,
        free if len(free) > 20 else own,
        barred=_any_beside(position, near, clear),
        others=steps,
        grow=weak < 0,
    )
    if again is None:
        return None
    turn = np.rad2deg(np.arccos(min(1.0, abs(float(again.normal @ normal)))))
    return again._replace(flags=again.flags | (FLAG["turned"] if turn > TURNED else 0))


def _taken(points: np.ndarray, fits: Sequence[StepFit | None]) -> bool:
    """Whether boundaries explain so many points of a proposed plane that it is none of its own."""
    return bool(np.count_nonzero(_any_beside(points, fits, BARRED)) > MOST_TAKEN * len(points))


def _any_beside(position: np.ndarray, fits: Sequence[StepFit | None], reach: float) -> np.ndarray:
    """Places within a distance of any of some boundaries, where it is."""
    near = [beside(position, fit, reach) for fit in fits if fit is not None]
    return np.logical_or.reduce(near) if near else np.zeros(len(position), bool)


def _step_of(position: np.ndarray, fit: StepFit) -> np.ndarray:
    """A step of unit height at a boundary, where it is: (cell,)."""
    out = np.zeros(len(position))
    there = beside(position, fit, FAR)
    across, _ = trace_frame(fit.normal)
    out[there] = 0.5 * erf((position[there] - fit.origin) @ across / (fit.width * np.sqrt(2)))
    return out


def beside(position: np.ndarray, fit: StepFit, reach: float) -> np.ndarray:
    """Cells within a distance of a boundary, where it is."""
    across, _ = trace_frame(fit.normal)
    near = np.flatnonzero(np.abs((position - fit.origin) @ across) < reach)
    out = np.zeros(len(position), bool)
    out[near[_inside(position[near], fit)]] = True
    return out


def _inside(position: np.ndarray, fit: StepFit) -> np.ndarray:
    """Whether a place is along the part of the trace where the boundary is."""
    _, along = trace_frame(fit.normal)
    flat = np.column_stack([(position - fit.origin) @ along / 2.0, position[:, 2] - fit.origin[2]])
    region = fit.region.copy()
    region[:, 0] /= 2.0
    return np.asarray(cKDTree(region).query(flat, distance_upper_bound=1.6)[0] < 1.6)


def _alike(first: StepFit | None, second: StepFit | None) -> bool:
    if first is None or second is None:
        return False
    return same_plane(first.normal, first.origin, second.normal, second.origin)


def same_plane(normal: np.ndarray, origin: np.ndarray, other: np.ndarray, place: np.ndarray) -> bool:
    turn = abs(float(normal @ other))
    apart = min(abs(float((place - origin) @ normal)), abs(float((place - origin) @ other)))
    return turn > np.cos(np.deg2rad(ALIKE[0])) and apart < ALIKE[1]
