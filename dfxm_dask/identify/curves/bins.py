"""Maps of the centre of mass in bins, with their errors."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.ndimage import uniform_filter

from dfxm_dask.identify.curves.fit import Maps
from dfxm_dask.identify.curves.model import Response

DARK = 5.0  # times the median error, above which a pixel is outside the crystal (our choice)
BLOCK = 8  # bins along an edge of the blocks that measure the correlation of residuals (our choice)
FEWEST = 40  # bins of a layer that contributes (our choice)


def covariances(
    axes: list[str],
    maps: np.ndarray,
    rows: np.ndarray,
    columns: np.ndarray,
    error: dict[str, np.ndarray] | None,
    covariance: dict[tuple[str, str], np.ndarray] | None,
) -> np.ndarray:
    """Covariance (y, x, axis, axis) of the centre of mass, rad2; NaN where it is unknown."""
    out = np.zeros((*maps.shape[1:], len(axes), len(axes)))
    for k, a in enumerate(axes):
        if error is not None and a in error:
            out[..., k, k] = np.deg2rad(error[a][rows][:, columns].astype(np.float64)) ** 2
        else:
            out[..., k, k] = _scatter(maps[k])
    for (a, b), values in (covariance or {}).items():
        if a in axes and b in axes:
            i, j = axes.index(a), axes.index(b)
            off = np.deg2rad(np.deg2rad(values[rows][:, columns].astype(np.float64)))
            limit = 0.98 * np.sqrt(out[..., i, i] * out[..., j, j])
            out[..., i, j] = out[..., j, i] = np.clip(off, -limit, limit)
    return out


def _scatter(values: np.ndarray) -> np.ndarray:
    """Variance of a map from second differences along y, mean over 9 by 9 pixels."""
    second = np.zeros_like(values)
    second[1:-1] = values[1:-1] - (values[:-2] + values[2:]) / 2
    valid = np.isfinite(second)
    valid[[0, -1]] = False
    mean = uniform_filter(np.where(valid, second**2, 0.0), 9) / np.maximum(uniform_filter(valid * 1.0, 9), 1e-9)
    return np.where(uniform_filter(valid * 1.0, 9) > 0.1, mean / 1.5, np.nan)


def means(values: np.ndarray, size: int) -> np.ndarray:
    return values[: values.size // size * size].reshape(-1, size).mean(1)


def binned(maps: np.ndarray, covariance: np.ndarray, bins: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """Weighted mean (axis, y, x) over bins, and its information matrix (y, x, axis, axis)."""
    axes, rows, columns = maps.shape
    known = np.isfinite(maps).all(0) & np.isfinite(covariance).all((2, 3)) & (covariance > 0).any((2, 3))
    safe = np.where(known[..., None, None], covariance, np.eye(axes)) + 1e-24 * np.eye(axes)
    own = np.where(known[..., None, None], np.linalg.inv(safe), 0.0)
    weighted = np.einsum("yxij,jyx->yxi", own, np.where(known, maps, 0.0))
    by, bx = bins
    ny, nx = rows // by, columns // bx
    information = own[: ny * by, : nx * bx].reshape(ny, by, nx, bx, axes, axes).sum((1, 3))
    total = weighted[: ny * by, : nx * bx].reshape(ny, by, nx, bx, axes).sum((1, 3))
    lit = np.trace(information, axis1=2, axis2=3) > 0
    centre = np.full((ny, nx, axes), np.nan)
    centre[lit] = np.linalg.solve(information[lit], total[lit][..., None])[..., 0]
    return np.moveaxis(centre, -1, 0), information


class Usable(NamedTuple):
    """Bins of all layers with a known centre of mass.

    Attributes
    ----------
    maps : Maps
        Relative to ``centre`` and the first layer; ``layer`` is the number of the layer in the stack.
    layers : array (layer,), int
        Layers with enough bins.
    bins : array (pixel, 2), int
        Row and column of the bin.
    shape, pitch : (int, int), (float, float)
        Of all bins, and their distances (um).
    centre : array (yx,), um
    variance : array (axis, pixel), rad2
    """

    maps: Maps
    layers: np.ndarray
    bins: np.ndarray
    shape: tuple[int, int]
    pitch: tuple[float, float]
    centre: np.ndarray
    variance: np.ndarray

    def part(self, chosen: np.ndarray) -> tuple[Maps, np.ndarray]:
        """Some bins, and the number of the block of each."""
        place, layer, centre, root = self.maps
        blocks = self.bins[chosen] // BLOCK
        number = (layer[chosen] * self.shape[0] + blocks[:, 0]) * self.shape[1] + blocks[:, 1]
        return Maps(place[chosen], layer[chosen], centre[:, chosen], root[chosen]), np.unique(
            number, return_inverse=True
        )[1].ravel()


def usable(made: dict[str, np.ndarray], floor: float) -> Usable:
    """Bins inside the crystal, with the systematic error added to the errors."""
    y, x, z = made["bin_y"], made["bin_x"], made["bin_z"]
    middle = np.array([y[[0, -1]].mean(), x[[0, -1]].mean()]) if y.size and x.size else np.zeros(2)
    axes = made["bin_centre"].shape[1]
    parts = []
    for layer, (maps_of, information) in enumerate(zip(made["bin_centre"], made["bin_information"], strict=True)):
        lit = np.isfinite(maps_of).all(0) & (axes > 0)
        if lit.sum() < FEWEST:
            continue
        covariance = np.linalg.inv(information[lit])
        variance = np.diagonal(covariance, axis1=1, axis2=2)
        inside_crystal = (variance < DARK**2 * np.median(variance, axis=0)).all(1)
        index = np.argwhere(lit)[inside_crystal]
        covariance = covariance[inside_crystal] + floor**2 * np.eye(axes)
        place = np.column_stack([x[index[:, 1]] - middle[1], y[index[:, 0]] - middle[0], np.full(len(index), z[layer])])
        if len(index) >= FEWEST:
            parts.append((place, np.full(len(index), layer), maps_of[:, lit][:, inside_crystal].T, index, covariance))
    if parts:
        place, number, centre, index, covariance = (np.concatenate(columns) for columns in zip(*parts, strict=True))
    else:
        place, number, centre = np.zeros((0, 3)), np.zeros(0, np.int64), np.zeros((0, axes))
        index, covariance = np.zeros((0, 2), np.int64), np.zeros((0, axes, axes))
    place[:, 2] -= z[0]
    root = np.swapaxes(np.linalg.cholesky(np.linalg.inv(covariance)), 1, 2)
    pitch = tuple(abs(float(side[1] - side[0])) if side.size > 1 else 1.0 for side in (y, x))
    variances = np.diagonal(covariance, axis1=1, axis2=2).T
    maps = Maps(place, number, np.ascontiguousarray(centre.T), root)
    return Usable(maps, np.unique(number), index, (y.size, x.size), (pitch[0], pitch[1]), middle, variances)


def searched(used: Usable, response: Response) -> tuple[np.ndarray, np.ndarray]:
    """Peak angles and weights (axis, y, x) of the layer in the middle."""
    layer = used.layers[len(used.layers) // 2]
    mine = used.maps.layer == layer
    row, column = used.bins[mine].T
    peak = np.zeros((len(used.maps.centre), *used.shape))
    weight = np.zeros_like(peak)
    for a, values in enumerate(used.maps.centre):
        peak[a, row, column] = np.interp(values[mine], response.centre[a], response.peak[a])
        weight[a, row, column] = 1 / used.variance[a, mine]
    return peak, weight
