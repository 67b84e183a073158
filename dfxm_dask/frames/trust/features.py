"""Distances between frames from the statistics of their patches, in units of their noise and of the beam's flicker."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

FLICKER = 0.03
"""Relative change of a frame that its neighbours do not notice: of the beam, and of statistics of structure."""
FLOOR = 0.3  # counts of a patch mean below noise and drift of a camera
DYNAMIC = 1e-3  # light below this part of the brightest patch is dark: scattered and afterglow
MOST = 8  # patches along an edge; more are summed, so that a scan of large frames costs no more than one of small ones
ROWS = 4096  # frames whose distances are computed together


@dataclass(frozen=True)
class Frames:
    """One layer of a scan as few numbers per frame.

    Parameters
    ----------
    grid : tuple of int
        Numbers of positions along the scan axes.
    light : (frame, patch) float64, count
        Mean of every patch above ``dark``, at one scale.
    marks : (frame, feature) float64
        Logarithms of light and of contrast, divided by their errors: frames that differ by noise and flicker alone
        have a distance of about 1.
    dark : float, count
        Counts without light.
    error : (frame, patch) float64, count
        Standard error of ``light``.
    """

    grid: tuple[int, ...]
    light: np.ndarray
    marks: np.ndarray
    dark: float
    error: np.ndarray

    @property
    def count(self) -> int:
        return len(self.light)

    def apart(self, first: np.ndarray, second: np.ndarray) -> np.ndarray:
        """Distances (pair,) of frames given by two index arrays."""
        parts = [
            np.sqrt(((self.marks[first[k : k + ROWS]] - self.marks[second[k : k + ROWS]]) ** 2).mean(axis=1) / 2)
            for k in range(0, len(first), ROWS)
        ]
        return np.concatenate(parts) if parts else np.zeros(0)


def frames_of_layer(
    statistics: Mapping[str, np.ndarray],
    grid: tuple[int, ...],
    noise: float,
    scale: np.ndarray | None = None,
    offset: float | None = None,
) -> Frames:
    """Numbers per frame of one layer.

    Parameters
    ----------
    statistics : mapping of str to (scan axes, patch_y, patch_x) arrays
        ``patch_n``, ``patch_sum`` (count) and ``patch_sum2`` (count2), as ingest stores them.
    grid : tuple of int
        Numbers of positions along the scan axes.
    noise : float, count
        Noise of a voxel without diffracted beam.
    scale : (frame,), optional
        Factors that bring the frames to one incident beam.
    offset : float, count, optional
        Counts without beam. By default the mean of the darkest patch.
    """
    count = int(np.prod(grid))
    pixels, total, square = (
        _coarse(np.asarray(statistics[name], np.float64), count) for name in ("patch_n", "patch_sum", "patch_sum2")
    )
    pixels = np.maximum(pixels, 1)
    mean = total / pixels
    spread = np.sqrt(np.maximum(square / pixels - mean**2, 0.0))
    dark = float(mean.min()) if offset is None else offset
    factor = np.ones((count, 1)) if scale is None else np.asarray(scale, np.float64).reshape(count, 1)
    light = (mean - dark) * factor
    error = np.sqrt(noise**2 + np.maximum(mean - dark, 0.0)) / np.sqrt(pixels) * factor
    contrast = (spread - float(spread.min())) * factor
    marks = [_logarithm(values, 3 * error, max(FLOOR, DYNAMIC * float(values.max()))) for values in (light, contrast)]
    return Frames(grid, light, np.concatenate(marks, axis=1), dark, error)


def _coarse(sums: np.ndarray, count: int) -> np.ndarray:
    """Sums (frame, patch) over neighbouring patches, at most 8 along an edge."""
    for axis in (-2, -1):
        length = sums.shape[axis]
        sums = np.add.reduceat(sums, np.arange(0, length, -(-length // MOST)), axis=axis)
    return sums.reshape(count, -1)


def _logarithm(values: np.ndarray, error: np.ndarray, floor: float) -> np.ndarray:
    """Logarithm above a floor, in units of its error."""
    above = np.maximum(values, 0.0) + floor
    return np.asarray(np.log(above) / np.hypot(FLICKER, np.median(error / above, axis=0, keepdims=True)))
