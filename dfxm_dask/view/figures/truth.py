"""Centre of mass beside the truth: a page of maps for simulated scans."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from dfxm_dask.view.compare.truth import FAR, far_pixels, scan_step, sound_pixels
from dfxm_dask.view.figures.index import FigureKind
from dfxm_dask.view.figures.layout import Draw, columns_of, map_page, map_width
from dfxm_dask.view.figures.maps import (
    BAR,
    FOOT,
    KEY_WIDTH,
    TICKS,
    Panel,
    add_legend,
    draw_panel,
    finer_units,
    grid_of,
    labelled,
    place_axes,
    robust_limits,
    symbol,
)

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.figure import Figure

LEAST = 1.3  # inches of the histogram at least


def draw_compare(tree: xr.DataTree, truth: xr.Dataset, layer: int, heading: str = "") -> Figure | None:
    """A page with the centre of mass found, the true phi0, their difference, and its histogram.

    Parameters
    ----------
    tree, truth
        As in :func:`dfxm_dask.view.compare.truth.truth_rows`.
    layer : int
        Number along z.
    heading : str
        Printed at the top.

    Returns
    -------
    Figure or None
        ``None`` where there is no centre of mass along phi, or no ``phi0``.
    """
    if "rocking" not in tree or "com_phi" not in tree["rocking"].data_vars or "phi0" not in truth:
        return None
    maps, truth = tree["rocking"].dataset.isel(z=[layer]), truth.isel(z=[layer])
    grid = grid_of(maps)
    units = str(maps["com_phi"].attrs.get("units", "degree"))
    com, phi0 = np.asarray(maps["com_phi"], float)[0], np.asarray(truth["phi0"], float)[0]
    middle = float(np.median(phi0[np.isfinite(phi0)])) if np.isfinite(phi0).any() else 0.0
    sound = (sound_pixels(maps) & np.isfinite(np.asarray(truth["phi0"])))[0]
    limits = robust_limits(np.concatenate([com[sound] - middle, (phi0 - middle).ravel()]))
    error = com - phi0
    most = max(abs(limit) for limit in robust_limits(error[sound]))
    factor, finer = finer_units(max(abs(limit) for limit in limits), units)
    shown = (limits[0] * factor, limits[1] * factor)
    about = f"phi relative to {middle:.4f} {symbol(units)}".replace(" °", "°").replace("-", "−")
    panels = [
        Panel("com_phi", "found: centre of mass", (com - middle) * factor, labelled(about, finer), "viridis", shown),
        Panel("phi0", "true: phi0", (phi0 - middle) * factor, labelled(about, finer), "viridis", shown),
        Panel(
            "error",
            "found minus true",
            error * factor,
            labelled("difference", finer),
            "RdBu_r",
            (-most * factor, most * factor),
        ),
    ]
    far = sound & far_pixels(truth)[0] if "distance" in truth else None
    step = scan_step(maps)
    draws: list[Draw] = [partial(draw_panel, panel=panel, grid=grid) for panel in panels]
    histogram = partial(
        draw_histogram,
        height=map_width(grid, columns_of(grid, 4))[1],
        error=error * factor,
        sound=sound,
        far=far,
        most=most * factor,
        step=None if step is None else step * factor,
        units=finer,
    )
    foot = f"{FOOT}; the last bins of the histogram contain all values beyond"
    # The histogram is higher than a low map, and its legend has three lines.
    below = TICKS + BAR + 0.1 + max(LEAST - map_width(grid, columns_of(grid, 4))[1], 0.0)
    return map_page([*draws, histogram], grid, heading, foot, below=below)


def draw_histogram(
    figure: Figure,
    left: float,
    bottom: float,
    width: float,
    *,
    height: float,
    error: np.ndarray,
    sound: np.ndarray,
    far: np.ndarray | None,
    most: float,
    step: float | None,
    units: str,
) -> None:
    """Histogram of the error over the sound pixels, and over the sound pixels far from dislocations.

    Parameters
    ----------
    figure : Figure
    left, bottom, width, height : float
        Position and size of a map, in inches.
    error : array (y, x), in ``units``
    sound, far : array (y, x), bool
        ``far`` is ``None`` where distances are not known.
    most : float
        The histogram ends at ± 1.2 times this value, or beyond half a step; the last bins contain all values beyond.
    step : float or None
        Step of the scan, drawn as half a step to both sides.
    units : str
    """
    from matplotlib.ticker import MaxNLocator

    room, tall = max(width, KEY_WIDTH), max(height, LEAST)
    left, width, bottom = left + (width - room) / 2, room, bottom + height - tall
    axes = place_axes(figure, left, bottom, width, tall)
    most = max(1.2 * most, 0.55 * (step or 0.0))
    edges = np.linspace(-most, most, 101)
    classes = [("sound pixels", sound, "#b8b8b8")]
    if far is not None:
        classes.append((f"> {FAR:g} µm from a line", far, "#0072b2"))
    for number, (name, where, colour) in enumerate(classes):
        values = error[where]
        if not values.size:
            continue
        name = f"{name}: median |error| {np.median(np.abs(values)):.3g} {symbol(units)}"
        axes.hist(
            np.clip(values, edges[0], edges[-1]),
            list(edges),
            weights=np.full(values.size, 100 / values.size),
            histtype="step" if number else "stepfilled",
            color=colour,
            label=name,
            lw=1.3,
        )
    axes.axvline(0, color="0.2", lw=0.8)
    if step is not None:
        for sign in (-1, 1):
            word = f"half a step of the scan: {step / 2:.3g} {symbol(units)}" if sign > 0 else None
            axes.axvline(sign * step / 2, color="#d55e00", lw=0.9, ls="--", label=word)
    axes.set_xlim(edges[0], edges[-1])
    axes.set_xlabel(labelled("found minus true", units), fontsize=8.5, labelpad=2)
    axes.set_ylabel("pixels (%)", fontsize=8.5, labelpad=2)
    axes.set_title("error of the centre of mass", fontsize=10, pad=6)
    axes.tick_params(labelsize=8, length=2.5)
    axes.xaxis.set_major_locator(MaxNLocator(6))
    axes.yaxis.set_major_locator(MaxNLocator(5))
    handles, _ = axes.get_legend_handles_labels()
    add_legend(figure, handles, left - 0.3, bottom - TICKS - 0.1, width + 0.6)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def truth_page(tree: xr.DataTree, layer: int, heading: str) -> Figure | None:
    """The page of a layer of a store."""
    return draw_compare(tree, tree["truth"].dataset, layer, heading)


FIGURES = (FigureKind("truth", truth_page, ("truth",)),)
