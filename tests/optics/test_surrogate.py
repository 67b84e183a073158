"""The closed form of the strong beam against Takagi-Taupin, Kato's J0² and the kinematic limit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy.special import j0

from dfxm_dask.errors import InputError
from dfxm_dask.optics import surrogate
from dfxm_dask.optics.surrogate import strong_beam, strong_beam_pattern, strong_beam_scalar
from tests.references.gold_set import WEAK_PEAKS, Gold, explained, fit, gold_set, weak_to_strong
from tests.references.section_images import section_image

THETA, WAVELENGTH = 0.156611422, 0.729319
CHI_H, CHI0 = -2.490e-6 - 1.45e-8j, -3.752e-6 - 1.51e-8j
LENGTH = WAVELENGTH * 1e-4 * np.cos(THETA) / abs(CHI_H)
SHEET = 0.5 / 2.3548


@pytest.fixture(scope="module")
def held_out() -> Gold:
    return gold_set(99, plates=6)


def theory(gold: Gold) -> np.ndarray:
    pattern = gold.pattern.copy()
    pattern[3:6] = 1, 0, 0
    return pattern


def test_strong_beam__is_bessel_without_sheet_and_fit() -> None:
    """2 kap L J0²(2 kap sqrt(s0 sh)), the better the larger the argument."""
    pattern = strong_beam_pattern(extinction_length=LENGTH, theta=THETA, visibility=1, phase0=0)
    for total, least, error in ((60.0, 8, 0.015), (400.0, 30, 0.002)):
        s0 = np.linspace(least, total - least, 5000)
        exact = 2 * pattern[0] * total * j0(2 * pattern[0] * np.sqrt(s0 * (total - s0))) ** 2
        assert np.abs(strong_beam(s0, total - s0, 0.0, pattern) - exact).max() < error * exact.max()


def test_strong_beam__has_mean_one_in_a_thick_plate() -> None:
    pattern = strong_beam_pattern(extinction_length=LENGTH, theta=THETA)
    for total, error in ((3000.0, 0.05), (30000.0, 0.02)):
        s0 = total * (np.arange(400000) + 0.5) / 400000
        assert strong_beam(s0, total - s0, 0.0, pattern).mean() == pytest.approx(1, abs=error)
    s0 = np.linspace(0, 3000, 2001)
    absorbing = strong_beam_pattern(extinction_length=LENGTH, theta=THETA, absorption=1e-3)
    np.testing.assert_allclose(
        strong_beam(s0, 3000 - s0, 0.0, absorbing), np.exp(-3) * strong_beam(s0, 3000 - s0, 0.0, pattern)
    )


def test_gold_set__of_a_perfect_plate_is_the_section_image() -> None:
    """In absolute units: the intensity of all angles together, kap² lambda / sin(2 theta) J0², over that of a plate."""
    gold = gold_set(4, plates=1, thickness=(90, 90), wedge=0, roughness=0, tilt=0, chi_h=CHI_H.real, chi0=0, step=0.1)
    total = gold.entry_path + gold.exit_path
    np.testing.assert_allclose(total, 90 / np.cos(THETA))
    pattern = strong_beam_pattern(extinction_length=LENGTH, theta=THETA)
    entry = np.linspace(-5, 5, 401) * SHEET
    weight = np.exp(-0.5 * (entry / SHEET) ** 2)
    shift = entry[:, None] / np.sin(2 * THETA)
    square = np.maximum((gold.entry_path + shift) * (gold.exit_path - shift), 0)
    exact = 2 * pattern[0] * total * np.average(j0(2 * pattern[0] * np.sqrt(square)) ** 2, axis=0, weights=weight)
    inner = (gold.entry_path > 8) & (gold.exit_path > 8)  # near the margins rays of large deviation are cut off
    assert np.linalg.norm((gold.intensity - exact)[inner]) < 0.02 * np.linalg.norm(exact[inner])


def test_strong_beam__explains_held_out_plates(held_out: Gold) -> None:
    """Measured: 98.5 to 99 % of the variance; 99.7 % of a perfect lattice with rough faces."""
    assert explained(held_out, held_out.pattern) > 0.97
    perfect = gold_set(98, plates=4, tilt=0.0)
    assert explained(perfect, perfect.pattern) > 0.995
    for change in ({"visibility": 0.0}, {"phase0": 0.5}, {"extinction_length": LENGTH * 1.03}, {"sheet": 0.0}):
        asked: dict[str, Any] = {"extinction_length": LENGTH, "theta": THETA, "sheet": SHEET, "absorption": 1.3e-3}
        assert explained(perfect, strong_beam_pattern(**{**asked, **change})) < explained(perfect, perfect.pattern)


def test_strong_beam__fails_where_the_lattice_is_bent() -> None:
    """The limit that the docstring of strong_beam() states; if this fails the form got better than it says."""
    bent = gold_set(97, plates=4, tilt=0.5)
    assert explained(bent, bent.pattern) < 0.4


def test_fit__returns_the_published_constants() -> None:
    """On other plates. Tolerance: three times the spread of sets of six plates over seeds 1 to 6."""
    constants = fit(gold_set(5, plates=6))
    assert constants["visibility"] == pytest.approx(surrogate.VISIBILITY, abs=0.02)
    assert constants["phase0"] == pytest.approx(surrogate.PHASE0, abs=0.03)
    assert constants["stretch"] == pytest.approx(surrogate.STRETCH, abs=0.27)


def test_fit__finds_what_made_the_data(held_out: Gold) -> None:
    truth = {"visibility": 0.6, "phase0": -0.4, "stretch": 1.1}
    pattern = held_out.pattern.copy()
    pattern[3:6] = list(truth.values())
    rng = np.random.default_rng(0)
    y = rng.normal(0, 0.5, held_out.entry_path.size)
    made = held_out._replace(deviation=y, intensity=strong_beam(held_out.entry_path, held_out.exit_path, y, pattern))
    found = fit(made)
    assert {name: round(value, 4) for name, value in found.items()} == truth


def test_strong_beam__is_dark_outside_and_one_scalar_each() -> None:
    pattern = strong_beam_pattern(extinction_length=LENGTH, theta=THETA, sheet=SHEET)
    entry, leave = np.array([10.0, -1.0, 10.0, np.nan, 0.0]), np.array([5.0, 10.0, -1.0, 5.0, 20.0])
    found = strong_beam(entry, leave, 0.3, pattern)
    assert found[1:4].tolist() == [0, 0, 0]
    assert found[[0, 4]].min() > 0
    assert np.isfinite(found).all()
    assert found.tolist() == [strong_beam_scalar(s0, sh, 0.3, pattern) for s0, sh in zip(entry, leave, strict=True)]
    grid = strong_beam(entry[:1, None], np.linspace(1, 9, 4), np.zeros((3, 1)), pattern)
    assert grid.shape == (3, 4)
    assert strong_beam(0.0, 0.0, 0.0, pattern).shape == ()


def test_strong_beam__loses_fringes_with_deviation() -> None:
    pattern = strong_beam_pattern(extinction_length=LENGTH, theta=THETA)
    s0 = np.linspace(40, 160, 4001)
    contrast = [np.std(strong_beam(s0, 200 - s0, y, pattern)) for y in (0.0, 2.0, 10.0)]
    assert contrast[0] > 1.2 * contrast[1] > 1.2 * 3 * contrast[2]


def test_sine__is_sin() -> None:
    angles = np.linspace(-60, 600, 20011)
    assert max(abs(surrogate._sine(angle) - np.sin(angle)) for angle in angles) < 1e-7


def test_weak_to_strong__is_takagi_taupin() -> None:
    """An edge dislocation at 3e-4 rad: flux near the core against the kinematic sum, and its published peak."""
    crystal: dict[str, Any] = {"theta": THETA, "wavelength": WAVELENGTH, "chi_h": CHI_H, "chi0": CHI0}
    thickness, spacing, at = 100.0, 1.4e-5, 50.6
    zeta = spacing * np.arange(-10, 11)
    weights = np.exp(-0.5 * (zeta / 2.25e-4) ** 2)
    weights[[0, -1]] /= 2
    plate: dict[str, Any] = {"thickness": thickness, "sheet": SHEET, "weights": weights, **crystal}
    s0, strong = section_image(deviations=zeta, step=0.1, **plate)
    mean = strong[(s0 > 0) & (s0 < thickness / np.cos(THETA))].mean()

    def edge(depth: np.ndarray, lateral: np.ndarray) -> np.ndarray:
        z, x = depth - at * np.cos(THETA), lateral + at * np.sin(THETA)
        square = x * x + z * z + 1e-6
        return np.arctan2(z, x) + x * z / (2 * (1 - 0.334) * square)

    def acceptance(depth: np.ndarray, lateral: np.ndarray, deviation: float) -> np.ndarray:
        rise, along = 1e-3 * np.cos(THETA), 1e-3 * np.sin(THETA)
        turn = edge(depth + rise, lateral + along) - edge(depth - rise, lateral - along)
        local = np.angle(np.exp(1j * turn)) / 2e-3 * WAVELENGTH * 1e-4 / (2 * np.pi * np.sin(2 * THETA))
        seen = deviation + local
        return np.where(np.abs(seen) < 1.4e-4, np.exp(-0.5 * (seen / 2.25e-4) ** 2), 0)

    entry = np.linspace(-4, 4, 161) * SHEET / np.cos(THETA)
    across = np.exp(-0.5 * (entry * np.cos(THETA) / SHEET) ** 2)
    gains, peaks = [], []
    for deviation in (3e-4, -3e-4):
        s0, weak = section_image(edge, deviations=deviation + zeta, step=0.1, **plate)
        near = np.abs(s0 - at) < 5
        path = s0[near] + entry[:, None] / (2 * np.sin(THETA))
        kinematic = np.average(
            acceptance(path * np.cos(THETA), entry[:, None] - path * np.sin(THETA), deviation), axis=0, weights=across
        )
        gains.append((weak[near] / mean).sum() / kinematic.sum())
        peaks.append(weak[near].max() / mean)
    pattern = strong_beam_pattern(extinction_length=LENGTH, theta=THETA)
    assert np.mean(gains) == pytest.approx(weak_to_strong(thickness / np.cos(THETA), pattern), rel=0.05)
    assert np.mean(peaks) == pytest.approx(WEAK_PEAKS[3e-4], rel=0.05)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"extinction_length": 0.0}, "extinction length 0 um: is not positive"),
        ({"theta": 1.6}, "no Bragg angle"),
        ({"absorption": -1.0}, "absorption = -1: is negative"),
        ({"visibility": np.nan}, "visibility = nan: is negative or not finite"),
    ],
)
def test_strong_beam_pattern__refuses(change: dict[str, Any], message: str) -> None:
    asked: dict[str, Any] = {"extinction_length": LENGTH, "theta": THETA}
    with pytest.raises(InputError, match=message):
        strong_beam_pattern(**{**asked, **change})


def test_strong_beam__refuses() -> None:
    pattern = strong_beam_pattern(extinction_length=LENGTH, theta=THETA)
    with pytest.raises(InputError, match="not seven constants"):
        strong_beam(1.0, 1.0, 0.0, pattern[:3])
    with pytest.raises(InputError, match="shapes that do not fit"):
        strong_beam(np.ones(2), np.ones(3), 0.0, pattern)


def test_gold_set__refuses_an_empty_set() -> None:
    with pytest.raises(InputError, match="0 plates"):
        gold_set(0, plates=0)
    with pytest.raises(InputError, match="empty set"):
        gold_set(0, thickness=(80, 50))
