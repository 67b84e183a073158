"""Cost of a run from the declarations of its steps: tasks, memory of a worker, disk space, files; and its limits."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from math import ceil

from dfxm_dask.errors import RecipeError, StoreError
from dfxm_dask.run.plan import Pass, Plan
from dfxm_dask.store.integrity import ledger
from dfxm_dask.store.integrity.ledger import ledger_path

PACKED = 0.5
"""Bytes on disk for each byte of results; noise in maps of floats limits the compression (our choice)."""
USABLE = 0.8
"""Fraction of the memory of a worker that a unit may declare (our choice). Dask ends a worker at 0.95, and some units
take more memory than they declare."""


@dataclass(frozen=True)
class PassCost:
    """Cost of one pass: blocks that remain, and their bytes and files."""

    steps: tuple[str, ...]
    blocks: int
    disk_bytes: int
    files: int


@dataclass(frozen=True)
class Forecast:
    """Cost of a run. ``memory_bytes`` is the peak of a worker; ``files`` includes folders."""

    passes: tuple[PassCost, ...]
    memory_bytes: int

    @property
    def tasks(self) -> int:
        return sum(p.blocks for p in self.passes)

    @property
    def disk_bytes(self) -> int:
        return sum(p.disk_bytes for p in self.passes)

    @property
    def files(self) -> int:
        return sum(p.files for p in self.passes)


def on_disk(plan: Plan) -> dict[str, frozenset[str]]:
    """Blocks of every stored step that an earlier run of the same plan has recorded in the ledgers."""
    found: dict[str, frozenset[str]] = {}
    for step in plan.steps:
        if step.stored:
            header, records = ledger.read_ledger(ledger_path(plan.store.path, step.group, step.name))
            same = bool(header) and header["digest"] == ledger.digest(step.plan) and header["blocks"] == [*step.blocks]
            found[step.name] = frozenset(records) if same else frozenset()
    return found


def left(one: Pass, done: dict[str, frozenset[str]]) -> list[str]:
    """Blocks of a pass that are missing on disk for at least one step."""
    parts = [done[step.name] for step in one.steps if step.stored]
    return [block for block in one.steps[0].blocks if not all(block in part for part in parts)] if parts else []


def forecast(plan: Plan) -> Forecast:
    """Cost of a run from the declarations of its steps; blocks of earlier runs are not counted."""
    done, costs, memory = on_disk(plan), [], 0
    for one in plan.passes:
        todo = left(one, done)
        if not todo:
            continue
        part = len(todo) / len(one.steps[0].blocks)
        stored = [s for s in one.steps if s.stored]
        arrays = sum(1 if s.reduction.combine else len(s.stored) for s in stored)
        per_layer = len(one.steps[0].blocks) / max(1, len(plan.store.layers))
        files = ceil(len(todo) * arrays * (2 + 1 / per_layer))  # a file, its folder, and the folder of the layer
        if part == 1:  # at the start of a step: metadata, roots of arrays, ledgers
            files += sum(3 * len(s.stored) + 3 for s in stored)
        nbytes = sum(s.bytes_written for s in one.steps)
        costs.append(PassCost(tuple(s.name for s in one.steps), len(todo), int(nbytes * part * PACKED), files))
        memory = max(memory, *(s.memory_bytes for s in one.steps))
    return Forecast(tuple(costs), memory)


def refuse_unfit(plan: Plan, found: Forecast, memory_limit: int) -> None:
    """Refuse a run that cannot finish: workers without enough memory, a file system without enough space.

    Parameters
    ----------
    memory_limit : int
        Of a worker, in bytes.

    Raises
    ------
    RecipeError
        A unit needs more than 0.8 of the memory of a worker.
    StoreError
        Too few free bytes or free files on the file system of the store.
    """
    usable = int(memory_limit * USABLE)
    if found.memory_bytes > usable:
        most = max(plan.steps, key=lambda s: s.memory_bytes)
        raise RecipeError(
            f"a unit of {' + '.join([most.name, *most.fused_with])}",
            f"requires {found.memory_bytes / 1e6:.0f} MB, and a unit may use {usable / 1e6:.0f} MB of a worker of"
            f" {memory_limit / 1e6:.0f} MB",
            f"give each worker {found.memory_bytes / USABLE / 1e6:.0f} MB (--memory-limit, or fewer --workers), or"
            " leave out steps",
        )
    path = plan.store.path
    free = shutil.disk_usage(path).free
    if found.disk_bytes > free:
        raise StoreError(
            f"store {path}",
            f"results require {found.disk_bytes / 1e6:.0f} MB, {free / 1e6:.0f} MB are free",
            "free disk space, or leave out steps",
        )
    system = os.statvfs(path)
    if system.f_files and found.files > system.f_favail:  # file systems without a limit report 0
        raise StoreError(
            f"store {path}",
            f"results require {found.files} files and folders, {system.f_favail} are free",
            "remove files, or leave out steps",
        )
