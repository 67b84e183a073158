"""The boundaries of a volume: planes of weak-beam points and of lattice steps, in one list, with their errors."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from dfxm_dask.boundaries.placing import LEAST_TRACE, Placed, Start, placed_steps, same_plane
from dfxm_dask.boundaries.planes.mixture import Mixture, layer_spread, probabilities, settled_shares, started
from dfxm_dask.boundaries.planes.plane import Planes, canonical, in_plane
from dfxm_dask.boundaries.planes.plane_search import find_planes
from dfxm_dask.boundaries.planes.uncertainty import bootstrap_planes, reread_planes, restarted_planes
from dfxm_dask.boundaries.step import FLAG, StepFit
from dfxm_dask.boundaries.strip_cells import BIN, binned, closed

FEWEST_LAYERS = 3
BESIDE = 0.5  # um by which weak-beam images are displaced from their wall (measured)
CERTAIN = 2.4
"""Certainty over the root of the number of layers above which a step proposed by edges is a wall. In simulated stacks
of 14 to 16 layers steps of single dislocations reach 2.25; one wall in eight is below."""
WIDE = 1.2  # um: wider than the steps of simulated walls; two boundaries 1.5 um apart cause a step of 1.45 um
LEAST_POINTS = 3  # in a bin of the trace (our choice)


class Walls(NamedTuple):
    """Planes and all properties derived from them.

    Attributes
    ----------
    model : Mixture
    shares : array (point, plane)
    drawn : Planes
        Planes drawn from the covariance of each: first dim ``replicate``.
    covariance : array (plane, 3, 3)
        Covariance of the rotations towards both directions of ``in_plane`` (rad) and of the position along the normal
        (um).
    fits : list of StepFit or None
        The step of every plane; if its flags are not 0 the plane is that of the weak beam.
    reason : array (plane,), int64
        Sum of :data:`~dfxm_dask.boundaries.step.REASONS`.
    cells : array (cell, column), float32
        The input.
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
    """Find all boundaries of a volume; None without any.

    Parameters
    ----------
    points : array (point, xyz), um
    readings : array (reading, point)
        Weights of the points; the first reading counts, the others are other thresholds.
    cells : array (cell, column)
        See :func:`~dfxm_dask.boundaries.cells.on_one_scale`; empty without a centre of mass.
    replicates, seed : int

    Notes
    -----
    Planes are proposed from the weak beam and from oriented edges of the centre of mass; a step surface is fitted to
    each. If the surface is accepted, it replaces the plane. Otherwise a plane of the weak beam remains, with an
    additional error of 0.5 um over its extent, and a plane of edges is dropped. Planes within 6 degree and 1 um of each
    other are one.
    """
    levels = np.unique(np.concatenate([points[:, 2].astype(np.float32), cells[:, 2]])).astype(np.float64)
    if len(levels) < FEWEST_LAYERS or len(np.unique(points[:, 2])) < FEWEST_LAYERS:
        return None
    layer = float(np.median(np.diff(levels)))
    weak = find_planes(points, readings[0], layer=layer, seed=seed)
    shares = probabilities(points, weak) * readings[0][:, None]
    starts: list[Start] = [
        (weak.planes.normal[k], weak.planes.origin[k], points[shares[:, k] > 0.5 * readings[0]], k)
        for k in range(len(weak.planes.sigma))
    ]
    placed = placed_steps(cells, points[readings[0] > 0.5], starts, levels, layer, seed)
    starts, fits = placed.starts, placed.fits
    kept = _with_weak(placed, levels)
    if not kept:
        return None
    normal, origin = (np.array(column) for column in zip(*(_place(placed, *one) for one in kept), strict=True))
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
    covariance, reason = _errors(points, readings, model, shares, kept, starts, fits, len(levels), replicates, seed)
    thickness = np.sqrt(np.maximum(model.planes.sigma**2 - layer_spread(model.planes.normal, layer) ** 2, 0.0))
    drawn = drawn_planes(model.planes, covariance, replicates, seed)
    model = model._replace(planes=model.planes._replace(sigma=np.maximum(thickness, 0.02)))
    return Walls(model, shares, drawn, covariance, [fits[k] for k, _ in kept], reason, cells)


