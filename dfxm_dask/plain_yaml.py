"""YAML as data and never as code, with line numbers. Files must be small and shallow; anchors, aliases, tags and
duplicate keys are refused.

Unquoted text is resolved by the core schema of YAML 1.2. PyYAML resolves it by YAML 1.1, in which 0100 is 64, 1:30
is 90 and ``no`` is false; its resolution is therefore not used.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from dfxm_dask.errors import RecipeError
from dfxm_dask.parameters import Model, first_fault, validated
from dfxm_dask.schema import nearest, printable

MAX_BYTES = 1 << 20
"""Larger files are refused before they are parsed: a recipe of a hundred steps has 10 kB."""
MAX_DEPTH = 16
"""Deeper nesting is refused before it is built: a recipe needs 5 levels."""
_WORDS: dict[str, bool | float | None] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL")),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
    **dict.fromkeys((f"{sign}.{word}" for sign in ("", "+") for word in ("inf", "Inf", "INF")), float("inf")),
    **dict.fromkeys((f"-.{word}" for word in ("inf", "Inf", "INF")), -float("inf")),
    **dict.fromkeys((".nan", ".NaN", ".NAN"), float("nan")),
}
_WHOLE = re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+")
_FRACTION = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")


def read_text(path: Path) -> str:
    """Text of a small configuration file.

    Raises
    ------
    RecipeError
        The file is absent, not a regular file, larger than :data:`MAX_BYTES`, or not UTF-8.
    """
    try:
        with path.open("rb") as stream:
            raw = stream.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise RecipeError(f"{path}:1", f"cannot be read ({reason})", "give the path of a YAML file") from None
    if len(raw) > MAX_BYTES:
        raise RecipeError(f"{path}:1", f"is larger than {MAX_BYTES >> 20} MiB", "give a recipe, not a data file")
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        raise RecipeError(f"{path}:{line}", f"is not UTF-8 (byte {error.start})", "save it as UTF-8 text") from None


def parse_yaml(text: str, path: Path) -> yaml.Node:
    """The single document of a YAML text as nodes with line numbers.

    Raises
    ------
    RecipeError
        The text is not YAML, is empty, is nested deeper than :data:`MAX_DEPTH`, or has anchors, aliases or tags.
    """
    depth = 0
    try:
        # The parser of events is not recursive, so that the depth is known before nodes are built.
        event: Any
        for event in yaml.parse(text, Loader=yaml.SafeLoader):
            where = f"{path}:{event.start_mark.line + 1}"
            if getattr(event, "anchor", None) is not None:
                raise RecipeError(where, f"has an anchor or alias ({event.anchor!r})", "write the value out")
            if getattr(event, "tag", None) is not None:
                raise RecipeError(where, f"has a tag ({event.tag!r})", "write a plain value")
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > MAX_DEPTH:
                raise RecipeError(where, f"is nested deeper than {MAX_DEPTH} levels", "write a flat list of steps")
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
        position = getattr(error, "position", None)
        before = text[:position].count("\n") if isinstance(position, int) else 0
        line = (mark.line if mark else before) + 1
        problem = getattr(error, "problem", None) or getattr(error, "reason", None) or "wrong YAML"
        raise RecipeError(f"{path}:{line}", f"is not YAML ({problem})", "check indentation, quotes, brackets") from None
    if node is None:
        raise RecipeError(f"{path}:1", "is empty", "start from one of the files in configs")
    return node


def place(path: Path, node: yaml.Node) -> str:
    """``file:line`` of a node."""
    return f"{path}:{node.start_mark.line + 1}"


def scalar(text: str) -> str | float | bool | None:
    """Value of unquoted text by the core schema of YAML 1.2.

    Parameters
    ----------
    text : str
        Text from a file, from a cell of a table or from a command line.

    Raises
    ------
    ValueError
        An integer with more digits than Python converts.

    References
    ----------
    YAML 1.2.2, section 10.3.2: https://yaml.org/spec/1.2.2/#1032-tag-resolution

    Examples
    --------
    >>> [scalar(word) for word in ("0100", "0o17", "1e-3", "true")]
    [100, 15, 0.001, True]
    >>> [scalar(word) for word in ("yes", "1:30", "1_000", "2026-01-02")]
    ['yes', '1:30', '1_000', '2026-01-02']
    """
    if text in _WORDS:
        return _WORDS[text]
    if _WHOLE.fullmatch(text):
        return int(text, 0) if text[:2] in ("0o", "0x") else int(text)
    return float(text) if _FRACTION.fullmatch(text) else printable(text)


def entries(node: yaml.Node, path: Path, what: str) -> dict[str, tuple[yaml.Node, yaml.Node]]:
    """Keys of a mapping, each with the nodes of key and value.

    Raises
    ------
    RecipeError
        The node is not a mapping, a key is not a text, or a key occurs twice.
    """
    if not isinstance(node, yaml.MappingNode):
        raise RecipeError(f"{place(path, node)}: {what}", "is not a mapping", "write `key: value`")
    found: dict[str, tuple[yaml.Node, yaml.Node]] = {}
    for key, value in node.value:
        # A key such as 1_000, a number in YAML 1.1, is a word; ``<<`` would merge another mapping.
        if not isinstance(key, yaml.ScalarNode) or key.value == "<<" or not isinstance(_meant(key, path), str):
            raise RecipeError(f"{place(path, key)}: {what}", "has a key that is not a name", "use names as keys")
        if key.value in found:
            first = found[key.value][0].start_mark.line + 1
            raise RecipeError(
                f"{place(path, key)}: {key.value!r}", f"occurs twice, first on line {first}", "remove one"
            )
        found[key.value] = (key, value)
    return found


def plain(node: yaml.Node, path: Path) -> Any:
    """Value of a node: a text, number, truth value, null, or lists and mappings of these.

    Control characters of a text are replaced, since texts appear on terminals and in pages.

    Raises
    ------
    RecipeError
        A number with too many digits, or a mapping with keys that are not names.
    """
    if isinstance(node, yaml.MappingNode):
        return {word: plain(value, path) for word, (_, value) in entries(node, path, "mapping").items()}
    if isinstance(node, yaml.ScalarNode):
        return _meant(node, path)
    return [plain(value, path) for value in node.value]


def _meant(node: yaml.ScalarNode, path: Path) -> str | float | bool | None:
    if node.style:  # in quotes, or a block of text
        return printable(node.value)
    try:
        return scalar(node.value)
    except ValueError as error:
        where = f"{place(path, node)}: {node.value[:40]!r}"
        raise RecipeError(where, f"is not a number ({error})", "write a shorter number") from None


def read_words(path: Path, what: str) -> tuple[dict[str, Any], dict[str, str]]:
    """Keys of a YAML file with their values, and the ``file:line`` of every key, also of nested ones.

    Parameters
    ----------
    path : Path
    what : str
        Kind of the file, such as "a cluster", for errors.

    Raises
    ------
    RecipeError
        See :func:`read_text`, :func:`parse_yaml`, :func:`entries` and :func:`plain`.
    """
    root = parse_yaml(read_text(path), path)
    found = entries(root, path, what)
    return (
        {word: plain(value, path) for word, (_, value) in found.items()},
        dict(_places(root, path)),
    )


def _places(node: yaml.Node, path: Path, above: str = "") -> Iterator[tuple[str, str]]:
    """Every key of a file with its ``file:line``; nested keys are written as ``motors.phi`` or ``roi.2``."""
    if isinstance(node, yaml.ScalarNode):
        return
    mapping = isinstance(node, yaml.MappingNode)
    pairs = node.value if mapping else [(value, value) for value in node.value]
    for number, (key, value) in enumerate(pairs):
        word = f"{above}{key.value if mapping else number}"
        yield word, place(path, key)
        yield from _places(value, path, f"{word}.")


def refuse_unknown(lines: Mapping[str, str], known: Collection[str], where: str = "") -> None:
    """Refuse unknown keys of a file.

    Parameters
    ----------
    lines : mapping
        Keys with their ``file:line``.
    known : collection of str
    where : str
        Part of the file, such as " at the top level".

    Raises
    ------
    RecipeError
        A key is unknown; the text suggests the nearest known one.
    """
    for word, line in lines.items():
        if word not in known:
            raise RecipeError(
                f"{line}: {word!r}", f"is unknown{where}{nearest(word, known)}", f"use {', '.join(known)}"
            )


def configured(model: type[Model], content: Mapping[str, Any], lines: Mapping[str, str], path: Path, see: str) -> Model:
    """A configuration after validation.

    Parameters
    ----------
    model : class
        The keys are its fields without the excluded ones.
    content, lines : mapping
        Keys with their values, and with their ``file:line``, as :func:`read_words` returns them.
    path : Path
        The file.
    see : str
        Location of an example.

    Raises
    ------
    RecipeError
        An unknown key (with the nearest known one), or an invalid value; with file and line.
    """
    refuse_unknown(
        {word: lines[word] for word in content if word in lines},
        [name for name, field in model.model_fields.items() if not field.exclude],
    )
    try:
        return validated(model, content)
    except ValidationError as error:
        fault, reason = first_fault(error)
        # A fault of the whole file is reported at its first required key.
        needed = next((name for name, field in model.model_fields.items() if field.is_required()), "")
        where = ".".join(map(str, fault)) or needed
        around = [".".join(map(str, fault[:depth])) for depth in range(len(fault), 0, -1)] or [needed]
        line = next((lines[word] for word in around if word in lines), f"{path}:1" if lines else str(path))
        raise RecipeError(f"{line}: {where!r}", reason, f"see {see}") from None


def read_config(path: Path, model: type[Model], what: str, see: str) -> Model:
    """The configuration in a YAML file after validation: see :func:`read_words` and :func:`configured`."""
    return configured(model, *read_words(path, what), path, see)
