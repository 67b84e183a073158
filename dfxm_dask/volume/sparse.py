"""Voxels of a mask as a sorted list, and the exact distance from each to the nearest of another list."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from math import prod
from typing import NamedTuple

import numpy as np
from numba import njit

LEAF = 16
"""Number of voxels in a leaf of the tree (our choice: fastest on masks of dislocations)."""


class Voxels(NamedTuple):
    """The true voxels of a mask.

    Attributes
    ----------
    shape : tuple of int
        Shape of the mask: (y, x) or (z, y, x).
    flat : array (voxel,), int64
        Index of each voxel in the flattened mask, ascending.
    positions : tuple of arrays, float64, um
        Positions of the voxel centres along each dimension; they need not be evenly spaced.
        Position of the voxels' centres along each dimension; they need not be evenly spaced.
    """

    shape: tuple[int, ...]
    flat: np.ndarray
    positions: tuple[np.ndarray, ...]


def voxels(layers: Iterable[np.ndarray], positions: Sequence[np.ndarray]) -> Voxels:
    """The true voxels of a mask that is read layer by layer.

    Parameters
    ----------
    layers : iterable of arrays, bool
        Layers along the first dimension, so that only one is in memory; a complete mask is also an iterable of layers.
    positions : sequence of arrays, um
        Positions along each dimension.

    Returns
    -------
    Voxels

    Examples
    --------
    >>> mask = np.array([[0, 1, 1], [1, 0, 0]], bool)
    >>> voxels(mask, (np.arange(2), np.arange(3))).flat.tolist()
    [1, 2, 3]
    """
    shape = tuple(len(p) for p in positions)
    each = prod(shape[1:])
    indices = [np.flatnonzero(layer) + k * each for k, layer in enumerate(layers)]
    index = np.concatenate(indices) if indices else np.zeros(0, np.int64)
    return Voxels(shape, index.astype(np.int64, copy=False), tuple(np.asarray(p, np.float64) for p in positions))


def moved(mask: Voxels, shift: Sequence[int]) -> Voxels:
    """The voxels shifted by whole voxels along each dimension, with periodic boundaries as in ``np.roll``."""
    index = np.unravel_index(mask.flat, mask.shape)
    index = tuple((p + s) % n for p, s, n in zip(index, shift, mask.shape, strict=True))
    return mask._replace(flat=np.sort(np.ravel_multi_index(index, mask.shape)))


def shared(a: Voxels, b: Voxels) -> int:
    """Number of voxels in both lists."""
    return int(_shared(a.flat, b.flat))


def nearest(a: Voxels, b: Voxels, *, threads: int = 1) -> np.ndarray:
    """Distance from every voxel of one list to the nearest voxel of another.

    Parameters
    ----------
    a, b : Voxels
        Both on one grid.
    threads : int
        Number of threads; the result does not depend on it.

    Returns
    -------
    array (voxel of a,), float64, um
        NaN throughout if b is empty.

    Notes
    -----
    Exact to the last digit for any division of a into parts. Voxels of b are sorted into a tree of boxes along a Morton
    curve; the search begins with the nearest voxels of the neighbours, which excludes nearly all boxes. Rounding is
    monotone, so that an excluded box never contains a smaller distance. Time is proportional to the number of true
    voxels; memory is about 60 bytes for each voxel of b and 16 for each of a.
    """
    if not len(b.flat):
        return np.full(len(a.flat), np.nan)
    positions = [np.zeros(1)] * (3 - len(a.positions)) + [np.ascontiguousarray(p) for p in a.positions]
    points, boxes = _tree(b.flat, *positions)
    out = np.empty(len(a.flat))
    cuts = np.linspace(0, len(a.flat), max(1, threads) + 1).astype(int)

    def part(k: int) -> None:
        here = slice(cuts[k], cuts[k + 1])
        _nearest(a.flat[here], b.flat, *positions, points, boxes, out[here])

    with ThreadPoolExecutor(max(1, threads)) as pool:
        list(pool.map(part, range(len(cuts) - 1)))
    return out


def _tree(index: np.ndarray, z: np.ndarray, y: np.ndarray, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Positions (voxel, zyx) along a Morton curve, and the boxes (node, 6) of a binary tree over its leaves.

    Node 1 is the root, node k has the children 2k and 2k + 1; boxes without voxels are infinitely far away.
    """
    order = np.argsort(_codes(index, z, y, x))
    points = np.empty((len(index), 3))
    _gather(index[order], z, y, x, points)
    leaves = 1 << max(0, (-(-len(index) // LEAF) - 1).bit_length())
    boxes = np.empty((2 * leaves, 6))
    _enclose(points, leaves, boxes)
    return points, boxes


@njit(nogil=True, cache=True)
def _shared(a, b):
    """Number of common values of two ascending lists."""
    count, k = 0, 0
    for i in range(a.size):
        while k < b.size and b[k] < a[i]:
            k += 1
        if k < b.size and b[k] == a[i]:
            count += 1
    return count


@njit(nogil=True, cache=True)
def _spread(value):
    """The lowest 21 bits, each followed by two zeros."""
    value &= np.uint64(0x1FFFFF)
    value = (value | (value << np.uint64(32))) & np.uint64(0x1F00000000FFFF)
    value = (value | (value << np.uint64(16))) & np.uint64(0x1F0000FF0000FF)
    value = (value | (value << np.uint64(8))) & np.uint64(0x100F00F00F00F00F)
    value = (value | (value << np.uint64(4))) & np.uint64(0x10C30C30C30C30C3)
    return (value | (value << np.uint64(2))) & np.uint64(0x1249249249249249)


@njit(nogil=True, cache=True)
def _codes(index, z, y, x):
    """Position of each voxel on a Morton curve of cubes, with equal lengths along every dimension."""
    low = np.array([z.min(), y.min(), x.min()])
    extent = max(z.max() - low[0], y.max() - low[1], x.max() - low[2])
    scale = 2097151 / extent if extent > 0 else 0.0
    out = np.empty(index.size, np.uint64)
    for i in range(index.size):
        row = index[i] // x.size
        code = _spread(np.uint64((x[index[i] - row * x.size] - low[2]) * scale))
        layer = row // y.size
        code |= _spread(np.uint64((y[row - layer * y.size] - low[1]) * scale)) << np.uint64(1)
        out[i] = code | (_spread(np.uint64((z[layer] - low[0]) * scale)) << np.uint64(2))
    return out


@njit(nogil=True, cache=True)
def _gather(index, z, y, x, points):
    """Positions (z, y, x) of voxels, from their numbers in the volume."""
    for i in range(index.size):
        row = index[i] // x.size
        layer = row // y.size
        points[i, 0], points[i, 1], points[i, 2] = z[layer], y[row - layer * y.size], x[index[i] - row * x.size]


@njit(nogil=True, cache=True)
def _enclose(points, leaves, boxes):
    """Fill a binary tree of boxes: node k encloses nodes 2k and 2k + 1, a leaf encloses consecutive points."""
    boxes[:, :3], boxes[:, 3:] = np.inf, -np.inf
    for i in range(points.shape[0]):
        box = boxes[leaves + i // LEAF]
        for j in range(3):
            box[j], box[3 + j] = min(box[j], points[i, j]), max(box[3 + j], points[i, j])
    for k in range(leaves - 1, 0, -1):
        for j in range(3):
            boxes[k, j] = min(boxes[2 * k, j], boxes[2 * k + 1, j])
            boxes[k, 3 + j] = max(boxes[2 * k, 3 + j], boxes[2 * k + 1, 3 + j])


@njit(nogil=True, cache=True)
def _outside(box, z, y, x):
    """Squared distance from a position to a box, 0 inside."""
    a = max(box[0] - z, z - box[3], 0.0)
    b = max(box[1] - y, y - box[4], 0.0)
    c = max(box[2] - x, x - box[5], 0.0)
    return a * a + b * b + c * c


@njit(nogil=True, cache=True)
def _apart(point, z, y, x):
    """Squared distance from a point to a position."""
    a, b, c = point[0] - z, point[1] - y, point[2] - x
    return a * a + b * b + c * c


@njit(nogil=True, cache=True)
def _nearest(index, others, z, y, x, points, boxes, out):
    """Distance of each voxel to the nearest point, down the tree into the nearer box first."""
    leaves = boxes.shape[0] // 2
    stack, far = np.empty(64, np.int64), np.empty(64)
    column = np.full(x.size, -1)  # nearest point of the last voxel of each column: a good first guess
    last, k = -1, 0
    if index.size:
        k = np.searchsorted(others, index[0])
    for i in range(index.size):
        while k < others.size and others[k] < index[i]:
            k += 1
        if k < others.size and others[k] == index[i]:
            out[i] = 0.0
            continue
        row = index[i] // x.size
        at = index[i] - row * x.size
        layer = row // y.size
        pz, py, px = z[layer], y[row - layer * y.size], x[at]
        best, closest = np.inf, -1
        for guess in (last, column[at]):
            if guess >= 0:
                d = _apart(points[guess], pz, py, px)
                if d < best:
                    best, closest = d, guess
        stack[0], far[0], depth = 1, _outside(boxes[1], pz, py, px), 1
        while depth:
            depth -= 1
            node = stack[depth]
            if far[depth] >= best:
                continue
            if node >= leaves:
                first = (node - leaves) * LEAF
                for j in range(first, min(first + LEAF, points.shape[0])):
                    d = _apart(points[j], pz, py, px)
                    if d < best:
                        best, closest = d, j
                continue
            left, right = _outside(boxes[2 * node], pz, py, px), _outside(boxes[2 * node + 1], pz, py, px)
            near = 0 if left <= right else 1
            for child, d in ((1 - near, max(left, right)), (near, min(left, right))):  # the nearer is searched first
                if d < best:
                    stack[depth], far[depth] = 2 * node + child, d
                    depth += 1
        out[i] = np.sqrt(best)
        last = closest
        column[at] = closest
