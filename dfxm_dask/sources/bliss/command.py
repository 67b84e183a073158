"""Scan commands: commanded motors, start positions, steps and numbers of positions.

``ascan`` and related commands count intervals, one fewer than frames; ``fscan``, ``fscan2d`` and time series count
frames. Commands without motors give a time series: ``loopscan``, ``timescan``, ``ftimescan``, ``limatake``, ``sct`` and
``ct``.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

from dfxm_dask.errors import SourceError
from dfxm_dask.sources.units import factor_between

KNOWN = "fscan, fscan2d, ascan, dscan, a2scan, d2scan, amesh, dmesh, loopscan, timescan, ftimescan, limatake, sct, ct"
TIMED = ("ftimescan", "limatake")  # paced by a clock, not by the program
"""Time series whose parameters name the number of frames: exposure, frames, and for ``ftimescan`` the period."""
REWIND, ZIGZAG = "REWIND", "ZIGZAG"
TITLE_UNITS = ("rad", "mrad", "urad", "degree", "mm", "um", "m")  # units of a title whose positions have other units


@dataclass(frozen=True)
class Drive:
    """One motor as commanded: ``count`` positions from ``start`` by ``step``.

    ``relative``: relative to the position of the motor before the scan. ``moving``: the motor moves during each
    exposure, which starts at the commanded position. ``partners`` move together with the motor and share its axis.
    """

    motor: str
    start: float
    step: float
    count: int
    relative: bool = False
    moving: bool = False
    partners: tuple[Drive, ...] = ()


@dataclass(frozen=True)
class Command:
    """A scan command: drives, slow first (none for a time series), and the direction of the fast drive.

    ``mode`` is REWIND or ZIGZAG, or None if the command does not record it. ``exposure`` and ``period`` are in s. The
    ``count`` of a time series that runs until it is stopped is 0.
    ``titled``: the command comes from a title, whose numbers have neither names nor units.
    """

    name: str
    drives: tuple[Drive, ...]
    count: int
    mode: str | None = None
    exposure: float | None = None
    period: float | None = None
    titled: bool = False


class _Words:
    """The parts of a title between spaces, in sequence."""

    def __init__(self, title: str, asked: str) -> None:
        self.title, self.asked = title, asked
        self.words = title.replace(",", " ").replace("(", " ").replace(")", " ").split()
        self.at = 1

    def motor(self) -> str:
        if self.at >= len(self.words):
            raise self.wrong("ends before the command is complete")
        self.at += 1
        return self.words[self.at - 1].strip("'\"")

    def number(self) -> float:
        word = self.motor()
        try:
            value = float(word)
        except ValueError:
            raise self.wrong(f"has {word!r} in place of a number") from None
        if not math.isfinite(value):
            raise self.wrong(f"has {word!r} in place of a number")
        return value

    def whole(self, least: int) -> int:
        value = self.number()
        if value != int(value) or value < least:
            raise self.wrong(f"has {value:g} in place of a count")
        return int(value)

    def optional(self) -> float | None:
        """The next positive number, if any."""
        try:
            value = self.number()
        except SourceError:
            return None
        return value if value > 0 else None

    def wrong(self, found: str) -> SourceError:
        return SourceError(self.asked, f"title {self.title!r} {found}", "correct the title, or add fscan_parameters")


def parse_title(title: str, asked: str) -> Command:
    """The command in a title.

    Parameters
    ----------
    title : str
        Such as ``"fscan2d chi -1 0.08 62 diffrz -1.5 0.08 43 0.1 0.100419"``.
    asked : str
        File and entry, for error messages.

    Raises
    ------
    SourceError
        Unknown command, or wrong arguments.
    """
    words = _Words(title, asked)
    name = words.words[0].lower() if words.words else ""
    stepped = re.fullmatch(r"([ad])(\d?)scan", name)
    drives: tuple[Drive, ...]
    if name == "fscan":
        drives = (_equal(words, moving=True),)
    elif name == "fscan2d":
        drives = (_equal(words, moving=False), _equal(words, moving=True))
    elif stepped:
        ends = [(words.motor(), words.number(), words.number()) for _ in range(int(stepped[2] or 1))]
        intervals = words.whole(0)
        together = [_stepped(*end, intervals, relative=stepped[1] == "d") for end in ends]
        first = together[0]
        drives = (Drive(first.motor, first.start, first.step, first.count, first.relative, False, tuple(together[1:])),)
    elif name in ("amesh", "dmesh", "mesh"):
        fast, slow = (
            _stepped(words.motor(), words.number(), words.number(), words.whole(0), relative=name == "dmesh")
            for _ in range(2)
        )
        drives = (slow, fast)
    elif name in ("loopscan", "timescan", "sct", "ct", *TIMED):
        return _time_series(words, name)
    else:
        raise SourceError(asked, f"has the unknown scan command {title[:80]!r}", f"use one of {KNOWN}")
    exposure = words.optional()
    period = words.optional() if name.startswith("fscan") else None
    return Command(name, drives, math.prod(d.count for d in drives), None, exposure, period, titled=True)


def _time_series(words: _Words, name: str) -> Command:
    """A command without motors: a loopscan gives the number of frames first, the others give the exposure first."""
    if name == "loopscan":
        return Command(name, (), words.whole(0), None, words.optional(), None)
    exposure = words.optional()
    count = 1 if name in ("sct", "ct") else words.whole(0) if words.at < len(words.words) else 0
    return Command(name, (), count, None, exposure, words.optional() if name in TIMED else None)


def other_readings(command: Command, units: Mapping[str, str]) -> Iterator[tuple[Command, str]]:
    """Alternative readings of a title from a program other than BLISS, each with a description.

    Simulators write titles such as ``fscan2d phi -0.001 0.001 21 chi -0.002 0.002 5``: in radian with positions in
    degree, with the end in place of the step, the fast motor first. Only positions can decide: the caller must compare
    each of these commands with the positions.

    Parameters
    ----------
    command : Command
        In the convention of BLISS.
    units : mapping
        Motor → unit of its positions.
    """
    if not command.titled or not command.drives:
        return
    flies = command.name in ("fscan", "fscan2d")
    orders = ("", "its first motor is the fast one") if len(command.drives) == 2 and flies else ("",)
    thirds = ("", "its third number is the end, not the step") if flies else ("",)
    scales = {"": ""} | {unit: f"its numbers are in {unit}" for unit in TITLE_UNITS}
    for (unit, scale), third, order in product(scales.items(), thirds, orders):
        words = "; ".join(filter(None, (scale, third, order)))
        if words:
            drives = [_read_as(drive, unit, ends=bool(third), units=units) for drive in command.drives]
            yield replace(command, drives=tuple(drives[::-1] if order else drives)), words


def _read_as(drive: Drive, unit: str, *, ends: bool, units: Mapping[str, str]) -> Drive:
    factor = (factor_between(unit, units[drive.motor]) if unit and drive.motor in units else None) or 1.0
    step = (drive.step - drive.start) / max(drive.count - 1, 1) if ends else drive.step
    partners = tuple(_read_as(p, unit, ends=ends, units=units) for p in drive.partners)
    return replace(drive, start=drive.start * factor, step=step * factor, moving=False, partners=partners)


def _equal(words: _Words, *, moving: bool) -> Drive:
    return Drive(words.motor(), words.number(), words.number(), words.whole(1), moving=moving)


def _stepped(motor: str, start: float, stop: float, intervals: int, *, relative: bool) -> Drive:
    return Drive(motor, start, (stop - start) / intervals if intervals else 0.0, intervals + 1, relative)


def parse_parameters(parameters: Mapping[str, Any], asked: str) -> Command | None:
    """The command in ``fscan_parameters``, or None.

    Raises
    ------
    SourceError
        Contradicting parameters.
    """
    given = {key.lower(): value for key, value in parameters.items()}
    if "npoints" in given and str(given.get("scan_name", "")).lower() in TIMED:
        count, exposure, period = (_number(given.get(word)) for word in ("npoints", "acq_time", "period"))
        if count is None or count < 1 or count != int(count):
            raise SourceError(asked, f"fscan_parameters give npoints as {given['npoints']}", "correct fscan_parameters")
        exposure, period = (value if value and value > 0 else None for value in (exposure, period))
        return Command(str(given["scan_name"]).lower(), (), int(count), None, exposure, period)
    prefixes = ("slow_", "fast_") if "fast_motor" in given or "slow_motor" in given else ("",)
    names = [f"{prefix}{word}" for prefix in prefixes for word in ("motor", "start_pos", "step_size", "npoints")]
    if any(name not in given for name in names):
        return None
    drives = []
    for prefix in prefixes:
        numbers = [_number(given[f"{prefix}{word}"]) for word in ("start_pos", "step_size", "npoints")]
        start, step, count = numbers
        if start is None or step is None or count is None or count < 1 or count != int(count):
            raise SourceError(
                asked,
                f"fscan_parameters give {prefix}start_pos, step_size, npoints as {numbers}",
                "correct fscan_parameters",
            )
        drives.append(Drive(str(given[f"{prefix}motor"]), start, step, int(count), moving=prefix != "slow_"))
    mode = str(given.get("fast_motor_mode", "")).strip().upper() or None
    if mode not in (None, REWIND, ZIGZAG):
        raise SourceError(asked, f"fscan_parameters/fast_motor_mode is {mode!r}", f"use {REWIND} or {ZIGZAG}")
    exposure = _number(given.get("acq_time"))
    period = _number(given.get("fast_step_time" if len(drives) == 2 else "step_time"))
    return Command(
        "fscan2d" if len(drives) == 2 else "fscan",
        tuple(drives),
        math.prod(d.count for d in drives),
        mode if len(drives) == 2 else None,
        exposure if exposure and exposure > 0 else None,
        period if period and period > 0 else None,
    )


def _number(value: Any) -> float | None:
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None


def scan_command(title: str | None, parameters: Mapping[str, Any], asked: str) -> Command:
    """The command of a scan: from ``fscan_parameters``, checked against the title, or from the title alone.

    Parameters
    ----------
    title : str or None
        As in the entry.
    parameters : mapping
        Content of ``instrument/fscan_parameters``; may be empty.
    asked : str
        File and entry, for error messages.

    Raises
    ------
    SourceError
        Both are absent, or they disagree.
    """
    spelled = title.strip() if title else ""
    exact = parse_parameters(parameters, asked)
    if exact is None:
        if not spelled:
            raise SourceError(asked, "has neither a title nor fscan_parameters", "add the scan command as title")
        return parse_title(spelled, asked)
    if not spelled:
        return exact
    if not spelled.lower().startswith(("fscan", *TIMED)):
        # A macro may call fscan under its own title; then the parameters are valid, unless the title is a command.
        try:
            named = parse_title(spelled, asked)
        except SourceError:
            return exact
    else:
        named = parse_title(spelled, asked)
    if not exact.drives and not named.drives and exact.count != named.count:
        counts = f"title gives {named.count} frames, but fscan_parameters {exact.count}"
        raise SourceError(asked, counts, "correct the wrong one")
    shapes = [[(d.motor, d.count) for d in command.drives] for command in (named, exact)]
    if shapes[0] != shapes[1]:
        said, ran = (" x ".join(f"{m} ({n})" for m, n in shape) for shape in shapes)
        raise SourceError(asked, f"title gives {said}, but fscan_parameters {ran}", "correct the wrong one")
    for spoken, drive in zip(named.drives, exact.drives, strict=True):
        half = abs(drive.step) / 2
        last = drive.step * (drive.count - 1) - spoken.step * (spoken.count - 1)
        if abs(spoken.start - drive.start) > half or abs(spoken.start - drive.start - last) > half:
            raise SourceError(
                asked,
                f"title starts {drive.motor} at {spoken.start:g} by {spoken.step:g}, but fscan_parameters at "
                f"{drive.start:g} by {drive.step:g}",
                "correct the wrong one",
            )
    return Command(
        exact.name,
        exact.drives,
        exact.count,
        exact.mode,
        exact.exposure or named.exposure,
        exact.period or named.period,
    )
