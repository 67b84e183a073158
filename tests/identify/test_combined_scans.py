"""The command that adds the evidence of several scans."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from click.testing import CliRunner

from dfxm_dask.cli.identify import identify
from dfxm_dask.identify.match import REASONS


def scan(reason: int, kind: str = "fcc") -> xr.DataTree:
    attrs = {"flag_masks": [m for m, _ in REASONS], "flag_meanings": " ".join(w for _, w in REASONS)}
    found = {"log_evidence": ("candidate", np.arange(5.0)), "match_reason": ("answer", np.array([reason]), attrs)}
    root = xr.Dataset(attrs={"lattice": {"kind": kind}})
    return xr.DataTree.from_dict({"/": root, "/identify": xr.Dataset(found)})


@pytest.mark.parametrize(
    ("reasons", "kinds", "words"),
    [
        ((0, 2), ("fcc", "fcc"), "1.zarr: has no probabilities (misfit)"),
        ((9, 0), ("fcc", "fcc"), "0.zarr: has no probabilities (no_frames, legacy)"),
        ((0, 0), ("fcc", "bcc"), "have lattices of the kinds bcc, fcc"),
        ((0, 4), ("fcc", "fcc"), ""),
    ],
)
def test_identify__leaves_no_scan_without_probabilities_in(monkeypatch, reasons, kinds, words) -> None:
    trees = {f"{k}.zarr": scan(*one) for k, one in enumerate(zip(reasons, kinds, strict=True))}
    monkeypatch.setattr("dfxm_dask.store.scan.open_scan", lambda path: trees[Path(path).name])
    result = CliRunner().invoke(identify, list(trees))
    assert (result.exit_code != 0) == bool(words)
    assert words in str(result.exception or "")
    if not words:  # evidence adds: the prior of one half, and five candidates with logarithms 0, 2, 4, 6, 8
        none = 1 / (1 + np.exp(2 * np.arange(5.0)).sum() / 5)
        assert f"no dislocation: {none:.3g}" in result.output
