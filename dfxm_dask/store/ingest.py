"""Ingest: raw beamline files into one labelled store, layer by layer, frame by frame.

A layer is a block: it is written by one writer, committed whole, and skipped when an ingest is run again. Memory holds
one frame (or one chunk's depth of frames) whatever the number of frames and layers.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from dfxm_dask import __version__
from dfxm_dask.schema import Variable
from dfxm_dask.sources.readers import frames, marked_frames, named_scans, read_scan
from dfxm_dask.sources.source import Beamline, Scan, load_beamline
from dfxm_dask.sources.stack import axis_attrs, grid_positions, layer_z, name_of, remarks, stacked, z_attrs
from dfxm_dask.store import calibrate
from dfxm_dask.store.argument_kinds import check_roi, refuse_other_kinds
from dfxm_dask.store.chunks import Layout, raw_layout, unit_rows
from dfxm_dask.store.create import check_pixel_size, create_store, raw_variables
from dfxm_dask.store.crystal import checked_crystal, crystal_of_store, refuse_other_crystal
from dfxm_dask.store.integrity import ledger
from dfxm_dask.store.integrity.lock import Fence, own_store
from dfxm_dask.store.integrity.nodes import consolidate
from dfxm_dask.store.layers import check_existing, check_space, check_target, small_files, write_layer
from dfxm_dask.store.lengths import recorded_geometry
from dfxm_dask.store.metadata import read_node
from dfxm_dask.store.shards import open_array


@dataclass(frozen=True)
class IngestReport:
    """What an ingest did: layers on disk, layers that the source lacks, its cost, and what the user should know."""

    layers: int
    skipped: int
    absent: tuple[str, ...]
    seconds: float
    bytes: int
    remarks: tuple[str, ...] = ()

    def __repr__(self) -> str:
        absent = f"; absent: {', '.join(self.absent)}" if self.absent else ""
        remarks = f"; remarks: {len(self.remarks)}" if self.remarks else ""
        return f"<ingested: layers {self.layers}, {self.bytes / 1e6:.4g} MB in {self.seconds:.1f} s{absent}{remarks}>"


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
    layers = _laid_out(scans, roi)
    whole, first = layers.whole, layers.whole[0]
    if pixel_size is not None:
        pixel_size = check_pixel_size(pixel_size, first.detector_pixel)
    variables = raw_variables({a.name: a.units for a in first.axes}, layers.dtype)
    plan = _plan(layers, pixel_size, variables)
    choices = {"scan_mode": scan_mode, "positions": positions, "repeats": repeats}
    plan |= {word: value for word, value in choices.items() if value}  # keys that stores of before do not have
    nbytes = prod(layers.layout.shape) * layers.dtype.itemsize
    rows = unit_rows(layers.layout, layers.dtype.itemsize)
    kept = {id(s) for s in whole}
    blocks = {f"z{z:04d}": s for z, s in enumerate(scans) if id(s) in kept}
    cropped = [
        f"{s.source} entry {s.entry} ({s.found} of {s.commanded} frames)" for s in whole if s.found < s.commanded
    ]
    with own_store(target, f"ingest into {target}") as fence:
        done_before = sum(f.stat().st_size for f in target.rglob("*") if f.is_file())  # freed, or not written again
        check_space(target, int(nbytes * _encoded_fraction(first, layers.roi) * 1.1) - done_before)
        if not overwrite:
            calibrate.finish(target)
            plan["pixel_size"], pixel_size = calibrate.resumed(target, pixel_size)
        check_existing(target, {("raw", "ingest"): plan}, overwrite)
        ledger.sweep(target, "raw")
        if not ledger.read_ledger(ledger.ledger_path(target, "raw", "ingest"))[0]:  # new, or killed before it began
            create_store(
                target, scans, whole, layers.layout, rows, variables, layers.roi, pixel_size, layers.z, crystal
            )
        refuse_other_crystal(target, crystal)
        done = ledger.begin(target, "raw", "ingest", plan, blocks)
        tasks = [LayerTask(str(target), int(b[1:]), s, layers.roi, fence) for b, s in blocks.items() if b not in done]
        for record in each(ingest_layer, tasks):
            fence.check()
            ledger.commit(target, "raw", "ingest", {**record, "run": fence.token})
        provenance = {
            **_provenance(target, layers, line, pixel_size, absent, cropped),
            "root": ledger.digest(read_node(target)["attributes"]),  # all nodes are checked as they are consolidated
        }
        ledger.complete(target, "raw", "ingest", provenance, small_files(target, variables))
        consolidate(target)
    said = tuple(remarks(scans))
    return IngestReport(len(blocks), len(done), (*absent, *cropped), time.perf_counter() - begun, nbytes, said)


class Layers(NamedTuple):
    """Scans that become the layers of one store, those of them that are complete, and how their counts will lie."""

    scans: list[Scan]
    whole: list[Scan]
    z: list[float]
    roi: tuple[int, int, int, int] | None
    dtype: np.dtype[Any]
    layout: Layout


def _laid_out(scans: list[Scan], roi: Any) -> Layers:
    """Where the layers of scans will lie; the one scan of a store may be incomplete, and is kept as it is."""
    whole = [s for s in scans if s.found == s.commanded] or scans
    first = whole[0]
    roi = check_roi(roi, first.frame_shape)
    ny, nx = (roi[1] - roi[0], roi[3] - roi[2]) if roi else first.frame_shape
    dtype = np.dtype("uint16") if first.dtype.itemsize < 2 else first.counts_dtype
    layout = raw_layout((len(scans), *(a.positions.size for a in first.axes), ny, nx), dtype.itemsize)
    z = [layer_z(s) for s in scans] if scans[0].z is not None else [0.0]
    return Layers(scans, whole, z, roi, dtype, layout)


def _plan(layers: Layers, pixel_size: Any, variables: list[Variable]) -> dict[str, Any]:
    """What the ledger says will be written: an ingest that goes on must have the same."""
    layout = layers.layout
    return {
        "sources": [
            {
                "file": Path(s.source).name,
                "entry": s.entry,
                "detector": s.detector,
                "z_motor": s.z_motor,
                "files": [[Path(f).name, n, t] for f, n, t in s.files],
                "datasets": sorted({p.dataset for p in s.pieces}),
            }
            for s in layers.scans
        ],
        "layout": [layout.shape, layout.chunk, layout.shard, layers.dtype.name],
        "roi": layers.roi,
        "pixel_size": pixel_size,
        "axes": {a.name: grid_positions(layers.whole, k).tolist() for k, a in enumerate(layers.whole[0].axes)},
        "z": layers.z,
        "writes": [v.name for v in variables],
    }


def _provenance(
    target: Path, layers: Layers, line: Beamline, pixel_size: Any, absent: list[str], cropped: list[str]
) -> dict[str, Any]:
    """Where the raw data come from, and what was made of them."""
    whole, first = layers.whole, layers.whole[0]
    chosen = {"roi": layers.roi, "pixel_size": pixel_size, "detector": first.detector}
    return {
        "reduction": "ingest",
        "version": __version__,
        "parameters": chosen | crystal_of_store(target),
        "absent": absent,
        "cropped": cropped,
        "remarks": list(remarks(layers.scans)),
        "positions": {a.name: axis_attrs(whole, k) for k, a in enumerate(first.axes)} | {"z": z_attrs(whole)},
        "monitor": {"counter": first.monitor_name, "units": first.monitor_units or "not recorded"},
        "exposure": first.exposure_source,
        **recorded_geometry(whole, line),
        "layers": [[Path(s.source).name, s.entry, at] for s, at in zip(layers.scans, layers.z, strict=True)],
    }


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
