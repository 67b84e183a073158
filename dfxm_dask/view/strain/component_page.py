"""A page of maps in rows and columns that share their colour bars, such as the components of a tensor."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from dfxm_dask.view.figures.layout import (
    FOOTER,
    PAGE,
    SMALL,
    TOP,
    add_words,
    sentences_height,
    wrapped,
    write_sentences,
)
from dfxm_dask.view.figures.maps import (
    BAR,
    FOOT,
    MARGIN,
    SIDE,
    TICKS,
    TITLE,
    Grid,
    Panel,
    add_axes,
    add_colour_bar,
    add_title,
    draw_image,
    ends_beyond,
    labelled,
    map_size,
    place_axes,
    robust_limits,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

GAP = 0.14
"""Inches between the columns."""
TALL = 7.0
"""Inches of all rows of maps together."""
XYZ = "xyz"
SIGNED, POSITIVE = "RdBu_r", "viridis"
SCALES = ((1.0, ""), (1e3, "10⁻³"), (1e6, "10⁻⁶"))
"""Factors of a number without unit, and their printed form."""
RADIANS = ((1.0, "rad"), (1e3, "mrad"), (1e6, "µrad"))
DEGREES = ((1.0, "°"), (1e3, "mdeg"), (1e6, "µdeg"))
PER_LENGTH = ((1.0, "µm⁻¹"), (1e3, "mm⁻¹"), (1e6, "m⁻¹"))


def scaled(size: float, scales: Sequence[tuple[float, str]]) -> tuple[float, str]:
    """First factor and unit in which a size exceeds one, else the last."""
    return next((pair for pair in scales if size * pair[0] >= 1.0), scales[-1])


def common_limits(images: Sequence[np.ndarray], signed: bool = True) -> tuple[float, float]:
    """Limits that several maps share, without the outermost percent of their values; about zero if ``signed``."""
    values = (
        np.concatenate([np.ravel(image)[np.isfinite(image).ravel()] for image in images]) if images else np.zeros(0)
    )
    low, high = robust_limits(values)
    if not signed:
        return min(low, 0.0) if low < 0.2 * high else low, high
    most = max(abs(low), abs(high))
    return -most, most


def component_panels(
    images: dict[str, np.ndarray],
    name: str,
    units: Sequence[tuple[float, str]],
    *,
    signed: bool = True,
    errors: Sequence[np.ndarray] = (),
) -> list[Panel]:
    """Maps with one scale, colour table and label.

    Parameters
    ----------
    images : dict of str to array (y, x)
        By title.
    name : str
        Label of the colour bar.
    units : sequence of (float, str)
        Possible factors and units, from :func:`scaled`.
    signed : bool
        Colours about zero.
    errors : sequence of arrays, optional
        Standard errors of each map; their medians appear in the titles.
    """
    low, high = common_limits(list(images.values()), signed)
    factor, unit = scaled(max(abs(low), abs(high)), units)
    shown = (low * factor, high * factor)
    said = [f", median error {number(factor * median_of(error))}" for error in errors] or [""] * len(images)
    return [
        Panel(title, title + words, image * factor, labelled(name, unit or "1"), SIGNED if signed else POSITIVE, shown)
        for (title, image), words in zip(images.items(), said, strict=True)
    ]


def component_page(
    panels: Sequence[Panel],
    columns: int,
    grid: Grid,
    heading: str,
    *,
    foot: str = FOOT,
    sentences: Sequence[str] = (),
    below: float = TICKS + BAR,
    own_bars: bool = False,
) -> Figure:
    """A page of maps in rows.

    Parameters
    ----------
    panels : sequence of Panel
        Row by row. The last may be in colours.
    columns : int
    grid : Grid
    heading, foot : str
    sentences : sequence of str
        Printed above the maps, the first in bold.
    below : float
        Inches below the last row of maps, for ticks and colour bars.
    own_bars : bool
        A colour bar below every column, for limits that differ from column to column; otherwise one for the page.

    Returns
    -------
    Figure
        Its axes are those of the panels in their order, then those of the colour bars.
    """
    from matplotlib.figure import Figure

    rows = -(-len(panels) // columns)
    cell = (PAGE - SIDE - MARGIN + GAP) / columns
    width, height = map_size(grid, cell - GAP, TALL / rows - TITLE)
    said = wrapped(sentences, PAGE - 2 * MARGIN, SMALL)
    words = sentences_height(said) + 0.1 if said else 0.0
    figure = Figure(figsize=(PAGE, TOP + words + rows * (TITLE + height) + below + FOOTER))
    up = figure.get_size_inches()[1] - TOP - words
    if said:
        write_sentences(figure, said, MARGIN, TOP)
    lefts = [SIDE + k * cell + (cell - GAP - width) / 2 for k in range(columns)]
    for index, panel in enumerate(panels):
        row, column = divmod(index, columns)
        axes = place_axes(figure, lefts[column], up - (row + 1) * (TITLE + height), width, height)
        draw_image(axes, panel, grid)
        add_axes(axes, grid, width)
        _keep_outer(axes, column == 0, index + columns >= len(panels))
        add_title(axes, panel.title, cell - 0.05, 8.5)
    bottom = up - rows * (TITLE + height) - TICKS
    for column in range(columns if own_bars else 1):
        ours = [k for k, p in enumerate(panels) if p.image.ndim == 2 and (not own_bars or k % columns == column)]
        if not ours:
            continue
        panel = panels[ours[0]]
        values = np.concatenate([panels[k].image.ravel() for k in ours])
        wide = min(3.4, PAGE - 2 * MARGIN) if not own_bars else cell - GAP
        left = lefts[column] + (width - wide) / 2 if own_bars else (PAGE - wide) / 2
        if not own_bars and panels[-1].image.ndim == 3:
            left, wide = SIDE, cell - GAP
        ends = ends_beyond(values, *panel.limits)
        bar = add_colour_bar(figure, figure.axes[ours[0]].images[0], left, bottom, wide, panel.label, extend=ends)
        bar.ax.ticklabel_format(axis="x", useOffset=False)
        bar.ax.locator_params(axis="x", nbins=max(3, int(wide * 1.6)))
    add_words(figure, heading, foot)
    return figure


def _keep_outer(axes: Axes, left: bool, low: bool) -> None:
    """Numbers and labels along the left and lower sides of the page alone."""
    from matplotlib.ticker import NullFormatter

    for axis, kept in ((axes.yaxis, left), (axes.xaxis, low)):
        if not kept:
            axis.set_label_text("")
            axis.set_major_formatter(NullFormatter())


def median_of(values: np.ndarray) -> float:
    """Median of the finite values; NaN without any."""
    finite = values[np.isfinite(values)]
    return float(np.median(finite)) if finite.size else float("nan")


def number(value: float) -> str:
    """A number to two digits; "unknown" for NaN."""
    return f"{float(f'{value:.2g}'):g}".replace("-", "−") if np.isfinite(value) else "unknown"
