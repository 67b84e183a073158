"""Time series without a record of motors or times: TIFF, EDF or LIMA HDF5 frames at equal time steps.

The user gives the time step. Frames follow the numbers in the names of their files, which count the time: a missing
file leaves a gap in the time axis.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from dfxm_dask.errors import InputError, SourceError
from dfxm_dask.sources import edf
from dfxm_dask.sources.bliss import master as bliss
from dfxm_dask.sources.bliss.camera import full_well
from dfxm_dask.sources.bliss.command import parse_title
from dfxm_dask.sources.paths import inside, natural
from dfxm_dask.sources.readers import How
from dfxm_dask.sources.source import Axis, Piece, Scan
from dfxm_dask.sources.tables.files import frames_of_folder, stacks
from dfxm_dask.sources.tables.frames import FRAME_NAMES, frames_in, kind_of_frames
from dfxm_dask.sources.tables.text import TABLE_NAMES

name = "time_series"
summary = "TIFF, EDF or LIMA HDF5 frames without motors or times, at equal steps of time (--time-step)"
narrows: tuple[str, ...] = ()
frames = frames_in


def matches(paths: Sequence[str]) -> bool:
    """Never: only the time step, which the user gives, shows that frames are a time series."""
    return False


def sources(paths: Sequence[str]) -> list[list[str]]:
    """All files and folders are one series."""
    return [list(paths)]


def scans(paths: Sequence[str], roots: tuple[Path, ...] = ()) -> list[tuple[str, str]]:
    """One series."""
    return [("1.1", f"time series in {len(_files(paths))} files")]


def _files(paths: Sequence[str]) -> list[str]:
    """Files of frames in natural order, each once."""
    found: list[str] = []
    for path in paths:
        found += frames_of_folder(path) if os.path.isdir(path) else [os.path.abspath(path)]
    other = next((file for file in found if not file.lower().endswith(FRAME_NAMES)), None)
    if other:
        raise SourceError(other, "is not a file of frames", f"give files of {', '.join(FRAME_NAMES)}")
    return sorted(dict.fromkeys(found), key=natural)


def _numbers(files: Sequence[str]) -> np.ndarray | None:
    """The number in the names that counts the files, from the first file on; None if no number counts them."""
    every = [re.findall(r"\d+", Path(file).stem) for file in files]
    if len({len(found) for found in every}) != 1:
        return None
    numbers = np.array([[int(word) for word in found] for found in every], np.float64)
    counts = np.flatnonzero((np.diff(numbers, axis=0) > 0).all(axis=0))
    return (numbers[:, counts[-1]] - numbers[0, counts[-1]]).astype(np.int64) if len(counts) else None


def _frame_numbers(files: Sequence[str], counts: Sequence[int], partial: bool, asked: str) -> tuple[np.ndarray, str]:
    """Number of each frame in the series, and a remark on missing files.

    Raises
    ------
    SourceError
        Missing files, unless ``partial``; or files of unequal length beside a gap.
    """
    total = sum(counts)
    numbers = _numbers(files)
    first = np.cumsum([0, *counts[:-1]])
    if numbers is None or numbers[-1] < len(files) or (numbers == first).all():  # a name may give the first frame
        return np.arange(total), ""
    gap = int(np.argmax(np.diff(numbers) > 1))
    after = os.path.basename(files[gap])
    if len(set(counts[:-1])) > 1 or counts[-1] > counts[0]:
        lost = f"lacks a file after {after}, and the other files have unequal numbers of frames"
        raise SourceError(asked, lost, "restore the files")
    number = np.concatenate([k * counts[0] + np.arange(n) for k, n in zip(numbers, counts, strict=True)])
    lacking = number[-1] + 1 - total
    lost = f"{lacking} {'frame is' if lacking == 1 else 'frames are'} missing, the first after {after}"
    if not partial:
        raise SourceError(asked, lost, "restore the files, or leave gaps in the time axis with --allow-partial")
    return number, lost


def _refuse_record(paths: Sequence[str], files: Sequence[str]) -> None:
    """Refuse files that record motors or times themselves: a given time step would replace the record.

    Raises
    ------
    SourceError
    """
    for path in paths:
        for table in inside(path, TABLE_NAMES) if os.path.isdir(path) else ():
            advice = "omit --time-step, or give only the files of the frames"
            raise SourceError(path, f"contains the table {os.path.basename(table)}", advice)
    for file in files:
        if bliss.is_hdf5(file):
            entries = [title for entry, title in bliss.scans([file]) if re.fullmatch(r"\d+\.\d+", entry)]
            advice = "omit --time-step, or give the files of the camera"
        elif edf.matches([file]):
            entries = [title for _, title in edf.scans([file])]
            advice = "omit --time-step"
        else:
            continue
        command = next((title for title in entries if _known(title)), None)
        if command:
            raise SourceError(file, f"records the scan command {command[:60]!r}", advice)


def _known(title: str) -> bool:
    """Whether a title is a scan command."""
    try:
        parse_title(title, "")
    except SourceError:
        return False
    return True


def read(paths: Sequence[str], entry: str, how: How) -> Scan:
    """The series as a scan over time. ``entry`` is "1.1"."""
    how.refuse("scan_mode", "positions", "repeats")
    asked = f"{paths[0]} entry {entry}"
    if entry != "1.1":
        raise SourceError(asked, "does not exist", "omit --scan: the frames are one series")
    step = how.time_step
    if step is None or not (math.isfinite(step) and step > 0):
        raise InputError("time step", f"is {step}", "give the time between two frames in s, e.g. --time-step 0.25")
    files = _files(paths)
    _refuse_record(paths, files)
    found = stacks(files, how, asked)
    count = sum(stack.count for stack in found)
    number, lost = _frame_numbers(files, [stack.count for stack in found], how.allow_partial, asked)
    pieces, start = [], 0
    for piece in (piece for stack in found for piece in stack.pieces):
        pieces.append(Piece(piece.file, piece.dataset, piece.first, piece.count, start))
        start += piece.count
    words = "given: frame number times the time step; no time was recorded"
    axis = Axis("time", "", number * step, "s", 0.0, step, None, "given", words, {"units_source": "given"})
    well, well_source = full_well({}, found[0].dtype)
    return Scan(
        source=paths[0] if len(paths) == 1 else os.path.dirname(files[0]),
        entry=entry,
        title=f"time series of {count} frames",
        axes=(axis,),
        order=np.arange(count),
        frame_shape=found[0].shape,
        dtype=found[0].dtype,
        pieces=tuple(pieces),
        detector=how.detector or kind_of_frames(files[0]),
        z_note="the files record no motor",
        saturation=well,
        saturation_source=well_source,
        commanded=int(number[-1]) + 1,
        found=count,
        metadata={"command": "time series"},
        files=tuple(dict.fromkeys(file for stack in found for file in stack.files)),
        remarks=(lost,) if lost else (),
    )
