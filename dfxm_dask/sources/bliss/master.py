"""BLISS master files (NeXus in HDF5): entries N.1 with a scan command, motors, counters and a camera.

Entries N.2 are a second chain of slow sensors with another clock and another length; they are never matched with
frames by number.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from dfxm_dask.errors import SourceError
from dfxm_dask.sources.bliss.camera import camera_settings, full_well
from dfxm_dask.sources.bliss.command import Command, scan_command
from dfxm_dask.sources.bliss.counters import Look, per_frame, time_axis
from dfxm_dask.sources.bliss.detector import find_detector, pixel_edges
from dfxm_dask.sources.bliss.frames import hdf5_frames
from dfxm_dask.sources.bliss.grid import Readback, complete_frames, scan_axes
from dfxm_dask.sources.bliss.pieces import frame_pieces
from dfxm_dask.sources.hdf5_links import Sources
from dfxm_dask.sources.layer_position import Stood, layer_place
from dfxm_dask.sources.paths import HDF5_MAGIC, HDF5_NAMES
from dfxm_dask.sources.readers import How
from dfxm_dask.sources.source import Beamline, Piece, Scan
from dfxm_dask.sources.units import base_unit
from dfxm_dask.sources.wrong_kinds import not_a_master

name = "bliss"
summary = "BLISS master files (NeXus in HDF5): entries 1.1, 2.1, ... with a scan command, motors and a camera"
narrows: tuple[str, ...] = ()
frames = hdf5_frames
LONGEST_TEXT = 300


def matches(paths: Sequence[str]) -> bool:
    """Whether all are HDF5 files, by first bytes or names."""
    return all(map(is_hdf5, paths))


def is_hdf5(path: str) -> bool:
    if os.path.isdir(path):
        return False
    if os.path.isfile(path):
        with suppress(OSError), open(path, "rb") as file:
            if file.read(len(HDF5_MAGIC)) == HDF5_MAGIC:
                return True
    return path.lower().endswith(HDF5_NAMES)


def sources(paths: Sequence[str]) -> list[list[str]]:
    """Each master file is a source."""
    return [[path] for path in paths]


def one_master(paths: Sequence[str]) -> Path:
    """The only path.

    Raises
    ------
    SourceError
    """
    if len(paths) > 1:
        raise SourceError(f"source {paths[0]} and {len(paths) - 1} more", "are several master files", "give one")
    return Path(paths[0])


def scans(paths: Sequence[str], roots: tuple[Path, ...] = ()) -> list[tuple[str, str]]:
    """Entries N.1 and their titles; see :func:`list_bliss`."""
    return list_bliss(one_master(paths), roots=roots)


def _entries(file: h5py.File) -> list[str]:
    """Names N.1 in numerical order."""
    return sorted((name for name in file if re.fullmatch(r"\d+\.1", name)), key=lambda name: int(name.split(".")[0]))


def entries_of(path: Path) -> list[str]:
    """Names N.1 of the entries in numerical order; the entries are not read.

    Raises
    ------
    SourceError
        The file cannot be opened.
    """
    with Sources(path, str(path)) as sources:
        return _entries(sources.master)


def list_bliss(path: Path, *, roots: tuple[Path, ...] = ()) -> list[tuple[str, str]]:
    """Entries N.1 and their titles; for an unreachable entry the fault instead of a title."""
    found = []
    with Sources(path, str(path), roots) as sources:
        for name in _entries(sources.master):
            try:
                entry = sources.find(sources.master, name)
                title = _text(sources, entry, "title") if isinstance(entry, h5py.Group) else None
                if title is None and isinstance(entry, h5py.Group):
                    parameters = _parameters(sources, entry)
                    title = str(parameters.get("scan_name", "")) or "(no title)"
            except SourceError as error:
                title = f"({error.found})"
            found.append((name, title or "(not an entry)"))
    return found


def read(paths: Sequence[str], entry: str, how: How) -> Scan:
    """One entry of a master file."""
    return read_entry(one_master(paths), entry, how, _command)


def _command(sources: Sources, entry: h5py.Group, how: How) -> Command:
    """The command by the parameters of fscan and by the title."""
    return scan_command(_text(sources, entry, "title"), _parameters(sources, entry), sources.asked)


def read_entry(
    path: Path, entry_name: str, how: How, command_of: Callable[[Sources, h5py.Group, How], Command]
) -> Scan:
    """One entry of a master file, with a function that reads its command."""
    how.refuse("repeats", "time_step")
    beamline, allow_partial = how.beamline, how.allow_partial
    asked = f"{path} entry {entry_name}"
    with Sources(path, asked, how.roots) as sources:
        entry = _entry(sources, entry_name)
        title = _text(sources, entry, "title")
        command = command_of(sources, entry, how)
        name, dataset = find_detector(sources, entry, how.detector, beamline.detectors)
        pieces, problem = frame_pieces(sources, dataset)
        # Aborted scans and lost frames cannot be distinguished: both require a request.
        if problem is not None and not allow_partial:
            raise problem
        found = sum(piece.count for piece in pieces)
        if not command.drives and command.count == 0:
            command = replace(command, count=found)
        commanded = command.count
        partial = allow_partial and found < commanded
        motors = [m.motor for d in command.drives for m in (d, *d.partners)]
        reads = {motor: _readback(sources, entry, motor, found, partial=partial) for motor in motors}
        if partial:
            # An aborted scan may have stopped between the frame and the motors.
            found = min([found, *(len(r.values) for r in reads.values() if r.values is not None)])
        command, count = complete_frames(command, found, asked, allow_partial=allow_partial)
        reads = {m: replace(r, values=_first(r.values, count)) for m, r in reads.items()}
        look = Look(sources, entry, count, found, partial)
        notes: dict[str, str | float]
        if command.drives:
            axes, order, notes = scan_axes(
                command, reads.__getitem__, beamline, asked, scan_mode=how.scan_mode, positions=how.positions
            )
        else:
            axes, order, notes = (time_axis(look, command),), np.arange(count), {"command": command.name}
        z = layer_place(lambda motor: _stood(sources, entry, motor), beamline)
        counters, faults = look.monitors(beamline.monitors)
        monitor = counters[0] if counters else None
        exposure, exposure_source = _exposure(look, command, name)
        settings = camera_settings(sources, entry, name, pieces)
        dtype = dataset.dtype.newbyteorder("=")
        saturation, saturation_source = full_well(settings, dtype)
        return Scan(
            source=str(path),
            entry=entry_name,
            title=title or command.name,
            axes=axes,
            order=order.astype(np.int64),
            frame_shape=(int(dataset.shape[1]), int(dataset.shape[2])),
            dtype=dtype,
            pieces=_cut(pieces, count),
            detector=name,
            detector_pixel=pixel_edges(sources, entry, name),
            z=z.position,
            z_motor=z.motor,
            z_units=z.units,
            z_note=z.note,
            z_unit_read=z.unit_read,
            monitor=monitor.values if monitor else None,
            exposure=exposure,
            counters=counters,
            counter_faults=faults,
            monitor_name=monitor.name if monitor else "",
            monitor_units=monitor.units if monitor else None,
            exposure_source=exposure_source,
            settings=settings,
            parked=_parked(sources, entry, beamline, {*motors, z.motor}),
            saturation=saturation,
            saturation_source=saturation_source,
            commanded=commanded,
            found=found,
            metadata={**_metadata(sources, entry, name), **notes},
            files=sources.files,
        )


def _entry(sources: Sources, name: str) -> h5py.Group:
    known = _entries(sources.master)
    entry = sources.find(sources.master, name) if name in known else None
    if isinstance(entry, h5py.Group):
        return entry
    if not known:
        raise not_a_master(str(sources.master.filename))
    if name in known:
        raise SourceError(sources.asked, "is not a group, or a broken link", "choose another entry or another file")
    listed = ", ".join(known[:20]) + (" ..." if len(known) > 20 else "")
    if name in sources.master and not re.fullmatch(r"\d+\.1", name):
        raise SourceError(
            sources.asked, "is not a scan with frames (N.2 contains slow sensors)", f"choose from the entries {listed}"
        )
    raise SourceError(sources.asked, "does not exist", f"choose from the entries {listed}")


def _text(sources: Sources, entry: h5py.Group, path: str) -> str | None:
    value = sources.value(entry, path)
    return value[:LONGEST_TEXT] if isinstance(value, str) else None


def _parameters(sources: Sources, entry: h5py.Group) -> dict[str, Any]:
    group = sources.find(entry, "instrument/fscan_parameters")
    return {key: sources.value(group, key) for key in group} if isinstance(group, h5py.Group) else {}


def _first(values: np.ndarray | None, count: int) -> np.ndarray | None:
    return None if values is None else values[:count]


def _cut(pieces: tuple[Piece, ...], count: int) -> tuple[Piece, ...]:
    return tuple(
        Piece(p.file, p.dataset, p.first, min(p.count, count - p.start), p.start) for p in pieces if p.start < count
    )


def _exposure(look: Look, command: Command, detector: str) -> tuple[np.ndarray | None, str]:
    """Exposure of every frame in s, and its source."""
    if command.exposure:
        return np.full(look.count, command.exposure), "scan command, the same for every frame"
    path = f"instrument/{detector}/acq_parameters/acq_expo_time"
    value = look.sources.value(look.entry, path)
    if isinstance(value, int | float | np.number) and value > 0:
        return np.full(look.count, float(value)), f"{path}, the same for every frame"
    found = look.seconds("sec")
    return found, "counter sec" if found is not None else ""


def _readback(sources: Sources, entry: h5py.Group, motor: str, found: int, *, partial: bool) -> Readback:
    """Readings of a scanned motor at mid-exposure, from the first dataset with more than one value.

    Raises
    ------
    SourceError
        The record does not contain one number for each frame.
    """
    if "/" in motor:
        raise SourceError(sources.asked, f"motor {motor!r} is not a name", "correct the title")
    units, note = None, ""
    for path in (
        f"instrument/{motor}/value",
        f"instrument/{motor}/data",
        f"measurement/{motor}",
        f"instrument/{motor}_center/data",
        f"measurement/{motor}_center",
        f"instrument/positioners/{motor}",
    ):
        dataset = sources.find(entry, path)
        if not isinstance(dataset, h5py.Dataset):
            continue
        unit = sources.unit(dataset) or None
        units = units or unit
        value = sources.read(dataset)
        # A scalar is a single position; the string "ERR" marks a motor that did not answer.
        if isinstance(value, str | bytes) or value is None or (np.ndim(value) == 0 and found != 1):
            note = note or (f"{path} is {value!r}" if isinstance(value, str) else "")
            continue
        values = per_frame(np.atleast_1d(np.asarray(value)))
        if values is None:
            raise SourceError(
                sources.asked,
                f"motor {motor} has positions of shape {np.shape(value)} and dtype {np.asarray(value).dtype} ({path})",
                f"write {found} numbers, one for each frame, of shape ({found},) or ({found}, 1)",
            )
        if len(values) != found and not partial:
            raise SourceError(
                sources.asked,
                f"motor {motor} has {len(values)} positions for {found} frames ({path})",
                "restore the positions or the frames",
            )
        return Readback(values.astype(np.float64), unit or units or _any_unit(sources, entry, motor), None)
    before = sources.value(entry, f"instrument/positioners_start/{motor}")
    usable = isinstance(before, int | float | np.number) and np.isfinite(before)
    return Readback(None, units, float(before) if usable else None, note)


def _any_unit(sources: Sources, entry: h5py.Group, motor: str) -> str | None:
    """Unit of a motor from the group ``instrument/positioners`` of a BLISS file."""
    dataset = sources.find(entry, f"instrument/positioners/{motor}")
    return sources.unit(dataset) or None if isinstance(dataset, h5py.Dataset) else None


def _stood(sources: Sources, entry: h5py.Group, motor: str) -> Stood:
    """Readings of an unscanned motor and their unit, or the reason for their absence."""
    fault = ""
    for path in (f"instrument/positioners/{motor}", f"instrument/{motor}/value", f"instrument/{motor}/data"):
        dataset = sources.find(entry, path)
        value = sources.read(dataset)
        if value is None:
            continue
        values = np.atleast_1d(np.asarray(value)).ravel()
        if values.dtype.kind in "fiu" and values.size and np.isfinite(values).all():
            return values.astype(np.float64), sources.unit(dataset) or None
        fault = fault or (f"{path} is {values[0]}" if values.size == 1 else f"{path} contains no finite numbers")
    return fault


def _parked(
    sources: Sources, entry: h5py.Group, beamline: Beamline, moved: set[str | None]
) -> dict[str, tuple[float, str, str]]:
    """Unscanned motors of an axis, with their positions in base units."""
    places = {}
    for axis, motors in beamline.motors.items():
        for motor in motors:
            found = _stood(sources, entry, motor) if motor not in moved else ""
            if not isinstance(found, str):
                unit, factor = base_unit(found[1] or beamline.unit_of(motor, axis)[0])
                places[motor] = float(np.median(found[0])) * factor, unit, axis
    return places


def _metadata(sources: Sources, entry: h5py.Group, detector: str) -> dict[str, str | float]:
    words: dict[str, str | float] = {}
    for key, path in (
        ("start_time", "start_time"),
        ("end_time", "end_time"),
        ("end_reason", "end_reason"),
        ("sample", "sample/name"),
        ("beamline", "instrument/name"),
        ("detector_description", f"instrument/{detector}/description"),
    ):
        text = _text(sources, entry, path)
        if text:
            words[key] = text
    group = sources.find(entry, "instrument/positioners")
    if isinstance(group, h5py.Group):
        for motor in group:
            dataset = sources.find(group, motor)
            value = sources.read(dataset)
            if isinstance(value, int | float | np.number) and np.isfinite(value):
                words[f"positioners/{motor}"] = float(value)
                if unit := sources.unit(dataset) if isinstance(dataset, h5py.Dataset) else None:
                    words[f"units/{motor}"] = unit
    return words
