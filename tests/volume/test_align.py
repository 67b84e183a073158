"""Shifts of layers: known ones are found, inclined objects are told from jumps, and what is not known stays put."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from dfxm_dask.volume import align_layers
from dfxm_dask.volume.align import layer_shift
from tests.volume.blobs import PIXEL, stack, tubes

JUMPS = np.array([(0, 0), (9, -4), (6, -4), (-11, 5), (-11, 3), (-1, 3), (-1, 4)])
"""Pixels along y and x from the first layer; the median from layer to layer is 0: they have no trend."""


def jumped(volume: np.ndarray, jumps: np.ndarray = JUMPS, edge: int = 20) -> np.ndarray:
    """The middle of a volume, every layer moved by its jump (pixels along y and x)."""
    inner = (volume.shape[1] - 2 * edge, volume.shape[2] - 2 * edge)
    return np.stack(
        [
            layer[edge - dy : edge - dy + inner[0], edge - dx : edge - dx + inner[1]]
            for layer, (dy, dx) in zip(volume, jumps, strict=True)
        ]
    )


def test_layer_shift__finds_parts_of_a_pixel() -> None:
    """Images of lines, moved in a finer grid before they become a mask."""
    fine = ndimage.gaussian_filter(np.random.default_rng(0).normal(0, 1, (1024, 512)), (24, 8))
    for moved in ((10, -7), (-33, 3), (2, 1), (0, 0)):
        first, second = (np.roll(fine, m, (0, 1))[::4, ::4] > 2 * fine.std() for m in ((0, 0), moved))
        (y, x), quality = layer_shift(first, second, PIXEL, 3.0)
        assert abs(y - moved[0] / 4 * PIXEL[0]) < 0.25 * PIXEL[0]
        assert abs(x - moved[1] / 4 * PIXEL[1]) < 0.25 * PIXEL[1]
        assert quality > 0.5


def test_layer_shift__knows_nothing_of_what_has_nothing_in_common() -> None:
    rng = np.random.default_rng(0)
    clear = [layer_shift(rng.random((96, 80)) < 0.1, rng.random((96, 80)) < 0.1, (0.1, 0.1), 3.0)[1] for _ in range(20)]
    assert max(clear) < 0.33
    mask = rng.random((96, 80)) < 0.1
    for pair in ((mask, mask & False), (mask & False, mask), (mask | True, mask | True)):
        (y, x), quality = layer_shift(*pair, (0.1, 0.1), 3.0)
        assert np.isnan([y, x, quality]).all()


def test_layer_shift__stays_within_reach() -> None:
    mask = np.random.default_rng(0).random((96, 80)) < 0.1
    far = np.roll(mask, (0, 20), (0, 1))
    assert layer_shift(mask, far, (0.1, 0.1), 2.5)[0] == pytest.approx((0, 2), abs=0.01)
    (y, x), quality = layer_shift(mask, far, (0.1, 0.1), 1.5)
    assert max(abs(y), abs(x)) <= 1.6
    assert quality < 0.33


@pytest.mark.parametrize("lean", [(0.0, 0.0), (12.0, -3.0)])
def test_align_layers__finds_jumps_of_lines_that_lean(lean: tuple[float, float]) -> None:
    volume = tubes((7, 340, 240), 60, 1, lean)
    for keep, wanted in ((False, JUMPS), (True, JUMPS + np.outer(np.arange(7), lean))):
        found = align_layers(stack(jumped(volume)), keep_trend=keep).compute()
        np.testing.assert_allclose(found.shift_y, wanted[:, 0] * PIXEL[0], atol=0.6 * PIXEL[0])
        np.testing.assert_allclose(found.shift_x, wanted[:, 1] * PIXEL[1], atol=0.6 * PIXEL[1])
    assert np.isnan(found.shift_quality[0])
    assert (found.shift_quality[1:] > 0.33).all()


def test_align_layers__is_the_same_with_any_blocks_and_either_way_up() -> None:
    data = stack(jumped(tubes((7, 200, 160), 30, 2, (3.0, 1.0))))
    found = align_layers(data).compute()
    for size in (1, 3):
        cut = align_layers(data.chunk({"z": size})).compute(scheduler="synchronous")
        for name in found:
            np.testing.assert_array_equal(found[name], cut[name])
    down = align_layers(data.assign_coords(y=("y", data.y.values[::-1], data.y.attrs))).compute()
    np.testing.assert_array_equal(down.shift_y, -found.shift_y)
    np.testing.assert_array_equal(down.shift_x, found.shift_x)


def test_align_layers__adds_a_known_shear_on_real_distances() -> None:
    mask = np.broadcast_to(tubes((1, 120, 90), 25, 3), (4, 120, 90)).copy()
    data = stack(mask, [0.0, 1.0, 2.0, 5.0])
    found = align_layers(data, shear_x=0.5, shear_y=-0.1).compute()
    np.testing.assert_allclose(found.shift_x, [0, 0.5, 1, 2.5], atol=1e-6)
    np.testing.assert_allclose(found.shift_y, [0, -0.1, -0.2, -0.5], atol=1e-6)


def test_align_layers__layers_without_anything_in_common_stay() -> None:
    mask = jumped(tubes((7, 200, 160), 30, 2, (3.0, 1.0)))
    mask[3] = False
    mask[5] = np.random.default_rng(0).random(mask[5].shape) < 0.1
    found = align_layers(stack(mask)).compute()
    assert np.isnan(found.shift_quality[[0, 3, 4]]).all()
    assert (found.shift_quality[[5, 6]] < 0.33).all()
    for k in (3, 4, 5, 6):
        assert found.shift_y[k] == found.shift_y[k - 1]
    np.testing.assert_allclose(np.diff(found.shift_y)[:2], np.diff(JUMPS[:3, 0]) * PIXEL[0], atol=0.2)
    empty = align_layers(stack(mask & False)).compute()
    assert (empty.shift_y == 0).all()
    assert np.isnan(empty.shift_quality).all()
    single = align_layers(stack(mask[:1])).compute()
    assert (single.shift_x.values, single.shift_y.values) == (0, 0)


def test_align_layers__refuses_layers_without_an_order_and_uneven_pixels() -> None:
    data = stack(np.ones((3, 8, 8), bool), [0.0, 2.0, 1.0])
    with pytest.raises(ValueError, match="ascending or descending"):
        align_layers(data).compute()
    uneven = stack(np.ones((2, 8, 8), bool)).assign_coords(y=("y", np.arange(8.0) ** 2, {"units": "um"}))
    with pytest.raises(ValueError, match=r"align_layers: coordinate 'y'.*equal size"):
        align_layers(uneven).compute()


@pytest.mark.parametrize("reach", [0.3, 0.5, 0.75])
def test_layer_shift__of_layers_that_stand_still_is_none_even_where_little_is_allowed(reach: float) -> None:
    mask = np.random.default_rng(0).random((64, 64)) < 0.1
    (y, x), clear = layer_shift(mask, mask, (0.25, 0.25), reach)
    assert (abs(y) < 0.01, abs(x) < 0.01, clear > 0.5) == (True, True, True)
