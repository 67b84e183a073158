"""A reflection as its store records it: the maps of the centre of mass, the pixels, the crystal and the setting."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from dfxm_dask.errors import InputError, StoreError
from dfxm_dask.schema import SPACE
from dfxm_dask.store.calibrate import recover
from dfxm_dask.store.crystal import checked_crystal
from dfxm_dask.store.integrity.opened import OpenStore, describe, open_store
from dfxm_dask.store.shards import open_array, read
from dfxm_dask.strain.variables import ANGLES, MOTORS

STEPS = {"centre": ("centres",), "com": ("moments", "moment_errors")}
"""Steps of the group ``rocking`` that a set of reflections reads, by the prefix of their maps. A store with results
of the step centres contributes these: the centre of mass behind a cut is biased."""
FRAMES = ("laboratory", "sample")
SAMPLE = 2_000_000
"""Pixels at most from which a median over a store is computed (our choice)."""


@dataclass(frozen=True)
class Reflection:
    """One store of a set.

    Parameters
    ----------
    path : Path
    axes : tuple of str
        Scanned axes among two_theta, phi and chi, in storage order.
    prefix : str
        Prefix of the maps that the set reads, see :data:`STEPS`.
    z, y, x : array, um
        Positions of the layers and pixels.
    digests : dict
        Identity of the content, by "group/step".
    crystal, goniometer : dict
        ``lattice`` and ``hkl``; ``mu``, ``omega``, ``eta``, ``theta`` in degree; as far as recorded.
    frame : str
        Axes along which the pixels lie: "laboratory", "sample", or "" if not recorded.
    energy : float or None, keV
    rotation_axis : (float, float) or None, um
        Position along y and x of the rotation axis of omega.
    """

    path: Path
    axes: tuple[str, ...]
    prefix: str
    z: np.ndarray
    y: np.ndarray
    x: np.ndarray
    digests: dict[str, str]
    crystal: dict[str, Any] = field(default_factory=dict)
    goniometer: dict[str, float] = field(default_factory=dict)
    frame: str = ""
    energy: float | None = None
    rotation_axis: tuple[float, float] | None = None

    @property
    def pixel(self) -> tuple[float, float]:
        """Edges of a pixel along y and x, um; 0 along a side of one pixel."""
        return tuple(float(v[1] - v[0]) if v.size > 1 else 0.0 for v in (self.y, self.x))  # type: ignore[return-value]


def recorded(store: str | os.PathLike[str]) -> Reflection:
    """The reflection in a store.

    Raises
    ------
    StoreError
        Not a store; a set of reflections; layers that are absent; a missing or stale step; damaged attributes.
    InputError
        Pixels without a length; no scan axis among two_theta, phi and chi.
    """
    path = Path(store)
    recover(path)
    opened = open_store(path)
    stored = describe(opened)
    asked = f"store {store}"
    if not stored.counted:
        raise StoreError(asked, "is a set of reflections", "join the stores of its reflections, each with counts")
    if stored.absent or stored.cropped:
        missing = (*stored.absent, *stored.cropped)
        raise StoreError(asked, f"lacks {missing[0]}", "ingest all layers of the scan")
    axes = tuple(a for a in stored.axes if a in ANGLES)
    if not axes:
        raise InputError(asked, f"scans {', '.join(stored.axes) or 'no axis'}", "give scans of phi, chi or two_theta")
    prefix = _complete_maps(opened, asked, axes)
    digests = {f"rocking/{step}": str(opened.provenance("rocking")[step]["digest"]) for step in STEPS[prefix]}
    positions: dict[str, Any] = {}
    for name in SPACE:
        if stored.units[name] != "um":
            raise InputError(
                f"{asked}: coordinate {name!r}",
                f"is in {stored.units[name]!r}, not um",
                f"set the effective pixel: dfxm-dask calibrate {store} --pixel-size Y,X, then run moments again",
            )
        positions[name] = np.asarray(zarr.open_array(str(path / name), mode="r")[...], float)
    root = opened.nodes[""]["attributes"]
    try:
        words = _attributes(root)
    except (TypeError, ValueError, KeyError) as error:
        raise StoreError(f"attributes of {store}", f"are invalid ({error})", "write the store again") from None
    return Reflection(path.resolve(), axes, prefix, **positions, digests=digests, **words)


def _attributes(root: Mapping[str, Any]) -> dict[str, Any]:
    """Crystal and setting from the attributes of a root group."""
    frame = str(root.get("frame", ""))
    if frame not in ("", *FRAMES):
        raise ValueError(f"frame {frame!r}")
    motors = dict(root.get("goniometer", {}))
    goniometer = {name: float(motors[name]) for name in MOTORS if name in motors}
    energy = root.get("energy")
    axis = root.get("rotation_axis")
    crystal = checked_crystal(root.get("lattice"), None) if root.get("lattice") is not None else {}
    if root.get("hkl") is not None:
        crystal |= checked_crystal(None, root["hkl"])
    energy = None if energy is None else float(energy)
    axis = None if axis is None else (float(axis[0]), float(axis[1]))
    if not np.isfinite([*goniometer.values(), energy or 1.0, *(axis or ())]).all():
        raise ValueError("a number that is not finite")
    words = {"crystal": crystal, "goniometer": goniometer, "frame": frame}
    return words | {"energy": energy, "rotation_axis": axis}


def needed(axes: tuple[str, ...], prefix: str) -> list[str]:
    """Maps of the group ``rocking`` that a set of reflections reads."""
    pairs = [f"{prefix}_{a}_{b}_covariance" for a, b in combinations(axes, 2)]
    flags = ["flags"] if prefix == "com" else []
    return [*(f"{prefix}_{a}" for a in axes), *(f"{prefix}_{a}_error" for a in axes), *pairs, *flags]


def _complete_maps(opened: OpenStore, asked: str, axes: tuple[str, ...]) -> str:
    """Prefix of the maps to read: those of the step centres where the store has this step."""
    remedy = (
        f"run dfxm-dask run reflection {opened.path}, or your own recipe with moments and centres (or moment_errors)"
    )
    states, bad = opened.states("rocking"), opened.incomplete("rocking")
    prefix = "centre" if "centres" in states else "com"
    for step in STEPS[prefix]:
        if step not in states:
            raise StoreError(asked, f"has no results of the step {step}", remedy)
        if step in bad:
            raise StoreError(f"{asked}: step {step}", bad[step][0], bad[step][1])
    there = {name for step in STEPS[prefix] for name in states[step].writes}
    lacking = [name for name in needed(axes, prefix) if name not in there]
    if lacking:
        raise StoreError(asked, f"has no map {lacking[0]} in the group rocking", remedy)
    return prefix


def maps(
    store: Path, prefix: str, axes: tuple[str, ...], z: int, rows: slice, columns: slice, *, errors: bool = True
) -> tuple[np.ndarray, np.ndarray | None]:
    """Centres of mass and their covariance in a part of one layer; NaN in unlit pixels and along other angles.

    Parameters
    ----------
    prefix : str
        Prefix of the maps, see :data:`STEPS`.
    rows, columns : slice
        Part of the layer.
    errors : bool
        Read the covariance.

    Returns
    -------
    array (y, x, angle), float64, degree
    array (y, x, angle, angle2), float64, degree2, or None
    """
    from dfxm_dask.rocking.power_sums import NO_COUNT, UNLIT

    def values(name: str) -> np.ndarray:
        array = open_array(store / "rocking" / name)
        if array is None:
            raise StoreError(f"array {store / 'rocking' / name}", "has a foreign layout", "run the step again")
        return read(array, (slice(z, z + 1), rows, columns))[0]

    found = [values(f"{prefix}_{a}") for a in axes]
    dark = (values("flags") & (UNLIT | NO_COUNT)) > 0 if prefix == "com" else np.isnan(found).all(axis=0)
    centre = np.full((*dark.shape, len(ANGLES)), np.nan)
    places = [ANGLES.index(a) for a in axes]
    for one, k in zip(found, places, strict=True):
        centre[..., k] = np.where(dark, np.nan, one)
    if not errors:
        return centre, None
    covariance = np.full((*centre.shape, len(ANGLES)), np.nan)
    for a, k in zip(axes, places, strict=True):
        covariance[..., k, k] = np.square(values(f"{prefix}_{a}_error"), dtype=np.float64)
    for (a, k), (b, m) in combinations(zip(axes, places, strict=True), 2):
        covariance[..., k, m] = covariance[..., m, k] = values(f"{prefix}_{a}_{b}_covariance")
    covariance[dark] = np.nan
    return centre, covariance


def middle(one: Reflection) -> np.ndarray:
    """Median of the centre of mass over the lit pixels, degree: (angle,); NaN along an axis that was not scanned."""
    step = max(1, int(np.ceil(np.sqrt(one.z.size * one.y.size * one.x.size / SAMPLE))))
    found = []
    for z in range(one.z.size):
        for y in range(0, one.y.size, 256):
            rows = slice(y, min(y + 256, one.y.size))
            centre, _ = maps(one.path, one.prefix, one.axes, z, rows, slice(0, one.x.size), errors=False)
            found.append(centre[(-y) % step :: step, ::step].reshape(-1, len(ANGLES)))
    every = np.concatenate(found)
    every[:, [k for k, a in enumerate(ANGLES) if a not in one.axes]] = np.nan
    lit = np.isfinite(every).any(axis=1)
    if not lit.any():
        raise InputError(f"store {one.path}", "has no lit pixel", "check background and lit_above of the moments")
    return np.array([np.nanmedian(every[lit, k]) if a in one.axes else np.nan for k, a in enumerate(ANGLES)])
