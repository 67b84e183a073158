"""Environment of a worker: threads, malloc, settings of Dask, certificates, plug-ins.

Every library has one thread in a worker, since the run itself is parallel. The default malloc settings of Dask's nanny
halve the throughput of numpy and are replaced. Spilling to disk is off, since results are not kept in Dask's memory.
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
    # Without spilling, a worker that Dask paused for its memory would wait forever, and the run with it. A worker that
    # exceeds 95 % of its limit is ended, which the run notices.
    "distributed.worker.memory.pause": False,
    # Time without an answer after which a connection is given up. TCP repeats packets after intervals that double, so
    # that it recovers from a partition of 60 s after at most 102 s. With Dask's 30 s all workers behind a partition
    # would be lost, with their blocks.
    "distributed.comm.timeouts.tcp": "180s",
}
"""Settings of Dask for driver, scheduler and workers. The times are our choice."""
SETTINGS = {
    **EVERYWHERE,
    # A task whose worker died is returned at once: the run repeats it alone.
    "distributed.scheduler.allowed-failures": 0,
    # A lost node is noticed by its silent connections (180 s); this time finds workers that hang.
    "distributed.scheduler.worker-ttl": "300s",
    # If all jobs are lost and no other starts, the run ends with an error, and the next run continues.
    "distributed.scheduler.no-workers-timeout": "6h",
    # A terminal sends Ctrl-C to the driver and to its workers. The driver alone handles it.
    # At the end of a run a heartbeat may find the scheduler closed, which a worker would print as a traceback.
    "distributed.worker.preload": [
        "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)",
        "import logging; logging.getLogger('distributed.worker').addFilter("
        "lambda record: 'communicate with scheduler during heartbeat' not in str(record.msg))",
    ],
}
_THREADS = ("OMP", "MKL", "OPENBLAS", "NUMEXPR", "NUMBA", "RAYON")


def worker_environment() -> dict[str, str]:
    """Environment variables of a worker process at its start.

    Notes
    -----
    With the three malloc settings blocks of up to 32 MiB stay in the heap of one arena, and memory is returned late.
    Page faults of a reduction of one layer fall from 26,000 to 1, and its time falls by a third.
    """
    environment = {f"{library}_NUM_THREADS": "1" for library in _THREADS}
    environment["BLOSC_NTHREADS"] = "1"
    environment["MALLOC_ARENA_MAX"] = "1"
    environment["MALLOC_MMAP_THRESHOLD_"] = "33554432"
    environment["MALLOC_TRIM_THRESHOLD_"] = "536870912"
    environment["NUMBA_CACHE_DIR"] = str(numba_cache())
    environment["PYTHONSAFEPATH"] = "1"  # a numpy.py or signal.py in the current folder must not be imported
    return environment


def shell_lines(python: str = sys.executable) -> list[str]:
    """First lines of a job script: the worker environment, which overrides the defaults of Dask's nanny."""
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
        The text is not a size.
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
        raise ValueError("is not a size such as 2GiB") from None
    return size


Size = Annotated[str, AfterValidator(_is_size)]
"""A size in a cluster file; an invalid one is refused with its line."""


@contextmanager
def environment_kept(names: Iterable[str]) -> Iterator[None]:
    """Restore these environment variables at the end of the context."""
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
    """Set environment variables for the duration of the context."""
    with environment_kept(variables):
        os.environ.update(variables)
        yield


def temporary_certificates() -> Any:
    """TLS with certificates of this run only, so that no other user of the network or machine can submit tasks."""
    from distributed.security import Security

    return Security.temporary()


def worker_plugin(paths: tuple[str | Path, ...]) -> Any:
    """A Dask worker plug-in that loads files with reductions, also in workers that start later."""
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
