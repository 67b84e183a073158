"""Decision about each scan of a night, from its files and from the record of earlier nights beside its store.

``<store>.nightly.json`` records the files of a store, the recipes done, and the number and reasons of failures.
"""

from __future__ import annotations

import glob
import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from dfxm_dask import __version__
from dfxm_dask.errors import DfxmError, StoreError
from dfxm_dask.run.nights.config import Nightly
from dfxm_dask.run.nights.scans import Found, Look, broken_look, busy, look, scans_in, unchanged
from dfxm_dask.run.recipe import Recipe
from dfxm_dask.store.integrity import ledger

STATE = ".nightly.json"
STATE_SCHEMA = 1
FOLLOWING = "following"
"""Stage of a scan whose layers are followed; the next night continues."""
TROUBLE = ("failed", "quarantined", "changed", "partial", "deferred", "not done")
"""Statuses that leave a night incomplete, the worst first."""
TELL_APART = "set `processed` so that they differ"
STATUSES = (*TROUBLE, "done", "new", "unchanged")


@dataclass(frozen=True)
class Outcome:
    """Outcome of a scan (or of a stack of scans) in a night.

    ``status`` is one of :data:`STATUSES`; "new" occurs in dry runs only. ``blocks_lost`` lists (step, block, reason) of
    blocks that were left out.
    """

    source: str
    entries: tuple[str, ...]
    store: str
    status: str
    reason: str = ""
    title: str = ""
    sample: str = ""
    failures: int = 0
    seconds: float = 0.0
    bytes_read: int = 0
    bytes_written: int = 0
    peak_rss_bytes: int = 0
    left_out: tuple[tuple[str, str], ...] = ()
    absent: tuple[str, ...] = ()
    blocks_lost: tuple[tuple[str, str, str], ...] = ()
    remarks: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """Master and entries."""
        return f"{self.source} {', '.join(self.entries)}".strip()


@dataclass(frozen=True)
class NightScan:
    """A scan of a night, its record from earlier nights, and the state of its files."""

    source: Path
    entries: tuple[str, ...]
    store: Path
    title: str
    state: Mapping[str, Any] = field(default_factory=dict)
    seen: Look | None = None
    grows: bool = False  # followed layer by layer
    busy: str = ""

    def outcome(self, status: str, reason: str = "", **more: Any) -> Outcome:
        """Outcome of the scan."""
        title, sample = (self.seen.title, self.seen.sample) if self.seen else ("", self.state.get("sample", ""))
        words = {"failures": self.state.get("failures", 0), **more}
        return Outcome(
            str(self.source), self.entries, str(self.store), status, reason, title or self.title, sample, **words
        )


def refuse_raw(target: Path, searched: Sequence[Path]) -> None:
    """Refuse a folder for results below raw data, also through links.

    Raises
    ------
    StoreError
        The folder lies below RAW_DATA, or below a folder that is searched for raw data.
    """
    real = target.resolve()
    if "RAW_DATA" in (part.upper() for part in real.parts):
        raise StoreError(str(target), "is under RAW_DATA, which is read-only", "write under PROCESSED_DATA")
    for folder in searched:
        if real.is_relative_to(folder):
            raise StoreError(
                str(target),
                f"lies under {folder}, which contains raw data",
                "name its RAW_DATA in `raw:`, or write elsewhere",
            )


def target_folder(master: Path, root: Path, night: Nightly, searched: Sequence[Path] = ()) -> Path:
    """Folder for the stores of a master by the setting ``processed``.

    Raises
    ------
    StoreError
        The folder lies below raw data, or ``processed`` contains ``{session}`` and the
        master is not below a folder RAW_DATA.
    """
    parts = [part.upper() for part in master.parts]
    if "RAW_DATA" in parts:
        raw = Path(*master.parts[: parts.index("RAW_DATA") + 1])
        session, relative = raw.parent, master.parent.relative_to(raw)
    elif "{session}" in night.processed:
        raise StoreError(str(master), "is not below a folder RAW_DATA", "set `processed:` without {session}")
    else:
        session, relative = Path(), master.parent.relative_to(root)
    folder = Path(night.processed.format(session=session, relative=relative))
    refuse_raw(folder, searched)
    return folder


def scans_of(found: Found, night: Nightly, ask: Callable[..., Any], notes: list[str]) -> Iterator[NightScan | Outcome]:
    """The scans of all masters, each with its state; skipped scans are appended to ``notes``."""
    others: Counter[str] = Counter()
    taken: dict[Path, str] = {}
    no_masters = linked = 0
    for master, root in found.masters:
        try:
            folder = target_folder(master, root, night, found.searched)
        except StoreError as error:
            yield Outcome(str(master), (), "", "failed", str(error))
            continue
        try:
            listed, links = ask(scans_in, str(master))
        except Exception as error:  # any error of this file must not stop the others
            store = folder / f"{master.stem}.zarr"
            yield NightScan(master, (), store, "", read_state(store), broken_look(str(master), (), in_words(error)))
            continue
        linked += links
        no_masters += not listed and not links
        groups: dict[str, list[tuple[str, str]]] = {}
        for entry, title in listed:
            command = (title.split() or [""])[0]
            # A title in brackets describes why an entry cannot be read.
            if command not in night.commands and (not title.startswith("(") or title == "(no title)"):
                others[command] += 1
                continue
            groups.setdefault(title if night.stack else entry, []).append((entry, title))
        for group in groups.values():
            store = folder / f"{master.stem}_{group[0][0]}.zarr"
            scan = NightScan(master, tuple(entry for entry, _ in group), store, group[0][1], read_state(store))
            owner = taken.setdefault(store, str(master))
            same = owner == str(master)
            yield scan if same else scan.outcome("failed", f"{store} belongs to {owner}; {TELL_APART}")
    if others:
        words = ", ".join(f"{count} {command}" for command, count in sorted(others.items()))
        notes.append(f"skipped scans with commands that are not in `commands`: {words}")
    if no_masters:
        notes.append(f"skipped HDF5 files without scans: {no_masters}")
    if linked:
        notes.append(f"skipped entries that are links to other masters: {linked}")


