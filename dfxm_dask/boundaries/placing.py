"""Boundaries located at their steps, one beside the other; data explained by one boundary support no other one."""

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

ALIKE = 6.0, 1.0  # degree and um: planes closer than both are one (as in the specification)
BARRED = 1.0  # um from a boundary: cells that are not used for another one (our choice)
CLEAR = 2.0  # um from a boundary: the same for the last fit, which keeps the ends of half planes apart (our choice)
FAR = 8.0  # um from a boundary within which its step enters other fits (our choice)
AWAY = 1.2  # um from boundaries: nearer edges belong to them (our choice)
MOST_TAKEN = 0.35  # of the points of a proposed plane that may belong to other boundaries (our choice)
ALIKE_WIDTH = 0.45
"""Fraction of the median width of the steps of other boundaries below which a step is rejected: all are broadened
equally, and the effects of single lines are sharper (set on simulated walls)."""
LIKELY = 0.5  # um: assumed width of the step at a proposed plane, before the fit (our choice)
LEAST_BRIGHT = 0.25  # points of the weak beam per um of trace, over the median of other boundaries (our choice)
ONE_LINE, FROM_LINE = 0.75, 4.0
"""Fraction of points on one line, and um from that line, of a step that a single dislocation may cause."""
LEAST_STEP = 0.5
"""Least ratio of the step farther from that line to the step near it, for a wall (set on simulated walls and on random
lines of another simulator)."""
FEWEST_CELLS = 50  # on each side of a step that is examined by itself (our choice)
LEAST_TRACE = 5.0  # um of trace in a layer of a plane proposed by edges (as in the specification)

Start = tuple[np.ndarray, np.ndarray, np.ndarray, int]
"""A proposed plane: normal, origin, its points, and its number among those of the weak beam (-1: from edges)."""


class Placed(NamedTuple):
    """Proposed planes and their steps.

    Attributes
    ----------
    starts : list of Start
    fits : list of StepFit or None
        The step of every start.
    accepted : list of int
        Starts accepted as boundaries, most certain first.
    taken : set of int
        Starts with most of their points on accepted boundaries.
    bright : dict of int to float
        Points of the weak beam per um of trace of the accepted starts.
    """

    starts: list[Start]
    fits: list[StepFit | None]
    accepted: list[int]
    taken: set[int]
    bright: dict[int, float]


def placed_steps(
    cells: np.ndarray, points: np.ndarray, starts: Sequence[Start], levels: np.ndarray, layer: float, seed: int
) -> Placed:
    """Locate boundaries at steps of the centre of mass.

    Parameters
    ----------
    cells : array (cell, column)
        See :func:`~dfxm_dask.boundaries.cells.on_one_scale`.
    points : array (point, xyz), um
        Points of the weak beam: a step without images is not a wall of dislocations.
    starts : sequence of Start
        Planes of the weak beam.
    levels : array (layer,), um
    layer : float, um
        Distance of layers.
        Distance of layers.
    seed : int

    Notes
    -----
    Further starts are planes through edges of the centre of mass, and in a second round planes through edges and points
    that no boundary of the first round explains. Each is fitted beside the more certain ones, whose step heights are
    free parameters: the strip of a plane that crosses a boundary contains the step of that boundary.
    """
    position, values = cells[:, :3].astype(np.float64), cells[:, [3, 8]].astype(np.float64)
    placed = Placed(list(starts), [], [], set(), {})
    free = np.ones(len(cells), bool)
    for turn in range(2):
        for normal, origin, own in edge_planes(cells[free], layer=layer, seed=seed + turn):
            placed.starts.append((normal, origin, own, -1))
        if turn:
            rest = points[~_any_beside(points, [placed.fits[k] for k in placed.accepted], AWAY)]
            placed.starts.extend((*one, -1) for one in point_planes(rest))
        _tried(position, values, points, placed, len(levels))
        free = ~_any_beside(position, [placed.fits[k] for k in placed.accepted], AWAY)
    for k in sorted(placed.accepted, key=lambda k: (_certainty(placed.fits[k]), k)):
        # Some fits preceded others; the least certain is dropped first unless its step persists beside all others.
        others = [placed.fits[j] for j in placed.accepted if j != k]
        last = placed.fits[k] = _beside_others(position, values, placed.starts[k], placed.fits[k], others)
        if last is None or last.flags or not _long_enough(last, placed.starts[k], len(levels)):
            placed.accepted.remove(k)
        elif _of_one_line(position, values, points, last, [placed.fits[j] for j in placed.accepted if j != k]):
            placed.accepted.remove(k)
    for k in sorted(placed.accepted, key=lambda k: (_certainty(placed.fits[k]), k)):
        width = {j: fit.width for j in placed.accepted if (fit := placed.fits[j])}
        others_width = [width[j] for j in width if j != k]
        if len(others_width) > 1 and width[k] < ALIKE_WIDTH * np.median(others_width):
            placed.accepted.remove(k)
    boundaries = [placed.fits[k] for k in placed.accepted]
    for k in placed.accepted:
        others = [fit for j, fit in zip(placed.accepted, boundaries, strict=True) if j != k]
        clear = _beside_others(position, values, placed.starts[k], placed.fits[k], others, CLEAR)
        if clear is not None and not clear.flags:  # fewer cells: improves the position, does not add certainty
            placed.fits[k] = clear._replace(certainty=min(clear.certainty, _certainty(placed.fits[k])))
    undecided = [k for k in range(len(placed.starts)) if k not in placed.accepted]
    placed.taken.update(k for k in undecided if _taken(placed.starts[k][2], boundaries))
    placed.accepted.sort(key=lambda k: (-_certainty(placed.fits[k]), k))
    return placed


