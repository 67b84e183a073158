"""BLISS files that tests break, and what every refusal of one must be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import pytest

from dfxm_dask.errors import SourceError
from dfxm_dask.sources.readers import read_scan
from dfxm_dask.sources.source import load_beamline

BEAMLINE = load_beamline("id03")


def refuse(path: Path, match: str, entry: str = "1.1", **options: Any) -> None:
    with pytest.raises(SourceError, match=match) as caught:
        read_scan(path, entry, beamline=BEAMLINE, **options)
    line = str(caught.value)
    assert "\n" not in line
    assert path.name in line
    assert caught.value.remedy


def edit(path: Path) -> h5py.File:
    return h5py.File(path, "a")


def replace(file: h5py.File, name: str, value: Any) -> None:
    if name in file:
        del file[name]
    file[name] = value
