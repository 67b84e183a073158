"""Events: lines, JSON, bars."""

from __future__ import annotations

import io
import json
import sys
from dataclasses import FrozenInstanceError
from pathlib import Path
from types import SimpleNamespace

import pytest
from rich.console import Console

from dfxm_dask.run import events
from dfxm_dask.run.events import (
    BlockDone,
    BlockSkipped,
    Event,
    IngestDone,
    IngestStarted,
    LayerDone,
    Progress,
    Remark,
    RunDone,
    RunStarted,
    StepDone,
    StepLeftOut,
    choose_subscriber,
    json_lines,
    log_lines,
    progress_bar,
    send,
    shown,
)

RUN: tuple[Event, ...] = (
    RunStarted("maps", "scan.zarr", ("moments", "kam"), 3, "http://127.0.0.1:1234/status"),
    StepLeftOut("mosaicity", "the scan has 1 axis and it needs 2"),
    BlockSkipped("moments", "z0", 1, 3),
    BlockDone("moments", "z1", 0.34, 343_000_000, 88_000_000, 2, 3),
    StepDone("moments", 2, 125.2),
    BlockDone("kam", "z0 [y0]", 7300.0, 1, 0, 3, 3),
    RunDone(12.3, 2, 1, True, (("mosaicity", "one axis"),), 400_000_000),
)
INGEST: tuple[Event, ...] = (
    IngestStarted("scan.h5", "scan.zarr", 2, 62, 686_000_000),
    LayerDone("0", 0.5, 343_000_000, 1, 2),
    LayerDone("1", 0.5, 343_000_000, 2, 2),
    IngestDone(1.1, 686_000_000),
)


def test_event__cannot_be_changed() -> None:
    with pytest.raises(FrozenInstanceError):
        RUN[0].recipe = "other"  # type: ignore[misc,union-attr]


def test_log_lines__say_every_event() -> None:
    stream = io.StringIO()
    for event in (*RUN, *INGEST, RunDone(1.0, 1, 0, False)):
        log_lines(stream)(event)
    assert stream.getvalue().splitlines() == [
        "maps on scan.zarr: moments, kam in 3 blocks; dashboard http://127.0.0.1:1234/status",
        "mosaicity: left out, the scan has 1 axis and it needs 2",
        "moments z0: computed by an earlier run (1/3)",
        "moments z1: 0.34 s, 343 MB read, 88 MB written (2/3)",
        "moments: 2 blocks in 2 min 05 s",
        "kam z0 [y0]: 2 h 01 min, 1 B read, 0 B written (3/3)",
        "complete: 2 blocks in 12 s, 1 from an earlier run; left out: mosaicity; peak memory of a process 400 MB",
        "scan.h5 to scan.zarr: 2 layers, 62 frames, 686 MB",
        "layer 0: 343 MB in 0.5 s (1/2)",
        "layer 1: 343 MB in 0.5 s (2/2)",
        "ingested 686 MB in 1.1 s",
        "INCOMPLETE: run it again to continue: 1 block in 1 s",
    ]


def test_json_lines__append(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    for event in RUN:
        json_lines(path)(event)
    records = [json.loads(text) for text in path.read_text().splitlines()]
    assert [record["event"] for record in records] == [type(event).__name__ for event in RUN]
    assert records[3]["bytes_read"] == 343_000_000
    assert all(record["time"].endswith("+00:00") for record in records)


def test_progress_bar__shows_rate_and_finishes() -> None:
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=True, width=100, color_system=None)
    with progress_bar(console) as show:
        for event in (*RUN, *INGEST):
            show(event)
    text = stream.getvalue()
    assert "MB/s" in text or "GB/s" in text
    assert "z0 [y0]" not in text  # blocks move the bar; they are not listed
    assert "left out, the scan has 1 axis" in text
    assert "ingested 686 MB" in text


def test_choose_subscriber__writes_lines_where_there_is_no_terminal() -> None:
    stream = io.StringIO()
    with choose_subscriber(stream) as show:
        show(RUN[4])
    assert stream.getvalue() == "moments: 2 blocks in 2 min 05 s\n"


def test_choose_subscriber__draws_a_bar_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    for name in ("NO_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    stream = Terminal()
    with choose_subscriber(stream) as show:
        for event in RUN:
            show(event)
    assert "\x1b[" in stream.getvalue()


def test_send__outlives_a_subscriber_that_cannot_write(tmp_path: Path) -> None:
    heard: list[Event] = []
    with pytest.warns(RuntimeWarning, match="an event was not recorded"):
        send((json_lines(tmp_path / "absent" / "events.jsonl"), heard.append), RUN[0])
    assert heard == [RUN[0]]


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (999, "999 B"), (1e3, "1 kB"), (343e6, "343 MB"), (999.7e6, "1000 MB"), (1.03e11, "103 GB")],
)
def test_megabytes__are_said_as_people_do(count: float, text: str) -> None:
    assert events.megabytes(count) == text


class Cell:
    """An output of a notebook that keeps what it showed."""

    shown: list[str] = []

    def update(self, page: str) -> None:
        self.shown.append(page)


@pytest.fixture
def notebook(monkeypatch: pytest.MonkeyPatch) -> Cell:
    """A stand-in for the kernel of a notebook."""
    cell, shell = Cell(), SimpleNamespace(kernel=object())
    cell.shown = []
    screen = SimpleNamespace(HTML=str, display=lambda page, display_id: cell)
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: shell, display=screen))
    monkeypatch.setitem(sys.modules, "IPython.display", screen)
    return cell


@shown
def running(*, publish: tuple[events.Subscriber, ...] | None = None) -> None:
    for event in (*RUN[:5], Remark("1 of 1 layers <has> no weak beam"), *RUN[5:]):
        send(publish or (), event)


def test_shown__in_a_notebook_is_a_bar_with_remarks(notebook: Cell, capsys: pytest.CaptureFixture[str]) -> None:
    running()
    assert notebook.shown[-1].startswith('<div><progress value="3" max="3"')
    assert len(notebook.shown) < len(RUN)  # not one for every block
    text = capsys.readouterr().out
    assert "NOTE: 1 of 1 layers <has> no weak beam" in text
    assert "moments z1" not in text


def test_shown__in_a_script_logs_remarks_and_prints_nothing(
    capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    running()
    assert capfd.readouterr() == ("", "")
    assert [r.message for r in caplog.records] == ["NOTE: 1 of 1 layers <has> no weak beam"]
    heard: list[Event] = []
    running(publish=(heard.append,))
    running(publish=())
    assert len(heard) == len(RUN) + 1
    assert len(caplog.records) == 1


def test_progress__has_the_rate_and_the_remaining_time(monkeypatch: pytest.MonkeyPatch) -> None:
    now = iter([100.0, 104.0, 104.0])
    monkeypatch.setattr(events.time, "monotonic", lambda: next(now))
    state = Progress()
    told = [state.follow(event) for event in RUN[:5]]
    assert [bool(text) for text in told] == [True, True, False, False, False]
    assert (state.done, state.total, state.rate, state.left) == (2, 3, "108 MB/s", "2 s left")
