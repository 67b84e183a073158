"""What the scenarios share: the examples, run in this process."""

from __future__ import annotations

import runpy
import tempfile
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(scope="module")
def run_example(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[Path], dict[str, Any]]]:
    """Runs an example in a folder of the test; its names, and under "printed" what it printed."""
    import matplotlib.pyplot as plt

    from dfxm_dask.reduction import REGISTRY

    known = dict(REGISTRY)
    backend = plt.get_backend()
    plt.switch_backend("agg")

    def run(path: Path) -> dict[str, Any]:
        printed = StringIO()
        with redirect_stdout(printed):
            names = runpy.run_path(str(path))
        return names | {"printed": printed.getvalue()}

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tempfile, "tempdir", str(tmp_path_factory.mktemp("examples")))
        yield run
    plt.close("all")
    plt.switch_backend(backend)
    REGISTRY.clear()
    REGISTRY.update(known)
