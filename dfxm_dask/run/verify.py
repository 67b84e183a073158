"""Whether a store is what it says: every byte against its digest, some blocks computed again; and how to mend it."""

from __future__ import annotations

import random
import shutil
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dfxm_dask.errors import DfxmError, StoreError
from dfxm_dask.reduction import find
from dfxm_dask.run.execute import run_recipe
from dfxm_dask.run.passes import content_by_layer, inputs_digest, layer_of
from dfxm_dask.run.plan import Pass, Plan, make_plan
from dfxm_dask.run.probe import rerun_block
from dfxm_dask.run.recipe import Recipe, Step
from dfxm_dask.run.windowed import windowed
from dfxm_dask.store import ledger, scan
from dfxm_dask.store.lock import own_group
from dfxm_dask.store.soundness import BlockFile, Fault, block_files, check_file, check_metadata


@dataclass(frozen=True)
class VerifyReport:
    """What was found: ``faults`` that are there now, ``mended`` ones, and how much was looked at."""

    faults: tuple[Fault, ...]
    mended: tuple[Fault, ...]
    files: int
    bytes: int
    recomputed: tuple[str, ...]
    seconds: float


def verify(
    store: str | Path, *, deep: int = 0, seed: int | None = None, repair: bool = False, client: Any = None,
    publish: tuple[Any, ...] = (),
) -> VerifyReport:  # fmt: skip
    """Faults of a store: sizes, identities and digests of every file, and of blocks computed again.

    Parameters
    ----------
    store : path
    deep : int
        So many blocks of results, chosen at random, are computed again beside the store and compared.
    seed : int, optional
        Of the choice.
    repair : bool
        Compute again what is damaged, by the recipe that the ledger remembers. Raw data that are damaged are taken
        back: the store is incomplete until the same ingest has run again.
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
        With ``repair``, where a run is at work.
    """
    begun = time.perf_counter()
    store = Path(store).resolve()
    if not any(store.glob("*/.ledger/*.jsonl")):
        raise StoreError(f"store {store}", "has no ledger", "check the path, or ingest first")
    faults, files, nbytes, recomputed = _look(store, deep, seed, client)
    mended: tuple[Fault, ...] = ()
    if repair and faults:
        first, notes = faults, _repair(store, faults, client, publish)
        faults = _look(store, 0, None, client)[0]
        left = {(f.group, f.step, f.block, f.file) for f in faults}
        mended = tuple(f for f in first if (f.group, f.step, f.block, f.file) not in left)
        faults += notes
    seconds = time.perf_counter() - begun
    return VerifyReport(tuple(faults), mended, files, nbytes, tuple(recomputed), seconds)


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
    """Blocks that were made of other inputs than there are now."""
    for group, step, header, records in _steps(store):
        if (group, step) not in without:
            try:
                yield from _inputs_of(store, group, step, header, records)
            except DfxmError as error:
                yield Fault(group, step, "", "", str(error))


def _inputs_of(
    store: Path, group: str, step: str, header: dict[str, Any], records: dict[str, Any]
) -> Iterator[Fault]:  # fmt: skip
    content: dict[str, Any] = {}
    for block, record in records.items():
        for source, digest in (record.get("inputs") or {}).items():
            if source not in content:
                content[source] = content_by_layer(str(store), source)
            if inputs_digest(content[source], layer_of(block), find(step).halo) != digest:
                yield Fault(group, step, block, "", f"was made of another {source} than there is")
    for source, planned in header["plan"].get("inputs", {}).items():
        other, _, maker = source.partition("/")
        if other == "raw":
            _, made = ledger.group_provenance(store, other)
            if made.get(maker, {}).get("digest") != planned:
                yield Fault(group, step, "", "", f"was made of another {source} than there is")


def _steps(store: Path) -> Iterator[tuple[str, str, dict[str, Any], dict[str, Any]]]:
    """Steps that reductions wrote, with header and records; ledgers that cannot be read are told elsewhere."""
    for path in sorted(store.glob("*/.ledger/*.jsonl")):
        try:
            header, records = ledger.read_ledger(path)
            find(path.stem)
        except DfxmError:
            continue
        if header:
            yield path.parent.parent.name, path.stem, header, records


