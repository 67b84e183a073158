"""Figures of reductions: kernels, whole recipes against peers, scaling, and the fit."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import dfxm_dask
from bench import ours, peers
from bench.data import FRAMES, OFFSET, Data
from bench.storing import drain, layer
from bench.timing import Row, at_least, at_most, best, pinned, process
from dfxm_dask.catalogue import find
from dfxm_dask.run.clusters.cluster import open_cluster
from dfxm_dask.store.shards import Buffers, read

PEER_LAYERS = 2
DARFIX_PATCH = (40, 40)


def time_fused(store: Path, repeats: int) -> dict[str, float]:
    """Seconds for one layer: reading it, reading it with the moments kernel, and units end to end with writing."""
    array, buffers = ours.counts(store), Buffers.empty()
    moments = ours.moments_of_tile(ours.positions(store))
    background = np.full(array.shape[-2:], OFFSET, np.float32)

    def fused() -> None:
        for rows, columns, tile in ours.layer_tiles(array, 0, buffers):
            moments(tile, background[rows, columns])

    def written() -> float:
        ours.clear(store)
        return ours.unit_seconds(ours.MOMENTS, store)

    return best({"read": lambda: drain(array, buffers), "fused": fused, "written": written}, max(repeats, 2))


def figure_fused(data: Data) -> list[Row]:
    """Reading with the fused kernel against reading alone, on one core."""
    t = pinned(time_fused, ours.store(data, 1), data.repeats)
    detail = f"read + decode {1e3 * t['read']:.0f} ms, with moments {1e3 * t['fused']:.0f} ms a layer"
    written = f"units end to end {1e3 * t['written']:.0f} ms a layer, one core; encoded and forced to disk"
    return [
        at_most("read + fused moments vs read + decode, 1 core", t["fused"] / t["read"], 2.2, "×", detail),
        Row("the same with 8 maps written", f"{t['written'] / t['read']:.3g} ×", "for information", written),
    ]


def time_errors(store: Path, repeats: int) -> dict[str, float]:
    """Processor seconds of the kernels on one layer in memory, and of runs with and without errors."""
    counts, scan = np.moveaxis(layer(store, 0), 0, -1), {"phi": ours.positions(store)}
    noise = np.float32(dfxm_dask.open_scan(store, chunks=None)["raw"]["noise"].values[0])
    level = find("background").kernel(counts, scan, noise=noise)["background_map"]
    given: dict[str, Any] = {"background_map": level, "noise": noise, "noise_cut": 5.0}
    moments, errors = find("moments").kernel, find("moment_errors").kernel
    maps = moments(counts, scan, **given)
    known = {name: maps[name] for name in ("total", "peak", "flags")}
    known |= {name: {"phi": maps[f"{name}_phi"]} for name in ("com", "std")}

    def spent(task: Callable[[], Any]) -> Callable[[], float]:
        def timed() -> float:
            begun = time.process_time()
            task()
            return time.process_time() - begun

        return timed

    def run(recipe: str) -> Callable[[], None]:
        def written() -> None:
            ours.clear(store)
            ours.unit_seconds(recipe, store)

        return written

    without = "\n".join(line for line in ours.WITH_ERRORS.splitlines() if "moment_errors" not in line) + "\n"
    tasks = {
        "moments": spent(lambda: moments(counts, scan, **given)),
        "errors": spent(lambda: errors(counts, scan, **given, **known)),
        "run": spent(run(without)),
        "run with errors": spent(run(ours.WITH_ERRORS)),
    }
    for task in tasks.values():
        task()
    return best(tasks, max(repeats, 3))


def figure_errors(data: Data) -> list[Row]:
    """Moments with all errors against moments alone: kernels, and whole runs that write their maps."""
    t = pinned(time_errors, ours.store(data, 1), data.repeats)
    kernels = f"processor time a layer: moments {1e3 * t['moments']:.0f} ms, errors {1e3 * t['errors']:.0f} ms"
    runs = f"background, moments {1e3 * t['run']:.0f} ms; with errors {1e3 * t['run with errors']:.0f} ms"
    return [
        at_most("kernels of moments and errors vs moments", 1 + t["errors"] / t["moments"], 1.3, "×", kernels),
        at_most("run with errors vs without", t["run with errors"] / t["run"], 1.3, "×", runs),
    ]


def run_ours(data: Data, client: Any, layers: int | None = None, recipe: str = ours.MOMENTS) -> Callable[[], None]:
    """A run of a recipe on a cluster, after which its results stay; clear before the next."""
    store = ours.store(data, layers or data.layers)
    return lambda: ours.reduce(recipe, store, client)


def best_layout_store(data: Data, layers: int) -> Path:
    """Layers in the layout that suits peers best: unsharded chunks of whole curves, one Dask block each."""
    path = data.work / f"unsharded_{layers}.zarr"
    if not path.exists():
        store = ours.store(data, data.layers)
        pixels = [layer(store, z) for z in range(layers)]
        peers.write_layout(path, pixels, ours.positions(store), (1, FRAMES, *peers.BLOCK), None)
    return path


def com_difference(data: Data, target: Path) -> float:
    """Largest difference in centre of mass (degree) between our maps and a peer's, where there is signal."""
    import zarr

    array = dfxm_dask.open_scan(ours.store(data, data.layers), chunks=None)["rocking"]
    mine, total = (array[name][0].values for name in ("com_phi", "total"))
    theirs = np.asarray(zarr.open_array(str(target / "com_phi"), mode="r")[0])
    return float(np.abs(mine - theirs)[total > 100].max())


