"""Beamline files: what a scan is, before it becomes a store.

:func:`read_scan` says everything about a scan without reading a pixel, and refuses what it cannot vouch for;
:func:`frames` then streams the pixels in the order in which they were recorded. Frames belong on the grid that was
commanded (:attr:`Scan.order`); they are never sorted by what a motor reads back.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from dfxm_dask.errors import InputError, SourceError
from dfxm_dask.schema import FEWEST_MASKED
from dfxm_dask.store.bliss_names import Beamline, find_config, load_beamline
from dfxm_dask.store.kinds import not_a_master
from dfxm_dask.store.paths import SourcePath, one_source, sources

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
    "frames",
    "list_scans",
    "load_beamline",
    "marked_frames",
    "named_scans",
    "read_scan",
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

    @property
    def shape(self) -> tuple[int, ...]:
        """Number of positions along each axis."""
        return tuple(len(axis.positions) for axis in self.axes)

    @property
    def counts_dtype(self) -> np.dtype[Any]:
        """Dtype of the frames: unsigned, as wide as in the file. Counts that are negative are refused."""
        return np.dtype(f"u{self.dtype.itemsize}") if self.dtype.kind == "i" else self.dtype


def list_scans(path: SourcePath, *, roots: Sequence[str | Path] = ()) -> list[tuple[str, str]]:
    """Entries of a source and their titles, by number: ``[("1.1", "fscan mu 0.29 0.001 150 0.5"), ...]``.

    Raises
    ------
    SourceError
        No such file, or not a file of the beamline.
    """
    found = one_source(path)
    if not isinstance(found, str):
        from dfxm_dask.store.edf import list_edf

        return list_edf(found)
    from dfxm_dask.store.bliss import list_bliss

    return list_bliss(Path(found), roots=tuple(Path(r) for r in roots))


def named_scans(source: SourcePath, scan: str | Sequence[str] | None) -> list[tuple[SourcePath, str]]:
    """Sources and entries that a user asks for, in the order in which they are named.

    Parameters
    ----------
    source : path, pattern or list of both
        See :func:`dfxm_dask.store.paths.sources`.
    scan : str or sequence of str, optional
        "1.1", "1.1,2.1", or "all"; by default the only entry that there is.

    Raises
    ------
    SourceError
        No entry, one named twice, or several of which none is chosen.
    """
    return [(found, entry) for found in sources(source) for entry in _entries(found, scan)]


def _entries(source: SourcePath, scan: str | Sequence[str] | None) -> list[str]:
    asked = source if isinstance(source, str) else os.path.dirname(os.path.abspath(source[0]))  # type: ignore[index]
    if scan is not None and scan != "all":
        names = scan.split(",") if isinstance(scan, str) else list(scan)
        chosen = [name.strip() for name in map(str, names) if name.strip()]
        twice = next((name for name in chosen if chosen.count(name) > 1), None)
        if twice:
            raise SourceError(f"{asked} entry {twice}", "is named twice", "name each entry once")
        if chosen:
            return chosen
    found = [entry for entry, _ in list_scans(source)]
    listed = ", ".join(found[:12]) + (" ..." if len(found) > 12 else "")
    if not found:
        raise not_a_master(str(asked))
    if scan is not None and scan != "all":
        raise SourceError(
            str(asked), f"no entry is named; entries are {listed}", "name one with --scan, or leave it out"
        )
    if scan is None and len(found) > 1:
        raise SourceError(str(asked), f"holds {len(found)} scans: {listed}", "choose with --scan, or say --scan all")
    return found


def read_scan(
    path: SourcePath,
    entry: str = "1.1",
    *,
    beamline: Beamline,
    detector: str | None = None,
    roots: Sequence[str | Path] = (),
    allow_partial: bool = False,
    scan_mode: str | None = None,
) -> Scan:
    """A scan: its axes, where its frames lie, and where they belong. No pixel is read.

    Parameters
    ----------
    path : str, Path or sequence of them
        Master file of BLISS; or a folder, a pattern, or a list of .edf files.
    entry : str
        "1.1", "2.1", ...
    beamline : Beamline
        From :func:`load_beamline`.
    detector : str, optional
        Name of the camera ("pco_ff") or of its dataset in the entry ("instrument/pco_ff/data").
    roots : sequence of paths, optional
        Folders besides that of ``path`` in which linked files may lie.
    allow_partial : bool
        Take the complete rows of a scan that was aborted.
    scan_mode : "rewind" or "zigzag", optional
        Direction of the rows of a scan over two axes whose file does not say it.

    Raises
    ------
    SourceError
        Anything that is missing, short, contradictory, not finite, or of an unknown kind; in one line that names the
        file, the entry, and what to do.
    """
    found = one_source(path)
    if not isinstance(found, str):
        from dfxm_dask.store.edf import read_edf

        return read_edf(found, entry, beamline=beamline, allow_partial=allow_partial, scan_mode=scan_mode)
    from dfxm_dask.store.bliss import read_bliss

    allowed = tuple(Path(r) for r in (*roots, *beamline.roots))
    return read_bliss(
        Path(found), str(entry), beamline=beamline, detector=detector, roots=allowed, allow_partial=allow_partial,
        scan_mode=scan_mode,
    )  # fmt: skip


def frames(scan: Scan, *, roi: Roi | None = None) -> Iterator[tuple[int, np.ndarray]]:
    """Frames in recorded order, each with its number, in one buffer that the next frame overwrites.

    Parameters
    ----------
    scan : Scan
        From :func:`read_scan`.
    roi : (y0, y1, x0, x1), optional
        Rows y0 to y1 - 1 and columns x0 to x1 - 1; the whole frame if not given.

    Yields
    ------
    (int, ndarray (y, x))
        Frame number in the scan, and its counts. Copy them to keep them.

    Raises
    ------
    SourceError
        A frame cannot be read, has negative counts, or its file is no longer the one that :func:`read_scan` saw.
    """
    ny, nx = scan.frame_shape
    y0, y1, x0, x1 = roi or (0, ny, 0, nx)
    if not (0 <= y0 < y1 <= ny and 0 <= x0 < x1 <= nx):
        raise InputError(f"roi {(y0, y1, x0, x1)}", f"frames are {ny} x {nx}", "give y0 < y1 and x0 < x1 within them")
    if scan.pieces and scan.pieces[0].dataset == EDF:
        from dfxm_dask.store.edf import edf_frames

        found = edf_frames(scan, (y0, y1, x0, x1))
    else:
        from dfxm_dask.store.bliss_frames import hdf5_frames

        found = hdf5_frames(scan, (y0, y1, x0, x1))
    return _unsigned(scan, found, (y0, x0)) if scan.dtype.kind == "i" else found


def _unsigned(
    scan: Scan, found: Iterator[tuple[int, np.ndarray]], corner: tuple[int, int]
) -> Iterator[tuple[int, np.ndarray]]:
    """Frames of signed integers, as LIMA writes accumulated ones, as counts."""
    for number, frame in found:
        if frame.min() < 0:
            y, x = (int(k) for k in np.unravel_index(int(frame.argmin()), frame.shape))
            raise SourceError(
                f"{scan.source} entry {scan.entry}",
                f"frame {number} has {int((frame < 0).sum())} negative values, the lowest {frame[y, x]} at pixel y = "
                f"{y + corner[0]}, x = {x + corner[1]}: these are no counts",
                "choose a region without them (--roi), or mask these pixels by "
                f"{np.iinfo(scan.dtype).max} in every frame",
            )
        yield number, frame.view(scan.counts_dtype)


def marked_frames(scan: Scan, dtype: np.dtype[Any], *, roi: Roi | None = None) -> Iterator[tuple[int, np.ndarray]]:
    """Frames as :func:`frames` gives them, of ``dtype``, with masked pixels at the largest value of ``dtype``.

    A file marks them by the largest value of its own dtype, which may be narrower or signed. Counts of 32 bits never
    come there by light; of fewer bits, a pixel is masked that has this value in every frame.
    """
    largest, top = np.iinfo(scan.dtype).max, np.iinfo(dtype).max
    if largest == top:
        yield from frames(scan, roi=roi)
        return
    always = None if scan.dtype.itemsize > 2 else _always(scan, largest, roi)
    for number, frame in frames(scan, roi=roi):
        wide = frame.astype(dtype)
        wide[frame == largest if always is None else always] = top
        yield number, wide


def _always(scan: Scan, value: int, roi: Roi | None) -> np.ndarray:
    """Pixels that have a value in every frame; of fewer frames than FEWEST_MASKED, none."""
    found: np.ndarray | None = None
    for _, frame in frames(scan, roi=roi):
        found = frame == value if found is None else found & (frame == value)
        if not found.any():
            break
    assert found is not None
    return found & (len(scan.order) >= FEWEST_MASKED)


EDF = "edf"
"""Name of the dataset in pieces of EDF files, which have no datasets."""


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
