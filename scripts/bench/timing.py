"""Fair timing: alternating runs, the minimum of them, and processes that are pinned to cores from their start."""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from multiprocessing import get_context
from typing import Any

from dfxm_dask.run.clusters.cluster import environment_set, worker_environment

Task = Callable[[], Any]
PACKAGES = (
    "dfxm_dask",
    "dask",
    "distributed",
    "zarr",
    "xarray",
    "numpy",
    "numba",
    "numcodecs",
    "h5py",
    "hdf5plugin",
    "darling-pypi",
)


@dataclass(frozen=True)
class Row:
    """One line of the report: the measured value, the target, and details."""

    figure: str
    measured: str
    target: str
    detail: str
    reached: bool | None = None


def at_most(figure: str, value: float, limit: float, unit: str, detail: str) -> Row:
    """A row whose value must not exceed a limit."""
    return Row(figure, f"{value:.3g} {unit}", f"≤ {limit:g} {unit}", detail, bool(value <= limit))


def at_least(figure: str, value: float, limit: float, unit: str, detail: str) -> Row:
    """A row whose value must come to a limit."""
    return Row(figure, f"{value:.3g} {unit}", f"≥ {limit:g} {unit}", detail, bool(value >= limit))


def seconds(task: Task) -> float:
    """Wall time of one call; or the time that the call returns as a float."""
    begun = time.perf_counter()
    said = task()
    return said if isinstance(said, float) else time.perf_counter() - begun


def best(tasks: Mapping[str, Task], repeats: int, *, before: Task | None = None) -> dict[str, float]:
    """Shortest wall time of each task. Tasks take turns, so that a slow spell of the machine meets all of them.

    Parameters
    ----------
    before : callable, optional
        Called ahead of every run, outside the time.
    """
    times: dict[str, list[float]] = {name: [] for name in tasks}
    for _ in range(repeats):
        for name, task in tasks.items():
            if before is not None:
                before()
            times[name].append(seconds(task))
    return {name: min(found) for name, found in times.items()}


def median(tasks: Mapping[str, Task], repeats: int) -> dict[str, float]:
    """Median wall time of each task, after one call that is not counted; tasks take turns."""
    times: dict[str, list[float]] = {name: [] for name in tasks}
    for _ in range(repeats + 1):
        for name, task in tasks.items():
            times[name].append(seconds(task))
    return {name: statistics.median(found[1:]) for name, found in times.items()}


def _pin(cores: int) -> None:
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:cores])


@contextmanager
def process(cores: int, *, threads: int = 1) -> Iterator[Callable[..., Any]]:
    """A new process that runs functions and returns their results, pinned to a number of cores from its start.

    Parameters
    ----------
    threads : int
        Threads of numba; all other libraries have one, and malloc is set as in a worker of the package.
    """
    environment = {**worker_environment(), "NUMBA_NUM_THREADS": str(threads)}
    with ProcessPoolExecutor(1, mp_context=get_context("spawn"), initializer=_pin, initargs=(cores,)) as pool:

        def call(function: Callable[..., Any], *arguments: Any) -> Any:
            with environment_set(environment):  # the process starts with the first call
                return pool.submit(function, *arguments).result()

        yield call


def pinned(function: Callable[..., Any], *arguments: Any) -> Any:
    """A function in a fresh process on one core."""
    with process(1) as call:
        return call(function, *arguments)


def machine() -> dict[str, str]:
    """Processor, cores, memory and versions."""
    found = {"processor": _processor(), "cores": str(len(os.sched_getaffinity(0))), "memory": _memory()}
    found["python"] = platform.python_version()
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "absent"
    return found


def _processor() -> str:
    try:
        with open("/proc/cpuinfo") as file:
            return next(line.split(":", 1)[1].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or "unknown"


def _memory() -> str:
    return f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.1f} GiB"


def table(rows: list[Row]) -> str:
    """Rows as a Markdown table."""
    marks = {True: " (reached)", False: " (short)", None: ""}
    lines = ["| figure | measured | to reach | detail |", "|---|---|---|---|"]
    lines += [f"| {r.figure} | {r.measured} | {r.target}{marks[r.reached]} | {r.detail} |" for r in rows]
    return "\n".join(lines)


def as_json(rows: list[Row]) -> list[dict[str, Any]]:
    """Rows as plain values."""
    return [asdict(r) for r in rows]
