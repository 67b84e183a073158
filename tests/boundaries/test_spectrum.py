"""Families of lines from a spectrum with its null, on synthetic strips of known walls."""

from __future__ import annotations

import numpy as np
import pytest

from dfxm_dask.boundaries.lines.spectrum import (
    ALIASED,
    END_OF_RANGE,
    FEW_PERIODS,
    NO_FAMILY,
    OVERTONE,
    REASONS,
    TOO_LITTLE,
    UNEVEN,
    LineSets,
    is_overtone,
    line_sets,
)
from dfxm_dask.boundaries.lines.strip import alias_period, strip_map, wave_power
from dfxm_dask.errors import InputError
from tests.boundaries.points import angle_between
from tests.boundaries.strips import Walled, frame, strip


def read(wall: Walled, seed: int = 0) -> LineSets:
    return line_sets(wall.cells, wall.normal, wall.origin, wall.corner, seed=seed)


@pytest.mark.parametrize(
    ("spacing", "angle", "more"),
    [
        (2.7, 75.0, {}),
        (5.0, 110.0, {"height": 1.0}),
        (4.1, 60.0, {"trace": 50.0}),
        (3.4, 95.0, {"missing": (0, 5, 6), "lost": 0.3}),
        (5.5, 80.0, {"gaps": ((-20, -5), (15, 22))}),
        (3.0, 100.0, {"z": np.array([0.0, 0.8, 2.1, 2.9, 4.4, 5, 6.3, 7.1, 8.6, 9.2, 10.7, 11.6])}),
    ],
)
def test_line_sets__direction_and_spacing(spacing: float, angle: float, more: dict) -> None:
    wall = strip(int(10 * spacing), (spacing,), (angle,), **more)
    found = read(wall)
    assert angle_between(found.line[0], wall.line[0]) < max(1.0, 4 * found.line_error[0])
    assert found.spacing[0] == pytest.approx(spacing, rel=0.03)
    assert abs(found.spacing[0] - spacing) < 4 * found.spacing_error[0]
    assert abs(found.line[0] @ wall.normal) < 1e-12
    assert found.count[0] == pytest.approx(found.periods[0], rel=0.45)
    assert not found.reason[0]
    assert found.reason[1] == NO_FAMILY
    assert np.isnan(found.line[1]).all()


def test_line_sets__do_not_hang_on_the_order_of_cells() -> None:
    wall = strip(3, trace=40.0)
    mixed = wall.cells[np.random.default_rng(0).permutation(len(wall.cells))]
    for a, b in zip(read(wall), read(wall._replace(cells=mixed)), strict=True):
        np.testing.assert_array_equal(a, b)


def test_line_sets__two_families() -> None:
    wall = strip(11, (4.0, 5.2), (60.0, 110.0), jitter=0.05)
    found = read(wall)
    nearest = angle_between(wall.line[:, None], found.line[None]).argmin(axis=1)
    assert sorted(nearest) == [0, 1]
    assert angle_between(wall.line, found.line[nearest]).max() < 1.5
    np.testing.assert_allclose(found.spacing[nearest], wall.spacing, rtol=0.03)


@pytest.mark.parametrize(("doubled", "unequal"), [(0.25, 0.0), (0.25, 0.5), (0.23, 0.2), (0.27, 0.0)])
def test_line_sets__lines_that_show_twice_have_their_own_spacing_or_both_are_named(
    doubled: float, unequal: float
) -> None:
    """Images in either tail half a spacing apart: their difference has the true period."""
    wall = strip(7, (6.0,), (80.0,), doubled=doubled, unequal=unequal, jitter=0.05, trace=80.0)
    found = read(wall)
    assert found.spacing[0] == pytest.approx(6.0, rel=0.03)
    assert not found.spacing_overtone[0]
    blind = wall.cells.copy()
    blind[:, 5:7] = np.nan  # without the tails
    found = read(wall._replace(cells=blind))
    if abs(found.spacing[0] / 3.0 - 1) < 0.03:
        assert found.spacing_overtone[0]
        assert found.reason[0] == OVERTONE
    else:
        assert found.spacing[0] == pytest.approx(6.0, rel=0.03)


@pytest.mark.parametrize("seed", range(4))
def test_line_sets__lines_without_a_period_have_a_direction_and_no_spacing(seed: int) -> None:
    rng = np.random.default_rng(seed)
    for lines in (np.sort(rng.uniform(-60, 60, 3 + 8 * seed)), rng.uniform(-5, 5, 1)):
        wall = strip(seed, (4.0,), (80.0,), lines=[lines], trace=60.0)
        found = read(wall)
        assert not np.isfinite(found.spacing[0])
        if np.isfinite(found.line[0, 0]):
            assert angle_between(found.line[0], wall.line[0]) < 3
            assert found.reason[0] & (UNEVEN | FEW_PERIODS)
        else:
            assert found.reason[0]


