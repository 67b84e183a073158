"""All boundaries of a volume in one view, and how far their points lie from their planes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from dfxm_dask.boundaries.planes.plane import in_plane
from dfxm_dask.view.boundaries.clip import Box, clipped, line_in_patch
from dfxm_dask.view.boundaries.words import (
    COLOURS,
    MOST,
    NONE,
    STYLES,
    Tables,
    colour_of,
    families_of,
    junction_kind,
    normal_words,
    reasons_of,
    with_error,
)
from dfxm_dask.view.figures.layout import PAGE, add_words
from dfxm_dask.view.figures.maps import labelled, place_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DRAWN = 20_000
"""Points that are drawn (our choice)."""
ACROSS, HIGHEST, BELOW = PAGE, 5.0, 3.0  # inches: of the view, and of the key and the histogram below it
ROOM = 0.9, 0.6  # inches beside the volume, and above and below it, for ticks and labels
ASIDE = 0.0135  # of the side of axes in space: so far from their middle do they draw it
BINS = 61
CONE, WIDEST = 0.22, 20.0  # length of a cone in diagonals of the volume, and largest half angle drawn, degree
LARGER = (100, 30, 10, 3)  # factors by which errors of normals are drawn larger, where all of them are small
CROSSING = (0, (1, 1))  # dots


def clearest_view(normals: np.ndarray, room: np.ndarray) -> tuple[float, float]:
    """Elevation and azimuth of a view that shows no plane on edge, as far as there is one; degree.

    Parameters
    ----------
    normals : array (plane, xyz)
    room : array (xyz,), um
        Size of the volume.

    Returns
    -------
    (float, float)
        25 and -60 degree where there is no plane.

    Notes
    -----
    Of the views from 20 to 50 degree above the x-y plane, each 5 degree: the smallest component of their direction
    along the normals is at least 0.6 of the best there is, and of these the volume is least deep (our choice).

    Examples
    --------
    >>> clearest_view(np.array([[0.0, 0, 1]]), np.array([9.0, 3, 1]))
    (50.0, -90.0)
    """
    if not len(normals):
        return 25.0, -60.0
    up, about = np.deg2rad(np.arange(20, 51, 5)), np.deg2rad(np.arange(-180, 180, 5))
    up, about = (a.ravel() for a in np.meshgrid(up, about, indexing="ij"))
    towards = np.stack([np.cos(up) * np.cos(about), np.cos(up) * np.sin(about), np.sin(up)])
    open_by = np.abs(normals @ towards).min(axis=0)
    depth = room @ np.abs(towards)
    best = int(np.where(open_by >= 0.6 * open_by.max() - 1e-9, depth, np.inf).round(9).argmin())
    return float(np.rad2deg(up[best]).round(6)), float(np.rad2deg(about[best]).round(6))


def larger_by(errors: np.ndarray) -> int:
    """Factor by which errors of normals are drawn larger: the largest with no cone wider than 20 degree.

    Examples
    --------
    >>> larger_by(np.array([0.05, 0.3, np.nan])), larger_by(np.array([12.0])), larger_by(np.array([np.nan]))
    (30, 1, 1)
    """
    most = np.max(errors[np.isfinite(errors)], initial=0.0)
    return next((factor for factor in LARGER if 0 < factor * most <= WIDEST), 1)


def cone(apex: np.ndarray, axis: np.ndarray, length: float, half_angle: float) -> np.ndarray:
    """Triangles (side, vertex, xyz) of a cone about an axis; angle in degree."""
    turn = np.linspace(0, 2 * np.pi, 25)
    circle = np.tan(np.deg2rad(min(half_angle, 60.0))) * np.stack([np.cos(turn), np.sin(turn)], axis=1)
    rim = apex + length * (axis + circle @ in_plane(axis))
    return np.stack([np.broadcast_to(apex, rim[1:].shape), rim[:-1], rim[1:]], axis=1)


def draw_scene(found: Tables, heading: str = "", box: Box | None = None) -> Figure:
    """A page with all boundaries: points, planes, lines and junctions in space; distances of points from their planes.

    Parameters
    ----------
    found : dict
        See :func:`dfxm_dask.view.boundaries.words.tables_of`.
    heading : str
        Printed at the top.
    box : (array (xyz,), array (xyz,)), optional
        Volume at whose sides patches end; that of the points by default.

    Returns
    -------
    Figure
        Without a boundary a sentence and the points alone; without points the sentence alone.
    """
    from matplotlib.figure import Figure

    count = len(found["normal"])
    if not len(found["point"]):
        figure = Figure(figsize=(7.0, 1.2))
        text = "No boundary was found: no pixel of the weak beam exceeds the noise."
        figure.text(0.5, 0.45, text, ha="center", va="center", fontsize=10, color="0.15")
        add_words(figure, heading, "")
        return figure
    points, owner = found["point"], found["point_boundary"]
    kept = np.sort(np.random.default_rng(0).permutation(len(points))[:DRAWN])
    points, owner = points[kept], owner[kept]
    own = found["point"].min(axis=0), found["point"].max(axis=0)
    low, high = own if box is None else (np.minimum(own[0], box[0]), np.maximum(own[1], box[1]))
    room = np.maximum(high - low, 0.05 * max((high - low).max(), 1.0))
    view = clearest_view(found["normal"], room)
    wide, tall = seen_size(room, view)
    size = min((ACROSS - 2 * ROOM[0]) / wide, (HIGHEST - 2 * ROOM[1]) / tall)  # inches of a um
    view_height = max(size * tall + 2 * ROOM[1], 2.0)
    up = view_height + BELOW + 0.55
    figure = Figure(figsize=(ACROSS, up))
    # Axes in space are square: they reach beyond the strip that the volume fills.
    axes = place_space(figure, BELOW + 0.25 + view_height / 2, found, (points, owner), box or own)
    limit_space(axes, (low + high) / 2, room, view, size)
    key = place_axes(figure, 0.15, 0.4, 3.4, BELOW - 0.4)
    key.set_axis_off()
    key.legend(
        handles=_keys(found),
        loc="upper left",
        fontsize=7,
        frameon=False,
        borderpad=0,
        borderaxespad=0,
        handlelength=1.8,
    )
    if count:
        draw_distances(place_axes(figure, 4.1, 0.8, ACROSS - 4.25, BELOW - 1.1), found)
    else:
        text = "No boundary was found among these points."
        figure.text(3.4 / ACROSS, BELOW / up, text, va="top", fontsize=8.5, weight="bold", color="0.15")
    thinned = f"{DRAWN:,} of {len(found['point']):,} points are drawn; " if len(found["point"]) > DRAWN else ""
    foot = "errors of normals: 68 % confidence; planes: 90 % of their points, cut at the sides of the scanned volume"
    add_words(figure, heading, thinned + (foot if count else ""))
    return figure


def _keys(found: Tables) -> list[Any]:
    from matplotlib.lines import Line2D

    count = len(found["normal"])
    handles = [
        Line2D([], [], ls="", marker="s", ms=6, color=colour_of(k), label=_key_words(found, k))
        for k in range(min(count, MOST))
    ]
    if count > MOST:
        handles.append(Line2D([], [], ls="", label=f"and {count - MOST} more, in the same colours"))
    free = int((found["point_boundary"] < 0).sum()) if count else len(found["point"])
    name = f"{free:,} unassigned points" if count else f"{free:,} points"
    handles.append(Line2D([], [], ls="", marker="o", ms=4, color=NONE, label=name))
    known = {f for k in range(count) for f in families_of(found, k)}
    for f in sorted(known):
        handles.append(
            Line2D([], [], color="0.2", lw=1.6, ls=STYLES[f % 2], label=f"direction of lines, family {f + 1}")
        )
    if count:
        factor = larger_by(found["normal_error"])
        text = "normal and its error" + (f", drawn {factor} times as large" if factor > 1 else "")
        handles.append(Line2D([], [], ls="", marker="^", ms=7, color="0.4", label=text))
    kinds = {junction_kind(found, j) for j in range(len(found["junction_point"]))}
    if kinds - {"crossing"}:
        name = "where boundaries meet" if "" in kinds else "junction: boundaries end here"
        handles.append(Line2D([], [], color="black", lw=2.6, label=name))
    if "crossing" in kinds:
        handles.append(Line2D([], [], color="black", lw=2.6, ls=CROSSING, label="boundaries cross here: no junction"))
    return handles


def _key_words(found: Tables, k: int) -> str:
    """Normal of a boundary, and remarks on the shape, position and step of the boundary."""
    marks = {"curved": "curved", "weak_beam_place": "position from the weak beam", "faint_step": "faint step"}
    said = [words for name, words in marks.items() if name in reasons_of(found, k)]
    return f"{k}: normal {normal_words(found, k)}" + (f"; {', '.join(said)}" if said else "")


def seen_size(room: np.ndarray, view: tuple[float, float]) -> tuple[float, float]:
    """Width and height of a volume as a view shows it; um.

    Examples
    --------
    >>> seen_size(np.array([9.0, 3, 1]), (0.0, -90.0))
    (9.0, 1.0)
    """
    up, about = np.deg2rad(view)
    right = np.array([-np.sin(about), np.cos(about), 0.0])
    high = np.array([-np.sin(up) * np.cos(about), -np.sin(up) * np.sin(about), np.cos(up)])
    return float(np.abs(right) @ room), float(np.abs(high) @ room)


def place_space(figure: Figure, middle: float, found: Tables, drawn: tuple[np.ndarray, np.ndarray], box: Box) -> Any:
    """Axes in space, centred at a height in inches, with points, planes, lines and junctions."""
    from mpl_toolkits.mplot3d import Axes3D
    from mpl_toolkits.mplot3d.art3d import Poly3DCollection

    up = figure.get_size_inches()[1]
    place = -ASIDE, (middle - (0.5 + ASIDE) * ACROSS) / up, 1.0, ACROSS / up
    axes: Any = figure.add_axes(Axes3D(figure, place, proj_type="ortho", facecolor="none"))
    points, owner = drawn
    low, high = box
    count = len(found["normal"])
    for k in range(-1, count):
        own = points[owner == k] if count else points
        if len(own):
            axes.scatter(*own.T, s=4, color=colour_of(k), alpha=0.75, linewidths=0, rasterized=True, depthshade=False)
    for k in range(count):
        ring = found["corner"][k]
        if not np.isfinite(ring).all():
            continue
        shown = clipped(ring, low, high)
        if len(shown) > 2:
            quad = Poly3DCollection([shown], facecolor=colour_of(k), edgecolor=colour_of(k), alpha=0.16, lw=0.9)
            axes.add_collection3d(quad)
        _draw_normal(axes, found, k, low, high)
        for f in families_of(found, k) if len(shown) > 2 else ():
            ends = line_in_patch(shown, found["line"][k, f])
            axes.plot(*(ends.mean(axis=0) + 0.6 * (ends - ends.mean(axis=0))).T, color="0.2", lw=1.6, ls=STYLES[f % 2])
    for j, length in enumerate(found["junction_length"]):
        ends = found["junction_point"][j] + np.outer([-length / 2, length / 2], found["junction_direction"][j])
        crossing = junction_kind(found, j) == "crossing"
        axes.plot(*clipped(ends, low, high).T, color="black", lw=2.6, ls=CROSSING if crossing else "-")
    return axes


def _draw_normal(axes: Any, found: Tables, k: int, low: np.ndarray, high: np.ndarray) -> None:
    """Normal of a boundary from its centre, and a cone that contains the true normal with 68 % probability."""
    from mpl_toolkits.mplot3d.art3d import Poly3DCollection

    normal, centre = found["normal"][k], np.clip(found["centre"][k], low, high)
    with np.errstate(divide="ignore"):
        room = np.where(normal > 0, high - centre, low - centre) / np.where(normal == 0, np.nan, normal)
    length = min(CONE * float(np.linalg.norm(high - low)), max(0.9 * float(np.nanmin(room)), 1e-3))
    axes.plot(*np.stack([centre, centre + length * normal]).T, color=colour_of(k), lw=1.2)
    error = float(found["normal_error"][k]) * larger_by(found["normal_error"])
    if np.isfinite(error):
        sides = cone(centre, normal, length, error)
        axes.add_collection3d(Poly3DCollection(list(sides), facecolor=colour_of(k), alpha=0.35, lw=0))


def limit_space(axes: Any, middle: np.ndarray, room: np.ndarray, view: tuple[float, float], size: float) -> None:
    """Limits, ticks and view of axes in space, all on one scale: ``size`` inches for a um."""
    from itertools import product

    from matplotlib.ticker import FixedLocator, MaxNLocator
    from mpl_toolkits.mplot3d import proj3d

    for n, (name, axis) in enumerate((("x", axes.xaxis), ("y", axes.yaxis), ("z", axes.zaxis))):
        getattr(axes, f"set_{name}lim")(middle[n] - room[n] / 2, middle[n] + room[n] / 2)
        locator = MaxNLocator(int(np.clip(np.ceil(6 * room[n] / room.max()), 2, 6)))
        low, high = middle[n] - room[n] / 2, middle[n] + room[n] / 2
        # A short axis has one tick, for two would overlap.
        short = [max(at for at in locator.tick_values(low, high) if at <= high)] if size * room[n] < 0.5 else None
        axis.set_major_locator(FixedLocator(short) if short else locator)
        axis.set_label_text(labelled(name, "um"), fontsize=9)
        axis.labelpad = 20
        axis.set_tick_params(labelsize=7.5, pad=0)
        axis.set_pane_color((0.97, 0.97, 0.97, 1.0))
    axes.set_box_aspect(tuple(room))
    axes.view_init(elev=view[0], azim=view[1])
    axes.apply_aspect()
    corners = middle + room / 2 * np.array(list(product((-1, 1), repeat=3)))
    seen = axes.transData.transform(np.stack(proj3d.proj_transform(*corners.T, axes.get_proj())[:2], axis=1))
    now = np.ptp(seen[:, 0]) / axes.figure.dpi / seen_size(room, view)[0]
    axes.set_box_aspect(tuple(room), zoom=size / now)


def plane_distances(found: Tables, k: int) -> np.ndarray:
    """Distances of the points of a boundary from its plane, positive where the normal points to; (point,), um."""
    own = found["point"][found["point_boundary"] == k]
    return np.asarray((own - found["centre"][k]) @ found["normal"][k])


def draw_distances(axes: Axes, found: Tables) -> None:
    """Histograms of the distances of points from their plane, each with the Gaussian of its thickness."""
    from matplotlib.ticker import MaxNLocator

    shown = [k for k in range(min(len(found["normal"]), MOST)) if (found["point_boundary"] == k).any()]
    each = {k: plane_distances(found, k) for k in shown}
    most = max((float(np.abs(d).max()) for d in each.values()), default=1.0) or 1.0
    edges = np.linspace(-most, most, BINS + 1)
    at = np.linspace(-most, most, 301)
    for k, distance in each.items():
        weights = found["point_weight"][found["point_boundary"] == k]
        sigma = float(found["thickness"][k])
        axes.hist(
            distance,
            list(edges),
            weights=weights / max(weights.sum(), 1e-300) / (edges[1] - edges[0]),
            histtype="step",
            color=COLOURS[k % len(COLOURS)],
            lw=1.1,
            label=f"{k}: σ {with_error(sigma, np.nan, 'um')}",
        )
        if sigma > 0:
            normal = np.exp(-0.5 * (at / sigma) ** 2) / (sigma * np.sqrt(2 * np.pi))
            axes.plot(at, normal, color=COLOURS[k % len(COLOURS)], lw=0.9, ls=":")
    axes.set_title("points about their plane; dotted: Gaussian", fontsize=8.5, pad=5)
    axes.set_xlabel(labelled("distance", "um"), fontsize=8, labelpad=1)
    axes.set_ylabel("weight (1/µm), area 1", fontsize=8, labelpad=3)
    axes.tick_params(labelsize=7.5, length=2.5)
    axes.xaxis.set_major_locator(MaxNLocator(6))
    axes.yaxis.set_major_locator(MaxNLocator(5))
    axes.set_ylim(0, 1.35 * axes.get_ylim()[1])
    if each:
        axes.legend(fontsize=7, loc="upper center", ncols=2, frameon=False, borderpad=0.1)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
