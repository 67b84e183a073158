"""A gather whose result is as long as the data make it: declared, refused as a lazy Dataset, computed by ``gather``."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

import dfxm_dask
from dfxm_dask.reduction import REGISTRY, Arrays, Reduction, reduction
from dfxm_dask.schema import SCAN, XYZ, Variable

COUNTS = Variable("counts", ("z", SCAN, "y", "x"), "uint16", "count", "counts")
BRIGHT = Variable("bright", ("object", XYZ), "float64", "count", "brightest count of each layer, the one below, 0")


def _join(first: Arrays, second: Arrays) -> Arrays:
    return {"rows": np.concatenate([first["rows"], second["rows"]])}


def _sorted(summary: Arrays) -> Arrays:
    return {"bright": np.unique(summary["rows"], axis=0)}


@pytest.fixture
def brightest() -> Iterator[Reduction]:
    @reduction(reads=(COUNTS,), writes=(BRIGHT,), over=("scan", "y", "x"), halo=1, combine=_join, finish=_sorted)
    def brightest(counts: np.ndarray, *, middle: int = 0) -> Arrays:
        """Brightest count of each layer and of the layer below."""
        below = counts[middle - 1].max() if middle else 0
        return {"rows": np.array([[counts[middle].max(), below, 0.0]])}

    yield brightest
    REGISTRY.pop("brightest")


def test_gather__has_the_length_that_the_data_give_it(brightest: Reduction) -> None:
    counts = np.zeros((4, 2, 5, 6), np.uint16)
    counts[:, 1, 2, 3] = 7, 9, 7, 9
    data = xr.Dataset({"counts": (("z", "phi", "y", "x"), counts, {"units": "count"})}, {"phi": [0.0, 0.1]})
    for chunks in ({}, {"z": 1}, {"z": 3}):
        found = brightest.gather(data.chunk(chunks) if chunks else data)
        assert found["bright"].dims == ("object", "xyz")
        np.testing.assert_array_equal(found["bright"], [[7, 0, 0], [7, 9, 0], [9, 7, 0]])


def test_gather__is_refused_as_a_lazy_dataset_and_of_maps(brightest: Reduction) -> None:
    counts = (("z", "phi", "y", "x"), np.zeros((1, 2, 3, 3), np.uint16), {"units": "count"})
    data = xr.Dataset({"counts": counts}, {"phi": [0.0, 0.1]})
    with pytest.raises(ValueError, match=r"the length of object follows from the data.*brightest\.gather"):
        brightest(data)
    known = data.assign(bright=(("object", "xyz"), np.zeros((5, 3)), {"units": "count"}))
    with pytest.raises(ValueError, match=r"follows from the data"):  # what an earlier result is long says nothing
        brightest(known)
    with pytest.raises(ValueError, match="is not a gather"):
        dfxm_dask.moments.gather(data, background=0)


def test_gather__runs_on_a_store(brightest: Reduction, tmp_path: Path) -> None:
    store = tmp_path / "scan.zarr"
    dfxm_dask.simulate("easy", store, layers=3, shape=(64, 64), seed=1)
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("steps:\n  - brightest: {}\n")
    assert dfxm_dask.run_recipe(recipe, store).complete
    tree = dfxm_dask.open_scan(store, chunks=None)
    counts = tree["raw"]["counts"].values.reshape(3, -1).max(axis=1)
    rows = [[counts[k], counts[k - 1] if k else 0, 0] for k in range(3)]
    (group,) = [g for g in tree.groups if "bright" in tree[g].data_vars]
    np.testing.assert_array_equal(tree[group]["bright"], np.unique(np.array(rows, float), axis=0))
