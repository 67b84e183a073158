"""Check of a store: all bytes against their digests, and some blocks recomputed; and repair of its faults."""

from __future__ import annotations

import random
import shutil
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dfxm_dask.catalogue import find
from dfxm_dask.errors import DfxmError, StoreError
from dfxm_dask.run.checks.rerun import rerun_block
from dfxm_dask.run.execute import run_recipe
from dfxm_dask.run.plan import Pass, Plan, make_plan
from dfxm_dask.run.recipe import Recipe, Step
from dfxm_dask.run.task_queue import windowed
from dfxm_dask.sources.wrong_kinds import not_a_store
from dfxm_dask.store import calibrate
from dfxm_dask.store.integrity import ledger, nodes
from dfxm_dask.store.integrity.digests import BlockFile, Fault, block_files, check_file, check_metadata
from dfxm_dask.store.integrity.lock import own_group
from dfxm_dask.store.integrity.opened import stale_input


@dataclass(frozen=True)
class VerifyReport:
    """Faults that remain, faults that were repaired, and the amount of checked data."""

    faults: tuple[Fault, ...]
    repaired: tuple[Fault, ...]
    files: int
    bytes: int
    recomputed: tuple[str, ...]
    seconds: float


def verify(
    store: str | Path,
    *,
    deep: int = 0,
    seed: int | None = None,
    repair: bool = False,
    client: Any = None,
    publish: tuple[Any, ...] | None = None,
) -> VerifyReport:
    """Faults of a store: sizes, identities and digests of all files, and differences to recomputed blocks.

    Parameters
    ----------
    store : path
    deep : int
        Number of random blocks of results to recompute beside the store and compare.
    seed : int, optional
        Of the random choice.
    repair : bool
        Recompute damaged results by the recipe in the ledger. Damaged raw data are invalidated: the store is
        incomplete until the same ingest has run again.
    client : distributed.Client, optional
        Reads files, and repairs, in parallel.

    Returns
    -------
    VerifyReport

    Raises
    ------
    StoreError
        Not a store.
    LockedError
        With ``repair``: a run is active on the store.
    """
    begun = time.perf_counter()
    if not any(Path(store).glob("*/.ledger/*.jsonl")):
        raise not_a_store(store)
    store = Path(store).resolve()
    calibrate.recover(store)
    faults, files, nbytes, recomputed = _look(store, deep, seed, client)
    repaired: tuple[Fault, ...] = ()
    if repair and faults:
        first, notes = faults, _repair(store, faults, client, publish)
        faults = _look(store, 0, None, client)[0]
        left = {(f.group, f.step, f.block, f.file) for f in faults}
        repaired = tuple(f for f in first if (f.group, f.step, f.block, f.file) not in left)
        faults += notes
    seconds = time.perf_counter() - begun
    return VerifyReport(tuple(faults), repaired, files, nbytes, tuple(recomputed), seconds)


def _look(store: Path, deep: int, seed: int | None, client: Any) -> tuple[list[Fault], int, int, list[str]]:
    faults = list(check_metadata(store))
    files = list(block_files(store))
    parts = [files[k : k + 64] for k in range(0, len(files), 64)]
    for found in windowed(client, _check_files, parts):
        faults += found
    faults += _inputs(store, {(f.group, f.step) for f in faults if not f.block})
    known = {(f.group, f.step, f.block) for f in faults}
    recomputed: list[str] = []
    if deep:
        for name, found in _again(store, deep, seed, known):
            recomputed.append(name)
            faults += found
    return list(dict.fromkeys(faults)), len(files), sum(f.size for f in files), recomputed


def _check_files(files: list[BlockFile]) -> list[Fault]:
    return [fault for file in files for fault in check_file(file)]


def _inputs(store: Path, without: Iterable[tuple[str, str]]) -> Iterator[Fault]:
    """Blocks that were computed from other inputs than the present ones."""
    for group, step, header, records in _steps(store):
        if (group, step) not in without:
            try:
                yield from _inputs_of(store, group, step, header, records)
                made = ledger.group_provenance(store, group)[1].get(step)
                if made and (stale := stale_input(lambda one: ledger.group_provenance(store, one)[1], made, store)):
                    yield Fault(group, step, "", "", f"{stale[0]}; {stale[1]}")
            except DfxmError as error:
                yield Fault(group, step, "", "", str(error))


