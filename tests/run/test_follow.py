"""A scan that is followed while it is measured."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import h5py
import pytest

import dfxm_dask
from dfxm_dask.errors import LockedError, StoreError
from dfxm_dask.run.execute import run_ingest, run_recipe
from dfxm_dask.run.live import following
from dfxm_dask.run.live.following import follow
from dfxm_dask.run.live.growing import grow
from dfxm_dask.run.nights import followed
from dfxm_dask.run.nights.config import read_nightly
from dfxm_dask.run.nights.night import run_night
from dfxm_dask.run.recipe import read_recipe
from dfxm_dask.store.integrity.lock import hold
from tests.beamline_files import CAMERA_DATA, write_bliss
from tests.run.beamline_writer import steps
from tests.run.nights import contents, make_tree

RECIPE = "maps"
PIXEL = (0.2, 0.2)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished scan of four layers."""
    out = tmp_path_factory.mktemp("finished") / "scan.h5"
    dfxm_dask.simulate("easy", out, shape=(48, 40), layers=4, format="bliss")
    return out


def files(store: Path) -> dict[str, bytes]:
    """Content of a store apart from its ledgers, which record times and hosts."""
    return {
        str(p.relative_to(store)): p.read_bytes()
        for p in sorted(store.rglob("*"))
        if p.is_file() and ".ledger" not in p.parts
    }


def same_store(one: Path, other: Path) -> None:
    mine, theirs = files(one), files(other)
    assert mine.keys() == theirs.keys()
    assert [name for name in mine if mine[name] != theirs[name]] == []


def offline(raw: Path, store: Path, **options: object) -> Path:
    run_ingest(raw, store, pixel_size=PIXEL, publish=(), **options)
    run_recipe(RECIPE, store, publish=())
    return store


def write(
    finished: Path, out: Path, pause: float, seed: int, reduced: threading.Event | None = None, **how: object
) -> threading.Thread:
    """A writer in a thread; it waits after its second layer until some are reduced, however slow the machine is."""

    def run() -> None:
        chance = random.Random(seed)
        for step in steps(finished, out, **how):
            time.sleep(pause * chance.random())
            if step == "2.1 ended" and reduced is not None:
                reduced.wait(60)

    writer = threading.Thread(target=run)
    writer.start()
    return writer


def test_follow__the_store_is_that_of_the_finished_scan(finished: Path, tmp_path: Path) -> None:
    raw = tmp_path / "raw" / "scan.h5"
    said: list[str] = []
    reduced = threading.Event()

    def say(text: str) -> None:
        said.append(text)
        if "on disk and reduced" in text:
            reduced.set()

    writer = write(finished, raw, 0.02, 1, reduced)
    done = follow(raw, tmp_path / "live.zarr", RECIPE, layers=4, poll=0.05, pixel_size=PIXEL, say=say)
    writer.join()
    assert done.complete
    assert done.ingested == ["1.1", "2.1", "3.1", "4.1"]
    assert len([text for text in said if "on disk and reduced" in text]) > 1
    same_store(tmp_path / "live.zarr", offline(raw, tmp_path / "off.zarr", scan="all"))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["live.zarr", "off.zarr", "raw"]


def test_follow__aborted_layers_are_told_and_absent(finished: Path, tmp_path: Path) -> None:
    raw = tmp_path / "raw" / "scan.h5"
    writer = write(finished, raw, 0.02, 2, aborted=(2,))
    said: list[str] = []
    done = follow(raw, tmp_path / "live.zarr", RECIPE, idle=4, poll=0.05, pixel_size=PIXEL, say=said.append)
    writer.join()
    assert not done.complete
    assert done.aborted == ["2.1"]
    assert any("2.1" in text and "abort" in text for text in said)
    same_store(tmp_path / "live.zarr", offline(raw, tmp_path / "off.zarr", scan="all", allow_partial=True))


