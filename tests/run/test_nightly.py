"""Nights: what is found, done, put off, given up and left alone; and that raw data stay as they are."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import h5py
import pytest

import dfxm_dask
from dfxm_dask.errors import LockedError, StoreError
from dfxm_dask.run.events import Event
from dfxm_dask.run.nights.config import read_nightly
from dfxm_dask.run.nights.night import run_night
from dfxm_dask.store.integrity.attributes import recorded_steps
from tests.run.nights import (
    BROKEN,
    MESH,
    OLD,
    RECIPE,
    age,
    by_name,
    contents,
    files_below,
    grow,
    locked,
    make_tree,
    write_scan,
)


def test_run_night__does_what_is_whole_names_what_is_not_and_does_nothing_twice(tmp_path: Path) -> None:
    config = read_nightly(make_tree(tmp_path, good=6))
    grow(tmp_path, whole=False)
    raws = sorted(tmp_path.glob("data/visitor/*/id03/*/RAW_DATA"))
    before = [files_below(raw) for raw in raws]
    for raw in raws:
        locked(raw, True)
    first = run_night(config)
    assert first.counts == {"failed": 5, "deferred": 1, "done": 6}
    assert not first.complete
    found = by_name(first)
    reasons = {
        "truncated": "is truncated",
        "missing": r"pco_ff_0001.h5.*missing",
        "aborted": "7 of 9 frames",
        "nan": "motor mu is nan at frame 3",
        "garbled": "frame 2 of .*pco_ff_0000.h5.*cannot be read",
        "growing": "may still be being written",
    }
    for name, words in reasons.items():
        assert re.search(words, found[name].reason), found[name].reason
        assert name in found[name].reason  # the file is named
    processed = sorted(tmp_path.glob("data/visitor/*/id03/*/PROCESSED_DATA"))
    assert len(processed) == 2
    state = [files_below(folder) for folder in processed]
    for k in range(6):
        store = processed[k % 2] / f"s/s_{k:04d}/s_{k:04d}_1.1.zarr"
        assert found[f"{k:04d}"].store == str(store)
        tree = dfxm_dask.open_scan(store, chunks=None)
        assert {"raw", "frames", "rocking"} <= set(tree.children)
    second = run_night(config)
    assert second.counts == {"quarantined": 5, "deferred": 1, "unchanged": 6}
    assert [files_below(folder) for folder in processed] == state
    assert {n: o.reason for n, o in by_name(second).items() if o.status == "quarantined"} == {
        n: found[n].reason for n in BROKEN
    }
    for raw in raws:
        locked(raw, False)
    assert [files_below(raw) for raw in raws] == before

    # The growing scan is finished, and a broken one mended: both are done, and nothing else is touched.
    age(grow(tmp_path, whole=True).parent)
    mended = raws[0] / "s/s_missing/scan0001/pco_ff_0001.h5"
    other = write_scan(tmp_path / "other", "missing")
    shutil.copy(other.parent / "scan0001/pco_ff_0001.h5", mended)
    age(mended.parent)
    third = run_night(config)
    assert third.counts == {"quarantined": 4, "done": 2, "unchanged": 6}
    assert {n for n, o in by_name(third).items() if o.status == "done"} == {"growing", "missing"}
    after = [files_below(folder) for folder in processed]
    for was, now in zip(state, after, strict=True):
        assert {k: v for k, v in was.items() if "missing" not in k} == {k: now[k] for k in was if "missing" not in k}


def test_run_night__tries_again_then_gives_up_until_something_changes(tmp_path: Path) -> None:
    path = make_tree(tmp_path, good=1, retries=2, broken=("garbled",))
    config = read_nightly(path)
    told = []
    for failures in (1, 2, 3):
        found = by_name(run_night(config, say=told.append))["garbled"]
        assert (found.status, found.failures) == ("failed", failures)
    # What failed before comes after what is new.
    write_scan(tmp_path / "data/visitor/ma0/id03/20261120/RAW_DATA/s", "later")
    age(tmp_path, OLD / 2)
    fourth = by_name(run_night(config))
    assert fourth["later"].status == "done"
    assert fourth["garbled"].status == "failed"  # its files were touched: counted anew
    assert fourth["garbled"].failures == 1
    for _ in range(2):
        run_night(config)
    given_up = by_name(run_night(config))["garbled"]
    assert given_up.status == "quarantined"
    assert "cannot be read" in given_up.reason
    # Another configuration may be what it needs.
    other = config.model_copy(update={"roi": (0, 20, 0, 20)})
    assert by_name(run_night(other))["garbled"].status == "failed"


def test_run_night__a_recipe_that_does_not_fit_is_the_scans_failure_and_mended_by_the_configuration(
    tmp_path: Path,
) -> None:
    path = make_tree(tmp_path, good=1, broken=())
    (tmp_path / "short.yaml").write_text(RECIPE + "  - kam: {radius: 2.0}\n")
    path.write_text(path.read_text().replace("pixel_size: [0.5, 0.7]\n", ""))
    first = by_name(run_night(read_nightly(path)))["0000"]
    assert first.status == "failed"
    assert "--pixel-size" in first.reason
    assert by_name(run_night(read_nightly(path)))["0000"].status == "quarantined"
    (tmp_path / "short.yaml").write_text(RECIPE)
    assert by_name(run_night(read_nightly(path)))["0000"].status == "done"


def test_run_night__a_full_disk_is_not_held_against_the_scan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = read_nightly(make_tree(tmp_path, good=1, broken=()))

    def full(*_: Any, **__: Any) -> None:
        raise StoreError("store x", "requires about 9 MB, 1 MB are free", "free space")

    with monkeypatch.context() as patch:
        patch.setattr("dfxm_dask.run.nights.night.run_ingest", full)
        for _ in range(3):
            found = by_name(run_night(config))["0000"]
            assert (found.status, found.failures) == ("failed", 0)
            assert "1 MB are free" in found.reason
    assert run_night(config).counts == {"done": 1}


def test_run_night__changed_files_are_never_mixed_with_an_old_store(tmp_path: Path) -> None:
    config = read_nightly(make_tree(tmp_path, good=2, broken=()))
    run_night(config)
    store = Path(by_name(run_night(config))["0000"].store)
    before = contents(store, ledgers=True)
    session = tmp_path / "data/visitor/ma0/id03/20261120/RAW_DATA/s"
    shutil.rmtree(session / "s_0000")
    age(write_scan(session, "0000", seed=77).parent, OLD / 2)
    changed = run_night(config)
    assert changed.counts == {"changed": 1, "unchanged": 1}
    assert "remove or rename the store" in by_name(changed)["0000"].reason
    assert contents(store, ledgers=True) == before
    store.rename(store.with_name("old"))
    assert run_night(config).counts == {"done": 1, "unchanged": 1}
    assert contents(store)["raw/counts/c/0/0/0/0"] != contents(store.with_name("old"))["raw/counts/c/0/0/0/0"]
    assert {"rocking", "frames"} <= set(dfxm_dask.open_scan(store).children)
    assert run_night(config).counts == {"unchanged": 2}


def test_run_night__a_scan_that_is_added_to_a_master_leaves_the_others_alone(tmp_path: Path) -> None:
    config = read_nightly(make_tree(tmp_path, good=0, broken=()))
    session = tmp_path / "data/visitor/ma0/id03/20261120/RAW_DATA/s"
    master = write_scan(session, "many", layers=2)
    age(tmp_path)
    assert run_night(config).counts == {"done": 2}
    with h5py.File(master, "a") as file:
        file.copy("2.1", "3.1")
        del file["3.1/end_time"]
    # Written a moment ago: the two that ended, with frames in files of their own, are not put off for it.
    now = run_night(config)
    assert now.counts == {"deferred": 1, "unchanged": 2}
    assert [o.entries for o in now.outcomes if o.status == "deferred"] == [("3.1",)]
    os.utime(master, (time.time() - OLD / 2,) * 2)
    assert run_night(config).counts == {"done": 1, "unchanged": 2}


def test_run_night__layers_of_one_master_become_one_store(tmp_path: Path) -> None:
    path = make_tree(tmp_path, good=0, broken=())
    path.write_text(path.read_text() + "stack: true\n")
    write_scan(tmp_path / "data/visitor/ma0/id03/20261120/RAW_DATA/s", "many", layers=3)
    age(tmp_path)
    (done,) = run_night(read_nightly(path)).outcomes
    assert (done.status, done.entries) == ("done", ("1.1", "2.1", "3.1"))
    assert dfxm_dask.open_scan(done.store)["raw"].counts.sizes["z"] == 3
    assert run_night(read_nightly(path)).counts == {"unchanged": 1}


def test_run_night__absent_frames_that_are_allowed_are_named(tmp_path: Path) -> None:
    path = make_tree(tmp_path, good=0, broken=("aborted",))
    path.write_text(path.read_text() + "allow_partial: true\n")
    first = run_night(read_nightly(path))
    assert first.counts == {"partial": 1}
    assert "7 of 9 frames" in first.outcomes[0].reason
    assert not first.complete
    again = run_night(read_nightly(path))
    assert again.counts == {"unchanged": 1}
    assert "7 of 9 frames" in again.outcomes[0].reason


def test_run_night__the_direction_of_rows_is_told_to_scans_that_ask_for_it(tmp_path: Path) -> None:
    path = make_tree(tmp_path, good=0, broken=())
    session = tmp_path / "data/visitor/ma0/id03/20261120/RAW_DATA/s"
    silent = write_scan(session, "silent", **MESH, mode="ZIGZAG", parameters=False, positioner="absent")
    age(tmp_path)
    (first,) = run_night(read_nightly(path)).outcomes
    assert first.status == "failed"
    assert "--scan-mode zigzag" in first.reason
    path.write_text(path.read_text() + "scan_mode: zigzag\n")
    (done,) = run_night(read_nightly(path)).outcomes
    assert done.status == "done"
    raw = dfxm_dask.open_scan(done.store, chunks=None)["raw"]
    assert (raw.phi.attrs["scan_mode"], raw.phi.attrs["scan_mode_source"]) == ("zigzag", "given")
    with h5py.File(silent) as file:
        recorded = file["1.1/measurement/pco_ff"][:]
    assert (raw.counts.values[0, 1] == recorded[7:3:-1]).all()


def test_run_night__a_recipe_added_later_is_run_on_all(tmp_path: Path) -> None:
    path = make_tree(tmp_path, good=1, broken=())
    config = read_nightly(path)
    run_night(config)
    (tmp_path / "more.yaml").write_text(RECIPE.replace("short", "more") + "  - integrated_curve: {}\n")
    path.write_text(path.read_text().replace("[short.yaml]", "[short.yaml, more.yaml]"))
    (done,) = run_night(read_nightly(path)).outcomes
    assert done.status == "done"
    assert "integrated_curve" in recorded_steps(dfxm_dask.open_scan(done.store)["rocking"].attrs)
    (tmp_path / "more.yaml").write_text(RECIPE.replace("short", "more").replace("60", "70"))
    assert run_night(read_nightly(path)).counts == {"unchanged": 1}


def test_run_night__a_second_one_is_refused(tmp_path: Path) -> None:
    config = read_nightly(make_tree(tmp_path, good=1, broken=()))
    seen: list[str] = []

    def second(text: str) -> None:
        with pytest.raises(LockedError, match="reports is held by"):
            run_night(config)
        seen.append(text)

    assert run_night(config, say=second).counts == {"done": 1}
    assert seen


def test_run_night__a_scan_that_another_run_holds_waits(tmp_path: Path) -> None:
    from dfxm_dask.store.integrity.lock import own_store

    config = read_nightly(make_tree(tmp_path, good=1, broken=()))
    store = tmp_path / "data/visitor/ma0/id03/20261120/PROCESSED_DATA/s/s_0000/s_0000_1.1.zarr"
    with own_store(store, "something else"):
        found = by_name(run_night(config))["0000"]
    assert (found.status, found.failures) == ("deferred", 0)
    assert "is held by" in found.reason
    assert run_night(config).counts == {"done": 1}


def test_run_night__ends_when_its_time_is_over_and_goes_on_the_next_night(tmp_path: Path) -> None:
    config = read_nightly(make_tree(tmp_path, good=3, broken=()))

    def slow(text: str) -> None:
        if text.startswith("2 of 3"):
            signal.raise_signal(signal.SIGALRM)  # as the clock does when the hours are over

    first = run_night(config, hours=7.5, say=slow)
    assert first.stopped == "its 7.5 hours were over"
    assert first.counts == {"not done": 2, "done": 1}
    assert all("hours were over" in o.reason for o in first.outcomes if o.status == "not done")
    assert not first.complete
    assert run_night(config).counts == {"done": 2, "unchanged": 1}


PROGRAM = """
import sys
from dfxm_dask.run.events import Event
from dfxm_dask.run.nights.config import read_nightly
from dfxm_dask.run.nights.night import run_night
from dfxm_dask.run.events import BlockDone, LayerDone
def tell(event):
    if isinstance(event, BlockDone | LayerDone):
        print(type(event).__name__, flush=True)
