"""Groups and arrays of a store: declaration, small arrays, and the consolidated metadata of the root."""

from __future__ import annotations

import json
import os
import shutil
import uuid
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from zarr.codecs import BloscCodec, Crc32cCodec

from dfxm_dask.schema import SCHEMA_VERSION, Variable
from dfxm_dask.store.chunks import Layout
from dfxm_dask.store.integrity import ledger
from dfxm_dask.store.integrity.attributes import netcdf_safe
from dfxm_dask.store.integrity.files import force
from dfxm_dask.store.integrity.lock import STALE, hold
from dfxm_dask.store.integrity.opened import OpenStore, open_store
from dfxm_dask.store.metadata import repeats_coordinate


def root_attrs(rows: int, title: str, **more: Any) -> dict[str, Any]:
    """Attributes of the root group of a new store."""
    return {"schema_version": SCHEMA_VERSION, "title": title, "unit_rows": rows, **more}


def create_group(store: str | Path, name: str, attrs: Mapping[str, Any], *, anew: bool = False) -> None:
    """Create a group if it does not exist. The root group has the name ``""``; ``anew`` replaces the attributes."""
    path = Path(store, name)
    if anew or not (path / "zarr.json").exists():
        path.mkdir(parents=True, exist_ok=True)
        meta = {"zarr_format": 3, "node_type": "group", "attributes": dict(attrs)}
        ledger.replace_file(path / "zarr.json", json.dumps(meta, indent=2).encode())


def create_array(store: str | Path, group: str, variable: Variable, layout: Layout, attrs: Mapping[str, Any]) -> None:
    """Declare an array (metadata only): sharded, blosc-lz4 with bitshuffle, crc32c, empty chunks written.

    The fill value of floats is NaN: missing data cannot be mistaken for a measured zero.
    """
    dtype = np.dtype(variable.dtype)
    zarr.create_array(
        str(Path(store, group, variable.name)),
        shape=layout.shape,
        dtype=dtype,
        chunks=layout.chunk,
        shards=layout.shard,
        compressors=[
            BloscCodec(cname="lz4", clevel=5, shuffle="bitshuffle", typesize=dtype.itemsize),
            Crc32cCodec(),
        ],
        fill_value=variable.fill_value,
        dimension_names=variable.dims,
        attributes=netcdf_safe({**variable.attrs, **attrs}),
        config={"write_empty_chunks": True},
        overwrite=True,
    )


def write_small(
    store: str | Path, group: str, name: str, dims: tuple[str, ...], values: np.ndarray, attrs: Mapping[str, Any]
) -> None:
    """Write a small array in one chunk: coordinates, monitors, gathered results."""
    array = zarr.create_array(
        str(Path(store, group, name)),
        shape=values.shape,
        dtype=values.dtype,
        chunks=tuple(max(1, n) for n in values.shape),
        compressors=[Crc32cCodec()],
        fill_value=float("nan") if values.dtype.kind == "f" else 0,
        dimension_names=dims,
        attributes=netcdf_safe(attrs),
        config={"write_empty_chunks": True},
        overwrite=True,
    )
    array[...] = values


def arrays(store: str | Path, group: str) -> list[str]:
    """Names of the arrays of a group, without the coordinates of the root that a group repeats."""
    found = sorted(p.parent.name for p in Path(store, group).glob("*/zarr.json") if _node(p) == "array")
    return [name for name in found if not group or not _is_repeated(store, group, name)]


def _is_repeated(store: str | Path, group: str, name: str) -> bool:
    """Whether a group repeats a coordinate of the root under this name."""
    own = Path(store, group, name, "zarr.json")
    if not own.exists() or not Path(store, name, "zarr.json").exists():
        return False
    return repeats_coordinate(name, json.loads(own.read_bytes()))


def remove_repeated(store: str | Path, group: str, names: Iterable[str] | None = None) -> None:
    """Remove coordinates of the root (all by default) from a group that repeats them."""
    for name in arrays(store, "") if names is None else names:
        if not _is_repeated(store, group, name):
            continue
        Path(store, group, name, "zarr.json").unlink(missing_ok=True)
        shutil.rmtree(Path(store, group, name), ignore_errors=True)


def _repeat_coordinates(opened: OpenStore) -> None:
    """Copy the coordinates of the root into every whole group that uses them, where they lack or differ.

    A reader of one group, such as ``xarray.open_zarr(store, group="rocking")``, finds coordinates only in that group.
    """
    for group in opened.whole_groups():
        for name in opened.coordinates(group):
            files = [p for p in (opened.path / name).rglob("*") if p.is_file()]
            for file in sorted(files, key=lambda p: p.name == "zarr.json"):  # metadata last: an array appears whole
                copy, data = opened.path / group / file.relative_to(opened.path), file.read_bytes()
                if not copy.exists() or copy.read_bytes() != data:
                    copy.parent.mkdir(parents=True, exist_ok=True)
                    # At the root: the owner of a group removes partial files in it.
                    partial = opened.path / f"zarr.json.{uuid.uuid4().hex}.partial"
                    partial.write_bytes(data)
                    force(str(partial))
                    os.replace(partial, copy)


def consolidate(store: str | Path) -> None:
    """Put the metadata of all complete groups into the root, where other readers look first.

    Groups with an unfinished step are left out, so that plain xarray or zarr does not find them. Concurrent runs on one
    store take turns, each with all groups that are complete by then.
    """
    with hold(Path(store), ".consolidating", what=f"metadata of {store}", wait=STALE + 30):
        for left in Path(store).glob("zarr.json.*.partial"):
            left.unlink(missing_ok=True)  # of a killed run
        _consolidate(store)


def _consolidate(store: str | Path) -> None:
    opened = open_store(store)
    _repeat_coordinates(opened)
    meta = opened.nodes[""]
    meta.pop("consolidated_metadata", None)
    nodes = {name: json.loads(Path(store, name, "zarr.json").read_bytes()) for name in opened.to_consolidate()}
    meta["consolidated_metadata"] = {"kind": "inline", "must_understand": False, "metadata": nodes}
    ledger.replace_file(Path(store, "zarr.json"), json.dumps(meta).encode())


def _node(path: Path) -> str:
    return str(json.loads(path.read_bytes()).get("node_type"))
