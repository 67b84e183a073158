"""Layout of a page: width, rows of maps, headings, sentences, and the matplotlib settings that all pages share.

A page is at most 17 cm wide, so that letters of 7 points keep that size across a printed page.
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import TYPE_CHECKING

from dfxm_dask.view.figures.maps import BAR, FOOT, MARGIN, SIDE, TICKS, TITLE, Grid, map_size

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PAGE = 6.69
"""Inches: 17 cm, the largest width of a page."""
TOP, FOOTER = 0.46, 0.34
"""Inches above and below the maps of a page for its heading and its foot."""
SMALL = 8.0
"""Points of sentences above or below maps."""
HIGHEST = 4.2
"""Inches of the highest map on a page of several."""
OURS = {"font.family": ["DejaVu Sans"], "svg.hashsalt": "dfxm_dask", "pdf.fonttype": 42}
Draw = Callable[["Figure", float, float, float], object]
"""Draws a map on a figure, given the lower left corner and the width in inches."""


@lru_cache(maxsize=1)
def _settings() -> dict[str, object]:
    import matplotlib

    kept = ("backend", "interactive", "toolbar", "timezone")  # of the program that shows the figure
    return {k: v for k, v in matplotlib.rcParamsDefault.items() if not k.startswith(kept)} | OURS


@contextmanager
def plain_style() -> Iterator[None]:
    """Settings under which all pages are drawn and saved: those of matplotlib, without those of the user."""
    import matplotlib

    # Setting all of them takes longer than drawing an axis.
    changed = {name: value for name, value in _settings().items() if matplotlib.rcParams[name] != value}
    with matplotlib.rc_context(changed):
        yield


def map_page(
    draws: Sequence[Draw],
    grid: Grid,
    heading: str,
    foot: str = FOOT,
    *,
    above: float = TITLE,
    below: float = TICKS + BAR,
    sentences: Sequence[str] = (),
    size: float = SMALL,
) -> Figure:
    """A page of maps on one grid, in rows.

    Parameters
    ----------
    draws : sequence of callable
        Each draws one map.
    grid : Grid
    heading, foot : str
    above, below : float
        Inches above and below each map for its title, and for its ticks and key.
    sentences : sequence of str
        Printed above the maps, the first in bold.
    size : float
        Points of the sentences.
    """
    from matplotlib.figure import Figure

    columns = columns_of(grid, len(draws))
    width, height = map_width(grid, columns)
    cell, tall = (PAGE - MARGIN) / columns, above + height + below
    if columns == 1:
        cell = max(SIDE + width, 4.4)
    said = wrapped(sentences, columns * cell - MARGIN, size)
    words = sentences_height(said, size) + 0.1 if said else 0.0
    rows = -(-len(draws) // columns)
    figure = Figure(figsize=(columns * cell + MARGIN, TOP + words + rows * tall + FOOTER))
    up = figure.get_size_inches()[1]
    if said:
        write_sentences(figure, said, MARGIN, TOP, size)
    for index, draw in enumerate(draws):
        row, column = divmod(index, columns)
        left = column * cell + SIDE + (cell - SIDE - width) / 2
        draw(figure, left, up - TOP - words - row * tall - above - height, width)
    add_words(figure, heading, foot)
    return figure


def columns_of(grid: Grid, count: int) -> int:
    """Columns of a page of maps: one for very wide maps."""
    return 1 if count < 2 or grid.ratio < 0.2 else 2


def map_width(grid: Grid, columns: int) -> tuple[float, float]:
    """Width and height in inches of the maps of a page."""
    cell = (PAGE - MARGIN) / max(columns, 1)
    return map_size(grid, min(cell - SIDE - MARGIN, 5.6), HIGHEST if columns > 1 else 5.6)


def wrapped(sentences: Sequence[str], width: float, size: float) -> list[tuple[str, str]]:
    """Lines of sentences that fit a width in inches, and their weight: the first sentence is bold."""
    lines = []
    for number, sentence in enumerate(sentences):
        letter = size / 72 * (0.56 if number else 0.64)  # inches, on the wide side
        fitting = textwrap.wrap(sentence, max(int(width / letter), 10), subsequent_indent="   ")
        lines += [(line, "normal" if number else "bold") for line in fitting]
    return lines


def sentences_height(said: list[tuple[str, str]], size: float = SMALL) -> float:
    """Inches that lines of :func:`wrapped` take."""
    return len(said) * 1.6 * size / 72


def write_sentences(
    figure: Figure, said: list[tuple[str, str]], left: float, below: float, size: float = SMALL
) -> None:
    """Write lines of :func:`wrapped`, from a position in inches from the left and below the upper edge of a page."""
    across, up = figure.get_size_inches()
    for index, (text, weight) in enumerate(said):
        place = left / across, 1 - (below + index * 1.6 * size / 72) / up
        figure.text(*place, text, va="top", fontsize=size, weight=weight, color="0.15", parse_math=False)


def add_words(figure: Figure, heading: str, foot: str = FOOT) -> None:
    """The heading at the top of a page, on two lines at most, and a line or two at its foot."""
    across, up = figure.get_size_inches()
    lines = [
        textwrap.shorten(line, int(across / (8.5 / 72 * 0.6)), placeholder=" …") for line in heading.split("\n") if line
    ]
    figure.text(
        0.5, 1 - 0.07 / up, "\n".join(lines), ha="center", va="top", fontsize=8.5, color="0.25", parse_math=False
    )
    foot = "\n".join(textwrap.wrap(foot, int(across / (7 / 72 * 0.56))))
    figure.text(0.5, 0.05 / up, foot, ha="center", va="bottom", fontsize=7, color="0.4", parse_math=False)
