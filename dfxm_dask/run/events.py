"""Events of a run, and the subscribers that turn them into lines, files and progress bars.

A subscriber is a callable that takes one event. Only the driver of a run sends events, by :func:`send`; kernels and
writers do not.
"""

from __future__ import annotations

import json
import logging
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec, TextIO, TypeVar

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from rich.console import Console

P = ParamSpec("P")
T = TypeVar("T")


@dataclass(frozen=True)
class RunStarted:
    """A recipe begins; ``blocks`` counts the blocks of all steps, complete ones included; ``where`` names the processes
    that compute."""

    recipe: str
    store: str
    steps: tuple[str, ...]
    blocks: int
    dashboard: str | None = None
    where: str = ""


@dataclass(frozen=True)
class StepLeftOut:
    """An optional step cannot run on this scan."""

    step: str
    reason: str


@dataclass(frozen=True)
class Remark:
    """A remark for the user about the scan or its results: see :mod:`dfxm_dask.run.scan_remarks`."""

    text: str


@dataclass(frozen=True)
class BlockDone:
    """A block is computed and on disk; ``done`` and ``blocks`` count over the whole run, skipped blocks included."""

    step: str
    block: str
    seconds: float
    bytes_read: int
    bytes_written: int
    done: int
    blocks: int


@dataclass(frozen=True)
class BlockSkipped:
    """An earlier run with the same parameters has written this block."""

    step: str
    block: str
    done: int
    blocks: int


@dataclass(frozen=True)
class BlockQuarantined:
    """A block that cannot be computed is left out; the run continues with the other blocks."""

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
    """A recipe ends. ``left_out`` has (step, reason) pairs; ``peak_rss_bytes`` is the peak memory of the largest
    process; ``why`` gives the reason for an incomplete result, ``left`` the work that a share of a job array leaves to
    the last share."""

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
    """Writing of raw data into a store begins; ``bytes`` is the uncompressed size."""

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
    """The store is complete; ``verb`` is "ingested" or "simulated"."""

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
    """Pass an event to every subscriber. A subscriber that cannot write (full disk) causes a warning, not an error."""
    for subscriber in publish:
        try:
            subscriber(event)
        except OSError as error:
            warnings.warn(f"an event was not recorded: {error}", RuntimeWarning, stacklevel=2)


def megabytes(count: float) -> str:
    """A number of bytes with three digits: ``343 MB``, ``103 GB``."""
    for unit, size in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= size:
            return f"{count / size:.3g} {unit}" if count < 999.5 * size else f"{count / size:.0f} {unit}"
    return f"{count:.0f} B"


def duration(seconds: float) -> str:
    """A duration: ``0.34 s``, ``2 min 05 s``, ``3 h 20 min``."""
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
    """An event as one line of text."""
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
            return f"{event.step} {event.block}: computed by an earlier run ({event.done}/{event.blocks})"
        case BlockQuarantined():
            return f"{event.step} {event.block}: LEFT OUT, {event.reason}"
        case StepDone():
            return f"{event.step}: {many(event.blocks, 'block')} in {duration(event.seconds)}"
        case RunDone():
            why = f"{event.why}; " if event.why else ""
            state = "complete" if event.complete else f"INCOMPLETE: {why}run it again to continue"
            skipped = f", {event.blocks_skipped} from an earlier run" if event.blocks_skipped else ""
            left = f"; left out: {', '.join(step for step, _ in event.left_out)}" if event.left_out else ""
            peak = f"; peak memory of a process {megabytes(event.peak_rss_bytes)}" if event.peak_rss_bytes else ""
            done = f"{many(event.blocks_done, 'block')} in {duration(event.seconds)}{skipped}{left}{peak}"
            return f"{event.left} (this share: {done})" if event.left else f"{state}: {done}"
        case IngestStarted():
            size = f"{many(event.layers, 'layer')}, {many(event.frames, 'frame')}, {megabytes(event.bytes)}"
            return f"{event.source} to {event.store}: {size}"
        case LayerDone():
            done = f"{megabytes(event.bytes)} in {duration(event.seconds)}"
            return f"layer {event.layer}: {done} ({event.done}/{event.layers})"
        case IngestDone():
            return f"{event.verb} {megabytes(event.bytes)} in {duration(event.seconds)}"


def log_lines(stream: TextIO) -> Subscriber:
    """A subscriber that writes one line for every event, for the log of a batch job."""

    def write(event: Event) -> None:
        stream.write(line(event) + "\n")
        stream.flush()

    return write


def json_lines(path: str | Path) -> Subscriber:
    """A subscriber that appends every event as one line of JSON, with its name and the UTC time."""
    path = Path(path)

    def write(event: Event) -> None:
        record = {"event": type(event).__name__, "time": datetime.now(UTC).isoformat(), **asdict(event)}
        # One write in append mode: the lines of two runs into one file do not mix.
        with path.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(record) + "\n")

    return write


