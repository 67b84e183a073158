"""Detections to tracks: chains that grow from certain links to less certain ones, through merged images."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import min_weight_full_bipartite_matching
from scipy.spatial import cKDTree

from dfxm_dask.dynamics.chains import HALF_NORMAL, Motion, evidence, first_motion, learnt_motion, messages
from dfxm_dask.reduction import Arrays

ROUNDS = ((1, 6.0), (1, 3.0), (8, 6.0), (64, 6.0), (64, 3.0), (64, 0.0))
"""Largest gap in frames and least margin (log evidence) of the links of each round (our choice)."""
REPEATS = 2
"""Times that merged images are sought (our choice: the second search changes little)."""
FAR = 6.0
"""Standard deviations beyond which two detections are not compared."""
BLOCK = 200_000
"""Pairs of chains compared at a time."""


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
    """

    track: np.ndarray
    other: np.ndarray
    crowded: np.ndarray
    certainty: np.ndarray


class Table:
    """Detections sorted by value, with the quantities that all rounds share."""

    def __init__(self, columns: Arrays) -> None:
        self.columns = columns
        self.size = len(columns["y"])
        frames, self.rank = np.unique(columns["frame"], return_inverse=True)
        self.frames = len(frames)
        self.at = np.stack([columns["y"], columns["x"]], axis=1)
        noise = np.stack([columns["noise_y"], columns["noise_x"]], axis=1)
        self.width = np.sqrt(np.median(noise, axis=0))
        """Shape of an image: errors of position are in the proportion of its widths."""
        self.next = np.full(self.size, -1)
        self.certainty = np.full(self.size, np.inf)
        self.used = np.ones(self.size, bool)
        self.apart = 1e3 * (np.ptp(self.at / self.width, axis=0).max(initial=0.0) + 1.0)
        self.reach = 0.0
        """Distance in widths below which two images merge."""
        self.missed, self.bonus, self.same_sign = 0.05, 0.0, 0.5
        self.tree = self._tree(np.arange(self.size))

    def _tree(self, rows: np.ndarray) -> cKDTree:
        return cKDTree(self.spread_out(self.rank[rows], self.at[rows]))

    def spread_out(self, rank: np.ndarray, at: np.ndarray) -> np.ndarray:
        """Positions in widths of an image, with frames far apart: one search finds neighbours within each frame."""
        return np.column_stack([rank * self.apart, at / self.width])

    def chains(self) -> tuple[np.ndarray, np.ndarray]:
        """Rows in the order of their chains, and where each chain begins."""
        rows = np.flatnonzero(self.used)
        first = np.arange(self.size)
        for k in rows:  # successors lie in later rows
            if self.next[k] >= 0:
                first[self.next[k]] = first[k]
        order = rows[np.argsort(first[rows], kind="stable")]
        edge = np.flatnonzero(np.diff(first[order], prepend=-1))
        return order, np.append(edge, len(order))


def link(columns: Arrays) -> Links:
    """Chains of detections.

    Parameters
    ----------
    columns : dict of arrays (detection,)
        ``frame``, ``time`` s, ``y``, ``x`` um, ``noise_y``, ``noise_x`` um2, ``sign``, sorted by value.
    """
    table = Table(columns)
    if table.frames > 1:
        motion = first_motion(columns, _nearest(table))
        for window, margin in ROUNDS[:2]:
            motion = _round(table, motion, window, margin)
        motion = _rounds(table, motion)
    if table.frames > 2:
        for _ in range(REPEATS):
            merged = _merged(table, motion)
            if not merged.any():
                break
            _cut(table, merged)
            motion = _rounds(table, motion)
            if _given_back(table, motion):
                motion = _rounds(table, motion)
    return _numbered(table, motion)


def _nearest(table: Table) -> np.ndarray:
    """Pairs of detections of neighbouring frames that are nearest to each other, (pair, 2)."""
    ahead = table.spread_out(table.rank + 1, table.at)
    behind = table.spread_out(table.rank - 1, table.at)
    gap, there = table.tree.query(ahead, distance_upper_bound=table.apart / 2)
    _, back = table.tree.query(behind, distance_upper_bound=table.apart / 2)
    rows = np.flatnonzero(np.isfinite(gap))
    rows = rows[back[there[rows]] == rows]
    return np.stack([rows, there[rows]], axis=1)


def _rounds(table: Table, motion: tuple[Motion, ...]) -> tuple[Motion, ...]:
    """The rounds with gaps."""
    for window, margin in ROUNDS[2:]:
        motion = _round(table, motion, window, margin)
    return motion


