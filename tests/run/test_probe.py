"""Blocks computed beside a store: equal to those of a run, and what a run will take is told from a few of them."""

from __future__ import annotations

import os
import shutil
from collections import namedtuple
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from dfxm_dask.cli import cli
from dfxm_dask.errors import RecipeError, StoreError
from dfxm_dask.run.checks import probe as probing
from dfxm_dask.run.checks.probe import (
    Forecast,
    PassCost,
    chosen_blocks,
    chosen_layers,
    high_water,
    probe,
    projected,
    refuse_unfit,
    rerun_block,
    worker_limits,
)
from dfxm_dask.run.clusters.cluster import open_cluster
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
NEIGHBOURS = """
name: neighbours
steps:
  - background: {method: quantile, quantile: 0.2}
  - moments: {}
  - local_peak: {}
  - classify_beams: {method: prior}
  - integrate_beams: {}
  - enhance_beams: {}
  - threshold_beams: {}
  - link_layers: {}
  - reconstruct: {}
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


def test_probe__tells_disk_files_and_tasks_of_the_run(raw_store: Path, tmp_path: Path, monkeypatch: Any) -> None:
    """Against a run: bytes and files found on disk by walking, not by what records say."""
    _here(monkeypatch)
    store, scratch = tmp_path / "s.zarr", tmp_path / "scratch"
    shutil.copytree(raw_store, store)
    scratch.mkdir()
    before = seen(store)
    made = plan(recipe(BOTH), store)
    found = probe(made, workers=1, blocks=3, scratch=scratch)
    assert seen(store) == before
    assert os.listdir(scratch) == []
    assert found.probed
    assert found.tasks == made.tasks
    assert [p.probed for p in found.passes] == [3] * len(made.passes)
    assert found.seconds is not None
    assert found.seconds > found.start_seconds > 0
    assert any(p.gather_seconds > 0 for p in found.passes)
    run_recipe(recipe(BOTH), store)
    after = seen(store)
    files = {p for p in after if Path(p).is_file()}
    nbytes = sum(after[p][0] for p in files) - sum(n for p, (n, _) in before.items() if Path(p).is_file())
    assert abs(found.disk_bytes / nbytes - 1) < 0.05
    assert abs(found.files / (len(after) - len(before)) - 1) < 0.1
    resumed = probe(plan(recipe(BOTH), store), workers=2)
    assert (resumed.tasks, resumed.disk_bytes, resumed.seconds) == (0, 0, 0)


def test_probe__computes_what_is_left_and_reads_what_is_done(raw_store: Path, tmp_path: Path, monkeypatch: Any) -> None:
    store = tmp_path / "s.zarr"
    shutil.copytree(raw_store, store)
    _here(monkeypatch)
    first = "\n".join(BOTH.splitlines()[:7]).replace("both", "first")
    run_recipe(recipe(first), store)
    made = plan(recipe(BOTH), store)
    found = probe(made, workers=1, blocks=1, scratch=tmp_path)
    done = {"zingers", "background", "moments", "hot_pixels"}
    rough = projected(made, 1)
    assert rough.tasks == found.tasks
    kept = [p for p in found.passes if set(p.steps) <= done]
    assert kept == []
    whole = projected(plan(recipe(BOTH), raw_store), 1)
    assert found.disk_bytes < whole.disk_bytes
    assert {s for p in found.passes for s in p.steps} >= {"pca", "project_pca"}


def test_probe__stands_in_neighbours_that_were_not_probed(raw_store: Path, tmp_path: Path, monkeypatch: Any) -> None:
    _here(monkeypatch)
    made = plan(recipe(NEIGHBOURS), raw_store)
    assert any(s.reduction.halo for s in made.steps)
    found = probe(made, workers=1, blocks=1, scratch=tmp_path)
    assert [p.steps for p in found.passes] == [tuple(s.name for s in one.steps) for one in made.passes]
    assert all(p.probed == 1 for p in found.passes)


@pytest.mark.slow
def test_probe__measures_workers_like_those_of_a_run(raw_store: Path, tmp_path: Path) -> None:
    store = tmp_path / "s.zarr"
    shutil.copytree(raw_store, store)
    found = probe(plan(recipe(BOTH), store), workers=2, scratch=tmp_path)
    assert [p.probed for p in found.passes] == [4] * len(found.passes)  # whole turns of two workers
    with open_cluster(workers=2) as client:
        run_recipe(recipe(BOTH), store, client=client)
        peak = max(client.run(high_water).values())
    assert abs(found.memory_bytes / peak - 1) < 0.15


def _here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Units run in this process, without the seconds that a cluster takes to start."""

    class Future:
        def __init__(self, value: Any) -> None:
            self.value = value

    class Client:
        def nthreads(self) -> dict[str, int]:
            return {"here": 1}

        def submit(self, function: Any, task: Any, **_: Any) -> Future:
            return Future(function(task))

        def gather(self, futures: list[Future]) -> list[Any]:
            return [f.value for f in futures]

        def run(self, function: Any) -> dict[str, Any]:
            return {"here": function()}

    from contextlib import nullcontext

    monkeypatch.setattr(probing, "open_cluster", lambda **_: nullcontext(Client()))
    monkeypatch.setattr(probing, "windowed", lambda client, function, tasks: map(function, tasks))


