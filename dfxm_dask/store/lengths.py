"""Lengths in the plane of a layer: the effective pixel of a store, its computation, and the steps that depend on it."""

from __future__ import annotations

from collections.abc import Mapping
from math import isclose
from pathlib import Path
from typing import Any, Literal

import numpy as np

from dfxm_dask.catalogue import find
from dfxm_dask.errors import InputError, RecipeError
from dfxm_dask.optics.geometry import effective_pixel
from dfxm_dask.sources.source import Beamline, Scan
from dfxm_dask.sources.units import base_unit
from dfxm_dask.store.integrity import ledger, nodes
from dfxm_dask.store.metadata import read_node

AXES = ("y", "x")
Pixel = tuple[float, float]
"""Edges along y and x, um."""


def steps_by_lengths(store: Path) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Steps that depend on lengths in the plane of the layer, and the others; each as "group/step".

    A step depends on lengths if its reduction reads y or x in a unit, or if one of its inputs depends on lengths.

    Raises
    ------
    RecipeError
        An unknown reduction.
    """
    paths = [p for p in sorted(store.glob("*/.ledger/*.jsonl")) if p.parent.parent.name not in ("raw", "truth")]
    headers = {f"{p.parent.parent.name}/{p.stem}": ledger.read_header(p) for p in paths}
    made_of = {key: _makers(header, headers) for key, header in headers.items()}
    names = {*headers, *(maker for makers in made_of.values() for maker in makers)}
    long = {key for key in names if _reads_lengths(key)}
    while more := {key for key, makers in made_of.items() if makers & long} - long:
        long |= more
    return tuple(key for key in headers if key in long), tuple(key for key in headers if key not in long)


def _makers(header: Mapping[str, Any], stored: Mapping[str, Any]) -> set[str]:
    """Inputs of a step. Counts that exist only within a pass may have gone through any such step of the recipe."""
    makers = set(header.get("plan", {}).get("inputs", {})) - {"raw/ingest"}
    makers = {key for key in makers if not key.startswith(("raw/", "truth/"))}
    if makers - set(stored):
        for step in (header.get("recipe") or {}).get("steps", ()):
            reduction = _find(f"recipe/{step['name']}")
            if not all(variable.stored for variable in reduction.writes):
                makers.add(f"{reduction.group}/{reduction.name}")
    return makers


def _find(key: str) -> Any:
    try:
        return find(key.partition("/")[2])
    except RecipeError:
        raise RecipeError(
            f"step {key}",
            "comes from a reduction that is not loaded, so that its dependence on lengths is unknown",
            "load it with --plugin FILE",
        ) from None


def _reads_lengths(key: str) -> bool:
    reduction = _find(key)
    return any(v.name in AXES and v.units for v in (*reduction.reads, *reduction.may_read))


def same(first: Pixel, second: Pixel) -> bool:
    """Whether two pixel sizes agree up to rounding."""
    return all(isclose(a, b, rel_tol=1e-9) for a, b in zip(first, second, strict=True))


def words(pixel: Pixel | None) -> str:
    """A pixel size as text."""
    return "unknown size" if pixel is None else f"{pixel[0]:.10g} um along y and {pixel[1]:.10g} um along x"


def axis_attributes(store: Path) -> dict[str, dict[str, Any]]:
    """Attributes of y and x."""
    return {name: read_node(store / name)["attributes"] for name in AXES}


def pixel_of(store: Path) -> Pixel | None:
    """Effective pixel (y, x) of a store in um; None where y and x count pixels."""
    import zarr

    nodes = axis_attributes(store)
    if any(attrs.get("units") != "um" for attrs in nodes.values()):
        return None
    given = ledger.read_header(ledger.ledger_path(store, "raw", "ingest")).get("plan", {}).get("pixel_size")
    found = []
    for k, name in enumerate(AXES):
        size = nodes[name].get("pixel_size_um", given[k] if given else None)  # older stores lack pixel_size_um
        if size is None:
            at = np.asarray(zarr.open_array(str(store / name), mode="r")[...], float)
            size = (at[-1] - at[0]) / (at.size - 1) if at.size > 1 else np.nan
        found.append(float(size))
    return found[0], found[1]


def recorded_camera(store: Path) -> Pixel | None:
    """Recorded edges (y, x) of one pixel of a frame on the camera, with binning, um."""
    edges = []
    for attrs in axis_attributes(store).values():
        edge, binned = attrs.get("detector_pixel_um"), attrs.get("binning", 1)
        if not isinstance(edge, int | float) or not isinstance(binned, int | float):
            return None
        edges.append(float(edge) * binned)
    return edges[0], edges[1]


def computed_pixel(
    store: Path,
    recorded: Pixel | None,
    camera_pixel: float | None,
    magnification: float | None,
    two_theta: float | None,
    detector: Literal["vertical", "normal"],
    stretched: str | None,
) -> tuple[Pixel, str]:
    """The pixel size from camera, magnification and angle, and a description of the computation."""
    told = "given"
    if stretched is None:
        stretched, told = _stretched(store)
    if stretched not in AXES:
        raise InputError(f"stretched {stretched!r}", "is not a dim of a frame", "choose 'x' or 'y'")
    camera, where = recorded, "recorded"
    if camera_pixel is not None:
        binned = [float(attrs.get("binning", 1)) for attrs in axis_attributes(store).values()]
        camera, where = (camera_pixel * binned[0], camera_pixel * binned[1]), "given"
        where += "".join(f", binned {n:g} times" for n in sorted({*binned} - {1.0}))
    angle, motor = (two_theta, "given") if two_theta is not None else _angle_of(store)
    lacking = {
        "the camera pixel (--camera-pixel UM)": camera,
        "the magnification from the object to the camera (--magnification M)": magnification,
        "the scattering angle (--two-theta DEGREE)": angle,
    }
    missing = [name for name, value in lacking.items() if value is None]
    if camera is None or magnification is None or angle is None:
        raise InputError(
            f"effective pixel of {store}",
            f"{' and '.join(missing)} {'is' if len(missing) == 1 else 'are'} not recorded",
            "give the missing values, or the effective pixel (--pixel-size Y,X)",
        )
    if not 0 < magnification < np.inf:
        raise InputError(f"magnification of {magnification}", "is not positive and finite", "give a positive number")
    if not 0 < angle < 90:
        raise InputError(f"two_theta of {angle} degree", "is not between 0 and 90", "give the scattering angle, degree")
    theta = np.deg2rad(angle) / 2
    found = [
        effective_pixel(edge / magnification, theta, detector)[name == stretched]
        for name, edge in zip(AXES, camera, strict=True)
    ]
    edges = "x".join(f"{edge:g}" for edge in camera)
    return (found[0], found[1]), (
        f"computed from a camera pixel of {edges} um ({where}), magnification {magnification:g} (given) and two_theta"
        f" {angle:g} degree ({motor}); stretched along {stretched} ({told}), detector {detector}"
    )


def _angle_of(store: Path) -> tuple[float | None, str]:
    """Scattering angle in degree, from the scan or the arm of the objective, and its source."""
    import zarr

    if "two_theta" in nodes.arrays(store, ""):
        axis = zarr.open_array(str(store / "two_theta"), mode="r")
        if axis.attrs.get("units") == "degree":
            return float(np.mean(np.asarray(axis[...], float))), "mean of the scan axis two_theta"
    found = ledger.group_provenance(store, "raw")[1].get("ingest", {}).get("two_theta")
    if isinstance(found, dict) and isinstance(found.get("degree"), int | float):
        return float(found["degree"]), f"recorded motor {found.get('motor')}"
    return None, ""


def _stretched(store: Path) -> tuple[Literal["y", "x"], str]:
    """Dim of a frame in the scattering plane, as recorded by the ingest, and its source."""
    found = ledger.group_provenance(store, "raw")[1].get("ingest", {}).get("scattering_plane")
    dim = found.get("dim") if isinstance(found, dict) else None
    if dim == "y" or dim == "x":
        return dim, f"beamline configuration {found.get('beamline', 'of the ingest')}"
    return "x", "assumed: the store does not record the scattering plane"


def recorded_geometry(scans: list[Scan], line: Beamline) -> dict[str, Any]:
    """Record of an ingest for a calibration: the dim in the scattering plane, and the angle of the objective."""
    plane = {"scattering_plane": {"dim": line.scattering_plane, "beamline": line.name}} if line.scattering_plane else {}
    return plane | _recorded_angle(scans, line)


def _recorded_angle(scans: list[Scan], line: Beamline) -> dict[str, Any]:
    """Angle of the arm of the objective if recorded and equal in all layers: {} or {"two_theta": ...}."""
    for motor in line.motors.get("two_theta", []):
        stood = {s.metadata.get(f"positioners/{motor}") for s in scans}
        units = {str(s.metadata.get(f"units/{motor}") or line.units.get("two_theta", "")) for s in scans}
        if len(stood) == len(units) == 1 and isinstance(angle := stood.pop(), float):
            unit, factor = base_unit(units.pop())
            if unit == "degree":
                return {"two_theta": {"motor": motor, "degree": angle * factor}}
    return {}
