"""Declaration of the figures of movies and located cores, apart from their imports: few stores are movies."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dfxm_dask.view.figures.index import FigureKind

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.figure import Figure


def tracks(tree: xr.DataTree, layer: int, heading: str) -> Figure | None:
    """See :func:`dfxm_dask.view.dynamics.tracks.draw_tracks`."""
    from dfxm_dask.view.dynamics.tracks import draw_tracks

    return draw_tracks(tree, layer, heading)


def kymograph(tree: xr.DataTree, layer: int, heading: str) -> Figure | None:
    """See :func:`dfxm_dask.view.dynamics.tracks.draw_kymograph`."""
    from dfxm_dask.view.dynamics.tracks import draw_kymograph

    return draw_kymograph(tree, layer, heading)


def displacements(tree: xr.DataTree, layer: int, heading: str) -> Figure | None:
    """See :func:`dfxm_dask.view.dynamics.displacements.draw_displacements`."""
    from dfxm_dask.view.dynamics.displacements import draw_displacements

    return draw_displacements(tree, heading)


def positions(tree: xr.DataTree, layer: int, heading: str) -> Figure | None:
    """See :func:`dfxm_dask.view.dynamics.positions.draw_positions`."""
    from dfxm_dask.view.dynamics.positions import draw_positions

    return draw_positions(tree, layer, heading)


FIGURES = (
    FigureKind("tracks", tracks, ("raw/counts", "dynamics/frame"), "Detections and tracks"),
    FigureKind("kymograph", kymograph, ("raw/counts", "dynamics/frame"), "Tracks against time"),
    FigureKind("displacements", displacements, ("dynamics/frame",), "Displacements and mean square displacement"),
    FigureKind("positions", positions, ("raw/counts", "dynamics/position"), "Posterior of located cores"),
)
