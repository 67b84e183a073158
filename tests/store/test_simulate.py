"""Simulated scans on disk: equal to the lazy ones, resumed, refused, and read back as beamline files."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import dask
import numpy as np
import pytest

import dfxm_dask
from dfxm_dask.errors import IncompleteError, InputError, StoreError
from dfxm_dask.phantoms import presets
from dfxm_dask.phantoms.scans import simulate
from dfxm_dask.run.clusters.cluster import open_cluster
from dfxm_dask.run.events import IngestDone, LayerDone
from dfxm_dask.run.execute import run_simulate
from dfxm_dask.store.crystal import crystal_of_store
from dfxm_dask.store.integrity.attributes import recorded_steps
from tests.beamline_files import write_bliss

SMALL: dict[str, Any] = {"layers": 3, "shape": (72, 100), "seed": 5}


def contents(folder: Path) -> dict[str, str]:
    """Digest of every data file of a store; ledgers hold times, metadata hold sizes of ledgers' blocks."""
    files = [p for p in sorted(folder.rglob("*")) if p.is_file() and "c" in p.relative_to(folder).parts]
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("simulated") / "easy.zarr"
    simulate("easy", path, **SMALL)
    return path


def test_simulate__lazy_equals_written(written: Path) -> None:
    calls: list[Any] = []
    with dask.config.set(scheduler=lambda *a, **k: calls.append(a)):
        lazy = simulate("easy", **SMALL)
    assert not calls
    there = dfxm_dask.open_scan(written)
    assert set(lazy["truth"].data_vars) == set(there["truth"].data_vars)
    for group in ("raw", "truth"):
        for name, found in lazy[group].data_vars.items():
            wanted = there[group][name]
            assert found.dims == wanted.dims, name
            assert found.dtype == wanted.dtype, name
            assert found.attrs["units"] == wanted.attrs["units"], name
            np.testing.assert_array_equal(found.values, wanted.values, err_msg=str(name))
    for name in ("z", "y", "x", "phi"):
        np.testing.assert_allclose(lazy[name], there[name])
        assert lazy[name].attrs["units"] == there[name].attrs["units"]


def test_simulate__labels_are_a_flag_variable(written: Path) -> None:
    label = dfxm_dask.open_scan(written)["truth"].label
    assert label.attrs["flag_meanings"].split() == ["unlit", "weak", "strong", "ambiguous"]
    assert list(label.attrs["flag_values"]) == [0, 1, 2, 3]
    assert set(np.unique(label)) <= {0, 1, 2, 3}
    assert label.dims == ("z", "phi", "patch_y", "patch_x")


@pytest.mark.slow
def test_simulate__same_bytes_for_one_or_two_workers(written: Path, tmp_path: Path) -> None:
    events: list[Any] = []
    with open_cluster(None, workers=2) as client:
        run_simulate("easy", tmp_path / "two.zarr", client=client, publish=(events.append,), **SMALL)
    assert contents(tmp_path / "two.zarr") == contents(written)
    assert sum(isinstance(e, LayerDone) for e in events) == 3
    done = next(e for e in events if isinstance(e, IngestDone))
    assert (done.verb, done.bytes) == ("simulated", 3 * 31 * 72 * 100 * 2)


def test_simulate__any_chunking_of_the_lazy_scan(written: Path) -> None:
    counts = simulate("easy", **SMALL)["raw"].counts
    whole = counts.chunk({"z": 3, "phi": 5, "y": 30, "x": 41}).isel(phi=slice(3, 20)).compute()
    np.testing.assert_array_equal(whole, dfxm_dask.open_scan(written)["raw"].counts.isel(phi=slice(3, 20)))


def stop_after(count: int) -> Callable[[Callable[[Any], Any], Iterable[Any]], Iterator[Any]]:
    def each(function: Callable[[Any], Any], tasks: Iterable[Any]) -> Iterator[Any]:
        for number, task in enumerate(tasks):
            if number == count:
                raise KeyboardInterrupt
            yield function(task)

    return each


