"""Undecimated wavelet transform of a frame whose bands lie where the features of the frame lie.

A band of the published transform is displaced, because an orthogonal wavelet filter has no centre of symmetry. A
*zero-phase* band is the inverse transform with all other bands zeroed: analysis, then synthesis with the mirrored
filter. Along one axis both together are one symmetric filter, the autocorrelation of the published one. The smooth part
of level j therefore follows from that of level j - 1 by few symmetric taps,

    A_j(n) = sum_k a_k A_(j-1)(n + 2^(j-1) k),    a_k = 1/2 sum_m h_m h_(m+k),

and a band is a difference of smooth parts: of 2 F - 1 taps only the odd ones and the central one are not zero.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pywt
from numba import njit

from dfxm_dask.errors import InputError

LEAST = 8  # pixels along each side of a frame


class Bands(NamedTuple):
    """Zero-phase bands of a frame. Their sum over all levels, and the smooth part, give the frame.

    Attributes
    ----------
    smooth : ndarray (y, x)
        Approximation at the coarsest level.
    horizontal, vertical, diagonal : ndarray (level, y, x)
        Details, finest level first: high-pass along y, along x, and along both.
    """

    smooth: np.ndarray
    horizontal: np.ndarray
    vertical: np.ndarray
    diagonal: np.ndarray


def orthogonal(wavelet: str) -> pywt.Wavelet:
    """The wavelet of that name.

    Raises
    ------
    InputError
        An unknown or biorthogonal wavelet, whose bands have no common phase.
    """
    if wavelet not in pywt.wavelist(kind="discrete"):
        raise InputError(f"wavelet {wavelet!r}", "is unknown", "use haar, db2 (4 taps) or db4 (8 taps)")
    made = pywt.Wavelet(wavelet)
    if not made.orthogonal:
        raise InputError(f"wavelet {wavelet!r}", "is not orthogonal", "use haar, db2 (4 taps) or db4 (8 taps)")
    return made


def halo(wavelet: str, level: int) -> int:
    """Reach of the bands of a transform: pixels beyond a tile on which the bands in the tile depend.

    Parameters
    ----------
    wavelet : str
        An orthogonal wavelet of PyWavelets.
    level : int
        Coarsest level.

    Returns
    -------
    int

    Raises
    ------
    InputError

    Notes
    -----
    For a filter of F taps the reach is (F - 1)(2^level - 1).

    Examples
    --------
    >>> halo("db4", 3), halo("haar", 3)
    (49, 7)
    """
    return (orthogonal(wavelet).dec_len - 1) * (2 ** checked_level(level) - 1)


def checked_level(level: int) -> int:
    """Refuse a level out of range.

    Raises
    ------
    InputError
    """
    if isinstance(level, bool) or not isinstance(level, int | np.integer) or not 1 <= level <= 10:
        raise InputError("level", f"is {level!r}", "give a whole number from 1 to 10")
    return int(level)


def checked_frame(image: np.ndarray) -> np.ndarray:
    """A frame as contiguous float32.

    Raises
    ------
    InputError
        Not a frame of at least 8 x 8 pixels.
    """
    image = np.asarray(image)
    if image.ndim != 2 or min(image.shape) < LEAST:
        raise InputError("frame", f"has shape {image.shape}", f"give one frame (y, x) of at least {LEAST} x {LEAST}")
    return np.ascontiguousarray(image, np.float32)


def taps(wavelet: str) -> tuple[np.ndarray, np.ndarray]:
    """Distances and weights of the symmetric smoothing filter; the first is the central tap."""
    filter_ = np.asarray(orthogonal(wavelet).dec_lo)
    both = np.correlate(filter_, filter_, "full")[filter_.size - 1 :] / 2
    used = np.flatnonzero(np.abs(both) > 1e-10)
    return used.astype(np.int64), both[used].astype(np.float32)


def mirrored(size: int, margin: int) -> np.ndarray:
    """Pixel of the frame for every pixel from -margin to size + margin; mirrored about the pixels at the edges."""
    period = 2 * (size - 1)
    k = np.arange(-margin, size + margin) % period
    return np.minimum(k, period - k)


@njit(nogil=True, cache=True)
def _along_x(image, source, margin, distances, weights, out):
    line = np.empty(source.size, image.dtype)
    rows, columns = image.shape
    for y in range(rows):
        row, to = image[y], out[y]
        for x in range(source.size):
            line[x] = row[source[x]]
        for x in range(columns):
            to[x] = weights[0] * line[margin + x]
        for k in range(1, weights.size):
            d, w = distances[k], weights[k]
            left, right = line[margin - d : margin - d + columns], line[margin + d : margin + d + columns]
            for x in range(columns):
                to[x] += w * (left[x] + right[x])


@njit(nogil=True, cache=True)
def _along_y(image, source, margin, distances, weights, out):
    rows, columns = image.shape
    for y in range(rows):
        row, to = image[y], out[y]
        for x in range(columns):
            to[x] = weights[0] * row[x]
        for k in range(1, weights.size):
            d, w = distances[k], weights[k]
            above, below = image[source[margin + y - d]], image[source[margin + y + d]]
            for x in range(columns):
                to[x] += w * (above[x] + below[x])


SPLINE = np.array([0, 1, 2]), np.array([0.375, 0.25, 0.0625], np.float32)
"""Taps of the cubic B-spline: positive, nearly Gaussian, with a standard deviation of 1 tap."""


def smoothed(image: np.ndarray, wavelet: str, level: int, axis: int) -> np.ndarray:
    """Smooth part of one further level along one axis: y (0) or x (1).

    Parameters
    ----------
    image : ndarray (y, x), float32
        Smooth part of the level before.
    level : int
        Level of the result: the taps are 2^(level - 1) pixels apart.
    """
    return _filtered(image, *taps(wavelet), level, axis)


def averaged(image: np.ndarray, level: int) -> np.ndarray:
    """Mean over the surroundings of every pixel, weighted by a bell of standard deviation ((4^level - 1) / 3)^(1/2)."""
    for k in range(1, level + 1):
        image = _filtered(_filtered(image, *SPLINE, k, 1), *SPLINE, k, 0)
    return image


def _filtered(image: np.ndarray, distances: np.ndarray, weights: np.ndarray, level: int, axis: int) -> np.ndarray:
    """Symmetric filter along one axis, its taps 2^(level - 1) pixels apart."""
    distances = distances << (level - 1)
    margin = int(distances[-1])
    out = np.empty_like(image)
    along = _along_y if axis == 0 else _along_x
    along(image, mirrored(image.shape[axis], margin), margin, distances, weights, out)
    return out


def transform(image: np.ndarray, wavelet: str = "db4", level: int = 3) -> Bands:
    """Zero-phase bands of a frame.

    Parameters
    ----------
    image : ndarray (y, x), float
        A frame of any size from 8 x 8. Beyond its edges the frame is mirrored about the pixels at the edges.
    wavelet : str
        An orthogonal wavelet of PyWavelets: "haar", "db2", "db4", ...
    level : int
        Coarsest level.

    Returns
    -------
    Bands
        float32, in the unit of the frame. Every value is bit-equal for any larger frame that contains this one with a
        margin of :func:`halo`.

    Raises
    ------
    InputError

    Examples
    --------
    >>> frame = np.random.default_rng(0).normal(size=(21, 34))
    >>> bands = transform(frame, "db2", 2)
    >>> details = sum(part.sum(0) for part in bands[1:])
    >>> bool(np.allclose(bands.smooth + details, frame, atol=1e-5))
    True
    """
    image = checked_frame(image)
    orthogonal(wavelet)
    details = np.empty((3, checked_level(level), *image.shape), image.dtype)
    for k in range(level):
        along_x, along_y = (smoothed(image, wavelet, k + 1, axis) for axis in (1, 0))
        both = smoothed(along_x, wavelet, k + 1, 0)
        np.subtract(along_x, both, out=details[0, k])
        np.subtract(along_y, both, out=details[1, k])
        np.subtract(image - along_x, details[1, k], out=details[2, k])
        image = both
    return Bands(image, *details)
