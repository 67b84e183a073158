"""A store that grows: the layers and results that it has are kept when the scan gains layers.

The grown store is built beside the old one, by the code of every ingest, with hard links to the files of known layers;
then it replaces the old one. At every moment the path holds a store that can be opened. In the end the store does not
differ from that of an ingest of the finished scan, apart from its ledgers.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import zarr

from dfxm_dask.catalogue import find
from dfxm_dask.errors import StoppedError, StoreError
from dfxm_dask.run import stopping
from dfxm_dask.run.events import many
from dfxm_dask.run.execute import Publish, run_ingest
from dfxm_dask.run.nights.scans import unchanged
from dfxm_dask.run.passes import Run, begin_step, inputs_of
from dfxm_dask.run.plan import PlannedStep, make_plan
from dfxm_dask.run.provisional import PROVISIONAL
from dfxm_dask.run.recipe import Recipe
from dfxm_dask.run.unit import summary_path
from dfxm_dask.schema import POSITION_TOLERANCE
from dfxm_dask.sources.readers import read_scan
from dfxm_dask.sources.source import Scan
from dfxm_dask.store import calibrate
from dfxm_dask.store.crystal import WORDS as CRYSTAL
from dfxm_dask.store.crystal import checked_crystal, crystal_of_store, refuse_other_crystal
from dfxm_dask.store.ingest import IngestReport, LayerTask, ingest, ingest_layer
from dfxm_dask.store.integrity import ledger
from dfxm_dask.store.integrity.lock import own_group, own_store
from dfxm_dask.store.integrity.opened import open_store

HERE, EXCHANGE = -100, 2  # AT_FDCWD and RENAME_EXCHANGE of Linux
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
        And remarks: layers whose files were replaced since they were ingested, which were read again, and steps whose
        results are dropped.

    Raises
    ------
    StoreError
        Another process writes the store, it has layers of other options, or the disk has no hard links.
    SourceError
        See :func:`dfxm_dask.ingest`.
    """
    recover(store)
    options["read"] = remembered(scans)
    begun = ledger.read_header(ledger.ledger_path(store, "raw", "ingest")) if store.exists() else {}
    if not begun:  # the ingest itself refuses folders and stores of others
        return run_ingest(source, store, scan=list(entries), publish=publish, **options), []
    known, grown = origins(store), beside(store, "grown")
    refuse_other_layers(store, begun, known, Path(source).name, entries)
    records = ledger.read_ledger(ledger.ledger_path(store, "raw", "ingest"))[1]
    said: list[str] = []
    numbers: dict[int, int] = {}  # old number of a layer to new number
    path = ledger.ledger_path(grown, "raw", "ingest")

    def layer(task: LayerTask) -> ledger.Record:
        if reason := stopping.why():
            raise StoppedError(f"growth of {store}", reason, "the same command continues")
        if not numbers and not said:
            refuse_other_options(store, begun["plan"], ledger.read_header(path)["plan"])
        origin = Path(task.scan.source).name, task.scan.entry
        if origin in known:
            old, files = known[origin]
            own = _own_files(_stats(task), origin[0])
            if own and _own_files(files, origin[0]) == own:  # frames in the master itself are read again
                numbers[old] = task.z
                return linked(store, grown, "raw", "ingest", records[f"z{old:04d}"], f"z{task.z:04d}")
            if own:
                said.append(f"entry {task.scan.entry}: its files were replaced, it was read again")
        return ingest_layer(task)

    def each(function: Callable[[Any], Any], tasks: Iterable[Any]) -> Iterator[Any]:
        return map(layer, tasks)

    try:
        with own_store(store, f"growth of {store}"):  # no run writes results that the exchange would lose
            _, options["pixel_size"] = calibrate.resumed(store, options.get("pixel_size"))
            crystal = {word: options.get(word) for word in CRYSTAL}
            refuse_other_crystal(store, checked_crystal(**crystal))
            options |= crystal_of_store(store)
            report = ingest(source, grown, scan=list(entries), each=each, linked_from=store, **options)
            if [*numbers] == [*numbers.values()] and _same_layers(begun["plan"], ledger.read_header(path)["plan"]):
                shutil.rmtree(grown)
                return report, said
            adopt(store, grown, recipe, numbers)
            said += dropped(store, grown, [step.name for step in recipe.steps])
            exchange(store, grown)
    except BaseException:
        if store.exists():
            shutil.rmtree(grown, ignore_errors=True)
        raise
    return report, said


