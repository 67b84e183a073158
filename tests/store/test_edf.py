"""EDF series: ordered by what headers say, and refused where they do not add up."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import dfxm_dask
from dfxm_dask.errors import SourceError
from dfxm_dask.sources.readers import frames, list_scans
from tests.beamline_files import known_counts, write_bliss, write_edf
from tests.store.edf_series import COUNTS, all_frames, header, motors, read, write


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
    with pytest.raises(SourceError, match=r"entry 1\.1: does not exist; choose from the entries 3\.1, 12\.1"):
        read(tmp_path)


def test_read_scan__partial_edf_scan(tmp_path: Path) -> None:
    write(tmp_path, COUNTS[:4])
    with pytest.raises(SourceError, match=r"4 of 6 frames; .*--allow-partial"):
        read(tmp_path)
    scan = read(tmp_path, allow_partial=True)
    assert (scan.found, scan.commanded, scan.shape) == (4, 6, (4,))


@pytest.mark.parametrize("given", [slice(0, 1), slice(3, 4), slice(1, 5), slice(0, 6, 2)])
@pytest.mark.parametrize("there", [6, 5])
def test_refuses__edf_files_of_a_series_and_names_the_others(tmp_path: Path, given: slice, there: int) -> None:
    files = write(tmp_path, COUNTS[:there])
    (tmp_path / "dark.edf").write_text("no image")
    files, every = files[given], files
    words = rf"entry 1\.1: (is|are) {len(files)} of the {there} frames of this scan in the folder {tmp_path}; "
    with pytest.raises(SourceError, match=words + "give the folder, or all files of the scan with a pattern") as caught:
        read(files)
    assert ("add --allow-partial" in caught.value.remedy) == (there < 6)
    assert read(str(tmp_path / "strain_*"), allow_partial=there < 6).found == len(every)  # the advice works


def test_read_scan__edf_files_that_a_user_takes_for_a_part_of_the_series(tmp_path: Path) -> None:
    files = write(tmp_path)
    assert read(files[:4], allow_partial=True).found == 4
    write(tmp_path / "mesh", title="mesh mu 0 0.2 2 chi 1 2 1 0.5", motors=motors(mu=np.arange(6) % 3 * 0.1))
    with pytest.raises(SourceError, match="is 1 of the 6 frames of this scan in the folder"):
        read(tmp_path / "mesh" / files[0].name, allow_partial=True)


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
    with pytest.raises(SourceError, match="has 6 frames, but the command requests 4"):
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


def test_refuses__edf_headers_that_contradict_themselves(tmp_path: Path) -> None:
    (file,) = write(tmp_path, per_file=6)
    good = file.read_bytes()
    for old, new, match in (
        ("motor_mne = mu chi samz", "motor_mne = mu chi_samz", "motor_mne has 2 names, but motor_pos 3 values"),
        ("Dim_1 = 10", "Dim_1 = 11", "Size 240 in its header, but 12 x 11"),
        ("Dim_1 = 10", "Dim_1 = 00", "has frames of 12 x 0 pixels"),
        ("prefix = strain_", "Dim_3  = 2      ", r"frame 0 has shape \(2, 12, 10\)"),
        ("scan = ascan", "skan = ascan", "neither a title nor fscan_parameters"),
        ("date = Thu Jul 06 03:41:29", "EDF_BinaryFileName = x.bin", "has its counts in another file"),
        ("date = Thu Jul 06 03:41:29", "Compression = RLE         ", "is compressed by"),
        ("ByteOrder = Low", "ByteOrder = Lxw", "has ByteOrder"),
        ("DataType = UnsignedShort", "DataType = UnsignedWhort", "has DataType UnsignedWhort; set a type such as"),
    ):
        file.write_bytes(good)
        header(file, old, new)
        with pytest.raises(SourceError, match=match):
            read(tmp_path)


def test_frames__edf_that_changed_is_refused(tmp_path: Path) -> None:
    files = write(tmp_path)
    scan = read(tmp_path)
    files[3].write_bytes(files[3].read_bytes() + b" ")
    with pytest.raises(SourceError, match=r"strain_0003\.edf .*changed during reading"):
        list(frames(scan))


def test_refuses__edf_loopscan_without_growing_times(tmp_path: Path) -> None:
    (file,) = write(tmp_path, per_file=6, title="loopscan 6")
    header(file, "epoch = 1499257495.0", "epoch = 1499257490.0")
    with pytest.raises(SourceError, match="epoch does not increase at frame 3"):
        read(tmp_path)
    header(file, "epoch =", "epokk =")
    with pytest.raises(SourceError, match="is a loopscan without times or exposure"):
        read(tmp_path)


def test_list_scans__knows_edf_and_hdf5_by_what_is_in_them(tmp_path: Path) -> None:
    (file,) = write(tmp_path, per_file=6)
    expected = [("86.1", "ascan mu 0 0.5 5 1")]
    for name in ("scan.cor", "noending", "scan[1].EDF", "a*b.edf"):
        file = file.rename(tmp_path / name)
        assert list_scans(file) == list_scans([file]) == expected
    master = write_bliss(tmp_path / "m.h5").path.rename(tmp_path / "m.edf")
    assert [entry for entry, _ in list_scans(master)] == ["1.1"]
    (tmp_path / "scan.h5").mkdir()
    file.rename(tmp_path / "scan.h5" / "a.edf")
    assert list_scans(tmp_path / "scan.h5") == list_scans(str(tmp_path / "*" / "*.edf")) == expected


def test_read_scan__edf_loopscan_is_ordered_by_time_where_points_have_no_number(tmp_path: Path) -> None:
    write(tmp_path, title="loopscan 6 1", points=False, names=[f"{letter}.edf" for letter in "fabecd"])
    np.testing.assert_array_equal(all_frames(read(tmp_path)), COUNTS)


@pytest.mark.parametrize(
    ("samz", "z", "said"),
    [
        (1.5 + 1e-5 * np.arange(9), 1500.04, ""),
        (1.5 + 1e-2 * np.arange(9), 0.0, "samz moved from 1.5 to 1.58 mm"),
        (np.where(np.arange(9) == 3, np.nan, 1.5), 0.0, "1 of 9 headers have no number for samz"),
        (np.full(9, np.nan), 0.0, "9 of 9 headers have no number for samz"),
    ],
)
def test_ingest__z_of_headers_is_known_or_said_not_to_be(tmp_path: Path, samz: np.ndarray, z: float, said: str) -> None:
    counts = np.ones((9, 6, 8), "uint16")
    motors = {"diffry": np.arange(9.0), "samz": samz}
    write_edf(tmp_path / "e", counts, title="ascan diffry 0 8 8 0.1", motors=motors)
    report = dfxm_dask.ingest(tmp_path / "e", tmp_path / "s.zarr")
    assert dfxm_dask.open_scan(tmp_path / "s.zarr").z.item() == pytest.approx(z, abs=1e-6)
    assert bool(report.remarks) == bool(said)
    assert all(said in words for words in report.remarks)


def test_ingest__edf_under_the_name_of_hdf5(tmp_path: Path) -> None:
    counts = np.arange(9 * 48, dtype="uint16").reshape(9, 6, 8)
    names = [f"f{k}.h5" for k in range(9)]
    files = write_edf(tmp_path, counts, title="ascan diffry 0 8 8 0.1", motors={"diffry": np.arange(9.0)}, names=names)
    dfxm_dask.ingest(files, tmp_path / "s.zarr")
    np.testing.assert_array_equal(dfxm_dask.open_scan(tmp_path / "s.zarr")["raw"].counts[0], counts)
