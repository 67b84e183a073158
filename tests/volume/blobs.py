"""Masks of layers with known objects, as Datasets that the reductions of the volume read."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import xarray as xr

PIXEL = (0.04, 0.12)  # um along y and x, as published


def stack(mask: np.ndarray, z: Sequence[float] | None = None, **shifts: Sequence[float]) -> xr.Dataset:
    """A mask (z, y, x) with its positions, layers 1 um apart by default, and shifts (z,) by name."""
    at = np.arange(float(mask.shape[0])) if z is None else np.asarray(z, float)
    places = {"z": at, **{n: 5.0 + p * np.arange(s) for n, p, s in zip("yx", PIXEL, mask.shape[1:], strict=True)}}
    coords = {name: (name, values, {"units": "um"}) for name, values in places.items()}
    found = xr.Dataset({"defects": (("z", "y", "x"), mask, {"units": "1"})}, coords)
    return found.assign({name: ("z", np.asarray(v, float), {"units": "um"}) for name, v in shifts.items()})


def tubes(shape: tuple[int, int, int], count: int, seed: int, lean: tuple[float, float] | None = None) -> np.ndarray:
    """Straight lines through a volume (z, y, x), 3 pixels wide.

    ``lean`` (pixels along y and x for each layer) is the same for all; without it each has its own.
    """
    rng = np.random.default_rng(seed)
    mask = np.zeros(shape, bool)
    for _ in range(count):
        start = rng.uniform(0, shape[1:])
        slope = rng.uniform(-8, 8, 2) if lean is None else lean
        for k in range(shape[0]):
            y, x = (round(s + k * d) for s, d in zip(start, slope, strict=True))
            mask[k, max(0, y - 1) : max(0, y + 2), max(0, x - 1) : max(0, x + 2)] = True
    return mask
