"""Readers of beamline files: choice of the reader of a path, lists of scans, and streams of frames.

:func:`read_scan` describes a scan without reading a pixel, and raises for every inconsistency; :func:`frames` then
streams the pixels in recorded order. Both are independent of the format, for which a :class:`Reader` is responsible. A
new format is a module of its own and one line in :data:`OWN`, or, in another package, an entry point in the group
``dfxm_dask.readers``.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np

from dfxm_dask.errors import InputError, SourceError
from dfxm_dask.schema import FEWEST_MASKED, nearest
from dfxm_dask.sources.bliss.names import Beamline
from dfxm_dask.sources.paths import SourcePath, named
from dfxm_dask.sources.source import Roi, Scan
from dfxm_dask.sources.wrong_kinds import not_a_master, not_a_source

OWN = (
    "dfxm_dask.sources.bliss.master",
    "dfxm_dask.sources.edf",
    "dfxm_dask.sources.tables.reader",
    "dfxm_dask.sources.dfxm_geo",
    "dfxm_dask.sources.tables.time_series",
)
GROUP = "dfxm_dask.readers"
WORDS = ("name", "summary", "narrows", "matches", "sources", "scans", "read", "frames")


@dataclass(frozen=True)
class How:
    """Options for reading a scan.

    Parameters
    ----------
    beamline : Beamline
        From :func:`dfxm_dask.sources.source.load_beamline`.
    detector : str, optional
        Name of the camera ("pco_ff") or of its dataset ("instrument/pco_ff/data").
    roots : tuple of Path
        Further folders that may contain linked files, besides the folder of the source.
    allow_partial : bool
        Accept an aborted scan, and use its complete rows.
    scan_mode : "rewind" or "zigzag", optional
        Direction of the rows of a scan over two axes, if the file does not record it.
    positions : "motor" or "command", optional
        Source of the positions if motors and command disagree. By default motors, checked against the command.
    repeats : "point" or "scan", optional
        Order of repeated frames for each row of a table: all frames of a point in turn, or the whole scan repeated.
    time_step : float, optional
        Time between two frames of a series that records neither motors nor times, s.
    """

    beamline: Beamline
    detector: str | None = None
    roots: tuple[Path, ...] = ()
    allow_partial: bool = False
    scan_mode: str | None = None
    positions: str | None = None
    repeats: str | None = None
    time_step: float | None = None

    def refuse(self, *words: str) -> None:
        """Refuse options without effect for a format.

        Raises
        ------
        InputError
        """
        for word in words:
            if value := getattr(self, word):
                raise InputError(f"{word}={value!r}", "has no effect for the format of this source", "omit it")


class Reader(Protocol):
    """A format of raw data: a module, or any object, with these names.

    Attributes
    ----------
    name : str
        Value of the option ``--format``.
    summary : str
        Description of the format, in one line.
    narrows : tuple of str
        Names of readers of wider formats, which match the same paths and yield to this reader.
    """

    @property
    def name(self) -> str: ...

    @property
    def summary(self) -> str: ...

    @property
    def narrows(self) -> tuple[str, ...]: ...

    def matches(self, paths: Sequence[str]) -> bool:
        """Whether the reader supports all these files and folders, by names and first bytes; never raises."""

    def sources(self, paths: Sequence[str]) -> list[list[str]]:
        """Paths grouped into sources: a master file each, or a series of frames each."""

    def scans(self, paths: Sequence[str], roots: tuple[Path, ...]) -> list[tuple[str, str]]:
        """Entries of one source and their titles, by number."""

    def read(self, paths: Sequence[str], entry: str, how: How) -> Scan:
        """One scan of a source, without reading a pixel; SourceError for missing, short or contradictory data."""

    def frames(self, scan: Scan, roi: Roi) -> Iterator[tuple[int, np.ndarray]]:
        """Number and counts of each frame in recorded order, in the dtype of the scan; buffers may be reused."""


@cache
def known_readers() -> dict[str, Reader]:
    """All readers by name, including those of installed packages.

    Raises
    ------
    SourceError
        A plug-in that cannot be loaded, or two readers of one name.
    """
    found: dict[str, Reader] = {}
    for module in OWN:
        reader = cast(Reader, import_module(module))
        found[reader.name] = reader
    for point in entry_points(group=GROUP):
        where = f"reader {point.name} of {point.dist.name if point.dist else point.value}"
        try:
            reader = point.load()
            lacks = [word for word in WORDS if not hasattr(reader, word)]
        except Exception as error:  # a foreign module may raise anything
            raise SourceError(where, f"cannot be loaded ({error})", "repair or uninstall that package") from error
        if lacks or reader.name in found:
            fault = f"has no {', '.join(lacks)}" if lacks else f"has the same name as another reader, {reader.name}"
            raise SourceError(where, fault, "repair or uninstall that package")
        found[reader.name] = reader
    return found


def named_reader(name: str) -> Reader:
    """The reader of this name.

    Raises
    ------
    InputError
    """
    known = known_readers()
    if name not in known:
        raise InputError(f"format {name!r}", f"is unknown{nearest(name, known)}", f"choose from {', '.join(known)}")
    return known[name]


def _matching(paths: Sequence[str]) -> list[Reader]:
    found = [reader for reader in known_readers().values() if reader.matches(paths)]
    wider = {name for reader in found for name in reader.narrows}
    return [reader for reader in found if reader.name not in wider]


def _only(found: Sequence[Reader], paths: Sequence[str]) -> Reader:
    if len(found) == 1:
        return found[0]
    asked = paths[0] if len(paths) == 1 else f"{paths[0]} and {len(paths) - 1} more"
    if found:
        names = [reader.name for reader in found]
        remedy = f"use --format {' or --format '.join(names)}, or select the files of one format with a pattern"
        raise SourceError(asked, f"matches several formats: {', '.join(names)}", remedy)
    if len(paths) > 1:
        known = ", ".join(known_readers())
        raise SourceError(asked, f"match no common format (known are {known})", "give files of one format")
    raise not_a_source(paths[0], tuple(known_readers()))


def reader_of(paths: Sequence[str], format: str | None = None) -> Reader:
    """The common reader of all these paths.

    Raises
    ------
    SourceError
        No reader matches, or several match.
    """
    return named_reader(format) if format else _only(_matching(paths), paths)


def sources(source: SourcePath, format: str | None = None) -> list[str | list[str]]:
    """Sources of scans behind a path, a pattern, or a list of both: master files, and series of frames.

    A common reader reads all paths together; otherwise each path goes to its own reader.
    """
    paths = named(source)
    together = [named_reader(format)] if format else _matching(paths)
    if together or len(paths) == 1:
        parts = _only(together, paths).sources(paths)
    else:
        claims: dict[str, list[str]] = {}
        for path in paths:
            claims.setdefault(_only(_matching([path]), [path]).name, []).append(path)
        parts = [part for name, own in claims.items() for part in named_reader(name).sources(own)]
        parts.sort(key=lambda part: paths.index(part[0]))
    return [part[0] if len(part) == 1 else part for part in parts]


def list_scans(
    path: SourcePath, *, roots: Sequence[str | Path] = (), format: str | None = None
) -> list[tuple[str, str]]:
    """Entries of a source and their titles, by number: ``[("1.1", "fscan mu 0.29 0.001 150 0.5"), ...]``.

    Raises
    ------
    SourceError
        The file does not exist, or is not a beamline file.
    """
    found = named(path)
    return reader_of(found, format).scans(found, tuple(Path(r) for r in roots))


def named_scans(
    source: SourcePath, scan: str | Sequence[str] | None, format: str | None = None
) -> list[tuple[SourcePath, str]]:
    """Requested sources and entries, in the given order.

    Parameters
    ----------
    source : path, pattern or list of both
        See :func:`sources`.
    scan : str or sequence of str, optional
        "1.1", "1.1,2.1", or "all"; by default the only entry.
    format : str, optional
        Name of the reader; by default the only one that matches.

    Raises
    ------
    SourceError
        No entry, an entry named twice, or several entries without a choice.
    """
    return [(found, entry) for found in sources(source, format) for entry in _entries(found, scan, format)]


def _entries(source: SourcePath, scan: str | Sequence[str] | None, format: str | None) -> list[str]:
    asked = source if isinstance(source, str) else os.path.dirname(os.path.abspath(source[0]))  # type: ignore[index]
    if scan is not None and scan != "all":
        names = scan.split(",") if isinstance(scan, str) else list(scan)
        chosen = [name.strip() for name in map(str, names) if name.strip()]
        twice = next((name for name in chosen if chosen.count(name) > 1), None)
        if twice:
            raise SourceError(f"{asked} entry {twice}", "is named twice", "give each entry once")
        if chosen:
            return chosen
    found = [entry for entry, _ in list_scans(source, format=format)]
    listed = ", ".join(found[:12]) + (" ..." if len(found) > 12 else "")
    if not found:
        raise not_a_master(str(asked))
    if scan is not None and scan != "all":
        raise SourceError(
            str(asked), f"no entry is given; entries are {listed}", "choose one with --scan, or omit the option"
        )
    if scan is None and len(found) > 1:
        raise SourceError(str(asked), f"contains {len(found)} scans: {listed}", "choose with --scan, or use --scan all")
    return found


def read_scan(path: SourcePath, entry: str = "1.1", *, format: str | None = None, **how: Any) -> Scan:
    """Read the description of a scan: axes, location of the frames, and their grid. No pixel is read.

    Parameters
    ----------
    path : str, Path or sequence of them
        Files or folders of one source.
    entry : str
        "1.1", "2.1", ...
    format : str, optional
        Name of the reader; by default the only one that matches.
    how
        As in :class:`How`; ``beamline`` is required.

    Raises
    ------
    SourceError
        Missing, short, contradictory, non-finite or unknown data; in one line with the file, the entry and advice.
    """
    asked = How(**how)
    roots: Sequence[str | Path] = (*asked.roots, *asked.beamline.roots)
    asked = replace(asked, roots=tuple(map(Path, roots)))
    for word, values in (("positions", ("motor", "command")), ("repeats", ("point", "scan"))):
        if getattr(asked, word) not in (None, *values):
            raise InputError(f"{word}={getattr(asked, word)!r}", "is unknown", f"give {values[0]!r} or {values[1]!r}")
    found = named(path)
    reader = reader_of(found, format)
    return replace(reader.read(found, str(entry), asked), format=reader.name)


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
        Frame number in the scan, and its counts; copy the counts to keep them.

    Raises
    ------
    SourceError
        A frame cannot be read, has negative counts, or its file has changed since :func:`read_scan`.
    """
    ny, nx = scan.frame_shape
    y0, y1, x0, x1 = roi or (0, ny, 0, nx)
    if not (0 <= y0 < y1 <= ny and 0 <= x0 < x1 <= nx):
        raise InputError(f"roi {(y0, y1, x0, x1)}", f"frames are {ny} x {nx}", "give y0 < y1 and x0 < x1 within them")
    found = named_reader(scan.format).frames(scan, (y0, y1, x0, x1))
    return _unsigned(scan, found, (y0, x0)) if scan.dtype.kind == "i" else found


