"""The camera of an entry, found by the shape of its data; links and copies of its frames count once."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from contextlib import suppress

import h5py
import numpy as np

from dfxm_dask.errors import SourceError
from dfxm_dask.schema import nearest, printable
from dfxm_dask.sources.hdf5_links import Sources

COUNTS = ("uint8", "uint16", "uint32")
SIGNED = ("int8", "int16", "int32")
"""Accepted as counts if none is negative: LIMA accumulates frames in int32."""

MOST_NAMES, MOST_ENTRIES = 8, 200
"""Largest number of names in a message, and of entries searched for it."""


def find_detector(
    sources: Sources, entry: h5py.Group, wanted: str | None, candidates: Iterable[str]
) -> tuple[str, h5py.Dataset]:
    """Name and frames (frame, y, x) of the detector.

    Parameters
    ----------
    sources : Sources
        Opens linked files.
    entry : h5py.Group
        Such as /1.1.
    wanted : str or None
        Name of the camera, or path of its dataset in the entry.
    candidates : iterable of str
        Cameras of the beamline, which select among several 3-D datasets of an entry.

    Raises
    ------
    SourceError
        No detector, several, copies of different shape, or counts that are not integers.
    """
    asked = sources.asked
    found, broken = _stacks(sources, entry)
    if wanted and "/" in wanted:
        dataset = sources.find(entry, wanted.strip("/"))
        if not isinstance(dataset, h5py.Dataset) or dataset.ndim != 3:
            there = f"has shape {dataset.shape}" if isinstance(dataset, h5py.Dataset) else "is not a dataset"
            raise _without(sources, entry, found, f"has no detector {wanted!r}, which {there}")
        parts = wanted.strip("/").split("/")
        return (parts[1] if len(parts) > 1 else parts[0]), _checked(dataset, asked)
    if wanted:
        if wanted in broken and wanted not in found:
            raise broken[wanted]
        if wanted not in found:
            raise _without(sources, entry, found, f"has no detector {wanted!r}{nearest(wanted, found)}")
        name = wanted
    else:
        known = [name for name in candidates if name in found]
        # An unreachable camera must not make another camera appear to be the only one.
        lost = [error for name, error in broken.items() if name not in found]
        if lost and not known:
            raise lost[0]
        choice = known or list(found)
        if not choice:
            raise _without(sources, entry, found, "has no detector")
        if len(choice) > 1:
            raise SourceError(asked, f"has several detectors: {_list(found)}", "choose one with --detector")
        name = choice[0]
    copies = found[name]
    shapes = {path: dataset.shape for path, dataset in copies.items()}
    if len(set(shapes.values())) > 1:
        said = ", ".join(f"{path} {shape}" for path, shape in shapes.items())
        raise SourceError(asked, f"the copies of {name} differ: {said}", "choose one of these paths with --detector")
    return name, _checked(next(iter(copies.values())), asked)


def _stacks(sources: Sources, entry: h5py.Group) -> tuple[dict[str, dict[str, h5py.Dataset]], dict[str, SourceError]]:
    """3-D datasets by camera and path, and cameras with broken links."""
    found: dict[str, dict[str, h5py.Dataset]] = {}
    broken: dict[str, SourceError] = {}
    places: list[tuple[str, str]] = []
    for parent in ("measurement", "instrument"):
        group = sources.find(entry, parent)
        if isinstance(group, h5py.Group):
            for name in group:
                paths = (
                    [f"{parent}/{name}"]
                    if parent == "measurement"
                    else [f"{parent}/{name}/{leaf}" for leaf in ("data", "image")]
                )
                places += [(name, path) for path in paths]
    for name, path in places:
        try:
            dataset = sources.find(entry, path)
        except SourceError as error:
            broken.setdefault(name, error)
            continue
        if isinstance(dataset, h5py.Dataset) and dataset.ndim == 3 and dataset.dtype.kind in "uifbc":
            found.setdefault(name, {})[path] = dataset
        elif isinstance(dataset, h5py.Group) and path.startswith("measurement"):
            inner = sources.find(dataset, "data")
            if isinstance(inner, h5py.Dataset) and inner.ndim == 3 and inner.dtype.kind in "uifbc":
                found.setdefault(name, {})[f"{path}/data"] = inner
    return found, broken


def _checked(dataset: h5py.Dataset, asked: str) -> h5py.Dataset:
    where = f"{dataset.file.filename}::{dataset.name}"
    if dataset.dtype.newbyteorder("=").name not in (*COUNTS, *SIGNED):
        raise SourceError(
            asked,
            f"{where} contains {dataset.dtype}, not counts",
            f"provide raw detector counts of {', '.join(COUNTS)}",
        )
    if 0 in dataset.shape[1:]:
        raise SourceError(
            asked, f"{where} has frames of {dataset.shape[1]} x {dataset.shape[2]} pixels", "check the detector"
        )
    return dataset


def _list(found: dict[str, dict[str, h5py.Dataset]]) -> str:
    return ", ".join(
        f"{name} {next(iter(copies.values())).shape} {next(iter(copies.values())).dtype}"
        for name, copies in found.items()
    )


def _without(sources: Sources, entry: h5py.Group, found: dict[str, dict[str, h5py.Dataset]], fault: str) -> SourceError:
    """Error for an entry without the camera, with a list of its cameras, or of entries with a camera."""
    if found:
        return SourceError(sources.asked, fault, f"choose one of its cameras with --detector: {_list(found)}")
    fault += ": no 3-D dataset under measurement or instrument"
    stacks, others = _elsewhere(sources, entry)
    if others:
        fault += f", but {', '.join(others)}"
    if stacks:
        remedy = f"if one of these contains the frames, choose it with --detector: {', '.join(stacks)}"
    elif entries := _with_camera(sources, entry):
        remedy = f"choose an entry with a camera by --scan: {', '.join(entries)}"
    else:
        remedy = "give the master file of a scan with a camera: no entry of this file has one"
    return SourceError(sources.asked, fault, remedy)


def _elsewhere(sources: Sources, entry: h5py.Group) -> tuple[list[str], list[str]]:
    """3-D datasets of numbers at unusual paths, in the form for --detector, and other candidates: images and broken
    links of cameras."""
    stacks: list[str] = []
    others: list[str] = []

    def note(name: str, item: object) -> None:
        if isinstance(item, h5py.Dataset) and item.dtype.kind in "uifbc" and item.ndim > 1:
            text = f"{printable(name)} {item.shape}"
            (stacks if item.ndim == 3 else others).append(f"/{text}" if item.ndim == 3 else text)

    entry.visititems(note)
    for parent in ("measurement", "instrument"):
        group = sources.find(entry, parent)
        for name in group if isinstance(group, h5py.Group) else ():
            link = group.get(name, getlink=True)
            with suppress(SourceError):
                if isinstance(link, h5py.SoftLink) and sources.find(group, name) is None:
                    others.append(f"{parent}/{printable(name)}, a link to {printable(link.path)}, which does not exist")
    return stacks[:MOST_NAMES], others[:MOST_NAMES]


def _with_camera(sources: Sources, without: h5py.Group) -> list[str]:
    """Names of the first entries with a camera, by number."""
    names = sorted((n for n in sources.master if re.fullmatch(r"\d+\.1", n)), key=lambda n: int(n.split(".")[0]))
    found: list[str] = []
    for name in names[:MOST_ENTRIES]:
        with suppress(SourceError):
            entry = sources.find(sources.master, name)
            if isinstance(entry, h5py.Group) and entry != without and _stacks(sources, entry)[0]:
                found.append(name)
        if len(found) == MOST_NAMES:
            break
    return found


def pixel_edges(sources: Sources, entry: h5py.Group, detector: str) -> tuple[float, float] | None:
    """Edges (y, x) of the physical pixel in um, or None."""
    edges = []
    for axis in ("y", "x"):
        dataset = sources.find(entry, f"instrument/{detector}/{axis}_pixel_size")
        value = sources.value(entry, f"instrument/{detector}/{axis}_pixel_size")
        if not isinstance(dataset, h5py.Dataset) or not isinstance(value, int | float | np.number):
            return None
        unit = sources.unit(dataset)
        size = float(value)
        # Files with "6.5 m" mean um: no pixel is a millimetre wide.
        if unit in ("m", "mm") and size < (1e-3 if unit == "m" else 1.0):
            size *= 1e6 if unit == "m" else 1e3
        if not (math.isfinite(size) and size > 0):
            return None
        edges.append(size)
    return edges[0], edges[1]
