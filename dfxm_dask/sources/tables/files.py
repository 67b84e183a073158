"""Which file a row of a table belongs to: by a column that names it, by the number that names count, or by a position
in its name."""

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
RENAME = "correct it, or give a column that numbers no frames another name"
PADDED = re.compile(r"0\d+")
FLOAT = re.compile(r"(?<![\d.])[-+]?\d+(?:\.\d+)?")


def frames_of_folder(folder: str) -> list[str]:
    found = inside(os.path.abspath(folder), FRAME_NAMES)
    kinds = list(dict.fromkeys(map(kind_of_frames, found)))
    if len(kinds) != 1:
        there = f"holds frames of several kinds: {', '.join(kinds)}" if kinds else "holds no frames"
        raise SourceError(folder, there, "name the frames by a pattern, such as 'FOLDER/*.tif', and the table")
    return found


def rows_and_files(
    table: Table, named: list[str], how: How, asked: str
) -> tuple[np.ndarray, list[str], np.ndarray | None]:
    """Row of each file (several rows of a file follow each other), the files, each once, and how many rows name each of
    them; None where no column names files."""
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
            f"{len(unnamed)} frames are in no row: {_names(unnamed)}",
            "add their rows, or name the frames of the table alone",
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
                f" line {table.lines[order[odd[0] + 1]]} holds {values[order[odd[0] + 1]]:g}",
                RENAME,
            )
    return order, once, each


