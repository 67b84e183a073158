"""Content of a store, as JSON: axes, variables, missing rows, and default contrast."""

from __future__ import annotations

import hashlib
import math
import os
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from dfxm_dask.errors import InputError, StoreError
from dfxm_dask.schema import nearest
from dfxm_dask.store import scan
from dfxm_dask.store.integrity.opened import OpenStore, open_store
from dfxm_dask.store.shards import ShardedArray, open_array, read

SIDES = (("y", "x"), ("patch_y", "patch_x"))
"""Dims along the rows and columns of an image."""
MOST_POSITIONS = 100_000  # of an axis that is sent to the page


@dataclass(frozen=True)
class Drawn:
    """A variable that is drawn as an image."""

    array: ShardedArray
    dims: tuple[str, ...]
    sides: tuple[str, str]
    committed: frozenset[str] | None
    valid: np.ndarray | None
    """Rows on disk (z, y) of a step that is not complete."""


@dataclass
class Shown:
    """A store when it was last read. A change on disk makes a new one: see :func:`current`."""

    path: Path
    stamp: str
    root: tuple[int, int]
    identity: str
    opened: OpenStore
    tree: xr.DataTree
    drawn: dict[str, Drawn]
    kept: dict[Any, Any] = field(default_factory=dict)
    """Derived arrays that are costly to read, by request."""

    def is_here(self) -> bool:
        """Whether this store is still the one at its path: neither deleted nor overwritten."""
        try:
            return _root(self.path) == self.root
        except FileNotFoundError:
            return False

    def image(self, name: str) -> Drawn:
        """A variable that is drawn as an image.

        Raises
        ------
        InputError
        """
        if name not in self.drawn:
            raise InputError(f"variable {name!r}", f"is not an image{nearest(name, self.drawn)}", "see api/catalogue")
        return self.drawn[name]


def _root(store: Path) -> tuple[int, int]:
    state = os.stat(store / "zarr.json")
    return state.st_ino, state.st_mtime_ns


def stamp_of(store: Path) -> tuple[str, str]:
    """Digest of the state of a store, and identity of its raw data, from the sizes and times of small files.

    Raises
    ------
    StoreError
        The store no longer exists.
    """
    parts = []
    try:
        root = os.stat(store / "zarr.json")
        parts.append((".", root.st_ino, root.st_mtime_ns, root.st_size))
        for group in sorted(entry.name for entry in os.scandir(store) if entry.is_dir()):
            folder = store / group
            for path in (folder / "zarr.json", *sorted((folder / ".ledger").glob("**/*.jsonl"))):
                try:
                    state = os.stat(path)
                except FileNotFoundError:
                    continue
                parts.append((str(path), state.st_ino, state.st_mtime_ns, state.st_size))
        begun = sorted((store / "raw" / ".ledger").glob("*.jsonl"))[:1]  # ingest; of a set, join
        first = [one.read_bytes().partition(b"\n")[0] for one in begun]
    except FileNotFoundError:
        raise StoreError(f"store {store.name}", "no longer exists", "close this page, or restore the store") from None
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:16], hashlib.sha256(repr(first).encode()).hexdigest()[:16]


def current(path: Path, before: Shown | None = None) -> Shown:
    """The present store; ``before`` itself if nothing has changed."""
    stamp, identity = stamp_of(path)
    if before is not None and before.stamp == stamp and before.is_here():
        return before
    root = _root(path)
    opened = open_store(path)
    tree = scan.open_scan(path, chunks=None, allow_partial=True)
    drawn = {}
    nz, ny = (tree.dataset.sizes.get(d, 1) for d in ("z", "y"))
    for group in opened.groups():
        states = opened.states(group)
        bad = opened.incomplete(group)
        owner = {name: step for step in bad for name in states[step].writes}
        for name in opened.claimed_arrays(group):
            dims = opened.declared(group, name).dims
            sides = next((s for s in SIDES if {*s} <= {*dims}), None)
            array = open_array(path / group / name)
            if sides is None or array is None or "z" not in dims:
                continue
            known, valid = None, None
            if name in owner:
                state = states[owner[name]]
                known, valid = scan.committed(path, group, state), scan.valid_blocks(state, nz, ny)
            drawn[f"{group}/{name}"] = Drawn(array, dims, sides, known, valid)
    shown = Shown(path, stamp, root, identity, opened, tree, drawn)
    if before is not None and before.identity == identity and "navigator" in before.kept:
        shown.kept["navigator"] = before.kept["navigator"]  # layers that were whole stay so until the next ingest
    return shown


