"""Maps of a store by name: list, panel of one map, and difference of two stores."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from dfxm_dask.errors import InputError
from dfxm_dask.view.beams.page import map_panels
from dfxm_dask.view.figures.layer_maps import layer_panels, sound_of
from dfxm_dask.view.figures.maps import Panel, finer_units, labelled, robust_limits
from dfxm_dask.view.figures.overview import other_panel

if TYPE_CHECKING:
    import xarray as xr

Limits = tuple[float, float]


def store_maps(tree: xr.DataTree) -> dict[str, xr.DataArray]:
    """Maps (y, x), with or without z, by ``group/name``; raw data are not among them."""
    return {
        f"{group}/{name}": values
        for group in tree.children
        if group != "raw"
        for name, values in tree[group].data_vars.items()
        if {"y", "x"} <= {*values.dims} <= {"z", "y", "x"} and values.dtype.kind in "fiub"
    }


def find_map(maps: dict[str, xr.DataArray], name: str) -> str:
    """The ``group/name`` of a map given by its name, or by its group and name.

    Raises
    ------
    InputError
        The store has no map of this name, or several groups have one.
    """
    if name in maps:
        return name
    found = [path for path in maps if path.partition("/")[2] == name]
    if len(found) == 1:
        return found[0]
    if found:
        raise InputError(f"variable {name}", f"exists in several groups: {', '.join(found)}", "name one of these")
    there = ", ".join(path.removeprefix("rocking/") for path in maps)
    raise InputError(
        f"variable {name}", f"is not a map of this store, which has {there or 'none'}", "name one of these"
    )


def of_layer(values: xr.DataArray, layer: int) -> xr.DataArray:
    """A map (y, x) of a layer; a map without z holds for all layers."""
    return (values.isel(z=layer) if "z" in values.dims else values).transpose("y", "x").compute()


def map_panel(tree: xr.DataTree, path: str, layer: int, limits: Limits | None = None) -> Panel:
    """A map of a layer, as the other figures draw it; with ``limits`` in the unit of the variable.

    Raises
    ------
    InputError
        Limits of a map of classes.
    """
    group, _, name = path.partition("/")
    found = tree[group].dataset
    found = found.isel(z=layer) if "z" in found.dims else found
    own = {"rocking": layer_panels, "beams": map_panels}.get(group)
    panels = {panel.name: panel for panel in own(found)} if own else {}
    values = of_layer(tree[path], layer)  # type: ignore[arg-type]
    panel = panels.get(name) or other_panel(path, values, sound_of(found) if group == "rocking" else None)
    panel = replace(panel, name=name)
    if limits is None:
        return panel
    if panel.categories:
        raise InputError(f"limits of {name}", "the map shows classes, which have no limits", "leave the limits out")
    label = labelled(str(values.attrs.get("long_name", name)), str(values.attrs.get("units", "")))
    return replace(panel, image=np.asarray(values, float), label=label, limits=limits)


def map_values(tree: xr.DataTree, path: str, layer: int) -> tuple[np.ndarray, str]:
    """Values (y, x) of a map and their axis label."""
    values = of_layer(tree[path], layer)  # type: ignore[arg-type]
    label = labelled(str(values.attrs.get("long_name", values.name)), str(values.attrs.get("units", "")))
    return np.asarray(values, float), label


def difference_panel(
    tree: xr.DataTree, other: xr.DataTree, path: str, layer: int, limits: Limits | None = None
) -> Panel:
    """A map minus the same map of another store, about zero; the limits are from pixels that are sound in both."""
    first, second = (of_layer(each[path], layer) for each in (tree, other))  # type: ignore[arg-type]
    image = np.asarray(first, float) - np.asarray(second, float)
    sound = np.isfinite(image)
    for each in (tree, other):
        group = each[path.partition("/")[0]].dataset
        kept = sound_of(group.isel(z=layer) if "z" in group.dims else group) if "flags" in group else None
        sound = sound & kept if kept is not None and (sound & kept).any() else sound
    most = max(abs(limit) for limit in robust_limits(image[sound]))
    units = str(first.attrs.get("units", ""))
    factor, finer = (1.0, units) if limits else finer_units(most, units)
    shown = limits or (-most * factor, most * factor)
    name = path.partition("/")[2]
    title = f"difference of {first.attrs.get('long_name', name)}"
    return Panel(f"difference_{name}", title, image * factor, labelled("difference", finer), "RdBu_r", shown)


def need_same_grid(tree: xr.DataTree, other: xr.DataTree, layer: int, name: str) -> None:
    """Refuse another store on a different grid.

    Raises
    ------
    InputError
        Its maps have another shape, pixel size, unit, or position.
    """
    for axis in ("y", "x", "z"):
        if axis not in tree.coords or axis not in other.coords:
            if (axis in tree.coords) != (axis in other.coords):
                raise InputError(f"difference with {name}", f"one store has no axis {axis}", "choose another store")
            continue
        own, its = (np.atleast_1d(np.asarray(each.coords[axis], float)) for each in (tree, other))
        if own.size != its.size:
            found = f"{axis} has {its.size} positions, and {own.size} in this store"
        elif tree.coords[axis].attrs.get("units") != other.coords[axis].attrs.get("units"):
            units = [each.coords[axis].attrs.get("units", "no unit") for each in (other, tree)]
            found = f"{axis} is in {units[0]}, and in {units[1]} in this store"
        else:
            own, its = (own[[layer]], its[[layer]]) if axis == "z" else (own, its)
            step = abs(float(own[-1] - own[0])) / (own.size - 1) if own.size > 1 else 1.0
            if np.abs(own - its).max() <= 0.01 * step:
                continue
            found = f"{axis} is {its[0]:.6g} to {its[-1]:.6g}, and {own[0]:.6g} to {own[-1]:.6g} in this store"
        raise InputError(f"difference with {name}", found, "choose a store on the same grid")
