"""Figures of volumes: objects, boundaries and a comparison of a stack of 301 layers, never held as a whole."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import numpy as np

from bench.limits import high_water
from bench.timing import Row, at_most, process

FULL, QUICK = (301, 2160, 2560), (24, 216, 256)
PITCH = (1.0, 0.04, 0.12)  # um: z, y, x
SPACING = 4.0  # um between the lines of a wall
SIZES = {"1": 1.0e6, "5.4": 5.4e6, "20": 20e6}  # true voxels
MOST_SECONDS, MOST_MEMORY_MB, MOST_TASKS, MOST_GROWTH = 300, 3 * 1073.741824, 2000, 1.3
SMALL = 40  # layers that scipy and a tree of scipy can hold
WALLS = ((0.0, 25.0), (120.0, -15.0), (228.0, 10.0))  # azimuth of the half plane and lean of its lines, degree


@dataclass(frozen=True)
class Stack:
    """A stack with given numbers of layers and, approximately, true voxels."""

    shape: tuple[int, int, int]
    count: float

    @property
    def positions(self) -> tuple[np.ndarray, ...]:
        return tuple(np.arange(n) * p for n, p in zip(self.shape, PITCH, strict=True))

    def spots(self, layer: int, shift: float = 0.0) -> np.ndarray:
        """Where the lines of three half planes cross a layer: (spot, yx), um."""
        z = layer * PITCH[0]
        high, wide = self.shape[1] * PITCH[1], self.shape[2] * PITCH[2]
        middle = np.array([high / 2, wide / 2])
        found = []
        for azimuth, lean in WALLS:
            along = np.array([np.sin(np.deg2rad(azimuth)), np.cos(np.deg2rad(azimuth))])
            start = SPACING * np.arange(0, 100) + z * np.tan(np.deg2rad(lean)) % SPACING
            found.append(middle + start[:, None] * along + shift)
        every = np.concatenate(found)
        return every[(every >= 0).all(axis=1) & (every[:, 0] < high) & (every[:, 1] < wide)]

    def layer(self, number: int, shift: float = 0.0) -> np.ndarray:
        """One layer of the mask: discs about the spots, as large as the number of true voxels requires."""
        spots = self.spots(number, shift)
        area = self.count / self.shape[0] / max(1, len(spots)) * PITCH[1] * PITCH[2]
        radius = np.sqrt(area / np.pi)
        rng = np.random.default_rng(number)
        mask = np.zeros(self.shape[1:], bool)
        for y, x in spots + rng.normal(0, 0.1, spots.shape):
            rows = slice(max(0, int((y - radius) / PITCH[1])), int((y + radius) / PITCH[1]) + 2)
            columns = slice(max(0, int((x - radius) / PITCH[2])), int((x + radius) / PITCH[2]) + 2)
            away = np.add.outer((self.positions[1][rows] - y) ** 2, (self.positions[2][columns] - x) ** 2)
            mask[rows, columns] |= away < radius**2
        return mask


WARM = Stack((6, 216, 256), 4e4)


def _maps(stack: Stack) -> Any:
    """Inputs of a volume, as lazy arrays of three layers."""
    import dask.array as da
    import xarray as xr

    def block(kind: str, number: np.ndarray) -> np.ndarray:
        made = np.stack([stack.layer(int(n)) for n in number.ravel()])
        return made if kind == "defects" else (10 * made).astype(np.float32)

    numbers = da.arange(stack.shape[0], chunks=3)[:, None, None]
    chunks = (numbers.chunks[0], stack.shape[1], stack.shape[2])

    def lazy(kind: str, dtype: type) -> Any:
        return da.map_blocks(
            lambda n: block(kind, n),
            numbers,
            name=f"{kind}-{stack.count:g}",
            chunks=chunks,
            dtype=dtype,
            meta=np.empty((0, 0, 0), dtype),
        )

    dims, shape = ("z", "y", "x"), stack.shape
    values = {
        "defects": (lazy("defects", bool), "1"),
        "weak_enhanced": (lazy("weak_enhanced", np.float32), "1"),
        "lit": (da.ones(shape, dtype=bool, chunks=chunks), "1"),
        "peak_local": (da.zeros(shape, dtype=np.float32, chunks=chunks), "degree"),
    }
    coordinates = {n: (n, p, {"units": "um"}) for n, p in zip(dims, stack.positions, strict=True)}
    return xr.Dataset({n: (dims, v, {"units": u}) for n, (v, u) in values.items()}, coordinates)


def volume(stack: Stack) -> dict[str, float]:
    """Seconds of every part, tasks and memory; runs in a process of its own."""
    import dask

    from dfxm_dask.boundaries import characterise_boundaries
    from dfxm_dask.volume import link_layers
    from dfxm_dask.volume.compare import compare_voxels
    from dfxm_dask.volume.sparse import voxels

    if stack.shape != WARM.shape:  # loads and compiles
        volume(WARM)
    maps, out = _maps(stack), {}
    with dask.config.set(scheduler="threads", num_workers=2):
        begun = time.perf_counter()
        linked = link_layers.gather(maps[["defects"]])
        out["objects"] = time.perf_counter() - begun
        out["true"], out["found"] = float(linked["object_voxels"].sum()), float(linked.sizes["object"])
        begun = time.perf_counter()
        made = characterise_boundaries.gather(maps, replicates=50)
        out["boundaries"], out["planes"] = time.perf_counter() - begun, float(made.sizes["boundary"])
        out["points"] = float(made["point"].shape[0])
    begun = time.perf_counter()
    first, second = (voxels((stack.layer(k, s) for k in range(stack.shape[0])), stack.positions) for s in (0.0, 0.5))
    compare_voxels(first, second, threads=2)
    out["comparison"] = time.perf_counter() - begun
    out["memory"] = high_water()
    return out


def small(stack: Stack) -> dict[str, float]:
    """The same by scipy on a stack that fits into memory: labels of the whole, a tree of all true voxels."""
    import dask
    from scipy import ndimage
    from scipy.spatial import cKDTree

    from dfxm_dask.volume import link_layers
    from dfxm_dask.volume.compare import compare_voxels
    from dfxm_dask.volume.sparse import voxels

    out = {}
    if stack.shape != WARM.shape:
        small(WARM)
    whole = [np.stack([stack.layer(k, s) for k in range(stack.shape[0])]) for s in (0.0, 0.5)]
    begun = time.perf_counter()
    ndimage.label(whole[0], np.ones((3, 3, 3)))
    out["label"] = time.perf_counter() - begun
    maps = _maps(stack)
    maps["defects"] = maps["defects"].copy(data=__import__("dask.array").array.from_array(whole[0], chunks=(3, -1, -1)))
    with dask.config.set(scheduler="synchronous"):
        begun = time.perf_counter()
        link_layers.gather(maps[["defects"]])
        out["link"] = time.perf_counter() - begun
    lists = [voxels(iter(w), stack.positions) for w in whole]
    begun = time.perf_counter()
    compare_voxels(*lists, copies=0)
    out["compare"] = time.perf_counter() - begun
    places = [np.argwhere(w) * np.array(PITCH) for w in whole]
    begun = time.perf_counter()
    for k in (0, 1):
        cKDTree(places[1 - k]).query(places[k])
    out["tree"] = time.perf_counter() - begun
    return out


def figure_volume(quick: bool) -> list[Row]:
    """Objects, boundaries and comparison at three numbers of true voxels."""
    rows: list[Row] = []
    shape = QUICK if quick else FULL
    spent: dict[str, dict[str, float]] = {}
    for name, count in SIZES.items():
        stack = Stack(shape, count * np.prod(shape) / np.prod(FULL))
        with process(2, threads=2) as call:
            spent[name] = call(volume, stack)
    t = spent["5.4"]
    total = t["objects"] + t["boundaries"] + t["comparison"]
    detail = (
        f"{t['true'] / 1e6:.1f} million true voxels: objects {t['objects']:.0f} s ({t['found']:.0f}), {t['planes']:.0f}"
        f" planes with lines of {t['points'] / 1e3:.0f} thousand points {t['boundaries']:.0f} s, comparison with a"
        f" second volume {t['comparison']:.0f} s; making the mask is in all of them"
    )
    rows.append(
        at_most("objects, boundaries, comparison of 301 x 2160 x 2560 voxels", total, MOST_SECONDS, "s", detail)
    )
    rows.append(at_most("peak memory of the process", t["memory"], MOST_MEMORY_MB, "MB", "all three in one process"))
    seconds = {n: sum(s[k] for k in ("objects", "boundaries", "comparison")) for n, s in spent.items()}
    detail = ", ".join(
        f"{spent[n]['true'] / 1e6:.1f} million {s:.0f} s {spent[n]['memory']:.0f} MB" for n, s in seconds.items()
    )
    slope = [
        (seconds["5.4"] - seconds["1"]) / (SIZES["5.4"] - SIZES["1"]),
        (seconds["20"] - seconds["5.4"]) / (SIZES["20"] - SIZES["5.4"]),
    ]
    rows.append(
        at_most(
            "seconds for one more voxel, 5.4 to 20 million vs 1 to 5.4", slope[1] / slope[0], MOST_GROWTH, "×", detail
        )
    )
    return rows


def figure_scipy(quick: bool) -> list[Row]:
    """Against plain scipy in memory, on a stack that fits."""
    shape = QUICK if quick else (SMALL, *FULL[1:])
    stack = Stack(shape, 5.4e6 * np.prod(shape) / np.prod(FULL))
    with process(1) as call:
        t = call(small, stack)
    detail = ", ".join(f"{n} {s:.2f} s" for n, s in t.items())
    return [
        Row(
            f"{shape[0]} layers: scipy's label of the whole vs objects linked, 1 core",
            f"{t['label'] / t['link']:.3g} ×",
            "for information",
            detail,
        ),
        Row(
            f"{shape[0]} layers: tree of all voxels vs comparison, 1 core",
            f"{t['tree'] / t['compare']:.3g} ×",
            "for information",
            detail,
        ),
    ]
