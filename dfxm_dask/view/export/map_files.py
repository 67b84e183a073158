"""Maps as TIFF, CSV, netCDF and Zarr: written layer by layer, with units."""

from __future__ import annotations

import csv
import json
import warnings
from collections.abc import Iterator
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import zarr

from dfxm_dask import __version__
from dfxm_dask.errors import InputError
from dfxm_dask.schema import SPACE
from dfxm_dask.view.export.hdf5 import whole_file
from dfxm_dask.view.export.maps import label, layers, planes, titles
from dfxm_dask.view.export.tables import text_cells

if TYPE_CHECKING:
    import xarray as xr

MOST_CELLS = 200_000_000
"""Largest table of pixels, about 2 GB of text (our choice)."""
ROWS = 1 << 16
"""Rows of the table that are in memory at a time."""


def write_tiff(path: Path, variable: xr.DataArray) -> None:
    """One map as OME-TIFF, which ImageJ, napari and tifffile open: a page a layer.

    Floats are float32, with NaN where the store has NaN; booleans are 0 and 1. The metadata contain the pixel size
    along y and x with its unit, the distance between layers if it is constant, the position of each layer, and the name
    and unit of the values. Components are channels with names.
    """
    import tifffile

    kind = np.dtype(variable.dtype)
    last = tuple(variable.sizes[dim] for dim in ("y", "x", "rgb") if dim in variable.dims)
    pages = variable.size // prod(last)
    components = [] if set(variable.dims) <= {*SPACE, "rgb"} else [n for n, _ in planes(variable.to_dataset())]
    kind = np.dtype({"b": "u1", "f": "f4"}.get(kind.kind, kind.str if kind.itemsize < 8 else "f8"))  # OME: to 32 bits
    metadata: dict[str, Any] = {
        "axes": "Z" + "C" * bool(components) + "YX" + "S" * ("rgb" in variable.dims),
        "Name": str(variable.name),
        "Description": label(variable),
    }
    steps = {dim: float(np.diff(variable[dim]).mean()) if variable.sizes[dim] > 1 else None for dim in SPACE}
    units = {dim: {"um": "µm"}.get(word := str(variable[dim].attrs.get("units", "pixel")), word) for dim in SPACE}
    for dim, step in steps.items():
        if step is not None and (dim != "z" or _even(variable[dim])):
            metadata |= {f"PhysicalSize{dim.upper()}": abs(step), f"PhysicalSize{dim.upper()}Unit": units[dim]}
    if components:
        metadata["Channel"] = {"Name": components}
    z = np.repeat(np.asarray(variable["z"], float), pages // variable.sizes["z"])
    metadata["Plane"] = {"PositionZ": z.tolist(), "PositionZUnit": [units["z"]] * pages}
    how: dict[str, Any] = {}
    if units["x"] == "µm" and steps["x"] and steps["y"]:
        how = {"resolution": (1e4 / abs(steps["x"]), 1e4 / abs(steps["y"])), "resolutionunit": "CENTIMETER"}
    tifffile.imwrite(
        path,
        _pages(variable, kind),
        shape=(variable.sizes["z"], *([len(components)] if components else []), *last),
        dtype=kind,
        ome=True,
        bigtiff=variable.size * kind.itemsize > 2**31,
        photometric="rgb" if variable.dims[-1] == "rgb" else "minisblack",
        metadata=metadata,
        software=f"dfxm_dask {__version__}",
        **how,
    )


def _even(positions: xr.DataArray) -> bool:
    steps = np.diff(positions)
    return np.allclose(steps, steps.mean(), rtol=1e-2, atol=0)


def _pages(variable: xr.DataArray, kind: np.dtype) -> Iterator[np.ndarray]:
    for layer in layers(variable):
        deep = layer.ndim - (3 if variable.dims[-1] == "rgb" else 2)
        yield from layer.astype(kind).reshape(-1, *layer.shape[deep:])


def write_pixels(path: Path, maps: dict[str, xr.Dataset]) -> None:
    """A table with a row for each pixel: its position z, y, x, and the value of every map."""
    columns = pixel_columns(maps)
    first = next(iter(maps.values()))
    positions = {dim: np.asarray(first[dim]) for dim in SPACE}
    step = max(1, ROWS // first.sizes["x"])
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([*SPACE, *columns])
        for k in range(first.sizes["z"]):
            for y in range(0, first.sizes["y"], step):
                rows = slice(y, y + step)
                grid = np.meshgrid(positions["z"][[k]], positions["y"][rows], positions["x"], indexing="ij")
                values = [np.asarray(c.isel(z=k, y=rows)).ravel() for c in columns.values()]
                writer.writerows(zip(*(text_cells(v) for v in (*(g.ravel() for g in grid), *values)), strict=True))


def write_pixel_units(path: Path, maps: dict[str, xr.Dataset]) -> None:
    """Unit and meaning of every column of the table of pixels, as JSON."""
    first = next(iter(maps.values()))
    every = {**{dim: first[dim] for dim in SPACE}, **pixel_columns(maps)}
    known = {n: {word: str(c.attrs.get(word, "")) for word in ("units", "long_name")} for n, c in every.items()}
    path.write_text(json.dumps(known, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def pixel_columns(maps: dict[str, xr.Dataset]) -> dict[str, xr.DataArray]:
    """Columns of the table of pixels; the group is in the name where two groups have a map of one name."""
    found: dict[str, xr.DataArray] = {}
    for group, data in maps.items():
        for name, variable in planes(data):
            found[f"{group}_{name}" if name in found else name] = variable
    return found


def check_pixels(maps: dict[str, xr.Dataset]) -> None:
    """Refuse a table of pixels that no program would open.

    Raises
    ------
    InputError
    """
    columns = pixel_columns(maps)
    rows = next(iter(columns.values())).size
    if rows * len(columns) > MOST_CELLS:
        raise InputError(
            "export of maps as CSV",
            f"would have {rows} rows of {len(columns)} columns, more than {MOST_CELLS // 10**6} million cells",
            "export nexus, netcdf or zarr, or pass dfxm_dask.open_scan(STORE).isel(z=[0]) to dfxm_dask.export",
        )


def write_netcdf(path: Path, data: xr.Dataset, tree: xr.DataTree) -> None:
    """The maps of one group as netCDF-4."""
    import dask

    with dask.config.set(scheduler="synchronous"), whole_file(path) as raw:  # one layer at a time
        _layered(data, tree).to_netcdf(raw, engine="h5netcdf")


def write_zarr(path: Path, maps: dict[str, xr.Dataset], tree: xr.DataTree) -> None:
    """All maps as a plain Zarr store of format 3, a group for each group and a chunk for each layer."""
    import dask

    with dask.config.set(scheduler="synchronous"), warnings.catch_warnings():  # one layer at a time
        # Consolidated metadata are not in the specification yet; without them xarray warns whoever opens the store.
        warnings.filterwarnings("ignore", "Consolidated metadata")
        for group, data in maps.items():
            _layered(data, tree).to_zarr(path, group=group, mode="w", zarr_format=3, consolidated=False)
        zarr.consolidate_metadata(str(path))


def _layered(data: xr.Dataset, tree: xr.DataTree) -> xr.Dataset:
    """Maps in chunks of one layer, with title and conventions."""
    title, _ = titles(tree)
    words = {"Conventions": "CF-1.11", "title": title, "source": f"dfxm_dask {__version__}"}
    return data.chunk({dim: 1 if dim == "z" else -1 for dim in data.dims}).assign_attrs(words)
