"""Stores of earlier versions, without what ingest has written since: they open, verify, and runs go on in them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

import dfxm_dask
from dfxm_dask.run.checks.verify import verify
from dfxm_dask.run.execute import run_recipe
from dfxm_dask.run.recipe import parse_recipe
from dfxm_dask.store.integrity import ledger, nodes
from tests.beamline_files import write_bliss

SINCE = ("masked", "saturation", "position_phi")
KNOWN_THEN = ("reduction", "version", "parameters", "absent", "cropped", "root", "digest", "small_files")
STEPS = parse_recipe(
    "name: x\nsteps:\n  - background: {method: scalar, value: 60}\n  - integrated_curve: {}\n", Path("r.yaml")
)


def as_before(store: Path) -> None:
    """Take from a store what earlier versions did not write; digests and consolidated metadata as theirs."""
    path = ledger.ledger_path(store, "raw", "ingest")
    entries = [json.loads(line) for line in path.read_text().splitlines()]
    (header, *_), records = entries, [e for e in entries if "block" in e]
    meta, provenance = ledger.group_provenance(store, "raw")  # which was a mapping, not text
    made = {k: v for k, v in provenance["ingest"].items() if k in KNOWN_THEN}
    for files in (made["small_files"], *(r["files"] for r in records)):
        for name in [n for n in files if n.split("/")[1] in SINCE]:
            del files[name]
    header["plan"]["writes"] = [n for n in header["plan"]["writes"] if n not in SINCE]
    header["digest"] = ledger.digest(header["plan"])
    made["digest"] = ledger.content_digest(header, {r["block"]: r for r in records})
    meta["attributes"]["provenance"] = {"ingest": made}
    for name in SINCE:
        shutil.rmtree(store / "raw" / name, ignore_errors=True)
    path.unlink()
    for entry in (header, *records, {"completed": ledger.digest(made)}):
        ledger.append(path, {k: v for k, v in entry.items() if k != "sum"})
    (store / "raw/zarr.json").write_text(json.dumps(meta, indent=2))
    nodes.consolidate(store)


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("old")
    write_bliss(folder / "s.h5", layers=2, shape=(5,), size=(24, 30))
    dfxm_dask.ingest(folder / "s.h5", folder / "s.zarr", scan="all")
    assert (folder / "s.zarr/raw/saturation").is_dir()
    as_before(folder / "s.zarr")
    return folder / "s.zarr"


def test_old_store__opens_verifies_and_runs(old: Path, tmp_path: Path) -> None:
    store = Path(shutil.copytree(old, tmp_path / "s.zarr"))
    there = dfxm_dask.open_scan(store)
    assert not {*SINCE} & {*map(str, there["raw"].variables)}
    assert repr(dfxm_dask.info(store))
    assert not verify(store, deep=2, seed=0).faults
    first = run_recipe(STEPS, store)
    assert (first.complete, first.blocks_done) == (True, 4)
    lost = next(p for p in (store / "frames/background_map/c").rglob("*") if p.is_file())
    lost.unlink()
    again = run_recipe(STEPS, store)
    assert (again.complete, again.blocks_done) == (True, 1)
    assert not verify(store).faults
    found = dfxm_dask.calibrate(store, (0.5, 0.7))
    assert (found.before, found.withdrawn) == (None, ())
    assert run_recipe(STEPS, store).blocks_done == 0


def test_old_store__an_ingest_that_goes_on_says_what_must_be_done(old: Path, tmp_path: Path) -> None:
    store = Path(shutil.copytree(old, tmp_path / "s.zarr"))
    with pytest.raises(dfxm_dask.DfxmError, match="overwrite") as caught:
        dfxm_dask.ingest(old.parent / "s.h5", store, scan="all")
    assert "\n" not in str(caught.value)
    assert not verify(store).faults
