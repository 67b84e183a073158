"""Which defects of the weak beam rotate the lattice: the centre of mass turns at some, and at others it does not."""

from __future__ import annotations

from typing import Annotated

import numpy as np
from numba import njit
from pydantic import Field

from dfxm_dask.reduction import reduction
from dfxm_dask.rocking.kam import COM, kam, neighbourhood
from dfxm_dask.rocking.moments import FLAGS, without_single
from dfxm_dask.schema import DEFECTS, ROTATION, X, Y, pixel_length

WITH, WITHOUT, UNKNOWN = (bit for bit, _ in ROTATION.flags)
SAMPLE = 5_000
"""Pixels that median and spread of a layer are taken from, evenly spaced; all where it has fewer (our choice)."""
MAD = 1.4826  # times the median absolute deviation is the standard deviation of Gaussian noise


@njit(nogil=True, cache=True)
def _spread(mask, offsets, wanted):
    """Marks the mask and all places within reach of the mask."""
    rows, columns = mask.shape
    for y in range(rows):
        for x in range(columns):
            if mask[y, x]:
                wanted[y, x] = True
                for k in range(offsets.shape[0]):
                    row, column = y + offsets[k, 0], x + offsets[k, 1]
                    if 0 <= row < rows and 0 <= column < columns:
                        wanted[row, column] = True


@njit(nogil=True, cache=True)
def _mean_difference_at(angles, offsets, wanted, mean):
    """Kernel average misorientation of the wanted pixels, by the sum of :func:`dfxm_dask.rocking.kam.kam`."""
    axes, rows, columns = angles.shape
    for y in range(rows):
        for x in range(columns):
            if not wanted[y, x]:
                continue
            total, count = 0.0, 0
            for k in range(offsets.shape[0]):
                row, column = y + offsets[k, 0], x + offsets[k, 1]
                if not (0 <= row < rows and 0 <= column < columns):
                    continue
                square = 0.0
                for a in range(axes):
                    difference = angles[a, row, column] - angles[a, y, x]
                    square += difference * difference
                if square < np.inf:
                    total += np.sqrt(square)
                    count += 1
            if count > 0:
                mean[y, x] = total / count


@njit(nogil=True, cache=True)
def _largest_near(mask, values, offsets, largest):
    """Largest value within reach of each pixel of the mask; what has no number is left out."""
    rows, columns = mask.shape
    for y in range(rows):
        for x in range(columns):
            if not mask[y, x]:
                continue
            found = values[y, x]
            for k in range(offsets.shape[0]):
                row, column = y + offsets[k, 0], x + offsets[k, 1]
                if 0 <= row < rows and 0 <= column < columns:
                    value = values[row, column]
                    if value > found or not found == found:
                        found = value
            largest[y, x] = found


def rotation_threshold(misorientation: np.ndarray, deviations: float) -> float:
    """Misorientation that stands out of a layer: median plus so many standard deviations, by 1.4826 × MAD; NaN of none.

    Examples
    --------
    >>> rotation_threshold(np.array([1.0, 2.0, 3.0, np.nan, 90.0]), 0.0)
    2.5
    """
    known = misorientation[np.isfinite(misorientation)].astype(np.float64)
    if not known.size:
        return float("nan")
    middle = float(np.median(known))
    return middle + deviations * MAD * float(np.median(np.abs(known - middle)))


@reduction(reads=(DEFECTS, COM, Y, X), may_read=(FLAGS,), writes=(ROTATION,), over=("y", "x"), group="beams")
def classify_defects(
    defects: np.ndarray,
    com: dict[str, np.ndarray],
    y: np.ndarray,
    x: np.ndarray,
    flags: np.ndarray | None = None,
    *,
    radius: Annotated[
        float,
        Field(gt=0, description="distance over which the misorientation is taken", json_schema_extra={"unit": "um"}),
    ] = 0.5,
    reach: Annotated[
        float,
        Field(ge=0, description="distance within which the lattice must rotate", json_schema_extra={"unit": "um"}),
    ] = 0.25,
    deviations: Annotated[
        float, Field(ge=0, description="standard deviations above the median from which the lattice rotates")
    ] = 4.0,
) -> dict[str, np.ndarray]:
    """Whether the lattice rotates at each pixel that shows a defect.

    Parameters
    ----------
    defects : array
        See :func:`dfxm_dask.beams.threshold_beams`.
    flags : array, optional
        A pixel that is lit in a single frame has no centre of mass better than a step, and is left out.
    radius, reach : float, um
        Our choice: 0.5, the width of an image of a line (see :func:`dfxm_dask.rocking.kam`), and half this width.
    deviations : float
        A standard deviation is 1.4826 × the median absolute deviation of some five thousand places. Our choice: 4, on
        one simulated scan with a strong beam.

    Returns
    -------
    dict
        0 where no defect shows; unknown where no centre of mass is known within reach.

    Raises
    ------
    InputError
        Pixels of unequal size, or a radius that holds no neighbour.

    Notes
    -----
    Only rotations that a scan axis sees count: a wall whose rotation axis is the diffraction vector, or whose lattice
    steps along an axis that was not scanned, is without rotation here. Where the strong beam follows the lattice, what
    has no rotation is mostly the far flank of an image; at walls that step along no scanned axis it is the wall itself.
    So both classes are kept.

    Our own definition.

    Examples
    --------
    >>> import dfxm_dask
    >>> scan = dfxm_dask.example_scan()
    >>> maps = dfxm_dask.moments(scan, background=100, noise_cut=5).drop_vars("flags")
    >>> mask = np.zeros((2, 32, 32), bool)
    >>> mask[:, 4, [5, 16]] = True
    >>> found = dfxm_dask.classify_defects(maps.assign(defects=(("z", "y", "x"), mask)))["defects_rotation"]
    >>> found[0, 4, [0, 5, 16]].values.tolist()
    [0, 2, 1]

    The kernel alone, on one layer:

    >>> position = 0.25 * np.arange(12.0)
    >>> tilt = np.where(position < 1.4, 0.0, 0.003) * np.ones((12, 1))
    >>> mask = np.zeros((12, 12), bool)
    >>> mask[4, [5, 10]] = True
    >>> classify_defects.kernel(mask, {"phi": tilt}, position, position)["defects_rotation"][4].tolist()
    [0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 2, 0]
    """
    spacing = pixel_length("y", "classify_defects", y), pixel_length("x", "classify_defects", x)
    near = neighbourhood(reach, *spacing)
    angles = np.stack([np.asarray(value, np.float64) for value in without_single(com, flags).values()])
    offsets = neighbourhood(radius, *spacing)
    if angles[0].size > 1 and not len(offsets):
        kam.kernel(com, y, x, radius=radius)  # which refuses
    every = max(1, int(np.sqrt(defects.size / SAMPLE)))
    sample = (slice(every // 2, None, every),) * 2
    asked = defects.copy()
    asked[sample] = True
    wanted = np.zeros(defects.shape, bool)
    _spread(asked, near, wanted)
    turned, largest = (np.full(defects.shape, np.nan, np.float32) for _ in range(2))
    _mean_difference_at(angles, offsets, wanted, turned)
    _largest_near(asked, turned, near, largest)
    limit = rotation_threshold(largest[sample], deviations)
    found = np.where(largest > limit, WITH, WITHOUT)
    found = np.where(np.isfinite(largest) & np.isfinite(limit), found, UNKNOWN)
    return {ROTATION.name: np.where(defects, found, 0).astype(np.uint8)}
