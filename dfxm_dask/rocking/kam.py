"""Kernel average misorientation: mean rotation of the lattice within a given distance."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Annotated, Any, Literal

import numpy as np
from numba import njit
from pydantic import Field

from dfxm_dask.errors import InputError
from dfxm_dask.reduction import reduction
from dfxm_dask.rocking.moments import FLAGS, without_single
from dfxm_dask.schema import SPACE, Variable, X, Y, pixel_length

# Angles only, all in one unit: a norm over degree and keV has no meaning, and is refused on entry.
COM = Variable("com_{axis}", SPACE, "float64", "degree", "centre of mass along {axis}")
COM_ERROR = Variable("com_{axis}_error", SPACE, "float32", "degree", "standard error of the centre along {axis}")
KAM = Variable("kam", SPACE, "float32", "degree", "kernel average misorientation")
KAM_ERROR = Variable("kam_error", SPACE, "float32", "degree", "standard error of the kernel average misorientation")
KAM_EXCESS = Variable(
    "kam_excess", SPACE, "float32", "degree2", "mean square misorientation to the neighbours without that of noise"
)
KAM_EXCESS_ERROR = Variable(
    "kam_excess_error", SPACE, "float32", "degree2", "standard error of the mean square misorientation"
)
BLOCK = 512  # pixels along x whose sums are kept together
RESOLVED = 4.0  # noise floors: least KAM² with an error of KAM (our choice, see Notes)


@njit(nogil=True, cache=True)
def _mean_difference(angles, offsets, mean):
    """Mean distance of each pixel to its neighbours, row by row so that it vectorises; NaN is left out."""
    axes, rows, columns = angles.shape
    total = np.empty(columns)
    count = np.empty(columns)
    square = np.empty(columns)
    for y in range(rows):
        total[:] = 0
        count[:] = 0
        for k in range(offsets.shape[0]):
            dy, dx = offsets[k]
            if y + dy < 0 or y + dy >= rows or abs(dx) >= columns:
                continue
            first, last = max(0, -dx), min(columns, columns - dx)
            square[:] = 0
            for a in range(axes):
                here, there = angles[a, y, first:last], angles[a, y + dy, first + dx : last + dx]
                for x in range(last - first):
                    difference = there[x] - here[x]
                    square[x] += difference * difference
            for x in range(last - first):
                known = square[x] < np.inf
                total[first + x] += np.sqrt(square[x]) if known else 0.0
                count[first + x] += 1.0 if known else 0.0
        for x in range(columns):
            mean[y, x] = total[x] / count[x] if count[x] > 0 else np.nan


@njit(nogil=True, cache=True, error_model="numpy")
def _add_axis(here, there, own, other, near):
    """Adds one axis to the squared distance to a neighbour, with its noise; rows of `near`."""
    for k in range(here.size):
        difference = there[k] - here[k]
        square = difference * difference
        near[k] += square
        near[BLOCK + k] += square * other[k]
        near[2 * BLOCK + k] += other[k] + own[k]
        near[3 * BLOCK + k] += other[k] * other[k] + 2 * other[k] * own[k]


@njit(nogil=True, cache=True, error_model="numpy")
def _add_neighbour(near, sums, size):
    """Adds one neighbour to the sums; `near` then has the inverse distance, and 1 or 0 if it is unknown."""
    for k in range(size):
        square, along, noise, mixed = near[k], near[BLOCK + k], near[2 * BLOCK + k], near[3 * BLOCK + k]
        known = square + noise < np.inf
        square, along = square if known else 0.0, along if known else 0.0
        noise, mixed = noise if known else 0.0, mixed if known else 0.0
        one = 1 / np.sqrt(square if square > 0 else np.inf)
        sums[k] += 1.0 if known else 0.0
        sums[BLOCK + k] += square * one
        sums[2 * BLOCK + k] += square
        sums[3 * BLOCK + k] += noise
        sums[4 * BLOCK + k] += along * one * one
        sums[5 * BLOCK + k] += along
        sums[6 * BLOCK + k] += mixed
        near[k], near[BLOCK + k] = one, 1.0 if known else 0.0


@njit(nogil=True, cache=True, error_model="numpy")
def _add_pull(here, there, near, pull):
    """Adds the direction to one neighbour along an axis, and the difference."""
    for k in range(here.size):
        difference = there[k] - here[k] if near[BLOCK + k] > 0 else 0.0
        pull[k] += difference * near[k]
        pull[BLOCK + k] += difference


@njit(nogil=True, cache=True, error_model="numpy")
def _finish(sums, pulls, own, error, excess, excess_error):
    """Errors of a row of pixels from their sums."""
    for x in range(error.size):
        n, total, square, floor = sums[x], sums[BLOCK + x], sums[2 * BLOCK + x], sums[3 * BLOCK + x]
        if n == 0:
            continue
        variance, slope, noise = sums[4 * BLOCK + x], sums[5 * BLOCK + x], sums[6 * BLOCK + x]
        for a in range(own.shape[0]):
            here = own[a, x]
            variance += pulls[a, x] * pulls[a, x] * here
            slope += pulls[a, BLOCK + x] * pulls[a, BLOCK + x] * here
            noise += n * n * here * here
        excess[x] = (square - floor) / n
        # A mean square within two standard deviations of that of noise tells nothing of its own slope.
        clear = square - floor > np.sqrt(8 * noise)
        excess_error[x] = np.sqrt(max(4 * slope - 2 * noise, 2 * noise) if clear else 2 * noise) / n
        if total * total > RESOLVED * n * floor:
            error[x] = np.sqrt(variance) / n


@njit(nogil=True, cache=True, error_model="numpy")
def _errors(angles, variances, offsets, error, excess, excess_error):
    """Errors of the mean distance to the neighbours, row by row; the mean square without noise, and its error."""
    axes, rows, columns = angles.shape
    sums, near, pulls = np.empty(7 * BLOCK), np.empty(4 * BLOCK), np.empty((axes, 2 * BLOCK))
    for y in range(rows):
        for start in range(0, columns, BLOCK):
            stop = min(start + BLOCK, columns)
            sums[:], pulls[:] = 0, 0
            for k in range(offsets.shape[0]):
                dy, dx = offsets[k]
                first, last = max(start, -dx), min(stop, columns - dx)
                if y + dy < 0 or y + dy >= rows or last <= first:
                    continue
                near[:] = 0
                for a in range(axes):
                    there, other = (
                        angles[a, y + dy, first + dx : last + dx],
                        variances[a, y + dy, first + dx : last + dx],
                    )
                    _add_axis(
                        angles[a, y, first:last], there, variances[a, y, first:last], other, near[first - start :]
                    )
                _add_neighbour(near[first - start :], sums[first - start :], last - first)
                for a in range(axes):
                    there = angles[a, y + dy, first + dx : last + dx]
                    _add_pull(angles[a, y, first:last], there, near[first - start :], pulls[a, first - start :])
            _finish(
                sums,
                pulls,
                variances[:, y, start:stop],
                error[y, start:stop],
                excess[y, start:stop],
                excess_error[y, start:stop],
            )


def neighbourhood(
    radius: float, spacing_y: float, spacing_x: float, footprint: Literal["disc", "square"] = "disc"
) -> np.ndarray:
    """Offsets of the neighbours of a pixel, without the pixel itself.

    Parameters
    ----------
    radius : float, um
        Largest distance (disc), or half the edge (square). A pixel at exactly this distance is included.
    spacing_y, spacing_x : float, um
        Pixel sizes; infinite along a dimension of one pixel.
    footprint : "disc" or "square"
        Shape.

    Returns
    -------
    array (neighbour, 2), int64
        Along y and x.

    Examples
    --------
    >>> neighbourhood(1.0, 1.0, 0.5).tolist()
    [[-1, 0], [0, -2], [0, -1], [0, 1], [0, 2], [1, 0]]
    """
    reach = radius * (1 + 1e-9)
    high, wide = int(reach // spacing_y), int(reach // spacing_x)
    return np.array(
        [
            (dy, dx)
            for dy in range(-high, high + 1)
            for dx in range(-wide, wide + 1)
            if (dy, dx) != (0, 0)
            and (
                footprint == "square" or np.hypot(dy * spacing_y if dy else 0.0, dx * spacing_x if dx else 0.0) <= reach
            )
        ],
        np.int64,
    ).reshape(-1, 2)


def neighbours(name: str, parameters: Mapping[str, Any], positions: Mapping[str, np.ndarray]) -> np.ndarray:
    """Offsets of the neighbours of a pixel, from ``radius`` and ``footprint`` of a reduction and positions in um.

    Raises
    ------
    InputError
        Pixels of unequal size, or a radius smaller than a pixel.
    """
    spacing_y, spacing_x = (pixel_length(d, name, positions[d]) for d in ("y", "x"))
    offsets = neighbourhood(parameters["radius"], spacing_y, spacing_x, parameters.get("footprint", "disc"))
    if len(offsets) == 0 and np.isfinite(min(spacing_y, spacing_x)):
        raise InputError(
            f"{name}: radius {parameters['radius']:g} um",
            f"contains no neighbour of a pixel of {spacing_y:.6g} um along y and {spacing_x:.6g} um along x",
            f"set a radius of at least {min(spacing_y, spacing_x):.6g} um",
        )
    return offsets


@reduction(
    reads=(COM, Y, X),
    may_read=(FLAGS, COM_ERROR),
    writes=(KAM, KAM_ERROR, KAM_EXCESS, KAM_EXCESS_ERROR),
    over=("y", "x"),
    fits=partial(neighbours, "kam"),
)
def kam(
    com: dict[str, np.ndarray],
    y: np.ndarray,
    x: np.ndarray,
    flags: np.ndarray | None = None,
    com_error: dict[str, np.ndarray] | None = None,
    *,
    radius: Annotated[
        float, Field(gt=0, description="distance of the farthest neighbours", json_schema_extra={"unit": "um"})
    ] = 2.0,
    footprint: Annotated[Literal["disc", "square"], Field(description="shape of the neighbourhood")] = "disc",
    noise: Annotated[
        float,
        Field(
            ge=0,
            description="standard deviation of the centre of mass, whose contribution is subtracted",
            json_schema_extra={"unit": "degree"},
        ),
    ] = 0.0,
) -> dict[str, np.ndarray]:
    """Kernel average misorientation (KAM): mean misorientation between a pixel and its neighbours.

    The misorientation between two pixels is the distance between their centres of mass, over all scan axes. KAM is its
    mean over the neighbours within ``radius`` in the same layer. It is high at subgrain boundaries and around
    dislocations. It increases with the radius: only maps of the same radius are comparable.

    Parameters
    ----------
    flags : array, optional
        Pixels with the flag ``single`` (lit in a single frame) are left out: their centre of mass is only known to a
        step.
    com_error : dict of arrays, optional
        See :func:`moment_errors`. Without it ``noise`` is the error of every pixel; without both, errors and
        ``kam_excess`` are NaN.
    radius : float, um
        A length rather than a number of pixels, since the effective pixel differs along x and y (our choice: 2 um).
    footprint : "disc" or "square"
        All pixels within the radius, or within a square whose edge is twice the radius.
    noise : float, degree
        The result is 0 where the subtraction is negative.

    Raises
    ------
    InputError
        Pixels of unequal size, or a radius smaller than a pixel.

    Notes
    -----
    With the vector COM of the centres of mass along all scan axes and the N neighbours n of a pixel::

        KAM = (1 / N) Σₙ ‖COM(n) − COM‖
        corrected for noise:  sqrt(max(KAM² − 2 noise², 0))

    The pixel itself does not count. Neighbours outside the layer or without a centre of mass are left out; a pixel
    without a centre of mass or without neighbours is NaN. The correction is exact for one axis and the mean square; it
    vanishes where the misorientation is much larger than the noise.

    KAM of pure noise is not 0. ``kam_excess`` is the mean square without the noise floor; its mean over pixels of one
    orientation is 0, and single pixels may be negative::

        kam_excess = (1 / N) Σₙ (‖COM(n) − COM‖² − Σₐ (σₐ(n)² + σₐ²))

    with the standard errors σ. The errors of KAM and of ``kam_excess`` follow from the σ of the pixel, common to all
    differences, and those of its neighbours; they neglect covariances of two axes. The error of KAM is linear in the
    noise, and NaN where KAM² is less than four times the mean floor: there the sign of the differences is not known
    (our choice). The error of ``kam_excess`` holds everywhere.

    The norm treats the scan angles as orthogonal rotations of equal weight. One reflection does not reveal the rotation
    about the diffraction vector, so KAM is a lower bound of the misorientation.

    References
    ----------
    S. I. Wright, M. M. Nowell and D. P. Field, Microscopy and Microanalysis 17 (2011) 316.

    Examples
    --------
    >>> import dfxm_dask
    >>> scan = dfxm_dask.example_scan()
    >>> maps = dfxm_dask.moments(scan, background=100, noise_cut=5)
    >>> turned = dfxm_dask.kam(maps, radius=0.5)["kam"].isel(z=0, y=2)
    >>> float(turned.idxmax())  # where two subgrains meet
    3.75

    The kernel alone, on one layer:

    >>> tilt = np.tile(np.arange(5, dtype=np.float32), (5, 1))
    >>> position = np.arange(5.0)
    >>> kam.kernel({"phi": tilt}, position, position, radius=1.0)["kam"][2, 2].item()
    0.5
    """
    angles = np.stack([np.asarray(value, np.float64) for value in without_single(com, flags).values()])
    mean = np.full(angles.shape[1:], np.nan, np.float32)
    offsets = neighbours("kam", {"radius": radius, "footprint": footprint}, {"y": y, "x": x})
    _mean_difference(angles, offsets, mean)
    if noise:
        mean = np.sqrt(np.maximum(mean.astype(np.float64) ** 2 - 2 * noise**2, 0)).astype(np.float32)
    error, excess, excess_error = (np.full(mean.shape, np.nan, np.float32) for _ in range(3))
    if com_error is not None or noise:
        sigma = [np.full(mean.shape, noise) if com_error is None else com_error[name] for name in com]
        variances = np.stack([np.square(value, dtype=np.float64) for value in sigma])
        _errors(angles, variances, offsets, error, excess, excess_error)
    return {"kam": mean, "kam_error": error, "kam_excess": excess, "kam_excess_error": excess_error}
