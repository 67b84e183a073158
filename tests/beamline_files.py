"""Files as a beamline writes them, with counts that are known: BLISS masters with LIMA files, and EDF."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import hdf5plugin
import numpy as np

CAMERA_DATA = "entry_0000/measurement/data"


@dataclass
class Written:
    """What was written: one item a layer. ``counts`` (frame, y, x) and ``motors`` are in recorded order; ``order`` is
    the flat index on the grid (slow major) of each recorded frame."""

    path: Path
    shape: tuple[int, ...]
    counts: list[np.ndarray] = field(default_factory=list)
    motors: list[dict[str, np.ndarray]] = field(default_factory=list)
    order: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    z: list[float] = field(default_factory=list)

    def grid(self, layer: int = 0) -> np.ndarray:
        """Counts of a complete layer on the commanded grid: (slow, fast, y, x) or (scan, y, x)."""
        grid = np.empty_like(self.counts[layer])
        grid[self.order] = self.counts[layer]
        return grid.reshape(*self.shape, *grid.shape[1:])


def known_counts(frames: int, size: tuple[int, int] = (12, 10), *, seed: int = 0, dtype: str = "uint16") -> np.ndarray:
    """Counts (frame, y, x): a background of about 100, and a blob that moves; no two frames alike."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[: size[0], : size[1]]
    centre = np.linspace(0.2, 0.8, frames)[:, None, None] * size[1]
    signal = 60 + 100 * np.exp(-(((x - centre) / 3) ** 2) - ((y - size[0] / 2) / 4) ** 2)
    return rng.poisson(signal).clip(1, np.iinfo(dtype).max).astype(dtype)


def title_of(
    command: str,
    motors: Sequence[str],
    starts: Sequence[float],
    steps: Sequence[float],
    shape: Sequence[int],
    exposure: float,
) -> str:
    """Title as BLISS writes it. Motors are slow first; meshes spell the fast one first, and count intervals."""
    stops = [start + step * (n - 1) for start, step, n in zip(starts, steps, shape, strict=False)]
    if command == "loopscan":
        return f"loopscan {shape[0]} {exposure}"
    if command in ("fscan", "fscan2d"):
        words = [f"{m} {a:.10g} {s:.10g} {n}" for m, a, s, n in zip(motors, starts, steps, shape, strict=True)]
        return f"{command} {' '.join(words)} {exposure} {exposure * 1.16:.6g}"
    if command in ("amesh", "dmesh"):
        words = [f"{m} {a:.10g} {b:.10g} {n - 1}" for m, a, b, n in zip(motors, starts, stops, shape, strict=True)]
        return f"{command} {' '.join(words[::-1])} {exposure}"
    stops = [start + step * (shape[0] - 1) for start, step in zip(starts, steps, strict=True)]
    words = [f"{m} {a:.10g} {b:.10g}" for m, a, b in zip(motors, starts, stops, strict=True)]
    return f"{command} {' '.join(words)} {shape[0] - 1} {exposure}"


