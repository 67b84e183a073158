"""Objects of a mask of layers: pieces of each layer, contacts between them, and sums over their pixels."""

from __future__ import annotations

import numpy as np
from scipy import ndimage
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

FACES = ((0, 0),)
AROUND = tuple((dy, dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1))
CORNERS = ((-1, -1), (-1, 1))
"""Steps (y, x) to neighbours: in the previous layer through a face, or through a face, edge or corner; and in the same
layer the earlier ones that share a corner."""

ALIKE = 1e-6  # of the largest: principal moments with smaller differences are equal, and their axes are undefined


def pieces(mask: np.ndarray) -> tuple[np.ndarray, int]:
    """Number of the piece of each pixel in a layer, and the number of pieces.

    Parameters
    ----------
    mask : array (y, x), bool

    Returns
    -------
    array (y, x), int32
        0 where the mask is False; pixels with a common edge belong to one piece. Pieces are numbered from 1 in order
        of their first pixel, row by row.
    int

    Examples
    --------
    >>> pieces(np.array([[0, 1, 0], [1, 0, 1], [1, 0, 1]], bool))[0].tolist()
    [[0, 1, 0], [2, 0, 3], [2, 0, 3]]
    """
    label, count = ndimage.label(np.ascontiguousarray(mask))
    return label, int(count)


def moved(layer: np.ndarray, offset: tuple[int, int]) -> np.ndarray:
    """Layer shifted back by whole pixels: the value at y + offset moves to y. False or 0 outside the frame.

    Examples
    --------
    >>> moved(np.array([[1, 2, 3]]), (0, 1)).tolist()
    [[2, 3, 0]]
    """
    if offset == (0, 0):
        return layer
    out = np.zeros_like(layer)
    here, source = [], []
    for shift, size in zip(offset, layer.shape, strict=True):
        low, high = max(0, -shift), min(size, size - shift)
        if low >= high:
            return out
        here.append(slice(low, high))
        source.append(slice(low + shift, high + shift))
    out[tuple(here)] = layer[tuple(source)]
    return out


def piece_sums(label: np.ndarray, count: int) -> np.ndarray:
    """Sums over the pixels of every piece of a layer.

    Parameters
    ----------
    label : array (y, x), int32
        From :func:`pieces`.
    count : int

    Returns
    -------
    array (piece, 10), int64
        Number of pixels; lowest and highest row, lowest and highest column; sums of row, column, row², row × column,
        column².

    Notes
    -----
    Integers: no sum depends on the order of its terms. Sums of a layer stay below 2**53, where float64, in which they
    are computed, is exact: 5.5 million pixels times 2560² are 2**45.

    Examples
    --------
    >>> piece_sums(np.array([[0, 1, 1], [0, 0, 1]], np.int32), 1).tolist()
    [[3, 0, 1, 1, 2, 1, 5, 1, 2, 9]]
    """
    y, x = _places(label)
    number = label[y, x] - 1
    out = np.empty((count, 10), np.int64)
    out[:, (1, 3)], out[:, (2, 4)] = np.iinfo(np.int64).max, -1
    for column, coordinate in ((1, y), (3, x)):
        np.minimum.at(out[:, column], number, coordinate)
        np.maximum.at(out[:, column + 1], number, coordinate)
    for column, terms in ((0, None), (5, y), (6, x), (7, y * y), (8, y * x), (9, x * x)):
        out[:, column] = np.bincount(number, terms, count)
    return out


