"""Weak beam and strong beam of a layer, and the mask of the weak beam above its noise."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from dfxm_dask.store.integrity.attributes import recorded_steps
from dfxm_dask.view.beams.patches import patch_draws
from dfxm_dask.view.figures.frames import LABELS, LINE, centres
from dfxm_dask.view.figures.index import FigureKind
from dfxm_dask.view.figures.layout import SMALL, Draw, map_page
from dfxm_dask.view.figures.maps import (
    FOOT,
    KEY_WIDTH,
    NO_VALUE,
    TICKS,
    Grid,
    Panel,
    add_legend,
    draw_panel,
    finer_units,
    flagged,
    grid_of,
    labelled,
    robust_limits,
)

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

NEAR = 0.5  # um from a dislocation line: outline of the truth, and distance within which the mask is at a line
DEFECT = "#f0e442"  # bright yellow: much lighter than the magenta of the truth
STILL = "#56b4e9"  # sky blue: the part of the mask where the lattice does not rotate
DIM = "#8c8c8c"
"""Brightest grey of an image under a mask, so that neither the mask nor pixels without a value look like it."""
WORDS = 0.5  # inches above a map for two lines
LARGE = 9.0  # points of the evidence where it replaces maps


def evidence_words(found: xr.Dataset) -> tuple[str, tuple[str, ...]]:
    """Whether a layer has a weak beam, and the evidence.

    Parameters
    ----------
    found : Dataset
        One layer of the group: ``has_weak_beam``, ``has_defects`` bool, and the numbers behind them.

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
        return "This layer has not been tested for a weak beam.", why
    if not bool(found["has_weak_beam"]):
        return "This layer has no weak beam: its weak-beam maps would mislead and are not drawn.", why
    if not {"has_defects", "mask_strength"} <= set(found.data_vars):  # no mask, or one without a verdict of its own
        return "This layer has a weak beam.", why
    if not bool(found["has_defects"]):
        return "This layer has a weak beam, but nothing exceeds its noise: the mask may show noise.", why
    return "This layer has a weak beam that shows defects.", why


def map_panels(found: xr.Dataset) -> list[Panel]:
    """The maps of a layer that have a value in every lit pixel: weak beam, strong beam, contrast.

    For a layer without weak beam: the lit pixels and the strong beam.
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
    """Whether maps of the weak beam of a layer have a meaning; true where this was not tested."""
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
        Weak beam, strong beam, contrast, the mask above the noise, the true lines, P(weak) of the patches of three
        frames and along the scan, and the evidence in sentences. For a layer without weak beam only the lit pixels,
        the strong beam, and sentences. ``None`` where the group contains none of these.
    """
    if "beams" not in tree:
        return None
    found = tree["beams"].dataset.isel(z=layer)
    if not {"lit", "weak", "strong", "weak_enhanced", "defects", "p_weak", "has_weak_beam"} & set(map(str, found)):
        return None
    grid = grid_of(found)
    draws: list[Draw] = [partial(draw_panel, panel=panel, grid=grid) for panel in map_panels(found)]
    if has_maps(found):
        if "defects" in found:
            draws.append(partial(draw_mask, found=found, distance=None, grid=grid))
            truth = tree["truth"].dataset if "truth" in tree else None
            if truth is not None and "distance" in truth:
                distance = np.asarray(truth["distance"].isel(z=layer), float)
                draws.append(partial(draw_mask, found=found, distance=distance, grid=grid))
        if "p_weak" in found:
            draws += patch_draws(tree, layer, found["p_weak"], grid)
    verdict, reasons = evidence_words(found)
    size = SMALL if has_maps(found) else LARGE
    return map_page(draws, grid, heading, FOOT if draws else "", above=WORDS, sentences=[verdict, *reasons], size=size)


def draw_mask(
    figure: Figure, left: float, bottom: float, width: float, found: xr.Dataset, distance: np.ndarray | None, grid: Grid
) -> Axes:
    """The mask over the weak beam; with the true lines where their ``distance`` (y, x) um is given."""
    from matplotlib.colors import LinearSegmentedColormap, to_rgb
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    mask = np.asarray(found["defects"], bool)
    lit = np.asarray(found["lit"], bool) if "lit" in found else np.ones(mask.shape, bool)
    weak = np.asarray(found["weak"], float) if "weak" in found else np.full(mask.shape, np.nan)
    title = "mask above the noise, on the weak beam" if distance is None else "mask, with the true lines"
    panel = Panel("defects", title, weak, "", "gray", robust_limits(weak, 1.0, 98.0))
    axes = draw_panel(figure, left, bottom, width, panel, grid, key=False)
    axes.images[0].set_cmap(LinearSegmentedColormap.from_list("dim", ["black", DIM]).with_extremes(bad=NO_VALUE))
    over = np.zeros((*mask.shape, 4))
    over[mask] = (*to_rgb(DEFECT), 0.65)
    share = f"{100 * (mask & lit).sum() / lit.sum():.3g} % of the lit pixels" if lit.any() else "nothing is lit"
    handles: list[Artist] = [Patch(facecolor=DEFECT, edgecolor="0.3", linewidth=0.4, label=f"above the noise: {share}")]
    if "defects_rotation" in found and mask.any():
        still = flagged(found["defects_rotation"], "without_rotation")
        over[still] = (*to_rgb(STILL), 0.65)
        words = f"{100 * still.sum() / mask.sum():.3g} % of the mask: lattice without rotation"
        handles.append(Patch(facecolor=STILL, edgecolor="0.3", linewidth=0.4, label=words))
    axes.imshow(over, extent=axes.images[0].get_extent(), origin="upper", aspect="equal", interpolation="auto")
    if distance is not None:
        near = distance < NEAR
        handles.append(Line2D([], [], color=LINE, lw=1.0, label=near_words(near, mask & lit, lit)))
        if near.any() and not near.all() and min(near.shape) > 1:
            y, x = centres(grid, near.shape)
            axes.contour(x, y, distance, levels=[NEAR], colors=LINE, linewidths=0.8)
    room = max(width, KEY_WIDTH + 0.5)
    add_legend(figure, handles, left + (width - room) / 2, bottom - TICKS, room)
    return axes


def near_words(near: np.ndarray, mask: np.ndarray, lit: np.ndarray) -> str:
    """Share of the mask near a line, beside the share by chance."""
    if not near.any():
        return "no dislocation in this layer"
    parts = [f"{100 * (near & where).sum() / where.sum():.3g} %" if where.any() else "none" for where in (mask, lit)]
    return f"{NEAR:g} µm from a dislocation, enclosing\n{parts[0]} of the mask, {parts[1]} of the lit pixels"


FIGURES = (FigureKind("beams", draw_beams, ("beams",), "Weak and strong beam"),)
