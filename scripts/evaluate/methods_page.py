"""The page of ``compare_beams``: one row of maps for each method."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from dfxm_dask.view.figures.frames import LINE, centres
from dfxm_dask.view.figures.index import scan_heading
from dfxm_dask.view.figures.layout import add_words
from dfxm_dask.view.figures.maps import (
    MARGIN,
    TICKS,
    Panel,
    draw_panel,
    grid_of,
    map_size,
    robust_limits,
    symbol,
)

if TYPE_CHECKING:
    import xarray as xr
    from bases import Candidate
    from matplotlib.figure import Figure

WORDS = 0.65  # inches above a map, for three lines
WIDTH, HEIGHT = 1.9, 1.9  # inches of a map at most
ACROSS = 3  # maps side by side: letters are then legible at page width
SIZE = 9  # points


@dataclass(frozen=True, eq=False)
class Compared:
    """One layer: all maps, their scores by row and title, and the reasons for missing scores."""

    candidates: list[Candidate]
    scores: dict[tuple[str, str], dict[str, float]]
    reasons: dict[str, str]
    strong: np.ndarray
    residuals: dict[str, np.ndarray]
    away: np.ndarray | None
    mask: dict[str, float]


def draw_methods(tree: xr.DataTree, layer: int, compared: Compared) -> Figure:
    """All maps of a layer: strong beam, weak beam and best frame first, then a row for each basis.

    Parameters
    ----------
    tree : DataTree
        The scan, for its title and pixels.
    layer : int
    compared : Compared
        Maps and scores of the layer.

    Returns
    -------
    Figure
        Each map between its own 1st and 99th percentile, titled with AUC and high-passed AUC if the truth is known.
        For a map of arbitrary sign, the sign of larger AUC is used. The last map of a basis is its residual.
    """
    from matplotlib.figure import Figure

    grid = grid_of(tree)
    rows = [row[k : k + ACROSS] for row in page_rows(compared) for k in range(0, len(row), ACROSS)]
    columns = max(len(row) for row in rows)
    width, height = map_size(grid, WIDTH, HEIGHT)
    cell, tall = max(width, WIDTH) + MARGIN + TICKS, WORDS + height + TICKS
    figure = Figure(figsize=(columns * cell + TICKS, len(rows) * tall + 0.72))
    up = figure.get_size_inches()[1]
    for number, row in enumerate(rows):
        for column, panel in enumerate(row):
            left = TICKS + column * cell + (cell - TICKS - width) / 2
            bottom = up - 0.36 - number * tall - WORDS - height
            axes = draw_panel(figure, left, bottom, width, panel, grid, SIZE, key=False)
            axes.set(xlabel="", ylabel="")  # the foot has the unit
            away = compared.away
            if panel.name == "strong" and away is not None and (away < 0.5).any() and min(away.shape) > 1:
                axes.contour(*reversed(centres(grid, away.shape)), away, levels=[0.5], colors=LINE, linewidths=0.9)
    add_words(
        figure, scan_heading(tree, layer, int(tree.sizes["z"])), f"ticks in {symbol(grid.units)}; {foot(compared)}"
    )
    return figure


def foot(compared: Compared) -> str:
    """Explanation of the page."""
    words = "every map between its own 1st and 99th percentile; grey: no value"
    if compared.away is None:
        return words
    return (
        "AUC of the map, and high-passed over 2 µm: lit pixels within 0.5 µm of a line against those > 2.5 µm away; "
        f"{words}"
    )


def page_rows(compared: Compared) -> list[list[Panel]]:
    """Panels row by row: beams, and then each basis with its residual."""
    title = "strong beam" if compared.away is None else "strong beam\nand true lines (0.5 µm)"
    rows = [[panel("strong", title, compared.strong, "gray")]]
    of_basis: dict[str, list[Panel]] = {name: [] for name in compared.residuals}
    for c in compared.candidates:
        sign = 1
        scores = compared.scores[c.row, c.title]
        if len(c.signs) > 1 and scores["AUC"] < 0.5:
            sign, scores = -1, compared.scores[c.row, f"−{c.title}"]
        title = ("−" if sign < 0 else "") + c.title.replace(": ", ":\n")
        if c.row in compared.reasons:
            title += f"\n{compared.reasons[c.row]}"
        elif np.isfinite(scores["AUC"]):
            title += f"\nAUC {scores['AUC']:.3f}, {scores['AUC 2 um']:.3f}"
        name = next((n for n in of_basis if c.row.startswith(n)), None)
        (rows[0] if name is None else of_basis[name]).append(panel(c.title, title, sign * c.image))
    for name, panels in of_basis.items():
        panels.append(panel(f"{name} residual", f"{name}:\nresidual (rms)", compared.residuals[name]))
        rows.append(panels)
    return rows


def panel(name: str, title: str, image: np.ndarray, colours: str = "inferno") -> Panel:
    """A map between its own percentiles."""
    values = np.asarray(image, float)
    return Panel(name, title, values, "", colours, robust_limits(values))
