"""Positions of all dislocations of a frame from its lobes, fitted together where their images overlap."""

from __future__ import annotations

import itertools
from typing import NamedTuple

import numpy as np

from dfxm_dask.dynamics.lobes.shape import Learned
from dfxm_dask.dynamics.lobes.templates import LOG_STRETCH, SHAPE, SHEAR, SHEET, SMEAR_X, SMEAR_Y, fit_window, profile
from dfxm_dask.dynamics.lobes.templates import window_terms as terms_of
from dfxm_dask.dynamics.lobes.window import JUMPS, LOCAL, Window, distance

JOINED = 7.0  # distance of lobes in units of 1/q0 below which dislocations are fitted together
LARGEST = 4  # dislocations fitted together
REACH = 3.6  # distance from a lobe in units of 1/q0 within which pixels are fitted
BESIDE = 20.0  # distance in units of 1/q0 within which another dislocation counts with its field, else with its slope
ROUNDS = 20
EXTRA = 18.0  # minus ln of the prior of a further dislocation, with the volume of its position
CONTRADICTED = 4.0  # standard deviations of chi squared above which other configurations are tried
TRIALS, TRIED = 120, 4  # random configurations of a contradicted fit, and how many of them are fitted
SWEEPS = 2  # fits of every group with the fields of the others
LEAST = 20  # pixels of a fit
MISFIT = 1.25  # chi squared per pixel above which errors grow with it
MODEL_ERROR = 0.024, 0.04
"""Errors of the forward model along rows and columns in units of 1/q0 in the metric of the field, added in squares: the
model contains only the rocking component of the acceptance, pixels of simulated movies sample the field at their
centres, and images move between pixels by interpolation. Chosen on simulated movies of seeds 1 to 4, 11 and 15."""
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


class Patch(NamedTuple):
    """Pixels about the lobes of a group of dislocations."""

    top: int
    left: int
    counts: np.ndarray
    good: np.ndarray
    lobes: np.ndarray
    """(lobe, 6), of the group."""
    members: np.ndarray
    """Numbers of the windows."""
    noise: np.ndarray
    """Read-out noise, its level, counts per photon, relative error of the image."""


class Fit(NamedTuple):
    """Dislocations of one patch: A, B and q0 are common to them."""

    window: np.ndarray
    cores: np.ndarray
    sign: np.ndarray
    cost: float
    """Minus ln of the posterior, with that of the number of dislocations."""
    chi: float
    """Chi squared per pixel."""


class Around(NamedTuple):
    """Dislocations of other groups."""

    cores: np.ndarray
    sign: np.ndarray


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
    patches = [_patch(windows, members, learned) for members in _groups(windows, learned)]
    patches = [p for p in patches if p.good.sum() >= LEAST]
    none = Around(np.zeros((0, 2)), np.zeros(0))
    fits: list[Fit] = [_first(p, none, learned) for p in patches]
    for sweep in range(SWEEPS):
        for k, patch in enumerate(patches):
            around = _around(fits, k)
            if sweep == 0:
                fits[k] = _searched(patch, around, fits[k], learned)
            elif len(patches) > 1:
                fits[k] = _fitted(patch, around, fits[k].cores, fits[k].sign, learned, ROUNDS, fits[k].window)
        if len(patches) < 2:
            break
    rows = [_described(p, _around(fits, k), fits[k], learned, limit) for k, p in enumerate(patches)]
    return _joined([row for row in rows if row is not None], learned)


def _groups(windows: list[Window], learned: Learned) -> list[np.ndarray]:
    """Numbers of the windows whose lobes are near each other, at most LARGEST together."""
    if not windows:
        return []
    lobes = np.array([w.lobe[:2] for w in windows])
    away = np.sqrt(np.stack([distance(lobes[:, 0], lobes[:, 1], c, learned.shape) for c in lobes]))
    away *= np.exp(learned.before[2, 0])

    def split(members: np.ndarray, within: float) -> list[np.ndarray]:
        left, out = list(members), []
        while left:
            group, queue = [], [left.pop(0)]
            while queue:
                k = queue.pop()
                group.append(k)
                near = [m for m in left if away[k, m] < within]
                left = [m for m in left if m not in near]
                queue += near
            one = np.array(sorted(group))
            out += [one] if len(one) <= LARGEST else split(one, 0.8 * within)
        return out

    return split(np.arange(len(windows)), JOINED)


