"""Weak-beam and strong-beam images: soft sums over the scan, every place by its own local rocking coordinate."""

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

P_WEAK = Variable("p_weak", ("z", "scan", PATCH_Y, PATCH_X), "float32", "1", "probability of the weak beam")
WEAK = Variable("weak", SPACE, "float32", "count", "mean counts of a weak-beam frame")
STRONG = Variable("strong", SPACE, "float32", "count", "mean counts of a strong-beam frame")
WEAK_SIGMA = Variable("weak_sigma", SPACE, "float32", "count", "standard deviation of the mean weak-beam counts")

BIN, BIN_LEAST = 8, 200  # bins of a contrast curve for 1 of u, and values that a bin must have
SAMPLE = 40000  # pixels that noise and contrast of a layer are measured on, about
LEAST_FRAMES = 0.5  # frames in the tails, by the sum of their weights, below which a mean is no mean
METHODS = {"pixel": 0, "patch": 1, "fused": 2}


def _sorted_within(place: np.ndarray, values: np.ndarray, places: int) -> tuple[np.ndarray, np.ndarray]:
    """Values place by place and sorted within, float64, and where each place begins: one sort of place and value."""
    bits = values.astype(np.float32).view(np.uint32)
    turned = np.where(bits >> 31, ~bits, bits | np.uint32(1 << 31))  # unsigned numbers in the order of the values
    key = np.sort(place << np.uint64(32) | turned)
    border = np.searchsorted(key, np.arange(places + 1, dtype=np.uint64) << np.uint64(32))
    turned = key.astype(np.uint32)
    bits = np.where(turned >> 31, turned ^ np.uint32(1 << 31), ~turned)
    return bits.view(np.float32).astype(np.float64), border


def _of_sorted(values: np.ndarray, part: float) -> float:
    """Quantile of sorted values, interpolated."""
    at = part * (values.size - 1)
    low = int(at)
    high = min(low + 1, values.size - 1)
    return float(values[low] + (values[high] - values[low]) * (at - low))


