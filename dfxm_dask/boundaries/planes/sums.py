"""Sums over points that are exact for any division into blocks: numbers of cells, moments of planes, and planes."""

from __future__ import annotations

import numpy as np
from numba import njit

from dfxm_dask.boundaries.planes.plane import Planes, canonical, in_plane
from dfxm_dask.errors import InputError

FINE = 2**16
"""Terms of all sums are rounded to multiples of 1/65536 and added as integers, so that no sum depends on the order of
its terms. The rounding error is 4e-6 (rms) and without bias, far below the noise."""

THINNEST = 0.02  # um; an exact plane has no spread, a Gaussian must have one
BITS = 20  # of the number of a cell along one axis; cells of 1 um extend to FARTHEST


def cell_numbers(points: np.ndarray, edge: float) -> np.ndarray:
    """Number of the cell of each point, (point,), int64; cells are the same for all points of all blocks."""
    cells = np.floor(points / edge).astype(np.int64) + 2 ** (BITS - 1)
    return (cells[:, 0] << 2 * BITS) | (cells[:, 1] << BITS) | cells[:, 2]


def cell_centres(cells: np.ndarray, edge: float) -> np.ndarray:
    """Centres of cells, (cell, xyz), float64, um."""
    mask = 2**BITS - 1
    parts = np.stack([cells >> 2 * BITS, (cells >> BITS) & mask, cells & mask], axis=-1)
    return (parts - 2 ** (BITS - 1) + 0.5) * edge


def cells_of(points: np.ndarray, edge: float) -> tuple[np.ndarray, np.ndarray]:
    """Cells that have points, ascending, (cell,), and the index of each point's cell, (point,); both int64."""
    cells, index = np.unique(cell_numbers(points, edge), return_inverse=True)
    return cells, index.reshape(-1).astype(np.int64)


@njit(nogil=True, cache=True)
def add_point(s, r, x, y, z):
    """Add one point to ten integer sums."""
    r *= FINE
    s[0] += np.int64(np.rint(r))
    s[1] += np.int64(np.rint(r * x))
    s[2] += np.int64(np.rint(r * y))
    s[3] += np.int64(np.rint(r * z))
    s[4] += np.int64(np.rint(r * x * x))
    s[5] += np.int64(np.rint(r * x * y))
    s[6] += np.int64(np.rint(r * x * z))
    s[7] += np.int64(np.rint(r * y * y))
    s[8] += np.int64(np.rint(r * y * z))
    s[9] += np.int64(np.rint(r * z * z))


@njit(nogil=True, cache=True)
def _add_grouped(points, probability, group, centre, sums):
    """Add points to the sums of their groups."""
    for i in range(points.shape[0]):
        x, y, z = points[i, 0] - centre[0], points[i, 1] - centre[1], points[i, 2] - centre[2]
        add_point(sums[group[i]], probability[i], x, y, z)


def refuse_overflow(points: np.ndarray, centre: np.ndarray) -> None:
    """Refuse points whose integer sums could overflow."""
    if len(points):
        reach = float(np.abs(points - centre).max())
        if len(points) * max(reach, 64.0) ** 2 * FINE > 2.0**61:
            raise InputError(
                f"sums over {len(points)} points up to {reach:g} um from the centre",
                "do not fit 64 bits",
                "thin the points, or fit parts of the volume",
            )


def grouped_sums(
    points: np.ndarray, probability: np.ndarray, normal: np.ndarray, centre: np.ndarray, edge: float
) -> tuple[np.ndarray, np.ndarray]:
    """The sums of one plane, one row for every square of the plane.

    Parameters
    ----------
    points : array (point, xyz), um
    probability : array (point,)
        Probability to lie on the plane, times weight.
    normal : array (xyz,)
        Normal of the plane.
    centre : array (xyz,), um
        Origin of the coordinates.
    edge : float, um
        Edge of a square.

    Returns
    -------
    squares : array (square,), int64
    sums : array (square, 10), int64
        See :class:`~dfxm_dask.boundaries.planes.mixture.Statistics`. Two blocks are merged by adding equal squares.

    Raises
    ------
    InputError
        See :func:`refuse_overflow`.

    Notes
    -----
    Squares, not cubes: the face of a cube may cut a plane at a small angle, and the points on either side of the face
    would then all be displaced to one side.
    """
    mine = probability >= 1e-6
    points, probability = points[mine], probability[mine]
    refuse_overflow(points, centre)
    flat = (points - centre) @ in_plane(normal).T
    squares, group = cells_of(np.column_stack([flat, np.zeros(len(flat))]), edge)
    sums = np.zeros((len(squares), 10), np.int64)
    _add_grouped(points, probability, group, centre, sums)
    return squares, sums


def planes_of_sums(sums: np.ndarray, centre: np.ndarray, thickest: float = np.inf) -> Planes:
    """Planes of least squared distance from their sums.

    Parameters
    ----------
    sums : array (..., 10)
        The last dim as in :class:`~dfxm_dask.boundaries.planes.mixture.Statistics`.
    centre : array (xyz,), um
    thickest : float, um
        The largest standard deviation that a plane may have.

    Returns
    -------
    Planes
        With the leading dims of ``sums``; NaN where there is no mass.
    """
    sums = np.asarray(sums, np.float64) / FINE
    mass = sums[..., 0]
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = sums[..., 1:4] / mass[..., None]
        square = sums[..., [4, 5, 6, 5, 7, 8, 6, 8, 9]].reshape(*mass.shape, 3, 3) / mass[..., None, None]
    spread = square - mean[..., :, None] * mean[..., None, :]
    finite = np.asarray(np.isfinite(spread).all(axis=(-1, -2)))
    values, vectors = np.linalg.eigh(np.where(finite[..., None, None], spread, np.eye(3)))
    normal = np.where(finite[..., None], canonical(vectors[..., :, 0]), np.nan)
    sigma = np.where(finite, np.sqrt(np.clip(values[..., 0], THINNEST**2, thickest**2)), np.nan)
    return Planes(normal, mean + centre, sigma, mass)
