"""Zingers: cosmic rays and scattered photons that hit the detector in a single frame."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, NamedTuple

import numpy as np
from numba import njit
from pydantic import Field

from dfxm_dask.frames.scale import PIXELS, SUM, patch_means
from dfxm_dask.memory import frame_lines
from dfxm_dask.reduction import reduction
from dfxm_dask.schema import AXES, COUNTS, FRAME_SCALE, NOISE, PATCH, SCAN, SPACE, Variable

TILE = PATCH  # pixels; those around a pixel are looked at within its tile, so that counts may be cut along tiles
NEAR, LIT_AROUND = 2, 5  # pixels: of 24 around, a zinger of up to 5 pixels lights 4, and so does a thin track
READ_NOISE, OFFSET = 2.6, 100.0  # count, of a scan that does not tell them

CLEANED = Variable("counts", ("z", SCAN, "y", "x"), "uint16", "count", "detector counts without zingers", stored=False)
ZINGER_COUNT = Variable("zinger_count", SPACE, "uint16", "1", "number of frames in which a zinger was replaced")


class Limits(NamedTuple):
    """What a zinger exceeds: see :func:`zingers`; `dark` is the offset."""

    threshold: float
    ratio: float
    read: float
    gain: float
    dark: float


@njit(nogil=True, cache=True)
def _around(line, start, row_step, y, x, rows, columns, found):
    """Fifth largest of the 24 counts around a pixel in its frame; of fewer, at the edge of its tile, in proportion."""
    known = 0
    for i in range(max(y - NEAR, y // TILE * TILE), min(y + NEAR + 1, rows, (y // TILE + 1) * TILE)):
        for j in range(max(x - NEAR, x // TILE * TILE), min(x + NEAR + 1, columns, (x // TILE + 1) * TILE)):
            value = np.float64(line[np.uintp(start + i * row_step) + np.uintp(j)])
            if (i != y or j != x) and value == value:
                found[known] = value
                known += 1
    rank = (LIT_AROUND * known + found.size // 2) // found.size
    return np.sort(found[:known])[known - max(rank, 1)] if known else -np.inf


@njit(nogil=True, cache=True)
def _stands_out(value, level, read, gain, threshold, ratio, dark):
    """Whether a count exceeds a level by threshold standard deviations and ratio times in signal."""
    excess, signal = value - level, max(level - dark, 0.0)
    variance = read * read + gain * signal
    return excess > 0 and excess * excess > threshold * threshold * variance and value - dark > ratio * signal


@njit(nogil=True, cache=True)
def _clean(lines, neighbours, limits, scale, cleaned, replaced):
    """Fills the counts without zingers, and how many were replaced at each pixel; `scale` is that of each frame."""
    line, starts, row_step = lines
    frames, rows, columns = cleaned.shape
    largest = np.empty(columns, np.float64)
    total = np.empty(columns, np.float64)
    found = np.empty((2 * NEAR + 1) ** 2 - 1, np.float64)
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
            read = limits.read * scale[frame]
            for k in range(count):
                read = max(read, limits.read * scale[neighbours[frame, k]])
                there = starts[neighbours[frame, k]] + y * row_step
                for x in range(columns):
                    value = np.float64(line[np.uintp(there) + np.uintp(x)])
                    largest[x] = value if value > largest[x] else largest[x]
                    total[x] += value
            for x in range(columns):
                value = np.float64(line[np.uintp(here) + np.uintp(x)])
                levels = read, limits.gain * scale[frame], limits.threshold, limits.ratio, limits.dark
                if (
                    total[x] == total[x]  # no neighbour is NaN
                    and _stands_out(value, largest[x], *levels)
                    and _stands_out(value, _around(line, starts[frame], row_step, y, x, rows, columns, found), *levels)
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
    reads=(COUNTS, AXES),
    may_read=(NOISE, FRAME_SCALE),
    writes=(CLEANED, ZINGER_COUNT),
    over=("scan",),
    patch=TILE,
    settle=dark_patch,
    settled_by=(PIXELS, SUM),
    positions="unused",
)
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
        float, Field(ge=1, description="least signal above the offset, as a multiple of that of the larger neighbour")
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
    frame_scale : array, optional
        The noise of each frame was multiplied by it.
    threshold : float
        Of the noise at the level of the larger neighbour (our choice: 12).
    ratio : float
        Our choice: 4. A Gaussian reflection centred on a frame exceeds its neighbours by 4 ln 2 / FWHM² in the
        logarithm, with the FWHM in scan steps: with a ratio of 4 nothing wider than 1.41 steps is touched. 1 leaves the
        decision to the noise alone, and then replaces the tops of strong reflections that are three steps wide.
    read_noise : float, count
        Variance of the noise is read_noise² + gain × (level − offset). Without a known noise 2.6, which fits a PCO.edge
        camera at beamline ID03 (successive frames of a background region). So too where the noise is less than one
        count, as that of counts clipped at zero: the noise of what is above zero is then not known.
    offset : float, count
        A patch has 64 × 64 pixels. Where none is known 100.

    Notes
    -----
    The neighbours of a voxel are the direct ones along every scan axis, at the same pixel. A voxel is judged only if it
    has one on both sides along at least one axis, so the first and last frame of a rocking scan are never touched: a
    truncated reflection looks like a zinger there. It is replaced by the mean of its neighbours,
    rounded if these are whole numbers.

    On a coarse grid a true reflection may light a single step as well. But it lights the pixels around as well. So a
    voxel must stand out by the same threshold and ratio of the fifth largest of the 24 pixels around it in the same
    frame (within tiles of 64 × 64), as zingers of up to 5 pixels do, and thin tracks. Of four real scans this
    takes 4 voxels, which are one zinger, 31 of 38 million, and none of two. Of zingers of 20 standard deviations
    and more, planted in dark places of these, it takes 95 % and more. Two zingers in neighbouring frames at one
    pixel hide each other.

    Our own definition.

    Examples
    --------
    >>> import dfxm_dask
    >>> scan = dfxm_dask.example_scan()
    >>> scan["counts"][0, 15, 3, 3] = 9000
    >>> clean = dfxm_dask.zingers(scan)
    >>> int(clean["zinger_count"].sum()), int(clean["counts"][0, 15, 3, 3]) < 1000
    (1, True)

    The kernel alone, on one layer:

    >>> counts = np.array([[[101, 103, 2071, 109, 99]]], np.uint16)
    >>> result = zingers.kernel(counts, {"phi": np.arange(5.0)})
    >>> result["counts"].ravel().tolist(), result["zinger_count"].item()
    ([101, 103, 106, 109, 99], 1)
    """
    rows, columns, *lengths = counts.shape
    cleaned = np.empty((*lengths, rows, columns), counts.dtype.newbyteorder("="))
    replaced = np.zeros((rows, columns), np.uint16)
    if counts.size:
        lines = frame_lines(counts)
        read = (
            read_noise if read_noise is not None else float(noise) if noise is not None and noise >= 1 else READ_NOISE
        )
        scale = (
            np.ones(lines.starts.size) if frame_scale is None else np.ascontiguousarray(frame_scale, np.float64).ravel()
        )
        dark = float(OFFSET if offset is None else offset)
        flat = cleaned.reshape(-1, rows, columns)
        near = neighbours_of(tuple(lengths))
        limits = Limits(float(threshold), float(ratio), float(read), float(gain), dark)
        _clean(lines, near, limits, scale, flat, replaced)
    return {"counts": np.moveaxis(cleaned, (-2, -1), (0, 1)), "zinger_count": replaced}
