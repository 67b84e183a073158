"""Scores of classifiers: accuracy, recall, calibration, and the scores of brightness alone."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.optimize import minimize, minimize_scalar
from scipy.special import expit

from dfxm_dask.beams.network.networks import CLASSES, STRONG, WEAK
from dfxm_dask.errors import InputError

BINS = 15
"""Number of bins of the expected calibration error, equally wide (as in the reference)."""


def evaluate(weak: np.ndarray, labels: np.ndarray) -> dict[str, Any]:
    """Scores of probabilities of weak beam against labels.

    Parameters
    ----------
    weak : array (n,)
        Probability of weak beam.
    labels : array (n,), integer
        Class numbers, in the order of CLASSES.

    Returns
    -------
    dict
        ``patches`` (their number), ``accuracy``, ``weak_recall``, ``strong_recall``, ``calibration_error``, ``brier``,
        ``log_loss``; ``confusion``: ``classes``, ``axes`` ("truth", "found") and ``counts`` [truth][found]. Recall of a
        class that does not occur is NaN.

    Raises
    ------
    InputError
        No or unequal numbers of probabilities and labels, or numbers outside 0 … 1.

    Notes
    -----
    The expected calibration error is the mean over patches of |accuracy − confidence| in 15 equally wide bins of the
    confidence; the Brier score is the mean of (probability − truth)².

    References
    ----------
    Guo et al., ICML 2017, eq. 3.

    Examples
    --------
    >>> evaluate(np.array([0.9, 0.4, 0.2]), np.array([0, 0, 1]))["confusion"]["counts"]
    [[1, 1], [0, 1]]
    """
    weak, labels = np.asarray(weak, np.float64).ravel(), np.asarray(labels).ravel()
    if weak.size == 0 or weak.size != labels.size:
        raise InputError("scores", f"of {weak.size} probabilities and {labels.size} labels", "give one label for each")
    if not ((weak >= 0) & (weak <= 1)).all():
        raise InputError("scores", f"of probabilities from {weak.min()} to {weak.max()}", "give numbers from 0 to 1")
    predicted = np.where(weak > 0.5, WEAK, STRONG)
    right = predicted == labels
    confidence = np.where(predicted == WEAK, weak, 1 - weak)
    which = np.clip((confidence * BINS).astype(int), 0, BINS - 1)
    gap = np.bincount(which, right - confidence, BINS)
    truth = np.where(labels == WEAK, weak, 1 - weak)
    counts = [[int(np.sum((labels == t) & (predicted == f))) for f in range(2)] for t in range(2)]
    recall = [row[k] / sum(row) if sum(row) else float("nan") for k, row in enumerate(counts)]
    return {
        "patches": int(weak.size),
        "accuracy": float(right.mean()),
        "weak_recall": recall[WEAK],
        "strong_recall": recall[STRONG],
        "calibration_error": float(np.abs(gap).sum() / weak.size),
        "brier": float(np.mean((1 - truth) ** 2)),
        "log_loss": float(-np.log(np.maximum(truth, 1e-12)).mean()),
        "confusion": {"classes": list(CLASSES), "axes": ["truth", "found"], "counts": counts},
    }


def _brightness(patches: np.ndarray) -> np.ndarray:
    """Features of the brightness of patches: 1, m, s, m², s², m s, of mean and standard deviation."""
    flat = np.asarray(patches, np.float64).reshape(len(patches), -1)
    mean, spread = flat.mean(1), flat.std(1)
    return np.stack([np.ones(len(flat)), mean, spread, mean**2, spread**2, mean * spread], 1)


def brightness_baseline(patches: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Logistic regression on mean and standard deviation of a patch, with squares and product.

    Parameters
    ----------
    patches : array (n, ...)
        Input of a network; see :func:`seen_patches`.
    labels : array (n,), integer

    Returns
    -------
    array (6,), float64
        Weights of 1, m, s, m², s², m s in the log-odds of weak beam.

    Raises
    ------
    InputError
        Patches of one class only.

    Notes
    -----
    A network must exceed this baseline: if brightness alone distinguishes the beams, accuracy proves little. A ridge of
    1e-3 on the weights of the scaled features keeps them finite if it does so perfectly (our choice).
    """
    labels = np.asarray(labels)
    if len(np.unique(labels)) < 2:
        raise InputError("brightness baseline", "the patches are of one class", "label both weak and strong patches")
    features = _brightness(patches)
    scale = np.maximum(np.abs(features).max(0), 1e-12)
    scaled, sign = features / scale, np.where(labels == WEAK, 1.0, -1.0)

    def loss(weights: np.ndarray) -> tuple[float, np.ndarray]:
        odds = sign * (scaled @ weights)
        slope = -sign * expit(-odds) / len(sign)
        value = np.logaddexp(0, -odds).mean() + 5e-4 * (weights @ weights) / len(sign)
        return value, scaled.T @ slope + 1e-3 * weights / len(sign)

    fit = minimize(loss, np.zeros(6), jac=True, method="L-BFGS-B", options={"maxiter": 2000, "ftol": 1e-12})
    return np.asarray(fit.x / scale)


def brightness_probability(weights: np.ndarray, patches: np.ndarray) -> np.ndarray:
    """Probability of weak beam from the weights of :func:`brightness_baseline`: array (n,), float64."""
    return np.asarray(expit(_brightness(patches) @ weights))


def calibrated_temperature(log_odds: np.ndarray, labels: np.ndarray) -> float:
    """Temperature that maximises the likelihood of the labels when it divides the log-odds.

    Parameters
    ----------
    log_odds : array (n,)
        Log-odds of weak beam.
    labels : array (n,), integer

    Returns
    -------
    float
        From 0.05 to 20; 1 if there are no patches.

    References
    ----------
    Guo et al., ICML 2017, section 4.2.
    """
    if len(labels) == 0:
        return 1.0
    signed = np.where(np.asarray(labels) == WEAK, 1.0, -1.0) * np.asarray(log_odds, np.float64)
    fit = minimize_scalar(
        lambda t: np.logaddexp(0, -signed / np.exp(t)).mean(), bounds=(np.log(0.05), np.log(20)), method="bounded"
    )
    return float(np.exp(fit.x))
