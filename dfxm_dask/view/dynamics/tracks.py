"""Tracks of a movie: a frame with detections and the recent path of each dislocation, and positions against time."""

from __future__ import annotations

from itertools import cycle
from typing import TYPE_CHECKING

import numpy as np

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
    labelled,
    map_size,
    place_axes,
    robust_limits,
)

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = ("#e69f00", "#56b4e9", "#009e73", "#f0e442", "#0072b2", "#d55e00", "#cc79a7")
"""Of tracks: the Okabe–Ito palette without black."""
ALONE = "white"  # detections without a track
TAIL = 20  # frames of the path behind a dislocation (our choice)
COLUMNS = 400  # most frames of a kymograph (our choice)
WIDE = 0.6  # height over width of frames that are drawn one above the other
MARGINS = 1.0  # um beyond the tracks of a kymograph
SAID = 12  # tracks with their number beside them


def colours_of(tracks: np.ndarray) -> dict[int, str]:
    """A colour for each track, in the order of their numbers."""
    return dict(zip(sorted(set(tracks[tracks >= 0].tolist())), cycle(COLOURS), strict=False))


def columns_of(tree: xr.DataTree) -> dict[str, np.ndarray]:
    """Columns of the table of detections: frame, time, y, x and track (-1 in a store without tracks)."""
    found = tree["dynamics"].dataset
    table = {name: np.asarray(found[name]) for name in ("frame", "time", "y", "x")}
    has = "track" in found.variables and found["track"].dims == found["frame"].dims
    return table | {"track": np.asarray(found["track"]) if has else np.full(len(table["frame"]), -1)}


def draw_tracks(tree: xr.DataTree, layer: int, heading: str = "") -> Figure:
    """A page with one frame: its detections, and the path of each dislocation over the last frames.

    The frame with most detections in its last twenty frames is drawn. A second map shows all tracks over the mean
    of some frames.
    """
    from matplotlib.figure import Figure

    raw = tree["raw"].dataset
    counts = raw["counts"].isel(z=layer)
    table = columns_of(tree)
    colours = colours_of(table["track"])
    frames = counts.sizes["time"]
    number = busiest_frame(table["frame"], frames)
    image = np.asarray(counts.isel(time=number), float)
    some = np.unique(np.linspace(0, frames - 1, min(frames, 16)).astype(int))
    mean = np.mean([np.asarray(counts.isel(time=int(k)), float) for k in some], axis=0)
    grid = grid_of(raw)
    columns = 1 if grid.ratio < WIDE else 2
    cell = (PAGE - MARGIN) / columns
    width, height = map_size(grid, cell - SIDE - MARGIN, 4.2)
    tall = TITLE + height + TICKS + BAR
    figure = Figure(figsize=(PAGE, TOP + tall * (3 - columns) + FOOTER))
    when = f"t = {float(raw['time'][number]):.4g} s" if "time" in raw.coords else "time unknown"
    here = table["frame"] == number
    tail = (table["frame"] <= number) & (table["frame"] > number - TAIL)
    views = (
        (f"frame {number}, {when}", image, tail, here),
        (f"all tracks over the mean of {len(some)} frames", mean, tail | True, here & False),
    )
    for k, (title, values, paths, marked) in enumerate(views):
        panel = Panel(f"tracks_{k}", title, values, "counts", "gray", robust_limits(values, 0.5, 99.9))
        column, row = (k, 0) if columns == 2 else (0, 1 - k)
        left = column * cell + SIDE + (cell - SIDE - width) / 2
        axes = draw_panel(figure, left, FOOTER + row * tall + BAR + TICKS, width, panel, grid, 9)
        draw_paths(axes, table, paths, colours)
        draw_detections(axes, table, marked, colours)
        axes.set(xlim=(grid.left, grid.right), ylim=(grid.bottom, grid.top))
    alone = int((table["track"] < 0).sum())
    foot = (
        f"{len(table['frame'])} detections in {frames} frames, {len(colours)} tracks, {alone} detections without track"
    )
    add_words(figure, heading, f"{foot}; path of the last {TAIL} frames; circles: detections of the frame")
    return figure


def busiest_frame(frame: np.ndarray, frames: int) -> int:
    """The frame with most detections in it and in the frames before that are drawn; the last of several."""
    each = np.bincount(frame, minlength=frames)[:frames]
    total = np.cumsum(each)
    total[TAIL:] = total[TAIL:] - total[:-TAIL]
    return int(frames - 1 - np.argmax((total + each)[::-1]))


