"""Whether a scan has a weak beam at all, and dislocations in it: the numbers, the limits, and a verdict."""

from __future__ import annotations

import numpy as np
from numba import njit
from scipy import ndimage

from dfxm_dask.beams.blocks import running_median
from dfxm_dask.beams.prior import SURELY_WEAK, UNLIT, WEAK, WEAK_UNTIL, frame_noise, hard_labels, peak_and_width

LEAST_WEAK = 0.10  # of the lit voxels
MOST_TAIL = 0.05  # of the peak of the median curve
MOST_SCATTER = 0.07  # half widths: half as much again as simulated weak beams, two thirds of real scans without one
QUIET = 0.25  # of the lit blocks: lines and walls leave so many alone, cold work none
NUMBERS = ("weak_of_lit", "tail", "scatter", "standing_out", "cut_off")
"""What :func:`reasons` takes, in its order."""

MOST_CUT_OFF = 0.20  # of the lit blocks
LEAST_STANDING_OUT = 0.0002  # of the lit blocks; 0.00003 of Gaussian noise would, 0.0003 to 0.002 of preset al002 do
STANDING_SIGMA = 4.0
SAMPLE = 20000  # blocks that shares and medians of a layer are taken from, about


def _tails(positions: np.ndarray, lit: np.ndarray, peak: np.ndarray, width: np.ndarray) -> np.ndarray:
    """Where each position sees a block in its tails, 2.5 < |u| < 6: (position, block_y, block_x), bool."""
    with np.errstate(invalid="ignore", divide="ignore"):
        away = np.abs(positions[:, None, None] - peak) / width
    return (away > SURELY_WEAK) & (away < WEAK_UNTIL) & lit


@njit(nogil=True, cache=True, error_model="numpy")
def _add_tails(curves, positions, share, lit, peak, width, total, count):  # type: ignore[no-untyped-def]
    """Sums over the positions that see a block in its tails: shares times counts, and shares."""
    frames, rows, columns = curves.shape
    zero = np.float32(0)
    for y in range(rows):
        for f in range(frames):
            for x in range(columns):
                away, value = abs(positions[f] - peak[y, x]) / width[y, x], curves[f, y, x]
                inside = lit[y, x] and away > SURELY_WEAK and away < WEAK_UNTIL and value - value == 0
                total[y, x] += share[f] * value if inside else zero
                count[y, x] += share[f] if inside else zero


def evidence(
    curves: np.ndarray, positions: np.ndarray, lit: np.ndarray, peak: np.ndarray, width: np.ndarray,
    reach: tuple[int, int], sigma: float = 0.0,
) -> dict[str, float | bool]:  # fmt: skip
    """Whether a layer was scanned through its weak beam, and what says so.

    Parameters
    ----------
    curves : array (position, block_y, block_x), float32, count
        Above background.
    positions : array (position,)
        Along the rocking axis.
    lit, peak, width : array (block_y, block_x)
        Local reference of each block.
    reach : (int, int)
        Half the window of what is around a block, in blocks.
    sigma : float, count
        Noise of one value of ``curves``.

    Returns
    -------
    dict
        ``weak_of_lit``, share of the lit voxels that is weak by its |u|; ``tail``, height of the median curve in its
        tails (|u| > 2.5) as part of its peak; ``scatter``, lower quartile of the distances of the peaks of single
        blocks from the local one, in half widths; ``standing_out``, share of the lit blocks whose tails stand 4
        standard deviations above the median of the tails around them, one standard deviation being the larger of the
        noise and the median absolute deviation; ``cut_off``, share of the lit blocks that are brightest at an end of
        the scan. NaN where nothing is lit, ``tail`` also where the scan ends before the tails begin.

        ``has_weak_beam``: at least 10 % of the lit voxels are weak, the median curve comes within 5 % of its peak of
        the background, the peaks of a quarter of the blocks are within 0.07 half widths (else the lattice turns too
        fast everywhere to have one), and at most 20 % lie at an end of the scan, where none can be seen to be one.
        ``has_defects``: besides, at least 0.1 % of the lit blocks stand out. All limits are our choice.

    Notes
    -----
    A single number would not do: broad curves reach the ends of the scan, so that their tails are few or high; in a
    deformed grain the tails of one um are the peak of the next; a perfect crystal has clean tails in which nothing
    stands out. Lines and walls bend the lattice within some um, by 0.07 half widths and more at half of the blocks of a
    kinematic field; but between them it is quiet, which no place of a deformed grain is. So the lower quartile tells,
    not the median: 0.002 to 0.044 in presets with any strong beam, 0.15 in ``deformed``, 0.10 to 7.6 in real scans.
    """
    step = max(1, int(np.sqrt(lit.size / SAMPLE)))  # shares and medians need no more than so many blocks
    some = slice(None, None, step), slice(None, None, step)
    few, here = curves[:, some[0], some[1]], lit[some]
    with np.errstate(invalid="ignore", divide="ignore"):
        u = np.where(here, (positions[:, None, None] - peak[some]) / width[some], np.nan)
        label = hard_labels(u)
        far = (label == WEAK) & (np.abs(u) < WEAK_UNTIL) & np.isfinite(few)
        heights = (few / few.max(axis=0))[far].astype(np.float64)
        own = np.abs(peak_and_width(few, positions, here)[0] - peak[some]) / width[some]
    top = few.argmax(axis=0)[here] if few.size else np.empty(0)
    ends = float(np.isin(top, (0, len(positions) - 1)).mean()) if top.size else float("nan")
    dark = float((label == UNLIT).mean()) if label.size else 1.0
    of_lit = float((label == WEAK).mean()) / (1 - dark) if dark < 1 else float("nan")
    heights, own = heights[np.isfinite(heights)], own[np.isfinite(own)]
    tail = float(np.median(heights)) if heights.size else float("nan")
    scatter = float(np.quantile(own, QUIET)) if own.size else float("nan")
    standing = _standing_out(curves, positions, lit, peak, width, reach, sigma) if dark < 1 else float("nan")
    has = of_lit >= LEAST_WEAK and abs(tail) <= MOST_TAIL and scatter <= MOST_SCATTER and ends <= MOST_CUT_OFF
    return {
        "has_weak_beam": bool(has), "has_defects": bool(has and standing >= LEAST_STANDING_OUT),
        "weak_of_lit": of_lit, "tail": tail, "scatter": scatter, "standing_out": standing,
        "cut_off": ends,
    }  # fmt: skip


