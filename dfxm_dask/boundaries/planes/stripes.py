"""Errors of fits along a plane: residuals are correlated in stripes, along either direction."""

from __future__ import annotations

import numpy as np
from scipy.special import stdtrit

LEAST_FREE = 0.7  # least degrees of freedom of Student's t (our choice)
FEWEST_STRIPES = 5  # of a plane, along either direction (our choice)
ONE_SIGMA = 0.6826894921370859  # probability within one standard deviation


def normal_error(covariance: np.ndarray) -> float:
    """Angle that contains the true normal with 68 %, from the covariance (2, 2) of its rotations (rad²); degree."""
    if not np.isfinite(covariance).all():
        return float("nan")
    return float(np.rad2deg(radius_of(np.sqrt(np.maximum(np.linalg.eigvalsh(covariance), 0.0)))))


def radius_of(deviations: np.ndarray, probability: float = ONE_SIGMA) -> float:
    """Radius of the circle that contains a given probability of a two-dimensional Gaussian.

    Parameters
    ----------
    deviations : array (2,)
        Standard deviations along its principal axes.
    probability : float

    Examples
    --------
    >>> round(radius_of(np.array([1.0, 1.0])), 4), round(radius_of(np.array([0.0, 1.0])), 3)
    (1.5152, 1.0)
    """
    small, large = np.sort(deviations)
    if large <= 0:
        return 0.0
    small = max(small, 1e-4 * large)
    # Angles with even steps on the ellipse, on which the Gaussian is isotropic.
    turn = (np.arange(4096) + 0.5) * 2 * np.pi / 4096
    length = (large * np.cos(turn)) ** 2 + (small * np.sin(turn)) ** 2
    low, high = 0.0, 4.0 * large
    for _ in range(60):
        middle = (low + high) / 2
        inside = np.mean(1 - np.exp(-0.5 * middle**2 / length))
        low, high = (middle, high) if inside < probability else (low, middle)
    return float(high)


def cluster_covariance(
    scores: np.ndarray, inverse: np.ndarray, u: np.ndarray, v: np.ndarray, stripe: float = 5.0, few: bool = True
) -> np.ndarray:
    """Covariance of fitted parameters whose residuals are correlated in stripes of a plane, along either direction.

    Parameters
    ----------
    scores : array (cell, number)
        Derivatives of half the weighted sum of squares, cell by cell.
    inverse : array (number, number)
        Inverse of the normal matrix.
    u, v : array (cell,), um
        Positions in the plane.
    stripe : float, um
        Width of a stripe, within which residuals are correlated. If a plane has fewer than five, stripes are narrower,
        and count as fractions of a stripe.

    few : bool
        Widen by Student's t for the small number of stripes.

    Returns
    -------
    array (number, number), float64

    Notes
    -----
    A dislocation line extends through many layers and is one observation, as is a layer along the plane.
    Covariances of stripes along u and along v are added (Cameron, Gelbach and Miller, J. Bus. Econ. Stat. 29, 238
    (2011), without the common part, which is conservative); each is multiplied by the square of the ratio of Student's
    t to the Gaussian at 68 %, and by G/(G - 1) for G stripes.

    Examples
    --------
    >>> u = np.arange(100.0)
    >>> x = np.where(u % 2 > 0, 1.0, -1.0)[:, None]
    >>> cluster_covariance(x, np.eye(1) / 100, u, u, stripe=1.0).round(3).tolist()
    [[0.02]]
    """
    total = np.zeros_like(inverse)
    for position in (u, v):
        extent = float(np.ptp(position))
        width = min(stripe, max(extent / FEWEST_STRIPES, 1e-9))
        group = np.minimum(((position - position.min()) / width).astype(np.int64), int(np.ceil(extent / width)))
        group = np.unique(group, return_inverse=True)[1].reshape(-1)
        count = int(group.max()) + 1
        sums = np.stack([np.bincount(group, s, count) for s in scores.T], axis=1)
        # Position and slope of a plane use two of the stripes.
        wider = float(stdtrit(max(min(count, extent / stripe) - 2, LEAST_FREE), 0.5 + ONE_SIGMA / 2)) if few else 1.0
        total += wider**2 * count / max(count - 1, 1) * sums.T @ sums
    return np.asarray(inverse @ total @ inverse)
