"""Frames beside a table, written and read back for tests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import tifffile

from dfxm_dask.sources.readers import frames, read_scan
from dfxm_dask.sources.source import Scan, load_beamline
from tests.beamline_files import known_counts

LINE = load_beamline("id03")


COUNTS = known_counts(6)


MU = 0.1 * np.arange(6)


def tiffs(folder: Path, counts: np.ndarray = COUNTS, *, name: str = "data_{:05d}.tif", **options: Any) -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    files = [folder / name.format(k) for k in range(len(counts))]
    for file, frame in zip(files, counts, strict=True):
        tifffile.imwrite(file, frame, **options)
    return files


def table(path: Path, columns: Mapping[str, Sequence[Any]], *, between: str = ",", before: str = "") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [list(columns), *zip(*columns.values(), strict=True)]
    path.write_text(before + "\n".join(between.join(map(str, row)) for row in rows) + "\n", encoding="utf-8")
    return path


def read(source: Any, entry: str = "1.1", **options: Any) -> Scan:
    return read_scan(source, entry, **({"beamline": LINE} | options))


def on_grid(scan: Scan) -> np.ndarray:
    """Counts on the grid: (scan axes, y, x)."""
    out = np.zeros((int(np.prod(scan.shape)), *scan.frame_shape), scan.counts_dtype)
    for number, frame in frames(scan):
        out[scan.order[number]] = frame
    return out.reshape(*scan.shape, *scan.frame_shape)


def hdf5(folder: Path, counts: np.ndarray, *, single: bool) -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    files = [folder / f"f{k}.h5" for k in range(len(counts) if single else 1)]
    for k, file in enumerate(files):
        with h5py.File(file, "w") as out:
            out["entry/data/data"] = counts[k] if single else counts
            out["entry/temperature"] = np.arange(3.0)
    return files
