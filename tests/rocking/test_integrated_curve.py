"""Integrated curve against numpy, however it is cut."""

from __future__ import annotations

import numpy as np
import pytest

from dfxm_dask.rocking import integrated_curve

SCAN = {"chi": np.arange(3.0), "phi": np.arange(4.0)}


@pytest.mark.parametrize("dtype", ["uint16", "float32"])
def test_integrated_curve__any_tree_of_pieces_gives_the_same_bits(dtype: str) -> None:
    rng = np.random.default_rng(0)
    counts = np.moveaxis((rng.uniform(0, 65535, (3, 4, 40, 70)) * 0.9).astype(dtype), (-2, -1), (0, 1))
    combine, finish = integrated_curve.combine, integrated_curve.finish
    assert combine is not None
    assert finish is not None
    whole = finish(integrated_curve.kernel(counts, SCAN))["integrated_curve"]
    np.testing.assert_allclose(whole, counts.mean(axis=(0, 1), dtype=np.float64), rtol=1e-7)
    if dtype == "uint16":
        np.testing.assert_array_equal(whole, counts.sum(axis=(0, 1), dtype=np.uint64) / 2800)
    for row, column in ((1, 1), (13, 64), (39, 33)):
        parts = [
            integrated_curve.kernel(counts[part], SCAN)
            for part in (np.s_[:row, :column], np.s_[row:, :column], np.s_[:row, column:], np.s_[row:, column:])
        ]
        left = combine(combine(parts[0], parts[1]), combine(parts[2], parts[3]))
        right = combine(parts[3], combine(parts[2], combine(parts[1], parts[0])))
        for summary in (left, right):
            np.testing.assert_array_equal(finish(summary)["integrated_curve"], whole)


def test_integrated_curve__nan_and_nothing() -> None:
    counts = np.ones((2, 2, 3, 4), np.float32)
    counts[0, 1, 2, 3], counts[1, 1, 2, 3] = 4, np.nan
    counts[..., 1, 1] = np.nan
    finish = integrated_curve.finish
    assert finish is not None
    found = finish(integrated_curve.kernel(counts, SCAN))["integrated_curve"]
    assert found[2, 3] == 2  # of the three pixels that have a count
    assert np.isnan(found[1, 1])
    assert (np.delete(found.ravel(), [5, 11]) == 1).all()
    empty = integrated_curve.kernel(np.zeros((0, 5, 3, 4), np.uint16), SCAN)
    assert (empty["n"] == 0).all()
    assert empty["curve_sum"].shape == (3, 4)
    assert np.isnan(finish(empty)["integrated_curve"]).all()
