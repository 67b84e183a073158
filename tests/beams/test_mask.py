"""Width of the mask, its narrowing to single dislocations, and its scores."""

import numpy as np
import pytest
from map_scores import mask_scores
from scipy import ndimage
from scipy.spatial import cKDTree

from dfxm_dask.beams import threshold_beams
from dfxm_dask.beams.narrowing import above_half, narrowed
from dfxm_dask.view.compare.distances import boundary_distance

Y, X = 0.05 * np.arange(160), 0.1 * np.arange(120)
PIXEL = (0.05, 0.1)


def line_of(height, across=0.25, place=4.0):
    """A line along x whose image is a Gaussian across y, on noise of one standard deviation."""
    noise = np.random.default_rng(2).normal(0, 1, (Y.size, X.size))
    image = height * np.exp(-0.5 * ((Y - place) / across) ** 2)[:, None] * np.ones(X.size)
    return (noise + image).astype(np.float32)


def widths(mask):
    return mask.sum(axis=0) * PIXEL[0]


@pytest.mark.parametrize("height", [20.0, 100.0, 1000.0])
def test_threshold_beams__width_does_not_follow_brightness(height):
    contrast, lit = line_of(height), np.ones((Y.size, X.size), bool)
    found = threshold_beams.kernel(contrast, lit, Y, X)
    assert np.median(widths(found["defects"])) == pytest.approx(2.355 * 0.25, abs=0.15)
    wide = threshold_beams.kernel(contrast, lit, Y, X, half_within=0.0)
    assert (wide["has_defects"], wide["mask_strength"]) == (found["has_defects"], found["mask_strength"])
    assert np.median(widths(wide["defects"])) == pytest.approx(0.5 * np.sqrt(2 * np.log(height / 4.3)), abs=0.15)


@pytest.mark.parametrize(("reach", "pixel"), [(1.0, (0.1, 0.25)), (0.55, (0.3, 0.1)), (2.0, (np.inf, 0.5))])
def test_above_half__is_the_maximum_of_a_disc(reach, pixel):
    rng = np.random.default_rng(3)
    values = rng.exponential(3, (1 if pixel[0] == np.inf else 40, 50)).astype(np.float32) - np.float32(0.5)
    mask = values > 0.4
    places = np.argwhere(mask) * np.where(np.isfinite(pixel), pixel, 1.0)
    near = cKDTree(places).query_ball_point(places, reach * (1 + 1e-9))
    largest = np.array([values[mask][n].max() for n in near])
    np.testing.assert_array_equal(above_half(values, mask, reach, pixel)[mask], values[mask] > largest / 2)
    assert not above_half(values, mask, reach, pixel)[~mask].any()
    np.testing.assert_array_equal(above_half(values, mask, 0.0, pixel), mask)


def test_above_half__of_contrasts_below_zero_keeps_what_nothing_exceeds():
    values = np.array([[-3.0, -1.0, -2.0]], np.float32)
    np.testing.assert_array_equal(above_half(values, values < 0, 1.0, (1.0, 0.5)), [[True, True, True]])
    values[0, 1] = 4
    np.testing.assert_array_equal(above_half(values, values < 9, 1.0, (1.0, 0.5)), [[False, True, False]])


@pytest.mark.parametrize(
    ("height", "beside", "distance", "stays"),
    [
        (5.5, 60.0, 3.0, False),
        (5.5, 15.0, 3.0, True),
        (5.5, 60.0, 4.7, True),
        (9.0, 600.0, 3.0, True),
        (5.5, 0.0, 3.0, True),
    ],
)
def test_threshold_beams__leaves_out_what_is_faint_beside_a_bright_image(height, beside, distance, stays):
    contrast = np.random.default_rng(4).normal(0, 1, (Y.size, X.size)).clip(-2.4, 2.4)
    contrast[20:32, 20:26] = height
    contrast[20 + round(distance / 0.05) :][:12, 20:26] = beside
    found = threshold_beams.kernel(contrast.astype(np.float32), np.ones(contrast.shape, bool), Y, X)
    assert found["stands_out"][20:32, 20:26].all()
    assert found["defects"][20:32, 20:26].all() == found["defects"][20:32, 20:26].any() == stays


def wall(spots):
    """A strip along x, and dislocations in it at some x, of which alone the second map knows."""
    strip = 20 * np.exp(-0.5 * ((Y - 4.0) / 0.3) ** 2)[:, None] * np.ones(X.size)
    isolated = np.full(strip.shape, -2.0)
    for spot in spots:
        isolated += 20 * np.exp(-0.5 * (((Y - 4.0) / 0.3)[:, None] ** 2 + ((X - spot) / 0.3) ** 2))
    return strip.astype(np.float32), isolated.astype(np.float32)


