"""Many tasks, a few at a time: what a scheduler holds, and requests to end."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dfxm_dask.errors import StoppedError
from dfxm_dask.run import stopping
from dfxm_dask.run.task_queue import windowed
from dfxm_dask.store.integrity.lock import hold


@pytest.fixture(scope="module")
def client() -> Iterator[Any]:
    from distributed import Client

    with Client(processes=False, n_workers=1, threads_per_worker=2, dashboard_address="127.0.0.1:0") as found:
        yield found


@pytest.mark.slow
def test_windowed__keeps_what_the_scheduler_holds_bounded(client: Any) -> None:
    """The tasks of a run come from a stream: what was taken from it is never far ahead of what was given back."""
    taken, given, ahead, held = 0, 0, 0, 0

    def stream() -> Iterator[int]:
        nonlocal taken
        for number in range(400):
            taken += 1
            yield number

    found = set()
    for result in windowed(client, abs, stream()):
        given += 1
        found.add(result)
        ahead = max(ahead, taken - given)
        if given % 50 == 0:
            held = max(held, len(client.cluster.scheduler.tasks))
    assert found == set(range(400))
    assert ahead <= 8
    assert held <= 16


@pytest.fixture
def asked_to_end() -> Iterator[None]:
    """A signal comes soon, and is heeded."""
    timer = threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGTERM))
    with stopping.heeding_signals():
        timer.start()
        yield
        timer.join()


def test_windowed__asked_to_end_finishes_what_workers_have(client: Any, asked_to_end: None) -> None:
    def slow(number: int) -> int:
        time.sleep(1.5)
        return number

    done: list[int] = []
    with pytest.raises(StoppedError, match="received SIGTERM"):
        done.extend(windowed(client, slow, range(10)))
    assert sorted(done) == [0, 1, 2, 3]  # two threads, and two that wait for them


def test_windowed__without_any_worker_ends_when_asked(asked_to_end: None) -> None:
    """The jobs of a cluster may be queued for hours."""
    from distributed import Client

    with Client(processes=False, n_workers=0, dashboard_address="127.0.0.1:0") as nobody:
        with pytest.raises(StoppedError, match="received SIGTERM"):
            list(windowed(nobody, abs, range(10)))
        assert nobody.status == "running"


def test_hold__waits_no_longer_when_asked_to_end(tmp_path: Path, asked_to_end: None) -> None:
    words = r"the second: received SIGTERM during the wait for .*the first"
    with (
        hold(tmp_path, what="the first"),
        pytest.raises(StoppedError, match=words),
        hold(tmp_path, what="the second", wait=float("inf"), unless=stopping.why),
    ):
        pass
