"""Clouds of points with known truth: walls of dislocation lines, junctions of half planes, clouds without a plane."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Cloud(NamedTuple):
    """Points (n, 3) um, the number of the wall that each lies on (-1: none), and what is true of every wall."""

    points: np.ndarray
    wall: np.ndarray
    normal: np.ndarray
    line: np.ndarray
    spacing: np.ndarray
    along: np.ndarray


def turned(rng: np.random.Generator) -> np.ndarray:
    """A random proper rotation (3, 3)."""
    q, r = np.linalg.qr(rng.normal(size=(3, 3)))
    q = q * np.sign(np.diag(r))
    return q * np.sign(np.linalg.det(q))


def on_lines(
    rng: np.random.Generator,
    origin: np.ndarray,
    line: np.ndarray,
    across: np.ndarray,
    spacing: float,
    sigma: float,
    box: tuple[float, float, float, float],
    density: float,
    jitter: float = 0.0,
) -> np.ndarray:
    """Points about parallel lines of one plane.

    ``box`` = (low, high) along ``line`` and (low, high) along ``across`` of the patch, um; ``density`` points per um of
    line; ``jitter`` is the standard deviation of the gaps, in spacings.
    """
    low, high, near, far = box
    gaps = spacing * (1 + jitter * rng.normal(size=int((far - near) / spacing * 2) + 2))
    places = near + rng.uniform(0, spacing) + np.concatenate([[0.0], np.cumsum(np.abs(gaps))])
    places = places[places < far]
    count = rng.poisson((high - low) * density, len(places))
    s = rng.uniform(low, high, count.sum())
    points = origin + s[:, None] * line + np.repeat(places, count)[:, None] * across
    blur = rng.normal(0, sigma, (len(points), 3))
    return points + blur - (blur @ line)[:, None] * line


def junction(
    seed: int,
    azimuths: tuple[float, ...] = (0, 48, 190),
    spacings: tuple[float, ...] = (4.1, 5.0, 6.5),
    sigmas: tuple[float, ...] = (0.35, 0.40, 0.45),
    *,
    size: float = 100.0,
    density: float = 10.0,
    outliers: float = 0.2,
    lean: float = 25.0,
) -> Cloud:
    """Half planes that meet in one line through the middle of a ball-like box, turned at random.

    The lines of a wall lean from the junction by up to ``lean`` degree. ``outliers`` is their share of all points.
    """
    rng = np.random.default_rng(seed)
    turn = turned(rng)
    shift = rng.uniform(-20, 20, 3)
    axis = np.array([0.0, 0, 1])
    points, walls, normals, lines, alongs = [], [], [], [], []
    for k, (azimuth, spacing, sigma) in enumerate(zip(np.deg2rad(azimuths), spacings, sigmas, strict=True)):
        along = np.array([np.cos(azimuth), np.sin(azimuth), 0])
        lean_k = np.deg2rad(rng.uniform(-lean, lean))
        line = np.cos(lean_k) * axis + np.sin(lean_k) * along
        across = np.cos(lean_k) * along - np.sin(lean_k) * axis
        wide = 2 * size
        made = on_lines(rng, np.zeros(3), line, across, spacing, sigma, (-wide, wide, -wide, wide), density)
        inside = (made @ along > 0) & (made @ along < size * 0.7) & (np.abs(made[:, 2]) < size / 2)
        points.append(made[inside])
        walls.append(np.full(inside.sum(), k))
        normals.append(np.cross(along, axis))
        lines.append(line)
        alongs.append(along)
    found = np.concatenate(points)
    count = rng.poisson(len(found) * outliers / (1 - outliers))
    half = np.array([0.7, 0.7, 0.5]) * size
    found = np.concatenate([found, rng.uniform(-half, half, (count, 3))])
    wall = np.concatenate([*walls, np.full(count, -1)])
    order = rng.permutation(len(found))
    return Cloud(
        found[order] @ turn.T + shift,
        wall[order],
        np.array(normals) @ turn.T,
        np.array(lines) @ turn.T,
        np.array(spacings),
        np.array(alongs) @ turn.T,
    )


def wall(
    seed: int,
    spacings: tuple[float, ...] = (4.1,),
    angles: tuple[float, ...] = (20.0,),
    *,
    size: float = 60.0,
    sigma: float = 0.4,
    density: float = 10.0,
    outliers: float = 0.2,
    jitter: float = 0.0,
) -> Cloud:
    """One plane with one or several families of lines, in a cube, turned at random."""
    rng = np.random.default_rng(seed)
    turn = turned(rng)
    points, lines = [], []
    for spacing, angle in zip(spacings, np.deg2rad(angles), strict=True):
        line, across = np.array([np.cos(angle), np.sin(angle), 0]), np.array([-np.sin(angle), np.cos(angle), 0])
        made = on_lines(rng, np.zeros(3), line, across, spacing, sigma, (-size, size, -size, size), density, jitter)
        points.append(made[(np.abs(made[:, :2]) < size / 2).all(1)])
        lines.append(line)
    found = np.concatenate(points)
    count = rng.poisson(len(found) * outliers / (1 - outliers)) if outliers < 1 else 0
    found = np.concatenate([found, rng.uniform(-size / 2, size / 2, (count, 3))])
    label = np.concatenate([np.zeros(len(found) - count, int), np.full(count, -1)])
    return Cloud(
        found @ turn.T, label, turn[:, 2][None], np.array(lines) @ turn.T, np.array(spacings), np.zeros((0, 3))
    )


def poisson_cloud(seed: int, count: int, size: float = 100.0) -> np.ndarray:
    """Points anywhere in a cube: there is no plane."""
    return np.random.default_rng(seed).uniform(0, size, (count, 3))


def loose_lines(seed: int, count: int, size: float = 60.0, sigma: float = 0.4, density: float = 5.0) -> np.ndarray:
    """Points about straight lines that cross a cube anywhere, in any direction: there is no wall."""
    rng = np.random.default_rng(seed)
    points = []
    for _ in range(count):
        line = rng.normal(size=3)
        line /= np.linalg.norm(line)
        s = rng.uniform(-size, size, rng.poisson(2 * size * density))
        points.append(rng.uniform(-size / 2, size / 2, 3) + s[:, None] * line + rng.normal(0, sigma, (len(s), 3)))
    found = np.concatenate(points)
    return found[(np.abs(found) < size / 2).all(1)]


def angle_between(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Angle between directions without sign, degree."""
    a, b = np.asarray(a), np.asarray(b)
    return np.rad2deg(np.arctan2(np.linalg.norm(np.cross(a, b), axis=-1), np.abs((a * b).sum(-1))))


def matched(truth: np.ndarray, found: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Number of the found normal next to each true one, and the angle between them, degree."""
    angles = angle_between(truth[:, None], found[None])
    return angles.argmin(1), angles.min(1)
