"""The published identification: normalised cross-correlation of images with those of a library."""

from __future__ import annotations

import numpy as np
from scipy.fft import irfft2, next_fast_len, rfft2

from dfxm_dask.identify.evidence import Evidence
from dfxm_dask.identify.images import line_images
from dfxm_dask.identify.likelihood import Record


def features(images: np.ndarray) -> np.ndarray:
    """Image contrast max(a - mean - 2 std, 0) / std of every frame; zero for an image without variance.

    Examples
    --------
    >>> features(np.ones((1, 4, 4))).any()
    np.False_
    """
    mean, spread = images.mean((1, 2), keepdims=True), images.std((1, 2), keepdims=True)
    safe = np.where(spread > 1e-12 * np.maximum(np.abs(mean), 1e-300), spread, np.inf)
    return np.maximum(images - mean - 2 * spread, 0) / safe


def correlation(first: np.ndarray, second: np.ndarray) -> float:
    """Largest cross-correlation of two stacks of features over shifts common to all frames, 0 to 1.

    Parameters
    ----------
    first, second : array (frame, y, x)
        From :func:`features`.

    Notes
    -----
    C_ab = max_s sum a(r) b(r + s) / sqrt(sum a² sum b²). The images are padded with zeros, so that they do not wrap;
    without contrast in one of them the correlation is zero.

    References
    ----------
    Borgi et al. (2025), J. Appl. Cryst. 58, 813, and its code (dfxm-geo 3.0.0), which does not pad and divides by zero
    for images without variance.
    """
    power = np.sqrt((first**2).sum() * (second**2).sum())
    if power == 0:
        return 0.0
    size = tuple(next_fast_len(2 * n, real=True) for n in first.shape[1:])
    product = (np.conj(rfft2(first, size)) * rfft2(second, size)).sum(0)
    return float(irfft2(product, size).max() / power)


def correlations(record: Record, table: np.ndarray) -> Evidence:
    """Published score of every candidate, as its log evidence."""
    frames, rows, columns = record.counts.shape
    counts = np.where(record.valid, record.counts, np.median(record.counts[record.valid]))
    seen = features(counts)
    images = np.empty((frames, rows, columns))
    n = len(table)
    score = np.empty(n)
    for row in range(n):
        line_images(record.y, record.x, table[row], np.zeros(2), np.zeros(3), record.optics, images, NO_SLOPES)
        score[row] = correlation(seen, features(images))
    missing = np.full((n, 2), np.nan)
    best = np.where(score >= score.max() - 1e-9, 0.0, np.inf)
    return Evidence(score, missing, missing, np.nan, 0, best, np.full(n, np.inf), np.zeros(n, bool))


NO_SLOPES = np.empty((0, 0, 0, 0))