def figure_maps(data: Data) -> list[Row]:
    """From the store to written maps on two workers, against xarray on two stores and a hand-written block function."""
    store, few = ours.store(data, data.layers), min(PEER_LAYERS, data.layers)
    layout, phi = best_layout_store(data, few), ours.positions(store)
    own_blocks = {"z": 1, "phi": -1, "y": 256, "x": -1}
    best_blocks = {"z": 1, "phi": -1, "y": peers.BLOCK[0], "x": peers.BLOCK[1]}
    targets = {name: data.work / f"{name}.zarr" for name in ("expression_own", "expression", "block_function")}
    with open_cluster(workers=2) as client:
        tasks = {
            "ours": run_ours(data, client),
            "xarray, same store": lambda: peers.write(
                peers.expression(peers.open_counts(store, "raw", phi, own_blocks)[:1]), targets["expression_own"]
            ),
            "xarray, own layout": lambda: peers.write(
                peers.expression(peers.open_counts(layout, None, phi, best_blocks)), targets["expression"]
            ),
            "block function, own layout": lambda: peers.write(
                peers.block_maps(peers.open_counts(layout, None, phi, best_blocks)), targets["block_function"]
            ),
        }
        spent = best(tasks, data.repeats, before=lambda: ours.clear(store))
        ours.reduce(ours.MOMENTS, store, client)
    t = dict(zip(spent, (s / n for s, n in zip(spent.values(), (data.layers, 1, few, few), strict=True)), strict=True))
    off = max(com_difference(data, target) for target in targets.values())
    detail = ", ".join(f"{name} {s:.2f} s" for name, s in t.items()) + " a layer"
    mine = t["ours"]
    return [
        at_least(
            "moments written, 2 workers, vs xarray expression",
            t["xarray, own layout"] / mine,
            8,
            "× faster",
            f"{detail}; centres of mass differ by at most {off:.1g} degree; "
            f"on the same store {t['xarray, same store'] / mine:.3g} ×",
        ),
        at_least(
            "moments written, 2 workers, vs hand-written map_blocks",
            t["block function, own layout"] / mine,
            4,
            "× faster",
            f"unsharded {(1, FRAMES, *peers.BLOCK)}, every block read once, sums by one matrix product",
        ),
    ]


def figure_darling(data: Data) -> list[Row]:
    """From the store to written maps, against darling loading the file and computing two maps in memory."""
    store, master = ours.store(data, data.layers), data.master(data.layers)
    with open_cluster(workers=2) as client, process(2, threads=2) as call:
        tasks = {"ours": run_ours(data, client), "darling": lambda: call(peers.darling_moments, master)}
        tasks["darling"]()  # its compiler takes a minute
        t = best(tasks, data.repeats, before=lambda: ours.clear(store))
    mine = t["ours"] / data.layers
    detail = (
        f"ours {mine:.2f} s a layer (8 maps written), darling {t['darling']:.2f} s (2 maps in memory), 2 cores each"
    )
    return [at_least("store to moments written vs darling load + moments", t["darling"] / mine, 2, "× faster", detail)]


def figure_workers(data: Data) -> list[Row]:
    """One worker against two, in turns on two clusters that stay open."""
    store = ours.store(data, data.layers)
    with open_cluster(workers=1) as one, open_cluster(workers=2) as two:
        tasks = {"one": run_ours(data, one), "two": run_ours(data, two)}
        t = best(tasks, data.repeats, before=lambda: ours.clear(store))
    detail = f"{data.layers} layers: {t['one']:.2f} s, {t['two']:.2f} s"
    return [at_least("1 to 2 workers under Dask", t["one"] / t["two"], 1.6, "×", detail)]


def figure_fit(data: Data) -> list[Row]:
    """Gaussian fits per second on two workers, and whether any fit outside the scan is called good."""
    layers = min(PEER_LAYERS, data.layers)  # their units divide evenly over the workers
    store = ours.store(data, layers)
    with open_cluster(workers=2) as client:
        task = {"fit": run_ours(data, client, layers, ours.FIT)}
        spent = best(task, data.repeats, before=lambda: ours.clear(store))["fit"]
        maps = dfxm_dask.open_scan(store, chunks=None)["rocking"]
        phi = maps["phi"].values
        ok, centre = maps["fit_ok"].values, maps["fit_centre_phi"].values
    rate = layers * data.pixels / spent
    with np.errstate(invalid="ignore"):
        outside = int((ok & ~((centre >= phi.min()) & (centre <= phi.max()))).sum())
    detail = f"{layers} layers in {spent:.2f} s, written; {100 * ok.mean():.1f} % ok"
    detail = f"{detail}; {darfix_rate(data, store, rate)}"
    return [
        at_least("Gaussian fit, 2 workers", rate, 200_000, "px/s", detail),
        at_most("fits called ok outside the scan", outside, 0, "px", f"of {ok.size} px"),
    ]


def darfix_rate(data: Data, store: Path, rate: float) -> str:
    """Fits per second of darfix on the brightest patch, as a sentence; or why this could not be measured."""
    if data.darfix_python is None:
        return "darfix not measured here (give --darfix-python)"
    height, width = DARFIX_PATCH
    array = ours.counts(store)
    frame = read(array, (slice(0, 1), slice(FRAMES // 2, FRAMES // 2 + 1), *(slice(0, n) for n in array.shape[-2:])))
    y, x = np.unravel_index(frame[0, 0, :-height, :-width].argmax(), (data.shape[0] - height, data.shape[1] - width))
    patch = layer(store, 0)[:, y : y + height, x : x + width]
    try:
        found = peers.darfix_fit(data.darfix_python, patch, ours.positions(store), data.work, data.repeats)
    except Exception as error:
        return f"darfix not measured: {error}"
    theirs = height * width / found["seconds"]
    return f"darfix {found['version']} {theirs:.0f} px/s on {height} x {width} lit px ({rate / theirs:.0f} × slower)"
