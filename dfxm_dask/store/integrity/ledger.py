"""The ledger: the blocks of a step that are on disk, and whether a step is complete.

Every step of a group has a ledger ``<group>/.ledger/<step>.jsonl``: a header with the plan, then one line per block,
each with a checksum of its own, appended and forced to disk after the files of the block. The shares of a job array
have ledgers of their own in ``<step>.shares/``, which are read as one. A step is complete when the attribute
``provenance`` of the group contains its name, which is written last. Files alone prove nothing.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import socket
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dfxm_dask.errors import StoreError
from dfxm_dask.store.integrity.attributes import recorded_steps
from dfxm_dask.store.integrity.files import file_digest, force, replace_file, sync_files
from dfxm_dask.store.integrity.lines import Record, append, check_form, opened, read_lines


def digest(value: Any) -> str:
    """sha256 of the canonical JSON of a value."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def ledger_path(store: str | Path, group: str, step: str) -> Path:
    """Path of the ledger of a step."""
    return Path(store, group, ".ledger", f"{step}.jsonl")


def share_path(store: str | Path, group: str, step: str, share: tuple[int, int]) -> Path:
    """Ledger of one share (number, of how many) of a job array; every ledger has one writer."""
    return ledger_path(store, group, step).with_suffix(".shares") / f"{share[0]}-of-{share[1]}.jsonl"


@dataclass(frozen=True)
class Ledger:
    """Content of the ledger of a step.

    ``records`` are by block. ``completed`` is the digest of the provenance of the complete step. ``damaged`` names
    lines with a wrong checksum that a kill does not explain.
    """

    header: Record
    records: dict[str, Record]
    completed: str
    damaged: tuple[str, ...]


def open_ledger(path: Path) -> Ledger:
    """Read a ledger with all its shares; without a file, a ledger without header and records.

    Raises
    ------
    StoreError
        An invalid entry, or an entry with a file outside the store.
    """
    header: Record = {}
    entries: list[Record] = []
    withdrawn: set[str] = set()
    completed = ""
    damaged: list[str] = []
    for part in (path, *sorted(path.with_suffix(".shares").glob("*.jsonl"))):
        torn: dict[str, str] = {}  # lines cut short by a kill, by digest; a later entry marks them as closed
        for number, line in enumerate(read_lines(part), start=1):
            entry = opened(line)
            if entry is None:
                if line:
                    torn[hashlib.sha256(line).hexdigest()] = f"{part.name} line {number}"
                continue
            check_form(part, entry)
            if "torn" in entry:
                torn.pop(entry["torn"], None)
            elif "withdrawn" in entry:
                withdrawn |= set(entry["withdrawn"])
            elif "completed" in entry:
                completed = entry["completed"]
            elif "block" in entry:
                entries.append(entry)
            elif not header:
                header = entry
        damaged += torn.values()
    plan = header.get("digest")  # a record with another plan comes from a run whose lock was taken over
    kept = (e for e in entries if e["sum"] not in withdrawn and e.get("plan", plan) == plan)
    records = {entry["block"]: entry for entry in kept}
    return Ledger(header, records, completed, tuple(damaged))


def read_header(path: Path) -> Record:
    """The header of a ledger, without its records; {} without a ledger."""
    for line in read_lines(path):
        entry = opened(line)
        if entry is not None and "plan" in entry and "blocks" in entry:
            check_form(path, entry)
            return entry
    return {}


def read_ledger(path: Path) -> tuple[Record, dict[str, Record]]:
    """Header and records by block, without damaged lines; two empty dicts without a ledger."""
    found = open_ledger(path)
    return found.header, found.records


def sound(store: str | Path, files: Mapping[str, Any]) -> bool:
    """Whether files {name: [bytes, digest]} exist with these sizes."""
    for name, (size, _) in files.items():
        try:
            if os.stat(f"{store}/{name}").st_size != size:
                return False
        except OSError:
            return False
    return True


def is_done(store: str | Path, record: Record) -> bool:
    """Whether all files of a record exist, in the store and beside it."""
    return sound(store, record["files"]) and sound(store, record.get("beside", {}))


def check_plan(group: str, step: str, header: Record, plan: Mapping[str, Any]) -> None:
    """Refuse an existing step with a different plan, according to the header of its ledger.

    Raises
    ------
    StoreError
        Parameters, inputs or versions differ.
    """
    if header and header["digest"] != digest(plan):
        old, new = header["plan"], json.loads(json.dumps(dict(plan)))
        changed = sorted(k for k in {*new, *old} if new.get(k) != old.get(k))
        words = ", ".join(f"{k} ({_differing(old, new, k)} then, {_differing(new, old, k)} now)" for k in changed)
        raise StoreError(
            f"step {step!r} in group {group!r}",
            f"already exists with different {words}",
            "use --overwrite to recompute it",
        )