def reasons(weak_of_lit: float, tail: float, scatter: float, standing_out: float, cut_off: float) -> tuple[str, ...]:
    """The verdict of :func:`evidence` in words: one sentence for each number, with its limit.

    Examples
    --------
    >>> reasons(0.031, float("nan"), 0.02, 0.0, 0.0)[0]
    '3.1% of the lit voxels are weak by their place on the curve (at least 10% wanted)'
    """
    if np.isnan(weak_of_lit):
        return ("nothing is lit",)
    return (
        f"{weak_of_lit:.1%} of the lit voxels are weak by their place on the curve (at least {LEAST_WEAK:.0%} wanted)",
        "the scan ends before the tails of the curves begin" if np.isnan(tail)
        else f"the median curve stands at {tail:.2%} of its peak in the tails (at most {MOST_TAIL:.0%} wanted"
        + (": the background is too high)" if tail < -MOST_TAIL else ")"),
        f"peaks scatter by {scatter:.3f} half widths about those around them, at the quietest quarter of places"
        f" (at most {MOST_SCATTER:g} wanted)",
        f"{standing_out:.2%} of the lit places stand out of their tails (at least {LEAST_STANDING_OUT:.2%} wanted)",
        f"{cut_off:.1%} of the lit places are brightest at an end of the scan (at most {MOST_CUT_OFF:.0%} wanted)",
    )  # fmt: skip


def _standing_out(
    curves: np.ndarray, positions: np.ndarray, lit: np.ndarray, peak: np.ndarray, width: np.ndarray,
    reach: tuple[int, int], sigma: float,
) -> float:  # fmt: skip
    """Share of the lit blocks whose tails stand above those around them; the border of the lit area is left out."""
    step = max(1, int(lit.size / SAMPLE))
    noise = frame_noise(curves[:, ::step], _tails(positions, lit[::step], peak[::step], width[::step]))
    weight = np.where(np.isfinite(noise), 1 / noise**2, 1.0)
    weight[noise < np.nanmedian(noise) / 3 if np.isfinite(noise).any() else []] = 0  # a dead frame tells nothing
    total, count = np.zeros(lit.shape, np.float32), np.zeros(lit.shape, np.float32)
    share = (weight / weight.max()).astype(np.float32)
    _add_tails(np.require(curves, np.float32, ["C", "W"]), np.asarray(positions, np.float64), share, lit,
               *(np.require(m, np.float64, ["C", "W"]) for m in (peak, width)), total, count)  # fmt: skip
    inside = ndimage.binary_erosion(lit, iterations=4, border_value=1) & (count > 0)
    if not inside.any():
        return 0.0
    tails = np.divide(total, count, out=np.full(lit.shape, np.nan), where=inside)
    excess = (tails - running_median(tails, reach))[inside]
    deviation = max(1.4826 * float(np.median(np.abs(excess))), sigma)
    return float((excess > STANDING_SIGMA * deviation).mean()) if deviation > 0 else 0.0
