"""All maps of a layer on one page: maps of the rocking curve, and maps of plug-in reductions."""

from __future__ import annotations

import re
from functools import partial
from itertools import cycle
from typing import TYPE_CHECKING

import numpy as np

from dfxm_dask.catalogue import load_reductions
from dfxm_dask.view.figures.index import FigureKind, Pages
from dfxm_dask.view.figures.layer_maps import FLAGS, flag_panel, layer_panels, single
from dfxm_dask.view.figures.layout import map_page
from dfxm_dask.view.figures.maps import Grid, Panel, draw_panel, flag_masks, grid_of, signed_panel
from dfxm_dask.view.figures.mosaic import mosaicity_panel, two_centres

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.figure import Figure

NOT_REDUCED = ("raw", "truth")
"""Groups that no reduction writes."""


def overview(panels: list[Panel], grid: Grid, heading: str) -> Figure:
    """All maps of a layer on one page."""
    return map_page([partial(draw_panel, panel=panel, grid=grid) for panel in panels], grid, heading)


def draw_overview(tree: xr.DataTree, layer: int, heading: str) -> Figure | None:
    """The maps of the rocking curve of a layer; None without maps."""
    maps = tree["rocking"].dataset.isel(z=layer)
    panels = layer_panels(maps)
    if two_centres(tree["rocking"].dataset):
        panels.append(mosaicity_panel(tree["rocking"].dataset, layer))
    return overview(panels, grid_of(maps), heading) if panels else None


def other_maps(tree: xr.DataTree) -> dict[str, xr.DataArray]:
    """Maps (y, x), with or without z, by group and name, that reductions of plug-ins wrote."""
    own = [
        re.compile(re.sub(r"\\\{\w+\\\}", ".+", re.escape(f"{reduction.group}/{variable.name}")))
        for reduction in load_reductions().values()
        if reduction.kernel.__module__.startswith("dfxm_dask.")
        for variable in reduction.writes
    ]
    return {
        path: values
        for group in tree.children
        if group not in NOT_REDUCED
        for name, values in tree[group].data_vars.items()
        if {"y", "x"} <= {*values.dims} <= {"z", "y", "x"} and values.dtype.kind in "fiub"
        for path in [f"{group}/{name}"]
        if not any(known.fullmatch(path) for known in own)
    }


def other_panel(path: str, values: xr.DataArray, sound: np.ndarray | None = None) -> Panel:
    """A map of a plug-in: classes where it is a mask or has flags, else values between robust limits."""
    name, title = path.replace("/", "_"), str(values.attrs.get("long_name", path))
    if values.dtype.kind == "b":
        return Panel(name, title, np.asarray(values, float), categories=(("no", "#e8e8e8"), ("yes", "#0072b2")))
    if words := flag_masks(values):
        classes = tuple(zip(words, cycle(colour for _, colour in reversed(FLAGS)), strict=False))
        return flag_panel(values, name, title, classes, ("none", "#e8e8e8"))
    units = str(values.attrs.get("units", ""))
    return signed_panel(name, title, np.asarray(values, float), path.partition("/")[2], units, sound)


def other_pages(tree: xr.DataTree, layer: int, heading: str) -> Pages:
    """All maps of plug-ins on one page, and a page for each."""
    found = other_maps(tree)
    maps = {path: values.isel(z=layer) if "z" in values.dims else values for path, values in found.items()}
    panels = [other_panel(path, values.transpose("y", "x")) for path, values in maps.items()]
    if panels:
        grid = grid_of(tree)
        yield "other_maps", partial(overview, panels, grid, heading)
        for panel in panels:
            yield panel.name, partial(single, panel, grid, heading)


FIGURES = (
    FigureKind("overview", draw_overview, ("rocking",), "Maps of the rocking curve"),
    FigureKind("other_maps", other_pages, caption="Maps of other reductions", several=True),
)