def test_follow__a_layer_whose_file_is_replaced_is_read_again(finished: Path, tmp_path: Path) -> None:
    raw = tmp_path / "raw" / "scan.h5"
    for _ in steps(finished, raw):
        pass
    store = tmp_path / "live.zarr"
    follow(raw, store, RECIPE, layers=4, poll=0.05, pixel_size=PIXEL)
    lima = sorted(p for p in raw.parent.rglob("*.h5") if p != raw)
    lima[1].write_bytes(lima[2].read_bytes())
    said: list[str] = []
    done = follow(raw, store, RECIPE, layers=4, poll=0.05, pixel_size=PIXEL, say=said.append)
    assert done.replaced == ["entry 2.1: its files were replaced, it was read again"]
    same_store(store, offline(raw, tmp_path / "off.zarr", scan="all"))


def test_follow__killed_twice_it_continues(finished: Path, tmp_path: Path) -> None:
    raw, store = tmp_path / "raw" / "scan.h5", tmp_path / "live.zarr"
    writer = write(finished, raw, 0.2, 3)
    main = [sys.executable, "-c", "from dfxm_dask.cli import main; main()"]
    command = [*main, *f"follow {raw} {store} --recipe {RECIPE} --layers 4 --pixel-size 0.2,0.2".split()]
    for _ in range(2):
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        assert process.stdout
        assert next(text for text in process.stdout if "on disk and reduced" in text)
        time.sleep(random.random())
        process.send_signal(signal.SIGKILL)
        process.communicate()
    made = subprocess.run(command, capture_output=True, text=True, timeout=240)
    writer.join()
    assert made.returncode == 0, made.stdout + made.stderr
    same_store(store, offline(raw, tmp_path / "off.zarr", scan="all"))


def test_follow__an_exchange_that_was_killed_is_finished(finished: Path, tmp_path: Path) -> None:
    from dfxm_dask.run.live.growing import beside, recover

    store = offline(finished, tmp_path / "live.zarr", scan="all")
    before = files(store)
    store.rename(beside(store, "old"))
    recover(store)
    assert files(store) == before
    beside(store, "grown").mkdir()
    recover(store)
    assert not beside(store, "grown").exists()


def test_follow__other_folders_and_stores_are_refused_and_kept(finished: Path, tmp_path: Path) -> None:
    mine, simulated, raw = tmp_path / "mine", tmp_path / "s.zarr", tmp_path / "raw" / "scan.h5"
    for _ in steps(finished, raw):
        pass
    mine.mkdir()
    (mine / "notes.txt").write_text("keep")
    dfxm_dask.simulate("easy", simulated, shape=(48, 40), layers=1)
    before = files(simulated)
    for target in (mine, simulated):
        with pytest.raises(StoreError, match="choose another path"):
            follow(raw, target, RECIPE, layers=4, poll=0.05, pixel_size=PIXEL)
    assert (mine / "notes.txt").read_text() == "keep"
    assert files(simulated) == before


