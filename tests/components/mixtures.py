"""Scans of several grains with known images and rocking curves: what blind separation has to find again."""

from __future__ import annotations

import numpy as np
from scipy.ndimage import gaussian_filter
from scipy.optimize import linear_sum_assignment
from scipy.stats import norm

FRAMES, PEDESTAL = 31, 100


def rocking_curves(grains: int, generator: np.random.Generator, gap: float) -> np.ndarray:
    """Gaussian curves (grain, frame), `gap` frames apart, that overlap."""
    centre = (FRAMES - 1) / 2 + gap * (np.arange(grains) - (grains - 1) / 2) + generator.uniform(-1, 1, grains)
    width = generator.uniform(2.0, 3.0, grains)
    return np.exp(-((np.arange(FRAMES) - centre[:, None]) ** 2) / (2 * width[:, None] ** 2))


def smooth_field(generator: np.random.Generator, size: int, reach: float) -> np.ndarray:
    """A smooth random picture, uniform in [0, 1]."""
    field = gaussian_filter(generator.standard_normal((size, size)), reach, mode="wrap")
    return norm.cdf((field - field.mean()) / field.std())


def overlapping(seed: int, *, size: int = 64, level: float = 300.0, gap: float = 5.0, grains: int = 4) -> tuple:
    """Grains that lie over each other along the beam and know nothing of each other; each fills 60 % of the field.

    Their amounts are about even where they are, which is when the mean matters: grains that fill little of the field
    can be told apart without it.

    Returns counts (y, x, frame) uint16 with photon noise above 100 counts, images (grain, y, x), curves (grain, frame).
    """
    generator = np.random.default_rng(seed)
    fields = np.stack([smooth_field(generator, size, 3.0) for _ in range(grains)])
    images = np.sqrt(np.maximum(0, (fields - 0.4) / 0.6))
    return _with_photons(images, rocking_curves(grains, generator, gap), level, generator)


def side_by_side(seed: int, *, size: int = 64, level: float = 300.0, gap: float = 5.0, grains: int = 4) -> tuple:
    """Grains of a section through a polycrystal: where there is one there is no other; brightness varies by 20 %."""
    generator = np.random.default_rng(seed)
    y, x = np.mgrid[:size, :size]
    at = generator.uniform(0, size, (grains, 2))
    label = ((y[..., None] - at[:, 0]) ** 2 + (x[..., None] - at[:, 1]) ** 2).argmin(axis=-1)
    images = np.stack([gaussian_filter((label == k).astype(float), 1.5) for k in range(grains)])
    images *= np.exp(0.2 * norm.ppf(np.clip(smooth_field(generator, size, 4.0), 1e-3, 1 - 1e-3)))
    return _with_photons(images, rocking_curves(grains, generator, gap), level, generator)


def _with_photons(images: np.ndarray, curves: np.ndarray, level: float, generator: np.random.Generator) -> tuple:
    signal = level * np.einsum("kyx,kf->yxf", images, curves)
    return (generator.poisson(signal) + PEDESTAL).astype(np.uint16), images, curves


def correlation(found: np.ndarray, true: np.ndarray) -> float:
    """Mean |correlation| of found and true images, in the best pairing."""
    rows = len(true)
    table = np.abs(np.corrcoef(found.reshape(len(found), -1), true.reshape(rows, -1))[: len(found), len(found) :])
    return float(table[linear_sum_assignment(-table)].mean())
