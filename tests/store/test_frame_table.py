"""Frames with a table: every frame goes where its row says, and what does not match is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile
from click.testing import CliRunner

import dfxm_dask
from dfxm_dask.cli import cli
from dfxm_dask.errors import SourceError
from dfxm_dask.sources.readers import frames
from dfxm_dask.sources.source import load_beamline
from tests.beamline_files import known_counts, write_edf
from tests.store.frame_tables import COUNTS, LINE, MU, hdf5, on_grid, read, table, tiffs


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
    "names in a comment, of files too": "\n".join(
        ["# file,mu,n", *(f"data_{k:05d}.tif,{b}" for k, b in enumerate(BODY))]
    ).encode(),
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
    assert scan.remarks == ("unused columns of the table: n",)


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
        assert any("sorted by position" in words for words in scan.remarks)
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


def test_read_scan__a_fine_scan_beside_a_motor_that_wanders_further(tmp_path: Path) -> None:
    tiffs(tmp_path)
    wander = 2e-3 * np.random.default_rng(0).random(6)
    table(tmp_path / "t.csv", {"mu": 1e-5 * np.arange(6), "chi": 3 + wander})
    assert [a.motor for a in read(tmp_path).axes] == ["mu"]


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
    with pytest.raises(SourceError, match=r"contains 3 frames at each position; .*--scan.*: r1, r2, r3"):
        read(tmp_path, **options)
    for k in range(3):
        scan = read(tmp_path, f"r{k + 1}", **options)
        np.testing.assert_array_equal(on_grid(scan), counts[repeat == k])
        assert (scan.found, scan.commanded) == (6, 6)
    with pytest.raises(SourceError, match="choose r1 to r3"):
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


def test_read_scan__positions_in_names_that_also_count(tmp_path: Path) -> None:
    order = np.array([3, 0, 5, 1, 2, 4])
    for folder, name in (("decimals", "mu_0.{}.tif"), ("integers", "mu_{}.tif"), ("padded", "mu_{:03d}.tif")):
        (tmp_path / folder).mkdir()
        for k, frame in enumerate(COUNTS):
            tifffile.imwrite(tmp_path / folder / name.format(k + 1), frame)
        table(tmp_path / folder / "t.csv", {"mu": (order + 1) / (10 if folder == "decimals" else 1)})
    np.testing.assert_array_equal(on_grid(read(tmp_path / "decimals")), COUNTS)
    np.testing.assert_array_equal(on_grid(read(tmp_path / "padded")), COUNTS[np.argsort(order)])
    with pytest.raises(SourceError, match=r"positions of a column in a different order: mu_4\.tif.*a column 'file'"):
        read(tmp_path / "integers")


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
    with pytest.raises(SourceError, match=r"column frame numbers frames from .*; restore missing frames"):
        read(tmp_path)


@pytest.mark.parametrize(
    ("heading", "cell"),
    [
        ("image_path", "D:\\run\\data_{:05d}.tif"),
        ("frame", "data_{:05d}.tif"),
        ("name", "data_{:05d}"),
        ("File", "data_{:05d}"),
        ("image", "{}"),
    ],
)
def test_read_scan__a_column_of_names_or_numbers_whatever_its_heading(tmp_path: Path, heading: str, cell: str) -> None:
    tiffs(tmp_path)
    order = [3, 0, 5, 1, 2, 4]
    table(tmp_path / "t.csv", {heading: [cell.format(k) for k in order], "mu": MU[order]})
    scan = read(tmp_path)
    np.testing.assert_array_equal(on_grid(scan), COUNTS)
    assert not any("not used" in words for words in scan.remarks)


@pytest.mark.parametrize("files", [1, 2])
def test_read_scan__stacks_and_a_column_that_numbers_the_frames(tmp_path: Path, files: int) -> None:
    for k, frames_ in enumerate(np.split(COUNTS, files)):
        tifffile.imwrite(tmp_path / f"s_{k + 5}.tif", frames_, photometric="minisblack")
    table(tmp_path / "t.csv", {"frame": range(6), "mu": MU})
    np.testing.assert_array_equal(on_grid(read(tmp_path)), COUNTS)


@pytest.mark.parametrize("first", [0, 1, 2])
def test_read_scan__an_aborted_scan_whose_first_frames_may_be_lost(tmp_path: Path, first: int) -> None:
    for k in range(4):
        tifffile.imwrite(tmp_path / f"a{first + k}.tif", COUNTS[k])
    table(tmp_path / "t.csv", {"frame": range(6), "mu": MU})
    if first:
        with pytest.raises(
            SourceError, match=r"column frame numbers frames from 0 to 5, but the names of 4 files do not"
        ):
            read(tmp_path, allow_partial=True)
    else:
        np.testing.assert_allclose(read(tmp_path, allow_partial=True).axes[0].positions, MU[:4])


@pytest.mark.parametrize(
    ("column", "factor", "unit"),
    [
        ("mu_mrad", 0.18 / np.pi, "degree"),
        ("mu/rad", 180 / np.pi, "degree"),
        ("mu_deg", 1, "degree"),
        ("energy", 1, "keV"),
        ("energy [eV]", 1e-3, "keV"),
        ("energy [deg]", 1, "degree"),
    ],
)
def test_read_scan__units_in_names(tmp_path: Path, column: str, factor: float, unit: str) -> None:
    tiffs(tmp_path)
    table(tmp_path / "t.csv", {column: 17 + MU, "exposure": [0.5] * 6})
    scan = read(tmp_path, beamline=LINE if "energy" in column else load_beamline("id03", {column: "phi"}))
    np.testing.assert_allclose(scan.axes[0].positions, (17 + MU) * factor)
    assert scan.axes[0].units == unit
    assert scan.remarks == ("column exposure has no unit; s is assumed",)
    table(tmp_path / "t.csv", {"mu": MU, "exposure [s]": ["slow"] * 6})
    with pytest.raises(SourceError, match="column exposure contains no times"):
        read(tmp_path)


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
    with pytest.raises(SourceError, match=r"12 rows for 10 frames; restore the 2 missing frames.* --allow-partial"):
        read(tmp_path)
    scan = read(tmp_path, allow_partial=True)
    assert (scan.shape, scan.found, scan.commanded) == ((2, 4), 10, 12)
    np.testing.assert_array_equal(on_grid(scan).reshape(8, 12, 10), counts[:8])
