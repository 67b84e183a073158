"""One scan of a beamline's master file, checked: scans that no beamline could have recorded are refused."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from dfxm_dask.errors import InputError
from dfxm_dask.sources.bliss.detector import COUNTS
from dfxm_dask.sources.bliss.grid import HALF

MOST_AXES = 2
SERIES = ("loopscan", "timescan", "ftimescan", "sct")
EPOCH = 1.7e9  # s, reading of the absolute clock at the start of a time series

MotorAxis = tuple[str, float, float, int] | tuple[str, float, float, int, str]


@dataclass(frozen=True, eq=False)
class Entry:
    """One scan of a master file: one layer.

    Parameters
    ----------
    number : int
        1 for entry "1.1".
    axes : tuple of (motor, start, step, count) or (motor, start, step, count, units)
        Slow first, at most two. One axis without a motor ("" or "time") is a time series.
    positions : mapping of motor to array (frame,), float64
        Readings of each motor in the middle of the exposure, in recorded order: the last axis runs fastest, always
        forwards. The key "time" gives elapsed times of a time series (s); without it they are start + step k.
    z : float or None, mm
        Position of ``z_motor``.
    exposure : float, s
        Exposure time of one frame.
    monitor : array (frame,) or None
        Counts of the incident beam.
    files : sequence of (str, int)
        LIMA files relative to the folder of the master, and their frames: from :func:`write_lima`.
    shape : (int, int)
        Rows and columns.
    dtype : dtype or its name
        uint8, uint16 or uint32.
    z_motor, detector : str
        Names at the beamline.
    command : str
        Command of a time series: "loopscan", "timescan", "ftimescan" or "sct".
    detector_pixel : float, um
        Edge of the physical pixel, such as that of the PCO Edge 4.2; not the effective pixel.

    Raises
    ------
    InputError
        More than two axes, steps of 0, positions of another length or more than half a step from the command, and
        other values that no beamline could have recorded.
    """

    number: int
    axes: tuple[MotorAxis, ...]
    positions: Mapping[str, np.ndarray]
    z: float | None
    exposure: float
    monitor: np.ndarray | None
    files: Sequence[tuple[str, int]]
    shape: tuple[int, int]
    dtype: np.dtype[Any] | str
    z_motor: str = "samz"
    detector: str = "pco_ff"
    detector_pixel: float = 6.5
    command: str = "loopscan"

    def __post_init__(self) -> None:
        if self.number < 1 or self.number != int(self.number):
            raise InputError(f"entry number {self.number}", "is not a count", "number the entries from 1")
        if not 1 <= len(self.axes) <= MOST_AXES:
            raise InputError(
                self._name,
                f"has {len(self.axes)} scan axes; scan commands of BLISS move one or two",
                "write one entry for each position of the slowest axis",
            )
        for axis in self.axes:
            self._check_axis(axis)
        if len(self.axes) == 2 and (self.is_time_series or self.axes[0][0] == self.axes[1][0]):
            raise InputError(
                self._name, f"scans {self.axes[0][0]!r} and {self.axes[1][0]!r}", "name two motors, or time alone"
            )
        for name in (self.z_motor, self.detector):
            check_name(self._name, name)
        if self.command not in SERIES or (self.command == "sct" and self.frames != 1):
            found = f"is {self.command!r} of {self.frames} frames"
            raise InputError(f"{self._name}: command", found, f"use one of {', '.join(SERIES)}; sct records one frame")
        if not (math.isfinite(self.exposure) and self.exposure > 0):
            raise InputError(f"{self._name}: exposure", f"is {self.exposure} s", "give a positive time")
        if self.z is not None and not math.isfinite(self.z):
            raise InputError(f"{self._name}: z", f"is {self.z}", "give a finite position in mm, or None")
        if np.dtype(self.dtype).name not in COUNTS:
            raise InputError(f"{self._name}: dtype", f"is {self.dtype}", f"give one of {', '.join(COUNTS)}")
        self._check_positions()
        if self.monitor is not None:
            self._check_numbers("monitor", self.monitor)
        held = sum(count for _, count in self.files)
        if held != self.frames:
            raise InputError(self._name, f"has {held} frames in files for {self.frames} scanned", "give all its files")

    def _check_axis(self, axis: MotorAxis) -> None:
        motor, start, step, count = axis[:4]
        if not _is_time(motor):
            check_name(self._name, motor)
        if count < 1 or count != int(count) or not (math.isfinite(start) and math.isfinite(step)):
            raise InputError(
                f"{self._name}: axis {motor!r}", f"is {count} positions from {start} by {step}", "give finite numbers"
            )
        if count > 1 and step == 0:
            raise InputError(f"{self._name}: axis {motor!r}", "has a step of 0", "give a step, or count 1")

    def _check_numbers(self, what: str, values: np.ndarray) -> None:
        if np.shape(values) != (self.frames,) or not np.isfinite(values).all():
            raise InputError(
                f"{self._name}: {what}",
                f"has shape {np.shape(values)} or is not finite",
                f"give {self.frames} finite numbers, one for each frame",
            )

    def _check_positions(self) -> None:
        wanted = {"time"} & set(self.positions) if self.is_time_series else {str(a[0]) for a in self.axes}
        if set(self.positions) != wanted:
            raise InputError(
                f"{self._name}: positions",
                f"are of {sorted(self.positions)}, the scan is of {sorted(wanted)}",
                "give one array for each motor",
            )
        for motor, values in self.positions.items():
            self._check_numbers(f"positions of {motor}", values)
        if self.is_time_series:
            if (np.diff(self.times) <= 0).any():
                raise InputError(f"{self._name}: time", "does not grow from frame to frame", "give elapsed times")
            return
        index = np.unravel_index(np.arange(self.frames), tuple(int(a[3]) for a in self.axes))
        for (motor, start, step, count), place in zip((a[:4] for a in self.axes), index, strict=True):
            off = np.abs(np.asarray(self.positions[motor]) - start - step * place)
            if count > 1 and off.max() > HALF * abs(step):
                frame = int(off.argmax())
                raise InputError(
                    f"{self._name}: motor {motor}",
                    f"is {off[frame] / abs(step):.2f} steps from the command at frame {frame}",
                    "give positions in recorded order (the last axis runs fastest), within half a step",
                )

    @property
    def _name(self) -> str:
        return f"entry {self.number}.1"

    @property
    def frames(self) -> int:
        """Number of frames."""
        return math.prod(int(axis[3]) for axis in self.axes)

    @property
    def is_time_series(self) -> bool:
        """Whether no motor moves."""
        return any(_is_time(str(axis[0])) for axis in self.axes)

    @property
    def times(self) -> np.ndarray:
        """Elapsed time of every frame of a time series: (frame,), float64, s."""
        if "time" in self.positions:
            return np.asarray(self.positions["time"], np.float64)
        return self.axes[0][1] + self.axes[0][2] * np.arange(self.frames)

    @property
    def period(self) -> float:
        """Commanded time between the starts of two frames of a time series, s."""
        return float(self.axes[0][2]) or float(self.exposure)

    @property
    def title(self) -> str:
        """The command as BLISS spells it."""
        if self.is_time_series:
            exposure = float(self.exposure)
            numbers = {
                "loopscan": f"{self.frames} {exposure!r}",
                "ftimescan": f"{exposure!r} {self.frames} {self.period!r}",
            }
            return f"{self.command} {numbers.get(self.command, repr(exposure))}"
        words = " ".join(f"{axis[0]} {axis[1]:.10g} {axis[2]:.10g} {axis[3]}" for axis in self.axes)
        command = "fscan" if len(self.axes) == 1 else "fscan2d"
        return f"{command} {words} {float(self.exposure)!r} {float(self.exposure)!r}"


def _is_time(motor: str) -> bool:
    return motor in ("", "time")


def check_name(where: str, name: str) -> None:
    if not re.fullmatch(r"[A-Za-z_]\w*", name):
        raise InputError(f"{where}: name {name!r}", "is not a plain name", "use letters, digits and underscores")
