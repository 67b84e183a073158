"""Patches: the ragged rest is covered, and what is spread has no seams."""

from __future__ import annotations

import numpy as np
import pytest

from dfxm_dask.beams.patches import (
    check_grid,
    gather_patches,
    log_counts,
    log_table,
    patch_starts,
    seam_metric,
    spread,
    standardise,
)
from dfxm_dask.errors import InputError


@pytest.mark.parametrize("shape", [(2160, 2560), (64, 64), (65, 63), (1, 200), (128, 127)])
def test_patch_starts__cover_every_pixel_and_stay_inside(shape):
    for starts, length in zip(patch_starts(shape), shape, strict=True):
        covered = np.zeros(max(length, 64), bool)
        for first in starts:
            covered[first : first + 64] = True
        assert covered[:length].all()
        assert starts[-1] + 64 <= max(length, 64)
        assert len(starts) == -(-length // 64)


def test_patch_starts__refuses_no_size():
    with pytest.raises(InputError, match="patch size 0: is not positive"):
        patch_starts((4, 4), 0)


def test_gather_patches__is_the_loop_over_starts():
    frame = np.random.default_rng(0).integers(0, 999, (150, 201)).astype(np.uint16)
    y, x = patch_starts(frame.shape)
    expected = [frame[i : i + 64, j : j + 64] for i in y for j in x]
    found = gather_patches(frame)
    assert found.dtype == np.uint16
    np.testing.assert_array_equal(found, expected)


def test_gather_patches__reflects_small_frames():
    frame = np.arange(6).reshape(2, 3)
    found = gather_patches(frame, 4)
    assert found.tolist() == [[[0, 1, 2, 2], [3, 4, 5, 5], [3, 4, 5, 5], [0, 1, 2, 2]]]
    assert gather_patches(np.zeros((0, 9)), 4).shape == (0, 4, 4)
    with pytest.raises(InputError, match=r"has shape \(2, 3, 1\); give one frame"):
        gather_patches(frame[..., None])


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_log_counts__table_is_the_formula(dtype):
    counts = np.arange(np.iinfo(dtype).max + 1).astype(dtype)
    exact = np.log(1 + np.maximum(counts.astype(float) - 104.5, 0))
    np.testing.assert_allclose(log_counts(counts, 104.5), exact, rtol=1e-6)
    np.testing.assert_allclose(log_counts(counts.astype(np.float32), 104.5), exact, rtol=1e-6)
    assert log_table(104.5, dtype) is log_table(104.5, dtype)
    assert not log_table(104.5, dtype).flags.writeable


def test_log_table__refuses_floats():
    with pytest.raises(InputError, match="table of logarithms for float32: is defined for uint8 and uint16 only"):
        log_table(0.0, np.float32)


def test_standardise__mean_and_deviation_of_the_lit_pixels():
    frame = np.random.default_rng(1).normal(5, 3, (40, 50))
    lit = frame > 4
    frame[3, 4] = np.nan
    found = standardise(frame, lit)
    assert found.dtype == np.float32
    assert np.isfinite(found).all()
    inside = found[lit & np.isfinite(frame)]
    np.testing.assert_allclose([inside.mean(), inside.std()], [0, 1], atol=1e-5)
    gained = standardise(2.5 * frame - 3, lit)
    np.testing.assert_allclose(gained, found, atol=1e-5)


def test_standardise__constant_and_empty_frames_are_zero():
    dark = np.zeros((4, 4), bool)
    for frame, lit in ((np.full((4, 4), 7.1), None), (np.full((4, 4), np.nan), None), (np.eye(4), dark)):
        assert (standardise(frame, lit) == 0).all()


def test_spread__keeps_centres_and_planes_and_extends_beyond():
    values = np.arange(12.0).reshape(3, 4)
    found = spread(values, (3 * 15, 4 * 15), 15)  # odd: the centres are pixels
    np.testing.assert_allclose(found[7::15, 7::15], values)
    np.testing.assert_allclose(np.diff(found[20, 7:53]), 1 / 15, rtol=1e-4)
    assert (found[:7] == found[7]).all()
    assert (found[:, 52:] == found[:, 52:53]).all()


def test_spread__patch_without_a_number_takes_its_neighbours():
    values = np.array([[1.0, np.nan, 3.0]])
    found = spread(values, (8, 24), 8)
    assert np.isfinite(found).all()
    assert found.min() >= 1
    assert found.max() <= 3
    assert np.isnan(spread(np.full((1, 3), np.nan), (8, 24), 8)).all()


def test_spread__refuses_another_grid():
    with pytest.raises(InputError, match=r"2 × 2 patches: a frame of 64 × 65 pixels has 1 × 2 of 64 pixels"):
        check_grid("p_weak", (2, 2), (64, 65))
    with pytest.raises(InputError, match="patch values of 1 × 1 patches"):
        spread(np.zeros((1, 1)), (64, 65))


def test_seam_metric__sees_a_lattice_and_nothing_else():
    rng = np.random.default_rng(2)
    image = rng.normal(0, 1, (512, 512))
    assert seam_metric(image) == pytest.approx(1, abs=0.05)
    blocks = np.kron(rng.normal(0, 4, (8, 8)), np.ones((64, 64)))
    assert seam_metric(image + blocks) > 2
    assert seam_metric(image + spread(rng.normal(0, 4, (8, 8)), (512, 512))) == pytest.approx(1, abs=0.05)
    image[:60] = np.nan
    assert seam_metric(image) == pytest.approx(1, abs=0.05)
    assert np.isnan(seam_metric(np.zeros((256, 256))))
    assert np.isnan(seam_metric(np.zeros((32, 32))))
