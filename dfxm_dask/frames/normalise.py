"""Counts on one scale: what every frame would have shown at the same beam or the same exposure."""

from __future__ import annotations

from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from dfxm_dask.errors import InputError
from dfxm_dask.reduction import reduction
from dfxm_dask.schema import AXES, COUNTS, EXPOSURE, FULL_WELL, MONITOR, SATURATION, SCAN, Variable, full_count

NORMALISED = Variable(
    "counts", ("z", SCAN, "y", "x"), "float32", "count", "detector counts at the reference beam", stored=False
)


@reduction(
    reads=(COUNTS, AXES),
    may_read=(MONITOR, EXPOSURE, SATURATION),
    writes=(NORMALISED, FULL_WELL),
    over=("scan",),
    positions="unused",
)
def normalise(
    counts: np.ndarray,
    scan: dict[str, np.ndarray],
    monitor: np.ndarray | None = None,
    exposure: np.ndarray | None = None,
    saturation: np.ndarray | None = None,
    *,
    by: Annotated[Literal["monitor", "exposure"], Field(description="what the frames are divided by")] = "monitor",
    reference: Annotated[
        float | None,
        Field(gt=0, description="monitor counts (or seconds) at which counts stay as they are; must be given"),
    ] = None,
    offset: Annotated[
        float,
        Field(description="detector offset, which the beam does not scale", json_schema_extra={"unit": "count"}),
    ] = 0.0,
) -> dict[str, np.ndarray]:
    """Counts as they would be at a reference beam or exposure.

    Parameters
    ----------
    counts : array (y, x, scan axes), uint16 or float32, count
        Detector counts of one layer.
    scan : dict of str to array (length of the axis,), float64
        Positions along every scan axis; not used.
    monitor : array (scan axes), float64, count, optional
        Incident beam at each frame.
    exposure : array (scan axes), float64, s, optional
        Exposure time of each frame.
    saturation : array (), float32, count, optional
        Raw count of a full detector well; the largest value of an integer dtype where it is not known.
    by : "monitor" or "exposure"
        Which of the two to divide by.
    reference : float
        The value of it at which counts stay as they are. It has no default: a mean over one layer would put every
        layer on its own scale.
    offset : float, count
        Subtracted before and added after.

    Returns
    -------
    dict
        ``counts`` (y, x, scan axes), float32, count, stored in the order (scan axes, y, x); ``full_well`` (y, x), bool:
        pixels with a raw count that fills the well, which the scaled counts no longer tell.

    Raises
    ------
    InputError
        No reference; no monitor (or exposure) in the scan; a value of it that is not a positive number.

    Notes
    -----
    I' = (I − offset) × reference / monitor + offset.

    Examples
    --------
    >>> counts = np.array([[[100, 150]]], np.uint16)
    >>> monitor = np.array([1.0, 0.5])
    >>> normalise.kernel(counts, {"phi": np.arange(2.0)}, monitor, reference=1, offset=100)["counts"].ravel().tolist()
    [100.0, 200.0]
    """
    if reference is None:
        raise InputError(
            "normalise: parameter 'reference'", "is not given", f"say at which {by} counts stay as they are"
        )
    value = monitor if by == "monitor" else exposure
    if value is None:
        other = "exposure" if by == "monitor" else "monitor"
        raise InputError(
            f"normalise by {by}",
            f"the scan has no {by}",
            f"name its counter in the beamline configuration and ingest again, or take by={other!r}",
        )
    bad = ~(np.isfinite(value) & (value > 0))
    if bad.any():
        raise InputError(
            f"normalise by {by}",
            f"{int(bad.sum())} of {value.size} frames have a {by} that is not a positive number",
            "leave these frames out of the scan, or do not normalise",
        )
    rows, columns, *lengths = counts.shape
    frames = np.moveaxis(counts, (0, 1), (-2, -1))
    scaled = np.empty((*lengths, rows, columns), np.float32)
    full, limit = np.zeros((rows, columns), bool), full_count(saturation, counts.dtype)
    for frame in np.ndindex(*lengths):
        full |= frames[frame] >= limit
        scaled[frame] = (frames[frame] - offset) * (reference / value[frame]) + offset
    return {"counts": np.moveaxis(scaled, (-2, -1), (0, 1)), "full_well": full}
