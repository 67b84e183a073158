"""Readers of beamline files: which one reads a path, which scans are there, and their frames.

:func:`read_scan` says everything about a scan without reading a pixel, and refuses what it cannot vouch for;
:func:`frames` then streams the pixels in the order in which they were recorded. They never depend on the format: a
:class:`Reader` does. A new format is a module of its own and one line: in :data:`OWN`, or, of another package, an entry
point in the group ``dfxm_dask.readers``.
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
)
GROUP = "dfxm_dask.readers"
WORDS = ("name", "summary", "narrows", "matches", "sources", "scans", "read", "frames")


@dataclass(frozen=True)
class How:
    """How a user wants a scan read.

    Parameters
    ----------
    beamline : Beamline
        From :func:`dfxm_dask.sources.source.load_beamline`.
    detector : str, optional
        Name of the camera ("pco_ff") or of its dataset ("instrument/pco_ff/data").
    roots : tuple of Path
        Folders besides that of the source in which linked files may lie.
    allow_partial : bool
        Take the complete rows of a scan that was aborted.
    scan_mode : "rewind" or "zigzag", optional
        Direction of the rows of a scan over two axes whose file does not say it.
    positions : "motor" or "command", optional
        What tells the positions where motors and command disagree. By default motors, checked against the command.
    repeats : "point" or "scan", optional
        Order of several frames for each row of a table: all of a point, or the whole scan, one after the other.
    """

    beamline: Beamline
    detector: str | None = None
    roots: tuple[Path, ...] = ()
    allow_partial: bool = False
    scan_mode: str | None = None
    positions: str | None = None
    repeats: str | None = None

    def refuse(self, *words: str) -> None:
        """Refuse choices that a format has no use for.

        Raises
        ------
        InputError
        """
        for word in words:
            if value := getattr(self, word):
                raise InputError(f"{word}={value!r}", "means nothing for the format of this source", "leave it out")


class Reader(Protocol):
    """A format of raw data: a module, or any object, with these names.

    Attributes
    ----------
    name : str
        As the user writes it after ``--format``.
    summary : str
        What it reads, in one line.
    narrows : tuple of str
        Names of readers of wider formats, which also match what this reader matches and leave it to this one.
    """

    @property
    def name(self) -> str: ...

    @property
    def summary(self) -> str: ...

    @property
    def narrows(self) -> tuple[str, ...]: ...

    def matches(self, paths: Sequence[str]) -> bool:
        """Whether it reads all of these files and folders; it looks at names and first bytes, and never raises."""

    def sources(self, paths: Sequence[str]) -> list[list[str]]:
        """Paths put together to sources: one master file each, one series of frames each."""

    def scans(self, paths: Sequence[str], roots: tuple[Path, ...]) -> list[tuple[str, str]]:
        """Entries of one source and their titles, by number."""

    def read(self, paths: Sequence[str], entry: str, how: How) -> Scan:
        """One scan of a source. No pixel is read; SourceError says what is missing, short or contradictory."""

    def frames(self, scan: Scan, roi: Roi) -> Iterator[tuple[int, np.ndarray]]:
        """Number and counts of each frame in recorded order, of the dtype of the scan; buffers may be used again."""


@cache
def known_readers() -> dict[str, Reader]:
    """All readers by name: ours, and those that installed packages declare.

    Raises
    ------
    SourceError
        A plug-in that cannot be loaded, or a name that two readers have.
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
        except Exception as error:  # whatever a module of somebody else raises as it is loaded
            raise SourceError(where, f"cannot be loaded ({error})", "repair or uninstall that package") from error
        if lacks or reader.name in found:
            fault = f"has no {', '.join(lacks)}" if lacks else f"has the name {reader.name} of another reader"
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
        raise InputError(f"format {name!r}", f"is not known{nearest(name, known)}", f"name one of {', '.join(known)}")
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
        remedy = f"say --format {' or --format '.join(names)}, or name the files of one format by a pattern"
        raise SourceError(asked, f"fits several formats: {', '.join(names)}", remedy)
    if len(paths) > 1:
        known = ", ".join(known_readers())
        raise SourceError(asked, f"fit no format together (known are {known})", "name the files of one format")
    raise not_a_source(paths[0], tuple(known_readers()))


def reader_of(paths: Sequence[str], format: str | None = None) -> Reader:
    """The reader of all these paths together.

    Raises
    ------
    SourceError
        None, or several.
    """
    return named_reader(format) if format else _only(_matching(paths), paths)


def sources(source: SourcePath, format: str | None = None) -> list[str | list[str]]:
    """Sources of scans behind a path, a pattern, or a list of both: master files, and series of frames.

    Paths that one reader reads together go to it together, otherwise each to its own reader.
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
        No such file, or not a file of the beamline.
    """
    found = named(path)
    return reader_of(found, format).scans(found, tuple(Path(r) for r in roots))


def named_scans(
    source: SourcePath, scan: str | Sequence[str] | None, format: str | None = None
) -> list[tuple[SourcePath, str]]:
    """Sources and entries that a user asks for, in the order in which they are named.

    Parameters
    ----------
    source : path, pattern or list of both
        See :func:`sources`.
    scan : str or sequence of str, optional
        "1.1", "1.1,2.1", or "all"; by default the only entry that there is.
    format : str, optional
        Name of the reader; by default the only one that matches.

    Raises
    ------
    SourceError
        No entry, one named twice, or several of which none is chosen.
    """
    return [(found, entry) for found in sources(source, format) for entry in _entries(found, scan, format)]


def _entries(source: SourcePath, scan: str | Sequence[str] | None, format: str | None) -> list[str]:
    asked = source if isinstance(source, str) else os.path.dirname(os.path.abspath(source[0]))  # type: ignore[index]
    if scan is not None and scan != "all":
        names = scan.split(",") if isinstance(scan, str) else list(scan)
        chosen = [name.strip() for name in map(str, names) if name.strip()]
        twice = next((name for name in chosen if chosen.count(name) > 1), None)
        if twice:
            raise SourceError(f"{asked} entry {twice}", "is named twice", "name each entry once")
        if chosen:
            return chosen
    found = [entry for entry, _ in list_scans(source, format=format)]
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


def read_scan(path: SourcePath, entry: str = "1.1", *, format: str | None = None, **how: Any) -> Scan:
    """A scan: its axes, where its frames lie, and where they belong. No pixel is read.

    Parameters
    ----------
    path : str, Path or sequence of them
        Files or folders of one source.
    entry : str
        "1.1", "2.1", ...
    format : str, optional
        Name of the reader; by default the only one that matches.
    how
        As of :class:`How`; ``beamline`` is needed.

    Raises
    ------
    SourceError
        Anything that is missing, short, contradictory, not finite, or of an unknown kind; in one line that names the
        file, the entry, and what to do.
    """
    asked = How(**how)
    roots: Sequence[str | Path] = (*asked.roots, *asked.beamline.roots)
    asked = replace(asked, roots=tuple(map(Path, roots)))
    for word, values in (("positions", ("motor", "command")), ("repeats", ("point", "scan"))):
        if getattr(asked, word) not in (None, *values):
            raise InputError(f"{word}={getattr(asked, word)!r}", "is not known", f"give {values[0]!r} or {values[1]!r}")
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
    found = named_reader(scan.format).frames(scan, (y0, y1, x0, x1))
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
