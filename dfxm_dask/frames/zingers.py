"""Zingers: cosmic rays and scattered photons that hit the detector in a single frame."""

from __future__ import annotations

from typing import Annotated

import numpy as np
from numba import njit
from pydantic import Field

from dfxm_dask.memory import frame_lines
from dfxm_dask.reduction import reduction
from dfxm_dask.schema import AXES, COUNTS, SCAN, SPACE, Variable

CLEANED = Variable("counts", ("z", SCAN, "y", "x"), "uint16", "count", "detector counts without zingers", stored=False)
ZINGER_COUNT = Variable("zinger_count", SPACE, "uint16", "1", "number of frames in which a zinger was replaced")


@njit(nogil=True, cache=True)
def _clean(  # type: ignore[no-untyped-def]
    line, starts, row_step, neighbours, threshold, ratio, read_noise, gain, offset, cleaned, replaced
):  # fmt: skip
    frames, rows, columns = cleaned.shape
    largest = np.empty(columns, np.float64)
    total = np.empty(columns, np.float64)
    for frame in range(frames):
        count = 0
        while count < neighbours.shape[1] and neighbours[frame, count] >= 0:
            count += 1
        for y in range(rows):
            here = starts[frame] + y * row_step
            for x in range(columns):
                cleaned[frame, y, x] = line[np.uintp(here) + np.uintp(x)]
            if count == 0:
                continue
            largest[:] = -np.inf
            total[:] = 0
            for k in range(count):
                there = starts[neighbours[frame, k]] + y * row_step
                for x in range(columns):
                    value = np.float64(line[np.uintp(there) + np.uintp(x)])
                    largest[x] = value if value > largest[x] else largest[x]
                    total[x] += value
            for x in range(columns):
                value = np.float64(line[np.uintp(here) + np.uintp(x)])
                excess = value - largest[x]
                signal = max(largest[x] - offset, 0.0)
                variance = read_noise * read_noise + gain * signal
                outlier = excess > 0 and excess * excess > threshold * threshold * variance
                if outlier and value - offset > ratio * signal and total[x] == total[x]:  # no neighbour is NaN
                    whole = np.floor(total[x]) == total[x] and np.floor(largest[x]) == largest[x]
                    cleaned[frame, y, x] = np.floor(total[x] / count + 0.5) if whole else total[x] / count
                    replaced[y, x] = min(replaced[y, x] + 1, 65535)


def neighbours_of(lengths: tuple[int, ...]) -> np.ndarray:
    """Frames that follow each other along a scan axis.

    Parameters
    ----------
    lengths : tuple of int
        Positions along every scan axis.

    Returns
    -------
    array (frames, 2 × axes), int64
        Indices of the direct neighbours of each frame, then −1. No neighbours at all where a frame has no axis along
        which it has one on both sides.
    """
    index = np.indices(lengths).reshape(len(lengths), -1)
    frames = np.arange(index.shape[1]).reshape(lengths)
    columns, enclosed = [], np.zeros(index.shape[1], bool)
    for axis, (place, length) in enumerate(zip(index, lengths, strict=True)):
        for shift in (-1, 1):
            inside = (place + shift >= 0) & (place + shift < length)
            columns.append(np.where(inside, np.roll(frames, -shift, axis).ravel(), -1))
        enclosed |= (place > 0) & (place < length - 1)
    table = np.stack(columns, axis=1)
    table[~enclosed] = -1
    return -np.sort(-table, axis=1)


@reduction(reads=(COUNTS, AXES), writes=(CLEANED, ZINGER_COUNT), over=("scan",), positions="unused")
def zingers(
    counts: np.ndarray,
    scan: dict[str, np.ndarray],
    *,
    threshold: Annotated[
        float, Field(gt=0, description="excess over the larger neighbour, in standard deviations")
    ] = 12.0,
    ratio: Annotated[
        float, Field(ge=1, description="and the signal is at least this many times that of the larger neighbour")
    ] = 4.0,
    read_noise: Annotated[
        float, Field(gt=0, description="standard deviation of a dark pixel", json_schema_extra={"unit": "count"})
    ] = 2.6,
    gain: Annotated[
        float, Field(ge=0, description="variance per count of signal", json_schema_extra={"unit": "count"})
    ] = 0.46,
    offset: Annotated[
        float, Field(description="counts of the detector without light", json_schema_extra={"unit": "count"})
    ] = 100.0,
) -> dict[str, np.ndarray]:
    """Counts without single-frame outliers, and how many were replaced.

    Parameters
    ----------
    counts : array (y, x, scan axes), uint16 or float32, count
        Detector counts of one layer.
    scan : dict of str to array (length of the axis,), float64
        Positions along every scan axis; only their number is used.
    threshold : float
        In standard deviations of the noise at the level of the larger neighbour (our choice: 12).
    ratio : float
        Least signal above offset, as a multiple of that of the larger neighbour (our choice: 4). A Gaussian reflection
        centred on a frame exceeds its neighbours by 4 ln 2 / FWHM² in the logarithm, with the FWHM in scan steps: with
        a ratio of 4 nothing wider than 1.41 steps is touched. 1 leaves the decision to the noise alone, and then
        replaces the tops of strong reflections that are three steps wide.
    read_noise, gain, offset : float, count
        Variance of the noise is read_noise² + gain × (level − offset). The defaults fit a PCO.edge camera at beamline
        ID03 (successive frames of a background region).

    Returns
    -------
    dict
        ``counts`` (y, x, scan axes), dtype as given, stored in the order (scan axes, y, x); ``zinger_count`` (y, x),
        uint16.

    Notes
    -----
    The neighbours of a voxel are the direct ones along every scan axis, at the same pixel. A voxel is judged only if it
    has one on both sides along at least one axis, so the first and last frame of a rocking scan are never touched: a
    truncated reflection looks like a zinger there. It is replaced by the mean of its neighbours,
    rounded if these are whole numbers.

    On a coarse grid a true reflection that lights a single step looks the same, and is replaced. Compare
    ``zinger_count`` with the image: zingers are few and anywhere, reflections follow the sample. Two zingers in
    neighbouring frames at one pixel hide each other.

    Examples
    --------
    >>> counts = np.array([[[101, 103, 2071, 109, 99]]], np.uint16)
    >>> result = zingers.kernel(counts, {"phi": np.arange(5.0)})
    >>> result["counts"].ravel().tolist(), result["zinger_count"].item()
    ([101, 103, 106, 109, 99], 1)
    """
    rows, columns, *lengths = counts.shape
    cleaned = np.empty((*lengths, rows, columns), counts.dtype.newbyteorder("="))
    replaced = np.zeros((rows, columns), np.uint16)
    if counts.size:
        line, starts, row_step = frame_lines(counts)
        noise = (float(read_noise), float(gain), float(offset))
        flat = cleaned.reshape(-1, rows, columns)
        near = neighbours_of(tuple(lengths))
        _clean(line, starts, row_step, near, float(threshold), float(ratio), *noise, flat, replaced)
    return {"counts": np.moveaxis(cleaned, (-2, -1), (0, 1)), "zinger_count": replaced}