def draw_paths(axes: Axes, table: dict[str, np.ndarray], which: np.ndarray, colours: dict[int, str]) -> None:
    """Lines through the detections of each track; a gap in its frames is not bridged."""
    for track, colour in colours.items():
        mine = which & (table["track"] == track)
        frame, y, x = (table[name][mine].astype(float) for name in ("frame", "y", "x"))
        gaps = np.flatnonzero(np.diff(frame) > 1) + 1
        y, x = (np.insert(values, gaps, np.nan) for values in (y, x))
        axes.plot(x, y, "-", color=colour, lw=1.0)


def draw_detections(axes: Axes, table: dict[str, np.ndarray], which: np.ndarray, colours: dict[int, str]) -> None:
    """Circles at the detections, in the colour of their track, with the number of the track."""
    numbered = len(colours) <= SAID
    for k in np.flatnonzero(which):
        track = int(table["track"][k])
        axes.plot(table["x"][k], table["y"][k], "o", ms=6, mfc="none", mec=colours.get(track, ALONE), mew=1.1)
        if numbered and track >= 0:
            at = (float(table["x"][k]), float(table["y"][k]))
            axes.annotate(f"{track}", at, (5, 5), textcoords="offset points", fontsize=7, color=colours[track])


def draw_kymograph(tree: xr.DataTree, layer: int, heading: str = "") -> Figure | None:
    """A page with two kymographs: largest counts along x, and along y, against time, with the tracks.

    The band of the largest count contains the detections of the longest track.
    """
    from matplotlib.figure import Figure

    table, raw = columns_of(tree), tree["raw"].dataset
    if not (table["track"] >= 0).any() or raw.sizes["time"] < 3:
        return None
    counts = raw["counts"].isel(z=layer)
    colours = colours_of(table["track"])
    longest = int(np.bincount(table["track"][table["track"] >= 0]).argmax())
    mine = table["track"] == longest
    step = -(-counts.sizes["time"] // COLUMNS)
    units = str(raw["y"].attrs.get("units", "pixel"))
    figure = Figure(figsize=(PAGE, TOP + 2 * (TITLE + 1.9 + TICKS) + FOOTER + 0.15))
    up = figure.get_size_inches()[1]
    time = np.asarray(raw["time"], float)[::step]
    for row, (along, across) in enumerate((("y", "x"), ("x", "y"))):
        at = np.asarray(raw[across], float)
        pitch = abs(at[1] - at[0])
        low, high = table[across][mine].min() - 6 * pitch, table[across][mine].max() + 6 * pitch
        band = np.flatnonzero((at >= low) & (at <= high))
        part = counts.isel({across: slice(int(band[0]), int(band[-1]) + 1), "time": slice(None, None, step)})
        image = np.asarray(part.max(across).transpose(along, "time"), float)
        axes = place_axes(
            figure, SIDE + 0.2, up - TOP - (row + 1) * (TITLE + 1.9) - row * (TICKS + 0.15), PAGE - 1.0, 1.9
        )
        draw_positions(axes, time, np.asarray(raw[along], float), image)
        near = (table[across] >= low) & (table[across] <= high)
        for track, colour in colours.items():
            own = near & (table["track"] == track)
            axes.plot(table["time"][own], table[along][own], ".", ms=2.2, color=colour)
        shown = table[along][near & (table["track"] >= 0)]
        axes.set_ylim(shown.max() + MARGINS, shown.min() - MARGINS)
        title = f"largest count for {across} from {at[band[0]]:.3g} to {at[band[-1]]:.3g}"
        axes.set_title(f"{title} {units.replace('um', 'µm')}", fontsize=9, y=1.0, pad=5)
        axes.set_ylabel(labelled(along, units), fontsize=8)
    axes.set_xlabel("time (s)", fontsize=8, labelpad=1)
    more = f", every {step}th frame" if step > 1 else ""
    add_words(figure, heading, f"dots: tracks in the band; the band contains track {longest}, the longest{more}")
    return figure


def draw_positions(axes: Axes, time: np.ndarray, at: np.ndarray, image: np.ndarray) -> None:
    """Counts against time and position; times may be irregular."""
    low, high = robust_limits(image, 1.0, 99.8)
    axes.pcolormesh(time, at, image, cmap="gray", vmin=low, vmax=high, shading="nearest", rasterized=True)
    axes.tick_params(labelsize=7.5, length=2.5)
