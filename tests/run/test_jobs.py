"""Clusters of jobs: what is asked of every batch system, what is refused, and what is lost."""

from __future__ import annotations

import asyncio
import logging
import os
import stat
import types
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from dfxm_dask.errors import DfxmError
from dfxm_dask.run.clusters import jobs as module
from dfxm_dask.run.clusters.cluster import open_cluster, read_cluster
from dfxm_dask.run.clusters.jobs import (
    SYSTEMS,
    Jobs,
    job_cluster,
    job_of_worker,
    refuse_ended,
    replacing_jobs,
    seconds_of,
    worker_lifetime,
)
from dfxm_dask.run.clusters.worker import shell_lines
from tests.run.test_cluster import CONFIGS, wait_for

SMALL = {"kind": "slurm", "jobs": 1, "workers_per_job": 1, "memory": "1GiB", "walltime": "00:10:00"}


def test_job_cluster__without_the_package_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    with pytest.raises(DfxmError, match=r"needs dask-jobqueue; pip install 'dfxm_dask\[jobs\]'"):
        job_cluster(ExitStack(), Jobs.model_validate(SMALL))


HEADERS = {
    "slurm": ["-p nice", "-A me", "--cpus-per-task=2", "--mem=3G", "-t 1-01:00:30", "--own"],
    "pbs": ["-q nice", "-A me", "-l select=1:ncpus=2", "-l walltime=25:00:30", "--own"],
    "lsf": ["-q nice", '-P "me"', "-n 2", "-W 1501", "--own"],
    "sge": ["-q nice", "-P me", "-l select=1:ncpus=2", "-l h_rt=25:00:30", "--own"],
    "oar": ["-q nice", "--project me", "-l select=1:ncpus=2,walltime=25:00:30", "--own"],
}
MARKS = {"slurm": "#SBATCH", "pbs": "#PBS", "lsf": "#BSUB", "sge": "#$", "oar": "#OAR"}


@pytest.mark.parametrize("kind", SYSTEMS)
def test_job_cluster__job_scripts_of_every_kind(kind: str, tmp_path: Path) -> None:
    """What is asked for in the words of the batch system, and a worker with TLS, a life and its environment."""
    path = tmp_path / "mine.yaml"
    path.write_text(
        f"kind: {kind}\nminimum_jobs: 1\nmaximum_jobs: 3\nworkers_per_job: 2\nmemory: 3GiB\nwalltime: 1-01:00:30\n"
        f"queue: nice\naccount: me\ninterface: lo\njob_directives: [--own]\nprologue: [module load x]\n"
        f"shared_directory: {tmp_path}\n" + ("resources: select=1:ncpus=2\n" if SYSTEMS[kind].resources else "")
    )
    setup = read_cluster(path)
    assert setup.limits() == (6, 3 << 29)
    with ExitStack() as stack:
        cluster = stack.enter_context(job_cluster(stack, setup))  # type: ignore[arg-type]
        script = cluster.job_script()
        listens = cluster.scheduler.address
    header = [line for line in script.splitlines() if line.startswith(MARKS[kind])]
    for words in HEADERS[kind]:
        assert any(line.endswith(words) for line in header), (words, header)
    assert listens.startswith("tls://127.0.0.1:")
    assert all(line in script for line in (*shell_lines(), "module load x"))
    life, spread = worker_lifetime("1-01:00:30")
    for option in (f"--lifetime {life}s --lifetime-stagger {spread}s", "--nworkers 2", "--death-timeout 120"):
        assert option in script
    assert script.count(f"{tmp_path}/.dfxm_dask-tls-") == 3  # authority, certificate and key of a worker


COMMAND = "#!/bin/sh\n{}\n"


