"""Evidence that two pieces of track belong to one dislocation, for a walk about a rest position."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit

from dfxm_dask.reduction import Arrays

LAGS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32)
"""Lags, in frames, of the mean square displacement from which the motion of all dislocations is learnt."""
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


@njit(cache=True, nogil=True)
def messages(edge, time, position, noise, motion):
    """State (position, rest position, velocity) at the end of each chain, and the likelihood of a chain by the state
    at its beginning: means (chain, 3), covariances (chain, 3, 3), vectors (chain, 3), precisions (chain, 3, 3)."""
    variance, memory, velocity, centre, field = motion
    count = len(edge) - 1
    means, covariances = np.empty((count, 3)), np.empty((count, 3, 3))
    vectors, precisions = np.zeros((count, 3)), np.zeros((count, 3, 3))
    step = np.eye(3)
    for c in range(count):
        mean = np.array([centre, centre, 0.0])
        spread = np.zeros((3, 3))
        spread[:2, :2] = field
        spread[0, 0] += variance
        spread[2, 2] = velocity
        for k in range(edge[c], edge[c + 1]):
            if k > edge[c]:
                dt = time[k] - time[k - 1]
                stay = np.exp(-dt / memory)
                step[0, 0], step[0, 1], step[0, 2], step[1, 2] = stay, 1 - stay, dt, dt
                mean = step @ mean
                spread = step @ spread @ step.T
                spread[0, 0] += variance * (1 - stay * stay)
            gain = spread[:, 0] / (spread[0, 0] + noise[k])
            mean = mean + gain * (position[k] - mean[0])
            spread = spread - np.outer(gain, spread[0])
        means[c], covariances[c] = mean, spread
        vector, precision = np.zeros(3), np.zeros((3, 3))
        for k in range(edge[c + 1] - 1, edge[c] - 1, -1):
            precision[0, 0] += 1 / noise[k]
            vector[0] += position[k] / noise[k]
            if k > edge[c]:
                dt = time[k] - time[k - 1]
                stay = np.exp(-dt / memory)
                step[0, 0], step[0, 1], step[0, 2], step[1, 2] = stay, 1 - stay, dt, dt
                kick = variance * (1 - stay * stay)
                share = kick / (1 + kick * precision[0, 0])
                vector = step.T @ (vector - precision[:, 0] * share * vector[0])
                precision = step.T @ (precision - np.outer(precision[:, 0], precision[0]) * share) @ step
        vectors[c], precisions[c] = vector, precision
    return means, covariances, vectors, precisions


@njit(cache=True, nogil=True)
def _likelihood(mean, spread, vector, precision):
    """Logarithm of the integral of a normal density of the state times the likelihood of a chain."""
    matrix = np.eye(3) + spread @ precision
    rest = vector - precision @ mean
    determinant = np.linalg.det(matrix)
    return (
        0.5 * rest @ np.linalg.solve(matrix, spread @ rest)
        - 0.5 * np.log(max(determinant, 1e-300))
        + vector @ mean
        - 0.5 * mean @ precision @ mean
    )


@njit(cache=True, nogil=True)
def evidence(ends, starts, gap, means, covariances, vectors, precisions, motion):
    """Log evidence of each pair of chains for one dislocation, over that for two: (pair,)."""
    variance, memory, velocity, centre, field = motion
    new = np.array([centre, centre, 0.0])
    prior = np.zeros((3, 3))
    prior[:2, :2] = field
    prior[0, 0] += variance
    prior[2, 2] = velocity
    alone = np.empty(len(vectors))
    for c in range(len(vectors)):
        alone[c] = _likelihood(new, prior, vectors[c], precisions[c])
    result = np.empty(len(ends))
    step = np.eye(3)
    for p in range(len(ends)):
        stay = np.exp(-gap[p] / memory)
        step[0, 0], step[0, 1], step[0, 2], step[1, 2] = stay, 1 - stay, gap[p], gap[p]
        spread = step @ covariances[ends[p]] @ step.T
        spread[0, 0] += variance * (1 - stay * stay)
        j = starts[p]
        result[p] = _likelihood(step @ means[ends[p]], spread, vectors[j], precisions[j]) - alone[j]
    return result


def first_motion(table: Arrays, near: np.ndarray) -> tuple[Motion, Motion]:
    """Motion along y and x from pairs of nearest detections of neighbouring frames (pair, 2): free diffusion."""
    result = []
    dt = np.diff(table["time"][near], axis=1)[:, 0] if len(near) else np.ones(1)
    for axis in ("y", "x"):
        position, noise = table[axis], table["noise_" + axis]
        move = np.diff(position[near], axis=1)[:, 0] if len(near) else np.zeros(1)
        step = max(float(np.median(move**2)) / HALF_NORMAL - 2 * float(np.median(noise)), float(np.median(noise)) / 10)
        field = max(float(np.var(position)), 10 * step)
        result.append(Motion(field, 2 * field * float(np.median(dt)) / step, 0.0, float(np.mean(position)), field))
    return result[0], result[1]


def learnt_motion(table: Arrays, rows: np.ndarray, edge: np.ndarray, old: tuple[Motion, Motion]) -> tuple[Motion, ...]:
    """Motion along y and x from chains of detections, robustly."""
    chain = np.repeat(np.arange(len(edge) - 1), np.diff(edge))
    time = table["time"][rows]
    result = []
    for axis, before in zip(("y", "x"), old, strict=True):
        position, noise = table[axis][rows], table["noise_" + axis][rows]
        velocity = _velocity(chain, time, position)
        lags, squares, weights = [], [], []
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
        lag, square, weight = np.array(lags), np.array(squares), np.array(weights)
        square = np.maximum(square, float(np.median(noise)) / 10)
        memories = lag[0] * np.geomspace(0.25, 4 * lag[-1] / lag[0], 120)
        shapes = np.log(2 * -np.expm1(-lag / memories[:, None]))
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
