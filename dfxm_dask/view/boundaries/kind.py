"""Declaration of the pages of boundaries, apart from their slow imports: most stores have no boundaries."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dfxm_dask.view.figures.index import FigureKind, Pages

if TYPE_CHECKING:
    import xarray as xr


def pages_of(tree: xr.DataTree, layer: int, heading: str) -> Pages:
    """See :func:`dfxm_dask.view.boundaries.pages.boundary_pages`."""
    from dfxm_dask.view.boundaries.pages import boundary_pages

    return boundary_pages(tree, heading)


FIGURES = (FigureKind("boundaries", pages_of, ("boundaries",), "Boundaries", of_volume=True, several=True),)
