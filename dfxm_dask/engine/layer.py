"""A declared kernel applied to one layer, from arrays by name to arrays by name.

Lazy graphs and units of a run both call :func:`run_layer`, so that both treat neighbouring layers, positions of frames,
masked pixels and parameters in the same way.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from math import prod
from typing import Any

import numpy as np

from dfxm_dask.engine.declaration import Arrays, Declaration
from dfxm_dask.engine.shapes import lengths
from dfxm_dask.errors import InputError
from dfxm_dask.schema import (
    AXES,
    FEWEST_MASKED,
    MASKED,
    POSITION,
    POSITION_TOLERANCE,
    SATURATION,
    Variable,
    expand,
    full_count,
)


def beside(reduction: Declaration) -> tuple[Variable, ...]:
    """Optional variables of the raw data that change the arguments of a kernel without being declared inputs."""
    names = {v.name for v in reduction.reads} if not reduction.halo and "z" not in reduction.over else set()
    positions = (POSITION,) if AXES.name in names and reduction.positions != "unused" else ()
    return (*positions, MASKED) if "counts" in names else positions


def kernel_arguments(
    reduction: Declaration, axes: Mapping[str, str], fetch: Mapping[str, Any], positions: Mapping[str, np.ndarray]
) -> tuple[list[Any], dict[str, Any]]:
    """Positional and keyword arguments of a kernel, from arrays by name. Templates and scan axes become dicts."""
    args: list[Any] = []
    for variable in reduction.reads:
        if variable.name == AXES.name:
            own = positions
            if reduction.by_frame:
                own = {**positions, **frame_positions(axes, fetch)}
            elif reduction.positions == "own":
                own = layer_positions(axes, fetch, positions)
            args.append({a: own[a] for a in axes})
        elif variable.template:
            names = [v.name for v in expand(variable, axes)]
            args.append(dict(zip(axes, (fetch[n] for n in names), strict=True)))
        else:
            args.append(fetch[variable.name])
    keywords: dict[str, Any] = {}
    for variable in reduction.may_read:
        if variable is POSITION:
            keywords["position"] = frame_positions(axes, fetch) or None
        elif variable.template:
            keys = list(combinations(axes, 2)) if "{other}" in variable.name else list(axes)
            there = {k: fetch[v.name] for k, v in zip(keys, expand(variable, axes), strict=True) if v.name in fetch}
            keywords[variable.argument] = there or None
        else:
            keywords[variable.name] = fetch.get(variable.name)
    return args, keywords


def run_layer(
    reduction: Declaration,
    axes: Mapping[str, str],
    inputs: Mapping[str, tuple[Sequence[str], np.ndarray]],
    positions: Mapping[str, np.ndarray],
    parameters: Mapping[str, Any],
    wanted: Sequence[Variable],
    *,
    at: int = 0,
    where: str = "",
    start: int = 0,
    rows: slice | None = None,
) -> Arrays:
    """Results of a reduction for one layer, or for some frames of the layer.

    Parameters
    ----------
    inputs : mapping of str to (dims, array)
        In storage order. Arrays with the dim z contain several layers.
    positions, parameters : mappings
        See :func:`run_kernel`.
    wanted : sequence of Variable
        Outputs of the reduction for this scan.
    at : int
        Index of the layer in the inputs; the adjacent layers are its neighbours.
    where : str
        Description of the layer for errors.
    start : int
        Index along the first scan axis at which the inputs of a reduction of frames begin.
    rows : slice, optional
        Rows of the inputs along y that are computed; the others are the border of a reduction with one. By default all.

    Returns
    -------
    dict of str to array
        The outputs in storage order, without z unless the reduction takes all layers; of a gather, its summary.

    Raises
    ------
    InputError
        See :func:`check_outputs`.
    """
    low = max(0, at - reduction.halo)
    whole = "z" in reduction.over
    fetch: dict[str, np.ndarray] = {}
    sizes: dict[str, int] = {}
    for name, (dims, values) in inputs.items():
        if "z" in dims and not whole:
            layers = slice(low, at + reduction.halo + 1) if reduction.halo else at
            values = values[(slice(None),) * list(dims).index("z") + (layers,)]
            dims = dims if reduction.halo else [d for d in dims if d != "z"]
        fetch[name] = scan_last(np.asarray(values), dims, axes)
        sizes |= zip(dims, values.shape, strict=True)
    extra: dict[str, Any] = {"middle": at - low} if reduction.halo else {}
    if reduction.border:
        rows = slice(*(rows or slice(None)).indices(sizes["y"])[:2])
        sizes["y"] = rows.stop - rows.start
        extra["inner"] = rows
    if reduction.by_frame:
        positions, extra = _as_frames(axes, inputs, fetch, positions, sizes, start)
    made = run_kernel(reduction, axes, fetch, positions, parameters, **extra)
    if reduction.combine is not None:
        return made
    if reduction.by_frame and len(axes) > 1:
        shape = tuple(sizes[a] for a in axes)
        apart = {v.name for v in wanted if set(axes) <= set(v.dims)}
        made = {n: v.reshape(*v.shape[:-1], *shape) if n in apart else v for n, v in made.items()}
    dims_of = {v.name: [d for d in v.dims if whole or d != "z"] for v in wanted}
    check_outputs(reduction, made, wanted)
    known = lengths(reduction, axes, parameters, sizes)
    for name, dims in dims_of.items():
        _check_shape(name + where, made[name].shape, [(d, known[d]) for d in kernel_order(dims, axes)])
    return {name: storage_order(made[name], dims, axes) for name, dims in dims_of.items()}


def _as_frames(
    axes: Mapping[str, str],
    inputs: Mapping[str, tuple[Sequence[str], np.ndarray]],
    fetch: dict[str, np.ndarray],
    positions: Mapping[str, np.ndarray],
    sizes: Mapping[str, int],
    start: int,
) -> tuple[dict[str, np.ndarray], dict[str, int]]:
    """Positions of every frame, and the number of the first frame; joins the scan axes of ``fetch`` to one."""
    shape = tuple(sizes[a] for a in axes)
    for name, (dims, _) in inputs.items():
        if set(axes) <= set(dims):
            fetch[name] = fetch[name].reshape(*fetch[name].shape[: -len(shape)], -1)
    first = next(iter(axes))
    known = {a: positions[a][start : start + sizes[a]] if a == first else positions[a] for a in axes if a in positions}
    grids = np.meshgrid(*known.values(), indexing="ij")  # all axes, or none if the kernel reads no positions
    of_frame = {a: grid.ravel() for a, grid in zip(known, grids, strict=True)}
    return of_frame, {"first": start * prod(shape[1:])}


def run_kernel(
    reduction: Declaration,
    axes: Mapping[str, str],
    fetch: Mapping[str, Any],
    positions: Mapping[str, np.ndarray],
    parameters: Mapping[str, Any],
    **extra: Any,
) -> Arrays:
    """Results of the kernel for one layer.

    Parameters
    ----------
    fetch : mapping of str to array
        Inputs by name, without z, scan axes last; with ``position_{axis}`` and ``masked`` of the layer if known.
    positions : mapping of str to array (position,)
        Coordinates of the scan axes.
    parameters : mapping
        All parameters. A parameter with the name of an input replaces it unless it is ``None``.
    """
    counts = np.asarray(fetch["counts"]) if "counts" in fetch else None
    masked = counts is not None and counts.dtype.kind in "iu" and bool(np.any(fetch.get(MASKED.name, 0)))
    if counts is not None and masked:
        full = np.float32(full_count(None, counts.dtype))  # which the dtype of floats does not give
        fetch = {SATURATION.name: full, **fetch, "counts": without_masked(counts, by_frame=reduction.by_frame)}
    args, keywords = kernel_arguments(reduction, axes, fetch, positions)
    keywords |= {k: v for k, v in parameters.items() if v is not None or k not in keywords}
    made = reduction.kernel(*args, **keywords, **extra)
    whole = any(v.name == "counts" and v.dtype[0] in "iu" for v in reduction.writes)
    if counts is not None and masked and whole:
        made = {**made, "counts": _with_masked(made["counts"], counts.dtype)}
    return made


def layer_positions(
    axes: Mapping[str, str], fetch: Mapping[str, Any], positions: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """Positions of one layer along every scan axis: (position,), the mean over the frames of each grid position."""
    known = frame_positions(axes, fetch)
    order = list(axes)
    return {
        a: known[a].mean(axis=tuple(k for k in range(len(order)) if order[k] != a)) if a in known else positions[a]
        for a in axes
    }


def frame_positions(axes: Mapping[str, str], fetch: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Positions of every frame of one layer along the axes for which they are known: (scan axes), float64.

    Raises
    ------
    InputError
        Some frames of the layer have a position and others do not. A layer without any position is absent from the
        scan.
    """
    names = {a: POSITION.name.format(axis=a) for a in axes}
    found = {a: np.asarray(fetch[name], np.float64) for a, name in names.items() if name in fetch}
    for a, values in found.items():
        lacking = int((~np.isfinite(values)).sum())
        if 0 < lacking < values.size:
            raise InputError(
                f"variable {names[a]!r}",
                f"is not finite for {lacking} of the {values.size} frames of a layer",
                f"give all of them a position, or drop {names[a]}",
            )
    return {a: values for a, values in found.items() if np.isfinite(values).all()}


