"""Files for other programs: what their formats ask for, every number in its place, nothing overwritten by accident."""

from __future__ import annotations

import csv
import json
from importlib.util import find_spec
from pathlib import Path

import h5py
import numpy as np
import pytest
import xarray as xr
import zarr
from click.testing import CliRunner

from dfxm_dask.boundaries.step import REASONS
from dfxm_dask.cli.volumes import export as command
from dfxm_dask.errors import InputError, StoreError
from dfxm_dask.store.integrity import ledger
from dfxm_dask.view.export import export_with_notes as export
from dfxm_dask.view.export import put
from dfxm_dask.view.export.ome_zarr import even_layers, halved
from dfxm_dask.view.export.tables import columns
from dfxm_dask.view.export.vtkhdf import lines_of, planes_of
from tests.view.volume_stores import boundary_group, lines_mask, write_store

SPACE = ("z", "y", "x")
SHAPE = (4, 300, 521)
GRID = {"z": 7.0 + np.arange(4) * 2.0, "y": 10 + np.arange(300) * 0.04, "x": 20 + np.arange(521) * 0.12}


def volume_group(seed: int = 0):
    mask = lines_mask(SHAPE, seed)
    label = np.where(mask, np.random.default_rng(seed).integers(1, 90, SHAPE), 0).astype(np.int32)
    table = {
        "object_voxels": (("object",), np.array([5, 7, 9], np.int64)),
        "object_axes": (("object", "axis", "xyz"), np.arange(27.0).reshape(3, 3, 3)),
    }
    return {"dislocation": (SPACE, mask), "label": (SPACE, label), **table}


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> tuple[Path, Path, list[Path]]:
    folder = tmp_path_factory.mktemp("export")
    store = write_store(folder / "s.zarr", {"volume": volume_group(), "boundaries": boundary_group()}, **GRID)
    other = write_store(
        folder / "b.zarr", {"boundaries": boundary_group()}, **{axis: np.arange(21.0) for axis in SPACE}
    )
    files, notes = export(store, folder / "out", what=("maps", "volume", "objects"))
    more, others = export(other, folder / "out")  # on a grid that all patches lie in
    assert notes == others == []
    return store, folder / "out", files + more


def test_export__writes_all_that_the_store_has(whole):
    _, out, files = whole
    tables = {f"{name}.{end}" for name in ("boundaries", "junctions", "objects") for end in ("csv", "units.json")}
    names = tables | {"maps.h5", "planes.vtkhdf", "lines.vtkhdf", "points.vtkhdf", "volume.ome.zarr"}
    assert {path.name for path in files} == {path.name for path in out.iterdir()} == names


def read_csv(path: Path) -> dict[str, list[str]]:
    with open(path, newline="") as file:
        head, *rows = csv.reader(file)
    return {name: [row[k] for row in rows] for k, name in enumerate(head)}


def test_export__tables_hold_every_number(whole):
    _, out, _ = whole
    table, given = read_csv(out / "boundaries.csv"), boundary_group()
    assert table["boundary"] == ["0", "1"]
    for k, letter in enumerate("xyz"):
        assert [float(v) for v in table[f"normal_{letter}"]] == [normal[k] for normal in given["normal"][1]]
        assert [float(v) for v in table[f"line_1_{letter}"]] == pytest.approx(
            [lines[1][k] for lines in given["line"][1]], nan_ok=True
        )
    assert table["corner_2_y"] == ["9.0", "5.0"]
    assert (table["spacing_0"], table["spacing_1"]) == (["4.1", "2.5"], ["nan", "6.0"])
    assert table["lines_1"] == ["0", "5"]
    assert table["boundary_weight"] == ["120.5", "nan"]
    assert table["kept"] == ["false", "true"]
    units = json.loads((out / "boundaries.units.json").read_text())
    assert list(units) == list(table)
    assert units["spacing_1"] == {"units": "um", "long_name": "the spacing"}
    assert units["centre_y"]["units"] == "um"
    junctions = read_csv(out / "junctions.csv")
    assert [junctions[f"junction_boundary_{k}"] for k in range(3)] == [["0"], ["1"], ["-1"]]
    objects = read_csv(out / "objects.csv")
    assert objects["object"] == ["1", "2", "3"]  # as in label, where 0 is none
    assert len(objects) == 2 + 9
    assert float(objects["object_axes_1_z"][2]) == 2 * 9 + 3 + 2
    assert not any(name.startswith("point") for name in table)


