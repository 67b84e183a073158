"""Good BLISS files: every link style, command, and place of the motors gives back what was written."""

from __future__ import annotations

import importlib.metadata
import subprocess
import sys
from pathlib import Path
from typing import Any

import h5py
import hdf5plugin  # noqa: F401
import numpy as np
import pytest

from dfxm_dask.sources.readers import frames, list_scans, read_scan
from dfxm_dask.sources.source import Scan, load_beamline
from tests.beamline_files import Written, known_counts, write_bliss

BEAMLINE = load_beamline("id03")
FSCAN2D: dict[str, Any] = dict(
    command="fscan2d", motors=("chi", "diffry"), shape=(5, 7), starts=(-0.5, 7), steps=(0.08, 0.06)
)
COMMANDS: dict[str, dict[str, Any]] = {
    "fscan": {},
    "fscan_downwards": dict(starts=(0.4,), steps=(-0.001,)),
    "fscan2d": FSCAN2D,
    "fscan2d_zigzag": FSCAN2D | dict(mode="ZIGZAG"),
    "ascan": dict(command="ascan", motors=("chi",), shape=(11,), starts=(0.5,), steps=(-0.1,)),
    "dscan": dict(command="dscan", motors=("chi",), shape=(11,), starts=(-0.5,), steps=(0.1,)),
    "a2scan": dict(command="a2scan", motors=("chi", "foo"), shape=(11,), starts=(0, 3), steps=(0.1, 0.2)),
    "d2scan": dict(command="d2scan", motors=("foo", "mu"), shape=(11,), starts=(-1, 3), steps=(0.1, 0.2)),
    "amesh": dict(command="amesh", motors=("chi", "mu"), shape=(4, 6), starts=(0, 3), steps=(0.1, 0.2)),
    "amesh_zigzag": dict(
        command="amesh", motors=("chi", "mu"), shape=(4, 6), starts=(0, 3), steps=(0.1, 0.2), mode="ZIGZAG"
    ),
    "dmesh": dict(command="dmesh", motors=("chi", "mu"), shape=(4, 6), starts=(0, 3), steps=(0.1, -0.2)),
    "loopscan": dict(command="loopscan", motors=(), shape=(9,), starts=(), steps=()),
}


def on_grid(scan: Scan, **options: Any) -> np.ndarray:
    grid: np.ndarray | None = None
    for number, frame in frames(scan, **options):
        if grid is None:
            grid = np.zeros((len(scan.order), *frame.shape), scan.dtype)
        grid[scan.order[number]] = frame
    assert grid is not None
    return grid.reshape(*scan.shape, *grid.shape[1:])


def check(scan: Scan, written: Written, layer: int = 0) -> None:
    assert scan.shape == written.shape
    np.testing.assert_array_equal(scan.order, written.order)
    np.testing.assert_array_equal(on_grid(scan), written.grid(layer))


@pytest.mark.parametrize("link", ["dataset", "instrument", "copies", "soft", "external", "vds"])
@pytest.mark.parametrize("command", ["fscan", "fscan2d_zigzag"])
def test_read_scan__every_link_style(tmp_path: Path, link: str, command: str) -> None:
    written = write_bliss(tmp_path / "m.h5", link=link, layers=2, **COMMANDS[command])
    for layer in range(2):
        scan = read_scan(tmp_path / "m.h5", f"{layer + 1}.1", beamline=BEAMLINE)
        check(scan, written, layer)
        assert scan.detector == "pco_ff"
        assert scan.detector_pixel == (6.5, 6.5)
        assert scan.z == pytest.approx(written.z[layer])
        assert (scan.z_motor, scan.z_units) == ("samz", "mm")
    assert len(scan.files) == {"vds": 1 + len(scan.pieces), "external": 2}.get(link, 1)
    assert all(Path(p).stat().st_size == size for p, size, _ in scan.files)


