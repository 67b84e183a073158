"""A new store: groups, array metadata and every coordinate, before the first frame."""

from __future__ import annotations

from collections.abc import Mapping
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np

from dfxm_dask.errors import InputError
from dfxm_dask.frames.statistics import PATCH_STATISTICS
from dfxm_dask.schema import COUNTS, EXPOSURE, MASKED, MONITOR, NOISE, PATCH, POSITION, SATURATION, Variable, expand
from dfxm_dask.sources.bliss.camera import binning, full_well
from dfxm_dask.sources.source import Scan
from dfxm_dask.sources.stack import axis_attrs, frame_positions, grid_positions, strayed, z_attrs
from dfxm_dask.store.chunks import Layout, map_layout
from dfxm_dask.store.integrity.nodes import create_array, create_group, root_attrs, write_small


def raw_variables(axes: Mapping[str, str], dtype: np.dtype[Any]) -> list[Variable]:
    """Sharded variables of the raw group on a scan with these axes."""
    counts = expand(Variable(COUNTS.name, COUNTS.dims, dtype.name, COUNTS.units, COUNTS.long_name), axes)
    return [*counts, NOISE, MASKED, *(v for p in PATCH_STATISTICS for v in expand(p, axes))]


def create_store(
    target: Path,
    scans: list[Scan],
    whole: list[Scan],
    layout: Layout,
    rows: int,
    variables: list[Variable],
    roi: Any,
    pixel_size: Any,
    z_values: list[float],
    crystal: Mapping[str, Any] | None = None,
) -> None:
    """Groups, array metadata and all coordinates of a new store."""
    create_coordinates(target, whole, layout.shape[-2:], rows, roi, pixel_size, z_values, crystal)
    create_group(target, "raw", {})
    first = whole[0]
    edge = layout.chunk[-1]
    for variable in variables:
        plan = layout if variable.name == "counts" else statistics_layout(variable, layout, rows, edge)
        attrs = {"detector": first.detector} if variable.name == "counts" else {}
        create_array(target, "raw", variable, plan, attrs)
    dims = ("z", *(a.name for a in first.axes))
    shape = layout.shape[:-2]
    rows_of = {id(s): z for z, s in enumerate(scans)}
    place = [rows_of[id(s)] for s in whole]
    monitor = {"counter": first.monitor_name, "units": first.monitor_units or "not recorded"}
    exposure = {"source": " | ".join(dict.fromkeys(s.exposure_source for s in whole if s.exposure_source))}
    for variable, field, attrs in ((MONITOR, "monitor", monitor), (EXPOSURE, "exposure", exposure)):
        if not next(iter(attrs.values())):  # simulated scans have no counter and no source
            attrs = {"units": "count"} if variable is MONITOR else {}
        _write_per_frame(target, whole, place, dims, shape, variable, field, attrs)
    for k, axis in enumerate(first.axes):
        values = np.full(shape, np.nan)
        for z, s in zip(place, whole, strict=True):
            if s.axes[k].readback is not None:
                values[z] = frame_positions(s, k)
        attrs = {
            "units": axis.units,
            "long_name": f"readback of {axis.motor or axis.name} for every frame",
            "motor": axis.motor,
        }
        write_small(target, "raw", f"readback_{axis.name}", dims, values, attrs)
        known = strayed(whole, k)
        if known is not None:
            values = np.full(shape, np.nan)
            values[place] = known
            attrs = {"units": axis.units, "long_name": POSITION.long_name.format(axis=axis.name), "motor": axis.motor}
            write_small(target, "raw", POSITION.name.format(axis=axis.name), dims, values, attrs)
    _write_saturation(target, whole, place, len(scans))


def _write_saturation(target: Path, whole: list[Scan], place: list[int], layers: int) -> None:
    values = np.full(layers, np.nan, np.float32)
    wells = [(s.saturation, s.saturation_source) if s.saturation_source else full_well({}, s.dtype) for s in whole]
    for z, (level, _) in zip(place, wells, strict=True):
        values[z] = level
        if float(values[z]) > level:  # 2^32 - 1 rounds up in float32: no count would reach the level
            values[z] = np.nextafter(values[z], np.float32(0))
    source = " | ".join(dict.fromkeys(words for _, words in wells))
    write_small(target, "raw", SATURATION.name, SATURATION.dims, values, {**SATURATION.attrs, "source": source})


