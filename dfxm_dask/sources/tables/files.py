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
from dfxm_dask.sources.tables.text import Table

FILE = ("file", "filename", "file_name", "image", "image_file", "path")
NUMBER = ("frame", "frame_index", "index", "page")
LISTED = 4
FLOAT = re.compile(r"(?<![\d.])[-+]?\d+(?:\.\d+)?")


def frames_of_folder(folder: str) -> list[str]:
    found = inside(os.path.abspath(folder), FRAME_NAMES)
    kinds = list(dict.fromkeys(map(kind_of_frames, found)))
    if len(kinds) != 1:
        there = f"holds frames of several kinds: {', '.join(kinds)}" if kinds else "holds no frames"
        raise SourceError(folder, there, "name the frames by a pattern, such as 'FOLDER/*.tif', and the table")
    return found


def rows_and_files(table: Table, named: list[str], how: How, asked: str) -> tuple[np.ndarray, list[str]]:
    """Row of each file (several rows of a file follow each other), and the files, each once."""
    column = table.column(*FILE)
    every = np.arange(len(table))
    if column is None:
        files = named or frames_of_folder(str(Path(table.path).parent))
        if (numbered := _by_number(table, files, asked)) is not None:
            return numbered
        order = _counted(files) or _by_positions(table, files)
        if order is None:
            raise SourceError(
                asked,
                f"names of frames do not count them one by one: {_names(sorted(files, key=natural))}",
                "restore frames that are missing, or name the frame of each row in a column 'file'",
            )
        return every, order
    files = [_located(text, table, named, how, asked, k) for k, text in enumerate(table.columns[column])]
    unnamed = [f for f in named if f not in files]
    if unnamed:
        raise SourceError(
            asked,
            f"{len(unnamed)} frames are in no row: {_names(unnamed)}",
            "add their rows, or name the frames of the table alone",
        )
    once = list(dict.fromkeys(files))
    if (
        len(once) < len(files)
        and (number := table.column(*NUMBER)) is not None
        and ((values := table.numbers(number)) is not None)
    ):
        every = np.lexsort((values, np.array([once.index(f) for f in files])))
    else:
        every = np.argsort([once.index(f) for f in files], kind="stable")
    return every, once


def _located(text: str, table: Table, named: list[str], how: How, asked: str, row: int) -> str:
    """The file that a row names: one of those that the user named, or beside the table."""
    base = PureWindowsPath(text).name if "\\" in text else os.path.basename(text)
    alike = [f for f in named if os.path.basename(f) == base]
    if len(alike) == 1:
        return alike[0]
    folder = Path(table.path).parent
    relative = text if "\\" not in text else base
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


def _by_number(table: Table, files: list[str], asked: str) -> tuple[np.ndarray, list[str]] | None:
    """Row of each file by a column that numbers the frames, and the files; None without such a column."""
    word = table.column(*NUMBER)
    values = table.numbers(word) if word else None
    if values is None or len(set(values.tolist())) < len(values) or not (values == np.round(values)).all():
        return None
    rows, counted = np.argsort(values), sorted(int(v) for v in values)
    numbers = _numbers(files)
    if numbers is not None and sorted(numbers) == counted:
        return rows, [f for _, f in sorted(zip(numbers, files, strict=True))]
    order = _counted(files)
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


def _by_positions(table: Table, files: list[str]) -> list[str] | None:
    """Files in the order of the rows, by a number in their names that is the position of a motor; None where no column
    has just these numbers."""
    if len(files) != len(table):
        return None
    fields = [FLOAT.findall(_stem(f)) for f in files]
    for column in table.columns:
        values = table.numbers(column)
        if values is None:
            continue
        for k in range(min(map(len, fields))):
            texts = [words[k] for words in fields]
            digits = [len(text.partition(".")[2]) for text in texts]
            at = {(round(float(text), n), n): f for text, n, f in zip(texts, digits, files, strict=True)}
            wanted = [{at[round(float(v), n), n] for n in set(digits) if (round(float(v), n), n) in at} for v in values]
            if all(len(some) == 1 for some in wanted) and len(set.union(*wanted)) == len(files) == len(at):
                return [some.pop() for some in wanted]
    return None


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