def test_export__numbers_come_back_from_text_as_they_were(tmp_path):
    values = np.random.default_rng(0).normal(0, 1e-7, 50)
    single = values.astype(np.float32)
    group = {"spacing": (("boundary",), values), "theta": (("boundary",), single)}
    out = tmp_path / "out"
    export(write_store(tmp_path / "s.zarr", {"boundaries": group}, **GRID), out, what=("boundaries",))
    table = read_csv(out / "boundaries.csv")
    np.testing.assert_array_equal([float(v) for v in table["spacing"]], values)
    np.testing.assert_array_equal(np.array(table["theta"], np.float32), single)
    assert not (out / "planes.vtkhdf").exists()  # neither normals nor places are known


@pytest.mark.skipif(find_spec("pyarrow") is None, reason="pyarrow is not installed")
def test_export__parquet_holds_the_same(whole, tmp_path):
    import pyarrow.parquet

    store, out, _ = whole
    export(store, tmp_path, what=("boundaries", "objects"), parquet=True)
    table, text = pyarrow.parquet.read_table(tmp_path / "boundaries.parquet"), read_csv(out / "boundaries.csv")
    assert table.column_names == list(text)
    np.testing.assert_array_equal(table["spacing_0"].to_numpy(), [4.1, 2.5])
    assert table.schema.field("spacing_0").metadata == {b"units": b"um", b"long_name": b"the spacing"}
    assert (tmp_path / "objects.parquet").exists()


def test_export__parquet_without_pyarrow_is_refused_before_anything_is_written(whole, tmp_path, monkeypatch):
    monkeypatch.setattr("dfxm_dask.view.export.tables.find_spec", lambda name: None)
    with pytest.raises(
        InputError, match=r"Parquet: requires pyarrow, which is not installed; pip install 'dfxm_dask\[parq"
    ):
        export(whole[0], tmp_path / "out", parquet=True)
    assert not (tmp_path / "out").exists()


def cells(file: h5py.File, kind: str) -> list[np.ndarray]:
    """Points of every cell, read as the specification of VTKHDF says."""
    root = file["VTKHDF"]
    group = root[kind]
    offsets, at = group["Offsets"][:], group["Connectivity"][:]
    assert len(offsets) == group["NumberOfCells"][0] + 1
    assert len(at) == group["NumberOfConnectivityIds"][0] == offsets[-1]
    return [root["Points"][:][at[i:j]] for i, j in zip(offsets[:-1], offsets[1:], strict=True)]  # noqa: RUF007


def check_polydata(file: h5py.File) -> None:
    root = file["VTKHDF"]
    assert root.attrs["Version"].tolist() == [2, 0]
    kind = root.attrs.get_id("Type").get_type()
    assert root.attrs["Type"] == b"PolyData"
    assert not kind.is_variable_str()
    assert kind.get_size() == 8
    assert root["Points"].shape == (root["NumberOfPoints"][0], 3)
    count = sum(int(root[kind]["NumberOfCells"][0]) for kind in ("Vertices", "Lines", "Polygons", "Strips"))
    assert {len(values) for values in root["CellData"].values()} <= {count}
    assert {len(values) for values in root["PointData"].values()} <= {root["NumberOfPoints"][0]}
    assert all(values.dtype.kind in "iuf" for part in ("CellData", "PointData") for values in root[part].values())


def test_export__points_for_paraview(whole):
    _, out, _ = whole
    given = boundary_group()
    with h5py.File(out / "points.vtkhdf") as file:
        check_polydata(file)
        found = cells(file, "Vertices")
        np.testing.assert_array_equal(np.concatenate(found), given["point"][1])
        data = file["VTKHDF/PointData"]
        np.testing.assert_array_equal(data["point_boundary"], given["point_boundary"][1])
        np.testing.assert_array_equal(data["point_weight"], given["point_weight"][1])


