"""Light of all frames of a layer and the distances of neighbours, with the frames of findings marked."""

from __future__ import annotations

from itertools import cycle
from typing import TYPE_CHECKING, Any

import numpy as np

from dfxm_dask.errors import StoreError
from dfxm_dask.view.figures.index import FigureKind
from dfxm_dask.view.figures.layout import FOOTER, PAGE, TOP, add_words
from dfxm_dask.view.figures.maps import MARGIN, TICKS, TITLE, labelled, place_axes, symbol

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from dfxm_dask.frames.trust.features import Frames
    from dfxm_dask.frames.trust.findings import Finding

LEFT, HIGH, APART = 0.75, 1.7, 0.45
COLOURS = {"wrong": "#d55e00", "warning": "#0072b2"}
MOST_MARKED = 0.25
"""Part of the frames up to which a finding is marked frame by frame."""


def draw_trust(tree: xr.DataTree, layer: int, heading: str) -> Figure | None:
    """Light and distances of the frames of a layer; None where it is absent or without statistics."""
    from matplotlib.figure import Figure

    from dfxm_dask.run.checks.scan_check import scan_axes, seen_layer

    try:
        seen = seen_layer(tree, layer)
    except StoreError:
        return None
    if seen is None or seen[2].count < 3:
        return None
    found, known, frames = seen
    raw = tree["raw"].dataset
    axes = scan_axes(raw)
    figure = Figure(figsize=(PAGE, TOP + 2 * (TITLE + HIGH) + APART + TICKS + FOOTER))
    up = figure.get_size_inches()[1]
    width = PAGE - LEFT - 2 * MARGIN - 0.1
    light = place_axes(figure, LEFT, up - TOP - TITLE - HIGH, width, HIGH)
    steps = place_axes(figure, LEFT, FOOTER + TICKS, width, HIGH)
    if len(axes) == 1:
        _curve(light, steps, raw[axes[0]], frames)
    else:
        _mesh(light, steps, raw[axes[-2]], raw[axes[-1]], frames)
    light.set_title("light of a frame above the darkest patch", fontsize=9)
    steps.set_title("distance of neighbouring frames, 1: noise and flicker", fontsize=9)
    _mark(light, found, frames, [np.asarray(raw[name]) for name in axes])
    words = [f"order: {known.state}" + (f", {known.better}" if known.better else "")]
    words += [f"{f.severity}: {f.name}" for f in found if not _few(f, frames)]
    add_words(figure, heading, "; ".join(words))
    return figure


def _curve(light: Axes, steps: Axes, axis: xr.DataArray, frames: Frames) -> None:
    """Both panels of a scan along one axis."""
    at, order = np.asarray(axis, float), np.arange(frames.count)
    light.plot(at, frames.light.mean(axis=1), ".-", color="#444444", lw=0.8, ms=3)
    distances = frames.apart(order[:-1], order[1:])
    steps.plot((at[:-1] + at[1:]) / 2, np.maximum(distances, 0.05), ".-", color="#444444", lw=0.8, ms=3)
    random = np.random.default_rng(0).integers(0, frames.count, (2, 1000))
    usual = float(np.median(frames.apart(*random)))
    steps.axhline(max(usual, 0.05), color="#8c8c8c", lw=0.8, ls="--", label="random pairs")
    steps.set_yscale("log")
    steps.legend(fontsize=7, frameon=False, loc="upper right")
    label = labelled(str(axis.name), str(axis.attrs.get("units", "")))
    for panel, text in ((light, "counts"), (steps, "distance")):
        panel.set_xlabel(label, fontsize=8)
        panel.set_ylabel(text, fontsize=8)
        panel.tick_params(labelsize=7)


def _mesh(light: Axes, steps: Axes, slow: xr.DataArray, fast: xr.DataArray, frames: Frames) -> None:
    """Both panels of a scan along two axes."""
    rows = frames.grid[-2]
    places = np.arange(frames.count).reshape(-1, *frames.grid[-2:])[0]
    brightness = frames.light[places].mean(axis=-1)
    distances = np.full(places.shape, np.nan)
    distances[1:] = frames.apart(places[:-1].ravel(), places[1:].ravel()).reshape(rows - 1, -1)
    x, y = (np.asarray(a, float) for a in (fast, slow))
    for panel, values in ((light, np.sqrt(np.maximum(brightness, 0))), (steps, distances)):
        drawn = panel.pcolormesh(x, y, values, cmap="gray", shading="nearest")
        bar = panel.figure.colorbar(drawn, ax=panel, fraction=0.05, pad=0.02)
        bar.set_label("square root of counts" if panel is light else "distance along the slow axis", fontsize=7)
        bar.ax.tick_params(labelsize=7)
        panel.set_xlabel(f"{fast.name} ({symbol(str(fast.attrs.get('units', '')))})", fontsize=8)
        panel.set_ylabel(f"{slow.name} ({symbol(str(slow.attrs.get('units', '')))})", fontsize=8)
        panel.tick_params(labelsize=7)


def _mark(light: Axes, found: list[Finding], frames: Frames, positions: list[np.ndarray]) -> None:
    """Marks about the frames of findings that concern a few."""
    few = [finding for finding in found if _few(finding, frames)]
    for finding, marker in zip(few, cycle("os^Dvp"), strict=False):
        index = np.unravel_index(np.array(finding.frames), frames.grid)
        x = positions[-1][index[-1]]
        one = len(positions) == 1
        y = frames.light.mean(axis=1)[list(finding.frames)] if one else positions[-2][index[-2]]
        style: dict[str, Any] = {"facecolors": "none", "edgecolors": COLOURS[finding.severity], "linewidths": 1.4}
        light.scatter(x, y, s=60, marker=marker, label=f"{finding.severity}: {finding.name}", zorder=3, **style)
    if few:
        light.legend(fontsize=7, frameon=True, loc="upper right")


def _few(finding: Finding, frames: Frames) -> bool:
    """Whether a finding concerns so few frames that each is marked."""
    return 0 < len(finding.frames) <= max(8, MOST_MARKED * frames.count)


FIGURES = (FigureKind("trust", draw_trust, ("raw/patch_sum",), "Light of all frames, and how similar neighbours are"),)
