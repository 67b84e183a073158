"""How one map is drawn: on its own scale in micrometres, with limits that outliers do not stretch, absent pixels grey.

Sizes are given in inches throughout, so that titles, colour bars and maps keep clear of one another whatever the shape
of the map. Nothing here touches matplotlib's global state.
"""

from __future__ import annotations

import textwrap
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    import xarray as xr
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.cm import ScalarMappable
    from matplotlib.colorbar import Colorbar
    from matplotlib.figure import Figure

NO_VALUE = "#b8b8b8"
"""Neutral grey for NaN; no colour map used for maps contains it."""
DPI = 150
TITLE, BAR, MARGIN = 0.34, 0.64, 0.22
"""Inches above a map for its title, below its ticks for its colour bar, and around it."""
SYMBOLS = {
    "um": "µm",
    "degree": "°",
    "degree2": "°²",
    "1": "",
    "1/um": "µm⁻¹",
    "1/um2": "µm⁻²",
    "1/angstrom": "Å⁻¹",
    "count": "counts",
    "pixel": "px",
    "mdeg2": "mdeg²",
    "kilocount": "1000 counts",
}
TICKS, SIDE = 0.32, 0.5
"""Inches below a map and at its left for ticks and their label."""
KEY_WIDTH = 2.4
"""Inches: the smallest width of a colour bar, a legend, and a title on one line."""
LEAST_SIDE = 0.25
"""Inches that a side of a map needs for ticks."""
SIGNED = 0.02
"""Depth of the lower limit below zero, as part of the upper one, from which values are drawn as signed (our choice)."""
UNSOUND = ("unlit", "hot", "masked", "saturated", "truncated", "single")
"""Flags of a rocking curve whose moments do not describe the crystal."""
FOOT = "grey: no value; an arrow on a colour bar: values lie beyond its end"
_FINER = {"degree": ("mdeg", 1e3), "keV": ("eV", 1e3), "degree2": ("mdeg2", 1e6)}


@dataclass(frozen=True)
class Grid:
    """Where the pixels of a layer are.

    Parameters
    ----------
    left, right, bottom, top : float
        Outer edges of the image in `units`; the first row is drawn at the top.
    units : str
        Of the edges: "um" or "pixel".
    """

    left: float
    right: float
    bottom: float
    top: float
    units: str

    @property
    def ratio(self) -> float:
        """Height over width."""
        return abs(self.top - self.bottom) / abs(self.right - self.left)


@dataclass(frozen=True)
class Panel:
    """One map, ready to be drawn.

    Parameters
    ----------
    name : str
        File name without ending.
    title : str
        Title of the map.
    image : array (y, x) or (y, x, 3)
        Values; NaN where missing. Three channels are colours from 0 to 1.
    label : str
        Label of the colour bar, with unit.
    colours : str
        Name of a perceptually even colour map.
    limits : (float, float)
        Values at the ends of the colour bar.
    categories : tuple of (str, str)
        For a map of classes 0, 1, ...: label and colour of each.
    """

    name: str
    title: str
    image: np.ndarray
    label: str = ""
    colours: str = "viridis"
    limits: tuple[float, float] = (0.0, 1.0)
    categories: tuple[tuple[str, str], ...] = ()


def pixel_grid(y: np.ndarray, x: np.ndarray, units: str) -> Grid:
    """The grid of 1-D, evenly spaced pixel centres."""
    edges = []
    for centres in (x, y):
        step = (centres[-1] - centres[0]) / (centres.size - 1) if centres.size > 1 else 1.0
        edges.append((float(centres[0] - step / 2), float(centres[-1] + step / 2)))
    (left, right), (top, bottom) = edges
    return Grid(left, right, bottom, top, units)


def grid_of(found: xr.Dataset | xr.DataTree) -> Grid:
    """The grid of the maps of a store or group."""
    return pixel_grid(np.asarray(found["y"]), np.asarray(found["x"]), str(found["x"].attrs.get("units", "pixel")))


def robust_limits(values: np.ndarray, low: float = 1.0, high: float = 99.0) -> tuple[float, float]:
    """Percentiles of the finite values, kept apart where all are equal."""
    finite = values[np.isfinite(values)]
    if not finite.size:
        return 0.0, 1.0
    a, b = (float(v) for v in np.percentile(finite, [low, high]))
    size = max(abs(a), abs(b))
    room = 0.01 * size or 0.5
    return (a, b) if b - a > 1e-6 * size else (a - room, b + room)


def finer_units(span: float, units: str) -> tuple[float, str]:
    """Factor and unit in which a span of values reads as a short number: 0.012 degree as 12 mdeg."""
    if units == "count" and span >= 2e4:
        return 1e-3, "kilocount"
    name, factor = _FINER.get(units, (units, 1.0))
    return (factor, name) if factor != 1.0 and 0 < span < 0.5 else (1.0, units)


