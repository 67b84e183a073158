"""Rocking curves of a few pixels, from the raw counts, beside a map that says where they are."""

from __future__ import annotations

from itertools import cycle
from typing import TYPE_CHECKING, Any

import numpy as np

from dfxm_dask.view.figures.index import FigureKind
from dfxm_dask.view.figures.maps import (
    BAR,
    MARGIN,
    TITLE,
    UNSOUND,
    Grid,
    Panel,
    add_words,
    draw_panel,
    finer_units,
    flagged,
    grid_of,
    labelled,
    map_size,
    place_axes,
    robust_limits,
    symbol,
)

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = ("#d55e00", "#0072b2", "#009e73", "#cc79a7")


def telling_pixels(maps: xr.Dataset) -> dict[str, tuple[int, int]]:
    """Pixels (row, column) worth a look: the brightest, a median one, the widest curve, the brightest truncated one."""
    total = np.asarray(maps["total"], np.float64)
    sound = np.isfinite(total)
    truncated = np.zeros(total.shape, bool)
    if "flags" in maps:
        sound &= ~flagged(maps["flags"], *UNSOUND)
        truncated = np.isfinite(total) & flagged(maps["flags"], "truncated")
    chosen: dict[str, tuple[int, int]] = {}

    def pick(label: str, score: np.ndarray, where: np.ndarray) -> None:
        if where.any():
            row, column = np.unravel_index(int(np.argmax(np.where(where, score, -np.inf))), score.shape)
            if (int(row), int(column)) not in chosen.values():
                chosen[label] = (int(row), int(column))

    pick("brightest", total, sound)
    if sound.any():
        # Among the brighter half: the median of all pixels is mostly background.
        bright = sound & (total >= np.median(total[sound]))
        pick("median", -np.abs(total - np.percentile(total[bright], 50, method="lower")), bright)
    pick("brightest truncated", total, truncated)
    return chosen


def draw_curves(
    raw: xr.Dataset, maps: xr.Dataset, frames: xr.Dataset | None, grid: Grid, heading: str
) -> Figure | None:
    """A page with the sum image, the pixels marked on it, and the curve of each; ``None`` where no pixel is lit."""
    from matplotlib.figure import Figure

    if "total" not in maps:
        return None
    chosen = telling_pixels(maps)
    if not chosen:
        return None
    axes_names = [str(dim) for dim in raw["counts"].dims if dim not in ("y", "x")]
    width, height = map_size(grid, 6.5, 4.0)
    plot = 2.1
    across = 7.2
    cell = (across - MARGIN) / len(chosen)
    up = 0.38 + TITLE + height + BAR + 0.5 + plot + 0.9
    figure = Figure(figsize=(across, up))
    total = np.asarray(maps["total"], np.float64)
    low, high = robust_limits(total, 0.5, 99.5)
    factor, units = finer_units(max(abs(low), abs(high)), "count")
    label = labelled("above background", units)
    sums = Panel("total", "where the pixels are", total * factor, label, "gray", (low * factor, high * factor))
    place = draw_panel(figure, sums, grid, (across - width) / 2, up - 0.38 - TITLE - height, width, 10)
    y, x = np.asarray(raw["y"]), np.asarray(raw["x"])
    for number, ((label, (row, column)), colour) in enumerate(zip(chosen.items(), cycle(COLOURS), strict=False)):
        place.plot(x[column], y[row], "o", ms=9, mfc="none", mec="white", mew=2.8)
        place.plot(x[column], y[row], "o", ms=9, mfc="none", mec=colour, mew=1.6)
        counts = np.asarray(raw["counts"].isel(y=row, x=column), np.float64)
        level = None
        if frames is not None and "background_map" in frames:
            level = float(frames["background_map"].isel(y=row, x=column))
        centre = [
            float(maps[f"com_{name}"].isel(y=row, x=column)) if f"com_{name}" in maps else np.nan for name in axes_names
        ]
        axes = place_axes(figure, number * cell + 0.72, 0.78, cell - 0.86, plot)
        where = f"x = {x[column]:.4g}, y = {y[row]:.4g} {symbol(grid.units)}"
        axes.set_title(f"{label}\n{where}", fontsize=8.5, color=colour, pad=5)
        positions = [raw[name] for name in axes_names]
        if len(axes_names) == 1:
            one_axis(axes, positions[0], counts, level, centre[0], colour)
        else:
            two_axes(axes, positions, counts, centre, colour)
        axes.tick_params(labelsize=7.5, length=2.5)
    words = "dashed: centre of mass; dotted: background" if len(axes_names) == 1 else "cross: centre of mass"
    add_words(figure, heading, f"raw counts; {words}")
    return figure


def one_axis(
    axes: Axes, positions: xr.DataArray, counts: np.ndarray, level: float | None, centre: float, colour: str
) -> None:
    """Counts against the one scan axis."""
    from matplotlib.ticker import MaxNLocator

    axes.plot(np.asarray(positions), counts, "-", lw=1.0, color=colour, marker="o", ms=1.8)
    if level is not None:
        axes.axhline(level, color="0.35", lw=0.9, ls=":")
    if np.isfinite(centre):
        axes.axvline(centre, color="0.2", lw=0.9, ls="--")
    axes.set_xlabel(labelled(str(positions.name), positions.attrs.get("units", "")), fontsize=8)
    axes.set_ylabel("counts", fontsize=8, labelpad=2)
    axes.xaxis.set_major_locator(MaxNLocator(4))
    axes.yaxis.set_major_locator(MaxNLocator(5))
    axes.ticklabel_format(axis="both", useOffset=False)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def two_axes(axes: Axes, positions: list[Any], counts: np.ndarray, centre: list[float], colour: str) -> None:
    """Counts over the last two scan axes; further axes are summed."""
    from matplotlib.ticker import MaxNLocator

    while counts.ndim > 2:
        counts = counts.sum(0)
    up, along = positions[-2:]
    axes.pcolormesh(np.asarray(along), np.asarray(up), counts, cmap="gray_r", shading="nearest", rasterized=True)
    if np.isfinite(centre[-2:]).all():
        axes.plot(centre[-1], centre[-2], "+", color=colour, ms=11, mew=1.8)
    axes.set_xlabel(labelled(str(along.name), along.attrs.get("units", "")), fontsize=8)
    axes.set_ylabel(labelled(str(up.name), up.attrs.get("units", "")), fontsize=8, labelpad=2)
    axes.xaxis.set_major_locator(MaxNLocator(3))
    axes.yaxis.set_major_locator(MaxNLocator(5))
    axes.ticklabel_format(axis="both", useOffset=False)


def curves_page(tree: xr.DataTree, layer: int, heading: str) -> Figure | None:
    """The page of a layer of a store."""
    raw, maps = (tree[name].dataset.isel(z=layer) for name in ("raw", "rocking"))
    frames = tree["frames"].dataset.isel(z=layer) if "frames" in tree else None
    return draw_curves(raw, maps, frames, grid_of(maps), heading)


FIGURES = (FigureKind("curves", curves_page, ("raw/counts", "rocking"), "Rocking curves of telling pixels"),)
