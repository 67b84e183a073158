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
    import xarray as xr
    from matplotlib.axes import Axes
    from matplotlib.cm import ScalarMappable
    from matplotlib.colorbar import Colorbar
    from matplotlib.figure import Figure

NO_VALUE = "#b8b8b8"
"""Neutral grey for NaN, which none of the colour maps used for maps contains."""
DPI = 150
TITLE, BAR, MARGIN = 0.34, 0.82, 0.22
"""Inches above a map for its title, below it for its colour bar, and around it."""
SYMBOLS = {
    "um": "µm",
    "degree": "°",
    "degree2": "°²",
    "1": "",
    "count": "counts",
    "pixel": "px",
    "mdeg2": "mdeg²",
    "kilocount": "1000 counts",
}
TICKS = 0.32
"""Inches below a map for ticks and their label."""
LEAST_SIDE = 0.7
"""Inches that a side of a map needs for ticks."""
SMALL = 8.0
"""Points of sentences above or below maps."""
SIGNED = 0.02
"""Depth of the lower limit below zero, as part of the upper one, from which values are drawn as signed (our choice)."""
UNSOUND = ("unlit", "hot", "masked", "saturated", "truncated", "single")
"""Flags of a rocking curve whose moments say little of the crystal."""
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
        What is shown.
    image : array (y, x) or (y, x, 3)
        Values; NaN where there is none. Three channels are colours from 0 to 1.
    label : str
        What the colour bar counts, with unit.
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
    """A unit as it is printed: ``µm`` for ``um``, nothing for ``1``."""
    return SYMBOLS.get(units, units)


def labelled(text: str, units: str) -> str:
    """``text (unit)``, or the text alone where there is no unit."""
    return f"{text} ({symbol(units)})" if symbol(units) else text


def bar_length(width: float) -> float:
    """A round length (1, 2 or 5 times a power of ten) near a fifth of a width."""
    wanted = 0.22 * width
    power = 10.0 ** np.floor(np.log10(wanted))
    return float(max(step * power for step in (1, 2, 5) if step * power <= wanted))


def add_scale_bar(axes: Axes, grid: Grid) -> None:
    """A bar of round length in the lower left corner, on a dark ground that any map leaves readable."""
    from matplotlib.font_manager import FontProperties
    from mpl_toolkits.axes_grid1.anchored_artists import AnchoredSizeBar

    length = bar_length(abs(grid.right - grid.left))
    bar = AnchoredSizeBar(
        axes.transData,
        length,
        f"{length:g} {symbol(grid.units)}",
        "lower left",
        pad=0.35,
        borderpad=0.5,
        sep=3,
        color="white",
        size_vertical=0.009 * abs(grid.right - grid.left),
        fontproperties=FontProperties(size=8),
        fill_bar=True,
    )
    bar.patch.set(facecolor="black", alpha=0.6, edgecolor="none")
    bar.patch.set_boxstyle("round", pad=0.0, rounding_size=0.3)
    axes.add_artist(bar)


def map_size(grid: Grid, width: float, highest: float) -> tuple[float, float]:
    """Width and height in inches of a map that keeps its shape, no wider and no higher than allowed."""
    height = width * grid.ratio
    return (width, height) if height <= highest else (highest / grid.ratio, highest)


def place_axes(figure: Figure, left: float, bottom: float, width: float, height: float) -> Axes:
    """Axes at a place in inches from the lower left corner of a figure."""
    across, up = figure.get_size_inches()
    return figure.add_axes((left / across, bottom / up, width / across, height / up))


def draw_image(axes: Axes, panel: Panel, grid: Grid) -> None:
    """The pixels of a map in their true shape, without ticks: the scale bar says the size."""
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
    add_scale_bar(axes, grid)


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
        legend = place_axes(figure, left, bottom - 0.6, width, 0.55)
        legend.set_axis_off()
        columns = max(1, min(len(patches), int(width / 1.5)))
        legend.legend(handles=patches, ncols=columns, loc="upper center", fontsize=7.5, frameon=False, borderpad=0)
        return
    if panel.image.ndim == 3:
        across, up = figure.get_size_inches()
        figure.text((left + width / 2) / across, (bottom - 0.1) / up, panel.label, ha="center", va="top", fontsize=8)
        return
    ends = ends_beyond(panel.image, *panel.limits)
    colours = add_colour_bar(figure, axes.images[0], left, bottom, width, panel.label, extend=ends)
    colours.ax.ticklabel_format(axis="x", useOffset=False)
    colours.ax.locator_params(axis="x", nbins=max(3, int(width * 1.6)))


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
    colours.set_label(label, fontsize=8.5, labelpad=2)
    colours.ax.tick_params(labelsize=8, length=2.5, pad=1.5)
    colours.outline.set_linewidth(0.5)
    return colours


