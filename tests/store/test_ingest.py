"""Ingest: what goes in comes out, bit for bit; what cannot be vouched for is refused; what was stopped goes on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

import dfxm_dask
from dfxm_dask.errors import DfxmError, IncompleteError, InputError, SourceError, StoreError
from dfxm_dask.frames.statistics import dark_noise, patch_statistics
from dfxm_dask.store import create as create_module
from dfxm_dask.store import layers, shards
from dfxm_dask.store.integrity import ledger
from tests.beamline_files import write_bliss


def files_of(store: Path) -> dict[str, bytes]:
    """Contents of every file of a store but the ledgers, which hold times and hosts."""
    return {
        str(p.relative_to(store)): p.read_bytes()
        for p in sorted(store.rglob("*"))
        if p.is_file() and ".ledger" not in p.parts
    }


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "uint32"])
def test_ingest__counts_are_bit_equal(tmp_path: Path, dtype: str) -> None:
    written = write_bliss(tmp_path / "s.h5", shape=(7,), size=(70, 300), dtype=dtype)
    report = dfxm_dask.ingest(tmp_path / "s.h5", tmp_path / "s.zarr")
    counts = dfxm_dask.open_scan(tmp_path / "s.zarr")["raw"].counts
    assert counts.dtype == ("uint32" if dtype == "uint32" else "uint16")
    np.testing.assert_array_equal(counts.values[0], written.grid())
    assert (report.layers, report.absent) == (1, ())


@pytest.mark.parametrize("mode", ["REWIND", "ZIGZAG"])
def test_ingest__frames_go_onto_the_commanded_grid(tmp_path: Path, mode: str) -> None:
    written = write_bliss(
        tmp_path / "s.h5",
        command="fscan2d",
        motors=("chi", "diffry"),
        shape=(4, 6),
        starts=(-0.5, 7),
        steps=(0.08, 0.06),
        mode=mode,
        jitter=0.3,
    )
    dfxm_dask.ingest(tmp_path / "s.h5", tmp_path / "s.zarr")
    raw = dfxm_dask.open_scan(tmp_path / "s.zarr")["raw"]
    assert raw.counts.dims == ("z", "chi", "phi", "y", "x")
    np.testing.assert_array_equal(raw.counts.values[0], written.grid())
    readback = np.empty(24)
    readback[written.order] = written.motors[0]["diffry"]
    np.testing.assert_array_equal(raw.readback_phi.values[0].ravel(), readback)
    np.testing.assert_allclose(raw.phi.values, readback.reshape(4, 6).mean(0), atol=1e-12)


def test_ingest__layers_are_ordered_by_z_and_not_by_name(tmp_path: Path) -> None:
    written = write_bliss(tmp_path / "s.h5", layers=3, z_step=-0.002, shape=(4,))
    dfxm_dask.ingest(tmp_path / "s.h5", tmp_path / "s.zarr", scan="1.1,2.1,3.1")
    raw = dfxm_dask.open_scan(tmp_path / "s.zarr")["raw"]
    assert (np.diff(raw.z) > 0).all()
    np.testing.assert_allclose(np.diff(raw.z), 2.0, rtol=1e-9)
    for k in range(3):
        np.testing.assert_array_equal(raw.counts.values[k], written.grid(2 - k))


def test_ingest__a_glob_of_files(tmp_path: Path) -> None:
    first = write_bliss(tmp_path / "b.h5", shape=(4,), seed=1)
    (tmp_path / "other").mkdir()
    second = write_bliss(tmp_path / "other" / "a.h5", shape=(4,), seed=2)
    with h5py.File(tmp_path / "other" / "a.h5", "a") as file:
        place = file["1.1/instrument/positioners/samz"]
        place[...] = place[()] + 1
    dfxm_dask.ingest([tmp_path / "*.h5", tmp_path / "other" / "*.h5"], tmp_path / "s.zarr")
    raw = dfxm_dask.open_scan(tmp_path / "s.zarr")["raw"]
    np.testing.assert_array_equal(raw.counts.values, np.stack([first.grid(), second.grid()]))


def test_ingest__z_given_by_the_user(tmp_path: Path) -> None:
    written = write_bliss(tmp_path / "s.h5", layers=2, shape=(4,), z_step=0)
    with pytest.raises(SourceError, match="is at samz"):
        dfxm_dask.ingest(tmp_path / "s.h5", tmp_path / "s.zarr", scan="all")
    dfxm_dask.ingest(tmp_path / "s.h5", tmp_path / "s.zarr", scan="all", z=[5.0, 2.0])
    raw = dfxm_dask.open_scan(tmp_path / "s.zarr")["raw"]
    assert raw.z.values.tolist() == [2.0, 5.0]
    np.testing.assert_array_equal(raw.counts.values[0], written.grid(1))
    with pytest.raises(InputError, match="one finite z"):
        dfxm_dask.ingest(tmp_path / "s.h5", tmp_path / "t.zarr", scan="all", z=[5.0])


def test_ingest__region(tmp_path: Path) -> None:
    written = write_bliss(tmp_path / "s.h5", shape=(4,), size=(40, 50))
    dfxm_dask.ingest(tmp_path / "s.h5", tmp_path / "s.zarr", roi=(3, 30, 10, 50), pixel_size=(0.5, 2.0))
    raw = dfxm_dask.open_scan(tmp_path / "s.zarr")["raw"]
    np.testing.assert_array_equal(raw.counts.values[0], written.grid()[:, 3:30, 10:50])
    assert (raw.y.values[0], raw.x.values[0], raw.x.values[-1]) == (1.5, 20.0, 98.0)


@pytest.mark.parametrize("roi", [(0, 41, 0, 5), (5, 5, 0, 5), (-1, 5, 0, 5), (8, 3, 0, 5)])
def test_ingest__region_outside_the_frame_is_refused(tmp_path: Path, roi: tuple[int, int, int, int]) -> None:
    write_bliss(tmp_path / "s.h5", shape=(4,), size=(40, 50))
    with pytest.raises(InputError, match="exceeds the frame of 40 x 50"):
        dfxm_dask.ingest(tmp_path / "s.h5", tmp_path / "s.zarr", roi=roi)
    assert not (tmp_path / "s.zarr").exists()


@pytest.mark.parametrize("size", [(0.0, 1.0), (-1.0, 1.0), (float("nan"), 1.0)])
def test_ingest__senseless_pixel_size_is_refused(tmp_path: Path, size: tuple[float, float]) -> None:
    write_bliss(tmp_path / "s.h5", shape=(4,))
    with pytest.raises(InputError, match="two lengths in um"):
        dfxm_dask.ingest(tmp_path / "s.h5", tmp_path / "s.zarr", pixel_size=size)


def test_ingest__without_pixel_size_positions_are_pixels(tmp_path: Path) -> None:
    write_bliss(tmp_path / "s.h5", shape=(4,))
    dfxm_dask.ingest(tmp_path / "s.h5", tmp_path / "s.zarr")
    assert dfxm_dask.open_scan(tmp_path / "s.zarr")["raw"].x.attrs["units"] == "pixel"


def test_ingest__patch_statistics_against_numpy(tmp_path: Path) -> None:
    written = write_bliss(tmp_path / "s.h5", shape=(3,), size=(70, 150))
    dfxm_dask.ingest(tmp_path / "s.h5", tmp_path / "s.zarr")
    raw = dfxm_dask.open_scan(tmp_path / "s.zarr")["raw"]
    for j in range(2):
        for i in range(3):
            part = written.grid()[2, j * 64 : (j + 1) * 64, i * 64 : (i + 1) * 64].astype(float)
            here = {"z": 0, "phi": 2, "patch_y": j, "patch_x": i}
            log = np.log(np.maximum(part, 1))
            expected = {
                "n": part.size,
                "sum": part.sum(),
                "sum2": (part**2).sum(),
                "sum_log": log.sum(),
                "sum_log2": (log**2).sum(),
                "min": part.min(),
                "max": part.max(),
            }
            for name, value in expected.items():
                assert float(raw[f"patch_{name}"].isel(here)) == pytest.approx(value, rel=1e-5 if "log" in name else 0)


@pytest.mark.parametrize("value", [0, 1, 65535])
def test_patch_statistics__extremes_are_exact(value: int) -> None:
    found = patch_statistics(np.full((64, 65), value, np.uint16))
    assert found["patch_sum"].tolist() == [[4096 * value, 64 * value]]
    assert found["patch_sum2"].tolist() == [[4096.0 * value**2, 64.0 * value**2]]
    assert found["patch_min"].tolist() == found["patch_max"].tolist() == [[value, value]]


@pytest.mark.slow
def test_ingest__memory_of_a_frame_and_not_of_a_scan(tmp_path: Path) -> None:
    """Resident memory of ingesting 40 frames of 2 MB must not exceed that of 4 frames by even five frames."""
    write_bliss(tmp_path / "a.h5", shape=(4,), size=(1000, 1000))
    write_bliss(tmp_path / "b.h5", shape=(40,), size=(1000, 1000))
    program = (
        "import sys, resource, dfxm_dask; dfxm_dask.ingest(sys.argv[1], sys.argv[2]);"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
    )
    peaks = [
        int(subprocess.check_output([sys.executable, "-c", program, str(tmp_path / f"{n}.h5"), str(tmp_path / n)]))
        for n in ("a", "b")
    ]
    assert peaks[1] - peaks[0] < 10_000  # kB


# What is refused, before computing


def test_ingest__existing_store_of_another_scan(tmp_path: Path) -> None:
    write_bliss(tmp_path / "a.h5", shape=(4,), seed=1)
    write_bliss(tmp_path / "b.h5", shape=(5,), seed=2)
    dfxm_dask.ingest(tmp_path / "a.h5", tmp_path / "s.zarr")
    before = files_of(tmp_path / "s.zarr")
    with pytest.raises(StoreError, match="contains a different ingest; use --overwrite"):
        dfxm_dask.ingest(tmp_path / "b.h5", tmp_path / "s.zarr")
    assert files_of(tmp_path / "s.zarr") == before
    dfxm_dask.ingest(tmp_path / "b.h5", tmp_path / "s.zarr", overwrite=True)
    assert dfxm_dask.open_scan(tmp_path / "s.zarr")["raw"].sizes["phi"] == 5


def test_ingest__foreign_folder_is_never_touched(tmp_path: Path) -> None:
    write_bliss(tmp_path / "a.h5", shape=(4,))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    with pytest.raises(StoreError, match="is not a store of this package"):
        dfxm_dask.ingest(tmp_path / "a.h5", tmp_path / "mine", overwrite=True)
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "years of work"


def test_ingest__twice_changes_nothing(tmp_path: Path) -> None:
    write_bliss(tmp_path / "a.h5", shape=(4,), layers=2)
    dfxm_dask.ingest(tmp_path / "a.h5", tmp_path / "s.zarr", scan="all")
    before = files_of(tmp_path / "s.zarr")
    report = dfxm_dask.ingest(tmp_path / "a.h5", tmp_path / "s.zarr", scan="all")
    assert report.skipped == 2
    assert files_of(tmp_path / "s.zarr") == before


def test_ingest__several_scans_must_be_chosen(tmp_path: Path) -> None:
    write_bliss(tmp_path / "a.h5", shape=(4,), layers=2)
    with pytest.raises(SourceError, match=r"contains 2 scans: 1\.1, 2\.1; choose with --scan"):
        dfxm_dask.ingest(tmp_path / "a.h5", tmp_path / "s.zarr")


def test_ingest__wrong_scan_id_lists_what_there_is(tmp_path: Path) -> None:
    write_bliss(tmp_path / "a.h5", shape=(4,), layers=2)
    with pytest.raises(SourceError, match=r"1\.1.*2\.1"):
        dfxm_dask.ingest(tmp_path / "a.h5", tmp_path / "s.zarr", scan="7.1")


@pytest.mark.parametrize("change", [{"shape": (5,)}, {"size": (12, 11)}, {"starts": (0.5,)}, {"dtype": "uint32"}])
def test_ingest__layers_that_do_not_fit_together(tmp_path: Path, change: dict[str, Any]) -> None:
    write_bliss(tmp_path / "a.h5", **({"shape": (4,)}))
    (tmp_path / "b").mkdir()
    write_bliss(tmp_path / "b" / "b.h5", **({"shape": (4,)} | change))
    with pytest.raises(SourceError, match="separate store"):
        dfxm_dask.ingest([tmp_path / "a.h5", tmp_path / "b" / "b.h5"], tmp_path / "s.zarr")
    assert not (tmp_path / "s.zarr").exists()


def test_ingest__nothing_matches(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="matches no file"):
        dfxm_dask.ingest(str(tmp_path / "*.h5"), tmp_path / "s.zarr")


def test_ingest__raw_data_is_never_written_to(tmp_path: Path) -> None:
    place = tmp_path / "RAW_DATA" / "sample"
    place.mkdir(parents=True)
    write_bliss(place / "a.h5", shape=(4,))
    with pytest.raises(StoreError, match=r"is under RAW_DATA.*write under PROCESSED_DATA"):
        dfxm_dask.ingest(place / "a.h5", place / "s.zarr")
    assert sorted(p.suffix for p in place.iterdir() if p.is_file()) == [".h5"]


def test_ingest__place_that_cannot_be_written(tmp_path: Path) -> None:
    write_bliss(tmp_path / "a.h5", shape=(4,))
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="cannot be written; choose another folder"):
        dfxm_dask.ingest(tmp_path / "a.h5", tmp_path / "file" / "s.zarr")


def test_ingest__read_only_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_bliss(tmp_path / "a.h5", shape=(4,))
    monkeypatch.setattr(os, "access", lambda *_: False)  # the tests may run as root, who may write anywhere
    with pytest.raises(StoreError, match="cannot be written"):
        dfxm_dask.ingest(tmp_path / "a.h5", tmp_path / "s.zarr")


def test_ingest__no_space_is_said_before_anything_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_bliss(tmp_path / "a.h5", shape=(4,))
    usage = type("usage", (), {"free": 10})
    monkeypatch.setattr(layers.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(StoreError, match=r"requires about 0 MB, but 0 MB are free"):
        dfxm_dask.ingest(tmp_path / "a.h5", tmp_path / "s.zarr")
    assert not (tmp_path / "s.zarr").exists()


def test_ingest__disk_that_fills_up_leaves_no_partial_shard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_bliss(tmp_path / "a.h5", shape=(4,))

    begin = shards.ShardWriter.__init__

    def full(writer: Any, *arguments: Any) -> None:
        begin(writer, *arguments)
        writer.file.close()
        writer.file = open("/dev/full", "wb", buffering=2**20)

    with monkeypatch.context() as patch:
        patch.setattr(shards.ShardWriter, "__init__", full)
        with pytest.raises(StoreError, match="the disk is full; free space, then run the command again to resume"):
            dfxm_dask.ingest(tmp_path / "a.h5", tmp_path / "s.zarr")
    assert not list((tmp_path / "s.zarr").rglob("*.partial"))
    with pytest.raises(IncompleteError, match="0 of 1 blocks"):
        dfxm_dask.open_scan(tmp_path / "s.zarr")
    dfxm_dask.ingest(tmp_path / "a.h5", tmp_path / "s.zarr")
    dfxm_dask.open_scan(tmp_path / "s.zarr")


# What an aborted scan gives


def test_ingest__aborted_scan_is_refused(tmp_path: Path) -> None:
    write_bliss(tmp_path / "a.h5", shape=(30,), recorded=25)
    with pytest.raises(SourceError, match=r"25 of 30 frames.*--allow-partial"):
        dfxm_dask.ingest(tmp_path / "a.h5", tmp_path / "s.zarr")


def test_ingest__aborted_scan_on_request_keeps_its_frames(tmp_path: Path) -> None:
    written = write_bliss(tmp_path / "a.h5", shape=(30,), recorded=25)
    report = dfxm_dask.ingest(tmp_path / "a.h5", tmp_path / "s.zarr", allow_partial=True)
    assert "25 of 30 frames" in report.absent[0]
    counts = dfxm_dask.open_scan(tmp_path / "s.zarr")["raw"].counts
    assert counts.sizes["phi"] == 25
    np.testing.assert_array_equal(counts.values[0], written.counts[0][:25])


def test_ingest__stack_on_request_keeps_complete_layers_and_marks_the_rest(tmp_path: Path) -> None:
    whole = write_bliss(tmp_path / "a.h5", shape=(6,), seed=1)
    (tmp_path / "b").mkdir()
    write_bliss(tmp_path / "b" / "b.h5", shape=(6,), recorded=4)
    report = dfxm_dask.ingest(
        [tmp_path / "a.h5", tmp_path / "b" / "b.h5"], tmp_path / "s.zarr", allow_partial=True, z=[3, 1]
    )
    assert report.layers == 1
    assert "4 of 6 frames" in report.absent[0]
    with pytest.raises(IncompleteError, match=r"layers were absent from the source: .*4 of 6 frames"):
        dfxm_dask.open_scan(tmp_path / "s.zarr")
    raw = dfxm_dask.open_scan(tmp_path / "s.zarr", allow_partial=True)["raw"]
    assert raw.z.values.tolist() == [1.0, 3.0]
    assert np.isnan(raw.counts.values[0]).all()
    np.testing.assert_array_equal(raw.counts.values[1], whole.grid())
    assert raw.valid_ingest.values.all(axis=1).tolist() == [False, True]


# What a killed ingest leaves


@pytest.mark.parametrize("moment", [0.5, *(pytest.param(k, marks=pytest.mark.slow) for k in (0.05, 0.25, 0.75, 0.9))])
def test_ingest__killed_and_run_again_is_byte_identical(tmp_path: Path, moment: float) -> None:
    write_bliss(tmp_path / "a.h5", shape=(8,), layers=6, size=(200, 300))
    program = "import sys, dfxm_dask; print('go', flush=True); dfxm_dask.ingest(sys.argv[1], sys.argv[2], scan='all')"

    def start(store: Path) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            [sys.executable, "-c", program, str(tmp_path / "a.h5"), str(store)], stdout=subprocess.PIPE
        )
        assert process.stdout
        process.stdout.readline()
        return process

    dfxm_dask.ingest(tmp_path / "a.h5", tmp_path / "whole.zarr", scan="all")
    store = tmp_path / "killed.zarr"
    process = start(store)
    ledger_file = store / "raw/.ledger/ingest.jsonl"
    layers = int(moment * 6)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and process.poll() is None:
        if ledger_file.exists() and len(ledger_file.read_bytes().splitlines()) > layers:
            break
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()  # type: ignore[union-attr]
    if len(ledger_file.read_bytes().splitlines()) < 7:
        with pytest.raises(DfxmError, match="run the same command again to resume"):
            dfxm_dask.open_scan(store)
    report = dfxm_dask.ingest(tmp_path / "a.h5", store, scan="all")
    assert report.skipped >= layers
    assert files_of(store) == files_of(tmp_path / "whole.zarr")


@pytest.mark.parametrize("sigma", [3, 20])
def test_dark_noise__of_a_frame_with_structure(sigma: float) -> None:
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:300, :400]
    signal = 100 + 3000 * np.exp(-(((x - 150) / 60) ** 2) - ((y - 200) / 40) ** 2)
    frame = rng.normal(signal, sigma + 0.1 * (signal - 100)).clip(0).round().astype(np.uint16)
    assert dark_noise(frame) == pytest.approx(sigma, rel=0.08)


@pytest.mark.parametrize("shape", [(1, 1), (5, 7), (16, 15), (1, 40)])
def test_dark_noise__of_small_frames(shape: tuple[int, int]) -> None:
    assert dark_noise(np.full(shape, 7, np.uint16)) == 0


def test_ingest__noise_of_the_real_scans(real_scans: dict[str, Path], tmp_path: Path) -> None:
    """Not below, and not far above, what differences of successive frames give at background: 20 (summed), 2.6."""
    for name, scan, expected in (("rocking", "1.1", 20), ("motor_drift", "1.1", 2.6)):
        dfxm_dask.ingest(real_scans[name], tmp_path / name, scan=scan)
        noise = float(dfxm_dask.open_scan(tmp_path / name)["raw"].noise.values[0])
        assert 0.9 * expected < noise < 1.7 * expected


# What a resumed ingest must not mix


def test_ingest__killed_before_its_ledger_began_starts_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Coordinates of an ingest that never began must not stay under the counts of another."""
    write_bliss(tmp_path / "s.h5", layers=2, shape=(4,))

    def die(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    for place, name in ((ledger, "begin"), (create_module, "_write_per_frame")):
        store = tmp_path / f"{name}.zarr"
        with monkeypatch.context() as patch:
            patch.setattr(place, name, die)
            with pytest.raises(KeyboardInterrupt):
                dfxm_dask.ingest(tmp_path / "s.h5", store, scan="all", z=[0, 1])
        dfxm_dask.ingest(tmp_path / "s.h5", store, scan="all", z=[5, 9], pixel_size=(2, 3))
        raw = dfxm_dask.open_scan(store)["raw"]
        assert raw.z.values.tolist() == [5.0, 9.0]
        assert raw.x.attrs["units"] == "um"
        assert {"exposure", "readback_phi"} <= set(raw.data_vars)


def test_ingest__resume_with_another_detector_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_bliss(tmp_path / "s.h5", layers=2, shape=(4,))
    with h5py.File(tmp_path / "s.h5", "a") as file:
        for entry in ("1.1", "2.1"):
            image = file[entry]["measurement/pco_ff"][...] + np.uint16(1000)
            file[entry].create_dataset("measurement/other", data=image)
    done = []

    def first_only(function: Any, tasks: Any) -> Any:
        for task in tasks:
            if done:
                raise KeyboardInterrupt
            done.append(1)
            yield function(task)

    with pytest.raises(KeyboardInterrupt):
        dfxm_dask.ingest(tmp_path / "s.h5", tmp_path / "s.zarr", scan="all", detector="pco_ff", each=first_only)
    with pytest.raises(StoreError, match="contains a different ingest"):
        dfxm_dask.ingest(tmp_path / "s.h5", tmp_path / "s.zarr", scan="all", detector="other")


@pytest.mark.parametrize("lost", ["phi/c/0", "x/c/0", "raw/exposure/c/0/0", "raw/counts/zarr.json"])
def test_open_scan__lost_small_files_are_noticed(tmp_path: Path, lost: str) -> None:
    write_bliss(tmp_path / "s.h5", shape=(4,))
    dfxm_dask.ingest(tmp_path / "s.h5", tmp_path / "s.zarr")
    (tmp_path / "s.zarr" / lost).unlink()
    with pytest.raises(DfxmError, match=r"is missing|is not complete"):
        dfxm_dask.open_scan(tmp_path / "s.zarr")
