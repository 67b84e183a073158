"""Evidence of every candidate dislocation, and of none, from the counts of one scan."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.special import logsumexp

from dfxm_dask.identify.images import NO_LINE, ScanOptics, flat_images
from dfxm_dask.identify.likelihood import UNKNOWNS, Record, descend, model_images
from dfxm_dask.identify.search import levels, search

REFINED, FIRST_STEPS, LAST, LAST_STEPS = 32, 5, 8, 16
"""Candidates whose optimum is refined, evaluations of this descent, number of the best that are refined further, and
evaluations of this descent (our choice)."""
DOUBTFUL = 40.0  # decrease of chi2 by which the search may be wrong (our choice)
SAME = 16.0
"""Chi2 between the images of two candidates below which they form one class: 4 standard deviations (our choice)."""
GRADES = 10  # values of the brightness at which the absence of a dislocation is compared


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
    angle, slope, roll : float, rad, rad/um, rad
        Spread of the rocking angle of the lattice, of its slopes, and of its rolling angle.
    """

    gain: float = 2.14
    offset: float = 104.0
    read_noise: float = 9.0
    blur: float = 1.2
    model_error: float = 0.05
    angle: float = 2e-5
    slope: float = 3.5e-6
    roll: float = 1e-4


class Evidence(NamedTuple):
    """Evidence of candidates from one scan.

    Attributes
    ----------
    log_evidence : array (candidate,)
        Relative to that of an undistorted lattice.
    position, position_error : array (candidate, yx), um
        Where the line crosses the middle of the light sheet, relative to the middle of the frame; NaN for candidates
        that were not refined, and for lines in the plane of the image.
    chi2 : float
        Squared residual per pixel with contrast over the variance, of the best candidate.
    lit : int
        Number of these pixels.
    same : array (candidate,), bool
        Candidates with the image of the best one within the noise.
    refined : array (candidate,), bool
    """

    log_evidence: np.ndarray
    position: np.ndarray
    position_error: np.ndarray
    chi2: float
    lit: int
    distance: np.ndarray
    refined: np.ndarray


def record_of(
    counts: np.ndarray, y: np.ndarray, x: np.ndarray, optics: ScanOptics, noise: Noise, bins: tuple[int, int] = (1, 1)
) -> Record:
    """Counts (frame, y, x) with their model; NaN marks invalid pixels. ``bins`` pixels along y and x become one."""
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
    return Record(
        counts=mean,
        valid=number == by * bx,
        y=centres[0],
        x=centres[1],
        half_y=halves[0],
        half_x=halves[1],
        optics=optics,
        flat=flat_images(optics),
        gain=noise.gain,
        offset=noise.offset,
        read_noise=noise.read_noise,
        model_error=noise.model_error,
        pixels=float(by * bx),
        spread=np.array([noise.angle, noise.slope, noise.slope, noise.roll, 0.0]),
    )


def _half_kernel(sigma: float) -> np.ndarray:
    if sigma <= 0.2:
        return np.ones(1)
    half = np.exp(-0.5 * (np.arange(int(np.ceil(3.5 * sigma)) + 1) / sigma) ** 2)
    return half / (2 * half.sum() - half[0])


