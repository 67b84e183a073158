"""Workers as SLURM jobs: what is submitted, how long it lives, what takes its place."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from dfxm_dask.errors import DfxmError
from dfxm_dask.run.clusters.worker import shell_lines, temporary_certificates

_BEFORE_END = {"PENDING", "CONFIGURING", "RUNNING", "REQUEUED", "SUSPENDED"}


class Slurm(BaseModel):
    """Workers as SLURM jobs; the driver needs a route to them through ``interface``.

    ``jobs`` are kept up: a job that ends while there is work is replaced. With ``minimum_jobs`` and ``maximum_jobs``
    instead, their number follows the work.
    """

    model_config = ConfigDict(extra="forbid")
    kind: Literal["slurm"]
    jobs: Annotated[int, Field(ge=1)] | None = None
    minimum_jobs: Annotated[int, Field(ge=1)] | None = None
    maximum_jobs: Annotated[int, Field(ge=1)] | None = None
    workers_per_job: Annotated[int, Field(ge=1, description="processes of one thread in a job")]
    memory: Annotated[str, Field(description="of a job, such as 64GiB")]
    walltime: Annotated[str, Field(pattern=r"^(\d+-)?\d{1,2}:\d{2}:\d{2}$")]
    queue: str | None = None
    account: str | None = None
    interface: str | None = None
    python: str = sys.executable
    local_directory: str | None = None
    log_directory: str | None = None
    shared_directory: Annotated[str | None, Field(description="seen by driver and jobs; holds the certificates")] = None
    job_directives: list[str] = []
    prologue: list[str] = []
    tls: bool = True

    @model_validator(mode="after")
    def _suits(self) -> Slurm:
        if (self.jobs is None) == (self.minimum_jobs is None or self.maximum_jobs is None):
            raise ValueError("say jobs, or minimum_jobs and maximum_jobs")
        if self.minimum_jobs and self.maximum_jobs and self.minimum_jobs > self.maximum_jobs:
            raise ValueError("minimum_jobs is above maximum_jobs")
        if not self.tls and self.interface != "lo":
            raise ValueError("tls: false needs interface: lo, since others on the network could hand in tasks")
        worker_lifetime(self.walltime)
        return self


def worker_lifetime(walltime: str) -> tuple[int, int]:
    """Seconds that a worker of a job lives, and by how many more or less they are spread.

    Notes
    -----
    A tenth of the walltime, but no less than 2 and no more than 10 minutes, is left for starting and for blocks in
    flight; lives are spread by half of that, so that workers that began together do not end together. The last ends a
    minute or more before SLURM would kill it. A worker at the end of its life leaves its block to another one, which
    does not count as a death. The values are our choice.

    Raises
    ------
    ValueError
        The walltime is below 5 minutes.
    """
    days, _, clock = walltime.rpartition("-")
    hours, minutes, seconds = (int(part) for part in clock.split(":"))
    whole = ((int(days or 0) * 24 + hours) * 60 + minutes) * 60 + seconds
    if whole < 300:
        raise ValueError("walltime is below 5 minutes, too short for workers to start and to end in time")
    margin = min(600, max(120, whole // 10))
    return whole - margin, margin // 2


def start_slurm(stack: ExitStack, setup: Slurm) -> Any:
    """A cluster of SLURM jobs, submitted with ``sbatch``, once its first worker is there.

    Raises
    ------
    DfxmError
        SLURM refuses the job, or all jobs ended before a worker was there.
    """
    cluster = stack.enter_context(slurm_cluster(stack, setup))
    asked = ask_slurm("sbatch", "--test-only", script=cluster.job_script())
    if asked.returncode:
        raise DfxmError(
            "SLURM jobs", f"were refused: {' '.join(asked.stderr.split())}", "check queue, account, memory, walltime"
        )
    low, high = setup.minimum_jobs or setup.jobs, setup.maximum_jobs or setup.jobs
    # A run hands in only what it needs to keep its workers busy. So all that waits is a reason for more workers
    # (`target_duration`), which doubles them as they come; and jobs go back when they had nothing to do for a minute.
    cluster.adapt(
        minimum_jobs=low,
        maximum_jobs=high,
        target_duration="100ms",
        interval="2s",
        wait_count=30,
        worker_key=job_of_worker if setup.workers_per_job > 1 else None,
    )
    checked = time.monotonic()
    while not cluster.scheduler_info["workers"]:  # as long as the queue lasts
        time.sleep(0.1)
        jobs = [job.job_id for job in list(cluster.workers.values())]
        if jobs and time.monotonic() - checked > 5:
            checked = time.monotonic()
            asked = ask_slurm("squeue", "--noheader", "--me", "--states=all", "--format=%i %T")
            waits = dict(line.split() for line in asked.stdout.splitlines())
            if not asked.returncode and not any(waits.get(job) in _BEFORE_END for job in jobs):
                ends = ", ".join(f"{job} {waits.get(job, 'ended')}" for job in jobs)
                raise DfxmError(
                    "SLURM jobs", f"ended before a worker was there: {ends}", "see what they wrote to their logs"
                )
    return cluster


def ask_slurm(*command: str, script: str | None = None) -> subprocess.CompletedProcess[str]:
    """What a command of SLURM answers.

    Raises
    ------
    DfxmError
        There is no such command.
    """
    try:
        return subprocess.run(command, input=script, capture_output=True, text=True, errors="replace", check=False)
    except FileNotFoundError:
        raise DfxmError(
            "cluster of kind 'slurm'", f"finds no {command[0]} here", "run on a machine that submits jobs"
        ) from None


def slurm_cluster(stack: ExitStack, setup: Slurm) -> Any:
    """The cluster of a setup, before any job is submitted; ``.job_script()`` shows what a job does."""
    if find_spec("dask_jobqueue") is None:
        raise DfxmError("cluster of kind 'slurm'", "needs dask-jobqueue", "pip install 'dfxm_dask[slurm]'")
    life, spread = worker_lifetime(setup.walltime)
    return replacing_jobs(import_module("dask_jobqueue.slurm").SLURMCluster)(
        cores=setup.workers_per_job,
        processes=setup.workers_per_job,
        memory=setup.memory,
        walltime=setup.walltime,
        queue=setup.queue,
        account=setup.account,
        interface=setup.interface,
        python=setup.python,
        local_directory=setup.local_directory,
        log_directory=setup.log_directory,
        worker_extra_args=[
            "--lifetime",
            f"{life}s",
            "--lifetime-stagger",
            f"{spread}s",
            "--dashboard-address",
            "127.0.0.1:0",
        ],
        job_extra_directives=setup.job_directives,
        job_script_prologue=[*shell_lines(setup.python), *setup.prologue],
        security=certificates_in(stack, setup.shared_directory or str(Path.cwd())) if setup.tls else None,
        scheduler_options={"dashboard_address": "127.0.0.1:0"},
        death_timeout=120,
    )


def job_of_worker(worker: Any) -> str:
    """Name of the job that a worker belongs to, in a cluster of several workers in a job."""
    return str(worker.name).rpartition("-")[0]


def replacing_jobs(kind: type) -> type:
    """A kind of SLURM cluster that notices when a job of several workers is gone, so that another takes its place.

    Dask's own notices that for jobs of one worker only.
    """
    import dask.config
    import dask.utils

    class ReplacingJobs(kind):
        def _update_worker_status(self, op: str, msg: Any) -> None:
            if op == "remove":
                job, _, number = str(self.scheduler_info["workers"][msg]["name"]).rpartition("-")
                if "group" in self.worker_spec.get(job, ()) and number.isdigit():
                    # As for jobs of one worker: a nanny may be starting it anew.
                    delay = dask.utils.parse_timedelta(dask.config.get("distributed.deploy.lost-worker-timeout"))
                    asyncio.get_running_loop().call_later(delay, self._forget_if_gone, job)
            super()._update_worker_status(op, msg)

        def _forget_if_gone(self, job: str) -> None:
            there = {str(worker["name"]).rpartition("-")[0] for worker in self.scheduler_info["workers"].values()}
            if job in self.workers and job not in there:
                self._futures.add(asyncio.ensure_future(self.workers.pop(job).close()))

    return ReplacingJobs


def certificates_in(stack: ExitStack, folder: str) -> Any:
    """Temporary certificates as files that jobs can read and other users cannot, until the context ends."""
    from distributed.security import Security

    made = temporary_certificates()
    # A folder of mode 0700; files in it are made 0600.
    own = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix=".dfxm_dask-tls-", dir=folder)))
    for name, text in (("certificate", made.tls_ca_file), ("key", made.tls_worker_key)):
        with open(own / name, "w", opener=lambda path, flags: os.open(path, flags, 0o600)) as file:
            file.write(text)
    certificate, key = str(own / "certificate"), str(own / "key")
    roles = {
        f"tls_{role}_{part}": path
        for role in ("client", "scheduler", "worker")
        for part, path in (("cert", certificate), ("key", key))
    }
    return Security(require_encryption=True, tls_ca_file=certificate, **roles)
