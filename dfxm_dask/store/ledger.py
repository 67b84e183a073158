"""The ledger: which blocks of a step are on disk, and when a step is complete.

Every step of a group keeps ``<group>/.ledger/<step>.jsonl``: a header that names the plan, then one line per block,
appended and forced to disk after the block's files are. A step is complete when its name stands under ``provenance``
in the attributes of the group, which happens last. Files alone prove nothing.
"""

from __future__ import annotations

import hashlib
import json
import os
import socket
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dfxm_dask.errors import StoreError
from dfxm_dask.store.shards import sync_folder

Record = dict[str, Any]


def digest(value: Any) -> str:
    """sha256 of a value's canonical JSON."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def replace_file(path: Path, data: bytes) -> None:
    """Write a file whole or not at all, and force it to disk."""
    partial = path.with_name(f"{path.name}.{uuid.uuid4().hex}.partial")
    with open(partial, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, path)
    sync_folder(str(path.parent))


def ledger_path(store: str | Path, group: str, step: str) -> Path:
    """Where the ledger of a step lies."""
    return Path(store, group, ".ledger", f"{step}.jsonl")


def read_ledger(path: Path) -> tuple[Record, dict[str, Record]]:
    """Header and records by block; a torn last line is left out. No ledger: two empty dicts."""
    if not path.exists():
        return {}, {}
    header: Record = {}
    records: dict[str, Record] = {}
    for line in path.read_bytes().split(b"\n"):
        try:
            entry = json.loads(line)
        except ValueError:
            continue  # the empty end, or a line that a kill cut short
        if "block" in entry:
            records[entry["block"]] = entry
        elif not header:
            header = entry
    return header, records


def append(path: Path, entry: Record) -> None:
    """Add one line and force it to disk. A line that a kill cut short is closed first, so that it stays alone."""
    data = json.dumps(entry, sort_keys=True).encode() + b"\n"
    descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o666)
    try:
        size = os.fstat(descriptor).st_size
        if size and os.pread(descriptor, 1, size - 1) != b"\n":
            data = b"\n" + data
        os.write(descriptor, data)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sound(store: str | Path, record: Record) -> bool:
    """Whether the files of a record are there in the size that was written."""
    for name, (size, _) in record["files"].items():
        try:
            if os.stat(os.path.join(store, name)).st_size != size:
                return False
        except OSError:
            return False
    return True


def check_plan(store: str | Path, group: str, step: str, plan: Mapping[str, Any]) -> None:
    """Refuse a step that is there, made by another plan.

    Raises
    ------
    StoreError
        Other parameters, inputs or versions.
    """
    header, _ = read_ledger(ledger_path(store, group, step))
    if header and header["digest"] != digest(plan):
        old, new = header["plan"], json.loads(json.dumps(dict(plan)))
        changed = sorted(k for k in {*new, *old} if new.get(k) != old.get(k))
        words = ", ".join(f"{k} ({old.get(k)!s:.80} then, {new.get(k)!s:.80} now)" for k in changed)
        raise StoreError(
            f"step {step!r} in group {group!r}", f"is there, made with other {words}", "say --overwrite to make it anew"
        )


def begin(
    store: str | Path, group: str, step: str, plan: Mapping[str, Any], blocks: Iterable[str], *, overwrite: bool = False
) -> set[str]:
    """Open the ledger of a step and return the blocks that are done already.

    Raises
    ------
    StoreError
        See :func:`check_plan`.
    """
    path = ledger_path(store, group, step)
    path.parent.mkdir(parents=True, exist_ok=True)
    wanted = list(blocks)
    if overwrite:
        withdraw(store, group, step)
    check_plan(store, group, step, plan)
    header, records = read_ledger(path)
    if header and header["blocks"] != wanted:  # another fusion cuts the layers otherwise: parts do not fit
        if states(store, group)[step].complete:
            return set(wanted)
        withdraw(store, group, step)
        header = {}
    if not header:
        append(path, {"step": step, "digest": digest(plan), "plan": dict(plan), "blocks": wanted})
        sync_folder(str(path.parent))
        return set()
    for stray in Path(store, group).rglob("*.partial"):
        stray.unlink(missing_ok=True)  # left by a run that was killed
    return {block for block, record in records.items() if sound(store, record)}


def withdraw(store: str | Path, group: str, step: str) -> None:
    """Take back a step: it is no longer complete, and nothing of it counts as done."""
    meta = Path(store, group, "zarr.json")
    if meta.exists():
        data = json.loads(meta.read_bytes())
        if data["attributes"].get("provenance", {}).pop(step, None) is not None:
            replace_file(meta, json.dumps(data, indent=2).encode())
    ledger_path(store, group, step).unlink(missing_ok=True)


def commit(store: str | Path, group: str, step: str, record: Record) -> None:
    """Say that a block is on disk: ``block``, ``read`` (what), ``files`` {name: [bytes, digest]}, ``seconds``."""
    append(ledger_path(store, group, step), {**record, "host": socket.gethostname()})


def small_file(store: str | Path, name: str) -> int:
    """Size of a file of a store."""
    return os.stat(os.path.join(store, name)).st_size


def complete(
    store: str | Path, group: str, step: str, provenance: Mapping[str, Any], small: Iterable[str] = ()
) -> None:
    """Make a step complete: write its provenance, with the digest of all its blocks, into the group's attributes.

    ``small`` names files beside the blocks (coordinates, gathered results) that must be there too.

    Raises
    ------
    StoreError
        A block of the plan has no record.
    """
    header, records = read_ledger(ledger_path(store, group, step))
    lacking = [block for block in header["blocks"] if block not in records]
    if lacking:
        raise StoreError(f"step {step!r} in group {group!r}", f"lacks block {lacking[0]}", "run it again to resume")
    content = {block: records[block]["files"] for block in header["blocks"]}
    meta = Path(store, group, "zarr.json")
    data = json.loads(meta.read_bytes())
    files = {name: small_file(store, name) for name in small}
    data["attributes"].setdefault("provenance", {})[step] = {
        **provenance, "digest": digest(content), "small_files": files
    }  # fmt: skip
    replace_file(meta, json.dumps(data, indent=2).encode())


@dataclass(frozen=True)
class StepState:
    """How far a step has come."""

    step: str
    blocks: tuple[str, ...]
    done: frozenset[str]
    provenance: Mapping[str, Any] | None
    writes: tuple[str, ...]
    lost: tuple[str, ...] = ()

    @property
    def complete(self) -> bool:
        return self.provenance is not None and len(self.done) == len(self.blocks) and not self.lost


def states(store: str | Path, group: str) -> dict[str, StepState]:
    """The state of every step of a group, by what its ledger, its files and the group's attributes say."""
    meta = Path(store, group, "zarr.json")
    provenance = json.loads(meta.read_bytes())["attributes"].get("provenance", {}) if meta.exists() else {}
    names = {p.stem for p in Path(store, group, ".ledger").glob("*.jsonl")} | set(provenance)
    result = {}
    for step in sorted(names):
        header, records = read_ledger(ledger_path(store, group, step))
        done = frozenset(b for b in header.get("blocks", ()) if b in records and sound(store, records[b]))
        writes = header.get("plan", {}).get("writes", ())
        small = provenance.get(step, {}).get("small_files", {})
        lost = [name for name, size in small.items() if not sound(store, {"files": {name: (size, "")}})]
        lost += [f"{group}/{name}" for name in writes if not Path(store, group, name, "zarr.json").exists()]
        result[step] = StepState(
            step, tuple(header.get("blocks", ("unknown",))), done, provenance.get(step), tuple(writes), tuple(lost)
        )
    return result
