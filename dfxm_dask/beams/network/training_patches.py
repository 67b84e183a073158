"""Patches for training: counts with a label, and their conversion to the input of a network.

The input of a network is log(1 + counts above the dark level), standardised per frame over lit pixels. Patches for
training are kept as counts, so that gain and dark level can be varied at random before the logarithm; 256 quantiles of
the lit counts of the frame determine its standardisation.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from dfxm_dask.beams.network.networks import STRONG, WEAK
from dfxm_dask.beams.patches import check_grid, gather_patches, patch_starts
from dfxm_dask.errors import InputError
from dfxm_dask.schema import PATCH

LEVELS = 256
"""Number of quantiles that represent the brightness of a frame (our choice)."""

TRUTH = (1, 2)
"""Weak and strong in the labels of a simulated layer, in the order of CLASSES."""


def whole_patches(shape: tuple[int, int], size: int = PATCH) -> np.ndarray:
    """Patches on the lattice, neither shifted back nor extended by reflection: (patch_y, patch_x), bool.

    Examples
    --------
    >>> whole_patches((64, 150)).tolist()
    [[True, True, False]]
    """
    on = [(s % size == 0) & (s + size <= n) for s, n in zip(patch_starts(shape, size), shape, strict=True)]
    return np.asarray(on[0][:, None] & on[1][None, :])


def labelled_patches(
    frames: np.ndarray,
    labels: np.ndarray,
    *,
    dark: float | np.ndarray,
    lit: np.ndarray | None = None,
    size: int = PATCH,
    labelled: Sequence[int] = TRUTH,
    shifted: bool = False,
) -> dict[str, np.ndarray]:
    """Patches of a layer that are unambiguously weak or strong, with the data needed for training.

    Parameters
    ----------
    frames : array (frame, y, x)
        Raw counts, uint16 or float32.
    labels : array (frame, patch_y, patch_x), integer
        Labels of simulated layers: 1 weak, 2 strong. Patches with other labels are dropped.
    dark : float or array (frame,), count
        Counts without beam.
    lit : array (y, x), bool, optional
        Pixels that determine the brightness of a frame; by default all.
    size : int, pixel
        Edge of a patch.
    labelled : (int, int)
        Labels of weak and of strong patches.
    shifted : bool
        Whether the labels of the last patches belong to patches that are shifted back to end with the frame. The labels
        of simulated layers do not, so that these patches are dropped.

    Returns
    -------
    dict of arrays
        ``patches`` (n, size, size) raw counts, ``labels`` (n,) int64 in the order of CLASSES, ``levels``
        (n, 256) float32, quantiles of the lit counts of the frame, ``dark`` (n,) float32, ``frame`` (n,) int64.

    Raises
    ------
    InputError
        Labels whose shape does not fit the frames.

    Examples
    --------
    >>> data = labelled_patches(np.zeros((1, 64, 128), np.uint16), np.array([[[1, 3]]]), dark=0)
    >>> data["patches"].shape, data["labels"].tolist(), data["levels"].shape
    ((1, 64, 64), [0], (1, 256))
    """
    frames, labels = np.asarray(frames), np.asarray(labels)
    if frames.ndim != 3 or labels.ndim != 3 or len(frames) != len(labels):
        raise InputError(
            "labelled patches",
            f"frames {frames.shape}, labels {labels.shape}",
            "give frames (frame, y, x) and a label for every patch",
        )
    shape = (frames.shape[1], frames.shape[2])
    check_grid("labels", labels.shape[1:], shape, size)
    whole = True if shifted else whole_patches(shape, size)
    level = np.broadcast_to(np.asarray(dark, np.float32), len(frames))
    at = (np.arange(LEVELS) + 0.5) / LEVELS
    parts: dict[str, list[np.ndarray]] = {name: [] for name in ("patches", "labels", "levels", "dark", "frame")}
    for k, (image, label) in enumerate(zip(frames, labels, strict=True)):
        kept = (np.isin(label, labelled) & whole).ravel()
        n = int(kept.sum())
        if not n:
            continue
        light = image[np.isfinite(image) if lit is None else np.isfinite(image) & lit]
        quantiles = np.quantile(light, at) if light.size else np.full(LEVELS, level[k])
        parts["patches"].append(gather_patches(image, size)[kept])
        parts["labels"].append(np.where(label.ravel()[kept] == labelled[0], WEAK, STRONG))
        parts["levels"].append(np.tile(quantiles.astype(np.float32), (n, 1)))
        parts["dark"].append(np.full(n, level[k], np.float32))
        parts["frame"].append(np.full(n, k))
    if not parts["labels"]:
        empty = {"patches": np.empty((0, size, size), frames.dtype), "levels": np.empty((0, LEVELS), np.float32)}
        return {name: empty.get(name, np.empty(0, np.float32 if name == "dark" else np.int64)) for name in parts}
    return {name: np.concatenate(values) for name, values in parts.items()}


def seen_patches(
    patches: np.ndarray,
    levels: np.ndarray,
    dark: np.ndarray,
    gain: np.ndarray | float = 1.0,
    offset: np.ndarray | float = 0.0,
) -> np.ndarray:
    """Input of a network for patches of counts.

    Parameters
    ----------
    patches, levels, dark : arrays
        See :func:`labelled_patches`.
    gain : array (n,) or float
        Factor on the counts above the dark level.
    offset : array (n,) or float, count
        Error of the dark level.

    Returns
    -------
    array (n, 1, size, size), float32
        log(1 + gain max(counts − dark − offset, 0)), minus its mean and divided by its standard deviation over the lit
        pixels of the frame; 0 where a count is NaN or the frame is constant.

    Examples
    --------
    >>> counts = np.array([[[1, 3]]], float)
    >>> seen_patches(np.expm1(counts), np.expm1([[1, 3.0]]), np.zeros(1)).tolist()
    [[[[-1.0, 1.0]]]]
    """
    n = len(patches)
    factor = np.broadcast_to(np.asarray(gain, np.float32), n)[:, None]
    below = (np.asarray(dark, np.float32) + np.broadcast_to(np.asarray(offset, np.float32), n))[:, None]
    lit = np.log1p(np.maximum(levels - below, 0) * factor)
    mean, spread = lit.mean(1, keepdims=True), lit.std(1, keepdims=True)
    scale = np.divide(1, spread, out=np.zeros_like(spread), where=spread > 1e-6 * np.maximum(1, np.abs(mean)))
    flat = patches.reshape(n, -1).astype(np.float32)
    values = (np.log1p(np.maximum(flat - below, 0) * factor) - mean) * scale
    return np.nan_to_num(values, nan=0.0).reshape(n, 1, *patches.shape[1:]).astype(np.float32)
