"""One run at a time: a lock is a small file that records its owner, and whose modification time is a heartbeat.

The file appears whole or not at all (a hard link to a complete file), so that of two runs that start together one is
refused. A lock is stale, and another run may replace it, when the process of its owner on this host has ended, or when
an owner on another host has given no heartbeat for :data:`STALE` seconds by the clock of the file system. A slow run
whose lock was replaced detects this before it renames a file or commits a block.

flufl.lock 10 also links files, but uses the clock of each host, has no heartbeat of its own, waits for the lock of a
killed process to expire, and supports neither a record of the owner, nor fences, nor shares: it would save 60 lines
here and add 640.
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
"""Seconds between heartbeats (our choice: a network file system shows them to other hosts within some seconds)."""
STALE = 120.0
"""Seconds without a heartbeat after which an owner on another host counts as dead: twelve heartbeats."""


@dataclass(frozen=True)
class Fence:
    """Lock file and token of the owner, with which a worker checks that its run still owns the folder."""

    path: str
    token: str

    def check(self) -> None:
        """Stop if another run has taken over.

        Raises
        ------
        StoreError
            The lock is missing, or belongs to another run.
        """
        owner = _read(Path(self.path))
        if owner is None:  # another process may just be inspecting it
            time.sleep(0.05)
            owner = _read(Path(self.path))
        if owner is None or owner.get("token") != self.token:
            by = _words(owner) if owner else "nobody"
            raise StoreError(
                f"lock {self.path}", f"no longer belongs to this run but to {by}", "let the other run finish"
            )


STORE_LOCK = ".lock"
"""Lock of a store during the writing of its raw data."""


@contextmanager
def own_store(store: Path, what: str) -> Iterator[Fence]:
    """Own a whole store to write its raw data: no other process writes them, and no run reads them.

    Raises
    ------
    LockedError
        Another process writes the raw data, or a run is active in a group.
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
        Another run or a share of another job array is active in the group, or the raw data are being written.
    """
    folder = Path(store, group, ".ledger")
    with hold(folder, "lock" if share is None else f"lock-{share[0]}-of-{share[1]}", what=what) as fence:
        refuse_held(Path(store, STORE_LOCK), what)
        for lock in sorted(folder.glob("lock*")):
            if str(lock) != fence.path and not (share and lock.name.endswith(f"-of-{share[1]}")):
                refuse_held(lock, what)
        yield fence


def shares_at_work(store: Path, group: str) -> list[str]:
    """Active shares of a job array in a group: user and host of each."""
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
        Folder of the lock file; created if absent.
    name : str
        Name of the lock file; locks with different names do not exclude each other.
    what : str
        Description of the work, for the error message of other processes.
    wait : float
        Seconds to wait for another owner to finish.
    unless : callable
        Called during the wait; a non-empty reason ends the wait.

    Yields
    ------
    Fence
        For workers, so that none writes for a run that has lost its lock.

    Raises
    ------
    LockedError
        An active process holds the lock.
    StoppedError
        ``unless`` returned a reason.
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
                if owner is None:  # just released or just being written; or its folder was removed
                    Path(folder).mkdir(parents=True, exist_ok=True)
                    continue
                if alive(path, owner):
                    if time.monotonic() >= deadline:
                        raise LockedError(
                            what, f"{folder} is held by {_words(owner)}", "wait until that process ends, or stop it"
                        )
                    if reason := unless():
                        raise StoppedError(
                            what, f"{reason} during the wait for {_words(owner)}", "run the command again to resume"
                        )
                    time.sleep(0.05)
                else:
                    _remove(path, owner)
    except OSError as error:
        raise StoreError(what, f"{folder} cannot be written ({error.strerror})", "choose another folder") from None
    over = threading.Event()
    beat = threading.Thread(target=_beat, args=(path, token, over), daemon=True, name="heartbeat")
    try:
        for left in path.parent.glob(f".{path.name}.*"):
            with suppress(OSError):
                left.unlink()  # of processes that were killed while they waited
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
    """The active owner of a lock, or None."""
    owner = _read(path)
    return owner if owner is not None and alive(path, owner) else None


def refuse_held(path: Path, what: str) -> None:
    """Raise if an active process holds a lock.

    Raises
    ------
    LockedError
        The lock is held.
    """
    if (owner := held(path)) is not None:
        raise LockedError(what, f"{path.parent} is held by {_words(owner)}", "wait until that process ends, or stop it")


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
    """Start of a process by a clock that cannot be set: seconds since boot, where available."""
    try:
        return int(Path(f"/proc/{found.pid}/stat").read_text().rpartition(")")[2].split()[19]) / os.sysconf(
            "SC_CLK_TCK"
        )
    except (OSError, ValueError, IndexError):
        return found.create_time()


def _place() -> tuple[str, str]:
    """Host and, on Linux, the namespace of process numbers."""
    try:
        namespace = os.readlink("/proc/self/ns/pid")
    except OSError:
        namespace = ""
    return socket.gethostname(), namespace


def _take(path: Path, content: bytes) -> bool:
    """Create the lock file, whole, unless one exists."""
    mine = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        with open(mine, "xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.link(mine, path)
    except (FileExistsError, FileNotFoundError):  # taken, or just removed by the owner
        return False
    finally:
        mine.unlink(missing_ok=True)
    return True


def _read(path: Path) -> dict[str, Any] | None:
    """The owner in a lock file; {} for an invalid file, None without a file."""
    try:
        owner = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except ValueError:
        return {}
    return owner if isinstance(owner, dict) else {}


def _remove(path: Path, judged: dict[str, Any]) -> None:
    """Remove a stale lock: exactly the lock that was judged stale, not a newer lock of a third run."""
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
        with suppress(OSError):  # a network disk may be unavailable for a moment
            owner = _read(path)
            if owner is not None and owner.get("token") != token:
                return
            if owner is not None:
                os.utime(path)


def _now(folder: Path) -> float:
    """Time by the clock that stamps the files of a folder, which may differ from the clock of this host."""
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