def position_spread(frames: np.ndarray, k: int, coordinate: np.ndarray) -> float:
    """Largest distance, in steps, between frames that share a position along scan axis ``k``.

    Parameters
    ----------
    frames : array (…, scan axes)
        Positions of the frames of one layer or of several; NaN for absent frames.
    k : int
        Axis of ``frames``.
    coordinate : array (position,)

    Examples
    --------
    >>> position_spread(np.array([[0.0, 1.0], [0.5, 1.0]]), 1, np.array([0.25, 1.0]))
    0.6666666666666666
    """
    each = np.moveaxis(frames, k, 0).reshape(coordinate.size, -1)
    each = each[:, np.isfinite(each).all(axis=0)]
    step = float(np.median(np.abs(np.diff(coordinate)))) if coordinate.size > 1 else 0.0
    apart = float(np.ptp(each, axis=1).max()) if each.size else 0.0
    return apart / step if step else 0.0


def compares_frames(reduction: Declaration) -> bool:
    """Whether a reduction treats frames of one grid position as measured at the same position."""
    names = {v.name for v in reduction.reads}
    together = not reduction.by_frame and POSITION not in reduction.may_read and reduction.positions != "unused"
    return together and {"counts", AXES.name} <= names


def frames_apart(
    axes: Sequence[str],
    frames: Mapping[str, np.ndarray],
    positions: Mapping[str, np.ndarray],
    reductions: Sequence[Declaration],
) -> tuple[str, ...]:
    """Warnings that reductions treat frames at different positions as measured at the same position.

    Parameters
    ----------
    axes : names of the scan axes, in storage order
    frames : mapping of str to array (z, scan axes)
        Known positions of frames by axis; NaN for absent layers.
    positions : mapping of str to array (position,)
        Coordinates of the scan axes.
    reductions : sequence of Declaration

    Returns
    -------
    tuple of str
        A sentence for each axis and kind of reduction to which the warning applies.
    """
    told = []
    for axis, values in frames.items():
        k = list(axes).index(axis)
        within = max((position_spread(layer, k, positions[axis]) for layer in values), default=0.0)
        every = position_spread(values, k + 1, positions[axis])
        for kind, apart, where in (("own", within, "of one layer"), ("common", every, "of all layers")):
            names = [r.name for r in reductions if r.positions == kind and compares_frames(r)]
            if names and apart > POSITION_TOLERANCE:
                told.append(
                    f"frames {where} at one grid position of {axis} differ by up to {apart:.2g} steps: "
                    f"{', '.join(names)} {'uses' if len(names) == 1 else 'use'} their mean position for all of them"
                )
    return tuple(told)


