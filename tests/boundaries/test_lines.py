"""Families of lines: direction, spacing, and single lines."""

from __future__ import annotations

import numpy as np
import pytest

from dfxm_dask.boundaries.lines.projected_lines import (
    SHORTEST,
    line_families,
    located_lines,
    projected_power,
    spacing_at,
    tapered,
)
from dfxm_dask.boundaries.planes.plane import in_plane
from dfxm_dask.errors import InputError
from tests.boundaries.points import angle_between, on_lines, wall


@pytest.mark.parametrize("spacing", [2.0, 4.1, 6.5, 12.0])
def test_line_families__direction_and_spacing(spacing: float) -> None:
    for seed in range(3):
        cloud = wall(seed, (spacing,), (17.0 + 40 * seed,), density=4.0)
        found = line_families(cloud.points, None, cloud.normal[0])
        assert angle_between(found.line[0], cloud.line[0]) < 0.3
        np.testing.assert_allclose(found.spacing, [spacing], rtol=0.005)
        np.testing.assert_allclose(found.gap, [spacing], rtol=0.02)
        assert abs(found.count[0] - 60 / spacing * 1.2) < 0.35 * 60 / spacing + 1
        assert abs(found.line[0] @ cloud.normal[0]) < 1e-12


def test_line_families__contrast_is_that_of_a_blurred_comb() -> None:
    cloud = wall(1, (5.0,), sigma=0.5, outliers=0.0, density=10.0)
    found = line_families(cloud.points, None, cloud.normal[0])
    assert found.contrast[0] == pytest.approx(np.exp(-2 * (np.pi * 0.5 / 5) ** 2), abs=0.02)


@pytest.mark.parametrize(("spacings", "angles"), [((4.0, 5.0), (10.0, 70.0)), ((4.0, 12.0), (10.0, 100.0))])
def test_line_families__two_where_there_are_two(spacings: tuple, angles: tuple) -> None:
    for seed in range(2):
        cloud = wall(seed, spacings, angles, density=5.0)
        found = line_families(cloud.points, None, cloud.normal[0], most=3)
        assert len(found.spacing) == 2
        assert angle_between(found.line, cloud.line).max() < 0.3
        np.testing.assert_allclose(found.spacing, spacings, rtol=0.02)
        np.testing.assert_allclose(found.gap, spacings, rtol=0.03)


def test_line_families__by_weight() -> None:
    """Of two families the one of little weight is not the first, though it has more points."""
    heavy, light = wall(0, (5.0,), (0.0,), outliers=0.0), wall(0, (4.0,), (60.0,), outliers=0.0, density=30.0)
    points = np.concatenate([heavy.points, light.points])
    weights = np.concatenate([np.ones(len(heavy.points)), np.full(len(light.points), 0.05)])
    assert angle_between(line_families(points, weights, heavy.normal[0]).line[0], heavy.line[0]) < 0.2
    assert angle_between(line_families(points, None, heavy.normal[0]).line[0], light.line[0]) < 0.2


def test_line_families__the_gap_of_uneven_lines_is_their_mean_distance() -> None:
    rng = np.random.default_rng(0)
    for _ in range(5):
        gaps = 4.0 * (1 + 0.2 * rng.uniform(-1.7, 1.7, 14))
        places = np.concatenate([[0], np.cumsum(gaps)]) - 28
        y = np.repeat(places, 250) + rng.normal(0, 0.4, 250 * 15)
        points = np.stack([rng.normal(0, 0.4, y.size), y, rng.uniform(-30, 30, y.size)], axis=1)
        found = line_families(points, None, np.array([1.0, 0, 0]))
        assert angle_between(found.line[0], [0, 0, 1]) < 0.1
        assert found.count[0] == 15
        assert found.gap[0] == pytest.approx(gaps.mean(), rel=0.01)


