"""All figures of a store: the list of them, and the PNG files of one layer.

A figure is a function that draws a page of a store, declared as a :class:`FigureKind`. A new one is a module of its own
and one line: in :data:`OWN`, or, of another package, an entry point in the group ``dfxm_dask.figures``. A plug-in file
calls :func:`add_figure`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING

from dfxm_dask.errors import InputError
from dfxm_dask.store.output_paths import refuse_file, refuse_folder
from dfxm_dask.view.figures.maps import DPI, symbol

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.figure import Figure

OWN = (
    "dfxm_dask.view.figures.layer_maps",
    "dfxm_dask.view.figures.curves",
    "dfxm_dask.view.figures.beams",
    "dfxm_dask.view.components.page",
    "dfxm_dask.view.boundaries.pages",
    "dfxm_dask.view.figures.frames",
    "dfxm_dask.view.figures.truth",
    "dfxm_dask.view.figures.overview",
)
"""Modules with a tuple ``FIGURES``, in the order in which the files are written."""
GROUP = "dfxm_dask.figures"

Pages = Iterator[tuple[str, "Figure"]]


@dataclass(frozen=True)
class FigureKind:
    """A figure: what it is called, what it needs, and how it is drawn.

    Parameters
    ----------
    name : str
        File name without ending.
    draw : callable
        Given the store as a DataTree, the number of the layer along z, and a heading: a matplotlib figure; an iterator
        of (name, figure) where it has several pages, of which a report takes the first; None where there is nothing.
    needs : tuple of str
        Groups or ``group/variable`` without which it is not drawn.
    caption : str
        What it shows, below it in a report. Without one it is no part of reports.
    of_volume : bool
        Whether it shows all layers together.
    """

    name: str
    draw: Callable[[xr.DataTree, int, str], Figure | Pages | None]
    needs: tuple[str, ...] = ()
    caption: str = ""
    of_volume: bool = False

    def pages(self, tree: xr.DataTree, layer: int, heading: str) -> Pages:
        """Pages of this kind that a store has, each with its name."""
        if not all(has(tree, need) for need in self.needs):
            return
        drawn = self.draw(tree, layer, heading)
        if isinstance(drawn, Iterator):
            yield from drawn
        elif drawn is not None:
            yield self.name, drawn


_ADDED: dict[str, FigureKind] = {}


def add_figure(kind: FigureKind) -> None:
    """Add a figure to the list, as plug-in files do.

    Raises
    ------
    InputError
        The name is taken.
    """
    if kind.name in known_figures():
        raise InputError(f"figure {kind.name!r}", "has the name of another figure", "rename it")
    _ADDED[kind.name] = kind


def known_figures() -> dict[str, FigureKind]:
    """All figures by name: ours, those that installed packages declare, and those that were added.

    Raises
    ------
    InputError
        A package whose figure cannot be loaded, is no :class:`FigureKind`, or has the name of another one.
    """
    kinds = [kind for module in OWN for kind in import_module(module).FIGURES]
    found: dict[str, FigureKind] = {kind.name: kind for kind in kinds}
    for point in entry_points(group=GROUP):
        where = f"figure {point.name} of {point.dist.name if point.dist else point.value}"
        try:
            kind = point.load()
        except Exception as error:  # whatever a module of somebody else raises as it is loaded
            raise InputError(where, f"cannot be loaded ({error})", "repair or uninstall that package") from error
        if not isinstance(kind, FigureKind) or kind.name in found:
            fault = "has the name of another figure" if isinstance(kind, FigureKind) else "is no FigureKind"
            raise InputError(where, fault, "repair or uninstall that package")
        found[kind.name] = kind
    return found | _ADDED


def has(tree: xr.DataTree, need: str) -> bool:
    """Whether a store has a group, or a ``group/variable``."""
    group, _, name = need.partition("/")
    return group in tree.children and bool(name in tree[group].data_vars if name else tree[group].data_vars)


def figures(store: str | Path | xr.DataTree, out_dir: str | Path, *, layer: int | None = None) -> list[Path]:
    """PNG files of one layer of a store.

    Parameters
    ----------
    store : path or DataTree
        A scan, with results or not yet; see :func:`dfxm_dask.open_scan`.
    out_dir : path
        Folder for the files, made where it is absent.
    layer : int, optional
        Number of the layer along z; by default the middle one.

    Returns
    -------
    list of Path
        The files, of all :func:`known_figures` that the store has something for: each map, ``mosaicity``, ``curves``,
        ``beams`` with weak and strong beam, ``components_<method>`` with the curves and coefficients of each basis,
        ``boundaries_scene``, ``boundary_<k>`` and ``boundary_<k>_fit`` of the whole volume, ``frames``, ``truth``
        beside what was found where the truth is known, ``overview`` with all maps of the rocking
        curve, ``other_maps`` and a page for each map of plug-in reductions, and last the figures of plug-ins.

    Raises
    ------
    InputError
        There is no such layer, or the store has neither maps nor raw counts.
    """
    import xarray as xr

    out = Path(out_dir)
    refuse_folder(out, "OUT_DIR")
    if not isinstance(store, xr.DataTree):
        from dfxm_dask.store.scan import open_scan

        store = open_scan(store, chunks=None)
    if not any(store[name].data_vars for name in store.children if name != "truth"):
        raise InputError(
            "figures", "the store has neither maps nor raw counts", "ingest a scan first: `dfxm-dask ingest`"
        )
    layers = next(int(node.sizes["z"]) for node in store.subtree if "z" in node.sizes)
    chosen = layers // 2 if layer is None else layer
    if not 0 <= chosen < layers:
        raise InputError(f"layer {layer}", f"the scan has {layers}, from 0", f"ask for 0 to {layers - 1}")
    out.mkdir(parents=True, exist_ok=True)
    written = []
    for kind in known_figures().values():
        heading = scan_heading(store, 0, 1) if kind.of_volume else scan_heading(store, chosen, layers)
        for name, page in kind.pages(store, chosen, heading):
            path = out / f"{name}{f'_layer{chosen}' if layers > 1 and not kind.of_volume else ''}.png"
            refuse_file(path, "another OUT_DIR")
            page.savefig(path, dpi=DPI, facecolor="white", metadata={"Software": "dfxm_dask"})
            written.append(path)
    return written


def scan_heading(tree: xr.DataTree, layer: int, layers: int) -> str:
    """Title of the scan, and the layer where there are several."""
    title = str(tree.attrs.get("title", "") or "scan")
    title = title if len(title) <= 70 else title[:67] + "..."
    if layers == 1:
        return title
    z = tree.dataset["z"]
    return f"{title}; layer {layer} of {layers}, z = {float(z[layer]):.4g} {symbol(z.attrs.get('units', ''))}"
