"""A forgotten pixel size: set later, the store is as if it had been given at ingest; a kill leaves old or new."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from click.testing import CliRunner

import dfxm_dask
from dfxm_dask import cli
from dfxm_dask.errors import DfxmError, InputError, LockedError, RecipeError, StoreError
from dfxm_dask.run.checks.verify import verify
from dfxm_dask.run.execute import run_recipe
from dfxm_dask.run.recipe import parse_recipe
from dfxm_dask.sources.source import find_config
from dfxm_dask.store import calibrate as module
from dfxm_dask.store.integrity import ledger, nodes
from dfxm_dask.store.integrity.lock import own_group
from tests.beamline_files import write_bliss
from tests.stores import contents

STEPS = """
steps:
- background: {method: quantile, quantile: 0.2}
- moments: {}
- integrated_curve: {}
- pca: {components: 2}
- kam: {radius: 2.0}
  optional: true
- mosaicity: {}
"""
KEPT = ("components/pca", "frames/background", "rocking/integrated_curve", "rocking/moments", "rocking/mosaicity")
SIZE = (0.5, 0.7)


def results(store: Path) -> dict[str, bytes]:
    """All files, without the digests of the samples of pca, which are drawn by position and do not touch its result."""
    return {k: v for k, v in contents(store).items() if k not in ("components/zarr.json", "zarr.json")}


def reduce(store: Path) -> Any:
    return run_recipe(parse_recipe(STEPS, Path("r.yaml")), store)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Stores of one file, all steps run: without a pixel size, with the right one, and with another."""
    folder = tmp_path_factory.mktemp("made")
    write_bliss(
        folder / "s.h5",
        layers=2,
        command="fscan2d",
        motors=("chi", "diffry"),
        shape=(3, 5),
        starts=(-0.5, 7.0),
        steps=(0.08, 0.06),
        size=(40, 30),
    )
    for name, size in (("none", None), ("right", SIZE), ("wrong", (0.25, 1.4))):
        store = folder / f"{name}.zarr"
        dfxm_dask.ingest(folder / "s.h5", store, scan="all", roi=(4, 36, 2, 30), pixel_size=size)
        reduce(store)
    return folder


@pytest.fixture
def copy(made: Path, tmp_path: Path) -> Callable[[str], Path]:
    def one(name: str) -> Path:
        return Path(shutil.copytree(made / f"{name}.zarr", tmp_path / f"{name}.zarr"))

    return one


@pytest.mark.parametrize("name", ["none", "wrong"])
def test_calibrate__as_if_given_at_ingest(made: Path, copy: Any, name: str) -> None:
    store = copy(name)
    shards = {p: p.read_bytes() for p in (store / "raw/counts/c").rglob("*") if p.is_file()}
    for path, data in shards.items():
        path.write_bytes(bytes(len(data)))  # raw data are not read: this could not be
    report = dfxm_dask.calibrate(store, SIZE)
    for path, data in shards.items():
        path.write_bytes(data)
    assert report.withdrawn == (() if name == "none" else ("rocking/kam",))
    assert (report.kept, report.before) == (KEPT, None if name == "none" else (0.25, 1.4))
    tree = dfxm_dask.open_scan(store)
    np.testing.assert_array_equal(tree.y, (4 + np.arange(32)) * 0.5)
    np.testing.assert_array_equal(tree.x, (2 + np.arange(28)) * 0.7)
    assert (tree.y.attrs["units"], tree.x.attrs["pixel_size_source"]) == ("um", "given")
    assert not verify(store).faults
    again = reduce(store)
    assert (again.complete, again.blocks_done) == (True, 2)  # kam of both layers, and nothing else
    assert results(store) == results(made / "right.zarr")
    assert not verify(store, deep=20, seed=0).faults