def test_line_families__none_in_an_even_plane() -> None:
    rng = np.random.default_rng(0)
    for count in (20, 300, 3000):
        flat = np.column_stack([rng.uniform(0, [60, 30], (count, 2)), rng.normal(0, 0.4, count)])
        found = line_families(flat, None, np.array([0.0, 0, 1]))
        assert found.line.shape == (0, 3)
        assert found.count.dtype == np.int64
    assert line_families(np.zeros((0, 3)), None, np.array([0.0, 0, 1])).spacing.size == 0


@pytest.mark.parametrize("normal", [[0, 0, 2], [0, 0, np.nan], [0, 1]])
def test_line_families__refuses(normal: list) -> None:
    with pytest.raises(InputError, match="unit vector"):
        line_families(np.zeros((40, 3)), None, np.array(normal, float))


def test_projected_power__is_a_sum_of_plane_waves() -> None:
    """The same power from the definition, without a profile; and largest along the lines."""
    rng = np.random.default_rng(2)
    lines = on_lines(rng, np.zeros(3), *np.eye(3)[:2], 4.0, 0.3, (-15, 15, -15, 15), 3.0)
    flat, weights = np.ascontiguousarray(lines[:, :2]), rng.uniform(0.2, 1, len(lines))
    angles = np.deg2rad([0.0, 0.7, 30.0, 90.0])
    found = projected_power(flat, weights, angles, (3.0, 12.0))
    bins = 2 ** int(np.ceil(np.log2(4 * (np.linalg.norm(flat, axis=1).max() + 0.2) / 0.2 + 2)))
    waves = np.fft.rfftfreq(bins, 0.2)
    waves = waves[(waves >= 1 / 12) & (waves <= 1 / 3)]
    across = flat[:, 1] * np.cos(angles[:, None]) - flat[:, 0] * np.sin(angles[:, None])
    slow = [(np.abs(np.exp(2j * np.pi * np.outer(waves, s)) @ weights) ** 2).sum() for s in across]
    np.testing.assert_allclose(found, slow, rtol=0.05)
    assert found.argmax() == 0


def test_spacing__of_very_sharp_lines_is_no_overtone() -> None:
    y, x = np.mgrid[-20:21:5, -20:20:0.1].reshape(2, -1)
    spacing, contrast = spacing_at(np.stack([x, y], -1), np.ones(x.size), 0.0)
    assert spacing == pytest.approx(5, rel=0.01)
    assert contrast > 0.9
    assert located_lines(np.stack([x, y], -1), np.ones(x.size), 0.0) == pytest.approx(np.arange(-20, 21, 5), abs=0.11)
    assert SHORTEST < spacing


def test_tapered__falls_to_nothing_at_the_rim() -> None:
    flat = np.random.default_rng(0).uniform(-1, 1, (4000, 2)) * [50, 20] @ in_plane(np.array([0.0, 0, 1]))[:, :2]
    soft = tapered(flat, np.ones(4000))
    middle = np.abs(flat @ np.linalg.inv(in_plane(np.array([0.0, 0, 1]))[:, :2])) / [50, 20]
    assert soft[(middle < 0.1).all(1)].min() > 0.9
    assert soft[(middle > 0.9).any(1)].max() < 0.05


@pytest.mark.parametrize(("count", "spacing"), [(3, 3.0), (3, 4.0), (3, 5.0), (5, 2.0), (4, 6.0)])
def test_spacing__of_few_lines_is_not_that_of_the_whole_patch(count: int, spacing: float) -> None:
    rng = np.random.default_rng(count)
    y = np.repeat(spacing * np.arange(count), 400) + rng.normal(0, 0.3, 400 * count)
    points = np.stack([rng.normal(0, 0.1, y.size), y, rng.uniform(0, 40, y.size)], axis=1)
    found = line_families(points, None, np.array([1.0, 0, 0]), most=1)
    assert len(found.spacing) == 1
    assert found.spacing[0] == pytest.approx(spacing, rel=0.15)
