"""The prior against closed forms and against the truth of simulated layers."""

from __future__ import annotations

from itertools import product

import h5py
import numpy as np
import pytest
from scipy import ndimage

from dfxm_dask.beams.blocks import (
    block_curves,
    block_edges,
    block_means,
    block_sums,
    pixel_length,
    reach_of,
    running_median,
    to_pixels,
)
from dfxm_dask.beams.local_peak import local_peak
from dfxm_dask.beams.prior import (
    AMBIGUOUS,
    STRONG,
    UNLIT,
    WEAK,
    frame_noise,
    frame_places,
    hard_labels,
    light_mask,
    patch_probability,
    peak_and_width,
    rocking_axis,
    weak_probability,
    without_gaps,
)
from dfxm_dask.beams.weak_beam_verdict import NUMBERS, reasons
from dfxm_dask.errors import InputError
from dfxm_dask.phantoms import render as simulated
from dfxm_dask.schema import plain_background
from tests.beams.phantoms import layer


def test_codes__are_those_of_the_simulated_truth():
    assert (UNLIT, WEAK, STRONG, AMBIGUOUS) == (simulated.UNLIT, simulated.WEAK, simulated.STRONG, simulated.AMBIGUOUS)


def test_weak_probability__closed_form_and_symmetry():
    u = np.linspace(-9, 9, 61)
    p = weak_probability(u)
    np.testing.assert_allclose(np.log(p / (1 - p)), (np.abs(u) - 2) / 0.3, rtol=1e-6, atol=1e-8)
    np.testing.assert_allclose(p, p[::-1], rtol=1e-12)
    assert weak_probability(np.array([1e6]))[0] == 1


def test_hard_labels__limits():
    found = hard_labels(np.array([2.51, -2.51, 2.49, 1.21, -1.19, 0, np.nan]))
    assert found.tolist() == [WEAK, WEAK, AMBIGUOUS, AMBIGUOUS, STRONG, STRONG, UNLIT]


@pytest.mark.parametrize("direction", [1, -1])
def test_peak_and_width__of_a_gaussian(direction):
    phi = direction * 0.002 * (np.arange(41) - 20)
    centre = np.array([[0.0031, -0.0047, 0.0]])
    sigma = np.array([[0.005, 0.006, 0.007]])
    curves = 1000 * np.exp(-0.5 * ((phi[:, None, None] - centre) / sigma) ** 2)
    peak, width = peak_and_width(curves, phi, np.array([[True, True, False]]))
    smoothed = np.hypot(sigma, 0.8 * 0.002)
    np.testing.assert_allclose(peak[0, :2], centre[0, :2], atol=2e-5)
    np.testing.assert_allclose(width[0, :2], np.sqrt(2 * np.log(2)) * smoothed[0, :2], rtol=0.02)  # half of the FWHM
    assert np.isnan([peak[0, 2], width[0, 2]]).all()


def test_peak_and_width__curves_that_the_scan_cuts():
    phi = np.arange(21.0)
    curve = np.exp(-0.5 * ((phi[:, None, None] - np.array([[0.0, 20.0, 10.0]])) / np.array([[3.0, 3.0, 90.0]])) ** 2)
    peak, width = peak_and_width(curve, phi, np.ones((1, 3), bool))
    np.testing.assert_allclose(peak, [[0, 20, 10]], atol=0.01)
    np.testing.assert_allclose(width[0, :2], 1.1774 * np.hypot(3, 0.8), rtol=0.02)
    assert width[0, 2] == 10


def test_peak_and_width__one_step_is_the_least_width():
    curve = np.zeros((9, 1, 1), np.float32)
    curve[4] = 5
    peak, width = peak_and_width(curve, 0.5 * np.arange(9), np.ones((1, 1), bool))
    assert peak.item() == pytest.approx(2)
    assert width.item() >= 0.5
    empty = peak_and_width(np.zeros((9, 1, 1)), np.arange(9.0), np.ones((1, 1), bool))
    assert np.isnan(empty).all()


