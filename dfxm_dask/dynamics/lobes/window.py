"""Windows about the lobes of a frame, and the fit of one dislocation in its window."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from dfxm_dask.dynamics.lobes.templates import (
    ANGLE,
    LOG_STRETCH,
    LOG_WIDTH,
    NEAR,
    SHEAR,
    SMEAR_X,
    SMEAR_Y,
    fit_window,
    profile,
    window_terms,
)

LOCAL = 5  # numbers of a dislocation: A, B, q0, row, column
VAGUE = np.array([[0.0, 1e6], [0.0, 1e9], [0.0, 1e6]])  # means and standard deviations of ln A, B and ln q0
JUMPS = ((-0.25, 0.0), (0.25, 0.0), (-0.1, -0.05), (0.1, 0.05))  # rows and columns; see settle()


class Window(NamedTuple):
    """Pixels about one lobe."""

    top: int
    left: int
    counts: np.ndarray
    """(row, column), float64, NaN where unusable."""
    lobe: np.ndarray
    """Row, column, height, width, level, significance."""
    noise: float


def fitted_box(window: Window, core: np.ndarray, offset: float, shape: np.ndarray) -> tuple[slice, slice]:
    """The part of a window that the fit of a core uses."""
    reach = np.clip(3.2 / offset, 6, 60)
    across = reach / np.sqrt(np.exp(shape[LOG_STRETCH]))
    half = np.array([reach + 2 * abs(shape[SMEAR_Y]), np.clip(across, 3, 60) + 2 * abs(shape[SMEAR_X])])
    corner = np.array([window.top, window.left])
    low = np.clip(np.floor(core - half) - corner, 0, None).astype(int)
    high = np.minimum(np.ceil(core + half) + 1 - corner, window.counts.shape).astype(int)
    return slice(low[0], max(high[0], low[0])), slice(low[1], max(high[1], low[1]))


def distance(rows: np.ndarray, columns: np.ndarray, core: np.ndarray, shape: np.ndarray) -> np.ndarray:
    """Squared distances from a core in the metric of the field, rows²."""
    a, b = rows - core[0], columns - core[1]
    return np.asarray(a * a + 2 * shape[SHEAR] * a * b + np.exp(shape[LOG_STRETCH]) * b * b)


def first_guess(lobe: np.ndarray, shape: np.ndarray, sign: float, peak: float) -> np.ndarray:
    """A, B, q0 and position of a dislocation from its lobe."""
    c, s = np.cos(shape[ANGLE]), np.sin(shape[ANGLE])
    metric = np.array([[1.0, shape[SHEAR]], [shape[SHEAR], np.exp(shape[LOG_STRETCH])]])
    towards = np.linalg.solve(metric, [c, s])  # from the core to the lobe, at a field of 1
    # The half maximum of the lobe extends from a field of q0 + width to q0 - width.
    width = np.exp(shape[LOG_WIDTH])
    extent = max(lobe[2] / max(abs(towards[0]), 1e-3) if abs(towards[0]) > 0.5 else lobe[3] / abs(towards[1]), 1.0)
    offset = np.sqrt(width**2 + 2 * width / extent)
    offset = float(np.clip(offset, 1.1 * width, 4 * width))
    core = lobe[:2] - sign * towards * 1.1 / offset
    return np.array([1.5 * max(peak - lobe[4], 1.0), lobe[4] - 1.0, offset, *core])


class Part(NamedTuple):
    """Pixels of one fit, and the number of the fitted dislocation."""

    top: int
    left: int
    counts: np.ndarray
    good: np.ndarray
    near: np.ndarray
    read: float
    base: float


def part_of(window: Window, k: int, local: np.ndarray, shape: np.ndarray) -> Part:
    """Pixels of a window about dislocation k."""
    rows, columns = fitted_box(window, local[k, 3:5], local[k, 2], shape)
    counts = window.counts[rows, columns]
    good = np.isfinite(counts)
    top, left = window.top + rows.start, window.left + columns.start
    return Part(top, left, np.where(good, counts, 0.0), good, np.array([k]), window.noise, float(window.lobe[4]))


def fit_one(
    part: Part,
    local: np.ndarray,
    sign: np.ndarray,
    shape: np.ndarray,
    nodes: np.ndarray,
    gain: float,
    rounds: int,
    before: np.ndarray = VAGUE,
) -> tuple[np.ndarray, float, float, int]:
    """Fit the first dislocation of a part. Returns its numbers, minus ln L, chi squared and the number of pixels."""
    cores = np.ascontiguousarray(local[part.near, 3:5])
    window = local[part.near[0], :3].copy()
    cost, chi, used = fit_window(
        part.top,
        part.left,
        part.counts,
        part.good,
        cores,
        1,
        sign[part.near],
        window,
        NEAR,
        shape,
        nodes,
        profile(shape),
        np.array([part.read, part.base, gain, 0.0]),
        before,
        rounds,
    )
    return np.concatenate([window, cores[0]]), cost, chi, used


def terms(
    part: Part, local: np.ndarray, sign: np.ndarray, shape: np.ndarray, nodes: np.ndarray, gain: float, level: int = 2
) -> tuple[float, np.ndarray, np.ndarray, float, int, np.ndarray]:
    """Likelihood, gradient and information of a part (:func:`window_terms`), and the numbers that they belong to."""
    near = part.near
    cores, window = np.ascontiguousarray(local[near, 3:5]), local[near[0], :3].copy()
    cost, right, normal, chi, used = window_terms(
        part.top,
        part.left,
        part.counts,
        part.good,
        cores,
        1,
        sign[near],
        window,
        NEAR,
        shape,
        nodes,
        profile(shape),
        np.array([part.read, part.base, gain, 0.0]),
        level,
    )
    index = np.concatenate([LOCAL * near[0] + np.arange(3), (LOCAL * near[:, None] + [3, 4]).ravel()])
    return cost, right, normal, chi, used, index


def settle(
    part: Part,
    local: np.ndarray,
    sign: np.ndarray,
    shape: np.ndarray,
    nodes: np.ndarray,
    gain: float,
    cost: float,
    before: np.ndarray = VAGUE,
) -> tuple[np.ndarray, float]:
    """Numbers of the first dislocation of a part after jumps to the neighbouring minima of its likelihood.

    Pixels sample a field that changes within a pixel, so that the likelihood has several minima a fraction of a row
    apart.
    """
    k = part.near[0]
    best = local[k].copy()
    for dy, dx in JUMPS:
        trial = local.copy()
        trial[k] = best
        trial[k, 3:] += dy, dx
        numbers, new, _, _ = fit_one(part, trial, sign, shape, nodes, gain, 5, before)
        if new < cost - 1e-3:
            best, cost = numbers, new
    return best, cost


def both_signs(
    window: Window, shape: np.ndarray, nodes: np.ndarray, gain: float, rounds: int = 10
) -> tuple[np.ndarray, float, float, float] | None:
    """Fit one lobe alone with either sign. Returns the better numbers, its sign, its cost and chi squared per pixel."""
    best: tuple[np.ndarray, float, float, float] | None = None
    peak = np.nanpercentile(window.counts, 99)
    for sign in (1.0, -1.0):
        local = first_guess(window.lobe, shape, sign, float(peak))[None]
        part = part_of(window, 0, local, shape)
        if part.good.sum() < 20:
            continue
        numbers, *_ = fit_one(part, local, np.array([sign]), shape, nodes, gain, rounds)
        # Both signs are compared on the same pixels: all of the window.
        whole = part._replace(
            top=window.top,
            left=window.left,
            counts=np.nan_to_num(window.counts),
            good=np.isfinite(window.counts),
        )
        cost, _, _, chi, used, _ = terms(whole, numbers[None], np.array([sign]), shape, nodes, gain, 0)
        if best is None or cost < best[2]:
            best = numbers, sign, cost, chi / max(used, 1)
    return best
