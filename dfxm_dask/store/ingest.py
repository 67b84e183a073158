"""Ingest: raw beamline files into one labelled store, layer by layer, frame by frame.

A layer is a block: one process writes it, commits it whole, and a repeated ingest skips it. Memory contains one frame
(or the frames of one chunk), whatever the number of frames and layers.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, Literal, NamedTuple

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
    """Result of an ingest: layers on disk, layers absent from the source, cost, and remarks for the user."""

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
    """Input for the writing of one layer, sent to a worker."""

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
    read: Callable[..., Scan] = read_scan,
    **how: Any,
) -> tuple[list[Scan], list[str]]:
    """Scans of the store, ordered by z, and the names of incomplete layers.

    ``how`` as in :class:`dfxm_dask.sources.readers.How`; ``read`` as in :func:`ingest`.

    Raises
    ------
    SourceError
        Layers that do not match: see :mod:`dfxm_dask.sources.stack`.
    """
    scans = [read(path, entry, format=format, **how) for path, entry in named_scans(source, scan, format)]
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
    time_step: float | None = None,
    lattice: Mapping[str, Any] | None = None,
    hkl: Sequence[int] | None = None,
    goniometer: Mapping[str, float] | None = None,
    energy: float | None = None,
    frame: Literal["laboratory", "sample"] | None = None,
    rotation_axis: tuple[float, float] | None = None,
    overwrite: bool = False,
    each: Callable[[Callable[[Any], Any], Iterable[Any]], Iterable[Any]] = map,
    linked_from: str | os.PathLike[str] | None = None,
    read: Callable[..., Scan] = read_scan,
) -> IngestReport:
    """Convert raw scans into one labelled store of counts, motor positions and patch statistics.

    Parameters
    ----------
    source : path, pattern or list of both
        BLISS/NeXus HDF5 masters, EDF series, frames with a table of positions, or files of dfxm-geo; `dfxm-dask
        formats` lists all formats. An existing path is used literally, even with wildcard characters; the files
        of a pattern are sorted in natural order, scan2 before scan10.
    store : path
        Path of the Zarr store. A stopped ingest resumes.
    scan : str, optional
        Entries: "1.1", "1.1,2.1" or "all". Several entries or files become the layers of one store, ordered by the
        value of their z motor.
    beamline : str or path
        Configuration that maps motors to axes.
    detector : str, optional
        Required if a file contains several detectors.
    roi : (y0, y1, x0, x1), pixel, optional
        Region of every frame to keep.
    pixel_size : (y, x), um, optional
        Effective pixel in the object, which the files do not record. By default y and x count pixels, and reductions
        that require lengths raise an error until :func:`dfxm_dask.calibrate` sets the pixel size. A resumed ingest
        keeps the pixel size of the store.
    z : sequence of float, um, optional
        Positions of the layers, in the order of the scans, for files without a z motor.
    motors : mapping of motor to axis, optional
        Overrides of the beamline configuration.
    roots : paths, optional
        Further folders that may contain linked files, besides the folder of the master.
    allow_partial : bool
        Keep aborted scans: the complete rows of a single scan, the complete layers of a stack.
    scan_mode : "rewind" or "zigzag", optional
        Direction of the rows of a scan over two axes, for files with neither ``fast_motor_mode`` nor a position of
        the fast motor for each frame.
    format : str, optional
        Name of the format, for paths that match several formats.
    positions : "motor" or "command", optional
        Source of the positions of the frames if motors and command disagree.
    repeats : "point" or "scan", optional
        Order of repeated frames for each row of a table: all frames of a point together, or the whole scan repeated.
    time_step : float, optional
        Time between two frames, s, of TIFF, EDF or LIMA HDF5 files that record neither motors nor times.
    lattice, hkl : mapping and (int, int, int), optional
        Crystal, its orientation and reflection, for Burgers vectors of boundaries: see :func:`dfxm_dask.calibrate`.
    goniometer, energy, frame, rotation_axis : mapping, keV, str and (y, x) in um, optional
        Setting of the reflection, for :func:`dfxm_dask.join`: see :func:`dfxm_dask.calibrate`.
    overwrite : bool
        Replace an existing store.
    each : callable
        ``map`` or a parallel equivalent: calls a function for every layer and yields the records.
    linked_from : path, optional
        Store whose layers ``each`` links instead of writing them, so that they need no space.
    read : callable
        :func:`dfxm_dask.sources.readers.read_scan`, or a substitute that remembers the scans that it has read.

    Returns
    -------
    IngestReport

    Raises
    ------
    SourceError
        The source is missing, short, contradictory or unreadable; raised before any frame is stored.
    StoreError
        The target exists with other content, cannot be written, or lacks space.
    InputError
        An invalid region, pixel size or crystal.
    """
    begun = time.perf_counter()
    refuse_other_kinds(scan, roi, pixel_size, z)
    setting: dict[str, Any] = {
        "goniometer": goniometer,
        "energy": energy,
        "frame": frame,
        "rotation_axis": rotation_axis,
    }
    crystal = checked_crystal(lattice, hkl, **setting)
    target = Path(store).resolve()  # workers may have another working directory
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
        read=read,
        format=format or ("time_series" if time_step is not None else None),
        positions=positions,
        repeats=repeats,
        time_step=time_step,
    )
    layers = _laid_out(scans, roi)
    whole, first = layers.whole, layers.whole[0]
    if pixel_size is not None:
        pixel_size = check_pixel_size(pixel_size, first.detector_pixel)
    variables = raw_variables({a.name: a.units for a in first.axes}, layers.dtype)
    plan = _plan(layers, pixel_size, variables)
    choices = {"scan_mode": scan_mode, "positions": positions, "repeats": repeats, "time_step": time_step}
    plan |= {word: value for word, value in choices.items() if value}  # keys absent from older stores
    nbytes = prod(layers.layout.shape) * layers.dtype.itemsize
    rows = unit_rows(layers.layout, layers.dtype.itemsize)
    kept = {id(s) for s in whole}
    blocks = {f"z{z:04d}": s for z, s in enumerate(scans) if id(s) in kept}
    cropped = [
        f"{s.source} entry {s.entry} ({s.found} of {s.commanded} frames)" for s in whole if s.found < s.commanded
    ]
    with own_store(target, f"ingest into {target}") as fence:
        done_before = sum(
            f.stat().st_size for t in (target, linked_from) if t is not None for f in Path(t).rglob("*") if f.is_file()
        )  # these bytes are freed, or not written again
        check_space(target, int(nbytes * _encoded_fraction(first, layers.roi) * 1.1) - done_before)
        if not overwrite:
            calibrate.finish(target)
            plan["pixel_size"], pixel_size = calibrate.resumed(target, pixel_size)
        check_existing(target, {("raw", "ingest"): plan}, overwrite)
        ledger.sweep(target, "raw")
        if not ledger.read_ledger(ledger.ledger_path(target, "raw", "ingest"))[
            0
        ]:  # a new store, or an ingest killed before its start
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
            "root": ledger.digest(read_node(target)["attributes"]),  # consolidate checks all nodes
        }
        ledger.complete(target, "raw", "ingest", provenance, small_files(target, variables))
        consolidate(target)
    said = tuple(remarks(scans))
    return IngestReport(len(blocks), len(done), (*absent, *cropped), time.perf_counter() - begun, nbytes, said)


class Layers(NamedTuple):
    """Scans of one store, the complete ones among them, and the layout of the counts."""

    scans: list[Scan]
    whole: list[Scan]
    z: list[float]
    roi: tuple[int, int, int, int] | None
    dtype: np.dtype[Any]
    layout: Layout


def _laid_out(scans: list[Scan], roi: Any) -> Layers:
    """Layout of the layers of scans; the single scan of a store may be incomplete."""
    whole = [s for s in scans if s.found == s.commanded] or scans
    first = whole[0]
    roi = check_roi(roi, first.frame_shape)
    ny, nx = (roi[1] - roi[0], roi[3] - roi[2]) if roi else first.frame_shape
    dtype = np.dtype("uint16") if first.dtype.itemsize < 2 else first.counts_dtype
    layout = raw_layout((len(scans), *(a.positions.size for a in first.axes), ny, nx), dtype.itemsize)
    z = [layer_z(s) for s in scans] if scans[0].z is not None else [0.0]
    return Layers(scans, whole, z, roi, dtype, layout)


def _plan(layers: Layers, pixel_size: Any, variables: list[Variable]) -> dict[str, Any]:
    """Plan in the ledger; a resumed ingest must have the same plan."""
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
    """Provenance of the raw data."""
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
