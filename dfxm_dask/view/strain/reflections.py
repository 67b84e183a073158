"""Maps of the angles of every reflection of a set, and their registration on the common grid."""

from __future__ import annotations

from functools import partial
from itertools import cycle
from typing import TYPE_CHECKING

import numpy as np

from dfxm_dask.strain.variables import ANGLES
from dfxm_dask.view.figures.layout import FOOTER, PAGE, TOP, add_words
from dfxm_dask.view.figures.maps import (
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
)
from dfxm_dask.view.strain.component_page import DEGREES, component_page, component_panels

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from dfxm_dask.view.figures.index import Pages

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
"""Of reflections: the Okabe–Ito palette."""
ON_PAGE = 4
"""Most reflections on a page (our choice)."""
SQUARE = 2.0
KEY = 0.55
"""Inches below the map and the shifts for their keys."""
SMOOTH, VARYING = 1.5, 5.0
"""Pixels over which angles are smoothed, and percent of the pixels that an outline of strong variation contains (our
choice)."""


def miller(indices: np.ndarray) -> str:
    """Miller indices as text, with true minus signs.

    Examples
    --------
    >>> miller(np.array([-1, 1, 3]))
    '−1 1 3'
    """
    return " ".join(f"{int(index)}" for index in indices).replace("-", "−")


def draw_reflections(tree: xr.DataTree, layer: int, heading: str) -> Pages:
    """Pages with the centres of mass of up to four reflections each: a row for every reflection, a column for every
    angle, with one scale for every angle.
    """
    raw = tree["raw"].dataset
    count = raw.sizes["reflection"]
    for start in range(0, count, ON_PAGE):
        chosen = range(start, min(start + ON_PAGE, count))
        name = "reflections" if not start else f"reflections_{start // ON_PAGE + 1}"
        yield name, partial(reflection_page, tree, layer, heading, chosen)


def reflection_page(tree: xr.DataTree, layer: int, heading: str, chosen: range) -> Figure:
    """A page with the centres of mass of some reflections."""
    raw = tree["raw"].dataset
    centre = np.asarray(raw["centre"].isel(z=layer).transpose("reflection", "y", "x", "angle"), np.float64)
    names = [miller(indices) for indices in np.asarray(raw["hkl"])]
    columns = [
        component_panels({f"{names[k]}: {angle}": centre[k, ..., a] for k in chosen}, angle, DEGREES)
        for a, angle in enumerate(ANGLES)
    ]
    panels = [columns[a][row] for row in range(len(chosen)) for a in range(len(ANGLES))]
    absent = [panel.title for panel in panels if not np.isfinite(panel.image).any()]
    setting = np.asarray(raw["setting"], float)
    said = [
        f"{names[k]}: mu {setting[k, 0]:.3f}, omega {setting[k, 1]:.3f}, eta {setting[k, 2]:.3f}, theta"
        f" {setting[k, 3]:.4f} degree".replace("-", "−")
        for k in chosen
    ]
    said = ["Deviation of the centre of mass from the reference lattice.", *said]
    said += [f"Not measured: {', '.join(absent)}."] if absent else []
    return component_page(panels, len(ANGLES), grid_of(raw), heading, sentences=said, own_bars=True)


