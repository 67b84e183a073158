"""Metadata of a store, bounded and checked before anything is allocated, opened or followed.

A store may come from an untrusted source, and its JSON determines memory and decoders. This module accepts only small
metadata of few kinds inside the store: shapes and chunks have bounds, dtypes and codecs come from a list, and no link
leads out. :func:`check_store` checks all nodes at once, so that code that has opened the root can trust the rest.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterator, Mapping
from functools import lru_cache
from math import ceil, prod
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from dfxm_dask.errors import StoreError
from dfxm_dask.schema import SPACE, printable

LARGEST_JSON = 1 << 24
"""Bytes of a zarr.json. The zarr.json of a root, with the metadata of all other nodes, has some hundred thousand bytes
(our choice, like all limits here)."""
DEEPEST = 32
MOST_DIMS = 12
LONGEST_AXIS = 1 << 20
"""Positions along a coordinate; coordinates are loaded when a store is opened."""
LARGEST_CHUNK = 1 << 30
"""Bytes of a chunk that is a file of its own, as for tables and maps per frame."""
LARGEST_INNER_CHUNK = 1 << 28
MOST_INNER_CHUNKS = 1 << 26
MOST_FILES = 1 << 22
"""Chunk files of one array: ten thousand layers in some hundred bands."""
DTYPES = ("bool", *(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)), "float32", "float64")
COMPRESSORS = ("blosc", "zstd", "crc32c")
"""Codecs after ``bytes``. blosc is accepted only in the form that :mod:`dfxm_dask.store.shards` reads, because the
library trusts the sizes in the header of a chunk. gzip is refused, because its decompressed size has no bound."""
DISTRUST = "do not trust this store, or write it again"


def read_node(folder: str | Path) -> dict[str, Any]:
    """The checked ``zarr.json`` of a group or array; control characters in its attributes are replaced.

    Raises
    ------
    StoreError
        The file is absent, a link, too large, not JSON, nested too deeply, or beyond the bounds of this module.
    """
    path = os.path.join(folder, "zarr.json")
    asked = f"metadata {path}"
    try:
        found = os.lstat(path)
        if not stat.S_ISREG(found.st_mode):
            raise StoreError(asked, "is a link or not a regular file", "copy the file into the store")
        if found.st_size > LARGEST_JSON:
            raise StoreError(asked, f"has {found.st_size} bytes", DISTRUST)
        with open(path, "rb") as file:
            meta = json.loads(file.read(LARGEST_JSON + 1))
    except OSError as error:
        reason = error.strerror or str(error)
        raise StoreError(f"node {folder}", f"has no readable zarr.json ({reason})", "check the path") from None
    except (ValueError, RecursionError) as error:
        raise StoreError(asked, f"is not JSON ({error})", "restore the file") from None
    if not isinstance(meta, dict) or meta.get("zarr_format") != 3 or meta.get("node_type") not in ("group", "array"):
        raise StoreError(asked, "is neither a group nor an array of Zarr format 3", "choose a store of this package")
    if not isinstance(meta.setdefault("attributes", {}), dict):
        raise StoreError(asked, "has attributes that are not a mapping", DISTRUST)
    recorded = meta["attributes"].get("provenance")
    if isinstance(recorded, str):
        try:
            meta["attributes"]["provenance"] = json.loads(recorded)
        except (ValueError, RecursionError) as error:
            raise StoreError(asked, f"has a provenance that is not JSON ({error})", "restore the file") from None
    if _depth(meta) > DEEPEST:
        raise StoreError(asked, f"is nested deeper than {DEEPEST} levels", DISTRUST)
    wrong = _wrong_array(meta) if meta["node_type"] == "array" else _wrong_group(meta)
    if wrong:
        raise StoreError(asked, wrong, DISTRUST)
    meta["attributes"] = _printable(meta["attributes"])
    return meta


def check_store(store: str | Path) -> dict[str, dict[str, Any]]:
    """Checked metadata of all nodes below the root, by path, such as ``raw/counts``.

    Nodes beyond the bounds, links, special files, and arrays with contradicting sizes are refused. Links and special
    files are searched for among groups, arrays, ledgers and the files of small arrays; files of shards are checked when
    they are opened.

    Raises
    ------
    StoreError
    """
    store = Path(store)
    lengths: dict[str, int] = {}
    nodes: dict[str, dict[str, Any]] = {}
    inner: list[Path] = []
    for entry in _entries(store):
        if not entry.is_dir() or not _is_node(entry):
            continue
        meta = nodes[entry.name] = read_node(entry.path)
        if meta["node_type"] == "group":
            inner.append(Path(entry))
            continue
        shape, dims = meta["shape"], list(meta.get("dimension_names") or ())
        if dims != [entry.name] or shape[0] > LONGEST_AXIS or sharding(meta) is not None:
            raise StoreError(
                f"coordinate {entry.path}",
                f"has dims {dims} and shape {shape}, not one dim of its own name with at most {LONGEST_AXIS} positions",
                DISTRUST,
            )
        lengths[entry.name] = shape[0]
        _check_small(Path(entry))
    lacking = [name for name in SPACE if name not in lengths]
    if inner and lacking:
        raise StoreError(f"store {store}", f"has no coordinate {lacking[0]}", "restore the store, or write it again")
    for group in inner:
        nodes |= {f"{group.name}/{name}": meta for name, meta in _check_group(group, lengths)}
    return nodes


def _check_group(group: Path, lengths: Mapping[str, int]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Names and metadata of the nodes of a group; its arrays must match the coordinates and contain no links."""
    for entry in _entries(group):
        if not entry.is_dir():
            continue
        if entry.name.startswith(".") or not _is_node(entry):
            refuse_links(entry.path)  # ledgers, and what a run appends to
            continue
        meta = read_node(entry.path)
        if entry.name in lengths and repeats_coordinate(entry.name, meta):
            refuse_links(entry.path)
            continue
        yield entry.name, meta
        if meta["node_type"] != "array":
            continue
        dims = meta.get("dimension_names") or ()
        if len(dims) != len(meta["shape"]):
            raise StoreError(f"array {entry.path}", "has no dimension names", DISTRUST)
        for dim, length in zip(dims, meta["shape"], strict=True):  # other dims may differ while a table is recomputed
            if lengths.get(dim, length) != length:
                raise StoreError(
                    f"array {entry.path}", f"has {length} positions along {dim}, not {lengths[dim]}", DISTRUST
                )
        if sharding(meta) is None:
            _check_small(Path(entry))
        else:
            list(_entries(entry.path))


