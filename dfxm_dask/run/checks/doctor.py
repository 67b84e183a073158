"""What a machine, a folder and a cluster are like, before a night is spent on them: one finding for each question.

Nothing is left behind: the only thing written is a folder of probes, which is removed again.
"""

from __future__ import annotations

import locale
import os
import re
import resource
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

State = Literal["ok", "warn", "fail"]

TESTED = {
    "python": "3.11",
    "dask": "2026.8",
    "distributed": "2026.8",
    "zarr": "3.1",
    "xarray": "2026.9",
    "numpy": "2.4",
    "numba": "0.68",
    "h5py": "3.16",
    "torch": "2.13",
}
"""Versions with which the tests last passed; others that fit the requirements should do."""
LEAST_OPEN_FILES = 1024
LEAST_FREE_BYTES = 10_000_000_000
LEAST_FREE_FILES = 100_000
LEAST_BYTES_OF_A_CORE = 2_000_000_000
LARGEST_SKEW = 2.0
SLOW_COMMIT = 0.1
"""Seconds of a write, fsync and rename above which a file system slows a run down: a unit takes seconds (our choice,
like the limits above)."""
ANSWER_SECONDS = 3.0
PASSING = {
    "tmpfs": "lives in memory, and is lost with the machine",
    "ramfs": "lives in memory, and is lost with it",
    "overlay": "is the layer of a container, and is lost with it",
}
SHARED = ("nfs", "nfs4", "gpfs", "lustre", "beegfs", "cifs", "smb3", "ceph", "wekafs")
VERSION = re.compile(r"\d+(?:\.\d+)*")


@dataclass(frozen=True)
class Finding:
    """The answer to one question: its state, what was found, and what to do about it ("" where it is ok)."""

    name: str
    state: State
    found: str
    remedy: str = ""


Check = Callable[[], Iterator[Finding]]


def doctor(folder: str | Path = ".", cluster: str | Path | None = None) -> list[Finding]:
    """Findings about this installation, this machine, a folder to write to, and a cluster.

    Parameters
    ----------
    folder : path
        Where stores are to lie.
    cluster : name or path, optional
        Of a cluster, as of :func:`dfxm_dask.run.clusters.cluster.read_cluster`.

    Raises
    ------
    RecipeError
        The cluster is not one.

    Examples
    --------
    >>> [finding for finding in doctor() if finding.state == "fail"]    # doctest: +SKIP
    """
    from dfxm_dask.run.clusters.cluster import read_cluster

    setup = None if cluster is None else read_cluster(cluster)
    findings: list[Finding] = []
    own: tuple[Check, ...] = (packages, codecs, threads, memory, open_files, terminal, loopback, gpu)
    placed: tuple[Check, ...] = (partial(place, Path(folder)), partial(network, setup), partial(slurm, setup))
    for check in (*own, *placed):
        findings += _asked(check)
    return findings


def _asked(check: Check) -> list[Finding]:
    """Findings of a check; one that breaks down is a finding, too."""
    found: list[Finding] = []
    name = str(getattr(check, "func", check).__name__)
    try:
        found.extend(check())
    except Exception as error:  # what a broken library or file system raises can be anything
        found.append(Finding(name, "fail", f"{type(error).__name__}: {error}", "report this line"))
    return found


def packages() -> Iterator[Finding]:
    """Python and every package against the least versions of the project, and the versions that are tested."""
    python = ".".join(map(str, sys.version_info[:3]))
    found = {"python": python}
    try:
        required = metadata.requires("dfxm_dask") or []
    except metadata.PackageNotFoundError:
        yield Finding("packages", "warn", "dfxm_dask is not installed", "pip install it, so that versions are known")
        return
    lacking = []
    for line in required:
        wanted = re.fullmatch(r"([\w.-]+)(?:\[[\w,-]+\])?\s*(?:>=\s*([\d.]+))?", line.partition(";")[0].strip())
        if "extra ==" in line or wanted is None:
            continue
        name, least = wanted[1], wanted[2] or "0"
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            lacking.append((name, "is not installed", least))
            continue
        if _numbers(found[name]) < _numbers(least):
            lacking.append((name, f"is {found[name]}", least))
    for name, state, least in lacking:
        yield Finding(f"package {name}", "fail", state, f"pip install '{name}>={least}'")
    newer = [f"{n} {found[n]}" for n, v in TESTED.items() if n in found and _numbers(found[n])[:2] > _numbers(v)]
    words = f"python {python}, torch {found.get('torch', 'absent')}, {len(found) - 1} packages"
    if newer:
        yield Finding("packages", "warn", f"{words}; newer than tested: {', '.join(newer)}", "run the tests once")
    elif not lacking:
        yield Finding("packages", "ok", words)