def _patch(windows: list[Window], members: np.ndarray, learned: Learned) -> Patch:
    """Pixels that are within REACH of the lobes of a group, and nearer to them than to other lobes."""
    shape, radius = learned.shape, REACH * np.exp(-learned.before[2, 0])
    lobes = np.array([w.lobe for w in windows])
    across = radius / np.sqrt(max(np.exp(shape[LOG_STRETCH]) - shape[SHEAR] ** 2, 1e-3))
    half = np.array([radius * 1.1 + 2 * abs(shape[SMEAR_Y]), across + 2 * abs(shape[SMEAR_X])])
    own = lobes[members]
    corner = np.array([[w.top, w.left] for w in windows])
    end = corner + [w.counts.shape for w in windows]
    low = np.maximum(np.floor(own[:, :2].min(axis=0) - half).astype(int), corner[members].min(axis=0))
    high = np.minimum(np.ceil(own[:, :2].max(axis=0) + half).astype(int) + 1, end[members].max(axis=0))
    counts = np.full(np.maximum(high - low, 1), np.nan)
    for k in members:
        a, b = np.maximum(low, corner[k]), np.minimum(high, end[k])
        if (b > a).all():
            inside = windows[k].counts[
                a[0] - corner[k, 0] : b[0] - corner[k, 0], a[1] - corner[k, 1] : b[1] - corner[k, 1]
            ]
            counts[a[0] - low[0] : b[0] - low[0], a[1] - low[1] : b[1] - low[1]] = inside
    i, j = low[0] + np.arange(counts.shape[0])[:, None], low[1] + np.arange(counts.shape[1])[None, :]
    away = np.stack([distance(i, j, lobe, shape) for lobe in lobes])
    near = away[members].min(axis=0)
    good = np.isfinite(counts) & (near <= np.delete(away, members, axis=0).min(axis=0, initial=np.inf))
    boxes = [(np.abs(i - lobe[0]) <= half[0]) & (np.abs(j - lobe[1]) <= half[1]) for lobe in own]
    good &= np.any(boxes, axis=0)
    first = windows[members[0]]
    noise = np.array([first.noise, float(np.median(own[:, 4])), learned.gain, learned.fault])
    return Patch(int(low[0]), int(low[1]), np.where(good, counts, 0.0), good, own, members, noise)


def _around(fits: list[Fit], k: int) -> Around:
    others = [f for n, f in enumerate(fits) if n != k]
    if not others:
        return Around(np.zeros((0, 2)), np.zeros(0))
    return Around(np.concatenate([f.cores for f in others]), np.concatenate([f.sign for f in others]))


def _fields(patch: Patch, around: Around, learned: Learned) -> tuple[Around, np.ndarray]:
    """Near dislocations of other groups, and value and slopes of the field of distant ones."""
    far = np.zeros(3)
    if not len(around.cores):
        return around, far
    shape = learned.shape
    middle = np.array([patch.top, patch.left]) + (np.array(patch.counts.shape) - 1) / 2
    square = distance(middle[0], middle[1], around.cores.T, shape)
    near = square < (BESIDE * np.exp(-learned.before[2, 0])) ** 2
    if not near.all():
        off = middle - around.cores[~near]
        metric = np.array([[1.0, shape[SHEAR]], [shape[SHEAR], np.exp(shape[LOG_STRETCH])]])
        s = np.array([np.cos(shape[0]), np.sin(shape[0])])
        up, along = around.sign[~near] / square[~near], off @ s
        value = -(up * along).sum()
        slope = -(up[:, None] * (s - (2 * along / square[~near])[:, None] * (off @ metric))).sum(axis=0)
        far[:] = value - slope @ middle, *slope
    return Around(around.cores[near], around.sign[near]), far


