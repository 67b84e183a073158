"""Opening stores: complete, partial, stale, foreign, of another version."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import dask
import numpy as np
import pytest
import xarray as xr
import zarr
from dask._task_spec import Alias
from xarray.core.indexing import LazilyIndexedArray

import dfxm_dask
from dfxm_dask import schema
from dfxm_dask.errors import IncompleteError, StoreError
from dfxm_dask.run.execute import run_recipe
from dfxm_dask.run.recipe import parse_recipe
from dfxm_dask.store import scan as scan_module
from dfxm_dask.store.chunks import raw_layout
from dfxm_dask.store.integrity import ledger, nodes
from dfxm_dask.store.integrity.digests import check_metadata
from dfxm_dask.store.integrity.nodes import create_array
from dfxm_dask.store.scan import _LazyArray
from tests.beamline_files import write_bliss

RECIPE = """
name: small
steps:
  - background: {method: scalar, value: 100}
  - moments: {}
"""


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, np.ndarray]:
    folder = tmp_path_factory.mktemp("scan")
    written = write_bliss(folder / "scan.h5", layers=3, shape=(5,), size=(70, 90))
    counts = np.stack([written.grid(z) for z in range(3)])
    store = folder / "scan.zarr"
    dfxm_dask.ingest(folder / "scan.h5", store, scan="all", pixel_size=(0.5, 0.25))
    run_recipe(parse_recipe(RECIPE, Path("small.yaml")), store)
    return store, counts


@pytest.fixture
def store(made: tuple[Path, np.ndarray], tmp_path: Path) -> Path:
    shutil.copytree(made[0], tmp_path / "scan.zarr")
    return tmp_path / "scan.zarr"


def test_open_scan__labels_and_units(made: tuple[Path, np.ndarray]) -> None:
    tree = dfxm_dask.open_scan(made[0])
    counts = tree["raw"].counts
    assert counts.dims == ("z", "phi", "y", "x")
    assert counts.dtype == np.uint16
    assert counts.attrs["units"] == "count"
    for name, units in (("z", "um"), ("phi", "degree"), ("y", "um"), ("x", "um")):
        assert counts[name].attrs["units"] == units
        assert counts[name].attrs["long_name"]
    assert float(counts.y[1] - counts.y[0]) == 0.5
    assert float(counts.x[1] - counts.x[0]) == 0.25
    assert counts.phi.attrs["motor"] == "mu"
    np.testing.assert_array_equal(counts.values, made[1])


def test_open_scan__dask_blocks_are_units_not_inner_chunks(made: tuple[Path, np.ndarray]) -> None:
    counts = dfxm_dask.open_scan(made[0])["raw"].counts
    assert counts.chunks == ((1, 1, 1), (5,), (70,), (90,))


def test_open_scan__without_dask_reads_only_what_is_selected(made: tuple[Path, np.ndarray]) -> None:
    counts = dfxm_dask.open_scan(made[0], chunks=None)["raw"].counts
    assert counts.chunks is None
    np.testing.assert_array_equal(counts.isel(z=1, phi=3).values, made[1][1, 3])
    np.testing.assert_array_equal(counts.isel(z=2, y=-1, x=slice(80, 10, -7)).values, made[1][2, :, -1, 80:10:-7])
    np.testing.assert_array_equal(counts.isel(phi=[3, 0], y=slice(0, 0)).values, made[1][:, [3, 0], 0:0])
    nearest = counts.sel(phi=float(counts.phi[2]) + 1e-4, method="nearest").isel(z=0, y=[1, 5], x=[7, 2])
    np.testing.assert_array_equal(nearest.values, made[1][0, 2][[1, 5]][:, [7, 2]])


def test_open_scan__equals_plain_xarray(made: tuple[Path, np.ndarray]) -> None:
    ours = dfxm_dask.open_scan(made[0], chunks=None)
    plain = xr.open_datatree(made[0], engine="zarr")
    for group in ("raw", "rocking", "frames"):
        xr.testing.assert_identical(
            ours[group].to_dataset().drop_attrs().load(), plain[group].to_dataset().drop_attrs().load()
        )


def test_open_scan__graph_is_built_without_reading_pixels(store: Path) -> None:
    for shard in (store / "raw/counts").rglob("0"):
        if shard.is_file():
            shard.write_bytes(b"x" * shard.stat().st_size)  # would be refused when read
    counts = dfxm_dask.open_scan(store)["raw"].counts
    with pytest.raises(StoreError, match="no valid index"):
        counts.compute(scheduler="synchronous")


def test_open_scan__lost_shard_makes_the_step_incomplete(store: Path) -> None:
    (store / "rocking/com_phi/c/1/0/0").unlink()
    with pytest.raises(IncompleteError, match=r"'rocking'.*'moments' is not complete: 2 of 3 blocks.*allow_partial"):
        dfxm_dask.open_scan(store)
    partial = dfxm_dask.open_scan(store, allow_partial=True)["rocking"]
    assert partial.valid_moments.values.all(axis=1).tolist() == [True, False, True]
    assert np.isnan(partial.com_phi.isel(z=1)).all()
    assert np.isnan(partial.flags.isel(z=1)).all()
    assert np.isfinite(partial.peak.isel(z=0)).any()


def test_open_scan__truncated_shard_makes_the_step_incomplete(store: Path) -> None:
    shard = store / "raw/counts/c/2/0/0/0"
    shard.write_bytes(shard.read_bytes()[:-1])
    with pytest.raises(IncompleteError, match=r"'raw'.*2 of 3 blocks"):
        dfxm_dask.open_scan(store)
    partial = dfxm_dask.open_scan(store, allow_partial=True)["raw"]
    assert np.isnan(partial.counts.isel(z=2)).all()
    assert (partial.counts.isel(z=1) > 0).all()


def test_open_scan__manifest_is_what_makes_a_step_complete(store: Path) -> None:
    ledger.write_provenance(store, "rocking", {})
    with pytest.raises(IncompleteError, match="3 of 3 blocks"):
        dfxm_dask.open_scan(store)


def test_open_scan__results_older_than_their_input_are_refused(store: Path) -> None:
    made = ledger.group_provenance(store, "raw")[1]["ingest"]
    ledger.write_provenance(store, "raw", {"ingest": made | {"digest": "other"}})
    with pytest.raises(IncompleteError, match="its input raw/ingest has been recomputed since"):
        dfxm_dask.open_scan(store)


def test_open_scan__not_a_store(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="check the path, or ingest first"):
        dfxm_dask.open_scan(tmp_path)


def test_open_scan__newer_schema_is_refused_with_the_remedy(store: Path) -> None:
    set_version(store, schema.SCHEMA_VERSION + 1)
    with pytest.raises(StoreError, match="upgrade dfxm_dask"):
        dfxm_dask.open_scan(store)


@pytest.mark.parametrize("version", [None, "1", 0, True])
def test_migrate__without_a_sound_version(version: object) -> None:
    with pytest.raises(StoreError, match="open a store that was written by dfxm_dask"):
        schema.migrate({"schema_version": version})


def test_migrate__one_function_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schema, "SCHEMA_VERSION", 3)
    monkeypatch.setitem(schema.MIGRATIONS, 1, lambda a: {**a, "two": True})
    monkeypatch.setitem(schema.MIGRATIONS, 2, lambda a: {**a, "three": a["two"]})
    assert schema.migrate({"schema_version": 1}) == {"schema_version": 3, "two": True, "three": True}


def set_version(store: Path, version: object) -> None:
    data = json.loads((store / "zarr.json").read_bytes())
    data["attributes"]["schema_version"] = version
    (store / "zarr.json").write_text(json.dumps(data))


def test_lazy__301_layers_is_a_small_graph(tmp_path: Path) -> None:
    variable = replace(schema.COUNTS, dims=("z", "phi", "y", "x"))
    create_array(tmp_path, "raw", variable, raw_layout((301, 31, 2160, 2560), 2), {})
    data = xr.Variable(variable.dims, LazilyIndexedArray(_LazyArray(tmp_path / "raw/counts")), {"units": "count"})
    dataset = xr.Dataset(
        {"counts": data.chunk({"z": 1, "phi": -1, "y": 768, "x": -1})},
        coords={"phi": ("phi", np.arange(31.0), {"units": "degree"})},
    )
    result = dfxm_dask.moments(dataset, background=100.0)
    assert result.com_phi.data.npartitions == 903
    (optimised,) = dask.optimize(result.com_phi.data)
    tasks = [t for t in dict(optimised.__dask_graph__()).values() if not isinstance(t, Alias)]
    assert len(tasks) <= 1000


def test_ledger__torn_line_is_left_out_and_closed(tmp_path: Path) -> None:
    path = tmp_path / "step.jsonl"
    ledger.append(path, {"step": "s", "digest": "d", "plan": {}, "blocks": ["z0000", "z0001"]})
    ledger.append(path, {"block": "z0000", "files": {}})
    with open(path, "ab") as file:
        file.write(b'{"block": "z0001", "fil')
    ledger.append(path, {"block": "z0002", "files": {}})
    header, records = ledger.read_ledger(path)
    assert header["digest"] == "d"
    assert sorted(records) == ["z0000", "z0002"]
    assert ledger.open_ledger(path).damaged == ()  # a kill explains it


def test_ledger__damaged_lines_are_named(tmp_path: Path) -> None:
    path = tmp_path / "step.jsonl"
    ledger.append(path, {"step": "s", "digest": "d", "plan": {}, "blocks": ["z0000", "z0001"]})
    ledger.append(path, {"block": "z0000", "files": {}, "seconds": 1.0})
    path.write_bytes(path.read_bytes().replace(b"1.0", b"2.0"))
    found = ledger.open_ledger(path)
    assert found.records == {}
    assert found.damaged == ("step.jsonl line 2",)


def test_ledger__files_outside_the_store_are_refused(tmp_path: Path) -> None:
    for name in ("../other/c/0", "/etc/passwd", "raw/../../x"):
        path = tmp_path / "step.jsonl"
        path.unlink(missing_ok=True)
        ledger.append(path, {"block": "z0000", "files": {name: [1, ""]}})
        with pytest.raises(StoreError, match=r"outside the store; do not trust this store"):
            ledger.read_ledger(path)


def test_ledger__shares_are_read_as_one(store: Path) -> None:
    path = ledger.ledger_path(store, "rocking", "moments")
    header, records = ledger.read_ledger(path)
    ledger.withdraw_blocks(store, "rocking", "moments", records)
    assert ledger.read_ledger(path) == (header, {})
    for k, record in enumerate(records.values()):
        again = {k: v for k, v in record.items() if k not in ("sum", "host")} | {"again": True}
        ledger.commit(store, "rocking", "moments", again, share=(k % 2 + 1, 2))
    assert set(ledger.read_ledger(path)[1]) == set(records)
    other = {**again, "plan": "another plan", "block": "z0009-0:1"}
    ledger.commit(store, "rocking", "moments", other, share=(1, 2))  # of a run that was taken for dead
    assert set(ledger.read_ledger(path)[1]) == set(records)


def test_ledger__complete_refuses_a_missing_block(store: Path) -> None:
    path = ledger.ledger_path(store, "rocking", "moments")
    lines = path.read_bytes().splitlines()
    path.write_bytes(b"\n".join(line for line in lines if b'"block": "z0001' not in line) + b"\n")
    with pytest.raises(StoreError, match="lacks block"):
        ledger.complete(store, "rocking", "moments", {})


@pytest.mark.parametrize("pipeline", ["zarrs", "zarr"])
def test_open_foreign__reads_other_layouts_with_and_without_zarrs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pipeline: str
) -> None:
    values = np.random.default_rng(0).integers(0, 999, (3, 64, 96)).astype(np.uint16)
    zarr.create_array(str(tmp_path / "a"), shape=values.shape, chunks=(1, 32, 32), shards=(3, 64, 96), dtype="uint16")[
        ...
    ] = values
    if pipeline == "zarr":
        monkeypatch.setattr(scan_module, "find_spec", lambda _: None)
    array = scan_module.open_foreign(tmp_path / "a")
    assert ("Zarrs" in type(array._async_array.codec_pipeline).__name__) == (pipeline == "zarrs")
    np.testing.assert_array_equal(array[1:3, 5:60, 7:95], values[1:3, 5:60, 7:95])
    lazy = xr.Variable(("z", "y", "x"), LazilyIndexedArray(_LazyArray(tmp_path / "a")))
    np.testing.assert_array_equal(lazy[2, 3:9, ::-5].values, values[2, 3:9, ::-5])


def test_open_zarr__of_one_group_has_coordinates_without_our_package(store: Path) -> None:
    tree = dfxm_dask.open_scan(store)
    for group, dims in (("raw", {"z", "phi", "y", "x"}), ("rocking", {"z", "y", "x"})):
        found = xr.open_zarr(store, group=group)
        assert set(found.coords) == dims
        for name in dims:
            xr.testing.assert_identical(found[name], tree[name])
            assert found[name].attrs["units"]


def test_open_zarr__sees_positions_that_a_calibration_has_set(store: Path) -> None:
    dfxm_dask.calibrate(store, (0.25, 0.125))
    found = xr.open_zarr(store, group="rocking")
    assert (float(found.y[2]), float(found.x[2]), found.x.attrs["units"]) == (0.5, 0.25, "um")
    assert not list(check_metadata(store))
    (store / "rocking/x/c/0").write_bytes(b"other")
    assert [str(fault) for fault in check_metadata(store)] == [
        "group rocking: rocking/x/c/0 differs from the coordinate at the root"
    ]
    nodes.consolidate(store)
    assert not list(check_metadata(store))


def test_open_scan__groups_become_netcdf_as_they_are(store: Path, tmp_path: Path) -> None:
    tree = dfxm_dask.open_scan(store)
    tree["rocking"].to_dataset().to_netcdf(tmp_path / "r.nc")
    with xr.open_dataset(tmp_path / "r.nc") as found:
        xr.testing.assert_identical(found.com_phi, tree["rocking"].com_phi.compute())
        assert json.loads(found.attrs["provenance"]).keys() == {"moments"}
