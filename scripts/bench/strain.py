"""Figures of strain: deformation, rotation and strain, and dislocation density of full frames from four reflections."""

from __future__ import annotations

import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import dfxm_dask
from bench.limits import high_water
from bench.timing import Row, at_least, at_most
from dfxm_dask.optics.crystal import wavelength
from dfxm_dask.optics.geometry import oblique
from dfxm_dask.run.clusters.cluster import open_cluster
from dfxm_dask.run.execute import plan
from dfxm_dask.run.recipe import Recipe, parse_recipe
from dfxm_dask.store.chunks import bands, map_layout
from dfxm_dask.store.integrity import ledger
from dfxm_dask.store.integrity.nodes import consolidate, create_array, create_group, root_attrs, write_small
from dfxm_dask.store.layers import small_files, write_maps
from dfxm_dask.store.reflections.grid import Grid
from dfxm_dask.store.reflections.join import EDGE, unit_rows
from dfxm_dask.strain.variables import CENTRE, CENTRE_COVARIANCE, HKL, RECIPROCAL_LATTICE, SET, SETTING, WAVELENGTH

ENERGY, LATTICE = 19.1, 4.0493  # keV, angstrom
MILLER = np.array([[-1, -1, 3], [-1, 1, 3], [1, -1, 3], [1, 1, 3]])
NOISE = np.rad2deg([20e-6, 10e-6, 10e-6])
PIXEL = 0.05  # um
RECIPE = parse_recipe(
    "name: strain\nsteps:\n  - deformation: {}\n  - decompose: {}\n  - dislocation_density: {}\n", Path("strain.yaml")
)


@dataclass(frozen=True)
class Sets:
    """Sets of four reflections: layers x rows x columns, each with smooth angles and noise."""

    work: Path
    shapes: tuple[tuple[int, int, int], ...]

    def store(self, shape: tuple[int, int, int]) -> Path:
        """The set of a shape, written at the first call."""
        path = self.work / ("set_" + "x".join(map(str, shape)) + ".zarr")
        return path if path.exists() else _written(path, shape)


def _written(path: Path, shape: tuple[int, int, int]) -> Path:
    """A set with the layout of ``join``, whose maps follow from no scan."""
    rng, count = np.random.default_rng(0), len(MILLER)
    z, y, x = (step * np.arange(n) for step, n in zip((1.0, PIXEL, PIXEL), shape, strict=True))
    ub = 2 * np.pi / LATTICE * np.eye(3)
    rows = [max(oblique(ub, tuple(one), ENERGY), key=lambda row: row[1]) for one in MILLER]
    tables: dict[str, Any] = {v.name: np.zeros((count, len(v.dims) + 1)) for v in SET if v.dims[0] == "reflection"}
    tables |= {HKL.name: MILLER, SETTING.name: np.rad2deg([(0, *row) for row in rows]), RECIPROCAL_LATTICE.name: ub}
    tables |= {WAVELENGTH.name: np.full(count, wavelength(ENERGY)), "zero": np.zeros((count, 3))}
    tables |= {name: np.zeros((count, 2)) for name in ("shift", "shift_error")}
    band = unit_rows(count, Grid(z, y, x))
    create_group(path, "", root_attrs(band, path.stem, frame="sample"), anew=True)
    for name, values in (("z", z), ("y", y), ("x", x)):
        write_small(path, "", name, (name,), values, {"units": "um"})
    write_small(path, "", "reflection", ("reflection",), np.arange(count), {"units": "1"})
    create_group(path, "raw", {})
    for v in SET:
        if v not in (CENTRE, CENTRE_COVARIANCE):
            write_small(path, "raw", v.name, v.dims, tables[v.name].astype(v.dtype), v.attrs)
            continue
        size = (shape[0], count, *shape[1:], 3, 3)[: len(v.dims)]
        create_array(path, "raw", v, map_layout(v.dims, size, band, EDGE), {})
    blocks = [f"z{k:04d}" for k in range(shape[0])]
    ledger.begin(path, "raw", "ingest", {"writes": [CENTRE.name, CENTRE_COVARIANCE.name]}, blocks)
    slope = np.sin(y / 9)[:, None, None] * np.cos(x / 7)[:, None] * [0.002, 0.01, 0.008]
    for k, block in enumerate(blocks):
        centre = slope + NOISE * rng.standard_normal((count, *shape[1:], 3))
        factor = rng.uniform(0.8, 1.2, (count, *shape[1:], 1, 1)).astype(np.float32)
        spread = factor * np.diag(NOISE**2).astype(np.float32)
        files = write_maps(str(path), "raw", k, {CENTRE.name: centre, CENTRE_COVARIANCE.name: spread})
        ledger.commit(path, "raw", "ingest", {"block": block, "read": [], "files": files, "seconds": 0.0})
    made = {"reduction": "join", "version": "0", "parameters": {}, "sources": [], "absent": [], "cropped": []}
    ledger.complete(path, "raw", "ingest", made, small_files(path, [CENTRE, CENTRE_COVARIANCE]))
    consolidate(path)
    return path


