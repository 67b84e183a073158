"""Run a recipe: passes in order, units in parallel, every block committed as it comes."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import zarr

from dfxm_dask import __version__
from dfxm_dask.errors import DfxmError, StoreError
from dfxm_dask.graph import FIXED
from dfxm_dask.run.events import (
    BlockDone,
    BlockSkipped,
    IngestDone,
    IngestStarted,
    LayerDone,
    Remark,
    RunDone,
    RunStarted,
    StepDone,
    StepLeftOut,
    Subscriber,
    send,
)
from dfxm_dask.run.plan import Pass, Plan, PlannedStep, Stored, make_plan
from dfxm_dask.run.recipe import Recipe, read_recipe
from dfxm_dask.run.remarks import of_results
from dfxm_dask.run.unit import UnitStep, UnitTask, run_unit, summary_path
from dfxm_dask.schema import PATCH, Variable
from dfxm_dask.store import ledger, scan
from dfxm_dask.store.chunks import map_layout
from dfxm_dask.store.ingest import IngestReport, ingest
from dfxm_dask.store.simulate import simulate

if TYPE_CHECKING:
    import xarray as xr

Publish = tuple[Subscriber, ...]


@dataclass(frozen=True)
class RunReport:
    """What a run did."""

    complete: bool
    blocks_done: int
    blocks_skipped: int
    left_out: tuple[tuple[str, str], ...]
    seconds: float
    peak_rss_bytes: int
    absent: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()


def windowed(client: Any, function: Callable[[Any], Any], tasks: Iterable[Any]) -> Iterator[Any]:
    """Results of a function over tasks as they come, with twice as many in flight as there are threads.

    Without a client everything runs here, in order.

    Raises
    ------
    DfxmError
        What a task raised; or a worker that died three times over the same task.
    """
    if client is None:
        yield from map(function, tasks)
        return
    from distributed import as_completed
    from distributed.scheduler import KilledWorker

    rest = iter(tasks)

    window, asked = 0, float("-inf")

    def room() -> int:
        """Workers come and go: the window follows them; asking the scheduler each time would cost 10 ms a task."""
        nonlocal window, asked
        if time.monotonic() - asked > 2:
            window, asked = max(2, 2 * sum(client.nthreads().values())), time.monotonic()
        return window - flying.count()

    flying = as_completed([])
    flying.update([client.submit(function, t, pure=False) for t in islice(rest, room())])
    try:
        for future in flying:
            try:
                result = future.result()
            except KilledWorker as error:
                raise DfxmError(
                    f"task {function.__name__}", f"its worker died repeatedly ({error})", "look at the memory limit"
                ) from None
            flying.update([client.submit(function, t, pure=False) for t in islice(rest, max(1, room()))])
            del future
            yield result
    finally:
        client.cancel([f for f in flying.futures])


def run_ingest(
    source: Any, store: str | Path, *, client: Any = None, publish: Publish = (), **options: Any
) -> IngestReport:
    """:func:`dfxm_dask.ingest` with layers in parallel on a cluster, and with events.

    Parameters
    ----------
    client : distributed.Client, optional
        Without one, layers are written here, one after the other.
    options
        As of :func:`dfxm_dask.ingest`.
    """
    begun = time.perf_counter()

    def size(task: Any) -> tuple[int, int]:
        frames = prod(task.scan.shape)
        return frames, frames * _area(task) * task.scan.dtype.itemsize

    report = ingest(source, store, each=_layers(str(source), store, size, client, publish), **options)
    send(publish, IngestDone(time.perf_counter() - begun, report.bytes))
    return report


def run_simulate(
    preset: str, out: str | Path, *, client: Any = None, publish: Publish = (), **options: Any
) -> xr.DataTree:
    """:func:`dfxm_dask.simulate` with layers in parallel on a cluster, and with events.

    Parameters
    ----------
    client : distributed.Client, optional
        Without one, layers are written here, one after the other.
    options
        As of :func:`dfxm_dask.simulate`.
    """
    begun = time.perf_counter()
    total = 0

    def size(task: Any) -> tuple[int, int]:
        nonlocal total
        frames = prod(task.phantom.grid)
        total += 2 * frames * prod(task.phantom.shape)
        return frames, 2 * frames * prod(task.phantom.shape)

    tree = simulate(preset, out, each=_layers(f"preset {preset}", out, size, client, publish), **options)
    send(publish, IngestDone(time.perf_counter() - begun, total, "simulated"))
    return tree


def _layers(
    source: str, target: str | Path, size: Callable[[Any], tuple[int, int]], client: Any, publish: Publish
) -> Callable[[Callable[[Any], Any], Iterable[Any]], Iterator[Any]]:
    """A parallel stand-in for ``map`` over the layers of a scan that says what it does.

    ``size`` gives frames and bytes of a task.
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


