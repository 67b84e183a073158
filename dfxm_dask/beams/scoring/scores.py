"""Scores of classifiers and maps: accuracy, recall, calibration, what brightness alone would reach, AUC, fringes."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy import ndimage
from scipy.optimize import minimize, minimize_scalar
from scipy.special import expit
from scipy.stats import rankdata

from dfxm_dask.beams.blocks import block_sums, to_pixels
from dfxm_dask.beams.network.networks import CLASSES, STRONG, WEAK
from dfxm_dask.errors import InputError

BINS = 15
"""Of the expected calibration error, equally wide (as in the reference)."""
SURROUNDINGS = 2.0
"""Um that a high-passed map is seen against: standard deviation of a Gaussian (our choice). With 2 um as its full width
half of a line's image is taken off itself."""


def evaluate(weak: np.ndarray, labels: np.ndarray) -> dict[str, Any]:
    """Scores of probabilities of weak beam against labels.

    Parameters
    ----------
    weak : array (n,)
        Probability of weak beam.
    labels : array (n,), integer
        In the order of CLASSES.

    Returns
    -------
    dict
        ``patches`` (their number), ``accuracy``, ``weak_recall``, ``strong_recall``, ``calibration_error``, ``brier``,
        ``log_loss``; ``confusion``: ``classes``, ``axes`` ("truth", "found") and ``counts`` [truth][found]. Recall of a
        class that does not occur is NaN.

    Raises
    ------
    InputError
        Nothing to score, not one label for each probability, or what is no probability.

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
        raise InputError("scores", f"of {weak.size} probabilities and {labels.size} labels", "give one of each")
    if not ((weak >= 0) & (weak <= 1)).all():
        raise InputError("scores", f"of probabilities from {weak.min()} to {weak.max()}", "give numbers from 0 to 1")
    found = np.where(weak > 0.5, WEAK, STRONG)
    right = found == labels
    confidence = np.where(found == WEAK, weak, 1 - weak)
    which = np.clip((confidence * BINS).astype(int), 0, BINS - 1)
    gap = np.bincount(which, right - confidence, BINS)
    truth = np.where(labels == WEAK, weak, 1 - weak)
    counts = [[int(np.sum((labels == t) & (found == f))) for f in range(2)] for t in range(2)]
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
    flat = np.asarray(patches, np.float64).reshape(len(patches), -1)
    mean, spread = flat.mean(1), flat.std(1)
    return np.stack([np.ones(len(flat)), mean, spread, mean**2, spread**2, mean * spread], 1)


def brightness_baseline(patches: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Logistic regression on mean and standard deviation of a patch, with squares and product.

    Parameters
    ----------
    patches : array (n, ...)
        What a network would see; see :func:`seen_patches`.
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
    What a network must beat: where brightness alone tells the beams apart, accuracy proves little. A ridge of 1e-3 on
    the weights of the scaled features keeps them finite where it does so perfectly (our choice).
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
    """Probability of weak beam by a :func:`brightness_baseline`: array (n,), float64."""
    return np.asarray(expit(_brightness(patches) @ weights))


def calibrated_temperature(log_odds: np.ndarray, labels: np.ndarray) -> float:
    """Temperature by which log-odds are divided to make the labels most likely.

    Parameters
    ----------
    log_odds : array (n,)
        Of weak beam.
    labels : array (n,), integer

    Returns
    -------
    float
        From 0.05 to 20; 1 without any patch.

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


def auc(values: np.ndarray, positive: np.ndarray, negative: np.ndarray) -> float:
    """Chance that a positive pixel of a map exceeds a negative one: area under the ROC curve.

    Parameters
    ----------
    values : array (y, x) or of any shape
        The higher, the more positive. NaN is left out; infinite values count.
    positive, negative : array of the same shape, bool
        Pixels of both kinds, such as near a dislocation and far from all. What is neither does not count.

    Returns
    -------
    float
        0.5 where the map tells nothing; NaN where one kind has no number.

    Raises
    ------
    InputError
        Masks of another shape or type, or a pixel of both kinds.

    Notes
    -----
    Mann and Whitney's U over the number of pairs; a pair of equal values counts one half.

    Examples
    --------
    >>> auc(np.array([3.0, 2.0, 2.0, 1.0]), np.array([1, 1, 0, 0], bool), np.array([0, 0, 1, 1], bool))
    0.875
    """
    above, below = _kinds(values, positive, negative)
    if above.size == 0 or below.size == 0:
        return float("nan")
    ranks = rankdata(np.concatenate([above, below]))[: above.size]
    return float((ranks.sum() - above.size * (above.size + 1) / 2) / (above.size * below.size))


def average_precision(values: np.ndarray, positive: np.ndarray, negative: np.ndarray) -> float:
    """Mean precision of all thresholds of a map, each weighing by the positives that it adds.

    Parameters
    ----------
    values, positive, negative
        As of :func:`auc`.

    Returns
    -------
    float
        The share of positives where the map tells nothing; NaN where one kind has no number.

    Raises
    ------
    InputError
        As of :func:`auc`.

    Notes
    -----
    Σ (R_k − R_{k−1}) P_k over the different values in falling order, P and R precision and recall of what is at least
    that value: equal values come in together, so that their order does not matter. Other than the area under the ROC
    curve it depends on the share of positives: compare maps of one place only.

    Examples
    --------
    >>> average_precision(np.array([3.0, 2.0, 2.0, 1.0]), np.array([1, 0, 1, 0], bool), np.array([0, 1, 0, 1], bool))
    0.8333333333333333
    """
    above, below = _kinds(values, positive, negative)
    if above.size == 0 or below.size == 0:
        return float("nan")
    limits, which = np.unique(np.concatenate([above, below]), return_inverse=True)
    right = np.bincount(which[: above.size], minlength=limits.size)[::-1]
    found = np.cumsum(right + np.bincount(which[above.size :], minlength=limits.size)[::-1])
    return float((right / above.size * np.cumsum(right) / found).sum())


