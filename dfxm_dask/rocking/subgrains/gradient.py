"""Gradient of the orientation in a layer, and the layer divided into segments by a watershed of its size."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from scipy import ndimage
from skimage.morphology import h_minima
from skimage.segmentation import watershed

from dfxm_dask.rocking.moments import without_single
from dfxm_dask.schema import pixel_length

SHALLOW = 0.1
"""Basins of the gradient shallower than this multiple of its median are parts of others (our choice)."""
UNCERTAIN = 8.0
"""Pixels whose standard error exceeds this multiple of the median of their layer are left out (our choice): they are
noise beside the sample."""


def pixel_edges(name: str, y: np.ndarray, x: np.ndarray) -> tuple[float, float]:
    """Length of a pixel along y and x, um; 1 along a side of one pixel.

    Raises
    ------
    InputError
        Pixels of unequal size.
    """
    high, wide = pixel_length("y", name, y), pixel_length("x", name, x)
    return high if np.isfinite(high) else 1.0, wide if np.isfinite(wide) else 1.0


def known_angles(
    com: Mapping[str, np.ndarray], flags: np.ndarray | None, errors: Mapping[str, np.ndarray] | None
) -> np.ndarray:
    """Centres of mass along all axes, (axis, y, x), float64: NaN on all axes where one is unknown or uncertain."""
    angles = np.stack([np.asarray(value, np.float64) for value in without_single(dict(com), flags).values()])
    known = np.isfinite(angles).all(axis=0)
    for error in (errors or {}).values():
        seen = known & np.isfinite(error)
        if seen.any():
            known = known & ~(error > UNCERTAIN * np.median(error[seen]))
    return np.where(known, angles, np.nan)


def smoothed(angles: np.ndarray, sigma: tuple[float, float]) -> np.ndarray:
    """Orientation after a Gaussian whose weights count known pixels alone.

    Parameters
    ----------
    angles : array (axis, y, x)
        NaN where unknown, on all axes.
    sigma : (float, float), pixel

    Returns
    -------
    array (axis, y, x), float64
        NaN where unknown.
    """
    known = np.isfinite(angles[0])
    out = np.full(angles.shape, np.nan)
    if not known.any():
        return out
    weight = ndimage.gaussian_filter(known.astype(np.float64), sigma, mode="constant")
    for k, angle in enumerate(angles):
        middle = float(np.mean(angle[known]))  # digits of a large offset would be lost
        total = ndimage.gaussian_filter(np.where(known, angle - middle, 0.0), sigma, mode="constant")
        out[k][known] = total[known] / weight[known] + middle
    return out


def gradient_size(angles: np.ndarray, pixel: tuple[float, float]) -> np.ndarray:
    """Size of the gradient over all axes: (y, x), float64, degree/um; one-sided beside unknown pixels, NaN there.

    Examples
    --------
    >>> gradient_size(np.array([[[0.0, 1.0, 2.0]]]), (1.0, 0.5)).tolist()
    [[2.0, 2.0, 2.0]]
    """
    square = np.zeros(angles.shape[1:])
    for angle in angles:
        for axis in (0, 1):
            slope = _slope(angle, axis) / pixel[axis]
            square += slope * slope
    return np.sqrt(np.where(np.isfinite(angles).all(axis=0), square, np.nan))


def _slope(angle: np.ndarray, axis: int) -> np.ndarray:
    """Difference per pixel along an axis: central, else one-sided, else 0."""
    step = np.diff(angle, axis=axis)
    total, known = np.zeros(angle.shape), np.zeros(angle.shape)
    for side in (slice(1, None), slice(None, -1)):
        part: list[slice] = [slice(None)] * 2
        part[axis] = side
        total[tuple(part)] += np.nan_to_num(step)
        known[tuple(part)] += np.isfinite(step)
    return np.asarray(total / np.maximum(known, 1))


def divided(slope: np.ndarray) -> np.ndarray:
    """Segments of a layer: basins of the gradient, (y, x), int32, from 1 in the order of their lowest pixels; 0 where
    the gradient is NaN.
    """
    known = np.isfinite(slope)
    if not known.any():
        return np.zeros(slope.shape, np.int32)
    heights = np.where(known, slope, slope[known].max()).astype(np.float32)
    deep = h_minima(heights, max(np.float32(SHALLOW * np.median(heights[known])), np.finfo(np.float32).tiny))
    start, count = ndimage.label((deep > 0) & known, np.ones((3, 3)))
    if count == 0:  # a constant orientation has no lower pixel
        start = ndimage.label(known)[0]
    label = watershed(heights, start, mask=known)
    return np.asarray(_completed(label, known), np.int32)


def _completed(label: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Segments, with new ones for pieces of the layer that contain no lowest pixel."""
    missed, _ = ndimage.label(known & (label == 0))
    return np.where(missed > 0, missed + label.max(), label)