def test_rocking_axis__phi_first_and_errors():
    long, short = np.arange(5.0), np.arange(2.0)
    assert rocking_axis("t", {"chi": long, "phi": long}) == "phi"
    assert rocking_axis("t", {"chi": long, "phi": short}) == "chi"
    assert rocking_axis("t", {"chi": long, "phi": long}, "chi") == "chi"
    assert frame_places({"chi": np.arange(2.0), "phi": np.arange(3.0)}, "phi").tolist() == [0, 1, 2, 0, 1, 2]
    assert frame_places({"chi": np.arange(2.0), "phi": np.arange(3.0)}, "chi").tolist() == [0, 0, 0, 1, 1, 1]
    with pytest.raises(InputError, match="t: axis 'mu': the scan has chi, phi"):
        rocking_axis("t", {"chi": long, "phi": long}, "mu")
    with pytest.raises(InputError, match="needs at least 3 positions of one axis, the scan has phi: 1"):
        rocking_axis("t", {"phi": np.zeros(1)})
    with pytest.raises(InputError, match="a single frame"):
        rocking_axis("t", {})


def test_plain_background__one_of_two():
    level = np.ones((2, 2), np.float32)
    assert plain_background("t", level, None, (2, 2)) is not None
    assert (plain_background("t", None, 3.0, (2, 2)) == 3).all()
    assert (plain_background("t", None, "none", (2, 2)) == 0).all()
    with pytest.raises(InputError, match="t without a background"):
        plain_background("t", None, None, (2, 2))
    with pytest.raises(InputError, match="there is a background map already"):
        plain_background("t", level, 3.0, (2, 2))


def test_light_mask__edge_noise_and_darkness():
    total = np.zeros((20, 40))
    total[:, 20:] = 100
    assert light_mask(total, (0, 0)).tolist() == (total > 0).tolist()
    assert not light_mask(np.zeros((5, 5)), (1, 1)).any()
    noise = np.random.default_rng(0).normal(0, 3, (60, 60))
    assert light_mask(noise, (1, 1)).any()
    assert not light_mask(noise, (1, 1), 3.0).any()
    total[3, 30] = np.nan
    assert not light_mask(total, (1, 1))[3, 30]
    assert light_mask(total, (1, 1))[4, 30]


def test_frame_noise__of_gaussian_frames_and_of_frames_too_small():
    rng = np.random.default_rng(0)
    sigma = np.array([2.0, 5.0, 40.0])
    frames = rng.normal(100, 1, (3, 100, 100)) * sigma[:, None, None]
    frames[:, 40:43, ::7] += 1e4  # a few that stand out
    frames[:, 5, 5] = np.nan
    quiet = np.ones(frames.shape, bool)
    np.testing.assert_allclose(frame_noise(frames, quiet), sigma, rtol=0.05)
    np.testing.assert_allclose(frame_noise(np.rint(frames), quiet), np.sqrt(sigma**2 + 1 / 12), rtol=0.05)
    quiet[1] = False
    assert frame_noise(frames, quiet)[1] == np.median(frame_noise(frames, quiet)[[0, 2]])
    assert np.isnan(frame_noise(np.zeros((2, 9, 9)), quiet[:2, :9, :9])).all()


def test_running_median__is_the_naive_one():
    values = np.random.default_rng(0).normal(0, 1, (23, 31)).round(1).astype(np.float32)
    values[np.random.default_rng(1).random(values.shape) < 0.3] = np.nan
    values[:6, :6] = np.nan
    for reach in ((2, 2), (0, 3), (40, 40)):
        found = running_median(values, reach)
        for y, x in product(range(23), range(31)):
            window = values[max(0, y - reach[0]) : y + reach[0] + 1, max(0, x - reach[1]) : x + reach[1] + 1]
            known = window[np.isfinite(window)]
            wanted = np.median(known) if known.size else np.nan
            np.testing.assert_allclose(found[y, x], wanted, rtol=1e-6)


def test_running_median__of_more_than_one_node_of_the_tree():
    values = np.random.default_rng(2).normal(0, 1, (90, 100)).astype(np.float32)  # 9000 ranks: three nodes of 4096
    found = running_median(values, (30, 35))
    assert found[45, 50] == np.median(values[15:76, 15:86])
    assert np.isnan(running_median(np.full((3, 3), np.nan), (1, 1))).all()


