"""Map of an image along the trace of a boundary, layer by layer, and waves in it."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.ndimage import gaussian_filter1d

PLACE = 0.25  # um of trace: edge of a cell of the map
NEAR = 0.7  # um in the layer from the plane: half of the width of a line's image
HIGH_PASS = 8.0  # um: standard deviation of the running mean that is subtracted along the trace
CLIP = (-3.0, 6.0)  # robust standard deviations; for a difference of images 6 to either side
FINEST = 1e-9  # of the largest value: smaller variations of a constant image are rounding errors
ALIKE = 0.9  # ratio of powers at two frequencies above which layers do not distinguish them (our choice)
STEEPEST = 0.95  # |z| of a unit normal above which a boundary has no trace in a layer


class StripMap(NamedTuple):
    """Map (layer, position) of the isolated weak beam along the trace of a boundary.

    Attributes
    ----------
    values : array (layer, position), float64
        High-passed, in robust standard deviations; 0 where unknown.
    known : array (layer, position), bool
    along : array (position,), float64, um
        Distance from the origin of the plane.
    z : array (layer,), float64, um
        Height above the origin of the plane.
    axes : array (2, xyz)
        Unit vectors of the plane, along the trace and up.
    scale : float
        One standard deviation, in the unit of the image.
    """

    values: np.ndarray
    known: np.ndarray
    along: np.ndarray
    z: np.ndarray
    axes: np.ndarray
    scale: float


def strip_map(
    cells: np.ndarray,
    image: np.ndarray,
    normal: np.ndarray,
    origin: np.ndarray,
    corner: np.ndarray | None = None,
    clip: tuple[float, float] = CLIP,
) -> StripMap:
    """Mean of an image beside a plane, for every layer and 0.25 um of its trace.

    Parameters
    ----------
    cells : array (cell, column)
        See :func:`line_sets`.
    image : array (cell,)
        For example the isolated weak beam; NaN where unknown.
    normal, origin : array (xyz,)
        Unit vector, and a point of the plane, um.
    corner : array (vertex, xyz), um, optional
        Corners of the patch; cells beyond its bounding box in the plane are left out.
    clip : (float, float)
        Smallest and largest value of the map, robust standard deviations.

    Returns
    -------
    StripMap
        Layers without a known cell are left out.

    Notes
    -----
    Unknown positions do not enter the high pass, so that a gap has no edge.
    """
    flat = float(np.hypot(normal[0], normal[1]))
    along = np.array([-normal[1], normal[0], 0.0]) / max(flat, 1e-12)
    axes = np.stack([along, np.cross(normal, along)])
    axes[1] *= np.sign(axes[1, 2]) or 1.0
    empty = StripMap(np.zeros((0, 0)), np.zeros((0, 0), bool), np.zeros(0), np.zeros(0), axes, 0.0)
    if abs(normal[2]) > STEEPEST:
        return empty
    away = cells[:, :3] - origin
    used = (np.abs(away @ normal) < NEAR * flat) & np.isfinite(image) & (cells[:, 7] > 0)
    if corner is not None:
        ring, flat_positions = (corner - origin) @ axes.T, away @ axes.T
        used &= ((flat_positions >= ring.min(axis=0) - PLACE) & (flat_positions <= ring.max(axis=0) + PLACE)).all(
            axis=1
        )
    if not used.any():
        return empty
    # Sums of floating-point numbers depend on their order, and the order of cells is arbitrary.
    order = np.lexsort([image[used], *cells[used][:, :3].T])
    weights, image, away = cells[used, 7][order], image[used][order], away[used][order]
    cell = np.floor(away @ axes[0] / PLACE).astype(np.int64)
    first, length = int(cell.min()), int(np.ptp(cell)) + 1
    z, layer = np.unique(np.rint(away[:, 2] * 1024), return_inverse=True)
    index = layer.reshape(-1) * length + cell - first
    total = np.bincount(index, weights * image, len(z) * length).reshape(len(z), length)
    weight = np.bincount(index, weights, len(z) * length).reshape(len(z), length)
    known = weight > 0
    means = np.where(known, total / np.where(known, weight, 1.0), 0.0)
    # Truncated at four standard deviations, the mean has no weight in the middle of a long gap: no value is needed.
    share = gaussian_filter1d(known.astype(float), HIGH_PASS / PLACE, axis=1, mode="constant")
    smooth = gaussian_filter1d(means, HIGH_PASS / PLACE, axis=1, mode="constant") / np.maximum(share, 1e-12)
    high = np.where(known, means - smooth, 0.0)
    spread = 1.4826 * float(np.median(np.abs(high[known] - np.median(high[known]))))
    spread = spread or float(high[known].std())  # more than half of the map is constant
    values = np.where(known, np.clip(high / spread, *clip), 0.0) if spread > FINEST * np.abs(means).max() else 0 * high
    return StripMap(values, known, (first + 0.5 + np.arange(length)) * PLACE, z / 1024, axes, spread)


def alias_period(z: np.ndarray) -> float:
    """Frequency along z modulo which layers at these heights do not distinguish directions; 1/um, inf if none.

    Parameters
    ----------
    z : array (layer,), um
        Ascending.

    Returns
    -------
    float
        1/spacing for evenly spaced layers, even if some are missing; inf for layers at uneven heights.

    Examples
    --------
    >>> alias_period(np.array([0.0, 2, 4, 8, 10])), alias_period(np.array([0.0, 1.1, 1.9, 3.4, 4.0]))
    (0.5, inf)
    """
    step = float(np.diff(z).min())
    tries = np.arange(0.6 / np.ptp(z), 1.2 / step, 0.05 / np.ptp(z))
    same = np.abs(np.exp(2j * np.pi * tries[:, None] * z).mean(axis=1)) ** 2
    maxima = np.flatnonzero((same[1:-1] > ALIKE) & (same[1:-1] >= same[:-2]) & (same[1:-1] >= same[2:]))
    if not len(maxima):
        return float("inf")
    # Refine between two tries by a parabola through three.
    k = int(maxima[0]) + 1
    curve = same[k - 1] - 2 * same[k] + same[k + 1]
    period = tries[k] + (0.025 / np.ptp(z) * (same[k - 1] - same[k + 1]) / curve if curve < 0 else 0.0)
    return float(np.round(period, 6))


def wave_power(strip: StripMap, trace: np.ndarray, up: np.ndarray) -> np.ndarray:
    """Power of the map at given frequencies, |sum values exp(-2 pi i (trace t + up z))|².

    Parameters
    ----------
    strip : StripMap
    trace, up : array (n,), 1/um
        Frequencies along the trace and along z.

    Returns
    -------
    array (n,), float64
    """
    rows = strip.values @ np.exp(-2j * np.pi * strip.along[:, None] * trace)
    return np.abs((rows * np.exp(-2j * np.pi * strip.z[:, None] * up)).sum(axis=0)) ** 2


def fitted_wave(strip: StripMap, at: np.ndarray, overtones: int) -> tuple[np.ndarray, np.ndarray]:
    """Least-squares wave of a map at a frequency, with its overtones.

    Parameters
    ----------
    strip : StripMap
    at : array (2,), 1/um
        Frequency along the trace and along z.
    overtones : int

    Returns
    -------
    fitted : array (layer, position), float64
        0 where the map is unknown.
    turns : array (layer, position), float64
        Phase of the wave.
    """
    turns = at[0] * strip.along[None] + at[1] * strip.z[:, None]
    angle = 2 * np.pi * turns[strip.known]
    columns = np.stack([f(n * angle) for n in range(1, overtones + 2) for f in (np.cos, np.sin)], axis=1)
    solved, *_ = np.linalg.lstsq(columns.T @ columns, columns.T @ strip.values[strip.known], rcond=None)
    fitted = np.zeros_like(strip.values)
    fitted[strip.known] = columns @ solved
    return fitted, turns