def write_bliss(
    path: Path,
    *,
    command: str = "fscan",
    motors: Sequence[str] = ("mu",),
    shape: Sequence[int] = (30,),
    starts: Sequence[float] = (0.29,),
    steps: Sequence[float] = (0.001,),
    mode: str = "REWIND",
    layers: int = 1,
    z_step: float = 0.001,
    size: tuple[int, int] = (12, 10),
    dtype: str = "uint16",
    link: str = "dataset",
    compression: str | None = "bitshuffle",
    chunks: tuple[int, int, int] | None = None,
    frames_per_file: int = 10,
    recorded: int | None = None,
    jitter: float = 0.05,
    positioner: str = "value",
    readbacks: Mapping[str, np.ndarray] | None = None,
    title: str | None = None,
    parameters: bool | None = None,
    detector: str = "pco_ff",
    exposure: float = 0.5,
    monitor: bool = True,
    base: float = 5.0,
    seed: int = 0,
) -> Written:
    """A master file with entries 1.1, 1.2 (slow sensors), 2.1, ...; one entry N.1 a layer.

    Parameters
    ----------
    path : Path
        The master file. LIMA files go to ``scan0001/pco_ff_0000.h5`` and so on beside it.
    command, motors, shape, starts, steps, mode
        The scan command; motors slow first. ``a2scan`` and ``d2scan`` take two motors and one length. Relative scans
        (``dscan``...) begin at ``base`` + start.
    layers, z_step
        Number of entries, and how far ``samz`` moves between them (mm).
    link : str
        How the master holds the frames: "dataset", "copies" (in measurement and twice in instrument), "soft",
        "external" (one LIMA file), "vds" (several), or "instrument" (and an emptied measurement).
    compression : str or None
        "bitshuffle" (as LIMA does), "gzip" or None (contiguous, unless ``chunks`` is given).
    recorded : int, optional
        Number of frames that an aborted scan came to.
    jitter : float
        Spread of the readback in steps.
    positioner : str
        Where the readback is: "value", "data", "positioners", "measurement"; or "scalar", "ERR", "absent" (nowhere).
    readbacks : mapping, optional
        Readback of motors as it shall be, instead.
    title : str, optional
        Instead of the command; "" for none.
    parameters : bool, optional
        Whether to write fscan_parameters; by default for fscan and fscan2d.
    """
    relative = command.startswith("d")
    lengths = tuple(shape)
    count = int(np.prod(lengths))
    grid = np.arange(count)
    if mode == "ZIGZAG" and len(lengths) == 2:
        row, column = np.divmod(grid, lengths[1])
        grid = row * lengths[1] + np.where(row % 2, lengths[1] - 1 - column, column)
    index = np.unravel_index(grid, lengths)
    have = count if recorded is None else recorded
    written = Written(path, lengths, order=grid[:have].astype(np.int64))
    with h5py.File(path, "w") as master:
        master.attrs.update(NX_class="NXroot", creator="blissdata", publisher="bliss")
        for layer in range(layers):
            rng = np.random.default_rng(seed + layer)
            entry = master.create_group(f"{layer + 1}.1")
            entry.attrs["NX_class"] = "NXentry"
            spelled = title_of(command, motors, starts, steps, lengths, exposure) if title is None else title
            if spelled:
                entry["title"] = spelled
            entry["start_time"] = "2025-02-03T03:50:08.270686+01:00"
            entry["end_reason"] = "SUCCESS" if recorded is None else "USER_ABORT"
            entry["sample/name"] = "phantom"
            instrument, measurement = entry.create_group("instrument"), entry.create_group("measurement")
            place = instrument.create_group("positioners")
            place["samz"] = -7.7 + layer * z_step
            place["ffpitch"] = "ERR"
            place["obpitch"] = 18.0
            written.z.append(-7.7 + layer * z_step)
            read: dict[str, np.ndarray] = {}
            for k, motor in enumerate(motors if command != "loopscan" else ()):
                axis = index[min(k, len(index) - 1)]
                moving = command in ("fscan", "fscan2d") and k == len(motors) - 1
                values = starts[k] + steps[k] * (axis + (0.4 if moving else 0.0))
                values = values + (base if relative else 0.0) + jitter * steps[k] * rng.uniform(-1, 1, count)
                read[motor] = (values if readbacks is None or motor not in readbacks else readbacks[motor])[:have]
                _write_positions(instrument, measurement, motor, read[motor], positioner)
            written.motors.append(read)
            if parameters or (parameters is None and command in ("fscan", "fscan2d")):
                _write_parameters(instrument, motors, starts, steps, lengths, mode, exposure)
            if monitor:
                measurement["pico4"] = 1e6 + np.arange(have, dtype=float)
            if command == "loopscan":
                measurement["elapsed_time"] = 0.6 * np.arange(have)
            counts = known_counts(have, size, seed=seed + 100 * layer, dtype=dtype)
            written.counts.append(counts)
            _write_detector(
                master,
                entry,
                counts,
                detector,
                link=link,
                folder=path.parent / f"scan{layer + 1:04d}",
                compression=compression,
                chunks=chunks,
                per_file=frames_per_file,
            )
            slow = master.create_group(f"{layer + 1}.2")
            if spelled:
                slow["title"] = spelled
            slow["measurement/current"] = np.full(have + 7, 190.0)
    return written


def _write_positions(
    instrument: h5py.Group, measurement: h5py.Group, motor: str, values: np.ndarray, where: str
) -> None:
    if where in ("value", "data"):
        dataset = instrument.create_dataset(f"{motor}/{where}", data=values)
        dataset.attrs["units"] = "deg"
    elif where == "measurement":
        measurement[motor] = values
    elif where == "positioners":
        instrument[f"positioners/{motor}"] = values
    elif where == "ERR":
        instrument[f"positioners/{motor}"] = "ERR"
    if where in ("scalar", "value") and f"positioners/{motor}" not in instrument:
        instrument[f"positioners/{motor}"] = values[0]


def _write_parameters(
    instrument: h5py.Group,
    motors: Sequence[str],
    starts: Sequence[float],
    steps: Sequence[float],
    shape: Sequence[int],
    mode: str,
    exposure: float,
) -> None:
    group = instrument.create_group("fscan_parameters")
    for k, prefix in enumerate(("slow_", "fast_") if len(shape) == 2 else ("",)):
        group[f"{prefix}motor"] = motors[k]
        group[f"{prefix}start_pos"] = starts[k]
        group[f"{prefix}step_size"] = steps[k]
        group[f"{prefix}npoints"] = shape[k]
    if len(shape) == 2:
        group["fast_motor_mode"] = mode
    group["acq_time"] = exposure
    group["scan_name"] = "fscan2d" if len(shape) == 2 else "fscan"


