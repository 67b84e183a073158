"""Planes proposed by edges of the centre of mass: an edge gives the azimuth of its wall, so that few layers suffice."""

from __future__ import annotations

import numpy as np
from numba import njit
from scipy import ndimage

from dfxm_dask.boundaries.planes.plane import canonical, plane_through

BLUR = 0.35  # um: of the map before its slope is computed
APART = 0.5  # um: spacing to which edges are thinned
LOOSE = np.deg2rad(14.0)
AZIMUTHS, PLACE = 90, 0.7  # directions over the circle; um per bin of the position
SLOPES = np.tan(np.linspace(-1.2, 1.2, 25))
SHUFFLES, MARGIN = 12, (1.15, 3.0)
SPREAD = 3.0  # robust standard deviations of slopes above which a maximum is an edge (our choice)
MOST_EDGES = 12_000
MOST_PLANES, MOST_PROPOSALS = 12, 6
FEWEST = 20  # edges or points of a plane (our choice)
CAP = 12.0  # um of trace: largest vote of a layer


def layer_edges(cells: np.ndarray, edge: float = 0.25) -> np.ndarray:
    """Edges of one layer: (edge, 5) with x, y, z (um), the azimuth of the slope (rad) and its size.

    Maxima of the slope along its direction, of a map whose unknown parts get zero weight.
    """
    index = np.floor(cells[:, :2].astype(np.float64) / edge).astype(np.int64)
    index -= index.min(axis=0) - 4
    shape = tuple(index.max(axis=0) + 5)
    finite = np.isfinite(cells[:, 3])
    values, occupied = np.zeros(shape), np.zeros(shape)
    values[tuple(index[finite].T)] = cells[finite, 3] - np.median(cells[finite, 3]) if finite.any() else 0.0
    occupied[tuple(index[finite].T)] = 1.0
    blur = BLUR / edge
    weight = ndimage.gaussian_filter(occupied, blur)
    smooth = ndimage.gaussian_filter(values, blur) / np.maximum(weight, 1e-3)
    slope = np.stack(np.gradient(smooth, edge))
    size = np.hypot(*slope)
    size[weight < 0.6] = 0.0
    size[ndimage.minimum_filter(occupied, 5) < 0.5] = 0.0
    steps = np.argwhere(size > 0)
    if not len(steps):
        return np.zeros((0, 5))
    along = slope[:, steps[:, 0], steps[:, 1]].T
    along /= np.maximum(np.linalg.norm(along, axis=1, keepdims=True), 1e-30)
    here = size[tuple(steps.T)]
    ahead, behind = (ndimage.map_coordinates(size, (steps + s * 1.2 * along).T, order=1) for s in (1, -1))
    used = here[here > 0]
    limit = np.median(used) + SPREAD * 1.4826 * np.median(np.abs(used - np.median(used)))
    kept = (here >= ahead) & (here >= behind) & (here > limit)
    steps, along, here, ahead, behind = steps[kept], along[kept], here[kept], ahead[kept], behind[kept]
    curve = ahead - 2 * here + behind
    shift = np.where(curve < 0, 0.5 * (behind - ahead) / np.where(curve < 0, curve, -1.0), 0.0) * 1.2
    at = steps + np.clip(shift, -1, 1)[:, None] * along
    order = np.argsort(-here, kind="stable")
    used_squares: set[tuple[int, int]] = set()
    rows = []
    origin = np.floor(cells[:, :2].astype(np.float64) / edge).astype(np.int64).min(axis=0) - 4
    for k in order:
        square = (int(at[k, 0] * edge / APART), int(at[k, 1] * edge / APART))
        if square not in used_squares:
            used_squares.add(square)
            x, y = (at[k] + origin + 0.5) * edge
            rows.append((x, y, float(cells[0, 2]), np.arctan2(along[k, 1], along[k, 0]), here[k]))
    return np.array(rows).reshape(-1, 5)


@njit(nogil=True, cache=True)
def _votes(edges, layer, azimuths, slopes, loose, height, low, bins, step, votes):
    """Add votes (azimuth, slope, layer, bin)."""
    for k in range(edges.shape[0]):
        for a in range(azimuths.size):
            turn = edges[k, 3] - azimuths[a]
            turn -= 2 * np.pi * np.rint(turn / (2 * np.pi))
            if abs(turn) > loose:
                continue
            across = edges[k, 0] * np.cos(azimuths[a]) + edges[k, 1] * np.sin(azimuths[a])
            for b in range(slopes.size):
                at = int((across + slopes[b] * (edges[k, 2] - height) - low) / step)
                if 0 <= at < bins:
                    votes[a, b, layer[k], at] += 1.0


def _scores(edges: np.ndarray, layer: np.ndarray, layers: int, height: float, loose: float = LOOSE) -> np.ndarray:
    """Votes of all edges (azimuth, slope, bin), with a limited contribution of each layer."""
    azimuths = np.arange(AZIMUTHS) * 2 * np.pi / AZIMUTHS
    reach = float(np.abs(edges[:, :2]).max()) * 1.5 + np.abs(SLOPES).max() * float(np.ptp(edges[:, 2])) + 2
    bins = int(2 * reach / PLACE) + 2
    total = np.zeros((AZIMUTHS, len(SLOPES), bins), np.float32)
    for n in range(layers):  # one layer at a time, because its votes are limited
        mine = edges[layer == n]
        votes = np.zeros((AZIMUTHS, len(SLOPES), 1, bins), np.float32)
        _votes(mine, np.zeros(len(mine), np.int64), azimuths, SLOPES, loose, height, -reach, bins, PLACE, votes)
        wide = votes[:, :, 0] + 0.5 * (np.roll(votes[:, :, 0], 1, -1) + np.roll(votes[:, :, 0], -1, -1))
        total += np.minimum(wide, CAP / APART)
    return total


