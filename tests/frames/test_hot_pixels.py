"""Hot pixels against a loop of nanmedian."""

from __future__ import annotations

import numpy as np
import pytest

from dfxm_dask.errors import InputError
from dfxm_dask.frames import hot_pixels


def naive(image: np.ndarray, threshold: float, floor: float) -> np.ndarray:
    deviation = np.full(image.shape, np.nan)
    for y, x in np.ndindex(image.shape):
        near = image[max(y - 2, 0) : y + 3, max(x - 2, 0) : x + 3].copy()
        near[min(y, 2), min(x, 2)] = np.nan
        if np.isfinite(near).any() and np.isfinite(image[y, x]):
            deviation[y, x] = image[y, x] - np.median(near[np.isfinite(near)])
    known = deviation[np.isfinite(deviation)]
    if not known.size:
        return np.zeros(image.shape, bool)
    sigma = max(1.4826 * np.median(np.abs(known - np.median(known))), floor)
    return np.abs(deviation) > threshold * sigma


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (2, 2), (3, 70), (20, 150)])
@pytest.mark.parametrize("missing", [0.0, 0.3])
def test_hot_pixels__are_those_of_the_naive_loop(shape: tuple[int, int], missing: float) -> None:
    rng = np.random.default_rng(5)
    image = np.rint(rng.normal(100, 3, shape)).astype(np.float32)
    image[rng.random(shape) < 0.02] += 60
    image[rng.random(shape) < missing] = np.nan
    np.testing.assert_array_equal(hot_pixels.kernel(image, threshold=4.0)["hot"], naive(image, 4.0, 1.0))


def test_hot_pixels__finds_hot_and_dead_on_a_slope_and_nothing_else() -> None:
    y, x = np.mgrid[:60, :80]
    image = (100 + 0.5 * y + 0.2 * x + np.random.default_rng(0).normal(0, 1.5, y.shape)).astype(np.float32)
    bad = [(0, 0), (10, 79), (30, 30), (30, 31), (59, 40)]
    for k, place in enumerate(bad):
        image[place] = 0 if k % 2 else 400
    assert [tuple(p) for p in np.argwhere(hot_pixels.kernel(image)["hot"])] == bad


def test_hot_pixels__dark_constant_and_nan_layers_have_none() -> None:
    for image in (np.zeros((9, 9)), np.full((9, 9), 100.0), np.full((9, 9), np.nan), np.zeros((0, 4)), np.ones((1, 1))):
        found = hot_pixels.kernel(image.astype(np.float32))["hot"]
        assert found.shape == image.shape
        assert found.dtype == bool
        assert not found.any()


def test_hot_pixels__floor_is_in_counts() -> None:
    image = np.full((9, 9), 100, np.float32)
    image[4, 4] = 107
    assert not hot_pixels.kernel(image)["hot"].any()
    assert hot_pixels.kernel(image, floor=0.5)["hot"].sum() == 1
    with pytest.raises(InputError, match="floor"):
        hot_pixels.validate({"floor": 0})
