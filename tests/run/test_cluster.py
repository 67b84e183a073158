"""Clusters: what a worker starts with, and set-ups that are refused."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import dask
import psutil
import pytest

from dfxm_dask.errors import DfxmError, RecipeError
from dfxm_dask.run.clusters.cluster import Local, dashboard, open_cluster, read_cluster
from dfxm_dask.run.clusters.worker import environment_set, numba_cache, shell_lines, worker_environment

CONFIGS = Path(__file__).parents[2] / "configs" / "clusters"


def listening(process: int) -> list[str]:
    """Addresses on which a process listens."""
    return [found.laddr.ip for found in psutil.Process(process).net_connections("inet") if found.status == "LISTEN"]


def test_open_cluster__starts_workers_with_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "7")  # of the user's shell
    monkeypatch.delenv("MALLOC_TRIM_THRESHOLD_", raising=False)
    plugin = tmp_path / "plugin.py"
    plugin.write_text("import os\nos.environ['DFXM_PLUGIN'] = 'loaded'\n")

    def look() -> tuple[dict[str, str], str, bool, int]:
        import dask

        # What the process was started with, as malloc read it: not what was set later.
        start = Path("/proc/self/environ").read_bytes().decode() if sys.platform == "linux" else ""
        return dict(os.environ), start, dask.config.get("distributed.worker.memory.spill"), os.getpid()

    with open_cluster(workers=1, memory_limit="512MiB", plugins=(plugin,)) as client:
        ((environment, start, spill, process),) = client.run(look).values()
        ((address, worker),) = client.scheduler_info()["workers"].items()
        addresses = [*listening(process), *listening(os.getpid())]
        assert dashboard(client) is None or "127.0.0.1" in str(dashboard(client))
        assert client.scheduler.address.startswith("tls://127.0.0.1:")
        assert address.startswith("tls://127.0.0.1:")
        assert worker["nanny"].startswith("tls://127.0.0.1:")
        with pytest.raises(
            DfxmError, match=r"scheduler tls://127.*: does not answer .*; check address, port, and cert"
        ):
            open_cluster(client.scheduler.address).__enter__()  # has no certificates of this run
        assert client.submit(sum, [1, 2]).result() == 3
    wanted = worker_environment()
    assert {name: environment[name] for name in wanted} == wanted
    if start:
        assert "MALLOC_TRIM_THRESHOLD_=536870912" in start.split("\0")
        assert "MALLOC_MMAP_THRESHOLD_=33554432" in start.split("\0")
        assert "MALLOC_ARENA_MAX=1" in start.split("\0")
        assert "=65536" not in start
    assert environment["DFXM_PLUGIN"] == "loaded"
    assert spill is False
    assert worker["nthreads"] == 1
    assert worker["memory_limit"] == 512 << 20
    assert addresses
    assert set(addresses) <= {"127.0.0.1", "::1"}
    assert os.environ["OMP_NUM_THREADS"] == "7"
    assert "MALLOC_TRIM_THRESHOLD_" not in os.environ


def test_open_cluster__attaches_and_leaves_running_what_it_did_not_start(tmp_path: Path) -> None:
    (tmp_path / "open.yaml").write_text("kind: local\nworkers: 1\ntls: false\n")
    with open_cluster(tmp_path / "open.yaml") as client:
        with open_cluster(client.scheduler.address) as second:
            assert second.submit(sum, [1, 2]).result() == 3
            assert dask.delayed(os.getpid)().compute() != os.getpid()
        assert client.submit(sum, [1, 2, 3]).result() == 6


def test_open_cluster__leaves_nothing_behind_that_could_not_connect() -> None:
    with open_cluster(workers=1), pytest.raises(DfxmError, match="does not answer") as kept:
        open_cluster("foo://127.0.0.1:1").__enter__()
    left = dask.base.get_scheduler() is not None  # what is computed now would wait for ever, or be refused
    assert not left
    assert kept.value.__cause__ is not None  # holds all that was made on the way, until here


def wait_for(what: str, true: Any, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, f"{what}: not within {seconds} s"
        time.sleep(0.05)


def fall(_: int) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def rest(seconds: float) -> float:
    time.sleep(seconds)
    return seconds


def test_open_cluster__a_death_is_reported_at_once_and_the_end_of_a_life_is_none() -> None:
    from distributed.scheduler import KilledWorker

    def end_life(dask_worker: Any) -> None:
        """What Dask does when the life of a worker is over."""
        dask_worker.loop.add_callback(dask_worker.close_gracefully, reason="worker-lifetime-reached")

    def numba_variables() -> dict[str, str]:
        """numba compiles anew, refuses, or mixes what lies in two places, where they change in mid-run."""
        return {name: value for name, value in os.environ.items() if name.startswith("NUMBA_")}

    before, known = dict(os.environ), numba_variables()
    with open_cluster(workers=4) as client:
        tasks = client.map(rest, [0.2] * 16, pure=False)
        first, second, third = list(client.nthreads())[:3]
        client.run(end_life, workers=[first, second])
        client.retire_workers([third])
        assert client.gather(tasks) == [0.2] * 16
        wait_for("three are gone", lambda: len(client.nthreads()) == 1)
        with pytest.raises(KilledWorker):
            client.submit(fall, 0).result(timeout=60)
        wait_for("Dask has started another", lambda: client.nthreads())
        assert numba_variables() == known
    assert dict(os.environ) == before


@pytest.mark.slow
def test_open_cluster__a_full_worker_goes_on() -> None:
    """Dask would pause it at 80 %; since nothing is spilled, it would stay so, and the run would never end."""

    def fill(share: float) -> float:
        import time

        import dask
        import numpy as np
        import psutil
        from distributed import get_worker

        limit = get_worker().memory_manager.memory_limit
        own = psutil.Process().memory_info().rss
        dask.kept = np.ones(int(share * limit) - own, np.uint8)
        time.sleep(1)  # memory is looked at ten times a second
        return psutil.Process().memory_info().rss / limit

    with open_cluster(workers=1, memory_limit="700MiB") as client:
        assert 0.82 < client.submit(fill, 0.87).result(timeout=60) < 0.93
        assert client.gather(client.map(rest, [0.01] * 5, pure=False)) == [0.01] * 5


INTERRUPTED = """
import os, signal, sys
from dfxm_dask.run.clusters.cluster import open_cluster
from tests.run.test_cluster import rest

