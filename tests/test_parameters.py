"""Options made from declarations: each takes its own default and a value as a recipe writes it; plug-ins anywhere."""

from __future__ import annotations

import typing
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from dfxm_dask import cli
from dfxm_dask.catalogue import load_reductions
from dfxm_dask.cli.parameters import field_option
from dfxm_dask.cli.runs import reduction_command
from dfxm_dask.reduction import REGISTRY, Reduction

REDUCTIONS = load_reductions()
PARAMETERS = [(found, name) for _, found in sorted(REDUCTIONS.items()) for name in found.parameters.model_fields]
MODELS = {
    "Lattice": (
        "{parameter: 4e-4, x: [1, 1, 0], z: [0, 0, 1]}",
        {"kind": None, "parameter": 4e-4, "x": (1, 1, 0), "z": (0, 0, 1), "vectors": None}
        | dict.fromkeys(("hkl", "scattering_vector", "two_theta")),
    ),
    "Region": (
        "[{name: strong, box: [0, 1, 0, 2.5]}]",
        [{"name": "strong", "box": (0, 1, 0, 2.5), "mask": None, "unit": "um", "z": None}],
    ),
}


def examples(annotation: Any) -> list[tuple[str, Any]]:
    """Texts of values of a type, and the values, made without the code under test."""
    origin, inner = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Literal:
        return [(str(word), word) for word in inner]
    if origin is tuple:
        words = (
            typing.get_args(inner[0])
            if typing.get_origin(inner[0])
            else (0.25, 3, 0.5, 2)[: 2 if ... in inner else len(inner)]
        )
        return [(",".join(map(str, words)), tuple(words)), (f"[{', '.join(map(str, words))}]", tuple(words))]
    if origin is list and typing.get_origin(inner[0]) is list:
        return [("[[0, 1, -1, 0, 1, -1]]", [[0.0, 1.0, -1.0, 0.0, 1.0, -1.0]])]
    if origin is list and inner[0] in (int, float):
        return [("[3, 2]", [3, 2])]
    if origin is list:
        return [MODELS[inner[0].__name__]]
    if getattr(annotation, "__name__", "") in MODELS:
        return [MODELS[annotation.__name__]]
    if inner:
        return [one for part in inner if part is not type(None) for one in examples(part)]
    return {
        float: [("0.25", 0.25), ("3", 3.0), ("03", 3.0), ("2e-1", 0.2)],
        int: [("12", 12), ("012", 12)],
        str: [("phi", "phi"), ("012", "012"), ("a,b", "a,b")],
        bool: [],
    }[annotation]


def given(found: Reduction, *words: str) -> dict[str, Any]:
    """Parameters as the command line hands them to the declaration."""
    command = reduction_command(found)
    params = command.make_context("c", [*words, "store.zarr"]).params
    return {name: params[name] for name in found.parameters.model_fields if params[name] is not None}


@pytest.mark.parametrize(("found", "name"), PARAMETERS, ids=[f"{f.name}-{n}" for f, n in PARAMETERS])
def test_option__takes_its_printed_default_and_a_value(found: Reduction, name: str) -> None:
    field = found.parameters.model_fields[name]
    option = field_option(name, field)
    words, text = option.opts[0], option.help or ""
    if "[default: " in text:
        shown = text.rpartition("[default: ")[2].rstrip("]")
        asked = (shown,) if field.annotation is bool else (words, shown)
        assert found.validate(given(found, *asked)) == found.validate({}), asked
    least = next((c.min_length for c in field.metadata if getattr(c, "min_length", None)), 0)
    for text, value in examples(field.annotation):
        if isinstance(value, list) and len(value) < least and not isinstance(value[0], list | dict):
            text, value = "[3, 2, 5, 4]", [3, 2, 5, 4]
        fitting = [c for c in field.metadata if getattr(c, "lt", None) is not None and not value < c.lt]
        fitting += [c for c in field.metadata if getattr(c, "le", None) is not None and not value <= c.le]
        fitting += [c for c in field.metadata if getattr(c, "gt", None) is not None and not value > c.gt]
        fitting += [c for c in field.metadata if getattr(c, "ge", None) is not None and not value >= c.ge]
        if not fitting:
            assert found.validate(given(found, words, text))[name] == value, text


@pytest.mark.parametrize("text", ["true", "yes", "1:30", "0b1", "1_0", "0.2", "0.2,1.2,3", "0.2,yes", "[0.2", "'1',2"])
def test_option__of_a_pair_refuses_what_is_none(text: str) -> None:
    result = CliRunner().invoke(cli.cli, ["reduce", "mosaicity", "s.zarr", "--half-range", text])
    assert result.exit_code == 2
    assert "half" in result.stderr
    assert "Traceback" not in result.stderr


PLUGIN = """
from dfxm_dask.reduction import reduction
from dfxm_dask.schema import COUNTS, Variable
@reduction(reads=(COUNTS,), writes=(Variable('fourth', ('z', 'y', 'x'), 'float32', '1', 'fourth'),))
def fourth(counts, *, power: int = 2):
    'Fourth.'
    return {'fourth': counts}
"""


@pytest.mark.parametrize(
    "words",
    [
        "reduce --plugin P fourth S --power 4",
        "reduce fourth --plugin P S --power 4",
        "reduce fourth S --plugin=P",
        "reduce fourth S --power 4 --plugin P",
        "reduce fourth --plugin P -- S",
        "check --plugin P R S",
        "check R --plugin P S",
        "run R S --plugin P",
        "run R --plugin=P S",
        "explain fourth --plugin P",
    ],
)
def test_plugin__stands_anywhere(words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "p.py").write_text(PLUGIN)
    (tmp_path / "r.yaml").write_text("steps:\n- fourth: {power: 3}\n")
    monkeypatch.delitem(REGISTRY, "fourth", raising=False)
    paths = {"P": tmp_path / "p.py", "R": tmp_path / "r.yaml", "S": tmp_path / "no.zarr"}
    asked = [
        word.replace("=P", f"={paths['P']}") if "=" in word else str(paths.get(word, word)) for word in words.split()
    ]
    try:
        result = CliRunner().invoke(cli.cli, asked)
    finally:
        REGISTRY.pop("fourth", None)
    if words.startswith("explain"):
        assert result.exit_code == 0
    else:  # the reduction is known, and what is refused is the store
        assert "no.zarr" in result.stderr
        assert result.exit_code == 1
