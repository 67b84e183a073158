"""Blocks of a run, computed beside the store: a block once more, to compare it, and a few, to know what a run takes.

A store beside another shows what that one has through links, and holds what is computed itself; the store of the user
is only read.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np

from dfxm_dask.errors import RecipeError, StoreError
from dfxm_dask.run.clusters.cluster import Local, open_cluster, read_cluster
from dfxm_dask.run.passes import gather_step, result_shape, unit_task
from dfxm_dask.run.plan import Pass, Plan, PlannedStep
from dfxm_dask.run.task_queue import windowed
from dfxm_dask.run.unit import UnitTask, run_unit
from dfxm_dask.store import scan
from dfxm_dask.store.chunks import map_layout
from dfxm_dask.store.integrity import ledger
from dfxm_dask.store.integrity.ledger import Record, ledger_path
from dfxm_dask.store.integrity.opened import open_store
from dfxm_dask.surroundings import numba_cache

TASK_SECONDS = 0.0017
"""What the scheduler takes for a task, whatever is in it (measured)."""
COPY_RATE = 2e9
"""Bytes a second of one array copied into a longer one, as gathers do that join lists (measured, rounded down)."""
PACKED = 0.5
"""Bytes on disk for a byte of result where nothing was probed: maps of floats hold noise (our choice)."""
PAUSE = 0.8
"""Part of its memory limit at which a worker takes no further task (the default of dask.distributed)."""


@dataclass(frozen=True)
class PassCost:
    """What one pass takes: ``blocks`` are still to do, of which ``probed`` were computed to find the seconds (of one
    worker), bytes and files of all of them. ``gather_seconds`` are spent by the client when the blocks are done."""

    steps: tuple[str, ...]
    blocks: int
    probed: int
    seconds: float
    disk_bytes: int
    files: int
    commit_seconds: float = 0.0
    gather_seconds: float = 0.0


@dataclass(frozen=True)
class Forecast:
    """What a run will take. ``seconds`` is None where nothing was probed; ``memory_bytes`` is the peak of a worker,
    ``projected_bytes`` the same from the declarations alone, ``files`` counts folders too."""

    workers: int
    passes: tuple[PassCost, ...]
    memory_bytes: int
    projected_bytes: int
    start_seconds: float = 0.0
    probed: bool = False

    @property
    def tasks(self) -> int:
        return sum(p.blocks for p in self.passes)

    @property
    def disk_bytes(self) -> int:
        return sum(p.disk_bytes for p in self.passes)

    @property
    def files(self) -> int:
        return sum(p.files for p in self.passes)

    @property
    def seconds(self) -> float | None:
        return self.start_seconds + sum(self.pass_seconds(p) for p in self.passes) if self.probed else None

    def pass_seconds(self, one: PassCost) -> float:
        """Wall time of a pass: its units in as many turns as the workers need, or its commits where these take longer;
        then its gathers."""
        turns = ceil(one.blocks / self.workers)
        units = turns * one.seconds / max(1, one.blocks)
        return max(units, one.blocks * (TASK_SECONDS + one.commit_seconds)) + one.gather_seconds


def rerun_block(plan: Plan, one: Pass, block: str, scratch: Path) -> Record:
    """One block of a pass, computed once more beside a store whose steps are complete.

    Parameters
    ----------
    plan : Plan
        Of the recipe that made the steps.
    one : Pass
        The pass of the plan.
    block : str
        Of the pass, such as ``z0003-0:768``.
    scratch : Path
        A folder; the block is written into a new folder in it, which is removed again. The store is only read.

    Returns
    -------
    dict
        As of :func:`dfxm_dask.run.unit.run_unit`: what the files of every stored step have in bytes and digests.

    Raises
    ------
    RecipeError
        The pass has no such block.
    StoreError
        An input of the block is missing or damaged.
    """
    if block not in one.steps[0].blocks:
        raise RecipeError(
            f"block {block!r}", f"is none of pass {words(one)}", f"name one like {one.steps[0].blocks[0]}"
        )
    with tempfile.TemporaryDirectory(dir=scratch, prefix="block-") as folder:
        beside = Path(folder, "store")
        mirror(plan, one.steps, beside)
        for step in one.steps:
            declare(step, plan, beside)
        return run_unit(unit_task(one, block, replace(plan.store, path=str(beside)), unfinished(one)))


def mirror(plan: Plan, steps: Sequence[PlannedStep], beside: Path) -> None:
    """A store that shows what another has, through links, but for what some steps write: of that it has nothing."""
    store = Path(plan.store.path)
    own = {(s.group, v.name) for s in steps for v in s.stored}
    opened = open_store(store)
    for group in ("", *opened.groups()):
        meta = {word: value for word, value in opened.nodes[group].items() if word != "consolidated_metadata"}
        Path(beside, group).mkdir(parents=True, exist_ok=True)
        Path(beside, group, "zarr.json").write_text(json.dumps(meta))
        for name in opened.arrays(group):
            if (group, name) not in own:
                os.symlink(store / group / name, beside / group / name, target_is_directory=True)


def declare(step: PlannedStep, plan: Plan, beside: Path) -> None:
    """The group and the arrays of a step in a store beside the one of the plan, laid out as a run lays them out."""
    if not step.stored:
        return
    here = replace(plan.store, path=str(beside))
    scan.create_group(beside, step.group, {})
    ledger_path(beside, step.group, step.name).parent.mkdir(exist_ok=True)
    if not step.reduction.combine:
        for variable in step.stored:
            shape = result_shape(variable, step, here)
            layout = map_layout(variable.dims, shape, here.rows, here.edge, step.reduction.patch)
            scan.create_array(beside, step.group, variable, layout, {})


def unfinished(one: Pass, done: Iterable[str] = ()) -> dict[str, set[str]]:
    """The stored steps of a pass with their blocks that are on disk: all of those in ``done``, else none."""
    return {step.name: set(step.blocks) if step.name in done else set() for step in one.steps if step.stored}


def words(one: Pass) -> str:
    """Names of the steps of a pass."""
    return " + ".join(step.name for step in one.steps)


def on_disk(plan: Plan) -> dict[str, frozenset[str]]:
    """Blocks of every stored step that an earlier run of the same plan has written, by what the ledgers say."""
    found: dict[str, frozenset[str]] = {}
    for step in plan.steps:
        if step.stored:
            header, records = ledger.read_ledger(ledger_path(plan.store.path, step.group, step.name))
            same = bool(header) and header["digest"] == ledger.digest(step.plan) and header["blocks"] == [*step.blocks]
            found[step.name] = frozenset(records) if same else frozenset()
    return found


def left(one: Pass, done: dict[str, frozenset[str]]) -> list[str]:
    """Blocks of a pass that some step has not on disk."""
    parts = [done[step.name] for step in one.steps if step.stored]
    return [block for block in one.steps[0].blocks if not all(block in part for part in parts)] if parts else []


def projected(plan: Plan, workers: int) -> Forecast:
    """What a run will take as far as the declarations tell: no time, and disk by rule of thumb."""
    done, costs, memory = on_disk(plan), [], 0
    for one in plan.passes:
        todo = left(one, done)
        if not todo:
            continue
        part = len(todo) / len(one.steps[0].blocks)
        arrays = sum(1 if s.reduction.combine else len(s.stored) for s in one.steps if s.stored)
        per_layer = len(one.steps[0].blocks) / max(1, len(plan.store.layers))
        files = ceil(len(todo) * arrays * (2 + 1 / per_layer))  # a file, its folder, and the folder of the layer
        nbytes = sum(s.bytes_written for s in one.steps)
        costs.append(PassCost(tuple(s.name for s in one.steps), len(todo), 0, 0.0, int(nbytes * part * PACKED), files))
        memory = max(memory, *(s.memory_bytes for s in one.steps))
    return Forecast(workers, tuple(costs), memory, memory)


def probe(
    plan: Plan,
    *,
    workers: int,
    blocks: int = 3,
    scratch: Path | None = None,
    plugins: tuple[str | Path, ...] = (),
) -> Forecast:
    """What a run will take, from a few blocks computed beside the store by workers like those of a run.

    Parameters
    ----------
    plan : Plan
    workers : int
        Of the run. As many are started here, up to one for each core of this machine.
    blocks : int
        Blocks of each pass that are timed (whole layers, where a step needs them), spread over the stack. As many as
        there are workers at least; and one more for each worker, which first has to load what it needs.
    scratch : Path, optional
        Folder for the store beside; by default that of the system for temporary files.
    plugins : tuple of path
        Files with further reductions.

    Returns
    -------
    Forecast

    Raises
    ------
    StoreError, InputError
        What a run would raise on these blocks.

    Notes
    -----
    Steps that earlier runs have done are read and not computed; a pass reads what the passes before it have made of
    the probed layers, and a gather merges these. Where kernels were compiled for it, all is measured once more, since
    a run finds them compiled. Neighbours of a probed layer that a step wants, and that are not
    there, are the layer itself. Cost is taken to grow with rows; that of a gather with the length of its lists.
    """
    if blocks < 1:
        raise RecipeError("blocks to probe", f"are {blocks}", "ask for at least 1")
    rough, done = projected(plan, workers), on_disk(plan)
    passes = [(one, todo) for one in plan.passes if (todo := left(one, done))]
    if not passes:
        return replace(rough, probed=True)
    before = compiled()
    found = _probe_passes(plan, passes, rough, blocks, scratch, plugins, done)
    return found if compiled() <= before else _probe_passes(plan, passes, rough, blocks, scratch, plugins, done)


def compiled() -> set[Path]:
    """Kernels that workers on this machine find compiled."""
    return set(numba_cache().rglob("*.nbc"))


def _probe_passes(
    plan: Plan,
    passes: list[tuple[Pass, list[str]]],
    rough: Forecast,
    blocks: int,
    scratch: Path | None,
    plugins: tuple[str | Path, ...],
    done: dict[str, frozenset[str]],
) -> Forecast:
    """The forecast of passes with blocks that are left, by fresh workers in a fresh store beside."""
    begun = time.perf_counter()
    with ExitStack() as stack:
        beside = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=scratch, prefix="probe-")), "store")
        count = max(1, min(rough.workers, os.cpu_count() or 1, len(passes[0][1])))
        client = stack.enter_context(open_cluster(workers=count, plugins=plugins))
        start = time.perf_counter() - begun
        whole = {s.name for one, _ in passes for s in one.steps if s.stored and set(s.blocks) <= done[s.name]}
        mirror(plan, [s for one, _ in passes for s in one.steps if s.name not in whole], beside)
        first, timed = chosen_layers(plan, count, blocks)
        layers = any(one.unit == "layer" for one, _ in passes)
        costs = []
        for one, todo in passes:
            for step in one.steps:
                if step.name not in whole:
                    declare(step, plan, beside)
            stand_in_neighbours(one, plan, beside, [*first, *timed])
            cost, loading = _probe_pass(one, todo, plan, beside, client, first, timed, layers, whole)
            costs.append(cost)
            start += loading
        memory = max(client.run(high_water).values())
    return Forecast(rough.workers, tuple(costs), memory, rough.projected_bytes, start, True)


def chosen_layers(plan: Plan, workers: int, blocks: int) -> tuple[list[int], list[int]]:
    """Layers to begin with, one for each worker, and those to time: spread over the stack, and apart where it is deep
    enough, so that what is timed was not read before."""
    stack = plan.store.layers
    count = min(len(stack), ceil(blocks / workers) * workers)
    timed = [stack[int((k + 0.5) * len(stack) / count)] for k in range(count)]
    others = [z for z in stack if z not in timed]
    return [*others[: min(workers, len(others))], *timed[: max(0, workers - len(others))]], timed


def chosen_blocks(one: Pass, layers: Sequence[int], whole: bool) -> list[str]:
    """Blocks of the layers: all of each where later passes need whole layers, else one of each, from another place."""
    blocks: list[str] = []
    for k, z in enumerate(layers):
        mine = [block for block in one.steps[0].blocks if ledger.layer_of(block) == z]
        blocks += mine if whole else mine[int((k + 0.5) * len(mine) / len(layers)) :][:1]
    return blocks


def stand_in_neighbours(one: Pass, plan: Plan, beside: Path, layers: Sequence[int]) -> None:
    """Where a step reads neighbouring layers that were not probed, copies of the probed ones in their place."""
    for step in one.steps:
        for name, group in step.sources.items():
            folder = beside / group / name
            if not step.reduction.halo or folder.is_symlink():
                continue
            for z in layers:
                for near in range(max(0, z - step.reduction.halo), z + step.reduction.halo + 1):
                    mine, other = folder / "c" / str(z), folder / "c" / str(near)
                    if near < plan.store.sizes["z"] and not other.exists():
                        (shutil.copytree if mine.is_dir() else shutil.copyfile)(mine, other)


def _probe_pass(
    one: Pass,
    todo: list[str],
    plan: Plan,
    beside: Path,
    client: Any,
    first: list[int],
    timed: list[int],
    layers: bool,
    whole: set[str],
) -> tuple[PassCost, float]:
    """The cost of a pass, and the seconds that workers take to load what it needs."""
    here = replace(plan.store, path=str(beside))
    addresses = list(client.nthreads())

    def tasks(blocks: Sequence[str]) -> list[UnitTask]:
        return [unit_task(one, block, here, unfinished(one, whole)) for block in blocks]

    warm = chosen_blocks(one, first, layers)
    warmed = client.gather(
        [
            client.submit(run_unit, task, pure=False, workers=[addresses[k * len(first) // len(warm) % len(addresses)]])
            for k, task in enumerate(tasks(warm))
        ]
    )
    wanted = chosen_blocks(one, timed, layers)
    records = list(windowed(client, run_unit, tasks(wanted)))
    begun = time.perf_counter()
    for record in records:
        for step in one.steps:
            if step.name in record["steps"]:
                ledger.commit(beside, step.group, step.name, {**record["steps"][step.name], "block": record["block"]})
    commit = (time.perf_counter() - begun) / len(records)
    lines = sum(
        ledger_path(beside, s.group, s.name).stat().st_size for s in one.steps if s.name not in whole and s.stored
    )
    share = rows(todo) / rows(wanted)
    seconds = sum(record["seconds"] for record in records)
    nbytes = sum(record["bytes_written"] for record in records) + lines
    gathered, small = 0.0, 0
    for step in one.steps:
        if step.reduction.combine and step.name not in whole:
            took, files = _probe_gather(step, [b for b in step.blocks if b in {*warm, *wanted}], here)
            gathered, small = gathered + took, small + sum((beside / name).stat().st_size for name in files)
    fixed = sum(3 * len(s.stored) + 3 for s in one.steps if s.name not in whole)  # metadata, roots of arrays, ledgers
    usual = seconds / rows(wanted)
    loading = max(0.0, sum(r["seconds"] for r in warmed) - usual * rows(warm)) / max(1, len(first))
    cost = PassCost(
        tuple(s.name for s in one.steps),
        len(todo),
        len(wanted),
        seconds * share,
        int(nbytes * share) + small,
        ceil(len(places(records)) * share) + fixed,
        commit,
        gathered,
    )
    return cost, loading


def _probe_gather(step: PlannedStep, blocks: list[str], here: Any) -> tuple[float, list[str]]:
    """Seconds to merge the summaries of all blocks of a step, from merging a few; and the files that it writes."""
    spent = {"combine": 0.0, "finish": 0.0}
    parts: list[int] = []
    merged: list[int] = [0]

    def size(summary: dict[str, np.ndarray]) -> int:
        return sum(np.asarray(values).nbytes for values in summary.values())

    def watched(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*summaries: Any) -> Any:
            (parts if name == "combine" else merged).append(size(summaries[-1]))
            begun = time.perf_counter()
            try:
                return function(*summaries)
            finally:
                spent[name] += time.perf_counter() - begun

        return call

    def finished(last: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        made = watched("finish", step.reduction.finish or (lambda same: same))(last)
        return {name: _for_all_layers(values, name, step, blocks, here.sizes["z"]) for name, values in made.items()}

    assert step.reduction.combine is not None
    reduction = replace(step.reduction, combine=watched("combine", step.reduction.combine), finish=finished)
    begun = time.perf_counter()
    files = gather_step(replace(step, reduction=reduction, blocks=tuple(blocks)), here)
    rest = time.perf_counter() - begun - sum(spent.values())
    share = len(step.blocks) / len(blocks)
    part = sum(parts) / len(parts) if parts else merged[-1]
    grows = len(blocks) > 1 and merged[-1] > 1.5 * part
    joining = part * len(step.blocks) ** 2 / 2 / COPY_RATE if grows else 0.0
    finishing = spent["finish"] * (share if grows else 1.0)
    return (rest + spent["combine"]) * share + joining + finishing, files


def _for_all_layers(values: np.ndarray, name: str, step: PlannedStep, blocks: list[str], count: int) -> np.ndarray:
    """A gathered result with a row for every layer of the store: that of the last probed one up to it."""
    dims = next((v.dims for v in step.writes if v.name == name), ())
    layers = sorted({ledger.layer_of(block) for block in blocks})
    if "z" not in dims or np.shape(values)[dims.index("z")] != len(layers):
        return values
    nearest = np.searchsorted(layers, np.arange(count), side="right") - 1
    return np.take(values, np.maximum(nearest, 0), axis=dims.index("z"))


def rows(blocks: Iterable[str]) -> int:
    """Rows of detector pixels in some blocks."""
    ends = [block.partition("-")[2].split(":") for block in blocks]
    return sum(int(stop) - int(start) for start, stop in ends)


def places(records: Iterable[Record]) -> set[str]:
    """Files of some records, and the folders that they alone lie in."""
    found: set[str] = set()
    for record in records:
        for part in record["steps"].values():
            for name in part["files"]:
                found |= {name, *(str(p) for p in Path(name).parents if "c" in p.parts[:-1])}
    return found


def high_water() -> int:
    """Largest resident memory of this process so far, in bytes. (What ``getrusage`` says begins with its parent's.)"""
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith("VmHWM"))


