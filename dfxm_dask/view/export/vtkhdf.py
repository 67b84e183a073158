"""Planes, lines and points as VTKHDF files for ParaView 5.12 and later.

Coordinates are x, y, z of the store in um. Planes are flat patches, lines are poly lines, points are vertices, each a
cell of its own. Quantities of boundaries are cell or point data, for colours and selections.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import h5py
import numpy as np

from dfxm_dask.view.boundaries.clip import clipped, line_in_patch, volume_box
from dfxm_dask.view.export.hdf5 import whole_file

if TYPE_CHECKING:
    import xarray as xr

VERSION = (2, 0)
KINDS = ("Vertices", "Lines", "Polygons", "Strips")


class PolyData(NamedTuple):
    """Cells of one kind with their data.

    Attributes
    ----------
    kind : str
        "Vertices", "Lines" or "Polygons".
    points : array (point, xyz), float64, um
    corners : int or array (cell,)
        Number of points per cell, the same for all cells or one for each; the points of a cell are consecutive.
    cell_data, point_data : dict of str to array (cell, ...) and (point, ...)
    units : dict of str to str
        Units of the data; data without an entry are dimensionless.
    """

    kind: str
    points: np.ndarray
    corners: int | np.ndarray
    cell_data: dict[str, np.ndarray]
    point_data: dict[str, np.ndarray]
    units: dict[str, str] = {}


def write_polydata(path: Path, content: PolyData) -> None:
    """One VTKHDF file of type PolyData, in one partition.

    Units are an attribute of every array, and lines "name: unit" of the field data ``units``, which ParaView shows.

    References
    ----------
    VTKHDF format specification, docs.vtk.org, section PolyData.
    """
    count = len(content.points)
    with whole_file(path) as raw, h5py.File(raw, "w") as file:
        root = file.create_group("VTKHDF")
        root.attrs["Version"] = VERSION
        root.attrs.create("Type", b"PolyData", dtype=h5py.string_dtype("ascii", len(b"PolyData")))
        root["NumberOfPoints"] = np.array([count], np.int64)
        _put(root, "Points", content.points)
        for kind in KINDS:
            each = content.corners if kind == content.kind else np.zeros(0, np.int64)
            each = np.full(count // each, each) if isinstance(each, int) else each
            offsets = np.concatenate([[0], np.cumsum(each)]).astype(np.int64)
            group = root.create_group(kind)
            group["NumberOfCells"] = np.array([len(each)], np.int64)
            group["NumberOfConnectivityIds"] = offsets[-1:]
            _put(group, "Connectivity", np.arange(offsets[-1], dtype=np.int64))
            _put(group, "Offsets", offsets)
        for name, data in (("CellData", content.cell_data), ("PointData", content.point_data)):
            group = root.create_group(name)
            for key, values in data.items():
                # Readers do not support bool, which HDF5 stores as an enumeration.
                _put(group, key, values.astype(np.uint8) if values.dtype.kind == "b" else values)
                group[key].attrs["units"] = content.units.get(key, "1")
        root["Points"].attrs["units"] = "um"
        lines = [
            f"{name}: {unit}".encode("ascii", "replace") for name, unit in {"Points": "um", **content.units}.items()
        ]
        root.create_group("FieldData").create_dataset(
            "units", data=lines, dtype=h5py.string_dtype("ascii")
        )  # VTK reads no other


def _put(group: h5py.Group, name: str, values: np.ndarray) -> None:
    how = {"compression": "gzip", "compression_opts": 1, "shuffle": True} if values.size > 4096 else {}
    group.create_dataset(name, data=np.ascontiguousarray(values), **how)


def points_of(found: xr.Dataset) -> PolyData | None:
    """Points of boundaries with all their quantities, such as ``point_boundary`` and ``point_weight``."""
    if "point" not in found or found["point"].shape[1:] != (3,):
        return None
    points = np.asarray(found["point"], np.float64)
    data = {
        str(name): np.asarray(variable)
        for name, variable in found.data_vars.items()
        if variable.dims == found["point"].dims[:1] and variable.dtype.kind in "biuf"
    }
    return PolyData("Vertices", points, 1, {}, data, _units(found, data))


def planes_of(found: xr.Dataset, notes: list[str]) -> PolyData | None:
    """Patches of boundaries inside the scanned volume, um, with all scalars and vectors of each.

    ``notes`` receives the boundaries that are not drawn. None if the store contains no corners.
    """
    if "corner" not in found:
        return None
    rings = patches(found)
    missing = sorted(set(range(found.sizes.get("boundary", 0))) - set(rings))
    if missing:
        names = ", ".join(map(str, missing))
        notes.append(f"boundaries not drawn because their corners are unknown or outside of the scan: {names}")
    drawn = np.array(list(rings), np.int64)
    data: dict[str, np.ndarray] = {"boundary": drawn}
    for name, variable in found.data_vars.items():
        if variable.dims[:1] == ("boundary",) and variable.ndim <= 2 and variable.dtype.kind in "biuf":
            data[str(name)] = np.asarray(variable)[drawn]
    each = np.array([len(ring) for ring in rings.values()], np.int64)
    points = np.concatenate([*rings.values(), np.zeros((0, 3))])
    return PolyData("Polygons", points, each, data, {}, _units(found, data))


def _units(found: xr.Dataset, data: Iterable[str]) -> dict[str, str]:
    return {name: unit for name in data if name in found and (unit := str(found[name].attrs.get("units", "1"))) != "1"}


def patches(found: xr.Dataset) -> dict[int, np.ndarray]:
    """Patches (vertex, xyz) of boundaries by number, um, cut at the sides of the scanned volume as in the figures."""
    if "corner" not in found or found["corner"].ndim != 3 or found["corner"].dims[0] != "boundary":
        return {}
    corners, box = np.asarray(found["corner"], np.float64), volume_box(found)
    known = {int(k): corners[k] for k in np.flatnonzero(np.isfinite(corners).all((1, 2)))}
    rings = {k: clipped(ring, *box) if box else ring for k, ring in known.items()}
    return {k: ring for k, ring in rings.items() if len(ring) > 2}


def lines_of(found: xr.Dataset, notes: list[str]) -> PolyData | None:
    """Direction of every family of lines, as one line through the centre of its patch, and the junction lines.

    Parameters
    ----------
    found : Dataset
        ``corner (boundary, corner, xyz)`` um, ``line (boundary, family, xyz)``; ``junction_direction``,
        ``junction_point (junction, xyz)`` um, ``junction_boundary (junction, half)``.
    notes : list of str
        Receives the junctions that are not drawn.

    Returns
    -------
    PolyData or None
        None if the store contains neither lines nor junctions. Cell data: ``boundary``, ``family`` and ``junction``
        (-1: none), and all quantities of the families (NaN for junctions).

    Notes
    -----
    One line represents a family; its position is not that of a dislocation. It ends at the edge of the patch. A
    junction line extends over the range that the patches of all its boundaries share.
    """
    patch_of = patches(found)
    ends: list[list[np.ndarray]] = []
    owners: list[tuple[int, int, int]] = []
    if "line" in found and found["line"].dims[0] == "boundary" and found["line"].ndim == 3:
        lines = np.asarray(found["line"], np.float64)
        for k, patch in patch_of.items():
            for family, line in enumerate(lines[k]):
                if np.isfinite(line).all():
                    ends.append(list(line_in_patch(patch, line)))
                    owners.append((k, family, -1))
    junctions = {"junction_direction", "junction_point", "junction_boundary"} <= set(found.data_vars)
    if junctions:
        every = (np.asarray(found[f"junction_{word}"]) for word in ("direction", "point", "boundary"))
        for k, (direction, point, halves) in enumerate(zip(*every, strict=True)):
            own = [patch_of[b] for b in halves.tolist() if b in patch_of]
            along = [(patch - point) @ direction for patch in own]
            low, high = max((a.min() for a in along), default=0), min((a.max() for a in along), default=0)
            if not low < high:  # no patch, patches without a common range, or NaN
                notes.append(
                    f"junction {k} not drawn because the patches of its boundaries have no common range along it"
                )
                continue
            ends.append([point + low * direction, point + high * direction])
            owners.append((-1, -1, k))
    if "line" not in found and not junctions:
        return None
    numbers = np.reshape(np.array(owners, np.int64), (-1, 3)).T
    data: dict[str, np.ndarray] = dict(zip(("boundary", "family", "junction"), numbers, strict=True))
    at = data["boundary"], data["family"]
    for name, variable in found.data_vars.items():
        if variable.dims == ("boundary", "family") and variable.dtype.kind in "biuf":
            data[str(name)] = np.where(at[0] < 0, np.nan, np.asarray(variable, float)[at])
    return PolyData("Lines", np.reshape(ends, (-1, 3)), 2, data, {}, _units(found, data))