def test_probe__measures_again_where_kernels_were_compiled(raw_store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = plan(recipe(BOTH), raw_store)
    seen_kernels = [set(), {Path("a.nbc")}, {Path("a.nbc")}, {Path("a.nbc")}]
    memory = iter([900, 500, 400])
    rough = projected(made, 1)
    monkeypatch.setattr(probing, "compiled", lambda: seen_kernels.pop(0))
    monkeypatch.setattr(probing, "_probe_passes", lambda *_: replace(rough, memory_bytes=next(memory)))
    assert probe(made, workers=1).memory_bytes == 500
    assert probe(made, workers=1).memory_bytes == 400


def test_probe__refuses_no_blocks(raw_store: Path) -> None:
    with pytest.raises(RecipeError, match="blocks to probe: are 0; ask for at least 1"):
        probe(plan(recipe(BOTH), raw_store), workers=1, blocks=0)


@pytest.mark.parametrize(
    ("layers", "workers", "blocks", "expected"),
    [(100, 2, 3, ([0, 1], [12, 37, 62, 87])), (3, 2, 3, ([0], [0, 1, 2])), (1, 4, 3, ([0], [0]))],
)
def test_chosen_layers__are_spread_and_loaded_apart(
    raw_store: Path, layers: int, workers: int, blocks: int, expected: tuple[list[int], list[int]]
) -> None:
    made = plan(recipe(BOTH), raw_store)
    stack = replace(made, store=replace(made.store, layers=tuple(range(layers))))
    first, timed = chosen_layers(stack, workers, blocks)
    assert timed == expected[1]
    assert first[: len(expected[0])] == expected[0]
    assert set(first) <= set(stack.store.layers)


def test_chosen_blocks__take_another_band_of_each_layer_or_all(raw_store: Path) -> None:
    one = plan(recipe(BOTH), raw_store).passes[0]
    blocks = tuple(f"z{z:04d}-{y}:{y + 50}" for z in range(4) for y in (0, 50, 100))
    bands = replace(one, steps=tuple(replace(s, blocks=blocks) for s in one.steps))
    assert chosen_blocks(bands, [0, 2, 3], whole=False) == ["z0000-0:50", "z0002-50:100", "z0003-100:150"]
    assert chosen_blocks(bands, [1], whole=True) == ["z0001-0:50", "z0001-50:100", "z0001-100:150"]


def test_forecast__adds_turns_commits_and_gathers() -> None:
    units = PassCost(("a",), 10, 3, 20.0, 500, 7, 0.001, 3.0)
    commits = PassCost(("b",), 1000, 3, 1.0, 500, 7, 0.0983)
    found = Forecast(4, (units, commits), 1, 1, 5.0, True)
    assert found.pass_seconds(units) == pytest.approx(3 * 2.0 + 3.0)  # three turns of four workers
    assert found.pass_seconds(commits) == pytest.approx(100)  # the client cannot write faster
    assert found.seconds == pytest.approx(5 + 9 + 100)
    assert (found.disk_bytes, found.files, found.tasks) == (1000, 14, 1010)


@pytest.mark.parametrize("growing", [False, True])
def test_gather_seconds__grow_with_lists_and_not_with_sums(
    raw_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, growing: bool
) -> None:
    """On a clock that the summaries themselves set: a second for a merge, and two for an array to finish."""
    step = next(s for s in plan(recipe(BOTH), raw_store).steps if s.reduction.combine)
    clock = [0.0]
    monkeypatch.setattr(probing.time, "perf_counter", lambda: clock[0])

    def combine(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        clock[0] += 1
        return {"a": np.concatenate([one["a"], other["a"]]) if growing else one["a"] + other["a"]}

    def finish(last: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        clock[0] += 2 * len(last["a"])
        return last

    def gathered(step: Any, here: Any) -> list[str]:
        merged = {"a": np.ones(1)}
        for _ in step.blocks[1:]:
            merged = step.reduction.combine(merged, {"a": np.ones(1)})
        step.reduction.finish(merged)
        return ["x"]

    monkeypatch.setattr(probing, "gather_step", gathered)
    many = tuple(f"z{z:04d}-0:150" for z in range(400))
    fake = replace(step, blocks=many, reduction=replace(step.reduction, combine=combine, finish=finish))
    spent, files = probing._probe_gather(fake, list(many[:4]), plan(recipe(BOTH), raw_store).store)
    assert files == ["x"]
    merges = 3 * 100
    assert spent == pytest.approx(merges + (2 * 4 * 100 if growing else 2), rel=1e-3)


def test_refuse_unfit__names_memory_and_remedy(raw_store: Path) -> None:
    made = plan(recipe(BOTH), raw_store)
    found = replace(projected(made, 2), memory_bytes=900_000_000)
    with pytest.raises(RecipeError, match=r"takes 900 MB, and a worker of 1000 MB is paused at 800 MB; give.*1125 MB"):
        refuse_unfit(made, found, 1_000_000_000)
    refuse_unfit(made, found, 1_130_000_000)


def test_refuse_unfit__names_bytes_and_files_that_are_free(raw_store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = plan(recipe(BOTH), raw_store)
    cost = PassCost(("moments",), 3, 0, 0.0, 7_000_000, 12)
    found = replace(projected(made, 2), passes=(cost,), memory_bytes=0)
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(probing.shutil, "disk_usage", lambda _: usage(9, 0, 6_000_000))
    with pytest.raises(StoreError, match="results need 7 MB, 6 MB are free"):
        refuse_unfit(made, found, 10**12)
    monkeypatch.setattr(probing.shutil, "disk_usage", lambda _: usage(9, 0, 8_000_000))
    system = namedtuple("system", "f_files f_favail")
    monkeypatch.setattr(probing.os, "statvfs", lambda _: system(100, 11))
    with pytest.raises(StoreError, match="results need 12 files and folders, 11 are free"):
        refuse_unfit(made, found, 10**12)
    monkeypatch.setattr(probing.os, "statvfs", lambda _: system(0, 0))
    refuse_unfit(made, found, 10**12)


def test_worker_limits__are_those_of_the_run(tmp_path: Path) -> None:
    assert worker_limits(None, 3, "2GiB") == (3, 2 * 2**30)
    count, share = worker_limits(None, 4, None)
    assert count == 4
    assert worker_limits(None, 8, None)[1] == pytest.approx(share / 2, rel=1e-6)
    jobs = tmp_path / "c.yaml"
    jobs.write_text("kind: slurm\njobs: 5\nworkers_per_job: 4\nmemory: 64GiB\nwalltime: '01:00:00'\n")
    assert worker_limits(jobs, None, None) == (20, 16 * 2**30)
    assert worker_limits(jobs, 2, "1GiB") == (8, 2**30)
    with pytest.raises(RecipeError, match="memory limit: is 'much'; write a size such as 2GiB"):
        worker_limits(None, 1, "much")
    with pytest.raises(RecipeError, match="is known to its scheduler only; say --workers and --memory-limit"):
        worker_limits("tcp://host:8786", 1, None)


def test_plan_command__says_what_a_run_takes_or_refuses(raw_store: Path, tmp_path: Path) -> None:
    file = tmp_path / "both.yaml"
    file.write_text(BOTH)
    before = seen(raw_store)
    called = [str(file), str(raw_store), "--no-probe", "--workers", "2"]
    said = CliRunner().invoke(cli, ["plan", *called])
    assert said.exit_code == 0, said.output
    made = plan(recipe(BOTH), raw_store)
    assert f"{made.tasks} tasks on 2 workers" in said.output
    assert "by declaration" in said.output
    refused = CliRunner().invoke(cli, ["plan", *called, "--memory-limit", "100MB"])
    assert refused.exit_code == 1
    assert "paused at 80 MB" in refused.output
    assert "Traceback" not in refused.output
    assert seen(raw_store) == before