@dataclass
class Progress:
    """Progress of a run: blocks or layers done, and the rate of the data."""

    name: str = ""
    done: int = 0
    total: int = 0
    moved: int = 0
    begun: float = field(default_factory=time.monotonic)

    def follow(self, event: Event) -> str:
        """Count an event. Returns the line to print, or nothing for an event that only moves the bar."""
        match event:
            case RunStarted() | IngestStarted():
                self.total = event.blocks if isinstance(event, RunStarted) else event.layers
                self.name, self.done, self.moved, self.begun = "", 0, 0, time.monotonic()
            case BlockDone() | BlockSkipped() | LayerDone():
                self.done = event.done
                self.name = "layers" if isinstance(event, LayerDone) else event.step
                if isinstance(event, BlockDone):
                    self.moved += event.bytes_read + event.bytes_written
                elif isinstance(event, LayerDone):
                    self.moved += event.bytes
                return ""
            case StepDone():
                return ""  # the bar has shown it
        return line(event)

    @property
    def rate(self) -> str:
        """Data read and written per second; nothing before the first block."""
        return f"{megabytes(self.moved / max(time.monotonic() - self.begun, 1e-3))}/s" if self.moved else ""

    @property
    def left(self) -> str:
        """Remaining time at the mean pace so far; nothing before the first block."""
        passed = time.monotonic() - self.begun
        return f"{duration(passed * (self.total / self.done - 1))} left" if 0 < self.done < self.total else ""


@contextmanager
def progress_bar(console: Console) -> Iterator[Subscriber]:
    """A subscriber that draws a bar with rate and remaining time on a terminal."""
    from rich.markup import escape
    from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    columns: list[Any] = [
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed:.0f}/{task.total:.0f}"),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
    ]
    state = Progress()
    with Bar(*columns, console=console, transient=True) as bar:
        task: Any = None

        def show(event: Event) -> None:
            nonlocal task
            if text := state.follow(event):
                bar.console.print(escape(text), highlight=False)
            if isinstance(event, RunStarted | IngestStarted):
                task = bar.add_task("", total=state.total, rate="")
            elif task is not None:
                bar.update(task, completed=state.done, description=escape(state.name), rate=state.rate)

        yield show


@contextmanager
def notebook_bar() -> Iterator[Subscriber]:
    """A subscriber that draws a bar with rate and remaining time in a notebook, and prints remarks below.

    The bar is an element of HTML: bars of rich and tqdm need ipywidgets, and vanish from a notebook that is saved.
    """
    from html import escape

    from IPython.display import HTML, display

    state, cell, drawn = Progress(), display(HTML(""), display_id=True), 0.0

    def show(event: Event) -> None:
        nonlocal drawn
        if text := state.follow(event):
            print(text)
        if time.monotonic() - drawn > 0.1 or state.done == state.total:
            drawn = time.monotonic()
            words = filter(None, (f"{state.done}/{state.total} {escape(state.name)}", state.rate, state.left))
            bar = f'<progress value="{state.done}" max="{state.total}" style="width:20em"></progress>'
            cell.update(HTML(f"<div>{bar} {', '.join(words)}</div>" if state.total else ""))

    yield show


def in_notebook() -> bool:
    """Whether this process is the kernel of a notebook."""
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    return getattr(shell, "kernel", None) is not None


def choose_subscriber(stream: TextIO) -> AbstractContextManager[Subscriber]:
    """The subscriber of a command: a bar on a terminal, else one line for every event."""
    return _bar_on(stream) or nullcontext(log_lines(stream))


def _bar_on(stream: TextIO) -> AbstractContextManager[Subscriber] | None:
    from rich.console import Console

    console = Console(file=stream, force_jupyter=False)
    return progress_bar(console) if console.is_terminal and not console.is_dumb_terminal else None


def log_records(event: Event) -> None:
    """A subscriber that logs remarks and missing results as warnings, other events as information."""
    told = isinstance(event, Remark | BlockQuarantined) or (isinstance(event, RunDone) and bool(event.why))
    logging.getLogger("dfxm_dask").log(logging.WARNING if told else logging.INFO, "%s", line(event))


def choose_in_python() -> AbstractContextManager[Subscriber]:
    """The subscriber of a function called from Python: a bar in a notebook or on a terminal, else log records."""
    return notebook_bar() if in_notebook() else _bar_on(sys.stderr) or nullcontext(log_records)


def shown(function: Callable[P, T]) -> Callable[P, T]:
    """A function that shows its events by :func:`choose_in_python`, unless the caller gives ``publish``."""

    @wraps(function)
    def call(*args: P.args, **options: P.kwargs) -> T:
        if options.get("publish") is not None:
            return function(*args, **options)
        with choose_in_python() as subscriber:
            options["publish"] = (subscriber,)
            return function(*args, **options)

    return call
