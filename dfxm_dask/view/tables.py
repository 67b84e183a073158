"""Facts in three forms: tables on a terminal, HTML in a notebook, JSON for scripts. All three show the same facts."""

from __future__ import annotations

import copy
import io
import json
import math
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TextIO

import numpy as np

from dfxm_dask.schema import printable

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table as RichTable

WIDE = 160
"""Columns of the output into a file or pipe, where no terminal sets them (our choice)."""
NARROW = 100
"""Columns of the text form of an object in Python (our choice)."""
PAGE = """\
<div style="font-size:.9em;max-width:100%;overflow-x:auto">
{%- macro cells(tag, table, row) %}<tr>{% for cell in row -%}
<{{ tag }} style="text-align:{{ table.side(loop.index0) }};padding:0 .7em">{{ cell }}</{{ tag }}>
{%- endfor %}</tr>{% endmacro %}
{%- macro grid(table) %}<table style="border-collapse:collapse">
<thead>{{ cells("th", table, table.columns) }}</thead><tbody>
{%- for row in table.rows %}{{ cells("td", table, row) }}{% endfor %}</tbody></table>{% endmacro %}
{%- for part in parts %}
{%- if part is string %}<div>{{ part }}</div>
{%- elif part.detail %}<details><summary>{{ part.title }} ({{ part.rows|length }})</summary>{{ grid(part) }}</details>
{%- else %}<div><b>{{ part.title }}</b></div>{{ grid(part) }}
{%- endif %}
{%- endfor %}</div>"""


@dataclass(frozen=True)
class Table:
    """A table: ``right`` lists the columns of numbers; ``detail`` folds the table in HTML, and hides it in Python."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]
    right: Sequence[int] = ()
    detail: bool = False

    def side(self, column: int) -> str:
        return "right" if column in self.right else "left"


class Summary:
    """Facts about a store, a recipe or a machine.

    A terminal shows the facts as short tables, a notebook as HTML; :meth:`as_dict` returns them for further use.

    Parameters
    ----------
    facts : mapping
        Names and values; NaN becomes None, arrays become lists.
    parts : str or Table
        The facts for a reader, in order.
    """

    def __init__(self, facts: Mapping[str, Any], *parts: str | Table) -> None:
        self._facts: dict[str, Any] = as_json(facts)
        self.parts = parts

    def as_dict(self) -> dict[str, Any]:
        """The facts as ``--json`` prints them: numbers in the unit that the key or its neighbour ``unit`` names.

        Returns
        -------
        dict
            Of text, numbers, truth values, None, lists and dicts. Keys that end in ``bytes`` are in byte, those that
            end in ``seconds`` in second. None replaces NaN.
        """
        return copy.deepcopy(self._facts)

    def json(self) -> str:
        """The facts as one JSON document."""
        return json.dumps(self._facts, indent=1, allow_nan=False)

    def show(self) -> None:
        """Print all tables to stdout, those of details included."""
        console = terminal()
        for part in self.parts:
            _print(console, part)

    def __repr__(self) -> str:
        from rich.console import Console

        console = Console(file=io.StringIO(), width=NARROW, highlight=False, color_system=None, force_jupyter=False)
        for part in self.parts:
            if isinstance(part, str) or not part.detail:
                _print(console, part)
        text = console.file.getvalue()  # type: ignore[attr-defined]
        return "\n".join(line.rstrip() for line in text.splitlines())

    def _repr_html_(self) -> str:
        from jinja2 import Environment

        page = Environment(autoescape=True, finalize=lambda value: printable(value) if type(value) is str else value)
        return page.from_string(PAGE).render(parts=self.parts)


def as_json(value: Any) -> Any:
    """A value for JSON: arrays as lists, paths as text, numbers without NaN and infinity.

    Examples
    --------
    >>> as_json({"fwhm": np.float32("nan"), "shape": (np.int64(3), 4)})
    {'fwhm': None, 'shape': [3, 4]}
    """
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if isinstance(value, Mapping):
        return {str(key): as_json(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [as_json(inner) for inner in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, bool | int | str) else str(value)


def terminal(stream: TextIO | None = None) -> Console:
    """A console as wide as the terminal, or as a wide page where the output goes to a file: nothing is cut off."""
    from rich.console import Console

    stream = stream or sys.stdout
    return Console(file=stream, highlight=False, width=None if stream.isatty() else WIDE)


def _print(console: Console, part: str | Table) -> None:
    if isinstance(part, str):
        console.print(printable(part), markup=False, soft_wrap=True)
    else:
        console.print(_rich(part))


def _rich(part: Table) -> RichTable:
    """A table for a terminal. Cells are text, never markup: they may be names from files."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table as RichTable
    from rich.text import Text

    table = RichTable(title=Text(printable(part.title), "bold"), title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    for index, column in enumerate(part.columns):
        table.add_column(column, justify="right" if index in part.right else "left", overflow="fold")
    for row in part.rows:
        table.add_row(*(Text(printable(str(cell))) for cell in row))
    return table


def show_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[Any]], right: Sequence[int] = ()) -> None:
    """Print a table; the columns in `right` are numbers."""
    _print(terminal(), Table(title, columns, list(rows), right))


def say(text: str) -> None:
    """Print one line without markup."""
    _print(terminal(), text)
