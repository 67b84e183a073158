"""From simulated counts to objects and boundaries: the recipe weak_beam_volume, and what it says of nothing."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import ndimage

import dfxm_dask
from dfxm_dask.run.clusters.cluster import open_cluster
from dfxm_dask.run.execute import plan, run_recipe
from dfxm_dask.run.recipe import read_recipe
from dfxm_dask.view.compare.truth import truth_rows
from dfxm_dask.view.compare.volumes import compare_volumes

RESULTS = ("volume", "boundaries")
EXAMPLES = Path(__file__).parents[2] / "scripts/examples"


@pytest.fixture(scope="module")
def example(run_example: Callable[[Path], dict[str, Any]]) -> dict[str, Any]:
    return run_example(EXAMPLES / "3_weak_beam_to_boundaries.py")


@pytest.fixture(scope="module")
def wall(example: dict[str, Any]) -> Path:
    """Six layers of a tilt wall, reduced in this process by the example."""
    assert example["report"].complete
    return Path(example["store"])


def test_example__of_boundaries_finds_one_plane(example: dict[str, Any]) -> None:
    assert "boundaries found 1, true 1" in example["printed"]
    assert 0.8 < example["share"] < 1
    assert float(example["near"].mean()) < 0.2
    assert example["angle"] < 0.5
    assert not example["families"].any()


def test_example__of_a_reduction(run_example: Callable[[Path], dict[str, Any]]) -> None:
    done = run_example(EXAMPLES / "4_your_own_reduction.py")
    counts = done["scan"].counts.values[0].astype(float) - 100
    curve = np.maximum(counts[:, 10, 20], 0)
    expected = curve[: curve.argmax()].sum() / curve.sum()
    np.testing.assert_allclose(done["share"].values[0, 10, 20], expected, rtol=1e-5)
    assert "below_peak: parameter 'offset'" in done["printed"]


def test_volume__finds_the_wall_its_lines_and_none_that_is_not_there(wall: Path) -> None:
    tree = dfxm_dask.open_scan(wall, chunks=None)
    found, true = tree["boundaries"], tree["truth"]
    assert found.sizes["boundary"] == true.sizes["boundary"] == 1
    assert np.rad2deg(np.arccos(abs(found.normal.values[0] @ true.normal.values[0]))) < 3
    assert abs((found.centre.values[0] - true.origin.values[0]) @ true.normal.values[0]) < 1.0
    rows = {row[0]: row[1:] for row in truth_rows(tree, tree["truth"].dataset)}
    assert rows["true boundaries found"] == ("1", "1")
    assert rows["false boundaries"] == ("0", "0")


def test_volume__agrees_with_the_truth_far_beyond_chance(wall: Path) -> None:
    compared, _ = compare_volumes(wall, f"{wall}:truth")
    assert compared.values["recall_1"] > 0.85
    assert compared.values["f1_1"] > 0.75 > 3 * compared.chance["f1_1"]


def test_volume__labels_are_those_of_scipy_on_the_whole(wall: Path) -> None:
    tree = dfxm_dask.open_scan(wall, chunks=None)
    expected, count = ndimage.label(tree["beams"].defects.values, np.ones((3, 3, 3)))
    np.testing.assert_array_equal(tree["volume"].label.values, expected)
    assert tree["volume"].sizes["object"] == count


@pytest.mark.slow
def test_volume__is_the_same_on_two_workers(tmp_path: Path) -> None:
    dfxm_dask.simulate("easy", tmp_path / "0.zarr", layers=3, shape=(160, 140), seed=0)
    shutil.copytree(tmp_path / "0.zarr", tmp_path / "1.zarr")
    assert run_recipe("weak_beam_volume", tmp_path / "0.zarr").complete
    with open_cluster(workers=2) as client:
        assert run_recipe("weak_beam_volume", tmp_path / "1.zarr", client=client).complete
    first, second = (dfxm_dask.open_scan(tmp_path / f"{k}.zarr", chunks=None) for k in (0, 1))
    assert first["volume"].sizes["object"] > 0
    for group in RESULTS:
        for name, values in first[group].data_vars.items():
            np.testing.assert_array_equal(values.values, second[group][name].values, err_msg=str(name))


@pytest.mark.parametrize("preset", ["deformed", pytest.param("empty", marks=pytest.mark.slow)])
def test_volume__has_no_boundary_where_there_is_none(preset: str, tmp_path: Path) -> None:
    store = tmp_path / "none.zarr"
    dfxm_dask.simulate(preset, store, layers=3, shape=(96, 96), seed=2)
    assert run_recipe("weak_beam_volume", store).complete
    assert dfxm_dask.open_scan(store, chunks=None)["boundaries"].sizes["boundary"] == 0


def test_volume__plan_of_many_layers_is_small(wall: Path) -> None:
    planned = plan(read_recipe("weak_beam_volume"), wall)
    names = [s.name for s in planned.steps]
    assert names[-1] == "characterise_boundaries"
    assert {"hot_pixels", "moments", "isolate_lines"} <= set(names[:-1])
    assert planned.tasks <= 6 * 6  # passes times layers: 1806 for 301
