"""One reader for all YAML: words mean what YAML 1.2 says, and a value of another kind is refused with its line."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import BaseModel, ConfigDict

from dfxm_dask.catalogue import load_reductions
from dfxm_dask.errors import DfxmError, InputError, RecipeError
from dfxm_dask.parameters import validated
from dfxm_dask.plain_yaml import parse_yaml, plain
from dfxm_dask.reduction import Reduction
from dfxm_dask.run.clusters.cluster import read_cluster
from dfxm_dask.run.labels import read_labels
from dfxm_dask.run.nights.config import read_nightly
from dfxm_dask.run.recipe import read_recipe
from dfxm_dask.sources.bliss.names import load_beamline

# Tags by the table of YAML 1.2.2, section 10.3.2, of what older YAML, other programs or people take for numbers.
MEANINGS: dict[str, Any] = {
    "0100": 100,
    "007": 7,
    "-012": -12,
    "08.5": 8.5,
    "0o17": 15,
    "0x1F": 31,
    "-0x1F": "-0x1F",
    "0b11": "0b11",
    "1:30": "1:30",
    "190:20:30": "190:20:30",
    "12:00:00.5": "12:00:00.5",
    "1_000": "1_000",
    "1,5": "1,5",
    "1e-3": 0.001,
    "12E3": 12000.0,
    "+.5": 0.5,
    "5.": 5.0,
    ".inf": math.inf,
    "-.INF": -math.inf,
    "inf": "inf",
    "NaN": "NaN",
    "yes": "yes",
    "No": "No",
    "on": "on",
    "OFF": "OFF",
    "y": "y",
    "n": "n",
    "true": True,
    "FALSE": False,
    "tRue": "tRue",
    "~": None,
    "null": None,
    "nULL": "nULL",
    "2026-01-02": "2026-01-02",
    "=": "=",
    "'12'": "12",
    '"true"': "true",
    "１２": "１２",
    "0o18": "0o18",
    "1e": "1e",
    ".": ".",
}


@pytest.mark.parametrize("word", MEANINGS)
def test_plain__words_mean_what_yaml_1_2_says(word: str) -> None:
    path = Path("a.yaml")
    found = plain(parse_yaml(f"key: {word}\nlist: [{word if ',' not in word else '0'}]\n", path), path)
    assert found["key"] == MEANINGS[word]
    assert type(found["key"]) is type(MEANINGS[word])
    assert "," in word or found["list"] == [MEANINGS[word]]


def test_plain__not_a_number_and_marks_of_editors() -> None:
    path = Path("a.yaml")
    assert math.isnan(plain(parse_yaml("a: .nan\n", path), path)["a"])
    assert plain(parse_yaml("on: 1\nyes: 2\n1_0: 3\n", path), path) == {"on": 1, "yes": 2, "1_0": 3}
    for text in ("<<: {a: 1}\n", "0100: a\n", "true: a\n", "~: a\n"):
        with pytest.raises(RecipeError, match=r"a\.yaml:1: mapping: has a key that is not a name"):
            plain(parse_yaml(text, path), path)


def _recipe(path: Path) -> Any:
    return read_recipe(path).steps[0].parameters["lit_above"]


READERS: dict[str, tuple[str, Callable[[Path], Any]]] = {
    "recipe": ("steps:\n- moments:\n    lit_above: {}\n", _recipe),
    "night": ("raw: [a]\nreport: b\nhours: {}\n", lambda path: read_nightly(path).hours),
    "cluster": ("kind: local\n\nworkers: {}\n", lambda path: read_cluster(path).workers),  # type: ignore[union-attr]
    "labels": (
        "- {{z: 1, class: weak}}\n\n- {{z: {}, class: weak}}\n",
        lambda path: read_labels(path, ())[-1].positions["z"],
    ),
}


@pytest.mark.parametrize("kind", READERS)
def test_readers__take_the_same_numbers_and_refuse_with_file_and_line(kind: str, tmp_path: Path) -> None:
    text, read = READERS[kind]
    path = tmp_path / "one.yaml"
    for word, value in (("010", 10), ("0o17", 15), ("0x1F", 31), ("12.0", 12), ("3e1", 30)):
        path.write_bytes(b"\xef\xbb\xbf" + text.format(word).encode())  # with the mark that some editors write
        assert read(path) == value, word
    for word in ("true", "yes", "Off", "1:30", "1_0", "'12'", "2026-01-02", ".inf", ".nan", "[1]", "0b1", "a b"):
        path.write_text(text.format(word))
        with pytest.raises(DfxmError, match=r"one\.yaml:3") as refused:
            read(path)
        assert "\n" not in str(refused.value)


def test_readers__numbers_and_words_are_no_truth_values(tmp_path: Path) -> None:
    path = tmp_path / "one.yaml"
    for word in ("1", "0", "yes", "on", "'true'", "y"):
        path.write_text(f"raw: [a]\nreport: b\nstack: {word}\n")
        with pytest.raises(RecipeError, match=r"one\.yaml:3: 'stack': Input should be true or false \(found"):
            read_nightly(path)
        path.write_text(f"kind: local\ntls: {word}\n")
        with pytest.raises(RecipeError, match=r"one\.yaml:2: 'tls': Input should be true or false"):
            read_cluster(path)


def test_load_beamline__refuses_with_file_and_line(tmp_path: Path) -> None:
    path = tmp_path / "one.yaml"
    for text, words in (
        (
            "motors: {phi: [mu]}\nroots: [010]\n",
            r"one\.yaml:2: 'roots\.0': Input should be a valid string \(found 10\)",
        ),
        ("motors:\n  phi: 3\n", r"one\.yaml:2: 'motors\.phi'"),
        ("motors:\n  phi:\n  - mu\n  - 3\n", r"one\.yaml:4: 'motors\.phi\.1'"),
        ("motors: {phi: [mu]}\nname: true\n", r"one\.yaml:2: 'name': .*found True"),
        ("- a\n", r"one\.yaml:1: a beamline: is not a mapping"),
    ):
        path.write_text(text)
        with pytest.raises(RecipeError, match=words):
            load_beamline(path)
    path.write_text("motors: {on: [no, y]}\n")  # names of motors, which they may be
    assert load_beamline(path).motors == {"on": ["no", "y"]}


def test_read_labels__a_cell_means_what_a_word_does(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("z,class,store\n012,weak,012\n")
    (box,) = read_labels(path, ())
    assert (box.positions["z"], box.store) == (12.0, "012")
    for word in ("yes", "true", "1_0", "1:30", "inf", "nan", "2026-01-02", "1" * 5000):
        path.write_text(f"z,class\n1,weak\n{word},weak\n")
        with pytest.raises(InputError, match=r"a\.csv:3"):
            read_labels(path, ())


REDUCTIONS = load_reductions()
PARAMETERS = [(found, name) for _, found in sorted(REDUCTIONS.items()) for name in found.parameters.model_fields]


@pytest.mark.parametrize(("found", "name"), PARAMETERS, ids=[f"{f.name}-{n}" for f, n in PARAMETERS])
def test_validate__guesses_no_kind_of_value(found: Reduction, name: str) -> None:
    schema = json.dumps(found.parameters.model_json_schema()["properties"][name])
    truth, number = '"boolean"' in schema, '"number"' in schema or '"integer"' in schema
    wrong: list[Any] = ([] if truth else [True, False, np.True_]) + ([1, 0, "yes", "true"] if truth else [])
    wrong += ["12", "1e3", "True"] if number and '"string"' not in schema.replace('"none"', "") else []
    for value in wrong:
        with pytest.raises(InputError, match=rf"^{found.name}: parameter '{name}"):
            found.validate({name: value})
    for value in (object(), np.array([object()]), {1: {2}}):
        with pytest.raises(InputError, match=rf"{found.name}: parameter '{name}.*(cannot be read|Input should be)"):
            found.validate({name: value})


def test_validated__takes_what_holds_the_same_value() -> None:
    class Asked(BaseModel):
        model_config = ConfigDict(extra="forbid", allow_inf_nan=False)
        count: int = 1
        length: float = 1.0
        pair: tuple[float, float] = (0.0, 1.0)
        file: str = ""

    found = validated(Asked, {"count": np.int16(3), "length": np.float32(0.5), "pair": np.array([1, 2.5])})
    assert found == Asked(count=3, length=0.5, pair=(1.0, 2.5))
    assert validated(Asked, {"count": 1e3, "length": 3, "file": Path("a/b")}) == Asked(count=1000, length=3, file="a/b")
