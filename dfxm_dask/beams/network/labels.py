"""Labels of weak and strong beam for patches: from drawn boxes, or from the rocking curve.

The numbers are those of simulated layers: 0 unlit, 1 weak, 2 strong, 3 ambiguous. Only weak and strong patches are used
for training.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from dfxm_dask.beams.patches import patch_starts
from dfxm_dask.beams.prior import AMBIGUOUS, MEANINGS, STRONG, UNLIT, WEAK, hard_labels
from dfxm_dask.errors import InputError
from dfxm_dask.schema import PATCH

DRAWN = {MEANINGS[k]: k for k in (WEAK, STRONG, UNLIT, AMBIGUOUS)}
"""Names of the classes that can be drawn, with their numbers. Ambiguous patches are left out of the training."""

COVERED = 0.75
"""Fraction of a patch that boxes of one class must cover, as specified for the file format."""

SURE = 0.9
"""Fraction of the lit pixels of a patch that the rocking curve must assign to one class (our choice)."""

EVERY = 4
"""Stride of the sampled pixels along both sides, the same as for classification."""


@dataclass(frozen=True)
class LabelledBox:
    """One entry of a file of labels.

    Parameters
    ----------
    line : int
        Line of the file, from 1.
    kind : str
        "weak", "strong", "unlit" or "ambiguous".
    positions : mapping of str to float
        Position of the layer (z in um), and of the frame along every scan axis, in its unit.
    box : (int, int, int, int), pixel, optional
        y0, y1, x0, x1, half-open; the whole frame by default.
    store : str
        Name or path of the scan; empty if there is only one.
    """

    line: int
    kind: str
    positions: Mapping[str, float]
    box: tuple[int, int, int, int] | None = None
    store: str = ""


def nearest_index(wanted: float, positions: np.ndarray, asked: str, units: str = "") -> int:
    """Index of the position nearest to a given one.

    Parameters
    ----------
    wanted : float
    positions : array (n,)
        Positions along one axis, ascending or descending.
    asked : str
        Name of the caller, for the text of an error.
    units : str
        Unit of the positions, for the text of an error.

    Raises
    ------
    InputError
        All positions are farther away than half the median step; a single position must agree up to rounding.

    Examples
    --------
    >>> nearest_index(2.1, np.array([0.0, 2.0, 4.0]), "z")
    1
    """
    away = np.abs(np.asarray(positions, np.float64) - wanted)
    index = int(np.argmin(away))
    step = float(np.median(np.abs(np.diff(positions)))) if len(positions) > 1 else 0.0
    # Tolerance of a millionth for rounding: half a step in decimal digits is not exact in binary ones.
    if not away[index] <= 0.5 * step * (1 + 1e-6) + 1e-6 * max(abs(float(positions[index])), step):
        nearest = f"{float(positions[index]):.9g}"
        low, high = float(np.min(positions)), float(np.max(positions))
        raise InputError(
            f"{asked} {wanted:.9g}",
            f"the nearest of {len(positions)} positions from {low:.9g} to {high:.9g} {units}".rstrip()
            + f" is {nearest}",
            "give a position at most half a step away from one of the scan",
        )
    return index


def box_labels(
    boxes: Sequence[LabelledBox], shape: tuple[int, int], size: int = PATCH, source: str = "labels"
) -> np.ndarray:
    """Label of each patch of a frame, from the boxes drawn on it.

    Parameters
    ----------
    boxes : sequence of LabelledBox
        Boxes of this frame.
    shape : (int, int), pixel
        Rows and columns of the frame.
    size : int, pixel
        Edge of a patch.
    source : str
        File of the boxes, for the text of an error.

    Returns
    -------
    array (patch_y, patch_x), uint8
        The class whose boxes cover at least 3/4 of the patch if no box of another class touches the patch; otherwise
        ambiguous. If the frame is not a multiple of the patch, the last patches are shifted back into it.

    Raises
    ------
    InputError
        A box that is empty or exceeds the frame, an unknown class, or two classes that each cover 3/4 of one patch; the
        message names the lines of both.

    Notes
    -----
    A label without a box holds for the whole frame. This is only approximately true: a frame has dark
    surroundings in any beam, so that unlit patches are labelled weak in one frame and strong in the next. The light
    mask must remove them before training (:func:`lit_patches`); networks that learned them stopped at some 80 to 90 %
    of right answers.

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
            f"label the patch at y {corner[0]}, x {corner[1]} of one frame both {first.kind} and {second.kind}",
            "draw separate boxes for different classes",
        )
    label = np.full(share.shape[1:], AMBIGUOUS, np.uint8)
    for kind, one in zip(DRAWN, share, strict=True):
        label[(one >= COVERED) & (share.sum(0) == one)] = DRAWN[kind]
    return label


def check_taught(
    boxes: Sequence[LabelledBox], label: np.ndarray, shape: tuple[int, int], size: int = PATCH, source: str = "labels"
) -> None:
    """Refuse boxes that give no patch their class, because they would have no influence on training.

    Parameters
    ----------
    boxes, shape, size, source
        See :func:`box_labels`.
    label : array (patch_y, patch_x)
        Result of :func:`box_labels`.

    Raises
    ------
    InputError
        The message names the line.
    """
    starts, inside = patch_starts(shape, size), (min(size, shape[0]), min(size, shape[1]))
    for drawn in boxes:
        y0, y1, x0, x1 = _inside(drawn, shape, source)
        rows, columns = (starts[0] + inside[0] > y0) & (starts[0] < y1), (starts[1] + inside[1] > x0) & (starts[1] < x1)
        if not (label[np.ix_(rows, columns)] == DRAWN[drawn.kind]).any():
            raise InputError(
                f"{source}:{drawn.line}: box {[y0, y1, x0, x1]}",
                f"gives no patch of {size} pixels its class: no patch is {COVERED:.0%} covered by this class alone",
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
            f"is empty or exceeds the frame of {shape[0]} rows and {shape[1]} columns",
            "give y0, y1, x0, x1 in pixels, the ends not included",
        )
    return drawn.box


def _overlap(drawn: LabelledBox, corner: tuple[int, ...], size: tuple[int, int], shape: tuple[int, int]) -> int:
    """Number of pixels of a patch that a box covers."""
    y0, y1, x0, x1 = drawn.box or (0, shape[0], 0, shape[1])
    high = min(y1, corner[0] + size[0]) - max(y0, corner[0])
    return max(0, high) * max(0, min(x1, corner[1] + size[1]) - max(x0, corner[1]))


def lit_patches(lit: np.ndarray, size: int = PATCH) -> np.ndarray:
    """Patches that are lit: at least half of the sampled pixels, the same rule as for classification.

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
    """Label of each patch at each position of the scan, where the rocking curve is unambiguous.

    Parameters
    ----------
    peak, width : array (y, x), unit of the axis
        Local peak and half width from :func:`dfxm_dask.beams.local_peak`, NaN where unlit.
    positions : array (position,)
        Positions along the axis.
    size : int, pixel
        Edge of a patch.

    Returns
    -------
    array (position, patch_y, patch_x), uint8
        Weak if at least 90 % of the lit pixels have |u| > 2.5, strong if as large a fraction has |u| < 1.2, with
        u = (position − peak)/width; unlit if less than half of the patch is lit; otherwise ambiguous.

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