def test_blocks__sums_means_and_curves_are_naive_loops():
    rng = np.random.default_rng(0)
    counts = rng.integers(90, 300, (13, 17, 3, 4)).astype(np.uint16)  # (y, x, chi, phi)
    level = np.full((13, 17), 100, np.float32)
    level[2, 2], level[12, 15:] = np.nan, np.nan
    scan = {"chi": np.arange(3.0), "phi": np.arange(4.0)}
    buffer = np.ascontiguousarray(np.moveaxis(counts, (0, 1), (-2, -1)))
    view = np.moveaxis(buffer, (-2, -1), (0, 1))
    found = block_curves(view, level, (4, 3), frame_places(scan, "phi"), 4)
    assert found.shape == (4, 4, 6)
    for k, i, j in np.ndindex(found.shape):
        box = slice(4 * i, 4 * i + 4), slice(3 * j, 3 * j + 3)
        above = counts[box][..., k].sum(-1) - 3.0 * level[box]
        wanted = np.nanmean(above) if np.isfinite(above).any() else np.nan
        np.testing.assert_allclose(found[k, i, j], wanted, rtol=1e-5)
    floats = view.astype(np.float32)
    np.testing.assert_array_equal(block_curves(floats, level, (4, 3), frame_places(scan, "phi"), 4), found)
    sums = block_sums(level, (4, 3))
    assert np.isnan(sums[0, 0])
    assert sums[1, 1] == 1200
    assert block_means(level, (4, 3))[0, 0] == 100
    assert block_edges(np.arange(5) * 0.05, np.arange(1.0), "t") == (5, 1)


def test_to_pixels__planes_and_missing_blocks():
    blocks = np.add.outer(np.arange(5.0) * 3, np.arange(6.0)).astype(np.float32)
    found = to_pixels(blocks, (3, 5), (15, 30))
    np.testing.assert_allclose(found[1::3, 2::5], blocks, rtol=1e-6)
    np.testing.assert_allclose(np.diff(found[:, 2][1:14]), 1, rtol=1e-5)
    blocks[2, 2] = np.nan
    assert np.isfinite(to_pixels(blocks, (3, 5), (15, 30))).sum() >= 15 * 30 - 1
    assert np.isnan(to_pixels(np.full((2, 2), np.nan, np.float32), (2, 2), (4, 4))).all()


def test_pixel_length__refuses_unequal_pixels():
    with pytest.raises(InputError, match="t: coordinate 'x': has steps from 1 to 2 um"):
        pixel_length("x", "t", np.array([0.0, 1, 3]))
    assert reach_of(6.0, (6, 2), (0.04, 0.125)) == (12, 12)


@pytest.mark.parametrize(
    ("name", "least"),
    [("easy", 0.99), *(pytest.param(*k, marks=pytest.mark.slow) for k in (("al002", 0.99), ("hard", 0.98)))],
)
def test_patch_probability__agrees_with_the_truth_of_unambiguous_patches(name, least):
    made = layer(name)
    maps = local_peak.kernel(made.counts, made.scan, made.y, made.x, background_map=made.level)
    found = patch_probability(maps["peak_local"], maps["width_local"], made.scan["phi"])
    known = np.isin(made.label, (WEAK, STRONG)) & np.isfinite(found)
    assert known.sum() > 200
    right = (found > 0.5) == (made.label == WEAK)
    assert right[known].mean() >= least
    assert right[known & (made.label == STRONG)].mean() >= least - 0.02


def test_without_gaps__dark_fringes_are_no_edge():
    """A crystal of 15 x 15 um in blocks of 0.25 um, with a dark fringe of 2.5 um through it."""
    total = np.zeros((80, 80))
    total[10:70, 10:70] = 1.0
    total[30:40, 10:60] = 0.05
    narrow, wide = light_mask(total, (3, 3)), light_mask(total, (12, 12), dark_beyond=True)
    assert not narrow[34:36, 15:55].any()
    found = without_gaps(narrow, wide, (12, 12))
    assert found[30:40, 16:60].all()
    true = np.zeros_like(found)
    true[10:70, 10:70] = True
    outside = ndimage.distance_transform_edt(~true)
    assert outside[found & ~narrow].max() <= 2  # the edge stays where the narrow window has it