def create_coordinates(
    target: Path,
    whole: list[Scan],
    shape: tuple[int, ...],
    rows: int,
    roi: Any,
    pixel_size: Any,
    z_values: list[float],
    crystal: Mapping[str, Any] | None = None,
) -> None:
    """The root group of a new store, with z, y, x and the scan axes."""
    first = whole[0]
    title = str(first.metadata.get("sample", "") or first.title)
    more = {"source": Path(first.source).name, "command": first.title, **(crystal or {})}
    if first.found != first.commanded:
        more["aborted"] = f"{first.found} of {first.commanded} frames"
    create_group(target, "", root_attrs(rows, title, **more), anew=True)
    labels = {"units": "um", "long_name": "position along z", **z_attrs(whole)}
    write_small(target, "", "z", ("z",), np.asarray(z_values), labels)
    for name, n, start, pixel in zip(
        ("y", "x"), shape, (roi[0], roi[2]) if roi else (0, 0), pixel_size or (None, None), strict=True
    ):
        attrs: dict[str, Any] = {"units": "pixel", "long_name": f"position along {name}"}
        if first.detector_pixel:
            attrs["detector_pixel_um"] = first.detector_pixel[0 if name == "y" else 1]
        if (bins := binning(first.settings)[0 if name == "y" else 1]) > 1:
            attrs["binning"] = bins
        if pixel:
            attrs |= pixel_attrs(pixel, "given" if first.pieces else "simulated")
        write_small(target, "", name, (name,), pixel_positions(n, start, pixel or 1), attrs)
    for k, axis in enumerate(first.axes):
        labels = {
            "units": axis.units,
            "long_name": f"{axis.name} ({axis.motor})" if axis.motor else axis.name,
            "motor": axis.motor,
            "scan_axis": k,
            **axis_attrs(whole, k),
        }
        for word in ("commanded_start", "commanded_step"):
            if getattr(axis, word) is not None:
                labels[word] = float(getattr(axis, word))
        write_small(target, "", axis.name, (axis.name,), grid_positions(whole, k), labels)


def pixel_positions(count: int, start: int, pixel: float) -> np.ndarray:
    """Positions of the pixels of a frame along y or x; ``start`` is the first pixel of the region."""
    return (np.arange(count) + start) * float(pixel)


def pixel_attrs(pixel: float, source: str) -> dict[str, Any]:
    """Attributes of y or x with a known effective pixel (um), and the source of the pixel size."""
    return {"units": "um", "pixel_size_um": float(pixel), "pixel_size_source": source}


PIXEL_RANGE = (1e-3, 100.0)
"""um: from below the resolution of any X-ray objective to cameras without an objective (our choice)."""


def check_pixel_size(asked: Any, camera: tuple[float, float] | None = None) -> tuple[float, float]:
    """An effective pixel (y, x) in um, as two numbers.

    Parameters
    ----------
    camera : (y, x), um, optional
        Edges of the camera pixel. The microscope magnifies: the shorter side of the effective pixel must be shorter.

    Raises
    ------
    InputError
        Not two lengths, or lengths outside the range of microscopes.
    """
    advice = "give two lengths in um, along y and along x"
    try:
        y, x = (float(length) for length in (() if isinstance(asked, str | bytes) else asked))
    except (TypeError, ValueError):
        raise InputError("pixel_size", f"is {asked!r}", advice) from None
    low, high = PIXEL_RANGE
    if not (low <= y <= high and low <= x <= high):
        raise InputError("pixel_size", f"is {asked}, outside {low:g} to {high:g} um", advice)
    if camera is not None and min(y, x) > max(camera):
        raise InputError("pixel_size", f"is {asked} um, larger than the camera pixel of {max(camera):g} um", advice)
    return y, x


def _write_per_frame(
    target: Path,
    whole: list[Scan],
    place: list[int],
    dims: tuple[str, ...],
    shape: tuple[int, ...],
    variable: Variable,
    field: str,
    labels: Mapping[str, str],
) -> None:
    """A value per frame, on the grid; NaN in layers without a record."""
    if all(getattr(s, field) is None for s in whole):
        return
    values = np.full(shape, np.nan)
    for z, s in zip(place, whole, strict=True):
        found = getattr(s, field)
        if found is not None:
            values[z].reshape(-1)[s.order] = found[: len(s.order)]
    write_small(target, "raw", variable.name, dims, values, {**variable.attrs, **labels})


def statistics_layout(variable: Variable, raw: Layout, rows: int, edge: int) -> Layout:
    """Layout of a variable per layer or per patch: a shard a layer."""
    ny, nx = raw.shape[-2:]
    if variable.dims == ("z",):
        return Layout(raw.shape[:1], (1,), (1,))
    shape = (*raw.shape[:-2], ceil(ny / PATCH), ceil(nx / PATCH))
    return map_layout(variable.dims, shape, rows, edge)