def _write_detector(
    master: h5py.File,
    entry: h5py.Group,
    counts: np.ndarray,
    name: str,
    *,
    link: str,
    folder: Path,
    compression: str | None,
    chunks: tuple[int, int, int] | None,
    per_file: int,
) -> None:
    camera = entry["instrument"].create_group(name)
    camera.attrs["NX_class"] = "NXdetector"
    camera["acq_parameters/acq_expo_time"] = 0.5
    for axis in "xy":
        camera[f"{axis}_pixel_size"] = 6.5
        camera[f"{axis}_pixel_size"].attrs["units"] = "m"  # as the beamline does
    options: dict[str, Any] = {"chunks": chunks}
    if compression is not None:
        options["chunks"] = chunks or (1, *counts.shape[1:])
        options |= dict(hdf5plugin.Bitshuffle()) if compression == "bitshuffle" else {"compression": compression}
    if link in ("dataset", "instrument"):
        where = camera if link == "instrument" else entry["measurement"]
        where.create_dataset("data" if link == "instrument" else name, data=counts, **options)
        if link == "instrument":
            del entry["measurement"]
            entry.create_group("measurement")
    elif link == "copies":
        camera.create_dataset("data", data=counts, **options)
        camera.create_dataset("image", data=counts, **options)
        entry["measurement"].create_dataset(name, data=counts, **options)
    elif link == "soft":
        camera.create_dataset("data", data=counts, **options)
        entry["measurement"][name] = h5py.SoftLink(f"{entry.name}/instrument/{name}/data")
    elif link in ("external", "vds"):
        per_file = len(counts) if link == "external" else per_file
        files = write_lima(folder, counts, name=name, per_file=per_file, options=options)
        relative = [f"{file.parent.name}/{file.name}" for file in files]
        if link == "external":
            camera["data"] = h5py.ExternalLink(relative[0], f"/{CAMERA_DATA}")
        else:
            layout = h5py.VirtualLayout(counts.shape, counts.dtype)
            for k, file in enumerate(relative):
                part = counts[k * per_file : (k + 1) * per_file]
                layout[k * per_file : k * per_file + len(part)] = h5py.VirtualSource(file, CAMERA_DATA, part.shape)
            camera.create_virtual_dataset("data", layout)
        entry["measurement"][name] = h5py.SoftLink(f"/{entry.name.strip('/')}/instrument/{name}/data")
    else:
        raise ValueError(link)


def write_lima(
    folder: Path, counts: np.ndarray, *, name: str, per_file: int, options: Mapping[str, Any] | None = None
) -> list[Path]:
    """LIMA files of a camera: ``per_file`` frames each."""
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for k, start in enumerate(range(0, len(counts), per_file)):
        files.append(folder / f"{name}_{k:04d}.h5")
        with h5py.File(files[-1], "w") as file:
            file.create_dataset(CAMERA_DATA, data=counts[start : start + per_file], **(options or {}))
    return files


def write_edf(
    folder: Path,
    counts: np.ndarray,
    *,
    title: str,
    motors: Mapping[str, np.ndarray],
    counters: Mapping[str, np.ndarray] | None = None,
    per_file: int = 1,
    names: Sequence[str] | None = None,
    points: bool = True,
    scan_number: int = 86,
    big_endian: bool = False,
) -> list[Path]:
    """EDF files as SPEC and LIMA write them: ``per_file`` frames each, headers padded to 512 bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    kinds = {
        "uint8": "UnsignedByte",
        "uint16": "UnsignedShort",
        "uint32": "UnsignedInteger",
        "int8": "SignedByte",
        "int16": "SignedShort",
        "int32": "SignedInteger",
        "int64": "Signed64",
        "float32": "FloatValue",
    }
    files: list[Path] = []
    for k, start in enumerate(range(0, len(counts), per_file)):
        files.append(folder / (names[k] if names else f"strain_{k:04d}.edf"))
        blocks = []
        for index in range(start, min(start + per_file, len(counts))):
            frame = counts[index]
            header = {
                "HeaderID": f"EH:{index - start + 1:06d}:000000:000000",
                "Image": index - start + 1,
                "ByteOrder": "HighByteFirst" if big_endian else "LowByteFirst",
                "DataType": kinds[frame.dtype.name],
                "Dim_1": frame.shape[1],
                "Dim_2": frame.shape[0],
                "Size": frame.nbytes,
                "scan": title,
                "scan_no": scan_number,
                "date": "Thu Jul 06 03:41:29 2017",
                "epoch": 1499257480.0 + 5 * index,
                "prefix": "strain_",
                "counter_mne": " ".join(counters or {}),
                "counter_pos": " ".join(f"{values[index]:.10g}" for values in (counters or {}).values()),
                "motor_mne": " ".join(motors),
                "motor_pos": " ".join(f"{values[index]:.10g}" for values in motors.values()),
            }
            if points:
                header["point_no"] = index
            text = "{\n" + "".join(f"{key} = {value} ;\n" for key, value in header.items())
            text += " " * (-(len(text) + 2) % 512) + "}\n"
            blocks.append(text.encode() + frame.astype(frame.dtype.newbyteorder(">" if big_endian else "<")).tobytes())
        files[-1].write_bytes(b"".join(blocks))
    return files
