"""Trees of beamline files as nights find them: whole, broken in five ways, and still growing."""

from __future__ import annotations

import hashlib
import os
import shutil
import time
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from dfxm_dask.run.nights.night import Night
from tests.beamline_files import write_bliss

RECIPE = "name: short\nsteps:\n  - background: {method: scalar, value: 60}\n  - moments: {}\n"
CONFIG = """
raw: data/visitor/*/id03/*/RAW_DATA
report: reports
recipes: [short.yaml]
pixel_size: [0.5, 0.7]
workers: 0
quiet_seconds: 600
retries: {retries}
"""
OLD = 3 * 86400.0
MESH: dict[str, Any] = {
    "command": "fscan2d",
    "motors": ("chi", "diffry"),
    "shape": (3, 4),
    "starts": (0, 1),
    "steps": (0.1, 0.05),
    "frames_per_file": 12,
}
BROKEN = ("truncated", "missing", "aborted", "nan", "garbled")


def write_scan(folder: Path, name: str, *, ended: bool = True, **options: Any) -> Path:
    """A dataset as the beamline's policy lays it out: the master in a folder of its name, the frames with it."""
    master = folder / f"s_{name}" / f"s_{name}.h5"
    master.parent.mkdir(parents=True, exist_ok=True)
    given = {"shape": (9,), "size": (40, 50), "link": "vds", "frames_per_file": 4, "seed": len(name), **options}
    write_bliss(master, **given)
    if ended:
        with h5py.File(master, "a") as file:
            for entry in [e for e in file if e.endswith(".1")]:
                file[entry]["end_time"] = "2025-02-03T03:52:08.270686+01:00"
    return master


def age(folder: Path, seconds: float = OLD) -> None:
    """Make all files of a folder that old."""
    then = time.time() - seconds
    for path in folder.rglob("*"):
        if path.is_file() and not path.is_symlink():
            os.utime(path, (then, then))


def spoil(master: Path, how: str) -> None:
    """Break a scan."""
    frames = master.parent / "scan0001"
    if how == "truncated":
        master.write_bytes(master.read_bytes()[:-3000])
    elif how == "missing":
        (frames / "pco_ff_0001.h5").unlink()
    elif how == "nan":
        with h5py.File(master, "a") as file:
            file["1.1/instrument/mu/value"][3] = np.nan
    elif how == "garbled":
        with h5py.File(frames / "pco_ff_0000.h5") as file:
            place = file["entry_0000/measurement/data"].id.get_chunk_info(2)
        with open(frames / "pco_ff_0000.h5", "r+b") as raw:
            raw.seek(place.byte_offset)
            raw.write(b"\x55" * place.size)
    else:
        assert how == "aborted"


def make_tree(folder: Path, good: int = 14, *, retries: int = 0, broken: tuple[str, ...] = BROKEN) -> Path:
    """Scans in two sessions, some broken, and one that grows; gives the path of the configuration."""
    sessions = [folder / f"data/visitor/ma{k}/id03/2026112{k}/RAW_DATA/s" for k in (0, 1)]
    for k in range(good):
        write_scan(sessions[k % 2], f"{k:04d}", seed=k)
    for how in broken:
        more: dict[str, Any] = {"aborted": {"recorded": 7}, "garbled": {"compression": "gzip"}}.get(how, {})
        spoil(write_scan(sessions[0], how, **more), how)
    age(folder)
    (folder / "short.yaml").write_text(RECIPE)
    (folder / "nightly.yaml").write_text(CONFIG.replace("{retries}", str(retries)))
    return folder / "nightly.yaml"


def grow(folder: Path, *, whole: bool) -> Path:
    """A scan that is being written, or the same when it is finished."""
    session = folder / "data/visitor/ma1/id03/20261121/RAW_DATA/s"
    shutil.rmtree(session / "s_growing", ignore_errors=True)
    return write_scan(session, "growing", ended=whole, recorded=None if whole else 5)


def files_below(folder: Path) -> dict[str, tuple[str, int]]:
    """Digest and time of change of all files."""
    return {
        str(p.relative_to(folder)): (hashlib.sha256(p.read_bytes()).hexdigest(), p.stat().st_mtime_ns)
        for p in sorted(folder.rglob("*"))
        if p.is_file()
    }


def contents(folder: Path, *, ledgers: bool = False) -> dict[str, bytes]:
    """Bytes of all files of stores but the times that ledgers keep."""
    return {
        str(p.relative_to(folder)): p.read_bytes()
        for p in sorted(folder.rglob("*"))
        if p.is_file() and (ledgers or ".ledger" not in p.parts) and not p.name.endswith(".nightly.json")
    }


def by_name(night: Night) -> dict[str, Any]:
    """Outcomes by what stands behind ``s_`` in the name of the master."""
    return {Path(o.source).stem[2:]: o for o in night.outcomes}


def locked(folder: Path, lock: bool) -> None:
    """Take from, or give back to, everybody the right to write below a folder."""
    for path in [folder, *folder.rglob("*")]:
        path.chmod((0o555 if path.is_dir() else 0o444) if lock else (0o755 if path.is_dir() else 0o644))