def test_calibrate__the_same_again_changes_nothing(made: Path, copy: Any) -> None:
    store = copy("right")
    before = {p: os.stat(p).st_mtime_ns for p in store.rglob("*") if p.is_file()}
    report = dfxm_dask.calibrate(store, (0.5 * (1 + 1e-12), 0.7))
    assert (report.changed, report.withdrawn) == (False, ())
    assert not dfxm_dask.calibrate(store, SIZE, dry_run=True).changed
    assert {p: os.stat(p).st_mtime_ns for p in store.rglob("*") if p.is_file()} == before


def test_calibrate__a_dry_run_changes_nothing(copy: Any) -> None:
    store = copy("wrong")
    before = contents(store)
    report = dfxm_dask.calibrate(store, SIZE, dry_run=True)
    assert (report.changed, report.withdrawn, report.kept) == (True, ("rocking/kam",), KEPT)
    assert contents(store) == before


@pytest.mark.parametrize(
    "size",
    [
        (0, 1),
        (1, -0.5),
        (np.nan, 1),
        (1, np.inf),
        (0.4,),
        0.4,
        (1, 2, 3),
        (1e6, 1),
        (1e-7, 1),
        "12",
        (40, 120),
        (None, 1),
        {"y": 1, "x": 2},
    ],
)
def test_calibrate__senseless_sizes_are_refused(copy: Any, size: Any) -> None:
    store = copy("wrong")
    before = contents(store)
    with pytest.raises(InputError, match=r"pixel_size: is .*two lengths in um"):
        dfxm_dask.calibrate(store, size)
    assert contents(store) == before


class Killed(BaseException):
    """As of a kill: nothing handles it."""


def killed_at(monkeypatch: pytest.MonkeyPatch, number: int, store: Path) -> bool:
    """Whether a calibration was killed before its so many-th write."""
    count = 0

    def counted(function: Any) -> Any:
        def call(*words: Any, **more: Any) -> Any:
            nonlocal count
            if not any(lock in str(words[0]) for lock in (".lock", ".consolidating")):  # stale after a real kill
                count += 1
                if count == number:
                    raise Killed
            return function(*words, **more)

        return call

    with monkeypatch.context() as patch:
        for place, name in (
            (ledger, "replace_file"),
            (ledger, "append"),
            (ledger, "withdraw"),
            (nodes, "write_small"),
            (zarr.Array, "__setitem__"),
            (shutil, "rmtree"),
            (Path, "unlink"),
            (Path, "rmdir"),
            (os, "replace"),
        ):
            patch.setattr(place, name, counted(getattr(place, name)))
        try:
            dfxm_dask.calibrate(store, SIZE)
        except Killed:
            return True
    return False


def state(store: Path) -> str:
    """Which of the two pixel sizes all of an opened store has."""
    tree = dfxm_dask.open_scan(store)
    pixel = (float(tree.y[1] - tree.y[0]), float(tree.x[1] - tree.x[0]))
    units = {tree[d].attrs["units"] for d in "yx"}
    old = pixel == pytest.approx((0.25, 1.4)) and "kam" in tree["rocking"]
    new = pixel == pytest.approx(SIZE) and "kam" not in tree["rocking"]
    assert units == {"um"}
    assert old != new
    return "old" if old else "new"


