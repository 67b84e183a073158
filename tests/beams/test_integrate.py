"""Soft integration against a naive loop, closed forms, and the truth of simulated layers."""

from __future__ import annotations

import numpy as np
import pytest

from dfxm_dask.beams.beam_sums import windows
from dfxm_dask.beams.classify import classify_beams
from dfxm_dask.beams.integrate import contrast_curve, published_sum
from dfxm_dask.beams.local_peak import local_peak
from dfxm_dask.beams.patches import seam_metric, spread
from dfxm_dask.beams.prior import patch_probability
from dfxm_dask.errors import InputError
from tests.beams.phantoms import auc, integrated, layer

NAMES = ("weak", "strong", "weak_minus", "weak_plus", "weak_sigma")


def logistic(value):
    return 1 / (1 + np.exp(-value))


def naive(counts, phi, lit, peak, width, level, read, gain, chance=None, fused=False):
    """The formulas pixel by pixel, in float64 and without tables."""
    out = {name: np.full(lit.shape, np.nan) for name in NAMES}
    for y, x in np.argwhere(lit & (width > 0)):
        u = (phi - peak[y, x]) / width[y, x]
        away = np.abs(u)
        above = counts[y, x] - level[y, x]
        known = np.isfinite(above)
        u, away, above = u[known], away[known], above[known]
        prior, inner, cut = logistic((away - 2) / 0.3), logistic((1 - away) / 0.3), logistic((6 - away) / 0.3)
        if chance is None:
            weak, strong = prior * cut, inner
        else:
            p = chance[y, x][known]
            weak, strong = p, 1 - p
            if fused:
                weak = logistic(np.log(prior / (1 - prior)) + np.log(p / (1 - p))) * cut
                strong = logistic(np.log(inner / (1 - inner)) - np.log(p / (1 - p)))
        for name, weight in (
            ("weak", weak),
            ("strong", strong),
            ("weak_minus", weak * (u <= 0)),
            ("weak_plus", weak * (u > 0)),
        ):
            if weight.sum() >= 0.5:
                out[name][y, x] = (weight * above).sum() / weight.sum()
        if weak.sum() >= 0.5:
            variance = (weak**2).sum() * read**2 + gain * max((weak**2 * above).sum(), 0)
            out["weak_sigma"][y, x] = np.sqrt(variance) / weak.sum()
    return out


def random_layer(dtype, shape=(7, 300)):
    rng = np.random.default_rng(0)
    phi = 3.2 + 0.002 * np.arange(31)
    peak = rng.uniform(phi[12], phi[18], shape).astype(np.float32)
    width = rng.uniform(0.003, 0.006, shape).astype(np.float32)
    lit = rng.random(shape) < 0.8
    peak[2, 3], width[2, 4] = np.nan, 0
    level = rng.uniform(95, 105, shape).astype(np.float32)
    counts = rng.poisson(level[..., None] + 60, (*shape, 31)).astype(dtype)
    return counts, phi, lit & np.isfinite(peak), peak, width, level


@pytest.mark.parametrize("dtype", [np.uint16, np.float32])
@pytest.mark.parametrize("method", ["pixel", "patch", "fused"])
def test_integrate_beams__is_the_naive_loop(method, dtype):
    counts, phi, lit, peak, width, level = random_layer(dtype)
    if dtype is np.float32:
        counts[3, 100:130, ::4] = np.nan
    p_weak = np.random.default_rng(1).uniform(0.02, 0.98, (1, 5, 31)).astype(np.float32)
    chance = None
    if method != "pixel":
        chance = np.stack([spread(p_weak[..., f], lit.shape) for f in range(31)], -1).astype(float)
    options = {"background_map": level, "p_weak": p_weak, "curve_weight": "equal", "method": method, "gain": 0.0}
    found = integrated(counts, {"phi": phi}, lit, peak, width, **options)
    wanted = naive(
        counts.astype(float),
        phi,
        lit,
        peak.astype(float),
        width.astype(float),
        level,
        0.0,
        0.0,
        chance,
        method == "fused",
    )
    for name in NAMES[:4]:
        assert found[name].dtype == np.float32
        np.testing.assert_array_equal(np.isnan(found[name]), np.isnan(wanted[name]), err_msg=name)
        np.testing.assert_allclose(found[name], wanted[name], atol=0.15, err_msg=name)  # tables of 1/512 of u


