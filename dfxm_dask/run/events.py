"""What a run says while it runs: frozen events, and the subscribers that turn them into lines, files and bars.

A publisher is a tuple of callables that take one event. Kernels and writers know no publisher; the driver of a run
calls :func:`send`.
"""

from __future__ import annotations

import json
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from rich.console import Console


@dataclass(frozen=True)
class RunStarted:
    """A recipe begins; ``blocks`` counts those of all steps, also the ones that are done already. ``where`` names the
    processes that compute."""

    recipe: str
    store: str
    steps: tuple[str, ...]
    blocks: int
    dashboard: str | None = None
    where: str = ""


@dataclass(frozen=True)
class StepLeftOut:
    """An optional step does not suit this scan."""

    step: str
    reason: str


@dataclass(frozen=True)
class Remark:
    """Something about the scan or its results that a user must know: see :mod:`dfxm_dask.run.scan_remarks`."""

    text: str


@dataclass(frozen=True)
class BlockDone:
    """A block is computed and on disk; ``done`` of ``blocks`` counts over the whole run, skipped ones included."""

    step: str
    block: str
    seconds: float
    bytes_read: int
    bytes_written: int
    done: int
    blocks: int


@dataclass(frozen=True)
class BlockSkipped:
    """A block is on disk already, in the size that was written, from an earlier run with the same parameters."""

    step: str
    block: str
    done: int
    blocks: int


@dataclass(frozen=True)
class BlockQuarantined:
    """A block is left out of this run, for a reason that lies in it; the rest goes on."""

    step: str
    block: str
    reason: str


@dataclass(frozen=True)
class StepDone:
    """All blocks of a step are on disk."""

    step: str
    blocks: int
    seconds: float


@dataclass(frozen=True)
class RunDone:
    """A recipe ends. ``left_out`` has (step, reason) pairs; ``peak_rss_bytes`` is that of the largest process;
    ``why`` says what is not complete, ``left`` what a share of a job array leaves to the run after it."""

    seconds: float
    blocks_done: int
    blocks_skipped: int
    complete: bool
    left_out: tuple[tuple[str, str], ...] = ()
    peak_rss_bytes: int = 0
    why: str = ""
    left: str = ""


@dataclass(frozen=True)
class IngestStarted:
    """A raw file begins to be written as a store; ``bytes`` is the uncompressed size."""

    source: str
    store: str
    layers: int
    frames: int
    bytes: int


@dataclass(frozen=True)
class LayerDone:
    """A layer is in the store."""

    layer: str
    seconds: float
    bytes: int
    done: int
    layers: int


@dataclass(frozen=True)
class IngestDone:
    """The store is complete; ``verb`` says how it was made."""

    seconds: float
    bytes: int
    verb: str = "ingested"


Event = (
    RunStarted
    | StepLeftOut
    | Remark
    | BlockDone
    | BlockSkipped
    | BlockQuarantined
    | StepDone
    | RunDone
    | IngestStarted
    | LayerDone
    | IngestDone
)
Subscriber = Callable[[Event], None]


def send(publish: tuple[Subscriber, ...], event: Event) -> None:
    """Give an event to every subscriber; one that cannot write (full disk, closed terminal) does not end the run."""
    for subscriber in publish:
        try:
            subscriber(event)
        except OSError as error:
            warnings.warn(f"an event was not recorded: {error}", RuntimeWarning, stacklevel=2)


def megabytes(count: float) -> str:
    """A number of bytes as people say it: ``343 MB``, ``103 GB``."""
    for unit, size in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= size:
            return f"{count / size:.3g} {unit}" if count < 999.5 * size else f"{count / size:.0f} {unit}"
    return f"{count:.0f} B"


def duration(seconds: float) -> str:
    """A time as people say it: ``0.34 s``, ``2 min 05 s``, ``3 h 20 min``."""
    if seconds < 60:
        return f"{seconds:.2g} s" if seconds < 9.5 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def many(count: int, word: str) -> str:
    """``1 block``, ``2 blocks``."""
    return f"{count} {word}" if count == 1 else f"{count} {word}s"


