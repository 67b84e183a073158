"""Points of one layer: positions of the defect mask, and local peaks of the rocking curve around it."""

from __future__ import annotations

import numpy as np
from scipy import ndimage
from scipy.special import ndtr

from dfxm_dask.errors import InputError

SQUARE = 0.5
"""Edge in um of the squares whose pixels become one point: half of the width of an image of a line (our choice)."""

LIMITS = (0.0, 1.0, 2.0)
"""Standard deviations above the threshold of the mask from which pixels count, in three readings of one layer: their
differences show the influence of the threshold."""

RIM = 1.5
"""Distance in um from unlit pixels within which no single line is accepted: thickness ends there, and with it the tails
of the rocking curve (our choice)."""

BLOCK = 2.0
"""Edge in um of the squares whose local peaks become one number (our choice)."""

STEPS = 1024  # per um: as in boundaries.planes.plane


def _squares(position: np.ndarray, edge: float) -> np.ndarray:
    """Number of the square of each pixel along one axis; the same squares for every block of a layer."""
    return np.floor(position / edge).astype(np.int64)


def layer_points(
    enhanced: np.ndarray, mask: np.ndarray, y: np.ndarray, x: np.ndarray, z: float, square: float = SQUARE
) -> tuple[np.ndarray, np.ndarray]:
    """Points of the defect mask in one layer, and the probability of each, in three readings.

    Parameters
    ----------
    enhanced : array (y, x), float32
        Weak beam above its surroundings, in standard deviations.
    mask : array (y, x), bool
        Defect mask; pixels without a contrast are left out.
    y, x : array (y,), array (x,), um
    z : float, um
    square : float, um
        Edge of the squares that give one point each.

    Returns
    -------
    points : array (point, xyz), float64, um
        Centres of mass of the masked pixels of a square, weighted by their probability, in multiples of 1/1024 um.
    weights : array (reading, point), float64
        Mean probability of these pixels times the fraction of the square that they fill; 0 without pixels in a reading.

    Raises
    ------
    InputError
        A square or pixel that is not positive.

    Notes
    -----
    In a layer whose mask begins at e0, a pixel at e standard deviations is a dislocation with probability
    Φ(e − e0 − l), with l = 0, 1 and 2 in the three readings, and 0 below e0 + l.
    """
    if not square > 0:
        raise InputError("boundary points: square", f"is {square}", "give a length in um")
    rows, columns = np.nonzero(mask & np.isfinite(enhanced))
    if not rows.size:
        return np.zeros((0, 3)), np.zeros((len(LIMITS), 0))
    values = enhanced[rows, columns].astype(np.float64)
    area = _step(y) * _step(x)
    squares = np.stack([_squares(y[rows], square), _squares(x[columns], square)], axis=1)
    _, number = np.unique(squares, axis=0, return_inverse=True)
    number = number.ravel()
    count = int(number.max()) + 1
    above = values - values.min()
    weights = np.zeros((len(LIMITS), count))
    for k, limit in enumerate(LIMITS):
        total = np.bincount(number, np.where(above >= limit, ndtr(above - limit), 0.0), count)
        weights[k] = np.minimum(total * area / square**2, 1.0)
    chance = ndtr(above)
    positions = [np.bincount(number, chance * v, count) for v in (x[columns], y[rows])]
    points = np.stack([*(p / np.bincount(number, chance, count) for p in positions), np.full(count, float(z))], axis=1)
    return np.rint(points * STEPS) / STEPS, weights


def _step(position: np.ndarray) -> float:
    """Distance of neighbouring pixels, um."""
    step = float(np.median(np.abs(np.diff(position)))) if position.size > 1 else 1.0
    if not step > 0:
        raise InputError("boundary points: pixels", "have no size", "give ascending positions in um")
    return step


def layer_peaks(
    peak: np.ndarray, lit: np.ndarray, mask: np.ndarray, y: np.ndarray, x: np.ndarray, z: float
) -> np.ndarray:
    """Local peaks of the rocking curve away from the defect mask: means over squares of 2 um.

    Parameters
    ----------
    peak : array (y, x), float64, degree
    lit, mask : array (y, x), bool
        Lit pixels; defect mask, which is excluded.
    y, x : array (y,), array (x,), um
    z : float, um

    Returns
    -------
    array (square, 4), float64
        x, y, z of the centre of mass of its pixels (um), and their mean peak (degree).
    """
    usable = lit & ~mask & np.isfinite(peak)
    starts = [np.flatnonzero(np.diff(_squares(p, BLOCK), prepend=np.iinfo(np.int64).min)) for p in (y, x)]
    if not usable.any():
        return np.zeros((0, 4))

    def sums(values: np.ndarray) -> np.ndarray:
        return np.add.reduceat(np.add.reduceat(values, starts[1], axis=1), starts[0], axis=0)

    pixels = sums(usable.astype(np.int32))
    full = pixels > 0
    means = [
        sums(np.where(usable, v, 0.0))[full] / pixels[full] for v in (x[None, :], y[:, None], peak.astype(np.float64))
    ]
    return np.stack([means[0], means[1], np.full(int(full.sum()), float(z)), means[2]], axis=1)


def away_from_rim(lit: np.ndarray, y: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Lit pixels without unlit ones within 1.5 um to each side; beyond the frame all is lit: (y, x), bool."""
    inside = lit
    for axis, position in enumerate((y, x)):
        size = 2 * round(RIM / _step(position)) + 1
        inside = ndimage.minimum_filter1d(inside.view(np.uint8), size, axis=axis, mode="nearest").view(bool)
    return np.asarray(inside)
