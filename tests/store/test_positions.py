"""What positions, times, directions and full wells rest on: read, commanded or given, and never assumed in silence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

import dfxm_dask
from dfxm_dask.errors import DfxmError, SourceError
from dfxm_dask.sources.bliss.camera import full_well
from dfxm_dask.sources.readers import frames, read_scan
from dfxm_dask.sources.source import Scan, load_beamline
from tests.beamline_files import write_bliss, write_edf

LINE = load_beamline("id03")
FSCAN2D: dict[str, Any] = dict(
    command="fscan2d", motors=("chi", "diffry"), shape=(3, 7), starts=(0, 2), steps=(0.1, 0.01), jitter=0.0
)
LOOP: dict[str, Any] = dict(command="loopscan", motors=(), shape=(9,), starts=(), steps=())


def read(path: Path, **options: Any) -> Scan:
    return read_scan(path, "1.1", beamline=LINE, **options)


def put(path: Path, name: str, value: Any, unit: str = "") -> None:
    with h5py.File(path, "a") as file:
        if name in file:
            del file[name]
        file[name] = value
        if unit:
            file[name].attrs["units"] = unit


@pytest.mark.parametrize("shape", [(30, 1), (1, 30), (30, 1, 1)])
@pytest.mark.parametrize("where", ["value", "data", "positioners"])
def test_read_scan__positions_in_a_column_or_row_are_read(tmp_path: Path, shape: tuple[int, ...], where: str) -> None:
    written = write_bliss(tmp_path / "m.h5", positioner="absent")
    values = 0.29 + 0.001 * (np.arange(30) + 0.4) + 2e-4 * np.sin(np.arange(30))
    put(
        tmp_path / "m.h5",
        f"1.1/instrument/{'positioners/mu' if where == 'positioners' else f'mu/{where}'}",
        values.reshape(shape),
    )
    (axis,) = read(written.path).axes
    np.testing.assert_array_equal(axis.positions, values)
    assert axis.source == "read"


@pytest.mark.parametrize(
    "values", [np.zeros((15, 2)), np.zeros((2, 30)), np.array([b"0.1"] * 30), np.zeros(30, complex)]
)
def test_read_scan__positions_that_cannot_be_used_are_refused(tmp_path: Path, values: np.ndarray) -> None:
    path = write_bliss(tmp_path / "m.h5", positioner="absent").path
    put(path, "1.1/instrument/mu/value", values)
    with pytest.raises(SourceError, match=r"motor mu has positions of shape .*\(30, 1\)"):
        read(path)


@pytest.mark.parametrize(("where", "word"), [("absent", "commanded"), ("scalar", "commanded"), ("ERR", "is 'ERR'")])
def test_ingest__commanded_positions_are_called_so(tmp_path: Path, where: str, word: str) -> None:
    report = dfxm_dask.ingest(write_bliss(tmp_path / "m.h5", positioner=where).path, tmp_path / "s.zarr")
    phi = dfxm_dask.open_scan(tmp_path / "s.zarr", chunks=None).coords["phi"]
    assert phi.attrs["position_source"] == "commanded"
    assert word in phi.attrs["position"]
    assert "readback" not in phi.attrs["position"]
    assert any("commanded" in remark for remark in report.remarks)


@pytest.mark.parametrize("command", ["fscan2d", "amesh", "dmesh"])
@pytest.mark.parametrize("mode", ["rewind", "zigzag"])
def test_ingest__direction_must_be_read_recorded_or_given(tmp_path: Path, command: str, mode: str) -> None:
    options = FSCAN2D | dict(command=command, mode=mode.upper(), parameters=False, positioner="absent")
    written = write_bliss(tmp_path / "m.h5", **options)
    for motor in ("chi", "diffry"):
        put(written.path, f"1.1/instrument/positioners_start/{motor}", 2.5)
    with pytest.raises(SourceError, match=r"--scan-mode rewind .* --scan-mode zigzag"):
        read(written.path)
    dfxm_dask.ingest(written.path, tmp_path / "s.zarr", scan_mode=mode)
    raw = dfxm_dask.open_scan(tmp_path / "s.zarr", chunks=None)["raw"]
    np.testing.assert_array_equal(raw.counts.values[0], written.grid())
    assert (raw.phi.attrs["scan_mode"], raw.phi.attrs["scan_mode_source"]) == (mode, "given")


@pytest.mark.parametrize("parameters", [True, False])
@pytest.mark.parametrize(("mode", "wrong"), [("ZIGZAG", "rewind"), ("REWIND", "zigzag")])
def test_read_scan__given_direction_that_contradicts_the_file(
    tmp_path: Path, parameters: bool, mode: str, wrong: str
) -> None:
    path = write_bliss(tmp_path / "m.h5", **(FSCAN2D | dict(mode=mode, parameters=parameters))).path
    with pytest.raises(SourceError, match=r"contradicts the positions|fast_motor_mode is"):
        read(path, scan_mode=wrong)
    (_, phi) = read(path).axes
    assert phi.attrs["scan_mode_source"] == ("commanded" if parameters else "read")


def test_read_scan__a_direction_of_one_axis_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="moves one axis"):
        read(write_bliss(tmp_path / "m.h5").path, scan_mode="zigzag")


@pytest.mark.parametrize("rows", [2, 3, 5])
def test_ingest__rows_read_on_either_side_keep_their_positions(tmp_path: Path, rows: int) -> None:
    shape = (rows, 7)
    row, column = np.divmod(np.arange(rows * 7), 7)
    column = np.where(row % 2, 6 - column, column)
    truth = 2 + 0.01 * (column + np.where(row % 2, -0.4, 0.4))
    options = FSCAN2D | dict(shape=shape, mode="ZIGZAG", readbacks={"diffry": truth})
    report = dfxm_dask.ingest(write_bliss(tmp_path / "m.h5", **options).path, tmp_path / "s.zarr")
    raw = dfxm_dask.open_scan(tmp_path / "s.zarr", chunks=None)["raw"]
    found = np.empty(rows * 7)
    found[row * 7 + column] = truth
    np.testing.assert_array_equal(raw.position_phi.values[0].ravel(), found)
    assert raw.position_phi.attrs["units"] == "degree"
    assert "position_chi" not in raw
    assert any("opposite directions" in remark for remark in report.remarks)


def test_ingest__positions_of_the_real_scans_need_no_array(real_scans: dict[str, Path], tmp_path: Path) -> None:
    dfxm_dask.ingest(real_scans["motor_drift"], tmp_path / "s.zarr", scan="1.1")
    raw = dfxm_dask.open_scan(tmp_path / "s.zarr", chunks=None)["raw"]
    assert not [name for name in raw.data_vars if str(name).startswith("position_")]
    assert raw.saturation.values.tolist() == [65535.0]


@pytest.mark.parametrize("unit", ["mrad", "arcsec", "rad"])
def test_ingest__odd_units_are_converted_and_labelled(tmp_path: Path, unit: str) -> None:
    written = write_bliss(tmp_path / "m.h5", starts=(0.29,), steps=(0.001,))
    with h5py.File(written.path, "a") as file:
        file["1.1/instrument/mu/value"].attrs["units"] = unit
    dfxm_dask.ingest(written.path, tmp_path / "s.zarr")
    phi = dfxm_dask.open_scan(tmp_path / "s.zarr", chunks=None)["raw"].phi
    in_degree = {"mrad": 0.18 / np.pi, "arcsec": 1 / 3600, "rad": 180 / np.pi}[unit]
    np.testing.assert_allclose(phi.values, written.motors[0]["mu"] * in_degree, rtol=1e-12)
    assert (phi.attrs["units"], phi.attrs["converted_from"]) == ("degree", unit)
    assert phi.attrs["commanded_step"] == pytest.approx(0.001 * in_degree)


def foreign(path: Path, title: str, units: str, **positions: np.ndarray) -> Path:
    """A scan of another program: a title in its own words, positions of every frame beside it."""
    count = len(next(iter(positions.values())))
    write_bliss(path, motors=("mu",), shape=(count,), title=title, parameters=False, positioner="absent")
    for motor, values in positions.items():
        put(path, f"1.1/instrument/positioners/{motor}", values, units)
    return path


@pytest.mark.parametrize(
    ("title", "units", "grid", "words"),
    [
        (
            "fscan2d phi -0.002 0.002 5 chi -0.001 0.001 3 1.0",
            "degree",
            dict(chi=np.degrees(np.linspace(-1e-3, 1e-3, 3)), phi=np.degrees(np.linspace(-2e-3, 2e-3, 5))),
            "its numbers are in rad; its third number is the end, not the step; its first motor is the fast one",
        ),
        (
            "fscan2d phi 0.1 0.9 3 chi 2 5 4 1.0",
            "deg",
            dict(chi=np.linspace(2, 5, 4), phi=np.linspace(0.1, 0.9, 3)),
            "its third number is the end, not the step; its first motor is the fast one",
        ),
        (
            "fscan mu 3 0.25 7 0.5",
            "degree",
            dict(mu=np.degrees(3e-3 + 0.25e-3 * np.arange(7))),
            "its numbers are in mrad",
        ),
        ("ascan mu -0.0007 0.0008 6 0.5", "mrad", dict(mu=np.linspace(-0.7, 0.8, 7)), "its numbers are in rad"),
        (
            "fscan2d phi -0.000520 0.000520 31 chi 0.001 0.001 1 1.0",
            "degree",
            dict(phi=np.degrees(np.linspace(-5.2e-4, 5.2e-4, 31))),
            "its numbers are in rad; its third number is the end, not the step",
        ),
    ],
)
def test_ingest__title_of_another_program_is_read_as_the_positions_tell(
    tmp_path: Path, title: str, units: str, grid: dict[str, np.ndarray], words: str
) -> None:
    slow_first = np.meshgrid(*grid.values(), indexing="ij")
    read_back = {motor: values.ravel() for motor, values in zip(grid, slow_first, strict=True)}
    path = foreign(tmp_path / "m.h5", title, units, **read_back)
    report = dfxm_dask.ingest(path, tmp_path / "s.zarr")
    assert any(remark.endswith(f"if {words}") for remark in report.remarks)
    raw = dfxm_dask.open_scan(tmp_path / "s.zarr", chunks=None)["raw"]
    for motor, values in grid.items():
        axis = raw["phi" if motor == "mu" else motor]
        in_degree = np.degrees(values * 1e-3) if units == "mrad" else values
        np.testing.assert_allclose(axis.values, in_degree, rtol=1e-12)
        assert axis.attrs["commanded_step"] == pytest.approx(np.diff(in_degree)[0])
        assert axis.attrs["title_read_as"] == words
    if "31" in title:  # a single position that was not recorded is in the unit of the others
        np.testing.assert_allclose(raw.chi.values, np.degrees(1e-3))
    counts = raw.counts.values[0].reshape(-1, *raw.counts.shape[-2:])
    np.testing.assert_array_equal(counts, [f.copy() for _, f in frames(read(path))])


@pytest.mark.parametrize(
    ("title", "units", "values"),
    [
        ("fscan mu 0 0.001 7 0.5", "degree", 0.002 * np.arange(7)),  # twice as far
        ("fscan mu 0 0.001 7 0.5", "", np.degrees(0.001 * np.arange(7))),  # in a unit that nothing tells
        ("fscan mu 0 0.001 7 0.5", "degree", np.degrees(0.001 * (np.arange(7) + 0.2))),  # near, but not there
        ("fscan mu 0 6 7 0.5", "degree", np.array([0, 1, 2, 3, 4, 5, 5.7])),  # did not come to the end
    ],
)
def test_read_scan__positions_that_no_reading_of_the_title_explains_are_refused(
    tmp_path: Path, title: str, units: str, values: np.ndarray
) -> None:
    path = foreign(tmp_path / "m.h5", title, units, mu=values)
    with pytest.raises(SourceError, match=r"steps from the command .*check the motor"):
        read(path)


def test_read_scan__parameters_mean_what_they_are_called(tmp_path: Path) -> None:
    readbacks = {"mu": np.degrees(0.29 + 0.001 * np.arange(30))}
    with pytest.raises(SourceError, match="steps from the command"):
        read(write_bliss(tmp_path / "m.h5", readbacks=readbacks).path)


@pytest.mark.parametrize(
    ("clock", "unit", "scale"),
    [("epoch_trig", "s", 1.0), ("epoch", "", 1.0), ("elapsed_time", "ms", 1e-3), ("time_stamp", "us", 1e-6)],
)
def test_ingest__times_count_from_the_first_frame(tmp_path: Path, clock: str, unit: str, scale: float) -> None:
    path = write_bliss(tmp_path / "m.h5", **LOOP).path
    put(path, "1.1/measurement/elapsed_time", 0.0)
    ticks = (1.75e9 + 0.11 * np.arange(9)) / scale
    put(path, f"1.1/measurement/{clock}", ticks, unit)
    dfxm_dask.ingest(path, tmp_path / "s.zarr")
    time = dfxm_dask.open_scan(tmp_path / "s.zarr", chunks=None)["raw"].time
    np.testing.assert_allclose(time.values, 0.11 * np.arange(9), atol=1e-6)
    assert time.attrs["clock"] == clock
    assert time.attrs["time_origin"] == pytest.approx(1.75e9)


def test_read_scan__a_scanned_clock_counts_from_the_first_frame(tmp_path: Path) -> None:
    path = write_bliss(tmp_path / "m.h5", motors=("clock",), starts=(1.75e9,), steps=(2.0,), jitter=0.0).path
    with h5py.File(path, "a") as file:
        file["1.1/instrument/clock/value"].attrs["units"] = "s"
    (axis,) = read_scan(path, "1.1", beamline=load_beamline("id03", {"clock": "delay"})).axes
    assert axis.positions[0] == 0
    np.testing.assert_allclose(np.diff(axis.positions), 2.0, atol=1e-5)
    assert axis.attrs["time_origin"] == pytest.approx(1.75e9)


@pytest.mark.parametrize("dtype", ["int8", "int16", "int32"])
def test_ingest__signed_counts(tmp_path: Path, dtype: str) -> None:
    path = write_bliss(tmp_path / "m.h5", shape=(4,)).path
    counts = np.random.default_rng(0).integers(0, np.iinfo(dtype).max, (4, 12, 10), dtype)
    put(path, "1.1/measurement/pco_ff", counts)
    dfxm_dask.ingest(path, tmp_path / "s.zarr")
    raw = dfxm_dask.open_scan(tmp_path / "s.zarr", chunks=None)["raw"]
    assert raw.counts.dtype.kind == "u"
    np.testing.assert_array_equal(raw.counts.values[0], counts)
    assert np.isnan(raw.saturation.values).all()
    assert "unknown" in raw.saturation.attrs["source"]
    counts[2, 5, 3] = -1
    put(path, "1.1/measurement/pco_ff", counts)
    with pytest.raises(SourceError, match=r"frame 2 has 1 negative values, the lowest -1 at pixel y = 5, x = 3"):
        dfxm_dask.ingest(path, tmp_path / "t.zarr", roi=(4, 8, 2, 9))
    with pytest.raises(DfxmError):
        dfxm_dask.open_scan(tmp_path / "t.zarr")


def test_frames__signed_edf(tmp_path: Path) -> None:
    counts = np.random.default_rng(0).integers(0, 3000, (4, 6, 5), "int16")
    write_edf(tmp_path / "edf", counts, title="ascan mu 0 0.3 3 1", motors={"mu": 0.1 * np.arange(4)})
    scan = read(tmp_path / "edf")
    np.testing.assert_array_equal(np.stack([f.copy() for _, f in frames(scan)]), counts)


@pytest.mark.parametrize(
    ("settings", "dtype", "level"),
    [
        ({}, "uint8", 255),
        ({}, "uint16", 65535),
        ({"cam/image_type": "Bpp12"}, "uint16", 4095),
        ({"cam/bit_depth_readout": 14.0}, "uint16", 16383),
        ({"camera file/detector_information/image_lima_type": "Bpp12", "cam/acc_nb_frames": 10.0}, "int32", 40950),
        ({"cam/acc_nb_frames": 10.0}, "uint32", np.nan),
        ({"cam/acq_mode": "ACCUMULATION", "cam/image_type": "Bpp12"}, "uint32", np.nan),
        ({"cam/image_type": "Bpp32S"}, "int32", np.nan),
        ({"cam/image_bin": "2 2", "cam/bit_depth": 12.0}, "uint16", np.nan),
        ({"cam/image_bin": "1 1", "cam/bit_depth": 12.0}, "uint16", 4095),
        ({"cam/saturation_value": 60000.0}, "uint16", 60000),
        ({"cam/image_type": "Bpp16", "cam/acc_nb_frames": 4.0}, "uint16", 65535),
    ],
)
def test_full_well__of_dtype_depth_and_sums(settings: dict[str, Any], dtype: str, level: float) -> None:
    found, words = full_well(settings, np.dtype(dtype))
    np.testing.assert_equal(found, float(level))
    assert words


def test_ingest__saturation_of_32_bits_is_reached_by_its_largest_count(tmp_path: Path) -> None:
    dfxm_dask.ingest(write_bliss(tmp_path / "m.h5", dtype="uint32", shape=(3,)).path, tmp_path / "s.zarr")
    raw = dfxm_dask.open_scan(tmp_path / "s.zarr", chunks=None)["raw"]
    assert raw.saturation.dtype == np.float32
    assert np.uint64(2**32 - 1) >= float(raw.saturation.values[0]) > 2**32 - 300


def test_ingest__the_counter_of_all_layers(tmp_path: Path) -> None:
    path = write_bliss(tmp_path / "m.h5", layers=3, shape=(4,), monitor=False).path
    for k, (mon, pico) in enumerate([((1.0, 4), (5.0, 4)), ((2.0, 3), (6.0, 4)), ((3.0, 4), (7.0, 4))]):
        put(path, f"{k + 1}.1/measurement/mon", np.full(mon[1], mon[0]), "count")
        put(path, f"{k + 1}.1/measurement/pico4", np.full((pico[1], 1), pico[0]), "uA" if k else "A")
    report = dfxm_dask.ingest(path, tmp_path / "s.zarr", scan="all")
    monitor = dfxm_dask.open_scan(tmp_path / "s.zarr", chunks=None)["raw"].monitor
    assert (monitor.attrs["counter"], monitor.attrs["units"]) == ("pico4", "A")
    np.testing.assert_allclose(monitor.values[:, 0], [5, 6e-6, 7e-6])
    assert any("mon has 3 samples for 4 frames" in remark for remark in report.remarks)
    with h5py.File(path, "a") as file:
        del file["1.1/measurement/pico4"], file["3.1/measurement/mon"]
    dfxm_dask.ingest(path, tmp_path / "t.zarr", scan="all")
    monitor = dfxm_dask.open_scan(tmp_path / "t.zarr", chunks=None)["raw"].monitor
    assert monitor.attrs["counter"] == "mon"
    np.testing.assert_array_equal(monitor.values[:, 0], [1, np.nan, np.nan])


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16", "uint16", "int32", "uint32"])
@pytest.mark.parametrize("kind", ["hdf5", "edf"])
def test_ingest__masked_pixels_are_marked_whatever_the_dtype(tmp_path: Path, kind: str, dtype: str) -> None:
    counts = np.random.default_rng(1).integers(1, 99, (9, 6, 8)).astype(dtype)
    counts[:, 2, 3] = largest = np.iinfo(dtype).max
    counts[4, 1, 1] = largest  # in one frame: light, where counts have fewer than 32 bits
    if kind == "edf":
        write_edf(tmp_path / "e", counts, title="ascan diffry 0 8 8 0.1", motors={"diffry": np.arange(9.0)})
        path = tmp_path / "e"
    else:
        path = write_bliss(tmp_path / "m.h5", shape=(9,), link="instrument").path
        put(path, "1.1/instrument/pco_ff/data", counts)
    dfxm_dask.ingest(path, tmp_path / "s.zarr")
    raw = dfxm_dask.open_scan(tmp_path / "s.zarr", chunks=None)["raw"].to_dataset()
    long = np.dtype(dtype).itemsize == 4
    assert raw.masked.item() == (2 if long else 1)
    known = counts.astype(float)
    known[:, 2, 3] = 0
    known[4, 1, 1] = 0 if long else largest
    assert int(raw.patch_sum.sum()) == known.sum()
    if not long:
        assert raw.counts.values[0, 4, 1, 1] == largest
    assert np.isnan(raw.saturation.item()) == (np.dtype(dtype).kind == "i")


@pytest.mark.parametrize(("name", "said"), [("timestamp", True), ("cam_time", True), ("epoch", False)])
def test_ingest__a_clock_without_unit_is_taken_in_seconds_with_a_word(tmp_path: Path, name: str, said: bool) -> None:
    path = write_bliss(tmp_path / "m.h5", **LOOP).path
    with h5py.File(path, "a") as file:
        file.move("1.1/measurement/elapsed_time", f"1.1/measurement/{name}")
    report = dfxm_dask.ingest(path, tmp_path / "s.zarr")
    assert any("time is in s: assumed" in words for words in report.remarks) == said
    assert dfxm_dask.open_scan(tmp_path / "s.zarr").time.attrs["long_name"] == "time"
