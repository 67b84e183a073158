"""Junction lines and dihedral angles."""

from __future__ import annotations

import numpy as np
import pytest

from dfxm_dask.boundaries.junction import KINDS, common_line, dihedral_angles, find_junctions
from dfxm_dask.boundaries.planes.plane import Planes, plane_through
from dfxm_dask.errors import InputError
from tests.boundaries.points import angle_between, junction, wall


def _truth(cloud) -> tuple[Planes, np.ndarray]:
    """Planes through the true points of each wall, and the true shares."""
    walls = range(len(cloud.normal))
    rows = [plane_through(cloud.points[cloud.wall == k], np.ones((cloud.wall == k).sum())) for k in walls]
    planes = Planes(np.array([r[0] for r in rows]), np.array([r[1] for r in rows]), np.full(len(rows), 0.4), np.ones(3))
    return planes, (cloud.wall[:, None] == np.arange(len(rows))).astype(float)


@pytest.mark.parametrize("azimuths", [(0, 48, 190), (0, 120, 240), (0, 90, 180)])
def test_find_junctions__dihedral_angles_by_the_side_that_points_lie_on(azimuths: tuple) -> None:
    for seed in range(3):
        cloud = junction(seed, azimuths, density=3.0, size=80)
        planes, shares = _truth(cloud)
        found = find_junctions(cloud.points, shares, planes)
        assert len(found) == 1
        one = found[0]
        assert angle_between(one.direction, np.cross(cloud.normal[0], cloud.normal[1])) < 0.2
        assert one.opening < 0.3
        assert one.length >= 70
        for half, along in zip(one.plane, one.along, strict=True):
            assert np.rad2deg(np.arccos(min(1, along @ cloud.along[half]))) < 0.3
        expected = _expected(cloud, one)
        np.testing.assert_allclose(one.dihedral, expected, atol=0.3)
        assert one.dihedral.sum() == pytest.approx(360)


def _expected(cloud, one) -> list[float]:
    out = []
    for a, b in zip(one.plane, np.roll(one.plane, -1), strict=True):
        first, second = cloud.along[a], cloud.along[b]
        turn = np.arctan2(np.cross(first, second) @ one.direction, first @ second)
        out.append(np.rad2deg(turn) % 360)
    return out


def test_find_junctions__a_plane_that_goes_through_is_there_twice() -> None:
    """A T: two half planes of one plane, and a third one at 70 degree."""
    rng = np.random.default_rng(0)
    flat = rng.uniform(-30, 30, (4000, 2))
    through = np.column_stack([flat, rng.normal(0, 0.3, 4000)])
    half = rng.uniform([0, -30], [30, 30], (2000, 2))
    angle = np.deg2rad(70)
    side = np.column_stack([half[:, 0] * np.cos(angle), half[:, 1], half[:, 0] * np.sin(angle)])
    points = np.concatenate([through, side])
    shares = np.zeros((6000, 2))
    shares[:4000, 0] = shares[4000:, 1] = 1
    rows = [plane_through(points[s == 1], np.ones(int(s.sum()))) for s in shares.T]
    planes = Planes(np.array([r[0] for r in rows]), np.array([r[1] for r in rows]), np.full(2, 0.3), np.ones(2))
    (found,) = find_junctions(points, shares, planes)
    assert sorted(found.plane.tolist()) == [0, 0, 1]
    assert sorted(found.dihedral.round(0).tolist()) == [70, 110, 180]
    assert found.opening == pytest.approx(0, abs=1e-9)
    # Weights scale nothing but the least number of points; a plane that is far away from the line does not meet it.
    apart = points.copy()
    apart[4000:, 2] += 15
    assert find_junctions(apart, shares, planes._replace(origin=planes.origin + [[0, 0, 0], [0, 0, 15]])) == []


