"""From the weak-beam image to what stands out of it, and to a mask with a stated rate of false alarms."""

from __future__ import annotations

from typing import Annotated, Literal

import numpy as np
from pydantic import Field
from scipy import ndimage
from scipy.special import ndtri

from dfxm_dask.beams.blocks import block_edges, block_means, pixel_length, reach_of, running_median, to_pixels
from dfxm_dask.beams.integrate import STRONG, WEAK, WEAK_SIGMA
from dfxm_dask.beams.local_peak import LIT
from dfxm_dask.beams.prior import local_median
from dfxm_dask.errors import InputError
from dfxm_dask.reduction import reduction
from dfxm_dask.schema import SPACE, Variable, X, Y

ENHANCED = Variable("weak_enhanced", SPACE, "float32", "1", "weak beam above its surroundings, in standard deviations")
DEFECTS = Variable("defects", SPACE, "bool", "1", "stands out in the weak beam")
MAD = 1.4826022185056018  # median absolute deviation of a Gaussian, inverted


def _cut_reach(window: float, edges: tuple[int, int], y: np.ndarray, x: np.ndarray) -> tuple[int, int]:
    pixel = pixel_length("y", "enhance_beams", y), pixel_length("x", "enhance_beams", x)
    return reach_of(window, edges, pixel)


def published_contrast(weak: np.ndarray) -> np.ndarray:
    """Contrast by the published recipe: mean + 1 standard deviation off, clipped at 0, over the maximum.

    Parameters
    ----------
    weak : array (y, x)
        NaN is left out.

    Returns
    -------
    array (y, x), float32
        0 … 1, NaN where there is no number; 0 where the image is constant.

    Notes
    -----
    arXiv:2509.05017v2.
    """
    known = np.isfinite(weak)
    if not known.any():
        return np.full(weak.shape, np.nan, np.float32)
    values = weak[known].astype(np.float64)
    above = np.maximum(np.where(known, weak, np.nan) - (values.mean() + values.std()), 0)
    top = np.nanmax(above)
    return (above / top if top > 0 else above * 0).astype(np.float32)


