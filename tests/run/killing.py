"""Runs that are killed at a chosen system call, and resumed: a program of its own, because it forks.

``python -m tests.run.killing RAW_STORE FOLDER COUNT SEED`` prints one JSON line: how many kills, at what calls, and
every trial that went wrong. A child counts the calls that make, write, force, rename and remove files, and kills
itself without warning before or after the one that was chosen.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dfxm_dask
from dfxm_dask.errors import DfxmError, IncompleteError
from dfxm_dask.run.execute import run_recipe
from dfxm_dask.run.recipe import parse_recipe
from dfxm_dask.store.integrity import ledger
from dfxm_dask.store.integrity.attributes import recorded_steps
from tests.stores import contents

RECIPE = """
name: survive
steps:
  - background: {method: quantile, quantile: 0.2}
  - moments: {}
  - kam: {radius: 1.0}
  - integrated_curve: {}
"""
CALLS = ("fsync", "replace", "write", "ftruncate", "link", "rename", "unlink", "mkdir")


def recipe() -> Any:
    return parse_recipe(RECIPE, Path("survive.yaml"))


def committed(store: Path) -> int:
    """Blocks of results that the ledgers name."""
    found = 0
    for group in ("frames", "rocking"):
        for path in (store / group / ".ledger").glob("*.jsonl"):
            found += len(ledger.read_ledger(path)[1])
    return found


def counting(chosen: int, after: bool) -> Callable[[], list[str]]:
    """Count calls; at the chosen one, die. Returns a function that gives the names of the calls so far."""
    names: list[str] = []

    def watched(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **options: Any) -> Any:
            names.append(name)
            hit = len(names) - 1 == chosen
            if hit and not after:
                os.kill(os.getpid(), signal.SIGKILL)
            try:
                return real(*args, **options)
            finally:
                if hit:
                    os.kill(os.getpid(), signal.SIGKILL)

        return call

    for name in CALLS:
        setattr(os, name, watched(name, getattr(os, name)))
    return lambda: names


def child(store: Path, chosen: int, after: bool, names: Path | None = None) -> int:
    """Run the recipe in a fork that dies at the chosen call; returns the exit status."""
    process = os.fork()
    if process == 0:
        said = counting(chosen, after)
        try:
            run_recipe(recipe(), store)
        except BaseException as error:
            sys.stderr.write(f"{type(error).__name__}: {error}\n")
            os._exit(9)
        if names is not None:
            names.write_text(json.dumps(said()))
        os._exit(0)
    return os.waitpid(process, 0)[1]


def judge(store: Path, reference: dict[str, bytes], total: int) -> str:
    """What is wrong with a killed store, before and after it is resumed; nothing if all is as it must be."""
    before = committed(store)
    try:
        tree = dfxm_dask.open_scan(store)
    except IncompleteError:
        pass
    else:
        for group in ("frames", "rocking"):
            there = {k: v for k, v in contents(store).items() if k.startswith(f"{group}/")}
            wanted = {k: v for k, v in reference.items() if k.startswith(f"{group}/")}
            made = recorded_steps(tree[group].attrs) if group in tree.children else {}
            if made and set(there) >= set(wanted) and there != wanted:
                return f"opened as complete, and {group} is not what it should be"
    try:
        report = run_recipe(recipe(), store)
    except DfxmError as error:
        return f"cannot be resumed: {error}"
    if report.blocks_done != total - before:
        return f"{before} of {total} blocks were committed, and {report.blocks_done} were done again or anew"
    if contents(store) != reference:
        found = contents(store)
        differ = sorted(k for k in {*found, *reference} if found.get(k) != reference.get(k))
        return f"differs from a run that nobody killed: {', '.join(differ)}"
    return ""


def main(raw: Path, folder: Path, count: int, seed: int) -> dict[str, Any]:
    whole = folder / "whole"
    shutil.copytree(raw, whole)
    total = run_recipe(recipe(), whole).blocks_done
    reference = contents(whole)
    shutil.copytree(raw, folder / "counted")
    child(folder / "counted", -1, False, folder / "names.json")
    names = json.loads((folder / "names.json").read_text())
    shutil.rmtree(folder / "counted")
    chance = random.Random(seed)
    points = [(k, after) for k in range(len(names)) for after in (False, True)]
    if count < len(points):  # one in each stretch: all parts of the protocol are visited
        points = [points[int((k + chance.random()) * len(points) / count)] for k in range(count)]
    wrong, kinds = [], {}
    for trial, (chosen, after) in enumerate(points):
        store = folder / f"killed-{trial}"
        shutil.copytree(raw, store)
        status = child(store, chosen, after)
        if not os.WIFSIGNALED(status):
            wrong.append([chosen, after, names[chosen], f"was not killed (status {status})"])
        elif trouble := judge(store, reference, total):
            wrong.append([chosen, after, names[chosen], trouble])
        kinds[names[chosen]] = kinds.get(names[chosen], 0) + 1
        shutil.rmtree(store)
    return {"kills": len(points), "calls": len(names), "kinds": kinds, "wrong": wrong}


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))))
