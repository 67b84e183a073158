"""Cost of crash safety: ledger, digests, locks, and forcing everything to disk."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

from bench import ours
from bench.data import Data
from bench.timing import Row, at_most, best

LAYERS = 3


class _NoDigest:
    def update(self, data: bytes) -> None:
        pass

    def hexdigest(self) -> str:
        return "0" * 64


@contextmanager
def careless() -> Iterator[None]:
    """A run that forces nothing to disk, computes no digest of blocks and inputs, and checks no fence."""

    def nothing(*_: Any, **__: Any) -> None:
        return None

    with ExitStack() as stack:
        stack.enter_context(patch.object(os, "fsync", nothing))
        if hasattr(os, "posix_fadvise"):  # nor does it ask the disk to begin
            stack.enter_context(patch.object(os, "posix_fadvise", nothing))
        stack.enter_context(patch("dfxm_dask.store.integrity.lock.Fence.check", nothing))
        stack.enter_context(patch("dfxm_dask.run.passes.inputs_of", lambda one, store: lambda step, block: {}))
        stack.enter_context(patch("dfxm_dask.store.shards.hashlib", _Hashes))
        yield


class _Hashes:
    sha256 = staticmethod(lambda *_: _NoDigest())
    file_digest = staticmethod(hashlib.file_digest)


def figure_commit(data: Data) -> list[Row]:
    """A recipe with and without crash safety of its blocks, in turn, in one process."""
    target = ours.store(data, LAYERS)

    def clear() -> None:
        ours.clear(target)
        os.sync()

    rows = []
    for recipe, words in (("maps", "recipe maps"), (ours.MOMENTS, "moments alone")):

        def careful(recipe: str = recipe) -> None:
            ours.reduce(recipe, target)

        def without(recipe: str = recipe) -> None:
            with careless():
                ours.reduce(recipe, target)

        spent = best({"careful": careful, "careless": without}, data.repeats + 2, before=clear)
        clear()
        rows.append(
            at_most(
                f"ledger, digests, locks and fsync, {words}",
                100 * (spent["careful"] / spent["careless"] - 1),
                8,
                "% of the time",
                f"{spent['careful'] / LAYERS:.2f} against {spent['careless'] / LAYERS:.2f} s a layer, 1 core",
            )
        )
    return rows
