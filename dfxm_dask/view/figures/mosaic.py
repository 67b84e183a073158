"""The mosaicity map with its colour key, drawn with axes and units."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from dfxm_dask.store.integrity.attributes import recorded_steps
from dfxm_dask.view.figures.maps import (
    MARGIN,
    TITLE,
    Grid,
    Panel,
    add_words,
    draw_panel,
    labelled,
    map_size,
    place_axes,
)

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

KEY = 1.5  # inches


def mosaicity_panel(maps: xr.Dataset) -> Panel:
    """The map itself. Its key needs more room than an overview has, so its label says where the key is."""
    image = np.asarray(maps["mosaicity"], np.float64) / 255
    return Panel("mosaicity", "mosaicity", image, "colour key: figure mosaicity")


def key_ranges(maps: xr.Dataset) -> dict[str, tuple[float, float]]:
    """Range of both axes that the key spans: as the reduction was told, else that of the scan."""
    record = recorded_steps(maps.attrs).get("mosaicity", {})
    given = dict(record.get("parameters") or {})
    axes = [str(name) for name in maps.coords if "scan_axis" in maps[name].attrs]
    axes = sorted(axes, key=lambda name: int(maps[name].attrs["scan_axis"]))[:2]
    ranges = {}
    for index, name in enumerate(axes):
        positions = np.asarray(maps[name])
        low, high = float(positions.min()), float(positions.max())
        middle = (low + high) / 2 if given.get("centre") is None else float(given["centre"][index])
        half = (high - low) / 2 if given.get("half_range") is None else float(given["half_range"][index])
        ranges[name] = (middle - half, middle + half)
    return ranges


def draw_mosaicity(maps: xr.Dataset, grid: Grid, heading: str) -> Figure:
    """A page with the mosaicity map, and its key beside it."""
    from matplotlib.figure import Figure

    panel = mosaicity_panel(maps)
    width, height = map_size(grid, 5.4, 6.0)
    across = MARGIN + max(width, 2.2) + 0.85 + KEY + 0.3
    body = max(height, KEY + 1.0)
    figure = Figure(figsize=(across, body + TITLE + 0.85))
    middle = 0.45 + body / 2
    draw_panel(figure, panel, grid, MARGIN, middle - height / 2, width, 11, key=False)
    left = across - KEY - 0.3
    draw_key(place_axes(figure, left, middle - KEY / 2 + 0.1, KEY, KEY), maps)
    add_words(figure, heading, "black: no value; dark grey: beyond the key")
    return figure


def draw_key(axes: Axes, maps: xr.Dataset) -> None:
    """The disc of colours over both scan axes."""
    from matplotlib.patches import Ellipse
    from matplotlib.ticker import MaxNLocator

    from dfxm_dask.rocking.mosaicity import OUTSIDE, colour_key

    ranges = key_ranges(maps)
    (up, (low, high)), (along, (left, right)) = ranges.items()
    rgb, _, _ = colour_key(401, (low, high), (left, right))
    inside = (rgb != np.array(OUTSIDE, np.uint8)).any(-1)
    image = np.dstack([rgb, np.where(inside, 255, 0).astype(np.uint8)])
    axes.imshow(image, extent=(left, right, low, high), origin="lower", aspect="auto", interpolation="nearest")
    centre = ((left + right) / 2, (low + high) / 2)
    axes.add_patch(Ellipse(centre, right - left, high - low, fill=False, edgecolor="0.3", linewidth=0.6))
    axes.set_title("colour key", fontsize=9, pad=5)
    axes.set_xlabel(labelled(along, maps[along].attrs.get("units", "")), fontsize=8)
    axes.set_ylabel(labelled(up, maps[up].attrs.get("units", "")), fontsize=8, labelpad=2)
    axes.tick_params(labelsize=7.5, length=2.5)
    axes.xaxis.set_major_locator(MaxNLocator(3))
    axes.yaxis.set_major_locator(MaxNLocator(4))
    axes.ticklabel_format(axis="both", useOffset=False)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
