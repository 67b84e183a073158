"""Probabilities of weak beam of every patch of a frame, the same to the last bit however frames are grouped."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Literal

import numpy as np
from numba import njit
from scipy.special import expit

from dfxm_dask.beams.networks import STRONG, WEAK, one_thread
from dfxm_dask.beams.patches import gather_patches, log_counts, log_table, patch_starts, standardise
from dfxm_dask.errors import InputError
from dfxm_dask.schema import PATCH

if TYPE_CHECKING:
    import torch


def log_odds(net: torch.nn.Module, seen: Callable[[slice], np.ndarray], n: int, batch: int = 128) -> np.ndarray:
    """Log-odds of weak beam of n patches: array (n,), float32.

    ``seen`` gives the patches of a slice, (m, channel, y, x), float32. Run it within
    :func:`dfxm_dask.beams.networks.one_thread`.
    """
    import torch

    net.eval().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    found = np.empty(n, np.float32)
    with torch.inference_mode():
        for first in range(0, n, batch):
            part = slice(first, min(n, first + batch))
            patches = torch.from_numpy(seen(part)).contiguous(memory_format=torch.channels_last)
            logits = net(patches)
            found[part] = (logits[:, WEAK] - logits[:, STRONG]).numpy()
    return found


def predict(
    net: torch.nn.Module,
    frames: np.ndarray,
    *,
    size: int = PATCH,
    batch: int = 128,
    temperature: float = 1.0,
    device: Literal["auto", "cpu", "cuda"] | str = "auto",
) -> np.ndarray:
    """Probability of weak beam of every patch.

    Parameters
    ----------
    net : torch.nn.Module
    frames : array (y, x) or (frame, y, x), float32
        As :func:`dfxm_dask.beams.patches.standardise` gives them. What is no number counts as 0, the mean.
    size : int, pixel
        Edge of a patch: the one that the network was trained on.
    batch : int
        Patches at a time on a processor; larger ones fall out of its caches (our choice, by measurement).
    temperature : float
        Of the weights.
    device : str
        "auto" takes a GPU where there is one. Half precision is used there, and only there.

    Returns
    -------
    array (patch_y, patch_x) or (frame, patch_y, patch_x), float32

    Raises
    ------
    InputError
        An array that is neither one frame nor several, or a temperature that is not positive.

    Notes
    -----
    Batches never cross a frame and torch runs on one thread: what a frame gives is the same to the last bit however
    frames are grouped.
    """
    frames = np.asarray(frames)
    stack, place = _stack(frames, temperature), _device(device)
    found = []
    for frame in stack:
        clean = np.nan_to_num(frame.astype(np.float32), nan=0.0, posinf=0.0, neginf=0.0)
        patches = gather_patches(clean, size)[:, None]
        found.append(_of_frame(net, lambda part, given=patches: given[part], len(patches), batch, place))  # type: ignore[misc]
    return _probability(found, frames, size, temperature)


def predict_counts(
    net: torch.nn.Module,
    counts: np.ndarray,
    *,
    dark: float | np.ndarray,
    lit: np.ndarray | None = None,
    size: int = PATCH,
    batch: int = 128,
    temperature: float = 1.0,
    device: Literal["auto", "cpu", "cuda"] | str = "auto",
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
    size, batch, temperature, device
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
    >>> from dfxm_dask.beams.networks import compact
    >>> predict_counts(compact(), np.zeros((3, 128, 192), np.uint16), dark=0).shape
    (3, 2, 3)
    """
    counts = np.asarray(counts)
    stack, place = _stack(counts, temperature), _device(device)
    if lit is not None and lit.shape != stack.shape[1:]:
        raise InputError(f"light mask of shape {lit.shape}", f"frames are {stack.shape[1:]}", "give one of a frame")
    levels = np.broadcast_to(np.asarray(dark, np.float64), len(stack))
    if counts.dtype not in (np.uint8, np.uint16):
        seen = [standardise(log_counts(f, float(d)), lit) for f, d in zip(stack, levels, strict=True)]
        given = np.stack(seen) if seen else np.empty(stack.shape, np.float32)
        found = predict(net, given, size=size, batch=batch, temperature=temperature, device=device)
        return found if counts.ndim == 3 else found[0]
    ys, xs = patch_starts((stack.shape[1], stack.shape[2]), size)
    lacking = [(0, max(0, size - n)) for n in stack.shape[1:]]
    mask = np.ones((1, 1), bool) if lit is None else np.ascontiguousarray(lit, bool)
    buffer = np.empty((min(batch, ys.size * xs.size) if place == "cpu" else ys.size * xs.size, size, size), np.float32)
    result = []
    for frame, level in zip(stack, levels, strict=True):
        table = log_table(float(level), counts.dtype)
        frame = np.ascontiguousarray(frame)
        table = _standard(table, _histogram(frame, mask, table.size))
        if max(lacking)[1]:
            frame = np.pad(frame, lacking, mode="symmetric")

        def patches(part: slice, frame: np.ndarray = frame, table: np.ndarray = table) -> np.ndarray:
            filled = buffer[: part.stop - part.start]
            _fill(frame, table, ys, xs, part.start, filled)
            return filled[:, None]

        result.append(_of_frame(net, patches, ys.size * xs.size, batch, place))
    return _probability(result, counts, size, temperature)


