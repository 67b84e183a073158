"""Walk about a rest position (Ornstein–Uhlenbeck): exact likelihood with localisation noise, and its posterior."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit

POINTS = (11, 13, 15, 25)
"""Points along each parameter of the grids of the posterior; each grid contains the posterior of the one before."""
DEPTH = 9.0
"""Log posterior below its maximum down to which the grid extends."""
FREE = 100.0
"""Relaxation time, in durations of the track, beyond which a walk is free within the track."""
PRIOR = 1 / 3
"""Power of the relaxation rate in the prior of its logarithm: between a flat prior (0) and that of Jeffreys at a known
diffusivity (1/2); chosen for the coverage of the stiffness in 60 frames (our choice)."""
BOUND = 0.5
"""Least gain in log likelihood over free diffusion for a bound walk: free diffusion lies outside one standard error."""
EDGE = np.exp(-4.0)
"""Largest density at an end of the grid, over its maximum, of a value that the data determine (our choice)."""
FEWEST = 8
"""Least number of detections for a fit (our choice)."""
SHARES = (0.15865, 0.5, 0.84135)


class Series(NamedTuple):
    """Positions along one axis: ``time`` s, ``position`` um, ``noise`` um2 (variance), (detection,) each."""

    time: np.ndarray
    position: np.ndarray
    noise: np.ndarray


class Walk(NamedTuple):
    """Posterior of the walk: each value as (low, median, high) of 68 %.

    Attributes
    ----------
    stiffness, diffusivity, relaxation, rms : array (3,), um-2, um2 s-1, s, um
        ``rms`` along one axis.
    best : (float, float)
        Variance (um2) and memory (s) at the maximum.
    gain : float
        Log likelihood of the best walk over that of free diffusion.
    known : (bool, bool)
        Whether the data determine the stiffness from above, and the diffusivity from both sides.
    """

    stiffness: np.ndarray
    diffusivity: np.ndarray
    relaxation: np.ndarray
    rms: np.ndarray
    best: tuple[float, float]
    gain: float
    known: tuple[bool, bool]


@njit(cache=True, nogil=True)
def filtered(variance, memory, time, position, noise, exposure):
    """Sums of a Kalman filter over one series about a rest position m + v t: log determinant, square of the
    positions, their products with (1, t), and the precision of (m, v); times relative to the middle."""
    middle = 0.5 * (time[0] + time[-1])
    spread = variance
    ey = e1 = et = 0.0
    logs = yy = y1 = yt = s11 = s1t = stt = 0.0
    u = exposure / memory
    inside = np.exp(-u)
    mean, own, joint, during = 1.0, 0.0, 0.0, 0.0
    if u > 0:
        mean = -np.expm1(-u) / u
        own = variance * ((2 * u - 3 + 4 * inside - inside**2) / u**2 if u > 1e-2 else 2 * u / 3 - u * u / 2)
        joint = variance * (1 - inside) ** 2 / u
        during = variance * (1 - inside**2)
    gap, stay = -1.0, 1.0
    for k in range(len(time)):
        t = time[k] - middle
        total = mean * mean * spread + own + noise[k]
        gain = (inside * mean * spread + joint) / total
        oy, o1, ot = position[k] - mean * ey, 1 - mean * e1, t - mean * et
        logs += np.log(total)
        yy += oy * oy / total
        y1 += oy * o1 / total
        yt += oy * ot / total
        s11 += o1 * o1 / total
        s1t += o1 * ot / total
        stt += ot * ot / total
        ey, e1, et = inside * ey + gain * oy, inside * e1 + gain * o1, inside * et + gain * ot
        spread = inside * inside * spread + during - gain * gain * total
        if k + 1 < len(time):
            if time[k + 1] - time[k] != gap:
                gap = time[k + 1] - time[k]
                stay = np.exp(-max(gap - exposure, 0.0) / memory)
            ey, e1, et = stay * ey, stay * e1, stay * et
            spread = stay * stay * spread + variance * (1 - stay * stay)
    return logs, yy, y1, yt, s11, s1t, stt


@njit(cache=True, nogil=True)
def log_likelihood(stiffness, diffusivity, time, position, noise, exposure):
    """Log likelihood of one series with the rest position integrated out, on a grid: (stiffness, diffusivity)."""
    result = np.empty((len(stiffness), len(diffusivity)))
    for i in range(len(stiffness)):
        for j in range(len(diffusivity)):
            k, d = stiffness[i], diffusivity[j]
            logs, yy, y1, _, s11, _, _ = filtered(1 / k, 1 / (k * d), time, position, noise, exposure)
            result[i, j] = -0.5 * (logs + yy - y1 * y1 / s11 + np.log(s11))
    return result


def fit_walk(series: list[Series], exposure: float = 0.0) -> Walk | None:
    """Posterior of a walk from one or more series with the same stiffness and diffusivity; None for too few positions.

    Parameters
    ----------
    series : list of Series
        Rest positions are independent, with a flat prior.
    exposure : float, s
        Positions are means over this time; 0 for positions at one instant.
    """
    if not series or min(len(s.time) for s in series) < FEWEST:
        return None
    step = float(np.median(np.diff(series[0].time)))
    span = float(np.ptp(series[0].time))
    moves = np.concatenate([np.diff(s.position) ** 2 / np.diff(s.time) for s in series])
    noise = float(np.mean([np.mean(s.noise) for s in series]))
    diffusivity = max(float(np.mean(moves)) / 2 - noise / step, float(np.mean(moves)) / 20)
    variance = max(float(np.mean([np.var(s.position) for s in series])) - noise, noise / 10)
    if not diffusivity > 0:
        return None
    centre = np.log([1 / variance, diffusivity])
    low, high = centre - np.log(100.0), centre + np.log(100.0)
    floor = -np.log(FREE * span) - centre[1]  # of the stiffness: free within the track
    for points in POINTS:
        low[0] = max(low[0], min(floor, high[0] - 1.0))
        grid = [np.linspace(a, b, points) for a, b in zip(low, high, strict=True)]
        values = np.zeros((points, points))
        for s in series:
            values += log_likelihood(np.exp(grid[0]), np.exp(grid[1]), *s, exposure)
        posterior = values + PRIOR * (grid[0][:, None] + grid[1])
        inside = posterior > posterior.max() - DEPTH
        for axis in (0, 1):
            kept = np.flatnonzero(inside.any(axis=1 - axis))
            width = grid[axis][1] - grid[axis][0]
            low[axis], high[axis] = grid[axis][kept[0]] - width, grid[axis][kept[-1]] + width
    weight = np.exp(posterior - posterior.max())
    i, j = np.unravel_index(int(values.argmax()), values.shape)
    best = float(np.exp(-grid[0][i])), float(np.exp(-grid[0][i] - grid[1][j]))
    free = np.exp(np.array([floor])), np.exp(grid[1])
    alone = sum(log_likelihood(*free, *s, exposure) for s in series)
    across = [weight.sum(axis=1 - axis) / weight.sum(axis=1 - axis).max() for axis in (0, 1)]
    known = bool(across[0][-1] < EDGE), bool(max(across[1][[0, -1]]) < EDGE)
    stiffness = _quantiles(grid[0], weight.sum(axis=1))
    total = (grid[0][:, None] + grid[1]).ravel()
    order = np.argsort(total)
    share = np.cumsum(weight.ravel()[order])
    share = (share - 0.5 * weight.ravel()[order]) / share[-1]
    rate = np.interp(SHARES, share, total[order])
    return Walk(
        np.exp(stiffness),
        np.exp(_quantiles(grid[1], weight.sum(axis=0))),
        np.exp(-rate[::-1]),
        np.exp(-0.5 * stiffness[::-1]),
        best,
        float(values.max() - np.max(alone)),
        known,
    )


def _quantiles(grid: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Quantiles of a density on an equidistant grid."""
    area = np.concatenate([[0.0], np.cumsum(0.5 * (weight[1:] + weight[:-1]))])
    return np.interp(SHARES, area / area[-1], grid)


def drift(series: Series, walk: Walk, exposure: float = 0.0) -> tuple[float, float, float]:
    """Velocity of the rest position, its standard error, and the standard error of a rest position without velocity.

    The errors contain the spread of the stiffness: they are means over its interval and its median.
    """
    found = []
    for stiffness in walk.stiffness:
        diffusivity = float(walk.diffusivity[1])
        _, _, y1, yt, s11, s1t, stt = filtered(1 / stiffness, 1 / (stiffness * diffusivity), *series, exposure)
        determinant = s11 * stt - s1t**2
        found.append(((s11 * yt - s1t * y1) / determinant, s11 / determinant, 1 / s11))
    velocity, variance, position = np.array(found).T
    return float(velocity.mean()), float(np.sqrt(variance.mean() + velocity.var())), float(np.sqrt(position.mean()))
