"""Weak-beam and strong-beam images: soft sums over the scan, each pixel by its own local rocking coordinate."""

from __future__ import annotations

from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from dfxm_dask.beams.beam_sums import TABLE_END, Frames, Patches, Pixels, integrate_layer, window_tables
from dfxm_dask.beams.patches import between_centres, check_grid, filled
from dfxm_dask.beams.prior import (
    SURELY_WEAK,
    WEAK_FROM,
    WEAK_UNTIL,
    check_counts,
    frame_noise,
    frame_places,
    rocking_axis,
)
from dfxm_dask.errors import InputError
from dfxm_dask.memory import frame_lines
from dfxm_dask.reduction import reduction
from dfxm_dask.schema import (
    AXES,
    BACKGROUND,
    COUNTS,
    HAS_WEAK_BEAM,
    LIT,
    NOISE,
    PATCH,
    PATCH_X,
    PATCH_Y,
    PEAK_LOCAL,
    SPACE,
    WEAK_MINUS,
    WEAK_PLUS,
    WIDTH_LOCAL,
    PlainBackground,
    RockingAxis,
    Variable,
    plain_background,
)

P_WEAK = Variable("p_weak", ("z", "scan", PATCH_Y, PATCH_X), "float32", "1", "probability of weak beam")
WEAK = Variable("weak", SPACE, "float32", "count", "mean counts of a weak-beam frame")
STRONG = Variable("strong", SPACE, "float32", "count", "mean counts of a strong-beam frame")
WEAK_SIGMA = Variable("weak_sigma", SPACE, "float32", "count", "standard deviation of the mean weak-beam counts")

BIN, BIN_LEAST = 8, 200  # bins of a contrast curve per unit of u, and least number of values in a bin
SAMPLE = 40000  # approximate number of pixels from which noise and contrast of a layer are measured
LEAST_FRAMES = 0.5  # least sum of weights of a valid mean, in frames of the tails
METHODS = {"pixel": 0, "patch": 1, "fused": 2}