def test_integrate_beams__variance_is_the_scatter_of_repeated_scans():
    rng = np.random.default_rng(3)
    phi = 0.002 * np.arange(31)
    shape = (60, 100)
    peak, width = np.full(shape, 0.03, np.float32), np.full(shape, 0.004, np.float32)
    light = 2.14 * rng.poisson(100 / 2.14, (*shape, 31))
    counts = np.rint(100 + light + rng.normal(0, 7, (*shape, 31))).astype(np.float32)
    lit = np.ones(shape, bool)
    for weight in ("equal", "noise"):
        found = integrated(counts, {"phi": phi}, lit, peak, width, background=100.0, frame_weight=weight)
        assert found["weak"].std() == pytest.approx(found["weak_sigma"].mean(), rel=0.05)
        assert found["weak"].mean() == pytest.approx(100, rel=0.01)
    counts[:, :10] += 2.14 * rng.poisson(400, (60, 10, 31)).astype(np.float32)  # brighter, and noisier by its photons
    found = integrated(counts, {"phi": phi}, lit, peak, width, background=100.0)
    assert found["weak"][:, :10].std() == pytest.approx(found["weak_sigma"][:, :10].mean(), rel=0.1)


def test_integrate_beams__noisy_frames_weigh_less():
    rng = np.random.default_rng(4)
    shape, phi = (50, 80), 0.002 * np.arange(31)
    peak, width = np.full(shape, 0.03, np.float32), np.full(shape, 0.004, np.float32)
    sigma = np.where(np.arange(31) % 2, 50, 3)
    counts = 200 + rng.normal(0, 1, (*shape, 31)) * sigma
    arguments = counts.astype(np.float32), {"phi": phi}, np.ones(shape, bool), peak, width
    options = {"background": 100.0, "curve_weight": "equal", "gain": 0.0}
    alike = integrated(*arguments, **options)["weak"].std()
    less = integrated(*arguments, frame_weight="noise", **options)
    assert less["weak"].std() < 0.2 * alike
    assert less["weak_sigma"].mean() == pytest.approx(less["weak"].std(), rel=0.3)


def test_windows__complement_and_ends():
    u = np.linspace(-8, 8, 33)
    weak, cut, strong = windows(u)
    np.testing.assert_allclose(weak, logistic((np.abs(u) - 2) / 0.3), rtol=1e-9)
    np.testing.assert_allclose(cut, logistic((6 - np.abs(u)) / 0.3), atol=1e-12)
    np.testing.assert_allclose(strong, logistic((1 - np.abs(u)) / 0.3), atol=1e-12)


def test_contrast_curve__weighs_by_signal_over_variance():
    rng = np.random.default_rng(0)
    u = rng.uniform(-7, 7, 200000)
    sigma = np.where(np.abs(u) < 3, 10, 2)
    above = rng.normal(0, sigma)
    above[rng.random(u.size) < 0.06] += 100
    middle, weight = contrast_curve(u, above)
    near, far = (np.abs(middle) > 1) & (np.abs(middle) < 2.9), (np.abs(middle) > 3.1) & (np.abs(middle) < 5.9)
    assert weight[far].mean() / weight[near].mean() == pytest.approx(25, rel=0.15)
    assert weight[(np.abs(middle) > 1) & (np.abs(middle) < 6)].max() == 1
    assert (contrast_curve(u[:10], above[:10])[1] == 1).all()
    assert (contrast_curve(u, np.full(u.size, np.nan))[1] == 1).all()
    assert np.isfinite(contrast_curve(u, np.zeros(u.size))[1]).all()


def images(made, **options):
    maps = local_peak.kernel(made.counts, made.scan, made.y, made.x, background_map=made.level)
    beams = maps["lit"], maps["peak_local"], maps["width_local"]
    return maps, integrated(made.counts, made.scan, *beams, background_map=made.level, **options)


