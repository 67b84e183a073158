"""Figures of size: memory of workers, and the cost of planning and scheduling a scan of hundreds of layers."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import dask

from bench import ours
from bench.data import FULL, Data
from bench.timing import Row, at_most, best, seconds
from dfxm_dask.run.clusters.cluster import open_cluster
from dfxm_dask.run.task_queue import windowed

MANY = 301
MEMORY_LIMIT_MB = 512


def high_water() -> float:
    """Largest resident memory of this process so far, in MB."""
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("VmHWM")) * 1024 / 1e6


def peak(work: Callable[[Any], Any]) -> float:
    """Largest memory of any worker of a fresh cluster of two that did some work, in MB."""
    with open_cluster(workers=2) as client:
        work(client)
        return max(client.run(high_water).values())


def figure_memory(data: Data) -> list[Row]:
    """Peak memory of a worker during ingest and reduction, for stacks of several sizes."""
    found: dict[str, list[float]] = {"ingest": [], "reduce": []}
    for layers in data.memory_layers:
        master, store = data.master(layers), data.fresh("memory.zarr")
        found["ingest"].append(peak(lambda c, m=master, s=store, n=layers: ours.ingest(m, s, ours.scans(n), c)))
        found["reduce"].append(peak(lambda c, s=store: ours.reduce("maps", s, c)))
        data.fresh("memory.zarr")
    with open_cluster(workers=2) as client:
        idle = max(client.run(high_water).values())
    counts = ", ".join(map(str, data.memory_layers))
    rows = []
    for name, peaks in found.items():
        listed = ", ".join(f"{p:.0f}" for p in peaks)
        detail = f"VmHWM {listed} MB at {counts} layers; a worker that did nothing {idle:.0f} MB"
        rows.append(at_most(f"peak memory per worker, {name}", max(peaks), MEMORY_LIMIT_MB, "MB", detail))
    return rows


def echo(task: Any) -> Any:
    """A unit that does nothing and returns its argument."""
    return task


def idle_units(client: Any, count: int) -> None:
    """Send a number of units of about a kilobyte through the scheduler, as a run does."""
    units = ({"block": f"z{k:04d}", "payload": "x" * 1000} for k in range(count))
    for _ in windowed(client, echo, units):
        pass


def figure_graph(data: Data) -> list[Row]:
    """Planning and scheduling of 301 layers, whose metadata are all there is of them."""
    many, store = ours.empty_store(data.fresh("many.zarr"), MANY, FULL), ours.store(data, data.layers)
    tasks = ours.planned_tasks(ours.MOMENTS, many)
    builds = {"plan": lambda: ours.planned_tasks(ours.MOMENTS, many), "lazy": lambda: ours.lazy_moments(many)}
    t = best(builds, data.repeats)
    graph = ours.lazy_moments(many)
    begun = time.perf_counter()
    optimised = len(set(dask.optimize(graph)[0].__dask_graph__()))
    spent = time.perf_counter() - begun
    with open_cluster(workers=2) as client:
        idle_units(client, 50)
        idle = min(seconds(lambda: idle_units(client, tasks)) for _ in range(data.repeats))
        runs = {"run": lambda: ours.reduce(ours.MOMENTS, store, client)}
        per_layer = best(runs, data.repeats, before=lambda: ours.clear(store))["run"] / data.layers
    wall = MANY * per_layer * FULL[0] * FULL[1] / data.pixels
    lazy = (
        f"as a lazy Dataset {t['lazy']:.2f} s, {len(set(graph.__dask_graph__()))} keys, {optimised} after "
        f"dask.optimize ({spent:.1f} s)"
    )
    return [
        at_most("graph of 301 layers, built", max(t["plan"], t["lazy"]), 1, "s", f"plan {t['plan']:.2f} s; {lazy}"),
        at_most("graph of 301 layers, tasks of a run", tasks, 1000, "tasks", "units of a run"),
        at_most(
            "scheduling, part of the wall time",
            100 * idle / wall,
            3,
            "%",
            f"{tasks} units that do nothing {idle:.2f} s ({1e3 * idle / tasks:.1f} ms each); 301 layers take "
            f"{wall:.0f} s at {per_layer:.2f} s a layer of {data.shape[0]} x {data.shape[1]}",
        ),
    ]
