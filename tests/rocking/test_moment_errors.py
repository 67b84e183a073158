"""Standard errors of moments against the scatter of moments over repeated scans."""

from __future__ import annotations

import numpy as np
import pytest

from dfxm_dask import moment_errors, moments
from dfxm_dask.errors import InputError

ONE = {"phi": 0.01 * np.arange(41)}
THREE = {"two_theta": 0.03 * np.arange(7), "chi": 0.03 * np.arange(7), "phi": 0.002 * np.arange(15)}
DARK = 2.0


def repeats(scan: dict[str, np.ndarray], flux: float, gain: float, draws: int, turn: float = 0.0) -> np.ndarray:
    """Counts (draw, pixel, scan axes) of Gaussian curves at random positions, with an offset of 100 counts."""
    generator = np.random.default_rng(1)
    grids = np.stack(np.meshgrid(*(v / (v[-1] - v[0]) for v in scan.values()), indexing="ij"))
    pixels = 120 // len(scan) ** 2
    away = grids[:, None] - generator.uniform(0.4, 0.6, (len(scan), pixels))[(...,) + (None,) * len(scan)]
    if len(scan) > 1:
        away[1] -= turn * away[0]  # correlates the first two axes
    curves = np.exp(-0.5 * (away**2).sum(0) / 0.09**2)
    curves *= flux / curves.sum(axis=tuple(range(1, curves.ndim)), keepdims=True)
    size = (draws, *curves.shape)
    return np.round(100 + generator.normal(0, DARK, size) + generator.poisson(curves * gain, size) / gain)


@pytest.mark.parametrize(
    ("scan", "flux", "cut", "gain"),
    [(ONE, 500.0, 5.0, 1.0), (ONE, 3000.0, 0.0, 0.5), (ONE, 3000.0, 5.0, 0.5), (THREE, 4000.0, 5.0, 1.0)],
)
def test_moment_errors__state_the_scatter_over_repeated_scans(
    scan: dict[str, np.ndarray], flux: float, cut: float, gain: float
) -> None:
    counts = repeats(scan, flux, gain, 150 if len(scan) == 1 else 60).astype(np.uint16)
    given = {"background": 100.0, "noise_cut": cut, "noise": np.float32(np.hypot(DARK, 12**-0.5))}
    found = moments.kernel(counts, scan, **given)
    stated = moment_errors.kernel(counts, scan, **given, gain=gain)
    names = list(scan)
    for result in ("total", *(f"{word}_{n}" for word in ("com", "std", "width") for n in names)):
        error = f"{result}_error"
        found.setdefault(result, stated.get(result))
        scatter = found[result].var(axis=0, ddof=1, dtype=float)
        least = 0.95 if result[:3] in ("com", "tot") else 0.9
        assert least < np.sqrt((stated[error].astype(float) ** 2).mean() / scatter.mean()) < 1.1, result
        within = np.abs(found[result] - found[result].mean(0, dtype=float)) < stated[error]
        assert 0.64 < within.mean() < 0.73, result
    for n in names:
        split, error = (stated[f"com_{n}_{word}"].astype(float) for word in ("split", "error"))
        if found[f"std_{n}"].mean() < 1.1 * np.diff(scan[n]).mean():
            assert np.isnan(split).mean() > 0.9  # half of the frames do not sample the curve
        elif len(scan) == 1:
            known = np.isfinite(split) & np.isfinite(error)
            assert np.square(split[known]).mean() == pytest.approx(np.square(error[known]).mean(), rel=0.12)


def test_moment_errors__covariance_of_two_axes() -> None:
    scan = {name: THREE[name] for name in ("two_theta", "chi")}
    counts = repeats(scan, 2000.0, 1.0, 300, turn=0.7).astype(np.uint16)
    given = {"background": 100.0, "noise_cut": 5.0, "noise": np.float32(DARK)}
    found, stated = moments.kernel(counts, scan, **given), moment_errors.kernel(counts, scan, **given)
    away = [found[f"com_{n}"] - found[f"com_{n}"].mean(0) for n in scan]
    scatter = (away[0] * away[1]).mean()
    correlation = scatter / (away[0].std() * away[1].std())
    assert correlation > 0.3
    assert stated["com_two_theta_chi_covariance"].mean() == pytest.approx(scatter, rel=0.15)


def test_moment_errors__have_the_mask_of_moments() -> None:
    counts = repeats(ONE, 300.0, 1.0, 4)
    counts[0, :30], counts[1, :30, 20] = 100.0, np.nan
    hot = np.zeros(counts.shape[:2], bool)
    hot[2, :30] = True
    counts[3, :30] = np.where(np.arange(41) == 20, 150.0, 100.0)
    given = {"background": 100.0, "noise_cut": 5.0, "noise": np.float32(DARK), "hot": hot}
    found = moments.kernel(counts.astype(np.float32), ONE, **given)
    stated = moment_errors.kernel(counts.astype(np.float32), ONE, **given)
    single = (found["flags"] & 32) > 0
    assert single[3, :30].all()
    np.testing.assert_array_equal(np.isnan(stated["com_phi_error"]), np.isnan(found["com_phi"]) | single)
    np.testing.assert_array_equal(np.isnan(stated["total_error"]), np.isnan(found["total"]))


def test_moment_errors__scale_with_normalised_frames() -> None:
    """Counts of frames divided by 4 have a quarter of the noise and of the cut: the same errors of the position."""
    counts = repeats(ONE, 500.0, 1.0, 2).astype(np.float32) - 100
    given = {"background": "none", "noise_cut": 5.0, "noise": np.float32(DARK)}
    plain = moment_errors.kernel(counts, ONE, **given)
    scaled = moment_errors.kernel(counts / 4, ONE, **given, frame_scale=np.full(41, 0.25))
    np.testing.assert_allclose(scaled["com_phi_error"], plain["com_phi_error"], rtol=1e-4)
    np.testing.assert_allclose(4 * scaled["total_error"], plain["total_error"], rtol=1e-4)


def test_moment_errors__need_the_noise() -> None:
    counts = np.full((1, 1, 41), 100, np.uint16)
    with pytest.raises(InputError, match=r"read_noise.*noise of the layer is unknown.*give read_noise=<counts>"):
        moment_errors.kernel(counts, ONE, background=0.0)
    dark = moment_errors.kernel(counts, ONE, background=0.0, read_noise=0.0, gain=2.0)
    assert dark["total_error"].item() == pytest.approx(np.sqrt(41 * 100 / 2))
