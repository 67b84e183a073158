"""Figure and tables of regions: every region drawn and numbered, a row for each."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest

import dfxm_dask
from dfxm_dask.run.execute import run_recipe
from dfxm_dask.run.recipe import parse_recipe
from dfxm_dask.view.figures.regions import draw_regions, region_colours
from tests.stores import raw_store

RECIPE = """
name: subgrains
steps:
  - moments: {background: 100, noise_cut: 5}
  - segment_layers: {scale: 2.0}
  - link_segments: {scale: 2.0, distance: 0.6, depth: 2.0, least_area: 0.0}
  - regions: {}
  - orientation_distribution: {}
"""


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = raw_store(tmp_path_factory.mktemp("regions"))
    run_recipe(parse_recipe(RECIPE, Path("regions.yaml")), path)
    return path


def test_regions__of_a_run_are_those_of_the_dataset(store: Path) -> None:
    tree = dfxm_dask.open_scan(store)
    maps = tree["rocking"].to_dataset().drop_vars("orientation_distribution_error")
    parts = maps.merge(dfxm_dask.segment_layers(maps, scale=2.0))
    table = dfxm_dask.link_segments.gather(parts, scale=2.0, distance=0.6, depth=2.0, least_area=0.0)
    whole = dfxm_dask.regions(parts.merge(table))
    np.testing.assert_array_equal(tree["regions"].region, whole.region)
    for name in table.data_vars:
        np.testing.assert_allclose(tree["regions"][name], table[name], rtol=1e-12, err_msg=str(name))


def test_regions__have_a_row_in_the_table_and_a_number_on_the_page(store: Path, tmp_path: Path) -> None:
    tree = dfxm_dask.open_scan(store)
    written = dfxm_dask.export(store, tmp_path, what=["regions"])
    assert {p.name for p in written} == {
        f"{n}.{e}" for n in ("regions", "region_boundaries") for e in ("csv", "units.json")
    }
    with open(tmp_path / "regions.csv") as file:
        rows = list(csv.DictReader(file))
    label = tree["regions"].region.values
    assert [int(row["region_id"]) for row in rows] == list(range(1, int(label.max()) + 1))
    assert [int(row["region_voxels"]) for row in rows] == np.bincount(label.ravel())[1:].tolist()
    page = draw_regions(tree, 0, "layer 0")
    assert page is not None
    numbers = {t.get_text() for axes in page.axes for t in axes.texts}
    present = np.unique(label[0][label[0] > 0])
    assert numbers == ({str(n) for n in present} if len(present) <= 30 else set())


def test_region_colours__are_grey_for_none_and_the_same_in_all_layers() -> None:
    colours = region_colours(np.array([[0, 1, 2], [1, 7, 0]]))
    assert np.isnan(colours[0, 0]).all()
    np.testing.assert_array_equal(colours[0, 1], colours[1, 0])
    assert np.abs(colours[0, 1] - colours[0, 2]).max() > 0.2
