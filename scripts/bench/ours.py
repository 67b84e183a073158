"""Calls of the package by the figures: recipes as text, and functions that create, reduce and clear a store."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

import dfxm_dask
from bench.data import FRAMES, OFFSET, PIXEL_UM, Data
from dfxm_dask.catalogue import find
from dfxm_dask.engine.layer import scan_last
from dfxm_dask.run.events import BlockDone
from dfxm_dask.run.execute import plan, run_ingest, run_recipe
from dfxm_dask.run.recipe import Recipe, parse_recipe, read_recipe
from dfxm_dask.store.chunks import bands, raw_layout, unit_rows
from dfxm_dask.store.create import raw_variables
from dfxm_dask.store.integrity import ledger, nodes
from dfxm_dask.store.integrity.opened import open_store
from dfxm_dask.store.shards import Buffers, ShardedArray, open_array, tiles

MOMENTS = f"""
steps:
  - moments: {{background: {OFFSET}}}
"""
WITH_ERRORS = """
steps:
  - background: {method: quantile, quantile: 0.1}
  - moments: {noise_cut: 5}
  - moment_errors: {noise_cut: 5}
"""
FIT = """
steps:
  - fit_curves: {model: gaussian, noise_cut: 5}
"""
MAPS = ("total", "peak", "peak_phi", "com_phi", "std_phi", "skewness_phi", "kurtosis_phi")
AXES = {"phi": "degree"}


def store(data: Data, layers: int) -> Path:
    """The store with a given number of layers; existing layers are not ingested again."""
    path = data.work / f"store_{layers}.zarr"
    ingest(data.master(layers), path, scans(layers))
    return path


def scans(layers: int) -> str:
    """Entries of the first layers."""
    return ",".join(f"{k + 1}.1" for k in range(layers))


def ingest(master: Path, target: Path, entries: str, client: Any = None) -> None:
    """Ingest, in this process or on a cluster."""
    run_ingest(master, target, client=client, scan=entries, pixel_size=(PIXEL_UM, PIXEL_UM))


def reduce(recipe: str, target: Path, client: Any = None) -> None:
    """Run a recipe (its text, or the name of a packaged one), in this process or on a cluster."""
    run_recipe(parse(recipe), target, client=client)


def unit_seconds(recipe: str, target: Path) -> float:
    """Run a recipe in this process; returns the seconds spent inside units, without planning and ledger."""
    spent: list[float] = []

    def listen(event: Any) -> None:
        if isinstance(event, BlockDone):
            spent.append(event.seconds)

    run_recipe(parse(recipe), target, publish=(listen,))
    return sum(spent)


def clear(target: Path) -> None:
    """Remove all results from a store, so that the next run recomputes them."""
    for group in open_store(target).groups():
        if group != "raw":
            shutil.rmtree(target / group)
    nodes.consolidate(target)


def counts(target: Path) -> ShardedArray:
    """The raw counts of a store."""
    array = open_array(target / "raw" / "counts")
    if array is None:
        raise RuntimeError(f"{target} is not in the layout of the package")
    return array


def positions(target: Path) -> np.ndarray:
    """Scan positions."""
    return np.asarray(dfxm_dask.open_scan(target)["phi"].values, float)


def layer_tiles(array: ShardedArray, z: int, buffers: Buffers) -> Iterator[tuple[slice, slice, np.ndarray]]:
    """All tiles of a layer, band by band as units take them."""
    rows = unit_rows(raw_layout(array.shape, array.dtype.itemsize), array.dtype.itemsize)
    for y0, y1 in bands(array.shape[-2], rows):
        yield from tiles(array, z, y0, y1, buffers)


def moments_of_tile(phi: np.ndarray) -> Callable[[np.ndarray, np.ndarray], Any]:
    """The moments kernel as the recipe calls it: a function of one tile (scan, y, x) and its background map."""
    parameters = next(dict(s.parameters) for s in parse(MOMENTS).steps if s.name == "moments")
    parameters.pop("background")  # a background map is given instead, as a recipe with a background step does
    kernel, background = find("moments").kernel, find("background").writes[0].name

    def run(tile: np.ndarray, level: np.ndarray) -> Any:
        return kernel(scan_last(tile, ("phi", "y", "x"), AXES), {"phi": phi}, **{background: level}, **parameters)

    return run


def parse(recipe: str) -> Recipe:
    """A recipe from its text, or the packaged one of that name."""
    return parse_recipe(recipe, Path("benchmark.yaml")) if "\n" in recipe else read_recipe(recipe)


def planned_tasks(recipe: str, target: Path) -> int:
    """Units that a recipe takes."""
    return plan(parse(recipe), target).tasks


def lazy_moments(target: Path) -> Any:
    """The lazy Dataset of the steps of the recipe, chained by hand."""
    dataset = dfxm_dask.open_scan(target)["raw"].to_dataset(inherit=True)
    for step in parse(MOMENTS).steps:
        found = find(step.name)(dataset, **step.parameters)
        dataset = dataset.assign(found.data_vars)
    return found


def empty_store(target: Path, layers: int, shape: tuple[int, int]) -> Path:
    """A store that has all metadata of an ingest and no pixels."""
    layout = raw_layout((layers, FRAMES, *shape), 2)
    rows = unit_rows(layout, 2)
    nodes.create_group(target, "", nodes.root_attrs(rows, "metadata only"))
    nodes.create_group(target, "raw", {})
    nodes.write_small(target, "", "z", ("z",), np.arange(float(layers)), {"units": "um"})
    for name, n in zip(("y", "x"), shape, strict=True):
        nodes.write_small(target, "", name, (name,), np.arange(n) * PIXEL_UM, {"units": "um"})
    attrs = {"units": "degree", "scan_axis": 0}
    nodes.write_small(target, "", "phi", ("phi",), np.linspace(0, 0.15, FRAMES), attrs)
    (variable,) = (v for v in raw_variables(AXES, np.dtype("u2")) if v.name == "counts")
    nodes.create_array(target, "raw", variable, layout, {})
    blocks = [f"z{z:04d}" for z in range(layers)]
    ledger.begin(target, "raw", "ingest", {"writes": ["counts"]}, blocks)
    for block in blocks:
        ledger.commit(target, "raw", "ingest", {"block": block, "read": [], "files": {}, "seconds": 0.0})
    ledger.complete(target, "raw", "ingest", {"reduction": "ingest", "absent": []})
    nodes.consolidate(target)
    return target
