"""Weak and strong beam from the rocking curve alone, without training and without drawn regions.

Every point of the sample has its own peak phi0 and half width w (:func:`peak_and_width`). With u = (phi − phi0)/w, a
frame shows it in strong beam if |u| is below about 1, and in weak beam if |u| is about 2 or more. All quantities are
computed on blocks of about 0.25 um (:mod:`dfxm_dask.beams.blocks`), whose curves are smooth and few.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from scipy import ndimage

from dfxm_dask.beams.blocks import block_means, running_median
from dfxm_dask.beams.patches import patch_starts
from dfxm_dask.errors import InputError
from dfxm_dask.schema import PATCH

UNLIT, WEAK, STRONG, AMBIGUOUS = range(4)
MEANINGS = ("unlit", "weak", "strong", "ambiguous")
WEAK_FROM, SOFTNESS = 2.0, 0.3  # P(weak) is 1/2 at |u| = 2; both as in the specification of the method
SURELY_WEAK, SURELY_STRONG = 2.5, 1.2
WEAK_UNTIL = 6.0  # farther out the tails contain little but noise
LIT_ABOVE, LIT_OF = 0.25, 0.9  # fraction of the 90th percentile of the integrated counts
LIT_SIGMA = 6.0  # standard deviations of the noise of a pixel where nothing diffracts
SMOOTH = 0.8  # step: standard deviation along phi
LOW = 1 / 16  # of the maximum: height of a Gaussian at |u| = 2
TAPS = np.exp(-0.5 * (np.arange(-3, 4) / SMOOTH) ** 2).astype(np.float32)


def rocking_axis(name: str, scan: dict[str, np.ndarray], axis: str | None = None) -> str:
    """The scan axis along which weak and strong beam are distinguished.

    Parameters
    ----------
    name : str
        Name of the caller, for the text of an error.
    scan : dict of str to array
        Positions along every scan axis.
    axis : str, optional
        By default phi if it is scanned, otherwise the first axis with three positions or more.

    Raises
    ------
    InputError
        Unknown axis, or fewer than three different positions along it: one frame has no weak and strong part.

    Examples
    --------
    >>> rocking_axis("prior", {"chi": np.arange(5.0), "phi": np.arange(7.0)})
    'phi'
    """
    if axis is not None and axis not in scan:
        raise InputError(f"{name}: axis {axis!r}", f"the scan has {', '.join(scan)}", "choose one of them")
    enough = [a for a, positions in scan.items() if np.unique(positions).size >= 3 and axis in (None, a)]
    if not enough:
        lengths = ", ".join(f"{a}: {np.unique(p).size}" for a, p in scan.items()) or "a single frame"
        raise InputError(
            f"{name}: a rocking curve",
            f"needs at least 3 positions of one axis, the scan has {lengths}",
            "use a rocking scan; for single frames classify by the network",
        )
    return "phi" if "phi" in enough else enough[0]


def frame_places(scan: dict[str, np.ndarray], axis: str) -> np.ndarray:
    """Index along one axis of the position of every frame in scan order: (frame,), int64."""
    lengths = [p.size for p in scan.values()]
    return np.indices(lengths)[list(scan).index(axis)].ravel().astype(np.int64)


def check_counts(name: str, counts: np.ndarray, scan: dict[str, np.ndarray], shape: tuple[int, ...]) -> None:
    """Refuse counts whose axes are not (y, x, scan axes); compiled loops would read out of bounds.

    Raises
    ------
    InputError
        Another shape.
    """
    wanted = (*shape, *(p.size for p in scan.values()))
    if counts.shape != wanted:
        raise InputError(
            f"{name}: counts of shape {counts.shape}",
            f"y, x and the scan axes {', '.join(scan)} have lengths {wanted}",
            "give one layer as an array (y, x, scan axes)",
        )


def light_mask(total: np.ndarray, reach: tuple[int, int], sigma: float = 0.0, dark_beyond: bool = False) -> np.ndarray:
    """Blocks in which the sample diffracts.

    Parameters
    ----------
    total : array (block_y, block_x), count
        Counts above background, summed over the scan.
    reach : (int, int)
        Half of the smoothing window, blocks.
    sigma : float, count
        Noise of the total of one block.
    dark_beyond : bool
        Assume that pixels beyond the frame are dark; otherwise the mean covers the pixels in the frame only.

    Returns
    -------
    array (block_y, block_x), bool
        Smoothed total > 0.25 × its 90th percentile over the layer, and > 6 × its standard deviation.
    """
    if total.size == 0:
        return np.zeros(total.shape, bool)
    size = tuple(2 * r + 1 for r in reach)
    finite = np.isfinite(total)
    share = ndimage.uniform_filter(finite.astype(np.float64), size, mode="constant", cval=float(dark_beyond))
    smooth = ndimage.uniform_filter(np.where(finite, total, 0).astype(np.float64), size, mode="constant")
    smooth = np.divide(smooth, share, out=np.zeros_like(smooth), where=share > 0.5 / np.prod(size))
    least = max(LIT_ABOVE * float(np.quantile(smooth, LIT_OF)), LIT_SIGMA * sigma / np.sqrt(float(np.prod(size))), 0.0)
    return (smooth > least) & finite


def without_gaps(lit: np.ndarray, wide: np.ndarray, reach: tuple[int, int]) -> np.ndarray:
    """Light mask whose gaps inside the crystal are filled: dark fringes of the strong beam are not an edge.

    Parameters
    ----------
    lit, wide : array (block_y, block_x), bool
        :func:`light_mask` with a narrow window, and with a wide one.
    reach : (int, int)
        Half of the wide window, blocks. At a straight edge the wide mask extends by half of that beyond the edge; it is
        eroded by as much before it is added.

    Returns
    -------
    array (block_y, block_x), bool

    Examples
    --------
    >>> lit = np.array([[False, True, True, False, True, True, True]])
    >>> without_gaps(lit, np.ones((1, 7), bool), (0, 2)).astype(int).tolist()
    [[0, 1, 1, 1, 1, 1, 1]]
    """
    size = tuple(2 * (r // 2 + r % 2) + 1 for r in reach)
    return lit | ndimage.minimum_filter(wide, size, mode="constant", cval=False)


@njit(nogil=True, cache=True)
def _crossing(curve, x, top, side, half):
    """Index at which a curve first falls below `half` on one side of its top, interpolated; NaN if it never does."""
    k = top
    while 0 <= k + side < curve.shape[0]:
        if curve[k + side, x] < half:
            return k + side * (curve[k, x] - half) / (curve[k, x] - curve[k + side, x])
        k += side
    return np.nan


@njit(nogil=True, cache=True)
def _at(positions, index):
    """Position at a fractional index."""
    k = min(int(index), positions.size - 2)
    return positions[k] + (index - k) * (positions[k + 1] - positions[k])


@njit(nogil=True, cache=True)
def _half_width(positions, best, left, right):
    """Mean distance of the peak from two crossings, or its distance from the only one."""
    here = _at(positions, best)
    before, after = np.nan, np.nan
    if left == left:
        before = abs(here - _at(positions, left))
    if right == right:
        after = abs(_at(positions, right) - here)
    if not before == before:
        return after
    return before if not after == after else 0.5 * (before + after)


@njit(nogil=True, cache=True)
def _peaks(curves, positions, taps, low, lit, peak, width):
    """Compute peak and half width of lit blocks from the crossings of half and of `low` times the maximum."""
    frames, rows, columns = curves.shape
    smooth = np.empty((frames, columns), np.float32)
    middle = taps.size // 2
    step = abs(positions[-1] - positions[0]) / (frames - 1)
    for y in range(rows):
        for f in range(frames):
            first, last = max(0, f - middle), min(frames, f + middle + 1)
            norm = np.float32(0)
            for g in range(first, last):
                norm += taps[g - f + middle]
            smooth[f, :] = 0
            for g in range(first, last):
                tap = taps[g - f + middle] / norm
                for x in range(columns):
                    smooth[f, x] += tap * curves[g, y, x]
        for x in range(columns):
            if not lit[y, x]:
                continue
            top = 0
            for f in range(1, frames):
                top = f if smooth[f, x] > smooth[top, x] else top
            most = smooth[top, x]
            if not most > 0:
                continue
            best = float(top)
            if 0 < top < frames - 1:
                bend = smooth[top - 1, x] - 2 * most + smooth[top + 1, x]
                if bend < 0:
                    best += 0.5 * (smooth[top - 1, x] - smooth[top + 1, x]) / bend
            left = _crossing(smooth, x, top, -1, most / 2)
            right = _crossing(smooth, x, top, 1, most / 2)
            if left == left and right == right:
                best = 0.5 * (left + right)
            half = 0.5 * _half_width(
                positions, best, _crossing(smooth, x, top, -1, most * low), _crossing(smooth, x, top, 1, most * low)
            )
            if not half == half:
                half = _half_width(positions, best, left, right)
            if not half == half:
                half = 0.5 * abs(positions[-1] - positions[0])
            peak[y, x] = _at(positions, best)
            width[y, x] = max(half, step)


def peak_and_width(curves: np.ndarray, positions: np.ndarray, lit: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Peak position and half width of the rocking curve of each block.

    Parameters
    ----------
    curves : array (position, block_y, block_x), float32, count
        Counts above background.
    positions : array (position,), float64
        Positions along the axis; at least three, ascending or descending.
    lit : array (block_y, block_x), bool

    Returns
    -------
    peak, width : array (block_y, block_x), float64, unit of the axis
        NaN where unlit.

    Notes
    -----
    The curve is smoothed by a Gaussian of 0.8 step, and followed from its largest value to either side.

    Peak: the middle between the two crossings of half the maximum, interpolated. A dynamical curve has a flat top with
    fringes, so that the position of its largest value, refined by a parabola, fluctuates by steps; that position is
    used only if the scan ends before a crossing. Our choice.

    Half width: half the distance from the peak at which the curve has fallen to 1/16, averaged over both sides, and at
    least one step. For a Gaussian this is half of its FWHM, with which the method is stated: at |u| = 2 a Gaussian has
    fallen to 1/16. A dynamical curve has a flat top and steep flanks, and is already dark at 1.2 half widths at half
    maximum; with these, a third of the frames that are truly weak were classified as strong. If the scan ends before
    1/16, half of the FWHM is used; if it ends before half the maximum on both sides, half of the scan.

    Examples
    --------
    >>> phi = np.arange(31.0)
    >>> curve = np.exp2(-4 * ((phi - 15) / 8) ** 2).astype(np.float32)[:, None, None]  # half width 4
    >>> peak, width = peak_and_width(curve, phi, np.ones((1, 1), bool))
    >>> round(peak.item(), 2), round(width.item(), 1)
    (15.0, 4.1)
    """
    peak = np.full(curves.shape[1:], np.nan)
    width = np.full(curves.shape[1:], np.nan)
    _peaks(np.ascontiguousarray(curves, np.float32), np.asarray(positions, np.float64), TAPS, LOW, lit, peak, width)
    return peak, width


