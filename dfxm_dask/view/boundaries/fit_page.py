"""A page of the fit of one boundary: its strip with the step, jump and position along it, spectrum of its lines."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from dfxm_dask.boundaries.lines.spectrum import COMPONENTS, FAMILIES, frequency_grid, long_enough, power_and_limit
from dfxm_dask.boundaries.lines.strip import StripMap, strip_map
from dfxm_dask.boundaries.strip_cells import STRIP
from dfxm_dask.store.integrity.attributes import recorded_steps
from dfxm_dask.view.boundaries.step import (
    Beside,
    Means,
    beside_step,
    jumps_along,
    places_by,
    places_of,
    smeared,
    strip_cells,
)
from dfxm_dask.view.boundaries.words import STYLES, Tables, families_of, reason_words, step_words
from dfxm_dask.view.figures.layout import PAGE, SMALL, add_words, sentences_height, wrapped, write_sentences
from dfxm_dask.view.figures.maps import TITLE, finer_units, labelled, place_axes

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SIDE, WIDE, HIGH, UNDER, BAR = 0.72, PAGE / 2 - 0.84, 2.1, 0.85, 0.9
"""Inches: room for ticks, size of a panel, room below for ticks and keys, and for a colour bar."""
DATA, FIT, ASIDE = "#0072b2", "#d55e00", "0.35"
LINES = ("#d6006c", "#e69f00")


def draw_fit(tree: xr.DataTree, found: Tables, k: int, heading: str = "") -> Figure:
    """A page with the maps of the store beside one boundary, and the fit of its step and lines.

    Parameters
    ----------
    tree : DataTree
        Maps are read near the trace of the boundary only.
    found : dict
        See :func:`dfxm_dask.view.boundaries.words.tables_of`.
    k : int
        Number of the boundary.
    heading : str
        Printed at the top.

    Returns
    -------
    Figure
        The centre of mass across the boundary with the fitted step, jump and position of the step along the trace,
        position in every layer, and the spectrum of the lines with its limit. A panel without data shows the reason.
    """
    from matplotlib.figure import Figure

    lines_of = (
        []
        if families_of(found, k)
        else ["No family of lines exceeds the limit by the factor required to state a direction."]
    )
    said = wrapped([step_words(found, k), *lines_of, *reason_words(found, k)], PAGE - 2 * SIDE, SMALL)
    words = sentences_height(said) + 0.3
    tall = UNDER + HIGH + TITLE
    figure = Figure(figsize=(PAGE, words + 3 * tall + 0.42))
    up = words + 3 * tall + 0.42
    rows = [words + UNDER + n * tall for n in (2, 1)]
    panels = [place_axes(figure, SIDE + n * PAGE / 2, bottom, WIDE, HIGH) for bottom in rows for n in (0, 1)]
    lines = place_axes(figure, SIDE, words + UNDER, PAGE - SIDE - BAR, HIGH)
    cells = strip_cells(tree, found, k)
    strip = beside_step(cells, found, k)
    units = _units(tree)
    _draw_strip(panels[0], strip, units)
    why = "The maps contain no centre of mass\nbeside this boundary." if not len(strip.s) else ""
    why = why or ("No step was fitted\nto this boundary." if not np.isfinite(strip.step) else "")
    for axes, title in zip(
        panels[1:], ("jump along the trace", "position along the trace", "position by layer"), strict=True
    ):
        axes.set_title(title, fontsize=9.5, pad=5)
        if why:
            _say(axes, why)
    if not why:
        _draw_jump(panels[1], jumps_along(strip), found, k, units)
        along, z, place, weight = places_of(strip)
        _draw_place(panels[2], (along, place), places_by(along, place, weight), "position along the trace")
        _draw_place(panels[3], (z, place), places_by(z, place, weight), "z")
    _draw_spectrum(lines, cells, found, k, _seed(tree))
    write_sentences(figure, said, SIDE, up - words + 0.02)
    add_words(figure, f"{heading}\nboundary {k}: fit" if heading else f"boundary {k}: fit", "")
    return figure


def _units(tree: xr.DataTree) -> str:
    """Unit of the scan axis of the step."""
    return str(tree["boundaries"]["step"].attrs.get("units", "degree")) if "step" in tree["boundaries"] else "degree"


def _seed(tree: xr.DataTree) -> int:
    """Seed of the random shifts of layers in the gather."""
    options = recorded_steps(tree["boundaries"].attrs).get("characterise_boundaries", {}).get("parameters", {})
    return int(options.get("seed") or 0)


def _say(axes: Axes, why: str) -> None:
    axes.set(xticks=[], yticks=[])
    axes.text(0.5, 0.5, why, ha="center", va="center", fontsize=9, color="0.3", transform=axes.transAxes)


def _finish(axes: Axes, across: str, up: str, columns: int = 2) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.set_xlabel(across, fontsize=8, labelpad=1)
    axes.set_ylabel(up, fontsize=8, labelpad=3)
    axes.tick_params(labelsize=7.5, length=2.5)
    axes.xaxis.set_major_locator(MaxNLocator(6))
    axes.yaxis.set_major_locator(MaxNLocator(6))
    _legend_below(axes, axes.get_legend_handles_labels()[0], columns)


def _legend_below(axes: Axes, handles: list[Any], columns: int) -> None:
    """Legend that fits the width of a panel and its margins."""
    axes.legend(
        handles=handles,
        fontsize=7,
        loc="upper center",
        bbox_to_anchor=(0.5, -0.17),
        ncols=columns,
        frameon=False,
        columnspacing=0.8,
        handlelength=1.4,
        handletextpad=0.5,
    )


def _draw_strip(axes: Axes, strip: Beside, units: str) -> None:
    """Centre of mass against the distance from the plane, with the step."""
    from matplotlib.colors import LogNorm
    from matplotlib.patches import Patch

    axes.set_title("centre of mass across the boundary", fontsize=9.5, pad=5)
    if not len(strip.s):
        _say(axes, "The maps contain no centre of mass\nbeside this boundary.")
        return
    low, high = np.percentile(strip.value, [0.5, 99.5])
    room = 0.15 * (high - low) or 1e-9
    factor, finer = finer_units(max(abs(low), abs(high)), units)
    value = strip.value * factor
    edges = [np.linspace(-STRIP, STRIP, 61), np.linspace(low - room, high + room, 61) * factor]
    image, *_ = np.histogram2d(strip.s, value, edges, weights=strip.weight)
    shown = np.where(image > 0, image, np.nan).T
    axes.pcolormesh(*edges, shown, cmap="Greys", norm=LogNorm(max(image.max() / 300, 0.1), 2 * image.max()))
    axes.axvline(0, color=ASIDE, lw=0.8, ls=":", label="fitted plane" if np.isfinite(strip.step) else "plane")
    at = np.linspace(-STRIP, STRIP, 301)
    if np.isfinite(strip.step):
        curve = strip.step * smeared(at, strip.width) + strip.slope * at
        axes.plot(at, factor * curve, color=FIT, lw=1.6, label="fitted step and mean slope")
    axes.set_xlim(-STRIP, STRIP)
    _finish(
        axes, labelled("distance from the plane in the layer", "um"), labelled("centre of mass − local mean", finer)
    )
    handles, _ = axes.get_legend_handles_labels()
    _legend_below(axes, [Patch(color="0.55", label="pixels (log grey)"), *handles], 2)


def _draw_jump(axes: Axes, jumps: Means, found: Tables, k: int, units: str) -> None:
    """Jump in every 2 um of trace, and that of the fit."""
    step, error = float(found["step"][k]), float(found["step_error"][k])
    factor, finer = finer_units(abs(step), units)
    _draw_means(axes, jumps._replace(mean=factor * jumps.mean, error=factor * jumps.error), "mean, standard error")
    axes.axhline(0, color=ASIDE, lw=0.8, ls=":")
    axes.axhline(factor * step, color=FIT, lw=1.6, label="fitted jump")
    if np.isfinite(error):
        axes.axhspan(factor * (step - error), factor * (step + error), color=FIT, alpha=0.25, lw=0)
    _finish(axes, labelled("position along the trace", "um"), labelled("jump of the centre of mass", finer))


def _draw_place(axes: Axes, stripes: tuple[np.ndarray, np.ndarray], means: Means, name: str) -> None:
    """Position of the step minus that of the plane: single stripes, and their means."""
    axes.plot(*stripes, ".", color="0.6", ms=3, label="stripes of 5 µm", zorder=1)
    _draw_means(axes, means, "mean, standard error")
    axes.axhline(0, color=FIT, lw=1.6, label="fitted plane", zorder=0)
    _finish(axes, labelled(name, "um"), labelled("step − plane", "um"))


def _draw_means(axes: Axes, means: Means, label: str) -> None:
    known = np.isfinite(means.error)
    if known.any():
        at, mean, error = (column[known] for column in means)
        axes.errorbar(at, mean, error, fmt="o", color=DATA, ms=3.5, lw=1.0, capsize=1.5, label=label)
    if not known.all():
        axes.plot(
            means.at[~known], means.mean[~known], "o", mfc="white", color=DATA, ms=4.5, label="single value, no error"
        )


def _draw_spectrum(axes: Axes, cells: np.ndarray, found: Tables, k: int, seed: int) -> None:
    """Power of the isolated weak beam along the boundary, its limit, and the families of lines that are stated."""
    axes.set_title("spectrum of the isolated weak beam along the boundary", fontsize=9.5, pad=5)
    if not len(cells) or not np.isfinite(cells[:, 4]).any():
        _say(axes, "The maps contain no isolated weak beam beside this boundary.")
        return
    strip = strip_map(cells, cells[:, 4], found["normal"][k], found["centre"][k], found["corner"][k])
    if not long_enough(strip):
        _say(axes, "The spectrum requires three layers and 6 µm of trace.")
        return
    grid = frequency_grid(strip)
    power, limit = power_and_limit(strip, grid, seed * COMPONENTS)
    ratio = np.where(grid.wide & (limit > 0), power / np.where(limit > 0, limit, 1.0), np.nan)
    image = axes.pcolormesh(grid.trace, grid.up, ratio, cmap="Blues", vmin=0, vmax=max(1.2, np.nanmax(ratio)))
    axes.contour(grid.trace, grid.up, np.nan_to_num(ratio), [1.0], colors="black", linewidths=1.0)
    axes.contour(grid.trace, grid.up, grid.inside.astype(float), [0.5], colors=ASIDE, linewidths=0.8, linestyles=":")
    axes.plot([], [], color="black", lw=1.0, label="limit: 1.15 × largest power of randomly shifted layers")
    axes.plot([], [], color=ASIDE, lw=0.8, ls=":", label="range of stated spacings")
    for f in families_of(found, k)[:FAMILIES]:
        _draw_family(axes, strip, found, k, f)
    axes.set_xlim(0, grid.trace[-1])
    axes.set_ylim(grid.up[0], grid.up[-1])
    bar = axes.figure.colorbar(image, cax=axes.inset_axes((1.02, 0.0, 0.025, 1.0)))
    bar.set_label("power / limit", fontsize=8)
    bar.ax.tick_params(labelsize=7.5, length=2.5)
    _finish(axes, "frequency along the trace (1/µm)", "frequency along z (1/µm)")


def _draw_family(axes: Axes, strip: StripMap, found: Tables, k: int, f: int) -> None:
    """Frequencies of lines of one direction, and that of their spacing."""
    flat = strip.axes @ found["line"][k, f]
    wave = np.array([flat[1], -flat[0]]) * (np.sign(flat[1]) or 1.0) / [1.0, strip.axes[1, 2]]
    ends = np.outer([0.0, 10.0], wave)
    axes.plot(*ends.T, color=LINES[f % 2], lw=1.2, ls=STYLES[f % 2], label=f"family {f + 1}: direction")
    spacing = float(found["spacing"][k, f])
    if np.isfinite(spacing):
        axes.plot(
            *(wave / spacing), "o", ms=9, mfc="none", mew=1.8, color=LINES[f % 2], label=f"family {f + 1}: spacing"
        )
