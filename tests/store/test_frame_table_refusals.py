"""Frames with a table: what does not match is refused, before any pixel is read; and the grid that positions make."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import tifffile

from dfxm_dask.errors import DfxmError, SourceError
from dfxm_dask.sources.readers import frames
from dfxm_dask.sources.source import load_beamline
from dfxm_dask.sources.tables.grid import grid, groups
from tests.beamline_files import known_counts
from tests.store.frame_tables import COUNTS, LINE, MU, hdf5, on_grid, read, table, tiffs


@pytest.mark.parametrize(
    ("cells", "words"),
    [
        (["998.5", "999.0", "999.5", "1,000", "1,001", "1,002"], "mu contains 1,000 in line 5: thousands or decimals"),
        (['"1,000"'] * 5 + ['"1,001"'], "mu contains 1,000 in line 2: thousands or decimals"),
        (["0"] * 5 + ["1" * 200_000], "is not a table of text"),
        (["0"] * 5 + ["1_000"], "column mu contains 1_000 in line 7 in place of a position"),
    ],
)
def test_refuses__cells_of_two_meanings(tmp_path: Path, cells: list[str], words: str) -> None:
    tiffs(tmp_path)
    table(tmp_path / "t.csv", {"n": range(6), "mu": cells}, between="," if '"' in cells[0] else ";")
    with pytest.raises(SourceError, match=words):
        read(tmp_path)


@pytest.mark.parametrize("kind", ["palette", "several frames in one page", "not completely written"])
def test_refuses__tiff_pages_that_are_no_whole_frames(tmp_path: Path, kind: str) -> None:
    files = tiffs(tmp_path)
    table(tmp_path / "t.csv", {"mu": MU})
    if kind == "palette":
        tifffile.imwrite(files[0], COUNTS[0].astype("uint8"), photometric=kind, colormap=np.zeros((3, 256), "uint16"))
    elif kind == "several frames in one page":
        tifffile.imwrite(files[0], COUNTS, photometric="minisblack", truncate=True)
    else:
        with tifffile.TiffFile(files[0], mode="r+b") as file:
            file.pages[0].tags["StripByteCounts"].overwrite(0)
    with pytest.raises(SourceError, match="colour" if kind == "palette" else kind):
        read(tmp_path)


def test_refuses__hdf5_images_that_were_never_written(tmp_path: Path) -> None:
    path = table(tmp_path / "t.csv", {"mu": MU})
    files = hdf5(tmp_path / "f", COUNTS, single=True)
    layout = h5py.VirtualLayout(COUNTS[0].shape, COUNTS.dtype)
    layout[...] = h5py.VirtualSource(files[1].name, "entry/data/data", shape=COUNTS[0].shape)
    with h5py.File(files[0], "w") as file:
        file.create_virtual_dataset("data", layout)
    np.testing.assert_array_equal(on_grid(read([tmp_path / "f", path])), COUNTS[[1, 1, 2, 3, 4, 5]])
    with h5py.File(files[1], "w") as file:
        file.create_dataset("entry/data/data", COUNTS[0].shape, COUNTS.dtype, chunks=COUNTS[0].shape)
    for names in (files, files[1:]):
        with pytest.raises(SourceError, match=r"f1\.h5.* has 0 of 1 frames"):
            read([*names, path])


@pytest.mark.parametrize(
    ("files", "pages", "words"),
    [
        ("aaaabb", None, "4 rows name a.tif, which contains 3 frames"),
        ("aaabbb", [0, 1, 7, 0, 1, 2], "page does not count the frames of a.tif one by one: line 4 contains 7"),
        ("aaabbb", [0, 1, 2, 1, 1, 2], "frames of b.tif one by one: line 6 contains 1"),
        ("aaabbb", ["p2", "p1", "p0"] * 2, "page contains p2 in line 2, not a frame number"),
        ("", [0, 1, 1, 2, 3, 4], "page has the number 1 in two rows, the second in line 4"),
        ("", [0, 1, 2.5, 3, 4, 5], "page contains 2.5 in line 4, not a frame number"),
        ("", [0, 1, "", 3, 4, 5], "page contains nothing in line 4, not a frame number"),
    ],
)
def test_refuses__pages_that_the_rows_do_not_count(tmp_path: Path, files: str, pages: Any, words: str) -> None:
    for name, frames_ in (("a", COUNTS[:3]), ("b", COUNTS[3:])):
        tifffile.imwrite(tmp_path / f"{name}.tif", frames_, photometric="minisblack")
    columns = {"file": [f"{name}.tif" for name in files]} if files else {}
    table(tmp_path / "t.csv", columns | ({} if pages is None else {"page": pages}) | {"mu": MU})
    with pytest.raises(SourceError, match=words):
        read(tmp_path)


def test_refuses__a_frame_of_the_same_name_in_another_folder(tmp_path: Path) -> None:
    for name in ("one", "two"):
        tiffs(tmp_path / name)
    path = table(tmp_path / "t.csv", {"file": [f"two/data_{k:05d}.tif" for k in range(6)], "mu": MU})
    with pytest.raises(SourceError, match=r"line 2 names .*two.data_00000.tif, but the given frames include .*one"):
        read([tmp_path / "one", path])
    assert all("two" in piece.file for piece in read(path).pieces)


@pytest.mark.parametrize("column", ["mu [um]", "chi [s]", "samz [deg]", "mu_mm"])
def test_refuses__units_of_another_quantity(tmp_path: Path, column: str) -> None:
    tiffs(tmp_path)
    table(tmp_path / "t.csv", {"diffry": MU, column: [1 + v for v in MU]})
    motor, unit = column.rstrip("]").replace(" [", "_").split("_")
    line = load_beamline("id03", {column: "phi"}) if "_" in column else LINE
    with pytest.raises(SourceError, match=rf"column {motor}.* is in {unit}, but .*; correct the unit, map"):
        read(tmp_path, beamline=line)


@pytest.mark.parametrize("options", [{"scan_mode": "zigzag"}, {"positions": "command"}])
def test_refuses__choices_that_a_table_leaves_no_room_for(tmp_path: Path, options: dict[str, str]) -> None:
    tiffs(tmp_path)
    table(tmp_path / "t.csv", {"mu": MU})
    with pytest.raises(DfxmError, match="has no effect for the format of this source; omit it"):
        read(tmp_path, **options)


def spoil(kind: str, folder: Path) -> dict[str, Any]:
    """A folder of six frames and a table, with one fault. Returns options of reading."""
    files = tiffs(folder)
    columns: dict[str, Any] = {"file": [f.name for f in files], "mu": [f"{v:.1f}" for v in MU]}
    match kind:
        case "row too few" | "row too many" | "no names":
            del columns["file"]
            columns["mu"] = columns["mu"][:5] if kind == "row too few" else [*columns["mu"], "0.7"]
            if kind == "no names":
                columns = dict(zip("01", ([0.1] * 6, [0.2] * 6), strict=True))
        case "gap in numbers":
            del columns["file"]
            files[2].rename(folder / "data_00009.tif")
        case "missing":
            files[3].unlink()
        case "empty":
            files[1].write_bytes(b"")
            files[4].write_bytes(b"")
        case "named twice":
            columns["file"][4] = columns["file"][3]
        case "in no row":
            columns = {name: values[:5] for name, values in columns.items()}
        case "twice" | "hole" | "word" | "blank" | "unit":
            columns["mu"][3] = {"twice": "0.2", "word": "ERR", "blank": ""}.get(kind, "0.3")
            if kind == "unit":
                columns["mu [readback]"] = columns.pop("mu")
            if kind == "hole":
                columns |= {"mu": [0, 1, 2, 0, 1, 1], "chi": [0, 0, 0, 1, 1, 2]}
        case "still":
            columns["mu"] = [0.1] * 6
        case "no motor":
            columns["theta"] = columns.pop("mu")
        case "three axes":
            tiffs(folder, known_counts(8))
            bits = np.arange(8)
            columns = {"mu": bits % 2, "chi": bits // 2 % 2, "two_theta": bits // 4}
        case "shape" | "dtype" | "float" | "colour" | "text" | "cut":
            other = {"shape": COUNTS[2][1:], "dtype": COUNTS[2].astype("uint32"), "float": COUNTS[2].astype("float32")}
            if kind in other:
                tifffile.imwrite(files[2], other[kind])
            elif kind == "colour":
                tifffile.imwrite(files[0], np.zeros((12, 10, 3), "uint8"), photometric="rgb")
            else:
                files[2].write_bytes(b"no frame" if kind == "text" else files[2].read_bytes()[:-9])
        case "column twice":
            columns = {"mu [deg]": MU, "mu (mrad)": MU}
    if kind != "no table":
        path = table(folder / "t.csv", columns)
        if kind == "short line":
            path.write_text(path.read_text().replace("data_00004.tif,0.4", "data_00004.tif"))
        if kind == "two tables":
            path.with_name("u.csv").write_text("mu\n1\n")
        if kind == "no row":
            path.write_text("file,mu\n")
    return {}


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("row too few", "has 5 rows for 6 frames; write one row for each frame"),
        ("row too many", "has 7 rows for 6 frames; restore the 1 missing frames, or remove their rows"),
        ("no names", "line 2|does not name its columns"),
        ("gap in numbers", r"do not number them consecutively: .*; restore missing frames, or add a column"),
        ("missing", r"line 5 names the frame 'data_00003\.tif', which is missing; restore it"),
        ("empty", r"2 of 6 files are empty: data_00001\.tif, data_00004\.tif; restore them"),
        ("named twice", r"has no row for 1 frames: data_00004|6 rows for 5 frames"),
        ("in no row", r"has no row for 1 frames: data_00005\.tif; add their rows"),
        ("twice", "rows 3, 4 have the same positions, while other positions have fewer rows; remove"),
        ("hole", r"6 rows do not form a complete grid of mu \(3 positions\), chi \(3 positions\)"),
        ("word", "column mu contains ERR in line 5 in place of a position"),
        ("blank", "column mu contains nothing in line 5 in place of a position"),
        ("unit", "column mu has the unknown unit 'readback'; use deg"),
        ("still", "has no moving motor among mu"),
        ("no motor", r"has no column for a motor of an axis: file, theta .*--motor theta=phi"),
        ("three axes", "scans 3 motors"),
        ("shape", r"data_00002\.tif has frames of 11 x 10 of uint16, .* of 12 x 10 of uint16"),
        ("dtype", r"data_00002\.tif has frames of 12 x 10 of uint32"),
        ("float", "contains float32, not counts"),
        ("colour", r"frames of shape \(12, 10, 3\), a colour"),
        ("text", r"data_00002\.tif is not a readable TIFF file"),
        ("cut", r"data_00002\.tif is (truncated|not a readable TIFF)"),
        ("column twice", "has two columns 'mu'"),
        ("no table", r"comes with no table .*give the table of its motor positions"),
        ("short line", "line 6 has 1 cells, but the first row names 2 columns"),
        ("two tables", r"comes with 2 tables: .*t\.csv, .*u\.csv; give the table"),
        ("no row", "names columns but has no rows"),
    ],
)
def test_refuses__tables_and_frames_that_do_not_match(tmp_path: Path, kind: str, words: str) -> None:
    options = spoil(kind, tmp_path / "f")
    with pytest.raises(DfxmError, match=words):
        read(tmp_path / "f", **options)


def test_refuses__a_table_that_leads_elsewhere(tmp_path: Path) -> None:
    (far,) = tiffs(tmp_path / "far", COUNTS[:1])
    path = table(tmp_path / "t" / "t.csv", {"file": [f"../far/{far.name}"], "mu": [0.1]})
    with pytest.raises(SourceError, match=r"line 2 leads to .*far.*; declare its folder with --root"):
        read(path)


def test_frames__of_a_tiff_that_changed_meanwhile(tmp_path: Path) -> None:
    files = tiffs(tmp_path)
    table(tmp_path / "t.csv", {"mu": MU})
    scan = read(tmp_path)
    tifffile.imwrite(files[4], COUNTS[0][:3])
    with pytest.raises(SourceError, match=r"data_00004\.tif .*changed during reading"):
        list(frames(scan))


@pytest.mark.parametrize("seed", range(5))
def test_grid__is_found_in_noise_and_any_order(seed: int) -> None:
    rng = np.random.default_rng(seed)
    n, m, repeats = int(rng.integers(2, 7)), int(rng.integers(2, 7)), int(rng.integers(1, 4))
    slow, fast, _ = (p.ravel() for p in np.meshgrid(np.arange(n), np.arange(m), np.arange(repeats), indexing="ij"))
    mixed = rng.permutation(len(slow))
    # Steps that differ by up to two, and a motor that wanders by a hundredth of the least.
    levels = [np.cumsum(1 + rng.random(k)) for k in (n, m)]
    columns = {"a": levels[0][slow], "b": levels[1][fast]}
    columns = {name: v[mixed] + 0.01 * rng.uniform(-1, 1, v.size) for name, v in columns.items()}
    found = grid(columns, {"a": 1e-3, "b": 1e-3}, "here")
    assert (set(found.shape), found.repeats) == ({n, m}, repeats)
    for motor, index in zip(found.motors, found.index, strict=True):
        truth = (slow if motor == "a" else fast)[mixed]
        assert (index == truth).all() or (index == truth.max() - truth).all()


def test_groups__noise_alone_has_none() -> None:
    values = np.random.default_rng(0).normal(size=60)
    assert groups(values) is None
    assert groups(np.array([0.0, 1.0, 2.0, 3.0])).tolist() == [0, 1, 2, 3]  # type: ignore[union-attr]
