"""Boundaries of subgrains in figures: a page for each, with its points, its lines and their period."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from scipy.ndimage import gaussian_filter1d

from dfxm_dask.boundaries.characterise import beside_patch
from dfxm_dask.boundaries.lines.projected_lines import BIN, BLUR, LONGEST, SHORTEST, located_lines
from dfxm_dask.boundaries.planes.plane import in_plane
from dfxm_dask.view.boundaries.clip import volume_box
from dfxm_dask.view.boundaries.words import MOST, STYLES, Tables, boundary_words, colour_of, families_of, tables_of
from dfxm_dask.view.figures.layout import PAGE, SMALL, add_words, sentences_height, wrapped, write_sentences
from dfxm_dask.view.figures.maps import TITLE, labelled, place_axes

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Cloud = tuple[np.ndarray, np.ndarray]

SIDE, HIGH, LOW, UNDER = 0.72, 3.4, 2.3, 0.8
"""Inches: room for ticks, height of the plane and of a curve, and room below for ticks and keys."""


def cloud_of(found: Tables, k: int) -> Cloud:
    """Points in which the lines of one boundary were searched: points of single lines beside its patch, or its own.

    Parameters
    ----------
    found : dict
        See :func:`dfxm_dask.view.boundaries.words.tables_of`.
    k : int
        Number of the boundary.
    """
    if not len(found["line_point"]) or not np.isfinite(found["corner"][k]).all():
        own = found["point_boundary"] == k
        return found["point"][own], found["point_weight"][own]
    near = beside_patch(found["line_point"], found["normal"][k], found["corner"][k])
    return found["line_point"][near], found["line_point_weight"][near]


def line_angle(line: np.ndarray, normal: np.ndarray) -> float:
    """Angle of a line in the plane from the first axis of :func:`~dfxm_dask.boundaries.planes.plane.in_plane`; rad."""
    first, second = in_plane(normal)
    return float(np.arctan2(line @ second, line @ first))


def line_profile(across: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Weight of points per um across lines, in bins of 0.2 um, blurred by 0.3 um.

    Parameters
    ----------
    across : array (point,), um
    weights : array (point,)

    Returns
    -------
    place : array (bin,), um
        Centres.
    profile : array (bin,), 1/um
    """
    first = np.floor(across.min() / BIN) - 8
    count = int(np.ceil(across.max() / BIN) - first) + 8
    edges = (first + np.arange(count + 1)) * BIN
    profile, _ = np.histogram(across, edges, weights=weights)
    return (edges[1:] + edges[:-1]) / 2, gaussian_filter1d(profile / BIN, BLUR / BIN, mode="constant")


def period_power(across: np.ndarray, weights: np.ndarray, spacing: np.ndarray) -> np.ndarray:
    """Power of a profile at each period: |sum w exp(2 pi i s/spacing)|²/(sum w)²; 1 for sharp lines, evenly spaced.

    Parameters
    ----------
    across : array (point,), um
    weights : array (point,)
    spacing : array (spacing,), um

    Examples
    --------
    >>> period_power(np.arange(6.0) * 4, np.ones(6), np.array([4.0, 8.0])).round(6).tolist()
    [1.0, 0.0]
    """
    waves = [weights @ np.exp(2j * np.pi / d * across) for d in spacing]
    return np.asarray(np.abs(np.array(waves)) ** 2 / weights.sum() ** 2)