def run_recipe(
    recipe: Recipe | str | Path, store: str | Path, *, client: Any = None, publish: Publish = (),
    overwrite: bool = False,
) -> RunReport:  # fmt: skip
    """Run every step of a recipe on a store. Blocks that are on disk already are skipped: a stopped run goes on.

    Parameters
    ----------
    recipe : Recipe, name or path
    store : path
    client : distributed.Client, optional
        Without one, units run in this process, one after the other.
    publish : callables
        Receive the events of :mod:`dfxm_dask.run.events`.
    overwrite : bool
        Make steps anew that are there with other parameters or inputs.

    Returns
    -------
    RunReport

    Raises
    ------
    RecipeError, StoreError, InputError
        See :func:`dfxm_dask.run.plan.make_plan` and :func:`dfxm_dask.store.ledger.begin`.

    Examples
    --------
    >>> report = dfxm_dask.run_recipe("maps", "scan.zarr")    # doctest: +SKIP
    """
    begun = time.perf_counter()
    recipe = recipe if isinstance(recipe, Recipe) else read_recipe(recipe)
    plan = make_plan(recipe, store)
    if not overwrite:  # refuse before anything is begun
        for step in plan.steps:
            ledger.check_plan(plan.store.path, step.group, step.name, step.plan)
            _refuse_stale(step, plan.store)
    _check_space(plan)
    total = sum(len(s.blocks) for s in plan.steps if s.stored)
    dashboard = getattr(client, "dashboard_link", None)
    send(publish, RunStarted(recipe.name, str(store), tuple(s.name for s in plan.steps), total, dashboard))
    for name, reason in plan.left_out:
        send(publish, StepLeftOut(name, reason))
    for text in plan.remarks:
        send(publish, Remark(text))
    done = skipped = 0
    peak = 0
    for one in plan.passes:
        counted = _run_pass(one, plan, client, publish, overwrite, done + skipped, total)
        done, skipped, peak = done + counted[0], skipped + counted[1], max(peak, counted[2])
    seconds = time.perf_counter() - begun
    missing = (*plan.store.absent, *plan.store.cropped)
    complete = not missing
    found = of_results(plan.store.path, {s.group for s in plan.steps})
    for text in found:
        send(publish, Remark(text))
    send(publish, RunDone(seconds, done, skipped, complete, plan.left_out, peak))
    return RunReport(complete, done, skipped, plan.left_out, seconds, peak, missing, (*plan.remarks, *found))


def _run_pass(
    one: Pass, plan: Plan, client: Any, publish: Publish, overwrite: bool, before: int, total: int
) -> tuple[int, int, int]:  # fmt: skip
    """All units of one pass. Returns blocks done, blocks skipped, peak memory of a worker in bytes."""
    store = plan.store
    finished: dict[str, set[str]] = {}
    for step in one.steps:
        if step.stored:
            finished[step.name] = _begin(step, store, overwrite)
    skipped = sum(len(blocks) for blocks in finished.values())
    count = before
    for name, blocks in finished.items():
        for block in sorted(blocks):
            count += 1
            send(publish, BlockSkipped(name, block, count, total))
    if any(len(blocks) < len(one.steps[0].blocks) for blocks in finished.values()):
        scan.consolidate(store.path)  # what is being written is not to be seen
    units = [_task(one, block, store, finished) for block in one.steps[0].blocks]
    pending = [u for u in units if any(s.store_results for s in u.steps)]
    done = peak = 0
    begun = time.perf_counter()
    for record in windowed(client, run_unit, pending):
        peak = max(peak, record["rss"])
        for name, part in record["steps"].items():
            step = next(s for s in one.steps if s.name == name)
            ledger.commit(
                store.path, step.group, name,
                {"block": record["block"], "read": part["read"], "files": part["files"], "seconds": record["seconds"]},
            )  # fmt: skip
            done, count = done + 1, count + 1
        send(
            publish,
            BlockDone(
                "+".join(record["steps"]), record["block"], record["seconds"], record["bytes_read"],
                record["bytes_written"], count, total,
            ),
        )  # fmt: skip
    for step in one.steps:
        if step.name in finished and not ledger.states(store.path, step.group)[step.name].complete:
            small = _gather(step, store) if step.reduction.combine else []
            ledger.complete(store.path, step.group, step.name, _provenance(step, store), small)
            send(publish, StepDone(step.name, len(step.blocks), time.perf_counter() - begun))
    scan.consolidate(store.path)
    return done, skipped, peak


def _begin(step: PlannedStep, store: Stored, overwrite: bool) -> set[str]:
    """Open the ledger of a step; declare its group and arrays where they are new."""
    scan.create_group(store.path, step.group, {})
    done = ledger.begin(store.path, step.group, step.name, step.plan, step.blocks, overwrite=overwrite)
    if done:
        return done
    if not step.reduction.combine:
        for variable in step.stored:
            shape = _shape(variable, step, store)
            layout = map_layout(variable.dims, shape, store.rows, store.edge, step.reduction.patch)
            scan.create_array(store.path, step.group, variable, layout, {})
    return done


