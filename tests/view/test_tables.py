"""Summaries: the same facts as text, HTML and JSON."""

from __future__ import annotations

import io
import json
from collections.abc import Callable

import numpy as np
import pytest
import xarray as xr

from dfxm_dask.view.store_facts import findings, measured
from dfxm_dask.view.tables import Summary, Table, terminal

HOSTILE = "<script>alert(1)</script> [bold]x[/bold] \x1b[31m"


@pytest.fixture
def summary() -> Summary:
    facts = {"kam": np.array([0.25, np.nan], np.float32), "blocks": np.int64(3), "name": HOSTILE}
    rows = [(HOSTILE, 0.25)]
    return Summary(
        facts, HOSTILE, Table("maps", ("name", "value"), rows, (1,)), Table("all", ("name",), rows, (), True)
    )


def test_summary__json_has_numbers_and_null_for_nan(summary: Summary) -> None:
    assert json.loads(summary.json()) == summary.as_dict() == {"kam": [0.25, None], "blocks": 3, "name": HOSTILE}
    summary.as_dict()["kam"].clear()
    assert summary.as_dict()["kam"] == [0.25, None]


def test_summary__html_escapes_names_and_folds_details(summary: Summary) -> None:
    page = summary._repr_html_()
    assert "<script" not in page
    assert "\x1b" not in page
    assert page.count("&lt;script&gt;") == 3
    assert "<details><summary>all (1)</summary>" in page
    assert "color" not in page.replace("border-collapse", "")  # readable on a dark page


def test_summary__repr_is_text_without_details(summary: Summary, capsys: pytest.CaptureFixture[str]) -> None:
    text = repr(summary)
    assert "[bold]x[/bold]" in text
    assert "\x1b" not in text
    assert ("maps" in text, "all" in text) == (True, False)
    summary.show()
    assert "\nall" in capsys.readouterr().out


def test_findings__are_medians_over_sound_pixels(reduced_scan: Callable[..., xr.DataTree]) -> None:
    found = {one["quantity"]: one for one in findings(reduced_scan()["rocking"].dataset)}
    assert list(found) == [
        "lit pixels",
        "truncated curves, of the lit pixels",
        "lit in a single frame, of the lit pixels",
        "median centre of mass, phi",
        "median FWHM, phi (2.3548 standard deviations)",
        "median KAM",
    ]
    centre = found["median centre of mass, phi"]
    assert (round(centre["value"], 2), centre["unit"]) == (0.3, "degree")
    assert measured(centre) == f"{centre['value']:.5g} °"


def test_terminal__is_wide_in_a_file() -> None:
    assert terminal(io.StringIO()).width == 160
