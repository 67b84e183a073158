"""Follow a scan that is being measured: every layer is ingested and reduced as soon as its last frame is on disk.

Files are read without locks, in a process of their own, so that the writer is never blocked and a file that changes
under the reader ends that process only. A layer is ingested when the beamline recorded its end and all its frames are
on disk.
"""

from __future__ import annotations

import fnmatch
import math
import os
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dfxm_dask.catalogue import find
from dfxm_dask.errors import DfxmError, InputError, LockedError, RecipeError, SourceError
from dfxm_dask.run import stopping
from dfxm_dask.run.events import Remark, duration, many, send
from dfxm_dask.run.execute import Publish, RunReport, run_recipe
from dfxm_dask.run.live.growing import grow, origins, pinned, recover
from dfxm_dask.run.nights.scans import apart
from dfxm_dask.run.recipe import Recipe, read_recipe
from dfxm_dask.sources.bliss.master import entries_of, list_bliss
from dfxm_dask.sources.hdf5_links import open_hdf5
from dfxm_dask.sources.readers import read_scan
from dfxm_dask.sources.source import Beamline, Scan, load_beamline
from dfxm_dask.sources.stack import layer_z, least_distance
from dfxm_dask.store.integrity.lock import hold
from dfxm_dask.store.layers import check_target

POLL = 0.5  # seconds between two looks at the size and time of the master file
SETTLED = 1.0  # seconds without a change after which the files of a layer that ended are whole (our choice)
PATIENCE = 60.0  # seconds for which a layer that ended may be unreadable, or short because its files come late
ABORTED = ("ABORT", "FAIL", "DELET")  # words of BLISS for the end of a scan that gets no further frames


@dataclass(frozen=True)
class Entry:
    """An entry of a master file: whether it ended and how, its frames, its own files, and why it cannot be read."""

    name: str
    ended: bool
    found: int = 0
    commanded: int = 0
    z: float | None = None
    files: tuple[tuple[str, int, int], ...] = ()
    problem: str = ""
    aborted: bool = False
    scan: Scan | None = field(default=None, compare=False)

    @property
    def whole(self) -> bool:
        return self.ended and not self.problem and self.found == self.commanded


@dataclass
class Followed:
    """Progress: entries on disk, aborted and refused entries, requested layers, and the last run."""

    ingested: list[str] = field(default_factory=list)
    aborted: list[str] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    replaced: list[str] = field(default_factory=list)
    layers: int | None = None
    report: RunReport | None = None
    stopped: str = ""

    @property
    def complete(self) -> bool:
        """Whether all layers are on disk and reduced."""
        return not self.lacking()

    def lacking(self) -> str:
        """Why the result is not complete; empty if it is."""
        if self.stopped:
            return f"{self.stopped}; the same command continues"
        few = self.layers is not None and len(self.ingested) < self.layers
        reasons = [f"{len(self.ingested)} of {self.layers} layers"] if few else []
        reasons += [f"aborted entries {', '.join(self.aborted)}"] if self.aborted else []
        reasons += [f"entries left out {', '.join(self.refused)}"] if self.refused else []
        if self.report is None or (not self.report.complete and not reasons):
            reasons.append("the run of the recipe is incomplete")
        return "; ".join(reasons)


def look_at(path: str, known: Sequence[str], how: dict[str, Any], title: str | None = None) -> list[Entry]:
    """Entries of a master file that are not known yet, and whose title matches. No pixel is read.

    Raises
    ------
    SourceError
        The file cannot be read, for example because it is being written at this moment.
    """
    options = {**how, "beamline": how["beamline"], "allow_partial": True}
    found = []
    named = dict(list_bliss(Path(path), roots=tuple(Path(r) for r in how.get("roots", ())))) if title else {}
    for name in entries_of(Path(path)):
        if name in known or (title is not None and not fnmatch.fnmatchcase(named.get(name, ""), title)):
            continue
        try:
            scan = read_scan(path, name, **options)
            z = layer_z(scan) if scan.z is not None else None
        except DfxmError as error:
            found.append(Entry(name, False, problem=str(error)))
            continue
        aborted = any(word in str(scan.metadata.get("end_reason", "")).upper() for word in ABORTED)
        # The master grows with every layer, so that its size and time tell nothing about one of them.
        files = tuple((f, n, t) for f, n, t in scan.files if f != os.path.realpath(path))
        facts = (bool(scan.metadata.get("end_time")), scan.found, scan.commanded, z, files, unwritten(scan), aborted)
        found.append(Entry(name, *facts, scan))
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


