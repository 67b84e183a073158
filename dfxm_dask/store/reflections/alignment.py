"""Displacements of the sample between the scans of a set: given, or found by registration of the maps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from dfxm_dask.errors import InputError
from dfxm_dask.store.reflections.grid import Grid, place
from dfxm_dask.store.reflections.recorded import Reflection
from dfxm_dask.store.reflections.resampled import Source, as_recorded, on_grid
from dfxm_dask.store.reflections.settings import Settings
from dfxm_dask.strain.goniometer import reflections, vectors
from dfxm_dask.strain.lines.matching import displacements
from dfxm_dask.strain.registration import Displacement, contradiction, register, steepness

WINDOW = 512
"""Pixels of the set along each axis, in the middle of the middle layer, that the registration compares (our choice)."""
LARGEST_ERROR = 0.5
"""Pixels: largest standard error of a displacement that counts as determined (our choice)."""
STEEPEST = 15.0
"""Largest squared local contrast over its median of maps that count as free of dislocations (our choice)."""
NULL = 1e-3
"""Relative size of a singular value, or of a weight, that counts as zero."""

Found = tuple[np.ndarray, np.ndarray, tuple[str, ...]]


def shifts(stores: Sequence[Reflection], known: Settings, grid: Grid, asked: Any) -> Found:
    """Displacements of the stores and their standard errors, um: (reflection, yx) each, and remarks.

    The standard errors of displacements that are given, or set to zero, are NaN.

    Raises
    ------
    InputError
        An invalid request, or maps that do not determine the displacements.
    """
    count = len(stores)
    unknown = np.full((count, 2), np.nan)
    if not isinstance(asked, str):
        moved = np.asarray(asked, float)
        if moved.shape != (count, 2) or not np.isfinite(moved).all():
            raise InputError("shift", f"is {asked!r:.80}", f"give (y, x) in um for each of the {count} stores")
        return moved, unknown, ()
    if asked not in ("auto", "none"):
        raise InputError(f"shift {asked!r}", "is unknown", "choose auto, none, or (y, x) in um for every store")
    if asked == "none":
        return np.zeros((count, 2)), unknown, ()
    pixel = np.array([v[1] - v[0] if v.size > 1 else 1.0 for v in (grid.y, grid.x)])
    found, told = _registered(stores, known, grid, pixel)
    for one, error in zip(stores, found.error, strict=True):
        if not (error < LARGEST_ERROR).all():
            size = f"determine no displacement: {told}"
            if np.isfinite(error).all():
                size = f"give a standard error of {error.max():.2g} pixels for the displacement"
            raise InputError(
                f"shift of {one.path.name}",
                f"the maps of the reflections {size}",
                "state the displacements (--shift Y,X;Y,X;... in um), or use --shift none for aligned scans",
            )
    return found.shift * pixel, found.error * np.abs(pixel), (told,)


def _sources(stores: Sequence[Reflection], known: Settings) -> list[Source]:
    """All stores, without displacements."""
    return [
        Source(
            str(one.path),
            one.prefix,
            one.axes,
            place(one, known.turn[k], known.frames[k] == "laboratory", np.zeros(2)),
        )
        for k, one in enumerate(stores)
    ]


def _registered(
    stores: Sequence[Reflection], known: Settings, grid: Grid, pixel: np.ndarray
) -> tuple[Displacement, str]:
    """Displacements in pixels, and the method.

    More than three reflections over-determine the deformation: a weighted sum of their scattering vectors vanishes for
    any deformation gradient where the maps are aligned. Near dislocations this method is systematically wrong, because
    every reflection averages the lattice over the height of the beam along another direction. Maps with dislocations
    are therefore aligned by these alone: the average over the height does not change their positions.
    """
    y, x = (v[max(0, (v.size - WINDOW) // 2) :][:WINDOW] for v in (grid.y, grid.x))
    z = grid.z.size // 2
    sources = _sources(stores, known)
    centre, covariance = (np.stack(parts) for parts in zip(*(on_grid(s, z, y, x) for s in sources), strict=True))
    variance = np.nansum(np.diagonal(covariance, axis1=-2, axis2=-1), axis=-1)
    at = reflections(known.hkl, known.setting, known.reciprocal_lattice, known.wavelength, deviation=0.05)
    _, sizes, rows = np.linalg.svd(at.vectors.T)
    null = rows[3:].T
    redundant = (
        np.isfinite(centre).any(axis=(1, 2)).all()
        and len(centre) > 3
        and sizes[2] > NULL * sizes[0]
        and (np.abs(null[1:]).max(axis=1, initial=0.0) > NULL).all()
    )
    check, turned = None, np.empty(0)
    expected = [np.zeros((len(centre), 2))]
    if redundant:
        middle = np.nanmedian(centre, axis=(1, 2), keepdims=True)
        turned = vectors(at, np.deg2rad(centre - middle))
        check = contradiction(turned, null, variance, pixel)
        smooth = register(turned, null, variance)
        if np.isfinite(smooth.shift).all():
            if steepness(turned, variance) < STEEPEST:
                return smooth, "shifts follow from the redundancy of the reflections"
            expected.append(smooth.shift * pixel)
    native = [as_recorded(s, z, y, x) for s in sources]
    lines = None
    if all(one is not None for one in native):
        lines = displacements([one for one in native if one is not None], float(np.abs(pixel).max()), check, expected)
    if lines is not None:
        shift, error, count = lines
        word = "dislocation" if count == 1 else "dislocations"
        made = Displacement(shift / pixel, error / np.abs(pixel))
        return made, f"shifts follow from {count} {word}, the middle of the height of the beam"
    nothing = np.full((len(centre), 2), np.nan)
    why = "four reflections or more determine displacements of maps without dislocations"
    if redundant:
        why = "the dislocations in the maps are too close to each other or to the border"
    return Displacement(nothing, nothing), why
