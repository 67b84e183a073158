"""Figures of the store: reading blocks, frames and curves, and ingest. All on one core."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from itertools import product
from pathlib import Path

import h5py
import hdf5plugin  # noqa: F401  (the filter of LIMA files)
import numpy as np
import zarr
from numcodecs import blosc

import dfxm_dask
from bench import ours, peers
from bench.data import FRAMES, Data
from bench.timing import Row, at_least, at_most, best, median, pinned
from dfxm_dask.store.shards import Buffers, ShardedArray, ShardFile, read

DECODE_BYTES = 4_200_000
EDGE = 256

INGEST_LAYERS = 3


def encoded_chunks(array: ShardedArray) -> list[bytes]:
    """The blosc bytes of every chunk of the first layer, in memory."""
    chunks: list[bytes] = []
    shards = range(-(-array.shape[-2] // array.shard[-2]))
    rows, columns = (range(-(-n // array.chunk[-1])) for n in array.shape[-2:])
    for shard in shards:
        with ShardFile(array, (0,) * (array.ndim - 2) + (shard, 0)) as file:
            inside = [r for r in range(array.grid[-2]) if shard * array.grid[-2] + r in rows]
            for row, column in product(inside, columns):
                keys = [(0, k, row, column) for k in range(array.shape[1])]
                chunks += [view[:-4].tobytes() for view in file.fetch(keys, np.empty(0, np.uint8))[1]]
    return chunks


def decode_all(chunks: list[bytes], chunk_bytes: int, buffer: np.ndarray) -> None:
    """The floor of reading: decode every chunk, into the parts of one buffer in turn."""
    slots = len(buffer) // chunk_bytes
    for k, chunk in enumerate(chunks):
        at = k % slots * chunk_bytes
        blosc.decompress(chunk, buffer[at : at + chunk_bytes])


def drain(array: ShardedArray, buffers: Buffers) -> None:
    """Take every tile of the first layer and do nothing with it."""
    for _ in ours.layer_tiles(array, 0, buffers):
        pass


def time_blocks(store: Path, sharded: Path, repeats: int) -> dict[str, float]:
    """Seconds to read a layer: the floor, ours, and zarr on two layouts."""
    array, buffers = ours.counts(store), Buffers.empty()
    chunks, buffer = encoded_chunks(array), np.zeros(DECODE_BYTES // array.chunk_bytes * array.chunk_bytes, np.uint8)
    with zarr.config.set(peers.DEFAULT_PIPELINE):
        same, best_sharded = (zarr.open_array(str(p), mode="r") for p in (store / "raw/counts", sharded / "counts"))
    tasks = {
        "floor": lambda: decode_all(chunks, array.chunk_bytes, buffer),
        "ours": lambda: drain(array, buffers),
        "zarr, same store": lambda: peers.read_blocks(same),
        "zarr, best sharded": lambda: peers.read_blocks(best_sharded),
    }
    return best(tasks, repeats)


def best_sharded_store(data: Data) -> Path:
    """The layer in the layout that stock zarr reads fastest among sharded ones."""
    path = data.work / "sharded.zarr"
    if not path.exists():
        store = ours.store(data, data.layers)
        shard = (1, FRAMES, *(-(-n // c) * c for n, c in zip(data.shape, (128, 256), strict=True)))
        peers.write_layout(path, [layer(store, 0)], ours.positions(store), (1, FRAMES, 128, 256), shard)
    return path


def layer(store: Path, z: int) -> np.ndarray:
    """Counts of one layer (phi, y, x)."""
    array = ours.counts(store)
    return read(array, (slice(z, z + 1), *(slice(0, n) for n in array.shape[1:])))[0]


def figure_read(data: Data) -> list[Row]:
    """Block read of the sharded store against decoding alone and against zarr."""
    store = ours.store(data, data.layers)
    t = pinned(time_blocks, store, best_sharded_store(data), data.repeats)
    detail = ", ".join(f"{name} {1e3 * s:.0f} ms" for name, s in t.items()) + " a layer"
    same, sharded = t["zarr, same store"] / t["ours"], t["zarr, best sharded"] / t["ours"]
    layout = "(1, 31, 128, 256) in one shard"
    return [
        at_most("block read vs decode-only floor, 1 core", t["ours"] / t["floor"], 1.5, "×", detail),
        at_least("block read vs zarr, best stock sharded layout", sharded, 3, "× faster", layout),
        at_least("block read vs zarr, same store", same, 3, "× faster", "(1, 1, 256, 256) in a shard"),
    ]


def time_selections(store: Path, repeats: int) -> dict[str, float]:
    """Median seconds of one frame and one pixel's curve, by the labelled tree and directly, at changing positions."""
    rng = np.random.default_rng(0)
    counts = dfxm_dask.open_scan(store, chunks=None)["raw"]["counts"]
    array = ours.counts(store)
    phi = counts.phi.values
    nz, _, ny, nx = array.shape

    def whole(n: int) -> slice:
        return slice(0, n)

    def one(n: int) -> slice:
        k = int(rng.integers(n))
        return slice(k, k + 1)

    z = counts.z.values
    tasks = {
        "frame": lambda: counts.sel(z=rng.choice(z), phi=rng.choice(phi), method="nearest").values,
        "curve": lambda: counts.sel(z=rng.choice(z), method="nearest").isel(y=one(ny), x=one(nx)).values,
        "frame, direct": lambda: read(array, (one(nz), one(FRAMES), whole(ny), whole(nx))),
        "curve, direct": lambda: read(array, (one(nz), whole(FRAMES), one(ny), one(nx))),
    }
    return median(tasks, repeats)


