"""Declaration of the figures of sets of reflections, apart from their imports: few stores are sets."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import TYPE_CHECKING

from dfxm_dask.view.figures.index import FigureKind

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.figure import Figure


def later(module: str, name: str) -> Callable[[xr.DataTree, int, str], Figure | None]:
    """The function that draws a figure; its module is imported when the figure is drawn."""

    def draw(tree: xr.DataTree, layer: int, heading: str) -> Figure | None:
        drawn: Figure | None = getattr(import_module(f"dfxm_dask.view.strain.{module}"), name)(tree, layer, heading)
        return drawn

    return draw


FIGURES = (
    FigureKind(
        "reflections",
        later("reflections", "draw_reflections"),
        ("raw/centre",),
        "Angles of the reflections",
        several=True,
    ),
    FigureKind("registration", later("reflections", "draw_registration"), ("raw/shift",), "Registration"),
    FigureKind("deformation", later("tensors", "draw_deformation"), ("strain/deformation",), "Deformation gradient"),
    FigureKind(
        "deformation_error",
        later("tensors", "draw_deformation_error"),
        ("strain/deformation_error",),
        "Standard errors of the deformation gradient",
    ),
    FigureKind("rotation", later("tensors", "draw_rotation"), ("strain/rotation",), "Rotation of the lattice"),
    FigureKind("strain", later("tensors", "draw_strain"), ("strain/strain",), "Strain"),
    FigureKind("nye", later("density", "draw_nye"), ("strain/nye",), "Nye tensor"),
    FigureKind(
        "density",
        later("density", "draw_density"),
        ("strain/density", "strain/density_floor"),
        "Dislocation density and its noise floor",
    ),
)