def verdict(name, seed=3, strong_beam=None):
    made = layer(name, seed, strong_beam=strong_beam)
    return local_peak.kernel(made.counts, made.scan, made.y, made.x, background_map=made.level)


def words(found):
    return reasons(*(float(found[name]) for name in NUMBERS))


@pytest.mark.parametrize(
    ("name", "strong_beam"),
    [
        ("easy", None),
        ("empty", None),
        ("multigrain", "none"),
        pytest.param("hard", None, marks=pytest.mark.slow),
        *(
            pytest.param(name, kind, marks=pytest.mark.slow)
            for name in ("al002", "multigrain", "hard")
            for kind in ("none", "smeared", "sharp")
        ),
    ],
)
def test_evidence__weak_beam(name, strong_beam):
    assert verdict(name, strong_beam=strong_beam)["has_weak_beam"]


def test_evidence__share_of_weak_voxels_is_that_of_the_truth():
    made, found = layer("easy"), verdict("easy")
    u = np.abs(made.scan["phi"] - made.truth["phi0"][..., None]) / (found["width_local"][..., None])
    share = (u > 2.5)[np.isfinite(u)].mean()
    assert found["weak_of_lit"] == pytest.approx(share, abs=1 / 31)  # the tails begin within one frame of where they do


def test_evidence__deformed_crystal_has_no_local_peak():
    found = verdict("deformed")
    assert not found["has_weak_beam"]
    assert found["scatter"] > 0.14  # twice the limit
    assert any("peaks scatter by" in reason for reason in words(found))


def test_evidence__real_rocking_scan_without_weak_beam(real_scans):
    """A scan of ID03 whose curves are about as wide as the scan; pixel sizes only set the windows."""
    with h5py.File(real_scans["rocking"]) as file:
        frames = file["1.1/instrument/pco_ff/data"][()][::5].astype(np.float32)
    phi = 0.29 + 0.005 * np.arange(len(frames))
    y, x = 0.2 * np.arange(frames.shape[1]), 0.6 * np.arange(frames.shape[2])
    level = np.full(frames.shape[1:], np.quantile(frames, 0.02), np.float32)
    found = local_peak.kernel(np.moveaxis(frames, 0, -1), {"phi": phi}, y, x, background_map=level)
    assert not found["has_weak_beam"]
    assert found["weak_of_lit"] < 0.1
    assert 0.3 < found["lit"].mean() < 0.7


def test_evidence__nothing_lit():
    counts = np.full((24, 24, 9), 100, np.uint16)
    place = 0.25 * np.arange(24.0)
    level = np.full((24, 24), 100, np.float32)
    found = local_peak.kernel(counts, {"phi": np.arange(9.0)}, place, place, background_map=level)
    assert not found["lit"].any()
    assert not found["has_weak_beam"]
    assert words(found) == ("nothing is lit",)


def test_evidence__scan_that_ends_before_its_tails():
    assert "ends before" in reasons(0.0, float("nan"), 0.02, 0.0, 2.6)[1]


def test_evidence__scan_that_leaves_the_peak_out():
    """Only one flank: every curve is brightest where the scan begins, and no peak can be seen to be one."""
    made = layer("easy")
    part = made.counts[..., 20:], {"phi": made.scan["phi"][20:]}
    found = local_peak.kernel(*part, made.y, made.x, background_map=made.level)
    assert not found["has_weak_beam"]
    assert found["cut_off"] > 0.8
    assert any("have their maximum at an end of the scan" in reason for reason in words(found))


def test_evidence__background_that_is_too_high():
    made = layer("easy")
    found = local_peak.kernel(made.counts, made.scan, made.y, made.x, background=1000.0)
    assert not found["has_weak_beam"]
    assert any("the background is too high" in reason for reason in words(found))
