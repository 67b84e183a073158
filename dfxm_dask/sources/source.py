"""A scan in beamline files of any format, before it becomes a store.

Frames keep their recorded order; :attr:`Scan.order` gives their positions on the commanded grid.
:mod:`dfxm_dask.sources.readers` reads scans from files.
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
    """One scan axis, in degree, keV, um or s if the unit of the file converts into one of these.

    Parameters
    ----------
    name : str
        "phi", "chi", "two_theta", "energy", "time", or a name from the motor map of the user.
    motor : str
        Motor of the axis (empty for time).
    positions : ndarray, (n,), float64
        Position at each grid index, strictly ascending or descending: mean over the frames at that index of the motor
        reading in the middle of the exposure; without a readback, the commanded position.
    units : str
        Unit in UDUNITS spelling.
    commanded_start, commanded_step : float or None
        Start and step of the command.
    readback : ndarray, (frame,), float64, or None
        Recorded positions, in recorded order and in ``units``; times are relative to the first frame.
    source : str
        Origin of ``positions``: "read", "commanded", or "given" by the user.
    position : str
        Description of the origin, with all assumptions.
    attrs : dict
        Further attributes of the coordinate: source of the unit, conversions, direction of the scan, the clock and its
        reading at the first frame.
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
    """A counter with one finite sample for each frame, in recorded order; ``units`` is ``None`` where not recorded."""

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
    """A scan in beamline files: location of its frames in the files and on the grid.

    Parameters
    ----------
    source, entry, title : str
        Given path, entry ("1.1"), and the command as written by the beamline.
    axes : tuple of Axis
        Slow axis first, as in the store.
    order : ndarray, (frame,), int64
        Flat index on the grid (slow major) of each recorded frame.
    frame_shape : (int, int)
        Rows and columns.
    dtype : dtype
        Dtype of the counts in the file, in native byte order; :attr:`counts_dtype` is the dtype of the frames.
    pieces : tuple of Piece
        Location of the frames, in recorded order.
    detector : str
        Name of the camera.
    detector_pixel : (float, float) or None
        Edges of the physical pixel along y and x in um; not the effective pixel of the microscope.
    z, z_motor, z_units
        Position of the layer, its motor and unit, if recorded. ``z_source`` is "read" or "given". ``z_note`` gives the
        source of the unit, or the reason for a missing position. ``z_unit_read`` is False if the file records no unit.
    counters : tuple of Counter
        Complete counters of the incident beam, in the order of the beamline. The monitor is chosen among them for all
        layers together. ``counter_faults`` describes the faults of incomplete counters.
    monitor_name, monitor_units, exposure_source : str
        Name and unit of ``monitor``, and source of ``exposure``; an unrecorded unit is ``None``.
    settings : dict
        Recorded settings of camera and optics, which must not differ between layers.
    parked : dict
        Position, unit and axis of motors at rest that could scan an axis or move the layer.
    saturation, saturation_source : float, str
        Counts of a full well (NaN if unknown), and their source.
    monitor, exposure : ndarray, (frame,), float64, or None
        Incident beam and exposure time (s) in recorded order.
    commanded, found : int
        Number of commanded and of existing frames; they differ only with ``allow_partial``.
    metadata : dict
        Further texts and numbers from the file, for provenance.
    files : tuple of (path, size, mtime_ns)
        All files with data.
    format : str
        Name of the reader of the scan and its frames.
    remarks : tuple of str
        Assumptions and findings of the reader, for the user.
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
        """Dtype of the frames: unsigned, as wide as in the file; negative counts are refused."""
        return np.dtype(f"u{self.dtype.itemsize}") if self.dtype.kind == "i" else self.dtype


def check_unchanged(scan: Scan, file: str) -> None:
    """Refuse a file that has changed since :func:`read_scan`."""
    seen = next(((size, mtime) for path, size, mtime in scan.files if path == file), None)
    try:
        found = os.stat(file)
    except OSError as error:
        raise SourceError(
            f"{file} of {scan.source} entry {scan.entry}",
            f"no longer exists ({error.strerror})",
            "restore it, then run the command again",
        ) from error
    if seen != (found.st_size, found.st_mtime_ns):
        raise SourceError(
            f"{file} of {scan.source} entry {scan.entry}",
            "changed during reading",
            "wait until the scan is complete, then run the command again",
        )
