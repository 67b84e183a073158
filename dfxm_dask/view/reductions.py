"""Reductions as a user reads them: tables of inputs and outputs, and the types and defaults of parameters."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin

from dfxm_dask.engine.docstring import bounds, unit
from dfxm_dask.view.tables import Summary, Table

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo

    from dfxm_dask.reduction import Reduction
    from dfxm_dask.schema import Variable

ROLE = re.compile(r":\w+:`~?(?:[^`]*\.)?([^`.]+)`|``([^`]+)``")
"""Marks of a docstring: a name with its role, and text between double backquotes."""


def list_reductions(known: Mapping[str, Reduction]) -> Summary:
    """Every reduction with the group that it writes to, its result, and its parameters."""
    ordered = sorted(known.items(), key=lambda item: (item[1].group, item[0]))
    facts = [
        {
            "name": name,
            "group": found.group,
            "summary": summary(found),
            "reads": [_variable(v) for v in found.reads],
            "may_read": [_variable(v) for v in found.may_read],
            "writes": [_variable(v) for v in found.writes],
            "parameters": [
                {
                    "name": parameter,
                    "type": type_words(field),
                    "default": field.get_default(),
                    "unit": unit(field),
                    "description": field.description or "",
                }
                for parameter, field in found.parameters.model_fields.items()
            ],
        }
        for name, found in ordered
    ]
    rows = [(name, found.group, summary(found), ", ".join(found.parameters.model_fields)) for name, found in ordered]
    return Summary({"reductions": facts}, Table("reductions", ("name", "group", "result", "parameters"), rows))


def explain_reduction(found: Reduction) -> Summary:
    """Declaration and documentation of one reduction."""
    variables = [
        *variable_rows("reads", found.reads),
        *variable_rows("may read", found.may_read),
        *variable_rows("writes", found.writes),
    ]
    parameters = [
        (name, type_words(field), default_words(field.get_default()), unit(field), field.description or "")
        for name, field in found.parameters.model_fields.items()
    ]
    return Summary(
        list_reductions({found.name: found}).as_dict()["reductions"][0],
        Table(f"{found.name}: {summary(found)}", ("", "variable", "dims", "dtype", "unit", "description"), variables),
        Table("parameters", ("parameter", "type", "default", "unit", "description"), parameters),
        unmarked(inspect.cleandoc(found.kernel.__doc__ or "")),
    )


def _variable(v: Variable) -> dict[str, Any]:
    return {"name": v.name, "dims": v.dims, "dtype": v.dtype, "unit": v.units, "long_name": v.long_name}


def unmarked(text: str) -> str:
    """A docstring without marks for a page of documentation.

    Examples
    --------
    >>> unmarked("The basis of :func:`dfxm_dask.pca`, with ``rank`` curves.")
    'The basis of pca, with rank curves.'
    """
    return ROLE.sub(lambda match: match[1] or match[2], text)


def variable_rows(role: str, variables: Iterable[Variable]) -> list[tuple[str, ...]]:
    """Rows of a table of variables; the first row of them names the role."""
    return [
        (role if index == 0 else "", v.name, ", ".join(v.dims), v.dtype, v.units, v.long_name)
        for index, v in enumerate(variables)
    ]


def summary(found: Reduction) -> str:
    """First paragraph of a docstring, on one line."""
    return unmarked(" ".join((found.__doc__ or "").split("\n\n")[0].split()))


def type_words(field: FieldInfo) -> str:
    """Type and bounds of a parameter as text: ``float >= 0``, ``quantile | constant``."""
    return " ".join([annotation_words(field.annotation), bounds(field)]).strip()


def default_words(default: Any) -> str:
    """A default as on a command line; an empty text for a parameter without one."""
    if default is None:
        return ""
    return ",".join(map(str, default)) if isinstance(default, list | tuple) else str(default)


def annotation_words(annotation: Any) -> str:
    """A type annotation as a user reads it."""
    if hasattr(annotation, "model_fields"):
        return f"{{{','.join(annotation.model_fields)}}}"
    if get_origin(annotation) is Literal:
        return " | ".join(str(word) for word in get_args(annotation))
    if annotation is type(None):
        return "none"
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin in (tuple, list):
        return ",".join(annotation_words(part) for part in inner if part is not Ellipsis)
    if inner:
        return " | ".join(annotation_words(part) for part in inner if part is not type(None))
    return getattr(annotation, "__name__", str(annotation))