@pytest.mark.parametrize("command", COMMANDS)
def test_read_scan__every_command(tmp_path: Path, command: str) -> None:
    options = COMMANDS[command]
    written = write_bliss(tmp_path / "m.h5", link="vds", frames_per_file=4, **options)
    scan = read_scan(tmp_path / "m.h5", "1.1", beamline=BEAMLINE)
    check(scan, written)
    assert scan.commanded == scan.found == len(scan.order)
    assert scan.metadata["command"] == options.get("command", "fscan")
    np.testing.assert_array_equal(scan.monitor, 1e6 + np.arange(scan.found))
    np.testing.assert_array_equal(scan.exposure, np.full(scan.found, 0.5))
    if command == "loopscan":
        (time,) = scan.axes
        assert (time.name, time.units) == ("time", "s")
        np.testing.assert_allclose(time.positions, 0.6 * np.arange(9))
        return
    for k, axis in enumerate(scan.axes):
        read = written.motors[0][axis.motor]
        np.testing.assert_array_equal(axis.readback, read)
        index = np.unravel_index(scan.order, scan.shape)[k]
        for i in range(scan.shape[k]):
            assert axis.positions[i] == pytest.approx(read[index == i].mean(), rel=1e-14)
        assert axis.units == "degree"
    if len(scan.axes) == 1:
        np.testing.assert_array_equal(scan.axes[0].positions, read)


def test_read_scan__slow_axis_first_and_named_by_its_motor(tmp_path: Path) -> None:
    write_bliss(tmp_path / "m.h5", **COMMANDS["amesh"])
    scan = read_scan(tmp_path / "m.h5", "1.1", beamline=BEAMLINE)
    assert [(a.name, a.motor) for a in scan.axes] == [("chi", "chi"), ("phi", "mu")]
    assert [a.commanded_start for a in scan.axes] == [0, 3]
    assert [a.commanded_step for a in scan.axes] == pytest.approx([0.1, 0.2])
    assert scan.title == "amesh mu 3 4 5 chi 0 0.3 3 0.5"


@pytest.mark.parametrize(("command", "axis", "partner"), [("a2scan", "chi", "foo"), ("d2scan", "phi", "foo")])
def test_read_scan__motors_moved_together_are_one_axis(tmp_path: Path, command: str, axis: str, partner: str) -> None:
    write_bliss(tmp_path / "m.h5", **COMMANDS[command])
    scan = read_scan(tmp_path / "m.h5", "1.1", beamline=BEAMLINE)
    assert [a.name for a in scan.axes] == [axis]
    assert scan.metadata[f"{axis}_moved_with"] == partner


@pytest.mark.parametrize("where", ["value", "data", "positioners", "measurement"])
def test_read_scan__places_of_the_readback(tmp_path: Path, where: str) -> None:
    written = write_bliss(tmp_path / "m.h5", positioner=where)
    (axis,) = read_scan(tmp_path / "m.h5", "1.1", beamline=BEAMLINE).axes
    np.testing.assert_array_equal(axis.positions, written.motors[0]["mu"])


@pytest.mark.parametrize("where", ["scalar", "ERR", "absent"])
def test_read_scan__without_readback_the_command_at_mid_exposure(tmp_path: Path, where: str) -> None:
    write_bliss(tmp_path / "m.h5", positioner=where)
    scan = read_scan(tmp_path / "m.h5", "1.1", beamline=BEAMLINE)
    # fscan exposes 0.5 s of every 0.58 s.
    np.testing.assert_allclose(scan.axes[0].positions, 0.29 + 0.001 * (np.arange(30) + 0.5 * 0.5 / 0.58), rtol=1e-12)
    assert scan.axes[0].readback is None
    assert scan.metadata["phi_position"] == "commanded"


def test_read_scan__zigzag_without_parameters_is_seen_in_the_readback(tmp_path: Path) -> None:
    for mode in ("REWIND", "ZIGZAG"):
        written = write_bliss(tmp_path / f"{mode}.h5", parameters=False, **(FSCAN2D | dict(mode=mode)))
        scan = read_scan(tmp_path / f"{mode}.h5", "1.1", beamline=BEAMLINE)
        assert scan.metadata["fast_motor_mode"] == mode
        check(scan, written)


def test_read_scan__parameters_stand_in_for_a_missing_title(tmp_path: Path) -> None:
    written = write_bliss(tmp_path / "m.h5", title="")
    check(read_scan(tmp_path / "m.h5", "1.1", beamline=BEAMLINE), written)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "uint32"])
