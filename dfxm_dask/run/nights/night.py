"""A night: find new scans, ingest them, run the recipes, and record the outcome of each.

A scan is

* **new**: it is reduced, or **deferred** to the next night if it may still be being written;
* **unchanged** after it is done: its files are not read again, even if a recipe has changed;
* **changed** if its files differ from those of its store. Old and new data are never mixed: the scan is listed every
  night until the store is removed or renamed, which makes the scan new;
* **partial** if layers are absent and ``allow_partial`` permits this;
* **failed** if it cannot be read or reduced. It is tried again in the next nights, after all others, and then
  **quarantined**: listed every night until its files, the configuration or this package change, or until its state
  file is removed. Faults of the output folder (a full disk, no permission) do not count as failures of the scan;
* **not done** if the time of the night was over.

With ``follow``, a scan that is being written is followed instead of deferred, after all others; the night then looks
for scans that have appeared meanwhile.

The state of a scan is recorded before its reduction begins, so that a scan that ends the program counts as failed.
"""

from __future__ import annotations

import signal
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from dfxm_dask import __version__
from dfxm_dask.errors import DfxmError, LockedError, SourceError, StoppedError, StoreError
from dfxm_dask.run.clusters.cluster import open_cluster
from dfxm_dask.run.events import BlockDone, Event, IngestDone, RunDone, Subscriber, duration
from dfxm_dask.run.execute import run_ingest, run_recipe
from dfxm_dask.run.nights.config import Nightly
from dfxm_dask.run.nights.followed import follow_scan
from dfxm_dask.run.nights.plan import (
    FOLLOWING,
    STATUSES,
    TROUBLE,
    NightScan,
    Outcome,
    decide,
    in_words,
    ingested,
    refuse_raw,
    scans_of,
    what_is_asked,
    write_state,
)
from dfxm_dask.run.nights.scans import apart, find_masters
from dfxm_dask.run.recipe import Recipe, read_recipe
from dfxm_dask.run.stopping import asked, heeding_signals
from dfxm_dask.store.ingest import IngestReport
from dfxm_dask.store.integrity import ledger
from dfxm_dask.store.integrity.lock import hold

KILLED = "the night ended during this scan (killed, or out of memory)"


@dataclass(frozen=True)
class Night:
    """A night: the outcome of every scan, skipped files, and folders that could not be searched."""

    config: str
    host: str
    version: str
    begun: str
    ended: str
    outcomes: tuple[Outcome, ...]
    notes: tuple[str, ...]
    faults: tuple[str, ...]
    stopped: str = ""

    @property
    def counts(self) -> dict[str, int]:
        """Number of scans of each status."""
        found = Counter(o.status for o in self.outcomes)
        return {status: found[status] for status in STATUSES if found[status]}

    @property
    def complete(self) -> bool:
        """Whether no scan is left to be reduced or checked."""
        return not (self.faults or self.stopped or any(o.status in TROUBLE for o in self.outcomes))

    def as_json(self) -> dict[str, Any]:
        """This night as texts and numbers for JSON."""
        return {**asdict(self), "counts": self.counts, "complete": self.complete}


