"""Illumination apart from edges, and the orientation of edges: against scenes that are known, and scikit-image."""

from __future__ import annotations

import numpy as np
import pytest
from skimage.feature import structure_tensor

from dfxm_dask.dynamics.wavelets import directions, wavelets
from dfxm_dask.errors import InputError

UM = {"y": np.arange(96) * 0.04, "x": np.arange(110) * 0.12}
AT = {"time": np.arange(2.0)}


def scene(angle: float, amplitude: float = 1.5) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Counts of a line 4 pixels wide at an angle (degree, in um) in uneven light; the light; distances in pixels."""
    y, x = np.meshgrid(UM["y"] - UM["y"].mean(), UM["x"] - UM["x"].mean(), indexing="ij")
    turn = np.deg2rad(angle)
    across = np.hypot(np.sin(turn) / 0.12, np.cos(turn) / 0.04)  # pixels per um along the normal, in pixels
    away = (np.cos(turn) * y - np.sin(turn) * x) * np.hypot(np.cos(turn) / 0.04, np.sin(turn) / 0.12) ** 2 / across
    light = 400 * np.exp(0.6 * np.sin(2 * np.pi * x / 20) + 0.5 * y / 4)
    return light * np.exp(amplitude * np.exp(-((away / 2) ** 2))), light, away


def found(counts: np.ndarray, **options) -> dict[str, np.ndarray]:
    frames = np.moveaxis(np.atleast_3d(counts.T).T, 0, -1)
    return wavelets.kernel(frames, {"time": np.arange(float(frames.shape[2]))}, **UM, **options)


@pytest.mark.parametrize("angle", [0.0, 20.0, -60.0, 88.0])
def test_wavelets__follow_an_edge_and_leave_the_illumination(angle):
    clean, light, away = scene(angle)
    counts = np.random.default_rng(3).poisson(clean) + 100
    maps = {name: values[..., 0] for name, values in found(counts, background=100).items()}
    inner = np.zeros(away.shape, bool)
    inner[16:-16, 16:-16] = True
    on, off = inner & (np.abs(away) < 0.7), inner & (np.abs(away) > 20)
    turn = (maps["orientation"][on] - angle + 90) % 180 - 90
    assert np.abs(np.median(turn)) < 1.5
    assert maps["coherence"][on].min() > 0.8
    assert np.median(maps["edges"][on]) > 4 * np.median(maps["edges"][off])
    far = inner & (np.abs(away) > 40)
    if far.sum() > 50:
        assert np.abs(np.log(maps["illumination"] / light)[far]).max() < 0.15


def test_wavelets__noise_has_edges_of_one():
    counts = np.random.default_rng(4).normal(1000, 30, (2, 96, 110)).astype(np.float32)
    edges = found(counts, background="none")["edges"]
    assert edges.shape == (96, 110, 2)
    assert np.median(edges) == pytest.approx(1, abs=0.05)
    assert edges.max() < 2


def test_directions__agree_with_scikit_image():
    rng = np.random.default_rng(5)
    detail = np.cumsum(rng.normal(size=(80, 90)), 0).astype(np.float32)
    orientation, coherence = directions(detail, 3, (1.0, 1.0))
    yy, yx, xx = structure_tensor(detail, sigma=np.sqrt(21), mode="reflect", order="rc")
    wanted = np.rad2deg(0.5 * np.arctan2(-2 * yx, yy - xx))
    inner = (slice(15, -15),) * 2
    far = np.abs((orientation - wanted + 90) % 180 - 90)[inner]
    strong = coherence[inner] > 0.3
    assert np.median(far[strong]) < 2
    relative = np.hypot(yy - xx, 2 * yx) / (yy + xx)
    assert np.corrcoef(coherence[inner].ravel(), relative[inner].ravel())[0, 1] > 0.98


def test_wavelets__every_frame_on_its_own_and_masked_pixels_are_absent():
    first, second = (np.random.default_rng(k).poisson(scene(a)[0]).astype(np.float32) for k, a in ((0, 0.0), (1, 70.0)))
    first[40, 50] = np.nan
    hot = np.zeros(first.shape, bool)
    hot[10, 20] = True
    options = {"background_map": np.full(first.shape, 5, np.float32), "hot": hot, "wavelet": "db2"}
    both, alone = found(np.stack([first, second]), **options), found(second, **options)
    for name, values in both.items():
        assert values.dtype == np.float32
        np.testing.assert_array_equal(values[..., 1:], alone[name])
        absent = np.isnan(values)
        assert absent[40, 50, 0]
        assert absent[10, 20].all()
        assert absent.sum() == 3
    changed = first.copy()
    changed[10, 20] = 60000  # of a hot pixel nothing is used
    np.testing.assert_array_equal(found(np.stack([changed, second]), **options)["edges"], both["edges"])


def test_wavelets__frames_without_light():
    dark = found(np.full((96, 110), 100, np.uint16), background=100)
    assert np.isnan(dark["edges"]).all()
    assert np.isnan(dark["orientation"]).all()
    assert (dark["illumination"] == 0).all()
    absent = found(np.full((96, 110), np.nan, np.float32), background=100)
    assert all(np.isnan(values).all() for values in absent.values())
    below = np.random.default_rng(0).normal(0, 9, (96, 110)).astype(np.float32)
    assert np.isfinite(found(below, background=50)["edges"]).all()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"background": 1.0, "level": 2, "scales": 3}, "3 scales: exceed the 2 levels; give at most 2"),
        ({"background": 1.0, "wavelet": "db99"}, "is unknown; use haar"),
        ({}, "wavelets without a background"),
    ],
)
def test_wavelets__refuses(options, words):
    with pytest.raises(InputError, match=words):
        found(np.zeros((96, 110)), **options)
