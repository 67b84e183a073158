"""Whether a scan has a weak beam at all, and dislocations in it: the numbers, the limits, and a verdict."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from dfxm_dask.beams.blocks import running_median
from dfxm_dask.beams.prior import (
    AMBIGUOUS,
    STRONG,
    SURELY_WEAK,
    UNLIT,
    WEAK,
    WEAK_UNTIL,
    frame_noise,
    hard_labels,
    peak_and_width,
)


@dataclass(frozen=True)
class Evidence:
    """What speaks for a weak beam in a scan, and the verdict.

    Parameters
    ----------
    unlit, strong, ambiguous, weak : float
        Shares of the voxels.
    weak_of_lit : float
        Share of the lit voxels that is weak.
    tail : float
        Height of the median curve in the tails (|u| > 2.5), as part of its peak.
    scatter : float
        Median distance of the peaks of single blocks from the local one, in half widths.
    standing_out : float
        Share of the lit blocks whose tails stand above those around them beyond the noise.
    has_weak_beam : bool
    has_defects : bool
        Whether anything stands out in that weak beam.
    reasons : tuple of str
        One sentence each, with the number and the limit.
    """

    unlit: float
    strong: float
    ambiguous: float
    weak: float
    weak_of_lit: float
    tail: float
    scatter: float
    standing_out: float
    has_weak_beam: bool
    has_defects: bool
    reasons: tuple[str, ...]


LEAST_WEAK = 0.10  # of the lit voxels
MOST_TAIL = 0.05  # of the peak of the median curve
MOST_SCATTER = 0.15  # half widths
LEAST_STANDING_OUT = 0.001  # of the lit blocks; 0.00003 of Gaussian noise would
STANDING_SIGMA = 4.0
SAMPLE = 20000  # blocks that shares and medians of a layer are taken from, about


def _tails(positions: np.ndarray, lit: np.ndarray, peak: np.ndarray, width: np.ndarray) -> np.ndarray:
    """Where each position sees a block in its tails, 2.5 < |u| < 6: (position, block_y, block_x), bool."""
    with np.errstate(invalid="ignore", divide="ignore"):
        away = np.abs(positions[:, None, None] - peak) / width
    return (away > SURELY_WEAK) & (away < WEAK_UNTIL) & lit


def evidence(
    curves: np.ndarray, positions: np.ndarray, lit: np.ndarray, peak: np.ndarray, width: np.ndarray,
    reach: tuple[int, int], sigma: float = 0.0,
) -> Evidence:  # fmt: skip
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
    Evidence
        It has a weak beam where at least 10 % of the lit voxels are weak by their |u|, the median curve falls below
        5 % of its peak in the tails, and the peaks of single blocks scatter by at most 0.15 half widths about the
        local one (else the lattice turns too fast to have one). It has defects where besides at least 0.1 % of the
        lit blocks stand 4 standard deviations above the median of the tails around them, one standard deviation
        being the larger of the noise and the median absolute deviation. All limits are our choice.

    Notes
    -----
    A single number would not do: broad curves reach the ends of the scan, so that their tails are few or high; in a
    deformed grain the tails of one um are the peak of the next; a perfect crystal has clean tails in which nothing
    stands out.
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
    shares = np.bincount(label.ravel(), minlength=4) / max(label.size, 1)
    unlit, weak, strong, ambiguous = (float(shares[k]) for k in (UNLIT, WEAK, STRONG, AMBIGUOUS))
    of_lit = weak / (1 - unlit) if unlit < 1 else 0.0
    heights, own = heights[np.isfinite(heights)], own[np.isfinite(own)]
    tail = float(np.median(heights)) if heights.size else float("nan")
    scatter = float(np.median(own)) if own.size else float("nan")
    standing = _standing_out(curves, positions, lit, peak, width, reach, sigma)
    reasons = (
        f"{of_lit:.1%} of the lit voxels are weak by their place on the curve (at least {LEAST_WEAK:.0%} wanted)",
        f"the median curve stands at {tail:.2%} of its peak in the tails (at most {MOST_TAIL:.0%} wanted)"
        if heights.size else "the scan ends before the tails of the curves begin",
        f"peaks scatter by {scatter:.2f} half widths about those around them (at most {MOST_SCATTER:g} wanted)"
        if own.size else "nothing is lit",
        f"{standing:.2%} of the lit blocks stand out of their tails (at least {LEAST_STANDING_OUT:.1%} wanted)",
    )  # fmt: skip
    has = of_lit >= LEAST_WEAK and tail <= MOST_TAIL and scatter <= MOST_SCATTER
    defects = has and standing >= LEAST_STANDING_OUT
    return Evidence(
        unlit, strong, ambiguous, weak, of_lit, tail, scatter, standing, bool(has), bool(defects), reasons
    )  # fmt: skip


def _standing_out(
    curves: np.ndarray, positions: np.ndarray, lit: np.ndarray, peak: np.ndarray, width: np.ndarray,
    reach: tuple[int, int], sigma: float,
) -> float:  # fmt: skip
    """Share of the lit blocks whose tails stand above those around them; the border of the lit area is left out."""
    step = max(1, int(lit.size / SAMPLE))
    noise = frame_noise(curves[:, ::step], _tails(positions, lit[::step], peak[::step], width[::step]))
    weight = np.where(np.isfinite(noise), 1 / noise**2, 1.0)
    total, count = np.zeros(lit.shape, np.float32), np.zeros(lit.shape, np.float32)
    for curve, position, share in zip(curves, positions, weight / weight.max(), strict=True):
        inside = _tails(np.array([position]), lit, peak, width)[0] & np.isfinite(curve)
        total += np.where(inside, np.float32(share) * curve, np.float32(0))
        count += np.float32(share) * inside
    inside = ndimage.binary_erosion(lit, iterations=4, border_value=1) & (count > 0)
    if not inside.any():
        return 0.0
    tails = np.divide(total, count, out=np.full(lit.shape, np.nan), where=inside)
    excess = (tails - running_median(tails, reach))[inside]
    deviation = max(1.4826 * float(np.median(np.abs(excess))), sigma)
    return float((excess > STANDING_SIGMA * deviation).mean()) if deviation > 0 else 0.0