@reduction(
    reads=(WEAK, WEAK_SIGMA, STRONG, LIT, Y, X), writes=(ENHANCED,), over=("y", "x"), group="beams"
)  # fmt: skip
def enhance_beams(
    weak: np.ndarray,
    weak_sigma: np.ndarray,
    strong: np.ndarray,
    lit: np.ndarray,
    y: np.ndarray,
    x: np.ndarray,
    *,
    window: Annotated[
        float, Field(gt=0, description="window of the median that is taken off", json_schema_extra={"unit": "um"})
    ] = 8.0,
    noise_window: Annotated[
        float, Field(gt=0, description="window in which the noise is measured", json_schema_extra={"unit": "um"})
    ] = 12.0,
    legacy: Annotated[bool, Field(description="the published contrast: mean + 1 sigma off, over the maximum")] = False,
) -> dict[str, np.ndarray]:
    """Weak beam above its surroundings, in standard deviations of the local noise.

    Parameters
    ----------
    weak, weak_sigma, strong : array (y, x), float32, count
        As :func:`dfxm_dask.beams.integrate_beams` writes them; strong is not used yet.
    lit : array (y, x), bool
        Where the sample diffracts.
    y, x : array (y,) and (x,), float64, um
        Positions of the pixels, equally spaced.
    window, noise_window : float, um
        Of the two running medians. Both our choice: with 4 um instead of 8 walls and pairs are partly taken off
        themselves.
    legacy : bool
        :func:`published_contrast` instead.

    Returns
    -------
    dict
        ``weak_enhanced`` (y, x), float32, NaN where unlit.

    Raises
    ------
    InputError
        Pixels of unequal size.

    Notes
    -----
    r = (weak − local median) / local median of weak_sigma, medians of block means (about 0.25 um) over 8 um among lit
    pixels; the noise is that of the surroundings, since a bright pixel's own photons are no reason to doubt it. The
    result is r over its local scale, 1.4826 × median |r| over 12 um of one pixel in each block, at least half of that
    scale over the whole layer. Where weak_sigma is right and nothing but noise is there, the scale is 1; fringes and
    the noise of the background map raise it. A dislocation fills less than half of either window, so that it is not
    taken off by itself.

    Examples
    --------
    >>> position = 0.25 * np.arange(40.0)
    >>> weak = np.random.default_rng(0).normal(100, 5, (40, 40)).astype(np.float32)
    >>> weak[20, 20] = 200
    >>> one = np.ones((40, 40), np.float32)
    >>> z = enhance_beams.kernel(weak, 5 * one, one, one > 0, position, position)["weak_enhanced"]
    >>> bool(z[20, 20] > 15), bool(0.9 < z[:20].std() < 1.1)
    (True, True)
    """
    shape = weak.shape
    if legacy:
        return {"weak_enhanced": published_contrast(np.where(lit, weak, np.nan))}
    edges = block_edges(y, x, "enhance_beams")
    known = lit & np.isfinite(weak) & np.isfinite(weak_sigma)
    values = np.where(known, weak, np.float32(np.nan))
    reach, twice = _cut_reach(window, edges, y, x), (2 * edges[0], 2 * edges[1])
    sigmas = np.where(known, weak_sigma, np.float32(np.nan))
    around, usual_sigma = (
        to_pixels(local_median(block_means(m, edges), reach), twice, shape) for m in (values, sigmas)
    )  # fmt: skip
    certain = known & ~(usual_sigma > 0)  # no noise at all: nothing to count in
    ratio = np.divide(
        values - around, usual_sigma, out=np.full(shape, np.nan, np.float32), where=known & (usual_sigma > 0)
    )  # fmt: skip
    sample = np.abs(ratio[edges[0] // 2 :: edges[0], edges[1] // 2 :: edges[1]])
    if not np.isfinite(sample).any():
        sample = np.abs(ratio)  # too few blocks to lose a pixel of any
    usual = float(np.nanmedian(sample)) if np.isfinite(sample).any() else 0.0
    if usual > 0:
        coarse = sample[::2, ::2]
        scale = to_pixels(running_median(coarse, _cut_reach(noise_window, twice, y, x)), twice, shape)
        scale = np.fmax(scale, np.float32(usual / 2)) * np.float32(MAD)
        ratio /= np.where(np.isfinite(scale), scale, np.float32(usual * MAD))
    ratio[certain] = 0
    return {"weak_enhanced": ratio}


def false_alarm_threshold(values: np.ndarray, alpha: float) -> float:
    """Value that noise alone exceeds in a part alpha of the pixels, calibrated on the negative side.

    Parameters
    ----------
    values : array
        Without NaN; noise about 0, and what stands out above it.
    alpha : float
        Rate of false alarms per pixel.

    Returns
    -------
    float

    Notes
    -----
    The noise is taken as symmetric: z(alpha) × s with s the largest of −q(z)/z at the 2.3 % quantile, at the 16 %
    quantile and 1.4826 × the median absolute value. Defects only add to the positive side, so what lies below 0 is
    noise.

    Examples
    --------
    >>> round(false_alarm_threshold(np.random.default_rng(0).normal(0, 2, 100000), 0.00135), 1)
    6.0
    """
    if values.size == 0:
        return float("inf")
    low, lower = np.quantile(values, [0.15865525, 0.02275013])  # at -1 and -2 standard deviations
    spread = max(-float(low), -float(lower) / 2, MAD * float(np.median(np.abs(values))))
    return -float(ndtri(alpha)) * spread


def otsu_threshold(values: np.ndarray, bins: int = 256) -> float:
    """Threshold between two classes of largest separation (N. Otsu, IEEE Trans. SMC 9 (1979) 62).

    Parameters
    ----------
    values : array
        Without NaN.
    bins : int
        Of the histogram between the smallest and the largest value.

    Returns
    -------
    float
        Middle of the last bin of the lower class.

    Examples
    --------
    >>> 0.9 < otsu_threshold(np.array([0.0, 0.5, 1.0, 9.0, 9.5, 10.0])) < 9.0
    True
    """
    if values.size == 0 or values.min() == values.max():
        return float("inf")
    count, edge = np.histogram(values, bins)
    centre = (edge[:-1] + edge[1:]) / 2
    below, first = np.cumsum(count), np.cumsum(count * centre)
    above = below[-1] - below
    with np.errstate(invalid="ignore", divide="ignore"):
        between = below * above * (first / below - (first[-1] - first) / above) ** 2
    return float(centre[np.nanargmax(between)])


def without_small(mask: np.ndarray, least: int) -> np.ndarray:
    """Mask without the objects of fewer pixels than ``least``; pixels that touch by a corner belong together.

    Examples
    --------
    >>> without_small(np.array([[1, 0, 1, 1]], bool), 2).astype(int).tolist()
    [[0, 0, 1, 1]]
    """
    if least <= 1 or not mask.any():
        return mask
    label, _ = ndimage.label(mask, np.ones((3, 3)))
    keep = np.bincount(label.ravel()) >= least
    keep[0] = False
    return np.asarray(keep[label])


@reduction(reads=(ENHANCED, LIT, Y, X), writes=(DEFECTS,), over=("y", "x"), group="beams")
def threshold_beams(
    weak_enhanced: np.ndarray,
    lit: np.ndarray,
    y: np.ndarray,
    x: np.ndarray,
    *,
    method: Annotated[
        Literal["noise", "otsu", "fixed"], Field(description="by a rate of false alarms, by Otsu, or by a value")
    ] = "noise",
    alpha: Annotated[
        float, Field(gt=0, lt=0.5, description="for method noise: false alarms per pixel, before small ones go")
    ] = 1e-3,
    value: Annotated[float | None, Field(description="for method fixed: the threshold")] = None,
    least_area: Annotated[
        float, Field(ge=0, description="smaller objects are removed", json_schema_extra={"unit": "um2"})
    ] = 0.1,
) -> dict[str, np.ndarray]:
    """What stands out in the weak beam: dislocations and all else that distorts the lattice.

    Parameters
    ----------
    weak_enhanced : array (y, x), float32
        Contrast; see :func:`enhance_beams`.
    lit : array (y, x), bool
        Where the sample diffracts.
    y, x : array (y,) and (x,), float64, um
        Positions of the pixels, equally spaced.
    method : "noise", "otsu" or "fixed"
        :func:`false_alarm_threshold`, :func:`otsu_threshold`, or ``value`` (the paper's value is not known; the code
        published with it has 0.6).
    alpha : float
        Rate of false alarms per lit pixel of uncorrelated symmetric noise.
    value : float
        For method "fixed" only.
    least_area : float, um²
        Our choice: 0.1, a square of 0.3 um.

    Returns
    -------
    dict
        ``defects`` (y, x), bool.

    Raises
    ------
    InputError
        A value without method "fixed" or the reverse; pixels of unequal size.

    Notes
    -----
    The rate holds before small objects are removed; after it there are far fewer, since single pixels go. Noise that
    is correlated over an object's size passes both.

    Examples
    --------
    >>> position = 0.25 * np.arange(40.0)
    >>> z = np.random.default_rng(0).normal(0, 1, (40, 40)).astype(np.float32)
    >>> z[20, 10:30] = 8
    >>> mask = threshold_beams.kernel(z, np.ones((40, 40), bool), position, position)["defects"]
    >>> mask[20, 10:30].all().item(), mask.sum().item() < 30
    (True, True)
    """
    if (value is None) == (method == "fixed"):
        raise InputError(
            f"threshold_beams: method {method!r}",
            "has no value" if value is None else f"takes no value (found {value})",
            "give value=<threshold>" if value is None else "leave out value, or say method='fixed'",
        )
    usable = lit & np.isfinite(weak_enhanced)
    if method == "fixed":
        limit = float(value)  # type: ignore[arg-type]
    else:
        values = weak_enhanced[usable]
        limit = otsu_threshold(values) if method == "otsu" else false_alarm_threshold(values, alpha)
    mask = np.zeros(weak_enhanced.shape, bool)
    mask[usable] = weak_enhanced[usable] > limit
    lengths = [pixel_length(n, "threshold_beams", p) for n, p in (("y", y), ("x", x))]
    area = float(np.prod([n for n in lengths if np.isfinite(n)])) if mask.size else 1.0
    return {"defects": without_small(mask, int(np.ceil(least_area / area - 1e-9)))}
