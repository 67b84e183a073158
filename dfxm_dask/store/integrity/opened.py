"""An opened store: a snapshot of its metadata and ledgers, each read and checked once."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any

from dfxm_dask.errors import IncompleteError, StoreError
from dfxm_dask.schema import SPACE, Variable, migrate
from dfxm_dask.sources.wrong_kinds import not_a_store
from dfxm_dask.store.integrity import ledger
from dfxm_dask.store.metadata import check_store, read_node
from dfxm_dask.store.shards import open_array

RESUME = "run the same command again to resume, or open the store with allow_partial=True"
RECOMPUTED = "has been recomputed since"  # part of the reason of a stale step, by which callers recognise one


@dataclass(frozen=True)
class OpenStore:
    """Content of a store according to its metadata; ledgers are read on demand, once.

    Parameters
    ----------
    path : Path
    nodes : dict
        Checked metadata of groups and arrays by path, such as ``raw/counts``; ``""`` is the root.
    """

    path: Path
    nodes: Mapping[str, dict[str, Any]]
    _states: dict[str, dict[str, ledger.StepState]] = field(default_factory=dict)

    def groups(self) -> list[str]:
        """Names of the groups."""
        return sorted(name for name, meta in self.nodes.items() if name and meta["node_type"] == "group")

    def arrays(self, group: str) -> list[str]:
        """Names of the arrays of a group; the coordinates of the root that a group repeats are not among them."""
        inner = (name.rpartition("/") for name, meta in self.nodes.items() if meta["node_type"] == "array")
        return sorted(name for holder, _, name in inner if holder == group)

    def coordinates(self, group: str) -> list[str]:
        """Coordinates of the root along the dims of the arrays of a group."""
        dims = {d for n in self.claimed_arrays(group) for d in self.nodes[f"{group}/{n}"].get("dimension_names", ())}
        return [name for name in self.arrays("") if name in dims and f"{group}/{name}" not in self.nodes]

    def whole_groups(self) -> list[str]:
        """Groups without an unfinished step."""
        return [group for group in self.groups() if not self.incomplete(group)]

    def declared(self, group: str, name: str) -> Variable:
        """Declaration of an array."""
        meta = self.nodes[f"{group}/{name}".strip("/")]
        units, words = (meta["attributes"].get(word, "") for word in ("units", "long_name"))
        return Variable(name, tuple(meta.get("dimension_names", ())), meta["data_type"], units, words)

    def provenance(self, group: str) -> dict[str, Any]:
        """Provenance of the complete steps of a group; {} for an absent group."""
        made: dict[str, Any] = self.nodes.get(group, {}).get("attributes", {}).get("provenance", {})
        return made

    def states(self, group: str) -> dict[str, ledger.StepState]:
        """The state of every step of a group."""
        if group not in self._states:
            self._states[group] = ledger.states(self.path, group, self.provenance(group))
        return self._states[group]

    def claimed_arrays(self, group: str) -> list[str]:
        """Arrays of a group that belong to a started or complete step; remains of an invalidated step are left out."""
        if group in ("", "raw", "truth") or not (self.path / group / ".ledger").is_dir():
            return self.arrays(group)
        states = self.states(group).values()
        small = (name.split("/") for state in states for name in (state.provenance or {}).get("small_files", ()))
        claimed = {name for state in states for name in state.writes} | {p[1] for p in small if len(p) > 2}
        return [name for name in self.arrays(group) if name in claimed]

    def incomplete(self, group: str) -> dict[str, tuple[str, str]]:
        """Steps of a group without valid results, each with the reason and the remedy."""
        bad: dict[str, tuple[str, str]] = {}
        for step, state in self.states(group).items():
            absent = (state.provenance or {}).get("absent")
            stale = stale_input(self.provenance, state.provenance, self.path) if state.provenance else None
            if state.provenance is not None and state.lost:
                lost = f"{', '.join(state.lost[:3])} is missing"
                bad[step] = lost, "run the recipe again with --overwrite, or restore the file"
            elif not state.complete:
                bad[step] = f"{len(state.done)} of {len(state.blocks)} blocks are on disk", RESUME
            elif stale:
                bad[step] = stale
            elif absent:
                bad[step] = (
                    f"layers were absent from the source: {', '.join(absent)}",
                    "open the store with allow_partial=True",
                )
        return bad

    def to_consolidate(self) -> list[str]:
        """Nodes whose metadata the root repeats for other readers: coordinates, and groups without unfinished steps."""
        found = self.arrays("")
        for group in self.whole_groups():
            repeated = [n for n in self.coordinates(group) if (self.path / group / n / "zarr.json").exists()]
            names = ("", *sorted([*self.claimed_arrays(group), *repeated]))
            found += [f"{group}/{name}".removesuffix("/") for name in names]
        return found


def stale_input(
    provenance: Callable[[str], Mapping[str, Any]], made: Mapping[str, Any], store: Path
) -> tuple[str, str] | None:
    """Reason and remedy if an input of a result, direct or indirect, has changed or is missing; else None.

    Parameters
    ----------
    provenance : callable
        Maps a group to the provenance of its complete steps.
    made : mapping
        Provenance of the result.
    store : Path
        Store of the result.
    """
    if (changed := changed_source(store, made)) is not None:
        return changed
    for source, wanted in made.get("inputs", {}).items():
        upstream, _, name = source.partition("/")
        known = provenance(upstream)
        if name not in known:
            return f"its input {source} is not complete", RESUME
        if known[name].get("digest") != wanted:
            return f"its input {source} {RECOMPUTED}", "run the recipe again with --overwrite"
        if (deeper := stale_input(provenance, known[name], store)) is not None:
            return deeper
    return None


def changed_source(store: Path, made: Mapping[str, Any]) -> tuple[str, str] | None:
    """Reason and remedy if another store, from which a set of reflections was joined, has changed; else None.

    Sources that no longer exist count as unchanged: the set contains copies of all maps.
    """
    for source in made.get("sources", ()):
        path = Path(store).resolve().parent / str(source["store"])
        for key, wanted in source["digests"].items():
            group, _, step = key.partition("/")
            try:
                now = ledger.group_provenance(path, group)[1].get(step, {}).get("digest")
            except StoreError:
                continue
            if now != wanted and os.path.lexists(path / "zarr.json"):
                return (
                    f"the step {step} of its source {path.name} {RECOMPUTED}",
                    "run dfxm-dask join again with --overwrite, then the recipe",
                )
    return None


def open_store(store: str | os.PathLike[str]) -> OpenStore:
    """Open a store after a check of all its nodes: see :mod:`dfxm_dask.store.metadata`.

    Raises
    ------
    StoreError
        Not a store, or not a trustworthy store.
    """
    path = Path(store)
    if not os.path.lexists(path / "zarr.json"):
        raise not_a_store(path)
    root = read_node(path)
    foreign = "schema_version" not in root["attributes"] and not any(path.glob("*/.ledger/*.jsonl"))
    if root["node_type"] != "group" or foreign:
        raise not_a_store(path)
    return OpenStore(path, {"": root, **check_store(path)})


@dataclass(frozen=True)
class Stored:
    """Facts about a store that a plan requires, from the metadata alone.

    ``edge`` and ``itemsize`` are the edge of the inner chunks in pixels and the bytes per count, or, without counts,
    the bytes per pixel of the maps in ``raw``. ``counted`` is False for a set of reflections, which has no counts.
    """

    path: str
    axes: dict[str, str]
    sizes: dict[str, int]
    units: dict[str, str]
    rows: int
    edge: int
    itemsize: int
    layers: tuple[int, ...]
    absent: tuple[str, ...]
    cropped: tuple[str, ...]
    counted: bool
    opened: OpenStore = field(repr=False)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the counts: z, scan axes, y, x."""
        return tuple(self.sizes[d] for d in ("z", *self.axes, "y", "x"))

    @property
    def frames(self) -> int:
        return prod(self.sizes[a] for a in self.axes)


