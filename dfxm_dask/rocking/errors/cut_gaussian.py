"""Gaussian rocking curves behind a cut and with noise: their widths, and the scatter of their maximum."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from scipy.special import ndtr

NODES = 256
SURFACE = {1: 2.0, 2: 2 * np.pi, 3: 4 * np.pi}
"""Surface of the unit sphere by the number of dims."""
SHARP = 0.02  # least 1 / (1 + √k) of the table of scatters
FLAT = 0.9  # largest 1 / (1 + √k) of a curve with a scatter of its maximum: flatter ones exceed the frames of the table


@lru_cache(maxsize=16)
def cut_widths(dark: float, gain: float, cut: float, axes: int, least: float) -> tuple[float, np.ndarray]:
    """Part of the standard deviation of a Gaussian curve that a cut leaves.

    Parameters
    ----------
    dark, gain, cut : float
        Noise of a dark count (count), photons per count, cut (count, above 0).
    axes : int
        Number of scan axes, 1 to 3.
    least : float, count
        Least height of a curve in the table.

    Returns
    -------
    low : float
        Quotient q of a curve of the least height: total x step / standard deviation for one axis, of the counts behind
        the cut; for several axes with the product of the steps and of the standard deviations.
    table : array (node, 2), float32
        Standard deviation behind the cut over the true one, and its logarithmic derivative with respect to q, at
        sqrt(low / q) = 0 … 1.

    Notes
    -----
    The mean of a count with the mean m and the noise s behind the cut K is m Φ((m − K) / s) + s φ((m − K) / s). Its
    moments over a Gaussian of height A are integrals over the distance r from the centre, in standard deviations.
    """
    height = np.geomspace(least, 1e6 * least, 240)[:, None]
    r = 0.025 * (np.arange(360) + 0.5)
    mean = height * np.exp(-0.5 * r * r)
    noise = np.sqrt(dark * dark + mean / gain)
    t = (mean - cut) / np.maximum(noise, 1e-12)
    weight = mean * ndtr(t) + noise * np.exp(-0.5 * t * t) / np.sqrt(2 * np.pi)
    total = (weight * r ** (axes - 1)).sum(axis=1) * (r[1] - r[0])
    kept = np.sqrt((weight * r ** (axes + 1)).sum(axis=1) * (r[1] - r[0]) / axes / total)
    q = SURFACE[axes] * total / kept**axes
    slope = np.gradient(np.log(kept), np.log(q))
    at = np.linspace(0, 1, NODES)
    x = np.sqrt(q[0] / q)[::-1]
    values = np.stack([np.interp(at, x, kept[::-1]), np.interp(at, x, slope[::-1])], axis=1)
    return float(q[0]), values.astype(np.float32)


@lru_cache(maxsize=1)
def scatter_of_maximum() -> np.ndarray:
    """Scatter of the largest count of a curve, and the error of its position.

    Returns
    -------
    array (node, 2), float32
        Standard deviation of the maximum in noise units, and root mean square distance of its frame from the centre in
        steps, at 1 / (1 + √k) = `SHARP` … 1: the curve falls by k/2 noise units within one step of its centre. Mean
        over all positions of the centre within a step.
    """
    frames = np.arange(-36, 37)
    z = np.linspace(-6, 7, 66)
    rows = []
    for t in np.linspace(SHARP, 1, 50):
        k = (1 / t - 1) ** 2
        squares, first, second = [], [], []
        for shift in (np.arange(4) + 0.5) / 8:  # symmetric about the middle between frames
            mean = -0.5 * k * (frames - shift) ** 2
            grid = z[:, None] + mean.max()
            below = ndtr(grid - mean)
            density = np.exp(-0.5 * (grid - mean) ** 2) / np.sqrt(2 * np.pi)
            log = np.log(np.maximum(below, 1e-300))
            each = density * np.exp(log.sum(axis=1, keepdims=True) - log) * (z[1] - z[0])
            squares.append((each * (frames - shift) ** 2).sum())
            m = (each * grid).sum()
            first.append(m)
            second.append((each * grid * grid).sum() - m * m)
        rows.append((np.sqrt(np.mean(second)), np.sqrt(np.mean(squares))))
    return np.array(rows, np.float32)
