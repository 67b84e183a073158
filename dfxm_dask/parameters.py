"""Strict validation of parameters and configurations."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from pydantic import BaseModel, ValidationError

from dfxm_dask.errors import InputError

Model = TypeVar("Model", bound=BaseModel)


def validated(model: type[Model], given: Mapping[str, Any]) -> Model:
    """Parameters or a configuration after strict validation.

    Texts and truth values are not converted to numbers, and numbers are not converted to truth values. An integer may
    be written as 3.0, and a list may be a tuple or a numpy array.

    Raises
    ------
    InputError
        A value is neither a number, a text, a truth value, nor a list or mapping of these.
    ValidationError
        Raised by pydantic; see :func:`first_fault`.
    """
    # As JSON: in Python, pydantic's strict mode would also distinguish a tuple from a list.
    written = {}
    for name, value in given.items():
        try:
            written[name] = json.dumps(_plainly(value))
        except (TypeError, ValueError, RecursionError) as error:
            raise InputError(
                f"parameter {name!r}", f"cannot be read ({error})", "give a number, a text, true or false, or a list"
            ) from None
    text = ", ".join(f"{json.dumps(str(name))}: {value}" for name, value in written.items())
    return model.model_validate_json(f"{{{text}}}", strict=True)


def _plainly(value: Any) -> Any:
    if isinstance(value, np.generic | np.ndarray):
        value = value.tolist()
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        return int(value)
    if isinstance(value, BaseModel):
        value = value.model_dump()
    if isinstance(value, Mapping):
        return {str(key): _plainly(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_plainly(part) for part in value]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"it is of type {type(value).__name__}")


def first_fault(error: ValidationError) -> tuple[tuple[Any, ...], str]:
    """Location of the first fault of a validation, and its reason with the value that was given."""
    first = error.errors()[0]
    reason = "Input should be true or false" if first["type"] == "bool_type" else first["msg"]
    reason = reason.removeprefix("Value error, ")
    if first["type"] == "missing" or (first["type"] == "value_error" and isinstance(first["input"], dict)):
        return first["loc"], reason  # the value would add nothing
    return first["loc"], f"{reason} (found {first.get('input')!r:.80})"
