"""Zingers: cosmic rays and scattered photons that hit the detector in a single frame."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import numpy as np
from numba import njit
from pydantic import Field

from dfxm_dask.frames.scale import PIXELS, SUM, patch_means
from dfxm_dask.memory import frame_lines
from dfxm_dask.reduction import reduction
from dfxm_dask.schema import AXES, COUNTS, FRAME_SCALE, NOISE, PATCH, SCAN, SPACE, Variable

TILE = PATCH  # pixels; those around a pixel are looked at within its tile, so that counts may be cut along tiles
RISES = 0.25  # of the rise of a zinger: a reflection lights the pixels around one by as much (our choice)
READ_NOISE, OFFSET = 2.6, 100.0  # count, of a scan that does not tell them

CLEANED = Variable("counts", ("z", SCAN, "y", "x"), "uint16", "count", "detector counts without zingers", stored=False)
ZINGER_COUNT = Variable("zinger_count", SPACE, "uint16", "1", "number of frames in which a zinger was replaced")


@njit(nogil=True, cache=True)
def _with_neighbours(line, starts, row_step, near, rise, frame, y, x, rows, columns):  # type: ignore[no-untyped-def]
    """Whether more than half of the pixels around one, within its tile, rise in the same frame much as it does."""
    rising, known = 0, 0
    for i in range(max(y - 1, y // TILE * TILE), min(y + 2, rows, (y // TILE + 1) * TILE)):
        for j in range(max(x - 1, x // TILE * TILE), min(x + 2, columns, (x // TILE + 1) * TILE)):
            if i == y and j == x:
                continue
            largest = -np.inf
            for k in near:
                largest = max(largest, np.float64(line[np.uintp(starts[k] + i * row_step) + np.uintp(j)]))
            known += 1
            rising += np.float64(line[np.uintp(starts[frame] + i * row_step) + np.uintp(j)]) - largest > rise
    return 2 * rising > known


@njit(nogil=True, cache=True)
def _clean(  # type: ignore[no-untyped-def]
    line, starts, row_step, neighbours, threshold, ratio, read_noise, gain, scale, dark, cleaned, replaced
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
            read = read_noise * scale[frame]
            for k in range(count):
                read = max(read, read_noise * scale[neighbours[frame, k]])
                there = starts[neighbours[frame, k]] + y * row_step
                for x in range(columns):
                    value = np.float64(line[np.uintp(there) + np.uintp(x)])
                    largest[x] = value if value > largest[x] else largest[x]
                    total[x] += value
            for x in range(columns):
                value = np.float64(line[np.uintp(here) + np.uintp(x)])
                excess = value - largest[x]
                signal = max(largest[x] - dark, 0.0)
                variance = read * read + gain * scale[frame] * signal
                outlier = excess > 0 and excess * excess > threshold * threshold * variance
                outlier = outlier and value - dark > ratio * signal and total[x] == total[x]  # no neighbour is NaN
                if outlier and not _with_neighbours(
                    line, starts, row_step, neighbours[frame, :count], RISES * excess, frame, y, x, rows, columns
                ):
                    whole = np.floor(total[x]) == total[x] and np.floor(largest[x]) == largest[x]
                    cleaned[frame, y, x] = np.floor(total[x] / count + 0.5) if whole else total[x] / count
                    replaced[y, x] = min(replaced[y, x] + 1, 65535)


def dark_patch(
    parameters: Mapping[str, Any], seen: Mapping[str, Any], lengths: tuple[int, ...]
) -> tuple[dict[str, Any], str]:
    """Parameters with the offset, where it is not given and the scan knows the means of its patches."""
    level = patch_means(seen) if parameters["offset"] is None else {}
    least = min((float(means.min()) for means in level.values()), default=None)
    return {**parameters, **({} if least is None else {"offset": float(f"{least:.5g}")})}, ""


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


@reduction(
    reads=(COUNTS, AXES), may_read=(NOISE, FRAME_SCALE), writes=(CLEANED, ZINGER_COUNT), over=("scan",),
    patch=TILE, settle=dark_patch, settled_by=(PIXELS, SUM), positions="unused",
)  # fmt: skip
def zingers(
    counts: np.ndarray,
    scan: dict[str, np.ndarray],
    noise: np.ndarray | None = None,
    frame_scale: np.ndarray | None = None,
    *,
    threshold: Annotated[
        float, Field(gt=0, description="excess over the larger neighbour, in standard deviations")
    ] = 12.0,
    ratio: Annotated[
        float, Field(ge=1, description="and the signal is at least this many times that of the larger neighbour")
    ] = 4.0,
    read_noise: Annotated[
        float | None,
        Field(
            gt=0,
            description="standard deviation of a dark pixel; by default the noise of the scan",
            json_schema_extra={"unit": "count"},
        ),
    ] = None,
    gain: Annotated[
        float, Field(ge=0, description="variance per count of signal", json_schema_extra={"unit": "count"})
    ] = 0.46,
    offset: Annotated[
        float | None,
        Field(
            description="counts of the detector without light; by default the darkest patch of the scan",
            json_schema_extra={"unit": "count"},
        ),
    ] = None,
) -> dict[str, np.ndarray]:
    """Counts without single-frame outliers, and how many were replaced.

    Parameters
    ----------
    counts : array (y, x, scan axes), uint16 or float32, count
        Detector counts of one layer.
    scan : dict of str to array (length of the axis,), float64
        Positions along every scan axis; only their number is used.
    noise : array (), float32, count, optional
        Noise of a voxel where nothing diffracts.
    frame_scale : array (scan axes), float64, optional
        What the noise of every frame was multiplied by when frames were put on one scale.
    threshold : float
        In standard deviations of the noise at the level of the larger neighbour (our choice: 12).
    ratio : float
        Least signal above offset, as a multiple of that of the larger neighbour (our choice: 4). A Gaussian reflection
        centred on a frame exceeds its neighbours by 4 ln 2 / FWHM² in the logarithm, with the FWHM in scan steps: with
        a ratio of 4 nothing wider than 1.41 steps is touched. 1 leaves the decision to the noise alone, and then
        replaces the tops of strong reflections that are three steps wide.
    read_noise, gain, offset : float, count
        Variance of the noise is read_noise² + gain × (level − offset). By default ``noise``, 0.46, and the least mean
        of a patch of 64 × 64 pixels in any frame of the scan; where these are not known 2.6 and 100, which fit a
        PCO.edge camera at beamline ID03 (successive frames of a background region).

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

    On a coarse grid a true reflection may light a single step as well. But it lights more than one pixel: a voxel is
    kept where more than half of the pixels around it, within tiles of 64 × 64, rise by a quarter as much
    in the same frame. Two zingers in neighbouring frames at one pixel hide each other.

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
        read = read_noise if read_noise is not None else max(1.0, float(noise)) if noise is not None else READ_NOISE
        scale = np.ones(starts.size) if frame_scale is None else np.ascontiguousarray(frame_scale, np.float64).ravel()
        dark = float(OFFSET if offset is None else offset)
        flat = cleaned.reshape(-1, rows, columns)
        near = neighbours_of(tuple(lengths))
        levels = float(threshold), float(ratio), float(read), float(gain)
        _clean(line, starts, row_step, near, *levels, scale, dark, flat, replaced)
    return {"counts": np.moveaxis(cleaned, (-2, -1), (0, 1)), "zinger_count": replaced}
