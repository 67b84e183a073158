"""What a worker starts with: threads, malloc, settings of Dask, certificates, plug-ins.

A worker has one thread for every library, since the run itself is parallel, and the malloc settings below, since
those that Dask's nanny sets by default halve the throughput of numpy. Results never travel through Dask's memory, so
spilling to disk is off.
"""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator

from dfxm_dask.errors import RecipeError
from dfxm_dask.run.recipe import load_plugin
from dfxm_dask.surroundings import numba_cache

EVERYWHERE = {
    "distributed.worker.memory.target": False,
    "distributed.worker.memory.spill": False,
    # Nothing is spilled, so a worker that Dask paused for its memory would wait for ever, and the run with it. One that
    # needs too much is ended at 95 %, which the run hears of.
    "distributed.worker.memory.pause": False,
    # How long a connection may be silent. TCP tries again after waits that double: a partition of 60 s is over for it
    # after 102 s at the latest. Dask's 30 s would give up every worker behind a partition, and its blocks with it.
    "distributed.comm.timeouts.tcp": "180s",
}
"""Settings of Dask for driver, scheduler and workers. The times are our choice."""
SETTINGS = {
    **EVERYWHERE,
    # A task whose worker died is handed back at once, and who runs it decides what is next: the run tries it alone.
    "distributed.scheduler.allowed-failures": 0,
    # A node that went dark is noticed by the silence of its connections (180 s); this finds workers that hang.
    "distributed.scheduler.worker-ttl": "300s",
    # All jobs are gone and no other starts: the run ends and says so, and the next one goes on from there.
    "distributed.scheduler.no-workers-timeout": "6h",
    # A terminal sends Ctrl-C to the driver and its workers alike. The driver decides what is still finished.
    "distributed.worker.preload": ["import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)"],
}
_THREADS = ("OMP", "MKL", "OPENBLAS", "NUMEXPR", "NUMBA", "RAYON")


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
    environment["PYTHONSAFEPATH"] = "1"  # a numpy.py or signal.py in the current folder is not ours
    return environment


def shell_lines(python: str = sys.executable) -> list[str]:
    """Lines at the head of a job script: the worker environment, which wins over the defaults of Dask's nanny."""
    environment = worker_environment()
    del environment["NUMBA_CACHE_DIR"]
    lines = [f"export {name}={value}" for name, value in environment.items()]
    lines += [f"export DASK_{name.upper().replace('.', '__')}={value}" for name, value in EVERYWHERE.items()]
    cache = "from dfxm_dask.surroundings import numba_cache; print(numba_cache())"
    lines += [f'export NUMBA_CACHE_DIR="$({shlex.quote(python)} -c {shlex.quote(cache)})"']
    return lines


def bytes_of(size: str) -> int:
    """Bytes of a size such as 2GiB.

    Raises
    ------
    RecipeError
        The text is no size.
    """
    from dask.utils import parse_bytes

    try:
        found = int(parse_bytes(size))
    except ValueError:
        found = 0
    if found <= 0:
        raise RecipeError("memory limit", f"is {size!r}", "write a size such as 2GiB")
    return found


def _is_size(size: str) -> str:
    try:
        bytes_of(size)
    except RecipeError:
        raise ValueError("is no size such as 2GiB") from None
    return size


Size = Annotated[str, AfterValidator(_is_size)]
"""A size in a file of a cluster, refused where it is none with the line of the file."""


@contextmanager
def environment_kept(names: Iterable[str]) -> Iterator[None]:
    """Whatever happens to these environment variables while the context lasts is undone when it ends."""
    before = {name: os.environ.get(name) for name in names}
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@contextmanager
def environment_set(variables: Mapping[str, str]) -> Iterator[None]:
    """Environment variables that hold while the context lasts."""
    with environment_kept(variables):
        os.environ.update(variables)
        yield


def temporary_certificates() -> Any:
    """TLS with certificates of this run only, so that nobody else on the network or machine can hand in tasks."""
    from distributed.security import Security

    return Security.temporary()


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
