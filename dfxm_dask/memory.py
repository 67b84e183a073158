"""Layout of the frames of one layer in memory.

A kernel receives its counts as a view with dims (y, x, scan axes) of a buffer in storage order. Compiled loops are fast
along neighbouring pixels, so they read that buffer as a line and find each frame by its offset. No counts are copied,
and one compiled version serves every shape and every number of scan axes.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class FrameLines(NamedTuple):
    """The buffer of a layer as a line, with the offset of each frame and the step between rows.

    Attributes
    ----------
    line : array (anything,)
        Read-only view of the memory between the first and the last voxel.
    starts : array (frames,), int64
        Index in `line` of pixel (0, 0) of each frame; the last scan axis varies fastest.
    row_step : int
        Distance in `line` between neighbouring pixels along y.
    """

    line: np.ndarray
    starts: np.ndarray
    row_step: int


def frame_lines(counts: np.ndarray) -> FrameLines:
    """The buffer of a layer as a line, with the offset of each frame and the step between rows.

    Parameters
    ----------
    counts : array (y, x, scan axes)
        View of a buffer in which x varies fastest. Any other layout is copied once.

    Examples
    --------
    >>> frames = np.arange(12, dtype=np.uint16).reshape(2, 2, 3)
    >>> line, starts, row_step = frame_lines(np.moveaxis(frames, 0, -1))
    >>> starts.tolist(), row_step, int(line[starts[1] + row_step + 2])
    ([0, 6], 3, 11)
    """
    if counts.size == 0:
        return FrameLines(np.zeros(0, counts.dtype), np.zeros(int(np.prod(counts.shape[2:])), np.int64), 0)
    item = counts.itemsize
    follows = counts.strides[1] == item or counts.shape[1] == 1
    if not (follows and counts.dtype.isnative and all(step >= 0 and step % item == 0 for step in counts.strides)):
        native = np.moveaxis(counts, (0, 1), (-2, -1)).astype(counts.dtype.newbyteorder("="), order="C")
        counts = np.moveaxis(native, (-2, -1), (0, 1))
    steps = [step // item for step in counts.strides]
    starts = np.zeros(1, np.int64)
    for length, step in zip(counts.shape[2:], steps[2:], strict=True):
        starts = (starts[:, None] + np.arange(length) * step).ravel()
    extent = 1 + sum((length - 1) * step for length, step in zip(counts.shape, steps, strict=True))
    line = np.lib.stride_tricks.as_strided(counts, (extent,), (item,), writeable=False)
    return FrameLines(line, starts, steps[0])
