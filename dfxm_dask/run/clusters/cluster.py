"""Computing resources of a run: this machine, a running scheduler, or jobs of a batch system.

Processes that start here communicate by TLS, and listen on loopback unless other machines must reach them.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from dfxm_dask.errors import DfxmError, RecipeError
from dfxm_dask.plain_yaml import configured, read_words
from dfxm_dask.run.clusters.jobs import SYSTEMS, Jobs
from dfxm_dask.run.clusters.worker import (
    SETTINGS,
    Size,
    bytes_of,
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
"""Reachable from this machine only; a free port is chosen, so that runs on one machine do not collide."""


class Local(BaseModel):
    """Worker processes on this machine."""

    model_config = ConfigDict(extra="forbid")
    kind: Literal["local"]
    workers: Annotated[int, Field(ge=1)] | None = None
    memory_limit: Size | None = None
    local_directory: str | None = None
    tls: bool = True

    def sized(self, workers: int | None = None, memory_limit: str | None = None) -> Local:
        """Copy with another number of workers and another memory limit, if given."""
        given = {"workers": workers, "memory_limit": memory_limit}
        return self.model_copy(update={name: value for name, value in given.items() if value is not None})

    def limits(self) -> tuple[int, int]:
        """Number of workers, and bytes of memory of each."""
        from dask.system import CPU_COUNT
        from distributed.system import MEMORY_LIMIT

        count = self.workers or CPU_COUNT
        return count, bytes_of(self.memory_limit) if self.memory_limit else int(0.9 * MEMORY_LIMIT / count)

    def start(self, stack: ExitStack) -> Any:
        """A cluster of processes on this machine, reachable from this machine only."""
        import dask.config
        from distributed import LocalCluster

        count, limit = self.limits()
        # The user's configuration of Dask is meant for other clusters: a short timeout or a preload would end this run.
        defaults = dask.config.merge(*dask.config.defaults)["distributed"]
        stack.enter_context(dask.config.set({"distributed": defaults}))
        stack.enter_context(dask.config.set(SETTINGS))
        environment = worker_environment()
        # numba reads its variables at every compilation, so that they must be set in the workers alone. The others must
        # exist before a worker starts. Dask sets these in this process, also when it restarts a worker, and does not
        # reset them.
        compiler = {name: environment.pop(name) for name in list(environment) if name.startswith("NUMBA_")}
        stack.enter_context(dask.config.set({"distributed.nanny.pre-spawn-environ": environment}))
        stack.enter_context(environment_kept(environment))
        # Variables of the user's shell would override Dask's configuration when nannies start. Nannies keep their
        # environment for all workers that they restart.
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
                    local_directory=self.local_directory,
                    dashboard_address=_DASHBOARD,
                    security=temporary_certificates() if self.tls else None,
                    protocol="tls://" if self.tls else "tcp://",
                    env=compiler,
                )
            )
            stack.callback(nanny.addFilter, _not_about_the_end)  # called before the cluster closes
            return cluster


@contextmanager
def open_cluster(
    spec: str | Path | None = None,
    *,
    workers: int | None = None,
    memory_limit: str | int | None = None,
    plugins: tuple[str | Path, ...] = (),
) -> Iterator[Client]:
    """A Dask client; processes that were started for the client stop with the context.

    Parameters
    ----------
    spec : str or Path, optional
        ``None`` for this machine, ``tcp://host:port`` or ``tls://host:port`` for a running scheduler, or a YAML file
        (or the name of a file in ``configs/clusters``).
    workers : int, optional
        Number of worker processes on this machine, by default one for each core; number of jobs for a batch system.
    memory_limit : str or int, optional
        Memory of a worker, such as ``2GiB``; by default that of the file, or an equal share of nine tenths of the
        memory of this machine.
    plugins : tuple of path
        Files with further reductions, which every worker loads.

    Raises
    ------
    RecipeError
        The file has an unknown key or an invalid value, or the number of workers is invalid.
    DfxmError
        The scheduler does not answer, a package is missing, or the batch system refuses or loses the jobs.
    """
    import dask.config
    from distributed import Client

    with ExitStack() as stack:
        if isinstance(spec, str) and "://" in spec:
            client = attach(stack, spec)
        else:
            if workers is not None and workers < 1:
                raise RecipeError("number of workers", f"is {workers}", "choose 1 or more")
            setup = read_cluster(spec).sized(workers, None if memory_limit is None else str(memory_limit))
            stack.enter_context(dask.config.set(SETTINGS))
            client = stack.enter_context(Client(setup.start(stack)))
        if plugins:
            client.register_plugin(worker_plugin(plugins))
        yield client


def dashboard(client: Client) -> str | None:
    """Address of the dashboard for a browser on this machine; ``None`` if bokeh is not installed."""
    return str(client.dashboard_link) if find_spec("bokeh") and client.dashboard_link else None


def attach(stack: ExitStack, address: str) -> Client:
    """A client of a running scheduler, which continues to run after the context."""
    from distributed import Client

    try:
        # Not as the default client: a default client that fails to connect would remain Dask's scheduler for all later
        # computations.
        client = stack.enter_context(Client(address, timeout=20, set_as_default=False))
        stack.enter_context(client.as_current())
        return client
    except (OSError, ValueError, TypeError) as error:
        raise DfxmError(
            f"scheduler {address}", f"does not answer ({error})", "check address, port, and certificates of tls://"
        ) from error


def _not_about_the_end(record: logging.LogRecord) -> bool:
    """False for the warning that an idle worker took seconds to end, as on a busy machine."""
    return "still alive after" not in record.getMessage()


def read_cluster(spec: str | Path | None) -> Local | Jobs:
    """The setup in a YAML file, or in the packaged file of that name; ``None`` is this machine.

    Raises
    ------
    RecipeError
        Unknown kind or field (with the nearest known one), or an invalid value; with file and line.
    """
    if spec is None:
        return Local(kind="local")
    path = cluster_path(spec)
    content, lines = read_words(path, "a cluster")
    kind, kinds = content.get("kind"), ("local", *SYSTEMS)
    if kind not in kinds:
        where = lines.get("kind", f"{path}:1")
        raise RecipeError(f"{where}: 'kind'", f"is {kind!r}{nearest(str(kind), kinds)}", f"use {', '.join(kinds)}")
    model: type[Jobs] | type[Local] = Jobs if kind in SYSTEMS else Local
    return configured(model, content, lines, path, "configs/clusters")


def cluster_path(spec: str | Path) -> Path:
    """The file behind a path or the name of a packaged cluster."""
    path = Path(spec)
    if isinstance(spec, Path) or path.suffix in (".yaml", ".yml") or path.parent != Path() or path.is_file():
        return path
    from dfxm_dask.sources.source import find_config

    return find_config("clusters", str(spec))
