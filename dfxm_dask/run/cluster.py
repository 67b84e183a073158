"""Where a run computes: this machine, a running scheduler, or SLURM jobs.

A worker has one thread for every library, since the run itself is parallel, and the malloc settings below, since
those that Dask's nanny sets by default halve the throughput of numpy. Results never travel through Dask's memory, so
spilling to disk is off. Nothing listens on a public interface without TLS.
"""

from __future__ import annotations

import os
import stat
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from dfxm_dask.errors import DfxmError, RecipeError
from dfxm_dask.run.recipe import entries, load_plugin, parse_yaml, place, plain, read_text
from dfxm_dask.schema import nearest

if TYPE_CHECKING:
    from distributed import Client

_SPILL_OFF = {"distributed.worker.memory.target": False, "distributed.worker.memory.spill": False}
_THREADS = ("OMP", "MKL", "OPENBLAS", "NUMEXPR", "NUMBA", "RAYON")
_DASHBOARD = "127.0.0.1:0"
"""Seen from this machine only; a port is chosen, so that two runs on one machine do not collide."""
_SETUP = ConfigDict(extra="forbid")


class Local(BaseModel):
    """Worker processes on this machine."""

    model_config = _SETUP
    kind: Literal["local"]
    workers: Annotated[int, Field(ge=1)] | None = None
    memory_limit: str | None = None
    local_directory: str | None = None
    tls: bool = False


class Slurm(BaseModel):
    """Workers as SLURM jobs; the driver needs a route to them through ``interface``."""

    model_config = _SETUP
    kind: Literal["slurm"]
    jobs: Annotated[int, Field(ge=1, description="jobs to submit")]
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


def worker_environment() -> dict[str, str]:
    """Environment variables that a worker process must start with.

    Notes
    -----
    The malloc triple keeps blocks of up to 32 MiB in the heap of one arena and returns memory late: page faults of a
    reduction of one layer fall from 26,000 to 1, and its time by a third.
    """
    environment = {f"{library}_NUM_THREADS": "1" for library in _THREADS}
    environment["BLOSC_NTHREADS"] = "1"
    environment["MALLOC_ARENA_MAX"] = "1"
    environment["MALLOC_MMAP_THRESHOLD_"] = "33554432"
    environment["MALLOC_TRIM_THRESHOLD_"] = "536870912"
    environment["NUMBA_CACHE_DIR"] = str(numba_cache())
    return environment


def numba_cache() -> Path:
    """Directory of this machine for compiled kernels: on a shared home, workers that start together would collide."""
    path = Path(tempfile.gettempdir()) / f"dfxm_dask-numba-{os.getuid()}"
    path.mkdir(mode=0o700, exist_ok=True)
    found = path.lstat()
    # numba unpickles what it finds there: a directory that somebody else made or can write is not used.
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o022:
        return Path(tempfile.mkdtemp(prefix="dfxm_dask-numba-"))
    return path


@contextmanager
def open_cluster(
    spec: str | Path | None = None,
    *,
    workers: int | None = None,
    memory_limit: str | int | None = None,
    plugins: tuple[str | Path, ...] = (),
) -> Iterator[Client]:
    """A Dask client; what was started for it stops with the context.

    Parameters
    ----------
    spec : str or Path, optional
        ``None`` for this machine, ``tcp://host:port`` or ``tls://host:port`` for a scheduler that runs already, or a
        YAML file (or the name of one in ``configs/clusters``).
    workers : int, optional
        Worker processes on this machine; by default one for each core. For SLURM, the number of jobs.
    memory_limit : str or int, optional
        Of a worker on this machine, such as ``2GiB``; by default an even share of nine tenths of the memory.
    plugins : tuple of path
        Files with further reductions, loaded in every worker.

    Raises
    ------
    RecipeError
        The file asks for something unknown, or a number does not suit.
    DfxmError
        The scheduler does not answer, or a package is missing.
    """
    from distributed import Client

    with ExitStack() as stack:
        if isinstance(spec, str) and "://" in spec:
            client = attach(stack, spec)
        else:
            setup = Local(kind="local") if spec is None else read_cluster(spec)
            if workers is not None:
                if workers < 1:
                    raise RecipeError("number of workers", f"is {workers}", "ask for at least 1")
                setup = setup.model_copy(update={"workers" if isinstance(setup, Local) else "jobs": workers})
            if memory_limit is not None and isinstance(setup, Local):
                setup = setup.model_copy(update={"memory_limit": str(memory_limit)})
            cluster = start_local(stack, setup) if isinstance(setup, Local) else start_slurm(stack, setup)
            client = stack.enter_context(Client(cluster))
        if plugins:
            client.register_plugin(worker_plugin(plugins))
        yield client