def _long_enough(fit: StepFit, start: Start, layers: int) -> bool:
    """Whether a step has the trace of a wall; steps proposed by weak-beam points may be shorter."""
    return start[3] >= 0 or BIN * len(fit.region) >= LEAST_TRACE * layers


def _of_one_line(
    position: np.ndarray, values: np.ndarray, points: np.ndarray, fit: StepFit, others: Sequence[StepFit | None]
) -> bool:
    """Whether a single dislocation may cause a step: it is limited to the line that contains most of its images."""
    axes = in_plane(fit.normal)
    own = points[beside(points, fit, BARRED) & ~_any_beside(points, others, BARRED)]
    if len(own) < 3:
        return False
    flat, angles = (own - fit.origin) @ axes.T, np.deg2rad(np.arange(180.0))
    angle, at = heaviest_line(*flat.T, np.ones(len(flat)), angles, LINE)

    def aside(positions: np.ndarray) -> np.ndarray:
        u, v = axes @ (positions - fit.origin).T
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
    """Certainty of a fit; 0 without a fit or with flags."""
    return 0.0 if fit is None or fit.flags else fit.certainty


def _tried(position: np.ndarray, values: np.ndarray, points: np.ndarray, placed: Placed, layers: int) -> None:
    """Fit the starts that have no fit yet, and accept those that are boundaries."""
    new = range(len(placed.fits), len(placed.starts))
    for k in new:
        near = [other for other in placed.starts if _parallel(placed.starts[k], other)]
        both = [other for other in near if min(placed.starts[k][3], other[3]) >= 0]
        fit = _fitted(position, values, placed.starts[k], both)
        if fit is None and len(near) > len(both):
            fit = _fitted(position, values, placed.starts[k], near)
        placed.fits.append(fit)
    for k in sorted(new, key=lambda k: (-_certainty(placed.fits[k]), k)):
        others = [placed.fits[j] for j in placed.accepted]
        if not _certainty(placed.fits[k]) and _taken(placed.starts[k][2], others):
            placed.taken.add(k)
            continue
        fit = placed.fits[k] = _beside_others(position, values, placed.starts[k], placed.fits[k], others)
        if fit is None or fit.flags or any(_alike(fit, other) for other in others):
            continue
        trace = BIN * len(fit.region)
        bright = np.count_nonzero(beside(points, fit, BARRED) & ~_any_beside(points, others, BARRED)) / trace
        accepted_bright = [placed.bright[j] for j in placed.accepted]
        enough = not accepted_bright or bright >= LEAST_BRIGHT * np.median(accepted_bright)
        if enough and _long_enough(fit, placed.starts[k], layers):
            placed.accepted.append(k)
            placed.bright[k] = bright


