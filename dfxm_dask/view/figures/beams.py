"""Weak beam and strong beam of a layer, what stands out of the weak beam, and how the patches were told apart."""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from dfxm_dask.schema import PATCH
from dfxm_dask.view.figures.frames import (
    BRIGHT,
    LABELS,
    LINE,
    centres,
    dark_levels,
    frame_brightness,
    frame_panel,
    position_words,
    read_frames,
    scan_axes,
    telling_frames,
)
from dfxm_dask.view.figures.maps import (
    FOOT,
    MARGIN,
    NO_VALUE,
    Grid,
    Panel,
    add_words,
    draw_key,
    draw_panel,
    finer_units,
    flagged,
    labelled,
    map_size,
    pixel_grid,
    place_axes,
    robust_limits,
    symbol,
)

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.colors import Colormap
    from matplotlib.figure import Figure

NEAR = 0.5  # um from a dislocation line: the outline of the truth, and what counts as found at a line
DEFECT = "#f0e442"  # bright yellow: keeps apart from the truth's magenta for colour-blind eyes, too
STILL = "#56b4e9"  # sky blue: the part of the mask where the lattice does not rotate
DIM = "#8c8c8c"
"""Brightest grey of an image under a mask, so that neither the mask nor pixels without a value look like it."""
WORDS, SIDE = 0.48, 0.46  # inches above a map, and left of it for ticks
TICKS, KEY = 0.32, 0.66  # inches below a map for ticks, and for its key
LEAST_SIDE = 0.7  # inches that a side of a map needs for ticks
SMALL, LARGE = 8.0, 10.0  # points: the evidence above maps, and where it stands in for them

Draw = Callable[["Figure", float, float, float], "Axes"]


def evidence_words(found: xr.Dataset) -> tuple[str, tuple[str, ...]]:
    """What is known about the weak beam of a layer.

    Parameters
    ----------
    found : Dataset
        One layer of the group: ``has_weak_beam``, ``has_defects`` bool, and the numbers that say so.

    Returns
    -------
    verdict : str
    reasons : tuple of str
        Each number with its limit; see :func:`dfxm_dask.beams.weak_beam_verdict.reasons`. Empty where one is absent.
    """
    from dfxm_dask.beams.weak_beam_verdict import NUMBERS, reasons

    numbers = [float(found[name]) for name in NUMBERS if name in found]
    strength = float(found["mask_strength"]) if "mask_strength" in found else float("nan")
    why = reasons(*numbers, strength) if len(numbers) == len(NUMBERS) else ()
    if "has_weak_beam" not in found:
        return "It has not been checked whether this layer has a weak beam at all.", why
    if not bool(found["has_weak_beam"]):
        return "This layer has no weak beam: its weak-beam maps would mislead and are not drawn.", why
    if not {"has_defects", "mask_strength"} <= set(found.data_vars):  # no mask, or one without a verdict of its own
        return "This layer has a weak beam.", why
    if not bool(found["has_defects"]):
        return "This layer has a weak beam, but nothing exceeds its noise: the mask may show noise.", why
    return "This layer has a weak beam that shows defects.", why


def map_panels(found: xr.Dataset) -> list[Panel]:
    """The maps of a layer that have a value in every lit pixel: weak beam, strong beam, contrast.

    Where the layer has no weak beam: what is lit, and the strong beam.
    """
    panels = []
    if not has_maps(found):
        if "lit" in found:
            lit = np.asarray(found["lit"], float)
            panels.append(Panel("lit", "where the sample diffracts", lit, categories=(LABELS[0], ("lit", "#e8e8e8"))))
    elif "weak" in found:
        panels.append(count_panel(found["weak"], "weak beam (WB)"))
    if "strong" in found:
        panels.append(count_panel(found["strong"], "strong beam (SB)"))
    if has_maps(found) and "weak_enhanced" in found:
        image = np.asarray(found["weak_enhanced"], float)
        step = dict(found.attrs.get("provenance") or {}).get("enhance_beams") or {}
        published = bool(dict(step.get("parameters") or {}).get("legacy", False))
        label = "published contrast, 0 to 1" if published else "above surroundings (standard deviations of the noise)"
        limits = robust_limits(image)
        panels.append(Panel("weak_enhanced", "weak beam, enhanced", image, label, "inferno", limits))
    return panels