def repeats_coordinate(name: str, meta: Mapping[str, Any]) -> bool:
    """Whether an array of a group, named like a coordinate of the root, is a copy; tables have a dim of their own."""
    return meta["node_type"] == "array" and list(meta.get("dimension_names") or ()) == [name]


def _check_small(array: Path) -> None:
    """Refuse a small array that zarr cannot open, or that contains links."""
    refuse_links(array)
    try:
        _zarr_opens(str(array), Path(array, "zarr.json").read_bytes())
    except Exception as error:  # zarr raises many kinds of exceptions
        reason = " ".join(str(error).split())[:200]
        raise StoreError(f"array {array}", f"has metadata that Zarr refuses ({reason})", DISTRUST) from None


@lru_cache(maxsize=1024)
def _zarr_opens(array: str, metadata: bytes) -> None:
    """Have zarr parse the metadata of an array, once while they stay the same; it raises where it cannot."""
    zarr.open_array(array, mode="r")


def refuse_links(folder: str | Path) -> None:
    """Refuse links and special files anywhere below a folder.

    Raises
    ------
    StoreError
    """
    for entry in _entries(folder):
        if entry.is_dir():
            refuse_links(entry.path)


def _entries(folder: str | Path) -> Iterator[os.DirEntry[str]]:
    """Entries of a folder; raises unless all are regular files or folders with printable names."""
    try:
        with os.scandir(folder) as found:
            listed = sorted(found, key=lambda entry: entry.name)
    except FileNotFoundError:
        return  # another run is recomputing this step
    except OSError as error:
        raise StoreError(f"folder {folder}", f"cannot be read ({error.strerror})", "check the path") from None
    for entry in listed:
        if printable(entry.name) != entry.name or "\n" in entry.name or "\t" in entry.name:
            raise StoreError(f"folder {folder}", f"contains a file named {entry.name!r}", DISTRUST)
        if entry.is_symlink():
            target = os.path.realpath(entry.path)
            raise StoreError(f"file {entry.path}", f"is a link to {target}", "copy the linked file into the store")
        if not entry.is_dir() and not entry.is_file() and os.path.lexists(entry.path):
            raise StoreError(f"file {entry.path}", "is neither a file nor a folder", DISTRUST)
        yield entry


