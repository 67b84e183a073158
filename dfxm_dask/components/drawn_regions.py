"""Regions of strong and weak beam drawn by the user: boxes, and masks in files."""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, model_validator

from dfxm_dask.components.regions import NAMES, Name
from dfxm_dask.errors import InputError
from dfxm_dask.schema import pixel_length

SAME_LAYER = 1e-3  # um


class Region(BaseModel):
    """A box or a mask drawn by the user: the beam it shows, its position, and its layer (by default all)."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    name: Name
    box: tuple[float, float, float, float] | None = None
    mask: str | None = None
    unit: Literal["um", "pixel"] = "um"
    z: float | None = None

    @model_validator(mode="after")
    def _either(self) -> Region:
        """Require either a box or a mask."""
        if (self.box is None) == (self.mask is None):
            problem = "has neither a box nor a mask" if self.box is None else "has both a box and a mask"
            raise ValueError(f"region {self.name!r} {problem}: give one of the two")
        return self


def read_mask(name: str, path: str) -> np.ndarray:
    """Read the pixels of a region from a file: (y, x), bool.

    Parameters
    ----------
    name : str
        Name of the region, for the text of an error.
    path : str
        A .npy file, written by ``numpy.save``.

    Raises
    ------
    InputError
        The file is missing or is not a .npy file, or contains anything except True and False in two dimensions, or no
        True.
    """
    asked = f"gram_schmidt: region {name!r}, mask {path}"
    try:
        with Path(path).open("rb") as file:
            mask = np.lib.format.read_array(file, allow_pickle=False)
    except (OSError, ValueError, MemoryError) as error:
        reason = "is absent" if isinstance(error, FileNotFoundError) else f"cannot be read as an array ({error})"
        raise InputError(asked, reason, "give a .npy file written by numpy.save") from None
    if mask.dtype != bool or mask.ndim != 2:
        raise InputError(asked, f"is {mask.dtype} {mask.shape}", "save one array (y, x) of bool")
    if not mask.any():
        raise InputError(asked, "is False everywhere", "mark the pixels of the region with True")
    return mask


def mask_digests(parameters: Mapping[str, Any]) -> dict[str, str]:
    """Digests (SHA-256) of the mask files, by their paths; each file is read, so that an invalid one is refused."""
    digests = {}
    for region in parameters["regions"] or []:
        if region["mask"] is not None:
            read_mask(region["name"], region["mask"])
            digests[region["mask"]] = sha256(Path(region["mask"]).read_bytes()).hexdigest()
    return digests


def drawn_regions(
    regions: list[dict[str, Any]], lit: np.ndarray, z: float | None, y: np.ndarray, x: np.ndarray
) -> np.ndarray:
    """The boxes and masks of one layer as masks.

    Parameters
    ----------
    regions : list of dict
        See :class:`Region`: ``name``, ``box`` [y0, y1, x0, x1] with its ``unit`` or ``mask``, ``z`` (um).
    lit : array (y, x), bool
    z : float, um
        Position of the layer.
    y, x : array (y,), array (x,), um
        Positions of the pixels.

    Returns
    -------
    array (3, y, x), bool
        Lit pixels of the regions of the strong beam, and of the weak beam below and above the peak.

    Raises
    ------
    InputError
        A region is not drawn, empty, outside the frame, of another shape than the frame, or unlit in its layer; a mask
        cannot be read.
    """
    masks = np.zeros((3, *lit.shape), bool)
    for missing in sorted(set(NAMES) - {r["name"] for r in regions}):
        raise InputError(f"gram_schmidt: region {missing!r}", "is not drawn", f"draw {', '.join(NAMES)}, or none")
    for region in regions:
        asked, inside = _drawn(region, y, x)
        layer = region.get("z")
        if layer is not None and (z is None or abs(float(z) - layer) > SAME_LAYER):
            continue
        if layer is not None and not (inside & lit).any():
            raise InputError(asked, f"is unlit at z = {layer:g} um", "draw it where the sample diffracts")
        masks[NAMES.index(region["name"])] |= inside & lit
    return masks


def _drawn(region: dict[str, Any], y: np.ndarray, x: np.ndarray) -> tuple[str, np.ndarray]:
    """Name of a region for an error, and its pixels, lit or not."""
    asked = f"gram_schmidt: region {region['name']!r}"
    if region.get("mask") is not None:
        inside = read_mask(region["name"], region["mask"])
        if inside.shape != (y.size, x.size):
            raise InputError(
                f"{asked}, mask {region['mask']}",
                f"has {inside.shape} pixels, the frame has {(y.size, x.size)}",
                "save a mask of the whole frame",
            )
        return f"{asked}, mask {region['mask']}", inside
    low_y, high_y, low_x, high_x = (float(v) for v in region["box"])
    unit = region.get("unit", "um")
    asked = f"{asked}, box {[low_y, high_y, low_x, high_x]} {unit}"
    if not (low_y < high_y and low_x < high_x):
        raise InputError(asked, "is empty", "give [y0, y1, x0, x1] with y0 < y1 and x0 < x1")
    ends = [(0.0, float(p.size)) if unit == "pixel" else (p.min(), p.max()) for p in (y, x)]
    slack = [0.0 if unit == "pixel" else pixel_length(n, "gram_schmidt", p) for n, p in (("y", y), ("x", x))]
    slack = [s if np.isfinite(s) else 0.0 for s in slack]
    for low, high, (first, last), more in zip((low_y, low_x), (high_y, high_x), ends, slack, strict=True):
        if low < first - more or high > last + more:
            frame = ", ".join(f"{a:g} to {b:g}" for a, b in ends)
            raise InputError(asked, f"reaches outside the frame ({frame} {unit})", "draw it inside")
    at_y, at_x = (np.arange(p.size) if unit == "pixel" else p for p in (y, x))
    inside = ((at_y >= low_y) & (at_y < high_y))[:, None] & ((at_x >= low_x) & (at_x < high_x))
    if not inside.any():
        raise InputError(asked, "contains no pixel", "draw it larger than one pixel")
    return asked, inside
