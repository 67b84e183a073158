"""Ranked candidates of a dislocation with their probabilities."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from dfxm_dask.view.figures.layout import FOOTER, PAGE, TOP, add_words, sentences_height, wrapped, write_sentences
from dfxm_dask.view.figures.maps import MARGIN, place_axes
from dfxm_dask.view.identify.labels import axes_and_cell, burgers_name, character, direction_name

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SHOWN = 12
"""Most candidates of a picture."""
ROW = 0.235
"""Inches of a candidate."""
COLUMNS = (0.0, 1.05, 1.85, 2.6)
"""Inches from the left margin to the Burgers vector, the line, the character, and the plane."""
BARS = 3.35
COLOURS = {"best": "#0072b2", "opposite": "#d55e00", "other": "#7a7a7a", "none": "#e69f00"}


def draw_candidates(tree: xr.DataTree, layer: int, heading: str) -> Figure | None:
    """A page with the most probable candidates, the probability that there is no dislocation, and that of the sign."""
    from matplotlib.figure import Figure

    found = tree["identify"].dataset
    probability = np.asarray(found["probability"], float)
    if not np.isfinite(probability).any():
        return None
    none = float(found["probability_none"]) if "probability_none" in found else float("nan")
    crystal = axes_and_cell(tree)
    vectors = {name: np.asarray(found[name], float) for name in ("burgers", "line", "plane_normal")}
    order = np.argsort(-np.nan_to_num(probability), kind="stable")[:SHOWN]
    best = int(order[0])
    other = opposite_of(best, vectors)
    said = sentences(probability, none, best, other, vectors, crystal)
    lines = wrapped(said, PAGE - 2 * MARGIN, 8)
    words = sentences_height(lines) + 0.1
    rows = [*order.tolist(), -1] if np.isfinite(none) else order.tolist()
    figure = Figure(figsize=(PAGE, TOP + words + 0.25 + ROW * len(rows) + 0.35 + FOOTER))
    up = figure.get_size_inches()[1] - TOP - words - 0.25
    write_sentences(figure, lines, MARGIN, TOP)
    axes = place_axes(figure, MARGIN + BARS, up - ROW * len(rows), PAGE - 2 * MARGIN - BARS - 0.45, ROW * len(rows))
    draw_bars(
        axes, [none if row < 0 else probability[row] for row in rows], [kind_of(row, best, other) for row in rows]
    )
    names = [row_names(row, vectors, crystal) for row in rows]
    across, high = figure.get_size_inches()
    head = ("Burgers vector", "line", "b to line", "plane")
    for number, cells in enumerate([head, *names]):
        for left, text in zip(COLUMNS, cells, strict=True):
            at = ((MARGIN + left) / across, (up + ROW / 2 - ROW * number) / high)
            weight = "bold" if number == 0 else "normal"
            figure.text(*at, text, fontsize=7.5, va="center", weight=weight, parse_math=False)
    rest = len(probability) - len(order)
    foot = f"{rest} candidates with smaller probabilities are not shown; " if rest else ""
    red = "; red: the same line with the opposite sign of b" if other in order else ""
    add_words(figure, heading, f"{foot}blue: most probable{red}")
    return figure


def opposite_of(best: int, vectors: dict[str, np.ndarray]) -> int | None:
    """Row of the dislocation with the same line and the opposite Burgers vector; None if it is not a candidate.

    (b, t) and (-b, -t) are one dislocation.
    """
    b, t = vectors["burgers"], vectors["line"]
    same = [np.abs(s * b - b[best]).max(1) < 1e-3 * np.abs(b[best]).max() for s in (1, -1)]
    along = [np.abs(s * t - t[best]).max(1) < 1e-3 for s in (1, -1)]
    found = np.flatnonzero((same[0] & along[1]) | (same[1] & along[0]))
    return int(found[0]) if found.size else None


def sentences(
    probability: np.ndarray,
    none: float,
    best: int,
    other: int | None,
    vectors: dict[str, np.ndarray],
    crystal: tuple[np.ndarray, float] | None,
) -> list[str]:
    """The verdict, and the probability of the sign."""
    name, line, kind, plane = row_names(best, vectors, crystal)
    if none > probability.sum():
        return [
            f"No dislocation, with probability {chance(none)}.",
            f"Most probable candidate: b = {name}, line {line}.",
        ]
    said = [f"b = {name}, line {line} ({kind}), plane {plane}: probability {chance(probability[best])}."]
    if other is not None:
        sign = probability[best] / (probability[best] + probability[other])
        said.append(f"Probability of the sign of b, given the line: {chance(float(sign))}.")
    total = probability.sum()
    vector = vectors["burgers"]
    same = np.abs(np.abs(vector @ vector[best]) - vector[best] @ vector[best]) < 1e-3 * (vector[best] @ vector[best])
    said.append(
        f"Probability of b up to its sign, for all lines and planes: {chance(float(probability[same].sum() / total))}."
    )
    return said


def chance(value: float) -> str:
    """A probability with two digits, or as close to one or zero.

    Examples
    --------
    >>> chance(0.934), chance(0.99991), chance(2e-5), chance(float("nan"))
    ('0.93', '> 0.999', '< 0.001', 'unknown')
    """
    if not np.isfinite(value):
        return "unknown"
    return (
        "> 0.999"
        if value > 0.999
        else "< 0.001"
        if value < 0.001
        else f"{value:.3f}"
        if value > 0.99
        else f"{value:.2g}"
    )


def kind_of(row: int, best: int, other: int | None) -> str:
    """Colour class of a row."""
    return "none" if row < 0 else "best" if row == best else "opposite" if row == other else "other"


def row_names(
    row: int, vectors: dict[str, np.ndarray], crystal: tuple[np.ndarray, float] | None
) -> tuple[str, str, str, str]:
    """Burgers vector, line, character and plane of a candidate; of no dislocation for a negative row."""
    if row < 0:
        return "none", "", "", ""
    b, t, n = (vectors[name][row] for name in ("burgers", "line", "plane_normal"))
    return (
        burgers_name(b, crystal),
        direction_name(t, crystal),
        character(b, t),
        direction_name(n, crystal, "()"),
    )


def draw_bars(axes: Axes, values: list[float], kinds: list[str]) -> None:
    """Probabilities as horizontal bars with their values, the first at the top."""
    place = np.arange(len(values))
    axes.barh(place, np.nan_to_num(values), height=0.7, color=[COLOURS[kind] for kind in kinds])
    for at, value in zip(place, values, strict=True):
        axes.annotate(
            chance(value), (np.nan_to_num(value), at), (3, 0), textcoords="offset points", fontsize=7.5, va="center"
        )
    axes.set(xlim=(0, 1), ylim=(len(values) - 0.5, -0.5), yticks=[], xticks=[0, 0.5, 1])
    axes.set_xlabel("posterior probability", fontsize=8, labelpad=1)
    axes.tick_params(labelsize=7.5, length=2.5)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
