"""Verification: every kind of damage, anywhere in a store, is found, located and mended."""

from __future__ import annotations

import random
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

import dfxm_dask
from dfxm_dask.cli import cli
from dfxm_dask.errors import IncompleteError, LockedError
from dfxm_dask.run.checks.verify import verify
from dfxm_dask.run.execute import run_recipe
from dfxm_dask.store.integrity import ledger
from dfxm_dask.store.integrity.digests import Fault
from dfxm_dask.store.integrity.lock import own_group
from tests.run.killing import recipe
from tests.stores import contents, raw_store


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    store = raw_store(tmp_path_factory.mktemp("sound"), layers=3, shape=(7,), size=(40, 50))
    run_recipe(recipe(), store)
    return store


@pytest.fixture
def store(sound: Path, tmp_path: Path) -> Path:
    shutil.copytree(sound, tmp_path / "s.zarr")
    return tmp_path / "s.zarr"


def files(store: Path) -> list[Path]:
    return sorted(p for p in store.rglob("*") if p.is_file())


def test_verify__nothing_to_find(sound: Path) -> None:
    found = verify(sound, deep=4, seed=0)
    assert found.faults == ()
    assert len(found.recomputed) == 4
    assert found.bytes > sum(p.stat().st_size for p in (sound / "raw/counts").rglob("0") if p.is_file())


def place(store: Path, file: Path, fault: Fault) -> bool:
    """Whether a fault leads to a file: by its name, or by what the file says of group and step."""
    name = file.relative_to(store).as_posix()
    if fault.file == name:
        return True
    group = name.partition("/")[0]
    if ".ledger" in name or name.endswith("zarr.json"):
        return fault.group in (group, "") or "zarr.json" in fault.file
    return False


