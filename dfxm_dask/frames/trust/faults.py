"""Faults of single frames of a layer: saturated, empty, without beam, of another brightness, taken twice; and counters.

A frame is compared with its neighbours along all scan axes. Dark frames of a mesh, where no part of the sample
diffracts, are not faults.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise

import numpy as np

from dfxm_dask.frames.scale import UNEVEN
from dfxm_dask.frames.trust.features import Frames

LOST = 0.1
"""Light of a frame relative to that of both neighbours, along every axis, below which its beam was off."""
SURE = 8.0
"""Standard errors of light, above which a patch is lit."""
ABRUPT = 3.0
"""Change of a lost frame, as a logarithm, relative to the upper decile of the changes between lit neighbours."""
MOST_LOST = 0.2
"""Part of a line up to which a run of dark frames between bright ones is a fault."""
TRIP, NONE_LEFT = 0.2, 0.01
"""Monitor relative to its median, below which the beam was off; the second where attenuators dim the beam."""
JUMP, ROBUST = 0.1, 8.0
"""Change of the monitor as a logarithm, and in standard deviations (from the median deviation), of a jump."""
FLASH, FLASHED = 0.2, 10.0
"""Like these, of the light that all patches of a frame share, beyond the mean of its neighbours."""
HOT = 0.9
"""Part of the frames above which a saturated patch has a hot pixel."""


def saturated_frames(most: np.ndarray, full: float) -> tuple[tuple[int, ...], int]:
    """Frames with a count that fills the detector well, and the number of patches that are full in nearly all frames.

    Parameters
    ----------
    most : (frame, patch), count
        Largest count of each patch.
    full : float, count
        Count of a full well; NaN where unknown.
    """
    if not np.isfinite(full):
        return (), 0
    filled = np.asarray(most, np.float64) >= full
    always = filled.mean(axis=0) > HOT
    return tuple(np.flatnonzero(filled[:, ~always].any(axis=1)).tolist()), int(always.sum())


def empty_frames(least: np.ndarray, most: np.ndarray) -> tuple[int, ...]:
    """Frames whose counts are all equal, in a layer whose other frames are not; arrays (frame, patch), count."""
    flat = np.asarray(least).min(axis=1) == np.asarray(most).max(axis=1)
    return tuple(np.flatnonzero(flat).tolist()) if flat.mean() < 0.5 else ()


def equal_frames(statistics: Mapping[str, np.ndarray]) -> list[tuple[int, int]]:
    """Pairs of frames with equal statistics of all patches, each with the first frame of its kind.

    Only frames that have counts of several values are listed: two frames without any photon are equal by right.

    Parameters
    ----------
    statistics : mapping of str to (frame, patch) arrays
        ``patch_sum``, ``patch_sum2``, ``patch_min`` and ``patch_max``.
    """
    names = ("patch_sum", "patch_sum2", "patch_min", "patch_max")
    rows = np.concatenate([np.asarray(statistics[name], np.float64) for name in names], axis=1)
    known: dict[bytes, int] = {}
    found = []
    for k, row in enumerate(rows):
        if np.all(statistics["patch_min"][k] == statistics["patch_max"][k]):
            continue
        first = known.setdefault(row.tobytes(), k)
        if first != k:
            found.append((first, k))
    return found


def dark_frames(frames: Frames) -> tuple[int, ...]:
    """Frames without light between bright neighbours: the beam or the shutter was off.

    A run of frames counts up to a fifth of its line, if all patches that are lit on both sides lose their light in one
    step, and if lit neighbours elsewhere differ much less.
    """
    usual = _usual_change(frames)
    lines = np.arange(frames.count).reshape(-1, frames.grid[-1])
    lit = frames.light > SURE * np.median(frames.error, axis=0) + 1.0
    found: list[int] = []
    for line in lines:
        total = np.maximum(frames.light[line], 0).sum(axis=1)
        for start, stop in pairwise(np.flatnonzero(lit[line].any(axis=1) & (total > LOST * total.max()))):
            if not 1 < stop - start <= 1 + max(1, int(MOST_LOST * len(line))):
                continue
            sides = frames.light[line[[start, stop]]]
            both = lit[line[start]] & lit[line[stop]]
            within = frames.light[line[start + 1 : stop]]
            if not both.any() or (within[:, both] > LOST * sides.min(axis=0)[both]).any():
                continue
            error = np.median(frames.error, axis=0)[both].max()
            drop = np.log(sides.min(axis=0)[both].max() / max(float(within[:, both].max()), float(error), 0.3))
            if drop > ABRUPT * usual and _alike(sides[0][both], sides[1][both], usual):
                found += line[start + 1 : stop].tolist()
    if len(frames.grid) > 1:  # a dark frame of a mesh has dark neighbours along another axis
        found = [k for k in found if _bright_beside(frames, k, lit, set(found))]
    return tuple(sorted(found))


def _usual_change(frames: Frames) -> float:
    """Upper decile of the change of light between lit neighbours, as a logarithm."""
    lines = np.arange(frames.count).reshape(-1, frames.grid[-1])
    total = np.maximum(frames.light, 0).sum(axis=1)[lines]
    lit = total > LOST * total.max()
    both = lit[:, 1:] & lit[:, :-1]
    if not both.any():
        return np.inf
    change = np.abs(np.diff(np.log(np.where(lit, total, 1.0)), axis=1))[both]
    return max(float(np.quantile(change, 0.9)), 0.1)


def _alike(first: np.ndarray, second: np.ndarray, usual: float) -> bool:
    """Whether the light on both sides of a gap is that of near neighbours, by its sum."""
    return bool(abs(np.log(first.sum() / second.sum())) < 2 * usual + 0.2)


def _bright_beside(frames: Frames, k: int, lit: np.ndarray, gone: set[int]) -> bool:
    """Whether a frame has bright neighbours along the slower axes too; frames that are lost as well are passed over."""
    places = np.arange(frames.count).reshape(frames.grid)
    at = np.unravel_index(k, frames.grid)
    total = frames.light.sum(axis=1)
    for axis in range(len(frames.grid) - 1):
        line = places[tuple(slice(None) if a == axis else i for a, i in enumerate(at))]
        others = [int(f) for f in line[max(at[axis] - 1, 0) : at[axis] + 2] if int(f) != k and int(f) not in gone]
        if others and any(total[f] < max(5 * total[k], 1.0) or not lit[f].any() for f in others):
            return False
    return True


def flashes(frames: Frames) -> tuple[tuple[int, ...], float]:
    """Frames all of whose patches are brighter or darker by one factor than the mean of their neighbours.

    Returns
    -------
    tuple of int
        Flat numbers of the frames.
    float
        Largest factor; 1 without any.
    """
    lines = np.arange(frames.count).reshape(-1, frames.grid[-1])
    if frames.grid[-1] < 8:
        return (), 1.0
    floor = SURE * np.median(frames.error, axis=0) + 1.0
    logs = np.log(np.maximum(frames.light, floor))
    before, here, after = (lines[:, k : frames.grid[-1] - 2 + k].ravel() for k in range(3))
    lit = np.all([frames.light[f] > floor for f in (before, here, after)], axis=0)
    bend = np.where(lit, logs[here] - (logs[before] + logs[after]) / 2, np.nan)
    known = lit.sum(axis=1) >= max(1, lit.shape[1] // 2)
    if known.sum() < 8:
        return (), 1.0
    shared = np.nanmedian(bend[known], axis=1)
    rest = np.nanmax(np.abs(bend[known] - shared[:, None]), axis=1)
    slope = np.nanmax(np.abs(np.where(lit, logs[before] - logs[after], np.nan)[known]), axis=1)
    middle = float(np.median(shared))
    spread = 1.48 * float(np.median(np.abs(shared - middle)))
    off = shared - middle
    odd = (np.abs(off) > max(FLASH, FLASHED * spread)) & (np.maximum(2 * rest, slope) < np.abs(off))
    # A flash bends the curve upwards once, and downwards at both neighbours, half as much.
    numbers = here[known]
    index = {int(f): float(o) for f, o in zip(numbers, off, strict=True)}
    found = [
        int(f)
        for f, o in zip(numbers[odd], off[odd], strict=True)
        if all(index.get(int(f) + s, -o / 2) * np.sign(o) < -0.25 * abs(o) for s in (-1, 1))
    ]
    if not found:
        return (), 1.0
    return tuple(found), float(np.exp(max(abs(index[f]) for f in found)))


def monitor_faults(monitor: np.ndarray) -> dict[str, tuple[int, ...]]:
    """Frames with an unusable monitor, without beam, and after a jump of the beam.

    Parameters
    ----------
    monitor : (frame,)
        In recorded order of the grid; NaN where not recorded.

    Returns
    -------
    dict of str to tuple of int
        ``bad``, ``trip`` and ``jump``; without jumps where the beam differs by more than 1.5 times between the tenths
        of the frames with the strongest and the weakest beam, as behind attenuators.
    """
    values = np.asarray(monitor, np.float64).ravel()
    there = np.isfinite(values)
    if not there.any():
        return {"bad": (), "trip": (), "jump": ()}
    good = there & (values > 0)
    usual = float(np.median(values[good])) if good.any() else 0.0
    spread_of = np.quantile(values[good & (values >= TRIP * usual)], (0.1, 0.9)) if good.any() else np.ones(2)
    dimmed = bool(spread_of[1] > UNEVEN * spread_of[0])
    trip = there & (values < (NONE_LEFT if dimmed else TRIP) * usual)
    bad = ~there | ((values <= 0) & ~trip)
    left = np.flatnonzero(good & ~trip)
    jump: tuple[int, ...] = ()
    if len(left) > 8:
        step = np.diff(np.log(values[left]))
        spread = 1.48 * float(np.median(np.abs(step - np.median(step))))
        far = np.abs(step - np.median(step)) > max(JUMP, ROBUST * spread)
        jump = () if dimmed else tuple(left[1:][far].tolist())
    return {"bad": tuple(np.flatnonzero(bad).tolist()), "trip": tuple(np.flatnonzero(trip).tolist()), "jump": jump}