def draw_boundary(found: Tables, k: int, heading: str = "") -> Figure:
    """A page with one boundary: its points seen along the normal, the profile across its lines, and its periods.

    Parameters
    ----------
    found : dict
        See :func:`dfxm_dask.view.boundaries.words.tables_of`.
    k : int
        Number of the boundary.
    heading : str
        Printed at the top.

    Returns
    -------
    Figure
        Lines are drawn at the maxima of the profile of the stored points; the number in the sentences is from the
        strip of the weak beam and may differ. Sentences below state the known quantities with their errors, and the
        unknown ones.
    """
    from matplotlib.figure import Figure

    families = families_of(found, k)
    sentences = boundary_words(found, k)
    said = wrapped(sentences, PAGE - 2 * SIDE, SMALL)
    words = sentences_height(said) + 0.3
    up = 0.42 + 2 * (TITLE + UNDER) + HIGH + LOW + words
    figure = Figure(figsize=(PAGE, up))
    bottom = words + UNDER
    points, weights = cloud_of(found, k)
    single = len(found["line_point"]) > 0
    normal, centre = found["normal"][k], found["centre"][k]
    flat = (points - centre) @ in_plane(normal).T
    middle = np.average(flat, axis=0, weights=weights) if weights.sum() > 0 else np.zeros(2)
    places = {}
    for f in families:
        angle = line_angle(found["line"][k, f], normal)
        aside = middle[1] * np.cos(angle) - middle[0] * np.sin(angle)
        # About the centre of the cloud: the bins do not depend on the centre of the patch.
        places[f] = aside + (located_lines(flat - middle, weights, angle) if len(flat) else np.zeros(0))
    plane = place_axes(figure, SIDE, bottom + LOW + TITLE + UNDER, PAGE - SIDE - 0.3, HIGH)
    _draw_plane(plane, found, k, flat if single else None, places)
    half = PAGE / 2
    panels = [place_axes(figure, SIDE + n * half, bottom, half - SIDE - 0.12, LOW) for n in (0, 1)]
    if families and len(flat):
        angle = line_angle(found["line"][k, families[0]], normal)
        beside = flat[:, 1] * np.cos(angle) - flat[:, 0] * np.sin(angle)
        _draw_profile(panels[0], beside, weights, places[families[0]], single)
        _draw_periods(panels[1], beside, weights, found, k, families[0])
    else:
        for axes, title in zip(panels, ("profile across lines", "period of lines"), strict=True):
            axes.set_title(title, fontsize=10, pad=6)
            axes.set(xticks=[], yticks=[])
            why = "No direction of lines\nwas found." if not families else "There are no points\nof single lines."
            axes.text(0.5, 0.5, why, ha="center", va="center", fontsize=9, color="0.3", transform=axes.transAxes)
    write_sentences(figure, said, SIDE, up - words + 0.02)
    add_words(figure, f"{heading}\nboundary {k}" if heading else f"boundary {k}", "")
    return figure


def _draw_plane(axes: Axes, found: Tables, k: int, single: np.ndarray | None, places: dict[int, np.ndarray]) -> None:
    """Points of a boundary in its plane, points of single lines, its patch, and lines."""
    normal, centre = found["normal"][k], found["centre"][k]
    basis = in_plane(normal)
    own = (found["point"][found["point_boundary"] == k] - centre) @ basis.T
    axes.scatter(
        own[:, 0], own[:, 1], s=3, color=colour_of(k), alpha=0.7, linewidths=0, rasterized=True, label="points"
    )
    if single is not None and len(single):
        axes.scatter(
            single[:, 0], single[:, 1], s=4, color="0.1", linewidths=0, rasterized=True, label="points of single lines"
        )
    ring = (found["corner"][k][[0, 1, 2, 3, 0]] - centre) @ basis.T
    if np.isfinite(ring).all():
        axes.plot(*ring.T, color="0.45", lw=0.8, label="patch: 90 % of the points")
    axes.set_aspect("equal", adjustable="datalim")
    for f, across in places.items():
        angle = line_angle(found["line"][k, f], normal)
        slope = np.array([np.cos(angle), np.sin(angle)])
        for n, place in enumerate(across):
            start = place * np.array([-np.sin(angle), np.cos(angle)])
            name = f"lines of family {f + 1}" if n == 0 else None
            axes.axline(start, start + slope, color="#d6006c", lw=0.9, ls=STYLES[f % 2], label=name)
    axes.set_title("seen along its normal", fontsize=10, pad=6)
    _label(axes, labelled("u", "um"), labelled("v", "um"))
    axes.legend(
        fontsize=7,
        loc="upper center",
        bbox_to_anchor=(0.5, -0.11),
        ncols=3,
        frameon=False,
        markerscale=2.5,
        columnspacing=1.2,
    )


