"""Run a recipe: passes in order, units in parallel, every block committed when it is complete."""

from __future__ import annotations

import errno
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from dfxm_dask.errors import RecipeError, StoppedError, StoreError
from dfxm_dask.run import stopping
from dfxm_dask.run.events import (
    IngestDone,
    IngestStarted,
    LayerDone,
    Remark,
    RunDone,
    RunStarted,
    StepLeftOut,
    Subscriber,
    duration,
    many,
    megabytes,
    send,
    shown,
)
from dfxm_dask.run.passes import Run, Tally, refuse_other, run_pass
from dfxm_dask.run.plan import Plan, make_plan
from dfxm_dask.run.provisional import withdraw_provisional
from dfxm_dask.run.recipe import Recipe, read_recipe
from dfxm_dask.run.scan_remarks import of_results
from dfxm_dask.run.task_queue import windowed
from dfxm_dask.store.ingest import IngestReport, ingest
from dfxm_dask.store.integrity import ledger
from dfxm_dask.store.integrity.lock import own_group, shares_at_work
from dfxm_dask.store.integrity.opened import RECOMPUTED

if TYPE_CHECKING:
    import xarray as xr

Publish = tuple[Subscriber, ...]

SMALL = 200_000_000
"""Bytes of counts, uncompressed, below which a command runs a recipe in its own process: to start workers takes longer
than to reduce a scan of this size (our choice)."""


@dataclass(frozen=True)
class RunReport:
    """Outcome of a run.

    ``quarantined`` lists (step, block, reason) of omitted blocks; ``stopped`` names the signal that ended the
    run; ``lacking`` is the number of blocks of this run whose inputs are missing.
    """

    complete: bool
    blocks_done: int
    blocks_skipped: int
    left_out: tuple[tuple[str, str], ...]
    seconds: float
    peak_rss_bytes: int
    absent: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()
    quarantined: tuple[tuple[str, str, str], ...] = ()
    stopped: str = ""
    lacking: int = 0

    def __repr__(self) -> str:
        state = "complete" if self.complete else "INCOMPLETE"
        skipped = f", {self.blocks_skipped} from an earlier run" if self.blocks_skipped else ""
        counts = {
            "step": (self.left_out, " left out"),
            "block": (self.quarantined, " left out"),
            "layer": (self.absent, " absent"),
            "remark": (self.remarks, ""),
        }
        more = "".join(f"; {many(len(items), word)}{what}" for word, (items, what) in counts.items() if items)
        return f"<{state}: {many(self.blocks_done, 'block')} in {duration(self.seconds)}{skipped}{more}>"


@shown
def run_ingest(
    source: Any, store: str | Path, *, client: Any = None, publish: Publish | None = None, **options: Any
) -> IngestReport:
    """:func:`dfxm_dask.ingest` with events, and with layers in parallel on a cluster.

    Parameters
    ----------
    client : distributed.Client, optional
        Without a client, this process writes the layers one after the other.
    options
        Options of :func:`dfxm_dask.ingest`.
    """
    begun, publish = time.perf_counter(), publish or ()

    def size(task: Any) -> tuple[int, int]:
        frames = prod(task.scan.shape)
        return frames, frames * _area(task) * task.scan.dtype.itemsize

    report = ingest(source, store, each=_layers(str(source), store, size, client, publish), **options)
    send(publish, IngestDone(time.perf_counter() - begun, report.bytes))
    return report


@shown
def run_simulate(
    preset: str, out: str | Path, *, client: Any = None, publish: Publish | None = None, **options: Any
) -> xr.DataTree:
    """:func:`dfxm_dask.simulate` with events, and with layers in parallel on a cluster.

    Parameters
    ----------
    client : distributed.Client, optional
        Without a client, this process writes the layers one after the other.
    options
        Options of :func:`dfxm_dask.simulate`.
    """
    from dfxm_dask.phantoms.scans import simulate  # loads half of scipy

    begun, publish = time.perf_counter(), publish or ()
    total = 0

    def size(task: Any) -> tuple[int, int]:
        nonlocal total
        frames = prod(task.phantom.grid)
        total += 2 * frames * prod(task.phantom.shape)
        return frames, 2 * frames * prod(task.phantom.shape)

    tree = simulate(preset, out, each=_layers(f"preset {preset}", out, size, client, publish), **options)
    if total:
        send(publish, IngestDone(time.perf_counter() - begun, total, "simulated"))
    return tree


def _layers(
    source: str, target: str | Path, size: Callable[[Any], tuple[int, int]], client: Any, publish: Publish
) -> Callable[[Callable[[Any], Any], Iterable[Any]], Iterator[Any]]:
    """A parallel substitute for ``map`` over the layers of a scan, with events. ``size`` gives frames and bytes of a
    task.
    """

    def each(function: Callable[[Any], Any], tasks: Iterable[Any]) -> Iterator[Any]:
        pending = list(tasks)
        sizes = [size(t) for t in pending]
        frames, nbytes = sum(f for f, _ in sizes), sum(n for _, n in sizes)
        send(publish, IngestStarted(source, str(target), len(pending), frames, nbytes))
        for number, record in enumerate(windowed(client, function, pending), start=1):
            yield record
            send(publish, LayerDone(record["block"], record["seconds"], sizes[0][1], number, len(pending)))

    return each


