"""Maps as NeXus HDF5: an NXdata for each map, which silx view, h5web and NeXpy draw with axes and units."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np

from dfxm_dask import __version__
from dfxm_dask.view.export.hdf5 import whole_file
from dfxm_dask.view.export.maps import error_of, history, image_dims, label, layers, shown_first, titles

if TYPE_CHECKING:
    import xarray as xr


def write_nexus(path: Path, tree: xr.DataTree, maps: dict[str, xr.Dataset]) -> None:
    """One file with an NXentry for each group and an NXdata for each map.

    Parameters
    ----------
    path : Path
    tree : DataTree
        The store, for title, sample and provenance.
    maps : dict of str to Dataset
        See :func:`dfxm_dask.view.export.maps.maps_of`.

    Notes
    -----
    Dims are (z, y, x), or (z, component, y, x) for maps of several components. Standard errors are ``<map>_errors``
    beside the map. One layer is in memory at a time. Floating-point maps are not compressed; integers, which are flags,
    masks and labels, are (gzip).

    References
    ----------
    NeXus definitions, classes NXroot, NXentry, NXdata, NXprocess and NXnote, manual.nexusformat.org.
    """
    with whole_file(path) as raw, h5py.File(raw, "w") as file:
        now = datetime.now(UTC).isoformat(timespec="seconds")
        file.attrs.update(
            NX_class="NXroot", creator=f"dfxm_dask {__version__}", file_time=now, default=next(iter(maps))
        )
        title, sample = titles(tree)
        for group, data in maps.items():
            entry = _group(file, group, "NXentry")
            entry["title"] = f"{title}: {group}" if title else group
            if sample:
                _group(entry, "sample", "NXsample")["name"] = sample
            names = [str(name) for name in data.data_vars]
            errors = {value: name for name in names if (value := error_of(name, data))}
            shown = [name for name in names if name not in errors.values()]
            entry.attrs["default"] = shown_first(shown)
            axes: dict[str, Any] = {}
            for name in shown:
                _write_data(entry, data, name, errors.get(name), axes)
            _write_history(entry, tree, group, now)


def _group(parent: h5py.Group, name: str, kind: str) -> h5py.Group:
    group = parent.create_group(name)
    group.attrs["NX_class"] = kind
    return group


def _write_data(
    entry: h5py.Group, data: xr.Dataset, name: str, error: str | None, axes: dict[str, h5py.Dataset]
) -> None:
    """One map as NXdata; ``axes`` are the positions that all maps of an entry share, as hard links."""
    variable = data[name]
    group = _group(entry, name, "NXdata")
    group.attrs["signal"] = name
    dims = image_dims(variable)
    group.attrs["axes"] = [dim if dim in data.coords else "." for dim in dims]
    group["title"] = str(variable.attrs.get("long_name") or name)
    for k, dim in enumerate(dims):
        if dim not in data.coords:
            continue
        if dim not in axes:
            axes[dim] = group.create_dataset(dim, data=np.asarray(data[dim]))
            _describe(axes[dim], data[dim])
        else:
            group[dim] = axes[dim]
        group.attrs[f"{dim}_indices"] = k
    _write_values(group, name, variable)
    group[name].attrs["interpretation"] = "rgb-image" if dims[-1] == "rgb" else "image"
    if error is not None:
        _write_values(group, f"{name}_errors", data[error])


def _write_values(group: h5py.Group, name: str, variable: xr.DataArray) -> None:
    kind = np.dtype(np.uint8) if variable.dtype == bool else variable.dtype
    shape = tuple(variable.sizes[dim] for dim in image_dims(variable))
    packed = {"chunks": (1, *shape[1:]), "compression": "gzip", "compression_opts": 1, "shuffle": True}
    dataset = group.create_dataset(name, shape, kind, **(packed if kind.kind in "iu" else {}))
    for k, layer in enumerate(layers(variable)):
        dataset[k] = layer
    _describe(dataset, variable)


def _describe(dataset: h5py.Dataset, variable: xr.DataArray) -> None:
    """All attributes, with the unit in the long name too: viewers show that alone."""
    dataset.attrs.update({str(key): value for key, value in variable.attrs.items()})
    dataset.attrs["long_name"] = label(variable)


def _write_history(entry: h5py.Group, tree: xr.DataTree, group: str, now: str) -> None:
    """An NXprocess for each step, in the order in which they ran, and one for the export."""
    steps = history(tree, group)
    for number, (source, made) in enumerate([*steps, ("export", {"version": __version__, "date": now})], start=1):
        process = _group(entry, f"process_{number:02d}_{source.rpartition('/')[2]}", "NXprocess")
        process.attrs["step"] = source
        process["program"] = "dfxm_dask"
        process["sequence_index"] = number
        for word in ("version", "date"):  # stores do not record when a step ran
            if made.get(word):
                process[word] = str(made[word])
        for name, content in (("parameters", made.get("parameters")), ("record", made)):
            if content is not None:
                note = _group(process, name, "NXnote")
                note["type"] = "application/json"
                note["data"] = json.dumps(dict(content), indent=1)