def test_export__planes_for_paraview(whole):
    _, out, _ = whole
    given = boundary_group()
    with h5py.File(out / "planes.vtkhdf") as file:
        check_polydata(file)
        np.testing.assert_array_equal(cells(file, "Polygons"), given["corner"][1])
        data = file["VTKHDF/CellData"]
        assert set(data) == {"boundary", "normal", "centre", "spacing", "lines", "boundary_weight", "kept"}
        np.testing.assert_array_equal(data["boundary"], [0, 1])
        np.testing.assert_array_equal(data["spacing"], given["spacing"][1])
        np.testing.assert_array_equal(data["normal"], given["normal"][1])
        np.testing.assert_array_equal(data["kept"], [0, 1])
        assert {name: values.attrs["units"] for name, values in data.items() if values.attrs["units"] != "1"} == {
            "centre": "um",
            "spacing": "um",
        }
        assert file["VTKHDF/Points"].attrs["units"] == "um"
        assert set(file["VTKHDF/FieldData/units"].asstr()) == {"Points: um", "centre: um", "spacing: um"}


@pytest.mark.slow
@pytest.mark.parametrize(("name", "cells"), [("points", 200), ("planes", 2), ("lines", 4)])
def test_export__vtk_reads_scenes_with_their_units(whole, name, cells):
    reader = pytest.importorskip("vtkmodules.vtkIOHDF").vtkHDFReader()
    from vtkmodules.util.numpy_support import vtk_to_numpy

    reader.SetFileName(str(whole[1] / f"{name}.vtkhdf"))
    reader.Update()
    found = reader.GetOutputDataObject(0)
    assert found.GetNumberOfCells() == cells
    units = found.GetFieldData().GetAbstractArray("units")
    assert "Points: um" in [units.GetValue(k) for k in range(units.GetNumberOfValues())]
    with h5py.File(whole[1] / f"{name}.vtkhdf") as file:
        np.testing.assert_array_equal(vtk_to_numpy(found.GetPoints().GetData()), file["VTKHDF/Points"])


def test_export__ome_zarr_is_valid_to_its_own_models(whole):
    models = pytest.importorskip("ome_zarr_models.v05")
    path = whole[1] / "volume.ome.zarr"
    for group in (path, path / "labels/label"):
        image = models.Image.from_zarr(zarr.open_group(str(group), mode="r"))
        (scales,) = image.ome_attributes.multiscales
        assert [(axis.name, axis.unit) for axis in scales.axes] == [(dim, "micrometer") for dim in SPACE]
        scale, translation = scales.datasets[0].coordinateTransformations
        assert (scale.scale, translation.translation) == ([2.0, 0.04, 0.12], [7.0, 10.0, 20.0])


def test_export__lines_run_in_their_patches_and_junctions_where_patches_meet(whole):
    _, out, _ = whole
    with h5py.File(out / "lines.vtkhdf") as file:
        check_polydata(file)
        lines, data = cells(file, "Lines"), file["VTKHDF/CellData"]
        numbers = {name: data[name][:].tolist() for name in ("boundary", "family", "junction")}
        np.testing.assert_array_equal(data["spacing"], [4.1, 2.5, 6.0, np.nan])
        np.testing.assert_array_equal(data["lines"], [7, 4, 5, np.nan])
    assert numbers == {"boundary": [0, 1, 1, -1], "family": [0, 0, 1, -1], "junction": [-1, -1, -1, 0]}
    np.testing.assert_allclose(lines[0], [[5, 7, 0], [5, 7, 10]], atol=1e-12)
    # From the middle (7, 5, 7) along (0.6, 0, 0.8) the side at x = 9 comes after 2/0.6 um, before the one at z = 12.
    np.testing.assert_allclose(lines[1], [[5, 5, 7 - 8 / 3], [9, 5, 7 + 8 / 3]], atol=1e-12)
    np.testing.assert_allclose(lines[2], [[5, 5, 7], [9, 5, 7]], atol=1e-12)
    np.testing.assert_allclose(lines[3], [[5, 5, 2], [5, 5, 10]], atol=1e-12)  # where both patches are


