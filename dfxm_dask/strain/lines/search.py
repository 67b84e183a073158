"""Search for dislocation cores in a map of the distortion."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy import ndimage
from scipy.stats import chi2

from dfxm_dask.strain.lines.loops import loop, loop_map

APART = 4
"""Least distance of two cores, pixels; nearer ones count as one dislocation."""
JOINED = 2
"""Missing pixels within twice this distance belong to one hole, pixels."""
LARGEST = 17
"""Largest edge of a hole that may contain a core, pixels (our choice)."""
MORE = 6
"""Pixels by which the contour around a hole may grow until it contains no missing pixel (our choice)."""


class Layer(NamedTuple):
    """Distortion of a band of a layer, with the positions of its pixels."""

    beta: np.ndarray
    covariance: np.ndarray
    y: np.ndarray
    x: np.ndarray
    steps: np.ndarray


def find_cores(layer: Layer, least: float, false_alarms: float) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns of the cores (core, 2), and the squared significance of each: holes, then strongest first.

    A core is a pixel whose small contours are significant, or a hole: missing pixels within a significant contour.
    """
    shape = layer.beta.shape[:2]
    threshold = chi2.isf(1e-6 * false_alarms, 3)
    out, seen, left = [], [], np.ones(shape, bool)
    for centre, size, significance, half in _holes(layer):
        if size >= least and significance > threshold:
            out.append(centre)
            seen.append(significance)
            row, column = (round(v) for v in centre)
            left[max(row - half, 0) : row + half + 1, max(column - half, 0) : column + half + 1] = False
    length, ratio = np.zeros(shape), np.zeros(shape)
    loop_map(layer.beta, layer.covariance, layer.steps, (0, shape[0]), length, ratio)
    strong = (length >= least) & (ratio > threshold)
    score = ndimage.uniform_filter(np.where(strong, np.minimum(length, 3 * least), 0.0), 3, mode="constant")
    rows, columns = np.nonzero(strong)
    order = np.lexsort((columns, rows, -np.round(score[rows, columns] / least, 3)))
    for row, column in zip(rows[order], columns[order], strict=True):
        if left[row, column]:
            near = slice(max(row - APART, 0), row + APART + 1), slice(max(column - APART, 0), column + APART + 1)
            weight = np.where(left[near] & strong[near], score[near], 0.0)
            r, c = np.mgrid[near]
            out.append(((r * weight).sum() / weight.sum(), (c * weight).sum() / weight.sum()))
            seen.append(ratio[row, column])
            left[near] = False
    return np.array(out).reshape(-1, 2), np.array(seen)


def _holes(layer: Layer) -> list[tuple[tuple[float, float], float, float, int]]:
    """Centre, length of the Burgers vector, squared significance and half edge of the contour of every hole.

    Near a core curves leave the scan or overlap, so that the pixels there are missing and small contours incomplete. As
    for pixels, length and significance are medians of three contours.
    """
    missing = ~(np.isfinite(layer.beta).all(axis=-1) & np.isfinite(layer.covariance).all(axis=(-2, -1)))
    near = ndimage.binary_dilation(missing, np.ones((3, 3), bool), iterations=JOINED)
    labels, _ = ndimage.label(near, np.ones((3, 3), bool))
    total, spread, out = np.empty(3), np.empty((3, 3)), []
    for rows, columns in ndimage.find_objects(labels):
        size = max(rows.stop - rows.start, columns.stop - columns.start)
        if size > LARGEST:
            continue
        centre = (rows.start + rows.stop - 1) / 2, (columns.start + columns.stop - 1) / 2
        found: list[tuple[float, float, int]] = []
        for half in range((size + 1) // 2, (size + 1) // 2 + MORE):
            if not loop(layer.beta, layer.covariance, *map(round, centre), half, layer.steps, total, spread):
                continue
            definite = np.linalg.eigvalsh(spread)[0] > 0
            ratio = float(total @ np.linalg.solve(spread, total)) if definite else np.inf
            found.append((float(np.linalg.norm(total)), ratio, half))
            if len(found) == 3:
                out.append((centre, *np.median(found, axis=0)[:2], found[-1][2]))
                break
    return out
