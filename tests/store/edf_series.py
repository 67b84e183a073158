"""EDF series, written and read back for tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from dfxm_dask.sources.readers import frames, read_scan
from dfxm_dask.sources.source import Scan, load_beamline
from tests.beamline_files import known_counts, write_edf

BEAMLINE = load_beamline("id03")


TITLE = "ascan  mu 0 0.5  5 1"


COUNTS = known_counts(6)


def motors(**own: Any) -> dict[str, np.ndarray]:
    return {"mu": 0.1 * np.arange(6), "chi": np.full(6, -1.62), "samz": np.full(6, 0.25)} | own


def write(folder: Path, counts: np.ndarray = COUNTS, **options: Any) -> list[Path]:
    return write_edf(folder, counts, **({"title": TITLE, "motors": motors()} | options))


def read(source: Any, **options: Any) -> Scan:
    return read_scan(source, options.pop("entry", "1.1"), beamline=BEAMLINE, **options)


def all_frames(scan: Scan, **options: Any) -> np.ndarray:
    return np.array([frame.copy() for _, frame in frames(scan, **options)])


def header(path: Path, old: str, new: str) -> None:
    data = path.read_bytes()
    assert len(old) == len(new)
    assert old.encode() in data
    path.write_bytes(data.replace(old.encode(), new.encode()))
