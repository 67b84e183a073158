"""Whether the frames of a layer are paired with their own positions: neighbours are more similar than random frames.

Every test compares the recorded pairing with another one. A scan whose frames another pairing fits as well (a smooth
reversal of the whole scan, a shift within dark frames) gives no answer, and is never called wrong.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dfxm_dask.frames.trust.features import Frames

ORDERS = 200
"""Random orders with which the recorded order is compared."""
CONFIRMED, REFUTED = -4.5, -3.0
"""Standard scores of the roughness among random orders: below the first, the order is that of the scan; above the
second, it is like a random one."""
SIGNAL = 3.0
"""Distance of random frames, upper decile, below which the frames differ by noise alone and no order is known."""
SMOOTHER = 0.85
"""Roughness of lines in another pairing, relative to that recorded, below which the other one fits better."""
AGREE, FEWEST_LINES = 2.4, 5
"""Sum of the gains of the lines of a two-axis scan by another pairing, relative to the root of the sum of their squares
(6 equal gains and no loss), and least number of lines."""
FARTHEST = 3
"""Frames by which a pairing may be off."""
MOST_FRAMES = 2000
"""Frames of a one-axis scan up to which all local rearrangements are compared."""
LEAST, BREAK = 5.0, 2.0
"""Distance of neighbours at a break, in lower quartiles of all distances of neighbours, and relative to the distances
beside it."""
HEALED = 0.6
"""Part of a break that another order must heal."""
KEPT = 0.75
"""Cost of a frame at its better position, relative to that at its own, below which it belongs there."""
LIT = 0.1
"""Light of a frame relative to the brightest, above which it is lit."""
STALLED, STEADY = 6.0, 0.8
"""Steps before and after a stall, relative to the step within it, and the cosine between them."""
TURNED = "every second line is backwards"
LATE = "every second line is {by} frames off"
SHIFTED = "every frame is {by} numbers {way}"
MOVED = "a frame belongs after frame {at}"
CIRCLE = "all frames are shifted by {by} in a circle"
BLOCK = "a block of frames is backwards"
STALL = "a position was measured twice"


@dataclass(frozen=True)
class Order:
    """Knowledge about the pairing of one layer.

    Parameters
    ----------
    state : str
        "confirmed", "refuted" or "unknown".
    score : float
        Standard score of the roughness among random orders.
    signal : float
        Upper decile of the distance of random frames; noise and flicker alone give about 1.
    better : str
        Name of a pairing that fits better; empty for none.
    ratio : float
        Roughness of that pairing, relative to the recorded one.
    frames : tuple of int
        Flat numbers of the frames concerned, on the grid.
    """

    state: str
    score: float
    signal: float
    better: str = ""
    ratio: float = np.nan
    frames: tuple[int, ...] = ()


def judge_order(frames: Frames, *, stepped: bool = True, seed: int = 0) -> Order:
    """Pairing of the frames of a layer with their positions.

    Parameters
    ----------
    frames : Frames
    stepped : bool
        Whether a motor steps along the scan. In a series over time, frames may change or stay equal at any moment, so
        that only the order as a whole is judged.
    seed : int
        Of the random orders.

    Returns
    -------
    Order
    """
    rng = np.random.default_rng([seed, frames.count])
    places = np.arange(frames.count).reshape(frames.grid)
    pairs = neighbours(places)
    some = rng.integers(0, frames.count, (2, 2000))
    signal = float(np.quantile(frames.apart(*some), 0.9)) if frames.count > 1 else 0.0
    if signal < SIGNAL or frames.count < 8:
        return Order("unknown", np.nan, signal)
    rough = [frames.apart(*pairs).mean()]
    for _ in range(ORDERS):
        mixed = rng.permutation(frames.count)
        rough.append(frames.apart(mixed[pairs[0]], mixed[pairs[1]]).mean())
    score = float((rough[0] - np.mean(rough[1:])) / max(np.std(rough[1:]), 1e-9))
    state = "confirmed" if score < CONFIRMED else "refuted" if score > REFUTED else "unknown"
    if score > REFUTED:
        return Order(state, score, signal)
    two = len(frames.grid) > 1 and min(frames.grid[-2:]) > 2
    local = (_rearranged, _stalled) if stepped else ()
    for look in (_turned_lines, _late_lines, _shifted) if two else local:
        found = look(frames, places)
        if found is not None:
            few = len(found[2]) < frames.count and look in local
            return Order(state if few else "refuted", score, signal, *found)
    return Order(state, score, signal)


def neighbours(places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pairs of neighbours on a grid along all axes: two index arrays."""
    first, second = [], []
    for axis, length in enumerate(places.shape):
        first.append(np.take(places, range(length - 1), axis).ravel())
        second.append(np.take(places, range(1, length), axis).ravel())
    return np.concatenate(first), np.concatenate(second)


