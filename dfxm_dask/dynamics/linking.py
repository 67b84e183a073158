"""Detections to tracks: chains that grow from certain links to less certain ones, through merged images."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import min_weight_full_bipartite_matching

from dfxm_dask.dynamics.chains import Motion, evidence, first_motion, learnt_motion, messages
from dfxm_dask.dynamics.merged_images import (
    LONGEST,
    MEMBERS,
    Links,
    Table,
    between,
    bridge_variance,
    covering,
    cut,
    exchange,
    gaps,
    given_back,
    merged_images,
    numbered,
)
from dfxm_dask.reduction import Arrays

ROUNDS = ((1, 6.0), (1, 3.0), (8, 6.0), (LONGEST, 6.0), (LONGEST, 3.0), (LONGEST, 1.5), (LONGEST, 0.0))
"""Largest gap in frames and least margin (log evidence) of the links of each round (our choice)."""
DOUBT = 3.0
"""Margin below which a link is decided again in view of longer chains (our choice)."""
REPEATS = 2
"""Times that merged images are sought (our choice: the second search changes little)."""
FAR = 6.0
"""Standard deviations beyond which two detections are not compared."""
NEIGHBOURS = 8
"""Detections of the next frame that are compared with each one."""
BLOCK = 200_000
"""Pairs of chains compared at a time."""


def link(columns: Arrays) -> Links:
    """Chains of detections.

    Parameters
    ----------
    columns : dict of arrays (detection,)
        ``frame``, ``time`` s, ``y``, ``x`` um, ``noise_y``, ``noise_x`` um2, ``sign``, sorted by value.
    """
    table = Table(columns)
    motion = first_motion(columns, _nearest(table))
    if table.frames > 1:
        for window, margin in ROUNDS[:2]:
            motion = _round(table, motion, window, margin)
        motion = _rounds(table, motion, learn=True)
    if table.frames > 2:
        for _ in range(REPEATS):
            table.unlink(np.flatnonzero(table.certainty < DOUBT))
            motion = _rounds(table, motion)
            merged = merged_images(table, motion)
            if not merged.any():
                break
            cut(table, merged)
            motion = _rounds(table, motion)
            if given_back(table, motion):
                motion = _rounds(table, motion)
        exchange(table, motion)
        _trim(table, motion)
        exchange(table, motion)
    return numbered(table, motion)


def _nearest(table: Table) -> np.ndarray:
    """Pairs of detections of neighbouring frames that are nearest to each other, (pair, 2)."""
    ahead = table.spread_out(table.rank + 1, table.at)
    behind = table.spread_out(table.rank - 1, table.at)
    gap, there = table.tree.query(ahead, distance_upper_bound=table.apart / 2)
    _, back = table.tree.query(behind, distance_upper_bound=table.apart / 2)
    rows = np.flatnonzero(np.isfinite(gap))
    rows = rows[back[there[rows]] == rows]
    return np.stack([rows, there[rows]], axis=1)


def _rounds(table: Table, motion: tuple[Motion, ...], learn: bool = False) -> tuple[Motion, ...]:
    """The rounds with gaps; the motion is learnt before each of them, or only before the first."""
    for k, (window, margin) in enumerate(ROUNDS[2:]):
        motion = _round(table, motion, window, margin, learn or k == 0)
    return motion


def _round(
    table: Table, motion: tuple[Motion, ...], window: int, margin: float, learn: bool = True
) -> tuple[Motion, ...]:
    """Link the ends of chains to beginnings of other chains where the margin is large enough; learn from the result."""
    rows, edge = table.chains()
    if learn:
        motion = _learn(table, rows, edge, motion)
    end, start, weight = _candidates(table, rows, edge, motion, window)
    if len(end):
        keep = weight > 0
        end, start, weight = end[keep], start[keep], weight[keep]
        chosen = matching(end, start, weight)
        certain = margins(end, start, weight, chosen, len(edge) - 1)
        chosen = chosen[certain >= margin]
        last, first = rows[edge[1:] - 1], rows[edge[:-1]]
        table.next[last[end[chosen]]] = first[start[chosen]]
        table.certainty[last[end[chosen]]] = certain[certain >= margin]
        lasting = (np.diff(edge) >= MEMBERS).astype(np.int64)
        table.gain[last[end[chosen]]] = weight[chosen] - table.bonus[lasting[end[chosen]], lasting[start[chosen]]]
    return motion


def _learn(table: Table, rows: np.ndarray, edge: np.ndarray, motion: tuple[Motion, ...]) -> tuple[Motion, ...]:
    """Motion, rates of missed detections, of births and deaths, sign and resolution, from the chains."""
    length = np.diff(edge)
    if np.count_nonzero(length >= MEMBERS) == 0:
        return motion
    long = np.repeat(length >= MEMBERS, length)
    chain = np.repeat(np.arange(len(length)), length)
    inside = np.flatnonzero((np.diff(chain) == 0) & long[1:])
    holes = np.diff(table.rank[rows])[inside] - 1
    found = np.count_nonzero(long)
    table.missed = (holes[holes < 4].sum() + 1.0) / (found + holes[holes < 4].sum() + 20.0)
    lasting = length >= MEMBERS
    deaths = np.count_nonzero(lasting & (table.rank[rows[edge[1:] - 1]] < table.frames - 1)) + 1
    births = np.count_nonzero(lasting & (table.rank[rows[edge[:-1]]] > 0)) + 1
    others = np.count_nonzero(~lasting) + 1
    end = np.minimum(1.0, np.array([others / (length[~lasting].sum() + 1), deaths / found]))
    begin = np.minimum(1.0, np.array([others, births]) / table.frames)
    table.bonus = -np.log(end[:, None] * begin)
    sign = table.columns["sign"][rows]
    both = sign[inside] * sign[inside + 1]
    if np.count_nonzero(both) > 20:
        table.same_sign = float(np.clip(np.mean(both[both != 0] > 0), 0.5, 0.999))
    motion = learnt_motion(table.columns, rows, edge, motion)
    table.reach = _reach(table, motion, rows, edge)
    return motion


def _trim(table: Table, motion: tuple[Motion, ...]) -> None:
    """Open the first links of chains that begin beside the end of another chain, and link again: the first detection
    of this chain may be a false one."""
    rows, edge = table.chains()
    lasting = np.diff(edge) >= MEMBERS
    first, last = rows[edge[:-1]][lasting], rows[edge[1:] - 1][lasting]
    step = np.sqrt(np.array([2 * m.variance * -np.expm1(-table.frame / m.memory) for m in motion]))
    off = (table.at[first][:, None] - table.at[last]) / (FAR * step)
    late = table.rank[last] - table.rank[first][:, None]
    beside = ((off**2).sum(axis=2) < 1) & (late >= 0) & (late < MEMBERS)
    for k, j in zip(*np.nonzero(beside), strict=True):
        row = first[k]
        for _ in range(int(late[k, j]) + 1):
            row, opened = table.next[row], row
            table.unlink(np.array([opened]))
    _rounds(table, motion)


def _reach(table: Table, motion: tuple[Motion, ...], rows: np.ndarray, edge: np.ndarray) -> float:
    """Distance below which a second image is more often absent than found: gaps of chains against neighbours."""
    long = np.diff(edge) >= MEMBERS
    here = rows[np.repeat(long, np.diff(edge))]
    if not len(here):
        return 0.0
    spot = table.spread_out(table.rank[here], table.at[here])
    near = table._tree(here).query(spot, k=2, distance_upper_bound=table.apart / 2)[0][:, 1]
    first, last = rows[edge[:-1]][long], rows[edge[1:] - 1][long]
    first, last = first[table.rank[first] > 0], last[table.rank[last] < table.frames - 1]
    gap = gaps(table)
    _, rank, spot, loose = between(table, motion, *gap)
    loose_end = bridge_variance(table, motion, np.full(len(last) + len(first), table.frame), 1.0)
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
    near = _next_frame(table, first, last) if window == 1 else _in_window(table, first, last, window)
    none = np.zeros((2, 0), np.int64)  # every detection may be a merged image: then there is no chain
    pairs = [_reachable(table, motion, first, last, *some) for some in near]
    end, start = np.concatenate([none, *pairs], axis=1)
    time = table.columns["time"]
    gap = time[first[start]] - time[last[end]]
    lasting = (np.diff(edge) >= MEMBERS).astype(np.int64)
    weight = table.bonus[lasting[end], lasting[start]]
    for axis, m in zip(("y", "x"), motion, strict=True):
        states = messages(edge, time[rows], table.columns[axis][rows], table.columns["noise_" + axis][rows], m)
        weight += evidence(end, start, gap, states, m)
    if table.same_sign > 0.5:
        weight += _sign_evidence(table, rows, edge, end, start)
    keep = weight > 0
    end, start, weight = end[keep], start[keep], weight[keep]
    weight += _absence(table, motion, last[end], first[start])
    return end, start, weight


def _next_frame(table: Table, first: np.ndarray, last: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """Ends of chains, and the nearest beginnings in the next frame."""
    spot = table.spread_out(table.rank[last] + 1, table.at[last])
    near = table._tree(first).query(spot, k=NEIGHBOURS, distance_upper_bound=table.apart / 2)[1]
    end, which = np.nonzero(near < len(first))
    return [(end, near[end, which])]


def _in_window(
    table: Table, first: np.ndarray, last: np.ndarray, window: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Ends of chains, and beginnings at most ``window`` frames later, some at a time."""
    order = np.argsort(table.rank[first], kind="stable")
    low, high = (
        np.searchsorted(table.rank[first][order], table.rank[last] + ahead, side="right") for ahead in (0, window)
    )
    total = np.concatenate([[0], np.cumsum(high - low)])
    begin = 0
    while begin < len(last):
        stop = max(int(np.searchsorted(total, total[begin] + BLOCK, side="right")) - 1, begin + 1)
        count = (high - low)[begin:stop]
        end = np.repeat(np.arange(begin, stop), count)
        ahead = np.arange(len(end)) - np.repeat(total[begin:stop] - total[begin], count)
        yield end, order[ahead + np.repeat(low[begin:stop], count)]
        begin = stop


