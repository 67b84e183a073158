"""Locks: one owner at a time, the dead do not hold, the living are not robbed."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from dfxm_dask.errors import LockedError, StoreError
from dfxm_dask.store.integrity import lock
from dfxm_dask.store.integrity.lock import hold, refuse_held

OWNER = """
import sys, time
from pathlib import Path
from dfxm_dask.store.integrity.lock import hold
with hold(Path(sys.argv[1]), what="reduce"):
    print("held", flush=True)
    time.sleep(60)
"""


def owner(folder: Path) -> subprocess.Popen[bytes]:
    process = subprocess.Popen([sys.executable, "-c", OWNER, str(folder)], stdout=subprocess.PIPE)
    assert process.stdout
    assert process.stdout.readline() == b"held\n"
    return process


def end(process: subprocess.Popen[bytes], how: int) -> None:
    process.send_signal(how)
    process.wait()
    assert process.stdout
    process.stdout.close()


def test_hold__the_second_is_refused_and_told_by_whom(tmp_path: Path) -> None:
    process = owner(tmp_path)
    begun = time.monotonic()
    with pytest.raises(LockedError, match=rf"recipe x: .* is held by .*pid {process.pid}.*: reduce\); wait until"):
        hold(tmp_path, what="recipe x").__enter__()
    assert time.monotonic() - begun < 1
    with pytest.raises(LockedError, match="is held by"):
        refuse_held(tmp_path / "lock", "ingest")
    end(process, signal.SIGKILL)
    with hold(tmp_path, what="recipe x"):  # the dead do not hold
        assert json.loads((tmp_path / "lock").read_text())["pid"] == os.getpid()
    assert list(tmp_path.iterdir()) == []


def test_hold__a_killed_owner_that_nobody_has_waited_for_is_dead(tmp_path: Path) -> None:
    process = owner(tmp_path)
    process.send_signal(signal.SIGKILL)
    deadline = time.monotonic() + 10
    while lock.held(tmp_path / "lock") and time.monotonic() < deadline:
        time.sleep(0.01)
    with hold(tmp_path, what="next"):
        pass
    end(process, signal.SIGKILL)


def test_hold__waits_where_asked(tmp_path: Path) -> None:
    process = owner(tmp_path)
    threading_end = time.monotonic() + 0.3
    with pytest.raises(LockedError):
        hold(tmp_path, what="short", wait=0.3).__enter__()
    assert time.monotonic() >= threading_end
    end(process, signal.SIGTERM)


def foreign(folder: Path, age: float) -> None:
    """A lock of another host whose last sign of life is so old."""
    path = folder / "lock"
    path.write_text(json.dumps({"token": "theirs", "host": "elsewhere", "pid": 1, "started": 0.0, "what": "reduce"}))
    then = time.time() - age
    os.utime(path, (then, then))


def test_hold__another_host_lives_by_its_heartbeat(tmp_path: Path) -> None:
    foreign(tmp_path, lock.STALE - 20)
    with pytest.raises(LockedError, match="elsewhere"):
        hold(tmp_path, what="x").__enter__()
    foreign(tmp_path, lock.STALE + 20)
    with hold(tmp_path, what="x") as fence:
        fence.check()


def test_hold__beats(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "HEARTBEAT", 0.02)
    with hold(tmp_path, what="x"):
        os.utime(tmp_path / "lock", (0, 0))
        deadline = time.monotonic() + 10
        while (tmp_path / "lock").stat().st_mtime == 0 and time.monotonic() < deadline:
            time.sleep(0.01)
        assert (tmp_path / "lock").stat().st_mtime > 0


def test_fence__who_was_robbed_finds_out_and_does_not_rob_back(tmp_path: Path) -> None:
    with hold(tmp_path, what="old") as fence:
        fence.check()
        foreign(tmp_path, 0)
        with pytest.raises(StoreError, match=r"no longer belongs to this run but to .*elsewhere.*let the other"):
            fence.check()
    assert json.loads((tmp_path / "lock").read_text())["token"] == "theirs"
    (tmp_path / "lock").unlink()
    with pytest.raises(StoreError, match="but to nobody"):
        fence.check()


def test_hold__damaged_lock_is_nobodys(tmp_path: Path) -> None:
    (tmp_path / "lock").write_bytes(b"\x00{")
    os.utime(tmp_path / "lock", (0, 0))
    with hold(tmp_path, what="x"):
        pass


def test_hold__place_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match=r"cannot be written .*choose another folder"):
        hold(tmp_path / "file" / "folder", what="x").__enter__()


def contend(folder: Path, barrier: Any, wins: Any) -> None:
    for _ in range(20):
        barrier.wait()
        try:
            with hold(folder, what="x"):
                wins.put(1)
                barrier.wait()  # all have tried before the winner gives it back
        except LockedError:
            wins.put(0)
            barrier.wait()


def test_hold__of_many_that_find_a_stale_lock_one_gets_it(tmp_path: Path) -> None:
    several = multiprocessing.get_context("fork")
    barrier, wins = several.Barrier(4), several.Queue()
    foreign(tmp_path, lock.STALE + 20)
    processes = [several.Process(target=contend, args=(tmp_path, barrier, wins)) for _ in range(4)]
    for p in processes:
        p.start()
    found = [wins.get(timeout=60) for _ in range(80)]
    for p in processes:
        p.join()
    assert sum(found) == 20
