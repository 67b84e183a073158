"""Names of Burgers vectors, planes and lines by Miller indices."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np

from dfxm_dask.optics.defects.lattice import Lattice, axes_of
from dfxm_dask.store.integrity.attributes import recorded_steps

if TYPE_CHECKING:
    import xarray as xr

MOST = 7
"""Largest Miller index of a name (our choice)."""
NEAR = np.cos(np.deg2rad(0.5))
"""Cosine of the angle to the direction within which a name is given (our choice)."""


def axes_and_cell(tree: xr.DataTree) -> tuple[np.ndarray, float] | None:
    """Directions of the crystal along the axes of the store, as rows, and the parameter of its cell in um; None without
    a recorded cubic lattice.
    """
    recorded = recorded_lattice(tree)
    if recorded is None:
        return None
    lattice = Lattice(**{**recorded, "hkl": None})  # names need no reflection
    return axes_of(lattice), float(lattice.parameter or 1.0)


def recorded_lattice(tree: xr.DataTree) -> dict[str, Any] | None:
    """The cubic lattice of a store, with its reflection where the store records one; that of the step match first."""
    match = recorded_steps(tree["identify"].attrs).get("match", {}) if "identify" in tree else {}
    root = {
        name: json.loads(text) if isinstance(text, str) else text
        for name in ("lattice", "hkl")
        if (text := tree.attrs.get(name)) is not None
    }
    recorded = dict(match.get("parameters") or {}).get("lattice") or root.get("lattice")
    if not isinstance(recorded, dict) or not {"parameter", "x", "z"} <= set(recorded):
        return None
    return {**recorded, "hkl": recorded.get("hkl") or root.get("hkl")}


def indices(direction: np.ndarray) -> tuple[int, ...] | None:
    """Smallest Miller indices of a direction of a cubic crystal; None if they exceed :data:`MOST`.

    Examples
    --------
    >>> indices(np.array([0.7071, -0.7071, 0.0])), indices(np.array([0.408, 0.408, -0.816]))
    ((1, -1, 0), (1, 1, -2))
    >>> indices(np.array([1.0, 0.03, 0.0]))
    """
    length = np.linalg.norm(direction)
    largest = np.abs(direction).max()
    for most in range(1, MOST + 1) if largest > 0 and np.isfinite(length) else ():
        whole = np.rint(direction * most / largest)
        if whole @ direction >= NEAR * length * np.linalg.norm(whole):
            return tuple(int(index) for index in whole)
    return None


def bracketed(found: tuple[int, ...] | None, ends: str) -> str:
    """Indices between brackets, with true minus signs; a dash for none."""
    return f"{ends[0]}{' '.join(map(str, found)).replace('-', '−')}{ends[1]}" if found else "–"


def burgers_name(burgers: np.ndarray, crystal: tuple[np.ndarray, float] | None) -> str:
    """Burgers vector in units of the cell, such as ``a/2[1 −1 0]``; without a crystal its components in nm."""
    if not np.isfinite(burgers).all() or not burgers.any():
        return "none"
    if crystal is not None:
        axes, cell = crystal
        found = indices(axes.T @ burgers)
        if found is not None:
            part = np.linalg.norm(burgers) / (cell * np.linalg.norm(found))
            whole = round(1 / part) if part < 0.9 else 1
            if abs(part * whole - 1) < 0.02:
                return f"a{f'/{whole}' if whole > 1 else ''}{bracketed(found, '[]')}"
    return f"[{' '.join(f'{1e3 * value:.3g}' for value in burgers)}] nm".replace("-", "−")


def direction_name(direction: np.ndarray, crystal: tuple[np.ndarray, float] | None, ends: str = "[]") -> str:
    """Direction of the crystal, such as ``[1 1 −2]``; without a crystal, or with large indices, a unit vector of the
    store.
    """
    if not np.isfinite(direction).all() or not direction.any():
        return "–"
    found = indices(crystal[0].T @ direction) if crystal is not None else None
    if found is not None:
        return bracketed(found, ends)
    unit = direction / np.linalg.norm(direction)
    return " ".join(f"{value:.2f}" for value in unit).replace("-", "−")


def character(burgers: np.ndarray, line: np.ndarray) -> str:
    """Angle between line and Burgers vector, from 0 (screw) to 90 degree (edge)."""
    size = np.linalg.norm(burgers) * np.linalg.norm(line)
    if not size > 0:
        return ""
    angle = np.rad2deg(np.arccos(np.clip(abs(burgers @ line) / size, 0, 1)))
    return "screw" if angle < 0.5 else "edge" if angle > 89.5 else f"{angle:.0f}°"
