"""Coarse search: the best position of every candidate, by correlation of the counts with its images."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.fft import irfft2, next_fast_len, rfft2

from dfxm_dask.identify.images import line_images
from dfxm_dask.identify.likelihood import Record, blurred

OPTIMA, APART = 3, 2  # positions of a candidate, and pixels by which they differ
MOST_FRAMES = 6  # frames of the search, those with most contrast


class Found(NamedTuple):
    """Result of the search, best position first.

    Attributes
    ----------
    gain : array (candidate, optimum)
        Decrease of chi2 by a line at a local optimum of the position, with the best brightness, minus the misfit of a
        brightness that is known.
    place : array (candidate, optimum, 2), um
        Its y and x in the plane z = 0.
    brightness : array (candidate, optimum), count
    """

    gain: np.ndarray
    place: np.ndarray
    brightness: np.ndarray


def search(record: Record, table: np.ndarray, pairs: np.ndarray) -> Found:
    """Best position of every candidate on the grid of the pixels.

    Parameters
    ----------
    record : Record
        Pixels of about equal pitch along y and x.
    table : array (candidate, 15)
    pairs : array (candidate,)
        Row of the dislocation with the opposite Burgers vector, from
        :func:`dfxm_dask.identify.catalogue.opposite`; its image is that of the candidate, rotated by 180 degree about
        the core, because q of a straight line is odd.

    Returns
    -------
    Found

    Notes
    -----
    Every frame has a free background, every pixel a level, and the noise is uniform; the brightness is common. The
    images lie on a canvas of twice the size of the frames, so that no correlation wraps.
    """
    frames, rows, columns = record.counts.shape
    data, weight = _contrast(record), 1 / _noise(record)
    optics, flat, pattern = record.optics, record.flat, float(record.pattern.min())
    ny, nx = 2 * rows, 2 * columns
    size = next_fast_len(ny, real=True), next_fast_len(nx, real=True)
    spectrum = rfft2((weight[:, None, None] * data).astype(np.float32), size)
    y = (np.arange(ny) - rows) * (record.y[1] - record.y[0])
    x = (np.arange(nx) - columns) * (record.x[1] - record.x[0])
    sharp, soft = np.empty((frames, ny, nx)), np.empty((frames, ny, nx))
    nothing = np.empty((0, 0, 0, 0))
    middle = float(np.exp(record.middle))
    prior = (middle * record.spread[4]) ** -2 if record.spread[4] < 1 else 0.0
    shape = len(table), OPTIMA
    out = Found(np.zeros(shape), np.zeros((*shape, 2)), np.zeros(shape))
    done = np.zeros(len(table), bool)
    canvas = np.zeros((frames, *size), np.float32)
    for row in range(len(table)):
        if done[row]:
            continue
        line_images(y, x, table[row], np.zeros(2), np.zeros(3), optics, sharp, nothing)
        sharp -= flat[:, None, None]
        for f in range(frames):
            blurred(sharp[f], record.half_y, record.half_x, soft[f])
        canvas[:, :ny, :nx] = soft
        image = rfft2(canvas)
        energy = _energy(soft, weight, pattern, rows, columns)
        # The core is at pixel (rows, columns) of the canvas, which shifts the correlation one way or the other.
        before, after = np.s_[-rows:, -columns:], np.s_[rows : 2 * rows, columns : 2 * columns]
        both = ((row, np.conj(image), energy, before), (int(pairs[row]), image, energy[::-1, ::-1], after))
        for which, product, power, part in both:
            if which < 0 or done[which]:
                continue
            done[which] = True
            together = irfft2(np.einsum("fyx,fyx->yx", spectrum, product), size)[part]
            amount = np.maximum((together + middle * prior) / (power + prior), 0.0)
            gain = 2 * amount * together - amount**2 * power - prior * (amount - middle) ** 2
            lowest = gain.min()
            for k in range(OPTIMA):
                i, j = np.unravel_index(int(np.argmax(gain)), gain.shape)
                out.gain[which, k], out.place[which, k] = gain[i, j], (record.y[i], record.x[j])
                out.brightness[which, k] = amount[i, j]
                gain[max(i - APART, 0) : i + APART + 1, max(j - APART, 0) : j + APART + 1] = lowest
    return out


def contrasting(record: Record, most: int) -> np.ndarray:
    """Numbers of at most ``most`` frames: those whose contrast exceeds the noise most."""
    excess = (_contrast(record) ** 2).sum((1, 2)) / _noise(record)
    return np.sort(np.argsort(-excess, kind="stable")[:most])


def subset(record: Record, frames: np.ndarray) -> Record:
    """The same scan with these frames alone."""
    shifts = np.ascontiguousarray(record.optics.shifts[frames])
    return record._replace(
        counts=record.counts[frames],
        valid=record.valid[frames],
        flat=record.flat[frames],
        optics=record.optics._replace(shifts=shifts),
    )


def _contrast(record: Record) -> np.ndarray:
    """Counts (frame, y, x) above the mean of their frame and the pattern of the camera, zero where invalid."""
    data = record.counts - levels(record)[:, None, None]
    data[~record.valid] = 0.0
    weight = np.where(record.valid, 1 / _noise(record)[:, None, None], 0.0)
    of_row = (weight * data).sum((0, 2)) / np.maximum(weight.sum((0, 2)), 1e-30)
    data -= of_row[:, None]
    data[~record.valid] = 0.0
    data -= (weight * data).sum(0) / (weight.sum(0) + 1 / record.pattern)
    data[~record.valid] = 0.0
    return data - data.mean((1, 2), keepdims=True)


def levels(record: Record) -> np.ndarray:
    """Median counts of every frame."""
    median = [np.median(c[v]) if v.any() else record.offset for c, v in zip(record.counts, record.valid, strict=True)]
    return np.array(median, np.float64)


def _noise(record: Record) -> np.ndarray:
    """Variance of a binned pixel of every frame without contrast."""
    light = record.gain * np.maximum(levels(record) - record.offset, 0)
    return (light + record.read_noise**2) / record.pixels + 1e-9


def _energy(images: np.ndarray, weight: np.ndarray, pattern: float, rows: int, columns: int) -> np.ndarray:
    """Squared contrast, without the square of its mean, inside the frame, for every position of the canvas."""

    def inside(values: np.ndarray) -> np.ndarray:
        total = np.zeros((values.shape[0], 2 * rows + 1, 2 * columns + 1))
        np.cumsum(np.cumsum(values, axis=1), axis=2, out=total[:, 1:, 1:])
        low_y, low_x = rows - np.arange(rows), columns - np.arange(columns)
        rest = total[:, low_y + rows] - total[:, low_y]
        return rest[:, :, low_x + columns] - rest[:, :, low_x]

    common = np.einsum("f,fyx->yx", weight, images) ** 2 / (weight.sum() + 1 / pattern)
    squares = inside((np.einsum("f,fyx->yx", weight, images**2) - common)[None])[0]
    means = np.einsum("f,fyx->yx", weight, inside(images) ** 2) / (rows * columns)
    return np.maximum(squares - means, 1e-12 * (squares.max() + 1e-30) + 1e-30)


def peak_angle(counts: np.ndarray, phi: np.ndarray) -> float:
    """Middle (rad) of the half maxima of the mean rocking curve along phi; NaN if the scan does not cover the peak."""
    valid = np.isfinite(counts)
    if not valid.any((1, 2)).all():
        return np.nan
    curve = np.where(valid, counts, 0.0).sum((1, 2)) / valid.sum((1, 2))
    places = np.unique(phi)
    mean = np.array([curve[phi == place].mean() for place in places])
    mean = (mean - mean.min()) / max(mean.max() - mean.min(), 1e-300) - 0.5
    up = np.flatnonzero((mean[:-1] < 0) & (mean[1:] >= 0))
    down = np.flatnonzero((mean[:-1] >= 0) & (mean[1:] < 0))
    if len(up) != 1 or len(down) != 1 or up[0] > down[0]:
        return np.nan
    edges = [places[k] - mean[k] * (places[k + 1] - places[k]) / (mean[k + 1] - mean[k]) for k in (up[0], down[0])]
    return float(sum(edges) / 2)
