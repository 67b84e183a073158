"""Distance of points from true boundaries."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np


def boundary_distances(
    truth: Mapping[Any, Any], x: np.ndarray, y: np.ndarray, z: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Distance of points from every boundary.

    Parameters
    ----------
    truth : mapping of str to array, such as a Dataset
        ``normal``, ``origin``, ``line`` (boundary, xyz), and ``dihedral`` (boundary), which is NaN for a whole plane.
    x, y, z : arrays of one shape, um

    Returns
    -------
    signed : ndarray (boundary, ...), um
        Distance from the plane, positive where its normal points to; NaN beyond the edge of a half plane.
    nearest : ndarray (boundary, ...), um
        Distance from the boundary itself: beyond its edge, from the edge.

    Notes
    -----
    A half plane extends from the junction along line × normal.
    """
    points = np.stack([x, y, z], -1)
    normals, origins, lines = (np.asarray(truth[name], float) for name in ("normal", "origin", "line"))
    whole = ~np.isfinite(np.asarray(truth["dihedral"], float)) if "dihedral" in truth else np.ones(len(normals), bool)
    signed, nearest = [], []
    for k, (normal, origin, line) in enumerate(zip(normals, origins, lines, strict=True)):
        off = (points - origin) @ normal
        along = (points - origin) @ np.cross(line, normal)
        on = (along > 0) | whole[k]
        signed.append(np.where(on, off, np.nan))
        nearest.append(np.where(on, np.abs(off), np.hypot(off, along)))
    return np.array(signed), np.array(nearest)


def boundary_distance(truth: Mapping[Any, Any], z: float, y: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Distance of each pixel of a layer to the nearest true boundary.

    Parameters
    ----------
    truth : mapping of str to array
        As in :func:`boundary_distances`.
    z : float, um
    y, x : array (y,), array (x,), um

    Returns
    -------
    array (y, x), float64, um
        Infinite without boundaries.

    Examples
    --------
    >>> truth = {"normal": [[1, 0, 0]], "origin": [[2, 0, 0]], "line": [[0, 0, 1]], "dihedral": [np.nan]}
    >>> boundary_distance(truth, 5.0, np.zeros(1), np.arange(4.0)).tolist()
    [[2.0, 1.0, 0.0, 1.0]]
    """
    if "normal" not in truth or not len(truth["normal"]):
        return np.full((y.size, x.size), np.inf)
    across, up = np.meshgrid(x, y)
    return np.asarray(boundary_distances(truth, across, up, np.full(across.shape, z))[1].min(0))