def without_masked(counts: np.ndarray, *, by_frame: bool = False) -> np.ndarray:
    """Counts as floats, with NaN for voxels that the detector marks by the largest value of the dtype.

    Parameters
    ----------
    counts : array (y, x, scan axes), integers
    by_frame : bool
        The array contains some frames only, which do not separate masked from saturated pixels: both are NaN.

    Returns
    -------
    array (y, x, scan axes), float32, or float64 for 32-bit counts
        In the memory order of ``counts``. 16-bit counts also reach the largest value by saturation; a pixel of these is
        masked only if all its frames have this value.

    Examples
    --------
    >>> without_masked(np.array([[[65535, 7, 8], [65535, 65535, 65535]]], np.uint16)).tolist()
    [[[65535.0, 7.0, 8.0], [nan, nan, nan]]]
    """
    top, short = np.iinfo(counts.dtype).max, counts.dtype.itemsize < 4
    marked = counts == top
    if short and not by_frame:
        marked &= counts[0, 0].size >= FEWEST_MASKED
        marked = np.broadcast_to(marked.all(axis=tuple(range(2, counts.ndim)), keepdims=True), counts.shape)
    values = counts.astype(np.float32 if short else np.float64)
    values[marked] = np.nan
    return values


def _with_masked(values: np.ndarray, dtype: np.dtype[Any]) -> np.ndarray:
    """Inverse of :func:`without_masked`."""
    return np.where(np.isnan(values), np.iinfo(dtype).max, values).astype(dtype)


