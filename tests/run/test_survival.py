"""Runs that are killed, stopped, robbed of space, or shared: nothing committed is lost, nothing wrong is readable."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

import dfxm_dask
from dfxm_dask.cli import cli
from dfxm_dask.errors import IncompleteError, LockedError, RecipeError, StoreError
from dfxm_dask.run import passes, stopping
from dfxm_dask.run.clusters.cluster import open_cluster
from dfxm_dask.run.events import line
from dfxm_dask.run.execute import run_recipe
from dfxm_dask.run.passes import Run
from dfxm_dask.run.plan import make_plan
from dfxm_dask.run.recipe import Recipe, load_plugin, parse_recipe
from dfxm_dask.store.integrity import ledger
from dfxm_dask.store.integrity.lock import own_group, own_store
from tests.run.killing import recipe
from tests.stores import contents, raw_store

GATHERS = """
name: gathers
steps:
  - background: {method: quantile, quantile: 0.2}
  - moments: {}
  - pca: {components: 2}
  - project_pca: {}
"""
PLUGIN = """
import os, signal, time
from pathlib import Path
import numpy as np
from dfxm_dask.reduction import reduction
from dfxm_dask.schema import AXES, COUNTS, SPACE, Variable

SUM = Variable("slow_sum", SPACE, "float32", "count", "sum of counts, slowly")

@reduction(reads=(COUNTS, AXES), writes=(SUM,), over=("scan",), group="slow")
def slow(counts, scan):
    '''Sum of counts, slowly; kills its worker at the counts that a file names.'''
    flag = Path({flag!r})
    if flag.exists() and int(counts[0, 0].astype(int).sum()) == int(flag.read_text()):
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep({seconds})
    return {{"slow_sum": counts.sum(axis=tuple(range(2, counts.ndim)), dtype=np.float32)}}
"""
SLOW = "name: slowly\nsteps:\n  - slow: {}\n"


def parsed(text: str) -> Recipe:
    return parse_recipe(text, Path("test.yaml"))


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return raw_store(tmp_path_factory.mktemp("raw"), layers=6, shape=(7,), size=(40, 50))


@pytest.fixture(scope="module")
def plugin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A slow reduction; beside it a recipe, and the place of a file that makes it deadly."""
    folder = tmp_path_factory.mktemp("plugin")
    path = folder / "slow_plugin.py"
    path.write_text(PLUGIN.format(flag=str(folder / "flag"), seconds=0.2))
    (folder / "slow.yaml").write_text(SLOW)
    load_plugin(path)
    return path


def command(*words: object) -> list[str]:
    return [sys.executable, "-c", "from dfxm_dask.cli import main; main()", *map(str, words)]


def lines(store: Path, group: str, step: str) -> int:
    return len(ledger.read_ledger(ledger.ledger_path(store, group, step))[1])


def wait_for(condition: Any, seconds: float = 90) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


@pytest.mark.parametrize("kills", [2, pytest.param(100_000, marks=pytest.mark.slow)])
def test_run_recipe__killed_at_any_system_call_and_resumed(raw: Path, tmp_path: Path, kills: int) -> None:
    """The slow one kills before and after each call of a whole run; the other at one in each twentieth."""
    small = tmp_path / "small"
    small.mkdir()
    store = raw_store(small, layers=2, shape=(5,), size=(30, 40))
    words = [sys.executable, "-m", "tests.run.killing", str(store), str(tmp_path), str(kills), "0"]
    done = subprocess.run(words, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2])
    found = json.loads(done.stdout)
    print(found["kills"], "kills:", found["kinds"])
    assert found["wrong"] == []
    assert found["kills"] >= min(kills, 300)


