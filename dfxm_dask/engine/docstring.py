"""Docstring of a reduction for its caller, who passes a Dataset and receives a Dataset.

The list of variables is generated from the declaration, so that kernels need not repeat it. The docstring of a kernel
supplies the rest: remarks on parameters and variables, remarks on the result, and other sections.
"""

from __future__ import annotations

import inspect
import re
import textwrap
from collections.abc import Iterable, Mapping
from types import UnionType
from typing import Literal, Union, get_args, get_origin

from pydantic.fields import FieldInfo

from dfxm_dask.engine.declaration import Declaration
from dfxm_dask.schema import AXES, SCAN, Variable

WIDTH = 100
OWN_SOURCE = "Our own definition."
"""Last sentence of Notes if no formula is from literature; a section References is then not required."""
REFUSED = (
    "The argument is not the Dataset of a scan; a variable is missing or has other dims, dtype or units; a parameter is"
    " unknown or out of range."
)
GATHER = (
    "``{name}.gather(dataset)`` computes the result at once; this is required if the length of a dim follows from the"
    " data."
)


def for_callers(declared: Declaration) -> str:
    """The docstring of a reduction, from its declaration and the docstring of its kernel."""
    summary, sections = split(declared.kernel.__doc__ or f"{declared.name}.")
    told = entries(sections.pop("Parameters", ""))
    fields = declared.parameters.model_fields
    inputs = {v: told.get(key, "") for key, v in _arguments(declared) if key not in fields}
    lines = ["dataset : xarray.Dataset", _item("A scan with the required variables"), ""]
    lines += [_variable(v, inputs.get(v, "")) for v in declared.reads]
    if declared.may_read:
        lines += ["", _item("and the optional variables"), ""]
        lines += [_variable(v, inputs.get(v, "")) for v in declared.may_read]
    for name, field in fields.items():
        lines.append(f"{name} : {', '.join(filter(None, _kind(field)))}")
        lines.append(_item(f"{_sentence(field.description or '')} {told.get(name, '')}"))
    returns = ["xarray.Dataset", _item("Lazy Dataset with the variables"), "", *map(_variable, declared.writes)]
    kernel_returns = sections.pop("Returns", "").removeprefix("dict\n")
    more = kernel_returns if declared.combine is None else GATHER.format(name=declared.name)
    raises = f"{REFUSED} {sections.pop('Raises', '').removeprefix('InputError')}"
    first = {
        "Parameters": "\n".join(lines),
        "Returns": "\n".join([*returns, *(["", _item(more)] if more else [])]),
        "Raises": f"InputError\n{_item(raises)}",
    }
    written = (f"{title}\n{'-' * len(title)}\n{text}" for title, text in (first | sections).items())
    return "\n\n".join([summary, *written]) + "\n"


def split(text: str) -> tuple[str, dict[str, str]]:
    """Summary of a numpydoc text, and its sections by title.

    Examples
    --------
    >>> split("Sum.\\n\\nNotes\\n-----\\nOf all frames.")
    ('Sum.', {'Notes': 'Of all frames.'})
    """
    summary, *parts = re.split(r"^(\w[\w ]*)\n-{3,}$", inspect.cleandoc(text), flags=re.MULTILINE)
    titles, texts = parts[::2], (part.strip("\n") for part in parts[1::2])
    return summary.strip(), dict(zip(titles, texts, strict=True))


def entries(section: str) -> dict[str, str]:
    """Text of each name in a section Parameters, as one line; names on one line share their text.

    Examples
    --------
    >>> entries("y, x : array\\n    Of pixels,\\n    equally spaced.")
    {'y': 'Of pixels, equally spaced.', 'x': 'Of pixels, equally spaced.'}
    """
    found: dict[str, str] = {}
    for block in re.split(r"\n(?=\S)", section):
        head, _, body = block.partition("\n")
        found |= {name.strip(): " ".join(body.split()) for name in head.partition(" : ")[0].split(",") if name.strip()}
    return found


def bounds(field: FieldInfo) -> str:
    """Bounds of a parameter, such as ``>= 0, < 1``."""
    signs = {"ge": ">=", "gt": ">", "le": "<=", "lt": "<"}
    known = ((sign, getattr(one, word, None)) for one in field.metadata for word, sign in signs.items())
    return ", ".join(f"{sign} {value:g}" for sign, value in known if value is not None)


def unit(field: FieldInfo) -> str:
    """Unit of a parameter; empty for a parameter without unit."""
    extra = field.json_schema_extra
    return str(extra.get("unit", "")) if isinstance(extra, Mapping) else ""


def _kind(field: FieldInfo) -> list[str]:
    """Type, bounds, unit and default of a parameter in the style of numpydoc: ``float > 0, count, optional``."""
    kinds = [a for a in get_args(field.annotation) or (field.annotation,) if a is not type(None)]
    if get_origin(field.annotation) not in (Union, UnionType):
        kinds = [field.annotation]
    words = " or ".join(
        " or ".join(map(repr, get_args(one))) if get_origin(one) is Literal else inspect.formatannotation(one)
        for one in kinds
    )
    default = field.get_default()
    return [f"{words} {bounds(field)}".strip(), unit(field), "optional" if default is None else f"default {default!r}"]


def _arguments(declared: Declaration) -> Iterable[tuple[str, Variable]]:
    """Inputs of the kernel by the names of its arguments, positional ones first."""
    names = list(inspect.signature(declared.kernel).parameters)
    names += [""] * (len(declared.reads) - len(names))
    yield from zip(names, declared.reads, strict=False)
    yield from ((v.argument, v) for v in declared.may_read)


def _variable(variable: Variable, more: str = "") -> str:
    """Item of a list: name, dims, dtype, unit, meaning, and the remark of the kernel."""
    if variable.name == AXES.name:
        return _item(f"- a coordinate of every scan axis: {variable.long_name}. {more}", hang="  ")
    dims = ", ".join("scan axes" if d == SCAN else d for d in variable.dims)
    axis = "unit of the axis" if variable.template else "unit of the rocking axis"
    units = variable.units.replace("{units}", axis) or ("product of the units" if "{other}" in variable.name else "")
    words = [f"- ``{variable.name}`` ({dims})", variable.dtype, units]
    flags = ", ".join(f"{mask} {meaning}" for mask, meaning in variable.flags)
    told = variable.long_name + (f" ({flags})" if flags else "")
    return _item(f"{', '.join(filter(None, words))}: {told}. {more}", hang="  ")


def _item(text: str, hang: str = "") -> str:
    """Indented paragraph below a name; ``hang`` is the further indent of its later lines."""
    wrapper = textwrap.TextWrapper(WIDTH, "    ", "    " + hang, break_long_words=False, break_on_hyphens=False)
    return wrapper.fill(" ".join(text.split()))


def _sentence(text: str) -> str:
    text = text.strip()
    return f"{text[:1].upper()}{text[1:]}{'' if text.endswith('.') else '.'}" if text else ""
