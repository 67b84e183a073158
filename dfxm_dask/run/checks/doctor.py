"""Checks of an installation, a machine and a folder before a long run: one finding for each, with a remedy.

The checks write a folder of probes and remove it.
"""

from __future__ import annotations

import os
import re
import resource
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from importlib import import_module, metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

State = Literal["ok", "warn", "fail"]

LEAST_OPEN_FILES = 1024
LEAST_FREE_BYTES = 10_000_000_000
LEAST_FREE_FILES = 100_000
LEAST_BYTES_OF_A_CORE = 2_000_000_000
LARGEST_SKEW = 2.0
SLOW_COMMIT = 0.1
"""Seconds of a write, fsync and rename above which a file system slows a run down, since a unit takes seconds (our
choice, like the limits above)."""
PASSING = {
    "tmpfs": "is in memory, and its files are lost when the machine restarts",
    "ramfs": "is in memory, and its files are lost when the machine restarts",
    "overlay": "belongs to a container, and its files are lost with the container",
}
VERSION = re.compile(r"\d+(?:\.\d+)*")


@dataclass(frozen=True)
class Finding:
    """Result of one check: name, state, observation, and remedy ("" for the state ok)."""

    name: str
    state: State
    found: str
    remedy: str = ""


Check = Callable[[], Iterator[Finding]]


def judged(name: str, good: bool, found: str, remedy: str, otherwise: State = "warn") -> Finding:
    """A finding with the state ok, or with another state and a remedy."""
    return Finding(name, "ok", found) if good else Finding(name, otherwise, found, remedy)


def doctor(folder: str | Path = ".", cluster: str | Path | None = None) -> list[Finding]:
    """Findings about this installation, this machine, a folder for stores, and a cluster.

    Parameters
    ----------
    folder : path
        For stores.
    cluster : name or path, optional
        See :func:`dfxm_dask.run.clusters.cluster.read_cluster`.

    Raises
    ------
    RecipeError
        Unknown cluster, or a wrong configuration.

    Examples
    --------
    >>> [finding for finding in doctor() if finding.state == "fail"]    # doctest: +SKIP
    """
    from dfxm_dask.run.clusters.cluster import read_cluster

    setup = read_cluster(cluster)
    placed: tuple[Check, ...] = (partial(place, Path(folder)), partial(jobs, setup))
    checks: tuple[Check, ...] = (packages, codecs, memory, open_files, gpu, *placed)
    return [finding for check in checks for finding in _asked(check)]


def _asked(check: Check) -> list[Finding]:
    """Findings of a check; an error inside the check is a finding too."""
    found: list[Finding] = []
    name = str(getattr(check, "func", check).__name__)
    try:
        found.extend(check())
    except Exception as error:  # what a broken library or file system raises can be anything
        found.append(Finding(name, "fail", f"{type(error).__name__}: {error}", "report this line"))
    return found


def packages() -> Iterator[Finding]:
    """Installed versions of all packages against the required ones."""
    try:
        required = metadata.requires("dfxm_dask") or []
    except metadata.PackageNotFoundError:
        yield Finding(
            "packages", "warn", "dfxm_dask is not installed", "install it with pip, so that versions are known"
        )
        return
    found, lacking = 0, []
    for line in required:
        wanted = re.fullmatch(r"([\w.-]+)(?:\[[\w,-]+\])?\s*(?:>=\s*([\d.]+))?", line.partition(";")[0].strip())
        if "extra ==" in line or wanted is None:
            continue
        name, least = wanted[1], wanted[2] or "0"
        try:
            version = metadata.version(name)
        except metadata.PackageNotFoundError:
            lacking.append((name, "is not installed", least))
            continue
        found += 1
        if _numbers(version) < _numbers(least):
            lacking.append((name, f"is {version}", least))
    for name, state, least in lacking:
        yield Finding(f"package {name}", "fail", state, f"pip install '{name}>={least}'")
    if not lacking:
        yield Finding("packages", "ok", f"{found}, all recent enough")


