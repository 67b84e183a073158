"""Figures of the recipe ``weak_beam``: the whole recipe and each kernel against decoding the same layer, and memory.

The layer is a simulated one, enlarged by reflection, with noise of its own: windows and medians see real images.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from bench import ours
from bench.data import FRAMES, Data, with_noise
from bench.limits import peak
from bench.storing import drain
from bench.timing import Row, at_most, best, pinned
from dfxm_dask.catalogue import find
from dfxm_dask.engine.layer import run_kernel, scan_last
from dfxm_dask.engine.shapes import expanded_writes
from dfxm_dask.run.clusters.cluster import open_cluster
from dfxm_dask.run.recipe import Step
from dfxm_dask.sources.bliss.names import find_config
from dfxm_dask.store.integrity import nodes
from dfxm_dask.store.shards import Buffers, write_shard

PRESET, SMALL = "al002", (384, 384)
NOISE = 2.2  # count, of a voxel of the layer without light
LAYERS = (1, 6)
PRIOR = "weak_beam"
MOST_DECODES, MOST_SECONDS = 4, 4


def network_recipe() -> str:
    """The packaged recipe with the shipped network in place of the rocking curve."""
    text = find_config("recipes", PRIOR).read_text()
    return text.replace("{method: prior}", "{method: lcnn}")


def signal() -> tuple[np.ndarray, np.ndarray, tuple[float, float]]:
    """Frames (phi, y, x) of one simulated layer above its offset, positions along phi, and pixel along y and x."""
    from dfxm_dask.phantoms.phantom import coordinates
    from dfxm_dask.phantoms.presets import build
    from dfxm_dask.phantoms.render import render

    phantom = build(PRESET, layers=1, shape=SMALL, seed=3)[0]
    frames = np.stack([frame for frame, _ in render(phantom, 0)]).astype(np.float32)
    y, x = coordinates(phantom)
    phi = np.asarray(phantom.axes[0].positions)
    return np.maximum(frames - 100, 0), phi, (float(y[1] - y[0]), float(x[1] - x[0]))


def store(data: Data, layers: int) -> Path:
    """The store with a given number of layers, created on first use."""
    path = data.work / f"beams_{layers}.zarr"
    if (path / "complete").exists():
        return path
    frames, phi, pixel = signal()
    if len(phi) != FRAMES:
        raise RuntimeError(f"preset {PRESET} has {len(phi)} frames, the others figures have {FRAMES}")
    ours.empty_store(data.fresh(path.name), layers, data.shape)
    for name, n, length in zip(("y", "x"), data.shape, pixel, strict=True):
        nodes.write_small(path, "", name, (name,), np.arange(n) * length, {"units": "um"})
    nodes.write_small(path, "", "phi", ("phi",), phi, {"units": "degree", "scan_axis": 0})
    noise = {"units": "count"}
    nodes.write_small(path, "raw", "noise", ("z",), np.full(layers, NOISE, np.float32), noise)
    nodes.consolidate(path)
    array, rng = ours.counts(path), np.random.default_rng(0)
    around = [(0, n - m) for n, m in zip(data.shape, SMALL, strict=True)]
    for z in range(layers):
        made = np.stack([with_noise(np.pad(frame, around, "symmetric"), rng) for frame in frames])
        rows = array.shard[-2]
        for band in range(-(-data.shape[0] // rows)):
            write_shard(array, (z, 0, band, 0), made[None, :, band * rows : (band + 1) * rows])
    (path / "complete").touch()
    return path


def processor(task: Callable[[], Any]) -> float:
    """Processor time of one call, which excludes other load on the machine, unlike wall time."""
    begun = time.process_time()
    task()
    return time.process_time() - begun


def kernel_times(path: Path, repeats: int) -> dict[str, float]:
    """Processor seconds of a layer: decoding it, each kernel of the recipe, and units with writing. In a process."""
    array, buffers = ours.counts(path), Buffers.empty()
    positions = {"phi": ours.positions(path)}
    steps = list(ours.parse(PRIOR).steps)
    layer = np.empty(array.shape[1:], array.dtype)
    spent: dict[str, list[float]] = {name: [] for name in ("decode", "units", *(s.name for s in steps))}
    for _ in range(repeats + 1):  # the first one compiles
        spent["decode"].append(processor(lambda: drain(array, buffers)))
        fetch: dict[str, Any] = {**axes(path), "noise": np.float32(NOISE)}
        for step in steps:
            seconds, made = of_step(step, array, buffers, layer, fetch, positions)
            spent[step.name].append(seconds)
            fetch |= made
        ours.clear(path)
        spent["units"].append(processor(lambda: ours.reduce(PRIOR, path)))
        ours.clear(path)
    return {name: min(found[1:]) for name, found in spent.items()}


def axes(path: Path) -> dict[str, np.ndarray]:
    """Positions of the pixels."""
    opened = ours.dfxm_dask.open_scan(path)
    return {name: np.asarray(opened[name].values, float) for name in ("y", "x")}


def of_step(
    step: Step, array: Any, buffers: Buffers, layer: np.ndarray, fetch: dict[str, Any], positions: dict[str, np.ndarray]
) -> tuple[float, dict[str, np.ndarray]]:
    """Processor seconds of a step without decoding, and its result: by tiles where possible, as in a run."""
    reduction = find(step.name)
    wanted = expanded_writes(reduction, ours.AXES, step.parameters)

    def run(given: dict[str, Any]) -> tuple[float, dict[str, np.ndarray]]:
        begun = time.process_time()
        made = run_kernel(reduction, ours.AXES, given, positions, step.parameters)
        return time.process_time() - begun, made

    if "y" in reduction.over:
        return run({**fetch, "counts": scan_last(layer, ("phi", "y", "x"), ours.AXES)})
    shape = layer.shape[1:]
    result = {v.name: np.empty(shape, v.dtype) for v in wanted}
    total = 0.0
    for rows, columns, tile in ours.layer_tiles(array, 0, buffers):
        layer[:, rows, columns] = tile
        cut = {k: v[rows, columns] if np.shape(v) == shape else v for k, v in fetch.items()}
        cut |= {"y": fetch["y"][rows], "x": fetch["x"][columns]}
        seconds, made = run({**cut, "counts": scan_last(tile, ("phi", "y", "x"), ours.AXES)})
        total += seconds
        for name, values in made.items():
            result[name][rows, columns] = values
    return total, result


def figure_kernels(data: Data) -> list[Row]:
    """The recipe by the rocking curve on one core, against decoding alone; and the share of each kernel."""
    t = pinned(kernel_times, store(data, 1), data.repeats)
    decode, units = t.pop("decode"), t.pop("units")
    voxels = FRAMES * data.pixels
    each = ", ".join(f"{name} {1e3 * s:.0f} ms ({1e9 * s / voxels:.2f} ns a voxel)" for name, s in t.items())
    kernels = sum(t.values())
    rows = [
        at_most(
            "weak_beam by the prior, kernels, vs read + decode, 1 core",
            (decode + kernels) / decode,
            MOST_DECODES,
            "×",
            f"read + decode {1e3 * decode:.0f} ms, kernels {1e3 * kernels:.0f} ms a layer, processor time",
        ),
        at_most(
            "the same in units, all results written",
            units / decode,
            MOST_DECODES,
            "×",
            f"{1e3 * units:.0f} ms a layer with planning, encoding and writing",
        ),
    ]
    return [*rows, Row("share of each kernel", "", "for information", each)]


def figure_network(data: Data) -> list[Row]:
    """The recipe with the shipped network on two workers."""
    path, recipe = store(data, data.layers), network_recipe()
    with open_cluster(workers=2) as client:
        task = {"run": lambda: ours.reduce(recipe, path, client)}
        task["run"]()  # loads and compiles
        spent = best(task, data.repeats, before=lambda: ours.clear(path))["run"] / data.layers
    ours.clear(path)
    detail = f"{data.layers} layers, all results written, wall time"
    return [at_most("weak_beam with the shipped network, 2 workers", spent, MOST_SECONDS, "s a layer", detail)]


def figure_beams_memory(data: Data) -> list[Row]:
    """Peak memory of a worker for stacks of several sizes: it must not grow with the stack."""
    found = []
    for layers in LAYERS:
        path = store(data, layers)
        ours.clear(path)
        found.append(peak(lambda c, p=path: ours.reduce(PRIOR, p, c)))
        ours.clear(path)
    listed = ", ".join(f"{m:.0f}" for m in found)
    detail = f"VmHWM {listed} MB at {', '.join(map(str, LAYERS))} layers; one layer is {data.layer_bytes / 1e6:.0f} MB"
    return [Row("peak memory per worker, weak_beam", f"{max(found):.0f} MB", "for information", detail)]
