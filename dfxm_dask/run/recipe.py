"""Recipes: the steps of a reduction as a short YAML file, refused with file and line where it is wrong.

.. code-block:: yaml

    name: maps
    description: Maps of a rocking scan.
    steps:
      - background: {method: quantile, quantile: 0.1}
      - moments: {}
      - mosaicity: {}
        optional: true        # needs two scan axes; left out, and said so, on others

A recipe is data and never code: anchors, aliases, tags, duplicate keys, deep nesting and large files are refused.
"""

from __future__ import annotations

import hashlib
import importlib.util
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from dfxm_dask.errors import DfxmError, InputError, RecipeError
from dfxm_dask.reduction import find
from dfxm_dask.schema import nearest

MAX_BYTES = 1 << 20
"""Larger files are refused before they are parsed: a recipe of a hundred steps has 10 kB."""
MAX_DEPTH = 16
"""Deeper nesting is refused before it is built: a recipe needs 5 levels."""
TOP_LEVEL = ("name", "description", "steps")
_PLAIN = {f"tag:yaml.org,2002:{kind}" for kind in ("str", "int", "float", "bool", "null")}


@dataclass(frozen=True)
class Step:
    """One reduction of a recipe.

    Parameters
    ----------
    name : str
        Name of the reduction.
    parameters : dict
        All parameters, checked and with defaults filled in.
    optional : bool
        Whether the step is left out, rather than refused, on a scan that does not allow it.
    line : int
        Line of the recipe that asks for it, from 1; 0 for a step that was not read from a file.
    """

    name: str
    parameters: dict[str, Any] = field(default_factory=dict)
    optional: bool = False
    line: int = 0


@dataclass(frozen=True)
class Recipe:
    """Steps in the order in which they are run, with the file that they come from."""

    name: str
    description: str
    steps: tuple[Step, ...]
    path: Path
    text: str

    def where(self, step: Step) -> str:
        """``file:line`` of a step, with which every error about it starts."""
        return f"{self.path}:{step.line}"


def read_recipe(path_or_name: str | Path) -> Recipe:
    """The recipe in a file, or the packaged recipe of that name.

    Parameters
    ----------
    path_or_name : str or Path
        A file, or the bare name of a recipe that comes with the package, such as ``maps``.

    Raises
    ------
    RecipeError
        The file cannot be read, or asks for something that does not exist; the text starts with file and line.
    """
    path = recipe_path(path_or_name)
    text = read_text(path)
    return parse_recipe(text, path)


def recipe_path(path_or_name: str | Path) -> Path:
    """The file behind a path or the name of a packaged recipe."""
    path = Path(path_or_name)
    if isinstance(path_or_name, Path) or path.suffix in (".yaml", ".yml") or path.parent != Path() or path.is_file():
        return path
    from dfxm_dask.store.source import find_config  # loads the readers, which a recipe given by path does not need

    try:
        return find_config("recipes", str(path_or_name))
    except DfxmError as error:
        raise RecipeError(
            f"recipe {str(path_or_name)!r}", error.found, f"{error.remedy}, or give the path of a file"
        ) from error


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


