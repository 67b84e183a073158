"""Figures of movies: detection in full frames against decoding them, memory, and linking."""

from __future__ import annotations

import shutil
import time
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import h5py
import hdf5plugin
import numpy as np
import zarr

import dfxm_dask
from bench.limits import high_water
from bench.timing import Row, at_most
from dfxm_dask.phantoms.scans import simulate
from dfxm_dask.run.clusters.cluster import open_cluster
from dfxm_dask.run.recipe import Recipe, parse_recipe
from dfxm_dask.store.chunks import unit_frames
from dfxm_dask.store.shards import open_array, read

PIXEL = 0.04, 0.1235  # um
LEARN, DETECT, LINK = (
    parse_recipe(f"name: {step}\nsteps:\n  - {step}: {{}}\n", Path(f"{step}.yaml"))
    for step in ("learn_images", "detect", "track")
)


@dataclass(frozen=True)
class Movie:
    """A movie of full frames with 13 dislocations a frame."""

    work: Path
    frames: int
    shape: tuple[int, int]
    crops: Path | None
    """npz file with counts ``c`` (frame, y, x) of a simulated movie; by default a movie is simulated."""

    def store(self) -> Path:
        """The store of the movie, made at the first call: simulated parts of frames in frames of noise."""
        store = self.work / f"movie_{self.frames}.zarr"
        if store.exists():
            return store
        source, rng, crops = self.work / "movie.h5", np.random.default_rng(0), self._crops()
        spots = [*product(np.arange(3) * self.shape[0] // 3, np.arange(3) * self.shape[1] // 3)]
        with h5py.File(source, "w") as file:
            size = (self.frames, *self.shape)
            data = file.create_dataset(
                "entry_0000/measurement/data", size, "u2", chunks=(1, *self.shape), **hdf5plugin.Bitshuffle()
            )
            for k in range(self.frames):
                frame = 100.5 + 2 * rng.poisson(10, self.shape) + 8 * rng.standard_normal(self.shape, np.float32)
                frame = frame.clip(0, 65535).astype(np.uint16)
                for n, (row, column) in enumerate(spots[:3]):  # 5 + 5 + 3 dislocations
                    part = crops[(k + 20 * n) % len(crops)]
                    height = part.shape[0] if n < 2 else part.shape[0] * 3 // 5
                    frame[row : row + height, column : column + part.shape[1]] = part[:height]
                data[k] = frame
        dfxm_dask.ingest(source, store, pixel_size=PIXEL, time_step=0.25)
        source.unlink()
        return store

    def _crops(self) -> np.ndarray:
        if self.crops is not None:
            return np.load(self.crops)["c"]
        tree = simulate("movie", seed=1)
        return np.asarray(next(group["counts"] for group in tree.subtree if "counts" in group.variables)[0])


def decode(store: Path) -> float:
    """Seconds to decode all frames in one process, in the units of a run."""
    array = open_array(store / "raw" / "counts")
    assert array is not None
    step = unit_frames(array.shape, 2)
    begun = time.perf_counter()
    for k in range(0, array.shape[1], step):
        read(array, (slice(0, 1), slice(k, k + step), slice(None), slice(None)))
    return time.perf_counter() - begun


def figure_detection(movie: Movie) -> list[Row]:
    """Time of learning and detection in one process and on two workers, memory of a worker, and time of linking."""
    store = movie.store()
    shutil.rmtree(store / "dynamics", ignore_errors=True)
    _compiled()
    floor = min(decode(store) for _ in range(2))
    learning = _seconds(LEARN, store)
    alone = _seconds(DETECT, store)
    shutil.rmtree(store / "dynamics")
    with open_cluster(workers=2) as client:
        client.run(_compiled)
        both = _seconds(LEARN, store, client=client) + _seconds(DETECT, store, client=client)
        memory = max(client.run(high_water).values())
    found = zarr.open_array(str(store / "dynamics" / "frame"), mode="r").shape[0]
    linking = _seconds(LINK, store)
    each = f"{movie.frames} frames of {movie.shape[0]} x {movie.shape[1]}, {found} detections"
    return [
        at_most("detection on 2 workers / decoding", both / floor, 6, "×", f"{both:.1f} against {floor:.1f} s, {each}"),
        Row("learning in one process", f"{learning:.1f} s", "", "from at most 64 frames"),
        Row("detection in one process", f"{alone:.1f} s", "", f"{1000 * alone / movie.frames:.0f} ms a frame"),
        Row("peak memory of a worker", f"{memory:.0f} MB", "", each),
        at_most("linking", linking, 10, "s", f"{found} detections, with the start of a run"),
    ]


def _seconds(recipe: Recipe, store: Path, **how: Any) -> float:
    """Wall time of a recipe."""
    begun = time.perf_counter()
    dfxm_dask.run_recipe(recipe, store, **how)
    return time.perf_counter() - begun


def _compiled() -> None:
    """Load the package and the compiled search of a worker."""
    rng = np.random.default_rng(0)
    frames, axis = rng.poisson(20, (64, 64, 1)).astype(np.uint16), 0.04 * np.arange(64)
    dfxm_dask.learn_images.finish(dfxm_dask.learn_images.kernel(frames, {}, axis, axis))
