"""BLISS master files (NeXus in HDF5): entries N.1 with a scan command, motors, counters and a camera.

Entries N.2 are a second chain of slow sensors with another clock and another length; they are never matched with
frames by number.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from dfxm_dask.errors import SourceError
from dfxm_dask.store.bliss_command import Command, scan_command
from dfxm_dask.store.bliss_detector import find_detector, pixel_edges
from dfxm_dask.store.bliss_grid import Readback, complete_frames, scan_axes
from dfxm_dask.store.bliss_pieces import frame_pieces
from dfxm_dask.store.kinds import not_a_master
from dfxm_dask.store.links import Sources
from dfxm_dask.store.source import Axis, Beamline, Piece, Scan

UNITS = {
    "deg": "degree", "degrees": "degree", "°": "degree", "radian": "rad", "rads": "rad", "sec": "s", "seconds": "s",
    "second": "s", "micron": "um", "microns": "um", "µm": "um", "μm": "um", "kev": "keV", "ev": "eV",
}  # fmt: skip
LONGEST_TEXT = 300


def _entries(file: h5py.File) -> list[str]:
    """Names N.1 in numerical order."""
    return sorted((name for name in file if re.fullmatch(r"\d+\.1", name)), key=lambda name: int(name.split(".")[0]))


def list_bliss(path: Path, *, roots: tuple[Path, ...] = ()) -> list[tuple[str, str]]:
    """Entries N.1 and their titles; an entry that cannot be reached has its fault as title."""
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


def read_bliss(
    path: Path,
    entry_name: str,
    *,
    beamline: Beamline,
    detector: str | None = None,
    roots: tuple[Path, ...] = (),
    allow_partial: bool = False,
) -> Scan:
    """One entry of a master file; see :func:`dfxm_dask.store.source.read_scan`."""
    asked = f"{path} entry {entry_name}"
    with Sources(path, asked, roots) as sources:
        entry = _entry(sources, entry_name)
        title = _text(sources, entry, "title")
        command = scan_command(title, _parameters(sources, entry), asked)
        name, dataset = find_detector(sources, entry, detector, beamline.detectors)
        pieces, problem = frame_pieces(sources, dataset)
        # What was aborted and what was lost look alike: both are taken only on request.
        if problem is not None and not allow_partial:
            raise problem
        found = sum(piece.count for piece in pieces)
        if command.name == "loopscan" and command.count == 0:
            command = _counted(command, found)
        commanded = command.count
        partial = allow_partial and found < commanded
        motors = [m.motor for d in command.drives for m in (d, *d.partners)]
        reads = {motor: _readback(sources, entry, motor, found, partial=partial) for motor in motors}
        if partial:
            # An aborted scan may have stopped between the frame and the motors.
            found = min([found, *(len(r.values) for r in reads.values() if r.values is not None)])
        command, count = complete_frames(command, found, asked, allow_partial=allow_partial)
        reads = {m: Readback(_first(r.values, count), r.units, r.before) for m, r in reads.items()}
        notes: dict[str, str | float]
        if command.drives:
            axes, order, notes = scan_axes(command, reads.__getitem__, beamline, asked)
        else:
            axes, order = (_time_axis(sources, entry, command, count, found, partial=partial),), np.arange(count)
            notes = {"command": command.name}
        look = _Look(sources, entry, count, found, partial)
        z, z_motor, z_units = _layer(sources, entry, beamline)
        monitor, monitor_name = look.first_counter(beamline.monitors)
        if monitor_name:
            notes["monitor"] = monitor_name
        exposure = np.full(count, command.exposure) if command.exposure else None
        if exposure is None:
            expo = sources.value(entry, f"instrument/{name}/acq_parameters/acq_expo_time")
            if isinstance(expo, int | float | np.number) and expo > 0:
                exposure = np.full(count, float(expo))
            else:
                exposure, _ = look.first_counter(["sec"])
        return Scan(
            source=str(path),
            entry=entry_name,
            title=title or command.name,
            axes=axes,
            order=order.astype(np.int64),
            frame_shape=(int(dataset.shape[1]), int(dataset.shape[2])),
            dtype=dataset.dtype.newbyteorder("="),
            pieces=_cut(pieces, count),
            detector=name,
            detector_pixel=pixel_edges(sources, entry, name),
            z=z,
            z_motor=z_motor,
            z_units=z_units,
            monitor=monitor,
            exposure=exposure,
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
        raise SourceError(
            sources.asked, "is no group, or a link that leads nowhere", "name another entry, or another file"
        )
    listed = ", ".join(known[:20]) + (" ..." if len(known) > 20 else "")
    if name in sources.master and not re.fullmatch(r"\d+\.1", name):
        raise SourceError(sources.asked, "is no scan with frames (N.2 holds slow sensors)", f"entries are {listed}")
    raise SourceError(sources.asked, "no such entry", f"entries are {listed}")


def _text(sources: Sources, entry: h5py.Group, path: str) -> str | None:
    value = sources.value(entry, path)
    return value[:LONGEST_TEXT] if isinstance(value, str) else None


def _parameters(sources: Sources, entry: h5py.Group) -> dict[str, Any]:
    group = sources.find(entry, "instrument/fscan_parameters")
    return {key: sources.value(group, key) for key in group} if isinstance(group, h5py.Group) else {}


def _counted(command: Command, found: int) -> Command:
    return Command(command.name, (), found, None, command.exposure, None)


def _first(values: np.ndarray | None, count: int) -> np.ndarray | None:
    return None if values is None else values[:count]


def _cut(pieces: tuple[Piece, ...], count: int) -> tuple[Piece, ...]:
    return tuple(
        Piece(p.file, p.dataset, p.first, min(p.count, count - p.start), p.start) for p in pieces if p.start < count
    )


def _units(sources: Sources, dataset: h5py.Dataset) -> str | None:
    unit = sources.unit(dataset)
    return UNITS.get(unit.lower(), unit) or None


def _readback(sources: Sources, entry: h5py.Group, motor: str, found: int, *, partial: bool) -> Readback:
    """What a scanned motor read at mid-exposure, from the first place that has more than one value."""
    if "/" in motor:
        raise SourceError(sources.asked, f"motor {motor!r} is not a name", "correct the title")
    units = None
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
        units = units or _units(sources, dataset)
        value = sources.value(entry, path)
        # A scalar is where the motor stood once; the string "ERR" is a motor that did not answer.
        if isinstance(value, str | bytes) or value is None or (np.ndim(value) == 0 and found != 1):
            continue
        values = np.atleast_1d(np.asarray(value))
        if values.dtype.kind not in "fiu" or values.ndim != 1:
            continue
        if len(values) != found and not partial:
            raise SourceError(
                sources.asked,
                f"motor {motor} has {len(values)} positions for {found} frames ({path})",
                "restore the positions or the frames",
            )
        return Readback(values.astype(np.float64), units, None)
    before = sources.value(entry, f"instrument/positioners_start/{motor}")
    usable = isinstance(before, int | float | np.number) and np.isfinite(before)
    return Readback(None, units, float(before) if usable else None)


class _Look:
    """Counters with one sample for each frame."""

    def __init__(self, sources: Sources, entry: h5py.Group, count: int, found: int, partial: bool) -> None:
        self.sources, self.entry, self.count, self.found, self.partial = sources, entry, count, found, partial

    def first_counter(self, names: list[str]) -> tuple[np.ndarray | None, str]:
        """The first counter that is there for every frame, and its name."""
        for name in names:
            for path in (f"measurement/{name}", f"instrument/{name}/data", f"instrument/{name}/value"):
                value = self.sources.value(self.entry, path)
                if not isinstance(value, np.ndarray) or value.ndim != 1 or value.dtype.kind not in "fiu":
                    continue
                if len(value) == self.found or (self.partial and len(value) >= self.count):
                    if np.isfinite(value[: self.count]).all():
                        return value[: self.count].astype(np.float64), name
        return None, ""


def _time_axis(sources: Sources, entry: h5py.Group, command: Command, count: int, found: int, *, partial: bool) -> Axis:
    look = _Look(sources, entry, count, found, partial)
    values, name = look.first_counter(["elapsed_time", "epoch_trig", "epoch", "timer_trig"])
    if values is not None:
        if (np.diff(values) <= 0).any():
            at = int(np.argmax(np.diff(values) <= 0)) + 1
            raise SourceError(sources.asked, f"{name} does not grow at frame {at}", "restore the times of the frames")
        return Axis("time", "", values - values[0] if name == "epoch" else values, "s", None, None, values)
    step = command.exposure
    if step is None:
        raise SourceError(sources.asked, "loopscan without times or exposure", "add elapsed_time to measurement")
    return Axis("time", "", np.arange(count) * step, "s", 0.0, step, None)


def _layer(sources: Sources, entry: h5py.Group, beamline: Beamline) -> tuple[float | None, str | None, str | None]:
    """Position of the layer: the first motor of the beamline's ``z`` that stood still at a known place."""
    for motor in beamline.motors.get("z", []):
        for path in (f"instrument/positioners/{motor}", f"instrument/{motor}/value", f"instrument/{motor}/data"):
            dataset, value = sources.find(entry, path), sources.value(entry, path)
            if value is None or isinstance(value, str | bytes):
                continue
            values = np.atleast_1d(np.asarray(value))
            if values.dtype.kind in "fiu" and values.size and np.isfinite(values).all() and np.ptp(values) == 0:
                return (
                    float(values.flat[0]),
                    motor,
                    _units(sources, dataset) or beamline.units.get(motor) or beamline.units.get("z", "mm"),
                )
    return None, None, None


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
            value = sources.value(group, motor)
            if isinstance(value, int | float | np.number) and np.isfinite(value):
                words[f"positioners/{motor}"] = float(value)
    return words
