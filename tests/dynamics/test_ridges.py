"""The ridge of a boundary through frames: against a boundary of known position."""

from __future__ import annotations

import numpy as np
import pytest

from dfxm_dask.dynamics.ridges import _path, follow_boundary, ridge, scatter
from dfxm_dask.errors import InputError

SHAPE = (160, 128)
UM = {"y": 2 + np.arange(160) * 0.1, "x": 5 + np.arange(128) * 0.2}


def film(seed: int, frames: int = 6) -> tuple[np.ndarray, np.ndarray]:
    """Counts (y, x, frame) of a bright line that moves as a whole in a beam that moves, and its columns (frame, y)."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]].astype(float)
    shape = 60 + 0.15 * y[:, 0] + 3 * np.sin(y[:, 0] / 30)
    at = shape + np.cumsum(rng.normal(0, 0.6, frames))[:, None]
    centre = 0.5 + np.cumsum(rng.normal(0, 0.05, frames))
    light = [200 * np.exp(-3 * (y / 160 - c) ** 2) * np.exp(rng.normal(0, 0.15)) for c in centre]
    counts = [one * (1 + 1.5 * np.exp(-(((x - a[:, None]) / 1.5) ** 2))) for one, a in zip(light, at, strict=True)]
    return rng.poisson(np.stack(counts, axis=2) + 100).astype(np.uint16), at


def followed(counts: np.ndarray, **options) -> dict[str, np.ndarray]:
    """All frames, in two parts."""
    options = {"background": 100} | options
    parts = [
        follow_boundary.kernel(c, {"time": np.arange(c.shape[2], dtype=float)}, **UM, **options)
        for c in (counts[:, :, :2], counts[:, :, 2:])
    ]
    return follow_boundary.finish(follow_boundary.combine(*parts))


def test_follow_boundary__position_and_its_error():
    off, inside = [], []
    for seed in (21, 22, 23):
        counts, at = film(seed)
        found = followed(counts)
        true = UM["x"][0] + 0.2 * at[:, :160].reshape(6, 10, 16).mean(2)
        away = found["boundary_position"] - true
        assert np.isfinite(away).all()
        off.append(away)
        inside.append(np.abs(away - np.median(away, 0)) < found["boundary_error"][:, None])
        np.testing.assert_allclose(found["boundary_along"], 2 + 0.1 * (7.5 + 16 * np.arange(10)))
    assert np.abs(np.median(off)) < 0.05  # a quarter of a pixel
    assert np.std(off) < 0.06
    assert 0.5 < np.mean(inside) < 0.9


def test_follow_boundary__along_x_is_the_same():
    counts, _ = film(24, 3)
    first = followed(counts)
    turned = follow_boundary.kernel(
        counts.transpose(1, 0, 2), {"time": np.arange(3.0)}, y=UM["x"], x=UM["y"], background=100, along="x"
    )
    np.testing.assert_allclose(turned["boundary_position"], first["boundary_position"], atol=1e-4)


def test_follow_boundary__no_position_in_noise_or_darkness():
    noise = np.random.default_rng(5).normal(300, 20, (*SHAPE, 3)).astype(np.float32)
    noise[:, :, 1] = 300
    found = followed(noise)
    assert np.isnan(found["boundary_position"]).all()
    assert np.isnan(found["boundary_error"]).all()


def test_path__is_the_best_of_all():
    score = np.random.default_rng(6).random((5, 4))
    out = np.empty(5, np.int64)
    _path(score, 1, out)
    grids = np.stack(np.meshgrid(*[np.arange(4)] * 5, indexing="ij")).reshape(5, -1).T
    grids = grids[(np.abs(np.diff(grids, axis=1)) <= 1).all(1)]
    assert score[np.arange(5), out].sum() == pytest.approx(score[np.arange(5), grids].sum(1).max())
    assert (np.abs(np.diff(out)) <= 1).all()


def test_ridge__top_of_a_parabola_below_the_pixel():
    columns = np.arange(40.0)
    edges = np.tile(5 - 0.05 * (columns - 17.3) ** 2, (32, 1)).astype(np.float32)
    position, strength = ridge(edges, 16, 4)
    np.testing.assert_allclose(position, 17.3, atol=1e-4)
    np.testing.assert_allclose(strength, 5, atol=1e-4)


def test_scatter__is_the_standard_error_of_a_moving_boundary():
    rng = np.random.default_rng(7)
    position = rng.normal(0, 5, 200)[:, None] + np.linspace(0, 30, 12) ** 2 + rng.normal(0, 0.2, (200, 12))
    assert np.median(scatter(position)) == pytest.approx(0.2, rel=0.15)
    assert np.isnan(scatter(position[:2])).all()
    assert np.isnan(scatter(position[:, :7])).all()


def test_follow_boundary__refuses():
    counts, _ = film(1, 3)
    with pytest.raises(InputError, match="spacing=100: the frame has 160 pixels along y; use a smaller one"):
        followed(counts, spacing=100)
