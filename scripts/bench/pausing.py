"""A writer that is stopped at random moments, also within calls of HDF5, and the layers that a follower then reads."""

from __future__ import annotations

import os
import random
import shutil
import signal
import time
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from unittest.mock import patch

import h5py
import hdf5plugin
import numpy as np
import zarr

from bench.data import CAMERA_DATA
from bench.live_writer import begin_entry, end_entry
from dfxm_dask.errors import DfxmError
from dfxm_dask.run.live.following import look_at
from dfxm_dask.sources.source import load_beamline
from dfxm_dask.store.ingest import ingest

FRAMES, PER_FILE, SHAPE = 9, 3, (32, 32)
LAYERS_A_FILE = 15
MEAN_S = 0.002  # running time of the writer between two pauses


@dataclass
class Taken:
    """Layers that a follower read, those with wrong frames, and pauses while a layer was being written."""

    taken: int = 0
    wrong: int = 0
    within: int = 0


def true_frames(number: int) -> np.ndarray:
    """Frames of a layer: no pixel is zero, which HDF5 gives for an absent chunk."""
    return np.random.default_rng(number).integers(1, 60000, (FRAMES, *SHAPE), np.uint16)


def write_forever(folder: str) -> None:
    """Write layers without rest, with a new master file after some of them."""
    number = 0
    while True:
        master = Path(folder, f"{number // LAYERS_A_FILE:05d}", "scan.h5")
        master.parent.mkdir()
        with h5py.File(master, "w", locking=False, libver="latest") as file:
            file.attrs.update(NX_class="NXroot", creator="blissdata", publisher="bliss")
        for layer in range(LAYERS_A_FILE):
            frames = true_frames(number)
            early = number % 2 == 0  # entries that exist from their first frame, and entries that appear at their end
            if early:
                begin_entry(master, layer, FRAMES)
            _camera(master.parent / f"scan{layer + 1:04d}", frames)
            if not early:
                begin_entry(master, layer, FRAMES)
            end_entry(master, layer, SHAPE, FRAMES, PER_FILE)
            number += 1


def _camera(folder: Path, frames: np.ndarray) -> None:
    folder.mkdir()
    for first in range(0, FRAMES, PER_FILE):
        with h5py.File(folder / f"pco_ff_{first // PER_FILE:04d}.h5", "w", locking=False) as file:
            how = hdf5plugin.Bitshuffle()
            data = file.create_dataset(CAMERA_DATA, (PER_FILE, *SHAPE), "u2", chunks=(1, *SHAPE), **how)
            for k in range(PER_FILE):
                data[k] = frames[first + k]
                file.flush()


def pauses(folder: Path, count: int) -> Taken:
    """Stop the writer a number of times; at each, look for whole layers as the follower does, and ingest them."""
    folder.mkdir(parents=True)
    chance, made = random.Random(7), Taken()
    how = {"beamline": load_beamline("id03", {}), "roots": []}
    process = get_context("spawn").Process(target=write_forever, args=(str(folder),), daemon=True)
    process.start()
    known: dict[str, list[str]] = {}
    try:
        while not list(folder.glob("*/scan.h5")):
            time.sleep(0.05)
        for _ in range(count):
            time.sleep(chance.expovariate(1 / MEAN_S))
            os.kill(process.pid, signal.SIGSTOP)
            os.waitpid(process.pid, os.WUNTRACED)
            masters = sorted(folder.glob("*/scan.h5"))
            for master in masters:
                with patch("dfxm_dask.sources.hdf5_links.PAUSE", 0.0):  # a stopped writer does not close its file
                    _take(master, known.setdefault(master.parent.name, []), how, made)
            for master in masters[:-1]:
                if len(known[master.parent.name]) == LAYERS_A_FILE:
                    shutil.rmtree(master.parent)
            os.kill(process.pid, signal.SIGCONT)
    finally:
        process.kill()
        process.join()
    return made


def _take(master: Path, known: list[str], how: dict[str, object], made: Taken) -> None:
    try:
        entries = look_at(str(master), known, how)
    except DfxmError:
        made.within += 1
        return
    made.within += not all(e.whole for e in entries)
    for entry in (e for e in entries if e.whole):  # however long the pause: the time without a change does not help
        known.append(entry.name)
        made.taken += 1
        layer = int(entry.name.split(".")[0]) - 1
        store = master.parent / "one.zarr"
        try:
            ingest(master, store, scan=[entry.name])
            same = np.array_equal(
                zarr.open_array(store / "raw" / "counts", mode="r")[0],
                true_frames(int(master.parent.name) * LAYERS_A_FILE + layer),
            )
        except DfxmError:
            known.remove(entry.name)  # the follower tries again, too
            made.taken -= 1
            same = True
        finally:
            shutil.rmtree(store, ignore_errors=True)
        made.wrong += not same
