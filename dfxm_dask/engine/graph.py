"""From a declaration and a Dataset to a lazy Dataset. No other module builds Dask graphs.

One task per block runs the kernel and returns all its outputs; each output is then a part of this task. Blocks follow
the chunks of the input along z, y and x; only dims that a reduction needs whole are rechunked, into one chunk.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterable, Mapping, Sequence
from functools import partial, reduce
from math import ceil
from typing import Any, NamedTuple

import dask
import dask.array as da
import numpy as np
import xarray as xr
from dask.array.overlap import overlap
from dask.highlevelgraph import HighLevelGraph

from dfxm_dask import __version__
from dfxm_dask.engine.accepted import refuse_other_data, scan_positions
from dfxm_dask.engine.declaration import Arrays, Declaration
from dfxm_dask.engine.layer import beside, compares_frames, frames_apart, run_layer
from dfxm_dask.engine.shapes import check_axes, expanded_writes, lengths, scan_axes
from dfxm_dask.errors import FramesApartWarning, InputError
from dfxm_dask.schema import (
    AXES,
    COUNTS,
    POSITION,
    SCALED,
    SPACE,
    Dim,
    Variable,
    check,
    expand,
    length_fault,
    scale_attrs,
)

TREE = 8  # summaries merged by one task


class Blocks(NamedTuple):
    """Tasks and outputs of a reduction: ``base`` is an array with one task per block that runs the kernel.

    ``dims`` are the dims along which the blocks are cut; ``places`` maps a dim to the index of its dim of the blocks;
    ``sizes`` are the known lengths of dims.
    """

    reduction: Declaration
    base: da.Array
    dims: list[str]
    wanted: list[Variable]
    parameters: dict[str, Any]
    places: dict[str, int]
    sizes: dict[str, int | None]


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
    frames: np.ndarray | None,
    own_rows: np.ndarray | None,
    seen_rows: np.ndarray | None,
    *blocks: np.ndarray,
) -> Arrays:
    """Apply the kernel to every layer of a block. With a halo, ``seen`` are all layers of the block and its
    neighbours, ``own`` those to compute, and likewise the rows with a border; ``frames`` are the numbers of its
    positions along the first scan axis."""
    inputs = dict(zip(names, zip(dims, blocks, strict=True), strict=True))
    rows = None
    if own_rows is not None and seen_rows is not None:
        first = int(np.searchsorted(seen_rows, own_rows[0])) if own_rows.size else 0
        rows = slice(first, first + own_rows.size)
    if "z" in reduction.over:
        return run_layer(reduction, axes, inputs, positions, parameters, wanted, rows=rows)
    layers: Iterable[int] = range(next((b.shape[d.index("z")] for d, b in inputs.values() if "z" in d), 1))
    if own is not None and seen is not None:
        layers = map(int, np.flatnonzero(np.isin(seen, own)))
    start = 0 if frames is None else int(frames[0])
    results = [
        run_layer(reduction, axes, inputs, positions, parameters, wanted, at=at, start=start, rows=rows)
        for at in layers
    ]
    if reduction.combine is not None:
        return reduce(reduction.combine, results)
    return {n: np.stack([r[n] for r in results]) for n in results[0]}


def _pick(base: Any, name: str) -> np.ndarray:
    while isinstance(base, list):  # dims that are not in the output: all their blocks have the same values
        base = base[0]
    return np.asarray(base[name])


def lazy(reduction: Declaration, dataset: xr.Dataset, parameters: Mapping[str, Any]) -> xr.Dataset:
    """A reduction of a Dataset as a lazy Dataset.

    Parameters
    ----------
    reduction : Declaration
    dataset : xarray.Dataset
        Contains the inputs of the reduction, with dims in storage order (z, scan axes, y, x); Dask or numpy.
    parameters : mapping
        Parameters of the reduction.

    Returns
    -------
    xarray.Dataset
        Dask-backed, with the declared dims, dtype and units; no values are computed.

    Raises
    ------
    InputError
        A variable is missing or has wrong dims, dtype or units; a parameter is invalid; too few scan axes.
    """
    attrs: dict[str, Any] = {}
    if reduction.settle is not None:
        shape = tuple(dataset.sizes[a] for a in scan_axes(dataset))
        seen = {v.name: dataset[v.name].data for v in reduction.settled_by if v.name in dataset}
        settled, told = reduction.settle(reduction.validate(parameters), seen, shape)
        if settled is None:
            names = [v.name for v in expanded_writes(reduction, scan_axes(dataset), {})]
            kept = dataset[[name for name in names if name in dataset]]
            return kept.assign_attrs({reduction.name: told or "nothing to do: variables are unchanged"})
        parameters = settled
        made_by = {"reduction": reduction.name, "version": __version__, "parameters": settled}
        attrs = {"provenance": json.dumps({reduction.name: made_by})} | ({reduction.name: told} if told else {})
    blocks = _blocks(reduction, dataset, parameters)
    if reduction.combine is None:
        scale = _scale(reduction, dataset, blocks.parameters)
        made = {v.name: (v.dims, _picked(blocks, v, dataset), v.attrs | scale) for v in blocks.wanted}
    elif unknown := [d for d, n in blocks.sizes.items() if n is None]:
        raise InputError(
            f"{reduction.name} as a lazy Dataset",
            f"the length of {', '.join(unknown)} follows from the data",
            f"run it on a store, or compute it at once: {reduction.name}.gather(dataset)",
        )
    else:
        merged = _merged(blocks)
        made = {v.name: (v.dims, _part(blocks, v, *merged), v.attrs) for v in blocks.wanted}
    return xr.Dataset(made, _coordinates(dataset, blocks.wanted), attrs)


def _scale(reduction: Declaration, dataset: xr.Dataset, chosen: Mapping[str, Any]) -> dict[str, str]:
    """Attributes that record the scale of the counts behind the results, as in a run."""
    if reduction.name == "normalise":
        beam = dataset.get(chosen["by"])
        return scale_attrs(chosen, str(beam.attrs.get("counter", "")) if beam is not None else "")
    if COUNTS not in reduction.reads:
        return {}
    return {SCALED: dataset["counts"].attrs[SCALED]} if SCALED in dataset["counts"].attrs else {}


def gather(reduction: Declaration, dataset: xr.Dataset, parameters: Mapping[str, Any]) -> xr.Dataset:
    """The result of a gather, computed at once by the current Dask scheduler; its dims may have any length.

    Raises
    ------
    InputError
        As :func:`lazy`; or the reduction is not a gather.
    """
    if reduction.combine is None:
        raise InputError(
            f"{reduction.name}.gather", "is not a gather: its results are maps", f"call {reduction.name}(dataset)"
        )
    blocks = _blocks(reduction, dataset, parameters)
    base, (layer, last) = blocks.base, _merged(blocks)
    graph = HighLevelGraph.from_collections(f"{base.name}-gathered", layer, dependencies=[base])
    result = dask.base.get_scheduler(collections=[base])(graph.to_dict(), last)
    variables = {v.name: (v.dims, np.asarray(result[v.name], v.dtype), v.attrs) for v in blocks.wanted}
    return xr.Dataset(variables, coords=_coordinates(dataset, blocks.wanted))


def _blocks(reduction: Declaration, dataset: xr.Dataset, parameters: Mapping[str, Any]) -> Blocks:
    """Check the inputs, cut them into the same blocks, and declare one task for each block."""
    chosen = reduction.validate(parameters)
    refuse_other_data(reduction, dataset)
    axes = scan_axes(dataset)
    if reason := check_axes(reduction, axes, dataset.sizes):
        raise InputError(reduction.name, reason, "use another scan")
    names, arrays, positions = _inputs(reduction, dataset, axes)
    if reduction.fits is not None:
        reduction.fits(chosen, {d: np.asarray(dataset[d]) for d in (*SPACE, *axes) if d in dataset.coords})
    if compares_frames(reduction):
        there = dict(zip(names, arrays, strict=True))
        named = {a: POSITION.name.format(axis=a) for a in axes}
        known = {a: np.asarray(there[name]) for a, name in named.items() if name in there}
        for told in frames_apart(list(axes), known, positions, [reduction]):
            warnings.warn(told, FramesApartWarning, stacklevel=5)
    cut = next(iter(axes)) if reduction.by_frame else None
    grid = _block_grid(reduction, arrays, cut)
    arrays = [_aligned(a, grid) for a in arrays]
    dims = [tuple(map(str, a.dims)) for a in arrays]
    wanted = expanded_writes(reduction, axes, chosen, dataset.sizes)
    index = {d: k for k, d in enumerate(dict.fromkeys(d for dim in dims for d in dim))}
    block_dims = [d for d in (*SPACE, cut) if d in index]
    frames = None
    wider = {d: n for d, n in (("z", reduction.halo), ("y", reduction.border)) if n and d in grid}
    own, seen = _numbers(grid, wider, "z")
    own_rows, seen_rows = _numbers(grid, wider, "y")
    data = [_widened(a.data, d, wider) for a, d in zip(arrays, dims, strict=True)]
    if cut is not None:
        frames = da.from_array(np.arange(sum(grid[cut])), chunks=(grid[cut],))
    pairs: list[Any] = []
    for x, dim in zip(data, dims, strict=True):
        pairs += [x, tuple(index[d] for d in dim)]
    along = (index["z"],) if own is not None else None
    along_y = (index["y"],) if own_rows is not None else None
    base = da.blockwise(
        partial(_layer_block, reduction, axes, chosen, names, dims, positions, wanted),
        tuple(index[d] for d in block_dims),
        own,
        along,
        seen,
        along,
        frames,
        None if cut is None else (index[cut],),
        own_rows,
        along_y,
        seen_rows,
        along_y,
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
    places = {d: index[d] for d in block_dims}
    places |= {d: index[d.of] for v in wanted for d in v.dims if isinstance(d, Dim) and d.of in index}
    return Blocks(reduction, base, block_dims, wanted, chosen, places, lengths(reduction, axes, chosen, dataset.sizes))


def _inputs(
    reduction: Declaration, dataset: xr.Dataset, axes: Mapping[str, str]
) -> tuple[list[str], list[xr.DataArray], dict[str, np.ndarray]]:
    """Names and arrays of the inputs of a kernel after all checks, and the positions along the scan axes."""
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
                    f"give the pixel size to dfxm_dask.ingest, or assign positions in um: "
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


def _block_grid(reduction: Declaration, arrays: Sequence[xr.DataArray], cut: str | None) -> dict[str, tuple[int, ...]]:
    """Chunks along every dim: those of the first chunked array with it, merged if the reduction needs the dim whole.

    ``cut`` is a scan axis along which blocks may be cut.
    """
    grid: dict[str, tuple[int, ...]] = {}
    for array in arrays:
        known = array.chunksizes
        for dim, size in zip(map(str, array.dims), array.shape, strict=True):
            if dim not in grid or (len(grid[dim]) == 1 and dim in known):
                grid[dim] = tuple(known[dim]) if dim in known else (size,)
    whole = set(reduction.over)
    for dim, chunks in grid.items():
        if dim in whole or dim not in (*SPACE, cut):
            grid[dim] = (sum(chunks),)
        elif dim == "z" and cut:
            grid[dim] = (1,) * sum(chunks)  # summaries follow each other by layer, then by frame, as in a run
        elif dim in ("y", "x") and reduction.patch:
            step = ceil(max(chunks) / reduction.patch) * reduction.patch
            size = sum(chunks)
            grid[dim] = tuple(min(step, size - k) for k in range(0, size, step)) or (0,)
        elif min(chunks) < (least := {"z": reduction.halo, "y": reduction.border}.get(dim, 0)):
            size = sum(chunks)
            count = max(1, size // max(least, max(chunks)))
            grid[dim] = tuple(size // count + (k < size % count) for k in range(count))
    return grid


def _numbers(
    grid: Mapping[str, tuple[int, ...]], wider: Mapping[str, int], dim: str
) -> tuple[da.Array | None, da.Array | None]:
    """Numbers of the layers or rows of every block, without and with their neighbours; None without neighbours."""
    if dim not in wider:
        return None, None
    numbers = da.from_array(np.arange(sum(grid[dim])), chunks=(grid[dim],))
    return numbers, _widened(numbers, (dim,), wider)


def _widened(values: da.Array, dims: Sequence[str], wider: Mapping[str, int]) -> da.Array:
    """Blocks with the neighbouring layers and rows that a reduction requires; fewer at the ends."""
    depth = {dims.index(d): n for d, n in wider.items() if d in dims and values.numblocks[dims.index(d)] > 1}
    return overlap(values, depth, "none", allow_rechunk=False) if depth else values


def _aligned(array: xr.DataArray, grid: Mapping[str, tuple[int, ...]]) -> xr.DataArray:
    return array.variable.to_base_variable().chunk({d: grid[str(d)] for d in array.dims})  # type: ignore[return-value]


def _picked(blocks: Blocks, variable: Variable, dataset: xr.Dataset) -> da.Array:
    """An output as a lazy array: a part of the task of every block."""
    labels = {d: blocks.places.get(d, 1000 + k) for k, d in enumerate(variable.dims)}
    tiles = [d for d in variable.dims if isinstance(d, Dim) and d in blocks.places]
    dtype = np.dtype(variable.dtype)
    if not variable.stored and variable.name in dataset and dtype.kind != "f":
        dtype = dataset[variable.name].dtype
    return da.blockwise(
        _pick,
        tuple(labels.values()),
        blocks.base,
        tuple(blocks.places[d] for d in blocks.dims),
        variable.name,
        None,
        new_axes={labels[d]: blocks.sizes[d] for d in variable.dims if d not in blocks.places},
        adjust_chunks={labels[d]: partial(_tiles, d.step) for d in tiles} or None,
        concatenate=None,
        dtype=dtype,
        meta=np.empty((0,) * len(variable.dims), dtype),
    )


def _tiles(step: int, length: int) -> int:
    return ceil(length / step)


def _merged(blocks: Blocks) -> tuple[dict[Any, Any], str]:
    """Tasks that merge the summaries of all blocks in a tree and finish, and the key of the last one."""
    name = f"{blocks.base.name}-merged"
    keys = list(dask.core.flatten(blocks.base.__dask_keys__()))
    layer: dict[Any, Any] = {}
    level = 0
    while len(keys) > 1:
        groups = [keys[k : k + TREE] for k in range(0, len(keys), TREE)]
        keys = [(name, level, k) for k in range(len(groups))]
        layer |= {key: (reduce, blocks.reduction.combine, group) for key, group in zip(keys, groups, strict=True)}
        level += 1
    last = f"{name}-finished"
    layer[last] = (blocks.reduction.finish or dict, keys[0])
    return layer, last


def _part(blocks: Blocks, variable: Variable, layer: Mapping[Any, Any], last: str) -> da.Array:
    """A variable of a gather as a lazy array of one block."""
    shape = tuple(blocks.sizes[d] for d in variable.dims)
    own = f"{blocks.base.name}-merged-{variable.name}"
    tasks = {**layer, (own, *(0,) * len(shape)): (_pick, last, variable.name)}
    graph = HighLevelGraph.from_collections(own, tasks, dependencies=[blocks.base])
    return da.Array(graph, own, tuple((n,) for n in shape), dtype=np.dtype(variable.dtype))


def _coordinates(dataset: xr.Dataset, wanted: Sequence[Variable]) -> dict[Any, Any]:
    dims = {d for v in wanted for d in v.dims}
    return {n: c for n, c in dataset.coords.items() if set(map(str, c.dims)) <= dims}


def layered(
    make: Any, source: Any, variables: Sequence[Variable], sizes: Mapping[str, int], name: str
) -> dict[str, xr.DataArray]:
    """Arrays that a function computes layer by layer: one task for each layer, shared by all variables.

    Parameters
    ----------
    make : callable
        ``make(source, z)`` returns the values of all variables in layer number z, without the dim z.
    source : object
        First argument of ``make``; sent to workers once instead of with every task.
    variables : sequence of Variable
        Their first dim is z.
    sizes : mapping
        Length of every dim.
    name : str
        Name of the graph; graphs of the same name must have the same values.
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
