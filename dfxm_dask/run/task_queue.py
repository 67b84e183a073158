"""Many tasks, a few at a time: on a cluster or here, with deaths of workers and requests to end."""

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
    """Results of a function over tasks as they come, with twice as many in flight as there are threads.

    Parameters
    ----------
    client : distributed.Client or None
        Without one everything runs here, in order.
    failed : list, optional
        Receives tasks that fail for a reason that lies in them, with the reason: files that they need are damaged, or
        workers died twice over them, the second time with nothing else in flight (a worker that was lost to
        something else, with several tasks on it, accuses none of them). Without it such a task is an error.

    Raises
    ------
    DfxmError
        What a task raised; a task over which workers died; a scheduler that was lost.
    StoppedError
        A signal asked for an end: tasks that a worker had begun were finished, others not begun.
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


DIED = "its worker died twice over it, the second time with nothing else at work"
DIED_REMEDY = "give workers more memory (--memory-limit, or memory: in the cluster file), or check its data"


def _heed() -> None:
    if reason := stopping.why():
        raise StoppedError("work", reason, "run it again to go on")


def _flight(
    client: Any,
    function: Callable[[Any], Any],
    rest: Iterator[Any],
    suspects: list[Any],
    failed: list[tuple[Any, str]] | None,
    most: int | None,
) -> Iterator[Any]:
    """Results of tasks as they come; those whose worker died go to the suspects."""
    from concurrent.futures import CancelledError

    from distributed import as_completed
    from distributed.comm import CommClosedError
    from distributed.scheduler import KilledWorker, NoWorkerError

    window, asked = most or 0, float("-inf")
    flying = as_completed([])
    of: dict[str, Any] = {}

    def feed(least: int) -> None:
        """Workers come and go: the window follows them; asking the scheduler each time would cost 10 ms a task."""
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
                what = f"task {function.__name__}"  # of a network disk, in the task
                raise DfxmError(what, f"timed out ({error})", "look at the file system, then run it again") from error
            else:
                yield result
            del future
            feed(1)
        _heed()
    except NoWorkerError:
        raise DfxmError("workers", "there have been none for hours", "look at the cluster, then run it again") from None
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
    """Futures as they are done. Once an end was asked for, those that no worker has are not waited for: on a cluster
    whose jobs are still queued that would be for ever."""
    idle, looked = 0, 0.0
    while not flying.is_empty():
        if flying.has_ready():
            yield next(flying)
        elif stopping.asked() and time.monotonic() - looked > 1:
            looked = time.monotonic()
            idle = 0 if any(client.processing().values()) else idle + 1
            if idle > 1:  # twice: what was done just now is on its way
                return
        else:
            time.sleep(0.005)
