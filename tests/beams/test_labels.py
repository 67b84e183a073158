"""Labels of patches: boxes against a naive loop over pixels, the rocking curve against one and against the truth."""

from __future__ import annotations

import numpy as np
import pytest

from dfxm_dask.beams.local_peak import local_peak
from dfxm_dask.beams.network.labels import (
    DRAWN,
    LabelledBox,
    box_labels,
    check_taught,
    lit_patches,
    nearest_index,
    prior_labels,
)
from dfxm_dask.beams.network.training_patches import labelled_patches, whole_patches
from dfxm_dask.beams.patches import patch_starts
from dfxm_dask.beams.prior import patch_probability
from dfxm_dask.errors import InputError
from tests.beams.phantoms import layer


def drawn(line: int, kind: str, *box: int) -> LabelledBox:
    return LabelledBox(line, kind, {"z": 0.0}, box if box else None)  # type: ignore[arg-type]


def naive(boxes: list[LabelledBox], shape: tuple[int, int], size: int) -> np.ndarray | None:
    """Label of each patch by looking at its pixels one by one; None where two classes claim one patch."""
    starts = patch_starts(shape, size)
    found = np.zeros((starts[0].size, starts[1].size), int)
    for i, top in enumerate(starts[0]):
        for j, left in enumerate(starts[1]):
            pixels = [
                (y, x) for y in range(top, min(top + size, shape[0])) for x in range(left, min(left + size, shape[1]))
            ]
            here = {}
            for kind in DRAWN:
                claimed = 0
                for y, x in pixels:
                    for b in boxes:
                        y0, y1, x0, x1 = b.box or (0, shape[0], 0, shape[1])
                        if b.kind == kind and y0 <= y < y1 and x0 <= x < x1:
                            claimed += 1
                            break
                here[kind] = claimed
            enough = [kind for kind, n in here.items() if 4 * n >= 3 * len(pixels)]
            if len(enough) > 1:
                return None
            alone = enough and sum(n > 0 for n in here.values()) == 1
            found[i, j] = {"unlit": 0, "weak": 1, "strong": 2, "ambiguous": 3}[enough[0]] if alone else 3
    return found


def test_box_labels__are_the_naive_loop() -> None:
    rng = np.random.default_rng(0)
    seen, refused = set(), 0
    for trial in range(120):
        shape = [(24, 32), (21, 30), (5, 40), (8, 8)][trial % 4]
        boxes = []
        for line in range(1, int(rng.integers(2, 6))):
            y0, x0 = rng.integers(0, shape[0] - 2), rng.integers(0, shape[1] - 2)
            y1, x1 = rng.integers(y0 + 1, shape[0] + 1), rng.integers(x0 + 1, shape[1] + 1)
            kind = ("weak", "strong", "unlit")[rng.integers(0, 3)]
            boxes.append(drawn(line, kind, *map(int, (y0, y1, x0, x1))) if rng.random() < 0.95 else drawn(line, kind))
        expected = naive(boxes, shape, 8)
        if expected is None:
            refused += 1
            with pytest.raises(InputError, match="label the patch at y"):
                box_labels(boxes, shape, 8)
        else:
            found = box_labels(boxes, shape, 8)
            np.testing.assert_array_equal(found, expected)
            seen |= set(found.ravel().tolist())
    assert seen == {0, 1, 2, 3}
    assert 5 < refused < 60


def test_box_labels__of_a_whole_frame_and_of_nothing() -> None:
    assert (box_labels([drawn(1, "strong")], (100, 150)) == DRAWN["strong"]).all()
    assert box_labels([drawn(1, "strong")], (100, 150)).shape == (2, 3)
    assert (box_labels([], (64, 64)) == 3).all()
    # 48 of 64 rows are just enough, 47 are not; a corner of another class takes the patch out.
    assert box_labels([drawn(1, "weak", 0, 48, 0, 64)], (64, 64)).item() == DRAWN["weak"]
    assert box_labels([drawn(1, "weak", 0, 47, 0, 64)], (64, 64)).item() == 3
    assert box_labels([drawn(1, "weak", 0, 48, 0, 64), drawn(2, "unlit", 63, 64, 63, 64)], (64, 64)).item() == 3


@pytest.mark.parametrize(
    ("boxes", "match"),
    [
        (
            [drawn(3, "weak", 0, 64, 0, 64), drawn(5, "weak", 0, 9, 64, 128), drawn(9, "strong", 0, 60, 0, 64)],
            r"a\.yaml:3 and a\.yaml:9: label the patch at y 0, x 0 of one frame both weak and strong; draw separate",
        ),
        (
            [drawn(8, "weak"), drawn(4, "unlit", 0, 64, 64, 128)],
            r"a\.yaml:4 and a\.yaml:8: label the patch at y 0, x 64 of one frame both unlit and weak",
        ),
        (
            [drawn(2, "weak", 0, 65, 0, 64)],
            r"a\.yaml:2: box \[0, 65, 0, 64\]: is empty or exceeds the frame of 64 rows",
        ),
        ([drawn(2, "weak", -1, 64, 0, 64)], r"a\.yaml:2: box \[-1, 64, 0, 64\]: is empty or exceeds"),
        ([drawn(2, "weak", 5, 5, 0, 64)], r"a\.yaml:2: box \[5, 5, 0, 64\]: is empty or exceeds"),
        ([drawn(2, "medium")], r"a\.yaml:2: class 'medium': is unknown; use weak, strong, unlit"),
    ],
)
def test_box_labels__refusals_name_the_line(boxes: list[LabelledBox], match: str) -> None:
    with pytest.raises(InputError, match=match):
        box_labels(boxes, (64, 128), source="a.yaml")


