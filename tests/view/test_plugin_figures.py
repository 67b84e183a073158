"""The list of figures: ours, maps of plug-in reductions, and figures that plug-ins add."""

from __future__ import annotations

from importlib.metadata import EntryPoint
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from click.testing import CliRunner

from dfxm_dask import run_recipe
from dfxm_dask.catalogue import load_reductions
from dfxm_dask.cli import cli
from dfxm_dask.errors import InputError
from dfxm_dask.reduction import REGISTRY
from dfxm_dask.run.recipe import load_plugin, parse_recipe
from dfxm_dask.store.scan import open_scan
from dfxm_dask.view.figures import index
from dfxm_dask.view.figures.index import FigureKind, add_figure, known_figures
from dfxm_dask.view.figures.overview import other_maps, other_panel
from dfxm_dask.view.store_facts import pictures_of
from tests.stores import raw_store

PLUGIN = """
from dfxm_dask.reduction import reduction
from dfxm_dask.schema import COUNTS, Variable
from dfxm_dask.view.figures.index import FigureKind, add_figure

LARGEST = Variable("largest", ("z", "y", "x"), "float32", "count", "largest counts of a pixel")
PLACE = Variable("place", ("z", "y", "x"), "uint8", "1", "where the pixel is bright", flags=((1, "early"), (2, "late")))

@reduction(reads=(COUNTS,), writes=(LARGEST, PLACE), over=("scan",), group="mine")
def largest_counts(counts):
    "Largest counts of a pixel."
    early = counts.argmax(-1) < counts.shape[-1] / 2
    return {"largest": counts.max(-1).astype("float32"), "place": (2 - early).astype("uint8")}

def draw(tree, layer, heading):
    from matplotlib.figure import Figure

    page = Figure()
    page.add_subplot().hist(tree["mine"]["largest"][layer].values.ravel())
    return page

add_figure(FigureKind("histogram", draw, ("mine/largest",), "Histogram of the largest counts"))
"""


def test_figures_and_report__show_maps_and_figures_of_plugins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = raw_store(tmp_path, shape=(5,), size=(20, 30))
    plugin = tmp_path / "mine.py"
    plugin.write_text(PLUGIN)
    monkeypatch.setattr(index, "_ADDED", {})
    load_reductions()
    try:
        load_plugin(plugin)
        run_recipe(parse_recipe("steps:\n- largest_counts: {}\n", tmp_path / "r.yaml"), store)
        result = CliRunner().invoke(cli, ["figures", str(store), str(tmp_path / "out"), "--plugin", str(plugin)])
        assert result.exit_code == 0, result.output
    finally:
        REGISTRY.pop("largest_counts", None)
    names = {"other_maps", "mine_largest", "mine_place", "histogram", "frames", "trust"}
    assert {path.stem for path in (tmp_path / "out").iterdir()} == names
    # The reduction is gone, and the maps are drawn all the same, from what the store says of them.
    shown = {name: caption for name, caption, _ in pictures_of(open_scan(store), 0, None)}
    assert list(shown) == ["frames", "trust", "other_maps", "histogram"]
    assert shown["histogram"] == "Histogram of the largest counts"


def test_other_maps__are_those_that_no_reduction_of_ours_writes() -> None:
    image = np.linspace(-1, 1, 12).reshape(1, 3, 4)
    maps = {name: (("z", "y", "x"), image) for name in ("com_phi", "total", "own")}
    tree = xr.DataTree.from_dict(
        {
            "/rocking": xr.Dataset({**maps, "curve": ("phi", np.ones(3))}),
            "/mine": xr.Dataset({"total": (("y", "x"), image[0] > 0, {"long_name": "whether it is bright"})}),
            "/truth": xr.Dataset({"own": (("z", "y", "x"), image)}),
        }
    )
    found = other_maps(tree)
    assert list(found) == ["rocking/own", "mine/total"]
    assert other_panel("rocking/own", found["rocking/own"][0]).colours == "RdBu_r"
    mask = other_panel("mine/total", found["mine/total"])
    assert (mask.name, mask.title) == ("mine_total", "whether it is bright")
    assert [mask.categories[int(value)][0] for value in mask.image[[0, 2], 0]] == ["no", "yes"]


def test_known_figures__refuse_a_name_that_is_taken_and_what_is_no_figure(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="figure 'beams': has the name of another figure; rename it"):
        add_figure(FigureKind("beams", lambda *_: None))
    for place, fault in (("json:dumps", "is not a FigureKind"), ("json:no", "cannot be loaded")):
        points = [EntryPoint("strain", place, index.GROUP)]
        monkeypatch.setattr(index, "entry_points", lambda points=points, **_: points)
        with pytest.raises(InputError, match=f"figure strain of {place}: {fault}.*repair or uninstall"):
            known_figures()