def test_open_cluster__jobs_that_are_refused(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    setup = tmp_path / "mine.yaml"
    setup.write_text("\n".join(f"{k}: {v}" for k, v in {**SMALL, "kind": "pbs", "interface": "lo"}.items()))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(
        DfxmError, match="cluster of kind 'pbs': requires the command qsub, which is missing; run on a machine that"
    ):
        open_cluster(setup).__enter__()
    (tmp_path / "qsub").write_text(COMMAND.format("echo no such queue >&2; exit 1"))
    (tmp_path / "qsub").chmod(0o755)
    with pytest.raises(DfxmError, match="PBS jobs: were refused: no such queue; check queue, account"):
        open_cluster(setup).__enter__()
    assert [r for r in caplog.records if r.levelno >= logging.WARNING] == []


@pytest.mark.slow
def test_open_cluster__jobs_of_a_system_that_takes_one_of_two(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    """A stand-in for SGE that starts the first job script here, and refuses the second."""
    setup = tmp_path / "mine.yaml"
    asked = {**SMALL, "kind": "sge", "interface": "lo", "jobs": 2, "shared_directory": tmp_path}
    setup.write_text("\n".join(f"{k}: {v}" for k, v in asked.items()))
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    qsub = f"mkdir {tmp_path}/one 2>/dev/null || {{ echo one job only >&2; exit 1; }}\ncp $1 {tmp_path}/job.sh\n"
    qsub += f'setsid bash {tmp_path}/job.sh >/dev/null 2>&1 &\necho "Your job $! has been submitted"'
    for name, text in {"qsub": qsub, "qdel": "kill -TERM -- -$1", "qstat": "exit 1"}.items():
        (tmp_path / name).write_text(COMMAND.format(text))
        (tmp_path / name).chmod(0o755)
    with open_cluster(setup) as client:
        assert client.submit(sum, [1, 2]).result(timeout=60) == 3
        assert client.scheduler.address.startswith("tls://127.0.0.1:")
        wait_for("the refusal is told", lambda: "a job was refused: one job only" in caplog.text, 10)


LISTED = {
    "slurm": ("7 PENDING", "7 FAILED"),
    "pbs": ("7.head  dask-worker  me  00:00:01 Q nice", "7.head  dask-worker  me  00:00:01 C nice"),
    "lsf": ("7 PSUSP", "7 EXIT"),
    "sge": (
        "      7 0.55 dask-worke me    qw    11/30/2026 07:00:00    2",
        "      7 0.55 dask-worke me   Eqw  11/30/2026",
    ),
    "oar": ("7   dask-worker  me  2026-11-30 07:00:00 W default", "7   dask-worker  me  2026-11-30 07:00:00 E default"),
}


@pytest.mark.parametrize("kind", SYSTEMS)
def test_refuse_ended__reads_what_every_kind_lists(kind: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    program = tmp_path / SYSTEMS[kind].listing[0]
    waits, ended = LISTED[kind]
    for line in (waits, ended, ""):
        program.write_text(COMMAND.format(f"echo 'job-ID Name User'; echo '{line}'"))
        program.chmod(0o755)
        if line == waits:
            refuse_ended(["7"], SYSTEMS[kind], kind)
            continue
        with pytest.raises(DfxmError, match=f"ended before a worker connected: 7 .*{line[-4:] or 'ended'}; read the"):
            refuse_ended(["7"], SYSTEMS[kind], kind)


def test_job_cluster__hands_the_setup_on(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked: dict[str, Any] = {}

    class Cluster:
        job_cls = object

        def __init__(self, **options: Any) -> None:
            asked.update(options)

    monkeypatch.setattr(module, "find_spec", lambda name: True)
    monkeypatch.setattr(module, "import_module", lambda name: types.SimpleNamespace(SLURMCluster=Cluster))
    monkeypatch.chdir(tmp_path)
    setup = read_cluster(CONFIGS / "slurm.yaml")
    assert isinstance(setup, Jobs)
    with ExitStack() as stack:
        assert isinstance(job_cluster(stack, setup), Cluster)
        security = asked["security"]
        key = Path(security.tls_worker_key)
        assert security.require_encryption
        assert stat.S_IMODE(key.stat().st_mode) == 0o600
        assert stat.S_IMODE(key.parent.stat().st_mode) == 0o700
        assert key.parent.parent == tmp_path
    assert not list(tmp_path.iterdir())
    assert asked["cores"] == asked["processes"] == 16
    assert asked["scheduler_options"] == {"dashboard_address": "127.0.0.1:0"}
    extra = asked["worker_extra_args"]
    assert extra[extra.index("--lifetime") + 1] == "13800s"  # of 4 hours, 14,400 s
    assert extra[extra.index("--dashboard-address") + 1] == "127.0.0.1:0"


@pytest.mark.parametrize("walltime", ["00:05:00", "00:10:00", "00:20:00", "01:00:00", "04:00:00", "3-00:00:00"])
def test_worker_lifetime__ends_before_the_walltime(walltime: str) -> None:
    days, _, clock = walltime.rpartition("-")
    hours, minutes, _ = clock.split(":")
    whole = 86400 * int(days or 0) + 3600 * int(hours) + 60 * int(minutes)
    assert seconds_of(walltime) == whole
    life, spread = worker_lifetime(walltime)
    assert 0 < life - spread
    assert life + spread <= whole - 60
    assert life >= min(0.9 * whole, whole - 120)


def test_worker_lifetime__refuses_a_walltime_that_is_too_short() -> None:
    with pytest.raises(ValueError, match="walltime is below 5 minutes, too short for workers"):
        worker_lifetime("00:04:59")


def test_replacing_jobs__forgets_a_job_only_when_its_last_worker_is_gone() -> None:
    class Job:
        async def close(self) -> None:
            closed.append("job")

    class Cluster:
        def __init__(self) -> None:
            self.workers, self._futures = {"c-0": Job()}, set()
            self.worker_spec = {"c-0": {"group": ["-0", "-1"]}}
            self.scheduler_info = {"workers": {"a": {"name": "c-0-0"}, "b": {"name": "c-0-1"}}}

        job_cls = Job

        def _update_worker_status(self, op: str, msg: Any) -> None:
            self.scheduler_info["workers"].pop(msg)

    async def lose() -> None:
        loop = asyncio.get_running_loop()
        loop.call_later = lambda delay, forget, job: loop.call_soon(forget, job)  # type: ignore[method-assign, assignment, misc]
        cluster = replacing_jobs(Cluster)()
        cluster._update_worker_status("remove", "a")
        for _ in range(4):
            await asyncio.sleep(0)
        assert set(cluster.workers) == {"c-0"}
        cluster._update_worker_status("remove", "b")
        for _ in range(4):
            await asyncio.sleep(0)
        assert not cluster.workers

    closed: list[str] = []
    asyncio.run(lose())
    assert closed == ["job"]
    assert job_of_worker(types.SimpleNamespace(name="c-0-1")) == "c-0"