@pytest.mark.parametrize(
    "name", [pytest.param(k, marks=pytest.mark.slow) for k in ("hard", "easy", "multigrain", "al002")]
)
def test_integrate_beams__tells_dislocations_better_than_frames_and_the_published_recipe(name):
    made = layer(name)
    maps, found = images(made)
    near = maps["lit"] & (made.truth["distance"] < 0.5)
    away = maps["lit"] & (made.truth["distance"] > 2.5)
    ours = auc(found["weak"], near, away)
    single = max(auc(made.single[..., k], near, away) for k in range(31))
    p_weak = np.moveaxis(patch_probability(maps["peak_local"], maps["width_local"], made.scan["phi"]), 0, -1)
    beams = maps["lit"], maps["peak_local"], maps["width_local"]
    published = integrated(
        made.single.astype(np.uint16),
        made.scan,
        *beams,
        background_map=made.level,
        p_weak=np.nan_to_num(p_weak, nan=1.0),
        legacy=True,
    )["weak"]
    assert ours > single
    assert ours > auc(published, near, away)
    assert ours > {"easy": 0.93, "hard": 0.65, "multigrain": 0.85, "al002": 0.9}[name]
    fused = integrated(made.counts, made.scan, *beams, background_map=made.level, p_weak=p_weak, method="fused")
    assert auc(fused["weak"], near, away) > ours - 0.03


def test_integrate_beams__patches_leave_no_seam():
    rng = np.random.default_rng(0)
    shape, phi = (256, 256), 0.002 * np.arange(31)
    counts = (100 + rng.poisson(40, (*shape, 31))).astype(np.uint16)
    counts += (1000 * np.exp(-0.5 * ((phi - 0.03) / 0.006) ** 2)).astype(np.uint16)
    p_weak = rng.uniform(0, 1, (4, 4, 31)).astype(np.float32)
    flat = np.ones(shape, np.float32)
    found = integrated(
        counts, {"phi": phi}, flat > 0, 0.03 * flat, 0.006 * flat, background=100.0, p_weak=p_weak, method="patch"
    )
    assert seam_metric(found["weak"]) == pytest.approx(1, abs=0.1)
    hard = published_sum(np.moveaxis(np.log(counts.astype(np.float32)), -1, 0), np.moveaxis(p_weak, -1, 0) > 0.5)
    assert seam_metric(hard) > 1.5


