"""Pictures of a store, as files or as figures in a notebook."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dfxm_dask import __version__
from dfxm_dask.errors import InputError
from dfxm_dask.store.output_paths import refuse_file, refuse_folder
from dfxm_dask.view.figures.index import FigureKind, known_figures, layer_words, scan_heading
from dfxm_dask.view.figures.layout import plain_style
from dfxm_dask.view.figures.maps import DPI

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.figure import Figure

FORMATS = ("png", "pdf", "svg")
Asked = dict[str, Callable[[], "Figure"]]


def figures(
    store: str | Path | xr.DataTree,
    folder: str | Path | None = None,
    *,
    only: str | Sequence[str] = (),
    variable: str | Sequence[str] = (),
    layer: int | None = None,
    limits: tuple[float, float] | None = None,
    format: str = "png",
    point: tuple[float, float] | None = None,
    profile: tuple[float, float, float, float] | None = None,
    difference: str | Path | xr.DataTree | None = None,
) -> dict[str, Any]:
    """Pictures of one layer of a store.

    Parameters
    ----------
    store : path or DataTree
        A scan, with or without results; see :func:`dfxm_dask.open_scan`.
    folder : path, optional
        Folder for the files. Without it the figures are returned, and a notebook shows them.
    only : str or sequence of str
        Names of figures: kinds such as "maps" or "beams", and single pages such as "com_phi". By default all, unless
        one of the next parameters selects a picture.
    variable : str or sequence of str
        Maps by name, such as "com_phi" or "beams/weak". With ``profile`` or ``difference``: the maps that these show.
    layer : int, optional
        Number of the layer along z, counted from 0; by default the middle one. Names of files have it, too; headings
        count from 1.
    limits : (float, float), optional
        Ends of the colour bar of the one ``variable``, in its unit.
    format : str
        Of the files: "png", "pdf" or "svg".
    point : (float, float), optional
        y and x in um (in pixels for a store without pixel size): the rocking curve of the nearest pixel, with
        background, centre of mass and fitted peak where the store has them.
    profile : (float, float, float, float), optional
        y0, x0, y1, x1 in the same unit: values along a line, by default of the centres of mass.
    difference : path or DataTree, optional
        Another store on the same grid: this store minus the other, by default for all maps of the rocking curve.

    Returns
    -------
    dict of str to Path, or dict of str to Figure
        By name, without layer and ending. Without an option these are, where the store has data: each map of the
        rocking curve, ``mosaicity`` with colour key and orientation distribution, ``regions``, ``curves``,
        ``beams``, ``components_<method>``, ``boundaries_scene``, ``boundary_<k>`` and ``boundary_<k>_fit`` of the whole
        volume, ``frames``, ``truth`` for simulated scans, ``overview``, maps and figures of plug-ins.

    Raises
    ------
    InputError
        An unknown name, layer or format; a point outside of the scan; another grid; or a store without data: refused
        before the first picture is drawn. A figure of ``only`` that has no data in this layer.

    Notes
    -----
    Rows are drawn downwards, as on the detector: y increases from top to bottom. xarray draws y upwards by default; for
    the same orientation::

        tree["rocking"].com_phi[0].plot(yincrease=False)

    Personal matplotlib settings are ignored. Files record store, layer, figure and version: tEXt chunks of PNG, the
    information dictionary of PDF, Dublin Core of SVG.
    """
    only, names = _several(only), _several(variable)
    tree = _opened(store)
    if format not in FORMATS:
        raise InputError(f"format {format!r}", "is unknown", f"choose one of {', '.join(FORMATS)}")
    if not any(tree[name].data_vars for name in tree.children if name != "truth"):
        raise InputError(
            "figures", "the store has neither maps nor raw counts", "ingest a scan first: `dfxm-dask ingest`"
        )
    layers = next((int(node.sizes["z"]) for node in tree.subtree if "z" in node.sizes), 1)
    chosen = layers // 2 if layer is None else layer
    if not 0 <= chosen < layers:
        raise InputError(f"layer {layer}", f"the scan has {layers}, numbered from 0", f"choose 0 to {layers - 1}")
    heading = scan_heading(tree, chosen, layers)
    asked = _asked(tree, chosen, heading, names, limits, point, profile, difference)
    kinds = list(known_figures().values()) if only or not asked else []
    _need_known(tree, chosen, kinds, only)
    if folder is not None:
        refuse_folder(Path(folder), "OUT_DIR")
        Path(folder).mkdir(parents=True, exist_ok=True)
    title = Path(store).name if isinstance(store, (str, Path)) else str(tree.attrs.get("title", "") or "scan")
    drawn: dict[str, Figure] = {}
    written: dict[str, Path] = {}
    for name, page, volume in _pages(tree, chosen, layers, heading, asked, kinds, only):
        if folder is None:
            drawn[name] = page
            continue
        path = Path(folder) / f"{name}{f'_layer{chosen}' if layers > 1 and not volume else ''}.{format}"
        refuse_file(path, "another OUT_DIR")
        place = "all" if volume else layer_words(tree, chosen, layers).replace("µm", "um").replace("−", "-")
        save(page, path, {"figure": name, "store": title, "layer": place})
        written[name] = path
    if only and not (drawn or written):
        raise InputError(f"figure {', '.join(only)}", "has no data in this layer", "choose another layer or figure")
    return written if folder is not None else drawn


def save(page: Figure, path: Path, facts: dict[str, str]) -> None:
    """Write a figure to a file that records the store, the layer, the name of the figure and the version.

    Parameters
    ----------
    page : Figure
    path : path
        Its ending is one of :data:`FORMATS`.
    facts : dict of str to str
        ``figure``, ``store``, ``layer``.
    """
    made = f"dfxm_dask {__version__}"
    title = f"{facts['figure']} of {facts['store']}"
    words = f"layer: {facts['layer']}; store: {facts['store']}; figure: {facts['figure']}"
    ending = path.suffix.removeprefix(".")
    kinds: dict[str, dict[str, str | None]] = {
        "png": {"Title": title, "Software": made, **{name.capitalize(): text for name, text in facts.items()}},
        "pdf": {"Title": title, "Subject": words, "Keywords": words, "Creator": made, "CreationDate": None},
        "svg": {"Title": title, "Description": words, "Source": facts["store"], "Creator": made, "Date": None},
    }
    # Our pictures have few colours: zlib at level 3 is a twelfth larger than at 6 in 40 % of the time.
    how: dict[str, Any] = {"pil_kwargs": {"compress_level": 3}} if ending == "png" else {}
    with plain_style():
        page.savefig(path, format=ending, dpi=DPI, facecolor="white", metadata=kinds[ending], **how)


def _several(names: str | Sequence[str]) -> tuple[str, ...]:
    return (names,) if isinstance(names, str) else tuple(names)


def _opened(store: str | Path | xr.DataTree) -> xr.DataTree:
    import xarray as xr

    if isinstance(store, xr.DataTree):
        return store
    from dfxm_dask.store.scan import open_scan

    return open_scan(store, chunks=None)


def _need_known(tree: xr.DataTree, layer: int, kinds: list[FigureKind], only: tuple[str, ...]) -> None:
    """Refuse names that the store has no figure for."""
    if not only:
        return
    has = {kind.name: kind.names(tree, layer) for kind in kinds}
    known = list(dict.fromkeys(name for kind, pages in has.items() if pages for name in (kind, *pages)))
    for name in only:
        if name not in known:
            raise InputError(
                f"figure {name}",
                f"is not among the figures of this store: {', '.join(known)}",
                "name one of these, or run the recipe that makes its data",
            )


def _asked(
    tree: xr.DataTree,
    layer: int,
    heading: str,
    names: tuple[str, ...],
    limits: tuple[float, float] | None,
    point: tuple[float, float] | None,
    profile: tuple[float, float, float, float] | None,
    difference: str | Path | xr.DataTree | None,
) -> Asked:
    """Pictures for variables, a point, a profile or a difference, each with the function that draws it."""
    if limits is not None:
        _check_limits(limits, names)
    if not names and point is None and profile is None and difference is None:
        return {}
    from dfxm_dask.view.figures.layer_maps import single
    from dfxm_dask.view.figures.maps import grid_of
    from dfxm_dask.view.figures.mosaic import draw_mosaicity
    from dfxm_dask.view.probes.pages import draw_point, draw_profile, pixel_at
    from dfxm_dask.view.probes.variables import difference_panel, find_map, map_panel, need_same_grid, store_maps

    maps = store_maps(tree)
    asked: Asked = {}
    if point is not None:
        if "raw" not in tree or "counts" not in tree["raw"].data_vars:
            raise InputError("point", "the store has no raw counts", "ingest the scan again")
        asked["point"] = partial(draw_point, tree, layer, pixel_at(tree, *point, "point"), heading)
    if profile is not None:
        y0, x0, y1, x1 = profile
        pixels = {pixel_at(tree, y0, x0, "profile"), pixel_at(tree, y1, x1, "profile")}
        if len(pixels) == 1:
            raise InputError("profile", "starts and ends in the same pixel", "give two points that lie apart")
        paths = [find_map(maps, name) for name in names]
        paths = paths or [path for path in maps if path.startswith("rocking/com_")]
        if not paths:
            raise InputError("profile", "the store has no centre of mass", f"name a variable: {', '.join(maps)}")
        for path in paths:
            asked[f"profile_{_short(path)}"] = partial(draw_profile, tree, path, layer, (y0, x0, y1, x1), heading)
    if difference is not None:
        other = _opened(difference)
        word = Path(difference).name if isinstance(difference, (str, Path)) else "the other store"
        need_same_grid(tree, other, layer, word)
        theirs = store_maps(other)
        both = {path: values for path, values in maps.items() if path in theirs}
        own = [find_map(maps, name) for name in names]
        paths = [find_map(both, path) for path in own] or [
            path for path, values in both.items() if path.startswith("rocking/") and values.dtype.kind == "f"
        ]
        if not paths:
            raise InputError(f"difference with {word}", "the stores have no map in common", "run one recipe on both")
        for path in paths:
            units = [str(each[path].attrs.get("units", "")) for each in (tree, other)]
            if units[0] != units[1]:
                raise InputError(f"difference of {path}", f"is in {units[0]} and in {units[1]}", "use equal units")
            panel = difference_panel(tree, other, path, layer, limits)
            asked[panel.name] = partial(single, panel, grid_of(tree), f"{heading}\nminus {word}")
    if profile is None and difference is None:
        for name in names:
            if name in ("mosaicity", "rocking/mosaicity") and "mosaicity" in _page_names(tree, layer):
                asked["mosaicity"] = partial(draw_mosaicity, tree, layer, heading)
                continue
            panel = map_panel(tree, find_map(maps, name), layer, limits)
            asked[panel.name if panel.name not in asked else _short(name)] = partial(
                single, panel, grid_of(tree), heading
            )
    return asked


def _page_names(tree: xr.DataTree, layer: int) -> list[str]:
    from dfxm_dask.view.figures.layer_maps import FIGURES

    return FIGURES[0].names(tree, layer)


def _short(path: str) -> str:
    """Name of a map in names of files."""
    return path.removeprefix("rocking/").replace("/", "_")


def _check_limits(limits: tuple[float, float], names: tuple[str, ...]) -> None:
    if len(names) != 1:
        raise InputError("limits", f"{len(names)} variables are named", "name one variable with the limits")
    if not (np.isfinite(limits).all() and limits[0] < limits[1]):
        raise InputError(f"limits {limits[0]:g},{limits[1]:g}", "are not two ascending numbers", "give LO,HI")


def _pages(
    tree: xr.DataTree,
    layer: int,
    layers: int,
    heading: str,
    asked: Asked,
    kinds: list[FigureKind],
    only: tuple[str, ...],
) -> Iterator[tuple[str, Figure, bool]]:
    """Name and figure of every page, and whether it shows the whole volume."""
    for name, draw in asked.items():
        with plain_style():
            page = draw()
        yield name, page, False
    for kind in kinds:
        above = scan_heading(tree, 0, 1) if kind.of_volume else heading
        for name, page in kind.pages(tree, layer, above, only):
            yield name, page, kind.of_volume
