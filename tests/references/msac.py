"""Planes one after another (MSAC): the published route, after Yildirim et al., Sci. Rep. 13, 3834 (2023).

Its parameters are not published: threshold, number of draws and sample are our choice. Cost: Torr and Zisserman,
Comput. Vis. Image Underst. 78, 138 (2000).
"""

from __future__ import annotations

import numpy as np
from numba import njit
from scipy import ndimage

from dfxm_dask.boundaries.planes.plane import Planes, checked_points, plane_through, thinned
from dfxm_dask.errors import InputError


@njit(nogil=True, cache=True)
def _msac_costs(points, weights, draws, threshold, costs, normals):  # type: ignore[no-untyped-def]
    limit = threshold * threshold
    for m in range(draws.shape[0]):
        a, b, c = points[draws[m, 0]], points[draws[m, 1]], points[draws[m, 2]]
        n = np.cross(b - a, c - a)
        length = np.sqrt(n[0] * n[0] + n[1] * n[1] + n[2] * n[2])
        if length < 1e-9 * ((b - a) ** 2).sum() + 1e-12:
            costs[m] = np.inf
            continue
        n /= length
        offset = n[0] * a[0] + n[1] * a[1] + n[2] * a[2]
        cost = 0.0
        for i in range(points.shape[0]):
            r = n[0] * points[i, 0] + n[1] * points[i, 1] + n[2] * points[i, 2] - offset
            cost += weights[i] * min(r * r, limit)
        costs[m] = cost
        normals[m] = n


def msac_plane(
    points: np.ndarray,
    weights: np.ndarray | None = None,
    *,
    threshold: float = 2.0,
    draws: int = 500,
    most: int = 20_000,
    seed: int = 0,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The one plane of least MSAC cost, and the points near it."""
    if not threshold > 0:
        raise InputError("msac_plane: threshold", f"is {threshold!r} um", "give a distance above zero")
    if draws < 1:
        raise InputError("msac_plane: draws", f"is {draws!r}", "try at least one plane")
    used = np.ones(len(points), bool) if weights is None else np.asarray(weights) > 0
    points, weights = checked_points("msac_plane", points, weights)
    if len(points) < 3:
        raise InputError("msac_plane", f"{len(points)} points", "a plane needs at least three")
    sample, sample_weights = thinned(points, weights, most=most, seed=seed)
    if len(sample) < 3:
        raise InputError("msac_plane: most", f"is {most}", "take at least three points")
    chosen = np.random.default_rng(seed).integers(0, len(sample), (draws, 3))
    costs, normals = np.empty(draws), np.zeros((draws, 3))
    _msac_costs(sample, sample_weights, chosen, threshold, costs, normals)
    best = int(np.argmin(costs))
    if not np.isfinite(costs[best]):
        raise InputError("msac_plane", f"the {len(points)} points lie on one line", "give points that span a plane")
    normal, origin = normals[best], sample[chosen[best, 0]]
    for _ in range(5):
        close = np.abs((points - origin) @ normal) <= threshold
        normal, origin, variances = plane_through(points[close], weights[close])
        if variances[1] <= 1e-9 * variances[2] + 1e-12:
            raise InputError("msac_plane", "the points near it lie on one line", "give points that span a plane")
    near = np.zeros(len(used), bool)
    near[used] = np.abs((points - origin) @ normal) <= threshold
    return normal, origin, near


def largest_part(points: np.ndarray, edge: float) -> np.ndarray:
    """Points in the largest set of touching cells, as a mask (point,), bool; ``edge`` of a cell in um."""
    cells = np.floor(points / edge).astype(np.int64)
    cells -= cells.min(axis=0)
    filled = np.zeros(cells.max(axis=0) + 1, np.int64)
    np.add.at(filled, tuple(cells.T), 1)
    label, _ = ndimage.label(filled, np.ones((3, 3, 3)))
    of_point = label[tuple(cells.T)]
    return of_point == np.bincount(of_point).argmax()


def sequential_msac(
    points: np.ndarray,
    weights: np.ndarray | None = None,
    *,
    planes: int,
    threshold: float = 2.0,
    draws: int = 500,
    cell: float = 4.0,
    seed: int = 0,
) -> Planes:
    """Planes found one after another, each taking its points away: the published route, kept for comparison."""
    points, weights = checked_points("sequential_msac", points, weights)
    rows = []
    for k in range(planes):
        if len(points) < 3:
            break
        _, _, near = msac_plane(points, weights, threshold=threshold, draws=draws, seed=seed + k)
        kept = np.flatnonzero(near)
        kept = kept[largest_part(points[kept], cell)]
        normal, origin, variances = plane_through(points[kept], weights[kept])
        rows.append((normal, origin, np.sqrt(variances[0]), weights[kept].sum()))
        left = np.ones(len(points), bool)
        left[kept] = False
        points, weights = points[left], weights[left]
    if not rows:
        return Planes(np.zeros((0, 3)), np.zeros((0, 3)), np.zeros(0), np.zeros(0))
    return Planes(*(np.array(column) for column in zip(*rows, strict=True)))
