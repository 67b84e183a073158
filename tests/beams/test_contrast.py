"""Contrast and threshold against scikit-image, closed forms, and the truth of simulated layers."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage
from skimage.filters import threshold_otsu
from skimage.morphology import label

from dfxm_dask.beams.contrast import enhance_beams, published_contrast
from dfxm_dask.beams.local_peak import local_peak
from dfxm_dask.beams.mask import false_alarm_threshold, otsu_threshold, quantiles, threshold_beams
from dfxm_dask.beams.narrowing import without_small
from dfxm_dask.errors import InputError
from tests.beams.phantoms import auc, integrated, layer

PLACE = 0.125 * np.arange(128.0)


def noise_layer(shape=(128, 128), sigma=5.0, seed=0):
    weak = np.random.default_rng(seed).normal(100, sigma, shape).astype(np.float32)
    return weak, np.full(shape, sigma, np.float32), np.ones(shape, bool)


def enhanced(weak, sigma, lit, y, x, **parameters):
    """Of one tail that the scan reaches; it does not reach the other."""
    other = np.full(weak.shape, np.nan, np.float32)
    return enhance_beams.kernel(weak, weak, other, sigma, lit, y, x, **parameters)["weak_enhanced"]


def test_enhance_beams__noise_has_unit_deviation_whatever_the_stated_sigma():
    weak, sigma, lit = noise_layer()
    for stated in (0.3, 1, 4):
        found = enhanced(weak, stated * sigma, lit, PLACE, PLACE)
        assert found.dtype == np.float32
        assert found.std() == pytest.approx(1, abs=0.05)
        assert abs(found.mean()) < 0.05


def test_enhance_beams__takes_off_what_is_smooth_and_keeps_what_is_narrow():
    weak, sigma, lit = noise_layer()
    ramp = 0.3 * np.add.outer(np.arange(128), np.arange(128)).astype(np.float32)
    line = np.zeros((128, 128), np.float32)
    line[60:64] = 60
    plain, tilted = (
        enhanced(w, sigma, lit, PLACE, PLACE, window=4.0, noise_window=4.0, blur=0.0)
        for w in (weak, weak + ramp + line)
    )
    inside = slice(32, 96), slice(32, 96)
    away = (line == 0)[inside]
    np.testing.assert_allclose(tilted[inside][away], plain[inside][away], atol=1.2)
    assert np.median(tilted[60:64, 32:96]) > 8


def test_enhance_beams__unlit_is_nan_and_does_not_count():
    weak, sigma, lit = noise_layer()
    lit[:, 64:] = False
    there = weak.copy()
    there[:, 64:] = 1e6
    weak[:, 64:] = np.nan
    a, b = (enhanced(w, sigma, lit, PLACE, PLACE) for w in (weak, there))
    np.testing.assert_array_equal(a, b)
    assert np.isnan(a[:, 64:]).all()
    assert np.isfinite(a[:, :64]).all()


def test_enhance_beams__matches_by_a_gaussian_among_lit_pixels():
    """Pixels of noise, in which the windows see nothing but noise: a blurred map over its own deviation."""
    weak, sigma, lit = noise_layer(seed=4)
    lit[40:60, 30:90] = False
    y, x = PLACE, 0.5 * PLACE
    plain = enhanced(weak, sigma, lit, y, x, blur=0.0)
    found = enhanced(weak, sigma, lit, y, x, blur=0.25)
    width = 0.25 / 0.125, 0.25 / 0.0625
    image, share = (
        ndimage.gaussian_filter(m.astype(float), width, truncate=3, mode="constant")
        for m in (np.where(lit, plain, 0), lit)
    )
    wanted = np.where(lit, image / np.maximum(share, 1e-9), np.nan)
    away = lit & (np.abs(wanted) > 0.05)
    ratio = found[away] / wanted[away]
    assert np.ptp(ratio) / ratio.mean() < 0.5  # the local scale varies by its own noise
    assert np.corrcoef(found[lit], wanted[lit])[0, 1] > 0.99
    assert found[lit].std() == pytest.approx(1, abs=0.1)


def test_enhance_beams__each_tail_counts_in_its_own_noise():
    """A line in a quiet tail is not drowned by a noisy one, and a line in both counts more than in one."""
    rng = np.random.default_rng(2)
    line = np.zeros((128, 128), np.float32)
    line[64:67] = 10
    quiet, noisy = (rng.normal(100, s, line.shape).astype(np.float32) for s in (5, 60))
    sigma, lit = np.full(line.shape, 30, np.float32), line >= 0
    given = sigma, lit, PLACE, PLACE
    one, both = (
        enhance_beams.kernel(quiet, quiet + line, other, *given)["weak_enhanced"]
        for other in (noisy, noisy + 12 * line)
    )
    drowned = enhanced((quiet + line + noisy) / 2, *given)
    assert np.median(one[64:67]) > 2 * np.median(drowned[64:67])
    assert np.median(both[64:67]) > 1.5 * np.median(one[64:67])


def test_enhance_beams__place_that_one_tail_reaches_is_as_noisy_as_others():
    minus, sigma, lit = noise_layer(seed=5)
    plus, _, _ = noise_layer(seed=6)
    plus[:, 64:] = np.nan
    found = enhance_beams.kernel(minus, minus, plus, sigma, lit, PLACE, PLACE, blur=0.0)["weak_enhanced"]
    assert found[:, :56].std() == pytest.approx(found[:, 72:].std(), rel=0.1)


def test_enhance_beams__constant_and_empty():
    flat, sigma, lit = np.full((16, 16), 7, np.float32), np.zeros((16, 16), np.float32), np.ones((16, 16), bool)
    place = PLACE[:16]
    assert (enhanced(flat, sigma, lit, place, place) == 0).all()
    assert (enhanced(flat, sigma + 1, lit, place, place) == 0).all()
    assert np.isnan(enhanced(flat, sigma, ~lit, place, place)).all()
    empty = np.zeros((0, 4), np.float32)
    assert enhanced(empty, empty, empty > 0, place[:0], place[:4]).shape == (0, 4)


def test_published_contrast__formula():
    image = np.random.default_rng(0).normal(5, 2, (20, 30))
    image[3] = np.nan
    wanted = np.clip(image - np.nanmean(image) - np.nanstd(image), 0, None)
    np.testing.assert_allclose(published_contrast(image), wanted / np.nanmax(wanted), rtol=1e-6)
    assert (published_contrast(np.full((3, 3), 4.0)) == 0).all()
    assert np.isnan(published_contrast(np.full((3, 3), np.nan))).all()
    made = image.astype(np.float32)
    legacy = enhanced(made, made, np.ones(image.shape, bool), PLACE[:20], PLACE[:30], legacy=True)
    np.testing.assert_allclose(legacy, published_contrast(made))


@pytest.mark.parametrize("alpha", [1e-2, 1e-3])
@pytest.mark.parametrize("scale", [0.5, 3.0])
def test_threshold_beams__keeps_its_rate_of_false_alarms(alpha, scale):
    noise = scale * np.random.default_rng(0).normal(0, 1, (800, 1000)).astype(np.float32)
    noise[::50] += 40  # defects on the positive side do not move the threshold by much
    y, x = 0.1 * np.arange(800), 0.1 * np.arange(1000)
    kept = {"alpha": alpha, "least_area": 0.0, "half_within": 0.0}
    mask = threshold_beams.kernel(noise, np.ones(noise.shape, bool), y, x, **kept)["defects"]
    assert mask[::50].all()
    rows = np.arange(800) % 50 != 0
    assert mask[rows].mean() == pytest.approx(alpha, rel=0.3)


def test_false_alarm_threshold__heavy_tails_raise_it():
    rng = np.random.default_rng(0)
    normal, heavy = rng.normal(0, 1, 100000), rng.standard_t(3, 100000)
    assert false_alarm_threshold(normal, 1e-3) == pytest.approx(3.09, rel=0.02)
    assert false_alarm_threshold(heavy, 1e-3) > 4.5
    assert false_alarm_threshold(np.zeros(0), 1e-3) == np.inf
    without_noise = np.zeros(1000)
    without_noise[:8] = 3
    assert false_alarm_threshold(without_noise, 1e-3) == np.inf


def test_otsu_threshold__is_that_of_scikit_image():
    rng = np.random.default_rng(0)
    values = np.concatenate([rng.normal(0, 1, 5000), rng.normal(6, 1.5, 700)])
    assert otsu_threshold(values) == pytest.approx(threshold_otsu(values), abs=1e-9)
    assert otsu_threshold(np.ones(4)) == np.inf
    assert otsu_threshold(np.ones(0)) == np.inf


def test_without_small__against_labels():
    mask = np.random.default_rng(0).random((60, 70)) < 0.3
    labels = label(mask, connectivity=2)
    for least in (0, 1, 4, 30):
        wanted = mask.copy()
        for k in range(1, labels.max() + 1):
            if (labels == k).sum() < least:
                wanted[labels == k] = False
        np.testing.assert_array_equal(without_small(mask, least), wanted)


def test_threshold_beams__fixed_otsu_unlit_and_size_in_um():
    z = np.zeros((40, 40), np.float32)
    z[5, 5:9], z[20:24, 20:24], z[30, 30] = 8, 9, np.nan
    lit = np.ones(z.shape, bool)
    lit[20:22] = False
    y, x = 0.1 * np.arange(40), 0.2 * np.arange(40)
    fixed = threshold_beams.kernel(z, lit, y, x, method="fixed", value=0.6, least_area=0.16)["defects"]
    assert fixed.dtype == bool
    assert fixed.sum() == 8  # 8 pixels of 0.02 um2 are just 0.16; 4 are not
    assert fixed[22:24, 20:24].all()
    otsu = threshold_beams.kernel(z, lit, y, x, method="otsu", least_area=0.0)["defects"]
    assert otsu.sum() == 12
    nothing = threshold_beams.kernel(np.full_like(z, np.nan), lit, y, x)["defects"]
    assert not nothing.any()


def test_threshold_beams__refuses_a_value_out_of_place():
    z, place = np.zeros((4, 4), np.float32), PLACE[:4]
    with pytest.raises(InputError, match="method 'fixed': has no value; give value="):
        threshold_beams.kernel(z, z == 0, place, place, method="fixed")
    with pytest.raises(InputError, match=r"method 'noise': accepts no value \(found 3"):
        threshold_beams.kernel(z, z == 0, place, place, value=3.0)
    with pytest.raises(InputError, match="threshold_beams: coordinate 'y'"):
        threshold_beams.kernel(z, z == 0, place**2, place)
    with pytest.raises(InputError, match="enhance_beams: coordinate 'x'"):
        enhanced(z, z, z == 0, place, place**2)


def mask_of(name):
    made = layer(name)
    maps = local_peak.kernel(made.counts, made.scan, made.y, made.x, background_map=made.level)
    beams = maps["lit"], maps["peak_local"], maps["width_local"]
    images = integrated(made.counts, made.scan, *beams, background_map=made.level)
    parts = [images[name] for name in ("weak", "weak_minus", "weak_plus", "weak_sigma")]
    contrast = enhance_beams.kernel(*parts, maps["lit"], made.y, made.x)["weak_enhanced"]
    return made, maps["lit"], contrast, threshold_beams.kernel(contrast, maps["lit"], made.y, made.x)


def test_threshold_beams__finds_dislocations_and_little_else():
    made, lit, contrast, found = mask_of("easy")
    mask = found["defects"]
    assert found["has_defects"]
    near, away = lit & (made.truth["distance"] < 0.5), lit & (made.truth["distance"] > 2.5)
    assert auc(contrast, near, away) > 0.9
    assert (made.truth["distance"][mask] < 1).mean() > 0.85
    seen = ndimage.distance_transform_edt(~mask, sampling=[float(p[1] - p[0]) for p in (made.y, made.x)]) < 0.5
    assert seen[near].mean() > 0.8
    assert mask[away].mean() < 1e-3


def test_threshold_beams__finds_nothing_in_a_perfect_crystal():
    _, lit, _, found = mask_of("empty")
    assert found["defects"][lit].mean() < 1e-3
    assert not found["has_defects"]


@pytest.mark.parametrize(("peak", "has"), [(0.0, False), (6.0, False), (12.0, True), (40.0, True)])
def test_threshold_beams__verdict_follows_the_strongest_object(peak, has):
    """Gaussian noise with an object of some height in it: twice the threshold of 4.26 divides."""
    z = np.random.default_rng(1).normal(0, 1, (128, 128)).astype(np.float32)
    z[60:66, 40:46] += np.float32(peak)
    found = threshold_beams.kernel(z, np.ones(z.shape, bool), PLACE, PLACE)
    assert bool(found["has_defects"]) == has
    assert found["mask_strength"] == (0 if peak == 0 else pytest.approx(z.max() / 4.26, rel=0.05))
    assert not threshold_beams.kernel(z, np.ones(z.shape, bool), PLACE, PLACE, np.False_)["has_defects"]


@pytest.mark.parametrize("size", [1, 2, 3, 1000])
def test_quantiles__are_those_of_numpy(size):
    rng = np.random.default_rng(size)
    for values in (rng.normal(0, 3, size), rng.integers(-2, 3, size) * 1.0, np.full(size, -0.0)):
        values = values.astype(np.float32)
        parts = (0.0, 0.02275, 0.5, 0.97, 1.0)
        np.testing.assert_allclose(quantiles(values, parts), np.quantile(values.astype(float), parts), rtol=1e-12)
