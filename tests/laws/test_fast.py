"""The quick tests: one case of each, and no list of others that rots."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests import conftest

ROOT = Path(__file__).parents[2]


def test_long_tests__are_there() -> None:
    gone = []
    for name in conftest.LONG.read_text().splitlines():
        file, _, test = name.partition("::")
        path = ROOT / file if (ROOT / file).is_file() else ROOT / file / "conftest.py"
        gone += [] if path.is_file() and test.rpartition(".")[2] in path.read_text() else [name]
    assert not gone, (
        f"remove these lines from {conftest.LONG}, and record what was moved (scripts/test --record): {gone}"
    )


def test_fast__takes_the_first_case_of_each_test_that_is_quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conftest, "_long", lambda: {"a/b.py::long", "a::fixture"})
    needs = [("short[1]", "b"), ("short[2]", "b"), ("long", "b"), ("built", "fixture"), ("slow", "b")]
    items: list[Any] = [
        SimpleNamespace(nodeid=f"a/b.py::{name}", fixturenames=[fixture], keywords={name: True})
        for name, fixture in needs
    ]
    left: list[Any] = []
    config: Any = SimpleNamespace(
        getoption=lambda word: word == "--fast",
        hook=SimpleNamespace(pytest_deselected=lambda items: left.extend(items)),
    )
    conftest.pytest_collection_modifyitems(config, items)
    assert [item.nodeid for item in items] == ["a/b.py::short[1]"]
    assert len(left) == 4


@pytest.mark.parametrize("fast", [False, True])
def test_record__writes_what_took_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fast: bool) -> None:
    path = tmp_path / "long.txt"
    path.write_text("a::before\nother.py::test_that_was_not_asked_for\n")
    monkeypatch.setattr(conftest, "LONG", path)
    config: Any = SimpleNamespace(getoption=lambda word: fast or word == "--record")
    durations = conftest.Durations(config)
    for name, when, seconds in (
        ("a::b[1]", "call", 9.0),
        ("a::b[2]", "call", 0.1),
        ("a::b[3]", "call", 0.2),
        ("a::c", "setup", 1.0),
        ("a::c", "call", 0.0),
    ):
        fixtures = [("fixture", "a::d")] if when == "setup" else []
        report: Any = SimpleNamespace(nodeid=name, when=when, duration=seconds, user_properties=fixtures)
        durations.pytest_runtest_logreport(report)
    durations.pytest_terminal_summary(SimpleNamespace())  # type: ignore[arg-type]
    kept = "other.py::test_that_was_not_asked_for\n"
    assert path.read_text() == ("a::before\n" if fast else "") + "a::c\na::d\n" + kept
