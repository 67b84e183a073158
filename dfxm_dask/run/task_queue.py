"""Many tasks, a few at a time, on a cluster or in this process, with handling of dead workers and of stop signals."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any

from dfxm_dask.errors import DamagedError, DfxmError, StoppedError
from dfxm_dask.run import stopping


def windowed(
    client: Any, function: Callable[[Any], Any], tasks: Iterable[Any], failed: list[tuple[Any, str]] | None = None
) -> Iterator[Any]:
    """Results of a function for many tasks in order of completion; twice as many tasks are in flight as threads exist.

    Parameters
    ----------
    client : distributed.Client or None
        Without a client the tasks run in this process, in order.
    failed : list, optional
        Receives the tasks that fail because of their data, each with the reason: their input files are damaged, or
        workers died twice during the task, the second time while no other task was in flight. (The first death has
        several suspects, if several tasks were on that worker.) Without this list the task raises an error. In this
        process only damaged files are recognised: a kernel that kills the process ends the run.

    Raises
    ------
    DfxmError
        A task failed, workers died during a task, or the scheduler was lost.
    StoppedError
        A signal requested the end: tasks in progress were finished, and no other task was started.
    """
    if client is None:
        for task in tasks:
            _heed()
            try:
                result = function(task)
            except DamagedError as error:
                if failed is None:
                    raise
                failed.append((task, str(error)))
            except MemoryError:
                raise DfxmError(
                    f"task {function.__name__}", "ran out of memory", "run it on a machine with more"
                ) from None
            else:
                yield result
        return
    suspects: list[Any] = []
    yield from _flight(client, function, iter(tasks), suspects, failed, None)
    killers: list[Any] = []
    for task in suspects:
        yield from _flight(client, function, iter((task,)), killers, failed, 1)
    if failed is not None:
        failed += [(task, DIED) for task in killers]
    elif killers:
        names = ", ".join(str(getattr(t, "block", getattr(t, "z", t))) for t in killers)
        raise DfxmError(f"task {function.__name__} of {names}", DIED, DIED_REMEDY)


DIED = "its worker died twice during it, the second time without other tasks"
DIED_REMEDY = (
    "give workers more memory (fewer --workers, or memory_limit: or memory: in a cluster file), or check the data"
)


def _heed() -> None:
    if reason := stopping.why():
        raise StoppedError("the run", reason, "run it again to continue")


def _flight(
    client: Any,
    function: Callable[[Any], Any],
    rest: Iterator[Any],
    suspects: list[Any],
    failed: list[tuple[Any, str]] | None,
    most: int | None,
) -> Iterator[Any]:
    """Results of tasks in order of completion; tasks whose worker died are appended to the suspects."""
    from concurrent.futures import CancelledError

    from distributed import as_completed
    from distributed.comm import CommClosedError
    from distributed.scheduler import KilledWorker, NoWorkerError

    window, asked = most or 0, float("-inf")
    flying = as_completed([])
    of: dict[str, Any] = {}

    def feed(least: int) -> None:
        """Submit tasks up to twice the number of threads, which is read every 2 s: each reading costs 10 ms."""
        nonlocal window, asked
        if most is None and time.monotonic() - asked > 2:
            window, asked = max(2, 2 * sum(client.nthreads().values())), time.monotonic()
        if stopping.asked():
            return
        for task in islice(rest, max(least, window - flying.count())):
            future = client.submit(function, task, pure=False)
            of[future.key] = task
            flying.add(future)

    try:
        feed(1)
        for future in _arrivals(client, flying):
            task = of.pop(future.key)
            try:
                result = future.result()
            except KilledWorker:
                suspects.append(task)
            except DamagedError as error:
                if failed is None:
                    raise
                failed.append((task, str(error)))
            except MemoryError:
                raise DfxmError(f"task {function.__name__}", "ran out of memory", DIED_REMEDY) from None
            except TimeoutError as error:
                if future.status != "error":
                    raise
                what = f"task {function.__name__}"  # raised inside the task, by a network disk
                raise DfxmError(what, f"timed out ({error})", "check the file system, then run it again") from error
            else:
                yield result
            del future
            feed(1)
        _heed()
    except NoWorkerError:
        raise DfxmError("workers", "none have existed for hours", "check the cluster, then run it again") from None
    except (CancelledError, CommClosedError, TimeoutError) as error:
        raise DfxmError(
            f"scheduler {client.scheduler.address if client.scheduler else ''}".strip(),
            f"was lost ({type(error).__name__})",
            "run it again: blocks on disk are kept",
        ) from None
    finally:
        if client.status == "running":
            client.cancel([f for f in flying.futures])


def _arrivals(client: Any, flying: Any) -> Iterator[Any]:
    """Futures in order of completion. After a stop signal, futures that no worker processes are abandoned: if the jobs
    of the workers are still queued, they would never complete."""
    idle, looked = 0, 0.0
    while not flying.is_empty():
        if flying.has_ready():
            yield next(flying)
        elif stopping.asked() and time.monotonic() - looked > 1:
            looked = time.monotonic()
            idle = 0 if any(client.processing().values()) else idle + 1
            if idle > 1:  # twice, since a result may be in transit
                return
        else:
            time.sleep(0.005)