def run_night(
    night: Nightly,
    *,
    hours: float | None = None,
    dry: bool = False,
    publish: tuple[Subscriber, ...] = (),
    say: Callable[[str], None] = lambda text: None,
    finished: Callable[[Outcome], None] = lambda outcome: None,
) -> Night:
    """Reduce all new scans below the raw roots of a configuration.

    Parameters
    ----------
    night : Nightly
        From :func:`dfxm_dask.run.nights.config.read_nightly`.
    hours : float, optional
        Time after which the night ends, also during a scan, which the next night continues. By default that of the
        configuration.
    dry : bool
        Only determine which scans would be reduced; no file is written.
    publish : callables
        Receive the events of every ingest and run.
    say : callable
        Receives a line about every scan.
    finished : callable
        Receives the outcome of every reduced scan at its end.

    Returns
    -------
    Night

    Raises
    ------
    LockedError
        Another night writes its report into the same folder.
    StoreError
        That folder lies under raw data, or cannot be written.
    RecipeError
        A recipe cannot be read.
    """
    begun = datetime.now(UTC)
    recipes = [read_recipe(name) for name in night.recipes]
    found = find_masters(night)
    refuse_raw(Path(night.report), found.searched)
    notes, outcomes, pending, stopped = [*found.notes], [], [], ""

    def end(outcome: Outcome) -> None:
        outcomes.append(outcome)
        if outcome.status != "unchanged":
            took = f" in {duration(outcome.seconds)}" if outcome.seconds else ""
            say(f"{outcome.status}: {outcome.name}{took}{': ' + outcome.reason if outcome.reason else ''}")

    with ExitStack() as stack:
        if not dry:
            stack.enter_context(hold(Path(night.report), ".lock", what=f"night of {night.path}"))
        try:
            with _ending(night.hours if hours is None else hours) as over:
                client, again = None, True
                while again and not stopped:
                    fresh: list[NightScan] = []
                    known = {o.store for o in outcomes}
                    with apart() as ask:
                        for scan in scans_of(found, night, ask, [] if known else notes):
                            if over():
                                raise StoppedError("the night", over(), "the next night continues")
                            if str(scan.store) in known:
                                continue
                            found_out = scan if isinstance(scan, Outcome) else None
                            decided = found_out or decide(scan, night, recipes, ask, time.time())  # type: ignore[arg-type]
                            if isinstance(decided, Outcome):
                                end(decided)
                            else:
                                fresh.append(decided)
                    fresh.sort(key=_turn)
                    pending += fresh
                    if fresh and client is None and not dry and night.workers != 0:
                        client = _open(stack, night)
                    for number, one in enumerate(fresh if not dry else (), start=1):
                        say(f"{number} of {len(fresh)}: {one.outcome('new').name}")
                        if stopped := over():
                            break
                        outcome = _work(one, night, recipes, client, publish, over, say)
                        end(outcome)
                        finished(outcome)
                        stopped = over()
                        if client is not None and client.status != "running":
                            stopped = stopped or f"the cluster was lost ({client.status})"
                        if stopped:
                            break
                    again = not dry and any(one.grows for one in fresh)
                    if again and not stopped:  # new masters may have appeared meanwhile
                        found = find_masters(night)
        except StoppedError as error:
            stopped = error.found
        except KeyboardInterrupt:
            stopped = "it was interrupted"
    ended = {o.store for o in outcomes}
    for one in pending:
        if str(one.store) not in ended:
            end(
                one.outcome("new", f"followed: {one.busy}" if one.busy else "")
                if dry
                else one.outcome("not done", f"not started: {stopped}")
            )
    outcomes.sort(key=lambda o: (STATUSES.index(o.status), o.source, o.entries))
    return Night(
        str(night.path),
        socket.gethostname(),
        __version__,
        begun.isoformat(timespec="seconds"),
        datetime.now(UTC).isoformat(timespec="seconds"),
        tuple(outcomes),
        tuple(notes),
        found.faults,
        stopped,
    )


def _turn(one: NightScan) -> tuple[bool, bool, float]:
    """Order of scans: those that grow come last; scans that failed before delay no other; the oldest comes first."""
    return one.grows, bool(one.state.get("failures")), one.seen.newest[1] if one.seen else 0.0


def _open(stack: ExitStack, night: Nightly) -> Any:
    """The cluster of a night."""
    try:
        return stack.enter_context(open_cluster(night.cluster, workers=night.workers))
    except (DfxmError, OSError, RuntimeError, TimeoutError) as error:
        raise StoppedError(
            "the night", f"its cluster could not be used: {in_words(error)}", "check the cluster"
        ) from error


