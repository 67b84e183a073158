"""Position of a layer: the position of its z motor, for all formats."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from dfxm_dask.sources.bliss.names import Beamline
from dfxm_dask.sources.units import base_unit

STILL = 1.0  # um: a motor of the layer that moves less counts as still (our choice: about the thickness of a layer)
Stood = tuple[np.ndarray, str | None] | str
"""Readings of a motor and their unit, or the reason for their absence ("" if the file does not name the motor)."""


@dataclass(frozen=True)
class Place:
    """Position of a layer, if recorded; ``note`` gives the source of the unit, or the reason for a missing position.

    ``unit_read`` is False if the file records a position without a unit.
    """

    position: float | None = None
    motor: str | None = None
    units: str | None = None
    note: str = ""
    unit_read: bool = True


def layer_place(stood: Callable[[str], Stood], beamline: Beamline) -> Place:
    """Position of the layer: the first ``z`` motor of the beamline that was still at a known position."""
    notes = []
    for motor in beamline.motors.get("z", []):
        found = stood(motor)
        if isinstance(found, str):
            notes += [found] if found else []
            continue
        values, unit = found
        told, read = "unit from the file", unit is not None
        if unit is None:
            unit, source = beamline.unit_of(motor, "z")
            told = f"unit: {source}"
        spread = float(np.ptp(values))
        if spread and spread * base_unit(unit)[1] > STILL:
            low, high = values.min(), values.max()
            return Place(note=f"{motor} moved from {low:g} to {high:g} {unit} during the scan")
        if spread:
            notes.append(f"mean of {values.size} readings of {motor} over {spread:g} {unit}")
        position = float(values.mean()) if spread else float(values[0])
        return Place(position, motor, unit, "; ".join([*notes, told]), read)
    return Place(note="; ".join(notes))