@pytest.mark.slow
def test_calibrate__a_kill_at_any_write_leaves_the_old_or_the_new(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen, number = [], 0
    while True:
        number += 1
        store = tmp_path / f"{number}.zarr"
        shutil.copytree(made / "wrong.zarr", store)
        if not killed_at(monkeypatch, number, store):
            break
        there = {d: zarr.open_array(str(store / d), mode="r") for d in "yx" if (store / d / "zarr.json").exists()}
        steps = {d: a[1] - a[0] for d, a in there.items()}  # as any reader of Zarr sees them: never one of each
        either = [{"y": 0.25, "x": 1.4}, {"y": 0.5, "x": 0.7}]
        assert any(all(np.isnan(v) or v == pytest.approx(one[d]) for d, v in steps.items()) for one in either), number
        seen.append(state(store))
        if seen[-1] == "old":
            dfxm_dask.calibrate(store, SIZE)
        if number % 6 == 0:
            assert not verify(store).faults, number
            assert reduce(store).blocks_done == 2
            assert results(store) == results(made / "right.zarr")
        shutil.rmtree(store)
    assert len(seen) > 15
    assert seen == sorted(seen, reverse=True)  # old until it is decided, new from then on
    assert set(seen) == {"old", "new"}


@pytest.mark.slow
def test_calibrate__in_pixels_before_a_kill(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in (1, 6, 10):
        store = tmp_path / f"{number}.zarr"
        shutil.copytree(made / "none.zarr", store)
        assert killed_at(monkeypatch, number, store)
        there = [d for d in "yx" if (store / d / "zarr.json").exists()]
        assert len({zarr.open_array(str(store / d)).attrs["units"] for d in there}) < 2
        assert reduce(store).complete  # whoever comes next finishes it
        tree = dfxm_dask.open_scan(store)
        assert tree.y.attrs["units"] == tree.x.attrs["units"]


def test_calibrate__an_interrupted_one_on_a_store_that_cannot_be_written(
    copy: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = copy("wrong")
    while not (store / module.PENDING).exists():
        assert killed_at(monkeypatch, 3, store)

    def refused(*words: Any, **more: Any) -> Any:
        raise StoreError("calibration", f"{store} cannot be written (Read-only file system)", "choose another place")

    monkeypatch.setattr(module, "own_store", refused)
    with pytest.raises(
        StoreError, match=r"interrupted calibration that cannot be finished here .*Read-only.*that can write"
    ):
        dfxm_dask.open_scan(store)


def test_calibrate__a_run_in_progress(copy: Any) -> None:
    store = copy("wrong")
    before = contents(store)
    with own_group(store, "rocking", "a run"), pytest.raises(LockedError, match="a run"):
        dfxm_dask.calibrate(store, SIZE)
    assert contents(store) == before


@pytest.mark.parametrize("asked", [None, SIZE])
def test_ingest__again_keeps_the_calibrated_size(made: Path, copy: Any, asked: Any) -> None:
    store = copy("none")
    dfxm_dask.calibrate(store, SIZE)
    lost = next(p for p in (store / "raw/counts/c").rglob("*") if p.is_file())
    lost.unlink()  # one layer is made anew
    report = dfxm_dask.ingest(made / "s.h5", store, scan="all", roi=(4, 36, 2, 30), pixel_size=asked)
    assert (report.layers, report.skipped) == (2, 1)
    assert module.pixel_of(store) == SIZE
    assert not verify(store).faults
    reduce(store)
    assert results(store) == results(made / "right.zarr")


def test_ingest__again_with_another_size_names_calibrate(made: Path, copy: Any) -> None:
    store = copy("right")
    kept = contents(store)
    again = {"scan": "all", "roi": (4, 36, 2, 30)}
    with pytest.raises(StoreError, match=r"has pixels of 0.5 um .* not 0.5 um .* 0.6 um .*calibrate .* 0.5,0.6"):
        dfxm_dask.ingest(made / "s.h5", store, pixel_size=(0.5, 0.6), **again)
    with pytest.raises(StoreError, match="contains a different ingest"):
        dfxm_dask.ingest(made / "s.h5", store, scan="all", roi=(4, 36, 2, 29))
    assert contents(store) == kept
    dfxm_dask.ingest(made / "s.h5", store, overwrite=True, **again)
    assert module.pixel_of(store) is None


def test_calibrate__an_ingest_that_is_not_finished(made: Path, tmp_path: Path) -> None:
    class Stop(Exception):
        pass

    def first_layer(function: Any, tasks: Any) -> Any:
        yield function(tasks[0])
        raise Stop

    store, again = tmp_path / "s.zarr", {"scan": "all", "roi": (4, 36, 2, 30)}
    with pytest.raises(Stop):
        dfxm_dask.ingest(made / "s.h5", store, each=first_layer, **again)
    dfxm_dask.calibrate(store, SIZE)
    assert dfxm_dask.ingest(made / "s.h5", store, **again).skipped == 1
    assert not verify(store).faults
    reduce(store)
    assert results(store) == results(made / "right.zarr")


def test_calibrate__computed_from_what_is_recorded(made: Path, copy: Any) -> None:
    store = copy("none")
    report = dfxm_dask.calibrate(store, magnification=13)  # camera 6.5 um and obpitch 18 degree are in the file
    assert report.pixel_size == pytest.approx((0.5 / np.tan(np.deg2rad(18)), 0.5), rel=1e-12)
    assert "camera pixel of 6.5x6.5 um (recorded)" in report.source
    assert (
        "18 degree (recorded motor obpitch); stretched along y (beamline configuration id03), detector" in report.source
    )
    other = dfxm_dask.calibrate(store, magnification=13, stretched="x", dry_run=True)
    assert (other.pixel_size, "along x (given)" in other.source) == (report.pixel_size[::-1], True)
    tree = dfxm_dask.open_scan(store)
    assert tree.y.attrs["pixel_size_source"] == tree.x.attrs["pixel_size_source"] == report.source
    turned = {"magnification": 13, "camera_pixel": 3.25, "two_theta": 30, "detector": "normal", "stretched": "y"}
    assert dfxm_dask.calibrate(store, **turned).pixel_size == pytest.approx((0.5, 0.25), rel=1e-12)
    for name in "yx":  # a binning that is recorded counts
        array = zarr.open_array(str(store / name))
        array.attrs["binning"] = 2
    found = dfxm_dask.calibrate(store, magnification=13, camera_pixel=3.25, two_theta=30, dry_run=True)
    assert (found.pixel_size[1], "binned 2 times" in found.source) == (0.5, True)
    assert dfxm_dask.calibrate(store, magnification=26, dry_run=True).pixel_size[1] == 0.5


def test_calibrate__the_beamline_says_the_scattering_plane(tmp_path: Path) -> None:
    write_bliss(tmp_path / "s.h5", shape=(3,), size=(8, 9))
    text = find_config("beamlines", "id03").read_text()
    assert "scattering_plane: y\n" in text
    for word, told in (("", r"stretched along x \(assumed"), ("scattering_plane: x\n", r"along x \(beamline conf")):
        (tmp_path / "own.yaml").write_text(text.replace("scattering_plane: y\n", word))
        store = tmp_path / f"{len(word)}.zarr"
        dfxm_dask.ingest(tmp_path / "s.h5", store, beamline=tmp_path / "own.yaml")
        assert re.search(told, dfxm_dask.calibrate(store, magnification=13, dry_run=True).source)
    made = ledger.group_provenance(store, "raw")[1]["ingest"]
    for record in (None, {}, {"dim": "z", "beamline": "b"}, "y"):  # None: as ingests of earlier versions wrote it
        ledger.write_provenance(store, "raw", {"ingest": made | {"scattering_plane": record}})
        found = dfxm_dask.calibrate(store, magnification=13, dry_run=True)
        assert found.pixel_size == pytest.approx((0.5, 0.5 / np.tan(np.deg2rad(18))), rel=1e-12)
        assert "stretched along x (assumed: the store does not record the scattering plane)" in found.source
    for wrong in ("z", "Y", "vertical", "1", "[y, x]", "yes", "''"):
        (tmp_path / "own.yaml").write_text(text.replace("scattering_plane: y", f"scattering_plane: {wrong}"))
        with pytest.raises(RecipeError, match=r"own\.yaml:\d+: 'scattering_plane': .*'y' or 'x'") as caught:
            dfxm_dask.ingest(tmp_path / "s.h5", tmp_path / "never.zarr", beamline=tmp_path / "own.yaml")
        assert "\n" not in str(caught.value)
    assert not (tmp_path / "never.zarr").exists()


def test_calibrate__what_is_not_recorded_is_named(tmp_path: Path, copy: Any) -> None:
    import h5py

    write_bliss(tmp_path / "s.h5", shape=(3,), size=(8, 9))
    with h5py.File(tmp_path / "s.h5", "a") as file:
        del file["1.1/instrument/positioners/obpitch"], file["1.1/instrument/pco_ff/x_pixel_size"]
    dfxm_dask.ingest(tmp_path / "s.h5", tmp_path / "bare.zarr")
    for given, missing in (
        ({}, "camera pixel .* and the magnification .* and the scattering angle .* are not recorded"),
        ({"magnification": 10, "camera_pixel": 6.5}, "effective pixel of .*: the scattering angle .* is not recorded"),
        ({"magnification": 10, "two_theta": 18}, "effective pixel of .*: the camera pixel .* is not recorded"),
        ({"camera_pixel": 6.5, "two_theta": 18}, "the magnification .* is not recorded"),
        ({"camera_pixel": 6.5, "two_theta": 0, "magnification": 10}, "two_theta of 0 degree"),
        ({"camera_pixel": 6.5, "two_theta": 18, "magnification": -1}, "magnification of -1"),
        ({"camera_pixel": np.nan, "two_theta": 18, "magnification": 10}, "pixel of nan um"),
        ({"pixel_size": (1, 1), "magnification": 10}, "give one of the two"),
        ({"camera_pixel": 6.5, "two_theta": 18, "magnification": 10, "stretched": "z"}, "stretched 'z'"),
    ):
        with pytest.raises(InputError, match=missing):
            dfxm_dask.calibrate(tmp_path / "bare.zarr", **given)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"", "is not a calibration"),
        (b'{"coordinates": {}, "withdrawn": []}', "is not a calibration"),
        (
            b'{"coordinates": {"y": {"count": 3, "start": 0, "pixel": 1, "attrs": {}}, "x": {"count": 3, "start": 0,'
            b' "pixel": 1, "attrs": {}}}, "withdrawn": ["../up/kam"]}',
            "a step of no name",
        ),
    ],
)
def test_finish__what_a_stranger_wrote_is_refused(copy: Any, text: bytes, said: str) -> None:
    store = copy("right")
    before = contents(store)
    (store / module.PENDING).write_bytes(text)
    with pytest.raises(StoreError, match=said):
        dfxm_dask.open_scan(store)
    (store / module.PENDING).unlink()
    assert contents(store) == before


