"""Figures of components: fit and maps from the store and back, against darfix, decoding, and stacks of more layers."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import numpy as np

import dfxm_dask
from bench import ours
from bench.data import FRAMES, OFFSET, Data
from bench.limits import peak
from bench.storing import drain, layer
from bench.timing import Row, at_least, at_most, best, pinned, seconds
from dfxm_dask.catalogue import find
from dfxm_dask.components.curves import scaling_of
from dfxm_dask.components.region_curves import orthonormal
from dfxm_dask.engine.layer import scan_last
from dfxm_dask.run.clusters.cluster import open_cluster
from dfxm_dask.store.shards import Buffers

COMPONENTS = 3
MOST_MEMORY_MB = 1024 * 1.048576
PCA_FASTER, NMF_FASTER, MOST_DECODES, MOST_GROWTH = 30, 5, 3.5, 1.1

DARFIX = """
import json, logging, resource, sys, time
import numpy as np
from importlib.metadata import version
from darfix._decomposition import decompose
logging.disable(logging.CRITICAL)
if __name__ == "__main__":
    name, components = sys.argv[1], int(sys.argv[2])
    frames = np.load("frames.npy")
    given = frames.copy() if name == "nmf" else frames
    start = time.perf_counter()
    images, curves = getattr(decompose, name)(given, components)
    spent = time.perf_counter() - start
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6
    total = left = 0.0
    for k in range(0, frames.shape[1], 100_000):
        part = frames[:, k : k + 100_000].astype(float)
        total += (part**2).sum()
        left += ((part - curves.astype(float) @ images[:, k : k + 100_000].astype(float)) ** 2).sum()
    print(json.dumps({"seconds": spent, "memory": memory, "left": left / total, "version": version("darfix")}))
