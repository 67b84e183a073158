"""KAM against a naive loop and closed forms."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dfxm_dask.errors import InputError
from dfxm_dask.rocking import kam
from dfxm_dask.rocking.kam import neighbourhood


def naive(
    com: dict[str, np.ndarray], y: np.ndarray, x: np.ndarray, radius: float, square: bool, centre_too: bool = False
) -> np.ndarray:
    angles = np.stack(list(com.values())).astype(np.float64)
    result = np.full(angles.shape[1:], np.nan)
    for i, j in np.ndindex(result.shape):
        found = []
        for k, m in np.ndindex(result.shape):
            dy, dx = abs(y[k] - y[i]), abs(x[m] - x[j])
            near = max(dy, dx) <= radius * (1 + 1e-9) if square else np.hypot(dy, dx) <= radius * (1 + 1e-9)
            distance = np.sqrt(((angles[:, k, m] - angles[:, i, j]) ** 2).sum())
            if near and (centre_too or (k, m) != (i, j)) and np.isfinite(distance):
                found.append(distance)
        if found:
            result[i, j] = np.mean(found)
    return result


@pytest.mark.parametrize("square", [False, True])
@pytest.mark.parametrize("axes", [1, 2])
@pytest.mark.parametrize("shape", [(7, 12), (1, 9), (9, 1), (1, 1), (2, 2)])
def test_kam__is_the_naive_loop(shape: tuple[int, int], axes: int, square: bool) -> None:
    rng = np.random.default_rng(0)
    com = {f"axis{k}": rng.normal(0, 1, shape).astype(np.float32) for k in range(axes)}
    com["axis0"][rng.random(shape) < 0.2] = np.nan
    y, x = 0.3 * np.arange(shape[0]), 5 - 0.2 * np.arange(shape[1])
    footprint = "square" if square else "disc"
    for radius in (0.31, 0.6, 5.0):
        found = kam.kernel(com, y, x, radius=radius, footprint=footprint)["kam"]
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, naive(com, y, x, radius, square), rtol=1e-6)


def test_kam__does_not_count_the_pixel_itself() -> None:
    position = np.arange(9.0)
    com = {"phi": np.tile(np.arange(9, dtype=np.float32), (9, 1))}
    assert kam.kernel(com, position, position, radius=1.0)["kam"][4, 4] == 0.5
    assert naive(com, position, position, 1.0, False, centre_too=True)[4, 4] == pytest.approx(0.4)
    # The 25-pixel diamond that counts its centre is 24/25 of the one that does not.
    diamond = [(dy, dx) for dy in range(-3, 4) for dx in range(-3, 4) if abs(dy) + abs(dx) <= 3]
    with_centre = np.mean([abs(dx) for _, dx in diamond])
    without = np.mean([abs(dx) for dy, dx in diamond if (dy, dx) != (0, 0)])
    assert len(diamond) == 25
    assert with_centre / without == pytest.approx(0.96)
    # On a regular grid that diamond is our disc of radius sqrt(5) um and the four pixels at 3 um.
    disc = {tuple(offset) for offset in neighbourhood(np.sqrt(5), 1.0, 1.0).tolist()}
    assert disc | {(0, 3), (3, 0), (0, -3), (-3, 0)} == set(diamond) - {(0, 0)}


def test_kam__footprint_is_in_length_and_symmetric() -> None:
    offsets = neighbourhood(1.0, 0.5, 0.25)
    assert {tuple(-o) for o in offsets} == {tuple(o) for o in offsets}
    assert [0, 0] not in offsets.tolist()
    assert np.abs(offsets).max(axis=0).tolist() == [2, 4]
    assert len(neighbourhood(1.0, 1.0, 1.0, "square")) == 8


@settings(max_examples=20, deadline=None)
@given(shift=st.integers(-8, 8), factor=st.integers(1, 8))
def test_kam__shift_and_scale_laws(shift: int, factor: int) -> None:
    com = np.random.default_rng(1).integers(-50, 50, (6, 7)).astype(np.float32)
    y, x = np.arange(6.0), np.arange(7.0)
    here = kam.kernel({"phi": com}, y, x)["kam"]
    np.testing.assert_array_equal(kam.kernel({"phi": com + shift}, y, x)["kam"], here)
    np.testing.assert_allclose(kam.kernel({"phi": com * factor}, y, x)["kam"], factor * here, rtol=1e-6)
    np.testing.assert_array_equal(kam.kernel({"phi": com[::-1, ::-1]}, y, x)["kam"], here[::-1, ::-1])


def test_kam__noise_is_taken_out() -> None:
    com = {"phi": np.tile(np.arange(5, dtype=np.float32), (5, 1))}
    position = np.arange(5.0)
    plain = kam.kernel(com, position, position, radius=1.0)["kam"]
    found = kam.kernel(com, position, position, radius=1.0, noise=0.1)["kam"]
    np.testing.assert_allclose(found, np.sqrt(plain**2 - 0.02), rtol=1e-6)
    assert (kam.kernel(com, position, position, radius=1.0, noise=9.0)["kam"] == 0).all()


def test_kam__empty_blocks_are_safe() -> None:
    for shape in ((0, 4), (4, 0)):
        com = {"phi": np.zeros(shape, np.float32)}
        assert kam.kernel(com, np.arange(float(shape[0])), np.arange(float(shape[1])))["kam"].shape == shape


def test_kam__refuses_unequal_pixels_and_a_radius_without_neighbours() -> None:
    com, even = {"phi": np.zeros((3, 3), np.float32)}, np.arange(3.0)
    with pytest.raises(InputError, match="coordinate 'x': has steps from 1 to 2 um; give pixels of equal size"):
        kam.kernel(com, even, np.array([0.0, 1.0, 3.0]))
    with pytest.raises(InputError, match=r"radius 0.5 um: contains no neighbour.*1 um along y and 0.75 um.*0.75 um"):
        kam.kernel(com, even, 0.75 * even, radius=0.5)
    with pytest.raises(InputError, match="radius"):
        kam.validate({"radius": 0})
