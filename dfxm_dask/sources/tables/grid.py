"""From positions in a table, one for each frame, to the grid of a scan.

Rows may have any order, and positions may have some noise of the readback. Positions of an axis form groups of equal
size, whose distance exceeds the scatter within a group. A grid is complete if every combination of groups has the same
number of frames, which is the number of repeats.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from dfxm_dask.errors import SourceError

WITHIN = 0.25  # largest scatter of a group, as a fraction of the least gap between groups
LEAST_GAP = 0.05  # fraction of the mean gap: closer positions are not separate
MOST_AXES = 2
EVEN = 0.5  # least over mean distance of nearly even positions
LISTED = 4


@dataclass(frozen=True)
class Grid:
    """Grid position of each frame.

    Parameters
    ----------
    motors : tuple of str
        Scanned columns, slow first.
    index : tuple of ndarray, (frame,), int64
        Index of each frame along each motor, in the direction of its first row.
    shape : tuple of int
    repeat : ndarray, (frame,), int64
        Number of earlier frames at the same position.
    repeats : int
        Frames at each position.
    along : tuple of str
        Other columns that change together with the motors.
    sorted : bool
        Whether frames are sorted by position, because an axis does not run in one direction.
    """

    motors: tuple[str, ...]
    index: tuple[np.ndarray, ...]
    shape: tuple[int, ...]
    repeat: np.ndarray
    repeats: int
    along: tuple[str, ...]
    sorted: bool


def groups(values: np.ndarray) -> np.ndarray | None:
    """Group of each value, ascending; None unless values form well-separated groups of equal size."""
    total = len(values)
    ordered = np.sort(values)
    gaps = np.diff(ordered)
    place = np.empty(total, np.int64)
    place[np.argsort(values, kind="stable")] = np.arange(total)
    for number in range(total, 1, -1):
        if total % number:
            continue
        size = total // number
        parts = ordered.reshape(number, size)
        spread = float(np.ptp(parts, axis=1).max())
        apart = float((parts[1:, 0] - parts[:-1, -1]).min())
        if apart > 0 and spread <= WITHIN * apart and (size > 1 or apart >= LEAST_GAP * float(gaps.mean())):
            return place // size
    return None


def grid(columns: Mapping[str, np.ndarray], held: Mapping[str, float], asked: str) -> Grid:
    """The grid of positions.

    Parameters
    ----------
    columns : mapping of name to ndarray, (frame,)
        Positions of all possible scan motors.
    held : mapping of name to float
        Scatter of a motor at rest.
    asked : str
        Name of the scan, for error messages.

    Raises
    ------
    SourceError
        No complete grid, or more axes than a store supports.
    """
    total = len(next(iter(columns.values())))
    spans = {name: float(np.ptp(v)) / held[name] for name, v in columns.items()}
    varied = {name: v for name, v in columns.items() if spans[name] > 0}
    found = {name: place for name, v in varied.items() if (place := groups(v)) is not None}
    even = {name: min(_evenness(varied[name], place), EVEN) for name, place in found.items()}
    # A drifting motor has as many positions as frames, at uneven distances.
    moved = {name: v for name, v in varied.items() if spans[name] > 1 or even.get(name) == EVEN} or varied
    names = sorted((name for name in found if name in moved), key=lambda name: -spans[name])
    for repeats in range(1, total + 1):
        if total % repeats:
            continue
        fitting = (c for n in range(1, MOST_AXES + 2) for c in combinations(names, n))
        for chosen in sorted(fitting, key=lambda c: -min(even[name] for name in c)):
            shape = tuple(int(found[name].max()) + 1 for name in chosen)
            if np.prod(shape) * repeats != total:
                continue
            cell = np.ravel_multi_index([found[name] for name in chosen], shape)
            if (np.bincount(cell, minlength=int(np.prod(shape))) == repeats).all():
                if len(chosen) > MOST_AXES:
                    raise SourceError(
                        asked,
                        f"scans {len(chosen)} motors: {', '.join(chosen)}",
                        f"put the rows of {MOST_AXES} of them into a separate table",
                    )
                return _ordered(chosen, found, moved, held, cell, repeats)
    raise _incomplete(columns, moved, asked)


def _evenness(values: np.ndarray, place: np.ndarray) -> float:
    """Least distance of neighbouring positions over their mean distance."""
    steps = np.diff(np.bincount(place, weights=values) / np.bincount(place))
    return float(steps.min() / steps.mean())


def _ordered(
    chosen: tuple[str, ...],
    found: Mapping[str, np.ndarray],
    moved: Mapping[str, np.ndarray],
    held: Mapping[str, float],
    cell: np.ndarray,
    repeats: int,
) -> Grid:
    """Axes, slow first, each in its own direction, and the number of each repeat."""
    motors = sorted(chosen, key=lambda name: int(np.count_nonzero(np.diff(found[name]))))
    index, straight = [], []
    for name in motors:
        places = found[name]
        steps = np.diff(places)
        ahead, back = int((steps == 1).sum()), int((steps == -1).sum())
        down = back > ahead or (back == ahead and places[0] > places[-1])
        index.append(places.max() - places if down else places)
        straight.append(_runs(index[-1], len(motors) > 1))
    repeat = np.zeros(len(cell), np.int64)
    seen: dict[int, int] = {}
    for k, place in enumerate(cell.tolist()):
        repeat[k] = seen.get(place, 0)
        seen[place] = int(repeat[k]) + 1
    along = tuple(name for name, v in moved.items() if name not in chosen and float(np.ptp(v)) > held[name])
    shape = tuple(int(place.max()) + 1 for place in index)
    return Grid(tuple(motors), tuple(index), shape, repeat, repeats, along, not all(straight))


def _runs(index: np.ndarray, rows: bool) -> bool:
    """Whether an index increases step by step, repeatedly; rows may also alternate."""
    steps = np.diff(index)
    back = steps == -index.max()
    return bool(((steps == 0) | (steps == 1) | back | ((steps == -1) & rows)).all())


def _incomplete(columns: Mapping[str, np.ndarray], moved: Mapping[str, np.ndarray], asked: str) -> SourceError:
    if not moved:
        return SourceError(
            asked,
            f"has no moving motor among {', '.join(columns)}",
            "set the scanned column with --motor COLUMN=phi",
        )
    total = len(next(iter(moved.values())))
    together = np.stack(list(moved.values()), axis=1)
    _, first, number = np.unique(together, axis=0, return_index=True, return_counts=True)
    if (number > 1).any() and len(set(number.tolist())) > 1:
        rows = [np.flatnonzero((together == together[k]).all(axis=1)) + 1 for k in first[number == number.max()]]
        places = "; ".join(", ".join(map(str, some)) for some in rows[:LISTED])
        fault = f"rows {places} have the same positions, while other positions have fewer rows"
        return SourceError(asked, fault, "remove the repeated rows, or add the missing rows")
    told = ", ".join(f"{name} ({_levels(v)} positions)" for name, v in moved.items())
    return SourceError(
        asked,
        f"the {total} rows do not form a complete grid of {told}",
        "add the missing rows, or remove the incomplete row of the grid",
    )


def _levels(values: np.ndarray) -> int:
    """Number of separate positions."""
    gaps = np.diff(np.sort(values))
    return int((gaps > WITHIN * gaps.max()).sum()) + 1
