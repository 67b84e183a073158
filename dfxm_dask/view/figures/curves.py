"""Rocking curves of a few pixels, from the raw counts, with a map of these pixels."""

from __future__ import annotations

from itertools import cycle
from typing import TYPE_CHECKING, Any

import numpy as np

from dfxm_dask.view.figures.index import FigureKind
from dfxm_dask.view.figures.layer_maps import sound_of
from dfxm_dask.view.figures.layout import FOOTER, PAGE, TOP, add_words
from dfxm_dask.view.figures.maps import (
    BAR,
    MARGIN,
    SIDE,
    TICKS,
    TITLE,
    UNSOUND,
    Grid,
    Panel,
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
    """Pixels (row, column) whose curves are drawn: the brightest, a median one, the brightest truncated one."""
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
    """A page with the sum image, a few pixels marked on it, and their curves; ``None`` where no pixel is lit."""
    from matplotlib.figure import Figure

    chosen = telling_pixels(maps) if "total" in maps else {}
    if not chosen:
        return None
    width, height = map_size(grid, PAGE - SIDE - 2 * MARGIN, 3.4)
    cell, plot = (PAGE - MARGIN) / len(chosen), 1.8
    figure = Figure(figsize=(PAGE, TOP + TITLE + height + TICKS + BAR + 0.45 + plot + TICKS + 0.1 + FOOTER))
    up = figure.get_size_inches()[1]
    total = np.asarray(maps["total"], np.float64)
    sound = sound_of(maps)
    low, high = robust_limits(total if sound is None or not sound.any() else total[sound], 0.5, 99.5)
    factor, units = finer_units(max(abs(low), abs(high)), "count")
    label = labelled("sum above background", units)
    sums = Panel("total", "pixels of the curves below", total * factor, label, "gray", (low * factor, high * factor))
    place = draw_panel(figure, (PAGE + SIDE - width) / 2, up - TOP - TITLE - height, width, sums, grid, 10)
    words: list[str] = []
    for number, ((label, pixel), colour) in enumerate(zip(chosen.items(), cycle(COLOURS), strict=False)):
        mark_pixel(place, raw, pixel, colour)
        axes = place_axes(figure, number * cell + 0.68, FOOTER + TICKS + 0.1, cell - 0.78, plot)
        said = draw_pixel(axes, raw, maps, frames, pixel, colour)
        axes.set_title(f"{label}\n{pixel_words(raw, pixel, grid)}", y=1.0, fontsize=8.5, color=colour, pad=4)
        words += [word for word in said if word not in words]
    add_words(figure, heading, "; ".join(["raw counts", *words]))
    return figure


def mark_pixel(axes: Axes, raw: xr.Dataset, pixel: tuple[int, int], colour: str) -> None:
    """A circle about a pixel of a map."""
    y, x = (float(raw[name][at]) for name, at in zip("yx", pixel, strict=True))
    for edge, width in (("white", 2.8), (colour, 1.6)):
        axes.plot(x, y, "o", ms=9, mfc="none", mec=edge, mew=width, clip_on=False, scalex=False, scaley=False)


def pixel_words(raw: xr.Dataset, pixel: tuple[int, int], grid: Grid) -> str:
    """Position of a pixel: ``y = 9.4, x = 88.2 µm``."""
    y, x = (float(raw[name][at]) for name, at in zip("yx", pixel, strict=True))
    return f"y = {y:.4g}, x = {x:.4g} {symbol(grid.units)}".replace("-", "−")


def draw_pixel(
    axes: Axes, raw: xr.Dataset, maps: xr.Dataset, frames: xr.Dataset | None, pixel: tuple[int, int], colour: str
) -> list[str]:
    """The rocking curve of one pixel of a layer, from the raw counts.

    Parameters
    ----------
    axes : Axes
    raw, maps, frames : Dataset
        One layer of the groups; background, centre of mass and fitted peak are drawn where these contain them.
    pixel : (int, int)
        Row and column.
    colour : str

    Returns
    -------
    list of str
        Names of the lines, for the foot of the page.
    """
    here = dict(zip("yx", pixel, strict=True))
    names = [str(dim) for dim in raw["counts"].dims if dim not in ("y", "x")]
    counts = np.asarray(raw["counts"].isel(here), np.float64)
    one = {str(name): float(maps[name].isel(here)) for name in maps if maps[name].dims == ("y", "x")}
    centre = [one.get(f"com_{name}", np.nan) for name in names]
    positions = [raw[name] if name in raw.coords else raw["counts"][name] for name in names]
    axes.tick_params(labelsize=7.5, length=2.5)
    if len(names) != 1:
        two_axes(axes, positions, counts, centre, colour)
        return ["cross: centre of mass"] if np.isfinite(centre[-2:]).all() else []
    words = []
    at = np.asarray(positions[0], float)
    one_axis(axes, positions[0], counts, colour)
    if frames is not None and "background_map" in frames:
        axes.axhline(float(frames["background_map"].isel(here)), color="0.35", lw=0.9, ls=":")
        words.append("dotted: background")
    if np.isfinite(centre[0]):
        axes.axvline(centre[0], color="0.2", lw=0.9, ls="--")
        words.append("dashed: centre of mass")
    if one.get("fit_ok", 0.0) and np.isfinite(one.get(f"fit_centre_{names[0]}", np.nan)):
        fine = np.linspace(at.min(), at.max(), 400)
        axes.plot(fine, fitted_peak(fine, one, names[0]), color="0.15", lw=0.9)
        words.append("black: fitted peak")
    return words


def fitted_peak(at: np.ndarray, one: dict[str, float], axis: str) -> np.ndarray:
    """The peak that :func:`dfxm_dask.fit_curves` fitted to a pixel, by its maps; counts."""
    s = (at - one[f"fit_centre_{axis}"]) / one[f"fit_fwhm_{axis}"]
    m = one["fit_mixing"]
    shape = m / (1 + 4 * s**2) + (1 - m) * np.exp(-4 * np.log(2) * s**2)
    return np.asarray(one["fit_background"] + one["fit_amplitude"] * shape)


def one_axis(axes: Axes, positions: xr.DataArray, counts: np.ndarray, colour: str) -> None:
    """Counts against the one scan axis."""
    from matplotlib.ticker import MaxNLocator

    axes.plot(np.asarray(positions), counts, "-", lw=1.0, color=colour, marker="o", ms=1.8)
    axes.set_xlabel(labelled(str(positions.name), positions.attrs.get("units", "")), fontsize=8, labelpad=1)
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


FIGURES = (FigureKind("curves", curves_page, ("raw/counts", "rocking"), "Rocking curves of selected pixels"),)
