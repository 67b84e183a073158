"""Counts on one scale: those of every frame at the same incident beam or the same exposure."""

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
        Field(description="divisor of the frames; 'auto': the quantity that they follow, none where frames are even"),
    ] = "auto",
    reference: Annotated[
        float | None,
        Field(gt=0, description="monitor counts (or seconds) at which counts remain unchanged"),
    ] = None,
    offset: Annotated[
        float | None,
        Field(
            description="detector offset, independent of the beam; by default from the dark parts of the frames",
            json_schema_extra={"unit": "count"},
        ),
    ] = None,
) -> dict[str, np.ndarray]:
    """Detector counts normalised to a reference beam or exposure.

    The counts of each frame above the detector offset are multiplied by the ratio of a reference to the monitor counts
    (or the exposure time) of that frame. By default this happens only where the beam differs by more than 1.5 times
    within a layer and the frames follow it; otherwise the counts remain unchanged, bit for bit. The normalised counts
    are float32 and are passed on to later steps of the run; they are not stored.

    Parameters
    ----------
    saturation : array, optional
        Where unknown, a well is full at the largest value of an integer dtype.
    by : "auto", "monitor" or "exposure"
        "auto" selects the one that differs by more than 1.5 times within a layer and that the frames follow.
    reference : float
        By default the value that preserves the noise of a sum over the scan, over all layers
        (:func:`dfxm_dask.frames.scale.settle_scale`).
    offset : float, count
        Subtracted before and added after scaling; see :func:`dfxm_dask.frames.scale.settle_scale`.

    Returns
    -------
    dict
        ``full_well`` marks saturated pixels, which the scaled counts no longer reveal. ``frame_scale`` is the factor of
        the counts above the offset, and of their noise.

    Raises
    ------
    InputError
        The frames require normalisation, but the scan has no monitor or exposure, or one with values that are not
        positive, or its frames do not determine the detector offset. The kernel, which receives a part of one layer,
        raises it where ``by``, ``reference`` or ``offset`` is not given as a number.

    Notes
    -----
    For counts I of a frame::

        I' = (I − offset) × reference / monitor + offset

    The defaults are computed once for all layers, when a run is planned or a lazy Dataset is built, from monitor,
    exposure and the sums of patches that ingest stores. A run records the numbers in the provenance of every step that
    reads the counts.

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
                "is not given, and a part of one layer does not determine it",
                "give by=, reference= and offset=, or call normalise(dataset)",
            )
    beam = monitor if by == "monitor" else exposure
    if beam is None:
        other = "exposure" if by == "monitor" else "monitor"
        raise InputError(
            f"normalise by {by}",
            f"the scan has no {by}",
            f"name its counter in the beamline configuration and ingest again, or set by={other!r}",
        )
    bad = ~(np.isfinite(beam) & (beam > 0))
    if bad.any():
        raise InputError(
            f"normalise by {by}",
            f"{int(bad.sum())} of {beam.size} frames have a {by} that is not a positive number",
            "exclude these frames from the scan, or do not normalise",
        )
    rows, columns, *lengths = counts.shape
    frames = np.moveaxis(counts, (0, 1), (-2, -1))
    scaled = np.empty((*lengths, rows, columns), np.float32)
    full, limit = np.zeros((rows, columns), bool), full_count(saturation, counts.dtype)
    for frame in np.ndindex(*lengths):
        full |= frames[frame] >= limit
        scaled[frame] = (frames[frame] - offset) * (reference / beam[frame]) + offset
    return {"counts": np.moveaxis(scaled, (-2, -1), (0, 1)), "full_well": full, "frame_scale": reference / beam}
