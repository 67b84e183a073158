"""Agreement of two volumes, as a table and as a figure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from dfxm_dask.view.figures.layout import PAGE, add_words, plain_style
from dfxm_dask.view.figures.maps import place_axes
from dfxm_dask.volume.compare import BIN, TAU, Comparison

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLUMNS = ("metric", "value", "chance")
BLUE, ORANGE = "#0072b2", "#d55e00"


def metric_words(name: str) -> str:
    """Description of a metric of :func:`dfxm_dask.volume.compare.compare_masks`."""
    kind, _, tau = name.partition("_")
    of = {
        "precision": "precision: share of A within {} um of B",
        "recall": "recall: share of B within {} um of A",
        "f1": "F1 at {} um",
    }
    words = {
        "dice": "Dice",
        "iou": "IoU",
        "count_ratio": "voxel ratio, smaller count over larger",
        "distance": "mean nearest-neighbour distance, both ways (um)",
        "hd95": "HD95 (um)",
    }
    return words[name] if name in words else of[kind].format(tau)


def comparison_rows(found: Comparison) -> list[tuple[str, str, str]]:
    """Rows of a table: metric, value, and mean and standard deviation by chance."""
    rows = [("true voxels of A and of B", " and ".join(map(str, found.voxels)), "")]
    rows.append(("voxels of both", str(found.both), ""))
    for name, value in found.values.items():
        chance, spread = found.chance[name], found.spread[name]
        by_chance = "none" if np.isnan(chance) else f"{chance:.3g} ± {spread:.2g}"
        rows.append((metric_words(name), "none" if np.isnan(value) else f"{value:.4g}", by_chance))
    return rows


def ratio_words(found: Comparison) -> str:
    """Sentence on the meaning of the voxel ratio."""
    ratio = found.values["count_ratio"]
    if np.isnan(ratio):
        return "neither volume contains a true voxel: their agreement is not defined"
    return f"voxel ratio {ratio:.2g} is a ratio of sizes and no measure of agreement"


@plain_style()
def draw_comparison(found: Comparison, names: tuple[str, str], tau: Sequence[float] = TAU) -> Figure:
    """A page with the distances of the voxels of one volume from the other: histograms and shares, both ways.

    Parameters
    ----------
    found : Comparison
    names : (str, str)
        Of a and b.
    tau : sequence of float, um
        Marked.

    Returns
    -------
    Figure
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(PAGE, 5.8))
    ways = (("A to B", found.to_b, found.chance_to_b), ("B to A", found.to_a, found.chance_to_a))
    most = max([_quantile(h, 0.99) for _, *both in ways for h in both] + [1.15 * max([*tau, 0.4])])
    for column, (way, measured, chance) in enumerate(ways):
        left = 0.65 + 3.35 * column
        _histograms(place_axes(figure, left, 3.2, 2.6, 1.85), measured, chance, most, tau, way)
        _shares(place_axes(figure, left, 0.75, 2.6, 1.85), measured, chance, most, tau, way)
    for number, (letter, name) in enumerate(zip("AB", names, strict=True)):
        figure.text(
            0.5,
            1 - (0.12 + 0.18 * number) / 5.8,
            f"{letter}: {name}",
            ha="center",
            va="top",
            fontsize=9,
            color="0.25",
            parse_math=False,
        )
    add_words(
        figure, "", f"by chance: A shifted at random; dashed: tau; bins of {BIN:g} µm; larger distances are not drawn"
    )
    return figure


def _quantile(histogram: np.ndarray, share: float) -> float:
    """Upper edge of the bin in which a share of a histogram is reached; 0 for an empty one."""
    if not histogram.sum():
        return 0.0
    return float(BIN * (1 + np.searchsorted(np.cumsum(histogram), share * histogram.sum())))


def _curves(measured: np.ndarray, chance: np.ndarray) -> list[tuple[str, np.ndarray, str]]:
    named = (("measured", measured, BLUE), ("by chance", chance, ORANGE))
    return [(word, 100 * values / values.sum(), colour) for word, values, colour in named if values.sum()]


def _histograms(
    axes: Axes, measured: np.ndarray, chance: np.ndarray, most: float, tau: Sequence[float], way: str
) -> None:
    """Share of voxels per bin; the legend gives the share in both volumes, whose bar would dwarf the rest."""
    wide = max(1, int(np.ceil(most / BIN / 80)))  # bins in one that is drawn
    for word, values, colour in _curves(measured, chance):
        apart = np.append(0.0, values[1:])
        apart = np.pad(apart, (0, -len(apart) % wide)).reshape(-1, wide).sum(1)
        edges = np.arange(len(apart) + 1) * BIN * wide
        label = f"{word} ({values[0]:.3g} % < {BIN:g} µm, not drawn)"
        axes.stairs(apart, edges, color=colour, label=label, fill=word == "measured", alpha=0.75, lw=1.4)
    if not axes.patches:
        axes.text(0.5, 0.5, "no distance: a volume is empty", ha="center", transform=axes.transAxes, fontsize=9)
    else:
        axes.set_ylim(0, 1.4 * max(1e-9, axes.get_ylim()[1]))
        axes.legend(fontsize=7, loc="upper right", framealpha=0.9, edgecolor="none", borderpad=0.1, handlelength=1.4)
    axes.set_title(f"distance from {way}", fontsize=10)
    _dress(axes, most, tau, f"voxels (%) per {BIN * wide:g} µm")


def _shares(axes: Axes, measured: np.ndarray, chance: np.ndarray, most: float, tau: Sequence[float], way: str) -> None:
    """Share of voxels that are nearer than a distance: precision (A to B) or recall (B to A) at every tau."""
    for _, values, colour in _curves(measured, chance):
        edges, total = np.arange(len(values) + 1) * BIN, np.append(0, np.cumsum(values))
        axes.plot(np.append(edges, max(most, edges[-1])), np.append(total, 100), color=colour, lw=1.4)
    axes.set_ylim(0, 103)
    word = "precision" if way == "A to B" else "recall"
    _dress(axes, most, tau, f"{word}: closer (%)")
    axes.set_xlabel(f"distance from {way} (µm)", fontsize=8.5)


def _dress(axes: Axes, most: float, tau: Sequence[float], label: str) -> None:
    axes.set_xlim(0, most)
    for limit in tau:
        axes.axvline(limit, color="0.4", lw=0.8, ls="--", zorder=0)
    axes.set_ylabel(label, fontsize=8.5)
    axes.tick_params(labelsize=8, length=2.5)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
