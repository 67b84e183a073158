"""One run at a time: a lock is a small file that says who works here, and whose time of change is a heartbeat.

It appears whole or not at all (a hard link to a file that is written before), so that of two runs that begin together
one is refused. It is stale, and taken over, when its owner's process on this host is gone, or when nothing has been
heard from another host for :data:`STALE` seconds by the clock of the file system. A run that was taken for dead, and
was not, finds that the lock is no longer its own before it gives a file its final name or commits a block.

flufl.lock 10 links files as well, but judges by the clock of each host, has no heartbeat of its own, waits out the lock
of a killed process, and knows neither who holds it for what, nor fences, nor shares: 60 lines here would go, 640 come.
"""

from __future__ import annotations

import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from getpass import getuser
from pathlib import Path
from typing import Any

import psutil

from dfxm_dask.errors import LockedError, StoppedError, StoreError
from dfxm_dask.store.shards import full_disk_said

HEARTBEAT = 10.0
"""Seconds between two signs of life (our choice: a network file system shows them to others within some seconds)."""
STALE = 120.0
"""Seconds of silence after which the owner on another host is taken for dead: twelve heartbeats."""


@dataclass(frozen=True)
class Fence:
    """What a worker needs to find out whether its run still owns the place: the lock file, and the owner's token."""

    path: str
    token: str

    def check(self) -> None:
        """Refuse to go on where somebody else took over.

        Raises
        ------
        StoreError
            The lock is gone or another run's.
        """
        owner = _read(Path(self.path))
        if owner is None:  # somebody may have looked behind it just now
            time.sleep(0.05)
            owner = _read(Path(self.path))
        if owner is None or owner.get("token") != self.token:
            by = _words(owner) if owner else "nobody"
            raise StoreError(
                f"lock {self.path}", f"is no longer that of this run; it is held by {by}", "let the other run finish"
            )


STORE_LOCK = ".lock"
"""Lock of a store whose raw data are being written."""


@contextmanager
def own_store(store: Path, what: str) -> Iterator[Fence]:
    """Own a whole store, to write its raw data: nobody else writes them, and no run reads them.

    Raises
    ------
    LockedError
        Somebody writes them, or a run is at work in a group.
    """
    there = store.exists()
    try:
        with hold(store, STORE_LOCK, what=what) as fence:
            for lock in sorted(store.glob("*/.ledger/lock*")):
                refuse_held(lock, what)
            yield fence
    finally:
        if not there:
            with suppress(OSError):  # not empty: something was written
                store.rmdir()


@contextmanager
def own_group(store: Path, group: str, what: str, share: tuple[int, int] | None = None) -> Iterator[Fence]:
    """Own the results of a group, or one share (number, of how many) of them.

    Raises
    ------
    LockedError
        Another run is at work in the group, or a share of another job array, or the raw data are being written.
    """
    folder = Path(store, group, ".ledger")
    with hold(folder, "lock" if share is None else f"lock-{share[0]}-of-{share[1]}", what=what) as fence:
        refuse_held(Path(store, STORE_LOCK), what)
        for lock in sorted(folder.glob("lock*")):
            if str(lock) != fence.path and not (share and lock.name.endswith(f"-of-{share[1]}")):
                refuse_held(lock, what)
        yield fence


def shares_at_work(store: Path, group: str) -> list[str]:
    """Shares of a job array that are alive in a group: who runs them, and where."""
    owners = [held(path) for path in sorted(Path(store, group, ".ledger").glob("lock-*"))]
    return [_words(owner) for owner in owners if owner]


@contextmanager
def hold(
    folder: Path, name: str = "lock", *, what: str, wait: float = 0.0, unless: Callable[[], str] = str
) -> Iterator[Fence]:
    """Own a folder while the context lasts.

    Parameters
    ----------
    folder : Path
        Where the lock file lies; made if it is not there.
    name : str
        Of the lock file: locks of different names do not exclude each other.
    what : str
        What is done, for those who are refused.
    wait : float
        Seconds to wait for another owner to finish.
    unless : callable
        Asked while it waits: why to wait no longer, or nothing.

    Yields
    ------
    Fence
        For workers, so that none writes for a run that lost the lock.

    Raises
    ------
    LockedError
        Somebody who is alive holds it.
    StoppedError
        There was a reason to wait no longer.
    StoreError
        The folder cannot be written.
    """
    path = Path(folder, name)
    token = uuid.uuid4().hex
    deadline = time.monotonic() + wait
    try:
        with full_disk_said(what):
            Path(folder).mkdir(parents=True, exist_ok=True)
            while not _take(path, _owner(token, what)):
                owner = _read(path)
                if owner is None:  # given back, or being made, just now; or its folder was withdrawn
                    Path(folder).mkdir(parents=True, exist_ok=True)
                    continue
                if alive(path, owner):
                    if time.monotonic() >= deadline:
                        raise LockedError(what, f"{folder} is held by {_words(owner)}", "wait for it, or stop it")
                    if reason := unless():
                        raise StoppedError(
                            what, f"{reason} while it waited for {_words(owner)}", "run it again to go on"
                        )
                    time.sleep(0.05)
                else:
                    _remove(path, owner)
    except OSError as error:
        raise StoreError(what, f"{folder} cannot be written ({error.strerror})", "choose another place") from None
    over = threading.Event()
    beat = threading.Thread(target=_beat, args=(path, token, over), daemon=True, name="heartbeat")
    try:
        for left in path.parent.glob(f".{path.name}.*"):
            with suppress(OSError):
                left.unlink()  # of those who were killed while they asked
        beat.start()
        yield Fence(str(path), token)
    finally:
        over.set()
        if beat.is_alive():
            beat.join()
        if (owner := _read(path)) is not None and owner.get("token") == token:
            with suppress(OSError):
                path.unlink()


