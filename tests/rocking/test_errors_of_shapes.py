"""Widths behind a cut, errors of maxima and of KAM, medians and backgrounds, against simulations and closed forms."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from dfxm_dask.rocking import baseline_sensitivity, kam, median_centres, moment_errors, moments, unlit_background

U = np.arange(61.0) - 30
GIVEN = {"background": 100.0, "noise_cut": 5.0, "noise": np.float32(np.hypot(2, 12**-0.5))}


def counts_of(peak: float, sigma: float, draws: int, seed: int = 2) -> np.ndarray:
    """Counts (draw, pixel, frame) of a camera with read noise 2 and an offset of 100."""
    rng = np.random.default_rng(seed)
    curves = peak * np.exp(-0.5 * ((U - rng.uniform(-5, 5, (60, 1))) / sigma) ** 2)
    size = (draws, *curves.shape)
    return np.rint(100 + rng.normal(0, 2, size) + rng.poisson(curves, size)).clip(0).astype(np.uint16)


@pytest.mark.parametrize("peak", [34.0, 60.0, 200.0])
def test_width__is_that_of_the_gaussian_behind_a_cut(peak: float) -> None:
    """Peaks of 17 to 100 noise units; without the correction, 0.76 to 0.96 of the true width."""
    counts = counts_of(peak, 2.5, 40)
    cut = moments.kernel(counts, {"a": U}, **GIVEN)["std_a"]
    wide = moment_errors.kernel(counts, {"a": U}, **GIVEN)["width_a"]
    assert np.nanmedian(cut) < 0.97 * 2.5
    assert 0.95 < np.nanmedian(wide) / 2.5 < 1.05


def test_width__is_nan_for_dim_and_odd_curves() -> None:
    counts = counts_of(16.0, 2.5, 4)
    assert np.isnan(moment_errors.kernel(counts, {"a": U}, **GIVEN)["width_a"]).mean() > 0.95
    two = 100 + 300 * (np.exp(-0.5 * ((U + 12) / 2.5) ** 2) + np.exp(-0.5 * ((U - 12) / 2.5) ** 2))[None, None]
    made = moment_errors.kernel(two.round().astype(np.uint16), {"a": U}, **GIVEN)
    assert np.isnan(made["width_a"].item())
    assert made["com_a_error"].item() > 0


def test_moment_errors__of_the_maximum_and_its_position() -> None:
    """Errors within 10 %; the power of 100 draws of 60 pixels is 1 %."""
    counts = counts_of(80.0, 2.5, 100)
    found, stated = moments.kernel(counts, {"a": U}, **GIVEN), moment_errors.kernel(counts, {"a": U}, **GIVEN)
    true = np.random.default_rng(2).uniform(-5, 5, (60, 1)).ravel()
    ratio = np.nanmean(stated["peak_error"]) / found["peak"].std(axis=0).mean()
    assert ratio == pytest.approx(1, abs=0.1)
    away = np.sqrt(np.square(found["peak_a"] - true).mean())
    assert np.nanmean(stated["peak_a_error"]) / away == pytest.approx(1, abs=0.1)


def test_moment_errors__include_the_error_of_the_background() -> None:
    """The background of each scan moves the sum by its error times the frames; the map states that of a quantile."""
    counts = counts_of(80.0, 2.5, 100)
    rng = np.random.default_rng(4)
    level = (100 + rng.normal(0, 1, counts.shape[:2])).astype(np.float32)
    given = {name: value for name, value in GIVEN.items() if name != "background"}
    found = moments.kernel(counts, {"a": U}, level, **given)
    for name, error in (("total", "total_error"), ("com_a", "com_a_error"), ("std_a", "std_a_error")):
        stated = moment_errors.kernel(counts, {"a": U}, level, **given, background_error=1.0)[error]
        assert np.nanmedian(stated) / np.median(found[name].std(axis=0)) == pytest.approx(1, abs=0.08), name
    default = moment_errors.kernel(counts, {"a": U}, level, **given)["total_error"]
    none = moment_errors.kernel(counts, {"a": U}, level, **given, background_error=0.0)["total_error"]
    assert 1.02 < np.mean(default / none) < 1.3


def test_moment_errors__are_nan_for_moments_of_another_background() -> None:
    counts = counts_of(80.0, 2.5, 2)
    maps = moments.kernel(counts, {"a": U}, **{**GIVEN, "background": 90.0})
    known = {n: maps[n] for n in ("total", "peak", "flags")} | {n: {"a": maps[f"{n}_a"]} for n in ("com", "std")}
    made = moment_errors.kernel(counts, {"a": U}, **GIVEN, **known)
    assert all(np.isnan(values).all() for values in made.values())


def test_kam_error__states_the_scatter_and_excess_has_no_floor() -> None:
    """200 draws: KAM within 10 % where the tilt is clear; the mean square of pure noise is 0 within its error."""
    rng, place = np.random.default_rng(6), np.arange(16.0)
    error = rng.uniform(0.5, 1.5, (16, 16)).astype(np.float32)
    for slope in (0.0, 10.0):
        true = slope * np.hypot(place[:, None], 0.5 * place)
        made = [
            kam.kernel({"a": true + error * rng.normal(size=true.shape)}, place, place, com_error={"a": error})
            for _ in range(200)
        ]
        excess = np.mean([m["kam_excess"] for m in made], axis=0)
        exact = kam.kernel({"a": true}, place, place, com_error={"a": 0 * error})["kam_excess"]
        scatter = np.std([m["kam_excess"] for m in made], axis=0)
        assert np.abs(np.mean((excess - exact) / scatter)) < 0.03
        if slope:
            stated = np.nanmean([m["kam_error"] for m in made]) / np.std([m["kam"] for m in made], axis=0).mean()
            assert stated == pytest.approx(1, abs=0.1)
            sides = np.mean([m["kam_excess_error"] for m in made]) / scatter.mean()
            assert sides == pytest.approx(1, abs=0.1)
        else:
            assert np.mean([np.isnan(m["kam_error"]) for m in made]) > 0.9
    alone = kam.kernel({"a": true}, place, place)
    assert all(np.isnan(alone[name]).all() for name in ("kam_error", "kam_excess", "kam_excess_error"))


def test_median_centres__of_a_gaussian_and_of_a_grid() -> None:
    curve = 1e6 * np.exp(-0.5 * ((U - 1.3) / 4) ** 2)
    made = median_centres.kernel(curve[None, None].astype(np.float32), {"a": U}, background=0.0)
    assert made["median_a"].item() == pytest.approx(1.3, abs=0.01)
    assert made["span_a"].item() == pytest.approx(2 * 4 * stats.norm.ppf(0.9), rel=0.01)
    rng = np.random.default_rng(0)
    grid = rng.uniform(1, 9, (3, 2, 7, 5))
    scan = {"b": 0.5 * np.arange(7.0), "c": 2.0 - np.arange(5.0)[::-1]}
    made = median_centres.kernel(grid.astype(np.float32), scan, background=0.0)
    for name, axis in (("b", 3), ("c", 2)):
        marginal, step = grid.sum(axis=axis), scan[name][1] - scan[name][0]
        sums = np.concatenate([np.zeros((3, 2, 1)), np.cumsum(marginal, axis=2)], axis=2)
        edges = np.append(scan[name] - step / 2, scan[name][-1] + step / 2)
        direct = [np.interp(s[-1] / 2, s, edges) for s in sums.reshape(6, -1)]
        np.testing.assert_allclose(made[f"median_{name}"].ravel(), direct, atol=1e-5)


def test_median_centres__has_the_mask_of_moments() -> None:
    counts = counts_of(80.0, 2.5, 3)
    counts[0, :30] = 100
    hot = np.zeros(counts.shape[:2], bool)
    hot[2] = True
    given = {**GIVEN, "hot": hot}
    found = moments.kernel(counts, {"a": U}, **given)["com_a"]
    made = median_centres.kernel(counts, {"a": U}, **given)["median_a"]
    np.testing.assert_array_equal(np.isnan(made), np.isnan(found))
    assert np.nanmax(np.abs(made - found)) < 1


def test_baseline__of_truncated_curves_shows_the_bias_of_the_background() -> None:
    """A level 30 counts too high moves centres at the border; the dark level shows it, and clean pixels do not move."""
    curves = 100 + 400 * np.exp(-0.5 * ((U - np.array([[0.0], [24.0]])) / np.array([[2.5], [15.0]])) ** 2)[None]
    level = np.array([[100.0, 130.0]], np.float32)
    made = baseline_sensitivity.kernel(curves, {"a": U}, level, dark_level=100.0)
    exact = moments.kernel(curves, {"a": U}, background=100.0)
    used = moments.kernel(curves, {"a": U}, level)
    bias = np.abs(exact["com_a"] - used["com_a"])[0]
    assert made["com_a_baseline"][0, 1] * 1.001 > bias[1] > 0.3
    assert made["com_a_baseline"][0, 0] < 0.05
    assert made["std_a_baseline"][0, 1] * 1.001 > np.abs(exact["std_a"] - used["std_a"])[0, 1]


def test_unlit_background__needs_unlit_pixels() -> None:
    level = np.full((20, 20), 100, np.float32)
    flags = np.zeros((20, 20), np.uint8)
    assert np.isnan(unlit_background.kernel(level, flags)["unlit_background"])
    flags[:10] = 1
    level[10:] = 150
    assert unlit_background.kernel(level, flags)["unlit_background"] == 100
