"""Asking a run to end: Ctrl-C, SIGTERM, and the warning that SLURM sends before the walltime.

The first signal lets the blocks at work finish and be committed; nothing new begins. A second one ends at once:
what is committed stays, and the next run goes on from there.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

WARNINGS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
"""SIGUSR1 is what SLURM users commonly ask for (``--signal=B:USR1@60``); unheeded, it would kill."""

_asked = ""


def asked() -> str:
    """Name of the signal that asked this process to end, or nothing."""
    return _asked


def why() -> str:
    """The same in words."""
    return f"was asked to end by {_asked}" if _asked else ""


@contextmanager
def heeding_signals() -> Iterator[None]:
    """Signals that ask for an end are noted while the context lasts; only the main thread can heed them."""
    global _asked
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def note(number: int, _: FrameType | None) -> None:
        global _asked
        if _asked:  # the second one
            signal.signal(number, signal.SIG_DFL)
            raise KeyboardInterrupt
        _asked = signal.Signals(number).name

    before = {number: signal.signal(number, note) for number in WARNINGS}
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)
        _asked = ""
