"""Whether points support a plane: against its parameters, the space beside it, and chance meetings of two lines."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit
from scipy.spatial import ConvexHull

from dfxm_dask.boundaries.planes.mixture import Mixture, probabilities
from dfxm_dask.boundaries.planes.plane import in_plane
from dfxm_dask.boundaries.planes.sums import cell_numbers

IMAGE_WIDTH = 1.0  # um: points closer than the width of a dislocation's image are one observation
SURE = 5.0
"""Standard deviations by which a plane must contain more than the space beside it (our choice)."""

REST = 0.2
"""Least fraction of a wall's points outside its two heaviest lines. Any two dislocations that nearly meet span a plane;
only the third tests it, and of three equal lines it contains a third (our choice)."""
LINE = 1.5  # um: half width of a line's image in that test


@njit(nogil=True, cache=True)
def heaviest_line(u, v, weights, angles, width):
    """Direction and position across of the strip of twice the width that contains the largest weight."""
    best, at, across = -1.0, 0.0, 0.0
    reach = 0.0
    for i in range(u.size):
        reach = max(reach, np.sqrt(u[i] * u[i] + v[i] * v[i]))
    step = width / 2
    bins = int(2 * reach / step) + 6
    profile = np.empty(bins)
    for a in range(angles.size):
        c, s = np.cos(angles[a]), np.sin(angles[a])
        profile[:] = 0
        for i in range(u.size):
            profile[int((u[i] * s - v[i] * c + reach) / step)] += weights[i]
        for b in range(bins - 3):
            held = profile[b] + profile[b + 1] + profile[b + 2] + profile[b + 3]
            if held > best:
                best, at, across = held, angles[a], (b + 2) * step - reach
    return at, across


class Excess(NamedTuple):
    """Weight within a plane and beside it, over the same patch and equal thickness, each in independent observations.

    Attributes
    ----------
    inside, beside : float
        Within two standard deviations, and in the fuller of the two slabs that begin one deviation farther out.
    rest_inside, rest_beside : float
        The same without the strips of the two heaviest lines of the plane.
    """

    inside: float
    beside: float
    rest_inside: float
    rest_beside: float


def excess(points: np.ndarray, weights: np.ndarray, model: Mixture, plane: int) -> Excess:
    """Weight of a plane in excess of the space beside it.

    Parameters
    ----------
    points, weights : array (point, xyz), um, and (point,)
    model : Mixture
    plane : int

    Returns
    -------
    Excess
        All 0 if fewer than ten points, or points on one line, belong to the plane.
    """
    share = probabilities(points, model)
    mine = share[:, plane] > 0.5
    axes = in_plane(model.planes.normal[plane])
    flat = (points - model.planes.origin[plane]) @ axes.T
    if np.count_nonzero(mine) < 10 or np.linalg.matrix_rank(flat[mine] - flat[mine][0], tol=LINE) < 2:
        return Excess(0.0, 0.0, 0.0, 0.0)
    hull = ConvexHull(flat[mine]).equations
    distance = (points - model.planes.origin[plane]) @ model.planes.normal[plane] / model.planes.sigma[plane]
    near = np.flatnonzero(np.abs(distance) < 7)
    near = near[(flat[near] @ hull[:, :2].T + hull[:, 2] <= 1e-9).all(axis=1)]
    distance, flat = distance[near], flat[near]
    # Points of other planes are neither on this one nor beside it.
    left = weights[near] * (share[near, plane] + np.maximum(1 - share[near].sum(axis=1), 0))
    slabs = [np.abs(distance) < 2, (distance >= 3), (distance <= -3)]
    single = [min(1.0, observations(points[near[s]], left[s])) for s in slabs]
    full = [left[s].sum() * single[0] for s in slabs]
    inside = slabs[0]
    rest = np.ones(len(near), bool)
    for _ in range(2):
        angle, across = heaviest_line(*flat[inside & rest].T, left[inside & rest], np.deg2rad(np.arange(180.0)), LINE)
        rest &= np.abs(flat[:, 0] * np.sin(angle) - flat[:, 1] * np.cos(angle) - across) > LINE
        if not (inside & rest).any():
            break
    others = [left[s & rest].sum() * single[0] for s in slabs]
    return Excess(full[0], max(full[1:]), others[0], max(others[1:]))


def observations(points: np.ndarray, weights: np.ndarray) -> float:
    """Independent observations per weight of points: those within 1 um of each other are one image of one line."""
    return len(np.unique(cell_numbers(points, IMAGE_WIDTH))) / float(weights.sum()) if len(points) else 1.0


def worth(points: np.ndarray, weights: np.ndarray, model: Mixture, plane: int, gain: float) -> tuple[float, str]:
    """Gain of likelihood by one plane of a model minus the cost of its parameters, and the reason if unsupported.

    Parameters
    ----------
    points, weights : array (point, xyz), um, and (point,)
    model : Mixture
    plane : int
    gain : float
        Logarithm of the likelihood with the plane over that of the best model without it.

    Returns
    -------
    worth : float
        Positive if the points support the plane.
    reason : str
        Empty if the points support the plane, otherwise why not.
    """
    mine = probabilities(points, model)[:, plane] > 0.5
    if np.count_nonzero(mine) < 10:
        return -np.inf, "fewer than ten points"
    effective = min(1.0, observations(points[mine], weights[mine]))
    cells = len(np.unique(cell_numbers(points[mine], model.edge)))
    bins = np.ptp(points, axis=0).max() / model.planes.sigma[plane]
    count = max(len(points) * effective, 3.0)
    value = effective * gain - 0.5 * (4 + cells) * np.log(count) - 3 * np.log(max(bins, 3.0))
    if value <= 0:
        return value, "the plane explains no more than its parameters cost"
    balance = excess(points, weights, model, plane)
    if balance.inside - balance.beside < SURE * np.sqrt(balance.inside + balance.beside):
        return -1.0, "as many points beside the plane as on it"
    rest = balance.rest_inside - balance.rest_beside
    if rest < REST * (balance.inside - balance.beside) or rest < balance.rest_beside:
        return -1.0, "two lines contain its points"
    return value, ""
