"""All figures of a store, and how one is declared.

A figure is a function that draws a page of a store, declared as a :class:`FigureKind`. A new one is a module of its own
and one line: in :data:`OWN`, or, of another package, an entry point in the group ``dfxm_dask.figures``. A plug-in file
calls :func:`add_figure`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import entry_points
from typing import TYPE_CHECKING

from dfxm_dask.errors import InputError
from dfxm_dask.view.figures.layout import plain_style
from dfxm_dask.view.figures.maps import symbol

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.figure import Figure

OWN = (
    "dfxm_dask.view.figures.layer_maps",
    "dfxm_dask.view.figures.regions",
    "dfxm_dask.view.figures.curves",
    "dfxm_dask.view.beams.page",
    "dfxm_dask.view.components.page",
    "dfxm_dask.view.boundaries.kind",
    "dfxm_dask.view.dynamics.kinds",
    "dfxm_dask.view.strain.kinds",
    "dfxm_dask.view.identify.kinds",
    "dfxm_dask.view.figures.frames",
    "dfxm_dask.view.figures.trust",
    "dfxm_dask.view.figures.truth",
    "dfxm_dask.view.figures.overview",
)
"""Modules with a tuple ``FIGURES``, in the order in which the files are written."""
GROUP = "dfxm_dask.figures"

Pages = Iterator[tuple[str, "Figure | Callable[[], Figure]"]]


@dataclass(frozen=True)
class FigureKind:
    """A figure: its name, the data that it needs, and the function that draws it.

    Parameters
    ----------
    name : str
        File name without ending.
    draw : callable
        Takes the store as a DataTree, the number of the layer along z (from 0), and a heading. Returns a matplotlib
        figure; an iterator of (name, figure) for several pages, the first for reports; None where the store has nothing
        to draw.
    needs : tuple of str
        Groups or ``group/variable`` without which it is not drawn.
    caption : str
        Caption in a report. A figure without caption is not part of reports.
    of_volume : bool
        Whether it shows all layers together.
    several : bool
        Whether ``draw`` returns an iterator. Its figures may be functions without arguments that draw them, so that
        the names of the pages are known before any page is drawn.
    """

    name: str
    draw: Callable[[xr.DataTree, int, str], Figure | Pages | None]
    needs: tuple[str, ...] = ()
    caption: str = ""
    of_volume: bool = False
    several: bool = False

    def names(self, tree: xr.DataTree, layer: int) -> list[str]:
        """Names of the pages that a store has, without drawing them."""
        if not all(has(tree, need) for need in self.needs):
            return []
        drawn = self.draw(tree, layer, "") if self.several else None
        return [self.name] if drawn is None or not isinstance(drawn, Iterator) else [name for name, _ in drawn]

    def pages(
        self, tree: xr.DataTree, layer: int, heading: str, only: Collection[str] = ()
    ) -> Iterator[tuple[str, Figure]]:
        """Pages of this kind that a store has, each with its name; with ``only``, those of this kind or these names."""
        every = not only or self.name in only
        if not all(has(tree, need) for need in self.needs) or not (every or self.several):
            return
        with plain_style():
            drawn = self.draw(tree, layer, heading)
        if not isinstance(drawn, Iterator):
            drawn = iter([] if drawn is None else [(self.name, drawn)])
        while True:
            with plain_style():
                name, page = next(drawn, ("", None))
                if page is None:
                    return
                wanted = every or name in only
                page = page() if callable(page) and wanted else page
            if wanted and not callable(page):
                yield name, page


def later(module: str, name: str) -> Callable[[xr.DataTree, int, str], Figure | Pages | None]:
    """The function of a module that draws a figure, without an import before the figure is drawn."""

    def draw(tree: xr.DataTree, layer: int, heading: str) -> Figure | Pages | None:
        drawn: Figure | Pages | None = getattr(import_module(module), name)(tree, layer, heading)
        return drawn

    return draw


_ADDED: dict[str, FigureKind] = {}


def add_figure(kind: FigureKind) -> None:
    """Add a figure to the list, as plug-in files do.

    Raises
    ------
    InputError
        Another figure has this name.
    """
    if kind.name in known_figures():
        raise InputError(f"figure {kind.name!r}", "has the name of another figure", "rename it")
    _ADDED[kind.name] = kind


def known_figures() -> dict[str, FigureKind]:
    """All figures by name: ours, those that installed packages declare, and those that were added.

    Raises
    ------
    InputError
        The figure of a package cannot be loaded, is not a :class:`FigureKind`, or has the name of another one.
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
            fault = "has the name of another figure" if isinstance(kind, FigureKind) else "is not a FigureKind"
            raise InputError(where, fault, "repair or uninstall that package")
        found[kind.name] = kind
    return found | _ADDED


def has(tree: xr.DataTree, need: str) -> bool:
    """Whether a store has a group, or a ``group/variable``."""
    group, _, name = need.partition("/")
    return group in tree.children and bool(name in tree[group].data_vars if name else tree[group].data_vars)


def scan_heading(tree: xr.DataTree, layer: int, layers: int) -> str:
    """Title of the scan, and on a second line the layer where there are several."""
    title = str(tree.attrs.get("title", "") or "scan")
    return title if layers == 1 else f"{title}\n{layer_words(tree, layer, layers)}"


def layer_words(tree: xr.DataTree, layer: int, layers: int) -> str:
    """Position and number of a layer, counted from 1 as people count: ``z = 10 µm (layer 2 of 2)``."""
    number = f"layer {layer + 1} of {layers}"
    if "z" not in tree.coords:
        return number
    z = tree.coords["z"]
    units = symbol(str(z.attrs.get("units", "")))
    return f"z = {float(z[layer]):.6g} {units} ({number})".replace("-", "−").replace("  ", " ")