def _parallel(first: Start, second: Start) -> bool:
    """Whether two proposed planes share a strip, so that a fit of one step would merge them or lie between them."""
    turn = abs(float(first[0] @ second[0]))
    apart = float(np.median(np.abs((second[2] - first[1]) @ first[0]))) if len(second[2]) else np.inf
    return turn > np.cos(np.deg2rad(TURNED)) and ALIKE[1] < apart < 1.5 * STRIP


def _fitted(position: np.ndarray, values: np.ndarray, start: Start, others: Sequence[Start]) -> StepFit | None:
    """Fit the step of a start beside the likely steps of other starts."""
    normal, origin, own, weak = start
    steps = np.stack([_step_of(position, _guessed(o)) for o in others], axis=1) if others else None
    return fit_step(position, values, normal, origin, own, others=steps, grow=weak < 0)


def _guessed(start: Start) -> StepFit:
    """A step of likely width at a proposed plane, for the fits of others."""
    normal, origin, own, _ = start
    _, along = trace_frame(normal)
    region = np.column_stack([np.floor((own - origin) @ along / BIN) * BIN + BIN / 2, own[:, 2] - origin[2]])
    nothing = np.zeros(0)
    return StepFit(
        normal, origin, np.zeros((3, 3)), nothing, nothing, LIKELY, 0.0, 0.0, False, 0, np.unique(region, axis=0)
    )


def _beside_others(
    position: np.ndarray,
    values: np.ndarray,
    start: Start,
    fit: StepFit | None,
    others: Sequence[StepFit | None],
    clear: float = BARRED,
) -> StepFit | None:
    """Repeat a fit beside other boundaries: the heights of their steps are free, cells near them are left out."""
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
    """Whether boundaries explain so large a part of a proposed plane that it is not separate."""
    return bool(np.count_nonzero(_any_beside(points, fits, BARRED)) > MOST_TAKEN * len(points))


def _any_beside(position: np.ndarray, fits: Sequence[StepFit | None], reach: float) -> np.ndarray:
    """Positions within a distance of the existing part of any boundary."""
    near = [beside(position, fit, reach) for fit in fits if fit is not None]
    return np.logical_or.reduce(near) if near else np.zeros(len(position), bool)


def _step_of(position: np.ndarray, fit: StepFit) -> np.ndarray:
    """A step of unit height at a boundary, within its extent: (cell,)."""
    out = np.zeros(len(position))
    near = beside(position, fit, FAR)
    across, _ = trace_frame(fit.normal)
    out[near] = 0.5 * erf((position[near] - fit.origin) @ across / (fit.width * np.sqrt(2)))
    return out


def beside(position: np.ndarray, fit: StepFit, reach: float) -> np.ndarray:
    """Cells within a distance of a boundary, within its extent."""
    across, _ = trace_frame(fit.normal)
    near = np.flatnonzero(np.abs((position - fit.origin) @ across) < reach)
    out = np.zeros(len(position), bool)
    out[near[_inside(position[near], fit)]] = True
    return out


def _inside(position: np.ndarray, fit: StepFit) -> np.ndarray:
    """Whether positions lie along the part of the trace that belongs to the boundary."""
    _, along = trace_frame(fit.normal)
    flat = np.column_stack([(position - fit.origin) @ along / 2.0, position[:, 2] - fit.origin[2]])
    region = fit.region.copy()
    region[:, 0] /= 2.0
    return np.asarray(cKDTree(region).query(flat, distance_upper_bound=1.6)[0] < 1.6)


def _alike(first: StepFit | None, second: StepFit | None) -> bool:
    """Whether two fits are of the same plane."""
    if first is None or second is None:
        return False
    return same_plane(first.normal, first.origin, second.normal, second.origin)


def same_plane(normal: np.ndarray, origin: np.ndarray, other: np.ndarray, position: np.ndarray) -> bool:
    """Whether two planes, given by normal and origin, are closer than :data:`ALIKE`."""
    turn = abs(float(normal @ other))
    apart = min(abs(float((position - origin) @ normal)), abs(float((position - origin) @ other)))
    return turn > np.cos(np.deg2rad(ALIKE[0])) and apart < ALIKE[1]