"""
"""The calls of the blind separation of darfix 7, on frames in memory; the time excludes reading."""


def recipe(method: str) -> str:
    """Fit and maps of a method, with the options of the benchmark."""
    return f"steps:\n  - {method}: {{components: {COMPONENTS}, background: {OFFSET}}}\n  - project_{method}: {{}}\n"


def darfix(data: Data, name: str) -> dict[str, Any] | str:
    """Seconds, memory and residual of darfix on one layer, in an environment of its own; or why not."""
    if data.darfix_python is None:
        return "darfix not measured here (give --darfix-python)"
    frames = layer(ours.store(data, 1), 0).reshape(FRAMES, -1).astype(np.float32) - np.float32(OFFSET)
    np.save(data.work / "frames.npy", frames)
    (data.work / "darfix_components.py").write_text(DARFIX)
    command = [data.darfix_python, "darfix_components.py", name, str(COMPONENTS)]
    done = subprocess.run(command, cwd=data.work, capture_output=True, text=True, timeout=3600)
    (data.work / "frames.npy").unlink()
    if done.returncode:
        return f"darfix not measured: {done.stderr.strip().splitlines()[-1]}"
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def run_time(data: Data, method: str) -> float:
    """Seconds for one layer on two workers, from the store to the written maps."""
    path = ours.store(data, 1)
    with open_cluster(workers=2) as client:
        task = {"run": lambda: ours.reduce(recipe(method), path, client)}
        ours.clear(path)
        task["run"]()  # loads and compiles
        return best(task, data.repeats, before=lambda: ours.clear(path))["run"]


def left_by(path: Path, method: str) -> float:
    """Share of the sum of squares above background that the written maps leave."""
    residual = np.asarray(dfxm_dask.open_scan(path, chunks=None)["components"][f"{method}_residual"][0], float)
    total = sum(((frame.astype(float) - OFFSET) ** 2).sum() for frame in layer(path, 0))
    return float((residual**2).sum()) * FRAMES / total


def against_darfix(data: Data, method: str, faster: float) -> tuple[Row, dict[str, Any] | None, float]:
    """The row of times, the residual of darfix, and that of ours as a share of squares."""
    spent, theirs = run_time(data, method), darfix(data, method)
    left = left_by(ours.store(data, 1), method)
    name = f"{method} ({COMPONENTS}) with maps written, 2 workers, vs darfix"
    detail = f"ours {spent:.2f} s, leaves {100 * left:.4f} % of squares"
    if isinstance(theirs, str):
        return Row(name, f"{spent:.3g} s", f"≥ {faster} × faster", f"{detail}; {theirs}"), None, left
    detail += (
        f"; darfix {theirs['version']} {theirs['seconds']:.1f} s in memory without reading, "
        f"{theirs['memory']:.0f} MB" + (f", leaves {100 * theirs['left']:.4f} %" if method == "nmf" else " (centred)")
    )
    return at_least(name, theirs["seconds"] / spent, faster, "× faster", detail), theirs, left


def figure_pca(data: Data) -> list[Row]:
    """Principal components of a layer, and the memory of a worker that makes them."""
    path = ours.store(data, 1)
    row, _, _ = against_darfix(data, "pca", PCA_FASTER)
    ours.clear(path)
    memory = peak(lambda client: ours.reduce(recipe("pca"), path, client))
    detail = f"VmHWM of a worker; one layer is {data.layer_bytes / 1e6:.0f} MB"
    return [row, at_most("peak memory per worker, pca", memory, MOST_MEMORY_MB, "MB", detail)]


def figure_nmf(data: Data) -> list[Row]:
    """Non-negative factors of a layer, and their residual."""
    row, theirs, left = against_darfix(data, "nmf", NMF_FASTER)
    if theirs is None:
        return [row]
    detail = "share of squares above background that is left, ours over darfix; its counts below background are clipped"
    return [row, at_most("residual of nmf vs darfix", left / theirs["left"], 1, "×", detail)]


def figure_nica(data: Data) -> list[Row]:
    """Non-negative independent components, refined; for information."""
    path, spent = ours.store(data, 1), run_time(data, "nica")
    detail = f"leaves {100 * left_by(path, 'nica'):.4f} % of squares"
    return [Row(f"nica ({COMPONENTS}) with maps written, 2 workers", f"{spent:.3g} s", "for information", detail)]


def regions_basis(curves: np.ndarray) -> np.ndarray:
    """An orthonormal basis of three mean curves: those of the brightest, and of the lowest and highest peaks."""
    lit = curves[curves.sum(axis=1) > np.quantile(curves.sum(axis=1), 0.5)]
    place = lit.argmax(axis=1)
    low, high = np.quantile(place, (0.05, 0.95))
    means = [lit[m].mean(axis=0) for m in (place == int(np.median(place)), place <= low, place >= high)]
    return orthonormal(np.stack(means))


def time_projection(store: Path, repeats: int) -> dict[str, float]:
    """Seconds for one layer on one core: decoding it, and decoding it with moments and a Gram–Schmidt projection."""
    array, buffers, phi = ours.counts(store), Buffers.empty(), ours.positions(store)
    moments, project = ours.moments_of_tile(phi), find("project_gram_schmidt").kernel
    background = np.full(array.shape[-2:], OFFSET, np.float32)
    scaling = scaling_of("benchmark", "log", None, OFFSET, None)
    sample = layer(store, 0)[:, ::16, ::16].reshape(FRAMES, -1).T.astype(float)
    basis = regions_basis(np.log(np.maximum(sample - OFFSET, 0) + 1))

    def of_tile(tile: np.ndarray) -> Any:
        counts = scan_last(tile, ("phi", "y", "x"), ours.AXES)
        return project(counts, {"phi": phi}, basis, np.zeros(FRAMES), scaling, {"phi": phi})

    def both() -> None:
        for rows, columns, tile in ours.layer_tiles(array, 0, buffers):
            moments(tile, background[rows, columns])
            of_tile(tile)

    def projected() -> None:
        for _, _, tile in ours.layer_tiles(array, 0, buffers):
            of_tile(tile)

    both()
    return best({"read": lambda: drain(array, buffers), "both": both, "projected": projected}, max(repeats, 2))


def figure_projection(data: Data) -> list[Row]:
    """Reading a layer with moments and Gram–Schmidt coefficients, against reading it."""
    t = pinned(time_projection, ours.store(data, 1), data.repeats)
    name = "read + moments + Gram–Schmidt projection vs read + decode, 1 core"
    detail = ", ".join(f"{n} {1e3 * s:.0f} ms" for n, s in t.items())
    return [at_most(name, t["both"] / t["read"], MOST_DECODES, "×", detail)]


def figure_layers(data: Data) -> list[Row]:
    """A stack of many layers against one: time by the layer, and memory of a worker."""
    few, many = data.memory_layers[0], data.memory_layers[-1]
    steps, rows = recipe("pca"), []
    spent, used = {}, {}
    for layers in (few, many):
        path = ours.store(data, layers)
        with open_cluster(workers=2) as client:
            ours.clear(path)
            ours.reduce(steps, path, client)
            times = []
            for _ in range(data.repeats if layers == few else 1):
                ours.clear(path)
                times.append(seconds(lambda p=path, c=client: ours.reduce(steps, p, c)))
        spent[layers] = min(times) / layers
        ours.clear(path)
        used[layers] = peak(lambda c, p=path: ours.reduce(steps, p, c))
        ours.clear(path)
    detail = ", ".join(f"{n} layers {s:.2f} s each and {used[n]:.0f} MB" for n, s in spent.items())
    rows.append(
        at_most(f"pca, {many} layers vs {few}, time by the layer", spent[many] / spent[few], MOST_GROWTH, "×", detail)
    )
    rows.append(
        at_most(f"pca, {many} layers vs {few}, memory of a worker", used[many] / used[few], MOST_GROWTH, "×", detail)
    )
    return rows