def killed(who: str, store: Path, plugin: Path, delay: float) -> None:
    """A run with two workers, of which somebody is killed after the first block and some time."""
    address: list[str] = []
    scheduler = workers = None
    if who == "scheduler":
        place = store.parent / "scheduler.json"
        alone = {**os.environ, "DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES": "0"}
        scheduler = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "distributed.cli.dask_scheduler",
                "--host",
                "127.0.0.1",
                "--port",
                "0",
                "--dashboard-address",
                "127.0.0.1:0",
                "--scheduler-file",
                str(place),
            ],
            env=alone,
            stderr=subprocess.DEVNULL,
        )
        wait_for(place.exists)
        workers = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "distributed.cli.dask_worker",
                "--scheduler-file",
                str(place),
                "--nworkers",
                "2",
                "--nthreads",
                "1",
                "--host",
                "127.0.0.1",
                "--no-dashboard",
                "--death-timeout",
                "60",
            ],
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        wait_for(lambda: place.read_text().endswith("}"))
        address = ["--cluster", json.loads(place.read_text())["address"]]
    run = subprocess.Popen(
        command("run", plugin.with_name("slow.yaml"), store, "--plugin", plugin, *(address or ["--workers", "2"])),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        text=True,
    )
    wait_for(lambda: lines(store, "slow", "slow") > 0 or run.poll() is not None)
    time.sleep(delay)
    if who == "client":
        run.kill()
    elif who == "group":
        os.killpg(run.pid, signal.SIGKILL)
    elif who == "scheduler":
        assert scheduler
        scheduler.kill()
    else:
        import psutil

        children = psutil.Process(run.pid).children(recursive=True) if run.poll() is None else []
        spawned = [c for c in children if "spawn_main" in " ".join(c.cmdline())]
        if spawned:
            spawned[-1].kill()
    said, _ = run.communicate(timeout=120)
    for process in (scheduler, workers):
        if process:
            process.kill()
            process.wait()
    if workers:
        subprocess.run(["pkill", "-9", "-s", str(workers.pid)], check=False)
    if who == "worker":
        assert run.returncode == 0, said
    if who == "scheduler" and run.returncode != 0:
        assert run.returncode == 1, said
        assert "Traceback" not in said.rsplit("Error: ", 1)[-1]
        assert "run it again" in said


@pytest.mark.slow
@pytest.mark.parametrize("who", ["worker", "scheduler", "client", "group"])
@pytest.mark.parametrize("trial", range(10))
def test_run_recipe__anybody_may_die(store: Path, plugin: Path, who: str, trial: int) -> None:
    killed(who, store, plugin, 0.13 * trial)
    before = lines(store, "slow", "slow")
    assert before
    if who != "worker" and before < 6:
        with pytest.raises(IncompleteError):
            dfxm_dask.open_scan(store)
    report = run_recipe(parsed(SLOW), store)
    assert (report.complete, report.blocks_done) == (True, 6 - before)
    whole = dfxm_dask.open_scan(store)
    np.testing.assert_array_equal(whole["slow"].slow_sum, whole["raw"].counts.sum("phi"))


def test_run_recipe__a_block_that_kills_its_worker_is_left_out(store: Path, plugin: Path) -> None:
    first = dfxm_dask.open_scan(store, chunks=None)["raw"].counts.isel(y=0, x=0).sum("phi").values.astype(int)
    assert len(set(first)) == 6
    plugin.with_name("flag").write_text(str(first[2]))
    with open_cluster(workers=2, plugins=(plugin,)) as client:
        events: list[Any] = []
        report = run_recipe(parsed(SLOW), store, client=client, publish=(events.append,))
        assert not report.complete
        assert [(step, block) for step, block, _ in report.quarantined] == [("slow", "z0002-0:40")]
        assert (report.blocks_done, lines(store, "slow", "slow")) == (5, 5)
        assert "died twice" in events[-1].why
        with pytest.raises(IncompleteError, match="5 of 6"):
            dfxm_dask.open_scan(store)
        plugin.with_name("flag").unlink()  # what was wrong is mended
        again = run_recipe(parsed(SLOW), store, client=client)
    assert (again.complete, again.blocks_done) == (True, 1)


@pytest.mark.parametrize(
    ("how", "workers"),
    [
        ("SIGINT", 1),
        *(pytest.param(k, 1, marks=pytest.mark.slow) for k in ("SIGTERM", "SIGUSR1")),
        ("SIGTERM", None),  # in the process of the command, which a scan so small gets by itself
    ],
)
def test_run__ends_cleanly_when_asked(store: Path, plugin: Path, how: str, workers: int | None) -> None:
    asked = ["--workers", workers] if workers else []
    words = command("run", plugin.with_name("slow.yaml"), store, "--plugin", plugin, *asked)
    words[2] = (
        "import sys\nfrom dfxm_dask.cli import main\ntry: main()\nfinally: print(f'{\"distributed\" in sys.modules=}')"
    )
    run = subprocess.Popen(
        words,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        text=True,
    )
    wait_for(lambda: lines(store, "slow", "slow") > 0 or run.poll() is not None)
    if how == "SIGINT":
        os.killpg(run.pid, signal.SIGINT)  # Ctrl-C reaches the workers as well
    else:
        run.send_signal(getattr(signal, how))
    said, _ = run.communicate(timeout=60)
    assert run.returncode == 3, said
    assert f"received {how}" in said
    assert "Traceback" not in said
    assert f"in sys.modules={bool(workers)}" in said
    assert ("in this process" in said) == (not workers)
    assert 0 < lines(store, "slow", "slow") < 6
    assert not list((store / "slow/.ledger").glob("lock*"))
    assert not list(store.rglob("*.partial"))


