"""Scores of maps against their definitions, taken pair by pair and threshold by threshold."""

from __future__ import annotations

import numpy as np
import pytest

from dfxm_dask.beams.scores import auc, average_precision
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
