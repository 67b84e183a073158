"""The boundaries of a volume: planes of weak-beam points and of steps of the lattice, one list, with their errors."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.spatial import cKDTree
from scipy.special import erf

from dfxm_dask.boundaries.edges import edge_planes
from dfxm_dask.boundaries.find import find_planes
from dfxm_dask.boundaries.mixture import Mixture, layer_spread, probabilities, settled_shares, started
from dfxm_dask.boundaries.plane import Planes, canonical, in_plane
from dfxm_dask.boundaries.step import BIN, FLAG, STRIP, TURNED, StepFit, binned, closed, fit_step, trace_frame
from dfxm_dask.boundaries.uncertainty import bootstrap_planes, reread_planes, restarted_planes

FEWEST_LAYERS = 3
ALIKE = 6.0, 1.0  # degree and um: planes nearer than both are one (as in the specification)
BESIDE = 0.5  # um by which weak-beam images lie beside their wall (measured)
BARRED, FAR = (
    1.0,
    8.0,
)  # um from a boundary: cells that another one does not see; where its step is allowed for (our choice)
MOST_TAKEN = 0.35  # of the points of a proposed plane, that other boundaries may take (our choice)
LEAST_POINTS = 3  # in a bin of the trace (our choice)
LEAST_TRACE = 5.0  # um of trace in a layer of any plane but a step near weak-beam points (as in the specification)


Start = tuple[np.ndarray, np.ndarray, np.ndarray, int]
"""A proposed plane: normal, origin, its points, and its number among those of the weak beam (-1: of edges)."""


class Walls(NamedTuple):
    """Planes with all that follows from them.

    Attributes
    ----------
    model : Mixture
    shares : array (point, plane)
    drawn : Planes
        Planes drawn from the covariance of each: first dim ``replicate``.
    covariance : array (plane, 3, 3)
        Of the turns towards both directions of ``in_plane`` (rad) and of the place along the normal (um).
    fits : list of StepFit or None
        The step of every plane; where its flags are not 0 the plane is that of the weak beam.
    reason : array (plane,), int64
        Sum of :data:`~dfxm_dask.boundaries.step.REASONS`.
    cells : array (cell, column), float32
        As given.
    """

    model: Mixture
    shares: np.ndarray
    drawn: Planes
    covariance: np.ndarray
    fits: list[StepFit | None]
    reason: np.ndarray
    cells: np.ndarray


def find_walls(
    points: np.ndarray, readings: np.ndarray, cells: np.ndarray, *, replicates: int, seed: int
) -> Walls | None:
    """All boundaries, or None.

    Parameters
    ----------
    points : array (point, xyz), um
    readings : array (reading, point)
        Weights of the points; those of the first count, others are other thresholds.
    cells : array (cell, column)
        Of :func:`~dfxm_dask.boundaries.cells.on_one_scale`; none where no centre of mass is known.
    replicates, seed : int

    Notes
    -----
    Planes of the weak beam and of oriented edges of the centre of mass are proposed; to each a step surface is fitted.
    Where it is accepted it is the plane; a plane of the weak beam without one stays, with half a um more of error over
    its extent; a plane of edges without one goes. Planes within 6 degree and 1 um of each other are one.
    """
    levels = np.unique(np.concatenate([points[:, 2], cells[:, 2].astype(np.float64)]))
    if len(levels) < FEWEST_LAYERS or len(np.unique(points[:, 2])) < FEWEST_LAYERS:
        return None
    layer = float(np.median(np.diff(levels)))
    weak = find_planes(points, readings[0], layer=layer, seed=seed)
    shares = probabilities(points, weak) * readings[0][:, None]
    starts: list[Start] = [
        (weak.planes.normal[k], weak.planes.origin[k], points[shares[:, k] > 0.5 * readings[0]], k)
        for k in range(len(weak.planes.sigma))
    ]
    position, values = cells[:, :3].astype(np.float64), cells[:, [3, 8]].astype(np.float64)
    for normal, origin, own in edge_planes(cells, layer=layer, seed=seed):
        starts.append((normal, origin, own, -1))
    fits, accepted, taken = _fitted(position, values, starts, len(levels))
    kept = _with_weak(starts, fits, accepted, taken, levels)
    if not kept:
        return None
    normal = np.array([fits[k].normal if ok else starts[k][0] for k, ok in kept])  # type: ignore[union-attr]
    origin = np.array([fits[k].origin if ok else starts[k][1] for k, ok in kept])  # type: ignore[union-attr]
    spread = np.array([weak.planes.sigma[starts[k][3]] if starts[k][3] >= 0 else 0.5 for k, _ in kept])
    planes = Planes(canonical(normal), origin, spread, np.ones(len(kept)))
    same = all(starts[k][3] == n and not ok for n, (k, ok) in enumerate(kept)) and len(kept) == len(weak.planes.sigma)
    model = weak
    if not same:
        model = started(points, planes, weak.edge, 0.6, layer)
        model = settled_shares(points, readings[0], model)
    if not len(model.planes.sigma):
        return None
    order = np.argsort(-model.planes.mass, kind="stable")
    model = model._replace(
        planes=Planes(*(c[order] for c in model.planes)),
        shares=model.shares[:, np.concatenate([[0], order + 1])],
        ends=model.ends if same else np.zeros((0, 5)),
    )
    kept = [kept[k] for k in order]
    shares = probabilities(points, model) * readings[0][:, None]
    covariance, reason = _errors(points, readings, model, shares, kept, fits, len(levels), replicates, seed)
    thickness = np.sqrt(np.maximum(model.planes.sigma**2 - layer_spread(model.planes.normal, layer) ** 2, 0.0))
    drawn = drawn_planes(model.planes, covariance, replicates, seed)
    model = model._replace(planes=model.planes._replace(sigma=np.maximum(thickness, 0.02)))
    return Walls(model, shares, drawn, covariance, [fits[k] for k, _ in kept], reason, cells)


def _fitted(
    position: np.ndarray, values: np.ndarray, starts: list[Start], layers: int
) -> tuple[list[StepFit | None], list[int], set[int]]:
    """A step for every start; numbers of those that are boundaries, most certain first, and of those that others take.

    Each is fitted beside those that are more certain, whose steps are taken off: in the strip of a plane that crosses a
    boundary there is a step, which is that of the boundary.
    """
    fits = [fit_step(position, values, n, o, own, grow=k < 0) for n, o, own, k in starts]
    first = [k for k, f in enumerate(fits) if f is not None and not f.flags]
    order = sorted(first, key=lambda k: (-fits[k].certainty, k))  # type: ignore[union-attr]
    order += [k for k in range(len(fits)) if k not in first]
    accepted: list[int] = []
    taken = set()
    for k in order:
        near = _near_any(starts[k][2], [fits[j] for j in accepted])  # type: ignore[misc]
        if near.mean() > MOST_TAKEN and k not in first:  # what was proposed is mostly those others
            taken.add(k)
            continue
        fit = _beside_others(position, values, starts[k], fits[k], [fits[j] for j in accepted])  # type: ignore[misc]
        fits[k] = fit
        if fit is None or fit.flags or any(_alike(fit, fits[j]) for j in accepted):
            continue
        if starts[k][3] >= 0 or _trace(fit, layers) >= LEAST_TRACE:
            accepted.append(k)
    for k in list(accepted):  # those that were fitted before others were known
        others = [fits[j] for j in accepted if j != k]
        again = _beside_others(position, values, starts[k], fits[k], others)  # type: ignore[arg-type]
        if again is not None and not again.flags:
            fits[k] = again
    return fits, sorted(accepted, key=lambda k: (-fits[k].certainty, k)), taken  # type: ignore[union-attr]


def _beside_others(
    position: np.ndarray, values: np.ndarray, start: Start, fit: StepFit | None, others: list[StepFit]
) -> StepFit | None:
    """The fit made anew beside other boundaries: the heights of their steps are free, cells near them are left out."""
    normal, origin, own, weak = start
    good = fit is not None and not fit.flags
    begin = (fit.normal, fit.origin) if good and fit is not None else (normal, origin)
    mine = np.abs((position - begin[1]) @ trace_frame(begin[0])[0]) < 1.5 * STRIP
    others = [o for o in others if not (good and _alike(o, fit)) and (mine & _beside(position, o, FAR)).any()]
    if not others:
        return fit
    barred = np.logical_or.reduce([_beside(position, o) for o in others])
    steps = np.stack([_step_of(position, o) for o in others], axis=1)
    free = own[~_near_any(own, others)]
    again = fit_step(
        position, values, *begin, free if len(free) > 20 else own, barred=barred, others=steps, grow=weak < 0
    )
    if again is None:
        return None
    turn = np.rad2deg(np.arccos(min(1.0, abs(float(again.normal @ normal)))))
    return again._replace(flags=again.flags | (FLAG["turned"] if turn > TURNED else 0))


def _step_of(position: np.ndarray, fit: StepFit) -> np.ndarray:
    """A step of unit height at a boundary, where it is: (cell,)."""
    out = np.zeros(len(position))
    there = _beside(position, fit, FAR)
    across, _ = trace_frame(fit.normal)
    out[there] = 0.5 * erf((position[there] - fit.origin) @ across / (fit.width * np.sqrt(2)))
    return out


def _beside(position: np.ndarray, fit: StepFit, reach: float = BARRED) -> np.ndarray:
    """Cells within a distance of a boundary, where it is."""
    across, _ = trace_frame(fit.normal)
    near = np.flatnonzero(np.abs((position - fit.origin) @ across) < reach)
    out = np.zeros(len(position), bool)
    out[near[_inside(position[near], fit)]] = True
    return out


def _near_any(points: np.ndarray, fits: list[StepFit]) -> np.ndarray:
    out = np.zeros(len(points), bool)
    for fit in fits:
        across, _ = trace_frame(fit.normal)
        out |= (np.abs((points - fit.origin) @ across) < 1.0) & _inside(points, fit)
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
    return _same_plane(first.normal, first.origin, second.normal, second.origin)


def _same_plane(normal: np.ndarray, origin: np.ndarray, other: np.ndarray, place: np.ndarray) -> bool:
    turn = abs(float(normal @ other))
    apart = min(abs(float((place - origin) @ normal)), abs(float((place - origin) @ other)))
    return turn > np.cos(np.deg2rad(ALIKE[0])) and apart < ALIKE[1]


def _with_weak(
    starts: list[Start], fits: list[StepFit | None], accepted: list[int], taken: set[int], levels: np.ndarray
) -> list[tuple[int, bool]]:
    """Numbers of the planes that stay, and whether their step is their place."""
    kept = [(k, True) for k in accepted]
    passed = [k for k, f in enumerate(fits) if f is not None and not f.flags]
    for k, (normal, origin, _, weak) in enumerate(starts):
        if weak < 0 or k in passed or k in taken or _weak_trace(starts[k], levels) < LEAST_TRACE:
            continue
        near = [(fits[j].normal, fits[j].origin) if ok else (starts[j][0], starts[j][1]) for j, ok in kept]  # type: ignore[union-attr]
        if not any(_same_plane(normal, origin, *one) for one in near):
            kept.append((k, False))
    return kept


def _trace(fit: StepFit, layers: int) -> float:
    """Mean trace in a layer, um."""
    return BIN * len(fit.region) / max(layers, 1)


def _weak_trace(start: Start, levels: np.ndarray) -> float:
    """Mean trace in a layer of a plane of the weak beam, um."""
    normal, origin, own, _ = start
    bins, count = np.unique(binned(own, normal, origin, levels), axis=0, return_counts=True)
    bins = bins[count >= LEAST_POINTS]
    return BIN * int(np.count_nonzero(closed(bins, len(levels)))) / max(len(levels), 1) if len(bins) else 0.0


def _errors(
    points: np.ndarray, readings: np.ndarray, model: Mixture, shares: np.ndarray, kept: list[tuple[int, bool]],
    fits: list[StepFit | None], layers: int, replicates: int, seed: int,
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """Covariance (plane, 3, 3) and reason (plane,) of every plane."""
    count = len(kept)
    covariance, reason = np.full((count, 3, 3), np.nan), np.zeros(count, np.int64)
    weak = [n for n, (_, ok) in enumerate(kept) if not ok]
    if weak:
        drawn = bootstrap_planes(points, readings[0], model, replicates=replicates, seed=seed)
        others = (
            restarted_planes(points, readings[0], model, seed=seed),
            reread_planes(points, list(readings[1:]), model),
        )
    for n, (k, ok) in enumerate(kept):
        fit = fits[k]
        if ok and fit is not None:
            covariance[n] = fit.covariance
            reason[n] = FLAG["curved"] if fit.curved else 0
            continue
        covariance[n] = _weak_covariance(points, shares[:, n], n, model.planes, drawn, others)
        reason[n] = FLAG["weak_beam_place"] | (fit.flags if fit is not None else FLAG["no_step"])
        if layers < 2 * FEWEST_LAYERS:
            reason[n] |= FLAG["too_few_layers"]
    return covariance, reason


def _weak_covariance(
    points: np.ndarray, shares: np.ndarray, n: int, planes: Planes, drawn: Planes, others: tuple[Planes, ...]
) -> np.ndarray:
    """Covariance of a plane of the weak beam: drawn blocks, other starts and thresholds, and the place of images."""
    normal, origin = planes.normal[n], planes.origin[n]
    axes = in_plane(normal)

    def moves(stack: Planes) -> np.ndarray:
        sign = np.sign(stack.normal[:, n] @ normal)[:, None]
        place = ((stack.origin[:, n] - origin) * stack.normal[:, n]).sum(axis=1, keepdims=True) * sign
        return np.concatenate([sign * (stack.normal[:, n] @ axes.T), place], axis=1)

    found = np.cov(moves(drawn), rowvar=False)
    for other in others:
        if len(other.sigma):
            off = moves(other)
            found = found + off.T @ off / len(off)
    mine = shares > 0
    flat = (points[mine] - origin) @ axes.T
    weight = shares[mine] / shares[mine].sum()
    extent = np.sqrt(np.maximum((weight[:, None] * flat**2).sum(axis=0), 0.25)) / 0.29
    return np.asarray(found + np.diag([*(BESIDE / extent) ** 2, BESIDE**2]))


def drawn_planes(planes: Planes, covariance: np.ndarray, replicates: int, seed: int) -> Planes:
    """Planes drawn from their covariance; each array with a first dim ``replicate``."""
    rng = np.random.default_rng(seed)
    normals, origins = [], []
    for normal, origin, spread in zip(planes.normal, planes.origin, covariance, strict=True):
        values, vectors = np.linalg.eigh(np.where(np.isfinite(spread), spread, 0.0))
        moves = rng.normal(size=(replicates, 3)) * np.sqrt(np.maximum(values, 0.0)) @ vectors.T
        turned = normal + moves[:, :2] @ in_plane(normal)
        normals.append(turned / np.linalg.norm(turned, axis=1, keepdims=True))
        origins.append(origin + moves[:, 2:] * normal)
    return Planes(
        np.stack(normals, axis=1), np.stack(origins, axis=1),
        np.tile(planes.sigma, (replicates, 1)), np.tile(planes.mass, (replicates, 1)),
    )  # fmt: skip