def recipes_of(store: Path) -> list[Recipe]:
    """The recipes by which the results of a store were made, as their ledgers remember them."""
    found: dict[str, Recipe] = {}
    for _, _, header, _ in _steps(store):
        asked = header.get("recipe")
        if not asked:
            continue
        steps = tuple(Step(s["name"], s["parameters"], s["optional"], k) for k, s in enumerate(asked["steps"], start=1))
        key = ledger.digest(asked)
        found[key] = Recipe(asked["name"], "", steps, store / asked["name"], key)
    return list(found.values())


def _plans(store: Path) -> list[tuple[Recipe, Plan]]:
    """The recipes of a store with their plans, where today's version plans what was done."""
    return [(recipe, make_plan(recipe, store)) for recipe in recipes_of(store)]


def _again(
    store: Path, deep: int, seed: int | None, known: set[tuple[str, str, str]]
) -> Iterator[tuple[str, list[Fault]]]:
    """Blocks chosen at random, computed again: their names and faults; and gathers, merged again."""
    choices: list[tuple[Plan, Pass, str]] = []
    for recipe in recipes_of(store):
        plan = make_plan(recipe, store)
        for step in plan.steps:
            if step.stored:
                ledger.check_plan(store, step.group, step.name, step.plan)  # another version may compute otherwise
        choices += [(plan, one, block) for one in plan.passes for block in one.steps[0].blocks]
    chance = random.Random(seed)
    with tempfile.TemporaryDirectory(prefix="verify-") as scratch:
        for plan, one, block in chance.sample(choices, min(deep, len(choices))):
            stored = [s for s in one.steps if s.stored]
            name = f"{block} of {', '.join(s.name for s in stored)}"
            if any((s.group, s.name, block) in known for s in stored):
                continue  # damaged, as was found
            made = rerun_block(plan, one, block, Path(scratch))
            faults = []
            for step in stored:
                _, records = ledger.read_ledger(ledger.ledger_path(store, step.group, step.name))
                files = made["steps"][step.name]["files"]
                for file, what in records[block]["files"].items():
                    if list(what) != list(files.get(file, ())):
                        faults.append(Fault(step.group, step.name, block, file, "is not what computing it again gives"))
            yield name, faults


def _repair(store: Path, faults: list[Fault], client: Any, publish: tuple[Any, ...]) -> list[Fault]:
    """Make again what is damaged. Returns what cannot be mended here, as faults that say what to do."""
    notes: list[Fault] = []
    steps = {(group, step): (header, records) for group, step, header, records in _steps(store)}
    by_step: dict[tuple[str, str], list[Fault]] = {}
    for fault in faults:
        if fault.step:
            by_step.setdefault((fault.group, fault.step), []).append(fault)
    recipes = recipes_of(store)
    with ExitStack() as stack:
        for group in sorted({group for group, _ in by_step}):
            stack.enter_context(own_group(store, group, f"repair of {store}"))
        for group in sorted({f.group for f in faults if f.group and f.file == f"{f.group}/zarr.json"}):
            ledger.restore_metadata(store, group)
        for (group, step), found in by_step.items():
            if (group, step) in steps and all(f.block for f in found):
                ledger.withdraw_blocks(store, group, step, {f.block for f in found})
            elif any(s.name == step for recipe in recipes for s in recipe.steps):
                ledger.withdraw(store, group, step)
                header, _ = steps.get((group, step), ({"plan": {"writes": ()}}, {}))
                for name in header["plan"]["writes"]:  # declared anew, and computed anew
                    shutil.rmtree(store / group / name, ignore_errors=True)
            elif all(f.block for f in found):
                ledger.withdraw_blocks(store, group, step, {f.block for f in found})
    if any(group in ("raw", "truth") for group, _ in by_step):
        what = "is damaged: run the same ingest (or simulate) again, which makes the damaged layers anew; with"
        notes.append(Fault("raw", "ingest", "", "", f"{what} --overwrite where coordinates or metadata are damaged"))
        with suppress(DfxmError):
            scan.consolidate(store)
        return notes
    for recipe in recipes:
        wanted = {s.name for s in recipe.steps}
        if any(step in wanted for _, step in by_step):
            try:
                run_recipe(recipe, store, client=client, publish=publish)
            except StoreError as error:
                notes.append(Fault("", recipe.name, "", "", f"cannot be made again: {error}"))
    scan.consolidate(store)
    return notes