def _numbers(version: str) -> tuple[int, ...]:
    match = VERSION.match(version)
    return tuple(int(part) for part in match[0].split(".")) if match else ()


def codecs() -> Iterator[Finding]:
    """The codec of LIMA files returns the same frames; checksums are fast."""
    import h5py
    import hdf5plugin
    import numpy as np
    from google_crc32c import implementation

    counts = np.random.default_rng(0).integers(0, 999, (4, 64, 64)).astype(np.uint16)
    with h5py.File("probe.h5", "w", driver="core", backing_store=False) as file:
        file.create_dataset("data", data=counts, chunks=(1, 64, 64), **hdf5plugin.Bitshuffle())
        whole = bool((file["data"][()] == counts).all())
    remedy = "pip install --force-reinstall hdf5plugin h5py"
    yield judged("HDF5 bitshuffle-LZ4", whole, f"HDF5 {h5py.version.hdf5_version}", remedy, "fail")
    fast = implementation in ("c", "cffi")
    remedy = "pip install --force-reinstall google-crc32c (this build is slow)"
    yield judged("crc32c", fast, f"implemented in {implementation}", remedy)


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
    """Memory and cores of the machine, or of the control group if it has less."""
    import psutil

    total, limit = psutil.virtual_memory().total, _control_group("memory.max")
    usable = min(total, int(limit)) if limit.isdigit() else total
    cores = _cores()
    share = usable / max(1.0, cores)
    free = min(psutil.virtual_memory().available, usable)
    words = f"{usable / 1e9:.1f} GB ({free / 1e9:.1f} GB free), {share / 1e9:.1f} GB for each of {cores:g} cores"
    yield judged("memory", share >= LEAST_BYTES_OF_A_CORE, words, "use fewer --workers than cores")


