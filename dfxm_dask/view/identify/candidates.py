"""Ranked candidates of a dislocation with their probabilities."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from dfxm_dask.view.figures.layout import FOOTER, PAGE, TOP, add_words, sentences_height, wrapped, write_sentences
from dfxm_dask.view.figures.maps import MARGIN, flag_masks, place_axes
from dfxm_dask.view.identify.labels import axes_and_cell, burgers_name, character, direction_name

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SHOWN = 12
"""Most candidates of a picture."""
ROW = 0.235
"""Inches of a candidate."""
COLUMNS = (0.0, 1.05, 1.7, 2.3)
"""Inches from the left margin to the Burgers vector, the plane, the character, and the line."""
BARS = 3.5
COLOURS = {"best": "#0072b2", "same": "#56b4e9", "opposite": "#d55e00", "other": "#7a7a7a", "none": "#e69f00"}
KEYS = {
    "best": "dark blue: first rank",
    "same": "light blue: not distinguished from it",
    "opposite": "red: the same line with the opposite sign of b",
}
HEAD = ("Burgers vector", "plane", "b to line", "line")
CLASS = "class_probability"


class Ranked(NamedTuple):
    """Table of candidates, with the names of its rows.

    Attributes
    ----------
    probability, log_evidence : array (candidate,)
    none, of_class : float
        Probability of no dislocation, and of the class of the best candidate.
    same : array (candidate,), bool
        Candidates that the data do not distinguish from the best one.
    vectors : dict of str to array (candidate, xyz)
    opposite : array (candidate,), int
    reasons : str
    crystal : (array, float) or None
    """

    probability: np.ndarray
    log_evidence: np.ndarray
    none: float
    of_class: float
    same: np.ndarray
    vectors: dict[str, np.ndarray]
    opposite: np.ndarray
    reasons: str
    crystal: tuple[np.ndarray, float] | None

    @property
    def score(self) -> np.ndarray:
        """Probabilities; without them log evidences relative to the largest."""
        known = np.isfinite(self.probability).any()
        return self.probability if known else self.log_evidence - np.nanmax(self.log_evidence)


def ranked(tree: xr.DataTree) -> Ranked | None:
    """The candidates of a store; None without any result."""
    found = tree["identify"].dataset
    values = {name: np.asarray(found[name]) for name in found.data_vars}
    probability = values["probability"].astype(float)
    count = len(probability)
    log_evidence = values.get("log_evidence", np.full(count, np.nan)).astype(float)
    if not (np.isfinite(probability).any() or np.isfinite(log_evidence).any()):
        return None
    none, of_class = (float(np.ravel(values[n])[0]) if n in values else np.nan for n in ("none_probability", CLASS))
    words = flag_masks(found["match_reason"]) if "match_reason" in found else {}
    bits = int(np.ravel(values["match_reason"])[0]) if words else 0
    reasons = ", ".join(word.replace("_", " ") for word, mask in words.items() if bits & mask)
    return Ranked(
        probability,
        log_evidence,
        none,
        of_class,
        values.get("candidate_class", np.ones(count)) == 0,
        {name: values[name].astype(float) for name in ("burgers", "line", "plane_normal")},
        values.get("opposite", np.full(count, -1)).astype(int),
        reasons,
        axes_and_cell(tree),
    )


def draw_candidates(tree: xr.DataTree, layer: int, heading: str) -> Figure | None:
    """A page with the most probable candidates, the probability that there is no dislocation, and that of the sign."""
    from matplotlib.figure import Figure

    found = ranked(tree)
    if found is None:
        return None
    order = np.argsort(-np.nan_to_num(found.score, nan=-np.inf), kind="stable")[:SHOWN]
    lines = wrapped(sentences(found, int(order[0])), PAGE - 2 * MARGIN, 8)
    words = sentences_height(lines) + 0.1
    rows = [*order.tolist(), -1] if np.isfinite(found.none) else order.tolist()
    figure = Figure(figsize=(PAGE, TOP + words + 0.25 + ROW * len(rows) + 0.35 + FOOTER))
    across, high = figure.get_size_inches()
    up = high - TOP - words - 0.25
    write_sentences(figure, lines, MARGIN, TOP)
    axes = place_axes(figure, MARGIN + BARS, up - ROW * len(rows), PAGE - 2 * MARGIN - BARS - 0.45, ROW * len(rows))
    values = [found.none if row < 0 else float(found.score[row]) for row in rows]
    draw_bars(axes, values, [COLOURS[kind_of(row, int(order[0]), found)] for row in rows])
    for number, cells in enumerate([HEAD, *(row_names(row, found) for row in rows)]):
        for left, text in zip(COLUMNS, cells, strict=True):
            at = ((MARGIN + left) / across, (up + ROW / 2 - ROW * number) / high)
            weight = "bold" if number == 0 else "normal"
            figure.text(*at, text, fontsize=7.5, va="center", weight=weight, parse_math=False)
    rest = len(found.probability) - len(order)
    foot = f"{rest} candidates of lower rank are not shown; " if rest else ""
    shown = dict.fromkeys(kind_of(row, int(order[0]), found) for row in rows)
    add_words(figure, heading, foot + "; ".join(KEYS[kind] for kind in shown if kind in KEYS))
    return figure


def sentences(found: Ranked, best: int) -> list[str]:
    """The verdict, the class of candidates that the data do not distinguish, and the probability of the sign."""
    name, plane, kind, line = row_names(best, found)
    remarks = [f"Remarks: {found.reasons}."] if found.reasons else []
    if not np.isfinite(found.probability).any():
        return ["No probability is stated.", *remarks, f"Candidate of highest rank: b = {name}, line {line}."]
    if found.none > 0.5:
        return [f"No dislocation, with probability {chance(found.none)}.", f"Best candidate: b = {name}, line {line}."]
    probability, other = found.probability, int(found.opposite[best])
    said = [f"b = {name}, line {line} ({kind}), plane {plane}: probability {chance(float(probability[best]))}."]
    if np.isfinite(found.of_class) and found.same.sum() > 1:
        size = int(found.same.sum())
        said.append(f"Its class of {size} candidates with equal images has probability {chance(found.of_class)}.")
    if other >= 0:
        sign = float(probability[best] / (probability[best] + probability[other]))
        said.append(f"Probability of the sign of b, given the line: {chance(sign)}.")
    b = found.vectors["burgers"]
    parallel = np.abs(np.abs(b @ b[best]) - b[best] @ b[best]) < 1e-3 * (b[best] @ b[best])
    total = float(probability[parallel].sum() / probability.sum())
    return [*said, f"Probability of b up to its sign, for all lines and planes: {chance(total)}.", *remarks]


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


def kind_of(row: int, best: int, found: Ranked) -> str:
    """Colour class of a row."""
    if row < 0 or row == best:
        return "none" if row < 0 else "best"
    return "same" if found.same[row] else "opposite" if row == found.opposite[best] else "other"


def row_names(row: int, found: Ranked) -> tuple[str, str, str, str]:
    """Burgers vector, plane, character and line of a candidate; of no dislocation for a negative row."""
    if row < 0:
        return "none", "", "", ""
    b, t, n = (found.vectors[name][row] for name in ("burgers", "line", "plane_normal"))
    crystal = found.crystal
    return burgers_name(b, crystal), direction_name(n, crystal, "()"), character(b, t), direction_name(t, crystal)


def draw_bars(axes: Axes, values: list[float], colours: list[str]) -> None:
    """Probabilities, or differences of log evidences, as horizontal bars with their values, the first at the top."""
    place = np.arange(len(values))
    evidence = min(values) < 0
    axes.barh(place, np.nan_to_num(values), height=0.7, color=colours)
    for at, value in zip(place, values, strict=True):
        text = f"{value:.{0 if abs(value) >= 10 else 1}f}".replace("-", "−") if evidence else chance(value)
        start = 0.0 if evidence else np.nan_to_num(value)
        axes.annotate(text, (start, at), (3, 0), textcoords="offset points", fontsize=7.5, va="center")
    axes.set(ylim=(len(values) - 0.5, -0.5), yticks=[])
    if evidence:
        axes.locator_params(axis="x", nbins=4)
    else:
        axes.set(xlim=(0, 1), xticks=[0, 0.5, 1])
    label = "log evidence relative to the first" if evidence else "posterior probability"
    axes.set_xlabel(label, fontsize=8, labelpad=1)
    axes.tick_params(labelsize=7.5, length=2.5)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
