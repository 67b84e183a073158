"""Errors for a path of the wrong kind: they describe its content, and suggest the right path."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from dfxm_dask.errors import SourceError, StoreError
from dfxm_dask.schema import printable
from dfxm_dask.sources.paths import EDF_NAMES, HDF5_MAGIC, HDF5_NAMES, natural

STARTS = (
    (HDF5_MAGIC, "an HDF5 file"),
    (b"PK\x03\x04", "a zip archive"),
    (b"PK\x05\x06", "a zip archive"),
    (b"\x1f\x8b", "a gzip file"),
    (b"BZh", "a bzip2 file"),
    (b"CDF", "a NetCDF file of version 3"),
    (b"\x93NUMPY", "a NumPy file"),
    (b"II*\0", "a TIFF file"),
    (b"MM\0*", "a TIFF file"),
    (b"\x89PNG", "a PNG file"),
)
MOST_NAMES = 4
LOST = "is a store without its zarr.json"


def kind_of(path: str | Path) -> str:
    """Description of the object at a path, to follow its name."""
    try:
        mode = os.stat(path).st_mode
    except OSError as error:
        if os.path.islink(path):
            return f"is a link to {printable(os.path.realpath(path))}, which does not exist"
        gone = isinstance(error, FileNotFoundError | NotADirectoryError)
        return "does not exist" if gone else f"cannot be accessed ({error.strerror})"
    if stat.S_ISDIR(mode):
        return _folder(Path(path))
    if not stat.S_ISREG(mode):
        return "is neither a file nor a folder"
    try:
        with open(path, "rb") as file:
            start = file.read(16)
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    if not start:
        return "is an empty file"
    if str(path).lower().endswith(EDF_NAMES):
        return "is an EDF file"
    return f"is {next((kind for begin, kind in STARTS if start.startswith(begin)), 'a file of an unknown kind')}"


def _folder(path: Path) -> str:
    if holder := store_around(path):
        return f"is a part of the store {holder}"
    if _is_root(path):
        return "is a store of this package"
    if any(path.glob("*/.ledger/*.jsonl")) and not (path / "zarr.json").exists():
        return LOST
    if any((path / name).exists() for name in (".zgroup", ".zarray", ".zmetadata")):
        return "is in Zarr format 2, of another program"
    if (path / "zarr.json").exists():
        return "is in Zarr format 3, of another program"
    return "is a folder but not a store"


def _is_root(folder: Path) -> bool:
    """Whether a folder looks like the root of a store of this package."""
    try:
        with open(folder / "zarr.json", "rb") as file:
            return b'"schema_version"' in file.read(1 << 16)
    except OSError:
        return False


def store_around(path: str | Path) -> Path | None:
    """The store that contains a path, if any."""
    return next((folder for folder in Path(os.path.abspath(path)).parents if _is_root(folder)), None)


def _inside(path: str | Path, wanted: str) -> str:
    """Names of the stores or masters (``wanted``) in a folder, for the remedy."""
    try:
        listed = sorted((entry.path for entry in os.scandir(path)), key=natural)
    except OSError:
        return ""
    found = [p for p in listed if (_is_root(Path(p)) if wanted == "store" else p.lower().endswith(HDF5_NAMES))]
    return ", ".join(map(printable, found[:MOST_NAMES])) + (", ..." if len(found) > MOST_NAMES else "")


def not_a_store(store: str | Path) -> StoreError:
    """Error for a path that is not a store."""
    found = kind_of(store)
    remedy = "check the path, or ingest first"
    if holder := store_around(store):
        found = found if "a part" in found or not os.path.exists(store) else f"is a file in the store {holder}"
        remedy = f"give the store {holder}"
    elif found == LOST:
        remedy = "restore the file, or write the store again"
    elif "a folder but" in found and (names := _inside(store, "store")):
        remedy = f"choose one of {names}"
    elif "zip" in found or "gzip" in found or "bzip2" in found:
        remedy = "unpack it, then give the store"
    elif "HDF5" in found or "EDF" in found:
        remedy = f"ingest it first: dfxm-dask ingest {printable(str(store))} STORE"
    elif "another program" in found:
        remedy = "give a store written by dfxm-dask"
    return StoreError(f"store {store}", found, remedy)


def not_a_source(path: str | Path, formats: tuple[str, ...]) -> SourceError:
    """Error for a path of an unknown format."""
    found = kind_of(path)
    remedy = "give the master .h5 file of a scan, a folder of .edf files, or frames with a table"
    if "does not exist" in found:
        return SourceError(str(path), found, "check the path")
    if (holder := store_around(path)) and "a part" not in found:
        found = f"is a file in the store {holder}"
    if os.path.isdir(path) and "not a store" in found:
        found, names = "is a folder without .edf files", _inside(path, "master")
        remedy = f"give a master file: {names}" if names else remedy
    return SourceError(str(path), found, f"{remedy} (formats: {', '.join(formats)}; see dfxm-dask formats)")


def not_a_master(path: str) -> SourceError:
    """Error for an HDF5 file without entries N.1."""
    import h5py

    try:
        with h5py.File(path, "r", locking=False) as file:
            names = sorted(map(printable, file), key=natural)
    except (OSError, RuntimeError) as error:
        return SourceError(path, f"cannot be read ({' '.join(str(error).split())})", "copy the file again")
    listed = ", ".join(names[:MOST_NAMES]) + (", ..." if len(names) > MOST_NAMES else "")
    return SourceError(
        path,
        f"contains no scan (entries 1.1, 2.1, ...), but {listed or 'nothing'}",
        "give the master file of BLISS, not a file of a camera or of results",
    )