def _area(task: Any) -> int:
    ny, nx = task.scan.frame_shape
    return int((task.roi[1] - task.roi[0]) * (task.roi[3] - task.roi[2]) if task.roi else ny * nx)


@shown
def run_recipe(
    recipe: Recipe | str | Path,
    store: str | Path,
    *,
    client: Any = None,
    publish: Publish | None = None,
    overwrite: bool = False,
    share: tuple[int, int] | Literal["last"] | None = None,
) -> RunReport:
    """Run every step of a recipe on a store. Blocks on disk are skipped, so that a stopped run continues.

    Parameters
    ----------
    recipe : Recipe, name or path
    store : path
    client : distributed.Client, optional
        Without a client, units run in this process, one after the other; commands do so for scans of less than 200 MB.
        Locks, ledger, resume, stop signals and results are those of a run on a cluster. Two guarantees need worker
        processes: a limit of memory, and the survival of a kernel that kills its process.
    publish : tuple of callables, optional
        Receive the events of :mod:`dfxm_dask.run.events`. By default a notebook or a terminal shows a progress bar and
        the remarks; elsewhere the logger ``dfxm_dask`` records remarks as warnings. An empty tuple silences both.
    overwrite : bool
        Recompute steps that exist with other parameters or inputs.
    share : (number from 1, count) or "last", optional
        Compute this share of the layers only, as one task of a job array: no port is opened, and the ledger joins the
        shares. Gathers and steps that depend on them require all layers and are left out, and no step becomes complete.
        "last" waits for the active shares, then computes these steps and all blocks that lost shares did not compute.

    Returns
    -------
    RunReport
        Not complete if a signal ended the run, if blocks killed their workers, or if other shares lack blocks.

    Raises
    ------
    RecipeError, StoreError, InputError
        See :func:`dfxm_dask.run.plan.make_plan` and :func:`dfxm_dask.store.integrity.ledger.begin`.
    LockedError
        Another run writes to one of the groups.

    Examples
    --------
    >>> report = dfxm_dask.run_recipe("maps", "scan.zarr")    # doctest: +SKIP
    """
    begun, publish = time.perf_counter(), publish or ()
    recipe = recipe if isinstance(recipe, Recipe) else read_recipe(recipe)
    refuse_share(share, client, overwrite)
    plan = make_plan(recipe, store)
    if not overwrite:  # refuse before the run begins
        for step in plan.steps:
            refuse_other(step, plan.store)
        _refuse_stale(plan)
    _check_space(plan)
    total = sum(len(s.blocks) for s in plan.steps if s.stored)
    dashboard = getattr(client, "dashboard_link", None)
    here = f"in this process, about {megabytes(plan.memory_bytes)} of memory, more while kernels are compiled"
    where = here if client is None else "on the workers of a cluster"
    send(publish, RunStarted(recipe.name, str(store), tuple(s.name for s in plan.steps), total, dashboard, where))
    for name, reason in plan.left_out:
        send(publish, StepLeftOut(name, reason))
    for text in plan.remarks:
        send(publish, Remark(text))
    tally = Tally(total)
    if share == "last":
        wait_for_shares(plan, publish)
        share = None
    with ExitStack() as stack, errors_of_disks(plan.store.path):
        groups = sorted({s.group for s in plan.steps if s.stored})
        part = f"share {share[0]}/{share[1]}" if share else ""
        what = f"recipe {recipe.name} on {store}{f' ({part})' if part else ''}"
        root = Path(plan.store.path)
        fences = {g: stack.enter_context(own_group(root, g, what, share)) for g in groups}
        if share is None:
            for group in groups:
                ledger.sweep(plan.store.path, group)
            if again := withdraw_provisional(plan):
                words = "since positions are means over all layers, which were not all there when it was computed"
                send(publish, Remark(f"{many(again, 'block')} of a growing scan computed again, {words}"))
        run = Run(plan, recipe, client, publish, overwrite, share, fences)
        try:
            for one in plan.passes:
                run_pass(one, run, tally)
        except StoppedError as error:
            tally.stopped = error.found
        states = {group: ledger.states(plan.store.path, group) for group in groups}
        whole = all(s.name in states[s.group] and states[s.group][s.name].complete for s in plan.steps if s.stored)
        if client is not None:
            for group in groups:
                ledger.sweep(plan.store.path, group)  # files of lost workers
    missing = (*plan.store.absent, *plan.store.cropped)
    complete = whole and not (missing or tally.why())
    found = of_results(plan.store.path, {s.group for s in plan.steps})
    for text in found:
        send(publish, Remark(text))
    seconds = time.perf_counter() - begun
    left = ""
    if share is not None and not (whole or tally.stopped or tally.quarantined):
        gathers = [s.name for s in plan.steps if s.stored and s.reduction.combine]
        names = ", ".join(dict.fromkeys([*gathers, *tally.lacking]))
        left = (
            f"{part} is done; after all shares, --shard last {f'computes {names}' if names else 'completes the steps'}"
        )
    done = RunDone(seconds, tally.done, tally.skipped, complete, plan.left_out, tally.peak, tally.why(), left)
    send(publish, done)
    return RunReport(
        complete,
        tally.done,
        tally.skipped,
        plan.left_out,
        seconds,
        tally.peak,
        missing,
        (*plan.remarks, *found),
        tuple(tally.quarantined),
        tally.stopped,
        tally.lacking.total(),
    )


