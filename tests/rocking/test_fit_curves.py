"""Fits against scipy, closed forms and a real scan."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import curve_fit

from dfxm_dask.errors import InputError
from dfxm_dask.rocking import fit_curves

PHI = np.linspace(-0.15, 0.15, 31)
STEP = 0.01


def gaussian(x: np.ndarray, a: float, c: float, w: float, b: float) -> np.ndarray:
    return b + a * np.exp(-4 * np.log(2) * ((x - c) / w) ** 2)


def lorentzian(x: np.ndarray, a: float, c: float, w: float, b: float) -> np.ndarray:
    return b + a / (1 + 4 * ((x - c) / w) ** 2)


def pseudo_voigt(x: np.ndarray, a: float, c: float, w: float, b: float, m: float) -> np.ndarray:
    return m * lorentzian(x, a, c, w, b) + (1 - m) * gaussian(x, a, c, w, b)


MODELS: dict[str, Callable[..., np.ndarray]] = {
    "gaussian": gaussian,
    "lorentzian": lorentzian,
    "pseudo_voigt": pseudo_voigt,
}


@pytest.mark.parametrize("model", ["gaussian", "lorentzian"])
def test_fit_curves__noisy_curves_agree_with_scipy(model: str) -> None:
    rng = np.random.default_rng(0)
    true = [(rng.uniform(200, 3000), rng.uniform(-0.08, 0.08), rng.uniform(0.03, 0.09), 100.0) for _ in range(200)]
    counts = np.array([[rng.poisson(MODELS[model](PHI, *p)) for p in true]]).astype(np.uint16)
    found = fit_curves.kernel(counts, {"phi": PHI}, model=model)
    assert found["fit_ok"].all()
    for k, p in enumerate(true):
        best, _ = curve_fit(MODELS[model], PHI, counts[0, k].astype(float), p0=p, xtol=1e-12, ftol=1e-12)
        assert abs(found["fit_centre_phi"][0, k] - best[1]) < 1e-4 * STEP
        assert abs(found["fit_fwhm_phi"][0, k] - abs(best[2])) < 1e-3 * STEP
        assert found["fit_amplitude"][0, k] == pytest.approx(best[0], rel=1e-4)
        assert found["fit_background"][0, k] == pytest.approx(best[3], rel=1e-4)
        residual = counts[0, k] - MODELS[model](PHI, *best)
        assert found["fit_rms"][0, k] == pytest.approx(np.sqrt((residual**2).mean()), rel=1e-5)
    assert (found["fit_mixing"] == (model == "lorentzian")).all()


def test_fit_curves__pseudo_voigt_finds_its_mixing() -> None:
    rng = np.random.default_rng(1)
    for mixing in (0.0, 0.3, 0.8, 1.0):
        true = (5000.0, 0.0123, 0.06, 120.0, mixing)
        exact = fit_curves.kernel(
            pseudo_voigt(PHI, *true).astype(np.float32)[None, None], {"phi": PHI}, model="pseudo_voigt"
        )
        assert exact["fit_ok"].item()
        assert exact["fit_mixing"].item() == pytest.approx(mixing, abs=2e-3)
        assert exact["fit_centre_phi"].item() == pytest.approx(0.0123, abs=1e-4 * STEP)
        assert exact["fit_fwhm_phi"].item() == pytest.approx(0.06, rel=1e-3)
        noisy = rng.poisson(pseudo_voigt(PHI, *true), (1, 30, 31)).astype(np.uint16)
        found = fit_curves.kernel(noisy, {"phi": PHI}, model="pseudo_voigt")
        assert found["fit_ok"].mean() > 0.9
        assert np.nanmax(np.abs(found["fit_centre_phi"] - 0.0123)) < 0.1 * STEP


@settings(max_examples=20, deadline=None)
@given(shift=st.floats(-10, 10), factor=st.floats(0.1, 20), centre=st.floats(-0.09, 0.09), width=st.floats(0.02, 0.08))
def test_fit_curves__shift_and_scale_laws(shift: float, factor: float, centre: float, width: float) -> None:
    curve = gaussian(PHI, 1000, centre, width, 100).astype(np.float32)[None, None]
    found = fit_curves.kernel(np.ascontiguousarray(curve * np.float32(factor)), {"phi": PHI + shift})
    assert found["fit_ok"].item()
    assert found["fit_centre_phi"].item() == pytest.approx(centre + shift, abs=1e-4 * STEP + 1e-6 * abs(shift))
    assert found["fit_fwhm_phi"].item() == pytest.approx(width, rel=1e-4)
    assert found["fit_amplitude"].item() == pytest.approx(1000 * factor, rel=1e-4)


def noisy(kind: str, signal: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Curves on a pedestal of 100 with equal noise, read noise and photons at 2.5 counts each, or photons alone."""
    equal = rng.normal(0, 0.03 * signal.max() + 2, signal.shape)
    camera = 2.5 * rng.poisson(signal / 2.5) + rng.normal(0, 3, signal.shape) - signal
    poisson = rng.poisson(signal + 100) - signal - 100
    return np.rint(np.maximum(signal + 100 + {"equal": equal, "camera": camera, "poisson": poisson}[kind], 0))


