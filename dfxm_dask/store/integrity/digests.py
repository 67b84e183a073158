"""Comparison of a store with its ledgers, to the last bit: every byte of every file is bound to a digest.

Shards: each chunk has a checksum; the ledger records a digest of the checksums and the index. Small files and metadata:
the provenance records their digests, and the ledger the digest of the provenance. Lines of the ledger have a checksum
each. The attributes of groups, the metadata that the root repeats, and the coordinates that groups repeat follow from
the rest.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np

from dfxm_dask.errors import DfxmError, StoreError
from dfxm_dask.store.integrity import ledger
from dfxm_dask.store.integrity.attributes import recorded_steps
from dfxm_dask.store.integrity.opened import open_store
from dfxm_dask.store.shards import ABSENT, READ_BYTES, ShardedArray, open_array


@dataclass(frozen=True)
class Fault:
    """A fault in a store; ``block`` and ``file`` are empty for faults outside blocks."""

    group: str
    step: str
    block: str
    file: str
    what: str

    def __str__(self) -> str:
        place = f"group {self.group or '/'}" + "".join(
            f", {word} {value}" for word, value in (("step", self.step), ("block", self.block)) if value
        )
        return f"{place}: {self.file + ' ' if self.file else ''}{self.what}"


@dataclass(frozen=True)
class BlockFile:
    """A file of a block with its entry in the ledger; small enough to send to a worker."""

    store: str
    group: str
    step: str
    block: str
    name: str
    size: int
    digest: str


def check_metadata(store: str | Path) -> Iterator[Fault]:
    """Faults of ledgers, attributes, metadata and small files; :func:`check_file` checks blocks."""
    store = Path(store)
    claimed: set[str] = set()
    yield from _told(_attributes(store), "", "zarr.json")
    for group in sorted(p.name for p in store.iterdir() if (p / ".ledger").is_dir() or _is_group(p)):
        yield from _told(_group(store, group, claimed), group, f"{group}/zarr.json")
    yield from _told(_repeated(store, claimed), "", "zarr.json")
    yield from _foreign(store, claimed)


def _told(faults: Iterator[Fault], group: str, file: str) -> Iterator[Fault]:
    """Faults; unreadable metadata count as one."""
    try:
        yield from faults
    except (DfxmError, OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        yield Fault(group, "", "", file, f"or a file that it refers to cannot be read ({' '.join(str(error).split())})")


def _is_group(path: Path) -> bool:
    try:
        return json.loads((path / "zarr.json").read_bytes()).get("node_type") == "group"
    except (OSError, ValueError, AttributeError):
        return False


def _attributes(store: Path) -> Iterator[Fault]:
    """The root group: its attributes, and the metadata that it repeats."""
    opened = open_store(store)
    root = opened.nodes[""]
    raw = (store / "zarr.json").read_bytes()
    if set(root) - {"consolidated_metadata"} != {"zarr_format", "node_type", "attributes"} or (
        raw not in (json.dumps(root).encode(), json.dumps(root, indent=2).encode())
    ):
        yield Fault("", "", "", "zarr.json", "differs from the form that this package writes")
    said = set()
    for group in opened.groups():
        said |= {made["root"] for made in opened.provenance(group).values() if "root" in made}
    if said and said != {ledger.digest(root["attributes"])}:
        yield Fault("", "", "", "zarr.json", "has attributes that differ from those written")
    repeated = root.get("consolidated_metadata", {}).get("metadata", {})
    for node, meta in repeated.items():
        path = store / node / "zarr.json"
        if not path.exists() or json.loads(path.read_bytes()) != meta:
            yield Fault(
                node.partition("/")[0], "", "", "zarr.json", f"repeats metadata of {node} that differ from its own"
            )
    if other := set(repeated) ^ set(opened.to_consolidate()):
        some = sorted(other)[:3]
        yield Fault(
            "", "", "", "zarr.json", f"repeats the metadata of other nodes than the store contains ({', '.join(some)})"
        )


def _group(store: Path, group: str, claimed: set[str]) -> Iterator[Fault]:
    """The steps of a group."""
    path = store / group / "zarr.json"
    try:
        raw = path.read_bytes()
        meta = json.loads(raw)
        attributes = meta["attributes"]
        whole = raw == json.dumps(meta, indent=2).encode() and set(meta) == {"zarr_format", "node_type", "attributes"}
        provenance = recorded_steps(attributes)
        if not whole or set(attributes) - {"provenance"} or (meta["zarr_format"], meta["node_type"]) != (3, "group"):
            yield Fault(group, "", "", f"{group}/zarr.json", "differs from the form that this package writes")
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        yield Fault(group, "", "", f"{group}/zarr.json", f"cannot be read ({type(error).__name__})")
        provenance = {}
    ledgers = {p.stem for p in (store / group / ".ledger").glob("*.jsonl")}
    for step in sorted(ledgers | set(provenance)):
        try:
            yield from _step(store, group, step, provenance.get(step), claimed)
        except DfxmError as error:
            yield Fault(group, step, "", "", str(error))


def _step(store: Path, group: str, step: str, made: Any, claimed: set[str]) -> Iterator[Fault]:
    """Comparison of the ledger and the provenance of a step."""
    path = ledger.ledger_path(store, group, step)
    name = path.relative_to(store).as_posix()
    book = ledger.open_ledger(path)
    header, records = book.header, book.records
    for line in book.damaged:
        yield Fault(group, step, "", name, f"is damaged ({line})")
    if not header:
        yield Fault(group, step, "", name, "has no header")
        return
    if header["digest"] != ledger.digest(header["plan"]):
        yield Fault(group, step, "", name, "has a header that does not match its plan")
    for block in header["blocks"]:
        if block not in records:
            yield Fault(group, step, block, "", "has no record")
    for record in records.values():
        claimed |= set(record["files"])
    if made is None or book.damaged or len(records) < len(header["blocks"]):  # these files belong to the step
        claimed |= {f"{group}/{name}/" for name in header["plan"].get("writes", ())}
    if made is None:
        if book.completed and not [b for b in header["blocks"] if b not in records]:
            yield Fault(group, step, "", f"{group}/zarr.json", "lacks the provenance of a complete step")
        elif not [b for b in header["blocks"] if b not in records]:
            yield Fault(group, step, "", "", "is not complete: run the same command again to resume")
        return
    if ledger.digest(made) != book.completed:
        yield Fault(group, step, "", f"{group}/zarr.json", "has a provenance that differs from the ledger")
    if not [b for b in header["blocks"] if b not in records] and made.get("digest") != ledger.content_digest(
        header, records
    ):
        yield Fault(group, step, "", f"{group}/zarr.json", "has a provenance that belongs to other blocks")
    for small, (size, digest) in made.get("small_files", {}).items():
        claimed.add(small)
        file = store / small
        if not file.is_file():
            yield Fault(group, step, "", small, "is missing")
        elif file.stat().st_size != size or ledger.file_digest(file) != digest:
            yield Fault(group, step, "", small, "differs from the file that was written")


def _repeated(store: Path, claimed: set[str]) -> Iterator[Fault]:
    """Coordinates that groups repeat for other readers: each file must have the bytes of the file at the root."""
    opened = open_store(store)
    for group in opened.groups():
        for name in (n for n in opened.arrays("") if f"{group}/{n}" not in opened.nodes):
            folders = store / name, store / group / name
            first, second = ({p.relative_to(f): p.read_bytes() for p in f.rglob("*") if p.is_file()} for f in folders)
            claimed |= {f"{group}/{name}/{file.as_posix()}" for file in second}
            for file in sorted({*first, *second} if second else ()):
                if first.get(file) != second.get(file):
                    yield Fault(
                        group, "", "", f"{group}/{name}/{file.as_posix()}", "differs from the coordinate at the root"
                    )


def _foreign(store: Path, claimed: set[str]) -> Iterator[Fault]:
    """Files among the data that no step has written."""
    for folder, names, files in os.walk(store):
        names[:] = sorted(n for n in names if n != ".ledger")
        for file in sorted(files):
            name = Path(folder, file).relative_to(store).as_posix()
            ours = (
                name in claimed
                or "/".join(name.split("/")[:2]) + "/" in claimed
                or name == "zarr.json"
                or (name.count("/") == 1 and file == "zarr.json")
            )
            if not ours and file not in (".lock", ".consolidating"):
                group = name.partition("/")[0]
                yield Fault(group, "", "", name, "belongs to no step and is never read")


def block_files(store: str | Path) -> Iterator[BlockFile]:
    """Every file of every committed block."""
    store = Path(store)
    for group in sorted(p.parent.name for p in store.glob("*/.ledger")):
        for path in sorted((store / group / ".ledger").glob("*.jsonl")):
            try:
                _, records = ledger.read_ledger(path)
            except StoreError:
                continue  # told by check_metadata
            for block, record in records.items():
                for name, (size, digest) in record["files"].items():
                    yield BlockFile(str(store), group, path.stem, block, name, size, digest)


def check_file(file: BlockFile) -> list[Fault]:
    """Faults of one file of a block, after reading every byte."""
    path = Path(file.store, file.name)
    try:
        found = path.stat().st_size
        if found != file.size:
            what = f"has {found} bytes, {file.size} were written"
        elif path.suffix == ".npz":
            what = "" if ledger.file_digest(path) == file.digest else "differs from the file that was written"
        else:
            array = _array_of(path)
            what = _check_shard(path, array, file.digest)
    except FileNotFoundError:
        what = "is missing"
    except (OSError, DfxmError) as error:
        what = f"cannot be read ({error})"
    return [Fault(file.group, file.step, file.block, file.name, what)] if what else []


def _array_of(path: Path) -> ShardedArray:
    folder = next(p for p in path.parents if (p / "zarr.json").exists())
    array = open_array(folder)
    if array is None:
        raise StoreError(f"array {folder}", "has a foreign layout", "recompute it with this package")
    return array


def _check_shard(path: Path, array: ShardedArray, digest: str) -> str:
    """Fault of a shard, or "" if chunks, index and digest agree."""
    size = prod(array.grid) * 16 + 4
    with open(path, "rb") as file:
        total = os.fstat(file.fileno()).st_size
        if total < size:
            return "is too short for its index"
        file.seek(total - size)
        raw = file.read(size)
        if google_crc32c.value(raw[:-4]) != int.from_bytes(raw[-4:], "little"):
            return "has an index whose checksum is wrong"
        places = np.frombuffer(raw[:-4], "<u8").reshape(-1, 2)
        chunks = sorted((int(at), int(n), k) for k, (at, n) in enumerate(places) if at != ABSENT)
        known = hashlib.sha256()
        expected = 0
        file.seek(0)
        buffer = np.empty(min(READ_BYTES, max((n for _, n, _ in chunks), default=0)), np.uint8)
        for at, n, k in chunks:
            where = np.unravel_index(k, array.grid)
            if at != expected or n < 4 or n > total:
                return f"has an index that does not match its content (chunk {tuple(map(int, where))})"
            if n > buffer.nbytes:
                buffer = np.empty(n, np.uint8)
            file.readinto(buffer[:n].data)
            check = buffer[n - 4 : n].tobytes()
            if google_crc32c.value(buffer[: n - 4]) != int.from_bytes(check, "little"):
                return f"has a chunk whose checksum is wrong (chunk {tuple(map(int, where))})"
            known.update(check)
            expected += n
        if expected != total - size:
            return "has bytes that belong to no chunk"
    known.update(raw[:-4])
    return (
        ""
        if known.hexdigest() == digest
        else "differs from the file that was written: it belongs to another block or another run"
    )
