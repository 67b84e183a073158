"""Maps for other programs: each format read back by a library that did not write it, with axes, units, orientation."""

from __future__ import annotations

import csv
import json
import resource
import tracemalloc
import xml.etree.ElementTree as ET
from pathlib import Path

import h5py
import numpy as np
import pytest
import xarray as xr
import zarr
from click.testing import CliRunner
from PIL import Image

import dfxm_dask
from dfxm_dask.cli.volumes import export as command
from dfxm_dask.errors import InputError, StoreError
from dfxm_dask.view.export import FORMATS, map_files
from dfxm_dask.view.export.maps import history
from tests.view.volume_stores import write_store

DIMS, SHAPE = ("z", "y", "x"), (3, 4, 6)
Z = [-1.0, 0.5, 4.0]  # unevenly spaced


def scan() -> xr.DataTree:
    """A store whose values tell their place: 100 z + 10 y + x."""
    k, j, i = np.indices(SHAPE)
    place = 100.0 * k + 10 * j + i
    place[1, 2, 3] = np.nan
    degree = {"units": "degree"}
    flags = {"units": "1", "long_name": "flags", "flag_masks": [1, 2], "flag_meanings": "unlit cut"}
    rocking = {
        "com_phi": (DIMS, place, {**degree, "long_name": "centre of mass along phi"}),
        "flags": (DIMS, (i % 3).astype(np.uint8), flags),
        "fit_centre_phi": (DIMS, place.astype(np.float32), degree),
        "fit_centre_std_phi": (DIMS, (place / 1000).astype(np.float32), degree),
        "mosaicity": ((*DIMS, "rgb"), np.stack([k, j, i], -1).astype(np.uint8), {"units": "1"}),
        "curve": (("z", "phi"), np.ones((3, 2)), {"units": "count"}),
    }
    beams = {
        "defects": (DIMS, (j > i), {"units": "1"}),
        "part": (("z", "part_component", "y", "x"), np.stack([place, -place], 1), {"units": "1"}),
    }
    um, made = {"units": "um"}, {"version": "0.1.0", "parameters": {"background": 60.0}}
    coords = {
        "z": ("z", Z, um | {"long_name": "position along z"}),
        "y": ("y", 2 + 0.5 * np.arange(4), um | {"long_name": "position along y"}),
        "x": ("x", 0.25 * np.arange(6), um | {"long_name": "position along x"}),
        "phi": ("phi", [0.0, 1.0], degree | {"scan_axis": 0}),
    }
    steps = {"moments": made | {"inputs": {"frames/background": "d"}, "passing": {"frames/zingers": {"gain": 2}}}}
    return xr.DataTree.from_dict(
        {
            "/": xr.Dataset(coords=coords, attrs={"title": "gold", "command": "fscan mu 0 1 2"}),
            "/raw": xr.Dataset({"counts": (("z", "phi", "y", "x"), np.ones((3, 2, 4, 6)))}),
            "/rocking": xr.Dataset(rocking, attrs={"provenance": json.dumps(steps)}),
            "/frames": xr.Dataset({"hot": (DIMS, i == 0)}, attrs={"provenance": {"background": made}}),
            "/beams": xr.Dataset(beams),
        }
    )


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("maps")
    files = dfxm_dask.export(scan(), folder, what="maps", formats=FORMATS)
    assert set(files) == set(folder.iterdir())
    return folder


def test_export__nexus_is_drawn_by_silx(out: Path) -> None:
    nxdata = pytest.importorskip("silx.io.nxdata")
    with h5py.File(out / "maps.h5") as file:
        shown = nxdata.get_default(file)
        assert shown.signal.name == "/rocking/com_phi/com_phi"
        assert shown.signal_name == "centre of mass along phi (degree)"
        assert shown.axes_dataset_names == list(DIMS)
        assert shown.axes_names == [f"position along {dim} (um)" for dim in DIMS]
        assert shown.interpretation == "image"
        for axis, dim in zip(shown.axes, DIMS, strict=True):
            np.testing.assert_array_equal(axis, scan()[dim])
        np.testing.assert_array_equal(shown.signal, scan()["rocking/com_phi"])
        found: dict[str, object] = {}
        file.visititems(lambda name, node: found.update({name: node}) if "signal" in node.attrs else None)
        assert all(nxdata.NXdata(node).is_valid for node in found.values())
        assert set(found) == {"beams/defects", "beams/part", "frames/hot"} | {
            f"rocking/{name}" for name in ("com_phi", "flags", "fit_centre_phi", "mosaicity")
        }
        fit = nxdata.NXdata(file["rocking/fit_centre_phi"])
        np.testing.assert_array_equal(fit.errors, scan()["rocking/fit_centre_std_phi"])
        assert nxdata.NXdata(file["rocking/mosaicity"]).interpretation == "rgb-image"
        defects = file["beams/defects/defects"]
        assert defects.dtype == np.uint8
        np.testing.assert_array_equal(defects, scan()["beams/defects"])
        assert file["rocking/flags/flags"].attrs["flag_meanings"] == "unlit cut"


