"""Checks of output paths before a computation: a command must be able to write, and replaces only its own files."""

from __future__ import annotations

import os
import re
from pathlib import Path

from dfxm_dask.errors import StoreError
from dfxm_dask.sources.wrong_kinds import store_around

_OURS = re.compile(rb'dfxm_dask|\A\{\n "schema": \d+,\n "kind": "|\A\{\n "values": \{')
"""Mark in the first bytes of our figures and pages, or the beginning of our files of numbers, of any schema."""


def refuse_file(path: Path, option: str) -> None:
    """Refuse a path that cannot be written, or an existing file of another program.

    Parameters
    ----------
    path : Path
    option : str
        Option that sets another file.

    Raises
    ------
    StoreError
    """
    refuse_folder(path.parent, option, what=f"file {path}")
    if os.path.lexists(path):
        if not path.is_file():
            raise StoreError(
                f"file {path}", "is not a regular file and cannot be replaced", f"choose another with {option}"
            )
        try:
            with path.open("rb") as file:
                head = file.read(4096)
                file.seek(-min(path.stat().st_size, 65536), 2)
                head += file.read()  # a PDF names its creator at its end
        except OSError:
            head = b"?"
        if head and not _OURS.search(head):
            raise StoreError(
                f"file {path}", "already exists, and dfxm_dask did not write it", f"move it, or use {option}"
            )


def refuse_folder(folder: Path, option: str, *, what: str = "") -> None:
    """Refuse a folder that can neither be written nor created, or that lies in a store.

    Parameters
    ----------
    folder : Path
    option : str
        Option that sets another folder.
    what : str, optional
        Object to write; the folder itself by default.

    Raises
    ------
    StoreError
    """
    if holder := store_around(folder.resolve() / "any"):
        raise StoreError(
            what or f"folder {folder}", f"lies in the store {holder}", f"choose another folder with {option}"
        )
    there = folder.absolute()
    while not os.path.lexists(there) and there != there.parent:
        there = there.parent
    reason = "is not a folder" if not there.is_dir() else "cannot be written"
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        raise StoreError(what or f"folder {folder}", f"{there} {reason}", f"choose another folder with {option}")
