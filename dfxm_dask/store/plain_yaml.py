"""YAML as data and never as code: small, shallow, without anchors, aliases, tags and duplicate keys; with its lines."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from dfxm_dask.errors import RecipeError
from dfxm_dask.schema import printable

MAX_BYTES = 1 << 20
"""Larger files are refused before they are parsed: a recipe of a hundred steps has 10 kB."""
MAX_DEPTH = 16
"""Deeper nesting is refused before it is built: a recipe needs 5 levels."""
_PLAIN = {f"tag:yaml.org,2002:{kind}" for kind in ("str", "int", "float", "bool", "null")}


def read_text(path: Path) -> str:
    """Text of a small configuration file.

    Raises
    ------
    RecipeError
        It is absent, not a file, larger than :data:`MAX_BYTES`, or not UTF-8.
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
    """The one document of a YAML text as nodes, which know their lines.

    Raises
    ------
    RecipeError
        It is not YAML, is empty, is nested deeper than :data:`MAX_DEPTH`, or has anchors, aliases or tags.
    """
    depth = 0
    try:
        # Events come from a parser without recursion, so that depth is known before anything is built.
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
        raise RecipeError(f"{path}:1", "is empty", "start from a packaged recipe: `name:` and `steps:`")
    return node


def place(path: Path, node: yaml.Node) -> str:
    """``file:line`` of a node."""
    return f"{path}:{node.start_mark.line + 1}"


def entries(node: yaml.Node, path: Path, what: str) -> dict[str, tuple[yaml.Node, yaml.Node]]:
    """Keys of a mapping, each with the nodes of key and value.

    Raises
    ------
    RecipeError
        The node is no mapping, or a key is no text or occurs twice.
    """
    if not isinstance(node, yaml.MappingNode):
        raise RecipeError(f"{place(path, node)}: {what}", "is not a mapping", "write `key: value`")
    found: dict[str, tuple[yaml.Node, yaml.Node]] = {}
    for key, value in node.value:
        if not isinstance(key, yaml.ScalarNode) or key.tag != "tag:yaml.org,2002:str":
            raise RecipeError(f"{place(path, key)}: {what}", "has a key that is not a plain word", "use plain words")
        if key.value in found:
            first = found[key.value][0].start_mark.line + 1
            raise RecipeError(f"{place(path, key)}: {key.value!r}", f"is there already, on line {first}", "remove one")
        found[key.value] = (key, value)
    return found


def plain(node: yaml.Node, path: Path) -> Any:
    """The value of a node: text, number, truth value, null, or lists and mappings of these.

    Control characters of a text are replaced, since texts end up on terminals and in pages.

    Raises
    ------
    RecipeError
        A date, a malformed number, or a mapping with keys that are not words.
    """
    if isinstance(node, yaml.MappingNode):
        return {word: plain(value, path) for word, (_, value) in entries(node, path, "mapping").items()}
    if isinstance(node, yaml.SequenceNode):
        return [plain(value, path) for value in node.value]
    if ":" in node.value:
        return printable(node.value)  # YAML 1.1 would read 1:30 as 90, and 12:00:00 as a number too
    if node.tag not in _PLAIN:
        raise RecipeError(
            f"{place(path, node)}: {node.value[:40]!r}", "is not a text, number or truth value", "put it in quotes"
        )
    try:
        # Only the five tags above reach the constructor, which has no way to run code.
        value = yaml.SafeLoader("").construct_object(node)
    except (ValueError, OverflowError, KeyError, IndexError) as error:
        where = f"{place(path, node)}: {node.value[:40]!r}"
        raise RecipeError(where, f"is no number ({error})", "write it in digits") from None
    return printable(value) if isinstance(value, str) else value
