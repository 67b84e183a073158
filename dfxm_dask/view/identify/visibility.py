"""Table of the visibility of slip systems along the axes of a scan."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from dfxm_dask.optics.defects.lattice import Lattice
from dfxm_dask.store.integrity.attributes import recorded_steps
from dfxm_dask.view.figures.layout import FOOTER, PAGE, TOP, add_words, sentences_height, wrapped, write_sentences
from dfxm_dask.view.figures.maps import MARGIN, add_colour_bar, place_axes
from dfxm_dask.view.identify.labels import bracketed, indices, recorded_lattice

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.figure import Figure

ROW, LEFT, BAR = 0.22, 1.9, 0.55
CHARACTERS = ((0.0, "screw"), (60.0, "60°"), (90.0, "edge"))
"""Angles from the Burgers vector to the line, and their names."""
RADIUS = 0.3
"""um: distance from the line at which the contrast is compared with the acceptance (our choice)."""
RANGE = (0.01, 3.0)
"""Ends of the logarithmic colour scale (our choice)."""
DARK = 1e-9
"""Visibility that counts as zero."""


def draw_visibility(tree: xr.DataTree, layer: int, heading: str) -> Figure | None:
    """A page with a table: the slip systems of the recorded crystal against the axes of a scan, for lines of screw,
    60 degree and edge character; None without a recorded crystal and reflection.
    """
    from matplotlib.colors import LogNorm
    from matplotlib.figure import Figure

    from dfxm_dask.identify.catalogue import catalogue
    from dfxm_dask.identify.match import microscope_of
    from dfxm_dask.identify.visibility import AXES, visibility

    recorded = recorded_lattice(tree)
    if recorded is None or recorded["hkl"] is None:
        return None
    lattice = Lattice(**recorded)
    assert lattice.hkl is not None
    assert lattice.parameter is not None
    parameters = dict(recorded_steps(tree["identify"].attrs).get("match", {}).get("parameters") or {})
    scope = microscope_of(str(parameters.get("microscope") or "id06_al111"), lattice)
    every = catalogue(lattice.kind or "fcc", angles=12, distinct=False)
    systems = every.take(positive(every.burgers))
    found = visibility(systems, lattice.hkl, scope, parameter=lattice.parameter, radius=RADIUS)
    chosen = [np.flatnonzero(np.abs(systems.angle - angle) < 1e-6) for angle, _ in CHARACTERS]
    table = np.concatenate([found.visibility[rows] for rows in chosen], axis=1)
    first = chosen[0]
    said = [
        f"Reflection {bracketed(lattice.hkl, '()')}, {len(first)} slip systems: rms shift of the centre of mass at"
        f" {RADIUS:g} µm from the line, over the standard deviation of the curve, in a scan of each axis alone.",
        "Above 1 the image of the line extends beyond this distance; 0: no contrast along this axis.",
    ]
    lines = wrapped(said, PAGE - 2 * MARGIN, 8)
    words = sentences_height(lines) + 0.1
    figure = Figure(figsize=(PAGE, TOP + words + 0.6 + ROW * len(first) + BAR + FOOTER))
    write_sentences(figure, lines, MARGIN, TOP)
    up = figure.get_size_inches()[1] - TOP - words - 0.6
    wide = PAGE - MARGIN - LEFT - 0.1
    axes = place_axes(figure, LEFT, up - ROW * len(first), wide, ROW * len(first))
    shown = np.where(table > DARK, np.clip(table, *RANGE), RANGE[0])
    axes.imshow(shown, cmap="cividis", norm=LogNorm(*RANGE), aspect="auto", interpolation="nearest")
    for (row, column), value in np.ndenumerate(table):
        text = "0" if value <= DARK else f"{value:.2g}"
        colour = "white" if shown[row, column] < 0.2 else "black"
        axes.text(column, row, text, ha="center", va="center", fontsize=7.2, color=colour)
    names = [
        f"{plane_name(systems.plane_normal[k])} {bracketed(indices(systems.burgers[k]), '[]')}  g·b = {product:.2g}"
        for k, product in zip(first, found.product[first] + 0.0, strict=True)
    ]
    axes.set_yticks(range(len(first)), [name.replace("-", "−") for name in names], fontsize=7.2)
    axes.set_xticks(range(table.shape[1]), [axis for _ in CHARACTERS for axis in AXES], fontsize=7.2)
    axes.tick_params(length=0, pad=3, top=False, bottom=False, labeltop=True, labelbottom=False)
    for k, (_, name) in enumerate(CHARACTERS):
        at = (LEFT + wide * (3 * k + 1.5) / (3 * len(CHARACTERS))) / PAGE
        figure.text(at, (up + 0.27) / figure.get_size_inches()[1], name, ha="center", fontsize=8, weight="bold")
        axes.axvline(3 * k - 0.5, color="white", lw=3)
    bar = add_colour_bar(figure, axes.images[0], LEFT, up - ROW * len(first) - 0.05, wide, "visibility", extend="both")
    bar.ax.set_xticks([0.01, 0.1, 1], ["0.01", "0.1", "1"])
    bar.ax.minorticks_off()
    add_words(figure, heading, "rocking: phi; rolling: chi; strain: two_theta")
    return figure


def positive(vectors: np.ndarray) -> np.ndarray:
    """Rows whose first component other than zero is positive."""
    column = np.argmax(np.abs(vectors) > 1e-9, axis=1)
    return np.flatnonzero(vectors[np.arange(len(vectors)), column] > 0)


def plane_name(normal: np.ndarray) -> str:
    """Miller indices of a slip plane."""
    return bracketed(indices(normal), "()")