def test_read_scan__dtype_of_the_counts(tmp_path: Path, dtype: str) -> None:
    written = write_bliss(tmp_path / "m.h5", dtype=dtype)
    scan = read_scan(tmp_path / "m.h5", "1.1", beamline=BEAMLINE)
    assert scan.dtype == np.dtype(dtype)
    check(scan, written)


@pytest.mark.parametrize("where", ["value", "data", "positioners"])
def test_read_scan__units_of_the_file_come_first(tmp_path: Path, where: str) -> None:
    write_bliss(tmp_path / "m.h5", positioner=where)
    with h5py.File(tmp_path / "m.h5", "a") as file:
        path = "positioners/mu" if where == "positioners" else f"mu/{where}"
        file[f"1.1/instrument/{path}"].attrs["units"] = "mrad"
    (axis,) = read_scan(tmp_path / "m.h5", "1.1", beamline=BEAMLINE).axes
    assert (axis.units, axis.attrs["converted_from"], axis.attrs["units_source"]) == ("degree", "mrad", "file")


def test_read_scan__user_maps_a_motor(tmp_path: Path) -> None:
    write_bliss(tmp_path / "m.h5", motors=("hexapod_rx",))
    scan = read_scan(tmp_path / "m.h5", "1.1", beamline=load_beamline("id03", {"hexapod_rx": "chi"}))
    assert scan.axes[0].name == "chi"


def test_read_scan__no_layer_motor_no_monitor(tmp_path: Path) -> None:
    write_bliss(tmp_path / "m.h5", monitor=False)
    with h5py.File(tmp_path / "m.h5", "a") as file:
        del file["1.1/instrument/positioners/samz"]
        file["1.1/instrument/positioners/samz"] = "ERR"
    scan = read_scan(tmp_path / "m.h5", "1.1", beamline=BEAMLINE)
    assert scan.z is scan.z_motor is scan.monitor is None


def test_read_scan__detector_by_name_and_by_path(tmp_path: Path) -> None:
    written = write_bliss(tmp_path / "m.h5")
    other = known_counts(30, (4, 5), seed=9)
    with h5py.File(tmp_path / "m.h5", "a") as file:
        file["1.1/instrument/side_camera/data"] = other
    # The one that the beamline lists is taken; the other one by name or path.
    check(read_scan(tmp_path / "m.h5", "1.1", beamline=BEAMLINE), written)
    for name in ("side_camera", "instrument/side_camera/data"):
        scan = read_scan(tmp_path / "m.h5", "1.1", beamline=BEAMLINE, detector=name)
        assert scan.detector == "side_camera"
        np.testing.assert_array_equal(on_grid(scan), other)


@pytest.mark.parametrize(
    ("recorded", "rows", "options"), [(25, (25,), {}), (23, (3, 7), FSCAN2D), (21, (3, 7), FSCAN2D)]
)
def test_read_scan__partial_keeps_complete_rows(
    tmp_path: Path, recorded: int, rows: tuple[int, ...], options: dict[str, Any]
) -> None:
    written = write_bliss(tmp_path / "m.h5", recorded=recorded, link="vds", **options)
    scan = read_scan(tmp_path / "m.h5", "1.1", beamline=BEAMLINE, allow_partial=True)
    assert scan.shape == rows
    assert (scan.found, scan.commanded) == (recorded, int(np.prod(written.shape)))
    count = int(np.prod(rows))
    assert len(scan.order) == len(scan.monitor if scan.monitor is not None else []) == count
    assert sum(p.count for p in scan.pieces) == count
    np.testing.assert_array_equal(on_grid(scan).reshape(count, 12, 10), written.counts[0][:count])


def test_read_scan__partial_zigzag(tmp_path: Path) -> None:
    written = write_bliss(tmp_path / "m.h5", recorded=23, **(FSCAN2D | dict(mode="ZIGZAG")))
    scan = read_scan(tmp_path / "m.h5", "1.1", beamline=BEAMLINE, allow_partial=True)
    np.testing.assert_array_equal(scan.order, written.order[:21])


