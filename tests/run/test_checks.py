"""Declarations tell the cost of a run, what cannot fit is refused, and blocks computed again equal those of the run."""

from __future__ import annotations

import os
import shutil
from collections import namedtuple
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from dfxm_dask.cli import cli
from dfxm_dask.errors import RecipeError, StoreError
from dfxm_dask.run.checks import forecast as module
from dfxm_dask.run.checks.forecast import PassCost, forecast, refuse_unfit
from dfxm_dask.run.checks.rerun import rerun_block
from dfxm_dask.run.execute import plan, run_recipe
from dfxm_dask.run.recipe import Recipe, parse_recipe
from dfxm_dask.store.integrity import ledger
from tests import stores

LAYERS = 7
SHAPE = (150, 300)
BOTH = """
name: both
steps:
  - zingers: {}
  - background: {method: quantile, quantile: 0.2}
  - moments: {}
  - hot_pixels: {}
  - pca: {components: 2}
  - project_pca: {}
"""


def recipe(text: str) -> Recipe:
    return parse_recipe(text, Path("test.yaml"))


@pytest.fixture(scope="module")
def raw_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return stores.raw_store(tmp_path_factory.mktemp("probed"), shape=(9,), layers=LAYERS, size=SHAPE)


def seen(store: Path) -> dict[str, tuple[int, int]]:
    """Size and time of change of everything in a store."""
    return {str(p): (p.stat().st_size, p.stat().st_mtime_ns) for p in sorted(store.rglob("*"))}


def test_forecast__tells_tasks_disk_and_files_of_the_run(raw_store: Path, tmp_path: Path) -> None:
    """Against a run: bytes and files found on disk by walking. Disk is a rule of thumb."""
    store = tmp_path / "s.zarr"
    shutil.copytree(raw_store, store)
    before = seen(store)
    made = plan(recipe(BOTH), store)
    found = forecast(made)
    assert seen(store) == before
    assert found.tasks == made.tasks
    assert found.memory_bytes == made.memory_bytes
    run_recipe(recipe(BOTH), store)
    after = seen(store)
    files = {p for p in after if Path(p).is_file()}
    nbytes = sum(after[p][0] for p in files) - sum(n for p, (n, _) in before.items() if Path(p).is_file())
    assert 0.4 < found.disk_bytes / nbytes < 2.5
    assert abs(found.files / (len(after) - len(before)) - 1) < 0.1
    done = forecast(plan(recipe(BOTH), store))
    assert (done.tasks, done.disk_bytes, done.files) == (0, 0, 0)


def test_forecast__counts_what_is_left(raw_store: Path, tmp_path: Path) -> None:
    store = tmp_path / "s.zarr"
    shutil.copytree(raw_store, store)
    whole = forecast(plan(recipe(BOTH), store))
    run_recipe(recipe("\n".join(BOTH.splitlines()[:7]).replace("both", "first")), store)
    found = forecast(plan(recipe(BOTH), store))
    assert {s for p in found.passes for s in p.steps} == {"zingers", "pca", "project_pca"}
    assert found.disk_bytes < whole.disk_bytes


def test_refuse_unfit__names_memory_and_remedy(raw_store: Path) -> None:
    made = plan(recipe(BOTH), raw_store)
    found = replace(forecast(made), memory_bytes=900_000_000)
    with pytest.raises(
        RecipeError, match=r"requires 900 MB, and a unit may use 800 MB of a worker of 1000 MB; give.*1125 MB"
    ):
        refuse_unfit(made, found, 1_000_000_000)
    refuse_unfit(made, found, 1_130_000_000)


