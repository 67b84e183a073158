"""Running recipes: fusion, units against the lazy face, resume, kills, clusters."""

from __future__ import annotations

import dataclasses
import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import dask
import numpy as np
import pytest
import xarray as xr

import dfxm_dask
from dfxm_dask.catalogue import load_reductions
from dfxm_dask.errors import DfxmError, IncompleteError, InputError, RecipeError, StoreError
from dfxm_dask.reduction import REGISTRY
from dfxm_dask.run.execute import plan, run_ingest, run_recipe, starts_workers
from dfxm_dask.run.recipe import Recipe, parse_recipe
from dfxm_dask.store.integrity.attributes import recorded_steps
from dfxm_dask.store.integrity.ledger import read_ledger
from tests import stores
from tests.beamline_files import write_bliss
from tests.stores import contents

FULL = """
name: full
steps:
  - normalise: {by: monitor, reference: 100000, offset: 60}
  - zingers: {}
  - background: {method: quantile, quantile: 0.2}
  - moments: {}
  - fit_curves: {axis: phi}
  - integrated_curve: {}
  - mosaicity: {}
    optional: true
  - hot_pixels: {}
  - kam: {radius: 1.0}
"""


def recipe(text: str) -> Recipe:
    return parse_recipe(text, Path("test.yaml"))


