"""Whether a scan reaches the weak beam: the numbers, their limits, and a verdict."""

from __future__ import annotations

import numpy as np

from dfxm_dask.beams.mask import LEAST_STRENGTH
from dfxm_dask.beams.prior import UNLIT, WEAK, WEAK_UNTIL, hard_labels, peak_and_width

LEAST_WEAK = 0.10  # of the lit voxels
MOST_TAIL = 0.05  # of the peak of the median curve
MOST_SCATTER = 0.055  # half widths: between simulated weak beams (up to 0.045) and deformed grains (from 0.071 on)
QUIET = 0.25  # of the lit blocks: lines and walls leave this fraction undisturbed, cold work leaves none
LEAST_STEPS = 2.0  # scan steps in half a FWHM: presets have 2.5 to 4.4, the mosaicity scan of ID03 1.4
NUMBERS = ("weak_of_lit", "tail", "scatter", "cut_off", "width_steps")
"""Arguments of :func:`reasons`, in order."""

MOST_CUT_OFF = 0.20  # of the lit blocks
SAMPLE = 20000  # approximate number of blocks from which shares and medians of a layer are computed


def evidence(
    curves: np.ndarray, positions: np.ndarray, lit: np.ndarray, peak: np.ndarray, width: np.ndarray
) -> dict[str, float | bool]:
    """Whether a layer was scanned through its weak beam, and the numbers that decide it.

    Parameters
    ----------
    curves : array (position, block_y, block_x), float32, count
        Counts above background.
    positions : array (position,)
        Along the rocking axis.
    lit, peak, width : array (block_y, block_x)
        Local reference of each block.

    Returns
    -------
    dict
        ``weak_of_lit``, share of the lit voxels that are weak by their |u|; ``tail``, height of the median curve in its
        tails (|u| > 2.5) relative to its peak; ``scatter``, lower quartile of the distances of the peaks of single
        blocks from the local one, in half widths; ``cut_off``, share of the lit blocks whose maximum is at an end of
        the scan; ``width_steps``, median half width in steps of the scan. NaN if no block is lit; ``tail`` is also NaN
        if the scan ends before the tails begin.

        ``has_weak_beam`` requires that

        - at least 10 % of the lit voxels are weak;
        - the median curve falls to 5 % of its peak or less above background;
        - a quarter of the blocks have peaks within 0.055 half widths of the local one (in a lattice that rotates faster
          everywhere, weak and strong beam overlap);
        - at most 20 % of the blocks have their maximum at an end of the scan, where it cannot be recognised as a peak;
        - half widths are two steps or more (otherwise no frame lies on the flank alone).

        All limits are our choice.

    Notes
    -----
    A single number is not sufficient: broad curves reach the ends of the scan, so that their tails are few or high; in
    a deformed grain the tail of one um is the peak of the next. Whether anything exceeds noise in the weak beam follows
    from the mask only: :func:`dfxm_dask.beams.mask.mask_strength`. Lines and walls bend the lattice within some um, by
    0.07 half widths and more at half of the blocks of a kinematic field; between them it is undisturbed, which is true
    of no part of a deformed grain. The lower quartile therefore separates them, and the median does not: 0.002 to 0.045
    in presets with any strong beam, 0.071 to 0.18 in ``deformed``, 0.10 to 7.6 in real scans.
    """
    every = max(1, int(np.sqrt(lit.size / SAMPLE)))  # shares and medians require no more than SAMPLE blocks
    some = slice(None, None, every), slice(None, None, every)
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
    step = float(np.median(np.abs(np.diff(positions)))) if len(positions) > 1 else float("nan")
    widths = width[lit & np.isfinite(width)]
    steps = float(np.median(widths)) / step if widths.size else float("nan")
    has = of_lit >= LEAST_WEAK and abs(tail) <= MOST_TAIL and scatter <= MOST_SCATTER and ends <= MOST_CUT_OFF
    has = has and steps >= LEAST_STEPS
    return {
        "has_weak_beam": bool(has),
        "weak_of_lit": of_lit,
        "tail": tail,
        "scatter": scatter,
        "cut_off": ends,
        "width_steps": steps,
    }


def reasons(
    weak_of_lit: float,
    tail: float,
    scatter: float,
    cut_off: float,
    width_steps: float,
    mask_strength: float = float("nan"),
) -> tuple[str, ...]:
    """The verdict of :func:`evidence`, and that of the mask if it is known, as text: one sentence for each number.

    Examples
    --------
    >>> reasons(0.031, float("nan"), 0.02, 0.0, 2.6)[0]
    '3.1% of the lit voxels are in the weak-beam part of their rocking curve (at least 10% required)'
    """
    if np.isnan(weak_of_lit):
        return ("nothing is lit",)
    sentences = (
        f"{weak_of_lit:.1%} of the lit voxels are in the weak-beam part of their rocking curve"
        f" (at least {LEAST_WEAK:.0%} required)",
        "the scan ends before the tails of the rocking curves begin"
        if np.isnan(tail)
        else f"the tails of the median rocking curve are at {tail:.2%} of its peak (at most {MOST_TAIL:.0%} allowed"
        + (": the background is too high)" if tail < -MOST_TAIL else ")"),
        f"peaks scatter by {scatter:.3f} half widths about their surroundings, in the most uniform quarter of the"
        f" sample (at most {MOST_SCATTER:g} allowed)",
        f"{cut_off:.1%} of the lit pixels have their maximum at an end of the scan (at most {MOST_CUT_OFF:.0%}"
        " allowed)",
        f"half the FWHM of the rocking curves is {width_steps:.2g} steps of the scan (at least {LEAST_STEPS:g}"
        " required)",
    )
    if np.isnan(mask_strength):
        return sentences
    if mask_strength == 0:
        return (*sentences, "the mask of defects is empty")
    return (
        *sentences,
        f"the largest contrast of the mask is {mask_strength:.2f} times the noise threshold (at least "
        f"{LEAST_STRENGTH:g} required)",
    )
