"""Exports of stores in which nothing, or not everything, was found: each file read by a library that is not ours."""

from __future__ import annotations

import csv
import json
from importlib.util import find_spec
from pathlib import Path

import h5py
import numpy as np
import pytest
import zarr
from click.testing import CliRunner

import dfxm_dask
from dfxm_dask.cli.volumes import export as command
from dfxm_dask.errors import DfxmError
from dfxm_dask.phantoms.presets import PRESETS
from dfxm_dask.run.execute import run_recipe
from dfxm_dask.view.export import export_with_notes as export
from tests.view.test_export import SPACE, check_multiscales, read_csv
from tests.view.volume_stores import boundary_group, write_store

pytestmark = pytest.mark.skipif(find_spec("pyarrow") is None, reason="pyarrow is not installed")


def empty_boundaries() -> dict[str, tuple[tuple[str, ...], np.ndarray]]:
    """The group of boundaries as a run writes it where it finds none."""
    return {name: (dims, np.asarray(values)[:0]) for name, (dims, values) in boundary_group().items()}


def no_objects() -> dict[str, tuple[tuple[str, ...], np.ndarray]]:
    table = {
        "object_voxels": (("object",), np.zeros(0, np.int64)),
        "object_axes": (("object", "axis", "xyz"), np.zeros((0, 3, 3))),
    }
    return {"dislocation": (SPACE, np.zeros((2, 9, 8), bool)), "label": (SPACE, np.zeros((2, 9, 8), np.int32)), **table}


def read_back(out: Path) -> dict[str, int]:
    """Rows of tables and points of scenes, each read by a library that is not ours."""
    rows: dict[str, int] = {}
    for path in sorted(out.iterdir()):
        if path.suffix == ".csv":
            with open(path, newline="", encoding="utf-8") as file:
                table = list(csv.DictReader(file))
                file.seek(0)
                head = next(csv.reader(file))
            assert head == list(json.loads(path.with_suffix(".units.json").read_text()))
            assert all(None not in row and None not in row.values() for row in table)
            rows[path.name] = len(table)
        elif path.suffix == ".parquet":
            from pyarrow import parquet

            found = parquet.read_table(path)
            assert found.column_names == list(json.loads(path.with_suffix(".units.json").read_text()))
            rows[path.name] = found.num_rows
        elif path.suffix == ".vtkhdf":
            with h5py.File(path, "r") as file:
                root = file["VTKHDF"]
                count = int(root["NumberOfPoints"][0])
                assert root.attrs["Type"] == b"PolyData"
                assert root["Points"].shape == (count, 3)
                cells = 0
                for kind in ("Vertices", "Lines", "Polygons", "Strips"):
                    (mine,) = root[kind]["NumberOfCells"]
                    assert root[kind]["Offsets"].shape == (mine + 1,)
                    assert root[kind]["Connectivity"].shape == (root[kind]["Offsets"][-1],)
                    cells += mine
                assert all(len(values) == cells for values in root["CellData"].values())
                assert all(len(values) == count for values in root["PointData"].values())
            rows[path.name] = count
        elif path.suffix == ".h5":
            with h5py.File(path, "r") as file:
                rows[path.name] = int(np.count_nonzero(file["volume/dislocation/dislocation"]))
        elif path.suffix == ".zarr":
            group = zarr.open_group(str(path), mode="r")
            check_multiscales(path)
            assert group["0"].shape == group["labels/label/0"].shape
            rows[path.name] = int(np.count_nonzero(group["0"][:]))
    return rows


TABLES = ("boundaries", "junctions", "objects")
FILES = {f"{name}.{kind}" for name in TABLES for kind in ("csv", "parquet")} | {
    "planes.vtkhdf",
    "lines.vtkhdf",
    "points.vtkhdf",
    "volume.ome.zarr",
    "maps.h5",
}


def test_export__of_nothing_is_tables_without_rows(tmp_path):
    grid = {dim: np.arange(n) * 0.5 for dim, n in zip(SPACE, (2, 9, 8), strict=True)}
    store = write_store(tmp_path / "s.zarr", {"volume": no_objects(), "boundaries": empty_boundaries()}, **grid)
    export(store, tmp_path / "out", parquet=True)
    assert read_back(tmp_path / "out") == dict.fromkeys(FILES, 0)
    assert read_csv(tmp_path / "out" / "boundaries.csv").keys() >= {"normal_x", "corner_3_z", "line_1_y", "spacing_0"}
    assert read_csv(tmp_path / "out" / "objects.csv").keys() >= {"object", "object_axes_2_z"}


@pytest.mark.parametrize("lacking", [("junction",), ("boundary", "junction"), ("observation",), ("object",)])
def test_export__of_some_tables_without_rows(tmp_path, lacking):
    def kept(group):
        return {
            name: (dims, np.asarray(values)[:0] if dims[0] in lacking else values)
            for name, (dims, values) in group.items()
        }

    groups = {"volume": kept(no_objects()), "boundaries": kept(boundary_group())}
    store = write_store(tmp_path / "s.zarr", groups, z=[0.0, 10.0], y=np.arange(9.0), x=np.arange(8.0))
    export(store, tmp_path / "out", parquet=True)
    found = read_back(tmp_path / "out")
    assert found.keys() == FILES
    assert found["junctions.csv"] == found["junctions.parquet"] == (0 if "junction" in lacking else 1)
    assert found["boundaries.csv"] == (0 if "boundary" in lacking else 2)
    assert found["planes.vtkhdf"] == 4 * found["boundaries.csv"]
    assert found["points.vtkhdf"] == (0 if "observation" in lacking else 200)


@pytest.mark.slow
@pytest.mark.parametrize("preset", sorted(PRESETS))
def test_export__of_every_preset(tmp_path, preset):
    layers, store = (1 if preset.startswith("movie") else 2), tmp_path / "s.zarr"
    dfxm_dask.simulate(preset, store, layers=layers, shape=(96, 96))
    try:
        assert run_recipe("weak_beam_volume", store).complete
    except DfxmError:  # some presets are no rocking scans
        with pytest.raises(DfxmError):
            export(store, tmp_path / "out")
        assert not (tmp_path / "out").exists()
        return
    result = CliRunner().invoke(command, [str(store), str(tmp_path / "out"), "--parquet"])
    assert result.exit_code == 0, result.output
    found, tree = read_back(tmp_path / "out"), dfxm_dask.open_scan(store, chunks=None)
    assert found.keys() >= {f"{name}.{kind}" for name in TABLES for kind in ("csv", "parquet")} | {"volume.ome.zarr"}
    for name, dim in (("boundaries", "boundary"), ("junctions", "junction")):
        assert found[f"{name}.csv"] == found[f"{name}.parquet"] == tree["boundaries"].sizes[dim]
    assert found["objects.csv"] == tree["volume"].sizes["object"]
    assert found["volume.ome.zarr"] == int(tree["volume"].dislocation.sum())
