"""Figures of ``dfxm-dask follow``: a separate process writes layers at a fixed pace, the command follows them.

A layer is late by the time from its end on disk to the last of its blocks in the ledgers, by the events of the command.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import psutil

from bench.data import PIXEL_UM
from bench.live_writer import templates, write_scan
from bench.pausing import pauses
from bench.timing import Row, at_most
from dfxm_dask.store.integrity.ledger import layer_of

MAIN = "from dfxm_dask.cli import main; main()"
MOST_LATE = {"maps": 5.0, "weak_beam": 10.0}
ALONE = 4  # layers that the writer writes without a follower
SMALL = (96, 128)
ADDED = 4  # layers whose cost is measured beside a number of earlier ones
PATIENCE = 900.0


@dataclass(frozen=True)
class Live:
    """Settings: folder, size of a frame, layers, seconds a layer, numbers of earlier layers, pauses of the writer."""

    work: Path
    shape: tuple[int, int]
    layers: int
    every: float
    earlier: tuple[int, ...]
    pauses: int


def _fresh(path: Path) -> Path:
    shutil.rmtree(path, ignore_errors=True)
    return path


def _lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


@contextmanager
def writer(master: Path, live: Live, shape: tuple[int, int], layers: range, every: float) -> Iterator[Any]:
    """The process that writes layers; it is ended with the context."""
    folders = [str(f) for f in templates(live.work, shape)]
    arguments = (str(master), folders, shape, layers, every, str(master.with_suffix(".log")))
    process = get_context("spawn").Process(target=write_scan, args=arguments)
    process.start()
    try:
        yield process
    finally:
        if process.is_alive():
            process.kill()
        process.join()


@dataclass
class Usage:
    """Memory and processor time of a process and its children, sampled every second: (time, bytes, s)."""

    samples: list[tuple[float, int, float]]

    def at(self, when: float) -> tuple[float, int, float]:
        return min(self.samples, key=lambda s: abs(s[0] - when))


@contextmanager
def follower(master: Path, store: Path, recipe: str, layers: int, events: Path) -> Iterator[tuple[Any, Usage]]:
    """The command, with samples of its memory and processor time."""
    words = ["follow", master, store, "--recipe", recipe, "--layers", layers, "--events", events]
    command = [sys.executable, "-c", MAIN, *map(str, words), "--pixel-size", f"{PIXEL_UM},{PIXEL_UM}"]
    with open(events.with_suffix(".txt"), "w") as said:
        process = subprocess.Popen(command, stdout=said, stderr=subprocess.STDOUT)
    usage, over = Usage([]), threading.Event()

    def sample() -> None:
        main = psutil.Process(process.pid)
        while not over.wait(1.0):
            try:
                family = [main, *main.children(recursive=True)]
                spent = [p.cpu_times() for p in family]
                resident = sum(p.memory_info().rss for p in family)
            except psutil.Error:
                continue
            usage.samples.append((time.time(), resident, sum(t.user + t.system for t in spent)))

    watch = threading.Thread(target=sample, daemon=True)
    watch.start()
    try:
        yield process, usage
    finally:
        over.set()
        watch.join()
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
        process.wait()


def committed(events: Path) -> dict[int, float]:
    """Time at which the last block of every layer was in its ledger; a block that is computed again counts once."""
    first: dict[tuple[str, str], float] = {}
    for event in _lines(events):
        if event["event"] == "BlockDone":
            first.setdefault((event["step"], event["block"]), datetime.fromisoformat(event["time"]).timestamp())
    done: dict[int, float] = {}
    for (_, block), when in first.items():
        done[layer_of(block)] = max(when, done.get(layer_of(block), 0.0))
    return done


def _ended(process: Any, events: Path) -> None:
    """Wait for the command.

    Raises
    ------
    RuntimeError
        It failed.
    """
    if process.wait(PATIENCE):
        raise RuntimeError(f"follow ended with {process.returncode}: {events.with_suffix('.txt').read_text()[-800:]}")


def figure_late(live: Live, recipe: str) -> list[Row]:
    """Lateness of every layer, memory and processor time of the follower, and the pace of the writer with it."""
    at = _fresh(live.work / f"follow_{recipe}")
    alone = _frame_times(live, at / "alone" / "scan.h5")
    shutil.rmtree(at / "alone")
    master, store, events = at / "raw" / "scan.h5", at / "live.zarr", at / "events.jsonl"
    at.mkdir(exist_ok=True)
    begun, before = time.time(), os.getloadavg()
    with (
        follower(master, store, recipe, live.layers, events) as (process, usage),
        writer(master, live, live.shape, range(live.layers), live.every) as written,
    ):
        written.join()
        _ended(process, events)
    log, done = _lines(master.with_suffix(".log")), committed(events)
    late = [done[line["layer"]] - line["ended"] for line in log]
    together = [s for line in log for s in line["frames"]]
    first, last = usage.at(log[min(2, len(log) - 1)]["ended"]), usage.at(log[-1]["ended"])
    span = max(1, len(log) - 1 - min(2, len(log) - 1))
    tail = max(1, len(late) // 10)
    ends = f"first {tail}: {_mean(late[:tail]):.1f} s, last {tail}: {_mean(late[-tail:]):.1f} s on average"
    words = f"{len(late)} layers, one every {live.every:g} s; median {statistics.median(late):.1f} s; {ends}"
    load = f"load {before[0]:.1f} before, {os.getloadavg()[0]:.1f} at the end, {time.time() - begun:.0f} s"
    grown = (last[1] - first[1]) / 1e6
    most = max(s[1] for s in usage.samples) / 1e6
    spent = (last[2] - first[2]) / span
    return [
        at_most(f"end of a layer on disk → results of {recipe}, latest", max(late), MOST_LATE[recipe], "s", words),
        at_most(
            f"growth of memory, {recipe}", grown, 50, "MB", f"{first[1] / 1e6:.0f} MB at layer 3, most {most:.0f} MB"
        ),
        Row(f"processor time a layer, {recipe}", f"{spent:.1f} s", "", load),
        at_most(
            f"time of the writer a frame, {recipe}",
            100 * (statistics.median(together) / statistics.median(alone) - 1),
            2,
            "% more",
            f"median {_ms(statistics.median(alone))} → {_ms(statistics.median(together))},"
            f" mean {_ms(_mean(alone))} → {_ms(_mean(together))}",
        ),
    ]


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)


def _ms(seconds: float) -> str:
    return f"{1000 * seconds:.2f} ms"


def _frame_times(live: Live, master: Path) -> list[float]:
    """Times of the writes of frames without a follower."""
    with writer(master, live, live.shape, range(ALONE), min(live.every, 20.0)) as process:
        process.join()
    return [s for line in _lines(master.with_suffix(".log")) for s in line["frames"]]


def figure_maps(live: Live) -> list[Row]:
    return figure_late(live, "maps")


def figure_weak_beam(live: Live) -> list[Row]:
    return figure_late(live, "weak_beam")


def figure_growth(live: Live) -> list[Row]:
    """Lateness of a small layer after few and after many others."""
    late: dict[int, float] = {}
    for earlier in live.earlier:
        at = _fresh(live.work / f"growth_{earlier}")
        master, events = at / "raw" / "scan.h5", at / "events.jsonl"
        layers = earlier + ADDED
        with writer(master, live, SMALL, range(earlier), 0.0) as process:
            process.join()
        with follower(master, at / "live.zarr", "maps", layers, events) as (process, _):
            while len(committed(events)) < earlier:
                if process.poll() is not None:
                    _ended(process, events)
                time.sleep(0.5)
            with writer(master, live, SMALL, range(earlier, layers), 12.0) as written:
                written.join()
            _ended(process, events)
        done = committed(events)
        late[earlier] = statistics.median(
            done[line["layer"]] - line["ended"] for line in _lines(master.with_suffix(".log"))[earlier:]
        )
        shutil.rmtree(at)
    words = ", ".join(f"{n} layers: {late[n]:.2f} s" for n in late)
    more = late[live.earlier[-1]] - late[live.earlier[0]]
    return [at_most(f"later after {live.earlier[-1]} layers than after {live.earlier[0]}", more, 2, "s", words)]


def figure_pauses(live: Live) -> list[Row]:
    """Layers that were read before all their frames were on disk, while the writer is stopped at random moments."""
    made = pauses(_fresh(live.work / "pauses"), live.pauses)
    words = f"{live.pauses} pauses, {made.within} of them within a layer; {made.taken} layers taken and ingested"
    return [at_most("layers read before their frames were whole", made.wrong, 0, "layers", words)]


FOLLOW = {
    "maps": figure_maps,
    "weak_beam": figure_weak_beam,
    "growth": figure_growth,
    "pauses": figure_pauses,
}
