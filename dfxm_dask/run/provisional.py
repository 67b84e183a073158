"""Provisional blocks: results of layers of a growing scan, computed before a value that all layers share was final.

The ledger marks them. A run of all layers computes them again, with all blocks computed from them.
"""

from __future__ import annotations

from dfxm_dask.run.plan import Plan
from dfxm_dask.store.integrity import ledger

PROVISIONAL = "provisional"


def withdraw_provisional(plan: Plan) -> int:
    """Number of provisional blocks of the steps of a plan, and of blocks computed from them, which are invalidated."""
    redone: dict[str, set[int]] = {}
    count = 0
    for step in plan.steps:
        path = ledger.ledger_path(plan.store.path, step.group, step.name)
        _, records = ledger.read_ledger(path) if step.stored else ({}, {})
        halo = step.reduction.halo
        made_of = {z for source in step.plan["inputs"] for z in redone.get(source, ())}
        again = {z + k for z in made_of for k in range(-halo, halo + 1)}
        lost = [b for b, record in records.items() if record.get(PROVISIONAL) or ledger.layer_of(b) in again]
        if lost:
            ledger.withdraw_blocks(plan.store.path, step.group, step.name, lost)
        redone[f"{step.group}/{step.name}"] = again | {ledger.layer_of(b) for b in lost}
        count += len(lost)
    return count
