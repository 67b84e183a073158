"""Mosaicity of a layer: its map in colours of the two centres of mass, the colour key, and their distribution."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from dfxm_dask.store.integrity.attributes import recorded_steps
from dfxm_dask.view.figures.layout import FOOTER, PAGE, TOP, add_words
from dfxm_dask.view.figures.maps import (
    MARGIN,
    SIDE,
    TICKS,
    TITLE,
    UNSOUND,
    Panel,
    draw_panel,
    flagged,
    grid_of,
    labelled,
    map_size,
    place_axes,
)

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

ENDS = 5.0, 95.0
"""Percentiles of each centre of mass between which the key has its middle (our choice)."""
WITHIN = 95.0
"""Percent of the sound pixels inside the key; the others have the colour of its rim (our choice)."""
MOST_LAYERS, MOST_PIXELS = 16, 500_000
"""Layers of a store, and pixels of each, from which the key is found (our choice)."""
SQUARE = 1.55  # inches: sides of the key and of the distribution
BINS = 60


Disc = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""Colours (..., 3) of positions in the unit disc."""


@dataclass(frozen=True)
class Key:
    """Ellipse of orientations that the colours span.

    Parameters
    ----------
    axes : (str, str)
        The first two scan axes.
    middle, half : (float, float)
        Centre and half axes of the ellipse along both, in ``units``.
    units : (str, str)
    disc : callable, optional
        Colours of the unit disc; by default :func:`disc_colours`.
    """

    axes: tuple[str, str]
    middle: tuple[float, float]
    half: tuple[float, float]
    units: tuple[str, str]
    disc: Disc | None = None

    def of_disc(self, first: np.ndarray, second: np.ndarray) -> np.ndarray:
        """Colours of positions in the unit disc."""
        return (self.disc or disc_colours)(first, second)

    def colours(self, first: np.ndarray, second: np.ndarray) -> np.ndarray:
        """Colours of two centres of mass, (..., 3) from 0 to 1; NaN where one is unknown."""
        u, v = ((c - m) / h for c, m, h in zip((first, second), self.middle, self.half, strict=True))
        return self.of_disc(u, v)

    def span(self, index: int) -> tuple[float, float]:
        """Lowest and highest position of an axis inside the key."""
        return self.middle[index] - self.half[index], self.middle[index] + self.half[index]


