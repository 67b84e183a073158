"""Defects of the weak beam with and without a local rotation of the lattice, by the centre of mass around them."""

from __future__ import annotations

from functools import partial
from typing import Annotated

import numpy as np
from numba import njit
from pydantic import Field

from dfxm_dask.reduction import reduction
from dfxm_dask.rocking.kam import COM, neighbourhood, neighbours
from dfxm_dask.rocking.moments import FLAGS, without_single
from dfxm_dask.schema import DEFECTS, ROTATION, X, Y, pixel_length

WITH, WITHOUT, UNKNOWN = (bit for bit, _ in ROTATION.flags)
SAMPLE = 5_000
"""Evenly spaced pixels for the median and spread of a layer; all pixels of smaller layers (our choice)."""
MAD = 1.4826  # ratio of the standard deviation of Gaussian noise to its median absolute deviation


@njit(nogil=True, cache=True)
def _spread(mask, offsets, wanted):
    """Marks the mask and all pixels within reach of the mask."""
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
    """Kernel average misorientation of the marked pixels, as in :func:`dfxm_dask.rocking.kam.kam`."""
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
    """Largest finite value within reach of each pixel of the mask."""
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
    """Threshold of misorientation: median plus ``deviations`` × 1.4826 × MAD of a layer; NaN without finite values.

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


@reduction(
    reads=(DEFECTS, COM, Y, X),
    may_read=(FLAGS,),
    writes=(ROTATION,),
    over=("y", "x"),
    group="beams",
    fits=partial(neighbours, "classify_defects"),
)
def classify_defects(
    defects: np.ndarray,
    com: dict[str, np.ndarray],
    y: np.ndarray,
    x: np.ndarray,
    flags: np.ndarray | None = None,
    *,
    radius: Annotated[
        float,
        Field(gt=0, description="radius of the neighbourhood of the misorientation", json_schema_extra={"unit": "um"}),
    ] = 0.5,
    reach: Annotated[
        float,
        Field(
            ge=0,
            description="distance from the pixel within which the lattice must rotate",
            json_schema_extra={"unit": "um"},
        ),
    ] = 0.25,
    deviations: Annotated[
        float, Field(ge=0, description="threshold of misorientation, in standard deviations above the median")
    ] = 4.0,
) -> dict[str, np.ndarray]:
    """Class of each weak-beam defect pixel: with or without a local rotation of the lattice, or unknown.

    The kernel average misorientation of the centre of mass is computed around every pixel of the mask of defects. A
    pixel is of class ``with_rotation`` if the largest misorientation within ``reach`` exceeds the threshold of the
    layer, and otherwise of class ``without_rotation``.

    Parameters
    ----------
    defects : array
        See :func:`dfxm_dask.beams.threshold_beams`.
    flags : array, optional
        Pixels with the flag ``single`` (lit in a single frame) are left out: their centre of mass is only known to a
        step.
    radius : float, um
        Our choice: 0.5, the width of the image of a dislocation (see :func:`dfxm_dask.rocking.kam`).
    reach : float, um
        Our choice: 0.25, half the width of the image of a dislocation.
    deviations : float
        Our choice: 4, from one simulated scan with a strong beam.

    Returns
    -------
    dict
        0 outside the mask of defects; ``rotation_unknown`` without any centre of mass within reach.

    Raises
    ------
    InputError
        Pixels of unequal size, or a radius smaller than a pixel.

    Notes
    -----
    The threshold of a layer, with m the largest misorientation within ``reach`` of each of some five thousand evenly
    spaced pixels, is::

        median(m) + deviations × 1.4826 median(abs(m − median(m)))

    Only rotations along a scanned axis count: a wall whose rotation axis is the diffraction vector, or whose rotation
    has no component along a scanned axis, is without rotation here. Where the strong beam follows the lattice, pixels
    without rotation mostly lie on the far flank of an image; at walls without a rotation along a scanned axis they are
    the wall itself. Both classes are therefore kept.

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
    offsets = neighbours("classify_defects", {"radius": radius}, {"y": y, "x": x})
    near = neighbourhood(reach, pixel_length("y", "classify_defects", y), pixel_length("x", "classify_defects", x))
    angles = np.stack([np.asarray(value, np.float64) for value in without_single(com, flags).values()])
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
