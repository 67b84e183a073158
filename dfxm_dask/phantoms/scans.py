"""Simulated scans on disk: a store with its truth, or the files that a beamline writes, with the truth beside them.

A layer is a block, as it is of an ingest: written by one writer, committed whole, skipped when a simulation goes on.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import h5py
import numpy as np

from dfxm_dask import __version__
from dfxm_dask.errors import InputError, StoreError
from dfxm_dask.phantoms.beamline_files import Entry, write_lima, write_master
from dfxm_dask.phantoms.phantom import (
    LABEL,
    Phantom,
    exposures,
    fingerprint,
    layer_truth,
    render,
    truth_variables,
)
from dfxm_dask.phantoms.presets import build
from dfxm_dask.phantoms.strong_lattice import Lattices, lattices
from dfxm_dask.phantoms.truth import FLAGS, tables
from dfxm_dask.schema import COUNTS, EXPOSURE, MONITOR, PATCH, Variable, expand
from dfxm_dask.sources.source import Axis, Scan
from dfxm_dask.store.chunks import map_layout, raw_layout, unit_rows
from dfxm_dask.store.create import create_coordinates, create_store, raw_variables, statistics_layout
from dfxm_dask.store.integrity import ledger
from dfxm_dask.store.integrity.lock import Fence, own_store
from dfxm_dask.store.integrity.opened import open_store
from dfxm_dask.store.layers import check_existing, check_space, check_target, small_files, write_layer, write_maps
from dfxm_dask.store.scan import consolidate, create_array, create_group, write_small

if TYPE_CHECKING:
    import xarray as xr

DETECTOR = "pco_ff"
Each = Callable[[Callable[[Any], Any], Iterable[Any]], Iterable[Any]]


@dataclass(frozen=True, eq=False)
class SimulateTask:
    """Everything that writing one layer needs; travels to a worker.

    Parameters
    ----------
    store : str
        Where the truth goes, and the counts unless ``folder`` says otherwise.
    z : int
    phantom : Phantom
    folder : str or None
        Folder of the LIMA file of this layer.
    """

    store: str
    z: int
    phantom: Phantom
    folder: str | None
    fence: Fence | None = None


def simulate(
    preset: str,
    out: str | Path | None = None,
    *,
    layers: int | None = None,
    shape: tuple[int, int] | None = None,
    seed: int = 0,
    strong_beam: Literal["smeared", "sharp", "none"] | None = None,
    format: Literal["zarr", "bliss"] = "zarr",
    overwrite: bool = False,
    each: Each = map,
) -> xr.DataTree:
    """A simulated scan with known truth: labelled, and written where asked.

    Parameters
    ----------
    preset : str
        "easy", "hard", "multigrain", "al002", "movie", "movie_long", "reflections", "empty" or "deformed".
    out : path, optional
        Where to write. Without it nothing is written, and counts and truth are Dask arrays of one block a layer.
    layers, shape : int, (y, x), optional
        Other sizes than those of the preset.
    seed : int
        Same seed, same counts: on any machine of this architecture, with any number of workers and any chunking.
    strong_beam : str, optional
        What the strong beam follows. "smeared" (default): the true lattice with its dislocations, smeared by the width
        that Takagi-Taupin shows. "sharp": subgrains that meet at a plane without width. "none": no strong beam, as in
        kinematic diffraction (default of ``deformed`` and ``reflections``).
    format : str
        "zarr": a store with groups ``raw`` and ``truth``. "bliss": ``out`` is a master file with LIMA files in folders
        beside it, as a beamline writes them, and the truth is in ``<out>_truth.zarr``.
    overwrite : bool
        Replace an existing store or file.
    each : callable
        ``map`` or a parallel stand-in for it.

    Returns
    -------
    xarray.DataTree
        Groups ``raw`` and ``truth`` (of BLISS files ``truth`` alone). The preset ``reflections`` gives one child per
        reflection, and writes one store each into the folder ``out``.

    Raises
    ------
    InputError
        Unknown preset (with the nearest name), or a size that makes no sense.
    StoreError
        The target holds something else, or cannot be written.

    Examples
    --------
    >>> tree = simulate("easy", layers=1, shape=(64, 96))
    >>> dict(tree["raw"].counts.sizes)
    {'z': 1, 'phi': 31, 'y': 64, 'x': 96}
    """
    import xarray as xr

    from dfxm_dask.store.scan import open_scan

    if format not in ("zarr", "bliss"):
        raise InputError(f"format {format!r}", "is unknown", "use zarr or bliss")
    phantoms = build(preset, layers=layers, shape=shape, seed=seed, strong_beam=strong_beam)
    if out is None:
        trees = [lazy_scan(p) for p in phantoms]
    else:
        trees = [open_scan(write_phantom(p, t, format, overwrite, each)) for p, t in targets(phantoms, Path(out))]
    if len(trees) == 1:
        return trees[0]
    names = [_file_name(p) for p in phantoms]
    return xr.DataTree(children=dict(zip(names, trees, strict=True)))


def _file_name(phantom: Phantom) -> str:
    return phantom.reflection.replace(" ", "_")


def targets(phantoms: tuple[Phantom, ...], out: Path) -> list[tuple[Phantom, Path]]:
    """Where each scan of a preset goes."""
    if len(phantoms) == 1:
        return [(phantoms[0], out)]
    return [(p, out / f"{_file_name(p)}{out.suffix if out.suffix == '.h5' else '.zarr'}") for p in phantoms]


def simulated_scan(phantom: Phantom, layer: int) -> Scan:
    """What the beamline would record of one layer, pixels apart."""
    recorded = exposures(phantom, layer)
    frames = prod(phantom.grid)
    grids = np.meshgrid(*(np.asarray(a.positions) for a in phantom.axes), indexing="ij")
    axes = []
    for a, grid in zip(phantom.axes, grids, strict=True):
        positions = np.asarray(a.positions)
        step = float(positions[1] - positions[0]) if positions.size > 1 else None
        axes.append(Axis(a.name, a.motor, positions, a.units, float(positions[0]), step, grid.ravel()))
    return Scan(
        source=f"{phantom.name} {phantom.reflection} seed {phantom.seed}",
        entry=f"{layer + 1}.1",
        title=_title(phantom),
        axes=tuple(axes),
        order=np.arange(frames),
        frame_shape=phantom.shape,
        dtype=np.dtype("uint16"),
        pieces=(),
        detector=DETECTOR,
        z=phantom.z[layer],
        z_motor="samz",
        z_units="um",
        monitor=recorded["monitor"],
        exposure=recorded["exposure"],
        commanded=frames,
        found=frames,
    )


def _title(phantom: Phantom) -> str:
    held = [f"{name} held {np.rad2deg(angle):.4f} degree from the peak" for name, angle in phantom.held.items()]
    return ": ".join([f"simulated {phantom.name}", *held])


def write_phantom(phantom: Phantom, out: Path, format: str, overwrite: bool, each: Each) -> Path:
    """Write one simulated scan. Returns the store that holds its truth.

    Raises
    ------
    InputError, StoreError
        See :func:`simulate`.
    """
    bliss = format == "bliss"
    if bliss and out.suffix != ".h5":
        raise InputError(f"out {out}", "does not end in .h5", "name the master file something.h5")
    out = out.resolve()
    target = out.with_name(f"{out.stem}_truth.zarr") if bliss else out
    check_target(target)
    scans = [simulated_scan(phantom, k) for k in range(len(phantom.z))]
    entries = [_entry(phantom, s, out) for s in scans] if bliss else []  # refuses what BLISS cannot scan
    layout = raw_layout((len(scans), *phantom.grid, *phantom.shape), 2)
    names = {a.name: a.units for a in phantom.axes}
    variables = [v for declared in truth_variables(phantom) for v in expand(declared, names)]
    raw = [] if bliss else raw_variables(names, np.dtype("uint16"))
    steps = {("truth", "simulate"): variables} | ({} if bliss else {("raw", "ingest"): raw})
    made_of = {"phantom": identity(phantom), "layout": [layout.shape, layout.chunk, layout.shard], "format": format}
    plans = {key: made_of | {"writes": [v.name for v in written]} for key, written in steps.items()}
    if bliss:
        _check_beamline_files(out, target, ledger.digest(made_of), overwrite)
    with own_store(target, f"simulation into {target}") as fence:
        check_existing(target, plans, overwrite)
        if bliss and overwrite:
            for file in (out, *_lima_files(out)):
                file.unlink(missing_ok=True)
        check_space(target, prod(layout.shape) + 8 * len(scans) * prod(phantom.shape) * (9 if phantom.strained else 1))
        blocks = [f"z{k:04d}" for k in range(len(scans))]
        if not all(ledger.read_ledger(ledger.ledger_path(target, *key))[0] for key in steps):
            _create(target, phantom, scans, layout, raw, variables)
        ledger.sweep(target, "")
        done = set(blocks)
        for key, plan in plans.items():
            done &= ledger.begin(target, *key, plan, blocks)
        tasks = [
            SimulateTask(str(target), k, phantom, str(_folder(out, k + 1)) if bliss else None, fence)
            for k, block in enumerate(blocks)
            if block not in done
        ]
        for record in each(simulate_layer, tasks):
            fence.check()
            for group, step in steps:
                ledger.commit(target, group, step, {**record, "files": record["files"][group], "run": fence.token})
        if bliss and not out.exists():
            sample = f"{phantom.name} seed {phantom.seed}"
            write_master(out, entries, sample=sample, digest=ledger.digest(made_of))
        for (group, step), written in steps.items():
            provenance = {
                "reduction": "simulate",
                "version": __version__,
                "absent": [],
                "numpy": np.__version__,
                "parameters": {
                    "preset": phantom.name,
                    "seed": phantom.seed,
                    "reflection": phantom.reflection,
                    "strong_beam": "none" if phantom.kinematic else phantom.strong_beam,
                },
                "root": ledger.digest(open_store(target).nodes[""]["attributes"]),
            }
            ledger.complete(target, group, step, provenance, small_files(target, written, group))
        consolidate(target)
    return target


def identity(phantom: Phantom) -> dict[str, Any]:
    """What a simulated scan follows from: the whole phantom, and the versions that draw its noise."""
    words = {"preset": phantom.name, "seed": phantom.seed, "version": __version__, "numpy": np.__version__}
    return {**words, "content": ledger.digest(fingerprint(phantom))}


def _folder(out: Path, number: int) -> Path:
    """Folder of the LIMA files of one entry."""
    return out.parent / f"{out.stem}_scan{number:04d}"


def _lima_files(out: Path) -> list[Path]:
    """Frames that lie where those of this master go."""
    return sorted(out.parent.glob(f"{out.stem}_scan[0-9][0-9][0-9][0-9]/{DETECTOR}_*.h5"))


def _check_beamline_files(out: Path, target: Path, digest: str, overwrite: bool) -> None:
    """Refuse a master or LIMA files that this simulation did not write.

    Raises
    ------
    StoreError
        A file of that name is there and of another origin.
    """
    ours, same = False, False
    if out.is_file():
        try:
            with h5py.File(out) as file:
                ours = file.attrs.get("creator") == "dfxm_dask"
                same = file.attrs.get("digest") == digest
        except OSError:
            pass
    if out.exists() and not (same or (ours and overwrite)):
        remedy = "say --overwrite, or name another file" if ours else "name another file"
        raise StoreError(f"master file {out}", "exists and holds something else", remedy)
    frames = _lima_files(out)
    if frames and not (target / "truth" / ".ledger").exists():
        raise StoreError(f"file {frames[0]}", "exists and no simulation knows it", "name another file")


def _create(
    target: Path, phantom: Phantom, scans: list[Scan], layout: Any, raw: list[Variable], variables: list[Variable]
) -> None:
    rows, edge = unit_rows(layout, 2), layout.chunk[-1]
    if raw:
        create_store(target, scans, scans, layout, rows, raw, None, phantom.pixel, list(phantom.z))
    else:
        create_coordinates(target, scans, phantom.shape, rows, None, phantom.pixel, list(phantom.z))
    create_group(target, "truth", {})
    for variable in variables:
        if "patch_y" in variable.dims:
            plan = statistics_layout(variable, layout, rows, edge)
        else:
            plan = map_layout(variable.dims, (len(scans), *phantom.shape, *(3,) * (len(variable.dims) - 3)), rows, edge)
        create_array(target, "truth", variable, plan, FLAGS if variable.name == LABEL.name else {})
    for name, (dims, values, attrs) in tables(phantom).items():
        write_small(target, "truth", name, dims, values, attrs)


def _entry(phantom: Phantom, scan: Scan, out: Path) -> Entry:
    """What the master file says of one layer."""
    number = int(scan.entry.partition(".")[0])
    return Entry(
        number=number,
        axes=tuple((a.motor, a.positions[0], a.commanded_step or 1.0, len(a.positions), a.units) for a in scan.axes),
        positions={a.motor: a.readback for a in scan.axes if a.motor and a.readback is not None},
        z=phantom.z[number - 1] * 1e-3,
        exposure=phantom.lighting.exposure,
        monitor=scan.monitor,
        files=((f"{_folder(out, number).name}/{DETECTOR}_0000.h5", scan.found),),
        shape=phantom.shape,
        dtype="uint16",
    )


def simulate_layer(task: SimulateTask) -> ledger.Record:
    """Write one layer and its truth. Returns its record, with the files of each group."""
    begun = time.perf_counter()
    grid = task.phantom.grid
    made = _lattices(task.phantom, task.z)
    patches: dict[str, list[np.ndarray]] = {}

    def rendered() -> Iterator[tuple[int, np.ndarray]]:
        for number, (frame, truth) in enumerate(render(task.phantom, task.z, made)):
            for name, values in truth.items():
                patches.setdefault(name, []).append(values)
            yield number, frame

    files: dict[str, dict[str, list[Any]]] = {}
    beside: dict[str, list[Any]] = {}
    if task.folder is None:
        files["raw"] = write_layer(task.store, task.z, rendered(), f"phantom {task.phantom.name}", task.fence)
    else:
        folder = Path(task.folder)
        for old in folder.glob(f"{DETECTOR}_*.h5"):
            old.unlink()  # of a layer that was never committed
        files_of = write_lima(folder, (frame for _, frame in rendered()), count=prod(grid), detector=DETECTOR)
        for path in (folder.parent / name for name, _ in files_of):
            beside[os.path.relpath(path, task.store)] = [path.stat().st_size, ""]
    layer = {name: np.stack(values).reshape(*grid, *values[0].shape) for name, values in patches.items()}
    files["truth"] = write_maps(
        task.store, "truth", task.z, layer | layer_truth(task.phantom, task.z, made), task.fence
    )
    return {
        "block": f"z{task.z:04d}",
        "read": [],
        "files": files,
        "beside": beside,
        "seconds": round(time.perf_counter() - begun, 3),
    }


def lazy_scan(phantom: Phantom) -> xr.DataTree:
    """A simulated scan as lazy arrays: one task renders a layer, and every array of the layer is a part of that task.

    Returns
    -------
    xarray.DataTree
        Groups ``raw`` (counts, monitor, exposure) and ``truth``, as :func:`dfxm_dask.open_scan` gives them.
    """
    import xarray as xr

    from dfxm_dask.engine.graph import layered

    names = {a.name: a.units for a in phantom.axes}
    sizes = {"z": len(phantom.z), **dict(zip(names, phantom.grid, strict=True))}
    sizes |= {"y": phantom.shape[0], "x": phantom.shape[1], "i": 3, "j": 3}
    sizes |= {f"patch_{d}": -(-sizes[d] // PATCH) for d in ("y", "x")}
    truth = [v for declared in truth_variables(phantom) for v in expand(declared, names)]
    every = [*expand(COUNTS, names), *truth]
    lazy = layered(rendered_layer, phantom, every, sizes, f"{phantom.name}-{ledger.digest(identity(phantom))[:16]}")
    coords: dict[str, Any] = {}
    scans = [simulated_scan(phantom, k) for k in range(len(phantom.z))]
    coords["z"] = ("z", np.asarray(phantom.z), {"units": "um", "long_name": "position along z", "motor": "samz"})
    for name, n, pitch in zip(("y", "x"), phantom.shape, phantom.pixel, strict=True):
        coords[name] = (name, np.arange(n) * pitch, {"units": "um", "long_name": f"position along {name}"})
    for k, a in enumerate(phantom.axes):
        attrs = {"units": a.units, "long_name": f"{a.name} ({a.motor})", "motor": a.motor, "scan_axis": k}
        coords[a.name] = (a.name, np.asarray(a.positions), attrs)
    raw: dict[str, Any] = {"counts": lazy["counts"]}
    for variable in (MONITOR, EXPOSURE):
        values = np.stack([getattr(s, variable.name) for s in scans]).reshape(len(scans), *phantom.grid)
        raw[variable.name] = (("z", *names), values, {**variable.attrs, "units": variable.units or "count"})
    known = {v.name: lazy[v.name].assign_attrs(FLAGS if v.name == LABEL.name else {}) for v in truth}
    small = tables(phantom)
    return xr.DataTree.from_dict(
        {
            "/": xr.Dataset(coords=coords),
            "/raw": xr.Dataset(raw),
            "/truth": xr.Dataset({**known, **small}),
        }
    )


def rendered_layer(phantom: Phantom, z: int) -> dict[str, np.ndarray]:
    """Counts and truth of one layer in memory, scan axes first."""
    frames, patches = [], []
    made = _lattices(phantom, z)
    for frame, truth in render(phantom, z, made):
        frames.append(frame)
        patches.append(truth)
    out = {name: np.stack([p[name] for p in patches]) for name in patches[0]}
    out["counts"] = np.stack(frames)
    out = {name: values.reshape(*phantom.grid, *values.shape[1:]) for name, values in out.items()}
    return out | layer_truth(phantom, z, made)


def _lattices(phantom: Phantom, z: int) -> Lattices | None:
    """Made once for the frames and the truth of a layer; in a movie every frame has its own."""
    return lattices(phantom, z) if phantom.motion is None else None