def test_heeding_signals__a_second_one_ends_at_once() -> None:
    with stopping.heeding_signals():
        os.kill(os.getpid(), signal.SIGTERM)
        assert stopping.asked() == "SIGTERM"
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert stopping.asked() == ""


def test_run_recipe__the_second_run_on_a_group_is_refused(store: Path, raw: Path) -> None:
    with own_group(store, "rocking", "another run"):
        begun = time.monotonic()
        with pytest.raises(LockedError, match=r"recipe survive on .*is held by .*: another run.*wait until"):
            run_recipe(recipe(), store)
        assert time.monotonic() - begun < 5
    with own_group(store, "rocking", "a share", (1, 4)), pytest.raises(LockedError):
        run_recipe(recipe(), store)
    with own_group(store, "rocking", "a share", (1, 4)), pytest.raises(LockedError):
        run_recipe(recipe(), store, share=(2, 3))
    with own_group(store, "rocking", "a run"), pytest.raises(LockedError, match=r"ingest into .* a run"):
        dfxm_dask.ingest(raw.parent / "s.h5", store, scan="all", pixel_size=(0.5, 0.7), overwrite=True)
    with own_store(store, "an ingest"), pytest.raises(LockedError, match="an ingest"):
        run_recipe(recipe(), store)
    assert run_recipe(recipe(), store).complete


