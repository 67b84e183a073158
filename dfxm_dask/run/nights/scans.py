"""What a night finds under its raw roots: master files, the scans in them, and whether one is still being written.

A damaged HDF5 file can end the program that opens it. Files are therefore looked at in a process of their own, which
is started anew where one ends it.
"""

from __future__ import annotations

import fnmatch
import hashlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from dfxm_dask.errors import DfxmError, SourceError
from dfxm_dask.run.events import duration
from dfxm_dask.run.nights.config import Nightly
from dfxm_dask.sources.bliss.master import list_bliss
from dfxm_dask.sources.hdf5_links import Sources
from dfxm_dask.sources.paths import fixed_part, matches
from dfxm_dask.sources.source import Scan, load_beamline
from dfxm_dask.store.ingest import read_layers

MASTERS = (".h5", ".hdf5", ".nx", ".nxs")
File = tuple[str, int, int]
"""Path, size in bytes, and time of change in ns."""


@dataclass(frozen=True)
class Found:
    """Where a night finds its scans.

    Parameters
    ----------
    masters : tuple of (Path, Path)
        Files that may hold scans, each with the root that it was found under.
    searched : tuple of Path
        Folders that were searched whole; nothing is written below them.
    notes, faults : tuple of str
        What was left alone, and what should have been searched and could not be.
    """

    masters: tuple[tuple[Path, Path], ...]
    searched: tuple[Path, ...]
    notes: tuple[str, ...]
    faults: tuple[str, ...]


@dataclass(frozen=True)
class Look:
    """A scan, or a stack of them, as its files are now.

    Parameters
    ----------
    title, sample : str
        As the beamline wrote them.
    files : tuple of (path, size, mtime_ns)
        Of every file that holds a part of the scan, as far as found.
    fingerprint : str
        Digest of all that says which frames these are, and where they belong. Scans that are added to the master
        later do not change it.
    problem : str
        Why it cannot be read; empty where it can.
    ended : bool
        Whether the beamline wrote that the scan ended.
    newest : (path, mtime in s)
        The last change among its files.
    absent : tuple of str
        Layers that are not complete.
    scan_mode : "rewind", "zigzag" or None
        Direction of rows as the night says it, where the files do not.
    """

    title: str
    sample: str
    files: tuple[File, ...]
    fingerprint: str
    problem: str
    ended: bool
    newest: tuple[str, float]
    absent: tuple[str, ...] = ()
    scan_mode: str | None = None


def find_masters(night: Nightly) -> Found:
    """Files that may be masters of scans under the raw roots. Links out of the roots are not followed."""
    masters: dict[Path, Path] = {}
    searched: list[Path] = []
    links: list[str] = []
    faults: list[str] = []
    further = [Path(root).resolve() for root in night.roots]

    def within(path: Path, root: Path) -> bool:
        real = path.resolve()
        return any(real.is_relative_to(folder) for folder in (root, *further))

    def skipped(name: str) -> bool:
        return any(fnmatch.fnmatch(name, pattern) for pattern in night.skip)

    def take(path: Path, root: Path) -> None:
        if not within(path, root):
            links.append(str(path))
        elif path.is_file():
            masters.setdefault(path.resolve(), root)

    for pattern in night.raw:
        found = matches(pattern)
        fixed = fixed_part(pattern).resolve()
        if not found or not all(os.path.exists(m) for m in found):
            faults.append(f"{pattern} matches nothing: is it mounted, and spelled as it is?")
        for match in map(Path, found):
            if not within(match, fixed):
                links.append(str(match))
                continue
            if match.is_file():
                take(match, fixed if fixed.is_dir() else match.resolve().parent)
                continue
            root = match.resolve()
            searched.append(root)
            for folder, names, files in os.walk(root, onerror=lambda e: faults.append(f"{e.filename}: {e.strerror}")):
                linked = [n for n in names if os.path.islink(os.path.join(folder, n))]
                links += [os.path.join(folder, n) for n in linked]
                names[:] = sorted(n for n in names if n not in linked and not skipped(n))
                for name in sorted(files):
                    if name.lower().endswith(MASTERS) and not skipped(name):
                        take(Path(folder, name), root)
    notes = [f"{path} is a link to another place and was not followed" for path in dict.fromkeys(links)]
    return Found(tuple(sorted(masters.items())), tuple(searched), tuple(notes), tuple(faults))


def scans_in(path: str) -> tuple[list[tuple[str, str]], int]:
    """Entries N.1 of a file with their titles, and how many more are links to other masters, where they count."""
    listed = list_bliss(Path(path))
    with Sources(Path(path), path) as sources:
        own = [(n, t) for n, t in listed if not isinstance(sources.master.get(n, getlink=True), h5py.ExternalLink)]
    return own, len(listed) - len(own)