@pytest.fixture(scope="session", params=["one axis", "two axes"])
def raw_store(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("raw")
    axes: dict[str, Any] = (
        {"shape": (9,)}
        if request.param == "one axis"
        else {
            "command": "fscan2d",
            "motors": ("chi", "diffry"),
            "shape": (4, 7),
            "starts": (-0.5, 7.0),
            "steps": (0.08, 0.06),
            "jitter": 0.004,
        }
    )
    store = stores.raw_store(folder, layers=2, size=(150, 300), **axes)
    _narrow_units(store)
    return store


def _narrow_units(store: Path) -> None:
    """Make units of 64 or 256 rows, so that a small frame has several."""
    meta = store / "zarr.json"
    data = json.loads(meta.read_bytes())
    data["attributes"]["unit_rows"] = json.loads((store / "raw/counts/zarr.json").read_bytes())["codecs"][0][
        "configuration"
    ]["chunk_shape"][-1]
    meta.write_text(json.dumps(data))


@pytest.fixture(scope="session")
def whole(raw_store: Path) -> Path:
    """The same with all results, made in this process: to be read, or copied."""
    shutil.copytree(raw_store, raw_store.with_name("whole.zarr"))
    assert run_recipe(recipe(FULL), raw_store.with_name("whole.zarr")).complete
    return raw_store.with_name("whole.zarr")


@pytest.fixture
def store(raw_store: Path, tmp_path: Path) -> Path:
    shutil.copytree(raw_store, tmp_path / "s.zarr")
    return tmp_path / "s.zarr"


@pytest.fixture
def reduced(whole: Path, tmp_path: Path) -> Path:
    shutil.copytree(whole, tmp_path / "reduced.zarr")
    return tmp_path / "reduced.zarr"


def test_run_recipe__units_equal_the_lazy_face(whole: Path) -> None:
    tree = dfxm_dask.open_scan(whole)
    data = tree["raw"].to_dataset()
    steps = load_reductions()
    data = data.assign(steps["normalise"](data, by="monitor", reference=100000.0, offset=60.0).data_vars)
    zingers = steps["zingers"](data)
    data = data.assign(counts=zingers.counts)
    found = {"zinger_count": zingers.zinger_count}
    for name, parameters in (
        ("background", {"quantile": 0.2}),
        ("hot_pixels", {}),
        ("integrated_curve", {}),
    ):
        # A gather over layers takes the mean of their positions; a run tells, a lazy Dataset has to be told.
        on_grid = data.drop_vars("position_phi", errors="ignore") if name == "integrated_curve" else data
        made = steps[name](on_grid, **parameters)
        found |= dict(made.data_vars.items())
        if name == "background":
            data = data.assign(made.data_vars)
    for name, parameters in (("moments", {}), ("fit_curves", {"axis": "phi"}), ("kam", {"radius": 1.0})):
        made = steps[name](data, **parameters)
        data = data.assign(made.data_vars)
        found |= dict(made.data_vars.items())
    if "chi" in data.dims:
        found |= dict(steps["mosaicity"](data).data_vars.items())
    stored = xr.merge([tree["frames"].to_dataset(), tree["rocking"].to_dataset()]).load()
    assert set(stored.data_vars) == set(found)
    for name, lazy in dask.compute(found)[0].items():  # at once: what they share is made once
        exact = name != "integrated_curve"
        compare = np.testing.assert_array_equal if exact else np.testing.assert_allclose
        compare(stored[name].values, lazy.values, err_msg=str(name))


def test_plan__reads_raw_data_once_for_steps_that_share_tiles(store: Path) -> None:
    made = plan(recipe(FULL.replace("  - hot_pixels: {}\n", "")), store)
    assert [len(p.steps) for p in made.passes] in ([6, 1], [7, 1])
    raw = np.prod(list(dfxm_dask.open_scan(store)["raw"].counts.shape)) * 2
    assert sum("counts" in s.sources for s in made.steps) >= 5
    assert raw <= made.bytes_read < raw + 9 * raw / made.store.frames  # maps: two centres in float64, and flags
    assert made.tasks == sum(len(p.steps[0].blocks) for p in made.passes)


def test_plan__touches_no_pixels(store: Path) -> None:
    for file in (store / "raw/counts").rglob("*"):
        if file.is_file() and file.name != "zarr.json":
            file.write_bytes(b"\0" * file.stat().st_size)
    assert plan(recipe(FULL), store).memory_bytes < 400 * 2**20


def test_plan__optional_step_is_left_out_with_its_reason(store: Path) -> None:
    made = plan(recipe(FULL), store)
    if "chi" not in made.store.axes:
        assert made.left_out == (("mosaicity", "needs 2 scan axes, the scan has phi"),)
        with pytest.raises(RecipeError, match=r"test.yaml:\d+: step mosaicity: needs 2 scan axes.*mark it optional"):
            plan(recipe(FULL.replace("    optional: true\n", "")), store)
    else:
        assert made.left_out == ()


def test_plan__radius_below_a_pixel_leaves_out_an_optional_step(store: Path) -> None:
    small = recipe(FULL.replace("kam: {radius: 1.0}", "kam: {radius: 0.001}\n    optional: true"))
    left = dict(plan(small, store).left_out)
    assert left["kam"].startswith("radius 0.001 um contains no neighbour of a pixel of ")
    assert "kam" not in [s.name for s in plan(small, store).steps]
    with pytest.raises(RecipeError, match=r"test.yaml:\d+: step kam: radius 0.001 um contains no neighbour"):
        plan(recipe(FULL.replace("radius: 1.0", "radius: 0.001")), store)


def test_plan__step_without_its_input(store: Path) -> None:
    with pytest.raises(RecipeError, match=r"step kam: reads 'com_\w+', which no earlier step writes"):
        plan(recipe("name: x\nsteps:\n  - kam: {radius: 1.0}\n"), store)


def test_plan__cleaned_counts_are_made_again_where_a_later_pass_reads_them(store: Path) -> None:
    """Hot pixels need the whole layer of the background, and part the steps before from the moments behind."""
    text = """
name: x
steps:
  - background: {method: scalar, value: 60}
  - zingers: {}
  - hot_pixels: {}
  - moments: {}
"""
    made = plan(recipe(text), store)
    assert [[s.name for s in one.steps] for one in made.passes][-1] == ["zingers", "moments"]
    run_recipe(recipe(text), store)
    apart = dfxm_dask.open_scan(store)["rocking"].com_phi.values
    other = text.replace("  - hot_pixels: {}\n", "")
    run_recipe(recipe(other), store, overwrite=True)
    np.testing.assert_array_equal(dfxm_dask.open_scan(store)["rocking"].com_phi.values, apart)


def test_plan__unfinished_ingest(store: Path) -> None:
    (store / "raw/.ledger/ingest.jsonl").unlink()
    with pytest.raises(IncompleteError, match="run the ingest again to resume"):
        plan(recipe(FULL), store)


def test_plan__lengths_are_refused_where_the_pixel_is_unknown(tmp_path: Path) -> None:
    write_bliss(tmp_path / "s.h5", shape=(5,))
    dfxm_dask.ingest(tmp_path / "s.h5", tmp_path / "s.zarr")
    text = "name: x\nsteps:\n  - background: {method: scalar, value: 1}\n  - moments: {}\n  - kam: {radius: 1.0}\n"
    with pytest.raises(RecipeError, match=r"needs y in um, it is in 'pixel'.*--pixel-size"):
        plan(recipe(text), tmp_path / "s.zarr")


def test_run_recipe__again_does_nothing(reduced: Path) -> None:
    before = contents(reduced)
    again = run_recipe(recipe(FULL), reduced)
    done = sum(len(read_ledger(path)[1]) for group in ("frames", "rocking") for path in _ledgers(reduced / group))
    assert (again.blocks_done, again.blocks_skipped) == (0, done)
    assert contents(reduced) == before


def _ledgers(group: Path) -> list[Path]:
    return sorted((group / ".ledger").glob("*.jsonl"))


def test_run_recipe__a_lost_file_is_made_again_byte_for_byte(reduced: Path) -> None:
    before = contents(reduced)
    shards = sorted(p for p in (reduced / "rocking/com_phi/c").rglob("*") if p.is_file())
    shards[1].unlink()
    with pytest.raises(IncompleteError, match="'moments' is not complete"):
        dfxm_dask.open_scan(reduced)
    report = run_recipe(recipe(FULL), reduced)
    assert report.blocks_done == 1
    assert contents(reduced) == before


def test_run_recipe__other_parameters_are_refused_and_never_mixed(store: Path) -> None:
    text = "name: x\nsteps:\n  - background: {method: scalar, value: 60}\n  - moments: {}\n"
    run_recipe(recipe(text), store)
    before = contents(store)
    with pytest.raises(
        StoreError, match=r"step 'background'.*already exists with different parameters .*60.*61.*; use --overwrite"
    ):
        run_recipe(recipe(text.replace("60", "61")), store)
    assert contents(store) == before
    run_recipe(recipe(text.replace("60", "61")), store, overwrite=True)
    fresh = dfxm_dask.open_scan(store)["frames"].to_dataset()
    assert float(next(iter(fresh.data_vars.values())).max()) == 61


def test_run_recipe__provenance_says_how_to_do_it_again(whole: Path) -> None:
    made = recorded_steps(dfxm_dask.open_scan(whole)["rocking"].attrs)["moments"]
    assert made["parameters"]["lit_above"] == 0
    assert {"raw/ingest", "frames/background"} <= set(made["inputs"])
    assert made["version"] == dfxm_dask.__version__


def test_run_recipe__kernel_that_fails_names_itself_and_commits_nothing_wrong(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    moments = load_reductions()["moments"]

    def broken(*_: Any, **__: Any) -> dict[str, np.ndarray]:
        raise InputError("moments", "broke on purpose", "mend it")

    monkeypatch.setitem(REGISTRY, "moments", dataclasses.replace(moments, kernel=broken))
    with pytest.raises(DfxmError, match="broke on purpose"):
        run_recipe(recipe(FULL), store)
    with pytest.raises(IncompleteError, match="0 of"):
        dfxm_dask.open_scan(store)


PROGRAM = """
import sys, pathlib
from dfxm_dask.run.execute import run_recipe
from dfxm_dask.run.recipe import parse_recipe
print("go", flush=True)
run_recipe(parse_recipe(sys.argv[2], pathlib.Path("test.yaml")), sys.argv[1])
"""


@pytest.mark.slow
@pytest.mark.parametrize("raw_store", ["one axis"], indirect=True)
@pytest.mark.parametrize("after", [3, *(pytest.param(k, marks=pytest.mark.slow) for k in (0, 1, 5))])
def test_run_recipe__killed_and_run_again_is_byte_identical(store: Path, whole: Path, after: int) -> None:
    process = subprocess.Popen([sys.executable, "-c", PROGRAM, str(store), FULL], stdout=subprocess.PIPE)
    assert process.stdout
    process.stdout.readline()
    ledger = store / "rocking/.ledger/moments.jsonl"
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and process.poll() is None:
        if ledger.exists() and len(ledger.read_bytes().splitlines()) > after:
            break
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    committed = len(ledger.read_bytes().splitlines()) - 1
    report = run_recipe(recipe(FULL), store)
    assert report.blocks_skipped >= committed
    assert contents(store) == contents(whole)


@pytest.mark.parametrize(
    ("scan_bytes", "cluster", "workers", "started"),
    [
        (10**8, None, None, False),
        (10**8, None, 2, True),
        (10**8, "local", None, True),
        (10**9, None, None, True),
        (10**9, None, 0, False),
    ],
)
def test_starts_workers__for_large_scans_or_where_asked(
    scan_bytes: int, cluster: str | None, workers: int | None, started: bool
) -> None:
    assert starts_workers(SimpleNamespace(scan_bytes=scan_bytes), cluster, workers) == started  # type: ignore[arg-type]


@pytest.mark.parametrize("raw_store", ["two axes"], indirect=True)
def test_run_recipe__two_workers_give_the_same_bytes(store: Path, whole: Path) -> None:
    from dfxm_dask.run.clusters.cluster import open_cluster

    events: list[Any] = []
    with open_cluster(None, workers=2) as client:
        report = run_recipe(recipe(FULL), store, client=client, publish=(events.append,))
    assert report.complete
    assert contents(store) == contents(whole)
    kinds = [type(e).__name__ for e in events]
    assert kinds[0] == "RunStarted"
    assert kinds[-1] == "RunDone"
    last = [e for e in events if type(e).__name__ == "BlockDone"][-1]
    assert last.done == last.blocks == events[0].blocks


@pytest.mark.slow
def test_run_ingest__two_workers_give_the_same_bytes(tmp_path: Path) -> None:
    from dfxm_dask.run.clusters.cluster import open_cluster

    write_bliss(tmp_path / "s.h5", layers=3, shape=(5,), size=(80, 90), link="vds")
    dfxm_dask.ingest(tmp_path / "s.h5", tmp_path / "serial", scan="all")
    events: list[Any] = []
    with open_cluster(None, workers=2) as client:
        run_ingest(tmp_path / "s.h5", tmp_path / "cluster", client=client, publish=(events.append,), scan="all")
    assert contents(tmp_path / "cluster") == contents(tmp_path / "serial")
    assert [type(e).__name__ for e in events] == ["IngestStarted", *["LayerDone"] * 3, "IngestDone"]