def has_maps(found: xr.Dataset) -> bool:
    """Whether maps of the weak beam of a layer mean anything, as far as is known."""
    return bool(found["has_weak_beam"]) if "has_weak_beam" in found else True


def count_panel(values: xr.DataArray, title: str) -> Panel:
    """An image in counts of a frame."""
    image = np.asarray(values, float)
    low, high = robust_limits(image)
    factor, units = finer_units(max(abs(low), abs(high)), str(values.attrs.get("units", "count")))
    label = labelled("mean of a frame, above background", units)
    return Panel(str(values.name), title, image * factor, label, "inferno", (low * factor, high * factor))


def draw_beams(tree: xr.DataTree, layer: int, heading: str = "") -> Figure | None:
    """A page with the beams of a layer.

    Parameters
    ----------
    tree : DataTree
        With a group ``beams``, any of whose variables may be absent; ``raw/counts`` for the frames under the patches,
        ``truth/distance`` for the lines beside the mask.
    layer : int
        Number along z.
    heading : str
        Printed at the top.

    Returns
    -------
    Figure or None
        Weak beam, strong beam, contrast, the mask of what stands out, the true lines, P(weak) of the patches of three
        frames and along the scan, and the evidence in words. Where the layer has no weak beam only what is lit, the
        strong beam, and words. ``None`` where the group holds nothing of this.
    """
    from matplotlib.figure import Figure

    if "beams" not in tree:
        return None
    found = tree["beams"].dataset.isel(z=layer)
    if not {"lit", "weak", "strong", "weak_enhanced", "defects", "p_weak", "has_weak_beam"} & set(map(str, found)):
        return None
    grid = pixel_grid(np.asarray(found["y"]), np.asarray(found["x"]), found["x"].attrs.get("units", "pixel"))
    draws: list[Draw] = [partial(draw_map, panel=panel, grid=grid) for panel in map_panels(found)]
    if has_maps(found):
        if "defects" in found:
            draws.append(partial(draw_mask, found=found, distance=None, grid=grid))
            truth = tree["truth"].dataset if "truth" in tree else None
            if truth is not None and "distance" in truth:
                distance = np.asarray(truth["distance"].isel(z=layer), float)
                draws.append(partial(draw_mask, found=found, distance=distance, grid=grid))
        if "p_weak" in found:
            draws += patch_draws(tree, layer, found["p_weak"], grid)
    columns = max(1, min(len(draws), 2 if grid.ratio < 0.6 else 3))
    rows = -(-len(draws) // columns)
    width, height = map_size(grid, 4.6 if columns < 3 else 3.1, 4.2)
    cell, tall = max(width, 3.3) + SIDE + MARGIN, WORDS + height + TICKS + KEY
    across = max(columns * cell + MARGIN, 5.0)
    verdict, reasons = evidence_words(found)
    size = SMALL if has_maps(found) else LARGE
    said = wrapped([verdict, *reasons], across - 2 * SIDE, size)
    line, top = 1.6 * size / 72, 0.42
    words = top + len(said) * line + 0.06
    figure = Figure(figsize=(across, words + rows * tall + 0.28))
    up = figure.get_size_inches()[1]
    for index, (text, weight) in enumerate(said):
        place = SIDE / across, 1 - (top + index * line) / up
        figure.text(*place, text, va="top", fontsize=size, weight=weight, color="0.15", parse_math=False)
    for index, draw in enumerate(draws):
        row, column = divmod(index, columns)
        left = (across - columns * cell) / 2 + column * cell + SIDE + (cell - SIDE - MARGIN - width) / 2
        draw(figure, left, up - words - row * tall - WORDS - height, width)
    add_words(figure, heading, FOOT if draws else "")
    return figure


def wrapped(sentences: list[str], width: float, size: float) -> list[tuple[str, str]]:
    """Lines of sentences that fit a width in inches, and their weight: the first sentence is bold."""
    lines = []
    for number, sentence in enumerate(sentences):
        letter = size / 72 * (0.56 if number else 0.64)  # inches, on the wide side
        fitting = textwrap.wrap(sentence, int(width / letter), subsequent_indent="   ")
        lines += [(line, "normal" if number else "bold") for line in fitting]
    return lines


def draw_map(figure: Figure, left: float, bottom: float, width: float, panel: Panel, grid: Grid) -> Axes:
    """One map with axes and its key; ``left, bottom`` is the lower left corner of the map, in inches."""
    axes = draw_panel(figure, panel, grid, left, bottom, width, 10, key=False)
    add_axes(axes, grid, width)
    room = max(width, 2.6)
    draw_key(figure, axes, panel, left + (width - room) / 2, bottom - TICKS, room)
    return axes


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


def draw_mask(
    figure: Figure, left: float, bottom: float, width: float, found: xr.Dataset, distance: np.ndarray | None, grid: Grid
) -> Axes:
    """What stands out, drawn over the weak beam; with the true lines where their ``distance`` (y, x) um is given."""
    from matplotlib.colors import LinearSegmentedColormap, to_rgb
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    mask = np.asarray(found["defects"], bool)
    lit = np.asarray(found["lit"], bool) if "lit" in found else np.ones(mask.shape, bool)
    weak = np.asarray(found["weak"], float) if "weak" in found else np.full(mask.shape, np.nan)
    title = "stands out, over the weak beam" if distance is None else "the same, and the true lines"
    axes = draw_panel(
        figure,
        Panel("defects", title, weak, "", "gray", robust_limits(weak, 1.0, 98.0)),
        grid,
        left,
        bottom,
        width,
        10,
        key=False,
    )
    axes.images[0].set_cmap(LinearSegmentedColormap.from_list("dim", ["black", DIM]).with_extremes(bad=NO_VALUE))
    add_axes(axes, grid, width)
    over = np.zeros((*mask.shape, 4))
    over[mask] = (*to_rgb(DEFECT), 0.65)
    share = f"{100 * (mask & lit).sum() / lit.sum():.3g} % of the lit pixels" if lit.any() else "nothing is lit"
    handles: list[Artist] = [Patch(facecolor=DEFECT, edgecolor="0.3", linewidth=0.4, label=f"stands out: {share}")]
    if "defects_rotation" in found and mask.any():
        still = flagged(found["defects_rotation"], "without_rotation")
        over[still] = (*to_rgb(STILL), 0.65)
        words = f"{100 * still.sum() / mask.sum():.3g} % of it: the lattice does not rotate"
        handles.append(Patch(facecolor=STILL, edgecolor="0.3", linewidth=0.4, label=words))
    axes.imshow(over, extent=axes.images[0].get_extent(), origin="upper", aspect="equal", interpolation="auto")
    if distance is not None:
        near = distance < NEAR
        handles.append(Line2D([], [], color=LINE, lw=1.0, label=near_words(near, mask & lit, lit)))
        if near.any() and not near.all() and min(near.shape) > 1:
            y, x = centres(grid, near.shape)
            axes.contour(x, y, distance, levels=[NEAR], colors=LINE, linewidths=0.8)
    draw_legend(figure, handles, left, bottom - TICKS, width)
    return axes


def near_words(near: np.ndarray, mask: np.ndarray, lit: np.ndarray) -> str:
    """How much of what stands out lies at a line, beside what chance would give."""
    if not near.any():
        return "no dislocation in this layer"
    parts = [f"{100 * (near & where).sum() / where.sum():.3g} %" if where.any() else "none" for where in (mask, lit)]
    return f"{NEAR:g} µm from a dislocation: {parts[0]} of it\nlies within, {parts[1]} of the lit pixels do"


def draw_legend(figure: Figure, handles: list[Artist], left: float, bottom: float, width: float) -> None:
    """Keys below a map, one a line."""
    room = max(width, 3.2)
    axes = place_axes(figure, left + (width - room) / 2, bottom - 0.65, room, 0.65)
    axes.set_axis_off()
    axes.legend(handles=handles, loc="upper center", fontsize=7.5, frameon=False, borderpad=0, labelspacing=0.3)


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
        See :func:`dfxm_dask.view.figures.frames.telling_frames`.
    p_weak : DataArray (scan axes, patch_y, patch_x)

    Returns
    -------
    dict of str to tuple of int
        ``peak``, ``most divided`` (mean P(weak) nearest to 1/2), ``tail``: index along every scan axis. A frame that is
        two of them comes once.
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
    for word in ("peak", "most divided", "flank", "tail"):
        if word in chosen and chosen[word] not in found.values():
            found[word] = chosen[word]
    return found


def draw_patches(
    figure: Figure, left: float, bottom: float, width: float, values: np.ndarray, under: Panel, title: str, grid: Grid
) -> Axes:
    """P(weak) (patch_y, patch_x) as coloured squares over a frame; grey where less than half of a patch is lit."""
    from matplotlib.cm import ScalarMappable
    from matplotlib.collections import PatchCollection
    from matplotlib.colors import AsinhNorm
    from matplotlib.patches import Rectangle

    panel = Panel("p_weak", title, under.image, "", "gray", under.limits)
    axes = draw_panel(figure, panel, grid, left, bottom, width, 9, key=False)
    low, high = under.limits
    if high > BRIGHT:
        axes.images[0].set_norm(AsinhNorm(high / 100, vmin=low, vmax=high))
    add_axes(axes, grid, width)
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
    room = max(width, 2.6)
    bar = place_axes(figure, left + (width - room) / 2 + 0.02 * room, bottom - TICKS - 0.2, 0.96 * room, 0.11)
    colours_key = figure.colorbar(ScalarMappable(cmap=beam_colours()), cax=bar, orientation="horizontal")
    colours_key.set_label("P(weak beam); grey: not lit", fontsize=8.5, labelpad=2)
    colours_key.ax.tick_params(labelsize=8, length=2.5, pad=1.5)
    colours_key.outline.set_linewidth(0.5)
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
    room = max(width, 3.1)
    left += (width - room) / 2
    axes = place_axes(figure, left + 0.1, bottom - 0.62, room - 0.15, width * height + 0.62)
    weak, mean = shares(p_weak, axis)
    axes.plot(positions, weak, color="#0072b2", lw=1.4, marker="o", ms=2.5, label="patches with P(weak) > 1/2")
    axes.plot(positions, mean, color="0.2", lw=1.2, ls="--", label="mean P(weak)")
    for rank, (index, letter) in enumerate(sorted(zip(at, "abc", strict=False))):
        axes.axvline(positions[index], ymax=0.76, color="0.6", lw=0.8, ls=":")
        axes.text(positions[index], 102 + 9 * (rank % 2), f"({letter})", ha="center", va="bottom", fontsize=7.5)
    axes.set(ylim=(-4, 152), yticks=[0, 25, 50, 75, 100])
    axes.set_title("lit patches that see the weak beam", fontsize=9, pad=6)
    axes.set_xlabel(labelled(axis, units), fontsize=8, labelpad=1)
    axes.set_ylabel(f"lit patches ({symbol('%')})", fontsize=8, labelpad=1)
    axes.tick_params(labelsize=7.5, length=2.5)
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.ticklabel_format(axis="x", useOffset=False)
    axes.legend(fontsize=7, loc="upper center", ncols=2, frameon=False, borderpad=0.1, columnspacing=1.2)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    return axes
