"""Lines along which boundaries meet: junction lines, half planes, and the dihedral angles between them."""

from __future__ import annotations

from itertools import combinations
from typing import NamedTuple

import numpy as np

from dfxm_dask.boundaries.planes.plane import Planes, canonical
from dfxm_dask.errors import InputError

NEAR = 10.0  # um from the line: a plane that ends there has points within this distance (our choice)
CLEAR = (6.0, 20.0)
"""Distances from the line in um between which the points of a plane determine on which side it lies: nearer, planes
that continue in nearly the same direction share their points; farther, a small volume has no points (our choice)."""

STRETCH = 5.0  # um: length of the pieces into which the line is divided
OPENING = 2.0  # um: planes that are farther from their common line do not meet in it (our choice)
THROUGH = 0.15  # of the points on its fuller side that a plane must have on the other to continue there (our choice)
SEEN = 5.0  # points that a plane must lack beyond the line, within the data, to end there (our choice)
ROOM = 0.25  # least fraction of the area on its other side that the data must cover beyond the line (our choice)
KINDS = ((1, "ends_meet"), (2, "ends_on"), (4, "crossing"))
"""Kind of a junction: two or more planes end there; one ends on others that continue; no end is visible."""
PARALLEL = 3.0  # degree: planes of a smaller angle have no common line (our choice)


class Junction(NamedTuple):
    """Half planes that meet in a line.

    Attributes
    ----------
    direction, point : array (xyz,), float64
        Unit vector of the line, whose largest component is positive, and a point on it, um.
    opening : float, um
        Largest distance of that point from the planes; 0 for two planes.
    plane : array (half plane,), int64
        Number of the plane; a plane that continues through the line is listed twice.
    along : array (half plane, xyz), float64
        From the line into each half plane, counter-clockwise about the direction.
    dihedral : array (half plane,), float64, degree
        Angle to the next half plane; the angles add up to 360.
    length : float, um
        Length of the line along which all planes have points near it.
    kind : int
        One of :data:`KINDS`.
    """

    direction: np.ndarray
    point: np.ndarray
    opening: float
    plane: np.ndarray
    along: np.ndarray
    dihedral: np.ndarray
    length: float
    kind: int


