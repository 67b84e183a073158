"""Positions of all dislocations of a frame from its lobes, fitted together where their images overlap."""

from __future__ import annotations

import itertools
from typing import NamedTuple

import numpy as np
from scipy.ndimage import uniform_filter

from dfxm_dask.dynamics.lobes.shape import Learned
from dfxm_dask.dynamics.lobes.templates import LOG_STRETCH, SHAPE, SHEAR, SHEET, window_image
from dfxm_dask.dynamics.lobes.window import LOCAL, Part, Window, distance, first_guess, fit_one, part_of, settle, terms

NEIGHBOURS = 6  # further dislocations whose fields count in a window
ROUNDS = 15
SWEEPS = 3  # fits of every dislocation with the fields of the others
MORE = 2  # further dislocations that a lobe may hide
GAIN_OF_ONE = 30.0  # ln of the likelihood ratio that a further dislocation requires: its five numbers, and the search
BESIDE = 5.0  # distance of lobes in units of 1/q0 below which either sign of both is tried
OVERLAP = 8.0  # and below which images are fitted together
MISFIT = 1.25  # chi squared per pixel above which errors grow with it
MODEL_ERROR = 0.03
"""Error of the forward model in units of 1/q0 in the metric of the field, added in squares. Pixels of simulated movies
sample the field at their centres, and images move between pixels by interpolation. From simulated movies of seeds 1 to
4."""
CLOSE = 2.0  # distance in units of 1/q0 below which two images overlap


class Found(NamedTuple):
    """Dislocations of one frame."""

    local: np.ndarray
    """(detection, 5): A, B, q0, row, column."""
    sign: np.ndarray
    window: np.ndarray
    """(detection,): number of the window."""
    covariance: np.ndarray
    """(detection, 2, 2), of row and column."""
    amplitude_error: np.ndarray
    misfit: np.ndarray
    close: np.ndarray
    """(detection,), bool: the image overlaps that of another dislocation."""


def fit_frame(windows: list[Window], learned: Learned, limit: float) -> Found:
    """Fit the dislocations of one frame.

    Parameters
    ----------
    windows : list of Window
        Windows about the lobes of the frame.
    learned : Learned
        Shape of the images.
    limit : float
        Amplitude over its error that a dislocation requires.
    """
    local, sign = np.zeros((len(windows), LOCAL)), np.zeros(len(windows))
    owner = np.arange(len(windows))
    for k, window in enumerate(windows):
        local[k], sign[k] = _alone(window, learned)
    keep = sign != 0
    local, sign, owner = local[keep], sign[keep], owner[keep]
    local, _, chi = _swept(windows, owner, local, sign, learned)
    turned = False
    for k in np.argsort(-chi, kind="stable"):
        sides = sign
        local, sign = _turned(windows, owner, local, sign, learned, int(k))
        turned = turned or sign is not sides
        for _ in range(MORE):
            more = _another(windows, owner, local, sign, learned, int(k))
            if more is None:
                break
            local, sign, owner = more
    if len(local) > len(chi) or turned:
        local, _, chi = _swept(windows, owner, local, sign, learned)
    count = len(local)
    local, sign, owner = _significant(windows, owner, local, sign, learned, limit)
    if len(local) < count:
        local, _, chi = _swept(windows, owner, local, sign, learned)
    return _described(windows, owner, local, sign, learned)


def _near(windows: list[Window], owner: np.ndarray, k: int, learned: Learned) -> np.ndarray:
    """Dislocation k and those whose fields count in its window, by the distances of their lobes, which do not move."""
    lobes = np.array([windows[o].lobe[:2] for o in owner])
    away = distance(lobes[:, 0], lobes[:, 1], lobes[k], learned.shape)
    away[k] = -1.0
    near = np.argsort(away, kind="stable")[: NEIGHBOURS + 1]
    return np.asarray(near[away[near] < (16 * np.exp(-learned.before[2, 0])) ** 2])


def _part(windows: list[Window], owner: np.ndarray, k: int, local: np.ndarray, learned: Learned) -> Part:
    return part_of(windows[owner[k]], k, local, learned.shape, _near(windows, owner, k, learned))


