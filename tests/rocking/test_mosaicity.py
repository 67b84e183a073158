"""Colours of tilts against scikit-image's CIELAB."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.color import lab2rgb, rgb2lab

from dfxm_dask.errors import InputError
from dfxm_dask.rocking import colour_key, mosaicity
from dfxm_dask.rocking.mosaicity import CHROMA, LIGHTNESS, OUTSIDE, UNKNOWN, _srgb

SCAN = {"chi": np.linspace(-2, 2, 5), "phi": np.linspace(0, 1, 11)}


def test_mosaicity__every_colour_is_in_the_gamut_and_is_that_of_cielab() -> None:
    hue = np.linspace(0, 2 * np.pi, 3601)
    for radius in (0.0, 0.5, 1.0):
        a, b = CHROMA * radius * np.cos(hue), CHROMA * radius * np.sin(hue)
        rgb = _srgb(a, b)
        assert rgb.min() >= 0
        assert rgb.max() <= 1
        np.testing.assert_allclose(rgb, lab2rgb(np.stack([np.full_like(a, LIGHTNESS), a, b], -1)), atol=1e-3)


def test_mosaicity__key_is_even_to_the_eye() -> None:
    rgb, _, _ = colour_key(101)
    place = np.linspace(-1, 1, 101)
    u, v = np.meshgrid(place, place, indexing="ij")
    inside = u**2 + v**2 <= 1 + 1e-6
    lab = rgb2lab(rgb)
    assert np.abs(lab[inside][:, 0] - LIGHTNESS).max() < 0.5
    assert np.abs(lab[inside][:, 1] - CHROMA * u[inside]).max() < 1
    assert np.abs(lab[inside][:, 2] - CHROMA * v[inside]).max() < 1
    assert (rgb[~inside] == OUTSIDE).all()
    colours = {tuple(c) for c in rgb[inside].tolist()}
    assert OUTSIDE not in colours
    assert UNKNOWN not in colours


@settings(max_examples=30, deadline=None)
@given(u=st.floats(-1, 1), v=st.floats(-1, 1), shift=st.floats(-5, 5), scale=st.floats(0.01, 100))
def test_mosaicity__colour_depends_on_the_place_in_the_disc(u: float, v: float, shift: float, scale: float) -> None:
    com = {"chi": np.array([[shift + scale * u]]), "phi": np.array([[v]])}
    found = mosaicity.kernel(com, SCAN, centre=(shift, 0.0), half_range=(scale, 1.0))["mosaicity"][0, 0]
    if u * u + v * v < 0.999:
        lab = rgb2lab(found)
        assert abs(lab[1] - CHROMA * u) < 1
        assert abs(lab[2] - CHROMA * v) < 1
    elif u * u + v * v > 1.001:
        assert tuple(found) == OUTSIDE


def test_mosaicity__default_key_spans_the_scan() -> None:
    chi = np.array([[-2, 0, 2, 2, np.nan, 0.0]], np.float32)
    phi = np.array([[0.5, 0.5, 0.5, 1.0, 0.5, np.nan]], np.float32)
    found = mosaicity.kernel({"chi": chi, "phi": phi}, SCAN)["mosaicity"]
    key, first, second = colour_key(511, (-2, 2), (0, 1))
    assert found.shape == (1, 6, 3)
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found[0, 0], key[0, 255])
    np.testing.assert_array_equal(found[0, 1], key[255, 255])
    np.testing.assert_array_equal(found[0, 2], key[510, 255])
    assert tuple(found[0, 3]) == OUTSIDE
    assert (found[0, 4:] == UNKNOWN).all()
    assert (first[0], first[-1], second[0], second[-1]) == (-2, 2, 0, 1)


def test_mosaicity__third_axis_is_not_needed_and_empty_is_safe() -> None:
    com = {name: np.zeros((0, 3), np.float32) for name in ("chi", "phi", "two_theta")}
    found = mosaicity.kernel(com, SCAN | {"two_theta": np.zeros(1)})["mosaicity"]
    assert found.shape == (0, 3, 3)


def test_mosaicity__refuses_a_range_of_nothing() -> None:
    com = {"chi": np.zeros((1, 1)), "phi": np.zeros((1, 1))}
    with pytest.raises(InputError, match=r"half range of chi: is 0 \(the scan stays at 3\); give half_range"):
        mosaicity.kernel(com, SCAN | {"chi": np.array([3.0])})
    with pytest.raises(InputError, match="half range of phi: is -1; give half_range"):
        mosaicity.kernel(com, SCAN, half_range=(1.0, -1.0))
