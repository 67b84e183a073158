"""Dislocations in every frame of a movie, with positions of their cores below the pixel."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field

from dfxm_dask.dynamics.learn_images import check_frames, pitch
from dfxm_dask.dynamics.lobes.fit import fit_frame, lobe_side
from dfxm_dask.dynamics.lobes.published import published_objects
from dfxm_dask.dynamics.lobes.search import threshold
from dfxm_dask.dynamics.lobes.shape import Learned, learn
from dfxm_dask.dynamics.lobes.tables import (
    ENOUGH,
    IMAGE_SHAPE,
    by_frame,
    full_count,
    joined,
    packed,
    shape_of,
    unpacked,
    usable_frame,
    windows_of,
)
from dfxm_dask.dynamics.lobes.window import Window
from dfxm_dask.optics.instrument.microscope import find_microscope
from dfxm_dask.reduction import Arrays, reduction
from dfxm_dask.schema import AXES, COUNTS, Variable, X, Y

ROW = ("detection",)
REASONS = ("saturated", "overlapping", "border", "misfit", "few_frames")
SATURATED, OVERLAPPING, BORDER, MISFIT, FEW = (1 << k for k in range(len(REASONS)))
UNDETERMINED = 5.0  # pixels: a core with a larger standard error is not a detection (our choice)
WRITES = (
    Variable("frame", ROW, "int64", "1", "number of the frame"),
    Variable("time", ROW, "float64", "s", "time of the frame"),
    Variable("y", ROW, "float64", "um", "position of the dislocation core along y"),
    Variable("x", ROW, "float64", "um", "position of the dislocation core along x"),
    Variable("y_error", ROW, "float64", "um", "standard error of the position along y"),
    Variable("x_error", ROW, "float64", "um", "standard error of the position along x"),
    Variable("row", ROW, "float64", "pixel", "row of the dislocation core"),
    Variable("column", ROW, "float64", "pixel", "column of the dislocation core"),
    Variable("amplitude", ROW, "float64", "count", "counts of a fully reflecting voxel above the background"),
    Variable("amplitude_error", ROW, "float64", "count", "standard error of the amplitude"),
    Variable("sign", ROW, "int64", "1", "side of the bright lobe: 1 towards larger y, -1 towards smaller y, 0 unknown"),
    Variable(
        "detection_reason",
        ROW,
        "int64",
        "1",
        "why a detection is less certain",
        tuple((1 << k, name) for k, name in enumerate(REASONS)),
    ),
)


def _finish(summary: Arrays) -> Arrays:
    """The table in order; without a shape of the images, it is learned first from the lobes of all frames."""
    if "box" in summary:
        summary = _fitted_windows(summary)
    order = np.lexsort((summary["x"], summary["y"], summary["frame"]))
    return {v.name: summary[v.name][order].astype(v.dtype) for v in WRITES}


def _fitted_windows(summary: Arrays) -> Arrays:
    """Learn the shape of the images from the lobes of all frames, and fit the dislocations of every frame."""
    windows, y, x = unpacked(summary), summary["option_y"], summary["option_x"]
    learned = learn(windows, summary["frame"], pitch(y, x), find_microscope(str(summary["option_microscope"])))
    if learned is None:
        return _table([])
    limit, few = float(summary["option_limit"]), len(windows) < ENOUGH
    return _table([_rows(own, learned, limit, k, time, y, x, few) for k, time, own in by_frame(summary, windows)])


def _table(rows: list[Arrays]) -> Arrays:
    """Rows of several frames."""
    return {v.name: np.concatenate([np.zeros(0, v.dtype), *(row[v.name] for row in rows)]) for v in WRITES}


def _along(axis: np.ndarray, index: np.ndarray) -> np.ndarray:
    """Positions (um) of fractional pixels of an even axis."""
    return np.asarray(axis[0] + index * (axis[-1] - axis[0]) / (axis.size - 1))


def _rows(
    windows: list[Window],
    learned: Learned,
    limit: float,
    number: int,
    time: float,
    y: np.ndarray,
    x: np.ndarray,
    few: bool = False,
) -> Arrays:
    """Rows of the table for one frame, by fits of its dislocations."""
    found, towards = fit_frame(windows, learned, limit), lobe_side(learned.shape)
    row, column = found.local[:, 3], found.local[:, 4]
    error = np.sqrt(np.maximum(np.diagonal(found.covariance, axis1=1, axis2=2), 0)).reshape(-1, 2)
    step_y, step_x = pitch(y, x)
    reason = np.full(len(row), FEW if few else 0, np.int64)
    reason |= np.where(found.close, OVERLAPPING, 0) | np.where(found.misfit > 1.25, MISFIT, 0)
    for k, owner in enumerate(found.window):
        reason[k] |= SATURATED if np.isnan(windows[owner].counts).any() else 0
    reach = 2 / np.maximum(found.local[:, 2], 1e-3)
    edge = np.minimum(np.minimum(row, y.size - 1 - row), np.minimum(column, x.size - 1 - column) * step_x / step_y)
    reason |= np.where(edge < reach, BORDER, 0)
    main = towards[0] if abs(towards[0]) * step_y >= abs(towards[1]) * step_x else towards[1]
    rows = {
        "frame": np.full(len(row), number, np.int64),
        "time": np.full(len(row), time),
        "y": _along(y, row),
        "x": _along(x, column),
        "y_error": error[:, 0] * step_y,
        "x_error": error[:, 1] * step_x,
        "row": row,
        "column": column,
        "amplitude": found.local[:, 0],
        "amplitude_error": found.amplitude_error,
        "sign": (found.sign * np.sign(main)).astype(np.int64),
        "detection_reason": reason,
    }
    located = (error < UNDETERMINED).all(axis=1)
    for name in ("y_error", "x_error"):  # of a model that does not describe the image they would be too small
        rows[name] = np.where(reason & MISFIT, np.nan, rows[name])
    return {name: values[located] for name, values in rows.items()}


def _published_rows(objects: np.ndarray, number: int, time: float, y: np.ndarray, x: np.ndarray) -> Arrays:
    """Rows of the table for one frame by the published recipe, whose positions have no errors."""
    unknown = np.full(len(objects), np.nan)
    return {
        "frame": np.full(len(objects), number, np.int64),
        "time": np.full(len(objects), time),
        "y": _along(y, objects[:, 0]),
        "x": _along(x, objects[:, 1]),
        "y_error": unknown,
        "x_error": unknown,
        "row": objects[:, 0],
        "column": objects[:, 1],
        "amplitude": objects[:, 2],
        "amplitude_error": unknown,
        "sign": np.sign(objects[:, 0] - objects[:, 3]).astype(np.int64),
        "detection_reason": np.zeros(len(objects), np.int64),
    }


def _fits(parameters: Any, positions: Any) -> None:
    check_frames("detect", parameters, positions)


@reduction(
    reads=(COUNTS, AXES, Y, X),
    may_read=(IMAGE_SHAPE,),
    writes=WRITES,
    over=("y", "x"),
    combine=joined,
    finish=_finish,
    min_axes=0,
    fits=_fits,
)
def detect(
    counts: np.ndarray,
    scan: dict[str, np.ndarray],
    y: np.ndarray,
    x: np.ndarray,
    image_shape: np.ndarray | None = None,
    *,
    first: int = 0,
    method: Annotated[
        Literal["matched", "published"],
        Field(description="matched: fits of the forward model; published: the wavelet recipe of Gonzalez (2020)"),
    ] = "matched",
    false_alarms: Annotated[
        float, Field(gt=0, le=10, description="expected number of false detections in one frame of noise")
    ] = 0.01,
    microscope: Annotated[
        str, Field(description="microscope, whose acceptance shapes the images, if no image_shape is known")
    ] = "id06_al111",
    saturation: Annotated[
        float | None,
        Field(gt=0, description="count of a full pixel", json_schema_extra={"unit": "count"}),
    ] = None,
    wavelet: Annotated[
        Literal["db4", "db2", "haar"],
        Field(description="wavelet of the published recipe; Daubechies-4 may mean db4 or db2"),
    ] = "db4",
    cut: Annotated[float, Field(gt=0, description="threshold of the published recipe in standard deviations")] = 3.5,
    small: Annotated[int, Field(ge=1, description="pixels of the smallest object of the published recipe")] = 12,
    legacy: Annotated[
        bool,
        Field(description="published recipe with raw wavelet coefficients and the standard deviation, as published"),
    ] = False,
) -> dict[str, np.ndarray]:
    """Dislocations in every frame of a movie: positions of their cores, with errors.

    Bright lobes are found in each frame by boxes of two sizes that exceed the counts on all sides. The lobes of the
    whole movie then give the shape that their images share (direction of the lobe, metric of the field, shift along the
    light sheet, width and tails of the acceptance, blur), without parameters set by hand. With this shape, the forward
    model is fitted to every frame, for all dislocations whose images overlap together; lobes that hide further
    dislocations are divided where the counts require it.

    Parameters
    ----------
    counts : array (y, x, frame), uint16, count
        Frames without light contain no detection. NaN pixels are left out.
    image_shape : array (image_number, image_column), optional
        Result of :func:`learn_images`. The published recipe does not use it.
    false_alarms : float
        Sets the threshold of the search by the level and noise of each tile of 64 × 64 pixels.
    microscope : str
        One of :data:`dfxm_dask.optics.instrument.microscope.MICROSCOPES`.
    saturation : float, count, optional
        Pixels of at least this count are left out, and the detection is flagged. By default the largest value of an
        integer dtype.
    cut, small : float and int
        ``cut`` 3.5 is published; ``small`` is not (our choice).
    legacy : bool
        By default the recipe uses the band in zero phase and the median absolute deviation.

    Returns
    -------
    dict
        One row per dislocation and frame, in the order of frame, y and x. The position is that of the core, which
        lies beside the bright lobe. A core whose standard error exceeds 5 pixels is left out. A core at which the
        model does not describe the image (flag ``misfit``) has no error (NaN). The error contains the Fisher
        information of the fit, the error of the shape, and the model error. The published recipe states no errors
        (NaN), and its position is the centroid of the bright and dark lobes together. An image that drifts on the
        camera moves all positions of its frame.

    Raises
    ------
    InputError
        Frames smaller than 8 × 8 pixels, or an unknown microscope.

    Notes
    -----
    Fields add, intensities do not. With the offset q0 from the peak and the acceptance P::

        I(r) = B + A Σ_k w_k P(q0 - Σ_j u_j(r - h_k v))
        u_j(r) = ± s·(r - c_j) / ((r - c_j)·M (r - c_j))

    Counts have the variance noise² + gain (I - background); the gain follows from the residuals. Our own definition.

    References
    ----------
    The published recipe: A. Gonzalez et al., arXiv:2008.04972 (2020); L. E. Dresselhaus-Marais et al., Sci. Adv. 7,
    eabe8311 (2021).

    Examples
    --------
    >>> import dfxm_dask
    >>> frames = np.random.default_rng(0).poisson(20, (32, 32, 2)).astype(np.uint16)
    >>> y, x = 0.04 * np.arange(32), 0.12 * np.arange(32)
    >>> summary = dfxm_dask.detect.kernel(frames, {"time": np.array([0.0, 0.25])}, y, x)
    >>> dfxm_dask.detect.finish(summary)["frame"].size
    0
    """
    _fits({"microscope": microscope}, {"y": y, "x": x})
    full, limit = full_count(counts, saturation), threshold(false_alarms, counts.shape[:2])
    times = np.asarray(scan["time"], np.float64) if "time" in scan else np.full(counts.shape[2], np.nan)
    learned, rows, found = shape_of(image_shape), [], []
    for k in range(counts.shape[2]):
        frame, at = usable_frame(counts, k, full), (first + k, float(times[k]))
        if method == "published":
            rows.append(_published_rows(published_objects(frame, wavelet, cut, small, legacy), *at, y, x))
        elif learned is None:
            found.append((*at, windows_of(frame, limit)))
        elif windows := windows_of(frame, limit):
            rows.append(_rows(windows, learned, limit, *at, y, x))
    if method == "published" or learned is not None:
        return _table(rows)
    return packed(found) | {
        "option_limit": np.array(limit),
        "option_microscope": np.array(microscope),
        "option_y": np.asarray(y, np.float64),
        "option_x": np.asarray(x, np.float64),
    }
