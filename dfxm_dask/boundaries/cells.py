"""Small squares near the mask of one layer: centre of mass of the rocking curve and brightness of the weak beam."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from scipy import ndimage

from dfxm_dask.boundaries.planes.points import STEPS

CELL = 0.25
"""Edge of the squares, um: the finest detail of a strong-beam image or a line's image (our choice)."""

NEAR = 4.0
"""Distance in um from the mask within which squares are kept: the strip of the fit and a margin (our choice)."""

MOST = 32_768
"""Largest number of squares of one layer: 1.2 MB. The edge is doubled until the number is smaller (our choice)."""

COLUMNS = ("x", "y", "z", "com", "isolated", "minus", "plus", "pixels", "other")
"""Columns of the array (cell, column), float32, 36 bytes a cell: centre of mass of the pixels (um), centre of mass of
the rocking curve along its axis and along a second axis, minus the reference of the layer (unit of the axis), weak beam
(standard deviations, counts), NaN where unknown, and the number of pixels."""


def rocking_maps(com: Mapping[str, np.ndarray] | None) -> list[np.ndarray]:
    """Maps of the centre of mass, at most two, that of the rocking axis first."""
    names = list(com or {})
    first = ["phi"] if "phi" in names else names[:1]
    return [(com or {})[n] for n in (first + [n for n in names if n not in first])[:2]]


def layer_cells(
    coms: list[np.ndarray],
    images: Mapping[str, np.ndarray | None],
    lit: np.ndarray,
    mask: np.ndarray,
    y: np.ndarray,
    x: np.ndarray,
    z: float,
) -> tuple[np.ndarray, np.ndarray]:
    """Squares within 4 um of the mask in one layer.

    Parameters
    ----------
    coms : list of array (y, x), float64
        See :func:`rocking_maps`.
    images : mapping of str to array (y, x), float32, or None
        ``isolated``, ``minus``, ``plus``.
    lit, mask : array (y, x), bool
        Lit pixels, and the mask of the weak beam.
    y, x : array (y,), array (x,), um
    z : float, um

    Returns
    -------
    cells : array (cell, column), float32
        See :data:`COLUMNS`.
    reference : array (1, 4), float64
        z (um), the two references, and the edge of the squares (um).
    """
    nothing = np.zeros((0, len(COLUMNS)), np.float32), np.zeros((0, 4))
    if not coms or not mask.any():
        return nothing
    z = float(np.rint(z * STEPS) / STEPS)  # rounded as that of the points, so that both lie in one layer
    edge = CELL
    while True:
        squares = [np.floor(p / edge).astype(np.int64) for p in (y, x)]  # ascending or descending
        axes = [np.flatnonzero(np.diff(s, prepend=s[0] - 1)) for s in squares]

        def sums(values: np.ndarray, axes: list[np.ndarray] = axes) -> np.ndarray:
            return np.add.reduceat(np.add.reduceat(values, axes[0], axis=0), axes[1], axis=1)

        masked = sums(mask.astype(np.int32)) > 0
        lit_pixels = sums(lit.astype(np.int32))
        wanted = (ndimage.distance_transform_edt(~masked) * edge <= NEAR) & (lit_pixels > 0)
        if np.count_nonzero(wanted) <= MOST:
            break
        edge *= 2
    rows, columns = np.nonzero(wanted)
    cells = np.full((len(rows), len(COLUMNS)), np.nan, np.float32)
    cells[:, 0] = (np.add.reduceat(x, axes[1]) / np.diff(axes[1], append=x.size))[columns]
    cells[:, 1] = (np.add.reduceat(y, axes[0]) / np.diff(axes[0], append=y.size))[rows]
    cells[:, 2], cells[:, 7] = z, lit_pixels[wanted]
    references = [np.nan, np.nan]
    for k, (column, values) in enumerate(zip((3, 8), coms, strict=False)):
        used = lit & np.isfinite(values)
        if used.any():
            references[k] = float(np.median(values[used]))
            cells[:, column] = _mean(np.where(used, values - references[k], 0.0), used, sums)[wanted]
    for column, name in zip((4, 5, 6), ("isolated", "minus", "plus"), strict=True):
        image = images.get(name)
        if image is not None:
            used = lit & np.isfinite(image)
            cells[:, column] = _mean(np.where(used, image, 0.0).astype(np.float64), used, sums)[wanted]
    return cells, np.array([[z, *references, edge]])


def _mean(values: np.ndarray, used: np.ndarray, sums: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """Mean of the used values in each square."""
    count = sums(used.astype(np.int32))
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(np.where(count > 0, sums(values) / count, np.nan))


def on_one_scale(cells: np.ndarray, references: np.ndarray) -> np.ndarray:
    """Cells of all layers relative to one reference, that of the lowest layer; sorted by z, y and x."""
    if not len(cells):
        return cells
    references = references[np.argsort(references[:, 0], kind="stable")]
    layer = np.clip(np.searchsorted(references[:, 0].astype(np.float32), cells[:, 2]), 0, len(references) - 1)
    cells = cells.copy()
    for column, row in ((3, 1), (8, 2)):
        known = references[np.isfinite(references[:, row]), row]
        if known.size:
            cells[:, column] += (references[layer, row] - known[0]).astype(np.float32)
    return cells[np.lexsort((cells[:, 0], cells[:, 1], cells[:, 2]))]
