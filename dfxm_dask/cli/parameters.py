"""Options of a command from the parameters of a reduction; options and recipes accept the same values."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin

import click

from dfxm_dask.errors import DfxmError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pydantic.fields import FieldInfo


def field_option(name: str, field: FieldInfo) -> click.Option:
    """A parameter as an option, with unit and default in the help."""
    from dfxm_dask.engine.docstring import unit
    from dfxm_dask.view.reductions import default_words, type_words

    words = f"--{name.replace('_', '-')}"
    measured = f", in {unit(field)}" if unit(field) else ""
    shown = default_words(field.get_default())
    if field.annotation is bool:
        shown = words if field.get_default() else f"--no-{words[2:]}"
    text = f"{field.description or name.replace('_', ' ')}{measured}.{shown and f' [default: {shown}]'}"
    if field.annotation is bool:
        return click.Option([f"{words}/--no-{words[2:]}", name], default=None, help=text)
    if get_origin(field.annotation) is Literal and all(isinstance(word, str) for word in get_args(field.annotation)):
        return click.Option([words, name], type=click.Choice(get_args(field.annotation)), help=text)
    metavar = type_words(field).upper().replace(" ", "")
    return click.Option([words, name], metavar=metavar, type=FieldType(field.annotation), help=text)


class FieldType(click.ParamType):
    """A text with the meaning that it has in a recipe; lists may omit brackets. The declaration checks the value."""

    name = "value"

    def __init__(self, annotation: Any) -> None:
        self.kinds = set(_kinds(annotation))

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if not isinstance(value, str) or self.kinds <= {str, type(None)}:
            return value  # a name or a path, even one that looks like a number
        from dfxm_dask.plain_yaml import parse_yaml, plain, scalar

        text = value.strip()
        try:
            if not self.kinds & {list, tuple, dict} or scalar(text) is None:
                return scalar(text)
            if self.kinds & {list, tuple} and not text.startswith("["):
                text = f"[{text}]"
            path = Path("command line")
            return plain(parse_yaml(text, path), path)
        except DfxmError as error:
            self.fail(f"{value!r} {error.found}; {error.remedy}", param, ctx)
        except ValueError as error:
            self.fail(f"{value[:40]!r} is not a number ({error})", param, ctx)


def _kinds(annotation: Any) -> Iterator[Any]:
    """Types of the values that an annotation admits; ``dict`` for a model."""
    origin = get_origin(annotation)
    if origin is Literal:
        yield from (type(word) for word in get_args(annotation))
    elif origin in (list, tuple):
        yield origin
    elif hasattr(annotation, "model_fields"):
        yield dict
    elif origin is not None:
        for part in get_args(annotation):
            yield from _kinds(part)
    else:
        yield annotation
