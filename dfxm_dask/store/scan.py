"""A scan on disk, opened as a tree of labelled arrays."""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import xarray as xr
import zarr
from xarray.backends import BackendArray
from xarray.core import indexing

from dfxm_dask.errors import IncompleteError, StoreError
from dfxm_dask.schema import migrate
from dfxm_dask.store import metadata, shards
from dfxm_dask.store.integrity import ledger
from dfxm_dask.store.integrity.attributes import netcdf_safe
from dfxm_dask.store.integrity.opened import OpenStore, open_store


def open_foreign(path: Path) -> zarr.Array[Any]:
    """An array with a foreign layout; zarrs, if installed, reads its shards six times faster.

    Raises
    ------
    StoreError
        Metadata that zarr cannot read, or a link among the chunks.
    """
    metadata.refuse_links(path)
    try:
        array = zarr.open_array(str(path), mode="r")
        if array.shards is None or find_spec("zarrs") is None:
            return array
        with zarr.config.set({"codec_pipeline.path": "zarrs.ZarrsCodecPipeline"}):
            return zarr.open_array(str(path), mode="r")
    except Exception as error:  # zarr raises many kinds of exceptions
        reason = " ".join(str(error).split())[:200]
        raise StoreError(f"array {path}", f"cannot be opened by Zarr ({reason})", metadata.DISTRUST) from None


class Generation(NamedTuple):
    """Identity of the raw data of a store: a store that grows is replaced by one with further layers."""

    path: Path
    inode: int
    written: int

    def refuse_other(self) -> None:
        """Refuse values of another store at the same path, whose layers may have other numbers.

        Raises
        ------
        StoreError
        """
        if (now := generation(self.path)) is not None and now != self:
            raise StoreError(
                f"store {self.path}", "has been replaced, or has grown, since it was opened", "open it again"
            )


def generation(store: Path) -> Generation | None:
    """The present generation of a store; None without layers."""
    try:
        state = os.stat(store / "z" / "zarr.json")
    except OSError:
        return None
    return Generation(store, state.st_ino, state.st_mtime_ns)


class _LazyArray(BackendArray):
    """Adapter for the lazy indexing of xarray; reads shards directly, and foreign layouts through zarr."""

    def __init__(self, path: Path, known: frozenset[str] | None = None, made: Generation | None = None) -> None:
        self.path, self.known, self.made = path, known, made
        self.sharded = shards.open_array(path)
        self.other = None if self.sharded is not None else open_foreign(path)
        source = self.sharded if self.sharded is not None else self.other
        self.shape, self.dtype = tuple(source.shape), np.dtype(source.dtype)  # type: ignore[union-attr]

    def __getitem__(self, key: indexing.ExplicitIndexer) -> Any:
        return indexing.explicit_indexing_adapter(key, self.shape, indexing.IndexingSupport.BASIC, self._read)

    def _read(self, key: tuple[Any, ...]) -> np.ndarray:
        try:
            return self._values(key)
        finally:
            if self.made is not None:
                self.made.refuse_other()

    def _values(self, key: tuple[Any, ...]) -> np.ndarray:
        boxes, after = [], []
        for k, n in zip(key, self.shape, strict=True):
            if isinstance(k, slice):
                steps = range(*k.indices(n))
                low, high = (min(steps[0], steps[-1]), max(steps[0], steps[-1]) + 1) if len(steps) else (0, 0)
                boxes.append(slice(low, high))
                after.append(slice(None, None, steps.step) if steps.step != 1 else slice(None))
            else:
                boxes.append(slice(int(k) % n, int(k) % n + 1))
                after.append(0)  # type: ignore[arg-type]
        if self.sharded is not None:
            return shards.read(self.sharded, tuple(boxes), known=self.known)[tuple(after)]
        try:
            return np.asarray(self.other[tuple(boxes)])[tuple(after)]  # type: ignore[index]
        except (OSError, RuntimeError, ValueError, MemoryError) as error:
            reason = " ".join(str(error).split())[:200]
            raise StoreError(f"array {self.path}", f"cannot be read ({reason})", shards.REMEDY) from None


def _variable(
    opened: OpenStore, node: str, known: frozenset[str] | None = None, made: Generation | None = None
) -> xr.Variable:
    meta = opened.nodes[node]
    data = indexing.LazilyIndexedArray(_LazyArray(opened.path / node, known, made))
    attrs = netcdf_safe(meta["attributes"])
    attrs.pop("coordinates", None)  # for other readers; xarray derives it from the coordinates of a Dataset
    return xr.Variable(meta.get("dimension_names", ()), data, attrs, fastpath=True)


def valid_blocks(state: ledger.StepState, nz: int, ny: int) -> np.ndarray:
    """Rows of the results of a step that are on disk: bool (z, y).

    Raises
    ------
    StoreError
        A block lies outside the scan.
    """
    valid = np.zeros((nz, ny), bool)
    lacking = {block.partition("@")[0] for block in state.blocks if block not in state.done}
    for block in state.done:
        z, rows, _ = ledger.block_ranges(block)
        y0, y1 = rows or (0, ny)
        if z >= nz or y1 > ny:
            raise StoreError(f"step {state.step!r}", f"has a block {block} outside the scan", "do not trust this store")
        valid[z, y0:y1] = block.partition("@")[0] not in lacking  # rows of which some frames are missing are not valid
    return valid