def _numbers(version: str) -> tuple[int, ...]:
    match = VERSION.match(version)
    return tuple(int(part) for part in match[0].split(".")) if match else ()


def codecs() -> Iterator[Finding]:
    """Whether frames survive the codecs of LIMA files and of our stores."""
    import h5py
    import hdf5plugin
    import numpy as np
    from google_crc32c import implementation
    from numcodecs import blosc

    counts = np.random.default_rng(0).integers(0, 999, (4, 64, 64)).astype(np.uint16)
    with h5py.File("probe.h5", "w", driver="core", backing_store=False) as file:
        file.create_dataset("data", data=counts, chunks=(1, 64, 64), **hdf5plugin.Bitshuffle())
        whole = bool((file["data"][()] == counts).all())
    remedy = "pip install --force-reinstall hdf5plugin h5py"
    yield Finding(
        "HDF5 bitshuffle-LZ4", "ok" if whole else "fail", f"HDF5 {h5py.version.hdf5_version}", "" if whole else remedy
    )
    packed = blosc.compress(counts, b"lz4", 5, blosc.BITSHUFFLE, 0, 2)
    whole = blosc.decompress(packed) == counts.tobytes()
    yield Finding(
        "blosc-LZ4 with bitshuffle",
        "ok" if whole else "fail",
        f"{counts.nbytes / len(packed):.2f} times",
        "" if whole else "pip install --force-reinstall numcodecs",
    )
    fast = implementation in ("c", "cffi")
    yield Finding(
        "crc32c",
        "ok" if fast else "warn",
        f"implemented in {implementation}",
        "" if fast else "pip install --force-reinstall google-crc32c: this one is slow",
    )


def threads() -> Iterator[Finding]:
    """Cores that this process may use, and variables that say how many threads libraries take."""
    names = [f"{library}_NUM_THREADS" for library in ("OMP", "MKL", "OPENBLAS", "NUMBA", "RAYON")]
    given = {name: os.environ[name] for name in names if name in os.environ}
    words = ", ".join(f"{name}={value}" for name, value in given.items()) or "no thread variable is set"
    odd = [name for name, value in given.items() if not value.isdigit() or int(value) < 1]
    cores = _cores()
    yield Finding(
        "cores and threads",
        "warn" if odd else "ok",
        f"{cores:g} of {os.cpu_count()} cores; {words}",
        f"unset {' '.join(odd)}" if odd else "",
    )


