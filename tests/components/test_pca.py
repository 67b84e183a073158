"""Principal components against numpy's SVD of all curves, and their rank against known mixtures and known noise."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import xarray as xr

from dfxm_dask.components.pca import frame_noise_of, noise_rank, pca, principal_components
from tests.components.mixtures import overlapping

PHI = {"phi": np.arange(31.0)}


def found(counts: np.ndarray, scan: dict[str, np.ndarray] = PHI, **parameters: Any) -> dict[str, np.ndarray]:
    return pca.finish(pca.kernel(counts, scan, background=100, **parameters))


def scan_of(layers: int, shape: tuple[int, int] = (40, 36)) -> xr.Dataset:
    """Layers of overlapping grains as a Dataset."""
    counts = np.stack([overlapping(10 + z, size=40)[0][: shape[0], : shape[1]] for z in range(layers)])
    coords = {
        "z": ("z", np.arange(float(layers)), {"units": "um"}),
        "phi": ("phi", 0.01 * np.arange(31), {"units": "degree", "scan_axis": 0}),
        "y": ("y", 0.5 * np.arange(shape[0]), {"units": "um"}),
        "x": ("x", 0.5 * np.arange(shape[1]), {"units": "um"}),
    }
    values = np.moveaxis(counts, -1, 1)
    return xr.Dataset({"counts": (("z", "phi", "y", "x"), values, {"units": "count"})}, coords=coords)


def assert_is_svd(result: dict[str, np.ndarray], curves: np.ndarray, centred: bool) -> None:
    """Basis up to sign, mean squares and shares, to 1e-8 relative."""
    mean = curves.mean(axis=0) if centred else np.zeros(curves.shape[1])
    _, singular, rows = np.linalg.svd(curves - mean, full_matrices=False)
    basis = np.asarray(result["pca_basis"]).reshape(-1, curves.shape[1])
    count = len(basis)
    sign = np.sign((basis * rows[:count]).sum(axis=1))
    np.testing.assert_allclose(basis, rows[:count] * sign[:, None], rtol=0, atol=1e-8)
    np.testing.assert_allclose(result["pca_variance"], singular[:count] ** 2 / len(curves), rtol=1e-8)
    np.testing.assert_allclose(result["pca_explained"], singular[:count] ** 2 / (singular**2).sum(), rtol=1e-8)
    np.testing.assert_allclose(np.ravel(result["pca_mean"]), mean, rtol=1e-12)


@pytest.mark.parametrize("centred", [False, True])
def test_pca__is_numpys_svd_of_all_curves(centred: bool) -> None:
    counts = overlapping(1)[0]
    result = found(counts, components=4, centred=centred)
    assert_is_svd(result, counts.reshape(-1, 31) - 100.0, centred)
    np.testing.assert_allclose(result["pca_basis"] @ result["pca_basis"].T, np.eye(4), atol=1e-12)


@pytest.mark.parametrize("centred", [False, True])
def test_pca__of_six_layers_in_blocks_is_the_svd_of_all_of_them_and_the_same_however_cut(centred: bool) -> None:
    data = scan_of(6)
    chosen = {"components": 4, "background": 100, "centred": centred}
    curves = np.moveaxis(data["counts"].values, 1, -1).reshape(-1, 31) - 100.0
    results = [
        pca(data.chunk(chunks), **chosen).compute() for chunks in ({"z": 1}, {"z": 2, "y": 7, "x": 11}, {"z": 6})
    ]
    assert_is_svd({str(n): v.values for n, v in results[0].items()}, curves, centred)
    for other in results[1:]:
        xr.testing.assert_identical(results[0], other)


def test_pca__of_two_axes_is_that_of_the_flat_scan_labelled_back() -> None:
    counts = overlapping(2, size=24)[0][..., :30]
    scan = {"chi": np.arange(5.0), "phi": np.arange(6.0)}
    flat = found(counts, {"phi": np.arange(30.0)})
    both = found(counts.reshape(24, 24, 5, 6), scan)
    assert both["pca_basis"].shape == (3, 5, 6)
    np.testing.assert_array_equal(both["pca_basis"].reshape(3, 30), flat["pca_basis"])
    np.testing.assert_array_equal(both["pca_grid_chi"], np.broadcast_to(np.arange(5.0)[:, None], (5, 6)))


def test_pca__of_the_real_mosaicity_scan_is_its_svd(real_scans: dict[str, Path]) -> None:
    with h5py.File(real_scans["mosa_scan"]) as file:
        frames = file["1.1/instrument/pco_ff/image"][...].reshape(62, 43, 50, 70)[::4, ::4]
    counts = np.moveaxis(frames, (2, 3), (0, 1))
    result = found(counts, {"chi": np.arange(16.0), "phi": np.arange(11.0)}, components=5)
    assert result["pca_basis"].shape == (5, 16, 11)
    assert_is_svd(result, counts.reshape(3500, 176) - 100.0, False)
    assert 5 < result["pca_noise_rank"] < 176  # cells of one orientation each: many more than can be named


def test_pca__leaves_less_than_any_other_orthonormal_basis() -> None:
    counts = overlapping(3, size=24)[0]
    curves = counts.reshape(-1, 31) - 100.0
    result = found(counts)
    left = ((curves - curves @ result["pca_basis"].T @ result["pca_basis"]) ** 2).sum()
    np.testing.assert_allclose(left / (curves**2).sum(), 1 - result["pca_explained"].sum(), rtol=1e-9)
    generator = np.random.default_rng(0)
    for size in (1e-3, 0.1, 10.0):
        other = np.linalg.qr((result["pca_basis"] + size * generator.standard_normal((3, 31))).T)[0].T
        assert ((curves - curves @ other.T @ other) ** 2).sum() > left


def test_pca__takes_lit_pixels_with_finite_counts_only() -> None:
    counts = overlapping(4, size=24)[0].astype(np.float32)
    lit = np.random.default_rng(1).random((24, 24)) < 0.6
    lit[3, 4] = True
    broken = counts.copy()
    broken[3, 4, 7] = np.nan
    broken[~lit] = 60000
    result = pca.finish(pca.kernel(broken, PHI, None, lit, background=100))
    lit[3, 4] = False
    assert_is_svd(result, counts[lit] - 100.0, False)


def test_pca__after_anscombes_root_sees_photon_noise_of_one() -> None:
    share = np.linspace(0.5, 1.5, 12)
    level = np.random.default_rng(0).uniform(20, 400, (80, 80, 1)) * share
    counts = (np.random.default_rng(1).poisson(level) + 100).astype(np.uint16)
    scan = {"phi": np.arange(12.0)}
    own = share / (share.sum() - share)  # what the noise of the other frames adds: they tell this one by a mean
    noise = found(counts, scan, scaling="anscombe")["pca_noise"]
    np.testing.assert_allclose(noise, np.sqrt(1 + own), rtol=0.03)
    plain = found(counts, scan)["pca_noise"]
    assert plain[-1] / plain[0] == pytest.approx(np.sqrt(3), rel=0.1)


def test_pca__is_nan_without_light_and_zero_where_curves_have_no_more_components() -> None:
    dark = np.full((9, 9, 31), 100, np.uint16)
    unlit = pca.finish(pca.kernel(overlapping(1, size=9)[0], PHI, None, np.zeros((9, 9), bool), background=100))
    for result in (found(dark), unlit):
        for name in ("pca_basis", "pca_explained", "pca_variance", "pca_noise_rank"):
            assert np.isnan(result[name]).all(), name
    curve = np.array([0, 3, 9, 4, 1])
    counts = (100 + np.arange(30).reshape(5, 6, 1) * curve).astype(np.uint16)
    result = found(counts, {"phi": np.arange(5.0)})
    np.testing.assert_allclose(result["pca_basis"][0], curve / np.sqrt(curve @ curve), atol=1e-12)
    assert not result["pca_basis"][1:].any()
    np.testing.assert_allclose(result["pca_explained"], [1, 0, 0], atol=1e-12)
    assert result["pca_noise_rank"] == 1


def test_pca__refuses_more_components_than_frames_and_counts_without_a_background() -> None:
    counts = overlapping(1, size=8)[0]
    with pytest.raises(ValueError, match="choose at most 31"):
        pca.kernel(counts, PHI, components=32, background=100)
    with pytest.raises(ValueError, match="pca without a background"):
        pca.kernel(counts, PHI)


@pytest.mark.parametrize(("level", "size"), [(20.0, 64), (300.0, 64), (300.0, 200), (3000.0, 64)])
@pytest.mark.parametrize("grains", [2, 4])
def test_noise_rank__is_the_number_of_grains_whatever_the_light(level: float, size: int, grains: int) -> None:
    counts = overlapping(5, size=size, level=level, grains=grains)[0]
    result = found(counts, components=6)
    assert result["pca_noise_rank"] == grains
    if level == 3000:  # the rule of 99 % sees fewer in bright scans, and more in faint ones
        assert (np.cumsum(result["pca_explained"]) < 0.99).sum() + 1 <= grains
    if level == 20:
        assert (np.cumsum(result["pca_explained"]) < 0.99).sum() + 1 > grains


def test_noise_rank__of_noise_that_differs_between_frames_is_zero() -> None:
    generator = np.random.default_rng(3)
    sigma = np.linspace(1, 30, 25)
    for _ in range(5):
        curves = sigma * generator.standard_normal((4000, 25))
        rank, variance = noise_rank(curves.T @ curves / 4000, 4000, 0.0)
        assert rank == 0
        np.testing.assert_allclose(variance, sigma**2, rtol=0.12)


def test_noise_rank__is_not_known_from_few_curves() -> None:
    curves = np.random.default_rng(0).standard_normal((59, 30))
    assert np.isnan(noise_rank(curves.T @ curves / 59, 59, 0.0)[0])
    curves = np.random.default_rng(0).standard_normal((60, 30))
    assert noise_rank(curves.T @ curves / 60, 60, 0.0)[0] <= 1


def test_frame_noise__is_the_residual_of_a_regression_on_all_other_frames() -> None:
    counts = overlapping(6, size=24)[0].reshape(-1, 31) - 100.0
    variance = frame_noise_of(counts.T @ counts / len(counts), len(counts), 0.0)
    for frame in (0, 9, 15, 30):
        others = np.delete(counts, frame, axis=1)
        left = np.linalg.lstsq(others, counts[:, frame], rcond=None)[1].item()
        assert variance[frame] == pytest.approx(left / (len(counts) - 30), rel=1e-7)


def test_principal_components__have_their_largest_value_above_zero() -> None:
    rows = np.linalg.qr(np.random.default_rng(4).standard_normal((9, 9)))[0]
    basis, variance, _ = principal_components((rows.T * np.arange(9.0, 0, -1)) @ rows, 9)
    assert (np.take_along_axis(basis, np.abs(basis).argmax(axis=1)[:, None], 1) > 0).all()
    np.testing.assert_allclose(variance, np.arange(9.0, 0, -1), rtol=1e-12)
    np.testing.assert_allclose(np.abs(basis @ rows.T), np.eye(9), atol=1e-12)
