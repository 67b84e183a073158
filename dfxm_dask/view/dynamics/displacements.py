"""Displacements of a movie: their histogram from frame to frame, and the mean square displacement with its fit."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from dfxm_dask.view.dynamics.tracks import colours_of, columns_of
from dfxm_dask.view.figures.layout import FOOTER, PAGE, TOP, add_words
from dfxm_dask.view.figures.maps import TICKS, TITLE, place_axes

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SHOWN = 4  # tracks whose mean square displacement is drawn (our choice)
HIGH = 2.7


def draw_displacements(tree: xr.DataTree, heading: str = "") -> Figure | None:
    """A page with displacements from frame to frame, and mean square displacements of the longest tracks.

    Lines are those of the fitted Ornstein–Uhlenbeck process, which approach twice the variance along both axes.
    """
    from matplotlib.figure import Figure

    table = columns_of(tree)
    moves = displacements(table)
    if not len(moves):
        return None
    found = tree["dynamics"].dataset
    figure = Figure(figsize=(PAGE, TOP + TITLE + HIGH + TICKS + 0.15 + FOOTER))
    axes = place_axes(figure, 0.6, FOOTER + TICKS + 0.15, 2.4, HIGH)
    draw_histogram(axes, moves)
    axes = place_axes(figure, 3.85, FOOTER + TICKS + 0.15, 2.65, HIGH)
    words = draw_msd(axes, found, table["track"])
    for one in figure.axes:
        one.tick_params(labelsize=7.5, length=2.5)
        for side in ("top", "right"):
            one.spines[side].set_visible(False)
    add_words(figure, heading, f"displacements between neighbouring frames of one track; {words}")
    return figure


def displacements(table: dict[str, np.ndarray]) -> np.ndarray:
    """Displacements (displacement, yx) of tracks between neighbouring frames, um."""
    order = np.lexsort((table["frame"], table["track"]))
    frame, track = table["frame"][order], table["track"][order]
    at = np.stack([table["y"][order], table["x"][order]], axis=1).astype(float)
    near = (np.diff(frame) == 1) & (np.diff(track) == 0) & (track[1:] >= 0)
    return np.asarray(np.diff(at, axis=0)[near])


def draw_histogram(axes: Axes, moves: np.ndarray) -> None:
    """Displacements along y and x, with a normal distribution of the same variance."""
    reach = float(np.percentile(np.abs(moves), 99.5)) * 1.15 or 1.0
    bins = np.linspace(-reach, reach, 25).tolist()
    fine = np.linspace(-reach, reach, 200)
    for values, name, colour in zip(moves.T, "yx", ("#0072b2", "#d55e00"), strict=True):
        axes.hist(values, bins, histtype="step", color=colour, lw=1.1, label=name)
        spread = float(values.std())
        normal = np.exp(-0.5 * (fine / spread) ** 2) / np.sqrt(2 * np.pi) / spread if spread else 0 * fine
        axes.plot(fine, normal * len(values) * (bins[1] - bins[0]), color=colour, lw=0.8, ls=":")
    axes.set_xlabel("displacement per frame (µm)", fontsize=8, labelpad=1)
    axes.set_ylabel("displacements", fontsize=8, labelpad=2)
    axes.legend(fontsize=7.5, frameon=False)
    axes.set_title("displacements, dotted: normal", fontsize=9, y=1.0, pad=5)


def draw_msd(axes: Axes, found: xr.Dataset, track: np.ndarray) -> str:
    """Mean square displacement of the longest tracks against lag, with the curve of the fitted walk."""
    from matplotlib.ticker import LogLocator, NullFormatter

    axes.set_title("mean square displacement", fontsize=9, y=1.0, pad=5)
    axes.set_xlabel("lag (s)", fontsize=8, labelpad=1)
    axes.set_ylabel("mean square displacement (µm²)", fontsize=8, labelpad=2)
    if "msd" not in found or not found.sizes.get("lag"):
        axes.text(0.5, 0.5, "not computed", ha="center", transform=axes.transAxes, fontsize=8)
        return "run the step motion for mean square displacements"
    lag = np.asarray(found["msd_lag"], float)
    colours = colours_of(track)
    count = np.bincount(track[track >= 0], minlength=found.sizes["track"])
    known = np.isfinite(np.asarray(found["msd"])).any(axis=1)
    chosen = [int(k) for k in np.argsort(-count, kind="stable") if known[k]][:SHOWN]
    fine = np.geomspace(lag[0], lag[-1], 100)
    for k in chosen:
        msd, error = np.asarray(found["msd"][k]), np.asarray(found["msd_error"][k])
        axes.errorbar(lag, msd, error, fmt="o", ms=2.5, lw=0.8, color=colours[k], label=f"track {k}")
        variance, memory = 1 / float(found["stiffness"][k]), float(found["relaxation_time"][k])
        if np.isfinite(variance) and np.isfinite(memory):
            axes.plot(fine, 4 * variance * (1 - np.exp(-fine / memory)), color=colours[k], lw=0.9)
    axes.set(xscale="log", yscale="log")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axis.set_major_formatter("{x:g}")
        axis.set_minor_formatter(NullFormatter())
    axes.legend(fontsize=7.5, frameon=False, loc="lower right")
    return "bars: standard errors; lines: fitted Ornstein–Uhlenbeck process"
