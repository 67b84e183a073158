"""Fields at points: how the kernels of all defects read points in blocks and write distortions.

Kernels work on full blocks only, the last one padded: the instructions for a point do not depend on its index. One
scratch array has constant offsets, because the compiler can then exclude overlaps and vectorise. Its rows for a block
are x, y, z of the points, then the nine components of beta in row-major order.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from dfxm_dask.errors import InputError

# Points treated together: twelve rows of 256 numbers fill 24 KiB and stay in the first-level cache (our choice).
BLOCK = 256
FIELD = 3 * BLOCK  # where beta begins in the scratch array


def columns(points: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Coordinates of points as three contiguous arrays, as the kernels read them.

    Parameters
    ----------
    points : array (..., 3), um
        Positions.

    Returns
    -------
    x, y, z : array (n,), float64, um

    Raises
    ------
    InputError
        A last axis that is not 3, or numbers that are not finite.

    Examples
    --------
    >>> [c.tolist() for c in columns(np.array([[1.0, 2.0, 3.0]]))]
    [[1.0], [2.0], [3.0]]
    """
    points = np.asarray(points, np.float64)
    if points.ndim == 0 or points.shape[-1] != 3:
        raise InputError("points", f"have the shape {points.shape}", "give an array (..., 3)")
    if not np.isfinite(points).all():
        raise InputError("points", "hold a number that is not finite", "give finite positions")
    x, y, z = np.ascontiguousarray(points.reshape(-1, 3).T)
    return x, y, z


@njit(inline="always")
def take_block(x, y, z, first, scratch):
    """Copies the points of one block into the scratch array, with a field of zero."""
    last = min(BLOCK, x.shape[0] - first) - 1
    for i in range(BLOCK):
        j = first + min(i, last)
        scratch[i] = x[j]
        scratch[BLOCK + i] = y[j]
        scratch[2 * BLOCK + i] = z[j]
    scratch[FIELD:] = 0


@njit(inline="always")
def add_block(scratch, first, out):
    """Adds the field of one block to that of all points (9, n)."""
    for c in range(9):
        for i in range(min(BLOCK, out.shape[1] - first)):
            out[c, first + i] += scratch[FIELD + c * BLOCK + i]


@njit(inline="always")
def add_turned(rows, place, step, frame, first, second):
    """beta of a line in its own frame, turned into that of the points and added: first ⊗ e1 + second ⊗ n.

    ``frame`` holds the nine components of e1, n and t; ``first`` and ``second`` the columns of beta along e1 and n in
    that frame (the one along t is zero); components lie ``step`` apart in ``rows``, from ``place`` onwards.
    """
    ax, ay, az, nx, ny, nz, tx, ty, tz = frame
    (b11, b21, b31), (b12, b22, b32) = first, second
    c1x = b11 * ax + b21 * nx + b31 * tx
    c1y = b11 * ay + b21 * ny + b31 * ty
    c1z = b11 * az + b21 * nz + b31 * tz
    c2x = b12 * ax + b22 * nx + b32 * tx
    c2y = b12 * ay + b22 * ny + b32 * ty
    c2z = b12 * az + b22 * nz + b32 * tz
    rows[place] += c1x * ax + c2x * nx
    rows[place + step] += c1x * ay + c2x * ny
    rows[place + 2 * step] += c1x * az + c2x * nz
    rows[place + 3 * step] += c1y * ax + c2y * nx
    rows[place + 4 * step] += c1y * ay + c2y * ny
    rows[place + 5 * step] += c1y * az + c2y * nz
    rows[place + 6 * step] += c1z * ax + c2z * nx
    rows[place + 7 * step] += c1z * ay + c2z * ny
    rows[place + 8 * step] += c1z * az + c2z * nz


def tensors(out: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Distortion of every point as a matrix, from the rows that the kernels write.

    Parameters
    ----------
    out : array (9, n)
        Rows b11, b12, ... b33.
    shape : tuple
        Shape of the points without their last axis.

    Returns
    -------
    array (*shape, 3, 3)

    Examples
    --------
    >>> tensors(np.arange(9.0)[:, None], ()).tolist()
    [[0.0, 1.0, 2.0], [3.0, 4.0, 5.0], [6.0, 7.0, 8.0]]
    """
    return np.ascontiguousarray(out.T).reshape(*shape, 3, 3)
