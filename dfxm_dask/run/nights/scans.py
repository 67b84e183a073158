"""Search of a night below its raw roots: master files, their scans, and scans that are still being written.

A damaged HDF5 file can end the process that opens it. Files are therefore read in a separate process, which is
restarted if it ends.
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
    """Result of the search for scans.

    Parameters
    ----------
    masters : tuple of (Path, Path)
        Files that may contain scans, each with its root.
    searched : tuple of Path
        Folders that were searched completely; results are never written below them.
    notes, faults : tuple of str
        Skipped files, and folders that could not be searched.
    """

    masters: tuple[tuple[Path, Path], ...]
    searched: tuple[Path, ...]
    notes: tuple[str, ...]
    faults: tuple[str, ...]


@dataclass(frozen=True)
class Look:
    """Current state of the files of a scan or of a stack of scans.

    Parameters
    ----------
    title, sample : str
        As recorded by the beamline.
    files : tuple of (path, size, mtime_ns)
        All files with a part of the scan, as far as found.
    fingerprint : str
        Digest of the identity and position of all frames. It does not change when scans are added to the master.
    problem : str
        Why the scan cannot be read; empty if it can.
    ended : bool
        Whether the beamline recorded the end of the scan.
    newest : (path, mtime in s)
        The last change among its files.
    absent : tuple of str
        Layers that are not complete.
    scan_mode : "rewind", "zigzag" or None
        Direction of rows from the configuration, if the files do not record it.
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
            faults.append(f"{pattern} matches nothing: check its spelling, and that its disk is mounted")
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
    notes = [f"{path} is a link out of the raw folders and was not followed" for path in dict.fromkeys(links)]
    return Found(tuple(sorted(masters.items())), tuple(searched), tuple(notes), tuple(faults))


def scans_in(path: str) -> tuple[list[tuple[str, str]], int]:
    """Entries N.1 of a file with their titles, and the number of further entries that are links to other masters."""
    listed = list_bliss(Path(path))
    with Sources(Path(path), path) as sources:
        own = [(n, t) for n, t in listed if not isinstance(sources.master.get(n, getlink=True), h5py.ExternalLink)]
    return own, len(listed) - len(own)


def look(path: str, listed: Sequence[str], night: Nightly) -> Look:
    """Current state of the files of a scan; no pixels are read."""
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
            # Most files record the direction of rows, or need none; the setting is for the others only.
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
    # Other scans are added to the master, so that its changes are irrelevant to a scan that ended and has own files.
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
    """State of a scan that cannot be read: all files in its folder may belong to it."""
    folder = os.path.dirname(path)
    there = [os.path.join(at, name) for at, _, names in os.walk(folder) for name in names]
    files = tuple(f for f in map(_file, there) if f)
    own = tuple(f for f in files if f[0] == path)
    newest = max(files, key=lambda file: file[2], default=(path, 0, 0))
    seen = hashlib.sha256(repr([problem, own, newest]).encode()).hexdigest()
    return Look(title, "", files, seen, problem, bool(listed) and _ended(path, listed), (newest[0], newest[2] / 1e9))


def unchanged(files: Iterable[Sequence[Any]]) -> bool:
    """Whether size and time of change of files are unchanged."""
    return all(_file(str(name)) == (name, size, mtime) for name, size, mtime in files)


def busy(found: Look, night: Nightly, now: float) -> str:
    """Why a scan may be incomplete because it is still being written; empty if it is not."""
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
    """Digest of the identity of scans: commands, grids, positions, and the files of their frames."""
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
    """Caller of functions of this module in another process: ``ask(function, path, ...)``.

    Raises
    ------
    SourceError
        The other process died while it read the file; the next call starts another process.
    """
    pool: ProcessPoolExecutor | None = None

    def ask(function: Callable[..., Any], path: str, *more: Any) -> Any:
        nonlocal pool
        if pool is None:
            context = multiprocessing.get_context("forkserver")
            context.set_forkserver_preload([__name__])  # later processes then start quickly
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
    """Ignore signals in the other process, which the parent handles, and end with the parent."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    parent = multiprocessing.parent_process()

    def follow() -> None:
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=follow, daemon=True).start()
