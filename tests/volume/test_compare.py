"""Comparison of masks against naive loops, closed forms, and the case in which two popular numbers mislead."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import distance_transform_edt

from dfxm_dask.errors import InputError
from dfxm_dask.volume import chance_level, compare_masks, dice_within
from dfxm_dask.volume.compare import nearest_distances

SPACING = (1.0, 0.25, 0.5)


def masks(seed: int = 0, shape: tuple[int, ...] = (4, 9, 7), density: float = 0.15) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.random(shape) < density, rng.random(shape) < 1.5 * density


def naive_distances(a: np.ndarray, b: np.ndarray, sampling: tuple[float, ...]) -> list[float]:
    return [
        min(
            sum(((p - q) * s) ** 2 for p, q, s in zip(here, there, sampling, strict=True)) ** 0.5
            for there in np.argwhere(b)
        )
        for here in np.argwhere(a)
    ]


def test_nearest_distances__against_every_pair():
    for seed in range(4):
        a, b = masks(seed)
        np.testing.assert_allclose(nearest_distances(a, b, SPACING), naive_distances(a, b, SPACING), atol=1e-12)


def test_nearest_distances__against_the_distance_transform_on_thick_masks():
    rng = np.random.default_rng(3)
    a, b = rng.random((60, 80)) < 0.3, distance_transform_edt(rng.random((60, 80)) > 0.004) < 5
    assert 0.2 < b.mean() < 0.8
    wanted = distance_transform_edt(~b, sampling=(0.04, 0.12))[a]
    np.testing.assert_allclose(nearest_distances(a, b, (0.04, 0.12)), wanted, atol=1e-12)


def test_compare_masks__against_naive_loops():
    a, b = masks()
    found = compare_masks(a, b, SPACING, tau=(0.25, 0.6))
    ab, ba = naive_distances(a, b, SPACING), naive_distances(b, a, SPACING)
    first, second = ({tuple(p) for p in np.argwhere(m)} for m in (a, b))
    assert found["dice"] == pytest.approx(2 * len(first & second) / (len(first) + len(second)))
    assert found["iou"] == pytest.approx(len(first & second) / len(first | second))
    assert found["count_ratio"] == pytest.approx(len(first) / len(second))
    assert found["distance"] == pytest.approx((sum(ab) / len(ab) + sum(ba) / len(ba)) / 2)
    assert found["hd95"] == pytest.approx(max(np.percentile(ab, 95), np.percentile(ba, 95)))
    for tau in (0.25, 0.6):
        precision = sum(d <= tau for d in ab) / len(ab)
        recall = sum(d <= tau for d in ba) / len(ba)
        assert 0 < precision < 1
        assert found[f"precision_{tau}"] == pytest.approx(precision)
        assert found[f"recall_{tau}"] == pytest.approx(recall)
        assert found[f"f1_{tau}"] == pytest.approx(2 * precision * recall / (precision + recall))


def test_compare_masks__of_a_mask_with_itself():
    a, _ = masks()
    found = compare_masks(a, a, SPACING)
    assert found["distance"] == found["hd95"] == 0
    assert {found[name] for name in ("dice", "iou", "count_ratio", "f1_0.5", "precision_1", "recall_2")} == {1.0}


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_compare_masks__shift_of_a_plane_is_its_distance(axis):
    plane = np.zeros((6, 6, 6), bool)
    plane[(slice(None),) * axis + (2,)] = True
    for voxels in (1, 2):
        found = compare_masks(plane, np.roll(plane, voxels, axis), SPACING)
        assert found["distance"] == pytest.approx(voxels * SPACING[axis])
        assert found["hd95"] == pytest.approx(voxels * SPACING[axis])
        assert found["dice"] == found["iou"] == 0


def test_compare_masks__swap_exchanges_precision_and_recall_only():
    a, b = masks(1)
    there, back = compare_masks(a, b, SPACING), compare_masks(b, a, SPACING)
    assert there["precision_0.5"] != there["recall_0.5"]
    other = {"precision": "recall", "recall": "precision"}
    for name, value in there.items():
        word, _, tau = name.partition("_")
        twin = f"{other[word]}_{tau}" if word in other else name
        assert back[twin] == pytest.approx(value, rel=1e-12), name


def test_compare_masks__empty_is_at_no_distance():
    a, _ = masks()
    nothing = np.zeros_like(a)
    for found in (compare_masks(a, nothing, SPACING), compare_masks(nothing, a, SPACING)):
        assert np.isnan(found["distance"])
        assert np.isnan(found["hd95"])
        assert found["dice"] == found["iou"] == found["count_ratio"] == found["f1_2"] == 0
    found = compare_masks(a, nothing, SPACING)
    assert found["precision_1"] == 0
    assert np.isnan(found["recall_1"])
    assert all(np.isnan(v) for v in compare_masks(nothing, nothing, SPACING).values())
    assert all(np.isnan(v) for v in dice_within(nothing, nothing, SPACING, 1.0).values())
    assert dice_within(nothing, a, SPACING, 1.0)["dice"] == 0


def test_dice_within__closed_form_and_plain_dice():
    line, image = np.zeros((21, 30), bool), np.zeros((21, 30), bool)
    line[10], image[7:14, :20] = True, True  # seven rows wide, two thirds of the length
    found = dice_within(image, line, (0.25, 0.5), 0.5)
    assert found["precision"] == pytest.approx(5 / 7)  # rows 8 to 12
    assert found["recall"] == pytest.approx(21 / 30)  # one column more than the image has
    assert found["dice"] == pytest.approx(2 * (5 / 7) * 0.7 / (5 / 7 + 0.7))
    a, b = masks(2)
    assert dice_within(a, b, SPACING, 0)["dice"] == pytest.approx(compare_masks(a, b, SPACING)["dice"])


def test_dice_within__a_distance_of_just_tau_counts():
    a, b = np.zeros((1, 40), bool), np.zeros((1, 40), bool)
    a[0, 3], b[0, 6] = True, True
    assert dice_within(a, b, (0.1, 0.1), 0.3)["dice"] == 1  # 3 * 0.1 is more than 0.3 in binary digits
    assert dice_within(a, b, (0.1, 0.1), 0.29)["dice"] == 0


def walls(shape=(60, 100, 100)) -> np.ndarray:
    """Vertical lines 5 um apart in walls 40 um apart, voxels of 1 um: what a volume of boundaries looks like."""
    truth = np.zeros(shape, bool)
    truth[:, ::5, 10::40] = True
    return truth


def test_compare_masks__sizes_and_mean_distance_may_agree_where_little_else_does():
    """A copy that is moved by some um, with voxels taken away, looks like the published 77 % and 2 um."""
    truth, rng = walls(), np.random.default_rng(0)
    moved = np.roll(truth, (0, 2, 3), (0, 1, 2)) & (rng.random(truth.shape) < 0.78)
    found = compare_masks(moved, truth, (1.0, 1.0, 1.0))
    assert found["count_ratio"] == pytest.approx(0.78, abs=0.02)
    assert 2 < found["distance"] < 4
    assert found["dice"] == 0
    assert found["f1_1"] == 0


def test_compare_masks__far_outliers_show_in_hd95_and_not_in_the_mean():
    """As the toy of the specification: half of the lines right, the rest elsewhere, sizes made to fit."""
    truth, rng = walls(), np.random.default_rng(1)
    right = truth & (np.arange(truth.shape[1]) < 45)[None, :, None]
    wanted = int(0.78 * truth.sum())
    strangers = rng.choice(np.flatnonzero(~truth), wanted - int(right.sum()), replace=False)
    made = right.copy()
    made.flat[strangers] = True
    found = compare_masks(made, truth, (1.0, 1.0, 1.0))
    assert found["count_ratio"] == pytest.approx(0.78, abs=0.01)
    assert found["distance"] < 4.5
    assert found["dice"] < 0.55
    assert found["hd95"] > 10


def test_chance_level__scattered_cloud_has_the_distance_of_poisson():
    rng = np.random.default_rng(0)
    a, b = (rng.random((300, 300)) < 0.02 for _ in range(2))
    found = chance_level(a, b, (0.5, 0.5), copy="scattered", copies=3)
    density = 0.02 / 0.25  # per um2; the mean distance to the nearest point of a cloud is 1/(2 sqrt(density))
    assert found["distance"] == pytest.approx(0.5 / np.sqrt(density), rel=0.05)
    assert found["dice"] == pytest.approx(0.02, abs=0.01)
    assert found["count_ratio"] == pytest.approx(a.sum() / b.sum() if a.sum() < b.sum() else b.sum() / a.sum())


def test_chance_level__moved_copy_keeps_its_shape_and_forgets_its_place():
    truth = np.zeros((200, 200), bool)
    truth[::40] = True
    found = chance_level(truth, truth, (1.0, 1.0), copies=40)
    assert found["count_ratio"] == 1
    assert compare_masks(truth, truth, (1.0, 1.0))["distance"] == 0
    assert found["distance"] == pytest.approx(10, rel=0.3)  # mean of min(shift, 40 - shift)
    assert found["f1_1"] < 0.3


def test_chance_level__stays_within_a_region_and_repeats():
    a, b = masks(0, (20, 30), 0.1)
    region = np.zeros(a.shape, bool)
    region[:, :12] = True
    a &= region
    alone = chance_level(a, region, (1.0, 1.0), copy="scattered", within=region)
    assert alone["precision_0.5"] == 1
    moved = chance_level(a, region, (1.0, 1.0), within=region)
    assert moved["precision_0.5"] == 1
    assert moved == chance_level(a, region, (1.0, 1.0), within=region)
    assert chance_level(a, b, (1.0, 1.0), seed=1) != chance_level(a, b, (1.0, 1.0), seed=2)


def test_compare__refuses_what_is_no_pair_of_masks():
    a, _ = masks()
    with pytest.raises(InputError, match="masks to compare: are bool and float32; give boolean arrays"):
        compare_masks(a, a.astype(np.float32), SPACING)
    with pytest.raises(InputError, match="masks to compare: have the shapes"):
        dice_within(a, a[1:], SPACING, 1.0)
    for sampling in ((1.0, 0.25), (1.0, 0.0, 0.5), (1.0, np.nan, 0.5)):
        with pytest.raises(InputError, match="needs one positive distance for each of 3 dimensions"):
            compare_masks(a, a, sampling)
    for tau in (-1.0, float("nan")):
        with pytest.raises(InputError, match="contains a value that is not a distance; give numbers from 0 on"):
            dice_within(a, a, SPACING, tau)


def test_chance_level__refuses_a_region_without_room():
    a, b = masks()
    with pytest.raises(InputError, match="within: is uint8 of shape"):
        chance_level(a, b, SPACING, within=a.astype(np.uint8))
    with pytest.raises(InputError, match=r"within: is bool of shape \(3, 9, 7\)"):
        chance_level(a, b, SPACING, within=a[1:])
    small = np.zeros_like(a)
    small[0, 0, 0] = True
    with pytest.raises(InputError, match="within: has 1 voxels for"):
        chance_level(a, b, SPACING, within=small)
    with pytest.raises(InputError, match="copies: is 0; give one or more"):
        chance_level(a, b, SPACING, copies=0)
