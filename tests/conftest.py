"""Options and fixtures that all tests share, and which tests are quick.

``--fast`` runs the first case of every test but those that :data:`LONG` lists, by themselves or by a fixture that
several tests share: they took longer than :data:`QUICK`. ``--record`` writes that list: anew for the tests that ran; of
a fast run, with what was longer this time. A new test is quick until it is recorded.
"""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import time
from collections import defaultdict
from collections.abc import Generator
from pathlib import Path
from statistics import median
from typing import Any

import pytest

from dfxm_dask.surroundings import numba_cache

# Kernels are compiled once, for this process and for the workers and commands that tests start.
os.environ["NUMBA_CACHE_DIR"] = str(numba_cache())
MEMORY = Path("/dev/shm")  # Stores force every file to the disk: most of the time of many tests, where it is one.
if MEMORY.is_dir() and os.access(MEMORY, os.W_OK) and shutil.disk_usage(MEMORY).free > 4 * 2**30:
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(MEMORY))  # in which pytest makes its folders
collect_ignore = ["run/slow_plugin.py"]  # it registers a reduction when it is imported
LONG = Path(__file__).with_name("long_tests.txt")
QUICK = 0.5  # s


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--slow", action="store_true", help="also run the tests that take minutes")
    parser.addoption("--fast", action="store_true", help="one case of each test that is known to be quick")
    parser.addoption("--record", action="store_true", help="write the list of tests that are not quick")


def pytest_configure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput"):  # tests report to the process that started them
        config.pluginmanager.register(Durations(config))


def _function(nodeid: str) -> str:
    return nodeid.partition("[")[0]


def _long() -> set[str]:
    return set(LONG.read_text().splitlines())


def _takes_long(item: pytest.Item, recorded: set[str]) -> bool:
    """Whether a test, or a fixture that it needs, is recorded."""
    names: list[str] = getattr(item, "fixturenames", [])
    parts = item.nodeid.partition("::")[0].split("/")
    places = ["/".join(parts[: k + 1]) for k in range(len(parts))]
    return _function(item.nodeid) in recorded or not recorded.isdisjoint(f"{p}::{n}" for p in places for n in names)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--fast"):
        recorded, first = _long(), {}
        for item in items:
            if "slow" not in item.keywords and not _takes_long(item, recorded):
                first.setdefault(_function(item.nodeid), item)
        config.hook.pytest_deselected(items=[item for item in items if first.get(_function(item.nodeid)) is not item])
        items[:] = first.values()
    elif not config.getoption("--slow"):
        for item in items:
            if "slow" in item.keywords:
                item.add_marker(pytest.mark.skip(reason="takes minutes: run with --slow"))


_fixtures: list[str] = []
"""Fixtures that took long, until the report of the test that asked for them first."""


@pytest.hookimpl(wrapper=True)
def pytest_fixture_setup(fixturedef: Any, request: pytest.FixtureRequest) -> Generator[None, Any, Any]:
    begun = time.perf_counter()
    try:
        return (yield)
    finally:
        if fixturedef.scope != "function" and time.perf_counter() - begun > QUICK:
            _fixtures.append(f"{fixturedef.baseid}::{fixturedef.argname}")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: Any) -> Generator[None, Any, Any]:
    report = yield
    report.user_properties += [("fixture", name) for name in _fixtures]  # a worker sends them with the report
    _fixtures.clear()
    return report


class Durations:
    """How long the usual case of each test took, and the fixtures around it."""

    def __init__(self, config: pytest.Config) -> None:
        self.config = config
        self.calls: dict[str, list[float]] = defaultdict(list)
        self.around: dict[str, float] = defaultdict(float)
        self.fixtures: set[str] = set()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self.fixtures |= {str(value) for word, value in report.user_properties if word == "fixture"}
        name = _function(report.nodeid)
        if report.when == "call":
            self.calls[name].append(report.duration)
        else:
            self.around[name] = max(self.around[name], report.duration)

    def _ran(self, name: str) -> bool:
        """Whether a test, or one beside or below a fixture, was among those of this run."""
        file, _, word = name.partition("::")
        if word.rpartition("::")[2].startswith("test_"):
            return name in self.around
        return any(test.startswith((f"{file}/", f"{file}::")) for test in self.around)

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        took = {name: median(calls) + self.around[name] for name, calls in self.calls.items()}
        found = sorted((name for name, seconds in took.items() if seconds > QUICK), key=lambda name: -took[name])
        fast = self.config.getoption("--fast")
        if self.config.getoption("--record"):
            known = _long() if fast else {name for name in _long() if not self._ran(name)}
            LONG.write_text("".join(f"{name}\n" for name in sorted({*found, *self.fixtures, *known})))
        elif fast and found:
            listed = ", ".join(f"{name} ({took[name]:.1f} s)" for name in found[:5])
            terminalreporter.write_line(
                f"{len(found)} tests took longer than {QUICK} s, which scripts/test --fast --record remembers: {listed}"
            )


@pytest.fixture(scope="session")
def real_scans() -> dict[str, Path]:
    """The ID03 scans that travel with darling (MIT), by file name without ending."""
    files = importlib.metadata.files("darling-pypi") or []
    found = {Path(f).stem: Path(str(f.locate())) for f in files if str(f).endswith(".h5")}
    assert {"rocking", "mosa_scan", "motor_drift", "2D_domains"} <= set(found)
    return found
