"""The recipe weak_beam on simulated stores: one decoding, frames on one scale, and scans that have no weak beam."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

import dfxm_dask
from dfxm_dask.beams.network.weights import FOLDER
from dfxm_dask.errors import RecipeError
from dfxm_dask.frames import background, normalise
from dfxm_dask.run.execute import plan, run_recipe
from dfxm_dask.run.recipe import parse_recipe, read_recipe
from dfxm_dask.store.integrity import ledger
from dfxm_dask.view.answers import info
from tests.beamline_files import write_bliss

SHAPE = (128, 128)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory):
    """Stores by preset, each simulated once."""
    stores: dict[str, Path] = {}

    def make(name: str) -> Path:
        if name not in stores:
            stores[name] = tmp_path_factory.mktemp(name) / "s.zarr"
            dfxm_dask.simulate(name, stores[name], layers=2, shape=SHAPE, seed=7)
        return stores[name]

    return make


def recipe(text: str):
    return parse_recipe(text, Path("test.yaml"))


def test_weak_beam__is_one_pass_and_one_for_moments(made) -> None:
    found = plan("weak_beam", made("easy"))
    assert [s.name for s in found.passes[0].steps][-1] == "hot_pixels"
    assert [[s.name for s in p.steps] for p in found.passes[1:]] == [["zingers", "moments"], ["classify_defects"]]
    assert found.remarks == ()


def test_weak_beam__finds_dislocations_and_tells_nothing_odd(made) -> None:
    store = made("easy")
    assert run_recipe("weak_beam", store).remarks == ()
    beams = dfxm_dask.open_scan(store)["beams"].dataset.load()
    assert beams.has_weak_beam.all()
    assert beams.has_defects.all()
    distance = dfxm_dask.open_scan(store)["truth"].distance.values
    assert beams.defects.values[distance < 0.5].mean() > 10 * beams.defects.values[distance > 2].mean()
    assert ((beams.defects_rotation.values > 0) == beams.defects.values).all()
    turning = beams.defects_rotation.values == 1
    assert (distance[turning] < 1).mean() > 0.9
    assert beams.defects_rotation.attrs["flag_meanings"] == "with_rotation without_rotation rotation_unknown"


def test_weak_beam__says_that_there_is_none(made, capsys) -> None:
    store = made("deformed")
    report = run_recipe("weak_beam", store)
    (told,) = report.remarks
    assert told.startswith("2 of 2 layers have no weak beam")
    assert "peaks scatter by" in told
    beams = dfxm_dask.open_scan(store)["beams"].dataset.load()
    assert not beams.has_weak_beam.any()
    for name in ("weak", "weak_minus", "weak_plus", "weak_sigma", "weak_enhanced"):
        assert np.isnan(beams[name]).all(), name
    assert not beams.defects.any()
    assert np.isfinite(beams.strong).any()
    found = info(store)
    assert found.as_dict()["complete"]
    assert "NOTE: 2 of 2 layers have no weak beam" in repr(found)


def test_weak_beam__says_that_nothing_stands_out(made) -> None:
    (told,) = run_recipe("weak_beam", made("empty")).remarks
    assert told.startswith("2 of 2 layers have a weak beam without visible defects")
    defects = dfxm_dask.open_scan(made("empty"))["beams"].defects
    assert defects.mean() < 1e-3


def test_weak_beam__frames_on_one_scale_for_steps_that_need_whole_layers(made) -> None:
    """In the fused pass layers see the counts as the tiles left them: the same as by the kernels, one by one."""
    store = made("hard")
    first = "  - normalise: {by: monitor, reference: 5.0e5, offset: 106}\n"
    text = read_recipe("weak_beam").text
    (told,) = plan(recipe(text.replace("  - normalise: {}\n", "")), store).remarks
    assert "the monitor differs between frames of one layer by a factor of up to" in told
    assert "put `- normalise: {}` first" in told
    asked = recipe(text.replace("  - normalise: {}\n", first).replace("  - zingers: {}\n", ""))
    assert plan(asked, store).remarks == ()
    run_recipe(asked, store)
    tree = dfxm_dask.open_scan(store)
    raw, beams = tree["raw"].dataset.load(), tree["beams"].dataset.load()
    counts = raw.counts.values[1].transpose(1, 2, 0)
    scan = {"phi": tree.phi.values}
    scaled = normalise.kernel(counts, scan, raw.monitor.values[1], by="monitor", reference=5e5, offset=106.0)["counts"]
    scales = {"noise": raw.noise.values[1], "frame_scale": 5e5 / raw.monitor.values[1]}
    level = background.kernel(scaled, scan, **scales)["background_map"]
    np.testing.assert_array_equal(level, tree["frames"].background_map.values[1])
    given = scan, tree.y.values, tree.x.values
    alone = dfxm_dask.local_peak.kernel(scaled, *given, background_map=level, noise=raw.noise.values[1])
    for name, values in alone.items():
        np.testing.assert_array_equal(values, beams[name].values[1], err_msg=name)
    other = dfxm_dask.local_peak.kernel(counts, *given, background_map=level, noise=raw.noise.values[1])
    assert not np.array_equal(other["peak_local"], alone["peak_local"], equal_nan=True)
    late = text.replace("  - normalise: {}\n", "").replace("  - local_peak", first + "  - local_peak")
    with pytest.raises(
        RecipeError, match=r"step local_peak: reads counts after normalise.*put normalise before background"
    ):
        plan(recipe(late), store)


def test_weak_beam__scale_after_frames_were_compared_is_too_late(made) -> None:
    text = """