def test_export__nexus_records_title_and_every_step_in_order(out: Path) -> None:
    with h5py.File(out / "maps.h5") as file:
        entry = file["rocking"]
        assert (entry["title"][()], entry["sample/name"][()]) == (b"gold: rocking", b"gold")
        steps = sorted((n for n in entry.values() if n.attrs.get("NX_class") == "NXprocess"), key=lambda n: n.name)
        assert [step.attrs["step"] for step in steps] == [
            "frames/background",
            "frames/zingers",
            "rocking/moments",
            "export",
        ]
        assert [int(step["sequence_index"][()]) for step in steps] == [1, 2, 3, 4]
        assert json.loads(steps[1]["parameters/data"][()]) == {"gain": 2}
        assert json.loads(steps[2]["parameters/data"][()]) == {"background": 60.0}
        assert {step["program"][()] for step in steps} == {b"dfxm_dask"}
        assert steps[2]["version"][()] == b"0.1.0"
        assert [word for word, _ in history(scan(), "beams")] == []


def tiff(path: Path) -> tuple[np.ndarray, ET.Element]:
    """Pages and OME metadata, by Pillow."""
    with Image.open(path) as image:
        text = image.tag_v2[270].encode("latin-1")  # Pillow takes text of TIFF for Latin-1; OME writes UTF-8
        pages = []
        for k in range(image.n_frames):
            image.seek(k)
            pages.append(np.array(image))
    (pixels,) = ET.fromstring(text).iter("{http://www.openmicroscopy.org/Schemas/OME/2016-06}Pixels")
    return np.stack(pages), pixels


def test_export__tiff(out: Path) -> None:
    pages, pixels = tiff(out / "rocking_com_phi.ome.tif")
    assert pages.dtype == np.float32
    np.testing.assert_array_equal(pages, scan()["rocking/com_phi"].astype(np.float32))
    size = {word: pixels.get(f"PhysicalSize{word}") for word in ("X", "XUnit", "Y", "YUnit", "Z", "ZUnit")}
    assert size == {"X": "0.25", "XUnit": "µm", "Y": "0.5", "YUnit": "µm", "Z": None, "ZUnit": None}
    assert (pixels.get("SizeX"), pixels.get("SizeY"), pixels.get("SizeZ")) == ("6", "4", "3")
    assert [float(p.get("PositionZ", "nan")) for p in pixels if p.tag.endswith("Plane")] == Z
    np.testing.assert_array_equal(tiff(out / "beams_defects.ome.tif")[0], scan()["beams/defects"])
    np.testing.assert_array_equal(tiff(out / "rocking_mosaicity.ome.tif")[0], scan()["rocking/mosaicity"])
    parts = tiff(out / "beams_part.ome.tif")[0]
    np.testing.assert_array_equal(parts, scan()["beams/part"].values.reshape(6, 4, 6).astype(np.float32))