def held(path: Path) -> dict[str, Any] | None:
    """Who holds a lock and is alive, as the lock file says; None where nobody is."""
    owner = _read(path)
    return owner if owner is not None and alive(path, owner) else None


def refuse_held(path: Path, what: str) -> None:
    """Refuse to begin where somebody who is alive holds a lock.

    Raises
    ------
    LockedError
        It is held.
    """
    if (owner := held(path)) is not None:
        raise LockedError(what, f"{path.parent} is held by {_words(owner)}", "wait for it, or stop it")


def alive(path: Path, owner: dict[str, Any]) -> bool:
    """Whether the owner of a lock lives: its process on this host, else its heartbeat."""
    if (owner.get("host"), owner.get("namespace")) == _place():
        try:
            found = psutil.Process(int(owner["pid"]))
            return abs(_started(found) - float(owner["started"])) < 1 and found.status() != psutil.STATUS_ZOMBIE
        except (psutil.Error, KeyError, TypeError, ValueError):
            return False
    try:
        return abs(_now(path.parent) - path.stat().st_mtime) < STALE
    except FileNotFoundError:
        return False


def _owner(token: str, what: str) -> bytes:
    host, namespace = _place()
    me = psutil.Process()
    try:
        user = getuser()
    except (KeyError, OSError):  # a container without an entry for this user
        user = str(os.getuid())
    owner = {
        "token": token,
        "what": what,
        "host": host,
        "namespace": namespace,
        "pid": me.pid,
        "started": _started(me),
        "user": user,
        "since": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    return json.dumps(owner).encode()


def _started(found: psutil.Process) -> float:
    """When a process began, by a clock that nobody sets: seconds since the machine did, where that can be had."""
    try:
        return int(Path(f"/proc/{found.pid}/stat").read_text().rpartition(")")[2].split()[19]) / os.sysconf(
            "SC_CLK_TCK"
        )
    except (OSError, ValueError, IndexError):
        return found.create_time()


def _place() -> tuple[str, str]:
    """Host and, on Linux, the namespace in which process numbers mean something."""
    try:
        namespace = os.readlink("/proc/self/ns/pid")
    except OSError:
        namespace = ""
    return socket.gethostname(), namespace


def _take(path: Path, content: bytes) -> bool:
    """Make the lock file appear whole, unless there is one."""
    mine = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        with open(mine, "xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.link(mine, path)
    except (FileExistsError, FileNotFoundError):  # taken; or the owner has just swept what lay here
        return False
    finally:
        mine.unlink(missing_ok=True)
    return True


def _read(path: Path) -> dict[str, Any] | None:
    """The owner in a lock file; {} for one that makes no sense, None where there is none."""
    try:
        owner = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except ValueError:
        return {}
    return owner if isinstance(owner, dict) else {}


def _remove(path: Path, judged: dict[str, Any]) -> None:
    """Take away a stale lock: the very one that was judged, and not one that a third run has made since."""
    aside = path.with_name(f".stale-{path.name}.{uuid.uuid4().hex}")
    try:
        os.rename(path, aside)
    except FileNotFoundError:
        return
    try:
        if _read(aside) != judged:
            with suppress(FileExistsError, FileNotFoundError):
                os.link(aside, path)
    finally:
        aside.unlink(missing_ok=True)


def _beat(path: Path, token: str, over: threading.Event) -> None:
    while not over.wait(HEARTBEAT):
        with suppress(OSError):  # a network disk that does not answer for a moment
            owner = _read(path)
            if owner is not None and owner.get("token") != token:
                return
            if owner is not None:
                os.utime(path)


def _now(folder: Path) -> float:
    """The time by the clock that stamps the files of a folder: that of another host may differ from ours."""
    probe = folder / f".clock.{uuid.uuid4().hex}"
    try:
        probe.touch()
        return probe.stat().st_mtime
    finally:
        probe.unlink(missing_ok=True)


def _words(owner: dict[str, Any]) -> str:
    return (
        f"{owner.get('user', 'somebody')} on {owner.get('host', 'an unknown host')} (pid {owner.get('pid', 'unknown')},"
        f" since {owner.get('since', 'an unknown time')}: {owner.get('what', 'unknown work')})"
    )
