"""Masked pixels stay out of everything: the detector marks them by the largest value of its dtype."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import xarray as xr

import dfxm_dask
from dfxm_dask.catalogue import load_reductions
from dfxm_dask.frames.statistics import dark_noise, patch_statistics
from dfxm_dask.reduction import Reduction
from tests.beamline_files import write_bliss
from tests.laws.test_reductions import SIZES, axes_for, computed, example

READERS = sorted(n for n, r in load_reductions().items() if "counts" in {v.name for v in r.reads})
Y, X = 5, 8  # the masked pixel


def masked_example(reduction: Reduction, dtype: str) -> tuple[xr.Dataset, xr.Dataset]:
    """A scan with a masked pixel in every layer, and the same with ordinary counts there."""
    plain = example(reduction, axes_for(reduction, ("phi",)))
    plain["counts"] = plain.counts.astype(dtype)
    plain["counts"][0, ..., 0, 0] = plain.counts[1, ..., 0, 0]
    plain = plain.drop_vars(("full_well", "saturation"), errors="ignore")
    counts = plain.counts.copy(deep=True)
    if dtype == "uint16":
        counts[..., Y, X] = np.iinfo(dtype).max
    else:
        counts[:, 3, Y, X] = np.iinfo(dtype).max  # a single voxel is masked
    return plain.assign(counts=counts, masked=("z", np.full(SIZES["z"], 1, np.uint32))), plain


CASES = [(n, "uint16") for n in READERS] + [(n, "uint32") for n in ("moments", "integrated_curve", "local_peak")]
CASES += [
    pytest.param(n, "int32", marks=pytest.mark.slow) for n in ("background", "pca", "zingers")
]  # compile for long


@pytest.mark.parametrize(("name", "dtype"), CASES)
def test_reduction__masked_pixels_stay_out(name: str, dtype: str) -> None:
    reduction = load_reductions()[name]
    masked, plain = masked_example(reduction, dtype)
    found, without = computed(reduction, masked.chunk({"z": 1})), computed(reduction, plain)
    local = not {"y", "x"} & set(reduction.over) and reduction.combine is None
    # What is NaN in every frame on entry is the reference for what neighbours make of it.
    gone = plain.counts.astype(float).where(masked.counts != np.iinfo(dtype).max)
    as_nan = computed(reduction, plain.assign(counts=gone.astype(np.float32 if dtype == "uint16" else float)))
    for variable, values in found.data_vars.items():
        there = values.values
        assert not (there.dtype.kind == "f" and np.isinf(there).any()), variable
        if variable == "counts":
            continue
        if reduction.combine is None or there.dtype.kind == "f":
            np.testing.assert_array_equal(there, as_nan[variable].values, err_msg=str(variable))
        if not {"y", "x"} <= set(values.dims):
            continue
        pixel = values.isel(y=Y, x=X).values
        if there.dtype.kind == "f":
            assert np.isnan(pixel).all(), variable
        elif variable == "flags":
            assert (pixel == 64).all()
        elif not str(variable).endswith(("full_well", "_reason")):
            assert not pixel.any(), variable
        if local:
            elsewhere, expected = there.copy(), without[variable].values.copy()
            for each in (elsewhere, expected):
                each[..., Y, X] = 0
            if "_std" in str(variable) and reduction.name == "fit_curves":
                # Floats compile to another order of sums, which the ends of an iteration turn into the fourth digit.
                np.testing.assert_allclose(elsewhere, expected, rtol=0.02, err_msg=str(variable))
            else:
                np.testing.assert_array_equal(elsewhere, expected, err_msg=str(variable))


def test_masked__saturation_refers_to_raw_counts_after_normalise() -> None:
    """A pixel that fills the well in one frame is saturated at every scale; one that is scaled to as much is not."""
    reduction = load_reductions()["normalise"]
    data = example(reduction, axes_for(reduction, ("phi",))).drop_vars("saturation")
    counts = np.full(data.counts.shape, 500, np.uint16)
    counts[:, 2, 1, 1], counts[:, 2, 3, 3] = 65535, 40000
    data = data.assign(counts=(data.counts.dims, counts, data.counts.attrs))
    for reference, name in ((10.0, "faint"), (1e5, "bright")):
        scaled = data.assign(dfxm_dask.normalise(data, reference=reference))
        flags = dfxm_dask.moments(scaled, background=0).flags.values
        assert ((flags & 4) > 0).sum() == SIZES["z"], name
        assert ((flags[:, 1, 1] & 4) > 0).all(), name


@pytest.mark.parametrize(
    ("level", "dtype", "expected"),
    [(4095.0, "uint16", True), (None, "uint16", False), (None, "uint32", False), (65535.0, "uint32", False)],
)
def test_moments__saturation_is_that_of_the_layer(level: float | None, dtype: str, expected: bool) -> None:
    reduction = load_reductions()["moments"]
    data = example(reduction, axes_for(reduction, ("phi",))).drop_vars(("saturation", "full_well"))
    counts = np.full(data.counts.shape, 200, dtype)
    counts[:, 3, 2, 2] = 4095
    data = data.assign(counts=(data.counts.dims, counts, data.counts.attrs))
    if level is not None:
        data["saturation"] = ("z", np.full(SIZES["z"], level, np.float32))
    flags = dfxm_dask.moments(data).flags.values
    assert bool((flags & 4).any()) is expected
    assert (dfxm_dask.moments(data, saturation=3000).flags.values[:, 2, 2] & 4).all()


@pytest.mark.parametrize("dtype", ["uint16", "uint32", "int32"])
def test_statistics__masked_pixels_are_not_counted(dtype: str) -> None:
    frame = np.random.default_rng(0).normal(100, 5, (130, 200)).round().astype(dtype)
    masked = np.zeros(frame.shape, bool)
    masked[3, 7:90], masked[64:128, 128:192] = True, True
    found = patch_statistics(np.where(masked, np.iinfo(dtype).max, frame).astype(dtype), masked)
    for i, j in np.ndindex(3, 4):
        box = np.s_[i * 64 : (i + 1) * 64, j * 64 : (j + 1) * 64]
        part = frame[box][~masked[box]].astype(float)
        assert found["patch_n"][i, j] == part.size
        assert found["patch_sum"][i, j] == part.sum()
        assert found["patch_max"][i, j] == (part.max() if part.size else 0)
        np.testing.assert_allclose(found["patch_sum_log"][i, j], np.log(part).sum(), rtol=1e-5)
    plain = dark_noise(frame)
    assert abs(dark_noise(np.where(masked, np.iinfo(dtype).max, frame).astype(dtype), masked) - plain) < 0.3


@pytest.mark.parametrize(
    ("dtype", "frames"), [("uint16", "all"), ("uint16", "some"), ("uint32", "some"), ("uint32", "all")]
)
def test_ingest__counts_masked_pixels(tmp_path: Path, dtype: str, frames: str) -> None:
    import h5py

    write_bliss(tmp_path / "s.h5", shape=(6,), dtype=dtype, link="instrument", compression=None)
    largest = np.iinfo(dtype).max
    with h5py.File(tmp_path / "s.h5", "a") as file:
        images = file["1.1/instrument/pco_ff"]
        name = next(n for n, v in images.items() if getattr(v, "ndim", 0) == 3)
        images[name][slice(None) if frames == "all" else 2, 4, 5] = largest
    dfxm_dask.ingest(tmp_path / "s.h5", tmp_path / "s.zarr", pixel_size=(0.5, 0.5))
    raw = dfxm_dask.open_scan(tmp_path / "s.zarr")["raw"].to_dataset().load()
    is_masked = frames == "all" or dtype == "uint32"
    assert raw.masked.values.tolist() == [int(is_masked)]
    assert (raw.counts.values[0, 2, 4, 5]) == largest
    assert int(raw.patch_max.max()) < 60000 or not is_masked
    assert float(raw.noise[0]) < 1000
    maps = dfxm_dask.moments(raw, background=100).load()
    assert bool(np.isnan(maps.com_phi.values[0, 4, 5])) is is_masked
    assert int(maps.flags.values[0, 4, 5]) & 68 == (64 if is_masked else 4)
    curve = dfxm_dask.integrated_curve(raw).integrated_curve.values
    counts = raw.counts.values[0].astype(float)
    counts[counts == (largest if is_masked else -1)] = np.nan
    np.testing.assert_allclose(curve, np.nanmean(counts, axis=(1, 2)))
