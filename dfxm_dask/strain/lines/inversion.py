"""Positions of dislocations in maps of one reflection, as centres of inversion.

The distortion around a straight dislocation is odd: opposite positions have opposite distortions. Every symmetric
average keeps this symmetry, whatever its direction and size: that of the camera, and that over the height of the beam
along the diffracted beam, which takes another direction in every reflection. The centre of inversion of the maps of
angles is therefore the same point of the sample in all reflections: where the line pierces the middle of the layer.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit
from scipy import ndimage

WIDTH = 0.9
"""Standard deviation of the Gaussian that smooths the maps, in edges of a pixel of the set (our choice)."""
RADII = (7.5, 9.7, 12.0)
"""Radii of the discs around a dislocation, in edges of a pixel of the set (our choice)."""
FULL = 0.9
"""Least share of finite pixels under the Gaussian."""
CUT = 3.5
"""Standard deviations at which the Gaussian ends."""
SIGNAL = 3.0
"""Least squared gradient over that of the noise, along every direction, of a determined centre (our choice)."""
FEWEST = 30
"""Least number of pairs of opposite positions."""
ROUNDS = 15
SETTLED = 1e-3
"""Edges of a pixel: the last step of a centre."""
EXCESS = 20.0
"""Increase of the variance of a centre per unit of chi2 per degree of freedom above 1: the even part that remains is
smooth, so that it counts like this number of correlated pixels (measured on simulated frames)."""
FLOOR = 0.08
"""Standard error of a centre without noise, in edges of a pixel of the set (measured on simulated frames)."""
STEEP = 4.0
"""Squared gradient over its median from which a maximum is a start of the search (our choice)."""
GOOD = 2.0
"""chi2 per degree of freedom of a centre around which the search does not start again."""
LIMIT = 30
"""Largest number of starts in one map (our choice)."""


class Maps(NamedTuple):
    """Maps of the angles of one reflection.

    Attributes
    ----------
    values : array (y, x, angle), float64
        NaN where unknown.
    covariance : array (y, x, angle, angle2), float64
    position : array (y, x, yx), float64, um
        Positions of the pixels, a regular grid of any direction.
    """

    values: np.ndarray
    covariance: np.ndarray
    position: np.ndarray


class Centre(NamedTuple):
    """Centre of inversion: position (yx) in um with covariance, and chi2 per degree of freedom of the even part."""

    position: np.ndarray
    covariance: np.ndarray
    chi2: float


def centre_of_inversion(maps: Maps, start: np.ndarray, pitch: float, radius: float) -> Centre | None:
    """Position about which maps are odd, up to even terms of second and fourth order.

    Parameters
    ----------
    maps : Maps
        Angles that are NaN everywhere are left out.
    start : array (yx,), um
    pitch : float, um
        Distance of the pairs of opposite positions; the Gaussian has a width of :data:`WIDTH` times this distance.
    radius : float, um
        Radius of the disc of positions.

    Returns
    -------
    Centre or None
        None without enough pairs, or where the search leaves the disc.

    Notes
    -----
    With the maps S under the Gaussian, Gauss-Newton iterations minimise over c and the polynomials P::

        sum over d of |S(c + d) + S(c - d) - P(d)|²,    P(d) = p0 + second and fourth order in d

    weighted with the covariance of the noise. P contains the even part of the fields of other dislocations. The
    covariance of c is that of the noise, carried through the solution pixel by pixel, times
    1 + 20 (chi2 - 1) for a chi2 per degree of freedom above 1, plus the square of 0.08 pitch. Our own definition.
    """
    known = np.isfinite(maps.values).any(axis=(0, 1))
    values, spread = maps.values[..., known], maps.covariance[..., known, :][..., known]
    steps = np.stack([maps.position[1, 0] - maps.position[0, 0], maps.position[0, 1] - maps.position[0, 0]], axis=1)
    grid = maps.position[0, 0], np.linalg.inv(steps), WIDTH * pitch
    away = _half_disc(radius, pitch)
    even = _even(away / radius)
    centre = np.array(start, float)
    count = values.shape[2]
    for _ in range(ROUNDS):
        total, slope, noise, slope_noise, share = _pairs(values, spread, *grid, centre, away)
        good = share > FULL
        if good.sum() < FEWEST:
            return None
        total, weight = total[good], np.linalg.inv(noise[good])
        polynomial = np.einsum("db,ij->dijb", even[good], np.eye(count)).reshape(len(total), count, -1)
        design = np.concatenate([slope[good], polynomial], axis=-1)
        weighted = np.einsum("dik,dij->kdj", design, weight).reshape(design.shape[-1], -1)
        normal = weighted @ design.reshape(weighted.shape[1], -1)
        size = np.sqrt(np.diag(normal))
        scaled = normal / np.outer(size, size)
        if not np.linalg.cond(scaled) < 1e12:
            return None
        inverse = np.linalg.inv(scaled) / np.outer(size, size)
        gain = inverse @ weighted
        solution = -gain @ total.ravel()
        step = solution[:2] * min(1.0, pitch / max(np.abs(solution[:2]).max(), 1e-12))
        centre += step
        if np.linalg.norm(centre - start) > radius:
            return None
        if np.abs(step).max() < SETTLED * pitch:
            break
    else:
        return None
    noisy = np.einsum("dij,dkmij->km", weight, slope_noise[good])
    signal = np.linalg.inv(inverse[:2, :2]) - noisy
    if not np.linalg.eigvalsh(signal - SIGNAL * noisy)[0] > 0:
        return None
    left = total + np.einsum("dik,k->di", design, solution)
    chi2 = float(np.einsum("di,dij,dj->", left, weight, left)) / (left.size - solution.size)
    lever = np.zeros((2, len(away), count))
    lever[:, good] = gain[:2].reshape(2, len(total), count)
    covariance = _carried(values, spread, *grid, centre, away, lever)
    covariance = covariance * (1 + EXCESS * max(0.0, chi2 - 1)) + (FLOOR * pitch) ** 2 * np.eye(2)
    return Centre(centre, covariance, chi2)


@njit(nogil=True, cache=True)
def _box(place, reach, length):
    return max(0, int(np.ceil(place - reach))), min(length, int(np.floor(place + reach)) + 1)


@njit(nogil=True, cache=True)
def _mean(values, spread, first, turn, width, here, out, slope, noise, slope_noise):
    """Mean under a Gaussian at one position, its derivative, and their covariances; returns the share of known pixels.

    ``turn`` takes positions from the first pixel to rows and columns. ``slope_noise`` is (k, m, angle, angle2).
    """
    row = turn[0, 0] * (here[0] - first[0]) + turn[0, 1] * (here[1] - first[1])
    column = turn[1, 0] * (here[0] - first[0]) + turn[1, 1] * (here[1] - first[1])
    reach_y = CUT * width * np.sqrt(turn[0, 0] ** 2 + turn[0, 1] ** 2)
    reach_x = CUT * width * np.sqrt(turn[1, 0] ** 2 + turn[1, 1] ** 2)
    det = turn[0, 0] * turn[1, 1] - turn[0, 1] * turn[1, 0]
    low_y, high_y = _box(row, reach_y, values.shape[0])
    low_x, high_x = _box(column, reach_x, values.shape[1])
    count = values.shape[2]
    total, bend = 0.0, np.zeros(2)
    for turned in range(2):  # sums of weights first, then normalised means
        for y in range(low_y, high_y):
            for x in range(low_x, high_x):
                dy = (turn[1, 1] * (y - row) - turn[0, 1] * (x - column)) / det
                dx = (turn[0, 0] * (x - column) - turn[1, 0] * (y - row)) / det
                square = (dy * dy + dx * dx) / (width * width)
                known = square < CUT * CUT
                for i in range(count):
                    known = known and np.isfinite(values[y, x, i])
                if not known:
                    continue
                weight = np.exp(-0.5 * square)
                if turned == 0:
                    total += weight
                    bend[0] += weight * dy / width**2
                    bend[1] += weight * dx / width**2
                    continue
                mean = weight / total
                lever = mean * (dy / width**2 - bend[0] / total), mean * (dx / width**2 - bend[1] / total)
                for i in range(count):
                    out[i] += mean * values[y, x, i]
                    for k in range(2):
                        slope[i, k] += lever[k] * values[y, x, i]
                    for j in range(count):
                        noise[i, j] += mean * mean * spread[y, x, i, j]
                        for k in range(2):
                            for m in range(2):
                                slope_noise[k, m, i, j] += lever[k] * lever[m] * spread[y, x, i, j]
        if total == 0.0:
            return 0.0
    return total / (2 * np.pi * width * width * abs(det))


@njit(nogil=True, cache=True)
def _pairs(values, spread, first, turn, width, centre, away):
    """Sums over opposite positions: means, derivatives by the centre, their noise, and the least share of pixels."""
    pairs, count = away.shape[0], values.shape[2]
    total, slope = np.zeros((pairs, count)), np.zeros((pairs, count, 2))
    noise, slope_noise = np.zeros((pairs, count, count)), np.zeros((pairs, 2, 2, count, count))
    share = np.ones(pairs)
    for d in range(pairs):
        for sign in (1.0, -1.0):
            here = centre + sign * away[d]
            part = _mean(values, spread, first, turn, width, here, total[d], slope[d], noise[d], slope_noise[d])
            share[d] = min(share[d], part)
    return total, slope, noise, slope_noise, share


@njit(nogil=True, cache=True)
def _carried(values, spread, first, turn, width, centre, away, gain):
    """Covariance of a linear function of the means at opposite positions, with the noise of each pixel."""
    count = values.shape[2]
    lever = np.zeros((2, *values.shape))
    det = turn[0, 0] * turn[1, 1] - turn[0, 1] * turn[1, 0]
    reach_y = CUT * width * np.sqrt(turn[0, 0] ** 2 + turn[0, 1] ** 2)
    reach_x = CUT * width * np.sqrt(turn[1, 0] ** 2 + turn[1, 1] ** 2)
    for d in range(away.shape[0]):
        for sign in (1.0, -1.0):
            here = centre + sign * away[d] - first
            row = turn[0, 0] * here[0] + turn[0, 1] * here[1]
            column = turn[1, 0] * here[0] + turn[1, 1] * here[1]
            low_y, high_y = _box(row, reach_y, values.shape[0])
            low_x, high_x = _box(column, reach_x, values.shape[1])
            total = 0.0
            for put in range(2):
                for y in range(low_y, high_y):
                    for x in range(low_x, high_x):
                        dy = (turn[1, 1] * (y - row) - turn[0, 1] * (x - column)) / det
                        dx = (turn[0, 0] * (x - column) - turn[1, 0] * (y - row)) / det
                        square = (dy * dy + dx * dx) / (width * width)
                        known = square < CUT * CUT
                        for i in range(count):
                            known = known and np.isfinite(values[y, x, i])
                        if known and put == 0:
                            total += np.exp(-0.5 * square)
                        elif known:
                            for i in range(count):
                                for k in range(2):
                                    lever[k, y, x, i] += gain[k, d, i] * np.exp(-0.5 * square) / total
    out = np.zeros((2, 2))
    for y in range(values.shape[0]):
        for x in range(values.shape[1]):
            for i in range(count):
                for j in range(count):
                    for k in range(2):
                        for m in range(2):
                            if lever[k, y, x, i] != 0.0 and lever[m, y, x, j] != 0.0:
                                out[k, m] += lever[k, y, x, i] * lever[m, y, x, j] * spread[y, x, i, j]
    return out


def _half_disc(radius: float, pitch: float) -> np.ndarray:
    """Positions of a square grid in half a disc: one of each pair of opposite ones, (position, yx)."""
    reach = int(radius / pitch)
    y, x = np.mgrid[-reach : reach + 1, -reach : reach + 1] * pitch
    chosen = ((y > 0) | ((y == 0) & (x > 0))) & (np.hypot(y, x) < radius)
    return np.stack([y[chosen], x[chosen]], axis=-1)


def _even(away: np.ndarray) -> np.ndarray:
    """Even polynomials up to the fourth order."""
    y, x = away.T
    return np.stack([y**m * x ** (n - m) for n in (0, 2, 4) for m in range(n + 1)], axis=-1)


def centres_of_inversion(maps: Maps, pitch: float) -> list[Centre]:
    """All centres of inversion that a search from the steepest positions of the maps finds, most precise first.

    Parameters
    ----------
    pitch : float, um
        See :func:`centre_of_inversion`. Of the radii :data:`RADII`, the one with the smallest error counts.
    """
    found: list[Centre] = []
    for start in _starts(maps, pitch):
        if any(np.linalg.norm(start - one.position) < 2 * pitch for one in found if one.chi2 < GOOD):
            continue
        made = [centre_of_inversion(maps, start, pitch, r * pitch) for r in RADII]
        found += sorted((one for one in made if one is not None), key=_size)[:1]
    kept: list[Centre] = []
    for one in sorted(found, key=_size):
        if all(np.linalg.norm(one.position - other.position) > 2 * pitch for other in kept):
            kept.append(one)
    return kept


def _size(one: Centre) -> float:
    return float(np.trace(one.covariance))


def _starts(maps: Maps, pitch: float) -> np.ndarray:
    """Starts of the search (start, yx), um: where the squared gradient is large: its maxima, then others.

    Pixels without a value inside the lit area, as in the cores of dislocations, count as steep.
    """
    steps = maps.position[1, 0] - maps.position[0, 0], maps.position[0, 1] - maps.position[0, 0]
    edges = np.linalg.norm(steps, axis=1)
    lit = np.isfinite(maps.values).any(axis=-1)
    share = ndimage.gaussian_filter(lit.astype(float), 1.2 * pitch / edges)
    steep = np.zeros(lit.shape)
    for values in np.moveaxis(maps.values, -1, 0):
        if not np.isfinite(values).any():
            continue
        smooth = ndimage.gaussian_filter(np.where(np.isfinite(values), values, 0.0), 1.2 * pitch / edges)
        with np.errstate(invalid="ignore", divide="ignore"):
            slopes = np.gradient(np.where(share > 0.5, smooth / share, np.nan))
        square = np.square(slopes[0] / edges[0]) + np.square(slopes[1] / edges[1])
        middle = np.nanmedian(square)
        steep += np.nan_to_num(square / middle) if middle > 0 else 0.0
    steep /= max(1, np.isfinite(maps.values).any(axis=(0, 1)).sum())
    inside = ndimage.binary_fill_holes(ndimage.binary_closing(lit, np.ones((3, 3)), border_value=0) | lit)
    high = np.where(inside & ~lit, steep.max(), steep)
    wide = ndimage.gaussian_filter(np.log1p(high), pitch / edges)
    thin = np.zeros(lit.shape, bool)
    thin[tuple(slice(None, None, max(1, round(1.5 * pitch / edge))) for edge in edges)] = True
    top = wide == ndimage.maximum_filter(wide, tuple(2 * np.ceil(2 * pitch / edges).astype(int) + 1))
    chosen = (thin | top) & (wide > np.log1p(STEEP))
    rank = np.lexsort((-wide[chosen], ~top[chosen]))
    return np.asarray(maps.position[chosen][rank][:LIMIT])