def test_line_sets__few_periods_have_no_spacing() -> None:
    wall = strip(2, (6.0,), (88.0,), trace=20.0, jitter=0.02)
    found = read(wall)
    assert found.periods[0] < 4
    assert np.isnan([found.spacing[0], found.spacing_error[0]]).all()
    assert found.reason[0] & FEW_PERIODS
    assert angle_between(found.line[0], wall.line[0]) < 3


@pytest.mark.parametrize(("spacing", "angle"), [(1.35, 85.0), (14.0, 88.0), (4.0, 14.0), (3.0, 0.0)])
def test_line_sets__nothing_from_the_ends_of_the_range(spacing: float, angle: float) -> None:
    """Too fine, too coarse, and nearly parallel to the trace."""
    found = read(strip(4, (spacing,), (angle,), trace=120.0, jitter=0.03))
    assert np.isnan(found.spacing).all()
    assert np.isin(found.reason, [NO_FAMILY, END_OF_RANGE, UNEVEN, ALIASED]).all()


def test_line_sets__name_the_second_direction_of_wide_layers() -> None:
    """Layers 2 um apart shift by almost half a period each: two directions explain them."""
    z = np.arange(0, 30, 2.0)
    wall = strip(5, (3.0,), (48.0,), z=z, normal=(1, 0, 0), jitter=0.05)
    found = read(wall)
    assert found.reason[0] & ALIASED
    both = np.stack([found.line[0], found.line_alias[0]])
    assert angle_between(both, wall.line[0]).min() < 1.0
    uneven = strip(
        5, (3.0,), (48.0,), z=z + np.random.default_rng(0).uniform(-0.8, 0.8, 15), normal=(1, 0, 0), jitter=0.05
    )
    found = read(uneven)
    assert not found.reason[0] & ALIASED
    assert angle_between(found.line[0], wall.line[0]) < 1.0


@pytest.mark.parametrize(("spacing", "angle", "sigma"), [(5.0, 72.0, 0.3), (6.0, 105.0, 0.25), (4.4, 78.0, 0.3)])
def test_line_sets__overtones_exclude_a_direction_of_finer_lines(spacing: float, angle: float, sigma: float) -> None:
    """Images narrow beside their spacing have an overtone, which lines 1.6 um apart could not have."""
    wall = strip(6, (spacing,), (angle,), z=np.arange(0, 24, 1.5), normal=(1, 0, 0), sigma=sigma, jitter=0.03)
    found = read(wall)
    assert not found.reason[0] & ALIASED
    assert np.isnan([*found.line_alias[0], found.spacing_alias[0]]).all()
    assert angle_between(found.line[0], wall.line[0]) < 1.0
    # Without the overtone, wide images of the same lines may as well be those of finer ones.
    wide = read(strip(6, (spacing,), (angle,), z=np.arange(0, 24, 1.5), normal=(1, 0, 0), sigma=0.9, height=8.0))
    assert wide.reason[0] & ALIASED
    assert np.isfinite(wide.spacing_alias[0])


def test_is_overtone__also_when_layers_fold_it() -> None:
    """Twice 0.29/um along z is -0.42/um to layers 1 um apart; measured overtones stray by half a resolved frequency."""
    map_of = strip_map(*(w := strip(1, trace=16.0, z=np.arange(13.0)))[:1], w.cells[:, 4], *w[1:4])
    first = np.array([0.228, -0.289])
    for times in (2, 3, 4):
        folded = times * first + [0, round(-times * first[1])]
        assert is_overtone(map_of, folded + [0.028, -0.037], first)
        assert not is_overtone(map_of, folded + [0.028, 0.2], first)
    assert not is_overtone(map_of, first, first)
    uneven = map_of._replace(z=np.cumsum(np.random.default_rng(0).uniform(0.5, 1.5, 13)))
    assert not is_overtone(uneven, 2 * first + [0, 1], first)
    assert is_overtone(uneven, 2 * first, first)


def test_alias_period__of_stacks() -> None:
    rng = np.random.default_rng(1)
    assert alias_period(np.arange(16.0)) == pytest.approx(1, rel=1e-3)
    assert alias_period(0.4 * np.array([0, 2, 3, 7, 8, 12])) == pytest.approx(2.5, rel=1e-3)
    assert alias_period(np.array([0, 3, 6, 12, 15.0])) == pytest.approx(1 / 3, rel=1e-3)
    assert alias_period(np.arange(12) + rng.uniform(-0.02, 0.02, 12)) == pytest.approx(1, rel=0.01)
    assert alias_period(np.cumsum(rng.uniform(0.5, 1.5, 14))) == np.inf


