"""Blur behind a scintillator: a sharp core, and a wide halo."""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
from numba import njit

from dfxm_dask.errors import InputError
from dfxm_dask.optics.instrument.detector import Detector

PSF_REACH = 4.5  # the blur ends there, in standard deviations: 7e-6 of the light would fall beyond
NODES_PER_SIGMA = 8  # of the coarse grid that carries the halo


@njit(nogil=True, cache=True)
def _mirrored(place, length):
    place %= 2 * length
    return place if place < length else 2 * length - 1 - place


@njit(nogil=True, cache=True)
def _convolve(image, half_y, half_x, out):
    """Separable convolution of the mirrored image with symmetric kernels, given by one half, centre first."""
    rows, columns = image.shape
    reach_y, reach_x = half_y.size - 1, half_x.size - 1
    line = np.empty(columns + 2 * reach_x, image.dtype)
    for y in range(rows):
        middle = line[reach_x : reach_x + columns]
        for x in range(columns):
            middle[x] = half_y[0] * image[y, x]
        for j in range(1, reach_y + 1):
            above, below = image[_mirrored(y - j, rows)], image[_mirrored(y + j, rows)]
            for x in range(columns):
                middle[x] += half_y[j] * (above[x] + below[x])
        for j in range(reach_x):
            line[reach_x - 1 - j] = middle[_mirrored(-1 - j, columns)]
            line[reach_x + columns + j] = middle[_mirrored(columns + j, columns)]
        for x in range(columns):
            out[y, x] = half_x[0] * middle[x]
        for j in range(1, reach_x + 1):
            left, right = line[reach_x - j : reach_x - j + columns], line[reach_x + j : reach_x + j + columns]
            for x in range(columns):
                out[y, x] += half_x[j] * (left[x] + right[x])


def _half_gaussian(sigma: float) -> np.ndarray:
    """One side of a sampled Gaussian, centre first, float32; both sides together add up to 1."""
    if sigma == 0:
        return np.ones(1, np.float32)
    half = np.exp(-0.5 * (np.arange(math.ceil(PSF_REACH * sigma) + 1) / sigma) ** 2)
    return (half / (2 * half.sum() - half[0])).astype(np.float32)


@lru_cache(maxsize=16)
def _tents(length: int, sigma: float) -> tuple[np.ndarray, np.ndarray, int, np.ndarray]:
    """A coarse grid along one axis for a Gaussian of ``sigma`` pixels.

    Returns the first node and the weights of up to three nodes for every pixel, the number of nodes, and the kernel on
    them. Nodes are the middles of bins of equal width h; a weight is the mean over the pixel of the tent around a node,
    mirrored at the borders. So the weights of a pixel add up to 1 and those of a node to h, which makes (1/h) W G Wᵀ
    symmetric with rows that add up to 1: it keeps both a flat frame and the sum of any frame. The tents, used twice,
    have the variance 2 (h²/6 + 1/12), which the kernel G leaves out.
    """
    nodes = max(1, min(length, round(length * NODES_PER_SIGMA / sigma)))
    width = length / nodes
    edges = np.arange(length + 1)[:, None]
    centres = (np.arange(nodes) + 0.5) * width
    weights = np.zeros((length, nodes))
    for mirror in (centres, -centres, 2 * length - centres):
        s = np.clip((edges - mirror) / width, -1, 1)
        below = np.where(s < 0, 0.5 * (1 + s) ** 2, 1 - 0.5 * (1 - s) ** 2)
        weights += width * np.diff(below, axis=0)
    taps = min(3, nodes)
    first = np.minimum((weights > 1e-12).argmax(1), nodes - taps)
    near = np.take_along_axis(weights, first[:, None] + np.arange(taps), 1).astype(np.float32)
    spread = math.sqrt(max(sigma**2 - 2 * (width**2 / 6 + 1 / 12), 0.0)) / width
    return first, near, nodes, _half_gaussian(spread)