def symbol(units: str) -> str:
    """Printed form of a unit: ``µm`` for ``um``, nothing for ``1``."""
    return SYMBOLS.get(units, units)


def labelled(text: str, units: str) -> str:
    """``text (unit)``, or the text alone where there is no unit."""
    return f"{text} ({symbol(units)})" if symbol(units) else text


def map_size(grid: Grid, width: float, highest: float) -> tuple[float, float]:
    """Width and height in inches of a map that keeps its shape, no wider and no higher than allowed."""
    height = width * grid.ratio
    return (width, height) if height <= highest else (highest / grid.ratio, highest)


def place_axes(figure: Figure, left: float, bottom: float, width: float, height: float) -> Axes:
    """Axes at a position in inches from the lower left corner of a figure."""
    across, up = figure.get_size_inches()
    return figure.add_axes((left / across, bottom / up, width / across, height / up))


def draw_image(axes: Axes, panel: Panel, grid: Grid) -> None:
    """The pixels of a map in their true shape, without ticks."""
    from matplotlib import colormaps
    from matplotlib.colors import ListedColormap

    extent = (grid.left, grid.right, grid.bottom, grid.top)
    axes.set_facecolor(NO_VALUE)
    if panel.image.ndim == 3:
        known = np.isfinite(panel.image).all(-1, keepdims=True)
        image = np.concatenate([np.where(known, np.clip(panel.image, 0, 1), 0), known], axis=-1)
        axes.imshow(image, extent=extent, origin="upper", aspect="equal", interpolation="auto")
    else:
        colours = colormaps[panel.colours].with_extremes(bad=NO_VALUE)
        low, high = panel.limits
        if panel.categories:
            colours = ListedColormap([colour for _, colour in panel.categories])
            low, high = -0.5, len(panel.categories) - 0.5
        # Large maps are averaged down as values, not as colours; small ones keep their pixels.
        method = "nearest" if panel.categories else "auto"
        axes.imshow(
            panel.image,
            extent=extent,
            origin="upper",
            aspect="equal",
            cmap=colours,
            vmin=low,
            vmax=high,
            interpolation=method,
            interpolation_stage="data",
        )
    axes.set(xticks=[], yticks=[])
    for spine in axes.spines.values():
        spine.set(color="0.3", linewidth=0.6)


def draw_key(figure: Figure, axes: Axes, panel: Panel, left: float, bottom: float, width: float) -> None:
    """The colour bar below a map, with arrows where values lie beyond its ends; or the classes and their shares."""
    from matplotlib.patches import Patch

    if panel.categories:
        found = panel.image[np.isfinite(panel.image)]
        patches = []
        for index, (text, colour) in enumerate(panel.categories):
            share = 100 * float((found == index).mean()) if found.size else 0.0
            if share:
                patches.append(Patch(facecolor=colour, edgecolor="0.3", linewidth=0.4, label=f"{text} {share:.3g} %"))
        add_legend(figure, patches, left, bottom, width)
        return
    if panel.image.ndim == 3:
        across, up = figure.get_size_inches()
        figure.text((left + width / 2) / across, (bottom - 0.1) / up, panel.label, ha="center", va="top", fontsize=8)
        return
    ends = ends_beyond(panel.image, *panel.limits)
    colours = add_colour_bar(figure, axes.images[0], left, bottom, width, panel.label, extend=ends)
    colours.ax.ticklabel_format(axis="x", useOffset=False)
    colours.ax.locator_params(axis="x", nbins=max(3, int(width * 1.6)))


def add_legend(figure: Figure, handles: Sequence[Artist], left: float, bottom: float, width: float) -> None:
    """Classes or outlines below a map, in as many columns as fit; ``left, bottom`` is the corner it hangs from."""
    legend = place_axes(figure, left, bottom - BAR, width, BAR - 0.05)
    legend.set_axis_off()
    longest = max((len(str(handle.get_label())) for handle in handles), default=1)
    columns = max(1, min(len(handles), int((width + 0.75) / (0.3 + 0.05 * longest))))
    legend.legend(
        handles=handles,
        ncols=columns,
        loc="upper center",
        fontsize=7.5,
        frameon=False,
        borderpad=0,
        handlelength=1.4,
        columnspacing=1.0,
        labelspacing=0.3,
    )


def ends_beyond(values: np.ndarray, low: float, high: float) -> str:
    """Ends of a colour bar beyond which values lie: "neither", "min", "max" or "both"."""
    finite = values[np.isfinite(values)]
    below, above = bool(finite.size and finite.min() < low), bool(finite.size and finite.max() > high)
    return {(True, True): "both", (True, False): "min", (False, True): "max"}.get((below, above), "neither")