def disc_colours(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Colours of positions in the unit disc, (..., 3) from 0 to 1: hue by direction, white in the middle.

    Notes
    -----
    The colours are HSV with value 1, as in darling and darfix: they reach the border of sRGB. Red and green, opposite
    in hue for readers with a red-green deficiency, differ by 35 in CIELAB lightness. A position outside the disc has
    the colour of the rim.
    """
    from matplotlib.colors import hsv_to_rgb

    radius = np.hypot(first, second)
    known = np.isfinite(radius)
    hue = np.arctan2(np.where(known, first, 0), np.where(known, second, 0)) / (2 * np.pi) % 1.0
    hsv = np.stack([hue, np.where(known, radius, 0).clip(0, 1), np.ones(radius.shape)], axis=-1)
    return np.where(known[..., None], hsv_to_rgb(hsv), np.nan)


def two_centres(maps: xr.Dataset) -> tuple[str, str] | None:
    """The first two scan axes where the centre of mass along both is known."""
    axes = [str(name) for name in maps.coords if "scan_axis" in maps[name].attrs]
    axes = sorted(axes, key=lambda name: int(maps[name].attrs["scan_axis"]))[:2]
    return (axes[0], axes[1]) if len(axes) == 2 and {f"com_{name}" for name in axes} <= set(maps) else None


def sound_centres(maps: xr.Dataset) -> np.ndarray:
    """Both centres of mass of the sound pixels of one layer, (pixel, 2)."""
    axes = two_centres(maps)
    assert axes is not None
    both = np.stack([np.asarray(maps[f"com_{name}"], np.float64) for name in axes], axis=-1)
    known = np.isfinite(both).all(axis=-1)
    sound = known & ~flagged(maps["flags"], *UNSOUND) if "flags" in maps else known
    return both[sound if sound.any() else known]


def key_of(maps: xr.Dataset) -> Key:
    """The key of a store, shared by all its layers.

    Parameters
    ----------
    maps : Dataset
        The group ``rocking`` with all layers.

    Returns
    -------
    Key
        Centre and half range that the recipe gave to ``mosaicity``; without these, from the data: the middle of the
        5th and 95th percentile of each centre of mass over sound pixels, and the ellipse about it, with axes in the
        ratio of these ranges, that holds 95 % of them.
    """
    axes = two_centres(maps)
    assert axes is not None
    units = tuple(str(maps[f"com_{name}"].attrs.get("units", "")) for name in axes)
    layers = np.unique(np.linspace(0, maps.sizes["z"] - 1, MOST_LAYERS).round().astype(int))
    parts = [sound_centres(maps.isel(z=int(layer))) for layer in layers]
    centres = np.concatenate([part[:: len(part) // MOST_PIXELS + 1] for part in parts])
    record = recorded_steps(maps.attrs).get("mosaicity", {})
    given = dict(record.get("parameters") or {})
    middle, half = given.get("centre"), given.get("half_range")
    if not len(centres):
        middle, half = middle or (0.0, 0.0), half or (1.0, 1.0)
    if middle is None:
        middle = np.percentile(centres, ENDS, axis=0).mean(axis=0)
    if half is None:
        half = np.abs(np.percentile(centres, ENDS, axis=0) - np.asarray(middle)).max(axis=0)
        half = np.maximum(half, 1e-6 * np.maximum(np.abs(middle), 1e-3))
        half = half * np.percentile(np.hypot(*((centres - middle) / half).T), WITHIN)
        half = np.maximum(half, 1e-9)
    first, second = (float(v) for v in middle), (float(v) for v in half)
    return Key(axes, tuple(first), tuple(second), units)  # type: ignore[arg-type]


def mosaicity_panel(maps: xr.Dataset, layer: int, key: Key | None = None) -> Panel:
    """The map of a layer of the group ``rocking`` in colours of its key."""
    key = key or key_of(maps)
    one = maps.isel(z=layer)
    image = key.colours(*(np.asarray(one[f"com_{name}"], np.float64) for name in key.axes))
    return Panel("mosaicity", "mosaicity", image, "colour key: figure mosaicity")


def draw_mosaicity(tree: xr.DataTree, layer: int, heading: str) -> Figure:
    """A page with the mosaicity map, its key, and the distribution of orientations beside it.

    Parameters
    ----------
    tree : DataTree
        With a group ``rocking`` that holds the centres of mass along two scan axes.
    layer : int
        Number along z.
    heading : str
        Printed at the top.
    """
    from matplotlib.figure import Figure

    maps = tree["rocking"].dataset
    key, grid = key_of(maps), grid_of(maps)
    panel = mosaicity_panel(maps, layer, key)
    pair = SIDE + 0.12 + SQUARE  # one square with its ticks
    beside = grid.ratio > 0.5
    width, height = map_size(grid, PAGE - pair - SIDE - 2 * MARGIN if beside else PAGE - SIDE - 2 * MARGIN, 5.0)
    block = TITLE + SQUARE + TICKS + 0.1
    body = max(TITLE + height + TICKS, 2 * block) if beside else TITLE + height + TICKS + block
    across = max(width, 2.2) + SIDE + pair + 2 * MARGIN if beside else PAGE
    figure = Figure(figsize=(across, TOP + body + FOOTER))
    up = figure.get_size_inches()[1] - TOP - TITLE
    left = SIDE + 0.1 + (max(width, 2.2) - width if beside else PAGE - SIDE - MARGIN - width) / 2
    draw_panel(figure, left, up - height, width, panel, grid, 10, key=False)
    if beside:
        places = [(across - MARGIN - SQUARE, up - SQUARE - n * block) for n in (0, 1)]
    else:
        places = [(across / 2 + side, up - height - TICKS - block + TICKS + 0.1) for side in (-SQUARE - 0.2, 0.7)]
    draw_key(place_axes(figure, *places[0], SQUARE, SQUARE), key)
    draw_distribution(place_axes(figure, *places[1], SQUARE, SQUARE), key, sound_centres(maps.isel(z=layer)))
    add_words(
        figure, heading, "grey: no value; centres of mass outside the ellipse of the key have the colour of its rim"
    )
    return figure


def draw_key(axes: Axes, key: Key) -> None:
    """The disc of colours over both scan axes."""
    from matplotlib.patches import Ellipse

    place = np.linspace(-1, 1, 301)
    first, second = np.meshgrid(place, place, indexing="ij")
    inside = np.hypot(first, second) <= 1
    image = np.dstack([key.of_disc(first, second), inside])
    axes.imshow(image, extent=(*key.span(1), *key.span(0)), origin="lower", aspect="auto", interpolation="nearest")
    ring = Ellipse(key.middle[::-1], 2 * key.half[1], 2 * key.half[0], fill=False, edgecolor="0.3", linewidth=0.6)
    axes.add_patch(ring)
    axes.set_title("colour key", fontsize=9, pad=4)
    _dress(axes, key)


def draw_distribution(axes: Axes, key: Key, centres: np.ndarray) -> None:
    """Histogram of the two centres of mass of the sound pixels of a layer, with the rim of the key."""
    from matplotlib.colors import LogNorm
    from matplotlib.patches import Ellipse

    away = np.abs((centres - key.middle) / key.half)
    reach = float(np.clip(1.05 * np.percentile(away, 99.9), 1.15, 2.5)) if away.size else 1.15
    edges = [np.linspace(m - reach * h, m + reach * h, BINS + 1) for m, h in zip(key.middle, key.half, strict=True)]
    counts, _, _ = np.histogram2d(centres[:, 0], centres[:, 1], edges)
    shown = np.where(counts > 0, counts, np.nan)
    norm = LogNorm(0.5, max(float(counts.max(initial=1.0)), 1.0))
    axes.pcolormesh(edges[1], edges[0], shown, cmap="Greys", norm=norm, rasterized=True)
    ring = Ellipse(key.middle[::-1], 2 * key.half[1], 2 * key.half[0], fill=False, edgecolor="#d55e00", linewidth=1.0)
    axes.add_patch(ring)
    axes.set_title("orientation distribution", fontsize=9, pad=4)
    _dress(axes, key)


def _dress(axes: Axes, key: Key) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.set_xlabel(labelled(key.axes[1], key.units[1]), fontsize=8, labelpad=1)
    axes.set_ylabel(labelled(key.axes[0], key.units[0]), fontsize=8, labelpad=1)
    axes.tick_params(labelsize=7, length=2.5, pad=1.5)
    axes.xaxis.set_major_locator(MaxNLocator(3))
    axes.yaxis.set_major_locator(MaxNLocator(4))
    axes.ticklabel_format(axis="both", useOffset=False)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
