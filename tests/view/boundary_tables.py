"""A hand-made group of boundaries: a wall with six lines, and one without, that meet at a right angle."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr

from dfxm_dask.boundaries.characterise import WRITES

LINES = np.array([1.0, 5.0, 9.0, 13.0, 17.0, 21.0])
SIZES = {"boundary": 2, "family": 2, "xyz": 3, "vertex": 4, "junction": 1, "half": 6}
DIMS = {v.name: v.dims for v in WRITES}


def wall_points() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Points, weights and owners: 600 on x = 10 with lines along z at y = 1, 5, ...; 300 on y = 12; 50 on none."""
    rng = np.random.default_rng(3)
    first = np.stack(
        [10 + 0.2 * rng.normal(size=600), rng.choice(LINES, 600) + 0.1 * rng.normal(size=600), rng.uniform(0, 10, 600)],
        1,
    )
    second = np.stack([rng.uniform(10, 30, 300), 12 + 0.3 * rng.normal(size=300), rng.uniform(0, 10, 300)], 1)
    none = rng.uniform(0, [30, 24, 10], (50, 3))
    owner = np.repeat([0, 1, -1], [600, 300, 50])
    return np.concatenate([first, second, none]), rng.uniform(0.2, 1, 950), owner


def group(boundaries: int = 2, **changed: Any) -> xr.Dataset:
    """Tables of ``boundaries`` as the package writes them; ``changed`` replaces values."""
    point, weight, owner = wall_points()
    nan = np.nan
    values: dict[str, Any] = {
        "normal": [[1.0, 0, 0], [0, 1.0, 0]],
        "normal_error": [0.31, 0.052],
        "centre": [[10.0, 11.0, 5.0], [20.0, 12.0, 5.0]],
        "thickness": [0.2, 0.3],
        "corner": [
            [[10.0, 2, 0.5], [10, 20, 0.5], [10, 20, 9.5], [10, 2, 9.5]],
            [[11.0, 12, 0.5], [29, 12, 0.5], [29, 12, 9.5], [11, 12, 9.5]],
        ],
        "boundary_weight": [360.0, 180.0],
        "line": [[[0.0, 0, 1], [nan] * 3], [[nan] * 3] * 2],
        "line_error": [[0.42, nan], [nan, nan]],
        "spacing": [[4.02, nan], [nan, nan]],
        "spacing_error": [[0.03, nan], [nan, nan]],
        "gap": [[3.99, nan], [nan, nan]],
        "gap_error": [[0.012, nan], [nan, nan]],
        "lines": [[6, 0], [0, 0]],
        "contrast": [[0.97, nan], [nan, nan]],
        "burgers": [[[2.86e-4, 0, 0], [nan] * 3], [[nan] * 3] * 2],
        "burgers_misfit": [1.5, nan],
        "burgers_next": [30.0, nan],
        "rotation": [[0, 0, 7.1e-5], [nan] * 3],
        "misorientation": [7.1e-5, nan],
        "twist": [0.02, nan],
        "peak_step": [-0.0041, nan],
        "peak_step_error": [0.0002, nan],
        "peak_step_expected": [0.00407, nan],
        "junction_direction": [[0.0, 0, 1]],
        "junction_point": [[10.0, 12, 5]],
        "junction_length": [8.0],
        "junction_boundary": [[0, 1, 0, -1, -1, -1]],
        "junction_along": [[[0.0, -1, 0], [1, 0, 0], [0, 1, 0], *[[nan] * 3] * 3]],
        "dihedral": [[90.0, 91.0, 179.0, nan, nan, nan]],
        "dihedral_error": [[0.5, 0.6, 0.7, nan, nan, nan]],
        "point": point,
        "point_weight": weight,
        "point_boundary": owner,
    }
    found = xr.Dataset({name: (DIMS[name], np.asarray(v)) for name, v in (values | changed).items()})
    if boundaries < 2:
        found = found.isel(boundary=slice(boundaries), junction=slice(0))
    return found


def store(found: xr.Dataset | None = None, **groups: xr.Dataset) -> xr.DataTree:
    """A volume of 24 by 30 um with these groups."""
    coords = {
        "z": ("z", np.arange(11.0), {"units": "um"}),
        "y": ("y", np.arange(0, 24, 0.5), {"units": "um"}),
        "x": ("x", np.arange(0, 30, 0.5), {"units": "um"}),
    }
    root = xr.Dataset(coords=coords, attrs={"title": "made up"})
    groups = groups | ({} if found is None else {"boundaries": found})
    return xr.DataTree.from_dict({"/": root, **{f"/{name}": ds for name, ds in groups.items()}})