def edge_planes(cells: np.ndarray, *, layer: float, seed: int = 0) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Planes through edges of the centre of mass.

    Parameters
    ----------
    cells : array (cell, column)
        See :data:`~dfxm_dask.boundaries.cells.COLUMNS`.
    layer : float, um
        Distance of layers.
    seed : int
        Seed of the shuffles.

    Returns
    -------
    list of (normal (xyz,), origin (xyz,), edges (edge, xyz))
        Empty if no plane has more edges than the best of twelve stacks whose layers are shifted at random.

    Notes
    -----
    An edge votes for every azimuth within 14 degree of its own, every slope and the resulting position; a layer counts
    with at most 12 um. The limit is 1.15 times the best of the shuffles, plus 3. The edges of a plane are removed
    before the next plane is sought.
    """
    if not len(cells) or not np.isfinite(cells[:, 3]).any():
        return []
    levels = np.unique(cells[:, 2])
    rows = []
    for z in levels:
        mine = cells[cells[:, 2] == z]
        if np.isfinite(mine[:, 3]).sum() > 50:
            rows.append(layer_edges(mine))
    edges = np.concatenate(rows) if rows else np.zeros((0, 5))
    if len(edges) < FEWEST or len(levels) < 3:
        return []
    rng = np.random.default_rng(seed)
    if len(edges) > MOST_EDGES:
        edges = edges[np.sort(np.argsort(-edges[:, 4], kind="stable")[:MOST_EDGES])]
    middle = (edges[:, :3].max(axis=0) + edges[:, :3].min(axis=0)) / 2
    low, size = edges[:, :2].min(axis=0) - middle[:2], np.ptp(edges[:, :2], axis=0) + 0.5
    edges[:, :3] -= middle
    number = np.searchsorted(levels - middle[2], edges[:, 2] - 1e-3)
    best = 0.0
    for _ in range(SHUFFLES):
        moved = edges.copy()
        shift = rng.uniform(0, 1, (len(levels), 2)) * size
        moved[:, :2] = low + (edges[:, :2] - low + shift[number]) % size
        best = max(best, float(_scores(moved, number, len(levels), 0.0).max()))
    return _peeled(edges, number, len(levels), middle, LOOSE, MARGIN[0] * best + MARGIN[1], MOST_PLANES)


def point_planes(points: np.ndarray) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Planes through most points, layer by layer: proposals, without a null test.

    Parameters
    ----------
    points : array (point, xyz), um
        Points of the weak beam.

    Returns
    -------
    list of (normal (xyz,), origin (xyz,), points (point, xyz))
        As for :func:`edge_planes`; a point has no azimuth and votes for all.
    """
    levels = np.unique(points[:, 2])
    squares = np.column_stack([np.floor(points[:, :2] / APART), np.searchsorted(levels, points[:, 2])])
    few = points[np.unique(squares, axis=0, return_index=True)[1]]
    if len(few) < FEWEST or len(levels) < 3:
        return []
    rows = np.column_stack([few, np.zeros(len(few)), np.ones(len(few))])
    middle = (few.max(axis=0) + few.min(axis=0)) / 2
    rows[:, :3] -= middle
    number = np.searchsorted(levels - middle[2], rows[:, 2] - 1e-3)
    return _peeled(rows, number, len(levels), middle, np.pi, FEWEST, MOST_PROPOSALS)


def _peeled(
    edges: np.ndarray, number: np.ndarray, layers: int, middle: np.ndarray, loose: float, limit: float, most: int
) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Planes in descending order of votes; the edges of one are removed before the next is sought."""
    planes: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    free = np.ones(len(edges), bool)
    azimuths = np.arange(AZIMUTHS) * 2 * np.pi / AZIMUTHS
    for _ in range(2 * most):
        if len(planes) == most or free.sum() <= FEWEST:
            break
        reach = float(np.abs(edges[free, :2]).max()) * 1.5 + np.abs(SLOPES).max() * float(np.ptp(edges[free, 2])) + 2
        scores = _scores(edges[free], number[free], layers, 0.0, loose)
        a, b, position = np.unravel_index(int(scores.argmax()), scores.shape)
        if scores[a, b, position] < limit:
            break
        normal = np.array([np.cos(azimuths[a]), np.sin(azimuths[a]), SLOPES[b]])
        length = np.linalg.norm(normal)
        normal, origin = normal / length, normal * (-reach + (position + 0.5) * PLACE) / length**2
        turn = edges[:, 3] - azimuths[a]
        turn -= 2 * np.pi * np.rint(turn / (2 * np.pi))
        mine = free & (np.abs(turn) < 1.5 * loose)
        for width in (1.2, 0.9, 0.7, 0.7):
            near = mine & (np.abs((edges[:, :3] - origin) @ normal) < width)
            if near.sum() < 12:
                break
            normal, origin, _ = plane_through(edges[near, :3], np.ones(int(near.sum())))
        free &= ~near
        if near.sum() >= 12 and len(np.unique(number[near])) >= 3 and abs(normal[2]) < 0.95:
            planes.append((canonical(normal), origin + middle, edges[near, :3] + middle))
        elif not near.any():
            break
    return planes