def _round(table: Table, motion: tuple[Motion, ...], window: int, margin: float) -> tuple[Motion, ...]:
    """Link the ends of chains to beginnings of other chains where the margin is large enough; learn from the result."""
    rows, edge = table.chains()
    motion = _learn(table, rows, edge, motion)
    end, start, weight = _candidates(table, rows, edge, motion, window)
    if len(end):
        keep = weight > 0
        end, start, weight = end[keep], start[keep], weight[keep]
        chosen = matching(end, start, weight, len(edge) - 1)
        certain = margins(end, start, weight, chosen, len(edge) - 1)
        chosen = chosen[certain >= margin]
        last, first = rows[edge[1:] - 1], rows[edge[:-1]]
        table.next[last[end[chosen]]] = first[start[chosen]]
        table.certainty[last[end[chosen]]] = certain[certain >= margin]
    return motion


def _learn(table: Table, rows: np.ndarray, edge: np.ndarray, motion: tuple[Motion, ...]) -> tuple[Motion, ...]:
    """Motion, rates of missed detections, of births and deaths, sign and resolution, from the chains."""
    length = np.diff(edge)
    if np.count_nonzero(length >= 3) == 0:
        return motion
    long = np.repeat(length >= 3, length)
    chain = np.repeat(np.arange(len(length)), length)
    inside = np.flatnonzero((np.diff(chain) == 0) & long[1:])
    gaps = np.diff(table.rank[rows])[inside] - 1
    found = np.count_nonzero(long)
    table.missed = (gaps[gaps < 4].sum() + 1.0) / (found + gaps[gaps < 4].sum() + 20.0)
    deaths = np.count_nonzero(length >= 3)
    table.bonus = -np.log(min(1.0, deaths / found) * min(1.0, len(length) / table.frames))
    sign = table.columns["sign"][rows]
    both = sign[inside] * sign[inside + 1]
    if np.count_nonzero(both) > 20:
        table.same_sign = float(np.clip(np.mean(both[both != 0] > 0), 0.5, 0.999))
    motion = learnt_motion(table.columns, rows, edge, (motion[0], motion[1]))
    table.reach = _reach(table, motion, rows, edge)
    return motion


def _reach(table: Table, motion: tuple[Motion, ...], rows: np.ndarray, edge: np.ndarray) -> float:
    """Distance below which a second image is more often absent than found: gaps of chains against neighbours."""
    long = np.diff(edge) >= 3
    here = rows[np.repeat(long, np.diff(edge))]
    if not len(here):
        return 0.0
    spot = table.spread_out(table.rank[here], table.at[here])
    near = table._tree(here).query(spot, k=2, distance_upper_bound=table.apart / 2)[0][:, 1]
    first, last = rows[edge[:-1]][long], rows[edge[1:] - 1][long]
    first, last = first[table.rank[first] > 0], last[table.rank[last] < table.frames - 1]
    gap = _gaps(table)
    pair, rank, spot, loose = _between(table, motion, *gap)
    frame = float(np.median(np.diff(np.unique(table.columns["time"]))))
    loose_end = _loose(table, motion, np.full(len(last) + len(first), frame), 1.0)
    rank = np.concatenate([rank, table.rank[last] + 1, table.rank[first] - 1])
    spot = np.concatenate([spot, table.at[last], table.at[first]])
    loose = np.concatenate([loose, loose_end])
    here = np.sort(np.concatenate([here, np.flatnonzero(~table.used)]))
    row = table._tree(here).query(table.spread_out(rank, spot), distance_upper_bound=table.apart / 2)[1]
    known = row < len(here)
    a, b = ((table.at[here[row[known]]] - spot[known]) ** 2 / table.width**2).T
    c, d = (loose[known] / table.width**2).T
    half = (a + b - c - d) / 2  # the least reach that contains the image: root of a / (r² + c) + b / (r² + d) = 1
    gone = np.sort(np.sqrt(np.maximum(half + np.sqrt(np.maximum(half**2 - c * d + a * d + b * c, 0.0)), 0.0)))
    if not len(gone):
        return 0.0
    balance = np.arange(1, len(gone) + 1) - np.searchsorted(np.sort(near), gone, side="right")
    best = int(balance.argmax())
    return float(gone[best]) if balance[best] > 1 else 0.0


