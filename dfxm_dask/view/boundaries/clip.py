"""Patches of boundaries cut at the sides of the scanned volume, for figures and for files of other programs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import xarray as xr

Box = tuple[np.ndarray, np.ndarray]


def volume_box(found: xr.Dataset | xr.DataTree) -> Box | None:
    """Lowest and highest corner (xyz) of the pixel centres of a scan, um; None where the store has no such axes."""
    if not {"x", "y", "z"} <= set(map(str, found.coords)):
        return None
    axes = [np.asarray(found.coords[name], np.float64) for name in "xyz"]
    return np.array([a.min() for a in axes]), np.array([a.max() for a in axes])


def clipped(ring: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """The part of a line (two vertices) or a flat polygon (vertex, xyz) inside a box; no vertex where it lies outside.

    Examples
    --------
    >>> square = np.array([[0.0, 0, 1], [4, 0, 1], [4, 4, 1], [0, 4, 1]])
    >>> clipped(square, np.array([1.0, -9, 0]), np.array([2.0, 3, 2]))[:, :2].tolist()
    [[1.0, 0.0], [2.0, 0.0], [2.0, 3.0], [1.0, 3.0]]
    """
    for axis in range(3):
        for sign, limit in ((1.0, low[axis]), (-1.0, -high[axis])):
            kept = []
            for first, second in zip(ring, np.roll(ring, -1, axis=0), strict=True):
                a, b = sign * first[axis] - limit, sign * second[axis] - limit
                if a >= 0:
                    kept.append(first)
                if a * b < 0:
                    kept.append(first + a / (a - b) * (second - first))
            ring = np.array(kept).reshape(-1, 3)
    return ring


def line_in_patch(ring: np.ndarray, line: np.ndarray) -> np.ndarray:
    """Both ends (2, xyz) of a line through the middle of a convex flat polygon (vertex, xyz), along a direction in it.

    Examples
    --------
    >>> square = np.array([[0.0, 0, 1], [4, 0, 1], [4, 2, 1], [0, 2, 1]])
    >>> line_in_patch(square, np.array([1.0, 0, 0])).tolist()
    [[0.0, 1.0, 1.0], [4.0, 1.0, 1.0]]
    """
    line = line / np.linalg.norm(line)
    after = np.roll(ring, -1, axis=0)
    areas = np.cross(ring - ring[0], after - ring[0])
    normal = areas.sum(axis=0)
    weights = areas @ normal
    middle = weights @ ((ring[0] + ring + after) / 3) / weights.sum() if weights.sum() > 0 else ring.mean(axis=0)
    outward = np.cross(after - ring, normal)
    away = np.einsum("ij,ij->i", ring - middle, outward)
    along = outward @ line
    with np.errstate(divide="ignore", invalid="ignore"):
        reach = away / along
    ahead, back = along > 1e-12 * np.abs(along).max(), along < -1e-12 * np.abs(along).max()
    ends = np.max(reach[back], initial=-np.inf), np.min(reach[ahead], initial=np.inf)
    return middle + np.outer(np.where(np.isfinite(ends), ends, 0.0), line)
