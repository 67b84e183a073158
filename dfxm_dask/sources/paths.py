"""The files behind a path or a pattern, their order, and their grouping into scans.

An existing path is used literally, even with wildcard characters. Only a path that does not exist is a pattern.
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
    # Texts and numbers alternate, so that only equal kinds are compared; the name itself decides between 7 and 007.
    parts = [re.split(r"(\d+)", part) for part in path.split(os.sep)]
    return [[int(word) if k % 2 else word for k, word in enumerate(words)] for words in parts], path


def is_pattern(name: str) -> bool:
    """Whether a name with ``* ? [`` is a pattern, which requires that no file or folder has this name."""
    return glob.has_magic(name) and not os.path.lexists(name)


def fixed_part(name: str | Path) -> Path:
    """The part before the first wildcard; existing folders are never wildcards."""
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
        No name, a pattern without a match, or a file named twice.
    """
    items = [source] if isinstance(source, str | os.PathLike) or not isinstance(source, Iterable) else list(source)
    other = next((item for item in items if not isinstance(item, str | os.PathLike)), "")
    if other != "":
        raise SourceError(
            "source", f"is {other!r:.80}, not a file name", "give the master file of a scan, or its .edf files"
        )
    if not items:
        raise SourceError("source", "is an empty list", "give the master file of a scan, or its .edf files")
    found: dict[str, str] = {}
    real: dict[str, str] = {}
    for item in (os.fspath(each) for each in items):
        if not item.strip() or "\0" in item:
            raise SourceError(
                f"source {item!r}", "is not a file name", "give the master file of a scan, or its .edf files"
            )
        paths = matches(item)
        if not paths:
            raise SourceError(f"source {item}", "does not exist and, as a pattern, matches no file", "check the path")
        for path in paths:
            same = real.setdefault(os.path.realpath(path), path)
            if same in found:
                other = "" if path == same else f", as {same}"
                raise SourceError(
                    f"source {path}", f"is named twice{other}: by {found[same]!r} and {item!r}", "give each file once"
                )
            found[path] = item
    return list(found)


def inside(folder: str | os.PathLike[str], endings: tuple[str, ...]) -> list[str]:
    """Paths in a folder with these endings, in natural order, without hidden files."""
    with suppress(OSError):
        names = [name for name in os.listdir(folder) if not name.startswith(".") and name.lower().endswith(endings)]
        return sorted((os.path.join(folder, name) for name in names), key=natural)
    return []


def series(paths: Iterable[str]) -> list[list[str]]:
    """Folders, and files grouped by folder, in the order of the first file of each group."""
    found: dict[str, list[str]] = {}
    for path in paths:
        alone = os.path.isdir(path)
        found.setdefault(path if alone else f"files of {os.path.dirname(os.path.realpath(path))}", []).append(path)
    return list(found.values())


def beside(store: str | Path, ending: str) -> Path:
    """A file beside a store, named after the store: ``s.html`` for ``s.zarr``, also for the store ``.``."""
    path = Path(store)
    path = path if path.name not in ("", "..") else path.resolve()
    return path.parent / f"{path.stem}{ending}"