def open_files() -> Iterator[Finding]:
    """Number of files that a process may open."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    many = soft == resource.RLIM_INFINITY or soft >= LEAST_OPEN_FILES
    yield judged("open files", many, f"limit {soft}, at most {hard}", f"ulimit -n {LEAST_OPEN_FILES}")


def gpu() -> Iterator[Finding]:
    """GPUs, and a torch that can use them."""
    try:
        command = ["nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader"]
        found = subprocess.run(command, capture_output=True, text=True, check=True, timeout=3.0).stdout
    except (OSError, subprocess.SubprocessError):
        yield Finding("GPU", "ok", "none: networks run on the CPU")
        return
    import torch

    remedy = f"install a torch with CUDA (installed: {torch.__version__})"
    yield judged("GPU", torch.cuda.is_available(), "; ".join(found.split("\n")).strip("; "), remedy)


def place(folder: Path, name: str = "folder") -> Iterator[Finding]:
    """Kind, free space and behaviour of the file system of a folder."""
    import psutil

    folder = folder.resolve()
    if not folder.is_dir():
        yield Finding(name, "fail", f"{folder} is not a folder", f"mkdir -p {folder}")
        return
    if "RAW_DATA" in (part.upper() for part in folder.parts):
        yield Finding(name, "fail", f"{folder} is under RAW_DATA, which is read-only", "write under PROCESSED_DATA")
        return
    mounts = [p for p in psutil.disk_partitions(all=True) if folder.is_relative_to(p.mountpoint)]
    kind = max(mounts, key=lambda p: len(p.mountpoint)).fstype if mounts else "unknown"
    remedy = f"choose another folder: this file system {PASSING.get(kind)}"
    yield judged(f"{name}: file system", kind not in PASSING, f"{folder} on {kind}", remedy)
    space = os.statvfs(folder)
    free, files = space.f_bavail * space.f_frsize, space.f_favail
    remedy = "free space, or choose another folder"
    yield judged(f"{name}: free space", free >= LEAST_FREE_BYTES, f"{free / 1e9:.1f} GB", remedy)
    counted = space.f_files > 0
    words = f"{files:,}" if counted else "not limited"
    remedy = "remove small files, or choose another folder"
    yield judged(f"{name}: free inodes", not counted or files >= LEAST_FREE_FILES, words, remedy)
    try:
        probes = Path(tempfile.mkdtemp(prefix=".dfxm_dask-probe-", dir=folder))
    except OSError as error:
        yield Finding(f"{name}: writing", "fail", f"is refused ({error.strerror})", "choose a folder of your own")
        return
    try:
        for probe in (commits, appends, links, clock):
            for found in _asked(partial(probe, probes)):
                yield replace(found, name=f"{name}: {found.name}")
    finally:
        shutil.rmtree(probes, ignore_errors=True)


def commits(folder: Path) -> Iterator[Finding]:
    """A file that is written, forced to disk and renamed over another is complete; and the time for these steps."""
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
    remedy = "expect slow commits, or choose another folder"
    yield judged("write, fsync, rename", taken <= SLOW_COMMIT, f"1 MB in {taken * 1e3:.1f} ms", remedy)


def appends(folder: Path) -> Iterator[Finding]:
    """Lines appended by two writers stay whole."""
    path = folder / "lines"
    writers = [os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600) for _ in range(2)]
    try:
        for number in range(20):
            os.write(writers[number % 2], b"%03d\n" % number)
    finally:
        for writer in writers:
            os.close(writer)
    whole = path.read_bytes() == b"".join(b"%03d\n" % number for number in range(20))
    words = "lines stay whole" if whole else "lines overwrite each other"
    yield judged("appending", whole, words, "choose another file system: ledgers would be damaged", "fail")


def links(folder: Path) -> Iterator[Finding]:
    """A second hard link of the same name is refused: runs exclude each other by such links."""
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
        yield Finding("hard links", "ok", "a second link of the same name is refused")
    else:
        yield Finding(
            "hard links",
            "fail",
            "a second link of the same name is accepted",
            "choose another file system: locks would not hold",
        )


def clock(folder: Path) -> Iterator[Finding]:
    """Difference between the clocks of the file system and of this machine; heartbeats of locks depend on it."""
    path = folder / "clock"
    before = time.time()
    path.write_bytes(b"")
    skew = path.stat().st_mtime - (before + time.time()) / 2
    yield judged("clock", abs(skew) <= LARGEST_SKEW, f"{skew:+.2f} s from this machine", "set the clocks by NTP")


def jobs(setup: Any) -> Iterator[Finding]:
    """Jobs of a batch system can be submitted from this machine, can reach it, and share a folder with it."""
    import psutil

    from dfxm_dask.run.clusters.jobs import SYSTEMS

    if setup.kind not in SYSTEMS:
        return
    if find_spec("dask_jobqueue") is None:
        yield Finding("package dask-jobqueue", "fail", "is not installed", "pip install 'dfxm_dask[jobs]'")
    else:
        system = SYSTEMS[setup.kind]
        made = getattr(import_module("dask_jobqueue"), system.cluster).job_cls
        commands = (made.submit_command, made.cancel_command, system.listing[0])
        lacking = [command for command in commands if shutil.which(command) is None]
        words = f"not found: {', '.join(lacking)}" if lacking else f"found: {', '.join(commands)}"
        remedy = "run on a machine that submits jobs, or load its module"
        yield judged(setup.kind.upper(), not lacking, words, remedy, "fail")
    addresses = {
        name: [a.address for a in each if a.family == socket.AF_INET] for name, each in psutil.net_if_addrs().items()
    }
    others = {name: found for name, found in addresses.items() if found and not found[0].startswith("127.")}
    words = ", ".join(f"{name} {found[0]}" for name, found in others.items()) or "only the loopback"
    if setup.interface and setup.interface not in addresses:
        yield Finding("network interface", "fail", f"{setup.interface} is not among {words}", "correct `interface`")
    else:
        remedy = "run where jobs can reach this machine, or without a cluster"
        yield judged("network interface", bool(others), words, remedy, "fail")
    if setup.shared_directory:
        yield from place(Path(setup.shared_directory), "shared folder")