def describe(opened: OpenStore) -> Stored:
    """The scan of a store: axes, sizes, units and layers.

    Raises
    ------
    StoreError
        Layers beyond the coordinate z.
    IncompleteError
        The ingest is unfinished.
    """
    store = opened.path
    root = migrate(opened.nodes[""]["attributes"])
    state = opened.states("raw").get("ingest")
    if state is None or not state.complete:
        found = f"{len(state.done)} of {len(state.blocks)} layers" if state else "nothing"
        remedy = "run the ingest again to resume (the join, for a set of reflections)"
        raise IncompleteError(f"raw data of {store}", f"{found} on disk", remedy)
    if (changed := changed_source(store, state.provenance or {})) is not None:
        raise IncompleteError(f"raw data of {store}", *changed)
    counted = "raw/counts" in opened.nodes or "raw/centre" not in opened.nodes
    edge, itemsize = _chunks(opened) if counted else _chunks_of_maps(opened)
    sizes = {name: opened.nodes[name]["shape"][0] for name in opened.arrays("")}
    attributes = {name: opened.nodes[name]["attributes"] for name in sizes}
    marked = {name: attrs["scan_axis"] for name, attrs in attributes.items() if "scan_axis" in attrs}
    units = {name: str(attrs.get("units", "")) for name, attrs in attributes.items()}
    layers = tuple(sorted(int(b[1:]) for b in state.done))
    if layers and layers[-1] >= sizes["z"]:
        raise StoreError(
            f"raw data of {store}", f"contain layer {layers[-1]}, beyond the coordinate z", "do not trust this store"
        )
    return Stored(
        str(store),
        {n: units[n] for n in sorted(marked, key=lambda n: marked[n])},
        sizes,
        units,
        int(root["unit_rows"]),
        edge,
        itemsize,
        layers,
        tuple((state.provenance or {}).get("absent", ())),
        tuple((state.provenance or {}).get("cropped", ())),
        counted,
        opened,
    )