def look(path: str, listed: Sequence[str], night: Nightly) -> Look:
    """A scan as its files are now; no pixel is read."""
    how: dict[str, Any] = {
        "beamline": load_beamline(night.beamline, dict(night.motors)),
        "detector": night.detector,
        "roots": [Path(r) for r in night.roots],
        "allow_partial": night.allow_partial,
    }
    mode = None
    try:
        try:
            scans, absent = read_layers(path, list(listed), **how)
        except DfxmError as error:
            # Most scans of a night say their direction, or have none; only those that ask for it are told.
            if not night.scan_mode or "--scan-mode" not in error.remedy:
                raise
            mode = night.scan_mode
            scans, absent = read_layers(path, list(listed), **how, scan_mode=mode)
    except DfxmError as error:
        return broken_look(path, listed, str(error))
    files = {file[0]: file for s in scans for file in s.files}
    master = os.path.realpath(path)
    inside = any(piece.file == master for s in scans for piece in s.pieces)
    ended = all(s.metadata.get("end_time") for s in scans)
    # Other scans are added to the master all the time: it tells nothing of one that ended and lies in other files.
    telling = [f for name, f in files.items() if name != master or inside]
    recent = telling if ended and telling else list(files.values())
    newest = max(recent, key=lambda file: file[2])
    first = scans[0]
    return Look(
        first.title,
        str(first.metadata.get("sample", "")),
        tuple(files.values()),
        _fingerprint(scans, telling),
        "",
        ended,
        (newest[0], newest[2] / 1e9),
        tuple(absent),
        mode,
    )


def broken_look(path: str, listed: Sequence[str], problem: str, *, title: str = "") -> Look:
    """A scan that cannot be read: all files in its folder may belong to it."""
    folder = os.path.dirname(path)
    there = [os.path.join(at, name) for at, _, names in os.walk(folder) for name in names]
    files = tuple(f for f in map(_file, there) if f)
    own = tuple(f for f in files if f[0] == path)
    newest = max(files, key=lambda file: file[2], default=(path, 0, 0))
    seen = hashlib.sha256(repr([problem, own, newest]).encode()).hexdigest()
    return Look(title, "", files, seen, problem, bool(listed) and _ended(path, listed), (newest[0], newest[2] / 1e9))


def unchanged(files: Iterable[Sequence[Any]]) -> bool:
    """Whether files are as they were, by size and time of change."""
    return all(_file(str(name)) == (name, size, mtime) for name, size, mtime in files)


def busy(found: Look, night: Nightly, now: float) -> str:
    """Why a scan may still be being written; empty where it is not."""
    path, changed = found.newest
    age = now - changed
    if age < -1:
        return f"{path} was changed {duration(-age)} in the future: the clocks of this machine and of its disk differ"
    if age < night.quiet_seconds:
        return f"{path} was changed {duration(max(age, 0))} ago: it may still be being written"
    if found.problem and not found.ended and age < 3600 * night.unfinished_hours:
        return f"it has no end_time, was changed {duration(age)} ago, and cannot be read yet: {found.problem}"
    return ""


def _file(path: str) -> File | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return path, found.st_size, found.st_mtime_ns


def _ended(path: str, listed: Sequence[str]) -> bool:
    try:
        with Sources(Path(path), path) as sources:
            return all(isinstance(sources.value(sources.master, f"{name}/end_time"), str) for name in listed)
    except SourceError:
        return False


def _fingerprint(scans: Sequence[Scan], telling: Sequence[File]) -> str:
    """Digest of what scans are: commands, grids, positions, and the files that hold their frames."""
    told = hashlib.sha256(repr(sorted(telling)).encode())
    for s in scans:
        words = [
            s.entry,
            s.title,
            s.commanded,
            s.found,
            s.frame_shape,
            s.dtype.str,
            s.z,
            s.z_motor,
            s.pieces,
            [s.metadata.get(k) for k in ("start_time", "end_time", "sample")],
        ]
        told.update(repr(words).encode())
        for values in (s.order, *(a.positions for a in s.axes), s.monitor, s.exposure):
            told.update(b"-" if values is None else np.ascontiguousarray(values).tobytes())
    return told.hexdigest()


@contextmanager
def apart() -> Iterator[Callable[..., Any]]:
    """A way to call functions of this module in another process: ``ask(function, path, ...)``.

    Raises
    ------
    SourceError
        When asked, and the other process dies over the file; the next question starts another one.
    """
    pool: ProcessPoolExecutor | None = None

    def ask(function: Callable[..., Any], path: str, *more: Any) -> Any:
        nonlocal pool
        if pool is None:
            context = multiprocessing.get_context("forkserver")
            context.set_forkserver_preload([__name__])  # once; every process after that comes at once
            pool = ProcessPoolExecutor(1, context, _settle)
        try:
            return pool.submit(function, path, *more).result()
        except BrokenProcessPool:
            pool.shutdown(wait=False)
            pool = None
            raise SourceError(path, "ends the program that reads it", "copy the file again") from None

    try:
        yield ask
    finally:
        if pool is not None:
            pool.shutdown(cancel_futures=True)


def _settle() -> None:
    """In the other process: leave signals to the one that asks, and end when it is gone."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    parent = multiprocessing.parent_process()

    def follow() -> None:
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=follow, daemon=True).start()