def call(*words: object) -> Any:
    return CliRunner().invoke(cli.cli, [str(word) for word in words], catch_exceptions=False)


def test_calibrate__command(copy: Any, tmp_path: Path) -> None:
    store = copy("wrong")
    dry = call("calibrate", store, "--pixel-size", "0.5,0.7", "--dry-run")
    assert dry.exit_code == 0
    assert "would be invalidated: rocking/kam" in dry.output
    done = call("calibrate", store, "--camera-pixel", 6.5, "--magnification", 13, "--two-theta", 30)
    assert (
        "0.8660254038 um along y and 0.5 um along x (computed from a camera pixel of 6.5x6.5 um (given)" in done.output
    )
    assert "before: pixels of 0.25 um along y and 1.4 um along x" in done.output
    assert "recomputed by the next run: rocking/kam" in done.output
    assert "kept: components/pca, frames/background" in done.output
    again = call("calibrate", store, "--magnification", 13, "--two-theta", 30)
    assert "nothing changes" in again.output
    for words, code, said in (
        ((store, "--pixel-size", "0.5"), 2, "is not Y,X in um"),
        ((store, "--pixel-size", "0,1"), 1, "two lengths in um"),
        ((tmp_path / "none.zarr", "--pixel-size", "1,1"), 1, "check the path"),
        ((store,), 1, "the magnification from the object"),
    ):
        result = call("calibrate", *words)
        assert (result.exit_code, said in result.output, "Traceback" in result.output) == (code, True, False), words


def test_calibrate__no_store(tmp_path: Path) -> None:
    zarr.create_array(str(tmp_path / "a.zarr"), shape=(3,), dtype="f8")
    (tmp_path / "f.h5").write_bytes(b"x")
    for name in ("a.zarr", "f.h5", "nothing"):
        with pytest.raises(DfxmError):
            dfxm_dask.calibrate(tmp_path / name, SIZE)
