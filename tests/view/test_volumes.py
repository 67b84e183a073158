"""Comparison of volumes on disk: on which voxels, whose layers, and what it says; table, figure and command."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from dfxm_dask.cli.volumes import compare
from dfxm_dask.errors import InputError, StoreError
from dfxm_dask.store.integrity import ledger
from dfxm_dask.view.compare.volumes import compare_volumes, open_mask, shared_voxels
from dfxm_dask.view.compare.volumes_page import comparison_rows, draw_comparison, ratio_words
from dfxm_dask.volume import chance_level, compare_masks
from tests.view.volume_stores import lines_mask, write_store

SHAPE = (6, 60, 50)
STEP = (1.0, 0.2, 0.25)
SPACE = ("z", "y", "x")


def grid(shape=SHAPE, first=(0.0, 0.0, 0.0), step=STEP) -> dict[str, np.ndarray]:
    return {d: f + np.arange(n) * s for d, n, f, s in zip("zyx", shape, first, step, strict=True)}


def store(path: Path, mask: np.ndarray, name: str = "volume/dislocation", **where) -> Path:
    group, variable = name.split("/")
    return write_store(path, {group: {variable: (SPACE, mask)}}, **(where or grid(mask.shape)))


@pytest.fixture
def pair(tmp_path):
    a, b = lines_mask(SHAPE, 0), lines_mask(SHAPE, 1)
    b |= np.roll(a, 1, 1)
    return store(tmp_path / "a.zarr", a), store(tmp_path / "b.zarr", b), a, b


def test_compare_volumes__is_compare_masks_of_the_whole(pair):
    first, second, a, b = pair
    found, notes = compare_volumes(first, second)
    assert found.values == compare_masks(a, b, STEP)
    assert found.chance == pytest.approx(chance_level(a, b, STEP), rel=1e-12)
    assert found.values["dice"] > 0.1
    assert notes == []
    again, _ = compare_volumes(second, first, threads=2)
    assert again.values["precision_0.5"] == found.values["recall_0.5"]


def test_open_mask__finds_what_a_store_holds(tmp_path):
    rng = np.random.default_rng(0)
    distance = rng.uniform(0, 2, SHAPE).astype(np.float32)
    mask, label = rng.random(SHAPE) < 0.1, rng.integers(0, 3, SHAPE).astype(np.int32)
    truth = {"truth": {"distance": (SPACE, distance)}}
    beams = {"beams": {"defects": (SPACE, mask), "lit": (("y", "x"), mask[0])}}
    volume = {"volume": {"dislocation": (SPACE, ~mask), "label": (SPACE, label)}}
    three = write_store(tmp_path / "three.zarr", truth | beams | volume, **grid())
    two = write_store(tmp_path / "two.zarr", truth | beams, **grid())
    one = write_store(tmp_path / "one.zarr", truth, **grid())
    for where, name, wanted in (
        (three, "three.zarr:volume/dislocation", ~mask),
        (two, "two.zarr:beams/defects", mask),
        (one, "one.zarr:truth/distance<0.25", distance < 0.25),
        (f"{three}:truth/distance<0.5", "three.zarr:truth/distance<0.5", distance < 0.5),
        (f"{three}:truth/distance > 1.5e0", "three.zarr:truth/distance>1.5e0", distance > 1.5),
        (f"{three}:volume/label", "three.zarr:volume/label", label != 0),
    ):
        found = open_mask(where)
        assert found.name == name
        np.testing.assert_array_equal(np.stack([found.layer(k) for k in range(SHAPE[0])]), wanted)


def test_open_mask__refuses_what_is_no_mask(tmp_path):
    values = np.zeros(SHAPE, np.float32)
    path = write_store(
        tmp_path / "a.zarr", {"beams": {"weak": (SPACE, values), "flat": (("y", "x"), values[0])}}, **grid()
    )
    with pytest.raises(InputError, match=r"mask of .*a.zarr: the store contains none of volume/dislocation, beams"):
        open_mask(path)
    with pytest.raises(InputError, match="beams/strong: is not in the store; see `dfxm-dask info"):
        open_mask(f"{path}:beams/strong")
    with pytest.raises(InputError, match="beams/flat: has the dims y, x; name a variable of z, y, x"):
        open_mask(f"{path}:beams/flat")
    with pytest.raises(
        InputError, match=r"beams/weak: is float32, not a mask; give a limit, as in a.zarr:beams/weak<0.5"
    ):
        open_mask(f"{path}:beams/weak")
    with pytest.raises(StoreError, match="does not exist"):
        open_mask(tmp_path / "none.zarr")
    pixels = write_store(tmp_path / "p.zarr", {"beams": {"defects": (SPACE, values > 0)}}, **grid(), units="pixel")
    with pytest.raises(InputError, match=r"y is in pixel, and distances require um; set .* dfxm-dask calibrate"):
        open_mask(pixels)
    fallen = grid() | {"x": grid()["x"][::-1]}
    down = store(tmp_path / "d.zarr", values > 0, **fallen)
    with pytest.raises(InputError, match="x does not rise; give a store with rising positions"):
        open_mask(down)


def test_compare_volumes__takes_shared_layers_and_their_true_distance(tmp_path):
    a, b = lines_mask(SHAPE, 0), lines_mask(SHAPE, 1)
    first = store(tmp_path / "a.zarr", a, **grid())
    kept = [0, 1, 4, 5]
    second = store(tmp_path / "b.zarr", b[kept], **(grid() | {"z": grid()["z"][kept] + 4e-4}))
    found, notes = compare_volumes(first, second, copies=0)
    assert notes == ["layers in a.zarr:volume/dislocation only: z = 2, 3 um; left out"]
    gap = [m.copy() for m in (a, b)]
    for mask in gap:
        mask[2:4] = False
    wanted = compare_masks(*gap, STEP)  # layers that are left out hold nothing, and keep their distance
    assert found.values == wanted
    closed = compare_masks(a[kept], b[kept], STEP)
    assert closed["distance"] != wanted["distance"]
    far = store(tmp_path / "c.zarr", b, **grid(first=(0.5, 0, 0)))
    with pytest.raises(InputError, match="have no layer at the same z; compare volumes of the same part of the sample"):
        compare_volumes(first, far)


def test_compare_volumes__names_layers_that_are_not_on_disk(tmp_path):
    a, b = lines_mask(SHAPE, 0), lines_mask(SHAPE, 1)
    first, second = store(tmp_path / "a.zarr", a), store(tmp_path / "b.zarr", b)
    blocks = [f"z{k:04d}" for k in range(SHAPE[0])]
    ledger.begin(first, "volume", "reconstruct", {"writes": ["dislocation"]}, blocks)
    for block in blocks[:2] + blocks[3:]:
        ledger.commit(first, "volume", "reconstruct", {"block": block, "files": {}})
    found, notes = compare_volumes(first, second, copies=0)
    assert notes == [
        "a.zarr:volume/dislocation is not complete: 5 of 6 blocks are on disk",
        "layers missing from a.zarr:volume/dislocation: z = 2 um; left out of both",
    ]
    a[2], b[2] = False, False
    assert found.values == compare_masks(a, b, STEP)


def test_compare_volumes__of_frames_that_overlap(tmp_path):
    a, b = lines_mask(SHAPE, 0), lines_mask(SHAPE, 1)
    first = store(tmp_path / "a.zarr", a)
    second = store(tmp_path / "b.zarr", b, **grid(first=(0, 10 * 0.2, -5 * 0.25)))
    found, notes = compare_volumes(first, second, copies=0)
    inside = a[:, 10:, :45], b[:, :50, 5:]
    assert found.values == compare_masks(*inside, STEP)
    lost = (a.sum() - inside[0].sum(), b.sum() - inside[1].sum())
    assert notes == [f"true voxels outside the common frame, left out: {lost[0]} and {lost[1]}"]
    away = store(tmp_path / "c.zarr", b, **grid(first=(0, 50.0, 0)))
    with pytest.raises(
        InputError, match=r"along y one spans 0 to 11.8 um, the other 50 to 61.8; compare volumes of the"
    ):
        compare_volumes(first, away)


def test_compare_volumes__resamples_other_voxels_only_when_asked(tmp_path):
    fine, coarse = lines_mask((6, 120, 100), 0), lines_mask(SHAPE, 1)
    first = store(tmp_path / "fine.zarr", fine, **grid(fine.shape, step=(1.0, 0.1, 0.125)))
    second = store(tmp_path / "coarse.zarr", coarse, **grid(first=(0, 0.05, 0.0625)))
    with pytest.raises(
        InputError, match=r"along y voxels of 0.1 and 0.2 um, up to 0.5 of a voxel apart; pass --resample"
    ):
        compare_volumes(first, second)
    found, notes = compare_volumes(first, second, resample=True, copies=0)
    twice = coarse.repeat(2, 1).repeat(2, 2)
    assert found.values == compare_masks(fine, twice, (1.0, 0.1, 0.125))
    assert notes == [
        "coarse.zarr:volume/dislocation was resampled to the grid of fine.zarr:volume/dislocation by nearest voxel, at "
        f"up to 0.5 of a voxel: {coarse.sum()} true voxels became {twice.sum()}"
    ]
    slightly = store(tmp_path / "s.zarr", coarse, **grid(step=(1.0, 0.2 * 1.003, 0.25)))
    with pytest.raises(InputError, match="pass --resample"):  # a fifth of a voxel at the far edge
        compare_volumes(store(tmp_path / "a.zarr", coarse), slightly)


def test_shared_voxels__keep_places(pair):
    first, second, a, b = pair
    one, two, _ = shared_voxels(open_mask(first), open_mask(second))
    np.testing.assert_array_equal(one.flat, np.flatnonzero(a))
    np.testing.assert_array_equal(two.flat, np.flatnonzero(b))
    for positions, step in zip(one.positions, STEP, strict=True):
        np.testing.assert_array_equal(positions, np.arange(len(positions)) * step)


def test_comparison_rows__say_chance_and_what_a_ratio_is(pair, tmp_path):
    first, second, a, b = pair
    found, _ = compare_volumes(first, second)
    rows = {row[0]: row[1:] for row in comparison_rows(found)}
    assert rows["true voxels of A and of B"] == (f"{a.sum()} and {b.sum()}", "")
    assert rows["Dice"] == (f"{found.values['dice']:.4g}", f"{found.chance['dice']:.3g} ± {found.spread['dice']:.2g}")
    assert "precision: share of A within 0.5 um of B" in rows
    assert ratio_words(found) == (
        f"voxel ratio {found.values['count_ratio']:.2g} is a ratio of sizes and no measure of agreement"
    )
    nothing = store(tmp_path / "none.zarr", np.zeros(SHAPE, bool))
    empty, _ = compare_volumes(nothing, nothing)
    assert "neither volume contains a true voxel" in ratio_words(empty)
    assert {row[1] for row in comparison_rows(empty)[2:]} == {"none"}


def test_draw_comparison__shows_both_ways_and_chance(pair, tmp_path):
    first, second, *_ = pair
    found, _ = compare_volumes(first, second)
    figure = draw_comparison(found, ("a", "b"))
    assert len(figure.axes) == 4
    assert [axes.get_title() for axes in figure.axes if axes.get_title()] == [
        "distance from A to B",
        "distance from B to A",
    ]
    shares = figure.axes[1].lines[0]
    at = np.interp(1.0, shares.get_xdata(), shares.get_ydata())
    assert at == pytest.approx(100 * found.values["precision_1"], abs=3)
    figure.savefig(tmp_path / "a.png")
    nothing = store(tmp_path / "none.zarr", np.zeros(SHAPE, bool))
    for other in (first, nothing):
        empty, _ = compare_volumes(nothing, other)
        page = draw_comparison(empty, ("a", "b"))
        assert "no distance: a volume is empty" in [text.get_text() for axes in page.axes for text in axes.texts]
        page.savefig(tmp_path / "b.png")


def test_compare__command(pair, tmp_path):
    first, second, a, b = pair
    numbers = tmp_path / "numbers.json"
    done = CliRunner().invoke(compare, [str(first), str(second), "--tau", "0.3,1", "--json", str(numbers)])
    assert done.exit_code == 0, done.output
    assert "Dice" in done.output
    assert "is a ratio of sizes and no measure of agreement" in done.output
    assert (tmp_path / "a_against_b.png").read_bytes()[:4] == b"\x89PNG"
    known = json.loads(numbers.read_text())
    assert known["values"] == compare_masks(a, b, STEP, (0.3, 1))
    assert sum(known["histograms_0.05_um"]["to_b"]) == a.sum()
    wrong = CliRunner().invoke(compare, [str(first), str(second), "--tau", "near"])
    assert wrong.exit_code == 2
    assert "is not a list of distances in um" in wrong.output
    nothing = store(tmp_path / "none.zarr", np.zeros(SHAPE, bool))
    done = CliRunner().invoke(
        compare, [str(nothing), str(first), "--json", str(numbers), "--out", str(tmp_path / "c.png")]
    )
    assert done.exit_code == 0, done.output
    assert json.loads(numbers.read_text())["values"]["distance"] is None