def local_median(values: np.ndarray, reach: tuple[int, int], coarse: bool = True) -> np.ndarray:
    """Running median of a block map at every second block, from means of 2 × 2 blocks; faster on a quarter of blocks.

    ``coarse=False`` computes it at every block.
    """
    if not coarse:
        return running_median(values, reach)
    return running_median(block_means(values, (2, 2)), (-(-reach[0] // 2), -(-reach[1] // 2)))


def weak_probability(u: np.ndarray, u0: float = WEAK_FROM, s: float = SOFTNESS) -> np.ndarray:
    """Probability of weak beam at a local rocking coordinate.

    Parameters
    ----------
    u : array
        (phi − phi0) / w, with or without its sign.
    u0, s : float
        |u| of probability 1/2, and softness of the step.

    Returns
    -------
    array
        1 / (1 + exp(−(|u| − u0) / s)).

    Examples
    --------
    >>> weak_probability(np.array([-2.0, 0.0, np.nan])).round(3).tolist()
    [0.5, 0.001, nan]
    """
    with np.errstate(over="ignore"):
        return 1 / (1 + np.exp((u0 - np.abs(u)) / s))


def hard_labels(u: np.ndarray) -> np.ndarray:
    """Weak beam for |u| > 2.5, strong beam for |u| < 1.2, ambiguous in between, unlit where u is NaN: uint8.

    Examples
    --------
    >>> [MEANINGS[k] for k in hard_labels(np.array([-3.0, 0.5, 2.0, np.nan]))]
    ['weak', 'strong', 'ambiguous', 'unlit']
    """
    away = np.abs(u)
    label = np.full(np.shape(u), AMBIGUOUS, np.uint8)
    label[away > SURELY_WEAK] = WEAK
    label[away < SURELY_STRONG] = STRONG
    label[np.isnan(away)] = UNLIT
    return label


def patch_probability(
    peak: np.ndarray, width: np.ndarray, positions: np.ndarray, size: int = PATCH, every: int = 4
) -> np.ndarray:
    """Probability of weak beam of each patch at each position of the scan.

    Parameters
    ----------
    peak, width : array (y, x), unit of the axis
        NaN where unlit.
    positions : array (position,)
    size : int, pixel
        Edge of a patch.
    every : int, pixel
        Stride of the pixels that are sampled along both sides; peak and width are smooth.

    Returns
    -------
    array (position, patch_y, patch_x), float32
        Mean over the lit pixels; NaN where less than half of the patch is lit.
    """
    starts = patch_starts(peak.shape, size)
    result = np.full((positions.size, *(s.size for s in starts)), np.nan, np.float32)
    size_y, size_x = (min(size, n) for n in peak.shape)
    columns = starts[1][:, None, None] + np.arange(0, size_x, every)
    for i, y in enumerate(starts[0]):  # one row of patches at a time, in float32, whose exponential is twice as fast
        rows = y + np.arange(0, size_y, every)[:, None]
        p, w = (m[rows, columns].reshape(starts[1].size, -1) for m in (peak, width))
        lit = np.isfinite(p) & (w > 0)
        p, w = np.where(lit, p, 0), np.where(lit, w, 1)
        u = ((positions[:, None, None] - p) / w).astype(np.float32)
        total = np.where(lit, weak_probability(u), np.float32(0)).sum(axis=2, dtype=np.float64)
        enough = lit.mean(axis=1) >= 0.5
        result[:, i, enough] = (total / np.maximum(lit.sum(axis=1), 1))[:, enough]
    return result


def frame_noise(frames: np.ndarray, quiet: np.ndarray) -> np.ndarray:
    """Noise of each frame, from the differences of neighbours along x in its weak-beam regions.

    Parameters
    ----------
    frames : array (frame, y, x), count
    quiet : array (frame, y, x), bool
        Pixels of the frame that are in the tails of their rocking curves.

    Returns
    -------
    array (frame,), float64, count
        A frame with fewer than 32 pairs gets the median over frames. NaN everywhere if no frame has more pairs, or
        nothing varies.

    Notes
    -----
    The noise is the mean of the smaller four fifths of the absolute differences, divided by 0.5586 √2, its value for a
    Gaussian of standard deviation 1. The few neighbours at the border of a dislocation thus do not count, and the
    result does not change in steps with integer counts as a median would. Frames that were scaled to one beam differ in
    noise as their attenuators did.
    """
    noise = np.full(len(frames), np.nan)
    for k, (frame, usable) in enumerate(zip(frames, quiet, strict=True)):
        both = usable[:, 1:] & usable[:, :-1]
        jumps = np.abs(frame[:, 1:][both].astype(np.float64) - frame[:, :-1][both])
        jumps = np.sort(jumps[np.isfinite(jumps)])
        if jumps.size >= 32:
            noise[k] = jumps[: jumps.size * 4 // 5].mean() / (0.5586 * np.sqrt(2))
    if not np.nanmax(noise, initial=0.0) > 0:
        return np.full(len(frames), np.nan)
    median = float(np.nanmedian(noise[~(noise <= 0)]))
    noise[~np.isfinite(noise)] = median
    return np.maximum(noise, 0.05 * median)  # no frame has an infinite weight
