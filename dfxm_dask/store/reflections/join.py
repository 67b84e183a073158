"""A set of reflections from the stores of several scans: centres of mass and their covariances on one grid."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from dfxm_dask import __version__
from dfxm_dask.errors import InputError, StoreError
from dfxm_dask.optics.geometry import rotation_y
from dfxm_dask.schema import REFLECTION, Variable
from dfxm_dask.store.chunks import Layout, bands, map_layout, round_up
from dfxm_dask.store.create import pixel_attrs
from dfxm_dask.store.integrity import ledger
from dfxm_dask.store.integrity.lock import Fence, own_store
from dfxm_dask.store.integrity.nodes import consolidate, create_array, create_group, root_attrs, write_small
from dfxm_dask.store.integrity.opened import open_store
from dfxm_dask.store.layers import check_existing, check_space, check_target, small_files
from dfxm_dask.store.reflections.alignment import shifts
from dfxm_dask.store.reflections.grid import Grid, Place, common_grid, place
from dfxm_dask.store.reflections.recorded import Reflection, middle, recorded
from dfxm_dask.store.reflections.resampled import HALO, Source, height_covariance, on_grid
from dfxm_dask.store.reflections.settings import Options, Settings, settings
from dfxm_dask.store.shards import ShardWriter, open_array, place_shards, stage_shard, staging
from dfxm_dask.strain.goniometer import reflections
from dfxm_dask.strain.null_space import undetermined
from dfxm_dask.strain.variables import (
    ANGLES,
    CENTRE,
    CENTRE_COVARIANCE,
    HKL,
    RECIPROCAL_LATTICE,
    SETTING,
    SHIFT,
    SHIFT_ERROR,
    WAVELENGTH,
    ZERO,
)

EDGE = 64
"""Edge of the inner chunks of a set, pixels: a set has some hundred bytes per pixel."""
BAND_BYTES = 32 * 2**20
"""Bytes of the maps of one unit of work (our choice: results and intermediate values are several times larger)."""
FARTHEST = 5.0
"""degree: largest deviation of a reflection from its nominal setting (our choice)."""
LEAST = 2
FWHM = float(np.sqrt(8 * np.log(2)))
"""Full width at half maximum of a Gaussian over its standard deviation."""


@dataclass(frozen=True)
class JoinReport:
    """Result of a join.

    Reflections with their settings (mu, omega, eta, theta) in degree, layers on disk, shifts (y, x) with standard
    errors in um (NaN for shifts that were not found by registration), and remarks.
    """

    hkl: tuple[tuple[int, ...], ...]
    setting: tuple[tuple[float, ...], ...]
    layers: int
    skipped: int
    shift: tuple[tuple[float, ...], ...]
    shift_error: tuple[tuple[float, ...], ...]
    seconds: float
    bytes: int
    remarks: tuple[str, ...] = ()

    def __repr__(self) -> str:
        listed = ", ".join(" ".join(map(str, one)) for one in self.hkl)
        remarks = f"; remarks: {len(self.remarks)}" if self.remarks else ""
        return f"<joined: reflections {listed}; layers {self.layers}, {self.bytes / 1e6:.4g} MB{remarks}>"


@dataclass(frozen=True)
class JoinTask:
    """Input for the writing of one layer of a set, sent to a worker."""

    store: str
    z: int
    sources: tuple[tuple[Source, np.ndarray], ...]
    y: np.ndarray
    x: np.ndarray
    along: tuple[np.ndarray, ...] = ()
    """Displacement (y, x) of the diffracted beam of each source over one standard deviation of the height of the beam,
    pixels of the set; empty for an unknown height."""
    fence: Fence | None = None


def join(
    target: str | os.PathLike[str],
    *stores: str | os.PathLike[str],
    hkl: Sequence[Sequence[int]] | None = None,
    lattice: Mapping[str, Any] | None = None,
    reciprocal_lattice: Any = None,
    energy: float | None = None,
    omega: Sequence[float] | None = None,
    eta: float | Sequence[float] | None = None,
    mu: float | None = None,
    frame: Literal["laboratory", "sample"] | None = None,
    zero: Literal["nominal", "mean"] = "nominal",
    shift: Literal["auto", "none"] | Sequence[Sequence[float]] = "auto",
    pixel_size: tuple[float, float] | None = None,
    beam_height: float | None = None,
    overwrite: bool = False,
    each: Callable[[Callable[[Any], Any], Iterable[Any]], Iterable[Any]] = map,
) -> JoinReport:
    """Set of reflections: centres of mass of several scans of one sample, with their covariances, on one grid.

    Every store contains one reflection with the results of ``centres``, or of ``moments`` and ``moment_errors``; a
    store with results of ``centres`` contributes these. The set contains no
    counts; reductions of strain read it. An interrupted join continues where it stopped.

    Parameters
    ----------
    target : path
        Store of the set.
    stores : path
        Stores of the reflections, two or more; three with non-coplanar scattering vectors determine the deformation.
    hkl : sequence of (int, int, int), optional
        Reflection of every store, where the stores do not record it.
    lattice : mapping, optional
        Cubic lattice in the axes of the sample, such as ``{"parameter": 4.05e-4, "x": (1, 0, 0), "z": (0, 0, 1)}``,
        with the parameter in um. By default the lattices that the stores record.
    reciprocal_lattice : array (row, column), 1/angstrom, optional
        UB in the axes of the sample at omega = 0, with a*, b*, c* as columns, 2 pi included; instead of ``lattice``.
    energy : float, keV, optional
        Photon energy, where the stores do not record it.
    omega, eta, mu : sequence of float, float or sequence of float, float, degree, optional
        Goniometer angles of every store, where the stores do not record them. They select one of the settings that UB,
        hkl and energy allow.
    frame : "laboratory" or "sample", optional
        Axes of the pixels, where the stores do not record them: those of the laboratory, turned by omega about z
        against the sample, or those of the sample.
    zero : "nominal" or "mean"
        Reference of the angles. "nominal": the positions of the scans are deviations from the setting of the reference
        lattice. "mean": the median over the lit pixels of every reflection; the deformation is then relative to the
        mean lattice, and a common rotation and strain of all pixels is lost.
    shift : "auto", "none" or sequence of (float, float), um
        Displacement (y, x) of the sample in every store relative to the first one, in the axes of the sample: found by
        registration, zero, or given.
    pixel_size : (y, x), um, optional
        Pixel of the set. By default the grid of the first store if its pixels lie in the axes of the sample, else
        square pixels with the longest edge of the pixels of the stores.
    beam_height : float, um, optional
        Full width at half maximum of the height of the line beam. The covariance then contains the difference between
        the mean over this height along the diffracted beam and the value in the middle of the layer, to second order
        within the layer.
    overwrite : bool
        Replace an existing store.
    each : callable
        ``map`` or a parallel equivalent: calls a function for every layer and yields the records.

    Returns
    -------
    JoinReport

    Raises
    ------
    StoreError
        A store without errors of the moments, with absent layers or with stale results; the target exists with other
        content, cannot be written, or lacks space.
    InputError
        Missing or contradictory crystal, energy, motors, layers or pixels; the same reflection twice; angles out of
        range; shifts that the maps do not determine.

    Examples
    --------
    >>> dfxm_dask.join("set.zarr", "a.zarr", "b.zarr", "c.zarr")    # doctest: +SKIP
    """
    begun = time.perf_counter()
    if len(stores) < LEAST:
        raise InputError("join", f"has {len(stores)} store of a reflection", "give the stores of at least two")
    target = Path(target).resolve()
    check_target(target)
    _refuse_scan(target)
    found = [recorded(store) for store in stores]
    etas = [float(eta)] * len(found) if isinstance(eta, int | float) else eta
    known = settings(found, Options(hkl, lattice, reciprocal_lattice, energy, omega, etas, mu, frame))
    grid = common_grid(found, known, pixel_size)
    zeros = _zeros(found, zero)
    along = _along(known, grid, beam_height)
    moved, errors, told = shifts(found, known, grid, shift)
    remarks = (*known.remarks, *told, *_undetermined(known, zeros))
    places = [place(one, known.turn[k], known.frames[k] == "laboratory", moved[k]) for k, one in enumerate(found)]
    layouts = _layouts(len(found), grid)
    tables: dict[Variable, np.ndarray] = {
        HKL: known.hkl,
        SETTING: known.setting,
        ZERO: zeros,
        RECIPROCAL_LATTICE: known.reciprocal_lattice,
        WAVELENGTH: known.wavelength,
        SHIFT: moved,
        SHIFT_ERROR: errors,
    }
    plan = _plan(target, found, grid, tables, places) | {"beam_height": beam_height}
    blocks = [f"z{z:04d}" for z in range(grid.z.size)]
    nbytes = int(sum(np.prod(v.shape) * np.dtype(n.dtype).itemsize for n, v in layouts.items()))
    with own_store(target, f"join into {target}") as fence:
        check_space(target, nbytes // 2)
        check_existing(target, {("raw", "ingest"): plan}, overwrite)
        ledger.sweep(target, "raw")
        if not ledger.read_ledger(ledger.ledger_path(target, "raw", "ingest"))[0]:
            _create(target, found, known, grid, layouts, tables)
        done = ledger.begin(target, "raw", "ingest", plan, blocks)
        sources = tuple(
            (Source(str(o.path), o.prefix, o.axes, p), z) for o, p, z in zip(found, places, zeros, strict=True)
        )
        tasks = [
            JoinTask(str(target), int(b[1:]), sources, grid.y, grid.x, along, fence) for b in blocks if b not in done
        ]
        for record in each(join_layer, tasks):
            fence.check()
            ledger.commit(target, "raw", "ingest", {**record, "run": fence.token})
        provenance = {
            "reduction": "join",
            "version": __version__,
            "parameters": {
                "zero": zero,
                "shift": moved.tolist(),
                "pixel_size": _pixel(grid),
                "beam_height": beam_height,
            },
            "sources": plan["sources"],
            "absent": [],
            "cropped": [],
            "remarks": list(remarks),
            "root": ledger.digest(open_store(target).nodes[""]["attributes"]),
        }
        ledger.complete(target, "raw", "ingest", provenance, small_files(target, [*layouts]))
        consolidate(target)
    return JoinReport(
        tuple(tuple(map(int, row)) for row in known.hkl),
        tuple(tuple(map(float, row)) for row in known.setting),
        len(blocks),
        len(done),
        tuple(tuple(map(float, row)) for row in moved),
        tuple(tuple(map(float, row)) for row in errors),
        time.perf_counter() - begun,
        nbytes,
        remarks,
    )


def _refuse_scan(target: Path) -> None:
    """Refuse to replace the store of a scan by a set.

    Raises
    ------
    StoreError
        The target contains counts.
    """
    if (target / "raw" / "counts" / "zarr.json").exists():
        raise StoreError(
            f"set {target}",
            "is the store of a scan, not a set of reflections",
            "name the new set first: dfxm-dask join SET.zarr A.zarr B.zarr C.zarr",
        )


def _undetermined(known: Settings, zeros: np.ndarray) -> tuple[str, ...]:
    """Remark on the deformations that the scanned angles of a set leave undetermined."""
    at = reflections(known.hkl, known.setting, known.reciprocal_lattice, known.wavelength, deviation=0.1)
    names = undetermined(at, np.isfinite(zeros))
    return (f"the set leaves undetermined: {'; '.join(names)}",) if names else ()


def _along(known: Settings, grid: Grid, height: float | None) -> tuple[np.ndarray, ...]:
    """Displacements of the diffracted beams over one standard deviation of the height of the beam, pixels (y, x).

    Raises
    ------
    InputError
        A height that is not positive.
    """
    if height is None:
        return ()
    if not 0 < height < np.inf:
        raise InputError("beam_height", f"is {height!r}", "give the full width at half maximum in um")
    at = reflections(known.hkl, known.setting, known.reciprocal_lattice, known.wavelength, deviation=0.1)
    pitch = np.array(_pixel(grid))
    beams = [turned @ rotation_y(-2 * theta)[:, 0] for turned, theta in zip(at.turned, at.theta, strict=True)]
    return tuple(height / FWHM * beam[1::-1] / beam[2] / pitch for beam in beams)


def _zeros(stores: Sequence[Reflection], zero: str) -> np.ndarray:
    """Reference of the angles of every reflection, degree: (reflection, angle); NaN along an axis without a scan.

    Raises
    ------
    InputError
        An unknown reference, or angles far from it.
    """
    if zero not in ("nominal", "mean"):
        raise InputError(f"zero {zero!r}", "is unknown", "choose nominal or mean")
    medians = np.array([middle(one) for one in stores])
    chosen = medians if zero == "mean" else np.where(np.isnan(medians), np.nan, 0.0)
    for one, away in zip(stores, medians - chosen, strict=True):
        for angle, value in zip(ANGLES, away, strict=True):
            if abs(value) > FARTHEST:
                raise InputError(
                    f"{angle} of {one.path.name}",
                    f"has a median of {value:.4g} degree, too far for a deviation from the nominal setting",
                    "use --zero mean, or ingest positions relative to the nominal setting",
                )
    return chosen


def _layouts(count: int, grid: Grid) -> dict[Variable, Layout]:
    """Layout of the maps of a set."""
    rows = unit_rows(count, grid)
    sizes = {"z": grid.z.size, REFLECTION: count, "y": grid.y.size, "x": grid.x.size, "angle": 3, "angle2": 3}
    return {v: map_layout(v.dims, tuple(sizes[d] for d in v.dims), rows, EDGE) for v in (CENTRE, CENTRE_COVARIANCE)}


def unit_rows(count: int, grid: Grid) -> int:
    """Rows in one unit of work of a set: whole chunk rows, about 32 MiB of maps."""
    each = count * (3 * 8 + 9 * 4) * round_up(grid.x.size, EDGE)
    rows = max(EDGE, BAND_BYTES // each // EDGE * EDGE)
    return min(rows, round_up(grid.y.size, EDGE))


def _pixel(grid: Grid) -> list[float]:
    return [float(v[1] - v[0]) if v.size > 1 else float("nan") for v in (grid.y, grid.x)]


def _plan(
    target: Path,
    stores: Sequence[Reflection],
    grid: Grid,
    tables: Mapping[Variable, np.ndarray],
    places: Sequence[Place],
) -> dict[str, Any]:
    """Plan in the ledger; a resumed join must have the same plan. Its sources identify the content of the stores."""
    return {
        "sources": [{"store": os.path.relpath(o.path, target.parent), "digests": o.digests} for o in stores],
        "grid": {name: ledger.digest(values.tolist()) for name, values in zip("zyx", grid, strict=True)},
        "tables": {v.name: ledger.digest(np.round(values, 12).astype(str).tolist()) for v, values in tables.items()},
        "places": [ledger.digest(np.round([*p.turn.ravel(), *p.start], 9).tolist()) for p in places],
        "writes": [CENTRE.name, CENTRE_COVARIANCE.name],
    }


def _create(
    target: Path,
    stores: Sequence[Reflection],
    known: Settings,
    grid: Grid,
    layouts: Mapping[Variable, Layout],
    tables: Mapping[Variable, np.ndarray],
) -> None:
    """Groups, array metadata, coordinates and tables of a new set."""
    title = "reflections " + ", ".join(" ".join(map(str, row)) for row in known.hkl)
    more: dict[str, Any] = {"source": ", ".join(o.path.name for o in stores), "frame": "sample"}
    if known.lattice:
        more["lattice"] = known.lattice
    create_group(target, "", root_attrs(unit_rows(len(stores), grid), title, **more), anew=True)
    write_small(target, "", "z", ("z",), grid.z, {"units": "um", "long_name": "position along z"})
    for name, values in (("y", grid.y), ("x", grid.x)):
        attrs: dict[str, Any] = {"units": "um", "long_name": f"position along {name} of the sample"}
        if values.size > 1:
            attrs |= pixel_attrs(float(values[1] - values[0]), "join")
        write_small(target, "", name, (name,), values, attrs)
    numbers = np.arange(len(stores), dtype=np.int64)
    write_small(target, "", REFLECTION, (REFLECTION,), numbers, {"units": "1", "long_name": "number of the reflection"})
    create_group(target, "raw", {})
    for variable, layout in layouts.items():
        create_array(target, "raw", variable, layout, {})
    for variable, values in tables.items():
        write_small(target, "raw", variable.name, variable.dims, values.astype(variable.dtype), variable.attrs)


def join_layer(task: JoinTask) -> ledger.Record:
    """Write one layer of a set, band by band. Returns its record."""
    begun = time.perf_counter()
    arrays = [open_array(Path(task.store, "raw", v.name)) for v in (CENTRE, CENTRE_COVARIANCE)]
    with staging() as writers:
        rows = arrays[0].shard[2]  # type: ignore[union-attr]
        for number, (low, high) in enumerate(bands(task.y.size, rows)):
            first = max(0, low - HALO) if task.along else low
            rows_of = task.y[first : high + HALO if task.along else high]
            parts = []
            for k, (source, zero) in enumerate(task.sources):
                centre, covariance = on_grid(source, task.z, rows_of, task.x)
                if task.along:
                    covariance = covariance + height_covariance(centre, task.along[k])
                chosen = slice(low - first, high - first)
                parts.append((centre[chosen] - zero, covariance[chosen]))
            for array, values in zip(arrays, (np.stack(p) for p in zip(*parts, strict=True)), strict=True):
                assert array is not None
                writers.append(_staged(array, task.z, number, values))
        files = place_shards(writers, task.fence.check if task.fence else None)
    return {
        "block": f"z{task.z:04d}",
        "read": [os.path.basename(source.path) for source, _ in task.sources],
        "files": {os.path.relpath(path, task.store): what for path, what in files.items()},
        "seconds": round(time.perf_counter() - begun, 3),
    }


def _staged(array: Any, z: int, number: int, values: np.ndarray) -> ShardWriter:
    place_of = (z, 0, number, *(0,) * (array.ndim - 3))
    return stage_shard(array, place_of, values[None].astype(array.dtype))
