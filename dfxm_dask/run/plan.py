"""From a recipe and a store to passes over the data: shared reading, fused steps, and cost."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from dfxm_dask import __version__
from dfxm_dask.catalogue import find
from dfxm_dask.engine.shapes import UNKNOWN, expanded_writes, lengths, projected_memory
from dfxm_dask.errors import InputError, RecipeError
from dfxm_dask.reduction import Reduction
from dfxm_dask.run.checks.unfit import unfit
from dfxm_dask.run.recipe import Recipe, Step
from dfxm_dask.run.scan_remarks import positions_apart, uneven_frames
from dfxm_dask.schema import COUNTS, REFLECTION, SCAN, Dim, Variable, check, expand
from dfxm_dask.store.calibrate import recover
from dfxm_dask.store.chunks import bands, unit_frames
from dfxm_dask.store.crystal import with_crystal
from dfxm_dask.store.integrity import ledger
from dfxm_dask.store.integrity.opened import Source, Stored, describe, open_store, readable


@dataclass(frozen=True)
class PlannedStep:
    """One step of a recipe, resolved against a store."""

    name: str
    group: str
    reduction: Reduction
    parameters: dict[str, Any]
    writes: tuple[Variable, ...]
    sources: dict[str, str]
    plan: dict[str, Any]
    unit: str
    blocks: tuple[str, ...]
    tiled: bool = False
    memory_bytes: int = 0
    bytes_read: int = 0
    bytes_written: int = 0
    fused_with: tuple[str, ...] = ()

    @property
    def stored(self) -> tuple[Variable, ...]:
        return tuple(v for v in self.writes if v.stored)


@dataclass(frozen=True)
class Pass:
    """Steps that share one reading of the data; a unit is a band of one layer, a layer, or some frames of a layer."""

    steps: tuple[PlannedStep, ...]
    unit: str


@dataclass(frozen=True)
class Plan:
    """Passes in order, omitted steps with the reason, remarks for the user, and the total cost."""

    store: Stored
    passes: tuple[Pass, ...]
    left_out: tuple[tuple[str, str], ...]
    remarks: tuple[str, ...] = ()

    @property
    def steps(self) -> tuple[PlannedStep, ...]:
        return tuple(s for p in self.passes for s in p.steps)

    @property
    def scan_bytes(self) -> int:
        """Bytes of the counts of the scan, or of the maps of a set of reflections, uncompressed."""
        return prod(self.store.shape) * self.store.itemsize

    @property
    def tasks(self) -> int:
        return sum(len(p.steps[0].blocks) for p in self.passes)

    @property
    def memory_bytes(self) -> int:
        return max((s.memory_bytes for s in self.steps), default=0)

    @property
    def bytes_read(self) -> int:
        return sum(max(s.bytes_read for s in p.steps) for p in self.passes)

    @property
    def bytes_written(self) -> int:
        return sum(s.bytes_written for s in self.steps)


def _tileable(reduction: Reduction, stored: Stored) -> bool:
    """Whether a unit of the reduction is a band of rows: of counts in tiles, or of maps over the width of the layer."""
    whole = set(reduction.over) - {SCAN, *stored.axes}
    if COUNTS in reduction.reads:
        whole |= {"z", "y"} if reduction.halo or reduction.border else set()
    else:
        whole -= {"x"}
    return not whole and (reduction.patch is None or stored.edge % reduction.patch == 0)


def make_plan(recipe: Recipe, store: str | Path) -> Plan:
    """Passes, fusion and cost of a recipe on a store, from metadata alone.

    Raises
    ------
    RecipeError
        A step requires a variable that neither the store nor an earlier step provides.
    IncompleteError
        The raw data of the store are incomplete.
    """
    path = Path(store).resolve()  # workers may have another current folder
    recover(path)
    stored = describe(open_store(path))
    available = readable(stored)
    plans: dict[str, dict[str, Any]] = {}
    alone = len(recipe.steps) == 1
    left_out: list[tuple[str, str]] = []
    told: list[str] = []
    asked: list[Reduction] = []
    passes: list[list[PlannedStep]] = []
    later = [step.name for step in recipe.steps]
    for step in recipe.steps:
        reduction = find(step.name)
        later.remove(step.name)
        where = f"{recipe.path}:{step.line}: " if recipe.path else ""
        parameters = reduction.validate(with_crystal(reduction, step.parameters, stored.opened), where=where)
        if reason := unfit(reduction, parameters, stored):
            if step.optional:
                left_out.append((step.name, reason))
                continue
            raise RecipeError(
                f"{where}step {step.name}", reason, "otherwise remove the step from the recipe, or mark it optional"
            )
        asked.append(reduction)
        settled = _settled(reduction, parameters, stored, where, told)
        if settled is None:
            continue
        parameters = settled
        # Results of later steps from an earlier run are no inputs: a second run of a recipe must equal the first.
        earlier = {name: source for name, source in available.items() if source.step not in later}
        planned = _resolve(step, reduction, parameters, stored, earlier, plans, where, alone)
        _refuse_clashes(planned, stored, available, where)
        _refuse_other_scale(planned, earlier, plans, stored, where)
        _place(planned, passes, available, where)
        plans[step.name] = planned.plan
        for name in [n for n, s in available.items() if (s.group, s.step) == (planned.group, step.name)]:
            del available[name]  # an earlier version may have written more variables
        for variable in planned.writes:
            available[variable.name] = Source(planned.group, step.name, variable)
        if reduction.combine:  # dims of later maps may have the lengths of its tables
            known = lengths(reduction, stored.axes, parameters, stored.sizes)
            stored = replace(stored, sizes=stored.sizes | {d: n for d, n in known.items() if n is not None})
    steps = [s for part in passes for s in part]
    final = tuple(_costed(steps, stored) for steps in _joined(passes, stored))
    told += uneven_frames(stored.opened, [r.name for r in asked], [r.group for r in asked])
    told += positions_apart(stored.opened, stored.axes, [s.reduction for s in steps])
    return Plan(stored, final, tuple(left_out), tuple(told))


def _settled(
    reduction: Reduction, parameters: dict[str, Any], stored: Stored, where: str, told: list[str]
) -> dict[str, Any] | None:
    """Parameters after those that depend on the whole scan are numbers; None for a step without effect on this scan."""
    if reduction.settle is None:
        return parameters
    there = stored.opened.arrays("raw")
    names = [v.name for v in reduction.settled_by if v.name in there]
    seen = {name: zarr.open_array(str(Path(stored.path, "raw", name)), mode="r") for name in names}
    try:
        settled, words = reduction.settle(parameters, seen, tuple(stored.sizes[a] for a in stored.axes))
    except InputError as error:
        raise RecipeError(f"{where}step {reduction.name}: {error.asked}", error.found, error.remedy) from None
    told += [words] if words else []
    return settled


def _refuse_clashes(step: PlannedStep, stored: Stored, available: Mapping[str, Source], where: str) -> None:
    """Refuse a step that a unit cannot run, and a second writer of a variable."""
    reduction = step.reduction
    asked = f"{where}step {step.name}"
    if "z" in reduction.over:
        raise RecipeError(asked, "requires all layers at once", "make it a gather (combine), or call it on a Dataset")
    if reduction.halo and stored.absent:
        raise RecipeError(asked, f"reads neighbouring layers, and {stored.absent[0]} is absent", "leave it out")
    beside = [s.variable for s in available.values() if s.group == step.group and s.step != step.name]
    columns = {v.name for v in (*beside, *step.stored) if v.name in stored.sizes and not v.coordinate}
    if hidden := sorted(columns & {d for v in (*beside, *step.stored) for d in v.dims}):
        found = (
            f"writes into group {step.group!r}, where a table has a column {hidden[0]} and a map the dim {hidden[0]}"
        )
        raise RecipeError(asked, found, "declare another group for one of them")
    for variable in step.stored:
        other = available.get(variable.name)
        if other is not None and (other.group, other.step) != (step.group, step.name) and other.group == step.group:
            raise RecipeError(
                asked, f"writes {variable.name}, as does step {other.step}", "rename one of the variables"
            )


def _refuse_other_scale(
    step: PlannedStep, available: Mapping[str, Source], plans: Mapping[str, dict[str, Any]], stored: Stored, where: str
) -> None:
    """Refuse counts on one scale together with a background or a basis of counts on another scale."""
    if "counts" not in step.sources:
        return
    mine = _scale(step.plan, plans)
    declared = (*step.reduction.reads, *step.reduction.may_read)
    for name in (v.name for v in declared if v.same_scale and v.name in step.sources):
        source = available[name]
        made = plans.get(source.step)
        if made is None:
            made = stored.opened.states(source.group)[source.step].header["plan"]
        theirs = _scale(made, plans)
        if mine == theirs:
            continue
        asked = f"{where}step {step.name}"
        if theirs is None:
            raise RecipeError(
                asked,
                f"reads counts after normalise, and the {name} that {source.step} computed before normalise",
                f"put normalise before {source.step}",
            )
        raise RecipeError(
            asked,
            f"reads counts {'as recorded' if mine is None else 'of another normalise step'},"
            f" and the {name} that {source.step} computed from counts after a normalise step",
            f"run it in one recipe with that normalise step, or recompute {source.step}",
        )


def _scale(plan: Mapping[str, Any], plans: Mapping[str, dict[str, Any]]) -> str | None:
    """Identity of the normalise step before a step, directly or before other steps that changed the counts."""
    for maker, identity in plan["inputs"].items():
        name = maker.partition("/")[2]
        if name == "normalise":
            return str(identity)
        if name in plans and any(v.name == "counts" for v in find(name).writes):
            return _scale(plans[name], plans)
    return None


def _resolve(
    step: Step,
    reduction: Reduction,
    parameters: dict[str, Any],
    stored: Stored,
    available: Mapping[str, Source],
    plans: Mapping[str, dict[str, Any]],
    where: str,
    alone: bool,
) -> PlannedStep:
    """A step with the group of every input, and a plan whose digest changes with every dependency.

    Optional inputs are raw data and results of earlier steps of the recipe. Only a recipe of a single step also uses
    results of other runs; otherwise the meaning of a recipe would depend on the store.
    """
    sources: dict[str, str] = {}
    inputs: dict[str, str] = {}
    for declared in (*reduction.reads, *reduction.may_read):
        if declared.coordinate:
            continue
        for variable in expand(declared, stored.axes):
            source = available.get(variable.name)
            if declared in reduction.may_read:
                if source is None or not (alone or source.group == "raw" or source.step in plans):
                    continue
            if source is None:
                of_set = stored.counted and REFLECTION in {
                    *variable.dims,
                    *(d for v in reduction.reads for d in v.dims),
                }
                raise RecipeError(
                    f"{where}step {step.name}",
                    f"reads {variable.name!r}, which no earlier step writes",
                    "join the stores of at least three reflections (dfxm-dask join SET.zarr A.zarr B.zarr C.zarr), then"
                    " run the recipe on the set"
                    if of_set
                    else "add the step that writes it before this step",
                )
            found = source.variable
            try:
                check(variable, found.dims, np.dtype(found.dtype), found.units, asked=f"variable {variable.name!r}")
            except InputError as error:
                raise RecipeError(f"{where}step {step.name}: {error.asked}", error.found, error.remedy) from None
            sources[variable.name] = source.group
            inputs[f"{source.group}/{source.step}"] = _identity(stored, source.group, source.step, plans)
    inputs["raw/ingest"] = _identity(stored, "raw", "ingest", plans)
    writes = tuple(expanded_writes(reduction, stored.axes, parameters, stored.sizes))
    unit = "frames" if reduction.by_frame else "band" if _tileable(reduction, stored) else "layer"
    plan = {
        "version": __version__,
        "reduction": step.name,
        "parameters": parameters,
        "inputs": inputs,
        "writes": [v.name for v in writes if v.stored],
    }
    if reduction.files is not None:
        try:
            plan["files"] = dict(reduction.files(parameters))
        except InputError as error:
            raise RecipeError(f"{where}step {step.name}: {error.asked}", error.found, error.remedy) from None
    return PlannedStep(step.name, reduction.group, reduction, parameters, writes, sources, plan, unit, ())


def _identity(stored: Stored, group: str, maker: str, plans: Mapping[str, dict[str, Any]]) -> str:
    """Digest that identifies an input: of the plan of the step that computes it, or of the content of raw data."""
    if maker in plans:
        return ledger.digest(plans[maker])
    if group == "raw":
        return str(stored.opened.provenance("raw")[maker]["digest"])
    return str(stored.opened.states(group)[maker].header["digest"])


def _place(
    step: PlannedStep,
    passes: list[list[PlannedStep]],
    available: Mapping[str, Source],
    where: str,
) -> None:
    """Append a step to the last pass if it can share the reading, else to a new pass."""
    last = passes[-1] if passes else []
    fits = bool(last) and _unit(last) == step.unit
    if last and step.unit == "band" and _unit(last) == "layer" and "counts" not in step.sources:
        fits = True  # a map needs no tiles and can share a pass over layers
    made = {v.name: s for s in last for v in s.writes}
    own = [made[name] for name in step.sources if name in made]
    if any(_neighbours(s) != _neighbours(step) for s in last) or any(s.reduction.combine for s in own):
        fits = False  # other neighbours, or a summary that exists only when all blocks are done
    if any(_neighbours(step)) and own:
        fits = False  # the neighbours' part of the input is made by other units
    passing = [available[name] for name in step.sources if not available[name].variable.stored]
    if any(source.step not in {s.name for s in last} for source in passing):
        fits = False
    if not fits:
        if passing and step.unit == "frames":
            raise RecipeError(
                f"{where}step {step.name}",
                f"takes frames one by one, {passing[0].step} changes the counts of all frames together",
                f"leave out {passing[0].step}",
            )
        again: list[PlannedStep] = []
        again_made = {s.name for part in passes for s in part if any(v.name == "counts" for v in s.writes)}
        for source in passing:
            if source.step not in again_made or any(_neighbours(step)):
                raise RecipeError(
                    f"{where}step {step.name}",
                    f"reads {source.variable.name} of {source.step}, which exists within one pass only",
                    f"move the steps that read other parts of the layer before {source.step}",
                )
            again = _counts_so_far(passes, step.unit == "layer")
        passes.append(again)
    passes[-1].append(step)


def _neighbours(step: PlannedStep) -> tuple[int, int]:
    """Layers and rows of its neighbours that a unit of the step reads on either side."""
    return step.reduction.halo, step.reduction.border


def _counts_so_far(passes: list[list[PlannedStep]], tiled: bool) -> list[PlannedStep]:
    """The steps that changed the counts without storing them: later passes repeat these steps."""
    makers = {s.name: s for part in passes for s in part if any(v.name == "counts" for v in s.writes)}
    return [replace(s, tiled=tiled, writes=tuple(v for v in s.writes if not v.stored)) for s in makers.values()]


def _joined(passes: list[list[PlannedStep]], stored: Stored) -> list[list[PlannedStep]]:
    """Passes after joining a pass over tiles of counts with a following pass over layers, so that counts are decoded
    once. A step with blocks on disk keeps the shape of these blocks.
    """
    layers = [ledger.block_name(z, 0, stored.sizes["y"]) for z in stored.layers]
    joined: list[list[PlannedStep]] = []
    for steps in passes:
        last = joined[-1] if joined else []
        fits = bool(last) and (_unit(last), _unit(steps)) == ("band", "layer")
        fits = fits and all(any("counts" in s.sources for s in part) for part in (last, steps))
        fits = fits and not any(any(_neighbours(s)) for s in (*last, *steps))
        for step in last:
            begun = stored.opened.states(step.group).get(step.name)
            other = begun is not None and begun.header and [*begun.blocks] != layers
            fits = fits and not step.reduction.combine and not other and "counts" in step.sources
        if fits:
            there = {s.name for s in last}
            joined[-1] = [replace(s, tiled=True) for s in last] + [s for s in steps if s.name not in there]
        else:
            joined.append(steps)
    return joined


def _unit(steps: list[PlannedStep]) -> str:
    if any(s.unit == "frames" for s in steps):
        return "frames"
    return "layer" if any(s.unit == "layer" for s in steps) else "band"


def _costed(steps: list[PlannedStep], stored: Stored) -> Pass:
    """The steps of a pass with their blocks, memory and bytes."""
    unit = _unit(steps)
    ranges = bands(stored.sizes["y"], stored.rows) if unit == "band" else [(0, stored.sizes["y"])]
    sizes = {**stored.sizes, "y": max(y1 - y0 for y0, y1 in ranges), "z": 1}
    cuts: list[tuple[int, int] | None] = [None]
    if unit == "frames":
        along = next(iter(stored.axes))
        sizes[along] = unit_frames(stored.shape, stored.itemsize)
        cuts = [*bands(stored.sizes[along], sizes[along])]
    blocks = tuple(ledger.block_name(z, *rows, cut) for z in stored.layers for rows in ranges for cut in cuts)
    every = {**stored.sizes, "z": len(stored.layers)}
    area = len(stored.layers) * stored.sizes["y"] * stored.sizes["x"]
    counts = [np.dtype(v.dtype).itemsize for s in steps for v in s.writes if v.name == "counts"]
    memory = projected_memory(
        [s.reduction for s in steps],
        stored.axes,
        sizes,
        [s.parameters for s in steps],
        stored.edge,
        max(stored.itemsize, *counts) if counts else stored.itemsize,
        unit != "band" or not any("counts" in s.sources for s in steps),
        {"z": len(stored.layers), "y": stored.sizes["y"]},
    )
    made = {v.name for s in steps for v in s.writes}
    done = []
    for step in steps:
        read = 0
        for declared in (*step.reduction.reads, *step.reduction.may_read):
            for variable in expand(declared, stored.axes):
                if variable.name == "counts":
                    read += area * stored.frames * stored.itemsize
                elif variable.name in step.sources and variable.name not in made:
                    read += _bytes(variable, every, {})
        written = sum(_bytes(v, every, step.parameters) for v in step.stored)
        fused = tuple(s.name for s in steps if s is not step)
        shared = replace(step, unit=unit, blocks=blocks, fused_with=fused)
        done.append(replace(shared, memory_bytes=memory, bytes_read=read, bytes_written=written))
    return Pass(tuple(done), unit)


def _bytes(variable: Variable, sizes: Mapping[str, int], parameters: Mapping[str, Any]) -> int:
    told = (sizes.get(d) or (d.known(sizes, parameters) if isinstance(d, Dim) else None) for d in variable.dims)
    return np.dtype(variable.dtype).itemsize * prod(n or UNKNOWN for n in told)
