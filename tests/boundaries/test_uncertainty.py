"""Stated errors against true ones."""

from __future__ import annotations

import numpy as np
import pytest

from dfxm_dask.boundaries.lines.projected_lines import line_families
from dfxm_dask.boundaries.planes.mixture import fitted, started
from dfxm_dask.boundaries.planes.plane import Planes, in_plane
from dfxm_dask.boundaries.planes.stripes import radius_of
from dfxm_dask.boundaries.planes.uncertainty import (
    bootstrap_planes,
    line_errors,
    reread_planes,
    restarted_planes,
    standard_error,
)
from dfxm_dask.errors import InputError
from tests.boundaries.points import angle_between, wall
from tests.references.planes import normal_errors


def _near(cloud):
    planes = Planes(cloud.normal, np.zeros((1, 3)), np.array([0.5]), np.ones(1))
    return fitted(cloud.points, None, started(cloud.points, planes), steps=40)[0]


def test_normal_errors__hold_the_truth_in_two_of_three_cases() -> None:
    """60 walls: intervals of 68 % hold 60 to 76 %. By hand, sigma / sqrt(n var) along both axes, they are as large."""
    hits, sizes = [], []
    for seed in range(60):
        cloud = wall(seed, size=50, density=1.0)
        model = _near(cloud)
        drawn = bootstrap_planes(cloud.points, None, model, replicates=100, seed=seed)
        others = restarted_planes(cloud.points, None, model, starts=2, seed=seed)
        stated = normal_errors(model.planes, drawn, others)[0]
        hits.append(angle_between(model.planes.normal[0], cloud.normal[0]) < stated)
        mine = cloud.points[cloud.wall == 0] @ in_plane(cloud.normal[0]).T
        sizes.append(stated / np.rad2deg(1.515 * 0.4 / np.sqrt(len(mine) * mine.var(axis=0).mean())))
    assert 0.60 <= np.mean(hits) <= 0.78
    assert 0.9 < np.median(sizes) < 1.3


def test_standard_error__adds_squares() -> None:
    one = Planes(np.array([[0.0, 0, 1]]), np.zeros((1, 3)), np.ones(1), np.array([2.0]))

    def stack(*masses: float) -> Planes:
        rows = [one._replace(mass=np.array([m])) for m in masses]
        return Planes(*(np.stack(column) for column in zip(*rows, strict=True)))

    found = standard_error(lambda p: p.mass, one, stack(1, 2, 3), stack(4, 4), stack(2))
    assert found == pytest.approx(np.sqrt(1 + 4 + 0))
    none = Planes(*(column[:0] for column in stack(1)))
    assert standard_error(lambda p: p.mass, one, stack(1, 2, 3), none) == pytest.approx(1)


def test_radius__holds_what_it_says() -> None:
    rng = np.random.default_rng(0)
    for deviations in ([1.0, 1.0], [0.3, 1.0], [2.0, 0.001]):
        drawn = rng.normal(size=(200_000, 2)) * deviations
        held = (np.hypot(*drawn.T) < radius_of(np.array(deviations))).mean()
        assert held == pytest.approx(0.6827, abs=0.006)
    assert radius_of(np.zeros(2)) == 0


def test_reread__other_thresholds_that_shift_a_plane_show() -> None:
    """A second reading without points below the plane: its plane lies higher, and the error says so."""
    cloud = wall(4, size=40, density=4.0)
    model = _near(cloud)
    above = ((cloud.points - model.planes.origin[0]) @ model.planes.normal[0] > -0.2).astype(float)
    read = reread_planes(cloud.points, [above, np.ones(len(above))], model)
    moved = (read.origin[:, 0] - model.planes.origin[0]) @ model.planes.normal[0]
    assert moved[0] > 0.1
    assert abs(moved[1]) < 0.01
    drawn = bootstrap_planes(cloud.points, None, model)

    def height(planes: Planes) -> np.ndarray:
        return (planes.origin * model.planes.normal).sum(-1)

    alone, both = (standard_error(height, model.planes, drawn, *other) for other in ((), (read,)))
    assert both[0] > 2 * alone[0]
    assert reread_planes(cloud.points, [], model).normal.shape == (0, 1, 3)


def test_bootstrap__is_drawn_by_its_seed_and_knows_no_planes() -> None:
    cloud = wall(0, size=30, density=2.0)
    model = _near(cloud)
    order = np.random.default_rng(1).permutation(len(cloud.points))
    first = bootstrap_planes(cloud.points, None, model, replicates=5, seed=3)
    again = bootstrap_planes(cloud.points[order], None, model, replicates=5, seed=3)
    other = bootstrap_planes(cloud.points, None, model, replicates=5, seed=4)
    np.testing.assert_array_equal(first.normal, again.normal)
    assert not np.array_equal(first.normal, other.normal)
    none = Planes(*(column[:0] for column in model.planes))
    empty = started(cloud.points, none)
    assert bootstrap_planes(cloud.points, None, empty, replicates=5).normal.shape == (5, 0, 3)
    assert normal_errors(none, bootstrap_planes(cloud.points, None, empty, replicates=5)).shape == (0,)
    with pytest.raises(InputError, match="draw two or more"):
        bootstrap_planes(cloud.points, None, model, replicates=1)
    with pytest.raises(InputError, match="blocks of 2 um or more"):
        bootstrap_planes(cloud.points, None, model, block=1.0)


def test_line_errors__cover_the_truth() -> None:
    """20 walls; the intervals are rather too wide than too narrow."""
    hits = []
    for seed in range(20):
        cloud = wall(seed, outliers=0.0, density=2.0, size=40)
        normal = cloud.normal[0]
        found = line_families(cloud.points, None, normal)
        errors = line_errors(cloud.points, [np.ones(len(cloud.points))], normal, found, replicates=15, seed=seed)
        hits.append(angle_between(found.line[0], cloud.line[0]) < errors.angle[0])
        assert errors.angle[0] < 0.4
        assert abs(found.spacing[0] - 4.1) < 4 * errors.spacing[0]
    assert 0.55 <= np.mean(hits) <= 0.98


def test_line_errors__other_thresholds_count() -> None:
    cloud = wall(1, outliers=0.0, density=3.0, size=40)
    normal, ones = cloud.normal[0], np.ones(len(cloud.points))
    found = line_families(cloud.points, None, normal)
    half = (cloud.points @ cloud.line[0] > -5).astype(float)
    one = line_errors(cloud.points, [ones], normal, found, replicates=10)
    two = line_errors(cloud.points, [ones, half], normal, found, replicates=10)
    assert two.angle[0] > one.angle[0]
    lost = line_errors(np.zeros((0, 3)), [np.zeros(0)], normal, found, replicates=10)
    assert np.isnan(lost.angle).all()
    with pytest.raises(InputError, match="0 readings"):
        line_errors(cloud.points, [], normal, found)