@pytest.mark.parametrize("kind", ["equal", "camera", "poisson"])
@pytest.mark.parametrize(
    ("model", "frames", "width"), [("gaussian", 41, 4), ("lorentzian", 81, 6), ("pseudo_voigt", 81, 9)]
)
def test_fit_curves__errors_are_the_scatter_over_repetitions(kind: str, model: str, frames: int, width: int) -> None:
    rng = np.random.default_rng(12)
    x = np.arange(frames, dtype=float)
    mixing = (0.5,) if model == "pseudo_voigt" else ()
    true = {
        "fit_centre_a": rng.uniform(frames / 2 - 2, frames / 2 + 2, 2500),
        "fit_fwhm_a": width,
        "fit_amplitude": 3000,
        "fit_background": 100,
        "fit_mixing": 0.5,
    }
    curves = np.array([MODELS[model](x, 3000, c, width, 0, *mixing) for c in true["fit_centre_a"]])
    found = fit_curves.kernel(noisy(kind, curves, rng).astype(np.uint16)[None], {"a": x}, model=model)
    assert found["fit_ok"].mean() > 0.98
    for name in list(true)[: 4 + len(mixing)]:
        std = found[name.replace("_a", "_std_a") if name.endswith("_a") else name + "_std"][0]
        error = (found[name][0] - true[name])[np.isfinite(std)]
        std = std[np.isfinite(std)]
        assert std.size > 0.85 * 2500, name
        assert 0.9 < np.median(std) / error.std() < 1.12, name
        assert 0.64 < (np.abs(error) < std).mean() < 0.74, name


def test_fit_curves__errors_that_are_not_known_are_nan() -> None:
    rng = np.random.default_rng(13)
    x = np.arange(31.0)
    # Broad in noise: a test on the errors themselves let the narrow fits pass, with errors too small. Sharp: too few
    # frames on the peak.
    for height, width, unknown in ((31, 15, 0.99), (900, 2, 0.99), (400, 3, 0.02), (900, 15, 0.02)):
        curves = rng.poisson(gaussian(x, height, 15, width, 100), (1, 500, 31)).astype(np.uint16)
        found = fit_curves.kernel(curves, {"a": x})
        for name in ("fit_centre_std_a", "fit_fwhm_std_a", "fit_amplitude_std", "fit_background_std"):
            missing = np.isnan(found[name])[found["fit_ok"]].mean()
            assert missing > unknown if unknown > 0.5 else missing < unknown, (width, name)
            assert np.isnan(found[name][~found["fit_ok"]]).all()
    pure = np.rint(gaussian(x, 900, 15, 6, 100) + rng.normal(0, 5, (1, 300, 31))).astype(np.uint16)
    found = fit_curves.kernel(pure, {"a": x}, model="pseudo_voigt")  # true mixing at its bound
    at_bound = found["fit_mixing"] == 0
    assert at_bound.mean() > 0.3
    assert np.isnan(found["fit_mixing_std"][at_bound]).all()
    assert np.isfinite(found["fit_centre_std_a"]).all()
    flat = rng.normal(500, 20, (1, 2000, 61)).astype(np.float32)  # nothing but noise
    assert fit_curves.kernel(flat, {"a": np.arange(61.0)})["fit_ok"].mean() < 0.02


