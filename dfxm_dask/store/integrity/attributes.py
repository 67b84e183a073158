"""Attributes that every reader of Zarr and netCDF accepts: texts, numbers and flat lists of them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np


def netcdf_safe(attrs: Mapping[Any, Any]) -> dict[str, Any]:
    """Attributes without the kinds that netCDF lacks.

    Mappings and nested or mixed lists become JSON text, booleans become 0 and 1, and None is left out.

    Examples
    --------
    >>> netcdf_safe({"units": "um", "steps": {"moments": [1]}, "lit": True, "motor": None, "pair": [1, 2]})
    {'units': 'um', 'steps': '{"moments": [1]}', 'lit': 1, 'pair': [1, 2]}
    """
    return {str(name): _plain(value) for name, value in attrs.items() if value is not None}


def _plain(value: Any) -> Any:
    if isinstance(value, bool | np.bool_):
        return int(value)
    if isinstance(value, list | tuple) and value:
        kinds = {type(_plain(each)) for each in value}
        if kinds <= {int, float} or kinds == {str}:
            return [_plain(each) for each in value]
    if isinstance(value, Mapping | list | tuple):
        return json.dumps(value)
    return value


def recorded_steps(attrs: Mapping[Any, Any]) -> dict[str, Any]:
    """How the steps of a group were computed, by step, from the attribute ``provenance``; {} without that attribute.

    The attribute is JSON text. Stores of earlier versions have a mapping instead.

    Raises
    ------
    ValueError
        The text is not JSON.
    TypeError
        A record is not a mapping.
    """
    found = attrs.get("provenance", {})
    found = json.loads(found) if isinstance(found, str) else found
    if not isinstance(found, Mapping) or not all(isinstance(made, Mapping) for made in found.values()):
        raise TypeError("provenance")
    return dict(found)
