"""Probability of weak beam of every patch of a frame, identical to the last bit however frames are grouped."""

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

    ``seen`` returns the patches of a slice, (m, channel, y, x), float32.
    """
    return _in_batches(answers(net, "torch"), seen, n, batch)


def _in_batches(answer: Answer, seen: Callable[[slice], np.ndarray], n: int, batch: int) -> np.ndarray:
    """Log-odds of n patches, batch by batch."""
    odds = np.empty(n, np.float32)
    for first in range(0, n, batch):
        part = slice(first, min(n, first + batch))
        odds[part] = answer(seen(part))
    return odds


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
        Standardised as by :func:`dfxm_dask.beams.patches.standardise`. NaN counts as 0, the mean.
    size : int, pixel
        Edge of the patches on which the network was trained.
    batch : int, optional
        Patches per batch on a processor; :data:`dfxm_dask.beams.network.engines.BATCH` by default.
    temperature : float
        Temperature stored with the weights.
    device : str
        "auto" uses a GPU if there is one. Half precision is used on a GPU only.
    engine : "auto", "torch" or "onnxruntime"
        Library that runs the network; for "auto" see :func:`dfxm_dask.beams.network.engines.chosen`. Its name is
        returned by :func:`dfxm_dask.beams.network.engines.engine_of`.

    Returns
    -------
    array (patch_y, patch_x) or (frame, patch_y, patch_x), float32

    Raises
    ------
    InputError
        An array that is neither one frame nor several, a temperature that is not positive, a batch of less than one
        patch, or an engine or device that does not exist.

    Notes
    -----
    Batches never cross a frame and engines run on one thread: the result of a frame is identical to the last bit
    however frames are grouped. Two engines agree to 1e-5 in the log-odds, or to a millionth of large ones.
    """
    frames = np.asarray(frames)
    stack, (name, where) = _stack(frames, temperature, batch), chosen(net, engine, device)
    if where != "cpu":
        run = on_device(net, where, size)
        return _probability([run(_clean(frame), None) for frame in stack], frames, size, temperature)
    answer, batch = answers(net, name), batch or batch_of(net, name)
    odds = []
    for frame in stack:
        patches = gather_patches(_clean(frame), size)[:, None]
        odds.append(_in_batches(answer, patches.__getitem__, len(patches), batch))
    return _probability(odds, frames, size, temperature)


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
    """Probability of weak beam of every patch of raw frames, computed without standardised frames in memory.

    Parameters
    ----------
    net : torch.nn.Module
    counts : array (y, x) or (frame, y, x)
        Raw counts; uint8 and uint16 use a fast table.
    dark : float or array (frame,), count
        Counts without beam.
    lit : array (y, x), bool, optional
        Pixels over which frames are standardised; by default all.
    size, batch, temperature, device, engine
        See :func:`predict`.

    Returns
    -------
    array (patch_y, patch_x) or (frame, patch_y, patch_x), float32

    Raises
    ------
    InputError
        See :func:`predict`; or a light mask of another shape.

    Notes
    -----
    Mean and standard deviation follow from the histogram of the counts; one table then converts every count to the
    input of the network, directly into the batch. Equal to :func:`predict` of standardised frames up to rounding.

    Examples
    --------
    >>> from dfxm_dask.beams.network.networks import compact
    >>> predict_counts(compact(), np.zeros((3, 128, 192), np.uint16), dark=0).shape
    (3, 2, 3)
    """
    counts = np.asarray(counts)
    stack, (name, where) = _stack(counts, temperature, batch), chosen(net, engine, device)
    if lit is not None and lit.shape != stack.shape[1:]:
        raise InputError(
            f"light mask of shape {lit.shape}", f"frames are {stack.shape[1:]}", "give a mask of one frame"
        )
    levels = np.broadcast_to(np.asarray(dark, np.float64), len(stack))
    if counts.dtype not in (np.uint8, np.uint16):
        seen = [standardise(log_counts(f, float(d)), lit) for f, d in zip(stack, levels, strict=True)]
        given = np.stack(seen) if seen else np.empty(stack.shape, np.float32)
        options: dict[str, Any] = {"temperature": temperature, "device": device, "engine": engine}
        probability = predict(net, given, size=size, batch=batch, **options)
        return probability if counts.ndim == 3 else probability[0]
    tables = (log_table(float(level), counts.dtype) for level in levels)
    if where != "cpu":
        run = on_device(net, where, size, lit)
        odds = [run(frame, table) for frame, table in zip(stack, tables, strict=True)]
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
    """Number of lit pixels of a frame with each count; of all pixels if `lit` is a single value."""
    occurrences = np.zeros(length, np.int64)
    every = lit.size == 1
    for y in range(frame.shape[0]):
        for x in range(frame.shape[1]):
            if every or lit[y, x]:
                occurrences[frame[y, x]] += 1
    return occurrences


@njit(nogil=True, cache=True)
def _fill(frame, table, ys, xs, first, patches):
    """Fill patches from number `first` on with the table value of each count."""
    count, size, _ = patches.shape
    for k in range(count):
        top, left = ys[(first + k) // xs.size], xs[(first + k) % xs.size]
        for y in range(size):
            for x in range(size):
                patches[k, y, x] = table[frame[top + y, left + x]]


def _standard(table: np.ndarray, histogram: np.ndarray) -> np.ndarray:
    """Standardise a table of logarithms over the pixels of a histogram; zeros if there is no contrast."""
    mean, spread = _mean_and_spread(table, histogram)
    if not spread > 1e-6 * max(1.0, abs(mean)):  # as dfxm_dask.beams.patches.standardise; NaN of no pixels comes here
        return np.zeros_like(table)
    return ((table - np.float32(mean)) * np.float32(1 / spread)).astype(np.float32)


@njit(nogil=True, cache=True)
def _mean_and_spread(table, histogram):
    """Mean and standard deviation of a table over a histogram, summed in a fixed order.

    numpy's dot may differ in the last bit on several threads, and takes 20 ms to start them.
    """
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
    """A frame smaller than a patch, extended by reflection as by :func:`gather_patches`; other frames unchanged."""
    missing = [(0, max(0, size - n)) for n in frame.shape]
    return np.pad(frame, missing, mode="symmetric") if max(missing)[1] else frame


def _clean(frame: np.ndarray) -> np.ndarray:
    """Replace NaN and infinities by 0."""
    return np.nan_to_num(frame.astype(np.float32), nan=0.0, posinf=0.0, neginf=0.0)


def _stack(frames: np.ndarray, temperature: float, batch: int | None) -> np.ndarray:
    """Frames as a stack, even a single one; refuse invalid arguments."""
    if frames.ndim not in (2, 3):
        raise InputError("patches to classify", f"an array of shape {frames.shape}", "give (y, x) or (frame, y, x)")
    if not temperature > 0:
        raise InputError("temperature", f"is {temperature}", "give a positive number")
    if batch is not None and batch < 1:
        raise InputError("batch of patches", f"is {batch}", "give at least 1")
    return frames[None] if frames.ndim == 2 else frames


def _probability(odds_of_frames: list[np.ndarray], frames: np.ndarray, size: int, temperature: float) -> np.ndarray:
    """Probabilities from log-odds: (frame, patch_y, patch_x)."""
    grid = tuple(s.size for s in patch_starts((frames.shape[-2], frames.shape[-1]), size))
    all_odds = np.stack(odds_of_frames) if odds_of_frames else np.empty((0, 1), np.float32)
    weak = np.asarray(expit(all_odds / np.float32(temperature)), np.float32)
    return weak.reshape(*frames.shape[:-2], *grid)
