"""False alarms and detections of the check of raw scans (``dfxm-dask check STORE``).

``python scripts/evaluate/scan_checks.py STORE...`` judges every layer of stores, unchanged and with planted faults, and
prints a table by the names of the stores without their last part. ``--meshes N`` adds N simulated scans over two axes:
grains of a mosaic crystal, 24 x 31 positions, 2 x 2 patches, Poisson noise and a beam that flickers by 1 %.

A fault is planted in the statistics of the frames, at random lit frames (3 draws a layer). A detection is a finding
with a name that fits the fault; for a whole scan in reverse, which no single pass reveals, it is a false alarm.
"""

from __future__ import annotations

import argparse
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

import dfxm_dask
from dfxm_dask.frames.statistics import patch_statistics
from dfxm_dask.frames.trust.faults import equal_frames
from dfxm_dask.frames.trust.findings import Layer, judge_layer
from dfxm_dask.run.checks.scan_check import layer_of, scales_of

DRAWS = 3
ORDER = {
    "random_order", "lines_backwards", "lines_late", "frames_shifted", "frames_circular", "frame_moved",
    "block_backwards", "position_twice",
}  # fmt: skip
FITS = {
    "shuffled": {"random_order"},
    "rows backwards": {"lines_backwards"},
    "rows one late": {"lines_late"},
    "off by one": {"frames_shifted", "frames_circular"},
    "reversed": ORDER,
    "circular, at the peak": {"frames_circular", "not_bracketed"},
    "frame moved by 8": ORDER,
    "block of 8 backwards": ORDER,
    "frame repeated": {"equal_frames"},
    "frame without beam": {"no_beam"},
    "frame at 0.6 of its light": {"flash"},
    "empty frame": {"empty_frames"},
    "saturated frame": {"saturated"},
    "monitor trip": {"monitor_trip"},
    "monitor step of 30 %": {"monitor_jump"},
}


def reordered(layer: Layer, order: np.ndarray) -> Layer:
    """A layer whose frame k is the frame order[k]."""
    count = int(np.prod(layer.grid))

    def moved(values: np.ndarray) -> np.ndarray:
        return np.asarray(values).reshape(count, *np.shape(values)[len(layer.grid) :])[order].reshape(np.shape(values))

    known = {n: moved(v) if np.shape(v)[: len(layer.grid)] == layer.grid else v for n, v in layer.statistics.items()}
    per_frame = {
        n: None if v is None else np.asarray(v)[order] for n, v in (("monitor", layer.monitor), ("scale", layer.scale))
    }
    return replace(layer, statistics=known, **per_frame)


def planted(layer: Layer, rng: np.random.Generator) -> Iterator[tuple[str, Layer]]:
    """One layer with each fault that it can have."""
    grid, count = layer.grid, int(np.prod(layer.grid))
    index = np.arange(count)
    light = np.asarray(layer.statistics["patch_sum"], float).reshape(count, -1).sum(axis=1)
    light -= light.min()
    peak = int(light.argmax())
    lit = np.flatnonzero(light > 0.3 * light.max())
    inner = lit[(lit % grid[-1] > 1) & (lit % grid[-1] < grid[-1] - 2)]
    at = int(rng.choice(inner if inner.size else lit))
    yield "shuffled", reordered(layer, rng.permutation(count))
    yield "reversed", reordered(layer, index[::-1])
    if len(grid) == 2:
        rows = index.reshape(grid).copy()
        rows[1::2] = rows[1::2, ::-1]
        yield "rows backwards", reordered(layer, rows.ravel())
        rows = index.reshape(grid).copy()
        rows[1::2] = np.roll(rows[1::2], 1, axis=1)
        yield "rows one late", reordered(layer, rows.ravel())
    elif layer.stepped:
        yield "circular, at the peak", reordered(layer, np.roll(index, -peak))
        to = at + 8 if at + 8 < count - 1 else at - 8
        yield "frame moved by 8", reordered(layer, np.insert(np.delete(index, at), to, at))
        first = int(np.clip(at - int(rng.integers(2, 7)), 1, count - 9))
        block = index.copy()
        block[first : first + 8] = block[first : first + 8][::-1]
        yield "block of 8 backwards", reordered(layer, block)
    yield "off by one", reordered(layer, np.roll(index, 1))
    copied = index.copy()
    copied[at] = copied[at - 1]
    yield "frame repeated", reordered(layer, copied)
    if layer.stepped:
        yield "frame without beam", changed(layer, at, 0.0)
        yield "frame at 0.6 of its light", changed(layer, at, 0.6)
    yield "empty frame", changed(layer, at, None)
    most = np.array(layer.statistics["patch_max"])
    most.reshape(count, -1)[at, 0] = int(layer.saturation)
    yield "saturated frame", replace(layer, statistics={**layer.statistics, "patch_max": most})
    monitor = layer.monitor if layer.monitor is not None else 1e5 * (1 + 0.01 * rng.standard_normal(count))
    trip, step = monitor.copy(), monitor.copy()
    trip[at] *= 0.05
    step[at:] *= 1.3
    yield "monitor trip", replace(layer, monitor=trip)
    yield "monitor step of 30 %", replace(layer, monitor=step)