def test_simulate__goes_on_where_it_stopped(written: Path, tmp_path: Path) -> None:
    path = tmp_path / "stopped.zarr"
    with pytest.raises(KeyboardInterrupt):
        simulate("easy", path, each=stop_after(1), **SMALL)
    with pytest.raises(IncompleteError, match="1 of 3 blocks are on disk"):
        dfxm_dask.open_scan(path)
    made: list[int] = []

    def each(function: Callable[[Any], Any], tasks: Iterable[Any]) -> Iterator[Any]:
        for task in tasks:
            made.append(task.z)
            yield function(task)

    simulate("easy", path, each=each, **SMALL)
    assert made == [1, 2]
    assert contents(path) == contents(written)


def test_simulate__beamline_files_are_ingested_to_the_same_counts(written: Path, tmp_path: Path) -> None:
    there = dfxm_dask.open_scan(written)
    pitch = tuple(float(there[d][1] - there[d][0]) for d in ("y", "x"))
    tree = simulate("easy", tmp_path / "easy.h5", format="bliss", **SMALL)
    assert "raw" not in tree.children
    np.testing.assert_array_equal(tree["truth"].label, there["truth"].label)
    dfxm_dask.ingest(tmp_path / "easy.h5", tmp_path / "back.zarr", scan="all", pixel_size=pitch)
    back = dfxm_dask.open_scan(tmp_path / "back.zarr")
    for name in ("counts", "monitor", "exposure", "readback_phi"):
        np.testing.assert_array_equal(back["raw"][name], there["raw"][name], err_msg=name)
    for name in ("z", "y", "x", "phi"):
        np.testing.assert_allclose(back[name], tree[name], atol=1e-9)


def test_simulate__beamline_files_resume_and_notice_damage(tmp_path: Path) -> None:
    out = tmp_path / "easy.h5"
    with pytest.raises(KeyboardInterrupt):
        simulate("easy", out, format="bliss", each=stop_after(1), **SMALL)
    assert not out.exists()
    first = tmp_path / "easy_scan0001" / "pco_ff_0000.h5"
    before = first.read_bytes()
    simulate("easy", out, format="bliss", **SMALL)
    assert first.read_bytes() == before
    first.write_bytes(before[:-100])
    with pytest.raises(IncompleteError, match="2 of 3 blocks"):
        dfxm_dask.open_scan(tmp_path / "easy_truth.zarr")
    simulate("easy", out, format="bliss", **SMALL)
    assert first.read_bytes() == before


@pytest.mark.slow
def test_simulate__movie_and_reflections(tmp_path: Path) -> None:
    movie = simulate("movie", tmp_path / "movie.h5", format="bliss", shape=(32, 40))
    assert dict(movie["truth"].position.sizes) == {"time": 60, "dislocation": 5, "yx": 2}
    dfxm_dask.ingest(tmp_path / "movie.h5", tmp_path / "movie.zarr", pixel_size=(0.04, 0.12))
    counts = dfxm_dask.open_scan(tmp_path / "movie.zarr")["raw"].counts
    assert counts.dims == ("z", "time", "y", "x")
    np.testing.assert_array_equal(counts, simulate("movie", shape=(32, 40))["raw"].counts)
    tree = simulate("reflections", tmp_path / "four", shape=(8, 10))
    assert sorted(p.name for p in (tmp_path / "four").iterdir()) == sorted(f"{name}.zarr" for name in tree.children)
    assert len(tree.children) == 4
    for name in tree.children:
        recorded = crystal_of_store(tmp_path / "four" / f"{name}.zarr")
        assert recorded["frame"] == "laboratory"
        assert set(recorded["goniometer"]) == {"mu", "omega", "eta", "theta"}
        assert recorded["energy"] == 19.1
        assert recorded["hkl"] == [int(n) for n in name.split("_")]
        along = recorded["lattice"]["x"]  # the crystal direction along the beam
        assert np.degrees(np.arctan2(-along[1], along[0])) % 360 == pytest.approx(recorded["goniometer"]["omega"])
    normals = np.array([[int(n) for n in name.split("_")] for name in tree.children])
    assert np.linalg.matrix_rank(normals) == 3


def test_simulate__another_plan_is_refused_and_overwritten(written: Path, tmp_path: Path) -> None:
    path = tmp_path / "again.zarr"
    simulate("easy", path, layers=1, shape=(16, 24), seed=1)
    with pytest.raises(StoreError, match="contains a different simulate"):
        simulate("easy", path, layers=1, shape=(16, 24), seed=2)
    with pytest.raises(StoreError, match="contains a different simulate"):
        simulate("empty", path, layers=1, shape=(16, 24), seed=1)
    tree = simulate("easy", path, layers=1, shape=(16, 24), seed=2, overwrite=True)
    assert recorded_steps(tree["raw"].attrs)["ingest"]["parameters"]["seed"] == 2


