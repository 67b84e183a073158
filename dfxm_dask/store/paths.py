"""What a path or a pattern names: which files, in which order, and which of them make up a scan.

A path that exists is what it says, whatever characters it has. Only what does not exist is taken for a pattern.
"""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Iterable, Sequence
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
                raise SourceError(f"source {path}", f"is named twice{other}: by {found[same]!r} and {item!r}",
                                  "name each file once")  # fmt: skip
            found[path] = item
    return list(found)


def is_edf(path: str) -> bool:
    """Whether a file is EDF, by its first bytes where its name does not say; a folder holds EDF files, if any."""
    if os.path.isdir(path):
        return True
    name = path.lower()
    try:
        with open(path, "rb") as file:
            start = file.read(512)
    except OSError:
        start = b""
    if name.endswith(EDF_NAMES):
        return not start.startswith(HDF5_MAGIC)
    return re.match(rb"\s*\{\s*\w+\s*=", start) is not None


def one_source(source: SourcePath) -> str | list[str]:
    """The master file, or all EDF files of the series, that a path, a pattern or a list names.

    Raises
    ------
    SourceError
        Several files that are not all EDF.
    """
    found = named(source)
    if all(map(is_edf, found)):
        return found
    if len(found) > 1:
        raise SourceError(f"source {found[0]} and {len(found) - 1} more", "are several master files", "name one")
    return found[0]


def sources(source: SourcePath) -> list[str | list[str]]:
    """Sources of scans behind a path, a pattern, or a list of both: master files, and series of EDF files.

    EDF files of one folder are one series, but for files that hold whole scans: each of these is a source.
    """
    found: list[str | list[str]] = []
    series: dict[str, list[str]] = {}
    for path in named(source):
        if os.path.isdir(path) or not is_edf(path):
            found.append(path)
            continue
        folder = os.path.dirname(os.path.realpath(path))
        if folder not in series:
            found.append(series.setdefault(folder, []))
        series[folder].append(path)
    return [part for each in found for part in ([each] if isinstance(each, str) else _series(each))]


def _series(files: list[str]) -> list[str | list[str]]:
    from dfxm_dask.store.edf import holds_whole_scans

    return list(files) if len(files) == 1 or holds_whole_scans(files[0]) else [files]


def beside(store: str | Path, ending: str) -> Path:
    """A file beside a store, named after it: ``s.html`` for ``s.zarr``, also where the store is named ``.``."""
    path = Path(store)
    path = path if path.name not in ("", "..") else path.resolve()
    return path.parent / f"{path.stem}{ending}"
