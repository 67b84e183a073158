"""A store that grows: the layers and results that it has are kept when the scan gains layers.

The grown store is built beside the old one, by the code of every ingest, with hard links to the files of known layers;
then it replaces the old one. At every moment the path holds a store that can be opened. In the end the store does not
differ from that of an ingest of the finished scan, apart from its ledgers.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from dfxm_dask.catalogue import find
from dfxm_dask.errors import StoreError
from dfxm_dask.run.execute import Publish, run_ingest
from dfxm_dask.run.nights.scans import unchanged
from dfxm_dask.run.passes import Run, begin_step, inputs_of
from dfxm_dask.run.plan import PlannedStep, make_plan
from dfxm_dask.run.recipe import Recipe
from dfxm_dask.run.unit import summary_path
from dfxm_dask.sources.readers import read_scan
from dfxm_dask.sources.source import Scan
from dfxm_dask.store.ingest import IngestReport, LayerTask, ingest, ingest_layer
from dfxm_dask.store.integrity import ledger
from dfxm_dask.store.integrity.lock import STORE_LOCK, own_group, refuse_held
from dfxm_dask.store.integrity.opened import open_store

Origin = tuple[str, str]
"""Name of a file and entry of a layer."""


def beside(store: Path, what: str) -> Path:
    """Path of a store that is being built, or removed, beside the store."""
    return store.with_name(f".{store.name}.{what}")


def recover(store: Path) -> None:
    """Finish an exchange of stores that was killed in the middle, and remove the remains of a killed growth."""
    grown, old = beside(store, "grown"), beside(store, "old")
    if not store.exists() and old.exists():
        # The new store is complete before the old one moves.
        os.rename(grown if grown.exists() else old, store)
    for path in (grown, old):
        if path.exists():
            shutil.rmtree(path)


def origins(store: Path) -> dict[Origin, tuple[int, Any]]:
    """Number of every layer on disk, and the files that it was read from, by the name of its file and its entry."""
    header, records = ledger.read_ledger(ledger.ledger_path(store, "raw", "ingest"))
    sources = header.get("plan", {}).get("sources", [])
    return {
        (str(s["file"]), str(s["entry"])): (z, s["files"])
        for z, s in enumerate(sources)
        if f"z{z:04d}" in records and ledger.is_done(store, records[f"z{z:04d}"])
    }


def grow(
    source: Any,
    store: Path,
    entries: Sequence[str],
    recipe: Recipe,
    publish: Publish,
    scans: Mapping[str, Scan] = MappingProxyType({}),
    **options: Any,
) -> tuple[IngestReport, list[str]]:
    """Ingest entries into a store that may contain some of them, and keep the blocks of a recipe that do not change.

    The old store stays beside the new one until :func:`recover` removes it: that takes seconds, and is not urgent.

    Parameters
    ----------
    source, entries
        Master file, and the entries that become the layers.
    store : Path
        Created if it does not exist.
    recipe : Recipe
        Blocks of its steps are kept where parameters and inputs stay the same.
    scans : mapping of entry to Scan
        Scans that were read already; a scan is read again if its files have changed.
    options
        Of :func:`dfxm_dask.ingest`.

    Returns
    -------
    IngestReport, list of str
        And layers whose files were replaced since they were ingested, which were read again.

    Raises
    ------
    StoreError
        Another process writes the store, or the disk has no hard links.
    SourceError
        See :func:`dfxm_dask.ingest`.
    """
    recover(store)
    options["read"] = remembered(scans)
    begun = ledger.read_header(ledger.ledger_path(store, "raw", "ingest")) if store.exists() else {}
    if not begun:  # the ingest itself refuses folders and stores of others
        return run_ingest(source, store, scan=list(entries), publish=publish, **options), []
    refuse_other_layers(store, begun, Path(source).name, entries)
    for path in (store / STORE_LOCK, *sorted(store.glob("*/.ledger/lock*"))):
        refuse_held(path, f"growth of {store}")
    known, grown = origins(store), beside(store, "grown")
    records = ledger.read_ledger(ledger.ledger_path(store, "raw", "ingest"))[1]
    replaced: list[str] = []
    numbers: dict[int, int] = {}  # old number of a layer to new number

    def layer(task: LayerTask) -> ledger.Record:
        origin = Path(task.scan.source).name, task.scan.entry
        if origin in known:
            old, files = known[origin]
            if _own_files(files, origin[0]) == _own_files(_stats(task), origin[0]):
                numbers[old] = task.z
                return linked(store, grown, "raw", "ingest", records[f"z{old:04d}"], f"z{task.z:04d}")
            replaced.append(f"entry {task.scan.entry}: its files were replaced, it was read again")
        return ingest_layer(task)

    def each(function: Callable[[Any], Any], tasks: Iterable[Any]) -> Iterator[Any]:
        return map(layer, tasks)

    report = ingest(source, grown, scan=list(entries), each=each, **options)
    adopt(store, grown, recipe, numbers)
    old = beside(store, "old")
    os.rename(store, old)
    os.rename(grown, store)
    return report, replaced


def refuse_other_layers(store: Path, begun: ledger.Record, master: str, entries: Sequence[str]) -> None:
    """Refuse a store with layers that the grown store would not contain: they would be lost.

    Raises
    ------
    StoreError
    """
    layers = [(str(s["file"]), str(s["entry"])) for s in begun["plan"].get("sources", [])]
    other = [origin for origin in layers if origin[0] != master or origin[1] not in entries]
    if other or not layers:
        holds = f"entry {other[0][1]} of {other[0][0]}" if other else "a scan that was not ingested from files"
        raise StoreError(f"store {store}", f"contains {holds}, which {master} lacks", "choose another path")


def _stats(task: LayerTask) -> list[list[Any]]:
    return [[Path(f).name, n, t] for f, n, t in task.scan.files]


def _own_files(files: Iterable[Sequence[Any]], master: str) -> list[tuple[Any, ...]]:
    """Files of a layer apart from the master, which grows with every layer."""
    return sorted(tuple(f) for f in files if f[0] != master)


def linked(old: Path, new: Path, group: str, step: str, record: ledger.Record, name: str) -> ledger.Record:
    """The record of a block under its new name in the new store, after its files were linked there.

    Raises
    ------
    StoreError
    """
    z, fresh = ledger.layer_of(record["block"]), ledger.layer_of(name)
    files = {}
    for path, what in record["files"].items():
        if path.endswith(".npz"):
            place = os.path.relpath(summary_path(str(new), group, step, name), new)
        else:
            parts = path.split("/")
            at = parts.index("c", 1) + 1
            place = "/".join([*parts[:at], str(fresh), *parts[at + 1 :]])
            if parts[at] != str(z):
                raise StoreError(f"file {path}", f"is not of layer {z}", "ingest the scan again")
        try:
            link_file(f"{old}/{path}", f"{new}/{place}")
        except OSError as error:
            reason = f"cannot be linked ({error.strerror})"
            raise StoreError(f"file {old / path}", reason, "follow into a folder on a disk with hard links") from None
        files[place] = what
    return {"block": name, "read": record["read"], "files": files, "seconds": record["seconds"]}


def link_file(old: str, new: str) -> None:
    """Link a file, and create its folder if it is new."""
    try:
        os.link(old, new)
    except FileNotFoundError:
        os.makedirs(os.path.dirname(new), exist_ok=True)
        os.link(old, new)


def adopt(old: Path, new: Path, recipe: Recipe, numbers: dict[int, int]) -> None:
    """Link the blocks of a recipe into the grown store, where version, parameters and inputs are the same.

    A block that reads neighbouring layers is kept only if it had all of them, and still has the same ones.
    """
    if not numbers or not any(ledger.states(old, group) for group in open_store(old).groups() if group != "raw"):
        return
    before = {s.name: s for s in make_plan(pinned(recipe, old), old).steps}
    plan = make_plan(recipe, new)
    now = {s.name: s for s in plan.steps}
    for one in plan.passes:
        for step in (s for s in one.steps if s.stored and same(s.name, now, before)):
            was = before[step.name]
            state = ledger.states(old, step.group).get(step.name)
            if state is None or state.header.get("digest") != ledger.digest(was.plan):
                continue
            with own_group(new, step.group, "growth of the store") as fence:
                begin_step(step, Run(plan, recipe, None, (), False, None, {step.group: fence}))
                made_of = inputs_of(one, plan.store)
                records = ledger.read_ledger(ledger.ledger_path(old, step.group, step.name))[1]
                names = {b: renamed(b, numbers, step.reduction.halo) for b in sorted(state.done)}
                kept = [
                    {
                        **linked(old, new, step.group, step.name, records[block], str(name)),
                        "inputs": made_of(step, str(name)),
                        "plan": ledger.digest(step.plan),
                        "run": fence.token,
                    }
                    for block, name in names.items()
                    if name in step.blocks
                ]
                ledger.commit(new, step.group, step.name, *kept)


def same(name: str, now: Mapping[str, PlannedStep], before: Mapping[str, PlannedStep]) -> bool:
    """Whether a step and all steps that it reads compute the same results for a layer as before.

    Inputs that are gathered over all layers change with every layer.
    """
    if name not in now or name not in before:
        return False
    words = ("version", "reduction", "parameters", "writes", "files")
    mine, theirs = now[name].plan, before[name].plan
    if any(mine.get(word) != theirs.get(word) for word in words) or mine["inputs"].keys() != theirs["inputs"].keys():
        return False
    makers = [source.partition("/")[2] for source in mine["inputs"] if source != "raw/ingest"]
    return all(maker in now and now[maker].reduction.combine is None and same(maker, now, before) for maker in makers)


def remembered(scans: Mapping[str, Scan]) -> Callable[..., Scan]:
    """Reader of scans that returns those already read, apart from those whose own files have changed."""

    def read(path: str, entry: str, **how: Any) -> Scan:
        scan = scans.get(entry)
        if scan is not None:
            master = os.path.realpath(path)
            own = [f for f in scan.files if os.path.realpath(f[0]) != master]
            if own and unchanged(own):
                return scan
        return read_scan(path, entry, **how)

    return read


def pinned(recipe: Recipe, store: Path) -> Recipe:
    """Recipe with the parameters of the blocks on disk in place of those that depend on all layers.

    A number such as the offset of the detector, estimated from the whole scan, changes with every layer. All earlier
    layers would then be computed again after each. The end of the scan settles these numbers.
    """
    steps = []
    for step in recipe.steps:
        reduction = find(step.name)
        header = ledger.read_header(ledger.ledger_path(store, reduction.group, step.name))
        found = header.get("plan", {}).get("parameters", {})
        asked = {word: value for word, value in step.parameters.items() if value not in (None, "auto")}
        if reduction.settle is not None and found and all(found.get(word) == v for word, v in asked.items()):
            step = replace(step, parameters=found)
        steps.append(step)
    return replace(recipe, steps=tuple(steps))


def renamed(block: str, numbers: dict[int, int], halo: int) -> str | None:
    """New name of a block; None if it cannot be kept.

    Examples
    --------
    >>> renamed("z0001-0:64", {0: 1, 1: 2}, 0), renamed("z0001-0:64", {0: 1, 1: 2}, 1)
    ('z0002-0:64', None)
    """
    z = ledger.layer_of(block)
    if any(numbers.get(z + k, -1) != numbers.get(z, -2) + k for k in range(-halo, halo + 1)):
        return None
    _, dash, rest = block.partition("-")
    return f"z{numbers[z]:04d}{dash}{rest}"