if __name__ == "__main__":
    heard = []
    signal.signal(signal.SIGINT, lambda *_: heard.append(1))
    with open_cluster(workers=2) as client:
        before = set(client.run(os.getpid).values())
        tasks = client.map(rest, [2.0] * 2, pure=False)
        print("go", flush=True)
        done = client.gather(tasks)
        print(heard, done, before == set(client.run(os.getpid).values()), flush=True)
"""


@pytest.mark.slow
def test_open_cluster__ctrl_c_reaches_the_driver_and_not_its_workers(tmp_path: Path) -> None:
    """A terminal sends SIGINT to the whole foreground group."""
    (tmp_path / "driver.py").write_text(INTERRUPTED)
    root = Path(__file__).parents[2]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    command = [sys.executable, str(tmp_path / "driver.py")]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env=environment, cwd=root, start_new_session=True
    ) as driver:
        assert driver.stdout
        assert driver.stdout.readline() == "go\n"
        time.sleep(0.5)
        os.killpg(driver.pid, signal.SIGINT)
        assert driver.stdout.readline() == "[1] [2.0, 2.0] True\n"
        assert driver.wait(timeout=60) == 0


def test_open_cluster__refuses_what_does_not_suit() -> None:
    with pytest.raises(RecipeError, match="number of workers: is 0; choose 1 or more"):
        open_cluster(workers=0).__enter__()
    with pytest.raises(RecipeError, match="memory limit: is 'much'; write a size"):
        open_cluster(workers=1, memory_limit="much").__enter__()


def test_open_cluster__names_a_scheduler_that_does_not_answer() -> None:
    with pytest.raises(DfxmError, match=r"scheduler foo://127\.0\.0\.1:1: does not answer"):
        open_cluster("foo://127.0.0.1:1").__enter__()


def test_environment_set__puts_things_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DFXM_A", "1")
    with environment_set({"DFXM_A": "2", "DFXM_B": "3"}):
        assert (os.environ["DFXM_A"], os.environ["DFXM_B"]) == ("2", "3")
    assert os.environ["DFXM_A"] == "1"
    assert "DFXM_B" not in os.environ


def test_numba_cache__is_not_shared(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    path = numba_cache()
    assert numba_cache() == path
    assert stat.S_IMODE(path.stat().st_mode) == 0o700
    path.chmod(0o777)
    other = numba_cache()  # anybody could have put pickles into the first
    assert other != path
    assert stat.S_IMODE(other.stat().st_mode) == 0o700


def test_shell_lines__give_a_process_the_environment_of_a_worker() -> None:
    look = "import json, os, dask, distributed; print(json.dumps([dict(os.environ), dask.config.get('distributed')]))"
    script = "\n".join([*shell_lines(), f'{sys.executable} -c "{look}"'])
    found = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=True, env={"PATH": os.defpath})
    environment, settings = json.loads(found.stdout)
    wanted = worker_environment()
    assert {name: environment[name] for name in wanted} == wanted
    memory = settings["worker"]["memory"]
    assert (memory["target"], memory["spill"], memory["pause"], memory["terminate"]) == (False, False, False, 0.95)
    assert settings["comm"]["timeouts"]["tcp"] == "180s"


@pytest.mark.parametrize("name", ["local", "slurm", "slurm_gpu"])
def test_read_cluster__reads_the_packaged_setups(name: str) -> None:
    assert read_cluster(CONFIGS / f"{name}.yaml").kind == name.partition("_")[0]


def test_read_cluster__reads_a_local_setup(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("kind: local\nworkers: 3\n")
    assert read_cluster(str(path)) == Local(kind="local", workers=3)


def test_limits__of_workers_are_those_of_the_run(tmp_path: Path) -> None:
    here = read_cluster(None)
    assert here.sized(3, "2GiB").limits() == (3, 2 * 2**30)
    count, share = here.sized(4).limits()
    assert count == 4
    assert here.sized(8).limits()[1] == pytest.approx(share / 2, rel=1e-6)
    path = tmp_path / "c.yaml"
    path.write_text("kind: slurm\njobs: 5\nworkers_per_job: 4\nmemory: 64GiB\nwalltime: '01:00:00'\n")
    assert read_cluster(path).limits() == (20, 16 * 2**30)
    assert read_cluster(path).sized(2, "1GiB").limits() == (8, 2**30)
    with pytest.raises(RecipeError, match="memory limit: is 'much'; write a size such as 2GiB"):
        here.sized(1, "much").limits()


WRONG = {
    "unknown kind": ("a: 1\nkind: slrum\n", r"mine\.yaml:2: 'kind': is 'slrum' \(did you mean 'slurm'"),
    "no kind": ("workers: 1\n", r"mine\.yaml:1: 'kind': is None; use local, slurm, pbs, lsf, sge, oar"),
    "kind a list": ("kind: []\n", r"mine\.yaml:1: 'kind': is \[\]"),
    "unknown field": ("kind: local\nworker: 1\n", r"mine\.yaml:2: 'worker': is unknown .*\(did you mean 'workers'"),
    "bad value": ("kind: local\nworkers: 0\n", r"mine\.yaml:2: 'workers': .*greater than or equal to 1 \(found 0\)"),
    "missing field": ("kind: slurm\njobs: 1\n", r"mine\.yaml:1: 'workers_per_job': Field required"),
    "how many jobs": (
        "kind: slurm\nworkers_per_job: 1\nmemory: 1GiB\nwalltime: '00:10:00'\nminimum_jobs: 1\n",
        r"mine\.yaml:1: 'kind': give jobs, or minimum_jobs and maximum_jobs",
    ),
    "jobs and a bound": (
        "kind: slurm\nworkers_per_job: 1\nmemory: 1GiB\nwalltime: '00:10:00'\njobs: 4\nmaximum_jobs: 2\n",
        r"mine\.yaml:1: 'kind': give jobs, or minimum_jobs and maximum_jobs",
    ),
    "no size": (
        "kind: local\nmemory_limit: much\n",
        r"mine\.yaml:2: 'memory_limit': is not a size such as 2GiB .found 'much'",
    ),
    "negative": (
        "kind: slurm\nworkers_per_job: 1\nmemory: -1GiB\nwalltime: '00:10:00'\njobs: 1\n",
        r"mine\.yaml:3: 'memory': is not a size such as 2GiB",
    ),
    "fewer than few": (
        "kind: slurm\nworkers_per_job: 1\nmemory: 1GiB\nwalltime: '00:10:00'\nminimum_jobs: 2\nmaximum_jobs: 1\n",
        r"mine\.yaml:1: 'kind': minimum_jobs is above maximum_jobs",
    ),
    "open to all": (
        "kind: slurm\njobs: 1\nworkers_per_job: 1\nmemory: 1GiB\nwalltime: '00:10:00'\ntls: false\n",
        r"mine\.yaml:1: 'kind': tls: false requires interface: lo",
    ),
    "short": (
        "kind: slurm\njobs: 1\nworkers_per_job: 1\nmemory: 1GiB\nwalltime: '00:01:00'\n",
        r"mine\.yaml:1: 'kind': walltime is below 5 minutes",
    ),
    "words of others": (
        "kind: slurm\njobs: 1\nworkers_per_job: 1\nmemory: 1GiB\nwalltime: '00:10:00'\nresources: a=1\n",
        r"mine\.yaml:1: 'kind': resources do not apply to slurm: use job_directives",
    ),
    "not YAML": ("kind: [\n", r"mine\.yaml:\d: is not YAML"),
}


@pytest.mark.parametrize("case", WRONG)
def test_read_cluster__refuses_with_file_and_line(case: str, tmp_path: Path) -> None:
    text, match = WRONG[case]
    (tmp_path / "mine.yaml").write_text(text)
    with pytest.raises(RecipeError, match=match):
        read_cluster(tmp_path / "mine.yaml")