def dashboard(client: Client) -> str | None:
    """Address of the dashboard in a browser on this machine; ``None`` without bokeh, which draws it."""
    return str(client.dashboard_link) if find_spec("bokeh") and client.dashboard_link else None


def attach(stack: ExitStack, address: str) -> Client:
    """A client of a scheduler that runs already, which goes on when the context ends."""
    from distributed import Client

    try:
        return stack.enter_context(Client(address, timeout=20))
    except (OSError, ValueError, TypeError) as error:
        raise DfxmError(
            f"scheduler {address}", f"does not answer ({error})", "check address, port, and certificates of tls://"
        ) from error


def start_local(stack: ExitStack, setup: Local) -> Any:
    """A cluster of processes on this machine, reachable from this machine only."""
    import dask.config
    from dask.system import CPU_COUNT
    from dask.utils import parse_bytes
    from distributed import LocalCluster
    from distributed.system import MEMORY_LIMIT

    count = setup.workers or CPU_COUNT
    try:
        limit = parse_bytes(setup.memory_limit) if setup.memory_limit else int(0.9 * MEMORY_LIMIT / count)
    except ValueError:
        raise RecipeError("memory limit", f"is {setup.memory_limit!r}", "write a size such as 2GiB") from None
    environment = worker_environment()
    nanny = {"distributed.nanny.pre-spawn-environ": environment}
    stack.enter_context(dask.config.set({**_SPILL_OFF, **nanny}))
    # A variable of the user's shell would win over Dask's configuration while nannies are made. They keep what they
    # found, also for workers that they start anew.
    with environment_set(environment):
        return stack.enter_context(
            LocalCluster(
                n_workers=count,
                threads_per_worker=1,
                processes=True,
                host="127.0.0.1",
                memory_limit=limit,
                local_directory=setup.local_directory,
                dashboard_address=_DASHBOARD,
                security=temporary_certificates() if setup.tls else None,
                protocol="tls://" if setup.tls else "tcp://",
            )
        )


def start_slurm(stack: ExitStack, setup: Slurm) -> Any:
    """A cluster of SLURM jobs, submitted with ``sbatch``."""
    cluster = stack.enter_context(slurm_cluster(setup))
    cluster.scale(jobs=setup.jobs)
    return cluster


def slurm_cluster(setup: Slurm) -> Any:
    """The cluster of a setup, before any job is submitted; ``.job_script()`` shows what a job does."""
    if find_spec("dask_jobqueue") is None:
        raise DfxmError("cluster of kind 'slurm'", "needs dask-jobqueue", "pip install 'dfxm_dask[slurm]'")
    return import_module("dask_jobqueue.slurm").SLURMCluster(
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
        shared_temp_directory=setup.shared_directory or str(Path.cwd()),
        job_extra_directives=setup.job_directives,
        job_script_prologue=[*slurm_prologue(), *setup.prologue],
        security=temporary_certificates() if setup.tls else None,
        scheduler_options={"dashboard_address": _DASHBOARD},
        death_timeout=120,
    )


