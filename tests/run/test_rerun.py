"""Blocks computed beside a store: equal to those of a run."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from dfxm_dask.errors import RecipeError, StoreError
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


@pytest.fixture(scope="module")
def reduced(raw_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("reduced") / "s.zarr"
    shutil.copytree(raw_store, target)
    run_recipe(recipe(BOTH), target)
    return target


def seen(store: Path) -> dict[str, tuple[int, int]]:
    """Size and time of change of everything in a store."""
    return {str(p): (p.stat().st_size, p.stat().st_mtime_ns) for p in sorted(store.rglob("*"))}


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
    with pytest.raises(RecipeError, match=r"block 'z0099-0:150': is none of pass zingers.*name one like z0000-0:150"):
        rerun_block(made, made.passes[0], "z0099-0:150", tmp_path)


def test_rerun_block__refuses_inputs_that_are_gone(reduced: Path, tmp_path: Path) -> None:
    store = tmp_path / "s.zarr"
    shutil.copytree(reduced, store)
    made = plan(recipe(BOTH), store)
    (store / "raw/counts/c/2/0/0/0").unlink()
    with pytest.raises(StoreError, match="raw/counts/c/2/0/0/0: is missing"):
        rerun_block(made, made.passes[0], "z0002-0:150", tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["s.zarr"]