def test_simulate__measured_counts_are_never_replaced(tmp_path: Path) -> None:
    tiny: dict[str, Any] = {"layers": 1, "shape": (16, 16)}
    simulate("empty", tmp_path / "a.h5", format="bliss", **tiny)
    dfxm_dask.ingest(tmp_path / "a.h5", tmp_path / "real.zarr")
    before = contents(tmp_path / "real.zarr")
    with pytest.raises(StoreError, match="contains a different ingest"):
        simulate("easy", tmp_path / "real.zarr", **tiny)
    assert contents(tmp_path / "real.zarr") == before
    dfxm_dask.open_scan(tmp_path / "real.zarr")
    with pytest.raises(StoreError, match="contains a different ingest"):
        dfxm_dask.ingest(tmp_path / "a.h5", tmp_path / "a_truth.zarr")
    dfxm_dask.open_scan(tmp_path / "a_truth.zarr")


def test_simulate__foreign_and_stale_beamline_files_are_refused(tmp_path: Path) -> None:
    tiny: dict[str, Any] = {"layers": 2, "shape": (16, 16), "format": "bliss"}
    out = tmp_path / "a.h5"
    simulate("empty", out, **tiny)
    shutil.rmtree(tmp_path / "a_truth.zarr")
    with pytest.raises(StoreError, match=r"master file .*a\.h5.*holds something else; pass --overwrite"):
        simulate("empty", out, seed=1, **tiny)
    with pytest.raises(StoreError, match="exists and does not come from a simulation"):
        simulate("empty", out, **tiny)
    out.write_bytes(b"of somebody else")
    for overwrite in (False, True):
        with pytest.raises(StoreError, match="holds something else; name another file"):
            simulate("empty", out, overwrite=overwrite, **tiny)
    assert out.read_bytes() == b"of somebody else"


def test_simulate__overwrite_refuses_before_it_removes(tmp_path: Path) -> None:
    tiny: dict[str, Any] = {"layers": 1, "shape": (16, 16), "format": "bliss", "overwrite": True}
    foreign = tmp_path / "b_scan0007" / "pco_ff_0000.h5"  # beyond the layers that are asked for
    foreign.parent.mkdir()
    foreign.write_bytes(b"of somebody else")
    with pytest.raises(StoreError, match="exists and does not come from a simulation"):
        simulate("empty", tmp_path / "b.h5", **tiny)
    assert foreign.read_bytes() == b"of somebody else"
    simulate("empty", tmp_path / "a.h5", **tiny)
    (tmp_path / "a_truth.zarr" / "zarr.json").write_text("{}")
    for ours in (tmp_path / "a_truth.zarr").glob("*/.ledger/*.jsonl"):
        ours.unlink()  # with them the store is still known as one of this package
    with pytest.raises(StoreError, match="is not a store of this package"):
        simulate("empty", tmp_path / "a.h5", **tiny)
    assert (tmp_path / "a.h5").exists()
    assert (tmp_path / "a_scan0001" / "pco_ff_0000.h5").exists()


def test_simulate__fewer_layers_leave_no_old_frames(tmp_path: Path) -> None:
    out = tmp_path / "a.h5"
    simulate("empty", out, layers=3, shape=(16, 16), format="bliss")
    other = tmp_path / "a_scan0001" / "basler.h5"
    other.write_bytes(b"of somebody else")
    simulate("empty", out, layers=1, shape=(16, 16), format="bliss", overwrite=True)
    assert sorted(p.name for p in tmp_path.rglob("*.h5")) == ["a.h5", "basler.h5", "pco_ff_0000.h5"]
    assert other.exists()


def test_simulate__beamline_files_and_truth_can_be_moved(tmp_path: Path) -> None:
    (tmp_path / "here").mkdir()
    simulate("empty", tmp_path / "here" / "a.h5", layers=1, shape=(16, 16), format="bliss")
    (tmp_path / "here").rename(tmp_path / "there")
    assert dfxm_dask.open_scan(tmp_path / "there" / "a_truth.zarr")["truth"].label.shape == (1, 31, 1, 1)