def catalogue(shown: Shown) -> dict[str, Any]:
    """Axes, variables and state of a store, for the page."""
    root = shown.tree.dataset
    problems = [
        f"{group}/{step}: {reason}; {remedy}"
        for group in shown.opened.groups()
        for step, (reason, remedy) in shown.opened.incomplete(group).items()
    ]
    axes = {}
    for name, values in root.coords.items():
        if values.ndim == 1 and (values.dims[0] == name):
            axes[str(name)] = _axis(values)
    scan_names = scan_axes(shown)
    return {
        "name": shown.path.name,
        "path": str(shown.path.resolve()),
        "title": str(root.attrs.get("title") or shown.path.name),
        "command": str(root.attrs.get("command", "")),
        "stamp": shown.stamp,
        "identity": shown.identity,
        "problems": problems,
        "axes": axes,
        "scan": scan_names,
        "variables": [_variable(shown, name) for name in shown.drawn],
        "tables": {
            group: sorted(str(n) for n in node.dataset.data_vars if f"{group}/{n}" not in shown.drawn)
            for group, node in shown.tree.children.items()
        },
        "mosaicity": len(scan_names) == 2 and all(f"rocking/com_{a}" in shown.drawn for a in scan_names),
        "patch": 64,
    }


def scan_axes(shown: Shown) -> list[str]:
    """Names of the scan axes, slowest first; none for a set of reflections."""
    counts = shown.drawn.get("raw/counts")
    return [d for d in counts.dims if d not in ("z", "y", "x")] if counts else []


def _axis(values: xr.DataArray) -> dict[str, Any]:
    numbers = np.asarray(values, np.float64)
    steps = np.diff(numbers)
    even = len(steps) > 0 and bool(np.allclose(steps, steps.mean(), rtol=1e-3, atol=0))
    facts = {
        "size": int(numbers.size),
        "first": float(numbers[0]),
        "step": float(steps.mean()) if len(steps) else 1.0,
        "even": even or len(steps) == 0,
        "units": str(values.attrs.get("units", "")),
        "long_name": str(values.attrs.get("long_name", values.name)),
    }
    if values.name not in ("y", "x") and numbers.size <= MOST_POSITIONS:
        facts["values"] = numbers.tolist()
    return facts


def _variable(shown: Shown, name: str) -> dict[str, Any]:
    one = shown.drawn[name]
    group, _, short = name.partition("/")
    attrs = shown.opened.nodes[name]["attributes"]
    flags = dict(zip(attrs.get("flag_meanings", "").split(), attrs.get("flag_masks", ()), strict=False))
    kind = one.array.dtype.kind
    return {
        "name": name,
        "group": group,
        "dims": list(one.dims),
        "shape": list(one.array.shape),
        "dtype": str(one.array.dtype),
        "units": str(attrs.get("units", "")),
        "long_name": str(attrs.get("long_name", short)),
        "flags": flags,
        "kind": "mask" if kind == "b" else "flags" if flags else "lattice" if one.sides[0] == "patch_y" else "map",
        "complete": one.valid is None,
    }


def navigator(shown: Shown) -> tuple[np.ndarray, np.ndarray]:
    """Mean counts of every frame (z, frame), and its contrast limits (z, frame, 2), from the statistics of ingest.

    No pixel is read. NaN where a layer is not on disk. The limits are the 2nd percentile of the least and the 99th
    percentile of the mean counts of patches plus their spread (our choice).
    """
    names = [f"raw/patch_{n}" for n in ("sum", "sum2", "n", "min", "max")]
    if not all(name in shown.drawn for name in (*names, "raw/counts")):
        raise InputError("navigator", "this store has no statistics of its frames", "ingest the scan again")
    counts = shown.drawn["raw/counts"]
    nz, *scan_shape = shown.drawn[names[0]].array.shape[:-2]
    frames = prod(scan_shape)
    if "navigator" not in shown.kept:
        shown.kept["navigator"] = np.full((nz, frames), np.nan), np.full((nz, frames, 2), np.nan)
    mean, limits = shown.kept["navigator"]
    for k in np.flatnonzero(np.isnan(mean).any(axis=1)):
        if counts.valid is not None and not counts.valid[k].all():
            continue
        arrays = (shown.drawn[name].array for name in names)
        total, square, number, least, most = (
            read(a, (slice(k, k + 1), *(slice(0, n) for n in a.shape[1:]))).astype(np.float64).reshape(frames, -1)
            for a in arrays
        )
        number = np.maximum(number, 1)
        level = total / number
        spread = np.sqrt(np.maximum(square / number - level**2, 0))
        low = np.percentile(least, 2, axis=1)
        high = np.minimum(np.percentile(level + 3 * spread, 99, axis=1), most.max(1))
        limits[k] = np.stack([low, np.maximum(high, low + 1)], axis=1)
        mean[k] = total.sum(1) / number.sum(1)
    return mean, limits


def plain(value: Any) -> Any:
    """JSON without NaN: null."""
    if isinstance(value, dict):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value.item() if isinstance(value, np.generic) else value
