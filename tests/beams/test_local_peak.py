"""Local peak against the truth of simulated layers and closed forms."""

from __future__ import annotations

import numpy as np
import pytest

from dfxm_dask.beams.local_peak import local_peak
from dfxm_dask.errors import InputError
from tests.beams.phantoms import layer


@pytest.mark.parametrize("name", ["easy", "hard", "multigrain"])
def test_local_peak__is_the_true_one(name):
    made = layer(name)
    maps = local_peak.kernel(made.counts, made.scan, made.y, made.x, background_map=made.level)
    step = 0.002
    error = np.abs(maps["peak_local"] - made.truth["phi0"])
    far = np.isfinite(error) & (made.truth["distance"] > 1)
    assert far.sum() > 10000
    assert np.median(error[far]) < 0.2 * step
    assert np.quantile(error[far], 0.95) < 0.65 * step  # a median keeps sharp the walls that the strong beam smears
    true = np.isfinite(made.truth["phi0"])
    assert (maps["lit"] & true).sum() / (maps["lit"] | true).sum() > 0.9


def sample(shape=(96, 48)):
    y, x = 0.125 * np.arange(shape[0]), 0.25 * np.arange(shape[1])
    return y, x, 0.002 * np.arange(31)


def test_local_peak__keeps_the_step_between_subgrains_and_drops_cores():
    y, x, phi = sample()
    true = np.where(x[None, :] > 6, 0.034, 0.026) + 0 * y[:, None]
    centre = true.copy()
    cores = (y[:, None] % 3 < 0.3) & (np.abs(x - 9) < 0.3)
    centre[cores] += 0.01
    counts = (100 + 4000 * np.exp(-0.5 * ((phi - centre[..., None]) / 0.004) ** 2)).astype(np.uint16)
    found = local_peak.kernel(counts, {"phi": phi}, y, x, background=100.0)["peak_local"]
    assert np.abs(found - true)[:, np.abs(x - 6) > 0.6].max() < 0.0002
    assert np.ptp(found[50]) == pytest.approx(0.008, abs=3e-4)
    jump = np.flatnonzero(np.abs(found[50] - 0.03) < 0.0035)
    assert jump.size <= 4  # 1 um at most


def test_local_peak__of_two_axes_is_that_of_the_projection():
    y, x, phi = sample((24, 24))
    chi = np.arange(3.0)
    curve = 1000 * np.exp(-0.5 * ((phi - 0.03) / 0.004) ** 2)
    counts = np.broadcast_to((100 + curve * np.array([[0.2], [1], [0.4]])).astype(np.uint16), (24, 24, 3, 31))
    both = local_peak.kernel(counts, {"chi": chi, "phi": phi}, y, x, background=100.0)
    one = local_peak.kernel(counts[:, :, 1], {"phi": phi}, y, x, background=100.0)
    np.testing.assert_allclose(both["peak_local"], one["peak_local"], atol=1e-5)
    np.testing.assert_allclose(both["width_local"], one["width_local"], rtol=0.01)


def test_local_peak__brightness_does_not_matter():
    made = layer("easy")
    bright = (made.counts.astype(np.float32) - made.level[..., None]) * 7.5
    here = local_peak.kernel(made.counts, made.scan, made.y, made.x, background_map=made.level)
    there = local_peak.kernel(bright, made.scan, made.y, made.x, background="none")
    np.testing.assert_array_equal(here["lit"], there["lit"])
    np.testing.assert_allclose(here["peak_local"], there["peak_local"], atol=1e-6)


def test_local_peak__dark_saturated_and_masked():
    y, x, phi = sample((24, 24))
    dark = np.random.default_rng(0).normal(100, 5, (24, 24, 31)).astype(np.float32)
    maps = local_peak.kernel(dark, {"phi": phi}, y, x, noise=np.float32(5), background=100.0)
    assert not maps["lit"].any()
    assert np.isnan(maps["peak_local"]).all()
    full = np.full((24, 24, 31), 65535, np.uint16)
    maps = local_peak.kernel(full, {"phi": phi}, y, x, background=100.0)
    assert np.isfinite(maps["peak_local"]).all()  # a flat curve: half the scan wide
    np.testing.assert_allclose(maps["width_local"], np.ptp(phi) / 2, rtol=1e-5)
    curve = (1000 * np.exp(-0.5 * ((phi - 0.03) / 0.004) ** 2)).astype(np.float32)
    counts = np.tile(curve, (24, 24, 1))
    counts[5:9, 5:9] = np.nan
    maps = local_peak.kernel(counts, {"phi": phi}, y, x, background="none")
    np.testing.assert_allclose(maps["peak_local"][maps["lit"]], 0.03, atol=1e-4)
    empty = local_peak.kernel(counts[:0], {"phi": phi}, y[:0], x, background="none")
    assert empty["lit"].shape == (0, 24)


def test_local_peak__refuses_a_single_frame_and_unequal_pixels():
    y, x, phi = sample((24, 24))
    counts = np.zeros((24, 24, 31), np.uint16)
    with pytest.raises(InputError, match="needs at least 3 positions of one axis"):
        local_peak.kernel(counts[..., :1], {"phi": phi[:1]}, y, x, background=0.0)
    with pytest.raises(InputError, match="coordinate 'y': has steps"):
        local_peak.kernel(counts, {"phi": phi}, y**2, x, background=0.0)
    with pytest.raises(InputError, match="local_peak without a background"):
        local_peak.kernel(counts, {"phi": phi}, y, x)
