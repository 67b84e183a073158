"""The maps of a store, (z, y, x), and their provenance, for every format of :mod:`.map_files`."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from dfxm_dask.schema import SPACE
from dfxm_dask.store.integrity.attributes import netcdf_safe, recorded_steps

if TYPE_CHECKING:
    import xarray as xr

FIRST = ("com_phi", "com_", "fit_centre_", "peak_", "total")
"""Beginnings of the names of maps that a viewer shows first."""


def maps_of(tree: xr.DataTree) -> dict[str, xr.Dataset]:
    """Maps of a store.

    Parameters
    ----------
    tree : DataTree

    Returns
    -------
    dict of str to Dataset
        By group: the variables along z, y and x, in storage order, with the coordinates z, y, x alone. Counts, their
        group, and all variables along a scan axis are left out. The group ``rocking`` comes first.
    """
    axes = {name for name, c in tree.coords.items() if "scan_axis" in c.attrs}
    found = {}
    for group in sorted(tree.children, key=lambda name: (name != "rocking", name)):
        data = tree[group].to_dataset()
        if "counts" in data:
            continue
        names = [n for n, v in data.data_vars.items() if v.dims[:1] == ("z",) and set(SPACE) <= set(v.dims)]
        names = [n for n in names if not axes & set(data[n].dims)]
        if names:
            data = data[names].drop_vars([c for c in data.coords if c not in SPACE], errors="ignore")
            found[group] = data.assign_attrs(netcdf_safe(data.attrs))
    return found


def error_of(name: str, data: xr.Dataset) -> str | None:
    """The map whose standard error a variable is, or None.

    Examples
    --------
    >>> import xarray as xr
    >>> data = xr.Dataset({"fit_centre_phi": 0, "fit_centre_std_phi": 0, "tilt": 0, "tilt_std": 0})
    >>> error_of("fit_centre_std_phi", data), error_of("tilt_std", data)  # the spread of tilts, not their error
    ('fit_centre_phi', None)
    """
    value = re.sub(r"_error(?=_|$)|^(fit_[a-z]+)_std(?=_|$)", r"\1", name)
    return value if value != name and value in data else None


def shown_first(names: list[str]) -> str:
    """The map that a viewer shows when it opens a file."""
    return next((n for beginning in FIRST for n in names if n.startswith(beginning)), names[0])


def label(variable: xr.DataArray) -> str:
    """Name of an axis of a plot, with its unit.

    Examples
    --------
    >>> import xarray as xr
    >>> label(xr.DataArray(0, name="x", attrs={"units": "um", "long_name": "position along x"}))
    'position along x (um)'
    """
    units = str(variable.attrs.get("units", ""))
    return str(variable.attrs.get("long_name") or variable.name) + (f" ({units})" if units not in ("", "1") else "")


def image_dims(variable: xr.DataArray) -> tuple[str, ...]:
    """Dims of a map in the order in which viewers show images: components before y and x, colours last.

    Examples
    --------
    >>> import xarray as xr
    >>> image_dims(xr.DataArray(np.zeros((1, 2, 2, 3, 3)), dims=("z", "y", "x", "row", "column")))
    ('z', 'row', 'column', 'y', 'x')
    """
    last = [d for d in ("y", "x", "rgb") if d in variable.dims]
    return (*(str(d) for d in variable.dims if d not in last), *last)


def layers(variable: xr.DataArray) -> Iterator[np.ndarray]:
    """Values of each layer in the order of :func:`image_dims`, one at a time; booleans as 0 and 1 in uint8."""
    order = [variable.dims.index(dim) - 1 for dim in image_dims(variable)[1:]]
    for k in range(variable.sizes["z"]):
        layer = np.asarray(variable[k]).transpose(order)
        yield layer.astype(np.uint8) if layer.dtype == bool else layer


def planes(data: xr.Dataset) -> Iterator[tuple[str, xr.DataArray]]:
    """Maps with one value a pixel: a map with further dims gives one for each of their positions.

    Names are those of columns: ``mosaicity_r``, ``nmf_coefficient_0``.
    """
    from dfxm_dask.view.export.tables import component_labels

    for name, variable in data.data_vars.items():
        more = [d for d in variable.dims if d not in SPACE]
        words = [component_labels(data, str(d)) for d in more]
        for place in np.ndindex(*(len(w) for w in words)):
            chosen = variable.isel(dict(zip(more, place, strict=True)))
            yield "_".join([str(name), *(w[k] for w, k in zip(words, place, strict=True))]), chosen


def history(tree: xr.DataTree, group: str) -> list[tuple[str, Mapping[str, Any]]]:
    """Steps that the results of a group depend on, each after its inputs.

    Returns
    -------
    list of (str, dict)
        "group/step", and a record with at least ``version`` and ``parameters``.
    """
    every = {
        f"{name}/{step}": made
        for name, node in tree.children.items()
        for step, made in recorded_steps(node.attrs).items()
    }
    found: dict[str, Mapping[str, Any]] = {}

    def add(source: str) -> None:
        made = every.get(source)
        if made is None or source in found:
            return
        for before in made.get("inputs", {}):
            add(before)
        for before, parameters in (made.get("passing") or {}).items():  # steps that stored nothing
            found.setdefault(before, {"version": made.get("version", ""), "parameters": parameters})
        found[source] = made

    for source in [name for name in every if name.startswith(f"{group}/")]:
        add(source)
    return list(found.items())


def titles(tree: xr.DataTree) -> tuple[str, str]:
    """Title of the scan, and the name of the sample where the files record one."""
    title = str(tree.attrs.get("title", ""))
    return title, title if title != str(tree.attrs.get("command", title)) else ""