def _differing(one: Mapping[str, Any], other: Mapping[str, Any], key: str) -> str:
    """Content of one of two plans under a key that differs from the other; of digests the first digits."""
    mine, theirs = one.get(key), other.get(key)
    if isinstance(mine, dict) and isinstance(theirs, dict):
        mine = {k: v for k, v in mine.items() if k not in theirs or theirs[k] != v}
        words = [f"{k}={v[:8] if isinstance(v, str) and len(v) == 64 else v!s:.40}" for k, v in mine.items()]
        return ", ".join(words) or "none"
    return f"{mine!s:.80}"


def begin(
    store: str | Path,
    group: str,
    step: str,
    plan: Mapping[str, Any],
    blocks: Iterable[str],
    *,
    declare: Callable[[], None] = lambda: None,
    recipe: Any = None,
) -> set[str]:
    """Open the ledger of a step and return the completed blocks.

    Parameters
    ----------
    declare : callable
        Declares the arrays of a new step; a step with a header already has its arrays.
    recipe : JSON, optional
        The recipe of the step, to repeat it.

    Raises
    ------
    StoreError
        See :func:`check_plan`.
    """
    path = ledger_path(store, group, step)
    path.parent.mkdir(parents=True, exist_ok=True)
    wanted = list(blocks)
    header, records = read_ledger(path)
    check_plan(group, step, header, plan)
    if (
        header and header["blocks"] != wanted
    ):  # another fusion cuts the layers differently: partial results do not match
        if states(store, group)[step].complete:
            return set(wanted)
        if records:
            raise StoreError(
                f"step {step!r} in group {group!r}",
                f"has {len(records)} of {len(header['blocks'])} blocks on disk, cut differently by another recipe",
                "finish that recipe first, or use --overwrite",
            )
        withdraw(store, group, step)
        header = {}
    if not header:
        declare()
        entry = {"step": step, "digest": digest(plan), "plan": dict(plan), "blocks": wanted, "recipe": recipe}
        append(path, entry)
        force(str(path.parent))
        return set()
    return {block for block, record in records.items() if is_done(store, record)}


def sweep(store: str | Path, group: str) -> None:
    """Remove partial files of killed runs; only for the owner of the group."""
    for stray in Path(store, group).rglob("*.partial"):
        stray.unlink(missing_ok=True)


def withdraw(store: str | Path, group: str, step: str) -> None:
    """Invalidate a step so that the next run recomputes it."""
    _, provenance = group_provenance(store, group)
    if provenance.pop(step, None) is not None:
        write_provenance(store, group, provenance)
    path = ledger_path(store, group, step)
    path.unlink(missing_ok=True)
    shutil.rmtree(path.with_suffix(".shares"), ignore_errors=True)


def withdraw_blocks(store: str | Path, group: str, step: str, blocks: Iterable[str]) -> None:
    """Invalidate some blocks of a step so that the next run recomputes them."""
    path = ledger_path(store, group, step)
    _, records = read_ledger(path)
    append(path, {"withdrawn": sorted(records[b]["sum"] for b in blocks if b in records)})


def commit(store: str | Path, group: str, step: str, *records: Record, share: tuple[int, int] | None = None) -> None:
    """Record that blocks are on disk.

    Parameters
    ----------
    records : dict
        ``block``, ``read`` (inputs), ``files`` {name: [bytes, digest]}, ``seconds``, ``inputs`` (digest of the inputs),
        ``plan`` (digest of the plan of the step).
    share : (number, of how many), optional
        Of a job array; each share has a ledger of its own.
    """
    path = ledger_path(store, group, step) if share is None else share_path(store, group, step, share)
    new = not path.exists()
    path.parent.mkdir(exist_ok=True)
    append(path, *({**record, "host": socket.gethostname()} for record in records))
    if new:
        force(str(path.parent))


def complete(
    store: str | Path, group: str, step: str, provenance: Mapping[str, Any], small: Iterable[str] = ()
) -> None:
    """Complete a step: write its provenance, with the digest of all its blocks, into the attributes of the group.

    ``small`` names further files that belong to the step (metadata, coordinates, gathered results).

    Raises
    ------
    StoreError
        A block of the plan lacks a record.
    """
    path = ledger_path(store, group, step)
    header, records = read_ledger(path)
    lacking = [block for block in header["blocks"] if block not in records]
    if lacking:
        raise StoreError(
            f"step {step!r} in group {group!r}", f"lacks block {lacking[0]}", "run the same command again to resume"
        )
    _, provenance_of = group_provenance(store, group)
    names = sorted(small)
    sync_files(store, names)
    files = {name: [os.stat(Path(store, name)).st_size, file_digest(Path(store, name))] for name in names}
    entry = {**provenance, "digest": content_digest(header, records), "small_files": files}
    provenance_of[step] = entry
    append(path, {"completed": digest(entry)})
    write_provenance(store, group, provenance_of)


def group_provenance(store: str | Path, group: str) -> tuple[Record, Record]:
    """Metadata of a group, and the provenance of its complete steps, which its attributes contain as JSON text.

    Raises
    ------
    StoreError
        Invalid metadata.
    """
    path = Path(store, group, "zarr.json")
    if not path.exists():
        return {}, {}
    try:
        meta = json.loads(path.read_bytes())
        provenance = recorded_steps(meta["attributes"])
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise StoreError(
            f"group {group!r} of {store}", f"has invalid metadata ({error})", "run dfxm-dask verify --repair"
        ) from None
    return meta, provenance


