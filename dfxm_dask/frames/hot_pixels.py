"""Hot and dead pixels: pixels whose background deviates from that of their neighbours."""

from __future__ import annotations

from typing import Annotated

import numpy as np
from numba import njit
from pydantic import Field

from dfxm_dask.frames.background import STRIP, sift
from dfxm_dask.reduction import reduction
from dfxm_dask.schema import BACKGROUND, HOT

REACH = 2  # the neighbourhood is 5 × 5 without its centre: 24 pixels
HALF = 13  # the 13 smallest of these contain the median, however many are missing


@njit(nogil=True, cache=True)
def _deviation(padded, result):
    """Value minus the median of the existing neighbours; `padded` is +inf beyond the frame and at missing values."""
    rows, columns = result.shape
    smallest = np.empty((HALF + 1) * STRIP, np.float32)
    value = smallest[HALF * STRIP :]
    found = np.empty(STRIP, np.float32)
    for y in range(rows):
        for first in range(0, columns, STRIP):
            width = min(STRIP, columns - first)
            smallest[:] = np.inf
            found[:] = 0
            for dy in range(2 * REACH + 1):
                for dx in range(2 * REACH + 1):
                    if dy == REACH and dx == REACH:
                        continue
                    near = padded[y + dy, first + dx : first + dx + width]
                    for x in range(width):
                        value[x] = near[x]
                        found[x] += np.float32(1) if near[x] < np.inf else np.float32(0)
                    sift(smallest, HALF)
            for x in range(width):
                count = np.int64(found[x])
                below, above = (count - 1) // 2 if count > 0 else 0, count // 2
                median = (smallest[below * STRIP + x] + smallest[above * STRIP + x]) / 2
                here = padded[y + REACH, first + x + REACH]
                result[y, first + x] = here - median if count > 0 and here < np.inf else np.nan


@reduction(reads=(BACKGROUND,), writes=(HOT,), over=("y", "x"))
def hot_pixels(
    background_map: np.ndarray,
    *,
    threshold: Annotated[
        float, Field(gt=0, description="threshold of the deviation from the neighbours, in robust standard deviations")
    ] = 8.0,
    floor: Annotated[
        float,
        Field(gt=0, description="lower bound of that robust standard deviation", json_schema_extra={"unit": "count"}),
    ] = 1.0,
) -> dict[str, np.ndarray]:
    """Hot and dead pixels: a mask of pixels whose background deviates from that of their neighbours.

    The background of each pixel is compared with the median of its 24 neighbours in 5 × 5 pixels. A pixel is marked
    where this difference exceeds ``threshold`` robust standard deviations, of the layer or of its surroundings,
    whichever is larger. Later steps leave marked pixels out.

    Parameters
    ----------
    threshold : float
        Our choice: 8, at which no pixel of a layer of 5 million good pixels is marked.
    floor : float, count
        Without a lower bound, the standard deviation of a constant background would be 0 (our choice: 1 count).

    Notes
    -----
    With the medians over the finite neighbours of a pixel (n) and over the layer::

        d = background − median_n(background)
        σ = 1.4826 max(median_layer(abs(d − median_layer(d))), median_n(abs(d)))
        hot where abs(d) > threshold × max(σ, floor)

    Where a grain diffracts over most of the scan, its texture remains in the background; the median over the
    neighbours allows for that. Pixels without a finite background or without a finite neighbour are not marked; their
    maps are NaN anyway. A cluster of more than 12 bad pixels in 25 escapes detection.

    References
    ----------
    F. R. Hampel, J. Am. Stat. Assoc. 69 (1974) 383 (median absolute deviation).

    Examples
    --------
    >>> import dfxm_dask
    >>> scan = dfxm_dask.example_scan()
    >>> level = dfxm_dask.background(scan).compute()
    >>> level["background_map"][0, 3, 4] = 900
    >>> np.argwhere(dfxm_dask.hot_pixels(scan.merge(level))["hot"].values).tolist()
    [[0, 3, 4]]

    The kernel alone, on one layer:

    >>> image = np.full((7, 7), 100, np.float32)
    >>> image[3, 4], image[5, 1] = 900, 0
    >>> np.argwhere(hot_pixels.kernel(image)["hot"]).tolist()
    [[3, 4], [5, 1]]
    """
    deviation = _from_neighbours(background_map.astype(np.float32))
    known = deviation[np.isfinite(deviation)]
    if known.size == 0:
        return {"hot": np.zeros(background_map.shape, bool)}
    sigma = max(1.4826 * float(np.median(np.abs(known - np.median(known)))), floor)
    size = np.abs(deviation)
    around = np.nan_to_num(size - _from_neighbours(size))  # median size of the deviations of the neighbours
    with np.errstate(invalid="ignore"):
        return {"hot": size > threshold * np.maximum(sigma, 1.4826 * around)}


def _from_neighbours(image: np.ndarray) -> np.ndarray:
    """Difference between every pixel and the median of its neighbours; NaN where either is unknown."""
    result = np.full(image.shape, np.nan, np.float32)
    padded = np.pad(image, REACH, constant_values=np.inf)
    padded[~np.isfinite(padded)] = np.inf
    _deviation(padded, result)
    return result