def add_axes(axes: Axes, grid: Grid, width: float) -> None:
    """Positions along x and y instead of the scale bar; a map too thin for ticks keeps the bar."""
    from matplotlib.ticker import MaxNLocator

    height = width * grid.ratio
    if min(width, height) < LEAST_SIDE:
        return
    for artist in list(axes.artists):
        artist.remove()
    for axis, name, length in ((axes.xaxis, "x", width), (axes.yaxis, "y", height)):
        axis.set_major_locator(MaxNLocator(max(2, int(2 * length))))
        axis.set_label_text(labelled(name, grid.units), fontsize=7.5)
        axis.labelpad = 1
        axis.set_tick_params(labelsize=7, length=2, pad=1.5)


def draw_panel(
    figure: Figure, panel: Panel, grid: Grid, left: float, bottom: float, width: float, size: int, *, key: bool = True
) -> Axes:
    """A map with title above and key below; ``left, bottom`` is the lower left corner of the map, in inches."""
    axes = place_axes(figure, left, bottom, width, width * grid.ratio)
    draw_image(axes, panel, grid)
    axes.set_title(panel.title, fontsize=size, pad=6, parse_math=False)
    if key:
        room = max(width, 2.2)
        draw_key(figure, axes, panel, left + (width - room) / 2, bottom, room)
    return axes


def wrapped(sentences: list[str], width: float, size: float) -> list[tuple[str, str]]:
    """Lines of sentences that fit a width in inches, and their weight: the first sentence is bold."""
    lines = []
    for number, sentence in enumerate(sentences):
        letter = size / 72 * (0.56 if number else 0.64)  # inches, on the wide side
        fitting = textwrap.wrap(sentence, int(width / letter), subsequent_indent="   ")
        lines += [(line, "normal" if number else "bold") for line in fitting]
    return lines


def sentences_height(said: list[tuple[str, str]], size: float = SMALL) -> float:
    """Inches that lines of :func:`wrapped` take."""
    return len(said) * 1.6 * size / 72


def write_sentences(
    figure: Figure, said: list[tuple[str, str]], left: float, below: float, size: float = SMALL
) -> None:
    """Lines of :func:`wrapped`, from a place in inches from the left and below the upper edge of a page."""
    across, up = figure.get_size_inches()
    for index, (text, weight) in enumerate(said):
        place = left / across, 1 - (below + index * 1.6 * size / 72) / up
        figure.text(*place, text, va="top", fontsize=size, weight=weight, color="0.15", parse_math=False)


def add_words(figure: Figure, heading: str, foot: str = FOOT) -> None:
    """The scan's name at the top of a page and how to read it at the foot."""
    up = figure.get_size_inches()[1]
    figure.text(0.5, 1 - 0.1 / up, heading, ha="center", va="top", fontsize=9, color="0.25", parse_math=False)
    figure.text(0.5, 0.08 / up, foot, ha="center", va="bottom", fontsize=7, color="0.4", parse_math=False)


def flag_masks(flags: xr.DataArray) -> dict[str, int]:
    """Bit of each meaning of a flag variable."""
    meanings = str(flags.attrs.get("flag_meanings", "")).split()
    return {
        word: int(mask) for word, mask in zip(meanings, np.atleast_1d(flags.attrs.get("flag_masks", [])), strict=False)
    }


def flagged(flags: xr.DataArray, *words: str) -> np.ndarray:
    """Pixels whose flags say any of some words."""
    masks = flag_masks(flags)
    wrong = sum(masks.get(word, 0) for word in words)
    return np.nan_to_num(np.asarray(flags)).astype(np.int64) & wrong != 0  # absent layers are NaN


def signed_panel(name: str, title: str, image: np.ndarray, label: str, unit: str) -> Panel:
    """A map between robust limits; about zero, and in two colours, where it has both signs."""
    low, high = robust_limits(image)
    colours = "viridis"
    if low < -SIGNED * max(high, 0.0):
        high = max(-low, high)
        low, colours = -high, "RdBu_r"
    factor, finer = finer_units(max(abs(low), abs(high)), unit)
    return Panel(name, title, image * factor, labelled(label, finer), colours, (low * factor, high * factor))