def _chunks(opened: OpenStore) -> tuple[int, int]:
    """Edge of the inner chunks of the counts in pixels, and bytes per count."""
    counts = open_array(opened.path / "raw" / "counts")
    if counts is None:
        raise IncompleteError(f"raw data of {opened.path}", "counts have a foreign layout", "ingest the scan again")
    return counts.chunk[-1], counts.dtype.itemsize


def _chunks_of_maps(opened: OpenStore) -> tuple[int, int]:
    """Edge of the inner chunks of the maps of a set of reflections in pixels, and bytes of all maps per pixel."""
    edge, itemsize = 0, 0
    for name in opened.arrays("raw"):
        dims = opened.declared("raw", name).dims
        if {"y", "x"} <= {*dims}:
            array = open_array(opened.path / "raw" / name)
            if array is None:
                raise IncompleteError(
                    f"raw data of {opened.path}", f"{name} has a foreign layout", "join the set again"
                )
            edge = array.chunk[dims.index("x")]
            itemsize += array.dtype.itemsize * prod(n for d, n in zip(dims, array.shape, strict=True) if d not in SPACE)
    return edge, itemsize


@dataclass(frozen=True)
class Source:
    """A variable and the step that wrote it."""

    group: str
    step: str
    variable: Variable


def readable(stored: Stored) -> dict[str, Source]:
    """Readable variables of the store: raw data, and the results of complete, current steps."""
    opened, absent, store = stored.opened, set(stored.absent), stored.opened.path
    # Raw data are complete: describe() has checked this.
    found = {name: Source("raw", "ingest", opened.declared("raw", name)) for name in opened.arrays("raw")}
    for group in (g for g in opened.groups() if g != "raw"):
        if "schema_version" in opened.nodes[group].get("attributes", {}):
            raise StoreError(f"store {store}", f"contains another store, {group}", f"move {group} out of {store}")
        bad = opened.incomplete(group)
        for step, state in opened.states(group).items():
            made = state.provenance or {}
            only_absent = bool(state.complete and absent and set(made.get("absent", ())) == absent)
            if step not in bad or (only_absent and stale_input(opened.provenance, made, store) is None):
                found |= {name: Source(group, step, opened.declared(group, name)) for name in state.writes}
    return found
