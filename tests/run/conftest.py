"""What tests of runs on clusters share."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from dfxm_dask.reduction import REGISTRY
from dfxm_dask.run.recipe import load_plugin


@pytest.fixture
def store(raw: Path, tmp_path: Path) -> Path:
    """A copy of the raw store of a module, to be worked on."""
    shutil.copytree(raw, tmp_path / "s.zarr")
    return tmp_path / "s.zarr"


@pytest.fixture(scope="module")
def slow_plugin() -> Iterator[Path]:
    """The file of a plugin whose reduction is known in this process while a module of tests lasts."""
    path = Path(__file__).with_name("slow_plugin.py")
    load_plugin(path)
    yield path
    REGISTRY.pop("slow_sum")
    for name in [n for n, module in sys.modules.items() if getattr(module, "__file__", None) == str(path)]:
        del sys.modules[name]  # else it would not be loaded again