def line(event: Event) -> str:
    """An event as one plain line."""
    match event:
        case RunStarted():
            size = many(event.blocks, "block") + (f", {event.where}" if event.where else "")
            watch = f"; dashboard {event.dashboard}" if event.dashboard else ""
            return f"{event.recipe} on {event.store}: {', '.join(event.steps)} in {size}{watch}"
        case StepLeftOut():
            return f"{event.step}: left out, {event.reason}"
        case Remark():
            return f"NOTE: {event.text}"
        case BlockDone():
            moved = f"{megabytes(event.bytes_read)} read, {megabytes(event.bytes_written)} written"
            return f"{event.step} {event.block}: {duration(event.seconds)}, {moved} ({event.done}/{event.blocks})"
        case BlockSkipped():
            return f"{event.step} {event.block}: done by an earlier run ({event.done}/{event.blocks})"
        case BlockQuarantined():
            return f"{event.step} {event.block}: LEFT OUT, {event.reason}"
        case StepDone():
            return f"{event.step}: {many(event.blocks, 'block')} in {duration(event.seconds)}"
        case RunDone():
            why = f"{event.why}; " if event.why else ""
            state = "complete" if event.complete else event.left or f"INCOMPLETE: {why}run it again to go on"
            skipped = f", {event.blocks_skipped} from an earlier run" if event.blocks_skipped else ""
            left = f"; left out: {', '.join(step for step, _ in event.left_out)}" if event.left_out else ""
            peak = f"; peak memory of a process {megabytes(event.peak_rss_bytes)}" if event.peak_rss_bytes else ""
            return f"{state}: {many(event.blocks_done, 'block')} in {duration(event.seconds)}{skipped}{left}{peak}"
        case IngestStarted():
            size = f"{many(event.layers, 'layer')}, {many(event.frames, 'frame')}, {megabytes(event.bytes)}"
            return f"{event.source} to {event.store}: {size}"
        case LayerDone():
            done = f"{megabytes(event.bytes)} in {duration(event.seconds)}"
            return f"layer {event.layer}: {done} ({event.done}/{event.layers})"
        case IngestDone():
            return f"{event.verb} {megabytes(event.bytes)} in {duration(event.seconds)}"


def log_lines(stream: TextIO) -> Subscriber:
    """A subscriber that writes a plain line for every event, as for a batch job's log."""

    def write(event: Event) -> None:
        stream.write(line(event) + "\n")
        stream.flush()

    return write


def json_lines(path: str | Path) -> Subscriber:
    """A subscriber that appends every event as a JSON object on a line of its own, with its name and the UTC time."""
    path = Path(path)

    def write(event: Event) -> None:
        record = {"event": type(event).__name__, "time": datetime.now(UTC).isoformat(), **asdict(event)}
        # One write in append mode: lines of two runs into one file do not mix.
        with path.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(record) + "\n")

    return write


@contextmanager
def progress_bar(console: Console) -> Iterator[Subscriber]:
    """A subscriber that draws a bar with rate and remaining time on a terminal while the context lasts."""
    from rich.markup import escape
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns: list[Any] = [
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed:.0f}/{task.total:.0f}"),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
    ]
    begun, moved = time.monotonic(), 0
    with Progress(*columns, console=console, transient=True) as bar:
        task: Any = None

        def show(event: Event) -> None:
            nonlocal task, begun, moved
            match event:
                case RunStarted() | IngestStarted():
                    bar.console.print(escape(line(event)), highlight=False)
                    total = event.blocks if isinstance(event, RunStarted) else event.layers
                    begun, moved = time.monotonic(), 0
                    task = bar.add_task("", total=total, rate="")
                case BlockDone() | BlockSkipped() | LayerDone() if task is not None:
                    if isinstance(event, BlockDone):
                        moved += event.bytes_read + event.bytes_written
                    elif isinstance(event, LayerDone):
                        moved += event.bytes
                    name = "layers" if isinstance(event, LayerDone) else escape(event.step)
                    rate = f"{megabytes(moved / max(time.monotonic() - begun, 1e-3))}/s" if moved else ""
                    bar.update(task, completed=event.done, description=name, rate=rate)
                case RunDone() | IngestDone() | StepLeftOut() | Remark() | BlockQuarantined():
                    bar.console.print(escape(line(event)), highlight=False)
                case StepDone():
                    pass  # the bar has shown it

        yield show


def choose_subscriber(stream: TextIO) -> AbstractContextManager[Subscriber]:
    """The subscriber that suits a stream, as a context: a bar on a terminal, plain lines elsewhere."""
    from rich.console import Console

    console = Console(file=stream)
    if console.is_terminal and not console.is_dumb_terminal:
        return progress_bar(console)
    return nullcontext(log_lines(stream))