def _sheets(azimuths: list[float], reach: list[tuple[float, float]], field: float, turn: np.ndarray) -> tuple:
    """Points on planes through the z axis at these azimuths, from and to these distances, in a field of others."""
    rng = np.random.default_rng(0)
    points, owner, normals, high = [], [], [], 15.0
    for k, (azimuth, (low, far)) in enumerate(zip(np.deg2rad(azimuths), reach, strict=True)):
        flat = rng.uniform([low, -high], [far, high], (int(8 * (far - low) * 2 * high / 4), 2))
        along, normal = (
            np.array([np.cos(azimuth), np.sin(azimuth), 0]),
            np.array([-np.sin(azimuth), np.cos(azimuth), 0]),
        )
        off = rng.normal(0, 0.3, (len(flat), 1))
        points.append(flat[:, :1] * along + flat[:, 1:] * np.array([0, 0, 1.0]) + off * normal)
        owner += [k] * len(flat)
        normals.append(normal)
    count = len(azimuths)
    others = rng.uniform(-1, 1, (200, 3)) * [field, field, high]
    points, owner = [*points, others[: 200 * (field > 0)]], owner + [-1] * 200 * (field > 0)
    planes = Planes(np.array(normals) @ turn.T, np.zeros((count, 3)), np.full(count, 0.3), np.ones(count))
    return np.concatenate(points) @ turn.T, (np.array(owner)[:, None] == np.arange(count)).astype(float), planes


@pytest.mark.parametrize(
    ("azimuths", "reach", "field", "kind"),
    [
        ([0, 80], [(-20, 20), (-20, 20)], 20.0, "crossing"),
        ([0, 60, 130], [(-20, 20)] * 3, 0.0, "crossing"),
        ([0, 80], [(-20, 20), (0, 20)], 20.0, "ends_on"),
        ([0, 80], [(-20, 20), (0, 20)], 0.0, "crossing"),  # The second one may go on where there are no data.
        ([0, 110], [(0, 20), (0, 20)], 20.0, "ends_meet"),
        ([0, 110, 200], [(0, 20)] * 3, 20.0, "ends_meet"),
        ([0, 120, 240], [(0, 15)] * 3, 0.0, "ends_meet"),
    ],
)
def test_find_junctions__tell_planes_that_end_from_planes_that_cross(
    azimuths: list, reach: list, field: float, kind: str
) -> None:
    for angle in (0.0, 0.5, 2.0):
        turn = np.array([[np.cos(angle), 0, np.sin(angle)], [0, 1, 0], [-np.sin(angle), 0, np.cos(angle)]])
        points, shares, planes = _sheets(azimuths, reach, field, turn)
        found = find_junctions(points, shares, planes)
        assert {dict(KINDS)[one.kind] for one in found} == {kind}


def test_find_junctions__none_of_one_plane_or_none() -> None:
    cloud = wall(0, size=30)
    planes = Planes(cloud.normal, np.zeros((1, 3)), np.ones(1), np.ones(1))
    assert find_junctions(cloud.points, np.ones((len(cloud.points), 1)), planes) == []
    twice = Planes(*(np.repeat(column, 2, axis=0) for column in planes))
    assert find_junctions(cloud.points, np.ones((len(cloud.points), 2)), twice) == []
    assert find_junctions(cloud.points, np.zeros((len(cloud.points), 2)), twice) == []
    with pytest.raises(InputError, match="shares"):
        find_junctions(cloud.points, np.ones((3, 1)), planes)


def test_common_line__of_planes_that_nearly_meet() -> None:
    """Least squares, by hand: three planes along z whose traces form a small triangle."""
    normal = np.array([[1.0, 0, 0], [-0.5, np.sqrt(3) / 2, 0], [-0.5, -np.sqrt(3) / 2, 0]])
    direction, point, opening = common_line(normal, 0.2 * normal + [0, 0, 7], np.array([0.0, 0, 3]))
    np.testing.assert_allclose(direction, [0, 0, 1], atol=1e-12)
    np.testing.assert_allclose(point, [0, 0, 3], atol=1e-12)
    assert opening == pytest.approx(0.2)
    with pytest.raises(InputError, match="give at least two planes"):
        common_line(normal[:1], np.zeros((1, 3)), np.zeros(3))
    with pytest.raises(InputError, match="within 3 degree"):
        common_line(np.array([[0, 0, 1.0], [0, 0.01, 1]]), np.zeros((2, 3)), np.zeros(3))


def test_dihedral_angles__of_any_turn_are_the_same() -> None:
    rng = np.random.default_rng(0)
    azimuth = np.deg2rad([10.0, 100, 260])
    along = np.column_stack([np.cos(azimuth), np.sin(azimuth), 0 * azimuth])
    for _ in range(3):
        shuffled = rng.permutation(3)
        order, angles = dihedral_angles(along[shuffled], np.array([0.0, 0, 1]))
        first = list(shuffled[order]).index(0)
        np.testing.assert_allclose(np.roll(angles, -first), [90, 160, 110])
