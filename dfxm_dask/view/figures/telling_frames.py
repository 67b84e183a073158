"""Which frames of a layer tell most, by their brightness, and the dark level of each."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from dfxm_dask.schema import PATCH

if TYPE_CHECKING:
    import xarray as xr

FLANK = 0.01
"""Part of the peak that the flank frame comes nearest to: there weak beam and strong beam meet (our choice)."""
ATTENUATED = 2.0
"""Ratio of monitor counts above which attenuators were moved, and brightness is per monitor count (our choice)."""


def scan_axes(raw: xr.Dataset) -> list[str]:
    """Scan axes of the counts in storage order."""
    return [str(dim) for dim in raw["counts"].dims if dim not in ("z", "y", "x")]


def patch_means(raw: xr.Dataset) -> np.ndarray:
    """Mean counts of every patch of every frame of a layer.

    Parameters
    ----------
    raw : Dataset
        One layer. Where it has patch statistics no pixel is read; else one frame after the other is.

    Returns
    -------
    ndarray (scan axes, patch_y, patch_x), float64, count
    """
    if "patch_sum" in raw and "patch_n" in raw:
        small = raw[["patch_sum", "patch_n"]].transpose(*scan_axes(raw), "patch_y", "patch_x").compute()
        return np.asarray(small["patch_sum"], float) / np.maximum(np.asarray(small["patch_n"], float), 1)
    counts = raw["counts"].transpose(*scan_axes(raw), "y", "x")
    if counts.chunks is not None:
        counts = counts.compute()  # every frame of a lazy layer may be a part of one task: ask for it once
    means = [tile_means(np.asarray(counts[place], float), PATCH, PATCH) for place in np.ndindex(counts.shape[:-2])]
    return np.array(means).reshape(*counts.shape[:-2], *means[0].shape)


def tile_means(frame: np.ndarray, rows: int, columns: int) -> np.ndarray:
    """Mean of each tile of a frame (y, x), NaN left out; the last tiles may be ragged."""

    def total(values: np.ndarray) -> np.ndarray:
        across = np.add.reduceat(values, np.arange(0, values.shape[1], columns), axis=1)
        return np.add.reduceat(across, np.arange(0, values.shape[0], rows), axis=0)

    known = np.isfinite(frame)
    return total(np.where(known, frame, 0.0)) / np.maximum(total(known.astype(float)), 1)


def frame_brightness(raw: xr.Dataset) -> np.ndarray:
    """Mean counts above dark of every frame of a layer: the summed rocking curve.

    Parameters
    ----------
    raw : Dataset
        One layer.

    Returns
    -------
    ndarray (scan axes), float64
        Counts; per count of the monitor, relative to its median, where the monitor says that attenuators were moved.

    Notes
    -----
    The dark level is the mean of the faintest patch of the faintest frame.
    """
    means = patch_means(raw)
    known = means[np.isfinite(means)]
    brightness = np.nan_to_num(means.mean((-2, -1)) - (known.min() if known.size else 0.0))
    if not attenuated(raw):
        return brightness
    monitor = np.asarray(raw["monitor"].transpose(*scan_axes(raw)), float)
    return brightness * (np.median(monitor) / monitor)


def attenuated(raw: xr.Dataset) -> bool:
    """Whether the monitor of a layer says that attenuators were moved."""
    if "monitor" not in raw:
        return False
    monitor = np.asarray(raw["monitor"], float)
    return bool(np.isfinite(monitor).all() and monitor.min() > 0 and monitor.max() > ATTENUATED * monitor.min())


def telling_frames(brightness: np.ndarray) -> dict[str, tuple[int, ...]]:
    """The frames at the peak, on the flank and in the tail.

    Parameters
    ----------
    brightness : ndarray (scan axes)
        Of every frame, above dark.

    Returns
    -------
    dict of str to tuple of int
        Index along every scan axis. ``peak``: the brightest. ``flank``: nearest to 1 % of the peak, on a logarithmic
        scale. ``tail``: the median of those fainter than the flank; the faintest of all may show nothing but noise.
        Scans of fewer frames have fewer.

    Examples
    --------
    >>> telling_frames(np.array([1.0, 1.2, 1.3, 3.0, 80.0, 100.0, 40.0, 0.9]))
    {'peak': (5,), 'flank': (3,), 'tail': (1,)}
    """
    above = (brightness - brightness.min()).ravel()
    order = np.argsort(above, kind="stable")
    peak = int(np.argmax(above))
    chosen = {"peak": peak}
    others = order[order != peak]
    if others.size:
        part = np.maximum(above[others], 1e-12) / max(above[peak], 1e-12)
        place = int(np.argmin(np.abs(np.log(part / FLANK))))
        if place == 0 and others.size > 1:
            place = 1  # something is left for the tail
        chosen["flank"] = int(others[place])
        if place:
            chosen["tail"] = int(others[:place][place // 2])
    return {word: tuple(int(n) for n in np.unravel_index(at, brightness.shape)) for word, at in chosen.items()}


def moving_frames(brightness: np.ndarray) -> dict[str, tuple[int, ...]]:
    """Three frames of a time series, which has no peak: the brightest, the median one and the faintest."""
    order = np.argsort(brightness.ravel(), kind="stable")
    chosen = {"brightest": order[-1], "median": order[(order.size - 1) // 2], "faintest": order[0]}
    first: dict[str, tuple[int, ...]] = {}
    for word, at in chosen.items():
        place = tuple(int(n) for n in np.unravel_index(int(at), brightness.shape))
        if place not in first.values():
            first[word] = place
    return first


def dark_levels(frames: np.ndarray) -> np.ndarray:
    """Dark level of each of a few frames: the median of the tile that is darkest in all of them together.

    Parameters
    ----------
    frames : ndarray (frame, y, x), count
        NaN where there is no value.

    Returns
    -------
    ndarray (frame,), float64, count
        NaN for a frame without values. Where no part of the frames is dark this is the least light.

    Notes
    -----
    Tiles have a thirty-second of the frame along y and x, but 8 to 32 pixels (our choice): small enough to lie in a
    narrow dark rim, large enough that noise does not choose them.
    """
    edges = [min(32, max(8, n // 32), n) for n in frames.shape[1:]]
    share = np.zeros(1)
    for frame in frames:
        means = tile_means(np.asarray(frame, float), *edges)
        share = share + means / max(float(means.mean()), 1e-12)
    row, column = np.unravel_index(int(np.argmin(share)), share.shape)
    rows, columns = (slice(at * edge, (at + 1) * edge) for at, edge in zip((row, column), edges, strict=True))
    levels = []
    for frame in frames:
        dark = frame[rows, columns]
        dark = dark[np.isfinite(dark)]
        levels.append(float(np.median(dark)) if dark.size else np.nan)
    return np.array(levels)


def read_frames(counts: xr.DataArray, places: list[dict[str, int]]) -> np.ndarray:
    """A few frames (frame, y, x), float32, count; lazy ones are computed together."""
    import xarray as xr

    found = xr.Dataset({str(k): counts.isel(place, drop=True) for k, place in enumerate(places)}).compute()
    return np.stack([np.asarray(found[name].transpose("y", "x"), np.float32) for name in found])
