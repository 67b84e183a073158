"""Scan commands and the names of a beamline."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from dfxm_dask.errors import RecipeError, SourceError
from dfxm_dask.sources.bliss.command import parse_parameters, parse_title, scan_command
from dfxm_dask.sources.source import find_config, load_beamline


@pytest.mark.parametrize(
    ("title", "count", "drives", "exposure"),
    [
        ("fscan mu 0.29 0.001 150 0.5 0.580407", 150, [("mu", 0.29, 0.001, 150)], 0.5),
        (
            "fscan2d chi -1 0.08 62 diffrz -1.5 0.08 43 0.1 0.100419",
            2666,
            [("chi", -1, 0.08, 62), ("diffrz", -1.5, 0.08, 43)],
            0.1,
        ),
        ("ascan diffry -23.176 -23.146  30 5", 31, [("diffry", -23.176, 0.001, 31)], 5),
        ("ascan(mu, 0, 1, 10, 0.5)", 11, [("mu", 0, 0.1, 11)], 0.5),
        ("dscan chi -1 1 20 .5", 21, [("chi", -1, 0.1, 21)], 0.5),
        ("a2scan mu 0 1 chi 5 7 10 1", 11, [("mu", 0, 0.1, 11)], 1),
        ("amesh mu 0 1 10 chi 5 7 2 1", 33, [("chi", 5, 1, 3), ("mu", 0, 0.1, 11)], 1),
        ("loopscan 12 0.25", 12, [], 0.25),
        ("timescan 0.25", 0, [], 0.25),
        ("timescan 0.25 7", 7, [], 0.25),
        ("ftimescan 0.2 60 0.25", 60, [], 0.2),
        ("sct 0.5", 1, [], 0.5),
        ("ascan mu 0 1 10", 11, [("mu", 0, 0.1, 11)], None),
    ],
)
def test_parse_title__slow_first_and_intervals_are_one_less(
    title: str, count: int, drives: list[Any], exposure: float | None
) -> None:
    command = parse_title(title, "x")
    assert command.count == count
    assert command.exposure == exposure
    assert [(d.motor, d.count) for d in command.drives] == [(d[0], d[3]) for d in drives]
    assert [(d.start, d.step) for d in command.drives] == [pytest.approx(d[1:3]) for d in drives]


@pytest.mark.parametrize(
    ("title", "match"),
    [
        ("fscan mu 0.29 0.001", "ends before the command is complete"),
        ("fscan mu 0.29 fast 150 0.5", "has 'fast' in place of a number"),
        ("fscan mu nan 0.1 150 0.5", "has 'nan' in place of a number"),
        ("fscan mu 0.29 0.001 150.5 0.5", "has 150.5 in place of a count"),
        ("fscan mu 0.29 0.001 0 0.5", "has 0 in place of a count"),
        ("timescans 1", "unknown scan command 'timescans 1'; use one of fscan"),
        ("ftimescan 0.1 2.5", "has 2.5 in place of a count"),
        ("", "unknown scan command ''"),
    ],
)
def test_parse_title__refuses(title: str, match: str) -> None:
    with pytest.raises(SourceError, match=match):
        parse_title(title, "m.h5 entry 1.1")


PARAMETERS = dict(
    slow_motor="chi",
    slow_start_pos=0.0,
    slow_step_size=0.1,
    slow_npoints=4,
    fast_motor="mu",
    fast_start_pos=1.0,
    fast_step_size=0.2,
    fast_npoints=5,
    fast_motor_mode="zigzag",
    acq_time=0.5,
)


def test_parse_parameters__prefixes_and_mode() -> None:
    command = parse_parameters(PARAMETERS, "x")
    assert command is not None
    assert (command.name, command.mode, command.count, command.exposure) == ("fscan2d", "ZIGZAG", 20, 0.5)
    assert [d.motor for d in command.drives] == ["chi", "mu"]
    assert [d.moving for d in command.drives] == [False, True]
    assert parse_parameters({"scan_name": "fscan"}, "x") is None


@pytest.mark.parametrize(("key", "value"), [("fast_npoints", 0), ("fast_npoints", 2.5), ("slow_step_size", "ERR")])
def test_parse_parameters__refuses_what_is_no_scan(key: str, value: Any) -> None:
    with pytest.raises(SourceError, match="start_pos, step_size, npoints as"):
        parse_parameters(PARAMETERS | {key: value}, "x")


def test_scan_command__title_of_a_macro_does_not_count_against_the_parameters() -> None:
    assert scan_command("my_rocking grain 3", PARAMETERS, "x").count == 20
    with pytest.raises(SourceError, match=r"title gives mu \(11\)"):
        scan_command("ascan mu 0 1 10 1", PARAMETERS, "x")


def test_load_beamline__of_the_package() -> None:
    line = load_beamline("id03")
    assert {m: line.axis_of(m) for m in ("mu", "diffry", "diffrz", "chi", "obpitch", "ccmth", "samz", "difftz")} == {
        "mu": "phi",
        "diffry": "phi",
        "diffrz": "phi",
        "chi": "chi",
        "obpitch": "two_theta",
        "ccmth": "energy",
        "samz": "z",
        "difftz": "z",
    }
    assert line.axis_of("nobody") is None
    assert (line.unit_of("mu", "phi")[0], line.unit_of("ccmenergy", "energy")[0]) == ("degree", "keV")


def test_load_beamline__user_moves_a_motor_and_puts_it_first() -> None:
    line = load_beamline("id03", {"diffry": "chi", "ux": "strain", "motors": {"z": "difftz"}, "monitors": ["mine"]})
    assert line.motors["chi"] == ["diffry", "chi"]
    assert "diffry" not in line.motors["phi"]
    assert line.motors["strain"] == ["ux"]
    assert line.motors["z"] == ["difftz", "samz"]
    assert line.monitors == ["mine"]


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("motors: {phi: [mu], chi: [mu]}", "motor 'mu' is listed under both 'phi' and 'chi'"),
        ("motors: {y: [mu]}", "axis 'y' must be a plain name"),
        ("motor: {phi: [mu]}", r"own\.yaml:1: 'motor': is unknown \(did you mean 'motors'"),
        ("units: {mu: degree}", "'motors': Field required"),
        ("motors: {phi: [mu]}\ncolour: blue", r"own\.yaml:2: 'colour': is unknown"),
        ("- phi", "is not a mapping"),
        ("motors: [", "is not YAML"),
        ("!!python/object/apply:os.system ['true']", "has a tag"),
        ("#" * (2**20 + 1), "is larger than 1 MiB"),
    ],
)
def test_load_beamline__refuses(tmp_path: Path, text: str, match: str) -> None:
    (tmp_path / "own.yaml").write_text(text)
    with pytest.raises(RecipeError, match=match) as caught:
        load_beamline(tmp_path / "own.yaml")
    assert "\n" not in str(caught.value)


def test_find_config__names_those_that_there_are(tmp_path: Path) -> None:
    assert find_config("beamlines", "id03").name == "id03.yaml"
    with pytest.raises(RecipeError, match=r"'id30': not found \(did you mean 'id03'\?\); choose from .*id03"):
        find_config("beamlines", "id30")
    with pytest.raises(RecipeError, match="not found"):
        find_config("beamlines", tmp_path / "none.yaml")
