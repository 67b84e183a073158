"""Frames with a table: TIFF, EDF or HDF5 frames, and a CSV of the positions of the motors.

The table has a row for each frame (or, with ``--repeats``, for each position) and a column for each motor, with its
unit in brackets. A column ``file`` names the frame of each row; without this column, frames follow the numbers in their
names.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np

from dfxm_dask.errors import SourceError
from dfxm_dask.sources.bliss.camera import full_well
from dfxm_dask.sources.layer_position import Stood, layer_place
from dfxm_dask.sources.paths import inside, series
from dfxm_dask.sources.readers import How
from dfxm_dask.sources.source import Axis, Beamline, Counter, Piece, Scan
from dfxm_dask.sources.tables.files import FILE, LISTED, NUMBER, file_column, frames_of_folder, rows_and_files, stacks
from dfxm_dask.sources.tables.frames import FRAME_NAMES, TIFF_NAMES, Stack, frames_in, kind_of_frames
from dfxm_dask.sources.tables.grid import Grid, grid
from dfxm_dask.sources.tables.text import TABLE_NAMES, Table, number, read_table
from dfxm_dask.sources.units import base_unit, factor_between

name = "frames"
summary = "TIFF, EDF or HDF5 frames and a table (.csv, .tsv) of motor positions, with a row for each frame"
narrows: tuple[str, ...] = ()
frames = frames_in
EXPOSURE = ("exposure", "exposure_time", "count_time", "acq_time", "sec")
MONITOR = "monitor"
CLOCKS = ("time", "elapsed_time", "epoch", "epoch_trig", "timestamp")
TABLE = "table"
HELD = {"degree": 1e-3, "um": 0.1}  # a motor that moves less counts as still; other units: 1e-6


def _is_table(path: str) -> bool:
    return path.lower().endswith(TABLE_NAMES) and not os.path.isdir(path)


def matches(paths: Sequence[str]) -> bool:
    """Whether the paths are a table with frames or folders, or only TIFF files or folders of them."""
    if any(map(_is_table, paths)):
        return all(_is_table(p) or os.path.isdir(p) or p.lower().endswith(FRAME_NAMES) for p in paths)
    return all(inside(p, TIFF_NAMES) if os.path.isdir(p) else p.lower().endswith(TIFF_NAMES) for p in paths)


def sources(paths: Sequence[str]) -> list[list[str]]:
    """Each table with the frames given before it (or after it, if a table comes first); without a table, each folder
    and the files of each folder."""
    tables = [k for k, path in enumerate(paths) if _is_table(path)]
    if not tables:
        return series(paths)
    if len(tables) == 1:
        return [list(paths)]
    cuts = [*tables, len(paths)] if tables[0] == 0 else [0, *(k + 1 for k in tables)]
    if cuts[-1] != len(paths):
        raise SourceError(
            f"source {paths[-1]}", "is given after the last of several tables", "give each table after its frames"
        )
    return [list(paths[a:b]) for a, b in pairwise(cuts)]


def scans(paths: Sequence[str], roots: tuple[Path, ...] = ()) -> list[tuple[str, str]]:
    """The scan of a table."""
    path, _ = _table_and_frames(paths)
    table = read_table(path)
    return [("1.1", f"{Path(path).name}: {len(table)} rows of {', '.join(table.columns)}")]


def _table_and_frames(paths: Sequence[str]) -> tuple[str, list[str]]:
    """The table of a source, and its frames; no frames if the table names them."""
    tables = [p for p in paths if _is_table(p)]
    asked = [p for p in paths if not _is_table(p)]
    folders = [os.path.abspath(p if os.path.isdir(p) else os.path.dirname(os.path.abspath(p))) for p in asked]
    if not tables:
        tables = [t for folder in dict.fromkeys(folders) for t in inside(folder, TABLE_NAMES)]
    if len(tables) != 1:
        listed = f"{len(tables)} tables: {', '.join(tables[:LISTED])}" if tables else f"no table ({TABLE_NAMES})"
        raise SourceError(paths[0], f"comes with {listed}", "give the table of its motor positions with the frames")
    found: list[str] = []
    for path in asked:
        found += frames_of_folder(path) if os.path.isdir(path) else [os.path.abspath(path)]
    return os.path.abspath(tables[0]), list(dict.fromkeys(found))


@dataclass(frozen=True)
class _Frame:
    """One frame: its file and dataset, and its number there."""

    file: str
    dataset: str
    index: int


def read(paths: Sequence[str], entry: str, how: How) -> Scan:
    """The scan of a table. ``entry`` is "1.1", or "r2" for the second of several frames at each position."""
    how.refuse("scan_mode", "positions", "time_step")
    path, named = _table_and_frames(paths)
    asked = f"{path} entry {entry}"
    chosen = re.fullmatch(r"r([1-9]\d*)", entry)
    if entry != "1.1" and not chosen:
        raise SourceError(
            asked, "does not exist", "omit --scan, since a table contains one scan, or choose a repeat: r1, r2"
        )
    table = read_table(path)
    line = _own_axes(how.beamline, table)
    rows, files, each = rows_and_files(table, named, how, asked)
    found = stacks(files, how, asked)
    odd = [] if each is None else [(n, s) for n, s in zip(each, found, strict=True) if n != s.count]
    if odd:
        fault = f"{odd[0][0]} rows name {Path(odd[0][1].file).name}, which contains {odd[0][1].count} frames"
        raise SourceError(asked, fault, "write one row for each frame")
    every = [_Frame(p.file, p.dataset, p.first + k) for stack in found for p in stack.pieces for k in range(p.count)]
    recorded = len(every)
    rows, commanded = _matched(rows, recorded, how, asked, each is not None)
    scanned = _scanned(table, line, asked)
    if "time" in scanned.values():
        _check_times(table, next(iter(scanned)), rows, asked)
    places = _grid(table, scanned, rows, line, asked)
    if recorded < commanded:  # cut to the complete rows of the grid; a row of a grid with one axis is a frame
        row = int(np.prod(places.shape[1:])) * places.repeats
        rows = rows[: recorded // row * row]
        if not len(rows):
            raise SourceError(asked, f"has {recorded} of {commanded} frames, not one row of {row}", "leave it out")
        places = _grid(table, scanned, rows, line, asked)
    repeat = _repeat(places, int(chosen[1]) if chosen else None, asked)
    _refuse_one_axis_twice(places, scanned, asked)
    kept = np.flatnonzero(places.repeat == repeat)
    columns = _Columns(table, line, rows[kept], asked)
    axes = tuple(_axis(columns, motor, at[kept]) for motor, at in zip(places.motors, places.index, strict=True))
    z = layer_place(columns.stood, line)
    counters, faults = _counters(columns)
    exposure, exposure_source = _exposure(columns)
    well, well_source = full_well({}, found[0].dtype)
    notes: dict[str, str | float] = {"command": "table"}
    if places.along:
        notes[f"{axes[-1].name}_moved_with"] = " ".join(places.along)
    used = {*places.motors, *places.along, z.motor}
    parked = {
        m: (columns.mean(m) * columns.unit(m)[2], base_unit(columns.unit(m)[0])[0], a)
        for m, a in columns.motors().items()
        if m not in used and np.isfinite(columns.mean(m))
    }
    return Scan(
        source=paths[0] if len(paths) == 1 else path,
        entry=entry,
        title=f"table {Path(path).name}",
        axes=axes,
        order=np.ravel_multi_index([at[kept] for at in places.index], places.shape).astype(np.int64),
        frame_shape=found[0].shape,
        dtype=found[0].dtype,
        pieces=_pieces([every[k] for k in kept]),
        detector=how.detector or kind_of_frames(files[0]),
        z=z.position,
        z_motor=z.motor,
        z_units=z.units,
        z_note=z.note,
        z_unit_read=z.unit_read,
        monitor=counters[0].values if counters else None,
        exposure=exposure,
        counters=counters,
        counter_faults=faults,
        monitor_name=counters[0].name if counters else "",
        monitor_units=counters[0].units if counters else None,
        exposure_source=exposure_source,
        parked=parked,
        saturation=well,
        saturation_source=well_source,
        commanded=commanded // places.repeats,
        found=recorded // places.repeats,
        metadata=notes
        | {
            f"positioners/{m}": v
            for m in columns.motors()
            if m not in places.motors and np.isfinite(v := columns.mean(m))
        },
        files=_files(path, found),
        remarks=_remarks(columns, places, file_column(table, named), recorded // len(table)),
    )


def _repeat(places: Grid, chosen: int | None, asked: str) -> int:
    """Number of the repeat to read, from 0; the user counts from 1.

    Raises
    ------
    SourceError
        Several repeats without a choice, or a number beyond the last repeat.
    """
    if places.repeats > 1 and chosen is None:
        repeats = ", ".join(f"r{k + 1}" for k in range(min(places.repeats, LISTED)))
        raise SourceError(
            asked,
            f"contains {places.repeats} frames at each position",
            f"choose one repeat of the scan with --scan, each for a separate store: {repeats}",
        )
    if chosen is not None and chosen > places.repeats:
        raise SourceError(
            asked, f"contains {places.repeats} frames at each position", f"choose r1 to r{places.repeats}"
        )
    return (chosen or 1) - 1


def _check_times(table: Table, word: str, rows: np.ndarray, asked: str) -> None:
    """Refuse times of the frames that repeat or go backwards.

    Raises
    ------
    SourceError
    """
    values = table.numbers(word)
    steps = np.diff(values[rows]) if values is not None else np.zeros(0)
    if (steps <= 0).any():
        line = table.lines[rows[int(np.argmax(steps <= 0)) + 1]]
        raise SourceError(asked, f"column {word} does not increase in line {line}", "correct the times of the frames")


def _refuse_one_axis_twice(places: Grid, scanned: dict[str, str], asked: str) -> None:
    names = [scanned[motor] for motor in places.motors]
    if len(set(names)) < len(names):
        raise SourceError(
            asked,
            f"motors {' and '.join(places.motors)} are both mapped to {names[0]}",
            f"map one of them to another axis, e.g. --motor {places.motors[0]}=two_theta",
        )


@dataclass(frozen=True)
class _Columns:
    """Columns of a table at the frames of a scan."""

    table: Table
    line: Beamline
    rows: np.ndarray
    asked: str

    def numbers(self, word: str) -> np.ndarray | None:
        values = self.table.numbers(word)
        return None if values is None else values[self.rows]

    def motors(self) -> dict[str, str]:
        return {m: axis for m in self.table.columns if (axis := self.line.axis_of(m)) is not None}

    def mean(self, word: str) -> float:
        values = self.numbers(word)
        return float(np.mean(values)) if values is not None else np.nan

    def unit(self, motor: str) -> tuple[str, str, float]:
        """Unit of a motor as spelled, its source, and the factor into the base unit."""
        return _unit(self.table, motor, self.line, self.motors()[motor], self.asked)

    def stood(self, motor: str) -> Stood:
        if motor not in self.table.columns:
            return ""
        values = self.numbers(motor)
        if values is None or not np.isfinite(values).all():
            return f"column {motor} lacks numbers"
        spelled, source, _ = self.unit(motor)
        return values, spelled if source == TABLE else None


def _axis(columns: _Columns, motor: str, index: np.ndarray) -> Axis:
    spelled, source, factor = columns.unit(motor)
    values = columns.numbers(motor)
    assert values is not None
    values = values * factor
    attrs: dict[str, str | float] = {"units_source": source}
    if factor != 1:
        attrs["converted_from"] = spelled
    unit = base_unit(spelled)[0]
    if unit == "s":  # a clock may start on any day
        attrs |= {"time_origin": float(values.min()), "clock": motor}
        values = values - values.min()
    positions = np.bincount(index, weights=values) / np.bincount(index)
    words = f"given by the table {Path(columns.table.path).name}, mean over the frames at this grid point"
    return Axis(columns.motors()[motor], motor, positions, unit, None, None, values, "given", words, attrs)


def _counters(columns: _Columns) -> tuple[tuple[Counter, ...], dict[str, str]]:
    """Monitors of the beamline, and a column of that name."""
    found, faults = [], {}
    for word in dict.fromkeys((*columns.line.monitors, columns.table.column(MONITOR) or MONITOR)):
        if word in columns.table.columns:
            values = columns.numbers(word)
            if values is None or not np.isfinite(values).all():
                faults[word] = "has rows without a number"
            else:
                found.append(Counter(word, columns.table.units[word] or None, values))
    return tuple(found), faults


def _exposure(columns: _Columns) -> tuple[np.ndarray | None, str]:
    word = columns.table.column(*EXPOSURE)
    values = columns.numbers(word) if word else None
    if word is None:
        return None, ""
    spelled = columns.table.units[word]
    unit, factor = base_unit(spelled or "s")
    if values is None or unit != "s" or not (np.isfinite(values).all() and values.min() > 0):
        raise SourceError(
            columns.asked,
            f"column {word} contains no times ({spelled or 'no unit'})",
            "write positive numbers in s or ms",
        )
    return values * factor, f"column {word} of the table" + ("" if spelled else ", taken as s")


def _pieces(every: Sequence[_Frame]) -> tuple[Piece, ...]:
    pieces: list[Piece] = []
    for start, frame in enumerate(every):
        last = pieces[-1] if pieces else None
        if last and (last.file, last.dataset, last.first + last.count) == (frame.file, frame.dataset, frame.index):
            pieces[-1] = Piece(last.file, last.dataset, last.first, last.count + 1, last.start)
        else:
            pieces.append(Piece(frame.file, frame.dataset, frame.index, 1, start))
    return tuple(pieces)


def _files(path: str, found: Sequence[Stack]) -> tuple[tuple[str, int, int], ...]:
    """The table and all files of frames, with size and modification time."""
    seen = os.stat(path)
    return tuple(dict.fromkeys([(path, seen.st_size, seen.st_mtime_ns), *(f for s in found for f in s.files)]))


def _remarks(columns: _Columns, places: Grid, names: str | None, each: int) -> tuple[str, ...]:
    table, said = columns.table, []
    if each > 1:
        said.append(f"{each} frames belong to each row of the table")
    if places.sorted:
        said.append(
            f"rows of the table are not in the order of {', '.join(places.motors)}: frames are sorted by position"
        )
    if places.along:
        said.append(f"{', '.join(places.along)} changes from row to row along with {', '.join(places.motors)}")
    exposure = table.column(*EXPOSURE)
    roles = {names or table.column(*FILE), table.column(*NUMBER), exposure, table.column(MONITOR)}
    if exposure and not table.units[exposure]:
        said.append(f"column {exposure} has no unit; s is assumed")
    unused = [w for w in table.columns if w not in {*columns.motors(), *columns.line.monitors, *roles}]
    if unused:
        said.append(f"unused columns of the table: {', '.join(unused)}")
    return tuple(said)


def _own_axes(line: Beamline, table: Table) -> Beamline:
    """The beamline, with the columns named like its axes; times are an axis if no column is a scanned motor."""
    taken = {motor for motors in line.motors.values() for motor in motors}
    own = {axis: [*motors, *([axis] if axis not in taken else [])] for axis, motors in line.motors.items()}
    own_line = line.model_copy(update={"motors": own})
    if all(own_line.axis_of(word) in (None, "z") for word in table.columns) and (word := table.column(*CLOCKS)):
        own["time"] = [word]
    return own_line


def _matched(rows: np.ndarray, recorded: int, how: How, asked: str, named: bool) -> tuple[np.ndarray, int]:
    """Row of each frame, and the number of frames in the table."""
    count = len(rows)
    fault = f"the table has {count} rows for {recorded} frames"
    if recorded == count:
        if how.repeats:
            raise SourceError(asked, fault, "omit --repeats: the rows already list the repeats")
        return rows, count
    if recorded < count:
        if how.allow_partial and not named:
            return rows, count
        partial = "" if named else ", or use --allow-partial for an aborted scan"
        lack = f"restore the {count - recorded} missing frames, or remove their rows{partial}"
        raise SourceError(asked, fault, lack)
    repeats, rest = divmod(recorded, count)
    if rest or named:
        raise SourceError(asked, fault, "write one row for each frame")
    if not how.repeats:
        raise SourceError(
            asked,
            f"{fault}, {repeats} for each row, in an unknown order",
            "use --repeats point (frames of a row are consecutive) or --repeats scan (the scan is repeated)",
        )
    at = np.arange(recorded)
    return rows[at // repeats if how.repeats == "point" else at % count], recorded


def _unit(table: Table, word: str, line: Beamline, axis: str, asked: str) -> tuple[str, str, float]:
    """Unit of a motor as spelled, its source, and the factor into the base unit."""
    spelled, source = table.units[word] or _unit_in_name(word), TABLE
    plain = {"energy": "keV", "time": "s"}.get(axis) if word == axis or axis == "time" else None
    usual, told = (plain, "assumed") if plain else line.unit_of(word, axis)
    if not spelled:
        spelled, source = usual, told.replace("the file", "the table")
    unit, factor = base_unit(spelled)
    if unit == spelled and unit not in ("degree", "um", "keV", "s"):
        raise SourceError(asked, f"column {word} has the unknown unit {spelled!r}", "use deg, mrad, um, ...")
    own = word in line.units and word != axis
    known = axis in line.units and not own and axis != "energy"  # an angle of a crystal is also an angle
    if known and factor_between(spelled, usual) is None:
        raise SourceError(
            asked,
            f"column {word} is in {spelled}, but {axis} in {usual}",
            f"correct the unit, map the column to another axis (--motor {word}=AXIS), or give a beamline file "
            f"(--beamline FILE) with units: {{{word}: {spelled}}}",
        )
    return spelled, source, factor


def _unit_in_name(word: str) -> str:
    """Unit at the end of a name, as in mu_mrad or mu/deg; "" without a certain unit."""
    end = re.split(r"[_/ ]", word)[-1]
    return end if end != word and len(end) > 1 and base_unit(end)[0] in ("degree", "um", "keV") else ""


def _scanned(table: Table, line: Beamline, asked: str) -> dict[str, str]:
    """Possible scan motors among the columns, and their axes."""
    scanned = {word: axis for word in table.columns if (axis := line.axis_of(word)) not in (None, "z")}
    if not scanned:
        known = "; ".join(f"{axis}: {', '.join(names)}" for axis, names in line.motors.items() if axis != "z")
        raise SourceError(
            asked,
            f"has no column for a motor of an axis: {', '.join(table.columns)} (known are {known})",
            f"map one, e.g. --motor {list(table.columns)[-1]}=phi",
        )
    return scanned


def _grid(table: Table, scanned: dict[str, str], rows: np.ndarray, line: Beamline, asked: str) -> Grid:
    """The grid of the scanned columns."""
    columns, held = {}, {}
    for word, axis in scanned.items():
        spelled, _, factor = _unit(table, word, line, axis, asked)
        held[word] = HELD.get(base_unit(spelled)[0], 1e-6) / factor
        bad = next((k for k, text in enumerate(table.columns[word]) if not np.isfinite(number(text))), None)
        if bad is not None:
            there = table.columns[word][bad] or "nothing"
            fault = f"column {word} contains {there} in line {table.lines[bad]} in place of a position"
            raise SourceError(asked, fault, "correct the table, or omit this column")
        values = table.numbers(word)
        assert values is not None
        columns[word] = values[rows]
    return grid(columns, held, asked)
