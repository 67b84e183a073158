"""Planes in clouds of points: points and thinning, and the published route (MSAC, one plane after another)."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit
from scipy import ndimage

from dfxm_dask.chance import mixed
from dfxm_dask.errors import InputError

STEPS = 1024
"""Whole steps in a um that positions are rounded to, so that a point is the same point in every block: 1/40 of the
smallest pixel of such scans (our choice)."""

FARTHEST = 2.0**19
"""Largest coordinate, um: positions in steps and numbers of cells fit their integers."""


class Planes(NamedTuple):
    """Planes, one row each.

    Attributes
    ----------
    normal : array (plane, xyz), float64
        Unit vector; its largest component is positive.
    origin : array (plane, xyz), float64, um
        Centre of mass of the points of the plane, which lies on it.
    sigma : array (plane,), float64, um
        Standard deviation of the points from the plane.
    mass : array (plane,), float64
        Sum of the weights of its points.
    """

    normal: np.ndarray
    origin: np.ndarray
    sigma: np.ndarray
    mass: np.ndarray


def checked_points(name: str, points: np.ndarray, weights: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """Points in whole steps, with weights; points of weight 0 are left out, for they say nothing.

    Parameters
    ----------
    name : str
        Who asks, for the text of an error.
    points : array (point, xyz), um
        Along the axes x, y and z of the store.
    weights : array (point,), optional
        Probability of each to be on a dislocation, 0 to 1; 1 by default.

    Returns
    -------
    points : array (point, xyz), float64, um
        Rounded to 1/1024 um.
    weights : array (point,), float64

    Raises
    ------
    InputError
        Arrays of other shapes, positions that are not finite, weights that are NaN or not in 0 to 1.
    """
    points = np.asarray(points, np.float64)
    if points.ndim != 2 or points.shape[1] != 3:
        raise InputError(f"{name}: points", f"have the shape {points.shape}", "give (point, xyz) in um")
    weights = np.ones(len(points)) if weights is None else np.asarray(weights, np.float64)
    if weights.shape != points.shape[:1]:
        raise InputError(f"{name}: weights", f"{weights.shape} for {len(points)} points", "give one for each point")
    bad = ~(np.abs(points) < FARTHEST).all(axis=1)
    if bad.any():
        raise InputError(
            f"{name}: points",
            f"{bad.sum()} of {len(points)} have no finite place within {FARTHEST:g} um",
            "leave out what has no place, and give um",
        )
    bad = ~((weights >= 0) & (weights <= 1))
    if bad.any():
        raise InputError(
            f"{name}: weights",
            f"{bad.sum()} of {len(points)} are NaN or not in 0 to 1",
            "give probabilities, and leave out voxels of which nothing is known",
        )
    used = weights > 0
    if not used.all():
        points, weights = points[used], weights[used]
    return np.rint(points * STEPS) / STEPS, weights


@njit(nogil=True, cache=True)
def _numbers_of_places(points, seed, numbers):  # type: ignore[no-untyped-def]
    step = np.uint64(0x9E3779B97F4A7C15)
    for i in range(points.shape[0]):
        state = mixed(np.uint64(seed) + step)
        for j in range(3):
            state = mixed(state + step + np.uint64(np.int64(np.rint(points[i, j] * STEPS))))
        numbers[i] = state


def thinned(
    points: np.ndarray, weights: np.ndarray | None = None, *, most: int, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """A fair sample of points that depends on the points alone, not on blocks or their order.

    Parameters
    ----------
    points : array (point, xyz), um
    weights : array (point,), optional
        0 to 1.
    most : int
        Points to keep.
    seed : int

    Returns
    -------
    points, weights : array (kept, xyz), um, and (kept,), float64
        In an order that is random and the same for the same points.

    Raises
    ------
    InputError
        See :func:`checked_points`; fewer than one point to keep.

    Notes
    -----
    Every place has a random number, a hash of its coordinates and the seed, and the smallest are kept (bottom-k
    sample, Cohen and Kaplan, PODC 2007). So the sample of a whole is the sample of the samples of its parts: the
    merge of two blocks is ``thinned(concatenated points, concatenated weights)``.

    Examples
    --------
    >>> points = np.random.default_rng(0).uniform(0, 9, (100, 3))
    >>> whole, _ = thinned(points, most=10)
    >>> parts = [thinned(part, most=10)[0] for part in (points[:30], points[30:])]
    >>> np.array_equal(thinned(np.concatenate(parts), most=10)[0], whole)
    True
    """
    points, weights = checked_points("thinned", points, weights)
    if most < 1:
        raise InputError("thinned: most", f"is {most}", "keep at least one point")
    numbers = np.empty(len(points), np.uint64)
    _numbers_of_places(points, seed, numbers)
    if len(points) > most:
        kept = np.flatnonzero(numbers <= np.partition(numbers, most - 1)[most - 1])
        points, weights, numbers = points[kept], weights[kept], numbers[kept]
    # Points at one place have one number: the weight decides, heaviest first.
    order = np.lexsort((-weights, points[:, 2], points[:, 1], points[:, 0], numbers))[:most]
    return points[order], weights[order]


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


def canonical(normal: np.ndarray) -> np.ndarray:
    """Unit vectors (..., xyz) with the sign that makes their largest component positive."""
    largest = np.take_along_axis(normal, np.abs(normal).argmax(-1)[..., None], -1)
    return normal * np.where(largest < 0, -1.0, 1.0)


def in_plane(normal: np.ndarray) -> np.ndarray:
    """Two unit vectors (2, xyz) that are at right angles to a normal and to each other, the same for the same normal.

    Examples
    --------
    >>> in_plane(np.array([0.0, 0, 1])).tolist()
    [[0.0, 1.0, 0.0], [-1.0, 0.0, 0.0]]
    """
    first = np.cross(normal, np.eye(3)[np.argmin(np.abs(normal).round(9))])
    first /= np.linalg.norm(first)
    return np.stack([first, np.cross(normal, first)])


def plane_through(points: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The plane of least squared distance to weighted points.

    Returns
    -------
    normal, origin : array (xyz,)
        Unit vector, and centre of mass, um.
    variances : array (3,), um²
        Along the normal and along the two principal directions in the plane, rising.
    """
    origin = np.average(points, axis=0, weights=weights)
    centred = points - origin
    values, vectors = np.linalg.eigh((centred * weights[:, None]).T @ centred / weights.sum())
    return canonical(vectors[:, 0]), origin, np.maximum(values, 0.0)


