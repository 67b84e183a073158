"""A camera and a master that grow as at the beamline: compressed frames at a fixed pace, then the end of the entry.

Frames were compressed beforehand; the writer copies their chunks, as the camera server stores those of its detector.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import hdf5plugin
import numpy as np

from bench.data import CAMERA_DATA, FRAMES, PER_FILE, Z_STEP_MM, write_lima

DIFFERENT = 4
"""Layers with signal and noise of their own; later ones repeat them."""


def templates(work: Path, shape: tuple[int, int]) -> list[Path]:
    """Folders with the camera files of the different layers, written on first use."""
    folders = [work / f"layers_{shape[0]}x{shape[1]}" / f"{k}" for k in range(DIFFERENT)]
    for k, folder in enumerate(folders):
        if not folder.exists():
            making = folder.with_suffix(".making")
            write_lima(making, shape, k)
            os.rename(making, folder)
    return folders


def chunks(folder: Path) -> list[bytes]:
    """Compressed frames of a layer."""
    found = []
    for path in sorted(folder.glob("*.h5")):
        with h5py.File(path, "r", locking=False) as file:
            data = file[CAMERA_DATA]
            found += [data.id.read_direct_chunk((k, 0, 0))[1] for k in range(len(data))]
    return found


def write_scan(master: str, folders: list[str], shape: tuple[int, int], layers: range, period: float, log: str) -> None:
    """Write layers into a master file, one a period of some seconds, and log the times of every layer as JSON lines.

    A line has the seconds of every write of a frame, and the time at which the entry with its end was on disk.
    """
    path = Path(master)
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        with h5py.File(path, "w", locking=False, libver="latest") as file:
            file.attrs.update(NX_class="NXroot", creator="blissdata", publisher="bliss")
    frames = [chunks(Path(folder)) for folder in folders]
    due = time.time()
    for layer in layers:
        begin_entry(path, layer)
        spent = []
        for write in camera_writes(path.parent / f"scan{layer + 1:04d}", frames[layer % len(frames)], shape):
            due += period / FRAMES
            time.sleep(max(0.0, due - time.time()))
            begun = time.perf_counter()
            write()
            spent.append(time.perf_counter() - begun)
        last = time.time()
        end_entry(path, layer, shape)
        with open(log, "a") as file:
            file.write(json.dumps({"layer": layer, "frames": spent, "last": last, "ended": time.time()}) + "\n")


def camera_writes(folder: Path, frames: list[bytes], shape: tuple[int, int]) -> Iterator[Any]:
    """Functions that write one frame each; with the last frame of a file they close it."""
    folder.mkdir(parents=True)
    file = data = None
    for number, chunk in enumerate(frames):
        k = number % PER_FILE
        size = min(PER_FILE, len(frames) - number + k)

        def write(number: int = number, k: int = k, size: int = size, chunk: bytes = chunk) -> None:
            nonlocal file, data
            if k == 0:
                file = h5py.File(folder / f"pco_ff_{number // PER_FILE:04d}.h5", "w", locking=False)
                how = hdf5plugin.Bitshuffle()
                data = file.create_dataset(CAMERA_DATA, (size, *shape), "u2", chunks=(1, *shape), **how)
            data.id.write_direct_chunk((k, 0, 0), chunk)
            file.flush()
            if k == size - 1:
                file.close()

        yield write


def begin_entry(master: Path, layer: int, count: int = FRAMES) -> None:
    """The entry of a scan at its first frame: command and motors that do not move."""
    with h5py.File(master, "a", locking=False, libver="latest") as file:
        entry = file.create_group(f"{layer + 1}.1")
        entry["title"] = f"fscan mu 5 0.02 {count} 0.5 0.58"
        entry["start_time"] = "2026-12-01T03:50:08.270686+01:00"
        instrument = entry.create_group("instrument")
        instrument["positioners/samz"] = layer * Z_STEP_MM
        scan = {"motor": "mu", "start_pos": 5.0, "step_size": 0.02, "npoints": count, "acq_time": 0.5}
        for word, value in {**scan, "scan_name": "fscan"}.items():
            instrument[f"fscan_parameters/{word}"] = value


def end_entry(master: Path, layer: int, shape: tuple[int, int], count: int = FRAMES, per_file: int = PER_FILE) -> None:
    """Readings, the virtual dataset over the camera files, and the end of the scan."""
    with h5py.File(master, "a", locking=False, libver="latest") as file:
        entry = file[f"{layer + 1}.1"]
        instrument = entry["instrument"]
        readings = 5 + 0.02 * (np.arange(count) + 0.4)
        instrument["positioners/mu"] = readings
        instrument.create_dataset("mu/value", data=readings).attrs["units"] = "deg"
        camera = instrument.create_group("pco_ff")
        layout = h5py.VirtualLayout((count, *shape), "u2")
        for k in range(0, count, per_file):
            size = min(per_file, count - k)
            name = f"scan{layer + 1:04d}/pco_ff_{k // per_file:04d}.h5"
            layout[k : k + size] = h5py.VirtualSource(name, CAMERA_DATA, (size, *shape))
        camera.create_virtual_dataset("data", layout)
        entry.create_group("measurement")["pco_ff"] = h5py.SoftLink(f"{entry.name}/instrument/pco_ff/data")
        file.flush()
        entry["end_reason"] = "SUCCESS"
        entry["end_time"] = "2026-12-01T03:51:08.270686+01:00"
