"""Groups and arrays of a store: declared, written whole where they are small, and joined in the root's metadata."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from zarr.codecs import BloscCodec, Crc32cCodec

from dfxm_dask.schema import SCHEMA_VERSION, Variable
from dfxm_dask.store.chunks import Layout
from dfxm_dask.store.integrity import ledger
from dfxm_dask.store.integrity.lock import STALE, hold
from dfxm_dask.store.integrity.opened import open_store


def root_attrs(rows: int, title: str, **more: Any) -> dict[str, Any]:
    """Attributes of the root group of a new store."""
    return {"schema_version": SCHEMA_VERSION, "title": title, "unit_rows": rows, **more}


def create_group(store: str | Path, name: str, attrs: Mapping[str, Any], *, anew: bool = False) -> None:
    """Create a group, unless it is there. The root group has the name ``""``; ``anew`` replaces its attributes."""
    path = Path(store, name)
    if anew or not (path / "zarr.json").exists():
        path.mkdir(parents=True, exist_ok=True)
        meta = {"zarr_format": 3, "node_type": "group", "attributes": dict(attrs)}
        ledger.replace_file(path / "zarr.json", json.dumps(meta, indent=2).encode())


def create_array(store: str | Path, group: str, variable: Variable, layout: Layout, attrs: Mapping[str, Any]) -> None:
    """Declare an array (metadata only): sharded, blosc-lz4 with bitshuffle, crc32c, empty chunks written.

    The fill value of a float is NaN: what is absent can never be taken for a measured zero.
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
        attributes={**variable.attrs, **attrs},
        config={"write_empty_chunks": True},
        overwrite=True,
    )


def write_small(
    store: str | Path, group: str, name: str, dims: tuple[str, ...], values: np.ndarray, attrs: Mapping[str, Any]
) -> None:
    """Write a small array whole, in one chunk: coordinates, monitors, gathered results."""
    array = zarr.create_array(
        str(Path(store, group, name)),
        shape=values.shape,
        dtype=values.dtype,
        chunks=tuple(max(1, n) for n in values.shape),
        compressors=[Crc32cCodec()],
        fill_value=float("nan") if values.dtype.kind == "f" else 0,
        dimension_names=dims,
        attributes=dict(attrs),
        config={"write_empty_chunks": True},
        overwrite=True,
    )
    array[...] = values


def arrays(store: str | Path, group: str) -> list[str]:
    """Names of the arrays of a group."""
    return sorted(p.parent.name for p in Path(store, group).glob("*/zarr.json") if _node(p) == "array")


def consolidate(store: str | Path) -> None:
    """Put the metadata of all complete groups into the root, where other readers look first.

    A group with an unfinished step is left out: plain xarray or zarr does not see it either. Runs on several groups of
    one store do this one after the other, each with all that is there.
    """
    with hold(Path(store), ".consolidating", what=f"metadata of {store}", wait=STALE + 30):
        for left in Path(store).glob("zarr.json.*.partial"):
            left.unlink(missing_ok=True)  # of a run that was killed here
        _consolidate(store)


def _consolidate(store: str | Path) -> None:
    opened = open_store(store)
    meta = opened.nodes[""]
    meta.pop("consolidated_metadata", None)
    nodes = {name: json.loads(Path(store, name, "zarr.json").read_bytes()) for name in opened.to_consolidate()}
    meta["consolidated_metadata"] = {"kind": "inline", "must_understand": False, "metadata": nodes}
    ledger.replace_file(Path(store, "zarr.json"), json.dumps(meta).encode())


def _node(path: Path) -> str:
    return str(json.loads(path.read_bytes()).get("node_type"))
