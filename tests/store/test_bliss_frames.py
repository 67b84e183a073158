"""Frames out of HDF5 files: every chunking, region and change of the source."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from dfxm_dask.errors import InputError, SourceError
from dfxm_dask.sources.readers import frames, read_scan
from dfxm_dask.sources.source import load_beamline
from tests.beamline_files import write_bliss

BEAMLINE = load_beamline("id03")


@pytest.mark.parametrize(
    ("compression", "chunks"),
    [(None, None), ("gzip", None), ("gzip", (4, 5, 3)), ("bitshuffle", (7, 12, 10)), ("bitshuffle", (1, 5, 4))],
)
@pytest.mark.parametrize("roi", [None, (2, 9, 1, 8), (11, 12, 9, 10)])
def test_frames__every_chunking_and_region(tmp_path: Path, compression: str | None, chunks: Any, roi: Any) -> None:
    written = write_bliss(tmp_path / "m.h5", compression=compression, chunks=chunks, link="vds")
    scan = read_scan(tmp_path / "m.h5", "1.1", beamline=BEAMLINE)
    y0, y1, x0, x1 = roi or (0, 12, 0, 10)
    seen = []
    for number, frame in frames(scan, roi=roi):
        assert frame.flags.c_contiguous
        np.testing.assert_array_equal(frame, written.counts[0][number, y0:y1, x0:x1])
        seen.append(number)
    assert seen == list(range(30))


@pytest.mark.parametrize("largest", [1000, 64 << 20])
def test_frames__chunks_deeper_than_the_slab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, largest: int) -> None:
    monkeypatch.setattr("dfxm_dask.sources.bliss.frames.LARGEST_SLAB", largest)
    monkeypatch.setattr("dfxm_dask.sources.bliss.frames.SMALLEST_SLAB", 1)
    written = write_bliss(tmp_path / "m.h5", compression="gzip", chunks=(13, 5, 3))
    scan = read_scan(tmp_path / "m.h5", "1.1", beamline=BEAMLINE)
    np.testing.assert_array_equal([frame.copy() for _, frame in frames(scan)], written.counts[0])


def test_frames__one_buffer(tmp_path: Path) -> None:
    write_bliss(tmp_path / "m.h5", size=(600, 900), shape=(6,), link="vds", frames_per_file=2)
    scan = read_scan(tmp_path / "m.h5", "1.1", beamline=BEAMLINE)
    places = {frame.__array_interface__["data"][0] for _, frame in frames(scan)}
    assert len(places) == 1


@pytest.mark.parametrize("roi", [(0, 13, 0, 10), (-1, 5, 0, 10), (5, 5, 0, 10), (0, 12, 8, 3)])
def test_frames__region_outside_is_refused(tmp_path: Path, roi: tuple[int, int, int, int]) -> None:
    write_bliss(tmp_path / "m.h5")
    scan = read_scan(tmp_path / "m.h5", "1.1", beamline=BEAMLINE)
    with pytest.raises(InputError, match="frames are 12 x 10"):
        frames(scan, roi=roi)


def test_frames__source_that_changed_is_refused(tmp_path: Path) -> None:
    write_bliss(tmp_path / "m.h5", link="vds")
    scan = read_scan(tmp_path / "m.h5", "1.1", beamline=BEAMLINE)
    stream = frames(scan)
    next(stream)
    with h5py.File(tmp_path / "scan0001" / "pco_ff_0001.h5", "a") as file:
        file["late"] = np.arange(100)
    with pytest.raises(SourceError, match=r"pco_ff_0001\.h5 .*changed during reading; wait"):
        list(stream)
    (tmp_path / "scan0001" / "pco_ff_0000.h5").unlink()
    with pytest.raises(SourceError, match=r"pco_ff_0000\.h5 .*no longer exists"):
        list(frames(scan))
