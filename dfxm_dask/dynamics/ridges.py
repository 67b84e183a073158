"""The ridge of edges that a boundary leaves in every frame, followed through the frames below the pixel."""

from __future__ import annotations

from typing import Annotated, Literal

import numpy as np
from numba import njit
from pydantic import Field

from dfxm_dask.dynamics.stationary import checked_frame
from dfxm_dask.dynamics.wavelets import Floor, Level, Scales, Wavelet, above_background, check_scales, parts
from dfxm_dask.errors import InputError
from dfxm_dask.reduction import reduction
from dfxm_dask.schema import AXES, BACKGROUND, COUNTS, HOT, PlainBackground, Variable, X, Y, plain_background

CROSSING = ("boundary_frame", "boundary_point")
POSITION = Variable("boundary_position", CROSSING, "float64", "um", "position of the boundary")
ERROR = Variable("boundary_error", ("boundary_frame",), "float64", "um", "standard error of one boundary position")
STRENGTH = Variable("boundary_strength", CROSSING, "float32", "1", "strength of edges at the boundary")
POINT = Variable("boundary_along", ("boundary_point",), "float64", "um", "position along the boundary")

FEWEST = 8  # points from which the error of a position is derived (our choice)


@njit(nogil=True, cache=True)
def _path(score, slope, out):
    """Column of the best path in every row: the largest sum of scores, the column changing by at most ``slope``."""
    rows, columns = score.shape
    total = np.empty_like(score)
    came = np.zeros(score.shape, np.int32)
    for x in range(columns):
        total[0, x] = score[0, x]
    for y in range(1, rows):
        for x in range(columns):
            best = x
            for k in range(max(0, x - slope), min(columns, x + slope + 1)):
                # On a tie the straight path is the better one.
                if total[y - 1, k] > total[y - 1, best]:
                    best = k
            came[y, x] = best
            total[y, x] = total[y - 1, best] + score[y, x]
    out[rows - 1] = np.argmax(total[rows - 1])
    for y in range(rows - 1, 0, -1):
        out[y - 1] = came[y, out[y]]


def ridge(edges: np.ndarray, spacing: int, half: int) -> tuple[np.ndarray, np.ndarray]:
    """Position across the rows of a map of edges, below the pixel, and the strength of edges there.

    Parameters
    ----------
    edges : ndarray (row, column), float32
        NaN counts as no edge.
    spacing : int
        Rows that are averaged into one point.
    half : int
        Pixels on each side of the path over which a parabola is fitted.

    Returns
    -------
    position, strength : ndarray (point,), float64
        In pixels; NaN where the averaged profile has no maximum inside.
    """
    known = np.nan_to_num(edges, nan=0.0)
    rows, columns = known.shape
    path = np.empty(rows, np.int64)
    _path(np.ascontiguousarray(known, np.float64), 1, path)
    count = rows // spacing
    position, strength = np.full(count, np.nan), np.full(count, np.nan)
    offset = np.arange(-half, half + 1)
    design = np.stack([offset**0, offset, offset**2], axis=1).astype(float)
    solve = np.linalg.pinv(design)
    for k in range(count):
        some = slice(k * spacing, (k + 1) * spacing)
        centre = int(np.median(path[some]))
        if half <= centre < columns - half:
            profile = known[some, centre - half : centre + half + 1].mean(0, dtype=np.float64)
            level, slope, bend = solve @ profile
            top = -slope / (2 * bend) if bend < 0 else np.inf
            if abs(top) <= half:
                position[k], strength[k] = centre + top, level - slope**2 / (4 * bend)
    return position, strength


def scatter(position: np.ndarray) -> np.ndarray:
    """Standard error of one position in every frame, from the differences of three frames in sequence.

    Parameters
    ----------
    position : ndarray (frame, point), float64

    Returns
    -------
    ndarray (frame,), float64
        The first and the last frame have the error of their neighbour; NaN for fewer than three frames or
        :data:`FEWEST` points that are known in all three.
    """
    out = np.full(len(position), np.nan)
    for k in range(1, len(position) - 1):
        second = position[k - 1] - 2 * position[k] + position[k + 1]
        second = second[np.isfinite(second)]
        if second.size >= FEWEST:
            second = second - np.median(second)  # motion of the whole boundary
            share = second.size / (second.size - 1)
            out[k] = 1.4826 * np.median(np.abs(second)) * np.sqrt(share / 6)
    if len(out) > 2:
        out[[0, -1]] = out[[1, -2]]
    return out


