"""Normalisation against its formula."""

from __future__ import annotations

import json

import numpy as np
import pytest
import xarray as xr

import dfxm_dask
from dfxm_dask.errors import InputError
from dfxm_dask.frames import normalise

SCAN = {"chi": np.arange(2.0), "phi": np.arange(3.0)}


def test_normalise__is_the_formula() -> None:
    rng = np.random.default_rng(0)
    counts = rng.integers(90, 5000, (4, 5, 2, 3)).astype(np.uint16)
    monitor = rng.uniform(1e5, 2e5, (2, 3))
    found = normalise.kernel(counts, SCAN, monitor, by="monitor", reference=1.5e5, offset=100)["counts"]
    assert found.dtype == np.float32
    assert np.moveaxis(found, (0, 1), (-2, -1)).flags.c_contiguous
    np.testing.assert_allclose(found, (counts - 100.0) * (1.5e5 / monitor) + 100, rtol=1e-6)
    by_time = normalise.kernel(counts, SCAN, exposure=monitor, by="exposure", reference=1.5e5, offset=100)["counts"]
    np.testing.assert_array_equal(by_time, found)


def test_normalise__constant_monitor_changes_nothing_and_nan_stays() -> None:
    counts = np.random.default_rng(0).uniform(0, 99, (2, 2, 2, 3)).astype(np.float32)
    counts[0, 1, 1, 1] = np.nan
    found = normalise.kernel(counts, SCAN, np.full((2, 3), 7.0), by="monitor", reference=7, offset=0)["counts"]
    np.testing.assert_array_equal(found, counts)


def test_normalise__small_blocks_are_safe() -> None:
    for shape in ((0, 3, 2, 3), (1, 0, 2, 3)):
        counts = np.zeros(shape, np.uint16)
        assert (
            normalise.kernel(counts, SCAN, np.ones((2, 3)), by="monitor", reference=1, offset=0)["counts"].shape
            == shape
        )


def test_normalise__refuses_what_has_no_scale() -> None:
    counts = np.ones((1, 1, 2, 3), np.uint16)
    with pytest.raises(InputError, match="'by' of the kernel: is not given, and a part of one layer"):
        normalise.kernel(counts, SCAN, np.ones((2, 3)))
    with pytest.raises(InputError, match=r"by exposure: the scan has no exposure.*set by='monitor'"):
        normalise.kernel(counts, SCAN, np.ones((2, 3)), by="exposure", reference=1, offset=0)
    with pytest.raises(InputError, match="3 of 6 frames have a monitor that is not a positive number"):
        normalise.kernel(counts, SCAN, np.array([[1, 0, -1], [2, np.nan, 3]]), by="monitor", reference=1, offset=0)
    with pytest.raises(InputError, match="reference"):
        normalise.validate({"reference": 0})


@pytest.mark.parametrize(
    ("by", "counter", "words"),
    [
        ("monitor", "pico4", "by monitor (counter pico4), reference 1.5, detector offset 7.5 count"),
        ("monitor", "", "by monitor, reference 1.5, detector offset 7.5 count"),
        ("exposure", "", "by exposure, reference 1.5, detector offset 7.5 count"),
    ],
)
def test_normalise__a_lazy_result_says_what_was_done(by: str, counter: str, words: str) -> None:
    counts = ("z", "phi", "y", "x"), np.full((1, 4, 3, 3), 50, np.uint16), {"units": "count"}
    beam = ("z", "phi"), np.array([[1.0, 2, 1, 2]]), {"counter": counter} if counter else {}
    coords = {"phi": ("phi", np.arange(4.0), {"units": "degree"})}
    data = xr.Dataset({"counts": counts, by: beam}, coords)
    found = normalise(data, by=by, reference=1.5, offset=7.5)
    assert json.loads(found.attrs["provenance"])["normalise"]["parameters"] == {
        "by": by,
        "reference": 1.5,
        "offset": 7.5,
    }
    assert found.counts.attrs["counts_normalised"] == words
    maps = dfxm_dask.moments(data.assign(found), background=0)
    assert {v.attrs["counts_normalised"] for v in maps.data_vars.values()} == {words}
    assert "counts_normalised" not in dfxm_dask.moments(data, background=0).total.attrs
    even = normalise(data.assign({by: xr.ones_like(data[by])}))
    assert "variables are unchanged" in even.attrs["normalise"]
    assert "provenance" not in even.attrs
    assert even.counts.dtype == np.uint16
