"""Maps of a store on the grid of a set."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy import ndimage

from dfxm_dask.errors import StoreError
from dfxm_dask.store.reflections.grid import Place
from dfxm_dask.store.reflections.recorded import maps
from dfxm_dask.store.shards import open_array
from dfxm_dask.strain.lines.inversion import Maps
from dfxm_dask.strain.registration import resample
from dfxm_dask.strain.variables import ANGLES

BENT = 2.0
"""Standard deviation in pixels of the Gaussian under second derivatives (our choice)."""
KNOWN = 0.7
"""Least share of known pixels under it."""
HALO = 10
"""Rows beyond a band that the second derivatives need."""


class Source(NamedTuple):
    """A store: prefix of its maps, scanned axes, and its rows and columns at positions of the sample."""

    path: str
    prefix: str
    axes: tuple[str, ...]
    place: Place


def on_grid(source: Source, z: int, y: np.ndarray, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Centres of mass and their covariances of one layer at positions of the sample.

    Parameters
    ----------
    y, x : array, um

    Returns
    -------
    array (y, x, angle), float64, degree
        NaN outside the store, in unlit pixels, and along axes that were not scanned.
    array (y, x, angle, angle2), float64, degree2
    """
    at = source.place.at(y, x)
    box = _box(source, at)
    if box is None:
        shape = (y.size, x.size, len(ANGLES))
        return np.full(shape, np.nan), np.full((*shape, len(ANGLES)), np.nan)
    centre, covariance = maps(Path(source.path), source.prefix, source.axes, z, *box)
    made, spread = resample(centre, covariance, at[0] - box[0].start, at[1] - box[1].start)
    assert spread is not None
    return made, spread


def height_covariance(centre: np.ndarray, along: np.ndarray) -> np.ndarray:
    """Squared error of centres that a beam of finite height averages, as a covariance: (y, x, angle, angle2).

    Parameters
    ----------
    centre : array (y, x, angle), float64
    along : array (yx,), pixel
        Displacement of the diffracted beam over one standard deviation of the height of the beam.

    Notes
    -----
    The mean over a symmetric profile differs from the value in its middle by b = (along . grad)² c / 2 to second order,
    with derivatives within the layer under a Gaussian of 2 pixels; b bᵀ is added to the covariance. Zero where the
    derivatives are unknown.
    """
    lit = np.isfinite(centre)
    share = ndimage.gaussian_filter(lit.astype(float), (BENT, BENT, 0), mode="nearest")
    smooth = ndimage.gaussian_filter(np.where(lit, centre, 0.0), (BENT, BENT, 0), mode="nearest")
    with np.errstate(invalid="ignore", divide="ignore"):
        bent = np.where(share > KNOWN, smooth / share, np.nan)
    for _ in range(2):
        bent = along[0] * np.gradient(bent, axis=0) + along[1] * np.gradient(bent, axis=1)
    off = np.nan_to_num(bent / 2)
    return np.asarray(off[..., :, None] * off[..., None, :])


def as_recorded(source: Source, z: int, y: np.ndarray, x: np.ndarray) -> Maps | None:
    """Maps of the pixels of a store, without interpolation, in an area of the sample; None outside the store.

    Parameters
    ----------
    y, x : array, um
        Positions of the sample; the area is the smallest one along the pixels that contains them.
    """
    box = _box(source, source.place.at(y, x))
    if box is None or min(part.stop - part.start for part in box) < 2:
        return None
    centre, covariance = maps(Path(source.path), source.prefix, source.axes, z, *box)
    assert covariance is not None
    pixels = np.moveaxis(np.mgrid[box[0], box[1]].astype(float), 0, -1)
    return Maps(centre, covariance, (pixels - source.place.start) @ np.linalg.inv(source.place.turn).T)


def _box(source: Source, at: np.ndarray) -> list[slice] | None:
    """Rows and columns of a store that contain all positions, or None."""
    name = f"{source.prefix}_{source.axes[0]}"
    array = open_array(Path(source.path, "rocking", name))
    if array is None:
        raise StoreError(f"array {source.path}/rocking/{name}", "has a foreign layout", "run the step again")
    box = []
    for values, length in zip(at, array.shape[1:], strict=True):
        low = max(0, int(np.floor(values.min() - 1e-3)))
        box.append(slice(low, min(length, int(np.ceil(values.max() + 1e-3)) + 1)))
    return None if any(part.start >= part.stop for part in box) else box
