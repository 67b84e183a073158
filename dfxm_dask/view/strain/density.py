"""Maps of the Nye tensor, and of the dislocation density beside the density that noise alone causes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from dfxm_dask.view.figures.maps import FOOT, Panel, grid_of, robust_limits
from dfxm_dask.view.strain.component_page import PER_LENGTH, component_page, component_panels, median_of, number
from dfxm_dask.view.strain.tensors import ONE_SCALE, errors_of, tensor_maps, unknown_words

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BELOW = "#f4f4f4"
"""Colour under the hatching of pixels below the noise floor."""
CLEAR = 3.0
"""Ratio to the noise floor above which a density counts as significant (our choice)."""


def draw_nye(tree: xr.DataTree, layer: int, heading: str) -> Figure | None:
    """A page with the complete components of the Nye tensor on one scale, and the names of the others."""
    found = tree["strain"].dataset
    images = tensor_maps(found["nye"], layer, "α")
    errors = dict(zip(images, errors_of(found, "nye", layer), strict=False))
    known = {title: image for title, image in images.items() if np.isfinite(image).any()}
    if not known:
        return None
    said = unknown_words(images)
    if said:
        said.append("A component requires derivatives along two axes; those along z require neighbouring layers.")
    panels = component_panels(known, "Nye tensor α", PER_LENGTH, errors=[errors[t] for t in known if t in errors])
    return component_page(panels, min(3, len(panels)), grid_of(found), heading, sentences=said, foot=ONE_SCALE)


def draw_density(tree: xr.DataTree, layer: int, heading: str) -> Figure | None:
    """A page with the dislocation density and its noise floor on one logarithmic scale.

    Pixels below the floor are hatched.
    """
    found = tree["strain"].dataset
    density, floor = (np.asarray(found[name].isel(z=layer), np.float64) for name in ("density", "density_floor"))
    known = np.isfinite(density)
    if not known.any():
        return None
    below = known & ~(density > floor)
    with np.errstate(divide="ignore", invalid="ignore"):
        images = [
            np.log10(np.where(values > 0, values, np.nan)) for values in (np.where(below, np.nan, density), floor)
        ]
    low, high = robust_limits(np.concatenate([image.ravel() for image in images]), 0.5, 99.95)
    label = "log₁₀ of the density in µm⁻²"
    panels = [
        Panel(name, title, image, label, "viridis", (low, high))
        for name, title, image in zip(
            ("density", "density_floor"), ("density, lower bound", "noise floor"), images, strict=True
        )
    ]
    clear = known & (density > CLEAR * floor)
    said = [
        f"{100 * clear.sum() / known.sum():.3g} % of the pixels exceed the noise floor by a factor of {CLEAR:g}.",
        f"Their median density is {number(median_of(density[clear]))} µm⁻², the median floor"
        f" {number(median_of(floor))} µm⁻² (1 µm⁻² is 10¹² m⁻²).",
        "Noise alone gives densities about the floor. Hatched: below the floor.",
    ]
    page = component_page(panels, 2, grid_of(found), heading, sentences=said, foot=FOOT)
    _hatch(page.axes[0], below, found)
    return page


def _hatch(axes: Axes, below: np.ndarray, found: xr.Dataset) -> None:
    """Cover pixels by a light colour with hatching."""
    from matplotlib.colors import ListedColormap

    if not below.any():
        return
    first = axes.images[0]
    axes.imshow(
        np.where(below, 0.0, np.nan), extent=first.get_extent(), cmap=ListedColormap([BELOW]), interpolation="nearest"
    )
    x, y = (np.asarray(found[name], float) for name in ("x", "y"))
    areas = axes.contourf(x, y, below.astype(float), [0.5, 1.5], colors="none", hatches=["////"])
    areas.set(edgecolor="0.7", linewidth=0)