name: x
steps:
  - local_peak: {background: 106}
  - normalise: {by: monitor, reference: 5.0e5, offset: 106}
  - classify_beams: {}
"""
    (told,) = plan(recipe(text), made("hard")).remarks
    assert "no step brings them to one scale" in told


def test_weak_beam__sums_made_again_keep_to_the_verdict(made) -> None:
    store = made("deformed")
    run_recipe("weak_beam", store)
    text = "name: x\nsteps:\n  - background: {quantile: 0.1}\n  - integrate_beams: {gain: 2.0}\n"
    report = run_recipe(recipe(text), store, overwrite=True)
    assert np.isnan(dfxm_dask.open_scan(store)["beams"].weak).all()
    assert "have no weak beam" in report.remarks[0]


def test_weak_beam__counts_of_a_pass_that_is_gone_are_made_again(made) -> None:
    """Whole layers of the background part normalise from the steps that read what it made."""
    store = made("hard")
    steps = "  - normalise: {by: monitor, reference: 5.0e5, offset: 106}\n  - background: {}\n  - hot_pixels: {}\n"
    run_recipe(recipe("name: a\nsteps:\n" + steps + "  - local_peak: {}\n"), store, overwrite=True)
    apart = dfxm_dask.open_scan(store)["beams"].peak_local.values
    steps = steps.replace("  - hot_pixels: {}\n", "")
    run_recipe(recipe("name: b\nsteps:\n" + steps + "  - local_peak: {}\n"), store, overwrite=True)
    np.testing.assert_array_equal(dfxm_dask.open_scan(store)["beams"].peak_local.values, apart)


@pytest.mark.slow
def test_weak_beam__other_weights_make_the_step_anew(made, tmp_path: Path) -> None:
    store = made("easy")
    for kind in ("safetensors", "json"):
        (tmp_path / f"own.{kind}").write_bytes((FOLDER / f"compact.{kind}").read_bytes())
    text = read_recipe("weak_beam").text.replace(
        "{method: prior}", f"{{method: lcnn, weights: '{tmp_path}/own.safetensors'}}"
    )
    first = plan(recipe(text), store)
    classify = next(s for s in first.steps if s.name == "classify_beams")
    assert len(classify.plan["files"]["weights"]) == 64
    run_recipe(recipe(text), store, overwrite=True)
    told = ledger.group_provenance(store, "beams")[1]["classify_beams"]
    assert told["files"] == classify.plan["files"]
    facts = json.loads((tmp_path / "own.json").read_text())
    facts["temperature"] *= 2
    (tmp_path / "own.json").write_text(json.dumps(facts))
    again = next(s for s in plan(recipe(text), store).steps if s.name == "classify_beams")
    assert again.plan != classify.plan
    (tmp_path / "own.safetensors").write_bytes(b"\x80\x04" + b"0" * 100)
    with pytest.raises(RecipeError, match=r"step classify_beams: weights .*own.safetensors: are a pickle"):
        plan(recipe(text), store)


@pytest.mark.parametrize("positions", [1, 2])
def test_weak_beam__too_few_positions_are_refused_before_anything_runs(positions: int, tmp_path: Path) -> None:
    write_bliss(tmp_path / "s.h5", shape=(positions,))
    dfxm_dask.ingest(tmp_path / "s.h5", tmp_path / "s.zarr", pixel_size=(0.1, 0.1))
    with pytest.raises(RecipeError, match=rf"step local_peak: needs a scan axis of at least 3.*has phi: {positions}"):
        run_recipe("weak_beam", tmp_path / "s.zarr")
    assert not (tmp_path / "s.zarr" / "beams").exists()


def test_weak_beam__unknown_pixel_is_refused_with_the_option(tmp_path: Path) -> None:
    write_bliss(tmp_path / "s.h5", shape=(5,))
    dfxm_dask.ingest(tmp_path / "s.h5", tmp_path / "s.zarr")
    with pytest.raises(RecipeError, match=r"step local_peak: needs y in um.*--pixel-size"):
        plan("weak_beam", tmp_path / "s.zarr")


def test_weak_beam__scan_of_two_axes(real_scans, tmp_path: Path) -> None:
    """Every frame at one phi counts the same; the probabilities keep both axes."""
    dfxm_dask.ingest(real_scans["mosa_scan"], tmp_path / "s.zarr", scan="1.1", pixel_size=(0.2, 0.6))
    run_recipe("weak_beam", tmp_path / "s.zarr")
    found = dfxm_dask.open_scan(tmp_path / "s.zarr")["beams"].dataset
    assert found.p_weak.dims[:3] == ("z", *[a for a in found.p_weak.dims if a in ("chi", "phi")])
    assert not found.has_weak_beam.any()


def test_weak_beam__real_rocking_scan_has_none(real_scans, tmp_path: Path) -> None:
    """A fatigued grain whose curves are as wide as the scan; the pixel is not recorded and only sets the windows."""
    dfxm_dask.ingest(real_scans["rocking"], tmp_path / "s.zarr", scan="1.1", pixel_size=(0.2, 0.6))
    report = run_recipe("weak_beam", tmp_path / "s.zarr")
    (told,) = report.remarks
    assert told.startswith("1 of 1 layers have no weak beam")
    found = xr.open_zarr(tmp_path / "s.zarr", group="beams")
    assert not found.has_weak_beam.any()
    assert np.isnan(found.weak).all()
