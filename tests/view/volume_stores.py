"""Small stores with masks, boundaries and objects, written as the package writes them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from dfxm_dask.store.integrity.nodes import create_group, root_attrs, write_small

Arrays = Mapping[str, tuple[tuple[str, ...], Any]]


def write_store(path: Path, groups: Mapping[str, Arrays], *, z: Any, y: Any, x: Any, units: str = "um") -> Path:
    """A store with these groups: variable name → (dims, values)."""
    create_group(path, "", root_attrs(1024, "made for a test"))
    for dim, positions in (("z", z), ("y", y), ("x", x)):
        attrs = {"units": "um" if dim == "z" else units, "long_name": f"position along {dim}"}
        write_small(path, "", dim, (dim,), np.asarray(positions, float), attrs)
    for group, arrays in groups.items():
        create_group(path, group, {})
        for name, (dims, values) in arrays.items():
            attrs = {"units": "um" if name in ("spacing", "centre", "distance") else "1", "long_name": f"the {name}"}
            write_small(path, group, name, dims, np.asarray(values), attrs)
    return path


def lines_mask(shape: tuple[int, int, int], seed: int, count: int = 30) -> np.ndarray:
    """Steep lines, some voxels thick."""
    rng, mask = np.random.default_rng(seed), np.zeros(shape, bool)
    y, x = rng.integers(2, shape[1] - 2, count), rng.integers(2, shape[2] - 2, count)
    for k in range(shape[0]):
        for dy in range(-2, 3):
            mask[k, np.clip(y + dy + k // 2, 0, shape[1] - 1), x] = True
    return mask


def boundary_group(points: int = 200) -> dict[str, tuple[tuple[str, ...], Any]]:
    """Two upright walls that meet at x = 5, y = 5, one of them with two families of lines, and points on them."""
    rng, unknown = np.random.default_rng(0), [np.nan] * 3
    owner = np.arange(points) % 2
    along, up = rng.uniform(0, 4, points), rng.uniform(0, 10, points)
    xyz = np.stack([np.where(owner == 0, 5, 5 + along), np.where(owner == 0, 5 + along, 5), up], 1)
    family = ("boundary", "family")
    return {
        "normal": (("boundary", "xyz"), [[1.0, 0, 0], [0, 1.0, 0]]),
        "centre": (("boundary", "xyz"), [[5.0, 7, 5], [7.0, 5, 5]]),
        "corner": (
            ("boundary", "corner", "xyz"),
            [
                [[5.0, 5, 0], [5, 9, 0], [5, 9, 10], [5, 5, 10]],
                [[5.0, 5, 2], [5, 5, 12], [9, 5, 12], [9, 5, 2]],
            ],
        ),
        "line": ((*family, "xyz"), [[[0.0, 0, 1], unknown], [[0.6, 0, 0.8], [1.0, 0, 0]]]),
        "spacing": (family, [[4.1, np.nan], [2.5, 6.0]]),
        "lines": (family, np.array([[7, 0], [4, 5]], np.int64)),
        "boundary_weight": (("boundary",), [120.5, np.nan]),
        "kept": (("boundary",), np.array([False, True])),
        "junction_direction": (("junction", "xyz"), [[0.0, 0, 1]]),
        "junction_point": (("junction", "xyz"), [[5.0, 5, 7]]),
        "junction_boundary": (("junction", "half"), np.array([[0, 1, -1]])),
        "point": (("observation", "xyz"), xyz),
        "point_boundary": (("observation",), owner.astype(np.int64)),
        "point_weight": (("observation",), rng.random(points)),
    }
