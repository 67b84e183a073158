"""Boundaries placed one beside the other: what is explained by one is no other one."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import erf

from dfxm_dask.boundaries.placing import placed_steps
from dfxm_dask.boundaries.planes.edges import point_planes
from dfxm_dask.boundaries.step import FLAG
from dfxm_dask.boundaries.walls import find_walls

LEVELS = np.arange(8.0)
MIDDLE = np.array([10.0, 10.0, 3.5])


def angle(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.rad2deg(np.arctan2(np.linalg.norm(np.cross(a, b)), abs(a @ b))))


def unit(*v: float) -> np.ndarray:
    return np.array(v) / np.linalg.norm(v)


def volume(rng: np.random.Generator, *walls: tuple[np.ndarray, float]) -> tuple[np.ndarray, np.ndarray]:
    """Cells of a lattice that steps at whole planes through the middle, and points of their weak-beam images."""
    grid = np.arange(0.125, 20, 0.25)
    y, x, z = np.meshgrid(grid, grid, LEVELS, indexing="ij")
    places = np.column_stack([x.ravel(), y.ravel(), z.ravel()])
    cells = np.full((len(places), 9), np.nan, np.float32)
    cells[:, :3], cells[:, 7] = places, 16
    value = 2e-4 * rng.normal(size=len(places))
    points = []
    for normal, jump in walls:
        off = (places - MIDDLE) @ normal
        value += jump / 2 * erf(off / np.hypot(*normal[:2]) / 0.5 / np.sqrt(2))
        points.append(places[(np.abs(off) < 0.6) & (rng.uniform(size=len(off)) < 0.4)])
    cells[:, 3] = value
    order = np.lexsort((cells[:, 0], cells[:, 1], cells[:, 2]))
    return cells[order], np.concatenate(points)


def start(normal: np.ndarray, points: np.ndarray, number: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
    return normal, MIDDLE, points[np.abs((points - MIDDLE) @ normal) < 1.0], number


@pytest.mark.parametrize("turn", [25.0, 35.0, -50.0])
def test_placed_steps__a_plane_across_a_wall_has_the_step_of_the_wall(turn: float) -> None:
    wall, across = unit(1, 0.2, 0.3), np.deg2rad(turn)
    rng = np.random.default_rng(3)
    cells, points = volume(rng, (wall, 0.004))
    crossing = np.cos(across) * wall + np.sin(across) * np.cross(wall, unit(0.1, 0.2, 1))
    extra = rng.uniform(0, 20, (4000, 3))
    extra[:, 2] = rng.choice(LEVELS, 4000)
    extra = extra[np.abs((extra - MIDDLE) @ unit(*crossing)) < 0.6]
    points = np.concatenate([points, extra])
    made = placed_steps(cells, points, [start(wall, points, 0), start(unit(*crossing), points, 1)], LEVELS, 1.0, 0)
    found = [made.fits[k].normal for k in made.accepted]
    assert len(found) == 1
    assert angle(found[0], wall) < 0.5


def test_placed_steps__two_walls_that_cross_are_two() -> None:
    walls = unit(1, 0.2, 0.3), unit(0.1, 1, -0.4)
    cells, points = volume(np.random.default_rng(4), (walls[0], 0.004), (walls[1], -0.0025))
    starts = [start(n, points, k) for k, n in enumerate(walls)]
    made = placed_steps(cells, points, starts, LEVELS, 1.0, 0)
    assert len(made.accepted) == 2
    for k in made.accepted:
        assert min(angle(made.fits[k].normal, n) for n in walls) < 0.5
        assert abs(abs(made.fits[k].jump[0]) - (0.004 if angle(made.fits[k].normal, walls[0]) < 5 else 0.0025)) < 4e-4


def test_placed_steps__what_no_start_proposes_is_found_from_the_rest() -> None:
    walls = unit(1, 0.2, 0.3), unit(0.1, 1, -0.4)
    cells, points = volume(np.random.default_rng(5), (walls[0], 0.004), (walls[1], -0.0025))
    made = placed_steps(cells, points, [start(walls[0], points, 0)], LEVELS, 1.0, 0)
    assert sorted(min(range(2), key=lambda j: angle(made.fits[k].normal, walls[j])) for k in made.accepted) == [0, 1]


@pytest.mark.parametrize("slope", [0.0, 0.6, -0.9])
def test_placed_steps__the_step_of_a_single_dislocation_is_no_wall(slope: float) -> None:
    """Edges with b along the normal turn the lattice by b/2pi d/(d² + t²); a row of them is a wall."""
    normal = unit(1, 0.15, 0.1)
    along = np.cross([0, 0, 1.0], normal)
    line = unit(*(np.cross(normal, along) + slope * along))
    across = np.cross(normal, line)
    rng = np.random.default_rng(5)
    for lines in ([0.0], [-8.0, -4.0, 0.0, 4.0, 8.0]):
        cells, _ = volume(rng, (normal, 0.0))
        off = cells[:, :3] - MIDDLE
        d, t = off @ normal, (off @ across)[:, None] - np.array(lines)
        b_over_2pi = np.rad2deg(0.000286) / (2 * np.pi)
        cells[:, 3] += b_over_2pi * (d[:, None] / (d[:, None] ** 2 + t**2 + 0.3**2)).sum(axis=1)
        near = (np.abs(d) < 0.6) & (np.abs(t) < 0.6).any(axis=1) & (rng.uniform(size=len(d)) < 0.8)
        points = cells[near, :3].astype(float)
        made = placed_steps(cells, points, [start(normal, points, 0)], LEVELS, 1.0, 0)
        assert len(made.accepted) == (len(lines) > 1)


@pytest.mark.parametrize(("width", "marked"), [(0.5, False), (0.9, False), (1.32, True), (1.38, True)])
def test_find_walls__a_step_wider_than_one_boundary_says_so(width: float, marked: bool) -> None:
    normal = unit(1, 0.1, 0.15)
    cells, points = volume(np.random.default_rng(7), (normal, 0.0))
    off = (cells[:, :3] - MIDDLE) @ normal / np.hypot(*normal[:2])
    cells[:, 3] += 0.004 * erf(off / width / np.sqrt(2))
    found = find_walls(points, np.ones((1, len(points))), cells, replicates=10, seed=0)
    assert found is not None
    assert len(found.reason) == 1
    assert found.fits[0] is not None
    assert found.fits[0].width == pytest.approx(width, rel=0.1)
    assert bool(found.reason[0] & FLAG["wide_step"]) == marked


def test_placed_steps__a_step_without_weak_beam_images_is_no_wall() -> None:
    walls = unit(1, 0.2, 0.3), unit(0.1, 1, -0.4)
    cells, points = volume(np.random.default_rng(6), (walls[0], 0.004), (walls[1], -0.0025))
    dark = points[np.abs((points - MIDDLE) @ walls[0]) < 1.0]
    made = placed_steps(cells, dark, [start(walls[0], dark, 0)], LEVELS, 1.0, 0)
    assert [angle(made.fits[k].normal, walls[0]) < 0.5 for k in made.accepted] == [True]


@pytest.mark.parametrize(
    ("apart", "jump"),
    [(1.5, 0.003), *(pytest.param(*one, marks=pytest.mark.slow) for one in ((2.0, -0.004), (2.5, 0.002)))],
)
def test_placed_steps__parallel_walls_in_one_strip_have_each_its_own_step(apart: float, jump: float) -> None:
    normal = unit(1, 0.2, 0.2)
    cells, points = volume(np.random.default_rng(7), (normal, 0.004))
    move = apart / 2 * normal
    cells = cells[np.abs(cells[:, 0] - 10) < 6]
    cells[:, 3] = 2e-4 * np.random.default_rng(9).normal(size=len(cells))
    for side, height in ((-1, 0.004), (1, jump)):
        off = (cells[:, :3] - MIDDLE - side * move) @ normal / np.hypot(*normal[:2])
        cells[:, 3] += height / 2 * erf(off / 0.5 / np.sqrt(2))
    both = [points - move, points + move]
    for one in both:
        one[:, 2] = np.rint(one[:, 2])
    starts = [(normal, MIDDLE + s * move, p, k) for k, (s, p) in enumerate(zip((-1, 1), both, strict=True))]
    made = placed_steps(cells, np.concatenate(both), starts, LEVELS, 1.0, 0)
    found = sorted((float((made.fits[k].origin - MIDDLE) @ normal), made.fits[k].jump[0]) for k in made.accepted)
    np.testing.assert_allclose([f[0] for f in found], [-apart / 2, apart / 2], atol=0.12)
    np.testing.assert_allclose([f[1] for f in found], [0.004, jump], atol=6e-4)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_point_planes__finds_planes_in_noise(seed: int) -> None:
    rng = np.random.default_rng(seed)
    normals = [unit(*rng.normal(size=2), 0.5 * rng.normal()) for _ in range(2)]
    cloud = rng.uniform(0, 20, (30_000, 3))
    cloud[:, 2] = rng.choice(LEVELS, len(cloud))
    near = [cloud[np.abs((cloud - MIDDLE - k * 4 * n) @ n) < 0.4] for k, n in enumerate(normals)]
    points = np.concatenate([*near, cloud[:500]])
    found = point_planes(points)
    for normal in normals:
        assert min(angle(n, normal) for n, _, _ in found) < 3.0


def test_point_planes__of_few_points_there_are_none() -> None:
    assert point_planes(np.zeros((0, 3))) == []
    assert point_planes(np.random.default_rng(0).uniform(0, 9, (10, 3))) == []