def _inputs_of(store: Path, group: str, step: str, header: dict[str, Any], records: dict[str, Any]) -> Iterator[Fault]:
    content: dict[str, Any] = {}
    for block, record in records.items():
        for source, digest in (record.get("inputs") or {}).items():
            if source not in content:
                content[source] = ledger.content_by_layer(str(store), source)
            if ledger.inputs_digest(content[source], ledger.layer_of(block), find(step).halo) != digest:
                yield Fault(group, step, block, "", f"was computed from another {source} than the present one")
    for source, planned in header["plan"].get("inputs", {}).items():
        other, _, maker = source.partition("/")
        if other == "raw":
            _, made = ledger.group_provenance(store, other)
            if made.get(maker, {}).get("digest") != planned:
                yield Fault(group, step, "", "", f"was computed from another {source} than the present one")


def _steps(store: Path) -> Iterator[tuple[str, str, dict[str, Any], dict[str, Any]]]:
    """Steps of reductions, with header and records; unreadable ledgers are reported elsewhere."""
    for path in sorted(store.glob("*/.ledger/*.jsonl")):
        try:
            header, records = ledger.read_ledger(path)
            find(path.stem)
        except DfxmError:
            continue
        if header:
            yield path.parent.parent.name, path.stem, header, records


def recipe_of(store: Path, header: dict[str, Any]) -> Recipe | None:
    """The recipe of a step, as its ledger records it."""
    asked = header.get("recipe")
    if not asked:
        return None
    steps = tuple(Step(s["name"], s["parameters"], s["optional"], k) for k, s in enumerate(asked["steps"], start=1))
    return Recipe(asked["name"], "", steps, Path(f"recipe {asked['name']} of {store.name}"), ledger.digest(asked))


def plan_again(store: Path, header: dict[str, Any]) -> tuple[Recipe, Plan]:
    """Recipe and plan that recompute a step exactly.

    Raises
    ------
    StoreError
        The step would differ today: another version, other inputs, or other results beside it.
    """
    recipe = recipe_of(store, header)
    plan = make_plan(recipe, store) if recipe else None
    step = next((s for s in plan.steps if s.stored and s.name == header["step"]), None) if plan else None
    if recipe is None or plan is None or step is None or ledger.digest(step.plan) != header["digest"]:
        raise StoreError(f"step {header['step']!r}", "cannot be recomputed exactly", "run its recipe with --overwrite")
    return recipe, plan


def _again(
    store: Path, deep: int, seed: int | None, known: set[tuple[str, str, str]]
) -> Iterator[tuple[str, list[Fault]]]:
    """Random blocks, recomputed: their names and faults."""
    choices: list[tuple[Plan, Pass, str, dict[str, Any]]] = []
    for _, name, header, records in _steps(store):
        try:
            _, plan = plan_again(store, header)
        except DfxmError:
            continue  # another version, or changed inputs
        one = next(p for p in plan.passes if any(s.name == name for s in p.steps))
        here = [s.name for s in one.steps if s.stored]
        if here[0] == name:  # a pass of several steps is chosen by its first
            choices += [(plan, one, b, records) for b in one.steps[0].blocks if b in records]
    chance = random.Random(seed)
    with tempfile.TemporaryDirectory(prefix="verify-") as scratch:
        for plan, one, block, _ in chance.sample(choices, min(deep, len(choices))):
            stored = [s for s in one.steps if s.stored]
            if any((s.group, s.name, block) in known for s in stored):
                continue  # reported as damaged
            made = rerun_block(plan, one, block, Path(scratch))
            faults = []
            for step in stored:
                header, records = ledger.read_ledger(ledger.ledger_path(store, step.group, step.name))
                if block not in records or header["digest"] != ledger.digest(step.plan):
                    continue
                if calibrate.samples_moved(store, step.reduction):
                    continue
                files = made["steps"][step.name]["files"]
                for file, what in records[block]["files"].items():
                    if list(what) != list(files.get(file, ())):
                        faults.append(Fault(step.group, step.name, block, file, "differs from the recomputed block"))
            yield f"{block} of {', '.join(s.name for s in stored)}", faults


