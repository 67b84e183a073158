"""Pages on request: rocking curve of a pixel, and values of a map along a line."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from dfxm_dask.errors import InputError
from dfxm_dask.view.figures.curves import COLOURS, draw_pixel, mark_pixel, pixel_words
from dfxm_dask.view.figures.layer_maps import layer_panels
from dfxm_dask.view.figures.layout import FOOTER, PAGE, TOP, add_words
from dfxm_dask.view.figures.maps import (
    BAR,
    MARGIN,
    SIDE,
    TICKS,
    TITLE,
    Panel,
    draw_panel,
    grid_of,
    map_size,
    place_axes,
    symbol,
)
from dfxm_dask.view.probes.variables import map_panel, map_values

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

CURVE = 2.2  # inches: height of a curve


def pixel_at(tree: xr.DataTree, y: float, x: float, what: str) -> tuple[int, int]:
    """Row and column of the pixel at a position in the unit of the store.

    Raises
    ------
    InputError
        The position lies outside of the scan.
    """
    pixel, spans = [], []
    outside = False
    for name, at in (("y", y), ("x", x)):
        centres = np.asarray(tree.coords[name], float)
        half = abs(float(centres[-1] - centres[0])) / (centres.size - 1) / 2 if centres.size > 1 else 0.5
        low, high = float(centres.min()) - half, float(centres.max()) + half
        spans.append(f"{name} {low:.6g} to {high:.6g}")
        outside |= not low <= at <= high
        pixel.append(int(np.abs(centres - at).argmin()))
    if outside:
        units = tree.coords["y"].attrs.get("units", "pixel")
        raise InputError(f"{what} at {y:g},{x:g}", f"lies outside of the scan, {', '.join(spans)} {units}", "move it")
    return pixel[0], pixel[1]


def draw_point(tree: xr.DataTree, layer: int, pixel: tuple[int, int], heading: str) -> Figure:
    """A page with the rocking curve of one pixel, and with the pixel on the sum image where there is one."""
    from matplotlib.ticker import MaxNLocator

    raw = tree["raw"].dataset.isel(z=layer)
    maps = tree["rocking"].dataset.isel(z=layer) if "rocking" in tree else raw[[]]
    frames = tree["frames"].dataset.isel(z=layer) if "frames" in tree else None
    panel = next((p for p in layer_panels(maps) if p.name == "total"), None)
    figure, axes, plot = _page(tree, panel)
    if axes is not None:
        mark_pixel(axes, raw, pixel, COLOURS[0])
    words = draw_pixel(plot, raw, maps, frames, pixel, COLOURS[0])
    plot.xaxis.set_major_locator(MaxNLocator(7))
    plot.set_title(f"rocking curve at {pixel_words(raw, pixel, grid_of(tree))}", fontsize=9.5, pad=5)
    add_words(figure, heading, "; ".join(["raw counts", *words]))
    return figure


def line_pixels(
    tree: xr.DataTree, ends: tuple[float, float, float, float]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pixels that a line from (y0, x0) to (y1, x1) crosses.

    Returns
    -------
    distance : array (sample,)
        Along the line from its start, in the unit of the store; half a pixel apart.
    rows, columns : array (sample,), int64
        The pixel nearest to every sample: values are those of pixels, not interpolated.
    """
    y, x = (np.asarray(tree.coords[name], float) for name in "yx")
    steps = [abs(float(at[-1] - at[0])) / (at.size - 1) for at in (y, x) if at.size > 1]
    length = float(np.hypot(ends[2] - ends[0], ends[3] - ends[1]))
    count = max(int(np.ceil(2 * length / min(steps, default=1.0))) + 1, 2)
    part = np.linspace(0, 1, count)
    rows = np.abs(y[None] - (ends[0] + part * (ends[2] - ends[0]))[:, None]).argmin(axis=1)
    columns = np.abs(x[None] - (ends[1] + part * (ends[3] - ends[1]))[:, None]).argmin(axis=1)
    return part * length, rows, columns


def draw_profile(
    tree: xr.DataTree, path: str, layer: int, ends: tuple[float, float, float, float], heading: str
) -> Figure:
    """A page with a map and its values along a line."""
    from matplotlib.ticker import MaxNLocator

    panel = map_panel(tree, path, layer)
    figure, axes, plot = _page(tree, panel)
    assert axes is not None
    for colour, width in (("white", 2.8), (COLOURS[0], 1.4)):
        axes.plot(ends[1::2], ends[::2], color=colour, lw=width, marker="o", ms=3, markevery=[0])
    distance, rows, columns = line_pixels(tree, ends)
    values, label = map_values(tree, path, layer)
    plot.plot(distance, values[rows, columns], color=COLOURS[0], lw=1.0, marker="o", ms=1.8)
    units = symbol(grid_of(tree).units)
    start = f"y = {ends[0]:.4g}, x = {ends[1]:.4g} {units}".replace("-", "−")
    plot.set_xlabel(f"distance from {start} ({units})", fontsize=8, labelpad=1)
    plot.set_ylabel(label, fontsize=8, labelpad=2)
    plot.tick_params(labelsize=7.5, length=2.5)
    plot.xaxis.set_major_locator(MaxNLocator(7))
    plot.yaxis.set_major_locator(MaxNLocator(5))
    plot.ticklabel_format(axis="both", useOffset=False)
    for side in ("top", "right"):
        plot.spines[side].set_visible(False)
    add_words(figure, heading, "values of the nearest pixels, half a pixel apart; the dot marks the start of the line")
    return figure


def _page(tree: xr.DataTree, panel: Panel | None) -> tuple[Figure, Axes | None, Axes]:
    """A page with a map, and axes for a curve below it."""
    from matplotlib.figure import Figure

    grid = grid_of(tree)
    width, height = map_size(grid, PAGE - SIDE - 2 * MARGIN, 3.4)
    above = TITLE + height + TICKS + BAR if panel else 0.0
    figure = Figure(figsize=(PAGE, TOP + above + TITLE + CURVE + TICKS + 0.1 + FOOTER))
    up = figure.get_size_inches()[1]
    axes = None
    if panel:
        axes = draw_panel(figure, (PAGE + SIDE - width) / 2, up - TOP - TITLE - height, width, panel, grid, 10)
    return figure, axes, place_axes(figure, 0.85, FOOTER + TICKS + 0.1, PAGE - 0.85 - MARGIN, CURVE)
