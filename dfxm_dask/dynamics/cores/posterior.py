"""Posterior of the positions of one to three cores: optima, quadrature or importance sampling round them, evidence.

Point-sampled pixels make the likelihood of a core rugged below some 10 nm: a voxel at the distance r from the line is
accepted only while r changes by some r²/b of the acceptance, which is a nanometre at 20 nm. One optimum and its
curvature then miss most of the posterior. The pixels whose columns the line crosses carry this structure; the others
vary smoothly. So the likelihood of the smooth pixels is interpolated over a wide grid of positions, and that of the few
others is computed at every point of a fine one.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit
from scipy.interpolate import RectBivariateSpline
from scipy.special import gammaincinv, gammaln, logsumexp, ndtri
from scipy.stats import qmc

from dfxm_dask.dynamics.cores.likelihood import NUISANCES, Window, descend, minus_log_posterior

CAP, TOLERANCE, MOST = 0.15, 1e-5, 40  # um, um: longest and last step; evaluations of one descent
COARSE, FINE, REACH, ZOOM, SPARSE = 7, 41, 5.0, 4.5, 80
"""Grid points along each side for smooth pixels and for the others; half width of the grid in standard deviations, and
that of the second grid where fewer than SPARSE points of the first share the posterior."""
MARGIN = 0.1  # um beyond which a pixel varies smoothly with the position of the line
DISTANT = 60.0  # of minus the log posterior above the best optimum: another optimum plays no role
RIVAL = 0.05  # part of the posterior at another optimum that forbids an interval
SAMPLES, ROUNDS, DEGREES, ENOUGH = 256, 6, 5.0, 100.0  # of the importance sampling: draws, rounds, t, effective draws
CANDIDATES = 2048  # starts of several cores
BAD_FIT = 0.25, 6.0  # excess of chi2 a pixel: absolute, and in standard deviations

REASONS = (
    (1, "no_window"),
    (2, "model_does_not_fit"),
    (4, "several_optima"),
    (8, "end_of_prior"),
    (16, "not_converged"),
    (32, "ambiguous_character"),
    (64, "too_many_overlaps"),
    (128, "invalid_pixels"),
)
FLAG = {name: bit for bit, name in REASONS}


class Posterior(NamedTuple):
    """Positions of the cores of one window.

    Attributes
    ----------
    position : array (core, 2), um
        Posterior mean of y and x.
    covariance : array (2 core, 2 core), um2
        Of y and x of the first core, of the second, ...
    log_evidence : float
        Logarithm of the probability density of the counts, averaged over the prior, up to a constant of the window.
    chi2 : float
        A pixel, at the best position.
    nuisances : array (5,)
        Rocking angle (rad), its slopes along y and x (rad/um), scale and background (counts).
    rival : float
        Part of the posterior that lies at other optima.
    flags : int
        Sum of reasons (REASONS).
    """

    position: np.ndarray
    covariance: np.ndarray
    log_evidence: float
    chi2: float
    nuisances: np.ndarray
    rival: float
    flags: int


class _Optimum(NamedTuple):
    parameters: np.ndarray
    value: float
    chi2: float
    covariance: np.ndarray
    converged: bool


def optima(window: Window, lines: np.ndarray, begin: np.ndarray) -> list[_Optimum]:
    """Distinct optima reached from the starts, best first."""
    boxes = window.box.reshape(2, -1, 2)
    same = len(lines) > 1 and (boxes == boxes[:, :1]).all()
    found = []
    for start in begin:
        here, value, chi2, information, _, converged = descend(window, lines, start, CAP, TOLERANCE, MOST)
        ordered = _ordered(here, lines) if same else here
        if (ordered != here).any():
            here, score = ordered, np.empty(here.size)
            minus_log_posterior(window, lines, here, score, information)
        if np.isfinite(value) and np.linalg.cond(information / _scales(information)) < 1e12:
            found.append(_Optimum(here, value, chi2, _inverse(information), converged))
    found.sort(key=lambda one: one.value)
    kept: list[_Optimum] = []
    positions = 2 * len(lines)
    for one in found:
        if one.value > found[0].value + DISTANT:
            break
        far = (np.abs(one.parameters - k.parameters)[:positions].max() > 2 * TOLERANCE for k in kept)
        if all(far):
            kept.append(one)
    return kept


def _ordered(parameters: np.ndarray, lines: np.ndarray) -> np.ndarray:
    """Cores of equal lines and boxes in the order of their y: exchanged, they are the same optimum."""
    out = parameters.copy()
    for kind in np.unique(lines, axis=0):
        same = np.flatnonzero((lines == kind).all(1))
        pairs = parameters[: 2 * len(lines)].reshape(-1, 2)[same]
        out[: 2 * len(lines)].reshape(-1, 2)[same] = pairs[np.lexsort(pairs.T[::-1])]
    return out


def _scales(matrix: np.ndarray) -> np.ndarray:
    size = np.sqrt(np.maximum(np.diag(matrix), 1e-300))
    return np.outer(size, size)


def _inverse(matrix: np.ndarray) -> np.ndarray:
    scales = _scales(matrix)
    return np.asarray(np.linalg.inv(matrix / scales) / scales)


@njit(cache=True, nogil=True)
def _terms(window, lines, samples, gradient):
    """Minus log posterior and its derivatives by the nuisances, at every row of parameters."""
    size = samples.shape[1]
    out = np.zeros((samples.shape[0], 1 + NUISANCES))
    score, information = np.empty(size if gradient else 0), np.empty((size if gradient else 0, size))
    for k in range(samples.shape[0]):
        out[k, 0] = minus_log_posterior(window, lines, samples[k], score, information)[0]
        if gradient:
            out[k, 1:] = score[size - NUISANCES :]
    return out


def _crossed(window: Window, line: np.ndarray, position: np.ndarray) -> tuple[slice, slice]:
    """Rectangle of pixels whose columns the line crosses."""
    points, t = window.optics.points, line[0, 6:9]
    ends = points[[points[:, 2].argmin(), points[:, 2].argmax()]]
    out = []
    for side, pixels, blur in ((0, window.y, window.blur_y), (1, window.x, window.blur_x)):
        column = 1 - side
        at = position[side] + t[column] / t[2] * ends[:, 2] - ends[:, column]
        inner = pixels[blur.size - 1 : pixels.size - blur.size + 1]
        reach = (pixels[1] - pixels[0]) / 2 + MARGIN
        hit = np.flatnonzero((inner > at.min() - reach) & (inner < at.max() + reach))
        out.append(slice(int(hit[0]), int(hit[-1]) + 1) if hit.size else slice(0, 0))
    return out[0], out[1]


def _part(window: Window, rows: slice, columns: slice) -> Window:
    """Some pixels of a window, without priors."""
    return window._replace(
        counts=np.ascontiguousarray(window.counts[rows, columns]),
        valid=np.ascontiguousarray(window.valid[rows, columns]),
        y=window.y[rows.start : rows.stop + 2 * (window.blur_y.size - 1)].copy(),
        x=window.x[columns.start : columns.stop + 2 * (window.blur_x.size - 1)].copy(),
        spread=np.where(window.spread > 0, np.inf, 0.0),
        box=np.array([[-np.inf, -np.inf], [np.inf, np.inf]]),
    )


class _Grid(NamedTuple):
    centre: np.ndarray  # of the smooth part
    precision: np.ndarray
    points: np.ndarray
    weights: np.ndarray  # logarithms, with the area of a cell
    ends: bool


def _grid(window: Window, line: np.ndarray, start: np.ndarray) -> _Grid | None:
    """Posterior of one core round an optimum; the nuisances are integrated out as normal numbers."""
    free = window.spread > 0
    gradient = bool(free.any())
    rows, columns = _crossed(window, line, start[:2])
    rugged = window.blur_y.size == 1  # a blur smooths the pixels
    valid = window.valid.copy()
    valid[rows, columns] &= not rugged
    centre, value, _, information, _, _ = descend(window._replace(valid=valid), line, start, CAP, TOLERANCE, MOST)
    if not np.isfinite(value) or not np.linalg.cond(information / _scales(information)) < 1e12:
        return None
    covariance = _inverse(information)
    root = np.linalg.cholesky(covariance[:2, :2])
    near = _part(window, rows, columns)
    wide = window._replace(box=near.box)
    coarse, fine = np.linspace(-REACH, REACH, COARSE), np.linspace(-REACH, REACH, FINE)

    def parameters(points: np.ndarray) -> np.ndarray:
        return np.column_stack([points, np.broadcast_to(centre[2:], (len(points), NUISANCES))])

    def square(side: np.ndarray) -> np.ndarray:
        return np.stack(np.meshgrid(side, side, indexing="ij"), axis=-1).reshape(-1, 2)

    coarse_points = parameters(centre[:2] + square(coarse) @ root.T)
    smooth = _terms(wide, line, coarse_points, gradient)
    if rugged:
        smooth -= _terms(near, line, coarse_points, gradient)
    used = smooth[:, : 1 + NUISANCES if gradient else 1]
    splines = [RectBivariateSpline(coarse, coarse, column.reshape(COARSE, COARSE)) for column in used.T]
    curvature = information[2:, 2:][np.ix_(free, free)]

    def evaluated(white: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        points = centre[:2] + white @ root.T
        inside = (np.abs(white) <= REACH).all(1) & (points >= window.box[0]).all(1) & (points <= window.box[1]).all(1)
        terms = np.stack([spline(*white[inside].T, grid=False) for spline in splines], axis=-1)
        likely = terms[:, 0] < smooth[:, 0].min() + DISTANT
        inside[inside] = likely
        terms = terms[likely]
        if rugged:
            terms += _terms(near, line, parameters(points[inside]), gradient)[:, : len(splines)]
        values = np.full(len(points), np.inf)
        values[inside] = terms[:, 0]
        if gradient:
            score = terms[:, 1:][:, free]
            values[inside] -= 0.5 * np.einsum("ki,ki->k", score, np.linalg.solve(curvature, score.T).T)
            values[inside] += 0.5 * np.linalg.slogdet(curvature / (2 * np.pi))[1]
        return points, values

    white = square(fine)
    points, values = evaluated(white)
    if not np.isfinite(values).any():
        return None
    step = fine[1] - fine[0]
    cell = step**2 * np.linalg.det(root)
    part = np.exp(values.min() - values)
    part /= part.sum()
    if 1 / (part**2).sum() < SPARSE:
        middle = part @ white
        spread = ((white - middle) * part[:, None]).T @ (white - middle) + step**2 / 12 * np.eye(2)
        zoom = np.linalg.cholesky(spread) * (ZOOM / REACH)
        points, values = evaluated(middle + white @ zoom.T)
        cell *= np.linalg.det(zoom)
    # A smooth optimum at an end of the box is where the box stops the descent, not where the data have one.
    width = np.sqrt(np.diag(covariance)[:2])
    ends = bool(((centre[:2] < window.box[0] + 1e-3 * width) | (centre[:2] > window.box[1] - 1e-3 * width)).any())
    return _Grid(centre, np.linalg.inv(covariance[:2, :2]), points, np.log(cell) - values, ends)


def _misfit(chi2: float, pixels: int) -> bool:
    return not abs(chi2 - 1) < max(BAD_FIT[0], BAD_FIT[1] * np.sqrt(2 / max(pixels, 1)))


def _failed(cores: int, flags: int) -> Posterior:
    two = 2 * cores
    nothing = np.full((cores, 2), np.nan), np.full((two, two), np.nan), -np.inf, np.nan, np.full(NUISANCES, np.nan)
    return Posterior(*nothing, np.nan, flags)


def one_core(window: Window, line: np.ndarray, begin: np.ndarray) -> Posterior:
    """Posterior of one core, by quadrature round every optimum that matters."""
    kept = optima(window, line, begin)
    grids: list[_Grid] = []
    for one in kept:
        offsets = (one.parameters[:2] - g.centre[:2] for g in grids)
        if any(d @ g.precision @ d < REACH**2 for d, g in zip(offsets, grids, strict=True)):
            continue
        made = _grid(window, line, one.parameters)
        if made is not None and np.isfinite(made.weights).any():
            again = (made.centre[:2] - g.centre[:2] for g in grids)
            if not any(d @ g.precision @ d < 1 for d, g in zip(again, grids, strict=True)):
                grids.append(made)
    if not grids:
        return _failed(1, FLAG["not_converged"])
    shares = np.array([logsumexp(g.weights) for g in grids])
    evidence = float(logsumexp(shares))
    best = grids[int(shares.argmax())]
    weights = np.exp(best.weights - shares.max())
    position = weights @ best.points
    off = best.points - position
    covariance = (off * weights[:, None]).T @ off
    rival = float(-np.expm1(shares.max() - evidence)) if len(grids) > 1 else 0.0
    peak = np.concatenate([best.points[int(weights.argmax())], best.centre[2:]])
    chi2 = float(minus_log_posterior(window, line, peak, np.empty(0), np.empty((0, 0)))[1])
    flags = FLAG["several_optima"] * (rival > RIVAL) | FLAG["end_of_prior"] * best.ends
    flags |= FLAG["model_does_not_fit"] * _misfit(chi2, int(window.valid.sum()))
    return Posterior(position[None], covariance, evidence - _log_prior(window), chi2, peak[2:], rival, int(flags))


def _log_prior(window: Window) -> float:
    """Logarithm of the volume of the box, and of the norms of the priors of the nuisances."""
    free = window.spread > 0
    widths = np.log(window.spread[free]).sum() + 0.5 * free.sum() * np.log(2 * np.pi)
    return float(np.log(window.box[1] - window.box[0]).sum() + widths)


def _log_t(samples: np.ndarray, centre: np.ndarray, root: np.ndarray) -> np.ndarray:
    """Logarithm of the density of a multivariate t distribution."""
    size = len(centre)
    square = (np.linalg.solve(root, (samples - centre).T) ** 2).sum(0)
    norm = gammaln((DEGREES + size) / 2) - gammaln(DEGREES / 2) - 0.5 * size * np.log(DEGREES * np.pi)
    return np.asarray(norm - np.log(np.diag(root)).sum() - 0.5 * (DEGREES + size) * np.log1p(square / DEGREES))


def several_cores(window: Window, lines: np.ndarray, begin: np.ndarray, seed: int) -> Posterior:
    """Posterior of several cores whose fields superpose, by adaptive importance sampling round the optima."""
    cores = len(lines)
    kept = optima(window, lines, begin)
    if not kept:
        return _failed(cores, FLAG["not_converged"])
    free = np.concatenate([np.ones(2 * cores, bool), window.spread > 0])
    size = int(free.sum())
    proposals = []
    for one in kept:
        root = np.linalg.cholesky(one.covariance[np.ix_(free, free)])
        proposals += [(one.parameters[free], 1.2 * root, one.value), (one.parameters[free], 4.0 * root, one.value)]
    levels = np.array([-value + np.log(np.diag(root)).sum() for _, root, value in proposals])
    shares = np.maximum(np.exp(levels - levels.max()), 0.02)
    shares /= shares.sum()
    used, drawn, values = [], [], []
    for number in range(ROUNDS):
        with_seed = qmc.Sobol(size + 2, seed=np.random.default_rng([seed, number])).random(SAMPLES)
        with_seed = np.clip(with_seed, 1e-9, 1 - 1e-9)
        which = np.searchsorted(np.cumsum(shares)[:-1], with_seed[:, 0])
        radius = np.sqrt(2 * gammaincinv(DEGREES / 2, with_seed[:, 1]) / DEGREES)
        normal = ndtri(with_seed[:, 2:]) / radius[:, None]
        samples = np.stack([proposals[k][0] + proposals[k][1] @ n for k, n in zip(which, normal, strict=True)])
        full = np.tile(kept[0].parameters, (SAMPLES, 1))
        full[:, free] = samples
        used.append((proposals, shares))
        drawn.append(samples)
        values.append(_terms(window, lines, full, False)[:, 0])
        every = np.concatenate(drawn)
        densities = [np.log(s) + _log_t(every, c, r) for p, q in used for (c, r, _), s in zip(p, q, strict=True)]
        weights = -np.concatenate(values) - logsumexp(densities, axis=0) + np.log(len(used))
        evidence = float(logsumexp(weights) - np.log(len(every)))
        part = np.exp(weights - logsumexp(weights))
        mean = part @ every
        spread = ((every - mean) * part[:, None]).T @ (every - mean)
        effective = 1 / (part**2).sum()
        if effective > ENOUGH:
            break
        wide = spread + 0.1 * kept[0].covariance[np.ix_(free, free)]
        proposals, shares = [(mean, 1.3 * np.linalg.cholesky(wide), 0.0)], np.ones(1)
    position, covariance = mean[: 2 * cores].reshape(cores, 2), spread[: 2 * cores, : 2 * cores]
    centre = kept[0].parameters.copy()
    centre[free] = mean
    chi2 = float(minus_log_posterior(window, lines, kept[0].parameters, np.empty(0), np.empty((0, 0)))[1])
    apart = np.abs(every[:, : 2 * cores] - kept[0].parameters[: 2 * cores])
    reach = np.maximum(6 * np.sqrt(np.diag(kept[0].covariance))[: 2 * cores], 0.03)
    rival = float(part[(apart > reach).any(1)].sum())
    at_end = (kept[0].parameters[: 2 * cores] == window.box).any()
    flags = FLAG["several_optima"] * (rival > RIVAL) | FLAG["end_of_prior"] * bool(at_end)
    flags |= FLAG["not_converged"] * (effective < 0.2 * ENOUGH)
    flags |= FLAG["model_does_not_fit"] * _misfit(chi2, int(window.valid.sum()))
    log_evidence = evidence - _log_prior(window)
    return Posterior(position, covariance, log_evidence, chi2, centre[2 * cores :], rival, int(flags))


def joint_starts(window: Window, lines: np.ndarray, most: int) -> np.ndarray:
    """Starts of several cores: the best of many positions in their boxes, each followed by a few steps of descent.

    Fields add and images do not, so the images of single cores cannot serve here. Every second pixel is enough.
    """
    cores = len(lines)
    thin = window
    if window.blur_y.size == 1 and window.counts.size > 1000:
        thin = window._replace(
            counts=np.ascontiguousarray(window.counts[::2, ::2]),
            valid=np.ascontiguousarray(window.valid[::2, ::2]),
            y=window.y[::2].copy(),
            x=window.x[::2].copy(),
        )
    pixel = np.abs([window.y[1] - window.y[0], window.x[1] - window.x[0]])
    cells = np.prod((window.box[1] - window.box[0]) / np.tile(4 * pixel, cores) + 1)
    blurred = window.blur_y.size > 1  # boxes about detections, smooth images: few starts are enough
    count = int(min(max(2 ** np.ceil(np.log2(8 * cells)), 64), 64 if blurred else CANDIDATES))
    grid = qmc.Sobol(2 * cores, seed=0).random(count)
    grid[0] = 0.5
    samples = np.empty((count, 2 * cores + NUISANCES))
    samples[:, : 2 * cores] = window.box[0] + grid * (window.box[1] - window.box[0])
    samples[:, 2 * cores :] = window.mean
    values = _terms(thin, lines, samples, False)[:, 0]
    chosen = np.argsort(values, kind="stable")[: most if blurred else 4 * most]
    rough = [descend(thin, lines, samples[k], CAP, 1e-3, 15) for k in {0, *chosen.tolist()}]
    rough.sort(key=lambda one: one[1])
    return np.array([one[0] for one in rough[:most]])
