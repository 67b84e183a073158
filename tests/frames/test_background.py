"""Background against numpy's quantile."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dfxm_dask.errors import InputError
from dfxm_dask.frames import background

SCAN = {"phi": np.arange(11.0)}


def scan_last(frames: np.ndarray) -> np.ndarray:
    return np.moveaxis(frames, (-2, -1), (0, 1))


@settings(max_examples=40, deadline=None)
@given(
    frames=st.integers(1, 40),
    quantile=st.one_of(st.sampled_from([0.0, 0.1, 0.5, 0.999]), st.floats(0, 0.99)),
    top=st.sampled_from([3, 500, 65536]),
)
def test_background__quantile_is_that_of_numpy(frames: int, quantile: float, top: int) -> None:
    counts = scan_last(np.random.default_rng(frames).integers(0, top, (frames, 3, 70)).astype(np.uint16))
    found = background.kernel(counts, {"phi": np.arange(float(frames))}, quantile=quantile)["background_map"]
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, np.quantile(counts, quantile, axis=-1).astype(np.float32))


def test_background__quantile_runs_over_all_scan_axes_and_any_cut() -> None:
    counts = scan_last(np.random.default_rng(0).integers(0, 999, (4, 7, 5, 130)).astype(np.uint16))
    scan = {"chi": np.arange(4.0), "phi": np.arange(7.0)}
    whole = background.kernel(counts, scan)["background_map"]
    np.testing.assert_array_equal(whole, np.quantile(counts, 0.1, axis=(-2, -1)).astype(np.float32))
    np.testing.assert_array_equal(background.kernel(counts[1:3, 5:77], scan)["background_map"], whole[1:3, 5:77])


def test_background__floats_and_nan() -> None:
    counts = np.random.default_rng(0).normal(100, 10, (2, 3, 11)).astype(np.float32)
    counts[1, 2, 4] = np.nan
    found = background.kernel(counts, SCAN, quantile=0.3)["background_map"]
    expected = np.quantile(counts.astype(np.float64), 0.3, axis=-1)
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    assert np.isnan(found[1, 2])
    assert np.isfinite(found).sum() == 5


def test_background__scalar_none_and_dark_are_what_they_say() -> None:
    counts = np.ones((2, 3, 11), np.uint16)
    assert (background.kernel(counts, SCAN, method="scalar", value=99.5)["background_map"] == 99.5).all()
    assert (background.kernel(counts, SCAN, method="none")["background_map"] == 0).all()
    dark = np.arange(6.0).reshape(2, 3)
    found = background.kernel(counts, SCAN, dark, method="dark")["background_map"]
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, dark)
    # A dark image that lies in the store does not change the other methods.
    assert (background.kernel(counts, SCAN, dark)["background_map"] == 1).all()


@pytest.mark.parametrize("shape", [(0, 3, 11), (2, 0, 11), (1, 1, 1)])
def test_background__small_blocks_are_safe(shape: tuple[int, ...]) -> None:
    found = background.kernel(np.zeros(shape, np.uint16), {"phi": np.arange(shape[2])})
    assert found["background_map"].shape == shape[:2]


def test_background__refuses_half_said_methods() -> None:
    counts = np.ones((1, 1, 11), np.uint16)
    with pytest.raises(InputError, match="method 'scalar': has no value; give value=<counts>"):
        background.kernel(counts, SCAN, method="scalar")
    with pytest.raises(InputError, match=r"method 'quantile': takes no value \(found 3\)"):
        background.kernel(counts, SCAN, value=3)
    with pytest.raises(InputError, match="method 'dark': there is no dark image; ingest"):
        background.kernel(counts[:0], SCAN, method="dark")
    with pytest.raises(InputError, match="quantile"):
        background.validate({"quantile": 1.0})


@pytest.mark.parametrize("frames", [11, 31, 401])
def test_background__known_noise_removes_the_bias_of_the_quantile(frames: int) -> None:
    rng = np.random.default_rng(frames)
    counts = rng.normal(1000, 20, (120, 130, frames)).round().astype(np.uint16)
    scan = {"phi": np.arange(float(frames))}
    low = background.kernel(counts, scan, quantile=0.1)["background_map"].mean()
    level = background.kernel(counts, scan, noise=np.float32(20), quantile=0.1)["background_map"].mean()
    assert low < 1000 - 15
    assert abs(level - 1000) < 1.5