def slurm_prologue() -> list[str]:
    """Lines at the head of a job script: the worker environment, in the form that the nanny of the job reads."""
    environment = worker_environment()
    del environment["NUMBA_CACHE_DIR"]
    lines = [f"export {name}={value}" for name, value in environment.items()]
    # The nanny replaces the malloc variables by its own defaults unless its configuration says otherwise.
    prefix = "DASK_DISTRIBUTED__NANNY__PRE_SPAWN_ENVIRON__"
    lines += [f"export {prefix}{name}={value}" for name, value in environment.items() if name.startswith("MALLOC")]
    lines += [f"export DASK_{name.upper().replace('.', '__')}=False" for name in _SPILL_OFF]
    lines += ['export NUMBA_CACHE_DIR="$(mktemp -d)"', "trap 'rm -rf \"$NUMBA_CACHE_DIR\"' EXIT"]
    return lines


def temporary_certificates() -> Any:
    """TLS with certificates of this run only, so that nobody else on the network or machine can hand in tasks."""
    if find_spec("cryptography") is None:
        raise DfxmError(
            "cluster with `tls: true`", "needs the package cryptography", "pip install cryptography, or set tls: false"
        )
    from distributed.security import Security

    return Security.temporary()


@contextmanager
def environment_set(variables: Mapping[str, str]) -> Iterator[None]:
    """Environment variables that hold while the context lasts."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def read_cluster(spec: str | Path) -> Local | Slurm:
    """The setup in a YAML file, or in the packaged one of that name.

    Raises
    ------
    RecipeError
        Unknown kind or field (with the nearest known one), or a value that does not suit; with file and line.
    """
    path = cluster_path(spec)
    found = entries(parse_yaml(read_text(path), path), path, "a cluster")
    kinds: dict[str, type[Local] | type[Slurm]] = {"local": Local, "slurm": Slurm}
    kind = plain(found["kind"][1], path) if "kind" in found else None
    if not isinstance(kind, str) or kind not in kinds:
        where = place(path, found["kind"][1]) if "kind" in found else f"{path}:1"
        raise RecipeError(f"{where}: 'kind'", f"is {kind!r}{nearest(str(kind), kinds)}", "use local or slurm")
    fields = kinds[kind].model_fields
    for word, (key, _) in found.items():
        if word not in fields:
            raise RecipeError(
                f"{place(path, key)}: {word!r}",
                f"is unknown in a cluster of kind {kind!r}{nearest(word, fields)}",
                f"use {', '.join(fields)}",
            )
    try:
        return kinds[kind].model_validate({word: plain(value, path) for word, (_, value) in found.items()})
    except ValidationError as error:
        first = error.errors()[0]
        word = str(first["loc"][0]) if first["loc"] else "kind"
        where = place(path, found[word][0]) if word in found else f"{path}:1"
        raise RecipeError(
            f"{where}: {word!r}", f"{first['msg']} (found {first.get('input')!r})", "see configs/clusters"
        ) from None


def cluster_path(spec: str | Path) -> Path:
    """The file behind a path or the name of a packaged cluster."""
    path = Path(spec)
    if isinstance(spec, Path) or path.suffix in (".yaml", ".yml") or path.parent != Path() or path.is_file():
        return path
    from dfxm_dask.store.source import find_config

    return find_config("clusters", str(spec))


def worker_plugin(paths: tuple[str | Path, ...]) -> Any:
    """A Dask worker plug-in that loads files with reductions, also in workers that come later."""
    from distributed import WorkerPlugin

    class LoadReductions(WorkerPlugin):
        name = "dfxm_dask-reductions"
        idempotent = False

        def __init__(self, files: tuple[str, ...]) -> None:
            self.files = files

        def setup(self, worker: Any) -> None:
            for file in self.files:
                load_plugin(file)

    return LoadReductions(tuple(str(Path(path).resolve()) for path in paths))
