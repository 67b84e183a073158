"""The shape that the images of all dislocations of a movie share, from some of its frames."""

from __future__ import annotations

from collections.abc import Mapping
from math import ceil, prod
from typing import Annotated, Any

import numpy as np
from pydantic import Field

from dfxm_dask.dynamics.lobes.search import threshold
from dfxm_dask.dynamics.lobes.shape import learn
from dfxm_dask.dynamics.lobes.tables import (
    IMAGE_SHAPE,
    full_count,
    joined,
    packed,
    shape_table,
    unpacked,
    usable_frame,
    windows_of,
)
from dfxm_dask.errors import InputError
from dfxm_dask.optics.instrument.microscope import find_microscope
from dfxm_dask.reduction import Arrays, reduction
from dfxm_dask.schema import AXES, COUNTS, X, Y

FRAMES = 64  # of a movie, from which the shape is learned
LEAST = 8  # rows and columns of a frame


def pitch(y: np.ndarray, x: np.ndarray) -> tuple[float, float]:
    """Distance of pixels along y and x."""
    return abs(float(y[-1] - y[0])) / (y.size - 1), abs(float(x[-1] - x[0])) / (x.size - 1)


def check_frames(name: str, parameters: Any, positions: Any) -> None:
    """Refuse frames that are too small, and an unknown microscope."""
    for side in ("y", "x"):
        if side in positions and len(positions[side]) < LEAST:
            found = f"have {len(positions[side])} pixels along {side}"
            raise InputError(f"{name}: frames", found, f"use frames of at least {LEAST} x {LEAST} pixels")
    find_microscope(parameters["microscope"])


def _fits(parameters: Any, positions: Any) -> None:
    check_frames("learn_images", parameters, positions)


def _settle(parameters: Mapping[str, Any], _: Any, shape: tuple[int, ...]) -> tuple[dict[str, Any] | None, str]:
    """About FRAMES frames, spread evenly over the movie."""
    every = parameters["every"] or max(1, ceil(prod(shape) / FRAMES))
    return {**parameters, "every": every}, ""


def _finish(summary: Arrays) -> Arrays:
    """The table of the shape, from the lobes of all frames."""
    windows = unpacked(summary)
    distances = pitch(summary["option_y"], summary["option_x"])
    learned = learn(windows, summary["frame"], distances, find_microscope(str(summary["option_microscope"])))
    return {"image_shape": shape_table(learned, len(windows))}


@reduction(
    reads=(COUNTS, AXES, Y, X),
    writes=(IMAGE_SHAPE,),
    over=("y", "x"),
    combine=joined,
    finish=_finish,
    min_axes=0,
    fits=_fits,
    settle=_settle,
)
def learn_images(
    counts: np.ndarray,
    scan: dict[str, np.ndarray],
    y: np.ndarray,
    x: np.ndarray,
    *,
    first: int = 0,
    every: Annotated[
        int | None, Field(ge=1, description="number of frames per frame with lobes to learn from; default: 64 frames")
    ] = None,
    false_alarms: Annotated[
        float, Field(gt=0, le=10, description="expected number of false lobes in one frame of noise")
    ] = 0.01,
    microscope: Annotated[
        str, Field(description="microscope, whose acceptance shapes the images: id06_al111, al002, ...")
    ] = "id06_al111",
    saturation: Annotated[
        float | None,
        Field(gt=0, description="count of a full pixel", json_schema_extra={"unit": "count"}),
    ] = None,
) -> dict[str, np.ndarray]:
    """Shape that the images of all dislocations of a movie share, from some of its frames.

    With this table, :func:`detect` fits every frame on its own, on any worker.

    Parameters
    ----------
    counts : array (y, x, frame), uint16, count
        NaN pixels are left out.
    every : int, optional
        By default at most 64 frames, spread evenly over the movie.
    false_alarms : float
        As in :func:`detect`.
    microscope : str
        One of :data:`dfxm_dask.optics.instrument.microscope.MICROSCOPES`.
    saturation : float, count, optional
        As in :func:`detect`.

    Returns
    -------
    dict
        One row per number: the direction of the lobe (rad); ln of the metric of the field along x, and its shear; shift
        along the light sheet in rows and columns; ln of the half width of the acceptance; weight of its tails; its
        fall; ln of the blur in pixels; ln of the amplitude, background and ln of the offset of the dislocations; counts
        per photon; scatter of rows and of columns over that of the Fisher information; number of lobes. Columns: value,
        standard deviation, covariances with the first nine numbers. Without lobes, only the number of lobes is not NaN.

    Raises
    ------
    InputError
        Frames smaller than 8 × 8 pixels, or an unknown microscope.

    Notes
    -----
    The formula is that of :func:`detect`. Lobes are ranked by significance, so the result does not depend on the blocks
    in which frames arrive. Our own definition.

    Examples
    --------
    >>> import dfxm_dask
    >>> frames = np.random.default_rng(0).poisson(20, (32, 32, 2)).astype(np.uint16)
    >>> y, x = 0.04 * np.arange(32), 0.12 * np.arange(32)
    >>> summary = dfxm_dask.learn_images.kernel(frames, {"time": np.array([0.0, 0.25])}, y, x)
    >>> int(dfxm_dask.learn_images.finish(summary)["image_shape"][-1, 0])
    0
    """
    _fits({"microscope": microscope}, {"y": y, "x": x})
    full, limit, step = full_count(counts, saturation), threshold(false_alarms, counts.shape[:2]), every or 1
    chosen = [k for k in range(counts.shape[2]) if (first + k) % step == step // 2]
    found = [(first + k, np.nan, windows_of(usable_frame(counts, k, full), limit)) for k in chosen]
    return packed(found) | {
        "option_microscope": np.array(microscope),
        "option_y": np.asarray(y, np.float64),
        "option_x": np.asarray(x, np.float64),
    }
