"""Probabilities of weak beam of every patch of a frame, the same to the last bit however frames are grouped."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numba import njit
from scipy.special import expit

from dfxm_dask.beams.network.engines import Answer, Engine, answers, batch_of, chosen, on_device
from dfxm_dask.beams.patches import gather_patches, log_counts, log_table, patch_starts, standardise
from dfxm_dask.errors import InputError
from dfxm_dask.schema import PATCH

if TYPE_CHECKING:
    import torch


def log_odds(net: torch.nn.Module, seen: Callable[[slice], np.ndarray], n: int, batch: int = 128) -> np.ndarray:
    """Log-odds of weak beam of n patches by torch on one thread of the processor: array (n,), float32.

    ``seen`` gives the patches of a slice, (m, channel, y, x), float32.
    """
    return _in_batches(answers(net, "torch"), seen, n, batch)


def _in_batches(answer: Answer, seen: Callable[[slice], np.ndarray], n: int, batch: int) -> np.ndarray:
    found = np.empty(n, np.float32)
    for first in range(0, n, batch):
        part = slice(first, min(n, first + batch))
        found[part] = answer(seen(part))
    return found


def predict(
    net: torch.nn.Module,
    frames: np.ndarray,
    *,
    size: int = PATCH,
    batch: int | None = None,
    temperature: float = 1.0,
    device: Literal["auto", "cpu", "cuda"] | str = "auto",
    engine: Engine = "auto",
) -> np.ndarray:
    """Probability of weak beam of every patch.

    Parameters
    ----------
    net : torch.nn.Module
    frames : array (y, x) or (frame, y, x), float32
        As :func:`dfxm_dask.beams.patches.standardise` gives them. What is no number counts as 0, the mean.
    size : int, pixel
        Edge of a patch: the one that the network was trained on.
    batch : int, optional
        Patches at a time on a processor; :data:`dfxm_dask.beams.network.engines.BATCH` by default.
    temperature : float
        Of the weights.
    device : str
        "auto" takes a GPU where there is one. Half precision is used there, and only there.
    engine : "auto", "torch" or "onnxruntime"
        What runs the network; see :func:`dfxm_dask.beams.network.engines.chosen`, which "auto" leaves it to, and
        :func:`dfxm_dask.beams.network.engines.engine_of` for what that is.

    Returns
    -------
    array (patch_y, patch_x) or (frame, patch_y, patch_x), float32

    Raises
    ------
    InputError
        An array that is neither one frame nor several, a temperature that is not positive, a batch of less than one
        patch, or an engine or a device that is not there.

    Notes
    -----
    Batches never cross a frame and engines run on one thread: what a frame gives is the same to the last bit however
    frames are grouped. Two engines agree to 1e-5 in the log-odds, or to a millionth of them where they are large.
    """
    frames = np.asarray(frames)
    stack, (name, place) = _stack(frames, temperature, batch), chosen(net, engine, device)
    if place != "cpu":
        there = on_device(net, place, size)
        return _probability([there(_clean(frame), None) for frame in stack], frames, size, temperature)
    answer, batch = answers(net, name), batch or batch_of(net, name)
    found = []
    for frame in stack:
        patches = gather_patches(_clean(frame), size)[:, None]
        found.append(_in_batches(answer, patches.__getitem__, len(patches), batch))
    return _probability(found, frames, size, temperature)


def predict_counts(
    net: torch.nn.Module,
    counts: np.ndarray,
    *,
    dark: float | np.ndarray,
    lit: np.ndarray | None = None,
    size: int = PATCH,
    batch: int | None = None,
    temperature: float = 1.0,
    device: Literal["auto", "cpu", "cuda"] | str = "auto",
    engine: Engine = "auto",
) -> np.ndarray:
    """Probability of weak beam of every patch of raw frames, without a standardised frame ever being made.

    Parameters
    ----------
    net : torch.nn.Module
    counts : array (y, x) or (frame, y, x)
        Raw; uint8 and uint16 go the fast way.
    dark : float or array (frame,), count
        Level without beam.
    lit : array (y, x), bool, optional
        Pixels over which frames are standardised; all by default.
    size, batch, temperature, device, engine
        As of :func:`predict`.

    Returns
    -------
    array (patch_y, patch_x) or (frame, patch_y, patch_x), float32

    Raises
    ------
    InputError
        As :func:`predict`, or a light mask of another shape.

    Notes
    -----
    Mean and standard deviation follow from the histogram of the counts; then one table takes every count to what the
    network sees, straight into the batch. Equal to :func:`predict` of standardised frames up to rounding.

    Examples
    --------
    >>> from dfxm_dask.beams.network.networks import compact
    >>> predict_counts(compact(), np.zeros((3, 128, 192), np.uint16), dark=0).shape
    (3, 2, 3)
    """
    counts = np.asarray(counts)
    stack, (name, place) = _stack(counts, temperature, batch), chosen(net, engine, device)
    if lit is not None and lit.shape != stack.shape[1:]:
        raise InputError(f"light mask of shape {lit.shape}", f"frames are {stack.shape[1:]}", "give one of a frame")
    levels = np.broadcast_to(np.asarray(dark, np.float64), len(stack))
    if counts.dtype not in (np.uint8, np.uint16):
        seen = [standardise(log_counts(f, float(d)), lit) for f, d in zip(stack, levels, strict=True)]
        given = np.stack(seen) if seen else np.empty(stack.shape, np.float32)
        options: dict[str, Any] = {"temperature": temperature, "device": device, "engine": engine}
        found = predict(net, given, size=size, batch=batch, **options)
        return found if counts.ndim == 3 else found[0]
    tables = (log_table(float(level), counts.dtype) for level in levels)
    if place != "cpu":
        there = on_device(net, place, size, lit)
        odds = [there(frame, table) for frame, table in zip(stack, tables, strict=True)]
        return _probability(odds, counts, size, temperature)
    answer, batch = answers(net, name), batch or batch_of(net, name)
    ys, xs = patch_starts((stack.shape[1], stack.shape[2]), size)
    mask = np.ones((1, 1), bool) if lit is None else np.ascontiguousarray(lit, bool)
    buffer = np.empty((min(batch, ys.size * xs.size), size, size), np.float32)
    odds = []
    for frame, table in zip(stack, tables, strict=True):
        frame = np.ascontiguousarray(frame)
        table = _standard(table, _histogram(frame, mask, table.size))
        frame = _continued(frame, size)

        def patches(part: slice, frame: np.ndarray = frame, table: np.ndarray = table) -> np.ndarray:
            filled = buffer[: part.stop - part.start]
            _fill(frame, table, ys, xs, part.start, filled)
            return filled[:, None]

        odds.append(_in_batches(answer, patches, ys.size * xs.size, batch))
    return _probability(odds, counts, size, temperature)


@njit(nogil=True, cache=True)
def _histogram(frame, lit, length):
    """How often each count occurs in the lit pixels of a frame; in all where `lit` is a single value."""
    found = np.zeros(length, np.int64)
    every = lit.size == 1
    for y in range(frame.shape[0]):
        for x in range(frame.shape[1]):
            if every or lit[y, x]:
                found[frame[y, x]] += 1
    return found


@njit(nogil=True, cache=True)
def _fill(frame, table, ys, xs, first, patches):
    """Fills patches from number `first` on, by a table of what stands for each count."""
    count, size, _ = patches.shape
    for k in range(count):
        top, left = ys[(first + k) // xs.size], xs[(first + k) % xs.size]
        for y in range(size):
            for x in range(size):
                patches[k, y, x] = table[frame[top + y, left + x]]


def _standard(table: np.ndarray, histogram: np.ndarray) -> np.ndarray:
    """A table of logarithms less their mean over their standard deviation; zeros where there is no contrast."""
    mean, spread = _mean_and_spread(table, histogram)
    if not spread > 1e-6 * max(1.0, abs(mean)):  # as dfxm_dask.beams.patches.standardise; NaN of no pixels comes here
        return np.zeros_like(table)
    return ((table - np.float32(mean)) * np.float32(1 / spread)).astype(np.float32)


@njit(nogil=True, cache=True)
def _mean_and_spread(table, histogram):
    # Not by numpy's dot: on several threads its sums may differ in the last bit, and waking them costs 20 ms.
    pixels, total, squares = 0, 0.0, 0.0
    for k in range(table.size):
        pixels += histogram[k]
        total += histogram[k] * np.float64(table[k])
    if pixels == 0:
        return np.nan, np.nan
    mean = total / pixels
    for k in range(table.size):
        squares += histogram[k] * (np.float64(table[k]) - mean) ** 2
    return mean, np.sqrt(squares / pixels)


def _continued(frame: np.ndarray, size: int) -> np.ndarray:
    """A frame smaller than a patch, continued by its reflection as :func:`gather_patches` does; others as they are."""
    lacking = [(0, max(0, size - n)) for n in frame.shape]
    return np.pad(frame, lacking, mode="symmetric") if max(lacking)[1] else frame


def _clean(frame: np.ndarray) -> np.ndarray:
    return np.nan_to_num(frame.astype(np.float32), nan=0.0, posinf=0.0, neginf=0.0)


def _stack(frames: np.ndarray, temperature: float, batch: int | None) -> np.ndarray:
    """Frames as a stack, even a single one; refuses what cannot be classified."""
    if frames.ndim not in (2, 3):
        raise InputError("patches to classify", f"an array of shape {frames.shape}", "give (y, x) or (frame, y, x)")
    if not temperature > 0:
        raise InputError("temperature", f"is {temperature}", "give a positive number")
    if batch is not None and batch < 1:
        raise InputError("batch of patches", f"is {batch}", "give at least 1")
    return frames[None] if frames.ndim == 2 else frames


def _probability(found: list[np.ndarray], frames: np.ndarray, size: int, temperature: float) -> np.ndarray:
    """Log-odds as probabilities: (frame, patch_y, patch_x)."""
    grid = tuple(s.size for s in patch_starts((frames.shape[-2], frames.shape[-1]), size))
    odds = np.stack(found) if found else np.empty((0, 1), np.float32)
    weak = np.asarray(expit(odds / np.float32(temperature)), np.float32)
    return weak.reshape(*frames.shape[:-2], *grid)
