"""One pass of a run: begin its steps, run its units, commit each block, gather, and complete its steps."""

from __future__ import annotations

import time
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import cached_property, reduce
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dfxm_dask import __version__
from dfxm_dask.engine.shapes import lengths
from dfxm_dask.errors import StoreError
from dfxm_dask.run import stopping
from dfxm_dask.run.events import BlockDone, BlockQuarantined, BlockSkipped, StepDone, Subscriber, send
from dfxm_dask.run.plan import Pass, Plan, PlannedStep, Stored
from dfxm_dask.run.recipe import Recipe
from dfxm_dask.run.task_queue import windowed
from dfxm_dask.run.unit import UnitStep, UnitTask, run_unit, summary_path
from dfxm_dask.schema import SCAN, SPACE, Variable, scale_attrs
from dfxm_dask.store.chunks import Layout, map_layout, unit_frames
from dfxm_dask.store.integrity import ledger, nodes
from dfxm_dask.store.integrity.lock import Fence, hold
from dfxm_dask.store.metadata import read_node

if TYPE_CHECKING:
    from contextlib import AbstractContextManager


@dataclass(frozen=True)
class Run:
    """Common data of all passes of a run."""

    plan: Plan
    recipe: Recipe
    client: Any
    publish: tuple[Subscriber, ...]
    overwrite: bool
    share: tuple[int, int] | None
    fences: Mapping[str, Fence]

    @cached_property
    def layers(self) -> frozenset[int]:
        """Layers of this run: all of them, or for a share of a job array consecutive ones, so that most have their
        neighbours."""
        stack = self.plan.store.layers
        number, count = self.share or (1, 1)
        return frozenset(stack[len(stack) * (number - 1) // count : len(stack) * number // count])


@dataclass
class Tally:
    """Progress of a run; ``lacking`` counts the blocks of each step whose inputs are missing."""

    total: int
    done: int = 0
    skipped: int = 0
    peak: int = 0
    quarantined: list[tuple[str, str, str]] = field(default_factory=list)
    stopped: str = ""
    lacking: Counter[str] = field(default_factory=Counter)

    def why(self) -> str:
        """Why the run is not complete; empty if it is."""
        reasons = [self.stopped] if self.stopped else []
        if self.quarantined:
            first = self.quarantined[0]
            names = ", ".join(f"block {block} of {step}" for step, block, _ in self.quarantined)
            reasons.append(f"left out {names} ({first[1]}: {first[2]})")
        if self.lacking:
            reasons.append(f"{self.lacking.total()} blocks wait for inputs")
        return "; ".join(reasons)


def run_pass(one: Pass, run: Run, tally: Tally) -> None:
    """Run the units of a pass whose inputs exist. A run of all layers then completes the steps; a share does not.

    Raises
    ------
    StoppedError
        A signal requested the end.
    """
    begun = time.perf_counter()
    store = run.plan.store
    mine = [b for b in one.steps[0].blocks if ledger.layer_of(b) in run.layers]
    all_there = run.share is None and not tally.quarantined
    usable = run.layers if all_there else usable_layers(one, run)
    blocks = [b for b in mine if ledger.layer_of(b) in usable]
    stored = [s for s in one.steps if s.stored]
    tally.lacking += Counter({s.name: len(mine) - len(blocks) for s in stored if len(mine) > len(blocks)})
    if not blocks:
        return
    with joint(run, one):
        if run.overwrite:  # readers must not see invalidated steps
            for step in stored:
                ledger.withdraw(store.path, step.group, step.name)
            nodes.consolidate(store.path)
        finished = {s.name: begin_step(s, run) for s in stored}
        if any(len(done) < len(one.steps[0].blocks) for done in finished.values()):
            nodes.consolidate(store.path)  # readers must not see unfinished steps
    for name, done in finished.items():
        for block in sorted(done.intersection(blocks)):
            tally.skipped += 1
            send(run.publish, BlockSkipped(name, block, tally.done + tally.skipped, tally.total))
    units = (unit_task(one, block, store, finished, run.fences) for block in blocks)
    pending = (u for u in units if any(s.store_results for s in u.steps))
    made_of = inputs_of(one, store)
    failed: list[tuple[UnitTask, str]] = []
    for record in windowed(run.client, run_unit, pending, failed):
        tally.peak = max(tally.peak, record["rss"])
        for step in (s for s in stored if s.name in record["steps"]):
            part, fence = record["steps"][step.name], run.fences[step.group]
            fence.check()
            entry = {
                "block": record["block"],
                "read": part["read"],
                "files": part["files"],
                "seconds": record["seconds"],
                "inputs": made_of(step, record["block"]),
                "plan": ledger.digest(step.plan),
                "run": fence.token,
            }
            ledger.commit(store.path, step.group, step.name, entry, share=run.share)
            tally.done += 1
        send(
            run.publish,
            BlockDone(
                "+".join(record["steps"]),
                record["block"],
                record["seconds"],
                record["bytes_read"],
                record["bytes_written"],
                tally.done + tally.skipped,
                tally.total,
            ),
        )
    for unit, reason in failed:
        for step_name in (s.name for s in unit.steps if s.store_results):
            tally.quarantined.append((step_name, unit.block, reason))
            send(run.publish, BlockQuarantined(step_name, unit.block, reason))
    if run.share is None:  # otherwise other shares may be at work
        complete_pass(one, run, begun)


def joint(run: Run, one: Pass) -> AbstractContextManager[Any]:
    """Lock for the work that shares of a job array must do one after the other: the declaration of arrays."""
    if run.share is None:
        return nullcontext()
    groups = sorted({s.group for s in one.steps if s.stored})
    folder = Path(run.plan.store.path, groups[0] if groups else "", ".ledger")
    what = f"share {run.share[0]}/{run.share[1]}"
    return hold(folder, "joint", what=what, wait=float("inf"), unless=stopping.why)


def usable_layers(one: Pass, run: Run) -> set[int]:
    """Layers for which the inputs of a pass from earlier passes of this run are on disk."""
    layers = set(run.plan.store.layers)
    earlier: dict[str, PlannedStep] = {}
    for other in run.plan.passes:
        if other is one:
            break
        earlier |= {f"{s.group}/{s.name}": s for s in other.steps if s.stored}
    for step in one.steps:
        for maker in (earlier[source] for source in step.plan["inputs"] if source in earlier):
            state = ledger.states(run.plan.store.path, maker.group).get(maker.name)
            if state is None or (maker.reduction.combine and not state.complete):
                return set()
            if state.complete:
                continue
            lacking = {ledger.layer_of(b) for b in state.blocks if b not in state.done}
            halo = step.reduction.halo
            layers -= {z + k for z in lacking for k in range(-halo, halo + 1)}
    return layers


def begin_step(step: PlannedStep, run: Run) -> set[str]:
    """Open the ledger of a step and declare its group and arrays if they are new; returns the blocks on disk."""
    store = run.plan.store

    def declare() -> None:
        if step.reduction.combine:
            return
        for variable in step.stored:
            layout = result_layout(variable, step, store)
            nodes.create_array(store.path, step.group, variable, layout, _scale(step, run.plan))
        ledger.sync_files(store.path, [f"{step.group}/{v.name}/zarr.json" for v in step.stored])

    nodes.create_group(store.path, step.group, {})
    header = ledger.read_header(ledger.ledger_path(store.path, step.group, step.name))
    there = [Path(store.path, step.group, v.name, "zarr.json").exists() for v in step.stored]
    if header and not step.reduction.combine and not all(there):
        ledger.withdraw(store.path, step.group, step.name)  # blocks without metadata cannot be read
    recipe = [{"name": s.name, "parameters": s.parameters, "optional": s.optional} for s in run.recipe.steps]
    return ledger.begin(
        store.path,
        step.group,
        step.name,
        step.plan,
        step.blocks,
        declare=declare,
        recipe={"name": run.recipe.name, "steps": recipe},
    )


def refuse_other(step: PlannedStep, store: Stored) -> None:
    """Refuse to continue a step of another plan, or a step that an earlier version began with another dtype.

    Raises
    ------
    StoreError
        The plan or the dtype of an array differs.
    """
    state = store.opened.states(step.group).get(step.name)
    if state is None:
        return
    ledger.check_plan(step.group, step.name, state.header, step.plan)
    if len(state.done) == len(state.blocks) or step.reduction.combine:
        return
    there = store.opened.arrays(step.group)
    for variable in (v for v in step.stored if v.name in there):
        begun = store.opened.declared(step.group, variable.name).dtype
        if begun != variable.dtype:
            raise StoreError(
                f"step {step.name!r} in group {step.group!r}",
                f"has {len(state.done)} of {len(state.blocks)} blocks on disk, with {variable.name} as {begun};"
                f" its dtype is now {variable.dtype}",
                "recompute the step with --overwrite",
            )


def complete_pass(one: Pass, run: Run, begun: float) -> None:
    """Complete those steps of a pass whose blocks are all on disk, including blocks of shares."""
    store = run.plan.store
    states = {group: ledger.states(store.path, group) for group in {s.group for s in one.steps if s.stored}}
    for step in (s for s in one.steps if s.stored):
        state = states[step.group].get(step.name)
        if state is None or state.complete or len(state.done) < len(state.blocks):
            continue
        refuse_changed_inputs(step, store)
        small = gather_step(step, store) if step.reduction.combine else []
        run.fences[step.group].check()
        metadata = [f"{step.group}/{v.name}/zarr.json" for v in step.stored]
        ledger.complete(store.path, step.group, step.name, provenance_of(step, run.plan), {*small, *metadata})
        send(run.publish, StepDone(step.name, len(step.blocks), time.perf_counter() - begun))
    nodes.consolidate(store.path)


def refuse_changed_inputs(step: PlannedStep, store: Stored) -> None:
    """Refuse results whose inputs were recomputed during the run, since blocks then derive from different inputs.

    Raises
    ------
    StoreError
        An input has changed since the run was planned.
    """
    for source, planned in step.plan["inputs"].items():
        group, _, maker = source.partition("/")
        if group == "raw":
            found = ledger.group_provenance(store.path, group)[1].get(maker, {}).get("digest")
        else:  # results that exist within one pass only have no ledger
            found = ledger.read_header(ledger.ledger_path(store.path, group, maker)).get("digest", planned)
        if found != planned:
            raise StoreError(
                f"step {step.name!r} in group {step.group!r}",
                f"its input {source} was recomputed during the run",
                "run it again with --overwrite",
            )


def inputs_of(one: Pass, store: Stored) -> Callable[[PlannedStep, str], dict[str, str]]:
    """Function from a step and a block to the digests of all inputs from outside the pass."""
    own = {f"{s.group}/{s.name}" for s in one.steps}
    known = {
        source: ledger.content_by_layer(store.path, source)
        for source in {source for s in one.steps for source in s.plan["inputs"]} - own
    }

    def made_of(step: PlannedStep, block: str) -> dict[str, str]:
        return {
            source: ledger.inputs_digest(known[source], ledger.layer_of(block), step.reduction.halo)
            for source in step.plan["inputs"]
            if known.get(source)
        }

    return made_of


def result_shape(variable: Variable, step: PlannedStep, store: Stored) -> tuple[int, ...]:
    """Length of every dim of a variable; dims of a table that the step reads have the lengths of the table."""
    sizes = dict(store.sizes)
    for read in step.reduction.reads:
        if {*variable.dims} & {*read.dims} - {*SPACE, SCAN}:
            found = read_node(Path(store.path, step.sources[read.name], read.name))
            sizes |= zip(found["dimension_names"], found["shape"], strict=True)
    known = lengths(step.reduction, store.axes, step.parameters, sizes)
    return tuple(known[d] or 0 for d in variable.dims)


def result_layout(variable: Variable, step: PlannedStep, store: Stored) -> Layout:
    """Layout on disk of a variable of a step: whole shards for every unit."""
    cut = None
    if step.reduction.by_frame:
        cut = next(iter(store.axes)), unit_frames(store.shape, store.itemsize)
    shape = result_shape(variable, step, store)
    return map_layout(variable.dims, shape, store.rows, store.edge, step.reduction.patch, cut)


def unit_task(
    one: Pass, block: str, store: Stored, finished: Mapping[str, set[str]], fences: Mapping[str, Fence] | None = None
) -> UnitTask:
    """The unit of a block. A step on disk runs again only if another step of the pass requires its output."""
    steps: list[UnitStep] = []
    needed: set[str] = set()
    for step in reversed(one.steps):
        wanted = step.name in finished and block not in finished[step.name]
        if wanted or needed & {v.name for v in step.writes}:
            needed |= set(step.sources)
            fence = (fences or {}).get(step.group)
            unit = UnitStep(step.name, step.group, step.parameters, step.sources, wanted, step.tiled, fence)
            steps.insert(0, unit)
    z, rows, frames = ledger.block_ranges(block)
    y0, y1 = rows or (0, store.sizes["y"])
    layer = one.unit != "band"
    return UnitTask(store.path, tuple(steps), z, y0, y1, layer, dict(store.axes), store.rows, frames)


def gather_step(step: PlannedStep, store: Stored) -> list[str]:
    """Merge the summaries of all blocks in block order and write the result whole; returns the files written."""
    combine, finish = step.reduction.combine, step.reduction.finish
    assert combine is not None
    if not step.blocks:
        raise StoreError(f"step {step.name}", "has no blocks", "ingest a scan with at least one layer")
    merged = reduce(combine, (read_summary(summary_path(store.path, step.group, step.name, b)) for b in step.blocks))
    result = finish(merged) if finish else merged
    columns = [v for v in step.stored if v.name in store.sizes]  # named like coordinates of the scan: y, x, time
    for variable in step.stored:
        values = np.asarray(result[variable.name], variable.dtype)
        attrs = variable.attrs
        if beside := [v.name for v in columns if {*v.dims} <= {*variable.dims} and variable not in columns]:
            attrs |= {"coordinates": " ".join(beside)}
        nodes.write_small(store.path, step.group, variable.name, variable.dims, values, attrs)
    folders = [Path(store.path, step.group, v.name) for v in step.stored]
    return [str(p.relative_to(store.path)) for f in folders for p in sorted(f.rglob("*")) if p.is_file()]


def read_summary(path: Path) -> dict[str, np.ndarray]:
    """Summary of one block for a gather.

    Raises
    ------
    StoreError
        The file is damaged.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise StoreError(f"summary {path}", f"cannot be read ({error})", "run dfxm-dask verify --repair") from None


def passing(step: PlannedStep, plan: Plan) -> dict[str, dict[str, Any]]:
    """Parameters of the earlier steps that changed the counts of a step."""
    makers = {f"{s.group}/{s.name}": s for s in plan.steps if any(v.name == "counts" for v in s.writes)}
    found: dict[str, dict[str, Any]] = {}
    for source in (s for s in step.plan["inputs"] if s in makers):
        found |= {source: makers[source].parameters, **passing(makers[source], plan)}
    return found


def _scale(step: PlannedStep, plan: Plan) -> dict[str, str]:
    """Attributes that record the scale of the counts behind an array."""
    found = passing(step, plan).get("frames/normalise")
    if found is None:
        return {}
    beam = read_node(Path(plan.store.path, "raw", found["by"]))["attributes"]
    return scale_attrs(found, str(beam.get("counter", "")))


def provenance_of(step: PlannedStep, plan: Plan) -> dict[str, Any]:
    """Provenance of the results of a step: version, parameters, and digests of its inputs."""
    store = plan.store
    inputs = {}
    for source in step.plan["inputs"]:
        group, _, maker = source.partition("/")
        made = ledger.group_provenance(store.path, group)[1]
        if "digest" in made.get(maker, {}):  # otherwise it exists within one pass, and the plan contains its parameters
            inputs[source] = made[maker]["digest"]
    return {
        "reduction": step.name,
        "version": __version__,
        "parameters": step.parameters,
        "inputs": inputs,
        "files": step.plan.get("files", {}),
        "reads": sorted(step.sources),
        "passing": passing(step, plan),
        "absent": list(store.absent),
        "numpy": np.__version__,
    }
