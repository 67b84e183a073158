"""Ingest of time series: commands of the beamline without motors, and frames without any record."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import tifffile

import dfxm_dask
from dfxm_dask.errors import InputError, SourceError
from dfxm_dask.phantoms.beamline_files import write_lima, write_master
from dfxm_dask.phantoms.entry import EPOCH, Entry

TIMES = np.array([0.0, 0.26, 0.5, 0.9, 1.01])
COUNTS = np.random.default_rng(0).integers(0, 4000, (5, 8, 9)).astype(np.uint16)


def written(folder: Path, command: str, frames: int = 5, **options: Any) -> Path:
    files = write_lima(folder / "scan0001", iter(COUNTS[:frames]), count=frames)
    entry = Entry(
        number=1,
        axes=(("time", 0.0, 0.25, frames),),
        positions={"time": TIMES[:frames]},
        z=None,
        exposure=0.2,
        monitor=None,
        files=files,
        shape=(8, 9),
        dtype="uint16",
        command=command,
    )
    return write_master(folder / "m.h5", [entry], **options)


@pytest.mark.parametrize("command", ["loopscan", "timescan", "ftimescan", "sct"])
def test_ingest__time_series_of_bliss_keep_the_recorded_times(tmp_path: Path, command: str) -> None:
    frames = 1 if command == "sct" else 5
    path = written(tmp_path, command, frames)
    with h5py.File(path) as file:
        title = file["1.1/title"].asstr()[()]
    wanted = {"loopscan": "5 0.2", "timescan": "0.2", "ftimescan": "0.2 5 0.25", "sct": "0.2"}
    assert title == f"{command} {wanted[command]}"
    dfxm_dask.ingest(path, tmp_path / "s.zarr", pixel_size=(0.04, 0.12))
    raw = dfxm_dask.open_scan(tmp_path / "s.zarr", chunks=None)["raw"]
    assert raw.counts.dims == ("z", "time", "y", "x")
    np.testing.assert_allclose(raw.time, TIMES[:frames], atol=5e-7)
    np.testing.assert_array_equal(raw.counts[0], COUNTS[:frames])
    assert raw.time.attrs["clock"] == ("epoch_trig" if command == "ftimescan" else "elapsed_time")
    assert raw.time.attrs["time_origin"] == (EPOCH if command == "ftimescan" else 0)
    assert (raw.exposure == 0.2).all()


def test_ingest__time_series_with_faults(tmp_path: Path) -> None:
    path = written(tmp_path, "ftimescan")
    with h5py.File(path, "a") as file:
        file["1.1/measurement/epoch_trig"][3] = EPOCH + 0.5
    with pytest.raises(SourceError, match="epoch_trig does not increase at frame 3; restore the times"):
        dfxm_dask.ingest(path, tmp_path / "s.zarr")
    with h5py.File(path, "a") as file:
        del file["1.1/measurement/epoch_trig"]
    dfxm_dask.ingest(path, tmp_path / "s.zarr")
    times = dfxm_dask.open_scan(tmp_path / "s.zarr")["raw"].time
    np.testing.assert_allclose(times, 0.25 * np.arange(5))
    assert "times period; no time was recorded" in times.attrs["position"]
    with h5py.File(path, "a") as file:
        file["1.1/instrument/fscan_parameters/npoints"][()] = 9
        del file["1.1/title"]
    with pytest.raises(SourceError, match=r"has 5 of 9 frames; the scan was aborted: .* --allow-partial"):
        dfxm_dask.ingest(path, tmp_path / "t.zarr")
    dfxm_dask.ingest(path, tmp_path / "t.zarr", allow_partial=True)
    assert dfxm_dask.open_scan(tmp_path / "t.zarr")["raw"].sizes["time"] == 5


def test_ingest__frames_without_motors_at_equal_steps(tmp_path: Path) -> None:
    folder = tmp_path / "tiff"
    folder.mkdir()
    for k in (0, 1, 2, 4):
        tifffile.imwrite(folder / f"film_{k + 97}.tif", COUNTS[k])
    with pytest.raises(SourceError, match=r"1 frame is missing, the first after film_99.tif; restore the files"):
        dfxm_dask.ingest(folder, tmp_path / "s.zarr", time_step=0.25)
    dfxm_dask.ingest(folder, tmp_path / "s.zarr", time_step=0.25, allow_partial=True)
    raw = dfxm_dask.open_scan(tmp_path / "s.zarr", chunks=None)["raw"]
    assert raw.time.values.tolist() == [0, 0.25, 0.5, 1.0]
    np.testing.assert_array_equal(raw.counts[0], COUNTS[[0, 1, 2, 4]])

    lima = write_lima(tmp_path / "lima", iter(COUNTS), count=5)[0][0]
    dfxm_dask.ingest(tmp_path / lima, tmp_path / "h.zarr", time_step=0.1)
    raw = dfxm_dask.open_scan(tmp_path / "h.zarr", chunks=None)["raw"]
    np.testing.assert_array_equal(raw.counts[0], COUNTS)
    np.testing.assert_allclose(raw.time, 0.1 * np.arange(5))

    for k in (0, 1, 3):  # pages of a lost file: the later frames keep their times
        tifffile.imwrite(tmp_path / f"stack_{k}_b1.tif", COUNTS[k : k + 2])
    with pytest.raises(SourceError, match=r"2 frames are missing, the first after stack_1_b1.tif"):
        dfxm_dask.ingest(tmp_path / "stack*.tif", tmp_path / "k.zarr", time_step=0.25)
    dfxm_dask.ingest(tmp_path / "stack*.tif", tmp_path / "k.zarr", time_step=0.25, allow_partial=True)
    assert dfxm_dask.open_scan(tmp_path / "k.zarr")["raw"].time.values.tolist() == [0, 0.25, 0.5, 0.75, 1.5, 1.75]

    for step in (0.0, -1.0, np.inf):
        with pytest.raises(InputError, match="give the time between two frames in s"):
            dfxm_dask.ingest(folder, tmp_path / "x.zarr", time_step=step)
    with pytest.raises(InputError, match=r"time_step=0\.1: has no effect for the format of this source"):
        dfxm_dask.ingest(written(tmp_path, "loopscan"), tmp_path / "x.zarr", time_step=0.1, format="bliss")
    with pytest.raises(SourceError, match=r"records the scan command 'loopscan 5 0.2'; omit --time-step"):
        dfxm_dask.ingest(tmp_path / "m.h5", tmp_path / "x.zarr", time_step=0.1)
    (folder / "t.csv").write_text("mu\n1\n2\n3\n4")
    with pytest.raises(SourceError, match=r"contains the table t.csv; omit --time-step"):
        dfxm_dask.ingest(folder, tmp_path / "x.zarr", time_step=0.1)


def test_ingest__frames_with_a_table_of_times(tmp_path: Path) -> None:
    for k in range(5):
        tifffile.imwrite(tmp_path / f"film_{k}.tif", COUNTS[k])
    table = tmp_path / "times.csv"
    rows = [f"film_{k}.tif,{1e9 + 1e3 * t}" for k, t in enumerate(TIMES)]
    table.write_text("file,time (ms)\n" + "\n".join(rows))
    dfxm_dask.ingest(tmp_path, tmp_path / "s.zarr")
    raw = dfxm_dask.open_scan(tmp_path / "s.zarr", chunks=None)["raw"]
    assert raw.counts.dims == ("z", "time", "y", "x")
    np.testing.assert_allclose(raw.time, TIMES, atol=1e-6)
    assert raw.time.attrs["units"] == "s"
    np.testing.assert_array_equal(raw.counts[0], COUNTS)
    for wrong, line in ((rows[::-1], 3), ([rows[0], *rows[:4]], 3)):
        names = [f"film_{k}.tif,{row.split(',')[1]}" for k, row in enumerate(wrong)]
        table.write_text("file,time (ms)\n" + "\n".join(names))
        with pytest.raises(SourceError, match=f"column time does not increase in line {line}; correct the times"):
            dfxm_dask.ingest(tmp_path, tmp_path / "t.zarr")
