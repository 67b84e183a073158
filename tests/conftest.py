"""Options and fixtures that all tests share."""

from __future__ import annotations

import importlib.metadata
import os
from pathlib import Path

import pytest

from dfxm_dask.surroundings import numba_cache

# Kernels are compiled once, for this process and for the workers and commands that tests start.
os.environ["NUMBA_CACHE_DIR"] = str(numba_cache())
collect_ignore = ["run/slow_plugin.py"]  # it registers a reduction when it is imported


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--slow", action="store_true", help="also run the tests that take minutes")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not config.getoption("--slow"):
        for item in items:
            if "slow" in item.keywords:
                item.add_marker(pytest.mark.skip(reason="takes minutes: run with --slow"))


@pytest.fixture(scope="session")
def real_scans() -> dict[str, Path]:
    """The ID03 scans that travel with darling (MIT), by file name without ending."""
    files = importlib.metadata.files("darling-pypi") or []
    found = {Path(f).stem: Path(str(f.locate())) for f in files if str(f).endswith(".h5")}
    assert {"rocking", "mosa_scan", "motor_drift", "2D_domains"} <= set(found)
    return found
