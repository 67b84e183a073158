"""What a path or a pattern names: which files, in which order, and which of them make up a scan.

A path that exists is what it says, whatever characters it has. Only what does not exist is taken for a pattern.
"""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path

from dfxm_dask.errors import SourceError

SourcePath = str | Path | Sequence[str | Path]
EDF_NAMES = (".edf", ".edf.gz", ".edf.bz2")
HDF5_MAGIC = b"\x89HDF\r\n\x1a\n"
HDF5_NAMES = (".h5", ".hdf5", ".hdf", ".nx", ".nxs", ".nc")


def natural(path: str) -> tuple[list[list[str | int]], str]:
    """Sorting key: numbers in names by their value, folder by folder.

    Examples
    --------
    >>> sorted(["s10.h5", "s9.h5", "s009b.h5", "a/s2.h5"], key=natural)
    ['a/s2.h5', 's9.h5', 's009b.h5', 's10.h5']
    """
    # Texts and numbers take turns, so that like is compared with like; the name itself decides between 7 and 007.
    parts = [re.split(r"(\d+)", part) for part in path.split(os.sep)]
    return [[int(word) if k % 2 else word for k, word in enumerate(words)] for words in parts], path


def is_pattern(name: str) -> bool:
    """Whether a name with ``* ? [`` is a pattern: it is not where a file or folder has just this name."""
    return glob.has_magic(name) and not os.path.lexists(name)


def fixed_part(name: str | Path) -> Path:
    """What stands before the first wildcard; folders that exist are no wildcards, whatever characters they have."""
    here = Path()
    for part in Path(name).parts:
        if glob.has_magic(part) and not os.path.lexists(here / part):
            break
        here /= part
    return here


def matches(name: str) -> list[str]:
    """The path of this name, or the paths that match it as a pattern, in natural order."""
    if not is_pattern(name):
        return [name]
    fixed = fixed_part(name)
    free = Path(name).parts[len(fixed.parts) :]
    return sorted(glob.glob(os.path.join(*map(glob.escape, fixed.parts), *free)), key=natural)


def named(source: SourcePath) -> list[str]:
    """Files and folders behind a path, a pattern, or a list of both: the list in its own order, patterns in natural
    order.

    Raises
    ------
    SourceError
        No name, a pattern without a match, or a file that is named twice.
    """
    items = [source] if isinstance(source, str | os.PathLike) or not isinstance(source, Iterable) else list(source)
    other = next((item for item in items if not isinstance(item, str | os.PathLike)), "")
    if other != "":
        raise SourceError(
            "source", f"is {other!r:.80}, no name of a file", "name the master file of a scan, or its .edf files"
        )
    if not items:
        raise SourceError("source", "is an empty list", "name the master file of a scan, or its .edf files")
    found: dict[str, str] = {}
    real: dict[str, str] = {}
    for item in (os.fspath(each) for each in items):
        if not item.strip() or "\0" in item:
            raise SourceError(
                f"source {item!r}", "is no name of a file", "name the master file of a scan, or its .edf files"
            )
        paths = matches(item)
        if not paths:
            raise SourceError(f"source {item}", "does not exist, and matches no file as a pattern", "check the path")
        for path in paths:
            same = real.setdefault(os.path.realpath(path), path)
            if same in found:
                other = "" if path == same else f", as {same}"
                raise SourceError(
                    f"source {path}", f"is named twice{other}: by {found[same]!r} and {item!r}", "name each file once"
                )
            found[path] = item
    return list(found)


def inside(folder: str | os.PathLike[str], endings: tuple[str, ...]) -> list[str]:
    """Paths in a folder whose names end so, in natural order; names that begin with a dot are no data."""
    with suppress(OSError):
        names = [name for name in os.listdir(folder) if not name.startswith(".") and name.lower().endswith(endings)]
        return sorted((os.path.join(folder, name) for name in names), key=natural)
    return []


def series(paths: Iterable[str]) -> list[list[str]]:
    """Folders, and files put together by their folders, in the order of their first."""
    found: dict[str, list[str]] = {}
    for path in paths:
        alone = os.path.isdir(path)
        found.setdefault(path if alone else f"files of {os.path.dirname(os.path.realpath(path))}", []).append(path)
    return list(found.values())


def beside(store: str | Path, ending: str) -> Path:
    """A file beside a store, named after it: ``s.html`` for ``s.zarr``, also where the store is named ``.``."""
    path = Path(store)
    path = path if path.name not in ("", "..") else path.resolve()
    return path.parent / f"{path.stem}{ending}"
