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

TILE = PATCH  # pixels; neighbours are read within the tile of a pixel, so that counts may be cut along tiles
NEAR, LIT_AROUND = 2, 5  # pixels: a zinger of up to 5 pixels, or a thin track, lights 4 of the 24 around a pixel
READ_NOISE, OFFSET = 2.6, 100.0  # count, for a scan that records neither

CLEANED = Variable("counts", ("z", SCAN, "y", "x"), "uint16", "count", "detector counts without zingers", stored=False)
ZINGER_COUNT = Variable("zinger_count", SPACE, "uint16", "1", "number of frames in which a zinger was replaced")


class Limits(NamedTuple):
    """Limits that a zinger exceeds: see :func:`zingers`; `dark` is the offset."""

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
    """Fill the counts without zingers, and the number of replacements at each pixel; `scale` is that of each frame."""
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
    """Parameters with the offset, where it is not given and the scan has statistics of patches."""
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
        Indices of the direct neighbours of each frame, then −1. Only −1 for a frame that lies at an end of every
        axis.
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
        float, Field(gt=0, description="threshold of the excess over the larger neighbour, in standard deviations")
    ] = 12.0,
    ratio: Annotated[
        float, Field(ge=1, description="least ratio of the signal above the offset to that of the larger neighbour")
    ] = 4.0,
    read_noise: Annotated[
        float | None,
        Field(
            gt=0,
            description="standard deviation of the counts of a dark pixel; by default the noise of the scan",
            json_schema_extra={"unit": "count"},
        ),
    ] = None,
    gain: Annotated[
        float, Field(ge=0, description="variance per count of signal", json_schema_extra={"unit": "count"})
    ] = 0.46,
    offset: Annotated[
        float | None,
        Field(
            description="counts of the detector without light; by default those of the darkest patch of the scan",
            json_schema_extra={"unit": "count"},
        ),
    ] = None,
) -> dict[str, np.ndarray]:
    """Detector counts without zingers (outliers of single frames), and the number of replacements at each pixel.

    A zinger is a count that exceeds its neighbours along the scan, at the same pixel, and most of the pixels around it
    in the same frame, by ``threshold`` standard deviations of the noise and by a factor of ``ratio``. The mean of the
    neighbours along the scan replaces it. The cleaned counts are passed on to later steps of the run; they are not
    stored.

    Parameters
    ----------
    frame_scale : array, optional
        Factor by which the noise of each frame was scaled.
    threshold : float
        The noise is that at the level of the larger neighbour (our choice: 12).
    ratio : float
        Our choice: 4. The logarithm of a Gaussian reflection centred on a frame exceeds that of its neighbours by
        4 ln 2 / FWHM², with the FWHM in scan steps: a ratio of 4 leaves every reflection wider than 1.41 steps
        unchanged. With a ratio of 1 the noise alone decides, and the tops of strong reflections three steps wide are
        replaced.
    read_noise : float, count
        The default is 2.6 where the noise of the scan is unknown; this value fits a PCO.edge camera at beamline ID03
        (successive frames of a background region). It is also 2.6 where that noise is below one count, as for counts
        clipped at zero, from which the noise above zero cannot be derived.
    offset : float, count
        A patch has 64 × 64 pixels. The default is 100 without statistics of patches.

    Notes
    -----
    The variance of the noise at a level (count) is::

        variance = read_noise² + gain × (level − offset)

    The neighbours of a voxel are the adjacent positions along every scan axis. Only voxels with a neighbour on both
    sides along at least one axis are tested. The first and last frame of a rocking scan therefore remain unchanged: a
    truncated reflection looks like a zinger there. The replacement is rounded if the neighbours are whole numbers.

    On a coarse grid a true reflection may light a single step, but it also lights the surrounding pixels. A voxel must
    therefore exceed, by the same threshold and ratio, the fifth largest of the 24 pixels around it in the same frame
    (within tiles of 64 × 64). Zingers of up to 5 pixels and thin tracks do. In four real scans this replaces 4 voxels
    (one zinger), 31 of 38 million, and none in two. Of zingers of 20 standard deviations and more, planted in dark
    regions of these scans, 95 % and more are replaced. Two zingers in neighbouring frames at one pixel hide each other.

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