def worker_limits(cluster: str | Path | None, workers: int | None, memory_limit: str | None) -> tuple[int, int]:
    """How many workers a run has, and the bytes of memory of each, by the options that a run takes.

    Raises
    ------
    RecipeError
        A cluster file that is wrong, or one that only its scheduler knows; or no size of memory.
    """
    from dask.system import CPU_COUNT
    from dask.utils import parse_bytes
    from distributed.system import MEMORY_LIMIT

    if cluster and "://" in str(cluster):
        raise RecipeError(f"cluster {cluster}", "is known to its scheduler only", "say --workers and --memory-limit")
    setup = read_cluster(cluster) if cluster else Local(kind="local")
    if isinstance(setup, Local):
        count = workers or setup.workers or CPU_COUNT
        size, share = memory_limit or setup.memory_limit or str(int(0.9 * MEMORY_LIMIT / count)), 1
    else:
        count = (workers or setup.jobs or setup.maximum_jobs or 1) * setup.workers_per_job
        size, share = (memory_limit, 1) if memory_limit else (setup.memory, setup.workers_per_job)
    try:
        return count, int(parse_bytes(size)) // share
    except ValueError:
        raise RecipeError("memory limit", f"is {size!r}", "write a size such as 2GiB") from None


def refuse_unfit(plan: Plan, forecast: Forecast, memory_limit: int) -> None:
    """Refuse a run that cannot end: workers without enough memory, a file system without enough room.

    Parameters
    ----------
    memory_limit : int
        Of a worker, in bytes.

    Raises
    ------
    RecipeError
        A unit needs more memory than a worker may use before it is paused.
    StoreError
        Too few bytes, or too few files, are free where the store lies.
    """
    usable = int(memory_limit * PAUSE)
    if forecast.memory_bytes > usable:
        most = max(plan.steps, key=lambda s: s.memory_bytes)
        raise RecipeError(
            f"a unit of {' + '.join([most.name, *most.fused_with])}",
            f"takes {forecast.memory_bytes / 1e6:.0f} MB, and a worker of {memory_limit / 1e6:.0f} MB is paused at"
            f" {usable / 1e6:.0f} MB",
            f"give each worker {forecast.memory_bytes / PAUSE / 1e6:.0f} MB (--memory-limit, or fewer --workers), or"
            " leave steps out",
        )
    path = plan.store.path
    free = shutil.disk_usage(path).free
    if forecast.disk_bytes > free:
        raise StoreError(
            f"store {path}",
            f"results need {forecast.disk_bytes / 1e6:.0f} MB, {free / 1e6:.0f} MB are free",
            "free space, or leave steps out",
        )
    system = os.statvfs(path)
    if system.f_files and forecast.files > system.f_favail:  # some file systems know no limit and say 0
        raise StoreError(
            f"store {path}",
            f"results need {forecast.files} files and folders, {system.f_favail} are free",
            "free some, or leave steps out",
        )