@pytest.mark.parametrize("what", ["one layer", "two layers", "no cell", "all NaN", "in the layer", "short"])
def test_line_sets__too_little_says_so(what: str) -> None:
    wall = strip(1, trace=4.0 if what == "short" else 30.0)
    cells, normal = wall.cells.copy(), wall.normal
    z = np.unique(cells[:, 2])
    if what in ("one layer", "two layers"):
        cells = cells[np.isin(cells[:, 2], z[: 1 + (what == "two layers")])]
    elif what == "no cell":
        cells = cells[:0]
    elif what == "all NaN":
        cells[:, 4] = np.nan
    elif what == "in the layer":
        normal = np.array([0.0, 0, 1])
    found = line_sets(cells, normal, wall.origin, wall.corner)
    assert (found.reason == TOO_LITTLE).all()
    for name in ("line", "line_error", "spacing", "spacing_error", "power_ratio", "periods"):
        assert np.isnan(getattr(found, name)).all()
    assert not found.count.any()


def test_line_sets__constant_images_have_no_lines() -> None:
    wall = strip(1, trace=30.0)
    for value in (0.0, 7.5):
        cells = wall.cells.copy()
        cells[:, 4:7] = value
        assert (read(wall._replace(cells=cells)).reason & (NO_FAMILY | TOO_LITTLE)).all()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"cells": np.zeros((5, 7))}, "8 columns"),
        ({"normal": np.array([0, 0, 2.0])}, "unit vector"),
        ({"normal": np.array([0, np.nan, 1.0])}, "unit vector"),
        ({"origin": np.array([0, np.inf, 1.0])}, "point of the plane"),
    ],
)
def test_line_sets__refuses(change: dict, words: str) -> None:
    good = {"cells": np.zeros((5, 8)), "normal": np.array([1.0, 0, 0]), "origin": np.zeros(3)}
    with pytest.raises(InputError, match=words):
        line_sets(**{**good, **change})


def test_strip_map__has_the_period_of_a_wave_and_wave_power_its_size() -> None:
    """A plane wave in the plane, sampled in layers, has its power where the in-plane geometry puts it."""
    wall = strip(9, (4.0,), (70.0,), height=0.0, noise=0.0, trace=40.0)
    axes = frame(wall.normal)
    across = np.cos(np.deg2rad(70)) * axes[1] - np.sin(np.deg2rad(70)) * axes[0]
    image = np.cos(2 * np.pi * ((wall.cells[:, :3] - wall.origin) @ across) / 4.0)
    found = strip_map(wall.cells, image, wall.normal, wall.origin, wall.corner)
    # Along the trace lines are 4/sin(70) apart; from layer to layer they move by cot(70)/rise.
    trace, up = -np.sin(np.deg2rad(70)) / 4, np.cos(np.deg2rad(70)) / 4 / axes[1, 2]
    here = wave_power(found, np.array([trace, trace * 1.1, trace]), np.array([up, up, up + 0.1]))
    full = (np.abs(found.values).sum() * np.pi / 4) ** 2  # |cos| has a mean of 2/pi, cos² of 1/2
    assert here[0] == pytest.approx(full, rel=0.05)
    assert (here[1:] < 0.2 * here[0]).all()
    assert set(REASONS) == {1 << k for k in range(7)}


@pytest.mark.slow
def test_line_sets__of_rolled_layers_are_none() -> None:
    """200 maps of noise and of lines that do not go through layers: at most 1 % state a direction."""
    stated = 0
    for seed in range(200):
        wall = strip(seed, trace=60.0, height=0.0 if seed % 2 else 1.5, normal=(1, 0.2, 0.1))
        cells, shift = wall.cells.copy(), np.random.default_rng(seed)
        for z in np.unique(cells[:, 2]):
            mine = cells[:, 2] == z
            cells[mine, 4:7] = np.roll(cells[mine, 4:7].reshape(-1, 240, 3), shift.integers(240), axis=1).reshape(-1, 3)
        stated += np.isfinite(read(wall._replace(cells=cells), seed).line[0, 0])
    print("directions stated of null maps:", stated)
    assert stated <= 2


@pytest.mark.slow
def test_line_sets__errors_cover() -> None:
    """Of 200 walls 60 to 80 % of true spacings lie within the stated errors, and more directions; few are wrong."""
    rng, within, right = np.random.default_rng(3), [], []
    for seed in range(200):
        spacing, angle = rng.uniform(2.5, 7), rng.uniform(55, 125)
        wall = strip(
            5000 + seed,
            (spacing,),
            (angle,),
            trace=rng.choice([40.0, 60, 100]),
            height=rng.uniform(0.5, 2),
            jitter=rng.choice([0.05, 0.1, 0.15]),
        )
        found = read(wall, seed)
        if np.isfinite(found.spacing[0]):
            off = angle_between(found.line[0], wall.line[0]), abs(found.spacing[0] - spacing)
            right.append(off[0] < 5 and off[1] < 0.1 * spacing)
            within.append([off[0] < found.line_error[0], off[1] < found.spacing_error[0]])
    print("spacings stated, right, within:", len(right), np.mean(right), np.mean(np.array(within)[right], axis=0))
    assert len(right) > 120
    assert np.mean(right) >= 0.95
    covered = np.mean(np.array(within)[right], axis=0)
    assert 0.6 < covered[1] < 0.8
    assert 0.7 < covered[0] < 0.95  # errors of directions are those of walls in images, which are not quite flat
