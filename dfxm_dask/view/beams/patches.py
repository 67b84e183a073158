"""P(weak) of the patches of a layer: over selected frames, and along the scan."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from dfxm_dask.schema import PATCH
from dfxm_dask.view.figures.frames import LABELS, frame_panel, position_words, set_asinh
from dfxm_dask.view.figures.layout import Draw
from dfxm_dask.view.figures.maps import (
    KEY_WIDTH,
    NO_VALUE,
    TICKS,
    Grid,
    Panel,
    add_colour_bar,
    draw_panel,
    labelled,
    place_axes,
    symbol,
)
from dfxm_dask.view.figures.telling_frames import dark_levels, frame_brightness, read_frames, scan_axes, telling_frames

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.axes import Axes
    from matplotlib.colors import Colormap
    from matplotlib.figure import Figure


def beam_colours() -> Colormap:
    """Colours of P(weak): of strong patches at 0, of ambiguous ones at 1/2, of weak ones at 1."""
    from matplotlib.colors import LinearSegmentedColormap

    named = dict(LABELS)
    return LinearSegmentedColormap.from_list("beam", [named["strong"], named["ambiguous"], named["weak"]])


def patch_draws(tree: xr.DataTree, layer: int, p_weak: xr.DataArray, grid: Grid) -> list[Draw]:
    """P(weak) of the patches over three frames, and along the scan."""
    names = [str(dim) for dim in p_weak.dims if dim not in ("patch_y", "patch_x")]
    raw = tree["raw"].dataset.isel(z=layer) if "raw" in tree and "counts" in tree["raw"].data_vars else None
    draws: list[Draw] = []
    marks: dict[str, dict[str, int]] = {}
    if raw is not None:
        chosen = shown_frames(telling_frames(frame_brightness(raw)), p_weak.transpose(*scan_axes(raw), ...))
        marks = {word: dict(zip(scan_axes(raw), place, strict=True)) for word, place in chosen.items()}
        images = read_frames(raw["counts"], list(marks.values()))
        levels = dark_levels(images)
        for letter, (word, place), image, level in zip("abc", marks.items(), images, levels, strict=False):
            under = frame_panel(word, position_words(raw, place), image - np.float32(level), float(level))
            values = np.asarray(p_weak.isel(place).transpose("patch_y", "patch_x"), float)
            title = f"({letter}) patches over the {word} frame\n{position_words(raw, place)}"
            draws.append(partial(draw_patches, values=values, under=under, title=title, grid=grid))
    axis = "phi" if "phi" in names else max(names, key=lambda name: p_weak.sizes[name])
    at = [place[axis] for place in marks.values()]
    return [*draws, partial(draw_shares, p_weak=p_weak, axis=axis, at=at, height=grid.ratio)]


def shown_frames(telling: dict[str, tuple[int, ...]], p_weak: xr.DataArray) -> dict[str, tuple[int, ...]]:
    """The frames at the peak and in the tail, and between them the one that divides the lit patches most evenly.

    Parameters
    ----------
    telling : dict of str to tuple of int
        See :func:`dfxm_dask.view.figures.telling_frames.telling_frames`.
    p_weak : DataArray (scan axes, patch_y, patch_x)

    Returns
    -------
    dict of str to tuple of int
        ``peak``, ``most divided`` (mean P(weak) nearest to 1/2), ``tail`` or ``faintest``: index along every scan axis.
        A frame that is two of them comes once.
    """
    values = np.asarray(p_weak, float)
    known = np.isfinite(values).any(axis=(-2, -1))
    chosen = dict(telling)
    if known.any():
        total, count = np.where(np.isfinite(values), values, 0).sum((-2, -1)), np.isfinite(values).sum((-2, -1))
        uneven = np.where(known, np.abs(total / np.maximum(count, 1) - 0.5), np.inf)
        place = tuple(int(n) for n in np.unravel_index(int(np.argmin(uneven)), uneven.shape))
        chosen["most divided"] = place
        chosen.pop("flank", None)
    found: dict[str, tuple[int, ...]] = {}
    for word in ("peak", "most divided", "flank", "tail", "faintest"):
        if word in chosen and chosen[word] not in found.values():
            found[word] = chosen[word]
    return found


def draw_patches(
    figure: Figure, left: float, bottom: float, width: float, values: np.ndarray, under: Panel, title: str, grid: Grid
) -> Axes:
    """P(weak) (patch_y, patch_x) as coloured squares over a frame; grey where less than half of a patch is lit."""
    from matplotlib.cm import ScalarMappable
    from matplotlib.collections import PatchCollection
    from matplotlib.patches import Rectangle

    panel = Panel("p_weak", title, under.image, "", "gray", under.limits)
    axes = draw_panel(figure, left, bottom, width, panel, grid, 9, key=False)
    set_asinh(axes, under.limits)
    ny, nx = under.image.shape
    py, px = (grid.bottom - grid.top) / ny, (grid.right - grid.left) / nx
    squares, colours = [], []
    for row, column in np.ndindex(values.shape):
        # The last patch of a row was shifted back to end with the frame: it is drawn where no other one lies.
        rows, columns = min(PATCH, ny - row * PATCH), min(PATCH, nx - column * PATCH)
        corner = grid.left + (column * PATCH + 0.05 * columns) * px, grid.top + (row * PATCH + 0.05 * rows) * py
        squares.append(Rectangle(corner, 0.9 * columns * px, 0.9 * rows * py))
        known = np.isfinite(values[row, column])
        colours.append(beam_colours()(values[row, column])[:3] if known else NO_VALUE)
    faces = [(colour, 0.9 if colour == NO_VALUE else 0.3) for colour in colours]
    axes.add_collection(PatchCollection(squares, facecolors=faces, edgecolors=colours, linewidths=1.4))
    axes.set(xlim=(grid.left, grid.right), ylim=(grid.bottom, grid.top))
    room = max(width, KEY_WIDTH)
    hang = left + (width - room) / 2, bottom - TICKS
    add_colour_bar(figure, ScalarMappable(cmap=beam_colours()), *hang, room, "P(weak beam); grey: not lit")
    return axes


def shares(p_weak: xr.DataArray, axis: str) -> tuple[np.ndarray, np.ndarray]:
    """Share of weak patches and mean P(weak) at every position of a scan axis, in percent of the lit patches.

    Parameters
    ----------
    p_weak : DataArray (scan axes, patch_y, patch_x)
        NaN where a patch is not lit.
    axis : str
        All else is averaged over.

    Returns
    -------
    weak, mean : array (position,), float64, %
        Patches above 1/2, and the mean; NaN where no patch is lit.
    """
    values = np.asarray(p_weak.transpose(axis, ...), float).reshape(p_weak.sizes[axis], -1)
    known = np.isfinite(values)
    count = np.where(known.any(axis=1), known.sum(axis=1), np.nan)
    return 100 * (known & (values > 0.5)).sum(axis=1) / count, 100 * np.where(known, values, 0).sum(axis=1) / count


def draw_shares(
    figure: Figure,
    left: float,
    bottom: float,
    width: float,
    p_weak: xr.DataArray,
    axis: str,
    at: list[int],
    height: float,
) -> Axes:
    """The shares of weak patches along a scan axis, with the frames of the page marked."""
    from matplotlib.ticker import MaxNLocator

    positions = np.asarray(p_weak[axis]) if axis in p_weak.coords else np.arange(p_weak.sizes[axis])
    units = str(p_weak[axis].attrs.get("units", "")) if axis in p_weak.coords else "number"
    room = max(width, 2.7)
    left += (width - room) / 2
    axes = place_axes(figure, left + 0.1, bottom - 0.5, room - 0.15, max(width * height, 0.45) + 0.5)
    weak, mean = shares(p_weak, axis)
    axes.plot(positions, weak, color="#0072b2", lw=1.4, marker="o", ms=2.5, label="P(weak) > 1/2")
    axes.plot(positions, mean, color="0.2", lw=1.2, ls="--", label="mean P(weak)")
    for rank, (index, letter) in enumerate(sorted(zip(at, "abc", strict=False))):
        axes.axvline(positions[index], ymax=0.76, color="0.6", lw=0.8, ls=":")
        axes.text(positions[index], 102 + 9 * (rank % 2), f"({letter})", ha="center", va="bottom", fontsize=7.5)
    axes.set(ylim=(-4, 152), yticks=[0, 50, 100])
    axes.set_title("lit patches in the weak beam", fontsize=9, pad=6)
    axes.set_xlabel(labelled(axis, units), fontsize=8, labelpad=1)
    axes.set_ylabel(f"lit patches ({symbol('%')})", fontsize=8, labelpad=1)
    axes.tick_params(labelsize=7.5, length=2.5)
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.ticklabel_format(axis="x", useOffset=False)
    axes.legend(fontsize=7, loc="upper center", ncols=2, frameon=False, borderpad=0.1, columnspacing=1.2)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    return axes