def _draw_profile(axes: Axes, across: np.ndarray, weights: np.ndarray, places: np.ndarray, single: bool) -> None:
    """Profile across the lines of a family, with its maxima."""
    at, profile = line_profile(across, weights)
    axes.fill_between(at, profile, color="#56b4e9", alpha=0.45, lw=0)
    axes.plot(at, profile, color="#0072b2", lw=1.0, label="single lines" if single else "points of the boundary")
    for n, place in enumerate(places):
        axes.axvline(place, color="#d6006c", lw=0.8, label="maximum" if n == 0 else None)
    axes.set_ylim(0, 1.06 * profile.max())
    axes.set_title("profile across the lines of family 1", fontsize=9.5, pad=6)
    _label(axes, labelled("position across the lines", "um"), "weight of points (1/µm)")
    axes.legend(fontsize=7, loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=2, frameon=False)


def _draw_periods(axes: Axes, across: np.ndarray, weights: np.ndarray, found: Tables, k: int, f: int) -> None:
    """Power of the profile against the period, with the period that was found."""
    from matplotlib.ticker import FixedLocator, NullLocator, ScalarFormatter

    spacing, error = float(found["spacing"][k, f]), float(found["spacing_error"][k, f])
    low, high = np.nanmin([SHORTEST, 0.8 * spacing]), np.nanmax([LONGEST, 1.25 * spacing])
    # Evenly in frequency, four to a resolved one: no peak is missed.
    steps = int(min(4 * (np.ptp(across) + 1) * (1 / low - 1 / high), 4000)) + 100
    at = 1 / np.linspace(1 / low, 1 / high, steps)
    axes.plot(at, period_power(across, weights, at), color="#0072b2", lw=1.0, label="power")
    if error < spacing:
        axes.axvspan(spacing - error, spacing + error, color="#d6006c", alpha=0.18, lw=0, label="one standard error")
    if np.isfinite(spacing):
        contrast = found["contrast"][k, f]  # unknown where the period comes from the maps
        height = contrast**2 if np.isfinite(contrast) else period_power(across, weights, np.array([spacing]))[0]
        axes.plot([spacing], [height], "o", color="#d6006c", ms=5, label="period of family 1")
    axes.set_xscale("log")
    axes.set_xlim(low, high)
    axes.set_ylim(0, None)
    axes.xaxis.set_major_locator(FixedLocator([d for d in (1.5, 2, 3, 5, 7, 10, 15, 30, 60, 120) if low <= d <= high]))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(ScalarFormatter())
    axes.set_title("Fourier power of the profile", fontsize=9.5, pad=6)
    _label(axes, labelled("period", "um"), "power (1: sharp lines, even spacing)", locate=False)
    axes.legend(
        fontsize=7,
        loc="upper center",
        bbox_to_anchor=(0.5, -0.16),
        ncols=2,
        frameon=False,
        columnspacing=1.0,
        handlelength=1.4,
    )


def _label(axes: Axes, across: str, up: str, *, locate: bool = True) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.set_xlabel(across, fontsize=8, labelpad=1)
    axes.set_ylabel(up, fontsize=8, labelpad=3)
    axes.tick_params(labelsize=7.5, length=2.5)
    if locate:
        axes.xaxis.set_major_locator(MaxNLocator(6))
    axes.yaxis.set_major_locator(MaxNLocator(6))


def boundary_pages(tree: xr.DataTree, heading: str = "") -> Iterator[tuple[str, Callable[[], Figure]]]:
    """Pages of the boundaries of a store, a name and a function that draws each.

    Parameters
    ----------
    tree : DataTree
        With a group ``boundaries``; none without it.
    heading : str
        Printed at the top.

    Yields
    ------
    name, page : str, callable
        ``boundaries_scene``, and ``boundary_<k>`` and ``boundary_<k>_fit`` of the first eight.
    """
    from dfxm_dask.view.boundaries.fit_page import draw_fit
    from dfxm_dask.view.boundaries.scene import draw_scene

    found = tables_of(tree)
    if found is None:
        return
    yield "boundaries_scene", partial(draw_scene, found, heading, volume_box(tree))
    count = len(found["normal"])
    for k in range(min(count, MOST)):
        yield f"boundary_{k}", partial(draw_boundary, found, k, heading)
        yield f"boundary_{k}_fit", partial(draw_fit, tree, found, k, heading)
