"""Comparison of two volumes on disk: their common voxels, and their agreement."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from dfxm_dask.errors import IncompleteError, InputError
from dfxm_dask.volume.compare import TAU, Comparison, compare_voxels
from dfxm_dask.volume.sparse import Voxels, voxels

if TYPE_CHECKING:
    import xarray as xr

MASKS = (("volume", "dislocation", ""), ("beams", "defects", ""), ("truth", "distance", "<0.25"))
"""Variables that are searched for a mask, in this order: reconstruction, detected defects, truth. A voxel is on a
line where its centre is within 0.25 um (our choice: about half of a line's image)."""
NEAR = 1e-3  # um: layers as near as this have the same z
PART, PITCH = 0.1, 0.01
"""Voxels are the same where their centres lie within a tenth of a voxel of each other, and their sizes differ by no
more than one part in a hundred (our choice); others need resampling."""


@dataclass(frozen=True, eq=False)
class Mask:
    """A mask on disk, read layer by layer.

    Parameters
    ----------
    path : Path
        The store.
    name : str
        Store and variable.
    variable : DataArray (z, y, x)
    true : callable
        Turns values into bool.
    known : array (z,), bool
        Layers that are complete on disk.
    notes : tuple of str
        Remarks for the reader.
    """

    path: Path
    name: str
    variable: xr.DataArray
    true: Callable[[np.ndarray], np.ndarray]
    known: np.ndarray
    notes: tuple[str, ...] = ()

    def layer(self, number: int) -> np.ndarray:
        """One layer (y, x), bool."""
        return self.true(np.asarray(self.variable[number]))

    def positions(self, dim: str) -> np.ndarray:
        """Centres of the voxels along one dimension, um."""
        return np.asarray(self.variable[dim], np.float64)


def open_mask(where: str | Path) -> Mask:
    """The mask in a store.

    Parameters
    ----------
    where : str or path
        ``STORE``: its ``volume/dislocation``, else ``beams/defects``, else the voxels within 0.25 um of a true line.
        ``STORE:group`` selects the mask of one group, ``STORE:group/variable`` any variable: True, or not 0 for
        integers; floats require a limit, as in ``STORE:truth/distance<0.5`` or ``STORE:beams/weak_enhanced>3``.

    Returns
    -------
    Mask
        Layers that a step has not written, or that were absent from the source, are not ``known``, and are named.

    Raises
    ------
    InputError
        The store contains no mask or not this variable, its dims are not z, y, x, it is a float without a limit, or
        positions are not in um or do not rise.
    StoreError
        Not a store.
    """
    from dfxm_dask.store.integrity import ledger
    from dfxm_dask.store.scan import open_scan, valid_blocks

    text = str(where)
    found = re.fullmatch(r"(.+?):(\w+)(?:/(\w+)\s*(?:([<>])\s*([-+.\deE]+))?)?", text)
    found = None if os.path.exists(text) else found
    path = Path(found[1] if found else text)
    try:
        tree = open_scan(path, chunks=None)
    except IncompleteError:
        tree = open_scan(path, chunks=None, allow_partial=True)
    if found and found[3]:
        group, name, limit = found[2], found[3], (found[4] or "") + (found[5] or "")
    else:
        asked = [mask for mask in MASKS if found is None or mask[0] == found[2]]
        there = [mask for mask in asked if mask[0] in tree and mask[1] in tree[mask[0]].data_vars]
        if not there:
            raise InputError(
                f"mask of {text}",
                f"the store contains none of {', '.join(f'{g}/{n}' for g, n, _ in MASKS)}",
                "run a recipe that writes one, or name it as STORE:group/variable",
            )
        group, name, limit = there[0]
    label = f"{path.name}:{group}/{name}{limit}"
    if group not in tree or name not in tree[group].data_vars:
        raise InputError(label, "is not in the store", f"see `dfxm-dask info {path}`")
    variable = tree[group][name]
    if variable.dims != ("z", "y", "x"):
        raise InputError(label, f"has the dims {', '.join(map(str, variable.dims))}", "name a variable of z, y, x")
    for dim in variable.dims:
        if variable[dim].attrs.get("units") != "um":
            raise InputError(
                label,
                f"{dim} is in {variable[dim].attrs.get('units', 'no unit')}, and distances require um",
                f"set the effective pixel by dfxm-dask calibrate {path} --pixel-size Y,X",
            )
        if dim != "z" and not (np.diff(np.asarray(variable[dim])) > 0).all():
            raise InputError(label, f"{dim} does not rise", "give a store with rising positions")
    known, notes = np.ones(variable.sizes["z"], bool), []
    if "not_complete" in variable.attrs:
        notes.append(f"{label} is not complete: {variable.attrs['not_complete']}")
        for state in ledger.states(path, group).values():
            if name in state.writes:
                known &= valid_blocks(state, variable.sizes["z"], variable.sizes["y"]).all(1)
    return Mask(path, label, variable, _truth(label, variable.dtype, limit), known, tuple(notes))


def _truth(label: str, dtype: np.dtype, limit: str) -> Callable[[np.ndarray], np.ndarray]:
    """Function that turns values into bool."""
    if limit:
        level = float(limit[1:])
        return (lambda values: values < level) if limit[0] == "<" else (lambda values: values > level)
    if dtype.kind == "f":
        raise InputError(label, f"is {dtype}, not a mask", f"give a limit, as in {label}<0.5 or {label}>3")
    return lambda values: values.astype(bool)


def same_voxels(a: np.ndarray, b: np.ndarray, axis: str, resample: bool) -> tuple[np.ndarray, np.ndarray, float]:
    """Voxels of two grids at the same positions along one dimension.

    Parameters
    ----------
    a, b : array, um, rising
        Centres of the voxels.
    axis : str
    resample : bool
        Use the nearest voxel of b where the grids differ.

    Returns
    -------
    first, second : arrays, int
        Numbers of those in a and in b, one to one.
    off : float
        Largest distance of these pairs, in voxels of a.

    Raises
    ------
    InputError
        The grids do not overlap, or they differ and ``resample`` is False.

    Examples
    --------
    >>> same_voxels(np.arange(5) * 0.5, 1.0 + np.arange(9) * 0.5, "y", False)[:2]
    (array([2, 3, 4]), array([0, 1, 2]))
    """
    steps = [(p[-1] - p[0]) / (p.size - 1) if p.size > 1 else np.nan for p in (a, b)]
    steps = [step if np.isfinite(step) else next((s for s in steps if np.isfinite(s)), 1.0) for step in steps]
    near = np.searchsorted((b[1:] + b[:-1]) / 2, a)
    apart = np.abs(b[near] - a)
    first = np.flatnonzero(apart <= steps[1] / 2 * (1 + 1e-9))
    if not first.size:
        raise InputError(
            "volumes to compare",
            f"along {axis} one spans {a[0]:g} to {a[-1]:g} um, the other {b[0]:g} to {b[-1]:g}",
            "compare volumes of the same part of the sample",
        )
    off = float(apart[first].max() / steps[0])
    if not resample and (off > PART or abs(steps[1] / steps[0] - 1) > PITCH):
        raise InputError(
            "volumes to compare",
            f"along {axis} voxels of {steps[0]:g} and {steps[1]:g} um, up to {off:.2g} of a voxel apart",
            "pass --resample, which uses the nearest voxel of the second volume for each voxel of the first",
        )
    return first, near[first], off


def same_layers(a: Mask, b: Mask) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Layers that are complete in both masks: their numbers in a and in b; and notes on layers that are left out.

    Raises
    ------
    InputError
        The masks have no common layer.
    """
    z = [mask.positions("z") for mask in (a, b)]
    pairs = np.abs(z[0][:, None] - z[1][None]) <= NEAR
    alike = pairs & a.known[:, None] & b.known[None]
    notes = []
    for mask, places, partner in ((a, z[0], pairs.any(1)), (b, z[1], pairs.any(0))):
        if not mask.known.all():
            notes.append(f"layers missing from {mask.name}: z = {_list(places[~mask.known])} um; left out of both")
        if not partner.all():
            notes.append(f"layers in {mask.name} only: z = {_list(places[~partner])} um; left out")
    first = np.flatnonzero(alike.any(1))
    if not first.size:
        raise InputError(
            "volumes to compare",
            f"{a.name} and {b.name} have no layer at the same z",
            "compare volumes of the same part of the sample",
        )
    return first, alike[first].argmax(1), notes


def _list(values: np.ndarray) -> str:
    shown = [f"{value:g}" for value in values[:8]]
    return ", ".join(shown) + (f" and {values.size - 8} more" if values.size > 8 else "")


def shared_voxels(a: Mask, b: Mask, *, resample: bool = False) -> tuple[Voxels, Voxels, list[str]]:
    """True voxels of two masks where both are known, on the grid of the first; and notes on parts that are left out.

    Raises
    ------
    InputError
        See :func:`same_voxels`; no common layer.
    """
    first, second, notes = same_layers(a, b)
    y, x = (same_voxels(a.positions(d), b.positions(d), d, resample) for d in ("y", "x"))
    z = a.positions("z")[first]
    positions = [p - p[0] for p in (z, a.positions("y")[y[0]], a.positions("x")[x[0]])]
    positions[1:] = [_even(p) for p in positions[1:]]
    lists, outside = [], []
    for mask, layers, rows, columns in ((a, first, y[0], x[0]), (b, second, y[1], x[1])):
        count = [0]
        lists.append(voxels(_cut(mask, layers, rows, columns, count), positions))
        outside.append(count[0] - len(lists[-1].flat))
    if max(y[2], x[2]) > PART:
        notes.append(
            f"{b.name} was resampled to the grid of {a.name} by nearest voxel, at up to {max(y[2], x[2]):.2g} of a "
            f"voxel: {len(lists[1].flat) + outside[1]} true voxels became {len(lists[1].flat)}"
        )
    elif any(outside):
        notes.append(f"true voxels outside the common frame, left out: {outside[0]} and {outside[1]}")
    return lists[0], lists[1], notes


def _cut(
    mask: Mask, layers: np.ndarray, rows: np.ndarray, columns: np.ndarray, count: list[int]
) -> Iterator[np.ndarray]:
    """Layers of a mask at given rows and columns, one at a time; ``count`` adds up true voxels of full layers."""
    whole = all(np.array_equal(at, np.arange(mask.variable.sizes[d])) for at, d in ((rows, "y"), (columns, "x")))
    for number in layers:
        layer = mask.layer(number)
        count[0] += int(np.count_nonzero(layer))
        yield layer if whole else layer[np.ix_(rows, columns)]


def _even(positions: np.ndarray) -> np.ndarray:
    """Multiples of the step where positions are evenly spaced up to rounding, so that equal grids are equal."""
    if positions.size < 2:
        return positions
    step = float(f"{(positions[-1] - positions[0]) / (positions.size - 1):.12g}")
    even = np.arange(positions.size) * step
    return even if np.allclose(even, positions, rtol=0, atol=1e-6 * abs(step)) else positions


def compare_volumes(
    a: str | Path | Mask,
    b: str | Path | Mask,
    *,
    tau: Sequence[float] = TAU,
    resample: bool = False,
    copies: int = 8,
    sample: int = 100_000,
    seed: int = 0,
    threads: int = 1,
) -> tuple[Comparison, list[str]]:
    """Agreement of the masks of two stores, and the agreement by chance, in their common layers and frame.

    Parameters
    ----------
    a, b : str, path or Mask
        Result, and truth or result of another method; see :func:`open_mask`.
    tau, copies, sample, seed, threads
        See :func:`dfxm_dask.volume.compare.compare_voxels`.
    resample : bool
        Use the nearest voxel of b for each of a if their grids differ.

    Returns
    -------
    comparison : Comparison
    notes : list of str
        On parts that were left out, resampled or not complete.

    Raises
    ------
    InputError
        See :func:`open_mask`; no common layer; different voxels without ``resample``.

    Notes
    -----
    Masks are read layer by layer, and only lists of true voxels are kept: about 100 bytes for each at the peak.
    Distances are by the real z of layers: those that are absent leave their gap.
    """
    masks = [mask if isinstance(mask, Mask) else open_mask(mask) for mask in (a, b)]
    first, second, notes = shared_voxels(*masks, resample=resample)
    found = compare_voxels(first, second, tau, copies=copies, sample=sample, seed=seed, threads=threads)
    if copies and max(found.voxels) > sample:
        notes.append(
            f"distances by chance are from {sample} random voxels, distances between the volumes from all voxels"
        )
    return found, [*masks[0].notes, *masks[1].notes, *notes]
