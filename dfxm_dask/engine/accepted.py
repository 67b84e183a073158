"""Check of the input of a reduction: a Dataset with the dims, dtype and positions of a store."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import numpy as np

from dfxm_dask.errors import InputError
from dfxm_dask.schema import COUNTS, SPACE

if TYPE_CHECKING:
    import xarray as xr

    from dfxm_dask.engine.declaration import Declaration

OTHER_NAMES = {
    "z": ("layer", "layers", "slice", "depth"),
    "y": ("row", "rows", "height"),
    "x": ("col", "cols", "column", "columns", "width"),
}
"""Common other names of the dims of space."""


def refuse_other_data(reduction: Declaration, dataset: Any) -> None:
    """Refuse an object that is not the Dataset of a scan.

    Raises
    ------
    InputError
        Another kind of object, counts that are missing but required, or other dims or dtype; the text suggests a call
        that converts the object.
    """
    import xarray as xr

    if not isinstance(dataset, xr.Dataset):
        raise InputError(
            f"{reduction.name}: input", f"is a {type(dataset).__name__}, not an xarray.Dataset", _as_dataset(dataset)
        )
    if COUNTS not in reduction.reads:
        return
    asked = f"{reduction.name}: variable 'counts'"
    if "counts" not in dataset:
        named = [str(name) for name, values in dataset.data_vars.items() if values.ndim > 2]
        remedy = f"call dataset.rename({{{named[0]!r}: 'counts'}})" if len(named) == 1 else "name the frames counts"
        raise InputError(asked, f"is not in the Dataset ({', '.join(map(str, dataset.variables)) or 'empty'})", remedy)
    counts = dataset["counts"]
    if remedy := _other_dims([str(d) for d in counts.dims], [str(n) for n in dataset.variables]):
        raise InputError(asked, f"has dims {counts.dims}, not (z, scan axes, y, x)", f"call dataset{remedy}")
    if counts.dtype.kind not in "uif" or not np.can_cast(COUNTS.dtype, counts.dtype, "safe"):
        real = "['counts'].real" if counts.dtype.kind == "c" else "['counts'].astype('float32')"
        remedy = f"call dataset.assign(counts=dataset{real})"
        raise InputError(asked, f"has dtype {counts.dtype}, which cannot represent every uint16", remedy)


def _as_dataset(given: Any) -> str:
    """Call that converts another object to a Dataset."""
    import xarray as xr

    if isinstance(given, xr.DataArray):
        return "call array.to_dataset(name='counts')"
    if isinstance(given, xr.DataTree):
        return f"pass tree['{'raw' if 'raw' in given.children else next(iter(given.children), '/')}'].to_dataset()"
    if isinstance(given, str | os.PathLike):
        return "pass dfxm_dask.open_scan(path)['raw'].to_dataset()"
    if not hasattr(given, "ndim") or not 3 <= given.ndim <= 5:
        return "pass one such as dfxm_dask.open_scan(path)['raw'].to_dataset()"
    axes = ("phi",) if given.ndim < 5 else ("phi", "chi")
    positions = ", ".join(f"'{axis}': positions" for axis in axes)
    whole = "array[None]" if given.ndim == 3 else "array"
    return f"call xarray.Dataset({{'counts': ({('z', *axes, 'y', 'x')}, {whole})}}, {{{positions}}})"


def _other_dims(dims: list[str], taken: list[str]) -> str:
    """Calls that bring dims into the order of a store; empty if they are in this order."""
    names: dict[str, str] = {}
    for wanted, others in OTHER_NAMES.items():
        found = [d for d in dims if d.lower() in (wanted, *others)]
        if wanted not in dims and found:
            names[found[0]] = wanted
    rest = [d for d in dims if d not in (*SPACE, *names)]
    if not {"y", "x"} & {*dims, *names.values()} and len(rest) > 2 and rest == dims[-len(rest) :]:
        names |= dict(zip(rest[-2:], ("y", "x"), strict=True))  # frames are images, whatever the names of their dims
    names = {old: new for old, new in names.items() if new not in taken}
    now = [names.get(d, d) for d in dims]
    lacking = [d for d in SPACE if d not in now]
    ordered = ["z", *(d for d in now if d not in SPACE), "y", "x"]
    calls = f".rename({names})" if names else ""
    calls += "".join(f".expand_dims({d!r})" for d in reversed(lacking))
    if [*lacking, *now] != ordered:
        calls += f".transpose({', '.join(map(repr, ordered))}, ...)"
    return calls


def scan_positions(reduction: Declaration, dataset: xr.Dataset, axis: str) -> np.ndarray:
    """Positions along a scan axis, float64.

    Raises
    ------
    InputError
        Positions are missing, not numeric, not finite, or not monotonic; the text suggests a call that corrects them.
    """
    asked = f"{reduction.name}: coordinate {axis!r}"
    assign = f"call dataset.assign_coords({axis}=({axis!r}, positions, {{'units': 'degree'}}))"
    if axis not in dataset.coords:
        raise InputError(asked, "is missing", assign)
    values = np.asarray(dataset[axis].values)
    if values.dtype.kind not in "uif":
        raise InputError(asked, f"has dtype {values.dtype}, which is not numeric", assign)
    positions = values.astype(float)
    if positions.ndim != 1 or not np.isfinite(positions).all():
        raise InputError(asked, "is not finite everywhere", f"call dataset.isel({axis}=dataset[{axis!r}].notnull())")
    steps = np.diff(positions)
    if (steps == 0).any():
        raise InputError(asked, "contains a position twice", f"call dataset.drop_duplicates({axis!r})")
    if (steps > 0).any() and (steps < 0).any():
        raise InputError(asked, "is not monotonic", f"call dataset.sortby({axis!r})")
    return positions