def exchange(store: Path, grown: Path) -> None:
    """Exchange the store and the grown store, at once where the disk can; the old one stays beside it."""
    swap = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if swap is not None and swap(HERE, os.fsencode(grown), HERE, os.fsencode(store), EXCHANGE) == 0:
        return
    os.rename(store, beside(store, "old"))
    os.rename(grown, store)


def _same_layers(one: ledger.Record, other: ledger.Record) -> bool:
    """Whether two plans of an ingest differ at most in the size and time of the master file."""

    def facts(plan: ledger.Record) -> str:
        own = [{**s, "files": _own_files(s["files"], s["file"])} for s in plan["sources"]]
        return ledger.digest({**plan, "sources": own})

    return all(_own_files(s["files"], s["file"]) for s in other["sources"]) and facts(one) == facts(other)


def refuse_other_options(store: Path, begun: ledger.Record, plan: ledger.Record) -> None:
    """Refuse to link layers that were ingested with other options: camera, region, direction of rows.

    Raises
    ------
    StoreError
    """

    def facts(plan: ledger.Record) -> dict[str, Any]:
        (shape, *layout), first = plan["layout"], plan["sources"][0]
        words = ("roi", "scan_mode", "positions", "repeats", "time_step")
        camera = {"detector": first["detector"], "z_motor": first["z_motor"]}
        return {"shape": shape[1:], "layout": layout, **camera, **{word: plan.get(word) for word in words}}

    old, new = facts(begun), facts(json.loads(json.dumps(plan)))
    if other := [word for word in old if old[word] != new[word]]:
        words = ", ".join(f"{word} {old[word]}, not {new[word]}" for word in other)
        raise StoreError(f"store {store}", f"has layers with {words}", "give the former options, or another path")


def dropped(old: Path, new: Path, steps: Sequence[str]) -> list[str]:
    """Remarks on the steps of a store whose results the grown store lacks, apart from those that run again."""
    found = []
    for group in (g for g in open_store(old).groups() if g != "raw"):
        now = ledger.states(new, group) if (new / group).is_dir() else {}
        for step, state in ledger.states(old, group).items():
            if state.done and step not in steps and step not in now:
                lost = f"{group}/{step}: results of {many(len(state.done), 'block')} of a smaller scan are dropped"
                found.append(f"{lost}; run it again when the scan is complete")
    return found


