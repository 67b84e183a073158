"""Workers as jobs of a batch system: job scripts, lifetimes, and replacement of lost jobs.

A further batch system that dask-jobqueue supports needs one entry in :data:`SYSTEMS`.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from importlib import import_module
from importlib.util import find_spec
from math import ceil
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, model_validator

from dfxm_dask.errors import DfxmError
from dfxm_dask.run.clusters.worker import Size, bytes_of, shell_lines, temporary_certificates


class BatchSystem(NamedTuple):
    """Names and commands of a batch system in dask-jobqueue and in a shell."""

    cluster: str
    """Class of dask-jobqueue."""
    listing: tuple[str, ...]
    """Command that lists the jobs of the user, one per line, with the number first."""
    at_work: str
    """Pattern of the rest of this line while a job waits or runs."""
    account: str = "project"
    """Parameter of the class for ``account``."""
    resources: bool = True
    """Whether the class has the parameter ``resource_spec``."""
    more: Mapping[str, Any] = {}
    """Further parameters of the class."""
    walltime: Callable[[str], str] = lambda text: clock(seconds_of(text))
    """Conversion of a walltime to the format of the system: few accept days."""


SYSTEMS = {
    "slurm": BatchSystem(
        "SLURMCluster",
        ("squeue", "--noheader", "--me", "--states=all", "--format=%i %T"),
        "PENDING|CONFIGURING|RUNNING|REQUEUED|SUSPENDED",
        account="account",
        resources=False,
        walltime=str,
    ),
    "pbs": BatchSystem("PBSCluster", ("qstat",), r" [^CEFX] +\S+$", account="account"),
    "lsf": BatchSystem(
        "LSFCluster",
        ("bjobs", "-a", "-noheader", "-o", "jobid stat"),
        "PEND|RUN|SUSP|WAIT|PROV|UNKWN",
        resources=False,
        walltime=lambda text: str(ceil(seconds_of(text) / 60)),
    ),
    "sge": BatchSystem("SGECluster", ("qstat",), r"^\S* +\S+ +\S+ +\S+ +[^E\s]+ "),
    # Whether nodes declare their memory, and under which name, depends on the site: see ``resources``.
    "oar": BatchSystem(
        "OARCluster", ("oarstat",), r" [WHLRSF] ", more={"memory_per_core_property_name": "not_applicable"}
    ),
}
"""Batch systems by the ``kind`` of a cluster."""


class Jobs(BaseModel):
    """Workers as jobs of a batch system; the driver must reach them through the network ``interface``.

    The number ``jobs`` is constant: a job that ends while work is left is replaced. With ``minimum_jobs`` and
    ``maximum_jobs`` instead, the number of jobs follows the work.
    """

    model_config = ConfigDict(extra="forbid")
    kind: str
    jobs: Annotated[int, Field(ge=1)] | None = None
    minimum_jobs: Annotated[int, Field(ge=1)] | None = None
    maximum_jobs: Annotated[int, Field(ge=1)] | None = None
    workers_per_job: Annotated[int, Field(ge=1, description="processes of one thread in a job")]
    memory: Annotated[Size, Field(description="of a job, such as 64GiB")]
    walltime: Annotated[str, Field(pattern=r"^(\d+-)?\d{1,2}:\d{2}:\d{2}$")]
    queue: str | None = None
    account: str | None = None
    resources: Annotated[
        str | None, Field(description="resources of a job as PBS, SGE or OAR accept them after -l")
    ] = None
    interface: str | None = None
    python: str = sys.executable
    local_directory: str | None = None
    log_directory: str | None = None
    shared_directory: Annotated[
        str | None, Field(description="accessible to driver and jobs; contains the certificates")
    ] = None
    job_directives: list[str] = []
    prologue: list[str] = []
    tls: bool = True

    @model_validator(mode="after")
    def _suits(self) -> Jobs:
        bounds = [self.minimum_jobs, self.maximum_jobs]
        if bounds.count(None) != (0 if self.jobs is None else 2):
            raise ValueError("give jobs, or minimum_jobs and maximum_jobs")
        if self.minimum_jobs and self.maximum_jobs and self.minimum_jobs > self.maximum_jobs:
            raise ValueError("minimum_jobs is above maximum_jobs")
        if not self.tls and self.interface != "lo":
            raise ValueError("tls: false requires interface: lo, since others on the network could submit tasks")
        if self.resources and not SYSTEMS[self.kind].resources:
            raise ValueError(f"resources do not apply to {self.kind}: use job_directives")
        worker_lifetime(self.walltime)
        return self

    def sized(self, jobs: int | None = None, memory_limit: str | None = None) -> Jobs:
        """Copy with a fixed number of jobs and another memory limit of a worker, if given."""
        fixed: dict[str, Any] = {"jobs": jobs, "minimum_jobs": None, "maximum_jobs": None} if jobs is not None else {}
        if memory_limit is not None:
            fixed["memory"] = f"{bytes_of(memory_limit) * self.workers_per_job} B"
        return self.model_copy(update=fixed)

    def limits(self) -> tuple[int, int]:
        """Maximum number of workers, and bytes of memory of each."""
        count = (self.jobs or self.maximum_jobs or 1) * self.workers_per_job
        return count, bytes_of(self.memory) // self.workers_per_job

    def start(self, stack: ExitStack) -> Any:
        """Submit the jobs of a cluster and wait for its first worker.

        Raises
        ------
        DfxmError
            The batch system refuses the job, or all jobs ended before a worker connected.
        """
        cluster = stack.enter_context(job_cluster(stack, self))
        low, high = self.minimum_jobs or self.jobs, self.maximum_jobs or self.jobs
        # A run hands in only what it needs to keep its workers busy. So all that waits is a reason for more workers
        # (`target_duration`), which doubles them as they come; jobs go back when they had nothing to do for a minute.
        cluster.adapt(
            minimum_jobs=low,
            maximum_jobs=high,
            target_duration="100ms",
            interval="2s",
            wait_count=30,
            worker_key=job_of_worker if self.workers_per_job > 1 else None,
        )
        checked = time.monotonic()
        while not cluster.scheduler_info["workers"]:  # as long as the queue lasts
            time.sleep(0.1)
            jobs = list(cluster.workers.values())
            refuse_refused(jobs, self.kind)
            if jobs and time.monotonic() - checked > 5:
                checked = time.monotonic()
                refuse_ended([job.job_id for job in jobs if job.job_id], SYSTEMS[self.kind], self.kind)
        cluster.job_cls.tells = True
        for job in list(cluster.workers.values()):
            job.tell()
        return cluster


def seconds_of(walltime: str) -> int:
    """Seconds of a walltime ``days-hours:minutes:seconds``; days may lack."""
    days, _, rest = walltime.rpartition("-")
    hours, minutes, seconds = (int(part) for part in rest.split(":"))
    return ((int(days or 0) * 24 + hours) * 60 + minutes) * 60 + seconds


def clock(seconds: int) -> str:
    """Hours, minutes and seconds."""
    return f"{seconds // 3600:02d}:{seconds // 60 % 60:02d}:{seconds % 60:02d}"


def worker_lifetime(walltime: str) -> tuple[int, int]:
    """Lifetime of a worker of a job in seconds, and its random spread.

    Notes
    -----
    A tenth of the walltime, but at least 2 and at most 10 minutes, is reserved for the start and for blocks in flight.
    Lifetimes are spread by half of this margin, so that workers that started together end at different times. The last
    worker ends at least a minute before the batch system would kill it. At the end of its lifetime a worker passes its
    block to another worker, which does not count as a death. The values are our choice.

    Raises
    ------
    ValueError
        The walltime is below 5 minutes.
    """
    whole = seconds_of(walltime)
    if whole < 300:
        raise ValueError("walltime is below 5 minutes, too short for workers to start and to end in time")
    margin = min(600, max(120, whole // 10))
    return whole - margin, margin // 2


def refuse_refused(jobs: Sequence[Any], kind: str) -> None:
    """Give up if the batch system accepted none of the jobs.

    Raises
    ------
    DfxmError
        The submission failed, with the message of the command, or the command does not exist.
    """
    errors = [job.refusal for job in jobs]
    if not errors or None in errors:
        return
    if isinstance(errors[0], FileNotFoundError):
        raise not_here(kind, errors[0])
    raise DfxmError(
        f"{kind.upper()} jobs", f"were refused: {said(errors[0])}", "check queue, account, memory, walltime"
    )


def not_here(kind: str, error: FileNotFoundError) -> DfxmError:
    """Error for a command of a batch system that does not exist on this machine."""
    return DfxmError(
        f"cluster of kind {kind!r}",
        f"requires the command {error.filename}, which is missing",
        "run on a machine that submits jobs",
    )


def said(error: Exception) -> str:
    """Message of a failed command, which dask-jobqueue appends to its own."""
    return " ".join((str(error).partition("stderr:\n")[2] or str(error)).split())


def refuse_ended(jobs: list[str], system: BatchSystem, kind: str) -> None:
    """Give up if the batch system lists none of the jobs as waiting or running.

    Raises
    ------
    DfxmError
        All jobs have ended, with their states; or the command that lists jobs does not exist.
    """
    try:
        asked = subprocess.run(system.listing, capture_output=True, text=True, errors="replace", check=False)
    except FileNotFoundError as error:
        raise not_here(kind, error) from None
    lines = {m[1]: m[2].rstrip() for m in re.finditer(r"^ *(\d+)(.*)$", asked.stdout, re.MULTILINE)}
    if not asked.returncode and not any(re.search(system.at_work, lines.get(job, "")) for job in jobs):
        ends = ", ".join(f"{job} {lines.get(job, 'ended').strip()}" for job in jobs)
        raise DfxmError(f"{kind.upper()} jobs", f"ended before a worker connected: {ends}", "read the logs of the jobs")


def job_cluster(stack: ExitStack, setup: Jobs) -> Any:
    """The cluster of a setup before the submission of jobs; ``.job_script()`` shows the script of a job."""
    if find_spec("dask_jobqueue") is None:
        raise DfxmError(f"cluster of kind {setup.kind!r}", "needs dask-jobqueue", "pip install 'dfxm_dask[jobs]'")
    system = SYSTEMS[setup.kind]
    life, spread = worker_lifetime(setup.walltime)
    own = {system.account: setup.account, **({"resource_spec": setup.resources} if system.resources else {})}
    return replacing_jobs(getattr(import_module("dask_jobqueue"), system.cluster))(
        **own,
        **system.more,
        cores=setup.workers_per_job,
        processes=setup.workers_per_job,
        memory=setup.memory,
        walltime=system.walltime(setup.walltime),
        queue=setup.queue,
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
    """Name of the job of a worker, in a cluster with several workers in a job."""
    return str(worker.name).rpartition("-")[0]


def replacing_jobs(kind: type) -> type:
    """A class of dask-jobqueue that handles refused and lost jobs.

    The cluster records refused jobs with the reason; the class of dask-jobqueue would log a traceback, fail when it
    closes, and wait for workers forever. A lost job of several workers is replaced; dask-jobqueue replaces jobs of one
    worker only.
    """
    import dask.config
    import dask.utils
    from distributed.core import Status

    class Job(kind.job_cls):  # type: ignore[name-defined]
        refusal: Exception | None = None
        tells = False  # before the first worker an error reports the refusal

        async def start(self) -> None:
            try:
                await super().start()
            except (OSError, RuntimeError, ValueError) as error:
                self.refusal = error
                self.status = Status.running  # for Dask alone
                self.tell()

        def tell(self) -> None:
            if self.refusal and self.tells:
                logging.getLogger(__name__).warning("a job was refused: %s", said(self.refusal))

        async def close(self) -> None:
            await super().close()
            self.status = Status.closed

    class ReplacingJobs(kind):
        job_cls = Job

        def _update_worker_status(self, op: str, msg: Any) -> None:
            if op == "remove":
                job, _, number = str(self.scheduler_info["workers"][msg]["name"]).rpartition("-")
                if "group" in self.worker_spec.get(job, ()) and number.isdigit():
                    # With the delay of Dask for jobs of one worker: a nanny may be restarting it.
                    delay = dask.utils.parse_timedelta(dask.config.get("distributed.deploy.lost-worker-timeout"))
                    asyncio.get_running_loop().call_later(delay, self._forget_if_gone, job)
            super()._update_worker_status(op, msg)

        def _forget_if_gone(self, job: str) -> None:
            there = {str(worker["name"]).rpartition("-")[0] for worker in self.scheduler_info["workers"].values()}
            if job in self.workers and job not in there:
                self._futures.add(asyncio.ensure_future(self.workers.pop(job).close()))

    return ReplacingJobs


def certificates_in(stack: ExitStack, folder: str) -> Any:
    """Temporary certificates in files that only this user can read, until the context ends."""
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