@pytest.mark.parametrize("spots", [(3.0, 7.0), (1.5, 4.5, 7.5, 10.5), (6.0,)])
def test_narrowed__leaves_single_dislocations_of_a_boundary(spots):
    enhanced, isolated = wall(spots)
    whole = narrowed(enhanced, None, enhanced > 4, 1.0, PIXEL)
    found = narrowed(enhanced, isolated, enhanced > 4, 1.0, PIXEL)
    away = np.abs(X[:, None] - np.array(spots)).min(axis=1)
    assert whole.any(axis=0).all()
    assert not (found & ~(enhanced > 4)).any()
    assert found[:, away < 0.3].any(axis=0).all()
    assert not found[:, (away > 1.0) & (away < 2.5)].any()
    np.testing.assert_array_equal(found[:, away > 4], whole[:, away > 4])  # too far from any single dislocation


def test_narrowed__without_anything_isolated_keeps_the_boundary():
    enhanced, _ = wall(())
    whole = narrowed(enhanced, None, enhanced > 4, 1.0, PIXEL)
    for isolated in (np.full_like(enhanced, np.nan), np.full_like(enhanced, -1)):
        np.testing.assert_array_equal(narrowed(enhanced, isolated, enhanced > 4, 1.0, PIXEL), whole)


def test_boundary_distance__of_a_plane_and_a_half_plane():
    slope = np.array([0.6, 0.0, 0.8])
    whole = {"normal": [slope], "origin": [[3.0, 0, 1.0]], "line": [[0, 1.0, 0]], "dihedral": [np.nan]}
    wanted = np.abs((X - 3.0) * 0.6 + (2.0 - 1.0) * 0.8) * np.ones((Y.size, 1))
    np.testing.assert_allclose(boundary_distance(whole, 2.0, Y, X), wanted)
    half = {"normal": [[0, 1.0, 0]], "origin": [[5.0, 4.0, 0]], "line": [[0, 0, 1.0]], "dihedral": [120.0]}
    found = boundary_distance(half, 7.0, Y, X)  # from the line at x = 5 along line × normal = −x
    here, there = X <= 5, X > 5
    np.testing.assert_allclose(found[:, here], np.abs(Y - 4.0)[:, None] * np.ones(here.sum()), atol=1e-12)
    np.testing.assert_allclose(found[:, there], np.hypot(Y[:, None] - 4.0, X[there] - 5.0))
    assert np.isinf(boundary_distance({}, 0.0, Y, X)).all()


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_mask_scores__count_by_definition(share):
    rng = np.random.default_rng(5)
    away = np.abs(Y - 4.0)[:, None] * np.ones(X.size)
    lit = rng.random(away.shape) < 0.9
    mask = (rng.random(away.shape) < share) & (away < 2)
    boundary = np.abs(X - 6.0) * np.ones((Y.size, 1))
    found = mask_scores(mask, lit, away, boundary, PIXEL)
    if share == 0:
        assert (found["recall"], found["F1"]) == (0, 0)
        assert np.isnan([found["precision"], found["or boundary"], found["HD95"]]).all()
        return
    kept = mask & lit
    tree = cKDTree(np.argwhere(kept) * PIXEL)
    to_mask = tree.query(np.argwhere(lit & (away < 0.25)) * PIXEL)[0]
    precision, recall = (away[kept] <= 1).mean(), (to_mask <= 1).mean()
    assert found["precision"] == pytest.approx(precision)
    assert found["or boundary"] == pytest.approx((np.minimum(away, boundary)[kept] <= 1).mean())
    assert found["recall"] == pytest.approx(recall)
    assert found["F1"] == pytest.approx(2 * precision * recall / (precision + recall))
    assert found["HD95"] == pytest.approx(max(np.quantile(away[kept], 0.95), np.quantile(to_mask, 0.95)))
    assert np.isnan(mask_scores(mask, lit, away, away + np.inf, PIXEL)["or boundary"])


def test_threshold_beams__objects_count_their_area_before_they_are_narrowed():
    """A dim line of 0.6 um beside brighter ones: what is left of each may be smaller than the least area."""
    contrast, lit = line_of(50.0, across=0.02), np.ones((Y.size, X.size), bool)
    labels = [
        ndimage.label(threshold_beams.kernel(contrast, lit, Y, X, half_within=reach)["defects"], np.ones((3, 3)))
        for reach in (0.0, 1.0)
    ]
    assert labels[0][1] == 1
    assert labels[1][0].any(axis=0).mean() > 0.95


@pytest.mark.parametrize("reach", [1e3, 1e9, 1e300])
@pytest.mark.parametrize("shape", [(20, 30), (1, 30), (20, 1)])
def test_above_half__any_distance_beyond_the_frame_is_all_of_it(reach: float, shape: tuple[int, int]) -> None:
    image = np.random.default_rng(0).uniform(0, 9, shape).astype(np.float32)
    pixel = tuple(0.2 if n > 1 else np.inf for n in shape)
    np.testing.assert_array_equal(above_half(image, image > 0, reach, pixel), image > image.max() / 2)