def test_planes_of__and_lines_of__say_what_is_not_known():
    group = {name: (dims, np.array(values)) for name, (dims, values) in boundary_group().items()}
    found = xr.Dataset(group)
    found["corner"][1, 2] = np.nan
    notes: list[str] = []
    planes, lines = planes_of(found, notes), lines_of(found, notes)
    assert notes == ["boundaries not drawn because their corners are unknown or outside of the scan: 1"]
    assert planes is not None
    assert planes.cell_data["boundary"].tolist() == [0]
    assert lines is not None
    assert lines.cell_data["boundary"].tolist() == [0, -1]
    np.testing.assert_allclose(lines.points[2:], [[5, 5, 0], [5, 5, 10]])
    notes = []
    found["corner"][0] = np.nan
    for content in (planes_of(found, notes), lines_of(found, notes)):
        assert content is not None
        assert len(content.points) == 0
    assert notes == [
        "boundaries not drawn because their corners are unknown or outside of the scan: 0, 1",
        "junction 0 not drawn because the patches of its boundaries have no common range along it",
    ]


def test_planes_of__end_at_the_sides_of_the_scan():
    """A slanted patch that reaches beyond the scan in z, against the points of its plane inside, by brute force."""
    corner = np.array([[[2.0, 1, -5.5], [8, 1, -5.5], [8, 7, 8.9], [2, 7, 8.9]]])
    coords = {"z": np.arange(4.0), "y": np.arange(0, 9, 0.5), "x": np.arange(0, 6.1, 0.5)}
    found = xr.Dataset({"corner": (("boundary", "vertex", "xyz"), corner)}, coords=coords)
    planes = planes_of(found, [])
    assert planes is not None
    u, v = np.meshgrid(np.linspace(0, 1, 601), np.linspace(0, 1, 601))
    first, second = corner[0, 1] - corner[0, 0], corner[0, 3] - corner[0, 0]
    points = corner[0, 0] + u[..., None] * first + v[..., None] * second
    inside = ((points >= 0) & (points <= [6, 8.5, 3])).all(axis=-1)
    np.testing.assert_allclose(planes.points.min(axis=0), points[inside].min(axis=0), atol=0.05)
    np.testing.assert_allclose(planes.points.max(axis=0), points[inside].max(axis=0), atol=0.05)
    ring, turned = planes.points, np.roll(planes.points, -1, axis=0)
    area = np.linalg.norm(np.cross(ring - ring[0], turned - ring[0]).sum(axis=0)) / 2
    assert area == pytest.approx(inside.mean() * np.linalg.norm(np.cross(first, second)), rel=0.02)
    assert planes.corners.tolist() == [len(ring)]
    lines = lines_of(found.assign(line=(("boundary", "family", "xyz"), [[second]])), [])
    assert lines is not None
    np.testing.assert_allclose(lines.points[:, 2], [0, 3], atol=1e-9)
    np.testing.assert_allclose(lines.points[:, 0], [4, 4], atol=1e-9)


def ome(path: Path) -> dict:
    meta = json.loads((path / "zarr.json").read_text())
    assert meta["zarr_format"] == 3
    assert meta["node_type"] == "group"
    assert meta["attributes"]["ome"]["version"] == "0.5"
    return meta["attributes"]["ome"]


def check_multiscales(path: Path) -> dict:
    """The rules of OME-NGFF 0.5 for multiscales, by hand."""
    found = ome(path)
    (image,) = found["multiscales"]
    assert [axis["name"] for axis in image["axes"]] == ["z", "y", "x"]
    assert {(axis["type"], axis["unit"]) for axis in image["axes"]} == {("space", "micrometer")}
    last = None
    for level in image["datasets"]:
        scale, translation = level["coordinateTransformations"]  # one scale, then one translation
        assert (scale["type"], translation["type"]) == ("scale", "translation")
        array = zarr.open_array(str(path / level["path"]), mode="r")
        meta = json.loads((path / level["path"] / "zarr.json").read_text())
        assert meta["dimension_names"] == ["z", "y", "x"]
        assert len(scale["scale"]) == len(translation["translation"]) == array.ndim
        assert last is None or all(a >= b for a, b in zip(last, array.shape, strict=True))  # largest first
        last = array.shape
    return image


