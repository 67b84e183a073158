"""Pictures and tables of a training: learning curves, confusion matrix, and scores beside those of simpler methods."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dfxm_dask.run.training import shortcomings
from dfxm_dask.view.figures.layout import add_words, plain_style
from dfxm_dask.view.figures.maps import place_axes
from dfxm_dask.view.pictures import save
from dfxm_dask.view.tables import say, show_table

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

TRAINED, HELD_OUT, BEST = "#0072b2", "#d55e00", "#009e73"
"""Colours of the Okabe–Ito palette."""

WIDTH, HEIGHT, LEFT, BOTTOM = 2.5, 2.1, 0.72, 0.78
"""Inches of one plot of the learning curves, and before and below it."""

CELL = 1.35
"""Inches of one cell of the confusion matrix."""


def training_figures(known: Mapping[str, Any], out: str | Path) -> list[Path]:
    """PNG files of a training, written beside its weights: ``NAME_curves.png`` and ``NAME_confusion.png``.

    Parameters
    ----------
    known : mapping
        Facts on the weights: :func:`dfxm_dask.beams.network.weights.facts`.
    out : path
        Of the weights, NAME.safetensors.
    """
    out, written = Path(out), []
    drawn = {"curves": draw_learning(known, out.stem), "confusion": draw_confusion(known, out.stem)}
    for name, figure in drawn.items():
        path = out.with_name(f"{out.stem}_{name}.png")
        save(figure, path, {"figure": name, "store": out.name, "layer": "none"})
        written.append(path)
    return written


@plain_style()
def draw_learning(known: Mapping[str, Any], heading: str) -> Figure:
    """Loss and accuracy against the epoch, with the epoch marked whose weights were kept."""
    from matplotlib.figure import Figure

    curves, best = known["training"]["curves"], known["training"]["best_epoch"]
    begun = known["scores"].get("start")
    epochs = [row["epoch"] for row in curves]
    figure = Figure(figsize=(2 * (LEFT + WIDTH) + 0.2, BOTTOM + HEIGHT + 0.42))
    loss, accuracy = (place_axes(figure, LEFT + k * (LEFT + WIDTH), BOTTOM, WIDTH, HEIGHT) for k in range(2))
    loss.plot(epochs, [row["train_loss"] for row in curves], "o-", ms=3, lw=1.2, color=TRAINED, label="trained on")
    loss.plot(epochs, [row["held_out_loss"] for row in curves], "s-", ms=3, lw=1.2, color=HELD_OUT, label="held out")
    loss.set_yscale("log")
    percent = [100 * row["held_out_accuracy"] for row in curves]
    accuracy.plot(epochs, percent, "s-", ms=3, lw=1.2, color=HELD_OUT, label="held out")
    for other, style in (("start", ":"), ("brightness", "--")):
        if other in known["scores"]:
            words = {"start": "initial weights", "brightness": "brightness alone"}[other]
            level = 100 * known["scores"][other]["accuracy"]
            accuracy.axhline(level, color="0.35", lw=1, ls=style, label=words)
    for axes, label in ((loss, "log loss (nat)"), (accuracy, "accuracy (%)")):
        _dress(axes, label, best, max(epochs))
    kept = f"epoch {best} is kept" if best else "the initial weights are kept: no epoch was better"
    note = (
        "losses before calibration"
        if begun is None
        else "losses before calibration; training started from trained weights"
    )
    add_words(figure, f"{heading}: {kept}", note)
    return figure


def _dress(axes: Axes, label: str, best: int, last: float) -> None:
    from matplotlib.ticker import LogLocator, MaxNLocator

    if best:
        axes.axvline(best, color=BEST, lw=1.2, label="kept", zorder=0)
    axes.set_xlim(0.5, last + 0.5)
    axes.set_xlabel("epoch", fontsize=8.5)
    axes.set_ylabel(label, fontsize=8.5)
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    if axes.get_yscale() == "log":
        low, high = axes.get_ylim()
        shown = (2, 5) if high / low < 100 else ()  # one decade alone would leave a single number on the axis
        axes.yaxis.set_minor_locator(LogLocator(subs=range(2, 10)))
        axes.yaxis.set_minor_formatter(lambda value, _: f"{value:g}" if _mantissa(value) in shown else "")
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.tick_params(labelsize=8, length=2.5)
    axes.tick_params(which="minor", labelsize=7, length=1.5)
    axes.legend(fontsize=7, frameon=False, loc="best")
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def _mantissa(value: float) -> int:
    return round(value / 10.0 ** np.floor(np.log10(value) + 1e-9))


@plain_style()
def draw_confusion(known: Mapping[str, Any], heading: str) -> Figure:
    """True against found classes on the layers held out: counts, and their parts of each true class."""
    from matplotlib.figure import Figure

    table = known["scores"]["held_out"]["confusion"]
    names, counts = table["classes"], np.asarray(table["counts"])
    rows, columns = table["axes"]
    size = CELL * len(names)
    figure = Figure(figsize=(size + 1.7, size + 1.3))
    axes = place_axes(figure, 1.1, 0.85, size, size)
    share = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    for (i, j), count in np.ndenumerate(counts):
        part = f"\n{100 * share[i, j]:.1f} %" if counts[i].sum() else "\nno such patch"
        axes.text(
            j,
            i,
            f"{count}{part}",
            ha="center",
            va="center",
            fontsize=11,
            color="white" if share[i, j] > 0.55 else "black",
        )
    axes.set_xticks(range(len(names)), names, fontsize=9)
    axes.set_yticks(range(len(names)), names, fontsize=9, rotation=90, va="center")
    axes.set_xlabel(columns, fontsize=10)
    axes.set_ylabel(rows, fontsize=10)
    axes.tick_params(length=0)
    add_words(figure, f"{heading}: patches of the layers held out", f"per cent of each row ({rows})")
    return figure


def show_training(known: Mapping[str, Any]) -> None:
    """Print the scores, those of the initial weights and of brightness alone, and every score that is too low."""
    words = {"held_out": "trained", "start": "initial weights", "brightness": "brightness alone"}
    scores = {label: known["scores"][name] for name, label in words.items() if name in known["scores"]}
    rows = [
        (
            label,
            *(_percent(s[name]) for name in ("accuracy", "weak_recall", "strong_recall")),
            f"{s['calibration_error']:.3f}",
            f"{s['log_loss']:.4f}",
        )
        for label, s in scores.items()
    ]
    facts = known["training"]
    title = (
        f"{known['scores']['held_out']['patches']} patches of the layers held out, "
        f"at which training also stopped (epoch {facts['best_epoch']} of {len(facts['curves'])} is kept)"
    )
    columns = ("", "accuracy, %", "weak recall, %", "strong recall, %", "calibration error", "log loss")
    show_table(title, columns, rows, right=(1, 2, 3, 4, 5))
    for line in shortcomings(known["scores"]):
        say(line)


def _percent(value: float | None) -> str:
    return "none" if value is None else f"{100 * value:.2f}"
