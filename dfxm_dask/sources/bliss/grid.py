"""Scan axes, and the grid position of each frame, from a command and the readback of the motors.

The command determines the grid index of a frame. The readback must agree with the command to half a step, and gives the
value of the position. If they disagree, a program other than BLISS may have written the title: the title is read by the
convention of that program if the readback then agrees exactly. A motor of ``fscan`` moves during the exposure and is
read in its middle, a fraction of a step beyond the command, about the same fraction in every frame.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from dfxm_dask.errors import InputError, SourceError
from dfxm_dask.sources.bliss.command import REWIND, ZIGZAG, Command, Drive, other_readings
from dfxm_dask.sources.source import READ, Axis, Beamline
from dfxm_dask.sources.units import base_unit

HALF = 0.5 + 1e-6
EXACT = 0.1  # of a step: rounding of the numbers in a title. A broken motor may match another reading to half a step
SET_ASIDE = "the readback of the motor was ignored on request"
LEAVE_OUT = "omit this entry: choose the others with --scan"


@dataclass(frozen=True, eq=False)
class Readback:
    """Readings of a motor at each recorded frame, and their unit.

    ``values`` is ``None`` without a record; ``note`` then names a dataset without usable positions.
    """

    values: np.ndarray | None
    units: str | None = None
    before: float | None = None
    note: str = ""


Look = Callable[[str], Readback]


def grid_order(shape: tuple[int, ...], count: int, mode: str) -> np.ndarray:
    """Flat grid index (slow major) of each of the first ``count`` frames, int64."""
    order = np.arange(count, dtype=np.int64)
    if mode == ZIGZAG and len(shape) == 2:
        row, column = np.divmod(order, shape[1])
        order = row * shape[1] + np.where(row % 2, shape[1] - 1 - column, column)
    return order


def complete_frames(command: Command, found: int, asked: str, *, allow_partial: bool) -> tuple[Command, int]:
    """The command reduced to the recorded frames, and the number of frames to use.

    Raises
    ------
    SourceError
        Fewer frames than commanded (unless partial scans are allowed), more frames, or not one complete row.
    """
    if found == 0:
        raise SourceError(asked, f"has 0 of {command.count} frames", LEAVE_OUT)
    if found > command.count:
        raise SourceError(
            asked,
            f"has {found} frames, but the command requests {command.count}",
            "correct the title or fscan_parameters",
        )
    if found == command.count:
        return command, found
    if not allow_partial:
        raise SourceError(
            asked,
            f"has {found} of {command.count} frames",
            "the scan was aborted: ingest its complete part with --allow-partial",
        )
    if not command.drives:
        return replace(command, count=found), found
    row = command.count // command.drives[0].count
    rows = found // row
    if rows == 0:
        raise SourceError(asked, f"has {found} of {command.count} frames, not one row of {row}", LEAVE_OUT)
    slow = command.drives[0]
    partners = tuple(replace(p, count=rows) for p in slow.partners)
    drives = (replace(slow, count=rows, partners=partners), *command.drives[1:])
    return replace(command, drives=drives, count=rows * row), rows * row


def scan_axes(
    command: Command,
    look: Look,
    beamline: Beamline,
    asked: str,
    *,
    scan_mode: str | None = None,
    positions: str | None = None,
) -> tuple[tuple[Axis, ...], np.ndarray, dict[str, str | float]]:
    """Axes (slow first), the grid index of each frame, and notes for the metadata.

    Parameters
    ----------
    command : Command
        With exactly the number of used frames.
    look : callable
        Readback of a motor by name.
    beamline : Beamline
        Names of the axes.
    asked : str
        File and entry, for error messages.
    scan_mode : "rewind" or "zigzag", optional
        Direction of the rows of a scan over two axes, given by the user.
    positions : "motor" or "command", optional
        Single source of the positions: the motors, with only the number and the order of positions from the command;
        or the command. By default the motors, which must agree with the command.

    Raises
    ------
    SourceError
        A motor without an axis, or not at its commanded position; an unknown direction of rows.
    """
    motors = [d.motor for drive in command.drives for d in (drive, *drive.partners)]
    seen = {motor: look(motor) for motor in motors}
    if positions == "motor":
        return _axes_of_motors(command, seen, beamline, asked, scan_mode)
    if positions == "command":
        seen = {motor: replace(read, values=None, note=read.note or SET_ASIDE) for motor, read in seen.items()}
    try:
        return _axes(command, seen, beamline, asked, scan_mode, HALF)
    except SourceError:
        if any(seen[d.motor].values is None for d in command.drives if d.count > 1):
            raise
        for reading, words in other_readings(command, _known_units(seen, beamline)):
            try:
                axes, order, notes = _axes(reading, seen, beamline, asked, scan_mode, EXACT)
            except SourceError:
                continue
            for axis in axes:
                axis.attrs["title_read_as"] = words
            return axes, order, notes
        raise


def _axes_of_motors(
    command: Command, seen: dict[str, Readback], beamline: Beamline, asked: str, scan_mode: str | None
) -> tuple[tuple[Axis, ...], np.ndarray, dict[str, str | float]]:
    """:func:`scan_axes` from the motors, in the first order of axes that puts all frames of a grid index together."""
    for drive in command.drives:
        if seen[drive.motor].values is None and drive.count > 1:
            raise SourceError(
                asked,
                f"has no position of motor {drive.motor} for each frame",
                "use --positions command, or omit the option",
            )
    first: SourceError | None = None
    for order in (command, replace(command, drives=command.drives[::-1])):
        try:
            axes, places, notes = _axes(order, seen, beamline, asked, scan_mode, np.inf)
            _together(axes, places, asked)
        except SourceError as error:
            first = first or error
            continue
        return tuple(replace(a, commanded_start=None, commanded_step=None) for a in axes), places, notes
    assert first is not None
    raise first


def _together(axes: tuple[Axis, ...], places: np.ndarray, asked: str) -> None:
    """Refuse positions of one grid index that are further apart than neighbouring indices."""
    index = np.unravel_index(places, tuple(len(a.positions) for a in axes))
    for axis, at in zip(axes, index, strict=True):
        if axis.readback is None or len(axis.positions) < 2:
            continue
        off = np.abs(axis.readback - axis.positions[at])
        if off.max() > HALF * np.abs(np.diff(axis.positions)).min():
            frame = int(off.argmax())
            raise SourceError(
                asked,
                f"motor {axis.motor} is {axis.readback[frame]:.6g} {axis.units} at frame {frame}, while the others of "
                f"this grid index are at {axis.positions[at[frame]]:.6g}",
                "check the motor, or use --positions command",
            )


def _known_units(seen: dict[str, Readback], beamline: Beamline) -> dict[str, str]:
    """Motor → unit of its positions: recorded, or, without positions, from the beamline."""
    units = {}
    for motor, read in seen.items():
        unit = read.units
        if unit is None and read.values is None and (name := beamline.axis_of(motor)):
            unit = beamline.unit_of(motor, name)[0]
        if unit:
            units[motor] = unit
    return units


def _axes(
    command: Command, seen: dict[str, Readback], beamline: Beamline, asked: str, scan_mode: str | None, within: float
) -> tuple[tuple[Axis, ...], np.ndarray, dict[str, str | float]]:
    """:func:`scan_axes` of a command whose readback deviates by less than ``within`` steps."""
    notes: dict[str, str | float] = {"command": command.name}
    shape = tuple(d.count for d in command.drives)
    drives = [_primary(drive, beamline, asked) for drive in command.drives]
    names = [name for _, name in drives]
    if len(set(names)) < len(names):
        motors = " and ".join(d.motor for d, _ in drives)
        raise SourceError(
            asked,
            f"motors {motors} are both mapped to {names[0]}",
            f"map one of them to another axis, e.g. --motor {drives[0][0].motor}=two_theta",
        )
    modes, told = _modes(command, seen[drives[-1][0].motor], scan_mode, asked)
    for attempt, mode in enumerate(modes):
        order = grid_order(shape, command.count, mode)
        index = np.unravel_index(order, shape)
        back = np.arange(command.count) // shape[-1] % 2 == 1 if mode == ZIGZAG else np.zeros(command.count, bool)
        try:
            axes = tuple(
                _axis(drive, name, place.astype(np.int64), back, seen, command, beamline, asked, within)
                for (drive, name), place in zip(drives, index, strict=True)
            )
        except SourceError as error:
            if attempt == 0:
                first = error
            continue
        if len(shape) == 2:
            notes |= {"fast_motor_mode": mode, "fast_motor_mode_source": told}
            axes[-1].attrs.update(scan_mode=mode.lower(), scan_mode_source=told)
        for drive, name in drives:
            if drive.partners:
                notes[f"{name}_moved_with"] = " ".join(p.motor for p in drive.partners)
            if seen[drive.motor].values is None:
                notes[f"{name}_position"] = "commanded"
        return axes, order, notes
    if told == "given":
        raise SourceError(
            asked, f"the given scan mode {modes[0].lower()} contradicts the positions ({first.found})", "omit it"
        )
    raise first


def _modes(command: Command, fast: Readback, given: str | None, asked: str) -> tuple[list[str], str]:
    """Possible directions of the rows, and the source of the direction.

    Raises
    ------
    SourceError
        The direction is unknown, or the user contradicts the file.
    """
    mode = given.upper() if given else None
    if mode not in (None, REWIND, ZIGZAG):
        raise InputError(f"scan_mode={given!r}", "is unknown", "give 'rewind' or 'zigzag'")
    if len(command.drives) < 2:
        if mode:
            raise SourceError(asked, f"moves one axis and has no rows in {given} mode", "omit the scan mode")
        return [REWIND], "commanded"
    if command.mode:
        if mode and mode != command.mode:
            raise SourceError(
                asked, f"fast_motor_mode is {command.mode}, but the given scan mode {mode}", "omit the scan mode"
            )
        return [command.mode], "commanded"
    if mode:
        return [mode], "given"
    if 1 in (d.count for d in command.drives):
        return [REWIND], "commanded"  # one row, or rows of one frame: the direction is irrelevant
    if fast.values is None:
        raise SourceError(
            asked,
            f"does not record whether every second row of {command.drives[-1].motor} is backward: it has neither "
            "fast_motor_mode nor a position for each frame",
            "use --scan-mode rewind (all rows forward) or --scan-mode zigzag (alternating)",
        )
    return [REWIND, ZIGZAG], "read"


def _primary(drive: Drive, beamline: Beamline, asked: str) -> tuple[Drive, str]:
    """The leading motor of a drive, and its axis: the first of the motors moved together that has an axis."""
    together = (replace(drive, partners=()), *drive.partners)
    for lead in together:
        name = beamline.axis_of(lead.motor)
        if name == "z":
            raise SourceError(asked, f"scans {lead.motor}, which moves the layer (z)", "ingest one entry per layer")
        if name is not None:
            return replace(lead, partners=tuple(d for d in together if d is not lead)), name
    known = "; ".join(f"{axis}: {', '.join(motors)}" for axis, motors in beamline.motors.items() if axis != "z")
    raise SourceError(
        asked,
        f"motor {' and '.join(d.motor for d in together)} is not mapped to an axis (known are {known})",
        f"add it, e.g. --motor {drive.motor}=phi",
    )


def _axis(
    drive: Drive,
    name: str,
    index: np.ndarray,
    back: np.ndarray,
    seen: dict[str, Readback],
    command: Command,
    beamline: Beamline,
    asked: str,
    within: float,
) -> Axis:
    for partner in drive.partners:
        _on_grid(partner, index, back, seen[partner.motor], asked, within)
    read = seen[drive.motor]
    base, values = _on_grid(drive, index, back, read, asked, within)
    grid = np.arange(drive.count)
    start = drive.start + base
    if values is None:
        share, words = _moving_share(drive, command, back)
        positions = start + drive.step * (grid + share)
        if read.note:
            words += f"; {read.note}"
    else:
        positions = np.bincount(index, weights=values, minlength=drive.count) / np.bincount(
            index, minlength=drive.count
        )
        words = READ
    steps = np.diff(positions) * (1 if drive.step > 0 else -1)
    if (steps <= 0).any():
        at = int(np.argmax(steps <= 0))
        raise SourceError(
            asked,
            f"motor {drive.motor} repeats a position or reverses at grid index {at + 1}",
            "check the motor; exclude the scan",
        )
    attrs: dict[str, str | float] = {"units_source": "file"}
    spelled = read.units
    if spelled is None:
        spelled, attrs["units_source"] = beamline.unit_of(drive.motor, name)
    units, factor = base_unit(spelled)
    if factor != 1:
        positions, start = positions * factor, start * factor
        values = None if values is None else values * factor
        attrs["converted_from"] = spelled
    if units == "s":
        # A clock may start on any day: times are relative to the first frame.
        origin = float(positions[0] if values is None else values[0])
        attrs |= {"time_origin": origin, "clock": drive.motor}
        positions, start = positions - origin, start - origin
        values = None if values is None else values - origin
    step = drive.step * factor if drive.count > 1 else None
    source = "commanded" if values is None else "read"
    return Axis(name, drive.motor, positions, units, start, step, values, source, words, attrs)


def _moving_share(drive: Drive, command: Command, back: np.ndarray) -> tuple[float, str]:
    """Fraction of its step at which a motor is in the middle of the exposure, and the source of this value."""
    if not drive.moving:
        return 0.0, "commanded: start + step k; no position was recorded"
    known = command.exposure and command.period
    share = 0.5 * min(command.exposure / command.period, 1.0) if command.exposure and command.period else 0.5
    words = f"commanded: start + step (k + {share:.4g}), the middle of the exposure; no position was recorded"
    if not known:
        words += "; without a recorded period, the exposure is assumed to last the whole step"
    if back.any():
        words += "; backward rows may deviate by up to one step"
    return share, words


def _on_grid(
    drive: Drive, index: np.ndarray, back: np.ndarray, read: Readback, asked: str, within: float
) -> tuple[float, np.ndarray | None]:
    """Start of a relative scan, and the readback after its comparison with the command."""
    if drive.count > 1 and drive.step == 0:
        raise SourceError(asked, f"command moves {drive.motor} by steps of 0", "correct the title")
    values = read.values
    if values is None:
        if drive.relative and read.before is None:
            raise SourceError(
                asked,
                f"is a relative scan of {drive.motor} without a recorded position",
                "add its positions to the entry",
            )
        return (read.before or 0.0) if drive.relative else 0.0, None
    bad = ~np.isfinite(values)
    if bad.any():
        frame = int(np.argmax(bad))
        raise SourceError(
            asked,
            f"motor {drive.motor} is {values[frame]} at frame {frame} ({int(bad.sum())} of {len(values)} frames)",
            "restore the positions",
        )
    command = drive.start + drive.step * index
    if drive.count > 1 and np.ptp(values) == 0:
        raise SourceError(
            asked, f"motor {drive.motor} did not move from {values[0]:g}", "check which motor was scanned"
        )
    base = float(np.median(values - command)) if drive.relative else 0.0
    if drive.count == 1:
        return base, values
    off = (values - command - base) / drive.step
    if drive.moving:
        # Read in the middle of the exposure: beyond the command by the same fraction of a step in every frame, on the
        # other side in backward rows.
        for rows, sign in ((~back, 1), (back, -1)):
            beyond = float(np.median(off[rows])) if rows.any() else np.nan
            if -HALF <= sign * beyond <= 1.0:
                off[rows] -= beyond
    bad = np.abs(off) > within
    if bad.any():
        frame = int(np.argmax(np.abs(off)))
        raise SourceError(
            asked,
            f"motor {drive.motor} is {values[frame]:.6g} at frame {frame}, {abs(off[frame]):.2f} steps from the "
            f"command ({int(bad.sum())} of {len(values)} frames are more than half a step off)",
            "check the motor, the command, and fast_motor_mode",
        )
    return base, values
