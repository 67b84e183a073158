"""Declaration of a reduction: its kernel, its inputs and outputs, and the dims that it needs whole.

Graphs and units of a run use this class alone; :mod:`dfxm_dask.reduction` derives a callable from it.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ValidationError

from dfxm_dask.errors import InputError
from dfxm_dask.parameters import first_fault, validated
from dfxm_dask.schema import Variable, nearest

Arrays = dict[str, np.ndarray]
Positions = Literal["own", "common", "unused"]
Fits = Callable[[Mapping[str, Any], Mapping[str, np.ndarray]], Any]
Settle = Callable[[Mapping[str, Any], Mapping[str, Any], tuple[int, ...]], tuple[dict[str, Any] | None, str]]


@dataclass(frozen=True, eq=False)
class Declaration:
    """A kernel with its inputs, outputs and whole dims; :func:`dfxm_dask.reduction.reduction` describes the fields."""

    name: str
    kernel: Callable[..., Arrays]
    reads: tuple[Variable, ...]
    may_read: tuple[Variable, ...]
    writes: tuple[Variable, ...]
    over: tuple[str, ...]
    halo: int
    patch: int | None
    combine: Callable[[Arrays, Arrays], Arrays] | None
    finish: Callable[[Arrays], Arrays] | None
    min_axes: int
    group: str
    parameters: type[BaseModel]
    min_positions: int = 1
    files: Callable[[Mapping[str, Any]], Mapping[str, str]] | None = None
    positions: Positions = "own"
    settle: Settle | None = None
    settled_by: tuple[Variable, ...] = ()
    fits: Fits | None = None
    border: int = 0

    @cached_property
    def by_frame(self) -> bool:
        """Whether the kernel takes frames one by one: its argument ``first`` is the number of the first one."""
        return "first" in inspect.signature(self.kernel).parameters

    def validate(self, parameters: Mapping[str, Any], *, where: str = "") -> dict[str, Any]:
        """Valid parameters, including defaults.

        Raises
        ------
        InputError
            Unknown name (with the nearest known one), wrong type, or a value out of range.
        """
        prefix = f"{where}{self.name}"
        for word in parameters:
            if word not in self.parameters.model_fields:
                known = ", ".join(self.parameters.model_fields) or "none"
                raise InputError(
                    f"{prefix}: parameter {word!r}",
                    f"is unknown{nearest(word, self.parameters.model_fields)}",
                    f"known parameters: {known}",
                )
        try:
            return validated(self.parameters, parameters).model_dump()
        except InputError as error:
            raise InputError(f"{prefix}: {error.asked}", error.found, error.remedy) from None
        except ValidationError as error:
            place, reason = first_fault(error)
            name = ".".join(str(part) for part in place) or "parameters"
            raise InputError(f"{prefix}: parameter {name!r}", reason, f"see `dfxm-dask explain {self.name}`") from None
