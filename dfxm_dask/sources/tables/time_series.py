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
from dfxm_dask.sources.bliss.camera import full_well
from dfxm_dask.sources.paths import natural
from dfxm_dask.sources.readers import How
from dfxm_dask.sources.source import Axis, Piece, Scan
from dfxm_dask.sources.tables.files import frames_of_folder, stacks
from dfxm_dask.sources.tables.frames import FRAME_NAMES, frames_in, kind_of_frames

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
    """The last number in the name of each file from the first on, or None if it does not count the files."""
    last = [re.findall(r"\d+", Path(file).stem)[-1:] for file in files]
    if not all(last):
        return None
    numbers = np.array([int(found[0]) for found in last])
    return numbers - numbers[0] if (np.diff(numbers) > 0).all() else None


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
    found = stacks(files, how, asked)
    count = sum(stack.count for stack in found)
    number, remarks = np.arange(count), []
    numbers = _numbers(files) if count == len(files) else None
    if numbers is not None and numbers[-1] >= count:
        gap = int(np.argmax(np.diff(numbers) > 1))
        lost = f"{numbers[-1] + 1 - count} frames are missing, the first after {os.path.basename(files[gap])}"
        if not how.allow_partial:
            raise SourceError(asked, lost, "restore the files, or leave gaps in the time axis with --allow-partial")
        number = numbers
        remarks.append(lost)
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
        remarks=tuple(remarks),
    )
