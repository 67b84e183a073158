"""Agreement of two divisions of one region: adjusted Rand index, and F1 of the boundaries."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from dfxm_dask.errors import InputError


def adjusted_rand(found: np.ndarray, truth: np.ndarray) -> float:
    """Adjusted Rand index of two labellings.

    Parameters
    ----------
    found, truth : array of one shape, int
        Pixels whose label is 0 in either are left out.

    Returns
    -------
    float
        1 for equal divisions whatever their numbers, 0 as expected by chance. 1 if both have a single label; NaN
        without pixels.

    Raises
    ------
    InputError
        Arrays of another shape.

    Notes
    -----
    (S - E) / (M - E), with the numbers of pairs of pixels that are together in both (S), the mean M of the numbers
    together in either, and E the product of both over all pairs. L. Hubert and P. Arabie, Journal of Classification 2
    (1985) 193.

    Examples
    --------
    >>> round(adjusted_rand(np.array([1, 1, 2, 3]), np.array([1, 1, 2, 2])), 4)
    0.5714
    """
    first, second = _both(found, truth)
    if not first.size:
        return float("nan")

    def pairs(labels: np.ndarray) -> float:
        count = np.unique(labels, return_counts=True)[1].astype(float)
        return float((count * (count - 1) / 2).sum())

    together = pairs(first * (int(second.max()) + 1) + second)
    one, other, every = pairs(first), pairs(second), first.size * (first.size - 1) / 2
    chance, most = (one * other / every if every else 0.0), (one + other) / 2
    return 1.0 if most == chance else float((together - chance) / (most - chance))


def boundary_f1(found: np.ndarray, truth: np.ndarray, pixel: tuple[float, float], tau: float) -> float:
    """F1 of the boundaries of two divisions of a stack of layers.

    Parameters
    ----------
    found, truth : array (z, y, x), int
        Pixels whose label is 0 in either are left out: the outline of the sample does not count.
    pixel : (float, float), um
        Length of a pixel along y and x.
    tau : float, um
        Distance in a layer within which boundaries count as equal.

    Returns
    -------
    float
        Harmonic mean of the share of found boundary pixels near a true one, and of true ones near a found one. NaN if
        neither has a boundary, 0 if only one has.

    Examples
    --------
    >>> wall = np.where(np.arange(6) < 3, 1, 2)[None, None]
    >>> [boundary_f1(np.roll(wall, 1, 2)[..., 1:], wall[..., 1:], (1.0, 0.5), tau) for tau in (0.4, 0.5)]
    [0.0, 1.0]
    """
    _both(found, truth)
    hits, sizes = [0, 0], [0, 0]
    for one, other in zip(found, truth, strict=True):
        known = (one > 0) & (other > 0)
        lines = [_boundary(labels, known) for labels in (one, other)]
        for k in (0, 1):
            sizes[k] += int(lines[k].sum())
            if lines[1 - k].any():
                away = ndimage.distance_transform_edt(~lines[1 - k], sampling=pixel)[lines[k]]
                hits[k] += int((away <= tau * (1 + 1e-9)).sum())
    if not any(sizes):
        return float("nan")
    precision, recall = (h / n if n else 0.0 for h, n in zip(hits, sizes, strict=True))
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def _boundary(labels: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Pixels whose next pixel along y or x has another label."""
    out = np.zeros(labels.shape, bool)
    out[:-1] |= (labels[:-1] != labels[1:]) & known[:-1] & known[1:]
    out[:, :-1] |= (labels[:, :-1] != labels[:, 1:]) & known[:, :-1] & known[:, 1:]
    return out


def _both(found: np.ndarray, truth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Labels of the pixels that have one in both."""
    if found.shape != truth.shape:
        raise InputError("labels to compare", f"have shapes {found.shape} and {truth.shape}", "give labels of one grid")
    known = (found > 0) & (truth > 0)
    return found[known].astype(np.int64), truth[known].astype(np.int64)