def _work(
    scan: NightScan,
    night: Nightly,
    recipes: Sequence[Recipe],
    client: Any,
    publish: tuple[Subscriber, ...],
    over: Callable[[], str],
    say: Callable[[str], None],
) -> Outcome:
    """Ingest a scan and run the recipes. ``over`` returns why the night must end, or an empty text."""
    begun = time.perf_counter()
    assert scan.seen is not None
    cost = {"bytes_read": 0, "bytes_written": 0, "peak_rss_bytes": 0}

    def count(event: Event) -> None:
        if isinstance(event, IngestDone):
            cost["bytes_read"] += event.bytes
        elif isinstance(event, BlockDone):
            cost["bytes_read"] += event.bytes_read
            cost["bytes_written"] += event.bytes_written
        elif isinstance(event, RunDone):
            cost["peak_rss_bytes"] = max(cost["peak_rss_bytes"], event.peak_rss_bytes)

    known: dict[str, Any] = {"absent": scan.seen.absent, "left_out": (), "remarks": (), "blocks_lost": ()}
    before = int(scan.state.get("failures", 0))
    done = dict(scan.state.get("recipes", {})) if ingested(scan.store) else {}
    words = what_is_asked(night, recipes)

    def end(status: str, reason: str, failures: int, stage: str) -> Outcome:
        try:
            write_state(scan, stage, failures, reason, done, words)
        except OSError as error:
            reason = f"{reason}; its state could not be written ({error.strerror})".removeprefix("; ")
        seconds = time.perf_counter() - begun
        return scan.outcome(status, reason, failures=failures, seconds=seconds, **cost, **known)

    def stop(why: str) -> Outcome:
        return end("not done", f"stopped on the way: {over() or why}", before, stage("stopped"))

    def stage(word: str) -> str:
        return FOLLOWING if scan.grows else word

    try:
        scan.store.parent.mkdir(parents=True, exist_ok=True)
        write_state(scan, stage("begun"), before + 1, KILLED, done, words)
        if scan.grows:
            done = {}  # results of fewer layers
            scan, followed = follow_scan(scan, night, recipes[0], (*publish, count), say)
            lost = [f"entry {name} (aborted)" for name in followed.aborted]
            known["absent"] = (*lost, *(f"entry {name} (left out)" for name in followed.refused))
            if followed.stopped:
                return stop(followed.stopped)
        elif problem := scan.seen.problem if scan.seen else "":
            return end("failed", problem, before + 1, "failed")
        elif not (scan.state and ingested(scan.store)):  # ingest refuses a store of other files
            made = _ingest(scan, night, client, (*publish, count), words[0])
            known["absent"] = made.absent
        for recipe in recipes:
            if recipe.name in done:
                continue
            report = run_recipe(recipe, scan.store, client=client, publish=(*publish, count))
            if report.stopped:
                return stop(report.stopped)
            known["left_out"] += report.left_out
            known["absent"] = tuple(dict.fromkeys((*known["absent"], *report.absent)))
            known["remarks"] += tuple(text for text in report.remarks if text not in known["remarks"])
            if report.quarantined:
                known["blocks_lost"] += report.quarantined
                step, block, reason = report.quarantined[0]
                return end("failed", f"{step} {block}: {reason}", before + 1, "failed")
            done[recipe.name] = ledger.digest(recipe.text)
    except StoppedError as error:
        return stop(error.found)
    except KeyboardInterrupt:
        stop("it was interrupted")
        raise
    except LockedError as error:
        return end("deferred", str(error), before, stage("stopped"))
    except (StoreError, OSError) as error:
        return end("failed", in_words(error), before, stage("stopped"))
    except SourceError as error:
        if scan.grows:
            return end("deferred", str(error), before, FOLLOWING)
        return end("failed", in_words(error), before + 1, "failed")
    except Exception as error:  # any error of this scan must not stop the others
        return end("failed", in_words(error), before + 1, stage("failed"))
    if known["absent"]:
        return end("partial", f"absent: {', '.join(known['absent'])}", 0, "partial")
    return end("done", "", 0, "done")


def _ingest(
    scan: NightScan, night: Nightly, client: Any, publish: tuple[Subscriber, ...], raw_asked: str
) -> IngestReport:
    """The store of a scan; ``raw_asked`` is the digest of the settings for raw data."""
    assert scan.seen is not None
    # An unfinished store whose files or settings have changed is replaced: it has no results yet.
    files = [list(file) for file in scan.seen.files]
    anew = bool(scan.state) and (files, raw_asked) != (scan.state["files"], scan.state["raw_asked"])
    return run_ingest(
        str(scan.source),
        scan.store,
        client=client,
        publish=publish,
        scan=[*scan.entries],
        beamline=night.beamline,
        motors=night.motors,
        detector=night.detector,
        pixel_size=night.pixel_size,
        roi=night.roi,
        roots=night.roots,
        allow_partial=night.allow_partial,
        scan_mode=scan.seen.scan_mode,
        overwrite=anew,
    )


@contextmanager
def _ending(hours: float | None) -> Iterator[Callable[[], str]]:
    """Function that returns why the night must end; an empty text until then.

    At the end of its hours the process sends SIGTERM to itself, so that blocks in progress are finished as after
    any other stop signal.
    """
    late = False

    def ring(number: int, frame: Any) -> None:
        nonlocal late
        late = True
        signal.raise_signal(signal.SIGTERM)

    def over() -> str:
        return "" if not asked() else f"its {hours:g} hours were over" if late else f"it received {asked()}"

    with heeding_signals():
        if threading.current_thread() is not threading.main_thread() or not hours:
            yield over
            return
        before = signal.signal(signal.SIGALRM, ring)
        signal.setitimer(signal.ITIMER_REAL, 3600 * hours)
        try:
            yield over
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)
