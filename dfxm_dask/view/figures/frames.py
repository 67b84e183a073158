"""Raw frames of a layer at the peak, on the flank and in the tail of its rocking curve, with the truth where known."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from dfxm_dask.schema import PATCH
from dfxm_dask.view.figures.index import FigureKind
from dfxm_dask.view.figures.layout import Draw, map_page
from dfxm_dask.view.figures.maps import (
    KEY_WIDTH,
    TICKS,
    Grid,
    Panel,
    add_colour_bar,
    add_legend,
    draw_key,
    draw_panel,
    ends_beyond,
    grid_of,
    robust_limits,
    symbol,
)
from dfxm_dask.view.figures.telling_frames import (
    absent_frames,
    attenuated,
    dark_levels,
    frame_brightness,
    moving_frames,
    read_frames,
    scan_axes,
    telling_frames,
)

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LABELS = (("unlit", "#8c8c8c"), ("weak", "#56b4e9"), ("strong", "#d55e00"), ("ambiguous", "#f0e442"))
"""Classes of patches by the beam that lights them, in grey and colours of the Okabe–Ito palette."""
LINE = "#e6007e"
NEAR = 0.3  # um from a dislocation line: the outline that is drawn of the truth
PERCENTILES = (0.5, 99.8)
BRIGHT = 1000.0
"""Counts above the dark level from which a frame is drawn on an asinh scale: strong beam beside weak (our choice)."""
WORDS = 0.5  # inches above a frame for two lines


def draw_frames(tree: xr.DataTree, layer: int, heading: str = "") -> Figure:
    """A page with three selected frames of a layer in counts above dark, and the truth where it is known.

    Parameters
    ----------
    tree : DataTree
        With ``raw/counts``; with patch statistics only the frames that are drawn are read.
    layer : int
        Number along z.
    heading : str
        Printed at the top.

    Returns
    -------
    Figure
        One map a frame; sentences where the scan has no flank or no tail. With a group ``truth`` another map: the tail
        frame, or the faintest, with the outline of the dislocations and the labels of its patches.
    """
    raw = tree["raw"].dataset.isel(z=layer)
    names = scan_axes(raw)
    grid = grid_of(raw)
    brightness = frame_brightness(raw)
    moving = names == ["time"]
    chosen = moving_frames(brightness) if moving else telling_frames(brightness)
    where = {word: dict(zip(names, place, strict=True)) for word, place in chosen.items()}
    images = read_frames(raw["counts"], list(where.values()))
    levels = dark_levels(images)
    panels = []
    for (word, place), image, level in zip(where.items(), images, levels, strict=True):
        part = brightness[chosen[word]] / max(float(brightness.max()), 1e-12)
        title = word if moving or word == "peak" else f"{word}, {100 * part:.2g} % of the peak"
        panels.append(frame_panel(title, position_words(raw, place), image - np.float32(level), float(level)))
    draws: list[Draw] = [partial(draw_frame, panel=panel, grid=grid) for panel in panels]
    truth = tree["truth"].dataset if "truth" in tree else None
    if truth is not None and {"distance", "label", "position"} & set(map(str, truth.data_vars)):
        truth = truth.isel(z=layer) if "z" in truth.dims else truth
        # The label of a patch is worth most where weak and strong beam meet.
        word = next(word for word in ("tail", "median", "faintest", *where) if word in where)
        under = word, panels[list(where).index(word)]
        draws.append(partial(draw_truth, truth=truth, place=where[word], under=under, grid=grid))
    per_monitor = " per monitor count" if attenuated(raw) else ""
    foot = (
        f"frames chosen by mean brightness{per_monitor}; counts above the dark level, the median of the darkest tile;"
        f" limits: percentiles {PERCENTILES[0]:g} and {PERCENTILES[1]:g}; grey: no value"
    )
    sentences = [] if moving else absent_frames(chosen)
    return map_page(draws, grid, heading, foot, above=WORDS, sentences=["", *sentences])


def position_words(raw: xr.Dataset, place: dict[str, int]) -> str:
    """Positions of a frame along the scan axes: ``phi = 0.002°``."""
    words = []
    for name, index in place.items():
        if name not in raw.coords:
            words.append(f"{name} {index}")
            continue
        units = symbol(raw[name].attrs.get("units", ""))
        words.append(f"{name} = {float(raw[name][index]):.6g} {units}".strip().replace(" °", "°"))
    return ", ".join(words).replace("-", "−")


def frame_panel(word: str, where: str, image: np.ndarray, level: float) -> Panel:
    """A frame above its dark level between two percentiles; a bright frame has an asinh scale."""
    limits = robust_limits(image, *PERCENTILES)
    label = "counts" if np.isnan(level) else f"counts above {level:.4g}"
    label += ", asinh scale" if limits[1] > BRIGHT else ""
    return Panel(word.partition(",")[0], f"{word}\n{where}", image, label, "gray", limits)


def draw_frame(figure: Figure, left: float, bottom: float, width: float, panel: Panel, grid: Grid) -> Axes:
    """One frame with its colour bar."""
    axes = draw_panel(figure, left, bottom, width, panel, grid, 9, key=False)
    low, high = panel.limits
    room = max(width, KEY_WIDTH)
    left, bottom = left + (width - room) / 2, bottom - TICKS
    if high <= BRIGHT:
        draw_key(figure, axes, panel, left, bottom, room)
        return axes
    set_asinh(axes, panel.limits)
    ticks = [0.0] + [sign * 10.0**power for power in range(2, 6) for sign in (-1, 1)]
    ticks += [3 * tick for tick in ticks if tick >= 1e3]
    shown = sorted(tick for tick in ticks if low <= tick <= high and (tick == 0 or abs(tick) > high / 50))
    ends = ends_beyond(panel.image, low, high)
    how = {"extend": ends, "ticks": shown, "format": "%g"}
    add_colour_bar(figure, axes.images[0], left, bottom, room, panel.label, **how).ax.minorticks_off()
    return axes


def set_asinh(axes: Axes, limits: tuple[float, float]) -> None:
    """Scale of a bright frame: linear near zero, logarithmic above a hundredth of its upper limit."""
    from matplotlib.colors import AsinhNorm

    low, high = limits
    if high > BRIGHT:
        axes.images[0].set_norm(AsinhNorm(high / 100, vmin=low, vmax=high))


def draw_truth(
    figure: Figure,
    left: float,
    bottom: float,
    width: float,
    truth: xr.Dataset,
    place: dict[str, int],
    under: tuple[str, Panel],
    grid: Grid,
) -> Axes:
    """The truth over a frame: outline of the dislocations, labels of the patches, positions of moving lines.

    Parameters
    ----------
    truth : Dataset
        One layer of the group.
    place : dict of str to int
        Index of the frame along every scan axis.
    under : (str, Panel)
        The frame that the truth is drawn over.
    """
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    word, panel = under
    title = f"truth over the {word} frame\n{panel.title.partition(chr(10))[2]}"
    below = Panel("truth", title, panel.image, "", "gray", panel.limits)
    axes = draw_panel(figure, left, bottom, width, below, grid, 9, key=False)
    set_asinh(axes, panel.limits)
    handles: list[Patch | Line2D] = []
    if "label" in truth:
        labels = np.asarray(truth["label"].isel(place))
        draw_labels(axes, labels, panel.image.shape, grid)
        for value, (name, colour) in enumerate(LABELS):
            share = 100 * float((labels == value).mean())
            if share:
                handles.append(
                    Patch(facecolor=(colour, 0.2), edgecolor=colour, linewidth=1.0, label=f"{name} {share:.3g} %")
                )
    if "distance" in truth:
        distance = np.asarray(truth["distance"], float)
        if min(distance.shape) > 1 and np.nanmin(distance) < NEAR < np.nanmax(distance):
            y, x = centres(grid, distance.shape)
            axes.contour(x, y, distance, levels=[NEAR], colors=LINE, linewidths=0.7)
            handles.append(Line2D([], [], color=LINE, lw=0.9, label=f"{NEAR:g} µm from a dislocation"))
    if "position" in truth:
        here = np.asarray(truth["position"].isel({name: n for name, n in place.items() if name == "time"}), float)
        axes.plot(here[:, 1], here[:, 0], "o", ms=9, mfc="none", mec=LINE, mew=1.3)
        handles.append(Line2D([], [], color=LINE, lw=0, marker="o", mfc="none", label="dislocation"))
    axes.set(xlim=(grid.left, grid.right), ylim=(grid.bottom, grid.top))
    room = max(width, KEY_WIDTH)
    add_legend(figure, handles, left + (width - room) / 2, bottom - TICKS, room)
    return axes


def centres(grid: Grid, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Pixel centres along y and x of a map on a grid."""
    out = []
    for low, high, n in ((grid.top, grid.bottom, shape[0]), (grid.left, grid.right, shape[1])):
        out.append(low + (np.arange(n) + 0.5) * (high - low) / n)
    return out[0], out[1]


def draw_labels(axes: Axes, labels: np.ndarray, shape: tuple[int, ...], grid: Grid) -> None:
    """A coloured square for every patch (patch_y, patch_x), drawn a little inside it so that neighbours keep apart."""
    from matplotlib.collections import PatchCollection
    from matplotlib.patches import Rectangle

    py, px = (grid.bottom - grid.top) / shape[0], (grid.right - grid.left) / shape[1]
    squares, colours = [], []
    for row, column in np.ndindex(labels.shape):
        if not np.isfinite(labels[row, column]):
            continue  # of a layer that is not on disk
        rows, columns = min(PATCH, shape[0] - row * PATCH), min(PATCH, shape[1] - column * PATCH)
        corner = grid.left + (column * PATCH + 0.04 * columns) * px, grid.top + (row * PATCH + 0.04 * rows) * py
        squares.append(Rectangle(corner, 0.92 * columns * px, 0.92 * rows * py))
        colours.append(LABELS[int(labels[row, column])][1])
    faces = [(colour, 0.07) for colour in colours]
    axes.add_collection(PatchCollection(squares, facecolors=faces, edgecolors=colours, linewidths=0.9))


FIGURES = (FigureKind("frames", draw_frames, ("raw/counts",), "Measured frames"),)