def _places(label: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns of the pixels that are not 0, row by row; ten times as fast as ``np.nonzero``."""
    y, x = np.divmod(np.flatnonzero(label > 0), label.shape[1])
    return y, x


def touching(here: np.ndarray, other: np.ndarray, steps: tuple[tuple[int, int], ...]) -> np.ndarray:
    """Pairs of pieces with neighbouring pixels.

    Parameters
    ----------
    here, other : array (y, x), int32
        Pieces of a layer and of the previous one, or of the same layer twice.
    steps : tuple of (int, int)
        Steps from a pixel to its neighbours in ``other``: y and x, -1 to 1.

    Returns
    -------
    array (pair, 2), int64
        Piece of ``here`` and piece of ``other``, each pair once, ascending.

    Examples
    --------
    >>> touching(np.array([[1, 0, 2]]), np.array([[1, 1, 1]]), FACES).tolist()
    [[1, 1], [2, 1]]
    """
    y, x = _places(here)
    number = here[y, x].astype(np.int64)
    wide = np.pad(other, 1)
    span = int(other.max(initial=0)) + 1
    keys = []
    for dy, dx in steps:
        near = wide[y + (1 + dy), x + (1 + dx)]
        met = near > 0
        key = number[met] * span + near[met]
        keys.append(np.unique(key[np.diff(key, prepend=-1) != 0]))  # drop consecutive repetitions before sorting
    every = np.unique(np.concatenate(keys))
    return np.stack([every // span, every % span], axis=1)


def numbered(count: int, pairs: np.ndarray) -> np.ndarray:
    """Number of the object of each piece: pieces that touch, directly or through others, are one object.

    Parameters
    ----------
    count : int
        Number of pieces.
    pairs : array (pair, 2), int
        Pieces that touch, numbered from 0.

    Returns
    -------
    array (piece,), int64
        From 0, in order of the first piece of each object.

    Examples
    --------
    >>> numbered(5, np.array([[3, 0], [4, 3]])).tolist()
    [0, 1, 2, 0, 0]
    """
    if count == 0:
        return np.zeros(0, np.int64)
    graph = coo_array((np.ones(len(pairs), np.int8), (pairs[:, 0], pairs[:, 1])), (count, count))
    member = connected_components(graph, directed=False)[1]
    _, first, member = np.unique(member, return_index=True, return_inverse=True)
    rank = np.empty(len(first), np.int64)
    rank[np.argsort(first)] = np.arange(len(first))
    return rank[member]


def object_table(sums: np.ndarray, z: np.ndarray, member: np.ndarray, grid: np.ndarray) -> dict[str, np.ndarray]:
    """Number of voxels, box, centroid and principal axes of objects.

    Parameters
    ----------
    sums : array (piece, 10), int64
        From :func:`piece_sums`.
    z : array (piece,), float64, um
        Position of the layer of each piece.
    member : array (piece,), int
        Number of the object of each piece, from 0; every object has a piece.
    grid : array (4,), float64, um
        Position of the first row and of the first column, and distance of neighbouring rows and columns.

    Returns
    -------
    dict
        ``voxels`` (object,) int64; ``low``, ``high``, ``centroid`` (object, xyz), um; ``extent`` (object, axis), um,
        standard deviations along the principal axes, descending; ``axes`` (object, axis, xyz), unit vectors.

    Notes
    -----
    Extents are those of voxel centres: an object of one voxel has extent 0. The sign of an axis is chosen such that its
    largest component is positive. If two extents are equal, their axes are undefined and NaN: all three for a single
    voxel or a ball, two for a straight line.
    """
    count = int(member.max(initial=-1)) + 1
    voxels, low, high = _boxes(sums, member, count)
    y, x = low[member, 0], low[member, 1]
    n, sy, sx, syy, syx, sxx = (sums[:, k] for k in (0, 5, 6, 7, 8, 9))
    near = np.stack(  # the same sums relative to the corner of the object's box: integers without loss
        [
            sx - n * x,
            sy - n * y,
            sxx - 2 * x * sx + n * x * x,
            syx - y * sx - x * sy + n * y * x,
            syy - 2 * y * sy + n * y * y,
        ],
        axis=1,
    )
    first = np.zeros((count, 5), np.int64)
    np.add.at(first, member, near)
    bottom, top = np.full(count, np.inf), np.full(count, -np.inf)
    np.minimum.at(bottom, member, z)
    np.maximum.at(top, member, z)
    height = z - bottom[member]
    step = np.array([grid[3], grid[2]])  # x, y
    origin = np.array([grid[1], grid[0]])
    mean = np.empty((count, 3))
    mean[:, :2] = first[:, :2] / voxels[:, None] * step
    mean[:, 2] = np.bincount(member, n * height, count) / voxels
    square = np.empty((count, 3, 3))
    for (i, j), total in zip(((0, 0), (0, 1), (1, 1)), first[:, 2:].T, strict=True):
        square[:, i, j] = total / voxels * (step[i] * step[j])
    for i in range(2):
        square[:, i, 2] = np.bincount(member, near[:, i] * height, count) / voxels * step[i]
    square[:, 2, 2] = np.bincount(member, n * height**2, count) / voxels
    for i, j in ((0, 1), (0, 2), (1, 2)):
        square[:, j, i] = square[:, i, j]
    extent, axes = _principal(square - mean[:, :, None] * mean[:, None, :])
    corner = np.column_stack([origin + low[:, ::-1] * step, bottom])
    ends = np.stack([corner, np.column_stack([origin + high[:, ::-1] * step, top])])
    return {
        "voxels": voxels,
        "low": ends.min(axis=0),
        "high": ends.max(axis=0),
        "centroid": corner + mean,
        "extent": extent,
        "axes": axes,
    }


def _boxes(sums: np.ndarray, member: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Number of voxels of every object, and its lowest and highest row and column (object, yx)."""
    voxels = np.zeros(count, np.int64)
    np.add.at(voxels, member, sums[:, 0])
    low, high = np.full((count, 2), np.iinfo(np.int64).max), np.full((count, 2), -1)
    np.minimum.at(low, member, sums[:, (1, 3)])
    np.maximum.at(high, member, sums[:, (2, 4)])
    return voxels, low, high


def _principal(covariance: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Standard deviations along the principal axes (object, axis), descending, and the axes (object, axis, xyz)."""
    moments, vectors = np.linalg.eigh(covariance)
    moments, axes = np.maximum(moments[:, ::-1], 0), vectors[:, :, ::-1].transpose(0, 2, 1)
    largest = np.argmax(np.round(np.abs(axes), 9), axis=2)[..., None]
    axes = axes * np.where(np.take_along_axis(axes, largest, axis=2) < 0, -1.0, 1.0)
    degenerate = moments[:, :-1] - moments[:, 1:] <= ALIKE * moments[:, :1]
    undefined = np.zeros(moments.shape, bool)
    undefined[:, :-1] |= degenerate
    undefined[:, 1:] |= degenerate
    return np.sqrt(moments), np.where(undefined[..., None], np.nan, axes)
