"""Frames of a layer that show most, chosen by their brightness, and the dark level of each."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from dfxm_dask.schema import PATCH

if TYPE_CHECKING:
    import xarray as xr

FLANK, TAIL = (0.2, 0.6), 0.05
"""Parts of the peak between which a frame lies on the flank, and below which it lies in the tail (our choice)."""
FLANK_AT, TAIL_AT = 0.4, 0.01
"""Parts of the peak that flank and tail frames come nearest to; at 1 % weak and strong beam meet (our choice)."""
ATTENUATED = 2.0
"""Ratio of monitor counts above which attenuators were moved; brightness is then per monitor count (our choice)."""


def scan_axes(raw: xr.Dataset) -> list[str]:
    """Scan axes of the counts in storage order."""
    return [str(dim) for dim in raw["counts"].dims if dim not in ("z", "y", "x")]


def patch_means(raw: xr.Dataset) -> np.ndarray:
    """Mean counts of every patch of every frame of a layer.

    Parameters
    ----------
    raw : Dataset
        One layer. With patch statistics no pixel is read; without, all frames are read one after the other.

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
        Counts; per count of the monitor, relative to its median, where the monitor shows that attenuators were moved.

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
    """Whether the monitor of a layer shows that attenuators were moved."""
    if "monitor" not in raw:
        return False
    monitor = np.asarray(raw["monitor"], float)
    return bool(np.isfinite(monitor).all() and monitor.min() > 0 and monitor.max() > ATTENUATED * monitor.min())


def telling_frames(brightness: np.ndarray) -> dict[str, tuple[int, ...]]:
    """The frames at the peak, on the flank and in the tail of the summed rocking curve.

    Parameters
    ----------
    brightness : ndarray (scan axes)
        Of every frame, above dark.

    Returns
    -------
    dict of str to tuple of int
        Index along every scan axis. ``peak``: the brightest. ``flank``: the frame with 20 to 60 % of the peak that is
        nearest to 40 %. ``tail``: the frame below 5 % of the peak that is nearest to 1 % on a logarithmic scale. A
        frame that the scan does not contain is left out; a scan without tail has its ``faintest`` frame instead.

    Examples
    --------
    >>> telling_frames(np.array([1.0, 1.2, 1.3, 3.0, 80.0, 100.0, 40.0, 0.9]))
    {'peak': (5,), 'flank': (6,), 'tail': (0,)}
    """
    flat = np.asarray(brightness, float).ravel()
    peak = int(np.argmax(flat))
    part = np.maximum(flat / flat[peak], 0.0) if flat[peak] > 0 else np.ones(flat.size)
    chosen = {"peak": peak}
    flank = (part >= FLANK[0]) & (part <= FLANK[1])
    if flank.any():
        chosen["flank"] = int(np.argmin(np.where(flank, np.abs(part - FLANK_AT), np.inf)))
    tail = part < TAIL
    if tail.any():
        away = np.abs(np.log(np.maximum(part, 1e-12) / TAIL_AT))
        chosen["tail"] = int(np.argmin(np.where(tail, away, np.inf)))
    else:
        faintest = int(np.argmin(np.where(np.arange(flat.size) == peak, np.inf, flat)))
        if faintest not in chosen.values():
            chosen["faintest"] = faintest
    return {word: tuple(int(n) for n in np.unravel_index(at, brightness.shape)) for word, at in chosen.items()}


def absent_frames(chosen: dict[str, tuple[int, ...]]) -> list[str]:
    """Sentences on the flank and the tail, where :func:`telling_frames` found none."""
    said = []
    if "flank" not in chosen:
        said.append(f"No frame has {100 * FLANK[0]:g} to {100 * FLANK[1]:g} % of the peak: the scan shows no flank.")
    if "tail" not in chosen:
        said.append(f"No frame is below {100 * TAIL:g} % of the peak: the scan contains no tail.")
    return said


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
