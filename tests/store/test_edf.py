"""EDF series: ordered by what headers say, and refused where they do not add up."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dfxm_dask.errors import SourceError
from dfxm_dask.store.edf_headers import frames_of
from dfxm_dask.store.source import Scan, frames, list_scans, load_beamline, read_scan
from tests.beamline_files import known_counts, write_edf

BEAMLINE = load_beamline("id03")
TITLE = "ascan  mu 0 0.5  5 1"
COUNTS = known_counts(6)


def motors(**own: Any) -> dict[str, np.ndarray]:
    return {"mu": 0.1 * np.arange(6), "chi": np.full(6, -1.62), "samz": np.full(6, 0.25)} | own


def write(folder: Path, counts: np.ndarray = COUNTS, **options: Any) -> list[Path]:
    return write_edf(folder, counts, **({"title": TITLE, "motors": motors()} | options))


def read(source: Any, **options: Any) -> Scan:
    return read_scan(source, options.pop("entry", "1.1"), beamline=BEAMLINE, **options)


def all_frames(scan: Scan, **options: Any) -> np.ndarray:
    return np.array([frame.copy() for _, frame in frames(scan, **options)])


@pytest.mark.parametrize("per_file", [1, 4, 6])
@pytest.mark.parametrize("big_endian", [False, True])
def test_read_scan__edf_series(tmp_path: Path, per_file: int, big_endian: bool) -> None:
    counters = {"sec": np.full(6, 0.9), "srcur": 160.0 + np.arange(6)}
    files = write(tmp_path / "edf", per_file=per_file, big_endian=big_endian, counters=counters)
    scan = read(tmp_path / "edf")
    np.testing.assert_array_equal(all_frames(scan), COUNTS)
    np.testing.assert_array_equal(all_frames(scan, roi=(1, 5, 2, 9)), COUNTS[:, 1:5, 2:9])
    (axis,) = scan.axes
    assert (axis.name, axis.motor, axis.units, axis.commanded_step) == ("phi", "mu", "degree", 0.1)
    np.testing.assert_allclose(axis.positions, 0.1 * np.arange(6))
    np.testing.assert_array_equal(scan.exposure, counters["sec"])
    np.testing.assert_array_equal(scan.monitor, counters["srcur"])
    assert (scan.z, scan.z_motor, scan.z_units) == (0.25, "samz", "mm")
    assert scan.title == "ascan mu 0 0.5 5 1"
    assert scan.metadata["positioners/chi"] == -1.62
    assert (scan.detector, scan.dtype) == ("strain", np.dtype("uint16"))
    assert [Path(p).name for p, _, _ in scan.files] == [p.name for p in files]
    assert list_scans(tmp_path / "edf") == [("86.1", "ascan mu 0 0.5 5 1")]


@pytest.mark.parametrize("points", [True, False])
def test_read_scan__order_of_edf_files_is_not_that_of_their_names(tmp_path: Path, points: bool) -> None:
    files = write(tmp_path, names=[f"{letter}.edf" for letter in "fabecd"], points=points)
    for source in (tmp_path, str(tmp_path / "*.edf"), files[::-1], [str(f) for f in files]):
        scan = read(source)
        np.testing.assert_array_equal(all_frames(scan), COUNTS)
        np.testing.assert_array_equal(scan.order, np.arange(6))


@pytest.mark.parametrize("zigzag", [False, True])
@pytest.mark.parametrize("points", [True, False])
def test_read_scan__edf_mesh(tmp_path: Path, zigzag: bool, points: bool) -> None:
    order = np.array([0, 1, 2, 5, 4, 3] if zigzag else range(6))
    row, column = np.divmod(order, 3)
    write(tmp_path, points=points, title="mesh mu 0 0.2 2 chi 1 2 1 0.5", motors=dict(mu=0.1 * column, chi=1.0 + row))
    scan = read(tmp_path)
    assert scan.shape == (2, 3)
    assert [a.name for a in scan.axes] == ["chi", "phi"]
    grid = np.empty_like(COUNTS)
    for number, frame in frames(scan):
        grid[scan.order[number]] = frame
    expected = np.empty_like(COUNTS)
    expected[order] = COUNTS
    np.testing.assert_array_equal(grid, expected)


def test_read_scan__edf_loopscan(tmp_path: Path) -> None:
    write(tmp_path, title="loopscan 6 1")
    (time,) = read(tmp_path).axes
    assert (time.name, time.units) == ("time", "s")
    np.testing.assert_allclose(time.positions, 5.0 * np.arange(6))


def test_read_scan__edf_scans_of_one_folder_by_number(tmp_path: Path) -> None:
    write(tmp_path, names=[f"a{k}.edf" for k in range(6)], scan_number=3)
    later = known_counts(6, seed=5)
    write(tmp_path, later, names=[f"b{k}.edf" for k in range(6)], scan_number=12)
    assert [entry for entry, _ in list_scans(tmp_path)] == ["3.1", "12.1"]
    np.testing.assert_array_equal(all_frames(read(tmp_path, entry="12.1")), later)
    with pytest.raises(SourceError, match=r"entry 1\.1: no such entry; entries are 3\.1, 12\.1"):
        read(tmp_path)


def test_read_scan__partial_edf_scan(tmp_path: Path) -> None:
    write(tmp_path, COUNTS[:4])
    with pytest.raises(SourceError, match=r"4 of 6 frames; .*--allow-partial"):
        read(tmp_path)
    scan = read(tmp_path, allow_partial=True)
    assert (scan.found, scan.commanded, scan.shape) == (4, 6, (4,))


@pytest.mark.parametrize("extra", [14642, 1, 512])
def test_refuses__edf_with_surplus_bytes(tmp_path: Path, extra: int) -> None:
    files = write(tmp_path)
    files[2].write_bytes(files[2].read_bytes() + bytes(extra))
    with pytest.raises(SourceError, match=rf"strain_0002\.edf: has {extra} surplus bytes: the headers account for"):
        read(tmp_path)


def test_refuses__edf_with_missing_bytes(tmp_path: Path) -> None:
    files = write(tmp_path)
    files[2].write_bytes(files[2].read_bytes()[:-7])
    with pytest.raises(SourceError, match=r"strain_0002\.edf: has 7 missing bytes"):
        read(tmp_path)


def test_refuses__edf_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "a.edf").write_bytes(b"nothing of the kind")
    with pytest.raises(SourceError, match=r"a\.edf: is not a readable EDF file"):
        read(tmp_path)
    with pytest.raises(SourceError, match=r"b\.edf: is not a readable EDF file \(.*No such file"):
        read(tmp_path / "b.edf")
    with pytest.raises(SourceError, match=r"c\*\.edf: matches no file"):
        read(str(tmp_path / "c*.edf"))
    with pytest.raises(SourceError, match="is an empty list"):
        read([])


def test_refuses__edf_of_other_than_counts(tmp_path: Path) -> None:
    write(tmp_path, COUNTS.astype("float32"))
    with pytest.raises(SourceError, match="holds float32, not counts"):
        read(tmp_path)


@pytest.mark.parametrize(
    ("other", "options", "match"),
    [
        (COUNTS[:, :-1], {}, r"frame shapes differ: \(12, 10\) and \(11, 10\)"),
        (COUNTS.astype("uint32"), {}, "dtypes differ: uint16 and uint32"),
        (COUNTS, {"title": "ascan mu 0 1 5 1"}, "scan commands differ"),
    ],
)
def test_refuses__edf_files_that_do_not_belong_together(
    tmp_path: Path, other: np.ndarray, options: dict[str, Any], match: str
) -> None:
    files = write(tmp_path)
    strange = write(tmp_path / "other", other, **options)
    files[4].write_bytes(strange[4].read_bytes())
    with pytest.raises(SourceError, match=match):
        read(tmp_path)


def test_refuses__more_edf_files_than_commanded(tmp_path: Path) -> None:
    write(tmp_path, title="ascan mu 0 0.3 3 1")
    with pytest.raises(SourceError, match="has 6 frames, the command asks for 4"):
        read(tmp_path)


def test_refuses__edf_points_with_a_gap(tmp_path: Path) -> None:
    files = write(tmp_path)
    files[2].unlink()
    with pytest.raises(SourceError, match="point_no of the frames are not consecutive near 2; restore"):
        read(tmp_path, allow_partial=True)


def test_refuses__edf_without_points_or_positions(tmp_path: Path) -> None:
    write(tmp_path, points=False, motors={"chi": np.zeros(6)})
    with pytest.raises(SourceError, match="neither point numbers nor positions"):
        read(tmp_path)


@pytest.mark.parametrize(
    ("points", "value", "match"),
    [
        (True, 0.2, r"motor mu is .* at frame 3, 1\.00 steps from the command"),
        (True, np.nan, "motor mu is nan at frame 3"),
        (False, 0.2, r"strain_0003\.edf and .*strain_0002\.edf repeat position \[2\]"),
        (False, np.nan, r"strain_0003\.edf has mu at nan, off the commanded grid"),
        (False, 7.0, r"strain_0003\.edf has mu at 7, off the commanded grid"),
    ],
)
def test_refuses__edf_motor_off_the_grid(tmp_path: Path, points: bool, value: float, match: str) -> None:
    read_back = 0.1 * np.arange(6)
    read_back[3] = value
    write(tmp_path, points=points, motors=motors(mu=read_back))
    with pytest.raises(SourceError, match=match):
        read(tmp_path)


def header(path: Path, old: str, new: str) -> None:
    data = path.read_bytes()
    assert len(old) == len(new)
    assert old.encode() in data
    path.write_bytes(data.replace(old.encode(), new.encode()))


def test_refuses__edf_headers_that_contradict_themselves(tmp_path: Path) -> None:
    (file,) = write(tmp_path, per_file=6)
    good = file.read_bytes()
    for old, new, match in (
        ("motor_mne = mu chi samz", "motor_mne = mu chi_samz", "motor_mne has 2 names, motor_pos 3 values"),
        ("Dim_1 = 10", "Dim_1 = 11", "Size 240 in its header, but 12 x 11"),
        ("Dim_1 = 10", "Dim_1 = 00", "has frames of 12 x 0 pixels"),
        ("prefix = strain_", "Dim_3  = 1      ", r"frame 0 has shape \(1, 12, 10\)"),
        ("scan = ascan", "skan = ascan", "neither a title nor fscan_parameters"),
        ("date = Thu Jul 06 03:41:29", "EDF_BinaryFileName = x.bin", "keeps its counts in another file"),
        ("date = Thu Jul 06 03:41:29", "Compression = GZIP        ", "is compressed"),
    ):
        file.write_bytes(good)
        header(file, old, new)
        with pytest.raises(SourceError, match=match):
            read(tmp_path)


def test_frames__edf_that_changed_is_refused(tmp_path: Path) -> None:
    files = write(tmp_path)
    scan = read(tmp_path)
    files[3].write_bytes(files[3].read_bytes() + b" ")
    with pytest.raises(SourceError, match=r"strain_0003\.edf .*changed while it was read"):
        list(frames(scan))


def test_refuses__edf_loopscan_without_growing_times(tmp_path: Path) -> None:
    (file,) = write(tmp_path, per_file=6, title="loopscan 6")
    header(file, "epoch = 1499257495.0", "epoch = 1499257490.0")
    with pytest.raises(SourceError, match="epoch does not grow at frame 3"):
        read(tmp_path)
    header(file, "epoch =", "epokk =")
    with pytest.raises(SourceError, match="loopscan without times or exposure"):
        read(tmp_path)


@pytest.mark.parametrize(("offset", "match"), [(-1, "frame 0 of .* cannot be read"), (700, "has .* of 240 bytes")])
def test_frames__edf_that_ends_early(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, offset: int, match: str) -> None:
    (file,) = write(tmp_path, per_file=6)
    scan = read(tmp_path)
    size = file.stat().st_size
    place = offset if offset < 0 else size - offset % 240
    found = [dataclasses.replace(frame, offset=place) for frame in frames_of(str(file))]
    monkeypatch.setattr("dfxm_dask.store.edf.frames_of", lambda name: found)
    with pytest.raises(SourceError, match=match):
        list(frames(scan))
