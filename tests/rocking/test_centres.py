"""Centres of rocking curves against known displacements below one step, and their errors against the scatter."""

from __future__ import annotations

import numpy as np
import pytest

from dfxm_dask import centres, moments
from dfxm_dask.errors import InputError

SCAN = {"two_theta": 0.015 * np.arange(-4, 5), "chi": 0.025 * np.arange(-4, 5), "phi": 0.0015 * np.arange(-9, 10)}
WIDTH = {"two_theta": 0.0136, "chi": 0.0227, "phi": 0.0027}
DARK = np.float32(12.0)
GAIN = 1 / 2.14


def curves(flux: float, away: np.ndarray, generator: np.random.Generator | None) -> np.ndarray:
    """Counts (1, pixel, scan axes) of Gaussian curves at `away` (axis, pixel), with an offset of 100 counts."""
    parts = [np.exp(-0.5 * ((u - a[:, None]) / WIDTH[n]) ** 2) for (n, u), a in zip(SCAN.items(), away, strict=True)]
    mean = np.einsum("pi,pj,pk->pijk", *parts)
    mean *= flux / mean.sum(axis=(1, 2, 3), keepdims=True)
    if generator is None:
        return 100 + mean[None]
    return np.round(100 + generator.normal(0, DARK, mean.shape) + generator.poisson(mean * GAIN) / GAIN)[None]


def found(counts: np.ndarray, cut: float, **given: float) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Moments and centres of the same counts."""
    first = moments.kernel(counts, SCAN, background=100.0, noise_cut=cut, noise=DARK)
    start = [{n: first[f"{word}_{n}"] for n in SCAN} for word in ("com", "std")]
    return first, centres.kernel(counts, SCAN, *start, background=100.0, noise=DARK, gain=GAIN, **given)


def test_centres__follow_displacements_below_one_step() -> None:
    """Without noise, but with the cut that noise requires: slope 1 within 0.5 %, where the centre of mass has not."""
    away = np.random.default_rng(1).uniform(-0.5, 0.5, (3, 150)) * [[0.015], [0.025], [0.0015]]
    worst = 1.0
    for flux in (500.0, 5000.0, 20000.0):
        counts = curves(10 * flux, away, None)
        first, measured = found(counts.astype(np.float32), 4.0)
        for name, true in zip(SCAN, away, strict=True):
            assert np.polyfit(true, measured[f"centre_{name}"][0], 1)[0] == pytest.approx(1, abs=0.005), name
            worst = min(worst, np.polyfit(true, first[f"com_{name}"][0], 1)[0])
    assert worst < 0.97


@pytest.mark.parametrize("flux", [5e3, 2e4, 2e5])
def test_centres__state_the_scatter(flux: float) -> None:
    generator = np.random.default_rng(2)
    away = generator.uniform(-1, 1, (3, 500)) * [[0.015], [0.025], [0.0015]]
    first, measured = found(curves(flux, away, generator).astype(np.uint16), 4.0)
    assert not measured["centre_reason"].any()
    for name, true in zip(SCAN, away, strict=True):
        off, stated = measured[f"centre_{name}"][0] - true, measured[f"centre_{name}_error"][0].astype(float)
        assert 0.92 < np.sqrt((off**2).mean() / (stated**2).mean()) < 1.08, name
        assert 0.63 < (np.abs(off) < stated).mean() < 0.73, name
        assert off.std() < 1.05 * (first[f"com_{name}"][0] - true).std(), name
        assert np.median(measured[f"window_{name}"]) == pytest.approx(1.5 * WIDTH[name], rel=0.35)


def test_centres__of_a_tilted_curve_have_its_covariance() -> None:
    generator = np.random.default_rng(3)
    scan = {name: SCAN[name] for name in ("two_theta", "chi")}
    grids = np.meshgrid(*(u / WIDTH[n] for n, u in scan.items()), indexing="ij")
    mean = 300 * np.exp(-0.5 * ((grids[0] - 0.7 * grids[1]) ** 2 + grids[1] ** 2))
    counts = (100 + generator.poisson(np.broadcast_to(mean * GAIN, (1, 600, *mean.shape))) / GAIN).astype(np.float32)
    start = [{n: np.full((1, 600), value) for n, value in one.items()} for one in (dict.fromkeys(scan, 0.0), WIDTH)]
    measured = centres.kernel(counts, scan, *start, background=100.0, read_noise=0.0, gain=GAIN)
    scatter = np.cov(measured["centre_two_theta"][0], measured["centre_chi"][0])[0, 1]
    assert measured["centre_two_theta_chi_covariance"].mean() == pytest.approx(scatter, rel=0.2)


def test_centres__are_missing_for_a_reason() -> None:
    away = np.zeros((3, 5))
    away[0, 1], away[2, 2] = 0.055, -0.012
    counts = curves(2e4, away, None).astype(np.float32)
    counts[0, 3] = 100.0  # unlit
    counts[0, 4, 4, 4, 9] = np.nan
    _, measured = found(counts, 4.0)
    assert measured["centre_reason"][0].tolist() == [0, 2, 2, 1, 1]
    for name in SCAN:
        assert np.isnan(measured[f"centre_{name}"][0]).tolist() == [False, True, True, True, True]
        assert np.isnan(measured[f"centre_{name}_error"][0]).tolist() == [False, True, True, True, True]
    start = {n: np.zeros((1, 5)) for n in SCAN}, {n: np.full((1, 5), WIDTH[n]) for n in SCAN}
    dim = curves(300.0, 0 * away, None).astype(np.float32)
    measured = centres.kernel(dim, SCAN, *start, background=100.0, noise=DARK, gain=GAIN)
    assert (measured["centre_reason"] == 8).all()
    assert np.isnan(measured["centre_phi"]).all()
    with pytest.raises(InputError, match="centres: parameter read_noise: is not given"):
        centres.kernel(counts, SCAN, dict.fromkeys(SCAN, away[:1]), dict.fromkeys(SCAN, away[:1]), background=0.0)


def test_centres__leave_out_axes_of_one_position() -> None:
    """An axis of one position has no centre, and changes no other."""
    phi, values = 0.01 * np.arange(41), 400 * np.exp(-0.5 * ((np.arange(41) - 17.3) / 4) ** 2)
    start = {"phi": np.full((1, 1), 0.18)}, {"phi": np.full((1, 1), 0.04)}
    one = centres.kernel(values[None, None], {"phi": phi}, *start, background=0.0, read_noise=1.0)
    more = [s | {"mu": np.zeros((1, 1))} for s in start]
    two = centres.kernel(
        values[None, None, :, None], {"phi": phi, "mu": np.zeros(1)}, *more, background=0.0, read_noise=1.0
    )
    assert one["centre_phi"].item() == pytest.approx(0.173, abs=1e-6)
    for name in ("centre_phi", "centre_phi_error"):
        assert two[name].item() == pytest.approx(one[name].item(), rel=1e-6)
    assert np.isnan(two["centre_mu"].item())
    assert two["centre_reason"].item() == 0
