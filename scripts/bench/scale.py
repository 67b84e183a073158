"""Figures of simulated scale: plans of stores that have all files and no pixels, runs whose units only make files, and
tasks that do nothing.

A layer is 31 x 2160 x 2560 uint16 (343 MB): 10,000 of them are 3.4 TB, 2.9 million are 1 PB. A store has as many files
as an ingest writes, of the same lengths and in the same folders, but they are holes. Nothing is forced to disk.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np

from bench import ours
from bench.data import FRAMES, FULL
from bench.limits import high_water, idle_units
from bench.timing import Row, at_most, pinned
from dfxm_dask.catalogue import find, load_reductions
from dfxm_dask.engine.shapes import expanded_writes
from dfxm_dask.run.clusters.cluster import open_cluster
from dfxm_dask.run.execute import plan, run_recipe
from dfxm_dask.run.unit import UnitTask
from dfxm_dask.store.chunks import raw_layout, unit_rows
from dfxm_dask.store.create import raw_variables, statistics_layout
from dfxm_dask.store.integrity import ledger, nodes
from dfxm_dask.store.shards import open_array

LAYERS, FEW_LAYERS = (1_000, 10_000), (20, 100)
TASKS, FEW_TASKS = (10_000, 100_000), (200, 1_000)
RECIPES = ("maps", "components")
DRIVEN = "maps"
PACKED = 2.5
"""Bytes of counts for one on disk."""
MOST_SECONDS, MOST_MB, MOST_TASK_MS, MOST_GROWTH_MB = 2, 500, 2.7, 50


@dataclass(frozen=True)
class Scale:
    """The folder for stores, and whether a look is enough."""

    work: Path
    quick: bool

    @property
    def layers(self) -> tuple[int, ...]:
        return FEW_LAYERS if self.quick else LAYERS

    def store(self, layers: int) -> Path:
        """A store with a given number of layers, created on first use."""
        path = self.work / f"sparse_{layers}.zarr"
        return path if (path / "zarr.json").exists() else sparse_store(path, layers)


def sparse_file(store: Path, name: str, size: int) -> list[Any]:
    """A file of holes, with the folders above it; its bytes and a digest, as a ledger names them."""
    path = store / name
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "wb") as file:
        file.truncate(size)
    return [size, ledger.digest(name)]


def sparse_store(target: Path, layers: int, shape: tuple[int, int] = FULL) -> Path:
    """A store with every file of an ingest, of the right length, and holes in place of pixels."""
    layout = raw_layout((layers, FRAMES, *shape), 2)
    rows, edge = unit_rows(layout, 2), layout.chunk[-1]
    nodes.create_group(target, "", {})
    for name, n, step in (("z", layers, 1.0), ("y", shape[0], 0.65), ("x", shape[1], 0.65)):
        nodes.write_small(target, "", name, (name,), np.arange(n) * step, {"units": "um"})
    attrs = {"units": "degree", "scan_axis": 0}
    nodes.write_small(target, "", "phi", ("phi",), np.linspace(0, 0.15, FRAMES), attrs)
    nodes.create_group(target, "raw", {})
    arrays = []
    for variable in raw_variables(ours.AXES, np.dtype("u2")):
        own = layout if variable.name == "counts" else statistics_layout(variable, layout, rows, edge)
        nodes.create_array(target, "raw", variable, own, {})
        arrays.append(open_array(target / "raw" / variable.name))
    blocks = [f"z{z:04d}" for z in range(layers)]
    with patch("os.fsync"):
        ledger.begin(target, "raw", "ingest", {"writes": [Path(a.path).name for a in arrays]}, blocks)
        for z, block in enumerate(blocks):
            files = {}
            for array in arrays:
                name = os.path.relpath(array.shard_path((z, *(0,) * (array.ndim - 1))), target)
                size = int(np.prod(array.shard) * array.dtype.itemsize / PACKED)
                files[name] = sparse_file(target, name, size)
            ledger.commit(target, "raw", "ingest", {"block": block, "read": [], "files": files, "seconds": 1.0})
        ledger.complete(target, "raw", "ingest", {"reduction": "ingest", "absent": []})
    nodes.create_group(target, "", nodes.root_attrs(rows, "sparse"), anew=True)
    nodes.consolidate(target)
    return target


def plan_cost(target: Path) -> dict[str, dict[str, float]]:
    """Seconds, tasks and memory of planning each recipe in this process."""
    load_reductions()
    found = {}
    for recipe in RECIPES:
        begun = time.perf_counter()
        made = plan(recipe, target)
        spent = time.perf_counter() - begun
        blocks = sum(len(p.steps[0].blocks) for p in made.passes)
        found[recipe] = {"seconds": spent, "tasks": made.tasks, "blocks": blocks, "memory": high_water()}
    return found


def figure_plan(scale: Scale) -> list[Row]:
    """Planning stores of many layers, in a fresh process each."""
    found = {layers: pinned(plan_cost, scale.store(layers)) for layers in scale.layers}
    rows = []
    for recipe in RECIPES:
        said = "; ".join(
            f"{n} layers {f[recipe]['seconds']:.2f} s, {f[recipe]['tasks']} tasks" for n, f in found.items()
        )
        last = found[max(found)][recipe]
        rows.append(at_most(f"plan of {max(found)} layers, {recipe}", last["seconds"], MOST_SECONDS, "s", said))
    memory = ", ".join(f"{max(f[r]['memory'] for r in RECIPES):.0f} MB at {n} layers" for n, f in found.items())
    most = max(f[r]["memory"] for f in found.values() for r in RECIPES)
    rows.append(at_most("memory of who plans", most, MOST_MB, "MB", memory))
    share = max(f[r]["tasks"] / f[r]["blocks"] for f in found.values() for r in RECIPES)
    rows.append(at_most("tasks for a block of a pass", share, 1, "tasks", "by the plan"))
    return rows


def make_files(task: UnitTask) -> ledger.Record:
    """A unit that computes nothing and leaves the files that it would."""
    steps: dict[str, Any] = {}
    for step in task.steps:
        files = {}
        for variable in expanded_writes(find(step.name), task.axes, step.parameters) if step.store_results else ():
            if variable.stored:
                name = f"{step.group}/{variable.name}/c/{task.z}/{task.y0 // task.rows}/0"
                files[name] = sparse_file(Path(task.store), name, 1_000_000)
        if step.store_results:
            steps[step.name] = {"files": files, "read": sorted(step.sources)}
    return {"block": task.block, "steps": steps, "bytes_read": 0, "bytes_written": 0, "rss": 0, "seconds": 1.0}


def drive_cost(target: Path) -> dict[str, float]:
    """Cost of a run for its driver: processor time without that of the units, and memory."""
    load_reductions()
    plan(DRIVEN, target)
    ours.clear(target)
    spent = 0.0

    def unit(task: UnitTask) -> ledger.Record:
        nonlocal spent
        begun = time.process_time()
        record = make_files(task)
        spent += time.process_time() - begun
        return record

    before, begun = high_water(), time.process_time()
    with patch("dfxm_dask.run.passes.run_unit", unit), patch("os.fsync"), patch("dfxm_dask.run.execute._check_space"):
        report = run_recipe(DRIVEN, target)
    whole = time.process_time() - begun - spent
    begun = time.process_time()
    with patch("dfxm_dask.run.execute._check_space"):
        run_recipe(DRIVEN, target)
    if not report.complete:
        raise RuntimeError(f"{target} is not complete")
    return {
        "seconds": whole,
        "again": time.process_time() - begun,
        "done": report.blocks_done,
        "before": before,
        "after": high_water(),
    }


def figure_driver(scale: Scale) -> list[Row]:
    """Ledger, completion and bookkeeping of whole runs whose units only make files."""
    found = {layers: pinned(drive_cost, scale.store(layers)) for layers in scale.layers}
    said = "; ".join(
        f"{n} layers {f['seconds']:.1f} s of processor ({1e3 * f['seconds'] / f['done']:.2f} ms for a block of a step)"
        f", {f['before']:.0f} → {f['after']:.0f} MB; run again when done {f['again']:.1f} s"
        for n, f in found.items()
    )
    last = found[max(found)]
    return [
        at_most(f"memory of the driver, {DRIVEN}, {max(found)} layers", last["after"], MOST_MB, "MB", said),
        Row(
            "seconds of the driver for a layer", f"{1e3 * last['seconds'] / max(found):.3g} ms", "for information", said
        ),
    ]


def figure_tasks(scale: Scale) -> list[Row]:
    """Tasks that do nothing, through a scheduler on this machine, in the window that runs use."""
    said, sizes = [], []
    with open_cluster(workers=2) as client:
        idle_units(client, 100)
        for count in FEW_TASKS if scale.quick else TASKS:
            begun, used = time.perf_counter(), time.process_time()
            idle_units(client, count)
            wall, processor = time.perf_counter() - begun, time.process_time() - used
            sizes.append(high_water())
            said.append(
                f"{count}: {1e3 * wall / count:.2f} ms ({1e3 * processor / count:.2f} of processor), {sizes[-1]:.0f} MB"
            )
    detail = "; ".join(said)
    return [
        at_most("wall time of a task that does nothing", 1e3 * wall / count, MOST_TASK_MS, "ms", detail),
        at_most(
            f"memory that {count} tasks leave in scheduler and client",
            sizes[-1] - sizes[0],
            MOST_GROWTH_MB,
            "MB",
            detail,
        ),
    ]
