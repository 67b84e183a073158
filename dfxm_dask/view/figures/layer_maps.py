"""Maps of the rocking curve that a layer has, and a page for each."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from dfxm_dask.view.figures.index import FigureKind, Pages
from dfxm_dask.view.figures.layout import map_page
from dfxm_dask.view.figures.maps import (
    UNSOUND,
    Grid,
    Panel,
    draw_panel,
    finer_units,
    flag_masks,
    flagged,
    grid_of,
    labelled,
    robust_limits,
    symbol,
)
from dfxm_dask.view.figures.mosaic import draw_mosaicity, two_centres

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.figure import Figure

# Most severe first: a pixel has the colour of its first flag. Black, dark grey and colours of the Okabe–Ito palette.
FLAGS = (
    ("hot", "#d55e00"),
    ("masked", "#000000"),
    ("unlit", "#3b3b3b"),
    ("saturated", "#f0e442"),
    ("truncated", "#cc79a7"),
    ("single", "#009e73"),
    ("multimodal", "#56b4e9"),
)
SOUND = ("sound", "#e8e8e8")


def layer_panels(maps: xr.Dataset) -> list[Panel]:
    """The maps of a layer that give an overview, in the order of a page."""
    names = [str(name) for name in maps]
    wanted: list[tuple[str, str, str, float, float]] = [
        ("total", "sum of the rocking curve", "inferno", 0.5, 99.5),
        *((name, f"centre of mass along {name[4:]}", "viridis", 1.0, 99.0) for name in names if name[:4] == "com_"),
        *((name, f"width along {name[4:]}", "plasma", 1.0, 99.0) for name in names if name[:4] == "std_"),
        *((name, f"fitted width along {name[9:]}", "plasma", 1.0, 99.0) for name in names if name[:9] == "fit_fwhm_"),
        ("kam", "local misorientation (KAM)", "magma", 1.0, 99.0),
    ]
    sound = sound_of(maps)
    panels = [value_panel(maps[each[0]], *each[1:], sound) for each in wanted if each[0] in maps]
    return panels + ([flag_panel(maps["flags"])] if "flags" in maps else [])


def sound_of(maps: xr.Dataset) -> np.ndarray | None:
    """Pixels (y, x) of a layer without flags that make their moments unreliable; None without flags."""
    return ~flagged(maps["flags"], *UNSOUND) if "flags" in maps else None


def value_panel(
    values: xr.DataArray, title: str, colours: str, low: float, high: float, sound: np.ndarray | None = None
) -> Panel:
    """A map of a quantity, with limits from sound pixels, where there are any.

    A centre of mass is shown as the deviation from its median.
    """
    name, units = str(values.name), str(values.attrs.get("units", ""))
    image = np.asarray(values, np.float64)
    kind, _, axis = name.partition("_")
    words = {"total": "above background", "std": "standard deviation", "fit": "FWHM", "kam": "misorientation"}
    label, middle = words.get(kind, name), 0.0
    telling = image[np.isfinite(image) if sound is None else np.isfinite(image) & sound]
    telling = telling if telling.size else image[np.isfinite(image)]
    if kind == "com" and telling.size:
        middle = float(np.median(telling))
        label = f"{axis} relative to {middle:.4f} {symbol(units)}".replace(" °", "°").replace("-", "−")
    limits = robust_limits(telling - middle, low, high)
    factor, finer = finer_units(max(abs(limit) for limit in limits), units)
    shown = (limits[0] * factor, limits[1] * factor)
    return Panel(name, title, (image - middle) * factor, labelled(label, finer), colours, shown)


def flag_panel(
    flags: xr.DataArray,
    name: str = "flags",
    title: str = "quality of the rocking curve",
    classes: tuple[tuple[str, str], ...] = FLAGS,
    without: tuple[str, str] = SOUND,
) -> Panel:
    """Classes of pixels by the most severe flag of their rocking curve."""
    masks = flag_masks(flags)
    bits = np.nan_to_num(np.asarray(flags))  # absent layers are NaN
    image = np.zeros(bits.shape)
    for index in reversed(range(len(classes))):
        mask = masks.get(classes[index][0])
        if mask is not None:
            image[(bits.astype(np.int64) & mask) != 0] = index + 1
    return Panel(name, title, image, categories=(without, *classes))


def single(panel: Panel, grid: Grid, heading: str) -> Figure:
    """A page with one map."""
    return map_page([partial(draw_panel, panel=panel, grid=grid, size=10)], grid, heading)


def map_pages(tree: xr.DataTree, layer: int, heading: str) -> Pages:
    """A page for each map of the rocking curve, and the mosaicity with its key."""
    maps = tree["rocking"].dataset.isel(z=layer)
    grid = grid_of(maps)
    for panel in layer_panels(maps):
        yield panel.name, partial(single, panel, grid, heading)
    if two_centres(tree["rocking"].dataset):
        yield "mosaicity", partial(draw_mosaicity, tree, layer, heading)


FIGURES = (FigureKind("maps", map_pages, ("rocking",), several=True),)
