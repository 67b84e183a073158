"""Figures of the networks: patches a second beside the published loop over single patches, and memory of a worker."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec

import numpy as np

from bench.data import FULL
from bench.limits import high_water
from bench.timing import Row, at_least, at_most, pinned

PATCHES = 512
QUICK_FRAME = (512, 640)
WORKER_MB = 900


@dataclass(frozen=True)
class Networks:
    """How to measure."""

    quick: bool
    repeats: int


def rate(work: Callable[[], int]) -> float:
    """Patches per second of processor time, which excludes other load on the machine, unlike wall time."""
    begun = time.process_time()
    patches = work()
    return patches / (time.process_time() - begun)


def speeds(repeats: int, frame_shape: tuple[int, int], engines: list[str]) -> dict[str, list[float]]:
    """Patches a second of every way, one entry a turn; ways take turns. Runs in a process of its own."""
    import torch

    from dfxm_dask.beams.network.engines import answers, batch_of
    from dfxm_dask.beams.network.inference import predict_counts
    from dfxm_dask.beams.network.networks import published
    from dfxm_dask.beams.network.weights import load, shipped

    torch.set_num_threads(1)
    ours, theirs = load(shipped())[0], published().eval()
    rng = np.random.default_rng(0)
    patches = rng.normal(size=(PATCHES, 1, 64, 64)).astype(np.float32)
    frame = (100 + rng.gamma(1.0, 100.0, frame_shape)).astype(np.uint16)

    def loop() -> int:
        with torch.inference_mode():
            for k in range(64):
                theirs(torch.from_numpy(patches[k : k + 1]))
        return 64

    def alone(net: torch.nn.Module, engine: str, count: int) -> Callable[[], int]:
        answer, batch = answers(net, engine), batch_of(net, engine)

        def run() -> int:
            for first in range(0, count, batch):
                answer(patches[first : first + batch])
            return count

        return run

    def raw(engine: str) -> Callable[[], int]:
        return lambda: predict_counts(ours, frame, dark=100.0, engine=engine, device="cpu").size

    ways: dict[str, Callable[[], int]] = {"loop": loop}
    for engine in engines:
        ways[f"raw {engine}"] = raw(engine)
        ways[f"ours {engine}"] = alone(ours, engine, PATCHES)
        ways[f"published {engine}"] = alone(theirs, engine, 64)
    found: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(repeats + 1):  # the first one compiles
        for name, work in ways.items():
            value = rate(work)
            if turn:
                found[name].append(value)
    return found


def versus(figure: str, found: dict[str, list[float]], way: str, limit: float | None) -> Row:
    """A row of one way beside the published loop: median of the ratios of all turns, and their range."""
    ratios = [value / loop for value, loop in zip(found[way], found["loop"], strict=True)]
    detail = (
        f"{min(ratios):.3g} to {max(ratios):.3g} × in {len(ratios)} turns; {_range(found[way])} patches/s beside "
        f"{_range(found['loop'])} patches/s"
    )
    if limit is None:
        return Row(figure, f"{statistics.median(ratios):.3g} ×", "", detail)
    return at_least(figure, statistics.median(ratios), limit, "×", detail)


def _range(values: list[float]) -> str:
    return f"{min(values):.0f}–{max(values):.0f}"


def figure_speed(work: Networks) -> list[Row]:
    """Our network and the published one, batched, over the published one patch by patch; one core, processor time."""
    engines = ["torch", *(["onnxruntime"] if find_spec("onnxruntime") else [])]
    found = pinned(speeds, max(work.repeats, 5), QUICK_FRAME if work.quick else FULL, engines)
    rows = []
    for engine in engines:
        least = {"torch": 2.3, "onnxruntime": 6.0}[engine]
        best = engine == engines[-1]  # the one that is taken where nothing else is asked for
        rows += [
            versus(f"compact, raw counts to probability, {engine}", found, f"raw {engine}", 80 if best else None),
            versus(f"compact alone, {engine}", found, f"ours {engine}", None),
            versus(f"published alone, batched, {engine}", found, f"published {engine}", least),
        ]
    if len(engines) == 1:
        rows.append(Row("the same by onnxruntime", "not measured", "", "install dfxm_dask[fast]"))
    return rows


def classify(shape: tuple[int, int], method: str) -> float:
    """Processor seconds of the classes of one layer of random counts, in a worker."""
    from dfxm_dask.beams import classify_beams

    rng, phi = np.random.default_rng(0), 0.002 * np.arange(31)
    counts = np.empty((31, *shape), np.uint16)
    for frame in counts:
        frame[...] = rng.integers(100, 300, shape, np.uint16)
    maps = np.full(shape, 0.03, np.float32), np.full(shape, 0.005, np.float32)
    begun = time.process_time()
    classify_beams.kernel(counts.transpose(1, 2, 0), {"phi": phi}, np.ones(shape, bool), *maps, method=method)
    return time.process_time() - begun


def figure_worker(work: Networks) -> list[Row]:
    """Peak memory of a worker that classifies one layer by the network, and the parts of torch and of the network."""
    from dfxm_dask.run.clusters.cluster import open_cluster

    shape = QUICK_FRAME if work.quick else FULL
    peaks, spent = {}, 0.0
    for method in ("prior", "lcnn"):
        with open_cluster(workers=1) as client:
            spent = client.submit(classify, shape, method).result()
            peaks[method] = max(client.run(high_water).values())
    detail = (
        f"VmHWM; {peaks['prior']:.0f} MB by the prior, without torch; the layer has "
        f"{31 * np.prod(shape) * 2 / 1e6:.0f} MB; {spent:.1f} s of processor time a layer"
    )
    figure = f"peak memory per worker, classify_beams by the network, 31 x {shape[0]} x {shape[1]}"
    return [at_most(figure, peaks["lcnn"], WORKER_MB, "MB", detail)]
