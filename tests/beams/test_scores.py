"""Scores of maps against their definitions, taken pair by pair and threshold by threshold."""

from __future__ import annotations

import numpy as np
import pytest
from map_scores import auc, average_precision, contamination, high_pass

from dfxm_dask.errors import InputError


def a_map(seed: int, ties: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A map with NaN and infinite values, positives that tend to be higher, and pixels of neither kind."""
    rng = np.random.default_rng(seed)
    kind = rng.choice(3, (12, 15), p=[0.2, 0.5, 0.3])
    values = rng.normal(0, 1, kind.shape) + (kind == 0)
    if ties:
        values = np.round(values)
    values[rng.random(kind.shape) < 0.1] = np.nan
    values[2, 3:5] = np.inf
    return values, kind == 0, kind == 1


def naive_auc(above: np.ndarray, below: np.ndarray) -> float:
    won = [1.0 if p > n else 0.5 if p == n else 0.0 for p in above for n in below]
    return sum(won) / len(won)


def naive_average_precision(above: np.ndarray, below: np.ndarray) -> float:
    total, before = 0.0, 0.0
    for limit in sorted({*above, *below}, reverse=True):
        right, wrong = sum(above >= limit), sum(below >= limit)
        recall = right / len(above)
        total += (recall - before) * right / (right + wrong)
        before = recall
    return total


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_auc_and_average_precision__against_their_definitions(seed, ties):
    values, positive, negative = a_map(seed, ties)
    known = ~np.isnan(values)
    above, below = values[positive & known], values[negative & known]
    assert 0.5 < auc(values, positive, negative) < 1
    assert auc(values, positive, negative) == pytest.approx(naive_auc(above, below), rel=1e-12)
    wanted = naive_average_precision(above, below)
    assert average_precision(values, positive, negative) == pytest.approx(wanted, rel=1e-12)


def test_auc__perfect_reversed_and_constant():
    positive = np.arange(10) >= 7
    values = np.arange(10.0)
    assert auc(values, positive, ~positive) == average_precision(values, positive, ~positive) == 1
    assert auc(-values, positive, ~positive) == 0
    assert auc(values * 0, positive, ~positive) == 0.5
    assert average_precision(values * 0, positive, ~positive) == pytest.approx(0.3)


def test_auc__depends_on_order_alone_and_ignores_neither_kind():
    values, positive, negative = a_map(5, ties=True)
    neither = ~(positive | negative)
    other = np.where(neither, 1e9, np.exp(values / 3))
    assert auc(other, positive, negative) == auc(values, positive, negative)
    assert average_precision(other, positive, negative) == average_precision(values, positive, negative)


def test_auc__without_one_kind_is_no_number():
    values = np.array([1.0, np.nan])
    first, second = np.array([True, False]), np.array([False, True])
    for score in (auc, average_precision):
        assert np.isnan(score(values, first, second))
        assert np.isnan(score(values, second, first))


@pytest.mark.parametrize("score", [auc, average_precision])
def test_auc__refuses_masks_that_do_not_fit(score):
    values = np.zeros((2, 3))
    mask = np.ones((2, 3), bool)
    with pytest.raises(InputError, match="scores of a map: positive: is float64 of shape"):
        score(values, values, mask)
    with pytest.raises(InputError, match=r"scores of a map: negative: is bool of shape \(3,\)"):
        score(values, ~mask, mask[0])
    with pytest.raises(InputError, match="6 pixels are positive and negative"):
        score(values, mask, mask)


def naive_high_pass(values: np.ndarray, pixel: tuple[float, float], length: float) -> np.ndarray:
    """Pixel by pixel: less the Gaussian mean of what is finite within four standard deviations."""
    sigma = [length / p for p in pixel]
    reach = [int(4 * s + 0.5) for s in sigma]
    found = np.full(values.shape, np.nan)
    for (y, x), value in np.ndenumerate(values):
        total = weight = 0.0
        for (v, u), other in np.ndenumerate(values):
            if np.isfinite(other) and abs(v - y) <= reach[0] and abs(u - x) <= reach[1]:
                w = np.exp(-0.5 * (((v - y) / sigma[0]) ** 2 + ((u - x) / sigma[1]) ** 2))
                total, weight = total + w * other, weight + w
        if np.isfinite(value):
            found[y, x] = value - total / weight
    return found


def test_high_pass__against_a_loop():
    values = np.random.default_rng(4).normal(1e4, 3, (14, 11))
    values[3, 4:7], values[0, 0] = np.nan, np.inf
    found = high_pass(values, (0.5, 0.7), 1.0)
    np.testing.assert_allclose(found, naive_high_pass(values, (0.5, 0.7), 1.0), atol=1e-5)
    assert np.isnan(found[0, 0])


def test_high_pass__of_unknown_values_is_unknown_and_one_row_is_a_map():
    assert np.isnan(high_pass(np.full((3, 4), np.nan), (1.0, 1.0))).all()
    row = np.sin(np.arange(40.0))[None]
    np.testing.assert_allclose(high_pass(row, (np.inf, 0.5), 1.0), naive_high_pass(row, (1e9, 0.5), 1.0), atol=1e-6)


def test_high_pass__over_blocks_is_nearly_that_over_pixels():
    fringes, away, rng = fringes_of(90, 60)
    values = np.where(away, fringes + rng.normal(0, 1, fringes.shape), np.nan)
    known = np.isfinite(values)
    y, x = (np.arange(n) * p for n, p in zip(values.shape, (0.1, 0.2), strict=True))
    near_y, near_x = (np.exp(-0.5 * ((p - p[:, None]) / 2.0) ** 2) for p in (y, x))
    exact = values - (near_y @ np.where(known, values, 0) @ near_x) / (near_y @ known @ near_x)
    taken_off = np.nanstd(values - exact)
    found = high_pass(values, (0.1, 0.2))  # blocks of two rows
    assert np.nanmax(np.abs(found - exact)) < 0.05 * taken_off
    assert np.sqrt(np.nanmean((found - exact) ** 2)) < 0.01 * taken_off


@pytest.mark.parametrize(
    ("values", "pixel", "length", "words"),
    [
        (np.zeros(4), (1.0, 1.0), 1.0, r"has shape \(4,\)"),
        (np.zeros((4, 4)), (1.0, 0.0), 1.0, "give lengths above 0"),
        (np.zeros((4, 4)), (1.0, 1.0), 0.0, "give lengths above 0"),
    ],
)
def test_high_pass__refuses(values, pixel, length, words):
    with pytest.raises(InputError, match=words):
        high_pass(values, pixel, length)


def fringes_of(ny: int = 200, nx: int = 120) -> tuple[np.ndarray, np.ndarray, np.random.Generator]:
    """Fringes of 2.5 um on broad shading, and where no defect is."""
    y, x = np.arange(ny)[:, None] * 0.1, np.arange(nx) * 0.2
    fringes = 100 + 10 * np.sin(2 * np.pi * (x + 0.4 * y) / 2.5) + 30 * (y / y.max())
    away = np.ones((ny, nx), bool)
    away[80:120, 50:70] = False
    return fringes, away, np.random.default_rng(8)


def test_contamination__of_the_fringes_is_one_and_of_noise_is_none():
    fringes, away, rng = fringes_of()
    pixel = (0.1, 0.2)
    assert contamination(fringes, fringes, away, pixel) == pytest.approx(1, abs=1e-12)
    assert contamination(7 - 0.1 * fringes, fringes, away, pixel) == pytest.approx(1, abs=1e-9)
    # The standard deviation of a correlation of n independent pairs is 1/sqrt(n).
    assert contamination(rng.normal(0, 1, fringes.shape), fringes, away, pixel) < 4 / np.sqrt(away.sum())


def test_contamination__is_the_correlation_of_both_high_passed():
    fringes, away, rng = fringes_of()
    values = 0.05 * fringes + rng.normal(0, 1, fringes.shape)
    values[5:9] = np.nan
    counted = away & np.isfinite(values)
    one, other = (high_pass(image, (0.1, 0.2))[counted] for image in (values, fringes))
    wanted = abs(np.corrcoef(one, other)[0, 1])
    assert 0.1 < wanted < 0.9
    assert contamination(values, fringes, away, (0.1, 0.2)) == pytest.approx(wanted, rel=1e-9)


def test_contamination__leaves_out_defects_and_broad_shading():
    fringes, away, rng = fringes_of()
    noise = rng.normal(0, 1, fringes.shape)
    shaded = noise + 5 * np.linspace(0, 1, 200)[:, None]
    at_defects = noise + np.where(away, 0, fringes - 100)
    assert abs(np.corrcoef(shaded.ravel(), fringes.ravel())[0, 1]) > 0.5
    for values in (shaded, at_defects):
        assert contamination(values, fringes, away, (0.1, 0.2)) < 0.06


def test_contamination__of_too_little_is_not_known():
    fringes, away, _ = fringes_of()
    assert np.isnan(contamination(fringes * 0, fringes, away, (0.1, 0.2)))
    assert np.isnan(contamination(fringes, fringes, away & False, (0.1, 0.2)))


def test_contamination__refuses_other_shapes_and_masks():
    fringes, away, _ = fringes_of()
    with pytest.raises(InputError, match="give three arrays of one shape"):
        contamination(fringes[1:], fringes, away, (0.1, 0.2))
    with pytest.raises(InputError, match="the last bool"):
        contamination(fringes, fringes, away * 1.0, (0.1, 0.2))