def _with_weak(placed: Placed, levels: np.ndarray) -> list[tuple[int, bool]]:
    """Numbers of the accepted planes, and whether each is located by its step."""
    starts, fits, accepted, taken, _ = placed
    kept = [(k, True) for k in accepted]
    passed = [k for k, f in enumerate(fits) if f is not None and not f.flags]
    for k, (normal, origin, _, weak) in enumerate(starts):
        if weak < 0 or k in passed or k in taken or _weak_trace(starts[k], levels) < LEAST_TRACE:
            continue
        if not any(same_plane(normal, origin, *_place(placed, *one)) for one in kept):
            kept.append((k, False))
    return kept


def _place(placed: Placed, k: int, stepped: bool) -> tuple[np.ndarray, np.ndarray]:
    """Normal and origin of a plane: of its step, or of the proposal."""
    fit, (normal, origin, _, _) = placed.fits[k], placed.starts[k]
    return (fit.normal, fit.origin) if stepped and fit is not None else (normal, origin)


def _weak_trace(start: Start, levels: np.ndarray) -> float:
    """Mean trace in a layer of a plane of the weak beam, um."""
    normal, origin, own, _ = start
    bins, count = np.unique(binned(own, normal, origin, levels), axis=0, return_counts=True)
    bins = bins[count >= LEAST_POINTS]
    return BIN * int(np.count_nonzero(closed(bins, len(levels)))) / max(len(levels), 1) if len(bins) else 0.0


def _errors(
    points: np.ndarray,
    readings: np.ndarray,
    model: Mixture,
    shares: np.ndarray,
    kept: list[tuple[int, bool]],
    starts: list[Start],
    fits: list[StepFit | None],
    layers: int,
    replicates: int,
    seed: int,
) -> tuple[np.ndarray, np.ndarray]:
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
            if starts[k][3] < 0 and fit.certainty < CERTAIN * np.sqrt(layers):
                reason[n] |= FLAG["faint_step"]
            reason[n] |= FLAG["wide_step"] if fit.width > WIDE else 0
            continue
        covariance[n] = _weak_covariance(points, shares[:, n], n, model.planes, drawn, others)
        reason[n] = FLAG["weak_beam_place"] | (fit.flags if fit is not None else FLAG["no_step"])
        if layers < 2 * FEWEST_LAYERS:
            reason[n] |= FLAG["too_few_layers"]
    return covariance, reason


def _weak_covariance(
    points: np.ndarray, shares: np.ndarray, n: int, planes: Planes, drawn: Planes, others: tuple[Planes, ...]
) -> np.ndarray:
    """Covariance of a plane of the weak beam: resampled blocks, other starts and thresholds, and displaced images."""
    normal, origin = planes.normal[n], planes.origin[n]
    axes = in_plane(normal)

    def moves(stack: Planes) -> np.ndarray:
        sign = np.sign(stack.normal[:, n] @ normal)[:, None]
        shift = ((stack.origin[:, n] - origin) * stack.normal[:, n]).sum(axis=1, keepdims=True) * sign
        return np.concatenate([sign * (stack.normal[:, n] @ axes.T), shift], axis=1)

    total = np.cov(moves(drawn), rowvar=False)
    for other in others:
        if len(other.sigma):
            off = moves(other)
            total = total + off.T @ off / len(off)
    mine = shares > 0
    flat = (points[mine] - origin) @ axes.T
    weight = shares[mine] / shares[mine].sum()
    extent = np.sqrt(np.maximum((weight[:, None] * flat**2).sum(axis=0), 0.25)) / 0.29
    return np.asarray(total + np.diag([*(BESIDE / extent) ** 2, BESIDE**2]))


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
        np.stack(normals, axis=1),
        np.stack(origins, axis=1),
        np.tile(planes.sigma, (replicates, 1)),
        np.tile(planes.mass, (replicates, 1)),
    )
