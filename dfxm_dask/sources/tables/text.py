"""Tables of text: one row of column names, then a row of values for each frame or position.

Columns are separated by commas, semicolons, tabs or blanks. Lines that begin with # are comments; the last comment
names the columns if no other line does. A unit follows the name in brackets: ``mu [deg]``, ``exposure (ms)``.
"""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from dfxm_dask.errors import SourceError
from dfxm_dask.schema import printable

TABLE_NAMES = (".csv", ".tsv")
LARGEST = 64 << 20
SEPARATORS = ("\t", ";", ",", " ")  # a decimal comma looks like a separator, so the others come first
DECIMAL_COMMA = re.compile(r"[-+]?\d+,\d+([eE][-+]?\d+)?")
THOUSANDS = re.compile(r"[-+]?[1-9]\d{0,2},\d{3}")
NAME = re.compile(r"(?P<name>.*?)\s*[\[(]\s*(?P<unit>[^\])]*?)\s*[\])]")


@dataclass(frozen=True)
class Table:
    """Columns of text by name, their units ("" if absent), and the line of each row in the file."""

    path: str
    columns: dict[str, list[str]]
    units: dict[str, str]
    lines: list[int]

    def __len__(self) -> int:
        return len(self.lines)

    def column(self, *names: str) -> str | None:
        """The column with one of these names, in upper or lower case."""
        return next((name for name in self.columns if name.lower() in names), None)

    def numbers(self, name: str) -> np.ndarray | None:
        """A column as numbers, NaN for empty cells and nan; None if a cell contains other text."""
        values = np.array([number(text) for text in self.columns[name]])
        return None if any(map(_word, self.columns[name])) else values


def number(text: str) -> float:
    """A cell as a number, also with a decimal comma; NaN otherwise, also for 1_000, which Python accepts."""
    try:
        return math.nan if "_" in text else float(text.replace(",", ".") if DECIMAL_COMMA.fullmatch(text) else text)
    except ValueError:
        return math.nan


def _word(text: str) -> bool:
    return math.isnan(number(text)) and text.lower().lstrip("+-") not in ("", "nan")


def read_table(path: str) -> Table:
    """A table of text.

    Raises
    ------
    SourceError
        Not text, no names of columns, a repeated name, or rows of different lengths.
    """
    try:
        rows, remarked, separator = _rows(_text(path))
    except csv.Error as error:
        raise SourceError(path, f"is not a table of text ({error})", "give the table of the motor positions") from error
    if not rows:
        raise SourceError(path, "is a table without rows", "give the table of the motor positions")
    if all(math.isnan(number(cell)) for cell in rows[0][1]):
        header = rows.pop(0)[1]
    elif remarked and len(remarked) == len(rows[0][1]):
        header = remarked
    else:
        raise SourceError(
            path, "does not name its columns: its first row contains numbers", "write a first row such as file,mu [deg]"
        )
    if not rows:
        raise SourceError(path, "names columns but has no rows", "give the table of the motor positions")
    names, units = [], []
    for word in header:
        found = NAME.fullmatch(word)
        names.append(found["name"] if found else word)
        units.append(found["unit"] if found else "")
    twice = next((name for name in names if name and names.count(name) > 1), None)
    if twice:
        raise SourceError(path, f"has two columns {twice!r}", "give each column a different name")
    for line, cells in rows:
        if len(cells) != len(names):
            raise SourceError(
                path,
                f"line {line} has {len(cells)} cells, but the first row names {len(names)} columns",
                "correct the line",
            )
    columns = {name: [cells[k] for _, cells in rows] for k, name in enumerate(names) if name}
    for name, cells in columns.items():
        commas = [k for k, cell in enumerate(cells) if DECIMAL_COMMA.fullmatch(cell)]
        points = separator == "," or any("." in cell and not math.isnan(number(cell)) for cell in cells)
        if commas and points and all(map(THOUSANDS.fullmatch, (cells[k] for k in commas))):
            fault = f"column {name} contains {cells[commas[0]]} in line {rows[commas[0]][0]}: thousands or decimals?"
            raise SourceError(path, fault, "write numbers with a decimal point and no other separator")
    return Table(path, columns, dict(zip(names, units, strict=True)), [line for line, _ in rows])


def _text(path: str) -> str:
    try:
        with open(path, "rb") as file:
            data = file.read(LARGEST + 1)
    except OSError as error:
        raise SourceError(path, f"cannot be read ({error.strerror})", "check the path") from error
    if len(data) > LARGEST:
        raise SourceError(path, f"is larger than {LARGEST >> 20} MiB", "give the table of the motor positions")
    code = "utf-16" if data.startswith((b"\xff\xfe", b"\xfe\xff")) else "utf-8-sig"
    try:
        text = data.decode(code)
    except UnicodeError:
        text = data.decode("cp1252", "replace")  # units such as ° and µ in tables from spreadsheets
    if "\0" in text:
        raise SourceError(path, "is not a table of text", "save it as CSV")
    return text


def _rows(text: str) -> tuple[list[tuple[int, list[str]]], list[str], str]:
    """Line numbers and cells of all rows, the cells of the last comment before the rows, and the separator."""
    lines = [(k, line.strip("\r\n ")) for k, line in enumerate(text.splitlines(), 1)]
    kept = [(k, line) for k, line in lines if line.strip() and not line.lstrip().startswith("#")]
    if not kept:
        return [], [], ""
    separator = _separator([line for _, line in kept])
    before = [line.lstrip("# \t") for k, line in lines if line.startswith("#") and k < kept[0][0]]
    remarked = next(_cells(before[-1:], separator), []) if before else []
    cells = _cells([line for _, line in kept], separator)
    return list(zip((k for k, _ in kept), cells, strict=True)), remarked, separator


def _cells(lines: list[str], separator: str) -> Iterator[list[str]]:
    for line in lines:
        if separator == " ":
            line = " ".join(re.sub(r"\s+([\[(][^\])]*[\])])", r"\1", line).split())  # "mu [deg]" is one cell
        yield [printable(cell.strip()) for cell in next(csv.reader([line], delimiter=separator))]


def _separator(lines: list[str]) -> str:
    """The separator that splits most lines into as many cells as the first line."""

    def alike(separator: str) -> int:
        lengths = [len(cells) for cells in _cells(lines[:50], separator)]
        return sum(n == lengths[0] for n in lengths) if lengths[0] > 1 else 0

    return max(SEPARATORS, key=alike)
