"""Writing layer by layer: checks of the target, and the shards of one layer of counts or maps."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Mapping
from itertools import product
from math import ceil, prod
from pathlib import Path
from typing import Any

import numpy as np

from dfxm_dask.errors import DfxmError, SourceError, StoreError
from dfxm_dask.frames.statistics import dark_noise, masked_pixels, patch_statistics
from dfxm_dask.schema import FEWEST_MASKED, MASKED, NOISE, Variable
from dfxm_dask.store.chunks import bands
from dfxm_dask.store.integrity import ledger
from dfxm_dask.store.integrity.lock import STORE_LOCK, Fence
from dfxm_dask.store.integrity.nodes import arrays
from dfxm_dask.store.integrity.opened import open_store
from dfxm_dask.store.shards import ShardWriter, open_array, place_shards, read, stage_shard, staging

NOISE_FRAMES = 16  # evenly spaced frames of a layer from which the noise is estimated


def check_target(store: Path) -> None:
    parts = [p.upper() for p in store.resolve().parts]
    if "RAW_DATA" in parts:
        raise StoreError(f"store {store}", "is under RAW_DATA, which is read-only", "write under PROCESSED_DATA")
    parent = next(p for p in [store, *store.resolve().parents] if p.exists())
    if not parent.is_dir() or not os.access(parent, os.W_OK | os.X_OK):
        raise StoreError(f"store {store}", f"{parent} cannot be written", "choose another folder")


def check_space(store: Path, need: int) -> None:
    parent = next(p for p in [store, *store.resolve().parents] if p.exists())
    free = shutil.disk_usage(parent).free
    if free < need:
        raise StoreError(
            f"store {store}",
            f"requires about {need / 1e6:.0f} MB, but {free / 1e6:.0f} MB are free",
            "free space, or choose another disk",
        )


def check_existing(target: Path, plans: Mapping[tuple[str, str], Mapping[str, Any]], overwrite: bool) -> None:
    """Refuse a target with other content; with ``overwrite``, remove an existing store of this package.

    Parameters
    ----------
    plans : mapping of (group, step) to plan
        First steps of the store. An existing store with ledgers must have these steps, with these plans.

    Raises
    ------
    StoreError
        Not a store of this package, or a store with other first steps.
    """
    found = [p for p in target.iterdir() if p.name != STORE_LOCK] if target.is_dir() else [target]
    found = [p for p in found if not p.name.endswith(".partial")]  # of an ingest that was killed at its start
    if not found or not target.exists():
        return
    try:
        ours = "schema_version" in open_store(target).nodes[""]["attributes"]
    except (DfxmError, KeyError, OSError):
        ours = any(target.glob("*/.ledger/*.jsonl"))
    if not ours:
        raise StoreError(f"store {target}", "exists and is not a store of this package", "choose another path")
    if overwrite:
        for path in found:
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
        return
    if not any(target.glob("*/.ledger/*.jsonl")):
        return  # killed before the first step began
    begun = {key: ledger.read_ledger(ledger.ledger_path(target, *key))[0] for key in plans}
    other = [key for key, header in begun.items() if header and header["digest"] != ledger.digest(plans[key])]
    if other or not any(begun.values()):  # one of two steps may lack its ledger, after a kill between them
        holds = f"exists and contains a different {(other or list(plans))[0][1]}"
        raise StoreError(f"store {target}", holds, "use --overwrite, or choose a new store")
    for group, step in (key for key, header in begun.items() if header):
        if lost := ledger.states(target, group)[step].lost:
            raise StoreError(f"store {target}", f"{lost[0]} is missing", "restore the file, or use --overwrite")


def small_files(target: Path, variables: list[Variable], group: str = "raw") -> list[str]:
    """Coordinates, monitors, readbacks and the metadata of all arrays, which a complete step requires beside blocks."""
    blocks = {v.name for v in variables}
    folders = [target / name for name in arrays(target, "")]
    folders += [target / group / name for name in arrays(target, group) if name not in blocks]
    small = [str(p.relative_to(target)) for f in folders for p in sorted(f.rglob("*")) if p.is_file()]
    return small + [f"{group}/{name}/zarr.json" for name in sorted(blocks)]


def write_layer(
    store: str, z: int, found: Iterable[tuple[int, np.ndarray]], source: str, fence: Fence | None = None
) -> dict[str, list[Any]]:
    """Shards of one layer of ``raw`` from a stream of frames, each with its flat index on the grid.

    Returns
    -------
    dict
        Written files, relative to the store, with size and digest.

    Raises
    ------
    SourceError
        The number of frames differs from the grid; ``source`` names the scan in the message.
    """
    counts = open_array(Path(store, "raw", "counts"))
    assert counts is not None
    edge, (ny, nx) = counts.chunk[-1], counts.shape[-2:]
    scan_shape = counts.shape[1:-2]
    n_frames = prod(scan_shape)
    zeros = (0,) * len(scan_shape)
    band_rows = counts.shard[-2]
    statistics: dict[str, np.ndarray] = {}
    writers = [ShardWriter(counts, (z, *zeros, k, 0)) for k in range(len(bands(ny, band_rows)))]
    tile = np.zeros((edge, edge), counts.dtype)
    seen = 0
    noise: list[float] = []
    sampled: list[int] = []
    # Light never brings counts of 32 bits to the largest value, but does bring counts of 16 bits there: of these, a
    # pixel is masked if it has the largest value in every frame, which is known only at the end.
    long = counts.dtype.itemsize > 2
    marked = np.zeros((ny, nx), bool)
    always: np.ndarray | None = np.ones((ny, nx), bool)
    try:
        for flat, frame in found:
            place = tuple(int(k) for k in np.unravel_index(flat, scan_shape))
            here = masked_pixels(frame) if long or always is not None else None
            if long and here is not None:
                marked |= here
            elif not long and always is not None:
                always = here if here is None else always & here
            for name, values in patch_statistics(frame, here if long else None).items():
                if name not in statistics:
                    statistics[name] = np.zeros((n_frames, *values.shape), values.dtype)
                statistics[name][flat] = values
            for y in range(0, ny, edge):
                row = y // edge
                writer, inside = writers[y // band_rows], row % (band_rows // edge)
                for x in range(0, nx, edge):
                    part = frame[y : y + edge, x : x + edge]
                    if part.shape != tile.shape:
                        tile[...] = 0
                    tile[: part.shape[0], : part.shape[1]] = part
                    writer.write((0, *place, inside, x // edge), tile)
            if seen % ceil(n_frames / NOISE_FRAMES) == 0:
                noise.append(dark_noise(frame, here if long else None))
                sampled.append(flat)
            seen += 1
        if seen != n_frames:
            raise SourceError(source, f"yielded {seen} of {n_frames} frames", "check the file")
        files = _named(store, place_shards(writers, fence.check if fence else None))
        if not long and always is not None and always.any() and n_frames >= FEWEST_MASKED:
            marked, noise = always, []
            for flat, place in enumerate(np.ndindex(*scan_shape)):
                frame = read(counts, (slice(z, z + 1), *(slice(k, k + 1) for k in place), slice(0, ny), slice(0, nx)))
                frame = frame.reshape(ny, nx)
                for name, values in patch_statistics(frame, marked).items():
                    statistics[name][flat] = values
                if flat in sampled:
                    noise.append(dark_noise(frame, marked))
        layer: dict[str, Any] = {n: v.reshape(*scan_shape, *v.shape[1:]) for n, v in statistics.items()}
        layer[NOISE.name] = np.float32(np.quantile(noise, 0.25))
        layer[MASKED.name] = np.uint32(np.count_nonzero(marked))
        return files | write_maps(store, "raw", z, layer, fence)
    finally:
        for writer in writers:
            writer.abandon()


def write_maps(
    store: str, group: str, z: int, layer: Mapping[str, Any], fence: Fence | None = None
) -> dict[str, list[Any]]:
    """Write all shards of the variables of a layer (name → values without z). Returns files with size and digest."""
    with staging() as writers:
        for name, values in layer.items():
            array = open_array(Path(store, group, name))
            assert array is not None
            whole = np.asarray(values)
            for place in product(*(range(ceil(n / s)) for n, s in zip(array.shape[1:], array.shard[1:], strict=True))):
                part = whole[tuple(slice(k * s, (k + 1) * s) for k, s in zip(place, array.shard[1:], strict=True))]
                writers.append(stage_shard(array, (z, *place), part[None]))
        return _named(store, place_shards(writers, fence.check if fence else None))


def _named(store: str, files: Mapping[str, list[Any]]) -> dict[str, list[Any]]:
    """Files by their paths in the store."""
    return {os.path.relpath(path, store): what for path, what in files.items()}
