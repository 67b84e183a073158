"""The file of each row of a table: from a column of names, from the numbers in names, or from positions in names."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path, PureWindowsPath

import numpy as np

from dfxm_dask.errors import SourceError
from dfxm_dask.sources.paths import inside, natural
from dfxm_dask.sources.readers import How
from dfxm_dask.sources.tables.frames import FRAME_NAMES, Stack, kind_of_frames, stack_of
from dfxm_dask.sources.tables.text import Table, number

FILE = ("file", "filename", "file_name", "image", "image_file", "path")
NUMBER = ("frame", "frame_index", "index", "page")
LISTED = 4
RENAME = "correct it, or rename the column if it does not number frames"
PADDED = re.compile(r"0\d+")
FLOAT = re.compile(r"(?<![\d.])[-+]?\d+(?:\.\d+)?")


def frames_of_folder(folder: str) -> list[str]:
    found = inside(os.path.abspath(folder), FRAME_NAMES)
    kinds = list(dict.fromkeys(map(kind_of_frames, found)))
    if len(kinds) != 1:
        there = f"contains frames of several kinds: {', '.join(kinds)}" if kinds else "contains no frames"
        raise SourceError(folder, there, "give the frames with a pattern, such as 'FOLDER/*.tif', and the table")
    return found


def rows_and_files(
    table: Table, named: list[str], how: How, asked: str
) -> tuple[np.ndarray, list[str], np.ndarray | None]:
    """Row of each file (several rows of a file are consecutive), the files, each once, and the number of rows of each;
    None without a column of file names."""
    column = file_column(table, named)
    if column is None:
        files = named or frames_of_folder(str(Path(table.path).parent))
        return *(_by_number(table, files, how, asked) or _by_names(table, files, asked)), None
    called: dict[str, list[str]] = {}
    for file in named:
        for short in {os.path.basename(file), _stem(file)}:
            called.setdefault(short, []).append(file)
    files = [_located(text, table, called, how, asked, k) for k, text in enumerate(table.columns[column])]
    once = list(dict.fromkeys(files))
    nth = {f: k for k, f in enumerate(once)}
    unnamed = [f for f in named if f not in nth]
    if unnamed:
        raise SourceError(
            asked,
            f"has no row for {len(unnamed)} frames: {_names(unnamed)}",
            "add their rows, or select only the frames of the table",
        )
    place = np.array([nth[f] for f in files])
    order, each = np.argsort(place, kind="stable"), np.bincount(place)
    word = table.column(*NUMBER)
    if word is not None and len(once) < len(files):
        values = _whole(table, word, asked)
        order = np.lexsort((values, place))
        odd = np.flatnonzero((np.diff(values[order]) != 1) & (np.diff(place[order]) == 0))
        if odd.size:
            raise SourceError(
                asked,
                f"column {word} does not count the frames of {os.path.basename(once[place[order[odd[0]]]])} one by one:"
                f" line {table.lines[order[odd[0] + 1]]} contains {values[order[odd[0] + 1]]:g}",
                RENAME,
            )
    return order, once, each


def file_column(table: Table, named: Sequence[str]) -> str | None:
    """The column with the frame of each row, recognised by its name, or by names of these frames in it."""
    column = table.column(*FILE)
    if column is not None and table.numbers(column) is None:
        return column
    stems = {_stem(f) for f in named or inside(Path(table.path).parent, FRAME_NAMES)}
    return next((name for name, cells in table.columns.items() if _name_frames(cells, stems)), None)


def _name_frames(cells: Sequence[str], stems: set[str]) -> bool:
    found = {_stem(PureWindowsPath(cell).name) for cell in cells}
    return found <= stems and not all(map(FLOAT.fullmatch, found))


def _whole(table: Table, word: str, asked: str) -> np.ndarray:
    """Numbers of frames in a column.

    Raises
    ------
    SourceError
        A cell is not a whole number.
    """
    values = np.array([number(text) for text in table.columns[word]])
    if not (values == np.round(values)).all():
        row = int(np.flatnonzero(values != np.round(values))[0])
        cell = table.columns[word][row] or "nothing"
        fault = f"column {word} contains {cell} in line {table.lines[row]}, not a frame number"
        raise SourceError(asked, fault, RENAME)
    return values


def _located(text: str, table: Table, called: dict[str, list[str]], how: How, asked: str, row: int) -> str:
    """The file of a row: one of the given files, by name, or a file beside the table."""
    base = PureWindowsPath(text).name if "\\" in text else os.path.basename(text)
    alike = called.get(base, [])
    folder = Path(table.path).parent
    relative = text if "\\" not in text else base
    if len(alike) == 1:
        other = folder / relative
        if base != relative and other.is_file() and not other.samefile(alike[0]):
            raise SourceError(
                asked,
                f"line {table.lines[row]} names {other}, but the given frames include {alike[0]}",
                "give the folders of all frames of the table, or only the table",
            )
        return alike[0]
    for place in (folder / relative, folder / base, *(Path(root) / base for root in how.roots)):
        real = Path(os.path.realpath(place))
        allowed = [Path(os.path.realpath(r)) for r in (folder, *how.roots)]
        if os.path.lexists(place) and not any(real.is_relative_to(root) for root in allowed):
            raise SourceError(
                asked,
                f"line {table.lines[row]} leads to {real}, outside the declared folders",
                "declare its folder with --root",
            )
        if os.path.isfile(real) and base:
            return str(real)
    raise SourceError(
        asked,
        f"line {table.lines[row]} names the frame {text!r}, which is missing",
        "restore it, remove its row, or give the folder of the frames with the table",
    )


def _stem(file: str) -> str:
    """Name of a file without its ending, which may contain a digit."""
    base = os.path.basename(file)
    return next((base[: -len(end)] for end in FRAME_NAMES if base.lower().endswith(end)), base)


def _names(files: Sequence[str]) -> str:
    return ", ".join(map(os.path.basename, files[:LISTED])) + (", ..." if len(files) > LISTED else "")


def _by_names(table: Table, files: list[str], asked: str) -> tuple[np.ndarray, list[str]]:
    """Row of each file, and the files, by the number in their names: a position in the row, or the row number."""
    counted, (told, fraction) = _counted(files), _by_positions(table, files)
    if counted and told and counted != told and not fraction:
        raise SourceError(
            asked,
            f"has numbers in names of frames that are positions of a column in a different order: {_names(told)}",
            "add a column 'file' with the frame of each row",
        )
    order = told or counted
    if order is None:
        raise SourceError(
            asked,
            f"names of frames do not number them consecutively: {_names(sorted(files, key=natural))}",
            "restore missing frames, or add a column 'file' with the frame of each row",
        )
    return np.arange(len(table)), order


def _by_number(table: Table, files: list[str], how: How, asked: str) -> tuple[np.ndarray, list[str]] | None:
    """Row of each file by a column that numbers the frames, and the files; None without this column."""
    word = table.column(*NUMBER) or table.column(*FILE)
    if word is None:
        return None
    values = _whole(table, word, asked)
    _, first = np.unique(values, return_index=True)
    if len(first) < len(values):
        row = int(np.setdiff1d(np.arange(len(values)), first)[0])
        fault = f"column {word} has the number {values[row]:g} in two rows, the second in line {table.lines[row]}"
        raise SourceError(asked, fault, RENAME)
    rows, counted = np.argsort(values), sorted(int(v) for v in values)
    numbers = _numbers(files)
    if numbers is not None and sorted(numbers) == counted:
        return rows, [f for _, f in sorted(zip(numbers, files, strict=True))]
    order = _counted(files)
    if how.allow_partial and numbers is not None and min(numbers) != counted[0] and 1 < len(files) < len(counted):
        order = None  # only equal numbers identify lost frames
    if order is not None and counted == list(range(counted[0], counted[0] + len(counted))):
        return rows, order
    raise SourceError(
        asked,
        f"column {word} numbers frames from {counted[0]} to {counted[-1]}, but the names of {len(files)} files do not",
        "restore missing frames, or add a column 'file' with the frame of each row",
    )


def _numbers(files: list[str]) -> list[int] | None:
    """The last number in the name of each file, if names differ in nothing else."""
    found = [re.fullmatch(r"(.*?)(\d+)(\D*)", _stem(f)) for f in files]
    if any(m is None for m in found) or len({(m[1], m[3]) for m in found if m}) > 1:
        return None
    return [int(m[2]) for m in found if m]


def _counted(files: list[str]) -> list[str] | None:
    """Files in the order of the last number of their names; None unless this number is consecutive."""
    if len(files) == 1:
        return files
    numbers = _numbers(files)
    if numbers is None or sorted(numbers) != list(range(min(numbers), min(numbers) + len(numbers))):
        return None
    return [f for _, f in sorted(zip(numbers, files, strict=True))]


def _by_positions(table: Table, files: list[str]) -> tuple[list[str] | None, bool]:
    """Files in the order of the rows, by a motor position in their names, or None if no column has just these numbers;
    and whether the number has a decimal point, unlike numbers of frames."""
    if len(files) != len(table):
        return None, False
    fields = [FLOAT.findall(_stem(f)) for f in files]
    for column in table.columns:
        values = table.numbers(column)
        if values is None:
            continue
        for k in range(min(map(len, fields))):
            texts = [words[k] for words in fields]
            if any(map(PADDED.fullmatch, texts)):
                continue  # this is the number of the frame
            digits = [len(text.partition(".")[2]) for text in texts]
            at = {(round(float(text), n), n): f for text, n, f in zip(texts, digits, files, strict=True)}
            wanted = [{at[round(float(v), n), n] for n in set(digits) if (round(float(v), n), n) in at} for v in values]
            if all(len(some) == 1 for some in wanted) and len(set.union(*wanted)) == len(files) == len(at):
                return [some.pop() for some in wanted], all(digits)
    return None, False


def stacks(files: Sequence[str], how: How, asked: str) -> list[Stack]:
    """Frames of all files, which must have one shape and dtype."""
    lost = [f for f in files if not os.path.isfile(f)]
    empty = [f for f in files if f not in lost and os.stat(f).st_size == 0]
    for some, what in ((lost, "missing"), (empty, "empty")):
        if some:
            verb = "is" if len(some) == 1 else "are"
            raise SourceError(
                asked,
                f"{len(some)} of {len(files)} files {verb} {what}: {_names(some)}",
                "restore them, or add a column 'file' and remove the rows of these frames",
            )
    stacks = [stack_of(f, how.detector, how.roots, asked) for f in files]
    first = stacks[0]
    odd = next((s for s in stacks if (s.shape, s.dtype) != (first.shape, first.dtype)), None)
    if odd is not None:
        raise SourceError(
            asked,
            f"{odd.file} has frames of {odd.shape[0]} x {odd.shape[1]} of {odd.dtype}, but {first.file} of "
            f"{first.shape[0]} x {first.shape[1]} of {first.dtype}",
            "select the frames of one scan",
        )
    return stacks