def _reachable(
    table: Table, motion: tuple[Motion, ...], first: np.ndarray, last: np.ndarray, end: np.ndarray, start: np.ndarray
) -> np.ndarray:
    """Those pairs of an end and a beginning that are not too far apart, (2, pair)."""
    gap = table.columns["time"][first[start]] - table.columns["time"][last[end]]
    near = np.zeros(len(end))
    for axis, m in zip(("y", "x"), motion, strict=True):
        noise = table.columns["noise_" + axis]
        spread = 2 * m.variance * -np.expm1(-gap / m.memory) + m.velocity * gap**2
        move = table.columns[axis][first[start]] - table.columns[axis][last[end]]
        near += move**2 / (spread + noise[first[start]] + noise[last[end]])
    return np.stack([end, start])[:, near < FAR**2]


def _sign_evidence(table: Table, rows: np.ndarray, edge: np.ndarray, end: np.ndarray, start: np.ndarray) -> np.ndarray:
    """Log evidence of one sign for both chains."""
    right = 0.5 + 0.5 * np.sqrt(2 * table.same_sign - 1)
    votes = np.add.reduceat(table.columns["sign"][rows], edge[:-1])
    positive = 1 / (1 + np.exp(-np.clip(votes * np.log(right / (1 - right)), -6, 6)))
    return np.log(2 * (positive[end] * positive[start] + (1 - positive[end]) * (1 - positive[start])))


def _absence(table: Table, motion: tuple[Motion, ...], last: np.ndarray, first: np.ndarray) -> np.ndarray:
    """Log probability that frames between two detections show none: missed, or hidden by another image."""
    pair, row = covering(table, motion, last, first, np.arange(table.size))
    cost = np.where(row >= 0, np.log(0.5), np.log(table.missed))
    return np.bincount(pair, cost, len(last))


def matching(end: np.ndarray, start: np.ndarray, weight: np.ndarray) -> np.ndarray:
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
    for mine, partner, mate in (
        (of_end[end[other]], of_start[start[other]], end),
        (of_start[start[other]], of_end[end[other]], start),
    ):
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
