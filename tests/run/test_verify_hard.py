"""Verification and repair where stores have a history: other recipes, shares, steps run alone, interruptions."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

import dfxm_dask
from dfxm_dask.errors import IncompleteError, StoreError
from dfxm_dask.run.checks.verify import verify
from dfxm_dask.run.execute import run_recipe
from dfxm_dask.run.recipe import Recipe, parse_recipe
from dfxm_dask.store.integrity import ledger, nodes
from dfxm_dask.store.integrity.opened import open_store
from tests.run.killing import recipe
from tests.stores import contents, raw_store


def parsed(*steps: str) -> Recipe:
    return parse_recipe("name: x\nsteps:\n" + "".join(f"  - {step}\n" for step in steps), Path("x.yaml"))


MOMENTS, KAM = "moments: {background: 50}", "kam: {radius: 1.0}"


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return raw_store(tmp_path_factory.mktemp("raw"), layers=4, shape=(7,), size=(40, 50))


def flip(file: Path, at: int = 100) -> None:
    data = bytearray(file.read_bytes())
    data[at] ^= 4
    file.write_bytes(data)


def test_verify__a_block_of_a_share_is_mended_and_stays(store: Path) -> None:
    for k in (1, 2):
        run_recipe(recipe(), store, share=(k, 2))
    assert run_recipe(recipe(), store).complete
    before = contents(store)
    flip(store / "rocking/com_phi/c/1/0/0")
    assert verify(store, repair=True).faults == ()
    assert contents(store) == before
    assert run_recipe(recipe(), store).blocks_done == 0


def test_verify__repairs_by_the_recipe_that_made_the_step(store: Path) -> None:
    run_recipe(parsed("moments: {background: 0}", KAM), store)
    run_recipe(parsed(MOMENTS), store, overwrite=True)
    run_recipe(parsed(MOMENTS, KAM), store, overwrite=True)
    before = contents(store)
    flip(store / "rocking/com_phi/zarr.json")
    assert verify(store, repair=True).faults == ()
    assert contents(store) == before


def test_verify__takes_nothing_back_that_cannot_be_made_again(store: Path) -> None:
    """Moments that saw no background map, in a store that has one now, would be made otherwise today."""
    run_recipe(parsed("moments: {background: none}"), store)
    run_recipe(parsed("background: {method: scalar, value: 60}"), store)
    before = contents(store)
    flip(store / "rocking/com_phi/c/1/0/0")
    found = verify(store, repair=True)
    assert any(
        "cannot be computed again" in f.what or "differs from the one" in f.what or "checksum" in f.what
        for f in found.faults
    )
    after = contents(store)
    assert {k for k in before if after.get(k) != before[k]} == {"rocking/com_phi/c/1/0/0"}


def test_verify__leaves_results_alone_while_raw_data_are_damaged(store: Path) -> None:
    run_recipe(recipe(), store)
    before = contents(store)
    flip(store / "raw/counts/c/1/0/0/0")
    flip(store / "rocking/kam/c/1/0/0")
    assert verify(store, repair=True).faults
    after = contents(store)
    changed = {k for k in {*before, *after} if after.get(k) != before.get(k)}
    assert changed == {"raw/counts/c/1/0/0/0", "rocking/kam/c/1/0/0", "zarr.json"}


def test_verify__metadata_of_a_group_alone_cost_no_block(store: Path) -> None:
    run_recipe(recipe(), store)
    before = contents(store)
    (store / "rocking/zarr.json").write_text("{")
    stamps = {p: p.stat().st_mtime_ns for p in (store / "rocking").rglob("0") if p.is_file()}
    verify(store, repair=True)
    assert verify(store, repair=True).faults == ()
    assert contents(store) == before
    small = store / "rocking/integrated_curve/c/0"  # gathered anew
    assert {p for p, t in stamps.items() if p.stat().st_mtime_ns != t} <= {small}


def test_verify__deep_on_unfinished_and_foreign_cuts(store: Path) -> None:
    run_recipe(recipe(), store)
    ledger.withdraw_blocks(store, "rocking", "moments", ["z0001-0:40"])
    found = verify(store, deep=50, seed=1)
    assert {f.what for f in found.faults if f.step == "moments"} == {"has no record"}
    assert found.recomputed


def test_open_scan__arrays_of_a_step_that_was_taken_back_are_not_shown(store: Path) -> None:
    run_recipe(recipe(), store)
    ledger.withdraw(store, "rocking", "integrated_curve")
    tree = dfxm_dask.open_scan(store)
    assert "integrated_curve" not in tree["rocking"]
    assert "com_phi" in tree["rocking"]
    nodes.consolidate(store)
    assert not [name for name in (store / "zarr.json").read_text().split('"') if name == "rocking/integrated_curve"]


def test_open_scan__what_was_made_of_stale_inputs_is_stale_itself(store: Path) -> None:
    run_recipe(parsed("background: {method: scalar, value: 60}", "moments: {}", KAM), store)
    run_recipe(parsed("background: {method: scalar, value: 61}"), store, overwrite=True)
    state = open_store(store).incomplete("rocking")
    assert "frames/background has been recomputed" in state["moments"][0]
    assert "recomputed" in state["kam"][0]
    assert {f.step for f in verify(store).faults} == {"moments", "kam"}
    with pytest.raises(IncompleteError, match="recomputed since"):
        dfxm_dask.open_scan(store)


def test_run_recipe__blocks_that_another_recipe_cut_otherwise_are_not_thrown_away(store: Path) -> None:
    run_recipe(parsed(MOMENTS), store, share=(1, 2))
    path = ledger.ledger_path(store, "rocking", "moments")
    header, records = ledger.read_ledger(path)
    path.unlink()
    ledger.append(path, {k: v for k, v in header.items() if k != "sum"} | {"blocks": ["z0000-0:20", *header["blocks"]]})
    with pytest.raises(StoreError, match=r"has 2 of 5 blocks on disk.*cut differently.*finish that recipe"):
        run_recipe(parsed(MOMENTS), store)
    assert len(records) == 2
    assert run_recipe(parsed(MOMENTS), store, overwrite=True).complete


def test_ingest__refused_for_space_keeps_the_old_store(raw: Path, store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from dfxm_dask.store import layers as module

    usage = shutil.disk_usage(store)._replace(free=-(10**9))
    monkeypatch.setattr(module.shutil, "disk_usage", lambda path: usage)
    before = contents(store)
    with pytest.raises(StoreError, match="free space, or choose another disk"):
        dfxm_dask.ingest(raw.parent / "s.h5", store, scan="1.1", overwrite=True)
    assert contents(store) == before


def test_ingest__killed_as_the_root_was_written_begins_again(raw: Path, tmp_path: Path) -> None:
    target = tmp_path / "new.zarr"
    target.mkdir()
    (target / "zarr.json.0123.partial").write_bytes(b"{")
    dfxm_dask.ingest(raw.parent / "s.h5", target, scan="all", pixel_size=(0.5, 0.7))
    assert {k: v for k, v in contents(target).items() if "partial" not in k} == contents(raw)
