"""Results beside the truth: rows of a table, for scans with known truth."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from dfxm_dask.view.compare.distances import boundary_distance, boundary_distances
from dfxm_dask.view.compare.movies import movie_rows
from dfxm_dask.view.figures.maps import (
    UNSOUND,
    finer_units,
    flagged,
    symbol,
)

if TYPE_CHECKING:
    import xarray as xr

FAR = 1.0  # um from any dislocation line, where the lattice is that between the dislocations
STRIP = (2.0, 5.0)  # um from the plane of a boundary
FEWEST = 10
"""Pixels that a strip must have on each side of a boundary (our choice)."""
GAUSSIAN = 2.3548  # FWHM over standard deviation of a Gaussian

Row = tuple[str, float, float, str]


def sound_pixels(maps: xr.Dataset) -> np.ndarray:
    """Pixels (z, y, x) with a centre of mass along phi and none of the flags ``UNSOUND``."""
    known = np.isfinite(np.asarray(maps["com_phi"]))
    return known & ~flagged(maps["flags"], *UNSOUND) if "flags" in maps else known


def far_pixels(truth: xr.Dataset) -> np.ndarray:
    """Pixels (z, y, x) farther than 1 um from any dislocation line."""
    return np.asarray(truth["distance"]) > FAR


def compared(maps: xr.Dataset, truth: xr.Dataset) -> list[Row]:
    """Every quantity that was found and whose truth is known.

    Parameters
    ----------
    maps : Dataset
        Rocking maps (z, y, x): ``com_phi``, ``std_phi`` or ``fit_fwhm_phi``, ``flags``; absent ones are left out.
    truth : Dataset
        ``phi0``, ``width`` (z, y, x) degree, NaN outside the crystal; ``distance`` (z, y, x) um; ``normal``,
        ``origin``, ``line`` (boundary, xyz), ``misorientation`` (boundary) rad.

    Returns
    -------
    list of (quantity, found, true, units)
        Names state the pixels that count. Empty for a scan without phi.

    Notes
    -----
    The jump across a boundary is the median over the pixels 2 to 5 um from its plane, on the side that the normal
    points to minus on the other; its truth is the same median, over the same pixels, of ``phi0``. Only pixels that are
    nearer to this boundary than to any other count; the boundaries of a junction are half planes.
    """
    if "com_phi" not in maps or "phi0" not in truth:
        return []
    com, phi0 = np.asarray(maps["com_phi"], float), np.asarray(truth["phi0"], float)
    units = str(maps["com_phi"].attrs.get("units", "degree"))
    crystal = np.isfinite(phi0)
    sound = sound_pixels(maps) & crystal
    rows: list[Row] = []
    where, counted = "sound pixels", sound
    if "distance" in truth:
        where, counted = f"more than {FAR:g} µm from any dislocation", sound & far_pixels(truth)
    if counted.any():
        error = float(np.median(np.abs(com - phi0)[counted]))
        rows.append((f"median |centre of mass − phi0|, {where}", error, 0.0, units))
        rows.append((f"median (centre of mass − phi0), {where}", float(np.median((com - phi0)[counted])), 0.0, units))
    unlit = flagged(maps["flags"], "unlit") if "flags" in maps else False
    lit = ~np.asarray(unlit) & np.isfinite(com)
    rows.append(("lit pixels", 100 * float(lit.mean()), 100 * float(crystal.mean()), "%"))
    rows.append(("pixels correctly lit or unlit", 100 * float((lit == crystal).mean()), 100.0, "%"))
    rows += [row for row in (_width(maps, truth, counted, where, units),) if row]
    return rows + _jumps(maps, truth, com, phi0, sound, units)


def _width(maps: xr.Dataset, truth: xr.Dataset, counted: np.ndarray, where: str, units: str) -> Row | None:
    """Median full width at half maximum: fitted where there is a fit, else from the standard deviation."""
    if "width" not in truth:
        return None
    if "fit_fwhm_phi" in maps:
        how, found = "fitted", np.asarray(maps["fit_fwhm_phi"], float)
        if "fit_ok" in maps:
            found = np.where(np.asarray(maps["fit_ok"], bool), found, np.nan)
    elif "std_phi" in maps:
        how, found = f"{GAUSSIAN} std", GAUSSIAN * np.asarray(maps["std_phi"], float)
    else:
        return None
    true = np.asarray(truth["width"], float)
    counted = counted & np.isfinite(found) & np.isfinite(true)
    if not counted.any():
        return None
    return (
        f"median FWHM along phi ({how}), {where}",
        float(np.median(found[counted])),
        float(np.median(true[counted])),
        units,
    )


def _jumps(
    maps: xr.Dataset, truth: xr.Dataset, com: np.ndarray, phi0: np.ndarray, sound: np.ndarray, units: str
) -> list[Row]:
    """Median jump of the centre of mass across each boundary."""
    if not {"normal", "origin", "line"} <= set(map(str, truth.data_vars)) or maps["x"].attrs.get("units") != "um":
        return []
    layer, row, column = np.nonzero(sound)
    x, y, z = (np.asarray(maps[name], float)[at] for name, at in (("x", column), ("y", row), ("z", layer)))
    signed, nearest = boundary_distances(truth, x, y, z)
    rows: list[Row] = []
    for k in range(len(signed)):
        own = (nearest[k] <= nearest.min(0)) & (np.abs(signed[k]) >= STRIP[0]) & (np.abs(signed[k]) <= STRIP[1])
        sides = own & (signed[k] > 0), own & (signed[k] < 0)
        if min(int(side.sum()) for side in sides) < FEWEST:
            continue
        found, true = (
            float(np.median(values[sound][sides[0]]) - np.median(values[sound][sides[1]])) for values in (com, phi0)
        )
        kind = ("twist" if bool(truth["twist"][k]) else "tilt") if "twist" in truth else "boundary"
        angle = f" of {1e6 * float(truth['misorientation'][k]):.3g} µrad" if "misorientation" in truth else ""
        name = f"median jump of the centre of mass along phi across boundary {k} ({kind}{angle})"
        rows.append((name, found, true, units))
    return rows


def scan_step(maps: xr.Dataset) -> float | None:
    """Median step along phi, in its unit; ``None`` for fewer than two positions."""
    if "phi" not in maps.coords or maps["phi"].size < 2:
        return None
    return float(np.median(np.abs(np.diff(np.asarray(maps["phi"], float)))))


def truth_rows(tree: xr.DataTree, truth: xr.Dataset) -> list[tuple[str, str, str]]:
    """Rows (quantity, found, true) of a table.

    Parameters
    ----------
    tree : DataTree
        A reduced scan with a group ``rocking``.
    truth : Dataset
        Its group ``truth``; see :func:`compared`.

    Returns
    -------
    list of (str, str, str)
        Values with units. The first row gives the step of the scan, the scale of the errors. The last rows concern
        boundaries with known truth: see :func:`dfxm_dask.view.compare.boundaries.boundary_rows`.
    """
    from dfxm_dask.view.compare.boundaries import boundary_rows  # slow to import: not for pages alone

    if "rocking" not in tree:
        return movie_rows(tree, truth) + boundary_rows(tree, truth)
    maps = tree["rocking"].dataset
    rows = []
    for quantity, found, true, units in compared(maps, truth):
        factor, finer = finer_units(max(abs(found), abs(true)), units)
        written = [f"{factor * value:.4g} {symbol(finer)}".replace("-", "−") for value in (found, true)]
        rows.append((quantity, written[0], written[1]))
    step = scan_step(maps)
    if rows and step is not None:
        factor, finer = finer_units(step, str(maps["phi"].attrs.get("units", "degree")))
        rows[0] = (f"{rows[0][0]} (step of the scan: {factor * step:.4g} {symbol(finer)})", *rows[0][1:])
    return rows + _defect_rows(tree, truth) + boundary_rows(tree, truth)


def _defect_rows(tree: xr.DataTree, truth: xr.Dataset) -> list[tuple[str, str, str]]:
    """Mask of defects beside the true lines: shares within 1 um, and those expected by chance."""
    from scipy import ndimage

    if "beams" not in tree or "defects" not in tree["beams"] or "distance" not in truth:
        return []
    beams = tree["beams"].dataset
    mask, lit = np.asarray(beams["defects"]), np.asarray(beams["lit"])
    distance = np.asarray(truth["distance"])
    if not mask.any() or not lit.any():
        return [("pixels above the noise of the weak beam", "none", f"{100 * (distance < 0.25)[lit].mean():.2g} %")]
    near = distance < 1
    chance = f"{100 * near[lit].mean():.3g} % of the lit pixels"
    lines = lit & (distance < 0.25)
    rows = [("mask of defects within 1 um of a true line", f"{100 * near[mask].mean():.3g} %", chance)]
    if "normal" in truth:
        places = [np.asarray(beams[n], np.float64) for n in ("y", "x")]
        wall = np.stack([boundary_distance(truth, float(z), *places) for z in np.asarray(beams["z"])]) < 1
        chance = f"{100 * (near | wall)[lit].mean():.3g} % of the lit pixels"
        rows.append(("the same, of a true line or boundary", f"{100 * (near | wall)[mask].mean():.3g} %", chance))
    if lines.any():
        away = [ndimage.distance_transform_edt(~m, sampling=_pixel(beams)) if m.any() else m + np.inf for m in mask]
        seen = f"{100 * (np.stack(away) < 1)[lines].mean():.3g} %"
        rows.append(("true lines within 1 um of the mask, invisible lines included", seen, "100 %"))
    return rows


def _pixel(maps: xr.Dataset) -> tuple[float, float]:
    """Distance of pixels along y and x; 1 for a single pixel."""
    y, x = (float(maps[d][1] - maps[d][0]) if maps.sizes[d] > 1 else 1.0 for d in ("y", "x"))
    return y, x