def test_export__csv_has_a_row_for_each_pixel(out: Path) -> None:
    with open(out / "maps.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    units = json.loads((out / "maps.units.json").read_text())
    assert len(rows) == np.prod(SHAPE)
    assert list(units) == list(rows[0])
    assert units["com_phi"] == {"units": "degree", "long_name": "centre of mass along phi"}
    assert units["y"]["units"] == "um"
    given = scan()
    for row in rows[::7]:
        here = given.sel({dim: float(row[dim]) for dim in DIMS})
        assert float(row["com_phi"]) == pytest.approx(float(here["rocking/com_phi"]), nan_ok=True)
        assert row["defects"] == str(bool(here["beams/defects"])).lower()
        assert int(row["mosaicity_b"]) == int(here["rocking/mosaicity"][2])
        assert float(row["part_1"]) == pytest.approx(-float(here["rocking/com_phi"]), nan_ok=True)


@pytest.mark.parametrize("kind", ["netcdf", "zarr"])
def test_export__netcdf_and_zarr_are_datasets(out: Path, kind: str) -> None:
    for group in ("rocking", "beams"):
        if kind == "netcdf":
            found = xr.load_dataset(out / f"{group}.nc", engine="h5netcdf")
        else:
            found = xr.open_zarr(out / "maps.zarr", group=group).load()
        given = scan()[group].to_dataset()
        assert set(found.coords) == set(DIMS)
        assert set(found.data_vars) == set(given.data_vars) - {"curve"}
        for name in (*found.data_vars, *DIMS):
            np.testing.assert_array_equal(found[name], given[name])
            assert found[name].attrs["units"] == given[name].attrs["units"]
            assert found[name].dtype == given[name].dtype
        assert found.attrs["title"] == "gold"
    if kind == "netcdf":
        with h5py.File(out / "rocking.nc") as file:  # netCDF-4 by its own rules
            assert [file["com_phi"].dims[k][0].name for k in range(3)] == ["/z", "/y", "/x"]
            assert file["com_phi"].attrs["units"] == "degree"
    else:
        array = zarr.open_array(str(out / "maps.zarr/rocking/com_phi"), mode="r")
        assert (array.metadata.zarr_format, array.chunks) == (3, (1, 4, 6))


@pytest.mark.parametrize("kind", ["nexus", "tiff", "netcdf", "zarr"])
def test_export__holds_a_few_layers_in_memory(tmp_path: Path, kind: str) -> None:
    whole = xr.DataArray(np.zeros((40, 128, 128)), dims=DIMS, attrs={"units": "degree"}).chunk({"z": 1})
    places = {dim: np.arange(n, dtype=float) for dim, n in zip(DIMS, whole.shape, strict=True)}
    tree = xr.DataTree.from_dict({"/": xr.Dataset(coords=places), "/rocking": xr.Dataset({"com_phi": whole * 1.0})})
    dfxm_dask.export(tree, tmp_path / "first", formats=kind)  # what is imported once
    tracemalloc.start()
    dfxm_dask.export(tree, tmp_path / "out", formats=kind)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 12 * 128 * 128 * 8  # of 40 layers


def test_export__maps_of_a_store_in_pixels_by_default(tmp_path: Path) -> None:
    grid = {"z": [0.0], "y": np.arange(3), "x": np.arange(2)}
    group = {"com_phi": (DIMS, np.arange(6.0).reshape(1, 3, 2))}
    store = write_store(tmp_path / "s.zarr", {"rocking": group}, **grid, units="pixel")
    done = CliRunner().invoke(command, [str(store), str(tmp_path / "out")])
    assert done.exit_code == 0, done.output
    with h5py.File(tmp_path / "out/maps.h5") as file:
        np.testing.assert_array_equal(file["rocking/com_phi/com_phi"], group["com_phi"][1])
        assert file["rocking/com_phi/x"].attrs["units"] == "pixel"
    dfxm_dask.export(store, tmp_path / "out", formats=["tiff"])
    assert tiff(tmp_path / "out/rocking_com_phi.ome.tif")[1].get("PhysicalSizeXUnit") == "pixel"
    with pytest.raises(StoreError, match=r"maps.h5: already exists; use --overwrite"):
        dfxm_dask.export(store, tmp_path / "out")
    with pytest.raises(InputError, match="export of points: the store has only maps; run a recipe"):
        dfxm_dask.export(store, tmp_path / "out", what=["points"])
    with pytest.raises(InputError, match="export of maps as 'hdf': is unknown; choose from nexus, tiff"):
        dfxm_dask.export(store, tmp_path / "out", formats=["hdf"])


def test_export__csv_of_too_many_pixels_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(map_files, "MOST_CELLS", 100)
    with pytest.raises(InputError, match="export of maps as CSV: would have 72 rows of 11 columns"):
        dfxm_dask.export(scan(), tmp_path / "out", formats="csv")
    assert not (tmp_path / "out").exists()


def noisy(path: Path) -> Path:
    """A store with one map of 51 kB that does not compress."""
    values = np.random.default_rng(0).random((4, 40, 40))
    coords = {dim: np.arange(float(size)) for dim, size in zip(DIMS, values.shape, strict=True)}
    return write_store(path, {"rocking": {"com_phi": (DIMS, values)}}, **coords)


def test_export__never_replaces_a_store_or_writes_into_one(tmp_path: Path) -> None:
    store = noisy(tmp_path / "maps.zarr")
    before = sorted(store.rglob("*"))
    for folder in (tmp_path, store, store / "volume" / "new"):
        with pytest.raises(StoreError, match=r"maps.zarr is a store of dfxm_dask; choose another folder"):
            dfxm_dask.export(store, folder, what=["maps"], formats=["zarr"], overwrite=True)
    assert sorted(store.rglob("*")) == before


@pytest.mark.parametrize("kind", ["nexus", "netcdf"])
def test_export__reports_a_full_disk(tmp_path: Path, kind: str) -> None:
    store = noisy(tmp_path / "s.zarr")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        with pytest.raises(OSError, match="File too large"):
            dfxm_dask.export(store, tmp_path / "out", what=["maps"], formats=[kind])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not list((tmp_path / "out").iterdir())
