"""Maps beside one boundary: the step of the centre of mass, with its height and position, and waves of lines."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from scipy.special import erf

from dfxm_dask.boundaries.cells import COLUMNS, layer_cells, rocking_maps
from dfxm_dask.boundaries.characterise import beside_patch
from dfxm_dask.boundaries.lines.strip import STEEPEST
from dfxm_dask.boundaries.step import MOST_CELLS, STRIPE
from dfxm_dask.boundaries.strip_cells import BIN, STRIP, trace_frame
from dfxm_dask.view.boundaries.words import Tables

if TYPE_CHECKING:
    import xarray as xr

ROOM = 5.0  # um beside the trace that are read: the strip, and cells up to its end
TRIES = np.linspace(-1.5, 1.5, 61)  # um from the plane, range of the search for the step of a stripe
DISTURBED = 1.5  # um from another boundary, where its own step shows (as in the fit)
FEWEST = 3  # cells on either side of the step that determine its height


class Beside(NamedTuple):
    """Centres of mass in the strip of a boundary, minus the ground of each 2 um of its trace in each layer.

    Attributes
    ----------
    s : array (cell,), float64, um
        Distance in the layer from the plane.
    value : array (cell,), float64, unit of the scan axis
    weight : array (cell,), float64
        Pixels of the cell.
    along : array (cell,), float64, um
        Position along the trace, from the centre of the boundary.
    z : array (cell,), float64, um
    slope : float
        Of the centre of mass on both sides, unit of the scan axis per um.
    step, width : float
        Of the boundary, from the tables; NaN without a step, and then ``slope`` is 0.
    """

    s: np.ndarray
    value: np.ndarray
    weight: np.ndarray
    along: np.ndarray
    z: np.ndarray
    slope: float
    step: float
    width: float


class Means(NamedTuple):
    """Means with standard errors (NaN of a single value) at positions along an axis: array (position,) each."""

    at: np.ndarray
    mean: np.ndarray
    error: np.ndarray


def strip_cells(tree: xr.DataTree, found: Tables, k: int) -> np.ndarray:
    """Cells beside the patch of one boundary, read from the maps of the store layer by layer, near its trace only.

    Parameters
    ----------
    tree : DataTree
    found : dict
        See :func:`dfxm_dask.view.boundaries.words.tables_of`.
    k : int
        Number of the boundary.

    Returns
    -------
    array (cell, column), float64
        See :data:`dfxm_dask.boundaries.cells.COLUMNS`; none where there is no map of the centre of mass, no patch,
        or where the boundary lies along the layers.
    """
    nothing = np.zeros((0, len(COLUMNS)))
    normal, centre, ring = found["normal"][k], found["centre"][k], found["corner"][k]
    maps = {str(name): values for group in tree.children.values() for name, values in group.data_vars.items()}
    coms = {n[4:]: v for n, v in maps.items() if n.startswith("com_") and v.dims == ("z", "y", "x")}
    if not coms or not np.isfinite(ring).all() or abs(normal[2]) > STEEPEST:
        return nothing
    across, along = trace_frame(normal)
    rise = np.array([*(-across[:2] * across[2]), 1.0])  # from the trace in one layer to that in the next um of height
    ends = (ring - centre) @ along
    some = next(iter(coms.values()))
    y, x, z = (np.asarray(some[axis], np.float64) for axis in ("y", "x", "z"))
    low, high = ring[:, 2].min() - 1e-6, ring[:, 2].max() + 1e-6
    parts = []
    for n in np.flatnonzero((z >= low) & (z <= high)):
        shift = np.array([np.nan_to_num(float(maps[f"shift_{a}"][n])) if f"shift_{a}" in maps else 0.0 for a in "xy"])
        middle = centre + (z[n] - centre[2]) * rise
        trace = middle + np.outer([ends.min(), ends.max()], along)
        place = {}
        for name, axis, values in (("x", 0, x), ("y", 1, y)):
            seen = values - shift[axis]
            inside = np.flatnonzero((seen >= trace[:, axis].min() - ROOM) & (seen <= trace[:, axis].max() + ROOM))
            place[name] = slice(inside[0], inside[-1] + 1) if len(inside) else slice(0, 0)
        window = {name: np.asarray(v.isel({"z": n, **place})) for name, v in maps.items() if name in _WANTED}
        here = {axis: np.asarray(v.isel({"z": n, **place}), np.float64) for axis, v in coms.items()}
        at_y, at_x = y[place["y"]] - shift[1], x[place["x"]] - shift[0]
        if not at_y.size or not at_x.size:
            continue
        lit = window.get("lit")
        lit = np.isfinite(next(iter(here.values()))) if lit is None else np.nan_to_num(lit) > 0
        distance = (at_x - middle[0]) * across[0] + (at_y[:, None] - middle[1]) * across[1]
        images = {name[5:]: window.get(name) for name in _WANTED[1:]}
        cells, _ = layer_cells(rocking_maps(here), images, lit, np.abs(distance) < 0.5, at_y, at_x, float(z[n]))
        cells = cells.astype(np.float64)
        near = np.abs((cells[:, :3] - centre) @ across) < STRIP
        parts.append(cells[near & beside_patch(cells[:, :3], normal, ring, ROOM, BIN)])
    return np.concatenate(parts) if parts else nothing


_WANTED = ("lit", "weak_isolated", "weak_minus", "weak_plus")


def _grouped(group: np.ndarray, weight: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Weighted mean of every group."""
    count = int(group.max(initial=-1)) + 1
    return np.bincount(group, weight * values, count) / np.maximum(np.bincount(group, weight, count), 1e-12)


