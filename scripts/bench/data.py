"""Data to measure on: real frames, brought to the size of a detector with fresh noise, as the beamline writes them."""

from __future__ import annotations

import importlib.metadata
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import h5py
import hdf5plugin
import numpy as np
from scipy import ndimage

FRAMES = 31
FULL, QUICK = (2160, 2560), (512, 768)
OFFSET, READ_VARIANCE, GAIN = 100.0, 4.4, 0.46
"""Counts without light, their variance, variance per count of signal: fitted on single exposures of a PCO camera."""
ACCUMULATED, REAL_OFFSET = 25, 2500.0
"""Number of exposures in a real frame, and its offset."""
CAMERA_DATA = "entry_0000/measurement/data"
PER_FILE = 10
PIXEL_UM = 0.65
Z_STEP_MM = 0.001


@dataclass(frozen=True)
class Data:
    """Settings of all figures: folder, size of a frame, and numbers of layers and repeats."""

    work: Path
    shape: tuple[int, int]
    layers: int
    memory_layers: tuple[int, ...]
    repeats: int
    darfix_python: str | None = None

    @property
    def layer_bytes(self) -> int:
        return FRAMES * self.shape[0] * self.shape[1] * 2

    @property
    def pixels(self) -> int:
        return self.shape[0] * self.shape[1]

    def master(self, layers: int) -> Path:
        """The beamline file with a given number of layers, written on first use."""
        path = self.work / f"raw_{layers}" / "scan.h5"
        if not path.exists():
            write_bliss(path, self, layers)
        return path

    def fresh(self, name: str) -> Path:
        """A path in the folder with nothing at it."""
        path = self.work / name
        shutil.rmtree(path, ignore_errors=True)
        return path


def real_signal() -> tuple[np.ndarray, np.ndarray]:
    """Signal per exposure (frame, y, x) of the real rocking scan, without noise; and its motor positions."""
    files = importlib.metadata.files("darling-pypi") or []
    path = next(f.locate() for f in files if f.name == "rocking.h5")
    with h5py.File(str(path)) as file:
        motor = file["1.1/instrument/positioners/mu"][...]
        chosen = np.linspace(0, len(motor) - 1, FRAMES).round().astype(int)
        frames = file["1.1/instrument/pco_ff/data"][chosen].astype(np.float32)
    smooth = ndimage.gaussian_filter(frames, (0, 1.5, 1.5))
    return np.maximum(smooth - REAL_OFFSET, 0) / ACCUMULATED, motor[chosen]


def signal_frames(shape: tuple[int, int]) -> Iterator[np.ndarray]:
    """Frames of signal at full size: enlarged four times, then continued by reflection."""
    for frame in real_signal()[0]:
        large = ndimage.zoom(frame, 4, order=1)
        yield np.pad(large, [(0, max(0, n - m)) for n, m in zip(shape, large.shape, strict=True)], "symmetric")[
            : shape[0], : shape[1]
        ]


def with_noise(signal: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Counts of one exposure."""
    noise = rng.standard_normal(signal.shape, np.float32)
    noise *= np.sqrt(READ_VARIANCE + GAIN * signal)
    noise += signal + OFFSET + 0.5
    return noise.clip(0, 65535).astype(np.uint16)


def write_bliss(path: Path, data: Data, layers: int) -> None:
    """A master with one entry a layer, whose frames are virtual datasets over LIMA files (bitshuffle-LZ4).

    Beyond ``data.layers`` layers the camera files are links to those of the first ones.
    """
    shutil.rmtree(path.parent, ignore_errors=True)  # left by a run that was stopped
    path.parent.mkdir(parents=True)
    for layer in range(layers):
        folder = path.parent / f"scan{layer + 1:04d}"
        first = path.parents[1] / f"raw_{data.layers}" / f"scan{layer % data.layers + 1:04d}"
        if folder != first and not first.exists():
            data.master(data.layers)
        write_lima(folder, data.shape, layer) if folder == first else _link(first, folder)
    _, motor = real_signal()
    with h5py.File(path, "w") as master:
        master.attrs.update(NX_class="NXroot", creator="blissdata", publisher="bliss")
        for layer in range(layers):
            _write_entry(master.create_group(f"{layer + 1}.1"), data.shape, layer, motor)


def _link(source: Path, target: Path) -> None:
    target.mkdir()
    for file in source.iterdir():
        os.link(file, target / file.name)


def write_lima(folder: Path, shape: tuple[int, int], layer: int) -> None:
    """Camera files of one layer, with noise of its own."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(layer)
    file = dataset = None
    for k, signal in enumerate(signal_frames(shape)):
        if k % PER_FILE == 0:
            if file is not None:
                file.close()
            file = h5py.File(folder / f"pco_ff_{k // PER_FILE:04d}.h5", "w")
            size = (min(PER_FILE, FRAMES - k), *shape)
            dataset = file.create_dataset(CAMERA_DATA, size, "u2", chunks=(1, *shape), **hdf5plugin.Bitshuffle())
        dataset[k % PER_FILE] = with_noise(signal, rng)
    file.close()


def _write_entry(entry: h5py.Group, shape: tuple[int, int], layer: int, motor: np.ndarray) -> None:
    start, step = float(motor[0]), float(motor[-1] - motor[0]) / (FRAMES - 1)
    readback = start + step * (np.arange(FRAMES) + 0.4)
    entry["title"] = f"fscan mu {start:.10g} {step:.10g} {FRAMES} 0.5 0.58"
    entry["start_time"] = "2025-02-03T03:50:08.270686+01:00"
    entry["end_reason"] = "SUCCESS"
    entry["sample/name"] = "benchmark"
    instrument = entry.create_group("instrument")
    instrument["positioners/samz"] = layer * Z_STEP_MM
    instrument["positioners/mu"] = readback
    instrument.create_dataset("mu/value", data=readback).attrs["units"] = "deg"
    scan = {"motor": "mu", "start_pos": start, "step_size": step, "npoints": FRAMES, "acq_time": 0.5}
    for word, value in {**scan, "scan_name": "fscan"}.items():
        instrument[f"fscan_parameters/{word}"] = value
    camera = instrument.create_group("pco_ff")
    layout = h5py.VirtualLayout((FRAMES, *shape), "u2")
    for k in range(0, FRAMES, PER_FILE):
        count = min(PER_FILE, FRAMES - k)
        name = f"scan{layer + 1:04d}/pco_ff_{k // PER_FILE:04d}.h5"
        layout[k : k + count] = h5py.VirtualSource(name, CAMERA_DATA, (count, *shape))
    camera.create_virtual_dataset("data", layout)
    entry.create_group("measurement")["pco_ff"] = h5py.SoftLink(f"{entry.name}/instrument/pco_ff/data")
