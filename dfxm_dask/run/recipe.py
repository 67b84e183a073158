"""Recipes: the steps of a reduction as a short YAML file; errors name file and line.

.. code-block:: yaml

    name: maps
    description: Maps of a rocking scan.
    steps:
      - background: {method: quantile, quantile: 0.1}
      - moments: {}
      - mosaicity: {}
        optional: true        # needs two scan axes; left out, with a message, on other scans

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

from dfxm_dask.catalogue import find
from dfxm_dask.errors import DfxmError, InputError, RecipeError
from dfxm_dask.plain_yaml import entries, parse_yaml, place, plain, read_text, refuse_unknown

TOP_LEVEL = ("name", "description", "steps")


@dataclass(frozen=True)
class Step:
    """One reduction of a recipe.

    Parameters
    ----------
    name : str
        Name of the reduction.
    parameters : dict
        All parameters after validation, including defaults.
    optional : bool
        Whether the step is left out, instead of refused, on a scan that does not suit it.
    line : int
        Line of the recipe with this step, from 1; 0 for a step that was not read from a file.
    """

    name: str
    parameters: dict[str, Any] = field(default_factory=dict)
    optional: bool = False
    line: int = 0


@dataclass(frozen=True)
class Recipe:
    """Steps in the order of execution, with the file that contains them."""

    name: str
    description: str
    steps: tuple[Step, ...]
    path: Path
    text: str

    def where(self, step: Step) -> str:
        """``file:line`` of a step, the beginning of every error about this step."""
        return f"{self.path}:{step.line}"


def read_recipe(path_or_name: str | Path) -> Recipe:
    """The recipe in a file, or the packaged recipe of that name.

    Parameters
    ----------
    path_or_name : str or Path
        A file, or the bare name of a recipe of the package, such as ``maps``.

    Raises
    ------
    RecipeError
        The file cannot be read, or it names an unknown step or parameter; the text starts with file and line.
    """
    path = recipe_path(path_or_name)
    text = read_text(path)
    return parse_recipe(text, path)


def recipe_path(path_or_name: str | Path) -> Path:
    """The file behind a path or the name of a packaged recipe."""
    path = Path(path_or_name)
    order = RecipeError(
        f"recipe {str(path)!r}", "is a folder", "give the recipe first, then the store, as in `run maps scan.zarr`"
    )
    if isinstance(path_or_name, Path) or path.suffix in (".yaml", ".yml") or path.parent != Path() or path.is_file():
        if path.is_dir():
            raise order
        return path
    from dfxm_dask.sources.source import find_config  # loads the readers, which a recipe by path does not use

    try:
        return find_config("recipes", str(path_or_name))
    except DfxmError as error:
        if path.is_dir():
            raise order from error
        raise RecipeError(f"recipe {str(path_or_name)!r}", error.found, error.remedy) from error


def parse_recipe(text: str, path: Path) -> Recipe:
    """The recipe in a text; errors name ``path``.

    Raises
    ------
    RecipeError
        See :func:`read_recipe`.
    """
    top = entries(parse_yaml(text, path), path, "a recipe")
    refuse_unknown({word: place(path, key) for word, (key, _) in top.items()}, TOP_LEVEL, " at the top level")
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
                    f"occurs twice, first on line {other.line}",
                    "remove one: a recipe runs a step once",
                )
        steps.append(step)
    words = {}
    for word in ("name", "description"):
        words[word] = plain(top[word][1], path) if word in top else ""
        if not isinstance(words[word], str):
            raise RecipeError(f"{place(path, top[word][1])}: {word!r}", "is not a text", "put it in quotes")
    return Recipe(words["name"] or path.stem, words["description"].strip(), tuple(steps), path, text)


def read_step(node: yaml.Node, path: Path) -> Step:
    """One entry of ``steps``: ``name: {parameter: value}``, with an optional key ``optional: true``."""
    where = place(path, node)
    found = entries(node, path, "a step")
    names = [word for word in found if word != "optional"]
    if len(names) != 1:
        raise RecipeError(
            f"{where}: step",
            f"names {len(names)} reductions{': ' + ', '.join(names) if names else ''}",
            "begin each reduction with `- `, and indent its parameters below it",
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
        # The line of the parameter instead of the step, which may span many lines.
        wrong = [
            key
            for word, (key, _) in given.items()
            if f"parameter {word!r}" in error.asked or f"parameter '{word}." in error.asked
        ]
        where = place(path, wrong[0]) if wrong else where
        raise RecipeError(f"{where}: {error.asked}", error.found, error.remedy) from None
    return Step(name, parameters, optional, node.start_mark.line + 1)


def load_plugin(path: str | Path) -> None:
    """Run a Python file that declares reductions with ``@reduction``, once per process.

    The file is executed: name only files that you trust.

    Raises
    ------
    RecipeError
        The file is absent or raises an error.
    """
    path = Path(path).resolve()
    # The module name contains the path, so that plug-ins with the same file name differ and workers find the kernel.
    name = f"dfxm_dask_plugin_{hashlib.sha256(str(path).encode()).hexdigest()[:12]}"
    if name in sys.modules:
        return
    spec = importlib.util.spec_from_file_location(name, path)
    if not path.is_file() or spec is None or spec.loader is None:
        raise RecipeError(f"plug-in {path}", "is not a Python file", "give the path of a .py file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # before it runs, since type hints are resolved there
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        raise RecipeError(f"plug-in {path}", f"fails with {type(error).__name__}: {error}", "correct it") from error