def draw_registration(tree: xr.DataTree, layer: int, heading: str) -> Figure:
    """A page that overlays outlines of every reflection on the common grid, beside the shifts that brought them there.

    Outlines are those of the lit region and of the pixels where phi and chi vary most, as around defects.
    """
    from matplotlib.figure import Figure

    raw = tree["raw"].dataset
    centre = np.asarray(raw["centre"].isel(z=layer).transpose("reflection", "y", "x", "angle"), np.float64)
    lit = np.asarray(np.isfinite(centre).any(-1))
    grid = grid_of(raw)
    beside = grid.ratio > 0.4
    room = PAGE - SIDE - 2 * MARGIN - (SQUARE + SIDE + 0.3 if beside else 0)
    width, height = map_size(grid, room, 4.0)
    tall, block = TITLE + height + TICKS + KEY, TITLE + SQUARE + TICKS + KEY
    figure = Figure(figsize=(PAGE, TOP + (max(tall, block) if beside else tall + block) + FOOTER))
    up = figure.get_size_inches()[1] - TOP - TITLE
    classes = tuple(
        (f"{n} of {len(lit)} lit:", str(grey)) for n, grey in enumerate(np.linspace(0.6, 0.97, len(lit) + 1))
    )
    count = lit.sum(0).astype(float)
    panel = Panel("registration", "outlines of the reflections", count, categories=classes)
    left = SIDE + (0 if beside else (room - width) / 2)
    axes = draw_panel(figure, left, up - height, width, panel, grid, 9)
    y, x = np.asarray(raw["y"], float), np.asarray(raw["x"], float)
    for angles, region, colour in zip(centre[..., 1:], lit, cycle(COLOURS), strict=False):
        for inside, line in ((region, 1.4), (varying(angles), 0.7)):
            if inside.any() and not inside.all():
                axes.contour(x, y, inside.astype(float), [0.5], colors=[colour], linewidths=line)
    side = (PAGE - MARGIN - SQUARE, up - SQUARE) if beside else ((PAGE - SQUARE) / 2, up - tall - SQUARE)
    draw_shifts(place_axes(figure, *side, SQUARE, SQUARE), raw)
    full = int((count == len(lit)).sum())
    pitch = " by ".join(f"{abs(v[1] - v[0]):.3g}" for v in (y, x) if v.size > 1)
    words = f"{100 * full / count.size:.3g} % of the pixels are lit in all {len(lit)} reflections; pixel: {pitch} µm"
    outlines = f"thick outline: lit region; thin: {VARYING:g} % of the pixels where phi and chi vary most"
    add_words(figure, heading, f"{words}; {outlines}; shifts from the first reflection, bars: standard errors")
    return figure


def varying(angles: np.ndarray) -> np.ndarray:
    """Pixels (y, x) where smoothed angles (y, x, angle) vary most."""
    from scipy.ndimage import gaussian_filter

    square = np.zeros(angles.shape[:2])
    for values in np.moveaxis(angles, -1, 0):
        known = np.isfinite(values)
        weight = gaussian_filter(known.astype(float), SMOOTH)
        with np.errstate(invalid="ignore", divide="ignore"):
            smooth = gaussian_filter(np.where(known, values, 0.0), SMOOTH) / weight
        for axis in (0, 1):
            square += np.nan_to_num(np.gradient(np.where(known, smooth, np.nan), axis=axis) ** 2)
    inside = square > 0
    return np.asarray(square > np.percentile(square[inside], 100 - VARYING)) if inside.any() else inside


def draw_shifts(axes: Axes, raw: xr.Dataset) -> None:
    """Shifts of the reflections along x and y with their errors; y increases downwards as in the maps."""
    from matplotlib.ticker import MaxNLocator

    shift = np.asarray(raw["shift"], float)
    error = np.asarray(raw["shift_error"], float) if "shift_error" in raw else np.full(shift.shape, np.nan)
    names = [miller(indices) for indices in np.asarray(raw["hkl"])]
    for k, colour in zip(range(len(shift)), cycle(COLOURS), strict=False):
        bars = np.nan_to_num(error[k])
        axes.errorbar(shift[k, 1], shift[k, 0], bars[0], bars[1], "o", ms=4, color=colour, lw=1, label=names[k])
    axes.invert_yaxis()
    axes.margins(0.15)
    axes.axhline(0, color="0.8", lw=0.6, zorder=0)
    axes.axvline(0, color="0.8", lw=0.6, zorder=0)
    axes.xaxis.set_major_locator(MaxNLocator(4))
    units = str(raw["shift"].attrs.get("units", "um"))
    axes.set_title("shifts", fontsize=9, y=1.0, pad=5)
    axes.set_xlabel(labelled("shift along x", units), fontsize=8, labelpad=1)
    axes.set_ylabel(labelled("shift along y", units), fontsize=8, labelpad=1)
    axes.tick_params(labelsize=7.5, length=2.5)
    axes.legend(
        fontsize=7.5, frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.17), ncols=2, handletextpad=0.2
    )
