"""The mixture of planes: its sums, its steps, its densities."""

from __future__ import annotations

import numpy as np
import pytest

from dfxm_dask.boundaries.planes.mixture import (
    Statistics,
    cell_densities,
    cell_shares,
    fitted,
    plane_statistics,
    probabilities,
    refined,
    started,
)
from dfxm_dask.boundaries.planes.plane import Planes, checked_points, in_plane
from dfxm_dask.boundaries.planes.sums import cell_centres, cell_numbers, grouped_sums, planes_of_sums
from dfxm_dask.errors import InputError
from tests.boundaries.points import angle_between, junction, matched, poisson_cloud
from tests.references.planes import add_statistics


@pytest.fixture(scope="module")
def cloud():
    return junction(7, density=1.5, size=60)


@pytest.fixture(scope="module")
def near(cloud):
    """A model next to the truth, after two steps."""
    points, weights = checked_points("test", cloud.points, None)
    normal = cloud.normal + 0.01 * np.random.default_rng(0).normal(size=(3, 3))
    normal /= np.linalg.norm(normal, axis=1, keepdims=True)
    origin = np.array([cloud.points[cloud.wall == k].mean(0) for k in range(3)])
    model = started(points, Planes(normal, origin, np.full(3, 0.6), np.ones(3)))
    return fitted(points, weights, model, steps=2)[0]


def test_cells__have_their_points() -> None:
    points = poisson_cloud(0, 500, 90.0) - 45
    places = cell_centres(cell_numbers(points, 7.0), 7.0)
    assert np.abs(points - places).max() <= 3.5
    assert cell_numbers(points[:1], 7.0) != cell_numbers(points[:1] + [7, 0, 0], 7.0)


def test_statistics__are_those_of_a_naive_sum(cloud, near) -> None:
    points, weights = checked_points("test", cloud.points[:800], np.linspace(0.1, 1, 800))
    found = plane_statistics(points, weights, near)
    shares = probabilities(points, near) * weights[:, None]
    r = points - near.centre
    terms = [np.ones(800), *r.T, *(r[:, i] * r[:, j] for i, j in ((0, 0), (0, 1), (0, 2), (1, 1), (1, 2), (2, 2)))]
    naive = np.array([[(shares[:, k] * term).sum() for term in terms] for k in range(3)])
    np.testing.assert_allclose(found.sums / 65536, naive, atol=1e-2)
    np.testing.assert_allclose(found.masses.sum(0)[1:] / 65536, shares.sum(0), atol=1e-2)
    np.testing.assert_allclose(found.masses.sum() / 65536, weights.sum(), atol=1e-2)


def test_probabilities__are_bayes_rule(cloud, near) -> None:
    """One point at a time, from the density that the model states."""
    points, _ = checked_points("test", cloud.points[:60], None)
    planes = near.planes
    found = probabilities(points, near)
    for point, row in zip(points, found, strict=True):
        cell = cell_numbers(point[None], near.edge)
        share, dense = cell_shares(near, cell)[0], cell_densities(planes, cell, near.edge)[0]
        u = ((point - planes.origin) * planes.normal).sum(1) / planes.sigma
        part = np.where(np.abs(u) < 6, share[1:] * dense * np.exp(-(u**2) / 2), 0)
        np.testing.assert_allclose(row, part / (share[0] + part.sum()), rtol=1e-9, atol=1e-15)


def test_statistics__do_not_depend_on_blocks_or_order(cloud, near) -> None:
    points, weights = checked_points("test", cloud.points, np.linspace(0.2, 1, len(cloud.points)))
    whole = plane_statistics(points, weights, near)
    order = np.random.default_rng(1).permutation(len(points))
    for parts in (np.array_split(np.arange(len(points)), 5), np.array_split(order, 3)):
        total = None
        for part in parts:
            one = plane_statistics(points[part], weights[part], near)
            total = one if total is None else add_statistics(one, total)
        assert total.likelihood == whole.likelihood
        for a, b in zip(whole[:3], total[:3], strict=True):
            np.testing.assert_array_equal(a, b)
    both = refined(whole, near), refined(total, near)
    np.testing.assert_array_equal(both[0].planes.normal, both[1].planes.normal)


def test_fitted__by_blocks_is_fitted_at_once(cloud, near) -> None:
    points, weights = checked_points("test", cloud.points, None)
    model = near
    for _ in range(3):
        parts = [plane_statistics(points[k::4], weights[k::4], model) for k in range(4)]
        total = parts[0]
        for part in parts[1:]:
            total = add_statistics(total, part)
        model = refined(total, model)
    at_once, _ = fitted(points, weights, near, steps=3, close=0.0)
    np.testing.assert_array_equal(model.planes.normal, at_once.planes.normal)
    np.testing.assert_array_equal(model.shares, at_once.shares)


