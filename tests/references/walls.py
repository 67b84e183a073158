"""Field of sheets at points, and the net of three sets that meets Frank's rule exactly."""

from __future__ import annotations

import numpy as np

from dfxm_dask.errors import InputError
from dfxm_dask.optics.defects.points import columns, tensors
from dfxm_dask.optics.defects.walls import SQUARE, _unit, accumulate_sheets, sheet_table


def sheet_gradient(points: np.ndarray, sheets: np.ndarray, *, poisson: float) -> np.ndarray:
    """Distortion beta of sheets: the integral over s of the field of straight lines without a core."""
    table = sheet_table(sheets, poisson)
    x, y, z = columns(points)
    out = np.zeros((9, x.size))
    accumulate_sheets(x, y, z, table, float(poisson), out)
    if not np.isfinite(out).all():
        bad = int(np.argmin(np.isfinite(out).all(axis=0)))
        raise InputError(
            f"sheet_gradient: point {[float(c[bad]) for c in (x, y, z)]} um",
            "lies on the edge of a strip",
            "shift the points, or move the edge",
        )
    return tensors(out, np.shape(points)[:-1])


def three_sets(
    normal: np.ndarray, axis: np.ndarray, angle: float, burgers: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The net of three sets with given Burgers vectors that meets Frank's rule exactly."""
    normal, axis = _unit("three_sets: normal", normal), _unit("three_sets: axis", axis)
    burgers = np.asarray(burgers, np.float64)
    if burgers.shape != (3, 3):
        raise InputError("three_sets: burgers", f"have the shape {burgers.shape}", "give three vectors (3, 3)")
    volume = np.linalg.det(_unit("three_sets: burgers", burgers))
    if abs(volume) < SQUARE:
        raise InputError("three_sets: burgers", "lie in one plane", "give three that do not, or use frank_bilby")
    dual = np.linalg.inv(burgers).T
    across = 2 * np.sin(angle / 2) * np.cross(axis, dual)
    across -= (across @ normal)[:, None] * normal
    density = np.linalg.norm(across, axis=1)
    needed = density > 1e-12 * np.abs(2 * np.sin(angle / 2)) * np.linalg.norm(dual, axis=1)
    length = np.where(needed, density, 1.0)
    direction = np.where(needed[:, None], np.cross(across / length[:, None], normal), 0.0)
    return direction, np.where(needed, 1 / length, np.inf)
