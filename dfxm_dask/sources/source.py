"""Beamline files: what a scan is, before it becomes a store, whatever the format of its files.

Frames are kept in the order in which they were recorded; :attr:`Scan.order` says where they belong on the grid that was
commanded. :mod:`dfxm_dask.sources.readers` makes scans out of files.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from dfxm_dask.errors import SourceError
from dfxm_dask.sources.bliss.names import Beamline, find_config, known_configs, load_beamline

Roi = tuple[int, int, int, int]

__all__ = [
    "Axis",
    "Beamline",
    "Counter",
    "Piece",
    "Roi",
    "Scan",
    "check_unchanged",
    "find_config",
    "known_configs",
    "load_beamline",
]


READ = "mid-exposure readback, mean over the frames at this grid point"


@dataclass(frozen=True, eq=False)
class Axis:
    """One scan axis, in degree, keV, um or s where the unit of the file converts into one of these.

    Parameters
    ----------
    name : str
        "phi", "chi", "two_theta", "energy", "time", or a name of the user's motor map.
    motor : str
        The motor behind it (empty for time).
    positions : ndarray, (n,), float64
        Position at each grid index, strictly ascending or descending: mean over the frames at that index of what the
        motor read in the middle of the exposure; without a readback, what was commanded.
    units : str
        Unit in UDUNITS spelling.
    commanded_start, commanded_step : float or None
        Start and step of the command.
    readback : ndarray, (frame,), float64, or None
        What was recorded, in recorded order and in ``units``; times count from the first frame.
    source : str
        Where ``positions`` come from: "read", "commanded", or "given" by the user.
    position : str
        The same in words, with everything that was assumed.
    attrs : dict
        Further labels of the coordinate: where the unit comes from, what was converted, the direction of the scan, the
        clock and its reading at the first frame.
    """

    name: str
    motor: str
    positions: np.ndarray
    units: str
    commanded_start: float | None = None
    commanded_step: float | None = None
    readback: np.ndarray | None = None
    source: str = "read"
    position: str = READ
    attrs: dict[str, str | float] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Counter:
    """A counter with one finite sample for each frame, in recorded order; ``units`` is None where not recorded."""

    name: str
    units: str | None
    values: np.ndarray


@dataclass(frozen=True)
class Piece:
    """A run of frames in one file: ``count`` frames of ``dataset``, from ``first``, are frames ``start``... of the
    scan."""

    file: str
    dataset: str
    first: int
    count: int
    start: int


@dataclass(frozen=True, eq=False)
class Scan:
    """A scan in beamline files: where its frames lie and where they belong.

    Parameters
    ----------
    source, entry, title : str
        Path as it was given, entry ("1.1"), and the command as the beamline wrote it.
    axes : tuple of Axis
        Slow first, which is the storage order.
    order : ndarray, (frame,), int64
        Flat index on the grid (slow major) of each recorded frame.
    frame_shape : (int, int)
        Rows and columns.
    dtype : dtype
        Of the counts in the file, native byte order; :attr:`counts_dtype` is that of the frames.
    pieces : tuple of Piece
        Where the frames lie, in recorded order.
    detector : str
        Name of the camera.
    detector_pixel : (float, float) or None
        Edges of the physical pixel along y and x in um; not the effective pixel of the microscope.
    z, z_motor, z_units
        Where the layer stands, if a motor says so; ``z_source`` is "read" or "given", ``z_note`` says where the unit
        comes from, or why there is no position; ``z_unit_read`` is False where the file records no unit.
    counters : tuple of Counter
        Counters of the incident beam that are complete, in the order of the beamline. Which of them is the monitor is
        decided for all layers together. ``counter_faults`` says what is wrong with those that are not complete.
    monitor_name, monitor_units, exposure_source : str
        Of ``monitor`` and ``exposure``; a unit that was not recorded is None.
    settings : dict
        What the file records of camera and optics: names and values that must not differ between layers.
    parked : dict
        Position, unit and axis of motors that could scan an axis or move the layer, and stood still.
    saturation, saturation_source : float, str
        Counts of a full well, NaN where unknown, and what says so.
    monitor, exposure : ndarray, (frame,), float64, or None
        Incident beam and exposure time (s) in recorded order.
    commanded, found : int
        Frames that were asked for, and frames that exist; they differ only with ``allow_partial``.
    metadata : dict
        Further words and numbers of the file, for provenance.
    files : tuple of (path, size, mtime_ns)
        Every file that holds data.
    format : str
        Name of the reader that made the scan and reads its frames.
    remarks : tuple of str
        What the reader assumed or found, and the user should know.
    """

    source: str
    entry: str
    title: str
    axes: tuple[Axis, ...]
    order: np.ndarray
    frame_shape: tuple[int, int]
    dtype: np.dtype[Any]
    pieces: tuple[Piece, ...]
    detector: str
    detector_pixel: tuple[float, float] | None = None
    z: float | None = None
    z_motor: str | None = None
    z_units: str | None = None
    z_source: str = "read"
    z_note: str = ""
    z_unit_read: bool = True
    monitor: np.ndarray | None = None
    exposure: np.ndarray | None = None
    counters: tuple[Counter, ...] = ()
    counter_faults: dict[str, str] = field(default_factory=dict)
    monitor_name: str = ""
    monitor_units: str | None = None
    exposure_source: str = ""
    settings: dict[str, str | float] = field(default_factory=dict)
    parked: dict[str, tuple[float, str, str]] = field(default_factory=dict)
    saturation: float = np.nan
    saturation_source: str = ""
    commanded: int = 0
    found: int = 0
    metadata: dict[str, str | float] = field(default_factory=dict)
    files: tuple[tuple[str, int, int], ...] = ()
    format: str = ""
    remarks: tuple[str, ...] = ()

    @property
    def shape(self) -> tuple[int, ...]:
        """Number of positions along each axis."""
        return tuple(len(axis.positions) for axis in self.axes)

    @property
    def counts_dtype(self) -> np.dtype[Any]:
        """Dtype of the frames: unsigned, as wide as in the file. Counts that are negative are refused."""
        return np.dtype(f"u{self.dtype.itemsize}") if self.dtype.kind == "i" else self.dtype


def check_unchanged(scan: Scan, file: str) -> None:
    """Refuse a file that is not the one seen by :func:`read_scan`."""
    seen = next(((size, mtime) for path, size, mtime in scan.files if path == file), None)
    try:
        found = os.stat(file)
    except OSError as error:
        raise SourceError(
            f"{file} of {scan.source} entry {scan.entry}", f"is gone ({error.strerror})", "restore it and run again"
        ) from error
    if seen != (found.st_size, found.st_mtime_ns):
        raise SourceError(
            f"{file} of {scan.source} entry {scan.entry}",
            "changed while it was read",
            "wait until the scan is written, then run again",
        )
