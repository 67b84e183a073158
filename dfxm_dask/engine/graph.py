"""From a declaration and a Dataset to a lazy Dataset: the only place that builds Dask graphs.

One task per block runs the kernel and holds all its outputs; each output then picks its part. Blocks follow the
chunks of the input along z, y and x; dims that a reduction needs whole are merged into one chunk, which is the only
rechunking that happens.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from math import ceil
from typing import Any

import dask
import dask.array as da
import numpy as np
import xarray as xr
from dask.array.overlap import overlap
from dask.highlevelgraph import HighLevelGraph

from dfxm_dask import __version__
from dfxm_dask.engine.accepted import refuse_other_data, scan_positions
from dfxm_dask.engine.declaration import Arrays, Declaration
from dfxm_dask.engine.layer import (
    beside,
    check_outputs,
    compares_frames,
    frames_apart,
    run_kernel,
    scan_last,
    storage_order,
)
from dfxm_dask.engine.shapes import FIXED, check_axes, components, expanded_writes, open_dims, scan_axes
from dfxm_dask.errors import FramesApartWarning, InputError
from dfxm_dask.schema import (
    AXES,
    COUNTS,
    PATCH,
    SCALED,
    SPACE,
    Variable,
    check,
    expand,
    length_fault,
    scale_attrs,
)

TREE = 8  # summaries merged by one task


def _layer_block(
    reduction: Declaration,
    axes: Mapping[str, str],
    parameters: Mapping[str, Any],
    names: Sequence[str],
    dims: Sequence[tuple[str, ...]],
    positions: Mapping[str, np.ndarray],
    wanted: Sequence[Variable],
    own: np.ndarray | None,
    seen: np.ndarray | None,
    *blocks: np.ndarray,
) -> Arrays:
    """The kernel on every layer of a block. With a halo, ``seen`` are the layers at hand and ``own`` those to do."""
    halo = reduction.halo
    count = (
        next(b.shape[d.index("z")] for b, d in zip(blocks, dims, strict=True) if "z" in d) if own is None else len(own)
    )
    results: list[Arrays] = []
    for k in range(count):
        fetch, extra = {}, {}
        for name, dim, block in zip(names, dims, blocks, strict=True):
            if "z" not in dim:
                fetch[name] = scan_last(block, dim, axes)
                continue
            if halo and own is not None and seen is not None:
                at = int(np.flatnonzero(seen == own[k])[0])
                low = max(0, at - halo)
                fetch[name] = scan_last(block[low : at + halo + 1], dim, axes)
                extra = {"middle": at - low}
            elif "z" in reduction.over:
                fetch[name] = scan_last(block, dim, axes)
            else:
                layer = np.asarray(block[(slice(None),) * dim.index("z") + (k,)])
                fetch[name] = scan_last(layer, [d for d in dim if d != "z"], axes)
        made = run_kernel(reduction, axes, fetch, positions, parameters, **extra)
        if reduction.combine is None:
            check_outputs(reduction, made, wanted)
            made = {v.name: storage_order(made[v.name], [d for d in v.dims if d != "z"], axes) for v in wanted}
        results.append(made)
        if "z" in reduction.over:
            return results[0]
    if reduction.combine is not None:
        merged = results[0]
        for summary in results[1:]:
            merged = reduction.combine(merged, summary)
        return merged
    return {n: np.stack([r[n] for r in results]) for n in results[0]}


def _pick(base: Any, name: str) -> np.ndarray:
    while isinstance(base, list):  # along dims that the output has not: the same in all their blocks
        base = base[0]
    return np.asarray(base[name])


def lazy(reduction: Declaration, dataset: xr.Dataset, parameters: Mapping[str, Any]) -> xr.Dataset:
    """A reduction of a Dataset as a lazy Dataset.

    Parameters
    ----------
    reduction : Declaration
    dataset : xarray.Dataset
        With the variables that the reduction reads, dims in storage order (z, scan axes, y, x); Dask or numpy.
    parameters : mapping
        Of the reduction.

    Returns
    -------
    xarray.Dataset
        Dask-backed, dims, dtype and units as declared; nothing is computed.

    Raises
    ------
    InputError
        A variable is missing or of wrong dims, dtype or units; a parameter is wrong; too few scan axes.
    """
    attrs: dict[str, Any] = {}
    if reduction.settle is not None:
        shape = tuple(dataset.sizes[a] for a in scan_axes(dataset))
        seen = {v.name: dataset[v.name].data for v in reduction.settled_by if v.name in dataset}
        settled, told = reduction.settle(reduction.validate(parameters), seen, shape)
        if settled is None:
            names = [v.name for v in expanded_writes(reduction, scan_axes(dataset), {})]
            kept = dataset[[name for name in names if name in dataset]]
            return kept.assign_attrs({reduction.name: told or "nothing to do: variables are as they were"})
        parameters = settled
        made_by = {"reduction": reduction.name, "version": __version__, "parameters": settled}
        attrs = {"provenance": {reduction.name: made_by}} | ({reduction.name: told} if told else {})
    base, wanted, axes, chosen, index, block_dims = _blocks(reduction, dataset, parameters)
    if reduction.combine is None:
        made = _picked(reduction, base, wanted, dataset, axes, index, block_dims).assign_attrs(attrs)
        scale = _scale(reduction, dataset, chosen)
        for name in made.data_vars:
            made[name].attrs |= scale
        return made
    if lengths := open_dims(reduction, wanted, axes):
        raise InputError(
            f"{reduction.name} as a lazy Dataset",
            f"only the data tell the length of {', '.join(lengths)}",
            f"run it on a store, or compute it at once: {reduction.name}.gather(dataset)",
        )
    return _gathered(reduction, base, wanted, dataset, axes, chosen)


def _scale(reduction: Declaration, dataset: xr.Dataset, chosen: Mapping[str, Any]) -> dict[str, str]:
    """Attributes by which results name the scale of the counts that they are made of, as those of a run do."""
    if reduction.name == "normalise":
        beam = dataset.get(chosen["by"])
        return scale_attrs(chosen, str(beam.attrs.get("counter", "")) if beam is not None else "")
    if COUNTS not in reduction.reads:
        return {}
    return {SCALED: dataset["counts"].attrs[SCALED]} if SCALED in dataset["counts"].attrs else {}


def gather(reduction: Declaration, dataset: xr.Dataset, parameters: Mapping[str, Any]) -> xr.Dataset:
    """The result of a gather, computed at once by the scheduler that Dask is set to; its dims may have any length.

    Raises
    ------
    InputError
        As :func:`lazy`; or the reduction is no gather.
    """
    if reduction.combine is None:
        raise InputError(f"{reduction.name}.gather", "is no gather: it makes maps", f"call {reduction.name}(dataset)")
    base, wanted, *_ = _blocks(reduction, dataset, parameters)
    layer, last = _merged(reduction, base)
    graph = HighLevelGraph.from_collections(f"{base.name}-gathered", layer, dependencies=[base])
    result = dask.base.get_scheduler(collections=[base])(graph.to_dict(), last)
    variables = {v.name: (v.dims, np.asarray(result[v.name], v.dtype), v.attrs) for v in wanted}
    return xr.Dataset(variables, coords=_coordinates(dataset, wanted))


def _blocks(
    reduction: Declaration, dataset: xr.Dataset, parameters: Mapping[str, Any]
) -> tuple[da.Array, list[Variable], dict[str, str], dict[str, Any], dict[str, int], list[str]]:
    """One task for each block that runs the kernel: what both kinds of reduction begin with."""
    chosen = reduction.validate(parameters)
    refuse_other_data(reduction, dataset)
    axes = scan_axes(dataset)
    if reason := check_axes(reduction, axes, dataset.sizes):
        raise InputError(reduction.name, reason, "use a scan that has them")
    names, arrays, positions = _inputs(reduction, dataset, axes)
    if compares_frames(reduction):
        known = {a: np.asarray(x) for a in axes for n, x in zip(names, arrays, strict=True) if n == f"position_{a}"}
        for told in frames_apart(list(axes), known, positions, [reduction]):
            warnings.warn(told, FramesApartWarning, stacklevel=5)
    grid = _block_grid(reduction, arrays)
    arrays = [_aligned(a, grid) for a in arrays]
    dims = [tuple(map(str, a.dims)) for a in arrays]
    wanted = expanded_writes(reduction, axes, chosen, dataset.sizes)
    index = {d: k for k, d in enumerate(dict.fromkeys(d for dim in dims for d in dim))}
    block_dims = [d for d in SPACE if d in index]
    own = seen = None
    data = [a.data for a in arrays]
    if reduction.halo:
        layers = da.from_array(np.arange(sum(grid["z"])), chunks=(grid["z"],))
        own, seen = layers, overlap(layers, {0: reduction.halo}, "none", allow_rechunk=False)
        data = [
            overlap(x, {d.index("z"): reduction.halo}, "none", allow_rechunk=False) if "z" in d else x
            for x, d in zip(data, dims, strict=True)
        ]
    pairs: list[Any] = []
    for x, dim in zip(data, dims, strict=True):
        pairs += [x, tuple(index[d] for d in dim)]
    marks: list[Any] = [own, (index["z"],), seen, (index["z"],)] if own is not None else [None, None, None, None]
    base = da.blockwise(
        _layer_block,
        tuple(index[d] for d in block_dims),
        reduction,
        None,
        axes,
        None,
        chosen,
        None,
        names,
        None,
        dims,
        None,
        positions,
        None,
        wanted,
        None,
        *marks,
        *pairs,
        concatenate=True,
        align_arrays=False,
        name=f"{reduction.name}-"
        + dask.base.tokenize(
            reduction.name, chosen, [x.name for x in data], {k: v.tobytes() for k, v in positions.items()}
        ),
        dtype=object,
        meta=np.empty((0,) * len(block_dims), object),
    )
    return base, wanted, axes, chosen, index, block_dims


def _inputs(
    reduction: Declaration, dataset: xr.Dataset, axes: Mapping[str, str]
) -> tuple[list[str], list[xr.DataArray], dict[str, np.ndarray]]:
    """Arrays that the kernel reads, checked, by name; and the positions along the scan axes."""
    names: list[str] = []
    arrays: list[xr.DataArray] = []
    positions: dict[str, np.ndarray] = {}
    for declared in (*reduction.reads, *reduction.may_read, *beside(reduction)):
        if declared.name == AXES.name:
            for a in axes:
                positions[a] = scan_positions(reduction, dataset, a)
            continue
        for variable in expand(declared, axes):
            if variable.name in names:
                continue
            if variable.name not in dataset:
                if declared not in reduction.reads:
                    continue
                raise InputError(
                    f"{reduction.name}: variable {variable.name!r}",
                    f"is not in the Dataset ({', '.join(map(str, dataset.variables))})",
                    f"compute it first: it has dims {variable.dims}",
                )
            array = dataset[variable.name]
            if fault := length_fault(variable, array.attrs.get("units")):
                name = variable.name
                raise InputError(
                    reduction.name,
                    fault,
                    f"give the pixel size when the scan is made, or assign positions in um: "
                    f"dataset.assign_coords({name}=({name!r}, positions, {{'units': 'um'}}))",
                )
            check(
                variable,
                tuple(map(str, array.dims)),
                array.dtype,
                array.attrs.get("units"),
                asked=f"{reduction.name}: variable {variable.name!r}",
            )
            names.append(variable.name)
            arrays.append(array)
    return names, arrays, positions


def _block_grid(reduction: Declaration, arrays: Sequence[xr.DataArray]) -> dict[str, tuple[int, ...]]:
    """Chunks along every dim: those of the first chunked array that has it; merged where the reduction asks."""
    grid: dict[str, tuple[int, ...]] = {}
    for array in arrays:
        known = array.chunksizes
        for dim, size in zip(map(str, array.dims), array.shape, strict=True):
            if dim not in grid or (len(grid[dim]) == 1 and dim in known):
                grid[dim] = tuple(known[dim]) if dim in known else (size,)
    whole = set(reduction.over)
    for dim, chunks in grid.items():
        if dim in whole or dim not in SPACE:
            grid[dim] = (sum(chunks),)
        elif dim in ("y", "x") and reduction.patch:
            step = ceil(max(chunks) / reduction.patch) * reduction.patch
            size = sum(chunks)
            grid[dim] = tuple(min(step, size - k) for k in range(0, size, step)) or (0,)
        elif dim == "z" and reduction.halo and min(chunks) < reduction.halo:
            size = sum(chunks)
            count = max(1, size // max(reduction.halo, max(chunks)))
            grid[dim] = tuple(size // count + (k < size % count) for k in range(count))
    return grid


def _aligned(array: xr.DataArray, grid: Mapping[str, tuple[int, ...]]) -> xr.DataArray:
    return array.variable.to_base_variable().chunk({d: grid[str(d)] for d in array.dims})  # type: ignore[return-value]


def _picked(
    reduction: Declaration,
    base: da.Array,
    wanted: Sequence[Variable],
    dataset: xr.Dataset,
    axes: Mapping[str, str],
    index: dict[str, int],
    block_dims: list[str],
) -> xr.Dataset:
    """One lazy array per output, each a part of the shared block task."""
    position = {d: index[d] for d in block_dims}
    if reduction.patch:
        position |= {f"patch_{d}": index[d] for d in ("y", "x")}
    variables = {}
    for variable in wanted:
        new = {d: _extra_size(d, dataset, axes) for d in variable.dims if d not in position}
        labels = {d: position.get(d, 1000 + k) for k, d in enumerate(variable.dims)}
        adjust = {}
        if reduction.patch:
            patch = reduction.patch
            adjust = {labels[d]: (lambda n, p=patch: ceil(n / p)) for d in variable.dims if d.startswith("patch_")}
        dtype = np.dtype(variable.dtype)
        if not variable.stored and variable.name in dataset and dataset[variable.name].dtype != dtype:
            dtype = np.dtype(variable.dtype) if dtype.kind == "f" else dataset[variable.name].dtype
        data = da.blockwise(
            _pick,
            tuple(labels[d] for d in variable.dims),
            base,
            tuple(index[d] for d in block_dims),
            variable.name,
            None,
            new_axes={labels[d]: n for d, n in new.items()},
            adjust_chunks=adjust or None,
            concatenate=None,
            dtype=dtype,
            meta=np.empty((0,) * len(variable.dims), dtype),
        )
        variables[variable.name] = (variable.dims, data, variable.attrs)
    return xr.Dataset(variables, coords=_coordinates(dataset, wanted))


def _extra_size(dim: str, dataset: xr.Dataset, axes: Mapping[str, str]) -> int:
    if dim in FIXED:
        return FIXED[dim]
    if dim.startswith("patch_") and dim not in dataset.sizes:
        return ceil(dataset.sizes[dim[-1]] / PATCH)
    return int(dataset.sizes[dim])


def _merged(reduction: Declaration, base: da.Array) -> tuple[dict[Any, Any], str]:
    """Tasks that merge the summaries of all blocks in a tree and finish, and the key of the last one."""
    name = f"{base.name}-merged"
    keys = list(dask.core.flatten(base.__dask_keys__()))
    layer: dict[Any, Any] = {}
    level = 0
    while len(keys) > 1:
        groups = [keys[k : k + TREE] for k in range(0, len(keys), TREE)]
        keys = [(name, level, k) for k in range(len(groups))]
        layer |= {key: (_fold, reduction.combine, group) for key, group in zip(keys, groups, strict=True)}
        level += 1
    last = f"{name}-finished"
    layer[last] = (reduction.finish or dict, keys[0])
    return layer, last


def _gathered(
    reduction: Declaration,
    base: da.Array,
    wanted: Sequence[Variable],
    dataset: xr.Dataset,
    axes: Mapping[str, str],
    chosen: Mapping[str, Any],
) -> xr.Dataset:
    """Merge the summaries of all blocks in a tree, finish, and declare the outputs."""
    layer, last = _merged(reduction, base)
    variables = {}
    for variable in wanted:
        shape = tuple(
            components(chosen) if d.endswith("component") else _extra_size(d, dataset, axes) for d in variable.dims
        )
        own = f"{base.name}-merged-{variable.name}"
        graph = HighLevelGraph.from_collections(
            own, {**layer, (own, *(0,) * len(shape)): (_pick, last, variable.name)}, dependencies=[base]
        )
        data = da.Array(graph, own, tuple((n,) for n in shape), dtype=np.dtype(variable.dtype))
        variables[variable.name] = (variable.dims, data, variable.attrs)
    return xr.Dataset(variables, coords=_coordinates(dataset, wanted))


def _coordinates(dataset: xr.Dataset, wanted: Sequence[Variable]) -> dict[Any, Any]:
    dims = {d for v in wanted for d in v.dims}
    return {n: c for n, c in dataset.coords.items() if set(map(str, c.dims)) <= dims}


def _fold(combine: Any, parts: list[Arrays]) -> Arrays:
    merged = parts[0]
    for part in parts[1:]:
        merged = combine(merged, part)
    return merged


def layered(
    make: Any, source: Any, variables: Sequence[Variable], sizes: Mapping[str, int], name: str
) -> dict[str, xr.DataArray]:
    """Arrays that are made layer by layer, from nothing: one task a layer, and every variable a part of the task.

    Parameters
    ----------
    make : callable
        ``make(source, z)`` gives the values of all variables at layer number z, without the dim z.
    source : object
        What it makes them from; travels once, not with every task.
    variables : sequence of Variable
        Their first dim is z.
    sizes : mapping
        Length of every dim.
    name : str
        Of the graph: the same name means the same values.
    """
    whole = f"{name}-source"
    layers: dict[Any, Any] = {(name, k): (make, whole, k) for k in range(sizes["z"])}
    base = HighLevelGraph.from_collections(name, {whole: source} | layers)
    out = {}
    for variable in variables:
        own = f"{name}-{variable.name}"
        shape = tuple(sizes[d] for d in variable.dims)
        parts = {(own, k, *(0,) * (len(shape) - 1)): (_layer_part, (name, k), variable.name) for k in range(shape[0])}
        graph = HighLevelGraph({**base.layers, own: parts}, {**base.dependencies, own: {name}})
        chunks = ((1,) * shape[0], *((n,) for n in shape[1:]))
        data = da.Array(graph, own, chunks, dtype=np.dtype(variable.dtype))
        out[variable.name] = xr.DataArray(data, dims=variable.dims, attrs=variable.attrs)
    return out


def _layer_part(made: Arrays, name: str) -> np.ndarray:
    return made[name][None]