def figure_slice(data: Data) -> list[Row]:
    """One frame and one curve from a warm page cache."""
    t = pinned(time_selections, ours.store(data, data.layers), 30)
    rows = []
    for name, figure, limit in (("frame", "one frame at (z, phi)", 15), ("curve", "one pixel's curve", 5)):
        detail = f"median of 30 at random positions, 1 core; direct read {1e3 * t[f'{name}, direct']:.2g} ms"
        rows.append(at_most(figure, 1e3 * t[name], limit, "ms", detail))
    return rows


def decode_frames(master: Path, frame: np.ndarray) -> float:
    """Seconds to decode every frame of a layer into one buffer."""
    return sum(spent for spent, _ in timed_frames(master, frame))


def encode_frames(master: Path, frame: np.ndarray) -> float:
    """Seconds to encode every frame of a layer, chunk by chunk from contiguous memory; laying it out is not counted."""
    spent = 0.0
    corners = list(product(*(range(0, n, EDGE) for n in frame.shape)))
    chunks = np.zeros((len(corners), EDGE, EDGE), frame.dtype)
    for _ in timed_frames(master, frame):
        for chunk, (y, x) in zip(chunks, corners, strict=True):
            part = frame[y : y + EDGE, x : x + EDGE]
            chunk[: part.shape[0], : part.shape[1]] = part
        begun = time.perf_counter()
        for chunk in chunks:
            blosc.compress(chunk, b"lz4", 5, blosc.BITSHUFFLE, 0, chunk.itemsize)
        spent += time.perf_counter() - begun
    return spent


def timed_frames(master: Path, frame: np.ndarray) -> Iterator[tuple[float, int]]:
    """Decode the frames of the first layer one by one: seconds that each took, and its number."""
    with h5py.File(master) as file:
        dataset = file["1.1/measurement/pco_ff"]
        for k in range(dataset.shape[0]):
            begun = time.perf_counter()
            dataset.read_direct(frame, np.s_[k])
            yield time.perf_counter() - begun, k


def seconds_a_layer(master: Path, target: Path) -> float:
    """Seconds per layer to ingest three layers: the initial cost of a store is shared, as in a real scan."""
    begun = time.perf_counter()
    ours.ingest(master, target, ours.scans(INGEST_LAYERS))
    return (time.perf_counter() - begun) / INGEST_LAYERS


def time_ingest(master: Path, work: Path, shape: tuple[int, int], repeats: int) -> dict[str, float]:
    """Seconds to ingest one layer: decoding and encoding alone, ours, xarray."""
    data = Data(work, shape, 1, (), repeats)
    frame = np.empty(shape, np.uint16)
    stores = iter(range(repeats))
    tasks = {
        "decode": lambda: decode_frames(master, frame),
        "encode": lambda: encode_frames(master, frame),
        "ours": lambda: seconds_a_layer(master, work / f"ingest_{next(stores)}.zarr"),
        "xarray": lambda: peers.xarray_ingest(master, work / "ingest_xarray.zarr"),
    }
    times = best(tasks, repeats, before=os.sync)
    for name in [f"ingest_{k}.zarr" for k in range(repeats)] + ["ingest_xarray.zarr"]:
        data.fresh(name)
    return times


def figure_ingest(data: Data) -> list[Row]:
    """Ingest of bitshuffle-LZ4 HDF5 against its floor and against xarray."""
    t = pinned(time_ingest, data.master(data.layers), data.work, data.shape, data.repeats)
    detail = ", ".join(f"{name} {1e3 * s:.0f} ms" for name, s in t.items()) + " a layer, 1 core"
    rate = data.layer_bytes / t["ours"] / 1e6
    detail += f" ({INGEST_LAYERS} layers); {rate:.0f} MB/s, with statistics, forced to disk"
    ratio, peer = t["ours"] / (t["decode"] + t["encode"]), "whole layer a Dask block, default codec"
    return [
        at_most("ingest vs decode + encode floor", ratio, 1.5, "×", detail),
        at_least("ingest vs xarray.to_zarr", t["xarray"] / t["ours"], 3, "× faster", peer),
    ]
