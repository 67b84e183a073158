"""Segments united to regions where the orientation does not step between them, the faintest boundary first."""

from __future__ import annotations

from heapq import heapify, heappop, heappush

import numpy as np


def merged(
    pair: np.ndarray,
    area: np.ndarray,
    weight: np.ndarray,
    step: np.ndarray,
    volume: np.ndarray,
    threshold: float,
    depth: float,
) -> np.ndarray:
    """Number of the region of each segment.

    Parameters
    ----------
    pair : array (contact, 2), int
        Segments that touch, from 0; a pair may occur several times.
    area : array (contact,), um2
        Area of the contact.
    weight : array (contact,)
        Weight of its step: the sum of all parts of the contact.
    step : array (contact, axis), degree
        Step from the first to the second segment, times the weight.
    volume : array (segment,), um3
    threshold : float, degree
        Least step between two regions.
    depth : float, um
        Depth from which the step alone counts; the square of the step between shallower regions counts in proportion
        to their depth.

    Returns
    -------
    array (segment,), int64
        From 0, in order of the first segment of each region.

    Notes
    -----
    Two regions of volumes U and V with the contact area A and the mean step s are united while::

        s² min(U V / ((U + V) A), depth) < threshold² depth

    The pair with the smallest left side is united first; of equal pairs, the one with the lowest numbers. The step is
    the mean over the whole contact with its sign, so that noise averages out and a wall does not. The order and the
    depth follow the merging of Koepfler, Lopez and Morel for piecewise constant images, whose left side has the
    difference of the means in place of the step at the boundary: gradual bending increases that, not this one.

    Examples
    --------
    >>> pair, one = np.array([[0, 1], [1, 2]]), np.ones(2)
    >>> merged(pair, one, one, np.array([[0.1], [3.0]]), np.ones(3), 1.0, 0.5).tolist()
    [0, 0, 1]
    """
    beside: list[dict[int, np.ndarray]] = [{} for _ in volume]
    for (a, b), *first in zip(pair.tolist(), area.tolist(), weight.tolist(), step.tolist(), strict=True):
        if a != b:
            known = np.array([first[0], first[1], *first[2]])
            beside[a][b] = beside[a].get(b, 0.0) + known
            beside[b][a] = beside[a][b] * _back(known)
    parent, size, version = np.arange(len(volume)), volume.astype(np.float64), [0] * len(volume)

    def entry(a: int, b: int) -> tuple[float, int, int, int, int]:
        low, high = min(a, b), max(a, b)
        edge = beside[low][high]
        both = float(size[low] + size[high]) * edge[0]
        deep = min(float(size[low] * size[high]) / both, depth) if both > 0 else 0.0
        square = float((edge[2:] ** 2).sum() / edge[1] ** 2) if edge[1] > 0 else np.inf
        return square * deep / depth, low, high, version[low], version[high]

    heap = [entry(a, b) for a in range(len(size)) for b in beside[a] if a < b]
    heapify(heap)
    while heap and heap[0][0] < threshold**2:
        _, a, b, first_version, second_version = heappop(heap)
        if parent[a] != a or parent[b] != b or (version[a], version[b]) != (first_version, second_version):
            continue
        parent[b] = a
        size[a] += size[b]
        version[a] += 1
        del beside[a][b]
        for other, edge in beside[b].items():
            if other != a:
                beside[a][other] = beside[a].get(other, 0.0) + edge
                beside[other][a] = beside[a][other] * _back(edge)
                del beside[other][b]
        beside[b] = {}
        for other in beside[a]:
            heappush(heap, entry(a, other))
    for n in range(len(parent)):  # a region has a lower number than its later parts
        parent[n] = parent[parent[n]]
    return np.unique(parent, return_inverse=True)[1].astype(np.int64)


def _back(edge: np.ndarray) -> np.ndarray:
    """Factors of a contact seen from its other side."""
    return np.where(np.arange(len(edge)) < 2, 1.0, -1.0)