Found = tuple[str, float, tuple[int, ...]] | None


def _turned_lines(frames: Frames, places: np.ndarray) -> Found:
    """Every second line of a two-axis scan backwards: a snake read as a raster, or the reverse."""
    best: Found = None
    for axis in (len(frames.grid) - 1, len(frames.grid) - 2):
        lines = np.moveaxis(places, axis, -1).reshape(-1, frames.grid[axis])
        same = frames.apart(lines[:-1].ravel(), lines[1:].ravel()).reshape(lines[1:].shape)
        turned = frames.apart(lines[:-1].ravel(), lines[1:, ::-1].ravel()).reshape(lines[1:].shape)
        ratio = _preferred(turned.sum(axis=1), same.sum(axis=1))
        if ratio < SMOOTHER and (best is None or ratio < best[1]):
            best = (TURNED, ratio, tuple(lines[1::2].ravel().tolist()))
    return best


def _late_lines(frames: Frames, places: np.ndarray) -> Found:
    """Every second line some frames late, alternately in both directions: backlash of the fast motor."""
    lines = places.reshape(-1, frames.grid[-1])
    back = (np.arange(len(lines) - 1) % 2)[:, None] == 0  # whether the second line of a pair is an odd one
    best: Found = None
    for by in (*range(-FARTHEST, 0), *range(1, FARTHEST + 1)):
        keep = frames.grid[-1] - abs(by)
        if keep < 3:
            continue
        early, late = slice(max(by, 0), max(by, 0) + keep), slice(max(-by, 0), max(-by, 0) + keep)
        first = np.where(back, lines[:-1, early], lines[:-1, late])
        second = np.where(back, lines[1:, late], lines[1:, early])
        middle = slice(abs(by) // 2, abs(by) // 2 + keep)
        own = frames.apart(lines[:-1, middle].ravel(), lines[1:, middle].ravel()).reshape(first.shape).sum(axis=1)
        other = frames.apart(first.ravel(), second.ravel()).reshape(first.shape).sum(axis=1)
        ratio = _preferred(other, own)
        if ratio < SMOOTHER and (best is None or ratio < best[1]):
            best = (LATE.format(by=abs(by)), ratio, tuple(lines[1::2].ravel().tolist()))
    return best


def _shifted(frames: Frames, places: np.ndarray) -> Found:
    """All frames some numbers late or early: the jump from line to line of a raster then lies within the lines."""
    width = frames.grid[-1]
    flat = places.ravel()
    step = frames.apart(flat[:-1], flat[1:])
    starts = np.arange(2, len(flat) // width - 1) * width - 1  # step into each line but the first two and the last
    if width < 2 * FARTHEST + 4:
        return None
    steps = {by: step[starts + by] for by in range(-FARTHEST - 1, FARTHEST + 2)}
    for by in sorted(set(steps) - {0, -FARTHEST - 1, FARTHEST + 1}, key=lambda by: -float(steps[by].sum())):
        ratio = max(_preferred(steps[other], steps[by]) for other in {by - 1, by + 1, 0})
        if ratio < SMOOTHER:
            words = SHIFTED.format(by=abs(by), way="late" if by > 0 else "early")
            return words, ratio, tuple(flat.tolist())
    return None


def _preferred(other: np.ndarray, own: np.ndarray) -> float:
    """Ratio of two roughnesses, arrays (line,); 1 where the lines do not agree that the other is smoother."""
    gain = own - other
    if len(gain) < FEWEST_LINES or gain.sum() <= AGREE * float(np.sqrt((gain**2).sum())):
        return 1.0
    return float(other.sum() / max(own.sum(), 1e-9))


def _rearranged(frames: Frames, places: np.ndarray) -> Found:
    """A frame or block of a one-axis scan at another position, turned, or all frames shifted in a circle.

    Neighbours are apart at a break, and another order heals it, with lit frames at the new joints: where a curve rises
    from the dark in one step, dark ends would heal as well.
    """
    n = frames.count
    if n > MOST_FRAMES:
        return None
    total = np.maximum(frames.light, 0).sum(axis=1)
    lit = total > LIT * total.max()
    order = places.ravel()
    step = frames.apart(order[:-1], order[1:])
    least = LEAST * float(np.clip(np.quantile(step, 0.25), 0.3, 1.0))

    def joint(a: int, b: int) -> float:
        """Distance of two frames; infinite where both are dark."""
        return float(frames.apart(np.array([a]), np.array([b]))[0]) if lit[a] or lit[b] else np.inf

    for k in range(1, n - 1):  # a frame that lies better elsewhere
        if not lit[k]:
            continue
        gain = step[k - 1] + step[k] - float(frames.apart(order[k - 1 : k], order[k + 1 : k + 2])[0])
        if min(step[k - 1], step[k]) < least or not gain > HEALED * (step[k - 1] + step[k]):
            continue
        to = frames.apart(np.full(n, k), order)
        cost = to[:-1] + to[1:] - step
        cost[max(k - 2, 0) : k + 2] = np.inf
        at = int(np.argmin(cost))
        if cost[at] < KEPT * gain and min(to[at], to[at + 1]) < (1 - HEALED) * min(step[k - 1], step[k]):
            return MOVED.format(at=at), float((step.sum() - gain + cost[at]) / step.sum()), (k,)
    beside = np.maximum(np.r_[0.0, step[:-1]], np.r_[step[1:], 0.0])
    breaks = np.flatnonzero((step > least) & (step > BREAK * beside) & (lit[:-1] | lit[1:]))
    for a in breaks.tolist():
        if lit[0] and lit[-1] and joint(n - 1, 0) < (1 - HEALED) * step[a]:
            left = float((step.sum() - step[a] + joint(n - 1, 0)) / step.sum())
            return CIRCLE.format(by=n - 1 - int(a)), left, tuple(range(n))
        for b in breaks[breaks > a].tolist():
            was, now = step[a] + step[b], joint(a, b) + joint(a + 1, b + 1)
            if now < (1 - HEALED) * was:
                return BLOCK, float((step.sum() - was + now) / step.sum()), tuple(range(int(a) + 1, int(b) + 1))
    return None


def _stalled(frames: Frames, places: np.ndarray) -> Found:
    """A frame taken twice at one position while the steps before and after it continue in one direction."""
    marks = frames.marks
    going = np.diff(marks, axis=0)
    size = np.sqrt((going**2).mean(axis=1) / 2)
    for k in range(1, len(going) - 1):
        before, after = going[k - 1], going[k + 1]
        along = float(before @ after) / max(float(np.linalg.norm(before) * np.linalg.norm(after)), 1e-9)
        if along > STEADY and min(size[k - 1], size[k + 1]) > STALLED * max(size[k], 1.0):
            return STALL, 1.0, (k + 1,)
    return None