def common_line(normal: np.ndarray, origin: np.ndarray, near: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
    """The line that two or more planes have in common, at least approximately.

    Parameters
    ----------
    normal, origin : array (plane, xyz), 1 and um
    near : array (xyz,), um
        The point on the line closest to this position is returned.

    Returns
    -------
    direction, point : array (xyz,), float64
    opening : float, um
        Largest distance of the point from the planes.

    Raises
    ------
    InputError
        Fewer than two planes, or all of them within 3 degree of each other.

    Notes
    -----
    The direction is the singular vector with the least components along the normals, the point that of least squared
    distance to the planes. Two planes at a small angle a determine their line only to sigma/a; a third one improves it.

    Examples
    --------
    >>> line = common_line(np.eye(3)[:2], np.zeros((2, 3)), np.array([1.0, 1, 5]))
    >>> line[0].tolist(), line[1].tolist(), line[2]
    ([0.0, 0.0, 1.0], [0.0, 0.0, 5.0], 0.0)
    """
    normal, origin = np.asarray(normal, np.float64), np.asarray(origin, np.float64)
    if len(normal) < 2:
        raise InputError("common_line", f"{len(normal)} planes", "give at least two planes")
    _, values, directions = np.linalg.svd(normal)
    if values[1] < np.sin(np.deg2rad(PARALLEL)) / np.sqrt(2):
        raise InputError("common_line", f"the planes are within {PARALLEL:g} degree of each other", "leave one out")
    offsets = (normal * (origin - near)).sum(axis=1)
    # Only across the line: along it, the point of a triple that nearly meets would be far away.
    moved = np.linalg.pinv(normal @ directions[:2].T) @ offsets @ directions[:2]
    return canonical(directions[2]), near + moved, float(np.abs(normal @ moved - offsets).max())


def dihedral_angles(along: np.ndarray, direction: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Order of half planes about a line, and the angle from each to the next.

    Parameters
    ----------
    along : array (half plane, xyz)
        From the line into each half plane.
    direction : array (xyz,)

    Returns
    -------
    order : array (half plane,), int64
        Counter-clockwise about the direction.
    dihedral : array (half plane,), float64, degree
        In that order; 0 to 360, and 360 in total.

    Examples
    --------
    >>> order, angles = dihedral_angles(np.array([[1.0, 0, 0], [0, -1, 0], [0, 1, 0]]), np.array([0.0, 0, 1]))
    >>> order.tolist(), angles.tolist()
    ([1, 0, 2], [90.0, 90.0, 180.0])
    """
    first = along[0] - (along[0] @ direction) * direction
    second = np.cross(direction, first)
    azimuth = np.rad2deg(np.arctan2(along @ second, along @ first)) % 360
    order = np.argsort(np.where(azimuth >= 180, azimuth - 360, azimuth), kind="stable")
    return order, np.diff(azimuth[order], append=azimuth[order[0]]) % 360


def _half_planes(
    points: np.ndarray,
    shares: np.ndarray,
    planes: Planes,
    chosen: tuple[int, ...],
    direction: np.ndarray,
    point: np.ndarray,
) -> tuple[np.ndarray, np.ndarray, float] | None:
    """Numbers and directions of half planes at a line, and its length; None if a plane does not reach it."""
    offset = points - point
    stretch = np.floor(offset @ direction / STRETCH).astype(np.int64)
    outward = np.cross(planes.normal[list(chosen)], direction)
    outward /= np.linalg.norm(outward, axis=1, keepdims=True)
    distances = offset @ outward.T
    stretches: set[int] | None = None
    for k, plane in enumerate(chosen):
        close = (np.abs(distances[:, k]) < NEAR) & (shares[:, plane] > 0)
        numbers, piece = np.unique(stretch[close], return_inverse=True)
        mass = np.bincount(piece.reshape(-1), shares[close, plane], len(numbers))
        mine = set(numbers[mass >= 3].tolist())
        stretches = mine if stretches is None else stretches & mine
    if not stretches or len(stretches) < 2:
        return None
    inside = np.isin(stretch, list(stretches))
    numbers_out, along = [], []
    for k, plane in enumerate(chosen):
        beside = inside & (np.abs(distances[:, k]) > CLEAR[0]) & (np.abs(distances[:, k]) < CLEAR[1])
        if not shares[beside, plane].sum() > 0:
            beside = inside & (np.abs(distances[:, k]) < CLEAR[1])
        positive = shares[beside & (distances[:, k] > 0), plane].sum()
        negative = shares[beside, plane].sum() - positive
        for sign, mine, other in ((1.0, positive, negative), (-1.0, negative, positive)):
            if mine > 0 and mine >= THROUGH * other:
                numbers_out.append(plane)
                along.append(sign * outward[k])
    return np.array(numbers_out), np.array(along), len(stretches) * STRETCH


def _kind(
    points: np.ndarray,
    shares: np.ndarray,
    planes: Planes,
    chosen: tuple[int, ...],
    direction: np.ndarray,
    point: np.ndarray,
) -> int:
    """Kind of the junction of planes; see :data:`KINDS`.

    A plane ends where its points stop within the data: beyond the line it has fewer than 15 % of the points expected
    from the density on its other side. If the data end first, the kind remains open.
    """
    low, high = points.min(axis=0), points.max(axis=0)
    offset = points - point
    at, near = offset @ direction, np.arange(CLEAR[0] + 0.5, CLEAR[1])
    ended = 0
    for plane in chosen:
        outward = np.cross(planes.normal[plane], direction)
        outward /= np.linalg.norm(outward)
        distance, mass = offset @ outward, shares[:, plane]
        mine = (np.abs(distance) < CLEAR[1]) & (mass > 0)
        along = np.arange(at[mine].min(), at[mine].max() + 1.0) if mine.any() else np.zeros(0)
        grid = point + along[:, None, None] * direction
        sides = []
        for sign in (1, -1):
            spots = grid + sign * near[:, None] * outward
            area = np.count_nonzero(((spots >= low) & (spots <= high)).all(axis=-1))
            beside = (sign * distance > CLEAR[0]) & (sign * distance < CLEAR[1])
            sides.append((mass[beside].sum(), area))
        (least, room), (most, area) = sorted(sides, key=lambda side: side[0] / max(side[1], 1))
        expected = most / max(area, 1) * room
        ended += bool(expected > SEEN and room > ROOM * area and least < THROUGH * expected)
    return KINDS[2 - min(ended, 2)][0]


def find_junctions(points: np.ndarray, shares: np.ndarray, planes: Planes, *, kinds: bool = True) -> list[Junction]:
    """Lines along which planes meet, three or two at a time.

    Parameters
    ----------
    points : array (point, xyz), um
    shares : array (point, plane), float64
        Probability of each point to lie on each plane, times its weight.
    planes : Planes
    kinds : bool
        Distinguish planes that end from planes that cross, which takes half of the time.

    Returns
    -------
    list of Junction
        Longest first. Two planes of a triple junction are not listed as a pair again.

    Raises
    ------
    InputError
        Arrays that do not fit.

    Notes
    -----
    Planes meet if all have points within 10 um of their common line, along at least 10 um. The points of a half plane
    at 6 to 20 um determine on which side of the line it lies: normals alone do not distinguish a dihedral angle from
    its supplement. ``kind`` distinguishes planes that end in the line from planes that only cross, or leave the data
    before they could end.
    """
    count = len(planes.sigma)
    if np.shape(shares) != (len(points), count):
        raise InputError(
            "find_junctions: shares", f"{np.shape(shares)}", f"give ({len(points)} points, {count} planes)"
        )
    junctions: list[Junction] = []
    used: set[tuple[int, ...]] = set()
    for size in (3, 2):
        for chosen in combinations(range(count), size):
            if chosen in used:
                continue
            rows = list(chosen)
            total = shares[:, rows].sum(axis=0)
            if not (total > 0).all():
                continue
            near = np.mean(planes.origin[rows], axis=0)
            try:
                direction, point, opening = common_line(planes.normal[rows], planes.origin[rows], near)
            except InputError:  # nearly parallel: no line
                continue
            steep = np.linalg.norm(np.cross(planes.normal[rows], direction), axis=1).min()
            if opening > OPENING or steep < 0.5:
                continue
            halves = _half_planes(points, shares, planes, chosen, direction, point)
            if halves is None or (len(halves[0]) < 3 and size == 3):
                continue
            number, along, length = halves
            order, dihedral = dihedral_angles(along, direction)
            kind = _kind(points, shares, planes, chosen, direction, point) if kinds else -1
            junctions.append(Junction(direction, point, opening, number[order], along[order], dihedral, length, kind))
            if size == 3:
                used |= set(combinations(chosen, 2))
    return sorted(junctions, key=lambda one: -one.length)
