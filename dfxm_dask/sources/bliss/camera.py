"""Recorded settings of camera and optics, which all layers of a stack must share, and the full well."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

import h5py
import numpy as np

from dfxm_dask.errors import SourceError
from dfxm_dask.sources.hdf5_links import Sources
from dfxm_dask.sources.source import Piece
from dfxm_dask.sources.units import base_unit

Settings = dict[str, str | float]
# Paths and modes of file writing, numbers of frames, and readings that change every time are not settings.
NO_SETTING = re.compile(
    r"saving|statistic|history|buffer|temperature|date|time_?stamp$|(^|/)(acq_)?nb_frames$|latency|dead_?time|live_?time"
    r"|directory|prefix|suffix|index|pixel_size|/(header|plot)$|file",
    re.IGNORECASE,
)
SMALL_ARRAY = re.compile(r"roi|region|bin|flip|offset|size|corner", re.IGNORECASE)
OPTICS = re.compile(r"magnif|objective|zoom|wavelength|energy|distance", re.IGNORECASE)
ELSEWHERE = ("positioners_", "fscan_parameters")  # positions of motors before and after, and the command
LIMA = ("detector_information", "acquisition", "image_operation")
DEPTHS = re.compile(r"(^|[/_])(bit_?depth(_readout)?|image_depth|depth|bpp|bits_per_pixel|image_type|image_lima_type)$")
BINNING = re.compile(r"bin(ning)?(?:[_/]?([xy]))?$")
LARGEST = 8


def setting(value: Any) -> str | float | None:
    """A value in the form for comparison and storage: a finite number, or text."""
    if isinstance(value, str):
        return value.strip()
    if isinstance(value, bool | np.bool_ | int | float | np.number):
        return float(value) if np.isfinite(value) else None
    if isinstance(value, np.ndarray) and value.dtype.kind in "fiub":
        return " ".join(f"{number:.10g}" for number in value.ravel().tolist())
    return None


def camera_settings(sources: Sources, entry: h5py.Group, detector: str, pieces: tuple[Piece, ...]) -> Settings:
    """Settings of the camera in the entry and in its first LIMA file, and of the optics, by name."""
    found: Settings = dict(_walk(sources, _reach(sources, entry, f"instrument/{detector}"), detector, 3))
    instrument = _reach(sources, entry, "instrument")
    if isinstance(instrument, h5py.Group):
        names: list[bytes] = []
        try:
            instrument.id.links.visit(names.append)  # opens no object, since there may be hundreds of motors
        except (OSError, RuntimeError, KeyError):
            names = []  # later reads raise the error
        for name in (n.decode("utf-8", "replace") for n in names):
            if name.count("/") < 2 and OPTICS.search(name) and not name.startswith((f"{detector}/", *ELSEWHERE)):
                found |= dict(_walk(sources, _reach(sources, instrument, name), name, 0, arrays=False))
    if pieces and pieces[0].file != sources.master.filename:
        found |= _lima(sources, pieces[0])
    return found


def _lima(sources: Sources, piece: Piece) -> Settings:
    """Settings that LIMA writes beside the frames."""
    found: Settings = {}
    file = sources.open_linked(sources.master, piece.file, what="a camera file", keep=False)
    entry = _reach(sources, file["/"], piece.dataset.strip("/").split("/")[0])
    for instrument in _groups(sources, entry):
        for camera in _groups(sources, instrument):
            for word in LIMA:
                for name, value in _walk(sources, _reach(sources, camera, word), word, 3):
                    found[f"camera file/{name}"] = value
    return found


def _groups(sources: Sources, parent: Any) -> list[h5py.Group]:
    inner = [_reach(sources, parent, name) for name in parent] if isinstance(parent, h5py.Group) else []
    return [group for group in inner if isinstance(group, h5py.Group)]


def _reach(sources: Sources, parent: h5py.Group, name: str) -> Any:
    """An optional object, or None; a broken link counts as absent."""
    try:
        return sources.find(parent, name, keep=False)
    except SourceError:
        return None


def _walk(
    sources: Sources, here: Any, path: str, depth: int, *, arrays: bool = True
) -> Iterator[tuple[str, str | float]]:
    """Small values below a group, with their paths; numbers in base units."""
    if isinstance(here, h5py.Group):
        for name in here if depth else ():
            if not NO_SETTING.search(f"/{name}"):
                yield from _walk(sources, _reach(sources, here, name), f"{path}/{name}", depth - 1, arrays=arrays)
    elif isinstance(here, h5py.Dataset) and here.shape is not None and not here.is_virtual:
        if here.size == 1 or (arrays and here.size <= LARGEST and SMALL_ARRAY.search(path)):
            try:
                value = setting(sources.read(here))
                unit = sources.unit(here) if isinstance(value, float) else ""
            except SourceError:
                return
            if isinstance(value, float) and unit:
                value *= base_unit(unit)[1]
            if value is not None:
                yield path, value


def full_well(settings: Mapping[str, str | float], dtype: np.dtype[Any]) -> tuple[float, str]:
    """Counts of a pixel with a full well, NaN if unknown, and the source.

    Notes
    -----
    A recorded saturation value has priority. Next comes 2^b - 1 for a recorded depth of b bits, times the number of
    accumulated frames; then the largest value of an unsigned dtype. Sums of frames or pixels (signed integers,
    accumulation, binning) of unknown depth or number have no known level.
    """
    words = {name.rsplit("/", 1)[-1]: value for name, value in settings.items()}
    largest = float(np.iinfo(dtype).max)
    stated = words.get("saturation_value")
    if isinstance(stated, float) and 0 < stated <= largest:
        return stated, "saturation_value of the file"
    bits = next((b for name, value in settings.items() if DEPTHS.search(name) and (b := _bits(value))), None)
    summed = [value for name, value in words.items() if "accum" in f"{name} {value}".lower() and "mode" in name]
    number = words.get("acc_nb_frames")
    frames = float(number) if isinstance(number, float) and number >= 1 else None if summed else 1.0
    binned = [value for name, value in settings.items() if BINNING.search(name) and max(_bins(value)) > 1]
    if frames is None:
        return np.nan, "unknown: the number of accumulated frames is not recorded"
    if binned:
        return np.nan, f"unknown: pixels are binned ({binned[0]}), on the chip or as a sum"
    if bits:
        words_used = f"{bits} bit" + (f" x {frames:g} accumulated frames" if frames > 1 else "")
        return min((2.0**bits - 1) * frames, largest), f"recorded depth: {words_used}"
    if dtype.kind == "i" or frames > 1:
        return np.nan, "unknown: sums of frames without a recorded depth"
    return largest, f"largest value of {dtype}; the file records no depth of the camera"


def _bits(value: str | float) -> int | None:
    """Depth in bits: 12, "12", "Bpp12"; signed formats of sums ("Bpp32S") are not a depth of a camera."""
    number = re.fullmatch(r"(?:Bpp)?(\d+)(?:\.0)?", f"{value:g}" if isinstance(value, float) else value)
    return int(number[1]) if number and 6 <= int(number[1]) <= 32 else None


def _bins(value: str | float) -> list[int]:
    return [int(n) for n in re.findall(r"\d+", f"{value:g}" if isinstance(value, float) else value)] or [1]


def binning(settings: Mapping[str, str | float]) -> tuple[int, int]:
    """Number of camera pixels along y and x in one pixel of a frame; LIMA writes x before y.

    Examples
    --------
    >>> binning({"pco/binning": "1 2"}), binning({"pco/bin_y": 4.0}), binning({})
    ((2, 1), (4, 1), (1, 1))
    """
    bins = {"y": 1, "x": 1}
    for name, value in settings.items():
        if match := BINNING.search(name):
            numbers = _bins(value)
            along = {match[2]: numbers[0]} if match[2] else {"x": numbers[0], "y": numbers[-1]}
            bins |= {axis: number for axis, number in along.items() if number > 1}
    return bins["y"], bins["x"]