@pytest.fixture(scope="module")
def jittered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three layers whose readbacks differ a little: coordinates are means over the layers. 4.1 repeats the place of
    2.1, and 5.1, which is aborted, almost that of 1.1."""
    raw = tmp_path_factory.mktemp("jittered") / "scan.h5"
    write_bliss(raw, layers=5, shape=(9,), size=(24, 20), link="external", frames_per_file=9, jitter=0.004)
    with h5py.File(raw, "a") as file:
        for name in (n for n in file if n.endswith(".1")):
            file[name]["end_time"] = "2026-11-30T12:00:00+01:00"
        places = [file[f"{k}.1/instrument/positioners/samz"] for k in range(1, 6)]
        places[3][()], places[4][()] = places[1][()], places[0][()] + 2e-5
        file["5.1/end_reason"][()] = "USER_ABORT"
        values = file["5.1/instrument/mu/value"][:4]
        del file["5.1/instrument/mu/value"]
        file["5.1/instrument/mu/value"] = values
    with h5py.File(raw.parent / "scan0005/pco_ff_0000.h5", "a") as lima:
        frames = lima[CAMERA_DATA][:4]
        del lima[CAMERA_DATA]
        lima[CAMERA_DATA] = frames
    return raw


def test_grow__means_that_move_numbers_that_move_and_options_that_differ(jittered: Path, tmp_path: Path) -> None:
    store, recipe = tmp_path / "live.zarr", read_recipe(RECIPE)
    (tmp_path / "other.yaml").write_text("name: other\nsteps:\n  - local_peak: {background: 60}\n")
    for entries in (["2.1"], ["1.1", "2.1"]):
        grow(jittered, store, entries, recipe, (), pixel_size=PIXEL)
        run_recipe(recipe, store, publish=(), share=(1, 1))
    run_recipe(tmp_path / "other.yaml", store, publish=())
    tree, before = dfxm_dask.open_scan(store, chunks=None, allow_partial=True), files(store)
    assert grow(jittered, store, ["1.1", "2.1"], recipe, ())[1] == []  # nothing to do: all results stay
    with pytest.raises(StoreError, match="roi None, not"):
        grow(jittered, store, ["1.1", "2.1", "3.1"], recipe, (), roi=(0, 16, 0, 16))
    assert files(store) == before
    assert tree["raw"].counts.isel(z=0).sum() > 0
    _, told = grow(jittered, store, ["1.1", "2.1", "3.1"], recipe, ())  # the pixel size of the store is kept
    assert [text for text in told if "beams/local_peak" in text] == told != []
    with pytest.raises(StoreError, match="has grown"):
        tree["raw"].counts.isel(z=1).sum().compute()
    run_recipe(recipe, store, publish=(), share=(1, 1))
    run_recipe(recipe, store, publish=())
    same_store(store, offline(jittered, tmp_path / "off.zarr", scan="1.1,2.1,3.1"))


def test_follow__repeats_are_told_and_left_out(jittered: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(following, "PATIENCE", 0.5)
    said: list[str] = []
    store = tmp_path / "live.zarr"
    with hold(tmp_path, ".live.zarr.follower", what="another"), pytest.raises(LockedError, match="another"):
        follow(jittered, store, RECIPE, pixel_size=PIXEL)
    first = follow(jittered, store, RECIPE, layers=2, idle=3, poll=0.05, pixel_size=PIXEL)
    assert (first.complete, first.ingested) == (True, ["1.1", "2.1"])
    done = follow(jittered, store, RECIPE, layers=4, idle=3, poll=0.05, pixel_size=PIXEL, say=said.append)
    assert (done.ingested, done.refused, done.aborted) == (["1.1", "2.1", "3.1"], ["4.1"], [])
    assert done.lacking() == "3 of 4 layers; entries left out 4.1"
    assert any("entry 4.1 is left out" in text and "one position" in text for text in said)
    assert "entry 5.1 was repeated by another one and is left out" in said
    same_store(store, offline(jittered, tmp_path / "off.zarr", scan="1.1,2.1,3.1"))


def test_run_night__a_growing_scan_is_followed_and_continued_the_next_night(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(followed, "QUIET", 2.0)
    path, finished = make_tree(tmp_path, good=0, broken=()), tmp_path / "finished" / "s_live.h5"
    path.write_text(path.read_text().replace("quiet_seconds: 600", "quiet_seconds: 2") + "stack: true\nfollow: true\n")
    dfxm_dask.simulate("easy", finished, shape=(48, 40), layers=3, format="bliss")
    master = tmp_path / "data/visitor/ma0/id03/20261120/RAW_DATA/s/s_live/s_live.h5"
    beamline = steps(finished, master)
    assert any(step == "1.1 ended" for step in beamline)
    said: list[str] = []

    def slow(text: str) -> None:
        said.append(text)
        if text.startswith("1 layer on disk"):
            signal.raise_signal(signal.SIGALRM)  # as the clock does when the hours are over

    assert run_night(read_nightly(path), dry=True).counts == {"new": 1}
    for file in master.parent.rglob("*"):
        os.utime(file)  # however slow the machine is, the scan is not quiet yet
    first = run_night(read_nightly(path), hours=7.5, say=slow)
    assert first.counts == {"not done": 1}, said
    assert len([*beamline]) > 10
    second = run_night(read_nightly(path), say=said.append)
    assert second.counts == {"done": 1}, second.outcomes
    (done,) = second.outcomes
    assert done.entries == ("1.1", "2.1", "3.1")
    again = dfxm_dask.ingest(master, tmp_path / "off.zarr", scan="all", pixel_size=(0.5, 0.7))
    dfxm_dask.run_recipe(tmp_path / "short.yaml", tmp_path / "off.zarr", publish=())
    assert again.layers == 3
    assert contents(Path(done.store)) == contents(tmp_path / "off.zarr")
    assert run_night(read_nightly(path)).counts == {"unchanged": 1}
