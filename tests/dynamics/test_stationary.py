"""Undecimated wavelet transform: against PyWavelets, and the same values from tiles."""

from __future__ import annotations

import numpy as np
import pytest
import pywt

from dfxm_dask.dynamics.stationary import halo, transform
from dfxm_dask.dynamics.wavelets import WHICH, zero_phase_band
from dfxm_dask.errors import InputError


def oracle(image: np.ndarray, wavelet: str, level: int) -> list[np.ndarray]:
    """Inverse stationary transform with all bands but one zeroed: horizontal, vertical, diagonal, smooth."""
    made = pywt.swt2(image, wavelet, level)
    zero = np.zeros_like(image)
    nothing = [(zero, (zero, zero, zero)) for _ in range(level)]
    out = []
    for kept in range(4):
        bands = list(nothing)
        smooth, details = made[0]
        bands[0] = (smooth if kept == 3 else zero, tuple(d if k == kept else zero for k, d in enumerate(details)))
        out.append(pywt.iswt2(bands, wavelet))
    return out


@pytest.mark.parametrize(("wavelet", "level"), [("haar", 1), ("haar", 3), ("db2", 2), ("db4", 1), ("db4", 3)])
def test_zero_phase_band__is_the_inverse_transform_of_one_band(wavelet, level):
    image = np.random.default_rng(0).normal(size=(128, 136))
    reach = halo(wavelet, level)
    inner = (slice(reach, -reach),) * 2
    for which, wanted in zip(WHICH, oracle(image, wavelet, level), strict=True):
        band = zero_phase_band(image, wavelet, level, which)
        np.testing.assert_allclose(band[inner], wanted[inner], atol=3e-6)
    bands = transform(image, wavelet, level)
    np.testing.assert_array_equal(bands.smooth, zero_phase_band(image, wavelet, level, "smooth"))
    np.testing.assert_allclose(bands.diagonal[-1], zero_phase_band(image, wavelet, level, "diagonal"), atol=3e-6)
    np.testing.assert_array_equal(bands.horizontal[-1], zero_phase_band(image, wavelet, level, "horizontal"))


@pytest.mark.parametrize("wavelet", ["haar", "db2", "db4"])
@pytest.mark.parametrize("which", WHICH)
def test_zero_phase_band__an_impulse_stays_at_its_pixel(wavelet, which):
    image = np.zeros((161, 170))
    image[80, 83] = 1
    for level in (1, 2, 3):
        energy = zero_phase_band(image, wavelet, level, which) ** 2
        y, x = (np.arange(n) for n in image.shape)
        assert energy.sum(1) @ y / energy.sum() == pytest.approx(80, abs=1e-4)
        assert energy.sum(0) @ x / energy.sum() == pytest.approx(83, abs=1e-4)


def test_zero_phase_band__legacy_is_displaced_as_published():
    image = np.zeros((128, 131))
    image[60, 64] = 1
    energy = zero_phase_band(image, "db4", 3, legacy=True) ** 2
    y, x = (np.arange(n) for n in image.shape)
    assert energy.sum(1) @ y / energy.sum() - 60 == pytest.approx(-5.97, abs=0.02)
    assert energy.sum(0) @ x / energy.sum() - 64 == pytest.approx(11.88, abs=0.02)


@pytest.mark.parametrize(("wavelet", "reach"), [("db4", 49), ("haar", 7)])
def test_transform__a_tile_with_its_halo_is_bit_equal(wavelet, reach):
    image = np.random.default_rng(1).normal(100, 9, size=(133, 146))
    assert halo(wavelet, 3) == reach
    whole = transform(image, wavelet, 3)
    for (top, bottom), (left, right) in (((60, 81), (55, 70)), ((0, 20), (90, 146)), ((100, 133), (0, 31))):
        tile = tuple(
            slice(max(low - reach, 0), min(high + reach, n))
            for low, high, n in ((top, bottom, 133), (left, right, 146))
        )
        part = transform(image[tile], wavelet, 3)
        y, x = top - tile[0].start, left - tile[1].start
        for one, all_ in zip(part, whole, strict=True):
            inner = one[..., y : y + bottom - top, x : x + right - left]
            assert inner.tobytes() == all_[..., top:bottom, left:right].tobytes()
            assert one.dtype == np.float32


def test_halo__is_the_least():
    """A change at the distance of the halo is noticed, and none beyond."""
    image = np.zeros((120, 8))
    changed = image.copy()
    changed[60] = 1
    for wavelet, level in (("db4", 3), ("db2", 2), ("haar", 3)):
        rows = np.flatnonzero(np.abs(zero_phase_band(changed, wavelet, level)).max(1) > 0)
        assert rows[-1] - 60 == 60 - rows[0] == halo(wavelet, level)


@pytest.mark.parametrize("shape", [(8, 8), (9, 35), (8, 300)])
def test_transform__any_size_sums_to_the_frame(shape):
    image = np.random.default_rng(2).normal(size=shape)
    bands = transform(image, "db4", 4)
    np.testing.assert_allclose(bands.smooth + sum(part.sum(0) for part in bands[1:]), image, atol=3e-6)
    flat = transform(np.full(shape, 7.0), "db4", 4)
    np.testing.assert_allclose(flat.smooth, 7, rtol=1e-6)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: transform(np.zeros((7, 20))), "at least 8 x 8"),
        (lambda: transform(np.zeros((3, 20, 20))), "give one frame"),
        (lambda: transform(np.zeros((8, 8)), "db44"), "'db44': is unknown; use haar"),
        (lambda: transform(np.zeros((8, 8)), "bior2.2"), "is not orthogonal"),
        (lambda: transform(np.zeros((8, 8)), "db4", 0), "whole number from 1 to 10"),
        (lambda: zero_phase_band(np.zeros((8, 8)), which="slanted"), "use one of horizontal, vertical"),
    ],
)
def test_transform__refuses(call, words):
    with pytest.raises(InputError, match=words):
        call()
