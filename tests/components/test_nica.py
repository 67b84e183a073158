"""Non-negative independent components of known mixtures, and what removing the mean does to them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from dfxm_dask.components.curves import add_summaries
from dfxm_dask.components.nica import nica, nonnegative_rotation, unmix, whitening
from dfxm_dask.components.pca import principal_components
from dfxm_dask.components.project import project_nica
from tests.components.mixtures import correlation, overlapping, side_by_side

PHI = {"phi": np.arange(31.0)}
SEEDS = range(6)


def fitted(counts: np.ndarray, **parameters: Any) -> dict[str, np.ndarray]:
    return nica.finish(nica.kernel(counts, PHI, **{"components": 4, "background": 100} | parameters))


def projected(counts: np.ndarray, fit: dict[str, np.ndarray]) -> np.ndarray:
    grid = {"phi": fit["nica_grid_phi"]}
    return project_nica.kernel(counts, PHI, fit["nica_basis"], fit["nica_mean"], fit["nica_scaling"], grid)[
        "nica_coefficient"
    ]


def reached(mixture: Any, **parameters: Any) -> list[float]:
    """Correlation of found and true images for every seed."""
    found = []
    for seed in SEEDS:
        counts, images, _ = mixture(seed)
        found.append(correlation(projected(counts, fitted(counts, **parameters)), images))
    return found


def centred_sources(curves: np.ndarray, components: int) -> np.ndarray:
    """Sources (component, pixel) by the steps of darfix 7.0.2: whitening about the mean, then 500 steps of 0.03.

    Its absolute values at the end are left out; they make it worse.
    """
    away = curves - curves.mean(axis=0)
    values, vectors = np.linalg.eigh(away.T @ away / (len(away) - 1))
    rows = vectors[:, ::-1][:, :components].T
    rows = rows * np.sign(np.take_along_axis(rows, np.abs(rows).argmax(axis=1)[:, None], 1))
    white = (away @ rows.T / np.sqrt(values[::-1][:components])).T
    rotation = np.eye(components)
    for _ in range(500):
        sources = rotation @ white
        product = np.minimum(0, sources) @ sources.T
        rotation = rotation - 0.03 * (product - product.T) / white.shape[1] @ rotation
        left, _, right = np.linalg.svd(rotation)
        rotation = left @ right
    return rotation @ white


def test_nica__finds_overlapping_grains_again_and_does_not_without_the_mean() -> None:
    kept, refined = reached(overlapping, refine="none"), reached(overlapping)
    removed = []
    for seed in SEEDS:
        counts, images, _ = overlapping(seed)
        removed.append(correlation(centred_sources(counts.reshape(-1, 31) - 100.0, 4), images))
    assert min(kept) >= 0.95
    assert min(refined) >= 0.97
    assert np.mean(removed) <= 0.88
    assert np.mean(refined) > np.mean(kept) > max(removed)


def test_nica__finds_grains_side_by_side_by_their_products_and_not_by_their_covariance() -> None:
    assert min(reached(side_by_side, refine="none")) >= 0.97
    assert min(reached(side_by_side)) >= 0.97
    assert max(reached(side_by_side, refine="none", whiten="covariance")) <= 0.85
    assert fitted(side_by_side(0)[0])["nica_whitening"] == 1
    assert fitted(overlapping(0)[0])["nica_whitening"] == 0


def test_nica__curves_and_amounts_make_the_counts_again_and_their_absolute_values_do_not() -> None:
    counts = overlapping(2, level=20.0)[0]
    curves = counts.reshape(-1, 31) - 100.0
    fit = fitted(counts, refine="none")
    basis, amounts = fit["nica_basis"], projected(counts, fit).reshape(4, -1).T
    best = principal_components(curves.T @ curves, 4)[0]
    np.testing.assert_allclose(amounts @ basis, curves @ best.T @ best, atol=1e-3)
    left = ((curves - amounts @ basis) ** 2).sum()
    assert ((curves - np.abs(amounts) @ np.abs(basis)) ** 2).sum() > 1.05 * left
    assert (amounts < 0).any()


def test_nica__refined_is_not_negative_anywhere() -> None:
    counts = overlapping(2, level=20.0)[0]
    fit = fitted(counts)
    assert fit["nica_basis"].min() >= 0
    assert projected(counts, fit).min() >= 0
    assert fit["nica_optimum"] <= fit["nica_unexplained"] < 1.02 * fit["nica_optimum"]
    np.testing.assert_allclose(np.linalg.norm(fit["nica_basis"], axis=1), 1, rtol=1e-12)


@pytest.mark.parametrize("by", ["covariance", "moment"])
def test_whitening__makes_the_unit_matrix_keeps_the_mean_and_goes_back(by: Any) -> None:
    curves = overlapping(1, size=32)[0].reshape(-1, 31) - 100.0
    moments, mean = curves.T @ curves / len(curves), curves.mean(axis=0)
    basis = principal_components(moments, 4)[0]
    matrices = whitening(moments, mean, basis, by)
    assert matrices is not None
    white = curves @ matrices[0].T
    unit = np.cov(white.T, bias=True) if by == "covariance" else white.T @ white / len(white)
    np.testing.assert_allclose(unit, np.eye(4), atol=1e-9)
    assert white.mean(axis=0).max() > 0.5
    np.testing.assert_allclose(white.mean(axis=0), matrices[0] @ mean, atol=1e-9)
    np.testing.assert_allclose(white @ matrices[1].T, curves @ basis.T @ basis, atol=1e-8)


@pytest.mark.parametrize("components", [2, 3, 5])
def test_nonnegative_rotation__undoes_a_rotation_of_independent_sources(components: int) -> None:
    generator = np.random.default_rng(components)
    sources = generator.exponential(size=(components, 20000))
    turned = np.linalg.qr(generator.standard_normal((components, components)))[0]
    rotation, turns, converged = nonnegative_rotation(turned @ sources)
    assert converged
    assert 0 < turns < 2000
    np.testing.assert_allclose(rotation @ rotation.T, np.eye(components), atol=1e-12)
    table = rotation @ turned
    np.testing.assert_allclose(table.max(axis=1), 1, atol=0.02)
    assert sorted(table.argmax(axis=1)) == list(range(components))


def test_nonnegative_rotation__never_ends_worse_than_it_began() -> None:
    generator = np.random.default_rng(0)
    for _ in range(10):
        white = generator.standard_normal((3, 500)) + generator.standard_normal((3, 1))
        rotation, _, _ = nonnegative_rotation(white)
        assert (np.minimum(rotation @ white, 0) ** 2).sum() <= (np.minimum(white, 0) ** 2).sum() + 1e-9


def test_nica__is_the_same_to_the_last_bit_however_it_is_cut() -> None:
    counts = overlapping(8)[0]
    y, x = 0.5 * np.arange(64), 0.25 * np.arange(64)
    whole = nica.kernel(counts, PHI, z=np.array(3.0), y=y, x=x, background=100)
    parts = [
        nica.kernel(counts[a:b, c:d], PHI, z=np.array(3.0), y=y[a:b], x=x[c:d], background=100)
        for a, b, c, d in ((50, 64, 0, 64), (0, 50, 9, 64), (0, 50, 0, 9))
    ]
    merged = nica.finish(add_summaries(add_summaries(parts[2], parts[0]), parts[1]))
    for name, values in nica.finish(whole).items():
        np.testing.assert_array_equal(values, merged[name], err_msg=name)


def test_nica__looks_for_as_many_as_stand_out_of_the_noise_where_it_is_told_to() -> None:
    counts, images, _ = overlapping(9, grains=3)
    fit = fitted(counts, components=6, rank="noise")
    assert fit["nica_found"] == 3
    assert not fit["nica_basis"][3:].any()
    assert correlation(projected(counts, fit)[:3], images) > 0.97


@pytest.mark.parametrize("refine", ["nmf", "none"])
def test_nica__is_nan_without_light(refine: str) -> None:
    dark = np.full((9, 9, 31), 100, np.uint16)
    fit = fitted(dark, refine=refine)
    assert np.isnan(fit["nica_basis"]).all()
    assert np.isnan(projected(dark, fit)).all()
    assert fit["nica_found"] == 0
    assert fit["nica_whitening"] == -1
    assert not fit["nica_converged"]


def test_nica__refuses_curves_that_do_not_vary() -> None:
    curve = np.maximum(0, 9 - (np.arange(31) - 15) ** 2)
    counts = (100 + np.ones((6, 5, 1)) * curve).astype(np.uint16)
    with pytest.raises(ValueError, match="do not vary in 1 dimensions"):
        fitted(counts, whiten="covariance")
    fit = fitted(counts)
    np.testing.assert_allclose(fit["nica_basis"][0], curve / np.sqrt(curve @ curve), atol=1e-9)


def test_nica__refuses_more_components_than_frames_and_counts_without_a_background() -> None:
    counts = overlapping(1, size=8)[0]
    with pytest.raises(ValueError, match="choose at most 31"):
        fitted(counts, components=32)
    with pytest.raises(ValueError, match="nica without a background"):
        nica.kernel(counts, PHI)


def test_unmix__takes_the_whitening_that_leaves_less_below_zero() -> None:
    curves = side_by_side(3)[0].reshape(-1, 31) - 100.0
    moments, mean = curves.T @ curves / len(curves), curves.mean(axis=0)
    basis = principal_components(moments, 4)[0]
    each = {by: unmix(curves, moments, mean, basis, (by,))[4] for by in ("covariance", "moment")}
    best = unmix(curves, moments, mean, basis)
    assert best[4] == min(each.values())
    assert best[5] == min(each, key=lambda by: each[by]) == "moment"
    assert each["moment"] < 0.1 * each["covariance"]