def _cores() -> float:
    """Cores by affinity and by the limit of the control group."""
    cores = float(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
    quota, _, period = _control_group("cpu.max").partition(" ")
    return min(cores, int(quota) / int(period)) if quota.isdigit() and period.isdigit() else cores


def _control_group(name: str) -> str:
    try:
        return Path("/sys/fs/cgroup", name).read_text(encoding="ascii").strip()
    except OSError:
        return ""


def memory() -> Iterator[Finding]:
    """Memory of the machine, or of the control group where that is less."""
    import psutil

    total, limit = psutil.virtual_memory().total, _control_group("memory.max")
    usable = min(total, int(limit)) if limit.isdigit() else total
    share = usable / max(1.0, _cores())
    small = share < LEAST_BYTES_OF_A_CORE
    free = min(psutil.virtual_memory().available, usable)
    yield Finding(
        "memory",
        "warn" if small else "ok",
        f"{usable / 1e9:.1f} GB ({free / 1e9:.1f} GB free), {share / 1e9:.1f} GB for each core",
        "use fewer --workers than cores" if small else "",
    )


def open_files() -> Iterator[Finding]:
    """How many files a process may have open."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    few = soft != resource.RLIM_INFINITY and soft < LEAST_OPEN_FILES
    yield Finding(
        "open files",
        "warn" if few else "ok",
        f"{soft} of at most {hard}",
        f"ulimit -n {LEAST_OPEN_FILES}" if few else "",
    )


def terminal() -> Iterator[Finding]:
    """Whether Greek letters and the degree sign can be shown, and files named in UTF-8."""
    encoding = locale.getpreferredencoding(False)
    plain = encoding.upper().replace("-", "") != "UTF8"
    kind = "a terminal" if sys.stderr.isatty() else "no terminal: plain lines"
    yield Finding("text", "warn" if plain else "ok", f"{encoding}, {kind}", "export LC_ALL=C.UTF-8" if plain else "")


def loopback() -> Iterator[Finding]:
    """Whether processes of this machine reach each other."""
    with socket.socket() as server, socket.socket() as client:
        client.settimeout(ANSWER_SECONDS)
        try:
            server.bind(("127.0.0.1", 0))
            server.listen(1)
            client.connect(server.getsockname())
        except OSError as error:
            yield Finding(
                "loopback",
                "fail",
                f"port of 127.0.0.1 does not answer ({error})",
                "allow local connections: workers need them",
            )
            return
        yield Finding("loopback", "ok", f"port {server.getsockname()[1]} of 127.0.0.1 answers")


def gpu() -> Iterator[Finding]:
    """GPUs, and whether torch sees them."""
    found = _answer("nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader")
    if found is None or found.returncode:
        yield Finding("GPU", "ok", "none: networks run on processors")
        return
    import torch

    seen = torch.cuda.is_available()
    yield Finding(
        "GPU",
        "ok" if seen else "warn",
        "; ".join(found.stdout.split("\n")).strip("; "),
        "" if seen else f"install a torch with CUDA (this is {torch.__version__})",
    )


def _answer(*command: str) -> subprocess.CompletedProcess[str] | None:
    """What a command says, or None where it is not there or does not answer in time."""
    if shutil.which(command[0]) is None:
        return None
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=ANSWER_SECONDS)
    except (OSError, subprocess.TimeoutExpired):
        return None


def place(folder: Path, name: str = "folder") -> Iterator[Finding]:
    """Kind, space and behaviour of the file system under a folder."""
    import psutil

    folder = folder.resolve()
    if not folder.is_dir():
        yield Finding(name, "fail", f"{folder} is no folder", f"mkdir -p {folder}")
        return
    if "RAW_DATA" in (part.upper() for part in folder.parts):
        yield Finding(name, "fail", f"{folder} lies under RAW_DATA, which is read-only", "write under PROCESSED_DATA")
        return
    mounts = [p for p in psutil.disk_partitions(all=True) if folder.is_relative_to(p.mountpoint)]
    kind = max(mounts, key=lambda p: len(p.mountpoint)).fstype if mounts else "unknown"
    note = ", shared between machines" if kind in SHARED else ""
    yield Finding(
        f"{name}: file system",
        "warn" if kind in PASSING else "ok",
        f"{folder} on {kind}{note}",
        f"choose another folder: this one {PASSING[kind]}" if kind in PASSING else "",
    )
    space = os.statvfs(folder)
    free, files = space.f_bavail * space.f_frsize, space.f_favail
    scarce = free < LEAST_FREE_BYTES
    yield Finding(
        f"{name}: free space",
        "warn" if scarce else "ok",
        f"{free / 1e9:.1f} GB",
        "free space, or choose another folder" if scarce else "",
    )
    counted = space.f_files > 0
    few = counted and files < LEAST_FREE_FILES
    yield Finding(
        f"{name}: free inodes",
        "warn" if few else "ok",
        f"{files:,}" if counted else "not limited",
        "remove small files, or choose another folder" if few else "",
    )
    try:
        probes = Path(tempfile.mkdtemp(prefix=".dfxm_dask-probe-", dir=folder))
    except OSError as error:
        yield Finding(f"{name}: writing", "fail", f"is refused ({error.strerror})", "choose a folder of your own")
        return
    try:
        for probe in (commits, appends, links, locks, clock):
            for found in _asked(partial(probe, probes)):
                yield replace(found, name=f"{name}: {found.name}")
    finally:
        shutil.rmtree(probes, ignore_errors=True)


def commits(folder: Path) -> Iterator[Finding]:
    """Whether a file that is written, forced to disk and renamed over another is there whole; and what that takes."""
    final, beside, data = folder / "commit", folder / "commit.partial", os.urandom(1 << 20)
    final.write_bytes(b"old")
    begun = time.perf_counter()
    with beside.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.replace(beside, final)
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    taken = time.perf_counter() - begun
    if final.read_bytes() != data or beside.exists():
        yield Finding("rename", "fail", "did not replace the file", "choose another file system")
        return
    slow = taken > SLOW_COMMIT
    yield Finding(
        "write, fsync, rename",
        "warn" if slow else "ok",
        f"1 MB in {taken * 1e3:.1f} ms",
        "expect slow commits, or choose another folder" if slow else "",
    )


def appends(folder: Path) -> Iterator[Finding]:
    """Whether lines that two writers append stay whole."""
    path = folder / "lines"
    writers = [os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600) for _ in range(2)]
    try:
        for number in range(20):
            os.write(writers[number % 2], b"%03d\n" % number)
    finally:
        for writer in writers:
            os.close(writer)
    whole = path.read_bytes() == b"".join(b"%03d\n" % number for number in range(20))
    yield Finding(
        "appending",
        "ok" if whole else "fail",
        "lines stay whole" if whole else "lines overwrite each other",
        "" if whole else "choose another file system: ledgers would be damaged",
    )


def links(folder: Path) -> Iterator[Finding]:
    """Whether a hard link is made once only, by which two runs keep out of each other's way."""
    first, second = folder / "first", folder / "second"
    first.write_bytes(b"")
    try:
        os.link(first, second)
    except OSError as error:
        yield Finding("hard links", "fail", f"are refused ({error.strerror})", "choose another file system for stores")
        return
    try:
        os.link(first, second)
    except FileExistsError:
        yield Finding("hard links", "ok", "made once only")
    else:
        yield Finding("hard links", "fail", "are made twice", "choose another file system: locks would not hold")


def locks(folder: Path) -> Iterator[Finding]:
    """Whether HDF5 can lock; this package reads without locks, but other programs do not."""
    import h5py

    try:
        with h5py.File(folder / "lock.h5", "w", locking=True) as file:
            file["a"] = 1
    except OSError as error:
        yield Finding(
            "HDF5 locking",
            "warn",
            " ".join(str(error).split())[:120],
            "export HDF5_USE_FILE_LOCKING=FALSE for other programs",
        )
    else:
        yield Finding("HDF5 locking", "ok", "works")


def clock(folder: Path) -> Iterator[Finding]:
    """How far the clock of the file system is from that of this machine: heartbeats of locks are read by it."""
    path = folder / "clock"
    before = time.time()
    path.write_bytes(b"")
    skew = path.stat().st_mtime - (before + time.time()) / 2
    off = abs(skew) > LARGEST_SKEW
    yield Finding(
        "clock", "warn" if off else "ok", f"{skew:+.2f} s from this machine", "set the clocks by NTP" if off else ""
    )


def network(setup: Any = None) -> Iterator[Finding]:
    """Interfaces by which workers on other machines could reach this one."""
    import psutil

    addresses = {
        name: [a.address for a in each if a.family == socket.AF_INET] for name, each in psutil.net_if_addrs().items()
    }
    others = {name: found for name, found in addresses.items() if found and not found[0].startswith("127.")}
    words = ", ".join(f"{name} {found[0]}" for name, found in others.items()) or "none but loopback"
    wanted = getattr(setup, "interface", None)
    if wanted and wanted not in addresses:
        yield Finding("network interface", "fail", f"{wanted} is not among {words}", "correct `interface`")
    elif getattr(setup, "kind", "") == "slurm" and not others:
        yield Finding("network interface", "fail", words, "run where jobs can reach this machine, or without scheduler")
    else:
        yield Finding("network interfaces", "ok", words)


def slurm(setup: Any = None) -> Iterator[Finding]:
    """Whether SLURM answers, knows the queue of a cluster, and shares a folder with this machine."""
    wanted = getattr(setup, "kind", "") == "slurm"
    lacking = [command for command in ("sbatch", "sinfo", "squeue", "scancel") if shutil.which(command) is None]
    if lacking:
        yield Finding(
            "SLURM",
            "fail" if wanted else "ok",
            f"no {', '.join(lacking)} here",
            "run on a machine that submits jobs, or load the module of SLURM" if wanted else "",
        )
    else:
        answer = _answer("sinfo", "--noheader", "--format=%R")
        queues = sorted(set(answer.stdout.split())) if answer and not answer.returncode else None
        queue = getattr(setup, "queue", None)
        if queues is None:
            reason = (answer.stderr.strip() or "no reason given")[:120] if answer else "no answer in time"
            yield Finding("SLURM", "fail" if wanted else "warn", f"sinfo: {reason}", "ask whether the controller runs")
        elif queue and queue not in queues:
            yield Finding("SLURM", "fail", f"queue {queue} is not among {', '.join(queues)}", "correct `queue`")
        else:
            yield Finding("SLURM", "ok", f"queues {', '.join(queues) or 'none'}")
    if not wanted:
        return
    for package, needed in (("dask-jobqueue", True), ("cryptography", getattr(setup, "tls", True))):
        try:
            metadata.version(package)
        except metadata.PackageNotFoundError:
            if needed:
                yield Finding(f"package {package}", "fail", "is not installed", "pip install 'dfxm_dask[slurm]'")
    shared = getattr(setup, "shared_directory", None)
    if shared:
        yield from place(Path(shared), "shared folder")
