"""Blocks recomputed beside a store, for comparison with the stored ones.

The temporary store links to the arrays of the store of the user, which is only read, and holds the recomputed blocks.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from dfxm_dask.errors import RecipeError
from dfxm_dask.run.passes import result_layout, unit_task
from dfxm_dask.run.plan import Pass, Plan, PlannedStep
from dfxm_dask.run.unit import run_unit
from dfxm_dask.store.integrity import nodes
from dfxm_dask.store.integrity.ledger import Record, ledger_path
from dfxm_dask.store.integrity.opened import open_store


def rerun_block(plan: Plan, one: Pass, block: str, scratch: Path) -> Record:
    """One block of a pass, recomputed beside a store whose steps are complete.

    Parameters
    ----------
    plan : Plan
        Of the recipe of the steps.
    one : Pass
        The pass of the plan.
    block : str
        A block of the pass, such as ``z0003-0:768``.
    scratch : Path
        Folder for a temporary store, which is removed. The store of the plan is only read.

    Returns
    -------
    dict
        See :func:`dfxm_dask.run.unit.run_unit`: bytes and digests of the files of every stored step.

    Raises
    ------
    RecipeError
        The pass has no such block.
    StoreError
        An input of the block is missing or damaged.
    """
    if block not in one.steps[0].blocks:
        words = " + ".join(step.name for step in one.steps)
        raise RecipeError(
            f"block {block!r}", f"is not in the pass {words}", f"give one such as {one.steps[0].blocks[0]}"
        )
    with tempfile.TemporaryDirectory(dir=scratch, prefix="block-") as folder:
        beside = Path(folder, "store")
        mirror(plan, one.steps, beside)
        for step in one.steps:
            declare(step, plan, beside)
        return run_unit(
            unit_task(one, block, replace(plan.store, path=str(beside)), {s.name: set() for s in one.steps if s.stored})
        )


def mirror(plan: Plan, steps: Sequence[PlannedStep], beside: Path) -> None:
    """A store with links to the arrays of another, except the arrays that the given steps write."""
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
    """Create the group and the arrays of a step in the temporary store, with the layout of a run."""
    if not step.stored:
        return
    here = replace(plan.store, path=str(beside))
    nodes.create_group(beside, step.group, {})
    ledger_path(beside, step.group, step.name).parent.mkdir(exist_ok=True)
    if not step.reduction.combine:
        for variable in step.stored:
            nodes.create_array(beside, step.group, variable, result_layout(variable, step, here), {})