@njit(nogil=True, cache=True)
def _onto_nodes(image, first_y, weight_y, first_x, weight_x, coarse):
    """Light of pixels, shared by the two nearest nodes of the coarse grid along either dim."""
    rows, columns = image.shape
    line = np.zeros((coarse.shape[0], columns), image.dtype)
    for y in range(rows):
        for j in range(weight_y.shape[1]):
            weight, target = weight_y[y, j], line[first_y[y] + j]
            for x in range(columns):
                target[x] += weight * image[y, x]
    for m in range(coarse.shape[0]):
        for x in range(columns):
            for j in range(weight_x.shape[1]):
                coarse[m, first_x[x] + j] += weight_x[x, j] * line[m, x]


@njit(nogil=True, cache=True)
def _from_nodes(coarse, first_y, weight_y, first_x, weight_x, image, kept, added):
    """The halo between its nodes, by linear interpolation, added to the sharp image."""
    rows, columns = image.shape
    line = np.zeros((coarse.shape[0], columns), image.dtype)
    for m in range(coarse.shape[0]):
        for x in range(columns):
            for j in range(weight_x.shape[1]):
                line[m, x] += added * weight_x[x, j] * coarse[m, first_x[x] + j]
    for y in range(rows):
        for x in range(columns):
            image[y, x] *= kept
        for j in range(weight_y.shape[1]):
            weight, source = weight_y[y, j], line[first_y[y] + j]
            for x in range(columns):
                image[y, x] += weight * source[x]


def blur(image: np.ndarray, detector: Detector) -> np.ndarray:
    """Intensity behind the scintillator: a part 1 − f blurred by the PSF, a part f by the halo.

    Parameters
    ----------
    image : array (y, x), float, any unit
        Intensity before the camera.
    detector : Detector
        ``psf``, ``halo`` and ``halo_fraction`` are used.

    Returns
    -------
    array (y, x), float32
        In the unit of ``image``.

    Raises
    ------
    InputError
        Not a frame of two dimensions.

    Notes
    -----
    Light that would leave the frame is mirrored back, as if the field beyond the border were a mirror image. A
    frame is a window: as much light comes in from beyond as goes out. So a flat frame stays flat up to its border, and
    the sum over any frame is kept (up to the rounding of float32).

    The PSF is a Gaussian sampled at pixel centres and cut at 4.5 standard deviations. The halo is convolved on a grid
    of an eighth of its standard deviation with linear interpolation: that of a point is within 0.3 % of its height
    from the Gaussian.

    Examples
    --------
    >>> point = np.zeros((200, 200), np.float32)
    >>> point[100, 100] = 1000
    >>> seen = blur(point, Detector())
    >>> round(float(seen.sum()), 2), round(float(seen.max()))
    (1000.0, 108)
    """
    if image.ndim != 2 or image.size == 0:
        raise InputError("blur", f"was given an array of shape {image.shape}", "give one frame (y, x)")
    sharp = np.require(image, np.float32, ["C", "W"])
    half = _half_gaussian(detector.psf)
    seen = np.empty_like(sharp)
    _convolve(sharp, half, half, seen)
    if detector.halo_fraction:
        first_y, weight_y, nodes_y, half_y = _tents(image.shape[0], float(detector.halo))
        first_x, weight_x, nodes_x, half_x = _tents(image.shape[1], float(detector.halo))
        coarse, spread = np.zeros((nodes_y, nodes_x), np.float32), np.empty((nodes_y, nodes_x), np.float32)
        _onto_nodes(sharp, first_y, weight_y, first_x, weight_x, coarse)
        _convolve(coarse, half_y, half_x, spread)
        share = detector.halo_fraction * (nodes_y / image.shape[0]) * (nodes_x / image.shape[1])
        _from_nodes(
            spread,
            first_y,
            weight_y,
            first_x,
            weight_x,
            seen,
            np.float32(1 - detector.halo_fraction),
            np.float32(share),
        )
    return seen
