"""Probabilities of Burgers vectors, on walls that obey Frank's rule."""

from __future__ import annotations

import numpy as np
import pytest

from dfxm_dask.boundaries.burgers import rotation_of_wall
from dfxm_dask.boundaries.lattice import Lattice, lattice_vectors
from dfxm_dask.boundaries.posterior import RADIUS, burgers_probability
from dfxm_dask.errors import InputError

FCC = lattice_vectors(Lattice(parameter=4.05e-4, x=(1, 1, 0), z=(0, 0, 1)))
B = np.linalg.norm(FCC[0])


def two_families(rng: np.random.Generator) -> tuple:
    """Normal, lines, spacings, numbers of b, rotation of a wall of two families, from the dual of its b."""
    while True:
        numbers = rng.choice(6, 2, replace=False)
        b = FCC[numbers] * rng.choice([-1, 1], (2, 1))
        normal = rng.normal(size=3)
        normal /= np.linalg.norm(normal)
        axis = np.cross(*b)
        turn = axis / np.linalg.norm(axis) * B / rng.uniform(2.5, 9) * rng.choice([-1, 1])
        dual = np.linalg.pinv(b)  # columns are dual in the span of both
        g = np.cross(turn, dual.T)
        g -= (g @ normal)[:, None] * normal
        spacing = 1 / np.linalg.norm(g, axis=1)
        if spacing.max() < 12:
            return normal, np.cross(g * spacing[:, None], normal), spacing, numbers, turn


def tilt_wall(rng: np.random.Generator) -> tuple:
    number = rng.integers(6)
    normal = FCC[number] / B
    line = np.cross(normal, rng.normal(size=3))
    line /= np.linalg.norm(line)
    spacing = rng.uniform(2.5, 9)
    turn = rotation_of_wall(normal, line[None], [spacing], FCC[[number]])[0]
    return normal, line[None], np.array([spacing]), np.array([number]), turn


def measured(rng: np.random.Generator, wall: tuple, errors: tuple) -> dict:
    """The wall with errors drawn as stated: normal, lines in its plane, spacings, and the turn about y."""
    normal, line, spacing, _, turn = wall
    radius, degrees, part = errors
    tilt = rng.normal(size=3) * np.deg2rad(radius) / RADIUS
    tilt -= (tilt @ normal) * normal
    off = np.deg2rad(degrees) * rng.normal(size=len(line))
    turned = np.cos(off)[:, None] * line + np.sin(off)[:, None] * np.cross(normal, line)
    seen = normal + tilt
    seen /= np.linalg.norm(seen)
    turned = turned - (turned @ seen)[:, None] * seen
    jump = 0.05 * np.linalg.norm(turn)
    return {
        "normal": seen, "normal_error": radius, "line": turned / np.linalg.norm(turned, axis=1, keepdims=True),
        "line_error": np.full(len(line), degrees), "spacing": spacing * (1 + part * rng.normal(size=len(line))),
        "spacing_error": part * spacing, "turn": (turn[1] + jump * rng.normal(), jump),
    }  # fmt: skip


def test_burgers_probability__is_calibrated() -> None:
    """Of 300 walls: those with p >= 0.9 are right in 90 % and more, and mean p is the share that is right."""
    rng, best, right = np.random.default_rng(4), [], []
    for k in range(300):
        wall = tilt_wall(rng) if k % 3 == 0 else two_families(rng)
        assert rotation_of_wall(wall[0], wall[1], wall[2], FCC[wall[3]])[1] <= 1
        # From errors as small as any to such that leave several candidates.
        given = measured(rng, wall, tuple(np.exp(rng.uniform(np.log([0.2, 0.3, 0.01]), np.log([20, 15, 0.2])))))
        found = burgers_probability(candidates=FCC, **given)
        if np.isfinite(found).all():
            best += found.max(axis=1).tolist()
            right += (found.argmax(axis=1) == wall[3]).tolist()
    best, right = np.array(best), np.array(right)
    sure = best >= 0.9
    print("stated:", len(best), "sure:", sure.mean(), "right of these:", right[sure].mean(), best.mean(), right.mean())
    assert len(best) > 450
    assert sure.mean() > 0.5
    assert right[sure].mean() >= 0.9
    assert abs(best.mean() - right.mean()) < 0.06


def test_burgers_probability__leaves_open_what_errors_leave_open() -> None:
    normal, line = FCC[0] / B, np.cross(FCC[0] / B, [0.2, 0.3, 0.9])[None]
    line /= np.linalg.norm(line)
    given = {"line": line, "line_error": [0.5], "spacing": [4.0], "spacing_error": [0.04], "candidates": FCC}
    sharp = burgers_probability(normal, 0.5, **given)
    np.testing.assert_allclose(sharp.sum(axis=1), 1)
    assert sharp[0, 0] > 0.99
    between = FCC[0] + FCC[2] * np.sign(FCC[0] @ FCC[2])  # 30 degree from either
    between /= np.linalg.norm(between)
    along = np.cross(between, FCC[0] - FCC[2] * np.sign(FCC[0] @ FCC[2]))[None]
    given |= {"line": along / np.linalg.norm(along)}
    wide = burgers_probability(between, 20.0, **given)[0]
    np.testing.assert_allclose(wide[[0, 2]], 0.5, atol=0.05)
    assert np.isnan(burgers_probability(between, 0.3, **given)).all()


def test_burgers_probability__half_the_spacing_is_told_by_the_turn() -> None:
    """Read at half its spacing, a wall contradicts its jump; named as an overtone, it does not."""
    rng = np.random.default_rng(1)
    wall = tilt_wall(rng)
    given = measured(rng, wall, (0.3, 0.5, 0.01))
    given["spacing"] = given["spacing"] / 2
    size = np.linalg.norm(wall[4])
    given |= {"axis": tuple(wall[4] / size), "turn": (size, 0.02 * size), "candidates": FCC}
    assert np.isnan(burgers_probability(**given)).all()
    assert burgers_probability(**given, overtone=[True])[0, wall[3][0]] > 0.9


def test_burgers_probability__nothing_known_and_refusals() -> None:
    good = {
        "normal": FCC[0] / B, "normal_error": 0.5, "line": np.array([[0, 0, 1.0]]), "line_error": [0.5],
        "spacing": [4.0], "spacing_error": [0.1], "candidates": FCC,
    }  # fmt: skip
    for name in ("line_error", "spacing", "spacing_error"):
        assert np.isnan(burgers_probability(**good | {name: [np.nan]})).all()
    assert np.isnan(burgers_probability(**good, turn=(np.nan, 1e-6))).all()
    for change in ({"spacing": [4.0, 5.0]}, {"spacing_error": [0.0]}, {"candidates": FCC[:0]}, {"turn": (1e-5, 0.0)}):
        with pytest.raises(InputError, match="burgers_probability"):
            burgers_probability(**good | change)
