"""A mixture of planes and a uniform background: fit steps from sums that are exact for any division into blocks."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numba import njit
from scipy.special import ndtr

from dfxm_dask.boundaries.planes.plane import STEPS, Planes, checked_points
from dfxm_dask.boundaries.planes.sums import (
    FINE,
    add_point,
    cell_centres,
    cell_numbers,
    cells_of,
    planes_of_sums,
    refuse_overflow,
)
from dfxm_dask.errors import InputError

CELL = 12.0
"""Edge in um of the cells in which shares of the planes are counted: about three spacings of dislocations, so that a
plane fills the cells that it crosses (our choice)."""

PSEUDO = 0.5  # points that every plane and the background have in each cell a priori (our choice)


class Mixture(NamedTuple):
    """Planes, and the share of each in every cell.

    Attributes
    ----------
    planes : Planes
    cells : array (cell,), int64
        Numbers of the cells that have points, ascending.
    shares : array (cell, 1 + plane), float64
        Fraction of the points of a cell in the background (first) and on each plane; the fractions add up to 1.
    centre : array (xyz,), float64, um
        Origin of coordinates in sums.
    edge : float, um
        Edge of a cell.
    ends : array (end, 5), float64
        Where planes end: number of the plane, unit vector (xyz) into it from a line, and the position of that line
        along the vector, um. Empty at first; see :func:`~dfxm_dask.boundaries.planes.plane_search.with_ends`.
    layer : float, um
        Distance of layers: a point represents half this distance above and below.
    """

    planes: Planes
    cells: np.ndarray
    shares: np.ndarray
    centre: np.ndarray
    edge: float
    ends: np.ndarray = np.zeros((0, 5))
    layer: float = 0.0


class Statistics(NamedTuple):
    """Sums over points for one step of the fit; the statistics of parts add up exactly.

    Attributes
    ----------
    sums : array (plane, 10), int64
        Sums over the points of r, r x, r y, r z and r times xx, xy, xz, yy, yz, zz, in 1/65536, with r the probability
        of a point to lie on the plane times its weight.
    cells : array (cell,), int64
    masses : array (cell, 1 + plane), int64
        Sums of weight times probability in every cell.
    likelihood : int
        Sum of weight times the logarithm of the density over that of the background, in 1/65536.
    """

    sums: np.ndarray
    cells: np.ndarray
    masses: np.ndarray
    likelihood: int


def cell_shares(model: Mixture, cells: np.ndarray) -> np.ndarray:
    """Shares in cells; cells that are not in the model are mostly background.

    Returns
    -------
    array (cell, 1 + plane), float64
    """
    count = len(model.planes.sigma)
    if not len(model.cells):
        return _unknown(len(cells), count)
    index = np.minimum(np.searchsorted(model.cells, cells), len(model.cells) - 1)
    present = model.cells[index] == cells
    return np.where(present[:, None], model.shares[index], _unknown(1, count))


def _unknown(cells: int, planes: int) -> np.ndarray:
    """Shares in cells without information."""
    shares = np.full((cells, 1 + planes), min(0.02, 0.5 / max(planes, 1)))
    shares[:, 0] = 1 - shares[:, 1:].sum(axis=1)
    return shares


def cell_densities(planes: Planes, cells: np.ndarray, edge: float) -> np.ndarray:
    """Density of a plane at distance 0 in a cell that it crosses, over that of the background.

    Parameters
    ----------
    planes : Planes
    cells : array (cell,), int64
    edge : float, um

    Returns
    -------
    array (cell, plane), float64
        V / (sqrt(2 pi) sigma A), with A the area of the plane in the cell, softened by sigma; 0 if no part of the plane
        is within 6 sigma of the cell.

    Notes
    -----
    Without A, a plane that crosses cells obliquely would get too many points, and any cloud would gain by such planes.
    The integral of the Gaussian over a cell is exact along the axis nearest to the normal, and the mean over 8 × 8
    lines along it. If a plane only cuts a corner off a cell, A is at least a quarter of a face.
    """
    density = np.zeros((len(cells), len(planes.sigma)))
    centres = cell_centres(cells, edge)
    middle = (np.arange(8) + 0.5) / 8 - 0.5
    for k in range(len(planes.sigma)):
        normal, sigma = planes.normal[k], planes.sigma[k]
        distance = (centres - planes.origin[k]) @ normal
        near = np.flatnonzero(np.abs(distance) < edge * np.abs(normal).sum() / 2 + 6 * sigma)
        steep = int(np.argmax(np.abs(normal)))
        a, b = normal[[j for j in range(3) if j != steep]] * edge
        half = abs(normal[steep]) * edge / 2
        at = distance[near, None] + (middle[:, None] * a + middle * b).reshape(1, -1)
        mean = (ndtr((at + half) / sigma) - ndtr((at - half) / sigma)).mean(axis=1) / (2 * half)
        density[near, k] = 1 / (np.maximum(mean, 0.25 / edge) * np.sqrt(2 * np.pi) * sigma)
    return density


@njit(nogil=True, cache=True)
def _probabilities(point, planes, dense, shares, probability):
    """Probability of each plane at a point; returns the density over that of the background with share 1."""
    normals, offsets, sigmas, ends = planes
    total = shares[0]
    for k in range(sigmas.size):
        d = normals[k, 0] * point[0] + normals[k, 1] * point[1] + normals[k, 2] * point[2] - offsets[k]
        u = d / sigmas[k]
        probability[k] = 0.0
        if abs(u) < 6.0:
            probability[k] = shares[k + 1] * dense[k] * np.exp(-0.5 * u * u)
            for e in range(ends.shape[0]):
                if ends[e, 0] == k:
                    inward = ends[e, 1] * point[0] + ends[e, 2] * point[1] + ends[e, 3] * point[2] - ends[e, 4]
                    probability[k] *= 0.5 * math.erfc(-inward / sigmas[k] * 0.7071067811865476)
        total += probability[k]
    for k in range(sigmas.size):
        probability[k] /= total
    return total


@njit(nogil=True, cache=True)
def _add_expected(points, weights, cell, shares, dense, planes, centre, sums, masses):
    """One expectation step with integer sums, whose order has no influence. Returns the likelihood."""
    probability = np.empty(sums.shape[0])
    likelihood = np.int64(0)
    for i in range(points.shape[0]):
        c = cell[i]
        density = _probabilities(points[i], planes, dense[c], shares[c], probability)
        likelihood += np.int64(np.rint(FINE * weights[i] * np.log(density)))
        x, y, z = points[i, 0] - centre[0], points[i, 1] - centre[1], points[i, 2] - centre[2]
        left = weights[i]
        for k in range(probability.size):
            r = weights[i] * probability[k]
            if r < 1e-6:
                continue
            left -= r
            masses[c, k + 1] += np.int64(np.rint(FINE * r))
            add_point(sums[k], r, x, y, z)
        masses[c, 0] += np.int64(np.rint(FINE * left))
    return likelihood


@njit(nogil=True, cache=True)
def _all_probabilities(points, cell, shares, dense, planes, found):
    """Probabilities of each plane at all points."""
    for i in range(points.shape[0]):
        _probabilities(points[i], planes, dense[cell[i]], shares[cell[i]], found[i])


class Distances(NamedTuple):
    """Planes for compiled code: distance n·r - offset in units of sigma, and ends."""

    normals: np.ndarray
    offsets: np.ndarray
    sigmas: np.ndarray
    ends: np.ndarray


def _constants(model: Mixture, cells: np.ndarray) -> tuple[np.ndarray, np.ndarray, Distances]:
    """Shares and densities of the planes in cells, and their distances."""
    planes = model.planes
    offsets = (planes.normal * planes.origin).sum(axis=1)
    distances = Distances(np.ascontiguousarray(planes.normal), offsets, np.ascontiguousarray(planes.sigma), model.ends)
    return cell_shares(model, cells), cell_densities(planes, cells, model.edge), distances


def plane_statistics(
    points: np.ndarray, weights: np.ndarray, model: Mixture, indexed: tuple[np.ndarray, np.ndarray] | None = None
) -> Statistics:
    """Sums over points of one block for the next step of the fit.

    Parameters
    ----------
    points : array (point, xyz), um
        From :func:`~dfxm_dask.boundaries.planes.plane.checked_points`.
    weights : array (point,)
    model : Mixture
    indexed : (array (cell,), array (point,)), optional
        Numbers of the cells and the index of each point's cell, if they are known from the previous step.

    Returns
    -------
    Statistics

    Raises
    ------
    InputError
        Points whose number and distance could make a sum overflow.
    """
    cells, index = cells_of(points, model.edge) if indexed is None else indexed
    refuse_overflow(points, model.centre)
    planes = len(model.planes.sigma)
    sums, masses = np.zeros((planes, 10), np.int64), np.zeros((len(cells), 1 + planes), np.int64)
    likelihood = _add_expected(points, weights, index, *_constants(model, cells), model.centre, sums, masses)
    return Statistics(sums, cells, masses, int(likelihood))


def refined(statistics: Statistics, model: Mixture, thickest: float = 1.0) -> Mixture:
    """The model after one step of the fit (EM).

    Parameters
    ----------
    statistics : Statistics
        Of all points under ``model``.
    model : Mixture
    thickest : float, um
        Largest standard deviation of a plane: without a limit a plane would become a slab that contains everything.

    Returns
    -------
    Mixture

    Notes
    -----
    A point in cell c belongs to the background with share s_c0, or to plane k, with share s_ck, at a Gaussian distance.
    Its density relative to that of the background is (:func:`cell_densities`)::

        s_c0 + Σ_k s_ck D_ck exp(−distance² / 2 sigma_k²)

    So a plane exists where its cells have a share, and ends where they do not. Each step increases the sum of the
    logarithms (Dempster, Laird and Rubin, J. R. Stat. Soc. B 39, 1 (1977)), except for the half point a priori of every
    share, and for small changes of the areas.
    """
    planes = planes_of_sums(statistics.sums, model.centre, thickest)
    lost = ~(planes.mass > 1e-3)
    if lost.any():  # a plane without points stays unchanged; the caller removes it
        old = model.planes
        planes = Planes(
            np.where(lost[:, None], old.normal, planes.normal),
            np.where(lost[:, None], old.origin, planes.origin),
            np.where(lost, old.sigma, planes.sigma),
            planes.mass,
        )
    masses = statistics.masses / FINE + PSEUDO
    shares = masses / masses.sum(axis=1, keepdims=True)
    return Mixture(planes, statistics.cells, shares, model.centre, model.edge, model.ends, model.layer)


def layer_spread(normal: np.ndarray, layer: float) -> np.ndarray:
    """Standard deviation across planes due to the height of a layer, (plane,), um."""
    return np.asarray(np.abs(normal[..., 2]) * layer / np.sqrt(12))


def settled_shares(points: np.ndarray, weights: np.ndarray, model: Mixture, steps: int = 8) -> Mixture:
    """Fit shares and spreads of the planes while their normals and positions are fixed."""
    indexed = cells_of(points, model.edge)
    for _ in range(steps):
        statistics = plane_statistics(points, weights, model, indexed)
        new = refined(statistics, model)
        # The points of a fixed plane may be displaced to one side.
        off = ((new.planes.origin - model.planes.origin) * model.planes.normal).sum(axis=1)
        sigma = np.minimum(np.hypot(new.planes.sigma, np.clip(off, -0.6, 0.6)), 1.0)
        model = new._replace(planes=model.planes._replace(sigma=sigma, mass=new.planes.mass))
    return model


def started(points: np.ndarray, planes: Planes, edge: float = CELL, share: float = 0.3, layer: float = 0.0) -> Mixture:
    """A model in which every plane has the same share in all cells that have points.

    Raises
    ------
    InputError
        Cells that are not at least 1 um wide.
    """
    if not edge >= 1:
        raise InputError("mixture of planes: edge of a cell", f"is {edge!r} um", "give 1 um or more")
    cells = np.unique(cell_numbers(points, edge))
    count = len(planes.sigma)
    shares = np.full((len(cells), 1 + count), share / max(count, 1))
    shares[:, 0] = 1 - shares[:, 1:].sum(axis=1)
    low, high = (points.min(axis=0), points.max(axis=0)) if len(points) else (np.zeros(3), np.zeros(3))
    return Mixture(planes, cells, shares, np.rint((low + high) / 2 * STEPS) / STEPS, float(edge), layer=layer)


def fitted(
    points: np.ndarray,
    weights: np.ndarray | None,
    model: Mixture,
    *,
    steps: int = 40,
    close: float = 1e-4,
    thickest: float = 1.0,
) -> tuple[Mixture, float]:
    """Fit the model by repeated steps.

    Parameters
    ----------
    points : array (point, xyz), um
    weights : array (point,), optional
    model : Mixture
        Initial model, for example from :func:`started`.
    steps : int
        Largest number of steps.
    close : float
        Stop if no normal moves by more (rad) and no origin along its normal (um).
    thickest : float, um
        See :func:`refined`.

    Returns
    -------
    model : Mixture
    gain : float
        Sum of the logarithms of the density over that of the background, for the model before the last step.

    Raises
    ------
    InputError
        See :func:`~dfxm_dask.boundaries.planes.plane.checked_points` and :func:`plane_statistics`.

    Notes
    -----
    For points in parts, alternate between adding the :func:`plane_statistics` of all parts and :func:`refined`.
    """
    points, weights = checked_points("fitted", points, weights)
    indexed = cells_of(points, model.edge)
    gain = 0.0
    for _ in range(steps):
        statistics = plane_statistics(points, weights, model, indexed)
        following = refined(statistics, model, thickest)
        gain = statistics.likelihood / FINE
        old, new = model.planes, following.planes
        turn = np.linalg.norm(np.cross(old.normal, new.normal), axis=1)
        shift = np.abs(((new.origin - old.origin) * new.normal).sum(axis=1))
        model = following
        if len(turn) == 0 or max(turn.max(), shift.max()) < close:
            break
    return model, gain


def probabilities(points: np.ndarray, model: Mixture) -> np.ndarray:
    """Probability of every point to lie on each plane, (point, plane), float64."""
    cells, index = cells_of(points, model.edge)
    probability = np.zeros((len(points), len(model.planes.sigma)))
    _all_probabilities(points, index, *_constants(model, cells), probability)
    return probability