def test_published_sum__is_the_recipe_step_by_step():
    rng = np.random.default_rng(0)
    frames = rng.normal(3, 1, (5, 9, 10)).astype(np.float32)
    weak = rng.random((5, 3, 3)) < 0.6
    found = published_sum(frames, weak, 4)
    assert np.isnan(found[8:]).all()
    assert np.isnan(found[:, 8:]).all()
    mean = frames[:, :8, :8].astype(float).mean()
    total = np.zeros((8, 8))
    for k in range(5):
        image = np.empty((8, 8))
        for y, x in np.ndindex(8, 8):
            image[y, x] = frames[k, y, x] if weak[k, y // 4, x // 4] else mean
        image = np.clip(image - image.mean() - image.std(), 0, None)
        total += np.clip(image / np.percentile(image, 98), None, 1)
    np.testing.assert_allclose(found[:8, :8], np.clip(total / np.percentile(total, 99), None, 1), rtol=1e-5)
    assert np.isnan(published_sum(frames, weak, 64)).all()
    assert (published_sum(np.zeros((2, 4, 4)), np.ones((2, 1, 1), bool), 4) == 0).all()


def test_integrate_beams__blind_places_are_nan_and_dead_pixels_too():
    counts, phi, lit, peak, width, level = random_layer(np.uint16)
    level[4, 7] = np.nan
    found = integrated(counts, {"phi": phi}, lit, peak, width, background_map=level)
    for name in NAMES:
        assert np.isnan(found[name][~lit]).all()
        assert np.isnan(found[name][4, 7])
        assert not np.isinf(found[name]).any()
    wide = integrated(counts, {"phi": phi}, lit, peak, 50 * width, background_map=level)
    assert np.isnan(wide["weak"]).all()  # the scan ends before the tails begin
    assert np.isfinite(wide["strong"][lit & (width > 0) & np.isfinite(level)]).all()


@pytest.mark.parametrize("shape", [(5, 1), (1, 5), (0, 4), (4, 0)])
def test_integrate_beams__narrow_and_empty_layers(shape):
    counts, phi, *maps = random_layer(np.uint16)
    lit, peak, width, level = (m[: shape[0], 10 : 10 + shape[1]] for m in maps)
    part = counts[: shape[0], 10 : 10 + shape[1]]
    found = integrated(part, {"phi": phi}, lit, peak, width, background_map=level, gain=0.0)
    wanted = integrated(counts, {"phi": phi}, *maps[:3], background_map=maps[3], gain=0.0, curve_weight="equal")[
        "strong"
    ][: shape[0], 10 : 10 + shape[1]]
    np.testing.assert_array_equal(found["strong"], wanted)


def test_integrate_beams__outer_axis_is_averaged():
    counts, phi, lit, peak, width, level = random_layer(np.uint16)
    both = np.stack([counts, counts + 10], axis=2)
    options = {"background_map": level, "curve_weight": "equal"}
    one = integrated(counts, {"phi": phi}, lit, peak, width, **options)
    two = integrated(both, {"chi": np.arange(2.0), "phi": phi}, lit, peak, width, **options)
    np.testing.assert_allclose(two["weak"], one["weak"] + 5, atol=1e-2)


def test_integrate_beams__does_not_depend_on_the_other_pixels_with_equal_weights():
    counts, phi, lit, peak, width, level = random_layer(np.uint16)
    options = {"curve_weight": "equal"}
    whole = integrated(counts, {"phi": phi}, lit, peak, width, background_map=level, **options)
    part = slice(2, 6), slice(17, 290)
    cut = integrated(
        counts[part], {"phi": phi}, lit[part], peak[part], width[part], background_map=level[part], **options
    )
    for name in NAMES[:4]:
        np.testing.assert_array_equal(whole[name][part], cut[name], err_msg=name)


def test_integrate_beams__refusals():
    counts, phi, lit, peak, width, level = random_layer(np.uint16)
    arguments = counts, {"phi": phi}, lit, peak, width, level
    for options, asked in (({"method": "patch"}, "method 'patch'"), ({"legacy": True}, "legacy")):
        with pytest.raises(InputError, match=f"integrate_beams: {asked}: has no p_weak; run the step"):
            integrated(*arguments, **options)
    with pytest.raises(InputError, match=r"p_weak of 2 × 2 patches: a frame of 7 × 300 pixels has 1 × 5"):
        integrated(*arguments, p_weak=np.zeros((2, 2, 31), np.float32))
    with pytest.raises(InputError, match="integrate_beams without a background"):
        integrated(*arguments[:-1])
    with pytest.raises(InputError, match="needs at least 3 positions"):
        integrated(counts[..., :1], {"phi": phi[:1]}, *arguments[2:])


def test_integrate_beams__gives_no_weak_beam_where_there_is_none():
    made = layer("deformed")
    maps = local_peak.kernel(made.counts, made.scan, made.y, made.x, background_map=made.level)
    given = made.counts, made.scan, maps["lit"], maps["peak_local"], maps["width_local"]
    found = integrated(*given, background_map=made.level, has_weak_beam=maps["has_weak_beam"])
    for name in ("weak", "weak_minus", "weak_plus", "weak_sigma"):
        assert np.isnan(found[name]).all()
    assert np.isfinite(found["strong"]).any()
    told = integrated(*given, background_map=made.level, has_weak_beam=np.bool_(False), insist=True)
    assert np.isfinite(told["weak"]).any()
    np.testing.assert_array_equal(told["strong"], found["strong"])


def test_integrate_beams__peaks_that_turn_within_a_strip_sum_the_same_as_alone():
    """Frames that lie on one side of the peak of a whole strip take another way than those that do not."""
    counts, phi, lit, peak, width, level = random_layer(np.uint16, (3, 600))
    peak = np.broadcast_to(np.linspace(phi[10], phi[20], 600, dtype=np.float32), lit.shape)
    options = {"background_map": level, "curve_weight": "equal", "gain": 0.0}
    whole = integrated(counts, {"phi": phi}, lit, peak, width, **options)
    for x in (0, 111, 255, 256, 431, 599):
        part = slice(None), slice(x, x + 1)
        alone = integrated(
            counts[part], {"phi": phi}, lit[part], peak[part], width[part], **{**options, "background_map": level[part]}
        )
        for name in NAMES[:4]:
            np.testing.assert_array_equal(whole[name][part], alone[name], err_msg=name)


def test_kernels__refuse_counts_whose_axes_are_in_another_order():
    made = layer("easy")
    stored = np.moveaxis(made.counts, -1, 0)
    with pytest.raises(
        InputError, match=r"local_peak: counts of shape .*give one layer as an array \(y, x, scan axes\)"
    ):
        local_peak.kernel(stored, made.scan, made.y, made.x, background=100.0)
    flat = np.ones(made.level.shape, np.float32)
    given = stored, made.scan, flat > 0, flat, flat
    with pytest.raises(InputError, match="integrate_beams: counts of shape"):
        integrated(*given, background=100.0)
    with pytest.raises(InputError, match="classify_beams: counts of shape"):
        classify_beams.kernel(*given)
