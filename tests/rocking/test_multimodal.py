"""``multimodal``: single Gaussians of any brightness are not flagged, pairs of them are."""

from __future__ import annotations

import numpy as np
import pytest

from dfxm_dask.rocking import moments

FRAMES, DRAWS = 121, 1500


def flagged(kind: str, noise: float, peak: float, sigma: float, *, two: bool, seed: int = 11) -> float:
    """Share of the lit pixels that are flagged; the recipe's cut at 5 standard deviations."""
    rng = np.random.default_rng(seed)
    frame = np.arange(FRAMES)
    centre = rng.uniform(0.4, 0.6, DRAWS)[:, None] * FRAMES
    places = (centre - 3 * sigma, centre + 3 * sigma) if two else (centre,)
    light = peak * sum(np.exp(-0.5 * ((frame - c) / sigma) ** 2) for c in places)
    counts = {
        "camera": lambda: 100 + rng.poisson(light) + rng.normal(0, noise, light.shape),
        "pedestal": lambda: rng.poisson(light + noise**2),
        "gauss": lambda: 100 + light + rng.normal(0, noise, light.shape),
    }[kind]()
    level = noise**2 if kind == "pedestal" else 100.0
    flags = moments.kernel(
        np.rint(counts).astype(np.uint16)[None],
        {"phi": 0.01 * frame},
        noise=np.float32(noise),
        background=level,
        noise_cut=5,
    )["flags"]
    lit = (flags & 1) == 0
    return float(((flags & 16) > 0)[lit].mean())


@pytest.mark.parametrize("sigma", [0.8, 2.5, 8.0])
@pytest.mark.parametrize(("kind", "noise"), [("camera", 2.0), ("pedestal", 22.0), ("gauss", 5.0)])
def test_multimodal__single_peaks_are_not_flagged(kind: str, noise: float, sigma: float) -> None:
    for over in (5, 6, 7.5, 10, 15, 60):
        assert flagged(kind, noise, over * noise, sigma, two=False) <= 0.02, over


@pytest.mark.parametrize("sigma", [2.5, 5.0, 8.0])
@pytest.mark.parametrize(("kind", "noise"), [("camera", 2.0), ("pedestal", 10.0), ("gauss", 5.0)])
def test_multimodal__pairs_are_flagged(kind: str, noise: float, sigma: float) -> None:
    for over in (10, 20, 100):
        assert flagged(kind, noise, over * noise, sigma, two=True) >= 0.9, over


def test_multimodal__is_judged_along_each_of_two_axes() -> None:
    chi, phi = np.arange(9.0), np.arange(31.0)
    rng = np.random.default_rng(0)

    def spot(c: float, p: float) -> np.ndarray:
        return 200 * np.exp(-0.5 * ((chi[:, None] - c) / 1.5) ** 2 - 0.5 * ((phi - p) / 2) ** 2)

    one, two = spot(4, 15), spot(4, 8) + spot(4, 22)
    counts = 100 + np.stack([one, two])[None, :] + rng.normal(0, 3, (300, 2, 9, 31))
    flags = moments.kernel(
        np.rint(counts).astype(np.uint16), {"chi": chi, "phi": phi}, noise=np.float32(3), background=100, noise_cut=5
    )["flags"]
    share = ((flags & 16) > 0).mean(axis=0)
    assert share[0] <= 0.02
    assert share[1] >= 0.95
