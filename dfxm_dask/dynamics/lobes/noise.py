"""Noise and errors of images after the fit of their shape: counts per photon, scatter, and relative error."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from dfxm_dask.dynamics.lobes.templates import SHEET, window_image
from dfxm_dask.dynamics.lobes.window import fit_one, settle, terms

if TYPE_CHECKING:
    from dfxm_dask.dynamics.lobes.shape import Lobes


def scatter(lobes: Lobes, shape: np.ndarray, gain: float) -> np.ndarray:
    """Scatter of rows and columns over that of the Fisher information, at least 1.

    Every lobe is fitted twice, from the two colours of a chessboard. Their differences contain effects that the
    information at one point does not contain: several minima of the likelihood, and counts that are not normal.
    """
    ratios = []
    for k, part in enumerate(lobes.parts):
        local, sign = lobes.local[[k]], lobes.sign[[k]]
        colour = np.add.outer(np.arange(part.counts.shape[0]), np.arange(part.counts.shape[1])) % 2 == 0
        halves = []
        for chosen in (colour, ~colour):
            half = part._replace(good=part.good & chosen)
            numbers, cost, _, _ = fit_one(half, local, sign, shape, SHEET, gain, 12)
            numbers, _ = settle(half, numbers[None], sign, shape, SHEET, gain, cost)
            normal = terms(half, numbers[None], sign, shape, SHEET, gain, 1)[2]
            halves.append((numbers[3:], np.diag(np.linalg.pinv(normal))[3:]))
        (first, v1), (second, v2) = halves
        ratios.append((first - second) ** 2 / (v1 + v2))
    # The median of squares of a normal number is 0.455 of its variance.
    middle = np.minimum(np.median(ratios, axis=0) / 0.455, np.mean(ratios, axis=0))
    return np.asarray(np.maximum(np.sqrt(middle), 1.0))


def counts_per_photon(lobes: Lobes, shape: np.ndarray, nodes: np.ndarray, gain: float) -> float:
    """Slope of the variance against the brightness, from residuals."""
    above, below = 0.0, 0.0
    for k, part in enumerate(lobes.parts):
        box = part.top, part.left, part.counts.shape[0], part.counts.shape[1]
        image, _ = window_image(box, lobes.local[[k], 3:5], lobes.sign[[k]], lobes.local[k, :3], shape, nodes, 0)
        bright = image - part.base
        variance = part.read**2 + gain * np.maximum(bright, 0)
        use = part.good & (bright > 4 * part.read)
        square = np.minimum((part.counts - image) ** 2, 16 * variance)
        above += float(((square - part.read**2) * bright / variance**2)[use].sum())
        below += float((bright**2 / variance**2)[use].sum())
    return float(np.clip(above / below, 0.05, 100.0)) if below > 0 else gain


def relative_error(lobes: Lobes, shape: np.ndarray, gain: float) -> float:
    """Rms residual beyond the noise, relative to the brightness."""
    above, below = 0.0, 0.0
    for k, part in enumerate(lobes.parts):
        box = part.top, part.left, part.counts.shape[0], part.counts.shape[1]
        image, _ = window_image(box, lobes.local[[k], 3:5], lobes.sign[[k]], lobes.local[k, :3], shape, SHEET, 0)
        bright = np.maximum(image - part.base, 0)
        variance = part.read**2 + gain * bright
        square = np.minimum((part.counts - image) ** 2, 16 * variance)
        weight = np.where(part.good, bright**2 / variance**2, 0)
        above += float(((square - variance) * weight).sum())
        below += float((bright**2 * weight).sum())
    return float(np.sqrt(np.clip(above / below, 0.0, 0.04))) if below > 0 else 0.0
