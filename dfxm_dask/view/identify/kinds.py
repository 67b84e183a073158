"""Declaration of the figures of identified dislocations, apart from their imports."""

from __future__ import annotations

from dfxm_dask.view.figures.index import FigureKind, later

CANDIDATES = ("identify/burgers", "identify/probability")

FIGURES = (
    FigureKind(
        "candidates",
        later("dfxm_dask.view.identify.candidates", "draw_candidates"),
        CANDIDATES,
        "Candidates of the dislocation",
        of_volume=True,
    ),
    FigureKind(
        "visibility",
        later("dfxm_dask.view.identify.visibility", "draw_visibility"),
        ("identify/burgers",),
        "Visibility of slip systems",
        of_volume=True,
    ),
)
