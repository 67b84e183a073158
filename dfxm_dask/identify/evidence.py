"""Evidence of every candidate dislocation, and of none, from the counts of one scan."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from dfxm_dask.identify.images import NO_LINE, ScanOptics, flat_images
from dfxm_dask.identify.likelihood import UNKNOWNS, Record, descend, model_images
from dfxm_dask.identify.search import MOST_FRAMES as SEARCHED
from dfxm_dask.identify.search import Found, contrasting, levels, search, subset

FEWEST, MOST, FIRST_STEPS = 32, 64, 3
"""Least and largest number of positions of candidates in the first descents, which have few frames and large pixels,
and their evaluations (our choice)."""
SECOND, SECOND_STEPS = 32, 4
"""The same of the second descents, which continue the best of the first ones (our choice)."""
LAST, LAST_STEPS, BEHIND = 20, 8, 15.0
"""Largest number of last descents with small pixels, their evaluations, and the minus log posterior by which a start
may be behind the best (our choice)."""
AGAIN, NEARBY, AGAIN_STEPS = 3, 0.06, 6
"""Candidates that descend once more from four positions around their optimum, their distance (um), and evaluations:
images of weak lines have optima of the position that are close together (our choice)."""
WALKS, CLOSE, TURN, WALK_STEPS = 4, 10.0, np.cos(np.deg2rad(22.0)), 8
"""Candidates whose neighbours descend from their position, minus log posterior by which they may be behind the best,
cosine of the angle between lines of neighbours with equal Burgers vectors, and evaluations (our choice)."""
KNOWN, UNKNOWN = 0.2, 2.5
"""Standard deviations of the logarithm of the brightness beforehand, where it is given and where not (our choice): then
its middle is the geometric mean of the read-out noise and of a full pixel."""
FEW = 50.0  # pixels with contrast below which the excess of chi2 has little weight (our choice)
LEAST, EQUAL = 6, 0.01  # last descents at least; um, distance below which two starts are equal
MARGIN = 1.2  # um around the finalists, within which a weak line has its contrast (our choice)
MOST_FRAMES = 10  # frames of the likelihood, those with most contrast
LEVEL, HEIGHT = 0.3, 0.07
"""Sine of the angle between a line and the plane of the image below which descents start at several heights, and the
distance (um) of these heights."""
DOUBTFUL = 80.0, 0.25, 0.1
"""Decrease of chi2, absolute and relative, by which the search may be wrong in the best position of a candidate, and in
its other ones (our choice)."""
SAME = 16.0
"""Chi2 between the images of two candidates below which they form one class: 4 standard deviations (our choice)."""
GRADES = 4  # values of the brightness from which the lattice without a dislocation is fitted


class Noise(NamedTuple):
    """Camera and model errors.

    Attributes
    ----------
    gain, offset, read_noise : float, count
        Counts of one photon, counts without light, rms counts without light.
    blur : float, pixel
        Standard deviation of the Gaussian blur of the camera.
    model_error : float
        Rms error of the model as a fraction of the contrast.
    sampling : float, um
        Rms distance of the points at which the model samples a pixel from those that represent it.
    pattern : float, count
        Standard deviation of the level of a pixel that is the same in all frames.
    angle, slope, roll : float, rad, rad/um, rad
        Spread of the rocking angle of the lattice, of its slopes, and of its rolling angle.
    """

    gain: float = 2.14
    offset: float = 104.0
    read_noise: float = 9.0
    blur: float = 1.2
    model_error: float = 0.03
    sampling: float = 0.001
    pattern: float = 2.0
    angle: float = 2e-5
    slope: float = 3.5e-6
    roll: float = 1e-4


class Evidence(NamedTuple):
    """Evidence of candidates from one scan.

    Attributes
    ----------
    log_evidence : array (candidate,)
        Relative to that of an undistorted lattice; over ``chi2`` where this exceeds 1, as if the noise was larger.
    position, position_error : array (candidate, yx), um
        Where the line crosses the middle of the light sheet, relative to the middle of the frame; NaN for candidates
        that were not refined, and for lines in the plane of the image.
    chi2 : float
        Squared residual per pixel with contrast over the variance, of the best candidate.
    lit : int
        Number of these pixels.
    distance, contrast : array (candidate,)
        Chi2 between the expected counts of a candidate and those of the best one, and those without a dislocation; for
        candidates that were not refined infinite, and from the search.
    refined : array (candidate,), bool
    """

    log_evidence: np.ndarray
    position: np.ndarray
    position_error: np.ndarray
    chi2: float
    lit: int
    distance: np.ndarray
    contrast: np.ndarray
    refined: np.ndarray


def record_of(
    counts: np.ndarray,
    y: np.ndarray,
    x: np.ndarray,
    optics: ScanOptics,
    noise: Noise,
    bins: tuple[int, int] = (1, 1),
    brightness: float | None = None,
) -> Record:
    """Counts (frame, y, x) with their model; NaN marks invalid pixels. ``bins`` pixels along y and x become one.

    ``brightness`` (count) is that of the lattice at its peak in kinematic diffraction, if it is known.
    """
    frames, rows, columns = counts.shape
    by, bx = bins
    rows, columns = rows // by, columns // bx
    cut = np.asarray(counts[:, : rows * by, : columns * bx], np.float64).reshape(frames, rows, by, columns, bx)
    valid = np.isfinite(cut)
    number = valid.sum((2, 4))
    mean = np.where(valid, cut, 0.0).sum((2, 4)) / np.maximum(number, 1)
    centres = [
        side[: n * b].reshape(n, b).mean(1) - (side[0] + side[-1]) / 2
        for side, n, b in ((y, rows, by), (x, columns, bx))
    ]
    halves = [_half_kernel(np.sqrt(noise.blur**2 + (b * b - 1) / 12) / b) for b in bins]
    valid = number == by * bx
    return Record(
        counts=mean,
        valid=valid,
        y=centres[0],
        x=centres[1],
        half_y=halves[0],
        half_x=halves[1],
        optics=optics,
        pattern=_pattern(mean, valid, noise, by * bx),
        flat=flat_images(optics),
        gain=noise.gain,
        offset=noise.offset,
        read_noise=noise.read_noise,
        model_error=noise.model_error,
        sampling=noise.sampling,
        pixels=float(by * bx),
        middle=float(np.log(brightness or np.sqrt(noise.read_noise * 65535.0))),
        spread=np.array([noise.angle, noise.slope, noise.slope, noise.roll, KNOWN if brightness else UNKNOWN]),
    )


def _pattern(counts: np.ndarray, valid: np.ndarray, noise: Noise, pixels: int) -> np.ndarray:
    """Variance (y, x) of the constant level of every pixel: larger where the mean over all frames is conspicuous.

    Warm pixels, and rows at the border of the camera, would appear as a dislocation.
    """
    number = np.maximum(valid.sum(0), 1)
    level = np.array([np.median(c[v]) if v.any() else 0.0 for c, v in zip(counts, valid, strict=True)])[:, None, None]
    mean = np.where(valid, counts - level, 0.0).sum(0) / number
    mean -= np.median(np.where(valid.any(0), mean, 0.0), axis=1, keepdims=True)
    light = noise.gain * np.maximum(np.nan_to_num(np.mean(level)) - noise.offset, 0) + noise.read_noise**2
    return noise.pattern**2 / pixels + np.maximum(mean**2 - 9 * light / pixels / number, 0)


def _half_kernel(sigma: float) -> np.ndarray:
    if sigma <= 0.2:
        return np.ones(1)
    half = np.exp(-0.5 * (np.arange(int(np.ceil(3.5 * sigma)) + 1) / sigma) ** 2)
    return half / (2 * half.sum() - half[0])


def evidences(
    record: Record,
    coarse: Record,
    table: np.ndarray,
    pairs: np.ndarray,
    *,
    most_starts: int = MOST,
) -> Evidence:
    """Evidence of every candidate.

    Parameters
    ----------
    record, coarse : Record
        From :func:`record_of`: for the likelihood, and for the search, with larger pixels and fewer heights.
    table : array (candidate, 15)
        From :func:`dfxm_dask.identify.images.line_tables`.
    pairs : array (candidate,)
        From :func:`dfxm_dask.identify.catalogue.opposite`.
    most_starts : int
        Largest number of positions of candidates that are refined.

    Notes
    -----
    Laplace's method at the optimum over position, rocking angle and its slopes, rolling angle, brightness and the
    background of every frame. Priors: position uniform over the lines that cross the illuminated part of the crystal,
    logarithm of the brightness and angles normal, backgrounds uniform. The evidence of a candidate that is not
    refined follows from its deficit in the search.
    """
    record = subset(record, contrasting(record, MOST_FRAMES))
    coarse = subset(coarse, contrasting(coarse, SEARCHED))
    found = search(coarse, table, pairs)
    areas = _areas(record, table)
    quick = _raced(coarse, table, found, most_starts)
    begun = _finalists(quick)
    record = _window(record, table, begun)
    none = _without(record)
    optima = _optima(record, table, begun)
    n = len(table)
    log_evidence = np.full(n, np.nan)
    position, error = np.full((n, 2), np.nan), np.full((n, 2), np.nan)
    for row, one in optima.items():
        log_evidence[row] = _laplace(record, one, areas[row]) - none
        position[row], error[row] = crossing(table[row], one[0], one[5])
    rest = np.isnan(log_evidence)
    best = int(np.nanargmax(log_evidence))
    behind = (found.gain[:, 0] - found.gain.max()) / 2
    for row, one in _best_each(quick).items():
        behind[row] = quick[0][1][2] - one[2]
    log_evidence[rest] = log_evidence[best] + behind[rest]
    images = _expected(record, table[best], optima[best])
    distance, contrast = np.full(n, np.inf), found.gain[:, 0].copy()
    for row, one in optima.items():
        mine = _expected(record, table[row], one)
        distance[row], contrast[row] = _apart(record, images, mine), _apart(record, mine, np.zeros_like(mine))
    chi2, lit = optima[best][3:5]
    # As if the noise was larger: the fit is divided by the excess of chi2, which few pixels do not determine.
    excess = max(chi2 - 1, 0.0) * lit / (lit + FEW)
    log_evidence -= (log_evidence.max() - log_evidence) * (1 / (1 + excess) - 1)
    return Evidence(log_evidence, position, error, float(chi2), int(lit), distance, contrast, ~rest)


def _raced(coarse: Record, table: np.ndarray, found: Found, most_starts: int) -> list[tuple[int, tuple]]:
    """Candidates and their first optima, as :func:`descend` returns them, best first."""
    gain = found.gain.ravel()
    order = np.argsort(-gain, kind="stable")
    above = gain[order] - gain[order[0]]
    first = order % found.gain.shape[1] == 0
    margin = np.maximum(DOUBTFUL[0], np.where(first, DOUBTFUL[1], DOUBTFUL[2]) * gain[order[0]])
    chosen = order[(above > -margin) | (np.arange(order.size) < FEWEST)][:most_starts]
    quick: list[tuple[int, tuple]] = []
    for number in chosen:
        row, which = divmod(int(number), found.gain.shape[1])
        y, x = found.place[row, which]
        within = 2 * coarse.spread[4]
        brightness = np.log(max(found.brightness[row, which], 1e-9))
        brightness = float(np.clip(brightness, coarse.middle - within, coarse.middle + within))
        for z in (0.0, -HEIGHT, HEIGHT) if abs(table[row, 8]) < LEVEL else (0.0,):
            place = table[row, :6].reshape(2, 3) @ [x, y, z]
            start = np.array([*place, 0, 0, 0, 0, brightness])
            quick.append((row, _descent(coarse, table[row], start, FIRST_STEPS, renewed=False)))
    quick.sort(key=lambda one: one[1][2])
    quick += [(row, _descent(coarse, table[row], one[0], SECOND_STEPS, renewed=False)) for row, one in quick[:SECOND]]
    quick.sort(key=lambda one: one[1][2])
    return quick


def _finalists(quick: list[tuple[int, tuple]]) -> list[tuple[int, np.ndarray]]:
    """Candidates and unknowns from which the last descents start."""
    begun: list[tuple[int, np.ndarray]] = []
    for row, one in quick:
        if len(begun) == LAST or (one[2] > quick[0][1][2] + BEHIND and len(begun) >= LEAST):
            break
        if all(row != other or np.abs(one[0][:2] - start[:2]).max() > EQUAL for other, start in begun):
            begun.append((row, one[0]))
    return begun


def _window(record: Record, table: np.ndarray, begun: list[tuple[int, np.ndarray]]) -> Record:
    """The part of the frame around the positions of all finalists: the rest contributes equally to all of them."""
    places = np.array([_in_sheet(table[row], start) for row, start in begun])
    cut = []
    for side, axis in ((record.y, 1), (record.x, 0)):
        low = np.clip(places[:, axis].min(), side[0], side[-1]) - MARGIN
        high = np.clip(places[:, axis].max(), side[0], side[-1]) + MARGIN
        inside = np.flatnonzero((side >= low) & (side <= high))
        cut.append(slice(inside[0], inside[-1] + 1))
    return record._replace(
        counts=np.ascontiguousarray(record.counts[:, cut[0], cut[1]]),
        valid=np.ascontiguousarray(record.valid[:, cut[0], cut[1]]),
        pattern=np.ascontiguousarray(record.pattern[cut[0], cut[1]]),
        y=record.y[cut[0]].copy(),
        x=record.x[cut[1]].copy(),
    )


def _optima(record: Record, table: np.ndarray, begun: list[tuple[int, np.ndarray]]) -> dict[int, tuple]:
    """Best optimum of the finalists and of their neighbours in the direction of the line."""
    last: list[tuple[int, tuple]] = []
    lowest = np.inf

    def reach(row: int, start: np.ndarray, steps: int) -> None:
        nonlocal lowest
        last.append((row, _descent(record, table[row], start, steps, lowest + BEHIND)))
        lowest = min(lowest, last[-1][1][2])

    for row, start in begun:
        reach(row, start, LAST_STEPS)
    for row, one in sorted(_best_each(last).items(), key=lambda each: each[1][2])[:AGAIN]:
        reach(row, one[0], LAST_STEPS)
    expanded: set[int] = set()
    for _ in range(WALKS):
        best = _best_each(last)
        order = sorted(best, key=lambda row: best[row][2])
        close = [row for row in order[:AGAIN] if best[row][2] < best[order[0]][2] + CLOSE and row not in expanded]
        if not close:
            break
        ahead = close[0]
        expanded.add(ahead)
        for step in NEARBY * np.array([(1.0, 0), (-1, 0), (0, 1), (0, -1)]):
            start = best[ahead][0].copy()
            start[:2] += step
            reach(ahead, start, AGAIN_STEPS)
        origin = _best_each(last)[ahead][0]
        for row in _neighbours(table, ahead, record.optics.poisson):
            start = origin.copy()
            start[:2] = table[row, :6].reshape(2, 3) @ _in_sheet(table[ahead], origin)
            reach(row, start, WALK_STEPS)
    return _best_each(last)


def _neighbours(table: np.ndarray, row: int, poisson: float) -> np.ndarray:
    """Candidates of the same Burgers vector whose line is close to that of ``row``."""
    burgers = 2 * (1 - poisson) * table[:, 11:12] * table[:, :3] + table[:, 12:13] * table[:, 6:9]
    same = np.linalg.norm(burgers - burgers[row], axis=1) < 0.2 * np.linalg.norm(burgers[row])
    near = same & (table[:, 6:9] @ table[row, 6:9] > TURN)
    near[row] = False
    return np.flatnonzero(near)


def _in_sheet(row: np.ndarray, unknowns: np.ndarray) -> np.ndarray:
    """Point (xyz) of a line in the plane z = 0; for lines almost in this plane that nearest to the origin."""
    point = unknowns[0] * row[:3] + unknowns[1] * row[3:6]
    return point - point[2] / row[8] * row[6:9] if abs(row[8]) > 0.1 else point


def _descent(
    record: Record, row: np.ndarray, start: np.ndarray, steps: int, bound: float = np.inf, *, renewed: bool = True
) -> tuple:
    """Descent with all unknowns free, from the backgrounds that follow from the median counts."""
    background = levels(record) - np.exp(start[6]) * record.flat
    free = np.ones(UNKNOWNS, bool)
    cap = record.x[1] - record.x[0]
    return descend(record, row, start, background, free, cap, 0.05, steps, bound, renewed)


def _best_each(reached: list[tuple[int, tuple]]) -> dict[int, tuple]:
    """Lowest optimum of every candidate."""
    best: dict[int, tuple] = {}
    for row, one in reached:
        if row not in best or one[2] < best[row][2]:
            best[row] = one
    return best


def _expected(record: Record, row: np.ndarray, optimum: tuple) -> np.ndarray:
    """Expected counts (frame, y, x) at an optimum."""
    unknowns, background = optimum[:2]
    return np.exp(unknowns[6]) * model_images(record, row, unknowns, False)[0] + background[:, None, None]


def _apart(record: Record, images: np.ndarray, others: np.ndarray) -> float:
    """Chi2 between two stacks of expected counts, apart from backgrounds and the levels of pixels and rows.

    The variance is that of noise and of the model.
    """
    variance = record.gain * np.maximum(images - record.offset, 0) + record.read_noise**2
    contrast = images - np.median(images, axis=(1, 2), keepdims=True)
    weight = np.where(record.valid, 1 / (variance / record.pixels + (record.model_error * contrast) ** 2), 0.0)
    total = np.maximum(weight.sum((1, 2), keepdims=True), 1e-30)
    off = images - others
    off = off - (weight * off).sum((1, 2), keepdims=True) / total
    sums, certainty = (weight * off).sum(0), weight.sum(0) + 1 / record.pattern
    free = 1 / (certainty * record.pattern)
    rows = (sums * free).sum(1) ** 2 / np.maximum((weight.sum(0) * free).sum(1), 1e-30)
    return float((weight * off**2).sum() - (sums**2 / certainty).sum() - rows.sum())


def _areas(record: Record, table: np.ndarray) -> np.ndarray:
    """Cross section (candidate,), um2, of the illuminated part of the crystal, seen along every line."""
    height = 2 * abs(record.optics.points[:, 2]).max() or 1e-3
    extent_y = record.y[-1] - record.y[0] + (record.y[1] - record.y[0])
    extent_x = record.x[-1] - record.x[0] + (record.x[1] - record.x[0])
    t = np.abs(table[:, 6:9])
    return t[:, 2] * extent_x * extent_y + t[:, 0] * extent_y * height + t[:, 1] * extent_x * height


def _without(record: Record) -> float:
    """Logarithm of the evidence without a dislocation: lattice of constant tilt and slopes, and free backgrounds."""
    free = np.array([False, False, True, True, True, True, True])
    starts = record.middle + record.spread[4] * np.linspace(-1, 1, GRADES)
    optima = []
    for first in starts:
        start = np.zeros(UNKNOWNS)
        start[6] = first
        background = levels(record) - np.exp(first) * record.flat
        optima.append(descend(record, NO_LINE, start, background, free, 1.0, 0.05, LAST_STEPS, np.inf, True))
    best = min(optima, key=lambda one: one[2])
    return _laplace(record, best, 1.0)


def _laplace(record: Record, optimum: tuple, area: float) -> float:
    """Logarithm of the evidence of an optimum, with the position uniform over ``area`` (um2).

    The priors limit the volume of unknowns that the counts do not determine, such as the position of a line without
    contrast.
    """
    value, information, backgrounds = optimum[2], optimum[5], optimum[6]
    limited = information.copy()
    limited[0, 0] += 2 * np.pi / area
    limited[1, 1] += 2 * np.pi / area
    prior = -np.log(area) - np.log(record.spread).sum() - 0.5 * record.spread.size * np.log(2 * np.pi)
    volume = 0.5 * (UNKNOWNS * np.log(2 * np.pi) - np.linalg.slogdet(limited)[1] - backgrounds)
    return float(-value + prior + volume)


def crossing(row: np.ndarray, unknowns: np.ndarray, information: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """y and x at which a line crosses the plane z = 0, and their errors; NaN within 6 degree of this plane."""
    e1, n, t = row[:3], row[3:6], row[6:9]
    if abs(t[2]) < 0.1:
        return np.full(2, np.nan), np.full(2, np.nan)
    to_plane = np.stack([(e1 - e1[2] / t[2] * t)[[1, 0]], (n - n[2] / t[2] * t)[[1, 0]]], axis=1)
    covariance = to_plane @ np.linalg.pinv(information)[:2, :2] @ to_plane.T
    return to_plane @ unknowns[:2], np.sqrt(np.maximum(np.diag(covariance), 0))


__all__ = ["SAME", "Evidence", "Noise", "crossing", "evidences", "record_of"]
