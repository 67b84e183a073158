"""Images that two dislocations share: where they merge and split, and which dislocation is which afterwards."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.spatial import cKDTree

from dfxm_dask.dynamics.chains import Motion, heads
from dfxm_dask.reduction import Arrays

MEMBERS = 3
"""Least number of detections of a chain that counts as a dislocation (our choice)."""
LONGEST = 64
"""Longest gap in a chain, in frames (our choice)."""


class Links(NamedTuple):
    """Tracks as rows of the sorted table.

    Attributes
    ----------
    track, other : array (detection,), int64
        Number of the chain, and of a second chain in the same image; -1 without one.
    crowded : array (detection,), bool
        Whether more than two chains share the image.
    certainty : array (detection,)
        Margin of the link to the next detection of the chain in log evidence, infinity at its end.
    gain : array (detection,)
        Log evidence of that link itself.
    """

    track: np.ndarray
    other: np.ndarray
    crowded: np.ndarray
    certainty: np.ndarray
    gain: np.ndarray


class Table:
    """Detections sorted by value, with the quantities that all rounds share."""

    def __init__(self, columns: Arrays) -> None:
        self.columns = columns
        self.size = len(columns["y"])
        frames, self.rank = np.unique(columns["frame"], return_inverse=True)
        self.frames = len(frames)
        self.frame = float(np.median(np.diff(np.unique(columns["time"])))) if self.frames > 1 else 1.0
        """Typical time between frames."""
        self.at = np.stack([columns["y"], columns["x"]], axis=1)
        noise = np.stack([columns["noise_y"], columns["noise_x"]], axis=1)
        self.width = np.sqrt(np.median(noise, axis=0))
        """Shape of an image: errors of position are in the proportion of its widths."""
        self.next = np.full(self.size, -1)
        self.certainty = np.full(self.size, np.inf)
        self.gain = np.zeros(self.size)
        self.used = np.ones(self.size, bool)
        self.apart = 1e3 * (np.ptp(self.at / self.width, axis=0).max(initial=0.0) + 1.0)
        self.reach = 0.0
        """Distance in widths below which two images merge."""
        self.missed, self.same_sign = 0.05, 0.5
        self.bonus = np.zeros((2, 2))
        """Minus log probability that one dislocation ends and another begins: few detections or many."""
        self.tree = self._tree(np.arange(self.size))

    def _tree(self, rows: np.ndarray) -> cKDTree:
        return cKDTree(self.spread_out(self.rank[rows], self.at[rows]))

    def spread_out(self, rank: np.ndarray, at: np.ndarray) -> np.ndarray:
        """Positions in widths of an image, with frames far apart: one search finds neighbours within each frame."""
        return np.column_stack([rank * self.apart, at / self.width])

    def unlink(self, rows: np.ndarray) -> None:
        """Open the links from these detections to the next ones."""
        self.next[rows] = -1
        self.certainty[rows], self.gain[rows] = np.inf, 0.0

    def chains(self) -> tuple[np.ndarray, np.ndarray]:
        """Rows in the order of their chains, and where each chain begins."""
        rows = np.flatnonzero(self.used)
        first = heads(self.next, self.used)
        order = rows[np.argsort(first[rows], kind="stable")]
        edge = np.flatnonzero(np.diff(first[order], prepend=-1))
        return order, np.append(edge, len(order))


def gaps(table: Table) -> tuple[np.ndarray, np.ndarray]:
    """Detections on both sides of each gap of a chain, if the chain is long enough to count."""
    first = heads(table.next, table.used)
    last = np.flatnonzero((table.next >= 0) & (np.bincount(first[table.used], minlength=table.size)[first] >= MEMBERS))
    first = table.next[last]
    wide = table.rank[first] - table.rank[last] > 1
    return last[wide], first[wide]


def bridge_variance(
    table: Table, motion: tuple[Motion, ...], span: np.ndarray, share: np.ndarray | float
) -> np.ndarray:
    """Variance of a position between two known ones, or after one (share 1), along y and x; spans in frames or s."""
    result = np.empty((len(span), 2))
    for a, m in enumerate(motion):
        before, after = (2 * m.variance * -np.expm1(-s * span / m.memory) for s in (share, 1 - np.asarray(share)))
        result[:, a] = before * after / np.maximum(before + after, 1e-300) if np.ndim(share) else before
    return result


def between(
    table: Table, motion: tuple[Motion, ...], last: np.ndarray, first: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Frames without a detection between two detections: number of the pair, rank, expected position, variance."""
    count = table.rank[first] - table.rank[last] - 1
    pair = np.repeat(np.arange(len(last)), count)
    ahead = np.arange(len(pair)) - np.repeat(np.cumsum(count) - count, count) + 1
    share = ahead / (count[pair] + 1.0)
    spot = table.at[last][pair] + share[:, None] * (table.at[first] - table.at[last])[pair]
    span = (table.columns["time"][first] - table.columns["time"][last])[pair]
    return pair, table.rank[last][pair] + ahead, spot, bridge_variance(table, motion, span, share)


