"""Tables of detections of walking dislocations with their truth, and the scores of tracks, written independently."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from scipy.optimize import linear_sum_assignment

LOBE = np.array([0.4, 1.0])  # um, width of an image along y and x: closer images merge
NOISE = np.array([0.01, 0.031])  # um: 0.25 px of the preset


class Walks(NamedTuple):
    """Detections as a dict of columns, and the truth: positions (time, dislocation, yx), NaN outside the field."""

    table: dict[str, np.ndarray]
    path: np.ndarray
    time: np.ndarray
    overlapping: float
    owners: list[tuple[int, ...]]


def ou_path(rng: np.random.Generator, time: np.ndarray, rest: np.ndarray, spread: float, memory: float) -> np.ndarray:
    """Exact Ornstein–Uhlenbeck paths (time, dislocation, yx) about rest positions; memory in the unit of time."""
    path = np.empty((len(time), *rest.shape))
    off = rng.normal(0, spread, rest.shape)
    for k in range(len(time)):
        if k:
            stay = np.exp(-(time[k] - time[k - 1]) / memory)
            off = off * stay + spread * np.sqrt(1 - stay**2) * rng.normal(size=rest.shape)
        path[k] = rest + off
    return path


def rests(rng: np.random.Generator, count: int, field: np.ndarray, spacing: float) -> np.ndarray:
    """Rest positions at least ``spacing`` widths of an image apart; without room the width of the field grows."""
    made: list[np.ndarray] = []
    tries = 0
    while len(made) < count:
        tries += 1
        one = field * (0.15 + 0.7 * rng.uniform(size=2)) * (1, 1 + tries // 2000 * 0.2)
        if all(np.hypot(*((one - other) / LOBE)) >= spacing for other in made):
            made.append(one)
    return np.array(made).reshape(-1, 2)


def walks(
    seed: int,
    *,
    count: int = 13,
    frames: int = 800,
    spacing: float = 3.0,
    spread: float = 0.35,
    memory: float = 2.0,
    miss: float = 0.01,
    false: float = 0.05,
    velocity: float = 0.0,
    visits: float = 0.0,
    irregular: bool = False,
    dropped: float = 0.0,
    stated: float = 1.0,
    signs: bool = False,
    field: tuple[float, float] = (10.24, 31.6),
) -> Walks:
    """Detections of a movie. ``false`` per frame; ``visits``: share of dislocations that enter and leave; ``dropped``:
    share of frames without any detection; ``stated``: stated over true error."""
    rng = np.random.default_rng(seed)
    size = np.array(field)
    step = rng.uniform(0.1, 0.4, frames) if irregular else np.full(frames, 0.25)
    time = np.cumsum(step) - step[0]
    path = ou_path(rng, time, rests(rng, count, size, spacing), spread, memory)
    path += velocity * rng.normal(size=(count, 2)) * time[:, None, None]
    for k in np.flatnonzero(rng.uniform(size=count) < visits):
        first, last = np.sort(rng.integers(0, frames, 2))
        path[:first, k], path[last + 1 :, k] = np.nan, np.nan
    path[rng.uniform(size=frames) < dropped] = np.nan
    bright = rng.uniform(0.8, 1.2, count)
    sign = np.where(np.arange(count) % 2, -1, 1)
    rows: list[tuple[float, ...]] = []
    owners: list[tuple[int, ...]] = []
    overlapping = 0
    for f in range(frames):
        here = np.flatnonzero(np.isfinite(path[f, :, 0]))
        groups = clusters(path[f, here] / LOBE, 1.0)
        overlapping += any(len(g) > 1 for g in groups)
        for group in groups:
            who = here[group]
            if rng.uniform() < miss:
                continue
            noise = NOISE * (1 + (len(who) > 1))
            y, x = np.average(path[f, who], axis=0, weights=bright[who]) + rng.normal(0, noise)
            seen = int(sign[who].sum()) if signs else 0
            rows.append((f, time[f], y, x, *(noise * stated), bright[who].sum(), np.sign(seen)))
            owners.append(tuple(int(k) for k in who))
        for _ in range(rng.poisson(false) if len(here) or not count else 0):
            rows.append((f, time[f], *(size * rng.uniform(size=2)), *(NOISE * stated), 0.7, 0))
            owners.append(())
    order = sorted(range(len(rows)), key=lambda k: (rows[k][0], rows[k][2], rows[k][3]))
    columns = np.array([rows[k] for k in order]).reshape(-1, 8).T
    names = ("frame", "time", "y", "x", "y_error", "x_error", "amplitude", "sign")
    table = dict(zip(names, columns, strict=True))
    table |= {n: table[n].astype(np.int64) for n in ("frame", "sign")}
    return Walks(table, path, time, overlapping / frames, [owners[k] for k in order])


def clusters(points: np.ndarray, reach: float) -> list[list[int]]:
    """Groups of points connected by distances below ``reach``."""
    left, groups = set(range(len(points))), []
    near = np.hypot(*(points[:, None] - points[None]).transpose(2, 0, 1)) < reach
    while left:
        todo, group = [min(left)], []
        left -= set(todo)
        while todo:
            k = todo.pop()
            group.append(k)
            more = {int(n) for n in np.flatnonzero(near[k])} & left
            left -= more
            todo += sorted(more)
        groups.append(sorted(group))
    return groups


def scores(walks: Walks, track: np.ndarray, other: np.ndarray | None = None) -> dict[str, Any]:
    """MOTA, IDF1 and identity switches (CLEAR MOT; Ristani et al. 2016). A merged detection counts for both of its
    tracks; a position matches within one width of an image."""
    table = walks.table
    rows = np.concatenate([np.flatnonzero(track >= 0)] + ([np.flatnonzero(other >= 0)] if other is not None else []))
    names = np.concatenate([track[track >= 0]] + ([other[other >= 0]] if other is not None else []))
    frames, count = walks.path.shape[:2]
    together = np.zeros((count, int(names.max(initial=-1)) + 1))
    last: dict[int, int] = {}
    switches = missed = false = 0
    place = np.stack([table["y"], table["x"]], axis=1)[rows]
    order = np.argsort(table["frame"][rows], kind="stable")
    edge = np.searchsorted(table["frame"][rows][order], np.arange(frames + 1))
    for f in range(frames):
        mine = order[edge[f] : edge[f + 1]]
        here = np.flatnonzero(np.isfinite(walks.path[f, :, 0]))
        far = np.hypot(*((walks.path[f, here][:, None] - place[mine][None]) / LOBE).transpose(2, 0, 1))
        close = far < 1
        for a, b in zip(*np.nonzero(close), strict=True):
            together[here[a], names[mine[b]]] += 1
        cost = np.where(close, far, 1e3)
        for a, k in enumerate(here):  # a match of the frame before has priority
            for b, m in enumerate(mine):
                cost[a, b] -= 10 * (close[a, b] and last.get(int(k)) == names[m])
        pairs = [(a, b) for a, b in zip(*linear_sum_assignment(cost), strict=True) if close[a, b]]
        for a, b in pairs:
            k, name = int(here[a]), int(names[mine[b]])
            switches += last.get(k, name) != name
            last[k] = name
        missed += len(here) - len(pairs)
        false += len(mine) - len(pairs)
    truth = int(np.isfinite(walks.path[..., 0]).sum())
    shared = together[linear_sum_assignment(-together)].sum()
    return {
        "mota": 1 - (missed + false + switches) / max(truth, 1),
        "idf1": 2 * shared / max(truth + len(rows), 1),
        "switches": switches,
        "missed": missed,
        "false": false,
        "tracks": len(np.unique(names)),
    }