def _fitted(
    patch: Patch,
    around: Around,
    cores: np.ndarray,
    sign: np.ndarray,
    learned: Learned,
    rounds: int,
    window: np.ndarray | None = None,
) -> Fit:
    """Fit the numbers of a group from a start."""
    near, far = _fields(patch, around, learned)
    every, signs = np.concatenate([cores, near.cores]), np.concatenate([sign, near.sign])
    start = window.copy() if window is not None else _usual(learned)
    cost, chi, used = fit_window(
        patch.top, patch.left, patch.counts, patch.good, every, len(cores), signs, start, far, learned.shape, SHEET,
        profile(learned.shape),
        patch.noise, learned.before, rounds,
    )  # fmt: skip
    return Fit(start, every[: len(cores)], sign, cost + EXTRA * len(cores), chi / max(used, 1))


def _usual(learned: Learned) -> np.ndarray:
    """A, B and q0 before any pixel of the frame."""
    return np.array([np.exp(learned.before[0, 0]), learned.before[1, 0], np.exp(learned.before[2, 0])])


def _start(lobe: np.ndarray, sign: float, learned: Learned) -> np.ndarray:
    """Position of a core from its lobe."""
    return np.asarray(lobe[:2] - sign * np.array(lobe_side(learned.shape)) * 1.1 / np.exp(learned.before[2, 0]))


def _first(patch: Patch, around: Around, learned: Learned) -> Fit:
    """Best of all signs of the lobes of a group, one dislocation each."""
    best: Fit | None = None
    for sign in itertools.product((1.0, -1.0), repeat=len(patch.lobes)):
        cores = np.array([_start(lobe, s, learned) for lobe, s in zip(patch.lobes, sign, strict=True)])
        fit = _fitted(patch, around, cores, np.array(sign), learned, 8)
        if best is None or fit.cost < best.cost:
            best = fit
    assert best is not None
    return best


def _searched(patch: Patch, around: Around, fit: Fit, learned: Learned) -> Fit:
    """Best fit of a group: further starts and numbers of dislocations where the counts contradict the first one."""
    fit = _fitted(patch, around, fit.cores, fit.sign, learned, ROUNDS, fit.window)
    if len(fit.cores) > 1 or _contradicted(patch, fit):
        for _ in range(2):
            for k in range(len(fit.cores) if len(fit.cores) > 1 else 0):
                rest = np.arange(len(fit.cores)) != k
                fewer = _fitted(patch, around, fit.cores[rest], fit.sign[rest], learned, ROUNDS)
                if fewer.cost < fit.cost:
                    fit = fewer
                    break
            if not _contradicted(patch, fit):
                break
            best = min([fit, *_trials(patch, around, fit, learned)], key=lambda f: f.cost)
            if best is fit:
                break
            fit = best
    return _settled(patch, around, fit, learned)


def _contradicted(patch: Patch, fit: Fit) -> bool:
    used = patch.good.sum()
    return bool(fit.chi > 1 + CONTRADICTED * np.sqrt(2 / used))


def _trials(patch: Patch, around: Around, fit: Fit, learned: Learned) -> list[Fit]:
    """Fits from the best of many random configurations, of the present number of dislocations and of one more."""
    rng = np.random.default_rng(0)
    near, far = _fields(patch, around, learned)
    radius = np.exp(-learned.before[2, 0])
    spread = np.array([2.0 * radius, 2.0 * radius / np.exp(0.5 * learned.shape[LOG_STRETCH])])
    window, drawn = _usual(learned), []
    for trial in range(TRIALS):
        number = len(fit.cores) + trial % 2
        lobes = patch.lobes[np.arange(number) % len(patch.lobes), :2]
        wide = spread * (1 + trial % 3 / 2)  # lobes that merge lie far from both cores
        cores = lobes + rng.uniform(-1, 1, (number, 2)) * wide
        sign = rng.choice([-1.0, 1.0], number)
        if trial % 4 == 1:  # one more beside the present ones
            cores[:-1], sign[:-1] = fit.cores, fit.sign
        every, signs = np.concatenate([cores, near.cores]), np.concatenate([sign, near.sign])
        cost = terms_of(
            patch.top, patch.left, patch.counts, patch.good, every, number, signs, window, far, learned.shape, SHEET,
            profile(learned.shape),
            patch.noise, 0,
        )[0]  # fmt: skip
        drawn.append((cost, trial, cores, sign))
    out = []
    for parity in (0, 1):
        ranked = sorted((d for d in drawn if d[1] % 2 == parity), key=lambda d: d[:2])
        short = [_fitted(patch, around, d[2], d[3], learned, 8) for d in ranked[:TRIED]]
        short.sort(key=lambda f: f.cost)
        out += [_fitted(patch, around, f.cores, f.sign, learned, ROUNDS, f.window) for f in short[:2]]
    return out


