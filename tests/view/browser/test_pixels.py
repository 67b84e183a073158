"""Binned pixels against a naive loop, for every type of a store, with edges, NaN and parts that are not on disk."""

from __future__ import annotations

import io
from itertools import product
from math import ceil
from pathlib import Path

import numpy as np
import pytest

from dfxm_dask.errors import DamagedError, InputError
from dfxm_dask.schema import Variable
from dfxm_dask.store.integrity.nodes import create_group, root_attrs
from dfxm_dask.store.shards import ShardedArray, open_array
from dfxm_dask.view.browser import pixels
from tests.reflection_stores import write_step

SHAPE = 2, 3, 150, 210
DTYPES = ("uint8", "uint16", "uint32", "int32", "float32", "float64", "bool")


def values_of(dtype: str) -> np.ndarray:
    rng = np.random.default_rng(0)
    if dtype == "bool":
        return np.asarray(rng.random(SHAPE) < 0.3)
    if dtype[0] == "f":
        values = (1e3 * rng.standard_normal(SHAPE)).astype(dtype)
        values[rng.random(SHAPE) < 0.2] = np.nan
        values[:, :, 64:80, 64:80] = np.nan
        values[0, 0, 3, 5] = np.inf
        return values
    most = min(np.iinfo(dtype).max, 2**31)
    return rng.integers(0, most, SHAPE, endpoint=True, dtype=np.int64).astype(dtype)


@pytest.fixture(scope="module")
def arrays(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[ShardedArray, np.ndarray]]:
    path = tmp_path_factory.mktemp("pixels") / "a.zarr"
    create_group(path, "", root_attrs(64, "all types"), anew=True)
    made = {}
    for dtype in DTYPES:
        values = values_of(dtype)
        dims = ("z", "phi", "y", "x")
        write_step(path, dtype, "made", [Variable("values", dims, dtype, "1", "values")], {"values": values})
        array = open_array(path / dtype / "values")
        assert array is not None
        made[dtype] = array, values
    return made


def naive(frame: np.ndarray, box: pixels.Bounds, step: int) -> np.ndarray:
    """Bins by a loop, in exact numbers."""
    y0, y1, x0, x1 = box
    part = frame[y0:y1, x0:x1]
    kind = frame.dtype.kind
    shape = ceil(part.shape[0] / step), ceil(part.shape[1] / step)
    out = np.zeros(shape, np.float32 if kind == "b" and step > 1 else frame.dtype)
    for i, j in product(*map(range, shape)):
        some = part[i * step : (i + 1) * step, j * step : (j + 1) * step].ravel()
        if step == 1 or kind == "i" or frame.dtype == np.uint8:
            out[i, j] = some[0]
        elif kind == "f":
            finite = some[np.isfinite(some)].astype(np.float64)
            out[i, j] = finite.mean() if finite.size else np.nan
        elif kind == "b":
            out[i, j] = some.mean()
        else:
            out[i, j] = (2 * sum(map(int, some)) + some.size) // (2 * some.size)  # rounded, halves upwards
    return out


BOXES = [(0, 150, 0, 210), (0, 150, 0, 209), (63, 65, 63, 65), (149, 150, 209, 210), (17, 140, 5, 131)]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shared", [0, pixels.SHARED])
def test_binned__is_a_naive_loop(
    arrays: dict[str, tuple[ShardedArray, np.ndarray]], dtype: str, shared: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pixels, "SHARED", shared)  # 0: two threads
    array, values = arrays[dtype]
    for box, step in product(BOXES, (1, 2, 3, 8, 64)):
        got = pixels.binned(array, (1, 2), box, step)
        expected = naive(values[1, 2], box, step)
        assert got.dtype == expected.dtype
        if dtype[0] == "f" or (dtype == "bool" and step > 1):
            np.testing.assert_allclose(
                got, expected, rtol=2e-6 if got.dtype == np.float32 else 1e-10, atol=1e-9, equal_nan=True
            )
        else:
            np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("dtype", DTYPES)
def test_frame_of__any_order_of_dims(arrays: dict[str, tuple[ShardedArray, np.ndarray]], dtype: str) -> None:
    array, values = arrays[dtype]
    box = (10, 100, 20, 200)
    got = pixels.frame_of(array, ("y", "k", "z", "x"), ("z", "x"), {"y": 1, "k": 2}, box, 1)
    np.testing.assert_array_equal(got, values[1, 2, 10:100, 20:200])
    turned = pixels.frame_of(array, ("x", "k", "y", "z"), ("y", "x"), {"k": 1, "z": 7}, (3, 140, 0, 2), 1)
    np.testing.assert_array_equal(turned, values[0:2, 1, 3:140, 7].T)


def test_binned__what_is_not_committed_is_never_read(arrays: dict[str, tuple[ShardedArray, np.ndarray]]) -> None:
    array, _ = arrays["float32"]
    assert np.isnan(pixels.binned(array, (0, 0), (0, 150, 0, 210), 2, frozenset())).all()


def test_curve_of__is_the_mean_of_the_box(arrays: dict[str, tuple[ShardedArray, np.ndarray]]) -> None:
    array, values = arrays["uint16"]
    for box in BOXES:
        y0, y1, x0, x1 = box
        expected = values[1, :, y0:y1, x0:x1].astype(np.float64).mean((1, 2))
        np.testing.assert_allclose(pixels.curve_of(array, 1, box), expected, rtol=1e-12)


def test_jpeg__is_the_contrast_of_the_page_and_nan_is_not_black() -> None:
    from PIL import Image

    ramp = np.tile(np.linspace(0, 1000, 256), (64, 1))
    ramp[:, :64] = np.nan
    for scale, place in (("linear", ramp / 1000), ("sqrt", np.sqrt(ramp / 1000))):
        image = np.asarray(Image.open(io.BytesIO(pixels.jpeg(ramp, 0, 1000, scale))), float)
        assert abs(image[:, :60] - pixels.NONE).max() < 12
        assert abs(image[:, 70:] - 255 * place[:, 70:]).max() < 6
    with pytest.raises(InputError, match="query scale"):
        pixels.jpeg(ramp, 0, 1, "cube")


def test_binned__a_shard_that_was_replaced_is_read_anew_and_a_lost_one_refused(tmp_path: Path) -> None:
    declared = [Variable("values", ("z", "y", "x"), "uint16", "1", "values")]
    create_group(tmp_path / "a.zarr", "", root_attrs(64, "replaced"), anew=True)
    for level in (3, 9):
        made = np.full((1, 60, 60), level, np.uint16)
        write_step(tmp_path / "a.zarr", f"g{level}", "made", declared, {"values": made})
    array = open_array(tmp_path / "a.zarr/g3/values")
    assert array is not None
    box = (0, 60, 0, 60)
    assert (pixels.binned(array, (0,), box, 2) == 3).all()
    shard, other = (next(p for p in (tmp_path / f"a.zarr/g{k}/values/c").rglob("*") if p.is_file()) for k in (3, 9))
    other.replace(shard)
    assert (pixels.binned(array, (0,), box, 2) == 9).all()
    shard.unlink()
    with pytest.raises(DamagedError, match="is missing"):
        pixels.binned(array, (0,), box, 2)