def high_pass(values: np.ndarray, pixel: tuple[float, float], length: float = SURROUNDINGS) -> np.ndarray:
    """Map less its mean over the surroundings.

    Parameters
    ----------
    values : array (y, x)
        What is not finite is left out of the mean.
    pixel : (float, float), um
        Length of a pixel along y and x; infinite along a side of one pixel.
    length : float, um
        Standard deviation of the Gaussian that the mean weighs with.

    Returns
    -------
    array (y, x), float64
        NaN where the map is not finite.

    Raises
    ------
    InputError
        A length or a pixel that is not above 0, or what is no map.

    Notes
    -----
    v − G(v m)/G(m) with m = 1 where v is finite, so that the edge of the sample is no step. G is cut at four standard
    deviations. Where an eighth of the length is a pixel or more, sums over blocks of that size are blurred instead, and
    their ratio is interpolated: a hundredth of the work, to about 1 % of what is subtracted (our choice).

    Examples
    --------
    >>> high_pass(np.array([[5.0, 5.0, np.nan, 5.0]]), (1.0, 1.0)).tolist()
    [[0.0, 0.0, nan, 0.0]]
    """
    values = np.asarray(values, np.float64)
    if values.ndim != 2:
        raise InputError("high-passed map", f"has shape {values.shape}", "give one map (y, x)")
    if not (length > 0 and all(p > 0 for p in pixel)):
        raise InputError(
            "high-passed map", f"has a length of {length} um and pixels of {pixel} um", "give lengths above 0"
        )
    known = np.isfinite(values)
    middle = float(values[known].mean()) if known.any() else 0.0  # digits of a large offset would be lost
    high, wide = (max(1, int(length / 8 / p)) for p in pixel)
    sigma = [length / p / n for p, n in zip(pixel, (high, wide), strict=True)]
    parts = (np.where(known, values - middle, 0.0), known)
    total, weight = (ndimage.gaussian_filter(block_sums(part, (high, wide)), sigma, mode="constant") for part in parts)
    with np.errstate(invalid="ignore", divide="ignore"):
        around = to_pixels((total / weight).astype(np.float32), (high, wide), values.shape)
        return np.where(known, values - middle - around, np.nan)


def contamination(values: np.ndarray, fringes: np.ndarray, away: np.ndarray, pixel: tuple[float, float]) -> float:
    """How much of the strong beam's fringes a map shows where there is no defect: 0 is nothing, 1 is nothing else.

    Parameters
    ----------
    values : array (y, x)
        The map. What is not finite is left out.
    fringes : array (y, x)
        The strong beam.
    away : array (y, x), bool
        Lit places without defects.
    pixel : (float, float), um
        Length of a pixel along y and x.

    Returns
    -------
    float
        NaN where fewer than three pixels are left, or one of both does not vary.

    Raises
    ------
    InputError
        Arrays of another shape, a mask that is not bool; see :func:`high_pass`.

    Notes
    -----
    |r| of Pearson between both images, high-passed over 2 um (:func:`high_pass`). Broad shading, which every map
    shares with the strong beam, does not count; and a defect is no contamination.

    Examples
    --------
    >>> x = np.arange(60.0)
    >>> fringes = np.tile(np.sin(x), (60, 1))
    >>> away = np.ones((60, 60), bool)
    >>> round(contamination(3 - 2 * fringes, fringes, away, (0.1, 0.1)), 6)
    1.0
    """
    values, fringes, away = np.asarray(values), np.asarray(fringes), np.asarray(away)
    if away.dtype != bool or not values.shape == fringes.shape == away.shape:
        raise InputError(
            "contamination of a map",
            f"{values.shape}, fringes {fringes.shape}, {away.dtype} mask {away.shape}",
            "give three arrays of one shape (y, x), the last bool",
        )
    one, other = (high_pass(image, pixel) for image in (values, fringes))
    counted = away & np.isfinite(one) & np.isfinite(other)
    if counted.sum() < 3:
        return float("nan")
    one, other = (image[counted] - image[counted].mean() for image in (one, other))
    size = float(np.sqrt((one @ one) * (other @ other)))
    return min(abs(float(one @ other)) / size, 1.0) if size > 0 else float("nan")


def _kinds(values: np.ndarray, positive: np.ndarray, negative: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    values, positive, negative = np.asarray(values), np.asarray(positive), np.asarray(negative)
    for name, mask in (("positive", positive), ("negative", negative)):
        if mask.dtype != bool or mask.shape != values.shape:
            raise InputError(
                f"scores of a map: {name}", f"is {mask.dtype} of shape {mask.shape}", f"give bool of {values.shape}"
            )
    if (positive & negative).any():
        raise InputError(
            "scores of a map", f"{int((positive & negative).sum())} pixels are positive and negative", "give each once"
        )
    known = ~np.isnan(values)
    return values[positive & known], values[negative & known]