def decide(
    scan: NightScan, night: Nightly, recipes: Sequence[Recipe], ask: Callable[..., Any], now: float
) -> NightScan | Outcome:
    """The scan with the state of its files if the night reduces it, else its outcome."""
    state, stage = scan.state, scan.state.get("stage", "")
    there = (scan.store / "zarr.json").exists()
    finished = there and stage in ("done", "partial") and all(recipe.name in state["recipes"] for recipe in recipes)
    if state and (state["source"], state["entries"][:1]) != (str(scan.source), [*scan.entries[:1]]):
        taken = f"{scan.store} belongs to {state['source']} {', '.join(state['entries'])}"
        return scan.outcome("failed", f"{taken}; {TELL_APART}")
    if finished and [*scan.entries] == state["entries"] and unchanged(state["files"]):
        return scan.outcome("unchanged", state["reason"])
    if scan.seen is None:
        try:
            seen = ask(look, str(scan.source), scan.entries, night)
        except Exception as error:  # any error of this scan must not stop the others
            seen = broken_look(str(scan.source), scan.entries, in_words(error), title=scan.title)
        scan = replace(scan, seen=seen)
    assert scan.seen is not None
    why = busy(scan.seen, night, now)
    if night.follow and (why or stage == FOLLOWING or (state and {*state["entries"]} < {*scan.entries})):
        if stage == FOLLOWING and state["failures"] > night.retries and unchanged(state["files"]):
            return scan.outcome("quarantined", state["reason"])
        return replace(scan, grows=True, busy=why)
    if why:
        return scan.outcome("deferred", why)
    changed = bool(state) and state["fingerprint"] != scan.seen.fingerprint
    raw_asked, asked = what_is_asked(night, recipes)
    if bool(state) and ingested(scan.store):
        remedy = "remove or rename the store, and the next night writes it again"
        if changed:
            return scan.outcome("changed", f"its files have changed since {scan.store} was written; {remedy}")
        if not finished and state["raw_asked"] != raw_asked:
            return scan.outcome(
                "changed", f"the settings for raw data have changed since {scan.store} was written; {remedy}"
            )
    if finished:
        return scan.outcome("unchanged", state["reason"])
    fresh = changed or (bool(state) and state["asked"] != asked)
    if not fresh and stage in ("failed", "begun") and state["failures"] > night.retries:
        return scan.outcome("quarantined", state["reason"])
    return replace(scan, state={**state, "failures": 0}) if fresh else scan


def what_is_asked(night: Nightly, recipes: Sequence[Recipe]) -> tuple[str, str]:
    """Digest of the settings for raw data, and digest of these settings with the recipes."""
    words = ("beamline", "motors", "detector", "pixel_size", "roi", "allow_partial")
    raw = {word: getattr(night, word) for word in words}
    if night.scan_mode:  # absent from records of earlier versions
        raw["scan_mode"] = night.scan_mode
    return ledger.digest(raw), ledger.digest([raw, [recipe.text for recipe in recipes], __version__])


def ingested(store: Path) -> bool:
    """Whether the raw data of a store are complete."""
    step = ledger.states(store, "raw").get("ingest") if (store / "raw").is_dir() else None
    return step is not None and step.complete


def read_state(store: Path) -> dict[str, Any]:
    """Record of a scan from earlier nights; empty without a record, or if its version differs."""
    try:
        found = json.loads(Path(f"{store}{STATE}").read_bytes())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) and found.get("schema") == STATE_SCHEMA else {}


def write_state(
    scan: NightScan, stage: str, failures: int, reason: str, recipes: Mapping[str, str], asked: tuple[str, str]
) -> None:
    """Write the record of a scan. ``recipes`` has the digest of each recipe that is done."""
    assert scan.seen is not None
    path = Path(f"{scan.store}{STATE}")
    for stray in path.parent.glob(f"{glob.escape(path.name)}.*.partial"):
        stray.unlink(missing_ok=True)  # left by a night that was killed
    state = {
        "schema": STATE_SCHEMA,
        "source": str(scan.source),
        "entries": [*scan.entries],
        "stage": stage,
        "failures": failures,
        "reason": reason,
        "recipes": dict(recipes),
        "raw_asked": asked[0],
        "asked": asked[1],
        "sample": scan.seen.sample,
        "fingerprint": scan.seen.fingerprint,
        "files": scan.seen.files,
        "version": __version__,
    }
    ledger.replace_file(path, json.dumps(state, indent=1).encode())


def in_words(error: BaseException) -> str:
    """An error in one line; an unforeseen error with its type."""
    text = " ".join(str(error).split())
    return text if isinstance(error, DfxmError) else f"{type(error).__name__}: {text}"
