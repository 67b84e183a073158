"""Volumes of layers: labels are those of scipy on the whole mask, whatever the blocks, gaps and shifts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from scipy import ndimage

import dfxm_dask
from dfxm_dask.run.execute import plan, run_recipe
from dfxm_dask.run.recipe import parse_recipe
from dfxm_dask.volume import link_layers, reconstruct
from tests.volume.blobs import PIXEL, stack, tubes

ALL = np.ones((3, 3, 3))
NEAR = {26: ALL, 6: None}
RECIPE = """
name: volume
steps:
  - background: {method: quantile, quantile: 0.1}
  - local_peak: {}
  - integrate_beams: {}
  - enhance_beams: {}
  - threshold_beams: {alpha: 1.0e-3, least_area: 0.02, half_within: 0}
  - align_layers: {}
  - link_layers: {least_length: 1.5}
  - reconstruct: {}
"""


def volume(data: xr.Dataset, **parameters: Any) -> xr.Dataset:
    """Objects and labels of a stack."""
    linked = link_layers.gather(data, **parameters)
    return linked.merge(reconstruct(data.merge(linked)).compute(scheduler="synchronous"))


def same(a: xr.Dataset, b: xr.Dataset) -> None:
    assert set(a.data_vars) == set(b.data_vars)
    for name in a.data_vars:
        np.testing.assert_array_equal(a[name].values, b[name].values, err_msg=str(name))


@pytest.mark.parametrize("connectivity", [26, 6])
@pytest.mark.parametrize(
    ("shape", "share"),
    [
        ((7, 19, 23), 0.0976),
        ((7, 19, 23), 0.3116),
        ((4, 40, 33), 0.2),
        ((9, 1, 40), 0.4),
        ((6, 30, 1), 0.5),
        ((1, 25, 25), 0.45),
        ((5, 12, 12), 0.0),
        ((5, 12, 12), 1.0),
        ((2, 1, 1), 1.0),
        ((12, 9, 9), 0.6),
    ],
)
def test_reconstruct__labels_are_those_of_scipy(shape: tuple[int, int, int], share: float, connectivity: int) -> None:
    """Random masks, two of them at the percolation thresholds (0.0976 and 0.3116), where objects are most tangled."""
    for seed in range(3):
        mask = np.random.default_rng(seed).random(shape) < share
        found = volume(stack(mask), connectivity=connectivity)
        wanted, count = ndimage.label(mask, NEAR[connectivity])
        np.testing.assert_array_equal(found.label, wanted)
        np.testing.assert_array_equal(found.dislocation, mask)
        np.testing.assert_array_equal(found.object_voxels, np.bincount(wanted.ravel(), minlength=count + 1)[1:])
        assert found.label.dtype == np.int32


@pytest.mark.parametrize("chunks", [{"z": 1}, {"z": 2, "y": 7}, {"z": 4, "y": 5, "x": 3}, {"z": 9}])
def test_reconstruct__is_the_same_with_any_blocks(chunks: dict[str, int]) -> None:
    mask = np.random.default_rng(4).random((9, 20, 24)) < 0.12
    shifts = {"shift_y": np.linspace(0, 0.2, 9), "shift_x": np.linspace(0, -0.5, 9)}
    data = stack(mask, **shifts)
    same(volume(data, least_length=0.3), volume(data.chunk(chunks), least_length=0.3))


def test_link_layers__table_equals_voxels_in_um() -> None:
    mask = tubes((8, 120, 90), 12, 0)
    found = volume(stack(mask))
    label = ndimage.label(mask, ALL)[0]
    assert found.object_voxels.size == label.max() > 3
    np.testing.assert_allclose(found.object_volume, found.object_voxels * PIXEL[0] * PIXEL[1], rtol=1e-12)
    for n in range(1, label.max() + 1):
        k, y, x = np.nonzero(label == n)
        points = np.stack([5 + PIXEL[1] * x, 5 + PIXEL[0] * y, 1.0 * k], axis=1)
        np.testing.assert_allclose(found.object_centroid[n - 1], points.mean(axis=0), rtol=1e-12)
        np.testing.assert_allclose(found.object_low[n - 1], points.min(axis=0), rtol=1e-12)
        np.testing.assert_allclose(found.object_high[n - 1], points.max(axis=0), rtol=1e-12)
        squares = np.linalg.eigvalsh(np.cov(points.T, bias=True))[::-1]
        np.testing.assert_allclose(found.object_extent[n - 1] ** 2, squares, atol=1e-10)


@pytest.mark.parametrize(("least_voxels", "least_length"), [(1, 0.0), (4, 0.0), (1, 1.0), (1, 0.13), (6, 1.5)])
def test_link_layers__removes_what_is_small_in_um(least_voxels: int, least_length: float) -> None:
    mask = np.random.default_rng(1).random((6, 30, 30)) < 0.05
    found = volume(stack(mask), least_voxels=least_voxels, least_length=least_length)
    label = ndimage.label(mask, ALL)[0]
    kept = np.zeros(mask.shape, bool)
    for n, box in enumerate(ndimage.find_objects(label), start=1):
        length = np.hypot.reduce([(s.stop - s.start - 1) * p for s, p in zip(box, (1.0, *PIXEL), strict=True)])
        if (label == n).sum() >= least_voxels and length > least_length - 1e-9:
            kept |= label == n
    assert least_voxels * least_length == 0 or 0 < kept.sum() < mask.sum()
    np.testing.assert_array_equal(found.dislocation, kept)
    np.testing.assert_array_equal(found.label, ndimage.label(kept, ALL)[0])
    assert found.object_voxels.sum() == kept.sum()


def test_link_layers__missing_layers_part_objects_and_keep_their_distance() -> None:
    mask = np.zeros((6, 5, 5), bool)
    mask[:, 2, 2] = True
    z = [0.0, 1.0, 2.0, 5.0, 6.0, 7.0]
    found = volume(stack(mask, z))
    assert found.joined.values.tolist() == [False, True, True, False, True, True]
    assert found.label.values[:, 2, 2].tolist() == [1, 1, 1, 2, 2, 2]
    assert found.object_centroid.values[:, 2].tolist() == [1.0, 6.0]
    np.testing.assert_allclose(found.object_volume, 3 * PIXEL[0] * PIXEL[1])
    down = volume(stack(mask, z[::-1]))
    assert down.label.values[:, 2, 2].tolist() == [1, 1, 1, 2, 2, 2]
    assert down.object_centroid.values[:, 2].tolist() == [6.0, 1.0]


def test_link_layers__layers_are_taken_back_by_whole_pixels() -> None:
    inner = tubes((7, 60, 50), 6, 5)
    truth = np.pad(inner, ((0, 0), (15, 15), (15, 15)))
    pixels = np.array([(0, 0), (3, -2), (14, 9), (-7, 0), (1, 1), (-15, -15), (0, 4)])
    seen = np.stack([np.roll(layer, offset, (0, 1)) for layer, offset in zip(truth, pixels, strict=True)])
    aside = {"shift_y": (pixels[:, 0] + 0.4) * PIXEL[0], "shift_x": (pixels[:, 1] - 0.4) * PIXEL[1]}
    found = volume(stack(seen, **aside))
    np.testing.assert_array_equal(found.label, ndimage.label(truth, ALL)[0])
    assert found.offset_y.values.tolist() == pixels[:, 0].tolist()
    assert found.offset_x.values.tolist() == pixels[:, 1].tolist()
    assert (found.voxels_outside == 0).all()
    assert not np.array_equal(volume(stack(seen)).label, found.label)


def test_link_layers__tells_what_leaves_the_frame() -> None:
    mask = np.ones((2, 6, 8), bool)
    found = volume(stack(mask, shift_y=[0, 2 * PIXEL[0]], shift_x=[0, -PIXEL[1]]))
    assert found.voxels_outside.values.tolist() == [0, 48 - 4 * 7]
    assert found.dislocation.values[1].sum() == 28
    assert not found.dislocation.values[1, 4:].any()
    assert not found.dislocation.values[1, :, 0].any()


def test_link_layers__empty_masks_and_single_layers() -> None:
    empty = volume(stack(np.zeros((3, 6, 7), bool)))
    assert empty.sizes["object"] == empty.sizes["piece"] == 0
    assert not empty.dislocation.any()
    assert not empty.label.any()
    single = volume(stack(np.ones((1, 6, 7), bool)))
    assert single.object_voxels.values.tolist() == [42]
    assert np.isnan(single.object_volume).all()
    assert single.object_low.values[0, 2] == single.object_high.values[0, 2] == 0


def test_link_layers__refuses_what_it_cannot_use() -> None:
    mask = np.ones((3, 5, 5), bool)
    with pytest.raises(ValueError, match="ascending or descending"):
        volume(stack(mask, [0.0, 1.0, 0.5]))
    with pytest.raises(ValueError, match=r"link_layers: shift_x: is nan.*give 0"):
        volume(stack(mask, shift_y=[0, 0, 0], shift_x=[0, 0, np.nan]))
    with pytest.raises(ValueError, match="connectivity"):
        link_layers.gather(stack(mask), connectivity=18)
    uneven = stack(mask).assign_coords(x=("x", np.arange(5.0) ** 2, {"units": "um"}))
    with pytest.raises(ValueError, match=r"link_layers: coordinate 'x'.*equal size"):
        volume(uneven)


def test_reconstruct__refuses_another_mask_than_was_linked() -> None:
    mask = np.random.default_rng(0).random((3, 20, 20)) < 0.2
    linked = link_layers.gather(stack(mask))
    other = stack(np.roll(mask, 1, axis=0))
    with pytest.raises(ValueError, match=r"reconstruct: a layer of defects: has \d+ pieces, but \d+ were linked"):
        reconstruct(other.merge(linked)).compute(scheduler="synchronous")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("volume") / "s.zarr"
    dfxm_dask.simulate("easy", path, layers=4, shape=(128, 128), seed=5)
    return path


def test_volume__of_a_run_equals_scipy_on_the_stored_mask(store: Path) -> None:
    recipe = parse_recipe(RECIPE, Path("test.yaml"))
    assert [[s.name for s in p.steps] for p in plan(recipe, store).passes][1:] == [
        ["align_layers"],
        ["link_layers"],
        ["reconstruct"],
    ]
    assert run_recipe(recipe, store).complete
    tree = dfxm_dask.open_scan(store, chunks=None)
    mask, found = tree["beams"].defects.values, tree["volume"].dataset.load()
    pixel = [float(p[1] - p[0]) for p in (tree.y, tree.x)]
    offsets = np.rint(np.stack([found.shift_y / pixel[0], found.shift_x / pixel[1]], axis=1)).astype(int)
    assert offsets.any()
    taken = np.zeros_like(mask)
    for k, (dy, dx) in enumerate(offsets):
        wide = np.pad(mask[k], 128)
        taken[k] = wide[128 + dy : 256 + dy, 128 + dx : 256 + dx]
    np.testing.assert_array_equal(found.voxels_outside, (mask.sum(axis=(1, 2)) - taken.sum(axis=(1, 2))))
    label = ndimage.label(taken, ALL)[0]
    kept = np.zeros(mask.shape, bool)
    for n, box in enumerate(ndimage.find_objects(label), start=1):
        length = np.hypot.reduce([(s.stop - s.start - 1) * p for s, p in zip(box, (1.0, *pixel), strict=True)])
        kept |= (label == n) & (length > 1.5 - 1e-9)
    assert 0 < kept.sum() < taken.sum()
    np.testing.assert_array_equal(found.dislocation, kept)
    np.testing.assert_array_equal(found.label, ndimage.label(kept, ALL)[0])
    assert found.sizes["object"] == found.label.max() > 1
    lazy = tree["beams"].dataset[["defects"]].load()
    again = link_layers.gather(lazy.merge(found[["shift_y", "shift_x"]]), least_length=1.5)
    same(again, found[list(again)])
    np.testing.assert_array_equal(reconstruct(lazy.merge(again)).label.compute(scheduler="synchronous"), found.label)


def test_volume__of_a_store_without_anything(tmp_path: Path) -> None:
    """A run whose mask is empty: tables of length 0 are written, read and opened."""
    dfxm_dask.simulate("easy", tmp_path / "s.zarr", layers=2, shape=(64, 64), seed=5)
    text = RECIPE.replace("alpha: 1.0e-3", "method: fixed, value: 1.0e9").replace("least_area: 0.02", "least_area: 0")
    assert run_recipe(parse_recipe(text, Path("test.yaml")), tmp_path / "s.zarr").complete
    found = dfxm_dask.open_scan(tmp_path / "s.zarr")["volume"].dataset.load()
    assert (found.sizes["object"], found.sizes["piece"]) == (0, 0)
    assert found.object_centroid.shape == (0, 3)
    assert not found.label.any()
