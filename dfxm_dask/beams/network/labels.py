"""Labels of weak and strong beam as patches have them: from boxes that somebody drew, or from the rocking curve.

The numbers are those of simulated layers: 0 unlit, 1 weak, 2 strong, 3 ambiguous. Only weak and strong patches teach.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from dfxm_dask.beams.patches import patch_starts
from dfxm_dask.beams.prior import AMBIGUOUS, MEANINGS, STRONG, UNLIT, WEAK, hard_labels
from dfxm_dask.errors import InputError
from dfxm_dask.schema import PATCH

DRAWN = {MEANINGS[k]: k for k in (WEAK, STRONG, UNLIT)}
"""Words for the classes that can be drawn, with their numbers."""

COVERED = 0.75
"""Part of a patch that boxes of one class must cover, as the format of the file says."""

SURE = 0.9
"""Part of the lit pixels of a patch that must surely be of one class by the rocking curve (our choice)."""

EVERY = 4
"""Pixels that light and rocking curve are looked at, along both sides, as where patches are classified."""


@dataclass(frozen=True)
class LabelledBox:
    """One entry of a file of labels.

    Parameters
    ----------
    line : int
        Of the file, from 1.
    kind : str
        "weak", "strong" or "unlit".
    positions : mapping of str to float
        Of the layer, z in um, and of the frame along every scan axis, in its unit.
    box : (int, int, int, int), pixel, optional
        y0, y1, x0, x1, half-open; the whole frame by default.
    store : str
        Name or path of the scan; empty where there is but one.
    """

    line: int
    kind: str
    positions: Mapping[str, float]
    box: tuple[int, int, int, int] | None = None
    store: str = ""


def nearest_index(wanted: float, positions: np.ndarray, asked: str, units: str = "") -> int:
    """Index of the position nearest to a wanted one.

    Parameters
    ----------
    wanted : float
    positions : array (n,)
        Along one axis, rising or falling.
    asked : str
        Who asks, for the text of an error.
    units : str
        Of the positions, for the same.

    Raises
    ------
    InputError
        All positions are further than half a step away, the step being the median one; a single position must be met
        up to rounding.

    Examples
    --------
    >>> nearest_index(2.1, np.array([0.0, 2.0, 4.0]), "z")
    1
    """
    away = np.abs(np.asarray(positions, np.float64) - wanted)
    index = int(np.argmin(away))
    step = float(np.median(np.abs(np.diff(positions)))) if len(positions) > 1 else 0.0
    # A millionth is room for rounding: half a step in decimal digits is not half a step in binary ones.
    if not away[index] <= 0.5 * step * (1 + 1e-6) + 1e-6 * max(abs(float(positions[index])), step):
        found = f"{float(positions[index]):.9g}"
        low, high = float(np.min(positions)), float(np.max(positions))
        raise InputError(
            f"{asked} {wanted:.9g}",
            f"the nearest of {len(positions)} positions from {low:.9g} to {high:.9g} {units}".rstrip() + f" is {found}",
            "give a position at most half a step away from one of the scan",
        )
    return index


def box_labels(
    boxes: Sequence[LabelledBox], shape: tuple[int, int], size: int = PATCH, source: str = "labels"
) -> np.ndarray:
    """Label of each patch of a frame, from the boxes that were drawn on it.

    Parameters
    ----------
    boxes : sequence of LabelledBox
        Of this frame.
    shape : (int, int), pixel
        Rows and columns of the frame.
    size : int, pixel
        Edge of a patch.
    source : str
        File that the boxes come from, for the text of an error.

    Returns
    -------
    array (patch_y, patch_x), uint8
        A class whose boxes cover at least 3/4 of the patch and no box of another class touches it; ambiguous
        elsewhere. The last patches of a frame that is no multiple of the patch are shifted back into it.

    Raises
    ------
    InputError
        A box that is empty or leaves the frame, an unknown class, or two classes that each cover 3/4 of one patch: the
        lines of both are named.

    Notes
    -----
    A label without a box holds for the whole frame. Such a label is not quite true: a frame has dark surroundings
    whatever beam it shows, so that unlit patches are called weak in one frame and strong in the next. They must be
    taken out by the light mask before anything is trained (:func:`lit_patches`); networks that learned them stopped
    at some 80 to 90 % of right answers.

    Examples
    --------
    >>> drawn = [LabelledBox(1, "weak", {}, (0, 64, 0, 120)), LabelledBox(2, "strong", {}, (0, 64, 120, 192))]
    >>> box_labels(drawn, (64, 192)).tolist()
    [[1, 3, 2]]
    """
    starts = patch_starts(shape, size)
    inside = min(size, shape[0]), min(size, shape[1])
    covered = {}
    for kind in DRAWN:
        mask = np.zeros(shape, bool)
        for drawn in boxes:
            y0, y1, x0, x1 = _inside(drawn, shape, source)
            if drawn.kind == kind:
                mask[y0:y1, x0:x1] = True
        total = np.pad(mask.cumsum(0, dtype=np.int64).cumsum(1), ((1, 0), (1, 0)))
        y, x = starts[0][:, None], starts[1][None, :]
        ends = y + inside[0], x + inside[1]
        covered[kind] = (total[ends] - total[y, ends[1]] - total[ends[0], x] + total[y, x]) / (inside[0] * inside[1])
    share = np.stack(list(covered.values()))
    twice = np.argwhere((share >= COVERED).sum(0) > 1)
    if twice.size:
        corner = tuple(int(s[k]) for s, k in zip(starts, twice[0], strict=True))
        claims = [
            max((b for b in boxes if b.kind == kind), key=lambda b: _overlap(b, corner, inside, shape))
            for kind in DRAWN
            if covered[kind][tuple(twice[0])] >= COVERED
        ]
        first, second = sorted(claims, key=lambda b: b.line)[:2]
        raise InputError(
            f"{source}:{first.line} and {source}:{second.line}",
            f"call the patch at y {corner[0]}, x {corner[1]} of one frame {first.kind} and {second.kind}",
            "draw boxes of different classes apart",
        )
    label = np.full(share.shape[1:], AMBIGUOUS, np.uint8)
    for kind, one in zip(DRAWN, share, strict=True):
        label[(one >= COVERED) & (share.sum(0) == one)] = DRAWN[kind]
    return label


def check_taught(
    boxes: Sequence[LabelledBox], label: np.ndarray, shape: tuple[int, int], size: int = PATCH, source: str = "labels"
) -> None:
    """Refuse boxes from which no patch got its class: their author would think that they were learned from.

    Parameters
    ----------
    boxes, shape, size, source
        As of :func:`box_labels`.
    label : array (patch_y, patch_x)
        What it gave.

    Raises
    ------
    InputError
        Names the line.
    """
    starts, inside = patch_starts(shape, size), (min(size, shape[0]), min(size, shape[1]))
    for drawn in boxes:
        y0, y1, x0, x1 = _inside(drawn, shape, source)
        rows, columns = (starts[0] + inside[0] > y0) & (starts[0] < y1), (starts[1] + inside[1] > x0) & (starts[1] < x1)
        if not (label[np.ix_(rows, columns)] == DRAWN[drawn.kind]).any():
            raise InputError(
                f"{source}:{drawn.line}: box {[y0, y1, x0, x1]}",
                f"gives no patch of {size} pixels its class: it covers {COVERED:.0%} of none, or others touch them",
                "draw it over whole patches",
            )


def _inside(drawn: LabelledBox, shape: tuple[int, int], source: str) -> tuple[int, int, int, int]:
    """The box of an entry in pixels of the frame, checked."""
    if drawn.kind not in DRAWN:
        raise InputError(f"{source}:{drawn.line}: class {drawn.kind!r}", "is unknown", f"use {', '.join(DRAWN)}")
    if drawn.box is None:
        return 0, shape[0], 0, shape[1]
    y0, y1, x0, x1 = drawn.box
    if not (0 <= y0 < y1 <= shape[0] and 0 <= x0 < x1 <= shape[1]):
        raise InputError(
            f"{source}:{drawn.line}: box {list(drawn.box)}",
            f"is empty or leaves the frame of {shape[0]} rows and {shape[1]} columns",
            "give y0, y1, x0, x1 in pixels, the ends not included",
        )
    return drawn.box


def _overlap(drawn: LabelledBox, corner: tuple[int, ...], size: tuple[int, int], shape: tuple[int, int]) -> int:
    y0, y1, x0, x1 = drawn.box or (0, shape[0], 0, shape[1])
    high = min(y1, corner[0] + size[0]) - max(y0, corner[0])
    return max(0, high) * max(0, min(x1, corner[1] + size[1]) - max(x0, corner[1]))


def lit_patches(lit: np.ndarray, size: int = PATCH) -> np.ndarray:
    """Which patches are lit: at least half of the pixels that are looked at, as where patches are classified.

    Parameters
    ----------
    lit : array (y, x), bool
    size : int, pixel

    Returns
    -------
    array (patch_y, patch_x), bool

    Examples
    --------
    >>> lit_patches(np.arange(128)[None, :] < np.full((64, 1), 90)).tolist()
    [[True, False]]
    """
    ys, xs = patch_starts((lit.shape[0], lit.shape[1]), size)
    return np.array([[lit[y : y + size : EVERY, x : x + size : EVERY].mean() >= 0.5 for x in xs] for y in ys])


def prior_labels(peak: np.ndarray, width: np.ndarray, positions: np.ndarray, size: int = PATCH) -> np.ndarray:
    """Label of each patch at each position of the scan, where the rocking curve leaves no doubt.

    Parameters
    ----------
    peak, width : array (y, x), unit of the axis
        Local peak and half width, NaN where unlit: those of :func:`dfxm_dask.beams.local_peak`.
    positions : array (position,)
        Along the axis.
    size : int, pixel
        Edge of a patch.

    Returns
    -------
    array (position, patch_y, patch_x), uint8
        Weak where at least 90 % of the lit pixels have |u| > 2.5, strong where as many have |u| < 1.2, with
        u = (position − peak)/width; unlit where less than half of the patch is lit; ambiguous elsewhere.

    Examples
    --------
    >>> maps = np.zeros((64, 64)), np.ones((64, 64))
    >>> prior_labels(*maps, np.array([-3.0, -2, -1, 0])).ravel().tolist()
    [1, 3, 2, 2]
    """
    ys, xs = patch_starts((peak.shape[0], peak.shape[1]), size)
    label = np.full((len(positions), ys.size, xs.size), UNLIT, np.uint8)
    for i, y in enumerate(ys):
        for j, x in enumerate(xs):
            box = slice(y, y + size, EVERY), slice(x, x + size, EVERY)
            p, w = peak[box].ravel(), width[box].ravel()
            lit = np.isfinite(p) & (w > 0)
            if lit.mean() < 0.5:
                continue
            pixels = hard_labels((np.asarray(positions)[:, None] - p[lit]) / w[lit])
            label[:, i, j] = AMBIGUOUS
            for kind in (WEAK, STRONG):
                label[(pixels == kind).mean(axis=1) >= SURE, i, j] = kind
    return label
