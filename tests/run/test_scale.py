"""Scale: what is asked of the scheduler and of a plan stays bounded, however many blocks a run has."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

import dfxm_dask
from dfxm_dask.run.execute import plan
from dfxm_dask.store.integrity import ledger, nodes
from tests.beamline_files import write_bliss

RECIPES = ("maps", "components", "weak_beam")


@pytest.fixture(scope="module")
def one_layer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scale")
    write_bliss(folder / "s.h5", shape=(9,), layers=1, size=(130, 140))
    dfxm_dask.ingest(folder / "s.h5", folder / "s.zarr", pixel_size=(0.5, 0.7))
    return folder / "s.zarr"


def many_layers(source: Path, target: Path, layers: int, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The store with so many layers in its metadata and ledger, whose files are those of the one that it has."""
    shutil.copytree(source, target)
    for meta in target.glob("raw/*/zarr.json"):
        data = json.loads(meta.read_bytes())
        if data.get("dimension_names", [""])[0] == "z":
            data["shape"][0] = layers
            meta.write_text(json.dumps(data))
            if data["codecs"][0]["name"] != "sharding_indexed":
                shutil.rmtree(meta.parent)
    nodes.write_small(target, "", "z", ("z",), np.arange(float(layers)), {"units": "um"})
    path = ledger.ledger_path(target, "raw", "ingest")
    header, records = ledger.read_ledger(path)
    (record,) = records.values()
    monkeypatch.setattr("os.fsync", lambda _: None)
    ledger.withdraw(target, "raw", "ingest")
    blocks = [f"z{z:04d}" for z in range(layers)]
    ledger.begin(target, "raw", "ingest", header["plan"], blocks)
    known = {k: record[k] for k in ("read", "files", "seconds")}
    for block in blocks:
        ledger.commit(target, "raw", "ingest", {"block": block, **known})
    ledger.complete(target, "raw", "ingest", {"reduction": "ingest", "absent": []})
    return target


def test_plan__has_a_task_for_each_block_of_each_pass(
    one_layer: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = many_layers(one_layer, tmp_path / "s.zarr", 500, monkeypatch)
    for name in RECIPES:
        made = plan(name, store)
        assert len(made.store.layers) == 500
        for one in made.passes:
            assert len({s.blocks for s in one.steps}) == 1
            assert len(set(one.steps[0].blocks)) == len(one.steps[0].blocks) == 500
        assert made.tasks == 500 * len(made.passes)


def test_plan__reads_and_looks_no_more_often_for_more_layers(
    one_layer: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whole ledgers that are read, which cost by the layer, are as few for many layers and many steps as for one."""
    counted: dict[tuple[str, int], int] = {}
    for layers in (1, 60):
        store = many_layers(one_layer, tmp_path / f"s{layers}.zarr", layers, monkeypatch)
        for name in RECIPES:
            calls: list[Path] = []
            known = ledger.open_ledger
            with monkeypatch.context() as patched:
                patched.setattr(ledger, "open_ledger", lambda path, k=known, c=calls: c.append(path) or k(path))
                plan(name, store)
            counted[name, layers] = sum(path.exists() for path in calls)
    for name in RECIPES:
        assert counted[name, 60] == counted[name, 1]