def test_read_scan__partial_with_last_camera_file_lost(tmp_path: Path) -> None:
    written = write_bliss(tmp_path / "m.h5", link="vds")
    (tmp_path / "scan0001" / "pco_ff_0002.h5").unlink()
    scan = read_scan(tmp_path / "m.h5", "1.1", beamline=BEAMLINE, allow_partial=True)
    assert scan.found == 20
    np.testing.assert_array_equal(on_grid(scan), written.counts[0][:20])


def test_read_scan__partial_is_no_burden_on_a_complete_scan(tmp_path: Path) -> None:
    written = write_bliss(tmp_path / "m.h5")
    check(read_scan(tmp_path / "m.h5", "1.1", beamline=BEAMLINE, allow_partial=True), written)


def test_list_scans__by_number_without_sensor_chains(tmp_path: Path) -> None:
    write_bliss(tmp_path / "m.h5", layers=11, size=(2, 2), shape=(3,))
    found = list_scans(tmp_path / "m.h5")
    assert [entry for entry, _ in found] == [f"{k}.1" for k in range(1, 12)]
    assert found[0][1] == "fscan mu 0.29 0.001 3 0.5 0.58"


def test_read_scan__while_a_writer_has_the_file_open(tmp_path: Path) -> None:
    written = write_bliss(tmp_path / "m.h5")
    code = (
        f"import h5py, sys; f = h5py.File({str(tmp_path / 'm.h5')!r}, 'a'); print('open', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "open\n"
        check(read_scan(tmp_path / "m.h5", "1.1", beamline=BEAMLINE), written)
        writer.communicate("")


def test_read_scan__where_this_process_has_it_open_with_a_lock(tmp_path: Path) -> None:
    written = write_bliss(tmp_path / "m.h5")
    with h5py.File(tmp_path / "m.h5", "r"):
        check(read_scan(tmp_path / "m.h5", "1.1", beamline=BEAMLINE), written)


# The scans that come with darling: real ID03 files.
REAL = [
    ("rocking.h5", "1.1", "measurement/pco_ff", {"phi": "mu/value"}, (150,)),
    ("mosa_scan.h5", "1.1", "instrument/pco_ff/image", {"chi": "chi/value", "phi": "diffrz/data"}, (62, 43)),
    ("mosa_scan.h5", "2.1", "instrument/pco_ff/image", {"chi": "chi/value", "phi": "diffrz/data"}, (62, 43)),
    ("motor_drift.h5", "1.1", "instrument/pco_ff/image", {"chi": "chi/value", "phi": "diffry/data"}, (26, 37)),
    ("2D_domains.h5", "1.1", "instrument/pco_ff/image", {"chi": "chi/value", "phi": "diffry/data"}, (26, 37)),
]


def real_file(name: str) -> Path:
    for file in importlib.metadata.files("darling-pypi") or []:
        if file.name == name:
            return Path(str(file.locate()))
    raise AssertionError(f"darling-pypi has no {name}")


@pytest.mark.parametrize(("name", "entry", "frames_at", "motors_at", "shape"), REAL)
def test_read_scan__real_scans(
    name: str, entry: str, frames_at: str, motors_at: dict[str, str], shape: tuple[int, ...]
) -> None:
    path = real_file(name)
    scan = read_scan(path, entry, beamline=BEAMLINE)
    with h5py.File(path, "r") as file:
        expected = file[entry][frames_at][()]
        np.testing.assert_array_equal(on_grid(scan).reshape(expected.shape), expected)
        assert scan.shape == shape
        for axis in scan.axes:
            read = file[entry][f"instrument/{motors_at[axis.name]}"][()]
            np.testing.assert_array_equal(axis.readback, read)
            if len(shape) == 1:
                np.testing.assert_array_equal(axis.positions, read)
            else:
                k = scan.axes.index(axis)
                np.testing.assert_allclose(axis.positions, read.reshape(shape).mean(axis=1 - k), rtol=1e-12)
    assert scan.axes[-1].units == "degree"
    assert scan.metadata.get("fast_motor_mode", "REWIND") == "REWIND"
