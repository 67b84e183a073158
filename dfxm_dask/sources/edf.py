"""EDF frames: a folder, a file, or a list of both, of one or more frames each.

Headers contain the scan command, the number of the point, and all motors. Files are ordered by these, never by name.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import groupby
from pathlib import Path

import numpy as np

from dfxm_dask.errors import SourceError
from dfxm_dask.sources.bliss.camera import NO_SETTING, full_well
from dfxm_dask.sources.bliss.command import REWIND, Command, scan_command
from dfxm_dask.sources.bliss.counters import commanded_times
from dfxm_dask.sources.bliss.grid import Readback, complete_frames, grid_order, scan_axes
from dfxm_dask.sources.edf_headers import Frame, frames_of, open_edf, read_counts
from dfxm_dask.sources.layer_position import Stood, layer_place
from dfxm_dask.sources.paths import EDF_NAMES, HDF5_MAGIC, inside, series
from dfxm_dask.sources.readers import How
from dfxm_dask.sources.source import Axis, Beamline, Counter, Piece, Roi, Scan, check_unchanged
from dfxm_dask.sources.units import base_unit

name = "edf"
summary = "EDF files or a folder of them: scan command, point numbers and motors in their headers"
narrows = ("bliss",)  # EDF files whose names end in .h5
EDF = "edf"
"""Name of the dataset in pieces of EDF files, which have no datasets."""
SETTING = re.compile(r"(acq|acc|image|det|camera|bit)_?|.*(binning|roi|depth|gain|saturation)", re.IGNORECASE)
ONE_SCAN = "select the files of one scan, with a list or a pattern"


def matches(paths: Sequence[str]) -> bool:
    """Whether all are EDF files, or folders with EDF files."""
    return all(map(_is_edf, paths))


def _is_edf(path: str) -> bool:
    """Whether a file is EDF, by its name or its first bytes."""
    if os.path.isdir(path):
        return bool(inside(path, EDF_NAMES))
    start = b""
    if os.path.isfile(path):
        with suppress(OSError), open(path, "rb") as file:
            start = file.read(512)
    if path.lower().endswith(EDF_NAMES):
        return not start.startswith(HDF5_MAGIC)
    return re.match(rb"\s*\{\s*\w+\s*=", start) is not None


def sources(paths: Sequence[str]) -> list[list[str]]:
    """Folders; files of one folder are one series, but a file with whole scans is a source of its own."""
    return [
        part
        for files in series(paths)
        for part in ([[f] for f in files] if len(files) > 1 and _holds_whole_scans(files[0]) else [files])
    ]


def _files(paths: Sequence[str]) -> list[str]:
    """Files of a series, each once; files of a folder in natural order."""
    found: list[str] = []
    for path in paths:
        whole = os.path.abspath(path)  # workers may have another working directory
        found += inside(whole, EDF_NAMES) if os.path.isdir(whole) else [whole]
    return list(dict.fromkeys(found))


def _holds_whole_scans(file: str) -> bool:
    """Whether a file contains all frames of the commands of its scans."""
    return all(
        scan_command(_title(group[0]) or None, {}, f"{file} entry {entry}").count == len(group)
        for entry, group in _scans([file]).items()
    )


def _title(frame: Frame) -> str:
    return " ".join(frame.header.get("scan", "").split())


def _scans(path: Sequence[str]) -> dict[str, list[Frame]]:
    every = sorted((f for file in _files(path) for f in frames_of(file)), key=lambda f: f.scan_number)
    return {f"{number}.1": list(group) for number, group in groupby(every, key=lambda f: f.scan_number)}


def scans(paths: Sequence[str], roots: tuple[Path, ...] = ()) -> list[tuple[str, str]]:
    """Scans by number, and their commands."""
    return [(entry, _title(found[0]) or "(no scan command)") for entry, found in _scans(paths).items()]


def read(paths: Sequence[str], entry: str, how: How) -> Scan:
    """A scan in EDF files. ``entry`` is its number ("86.1"); "1.1" also denotes the only scan."""
    how.refuse("repeats", "time_step")
    beamline, allow_partial = how.beamline, how.allow_partial
    source = paths[0] if len(paths) == 1 else os.path.dirname(os.path.abspath(paths[0]))
    asked = f"{source} entry {entry}"
    known = _scans(paths)
    if entry not in known and not (entry == "1.1" and len(known) == 1):
        raise SourceError(asked, "does not exist", f"choose from the entries {', '.join(known)}")
    found = known[entry] if entry in known else next(iter(known.values()))
    _refuse_unlike(found, asked)
    title = _title(found[0])
    command = scan_command(title or None, {}, asked)
    commanded = command.count
    if not command.drives and commanded == 0:
        command = replace(command, count=len(found))
        commanded = len(found)
    if len(found) > commanded:
        raise SourceError(asked, f"has {len(found)} frames, but the command requests {commanded}", ONE_SCAN)
    total = len(found)
    try:
        found = _in_order(found, command, asked)
        command, count = complete_frames(command, total, asked, allow_partial=allow_partial)
    except SourceError as error:
        raise (_part_of_a_series(found, commanded, asked) if total < commanded else None) or error from None
    found = found[:count]

    def look(motor: str) -> Readback:
        values = np.array([f.motors.get(motor, f.counters.get(motor, math.nan)) for f in found])
        known = any(motor in f.motors or motor in f.counters for f in found)
        return Readback(values if known else None)

    notes: dict[str, str | float] = {"command": command.name}
    if command.drives:
        axes, order, notes = scan_axes(command, look, beamline, asked, scan_mode=how.scan_mode, positions=how.positions)
    else:
        axes, order = (_time_axis(found, command, asked),), np.arange(count)
    counters = tuple(Counter(name, None, v) for name in beamline.monitors if (v := _counter(found, name)) is not None)
    exposure, exposure_source = _counter(found, "sec"), "counter sec"
    if exposure is None and command.exposure:
        exposure, exposure_source = np.full(count, command.exposure), "scan command, the same for every frame"
    settings = _settings(found[0])
    dtype = np.dtype(found[0].dtype).newbyteorder("=")
    dtype = dtype if dtype.itemsize <= found[0].counts.itemsize else found[0].counts
    saturation, saturation_source = full_well(settings, dtype)
    z = layer_place(lambda motor: _stood(found, motor), beamline)
    moved = {axis.motor for axis in axes}
    partners = {p.motor for d in command.drives for p in (d, *d.partners)}
    fixed = {m: v for m, v in found[0].motors.items() if m not in moved and math.isfinite(v)}
    return Scan(
        source=source,
        entry=entry,
        title=title,
        axes=axes,
        order=order.astype(np.int64),
        frame_shape=found[0].shape,
        dtype=dtype,
        pieces=_pieces(found),
        detector=found[0].header.get("prefix", "").rstrip("_") or "edf",
        z=z.position,
        z_motor=z.motor,
        z_units=z.units,
        z_note=z.note,
        z_unit_read=z.unit_read,
        monitor=counters[0].values if counters else None,
        exposure=exposure,
        counters=counters,
        monitor_name=counters[0].name if counters else "",
        exposure_source=exposure_source if exposure is not None else "",
        settings=settings,
        parked=_parked(found[0], beamline, {*moved, z.motor, *partners}),
        saturation=saturation,
        saturation_source=saturation_source,
        commanded=commanded,
        found=total,
        metadata={
            **({"start_time": found[0].header["date"]} if "date" in found[0].header else {}),
            **{f"positioners/{name}": value for name, value in fixed.items()},
            **notes,
        },
        files=tuple(
            (file, (s := os.stat(file)).st_size, s.st_mtime_ns) for file in dict.fromkeys(f.file for f in found)
        ),
    )


def _refuse_unlike(found: list[Frame], asked: str) -> None:
    """Refuse frames of one scan with different commands, shapes or dtypes."""
    alike: tuple[tuple[str, list[object]], ...] = (
        ("scan commands", [_title(f) for f in found]),
        ("frame shapes", [f.shape for f in found]),
        ("dtypes", [f.counts.name for f in found]),
    )
    for label, values in alike:
        kinds = list(dict.fromkeys(values))
        if len(kinds) > 1:
            other = found[values.index(kinds[1])].file
            raise SourceError(asked, f"{label} differ: {kinds[0]} and {kinds[1]} (in {other})", ONE_SCAN)


def _part_of_a_series(found: list[Frame], commanded: int, asked: str) -> SourceError | None:
    """Error for files of an incomplete selection: others of the same scan are in the same folder."""
    folder = os.path.dirname(found[0].file)
    same = (found[0].scan_number, _title(found[0]))
    there = 0
    for file in _files([folder]):
        with suppress(SourceError):  # a damaged file raises where it is selected
            there += sum((f.scan_number, _title(f)) == same for f in frames_of(file))
    if there <= len(found):
        return None
    short = f", of {commanded} commanded: add --allow-partial to ingest the complete part"
    return SourceError(
        asked,
        f"{'is' if len(found) == 1 else 'are'} {len(found)} of the {there} frames of this scan in the folder {folder}",
        f"give the folder, or all files of the scan with a pattern{short if there < commanded else ''}",
    )


def _in_order(found: list[Frame], command: Command, asked: str) -> list[Frame]:
    """Frames in recorded order: by point number, else by the positions of the motors."""
    points = [f.point for f in found]
    if None not in points and len(set(points)) == len(points):
        ordered = sorted(found, key=lambda f: f.point or 0)
        numbers = [f.point or 0 for f in ordered]
        if numbers != list(range(numbers[0], numbers[0] + len(numbers))) or numbers[0] not in (0, 1):
            gap = next((n for n, m in zip(range(len(numbers)), numbers, strict=True) if n != m), 0)
            raise SourceError(
                asked, f"point_no of the frames are not consecutive near {gap}", "restore the missing files"
            )
        return ordered
    times = [f.header.get("epoch") for f in found]
    if not command.drives and None not in times and len(set(times)) == len(times):
        return sorted(found, key=_epoch)
    if not command.drives or any(d.motor not in f.motors for f in found for d in command.drives):
        raise SourceError(
            asked,
            "headers have neither point numbers nor positions of the scanned motors",
            "add point_no to the headers",
        )
    # Not a sort by readback: each frame is assigned to the nearest commanded position, which must be free.
    places: dict[int, Frame] = {}
    shape = tuple(d.count for d in command.drives)
    for frame in found:
        index = []
        for drive in command.drives:
            value = frame.motors[drive.motor]
            near = (value - drive.start) / drive.step if drive.step and math.isfinite(value) else math.nan
            if drive.relative or not math.isfinite(near) or not 0 <= round(near) < drive.count:
                raise SourceError(
                    asked,
                    f"{frame.file} has {drive.motor} at {value:g}, off the commanded grid",
                    "add point_no to its header",
                )
            index.append(round(near))
        flat = int(np.ravel_multi_index(index, shape))
        if flat in places:
            raise SourceError(
                asked, f"{frame.file} and {places[flat].file} repeat position {index}", "remove one of them"
            )
        places[flat] = frame
    return [places[flat] for flat in grid_order(shape, command.count, REWIND) if flat in places]


def _settings(frame: Frame) -> dict[str, str | float]:
    """Settings of the camera that LIMA writes into the header."""
    kept: dict[str, str | float] = {}
    for name, text in frame.header.items():
        if SETTING.match(name) and not NO_SETTING.search(name):
            try:
                kept[name] = float(text)
            except ValueError:
                kept[name] = text.strip()
    return kept


def _parked(frame: Frame, beamline: Beamline, moved: set[str | None]) -> dict[str, tuple[float, str, str]]:
    """Unscanned motors of an axis, with their positions in base units."""
    places = {}
    for motor, value in frame.motors.items():
        axis = beamline.axis_of(motor)
        if axis is not None and motor not in moved and math.isfinite(value):
            unit, factor = base_unit(beamline.unit_of(motor, axis)[0])
            places[motor] = value * factor, unit, axis
    return places


def _stood(found: list[Frame], motor: str) -> Stood:
    """Readings of a motor in the headers, without unit, or the reason for their absence."""
    if not any(motor in f.motors for f in found):
        return ""
    values = np.array([f.motors.get(motor, math.nan) for f in found])
    lost = int((~np.isfinite(values)).sum())
    return f"{lost} of {values.size} headers have no number for {motor}" if lost else (values, None)


def _epoch(frame: Frame) -> float:
    try:
        return float(frame.header["epoch"])
    except ValueError:
        raise SourceError(frame.file, f"has epoch {frame.header['epoch']!r}", "correct the header") from None


def _counter(found: list[Frame], name: str) -> np.ndarray | None:
    values = np.array([f.counters.get(name, math.nan) for f in found])
    return values if np.isfinite(values).all() else None


def _time_axis(found: list[Frame], command: Command, asked: str) -> Axis:
    try:
        values = np.array([float(f.header["epoch"]) for f in found])
    except (KeyError, ValueError):
        return commanded_times(command, len(found), asked, "add epoch to the headers")
    if (np.diff(values) <= 0).any():
        at = int(np.argmax(np.diff(values) <= 0)) + 1
        raise SourceError(asked, f"epoch does not increase at frame {at}", "correct the headers")
    since = values - values[0]
    attrs: dict[str, str | float] = {"clock": "epoch", "time_origin": float(values[0])}
    return Axis("time", "", since, "s", None, None, since, "read", "read: epoch of each frame", attrs)


def _pieces(found: list[Frame]) -> tuple[Piece, ...]:
    pieces: list[Piece] = []
    for number, frame in enumerate(found):
        last = pieces[-1] if pieces else None
        if last and last.file == frame.file and last.first + last.count == frame.index:
            pieces[-1] = Piece(last.file, EDF, last.first, last.count + 1, last.start)
        else:
            pieces.append(Piece(frame.file, EDF, frame.index, 1, number))
    return tuple(pieces)


def frames(scan: Scan, roi: Roi) -> Iterator[tuple[int, np.ndarray]]:
    """Frames in recorded order with their numbers; see :func:`dfxm_dask.sources.readers.frames`."""
    y0, y1, x0, x1 = roi
    asked = f"{scan.source} entry {scan.entry}"
    for piece in scan.pieces:
        check_unchanged(scan, piece.file)
        found = frames_of(piece.file)[piece.first : piece.first + piece.count]
        try:
            stream = open_edf(piece.file)
        except OSError as error:
            raise SourceError(asked, f"{piece.file} cannot be opened ({error.strerror})", "check the file") from error
        with stream:
            for step, frame in enumerate(found):
                yield piece.start + step, read_counts(stream, frame, asked)[y0:y1, x0:x1]
        check_unchanged(scan, piece.file)