if __name__ == "__main__":
    night = run_night(read_nightly(sys.argv[1]), publish=(tell,))
    print(night.counts, night.stopped, flush=True)
"""


def started(config: Path, after: str, count: int) -> subprocess.Popen[str]:
    """A night in a program of its own, come to its ``count``-th line of that word."""
    program = subprocess.Popen([sys.executable, "-c", PROGRAM, str(config)], stdout=subprocess.PIPE, text=True)
    assert program.stdout
    for line in program.stdout:
        count -= line.startswith(after)
        if not count:
            break
    return program


def killed(program: subprocess.Popen[str]) -> None:
    program.kill()
    program.wait()
    assert program.stdout
    program.stdout.close()


@pytest.mark.slow
def test_run_night__killed_and_begun_again_gives_the_same_stores(tmp_path: Path) -> None:
    for name in ("whole", "killed"):
        make_tree(tmp_path / name, good=3, broken=(), retries=2)
    for path in (tmp_path / "whole", tmp_path / "killed"):  # the same times of change
        age(path, time.time() - 1.7e9)
    assert run_night(read_nightly(tmp_path / "whole/nightly.yaml")).counts == {"done": 3}
    killed(started(tmp_path / "killed/nightly.yaml", "BlockDone", 2))
    last = run_night(read_nightly(tmp_path / "killed/nightly.yaml"))
    assert set(last.counts) <= {"done", "unchanged"}
    assert last.complete
    both = [contents(tmp_path / name / "data") for name in ("whole", "killed")]
    stores = [{k: v for k, v in found.items() if "PROCESSED_DATA" in k} for found in both]
    assert len(stores[0]) > 100
    assert stores[0].keys() == stores[1].keys()
    assert stores[0] == stores[1]


def test_run_night__asked_to_end_says_what_was_not_done(tmp_path: Path) -> None:
    config = read_nightly(make_tree(tmp_path, good=4, broken=()))
    said: list[str] = []

    def end(event: Event) -> None:
        said.append(type(event).__name__)
        if said[-1] == "LayerDone" and said.count("LayerDone") == 2:
            os.kill(os.getpid(), signal.SIGTERM)

    first = run_night(config, publish=(end,))
    assert first.stopped == "it received SIGTERM"
    assert first.counts == {"not done": 3, "done": 1}
    assert sorted(o.reason.partition(":")[0] for o in first.outcomes) == [
        "",
        *["not started"] * 2,
        "stopped on the way",
    ]
    assert not first.complete
    last = run_night(config)  # not counted as a failure, though retries is 0
    assert last.counts == {"done": 3, "unchanged": 1}


class Killed(BaseException):
    """As if the program were killed: nothing catches it."""


def test_run_night__a_scan_that_ends_the_program_is_given_up(tmp_path: Path) -> None:
    path = make_tree(tmp_path, good=1, retries=0, broken=())

    def die(event: Event) -> None:
        raise Killed

    with pytest.raises(Killed):
        run_night(read_nightly(path), publish=(die,))
    (found,) = run_night(read_nightly(path)).outcomes
    assert (found.status, found.failures) == ("quarantined", 1)
    assert "the night ended during this scan" in found.reason
    again = read_nightly(path).model_copy(update={"retries": 1})
    assert run_night(again).counts == {"done": 1}
    assert run_night(again).counts == {"unchanged": 1}


def test_run_night__dry_writes_nothing(tmp_path: Path) -> None:
    config = read_nightly(make_tree(tmp_path, good=2, broken=("nan",)))
    before = files_below(tmp_path)
    found = run_night(config, dry=True)
    assert found.counts == {"new": 3}
    assert files_below(tmp_path) == before


def test_run_night__a_root_that_is_not_there_is_no_quiet_night(tmp_path: Path) -> None:
    path = make_tree(tmp_path, good=1, broken=())
    path.write_text(
        path.read_text().replace(
            "raw: data/visitor/*/id03/*/RAW_DATA", "raw: [data/visitor/*/id03/*/RAW_DATA, not_mounted/x]"
        )
    )
    found = run_night(read_nightly(path))
    assert found.counts == {"done": 1}
    assert not found.complete
    assert re.search("not_mounted/x matches nothing", found.faults[0])


def test_run_night__what_was_not_asked_for_is_counted(tmp_path: Path) -> None:
    config = read_nightly(make_tree(tmp_path, good=1, broken=()))
    session = tmp_path / "data/visitor/ma0/id03/20261120/RAW_DATA/s"
    write_scan(session, "align", command="ascan", motors=("chi",), starts=(0.5,), steps=(0.1,))
    with h5py.File(session / "s.h5", "w") as file:  # as the policy does: a master of masters
        file["1.1"] = h5py.ExternalLink("s_0000/s_0000.h5", "/1.1")
    with h5py.File(session / "calibration.h5", "w") as file:
        file["x"] = 1
    age(tmp_path)
    found = run_night(config)
    assert found.counts == {"done": 1}
    assert [re.sub(r"\s+", " ", note) for note in found.notes] == [
        "skipped scans with commands that are not in `commands`: 1 ascan",
        "skipped HDF5 files without scans: 1",
        "skipped entries that are links to other masters: 1",
    ]


def test_run_night__the_place_of_reports_is_never_under_raw_data(tmp_path: Path) -> None:
    path = make_tree(tmp_path, good=1, broken=())
    raw = tmp_path / "data/visitor/ma0/id03/20261120/RAW_DATA"
    (tmp_path / "elsewhere").symlink_to(raw)
    path.write_text(path.read_text().replace("report: reports", "report: elsewhere/reports"))
    before = files_below(raw)
    with pytest.raises(StoreError, match="is under RAW_DATA"):
        run_night(read_nightly(path))
    assert files_below(raw) == before


def test_run_night__two_masters_never_meet_in_one_store(tmp_path: Path) -> None:
    path = make_tree(tmp_path, good=0, broken=())
    for name in ("a", "b"):
        write_scan(tmp_path / name, "same")
    age(tmp_path)
    text = path.read_text().replace("data/visitor/*/id03/*/RAW_DATA", "[a, b]")
    path.write_text(text + "processed: 'out/{relative}'\n")
    first = run_night(read_nightly(path))
    assert first.counts == {"failed": 1, "done": 1}
    assert "belongs to" in first.outcomes[0].reason
    assert "so that they differ" in first.outcomes[0].reason
