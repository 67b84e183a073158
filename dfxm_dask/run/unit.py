"""One unit of work: read a band or layer once, apply every fused kernel, write whole shards, return a record.

Workers run units. Pixels are never sent between processes: a unit reads from the store, writes to the store, and
returns a record of about a kilobyte.
"""

from __future__ import annotations

import hashlib
import io
import os
import resource
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from dfxm_dask.catalogue import find
from dfxm_dask.engine.layer import beside, run_layer
from dfxm_dask.engine.shapes import expanded_writes
from dfxm_dask.errors import StoreError
from dfxm_dask.reduction import Arrays, Reduction
from dfxm_dask.schema import SPACE, Dim, Variable, expand
from dfxm_dask.store.chunks import bands
from dfxm_dask.store.integrity.ledger import Record, block_name, ledger_path, replace_file
from dfxm_dask.store.integrity.lock import Fence
from dfxm_dask.store.shards import Buffers, ShardedArray, open_array, place_shards, read, stage_shard, staging, tiles

_memory = threading.local()


@dataclass(frozen=True)
class UnitStep:
    """A step in the form that a worker receives: names and numbers only. ``tiled`` marks a step that works on tiles in
    a unit whose other steps need the whole layer."""

    name: str
    group: str
    parameters: dict[str, Any]
    sources: dict[str, str]
    store_results: bool
    tiled: bool = False
    fence: Fence | None = None


@dataclass(frozen=True)
class UnitTask:
    """One unit: rows y0 to y1 of a layer z, with the steps to run. ``frames`` are the first and last + 1 position
    along the first scan axis of a unit that contains some frames only."""

    store: str
    steps: tuple[UnitStep, ...]
    z: int
    y0: int
    y1: int
    layer: bool
    axes: dict[str, str]
    rows: int
    frames: tuple[int, int] | None = None

    @property
    def block(self) -> str:
        return block_name(self.z, self.y0, self.y1, self.frames)


@lru_cache(maxsize=256)
def _array(path: str, stamp: int) -> ShardedArray | None:
    return open_array(path)


def _open(store: str, group: str, name: str) -> ShardedArray | None:
    """An array, opened again if its metadata changed; None if its layout is not that of this package."""
    path = os.path.join(store, group, name)
    return _array(path, os.stat(os.path.join(path, "zarr.json")).st_mtime_ns)


def _open_own(store: str, group: str, name: str) -> ShardedArray:
    array = _open(store, group, name)
    if array is None:
        raise StoreError(f"array {group}/{name}", "has a foreign layout", "write it again with this package")
    return array


@lru_cache(maxsize=64)
def _small(path: str, stamp: int) -> np.ndarray:
    return np.asarray(zarr.open_array(path, mode="r")[...], float)


def _whole(store: str, name: str) -> np.ndarray:
    """All values of a small array, such as a coordinate."""
    path = os.path.join(store, name)
    return _small(path, os.stat(os.path.join(path, "zarr.json")).st_mtime_ns)


Box = Mapping[str, slice]
Given = dict[str, tuple[Sequence[str], np.ndarray]]
"""Dims and values by name, in storage order."""
Part = tuple[tuple[UnitStep, ...], Box, np.ndarray | None]


