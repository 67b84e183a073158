"""What attacks have in common: a sound store to spoil, a trap that must stay empty, and a limit of memory."""

from __future__ import annotations

import shutil
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.stores import raw_store


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sound")
    return raw_store(folder, layers=2, shape=(5,), size=(64, 70), pixel_size=(0.5, 0.25))


@pytest.fixture
def store(sound: Path, tmp_path: Path) -> Path:
    shutil.copytree(sound, tmp_path / "s.zarr")
    return tmp_path / "s.zarr"


@pytest.fixture
def trap(tmp_path: Path) -> Iterator[Path]:
    """A file that only an attack would make."""
    yield tmp_path / "trap"
    assert not (tmp_path / "trap").exists()


@pytest.fixture
def small_memory() -> Iterator[None]:
    """Nothing in the test may ask Python or numpy for more than 200 MB."""
    import safetensors.torch  # noqa: F401  (what is loaded first is not counted, which takes long)

    import dfxm_dask.run.training  # noqa: F401

    tracemalloc.start()
    yield
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 200_000_000