def committed(store: str | Path, group: str, state: ledger.StepState) -> frozenset[str]:
    """Paths of all files named in the valid records of a step."""
    _, records = ledger.read_ledger(ledger.ledger_path(store, group, state.step))
    return frozenset(os.path.join(store, f) for block in state.done for f in records[block]["files"])


def open_scan(
    path: str | os.PathLike[str], *, chunks: Literal["auto"] | None = "auto", allow_partial: bool = False
) -> xr.DataTree:
    """The groups of a store as labelled, lazy arrays.

    Parameters
    ----------
    path : path
        A store written by :func:`dfxm_dask.ingest`, :func:`dfxm_dask.simulate` or a recipe.
    chunks : "auto" or None
        "auto": Dask arrays whose blocks are the units of work, one layer (z) and one band of y, scan axes whole.
        None: no Dask; every selection reads only the necessary chunks, which suits interactive slicing.
    allow_partial : bool
        Open incomplete steps. Missing blocks are NaN (integers become floats), and False in masks. A variable
        ``valid_<step>`` (z, y) marks the rows with data.

    Returns
    -------
    xarray.DataTree
        The root contains the coordinates (z, y, x in um or pixel; scan axes in degree or keV), each group its
        variables. Attributes are safe for netCDF; ``provenance`` is JSON text.

    Raises
    ------
    StoreError
        Not a store of this package, or a store of a newer schema. Lazy arrays raise it when the store has grown or was
        replaced since it was opened.
    IncompleteError
        A step is unfinished, lacks files, or is older than its input, and ``allow_partial`` is False.

    Examples
    --------
    >>> tree = dfxm_dask.open_scan("scan.zarr")                              # doctest: +SKIP
    >>> tree["raw"].counts.sel(z=0, phi=0.31, method="nearest").compute()    # doctest: +SKIP
    """
    from dfxm_dask.store.calibrate import recover  # which writes stores

    store = Path(path)
    recover(store)
    now = generation(store)
    opened = open_store(store)
    attrs = netcdf_safe(migrate(opened.nodes[""]["attributes"]))
    coords = {name: _variable(opened, name).load() for name in opened.arrays("")}
    nz, ny = (coords[d].size for d in ("z", "y"))
    datasets = {"/": xr.Dataset(coords=coords, attrs=attrs)}
    for group in opened.groups():
        states = opened.states(group)
        for state in states.values():
            valid_blocks(state, nz, ny)  # raises for blocks outside the scan
        bad = opened.incomplete(group)
        if bad and not allow_partial:
            step, (reason, remedy) = next(iter(bad.items()))
            raise IncompleteError(f"group {group!r} of {store}", f"step {step!r} is not complete: {reason}", remedy)
        masks = {name: step for step in bad for name in states[step].writes}
        variables = {}
        made = {step: opened.provenance(group).get(step) for step in states}
        for name in opened.claimed_arrays(group):
            known = committed(store, group, states[masks[name]]) if name in masks else None
            variable = _variable(opened, f"{group}/{name}", known, now)
            if "z" not in variable.dims and known is not None:
                continue  # a table that is being recomputed: its content is undefined
            if chunks == "auto":
                sizes = {
                    d: 1 if d == "z" else min(attrs["unit_rows"], n) if d == "y" else -1
                    for d, n in variable.sizes.items()
                }
                token = ledger.digest([str(store.resolve()), group, name, made])
                variable = variable.chunk(sizes, name=f"{name}-{token[:16]}-")
            if name in masks:
                variable = _masked(variable, valid_blocks(states[masks[name]], nz, ny))
                variable.attrs = {**variable.attrs, "not_complete": bad[masks[name]][0]}
            variables[name] = variable
        for step in bad:
            variables[f"valid_{step}"] = xr.Variable(
                ("z", "y"),
                valid_blocks(states[step], nz, ny),
                {"long_name": f"whether the results of {step} are on disk", "units": "1"},
            )
        datasets[f"/{group}"] = xr.Dataset(variables, attrs=netcdf_safe(opened.nodes[group]["attributes"]))
    if now is not None:
        now.refuse_other()
    return xr.DataTree.from_dict(_beside_columns(datasets))


def _beside_columns(datasets: dict[str, xr.Dataset]) -> dict[str, xr.Dataset]:
    """The groups of a scan, where tables may have columns named like coordinates of the scan: y, x, time.

    Groups of a tree inherit indexed coordinates of the root, which would hide these columns. Such coordinates have
    their index in every group that uses them, and none at the root.
    """
    root = datasets["/"]
    hidden = [name for name in root.coords if any(name in d.data_vars for d in datasets.values())]
    if not hidden:
        return datasets
    beside = {path: {n: root[n] for n in hidden if n in d.dims} for path, d in datasets.items() if path != "/"}
    return {"/": root.drop_indexes(hidden)} | {path: datasets[path].assign_coords(own) for path, own in beside.items()}


def _masked(variable: xr.Variable, valid: np.ndarray) -> xr.Variable:
    """The variable with NaN (False for masks) in missing blocks."""
    dims = [d for d in ("z", "y") if d in variable.dims]
    where = xr.Variable(("z", "y"), valid)
    if "y" not in dims:
        where = where.all("y")
    if "z" not in dims:
        where = where.all("z")
    if variable.chunks is None:
        variable = variable.chunk({d: 1 if d == "z" else -1 for d in variable.dims})
    other = False if variable.dtype == bool else xr.core.dtypes.NA
    masked = variable.where(where, other)
    masked.attrs = variable.attrs
    return masked
