"""Counts on one scale: what every frame would have shown at the same beam or the same exposure."""

from __future__ import annotations

from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from dfxm_dask.errors import InputError
from dfxm_dask.frames.scale import SEEN, settle_scale
from dfxm_dask.reduction import reduction
from dfxm_dask.schema import (
    AXES,
    COUNTS,
    EXPOSURE,
    FRAME_SCALE,
    FULL_WELL,
    MONITOR,
    SATURATION,
    SCAN,
    Variable,
    full_count,
)

NORMALISED = Variable(
    "counts", ("z", SCAN, "y", "x"), "float32", "count", "detector counts at the reference beam", stored=False
)


@reduction(
    reads=(COUNTS, AXES),
    may_read=(MONITOR, EXPOSURE, SATURATION),
    writes=(NORMALISED, FULL_WELL, FRAME_SCALE),
    over=("scan",),
    positions="unused",
    settle=settle_scale,
    settled_by=SEEN,
)
def normalise(
    counts: np.ndarray,
    scan: dict[str, np.ndarray],
    monitor: np.ndarray | None = None,
    exposure: np.ndarray | None = None,
    saturation: np.ndarray | None = None,
    *,
    by: Annotated[
        Literal["auto", "monitor", "exposure"],
        Field(description="what the frames are divided by; auto: what they follow, nothing where frames are even"),
    ] = "auto",
    reference: Annotated[
        float | None,
        Field(gt=0, description="monitor counts (or seconds) at which counts stay as they are"),
    ] = None,
    offset: Annotated[
        float | None,
        Field(
            description="detector offset, which the beam does not scale; by default from the dark parts of the frames",
            json_schema_extra={"unit": "count"},
        ),
    ] = None,
) -> dict[str, np.ndarray]:
    """Counts as they would be at a reference beam or exposure.

    Parameters
    ----------
    saturation : array, optional
        The largest value of an integer dtype where it is not known.
    by : "auto", "monitor" or "exposure"
        "auto" takes the one that differs by more than 1.5 times within a layer and that the frames follow; where there
        is none the counts stay as they are, bit for bit.
    reference : float
        By default that at which the noise of a sum over the scan stays what it was, over all layers
        (:func:`dfxm_dask.frames.scale.settle_scale`).
    offset : float, count
        Subtracted before and added after; see :func:`dfxm_dask.frames.scale.settle_scale`.

    Returns
    -------
    dict
        ``full_well`` marks what the scaled counts no longer tell. ``frame_scale`` is the factor of the counts above the
        offset, and of their noise.

    Raises
    ------
    InputError
        Frames need one scale and the scan has no monitor or exposure for it, or one with a value that is not a positive
        number, or does not tell the detector offset. In the kernel, which sees a part of one layer: no numbers.

    Notes
    -----
    I' = (I − offset) × reference / monitor + offset. The defaults are
    settled once for all layers, when a run is planned or a lazy Dataset is built, by monitor, exposure and the sums of
    patches that ingest keeps; a run records the numbers in the provenance of every step that reads the counts.

    Our own definition.

    Examples
    --------
    >>> import dfxm_dask
    >>> scan = dfxm_dask.example_scan()
    >>> scan["monitor"][:, 4] = 2.5e5
    >>> even = dfxm_dask.normalise(scan, by="monitor", reference=5e5, offset=100)
    >>> even["frame_scale"][0, 3:6].values.tolist()
    [1.0, 2.0, 1.0]

    The kernel alone, on one layer:

    >>> counts = np.array([[[100, 150]]], np.uint16)
    >>> scan, monitor, by = {"phi": np.arange(2.0)}, np.array([1.0, 0.5]), {"by": "monitor", "reference": 1}
    >>> normalise.kernel(counts, scan, monitor, **by, offset=100)["counts"].ravel().tolist()
    [100.0, 200.0]
    """
    for name, value in (("by", None if by == "auto" else by), ("reference", reference), ("offset", offset)):
        if value is None:
            raise InputError(
                f"normalise: parameter {name!r} of the kernel",
                "is not given, and a part of one layer does not tell it",
                "give by=, reference= and offset=, or call normalise(dataset)",
            )
    beam = monitor if by == "monitor" else exposure
    if beam is None:
        other = "exposure" if by == "monitor" else "monitor"
        raise InputError(
            f"normalise by {by}",
            f"the scan has no {by}",
            f"name its counter in the beamline configuration and ingest again, or take by={other!r}",
        )
    bad = ~(np.isfinite(beam) & (beam > 0))
    if bad.any():
        raise InputError(
            f"normalise by {by}",
            f"{int(bad.sum())} of {beam.size} frames have a {by} that is not a positive number",
            "leave these frames out of the scan, or do not normalise",
        )
    rows, columns, *lengths = counts.shape
    frames = np.moveaxis(counts, (0, 1), (-2, -1))
    scaled = np.empty((*lengths, rows, columns), np.float32)
    full, limit = np.zeros((rows, columns), bool), full_count(saturation, counts.dtype)
    for frame in np.ndindex(*lengths):
        full |= frames[frame] >= limit
        scaled[frame] = (frames[frame] - offset) * (reference / beam[frame]) + offset
    return {"counts": np.moveaxis(scaled, (-2, -1), (0, 1)), "full_well": full, "frame_scale": reference / beam}
