"""Runs on a real SLURM of one node: jobs through the cluster set-up, one of them killed, and a job array."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import dask.config
import pytest

from dfxm_dask.errors import DfxmError
from dfxm_dask.run.clusters.cluster import open_cluster
from dfxm_dask.run.execute import run_recipe
from tests.stores import contents, raw_store

SCRIPTS = Path(__file__).parents[2] / "scripts"
LAYERS = 16
RECIPE = "name: slow\nsteps:\n  - moments: {background: 60}\n  - slow_sum: {seconds: 0.4}\n"
SETUP = """
kind: slurm
jobs: 2
workers_per_job: %d
memory: 1GiB
walltime: "00:10:00"
interface: lo
log_directory: %s
shared_directory: %s
"""


def jobs() -> list[str]:
    asked = subprocess.run(["squeue", "--noheader", "--me", "--format=%i"], capture_output=True, text=True, check=True)
    return asked.stdout.split()


def wait_for(what: str, true: object, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not true():  # type: ignore[operator]
        assert time.monotonic() < end, f"{what}: not within {seconds} s"
        time.sleep(0.1)


@pytest.fixture(scope="session")
def slurm() -> Iterator[None]:
    """A SLURM whose only node is this machine: one that runs already, or one started here and stopped at the end."""
    if shutil.which("sinfo"):
        nodes = subprocess.run(["sinfo", "--noheader", "--Node", "--format=%N"], capture_output=True, text=True)
        if nodes.returncode == 0 and set(nodes.stdout.split()) == {socket.gethostname().split(".")[0]}:
            yield
            return
    started = subprocess.run([SCRIPTS / "slurm_here.sh"], capture_output=True, text=True, timeout=400)
    if started.returncode:
        pytest.skip(started.stderr.strip().splitlines()[-1] if started.stderr else "slurm_here.sh failed")
    yield
    subprocess.run([SCRIPTS / "slurm_here.sh", "stop"], check=True, timeout=60)


@pytest.fixture(scope="module")
def stores(slow_plugin: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A raw store, and the same with the results of a run without any cluster."""
    folder = tmp_path_factory.mktemp("scan")
    raw = raw_store(folder, layers=LAYERS, shape=(5,), size=(32, 32))
    (folder / "recipe.yaml").write_text(RECIPE)
    shutil.copytree(raw, folder / "serial.zarr")
    run_recipe(folder / "recipe.yaml", folder / "serial.zarr")
    return raw, folder / "serial.zarr"


def listening_here() -> set[str]:
    """Addresses on which this process and the one that started it listen."""
    import psutil

    me = psutil.Process()
    return {c.laddr.ip for p in (me, me.parent()) for c in p.net_connections("inet") if c.status == "LISTEN"}


def listening_runs(word: str) -> set[str]:
    """Addresses on which processes listen that have a word in their command line."""
    import psutil

    found = set()
    for process in psutil.process_iter():
        try:
            if word in " ".join(process.cmdline()):
                found |= {str(c.laddr) for c in process.net_connections("inet") if c.status == "LISTEN"}
        except psutil.Error:
            continue
    return found


def start_environment() -> str:
    """The environment that a worker was started with, as malloc read it."""
    return Path("/proc/self/environ").read_bytes().decode()


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_open_cluster__slurm_job_killed_in_mid_run(
    slurm: None, stores: tuple[Path, Path], slow_plugin: Path, tmp_path: Path, workers: int
) -> None:
    """The run completes without the job; another one takes its place, which Dask alone does for one worker only."""
    raw, serial = stores
    shutil.copytree(raw, tmp_path / "s.zarr")
    setup = tmp_path / "slurm.yaml"
    setup.write_text(SETUP % (workers, tmp_path / "logs", tmp_path))
    before = set(jobs())
    committed: list[object] = []
    killed: list[str] = []

    def note(event: object) -> None:
        if type(event).__name__ == "BlockDone":
            committed.append(event)
            if len(committed) == 3:
                killed.append(sorted(set(jobs()) - before, key=int)[0])
                subprocess.run(["scancel", "--signal=KILL", "--full", killed[0]], check=True)

    with (
        open_cluster(setup, plugins=(slow_plugin,)) as client,
        dask.config.set({"distributed.deploy.lost-worker-timeout": "3s"}),
    ):
        client.wait_for_workers(2 * workers, timeout=60)
        started = client.run(start_environment).values()
        assert all("MALLOC_TRIM_THRESHOLD_=536870912\0" in e and "OMP_NUM_THREADS=1\0" in e for e in started)
        ports = {address for found in client.run(listening_here).values() for address in found} | listening_here()
        assert ports == {"127.0.0.1"}
        places = {p: f for p in tmp_path.glob(".dfxm_dask-tls-*") for f in p.iterdir()}
        assert places
        assert all(p.stat().st_mode & 0o077 == f.stat().st_mode & 0o077 == 0 for p, f in places.items())
        report = run_recipe(raw.with_name("recipe.yaml"), tmp_path / "s.zarr", client=client, publish=(note,))
        wait_for("another job takes its place", lambda: sum(client.nthreads().values()) == 2 * workers)
        assert len(set(jobs()) - before - set(killed)) == 2
    assert killed
    assert report.complete
    assert contents(tmp_path / "s.zarr") == contents(serial)
    wait_for("no job is left", lambda: set(jobs()) <= before)
    assert not list(tmp_path.glob(".dfxm_dask-tls-*"))


def test_open_cluster__says_what_slurm_refuses(slurm: None, tmp_path: Path) -> None:
    setup = tmp_path / "slurm.yaml"
    setup.write_text(SETUP % (1, tmp_path, tmp_path) + "queue: nowhere\n")
    with pytest.raises(DfxmError, match=r"SLURM jobs: were refused: .*partition.*; check queue"):
        open_cluster(setup).__enter__()


def test_open_cluster__jobs_that_end_before_a_worker_is_there(slurm: None, tmp_path: Path) -> None:
    setup = tmp_path / "slurm.yaml"
    setup.write_text(SETUP % (1, tmp_path, tmp_path) + "prologue: ['exit 1']\n")
    before = set(jobs())
    with pytest.raises(DfxmError, match=r"SLURM jobs: ended before a worker connected: \d+ .*; read the logs"):
        open_cluster(setup).__enter__()
    wait_for("no job is left", lambda: set(jobs()) <= before)


@pytest.mark.slow
def test_shards_script__an_array_joined_by_the_ledger(
    slurm: None, stores: tuple[Path, Path], slow_plugin: Path, tmp_path: Path
) -> None:
    raw, serial = stores
    store = tmp_path / "s.zarr"
    shutil.copytree(raw, store)
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    recipe = raw.with_name("recipe.yaml")
    ports: set[str] = set()
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(0.2):
            ports.update(listening_runs(str(store)))

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        done = subprocess.run(
            [
                "sbatch",
                "--wait",
                "--array=0-2",
                "--mem=1G",
                f"--output={tmp_path}/%a.out",
                SCRIPTS / "shards.sbatch",
                recipe,
                store,
                "--plugin",
                slow_plugin,
            ],
            env=environment,
            capture_output=True,
            text=True,
            timeout=120,
        )
    finally:
        ended.set()
        thread.join()
    said = "\n".join(p.read_text() for p in sorted(tmp_path.glob("*.out")))
    assert done.returncode == 0, said
    assert not ports
    report = run_recipe(recipe, store)
    assert report.complete
    assert report.blocks_done == 0, said
    assert contents(store) == contents(serial)
