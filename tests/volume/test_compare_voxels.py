"""Lists of voxels: nearest distances against trees and loops, comparison against masks, chance against dense copies."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from scipy.ndimage import binary_erosion
from scipy.spatial import cKDTree

from dfxm_dask.errors import InputError
from dfxm_dask.volume import chance_level, compare_masks
from dfxm_dask.volume.compare import BIN, compare_voxels
from dfxm_dask.volume.sparse import Voxels, moved, nearest, shared, voxels

SPACING = (1.0, 0.25, 0.5)


def random_masks(seed: int, shape=(5, 31, 23), density: float = 0.05) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.random(shape) < density, rng.random(shape) < 1.5 * density


def listed(mask: np.ndarray, spacing=SPACING) -> Voxels:
    return voxels(mask, [np.arange(n) * step for n, step in zip(mask.shape, spacing, strict=True)])


def dense_distances(a: np.ndarray, b: np.ndarray, spacing) -> np.ndarray:
    """The plain way in memory: a tree of the border voxels of b."""
    places, border = np.argwhere(a), b & ~binary_erosion(b, border_value=1)
    out, apart = np.zeros(len(places)), ~b[a]
    out[apart] = cKDTree(np.argwhere(border) * spacing).query(places[apart] * spacing)[0]
    return out


@pytest.mark.parametrize("spacing", [SPACING, (1.0, 0.04, 0.12)])
def test_nearest__is_that_of_a_tree_in_memory_to_the_last_digit(spacing):
    for seed, density in enumerate((0.0005, 0.01, 0.3)):
        a, b = random_masks(seed, (7, 60, 50), density)
        assert b.any()
        found = nearest(listed(a, spacing), listed(b, spacing))
        np.testing.assert_array_equal(found, dense_distances(a, b, np.array(spacing)))


def test_nearest__does_not_depend_on_parts_or_threads():
    a, b = (listed(mask) for mask in random_masks(5, (6, 80, 70)))
    whole = nearest(a, b)
    assert whole.max() > 1
    for parts in (2, 7, 40):
        cuts = np.linspace(0, len(a.flat), parts + 1).astype(int)
        pieces = [nearest(a._replace(flat=a.flat[i:j]), b) for i, j in pairwise(cuts)]
        np.testing.assert_array_equal(np.concatenate(pieces), whole)
    np.testing.assert_array_equal(nearest(a, b, threads=3), whole)


def test_nearest__of_lines_far_apart_and_uneven_layers():
    z, grid = np.array([0.0, 1.0, 2.0, 7.5, 8.5]), np.arange(300) * 0.04
    rng = np.random.default_rng(2)
    masks = [np.zeros((5, 300, 300), bool) for _ in range(2)]
    for mask in masks:
        for _ in range(3):
            y, x = rng.integers(0, 300, 2)
            mask[:, y, max(0, x - 6) : x + 6] = True
    masks[1][2:4] = False
    a, b = (voxels(mask, (z, grid, grid)) for mask in masks)
    places = [
        np.stack([p[i] for p, i in zip(v.positions, np.unravel_index(v.flat, v.shape), strict=True)], 1) for v in (a, b)
    ]
    wanted = np.array([np.sqrt(((places[1] - p) ** 2).sum(1)).min() for p in places[0]])
    np.testing.assert_allclose(nearest(a, b), wanted, rtol=1e-14)
    assert wanted.max() > 1


def test_nearest__of_nothing():
    a, _ = random_masks(0)
    none = listed(np.zeros_like(a))
    assert np.isnan(nearest(listed(a), none)).all()
    assert len(nearest(listed(a), none)) == a.sum()
    assert nearest(none, listed(a)).size == 0


def test_voxels__come_layer_by_layer():
    a, _ = random_masks(1)
    positions = [np.arange(n) for n in a.shape]
    np.testing.assert_array_equal(voxels(iter(a), positions).flat, np.flatnonzero(a))
    assert voxels(iter(()), [np.zeros(0), *positions[1:]]).flat.size == 0


def test_moved__is_numpy_roll():
    a, b = random_masks(3)
    for shift in ((0, 0, 0), (2, 30, 1), (4, 5, 22)):
        rolled = np.roll(a, shift, (0, 1, 2))
        np.testing.assert_array_equal(moved(listed(a), shift).flat, np.flatnonzero(rolled))
        assert shared(moved(listed(a), shift), listed(b)) == (rolled & b).sum()


@pytest.mark.parametrize("shape", [(40, 50), (6, 30, 20)])
def test_compare_voxels__is_compare_masks_and_the_chance_of_dense_copies(shape):
    spacing = SPACING[-len(shape) :]
    for seed in range(3):
        a, b = random_masks(seed, shape)
        found = compare_voxels(listed(a, spacing), listed(b, spacing), (0.25, 1.0), copies=5, seed=seed)
        assert found.values == compare_masks(a, b, spacing, (0.25, 1.0))
        chance = chance_level(a, b, spacing, (0.25, 1.0), copies=5, seed=seed)
        assert found.chance == pytest.approx(chance, rel=1e-12)
        assert found.voxels == (a.sum(), b.sum())
        assert found.both == (a & b).sum()


def test_compare_voxels__against_the_plain_way():
    a, b = random_masks(4, (8, 70, 60), 0.03)
    to_b, to_a = dense_distances(a, b, np.array(SPACING)), dense_distances(b, a, np.array(SPACING))
    found = compare_voxels(listed(a), listed(b), (0.5,), copies=0)
    assert found.values["distance"] == (to_b.mean() + to_a.mean()) / 2
    assert found.values["hd95"] == max(np.quantile(to_b, 0.95), np.quantile(to_a, 0.95))
    assert found.values["precision_0.5"] == np.mean(to_b <= 0.5 * (1 + 1e-9))
    assert found.values["recall_0.5"] == np.mean(to_a <= 0.5 * (1 + 1e-9))
    assert found.values["dice"] == 2 * (a & b).sum() / (a.sum() + b.sum())
    assert found.values["iou"] == (a & b).sum() / (a | b).sum()
    assert all(np.isnan(value) for value in found.chance.values())


def test_compare_voxels__identity_and_shift_of_one_voxel_are_exact():
    plane = np.zeros((6, 8, 9), bool)
    plane[2] = True
    one, two = listed(plane), listed(np.roll(plane, 1, 0))
    same = compare_voxels(one, one, copies=0).values
    assert same["distance"] == same["hd95"] == 0
    assert {same[name] for name in ("dice", "iou", "count_ratio", "f1_0.5")} == {1.0}
    apart, back = compare_voxels(one, two, copies=0), compare_voxels(two, one, copies=0)
    assert apart.values["distance"] == apart.values["hd95"] == SPACING[0]
    assert apart.values["dice"] == 0
    assert apart.values == back.values
    np.testing.assert_array_equal(apart.to_b, back.to_a)
    assert apart.to_b[round(SPACING[0] / BIN)] == plane.sum() == apart.to_b.sum()


def test_compare_voxels__swap_exchanges_the_ways():
    a, b = (listed(mask) for mask in random_masks(6))
    there, back = compare_voxels(a, b, copies=0), compare_voxels(b, a, copies=0)
    assert there.values["precision_0.5"] == back.values["recall_0.5"] != there.values["recall_0.5"]
    for name in ("dice", "iou", "distance", "hd95", "f1_0.5", "count_ratio"):
        assert there.values[name] == back.values[name], name
    np.testing.assert_array_equal(there.to_b, back.to_a)


def test_compare_voxels__histograms_hold_every_voxel_in_its_bin():
    a, b = random_masks(7)
    found = compare_voxels(listed(a), listed(b), copies=3)
    distance = dense_distances(a, b, np.array(SPACING))
    wanted, _ = np.histogram(distance, BIN * (np.arange(len(found.to_b) + 1) - 1e-6))
    np.testing.assert_array_equal(found.to_b, wanted)
    assert found.to_b[0] == found.both
    assert found.to_a.sum() == b.sum()
    assert found.chance_to_b.sum() == 3 * a.sum()
    assert found.chance_to_a.sum() == 3 * b.sum()


def test_compare_voxels__chance_of_a_sample_is_near_that_of_all():
    a, b = (listed(mask) for mask in random_masks(8, (6, 120, 100), 0.02))
    every, some = (compare_voxels(a, b, sample=n) for n in (100_000, 500))
    assert some.values == every.values
    for name in ("dice", "iou", "count_ratio"):
        assert some.chance[name] == pytest.approx(every.chance[name], rel=1e-12)
    assert some.chance_to_b.sum() == 8 * 500
    assert some.chance["distance"] == pytest.approx(every.chance["distance"], rel=0.05)
    assert some.chance["distance"] != every.chance["distance"]
    assert compare_voxels(a, b, sample=500).chance == some.chance


def test_compare_voxels__empty_is_what_compare_masks_says():
    a, _ = random_masks(0)
    nothing = np.zeros_like(a)
    for one, two in ((a, nothing), (nothing, a), (nothing, nothing)):
        found = compare_voxels(listed(one), listed(two))
        assert found.values == pytest.approx(compare_masks(one, two, SPACING), nan_ok=True)
        assert found.chance == pytest.approx(found.values, nan_ok=True)
        assert found.to_b.size == found.chance_to_a.size == 0


def test_compare_voxels__refuses_other_grids():
    a, b = random_masks(0)
    with pytest.raises(InputError, match=r"lie on grids of \(5, 31, 23\) and \(4, 31, 23\); give voxels of one grid"):
        compare_voxels(listed(a), listed(b[1:]))
    with pytest.raises(InputError, match="give voxels of one grid"):
        compare_voxels(listed(a), listed(b, (1.0, 0.25, 0.6)))
    for wrong in ({"copies": -1}, {"sample": 0}):
        with pytest.raises(InputError, match=r"chance level: of .* give at least 0 and 1"):
            compare_voxels(listed(a), listed(b), **wrong)
    with pytest.raises(InputError, match="contains a value that is not a distance"):
        compare_voxels(listed(a), listed(b), (-1.0,))
