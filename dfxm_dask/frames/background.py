"""Background: the counts of each pixel while it does not diffract."""

from __future__ import annotations

from typing import Annotated, Literal

import numpy as np
from numba import njit
from pydantic import Field

from dfxm_dask.errors import InputError
from dfxm_dask.memory import frame_lines
from dfxm_dask.reduction import reduction
from dfxm_dask.schema import AXES, BACKGROUND, COUNTS, FRAME_SCALE, NOISE, SPACE, Variable

DARK = Variable("dark", SPACE, "float32", "count", "dark image")

STRIP = 128  # pixels along x whose curves are sorted side by side
BLOCK = 4  # frames that are sorted in, and sorted rows that they pass, in one go: each is loaded and stored once


@njit(nogil=True, cache=True)
def sift(smallest, slots):
    """Insert the last row of a strip into the sorted rows before it; the largest value of each column drops out."""
    here = np.uintp(slots * STRIP)
    for k in range(slots):
        there = np.uintp(k * STRIP)
        for n in range(STRIP):
            x = np.uintp(n)
            old, new = smallest[there + x], smallest[here + x]
            smallest[there + x] = new if new < old else old
            smallest[here + x] = old if new < old else new


@njit(nogil=True, cache=True)
def _pass(smallest, row):
    """Compare four new rows, the first of the strip, with four of the sorted rows: these keep the smaller values."""
    here = np.uintp((1 + row) * BLOCK * STRIP)
    for n in range(STRIP):
        x = np.uintp(n)
        a, b = smallest[x], smallest[STRIP + x]
        c, d = smallest[2 * STRIP + x], smallest[3 * STRIP + x]
        for k in range(BLOCK):
            kept = smallest[here + np.uintp(k * STRIP) + x]
            kept, a = (a, kept) if a < kept else (kept, a)
            kept, b = (b, kept) if b < kept else (kept, b)
            kept, c = (c, kept) if c < kept else (kept, c)
            kept, d = (d, kept) if d < kept else (kept, d)
            smallest[here + np.uintp(k * STRIP) + x] = kept
        smallest[x], smallest[STRIP + x] = a, b
        smallest[2 * STRIP + x], smallest[3 * STRIP + x] = c, d


@njit(nogil=True, cache=True)
def _take(line, start, row, empty):
    """Copy a piece of a row, and mark its NaN."""
    for n in range(row.size):
        count = line[np.uintp(start) + np.uintp(n)]
        row[n] = count
        if count != count:  # NaN, which no comparison sorts
            empty[n] = True


@njit(nogil=True, cache=True)
def _between(low, high, part, empty, result):
    """Linear interpolation in the two forms that numpy uses, exact at both ends."""
    for n in range(result.size):
        below, above = np.float64(low[n]), np.float64(high[n])
        value = below + (above - below) * part if part < 0.5 else above - (above - below) * (1 - part)
        result[n] = np.nan if empty[n] else value if part > 0 else below


@njit(nogil=True, cache=True)
def _quantile(line, starts, row_step, position, largest, result):
    """Order statistics around `position` (counted from the smallest) of the curve of each pixel, interpolated."""
    rows, columns = result.shape
    low = np.int64(position)
    part = position - low
    high = min(low + 1, starts.size - 1)
    blocks = (high if part > 0 else low) // BLOCK + 1
    smallest = np.empty((1 + blocks) * BLOCK * STRIP, line.dtype)  # new rows first, then the smallest ones, sorted
    empty = np.empty(STRIP, np.bool_)
    for y in range(rows):
        for first in range(0, columns, STRIP):
            width = min(STRIP, columns - first)
            smallest[:] = largest
            empty[:] = False
            for frame in range(0, starts.size, BLOCK):
                for k in range(BLOCK):
                    row = smallest[k * STRIP : k * STRIP + width]
                    if frame + k < starts.size:
                        _take(line, starts[frame + k] + y * row_step + first, row, empty)
                    else:
                        row[:] = largest
                for block in range(blocks):
                    _pass(smallest, block)
            last = high if part > 0 else low
            _between(
                smallest[(BLOCK + low) * STRIP :],
                smallest[(BLOCK + last) * STRIP :],
                part,
                empty,
                result[y, first : first + width],
            )


def _mixed_quantile(rank: float, scale: np.ndarray) -> float:
    """Quantile of an equal mixture of Gaussians about 0 with these standard deviations."""
    from scipy.special import ndtr, ndtri

    scale = scale[np.isfinite(scale)]  # frames without a scale have no counts either
    if not scale.size:
        return float("nan")
    ends = sorted(float(ndtri(rank) * s) for s in (scale.min(), scale.max()))
    if ends[0] == ends[1]:
        return ends[0]
    from scipy.optimize import brentq  # loading it takes a second

    return float(brentq(lambda q: float(ndtr(q / scale).mean()) - rank, *ends))