def _numbered(*keys: np.ndarray) -> np.ndarray:
    """Number of the group of each row, by equal keys."""
    return np.unique(np.stack(keys, axis=1), axis=0, return_inverse=True)[1].reshape(-1)


def smeared(s: np.ndarray, width: float) -> np.ndarray:
    """A step from −1/2 to 1/2 at 0, smeared by a Gaussian of a standard deviation."""
    return np.asarray(0.5 * erf(s / (width * np.sqrt(2))))


def beside_step(cells: np.ndarray, found: Tables, k: int) -> Beside:
    """The strip of one boundary, from its cells.

    Parameters
    ----------
    cells : array (cell, column)
        Of :func:`strip_cells`.
    found : dict
    k : int

    Notes
    -----
    The ground is that of the fit: free in every 2 um of trace of every layer. Without a step it is the mean.
    Cells within 1.5 um of the patch of another boundary with a step are left out, as in the fit.
    """
    cells = cells[np.isfinite(cells[:, 3])]
    for other in np.flatnonzero(np.isfinite(found["step"])):
        if other != k and np.isfinite(found["corner"][other]).all():
            cells = cells[~beside_patch(cells[:, :3], found["normal"][other], found["corner"][other], DISTURBED, 0.0)]
    cells = cells[:: len(cells) // MOST_CELLS + 1]
    if not len(cells):
        nothing = np.zeros(0)
        return Beside(nothing, nothing, nothing, nothing, nothing, 0.0, np.nan, np.nan)
    across, along = trace_frame(found["normal"][k])
    away = cells[:, :3] - found["centre"][k]
    s, t, value, weight = away @ across, away @ along, cells[:, 3], cells[:, 7]
    step, width, slope = float(found["step"][k]), float(found["step_width"][k]), 0.0
    group = _numbered(np.floor(t / BIN), cells[:, 2])
    if np.isfinite(step) and np.isfinite(width):
        rest = value - step * smeared(s, width)
        flat, level = (v - _grouped(group, weight, v)[group] for v in (s, rest))
        slope = float((weight * flat * level).sum() / max((weight * flat**2).sum(), 1e-300))
        rest = rest - slope * s
    else:
        step, width, rest = np.nan, np.nan, value
    return Beside(s, value - _grouped(group, weight, rest)[group], weight, t, cells[:, 2], slope, step, width)


def _means(at: np.ndarray, values: np.ndarray, weight: np.ndarray) -> Means:
    known = np.isfinite(values) & (weight > 0)
    places, group = np.unique(at[known], return_inverse=True)
    group, values, weight = group.reshape(-1), values[known], weight[known]
    mean = _grouped(group, weight, values)
    total = np.bincount(group, weight, len(places))
    spread = np.bincount(group, (weight * (values - mean[group])) ** 2, len(places)) / np.maximum(total, 1e-12) ** 2
    count = np.bincount(group, minlength=len(places))
    error = np.where(count > 1, np.sqrt(spread * count / np.maximum(count - 1, 1)), np.nan)
    return Means(places, mean, error)


def jumps_along(strip: Beside) -> Means:
    """Jump of the centre of mass in every 2 um of trace: mean over layers with its standard error.

    Notes
    -----
    In every layer the height of the smeared step that fits best; layers have weights by the
    precision of that height.
    """
    keys = np.floor(strip.along / BIN)
    group = _numbered(keys, strip.z)
    shape, value = smeared(strip.s, strip.width), strip.value - strip.slope * strip.s
    shape, value = (v - _grouped(group, strip.weight, v)[group] for v in (shape, value))
    size = np.bincount(group, strip.weight * shape**2)
    sides = np.minimum(*(np.bincount(group, side * strip.s > 0.5) for side in (1, -1)))
    jump = np.where(sides >= FEWEST, np.bincount(group, strip.weight * shape * value) / np.maximum(size, 1e-12), np.nan)
    return _means((_grouped(group, strip.weight, keys) + 0.5) * BIN, jump, size)


def places_of(strip: Beside) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Position of the step, from the plane, in every stripe of 5 um of trace of every layer.

    Returns
    -------
    along, z, place, weight : array (stripe,), um
        ``place`` is the position at which a step of the height of the boundary fits best; NaN where no position within
        1.5 um does.
    """
    keys = np.floor(strip.along / STRIPE)
    group = _numbered(keys, strip.z)
    weight = np.bincount(group, strip.weight)
    value = strip.value - strip.slope * strip.s
    costs = []
    for at in TRIES:
        rest = value - strip.step * smeared(strip.s - at, strip.width)
        costs.append(np.bincount(group, strip.weight * (rest - _grouped(group, strip.weight, rest)[group]) ** 2))
    cost = np.stack(costs)
    best = np.clip(cost.argmin(axis=0), 1, len(TRIES) - 2)
    columns = np.arange(cost.shape[1])
    left, middle, right = (cost[best + d, columns] for d in (-1, 0, 1))
    bend = left - 2 * middle + right
    # Between two tries: the parabola through three.
    place = TRIES[best] + 0.5 * (TRIES[1] - TRIES[0]) * (left - right) / np.where(bend > 0, bend, np.inf)
    sides = np.minimum(*(np.bincount(group, side * strip.s > 0.5) for side in (1, -1)))
    known = (middle < np.minimum(left, right)) & (sides >= FEWEST)
    stripe, z = (_grouped(group, np.ones(len(group)), v) for v in (keys, strip.z))
    return (stripe + 0.5) * STRIPE, z, np.where(known, place, np.nan), weight


def places_by(at: np.ndarray, place: np.ndarray, weight: np.ndarray) -> Means:
    """Mean position of the step at every height or position along the trace, from :func:`places_of`."""
    return _means(np.round(at, 6), place, weight)