@pytest.mark.parametrize("positions", [np.arange(31) * 0.002 - 0.03, np.arange(5.0)[::-1], np.array([0, 1, 2, 7, 8.0])])
def test_nearest_index__is_the_nearest_within_half_a_step(positions: np.ndarray) -> None:
    step = float(np.median(np.abs(np.diff(positions))))
    for wanted in np.linspace(positions.min() - step, positions.max() + step, 97):
        away = [abs(p - wanted) for p in positions]
        if abs(min(away) - step / 2) < 1e-4 * step:
            continue
        if min(away) < step / 2:
            assert nearest_index(float(wanted), positions, "phi") == away.index(min(away))
        else:
            with pytest.raises(InputError, match=r"phi .*: the nearest of .* degree is .*; give a position"):
                nearest_index(float(wanted), positions, "phi", "degree")


def test_nearest_index__takes_half_a_step_and_a_single_position() -> None:
    positions = 0.0123 + 0.0006 * np.arange(31)
    assert nearest_index(round(positions[0] - 0.0003, 4), positions, "phi") == 0
    assert nearest_index(0.1 + 0.2, np.array([0.3]), "z") == 0
    assert nearest_index(0.0, np.array([0.0]), "z") == 0
    with pytest.raises(InputError, match=r"a\.csv:2: z 0.31: the nearest of 1 positions from 0.3 to 0.3 um is 0.3;"):
        nearest_index(0.31, np.array([0.3]), "a.csv:2: z", "um")


def test_lit_patches__are_those_that_are_classified() -> None:
    rng = np.random.default_rng(1)
    for shape in ((200, 150), (64, 64), (40, 300)):
        lit = rng.random(shape) < np.linspace(0.3, 0.7, shape[1])
        p = patch_probability(np.where(lit, 0.0, np.nan), np.ones(shape), np.zeros(1))[0]
        found = lit_patches(lit)
        np.testing.assert_array_equal(found, np.isfinite(p))
        assert found.size == 1 or found.min() != found.max()


def test_prior_labels__are_the_naive_loop() -> None:
    rng = np.random.default_rng(2)
    shape, size = (40, 56), 16
    rows, columns = np.indices(shape)
    peak = 0.02 * columns + 0.01 * rows + 0.1 * rng.normal(size=shape)
    peak[(columns > 40) & (rng.random(shape) < 0.6)] = np.nan
    width = np.where(rng.random(shape) < 0.02, 0.0, 0.5 + 0.005 * rows)
    positions = np.linspace(-2, 3, 21)
    found = prior_labels(peak, width, positions, size)
    for k, position in enumerate(positions):
        for i, y in enumerate(patch_starts(shape, size)[0]):
            for j, x in enumerate(patch_starts(shape, size)[1]):
                away = []
                for a in range(y, y + size, 4):
                    for b in range(x, x + size, 4):
                        if np.isfinite(peak[a, b]) and width[a, b] > 0:
                            away.append(abs(position - peak[a, b]) / width[a, b])
                expected = 3
                if len(away) < 8:
                    expected = 0
                elif sum(u > 2.5 for u in away) >= 0.9 * len(away):
                    expected = 1
                elif sum(u < 1.2 for u in away) >= 0.9 * len(away):
                    expected = 2
                assert found[k, i, j] == expected
    assert set(np.unique(found)) == {0, 1, 2, 3}


@pytest.mark.slow
def test_prior_labels__agree_with_the_truth() -> None:
    scan = layer("hard")
    maps = local_peak.kernel(scan.counts, scan.scan, scan.y, scan.x, scan.level)
    found = prior_labels(maps["peak_local"], maps["width_local"], scan.scan["phi"])
    sure = np.isin(found, (1, 2)) & np.isin(scan.label, (1, 2)) & whole_patches(scan.counts.shape[:2])
    assert sure.sum() > 0.5 * np.isin(scan.label, (1, 2)).sum()
    assert (found == scan.label)[sure].mean() > 0.99


def test_labelled_patches__keeps_shifted_ones_where_labels_are_of_them() -> None:
    frames = np.random.default_rng(3).integers(0, 500, (1, 100, 64)).astype(np.uint16)
    label = box_labels([drawn(1, "weak", 0, 64, 0, 64), drawn(2, "strong", 64, 100, 0, 64)], (100, 64))[None]
    assert label.ravel().tolist() == [1, 3]  # 36 rows of 64 are strong, and 28 are weak
    label[0, 1] = 2
    assert labelled_patches(frames, label, dark=0)["labels"].tolist() == [0]
    found = labelled_patches(frames, label, dark=0, shifted=True)
    assert found["labels"].tolist() == [0, 1]
    np.testing.assert_array_equal(found["patches"][1], frames[0, 36:100])


def test_check_taught__names_the_box_from_which_nothing_is_learned():
    boxes = [LabelledBox(3, "weak", {}, (0, 64, 0, 64)), LabelledBox(7, "strong", {}, (64, 100, 0, 64))]
    label = box_labels(boxes, (128, 64))
    check_taught(boxes[:1], label, (128, 64))
    with pytest.raises(InputError, match=r"labels:7: box \[64, 100, 0, 64\]: gives no patch of 64 pixels its class"):
        check_taught(boxes, label, (128, 64))
