"""Non-negative factors against scipy's NNLS, the updates of Lee and Seung, and known mixtures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from scipy.optimize import nnls

from dfxm_dask.components.curves import add_summaries
from dfxm_dask.components.nmf import curves_from_sums, factorise, matched_sample, nmf, purest_curves, unexplained
from dfxm_dask.components.nnls import nonnegative_coefficients
from dfxm_dask.components.pca import principal_components
from dfxm_dask.components.project import project_nmf
from tests.components.mixtures import correlation, overlapping, side_by_side

PHI = {"phi": np.arange(31.0)}


def fitted(counts: np.ndarray, **parameters: Any) -> dict[str, np.ndarray]:
    return nmf.finish(nmf.kernel(counts, PHI, **{"components": 4, "background": 100} | parameters))


def projected(counts: np.ndarray, fit: dict[str, np.ndarray]) -> np.ndarray:
    grid = {"phi": fit["nmf_grid_phi"]}
    return project_nmf.kernel(counts, PHI, fit["nmf_basis"], fit["nmf_mean"], fit["nmf_scaling"], grid)[
        "nmf_coefficient"
    ]


@pytest.mark.parametrize("components", [1, 2, 3, 4, 6, 10])
def test_nonnegative_coefficients__are_those_of_scipy(components: int) -> None:
    generator = np.random.default_rng(components)
    basis = np.abs(generator.standard_normal((components, 31))) + (0.5 if components > 4 else 0)
    amounts = generator.random((300, components)) * generator.choice([0, 0.2, 1], (300, 1))
    curves = amounts @ basis + generator.standard_normal((300, 31))
    found = nonnegative_coefficients(basis @ basis.T, curves @ basis.T)
    expected = np.array([nnls(basis.T, curve)[0] for curve in curves])
    np.testing.assert_allclose(found, expected, atol=1e-11)
    assert 0.1 < (found == 0).mean() < 0.9


def test_nonnegative_coefficients__of_signed_components_meet_the_conditions_of_kuhn_and_tucker() -> None:
    generator = np.random.default_rng(0)
    basis, curves = generator.standard_normal((5, 12)), generator.standard_normal((500, 12))
    found = nonnegative_coefficients(basis @ basis.T, curves @ basis.T)
    slope = (curves - found @ basis) @ basis.T
    assert found.min() == 0
    assert slope[found == 0].max() < 1e-10
    assert np.abs(slope[found > 0]).max() < 1e-10


def test_nonnegative_coefficients__of_copies_and_of_nothing_leave_what_scipy_leaves() -> None:
    generator = np.random.default_rng(1)
    one = np.abs(generator.standard_normal((3, 20)))
    basis = np.vstack([one, one[:1], 2 * one[1:2] + one[2:], np.zeros((1, 20))])
    curves = generator.standard_normal((200, 20)) + 1
    found = nonnegative_coefficients(basis @ basis.T, curves @ basis.T)
    expected = np.array([nnls(basis.T, curve)[1] for curve in curves])
    np.testing.assert_allclose(np.linalg.norm(curves - found @ basis, axis=1), expected, rtol=1e-12)
    assert not found[:, 5].any()


def test_nonnegative_coefficients__are_nan_where_a_product_is() -> None:
    found = nonnegative_coefficients(np.eye(2), np.array([[1.0, np.nan], [-1.0, 2.0], [np.inf, 1.0]]))
    np.testing.assert_array_equal(found, [[np.nan, np.nan], [0, 2], [np.nan, np.nan]])


def test_curves_from_sums__never_fit_worse_and_the_sums_add_up_over_blocks() -> None:
    generator = np.random.default_rng(2)
    amounts, curves = generator.random((400, 3)), generator.standard_normal((400, 12)) + 1
    start = generator.random((3, 12))
    whole = curves_from_sums(start, amounts.T @ curves, amounts.T @ amounts)
    parts = [(a.T @ c, a.T @ a) for a, c in ((amounts[:150], curves[:150]), (amounts[150:], curves[150:]))]
    np.testing.assert_allclose(whole, curves_from_sums(start, *map(sum, zip(*parts, strict=True))), atol=1e-12)
    assert whole.min() >= 0
    for _ in range(60):
        start = curves_from_sums(start, amounts.T @ curves, amounts.T @ amounts)
    best = np.array([nnls(amounts, frame)[0] for frame in curves.T]).T
    np.testing.assert_allclose(start, best, atol=1e-6)
    left = [((curves - amounts @ b) ** 2).sum() for b in (best, whole, generator.random((3, 12)))]
    assert left == sorted(left)


def lee_and_seung(curves: np.ndarray, components: int, rounds: int, generator: np.random.Generator) -> float:
    """Share of squares that their multiplicative updates leave: slow, and known never to rise."""
    curves = np.maximum(curves, 0)
    amounts, basis = generator.random((len(curves), components)), generator.random((components, curves.shape[1]))
    for _ in range(rounds):
        basis *= (amounts.T @ curves) / (amounts.T @ amounts @ basis + 1e-9)
        amounts *= (curves @ basis.T) / (amounts @ (basis @ basis.T) + 1e-9)
    return float(((curves - amounts @ basis) ** 2).sum() / (curves**2).sum())


@pytest.mark.parametrize("seed", range(3))
def test_factorise__leaves_no_more_than_lee_and_seung_and_hardly_more_than_the_optimum(seed: int) -> None:
    curves = overlapping(seed, size=40)[0].reshape(-1, 31) - 100.0
    leading = principal_components(curves.T @ curves, 4)[0]
    basis, rounds, converged = factorise(curves, purest_curves(curves, leading))
    left, optimum = unexplained(curves, basis, True)
    assert converged
    assert 3 < rounds < 500
    assert basis.min() >= 0
    assert optimum <= left < 1.01 * optimum
    assert left <= (1 + 1e-4) * lee_and_seung(curves, 4, 1000, np.random.default_rng(seed))


def test_factorise__fits_counts_below_zero_and_does_not_clip_them() -> None:
    generator = np.random.default_rng(5)
    true = np.array([[0.6, 0.8, 0.0, 0.0, 0.0, 0.0], [0.0, 0.6, 0.8, 0.0, 0.0, 0.0]])
    curves = 20 * generator.exponential(size=(5000, 2)) @ true + 3 * generator.standard_normal((5000, 6))
    plain, clipped = (factorise(c, true + 0.1)[0] for c in (curves, np.maximum(curves, 0)))
    assert plain[:, 3:].max() < 0.01 < 0.015 < clipped[:, 3:].min()


@pytest.mark.parametrize("mixture", [overlapping, side_by_side])
def test_nmf__finds_grains_and_their_curves_again(mixture: Any) -> None:
    reached = []
    for seed in range(3):
        counts, images, curves = mixture(seed)
        fit = fitted(counts)
        amounts = projected(counts, fit)
        assert amounts.min() >= 0
        assert fit["nmf_converged"]
        reached.append((correlation(amounts, images), correlation(fit["nmf_basis"], curves)))
    assert np.min(reached) > 0.98


def test_nmf__of_the_real_rocking_scan_leaves_hardly_more_than_the_optimum(real_scans: dict[str, Path]) -> None:
    with h5py.File(real_scans["rocking"]) as file:
        frames = file["1.1/instrument/pco_ff/image"][::5]
    counts = np.moveaxis(frames, 0, -1)
    scan = {"phi": np.arange(float(len(frames)))}
    fit = nmf.finish(nmf.kernel(counts, scan, components=3, background=2500))
    assert fit["nmf_converged"]
    assert fit["nmf_optimum"] <= fit["nmf_unexplained"] < 1.05 * fit["nmf_optimum"]
    maps = project_nmf.kernel(
        counts, scan, fit["nmf_basis"], fit["nmf_mean"], fit["nmf_scaling"], {"phi": fit["nmf_grid_phi"]}
    )
    total = ((counts - 2500.0) ** 2).mean()
    assert (maps["nmf_residual"].astype(float) ** 2).mean() / total == pytest.approx(fit["nmf_unexplained"], rel=0.1)
    assert maps["nmf_coefficient"].shape == (3, *counts.shape[:2])


def test_nmf__of_a_sample_is_that_of_all_pixels() -> None:
    counts = overlapping(7, size=96)[0]
    summary = nmf.kernel(counts, PHI, components=4, background=100)
    fit = nmf.finish(summary)
    curves = counts.reshape(-1, 31) - 100.0
    assert len(curves) > 4 * len(summary["sample_curves"])
    leading = principal_components(curves.T @ curves, 4)[0]
    every = factorise(curves, purest_curves(curves, leading))[0]
    assert (fit["nmf_basis"] @ every.T).max(axis=1).min() > 0.999
    least, left = (unexplained(curves, basis, True)[0] for basis in (every, fit["nmf_basis"]))
    assert least <= left < 1.002 * least
    assert fit["nmf_unexplained"] == pytest.approx(left, rel=0.01)
    assert fit["nmf_optimum"] == pytest.approx(unexplained(curves, leading, False)[1], rel=1e-6)


@pytest.mark.parametrize("frames", [3, 31])
def test_matched_sample__has_the_products_of_all_curves_and_is_hardly_moved(frames: int) -> None:
    counts = overlapping(11)[0][..., -frames - 14 : -14] if frames == 3 else overlapping(11)[0]
    summary = nmf.kernel(counts, {"phi": np.arange(float(frames))}, components=2, background=100)
    matched, sample = matched_sample(summary), summary["sample_curves"]
    curves = counts.reshape(-1, frames) - 100.0
    np.testing.assert_allclose(matched.T @ matched / len(matched), curves.T @ curves / len(curves), rtol=1e-6)
    assert 0 < np.abs(matched - sample).mean() < 0.05 * np.abs(sample).mean()


def test_matched_sample__of_few_curves_is_the_sample() -> None:
    summary = nmf.kernel(overlapping(11)[0][:6, :6], PHI, background=100)
    np.testing.assert_array_equal(matched_sample(summary), summary["sample_curves"])


def test_nmf__is_the_same_to_the_last_bit_however_it_is_cut() -> None:
    counts = overlapping(8)[0]
    place = {"z": np.array(3.0), "y": 0.5 * np.arange(64), "x": 0.5 * np.arange(64)}
    whole = nmf.kernel(counts, PHI, **place, background=100)
    parts = [
        nmf.kernel(counts[a:b, c:d], PHI, z=place["z"], y=place["y"][a:b], x=place["x"][c:d], background=100)
        for a, b, c, d in ((50, 64, 0, 64), (0, 50, 9, 64), (0, 50, 0, 9))
    ]
    merged = nmf.finish(add_summaries(parts[0], add_summaries(parts[1], parts[2])))
    for name, values in nmf.finish(whole).items():
        np.testing.assert_array_equal(values, merged[name], err_msg=name)


def test_nmf__looks_for_as_many_as_stand_out_of_the_noise_where_it_is_told_to() -> None:
    counts, images, _ = overlapping(9, grains=3)
    fit = fitted(counts, components=6, rank="noise")
    assert fit["nmf_found"] == 3
    assert not fit["nmf_basis"][3:].any()
    amounts = projected(counts, fit)
    assert not amounts[3:].any()
    assert correlation(amounts[:3], images) > 0.98
    assert fitted(counts[:20], components=5)["nmf_found"] == 5


def test_nmf__is_nan_without_light_and_zero_where_curves_have_no_more_components() -> None:
    dark = fitted(np.full((9, 9, 31), 100, np.uint16))
    assert np.isnan(dark["nmf_basis"]).all()
    assert not dark["nmf_converged"]
    assert dark["nmf_found"] == 0
    assert np.isnan(projected(np.full((9, 9, 31), 100, np.uint16), dark)).all()
    curve = np.maximum(0, 9 - (np.arange(31) - 15) ** 2)
    counts = (100 + 3 * np.arange(30).reshape(5, 6, 1) * curve).astype(np.uint16)
    fit = fitted(counts)
    assert fit["nmf_found"] == 1
    np.testing.assert_allclose(fit["nmf_basis"][0], curve / np.sqrt(curve @ curve), atol=1e-9)
    np.testing.assert_allclose(projected(counts, fit)[0].ravel(), 3 * np.arange(30) * np.sqrt(curve @ curve), rtol=1e-6)


def test_nmf__of_counts_below_the_background_makes_no_light() -> None:
    fit = fitted(np.zeros((9, 9, 31), np.uint16), components=2)
    assert not projected(np.zeros((9, 9, 31), np.uint16), fit).any()


def test_nmf__refuses_more_components_than_frames_and_counts_without_a_background() -> None:
    counts = overlapping(1, size=8)[0]
    with pytest.raises(ValueError, match="choose at most 31"):
        fitted(counts, components=32)
    with pytest.raises(ValueError, match="nmf without a background"):
        nmf.kernel(counts, PHI)