def test_simulate__a_changed_preset_is_not_mixed_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "s.zarr"
    with pytest.raises(KeyboardInterrupt):
        simulate("easy", path, each=stop_after(1), **SMALL)
    one = presets.PRESETS["easy"]

    def other(at: Any) -> Any:
        (made,) = one.build(at)
        return (replace(made, scene=replace(made.scene, loops=())),)

    monkeypatch.setitem(presets.PRESETS, "easy", replace(one, build=other))
    assert simulate("easy", **SMALL)["raw"].counts.data.name != simulate("empty", **SMALL)["raw"].counts.data.name
    with pytest.raises(StoreError, match="contains a different simulate"):
        simulate("easy", path, **SMALL)


def test_simulate__a_lost_table_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "s.zarr"
    simulate("easy", path, layers=1, shape=(16, 16))
    shutil.rmtree(path / "truth" / "spacing")
    with pytest.raises(IncompleteError, match="spacing"):
        dfxm_dask.open_scan(path)
    with pytest.raises(StoreError, match=r"spacing.* is missing; restore the file, or use --overwrite"):
        simulate("easy", path, layers=1, shape=(16, 16))


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"preset": "hardd"}, InputError, "did you mean 'hard'"),
        ({"format": "tiff"}, InputError, "use zarr or bliss"),
        ({"format": "bliss"}, InputError, "does not end in .h5"),
        ({"preset": "reflections", "format": "bliss", "out": "f.h5", "shape": (8, 8)}, InputError, "move one or two"),
        ({"out": "RAW_DATA/s.zarr"}, StoreError, "is under RAW_DATA"),
    ],
)
def test_simulate__refuses(options: dict[str, Any], error: type[Exception], words: str, tmp_path: Path) -> None:
    given = {"preset": "easy", "out": "s.zarr", "layers": 1, "shape": (8, 8)} | options
    with pytest.raises(error, match=words):
        simulate(given.pop("preset"), tmp_path / given.pop("out"), **given)
    assert not [p for p in tmp_path.rglob("*") if p.is_file()]


def test_simulate__maps_recipe_finds_the_true_peak(written: Path, tmp_path: Path) -> None:
    path = tmp_path / "scan.zarr"
    simulate("easy", path, layers=1, shape=(96, 160), seed=1)
    dfxm_dask.run_recipe("maps", path)
    tree = dfxm_dask.open_scan(path, chunks=None)
    truth, maps = tree["truth"].to_dataset(), tree["rocking"].to_dataset()
    far = (truth.distance > 1.5) & truth.phi0.notnull() & maps.com_phi.notnull()
    assert int(far.sum()) > 2000
    assert float(abs(maps.com_phi - truth.phi0).where(far).median()) < 0.0004  # a fifth of a step


@pytest.mark.parametrize("preset", ["easy", "hard", "al002", "multigrain"])
def test_calibrate__agrees_with_the_simulator(tmp_path: Path, preset: str) -> None:
    (phantom,) = presets.build(preset, layers=1, shape=(64, 64))
    write_bliss(tmp_path / "s.h5", shape=(3,), size=(8, 9))
    dfxm_dask.ingest(tmp_path / "s.h5", tmp_path / "s.zarr")
    angle = float(np.rad2deg(2 * phantom.at.theta))
    report = dfxm_dask.calibrate(
        tmp_path / "s.zarr", magnification=6.5 / phantom.pixel[0], two_theta=angle, stretched="x", dry_run=True
    )
    assert report.pixel_size == pytest.approx(phantom.pixel, rel=1e-12)


def test_calibrate__a_simulated_store(tmp_path: Path) -> None:
    store = tmp_path / "s.zarr"
    tree = dfxm_dask.simulate("empty", store, layers=1, shape=(64, 64))
    pixel = tuple(float(tree[d][1] - tree[d][0]) for d in "yx")
    before = contents(store)
    assert not dfxm_dask.calibrate(store, pixel).changed
    for other in (pixel[::-1], (0.2, 0.2), (pixel[0], pixel[1] * 1.001)):
        with pytest.raises(StoreError, match=r"is simulated, with its truth, for pixels of 0\.04"):
            dfxm_dask.calibrate(store, other)
    assert contents(store) == before
