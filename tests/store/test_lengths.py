"""Which results depend on lengths follows from what their reductions declare."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dfxm_dask.errors import RecipeError
from dfxm_dask.reduction import REGISTRY, reduction
from dfxm_dask.schema import COUNTS, X, Y
from dfxm_dask.store.integrity import ledger
from dfxm_dask.store.lengths import steps_by_lengths


def plugged(**made: Any) -> None:
    for name, (reads, writes) in made.items():

        def kernel(*arrays: Any) -> Any:
            raise AssertionError

        kernel.__name__ = name
        reduction(reads=reads, writes=writes, group="extra")(kernel)


def test_steps_by_lengths__follow_from_the_declarations(tmp_path: Path) -> None:
    a, b, c = (replace(COUNTS, name=name, dims=("z", "y", "x")) for name in "abc")
    passing = replace(COUNTS, stored=False)
    hidden, plain = (COUNTS, X), (COUNTS, replace(Y, units=""))
    plugged(
        by_x=((COUNTS, X), (a,)),
        of_it=((a,), (b,)),
        of_that=((b,), (c,)),
        any_unit=(plain, (a,)),
        cut=(hidden, (passing,)),
        clean=((COUNTS,), (passing,)),
        after=((COUNTS,), (a,)),
        beside=((COUNTS,), (b,)),
    )
    try:

        def begun(name: str, *inputs: str, recipe: tuple[str, ...] = ()) -> None:
            plan = {"inputs": dict.fromkeys(("raw/ingest", *inputs), "x"), "writes": ["v"]}
            steps = {"name": "r", "steps": [{"name": n, "parameters": {}, "optional": False} for n in recipe]}
            ledger.begin(tmp_path, "extra", name, plan, ["z0000"], recipe=steps)

        begun("by_x")
        begun("of_it", "extra/by_x")
        begun("of_that", "extra/of_it")
        begun("any_unit")
        begun("after", "extra/clean", recipe=("cut", "clean", "after"))  # counts went through both
        begun("beside", "extra/clean", recipe=("clean", "beside"))
        long, other = steps_by_lengths(tmp_path)
        assert long == ("extra/after", "extra/by_x", "extra/of_it", "extra/of_that")
        assert other == ("extra/any_unit", "extra/beside")
        begun("unheard_of")
        with pytest.raises(RecipeError, match=r"step extra/unheard_of: .*--plugin FILE"):
            steps_by_lengths(tmp_path)
    finally:
        for name in [n for n, r in REGISTRY.items() if r.group == "extra"]:
            del REGISTRY[name]
