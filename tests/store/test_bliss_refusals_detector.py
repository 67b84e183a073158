"""Detectors and chunks that cannot be trusted: refused, in a line that names file, entry and remedy."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from dfxm_dask.errors import SourceError
from dfxm_dask.sources.readers import frames, read_scan
from tests.beamline_files import known_counts, write_bliss
from tests.store.broken_bliss import BEAMLINE, edit, refuse, replace

# Detector.


def test_refuses__no_detector_and_says_what_there_is(tmp_path: Path) -> None:
    path = write_bliss(tmp_path / "m.h5").path
    with edit(path) as file:
        file.move("1.1/measurement/pco_ff", "1.1/elsewhere")
    refuse(
        path,
        r"has no detector: no 3-D .*; if one .* contains the frames.* with --detector: /elsewhere \(30, 12, 10\)",
    )
    assert read_scan(path, "1.1", beamline=BEAMLINE, detector="/elsewhere").found == 30


def test_refuses__several_detectors_until_one_is_named(tmp_path: Path) -> None:
    path = write_bliss(tmp_path / "m.h5").path
    with edit(path) as file:
        file["1.1/instrument/basler_ff/data"] = known_counts(30, (4, 4))
    refuse(path, r"several detectors: pco_ff \(30, 12, 10\) uint16, basler_ff \(30, 4, 4\) uint16; choose one with")
    named = r"; choose one of its cameras with --detector: pco_ff \(30, 12, 10\) uint16, basler"
    refuse(path, r"no detector 'pco_fff' \(did you mean 'pco_ff'\?\)" + named, detector="pco_fff")
    refuse(
        path, "no detector 'instrument/pco_ff/data', which is not a dataset" + named, detector="instrument/pco_ff/data"
    )
    refuse(path, "'instrument/mu/value', which has shape .30,." + named, detector="instrument/mu/value")


def test_refuses__no_detector_and_names_what_may_have_been_meant(tmp_path: Path) -> None:
    path = write_bliss(tmp_path / "m.h5", layers=3).path
    with edit(path) as file:
        for name in ("1.1", "2.1"):
            del file[name]["measurement/pco_ff"]
        file["1.1/instrument/pco_ff/image"] = np.zeros((12, 10), "u2")
        file["1.1/measurement/basler_ff"] = h5py.SoftLink("/1.1/instrument/basler_ff/image")
    there = r"but instrument/pco_ff/image \(12, 10\), measurement/basler_ff, a link to /1\.1/.*, which does not exist"
    refuse(path, there + r"; choose an entry with a camera by --scan: 3\.1$")
    refuse(path, r"no detector 'pco_ff': no 3-D dataset .*; choose .*: 3\.1$", "2.1", detector="pco_ff")
    with edit(path) as file:
        del file["3.1/measurement/pco_ff"]
    refuse(path, "give the master file of a scan with a camera: no entry of this file has one", "2.1")


def test_refuses__copies_of_the_detector_that_differ(tmp_path: Path) -> None:
    path = write_bliss(tmp_path / "m.h5", link="copies").path
    with edit(path) as file:
        replace(file, "1.1/instrument/pco_ff/image", known_counts(20))
    refuse(path, r"copies of pco_ff differ: measurement/pco_ff \(30, 12, 10\)")


@pytest.mark.parametrize("dtype", ["float32", "float64", "int64", "uint64"])
def test_refuses__counts_that_are_no_counts(tmp_path: Path, dtype: str) -> None:
    path = write_bliss(tmp_path / "m.h5").path
    with edit(path) as file:
        replace(file, "1.1/measurement/pco_ff", known_counts(30).astype(dtype))
    refuse(path, rf"pco_ff contains {dtype}, not counts; provide raw detector counts of uint8, uint16, uint32")


@pytest.mark.parametrize("size", [(0, 10), (12, 0)])
def test_refuses__frames_of_no_pixels(tmp_path: Path, size: tuple[int, int]) -> None:
    path = write_bliss(tmp_path / "m.h5").path
    with edit(path) as file:
        replace(file, "1.1/measurement/pco_ff", np.zeros((30, *size), np.uint16))
    refuse(path, f"has frames of {size[0]} x {size[1]} pixels")


# Chunks: what HDF5 itself would read as zeros, or not at all.


def test_refuses__frames_that_were_never_written(tmp_path: Path) -> None:
    path = write_bliss(tmp_path / "m.h5").path
    with edit(path) as file:
        del file["1.1/measurement/pco_ff"]
        dataset = file.create_dataset("1.1/measurement/pco_ff", (30, 12, 10), "u2", chunks=(4, 6, 10))
        dataset[:20] = known_counts(20)
        assert not dataset[20:].any()  # as HDF5 has it
    refuse(path, r"pco_ff has 20 of 30 frames written; .*--allow-partial")
    assert read_scan(path, "1.1", beamline=BEAMLINE, allow_partial=True).shape == (20,)
    with edit(path) as file:
        file["1.1/measurement/pco_ff"][24:] = 1
    refuse(path, "pco_ff lacks frame 20, but has later ones", allow_partial=True)


def test_refuses__contiguous_frames_that_were_never_written(tmp_path: Path) -> None:
    path = write_bliss(tmp_path / "m.h5").path
    with edit(path) as file:
        del file["1.1/measurement/pco_ff"]
        file.create_dataset("1.1/measurement/pco_ff", (30, 12, 10), "u2")
    refuse(path, "pco_ff has 0 of 30 frames written")


def test_refuses__filter_that_is_not_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_bliss(tmp_path / "m.h5").path
    monkeypatch.setattr("dfxm_dask.sources.bliss.pieces.h5py.h5z.filter_avail", lambda code: False)
    refuse(path, r"compressed with filter 32008 .* not available; install the filter")


@pytest.mark.parametrize("compression", ["bitshuffle", "gzip"])
def test_refuses__corrupt_chunk_with_the_number_of_its_frame(tmp_path: Path, compression: str) -> None:
    path = write_bliss(tmp_path / "m.h5", link="vds", compression=compression, size=(60, 50)).path
    camera = tmp_path / "scan0001" / "pco_ff_0001.h5"
    with h5py.File(camera, "r") as file:
        where = file["entry_0000/measurement/data"].id.get_chunk_info(3)
    data = bytearray(camera.read_bytes())
    # Behind the header of the chunk: the first LZ4 block (its length word included), or the deflate stream.
    for k in range(where.byte_offset + 8, where.byte_offset + 80):
        data[k] ^= 0xFF
    camera.write_bytes(data)
    scan = read_scan(path, "1.1", beamline=BEAMLINE)
    with pytest.raises(SourceError, match=r"frame 3 of .*pco_ff_0001\.h5::/entry_0000/measurement/data cannot be read"):
        list(frames(scan))


def test_refuses__truncated_camera_file(tmp_path: Path) -> None:
    path = write_bliss(tmp_path / "m.h5", link="vds").path
    camera = tmp_path / "scan0001" / "pco_ff_0001.h5"
    camera.write_bytes(camera.read_bytes()[:-400])
    refuse(path, r"pco_ff_0001\.h5 is truncated")


def test_refuses__permission_denied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_bliss(tmp_path / "m.h5").path

    def denied(*args: Any, **kwargs: Any) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("dfxm_dask.sources.hdf5_links.h5py.File", denied)
    refuse(path, r"m\.h5 cannot be opened \(.*Permission denied")


def test_refuses__a_folder_of_hdf5_files(tmp_path: Path) -> None:
    write_bliss(tmp_path / "m.h5")
    with pytest.raises(SourceError, match=r"folder without \.edf files; give a master file: .*m\.h5"):
        read_scan(tmp_path, "1.1", beamline=BEAMLINE)


def test_read_scan__moved_with_its_camera_files(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    write_bliss(tmp_path / "a" / "m.h5", link="vds")
    shutil.move(tmp_path / "a", tmp_path / "b")
    assert read_scan(tmp_path / "b" / "m.h5", "1.1", beamline=BEAMLINE).found == 30


# What is left once everything above holds.


def test_refuses__positions_that_meet_half_way(tmp_path: Path) -> None:
    read = np.arange(11.0)
    read[3:5] = 3.5
    options: dict[str, Any] = dict(command="ascan", motors=("chi",), shape=(11,), starts=(0,), steps=(1,))
    path = write_bliss(tmp_path / "m.h5", **options, readbacks={"chi": read}).path
    refuse(path, "motor chi repeats a position or reverses at grid index 4")


def test_refuses__motor_whose_chunk_is_corrupt(tmp_path: Path) -> None:
    path = write_bliss(tmp_path / "m.h5", positioner="absent").path
    with edit(path) as file:
        values = 0.2904 + 0.001 * np.arange(30)
        file.create_dataset("1.1/instrument/mu/value", data=values, chunks=(30,), compression="gzip")
        where = file["1.1/instrument/mu/value"].id.get_chunk_info(0)
    data = bytearray(path.read_bytes())
    for k in range(where.byte_offset, where.byte_offset + 20):
        data[k] ^= 0xFF
    path.write_bytes(data)
    refuse(path, r"/1\.1/instrument/mu/value of .*m\.h5 cannot be read")


def test_refuses__object_whose_header_is_corrupt(tmp_path: Path) -> None:
    path = write_bliss(tmp_path / "m.h5").path
    with h5py.File(path, "r") as file:
        address = h5py.h5o.get_info(file["1.1/measurement/pco_ff"].id).addr
    data = bytearray(path.read_bytes())
    data[address : address + 16] = bytes(range(0xF0, 0x100))
    path.write_bytes(data)
    refuse(path, r"/1\.1/measurement/pco_ff of .*m\.h5 cannot be read")


def test_refuses__link_of_unknown_kind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_bliss(tmp_path / "m.h5").path

    def unknown(*args: Any, **kwargs: Any) -> None:
        raise TypeError("Unknown link type")

    monkeypatch.setattr("dfxm_dask.sources.hdf5_links.h5py.h5l.TYPE_HARD", None)  # no link is a hard one
    monkeypatch.setattr("dfxm_dask.sources.hdf5_links.h5py.Group.get", unknown)
    refuse(path, r"//?1\.1 is a link of unknown kind")


def test_frames__dataset_that_is_not_there_any_more(tmp_path: Path) -> None:
    scan = read_scan(write_bliss(tmp_path / "m.h5").path, "1.1", beamline=BEAMLINE)
    lost = dataclasses.replace(scan, pieces=(dataclasses.replace(scan.pieces[0], dataset="/1.1/gone"),))
    with pytest.raises(SourceError, match=r"m\.h5::/1\.1/gone cannot be opened"):
        list(frames(lost))