def _repair(store: Path, faults: list[Fault], client: Any, publish: tuple[Any, ...] | None) -> list[Fault]:
    """Recompute damaged results. Returns faults that cannot be repaired here, each with a remedy.

    Nothing is invalidated before it is certain that it can be recomputed exactly.
    """
    notes: list[Fault] = []
    steps = {(group, step): header for group, step, header, _ in _steps(store)}
    damaged: dict[tuple[str, str], list[Fault]] = {}
    for fault in faults:
        if fault.step and (fault.file or fault.what == "has no record"):
            damaged.setdefault((fault.group, fault.step), []).append(fault)
    with ExitStack() as stack:
        for group in sorted({group for group, _ in damaged}):
            stack.enter_context(own_group(store, group, f"repair of {store}"))
        for group in sorted({f.group for f in faults if f.group and f.file == f"{f.group}/zarr.json"}):
            ledger.restore_metadata(store, group)
        raw = {key: found for key, found in damaged.items() if key not in steps and key[1] in ("ingest", "simulate")}
        for (group, step), found in raw.items():  # results stay: they may be sound
            ledger.withdraw_blocks(store, group, step, {f.block for f in found if f.block})
            what = "is damaged: run the same ingest or simulation again to rewrite the damaged layers; add"
            notes.append(Fault(group, step, "", "", f"{what} --overwrite if coordinates or metadata are damaged"))
        recipes: dict[str, Recipe] = {}
        for (group, step), found in damaged.items() if not raw else ():
            if (group, step) not in steps:
                continue  # without a ledger; a fault that remains is reported
            with _aside(store, group, found) as took:
                try:
                    recipe, _ = plan_again(store, steps[group, step])
                except DfxmError as error:
                    notes.append(Fault(group, step, "", "", str(error)))
                    continue
                recipes[recipe.text] = recipe
                _take_back(store, group, step, steps[group, step], found)
                took.clear()  # they are recomputed
    for recipe in [*recipes.values(), *recipes.values()]:  # a step run alone may require the result of another
        try:
            run_recipe(recipe, store, client=client, publish=publish)
        except DfxmError as error:
            notes.append(Fault("", recipe.name, "", "", f"cannot be recomputed: {error}"))
        else:
            notes = [note for note in notes if note.step != recipe.name]
    with suppress(DfxmError):  # a damaged root is reported above
        nodes.consolidate(store)
    return list(dict.fromkeys(notes))


@contextmanager
def _aside(store: Path, group: str, faults: list[Fault]) -> Iterator[dict[Path, Path]]:
    """Move arrays with damaged metadata aside while the context lasts, because they prevent opening the store."""
    took: dict[Path, Path] = {}
    for fault in faults:
        path = store / fault.file
        if fault.file.count("/") == 2 and path.name == "zarr.json" and path.exists():
            took[path.parent] = path.parent.with_name(f".{path.parent.name}.damaged")
    for place, aside in took.items():
        place.rename(aside)
    places = dict(took)
    try:
        yield took
    finally:
        for place, aside in places.items():
            if place in took:
                aside.rename(place)
            else:
                shutil.rmtree(aside)


def _take_back(store: Path, group: str, step: str, header: dict[str, Any], faults: list[Fault]) -> None:
    """Invalidate the smallest part of a step that removes its faults: blocks, gathered results, or its completion."""
    if find(step).combine:
        for name in {f.file.split("/")[1] for f in faults if not f.block and f.file.count("/") > 1}:
            if name in header["plan"]["writes"]:
                shutil.rmtree(store / group / name, ignore_errors=True)  # gathered again from the summaries
    elif any(not f.block and f.file.count("/") > 1 and ".ledger" not in f.file for f in faults):
        ledger.withdraw(store, group, step)
        return
    if any(".ledger" in f.file and not f.block for f in faults):
        ledger.withdraw(store, group, step)
        return
    ledger.withdraw_blocks(store, group, step, {f.block for f in faults if f.block})
