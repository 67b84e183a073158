"""Files of a store for other programs: maps for viewers and tables, planes, lines and points for ParaView, volumes.

Every file is written under a partial name and renamed when complete.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from dfxm_dask.errors import InputError, StoreError
from dfxm_dask.sources.wrong_kinds import store_around
from dfxm_dask.view.export.map_files import (
    check_pixels,
    write_netcdf,
    write_pixel_units,
    write_pixels,
    write_tiff,
    write_zarr,
)
from dfxm_dask.view.export.maps import maps_of
from dfxm_dask.view.export.nexus import write_nexus
from dfxm_dask.view.export.ome_zarr import write_volume
from dfxm_dask.view.export.tables import TABLES, need_parquet, write_csv, write_napari, write_parquet, write_units
from dfxm_dask.view.export.vtkhdf import lines_of, planes_of, points_of, write_polydata

if TYPE_CHECKING:
    import xarray as xr

WHAT = (
    "maps",
    "boundaries",
    "points",
    "volume",
    "objects",
    "regions",
    "tracks",
    "positions",
    "reflections",
    "candidates",
)
FORMATS = ("nexus", "tiff", "csv", "netcdf", "zarr")
GROUPS = {
    "boundaries": "boundaries",
    "points": "boundaries",
    "tracks": "dynamics",
    "positions": "dynamics",
    "reflections": "raw",
    "regions": "regions",
    "candidates": "identify",
}
"""Group of each kind of result, if not "volume"."""
Writer = Callable[[Path], object]


def export(
    store: str | os.PathLike[str] | xr.DataTree,
    folder: str | os.PathLike[str],
    *,
    what: Sequence[str] = (),
    formats: Sequence[str] = (),
    parquet: bool = False,
    overwrite: bool = False,
) -> list[Path]:
    """Files of a store for other programs.

    Parameters
    ----------
    store : path or DataTree
        A store with results, or the tree of :func:`dfxm_dask.open_scan` or a subset.
    folder : path
        Folder of the files; created where it does not exist.
    what : sequence of str
        "maps": all maps along z, y, x, in the ``formats``; "boundaries": tables ``boundaries`` and ``junctions``,
        ``planes.vtkhdf`` and ``lines.vtkhdf``; "points": ``points.vtkhdf``; "volume": ``volume.ome.zarr``; "objects":
        table ``objects``; "regions": tables ``regions`` and ``region_boundaries``; "tracks": tables ``detections`` and
        ``tracks`` of a movie, and ``tracks_napari.csv``; "positions": table ``positions`` of located cores;
        "reflections": table ``reflections`` of a set; "candidates": tables ``candidates`` and ``identification`` of
        a dislocation. By default all results in the store.
    formats : sequence of str
        Formats of the maps, "nexus" by default. "nexus": ``maps.h5``, with an NXdata for each map; "tiff": an OME-TIFF
        for each map; "csv": ``maps.csv``, with a row for each pixel, and its units in ``maps.units.json``; "netcdf":
        a file for each group; "zarr": ``maps.zarr``.
    parquet : bool
        Write tables as Parquet in addition to CSV.
    overwrite : bool
        Replace existing files.

    Returns
    -------
    list of Path
        Files and folders that were written. A warning names every part of the results that a format cannot contain.

    Raises
    ------
    InputError
        An unknown name in ``what`` or ``formats``; a result that the store lacks; Parquet without pyarrow; a volume
        whose layers are not evenly spaced; too many pixels for CSV.
    StoreError
        Not a store, an incomplete step, an existing file, or a folder in a store.

    Examples
    --------
    >>> dfxm_dask.export("scan.zarr", "for_colleagues", what=["maps"], formats=["nexus"])    # doctest: +SKIP
    [PosixPath('for_colleagues/maps.h5')]
    """
    files, notes = export_with_notes(store, folder, what=what, formats=formats, parquet=parquet, overwrite=overwrite)
    for note in notes:
        warnings.warn(note, stacklevel=2)
    return files


def export_with_notes(
    store: str | os.PathLike[str] | xr.DataTree,
    folder: str | os.PathLike[str],
    *,
    what: Sequence[str] = (),
    formats: Sequence[str] = (),
    parquet: bool = False,
    overwrite: bool = False,
) -> tuple[list[Path], list[str]]:
    """Write files as :func:`export` does. Returns them, and notes on results that a format cannot contain."""
    import xarray as xr

    what, formats = ((words,) if isinstance(words, str) else tuple(words) for words in (what, formats))
    for given, known, asked in ((what, WHAT, "export"), (formats, FORMATS, "export of maps as")):
        for word in given:
            if word not in known:
                raise InputError(f"{asked} {word!r}", "is unknown", f"choose from {', '.join(known)}")
    if parquet:
        need_parquet()
    tree = store
    if not isinstance(tree, xr.DataTree):
        from dfxm_dask.store.scan import open_scan

        tree = open_scan(tree, chunks=None)
    notes: list[str] = []
    plan = {
        word: map_writers(tree, formats or FORMATS[:1]) if word == "maps" else writers(tree, word, parquet, notes)
        for word in what or WHAT
    }
    lacking = [word for word, files in plan.items() if not files]
    if lacking and (what or len(lacking) == len(plan)):
        has = [word for word in WHAT if (map_writers(tree, ()) if word == "maps" else writers(tree, word, False, []))]
        raise InputError(
            f"export of {', '.join(lacking) if what else 'results'}",
            f"the store has {'only ' + ', '.join(has) if has else 'no results'}",
            "run a recipe that computes them first",
        )
    targets = {Path(folder, name): write for files in plan.values() for name, write in files.items()}
    for path in targets:
        if holder := store_around(path.resolve() / "any"):  # the path itself, or a folder above it
            raise StoreError(f"export to {path}", f"{holder} is a store of dfxm_dask", "choose another folder")
    existing = [path for path in targets if path.exists()]
    if existing and not overwrite:
        raise StoreError(f"file {existing[0]}", "already exists", "use --overwrite, or choose another folder")
    Path(folder).mkdir(parents=True, exist_ok=True)
    for path, write in targets.items():
        put(path, write)
    return list(targets), notes


def map_writers(tree: xr.DataTree, formats: Sequence[str]) -> dict[str, Writer]:
    """Files of the maps in some formats, each with its writer; without formats the names of the maps alone."""
    maps = maps_of(tree)
    every = {f"{group}_{name}": data[name] for group, data in maps.items() for name in data.data_vars}
    if not maps or not formats:
        return dict.fromkeys(every, lambda path: None)
    files: dict[str, Writer] = {}
    if "nexus" in formats:
        files["maps.h5"] = partial(write_nexus, tree=tree, maps=maps)
    if "tiff" in formats:
        files |= {f"{name}.ome.tif": partial(write_tiff, variable=variable) for name, variable in every.items()}
    if "csv" in formats:
        check_pixels(maps)
        files["maps.csv"] = partial(write_pixels, maps=maps)
        files["maps.units.json"] = partial(write_pixel_units, maps=maps)
    if "netcdf" in formats:
        files |= {f"{group}.nc": partial(write_netcdf, data=data, tree=tree) for group, data in maps.items()}
    if "zarr" in formats:
        files["maps.zarr"] = partial(write_zarr, maps=maps, tree=tree)
    return files


def writers(tree: xr.DataTree, word: str, parquet: bool, notes: list[str]) -> dict[str, Writer]:
    """Files of one kind of result, each with its writer; empty if the store lacks this result."""
    group = GROUPS.get(word, "volume")
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
    for dim, name in TABLES[word].items():
        if not any(v.dims[:1] == (dim,) for v in found.data_vars.values()):
            continue
        files[f"{name}.csv"] = partial(write_csv, dataset=found, dim=dim)
        files[f"{name}.units.json"] = partial(write_units, dataset=found, dim=dim)
        if parquet:
            files[f"{name}.parquet"] = partial(write_parquet, dataset=found, dim=dim)
    if word == "tracks" and "track" in found and found["track"].dims == ("detection",):
        files["tracks_napari.csv"] = partial(write_napari, dataset=found)
    if word == "boundaries":
        for name, make in (("planes", planes_of), ("lines", lines_of)):
            content = make(found, notes)
            if content:
                files[f"{name}.vtkhdf"] = partial(write_polydata, content=content)
    return files


def put(path: Path, write: Writer) -> None:
    """Write a file or folder under a partial name, then rename it; an existing folder is removed last."""
    import shutil
    import uuid

    mark = uuid.uuid4().hex
    made, old = (path.with_name(f"{path.name}.{mark}.{word}") for word in ("partial", "old"))
    try:
        write(made)
        if path.is_dir():
            os.replace(path, old)
        try:
            os.replace(made, path)
        except BaseException:
            if old.exists() and not path.exists():
                os.replace(old, path)
            raise
    finally:
        for rest in (made, old):
            if rest.is_dir():
                shutil.rmtree(rest)
            else:
                rest.unlink(missing_ok=True)