@pytest.mark.parametrize(("height", "width", "frames"), [(79, 6, 31), (60, 6, 61), (130, 15, 31)])
def test_fit_curves__errors_of_peaks_near_the_threshold_are_not_too_small(
    height: float, width: float, frames: int
) -> None:
    rng = np.random.default_rng(21)
    x = np.arange(float(frames))
    curves = rng.poisson(gaussian(x, height, frames / 2, width, 100), (1, 4000, frames)).astype(np.uint16)
    found = fit_curves.kernel(curves, {"a": x})
    for name, true in (("fit_centre", frames / 2), ("fit_fwhm", width)):
        std = found[f"{name}_std_a"]
        known = np.isfinite(std)
        assert 0.05 < known.mean() < 0.95
        rms = np.sqrt(((found[f"{name}_a"] - true)[known] ** 2).mean())
        assert 0.87 < np.median(std[known]) / rms < 1.15, (name, known.mean())


@pytest.mark.parametrize("middle", [300.0, -179.99, 12.3456789, 1e4])
def test_fit_curves__centres_are_right_at_any_angle(middle: float) -> None:
    x = middle + PHI
    curve = gaussian(PHI, 1000, 0.01234567, 0.05, 100)[None, None]
    found = fit_curves.kernel(curve, {"phi": x})
    assert found["fit_centre_phi"].dtype == np.float64
    assert abs(found["fit_centre_phi"].item() - (middle + 0.01234567)) < 1e-8


@pytest.mark.parametrize("order", ["ascending", "descending", "mixed"])
def test_fit_curves__positions_need_not_be_even(order: str) -> None:
    rng = np.random.default_rng(14)
    x = np.sort(np.concatenate([np.linspace(-3, 3, 13), rng.uniform(0.2, 0.5, 25)]))  # dense where the peak is
    x = {"ascending": x, "descending": x[::-1], "mixed": rng.permutation(x)}[order]
    curves = np.array([gaussian(x, 1000, 0.33, 0.08, 100), gaussian(x, 1000, 0.2, 2.0, 100)])
    found = fit_curves.kernel(np.ascontiguousarray(curves[None]), {"a": x})
    assert found["fit_ok"].all()
    np.testing.assert_allclose(found["fit_centre_a"][0], [0.33, 0.2], atol=1e-6)
    np.testing.assert_allclose(found["fit_fwhm_a"][0], [0.08, 2.0], rtol=1e-5)
    same = fit_curves.kernel(np.ones((1, 2, 9), np.uint16), {"a": np.full(9, 3.0)})
    assert not same["fit_ok"].any()


def test_fit_curves__any_cut_descending_and_background_start_give_the_same() -> None:
    rng = np.random.default_rng(3)
    frames = rng.poisson(gaussian(PHI, 500, 0.01, 0.05, 100)[:, None, None], (31, 3, 100)).astype(np.uint16)
    counts = np.moveaxis(frames, 0, -1)
    whole = fit_curves.kernel(counts, {"phi": PHI})
    part = fit_curves.kernel(counts[1:, 7:80], {"phi": PHI})
    for name, values in part.items():
        np.testing.assert_array_equal(values, whole[name][1:, 7:80])
    mirrored = fit_curves.kernel(counts[:, :, ::-1], {"phi": PHI[::-1]})
    np.testing.assert_allclose(mirrored["fit_centre_phi"], whole["fit_centre_phi"], atol=1e-4 * STEP)
    started = fit_curves.kernel(counts, {"phi": PHI}, np.full((3, 100), 100, np.float32))
    np.testing.assert_allclose(started["fit_centre_phi"], whole["fit_centre_phi"], atol=1e-4 * STEP)


def test_fit_curves__several_axes_are_summed_over_the_others() -> None:
    chi = np.linspace(0, 1, 5)
    surface = gaussian(PHI, 1000, 0.02, 0.05, 100) * np.array([1, 2, 3, 2, 1])[:, None]
    counts = surface.astype(np.float32)[None, None]
    found = fit_curves.kernel(counts, {"chi": chi, "phi": PHI}, axis="phi")
    assert set(found) == {
        "fit_centre_phi",
        "fit_fwhm_phi",
        "fit_centre_std_phi",
        "fit_fwhm_std_phi",
        "fit_amplitude",
        "fit_background",
        "fit_mixing",
        "fit_amplitude_std",
        "fit_background_std",
        "fit_mixing_std",
        "fit_rms",
        "fit_ok",
    }
    assert found["fit_centre_phi"].item() == pytest.approx(0.02, abs=1e-5)
    assert found["fit_amplitude"].item() == pytest.approx(9000, rel=1e-4)
    one = fit_curves.kernel(counts[:, :, :1], {"chi": chi[:1], "phi": PHI})
    assert one["fit_ok"].item()
    assert np.isnan(one["fit_centre_chi"]).all()