def run_unit(task: UnitTask) -> Record:
    """Run the steps of a unit and write their results.

    Returns
    -------
    dict
        ``block``, ``steps`` {name: {"files", "read"}}, ``bytes_read``, ``bytes_written``, ``seconds``, ``rss``.
    """
    begun = time.perf_counter()
    reductions = {s.name: find(s.name) for s in task.steps}
    writes = {s.name: expanded_writes(reductions[s.name], task.axes, s.parameters) for s in task.steps}
    positions = {name: _whole(task.store, name) for name in (*SPACE, *task.axes)}
    halo = max(r.halo for r in reductions.values())  # the same for all steps of a pass
    border = max(r.border for r in reductions.values())  # likewise
    low = max(0, task.y0 - border)
    unit = {
        "z": slice(max(0, task.z - halo), task.z + halo + 1),
        "y": slice(low, min(task.y1 + border, positions["y"].size)),
        "x": slice(0, positions["x"].size),
    }
    if task.frames is not None:
        unit[next(iter(task.axes))] = slice(*task.frames)
    given = _read(task, reductions, writes, unit)
    bytes_read = sum(values.nbytes for _, values in given.values())
    given = {d: ((d,), positions[d][unit[d]]) for d in SPACE} | given | _beside(task, reductions, unit)
    results: dict[str, Arrays] = {s.name: {} for s in task.steps}
    layer: Arrays = {}  # counts after the steps that work on tiles
    for steps, box, counts in _parts(task, unit, layer):
        inputs: Given = {name: (dims, values[_place(dims, box)]) for name, (dims, values) in given.items()}
        if counts is not None:
            inputs["counts"] = (*task.axes, "y", "x"), counts
            bytes_read += counts.nbytes if steps[0].tiled == task.layer else 0
        if task.layer and not steps[0].tiled:  # results of tiles are complete at this point
            made = {name: values for kept in results.values() for name, values in kept.items()}
            inputs |= {v.name: (_in_layer(v), made[v.name]) for w in writes.values() for v in w if v.name in made}
        for step in steps:
            reduction, wanted, kept = reductions[step.name], writes[step.name], results[step.name]
            made = run_layer(
                reduction,
                task.axes,
                inputs,
                positions,
                step.parameters,
                wanted,
                at=task.z - unit["z"].start,
                where=f" of block {task.block}",
                start=task.frames[0] if task.frames else 0,
                rows=slice(task.y0 - low, task.y1 - low),
            )
            if reduction.combine is not None:
                made = {
                    name: np.array(values) for name, values in made.items()
                }  # a view would change with the next tile
                results[step.name] = reduction.combine(kept, made) if kept else made
                continue
            inputs |= {v.name: (_in_layer(v), made[v.name]) for v in wanted}
            if step.store_results or step.tiled:
                for v in (v for v in wanted if v.stored or v.name != "counts"):
                    values = np.asarray(made[v.name], v.dtype)
                    if counts is None:
                        kept[v.name] = values  # of the whole unit
                    else:
                        _keep(kept, v.name, _in_layer(v), values, box, unit)
        if len(steps) < len(task.steps) and steps[0].tiled:
            _keep(layer, "counts", *inputs["counts"], box, unit)
    record: Record = {"block": task.block, "steps": {}, "bytes_read": bytes_read, "bytes_written": 0}
    for step in task.steps:
        if step.store_results:
            files = _write(task, step, reductions[step.name], writes[step.name], results[step.name])
            record["steps"][step.name] = {"files": files, "read": sorted(step.sources)}
            record["bytes_written"] += sum(size for size, _ in files.values())
    record["seconds"] = round(time.perf_counter() - begun, 4)
    record["rss"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return record


def _in_layer(variable: Variable) -> list[str]:
    return [d for d in variable.dims if d != "z"]


def _place(dims: Sequence[str], box: Box) -> tuple[slice, ...]:
    return tuple(box.get(d, slice(None)) for d in dims)


def _read(
    task: UnitTask, reductions: Mapping[str, Reduction], writes: Mapping[str, Sequence[Variable]], unit: Box
) -> Given:
    """Inputs of the steps from the store, except results of other steps of the unit, and counts in tiles."""
    tiled = not task.layer or any(s.tiled for s in task.steps)
    made = {"counts"} if tiled else set()
    found: Given = {}
    for step in task.steps:
        reduction = reductions[step.name]
        for variable in (
            v for declared in (*reduction.reads, *reduction.may_read) for v in expand(declared, task.axes)
        ):
            name, group = variable.name, step.sources.get(variable.name)
            if group is None or name in made or name in found:
                continue
            box = _place(variable.dims, unit)
            array = _open(task.store, group, name)
            path = os.path.join(task.store, group, name)
            values = read(array, box) if array is not None else np.asarray(zarr.open_array(path, mode="r")[box])
            values.flags.writeable = False  # fused kernels share it
            found[name] = variable.dims, values
        made |= {v.name for v in writes[step.name]}
    return found


def _beside(task: UnitTask, reductions: Mapping[str, Reduction], unit: Box) -> Given:
    """Raw data of the layer beyond the inputs of its steps: positions of frames, masked pixels."""
    known = {v.name: v for r in reductions.values() for b in beside(r) for v in expand(b, task.axes)}
    there = (n for n in known if os.path.exists(os.path.join(task.store, "raw", n, "zarr.json")))
    return {n: (known[n].dims, _whole(task.store, os.path.join("raw", n))[_place(known[n].dims, unit)]) for n in there}


def _parts(task: UnitTask, unit: Box, layer: Arrays) -> Iterator[Part]:
    """Parts of the unit with the steps that work on them: tiles of counts, the whole unit, or first tiles and then all.

    If some steps work on tiles and others on the layer, counts are decoded once: the caller collects the tiles, after
    their steps, in ``layer``.
    """
    tiled = tuple(s for s in task.steps if s.tiled == task.layer)
    rest = tuple(s for s in task.steps if s not in tiled)
    all_of_it = {"y": slice(0, unit["y"].stop - unit["y"].start), "x": unit["x"]}
    if not any("counts" in s.sources for s in tiled):
        yield task.steps, all_of_it, None
        return
    if not hasattr(_memory, "buffers"):
        _memory.buffers = Buffers.empty()
    counts = _open_own(task.store, "raw", "counts")
    for rows, columns, tile in tiles(counts, task.z, task.y0, task.y1, _memory.buffers):
        yield tiled, {"y": slice(rows.start - task.y0, rows.stop - task.y0), "x": columns}, tile
    if rest:
        layer["counts"].flags.writeable = False  # fused kernels share it
        yield rest, all_of_it, layer["counts"]


def _keep(kept: Arrays, name: str, dims: Sequence[str], values: np.ndarray, box: Box, unit: Box) -> None:
    """Copy one tile of counts, or of an output, into the array of the unit."""
    where = dict(box)
    full = {d: unit[d].stop - unit[d].start for d in box}
    for d in (d for d in dims if isinstance(d, Dim) and d.of):
        full[d] = ceil(full[d.of] / d.step)
        where[d] = slice(box[d.of].start // d.step, ceil(box[d.of].stop / d.step))
    if name not in kept:
        shape = tuple(full.get(d, n) for d, n in zip(dims, values.shape, strict=True))
        kept[name] = np.empty(shape, values.dtype)
    kept[name][_place(dims, where)] = values


def _write(
    task: UnitTask, step: UnitStep, reduction: Reduction, wanted: Sequence[Variable], results: Arrays
) -> dict[str, list[Any]]:
    """Write the results of a step as whole shards; the summary of a gather is a file beside the ledger."""
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
        for variable in (v for v in wanted if v.stored):
            array = _open_own(task.store, step.group, variable.name)
            values = results[variable.name]
            cut = next((d for d in variable.dims if d == "y" or (isinstance(d, Dim) and d.of == "y")), None)
            y = variable.dims.index(cut) - 1 if cut else 0
            rows = array.shard[y + 1] if cut else 1
            first = task.y0 // (rows * (cut.step if isinstance(cut, Dim) else 1))
            at = {"z": task.z}
            if task.frames is not None:
                along = next(iter(task.axes))
                at[along] = task.frames[0] // array.shard[variable.dims.index(along)]
            for number, (low, high) in enumerate(bands(values.shape[y], rows) if cut else [(0, 1)]):
                part = values[(slice(None),) * y + (slice(low, high),)] if cut else values
                place = tuple(first + number if d == cut else at.get(d, 0) for d in variable.dims)
                writers.append(stage_shard(array, place, part[None]))
        placed = place_shards(writers, may_commit)
    return {os.path.relpath(path, task.store): what for path, what in placed.items()}


def summary_path(store: str, group: str, step: str, block: str) -> Path:
    """Path of the summary of one block of a gather."""
    return ledger_path(store, group, step).with_name(f"{step}.{block.replace(':', '_')}.npz")