def contrast_curve(u: np.ndarray, above: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """How well each place of the rocking curve tells what stands out from what does not.

    Parameters
    ----------
    u, above : array (anything,)
        Local rocking coordinate and counts above background of a sample of lit voxels; NaN is left out.

    Returns
    -------
    u : array (bin,), float64
        Middles of bins of 1/8 from −8 to 8.
    weight : array (bin,), float64
        (97 % quantile − median) / variance, over its largest value within 1 < |u| < 6; the variance is that of the
        median absolute deviation. A bin of fewer than 200 values takes the nearest that has
        more. 1 throughout where none has.

    Notes
    -----
    The weight of a linear discriminant: expected signal over variance, of bins that do not know of each other. A
    few % of the voxels are near a dislocation, so that the upper quantile is theirs and the median is not. Where the
    strong beam leaks in, the variance is large and the weight falls by itself; how far a tail is of use follows from
    the layer, not from us.
    """
    edges = np.linspace(-TABLE_END, TABLE_END, 2 * TABLE_END * BIN + 1)
    middle = (edges[1:] + edges[:-1]) / 2
    with np.errstate(invalid="ignore"):
        known = np.isfinite(above) & (np.abs(u) < TABLE_END)
    place = ((u[known] + TABLE_END) * BIN).astype(np.uint64)
    values, border = _sorted_within(place, above[known], middle.size)
    signal, variance = np.full(middle.size, np.nan), np.full(middle.size, np.nan)
    for k in range(middle.size):
        part = values[border[k] : border[k + 1]]
        if part.size >= BIN_LEAST:
            usual, high = _of_sorted(part, 0.5), _of_sorted(part, 0.97)
            signal[k] = high - usual
            variance[k] = (1.4826 * _of_sorted(np.sort(np.abs(part - usual)), 0.5)) ** 2
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
    """Pairs of neighbours along x, evenly spread over the layer: u and counts above background, (frame, y, x)."""
    step = max(1, int(np.sqrt(lit.size / SAMPLE)))
    first = np.arange(0, counts.shape[1] - 1, 2 * step)
    every = np.stack([first, first + 1], -1).ravel()
    rows = slice(0, None, step)
    scan_first = np.moveaxis(counts[rows], (0, 1), (-2, -1))  # as it lies in memory
    frames = scan_first[..., every].reshape(positions.size, scan_first.shape[-2], every.size)
    with np.errstate(invalid="ignore", divide="ignore"):
        centre = np.where(lit & (width > 0), peak, np.nan)[rows][:, every]
        u = (positions[:, None, None] - centre) / width[rows][:, every]
        return u, frames.astype(np.float32) - level[rows][:, every]


def _frame_variances(u: np.ndarray, above: np.ndarray, noise: float, gain: float) -> tuple[np.ndarray, np.ndarray]:
    """Noise of each frame (count), and its variance without photons, from the tails; `noise` where these are none."""
    with np.errstate(invalid="ignore"):
        quiet = (np.abs(u) > SURELY_WEAK) & (np.abs(u) < WEAK_UNTIL) & np.isfinite(above)
    measured = frame_noise(above, quiet)
    if np.isnan(measured).any():
        measured[:] = noise
    usual = np.array([np.median(a[q]) if q.any() else np.nan for a, q in zip(above, quiet, strict=True)])
    usual = np.where(np.isfinite(usual), usual, np.nanmedian(usual) if np.isfinite(usual).any() else 0.0)
    return measured, np.maximum(measured**2 - gain * np.maximum(usual, 0), 0.05 * measured**2)


def _least_weight(curve: tuple[np.ndarray, np.ndarray] | None, until: float) -> float:
    """Sum of the weights below which a mean is no mean: one bin of a contrast curve may outweigh all others."""
    if curve is None:
        return LEAST_FRAMES
    tails = (np.abs(curve[0]) > WEAK_FROM) & (np.abs(curve[0]) < until)
    return LEAST_FRAMES * float(np.median(curve[1][tails]))


def published_sum(frames: np.ndarray, weak: np.ndarray, size: int = PATCH) -> np.ndarray:
    """Weak-beam image by the published recipe, for comparison.

    Parameters
    ----------
    frames : array (frame, y, x)
        Logarithm of the counts.
    weak : array (frame, patch_y, patch_x), bool
        Class of each patch.
    size : int, pixel

    Returns
    -------
    array (y, x), float32
        0 … 1; NaN in the rest of the frame that holds no whole patch, which the recipe crops.

    Notes
    -----
    arXiv:2509.05017v2 and the code published with it, step G: strong patches are set to the mean of the layer; of each
    frame mean + 1 standard deviation is subtracted, the rest clipped at 0, divided by its 98th percentile, clipped at
    1; the frames are added, divided by the 99th percentile of the sum, and clipped at 1.
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
        made = np.where(mask, frame, mean).astype(np.float64)
        made = np.maximum(made - (made.mean() + made.std()), 0)
        top = np.percentile(made, 98)
        total += np.minimum(made / top, 1) if top > 0 else 0.0
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
        Field(description="weights by the local coordinate, by the patches of p_weak, or by both"),
    ] = "pixel",
    axis: RockingAxis = None,
    background: PlainBackground = None,
    frame_weight: Annotated[
        Literal["noise", "equal"], Field(description="frames weigh by the inverse of their variance, or alike")
    ] = "equal",
    curve_weight: Annotated[
        Literal["contrast", "equal"], Field(description="places on the curve weigh by their contrast, or alike")
    ] = "contrast",
    gain: Annotated[
        float, Field(ge=0, description="counts per photon, for the photon noise", json_schema_extra={"unit": "count"})
    ] = 2.14,
    until: Annotated[float, Field(gt=2, lt=7, description="|u| at which the tails end")] = WEAK_UNTIL,
    insist: Annotated[
        bool, Field(description="make weak-beam images even of layers that local_peak found no weak beam in")
    ] = False,
    legacy: Annotated[
        bool, Field(description="weak by the published recipe: whole patches, normalised frames")
    ] = False,
) -> dict[str, np.ndarray]:
    """Weak-beam and strong-beam images, with the standard deviation of the weak one.

    Parameters
    ----------
    counts : array
        All frames on one scale.
    peak_local, width_local, has_weak_beam : array
        See :func:`dfxm_dask.beams.local_peak`.
    noise : array, optional
        Taken where the frames are too small or too even to measure theirs.
    p_weak : array, optional
        Spread bilinearly, so that no seam is left.
    method : "pixel", "patch" or "fused"
        Patches help where the prior fails; on simulated scans they added nothing to it.
    axis : str, optional
        Without phi, the first axis of at least three positions.
    background : float or "none", optional
        A map or this parameter must be given.
    frame_weight : "noise" or "equal"
        With "noise" frames that were scaled up from behind an attenuator weigh less. They are those of the flank, where
        the contrast is: equal weights were better even under a strong jitter of the exposure.
    curve_weight : "contrast" or "equal"
        See :func:`~dfxm_dask.beams.integrate.contrast_curve`.
    gain : float, count
        2.14: PCO Edge 4.2 of ID03, camera calibration in the documentation of dfxm-geo 3.0.0.
    until : float
        Beyond it frames are cut off softly (6 as specified).
    insist : bool
        Otherwise a layer without weak beam has none of its images: what is summed there is not dislocations.
    legacy : bool
        ``weak`` by :func:`~dfxm_dask.beams.integrate.published_sum` of log(max(counts, 1)), 0 … 1, a patch being weak
        where ``p_weak`` > 0.5; all other maps are NaN.

    Returns
    -------
    dict
        Signs are those of u (see Notes). NaN where unlit, and where the weights of the frames sum to less than half a
        frame; all but ``strong`` also in a layer that has no weak beam.

    Raises
    ------
    InputError
        No background; a method that needs ``p_weak`` without it, or ``p_weak`` of another frame size; an axis without
        a rocking curve.

    Notes
    -----
    With u = (phi − peak) / width and S the logistic function, weak = Σ P (I − background) / Σ P over all frames.
    P = f c S((|u| − 1.75)/0.1) S((6 − |u|)/0.3) by the pixel; f p by the patch; fused, the first logistic and p
    are joined by the sum of their log-odds. strong weighs by S((1 − |u|)/0.3), 1 − p, or both.

    f = 1/noise² of the frame, relative to its lower quartile over frames; noise is measured from neighbours in the
    tails of the frame (:func:`dfxm_dask.beams.prior.frame_noise`). c is the contrast over the variance at this u,
    measured on the layer (:func:`contrast_curve`). With the plain windows (``curve_weight="equal"``: c = 1, and
    S((|u| − 2)/0.3) by the pixel) a logistic of softness 0.3 lets 0.1 % of the strong beam in, which outshines the
    weak one: that separated dislocations worse than the best single frame did.

    Variance: Σ P² (noise² + gain (I − background − usual)) / (Σ P)², usual the median in the tails of the frame, whose
    photons the measured noise holds; without that of the background map, which all frames share, and with one gain
    for all frames. The windows are looked up in steps of 1/512 of u. A count that is no
    number gets zero weight.

    In a scan of several axes u is that of the rocking axis alone: every frame at one phi weighs the same.

    Our own definition.

    References
    ----------
    arXiv:2509.05017v2 for ``legacy``.

    Examples
    --------
    >>> import dfxm_dask
    >>> scan = dfxm_dask.example_scan()
    >>> known = scan.merge(dfxm_dask.local_peak(scan, background=100))
    >>> images = dfxm_dask.integrate_beams(known, background=100).isel(z=0).compute()
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
    chosen = rocking_axis("integrate_beams", scan, axis)
    if p_weak is None and (method != "pixel" or legacy):
        raise InputError(
            "integrate_beams: " + ("legacy" if legacy else f"method {method!r}"),
            "there is no p_weak",
            "run the step classify_beams before, or say method='pixel'",
        )
    if p_weak is not None:
        check_grid("p_weak", p_weak.shape[:2], shape)
    places = frame_places(scan, chosen)
    chance = np.zeros((places.size, 1, 1), np.float32)
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
        positions = np.asarray(scan[chosen], np.float64)[places]
        u, above = _sample(counts, level, positions, lit, peak_local, width_local)
        measured, dark = _frame_variances(u, above, 0.0 if noise is None else float(noise), gain)
        weighed = curve_weight == "contrast" and method != "patch"
        curve = contrast_curve(u.ravel(), above.ravel()) if weighed else None
        weight = np.ones(places.size)
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
            window_tables(until, weighed, curve),
            Patches(chance, *between_centres(shape[0]), *between_centres(shape[1])),
            METHODS[method],
            np.float32(gain),
            np.float32(_least_weight(curve, until)),
            maps,
        )
    if not has_weak_beam and not insist:
        maps[[0, 2, 3, 4]] = np.nan
    return dict(zip(("weak", "strong", "weak_minus", "weak_plus", "weak_sigma"), maps, strict=True))
