"""Components of a scan: the few curves that all rocking curves are made of, and how much of each is where."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from dfxm_dask.components.curves import KINDS
from dfxm_dask.components.regions import NAMES
from dfxm_dask.view.figures.beams import SMALL, wrapped
from dfxm_dask.view.figures.maps import (
    BAR,
    FOOT,
    MARGIN,
    TITLE,
    Panel,
    add_words,
    draw_panel,
    finer_units,
    labelled,
    map_size,
    pixel_grid,
    place_axes,
    robust_limits,
)

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
CURVE, SIDE, GAP = 3.2, 0.72, 0.5  # inches: width of a curve, of the room left of it for ticks, and right of it
LEAST_HEIGHT = 1.7  # inches of a curve beside a map that is lower than that
UNDER = 0.52  # inches below a curve for ticks and label, and some room
TOP, FOOTER = 0.42, 0.3  # inches above the words, and below the last row
MOST = 8
"""Components on a page; the words say where there are more (our choice)."""
SIGNED = 0.02
"""Depth of the lower limit below zero, as part of the upper one, from which values are drawn as signed (our choice)."""
LINE, BAND = "#0072b2", "#56b4e9"
REPORTED = (
    "condition",
    "rms",
    "rms_least",
    "has_tails",
    "noise_rank",
    "rounds",
    "converged",
    "found",
    "unexplained",
    "optimum",
    "negative",
    "whitening",
)
"""Numbers of a fit that words are made of."""


@dataclass(frozen=True)
class Curve:
    """One curve of a basis, ready to be drawn.

    Parameters
    ----------
    title : str
    values : DataArray (scan axes)
        With the positions of the frames as coordinates.
    label : str
        What the values are, with unit.
    spread : array (scan axes), optional
        Standard deviation.
    """

    title: str
    values: xr.DataArray
    label: str = "curve of length 1"
    spread: np.ndarray | None = None


def treatment_words(scaling: np.ndarray) -> tuple[str, str, str]:
    """What curves a fit was made of.

    Parameters
    ----------
    scaling : array (4,)
        See :func:`dfxm_dask.components.curves.scaling_of`.

    Returns
    -------
    formula : str
        Of the counts I above background; empty where they are taken as they are.
    unit : str
    words : str

    Examples
    --------
    >>> treatment_words(np.array([1.0, 0.375, 100.0, 0.0]))
    ('2 √(I + 0.375)', '1', 'Curves of 2 √(I + 0.375), I being the counts above 100.')
    """
    kind = KINDS[int(scaling[0])]
    above = "counts above the background map" if np.isnan(scaling[2]) else f"counts above {scaling[2]:g}"
    if kind == "plain":
        return "", "count", f"Curves of {above}."
    inner = f"(I + {scaling[1]:g})" if scaling[1] else "(I)"
    formula = f"ln{inner}" if kind == "log" else f"2 √{inner}"
    return formula, "1", f"Curves of {formula}, I being the {above}."


def fit_words(found: xr.Dataset, method: str) -> list[str]:
    """What a fit says of itself: a verdict, and the numbers.

    Parameters
    ----------
    found : Dataset
        Of the group; a variable that is absent is not spoken of.
    method : str

    Returns
    -------
    list of str
        The first one is the verdict.
    """
    number = {name: float(found[f"{method}_{name}"]) for name in REPORTED if f"{method}_{name}" in found}
    _, unit, treated = treatment_words(np.asarray(found[f"{method}_scaling"]))
    if not np.isfinite(np.asarray(found[f"{method}_basis"])).all():
        dependent = np.isfinite(number.get("rms_least", np.nan))
        why = "one curve follows from the others" if dependent else "no curve is lit"
        return [f"There is no basis: {why}.", treated]
    if method == "gram_schmidt":
        verdict, *told = gram_schmidt_words(found, number, unit)
    elif method == "pca":
        verdict, *told = pca_words(found, number)
    else:
        verdict, *told = mixture_words(found.sizes[f"{method}_component"], number)
    return [verdict, treated, *told]


def gram_schmidt_words(found: xr.Dataset, number: dict[str, float], unit: str) -> list[str]:
    """Whether the basis is one of weak and strong beam, and how good it is."""
    told = ["Curves of the strong beam, and of what the weak beam on either side of the peak adds to it."]
    if not number.get("has_tails", 1.0):
        told = [
            "The scan does not reach its weak beam, as far as can be told: the basis is that of clusters of curves, not"
            " of weak and strong beam."
        ]
    if {"rms", "rms_least"} <= set(number):
        left, least = number["rms"], number["rms_least"]
        more = f", {100 * (left / least - 1):.3g} % above the {least:.4g} of the best basis" if least > 0 else ""
        told.append(f"The basis leaves an rms of {labelled(f'{left:.4g}', unit)} of all lit curves{more} of that size.")
    if {"gram_schmidt_condition", "gram_schmidt_pixels"} <= set(map(str, found)):
        *most, last = (f"{int(count)}" for count in np.asarray(found["gram_schmidt_pixels"]))
        told.append(
            f"Its curves were means of {', '.join(most)} and {last} pixels, with a condition number of"
            f" {number['condition']:.3g}, before they were made orthonormal."
        )
    return told


def pca_words(found: xr.Dataset, number: dict[str, float]) -> list[str]:
    """What the components explain, and how many stand out of the noise."""
    count = found.sizes["pca_component"]
    told = [f"Principal components: {count}."]
    if "pca_explained" in found:
        about = "the mean curve" if np.asarray(found["pca_mean"]).any() else "zero"
        share = 100 * float(np.asarray(found["pca_explained"]).sum())
        told = [f"{count} components explain {share:.4g} % of the squares of all lit curves about {about}."]
    rank = number.get("noise_rank", np.nan)
    if np.isfinite(rank):
        return [*told, f"{rank:.0f} components stand out of the noise."]
    unknown = "How many components stand out of the noise is not known: that needs two lit curves for each frame."
    return [*told, unknown]


def mixture_words(count: int, number: dict[str, float]) -> list[str]:
    """Whether a fit by rounds converged, and what it leaves."""
    rounds = f"{number.get('rounds', np.nan):.0f} rounds"
    told = [f"The fit converged after {rounds}."]
    if not number.get("converged", 1.0):
        told = [f"The fit did not converge within {rounds}: these curves may still change."]
    kept = int(number.get("found", count))
    if kept < count:
        told.append(f"Only {kept} of {count} components were found, or stand out of the noise: the others are zero.")
    if {"unexplained", "optimum"} <= set(number):
        left, least = (100 * number[name] for name in ("unexplained", "optimum"))
        told.append(
            f"{left:.4g} % of the squares of the sampled curves are left; no {kept} curves leave less than"
            f" {least:.4g} %."
        )
    if "negative" in number:
        by = {0: ", whitened by the covariance", 1: ", whitened by the mean products"}
        told.append(
            f"Before any refinement {100 * number['negative']:.3g} % of the squares of the sources and their"
            f" curves were below zero{by.get(int(number.get('whitening', -1)), '')}."
        )
    return told


def names_of(found: xr.Dataset, method: str) -> list[str]:
    """What each component is called: the region of a Gram–Schmidt curve, the share of a principal component."""
    if method == "gram_schmidt" and "gram_schmidt_region" in found:
        clusters = "gram_schmidt_has_tails" in found and not bool(found["gram_schmidt_has_tails"])
        more = " (cluster)" if clusters else ""
        return [f"{NAMES[int(region)]}{more}" for region in np.asarray(found["gram_schmidt_region"])]
    numbers = [f"component {k + 1}" for k in range(found.sizes[f"{method}_component"])]
    if method == "pca" and "pca_explained" in found:
        shares = np.asarray(found["pca_explained"], float)
        return [f"{name} ({100 * share:.3g} %)" for name, share in zip(numbers, shares, strict=True)]
    return numbers


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
    """Coefficient maps of a layer, and last what the basis leaves.

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
            panels.append(value_panel(f"{method}_{k}", f"coefficient: {name}", image, f"coefficient{of}", unit))
    if f"{method}_residual" in found:
        image = np.asarray(found[f"{method}_residual"], float)
        title = "what the basis leaves"
        panels.append(value_panel(f"{method}_residual", title, image, f"rms over frames{of}", unit))
    return panels