def test_export__volume_is_ome_zarr(whole):
    _, out, _ = whole
    path = out / "volume.ome.zarr"
    mask, label = (volume_group()[name][1] for name in ("dislocation", "label"))
    image = check_multiscales(path)
    assert image["type"] == "any"
    assert ome(path / "labels")["labels"] == ["label"]
    check_multiscales(path / "labels" / "label")
    source = ome(path / "labels" / "label")["image-label"]["source"]["image"]
    assert (path / "labels" / "label" / source).resolve() == path.resolve()
    for group, values in ((path, mask.astype(np.uint8)), (path / "labels" / "label", label)):
        wanted = values
        levels = check_multiscales(group)["datasets"]
        assert len(levels) == 3  # 521, 261 and 131 pixels
        for k, level in enumerate(levels):
            array = zarr.open_array(str(group / level["path"]), mode="r")
            np.testing.assert_array_equal(array[:], wanted)
            assert array.dtype == values.dtype
            wanted = np.stack([naive_halves(layer) for layer in wanted])
            scale, translation = level["coordinateTransformations"]
            assert scale["scale"] == [2.0, 0.04 * 2**k, 0.12 * 2**k]
            # Centre of the first voxel: the mean of those of the 2^k voxels that it holds.
            first = [GRID["z"][0], GRID["y"][: 2**k].mean(), GRID["x"][: 2**k].mean()]
            assert translation["translation"] == pytest.approx(first, rel=1e-12)


