"""One unit of work: read a band or layer once, run every fused kernel over it, write whole shards, return a record.

This is what a worker runs. Pixels never travel: a unit reads from the store, writes to the store, and returns about
a kilobyte that says what it did.
"""

from __future__ import annotations

import hashlib
import io
import os
import resource
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from dfxm_dask.catalogue import find
from dfxm_dask.engine.layer import beside, check_outputs, run_kernel, scan_last, storage_order
from dfxm_dask.engine.shapes import expanded_writes
from dfxm_dask.errors import InputError, StoreError
from dfxm_dask.reduction import Arrays, Reduction
from dfxm_dask.schema import SPACE, Variable, expand
from dfxm_dask.store.chunks import bands
from dfxm_dask.store.integrity.ledger import Record, ledger_path, replace_file
from dfxm_dask.store.integrity.lock import Fence
from dfxm_dask.store.shards import Buffers, ShardedArray, open_array, place_shards, read, stage_shard, staging, tiles

_memory = threading.local()


@dataclass(frozen=True)
class UnitStep:
    """A step as it travels: names and numbers only; ``tiled`` in a unit whose other steps need the whole layer."""

    name: str
    group: str
    parameters: dict[str, Any]
    sources: dict[str, str]
    store_results: bool
    tiled: bool = False
    fence: Fence | None = None


@dataclass(frozen=True)
class UnitTask:
    """One unit: rows y0 to y1 of a layer z, with the steps to run."""

    store: str
    steps: tuple[UnitStep, ...]
    z: int
    y0: int
    y1: int
    layer: bool
    axes: dict[str, str]
    rows: int

    @property
    def block(self) -> str:
        return f"z{self.z:04d}-{self.y0}:{self.y1}"


@lru_cache(maxsize=256)
def _array(path: str, stamp: int) -> ShardedArray:
    array = open_array(path)
    if array is None:
        raise StoreError(f"array {path}", "has a foreign layout", "make it anew with this package")
    return array


def _open(store: str, group: str, name: str) -> ShardedArray:
    path = os.path.join(store, group, name)
    return _array(path, os.stat(os.path.join(path, "zarr.json")).st_mtime_ns)


@lru_cache(maxsize=64)
def _positions(path: str, stamp: int) -> np.ndarray:
    return np.asarray(zarr.open_array(path, mode="r")[...], float)


def _coordinate(store: str, name: str) -> np.ndarray:
    path = os.path.join(store, name)
    return _positions(path, os.stat(os.path.join(path, "zarr.json")).st_mtime_ns)


