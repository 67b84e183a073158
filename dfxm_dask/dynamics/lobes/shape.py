"""The shape that the images of the dislocations of a movie share, learned from its lobes."""

from __future__ import annotations

import itertools
from typing import NamedTuple

import numpy as np
from scipy.optimize import least_squares

from dfxm_dask.dynamics.lobes.noise import counts_per_photon, relative_error, scatter
from dfxm_dask.dynamics.lobes.templates import (
    ANGLE,
    DARKEST,
    DROOP,
    LOG_BLUR,
    LOG_STRETCH,
    LOG_WIDTH,
    OUTLIER,
    SHAPE,
    SHEAR,
    SHEET,
    SMEAR_X,
    SMEAR_Y,
    SMOOTH_SHEET,
    TAIL,
    window_image,
)
from dfxm_dask.dynamics.lobes.window import LOCAL, Part, Window, both_signs, fit_one, part_of, settle, terms
from dfxm_dask.optics.forward import setting
from dfxm_dask.optics.instrument.microscope import Microscope
from dfxm_dask.optics.resolution import resolution

LEARNED_FROM = 32  # lobes from which the shape is learned
TRUSTED = 0.75  # part of the lobes, those that fit best, from which the shape is learned
PASSES = 3  # searches for the shape, each from new fits of all lobes
GAIN = 2.0  # counts per photon before any frame
WIDE = np.array([0.04, 0.08, 0.1, 0.12, 0.12, 0.05, 0.02, 0.1, 0.04])  # steps of the shape for differences
WIDE_MOVE = 0.1, 0.05  # rows and columns
STARTS = 8  # lobes that decide between the directions of the lobe
LOOSE = 0.06, 0.3, 0.04  # least deviations of ln A, of B over the noise, and of ln q0 between dislocations
APART = 2.5  # heights and widths of a lobe within which another one makes it unfit for learning


