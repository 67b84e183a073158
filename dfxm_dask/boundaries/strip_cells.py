"""Cells in a strip along a plane, by bins of its trace and layers: the data of the step fit."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy import ndimage

STRIP = 3.0  # um from the plane, in the layer (as in the specification of the method)
BIN = 2.0  # um of trace: the ground level of every bin in every layer is a free parameter (our choice)
PIECE, FINE = 1.0, 0.25  # um along the trace and across: cells within are averaged (our choice)


class Strip(NamedTuple):
    """Cells near a plane: in-layer distance s, position along the trace t and height h (um), values, bin, weight, and
    the steps of other boundaries (cell, boundary)."""

    s: np.ndarray
    t: np.ndarray
    h: np.ndarray
    values: np.ndarray
    bin: np.ndarray
    weight: np.ndarray
    others: np.ndarray


def trace_frame(normal: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Unit vector across the trace of a plane in a layer, whose third component is the slope, and the one along it."""
    flat = float(np.hypot(normal[0], normal[1]))
    across = normal / flat
    return across, np.array([-across[1], across[0], 0.0])


def binned(positions: np.ndarray, normal: np.ndarray, origin: np.ndarray, levels: np.ndarray) -> np.ndarray:
    """Bin of the trace and number of the layer of each position: (position, 2), int64."""
    _, along = trace_frame(normal)
    bins = np.floor((positions - origin) @ along / BIN).astype(np.int64)
    return np.column_stack([bins, np.clip(np.searchsorted(levels, positions[:, 2] - 1e-3), 0, len(levels) - 1)])


def closed(bins: np.ndarray, layers: int, first: int | None = None, last: int | None = None) -> np.ndarray:
    """Bins and layers (bin, layer), bool, that contain positions, with gaps of one bin or layer filled."""
    first = int(bins[:, 0].min()) if first is None else first
    last = int(bins[:, 0].max()) if last is None else last
    region = np.zeros((last - first + 1, layers), bool)
    region[bins[:, 0] - first, bins[:, 1]] = True
    return np.asarray(ndimage.binary_closing(np.pad(region, 2), np.ones((3, 3)))[2:-2, 2:-2] | region)


def strip_of(
    positions: np.ndarray,
    values: np.ndarray,
    normal: np.ndarray,
    origin: np.ndarray,
    levels: np.ndarray,
    region: np.ndarray,
    first: int,
    others: np.ndarray,
    reach: float = STRIP,
) -> Strip:
    """Cells within the strip and the region (bin, layer); ``first`` is the number of its first bin."""
    across, along = trace_frame(normal)
    s = (positions - origin) @ across
    near = np.flatnonzero(np.abs(s) < reach)
    where = binned(positions[near], normal, origin, levels)
    row = where[:, 0] - first
    inside = (row >= 0) & (row < region.shape[0])
    inside[inside] = region[row[inside], where[inside, 1]]
    near, row, layer = near[inside], row[inside], where[inside, 1]
    t, h = (positions[near] - origin) @ along, positions[near, 2] - origin[2]
    # Cells in line with the plane have nearly equal distances: their mean is as informative and four times as fast.
    bins = row * len(levels) + layer
    parts = np.column_stack([bins, np.floor(t / PIECE), np.floor(s[near] / FINE)]).astype(np.int64)
    parts -= parts.min(axis=0, initial=0)
    sizes = parts.max(axis=0, initial=0) + 1
    _, first_cell, number = np.unique(
        np.ravel_multi_index(tuple(parts.T), tuple(sizes)), return_index=True, return_inverse=True
    )
    number, total = number.reshape(-1), np.bincount(number.reshape(-1))

    def mean(these: np.ndarray) -> np.ndarray:
        return np.asarray(np.bincount(number, these) / total)

    rows = np.stack([mean(v) for v in values[near].T], axis=1)
    beside = np.array([mean(v) for v in others[near].T]).reshape(-1, len(total)).T
    return Strip(mean(s[near]), mean(t), mean(h), rows, bins[first_cell], total.astype(np.float64), beside)
