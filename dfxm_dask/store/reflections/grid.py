"""The common grid of a set of reflections in the axes of the sample, and the pixels of every store at its positions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from dfxm_dask.errors import InputError
from dfxm_dask.store.create import check_pixel_size
from dfxm_dask.store.reflections.recorded import Reflection
from dfxm_dask.store.reflections.settings import Settings

SAME = 1e-3  # of a pixel or of the distance of layers: positions that differ less are equal


class Grid(NamedTuple):
    """Positions of the layers and pixels of a set, um, in the axes of the sample."""

    z: np.ndarray
    y: np.ndarray
    x: np.ndarray


class Place(NamedTuple):
    """Row and column of a store at a position of the sample: ``turn @ (y, x) + start``.

    Attributes
    ----------
    turn : array (2, 2), 1/um
    start : array (2,)
    """

    turn: np.ndarray
    start: np.ndarray

    def at(self, y: np.ndarray, x: np.ndarray) -> np.ndarray:
        """Rows and columns, with fractions, of all pixels of a grid: (2, y, x)."""
        moved = self.turn[:, :1, None] * y[None, :, None] + self.turn[:, 1:, None] * x[None, None, :]
        return moved + self.start[:, None, None]


def place(one: Reflection, turn: float, in_laboratory: bool, shift: np.ndarray) -> Place:
    """Rows and columns of a store whose pixels are turned about z against the sample.

    Parameters
    ----------
    turn : float, degree
        omega for pixels along the axes of the laboratory.
    in_laboratory : bool
        Otherwise positions are those of the sample, and the rotation axis is not used.
    shift : array (yx,), um
        Displacement of the image of the sample in this store, along the axes of the sample.
    """
    c, s = np.cos(np.deg2rad(turn)), np.sin(np.deg2rad(turn))
    rotation = np.array([[c, s], [-s, c]])  # of (y, x): R_z(omega) with the axes in this order
    axis = np.zeros(2)
    if in_laboratory:
        middle = tuple(float(v[0] + v[-1]) / 2 for v in (one.y, one.x))
        axis = np.array(one.rotation_axis or middle)
    first = np.array([one.y[0], one.x[0]])
    pitch = np.array([p or 1.0 for p in one.pixel])
    return Place(rotation / pitch[:, None], (rotation @ shift + axis - first) / pitch)


def common_grid(stores: Sequence[Reflection], known: Settings, pixel: Sequence[float] | None) -> Grid:
    """Grid of a set: that of the first store if its pixels lie in the axes of the sample, else the rectangle that all
    stores cover.

    Raises
    ------
    InputError
        Layers at different z; stores without a common area.
    """
    first = stores[0]
    for one in stores[1:]:
        step = float(np.abs(np.diff(first.z)).min()) if first.z.size > 1 else 1.0
        if one.z.size != first.z.size or np.abs(one.z - first.z).max() > SAME * step:
            raise InputError(
                f"layers of {one.path.name}",
                f"lie at z = {_listed(one.z)} um, those of {first.path.name} at {_listed(first.z)}",
                "join scans of the same layers; ingest with --z sets positions that files do not record",
            )
    whole = pixel is None and known.frames[0] == "sample"
    size = check_pixel_size(pixel) if pixel is not None else _pixel(stores)
    corners = [_corners(one, known, k) for k, one in enumerate(stores)]
    low = np.max([c.min(axis=0) for c in corners], axis=0)
    high = np.min([c.max(axis=0) for c in corners], axis=0)
    if (high < low).any():
        raise InputError("pixels of the stores", "have no common area of the sample", "check positions and --frame")
    if whole:
        return Grid(first.z, first.y, first.x)
    count = np.floor((high - low) / size + 1e-6).astype(int) + 1
    start = (low + high - (count - 1) * np.array(size)) / 2
    y, x = (start[k] + size[k] * np.arange(count[k]) for k in (0, 1))
    return Grid(first.z, y, x)


def _pixel(stores: Sequence[Reflection]) -> tuple[float, float]:
    """The longest edge of a pixel of the stores, for both axes: pixels of the set are hardly correlated."""
    edge = max(abs(p) for one in stores for p in one.pixel)
    return edge or 1.0, edge or 1.0


def _corners(one: Reflection, known: Settings, k: int) -> np.ndarray:
    """Corners of the field of a store in the axes of the sample, um: (corner, yx)."""
    here = place(one, known.turn[k], known.frames[k] == "laboratory", np.zeros(2))
    ends = np.array([[r, c] for r in (0, one.y.size - 1) for c in (0, one.x.size - 1)], float)
    return np.asarray((ends - here.start) @ np.linalg.inv(here.turn).T)


def _listed(z: np.ndarray) -> str:
    return ", ".join(f"{v:g}" for v in z[:3]) + (f", ... ({z.size} layers)" if z.size > 3 else "")
