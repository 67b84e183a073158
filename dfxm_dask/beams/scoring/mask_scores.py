"""Scores of a mask of defects against true lines, and against true lines and boundaries."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from scipy import ndimage

ON_LINE, TAU = 0.25, 1.0
"""Distances in um: to a line within which a pixel is on it, and within which a mask is at it (our choice)."""


def boundary_distance(truth: Mapping[str, Any], z: float, y: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Distance of each pixel of a layer to the nearest true boundary.

    Parameters
    ----------
    truth : mapping of str to array
        ``normal``, ``origin``, ``line`` (boundary, xyz) and ``dihedral`` (boundary), as simulated scans hold them: a
        boundary with a dihedral angle is the half plane that begins at the line through its origin.
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
    found = np.full((y.size, x.size), np.inf)
    if "normal" not in truth:
        return found
    at = np.stack([*reversed(np.meshgrid(y, x, indexing="ij")), np.full(found.shape, z)], axis=-1)
    normal, origin, line = (np.asarray(truth[n], np.float64) for n in ("normal", "origin", "line"))
    half = np.isfinite(np.asarray(truth["dihedral"], np.float64))
    for k in range(len(normal)):
        from_origin = at - origin[k]
        away = np.abs(from_origin @ normal[k])
        if half[k]:
            away = np.hypot(away, np.minimum(from_origin @ np.cross(line[k], normal[k]), 0))
        found = np.minimum(found, away)
    return found


def mask_scores(
    mask: np.ndarray, lit: np.ndarray, away: np.ndarray, boundary: np.ndarray, pixel: tuple[float, float]
) -> dict[str, float]:
    """Agreement of the mask of one layer with true lines.

    Parameters
    ----------
    mask, lit : array (y, x), bool
    away, boundary : array (y, x), um
        Distance to the nearest line, in space, and to the nearest boundary.
    pixel : (float, float), um
        Length of a pixel along y and x; infinite along a side of one pixel.

    Returns
    -------
    dict of str to float
        ``precision``, the share of the mask within 1 um of a line; ``or boundary``, the same of a line or a boundary,
        NaN without boundaries; ``recall``, the share of lit pixels on a line that are within 1 um of the mask;
        ``F1``, the harmonic mean of precision and recall; ``HD95`` (um), the larger of the 95 % quantiles of both
        distances. NaN where there is nothing to count; recall and F1 are 0 for an empty mask.

    Notes
    -----
    A boundary stands out between its dislocations, too, where they are more than 2 um apart: its precision to lines
    alone is low though nothing is wrong, and that to lines or boundaries tells what is wrong.

    Examples
    --------
    >>> mask = np.array([[False, True, True, False]])
    >>> away, boundary = np.array([[0.0, 1.0, 2.0, 3.0]]), np.zeros((1, 4))
    >>> mask_scores(mask, mask | True, away, boundary, (1.0, 1.0))
    {'precision': 0.5, 'or boundary': 1.0, 'recall': 1.0, 'F1': 0.6666666666666666, 'HD95': 1.95}
    """
    lengths = tuple(p if np.isfinite(p) else 1.0 for p in pixel)
    mask, on_line = mask & lit, lit & (away < max(ON_LINE, *lengths))
    nothing = dict.fromkeys(("precision", "or boundary", "recall", "F1", "HD95"), float("nan"))
    if not mask.any():
        return nothing | ({"recall": 0.0, "F1": 0.0} if on_line.any() else {})
    found = nothing | {"precision": float((away[mask] <= TAU).mean())}
    if np.isfinite(boundary).any():
        found["or boundary"] = float((np.minimum(away, boundary)[mask] <= TAU).mean())
    if not on_line.any():
        return found
    to_mask = ndimage.distance_transform_edt(~mask, sampling=lengths)[on_line]
    recall = float((to_mask <= TAU).mean())
    total = found["precision"] + recall
    return found | {
        "recall": recall,
        "F1": 2 * found["precision"] * recall / total if total > 0 else 0.0,
        "HD95": float(max(np.quantile(d, 0.95) for d in (away[mask], to_mask))),
    }
