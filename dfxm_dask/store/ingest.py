"""Ingest: raw beamline files into one labelled store, layer by layer, frame by frame.

A layer is a block: it is written by one writer, committed whole, and skipped when an ingest is run again. Memory holds
one frame (or one chunk's depth of frames) whatever the number of frames and layers.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from math import ceil, prod
from pathlib import Path
from typing import Any

import numpy as np

from dfxm_dask import __version__
from dfxm_dask.errors import DfxmError, SourceError, StoreError
from dfxm_dask.frames.statistics import dark_noise, masked_pixels, patch_statistics
from dfxm_dask.schema import FEWEST_MASKED, MASKED, NOISE, Variable
from dfxm_dask.sources.readers import frames, marked_frames, named_scans, read_scan
from dfxm_dask.sources.source import Scan, load_beamline
from dfxm_dask.sources.stack import axis_attrs, grid_positions, layer_z, name_of, remarks, stacked, z_attrs
from dfxm_dask.store import calibrate
from dfxm_dask.store.argument_kinds import check_roi, refuse_other_kinds
from dfxm_dask.store.chunks import bands, raw_layout, unit_rows
from dfxm_dask.store.create import check_pixel_size, create_store, raw_variables
from dfxm_dask.store.crystal import checked_crystal, crystal_of_store, refuse_other_crystal
from dfxm_dask.store.integrity import ledger
from dfxm_dask.store.integrity.lock import STORE_LOCK, Fence, own_store
from dfxm_dask.store.integrity.opened import open_store
from dfxm_dask.store.metadata import read_node
from dfxm_dask.store.scan import arrays, consolidate
from dfxm_dask.store.shards import ShardWriter, open_array, place_shards, read, stage_shard, staging

NOISE_FRAMES = 16  # frames of a layer, evenly spread, that the noise is taken from


@dataclass(frozen=True)
class IngestReport:
    """What an ingest did: layers on disk, layers that the source lacks, its cost, and what the user should know."""

    layers: int
    skipped: int
    absent: tuple[str, ...]
    seconds: float
    bytes: int
    remarks: tuple[str, ...] = ()


@dataclass(frozen=True)
class LayerTask:
    """Everything that writing one layer needs; travels to a worker."""

    store: str
    z: int
    scan: Scan
    roi: tuple[int, int, int, int] | None
    fence: Fence | None = None


def read_layers(
    source: Any,
    scan: Any,
    *,
    z: Sequence[float] | None = None,
    format: str | None = None,
    **how: Any,
) -> tuple[list[Scan], list[str]]:
    """The scans that make up the store, ordered by z, and the names of layers that are not complete.

    ``how`` is as of :class:`dfxm_dask.sources.readers.How`.

    Raises
    ------
    SourceError
        Layers that do not fit together: see :mod:`dfxm_dask.sources.stack`.
    """
    scans = [read_scan(path, entry, format=format, **how) for path, entry in named_scans(source, scan, format)]
    order = stacked(scans, z)
    if len(order) == 1:
        return order, []
    return order, [f"{name_of(s)} ({s.found} of {s.commanded} frames)" for s in order if s.found < s.commanded]


def check_target(store: Path) -> None:
    parts = [p.upper() for p in store.resolve().parts]
    if "RAW_DATA" in parts:
        raise StoreError(f"store {store}", "lies under RAW_DATA, which is read-only", "write under PROCESSED_DATA")
    parent = next(p for p in [store, *store.resolve().parents] if p.exists())
    if not parent.is_dir() or not os.access(parent, os.W_OK | os.X_OK):
        raise StoreError(f"store {store}", f"{parent} cannot be written", "choose another place")


def check_space(store: Path, need: int) -> None:
    parent = next(p for p in [store, *store.resolve().parents] if p.exists())
    free = shutil.disk_usage(parent).free
    if free < need:
        raise StoreError(
            f"store {store}", f"needs about {need / 1e6:.0f} MB, {free / 1e6:.0f} MB are free", "free space, or move"
        )


def _encoded_fraction(scan: Scan, roi: Any) -> float:
    """Bytes on disk per byte of counts, from the first frame."""
    from numcodecs import blosc

    for _, frame in frames(scan, roi=roi):
        sample = np.ascontiguousarray(frame)
        return len(blosc.compress(sample, b"lz4", 5, blosc.BITSHUFFLE, 0, sample.itemsize)) / sample.nbytes
    return 1.0


def ingest(
    source: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    store: str | os.PathLike[str],
    *,
    scan: str | Sequence[str] | None = None,
    beamline: str | os.PathLike[str] = "id03",
    detector: str | None = None,
    roi: tuple[int, int, int, int] | None = None,
    pixel_size: tuple[float, float] | None = None,
    z: Sequence[float] | None = None,
    motors: Mapping[str, str] | None = None,
    roots: Sequence[str | os.PathLike[str]] = (),
    allow_partial: bool = False,
    scan_mode: str | None = None,
    format: str | None = None,
    positions: str | None = None,
    repeats: str | None = None,
    lattice: Mapping[str, Any] | None = None,
    hkl: Sequence[int] | None = None,
    overwrite: bool = False,
    each: Callable[[Callable[[Any], Any], Iterable[Any]], Iterable[Any]] = map,
) -> IngestReport:
    """Counts, motors and per-patch statistics of raw scans, in one labelled store.

    Parameters
    ----------
    source : path, pattern or list of both
        BLISS/NeXus HDF5 masters, EDF series, frames with a table of positions, or files of dfxm-geo; `dfxm-dask
        formats` lists all that can be read. A path that exists is taken as it is, whatever characters it has;
        files of a pattern come in natural order, scan2 before scan10.
    store : path
        Where the Zarr store goes. An ingest that was stopped goes on where it stopped.
    scan : str, optional
        Entries: "1.1", "1.1,2.1" or "all". Several entries or files become the layers of one store, ordered by the
        value of their z motor.
    beamline : str or path
        Configuration that maps motors to axes.
    detector : str, optional
        Needed where a file holds several.
    roi : (y0, y1, x0, x1), pixel, optional
        Part of every frame to keep.
    pixel_size : (y, x), um, optional
        Effective pixel in the object. The files do not record it; without it y and x count pixels, and reductions
        that need lengths refuse, until :func:`dfxm_dask.calibrate` sets it. An ingest that goes on keeps what the
        store has.
    z : sequence of float, um, optional
        Positions of the layers, in the order of the scans, for files that record no z motor.
    motors : mapping of motor to axis, optional
        Overrides of the beamline configuration.
    roots : paths, optional
        Folders beside the master's own that linked files may lie in.
    allow_partial : bool
        Keep what an aborted scan has: of one scan the complete rows, of a stack the complete layers.
    scan_mode : "rewind" or "zigzag", optional
        Direction of the rows of a scan over two axes, where the file has neither ``fast_motor_mode`` nor a position
        of the fast motor for each frame.
    format : str, optional
        Name of the format, where a path fits several.
    positions : "motor" or "command", optional
        What tells the positions of the frames where motors and command disagree.
    repeats : "point" or "scan", optional
        Order of several frames for each row of a table: all frames of a point together, or the whole scan again.
    lattice, hkl : mapping and (int, int, int), optional
        Crystal, how it stands, and its reflection, for Burgers vectors of boundaries: see :func:`dfxm_dask.calibrate`.
    overwrite : bool
        Replace a store that is there.
    each : callable
        ``map`` or a parallel stand-in for it: calls a function on every layer and yields the records.

    Returns
    -------
    IngestReport

    Raises
    ------
    SourceError
        Anything in the source that is missing, short, contradictory or unreadable: before any frame is stored.
    StoreError
        The target exists with other contents, cannot be written, or has no space.
    InputError
        A region, pixel size or crystal that makes no sense.
    """
    begun = time.perf_counter()
    refuse_other_kinds(scan, roi, pixel_size, z)
    crystal = checked_crystal(lattice, hkl)
    target = Path(store).resolve()  # workers may stand elsewhere
    check_target(target)
    line = load_beamline(beamline, dict(motors or {}))
    scans, absent = read_layers(
        source,
        scan,
        beamline=line,
        detector=detector,
        roots=[Path(r) for r in roots],
        allow_partial=allow_partial,
        z=z,
        scan_mode=scan_mode,
        format=format,
        positions=positions,
        repeats=repeats,
    )
    whole = [s for s in scans if s.found == s.commanded] or scans
    first = whole[0]
    roi = check_roi(roi, first.frame_shape)
    if pixel_size is not None:
        pixel_size = check_pixel_size(pixel_size, first.detector_pixel)
    z_values = [layer_z(s) for s in scans] if scans[0].z is not None else [0.0]
    ny, nx = (roi[1] - roi[0], roi[3] - roi[2]) if roi else first.frame_shape
    dtype = np.dtype("uint16") if first.dtype.itemsize < 2 else first.counts_dtype
    grid = tuple(a.positions.size for a in first.axes)
    layout = raw_layout((len(scans), *grid, ny, nx), dtype.itemsize)
    names = {a.name: a.units for a in first.axes}
    variables = raw_variables(names, dtype)
    plan = {
        "sources": [
            {
                "file": Path(s.source).name,
                "entry": s.entry,
                "detector": s.detector,
                "z_motor": s.z_motor,
                "files": [[Path(f).name, n, t] for f, n, t in s.files],
                "datasets": sorted({p.dataset for p in s.pieces}),
            }
            for s in scans
        ],
        "layout": [layout.shape, layout.chunk, layout.shard, dtype.name],
        "roi": roi,
        "pixel_size": pixel_size,
        "axes": {a.name: grid_positions(whole, k).tolist() for k, a in enumerate(first.axes)},
        "z": z_values,
        "writes": [v.name for v in variables],
    }
    choices = {"scan_mode": scan_mode, "positions": positions, "repeats": repeats}
    plan |= {word: value for word, value in choices.items() if value}  # keys that stores of before do not have
    said = tuple(remarks(scans))
    nbytes = prod(layout.shape) * dtype.itemsize
    rows = unit_rows(layout, dtype.itemsize)
    kept = {id(s) for s in whole}
    blocks = {f"z{z:04d}": s for z, s in enumerate(scans) if id(s) in kept}
    cropped = [
        f"{s.source} entry {s.entry} ({s.found} of {s.commanded} frames)" for s in whole if s.found < s.commanded
    ]
    with own_store(target, f"ingest into {target}") as fence:
        done_before = sum(f.stat().st_size for f in target.rglob("*") if f.is_file())  # freed, or not written again
        check_space(target, int(nbytes * _encoded_fraction(first, roi) * 1.1) - done_before)
        if not overwrite:
            calibrate.finish(target)
            plan["pixel_size"], pixel_size = calibrate.resumed(target, pixel_size)
        check_existing(target, {("raw", "ingest"): plan}, overwrite)
        ledger.sweep(target, "raw")
        if not ledger.read_ledger(ledger.ledger_path(target, "raw", "ingest"))[0]:  # new, or killed before it began
            create_store(target, scans, whole, layout, rows, variables, roi, pixel_size, z_values, crystal)
        refuse_other_crystal(target, crystal)
        done = ledger.begin(target, "raw", "ingest", plan, blocks)
        tasks = [LayerTask(str(target), int(b[1:]), s, roi, fence) for b, s in blocks.items() if b not in done]
        for record in each(ingest_layer, tasks):
            fence.check()
            ledger.commit(target, "raw", "ingest", {**record, "run": fence.token})
        provenance = {
            "reduction": "ingest",
            "version": __version__,
            "parameters": {"roi": roi, "pixel_size": pixel_size, "detector": first.detector} | crystal_of_store(target),
            "absent": absent,
            "cropped": cropped,
            "remarks": list(said),
            "positions": {a.name: axis_attrs(whole, k) for k, a in enumerate(first.axes)} | {"z": z_attrs(whole)},
            "monitor": {"counter": first.monitor_name, "units": first.monitor_units or "not recorded"},
            "exposure": first.exposure_source,
            **calibrate.recorded_geometry(whole, line),
            "layers": [[Path(s.source).name, s.entry, at] for s, at in zip(scans, z_values, strict=True)],
            "root": ledger.digest(read_node(target)["attributes"]),  # all nodes are checked as they are consolidated
        }
        ledger.complete(target, "raw", "ingest", provenance, small_files(target, variables))
        consolidate(target)
    return IngestReport(len(blocks), len(done), (*absent, *cropped), time.perf_counter() - begun, nbytes, said)


def small_files(target: Path, variables: list[Variable], group: str = "raw") -> list[str]:
    """Coordinates, monitors, readbacks and the metadata of all arrays: they must be there as the blocks must."""
    blocks = {v.name for v in variables}
    folders = [target / name for name in arrays(target, "")]
    folders += [target / group / name for name in arrays(target, group) if name not in blocks]
    small = [str(p.relative_to(target)) for f in folders for p in sorted(f.rglob("*")) if p.is_file()]
    return small + [f"{group}/{name}/zarr.json" for name in sorted(blocks)]


def check_existing(target: Path, plans: Mapping[tuple[str, str], Mapping[str, Any]], overwrite: bool) -> None:
    """Refuse a place that holds something else; remove our own store where overwriting was asked.

    Parameters
    ----------
    plans : mapping of (group, step) to plan
        What is to be written first into the store. A store that has any ledger must have these, with these plans.

    Raises
    ------
    StoreError
        Not a store of ours, or one that began with something else.
    """
    found = [p for p in target.iterdir() if p.name != STORE_LOCK] if target.is_dir() else [target]
    found = [p for p in found if not p.name.endswith(".partial")]  # of an ingest that was killed as it began
    if not found or not target.exists():
        return
    try:
        ours = "schema_version" in open_store(target).nodes[""]["attributes"]
    except (DfxmError, KeyError, OSError):
        ours = any(target.glob("*/.ledger/*.jsonl"))
    if not ours:
        raise StoreError(f"store {target}", "exists and is not a store of this package", "choose another place")
    if overwrite:
        for path in found:
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
        return
    if not any(target.glob("*/.ledger/*.jsonl")):
        return  # killed before anything was begun
    begun = {key: ledger.read_ledger(ledger.ledger_path(target, *key))[0] for key in plans}
    other = [key for key, header in begun.items() if header and header["digest"] != ledger.digest(plans[key])]
    if other or not any(begun.values()):  # one of two steps may lack its ledger: killed between them
        holds = f"exists and holds another {(other or list(plans))[0][1]}"
        raise StoreError(f"store {target}", holds, "say --overwrite, or name a new store")
    for group, step in (key for key, header in begun.items() if header):
        if lost := ledger.states(target, group)[step].lost:
            raise StoreError(f"store {target}", f"{lost[0]} is missing", "restore the file, or say --overwrite")


def ingest_layer(task: LayerTask) -> ledger.Record:
    """Write one layer: a shard per band of counts, a shard of every patch statistic. Returns its record."""
    begun = time.perf_counter()
    counts = open_array(Path(task.store, "raw", "counts"))
    assert counts is not None
    marked = marked_frames(task.scan, np.dtype(counts.dtype), roi=task.roi)
    found = ((int(task.scan.order[number]), frame) for number, frame in marked)
    files = write_layer(task.store, task.z, found, f"{task.scan.source} entry {task.scan.entry}", task.fence)
    return {
        "block": f"z{task.z:04d}",
        "read": [[Path(p.file).name, p.dataset, p.first, p.count] for p in task.scan.pieces],
        "files": files,
        "seconds": round(time.perf_counter() - begun, 3),
    }


def write_layer(
    store: str, z: int, found: Iterable[tuple[int, np.ndarray]], source: str, fence: Fence | None = None
) -> dict[str, list[Any]]:
    """Shards of one layer of ``raw`` from a stream of frames, each with its flat index on the grid.

    Returns
    -------
    dict
        Files that were written, relative to the store, with size and digest.

    Raises
    ------
    SourceError
        Fewer or more frames than the grid has; ``source`` names them.
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
    # Counts of 32 bits never reach the largest value by light, those of 16 bits do: there a pixel is masked that has it
    # in every frame, which is known at the end.
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
            raise SourceError(source, f"gave {seen} of {n_frames} frames", "check the file")
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
    """All shards of the variables of a layer: name → values without z. Returns files with size and digest."""
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
    """Files by their names in the store."""
    return {os.path.relpath(path, store): what for path, what in files.items()}