def evidences(
    record: Record, coarse: Record, table: np.ndarray, pairs: np.ndarray, *, refined: int = REFINED
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
    refined : int
        Candidates whose optimum is refined.

    Notes
    -----
    Laplace's method at the optimum over position, rocking angle and its slopes, rolling angle, brightness and the
    background of every frame. Priors: position uniform over the lines that cross the illuminated part of the crystal,
    logarithm of the brightness uniform, angles normal, backgrounds uniform. The evidence of the other candidates is
    that of the search, whose scale is adjusted to the refined ones.
    """
    found = search(coarse, table, pairs)
    noise = np.sqrt(record.read_noise**2 / record.pixels)
    least, most = np.log(noise), np.log(65535.0)
    none = _without(record, least, most)
    prior = -np.log(_areas(record, table)) - np.log(most - least)
    prior -= np.log(record.spread[:4]).sum() + 2 * np.log(2 * np.pi)
    order = np.argsort(-found.gain, kind="stable")
    close = found.gain[order] > found.gain[order[0]] - max(DOUBTFUL, 0.1 * found.gain[order[0]])
    order = order[: int(np.clip(close.sum(), refined // 2, 3 * refined))]
    free = np.ones(UNKNOWNS, bool)
    pitch = record.x[1] - record.x[0]
    level = levels(record)
    optima = {}
    for row in order:
        start = np.zeros(UNKNOWNS)
        start[:2] = table[row, [1, 4]] * found.place[row, 0] + table[row, [0, 3]] * found.place[row, 1]
        start[6] = np.clip(np.log(max(found.brightness[row], 1e-9)), least, most)
        background = level - np.exp(start[6]) * record.flat
        optima[row] = descend(record, table[row], start, background, free, pitch, 0.3, FIRST_STEPS)
    for row in sorted(optima, key=lambda k: optima[k][2])[:LAST]:
        one = optima[row]
        optima[row] = descend(record, table[row], one[0], one[1], free, pitch, 0.02, LAST_STEPS)
    n = len(table)
    log_evidence, value = np.full(n, np.nan), np.full(n, np.inf)
    position, error = np.full((n, 2), np.nan), np.full((n, 2), np.nan)
    for row, (unknowns, _, least_here, _, _, information, backgrounds) in optima.items():
        value[row] = least_here
        determinant = np.linalg.slogdet(information)[1]
        volume = 0.5 * (UNKNOWNS * np.log(2 * np.pi) - determinant - backgrounds)
        log_evidence[row] = -least_here + prior[row] + volume - none
        position[row], error[row] = _crossing(table[row], unknowns, information)
    best = int(order[np.argmax(log_evidence[order])])
    rest = np.isnan(log_evidence)
    # The search has less information than the descent; what a candidate would gain by it is that of the best one.
    log_evidence[rest] = log_evidence[best] + (found.gain[rest] - found.gain[best]) / 2
    if rest.any():
        log_evidence[rest] = np.minimum(log_evidence[rest], log_evidence[order].min())
    images = _expected(record, table[best], optima[best])
    light = record.gain * (images - record.offset)
    variance = (np.maximum(light, 0) + record.read_noise**2) / record.pixels
    distance = np.full(n, np.inf)
    for row in order:
        if value[row] < value[best] + 40 + SAME:
            off = _expected(record, table[row], optima[row]) - images
            distance[row] = (off**2 / variance)[record.valid].sum()
    return Evidence(log_evidence, position, error, float(optima[best][3]), int(optima[best][4]), distance, ~rest)


def _expected(record: Record, row: np.ndarray, optimum: tuple) -> np.ndarray:
    """Expected counts (frame, y, x) at an optimum."""
    unknowns, background = optimum[:2]
    return np.exp(unknowns[6]) * model_images(record, row, unknowns, False)[0] + background[:, None, None]


def _areas(record: Record, table: np.ndarray) -> np.ndarray:
    """Cross section (candidate,), um2, of the illuminated part of the crystal, seen along every line."""
    height = 2 * abs(record.optics.points[:, 2]).max() or 1e-3
    extent_y = record.y[-1] - record.y[0] + (record.y[1] - record.y[0])
    extent_x = record.x[-1] - record.x[0] + (record.x[1] - record.x[0])
    t = np.abs(table[:, 6:9])
    return t[:, 2] * extent_x * extent_y + t[:, 0] * extent_y * height + t[:, 1] * extent_x * height


def _without(record: Record, least: float, most: float) -> float:
    """Logarithm of the evidence without a dislocation: lattice of constant tilt and slopes, and free backgrounds."""
    free = np.array([False, False, True, True, True, False, False])
    level = levels(record)
    angles = [2, 3, 4]
    logs = []
    for brightness in np.linspace(least, most, GRADES):
        start = np.zeros(UNKNOWNS)
        start[6] = brightness
        background = level - np.exp(brightness) * record.flat
        _, _, value, _, _, information, backgrounds = descend(
            record, NO_LINE, start, background, free, 1.0, 0.05, LAST_STEPS
        )
        determinant = np.linalg.slogdet(information[np.ix_(angles, angles)])[1]
        logs.append(-value - np.log(record.spread[:3]).sum() - 0.5 * (determinant + backgrounds))
    return float(logsumexp(logs) - np.log(GRADES))


def _crossing(row: np.ndarray, unknowns: np.ndarray, information: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """y and x at which a line crosses the plane z = 0, and their errors; NaN within 6 degree of this plane."""
    e1, n, t = row[:3], row[3:6], row[6:9]
    if abs(t[2]) < 0.1:
        return np.full(2, np.nan), np.full(2, np.nan)
    to_plane = np.stack([(e1 - e1[2] / t[2] * t)[[1, 0]], (n - n[2] / t[2] * t)[[1, 0]]], axis=1)
    covariance = to_plane @ np.linalg.pinv(information)[:2, :2] @ to_plane.T
    return to_plane @ unknowns[:2], np.sqrt(np.maximum(np.diag(covariance), 0))


class Ranking(NamedTuple):
    """Probabilities of candidates.

    Attributes
    ----------
    probability : array (candidate,)
    none : float
        Probability of an undistorted lattice.
    """

    probability: np.ndarray
    none: float


def ranking(log_evidence: np.ndarray, *, prior_none: float = 0.5, temper: float = 1.0) -> Ranking:
    """Probabilities of candidates, each equally likely beforehand, and of none of them.

    Parameters
    ----------
    log_evidence : array (candidate,)
        Relative to that of an undistorted lattice; of several scans the sum.
    prior_none : float
        Prior probability that no dislocation exists.
    temper : float
        Divides the logarithms: larger than 1 where the model does not describe the counts within the noise.

    Examples
    --------
    >>> found = ranking(np.array([10.0, 10.0, 0.0]))
    >>> found.probability.round(2).tolist()
    [0.5, 0.5, 0.0]
    """
    logs = log_evidence / temper + np.log((1 - prior_none) / len(log_evidence))
    nothing = np.log(prior_none)
    total = np.logaddexp(logsumexp(logs), nothing)
    return Ranking(np.exp(logs - total), float(np.exp(nothing - total)))


__all__ = ["SAME", "Evidence", "Noise", "Ranking", "evidences", "ranking", "record_of"]
