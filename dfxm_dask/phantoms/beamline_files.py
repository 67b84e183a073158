"""Files as a beamline writes them: LIMA files of frames, and a master file that records the scan.

Frames are written to disk one by one. No file under its final name is incomplete. The same input gives the same bytes:
no times are written.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import hdf5plugin
import numpy as np

from dfxm_dask.errors import InputError, SourceError
from dfxm_dask.phantoms.entry import EPOCH, Entry, check_name
from dfxm_dask.sources.bliss.command import REWIND
from dfxm_dask.sources.bliss.detector import COUNTS
from dfxm_dask.sources.hdf5_links import open_hdf5
from dfxm_dask.store.shards import force

CAMERA_DATA = "/entry_0000/measurement/data"
MONITOR = "pico4"  # a counter listed in configs/beamlines/id03.yaml
SHORT_UNITS = {"degree": "deg"}  # as BLISS spells them


@contextmanager
def _whole(path: Path) -> Iterator[h5py.File]:
    """A new HDF5 file, renamed once it is complete and on disk; after an error no file is left."""
    partial = _partial(path)
    try:
        with h5py.File(partial, "w", locking=False) as file:
            yield file
        force(str(partial))
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
    force(str(path.parent))


def _partial(path: Path) -> Path:
    return path.with_name(f".{path.name}.partial")


def _refuse_existing(path: Path) -> None:
    if path.exists():
        raise InputError(f"file {path}", "exists", "remove it, or write elsewhere")


def write_lima(
    folder: str | Path,
    frames: Iterable[np.ndarray],
    *,
    count: int,
    detector: str = "pco_ff",
    frames_per_file: int | None = None,
) -> list[tuple[str, int]]:
    """LIMA files of one scan, and their numbers of frames.

    Parameters
    ----------
    folder : path
        Created if necessary. The master file must lie beside this folder.
    frames : iterable of array (y, x), uint8, uint16 or uint32
        In recorded order, of one shape and dtype. Consumed one at a time: only one frame is in memory.
    count : int
        Number of frames.
    detector : str
        Name of the camera.
    frames_per_file : int, optional
        All in one file if not given.

    Returns
    -------
    list of (str, int)
        Files relative to the parent of ``folder``, as required by :class:`Entry`, and their frames.

    Raises
    ------
    InputError
        More or fewer frames than ``count``; frames of different shape or dtype, or not counts; a file that exists.
        No file is left after an error.

    Notes
    -----
    ``/entry_0000/measurement/data`` (frame, y, x), one frame a chunk, bitshuffle-LZ4. Files are written under a
    temporary name and renamed when all of them are complete.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as place:
    ...     write_lima(Path(place, "scan0001"), (np.full((4, 5), k, np.uint16) for k in range(3)), count=3,
    ...                frames_per_file=2)
    [('scan0001/pco_ff_0000.h5', 2), ('scan0001/pco_ff_0001.h5', 1)]
    """
    folder = Path(folder)
    check_name(f"camera of {folder}", detector)
    per_file = count if frames_per_file is None else frames_per_file
    for name, value in (("count", count), ("frames_per_file", per_file)):
        if value < 1:
            raise InputError(f"{name} of {folder}", f"is {value}", "give at least 1")
    lengths = [min(per_file, count - start) for start in range(0, count, per_file)]
    files = [folder / f"{detector}_{k:04d}.h5" for k in range(len(lengths))]
    for file in files:
        _refuse_existing(file)
    folder.mkdir(parents=True, exist_ok=True)
    source = _Checked(frames, count, str(folder))
    try:
        for file, length in zip(files, lengths, strict=True):
            _write_frames(_partial(file), source, length)
        source.end()
        for file in files:
            os.replace(_partial(file), file)
    finally:
        for file in files:
            _partial(file).unlink(missing_ok=True)
    force(str(folder))
    return [(f"{folder.name}/{file.name}", length) for file, length in zip(files, lengths, strict=True)]


class _Checked:
    """Frames handed out one at a time, all of the kind of the first."""

    def __init__(self, frames: Iterable[np.ndarray], count: int, where: str) -> None:
        self.frames, self.count, self.where = iter(frames), count, where
        self.given = 0
        self.kind: tuple[tuple[int, ...], np.dtype[Any]] | None = None

    def take(self) -> np.ndarray:
        try:
            frame = np.asarray(next(self.frames))
        except StopIteration:
            raise InputError(
                f"frames of {self.where}", f"{self.given} of {self.count} were given", "give all, or a smaller count"
            ) from None
        kind = (frame.shape, frame.dtype.newbyteorder("="))
        if frame.ndim != 2 or frame.size == 0 or kind[1].name not in COUNTS:
            raise InputError(
                f"frame {self.given} of {self.where}",
                f"is {frame.dtype} {frame.shape}",
                f"give counts (y, x) of {', '.join(COUNTS)}",
            )
        self.kind = self.kind or kind
        if kind != self.kind:
            raise InputError(
                f"frame {self.given} of {self.where}",
                f"is {kind[1]} {kind[0]}, the first is {self.kind[1]} {self.kind[0]}",
                "give frames of one shape and dtype",
            )
        self.given += 1
        return frame

    def end(self) -> None:
        for _ in self.frames:
            raise InputError(f"frames of {self.where}", f"are more than {self.count}", "give a larger count")


def _write_frames(path: Path, source: _Checked, length: int) -> None:
    frame = source.take()
    with h5py.File(path, "w", locking=False) as file:
        file.attrs["NX_class"] = "NXroot"
        entry = file.create_group("entry_0000")
        entry.attrs["NX_class"] = "NXentry"
        entry.create_group("measurement").attrs["NX_class"] = "NXcollection"
        dataset = file.create_dataset(
            CAMERA_DATA,
            (length, *frame.shape),
            frame.dtype.newbyteorder("="),
            chunks=(1, *frame.shape),
            **hdf5plugin.Bitshuffle(),
        )
        dataset.attrs["interpretation"] = "image"
        dataset[0] = frame
        for k in range(1, length):
            del frame  # before the next one is computed
            frame = source.take()
            dataset[k] = frame
    force(str(path))


def write_master(
    path: str | Path, entries: Iterable[Entry], *, sample: str = "simulated", beamline: str = "id03", digest: str = ""
) -> Path:
    """A master file with one entry N.1 for each scan; :func:`dfxm_dask.ingest` reads it.

    Parameters
    ----------
    path : path
        The file; LIMA files lie in folders beside it.
    entries : iterable of Entry
        One for each layer.
    sample, beamline : str
        Values of ``sample/name`` and ``instrument/name``.
    digest : str
        Attribute of the file that identifies its source.

    Returns
    -------
    Path
        The file.

    Raises
    ------
    InputError
        No entry, a number that repeats, a file that exists, or a LIMA file that is missing or has other content.

    Notes
    -----
    Frames are a virtual dataset ``N.1/instrument/<detector>/data`` onto the LIMA files by relative path, so that the
    whole folder can be moved. Nothing of N.2 (slow sensors) is written.
    """
    path, listed = Path(path), list(entries)
    _refuse_existing(path)
    numbers = [entry.number for entry in listed]
    if not listed or len(set(numbers)) < len(numbers):
        raise InputError(f"entries of {path}", f"are numbered {numbers}", "give one or more, each with its own number")
    path.parent.mkdir(parents=True, exist_ok=True)
    for entry in listed:
        for name, count in entry.files:
            _check_lima(path, entry, name, count)
    with _whole(path) as master:
        # Other readers take positions from <motor>/value only where the publisher is bliss.
        master.attrs.update(NX_class="NXroot", creator="dfxm_dask", publisher="bliss", default=f"{numbers[0]}.1")
        master.attrs["digest"] = digest
        for entry in listed:
            _write_entry(master, entry, sample, beamline)
    return path


def _check_lima(path: Path, entry: Entry, name: str, count: int) -> None:
    """Refuse LIMA files that are missing or have other content: the master file only points to them."""
    where = f"{path} entry {entry.number}.1"
    if Path(name).is_absolute() or ".." in Path(name).parts:
        raise InputError(where, f"names {name}, which does not lie beside it", "give a path relative to the master")
    try:
        with open_hdf5(str(path.parent / name), where) as file:
            found = file.get(CAMERA_DATA)
            kind = (tuple(found.shape), found.dtype.name) if isinstance(found, h5py.Dataset) else None
    except SourceError as error:
        raise InputError(where, error.found, "write the frames first") from error
    wanted = ((count, *entry.shape), np.dtype(entry.dtype).name)
    if kind != wanted:
        has = f"holds {kind[1]} {kind[0]}" if kind else f"has no {CAMERA_DATA}"
        raise InputError(where, f"{name} {has}, not {wanted[1]} {wanted[0]}", "give the files of this entry")


def _group(parent: h5py.Group, name: str, kind: str) -> h5py.Group:
    group = parent.create_group(name)
    group.attrs["NX_class"] = kind
    return group


def _write_entry(master: h5py.File, entry: Entry, sample: str, beamline: str) -> None:
    here = _group(master, f"{entry.number}.1", "NXentry")
    here["title"] = entry.title
    here["end_reason"] = "SUCCESS"
    _group(here, "sample", "NXsample")["name"] = sample
    instrument, measurement = _group(here, "instrument", "NXinstrument"), _group(here, "measurement", "NXcollection")
    instrument["name"] = beamline
    _write_camera(here, instrument, measurement, entry)
    places = [_group(instrument, name, "NXcollection") for name in ("positioners", "positioners_start")]
    if entry.z is not None:
        for place in places:
            place[entry.z_motor] = float(entry.z)
            place[entry.z_motor].attrs["units"] = "mm"
    measurement["sec"] = np.full(entry.frames, float(entry.exposure))
    if entry.monitor is not None:
        measurement[MONITOR] = np.asarray(entry.monitor, np.float64)
    if entry.is_time_series:
        timed = entry.command == "ftimescan"  # a card triggers the camera and records when
        for name, origin in (("epoch_trig", EPOCH),) if timed else (("elapsed_time", 0.0), ("epoch", EPOCH)):
            measurement[name] = origin + entry.times
            measurement[name].attrs["units"] = "s"
        if timed:
            group = _group(instrument, "fscan_parameters", "NXcollection")
            group["acq_time"], group["npoints"], group["period"] = float(entry.exposure), entry.frames, entry.period
            group["scan_name"] = group["scan_type"] = "ftimescan"
        return
    for k, axis in enumerate(entry.axes):
        motor, values = axis[0], np.asarray(entry.positions[axis[0]], np.float64)
        positioner = _group(instrument, motor, "NXpositioner")
        positioner["value"] = values
        if len(axis) == 5:
            positioner["value"].attrs["units"] = SHORT_UNITS.get(axis[4], axis[4])
        # The beamline uses either name, depending on the motor; other readers look for one or the other.
        for group, name in ((positioner, "data"), (measurement, motor)):
            group[name] = h5py.SoftLink(f"{positioner.name}/value")
        # The slow motor is listed for every frame, the fast one with its position at the start.
        places[0][motor] = values if k < len(entry.axes) - 1 else values[0]
        places[1][motor] = values[0]
    _write_parameters(instrument, entry)


def _write_camera(here: h5py.Group, instrument: h5py.Group, measurement: h5py.Group, entry: Entry) -> None:
    """Frames as one virtual dataset over all files of the camera."""
    camera = _group(instrument, entry.detector, "NXdetector")
    made, start = h5py.h5p.create(h5py.h5p.DATASET_CREATE), 0
    made.set_obj_track_times(False)  # the same input gives the same bytes; h5py's own call has no option for it
    frames = h5py.h5s.create_simple((entry.frames, *entry.shape))
    for name, count in entry.files:
        frames.select_hyperslab((start, 0, 0), (count, *entry.shape))
        made.set_virtual(frames, name.encode(), CAMERA_DATA.encode(), h5py.h5s.create_simple((count, *entry.shape)))
        start += count
    frames.select_all()
    h5py.h5d.create(camera.id, b"data", h5py.h5t.py_create(np.dtype(entry.dtype), logical=True), frames, made)
    camera["image"] = h5py.SoftLink(f"{here.name}/instrument/{entry.detector}/data")
    camera["type"] = "lima"
    for axis in "xy":
        camera[f"{axis}_pixel_size"] = float(entry.detector_pixel)
        camera[f"{axis}_pixel_size"].attrs["units"] = "um"
    acquisition = _group(camera, "acq_parameters", "NXcollection")
    acquisition["acq_expo_time"] = float(entry.exposure)
    acquisition["acq_nb_frames"] = entry.frames
    control = _group(camera, "ctrl_parameters", "NXcollection")
    control["saving_format"], control["saving_suffix"] = "HDF5BS", ".h5"
    control["saving_frame_per_file"] = max(count for _, count in entry.files)
    measurement[entry.detector] = h5py.SoftLink(f"{here.name}/instrument/{entry.detector}/data")


def _write_parameters(instrument: h5py.Group, entry: Entry) -> None:
    """Write the scan command; readers derive the grid from it."""
    group = _group(instrument, "fscan_parameters", "NXcollection")
    for prefix, axis in zip(("slow_", "fast_") if len(entry.axes) == 2 else ("",), entry.axes, strict=True):
        group[f"{prefix}motor"] = axis[0]
        group[f"{prefix}start_pos"], group[f"{prefix}step_size"] = float(axis[1]), float(axis[2])
        group[f"{prefix}npoints"] = int(axis[3])
    if len(entry.axes) == 2:
        group["fast_motor_mode"] = REWIND
    group["acq_time"], group["latency_time"] = float(entry.exposure), 0.0
    group["scan_mode"] = "TIME"
    for key in ("scan_name", "scan_type"):
        group[key] = "fscan2d" if len(entry.axes) == 2 else "fscan"
