"""Planes in clouds of points: checked points, representative samples, and the plane of least squares."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit

from dfxm_dask.chance import mixed
from dfxm_dask.errors import InputError

STEPS = 1024
"""Steps per um to which positions are rounded, so that a point is identical in every block: 1/40 of the smallest pixel
of such scans (our choice)."""

FARTHEST = 2.0**19
"""Largest coordinate, um: positions in steps and numbers of cells fit their integers."""


class Planes(NamedTuple):
    """Planes, one row each.

    Attributes
    ----------
    normal : array (plane, xyz), float64
        Unit vector; its largest component is positive.
    origin : array (plane, xyz), float64, um
        Centre of mass of the points of the plane, which lies on the plane.
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
    """Points rounded to steps, with weights; points of weight 0 are left out, because they have no influence.

    Parameters
    ----------
    name : str
        Name of the caller, for the text of an error.
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
            f"{bad.sum()} of {len(points)} have no finite position within {FARTHEST:g} um",
            "leave out points without a position, and give um",
        )
    bad = ~((weights >= 0) & (weights <= 1))
    if bad.any():
        raise InputError(
            f"{name}: weights",
            f"{bad.sum()} of {len(points)} are NaN or not in 0 to 1",
            "give probabilities, and leave out voxels of unknown probability",
        )
    used = weights > 0
    if not used.all():
        points, weights = points[used], weights[used]
    return np.rint(points * STEPS) / STEPS, weights


@njit(nogil=True, cache=True)
def _numbers_of_places(points, seed, numbers):
    """Hash of each position and the seed."""
    step = np.uint64(0x9E3779B97F4A7C15)
    for i in range(points.shape[0]):
        state = mixed(np.uint64(seed) + step)
        for j in range(3):
            state = mixed(state + step + np.uint64(np.int64(np.rint(points[i, j] * STEPS))))
        numbers[i] = state


def thinned(
    points: np.ndarray, weights: np.ndarray | None = None, *, most: int, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """A representative sample that depends on the points alone, not on blocks or their order.

    Parameters
    ----------
    points : array (point, xyz), um
    weights : array (point,), optional
        0 to 1.
    most : int
        Number of points to keep.
    seed : int

    Returns
    -------
    points, weights : array (kept, xyz), um, and (kept,), float64
        In a random order that is identical for identical points.

    Raises
    ------
    InputError
        See :func:`checked_points`; fewer than one point to keep.

    Notes
    -----
    Every position has a random number, a hash of its coordinates and the seed, and the smallest are kept (bottom-k
    sample, Cohen and Kaplan, PODC 2007). So the sample of a whole is the sample of the samples of its parts: two blocks
    are merged by ``thinned(concatenated points, concatenated weights)``.

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
    # Points at one position have equal numbers: the weight decides, largest first.
    order = np.lexsort((-weights, points[:, 2], points[:, 1], points[:, 0], numbers))[:most]
    return points[order], weights[order]


def canonical(normal: np.ndarray) -> np.ndarray:
    """Unit vectors (..., xyz) with the sign that makes their largest component positive."""
    largest = np.take_along_axis(normal, np.abs(normal).argmax(-1)[..., None], -1)
    return normal * np.where(largest < 0, -1.0, 1.0)


def in_plane(normal: np.ndarray) -> np.ndarray:
    """Two unit vectors (2, xyz) at right angles to a normal and to each other, identical for identical normals.

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
        Along the normal and along the two principal directions in the plane, ascending.
    """
    origin = np.average(points, axis=0, weights=weights)
    centred = points - origin
    values, vectors = np.linalg.eigh((centred * weights[:, None]).T @ centred / weights.sum())
    return canonical(vectors[:, 0]), origin, np.maximum(values, 0.0)
