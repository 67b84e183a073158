"""Narrowing of a mask: half of the local maximum, no small objects, no faint images beside bright ones."""

from __future__ import annotations

import numpy as np
from numba import njit
from scipy import ndimage

WALL = 3.0
"""Distance (um) within which a boundary must show a dislocation; otherwise its mask is not narrowed (our choice)."""

FAINT, SHARE, BESIDE = 1.3, 0.3, 4.0
"""An image is faint if its contrast is below FAINT × the threshold for :data:`dfxm_dask.beams.mask.ALPHA`. A faint
image must exceed SHARE × the largest contrast within BESIDE um. Chosen on one simulated stack for each strong beam and
one of another simulator."""


def without_small(mask: np.ndarray, least: int) -> np.ndarray:
    """Mask without objects of fewer than ``least`` pixels; pixels that touch at a corner are connected.

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
    """Remove mask pixels near a pixel of at least twice their contrast; outside the mask the contrast is -inf."""
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
    """Pixels of a mask that exceed half of the largest contrast nearby, so that bright images are not wider.

    Parameters
    ----------
    values : array (y, x), float32
        Contrast.
    mask : array (y, x), bool
        Only the contrast of its pixels counts: a hot pixel that is too small for the mask does not affect others.
    reach : float, um
        Radius of the disc in which the largest contrast is sought; 0 leaves the mask unchanged.
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
    """Narrow a mask to half of the largest contrast nearby, and at a boundary to its single dislocations if they show.

    Parameters
    ----------
    enhanced : array (y, x), float32
        Contrast from which the mask was computed.
    isolated : array (y, x), float32, optional
        Contrast beyond the peaks of all subgrains nearby; see :func:`dfxm_dask.beams.isolate_lines`.
    mask : array (y, x), bool
    reach, pixel : float and (float, float), um
        See :func:`above_half`.

    Returns
    -------
    array (y, x), bool

    Notes
    -----
    With ``isolated`` the contrast is the geometric mean of both: it requires that a pixel exceeds noise and that no
    subgrain nearby explains its intensity. If the dislocations of a boundary are too close to be resolved, none is
    isolated: where no pixel remains within :data:`WALL` along y and x, the mask narrowed by ``enhanced`` alone is used.
    """
    whole = above_half(enhanced, mask, reach, pixel)
    if isolated is None or reach == 0 or not mask.any():
        return whole
    finite = np.isfinite(isolated)
    with np.errstate(invalid="ignore"):
        both = np.sqrt(np.maximum(enhanced, 0) * np.maximum(np.where(finite, isolated, enhanced), 0))
        lines = above_half(both, mask & (both > 0), reach, pixel)
    near_lines = lines.view(np.uint8)
    for axis, length in enumerate(pixel):
        near_lines = ndimage.maximum_filter1d(near_lines, 2 * int(WALL // length) + 1, axis, mode="constant")
    return np.asarray(lines | (whole & (near_lines == 0)))


def without_faint(
    values: np.ndarray, mask: np.ndarray, around: np.ndarray, limit: float, pixel: tuple[float, float]
) -> np.ndarray:
    """Mask without faint images beside bright ones: far flanks, and defects above or below the layer.

    Parameters
    ----------
    values : array (y, x), float32
        Contrast.
    mask, around : array (y, x), bool
        The mask to reduce, and the pixels whose contrast counts as bright.
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