def covering(
    table: Table, motion: tuple[Motion, ...], last: np.ndarray, first: np.ndarray, rows: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The nearest of some detections in each frame without one: number of the pair, row or -1."""
    pair, rank, spot, loose = between(table, motion, last, first)
    row = np.full(len(pair), -1)
    if not len(pair) or not len(rows) or not table.reach:
        return pair, row
    near = table._tree(rows).query(table.spread_out(rank, spot), distance_upper_bound=table.apart / 2)[1]
    known = np.flatnonzero(near < len(rows))
    off = table.at[rows[near[known]]] - spot[known]
    inside = (off**2 / ((table.reach * table.width) ** 2 + loose[known])).sum(axis=1) < 1
    row[known[inside]] = rows[near[known[inside]]]
    return pair, row


def merged_images(table: Table, motion: tuple[Motion, ...]) -> np.ndarray:
    """Detections that may hide a second dislocation: one with a gap there, or one that ends before or begins after."""
    last, first = gaps(table)
    used = np.flatnonzero(table.used)
    _, row = covering(table, motion, last, first, used)
    merged = np.zeros(table.size, bool)
    merged[row[row >= 0]] = True
    rows, edge = table.chains()
    begin, end = rows[edge[:-1]], rows[edge[1:] - 1]
    into = _beside(table, motion, end[np.diff(edge) >= MEMBERS], 1)
    out_of = _beside(table, motion, begin[np.diff(edge) >= MEMBERS], -1)
    merged[into], merged[out_of] = True, True
    splits = np.zeros(table.size, bool)
    splits[out_of] = True
    for k in into:  # from the merger to the split, if the same chain contains both
        run = [int(k)]
        while not splits[run[-1]] and table.next[run[-1]] >= 0 and len(run) <= LONGEST:
            run.append(int(table.next[run[-1]]))
        if splits[run[-1]]:
            merged[run] = True
    return merged


def _beside(table: Table, motion: tuple[Motion, ...], rows: np.ndarray, side: int) -> np.ndarray:
    """Detections within reach of the ends of chains, one frame later (side 1) or earlier (side -1)."""
    rank = table.rank[rows] + side
    rows = rows[(rank >= 0) & (rank < table.frames)]
    used = np.flatnonzero(table.used)
    if not len(rows) or not table.reach:
        return rows[:0]
    spot = table.spread_out(table.rank[rows] + side, table.at[rows])
    near = table._tree(used).query(spot, distance_upper_bound=table.apart / 2)[1]
    known = near < len(used)
    row = used[near[known]]
    loose = bridge_variance(table, motion, np.full(len(row), table.frame), 1.0)
    off = table.at[row] - table.at[rows[known]]
    return row[(off**2 / ((table.reach * table.width) ** 2 + loose)).sum(axis=1) < 1]


def cut(table: Table, shared: np.ndarray) -> None:
    """Take merged detections out of their chains: they do not identify a dislocation."""
    follows = table.next >= 0
    follows[follows] = shared[table.next[follows]]
    table.unlink(np.flatnonzero(follows | shared))
    table.used[shared] = False


def takers(table: Table, motion: tuple[Motion, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Merged detections and the gaps of chains that they fill: row of the detection, row before the gap."""
    last, first = gaps(table)
    pair, row = covering(table, motion, last, first, np.flatnonzero(~table.used))
    return row[row >= 0], last[pair[row >= 0]]


def given_back(table: Table, motion: tuple[Motion, ...]) -> bool:
    """Return detections that fewer than two chains share, and open the gaps that they fill; whether there are any."""
    row, before = takers(table, motion)
    lone = ~table.used & (np.bincount(row, minlength=table.size) < 2)
    opened = before[lone[row]]
    table.unlink(opened)
    table.used |= lone
    return bool(lone.any())


def numbered(table: Table, motion: tuple[Motion, ...]) -> Links:
    """Numbers of the chains; merged detections get the numbers of the chains with a gap there."""
    rows, edge = table.chains()
    track, other = np.full(table.size, -1), np.full(table.size, -1)
    track[rows] = np.repeat(np.arange(len(edge) - 1), np.diff(edge))
    crowded = np.zeros(table.size, bool)
    for k, before in zip(*takers(table, motion), strict=True):
        if track[k] < 0:
            track[k] = track[before]
        elif other[k] < 0:
            other[k] = track[before]
        else:
            crowded[k] = True
    return Links(track, other, crowded, table.certainty, table.gain)


def exchange(table: Table, motion: tuple[Motion, ...]) -> bool:
    """Decide again which of two chains is which after each image that they share and each close pass;
    whether anything changed.

    With the rest position of each dislocation known, the most probable sequence of exchanges follows from dynamic
    programming over the pieces between the shared images; rest positions and sequence are found in turn.
    """
    if any(m.velocity > 0 for m in motion):
        return False
    rows, edge = table.chains()
    track = np.full(table.size, -1)
    track[rows] = np.repeat(np.arange(len(edge) - 1), np.diff(edge))
    row, before = takers(table, motion)
    order = np.argsort(row, kind="stable")
    row, name = row[order], track[before[order]]
    pairs: dict[tuple[int, int], list[int]] = {}
    for k in np.flatnonzero(np.diff(row) == 0):
        pairs.setdefault((min(name[k], name[k + 1]), max(name[k], name[k + 1])), []).append(int(table.rank[row[k]]))
    for a, b in zip(*_close(table, motion, rows), strict=True):
        pairs.setdefault((min(track[a], track[b]), max(track[a], track[b])), []).append(int(table.rank[a]))
    changed = False
    for (a, b), ranks in sorted(pairs.items()):
        one, two = _followed(table, rows[edge[a]]), _followed(table, rows[edge[b]])
        changed |= _exchanged(table, motion, one, two, np.unique(ranks))
    return changed


def _close(table: Table, motion: tuple[Motion, ...], rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Detections so close to the nearest one of their frame that either may be the next of the other chain."""
    spot = table.spread_out(table.rank[rows], table.at[rows])
    near = table._tree(rows).query(spot, k=2, distance_upper_bound=table.apart / 2)[1][:, 1]
    known = np.flatnonzero(near < len(rows))
    one, other = rows[known], rows[near[known]]
    step = bridge_variance(table, motion, np.full(1, table.frame), 1.0)
    off = (table.at[one] - table.at[other]) ** 2 / ((table.reach * table.width) ** 2 + 9 * step)
    close = off.sum(axis=1) < 1
    return one[close], other[close]


def _followed(table: Table, row: int) -> np.ndarray:
    """Detections of the chain that begins at a row."""
    chain = [int(row)]
    while table.next[chain[-1]] >= 0:
        chain.append(int(table.next[chain[-1]]))
    return np.array(chain)


def _exchanged(table: Table, motion: tuple[Motion, ...], one: np.ndarray, two: np.ndarray, ranks: np.ndarray) -> bool:
    """Exchange the pieces of two chains where that is more probable."""
    lists = (one, two)
    cuts: list[int] = []
    for rank in ranks:  # pieces with detections of both chains
        seen = [np.searchsorted(table.rank[r], [cuts[-1] if cuts else -1, rank], side="right") for r in lists]
        if all(low < high < len(r) for (low, high), r in zip(seen, lists, strict=True)):
            cuts.append(int(rank))
    if not cuts:
        return False
    piece = [np.searchsorted(cuts, table.rank[r]) for r in lists]
    starts = [np.searchsorted(p, np.arange(len(cuts) + 1)) for p in piece]
    swapped = np.zeros(len(cuts) + 1, bool)
    for _ in range(8):
        score = np.zeros((len(cuts) + 1, 2))  # of each piece, as it stands and exchanged
        move = np.zeros((len(cuts), 2, 2))
        for a, m in enumerate(motion):
            noise = table.columns["noise_" + ("y", "x")[a]]
            for name in (0, 1):
                own = np.concatenate([lists[k][swapped[piece[k]] == (k != name)] for k in (0, 1)])
                rest = float(table.at[own, a].mean()) if len(own) else m.centre
                for k in (0, 1):
                    at = table.at[lists[k], a] - rest
                    inner = _step(table, m, noise, lists[k][:-1], lists[k][1:], at[:-1], at[1:])
                    inner[starts[k][1:] - 1] = 0.0
                    score[:, int(k != name)] += np.add.reduceat(np.append(inner, 0.0), starts[k])
                    for other in (0, 1):
                        last, first = lists[k][starts[k][1:] - 1], lists[other][starts[other][1:]]
                        move[:, int(k != name), int(other != name)] += _step(
                            table, m, noise, last, first, table.at[last, a] - rest, table.at[first, a] - rest
                        )
        path = _best_path(score, move)
        if (path == swapped).all():
            break
        swapped = path
    change = np.flatnonzero(swapped[1:] != swapped[:-1])
    for cut in change:
        last = np.array([lists[k][starts[k][cut + 1] - 1] for k in (0, 1)])
        table.next[last] = table.next[last[::-1]]
    return len(change) > 0


def _step(
    table: Table, m: Motion, noise: np.ndarray, last: np.ndarray, first: np.ndarray, at: np.ndarray, to: np.ndarray
) -> np.ndarray:
    """Log probability of positions after others, both about the rest position."""
    gap = table.columns["time"][first] - table.columns["time"][last]
    stay = np.exp(-gap / m.memory)
    variance = m.variance * -np.expm1(-2 * gap / m.memory) + noise[first] + noise[last] * stay**2
    return -0.5 * ((to - stay * at) ** 2 / variance + np.log(variance))


def _best_path(score: np.ndarray, move: np.ndarray) -> np.ndarray:
    """Sequence of the two states with the largest sum; of equal ones that with fewer exchanges at the end."""
    best = score[0]
    back = np.zeros(move.shape[:2], np.int64)
    for k in range(len(move)):
        options = best[:, None] + move[k]
        back[k] = options.argmax(axis=0)
        best = options.max(axis=0) + score[k + 1]
    path = np.empty(len(score), bool)
    state = int(best[1] > best[0])
    path[-1] = state
    for k in range(len(move) - 1, -1, -1):
        state = int(back[k, state])
        path[k] = state
    return path if not path[0] else ~path