def figure_set(sets: Sets) -> list[Row]:
    """Time on one worker and on two, memory of a worker beside the projected memory, and bytes."""
    found = []
    for shape in sets.shapes:
        store = sets.store(shape)
        times: dict[int, float] = {}
        memory = 0.0
        for workers in (1, 2):
            with open_cluster(workers=workers) as client:
                client.run(_compiled)
                shutil.rmtree(store / "strain", ignore_errors=True)
                times[workers] = _seconds(RECIPE, store, client=client)
                memory = max(memory, *client.run(high_water).values())
        size = " x ".join(map(str, (*shape, len(MILLER))))
        shutil.rmtree(store / "strain")
        made = plan(RECIPE, store)
        shutil.rmtree(store / "strain", ignore_errors=True)
        read = sum(step.bytes_read for step in made.steps)
        declared = max(step.memory_bytes for step in made.steps)
        units = sum(len(one.steps[0].blocks) for one in made.passes)
        each = f"{size}: {read / 1e9:.2f} GB to read, {made.bytes_written / 1e9:.2f} GB to write, {units} units"
        found += [
            at_most(f"strain of {size}, 2 workers", times[2], 60, "s", each),
            at_least("scaling 1 → 2 workers", times[1] / times[2], 1.7, "×", f"1 worker {times[1]:.1f} s"),
            at_most("peak memory of a worker", memory / 1.048576, 1024, "MiB", f"declared {declared / 2**20:.0f} MiB"),
        ]
    return found


def figure_kernels(sets: Sets) -> list[Row]:
    """Time of every kernel on one core and one band, and of the codec for their results."""
    shape = (1, *sets.shapes[0][1:])
    store = sets.store(shape)
    rows = bands(shape[1], unit_rows(len(MILLER), Grid(*(np.arange(n, dtype=float) for n in shape))))[0][1]
    raw = dfxm_dask.open_scan(store)["raw"].to_dataset().isel(y=slice(0, rows)).load()
    _compiled()
    out = []
    tables = [raw[v.name].values for v in (HKL, SETTING, RECIPROCAL_LATTICE, WAVELENGTH)]
    area = rows * shape[2]

    def timed(name: str, task: Any) -> Any:
        begun = time.perf_counter()
        result = task()
        out.append(Row(name, f"{1e6 * (time.perf_counter() - begun) / area:.2f} µs/px", "", f"{rows} rows, 1 core"))
        return result

    centre, spread = raw["centre"].values[0], raw["centre_covariance"].values[0]
    made = timed("deformation", lambda: dfxm_dask.deformation.kernel(centre, spread, *tables))
    f, c = made["deformation"], made["deformation_covariance"]
    timed("decompose", lambda: dfxm_dask.decompose.kernel(f, c))
    y, x = PIXEL * np.arange(rows), PIXEL * np.arange(shape[2])
    places = tables[2], np.zeros(1), y, x
    timed("dislocation_density", lambda: dfxm_dask.dislocation_density.kernel(f[None], c[None], *places))
    return out


def _seconds(recipe: Recipe, store: Path, **how: Any) -> float:
    """Wall time of a recipe."""
    begun = time.perf_counter()
    dfxm_dask.run_recipe(recipe, store, **how)
    return time.perf_counter() - begun


def _compiled() -> None:
    """Load the package and the compiled kernels of a worker."""
    small = dfxm_dask.example_reflections()
    found = dfxm_dask.deformation(small).compute()
    dfxm_dask.decompose(found).compute()
    dfxm_dask.dislocation_density(found.assign(reciprocal_lattice=small["reciprocal_lattice"])).compute()