def add_colour_bar(
    figure: Figure, image: ScalarMappable, left: float, bottom: float, width: float, label: str, **how: Any
) -> Colorbar:
    """A colour bar below a map; ``left, bottom`` is the corner from which it hangs, in inches."""
    bar = place_axes(figure, left + 0.02 * width, bottom - 0.2, 0.96 * width, 0.11)
    colours = figure.colorbar(image, cax=bar, orientation="horizontal", extendfrac=0.03, **how)
    label = "\n".join(textwrap.wrap(label, int((width + 0.5) / (8 / 72 * 0.56)), max_lines=2, placeholder=" …"))
    colours.ax.set_xlabel(label, fontsize=8, labelpad=1, parse_math=False)
    colours.ax.tick_params(labelsize=7.5, length=2.5, pad=1.5)
    colours.outline.set_linewidth(0.5)
    return colours


def add_axes(axes: Axes, grid: Grid, width: float) -> None:
    """Positions along x and y; none along a side that is too short for ticks."""
    from matplotlib.ticker import MaxNLocator

    for axis, name, length in ((axes.xaxis, "x", width), (axes.yaxis, "y", width * grid.ratio)):
        if length < LEAST_SIDE:
            continue
        axis.set_major_locator(
            MaxNLocator(min(int(2 * length), 8) if length > 1 else 2 if length > 0.5 else 1, steps=[1, 2, 5, 10])
        )
        axis.set_label_text(labelled(name, grid.units), fontsize=7.5)
        axis.labelpad = 1 if name == "x" else 3
        axis.set_tick_params(labelsize=7, length=2, pad=2.5)
        axis.get_major_formatter().set_useOffset(False)  # type: ignore[attr-defined]


def add_title(axes: Axes, text: str, room: float, size: float) -> None:
    """A title above a map; smaller, and on two lines, where it is wider than its room in inches."""
    longest = max(map(len, text.split("\n")))
    fitting = [points for points in (size, 8.0, 7.2) if points <= size and longest * 0.58 * points / 72 <= room]
    if not fitting:
        width = max(int(room / (0.56 * 7.2 / 72)), 8)
        text = "\n".join(textwrap.wrap(" ".join(text.split()), width, max_lines=2, placeholder=" …"))
    # A given height is final: matplotlib would otherwise search one from all tick labels, which is slow.
    axes.set_title(text, y=1.0, fontsize=fitting[0] if fitting else 7.2, pad=6, parse_math=False)


def draw_panel(
    figure: Figure,
    left: float,
    bottom: float,
    width: float,
    panel: Panel,
    grid: Grid,
    size: float = 9.5,
    *,
    key: bool = True,
) -> Axes:
    """A map with title, axes and key; ``left, bottom`` is the lower left corner of the map, in inches."""
    axes = place_axes(figure, left, bottom, width, width * grid.ratio)
    draw_image(axes, panel, grid)
    add_axes(axes, grid, width)
    room = max(width, KEY_WIDTH)
    add_title(axes, panel.title, room + 0.3, size)
    if key:
        draw_key(figure, axes, panel, left + (width - room) / 2, bottom - TICKS, room)
    return axes


def flag_masks(flags: xr.DataArray) -> dict[str, int]:
    """Bit of each meaning of a flag variable."""
    meanings = str(flags.attrs.get("flag_meanings", "")).split()
    return {
        word: int(mask) for word, mask in zip(meanings, np.atleast_1d(flags.attrs.get("flag_masks", [])), strict=False)
    }


def flagged(flags: xr.DataArray, *words: str) -> np.ndarray:
    """Pixels with any of some flags."""
    masks = flag_masks(flags)
    wrong = sum(masks.get(word, 0) for word in words)
    return np.nan_to_num(np.asarray(flags)).astype(np.int64) & wrong != 0  # absent layers are NaN


def signed_panel(
    name: str, title: str, image: np.ndarray, label: str, unit: str, sound: np.ndarray | None = None
) -> Panel:
    """A map between robust limits of its sound pixels; about zero, and in two colours, where it has both signs."""
    known = np.isfinite(image) if sound is None else np.isfinite(image) & sound
    low, high = robust_limits(image[known] if known.any() else image)
    colours = "viridis"
    if low < -SIGNED * max(high, 0.0):
        high = max(-low, high)
        low, colours = -high, "RdBu_r"
    factor, finer = finer_units(max(abs(low), abs(high)), unit)
    return Panel(name, title, image * factor, labelled(label, finer), colours, (low * factor, high * factor))
