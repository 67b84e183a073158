"""Follow a scan that is being measured: every layer is ingested and reduced as soon as its last frame is on disk.

Files are read without locks, in a process of their own, so that the writer is never blocked and a file that changes
under the reader ends that process only. A layer is ingested when the beamline recorded its end and all its frames are
on disk.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dfxm_dask.catalogue import find
from dfxm_dask.errors import DfxmError, InputError, SourceError
from dfxm_dask.run import stopping
from dfxm_dask.run.events import Remark, duration, many, send
from dfxm_dask.run.execute import Publish, RunReport, run_recipe
from dfxm_dask.run.live.growing import grow, pinned, recover
from dfxm_dask.run.nights.scans import apart
from dfxm_dask.run.recipe import Recipe, read_recipe
from dfxm_dask.sources.bliss.master import entries_of
from dfxm_dask.sources.hdf5_links import open_hdf5
from dfxm_dask.sources.readers import read_scan
from dfxm_dask.sources.source import Beamline, Scan, load_beamline

POLL = 0.5  # seconds between two looks at the size and time of the master file
SETTLED = 1.0  # seconds without a change after which the files of a layer that ended are whole (our choice)
PATIENCE = 60.0  # seconds for which a layer that ended may be unreadable


@dataclass(frozen=True)
class Entry:
    """An entry of a master file: whether it ended, its frames, its files, and why it cannot be read."""

    name: str
    ended: bool
    found: int = 0
    commanded: int = 0
    z: float | None = None
    files: tuple[tuple[str, int, int], ...] = ()
    problem: str = ""
    scan: Scan | None = None

    @property
    def whole(self) -> bool:
        return self.ended and not self.problem and self.found == self.commanded


@dataclass
class Followed:
    """Progress: entries on disk, aborted entries, and the last run."""

    ingested: list[str] = field(default_factory=list)
    aborted: list[str] = field(default_factory=list)
    replaced: list[str] = field(default_factory=list)
    report: RunReport | None = None
    stopped: str = ""

    @property
    def complete(self) -> bool:
        return not self.stopped and self.report is not None and self.report.complete and not self.aborted


def look_at(path: str, known: Sequence[str], how: dict[str, Any]) -> list[Entry]:
    """Entries of a master file that are not known yet. No pixel is read.

    Raises
    ------
    SourceError
        The file cannot be read, for example because it is being written at this moment.
    """
    options = {**how, "beamline": how["beamline"], "allow_partial": True}
    found = []
    for name in entries_of(Path(path)):
        if name in known:
            continue
        try:
            scan = read_scan(path, name, **options)
        except DfxmError as error:
            found.append(Entry(name, False, problem=str(error)))
            continue
        ended = bool(scan.metadata.get("end_time"))
        if lacking := unwritten(scan):
            found.append(Entry(name, ended, scan.found, scan.commanded, problem=lacking))
            continue
        found.append(Entry(name, ended, scan.found, scan.commanded, scan.z, tuple(map(tuple, scan.files)), "", scan))  # type: ignore[arg-type]
    return found


def unwritten(scan: Scan) -> str:
    """Why frames of a scan are not on disk yet; empty if all are. HDF5 reads an absent chunk as zeros."""
    for piece in scan.pieces:
        try:
            with open_hdf5(piece.file, scan.source) as file:
                dataset = file[piece.dataset]
                if dataset.chunks is None:
                    continue
                whole = math.prod(-(-n // c) for n, c in zip(dataset.shape, dataset.chunks, strict=True))
                there = dataset.id.get_num_chunks()
        except (OSError, KeyError, RuntimeError) as error:
            return f"{piece.file} cannot be read ({' '.join(str(error).split())})"
        if there < whole:
            return f"{piece.file} has {there} of {whole} chunks"
    return ""


def settled(entry: Entry, master: str, now: float) -> bool:
    """Whether no file of a layer has changed for a second, apart from the master, to which other layers are added."""
    for name, size, mtime in entry.files:
        try:
            state = os.stat(name)
        except OSError:
            return False
        if os.path.realpath(name) == os.path.realpath(master):
            continue
        if (state.st_size, state.st_mtime_ns) != (size, mtime) or now - mtime / 1e9 < SETTLED:
            return False
    return True


def follow(
    source: str | Path,
    store: str | Path,
    recipe: Recipe | str | Path,
    *,
    layers: int | None = None,
    idle: float = 1800.0,
    poll: float = POLL,
    publish: Publish = (),
    say: Callable[[str], None] = lambda text: None,
    **options: Any,
) -> Followed:
    """Ingest and reduce the layers of a scan while it is measured.

    Parameters
    ----------
    source : path
        BLISS master file, which may not exist yet.
    store : path
        A store that a stopped follower began continues.
    recipe : Recipe, name or path
        Steps that gather all layers run at the end.
    layers : int, optional
        Number of layers after which the scan is complete.
    idle : float, s
        Time without a change after which the scan counts as complete.
    poll : float, s
        Time between two looks.
    options
        Of :func:`dfxm_dask.ingest`.

    Returns
    -------
    Followed
        In the end the store is that of an ingest and a run of the finished scan.

    Raises
    ------
    InputError, RecipeError, StoreError
        See :func:`dfxm_dask.ingest` and :func:`dfxm_dask.run_recipe`.
    """
    recipe = recipe if isinstance(recipe, Recipe) else read_recipe(recipe)
    source, store = Path(source), Path(store).resolve()
    for word in ("scan", "z", "overwrite", "allow_partial"):
        if options.get(word):
            raise InputError(f"follow: {word}", "has no effect", "omit it: all entries of the master file are layers")
    options = {word: value for word, value in options.items() if value is not None and word not in ("scan", "z")}
    how = _how(options)
    recover(store)
    for step in recipe.steps:
        find(step.name)  # loads its module, before the first layer waits for it
    done, known, told = Followed(), dict[str, Entry](), set[str]()
    unreadable: dict[str, float] = {}
    changed, stamp = time.time(), None
    first = True

    def tell(text: str) -> None:
        if text not in told:
            told.add(text)
            say(text)
            send(publish, Remark(text))

    with apart() as ask:
        while True:
            if reason := stopping.why():
                done.stopped = reason
                return done
            now = time.time()
            seen = _stamp(source)
            if seen != stamp:
                stamp, changed = seen, now
            fresh: list[Entry] = []
            if seen is not None:
                try:
                    fresh = ask(look_at, str(source), list(known), how)
                except SourceError as error:
                    tell_later = unreadable.setdefault(str(error), now)
                    if now - tell_later > PATIENCE:
                        tell(f"{error}: trying again")
            ready = [e for e in fresh if e.whole and settled(e, str(source), now)]
            for entry in (e for e in fresh if e.ended and not e.whole):
                if now - unreadable.setdefault(entry.name, now) > (PATIENCE if entry.problem else SETTLED):
                    tell(_why(entry))
                    known[entry.name] = entry
                    done.aborted.append(entry.name)
            if first and len(ready) < sum(e.whole for e in fresh):
                ready = []  # what a stopped follower had ingested stays together
            elif ready or first:
                for entry in ready:
                    known[entry.name] = entry
                    done.ingested.append(entry.name)
                if done.ingested:
                    try:
                        _work(source, store, recipe, done, known, publish, tell, options)
                        first = False
                    except SourceError as error:  # a file that changed while it was read
                        tell(f"{error}: trying again")
                        if now - unreadable.setdefault("ingest", now) > PATIENCE:
                            raise
                        for entry in ready:
                            done.ingested.remove(entry.name)
                            del known[entry.name]
                    else:
                        unreadable.pop("ingest", None)
                    changed = time.time()
            full = layers is not None and len(done.ingested) >= layers
            if full or (time.time() - changed > idle and not ready):
                break
            time.sleep(poll)
    if not done.ingested:
        raise SourceError(
            str(source), f"had no complete layer within {duration(idle)}", "check the path, or give --idle"
        )
    for entry in (e for e in fresh if not e.ended and e.name not in known):
        tell(_why(entry))
        known[entry.name] = entry
        done.aborted.append(entry.name)
    _finish(source, store, recipe, done, known, publish, tell, options)
    return done


def _how(options: dict[str, Any]) -> dict[str, Any]:
    line = options.get("beamline", "id03")
    loaded = line if isinstance(line, Beamline) else load_beamline(line, dict(options.get("motors") or {}))
    words = ("detector", "scan_mode", "positions")
    found = {word: options[word] for word in words if options.get(word) is not None}
    return {"beamline": loaded, "roots": [Path(r) for r in options.get("roots", ())], **found}


def _stamp(path: Path) -> tuple[int, int] | None:
    try:
        state = os.stat(path)
    except OSError:
        return None
    return state.st_size, state.st_mtime_ns


def _why(entry: Entry) -> str:
    if entry.problem:
        return f"entry {entry.name} cannot be read: {entry.problem}"
    if not entry.ended:
        return f"entry {entry.name} has no end: {entry.found} of {entry.commanded} frames"
    return f"entry {entry.name} was aborted: {entry.found} of {entry.commanded} frames"


def _work(
    source: Path,
    store: Path,
    recipe: Recipe,
    done: Followed,
    known: dict[str, Entry],
    publish: Publish,
    tell: Callable[[str], None],
    options: dict[str, Any],
) -> None:
    """The store with all layers that are complete, and the blocks of the recipe that need no other layers."""
    begun = time.perf_counter()
    recipe = pinned(recipe, store)
    scans = {name: entry.scan for name, entry in known.items() if entry.scan is not None}
    report, replaced = grow(source, store, _in_order(done.ingested), recipe, publish, scans, **options)
    done.replaced += replaced
    for text in replaced:
        tell(text)
    made = run_recipe(recipe, store, publish=publish, share=(1, 1))
    if made.stopped:
        done.stopped = made.stopped
    words = f"{many(report.layers, 'layer')} on disk and reduced in {duration(time.perf_counter() - begun)}"
    tell(words)
    recover(store)


def _finish(
    source: Path,
    store: Path,
    recipe: Recipe,
    done: Followed,
    known: dict[str, Entry],
    publish: Publish,
    tell: Callable[[str], None],
    options: dict[str, Any],
) -> None:
    """The store and the results of the whole scan, equal to an ingest and a run of the finished files."""
    repeated = {known[name].z for name in done.ingested}
    lost = [name for name in done.aborted if known[name].z is None or known[name].z not in repeated]
    for name in sorted(set(done.aborted) - set(lost)):
        tell(f"entry {name} was repeated by a later one and is left out")
    done.aborted = lost
    partial = [name for name in lost if not known[name].problem and known[name].found]
    entries = _in_order([*done.ingested, *partial])
    _, replaced = grow(source, store, entries, recipe, publish, **options, allow_partial=bool(partial))
    done.replaced += replaced
    done.report = run_recipe(recipe, store, publish=publish)
    recover(store)
    done.stopped = done.report.stopped


def _in_order(names: Sequence[str]) -> list[str]:
    return sorted(names, key=lambda name: [int(part) for part in name.split(".")])
