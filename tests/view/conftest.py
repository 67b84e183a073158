"""A reduced scan in memory, made with plain xarray."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import xarray as xr

MEANINGS = ("unlit", "truncated", "saturated", "hot", "multimodal")


def reduced_scan(
    *, layers: int = 1, axes: tuple[str, ...] = ("phi",), ny: int = 60, nx: int = 160, units: str = "um"
) -> xr.DataTree:
    """Counts of a bent, twinned crystal, and the maps that the rooms would make of them."""
    rng = np.random.default_rng(7)
    y, x = np.arange(ny) * (0.2 if units == "um" else 1.0), np.arange(nx) * (0.065 if units == "um" else 1.0)
    v, u = np.meshgrid(np.linspace(-1, 1, ny), np.linspace(-1, 1, nx), indexing="ij")
    positions = {"phi": 0.3 + np.linspace(-0.05, 0.05, 41), "chi": -1.2 + np.linspace(-0.2, 0.2, 13)}
    centre = {"phi": 0.3 + 0.02 * u + 0.012 * (v > 0.2 * np.sin(5 * u)), "chi": -1.2 + 0.08 * v * u}
    width = {"phi": 0.006 + 0.004 * (u * v) ** 2, "chi": 0.04 + 0 * u}
    strength = 900 * np.exp(-(((u / 0.8) ** 2 + (v / 0.9) ** 2) ** 2)) * (1 + 0.3 * np.sin(14 * u + 9 * v))
    grids = np.meshgrid(*(positions[a] for a in axes), indexing="ij")
    curve = np.ones((*grids[0].shape, ny, nx))
    for axis, grid in zip(axes, grids, strict=True):
        curve *= np.exp(-0.5 * ((grid[..., None, None] - centre[axis]) / width[axis]) ** 2)
    counts = rng.poisson(100 + strength * curve).astype(np.uint16)
    above = np.clip(counts - 106.0, 0, None)
    total = above.sum(tuple(range(len(axes))))
    flags = np.where(strength < 20, 1, 0) | np.where(centre["phi"] > 0.326, 2, 0)
    flags[ny // 4, nx // 3], flags[ny // 2, nx // 2] = 8, 4
    maps: dict[str, tuple[tuple[str, ...], np.ndarray, dict[str, object]]] = {
        "total": (("y", "x"), total, {"units": "count"}),
        "flags": (
            ("y", "x"),
            flags.astype(np.uint8),
            {"flag_masks": [1, 2, 4, 8, 16], "flag_meanings": " ".join(MEANINGS), "units": "1"},
        ),
        "kam": (("y", "x"), np.hypot(*np.gradient(centre["phi"])), {"units": "degree"}),
    }
    unlit = strength < 20
    for axis, grid in zip(axes, grids, strict=True):
        com = (above * grid[..., None, None]).sum(tuple(range(len(axes)))) / np.maximum(total, 1)
        maps[f"com_{axis}"] = (("y", "x"), np.where(unlit, np.nan, com), {"units": "degree"})
        maps[f"std_{axis}"] = (("y", "x"), np.where(unlit, np.nan, width[axis]), {"units": "degree"})
    if len(axes) > 1:
        wheel = 200 * np.stack([(u + 1) / 2, (v + 1) / 2, 1 - (u + 1) / 2], -1)
        maps["mosaicity"] = (("y", "x", "rgb"), np.where(unlit[..., None], 0, wheel).astype(np.uint8), {"units": "1"})
    coords = {
        "z": ("z", np.arange(layers) * 2.0, {"units": "um"}),
        "y": ("y", y, {"units": units}),
        "x": ("x", x, {"units": units}),
        **{
            a: (a, positions[a], {"units": "degree", "motor": {"phi": "mu"}.get(a, a), "scan_axis": axes.index(a)})
            for a in axes
        },
    }
    datasets = {
        "/": xr.Dataset(coords=coords, attrs={"title": "synthetic bent crystal", "schema_version": 1}),
        "/raw": xr.Dataset({"counts": (("z", *axes, "y", "x"), np.stack([counts] * layers), {"units": "count"})}),
        "/rocking": xr.Dataset(
            {name: (("z", *dims), np.stack([a] * layers), attrs) for name, (dims, a, attrs) in maps.items()},
            attrs={"provenance": {"moments": {"version": "0.1.0", "parameters": {"background": 106}}}},
        ),
        "/frames": xr.Dataset({"background_map": (("z", "y", "x"), np.full((layers, ny, nx), 106.0))}),
    }
    return xr.DataTree.from_dict(datasets)


@pytest.fixture(name="reduced_scan", scope="session")
def _reduced_scan() -> Callable[..., xr.DataTree]:
    return reduced_scan
