"""Regions of nearly one orientation: their map, and their outlines on the centre of mass."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from dfxm_dask.view.figures.index import FigureKind
from dfxm_dask.view.figures.layer_maps import sound_of, value_panel
from dfxm_dask.view.figures.layout import map_page
from dfxm_dask.view.figures.maps import FOOT, Grid, Panel, draw_panel, grid_of

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.figure import Figure

NUMBERED = 30
"""Largest number of regions of a layer whose numbers are printed; fewer than this fit apart (our choice)."""
GOLDEN = 0.6180339887498949  # turns of the hue from one number to the next: near numbers have different colours


def region_colours(label: np.ndarray) -> np.ndarray:
    """Colours (y, x, 3), 0 to 1, of region numbers; NaN for 0. A number has the same colour in all layers."""
    from matplotlib.colors import hsv_to_rgb

    hue = (label * GOLDEN) % 1.0
    value = 0.70 + 0.25 * ((label // 3) % 2)
    colours = hsv_to_rgb(np.stack([hue, np.full(label.shape, 0.45), value], axis=-1))
    return np.asarray(np.where((label > 0)[..., None], colours, np.nan))


def draw_outlined(
    figure: Figure, left: float, bottom: float, width: float, *, panel: Panel, grid: Grid, label: np.ndarray
) -> None:
    """A map with the outlines of the regions, and their numbers where these are few."""
    axes = draw_panel(figure, left, bottom, width, panel, grid)
    rows, columns = label.shape
    step = (grid.right - grid.left) / columns, (grid.bottom - grid.top) / rows
    for axis in (0, 1):
        change = np.argwhere(np.diff(label, axis=axis) != 0)
        if not len(change):
            continue
        y, x = grid.top + step[1] * change[:, 0], grid.left + step[0] * change[:, 1]
        if axis == 0:
            ends = (np.stack([x, x + step[0]]), np.stack([y + step[1], y + step[1]]))
        else:
            ends = (np.stack([x + step[0], x + step[0]]), np.stack([y, y + step[1]]))
        broken = [np.concatenate([e, np.full((1, e.shape[1]), np.nan)]).T.ravel() for e in ends]
        axes.plot(*broken, color="black", linewidth=0.7, solid_capstyle="butt")
    names = np.unique(label[label > 0])
    for name in names if len(names) <= NUMBERED else ():
        y, x = (np.median(p) + 0.5 for p in np.nonzero(label == name))
        place = grid.left + step[0] * x, grid.top + step[1] * y
        axes.annotate(
            str(name),
            place,
            ha="center",
            va="center",
            fontsize=7.5,
            bbox={"facecolor": "white", "alpha": 0.7, "edgecolor": "none", "pad": 0.8},
        )
    axes.set(xlim=(grid.left, grid.right), ylim=(grid.bottom, grid.top))


def draw_regions(tree: xr.DataTree, layer: int, heading: str) -> Figure | None:
    """A page with the regions of a layer, and the centre of mass along every axis with their outlines."""
    label = np.asarray(tree["regions"].dataset["region"].isel(z=layer))
    label = np.nan_to_num(label).astype(np.int64)  # absent layers are NaN
    grid = grid_of(tree["regions"].dataset)
    panels = [Panel("region", f"regions: {len(np.unique(label[label > 0]))} in this layer", region_colours(label))]
    if "rocking" in tree:
        maps = tree["rocking"].dataset.isel(z=layer)
        axes = [str(n) for n, c in tree.coords.items() if "scan_axis" in c.attrs]
        panels += [
            value_panel(maps[f"com_{a}"], f"centre of mass along {a}", "viridis", 1.0, 99.0, sound_of(maps))
            for a in axes
            if f"com_{a}" in maps
        ]
    draws = [partial(draw_outlined, panel=panel, grid=grid, label=label) for panel in panels]
    return map_page(draws, grid, heading, f"{FOOT}; numbers are those of the table of regions")


FIGURES = (FigureKind("regions", draw_regions, ("regions/region",), "Regions of nearly one orientation"),)
