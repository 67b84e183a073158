"""Sums over points that are exact, whatever the blocks: numbers of cells, moments of planes, and planes from them."""

from __future__ import annotations

import numpy as np
from numba import njit

from dfxm_dask.boundaries.planes.plane import Planes, canonical, in_plane
from dfxm_dask.errors import InputError

FINE = 2**16
"""Terms of all sums are rounded to whole multiples of 1/65536 and added as integers, so that no sum depends on the
order of its terms. Each is off by 4e-6 (rms) and without bias, far below what noise does to it."""

THINNEST = 0.02  # um; an exact plane has no spread, a Gaussian must
BITS = 20  # of the number of a cell along one axis; cells of 1 um reach to FARTHEST


def cell_numbers(points: np.ndarray, edge: float) -> np.ndarray:
    """Number of the cell that each point lies in, (point,), int64; cells are the same for all points of all blocks."""
    cells = np.floor(points / edge).astype(np.int64) + 2 ** (BITS - 1)
    return (cells[:, 0] << 2 * BITS) | (cells[:, 1] << BITS) | cells[:, 2]


def cell_places(cells: np.ndarray, edge: float) -> np.ndarray:
    """Centres of cells, (cell, xyz), float64, um."""
    mask = 2**BITS - 1
    parts = np.stack([cells >> 2 * BITS, (cells >> BITS) & mask, cells & mask], axis=-1)
    return (parts - 2 ** (BITS - 1) + 0.5) * edge


def cells_of(points: np.ndarray, edge: float) -> tuple[np.ndarray, np.ndarray]:
    """Cells that have points, rising, (cell,), and the place of each point's among them, (point,); both int64."""
    cells, place = np.unique(cell_numbers(points, edge), return_inverse=True)
    return cells, place.reshape(-1).astype(np.int64)


@njit(nogil=True, cache=True)
def add_point(s, r, x, y, z):
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
    for i in range(points.shape[0]):
        x, y, z = points[i, 0] - centre[0], points[i, 1] - centre[1], points[i, 2] - centre[2]
        add_point(sums[group[i]], probability[i], x, y, z)


def refuse_overflow(points: np.ndarray, centre: np.ndarray) -> None:
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
        To lie on the plane, times weight.
    normal : array (xyz,)
        Of the plane.
    centre : array (xyz,), um
        That coordinates are counted from.
    edge : float, um
        Of a square.

    Returns
    -------
    squares : array (square,), int64
    sums : array (square, 10), int64
        As of :class:`~dfxm_dask.boundaries.planes.mixture.Statistics`. Of two blocks: add those of equal squares.

    Raises
    ------
    InputError
        See :func:`refuse_overflow`.

    Notes
    -----
    Squares and not cubes: a cube's face may cut through the plane at a small angle, and the points on either side of it
    would then be off to one side, all of them.
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
        The last dim as of :class:`~dfxm_dask.boundaries.planes.mixture.Statistics`.
    centre : array (xyz,), um
    thickest : float, um
        The largest standard deviation that a plane may have.

    Returns
    -------
    Planes
        With leading dims as of ``sums``; NaN where there is no mass.
    """
    sums = np.asarray(sums, np.float64) / FINE
    mass = sums[..., 0]
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = sums[..., 1:4] / mass[..., None]
        square = sums[..., [4, 5, 6, 5, 7, 8, 6, 8, 9]].reshape(*mass.shape, 3, 3) / mass[..., None, None]
    spread = square - mean[..., :, None] * mean[..., None, :]
    known = np.asarray(np.isfinite(spread).all(axis=(-1, -2)))
    values, vectors = np.linalg.eigh(np.where(known[..., None, None], spread, np.eye(3)))
    normal = np.where(known[..., None], canonical(vectors[..., :, 0]), np.nan)
    sigma = np.where(known, np.sqrt(np.clip(values[..., 0], THINNEST**2, thickest**2)), np.nan)
    return Planes(normal, mean + centre, sigma, mass)
