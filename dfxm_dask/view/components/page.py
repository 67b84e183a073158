"""Components of a scan: the curves of a basis, and maps of their coefficients."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from dfxm_dask.view.components.words import fit_words, names_of, treatment_words
from dfxm_dask.view.figures.index import FigureKind
from dfxm_dask.view.figures.layout import (
    FOOTER,
    PAGE,
    SMALL,
    TOP,
    add_words,
    sentences_height,
    wrapped,
    write_sentences,
)
from dfxm_dask.view.figures.maps import (
    BAR,
    FOOT,
    MARGIN,
    SIGNED,
    TICKS,
    TITLE,
    Panel,
    add_title,
    draw_panel,
    ends_beyond,
    grid_of,
    labelled,
    map_size,
    place_axes,
    robust_limits,
    signed_panel,
)
from dfxm_dask.view.figures.maps import SIDE as MAP_SIDE

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

METHODS = {
    "gram_schmidt": "Gram–Schmidt basis",
    "pca": "principal components (PCA)",
    "nmf": "non-negative factors (NMF)",
    "nica": "non-negative independent components (NICA)",
}
CURVE, SIDE, GAP = 2.3, 0.72, 0.22  # inches: width of a curve, of the margins at its left (ticks) and right
LEAST_HEIGHT = 1.5  # inches of a curve beside a map that is lower than that
UNDER = 0.5  # inches below a curve for ticks and label
MOST = 8
"""Components on a page; a sentence states how many more there are (our choice)."""
LINE, BAND = "#0072b2", "#56b4e9"


@dataclass(frozen=True)
class Curve:
    """One curve of a basis, ready to be drawn.

    Parameters
    ----------
    title : str
    values : DataArray (scan axes)
        With the positions of the frames as coordinates.
    label : str
        Name and unit of the values.
    spread : array (scan axes), optional
        Standard deviation.
    """

    title: str
    values: xr.DataArray
    label: str = "curve of length 1"
    spread: np.ndarray | None = None


def curves_of(found: xr.Dataset, method: str) -> list[Curve]:
    """The curves of a basis, and last the mean curve where one was subtracted."""
    basis = found[f"{method}_basis"]
    spread = np.asarray(found[f"{method}_bootstrap"]) if f"{method}_bootstrap" in found else None
    curves = [
        Curve(f"curve: {name}", basis[k], spread=None if spread is None else spread[k])
        for k, name in enumerate(names_of(found, method)[:MOST])
    ]
    mean = found[f"{method}_mean"]
    if np.asarray(mean).any():
        formula, unit, _ = treatment_words(np.asarray(found[f"{method}_scaling"]))
        curves.append(Curve("mean curve, subtracted first", mean, labelled(f"mean of {formula or 'curves'}", unit)))
    return curves


def component_panels(found: xr.Dataset, method: str) -> list[Panel]:
    """Coefficient maps of a layer, and last the residual of the basis.

    Parameters
    ----------
    found : Dataset
        One layer of the group.
    method : str
    """
    formula, unit, _ = treatment_words(np.asarray(found[f"{method}_scaling"]))
    of = f" of {formula}" if formula else ""
    panels = []
    if f"{method}_coefficient" in found:
        for k, name in enumerate(names_of(found, method)[:MOST]):
            image = np.asarray(found[f"{method}_coefficient"].isel({f"{method}_component": k}), float)
            panels.append(signed_panel(f"{method}_{k}", f"coefficient: {name}", image, f"coefficient{of}", unit))
    if f"{method}_residual" in found:
        image = np.asarray(found[f"{method}_residual"], float)
        title = "residual of the basis"
        panels.append(signed_panel(f"{method}_residual", title, image, f"rms over frames{of}", unit))
    return panels


def draw_components(tree: xr.DataTree, method: str, layer: int, heading: str = "") -> Figure | None:
    """A page with the curves of a basis and the maps of their coefficients.

    Parameters
    ----------
    tree : DataTree
        With a group ``components``; maps and numbers of the method that are absent are left out.
    method : str
        "gram_schmidt", "pca", "nmf" or "nica".
    layer : int
        Number along z.
    heading : str
        Printed at the top.

    Returns
    -------
    Figure or None
        The verdict on the fit; every curve over the scan, with its bootstrap where there is one, beside the map of its
        coefficient; the residual of the basis. Sentences alone where there is no basis. ``None`` where the method was
        not fitted.
    """
    from matplotlib.figure import Figure

    if "components" not in tree or not {f"{method}_basis", f"{method}_scaling", f"{method}_mean"} <= set(
        map(str, tree["components"].data_vars)
    ):
        return None
    group = tree["components"].dataset
    found = group[[name for name in group.data_vars if str(name).startswith(f"{method}_")]]
    found = (found.isel(z=layer) if "z" in found.dims else found).load()
    grid = grid_of(tree)
    sentences = fit_words(found, method)
    curves: list[Curve] = []
    panels: list[Panel] = []
    if np.isfinite(np.asarray(found[f"{method}_basis"])).all():
        curves, panels = curves_of(found, method), component_panels(found, method)
        count = found.sizes[f"{method}_component"]
        if count > MOST:
            sentences.append(f"The first {MOST} of {count} components are drawn.")
        if f"{method}_coefficient" not in found:
            sentences.append(f"There are no maps yet: run project_{method}.")
    room = PAGE - SIDE - CURVE - GAP - MAP_SIDE - MARGIN
    width, height = map_size(grid, room, 3.0)
    body = max(height, LEAST_HEIGHT)
    said = wrapped(sentences, PAGE - 2 * MARGIN, SMALL)
    tall = TITLE + body + max(UNDER, TICKS + BAR - (body - height) if panels else 0.0)
    words = TOP + sentences_height(said) + 0.06
    alone = max(len(panels) - len(curves), 0) * (TITLE + height + TICKS + BAR)  # rows without a curve
    up = words + len(curves) * tall + alone + FOOTER
    figure = Figure(figsize=(PAGE, up))
    write_sentences(figure, said, MARGIN, TOP)
    top = up - words - TITLE
    for row in range(max(len(curves), len(panels))):
        if row < len(curves):
            draw_curve(figure, curves[row], SIDE, top - body, body)
        if row < len(panels):
            left = SIDE + CURVE + GAP + MAP_SIDE + (room - width) / 2
            draw_panel(figure, left, top - height, width, panels[row], grid)
        top -= tall if row < len(curves) else TITLE + height + TICKS + BAR
    foot = "band: one standard deviation of the bootstrap to either side; " if has_band(curves) else ""
    add_words(figure, f"{METHODS[method]}; {heading}", foot + FOOT if panels else "")
    return figure


def has_band(curves: list[Curve]) -> bool:
    """Whether a curve is drawn with a band."""
    return any(curve.spread is not None and plain_axes(curve.values).ndim == 1 for curve in curves)


def plain_axes(values: xr.DataArray) -> xr.DataArray:
    """A curve without the axes along which there is one position only, but with at least one axis."""
    single = [dim for dim in values.dims if values.sizes[dim] == 1]
    return values.isel(dict.fromkeys(single[: max(0, values.ndim - 1)], 0))


def positions(values: xr.DataArray, axis: str) -> tuple[np.ndarray, str]:
    """Positions along a scan axis, and its label."""
    if axis not in values.coords:
        return np.arange(values.sizes[axis]), f"{axis} (number)"
    return np.asarray(values[axis]), labelled(axis, values[axis].attrs.get("units", ""))


def draw_curve(figure: Figure, curve: Curve, left: float, bottom: float, height: float) -> Axes:
    """A curve over one scan axis, or as an image over two; further axes are averaged over."""
    from matplotlib.ticker import MaxNLocator

    values = plain_axes(curve.values)
    names = [str(dim) for dim in values.dims]
    title = curve.title
    if len(names) > 2:
        title += f", mean over {', '.join(names[:-2])}"
        values, names = values.mean(names[:-2]), names[-2:]
    two = len(names) == 2
    axes = place_axes(figure, left, bottom, CURVE - 0.75 if two else CURVE, height)
    at, label = positions(values, names[-1])
    numbers = np.asarray(values, float)
    if two:
        up, upward = positions(values, names[0])
        low, high = robust_limits(numbers, 0.1, 99.9)
        signed = low < -SIGNED * max(high, 0.0)
        high = max(-low, high) if signed else high
        image = axes.pcolormesh(
            at,
            up,
            numbers,
            cmap="RdBu_r" if signed else "viridis",
            vmin=-high if signed else low,
            vmax=high,
            shading="nearest",
            rasterized=True,
        )
        bar = place_axes(figure, left + CURVE - 0.67, bottom, 0.1, height)
        ends = ends_beyond(numbers, -high if signed else low, high)
        key = figure.colorbar(image, cax=bar, extend=ends, extendfrac=0.03)
        key.set_label(curve.label, fontsize=8, labelpad=2)
        key.ax.tick_params(labelsize=7.5, length=2.5, pad=1.5)
        key.ax.yaxis.set_major_locator(MaxNLocator(5))
        key.outline.set_linewidth(0.5)
    else:
        upward = curve.label
        axes.axhline(0, color="0.7", lw=0.7)
        if curve.spread is not None:
            spread = np.asarray(curve.spread).reshape(numbers.shape)
            axes.fill_between(at, numbers - spread, numbers + spread, color=BAND, alpha=0.5, lw=0)
        axes.plot(at, numbers, color=LINE, lw=1.2, marker="o", ms=2.2 if numbers.size < 80 else 0)
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
    add_title(axes, title, CURVE + 0.5, 9.5)
    axes.set_xlabel(label, fontsize=8, labelpad=1)
    axes.set_ylabel(upward, fontsize=8, labelpad=2)
    axes.tick_params(labelsize=7.5, length=2.5)
    axes.xaxis.set_major_locator(MaxNLocator(4 if two else 5))
    axes.yaxis.set_major_locator(MaxNLocator(5))
    axes.ticklabel_format(axis="both", useOffset=False)
    return axes


def page_of(method: str) -> Callable[[xr.DataTree, int, str], Figure | None]:
    """Function that draws the page of a method."""
    return lambda tree, layer, heading: draw_components(tree, method, layer, heading)


FIGURES = tuple(
    FigureKind(
        f"components_{method}",
        page_of(method),
        ("components",),
        f"Components: {name}",
    )
    for method, name in METHODS.items()
)