def kernel_order(dims: Sequence[str], axes: Mapping[str, str]) -> list[str]:
    """Dims in the order of kernels: scan axes after all others."""
    return [d for d in dims if d not in axes] + [d for d in dims if d in axes]


def scan_last(values: np.ndarray, dims: Sequence[str], axes: Mapping[str, str]) -> np.ndarray:
    """View of an array in storage order with dims in the order of kernels."""
    return values.transpose([list(dims).index(d) for d in kernel_order(dims, axes)])


def storage_order(values: np.ndarray, dims: Sequence[str], axes: Mapping[str, str]) -> np.ndarray:
    """Inverse of :func:`scan_last`: view of the result of a kernel with dims in storage order."""
    order = kernel_order(dims, axes)
    return values.transpose([order.index(d) for d in dims])


def check_outputs(reduction: Declaration, outputs: Arrays, wanted: Sequence[Variable]) -> None:
    """Refuse a kernel whose results differ from its declaration.

    Raises
    ------
    InputError
        Names or dtypes differ.
    """
    names = [v.name for v in wanted]
    if sorted(outputs) != sorted(names):
        raise InputError(f"kernel {reduction.name}", f"returned {sorted(outputs)}", f"declared are {sorted(names)}")
    for variable in wanted:
        found = np.asarray(outputs[variable.name]).dtype
        if variable.stored and found != np.dtype(variable.dtype):
            raise InputError(
                f"kernel {reduction.name}: {variable.name}", f"is {found}", f"declared is {variable.dtype}"
            )


def _check_shape(asked: str, shape: tuple[int, ...], wanted: Sequence[tuple[str, int | None]]) -> None:
    if len(shape) != len(wanted) or any(n not in (None, m) for (_, n), m in zip(wanted, shape, strict=True)):
        right = f"({', '.join('any' if n is None else str(n) for _, n in wanted)})"
        raise InputError(asked, f"has shape {shape}", f"return {right} for dims {tuple(str(d) for d, _ in wanted)}")