def test_run_recipe__who_was_taken_for_dead_commits_nothing(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, calls = passes.run_unit, []

    def robbed(task: Any) -> Any:
        record = real(task)
        calls.append(task.block)
        if len(calls) == 2:
            lock = store / "rocking/.ledger/lock"
            lock.write_text(lock.read_text().replace('"token": "', '"token": "another'))
        return record

    monkeypatch.setattr(passes, "run_unit", robbed)
    with pytest.raises(StoreError, match="no longer belongs to this run"):
        run_recipe(recipe(), store)
    assert lines(store, "rocking", "moments") == 1
    (store / "rocking/.ledger/lock").unlink()
    monkeypatch.setattr(passes, "run_unit", real)
    assert run_recipe(recipe(), store).complete


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_run_recipe__a_damaged_layer_keeps_no_other_from_its_results(store: Path, workers: int) -> None:
    shard = store / "raw/counts/c/3/0/0/0"
    good = shard.read_bytes()
    shard.write_bytes(good[:200] + b"\0" * 8 + good[208:])
    with ExitStack() as stack:
        client = stack.enter_context(open_cluster(workers=workers)) if workers else None
        report = run_recipe(recipe(), store, client=client)
        assert not report.complete
        assert {block for _, block, _ in report.quarantined} == {"z0003-0:40"}
        assert "raw/counts/c/3/0/0/0: has a chunk with a wrong checksum" in report.quarantined[0][2]
        assert lines(store, "rocking", "kam") == 5
        with pytest.raises(IncompleteError, match="5 of 6"):
            dfxm_dask.open_scan(store)
        shard.write_bytes(good)
        assert run_recipe(recipe(), store, client=client).complete


def test_run_recipe__raw_data_made_anew_in_mid_run(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, calls = passes.run_unit, []

    def changing(task: Any) -> Any:
        if not calls:
            made = ledger.group_provenance(store, "raw")[1]["ingest"]
            ledger.write_provenance(store, "raw", {"ingest": made | {"digest": "of other counts"}})
        calls.append(task)
        return real(task)

    monkeypatch.setattr(passes, "run_unit", changing)
    with pytest.raises(StoreError, match=r"raw/ingest was recomputed during the run.*--overwrite"):
        run_recipe(recipe(), store)
    with pytest.raises(IncompleteError):
        dfxm_dask.open_scan(store)


@pytest.mark.slow
def test_run__shares_of_a_job_array_and_a_last_run(raw: Path, store: Path, tmp_path: Path) -> None:
    """Shares in any order, one of them killed: the last run does what they left, and the bytes are those of one run."""
    (tmp_path / "gathers.yaml").write_text(GATHERS)
    running = {
        k: subprocess.Popen(
            command("run", tmp_path / "gathers.yaml", store, "--shard", f"{k}/3"),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for k in (3, 1, 2)
    }
    killed = running.pop(2)
    assert killed.stdout
    killed.stdout.readline()  # it has begun
    with pytest.raises(LockedError, match=r"is held by .*\(share [123]/3\)"):
        run_recipe(parsed(GATHERS), store)
    killed.kill()
    killed.communicate()
    last = CliRunner().invoke(cli, ["run", str(tmp_path / "gathers.yaml"), str(store), "--shard", "last"])
    said = {k: process.communicate(timeout=240)[0] for k, process in running.items()}
    assert {p.returncode for p in running.values()} == {0}, said
    assert "share 3/3 is done; after all shares, --shard last computes pca, project_pca" in said[3]
    assert last.exit_code == 0, last.output
    shutil.copytree(raw, tmp_path / "serial")
    run_recipe(parsed(GATHERS), tmp_path / "serial")
    assert contents(store) == contents(tmp_path / "serial")
    assert run_recipe(parsed(GATHERS), store).blocks_done == 0


def test_run_recipe__a_share_does_its_part_and_leaves_the_rest_to_a_last_run(
    store: Path, raw: Path, tmp_path: Path
) -> None:
    first = run_recipe(parsed(GATHERS), store, share=(1, 2))
    assert (first.complete, first.lacking) == (False, 3)
    assert lines(store, "rocking", "moments") == 3
    with pytest.raises(IncompleteError, match="3 of 6"):
        dfxm_dask.open_scan(store)
    second = run_recipe(parsed(GATHERS), store, share=(2, 2))
    assert (second.complete, second.blocks_done, second.lacking) == (False, 9, 3)
    assert not ledger.states(store, "rocking")["moments"].complete  # which is for the last
    said: list[str] = []
    assert run_recipe(parsed(GATHERS), store, share=(1, 2), publish=(lambda e: said.append(line(e)),)).blocks_done == 0
    assert said[-1].startswith("share 1/2 is done; after all shares, --shard last computes pca, project_pca")
    other = ExitStack()
    other.enter_context(own_group(store, "rocking", "recipe gathers (share 2/2)", (2, 2)))

    def note(event: Any) -> None:
        said.append(line(event))
        if "waiting for" in said[-1]:
            other.close()

    last = run_recipe(parsed(GATHERS), store, share="last", publish=(note,))
    assert any(f"(pid {os.getpid()}" in text and "(share 2/2)" in text for text in said)
    assert (last.complete, last.blocks_done) == (True, 6)  # projections, once the gather is there
    dfxm_dask.open_scan(store)
    shutil.copytree(raw, tmp_path / "serial")
    run_recipe(parsed(GATHERS), tmp_path / "serial")
    assert contents(store) == contents(tmp_path / "serial")


@pytest.mark.parametrize("count", [1, 2, 4, 6, 8])
def test_run__shares_are_neighbours_and_together_all_layers(raw: Path, count: int) -> None:
    made = make_plan(recipe(), raw)
    parts = [sorted(Run(made, recipe(), None, (), False, (k, count), {}).layers) for k in range(1, count + 1)]
    assert [z for part in parts for z in part] == list(range(6))


def test_run_recipe__shares_that_cannot_be(store: Path) -> None:
    with pytest.raises(RecipeError, match="share 3/2: is not between 1 and 2; count from 1"):
        run_recipe(recipe(), store, share=(3, 2))
    with pytest.raises(RecipeError, match="share 1/2: runs in one process"):
        run_recipe(recipe(), store, share=(1, 2), client="a client")
    with pytest.raises(RecipeError, match="share 1/2: cannot overwrite"):
        run_recipe(recipe(), store, share=(1, 2), overwrite=True)
    with pytest.raises(RecipeError, match="share last: cannot overwrite"):
        run_recipe(recipe(), store, share="last", overwrite=True)