def msac_plane(
    points: np.ndarray,
    weights: np.ndarray | None = None,
    *,
    threshold: float = 2.0,
    draws: int = 500,
    most: int = 20_000,
    seed: int = 0,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The one plane of least MSAC cost, and the points near it.

    Parameters
    ----------
    points : array (point, xyz), um
    weights : array (point,), optional
    threshold : float, um
        T; points farther away count T².
    draws : int
        Planes through three points that are tried.
    most : int
        The cost is taken over a sample of so many points; the final plane over all.
    seed : int

    Returns
    -------
    normal, origin : array (xyz,), float64
        Unit vector, um.
    near : array (point,), bool
        Within T of the plane; False for weight 0.

    Raises
    ------
    InputError
        Fewer than three points of any weight, or all of them on one line; a threshold that is not positive.

    Notes
    -----
    MSAC cost sum of w min(r², T²) (Torr and Zisserman, Comput. Vis. Image Underst. 78, 138 (2000)). T, the number of
    draws and the sample are our choice: the published values are not known.

    Examples
    --------
    >>> grid = np.stack([*np.mgrid[0:5, 0:5], np.full((5, 5), 2.0)], -1).reshape(-1, 3)
    >>> normal, origin, near = msac_plane(grid)
    >>> normal.tolist(), origin.tolist(), int(near.sum())
    ([0.0, 0.0, 1.0], [2.0, 2.0, 2.0], 25)
    """
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
    """Planes found one after another, each taking its points away: the published route, kept for comparison.

    Parameters
    ----------
    points : array (point, xyz), um
    weights : array (point,), optional
    planes : int
        How many; this route does not find their number.
    threshold, draws, seed
        As of :func:`msac_plane`.
    cell : float, um
        A plane keeps the points of the largest set of touching cells of this edge.

    Returns
    -------
    Planes
        In the order in which they were found; fewer where fewer than three points are left.

    Raises
    ------
    InputError
        See :func:`msac_plane`.

    Notes
    -----
    After Yildirim et al., Sci. Rep. 13, 3834 (2023); its parameters are not published. The first of two walls that lie
    within some 10 degree of each other takes points of the second, which is then off by some degree:
    :func:`~dfxm_dask.boundaries.planes.plane_search.find_planes` shares them.
    """
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
