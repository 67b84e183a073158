"""Counters with one sample for each frame: monitors of the beam, exposure times, and clocks."""

from __future__ import annotations

import re
from collections.abc import Iterable

import h5py
import numpy as np

from dfxm_dask.errors import SourceError
from dfxm_dask.sources.bliss.command import Command
from dfxm_dask.sources.hdf5_links import Sources
from dfxm_dask.sources.source import Axis, Counter
from dfxm_dask.sources.units import base_unit

CLOCKS = ("elapsed_time", "epoch_trig", "epoch", "timer_trig")
CLOCK_UNIT = "clocks of BLISS count seconds; the file records no unit"
ASSUMED = "assumed: the file records no unit of the clock"
# Further clocks by name; differences and bare ticks are not clocks.
CLOCK = re.compile(r"(time|epoch|clock)", re.IGNORECASE)
NO_CLOCK = re.compile(r"(delta|period|raw|dead|live|expo|acq_time|count)", re.IGNORECASE)


def per_frame(value: object) -> np.ndarray | None:
    """Numbers of shape (frame,), (frame, 1) or (1, frame) as one row; None for anything else."""
    if not isinstance(value, np.ndarray) or value.dtype.kind not in "fiu" or max(value.shape) != value.size:
        return None
    return value.reshape(-1)


class Look:
    """Counters of an entry with ``found`` recorded frames; ``count`` of these are used."""

    def __init__(self, sources: Sources, entry: h5py.Group, count: int, found: int, partial: bool) -> None:
        self.sources, self.entry, self.count, self.found, self.partial = sources, entry, count, found, partial

    def counter(self, name: str) -> Counter | str:
        """A counter with a sample for every frame, or its fault ("" for an absent counter)."""
        fault = ""
        for path in (f"measurement/{name}", f"instrument/{name}/data", f"instrument/{name}/value"):
            value = self.sources.value(self.entry, path)
            if isinstance(value, np.number) and self.found == 1:
                value = np.atleast_1d(value)
            if not isinstance(value, np.ndarray):
                continue
            numbers = per_frame(value)
            if numbers is None:
                fault = fault or f"{path} has shape {value.shape} of {value.dtype}"
            elif len(numbers) != self.found and not (self.partial and len(numbers) >= self.count):
                fault = fault or f"{path} has {len(numbers)} samples for {self.found} frames"
            elif not np.isfinite(numbers[: self.count]).all():
                bad = int(np.argmin(np.isfinite(numbers)))
                fault = fault or f"{path} is {numbers[bad]} at frame {bad}"
            else:
                return Counter(
                    name,
                    self.sources.unit(self.sources.find(self.entry, path)) or None,
                    numbers[: self.count].astype(np.float64),
                )
        return fault

    def monitors(self, names: Iterable[str]) -> tuple[tuple[Counter, ...], dict[str, str]]:
        """Complete counters, in the order of ``names``, and the faults of incomplete ones."""
        looked = {name: self.counter(name) for name in names}
        whole = tuple(found for found in looked.values() if isinstance(found, Counter))
        return whole, {name: found for name, found in looked.items() if isinstance(found, str) and found}

    def seconds(self, name: str) -> np.ndarray | None:
        """A counter of times in s, or None."""
        found = self.counter(name)
        if not isinstance(found, Counter):
            return None
        unit, factor = base_unit(found.units or "s")
        return found.values * factor if unit == "s" else None

    def clock(self) -> tuple[Counter | None, str]:
        """The clock of the frames, and the faults of preferred clocks."""
        group = self.sources.find(self.entry, "measurement")
        more = sorted(n for n in group if CLOCK.search(n) and not NO_CLOCK.search(n)) if group is not None else []
        faults = []
        for name in dict.fromkeys((*CLOCKS, *more)):
            found = self.counter(name)
            if not isinstance(found, Counter):
                faults += [found] if found else []
            elif base_unit(found.units or "s")[0] == "s":
                # A further name may belong to something other than a clock: its values must increase.
                if name in CLOCKS or (np.diff(found.values) > 0).all():
                    return found, "; ".join(faults)
            else:
                faults.append(f"{name} is in {found.units!r}")
        return None, "; ".join(faults)


def time_axis(look: Look, command: Command) -> Axis:
    """The axis of a time series, counted from its first frame.

    Raises
    ------
    SourceError
        A clock that does not advance, or neither times nor an exposure.
    """
    asked = look.sources.asked
    clock, faults = look.clock()
    if clock is not None:
        values = clock.values
        if (np.diff(values) <= 0).any():
            at = int(np.argmax(np.diff(values) <= 0)) + 1
            raise SourceError(asked, f"{clock.name} does not increase at frame {at}", "restore the times of the frames")
        _, factor = base_unit(clock.units or "s")
        attrs: dict[str, str | float] = {"clock": clock.name, "time_origin": float(values[0]) * factor}
        attrs["units_source"] = "file" if clock.units else CLOCK_UNIT if clock.name in CLOCKS else ASSUMED
        if factor != 1:
            attrs["converted_from"] = str(clock.units)
        if faults:
            attrs["clock_note"] = faults
        since = (values - values[0]) * factor
        return Axis("time", "", since, "s", None, None, since, "read", f"read: {clock.name} of each frame", attrs)
    return commanded_times(command, look.count, asked, "add elapsed_time to measurement", faults)


def commanded_times(command: Command, count: int, asked: str, advice: str, faults: str = "") -> Axis:
    """The axis of a time series without recorded times: the period of the command, or else its exposure.

    Raises
    ------
    SourceError
        A command with neither.
    """
    step, pace = (command.period, "period") if command.period else (command.exposure, "exposure, without pauses")
    if step is None:
        found = f"is a {command.name} without times or exposure{f' ({faults})' if faults else ''}"
        raise SourceError(asked, found, advice)
    words = f"commanded: frame number times {pace}; no time was recorded" + (f" ({faults})" if faults else "")
    attrs: dict[str, str | float] = {"units_source": "command"}
    return Axis("time", "", np.arange(count) * step, "s", 0.0, step, None, "commanded", words, attrs)
