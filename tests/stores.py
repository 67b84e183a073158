"""Stores whose counts are known, and what is compared of two stores."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import dfxm_dask
from tests.beamline_files import write_bliss


def raw_store(folder: Path, *, pixel_size: tuple[float, float] | None = (0.5, 0.7), **written: Any) -> Path:
    """``s.zarr`` in a folder, beside the beamline file that it was made of; options are those of `write_bliss`."""
    write_bliss(folder / "s.h5", **written)
    dfxm_dask.ingest(folder / "s.h5", folder / "s.zarr", scan="all", pixel_size=pixel_size)
    return folder / "s.zarr"


def contents(store: Path) -> dict[str, bytes]:
    """Bytes of all files but ledgers, which have times and hosts."""
    return {
        str(p.relative_to(store)): p.read_bytes()
        for p in sorted(store.rglob("*"))
        if p.is_file() and ".ledger" not in p.parts
    }