@reduction(
    reads=(COUNTS, AXES),
    may_read=(DARK, NOISE, FRAME_SCALE),
    writes=(BACKGROUND,),
    over=("scan",),
    positions="unused",
)
def background(
    counts: np.ndarray,
    scan: dict[str, np.ndarray],
    dark: np.ndarray | None = None,
    noise: np.ndarray | None = None,
    frame_scale: np.ndarray | None = None,
    *,
    method: Annotated[
        Literal["quantile", "scalar", "dark", "none"],
        Field(description="source: a low quantile of each pixel's curve, one number, the dark image, or zero"),
    ] = "quantile",
    quantile: Annotated[
        float,
        Field(ge=0, lt=1, description="for method 'quantile': order of the quantile"),
    ] = 0.1,
    value: Annotated[
        float | None, Field(description="for method 'scalar': the background", json_schema_extra={"unit": "count"})
    ] = None,
) -> dict[str, np.ndarray]:
    """Background of each pixel: its counts without diffracted beam.

    A pixel of a grain diffracts in a part of the scan only. A low quantile of its counts over all scan positions
    estimates its background, detector offset included. Where the noise is known, the difference between that
    quantile and the mean of the background is corrected.

    Parameters
    ----------
    frame_scale : array, optional
        Factor by which the noise of each frame was scaled.
    method : "quantile", "scalar", "dark" or "none"
        The quantile runs over all scan positions.
    quantile : float in [0, 1)
        Our choice: 0.1, correct for pixels that diffract in less than about four fifths of the scan.

    Raises
    ------
    InputError
        ``value`` without method "scalar" or the reverse; method "dark" without a dark image.

    Notes
    -----
    The quantile is the one that numpy calls ``linear``: position q (n − 1) among the n sorted counts, interpolated.
    It lies below the mean background by a part of the noise σ. Where σ is known, the expected order statistic of n
    Gaussian samples in Blom's form is added back::

        background = quantile − σ z((q (n − 1) + 5/8) / (n + 1/4))

    with z the quantile function of the normal distribution, or of a mixture of Gaussians for scaled frames. Without
    this correction the remaining pedestal pulled the centre of mass of a real scan of 2666 frames to mid-scan.

    The scan alone cannot yield the background of a pixel that diffracts at all scan positions: use a dark image for
    it. NaN anywhere in the curve gives NaN. The computing time of a voxel grows with the number of frames below the
    quantile.

    References
    ----------
    R. J. Hyndman and Y. Fan, The American Statistician 50 (1996) 361, definition 7 of a quantile. G. Blom, Statistical
    Estimates and Transformed Beta-Variables (Wiley, 1958), for the expected order statistic.

    Examples
    --------
    >>> import dfxm_dask
    >>> scan = dfxm_dask.example_scan()
    >>> level = dfxm_dask.background(scan)["background_map"]
    >>> level.dims, round(float(level.mean()))
    (('z', 'y', 'x'), 100)

    The kernel alone, on one layer:

    >>> counts = np.array([[[101, 100, 900, 700, 102]]], np.uint16)
    >>> background.kernel(counts, {"phi": np.arange(5.0)}, quantile=0.25)["background_map"].item()
    101.0
    """
    shape = counts.shape[:2]
    if (value is None) == (method == "scalar"):
        raise InputError(
            f"background: method {method!r}",
            "has no value" if value is None else f"takes no value (found {value})",
            "give value=<counts>" if value is None else "leave out value, or set method='scalar'",
        )
    if method == "dark":
        if dark is None:
            raise InputError(
                "background: method 'dark'",
                "there is no dark image",
                "ingest the scan with a dark image, or set method='quantile' or 'scalar'",
            )
        return {"background_map": dark.astype(np.float32)}
    result = np.full(shape, np.nan if value is None else value, np.float32)
    if method == "none":
        result[:] = 0
    elif method == "quantile" and counts.size:
        line, starts, row_step = frame_lines(counts)
        largest = np.inf if line.dtype.kind == "f" else np.iinfo(line.dtype).max
        _quantile(line, starts, row_step, quantile * (starts.size - 1), line.dtype.type(largest), result)
        if noise is not None:
            from scipy.special import ndtri  # ingest needs this room and not these functions

            rank = (quantile * (starts.size - 1) + 0.625) / (starts.size + 0.25)
            result -= np.float32(noise * (ndtri(rank) if frame_scale is None else _mixed_quantile(rank, frame_scale)))
    return {"background_map": result}
