"""Tables that frames exchange: lobes with the pixels about them, and the shape that all images share."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from dfxm_dask.dynamics.lobes.search import search
from dfxm_dask.dynamics.lobes.shape import Learned
from dfxm_dask.dynamics.lobes.templates import SHAPE
from dfxm_dask.dynamics.lobes.window import Window
from dfxm_dask.reduction import Arrays
from dfxm_dask.schema import Dim, Variable

LIGHT = 3  # ln A, B and ln q0 of a dislocation
IMAGE_SHAPE = Variable(
    "image_shape",
    (Dim("image_number", SHAPE + LIGHT + 5), Dim("image_column", 2 + SHAPE)),
    "float64",
    "1",
    "shape of the images of dislocations",
)
"""Rows: the numbers of :mod:`.templates` (direction of the lobe to blur), ln A, B and ln q0 of the dislocations, counts
per photon, scatter of rows and columns over that of the Fisher information, relative error of an image, and number of
lobes. Columns: value, standard deviation, covariances with the numbers of the shape. NaN without lobes."""
ENOUGH = 8  # lobes from which the shape of the images is known well
WIDE, SMALL, LARGE = 2.2, 8, 60  # half size of a window in widths of its lobe, and its limits in pixels


def full_count(counts: np.ndarray, saturation: float | None) -> float | None:
    """Count from which a pixel is saturated, None if unknown."""
    integers = np.issubdtype(counts.dtype, np.integer)
    return float(np.iinfo(counts.dtype).max) if saturation is None and integers else saturation


def usable_frame(counts: np.ndarray, number: int, full: float | None) -> np.ndarray:
    """One frame of (y, x, frame), contiguous, with NaN for saturated pixels."""
    frame = np.ascontiguousarray(counts[:, :, number])
    if full is not None and frame.max(initial=0) >= full:
        frame = np.where(frame >= full, np.nan, frame).astype(np.float32)
    return frame


def windows_of(frame: np.ndarray, limit: float) -> list[Window]:
    """Windows about the bright lobes of a frame."""
    lobes, noise = search(frame, limit)
    out = []
    for lobe in lobes:
        half = np.clip(np.ceil(WIDE * lobe[2:4]), SMALL, LARGE)
        low = np.maximum(np.round(lobe[:2]) - half, 0).astype(int)
        high = np.minimum(np.round(lobe[:2]) + half + 1, frame.shape).astype(int)
        counts = frame[low[0] : high[0], low[1] : high[1]].astype(np.float32)
        out.append(Window(int(low[0]), int(low[1]), counts.astype(np.float64), lobe, noise))
    return out


def packed(frames: list[tuple[int, float, list[Window]]]) -> Arrays:
    """Summary of the windows of frames, each with its number and time."""
    every = [(number, time, w) for number, time, windows in frames for w in windows]
    return {
        "frame": np.array([number for number, _, _ in every], np.int64),
        "time": np.array([time for _, time, _ in every], np.float64),
        "lobe": np.array([w.lobe for _, _, w in every], np.float64).reshape(-1, 6),
        "box": np.array([(w.top, w.left, *w.counts.shape) for _, _, w in every], np.int64).reshape(-1, 4),
        "noise": np.array([w.noise for _, _, w in every], np.float64),
        "pixels": np.concatenate([np.zeros(0), *(w.counts.ravel() for _, _, w in every)]).astype(np.float32),
    }


def unpacked(summary: Arrays) -> list[Window]:
    """The windows of a summary, cut out of its joined pixels."""
    ends = np.cumsum(summary["box"][:, 2] * summary["box"][:, 3])
    rows = zip(summary["box"], ends, summary["lobe"], summary["noise"], strict=True)
    return [
        Window(
            int(top),
            int(left),
            summary["pixels"][end - height * width : end].reshape(height, width).astype(np.float64),
            lobe,
            float(noise),
        )
        for (top, left, height, width), end, lobe, noise in rows
    ]


def joined(first: Arrays, second: Arrays) -> Arrays:
    """Summary of two groups of frames; the first group precedes the second. Options are the same in both."""
    return {n: v if n.startswith("option_") else np.concatenate([v, second[n]]) for n, v in first.items()}


def by_frame(summary: Arrays, windows: list[Window]) -> Iterator[tuple[int, float, list[Window]]]:
    """Number, time and windows of every frame with lobes."""
    for number in np.unique(summary["frame"]):
        mine = np.flatnonzero(summary["frame"] == number)
        yield int(number), float(summary["time"][mine[0]]), [windows[k] for k in mine]


def shape_table(learned: Learned | None, lobes: int) -> np.ndarray:
    """The table ``image_shape``; NaN without a shape."""
    table = np.full([int(d.length or 0) for d in IMAGE_SHAPE.dims if isinstance(d, Dim)], np.nan)
    table[-1, 0] = lobes
    if learned is not None:
        table[:SHAPE, 0], table[:SHAPE, 1] = learned.shape, np.sqrt(np.diag(learned.covariance))
        table[:SHAPE, 2:] = learned.covariance
        table[SHAPE : SHAPE + LIGHT, :2] = learned.before
        table[SHAPE + LIGHT : -1, 0] = learned.gain, *learned.scale, learned.fault
    return table


def shape_of(table: np.ndarray | None) -> Learned | None:
    """The shape in a table ``image_shape``; None if it is not known well."""
    if table is None or not table[-1, 0] >= ENOUGH or not np.isfinite(table[0, 0]):
        return None
    light = np.ascontiguousarray(table[SHAPE : SHAPE + LIGHT, :2])
    gain, *scale, fault = (float(v) for v in table[SHAPE + LIGHT : -1, 0])
    covariance = np.ascontiguousarray(table[:SHAPE, 2:])
    return Learned(table[:SHAPE, 0].copy(), covariance, gain, light, np.array(scale), fault)