def test_refined__makes_the_points_more_likely(cloud) -> None:
    points, weights = checked_points("test", cloud.points, None)
    normal = cloud.normal + 0.02
    origin = np.array([cloud.points[cloud.wall == k].mean(0) for k in range(3)])
    normal /= np.linalg.norm(normal, axis=1, keepdims=True)
    model = started(points, Planes(normal, origin, np.ones(3), np.ones(3)))
    gains = []
    for _ in range(12):
        statistics = plane_statistics(points, weights, model)
        gains.append(statistics.likelihood)
        model = refined(statistics, model)
    assert (np.diff(gains) > -1e-4 * np.abs(gains[-1])).all()
    assert gains[-1] > gains[0] + 65536 * 500
    _, off = matched(cloud.normal, model.planes.normal)
    assert off.max() < 0.6
    np.testing.assert_allclose(model.planes.sigma, [0.35, 0.40, 0.45], rtol=0.1)


def test_cell_densities__integrate_to_one() -> None:
    """The mean of the density over a cell is that of points anywhere, for any plane at any place in it."""
    rng = np.random.default_rng(3)
    cell = cell_numbers(np.array([[1.0, 1, 1]]), 12.0)
    inside = rng.uniform(0, 12, (400_000, 3))
    for _ in range(6):
        normal = rng.normal(size=(1, 3))
        normal /= np.linalg.norm(normal)
        planes = Planes(normal, rng.uniform(3, 9, (1, 3)), np.array([0.5]), np.ones(1))
        dense = cell_densities(planes, cell, 12.0)[0, 0]
        u = ((inside - planes.origin) @ normal[0]) / 0.5
        assert dense * np.exp(-(u**2) / 2).mean() == pytest.approx(1, abs=0.03)
    far = planes._replace(origin=np.full((1, 3), 50.0))
    assert cell_densities(far, cell, 12.0)[0, 0] == 0


def test_fitted__where_a_plane_has_no_points_it_stays() -> None:
    points = poisson_cloud(0, 400, 20.0)
    lost = Planes(np.array([[0.0, 0, 1]]), np.array([[0.0, 0, 300]]), np.array([0.4]), np.ones(1))
    model, gain = fitted(points, None, started(points, lost), steps=5)
    np.testing.assert_array_equal(model.planes.normal, [[0, 0, 1]])
    np.testing.assert_array_equal(model.planes.origin, [[0, 0, 300]])
    assert model.planes.mass[0] == 0
    assert gain < 0
    assert not probabilities(points, model).any()


def test_fitted__of_nothing_is_nothing() -> None:
    none = Planes(np.zeros((0, 3)), np.zeros((0, 3)), np.zeros(0), np.zeros(0))
    empty = np.zeros((0, 3))
    model, gain = fitted(empty, None, started(empty, none))
    assert gain == 0
    assert probabilities(empty, model).shape == (0, 0)
    assert cell_shares(model, np.array([5])).tolist() == [[1.0]]


def test_ends__cut_a_plane(near) -> None:
    points = near.planes.origin[0] + np.array([[-5.0], [-0.4], [0], [5]]) * in_plane(near.planes.normal[0])[0]
    along = in_plane(near.planes.normal[0])[0]
    ended = near._replace(ends=np.array([[0.0, *along, along @ near.planes.origin[0]]]))
    before, after = probabilities(points, near)[:, 0], probabilities(points, ended)[:, 0]
    assert before[0] > 0.3
    assert after[0] < 1e-9
    assert 0 < after[1] < after[2] < before[2]
    assert after[3] == pytest.approx(before[3])


def test_grouped_sums__add_up_to_all(cloud, near) -> None:
    points, _ = checked_points("test", cloud.points, None)
    shares = probabilities(points, near)
    squares, sums = grouped_sums(points, shares[:, 1], near.planes.normal[1], near.centre, 15.0)
    assert len(squares) > 5
    whole = planes_of_sums(sums.sum(0), near.centre)
    weights = shares[:, 1] / shares[:, 1].sum()
    origin = weights @ points
    _, vectors = np.linalg.eigh(((points - origin) * weights[:, None]).T @ (points - origin))
    assert angle_between(whole.normal, vectors[:, 0]) < 1e-4
    np.testing.assert_allclose(whole.origin, origin, atol=1e-4)
    assert np.isnan(planes_of_sums(np.zeros(10), near.centre).sigma)


def test_mixture__refuses_what_does_not_fit(near) -> None:
    with pytest.raises(InputError, match="1 um or more"):
        started(np.zeros((0, 3)), near.planes, edge=0.5)
    far = near._replace(centre=np.full(3, -(2.0**40)))
    with pytest.raises(InputError, match="do not fit 64 bits"):
        plane_statistics(np.zeros((5, 3)), np.ones(5), far)
    much = Statistics(np.full((1, 10), 2**62), np.zeros(0, np.int64), np.zeros((0, 2), np.int64), 0)
    with pytest.raises(InputError, match="sums of both"):
        add_statistics(much, much)
