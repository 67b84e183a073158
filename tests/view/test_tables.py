"""Tables: what they say of a store and of its findings."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import xarray as xr

from dfxm_dask.errors import IncompleteError
from dfxm_dask.view import tables

Scan = Callable[..., xr.DataTree]


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch, reduced_scan: Scan) -> dict[str, Any]:
    """A store that is opened as the scan in memory; may be told to be incomplete."""
    import sys

    state: dict[str, Any] = {"missing": False}

    def open_scan(path: Any, *, chunks: Any, allow_partial: bool = False) -> xr.DataTree:
        assert chunks is None
        if state["missing"] and not allow_partial:
            raise IncompleteError("group 'rocking'", "3 of 4 blocks are on disk", "run it again")
        return reduced_scan(ny=20, nx=30)

    monkeypatch.setitem(sys.modules, "dfxm_dask.store.scan", SimpleNamespace(open_scan=open_scan))
    return state


def test_show_store__says_what_is_in_it(store: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    assert tables.show_store("scan.zarr")
    text = capsys.readouterr().out
    for words in ("synthetic bent crystal", "raw/counts", "z 1, phi 41, y 20, x 30", "uint16", "0.25", "0.35", "mu"):
        assert words in text
    assert "background=106" in text
    assert text.splitlines()[-1] == "complete"


def test_show_store__says_what_is_missing(store: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    store["missing"] = True
    assert not tables.show_store("scan.zarr")
    assert "INCOMPLETE: group 'rocking': 3 of 4 blocks are on disk" in capsys.readouterr().out


def test_findings__are_medians_over_sound_pixels(reduced_scan: Scan) -> None:
    found = dict(tables.findings(reduced_scan()))
    assert list(found) == [
        "lit pixels",
        "truncated, of the lit",
        "lit in a single frame, of the lit",
        "median centre of mass, phi",
        "median FWHM, phi (2.3548 std)",
        "median KAM",
    ]
    assert found["median centre of mass, phi"].startswith("0.30")
    assert found["median centre of mass, phi"].endswith(" °")


def test_terminal__is_wide_where_nobody_looks() -> None:
    import io

    assert tables.terminal(io.StringIO()).width == 160