def damage(store: Path, file: Path, chance: random.Random) -> Iterator[str]:
    """One flipped bit."""
    data = bytearray(file.read_bytes())
    at = chance.randrange(len(data) * 8)
    data[at // 8] ^= 1 << at % 8
    before = file.read_bytes()
    file.write_bytes(data)
    yield f"bit {at} of {file.relative_to(store)}"
    file.write_bytes(before)


def flips(store: Path, count: int, seed: int) -> list[str]:
    """Flip single bits, one at a time, in files of all kinds; returns those that nobody saw or placed."""
    chance = random.Random(seed)
    everything = files(store)
    missed = []
    for _ in range(count):
        file = chance.choice(everything)
        for name in damage(store, file, chance):
            found = verify(store).faults
            if not any(place(store, file, fault) for fault in found):
                missed.append(f"{name}: {[str(f) for f in found]}")
    return missed


def test_verify__single_bits_are_found_and_placed(store: Path) -> None:
    assert flips(store, 30, 0) == []


@pytest.mark.slow
def test_verify__two_thousand_single_bits(store: Path) -> None:
    assert flips(store, 2000, 1) == []


@pytest.mark.parametrize("every", [9, pytest.param(1, marks=pytest.mark.slow)])
def test_verify__deleted_truncated_emptied_and_swapped_files(store: Path, every: int) -> None:
    shards = [p for p in files(store) if ".ledger" not in p.parts and p.name != "zarr.json"][::every]
    missed = []
    for k, file in enumerate(shards):
        before = file.read_bytes()
        other = next((o for o in shards if o.parent.parent == file.parent.parent and o != file), shards[k - 1])
        for kind, change in {
            "deleted": lambda f: f.unlink(),
            "truncated": lambda f: f.write_bytes(before[: len(before) // 2]),  # noqa: B023
            "emptied": lambda f: f.write_bytes(b""),
            "longer": lambda f: f.write_bytes(before + b"\0"),  # noqa: B023
            "swapped": lambda f: f.write_bytes(other.read_bytes()),  # noqa: B023
        }.items():
            change(file)
            if file.exists() and file.read_bytes() == before:
                continue  # swapped with its equal
            found = [f for f in verify(store).faults if f.file == file.relative_to(store).as_posix()]
            if not found:
                missed.append((kind, file))
        file.write_bytes(before)
    assert missed == []
    assert len(shards) > 60 // every


def test_verify__stale_blocks_of_another_run(store: Path, sound: Path) -> None:
    """A block that an earlier run with other parameters wrote, sound in itself, in the place of the right one."""
    other = Path(store.parent, "other.zarr")
    shutil.copytree(sound, other)
    run_recipe(
        type(recipe())(
            **{
                **vars(recipe()),
                "steps": tuple(
                    s if s.name != "background" else type(s)(s.name, {**s.parameters, "quantile": 0.5})
                    for s in recipe().steps
                ),
            }
        ),
        other,
        overwrite=True,
    )
    stale = sorted(p for p in (other / "rocking").rglob("0") if p.is_file())
    tried = 0
    for file in stale:
        mine = store / file.relative_to(other)
        before = mine.read_bytes()
        if before == file.read_bytes():
            continue
        mine.write_bytes(file.read_bytes())
        assert [f for f in verify(store).faults if f.file == mine.relative_to(store).as_posix()], mine
        mine.write_bytes(before)
        tried += 1
    assert tried > 5


def test_verify__repairs_results_byte_for_byte(store: Path, sound: Path) -> None:
    wanted = contents(sound)
    chance = random.Random(3)
    # Copies of coordinates in a group are not repaired: verify names them.
    results = [p for p in files(store) if p.relative_to(store).parts[0] in ("frames", "rocking")]
    results = [p for p in results if p.relative_to(store).parts[1] not in ("z", "y", "x", "phi")]
    for file in chance.sample(results, 6):
        for _ in damage(store, file, chance):
            assert verify(store).faults
            found = verify(store, repair=True)
            assert found.faults == (), file
            assert found.repaired
            assert contents(store) == wanted
    for file in (store / "zarr.json", store / "rocking/zarr.json"):
        before = file.read_bytes()
        file.write_bytes(before.replace(b"moments", b"momenta"))
        assert verify(store).faults
        assert verify(store, repair=True).faults == ()
        assert contents(store) == wanted


def test_verify__raw_data_are_taken_back_and_ingested_again(store: Path, sound: Path) -> None:
    shard = next(p for p in sorted((store / "raw/counts/c/1").rglob("*")) if p.is_file())
    data = bytearray(shard.read_bytes())
    data[100] ^= 1
    shard.write_bytes(data)
    found = verify(store, repair=True)
    assert any("run the same ingest" in str(f) for f in found.faults)
    with pytest.raises(IncompleteError, match="2 of 3 blocks"):
        dfxm_dask.open_scan(store)
    report = dfxm_dask.ingest(sound.parent / "s.h5", store, scan="all", pixel_size=(0.5, 0.7))
    assert report.skipped == 2
    assert verify(store).faults == ()
    assert contents(store) == contents(sound)


def test_verify__deep_finds_what_no_digest_can(store: Path) -> None:
    """A result that was wrong when it was written has sound digests: only a recomputed block shows it."""
    from dfxm_dask.store.shards import open_array, write_shard

    array = open_array(store / "rocking/com_phi")
    assert array is not None
    values = np.asarray(dfxm_dask.open_scan(store)["rocking"].com_phi[1:2]) + np.float32(1)
    size, digest = write_shard(array, (1, 0, 0), values)
    path = ledger.ledger_path(store, "rocking", "moments")
    _, records = ledger.read_ledger(path)
    record = {k: v for k, v in records["z0001-0:40"].items() if k not in ("sum", "host")}
    name = "rocking/com_phi/c/1/0/0"
    ledger.commit(store, "rocking", "moments", {**record, "files": {**record["files"], name: [size, digest]}})
    meta, provenance = ledger.group_provenance(store, "rocking")
    small = provenance["moments"].pop("small_files")
    provenance["moments"].pop("digest")
    ledger.complete(store, "rocking", "moments", provenance["moments"], small)
    dfxm_dask.store.integrity.nodes.consolidate(store)
    assert not [f for f in verify(store).faults if f.step == "moments"]
    found = verify(store, deep=12)
    assert [f.what for f in found.faults if f.file == name] == ["differs from the recomputed block"]
    assert meta


def test_verify__results_of_other_raw_data(store: Path) -> None:
    _, provenance = ledger.group_provenance(store, "raw")
    header, records = ledger.read_ledger(ledger.ledger_path(store, "raw", "ingest"))
    record = {k: v for k, v in records["z0000"].items() if k not in ("sum", "host")}
    files = {name: [size, "0" * 64] for name, (size, _) in record["files"].items()}
    ledger.commit(store, "raw", "ingest", {**record, "files": files})
    found = {(f.step, f.block) for f in verify(store).faults if "was computed from another raw/ingest" in f.what}
    assert ("moments", "z0000-0:40") in found
    assert ("moments", "z0001-0:40") not in found
    assert provenance
    assert header


def test_verify__repair_is_refused_where_a_run_is_at_work(store: Path) -> None:
    (store / "rocking/com_phi/c/0/0/0").unlink()
    with own_group(store, "rocking", "a run"), pytest.raises(LockedError, match="is held by"):
        verify(store, repair=True)


def test_verify__command(store: Path) -> None:
    call = CliRunner().invoke(cli, ["verify", str(store), "--deep", "2"])
    assert call.exit_code == 0, call.output
    assert "sound" in call.output
    (store / "rocking/com_phi/c/0/0/0").unlink()
    call = CliRunner().invoke(cli, ["verify", str(store)])
    assert call.exit_code == 3
    assert "rocking/com_phi/c/0/0/0 is missing" in " ".join(call.output.split())
    call = CliRunner().invoke(cli, ["verify", str(store), "--repair"])
    assert call.exit_code == 0, call.output
    call = CliRunner().invoke(cli, ["verify", str(store / "nothing")])
    assert call.exit_code == 1
    assert call.output.startswith("Error: ")
