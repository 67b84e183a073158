"""Files of a store for other programs: tables, planes and lines and points for ParaView, the volume for napari.

Every file is written under a partial name and renamed when it is whole.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from dfxm_dask.errors import InputError, StoreError
from dfxm_dask.view.export.ome_zarr import write_volume
from dfxm_dask.view.export.tables import TABLES, need_parquet, write_csv, write_parquet, write_units
from dfxm_dask.view.export.vtkhdf import lines_of, planes_of, points_of, write_polydata

if TYPE_CHECKING:
    import xarray as xr

WHAT = ("boundaries", "points", "volume", "objects")
Writer = Callable[[Path], object]


def export(
    store: str | Path | xr.DataTree,
    out: str | Path,
    *,
    what: Sequence[str] = (),
    parquet: bool = False,
    overwrite: bool = False,
) -> tuple[list[Path], list[str]]:
    """Files of a store for other programs.

    Parameters
    ----------
    store : path or DataTree
        With a group ``boundaries`` or ``volume``; see :func:`dfxm_dask.open_scan`.
    out : path
        Folder for the files, made where it is absent.
    what : sequence of str
        Of "boundaries": ``boundaries`` and ``junctions`` as tables, ``planes.vtkhdf`` and ``lines.vtkhdf``; "points":
        ``points.vtkhdf``; "objects": the table ``objects``; "volume": ``volume.ome.zarr``. All that the store has by
        default.
    parquet : bool
        Tables as Parquet, besides CSV.
    overwrite : bool
        Replace files that are there.

    Returns
    -------
    files : list of Path
    notes : list of str
        What could not be drawn, and why.

    Raises
    ------
    InputError
        An unknown word, or the store has nothing of what is asked; Parquet without pyarrow; layers that do not lie on
        an even grid.
    StoreError
        Not a store, an incomplete step, or a file that exists already.
    """
    import xarray as xr

    if not isinstance(store, xr.DataTree):
        from dfxm_dask.store.scan import open_scan

        store = open_scan(store, chunks=None)
    for word in what:
        if word not in WHAT:
            raise InputError(f"export {word!r}", "is unknown", f"say one of {', '.join(WHAT)}")
    if parquet:
        need_parquet()
    folder = Path(out)
    notes: list[str] = []
    plan = {word: writers(store, word, parquet, notes) for word in what or WHAT}
    for word, files in plan.items():
        if not files and (what or not any(plan.values())):
            raise InputError(
                f"export {word if what else ''}".strip(),
                "the store has no such result",
                "run a recipe that reconstructs a volume or finds boundaries first",
            )
    targets = {folder / name: write for files in plan.values() for name, write in files.items()}
    there = [path for path in targets if path.exists()]
    if there and not overwrite:
        raise StoreError(f"file {there[0]}", "exists", "say --overwrite, or name another folder")
    folder.mkdir(parents=True, exist_ok=True)
    for path, write in targets.items():
        put(path, write)
    return list(targets), notes


def writers(tree: xr.DataTree, word: str, parquet: bool, notes: list[str]) -> dict[str, Writer]:
    """Files of one kind that a store has something for, each with what writes it."""
    group = {"boundaries": "boundaries", "points": "boundaries"}.get(word, "volume")
    if group not in tree or not tree[group].data_vars:
        return {}
    found = tree[group].dataset
    if word == "volume":
        present = [name for name in ("dislocation", "label") if name in found]
        return {"volume.ome.zarr": partial(write_volume, dataset=found[present], notes=notes)} if present else {}
    if word == "points":
        cloud = points_of(found)
        return {"points.vtkhdf": partial(write_polydata, content=cloud)} if cloud else {}
    files: dict[str, Writer] = {}
    for dim, name in TABLES.items():
        if (dim == "object") != (word == "objects") or dim not in found.dims:
            continue
        files[f"{name}.csv"] = partial(write_csv, dataset=found, dim=dim)
        files[f"{name}.units.json"] = partial(write_units, dataset=found, dim=dim)
        if parquet:
            files[f"{name}.parquet"] = partial(write_parquet, dataset=found, dim=dim)
    if word == "boundaries":
        for name, make in (("planes", planes_of), ("lines", lines_of)):
            content = make(found, notes)
            if content:
                files[f"{name}.vtkhdf"] = partial(write_polydata, content=content)
    return files


def put(path: Path, write: Writer) -> None:
    """Write a file or folder under a partial name, then rename it; what was there goes last."""
    import os
    import shutil
    import uuid

    mark = uuid.uuid4().hex
    made, old = (path.with_name(f"{path.name}.{mark}.{word}") for word in ("partial", "old"))
    try:
        write(made)
        if path.is_dir():
            os.replace(path, old)
        os.replace(made, path)
    finally:
        for rest in (made, old):
            if rest.is_dir():
                shutil.rmtree(rest)
            else:
                rest.unlink(missing_ok=True)
