"""A scan that is followed while it is measured."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

import dfxm_dask
from dfxm_dask.errors import StoreError
from dfxm_dask.run.execute import run_ingest, run_recipe
from dfxm_dask.run.live.following import follow
from tests.run.beamline_writer import steps

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
    for patience in (4.0, 7.0):
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        time.sleep(patience)
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
