"""Lines of a ledger: JSON with a checksum at the end, checked for its form when read."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dfxm_dask.errors import StoreError
from dfxm_dask.store.integrity.files import full_disk_said

Record = dict[str, Any]


def read_lines(path: Path) -> Iterator[bytes]:
    """Lines of a file, without line ends; none without a file."""
    try:
        with open(path, "rb") as file:
            for line in file:
                yield line.removesuffix(b"\n")
    except FileNotFoundError:
        return
    except OSError as error:
        raise StoreError(f"ledger {path}", f"cannot be read ({error.strerror})", "check its permissions") from None


def sealed(entry: Record) -> bytes:
    """An entry as a line that ends with a checksum of the preceding text."""
    body = json.dumps(entry, sort_keys=True).encode()[:-1]
    return body + _seal(body) + b"\n"


def _seal(body: bytes) -> bytes:
    return b', "sum": "%s"}' % hashlib.sha256(body).hexdigest()[:16].encode()


SEAL = len(_seal(b""))


def opened(line: bytes) -> Record | None:
    """The entry in a line, or None for a damaged line."""
    if line[-SEAL:] != _seal(line[:-SEAL]):
        return None
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return entry if isinstance(entry, dict) else None


BLOCK = re.compile(r"z\d{4,8}(-\d{1,9}:\d{1,9}(@\d{1,9}:\d{1,9})?)?")
"""Names of blocks: a layer, or rows of a layer."""


def check_form(path: Path, entry: Record) -> None:
    """Refuse an invalid entry with a valid checksum: checksums protect against accidents, not against attacks.

    Raises
    ------
    StoreError
        Wrong types, invalid names of blocks, or files outside the store.
    """

    def texts(values: Any) -> bool:
        return isinstance(values, list) and all(isinstance(value, str) for value in values)

    def files(found: Any) -> bool:
        return isinstance(found, dict) and all(
            isinstance(value, list)
            and len(value) == 2
            and type(value[0]) is int
            and value[0] >= 0
            and isinstance(value[1], str)
            for value in found.values()
        )

    if "torn" in entry:
        ok = isinstance(entry["torn"], str)
    elif "withdrawn" in entry:
        ok = texts(entry["withdrawn"])
    elif "completed" in entry:
        ok = isinstance(entry["completed"], str)
    elif "block" in entry:
        ok = isinstance(entry["block"], str) and bool(BLOCK.fullmatch(entry["block"])) and files(entry.get("files"))
        ok = ok and files(entry.get("beside", {})) and isinstance(entry.get("inputs", {}), dict)
    else:
        plan = entry.get("plan")
        ok = isinstance(plan, dict) and texts(plan.get("writes", [])) and isinstance(plan.get("inputs", {}), dict)
        ok = ok and texts(entry.get("blocks")) and all(BLOCK.fullmatch(block) for block in entry["blocks"])
        ok = ok and isinstance(entry.get("digest"), str)
    if not ok:
        raise StoreError(f"ledger {path}", "has an entry of an unknown form", "do not trust this store")
    for name in entry.get("files", ()):
        if name.startswith("/") or ".." in name.split("/"):
            raise StoreError(f"ledger {path}", f"names {name!r}, outside the store", "do not trust this store")


def append(path: Path, *entries: Record) -> None:
    """Append lines and force them to disk. A line cut short by a kill is closed first.

    Raises
    ------
    StoreError
        The disk is full; the ledger is unchanged.
    """
    with full_disk_said(f"ledger {path}"):
        descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o666)
        try:
            size = os.fstat(descriptor).st_size
            data = b""
            if size and os.pread(descriptor, 1, size - 1) != b"\n":
                torn = os.pread(descriptor, size, 0).rpartition(b"\n")[2]
                data = b"\n" + sealed({"torn": hashlib.sha256(torn).hexdigest()})
            data += b"".join(map(sealed, entries))
            try:
                if os.write(descriptor, data) != len(data):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                os.fsync(descriptor)
            except OSError:
                os.ftruncate(descriptor, size)
                raise
        finally:
            os.close(descriptor)
