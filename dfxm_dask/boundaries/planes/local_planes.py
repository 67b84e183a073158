"""Local planes: hypotheses from points within some 20 um of each other."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit

from dfxm_dask.boundaries.planes.plane import canonical, plane_through
from dfxm_dask.boundaries.planes.sums import cell_numbers

REACH = 20.0
"""Radius in um of hypotheses: three spacings of the sparsest walls (our choice)."""

NEAR = 1.5  # um: T of local hypotheses; three to four standard deviations of a dislocation's image (our choice)
REFINED = 60  # number of the best local planes that are refined


class Cloud(NamedTuple):
    """Points sorted by cells as wide as the reach: the range of each cell, the cells around it (-1: none), and the cell
    of each point."""

    points: np.ndarray
    weights: np.ndarray
    starts: np.ndarray
    stops: np.ndarray
    neighbours: np.ndarray
    cell: np.ndarray


class Hypotheses(NamedTuple):
    """Local planes: normal and centre (hypothesis, xyz), and score, descending."""

    normal: np.ndarray
    origin: np.ndarray
    score: np.ndarray


@njit(nogil=True, cache=True)
def _ball(cloud, around, centre, reach, index):
    """Points within reach of a centre; those of neighbouring cells along z are one range of the sorted points."""
    points, starts, stops = cloud.points, cloud.starts, cloud.stops
    count = 0
    for m in range(around.shape[0]):
        for i in range(starts[around[m]], stops[around[m]]):
            d0, d1, d2 = points[i, 0] - centre[0], points[i, 1] - centre[1], points[i, 2] - centre[2]
            if d0 * d0 + d1 * d1 + d2 * d2 <= reach * reach:
                index[count] = i
                count += 1
    return count


@njit(nogil=True, cache=True, fastmath={"reassoc"})  # vectorises the sum over points
def _score(x, y, z, weights, count, normal, offset):
    """Sum of w (1 - r²) over the first points, r the distance from a plane; normal and offset in units of its T."""
    total = 0.0
    for i in range(count):
        r = normal[0] * x[i] + normal[1] * y[i] + normal[2] * z[i] - offset
        total += weights[i] * max(1 - r * r, 0.0)
    return total


@njit(nogil=True, cache=True)
def _local_planes(cloud, seeds, draws, reach, near, best):
    """The best of some planes through three points around every seed."""
    points, weights = cloud.points, cloud.weights
    normals, origins, scores = best
    index = np.empty(points.shape[0], np.int64)
    x, y, z, heavy = np.empty((4, points.shape[0]))
    for m in range(seeds.size):
        around = cloud.neighbours[cloud.cell[seeds[m]]]
        count = _ball(cloud, around[around >= 0], points[seeds[m]], reach, index)
        scores[m] = 0.0
        if count < 3:
            continue
        mass = 0.0
        for i in range(count):
            x[i], y[i], z[i] = points[index[i], 0], points[index[i], 1], points[index[i], 2]
            heavy[i] = weights[index[i]]
            mass += heavy[i]
        for attempt in range(draws.shape[1]):
            a = points[seeds[m]]
            b = points[index[int(draws[m, attempt, 0] * count)]]
            c = points[index[int(draws[m, attempt, 1] * count)]]
            n = np.cross(b - a, c - a)
            length = np.sqrt((n * n).sum())
            if length < 0.02 * reach * reach:  # three points nearly on one line
                continue
            n /= length
            offset = (n * a).sum()
            # minus the score of uniformly distributed points in the ball
            score = _score(x, y, z, heavy, count, n / near, offset / near) - mass * near / reach
            if score > scores[m]:
                scores[m], normals[m], origins[m] = score, n, a


def local_planes(
    points: np.ndarray, weights: np.ndarray, *, seeds: int = 400, draws: int = 40, reach: float = REACH, seed: int = 0
) -> Hypotheses:
    """Planes through points near each other, spread over the cloud.

    Parameters
    ----------
    points, weights : array (point, xyz), um, and (point,)
        Points of weight 0 are left out.
    seeds : int
        Number of positions, drawn in proportion to the weights.
    draws : int
        Planes tried at each; the best is kept.
    reach : float, um
    seed : int

    Returns
    -------
    Hypotheses
        Of positive score: sum of w (1 - r²/T²) over points within T and ``reach``, minus that of uniform points.

    Notes
    -----
    Local draws hit one wall more often than draws from the whole cloud: if a fraction q of the points within reach
    belongs to the wall, three points do with probability q³ (for 0.4, one draw in sixteen).
    """
    used = weights > 0
    points, weights = points[used], weights[used]
    if len(points) < 3:
        return Hypotheses(np.zeros((0, 3)), np.zeros((0, 3)), np.zeros(0))
    order = np.argsort(cell_numbers(points, reach), kind="stable")
    points, weights = points[order], weights[order]
    cells, starts, cell, counts = np.unique(
        cell_numbers(points, reach), return_index=True, return_inverse=True, return_counts=True
    )
    steps = np.array([(a, b, c) for a in (-1, 0, 1) for b in (-1, 0, 1) for c in (-1, 0, 1)])
    numbers = np.stack([cell_numbers(points[starts] + reach * step, reach) for step in steps], axis=1)
    position = np.minimum(np.searchsorted(cells, numbers), len(cells) - 1)
    neighbours = np.where(cells[position] == numbers, position, -1)
    rng = np.random.default_rng(seed)
    total = np.cumsum(weights)
    chosen = np.minimum(np.searchsorted(total, (np.arange(seeds) + rng.uniform()) / seeds * total[-1]), len(points) - 1)
    normals, origins, scores = hypotheses = Hypotheses(np.zeros((seeds, 3)), np.zeros((seeds, 3)), np.zeros(seeds))
    cloud = Cloud(points, weights, starts, starts + counts, neighbours, cell.reshape(-1))
    _local_planes(cloud, chosen, rng.uniform(size=(seeds, draws, 2)), reach, NEAR, hypotheses)
    best = np.argsort(-scores, kind="stable")[: min(REFINED, np.count_nonzero(scores > 0))]
    for m in best:
        ball = ((points - origins[m]) ** 2).sum(axis=1) <= reach**2
        close, heavy = points[ball], weights[ball]
        for _ in range(3):
            r = (close - origins[m]) @ normals[m] / NEAR
            soft = np.maximum(1 - r * r, 0) ** 2 * heavy
            if np.count_nonzero(soft) < 3:
                break
            normals[m], origins[m], _ = plane_through(close, soft)
    return Hypotheses(canonical(normals[best]), origins[best], scores[best])


def different(found: Hypotheses, most: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """The best hypotheses, excluding those within 3 degree and 2 um of a better one."""
    kept: list[tuple[np.ndarray, np.ndarray]] = []
    for normal, origin in zip(found.normal, found.origin, strict=True):
        if all(abs(n @ normal) < np.cos(np.deg2rad(3.0)) or abs((o - origin) @ n) > 2.0 for n, o in kept):
            kept.append((normal, origin))
        if len(kept) == most:
            break
    return kept
