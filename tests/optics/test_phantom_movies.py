"""Movies: moving dislocations against what the frames show."""

from __future__ import annotations

from dataclasses import replace
from itertools import islice

import numpy as np
import pytest
from scipy import ndimage

from dfxm_dask.phantoms.contents import frame, wander
from dfxm_dask.phantoms.presets import build
from dfxm_dask.phantoms.render import exposures, render
from dfxm_dask.phantoms.truth import tables
from tests.optics.test_phantom import rendered


def test_movie__spots_follow_the_true_positions():
    phantom = build("movie", shape=(128, 128), seed=2)[0]
    path = phantom.motion.position
    assert path.shape == (60, 5, 2)
    hits = total = 0
    for number, (counts, _) in enumerate(render(phantom, 0)):
        if number % 10:
            continue
        bright = counts.astype(float) - np.median(counts)
        for py, px in path[number]:
            i, j = round(py / phantom.pixel[0]), round(px / phantom.pixel[1])
            if 12 < i < 116 and 12 < j < 116:
                total += 1
                near = bright[i - 10 : i + 11, j - 6 : j + 7]
                hits += near.max() > 8 * 1.48 * np.median(np.abs(bright))
    assert total >= 20
    assert hits / total > 0.9


def test_movie_crowded__images_overlap_and_dislocations_pass_the_edges():
    for seed in range(5):
        phantom = build("movie_crowded", seed=seed)[0]
        path, known = phantom.motion.position, tables(phantom)["position"][1]
        pairs = [np.abs(path[:, i] - path[:, j]) for i in range(9) for j in range(i)]
        assert np.any([(p < (0.4, 1.0)).all(1) for p in pairs], axis=0).mean() >= 0.15
        outside = np.isnan(known).any(2)
        assert outside.any(0)[[7, 8]].all()
        assert outside[[0, -1], [7, 8]].all()  # one enters, one leaves
        assert not outside[[-1, 0], [7, 8]].any()
        np.testing.assert_array_equal(known[~outside], path[~outside])
        high = (np.array(phantom.shape) - 1) * phantom.pixel
        np.testing.assert_array_equal(outside, ((path < 0) | (path > high)).any(2))


def test_movie_crowded__rows_are_as_bright_as_stated():
    phantom = build("movie_crowded", shape=(96, 64), seed=2)[0]
    still = replace(phantom, lighting=replace(phantom.lighting, flicker=0.0, beam=0.0, beam_drift=0.0, stripes=0.0))
    assert "illumination" not in tables(build("movie", shape=(32, 32))[0])
    (dims, bright, _), flux = tables(phantom)["illumination"], exposures(still, 0)["flux"]
    assert dims == ("z", "time", "y")
    assert 0.06 < np.diff(np.log(bright[0]).mean(1)).std() / np.sqrt(2) < 0.16
    scenes = zip(render(phantom, 0), render(still, 0), strict=True)
    for number, ((made, _), (plain, _)) in islice(enumerate(scenes), 3):
        seen, even = (f.astype(float).mean(1) - 104.2 for f in (made, plain))
        stated = even * bright[0, number] / flux[number]
        assert seen @ stated / (stated @ stated) == pytest.approx(1, abs=0.04)
        assert np.corrcoef(seen, stated)[0, 1] > 0.9


def test_movie_empty__has_no_dislocation():
    phantom = build("movie_empty", shape=(32, 40))[0]
    assert tables(phantom)["position"][1].shape == (100, 0, 2)
    first, second = (f for f, _ in islice(render(phantom, 0), 2))
    assert not np.array_equal(first, second)
    assert np.abs(first - np.median(first)).max() < 100


def test_tables__drift_is_what_the_frames_did():
    """Images of a drifting phantom, moved back by the stated drift, equal those of one that stands still."""
    hard = build("hard", layers=1, shape=(96, 96), seed=6)[0]
    still = replace(hard, lighting=replace(hard.lighting, drift=0.0))
    dims, drift, _ = tables(hard)["drift"]
    assert dims == ("z", "phi", "yx")
    steps = np.diff(drift[0], axis=0) / hard.pixel
    assert 0.03 < np.sqrt((steps**2).sum(1).mean()) < 0.3
    off = drift[0, 30] / hard.pixel
    assert np.abs(off).max() > 0.1
    first, second = (rendered(p)[0][30].astype(float) for p in (hard, still))
    inner = (slice(12, -12), slice(12, -12))
    back = ndimage.shift(first, -off, order=1, mode="nearest")
    smooth = [ndimage.gaussian_filter(v, 2)[inner] for v in (back, second, first)]
    assert np.abs(smooth[0] - smooth[1]).mean() < np.abs(smooth[2] - smooth[1]).mean()


def test_wander__is_an_ornstein_uhlenbeck_walk():
    at = frame("movie", 0, 1, (64, 64))
    path = wander(at, 4000, 40, 0.3, 8.0)
    off = path - path.mean(0)
    assert off.std() == pytest.approx(0.3, rel=0.05)
    lag = [(off[: -k or None] * off[k:]).mean() / (off**2).mean() for k in (1, 8, 16)]
    np.testing.assert_allclose(lag, np.exp(-np.array([1, 8, 16]) / 8), atol=0.03)
