"""Evidence that two pieces of track belong to one dislocation, for a walk about a rest position."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit

from dfxm_dask.reduction import Arrays

LAGS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32)
"""Lags, in frames, of the mean square displacement from which the motion of all dislocations is learnt."""
SYMMETRIC = np.array([[0, 1, 2], [1, 3, 4], [2, 4, 5]])
"""Elements of a symmetric matrix among its six different ones."""
FIELD = 300.0
"""Least variance of the rest positions with one detection a frame, in mean square steps (our choice)."""
HALF_NORMAL = 0.4549
"""Median of the square of a standard normal variable: a robust variance is a median square over it."""


class Motion(NamedTuple):
    """Motion common to all dislocations along one axis.

    Attributes
    ----------
    variance : float, um2
        About the rest position.
    memory : float, s
        Time in which a deviation falls by e.
    velocity : float, um2 s-2
        Variance over dislocations of the velocity of the rest position.
    centre, field : float, um and um2
        Mean and variance over dislocations of the rest position.
    """

    variance: float
    memory: float
    velocity: float
    centre: float
    field: float


def messages(
    edge: np.ndarray, time: np.ndarray, position: np.ndarray, noise: np.ndarray, motion: Motion
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """State (position, rest position, velocity) at the end of each chain, and the likelihood of a chain by the state
    at its beginning: means (chain, 3), covariances (chain, 3, 3), vectors (chain, 3), precisions (chain, 3, 3)."""
    found = _filtered(edge, time, position, noise, *motion)
    return found[:, :3], found[:, 3 + SYMMETRIC], found[:, 9:12], found[:, 12 + SYMMETRIC]


@njit(cache=True, nogil=True)
def _filtered(edge, time, position, noise, variance, memory, velocity, centre, field):
    """Mean, covariance, vector and precision of each chain as (chain, 18), one half of each symmetric matrix."""
    count = len(edge) - 1
    out = np.empty((count, 18))
    for c in range(count):
        p, m, v = centre, centre, 0.0
        pp, pm, pv, mm, mv, vv = field + variance, field, 0.0, field, 0.0, velocity
        for k in range(edge[c], edge[c + 1]):
            if k > edge[c]:
                d = time[k] - time[k - 1]
                a = np.exp(-d / memory)
                b = 1 - a
                p, m = a * p + b * m + d * v, m + d * v
                up, um, uv = a * pp + b * pm + d * pv, a * pm + b * mm + d * mv, a * pv + b * mv + d * vv
                pp, pm, pv = a * up + b * um + d * uv + variance * (1 - a * a), um + d * uv, uv
                mm, mv = mm + 2 * d * mv + d * d * vv, mv + d * vv
            total, off = pp + noise[k], position[k] - p
            gp, gm, gv = pp / total, pm / total, pv / total
            p, m, v = p + gp * off, m + gm * off, v + gv * off
            mm, mv, vv = mm - gm * pm, mv - gm * pv, vv - gv * pv
            pp, pm, pv = pp - gp * pp, pm - gp * pm, pv - gp * pv
        out[c, 0], out[c, 1], out[c, 2] = p, m, v
        out[c, 3], out[c, 4], out[c, 5], out[c, 6], out[c, 7], out[c, 8] = pp, pm, pv, mm, mv, vv
        e, f, g = 0.0, 0.0, 0.0
        pp, pm, pv, mm, mv, vv = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
        for k in range(edge[c + 1] - 1, edge[c] - 1, -1):
            pp += 1 / noise[k]
            e += position[k] / noise[k]
            if k > edge[c]:
                d = time[k] - time[k - 1]
                a = np.exp(-d / memory)
                b = 1 - a
                share = variance * (1 - a * a)
                share = share / (1 + share * pp)
                e, f, g = e - pp * share * e, f - pm * share * e, g - pv * share * e
                mm, mv, vv = mm - pm * pm * share, mv - pm * pv * share, vv - pv * pv * share
                pp, pm, pv = pp - pp * pp * share, pm - pp * pm * share, pv - pp * pv * share
                e, f, g = a * e, b * e + f, d * (e + f) + g
                xm, xv = b * pp + pm, d * (pp + pm) + pv
                ym, yv = b * pm + mm, d * (pm + mm) + mv
                zv = d * (pv + mv) + vv
                pp, pm, pv, mm, mv, vv = a * a * pp, a * xm, a * xv, b * xm + ym, b * xv + yv, d * (xv + yv) + zv
        out[c, 9], out[c, 10], out[c, 11] = e, f, g
        out[c, 12], out[c, 13], out[c, 14], out[c, 15], out[c, 16], out[c, 17] = pp, pm, pv, mm, mv, vv
    return out


@njit(cache=True, nogil=True)
def heads(following, used):
    """First detection of the chain of each detection; a chain follows rows in increasing order."""
    first = np.arange(len(following))
    for k in range(len(following)):
        if used[k] and following[k] >= 0:
            first[following[k]] = first[k]
    return first


def _likelihood(mean: np.ndarray, spread: np.ndarray, vector: np.ndarray, precision: np.ndarray) -> np.ndarray:
    """Logarithm of the integral of a normal density of the state times the likelihood of a chain, for each chain."""
    matrix = np.eye(3) + spread @ precision
    pull = (precision @ mean[..., None])[..., 0]
    rest = vector - pull
    moved = np.linalg.solve(matrix, spread @ rest[..., None])[..., 0]
    determinant = np.maximum(np.linalg.det(matrix), 1e-300)
    return np.asarray(
        0.5 * (rest * moved).sum(axis=-1) - 0.5 * np.log(determinant) + ((vector - 0.5 * pull) * mean).sum(axis=-1)
    )


def evidence(
    ends: np.ndarray,
    starts: np.ndarray,
    gap: np.ndarray,
    states: tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray],
    motion: Motion,
) -> np.ndarray:
    """Log evidence of each pair of chains for one dislocation, over that for two: (pair,)."""
    means, covariances, vectors, precisions = states
    prior = np.diag([motion.variance, 0.0, motion.velocity])
    prior[:2, :2] += motion.field
    alone = _likelihood(np.array([motion.centre, motion.centre, 0.0]), prior, vectors, precisions)
    step = np.zeros((len(ends), 3, 3))
    stay = np.exp(-gap / motion.memory)
    step[:, 0, 0], step[:, 0, 1], step[:, 0, 2], step[:, 1, 2] = stay, 1 - stay, gap, gap
    step[:, 1, 1] = step[:, 2, 2] = 1.0
    spread = step @ covariances[ends] @ step.transpose(0, 2, 1)
    spread[:, 0, 0] += motion.variance * (1 - stay**2)
    mean = (step @ means[ends][..., None])[..., 0]
    return np.asarray(_likelihood(mean, spread, vectors[starts], precisions[starts]) - alone[starts])


def first_motion(table: Arrays, near: np.ndarray) -> tuple[Motion, ...]:
    """Motion along y and x from pairs of nearest detections of neighbouring frames (pair, 2): free diffusion."""
    result = []
    each = len(table["frame"]) / len(np.unique(table["frame"]))
    dt = table["time"][near[:, 1]] - table["time"][near[:, 0]] if len(near) else np.ones(1)
    for axis in ("y", "x"):
        position, noise = table[axis], table["noise_" + axis]
        move = position[near[:, 1]] - position[near[:, 0]] if len(near) else np.zeros(1)
        step = max(float(np.median(move**2)) / HALF_NORMAL - 2 * float(np.median(noise)), float(np.median(noise)) / 10)
        # Few dislocations leave the spread of their rest positions unknown: one alone would compete with its own walk.
        field = max(float(np.var(position)), 10 * step, FIELD * step / each**2)
        result.append(Motion(field, 2 * field * float(np.median(dt)) / step, 0.0, float(np.mean(position)), field))
    return tuple(result)


def learnt_motion(table: Arrays, rows: np.ndarray, edge: np.ndarray, old: tuple[Motion, ...]) -> tuple[Motion, ...]:
    """Motion along y and x from chains of detections, robustly."""
    chain = np.repeat(np.arange(len(edge) - 1), np.diff(edge))
    time = table["time"][rows]
    result: list[Motion] = []
    for axis, before in zip(("y", "x"), old, strict=True):
        position, noise = table[axis][rows], table["noise_" + axis][rows]
        velocity = _velocity(chain, time, position)
        lags: list[float] = []
        squares: list[float] = []
        weights: list[float] = []
        for lag in LAGS:
            same = chain[lag:] == chain[:-lag]
            if np.count_nonzero(same) < 20:
                continue
            dt, move = (time[lag:] - time[:-lag])[same], (position[lag:] - position[:-lag])[same]
            square = np.median(move**2 / np.median(dt)) * np.median(dt) / HALF_NORMAL
            lags.append(float(np.median(dt)))
            squares.append(square - 2 * float(np.median(noise)) - velocity * lags[-1] ** 2)
            weights.append(np.count_nonzero(same) / lag)
        if not lags:
            result.append(before)
            continue
        times, square, weight = np.array(lags), np.array(squares), np.array(weights)
        square = np.maximum(square, float(np.median(noise)) / 10)
        memories = times[0] * np.geomspace(0.25, 4 * times[-1] / times[0], 120)
        shapes = np.log(2 * -np.expm1(-times / memories[:, None]))
        level = ((np.log(square) - shapes) * weight).sum(axis=1) / weight.sum()
        misfit = ((np.log(square) - shapes - level[:, None]) ** 2 * weight).sum(axis=1)
        best = int(misfit.argmin())
        variance = float(np.exp(level[best]))
        result.append(Motion(variance, float(memories[best]), velocity, before.centre, max(before.field, 2 * variance)))
    return tuple(result)


def _velocity(chain: np.ndarray, time: np.ndarray, position: np.ndarray) -> float:
    """Mean square velocity that persists over frames, 0 where it is not significant."""
    if len(chain) < 24:
        return 0.0
    speed = np.diff(position) / np.where(np.diff(chain) == 0, np.diff(time), np.nan)
    product = speed[:-2] * speed[2:]
    product = product[np.isfinite(product)]
    if len(product) < 20:
        return 0.0
    low, high = np.quantile(product, (0.005, 0.995))
    product = np.clip(product, low, high)
    mean, error = float(product.mean()), float(product.std() / np.sqrt(len(product)))
    return mean if mean > 4 * error else 0.0
