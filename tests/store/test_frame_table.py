"""Frames with a table: every frame goes where its row says, and what does not match is refused."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import tifffile
from click.testing import CliRunner

import dfxm_dask
from dfxm_dask.cli import cli
from dfxm_dask.errors import DfxmError, SourceError
from dfxm_dask.sources.readers import frames, read_scan
from dfxm_dask.sources.source import Scan, load_beamline
from dfxm_dask.sources.tables.grid import grid, groups
from tests.beamline_files import known_counts, write_edf

LINE = load_beamline("id03")
COUNTS = known_counts(6)
MU = 0.1 * np.arange(6)


def tiffs(folder: Path, counts: np.ndarray = COUNTS, *, name: str = "data_{:05d}.tif", **options: Any) -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    files = [folder / name.format(k) for k in range(len(counts))]
    for file, frame in zip(files, counts, strict=True):
        tifffile.imwrite(file, frame, **options)
    return files


def table(path: Path, columns: Mapping[str, Sequence[Any]], *, between: str = ",", before: str = "") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [list(columns), *zip(*columns.values(), strict=True)]
    path.write_text(before + "\n".join(between.join(map(str, row)) for row in rows) + "\n", encoding="utf-8")
    return path


def read(source: Any, entry: str = "1.1", **options: Any) -> Scan:
    return read_scan(source, entry, **({"beamline": LINE} | options))


def on_grid(scan: Scan) -> np.ndarray:
    """Counts on the grid: (scan axes, y, x)."""
    out = np.zeros((int(np.prod(scan.shape)), *scan.frame_shape), scan.counts_dtype)
    for number, frame in frames(scan):
        out[scan.order[number]] = frame
    return out.reshape(*scan.shape, *scan.frame_shape)


def hdf5(folder: Path, counts: np.ndarray, *, single: bool) -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    files = [folder / f"f{k}.h5" for k in range(len(counts) if single else 1)]
    for k, file in enumerate(files):
        with h5py.File(file, "w") as out:
            out["entry/data/data"] = counts[k] if single else counts
            out["entry/temperature"] = np.arange(3.0)
    return files


def edfs(folder: Path, counts: np.ndarray) -> list[Path]:
    return write_edf(folder, counts, title="", motors={})


WRITERS = {
    "tiff": tiffs,
    "big-endian tiff": lambda folder, counts: tiffs(folder, counts, byteorder=">"),
    "deflated tiff": lambda folder, counts: tiffs(folder, counts, compression="zlib"),
    "pages": lambda folder, counts: (
        folder.mkdir(),
        tifffile.imwrite(folder / "s.tif", counts, photometric="minisblack"),
    ),
    "edf": edfs,
    "stack in hdf5": lambda folder, counts: hdf5(folder, counts, single=False),
    "hdf5 files": lambda folder, counts: hdf5(folder, counts, single=True),
}


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "uint32", "int16"])
@pytest.mark.parametrize("kind", WRITERS)
def test_read_scan__frames_of_any_kind_beside_a_table(tmp_path: Path, kind: str, dtype: str) -> None:
    counts = known_counts(6).clip(1, 120).astype(dtype)
    WRITERS[kind](tmp_path / "f", counts)
    path = table(tmp_path / "t.csv", {"mu [deg]": MU, "exposure [ms]": [250] * 6, "pico4": np.arange(6) + 1.0})
    scan = read([tmp_path / "f", path])
    np.testing.assert_array_equal(on_grid(scan), counts)
    np.testing.assert_array_equal([f.copy() for _, f in frames(scan, roi=(2, 9, 1, 7))], counts[:, 2:9, 1:7])
    (axis,) = scan.axes
    np.testing.assert_allclose(axis.positions, MU)
    assert (axis.name, axis.motor, axis.units, axis.source) == ("phi", "mu", "degree", "given")
    np.testing.assert_array_equal(scan.exposure, np.full(6, 0.25))
    assert (scan.monitor_name, scan.monitor.tolist()) == ("pico4", [1, 2, 3, 4, 5, 6])  # type: ignore[union-attr]
    assert (scan.dtype, scan.format) == (np.dtype(dtype), "frames")


BODY = [f"{v:.1f},{i}" for i, v in enumerate(MU)]
COMMAS = [f"{v:.1f};{i}".replace(".", ",") for i, v in enumerate(MU)]
DIALECTS = {
    "comma": "\n".join(["mu [deg],n", *BODY]).encode(),
    "BOM, CRLF, blank lines": b"\xef\xbb\xbf" + "\r\n\r\n".join(["mu [deg],n", *BODY]).encode(),
    "semicolon, decimal comma": "\n".join(["mu [deg];n", *COMMAS]).encode(),
    "tab, decimal comma": "\n".join(["mu [deg]\tn", *(c.replace(";", "\t") for c in COMMAS)]).encode(),
    "blanks": "\n".join(["  mu [deg]   n", *(b.replace(",", "    ") for b in BODY)]).encode(),
    "names in a comment": "\n".join(["# taken at night", "# mu (deg), n", *BODY]).encode(),
    "comments between": "\n".join(["# a", "mu (degrees),n", *BODY[:3], "# beam lost", *BODY[3:]]).encode(),
    "quotes": "\n".join(['"mu [deg]","n"', *(f'"{b.split(",")[0]}","a, b"' for b in BODY)]).encode(),
    "UTF-16": "\n".join(["mu [°],n", *BODY]).encode("utf-16"),
    "code page 1252": "\n".join(["mu [°],n", *BODY]).encode("cp1252"),
}


@pytest.mark.parametrize("dialect", DIALECTS)
def test_read_scan__tables_as_programs_write_them(tmp_path: Path, dialect: str) -> None:
    tiffs(tmp_path)
    (tmp_path / "t.csv").write_bytes(DIALECTS[dialect])
    scan = read(tmp_path)
    np.testing.assert_allclose(scan.axes[0].positions, MU)
    np.testing.assert_array_equal(on_grid(scan), COUNTS)
    assert scan.remarks == ("columns of the table that are not used: n",)


@pytest.mark.parametrize(
    ("unit", "factor"), [("rad", 180 / np.pi), ("mrad", 0.18 / np.pi), ("arcsec", 1 / 3600), ("", 1.0), ("deg", 1.0)]
)
def test_read_scan__units_of_a_table(tmp_path: Path, unit: str, factor: float) -> None:
    tiffs(tmp_path)
    table(tmp_path / "t.csv", {f"phi [{unit}]" if unit else "phi": MU, "z [um]": [3.5] * 6})
    scan = read(tmp_path)
    np.testing.assert_allclose(scan.axes[0].positions, MU * factor)
    assert (scan.axes[0].units, scan.z, scan.z_units, scan.z_motor) == ("degree", 3.5, "um", "z")
    told = scan.axes[0].attrs["units_source"]
    assert told == "table" if unit else "beamline configuration id03; the table records none" in str(told)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("way", ["rewind", "zigzag", "any order"])
def test_read_scan__frames_go_where_their_rows_say(tmp_path: Path, way: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    shape = (3, 4)
    counts = known_counts(12, seed=seed)
    place = np.arange(12).reshape(shape)
    if way == "zigzag":
        place[1::2] = place[1::2, ::-1]
    place = place.ravel() if way != "any order" else rng.permutation(12)
    slow, fast = np.divmod(place, 4)
    files = tiffs(tmp_path / "f", counts)
    noise = 1e-5 * rng.uniform(-1, 1, (3, 12))
    columns = {
        "image": [f.name for f in files],
        "chi [deg]": 1 + 0.02 * slow + noise[0],
        "mu [deg]": 0.3 - 0.001 * fast + noise[1],  # downwards
        "diffry [deg]": 5 + 0.01 * noise[2],  # parked: noise of a readback
    }
    scan = read([tmp_path / "f", table(tmp_path / "t.csv", columns)])
    expected = np.empty_like(counts)
    expected[place] = counts
    found = on_grid(scan)
    if way == "any order":  # which axis is slow, and which way it runs, no row says
        names = [a.name for a in scan.axes]
        found = found if names == ["chi", "phi"] else found.swapaxes(0, 1)
        for axis, sign in ((names.index("chi"), 1), (names.index("phi"), -1)):
            if sign * np.diff(scan.axes[axis].positions)[0] < 0:
                found = np.flip(found, 0 if sign == 1 else 1)
        assert any("put in order of positions" in words for words in scan.remarks)
    else:
        assert [a.name for a in scan.axes] == ["chi", "phi"]
        assert np.diff(scan.axes[1].positions)[0] < 0
        assert not scan.remarks
    np.testing.assert_array_equal(found.reshape(counts.shape), expected)


def test_read_scan__motors_that_move_together_are_one_axis(tmp_path: Path) -> None:
    tiffs(tmp_path)
    table(tmp_path / "t.csv", {"mu": MU, "chi": 1 + MU / 10})
    scan = read(tmp_path)
    assert [a.motor for a in scan.axes] == ["mu"]
    assert scan.metadata["phi_moved_with"] == "chi"
    assert scan.remarks == ("chi changes from row to row along with mu",)


@pytest.mark.parametrize("per", ["point", "scan", "row"])
def test_read_scan__repeats_are_chosen_and_never_averaged(tmp_path: Path, per: str) -> None:
    counts = known_counts(18)
    tiffs(tmp_path, counts)
    at = np.arange(18) // 3 if per != "scan" else np.arange(18) % 6
    repeat = np.arange(18) % 3 if per != "scan" else np.arange(18) // 6
    table(tmp_path / "t.csv", {"mu": MU[at] + 1e-6 * repeat if per == "row" else MU})
    options = {} if per == "row" else {"repeats": per}
    if options:
        with pytest.raises(
            SourceError, match=r"6 rows for 18 frames, 3 for each row.*--repeats point .* --repeats scan"
        ):
            read(tmp_path)
    with pytest.raises(SourceError, match=r"holds 3 frames at each position; .*--scan.*: r1, r2, r3"):
        read(tmp_path, **options)
    for k in range(3):
        scan = read(tmp_path, f"r{k + 1}", **options)
        np.testing.assert_array_equal(on_grid(scan), counts[repeat == k])
        assert (scan.found, scan.commanded) == (6, 6)
    with pytest.raises(SourceError, match="name r1 to r3"):
        read(tmp_path, "r4", **options)


@pytest.mark.parametrize("name", ["S012_{:.3f}_deg.tif", "x{:.2f}.tif", "mu{:+.4f}_a.tif"])
def test_read_scan__names_that_hold_the_position(tmp_path: Path, name: str) -> None:
    values = np.array([-0.25, -0.15, -0.05, 0.05, 0.15, 9.25])
    for value, frame in zip(values, COUNTS, strict=True):
        tifffile.imwrite(tmp_path / name.format(value), frame)
    order = [3, 0, 5, 1, 2, 4]
    table(tmp_path / "t.csv", {"mu": values[order]})
    scan = read(tmp_path)
    np.testing.assert_allclose(scan.axes[0].positions, values)
    np.testing.assert_array_equal(on_grid(scan), COUNTS)


@pytest.mark.parametrize("numbers", [[3, 0, 5, 1, 2, 4], [4, 1, 6, 2, 3, 5], [30, 2, 50, 11, 12, 40]])
def test_read_scan__a_column_that_numbers_the_frames(tmp_path: Path, numbers: list[int]) -> None:
    files = tiffs(tmp_path)
    order = np.argsort(np.argsort(numbers))
    if max(numbers) > 6:  # gaps, where names have the same
        for file, number in list(zip(files, sorted(numbers), strict=True))[::-1]:
            file.rename(tmp_path / f"data_{number:05d}.tif")
    table(tmp_path / "t.csv", {"frame": numbers, "mu": MU[order]})
    scan = read(tmp_path)
    np.testing.assert_array_equal(on_grid(scan), COUNTS)
    table(tmp_path / "t.csv", {"frame": [n * n + 9 for n in numbers], "mu": MU[order]})
    with pytest.raises(SourceError, match=r"column frame numbers frames from .*; restore frames"):
        read(tmp_path)


@pytest.mark.parametrize("options", [{"scan_mode": "zigzag"}, {"positions": "command"}])
def test_refuses__choices_that_a_table_leaves_no_room_for(tmp_path: Path, options: dict[str, str]) -> None:
    tiffs(tmp_path)
    table(tmp_path / "t.csv", {"mu": MU})
    with pytest.raises(DfxmError, match="means nothing for the format of this source; leave it out"):
        read(tmp_path, **options)


@pytest.mark.parametrize("order", ["frames first", "table first", "folders"])
def test_ingest__tables_are_layers(tmp_path: Path, order: str) -> None:
    named: list[str] = []
    for k in (2, 10, 3):
        tiffs(tmp_path / f"S{k}", known_counts(6, seed=k))
        where = tmp_path / (f"S{k}" if order == "folders" else "tables")
        path = table(where / f"m{k}.csv", {"mu [deg]": MU, "samz [um]": [k] * 6})
        pair = [str(tmp_path / f"S{k}"), str(path)]
        named += pair[:1] if order == "folders" else pair if order == "frames first" else pair[::-1]
    result = CliRunner().invoke(cli, ["ingest", *named, str(tmp_path / "s.zarr")])
    assert result.exit_code == 0, result.output
    raw = dfxm_dask.open_scan(tmp_path / "s.zarr", chunks=None)["raw"]
    assert raw.z.values.tolist() == [2, 3, 10]
    assert raw.phi.attrs["position_source"] == "given"
    for k in (2, 3, 10):
        np.testing.assert_array_equal(raw.counts.sel(z=k).values, known_counts(6, seed=k))


def test_read_scan__an_aborted_scan_with_a_table(tmp_path: Path) -> None:
    slow, fast = np.divmod(np.arange(12), 4)
    counts = known_counts(10)
    tiffs(tmp_path, counts)
    table(tmp_path / "t.csv", {"mu": 0.1 * fast, "chi": 0.5 * slow})
    with pytest.raises(SourceError, match=r"12 rows for 10 frames; restore the 2 frames .* --allow-partial"):
        read(tmp_path)
    scan = read(tmp_path, allow_partial=True)
    assert (scan.shape, scan.found, scan.commanded) == ((2, 4), 10, 12)
    np.testing.assert_array_equal(on_grid(scan).reshape(8, 12, 10), counts[:8])


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
        ("row too many", "has 7 rows for 6 frames; restore the 1 frames that are missing, or remove their rows"),
        ("no names", "line 2|does not name its columns"),
        ("gap in numbers", r"do not count them one by one: .*; restore frames that are missing, or name the frame of"),
        ("missing", r"line 5 names the frame 'data_00003\.tif', which is missing; restore it"),
        ("empty", r"2 of 6 files are empty: data_00001\.tif, data_00004\.tif; restore them"),
        ("named twice", r"1 frames are in no row: data_00004|6 rows for 5 frames"),
        ("in no row", r"1 frames are in no row: data_00005\.tif; add their rows"),
        ("twice", "rows 3, 4 have the same positions, and other positions have fewer rows; remove"),
        ("hole", r"6 rows make no complete grid of mu \(3 positions\), chi \(3 positions\)"),
        ("word", "column mu holds ERR in line 5, where a position belongs"),
        ("blank", "column mu holds nothing in line 5, where a position belongs"),
        ("unit", "column mu has the unit 'readback', which is not known; write deg"),
        ("still", "none of the motors mu moves from row to row"),
        ("no motor", r"no column is a motor of an axis: file, theta .*--motor theta=phi"),
        ("three axes", "scans 3 motors"),
        ("shape", r"data_00002\.tif has frames of 11 x 10 of uint16, .* of 12 x 10 of uint16"),
        ("dtype", r"data_00002\.tif has frames of 12 x 10 of uint32"),
        ("float", "holds float32, not counts"),
        ("colour", r"frames of shape \(12, 10, 3\): a picture in colour"),
        ("text", r"data_00002\.tif is not a readable TIFF file"),
        ("cut", r"data_00002\.tif is (truncated|not a readable TIFF)"),
        ("column twice", "has two columns 'mu'"),
        ("no table", r"comes with no table .*name the table of its motor positions"),
        ("short line", "line 6 has 1 cells, the first row names 2 columns"),
        ("two tables", r"comes with 2 tables: .*t\.csv, .*u\.csv; name the table"),
        ("no row", "names columns, and has no row below them"),
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
    with pytest.raises(SourceError, match=r"data_00004\.tif .*changed while it was read"):
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
