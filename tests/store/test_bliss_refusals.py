"""Broken BLISS files: each is refused before a pixel is read, in a line that names file, entry and remedy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from dfxm_dask.sources.readers import list_scans, read_scan
from tests.beamline_files import write_bliss
from tests.store.broken_bliss import BEAMLINE, edit, refuse, replace

FSCAN2D: dict[str, Any] = dict(
    command="fscan2d", motors=("chi", "diffry"), shape=(5, 7), starts=(-0.5, 7), steps=(0.08, 0.06)
)
ASCAN: dict[str, Any] = dict(command="ascan", motors=("chi",), shape=(11,), starts=(0.5,), steps=(0.1,))


# The file itself.


def test_refuses__no_such_file(tmp_path: Path) -> None:
    refuse(tmp_path / "none.h5", r"none\.h5 cannot be opened \(No such file")


def test_refuses__a_file_that_is_not_hdf5(tmp_path: Path) -> None:
    (tmp_path / "m.h5").write_text("fscan mu 0 1 2")
    refuse(tmp_path / "m.h5", r"is not an HDF5 file; give the master file")


def test_refuses__truncated_master(tmp_path: Path) -> None:
    path = write_bliss(tmp_path / "m.h5", compression=None).path
    path.write_bytes(path.read_bytes()[:-3000])
    refuse(path, r"m\.h5 is truncated .*copy the file again")


def test_refuses__no_such_entry_and_lists_what_there_is(tmp_path: Path) -> None:
    path = write_bliss(tmp_path / "m.h5", layers=2).path
    refuse(path, r"entry 7\.1: does not exist; choose from the entries 1\.1, 2\.1", "7.1")


def test_refuses__the_chain_of_slow_sensors(tmp_path: Path) -> None:
    path = write_bliss(tmp_path / "m.h5").path
    refuse(path, r"entry 1\.2: is not a scan with frames \(N\.2 contains slow sensors\)", "1.2")


def test_refuses__a_file_that_is_no_master(tmp_path: Path) -> None:
    write_bliss(tmp_path / "m.h5", link="vds")
    refuse(tmp_path / "scan0001" / "pco_ff_0000.h5", "contains no scan .*but entry_0000; give the master file")


# The command.


def test_refuses__neither_title_nor_parameters(tmp_path: Path) -> None:
    path = write_bliss(tmp_path / "m.h5", title="", parameters=False).path
    refuse(path, "neither a title nor fscan_parameters; add the scan command")
    assert list_scans(path) == [("1.1", "(no title)")]


def test_refuses__unknown_command_and_lists_the_known(tmp_path: Path) -> None:
    path = write_bliss(tmp_path / "m.h5", title="fscan3d mu 0 1 2", parameters=False).path
    refuse(path, "unknown scan command 'fscan3d mu 0 1 2'; use one of fscan, fscan2d")


def test_refuses__title_and_parameters_that_disagree(tmp_path: Path) -> None:
    path = write_bliss(tmp_path / "m.h5", title="fscan mu 0.29 0.001 29 0.5 0.58").path
    refuse(path, r"title gives mu \(29\), but fscan_parameters mu \(30\)")


def test_refuses__title_and_parameters_that_start_elsewhere(tmp_path: Path) -> None:
    path = write_bliss(tmp_path / "m.h5", title="fscan mu 0.39 0.001 30 0.5 0.58").path
    refuse(path, r"title starts mu at 0\.39 by 0\.001, but fscan_parameters at 0\.29 by 0\.001")


def test_refuses__unknown_motor_and_shows_the_map(tmp_path: Path) -> None:
    path = write_bliss(tmp_path / "m.h5", motors=("hexapod_rx",)).path
    refuse(path, r"motor hexapod_rx is not mapped to an axis \(known are phi: mu, diffry.*--motor hexapod_rx=phi")


def test_refuses__two_motors_of_one_axis(tmp_path: Path) -> None:
    path = write_bliss(tmp_path / "m.h5", **(FSCAN2D | dict(motors=("diffrz", "diffry")))).path
    refuse(path, "motors diffrz and diffry are both mapped to phi; map one of them")


def test_refuses__scan_of_the_layer_motor(tmp_path: Path) -> None:
    path = write_bliss(tmp_path / "m.h5", **(ASCAN | dict(motors=("samz",)))).path
    refuse(path, r"scans samz, which moves the layer \(z\)")


def test_refuses__unknown_fast_motor_mode(tmp_path: Path) -> None:
    path = write_bliss(tmp_path / "m.h5", mode="SPIRAL", **FSCAN2D).path
    refuse(path, "fast_motor_mode is 'SPIRAL'; use REWIND or ZIGZAG")


def test_refuses__motor_path_in_a_title(tmp_path: Path) -> None:
    path = write_bliss(tmp_path / "m.h5", title="ascan ../../x 0 1 29 0.5", parameters=False).path
    refuse(path, "is not a name")


# Frames against command.


@pytest.mark.parametrize("link", ["dataset", "vds"])
def test_refuses__fewer_frames_than_commanded(tmp_path: Path, link: str) -> None:
    path = write_bliss(tmp_path / "m.h5", recorded=25, link=link).path
    refuse(path, r"m\.h5 entry 1\.1: has 25 of 30 frames; .*--allow-partial")


def test_refuses__more_frames_than_commanded(tmp_path: Path) -> None:
    path = write_bliss(tmp_path / "m.h5", title="fscan mu 0.29 0.001 28 0.5 0.58", parameters=False).path
    refuse(path, "motor mu has 30|has 30 frames, but the command requests 28")
    refuse(path, "has 30 frames, but the command requests 28", allow_partial=True)


def test_refuses__intervals_are_not_frames(tmp_path: Path) -> None:
    # "ascan ... 11" means 12 frames: 11 are one too few, not "about right".
    path = write_bliss(tmp_path / "m.h5", title="ascan chi 0.5 1.5 11 0.5", **ASCAN).path
    refuse(path, "11 of 12 frames")


def test_refuses__partial_scan_without_one_complete_row(tmp_path: Path) -> None:
    path = write_bliss(tmp_path / "m.h5", recorded=6, **FSCAN2D).path
    refuse(path, "6 of 35 frames, not one row of 7", allow_partial=True)


def test_refuses__no_frames_at_all(tmp_path: Path) -> None:
    path = write_bliss(tmp_path / "m.h5", link="instrument").path
    with edit(path) as file:
        replace(file, "1.1/instrument/pco_ff/data", np.zeros((0, 12, 10), np.uint16))
        replace(file, "1.1/instrument/mu/value", np.zeros(0))
    refuse(path, "0 of 30 frames", allow_partial=True)


# Motors.


@pytest.mark.parametrize("length", [23, 29, 31])
@pytest.mark.parametrize("partial", [False, True])
def test_refuses__motor_length_is_not_the_number_of_frames(tmp_path: Path, length: int, partial: bool) -> None:
    path = write_bliss(tmp_path / "m.h5").path
    with edit(path) as file:
        replace(file, "1.1/instrument/mu/value", 0.29 + 0.001 * np.arange(length))
    refuse(path, rf"motor mu has {length} positions for 30 frames \(instrument/mu/value\)", allow_partial=partial)


@pytest.mark.parametrize(("bad", "match"), [(np.nan, "nan"), (np.inf, "inf")])
def test_refuses__motor_that_is_not_finite(tmp_path: Path, bad: float, match: str) -> None:
    read = 0.2904 + 0.001 * np.arange(30)
    read[7] = bad
    path = write_bliss(tmp_path / "m.h5", readbacks={"mu": read}).path
    refuse(path, rf"motor mu is {match} at frame 7 \(1 of 30 frames\)")


def test_refuses__motor_of_nothing_but_nan(tmp_path: Path) -> None:
    path = write_bliss(tmp_path / "m.h5", readbacks={"mu": np.full(30, np.nan)}).path
    refuse(path, r"motor mu is nan at frame 0 \(30 of 30 frames\)")


def test_refuses__motor_that_stood_still(tmp_path: Path) -> None:
    path = write_bliss(tmp_path / "m.h5", readbacks={"mu": np.full(30, 0.3)}).path
    refuse(path, r"motor mu did not move from 0\.3")


@pytest.mark.parametrize("command", [{}, ASCAN])
def test_refuses__repeated_position(tmp_path: Path, command: dict[str, Any]) -> None:
    written = write_bliss(tmp_path / "m.h5", jitter=0.0, **command)
    (motor, read), *_ = written.motors[0].items()
    read = read.copy()
    read[6] = read[5]
    path = write_bliss(tmp_path / "m.h5", **(command | dict(readbacks={motor: read}))).path
    refuse(path, rf"motor {motor} is .* at frame 6, 1\.00 steps from the command \(1 of")


def test_refuses__position_beyond_half_a_step(tmp_path: Path) -> None:
    read = 0.5 + 0.1 * np.arange(11)
    read[4] += 0.06
    path = write_bliss(tmp_path / "m.h5", **(ASCAN | dict(readbacks={"chi": read}))).path
    refuse(path, r"motor chi is 0\.96 at frame 4, 0\.60 steps from the command")


def test_refuses__whole_scan_elsewhere_than_commanded(tmp_path: Path) -> None:
    path = write_bliss(tmp_path / "m.h5", **(ASCAN | dict(readbacks={"chi": 0.6 + 0.1 * np.arange(11)}))).path
    refuse(path, r"\(11 of 11 frames are more than half a step off\)")
    path = write_bliss(tmp_path / "n.h5", readbacks={"mu": 0.2925 + 0.001 * np.arange(30)}).path
    refuse(path, r"\(30 of 30 frames are more than half a step off\)")


def test_refuses__zigzag_in_the_file_that_says_rewind(tmp_path: Path) -> None:
    path = write_bliss(tmp_path / "m.h5", mode="ZIGZAG", **FSCAN2D).path
    with edit(path) as file:
        replace(file, "1.1/instrument/fscan_parameters/fast_motor_mode", "REWIND")
    refuse(path, "motor diffry is .*check the motor, the command, and fast_motor_mode")


def test_refuses__partner_of_a_motor_that_went_astray(tmp_path: Path) -> None:
    options: dict[str, Any] = dict(
        command="a2scan", motors=("chi", "foo"), shape=(11,), starts=(0, 3), steps=(0.1, 0.2)
    )
    path = write_bliss(tmp_path / "m.h5", **options, readbacks={"foo": 3 - 0.2 * np.arange(11)}).path
    refuse(path, "motor foo is .* steps from the command")


def test_refuses__command_without_a_step(tmp_path: Path) -> None:
    path = write_bliss(tmp_path / "m.h5", title="ascan chi 0.5 0.5 10 0.5", **ASCAN).path
    refuse(path, "command moves chi by steps of 0")


def test_refuses__relative_scan_of_a_motor_that_was_not_recorded(tmp_path: Path) -> None:
    path = write_bliss(tmp_path / "m.h5", **(ASCAN | dict(command="dscan", positioner="absent"))).path
    refuse(path, "is a relative scan of chi without a recorded position")
    with edit(path) as file:
        file["1.1/instrument/positioners_start/chi"] = 2.0
    (axis,) = read_scan(path, "1.1", beamline=BEAMLINE).axes
    np.testing.assert_allclose(axis.positions, 2.5 + 0.1 * np.arange(11))


def test_refuses__times_that_do_not_grow(tmp_path: Path) -> None:
    path = write_bliss(tmp_path / "m.h5", command="loopscan", motors=(), shape=(9,), starts=(), steps=()).path
    with edit(path) as file:
        file["1.1/measurement/elapsed_time"][5] = 0.0
    refuse(path, "elapsed_time does not increase at frame 5")
    with edit(path) as file:
        del file["1.1/measurement/elapsed_time"]
        replace(file, "1.1/title", "loopscan 9")
    refuse(path, "is a loopscan without times or exposure")


def test_refuses__virtual_motor(tmp_path: Path) -> None:
    path = write_bliss(tmp_path / "m.h5", positioner="absent").path
    with edit(path) as file:
        layout = h5py.VirtualLayout((30,), "f8")
        layout[:] = h5py.VirtualSource("lost.h5", "mu", (30,))
        file.create_virtual_dataset("1.1/instrument/mu/value", layout)
    refuse(path, "/1.1/instrument/mu/value of .* is a virtual dataset")


def test_refuses__a_motor_too_large_to_be_one(tmp_path: Path) -> None:
    path = write_bliss(tmp_path / "m.h5", positioner="absent").path
    with edit(path) as file:
        file.create_dataset("1.1/instrument/mu/value", (10**9,), "f8", chunks=(1000,))
    refuse(path, "has 1000000000 values")
