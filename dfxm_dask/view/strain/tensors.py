"""Maps of the deformation gradient, the rotation and the strain, and of their standard errors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from dfxm_dask.view.figures.maps import FOOT, TICKS, Panel, grid_of, place_axes
from dfxm_dask.view.figures.mosaic import Key, draw_key
from dfxm_dask.view.strain.component_page import RADIANS, SCALES, XYZ, component_page, component_panels

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.figure import Figure

ONE_SCALE = f"one colour scale for all components; {FOOT}"
UPPER = ((0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1))
"""Rows and columns of the six components of a symmetric tensor."""
NINE = tuple((i, j) for i in range(3) for j in range(3))
KEY_SIDE = 1.2
WITHIN = 95.0
"""Percent of the pixels inside the colour key (our choice)."""

Images = dict[str, np.ndarray]


def tensor_maps(values: xr.DataArray, layer: int, symbol: str, components: Sequence[tuple[int, int]] = NINE) -> Images:
    """Components (y, x) of a layer by title."""
    found = np.asarray(values.isel(z=layer).transpose("y", "x", "row", "column"), np.float64)
    return {f"{symbol} {XYZ[i]}{XYZ[j]}": found[..., i, j] for i, j in components}


def vector_maps(values: xr.DataArray, layer: int, symbol: str) -> Images:
    """Three components (y, x) of a layer by title."""
    found = np.asarray(values.isel(z=layer).transpose("y", "x", "xyz"), np.float64)
    return {f"{symbol} {name}": found[..., k] for k, name in enumerate(XYZ)}


def errors_of(
    found: xr.Dataset, name: str, layer: int, components: Sequence[tuple[int, int]] = NINE
) -> list[np.ndarray]:
    """Standard errors of the components of a vector or tensor; empty where the store lacks them."""
    if f"{name}_error" not in found:
        return []
    error = found[f"{name}_error"]
    maps = vector_maps(error, layer, "") if "xyz" in error.dims else tensor_maps(error, layer, "", components)
    return list(maps.values())


def unknown_words(images: Images) -> list[str]:
    """Sentence on the components that are NaN in the whole layer."""
    absent = [title for title, image in images.items() if not np.isfinite(image).any()]
    return [f"Not determined in this layer: {', '.join(absent)}."] if absent else []


def draw_deformation(tree: xr.DataTree, layer: int, heading: str) -> Figure:
    """A page with the nine components of F - I on one scale."""
    found = tree["strain"].dataset
    images = tensor_maps(found["deformation"], layer, "F − I,")
    images = {title: image - (title[-1] == title[-2]) for title, image in images.items()}
    panels = component_panels(images, "F − I", SCALES)
    return component_page(panels, 3, grid_of(found), heading, sentences=unknown_words(images), foot=ONE_SCALE)


def draw_deformation_error(tree: xr.DataTree, layer: int, heading: str) -> Figure:
    """A page with the standard errors of the nine components of F on one scale."""
    found = tree["strain"].dataset
    images = tensor_maps(found["deformation_error"], layer, "F")
    panels = component_panels(images, "standard error of F", SCALES, signed=False, errors=list(images.values()))
    return component_page(panels, 3, grid_of(found), heading, sentences=unknown_words(images), foot=ONE_SCALE)


def draw_strain(tree: xr.DataTree, layer: int, heading: str) -> Figure:
    """A page with the six components of the strain on one scale, and their median errors."""
    found = tree["strain"].dataset
    images = tensor_maps(found["strain"], layer, "strain", UPPER)
    panels = component_panels(images, "strain", SCALES, errors=errors_of(found, "strain", layer, UPPER))
    return component_page(panels, 3, grid_of(found), heading, sentences=unknown_words(images), foot=ONE_SCALE)


def draw_rotation(tree: xr.DataTree, layer: int, heading: str) -> Figure:
    """A page with the rotations about x, y and z on one scale, and the tilt of the lattice along z in colours."""
    found = tree["strain"].dataset
    images = vector_maps(found["rotation"], layer, "rotation about")
    errors = errors_of(found, "rotation", layer)
    panels = component_panels(images, "rotation", RADIANS, errors=errors)
    about_x, about_y, _ = (panel.image for panel in panels)
    key = tilt_key(about_y, about_x, panels[0].label.partition("(")[2].rstrip(")"))
    tilt = Panel("tilt", "tilt of the lattice about x and y", key.colours(about_y, about_x))
    page = component_page(
        [*panels, tilt],
        2,
        grid_of(found),
        heading,
        sentences=unknown_words(images),
        foot=f"{FOOT}; tilts outside the circle of the key have the colour of its rim",
        below=TICKS + 0.15 + KEY_SIDE + TICKS,
    )
    middle = page.axes[3].get_position()
    across, up = page.get_size_inches()
    left = (middle.x0 + middle.x1) / 2 * across - KEY_SIDE / 2
    axes = place_axes(page, left, middle.y0 * up - TICKS - 0.2 - KEY_SIDE, KEY_SIDE, KEY_SIDE)
    draw_key(axes, key)
    axes.set_title("")
    return page


def tilt_key(first: np.ndarray, second: np.ndarray, units: str) -> Key:
    """Colour key of the rotations about y (upwards) and x (to the right), a circle about their medians."""
    pair = [values[np.isfinite(values)] for values in (first, second)]
    middle = [float(np.median(values)) if values.size else 0.0 for values in pair]
    known = np.isfinite(first) & np.isfinite(second)
    away = np.hypot(first - middle[0], second - middle[1])[known]
    half = max(float(np.percentile(away, WITHIN)), 1e-9) if away.size else 1.0
    return Key(("about y", "about x"), (middle[0], middle[1]), (half, half), (units, units), tilt_colours)


def tilt_colours(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Colours of positions in the unit disc: lighter towards positive ``first``, yellow towards positive ``second``,
    blue towards negative.

    Notes
    -----
    CIELAB with L* = 58 + 34 first, b* = 62 second and a* = 22 (1 - radius): readers with a red-green deficiency keep
    the two directions, which differ in lightness and in blue against yellow alone. The middle is mauve, to differ from
    the grey of missing values.
    """
    from skimage.color import lab2rgb

    radius = np.hypot(first, second)
    known = np.isfinite(radius)
    inside = np.maximum(np.where(known, radius, 1.0), 1.0)
    u, v = (np.where(known, values, 0.0) / inside for values in (first, second))
    lab = np.stack([58 + 34 * u, 22 * (1 - np.hypot(u, v)), 62 * v], axis=-1)
    return np.where(known[..., None], np.clip(lab2rgb(lab), 0, 1), np.nan)
