"""Tasks of ewoks: a workflow of three, executed by ewoks, and its refusals."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from ewoks import execute_graph

import dfxm_dask
from tests.beamline_files import write_bliss


def graph(folder: Path, **recipe: Any) -> dict[str, Any]:
    """Ingest, run and export in a row, each with its store from the one before."""
    (folder / "short.yaml").write_text("steps:\n- background: {method: scalar, value: 60}\n- moments: {}\n")
    given: dict[str, dict[str, Any]] = {
        "Ingest": {"source": str(folder / "s.h5"), "store": str(folder / "s.zarr"), "pixel_size": [0.5, 0.7]},
        "RunRecipe": {"recipe": str(folder / "short.yaml"), **recipe},
        "Export": {"folder": str(folder / "out"), "what": ["maps"], "formats": ["nexus", "csv"]},
    }
    nodes = [
        {
            "id": name,
            "task_type": "class",
            "task_identifier": f"dfxm_dask.ewoks.{name}",
            "default_inputs": [{"name": key, "value": value} for key, value in inputs.items()],
        }
        for name, inputs in given.items()
    ]
    store = [{"source_output": "store", "target_input": "store"}]
    links = [
        {"source": a, "target": b, "data_mapping": store} for a, b in (("Ingest", "RunRecipe"), ("RunRecipe", "Export"))
    ]
    return {"graph": {"id": "dfxm", "schema_version": "1.2"}, "nodes": nodes, "links": links}


def test_workflow__of_three_tasks_writes_the_maps(tmp_path: Path) -> None:
    write_bliss(tmp_path / "s.h5", shape=(9,), size=(20, 30))
    files = execute_graph(graph(tmp_path))["files"]
    assert sorted(Path(file).name for file in files) == ["maps.csv", "maps.h5", "maps.units.json"]
    total = dfxm_dask.open_scan(tmp_path / "s.zarr", chunks=None)["rocking"].total.values
    found: list[Any] = []
    with h5py.File(tmp_path / "out/maps.h5") as file:
        file.visititems(lambda name, node: found.append(node[()]) if name.endswith("total/total") else None)
    np.testing.assert_array_equal(np.squeeze(found[0]), np.squeeze(total))


def test_workflow__keeps_the_three_parts_of_an_error(tmp_path: Path) -> None:
    write_bliss(tmp_path / "s.h5", shape=(9,), size=(20, 30))
    with pytest.raises(Exception, match="did you mean 'maps'") as caught:
        execute_graph(graph(tmp_path, recipe="mpas"))
    cause: Any = caught.value
    while not isinstance(cause, dfxm_dask.DfxmError):
        cause = cause.__cause__
    assert (cause.asked, "did you mean 'maps'" in cause.found) == ("recipe 'mpas'", True)
    with pytest.raises(Exception, match="unknown_word"):
        execute_graph(graph(tmp_path, unknown_word=1))