def _is_node(entry: os.DirEntry[str]) -> bool:
    return os.path.lexists(os.path.join(entry.path, "zarr.json"))


def sharding(meta: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Configuration of the sharding of an array, or None where each chunk is a file of its own."""
    codecs = meta["codecs"]
    return codecs[0]["configuration"] if codecs[0]["name"] == "sharding_indexed" else None


def _depth(value: Any) -> int:
    deepest, waiting = 0, [(value, 1)]
    while waiting and deepest <= DEEPEST:
        item, depth = waiting.pop()
        deepest = max(deepest, depth)
        inner = item.values() if isinstance(item, dict) else item if isinstance(item, list) else ()
        waiting += [(each, depth + 1) for each in inner if isinstance(each, dict | list)]
    return deepest


def _printable(value: Any) -> Any:
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, dict):
        return {printable(key): _printable(each) for key, each in value.items()}
    return [_printable(each) for each in value] if isinstance(value, list) else value


def _whole(value: Any, least: int, most: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= most


def _lengths(value: Any, least: int) -> bool:
    return isinstance(value, list) and len(value) <= MOST_DIMS and all(_whole(n, least, 1 << 40) for n in value)


def _sized(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and _whole(value[0], 0, 1 << 62) and isinstance(value[1], str)


def _inside(name: str) -> bool:
    return bool(name) and not name.startswith("/") and ".." not in name.split("/") and printable(name) == name


def _wrong_group(meta: Mapping[str, Any]) -> str | None:
    """Fault of the attributes of a group on which other code relies, or None."""
    attrs = meta["attributes"]
    if "schema_version" in attrs and not _whole(attrs.get("unit_rows"), 1, LONGEST_AXIS):
        return f"has unit_rows {attrs.get('unit_rows')!r}"
    known = attrs.get("provenance", {})
    if not isinstance(known, dict):
        return "has a provenance that is not a mapping"
    for step, record in known.items():
        if not _inside(step) or "/" in step or not isinstance(record, dict):
            return f"has a provenance of {step!r} that is not a mapping"
        kinds: dict[str, Any] = {"small_files": dict, "inputs": dict, "parameters": dict, "absent": list}
        for word, kind in kinds.items():
            part: Any = record.get(word)
            if part is None:
                continue
            if type(part) is not kind:
                return f"has a provenance of {step!r} in which {word} is not a {kind.__name__}"
            if word != "parameters" and not all(isinstance(name, str) for name in part):
                return f"has a provenance of {step!r} in which {word} contains other values than texts"
            if word == "small_files" and not all(_sized(size) for size in part.values()):
                return f"has a provenance of {step!r} in which small_files lacks size and digest"
            if word in ("small_files", "inputs") and not all(_inside(name) for name in part):
                return f"has a provenance of {step!r} that names files outside the store"
    return None


def _wrong_array(meta: Mapping[str, Any]) -> str | None:
    """Fault of the metadata of an array, or None."""
    shape: Any = meta.get("shape")
    names: Any = meta.get("dimension_names")
    if not _lengths(shape, 0):
        return f"has shape {_short(shape)}"
    if not isinstance(meta.get("data_type"), str) or meta["data_type"] not in DTYPES:
        return f"has data type {_short(meta.get('data_type'))}, not one of {', '.join(DTYPES)}"
    if names is not None:
        sound = isinstance(names, list) and all(isinstance(n, str) and 0 < len(n) <= 100 for n in names)
        if not sound or len(names) != len(shape) or len(set(names)) != len(shape):
            return f"has dimension names {_short(names)} for shape {shape}"
    if not _known(meta.get("chunk_key_encoding"), "default"):
        return f"has chunk key encoding {_short(meta.get('chunk_key_encoding'))}"
    separator = meta["chunk_key_encoding"].get("configuration", {}).get("separator", "/")
    if separator not in ("/", "."):
        return f"has chunk key separator {_short(separator)}"
    if meta.get("storage_transformers"):
        return f"has storage transformers {_short(meta['storage_transformers'])}"
    grid: Any = meta.get("chunk_grid")
    chunk: Any = grid.get("configuration", {}).get("chunk_shape") if _known(grid, "regular") else None
    if not _lengths(chunk, 1) or len(chunk) != len(shape):
        return f"has chunk grid {_short(grid)} for shape {shape}"
    if prod(ceil(n / c) for n, c in zip(shape, chunk, strict=True)) > MOST_FILES:
        return f"has shape {shape} in chunks of {chunk}: more than {MOST_FILES} files"
    axis = meta["attributes"].get("scan_axis")
    if axis is not None and not _whole(axis, 0, MOST_DIMS):
        return f"has scan_axis {_short(axis)}"
    return _wrong_fill(meta.get("fill_value"), meta["data_type"]) or _wrong_codecs(meta, chunk)


def _wrong_fill(value: Any, dtype: str) -> str | None:
    """Fault of a fill value for its dtype, or None."""
    kind = np.dtype(dtype).kind
    if kind == "f":
        sound = value in ("NaN", "Infinity", "-Infinity") or (
            isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e300
        )
    elif kind == "b":
        sound = isinstance(value, bool)
    else:
        sound = _whole(value, int(np.iinfo(dtype).min), int(np.iinfo(dtype).max))
    return None if sound else f"has fill value {_short(value)} for {dtype}"


def _known(value: Any, name: str) -> bool:
    """Whether a value is ``{"name": name}``, with or without a configuration."""
    return isinstance(value, dict) and value.get("name") == name and isinstance(value.get("configuration", {}), dict)


def _names(codecs: Any) -> list[str] | None:
    """Names of a well-formed list of codecs, else None."""
    if not isinstance(codecs, list) or not 0 < len(codecs) <= MOST_DIMS:
        return None
    sound = all(isinstance(c, dict) and isinstance(c.get("name"), str) and _known(c, c["name"]) for c in codecs)
    return [c["name"] for c in codecs] if sound else None


def _wrong_codecs(meta: Mapping[str, Any], chunk: list[int]) -> str | None:
    """Fault of the codecs or the sizes of chunks, or None."""
    itemsize = np.dtype(meta["data_type"]).itemsize
    names = _names(meta.get("codecs"))
    if names is None:
        return f"has codecs {_short(meta.get('codecs'))}"
    if names != ["sharding_indexed"]:
        if prod(chunk) * itemsize > LARGEST_CHUNK:
            return f"declares chunks of {prod(chunk) * itemsize} bytes"
        return _wrong_chain(names, inner=False)
    inner = meta["codecs"][0].get("configuration", {})
    small = inner.get("chunk_shape")
    if not _lengths(small, 1) or len(small) != len(chunk) or any(c % s for c, s in zip(chunk, small, strict=True)):
        return f"has inner chunks {_short(small)} in shards of {chunk}"
    if prod(small) * itemsize > LARGEST_INNER_CHUNK:
        return f"declares inner chunks of {prod(small) * itemsize} bytes"
    if prod(c // s for c, s in zip(chunk, small, strict=True)) > MOST_INNER_CHUNKS:
        return f"declares shards of more than {MOST_INNER_CHUNKS} chunks"
    if _names(inner.get("index_codecs")) != ["bytes", "crc32c"] or inner.get("index_location", "end") not in (
        "start",
        "end",
    ):
        return f"has a shard index of codecs {_short(inner.get('index_codecs'))}"
    return _wrong_chain(_names(inner.get("codecs")), inner=True)


def _wrong_chain(names: list[str] | None, *, inner: bool) -> str | None:
    """Fault unless the chain is ``bytes`` and listed compressors, with blosc only as in our shards; else None."""
    chain = (names or [""])[names is not None and names[0] == "transpose" :]
    sound = chain[:1] == ["bytes"] and all(name in COMPRESSORS for name in chain[1:])
    if not sound or ("blosc" in chain and (not inner or names != ["bytes", "blosc", "crc32c"])):
        return f"has codecs {_short(names)}; supported are bytes with {', '.join(COMPRESSORS)}"
    return None


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 120 else text[:117] + "..."
