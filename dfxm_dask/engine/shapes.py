"""A declaration applied to a scan: scan axes, outputs, lengths of dims, and memory of a block.

This module imports neither Dask nor xarray, since plans and workers use it too.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from dfxm_dask.engine.declaration import Declaration
from dfxm_dask.schema import AXES, COM, SCAN, SPACE, Dim, Variable, expand, rocking_axis

if TYPE_CHECKING:
    import xarray as xr

BASELINE_BYTES = 280 * 2**20  # an idle worker (200 MiB) with the rooms, which the first unit loads (measured)
ENCODED_BYTES = 48 * 2**20  # compressed bytes in flight, and the row of chunks they come from
UNKNOWN = 3  # length in a plan of a dim whose length follows from the data


def scan_axes(dataset: xr.Dataset) -> dict[str, str]:
    """Scan axes of a Dataset in storage order, each with its unit.

    They are the dims of ``counts`` other than z, y, x; without counts, the coordinates marked ``scan_axis``, or the
    axes of the variables ``com_...``.
    """
    if "counts" in dataset:
        names = [str(d) for d in dataset["counts"].dims if d not in SPACE]
    else:
        marked = {str(n): c.attrs["scan_axis"] for n, c in dataset.coords.items() if "scan_axis" in c.attrs}
        names = sorted(marked, key=lambda n: marked[n])
        if not names:
            names = [
                m.group(1)
                for n in map(str, dataset.data_vars)
                if (m := re.fullmatch(COM.name.format(axis=r"(\w+?)(?<!_error)(?<!_covariance)"), n))
            ]
    units = {}
    for name in names:
        source = dataset[name] if name in dataset.coords else dataset.get(COM.name.format(axis=name))
        units[name] = str(source.attrs.get("units", "degree")) if source is not None else "degree"
    return units


def expanded_writes(
    reduction: Declaration,
    axes: Mapping[str, str],
    parameters: Mapping[str, Any],
    sizes: Mapping[Any, int] | None = None,
) -> list[Variable]:
    """Outputs of the reduction for a scan with these axes; a parameter ``axis`` restricts its templates to one axis.

    The lengths of the axes identify the rocking axis, whose unit some outputs have.
    """
    chosen = parameters.get("axis")
    own = {str(chosen): axes[str(chosen)]} if chosen in axes else dict(axes)
    rocking = rocking_axis(axes, sizes or {}, None if chosen is None else str(chosen))
    result: list[Variable] = []
    for variable in reduction.writes:
        result += expand(variable, own if variable.template else axes, rocking)
    return result


def lengths(
    reduction: Declaration, axes: Mapping[str, str], parameters: Mapping[str, Any], sizes: Mapping[Any, int]
) -> dict[str, int | None]:
    """Length of every dim of the outputs; None if it follows from the data, such as the number of objects.

    Parameters
    ----------
    sizes : mapping
        Lengths of the dims of space, of the scan axes, and of the dims of the inputs.
    """
    given = {*SPACE, *axes, *(d for v in (*reduction.reads, *reduction.may_read) for d in v.dims)}
    found: dict[str, int | None] = {}
    for d in (d for declared in reduction.writes for v in expand(declared, axes) for d in v.dims):
        known = d.known(sizes, parameters) if isinstance(d, Dim) else None
        found[d] = sizes.get(d, known) if d in given else known
    return found


def check_axes(reduction: Declaration, axes: Mapping[str, str], sizes: Mapping[Any, int]) -> str | None:
    """Why the reduction cannot run on a scan with these axes, or None."""
    if len(axes) < reduction.min_axes:
        wanted = "a scan axis" if reduction.min_axes == 1 else f"{reduction.min_axes} scan axes"
        maps = not any(v.template or SCAN in v.dims or v.name == AXES.name for v in reduction.reads)
        hint = " (a reduction that reads maps alone declares min_axes=0)" if maps else ""
        return f"needs {wanted}, the scan has {', '.join(axes) or 'none'}{hint}"
    if max((sizes.get(a, 1) for a in axes), default=1) < reduction.min_positions:
        has = ", ".join(f"{a}: {sizes.get(a, 1)}" for a in axes) or "a single frame"
        return f"needs a scan axis of at least {reduction.min_positions} positions, the scan has {has}"
    return None


def projected_memory(
    reductions: Sequence[Declaration],
    axes: Mapping[str, str],
    sizes: Mapping[str, int],
    parameters: Sequence[Mapping[str, Any]],
    edge: int,
    itemsize: int,
    whole: bool,
    within: Mapping[str, int] | None = None,
) -> int:
    """Peak memory of one unit in bytes: baseline, one tile of counts, encoded chunks, maps that are read and written.

    Parameters
    ----------
    sizes : mapping
        Length of every dim in one unit, without the neighbours that a halo or a border adds.
    edge, itemsize : int
        Inner chunk edge in pixels, bytes per count.
    whole : bool
        The unit reads the maps of its steps whole, instead of tiles of counts.
    within : mapping, optional
        Numbers of layers z and rows y of the scan, which limit the neighbours.
    """
    most = within or {}
    frames = prod(sizes[a] for a in axes)
    area = sizes["y"] * sizes["x"]
    maps, tiles = 0, 0
    made: set[str] = set()
    read: dict[str, int] = {}
    for reduction, chosen in zip(reductions, parameters, strict=True):
        known = {**sizes, **lengths(reduction, axes, chosen, sizes)}
        for variable in expanded_writes(reduction, axes, chosen):
            others = [d for d in variable.dims if d not in SPACE]
            # A tile overlaps few tiles of another size; dims of unknown length count alike.
            counted = (UNKNOWN if isinstance(d, Dim) and d.of else known.get(d) or UNKNOWN for d in others)
            cell = np.dtype(variable.dtype).itemsize * prod(counted)
            if variable.stored and "y" in variable.dims:
                maps += area * cell
            else:
                tiles += edge * edge * cell
        layers, high = 2 * reduction.halo + 1, sizes["y"] + 2 * reduction.border
        rows = min(layers, most.get("z", layers)) * min(high, most.get("y", high)) * sizes["x"]
        for variable in (v for declared in reduction.reads if whole for v in expand(declared, axes)):
            if variable.name == "counts":
                maps += rows * frames * itemsize
            elif "y" in variable.dims and variable.name not in made:
                more = [d for d in variable.dims if d not in SPACE]
                known |= {d: known.get(d) or (d.known(sizes, chosen) if isinstance(d, Dim) else None) for d in more}
                read[variable.name] = rows * np.dtype(variable.dtype).itemsize * prod(known[d] or UNKNOWN for d in more)
        made |= {v.name for v in expanded_writes(reduction, axes, chosen)}
    maps += sum(read.values())
    return BASELINE_BYTES + (maps if whole else maps + tiles + frames * edge * edge * itemsize + ENCODED_BYTES)
