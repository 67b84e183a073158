"""Atomic writing of files, forced to disk, and the errors of a full disk."""

from __future__ import annotations

import errno
import hashlib
import os
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from dfxm_dask.errors import StoreError


@contextmanager
def full_disk_said(what: str) -> Iterator[None]:
    """Turn the error of a full disk into a StoreError.

    Raises
    ------
    StoreError
        No space, or no quota, is left.
    """
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StoreError(what, "the disk is full", "free space, then run the command again to resume") from None
        raise


def force(path: str) -> None:
    """Force a file, or the names in a folder, to disk, whichever process wrote it.

    This also finds past failures of the disk, which Linux reports to the next process that opens the file.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def replace_file(path: Path, data: bytes) -> None:
    """Write a file atomically, and force it to disk."""
    partial = path.with_name(f"{path.name}.{uuid.uuid4().hex}.partial")
    try:
        with full_disk_said(f"file {path}"):
            with open(partial, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(partial, path)
            force(str(path.parent))
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def sync_files(store: str | Path, names: Iterable[str]) -> None:
    """Force files, and the folders that lead to them, to disk."""
    folders = set()
    for name in names:
        path = Path(store, name)
        force(str(path))
        folders |= {p for p in path.parents if p == Path(store) or Path(store) in p.parents}
    for folder in folders:
        force(str(folder))


def file_digest(path: str | Path) -> str:
    """sha256 of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
