"""Simulated scans on disk: a store with its truth, or the files that a beamline writes, with the truth beside them.

A layer is a block, as in an ingest: written by one writer, committed in one piece, skipped when a simulation resumes.
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
from dfxm_dask.phantoms.beamline_files import write_lima, write_master
from dfxm_dask.phantoms.entry import Entry
from dfxm_dask.phantoms.lazy_scan import DETECTOR, identity, layer_lattices, lazy_scan, simulated_scan
from dfxm_dask.phantoms.phantom import Phantom
from dfxm_dask.phantoms.presets import build
from dfxm_dask.phantoms.render import LABEL, layer_truth, render, truth_variables
from dfxm_dask.phantoms.truth import FLAGS, tables
from dfxm_dask.schema import Variable, expand
from dfxm_dask.sources.source import Scan
from dfxm_dask.store.chunks import map_layout, raw_layout, unit_rows
from dfxm_dask.store.create import create_coordinates, create_store, raw_variables, statistics_layout
from dfxm_dask.store.crystal import checked_crystal
from dfxm_dask.store.integrity import ledger
from dfxm_dask.store.integrity.lock import Fence, own_store
from dfxm_dask.store.integrity.nodes import consolidate, create_array, create_group, write_small
from dfxm_dask.store.integrity.opened import open_store
from dfxm_dask.store.layers import check_existing, check_space, check_target, small_files, write_layer, write_maps

if TYPE_CHECKING:
    import xarray as xr

Each = Callable[[Callable[[Any], Any], Iterable[Any]], Iterable[Any]]


@dataclass(frozen=True, eq=False)
class SimulateTask:
    """Everything that writing one layer needs; travels to a worker.

    Parameters
    ----------
    store : str
        Store of the truth, and of the counts unless ``folder`` is given.
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
    network: str | Path | None = None,
    format: Literal["zarr", "bliss"] = "zarr",
    overwrite: bool = False,
    each: Each = map,
) -> xr.DataTree:
    """Simulated scan with known truth: counts of a phantom, its labels, and the fields behind them.

    A preset names a sample (dislocations, walls, subgrains), a reflection, a microscope and a camera. Weak-beam images
    are kinematic, strong-beam images dynamical; noise, drift and attenuators are those of a beamline. With ``out`` the
    scan is written as a store or as beamline files; without ``out`` it is a lazy tree in memory.

    Parameters
    ----------
    preset : str
        "easy", "hard", "multigrain", "al002", "movie", "movie_long", "movie_crowded", "movie_empty", "isolated",
        "isolated_phi_chi", "isolated_reflections", "reflections", "reflections_edge", "network", "empty" or
        "deformed".
    out : path, optional
        Store or master file to write. Without it, counts and truth are Dask arrays of one block per layer.
    layers, shape : int, (y, x), optional
        Number of layers, and of rows and columns, instead of those of the preset.
    seed : int
        The same seed gives the same counts on any machine of this architecture, for any number of workers and any
        chunking.
    strong_beam : str, optional
        The lattice that the strong beam follows. "smeared" (default): the true lattice with its dislocations, smeared
        by the width that Takagi-Taupin shows. "sharp": subgrains that meet at a plane without width. "none": no strong
        beam, as in kinematic diffraction (default of ``deformed``, ``reflections``, ``isolated``).
    network : path, optional
        Dislocation network of the preset ``network``: a file of ParaDiS or ExaDiS (``.data``), in the axes of the
        crystal and in units of the Burgers vector of aluminium. Without a file, the preset draws loops from the seed.
    format : str
        "zarr": a store with groups ``raw`` and ``truth``. "bliss": ``out`` is a master file with LIMA files in folders
        beside it, as a beamline writes them, and the truth is in ``<out>_truth.zarr``.
    overwrite : bool
        Replace an existing store or file.
    each : callable
        ``map`` or a parallel replacement.

    Returns
    -------
    xarray.DataTree
        Groups ``raw`` and ``truth`` (for BLISS files only ``truth``). The preset ``reflections`` gives one child per
        reflection, and writes one store for each into the folder ``out``.

    Raises
    ------
    InputError
        Unknown preset (with the nearest name), or a size out of range.
    SourceError
        A file that does not contain a network.
    StoreError
        The target has other content, or cannot be written.

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
    phantoms = build(preset, layers=layers, shape=shape, seed=seed, strong_beam=strong_beam, network=network)
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
    """Path of each scan of a preset."""
    if len(phantoms) == 1:
        return [(phantoms[0], out)]
    return [(p, out / f"{_file_name(p)}{out.suffix if out.suffix == '.h5' else '.zarr'}") for p in phantoms]


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
    entries = [_entry(phantom, s, out) for s in scans] if bliss else []  # refuses scans that BLISS cannot do
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


def _folder(out: Path, number: int) -> Path:
    """Folder of the LIMA files of one entry."""
    return out.parent / f"{out.stem}_scan{number:04d}"


def _lima_files(out: Path) -> list[Path]:
    """Existing files under the names of the LIMA files of this master."""
    return sorted(out.parent.glob(f"{out.stem}_scan[0-9][0-9][0-9][0-9]/{DETECTOR}_*.h5"))


def _check_beamline_files(out: Path, target: Path, digest: str, overwrite: bool) -> None:
    """Refuse a master or LIMA files that this simulation did not write.

    Raises
    ------
    StoreError
        A file of this name exists and has another origin.
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
        remedy = "pass --overwrite, or name another file" if ours else "name another file"
        raise StoreError(f"master file {out}", "exists and holds something else", remedy)
    frames = _lima_files(out)
    if frames and not (target / "truth" / ".ledger").exists():
        raise StoreError(f"file {frames[0]}", "exists and does not come from a simulation", "name another file")


def _create(
    target: Path, phantom: Phantom, scans: list[Scan], layout: Any, raw: list[Variable], variables: list[Variable]
) -> None:
    rows, edge = unit_rows(layout, 2), layout.chunk[-1]
    placed = None, phantom.pixel, list(phantom.z), checked_crystal(**phantom.crystal)
    if raw:
        create_store(target, scans, scans, layout, rows, raw, *placed)
    else:
        create_coordinates(target, scans, phantom.shape, rows, *placed)
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
    """Entry of one layer in the master file."""
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
    made = layer_lattices(task.phantom, task.z)
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
