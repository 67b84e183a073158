"""Curves, sections, tables of tracks and the scene of boundaries, read from a store for the page."""

from __future__ import annotations

from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from dfxm_dask.errors import InputError
from dfxm_dask.store.shards import read
from dfxm_dask.view.browser.catalogue import Shown
from dfxm_dask.view.browser.pixels import Bounds, curve_of, frame_of

MOST_POINTS = 1_000_000
CELLS = 64  # along each side of the volume
FWHM = 2 * np.sqrt(2 * np.log(2))


def curve(shown: Shown, layer: int, box: Bounds, fit: bool = True) -> dict[str, Any]:
    """Mean counts of a box of pixels in every frame of a layer, its peak, and u of its frames.

    Returns
    -------
    dict
        ``counts``: one number a frame in scan order. For a rocking scan with results: ``peak``, ``fwhm`` (fitted to
        this curve, with standard errors) and ``u``, the rocking coordinate of every frame at the middle of the box,
        (phi - local peak) / local half width.
    """
    drawn = shown.image("raw/counts")
    if drawn.valid is not None and not drawn.valid[layer, box[0] : box[1]].all():
        raise InputError("curve", "this layer is not on disk yet", "wait until it is ingested")
    counts = curve_of(drawn.array, layer, box, drawn.committed)
    out: dict[str, Any] = {"counts": [round(float(v), 4) for v in np.ravel(counts)]}
    axes = [d for d in drawn.dims if d not in ("z", "y", "x")]
    if len(axes) != 1 or axes[0] == "time":
        return out
    positions = np.asarray(shown.tree.dataset.coords[axes[0]], np.float64)
    if fit and positions.size > 4:
        out |= _fit(counts, positions, axes[0])
    middle = ((box[0] + box[1]) // 2, (box[2] + box[3]) // 2)
    local = {name: _pixel(shown, f"beams/{name}", layer, middle) for name in ("peak_local", "width_local")}
    peak, width = local["peak_local"], local["width_local"]
    if peak is not None and width is not None and np.isfinite(peak) and width > 0:
        out["u"] = [round(float(v), 4) for v in (positions - peak) / width]
        out["local_peak"] = peak
    return out


def _pixel(shown: Shown, name: str, layer: int, at: tuple[int, int]) -> float | None:
    drawn = shown.drawn.get(name)
    if drawn is None or drawn.dims != ("z", "y", "x") or (drawn.valid is not None and not drawn.valid[layer, at[0]]):
        return None
    box = (at[0], at[0] + 1, at[1], at[1] + 1)
    return float(frame_of(drawn.array, drawn.dims, drawn.sides, {"z": layer}, box, 1)[0, 0])


def _fit(counts: np.ndarray, positions: np.ndarray, axis: str) -> dict[str, Any]:
    """A Gaussian on a constant background, by the reduction ``fit_curves``; nothing where it does not fit."""
    from dfxm_dask.rocking.fit_curves import fit_curves

    made = fit_curves.kernel(np.ascontiguousarray(counts, np.float32).reshape(1, 1, -1), {axis: positions})
    found = {name.removesuffix(f"_{axis}"): float(values[0, 0]) for name, values in made.items()}
    if not found["fit_ok"]:
        return {}
    sigma = found["fit_fwhm"] / FWHM
    fine = np.linspace(positions.min(), positions.max(), 201)
    model = found["fit_background"] + found["fit_amplitude"] * np.exp(
        -0.5 * ((fine - found["fit_centre"]) / sigma) ** 2
    )
    errors = {name: found[f"fit_{name}_std"] for name in ("centre", "fwhm")}
    return {
        "peak": found["fit_centre"],
        "fwhm": found["fit_fwhm"],
        "peak_error": errors["centre"] if np.isfinite(errors["centre"]) else None,
        "fwhm_error": errors["fwhm"] if np.isfinite(errors["fwhm"]) else None,
        "model": {"position": fine.tolist(), "counts": model.tolist()},
    }


def section(
    shown: Shown, name: str, rows: str, at: dict[str, int], columns: tuple[int, int], most: int
) -> tuple[np.ndarray, list[int]]:
    """Values along x at one y, with one row for every position along z or a scan axis.

    Parameters
    ----------
    name : str
        Variable with the dims y and x.
    rows : str
        Dim along the rows of the section.
    at : dict
        Index along all other dims, y included.
    columns : (int, int), pixel
        First x, and the one after the last.
    most : int
        Number of columns after which every k-th pixel is read.

    Returns
    -------
    array (rows, x), list of int
        NaN where nothing is on disk; and the rows that are not on disk.
    """
    drawn = shown.image(name)
    if rows not in drawn.dims or rows in ("y", "x") or drawn.sides != ("y", "x"):
        others = [d for d in drawn.dims if d not in ("y", "x")]
        raise InputError(f"section along {rows!r}", f"{name} has {', '.join(others)}", "name one of these")
    step = max(1, (columns[1] - columns[0]) // most)
    size = drawn.array.shape[drawn.dims.index(rows)]
    out = np.full((size, len(range(*columns, step))), np.nan)
    missing: list[int] = []

    def read_rows(first: int, last: int) -> np.ndarray:
        edges = {rows: slice(first, last), "x": slice(*columns)}
        whole = tuple(edges.get(d) or slice(at[d], at[d] + 1) for d in drawn.dims)
        values = read(drawn.array, whole, known=drawn.committed)
        if drawn.dims.index("x") < drawn.dims.index(rows):
            values = np.moveaxis(values, drawn.dims.index("x"), -1)
        return values.reshape(last - first, -1)[:, ::step]

    if rows != "z":
        if drawn.valid is not None and not drawn.valid[at["z"], at["y"]]:
            return out, list(range(size))
        out[:] = read_rows(0, size)
        return out, missing
    for k in range(size):
        if drawn.valid is not None and not drawn.valid[k, at["y"]]:
            missing.append(k)
        else:
            out[k] = read_rows(k, k + 1)[0]
    return out, missing


def scene(shown: Shown) -> tuple[dict[str, Any], np.ndarray]:
    """Planes, lines and junctions of the boundaries as lists, and the points of defects as array (point, 4).

    The last column of the points is the number of their boundary, -1 without one; more than a million are thinned at
    equal steps. Objects of the volume are drawn by their principal axis where there are no boundaries.
    """
    from dfxm_dask.view.boundaries.clip import clipped, line_in_patch, volume_box
    from dfxm_dask.view.boundaries.words import tables_of

    if "scene" in shown.kept:
        kept: tuple[dict[str, Any], np.ndarray] = shown.kept["scene"]
        return kept
    box = volume_box(shown.tree)
    low, high = (np.zeros(3), np.ones(3)) if box is None else box
    facts: dict[str, Any] = {"low": low.tolist(), "high": high.tolist(), "planes": [], "lines": [], "junctions": []}
    points = np.zeros((0, 4), np.float32)
    tables = tables_of(shown.tree) if not shown.opened.incomplete("boundaries") else None
    if tables is not None:
        for k in range(len(tables["normal"])):
            ring = clipped(np.asarray(tables["corner"][k], np.float64), low, high)
            facts["planes"].append(ring.round(4).tolist())
            for family in np.atleast_2d(tables["line"][k]):
                if len(ring) > 2 and np.isfinite(family).all():
                    facts["lines"].append({"plane": k, "ends": line_in_patch(ring, family).round(4).tolist()})
        for j in range(len(tables["junction_point"])):
            middle, along = tables["junction_point"][j], tables["junction_direction"][j]
            half = 0.5 * tables["junction_length"][j]
            ends = clipped(np.array([middle - half * along, middle + half * along]), low, high)
            if len(ends) == 2 and np.isfinite(ends).all():
                facts["junctions"].append(ends.round(4).tolist())
        points = np.concatenate([tables["point"], tables["point_boundary"][:, None]], axis=1).astype(np.float32)
    facts["points"] = len(points)
    if len(points) > MOST_POINTS:
        points = points[:: -(-len(points) // MOST_POINTS)]
    points = points[np.isfinite(points).all(1)]
    if len(points):  # neighbours in space one after the other: the page draws them three times as fast
        cell = np.clip((points[:, :3] - low) / np.maximum(high - low, 1e-9) * CELLS, 0, CELLS - 1).astype(np.int64)
        points = points[np.argsort((cell[:, 2] * CELLS + cell[:, 1]) * CELLS + cell[:, 0], kind="stable")]
    points = np.ascontiguousarray(points, np.float32)
    facts["drawn"] = len(points)
    shown.kept["scene"] = facts, points
    return facts, points


def tracks(shown: Shown) -> dict[str, Any]:
    """Detections of a time series: frame, y and x (um), and number of the track (-1: none)."""
    names = ("frame", "y", "x", "track")
    group = next((g for g, node in shown.tree.children.items() if "track_first" in node.dataset.data_vars), None)
    if group is None or shown.opened.incomplete(group) or not all(n in shown.tree[group].variables for n in names):
        return {name: [] for name in names}
    found = shown.tree[group].dataset
    return {name: np.asarray(found[name], np.float64).round(4).tolist() for name in names}


def preview(shown: Shown, layer: int, weights: Path) -> np.ndarray:
    """P(weak) of a layer (frame, patch_y, patch_x) with other weights; nothing is written.

    Raises
    ------
    InputError
        No such weights, or a store without the step ``local_peak``.
    """
    from dfxm_dask.beams.classify import classify_beams

    if not weights.exists():
        raise InputError("preview", "there are no weights yet", "train first")
    key = "preview", layer, weights.stat().st_mtime_ns
    if key not in shown.kept:
        raw, beams = shown.tree["raw"].dataset, shown.tree["beams"].dataset if "beams" in shown.tree else {}
        names = ("lit", "peak_local", "width_local")
        if not all(name in beams for name in names):
            raise InputError("preview", "the store has no local peaks", "run the recipe weak_beam once")
        one = raw[["counts"]].isel(z=slice(layer, layer + 1)).load()
        one = one.assign({name: beams[name].isel(z=slice(layer, layer + 1)).load() for name in names})
        made = classify_beams(one, method="lcnn", weights=str(weights))
        values = np.asarray(made["p_weak"].compute() if hasattr(made["p_weak"], "compute") else made["p_weak"])
        shown.kept[key] = values.reshape(-1, *values.shape[-2:]).astype(np.float32)
    kept: np.ndarray = shown.kept[key]
    return kept


def frames_of(shown: Shown) -> int:
    """Number of frames of a layer."""
    return prod(shown.image("raw/counts").array.shape[1:-2])