def _unsigned(
    scan: Scan, found: Iterator[tuple[int, np.ndarray]], corner: tuple[int, int]
) -> Iterator[tuple[int, np.ndarray]]:
    """Frames of signed integers, in which LIMA writes accumulated frames, as counts."""
    for number, frame in found:
        if frame.min() < 0:
            y, x = (int(k) for k in np.unravel_index(int(frame.argmin()), frame.shape))
            raise SourceError(
                f"{scan.source} entry {scan.entry}",
                f"frame {number} has {int((frame < 0).sum())} negative values, the lowest {frame[y, x]} at pixel y = "
                f"{y + corner[0]}, x = {x + corner[1]}: these are not counts",
                "choose a region without them (--roi), or mask these pixels by "
                f"{np.iinfo(scan.dtype).max} in every frame",
            )
        yield number, frame.view(scan.counts_dtype)


def marked_frames(scan: Scan, dtype: np.dtype[Any], *, roi: Roi | None = None) -> Iterator[tuple[int, np.ndarray]]:
    """Frames as :func:`frames` gives them, of ``dtype``, with masked pixels at the largest value of ``dtype``.

    A file marks masked pixels by the largest value of its dtype, which may be narrower or signed. Light never brings
    counts of 32 bits to this value; with fewer bits, a pixel is masked if it has this value in every frame.
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
    """Pixels with this value in every frame; none for fewer frames than FEWEST_MASKED."""
    found: np.ndarray | None = None
    for _, frame in frames(scan, roi=roi):
        found = frame == value if found is None else found & (frame == value)
        if not found.any():
            break
    assert found is not None
    return found & (len(scan.order) >= FEWEST_MASKED)