def _sorted_within(bins: np.ndarray, values: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Values by bin and sorted within each bin, float64, and the first index of each bin, from one sort of both."""
    bits = values.astype(np.float32).view(np.uint32)
    ordered = np.where(bits >> 31, ~bits, bits | np.uint32(1 << 31))  # unsigned numbers in the order of the values
    key = np.sort(bins << np.uint64(32) | ordered)
    border = np.searchsorted(key, np.arange(count + 1, dtype=np.uint64) << np.uint64(32))
    ordered = key.astype(np.uint32)
    bits = np.where(ordered >> 31, ordered ^ np.uint32(1 << 31), ~ordered)
    return bits.view(np.float32).astype(np.float64), border


def _of_sorted(values: np.ndarray, fraction: float) -> float:
    """Quantile of sorted values, interpolated."""
    at = fraction * (values.size - 1)
    low = int(at)
    high = min(low + 1, values.size - 1)
    return float(values[low] + (values[high] - values[low]) * (at - low))


def contrast_curve(u: np.ndarray, above: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Power of each part of the rocking curve to separate defects from their surroundings.

    Parameters
    ----------
    u, above : array (anything,)
        Local rocking coordinate and counts above background of a sample of lit voxels; NaN is ignored.

    Returns
    -------
    u : array (bin,), float64
        Centres of bins of 1/8 from −8 to 8.
    weight : array (bin,), float64
        Weight of each bin, at most 1 within 1 < |u| < 6. A bin of fewer than 200 values gets the weight of the nearest
        bin that has more. 1 everywhere if no bin has enough values.

    Notes
    -----
    The weight of a linear discriminant, expected signal over variance, for independent bins::

        weight = (97 % quantile − median) / (1.4826 · median absolute deviation)²

    divided by its largest value within 1 < |u| < 6. A few percent of the voxels are near a dislocation: they determine
    the upper quantile, but not the median. Where the strong beam contributes, the variance is large and the weight
    decreases. The useful range of the tails thus follows from the data of the layer.
    """
    edges = np.linspace(-TABLE_END, TABLE_END, 2 * TABLE_END * BIN + 1)
    middle = (edges[1:] + edges[:-1]) / 2
    with np.errstate(invalid="ignore"):
        finite = np.isfinite(above) & (np.abs(u) < TABLE_END)
    bins = ((u[finite] + TABLE_END) * BIN).astype(np.uint64)
    values, border = _sorted_within(bins, above[finite], middle.size)
    signal, variance = np.full(middle.size, np.nan), np.full(middle.size, np.nan)
    for k in range(middle.size):
        part = values[border[k] : border[k + 1]]
        if part.size >= BIN_LEAST:
            median, high = _of_sorted(part, 0.5), _of_sorted(part, 0.97)
            signal[k] = high - median
            variance[k] = (1.4826 * _of_sorted(np.sort(np.abs(part - median)), 0.5)) ** 2
    good = (signal > 0) & (variance > 0)
    within = (np.abs(middle) > 1) & (np.abs(middle) < WEAK_UNTIL)
    if not (good & within).any():
        return middle, np.ones(middle.size)
    near = np.abs(middle[:, None] - middle[good]).argmin(axis=1)
    weight = (signal[good] / variance[good])[near]
    return middle, weight / weight[within].max()


def _sample(
    counts: np.ndarray, level: np.ndarray, positions: np.ndarray, lit: np.ndarray, peak: np.ndarray, width: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """u and counts above background of neighbouring pairs along x, spread evenly over the layer: (frame, y, x)."""
    step = max(1, int(np.sqrt(lit.size / SAMPLE)))
    first = np.arange(0, counts.shape[1] - 1, 2 * step)
    every = np.stack([first, first + 1], -1).ravel()
    rows = slice(0, None, step)
    scan_first = np.moveaxis(counts[rows], (0, 1), (-2, -1))  # the order in memory
    frames = scan_first[..., every].reshape(positions.size, scan_first.shape[-2], every.size)
    with np.errstate(invalid="ignore", divide="ignore"):
        centre = np.where(lit & (width > 0), peak, np.nan)[rows][:, every]
        u = (positions[:, None, None] - centre) / width[rows][:, every]
        return u, frames.astype(np.float32) - level[rows][:, every]


def _frame_variances(u: np.ndarray, above: np.ndarray, noise: float, gain: float) -> tuple[np.ndarray, np.ndarray]:
    """Noise of each frame (count) and its variance without photon noise, from the tails; `noise` if these are empty."""
    with np.errstate(invalid="ignore"):
        quiet = (np.abs(u) > SURELY_WEAK) & (np.abs(u) < WEAK_UNTIL) & np.isfinite(above)
    measured = frame_noise(above, quiet)
    if np.isnan(measured).any():
        measured[:] = noise
    level = np.array([np.median(a[q]) if q.any() else np.nan for a, q in zip(above, quiet, strict=True)])
    level = np.where(np.isfinite(level), level, np.nanmedian(level) if np.isfinite(level).any() else 0.0)
    return measured, np.maximum(measured**2 - gain * np.maximum(level, 0), 0.05 * measured**2)


def _least_weight(curve: tuple[np.ndarray, np.ndarray] | None, until: float) -> float:
    """Least sum of weights of a valid mean; relative to the median weight, since one bin may outweigh all others."""
    if curve is None:
        return LEAST_FRAMES
    tails = (np.abs(curve[0]) > WEAK_FROM) & (np.abs(curve[0]) < until)
    return LEAST_FRAMES * float(np.median(curve[1][tails]))


def published_sum(frames: np.ndarray, weak: np.ndarray, size: int = PATCH) -> np.ndarray:
    """Weak-beam image of the published recipe, for comparison.

    Parameters
    ----------
    frames : array (frame, y, x)
        Logarithm of the counts.
    weak : array (frame, patch_y, patch_x), bool
        Class of each patch.
    size : int, pixel
        Edge of a patch.

    Returns
    -------
    array (y, x), float32
        0 … 1; NaN at the border of the frame beyond the last whole patch, which the recipe crops.

    Notes
    -----
    arXiv:2509.05017v2 and the code published with it, step G. Strong patches are set to the mean of the layer. From
    each frame, mean + 1 standard deviation is subtracted; negative values become 0; the frame is divided by its 98th
    percentile and clipped at 1. The sum of all frames is divided by its 99th percentile and clipped at 1.
    """
    high, wide = (n // size * size for n in frames.shape[1:])
    result = np.full(frames.shape[1:], np.nan, np.float32)
    if high == 0 or wide == 0:
        return result
    cropped = frames[:, :high, :wide]
    mean = float(cropped.mean(dtype=np.float64))
    total = np.zeros((high, wide))
    for frame, chosen in zip(cropped, weak, strict=True):
        mask = np.repeat(np.repeat(chosen[: high // size, : wide // size], size, axis=0), size, axis=1)
        frame_weak = np.where(mask, frame, mean).astype(np.float64)
        frame_weak = np.maximum(frame_weak - (frame_weak.mean() + frame_weak.std()), 0)
        top = np.percentile(frame_weak, 98)
        total += np.minimum(frame_weak / top, 1) if top > 0 else 0.0
    top = np.percentile(total, 99)
    result[:high, :wide] = np.minimum(total / top, 1) if top > 0 else 0.0
    return result


@reduction(
    reads=(COUNTS, AXES, LIT, PEAK_LOCAL, WIDTH_LOCAL, HAS_WEAK_BEAM),
    may_read=(BACKGROUND, NOISE, P_WEAK),
    writes=(WEAK, STRONG, WEAK_MINUS, WEAK_PLUS, WEAK_SIGMA),
    over=("scan", "y", "x"),
    group="beams",
)
def integrate_beams(
    counts: np.ndarray,
    scan: dict[str, np.ndarray],
    lit: np.ndarray,
    peak_local: np.ndarray,
    width_local: np.ndarray,
    has_weak_beam: np.ndarray,
    background_map: np.ndarray | None = None,
    noise: np.ndarray | None = None,
    p_weak: np.ndarray | None = None,
    *,
    method: Annotated[
        Literal["pixel", "patch", "fused"],
        Field(description="weight frames by the local rocking coordinate, by the patches of p_weak, or by both"),
    ] = "pixel",
    axis: RockingAxis = None,
    background: PlainBackground = None,
    frame_weight: Annotated[
        Literal["noise", "equal"], Field(description="weight frames by the inverse of their variance, or equally")
    ] = "equal",
    curve_weight: Annotated[
        Literal["contrast", "equal"],
        Field(description="weight parts of the rocking curve by their measured contrast, or equally"),
    ] = "contrast",
    gain: Annotated[
        float, Field(ge=0, description="counts per photon, for photon noise", json_schema_extra={"unit": "count"})
    ] = 2.14,
    until: Annotated[float, Field(gt=2, lt=7, description="|u| at which the tails end")] = WEAK_UNTIL,
    insist: Annotated[
        bool, Field(description="compute weak-beam images even in layers in which local_peak found no weak beam")
    ] = False,
    legacy: Annotated[
        bool, Field(description="compute weak by the published recipe: whole patches, normalised frames")
    ] = False,
) -> dict[str, np.ndarray]:
    """Mean weak-beam and strong-beam intensity of each pixel, with the standard deviation of the weak one.

    Each frame is assigned to weak or strong beam softly, for each pixel by its own local rocking coordinate: the
    distance from the peak of its rocking curve in half widths. The images are weighted means of the counts above
    background over all frames. The weak beam is also given for each side of the peak. The standard deviation follows
    from the measured noise of the frames and from photon statistics.

    Parameters
    ----------
    counts : array (y, x, scan axes), uint16 or float32, count
        All frames must be on one scale. NaN gets zero weight.
    peak_local, width_local, has_weak_beam : array
        See :func:`dfxm_dask.beams.local_peak`.
    noise : array (), float32, count, optional
        Used if the frames are too small or too uniform to measure their own noise.
    p_weak : array (patch_y, patch_x, scan axes), float32, 1, optional
        Interpolated bilinearly, so that patches leave no seam.
    method : "pixel", "patch" or "fused"
        Patches help where the rocking curve fails; on simulated scans they did not improve on it.
    axis : str, optional
        If phi is not scanned, the first axis with at least three positions.
    background : float or "none", optional
        Either a background map or this parameter is required.
    frame_weight : "noise" or "equal"
        "noise" reduces the weight of frames that were scaled up from behind an attenuator. Those frames are on the
        flank, where the contrast is: equal weights were better even with strong fluctuations of the exposure.
    curve_weight : "contrast" or "equal"
        See :func:`~dfxm_dask.beams.integrate.contrast_curve`.
    gain : float, count
        2.14: PCO Edge 4.2 of ID03, camera calibration in the documentation of dfxm-geo 3.0.0.
    until : float
        The cut is soft (6 in the specification of the method).
    insist : bool
        By default a layer without weak beam has no weak-beam images, because they would not show dislocations.
    legacy : bool
        ``weak`` then is :func:`~dfxm_dask.beams.integrate.published_sum` of log(max(counts, 1)), from 0 to 1; a patch
        is weak if ``p_weak`` > 0.5. All other maps are NaN.

    Returns
    -------
    dict
        "Below" and "above the peak" are u < 0 and u > 0 (see Notes). NaN where unlit, and where the weights sum to
        less than half a frame. In a layer without weak beam all maps but ``strong`` are NaN.

    Raises
    ------
    InputError
        No background; ``p_weak`` is missing and the method requires it, or ``p_weak`` belongs to another frame size; an
        axis without a rocking curve.

    Notes
    -----
    With S the logistic function and sums over all frames::

        u = (phi − peak_local) / width_local
        weak = Σ P (I − background) / Σ P
        P = f · c · S((|u| − 1.75) / 0.1) · S((until − |u|) / 0.3)        method "pixel"
        P = f · p_weak                                                  method "patch"

    Method "fused" joins the first logistic of "pixel" and p_weak by the sum of their log-odds. The weights of the
    strong beam are f · S((1 − |u|) / 0.3), f · (1 − p_weak), or both joined.

    f is 1, or with ``frame_weight="noise"`` 1 / noise² of the frame relative to its lower quartile over frames. The
    noise of a frame is measured from neighbouring pixels in its tails (:func:`dfxm_dask.beams.prior.frame_noise`).
    c is the ratio of contrast to variance at this u, measured on the layer (:func:`contrast_curve`). With
    ``curve_weight="equal"``, c = 1 and the first logistic is S((|u| − 2) / 0.3). Its softness of 0.3 admits 0.1 % of
    the strong beam, which outshines the weak beam: it separated dislocations worse than the best single frame did.

    Variance of ``weak``::

        weak_sigma² = Σ P² (noise² + gain · (I − background − level)) / (Σ P)²

    with level the median of I − background in the tails of the frame, whose photon noise the measured noise contains.
    It omits the noise of the background map, which all frames share, and assumes one gain for all frames. The weights
    are tabulated in steps of 1/512 of u.

    In a scan of several axes u is that of the rocking axis alone: all frames at one phi have the same weight.

    Our own definition.

    References
    ----------
    arXiv:2509.05017v2 for ``legacy``.

    Examples
    --------
    >>> import dfxm_dask
    >>> scan = dfxm_dask.example_scan()
    >>> data = scan.merge(dfxm_dask.local_peak(scan, background=100))
    >>> images = dfxm_dask.integrate_beams(data, background=100).isel(z=0).compute()
    >>> bool(images["strong"].mean() > 10 * images["weak"].mean())
    True

    The kernel alone, on one layer:

    >>> phi = np.arange(-4.0, 5.0)
    >>> counts = np.array([[[1, 2, 4, 50, 90, 50, 4, 2, 1]]], np.uint16)
    >>> one = np.ones((1, 1), np.float32)
    >>> lit, peak, width = one > 0, 0 * one, one
    >>> maps = integrate_beams.kernel(
    ...     counts, {"phi": phi}, lit, peak, width, np.True_, background="none", curve_weight="equal"
    ... )
    >>> round(maps["weak"].item(), 1), round(maps["strong"].item(), 1)
    (2.7, 67.3)
    """
    shape = lit.shape
    check_counts("integrate_beams", counts, scan, shape)
    level = plain_background("integrate_beams", background_map, background, shape)
    rocking = rocking_axis("integrate_beams", scan, axis)
    if p_weak is None and (method != "pixel" or legacy):
        raise InputError(
            "integrate_beams: " + ("legacy" if legacy else f"method {method!r}"),
            "has no p_weak",
            "run the step classify_beams first, or set method='pixel'",
        )
    if p_weak is not None:
        check_grid("p_weak", p_weak.shape[:2], shape)
    steps = frame_places(scan, rocking)
    chance = np.zeros((steps.size, 1, 1), np.float32)
    if p_weak is not None and (method != "pixel" or legacy):
        chance = np.moveaxis(p_weak.reshape(*p_weak.shape[:2], -1), -1, 0)
    maps = np.empty((5, *shape), np.float32)
    if legacy:
        maps[:] = np.nan
        frames = np.moveaxis(counts.reshape(*shape, -1), -1, 0)
        maps[0] = published_sum(np.log(np.fmax(frames, 1).astype(np.float32)), chance > 0.5)
    elif counts.size:
        chance = np.ascontiguousarray(np.stack([filled(c) for c in chance]), np.float32)
        chance = np.where(np.isfinite(chance), np.clip(chance, 1e-6, 1 - 1e-6), np.float32(0.5))
        positions = np.asarray(scan[rocking], np.float64)[steps]
        u, above = _sample(counts, level, positions, lit, peak_local, width_local)
        measured, dark = _frame_variances(u, above, 0.0 if noise is None else float(noise), gain)
        by_contrast = curve_weight == "contrast" and method != "patch"
        curve = contrast_curve(u.ravel(), above.ravel()) if by_contrast else None
        weight = np.ones(steps.size)
        if frame_weight == "noise" and measured.any():
            weight = (np.quantile(measured, 0.25) / measured) ** 2
        middle = float(np.median(positions))  # float32 differences of large angles would lose digits
        pixels = Pixels(
            level,
            np.require(lit, bool, ["C", "W"]),
            np.require(peak_local - middle, np.float32, ["C", "W"]),
            np.require(width_local, np.float32, ["C", "W"]),
        )
        integrate_layer(
            frame_lines(counts),
            Frames(*(values.astype(np.float32) for values in (positions - middle, weight, dark))),
            pixels,
            window_tables(until, by_contrast, curve),
            Patches(chance, *between_centres(shape[0]), *between_centres(shape[1])),
            METHODS[method],
            np.float32(gain),
            np.float32(_least_weight(curve, until)),
            maps,
        )
    if not has_weak_beam and not insist:
        maps[[0, 2, 3, 4]] = np.nan
    return dict(zip(("weak", "strong", "weak_minus", "weak_plus", "weak_sigma"), maps, strict=True))
