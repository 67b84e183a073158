"""A mask made narrow: half of the local maximum, no small objects, no faint images beside bright ones."""

from __future__ import annotations

import numpy as np
from numba import njit
from scipy import ndimage

WALL = 3.0
"""A boundary without a single dislocation within this distance (um) stays in the mask as a whole (our choice)."""

FAINT, SHARE, BESIDE = 1.3, 0.3, 4.0
"""Contrast over the threshold for :data:`dfxm_dask.beams.mask.ALPHA` up to which an image is faint; the share of the
largest contrast nearby that a faint image must exceed; and the distance in um that counts as nearby. Chosen on one
simulated stack for each strong beam and one of another simulator."""


def without_small(mask: np.ndarray, least: int) -> np.ndarray:
    """Mask without the objects of fewer pixels than ``least``; pixels that touch by a corner belong together.

    Examples
    --------
    >>> without_small(np.array([[1, 0, 1, 1]], bool), 2).astype(int).tolist()
    [[0, 0, 1, 1]]
    """
    if least <= 1 or not mask.any():
        return mask
    label, _ = ndimage.label(mask, np.ones((3, 3)))
    number = label[mask]
    kept = np.zeros(mask.shape, bool)
    kept[mask] = (np.bincount(number) >= least)[number]
    return kept


@njit(nogil=True, cache=True)
def _above_half(contrast, high, wide, kept):
    """Takes pixels out of a mask of which some pixel nearby has twice the contrast or more; it is -inf outside."""
    rows, columns = contrast.shape
    for y in range(rows):
        for x in range(columns):
            if not kept[y, x]:
                continue
            limit = max(2 * contrast[y, x], np.float32(1e-37))
            for row in range(max(0, y - high), min(rows, y + high + 1)):
                reach = wide[abs(row - y)]
                exceeded = 0
                for column in range(max(0, x - reach), min(columns, x + reach + 1)):
                    exceeded |= contrast[row, column] >= limit
                if exceeded:
                    kept[y, x] = False
                    break


def above_half(values: np.ndarray, mask: np.ndarray, reach: float, pixel: tuple[float, float]) -> np.ndarray:
    """Pixels of a mask that exceed half of its largest contrast nearby, so that no image is wider for being brighter.

    Parameters
    ----------
    values : array (y, x), float32
        Contrast.
    mask : array (y, x), bool
        Only the contrast of its pixels counts: a hot pixel that was too small for the mask hides nothing around it.
    reach : float, um
        Radius of the disc that the largest contrast is taken from; 0 leaves the mask as it is.
    pixel : (float, float), um
        Length of a pixel along y and x; infinite along a side of one pixel.

    Returns
    -------
    array (y, x), bool

    Examples
    --------
    >>> image = np.array([[1.0, 3.0, 5.0, 8.0, 5.0, 3.0, 1.0]])
    >>> above_half(image, image > 2, 0.5, (1.0, 0.25)).astype(int).tolist()
    [[0, 0, 1, 1, 1, 0, 0]]
    """
    kept = mask.copy()
    size = [n * one if np.isfinite(one) else 0.0 for n, one in zip(mask.shape, pixel, strict=True)]
    length = min(reach, float(np.hypot(size[0], size[1]))) * (1 + 1e-9)  # there are no pixels beyond the diagonal
    high = int(length // pixel[0])
    across = [np.sqrt(length**2 - (n * pixel[0] if n else 0.0) ** 2) for n in range(high + 1)]
    wide = np.array([int(n // pixel[1]) for n in across], np.int64)
    if reach > 0 and mask.any():
        _above_half(np.where(mask, values, -np.inf).astype(np.float32), high, wide, kept)
    return kept


def narrowed(
    enhanced: np.ndarray, isolated: np.ndarray | None, mask: np.ndarray, reach: float, pixel: tuple[float, float]
) -> np.ndarray:
    """Mask down to half of the largest contrast nearby, and at a boundary to its dislocations where they show.

    Parameters
    ----------
    enhanced : array (y, x), float32
        Contrast that the mask is made of.
    isolated : array (y, x), float32, optional
        Contrast beyond the peaks of all subgrains nearby; see :func:`dfxm_dask.beams.isolate_lines`.
    mask : array (y, x), bool
    reach, pixel
        As of :func:`above_half`.

    Returns
    -------
    array (y, x), bool

    Notes
    -----
    With ``isolated`` the contrast is the geometric mean of both, a mean of what stands out and of what no subgrain
    explains. A boundary whose dislocations are too close to be told apart has nothing isolated: where this leaves
    nothing within :data:`WALL` along y and x, the mask is that of ``enhanced`` alone.
    """
    whole = above_half(enhanced, mask, reach, pixel)
    if isolated is None or reach == 0 or not mask.any():
        return whole
    known = np.isfinite(isolated)
    with np.errstate(invalid="ignore"):
        both = np.sqrt(np.maximum(enhanced, 0) * np.maximum(np.where(known, isolated, enhanced), 0))
        lines = above_half(both, mask & (both > 0), reach, pixel)
    found = lines.view(np.uint8)
    for axis, length in enumerate(pixel):
        found = ndimage.maximum_filter1d(found, 2 * int(WALL // length) + 1, axis, mode="constant")
    return np.asarray(lines | (whole & (found == 0)))


def without_faint(
    values: np.ndarray, mask: np.ndarray, around: np.ndarray, limit: float, pixel: tuple[float, float]
) -> np.ndarray:
    """Mask without faint images beside bright ones: far flanks, and what lies above or below the layer.

    Parameters
    ----------
    values : array (y, x), float32
        Contrast.
    mask, around : array (y, x), bool
        The mask, and pixels whose contrast counts as bright.
    limit : float
        Contrast above which nothing is faint.
    pixel : (float, float), um
        Length of a pixel along y and x; infinite along a side of one pixel.

    Returns
    -------
    array (y, x), bool
        Pixels that exceed ``limit``, or :data:`SHARE` of the largest contrast within :data:`BESIDE` along y and x.

    Examples
    --------
    >>> image = np.array([[5.0, 0, 90, 0, 0, 0, 0, 5]])
    >>> without_faint(image, image > 4, image > 4, 6.0, (1.0, 1.0)).astype(int).tolist()
    [[0, 0, 1, 0, 0, 0, 0, 1]]
    """
    largest = np.where(around, values, 0)
    for axis, length in enumerate(pixel):
        largest = ndimage.maximum_filter1d(largest, 2 * int(BESIDE // length) + 1, axis, mode="constant")
    with np.errstate(invalid="ignore"):
        return np.asarray(mask & ((values > limit) | (values > SHARE * largest)))
