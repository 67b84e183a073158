"""Stop signals: Ctrl-C, SIGTERM, and the warning of SLURM before the walltime.

After the first signal a run finishes and commits the blocks in progress and starts no others. A second signal ends it
at once: committed blocks are kept, and the next run continues from them.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

WARNINGS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
"""SLURM users commonly request SIGUSR1 (``--signal=B:USR1@60``); its default action kills a process."""

_asked = ""


def asked() -> str:
    """Name of the signal that requested the end of this process, or an empty text."""
    return _asked


def why() -> str:
    """Sentence about this signal, or an empty text."""
    return f"received {_asked}" if _asked else ""


@contextmanager
def heeding_signals() -> Iterator[None]:
    """Record stop signals while the context lasts. Python delivers signals to the main thread only."""
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
