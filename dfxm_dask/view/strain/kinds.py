"""Declaration of the figures of sets of reflections, apart from their imports: few stores are sets."""

from __future__ import annotations

from dfxm_dask.view.figures.index import FigureKind, later

HERE = "dfxm_dask.view.strain"


FIGURES = (
    FigureKind(
        "reflections",
        later(f"{HERE}.reflections", "draw_reflections"),
        ("raw/centre",),
        "Angles of the reflections",
        several=True,
    ),
    FigureKind("registration", later(f"{HERE}.reflections", "draw_registration"), ("raw/shift",), "Registration"),
    FigureKind(
        "deformation", later(f"{HERE}.tensors", "draw_deformation"), ("strain/deformation",), "Deformation gradient"
    ),
    FigureKind(
        "deformation_error",
        later(f"{HERE}.tensors", "draw_deformation_error"),
        ("strain/deformation_error",),
        "Standard errors of the deformation gradient",
    ),
    FigureKind("rotation", later(f"{HERE}.tensors", "draw_rotation"), ("strain/rotation",), "Rotation of the lattice"),
    FigureKind("strain", later(f"{HERE}.tensors", "draw_strain"), ("strain/strain",), "Strain"),
    FigureKind("nye", later(f"{HERE}.density", "draw_nye"), ("strain/nye",), "Nye tensor"),
    FigureKind(
        "density",
        later(f"{HERE}.density", "draw_density"),
        ("strain/density", "strain/density_floor"),
        "Dislocation density and its noise floor",
    ),
    FigureKind(
        "spacing",
        later(f"{HERE}.spacing", "draw_spacing"),
        ("strain/spacing", "strain/spacing_strain"),
        "Lattice spacing",
    ),
)