def wait_for_shares(plan: Plan, publish: Publish) -> None:
    """Wait until no share of a job array is active in the groups of a plan, and publish which ones are.

    A share that was killed on another host counts as active until its heartbeat is stale.

    Raises
    ------
    StoppedError
        A signal requested the end.
    """
    told: list[str] = []
    groups = sorted({s.group for s in plan.steps if s.stored})
    while others := list(dict.fromkeys(who for g in groups for who in shares_at_work(Path(plan.store.path), g))):
        if reason := stopping.why():
            raise StoppedError(
                "the last run of a job array", f"{reason} while it waited for {others[0]}", "run it again"
            )
        if others != told:
            send(publish, Remark(f"waiting for {'; '.join(others)}"))
            told = others
        time.sleep(1)


def starts_workers(plan: Plan, cluster: str | None, workers: int | None) -> bool:
    """Whether a command runs a plan on workers: where an option requests them, or where the scan is large.

    A run in this process differs in two respects: no limit of memory is enforced, and a kernel that kills its process
    ends the run. The next run continues from the blocks on disk; with ``--workers`` it leaves that block out.
    """
    return plan.scan_bytes >= SMALL if cluster is None and workers is None else workers != 0


def refuse_share(share: tuple[int, int] | Literal["last"] | None, client: Any, overwrite: bool) -> None:
    """Refuse an impossible share.

    Raises
    ------
    RecipeError
        A number above the count; a cluster; or overwriting, which would remove blocks of other shares.
    """
    if share is None:
        return
    number, count = (1, 1) if share == "last" else share
    asked = "share last" if share == "last" else f"share {number}/{count}"
    if not 1 <= number <= count:
        raise RecipeError(asked, f"is not between 1 and {count}", "count from 1, as in --shard 1/8")
    if client is not None and share != "last":
        raise RecipeError(asked, "runs in one process, without a cluster", "leave out --cluster and --workers")
    if overwrite:
        raise RecipeError(asked, "cannot overwrite: other shares may be active", "overwrite by a run without --shard")


@contextmanager
def errors_of_disks(store: str) -> Iterator[None]:
    """Convert errors of the file system to errors with advice.

    Raises
    ------
    StoreError
        The disk is full, or the file system is read-only or unavailable.
    """
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            free = ""
            with suppress(OSError):
                free = f" ({shutil.disk_usage(store).free / 1e6:.1f} MB free)"
            raise StoreError(
                f"store {store}", f"the disk is full{free}", "free space, then run again to continue"
            ) from None
        where = f" ({error.filename})" if error.filename else ""
        raise StoreError(
            f"store {store}", f"{error.strerror or error}{where}", "check the file system, then run again to continue"
        ) from error


def _refuse_stale(plan: Plan) -> None:
    """Refuse to continue steps whose blocks were computed from inputs that have changed.

    Raises
    ------
    StoreError
        An input of a step was recomputed.
    """
    for group in dict.fromkeys(step.group for step in plan.steps if step.stored):
        bad = plan.store.opened.incomplete(group)
        for name in (step.name for step in plan.steps if step.stored and step.group == group):
            reason, remedy = bad.get(name, ("", ""))
            if RECOMPUTED in reason:
                raise StoreError(f"step {name!r} in group {group!r}", reason, remedy)


def _check_space(plan: Plan) -> None:
    """Refuse a run whose results exceed the free space.

    Raises
    ------
    StoreError
        The free space is less than half of the uncompressed results (maps of floats compress to about this size).
    """
    paths = [ledger.ledger_path(plan.store.path, s.group, s.name) for s in plan.steps]
    done = 0
    for path in paths:  # one at a time: the records of a long stack fill hundreds of megabytes
        done += sum(size for r in ledger.read_ledger(path)[1].values() for size, _ in r["files"].values())
    need = plan.bytes_written // 2 - done
    free = shutil.disk_usage(plan.store.path).free
    if free < need:
        raise StoreError(
            f"store {plan.store.path}",
            f"results need about {need / 1e6:.0f} MB, {free / 1e6:.0f} MB are free",
            "free space, or remove steps from the recipe",
        )


def plan(recipe: Recipe | str | Path, store: str | Path) -> Plan:
    """Passes and cost of a recipe: see :class:`dfxm_dask.run.plan.Plan`. No pixels are read."""
    return make_plan(recipe if isinstance(recipe, Recipe) else read_recipe(recipe), store)
