"""Located cores: the image around a core, and its posterior in the image plane and in the plane across the line."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from dfxm_dask.view.figures.layout import FOOTER, PAGE, TOP, add_words
from dfxm_dask.view.figures.maps import MARGIN, TICKS, TITLE, place_axes, robust_limits

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SHOWN = 3  # cores on a page: the smallest, the median and the largest error
AROUND = (0.7, 1.6)  # um along y and x around a core that are shown (our choice)
LEVELS = ((0.68, 1.515), (0.95, 2.448))  # probability, and radius of the ellipse in standard deviations, in two dims
SIDE = 1.55


def chosen_cores(covariance: np.ndarray) -> list[int]:
    """Cores with the smallest, the median and the largest standard error among those with a covariance."""
    spread = np.trace(covariance, axis1=1, axis2=2)
    known = np.flatnonzero(np.isfinite(spread))
    order = known[np.argsort(spread[known], kind="stable")]
    return list(dict.fromkeys(int(order[k]) for k in (0, len(order) // 2, -1))) if len(order) else []


def draw_positions(tree: xr.DataTree, layer: int, heading: str = "") -> Figure | None:
    """A page with up to three cores: image, posterior in the image plane, posterior in the plane across the line."""
    from matplotlib.figure import Figure

    found, raw = tree["dynamics"].dataset, tree["raw"].dataset
    covariance = np.asarray(found["position_covariance"])
    cores = chosen_cores(covariance)
    if not cores:
        return None
    counts = raw["counts"].isel(z=layer)
    (axis,) = (str(d) for d in counts.dims if d not in ("y", "x"))
    position, frame = np.asarray(found["position"]), np.asarray(found["core_frame"])
    tall = TITLE + SIDE + TICKS + 0.2
    figure = Figure(figsize=(PAGE, TOP + len(cores) * tall + FOOTER))
    for row, core in enumerate(cores):
        bottom = FOOTER + (len(cores) - 1 - row) * tall + TICKS + 0.2
        image = counts.isel({axis: int(frame[core])})
        axes = place_axes(figure, 0.55, bottom, 2.1, SIDE)
        draw_window(axes, image, position[core], f"core {core}, frame {int(frame[core])}")
        axes = place_axes(figure, 3.3, bottom, SIDE / 1.15, SIDE / 1.15)
        draw_ellipses(axes, covariance[core][::-1, ::-1], ("x", "y"), "image plane")
        axes.invert_yaxis()
        if "core_plane" in found:
            turn = np.asarray(found["core_plane"][core])
            axes = place_axes(figure, PAGE - MARGIN - SIDE / 1.15, bottom, SIDE / 1.15, SIDE / 1.15)
            draw_ellipses(axes, turn @ covariance[core] @ turn.T, ("along e1", "along n"), "across the line")
    without = int((~np.isfinite(covariance).all(axis=(1, 2))).sum())
    words = f"{len(position)} cores, {without} without covariance; shown: smallest, median and largest error"
    add_words(figure, heading, f"{words}; ellipses: 68 and 95 % of the posterior about its mean; cross: core")
    return figure


def draw_window(axes: Axes, image: xr.DataArray, position: np.ndarray, title: str) -> None:
    """Counts around a core."""
    y, x = (np.asarray(image[name], float) for name in ("y", "x"))
    rows = np.flatnonzero(np.abs(y - position[0]) <= AROUND[0])
    columns = np.flatnonzero(np.abs(x - position[1]) <= AROUND[1])
    part = image.isel(y=slice(rows[0], rows[-1] + 1), x=slice(columns[0], columns[-1] + 1)).transpose("y", "x")
    values = np.asarray(part, float)
    low, high = robust_limits(values, 0.5, 99.8)
    axes.pcolormesh(x[columns], y[rows], values, cmap="gray", vmin=low, vmax=high, shading="nearest", rasterized=True)
    axes.plot(position[1], position[0], "+", color="#d55e00", ms=9, mew=1.2)
    axes.invert_yaxis()
    axes.set_title(title, fontsize=9, y=1.0, pad=5)
    axes.set_xlabel("x (µm)", fontsize=8, labelpad=1)
    axes.set_ylabel("y (µm)", fontsize=8, labelpad=2)
    axes.tick_params(labelsize=7.5, length=2.5)


def draw_ellipses(axes: Axes, covariance: np.ndarray, names: tuple[str, str], title: str) -> None:
    """Ellipses of the posterior about its mean, in nm."""
    root = np.linalg.cholesky(covariance) * 1e3
    angle = np.linspace(0, 2 * np.pi, 120)
    circle = np.stack([np.cos(angle), np.sin(angle)])
    for (probability, radius), style in zip(LEVELS, ("-", "--"), strict=True):
        axes.plot(*(radius * root @ circle), style, color="#0072b2", lw=1.1, label=f"{100 * probability:.0f} %")
    reach = 1.15 * LEVELS[-1][1] * 1e3 * float(np.sqrt(np.diag(covariance).max()))
    axes.set(xlim=(-reach, reach), ylim=(-reach, reach), aspect="equal")
    axes.plot(0, 0, "+", color="#d55e00", ms=7)
    axes.set_title(title, fontsize=9, y=1.0, pad=5)
    axes.set_xlabel(f"{names[0]} (nm)", fontsize=8, labelpad=1)
    axes.set_ylabel(f"{names[1]} (nm)", fontsize=8, labelpad=1)
    axes.tick_params(labelsize=7.5, length=2.5)