def write_provenance(store: str | Path, group: str, provenance: Mapping[str, Any]) -> None:
    """Write the metadata of a group with this provenance; steps in alphabetical order, whichever step came last."""
    attributes = {"provenance": json.dumps(dict(sorted(provenance.items())))} if provenance else {}
    meta = {"zarr_format": 3, "node_type": "group", "attributes": attributes}
    replace_file(Path(store, group, "zarr.json"), json.dumps(meta, indent=2).encode())


def restore_metadata(store: str | Path, group: str) -> None:
    """Rewrite the metadata of a group with the provenance that its ledgers confirm; other steps become incomplete."""
    try:
        _, found = group_provenance(store, group)
    except StoreError:
        found = {}
    vouched = {
        s: made for s, made in found.items() if open_ledger(ledger_path(store, group, s)).completed == digest(made)
    }
    write_provenance(store, group, vouched)


def content_digest(header: Record, records: Mapping[str, Record]) -> str:
    """One digest of the content of all blocks of a step."""
    return digest({block: records[block]["files"] for block in header["blocks"]})


@dataclass(frozen=True)
class StepState:
    """Progress of a step; ``lost`` names missing files of a complete step."""

    step: str
    header: Record
    done: frozenset[str]
    provenance: Mapping[str, Any] | None
    lost: tuple[str, ...] = ()

    @property
    def blocks(self) -> tuple[str, ...]:
        return tuple(self.header.get("blocks", ("unknown",)))

    @property
    def writes(self) -> tuple[str, ...]:
        return tuple(self.header.get("plan", {}).get("writes", ()))

    @property
    def complete(self) -> bool:
        return self.provenance is not None and len(self.done) == len(self.blocks) and not self.lost


def states(store: str | Path, group: str, provenance: Mapping[str, Any] | None = None) -> dict[str, StepState]:
    """The state of every step of a group, from its ledger, its files and the attributes of the group.

    ``provenance`` is the provenance in these attributes, if they have been read already.
    """
    provenance = group_provenance(store, group)[1] if provenance is None else provenance
    names = {p.stem for p in Path(store, group, ".ledger").glob("*.jsonl")} | set(provenance)
    result = {}
    for step in sorted(names):
        header, records = read_ledger(ledger_path(store, group, step))
        done = frozenset(b for b in header.get("blocks", ()) if b in records and is_done(store, records[b]))
        writes = header.get("plan", {}).get("writes", ())
        small = provenance.get(step, {}).get("small_files", {})
        lost = [name for name, size in small.items() if not sound(store, {name: size})]
        lost += [f"{group}/{name}" for name in writes if not Path(store, group, name, "zarr.json").exists()]
        result[step] = StepState(step, header, done, provenance.get(step), tuple(lost))
    return result


def block_name(z: int, y0: int, y1: int, frames: tuple[int, int] | None = None) -> str:
    """Name of a block: rows y0 to y1 of a layer, and positions along the first scan axis if it contains some frames.

    Examples
    --------
    >>> block_name(3, 0, 768), block_name(0, 0, 2160, (12, 24))
    ('z0003-0:768', 'z0000-0:2160@12:24')
    """
    name = f"z{z:04d}-{y0}:{y1}"
    return f"{name}@{frames[0]}:{frames[1]}" if frames else name


def block_ranges(block: str) -> tuple[int, tuple[int, int] | None, tuple[int, int] | None]:
    """Layer, rows and frames of a block; None for all rows or all frames.

    Examples
    --------
    >>> block_ranges("z0003"), block_ranges("z0000-0:2160@12:24")
    ((3, None, None), (0, (0, 2160), (12, 24)))
    """
    z, _, rest = block.partition("-")
    ranges = [tuple(int(v) for v in part.split(":")) if part else None for part in rest.partition("@")[::2]]
    return int(z[1:]), *ranges  # type: ignore[return-value]


def layer_of(block: str) -> int:
    """Number of the layer of a block such as ``z0003-0:768``."""
    return int(block.partition("-")[0][1:])


def content_by_layer(store: str, source: str) -> dict[int | None, Any]:
    """Files of a step with their digests, by layer; under None the gathered results of all layers; {} without files."""
    group, _, maker = source.partition("/")
    _, records = read_ledger(ledger_path(store, group, maker))
    if any(name.endswith(".npz") for record in records.values() for name in record["files"]):
        return {None: group_provenance(store, group)[1].get(maker, {}).get("small_files")}
    content: dict[int | None, Any] = {}
    for block, record in sorted(records.items()):
        content.setdefault(layer_of(block), {}).update(record["files"])
    return content


def inputs_digest(content: Mapping[int | None, Any], layer: int, halo: int) -> str:
    """Digest of the part of an input that a block of a layer reads."""
    if None in content:
        return digest(content[None])
    return digest({str(z): content.get(z) for z in range(layer - halo, layer + halo + 1)})