def value_panel(name: str, title: str, image: np.ndarray, label: str, unit: str) -> Panel:
    """A map between robust limits; about zero, and in two colours, where it has both signs."""
    low, high = robust_limits(image)
    colours = "viridis"
    if low < -SIGNED * max(high, 0.0):
        high = max(-low, high)
        low, colours = -high, "RdBu_r"
    factor, finer = finer_units(max(abs(low), abs(high)), unit)
    return Panel(name, title, image * factor, labelled(label, finer), colours, (low * factor, high * factor))


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
        What the fit says of itself; every curve over the scan, with its bootstrap where there is one, beside the map of
        its coefficient; what the basis leaves. Words alone where there is no basis. ``None`` where the method was not
        fitted.
    """
    from matplotlib.figure import Figure

    if "components" not in tree or not {f"{method}_basis", f"{method}_scaling", f"{method}_mean"} <= set(
        map(str, tree["components"].data_vars)
    ):
        return None
    group = tree["components"].dataset
    found = group[[name for name in group.data_vars if str(name).startswith(f"{method}_")]]
    found = (found.isel(z=layer) if "z" in found.dims else found).load()
    grid = pixel_grid(np.asarray(tree["y"]), np.asarray(tree["x"]), tree["x"].attrs.get("units", "pixel"))
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
    width, height = map_size(grid, 4.6, 3.4)
    body, cell = max(height, LEAST_HEIGHT), max(width, 3.0) if panels else 0.0
    across = SIDE + CURVE + GAP + cell + MARGIN if curves else 7.0
    said = wrapped(sentences, across - 2 * GAP, SMALL)
    line, tall = 1.6 * SMALL / 72, TITLE + body + max(UNDER, BAR - (body - height))
    words = TOP + len(said) * line + 0.06
    rows = max(len(curves), len(panels))
    figure = Figure(figsize=(across, words + rows * tall + FOOTER))
    up = figure.get_size_inches()[1]
    for index, (text, weight) in enumerate(said):
        place = GAP / across, 1 - (TOP + index * line) / up
        figure.text(*place, text, va="top", fontsize=SMALL, weight=weight, color="0.15", parse_math=False)
    for row in range(rows):
        bottom = up - words - row * tall - TITLE - body
        if row < len(curves):
            draw_curve(figure, curves[row], SIDE, bottom, body)
        if row < len(panels):
            left = SIDE + CURVE + GAP + (cell - width) / 2
            draw_panel(figure, panels[row], grid, left, bottom + body - height, width, 10)
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
        below, above = bool(numbers.min() < (-high if signed else low)), bool(numbers.max() > high)
        ends = {(True, True): "both", (True, False): "min", (False, True): "max"}.get((below, above), "neither")
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
    axes.set_title(title, fontsize=10, pad=6, parse_math=False)
    axes.set_xlabel(label, fontsize=8, labelpad=1)
    axes.set_ylabel(upward, fontsize=8, labelpad=2)
    axes.tick_params(labelsize=7.5, length=2.5)
    axes.xaxis.set_major_locator(MaxNLocator(4 if two else 5))
    axes.yaxis.set_major_locator(MaxNLocator(5))
    axes.ticklabel_format(axis="both", useOffset=False)
    return axes
