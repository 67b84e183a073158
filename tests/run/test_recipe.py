"""Recipes: what is wrong is refused with file, line and the nearest known word."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import pytest
from pydantic import Field

from dfxm_dask import catalogue
from dfxm_dask.errors import RecipeError
from dfxm_dask.plain_yaml import MAX_BYTES
from dfxm_dask.reduction import REGISTRY, reduction
from dfxm_dask.run.recipe import Recipe, Step, load_plugin, parse_recipe, read_recipe
from dfxm_dask.schema import COUNTS, Variable

TOTAL = Variable("total", ("z", "y", "x"), "float32", "count", "sum")


@pytest.fixture(autouse=True, scope="module")
def reductions() -> Iterator[None]:
    """Two reductions stand for the rooms, so that recipes are tested without them."""
    before = dict(REGISTRY)
    REGISTRY.clear()

    @reduction(reads=(COUNTS,), writes=(TOTAL,), over=("scan",))
    def background(
        counts: np.ndarray,
        *,
        method: Literal["quantile", "constant"] = "quantile",
        quantile: Annotated[float, Field(ge=0, le=1)] = 0.1,
    ) -> dict[str, np.ndarray]:
        return {"total": counts}

    @reduction(reads=(COUNTS,), writes=(TOTAL,), over=("scan",))
    def moments(counts: np.ndarray, *, window: tuple[float, float] | None = None) -> dict[str, np.ndarray]:
        return {"total": counts}

    known = dict(REGISTRY)
    patch = pytest.MonkeyPatch()
    patch.setattr(catalogue, "load_reductions", lambda: known)
    yield
    patch.undo()
    REGISTRY.clear()
    REGISTRY.update(before)


def parse(text: str) -> Recipe:
    return parse_recipe(text, Path("some/maps.yaml"))


def test_recipe__is_read_with_defaults_and_lines(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    text = "description: |\n  Two lines\n  of text.\nsteps:\n"
    text += "- background: {quantile: 0.2}\n\n- moments:\n  optional: true\n"
    path.write_text(text)
    assert read_recipe(path) == Recipe(
        "mine",
        "Two lines\nof text.",
        (
            Step("background", {"method": "quantile", "quantile": 0.2}, False, 5),
            Step("moments", {"window": None}, True, 7),
        ),
        path,
        text,
    )
    assert read_recipe(str(path)).steps == read_recipe(path).steps


WRONG = {
    "unknown top-level key": (
        "name: a\nstpes: []\n",
        r"maps\.yaml:2: 'stpes': is unknown at the top level \(did you mean 'steps'",
    ),
    "no steps": ("name: a\n", r"maps\.yaml:1: 'steps': is missing"),
    "steps empty": ("name: a\nsteps: []\n", r"maps\.yaml:2: 'steps': is not a list of reductions"),
    "steps a mapping": ("steps:\n  moments: {}\n", r"maps\.yaml:2: 'steps': is not a list of reductions"),
    "step a word": ("steps:\n  - moments\n", r"maps\.yaml:2: a step: is not a mapping; write `key: value`"),
    "unknown reduction": (
        "steps:\n- moments: {}\n- backgruond: {}\n",
        r"maps\.yaml:3: reduction 'backgruond': is unknown \(did you mean 'background'",
    ),
    "unknown parameter": (
        "steps:\n- background:\n    method: constant\n    quantil: 1\n",
        r"maps\.yaml:4: background: parameter 'quantil': is unknown \(did you mean 'quantile'",
    ),
    "value out of range": (
        "steps:\n- background:\n    quantile: 7\n",
        r"maps\.yaml:3: background: parameter 'quantile': .*less than or equal to 1 \(found 7\)",
    ),
    "value of another type": (
        "steps:\n- background: {quantile: much}\n",
        r"maps\.yaml:2: background: parameter 'quantile': .*valid number",
    ),
    "value that is no number": (
        "steps:\n- background: {method: constant}\n- moments:\n    window: [NAN, 1]\n",
        r"maps\.yaml:4: moments: parameter 'window.*': .*valid number \(found 'NAN'\)",
    ),
    "value without an end": (
        "steps:\n- moments:\n    window: [0, .inf]\n",
        r"maps\.yaml:3: moments: parameter 'window.*': .*finite number \(found inf\)",
    ),
    "value not among the choices": (
        "steps:\n- background: {method: Quantile}\n",
        r"maps\.yaml:2: background: parameter 'method': .*'quantile' or 'constant'",
    ),
    "sexagesimal number": ("steps:\n- background: {quantile: 0:30}\n", r"maps\.yaml:2: .*valid number.*'0:30'"),
    "parameters a list": ("steps:\n- background: [1]\n", r"maps\.yaml:2: the parameters of background: is not a map"),
    "optional not a truth value": (
        "steps:\n- moments: {}\n  optional: 2\n",
        r"maps\.yaml:2: 'optional' of moments: is",
    ),
    "two reductions in a step": (
        "steps:\n- moments: {}\n  background: {}\n",
        r"maps\.yaml:2: step: names 2 reductions: moments, background",
    ),
    "no reduction in a step": ("steps:\n- optional: true\n", r"maps\.yaml:2: step: names 0 reductions;"),
    "duplicate step": (
        "steps:\n- moments: {}\n- moments: {}\n",
        r"maps\.yaml:3: step 'moments': occurs twice, first on",
    ),
    "duplicate key": (
        "name: a\nname: b\nsteps: [moments: {}]\n",
        r"maps\.yaml:2: 'name': occurs twice, first on line 1",
    ),
    "duplicate parameter": (
        "steps:\n- background: {quantile: 0, quantile: 1}\n",
        r"maps\.yaml:2: 'quantile': occurs twice",
    ),
    "name a number": ("name: 3\nsteps: [moments: {}]\n", r"maps\.yaml:1: 'name': is not a text"),
    "key a number": ("3: a\n", r"maps\.yaml:1: a recipe: has a key that is not a name"),
    "merge key": ("steps:\n- <<: {moments: {}}\n", r"maps\.yaml:2: a step: has a key that is not a name"),
    "a date": ("steps:\n- background: {quantile: 2026-10-10}\n", r"maps\.yaml:2: .*number \(found '2026-10-10'\)"),
    "a truth value for a number": ("steps:\n- background: {quantile: true}\n", r":2: .*valid number \(found True\)"),
    "a word that was a truth value": ("steps:\n- background: {quantile: off}\n", r":2: .*valid number \(found 'off'"),
    "a number in quotes": ("steps:\n- background: {quantile: '0.1'}\n", r":2: .*valid number \(found '0.1'\)"),
    "underscores": ("steps:\n- background: {quantile: 1_0}\n", r":2: .*valid number \(found '1_0'\)"),
    "a number of base two": ("steps:\n- background: {quantile: 0b1}\n", r":2: .*valid number \(found '0b1'\)"),
    "truth values in a list": ("steps:\n- moments: {window: [1, true]}\n", r":2: .*'window.*valid .*found True"),
    "yes for a truth value": ("steps:\n- moments: {}\n  optional: yes\n", r":2: 'optional' of moments: is 'yes'"),
    "not a mapping": ("- a\n", r"maps\.yaml:1: a recipe: is not a mapping"),
    "empty": ("# nothing\n", r"maps\.yaml:1: is empty"),
    "anchor": ("name: &a b\n", r"maps\.yaml:1: has an anchor or alias \('a'\)"),
    "alias": ("name: b\nsteps: *a\n", r"maps\.yaml:2: has an anchor or alias \('a'\)"),
    "tag": ("name: !!python/object/apply:os.system [ls]\n", r"maps\.yaml:1: has a tag \('tag:yaml.org,2002:python"),
    "not YAML": ("name: a\nsteps: [\n", r"maps\.yaml:\d: is not YAML"),
    "tab": ("steps:\n\t- moments: {}\n", r"maps\.yaml:2: is not YAML"),
    "two documents": ("name: a\n---\nname: b\n", r"maps\.yaml:\d: is not YAML"),
    "control character": ("name: a\nsteps: \x07\n", r"maps\.yaml:2: is not YAML"),
    "deep": ("steps: " + "[" * 50000, r"maps\.yaml:1: is nested deeper than 16 levels"),
    "a number of 5000 digits": (
        "steps:\n- background: {quantile: %s}\n" % ("9" * 5000),
        r"maps\.yaml:2: '999.*not a number",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_recipe__refuses_with_file_and_line(case: str) -> None:
    text, match = WRONG[case]
    with pytest.raises(RecipeError, match=match) as caught:
        parse(text)
    assert str(caught.value).startswith("some/maps.yaml:")
    assert len(str(caught.value)) < 400


def test_recipe__refuses_files_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"absent\.yaml:1: cannot be read \(No such file"):
        read_recipe(tmp_path / "absent.yaml")
    with pytest.raises(RecipeError, match="is a folder; give the recipe first, then the store"):
        read_recipe(tmp_path)
    with pytest.raises(RecipeError, match=r":1: cannot be read \(embedded null byte"):
        read_recipe("a\0.yaml")
    (tmp_path / "latin.yaml").write_bytes(b"name: a\ndescription: \xe9\n")
    with pytest.raises(RecipeError, match=r"latin\.yaml:2: is not UTF-8"):
        read_recipe(tmp_path / "latin.yaml")
    (tmp_path / "huge.yaml").write_bytes(b"#" * (MAX_BYTES + 1))
    with pytest.raises(RecipeError, match=r"huge\.yaml:1: is larger than 1 MiB"):
        read_recipe(tmp_path / "huge.yaml")


def test_recipe__of_an_unknown_name_is_refused() -> None:
    with pytest.raises(RecipeError, match=r"recipe 'mpas': not found .*or give the path of a .yaml file$"):
        read_recipe("mpas")


def test_load_plugin__registers_once(tmp_path: Path) -> None:
    path = tmp_path / "my plug-in.py"
    path.write_text(
        "from dfxm_dask.reduction import reduction\n"
        "from dfxm_dask.schema import COUNTS, Variable\n"
        "@reduction(reads=(COUNTS,), writes=(Variable('third', ('z', 'y', 'x'), 'float32', '1', 'third'),))\n"
        "def third(counts, *, power: int = 2):\n"
        "    return {'third': counts}\n"
    )
    load_plugin(path)
    found = REGISTRY["third"]
    load_plugin(str(path))
    assert REGISTRY["third"] is found
    assert found.group == "extra"


def test_load_plugin__refuses_what_is_no_plugin(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"absent\.py: is not a Python file"):
        load_plugin(tmp_path / "absent.py")
    (tmp_path / "broken.py").write_text("import nothing_of_that_name\n")
    with pytest.raises(RecipeError, match=r"broken\.py: fails with ModuleNotFoundError"):
        load_plugin(tmp_path / "broken.py")
