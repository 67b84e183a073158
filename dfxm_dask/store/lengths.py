"""Which steps of a store depend on lengths in the plane of the layer, and so on its effective pixel."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dfxm_dask.catalogue import find
from dfxm_dask.errors import RecipeError
from dfxm_dask.store.integrity import ledger

AXES = ("y", "x")


def steps_by_lengths(store: Path) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Steps that depend on lengths in the plane of the layer, and the others; each as "group/step".

    A step does if its reduction declares that it reads y or x in a unit, or if anything it was made of does.

    Raises
    ------
    RecipeError
        A reduction is not known here.
    """
    paths = [p for p in sorted(store.glob("*/.ledger/*.jsonl")) if p.parent.parent.name not in ("raw", "truth")]
    headers = {f"{p.parent.parent.name}/{p.stem}": ledger.read_header(p) for p in paths}
    made_of = {key: _makers(header, headers) for key, header in headers.items()}
    names = {*headers, *(maker for makers in made_of.values() for maker in makers)}
    long = {key for key in names if _reads_lengths(key)}
    while more := {key for key, makers in made_of.items() if makers & long} - long:
        long |= more
    return tuple(key for key in headers if key in long), tuple(key for key in headers if key not in long)


def _makers(header: Mapping[str, Any], stored: Mapping[str, Any]) -> set[str]:
    """What a step was made of. Counts that live in one pass may have gone through any such step of its recipe."""
    makers = set(header.get("plan", {}).get("inputs", {})) - {"raw/ingest"}
    makers = {key for key in makers if not key.startswith(("raw/", "truth/"))}
    if makers - set(stored):
        for step in (header.get("recipe") or {}).get("steps", ()):
            reduction = _find(f"recipe/{step['name']}")
            if not all(variable.stored for variable in reduction.writes):
                makers.add(f"{reduction.group}/{reduction.name}")
    return makers


def _find(key: str) -> Any:
    try:
        return find(key.partition("/")[2])
    except RecipeError:
        raise RecipeError(
            f"step {key}",
            "was made by a reduction that is not loaded, so whether it depends on lengths is unknown",
            "load it with --plugin FILE",
        ) from None


def _reads_lengths(key: str) -> bool:
    reduction = _find(key)
    return any(v.name in AXES and v.units for v in (*reduction.reads, *reduction.may_read))
