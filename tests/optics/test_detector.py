"""Camera against the published calibration, closed forms, scipy's filters and the laws of photon noise; the beam."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy import ndimage, stats

from dfxm_dask.errors import InputError
from dfxm_dask.optics.instrument.beam import drift_path, flux_series, monitor, shift, stripes
from dfxm_dask.optics.instrument.blur import blur
from dfxm_dask.optics.instrument.detector import Detector, fixed_pattern, record

CAMERA = Detector()
NOISELESS = Detector(gain=1.0, read_noise=0.0, read_noise_rate=0.0)


def photons(mean: float, n: int, seed: int) -> np.ndarray:
    """Photon numbers alone: gain 1, nothing added."""
    signal, nothing = np.full((n // 1000, 1000), mean, np.float32), np.zeros((n // 1000, 1000), np.float32)
    return record(signal, nothing, NOISELESS, exposure=1.0, rng=np.random.default_rng(seed)).ravel()


@pytest.mark.parametrize("mean", [0.02, 0.5, 3.0, 9.99, 10.01, 14.0, 60.0, 1500.0])
def test_record__photons_are_poisson(mean: float) -> None:
    n = 400_000
    found = np.bincount(photons(mean, n, 3))
    law = stats.poisson(np.float64(np.float32(mean)))
    low, high = int(law.ppf(50 / n)), int(law.isf(50 / n))
    expected = n * np.array([law.cdf(low), *law.pmf(np.arange(low + 1, high)), law.sf(high - 1)])
    found = np.pad(found, (0, max(0, high + 1 - found.size)))
    seen = np.array([found[: low + 1].sum(), *found[low + 1 : high], found[high:].sum()])
    assert seen.sum() == n
    assert stats.chisquare(seen, expected * (n / expected.sum())).pvalue > 1e-3


@pytest.mark.parametrize("exposure", [0.1, 1.0])
def test_record__lies_on_the_photon_transfer_curve(exposure: float) -> None:
    """Mean s + offset, variance g s + (6.3 + 11 t)^2 + 1/12, with the published g = 2.14."""
    shape = (400, 500)
    n = shape[0] * shape[1]
    level = 102.5 + 7.5 * exposure
    for k, signal in enumerate((0.0, 1.0, 20.0, 23.0, 300.0, 5000.0, 50000.0)):
        rng = np.random.default_rng(k)
        counts = record(np.full(shape, signal), np.full(shape, level), CAMERA, exposure=exposure, rng=rng)
        variance = 2.14 * signal + (6.3 + 11 * exposure) ** 2 + 1 / 12
        assert counts.mean() == pytest.approx(signal + level, abs=5 * np.sqrt(variance / n))
        assert counts.var() == pytest.approx(variance, rel=5 * np.sqrt(2 / n))


def test_record__every_pixel_has_its_own_mean() -> None:
    signal = np.random.default_rng(0).uniform(0, 500, (40, 30))
    pattern = np.random.default_rng(1).uniform(80, 120, (40, 30)).astype(np.float32)
    rng = np.random.default_rng(2)
    mean = np.mean([record(signal, pattern, CAMERA, exposure=0.2, rng=rng) for _ in range(400)], axis=0)
    pull = (mean - signal - pattern) / np.sqrt((2.14 * signal + 8.5**2 + 1 / 12) / 400)
    assert np.abs(pull).max() < 4.8
    assert pull.std() == pytest.approx(1, abs=0.08)


def test_record__saturates_and_is_never_negative() -> None:
    full = record(np.full((20, 20), 1e6), np.full((20, 20), 100.0), CAMERA, exposure=1.0, rng=np.random.default_rng(0))
    assert full.dtype == np.uint16
    assert (full == 65535).all()
    huge = record(np.full((2, 2), 3e38), np.zeros((2, 2)), CAMERA, exposure=1.0, rng=np.random.default_rng(0))
    assert (huge == 65535).all()
    dark = record(np.zeros((50, 50)), np.full((50, 50), -5.0), CAMERA, exposure=1.0, rng=np.random.default_rng(0))
    assert (dark == 0).mean() > 0.5
    assert dark.max() < 65
    well = Detector(saturation=4095)
    cut = record(np.full((50, 50), 4000.0), np.full((50, 50), 100.0), well, exposure=1.0, rng=np.random.default_rng(0))
    assert (cut == 4095).mean() == pytest.approx(0.5, abs=0.1)


def test_record__is_reproduced_by_its_generator_alone() -> None:
    signal = np.random.default_rng(0).uniform(0, 200, (64, 65))
    pattern = fixed_pattern((64, 65), CAMERA, exposure=0.5, seed=4)
    rng, again = np.random.default_rng(5), np.random.default_rng(5)
    first, second = (record(signal, pattern, CAMERA, exposure=0.5, rng=rng) for _ in range(2))
    np.testing.assert_array_equal(first, record(signal, pattern, CAMERA, exposure=0.5, rng=again))
    np.testing.assert_array_equal(second, record(np.asfortranarray(signal), pattern, CAMERA, exposure=0.5, rng=again))
    assert (first != second).mean() > 0.9


@pytest.mark.parametrize(("value", "said"), [(-1e-6, "-1e-06"), (np.nan, "nan"), (np.inf, "inf")])
def test_record__refuses_impossible_signal(value: float, said: str) -> None:
    signal = np.ones((5, 6))
    signal[2, 3] = value
    rng = np.random.default_rng(0)
    with pytest.raises(InputError, match=rf"signal at pixel \(2, 3\): is {said} \(1 pixels"):
        record(signal, np.zeros((5, 6)), CAMERA, exposure=1.0, rng=rng)
    assert rng.random() == np.random.default_rng(0).random()


def test_record__refuses_other_bad_input() -> None:
    one: dict[str, Any] = dict(exposure=1.0, rng=np.random.default_rng(0))
    with pytest.raises(InputError, match=r"signal \(3, 4\): the fixed pattern is \(4, 3\)"):
        record(np.zeros((3, 4)), np.zeros((4, 3)), CAMERA, **one)
    with pytest.raises(InputError, match="exposure: is 0 s"):
        record(np.zeros((3, 4)), np.zeros((3, 4)), CAMERA, **one | {"exposure": 0})
    with pytest.raises(InputError, match=r"rng: is a int; give numpy\.random\.default_rng"):
        record(np.zeros((3, 4)), np.zeros((3, 4)), CAMERA, **one | {"rng": 3})
    assert record(np.zeros((0, 4)), np.zeros((0, 4)), CAMERA, **one).shape == (0, 4)


def test_fixed_pattern__has_the_published_statistics() -> None:
    pattern = fixed_pattern((2048, 2048), CAMERA, exposure=0.5, seed=1)
    assert pattern.dtype == np.float32
    inside = pattern[16:-16].astype(float) - (102.5 + 7.5 * 0.5)
    # Warm pixels stand apart on the high side only: the lower half is the plain camera.
    below = inside[inside < 0]
    assert np.sqrt((below**2).mean()) == pytest.approx(1.8, rel=0.005)
    assert below.size / inside.size == pytest.approx(0.5 * (1 - 0.015) + 0.015 * 0.066, abs=2e-3)
    # An exponential of mean 10 on a normal of 1.8: tail 1.5 % exp(-c / 10 + (1.8 / 10)^2 / 2), far above the normal.
    for cut, published, tolerance in ((10, 0.0057, 0.05), (50, 1.1e-4, 0.2)):
        warm = (inside > cut).mean()
        error = 5 * np.sqrt(warm / inside.size)
        assert warm == pytest.approx(0.015 * np.exp(-cut / 10 + 0.18**2 / 2), abs=error)
        assert warm == pytest.approx(published, rel=tolerance)


def test_fixed_pattern__rows_at_the_border_glow() -> None:
    plain = Detector(fixed_pattern=0, warm_fraction=0)
    pattern = fixed_pattern((100, 3), plain, exposure=2.0, seed=0) - np.float32(102.5 + 15)
    d = np.arange(16)
    np.testing.assert_allclose(pattern[:16, 1], 20 * np.exp(-d / 4), atol=2e-5)
    np.testing.assert_array_equal(pattern[::-1], pattern)
    assert (pattern[16:-16] == 0).all()
    np.testing.assert_allclose(
        fixed_pattern((3, 1), plain, exposure=2.0, seed=0)[:, 0] - 117.5, 20 * np.exp([0, -0.25, 0]), atol=2e-5
    )


def test_fixed_pattern__belongs_to_a_camera_and_not_to_a_frame() -> None:
    one, other = (fixed_pattern((50, 60), CAMERA, exposure=t, seed=7) for t in (0.1, 0.9))
    np.testing.assert_allclose(other - one, 7.5 * 0.8, atol=3e-5)
    np.testing.assert_array_equal(one, fixed_pattern((50, 60), CAMERA, exposure=0.1, seed=7))
    assert (one != fixed_pattern((50, 60), CAMERA, exposure=0.1, seed=8)).mean() > 0.99
    with pytest.raises(InputError, match="exposure: is nan s"):
        fixed_pattern((5, 5), CAMERA, exposure=np.nan, seed=0)
    with pytest.raises(InputError, match="frame of 0 x 5 pixels: is empty"):
        fixed_pattern((0, 5), CAMERA, exposure=1.0, seed=0)


@pytest.mark.parametrize("shape", [(61, 80), (7, 300), (3, 2), (1, 9), (1, 1)])
@pytest.mark.parametrize("psf", [0.5, 1.2, 3.0])
def test_blur__psf_is_the_direct_convolution(shape: tuple[int, int], psf: float) -> None:
    image = np.random.default_rng(0).exponential(100, shape)
    found = blur(image, Detector(psf=psf, halo_fraction=0))
    assert found.dtype == np.float32
    reach = int(np.ceil(4.5 * psf))
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / psf) ** 2)
    kernel /= kernel.sum()
    wide = np.pad(image, reach, mode="symmetric")
    direct = np.zeros(shape)
    for j, i in np.ndindex(2 * reach + 1, 2 * reach + 1):
        direct += kernel[j] * kernel[i] * wide[j : j + shape[0], i : i + shape[1]]
    np.testing.assert_allclose(found, direct, rtol=2e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("shape", "place", "halo"),
    [
        ((401, 397), (200, 198), 30),
        ((401, 397), (203, 201), 30),
        ((150, 320), (3, 190), 20),
        ((150, 320), (149, 0), 50),
        ((41, 1), (5, 0), 4),
        ((60, 60), (31, 30), 4.7),
    ],
)
def test_blur__halo_is_the_direct_convolution(shape: tuple[int, int], place: tuple[int, int], halo: float) -> None:
    point = np.zeros(shape)
    point[place] = 1
    direct = ndimage.gaussian_filter(point, halo, mode="reflect", truncate=7)
    found = blur(point, Detector(psf=0, halo=halo, halo_fraction=1))
    assert np.abs(found - direct).max() < 0.003 * direct.max()
    both = blur(point, Detector(psf=1.2, halo=halo, halo_fraction=0.02))
    sharp = ndimage.gaussian_filter(point, 1.2, mode="reflect", truncate=5)
    np.testing.assert_allclose(both, 0.98 * sharp + 0.02 * direct, atol=2e-5 * sharp.max())


def test_blur__keeps_every_frame_in_sum_and_a_flat_one_flat() -> None:
    rng = np.random.default_rng(2)
    for shape in ((255, 301), (64, 2000), (5, 3), (1, 1)):
        image = rng.exponential(100, shape)
        image[0, 0] = 1e6
        assert blur(image, CAMERA).sum(dtype=float) == pytest.approx(image.sum(), rel=1e-6)
        np.testing.assert_allclose(blur(np.full(shape, 3.0), CAMERA), 3.0, rtol=1e-6)
        assert blur(image, CAMERA).min() > 0
        np.testing.assert_allclose(blur(image[::-1, ::-1], CAMERA), blur(image, CAMERA)[::-1, ::-1], rtol=1e-5)


@pytest.mark.parametrize(
    ("camera", "sigma"), [(Detector(halo_fraction=0), 1.2), (Detector(psf=0, halo_fraction=1), 30)]
)
def test_blur__has_the_width_that_is_said(camera: Detector, sigma: float) -> None:
    for offset in range(3):
        point = np.zeros((401, 401))
        point[200 + offset, 200 - offset] = 1
        seen = blur(point, camera).astype(float)
        place = np.arange(401) - 200
        for axis, centre in ((1, offset), (0, -offset)):
            line = seen.sum(axis)
            assert (line * place).sum() == pytest.approx(centre, abs=1e-3 * sigma)
            assert np.sqrt((line * (place - centre) ** 2).sum()) == pytest.approx(sigma, rel=2e-3)


def test_blur__refuses_what_is_not_a_frame() -> None:
    for shape in ((3,), (2, 3, 4), (0, 4)):
        with pytest.raises(InputError, match=r"blur: was given an array of shape"):
            blur(np.zeros(shape), CAMERA)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"gain": 0}, "gain: is 0; give a positive"),
        ({"gain": -1}, "gain: is -1; give a finite"),
        ({"read_noise": float("nan")}, "read_noise: is nan"),
        ({"offset": float("inf")}, "offset: is inf"),
        ({"warm_scale": 0}, "warm_scale: is 0"),
        ({"edge_decay": 0}, "edge_decay: is 0"),
        ({"warm_fraction": 1.1}, "warm_fraction: is 1.1; give a fraction"),
        ({"halo_fraction": 2}, "halo_fraction"),
        ({"edge_rows": 1.5}, "edge_rows: is 1.5; give a whole number"),
        ({"saturation": 65536}, "from 1 to 65535"),
        ({"saturation": 0}, "from 1 to 65535"),
        ({"psf": 0.3}, "psf: is 0.3 pixels"),
        ({"halo": 1}, "halo: is 1 pixels"),
    ],
)
def test_detector__refuses_what_no_camera_has(options: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        Detector(**options)


def test_detector__halo_of_no_width_is_fine_where_there_is_none() -> None:
    image = np.random.default_rng(0).random((5, 5)).astype(np.float32)
    np.testing.assert_array_equal(blur(image, Detector(psf=0, halo=0, halo_fraction=0)), image)


@pytest.mark.parametrize(("dy", "dx"), [(0.3, -0.4), (-2.7, 1.5), (0, 0.5), (11.2, 0), (-40, 40)])
def test_shift__is_linear_interpolation_with_repeated_borders(dy: float, dx: float) -> None:
    image = np.random.default_rng(0).exponential(100, (12, 17))
    direct = ndimage.shift(image, (dy, dx), order=1, mode="nearest")
    np.testing.assert_allclose(shift(image, dy, dx), direct, rtol=2e-5)


def test_shift__whole_pixels_are_exact() -> None:
    image = np.random.default_rng(0).exponential(100, (12, 17)).astype(np.float32)
    np.testing.assert_array_equal(shift(image, 0, 0), image)
    moved = shift(image, 2, -3)
    np.testing.assert_array_equal(moved[2:, :-3], image[:-2, 3:])
    np.testing.assert_array_equal(moved[:2, :-3], np.tile(image[0, 3:], (2, 1)))
    np.testing.assert_array_equal(moved[2:, -3:], np.repeat(image[:-2, -1:], 3, 1))
    with pytest.raises(InputError, match=r"shift by \(nan, 0\): is not finite"):
        shift(image, np.nan, 0)
    with pytest.raises(InputError, match=r"shift: was given an array of shape \(3,\)"):
        shift(np.zeros(3), 0, 0)


def test_flux_series__drifts_and_is_topped_up() -> None:
    walks = np.array([flux_series(100, np.random.default_rng(k), drift=0.03, top_up=0) for k in range(2000)])
    np.testing.assert_allclose(walks.mean(1), 1, rtol=1e-12)
    assert (walks > 0).all()
    # A random walk: the variance between two frames grows with the frames between them.
    for frames in (1, 25, 99):
        moved = np.log(walks[:, frames] / walks[:, 0])
        assert moved.std() == pytest.approx(0.03 * np.sqrt(frames / 100), rel=0.08)
    saw = flux_series(200, np.random.default_rng(3), drift=0, top_up=0.01, top_up_every=50)
    steps = np.diff(saw)
    rises = np.flatnonzero(steps > 0)
    assert len(rises) == 4
    assert (np.diff(rises) == 50).all()
    np.testing.assert_allclose(np.delete(steps, rises), -0.01 / 50 * saw.max(), rtol=1e-9)
    assert saw.min() / saw.max() == pytest.approx(1 - 0.01 * 49 / 50)
    np.testing.assert_array_equal(flux_series(9, np.random.default_rng(1)), flux_series(9, np.random.default_rng(1)))


def test_monitor__has_photon_noise() -> None:
    flux = np.repeat([0.0, 50.0, 1e4, 1e6], 40_000)
    counts = monitor(flux, np.random.default_rng(0)).reshape(4, -1)
    assert counts.dtype == np.float64
    assert (counts[0] == 0).all()
    for level, seen in zip((50.0, 1e4, 1e6), counts[1:], strict=True):
        assert seen.mean() == pytest.approx(level, abs=5 * np.sqrt(level / 40_000))
        assert seen.var() == pytest.approx(level, rel=5 * np.sqrt(2 / 40_000))


def test_stripes__are_rows_of_mean_one_and_smooth() -> None:
    profile = stripes(3000, np.random.default_rng(0), 0.08, length=6)
    assert profile.mean() == pytest.approx(1)
    logs = np.log(profile) - np.log(profile).mean()
    assert logs.std() == pytest.approx(0.08)
    # White noise behind a Gaussian of sigma s: correlation exp(-d^2 / (4 s^2)).
    correlation = (logs[6:] * logs[:-6]).mean() / logs.var()
    assert correlation == pytest.approx(np.exp(-0.25), abs=0.05)
    assert stripes(1, np.random.default_rng(0), 0.1).tolist() == [1.0]
    assert (stripes(5, np.random.default_rng(0), 0.0) == 1).all()


def test_drift_path__is_a_random_walk_from_zero() -> None:
    paths = np.array([drift_path(50, np.random.default_rng(k), 0.4) for k in range(1500)])
    assert (paths[:, 0] == 0).all()
    steps = np.diff(paths, axis=1)
    assert np.sqrt((steps**2).sum(-1).mean()) == pytest.approx(0.4, rel=0.01)
    assert (steps[..., 0] * steps[..., 1]).mean() == pytest.approx(0, abs=0.002)
    assert paths[:, 49].std() == pytest.approx(0.4 * np.sqrt(49 / 2), rel=0.06)


def test_beam__refuses_bad_input() -> None:
    rng = np.random.default_rng(0)
    with pytest.raises(InputError, match="frames of flux_series: is 0"):
        flux_series(0, rng)
    with pytest.raises(InputError, match="top_up_every: is 0"):
        flux_series(5, rng, top_up_every=0)
    with pytest.raises(InputError, match=r"drift: is -0\.1"):
        flux_series(5, rng, drift=-0.1)
    with pytest.raises(InputError, match="top_up: is 1"):
        flux_series(5, rng, top_up=1)
    for flux in (-1.0, np.nan, np.inf):
        with pytest.raises(InputError, match="flux of the monitor: is negative or not finite"):
            monitor(np.array([1.0, flux]), rng)
    with pytest.raises(InputError, match="rows of stripes: is 0"):
        stripes(0, rng, 0.1)
    with pytest.raises(InputError, match="amplitude of stripes: is nan"):
        stripes(5, rng, np.nan)
    with pytest.raises(InputError, match="length of stripes: is -1"):
        stripes(5, rng, 0.1, length=-1)
    with pytest.raises(InputError, match="frames of drift_path: is 0"):
        drift_path(0, rng, 0.1)
    with pytest.raises(InputError, match="per_frame: is inf"):
        drift_path(3, rng, np.inf)