def refuse_other_layers(
    store: Path, begun: ledger.Record, known: Iterable[Origin], master: str, entries: Sequence[str]
) -> None:
    """Refuse a store with layers that the grown store would not contain: they would be lost.

    Raises
    ------
    StoreError
    """
    other = [origin for origin in known if origin[0] != master or origin[1] not in entries]
    if other or not begun["plan"].get("sources"):
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

    A block that reads neighbouring layers is kept only if it had all of them, and still has the same ones. Coordinates
    of the scan axes are means over all layers: a block that was computed before a mean moved is provisional.
    """
    if not numbers or not any(ledger.states(old, group) for group in open_store(old).groups() if group != "raw"):
        return
    before = {s.name: s for s in make_plan(pinned(recipe, old), old).steps}
    plan = make_plan(recipe, new)
    now = {s.name: s for s in plan.steps}
    facts, moved = layer_facts(old), layer_facts(new)
    if not facts.near(moved):
        return
    alike = {z: k for z, k in numbers.items() if facts.rows[z] == moved.rows[k]}
    kept: dict[str, set[int]] = {}  # layers whose blocks of a step hold for the grown scan
    for one in plan.passes:
        for step in one.steps:
            halo = step.reduction.halo
            good = set(alike) if same(step.name, now, before) else set()
            for maker in _makers(step.plan):  # a result with neighbours changes although its layer does not
                near = [z for z in range(len(facts.rows)) if z not in kept.get(maker, ())]
                good -= {z + k for z in near for k in range(-halo, halo + 1)}
            state = ledger.states(old, step.group).get(step.name) if step.stored else None
            if not step.stored or step.name in kept:
                kept.setdefault(step.name, good)
                continue
            if state is None or state.header.get("digest") != ledger.digest(before[step.name].plan):
                kept[step.name] = set()
                continue
            _, records = ledger.read_ledger(ledger.ledger_path(old, step.group, step.name))
            with own_group(new, step.group, "growth of the store") as fence:
                begin_step(step, Run(plan, recipe, None, (), False, None, {step.group: fence}))
                made_of = inputs_of(one, plan.store)
                entries = []
                for block in sorted(state.done):
                    name = renamed(block, alike, halo) if ledger.layer_of(block) in good else None
                    if name in step.blocks:
                        record = linked(old, new, step.group, step.name, records[block], str(name))
                        entry = {**record, "inputs": made_of(step, str(name)), "plan": ledger.digest(step.plan)}
                        if facts.common != moved.common or records[block].get(PROVISIONAL):
                            entry[PROVISIONAL] = True
                        entries.append({**entry, "run": fence.token})
                ledger.commit(new, step.group, step.name, *entries)
                lost = {ledger.layer_of(b) for b in state.blocks if renamed(b, alike, halo) is None}
            lost |= {ledger.layer_of(b) for b in state.blocks if b not in state.done}
            kept[step.name] = good - lost


@dataclass(frozen=True)
class LayerFacts:
    """Records of a store beside the blocks of its layers: common values, and a digest for every layer."""

    axes: dict[str, np.ndarray]
    common: str
    rows: list[str]

    def near(self, other: LayerFacts) -> bool:
        """Whether the coordinates of the scan are the same within the tolerance of positions."""
        if self.axes.keys() != other.axes.keys():
            return False
        for name, mine in self.axes.items():
            theirs = other.axes[name]
            step = np.abs(np.diff(mine)).min() if mine.size > 1 else 0.0
            if mine.shape != theirs.shape or np.abs(mine - theirs).max() > POSITION_TOLERANCE * step:
                return False
        return True


def layer_facts(store: Path) -> LayerFacts:
    """Coordinates, and records for every layer: positions, monitor, exposure, saturation."""
    opened = open_store(store)
    blocks = {*ledger.read_header(ledger.ledger_path(store, "raw", "ingest"))["plan"]["writes"]}
    read = {name: np.asarray(zarr.open_array(str(store / name), mode="r")[...]) for name in opened.arrays("")}
    small = {n: zarr.open_array(str(store / "raw" / n), mode="r") for n in opened.arrays("raw") if n not in blocks}
    words = {n: [opened.nodes[f"raw/{n}"]["attributes"].get(w) for w in ("counter", "units")] for n in sorted(small)}
    # A layer without a record has NaN in every row: the array may be absent as well.
    rows = [
        ledger.digest([[n, words[n], hashlib.sha256(np.asarray(small[n][z]).tobytes()).hexdigest()] for n in words])
        for z in range(read["z"].size)
    ]
    axes = {name: values for name, values in read.items() if name != "z"}
    common = ledger.digest({name: hashlib.sha256(values.tobytes()).hexdigest() for name, values in axes.items()})
    return LayerFacts(axes, common, rows)


def _makers(plan: Mapping[str, Any]) -> list[str]:
    """Steps whose results a step reads."""
    return [source.partition("/")[2] for source in plan["inputs"] if source != "raw/ingest"]


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
    makers = _makers(mine)
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
        on_disk = header.get("plan", {}).get("parameters", {})
        asked = {word: value for word, value in step.parameters.items() if value not in (None, "auto")}
        if reduction.settle is not None and on_disk and all(on_disk.get(word) == v for word, v in asked.items()):
            step = replace(step, parameters=on_disk)
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
