"""Frames as square patches, and patch values as seamless maps; every pixel belongs to a patch."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from scipy import ndimage

from dfxm_dask.errors import InputError
from dfxm_dask.schema import PATCH


def _starts(length: int, size: int) -> np.ndarray:
    """First pixel of each patch along one side of a frame."""
    first = np.arange(-(-length // size), dtype=np.int64) * size
    return np.minimum(first, max(length - size, 0))


def patch_starts(shape: tuple[int, int], size: int = PATCH) -> tuple[np.ndarray, np.ndarray]:
    """First row of each row of patches, and first column of each column of patches.

    Parameters
    ----------
    shape : (int, int)
        Rows and columns of the frame.
    size : int, pixel
        Edge of a patch.

    Returns
    -------
    y, x : array (patch_y,) and (patch_x,), int64
        The last patch is shifted back to end with the frame; a frame smaller than a patch has a single patch, at 0.

    Raises
    ------
    InputError
        A size that is not positive.

    Examples
    --------
    >>> y, x = patch_starts((2160, 2560))
    >>> y.size, x.size, y[-2:].tolist()
    (34, 40, [2048, 2096])
    """
    if size < 1:
        raise InputError(f"patch size {size}", "is not positive", "give the edge of a patch in pixels")
    return _starts(shape[0], size), _starts(shape[1], size)


def gather_patches(frame: np.ndarray, size: int = PATCH) -> np.ndarray:
    """All patches of a frame, row by row.

    Parameters
    ----------
    frame : array (y, x)
        A frame smaller than a patch is extended by reflection.
    size : int, pixel

    Returns
    -------
    array (patch_y × patch_x, size, size), dtype of the frame

    Raises
    ------
    InputError
        An array that is not a single frame.

    Examples
    --------
    >>> gather_patches(np.arange(15).reshape(3, 5), 3)[1].tolist()
    [[2, 3, 4], [7, 8, 9], [12, 13, 14]]
    """
    if frame.ndim != 2:
        raise InputError("patches of an array", f"it has shape {frame.shape}", "give one frame (y, x)")
    starts = patch_starts(frame.shape, size)
    if frame.size == 0:
        return np.empty((0, size, size), frame.dtype)
    missing = [(0, max(0, size - n)) for n in frame.shape]
    padded = np.pad(frame, missing, mode="symmetric") if max(missing)[1] else frame
    windows = np.lib.stride_tricks.sliding_window_view(padded, (size, size))
    return windows[np.ix_(*starts)].reshape(-1, size, size)


@lru_cache(maxsize=16)
def log_table(dark: float, dtype: type | str | np.dtype) -> np.ndarray:
    """Table of log(1 + counts above the dark level) for every count of an integer detector.

    Parameters
    ----------
    dark : float, count
        Counts without beam.
    dtype : numpy dtype
        uint8 or uint16.

    Returns
    -------
    array (256 or 65536,), float32
        Read-only; counts below the dark level give 0, so that every entry is finite.

    Raises
    ------
    InputError
        Another dtype.

    Examples
    --------
    >>> log_table(100.0, np.uint16)[[0, 100, 101]]
    array([0.       , 0.       , 0.6931472], dtype=float32)
    """
    kind = np.dtype(dtype)
    if kind not in (np.uint8, np.uint16):
        raise InputError(
            f"table of logarithms for {kind}", "is defined for uint8 and uint16 only", "use log_counts for other dtypes"
        )
    above = np.maximum(np.arange(np.iinfo(kind).max + 1) - float(dark), 0)
    table = np.log1p(above).astype(np.float32)
    table.setflags(write=False)
    return table


def log_counts(frame: np.ndarray, dark: float) -> np.ndarray:
    """log(1 + counts above the dark level) of a frame.

    Parameters
    ----------
    frame : array, any shape
        uint8 and uint16 use a table, other dtypes the formula; NaN stays NaN.
    dark : float, count

    Returns
    -------
    array of that shape, float32

    Examples
    --------
    >>> log_counts(np.array([99.0, 101.0, np.nan]), 100.0)
    array([0.       , 0.6931472,       nan], dtype=float32)
    """
    if frame.dtype in (np.uint8, np.uint16):
        return np.take(log_table(float(dark), np.dtype(frame.dtype)), frame)
    return np.log1p(np.maximum(frame.astype(np.float32) - np.float32(dark), 0))


def standardise(frame_log: np.ndarray, lit: np.ndarray | None = None) -> np.ndarray:
    """Standardise a frame to mean 0 and standard deviation 1 over its lit pixels.

    Parameters
    ----------
    frame_log : array (y, x)
        Logarithm of the counts.
    lit : array (y, x), bool, optional
        Pixels from which mean and standard deviation are computed; by default all.

    Returns
    -------
    array (y, x), float32
        Finite everywhere: NaN becomes 0, and a frame without lit pixels, or constant over them, becomes 0.

    Examples
    --------
    >>> standardise(np.array([[1.0, 3.0, np.nan]])).tolist()
    [[-1.0, 1.0, 0.0]]
    """
    finite = np.isfinite(frame_log)
    values = frame_log[finite if lit is None else finite & lit].astype(np.float64)
    if values.size == 0:
        return np.zeros(frame_log.shape, np.float32)
    mean, spread = values.mean(), values.std()
    if not spread > 1e-6 * max(1.0, abs(mean)):  # smaller differences are rounding errors of float32
        return np.zeros(frame_log.shape, np.float32)
    scaled = (frame_log.astype(np.float32) - np.float32(mean)) * np.float32(1 / spread)
    return np.where(finite, scaled, np.float32(0))


def between_centres(length: int, size: int = PATCH) -> tuple[np.ndarray, np.ndarray]:
    """For every pixel along one side, the patch centre before it and its relative distance from that to the next one.

    Returns
    -------
    index : array (length,), int64
        Patch whose centre precedes the pixel; constant beyond the outer centres.
    part : array (length,), float32
        0 at that centre, 1 at the next.
    """
    starts = _starts(length, size)
    if starts.size < 2:
        return np.zeros(length, np.int64), np.zeros(length, np.float32)
    centre = starts + (min(size, length) - 1) / 2
    position = np.clip(np.arange(length, dtype=np.float64), centre[0], centre[-1])
    index = np.clip(np.searchsorted(centre, position, side="right") - 1, 0, starts.size - 2)
    return index, ((position - centre[index]) / np.diff(centre)[index]).astype(np.float32)


def filled(values: np.ndarray) -> np.ndarray:
    """Values (patch_y, patch_x) in which NaN is replaced by the value of the nearest patch that has one."""
    missing = ~np.isfinite(values)
    if not missing.any() or missing.all():
        return values
    nearest = ndimage.distance_transform_edt(missing, return_distances=False, return_indices=True)
    return values[tuple(nearest)]


def check_grid(name: str, found: tuple[int, int], shape: tuple[int, int], size: int = PATCH) -> None:
    """Refuse patch values whose number does not fit the frame.

    Raises
    ------
    InputError
        Number of patches other than that of :func:`patch_starts`.
    """
    wanted = tuple(s.size for s in patch_starts(shape, size))
    if tuple(found) != wanted:
        raise InputError(
            f"{name} of {found[0]} × {found[1]} patches",
            f"a frame of {shape[0]} × {shape[1]} pixels has {wanted[0]} × {wanted[1]} of {size} pixels",
            "compute it for frames of this size",
        )


def spread(values: np.ndarray, shape: tuple[int, int], size: int = PATCH) -> np.ndarray:
    """Interpolate patch values to a seamless map, bilinearly between patch centres.

    Parameters
    ----------
    values : array (patch_y, patch_x)
        NaN is replaced by the value of the nearest patch.
    shape : (int, int)
        Rows and columns of the map.
    size : int, pixel

    Returns
    -------
    array (y, x), float32
        Constant beyond the outer centres.

    Raises
    ------
    InputError
        The number of patches does not fit the shape of the map.

    Examples
    --------
    >>> spread(np.array([[0.0, 1.0]]), (1, 4), 2).tolist()
    [[0.0, 0.25, 0.75, 1.0]]
    """
    check_grid("patch values", values.shape, shape, size)
    complete = filled(np.asarray(values, np.float32))
    if complete.size == 0:
        return np.empty(shape, np.float32)
    y, part_y = between_centres(shape[0], size)
    x, part_x = between_centres(shape[1], size)
    next_y, next_x = np.minimum(y + 1, complete.shape[0] - 1), np.minimum(x + 1, complete.shape[1] - 1)
    rows = complete[y] * (1 - part_y)[:, None] + complete[next_y] * part_y[:, None]
    return np.asarray(rows[:, x] * (1 - part_x) + rows[:, next_x] * part_x, np.float32)


def seam_metric(image: np.ndarray, size: int = PATCH) -> float:
    """Visibility of the patch lattice in a map: 1 if the lattice does not show.

    Parameters
    ----------
    image : array (y, x)
        NaN is ignored.
    size : int, pixel
        Edge of a patch; the lattice starts at the first pixel.

    Returns
    -------
    float
        Ratio of the mean jump across lattice lines to the mean jump across lines half a patch away. NaN if the map
        contains no such line or is constant.

    Notes
    -----
    Both directions are pooled. A jump is the absolute difference of the two pixels on either side of a line.

    Examples
    --------
    >>> seam_metric(np.tile(np.arange(256.0), (256, 1)))
    1.0
    """
    jumps = [np.abs(np.diff(np.asarray(image, np.float64), axis=axis)) for axis in (0, 1)]
    means = []
    for first in (size - 1, size + size // 2 - 1):
        on_lines = np.concatenate([jumps[0][first::size].ravel(), jumps[1][:, first::size].ravel()])
        on_lines = on_lines[np.isfinite(on_lines)]
        means.append(on_lines.mean() if on_lines.size else np.nan)
    return float(means[0] / means[1]) if means[1] > 0 else float("nan")