def _candidates(
    table: Table, rows: np.ndarray, edge: np.ndarray, motion: tuple[Motion, ...], window: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pairs (end, beginning) of chains that may be one, and the log evidence that they are."""
    first, last = rows[edge[:-1]], rows[edge[1:] - 1]
    order = np.argsort(table.rank[first], kind="stable")
    sorted_rank = table.rank[first][order]
    low = np.searchsorted(sorted_rank, table.rank[last], side="right")
    high = np.searchsorted(sorted_rank, table.rank[last] + window, side="right")
    total = np.concatenate([[0], np.cumsum(high - low)])
    time = table.columns["time"]
    pairs = []
    begin = 0
    while begin < len(last):
        stop = max(int(np.searchsorted(total, total[begin] + BLOCK, side="right")) - 1, begin + 1)
        count = (high - low)[begin:stop]
        end = np.repeat(np.arange(begin, stop), count)
        start = order[np.arange(len(end)) - np.repeat(total[begin:stop] - total[begin], count) + np.repeat(low[begin:stop], count)]
        gap = time[first[start]] - time[last[end]]
        near = np.zeros(len(end))
        for axis, m in zip(("y", "x"), motion, strict=True):
            noise = table.columns["noise_" + axis]
            spread = 2 * m.variance * -np.expm1(-gap / m.memory) + m.velocity * gap**2
            move = table.columns[axis][first[start]] - table.columns[axis][last[end]]
            near += move**2 / (spread + noise[first[start]] + noise[last[end]])
        keep = near < FAR**2
        pairs.append(np.stack([end[keep], start[keep]]))
        begin = stop
    end, start = np.concatenate(pairs, axis=1)
    gap = time[first[start]] - time[last[end]]
    weight = np.full(len(end), table.bonus)
    for axis, m in zip(("y", "x"), motion, strict=True):
        states = messages(edge, time[rows], table.columns[axis][rows], table.columns["noise_" + axis][rows], tuple(m))
        weight += evidence(end, start, gap, *states, tuple(m))
    if table.same_sign > 0.5:
        weight += _sign_evidence(table, rows, edge, end, start)
    keep = weight > 0
    end, start, weight = end[keep], start[keep], weight[keep]
    weight += _absence(table, motion, last[end], first[start])
    return end, start, weight


def _sign_evidence(table: Table, rows: np.ndarray, edge: np.ndarray, end: np.ndarray, start: np.ndarray) -> np.ndarray:
    """Log evidence of one sign for both chains."""
    right = 0.5 + 0.5 * np.sqrt(2 * table.same_sign - 1)
    votes = np.add.reduceat(table.columns["sign"][rows], edge[:-1])
    positive = 1 / (1 + np.exp(-np.clip(votes * np.log(right / (1 - right)), -6, 6)))
    return np.log(2 * (positive[end] * positive[start] + (1 - positive[end]) * (1 - positive[start])))


def _loose(table: Table, motion: tuple[Motion, ...], span: np.ndarray, share: np.ndarray | float) -> np.ndarray:
    """Variance of a position between two known ones, or after one (share 1), along y and x; spans in frames or s."""
    result = np.empty((len(span), 2))
    for a, m in enumerate(motion):
        before, after = (2 * m.variance * -np.expm1(-s * span / m.memory) for s in (share, 1 - np.asarray(share)))
        result[:, a] = before * after / np.maximum(before + after, 1e-300) if np.ndim(share) else before
    return result


def _between(
    table: Table, motion: tuple[Motion, ...], last: np.ndarray, first: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Frames without a detection between two detections: number of the pair, rank, expected position, variance."""
    count = table.rank[first] - table.rank[last] - 1
    pair = np.repeat(np.arange(len(last)), count)
    ahead = np.arange(len(pair)) - np.repeat(np.cumsum(count) - count, count) + 1
    share = ahead / (count[pair] + 1.0)
    spot = table.at[last][pair] + share[:, None] * (table.at[first] - table.at[last])[pair]
    span = (table.columns["time"][first] - table.columns["time"][last])[pair]
    return pair, table.rank[last][pair] + ahead, spot, _loose(table, motion, span, share)


def _covering(
    table: Table, motion: tuple[Motion, ...], last: np.ndarray, first: np.ndarray, rows: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The nearest of some detections in each frame without one: number of the pair, row or -1."""
    pair, rank, spot, loose = _between(table, motion, last, first)
    row = np.full(len(pair), -1)
    if not len(pair) or not len(rows) or not table.reach:
        return pair, row
    near = table._tree(rows).query(table.spread_out(rank, spot), distance_upper_bound=table.apart / 2)[1]
    known = np.flatnonzero(near < len(rows))
    off = table.at[rows[near[known]]] - spot[known]
    inside = (off**2 / ((table.reach * table.width) ** 2 + loose[known])).sum(axis=1) < 1
    row[known[inside]] = rows[near[known[inside]]]
    return pair, row


def _absence(table: Table, motion: tuple[Motion, ...], last: np.ndarray, first: np.ndarray) -> np.ndarray:
    """Log probability that frames between two detections show none: missed, or hidden by another image."""
    pair, row = _covering(table, motion, last, first, np.arange(table.size))
    cost = np.where(row >= 0, np.log(0.5), np.log(table.missed))
    return np.bincount(pair, cost, len(last))


def matching(end: np.ndarray, start: np.ndarray, weight: np.ndarray, count: int) -> np.ndarray:
    """Pairs of the assignment with the largest sum of positive weights: indices into the pairs."""
    if not len(end):
        return np.zeros(0, np.int64)
    ends, i = np.unique(end, return_inverse=True)
    starts, j = np.unique(start, return_inverse=True)
    n, m = len(ends), len(starts)
    offset = weight.max() + 1.0  # the same for every assignment: a stored zero would be no edge
    row = np.concatenate([i, np.arange(n), n + np.arange(m), n + j])
    column = np.concatenate([j, m + np.arange(n), np.arange(m), m + i])
    cost = np.concatenate([offset - weight, np.full(n + m + len(weight), offset)])
    got, to = min_weight_full_bipartite_matching(coo_array((cost, (row, column)), shape=(n + m, n + m)).tocsr())
    pairs = (got < n) & (to < m)
    key = i * m + j
    order = np.argsort(key)
    return np.sort(order[np.searchsorted(key[order], got[pairs] * m + to[pairs])])


def margins(end: np.ndarray, start: np.ndarray, weight: np.ndarray, chosen: np.ndarray, count: int) -> np.ndarray:
    """Least loss of total weight if a chosen pair is given up for nothing or for an exchange with another pair."""
    of_end, of_start = np.full(count, -1), np.full(count, -1)
    of_end[end[chosen]], of_start[start[chosen]] = chosen, chosen
    held = np.append(weight, 0.0)  # index -1: nothing
    key = end * count + start
    order = np.argsort(key)

    def of_pair(i: np.ndarray, j: np.ndarray) -> np.ndarray:
        at = np.minimum(np.searchsorted(key[order], i * count + j), len(key) - 1)
        return np.where(key[order][at] == i * count + j, weight[order][at], 0.0)

    result = weight.copy()
    other = np.setdiff1d(np.arange(len(end)), chosen)
    for mine, partner, mate in ((of_end[end[other]], of_start[start[other]], end), (of_start[start[other]], of_end[end[other]], start)):
        has = mine >= 0
        loser = partner >= 0
        spare = np.zeros(len(other))
        both = has & loser
        if mate is end:
            spare[both] = of_pair(end[partner[both]], start[mine[both]])
        else:
            spare[both] = of_pair(end[mine[both]], start[partner[both]])
        loss = held[mine] + held[partner] - weight[other] - spare
        np.minimum.at(result, mine[has], loss[has])
    return result[chosen]


def _gaps(table: Table) -> tuple[np.ndarray, np.ndarray]:
    """Detections on both sides of each gap of a chain."""
    last = np.flatnonzero(table.next >= 0)
    first = table.next[last]
    wide = table.rank[first] - table.rank[last] > 1
    return last[wide], first[wide]


def _merged(table: Table, motion: tuple[Motion, ...]) -> np.ndarray:
    """Detections that hide a second dislocation, which has a gap there."""
    last, first = _gaps(table)
    _, row = _covering(table, motion, last, first, np.flatnonzero(table.used))
    merged = np.zeros(table.size, bool)
    merged[row[row >= 0]] = True
    return merged


def _cut(table: Table, shared: np.ndarray) -> None:
    """Take merged detections out of their chains: they do not identify a dislocation."""
    follows = table.next >= 0
    follows[follows] = shared[table.next[follows]]
    table.next[follows | shared] = -1
    table.certainty[follows | shared] = np.inf
    table.used[shared] = False


def _takers(table: Table, motion: tuple[Motion, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Merged detections and the gaps of chains that they fill: row of the detection, row before the gap."""
    last, first = _gaps(table)
    pair, row = _covering(table, motion, last, first, np.flatnonzero(~table.used))
    return row[row >= 0], last[pair[row >= 0]]


def _given_back(table: Table, motion: tuple[Motion, ...]) -> bool:
    """Return detections that fewer than two chains share, and open the gaps that they fill; whether there are any."""
    row, before = _takers(table, motion)
    lone = ~table.used & (np.bincount(row, minlength=table.size) < 2)
    opened = before[lone[row]]
    table.next[opened] = -1
    table.certainty[opened] = np.inf
    table.used |= lone
    return bool(lone.any())


def _numbered(table: Table, motion: tuple[Motion, ...]) -> Links:
    """Numbers of the chains; merged detections get the numbers of the chains with a gap there."""
    rows, edge = table.chains()
    track, other = np.full(table.size, -1), np.full(table.size, -1)
    track[rows] = np.repeat(np.arange(len(edge) - 1), np.diff(edge))
    crowded = np.zeros(table.size, bool)
    for k, before in zip(*_takers(table, motion), strict=True):
        if track[k] < 0:
            track[k] = track[before]
        elif other[k] < 0:
            other[k] = track[before]
        else:
            crowded[k] = True
    return Links(track, other, crowded, table.certainty)