def prior(pitch: tuple[float, float], microscope: Microscope) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of the shape of an image before any frame.

    Notes
    -----
    The acceptance is that of the microscope, with tails of 0.1 to 0.3 as on measured flanks. The metric of the field
    and the shift along the sheet are those of lines within some 30 degree of the normal of the layer; the blur is that
    of a camera with a thin scintillator (our choices).
    """
    mean, spread = np.zeros(SHAPE), np.ones(SHAPE)
    ratio = pitch[1] / pitch[0]
    half = np.cos(microscope.theta) * min(microscope.divergence_v_cut, 10 * max(microscope.divergence_v, 1e-6))
    mean[ANGLE], spread[ANGLE] = 0.0, 100.0
    mean[LOG_STRETCH], spread[LOG_STRETCH] = 2 * np.log(ratio), 0.2
    mean[SHEAR], spread[SHEAR] = 0.0, 0.3 * ratio
    mean[SMEAR_Y], spread[SMEAR_Y] = 0.0, 1.5
    mean[SMEAR_X], spread[SMEAR_X] = 0.0, 2.5
    mean[LOG_WIDTH], spread[LOG_WIDTH] = np.log(0.14), 0.5
    mean[TAIL], spread[TAIL] = 0.2, 0.05
    mean[DROOP], spread[DROOP] = -8 * np.log(resolution(np.array([half / 2, 0, 0]), microscope)), 0.03
    mean[LOG_BLUR], spread[LOG_BLUR] = np.log(1.2), 0.1
    return mean, spread


class Geometry(NamedTuple):
    """Constants that relate the metric of the field to the shift along the sheet: both follow from one line."""

    pitch: tuple[float, float]
    shear: np.ndarray
    """y and x of the diffracted beam at the height 1."""
    sheet: float


SLOPE_X, SLOPE_Y, LOG_SHEET = 1, 2, 3  # numbers of a line: x and y at the height 1, ln of the sheet over that expected
UNTIED = 5.0  # loss of ln L for each lobe above which the shape is not that of one direction of the line
TIED = SHAPE - 1  # angle, numbers of a line, width, tail, droop, blur
SHEET_SPREAD = 0.3  # standard deviation of LOG_SHEET before any frame (our choice)


def tied(numbers: np.ndarray, geometry: Geometry) -> np.ndarray:
    """Shape of straight lines of one direction t.

    Notes
    -----
    Distances from the line have the metric 1 - t t^T; at the height z the line has moved by z (t_x, t_y) / t_z and the
    pixel that images it by z times the direction of the diffracted beam.
    """
    shape = np.empty(SHAPE)
    shape[ANGLE], shape[LOG_WIDTH:] = numbers[0], numbers[4:]
    x, y = numbers[SLOPE_X], numbers[SLOPE_Y]
    ratio = geometry.pitch[1] / geometry.pitch[0]
    shape[LOG_STRETCH] = np.log((1 + y * y) / (1 + x * x) * ratio**2)
    shape[SHEAR] = -x * y / (1 + x * x) * ratio
    height = geometry.sheet * np.exp(numbers[LOG_SHEET])
    shape[SMEAR_Y] = (y - geometry.shear[0]) * height / geometry.pitch[0]
    shape[SMEAR_X] = (x - geometry.shear[1]) * height / geometry.pitch[1]
    return shape


def _untied(shape: np.ndarray, information: np.ndarray, geometry: Geometry) -> np.ndarray:
    """Numbers of the line whose shape is nearest to a general shape in the metric of its information."""
    weight = np.linalg.inv(np.linalg.inv(information)[LOG_STRETCH : SMEAR_X + 1, LOG_STRETCH : SMEAR_X + 1])
    root = np.linalg.cholesky(weight).T
    best: tuple[float, np.ndarray] | None = None
    for side in (1.0, -1.0):  # heights count alike on both sides of the middle of the sheet
        goal = shape[LOG_STRETCH : SMEAR_X + 1] * np.array([1, 1, side, side])

        def off(line: np.ndarray, goal: np.ndarray = goal) -> np.ndarray:
            made = tied(np.concatenate([[0.0], line, np.zeros(4)]), geometry)[LOG_STRETCH : SMEAR_X + 1]
            return np.append(root @ (made - goal), line[2] / SHEET_SPREAD)

        for start in itertools.product((-0.5, 0.5), repeat=2):
            found = least_squares(off, [*start, 0.0], max_nfev=60)
            if best is None or found.cost < best[0]:
                best = found.cost, found.x
    assert best is not None
    return np.concatenate([shape[:1], best[1], shape[LOG_WIDTH:]])


def _tied_slopes(numbers: np.ndarray, geometry: Geometry) -> np.ndarray:
    step = 1e-4
    return np.stack(
        [(tied(numbers + d, geometry) - tied(numbers - d, geometry)) / (2 * step) for d in step * np.eye(TIED)], axis=1
    )


class Learned(NamedTuple):
    """Shape that the images of a movie share."""

    shape: np.ndarray
    covariance: np.ndarray
    gain: float
    before: np.ndarray
    """Means and standard deviations of ln A, B and ln q0: (3, 2)."""
    scale: np.ndarray
    """(2,): scatter of rows and columns over that of the Fisher information; see :func:`.noise.scatter`."""
    fault: float
    """Relative error of the image of a single dislocation; see :func:`.noise.relative_error`."""


def alone(windows: list[Window], frame: np.ndarray) -> np.ndarray:
    """Numbers of the lobes without neighbours, brightest first."""
    out = []
    places = np.array([w.lobe for w in windows])
    for k, window in enumerate(windows):
        same = np.flatnonzero(frame == frame[k])
        apart = np.abs(places[same, :2] - places[k, :2]) / (APART * places[k, 2:4] + 2)
        if (apart.max(axis=1) < 1).sum() == 1 and np.isfinite(window.counts).all():
            out.append(k)
    return np.array(sorted(out, key=lambda k: (-places[k, 5], k)), np.int64)


def learn(
    windows: list[Window], frame: np.ndarray, pitch: tuple[float, float], microscope: Microscope
) -> Learned | None:
    """Shape and counts per photon from the brightest lobes that have no neighbour; None without a lobe.

    The result does not depend on the order or the distribution of the frames: the lobes are ranked.
    """
    if not windows:
        return None
    chosen = alone(windows, frame)
    chosen = chosen if len(chosen) else np.arange(len(windows))
    # Evenly over the ranks: the brightest alone would be one dislocation in many frames.
    chosen = chosen[: max(len(chosen) * 9 // 10, 1)]
    chosen = chosen[np.unique(np.linspace(0, len(chosen) - 1, LEARNED_FROM).round().astype(int))]
    picked = [windows[k] for k in chosen]
    mean, spread = prior(pitch, microscope)
    beam = setting(microscope.theta, eta=microscope.eta).shear
    geometry = Geometry(pitch, np.array([beam[1], beam[0]]), microscope.sheet)
    shape = _first_shape(picked[:: max(1, len(picked) // STARTS)][:STARTS], mean, spread, pitch)
    gain = GAIN
    if shape is None:
        return None
    for _ in range(2):
        shape, _, _ = _smooth_steps(_fitted(picked, shape, gain), shape, mean, spread, gain, 15)
    for number in range(PASSES):
        lobes = _fitted(picked, shape, gain)
        shape, lobes, covariance = _wide_steps(
            lobes, shape, (mean, spread), gain, 12, None if number == 0 else geometry
        )
        gain = counts_per_photon(lobes, shape, SHEET, gain)
    values = np.column_stack([np.log(lobes.local[:, 0]), lobes.local[:, 1], np.log(lobes.local[:, 2])])
    middle = np.median(values, axis=0)
    width = 1.4826 * np.median(np.abs(values - middle), axis=0)
    noise = float(np.median([w.noise for w in picked]))
    before = np.stack([middle, np.maximum(1.5 * width, (LOOSE[0], LOOSE[1] * noise, LOOSE[2]))], axis=1)
    fault = relative_error(lobes, shape, gain)
    return Learned(shape, covariance, gain, before, scatter(lobes, shape, gain), fault)


class Lobes(NamedTuple):
    """Lobes without neighbours, with their numbers and signs."""

    parts: list[Part]
    local: np.ndarray
    sign: np.ndarray


def _fitted(picked: list[Window], shape: np.ndarray, gain: float) -> Lobes:
    """Fits of lobes with a smooth image; those that fit worst are left out: they may be two."""
    fits = [(w, both_signs(w, shape, SMOOTH_SHEET, gain, 6)) for w in picked]
    kept = [(w, fit) for w, fit in fits if fit is not None]
    if len(kept) > 3:
        limit = np.quantile([fit[3] for _, fit in kept], TRUSTED)
        kept = [(w, fit) for w, fit in kept if fit[3] <= limit]
    local = np.array([fit[0] for _, fit in kept]).reshape(-1, LOCAL)
    sign = np.array([fit[1] for _, fit in kept])
    return Lobes([part_of(w, 0, local[[k]], shape) for k, (w, _) in enumerate(kept)], local, sign)


def _first_shape(
    few: list[Window], mean: np.ndarray, spread: np.ndarray, pitch: tuple[float, float]
) -> np.ndarray | None:
    """Best of several directions of the lobe and of the shift along the sheet."""
    best: tuple[float, np.ndarray] | None = None
    for angle in np.arange(4) * np.pi / 4:
        for smear in ((0.0, 1.5), (1.5, 0.5)):
            shape = mean.copy()
            shape[ANGLE] = np.arctan2(pitch[1] / pitch[0] * np.sin(angle), np.cos(angle))
            shape[SMEAR_Y], shape[SMEAR_X] = smear
            for rounds in (6, 12):
                lobes = _fitted(few, shape, GAIN)
                if not lobes.parts:
                    return None
                shape, _, _ = _smooth_steps(lobes, shape, mean, spread, GAIN, rounds)
            misfits = [fit[3] for fit in (both_signs(w, shape, SMOOTH_SHEET, GAIN, 6) for w in few) if fit is not None]
            misfit = float(np.quantile(misfits, TRUSTED / 2)) if misfits else np.inf
            if best is None or misfit < best[0]:
                best = misfit, shape
    return None if best is None else best[1]


def _smooth_steps(
    lobes: Lobes, shape: np.ndarray, mean: np.ndarray, spread: np.ndarray, gain: float, rounds: int
) -> tuple[np.ndarray, float, Lobes]:
    """Shape and local numbers together by Levenberg–Marquardt steps, for the smooth image. Returns also the cost."""
    parts, local, sign = lobes
    every = range(len(parts))

    def evaluate(local: np.ndarray, shape: np.ndarray) -> tuple[float, list[tuple[np.ndarray, np.ndarray]]]:
        found = [terms(parts[k], local[[k]], sign[[k]], shape, SMOOTH_SHEET, gain) for k in every]
        cost = 0.5 * float((((shape - mean) / spread) ** 2).sum()) + sum(one[0] for one in found)
        return cost, [(one[1], one[2]) for one in found]

    damping = 1e-2
    cost, blocks = evaluate(local, shape)
    for _ in range(rounds):
        step, moves = _eliminated(blocks, shape, mean, spread, damping)
        new_shape, new_local = bounded(shape + step), local.copy()
        for k, move in enumerate(moves):
            new_local[k, :2] += move[:2]
            new_local[k, 0] = max(new_local[k, 0], 0.2 * local[k, 0])
            new_local[k, 2] *= np.exp(np.clip(move[2] / local[k, 2], -0.3, 0.3))
            new_local[k, 3:] += np.clip(move[3:], -2, 2)
        new, new_blocks = evaluate(new_local, new_shape)
        if new < cost:
            gained = cost - new
            cost, blocks, local, shape = new, new_blocks, new_local, new_shape
            damping = max(damping / 8, 1e-8)
            if gained < 0.02:
                break
        else:
            damping *= 8
            if damping > 1e6:
                break
    return shape, cost, Lobes(parts, local, sign)


def _reduced(
    blocks: list[tuple[np.ndarray, np.ndarray]], shape: np.ndarray, mean: np.ndarray, spread: np.ndarray, damping: float
) -> tuple[np.ndarray, np.ndarray, list[np.ndarray]]:
    """Information and gradient of the shape after elimination of the local numbers, which meet in the shape alone."""
    information, force, solved = np.diag((1 + damping) / spread**2), -(shape - mean) / spread**2, []
    for right, normal in blocks:
        own = normal[:LOCAL, :LOCAL] + np.diag(damping * np.diag(normal)[:LOCAL] + 1e-9)
        cross, last = normal[:LOCAL, LOCAL:], normal[LOCAL:, LOCAL:]
        into = np.linalg.solve(own, np.column_stack([cross, right[:LOCAL]]))
        information += last + np.diag(damping * np.diag(last)) - cross.T @ into[:, :SHAPE]
        force = force + right[LOCAL:] - cross.T @ into[:, SHAPE]
        solved.append(into)
    return information, force, solved


def _eliminated(
    blocks: list[tuple[np.ndarray, np.ndarray]], shape: np.ndarray, mean: np.ndarray, spread: np.ndarray, damping: float
) -> tuple[np.ndarray, list[np.ndarray]]:
    """Step of the shape, and those of the local numbers."""
    information, force, solved = _reduced(blocks, shape, mean, spread, damping)
    step = np.clip(np.linalg.solve(information, force), -0.4, 0.4)
    return step, [into[:, SHAPE] - into[:, :SHAPE] @ step for into in solved]


def _wide_slopes(part: Part, local: np.ndarray, sign: np.ndarray, shape: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Image of a lobe, and its differences over wide steps of position and shape: (number, pixel)."""
    box = part.top, part.left, part.counts.shape[0], part.counts.shape[1]
    cores, window = local[None, 3:5], local[:3]
    image, rows = window_image(box, cores, sign, window, shape, SHEET, 1)
    slopes = np.empty((LOCAL + SHAPE, part.counts.size))
    slopes[:LOCAL] = rows.reshape(LOCAL, -1)
    for axis, step in enumerate(WIDE_MOVE):
        move = np.zeros((1, 2))
        move[0, axis] = step
        high, _ = window_image(box, cores + move, sign, window, shape, SHEET, 0)
        low, _ = window_image(box, cores - move, sign, window, shape, SHEET, 0)
        slopes[3 + axis] = ((high - low) / (2 * step)).ravel()
    for n in range(SHAPE):
        change = np.zeros(SHAPE)
        change[n] = WIDE[n]
        high, _ = window_image(box, cores, sign, window, shape + change, SHEET, 0)
        low, _ = window_image(box, cores, sign, window, shape - change, SHEET, 0)
        slopes[LOCAL + n] = ((high - low) / (2 * WIDE[n])).ravel()
    return image, slopes


