"""As many planes as there are, and none where there is none."""

from __future__ import annotations

import numpy as np
import pytest

from dfxm_dask.boundaries.planes.mixture import probabilities
from dfxm_dask.boundaries.planes.plane_search import find_planes
from dfxm_dask.boundaries.planes.plane_support import worth
from dfxm_dask.errors import InputError
from tests.boundaries.points import angle_between, junction, loose_lines, matched, on_lines, poisson_cloud, wall


@pytest.mark.parametrize("seed", range(2))
def test_find_planes__of_a_triple_junction(seed: int) -> None:
    """Half planes at 0, 48 and 190 degree, 20 % outliers: the first and the last are 10 degree apart."""
    cloud = junction(seed, density=3.0, size=70)
    model = find_planes(cloud.points, seed=seed)
    assert len(model.planes.sigma) == 3
    which, off = matched(cloud.normal, model.planes.normal)
    assert sorted(which) == [0, 1, 2]
    assert off.max() < 0.2
    np.testing.assert_allclose(model.planes.sigma[which], [0.35, 0.40, 0.45], rtol=0.1)
    shares = probabilities(cloud.points, model)[:, which]
    told = np.where(shares.max(1) > 0.5, shares.argmax(1), -1)
    assert (told == cloud.wall).mean() > 0.95


def test_find_planes__does_not_depend_on_the_order_of_points_or_where_they_are() -> None:
    cloud = junction(4, density=1.0, size=60)
    first = find_planes(cloud.points).planes
    order = np.random.default_rng(0).permutation(len(cloud.points))
    for a, b in zip(first, find_planes(cloud.points[order]).planes, strict=True):
        np.testing.assert_array_equal(a, b)
    moved = find_planes(cloud.points + [5040.0, -12000.0, 96.0]).planes  # whole cells
    assert angle_between(first.normal, moved.normal).max() < 0.05


def test_find_planes__finds_what_is_in_the_sample_in_all_points() -> None:
    cloud = wall(5, size=60, density=20.0)
    model = find_planes(cloud.points, sample=3000)
    assert len(model.planes.sigma) == 1
    assert model.planes.mass[0] == pytest.approx((cloud.wall == 0).sum(), rel=0.03)
    assert angle_between(model.planes.normal, cloud.normal)[0] < 0.05


@pytest.mark.parametrize("count", [200, 4000, 20_000])
def test_find_planes__none_in_a_poisson_cloud(count: int) -> None:
    for seed in range(2):
        assert find_planes(poisson_cloud(seed, count), seed=seed).planes.sigma.size == 0


@pytest.mark.parametrize("count", [2, 3, 12, 40])
def test_find_planes__none_in_lines_that_happen_to_meet(count: int) -> None:
    for seed in range(2):
        assert find_planes(loose_lines(seed, count), seed=seed).planes.sigma.size == 0


@pytest.mark.parametrize(("lines", "planes"), [(1, 0), (2, 0), (4, 1)])
def test_find_planes__two_lines_are_no_wall(lines: int, planes: int) -> None:
    rng = np.random.default_rng(0)
    x, y = np.eye(3)[:2]
    made = on_lines(rng, np.zeros(3), x, y, 5.0, 0.4, (-15, 15, 0, 5.0 * lines), 8.0)
    points = np.concatenate([made, rng.uniform(-20, 20, (300, 3))])
    found = find_planes(points).planes
    assert len(found.sigma) == planes
    assert planes == 0 or angle_between(found.normal[0], [0, 0, 1]) < 1


def test_find_planes__the_rim_of_the_crystal_is_no_plane() -> None:
    """Points anywhere, but only up to a face that runs obliquely through the cells."""
    points = poisson_cloud(2, 15_000, 48.0)
    assert find_planes(points[points @ [0.5, 0.3, 0.8] < 36]).planes.sigma.size == 0


def test_find_planes__takes_probabilities_for_what_they_are() -> None:
    """A wall of sure points in a cloud of many improbable ones that has a plane of its own, of little weight."""
    cloud = wall(3, size=50, density=4.0)
    slab = np.random.default_rng(0).uniform(-25, 25, (6000, 3))
    points = np.concatenate([cloud.points, slab])
    weights = np.concatenate([np.ones(len(cloud.points)), np.full(len(slab), 0.05)])
    model = find_planes(points, weights)
    assert len(model.planes.sigma) == 1
    assert angle_between(model.planes.normal, cloud.normal)[0] < 0.2
    sure = find_planes(points[weights == 1]).planes
    zero = find_planes(points, (weights == 1).astype(float)).planes
    np.testing.assert_array_equal(sure.normal, zero.normal)


def test_find_planes__nothing_of_nothing() -> None:
    for points in (np.zeros((0, 3)), np.zeros((2, 3)), np.zeros((500, 3)), np.outer(np.arange(500.0) / 10, [1, 2, 3])):
        assert find_planes(points).planes.sigma.size == 0
    assert find_planes(poisson_cloud(0, 500), np.zeros(500)).planes.sigma.size == 0


@pytest.mark.parametrize("name", ["most_planes", "sample", "reach", "thickest"])
def test_find_planes__refuses(name: str) -> None:
    with pytest.raises(InputError, match=f"{name}: is 0"):
        find_planes(np.zeros((5, 3)), **{name: 0})
    with pytest.raises(InputError, match="NaN"):
        find_planes(np.zeros((5, 3)), np.full(5, np.nan))


def test_worth__says_what_speaks_against_a_plane() -> None:
    cloud = wall(1, size=40, density=4.0)
    model = find_planes(cloud.points)
    weights = np.ones(len(cloud.points))
    assert worth(cloud.points, weights, model, 0, 3000.0)[1] == ""
    assert "cost" in worth(cloud.points, weights, model, 0, 10.0)[1]
    elsewhere = model._replace(planes=model.planes._replace(origin=model.planes.origin + 500))
    assert "ten points" in worth(cloud.points, weights, elsewhere, 0, 3000.0)[1]
    even = poisson_cloud(0, 20_000, 40.0) - 20
    reason = worth(even, np.ones(len(even)), model, 0, 1e5)[1]
    assert reason in ("as many points beside the plane as on it", "fewer than ten points")