def test_fit_curves__bad_curves_are_not_ok() -> None:
    rng = np.random.default_rng(4)
    curves = np.stack(
        [
            np.zeros(31),
            np.full(31, 65535.0),
            np.full(31, np.nan),
            gaussian(PHI, 1000, 0.25, 0.1, 100),
            gaussian(PHI, -90, 0, 0.05, 100),
            np.where(np.arange(31) == 15, 1000, 100),
            gaussian(PHI, 900, 0, 0.05, 100),
            np.linspace(100, 900, 31),
            gaussian(PHI, 900, 0, 0.05, 100),
        ]
    ).astype(np.float32)
    curves[8, 3] = np.nan
    hot = np.zeros((1, len(curves)), bool)
    hot[0, 6] = True
    found = fit_curves.kernel(curves[None], {"phi": PHI}, hot=hot)
    assert not found["fit_ok"].any()
    assert all(np.isnan(values).all() for name, values in found.items() if name != "fit_ok")
    noise = fit_curves.kernel(rng.poisson(100, (5, 80, 31)).astype(np.uint16), {"phi": PHI}, lit_above=80)
    assert not noise["fit_ok"].any()
    few = fit_curves.kernel(np.full((1, 1, 3), 9, np.uint16), {"phi": PHI[:3]})
    assert not few["fit_ok"].any()
    for shape in ((0, 4, 31), (4, 0, 31)):
        assert fit_curves.kernel(np.zeros(shape, np.uint16), {"phi": PHI})["fit_ok"].shape == shape[:2]


def test_fit_curves__no_fit_of_the_real_scan_lies_outside(real_scans: dict[str, Path]) -> None:
    with h5py.File(real_scans["rocking"]) as file:
        frames = file["1.1/instrument/pco_ff/image"][:, 60:110, 60:110]
        phi = file["1.1/instrument/mu/value"][()].astype(np.float64)
    for model in MODELS:
        found = fit_curves.kernel(np.moveaxis(frames, 0, -1), {"phi": phi}, model=model, lit_above=1000)
        ok = found["fit_ok"]
        centre, width = found["fit_centre_phi"], found["fit_fwhm_phi"]
        assert ok.mean() > 0.3, model
        tiny = np.ptp(phi) * 1e-6  # float32
        assert ((centre[ok] >= phi.min() - tiny) & (centre[ok] <= phi.max() + tiny)).all()
        assert (width[ok] <= 2 * np.ptp(phi) + tiny).all()
        assert (found["fit_amplitude"][ok] > 0).all()
        assert np.isnan(centre[~ok]).all()
    # Where scipy starts from our result it stays there, in single-peaked and spiky curves alike.
    found = fit_curves.kernel(np.moveaxis(frames, 0, -1), {"phi": phi}, lit_above=1000)
    places = np.argwhere(found["fit_ok"])[::97]
    for y, x in places:
        start = [found[n][y, x] for n in ("fit_amplitude", "fit_centre_phi", "fit_fwhm_phi", "fit_background")]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            best, _ = curve_fit(gaussian, phi, frames[:, y, x].astype(float), p0=start)
        assert abs(best[1] - start[1]) < 1e-2 * np.ptp(phi) / 149


def test_fit_curves__refuses_an_unclear_axis() -> None:
    counts = np.ones((1, 1, 2, 3), np.uint16)
    scan = {"chi": np.arange(2.0), "phi": np.arange(3.0)}
    with pytest.raises(InputError, match="without an axis: the scan varies along chi, phi; set axis='chi'"):
        fit_curves.kernel(counts, scan)
    with pytest.raises(InputError, match="axis 'mu': the scan has chi, phi"):
        fit_curves.kernel(counts, scan, axis="mu")
    with pytest.raises(InputError, match="varies along no axis; fit a scan with at least two positions"):
        fit_curves.kernel(counts[:, :, :1, :1], {"chi": np.zeros(1), "phi": np.zeros(1)})
