"""Reasons why a step cannot run on a store: other data, scan axes, units or pixels than it requires."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from dfxm_dask.engine.shapes import check_axes
from dfxm_dask.errors import InputError
from dfxm_dask.reduction import Reduction
from dfxm_dask.schema import COUNTS, SPACE, length_fault
from dfxm_dask.store.integrity.opened import Stored


def unfit(reduction: Reduction, parameters: Mapping[str, Any], stored: Stored) -> str | None:
    """Why a reduction with these parameters cannot run on a store, with advice, or None."""
    reason = _without_counts(reduction, stored) or check_axes(reduction, stored.axes, stored.sizes)
    return reason or _foreign_units(reduction, stored) or _misfit(reduction, parameters, stored)


def _without_counts(reduction: Reduction, stored: Stored) -> str | None:
    """Why a reduction of the counts of a scan cannot run on a set of reflections, or None."""
    if stored.counted or not (COUNTS in reduction.reads or reduction.min_axes):
        return None
    return "needs the counts of one scan, but the store is a set of reflections: run the step on the store of each one"


def _foreign_units(reduction: Reduction, stored: Stored) -> str | None:
    for variable in reduction.reads:
        if fault := length_fault(variable, stored.units.get(variable.name)):
            return f"{fault}: set the effective pixel by dfxm-dask calibrate {stored.path} --pixel-size Y,X"
    return None


def _misfit(reduction: Reduction, parameters: Mapping[str, Any], stored: Stored) -> str | None:
    """Why the parameters do not fit the pixels of the scan, or None."""
    if reduction.fits is None:
        return None
    names = (*SPACE, *stored.axes)
    positions = {d: np.asarray(zarr.open_array(str(Path(stored.path, d)), mode="r")[:]) for d in names}
    try:
        reduction.fits(parameters, positions)
    except InputError as error:
        return f"{error.asked.removeprefix(f'{reduction.name}: ')} {error.found}: {error.remedy}"
    return None