def file_column(table: Table, named: Sequence[str]) -> str | None:
    """The column that names the frame of each row: by its own name, or because it holds names of these frames."""
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
        A cell is no whole number.
    """
    values = np.array([number(text) for text in table.columns[word]])
    if not (values == np.round(values)).all():
        row = int(np.flatnonzero(values != np.round(values))[0])
        fault = (
            f"column {word} holds {table.columns[word][row] or 'nothing'} in line {table.lines[row]}, no frame number"
        )
        raise SourceError(asked, fault, RENAME)
    return values


def _located(text: str, table: Table, called: dict[str, list[str]], how: How, asked: str, row: int) -> str:
    """The file that a row names: one of those that the user named, by their names, or beside the table."""
    base = PureWindowsPath(text).name if "\\" in text else os.path.basename(text)
    alike = called.get(base, [])
    folder = Path(table.path).parent
    relative = text if "\\" not in text else base
    if len(alike) == 1:
        other = folder / relative
        if base != relative and other.is_file() and not other.samefile(alike[0]):
            raise SourceError(
                asked,
                f"line {table.lines[row]} names {other}, and the frames named beside the table hold {alike[0]}",
                "name the folders of all frames of the table, or the table alone",
            )
        return alike[0]
    for place in (folder / relative, folder / base, *(Path(root) / base for root in how.roots)):
        real = Path(os.path.realpath(place))
        allowed = [Path(os.path.realpath(r)) for r in (folder, *how.roots)]
        if os.path.lexists(place) and not any(real.is_relative_to(root) for root in allowed):
            raise SourceError(asked, f"line {table.lines[row]} leads to {real}", "declare its folder with --root")
        if os.path.isfile(real) and base:
            return str(real)
    raise SourceError(
        asked,
        f"line {table.lines[row]} names the frame {text!r}, which is missing",
        "restore it, remove its row, or name the folder of the frames beside the table",
    )


def _stem(file: str) -> str:
    """Name of a file without its ending, which may hold a digit."""
    base = os.path.basename(file)
    return next((base[: -len(end)] for end in FRAME_NAMES if base.lower().endswith(end)), base)


def _names(files: Sequence[str]) -> str:
    return ", ".join(map(os.path.basename, files[:LISTED])) + (", ..." if len(files) > LISTED else "")


def _by_names(table: Table, files: list[str], asked: str) -> tuple[np.ndarray, list[str]]:
    """Row of each file, and the files, by the number in their names: a position of the row, or a count of the rows."""
    counted, (told, fraction) = _counted(files), _by_positions(table, files)
    if counted and told and counted != told and not fraction:
        raise SourceError(
            asked,
            f"numbers in names of frames are positions of a column in another order: {_names(told)}",
            "name the frame of each row in a column 'file'",
        )
    order = told or counted
    if order is None:
        raise SourceError(
            asked,
            f"names of frames do not count them one by one: {_names(sorted(files, key=natural))}",
            "restore frames that are missing, or name the frame of each row in a column 'file'",
        )
    return np.arange(len(table)), order


def _by_number(table: Table, files: list[str], how: How, asked: str) -> tuple[np.ndarray, list[str]] | None:
    """Row of each file by a column that numbers the frames, and the files; None without such a column."""
    word = table.column(*NUMBER) or table.column(*FILE)
    if word is None:
        return None
    values = _whole(table, word, asked)
    _, first = np.unique(values, return_index=True)
    if len(first) < len(values):
        row = int(np.setdiff1d(np.arange(len(values)), first)[0])
        fault = f"column {word} numbers two rows {values[row]:g}, the second in line {table.lines[row]}"
        raise SourceError(asked, fault, RENAME)
    rows, counted = np.argsort(values), sorted(int(v) for v in values)
    numbers = _numbers(files)
    if numbers is not None and sorted(numbers) == counted:
        return rows, [f for _, f in sorted(zip(numbers, files, strict=True))]
    order = _counted(files)
    if how.allow_partial and numbers is not None and min(numbers) != counted[0] and 1 < len(files) < len(counted):
        order = None  # which frames are lost, only equal numbers tell
    if order is not None and counted == list(range(counted[0], counted[0] + len(counted))):
        return rows, order
    raise SourceError(
        asked,
        f"column {word} numbers frames from {counted[0]} to {counted[-1]}, names of {len(files)} files do not count so",
        "restore frames that are missing, or name the frame of each row in a column 'file'",
    )


def _numbers(files: list[str]) -> list[int] | None:
    """The last number in the name of each file, where names differ in nothing else."""
    found = [re.fullmatch(r"(.*?)(\d+)(\D*)", _stem(f)) for f in files]
    if any(m is None for m in found) or len({(m[1], m[3]) for m in found if m}) > 1:
        return None
    return [int(m[2]) for m in found if m]


def _counted(files: list[str]) -> list[str] | None:
    """Files in the order that the last number of their names counts; None where it does not count them one by one."""
    if len(files) == 1:
        return files
    numbers = _numbers(files)
    if numbers is None or sorted(numbers) != list(range(min(numbers), min(numbers) + len(numbers))):
        return None
    return [f for _, f in sorted(zip(numbers, files, strict=True))]


def _by_positions(table: Table, files: list[str]) -> tuple[list[str] | None, bool]:
    """Files in the order of the rows, by a number in their names that is the position of a motor, None where no column
    has just these numbers; and whether it has a decimal point, as numbers that count frames do not."""
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
                continue  # this number counts frames
            digits = [len(text.partition(".")[2]) for text in texts]
            at = {(round(float(text), n), n): f for text, n, f in zip(texts, digits, files, strict=True)}
            wanted = [{at[round(float(v), n), n] for n in set(digits) if (round(float(v), n), n) in at} for v in values]
            if all(len(some) == 1 for some in wanted) and len(set.union(*wanted)) == len(files) == len(at):
                return [some.pop() for some in wanted], all(digits)
    return None, False


def stacks(files: Sequence[str], how: How, asked: str) -> list[Stack]:
    """Frames of all files, which must be alike."""
    lost = [f for f in files if not os.path.isfile(f)]
    empty = [f for f in files if f not in lost and os.stat(f).st_size == 0]
    for some, what in ((lost, "missing"), (empty, "empty")):
        if some:
            verb = "is" if len(some) == 1 else "are"
            raise SourceError(
                asked,
                f"{len(some)} of {len(files)} files {verb} {what}: {_names(some)}",
                "restore them, or name the frames in a column 'file' and remove the rows of these",
            )
    stacks = [stack_of(f, how.detector, how.roots, asked) for f in files]
    first = stacks[0]
    odd = next((s for s in stacks if (s.shape, s.dtype) != (first.shape, first.dtype)), None)
    if odd is not None:
        raise SourceError(
            asked,
            f"{odd.file} has frames of {odd.shape[0]} x {odd.shape[1]} of {odd.dtype}, {first.file} of "
            f"{first.shape[0]} x {first.shape[1]} of {first.dtype}",
            "name the frames of one scan alone",
        )
    return stacks
