"""Weak beam beyond all subgrains nearby: against naive loops, and on two subgrains with known dislocations."""

from __future__ import annotations

import numpy as np
import pytest

from dfxm_dask.beams import enhance_beams, integrate_beams, isolate_lines
from dfxm_dask.beams.isolated_lines import extreme_peaks

PHI = 0.002 * np.arange(31)
POSITION = 0.25 * np.arange(48.0)
SPOTS = ((10, 24), (24, 24), (38, 24))


def test_extreme_peaks__are_those_of_a_loop() -> None:
    generator = np.random.default_rng(0)
    peak = generator.random((9, 11)).astype(np.float32)
    lit = generator.random((9, 11)) < 0.8
    peak[2, 3] = np.nan
    low, high = extreme_peaks(peak, lit, (2, 1))
    for y, x in np.ndindex(peak.shape):
        box = slice(max(0, y - 2), y + 3), slice(max(0, x - 1), x + 2)
        near = peak[box][lit[box] & np.isfinite(peak[box])]
        known = lit[y, x] and np.isfinite(peak[y, x])
        assert (low[y, x], high[y, x]) == (near.min(), near.max()) if known else np.isnan([low[y, x], high[y, x]]).all()


def wall() -> dict[str, np.ndarray]:
    """Two subgrains that share the pixels of a slanted boundary, and places far out in the tail on it."""
    generator = np.random.default_rng(1)
    grain = np.arange(48) >= 24
    light = np.exp(-0.5 * ((PHI - np.where(grain, 0.036, 0.024)[:, None]) / 0.0015) ** 2)[None].repeat(48, axis=0)
    light[:, 22:26] = (light[:, 22:26] + light[:, 23:27] + light[:, 21:25]) / 3
    for y, x in SPOTS:
        light[y - 1 : y + 2, x - 1 : x + 2, 2:5] += 0.03
    counts = generator.poisson(100 + 4000 * light).astype(np.uint16)
    peak = np.where(grain, 0.036, 0.024).astype(np.float32) * np.ones((48, 1), np.float32)
    return {
        "counts": counts,
        "lit": np.ones((48, 48), bool),
        "peak": peak,
        "width": np.full((48, 48), 0.0035, np.float32),
    }


def test_isolate_lines__shows_the_dislocations_and_not_the_boundary_that_hides_them() -> None:
    made = wall()
    args = (made["counts"], {"phi": PHI}, made["lit"], made["peak"], made["width"], True)
    found = isolate_lines.kernel(*args, POSITION, POSITION, background=100)["weak_isolated"]
    on = np.zeros((48, 48), bool)
    for y, x in SPOTS:
        on[y - 1 : y + 2, x - 1 : x + 2] = True
    beside = np.zeros((48, 48), bool)
    beside[:, 20:28] = True
    beside &= ~np.pad(on, 2)[:48, :48] & ~np.pad(on, 2)[4:, 4:] & ~on
    assert np.median(found[on]) > 8
    assert np.quantile(found[beside], 0.99) < 5
    plain = integrate_beams.kernel(*args, background=100)
    tails = (plain[n] for n in ("weak", "weak_minus", "weak_plus", "weak_sigma"))
    streak = enhance_beams.kernel(*tails, made["lit"], POSITION, POSITION)["weak_enhanced"]
    border = (np.arange(48) == 23) | (np.arange(48) == 24)
    assert np.median(streak[beside & border]) > 0.8 * np.median(streak[on & border])  # there they drown


def test_isolate_lines__has_nothing_of_a_layer_without_weak_beam() -> None:
    made = wall()
    args = (made["counts"], {"phi": PHI}, made["lit"], made["peak"], made["width"], False)
    assert np.isnan(isolate_lines.kernel(*args, POSITION, POSITION, background=100)["weak_isolated"]).all()


def test_isolate_lines__wants_a_background() -> None:
    made = wall()
    args = (made["counts"], {"phi": PHI}, made["lit"], made["peak"], made["width"], True)
    with pytest.raises(ValueError, match="without a background"):
        isolate_lines.kernel(*args, POSITION, POSITION)
