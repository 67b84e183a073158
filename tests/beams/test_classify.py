"""Weak and strong beam of patches: closed forms, truth of simulated layers, and the shipped network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import dfxm_dask
from dfxm_dask.beams.classify import classify_beams, dark_level
from dfxm_dask.beams.prior import weak_probability
from dfxm_dask.errors import InputError, RecipeError
from dfxm_dask.run.execute import plan
from dfxm_dask.run.recipe import parse_recipe

PHI = 0.002 * np.arange(31)


def flat(shape: tuple[int, int] = (70, 192)) -> dict[str, Any]:
    return {
        "lit": np.ones(shape, bool),
        "peak_local": np.full(shape, 0.031, np.float32),
        "width_local": np.full(shape, 0.005, np.float32),
    }


def test_classify_beams__prior_is_the_logistic_of_the_local_coordinate():
    maps = flat()
    maps["peak_local"][:, 64:] = 0.022
    maps["lit"][:, 150:] = False
    found = classify_beams.kernel(np.zeros((70, 192, 31), np.uint16), {"phi": PHI}, **maps)["p_weak"]
    assert found.shape == (2, 3, 31)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found[0, 0], weak_probability((PHI - 0.031) / 0.005), atol=1e-5)
    np.testing.assert_allclose(found[1, 1], weak_probability((PHI - 0.022) / 0.005), atol=1e-5)
    assert np.isnan(found[:, 2]).all()  # 42 of 64 columns are unlit


def test_classify_beams__two_axes_follow_the_rocking_axis():
    chi = np.array([0.0, 0.1])
    counts = np.zeros((70, 192, 2, 31), np.uint16)
    found = classify_beams.kernel(counts, {"chi": chi, "phi": PHI}, **flat())["p_weak"]
    one = classify_beams.kernel(counts[:, :, 0], {"phi": PHI}, **flat())["p_weak"]
    assert found.shape == (2, 3, 2, 31)
    for k in range(2):
        np.testing.assert_array_equal(found[:, :, k], one)


def test_classify_beams__fused_adds_log_odds():
    rng = np.random.default_rng(0)
    counts = rng.poisson(150, (70, 192, 31)).astype(np.uint16)
    maps = flat()
    p = {
        m: classify_beams.kernel(counts, {"phi": PHI}, **maps, method=m, dark=100.0)["p_weak"].astype(float)
        for m in ("prior", "lcnn", "fused")
    }

    def odds(v: np.ndarray) -> np.ndarray:
        inner = np.clip(v, 1e-4, 1 - 1e-4)
        return np.log(inner / (1 - inner))

    wanted = 1 / (1 + np.exp(-(odds(p["prior"]) + odds(p["lcnn"]))))
    np.testing.assert_allclose(p["fused"], wanted, atol=1e-6)
    without = classify_beams.kernel(counts, {"phi": PHI}, **maps, method="fused", trust=0.0)["p_weak"]
    np.testing.assert_allclose(without, np.clip(p["prior"], 1e-4, 1 - 1e-4), atol=1e-6)


def test_classify_beams__network_does_not_see_the_exposure():
    signal = 400 * (1 + np.sin(np.arange(192) / 5))[None, :, None] * np.linspace(0.2, 1, 31)
    dim, bright = (np.round(100 + gain * signal * np.ones((70, 1, 1))).astype(np.uint16) for gain in (2, 8))
    found = [
        classify_beams.kernel(c, {"phi": PHI}, **flat(), method="lcnn", dark=100.0)["p_weak"] for c in (dim, bright)
    ]
    assert np.abs(found[0] - found[1]).max() < 0.05


def test_dark_level__darkest_place_of_a_layer():
    counts = np.full((64, 64, 4), 300, np.uint16)
    counts[16:32, 32:48, 2] = 104
    assert dark_level(counts) == 104
    assert dark_level(np.full((64, 64, 4), np.nan, np.float32)) == 0.0
    assert dark_level(np.full((5, 7, 2), 9, np.uint16)) == 9.0


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"method": "lcnn", "weights": "compcat"}, "compact"),
        ({"method": "lcnn", "weights": "nowhere.safetensors"}, "nowhere.safetensors"),
        ({"axis": "chi"}, "chi"),
    ],
)
def test_classify_beams__refuses(options: dict[str, Any], words: str):
    with pytest.raises(InputError, match=words):
        classify_beams.kernel(np.zeros((70, 192, 31), np.uint16), {"phi": PHI}, **flat(), **options)


WEAK_BEAM = """
name: weak_beam
steps:
  - background: {method: quantile, quantile: 0.1}
  - moments: {noise_cut: 5}
  - local_peak: {}
  - classify_beams: {}
  - integrate_beams: {}
  - enhance_beams: {}
  - threshold_beams: {}
"""


@pytest.fixture(scope="module")
def scan(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("beams") / "easy.zarr"
    dfxm_dask.simulate("easy", path, layers=1, shape=(192, 256), seed=31)
    return path


def test_weak_beam__recipe_reads_the_frames_once_and_finds_the_dislocations(scan: Path):
    recipe = parse_recipe(WEAK_BEAM, Path("weak_beam.yaml"))
    planned = plan(recipe, scan)
    assert len(planned.passes) == 1
    dfxm_dask.run_recipe(recipe, scan)
    tree = dfxm_dask.open_scan(scan, chunks=None)
    beams, truth = tree["beams"].to_dataset().load(), tree["truth"].to_dataset().load()
    label, p = truth.label.values, beams.p_weak.values
    known = ((label == 1) | (label == 2)) & np.isfinite(p)
    assert known.sum() > 200
    assert (((p > 0.5) == (label == 1))[known]).mean() > 0.98
    lit = beams.lit.values & np.isfinite(truth.phi0.values)
    near, far = lit & (truth.distance.values < 0.5), lit & (truth.distance.values > 2.5)
    raw = tree["raw"].counts.values.astype(float)
    assert _auc(beams.weak.values, near, far) > 0.9
    assert _auc(beams.weak.values, near, far) > max(_auc(raw[:, k], near, far) for k in range(31))


def _auc(score: np.ndarray, positive: np.ndarray, negative: np.ndarray) -> float:
    values = np.nan_to_num(np.concatenate([score[positive], score[negative]]), nan=np.nanmin(score))
    rank = values.argsort().argsort()
    n, m = positive.sum(), negative.sum()
    return float((rank[:n].sum() - n * (n - 1) / 2) / (n * m))


def test_weak_beam__needs_lengths(tmp_path: Path):
    from tests.beamline_files import write_bliss

    write_bliss(tmp_path / "s.h5", layers=1, shape=(6,), size=(70, 80))
    dfxm_dask.ingest(tmp_path / "s.h5", tmp_path / "s.zarr", scan="1.1")
    recipe = parse_recipe(
        "name: x\nsteps:\n  - background: {method: scalar, value: 90}\n  - local_peak: {}\n", Path("x.yaml")
    )
    with pytest.raises(RecipeError, match="set the effective pixel by dfxm-dask calibrate"):
        plan(recipe, tmp_path / "s.zarr")