def _with_errors(summary: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {**summary, ERROR.name: scatter(summary[POSITION.name])}


def _joined(first: dict[str, np.ndarray], second: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Summaries of frames in sequence."""
    shared = POINT.name
    return {n: first[n] if n == shared else np.concatenate([first[n], second[n]]) for n in first}


@reduction(
    reads=(COUNTS, AXES, Y, X),
    may_read=(BACKGROUND, HOT),
    writes=(POSITION, ERROR, STRENGTH, POINT),
    over=("y", "x"),
    combine=_joined,
    finish=_with_errors,
)
def follow_boundary(
    counts: np.ndarray,
    scan: dict[str, np.ndarray],
    y: np.ndarray,
    x: np.ndarray,
    background_map: np.ndarray | None = None,
    hot: np.ndarray | None = None,
    *,
    background: PlainBackground = None,
    along: Annotated[
        Literal["y", "x"], Field(description="dim of the frame along which the boundary runs, within 45 degree")
    ] = "y",
    wavelet: Wavelet = "db4",
    level: Level = 3,
    scales: Scales = 2,
    floor: Floor = 10.0,
    spacing: Annotated[
        int, Field(ge=4, description="length of the boundary for one point", json_schema_extra={"unit": "pixel"})
    ] = 16,
    strength: Annotated[
        float, Field(ge=0, description="least strength of edges at the boundary, relative to the noise")
    ] = 1.7,
    first: int = 0,
) -> dict[str, np.ndarray]:
    """Position of one boundary through the frames, from the ridge of edges that persist over scales.

    The boundary crosses the whole frame. It may be a line or a step of the brightness, as a twin boundary is.

    Returns
    -------
    dict
        Summary of some frames: ``boundary_position``, ``boundary_strength`` (boundary_frame, boundary_point) and
        ``boundary_along`` (boundary_point). Frames are joined in sequence; the errors follow at the end.

    Raises
    ------
    InputError
        No background at all, or both a map and a number; an unknown wavelet; more scales than levels; a frame that is
        shorter than two points.

    Notes
    -----
    The ridge in the map ``edges`` of :func:`wavelets` is the path across the frame with the largest sum of edges whose
    column changes by at most one pixel from row to row (dynamic programming). Each point is the top of a parabola that
    is fitted to the edges averaged over ``spacing`` rows. A point is NaN if its edges are weaker than ``strength``
    (in noise alone, ridges reach 1.4), or if the parabola has no top.

    ``boundary_error`` of a frame is derived from the second differences d of its positions and those of the frames
    before and after it, minus the median of d, at n points::

        boundary_error = 1.4826 median(|d - median(d)|) (n / (n - 1))^(1/2) / 6^(1/2)

    It applies to a boundary that moves as a whole, or changes its shape evenly over three frames; otherwise it is too
    large. NaN if there are fewer than 3 frames or 8 points. A constant offset of the ridge from the boundary, which a
    line beside a step causes, is not contained in it.

    References
    ----------
    Abulshohoud et al. (2022), arXiv:2210.15757, follow twin boundaries by wavelets. Our own definition of ridge and
    error.

    Examples
    --------
    >>> import dfxm_dask
    >>> generator = np.random.default_rng(0)
    >>> counts = generator.poisson(400.0, (96, 96, 2)).astype(np.uint16)
    >>> counts[:, 40:] += 300
    >>> um = {"y": np.arange(96) * 0.1, "x": np.arange(96) * 0.1}
    >>> found = dfxm_dask.follow_boundary.kernel(counts, {"time": np.arange(2.0)}, **um, background="none")
    >>> found["boundary_position"].shape, bool(abs(np.nanmedian(found["boundary_position"]) - 3.95) < 0.05)
    ((2, 6), True)
    """
    check_scales("follow_boundary", wavelet, level, scales)
    length = counts.shape[0 if along == "y" else 1]
    if length < 2 * spacing:
        raise InputError(
            f"follow_boundary: spacing={spacing}", f"the frame has {length} pixels along {along}", "use a smaller one"
        )
    subtracted = plain_background("follow_boundary", background_map, background, counts.shape[:2])
    rows, columns = (y, x) if along == "y" else (x, y)
    pitch = float(np.median(np.diff(columns)))
    half = 2 ** (level - 1)
    found = []
    for k in range(counts.shape[2]):
        frame, absent = above_background(counts[:, :, k], subtracted, hot, floor)
        edges = np.where(absent, np.float32(np.nan), parts(checked_frame(frame), wavelet, level, scales, level).edges)
        found.append(ridge(edges if along == "y" else edges.T, spacing, half))
    position, strong = (np.array(values) for values in zip(*found, strict=True))
    position[~(strong >= strength)] = np.nan
    some = rows[: position.shape[1] * spacing].reshape(-1, spacing)
    return {
        POSITION.name: columns[0] + position * pitch,
        STRENGTH.name: strong.astype(np.float32),
        POINT.name: some.mean(1),
    }
