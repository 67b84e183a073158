"""Stores of reflections with given maps of the centre of mass, written without a scan."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from dfxm_dask.schema import COUNTS, Variable, expand
from dfxm_dask.store.chunks import map_layout, raw_layout
from dfxm_dask.store.integrity import ledger
from dfxm_dask.store.integrity.nodes import consolidate, create_array, create_group, root_attrs, write_small
from dfxm_dask.store.layers import small_files, write_maps
from dfxm_dask.strain.variables import ANGLES

SCANNED = ("two_theta", "chi", "phi")


def reflection_store(
    path: Path,
    centre: np.ndarray,
    covariance: np.ndarray,
    *,
    y: np.ndarray,
    x: np.ndarray,
    axes: tuple[str, ...] = SCANNED,
    steps: tuple[str, ...] = ("moments", "moment_errors"),
    units: str = "um",
    z: float = 0.0,
    **attributes: Any,
) -> Path:
    """Write a store: centre (z, y, x, angle) degree, NaN in unlit pixels; covariance (z, y, x, angle, angle2)."""
    shape = centre.shape[:3]
    create_group(path, "", root_attrs(64, path.stem, **attributes), anew=True)
    for name, values in (("z", z + np.arange(shape[0])), ("y", y), ("x", x)):
        write_small(path, "", name, (name,), np.asarray(values, float), {"units": "um" if name == "z" else units})
    for k, axis in enumerate(axes):
        write_small(path, "", axis, (axis,), np.zeros(1), {"units": "degree", "scan_axis": k})
    counts = expand(COUNTS, dict.fromkeys(axes, "degree"))[0]
    frames = (1,) * len(axes)
    write_step(path, "raw", "ingest", [counts], {"counts": np.zeros((shape[0], *frames, *shape[1:]), np.uint16)})
    place = [ANGLES.index(a) for a in axes]
    maps: dict[str, dict[str, np.ndarray]] = {"moments": {}, "moment_errors": {}}
    maps["moments"]["flags"] = np.isnan(centre[..., place]).all(axis=-1).astype(np.uint8)
    for a, k in zip(axes, place, strict=True):
        maps["moments"][f"com_{a}"] = centre[..., k]
        maps["moment_errors"][f"com_{a}_error"] = np.sqrt(covariance[..., k, k]).astype(np.float32)
    for (a, k), (b, m) in combinations(zip(axes, place, strict=True), 2):
        maps["moment_errors"][f"com_{a}_{b}_covariance"] = covariance[..., k, m].astype(np.float32)
    for step in steps:
        declared = [
            Variable(n, ("z", "y", "x"), v.dtype.name, "1" if n == "flags" else "degree", n)
            for n, v in maps[step].items()
        ]
        write_step(path, "rocking", step, declared, maps[step])
    consolidate(path)
    return path


def write_step(path: Path, group: str, step: str, variables: list[Variable], values: dict[str, np.ndarray]) -> None:
    """One step of a store with its ledger."""
    create_group(path, group, {})
    for variable in variables:
        shape = values[variable.name].shape
        layout = raw_layout(shape, 2) if variable.name == "counts" else map_layout(variable.dims, shape, 64, 64)
        create_array(path, group, variable, layout, {})
    blocks = [f"z{z:04d}" for z in range(len(next(iter(values.values()))))]
    ledger.begin(path, group, step, {"writes": [v.name for v in variables]}, blocks)
    for z, block in enumerate(blocks):
        files = write_maps(str(path), group, z, {name: array[z] for name, array in values.items()})
        ledger.commit(path, group, step, {"block": block, "read": [], "files": files, "seconds": 0.0})
    provenance = {"reduction": step, "version": "0", "parameters": {}, "inputs": {}}
    small = (
        small_files(path, variables, group) if group == "raw" else [f"{group}/{v.name}/zarr.json" for v in variables]
    )
    ledger.complete(path, group, step, provenance, small)
