"""Frames on one scale: when, by what, and what is refused, on rocking scans whose scale is known."""

from __future__ import annotations

import numpy as np
import pytest

from dfxm_dask.errors import InputError
from dfxm_dask.frames.scale import settle_scale

AUTO = {"by": "auto", "reference": None, "offset": None}
PHI = np.arange(31.0)
JITTER = np.random.default_rng(2).uniform(0.05, 1, (1, 31))
STEPS = np.where((PHI > 9) & (PHI < 20), 0.05, 1.0)[None]


def seen(beam: np.ndarray, diffuse: float = 200.0, width: float = 5.0, offset: float = 106.0) -> dict[str, np.ndarray]:
    """Sums of 5 x 4 patches of a bent grain with dark patches around it, at a beam of 1 or less."""
    centre = 15 + 0.4 * np.arange(20).reshape(5, 4)[:, :, None]
    share = np.where((np.arange(20) % 4 > 0).reshape(5, 4), 1.0, 0.0)[..., None]
    curve = 8000 * np.exp(-4 * np.log(2) * ((PHI - centre) / width) ** 2)
    light = np.moveaxis(diffuse + share * curve, -1, 0)
    counts = offset + beam[0][:, None, None] * light
    rng = np.random.default_rng(0)
    total = rng.normal(4096 * counts, 64 * np.sqrt(9 + counts))
    return {"patch_sum": total[None].round(), "patch_n": np.full((1, 31, 5, 4), 4096.0)}


@pytest.mark.parametrize(
    "beam", [JITTER, STEPS, np.exp(-0.1 * PHI)[None], 1 / (1 + 20 * np.exp(-((PHI - 18) ** 2) / 30))[None]]
)
@pytest.mark.parametrize("name", ["monitor", "exposure"])
def test_settle_scale__takes_the_beam_that_frames_follow(beam: np.ndarray, name: str) -> None:
    other = {"monitor": "exposure", "exposure": "monitor"}[name]
    data = {**seen(beam), name: 3e4 * beam, other: np.full_like(beam, 2.0)}
    found, told = settle_scale(AUTO, data, (31,))
    assert found is not None
    assert found["by"] == name
    assert found["offset"] == pytest.approx(106, abs=2)
    assert found["reference"] == pytest.approx(3e4 / np.sqrt((1 / beam**2).mean()), rel=1e-4)
    assert f"within a layer the {name} differs by up to a factor of" in told
    by_hand, _ = settle_scale({**AUTO, "offset": 100.0, "reference": 5.0}, data, (31,))
    assert by_hand == {"by": name, "offset": 100.0, "reference": 5.0}


@pytest.mark.parametrize("width", [1.0, 1.5, 3.0, 12.0])
def test_settle_scale__leaves_frames_alone_that_are_even_or_do_not_follow(width: float) -> None:
    steady = np.ones((1, 31))
    data = seen(steady, width=width)
    assert settle_scale(AUTO, {**data, "monitor": 1e5 * (1 + 0.1 * JITTER)}, (31,)) == (None, "")
    assert settle_scale(AUTO, data, (31,)) == (None, "")
    own = data["patch_sum"].mean(axis=(2, 3)) / 4096 - 305  # a counter of the diffracted beam
    diffuse = [own + part * own.max() for part in (0.05, 0.2, 0.5, 1.0)]
    for wrong in (JITTER, own, *diffuse, np.sqrt(own + 100), own**2 + 1e5):
        found, told = settle_scale(AUTO, {**data, "monitor": wrong}, (31,))
        assert found is None
        assert "but the frames do not follow; counts remain unchanged" in told


def test_settle_scale__refuses_what_it_cannot_mend() -> None:
    data = seen(JITTER)
    for beams in ({}, {"monitor": np.ones((1, 31))}, {"monitor": np.full((1, 31), np.nan)}, {"monitor": -JITTER}):
        with pytest.raises(InputError, match="become brighter and darker in all patches"):
            settle_scale(AUTO, {**data, **beams}, (31,))
    for bad in (0.0, np.nan, -1.0):
        monitor = JITTER.copy()
        monitor[0, [4, 9]] = bad
        with pytest.raises(InputError, match="2 of 31 frames have a monitor that is not a positive number"):
            settle_scale(AUTO, {**data, "monitor": monitor}, (31,))
    with pytest.raises(InputError, match="without a detector offset"):
        settle_scale({**AUTO, "by": "monitor"}, {"monitor": JITTER}, (31,))
    with pytest.raises(InputError, match="by exposure: the scan has no exposure"):
        settle_scale({**AUTO, "by": "exposure"}, {**data, "monitor": JITTER}, (31,))


@pytest.mark.parametrize("name", ["monitor", "exposure"])
@pytest.mark.parametrize("ratios", [(1, 2), (3, 1, 1), (1, 1.1, 400)])
def test_settle_scale__tells_of_layers_that_differ_only_from_one_another(name: str, ratios: tuple[float, ...]) -> None:
    layers = [seen(np.full((1, 31), r)) for r in ratios]
    data = {key: np.concatenate([layer[key] for layer in layers]) for key in layers[0]}
    beam = 0.5 * np.array(ratios)[:, None] * np.ones((1, 31))
    found, told = settle_scale(AUTO, {**data, name: beam}, (31,))
    assert found is None
    assert f"the {name} of layers differs by up to a factor of {max(ratios):.3g}" in told
    by_hand, _ = settle_scale({**AUTO, "by": name, "offset": 106.0}, {**data, name: beam}, (31,))
    assert by_hand is not None
    assert by_hand["by"] == name  # the advice works
    missing = np.concatenate([beam[:1], np.full((1, 31), np.nan)])
    assert settle_scale(AUTO, {**seen(np.ones((1, 31))), name: missing[:1]}, (31,)) == (None, "")