def changed(layer: Layer, frame: int, factor: float | None) -> Layer:
    """A layer one of whose frames has a part of its light, or no counts at all."""
    known = {name: np.array(values) for name, values in layer.statistics.items()}
    count = int(np.prod(layer.grid))
    flat = {n: v.reshape(count, -1) for n, v in known.items() if v.shape[: len(layer.grid)] == layer.grid}
    pixels = flat["patch_n"][frame] if "patch_n" in flat else known["patch_n"].ravel()
    if factor is None:
        for name in ("patch_sum", "patch_sum2", "patch_min", "patch_max"):
            flat[name][frame] = 0
        return replace(layer, statistics=known)
    dark = float((flat["patch_sum"] / pixels).min())
    mean = flat["patch_sum"][frame] / pixels
    spread = flat["patch_sum2"][frame] / pixels - mean**2
    lower = dark + factor * (mean - dark)
    flat["patch_sum"][frame] = (lower * pixels).astype(flat["patch_sum"].dtype)
    flat["patch_sum2"][frame] = (factor**2 * spread + lower**2) * pixels
    return replace(layer, statistics=known)


def found_in(layer: Layer) -> set[str]:
    """Names of the findings; equal statistics count as equal frames."""
    count = int(np.prod(layer.grid))
    names = {finding.name for finding in judge_layer(layer)[0]}
    equal = equal_frames({n: np.asarray(v).reshape(count, -1) for n, v in layer.statistics.items() if n != "patch_n"})
    return names | ({"equal_frames"} if equal else set())


def mesh(seed: int) -> Layer:
    """A simulated scan over two axes."""
    rng = np.random.default_rng(seed)
    grid, edge = (24, 31), 128
    chi, phi = np.meshgrid(np.arange(grid[0]), np.arange(grid[1]), indexing="ij")
    y, x = np.mgrid[:edge, :edge] / edge
    grains = int(rng.integers(2, 7))
    seeds, centre = rng.random((grains, 2)), rng.uniform(0.25, 0.75, (grains, 2)) * grid
    owner = ((y[..., None] - seeds[:, 0]) ** 2 + (x[..., None] - seeds[:, 1]) ** 2).argmin(axis=-1)
    bend = rng.normal(0, 4, (2, 2))
    width, flux = rng.uniform(1.0, 3.0), 10 ** rng.uniform(1.5, 3.5)
    offset = [centre[owner, k] + bend[k, 0] * (y - 0.5) + bend[k, 1] * (x - 0.5) for k in (0, 1)]
    kept: dict[str, list[np.ndarray]] = defaultdict(list)
    for row, column in zip(chi.ravel(), phi.ravel(), strict=True):
        signal = flux * np.exp(-((row - offset[0]) ** 2 + (column - offset[1]) ** 2) / (2 * width**2))
        counts = 100 + rng.normal(0, 2, signal.shape) + rng.poisson(signal * (1 + 0.01 * rng.standard_normal()))
        for name, values in patch_statistics(np.clip(counts, 0, 65535).round().astype(np.uint16)).items():
            kept[name].append(values)
    statistics = {name: np.stack(values).reshape(*grid, *values[0].shape) for name, values in kept.items()}
    axes = {name: np.arange(float(n)) for name, n in zip(("chi", "phi"), grid, strict=True)}
    return Layer(axes, dict.fromkeys(axes, "degree"), statistics, 2.0, 65535.0)


def layers(paths: list[Path], meshes: int) -> Iterator[tuple[str, Layer]]:
    """Kind of a scan, and each of its layers."""
    for path in paths:
        raw = dfxm_dask.open_scan(path, chunks=None)["raw"].dataset
        scales, _ = scales_of(raw)
        for z in range(raw.sizes["z"]):
            layer = layer_of(raw, z, scales)
            if layer is not None:
                yield path.stem.rpartition("_")[0] or path.stem, layer
    for seed in range(meshes):
        yield "mesh", mesh(seed)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stores", nargs="*", type=Path)
    parser.add_argument("--meshes", type=int, default=0)
    asked = parser.parse_args()
    alarms: dict[str, Counter[str]] = defaultdict(Counter)
    states: dict[str, Counter[str]] = defaultdict(Counter)
    hits: dict[str, Counter[str]] = defaultdict(Counter)
    tried: dict[str, Counter[str]] = defaultdict(Counter)
    for number, (kind, layer) in enumerate(layers(asked.stores, asked.meshes)):
        states[kind][judge_layer(layer)[1].state] += 1
        alarms[kind].update(found_in(layer))
        rng = np.random.default_rng(number)
        for _ in range(DRAWS):
            for fault, bad in planted(layer, rng):
                tried[fault][kind] += 1
                hits[fault][kind] += bool(found_in(bad) & FITS[fault])
    kinds = list(states)
    print("| |", " | ".join(kinds), "|")
    print("|---|" + "---|" * len(kinds))
    print("| layers |", " | ".join(str(sum(states[k].values())) for k in kinds), "|")
    print("| pairing confirmed |", " | ".join(str(states[k]["confirmed"]) for k in kinds), "|")
    print("| findings, nothing planted |", " | ".join(str(dict(alarms[k])) if alarms[k] else "0" for k in kinds), "|")
    for fault in FITS:
        cells = [f"{hits[fault][k]}/{tried[fault][k]}" if tried[fault][k] else "–" for k in kinds]
        print(f"| {fault} |", " | ".join(cells), "|")


if __name__ == "__main__":
    main()
