"""Scores of maps and masks of defects against true lines and boundaries, and the visibility of fringes in a map."""

from __future__ import annotations

import numpy as np
from scipy import ndimage
from scipy.stats import rankdata

from dfxm_dask.beams.blocks import block_sums, to_pixels
from dfxm_dask.errors import InputError

ON_LINE, TAU = 0.25, 1.0
"""Distances in um to a line: a pixel is on the line within the first, a mask matches it within the second (our
choice)."""
SURROUNDINGS = 2.0
"""Standard deviation in um of the Gaussian whose mean a high-passed map subtracts (our choice). With a full width of 2
um half of a line's image subtracts itself."""


def mask_scores(
    mask: np.ndarray, lit: np.ndarray, away: np.ndarray, boundary: np.ndarray, pixel: tuple[float, float]
) -> dict[str, float]:
    """Agreement of the mask of one layer with true lines.

    Parameters
    ----------
    mask, lit : array (y, x), bool
    away, boundary : array (y, x), um
        Distance to the nearest line, in space, and to the nearest boundary.
    pixel : (float, float), um
        Length of a pixel along y and x; infinite along a side of one pixel.

    Returns
    -------
    dict of str to float
        ``precision``, the share of the mask within 1 um of a line; ``or boundary``, the same of a line or a boundary,
        NaN without boundaries; ``recall``, the share of lit pixels on a line that are within 1 um of the mask;
        ``F1``, the harmonic mean of precision and recall; ``HD95`` (um), the larger of the 95 % quantiles of both
        distances. NaN if there are no pixels to count; recall and F1 are 0 for an empty mask.

    Notes
    -----
    The mask of a boundary also covers the space between its dislocations, even if they are more than 2 um apart: its
    precision for lines alone is low although the mask is correct; the precision for lines or boundaries is relevant.

    Examples
    --------
    >>> mask = np.array([[False, True, True, False]])
    >>> away, boundary = np.array([[0.0, 1.0, 2.0, 3.0]]), np.zeros((1, 4))
    >>> mask_scores(mask, mask | True, away, boundary, (1.0, 1.0))
    {'precision': 0.5, 'or boundary': 1.0, 'recall': 1.0, 'F1': 0.6666666666666666, 'HD95': 1.95}
    """
    lengths = tuple(p if np.isfinite(p) else 1.0 for p in pixel)
    mask, on_line = mask & lit, lit & (away < max(ON_LINE, *lengths))
    nothing = dict.fromkeys(("precision", "or boundary", "recall", "F1", "HD95"), float("nan"))
    if not mask.any():
        return nothing | ({"recall": 0.0, "F1": 0.0} if on_line.any() else {})
    found = nothing | {"precision": float((away[mask] <= TAU).mean())}
    if np.isfinite(boundary).any():
        found["or boundary"] = float((np.minimum(away, boundary)[mask] <= TAU).mean())
    if not on_line.any():
        return found
    to_mask = ndimage.distance_transform_edt(~mask, sampling=lengths)[on_line]
    recall = float((to_mask <= TAU).mean())
    total = found["precision"] + recall
    return found | {
        "recall": recall,
        "F1": 2 * found["precision"] * recall / total if total > 0 else 0.0,
        "HD95": float(max(np.quantile(d, 0.95) for d in (away[mask], to_mask))),
    }


def auc(values: np.ndarray, positive: np.ndarray, negative: np.ndarray) -> float:
    """Probability that a positive pixel of a map exceeds a negative one: area under the ROC curve.

    Parameters
    ----------
    values : array (y, x) or of any shape
        Larger for positive pixels. NaN is ignored; infinite values count.
    positive, negative : array of the same shape, bool
        Pixels of both kinds, such as near a dislocation and far from all. Other pixels do not count.

    Returns
    -------
    float
        0.5 if the map has no information; NaN if one kind has no pixels.

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
    """Mean precision of all thresholds of a map, each weighted by the positives that it adds.

    Parameters
    ----------
    values, positive, negative
        See :func:`auc`.

    Returns
    -------
    float
        The share of positives if the map has no information; NaN if one kind has no pixels.

    Raises
    ------
    InputError
        See :func:`auc`.

    Notes
    -----
    Σ (R_k − R_{k−1}) P_k over the distinct values in descending order, P and R precision and recall of all pixels of at
    least that value: equal values enter together, so that their order does not matter. Unlike the area under the ROC
    curve it depends on the share of positives: compare maps of one region only.

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
    """Map minus the mean over its surroundings.

    Parameters
    ----------
    values : array (y, x)
        Values that are not finite are excluded from the mean.
    pixel : (float, float), um
        Length of a pixel along y and x; infinite along a side of one pixel.
    length : float, um
        Standard deviation of the Gaussian weights of the mean.

    Returns
    -------
    array (y, x), float64
        NaN where the map is not finite.

    Raises
    ------
    InputError
        A length or a pixel that is not above 0, or an array that is not a map.

    Notes
    -----
    v − G(v m)/G(m) with m = 1 where v is finite, so that the edge of the sample causes no step. G is truncated at four
    standard deviations. If an eighth of the length is a pixel or more, sums over blocks of that size are blurred
    instead, and their ratio is interpolated: 100 times faster, accurate to about 1 % of the subtracted mean (our
    choice).

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
    finite = np.isfinite(values)
    middle = float(values[finite].mean()) if finite.any() else 0.0  # digits of a large offset would be lost
    high, wide = (max(1, int(length / 8 / p)) for p in pixel)
    sigma = [length / p / n for p, n in zip(pixel, (high, wide), strict=True)]
    parts = (np.where(finite, values - middle, 0.0), finite)
    total, weight = (ndimage.gaussian_filter(block_sums(part, (high, wide)), sigma, mode="constant") for part in parts)
    with np.errstate(invalid="ignore", divide="ignore"):
        around = to_pixels((total / weight).astype(np.float32), (high, wide), values.shape)
        return np.where(finite, values - middle - around, np.nan)


def contamination(values: np.ndarray, fringes: np.ndarray, away: np.ndarray, pixel: tuple[float, float]) -> float:
    """Visibility of the strong beam's fringes in a map where there is no defect: from 0 to 1.

    Parameters
    ----------
    values : array (y, x)
        The map. Values that are not finite are ignored.
    fringes : array (y, x)
        The strong beam.
    away : array (y, x), bool
        Lit pixels without defects.
    pixel : (float, float), um
        Length of a pixel along y and x.

    Returns
    -------
    float
        NaN if fewer than three pixels remain, or one of the two images does not vary.

    Raises
    ------
    InputError
        Arrays of another shape, a mask that is not bool; see :func:`high_pass`.

    Notes
    -----
    |r| of Pearson between both images, high-passed over 2 um (:func:`high_pass`). Broad shading, which every map
    shares with the strong beam, does not count; neither do defects.

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
    """Values of the positive and of the negative pixels, checked."""
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
    valid = ~np.isnan(values)
    return values[positive & valid], values[negative & valid]
