"""Weak beam and strong beam of a layer, and what stands out of the weak beam."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from dfxm_dask.store.integrity.attributes import recorded_steps
from dfxm_dask.view.figures.frames import LABELS, LINE, centres
from dfxm_dask.view.figures.index import FigureKind
from dfxm_dask.view.figures.maps import (
    FOOT,
    MARGIN,
    NO_VALUE,
    SMALL,
    TICKS,
    Grid,
    Panel,
    add_axes,
    add_words,
    draw_key,
    draw_panel,
    finer_units,
    flagged,
    grid_of,
    labelled,
    map_size,
    place_axes,
    robust_limits,
    sentences_height,
    wrapped,
    write_sentences,
)
from dfxm_dask.view.figures.patches import Draw, patch_draws

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

NEAR = 0.5  # um from a dislocation line: the outline of the truth, and what counts as found at a line
DEFECT = "#f0e442"  # bright yellow: keeps apart from the truth's magenta for colour-blind eyes, too
STILL = "#56b4e9"  # sky blue: the part of the mask where the lattice does not rotate
DIM = "#8c8c8c"
"""Brightest grey of an image under a mask, so that neither the mask nor pixels without a value look like it."""
WORDS, SIDE = 0.48, 0.46  # inches above a map, and at its left for ticks
KEY = 0.66  # inches below a map for its key
LARGE = 10.0  # points of the evidence where it stands in for maps


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

    numbers = {name: float(found[name]) for name in (*NUMBERS, "mask_strength") if name in found}
    why = reasons(**numbers) if set(NUMBERS) <= set(numbers) else ()
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
        step = recorded_steps(found.attrs).get("enhance_beams", {})
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
    grid = grid_of(found)
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
    words = 0.42 + sentences_height(said, size) + 0.06
    figure = Figure(figsize=(across, words + rows * tall + 0.28))
    up = figure.get_size_inches()[1]
    write_sentences(figure, said, SIDE, 0.42, size)
    for index, draw in enumerate(draws):
        row, column = divmod(index, columns)
        left = (across - columns * cell) / 2 + column * cell + SIDE + (cell - SIDE - MARGIN - width) / 2
        draw(figure, left, up - words - row * tall - WORDS - height, width)
    add_words(figure, heading, FOOT if draws else "")
    return figure


def draw_map(figure: Figure, left: float, bottom: float, width: float, panel: Panel, grid: Grid) -> Axes:
    """One map with axes and its key; ``left, bottom`` is the lower left corner of the map, in inches."""
    axes = draw_panel(figure, panel, grid, left, bottom, width, 10, key=False)
    add_axes(axes, grid, width)
    room = max(width, 2.6)
    draw_key(figure, axes, panel, left + (width - room) / 2, bottom - TICKS, room)
    return axes


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
        words = f"{100 * still.sum() / mask.sum():.3g} % of the mask: the lattice does not rotate"
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
    return f"{NEAR:g} µm from a dislocation: {parts[0]} of the mask\nlies within, {parts[1]} of the lit pixels do"


def draw_legend(figure: Figure, handles: list[Artist], left: float, bottom: float, width: float) -> None:
    """Keys below a map, one a line."""
    room = max(width, 3.2)
    axes = place_axes(figure, left + (width - room) / 2, bottom - 0.65, room, 0.65)
    axes.set_axis_off()
    axes.legend(handles=handles, loc="upper center", fontsize=7.5, frameon=False, borderpad=0, labelspacing=0.3)


FIGURES = (FigureKind("beams", draw_beams, ("beams",), "Weak and strong beam"),)
