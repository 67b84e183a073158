"""Files of the simulator dfxm-geo (3.0.0): the layout of BLISS, with a group ``dfxm_geo`` beside the entries.

Positions of the frames are in degree (z in micrometer). Titles contain the ends of phi and chi in radian, to six
digits, with the fast axis phi first, and never two_dtheta and z. The grid therefore comes from the positions, and the
title is a check. A motor at rest is not an axis, even if the title lists it with one position: its position is recorded
among the parked motors.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import replace

import h5py
import numpy as np

from dfxm_dask.errors import SourceError
from dfxm_dask.sources.bliss.command import REWIND, Command, Drive
from dfxm_dask.sources.bliss.counters import per_frame
from dfxm_dask.sources.bliss.frames import hdf5_frames
from dfxm_dask.sources.bliss.master import is_hdf5, one_master, read_entry
from dfxm_dask.sources.bliss.master import scans as scans
from dfxm_dask.sources.bliss.master import sources as sources
from dfxm_dask.sources.hdf5_links import Sources, open_hdf5
from dfxm_dask.sources.readers import How
from dfxm_dask.sources.source import Beamline, Scan
from dfxm_dask.sources.units import factor_between

name = "dfxm-geo"
summary = "HDF5 files of the simulator dfxm-geo (dfxm_geo.h5), made with a detector model"
narrows = ("bliss",)
frames = hdf5_frames
GROUP = "dfxm_geo"
OWN_AXES = {"two_dtheta": "two_dtheta", "z": "z"}  # of motors absent from a beamline
ROUNDING = 0.6e-6  # of numbers in titles
SAME = 0.1  # of a step: tolerance between title and positions
NUMBERS = re.compile(r"(\w+)\s+(-?[\d.]+(?:e[-+]?\d+)?)\s+(-?[\d.]+(?:e[-+]?\d+)?)\s+(\d+)")


def matches(paths: Sequence[str]) -> bool:
    """Whether all are HDF5 files of dfxm-geo."""
    return all(map(_is_geo, paths))


def _is_geo(path: str) -> bool:
    if not is_hdf5(path):
        return False
    try:
        with open_hdf5(path, path) as file:
            return GROUP in file
    except (SourceError, OSError, RuntimeError):
        return False


def read(paths: Sequence[str], entry: str, how: How) -> Scan:
    """One entry of a file of dfxm-geo."""
    how = replace(how, beamline=_own_motors(how.beamline))
    try:
        scan = read_entry(one_master(paths), entry, how, _command)
    except SourceError as error:
        if "not counts" not in error.found:
            raise
        remedy = "add a [detector] with a camera model to the configuration of dfxm-geo, and simulate again"
        raise SourceError(error.asked, error.found, remedy) from error
    if scan.exposure is not None:
        scan = replace(scan, exposure_source="exposure_time of the camera model, the same for every frame")
    if how.positions is None and scan.title.startswith("fscan") and (words := _title_words(scan)):
        for axis in scan.axes:
            axis.attrs["title_read_as"] = words
    return scan


def _own_motors(line: Beamline) -> Beamline:
    """The beamline with the additional motors of the simulator."""
    taken = {motor for motors in line.motors.values() for motor in motors}
    motors = dict(line.motors)
    for motor, axis in OWN_AXES.items():
        if motor not in taken:
            motors[axis] = [*motors.get(axis, []), motor]
    return line.model_copy(update={"motors": motors})


def _command(found: Sources, entry: h5py.Group, how: How) -> Command:
    """The grid of the positions; with ``positions="command"`` the grid of the title, in rad."""
    moved = _moved(found, entry)
    drives = _drives(moved, found.asked)
    title = found.value(entry, "title")
    spelled = {
        m: (float(a), float(b), int(n)) for m, a, b, n in NUMBERS.findall(title if isinstance(title, str) else "")
    }
    if how.positions is None:
        _check_title(drives, spelled, moved, found.asked)
    if how.positions == "command":
        drives = tuple(_titled(drive, spelled, moved, found.asked) for drive in drives)
    count = math.prod(drive.count for drive in drives)
    return Command("fscan2d" if len(drives) > 1 else "fscan", drives, count, REWIND, _exposure(found, entry))


def _moved(found: Sources, entry: h5py.Group) -> dict[str, tuple[np.ndarray, str]]:
    """Positions of the motors with one position per frame, and their units; only phi if no motor moves."""
    group = found.find(entry, "instrument/positioners")
    read: dict[str, tuple[np.ndarray, str]] = {}
    for motor in group if isinstance(group, h5py.Group) else ():
        dataset = found.find(group, motor)
        values = per_frame(np.atleast_1d(np.asarray(found.read(dataset))))
        if values is None or not np.isfinite(values).all():
            raise SourceError(
                found.asked, f"motor {motor} has positions that are not numbers", "simulate the scan again"
            )
        read[motor] = values.astype(float), found.unit(dataset)
    moved = {motor: (v, unit) for motor, (v, unit) in read.items() if v.size > 1 and np.ptp(v) > 0}
    if not moved and "phi" in read:
        moved = {"phi": (read["phi"][0][:1], read["phi"][1])}
    if not moved:
        raise SourceError(found.asked, "has no positions of motors (instrument/positioners)", "simulate the scan again")
    if "z" in moved:
        raise SourceError(
            found.asked,
            "scans z, which moves the layer",
            "simulate each layer in a separate file: [scan.z] value = ...",
        )
    if len(moved) > 2:
        raise SourceError(
            found.asked, f"scans {len(moved)} motors: {', '.join(moved)}", "simulate one or two scanned motors per file"
        )
    return moved


def _drives(moved: dict[str, tuple[np.ndarray, str]], asked: str) -> tuple[Drive, ...]:
    """The grid of positions, slow motor first.

    Raises
    ------
    SourceError
        Positions that do not form consecutive rows.
    """
    if len({v.size for v, _ in moved.values()}) > 1:
        sizes = ", ".join(f"{motor} {v.size}" for motor, (v, _) in moved.items())
        raise SourceError(asked, f"motors have different numbers of positions: {sizes}", "simulate the scan again")
    order = sorted(moved, key=lambda motor: int(np.count_nonzero(np.diff(moved[motor][0]))))
    places = []
    for motor in order:
        values = moved[motor][0]
        places.append(values[np.sort(np.unique(values, return_index=True)[1])])
    whole = [p.ravel() for p in np.meshgrid(*places, indexing="ij")]
    if any(not np.array_equal(p, moved[motor][0]) for p, motor in zip(whole, order, strict=False)):
        listed = " x ".join(f"{motor} ({len(p)})" for motor, p in zip(order, places, strict=True))
        raise SourceError(asked, f"the positions do not form a grid of {listed}", "simulate the scan again")
    return tuple(
        Drive(motor, float(p[0]), float(p[-1] - p[0]) / max(len(p) - 1, 1), len(p))
        for motor, p in zip(order, places, strict=True)
    )


def _check_title(
    drives: Sequence[Drive],
    spelled: dict[str, tuple[float, float, int]],
    moved: dict[str, tuple[np.ndarray, str]],
    asked: str,
) -> None:
    for drive in (d for d in drives if d.motor in spelled):
        start, end, count = spelled[drive.motor]
        unit = moved[drive.motor][1]
        factor = factor_between("rad", unit) or 1.0
        last = drive.start + drive.step * (drive.count - 1)
        off = np.abs(np.array([start, end]) * factor - [drive.start, last])
        if count != drive.count or off.max() > ROUNDING * factor + SAME * abs(drive.step):
            raise SourceError(
                asked,
                f"title moves {drive.motor} from {start:g} to {end:g} rad in {count} positions, but the motor was at "
                f"{drive.count} positions from {drive.start:g} to {last:g} {unit}",
                "use --positions motor or --positions command, whichever is correct",
            )


def _titled(
    drive: Drive, spelled: dict[str, tuple[float, float, int]], moved: dict[str, tuple[np.ndarray, str]], asked: str
) -> Drive:
    """A drive according to the title."""
    if drive.motor not in spelled:
        raise SourceError(asked, f"title does not contain the motion of {drive.motor}", "use --positions motor")
    start, end, count = spelled[drive.motor]
    factor = factor_between("rad", moved[drive.motor][1]) or 1.0
    return Drive(drive.motor, start * factor, (end - start) * factor / max(count - 1, 1), count)


def _title_words(scan: Scan) -> str:
    """Reading of the title, for provenance."""
    spelled = {found[0] for found in NUMBERS.findall(scan.title)}
    if not any(axis.motor in spelled for axis in scan.axes):
        return ""
    words = "its numbers are in rad; its third number is the end, not the step"
    return words + ("; its first motor is the fast one" if len(scan.axes) > 1 else "")


def _exposure(found: Sources, entry: h5py.Group) -> float | None:
    """Exposure of the camera model in s; the last number of a title has no meaning."""
    instrument = found.find(entry, "instrument")
    for camera in instrument if isinstance(instrument, h5py.Group) else ():
        data = found.find(entry, f"instrument/{camera}/data")
        value = data.attrs.get("exposure_time") if isinstance(data, h5py.Dataset) else None
        if isinstance(value, int | float | np.number) and value > 0:
            return float(value)
    return None