def _refuse_stale(step: PlannedStep, store: Stored) -> None:
    """Refuse to go on with a step whose blocks were made of inputs that are there no more.

    Raises
    ------
    StoreError
        An input of the step was made anew since.
    """
    bad = scan.incomplete(store.path, step.group, ledger.states(store.path, step.group)) if step.stored else {}
    reason, remedy = bad.get(step.name, ("", ""))
    if "made anew" in reason:
        raise StoreError(f"step {step.name!r} in group {step.group!r}", reason, remedy)


def _check_space(plan: Plan) -> None:
    """Refuse a run whose results cannot fit.

    Raises
    ------
    StoreError
        Less is free than half of the uncompressed results (maps of floats compress to about that).
    """
    paths = [ledger.ledger_path(plan.store.path, s.group, s.name) for s in plan.steps]
    records = [r for path in paths for r in ledger.read_ledger(path)[1].values()]
    need = plan.bytes_written // 2 - sum(size for r in records for size, _ in r["files"].values())
    free = shutil.disk_usage(plan.store.path).free
    if free < need:
        raise StoreError(
            f"store {plan.store.path}",
            f"results need about {need / 1e6:.0f} MB, {free / 1e6:.0f} MB are free",
            "free space, or leave steps out",
        )


def _shape(variable: Variable, step: PlannedStep, store: Stored) -> tuple[int, ...]:
    """Length of every dim; of components as in the basis that the step reads."""
    patch = step.reduction.patch or PATCH
    sizes = {**store.sizes, **FIXED, **{f"patch_{d}": -(-store.sizes[d] // patch) for d in ("y", "x")}}
    for read in step.reduction.reads:
        if any(d.endswith("component") and d in read.dims for d in variable.dims):
            found = zarr.open_array(str(Path(store.path, step.sources[read.name], read.name)), mode="r")
            sizes |= dict(
                zip(scan.declared(store.path, step.sources[read.name], read.name).dims, found.shape, strict=True)
            )
    return tuple(sizes[d] for d in variable.dims)


def _task(one: Pass, block: str, store: Stored, finished: Mapping[str, set[str]]) -> UnitTask:
    """The unit of a block. Steps that are on disk are run again only where others in the pass need their output."""
    steps: list[UnitStep] = []
    needed: set[str] = set()
    for step in reversed(one.steps):
        wanted = step.name in finished and block not in finished[step.name]
        if wanted or needed & {v.name for v in step.writes}:
            needed |= set(step.sources)
            steps.insert(0, UnitStep(step.name, step.group, step.parameters, step.sources, wanted, step.tiled))
    z, _, rows = block.partition("-")
    y0, y1 = (int(v) for v in rows.split(":"))
    return UnitTask(store.path, tuple(steps), int(z[1:]), y0, y1, one.unit == "layer", dict(store.axes), store.rows)


def _gather(step: PlannedStep, store: Stored) -> list[str]:
    """Merge the summaries of all blocks, in block order, and write the result whole. Returns the files written."""
    merged: dict[str, np.ndarray] | None = None
    combine, finish = step.reduction.combine, step.reduction.finish
    assert combine is not None
    for block in step.blocks:
        with np.load(summary_path(store.path, step.group, step.name, block), allow_pickle=False) as file:
            part = {name: file[name] for name in file.files}
        merged = part if merged is None else combine(merged, part)
    if merged is None:
        raise StoreError(f"step {step.name}", "has no blocks", "ingest a scan with at least one layer")
    result = finish(merged) if finish else merged
    for variable in step.stored:
        values = np.asarray(result[variable.name], variable.dtype)
        scan.write_small(store.path, step.group, variable.name, variable.dims, values, variable.attrs)
    folders = [Path(store.path, step.group, v.name) for v in step.stored]
    return [str(p.relative_to(store.path)) for f in folders for p in sorted(f.rglob("*")) if p.is_file()]


def _provenance(step: PlannedStep, store: Stored) -> dict[str, Any]:
    """How to make the step's results again, and what they were made of."""
    inputs, known = {}, set(scan.groups(store.path))
    for source in step.plan["inputs"]:
        group, _, maker = source.partition("/")
        made = scan.read_group_meta(store.path, group)["attributes"].get("provenance", {}) if group in known else {}
        if maker in made:  # else it lives in one pass, and what it does is in the plan
            inputs[source] = made[maker].get("digest", "lives in one pass")
    return {
        "reduction": step.name,
        "version": __version__,
        "parameters": step.parameters,
        "inputs": {k: v for k, v in inputs.items() if v != "lives in one pass"},
        "files": step.plan.get("files", {}),
        "reads": sorted(step.sources),
        "absent": list(store.absent),
        "numpy": np.__version__,
    }


def plan(recipe: Recipe | str | Path, store: str | Path) -> Plan:
    """What a recipe would do: see :class:`dfxm_dask.run.plan.Plan`. Touches no pixels."""
    return make_plan(recipe if isinstance(recipe, Recipe) else read_recipe(recipe), store)