def _wide_steps(
    lobes: Lobes,
    shape: np.ndarray,
    before: tuple[np.ndarray, np.ndarray],
    gain: float,
    rounds: int,
    geometry: Geometry | None,
) -> tuple[np.ndarray, Lobes, np.ndarray]:
    """Shape by Gauss–Newton steps with differences over wide steps. Returns also the covariance of the shape.

    Pixels that sample the field at their centres make the likelihood rough on the scale of a fraction of a pixel.
    Derivatives stop at every bump; differences over wide steps do not. With a geometry, the shape is that of straight
    lines of one direction.
    """
    parts, sign = lobes.parts, lobes.sign
    mean, spread = before

    def settled(shape: np.ndarray, local: np.ndarray) -> tuple[np.ndarray, float]:
        local, total = local.copy(), 0.5 * float((((shape - mean) / spread) ** 2).sum())
        for k, part in enumerate(parts):
            local[k], cost, _, _ = fit_one(part, local[[k]], sign[[k]], shape, SHEET, gain, 6)
            local[k], cost = settle(part, local[[k]], sign[[k]], shape, SHEET, gain, cost)
            total += cost
        return local, total

    def blocks(shape: np.ndarray, local: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
        out = []
        for k, part in enumerate(parts):
            image, slopes = _wide_slopes(part, local[k], sign[[k]], shape)
            variance = np.maximum(part.read**2 + gain * (image - part.base), DARKEST * part.read**2)
            residual = part.counts - image
            far = OUTLIER * np.sqrt(variance) / np.maximum(np.abs(residual), 1e-9)
            heavy = slopes * (np.where(part.good, np.minimum(1, far), 0) / variance).ravel()
            out.append((heavy @ residual.ravel(), heavy @ slopes.T))
        return out

    local = lobes.local
    numbers, rest = shape, np.zeros(SHAPE)
    if geometry is not None:
        general = settled(shape, local)[1]
        information = _reduced(blocks(shape, local), shape, mean, spread, 0.0)[0]
        numbers = _untied(shape, information, geometry)
        rest = np.zeros(TIED)
        rest[LOG_SHEET] = 1 / SHEET_SPREAD**2

    def shape_of(numbers: np.ndarray) -> np.ndarray:
        return bounded(numbers if geometry is None else tied(numbers, geometry))

    first = shape
    shape = shape_of(numbers)
    local, cost = settled(shape, local)
    cost += 0.5 * float((rest * numbers**2).sum())
    damping = 1e-3
    for _ in range(rounds):
        information, force, _ = _reduced(blocks(shape, local), shape, mean, spread, 0.0)
        slopes = np.eye(SHAPE) if geometry is None else _tied_slopes(numbers, geometry)
        information = slopes.T @ information @ slopes + np.diag(rest)
        force = slopes.T @ force - rest * numbers
        better = False
        for _ in range(3):
            step = np.linalg.solve(information + damping * np.diag(np.diag(information)), force)
            trial = numbers + np.clip(step, -0.4, 0.4)
            new_local, new = settled(shape_of(trial), local)
            new += 0.5 * float((rest * trial**2).sum())
            if new < cost:
                better = cost - new > 0.5
                numbers, shape, local, cost = trial, shape_of(trial), new_local, new
                damping = max(damping / 5, 1e-4)
                break
            damping *= 10
        if not better:
            break
    if geometry is not None and cost > general + UNTIED * len(parts):
        return _wide_steps(lobes, first, before, gain, rounds, None)
    return shape, Lobes(parts, local, sign), slopes @ np.linalg.inv(information) @ slopes.T


def bounded(shape: np.ndarray) -> np.ndarray:
    """A shape within its physical range: the metric of the field stays positive."""
    shape = shape.copy()
    shape[TAIL] = np.clip(shape[TAIL], 0.0, 0.6)
    shape[DROOP] = np.clip(shape[DROOP], 0.0, 1.5)
    shape[LOG_BLUR] = np.clip(shape[LOG_BLUR], np.log(0.5), np.log(2.5))
    shape[LOG_STRETCH] = max(shape[LOG_STRETCH], 2 * np.log(abs(shape[SHEAR]) + 0.3))
    return shape