def parse_recipe(text: str, path: Path) -> Recipe:
    """The recipe in a text; ``path`` only serves to name the place of an error.

    Raises
    ------
    RecipeError
        See :func:`read_recipe`.
    """
    top = entries(parse_yaml(text, path), path, "a recipe")
    for word, (key, _) in top.items():
        if word not in TOP_LEVEL:
            raise RecipeError(
                f"{place(path, key)}: {word!r}",
                f"is unknown at the top level{nearest(word, TOP_LEVEL)}",
                f"use {', '.join(TOP_LEVEL)}",
            )
    if "steps" not in top:
        raise RecipeError(f"{path}:1: 'steps'", "is missing", "list the reductions under `steps:`, one a line")
    listed = top["steps"][1]
    if not isinstance(listed, yaml.SequenceNode) or not listed.value:
        raise RecipeError(
            f"{place(path, listed)}: 'steps'", "is not a list of reductions", "write `- moments: {}` under it"
        )
    steps: list[Step] = []
    for node in listed.value:
        step = read_step(node, path)
        for other in steps:
            if other.name == step.name:
                raise RecipeError(
                    f"{path}:{step.line}: step {step.name!r}",
                    f"is there already, on line {other.line}",
                    "remove one: a step writes its results once",
                )
        steps.append(step)
    words = {}
    for word in ("name", "description"):
        words[word] = plain(top[word][1], path) if word in top else ""
        if not isinstance(words[word], str):
            raise RecipeError(f"{place(path, top[word][1])}: {word!r}", "is not a text", "put it in quotes")
    return Recipe(words["name"] or path.stem, words["description"].strip(), tuple(steps), path, text)


def read_step(node: yaml.Node, path: Path) -> Step:
    """One entry of ``steps``: ``name: {parameter: value}``, with ``optional: true`` beside it where wanted."""
    where = place(path, node)
    found = entries(node, path, "a step")
    names = [word for word in found if word != "optional"]
    if len(names) != 1:
        raise RecipeError(
            f"{where}: step",
            f"names {len(names)} reductions{': ' + ', '.join(names) if names else ''}",
            "begin each reduction with its own `- `, and indent its parameters below it",
        )
    name = names[0]
    try:
        reduction = find(name)
    except RecipeError as error:
        raise RecipeError(f"{where}: {error.asked}", error.found, error.remedy) from None
    optional = plain(found["optional"][1], path) if "optional" in found else False
    if not isinstance(optional, bool):
        raise RecipeError(f"{where}: 'optional' of {name}", f"is {optional!r}", "use true or false")
    body = found[name][1]
    given = {} if plain(body, path) is None else entries(body, path, f"the parameters of {name}")
    try:
        parameters = reduction.validate({word: plain(value, path) for word, (_, value) in given.items()})
    except InputError as error:
        # The line of the parameter, not of the step: steps with many parameters span several lines.
        wrong = [key for word, (key, _) in given.items() if f"parameter {word!r}" in error.asked]
        where = place(path, wrong[0]) if wrong else where
        raise RecipeError(f"{where}: {error.asked}", error.found, error.remedy) from None
    return Step(name, parameters, optional, node.start_mark.line + 1)


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
        return node.value  # YAML 1.1 would read 1:30 as 90, and 12:00:00 as a number too
    if node.tag not in _PLAIN:
        raise RecipeError(
            f"{place(path, node)}: {node.value[:40]!r}", "is not a text, number or truth value", "put it in quotes"
        )
    try:
        # Only the five tags above reach the constructor, which has no way to run code.
        return yaml.SafeLoader("").construct_object(node)
    except (ValueError, OverflowError, KeyError, IndexError) as error:
        where = f"{place(path, node)}: {node.value[:40]!r}"
        raise RecipeError(where, f"is no number ({error})", "write it in digits") from None


def load_plugin(path: str | Path) -> None:
    """Run a Python file that declares reductions with ``@reduction``, once per process.

    Only name a file that you would run yourself: it is code.

    Raises
    ------
    RecipeError
        The file is absent or fails while it is loaded.
    """
    path = Path(path).resolve()
    # Named after the path, so that two plug-ins of one file name stay apart and a worker finds a kernel by its module.
    name = f"dfxm_dask_plugin_{hashlib.sha256(str(path).encode()).hexdigest()[:12]}"
    if name in sys.modules:
        return
    spec = importlib.util.spec_from_file_location(name, path)
    if not path.is_file() or spec is None or spec.loader is None:
        raise RecipeError(f"plug-in {path}", "is not a Python file", "give the path of a .py file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # before it runs, as type hints are looked up there
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        raise RecipeError(f"plug-in {path}", f"fails with {type(error).__name__}: {error}", "correct it") from error