@njit(nogil=True, cache=True)
def _histogram(frame, lit, length):  # type: ignore[no-untyped-def]
    found = np.zeros(length, np.int64)
    every = lit.size == 1
    for y in range(frame.shape[0]):
        for x in range(frame.shape[1]):
            if every or lit[y, x]:
                found[frame[y, x]] += 1
    return found


@njit(nogil=True, cache=True)
def _fill(frame, table, ys, xs, first, patches):  # type: ignore[no-untyped-def]
    count, size, _ = patches.shape
    for k in range(count):
        top, left = ys[(first + k) // xs.size], xs[(first + k) % xs.size]
        for y in range(size):
            for x in range(size):
                patches[k, y, x] = table[frame[top + y, left + x]]


def _standard(table: np.ndarray, histogram: np.ndarray) -> np.ndarray:
    """A table of logarithms less their mean over their standard deviation; zeros where there is no contrast."""
    pixels = histogram.sum()
    if pixels == 0:
        return np.zeros_like(table)
    mean = (histogram @ table.astype(np.float64)) / pixels
    spread = np.sqrt(histogram @ (table - mean) ** 2 / pixels)
    if not spread > 1e-6 * max(1.0, abs(mean)):  # as dfxm_dask.beams.patches.standardise
        return np.zeros_like(table)
    return ((table - np.float32(mean)) * np.float32(1 / spread)).astype(np.float32)


def _stack(frames: np.ndarray, temperature: float) -> np.ndarray:
    if frames.ndim not in (2, 3):
        raise InputError("patches to classify", f"an array of shape {frames.shape}", "give (y, x) or (frame, y, x)")
    if not temperature > 0:
        raise InputError("temperature", f"is {temperature}", "give a positive number")
    return frames[None] if frames.ndim == 2 else frames


def _device(device: str) -> str:
    import torch

    if device != "auto":
        return device
    return "cuda" if torch.cuda.is_available() else "cpu"


def _of_frame(net: torch.nn.Module, seen: Callable[[slice], np.ndarray], n: int, batch: int, device: str) -> np.ndarray:
    import torch

    if device == "cpu":
        with one_thread():
            return log_odds(net.to("cpu"), seen, n, batch)
    net = net.eval().to(device)
    with torch.inference_mode(), torch.autocast(device, torch.float16):
        logits = net(torch.from_numpy(seen(slice(0, n))).to(device)).float().cpu().numpy()
    return np.asarray(logits[:, WEAK] - logits[:, STRONG])


def _probability(found: list[np.ndarray], frames: np.ndarray, size: int, temperature: float) -> np.ndarray:
    grid = tuple(s.size for s in patch_starts((frames.shape[-2], frames.shape[-1]), size))
    odds = np.stack(found) if found else np.empty((0, 1), np.float32)
    weak = np.asarray(expit(odds / np.float32(temperature)), np.float32)
    return weak.reshape(*frames.shape[:-2], *grid)