def _alone(window: Window, learned: Learned) -> tuple[np.ndarray, float]:
    """Numbers and sign of a lobe, as if it were alone; sign 0 if it has too few pixels."""
    peak = float(np.nanpercentile(window.counts, 99))
    best: tuple[float, np.ndarray, float] | None = None
    whole = Part(
        window.top,
        window.left,
        np.nan_to_num(window.counts),
        np.isfinite(window.counts),
        np.zeros(1, int),
        window.noise,
        window.lobe[4],
    )
    for sign in (1.0, -1.0):
        local = first_guess(window.lobe, learned.shape, sign, peak)[None]
        local[0, :2] = np.exp(learned.before[0, 0]), learned.before[1, 0]
        local[0, 2] = np.exp(learned.before[2, 0])
        signs = np.array([sign])
        part = part_of(window, 0, local, learned.shape)
        if part.good.sum() < 20:
            continue
        numbers, *_ = fit_one(part, local, signs, learned.shape, SHEET, learned.gain, 8, learned.before)
        cost = terms(whole, numbers[None], signs, learned.shape, SHEET, learned.gain, 0)[0]
        if best is None or cost < best[0]:
            best = cost, numbers, sign
    return (np.zeros(LOCAL), 0.0) if best is None else best[1:]


def _swept(
    windows: list[Window], owner: np.ndarray, local: np.ndarray, sign: np.ndarray, learned: Learned
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Fit every dislocation in turn with the fields of the others. Returns numbers, costs, chi squared per pixel."""
    local = local.copy()
    costs, chi = np.zeros(len(local)), np.zeros(len(local))
    for sweep in range(SWEEPS):
        before = local.copy()
        for k in range(len(local)):
            part = _part(windows, owner, k, local, learned)
            if part.good.sum() < 20:
                continue
            local[k], costs[k], one, used = fit_one(
                part, local, sign, learned.shape, SHEET, learned.gain, ROUNDS, learned.before
            )
            if sweep == 0:
                new, cost = settle(part, local, sign, learned.shape, SHEET, learned.gain, costs[k], learned.before)
                if cost < costs[k]:
                    local[k], costs[k], one, used = fit_one(
                        part, _with(local, k, new), sign, learned.shape, SHEET, learned.gain, 3, learned.before
                    )
            chi[k] = one / max(used, 1)
        if np.abs(local[:, 3:] - before[:, 3:]).max(initial=0) < 0.02:
            break
    return local, costs, chi


def _with(local: np.ndarray, k: int, numbers: np.ndarray) -> np.ndarray:
    out = local.copy()
    out[k] = numbers
    return out


def _region_cost(
    windows: list[Window], window: int, members: list[int], local: np.ndarray, sign: np.ndarray, learned: Learned
) -> float:
    """Minus ln L of all pixels of a window by the dislocations that are near, with their own light."""
    one = windows[window]
    rows = one.top + np.arange(one.counts.shape[0])[:, None]
    columns = one.left + np.arange(one.counts.shape[1])[None, :]
    away = np.stack([distance(rows, columns, local[k, 3:5], learned.shape) for k in members])
    nearest = away.argmin(axis=0)
    total = 0.0
    for n, k in enumerate(members):
        near = np.array([k, *(m for m in members if m != k)])
        good = np.isfinite(one.counts) & (nearest == n)
        part = Part(one.top, one.left, np.nan_to_num(one.counts), good, near, one.noise, one.lobe[4])
        total += terms(part, local, sign, learned.shape, SHEET, learned.gain, 0)[0]
        values = np.array([np.log(local[k, 0]), local[k, 1], np.log(local[k, 2])])
        total += 0.5 * float((((values - learned.before[:, 0]) / learned.before[:, 1]) ** 2).sum())
    return total


def _misfits(
    windows: list[Window], owner: np.ndarray, local: np.ndarray, sign: np.ndarray, learned: Learned, k: int
) -> bool:
    """Whether the pixels of a dislocation contradict its fit."""
    part = _part(windows, owner, k, local, learned)
    _, _, _, chi, used, _ = terms(part, local, sign, learned.shape, SHEET, learned.gain, 0)
    return bool(used >= 20 and chi > (1 + 4 * np.sqrt(2 / max(used, 1))) * used)


def _members(windows: list[Window], owner: np.ndarray, k: int, learned: Learned, within: float) -> list[int]:
    """A dislocation and those whose lobes are within a distance in units of 1/q0, nearest first."""
    lobes = np.array([windows[o].lobe[:2] for o in owner])
    away = np.sqrt(distance(lobes[:, 0], lobes[:, 1], lobes[k], learned.shape)) * np.exp(learned.before[2, 0])
    away[k] = -1.0
    return [int(m) for m in np.argsort(away, kind="stable")[:4] if away[m] < within]


def _turned(
    windows: list[Window], owner: np.ndarray, local: np.ndarray, sign: np.ndarray, learned: Learned, k: int
) -> tuple[np.ndarray, np.ndarray]:
    """Numbers and signs after a trial of other signs, for a dislocation beside another or with a misfit."""
    beside = len(_members(windows, owner, k, learned, BESIDE)) > 1
    if not beside and not _misfits(windows, owner, local, sign, learned, k):
        return local, sign
    members = _members(windows, owner, k, learned, OVERLAP)
    best = _group_cost(windows, owner, members, local, sign, learned), local, sign
    for flips in itertools.product((1.0, -1.0), repeat=min(len(members), 2)):
        trial, signs = local.copy(), sign.copy()
        signs[members[: len(flips)]] *= flips
        for m in members[: len(flips)]:
            lobe = windows[owner[m]].lobe
            start = first_guess(lobe, learned.shape, signs[m], lobe[4] + 1)
            shift = (start[3:] - lobe[:2]) * start[2] * np.exp(-learned.before[2, 0])
            trial[m] = [
                np.exp(learned.before[0, 0]),
                learned.before[1, 0],
                np.exp(learned.before[2, 0]),
                *(lobe[:2] + shift),
            ]
        for _ in range(3):
            for m in members:
                part = _part(windows, owner, m, trial, learned)
                if part.good.sum() >= 12:
                    trial[m], *_ = fit_one(part, trial, signs, learned.shape, SHEET, learned.gain, 8, learned.before)
        cost = _group_cost(windows, owner, members, trial, signs, learned)
        if cost < best[0] - 1.0:
            best = cost, trial, signs
    return best[1:]


def _group_cost(
    windows: list[Window], owner: np.ndarray, members: list[int], local: np.ndarray, sign: np.ndarray, learned: Learned
) -> float:
    """Sum of :func:`_region_cost` over the windows of a dislocation and of its nearest neighbour."""
    return sum(_region_cost(windows, int(w), members, local, sign, learned) for w in np.unique(owner[members[:2]]))


def _another(
    windows: list[Window], owner: np.ndarray, local: np.ndarray, sign: np.ndarray, learned: Learned, k: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    """Numbers with one more dislocation in the window of dislocation k, if the counts require it."""
    window = windows[owner[k]]
    if not _misfits(windows, owner, local, sign, learned, k):
        return None
    members = _members(windows, owner, k, learned, OVERLAP)
    cost = _region_cost(windows, owner[k], members, local, sign, learned)
    best: tuple[float, np.ndarray, np.ndarray, np.ndarray] | None = None
    for start in _starts(window, k, local, sign, learned):
        numbers, side = start
        trial, signs = np.vstack([local, numbers]), np.append(sign, side)
        owners = np.append(owner, owner[k])
        group = [*members, len(local)]
        for _ in range(2):
            for m in (len(local), *members):
                one = _part(windows, owners, m, trial, learned)
                if one.good.sum() >= 12:
                    trial[m], *_ = fit_one(one, trial, signs, learned.shape, SHEET, learned.gain, 8, learned.before)
        new = _region_cost(windows, owner[k], group, trial, signs, learned)
        if cost - new > GAIN_OF_ONE and (best is None or new < best[0]):
            best = new, trial, signs, owners
    return None if best is None else best[1:]


def _starts(
    window: Window, k: int, local: np.ndarray, sign: np.ndarray, learned: Learned
) -> list[tuple[np.ndarray, float]]:
    """Positions and signs at which a further dislocation may be: mirrored about the lobe, and at the residuals."""
    near = np.argsort(distance(local[:, 3], local[:, 4], local[k, 3:5], learned.shape), kind="stable")[:5]
    near = np.array([k, *near[near != k]])
    image, _ = window_image(
        (window.top, window.left, window.counts.shape[0], window.counts.shape[1]),
        local[near, 3:5],
        sign[near],
        local[k, :3],
        learned.shape,
        SHEET,
        0,
    )
    residual = np.nan_to_num(window.counts - image)
    smooth = uniform_filter(residual, (5, 3))
    i, j = np.unravel_index(int(smooth.argmax()), smooth.shape)
    bright = np.array([window.top + i, window.left + j, *window.lobe[2:]])
    out = []
    for lobe in (window.lobe, bright):
        for side in (1.0, -1.0):
            numbers = first_guess(lobe, learned.shape, side, lobe[4])
            shift = (numbers[3:] - lobe[:2]) * numbers[2] * np.exp(-learned.before[2, 0])
            made = np.array(
                [np.exp(learned.before[0, 0]), learned.before[1, 0], np.exp(learned.before[2, 0]), *(lobe[:2] + shift)]
            )
            if distance(made[3], made[4], local[k, 3:5], learned.shape) > 1.0 or side != sign[k]:
                out.append((made, side))
    return out


def _significant(
    windows: list[Window], owner: np.ndarray, local: np.ndarray, sign: np.ndarray, learned: Learned, limit: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Leave out dislocations without amplitude, without pixels, or at the position of another."""
    keep = np.ones(len(local), bool)
    for k in range(len(local)):
        part = _part(windows, owner, k, local, learned)
        if part.good.sum() < 20:
            keep[k] = False
            continue
        _, _, normal, _, _, _ = terms(part, local, sign, learned.shape, SHEET, learned.gain, 1)
        error = np.sqrt(np.linalg.pinv(normal[:LOCAL, :LOCAL])[0, 0])
        keep[k] = local[k, 0] > limit * error
    for k in range(len(local)):
        same = keep & (sign == sign[k]) & (np.arange(len(local)) < k)
        if (distance(local[same, 3], local[same, 4], local[k, 3:5], learned.shape) < 1.0).any():
            keep[k] = False
    return local[keep], sign[keep], owner[keep]


def _described(
    windows: list[Window], owner: np.ndarray, local: np.ndarray, sign: np.ndarray, learned: Learned
) -> Found:
    """Covariances of the positions: Fisher information of all dislocations together, and the error of the shape."""
    count = len(local)
    size = LOCAL * count
    normal, cross, misfit = np.zeros((size, size)), np.zeros((size, SHAPE)), np.ones(count)
    for k in range(count):
        part = _part(windows, owner, k, local, learned)
        _, _, one, chi, used, index = terms(part, local, sign, learned.shape, SHEET, learned.gain, 2)
        own = len(index)
        normal[np.ix_(index, index)] += one[:own, :own]
        cross[index] += one[:own, own:]
        misfit[k] = chi / max(used, 1)
        scale = learned.before[:, 1] * np.array([local[k, 0], 1.0, local[k, 2]])
        at = LOCAL * k + np.arange(3)
        normal[at, at] += 1 / scale**2
    covariance = np.linalg.pinv(normal + 1e-9 * np.eye(size), hermitian=True) if count else normal
    pull = covariance @ cross
    covariance = covariance + pull @ learned.covariance @ pull.T
    places = LOCAL * np.arange(count)[:, None] + [3, 4]
    position = covariance[places[:, :, None], places[:, None, :]]
    position = position * np.outer(learned.scale, learned.scale)
    position = position * np.where(misfit > MISFIT, misfit, 1.0)[:, None, None]
    metric = np.array([1.0, np.exp(-learned.shape[LOG_STRETCH])])
    position = position + (MODEL_ERROR / local[:, 2])[:, None, None] ** 2 * np.diag(metric)
    away = (
        np.stack([distance(local[:, 3], local[:, 4], c, learned.shape) for c in local[:, 3:5]])
        if count
        else np.zeros((0, 0))
    )
    np.fill_diagonal(away, np.inf)
    close = np.asarray((np.sqrt(away) < 2 * CLOSE / local[:, 2]).any(axis=1)) if count else np.zeros(0, bool)
    error = np.sqrt(np.diag(covariance)[LOCAL * np.arange(count)])
    return Found(local, sign, owner, position, error, misfit, close)


def lobe_side(shape: np.ndarray) -> tuple[float, float]:
    """Direction from the core of a dislocation of sign +1 to its bright lobe, rows and columns."""
    metric = np.array([[1.0, shape[SHEAR]], [shape[SHEAR], np.exp(shape[LOG_STRETCH])]])
    row, column = np.linalg.solve(metric, [np.cos(shape[0]), np.sin(shape[0])])
    return float(row), float(column)