def follow(
    source: str | Path,
    store: str | Path,
    recipe: Recipe | str | Path,
    *,
    layers: int | None = None,
    title: str | None = None,
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
    title : str, optional
        Pattern of the titles of the entries that are layers, such as "fscan diffry *"; by default all entries.
    idle : float, s
        Time without a change of the master or of the frames, after which the scan counts as complete.
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
    LockedError
        Another process follows into the same store.
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
    if source.is_dir():
        raise InputError(f"follow {source}", "is a folder", "give the path of the BLISS master file")
    check_target(store)
    for step in recipe.steps:
        find(step.name)  # loads its module, before the first layer waits for it
    done, told = Followed(layers=layers), set[str]()

    def tell(text: str) -> None:
        if text not in told:
            told.add(text)
            say(text)
            send(publish, Remark(text))

    follower = _Follower(source, store, recipe, done, publish, tell, options)
    with hold(store.parent, f".{store.name}.follower", what=f"follow into {store}"), apart() as ask:
        recover(store)
        entries = _watch(follower, ask, how, title, idle, poll)
        if done.stopped or entries is None:
            return done
        _finish(follower, entries, poll)
    return done


@dataclass(frozen=True)
class _Follower:
    """Scan, store, recipe and options of a follower, and its progress."""

    source: Path
    store: Path
    recipe: Recipe
    done: Followed
    publish: Publish
    tell: Callable[[str], None]
    options: dict[str, Any]


def _watch(
    one: _Follower, ask: Callable[..., Any], how: dict[str, Any], title: str | None, idle: float, poll: float
) -> dict[str, Entry] | None:
    """The last state of all entries, when the scan is complete; None if a signal ended the wait."""
    done, tell = one.done, one.tell
    base = {entry for name, entry in origins(one.store) if name == one.source.name}
    seen: dict[str, Entry] = {}  # of every entry the last look
    since: dict[str, float] = {}  # when an entry changed last, by the clock of this process
    failed: dict[str, float] = {}  # when the ingest of an entry failed first
    unreadable: float | None = None
    before: Any = None
    changed = time.monotonic()
    together = True
    while True:
        if reason := stopping.why():
            done.stopped = reason
            return None
        asked, stamp, fresh = time.monotonic(), _stamp(one.source), list[Entry]()
        if stamp is not None:
            try:
                fresh = ask(look_at, str(one.source), [*done.ingested, *done.refused], how, title)
                unreadable = None
            except SourceError as error:
                unreadable = asked if unreadable is None else unreadable
                if asked - unreadable > PATIENCE:
                    tell(f"{error}: trying again")
        now = time.monotonic()  # a look takes seconds on a slow disk
        for entry in fresh:
            if seen.get(entry.name) != entry:
                seen[entry.name], since[entry.name] = entry, now
        if (stamp, fresh) != before:
            before, changed = (stamp, fresh), now
        for entry in (e for e in fresh if e.ended and not e.whole):
            if asked - since[entry.name] > (SETTLED if entry.aborted else PATIENCE):
                tell(_why(entry))
        ready = [e.name for e in fresh if e.whole and asked - since[e.name] >= SETTLED]
        if missing := base.difference(done.ingested):  # what a stopped follower had ingested stays together
            ready = sorted(base) if missing <= {*ready} else []
        else:  # an entry that failed must not delay others
            ready = sorted(ready, key=lambda name: (failed.get(name, 0), _number(name)))[: None if together else 1]
            ready = ready if done.layers is None else ready[: max(0, done.layers - len(done.ingested))]
        if ready:
            try:
                _work(one, ready, seen)
            except LockedError as error:
                tell(f"{error}: trying again")
            except SourceError as error:  # a file that changed while it was read, or an entry that is no layer
                name = max((name for name in ready if f"entry {name}" in str(error)), key=_number, default=ready[0])
                first = failed.setdefault(name, now)
                tell(f"{error}: trying again")
                if now - first > PATIENCE:
                    if missing or f"entry {name}" not in str(error):
                        raise
                    done.refused.append(name)
                    tell(f"entry {name} is left out: {error}")
                together = False
            else:
                together = len(ready) > 1 or not failed
            changed = time.monotonic()
        full = done.layers is not None and len(done.ingested) >= done.layers
        if full or (asked - changed > idle and not ready):
            break
        time.sleep(poll)
    if lost := sorted(base.difference(done.ingested), key=_number):
        words = f"entry {lost[0]} is not complete, but {one.store} contains it"
        raise SourceError(str(one.source), words, "restore the file, or choose another path")
    if not done.ingested:
        found = f"had no complete layer within {duration(idle)}"
        raise SourceError(str(one.source), found, "check the path, or give --idle")
    # What is whole or begins after the last layer is no layer.
    left = {name: e for name, e in seen.items() if not full or name in done.ingested or (e.ended and not e.whole)}
    return {name: e for name, e in left.items() if name not in done.refused}


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
    if entry.whole:
        return f"entry {entry.name} is complete, but could not be ingested"
    if not entry.ended:
        return f"entry {entry.name} has no end: {entry.found} of {entry.commanded} frames"
    return f"entry {entry.name} was aborted: {entry.found} of {entry.commanded} frames"


def _work(one: _Follower, ready: Sequence[str], seen: dict[str, Entry]) -> None:
    """The store with further layers that are complete, and the blocks of the recipe that need no other layers."""
    begun, done = time.perf_counter(), one.done
    entries = _in_order({*done.ingested, *ready})
    recipe = pinned(one.recipe, one.store)
    scans = {name: scan for name in entries if name in seen and (scan := seen[name].scan) is not None}
    report, told = grow(one.source, one.store, entries, recipe, one.publish, scans, **one.options)
    _tell(one, told)
    try:
        made = run_recipe(recipe, one.store, publish=one.publish, share=(1, 1))
    except RecipeError as error:
        # A stack of few layers may not suffice for a step; in the end the same error ends the follower.
        one.tell(f"{error}: the recipe waits for further layers")
    else:
        done.stopped = made.stopped
    done.ingested[:] = entries
    one.tell(f"{many(report.layers, 'layer')} on disk and reduced in {duration(time.perf_counter() - begun)}")
    recover(one.store)


def _tell(one: _Follower, told: Sequence[str]) -> None:
    for text in told:
        one.tell(text)
    one.done.replaced += [text for text in told if "were replaced" in text]


def _finish(one: _Follower, seen: dict[str, Entry], poll: float) -> None:
    """The store and the results of the whole scan, equal to an ingest and a run of the finished files."""
    done = one.done
    places = [e.z for name, e in seen.items() if name in done.ingested and e.z is not None]
    least = least_distance(places) if places else 0.0
    partial: list[str] = []
    for name in reversed(_in_order([n for n in seen if n not in done.ingested])):
        z = seen[name].z
        if z is not None and any(abs(z - other) < least for other in places):
            one.tell(f"entry {name} was repeated by another one and is left out")
            continue
        one.tell(_why(seen[name]))
        done.aborted.insert(0, name)
        if seen[name].found and not seen[name].problem and z is not None:
            partial.append(name)
            places.append(z)
    while True:
        entries = _in_order([*done.ingested, *partial])
        try:
            _, told = grow(
                one.source, one.store, entries, one.recipe, one.publish, **one.options, allow_partial=bool(partial)
            )
            _tell(one, told)
            # Parameters settled from the first layers give way to those of all layers. Other changes of a recipe
            # were refused by the runs before.
            done.report = run_recipe(one.recipe, one.store, publish=one.publish, overwrite=True)
            done.stopped = done.report.stopped
            recover(one.store)
            return
        except LockedError as error:
            one.tell(f"{error}: trying again")
            if reason := stopping.why():
                done.stopped = reason
                return
            time.sleep(poll)
        except SourceError as error:
            if not partial:
                raise
            one.tell(f"{error}: layers with missing frames are left out")
            partial = []


def _number(name: str) -> list[int]:
    return [int(part) for part in name.split(".")]


def _in_order(names: Iterable[str]) -> list[str]:
    return sorted(names, key=_number)