def run_unit(task: UnitTask) -> Record:
    """Run the steps of a unit and write their results.

    Returns
    -------
    dict
        ``block``, ``steps`` {name: {"files", "read"}}, ``bytes_read``, ``bytes_written``, ``seconds``, ``rss``.
    """
    begun = time.perf_counter()
    reductions = {s.name: find(s.name) for s in task.steps}
    positions = {name: _coordinate(task.store, name) for name in (*SPACE, *task.axes)}
    nx = positions["x"].size
    halo = max(r.halo for r in reductions.values())  # the same for all steps of a pass
    layers = slice(max(0, task.z - halo), task.z + halo + 1) if halo else task.z
    outside = _outside(task, list(reductions.values()))
    known = _known_of_layer(task, list(reductions.values()))
    results: dict[str, Arrays] = {s.name: {} for s in task.steps}
    bytes_read = sum(a.nbytes for a, _ in outside.values())
    whole: list[np.ndarray] = []
    for steps, rows, columns, counts in _parts(task, nx, whole):
        bytes_read += counts.nbytes if counts is not None and steps[0].tiled == task.layer else 0
        box = {"y": slice(rows.start - task.y0, rows.stop - task.y0), "x": columns}
        fetch: dict[str, Any] = {
            name: scan_last(values[tuple(box.get(d, slice(None)) for d in dims)], dims, task.axes)
            for name, (values, dims) in outside.items()
        }
        fetch |= known | {"y": positions["y"][rows], "x": positions["x"][columns], "z": positions["z"][layers]}
        if counts is not None:
            fetch["counts"] = scan_last(counts, (*task.axes, "y", "x"), task.axes)
        if task.layer:  # what tiles have made is whole by now
            for step in task.steps:
                for variable in expanded_writes(reductions[step.name], task.axes, step.parameters):
                    if not steps[0].tiled and variable.name in results[step.name]:
                        kept = results[step.name][variable.name]
                        fetch[variable.name] = scan_last(kept, [d for d in variable.dims if d != "z"], task.axes)
        for step in steps:
            reduction = reductions[step.name]
            wanted = expanded_writes(reduction, task.axes, step.parameters)
            extra = {"middle": min(reduction.halo, task.z)} if reduction.halo else {}
            made = run_kernel(reduction, task.axes, fetch, positions, step.parameters, **extra)
            if reduction.combine is not None:
                known = results[step.name]
                made = {name: np.array(values) for name, values in made.items()}  # a view would see the next tile
                results[step.name] = reduction.combine(known, made) if known else made
                continue
            check_outputs(reduction, made, wanted)
            for variable in wanted:
                fetch[variable.name] = made[variable.name]
                lasts = variable.stored or variable.name != "counts"
                if lasts and (step.store_results or step.tiled):
                    _keep(results[step.name], variable, made[variable.name], box, task, positions, reduction.patch)
        if len(steps) < len(task.steps) and steps[0].tiled:
            _lay(whole, storage_order(fetch["counts"], (*task.axes, "y", "x"), task.axes), box, task, nx)
    record: Record = {"block": task.block, "steps": {}, "bytes_read": bytes_read, "bytes_written": 0}
    for step in task.steps:
        if step.store_results:
            files = _write(task, step, reductions[step.name], results[step.name])
            record["steps"][step.name] = {"files": files, "read": sorted(step.sources)}
            record["bytes_written"] += sum(size for size, _ in files.values())
    record["seconds"] = round(time.perf_counter() - begun, 4)
    record["rss"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return record


def _known_of_layer(task: UnitTask, reductions: list[Reduction]) -> dict[str, np.ndarray]:
    """What the raw data say of the layer beside the inputs of its steps: positions of frames, masked pixels."""
    names = dict.fromkeys(v.name for r in reductions for b in beside(r) for v in expand(b, task.axes))
    there = (n for n in names if os.path.exists(os.path.join(task.store, "raw", n, "zarr.json")))
    return {n: _coordinate(task.store, os.path.join("raw", n))[task.z] for n in there}


def _outside(task: UnitTask, reductions: list[Reduction]) -> dict[str, tuple[np.ndarray, tuple[str, ...]]]:
    """Inputs from the store other than counts: values of the unit and their dims (without z, unless with a halo)."""
    tiled = any(s.tiled for s in task.steps)
    made: set[str] = set()
    found: dict[str, tuple[np.ndarray, tuple[str, ...]]] = {}
    for step, reduction in zip(task.steps, reductions, strict=True):
        for declared in (*reduction.reads, *reduction.may_read):
            for variable in expand(declared, task.axes):
                name = variable.name
                skip = name in made or name in found or name not in step.sources
                if skip or (name == "counts" and (tiled or not task.layer)):
                    continue
                found[name] = _load(task, step.sources[name], variable, reduction.halo)
        made |= {v.name for v in expanded_writes(reduction, task.axes, step.parameters)}
    return found


def _load(task: UnitTask, group: str, variable: Variable, halo: int) -> tuple[np.ndarray, tuple[str, ...]]:
    z = slice(max(0, task.z - halo), task.z + halo + 1)
    rows = slice(task.y0, task.y1)
    box = tuple(z if d == "z" else rows if d == "y" else slice(None) for d in variable.dims)
    path = os.path.join(task.store, group, variable.name)
    array = open_array(path)
    values = read(array, box) if array is not None else np.asarray(zarr.open_array(path, mode="r")[box])
    values.flags.writeable = False  # fused kernels share it
    if "z" in variable.dims and not halo:
        return np.asarray(values[0]), variable.dims[1:]
    return values, variable.dims


Part = tuple[tuple[UnitStep, ...], slice, slice, np.ndarray | None]


def _parts(task: UnitTask, nx: int, laid: list[np.ndarray]) -> Iterator[Part]:
    """The pieces that kernels see, with the steps that see them: tiles of counts, the whole unit, or both in turn.

    Where some steps take tiles and others the layer, counts are decoded once: who takes the tiles lays them, as the
    steps left them, into ``laid`` for the layer.
    """
    tiled = tuple(s for s in task.steps if s.tiled == task.layer)
    whole = tuple(s for s in task.steps if s not in tiled)
    if not any("counts" in s.sources for s in tiled):
        tiled, whole = (), task.steps
    rest = (slice(task.y0, task.y1), slice(0, nx))
    if not tiled:
        yield whole, *rest, None
        return
    if not hasattr(_memory, "buffers"):
        _memory.buffers = Buffers.empty()
    counts = _open(task.store, "raw", "counts")
    for rows, columns, tile in tiles(counts, task.z, task.y0, task.y1, _memory.buffers):
        yield tiled, rows, columns, tile
    if whole:
        (layer,) = laid
        layer.flags.writeable = False  # fused kernels share it
        yield whole, *rest, layer


def _lay(laid: list[np.ndarray], tile: np.ndarray, box: Mapping[str, slice], task: UnitTask, nx: int) -> None:
    """Put one tile of counts into its place in those of the layer."""
    if not laid:
        laid.append(np.empty((*tile.shape[:-2], task.y1 - task.y0, nx), tile.dtype))
    laid[0][..., box["y"], box["x"]] = tile


def _keep(
    kept: Arrays,
    variable: Variable,
    values: np.ndarray,
    box: Mapping[str, slice],
    task: UnitTask,
    positions: Mapping[str, np.ndarray],
    patch: int | None,
) -> None:
    """Put one tile of an output into its place in the unit's array."""
    dims = variable.dims[1:] if variable.dims[0] == "z" else variable.dims
    values = storage_order(values, dims, task.axes)
    full = {"y": task.y1 - task.y0, "x": positions["x"].size}
    where = dict(box)
    if patch:
        for d in ("y", "x"):
            full[f"patch_{d}"] = ceil(full[d] / patch)
            where[f"patch_{d}"] = slice(box[d].start // patch, ceil(box[d].stop / patch))
    wanted = tuple(where[d].stop - where[d].start if d in where else n for d, n in zip(dims, values.shape, strict=True))
    if values.shape != wanted:
        raise InputError(
            f"{variable.name} of block {task.block}", f"has shape {values.shape}", f"return {wanted} for dims {dims}"
        )
    if variable.name not in kept:
        shape = tuple(full.get(d, n) for d, n in zip(dims, values.shape, strict=True))
        kept[variable.name] = np.empty(shape, variable.dtype)
    kept[variable.name][tuple(where.get(d, slice(None)) for d in dims)] = values


def _write(task: UnitTask, step: UnitStep, reduction: Reduction, results: Arrays) -> dict[str, list[Any]]:
    """Write the results of a step as whole shards; a gather leaves its summary beside the ledger."""
    may_commit = step.fence.check if step.fence else None
    if reduction.combine is not None:
        path = summary_path(task.store, step.group, step.name, task.block)
        content = io.BytesIO()
        np.savez(content, **results)  # type: ignore[arg-type]
        if may_commit is not None:
            may_commit()
        replace_file(path, content.getvalue())
        digest = hashlib.sha256(content.getvalue()).hexdigest()
        return {os.path.relpath(path, task.store): [len(content.getvalue()), digest]}
    with staging() as writers:
        for variable in expanded_writes(reduction, task.axes, step.parameters):
            if not variable.stored:
                continue
            array = _open(task.store, step.group, variable.name)
            values = results[variable.name]
            cut = next((d for d in ("y", "patch_y") if d in variable.dims), None)
            y = variable.dims.index(cut) - 1 if cut else 0
            rows = array.shard[y + 1] if cut else 1
            first = task.y0 // (rows if cut == "y" else rows * (reduction.patch or 1))
            for number, (low, high) in enumerate(bands(values.shape[y], rows) if cut else [(0, 1)]):
                part = values[(slice(None),) * y + (slice(low, high),)] if cut else values
                place = tuple(task.z if d == "z" else first + number if d == cut else 0 for d in variable.dims)
                writers.append(stage_shard(array, place, part[None]))
        placed = place_shards(writers, may_commit)
    return {os.path.relpath(path, task.store): what for path, what in placed.items()}


def summary_path(store: str, group: str, step: str, block: str) -> Path:
    """Where the summary of one block of a gather lies."""
    return ledger_path(store, group, step).with_name(f"{step}.{block.replace(':', '_')}.npz")