def _settled(patch: Patch, around: Around, fit: Fit, learned: Learned) -> Fit:
    """The fit after jumps to neighbouring minima of its likelihood.

    See :func:`.window.settle`, which does so for one dislocation while the shape is learned.
    """
    for k in range(len(fit.cores)):
        for jump in JUMPS:
            cores = fit.cores.copy()
            cores[k] += jump
            trial = _fitted(patch, around, cores, fit.sign, learned, 4, fit.window)
            fit = min(fit, trial, key=lambda f: f.cost)
    return fit


def _described(patch: Patch, around: Around, fit: Fit, learned: Learned, limit: float) -> Found | None:
    """Covariances of the positions: Fisher information of the group, the error of the shape, and the model error."""
    near, far = _fields(patch, around, learned)
    count = len(fit.cores)
    every, signs = np.concatenate([fit.cores, near.cores]), np.concatenate([fit.sign, near.sign])
    _, _, both, chi, used = terms_of(
        patch.top, patch.left, patch.counts, patch.good, every, count, signs, fit.window, far, learned.shape, SHEET,
        profile(learned.shape),
        patch.noise, 2,
    )  # fmt: skip
    size = 3 + 2 * count
    scale = learned.before[:, 1] * np.array([fit.window[0], 1.0, fit.window[2]])
    normal = both[:size, :size] + np.diag(np.concatenate([1 / scale**2, np.full(2 * count, 1e-9)]))
    covariance = np.linalg.pinv(normal, hermitian=True)
    error = float(np.sqrt(covariance[0, 0]))
    if not fit.window[0] > limit * error:
        return None
    pull = covariance @ both[:size, size : size + SHAPE]
    covariance = covariance + pull @ learned.covariance @ pull.T
    places = 3 + 2 * np.arange(count)[:, None] + [0, 1]
    misfit = chi / max(used, 1)
    position = covariance[places[:, :, None], places[:, None, :]] * np.outer(learned.scale, learned.scale)
    position = position * (misfit if misfit > MISFIT else 1.0)
    metric = np.array([1.0, np.exp(-learned.shape[LOG_STRETCH])])
    position = position + np.diag((np.array(MODEL_ERROR) / fit.window[2]) ** 2 * metric)
    owner = patch.members[
        [int(np.argmin(distance(patch.lobes[:, 0], patch.lobes[:, 1], c, learned.shape))) for c in fit.cores]
    ]
    local = np.column_stack([np.tile(fit.window, (count, 1)), fit.cores])
    return Found(local, fit.sign, owner, position, np.full(count, error), np.full(count, misfit), np.zeros(count, bool))


def _joined(rows: list[Found], learned: Learned) -> Found:
    """Dislocations of all groups of a frame."""
    if not rows:
        none = np.zeros(0)
        return Found(np.zeros((0, LOCAL)), none, np.zeros(0, int), np.zeros((0, 2, 2)), none, none, np.zeros(0, bool))
    found = Found(*(np.concatenate(values) for values in zip(*rows, strict=True)))
    cores = found.local[:, 3:5]
    away = np.sqrt(np.stack([distance(cores[:, 0], cores[:, 1], c, learned.shape) for c in cores]))
    np.fill_diagonal(away, np.inf)
    return found._replace(close=(away < 2 * CLOSE / found.local[:, 2]).any(axis=1))


def lobe_side(shape: np.ndarray) -> tuple[float, float]:
    """Direction from the core of a dislocation of sign +1 to its bright lobe, rows and columns."""
    metric = np.array([[1.0, shape[SHEAR]], [shape[SHEAR], np.exp(shape[LOG_STRETCH])]])
    row, column = np.linalg.solve(metric, [np.cos(shape[0]), np.sin(shape[0])])
    return float(row), float(column)