def test_refuse_unfit__names_bytes_and_files_that_are_free(raw_store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = plan(recipe(BOTH), raw_store)
    cost = PassCost(("moments",), 3, 7_000_000, 12)
    found = replace(forecast(made), passes=(cost,), memory_bytes=0)
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(module.shutil, "disk_usage", lambda _: usage(9, 0, 6_000_000))
    with pytest.raises(StoreError, match="results require 7 MB, 6 MB are free"):
        refuse_unfit(made, found, 10**12)
    monkeypatch.setattr(module.shutil, "disk_usage", lambda _: usage(9, 0, 8_000_000))
    system = namedtuple("system", "f_files f_favail")
    monkeypatch.setattr(module.os, "statvfs", lambda _: system(100, 11))
    with pytest.raises(StoreError, match="results require 12 files and folders, 11 are free"):
        refuse_unfit(made, found, 10**12)
    monkeypatch.setattr(module.os, "statvfs", lambda _: system(0, 0))
    refuse_unfit(made, found, 10**12)


def test_plan_command__says_what_a_run_takes_or_refuses(raw_store: Path, tmp_path: Path) -> None:
    file = tmp_path / "both.yaml"
    file.write_text(BOTH)
    before = seen(raw_store)
    called = [str(file), str(raw_store), "--workers", "2"]
    said = CliRunner().invoke(cli, ["plan", *called])
    assert said.exit_code == 0, said.output
    made = plan(recipe(BOTH), raw_store)
    assert f"{made.tasks} tasks on 2 workers" in said.output
    assert "by declaration" in said.output
    refused = CliRunner().invoke(cli, ["plan", *called, "--memory-limit", "100MB"])
    assert refused.exit_code == 1
    assert "a unit may use 80 MB of a worker of 100 MB" in refused.output
    assert "Traceback" not in refused.output
    assert seen(raw_store) == before


@pytest.fixture(scope="module")
def reduced(raw_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("reduced") / "s.zarr"
    shutil.copytree(raw_store, target)
    run_recipe(recipe(BOTH), target)
    return target


def test_rerun_block__gives_the_files_that_the_run_wrote(reduced: Path, tmp_path: Path) -> None:
    made = plan(recipe(BOTH), reduced)
    before = seen(reduced)
    checked = 0
    for one in made.passes:
        for block in (one.steps[0].blocks[0], one.steps[0].blocks[-1]):
            record = rerun_block(made, one, block, tmp_path)
            assert record["block"] == block
            assert set(record["steps"]) == {s.name for s in one.steps if s.stored}
            for step in one.steps:
                if step.stored:
                    _, records = ledger.read_ledger(ledger.ledger_path(reduced, step.group, step.name))
                    files = {name: tuple(found) for name, found in record["steps"][step.name]["files"].items()}
                    assert files == {name: tuple(found) for name, found in records[block]["files"].items()}
                    checked += len(files)
    assert checked > 15
    assert seen(reduced) == before
    assert os.listdir(tmp_path) == []


def test_rerun_block__finds_another_digest_where_the_input_is_another(reduced: Path, tmp_path: Path) -> None:
    store = tmp_path / "s.zarr"
    shutil.copytree(reduced, store)
    made = plan(recipe(BOTH), store)
    shutil.copyfile(store / "raw/counts/c/1/0/0/0", store / "raw/counts/c/0/0/0/0")
    one = made.passes[0]
    record = rerun_block(made, one, one.steps[0].blocks[0], tmp_path)
    _, records = ledger.read_ledger(ledger.ledger_path(store, "frames", "background"))
    mine, run = record["steps"]["background"]["files"], records[one.steps[0].blocks[0]]["files"]
    name = "frames/background_map/c/0/0/0"
    assert mine[name][1] != run[name][1]


def test_rerun_block__refuses_a_block_that_is_none(reduced: Path, tmp_path: Path) -> None:
    made = plan(recipe(BOTH), reduced)
    with pytest.raises(
        RecipeError, match=r"block 'z0099-0:150': is not in the pass zingers.*give one such as z0000-0:150"
    ):
        rerun_block(made, made.passes[0], "z0099-0:150", tmp_path)


def test_rerun_block__refuses_inputs_that_are_gone(reduced: Path, tmp_path: Path) -> None:
    store = tmp_path / "s.zarr"
    shutil.copytree(reduced, store)
    made = plan(recipe(BOTH), store)
    (store / "raw/counts/c/2/0/0/0").unlink()
    with pytest.raises(StoreError, match="raw/counts/c/2/0/0/0: is missing"):
        rerun_block(made, made.passes[0], "z0002-0:150", tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["s.zarr"]
