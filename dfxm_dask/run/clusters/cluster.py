"""Where a run computes: this machine, a running scheduler, or SLURM jobs.

What is started here speaks TLS, and listens on loopback unless it has to reach further.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from dfxm_dask.errors import DfxmError, RecipeError
from dfxm_dask.parameters import first_fault, validated
from dfxm_dask.plain_yaml import entries, parse_yaml, place, plain, read_text
from dfxm_dask.run.clusters.slurm import Slurm, start_slurm
from dfxm_dask.run.clusters.worker import (
    SETTINGS,
    environment_kept,
    environment_set,
    temporary_certificates,
    worker_environment,
    worker_plugin,
)
from dfxm_dask.schema import nearest

if TYPE_CHECKING:
    from distributed import Client

_DASHBOARD = "127.0.0.1:0"
"""Seen from this machine only; a port is chosen, so that two runs on one machine do not collide."""


class Local(BaseModel):
    """Worker processes on this machine."""

    model_config = ConfigDict(extra="forbid")
    kind: Literal["local"]
    workers: Annotated[int, Field(ge=1)] | None = None
    memory_limit: str | None = None
    local_directory: str | None = None
    tls: bool = True


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
        The scheduler does not answer, a package is missing, or SLURM refuses or loses the jobs.
    """
    import dask.config
    from distributed import Client

    with ExitStack() as stack:
        if isinstance(spec, str) and "://" in spec:
            client = attach(stack, spec)
        else:
            setup = Local(kind="local") if spec is None else read_cluster(spec)
            if workers is not None:
                if workers < 1:
                    raise RecipeError("number of workers", f"is {workers}", "ask for at least 1")
                fixed = {"jobs": workers, "minimum_jobs": None, "maximum_jobs": None}
                setup = setup.model_copy(update={"workers": workers} if isinstance(setup, Local) else fixed)
            if memory_limit is not None and isinstance(setup, Local):
                setup = setup.model_copy(update={"memory_limit": str(memory_limit)})
            stack.enter_context(dask.config.set(SETTINGS))
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
        # Not by default: a default client that fails to connect stays behind, and names itself to Dask as the scheduler
        # of all that is computed later.
        client = stack.enter_context(Client(address, timeout=20, set_as_default=False))
        stack.enter_context(client.as_current())
        return client
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
    # What the user's files and variables say of Dask is meant for other clusters: a short timeout or a preload there
    # would end a run here.
    defaults = dask.config.merge(*dask.config.defaults)["distributed"]
    stack.enter_context(dask.config.set({"distributed": defaults}))
    stack.enter_context(dask.config.set(SETTINGS))
    environment = worker_environment()
    # numba reads its variables whenever it compiles, also in this process: they are set in the workers alone. The
    # others must be there before a worker begins. Dask sets those in this process, also when it starts a worker anew,
    # and leaves them so.
    compiler = {name: environment.pop(name) for name in list(environment) if name.startswith("NUMBA_")}
    stack.enter_context(dask.config.set({"distributed.nanny.pre-spawn-environ": environment}))
    stack.enter_context(environment_kept(environment))
    # A variable of the user's shell would win over Dask's configuration while nannies are made. They keep what they
    # found, also for workers that they start anew.
    with environment_set(environment):
        nanny = logging.getLogger("distributed.nanny")
        stack.callback(nanny.removeFilter, _not_about_the_end)
        cluster = stack.enter_context(
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
                env=compiler,
            )
        )
        stack.callback(nanny.addFilter, _not_about_the_end)  # called before the cluster closes
        return cluster


def _not_about_the_end(record: logging.LogRecord) -> bool:
    """False for the warning that a worker, which has nothing left to do, took seconds to end: a busy machine."""
    return "still alive after" not in record.getMessage()


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
        return validated(kinds[kind], {word: plain(value, path) for word, (_, value) in found.items()})
    except ValidationError as error:
        fault, reason = first_fault(error)
        word = str(fault[0]) if fault else "kind"
        where = place(path, found[word][0]) if word in found else f"{path}:1"
        raise RecipeError(f"{where}: {word!r}", reason, "see configs/clusters") from None


def cluster_path(spec: str | Path) -> Path:
    """The file behind a path or the name of a packaged cluster."""
    path = Path(spec)
    if isinstance(spec, Path) or path.suffix in (".yaml", ".yml") or path.parent != Path() or path.is_file():
        return path
    from dfxm_dask.sources.source import find_config

    return find_config("clusters", str(spec))