def naive_halves(layer: np.ndarray) -> np.ndarray:
    ny, nx = (-(-n // 2) for n in layer.shape)
    return np.array([[layer[2 * i : 2 * i + 2, 2 * j : 2 * j + 2].max() for j in range(nx)] for i in range(ny)])


def test_halved__of_one_pixel_and_negative_values():
    assert halved(np.array([[-3]])).tolist() == [[-3]]
    assert halved(np.array([[True, False, False]])).tolist() == [[True, False]]


def test_export__volume_keeps_gaps_of_absent_layers(tmp_path):
    mask = lines_mask((4, 30, 40), 0)
    label = (7 * mask).astype(np.int32)
    grid = {"z": [3.0, 2.0, 0.0, -1.0], "y": np.arange(30) * 0.1, "x": np.arange(40) * 0.1}  # falling, 1 is absent
    store = write_store(tmp_path / "s.zarr", {"volume": {"label": (SPACE, label)}}, **grid)
    _, notes = export(store, tmp_path / "out")
    assert notes == ["layers absent from the store are empty in the volume: z = 1.0"]
    path = tmp_path / "out" / "volume.ome.zarr"
    found = zarr.open_array(str(path / "labels/label/0"), mode="r")[:]
    np.testing.assert_array_equal(found, np.stack([label[3], label[2], 0 * label[0], label[1], label[0]]))
    np.testing.assert_array_equal(zarr.open_array(str(path / "0"), mode="r")[:], found != 0)
    transforms = ome(path)["multiscales"][0]["datasets"][0]["coordinateTransformations"]
    assert transforms[1]["translation"] == [-1.0, 0.0, 0.0]
    assert json.loads((path / "zarr.json").read_text())["attributes"]["dfxm_dask"] == {"absent_layers_um": [1.0]}


def test_even_layers__hold_motor_noise_and_refuse_the_rest():
    z = np.array([0.0, 1.001, 1.999, 4.0])
    (first, step), slots, absent = even_layers(z)
    assert (first, slots.tolist()) == (0.0, [0, 1, 2, 4])
    assert step == pytest.approx(1, abs=0.01)
    assert absent == [pytest.approx(3, abs=0.01)]
    assert even_layers(np.array([5.0]))[1].tolist() == [0]
    for uneven in ([0.0, 1.0, 2.4], [0.0, 0.0, 1.0]):
        with pytest.raises(InputError, match=r"um apart, not evenly spaced; export maps, tables and points"):
            even_layers(np.array(uneven))
    for sparse in ([0.0, 1e-4, 1.0, 2.0], [0.0, 1.0, 100.0], [0.0, 0.5, 1.0, 50.0]):
        with pytest.raises(InputError, match=r"an even grid would have \d+ layers for [34]"):
            even_layers(np.array(sparse))


def test_export__refuses_what_it_cannot_write(whole, tmp_path):
    store, *_ = whole
    with pytest.raises(
        InputError, match="export 'planes': is unknown; choose from maps, boundaries, points, volume, objects"
    ):
        export(store, tmp_path / "out", what=("planes",))
    bare = write_store(tmp_path / "bare.zarr", {"beams": {}}, **GRID)
    with pytest.raises(InputError, match="export of results: the store has no results; run a recipe"):
        export(bare, tmp_path / "out")
    some = write_store(tmp_path / "some.zarr", {"boundaries": {"spacing": (("boundary",), np.ones(2))}}, **GRID)
    with pytest.raises(InputError, match="export of points: the store has only boundaries"):
        export(some, tmp_path / "out", what=("boundaries", "points"))
    pixels = write_store(tmp_path / "p.zarr", {"volume": volume_group()}, **GRID, units="pixel")
    with pytest.raises(InputError, match=r"OME-Zarr of the volume: y is in pixel; set .* dfxm-dask calibrate"):
        export(pixels, tmp_path / "out", what=("volume",))
    assert not list((tmp_path / "out").iterdir())
    ledger.begin(some, "boundaries", "characterise", {"writes": ["spacing"]}, ["z0000"])
    with pytest.raises(StoreError, match="step 'characterise' is not complete"):
        export(some, tmp_path / "out")


def test_export__overwrites_only_when_told(tmp_path):
    store = write_store(tmp_path / "s.zarr", {"volume": volume_group()}, **GRID)
    out = tmp_path / "out"
    export(store, out)
    with pytest.raises(StoreError, match=r"maps.h5: already exists; use --overwrite, or choose another folder"):
        export(store, out)
    (out / "volume.ome.zarr" / "stray").write_text("old")
    (out / "objects.csv").write_text("old")
    export(store, out, overwrite=True)
    assert not (out / "volume.ome.zarr" / "stray").exists()
    assert "object_voxels" in (out / "objects.csv").read_text()
    assert {path.name for path in out.iterdir()} == {
        "maps.h5",
        "objects.csv",
        "objects.units.json",
        "volume.ome.zarr",
    }


def test_put__leaves_what_was_there_when_writing_fails(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("old")

    def half(where: Path) -> None:
        where.write_text("half")
        raise RuntimeError("power cut")

    with pytest.raises(RuntimeError, match="power cut"):
        put(path, half)
    assert [p.name for p in tmp_path.iterdir()] == ["a.csv"]
    assert path.read_text() == "old"


def test_export__command(whole, tmp_path):
    store, *_ = whole
    words = [str(store), str(tmp_path / "out"), "--what", "boundaries", "--what", "objects"]
    done = CliRunner().invoke(command, words)
    assert done.exit_code == 0, done.output
    assert "planes.vtkhdf" in done.output
    assert not (tmp_path / "out" / "points.vtkhdf").exists()
    assert isinstance(CliRunner().invoke(command, words).exception, StoreError)
    assert CliRunner().invoke(command, [*words, "--overwrite"]).exit_code == 0
    assert CliRunner().invoke(command, [*words, "--what", "everything"]).exit_code == 2


@pytest.mark.parametrize(
    ("value", "words"),
    [(0, ""), (128, "curved"), (6, "no_step turned"), (193, "too_few_layers weak_beam_place curved")],
)
def test_columns__have_flags_as_words(value, words):
    attrs = {"flag_masks": [bit for bit, _ in REASONS], "flag_meanings": " ".join(name for _, name in REASONS)}
    found = columns(xr.Dataset({"reason": ("boundary", [value], attrs)}), "boundary")
    assert list(found) == ["boundary", "reason", "reason_words"]
    assert found["reason_words"][0].tolist() == [words]
