"""The compiled loops of the treatment, against whole numbers and against each other."""

from __future__ import annotations

import numpy as np
import pytest

from dfxm_dask.components import curves as c
from dfxm_dask.components import intensity_scaling as treatment
from dfxm_dask.components import project
from dfxm_dask.memory import frame_lines


@pytest.mark.parametrize("frames", [1, 2, 3, 4, 5, 31, pytest.param(c.MANY, marks=pytest.mark.slow), c.MANY + 1])
def test_sums__equal_those_of_whole_numbers_for_any_number_of_frames(frames: int) -> None:
    shape = (50, 61) if frames < c.MANY else (9, 13)  # whole numbers of Python are slow
    counts = np.moveaxis(np.random.default_rng(frames).integers(0, 65535, (frames, *shape), dtype=np.uint16), 0, -1)
    scaling = c.scaling_of("x", "plain", None, "none", None)
    summary = c.summarise(counts, {"phi": np.arange(float(frames))}, None, np.zeros(shape, np.float32), scaling)
    whole = 4 * np.ascontiguousarray(counts).reshape(-1, frames).astype(object)
    np.testing.assert_array_equal(summary["sum_gram"], (whole.T @ whole).astype(np.int64))
    np.testing.assert_array_equal(summary["sum_curve"], whole.sum(axis=0).astype(np.int64))


def test_logarithm__is_good_to_a_step_from_the_smallest_offset_to_the_largest_count() -> None:
    values = np.concatenate([np.geomspace(1e-6, 3e38, 200_001), [1.0, 2.0, 0.5, 2**0.5, 0.5**0.5]]).astype(np.float32)
    found = values.copy()
    treatment.scale_counts(found, 0, np.float32(0), c.STEPS[0])
    exact = np.log(values.astype(float)) / c.STEPS[0]
    assert np.abs(found - exact).max() < 0.6  # rounding takes 0.5; float32 holds 7e5 steps to 0.06
    assert found[-5] == 0.0


def test_curves__have_the_same_bits_whatever_lies_beside_them() -> None:
    generator = np.random.default_rng(5)
    buffer = generator.integers(90, 3000, (31, 40, 64), dtype=np.uint16)
    counts, level = np.moveaxis(buffer, 0, -1)[:, 3:60], generator.uniform(95, 105, (40, 57)).astype(np.float32)
    basis = np.linalg.qr(generator.normal(size=(31, 4)))[0].T.copy()
    given = {"scan": {"phi": np.arange(31.0)}, "basis": basis, "mean": np.zeros(31), "grid": {"phi": np.arange(31.0)}}
    scaling = c.scaling_of("x", "log", None, None, level)
    whole = project.project_pca.kernel(counts, scaling=scaling, background_map=level, **given)
    for seed, share in ((1, 0.02), (2, 0.5), (3, 0.97)):
        lit = np.random.default_rng(seed).random((40, 57)) < share
        some = project.project_pca.kernel(counts, scaling=scaling, background_map=level, lit=lit, **given)
        for name, values in whole.items():
            np.testing.assert_array_equal(some[name][..., lit], values[..., lit])
            assert np.isnan(some[name][..., ~lit]).all()
    alone = np.array([c.treated(counts, level, np.array([k]), scaling)[:, 0] for k in range(0, 2280, 97)])
    np.testing.assert_array_equal(alone, c.treated(counts, level, np.arange(2280), scaling).T[::97])


def test_places__are_those_of_a_view_cut_from_a_wider_buffer() -> None:
    buffer = np.arange(2 * 9 * 13, dtype=np.uint16).reshape(2, 9, 13)
    cut = np.moveaxis(buffer, 0, -1)[2:8, 4:11]
    line, starts, row_step = frame_lines(cut)
    pixels = np.array([0, 1, 6, 7, 20, 21, 22, 41])
    places = treatment.places_of(pixels, 7, row_step)
    np.testing.assert_array_equal(line[starts[1] + places], cut[..., 1].ravel()[pixels])
    curves = np.zeros((2, 8), np.float32)
    treatment.take_curves(line, starts, places, np.full(8, 2, np.float32), curves)
    np.testing.assert_array_equal(curves, cut.reshape(-1, 2)[pixels].T - 2.0)
