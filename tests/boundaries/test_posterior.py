"""Probabilities of Burgers vectors, on walls that obey Frank's rule."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from dfxm_dask.boundaries.vectors.burgers import rotation_of_wall
from dfxm_dask.boundaries.vectors.posterior import RADIUS, burgers_posterior
from dfxm_dask.errors import InputError
from dfxm_dask.optics.defects.lattice import Lattice, lattice_vectors

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
        "normal": seen,
        "normal_error": radius,
        "line": turned / np.linalg.norm(turned, axis=1, keepdims=True),
        "line_error": np.full(len(line), degrees),
        "spacing": spacing * (1 + part * rng.normal(size=len(line))),
        "spacing_error": part * spacing,
        "turn": (turn[1] + jump * rng.normal(), jump),
    }


def test_burgers_posterior__is_calibrated() -> None:
    """Of 200 walls: those with p >= 0.9 are right in 90 % and more, and mean p is the share that is right."""
    rng, best, right = np.random.default_rng(4), [], []
    for k in range(200):
        wall = tilt_wall(rng) if k % 3 == 0 else two_families(rng)
        assert rotation_of_wall(wall[0], wall[1], wall[2], FCC[wall[3]])[1] <= 1
        # From errors as small as any to such that leave several candidates.
        given = measured(rng, wall, tuple(np.exp(rng.uniform(np.log([0.2, 0.3, 0.01]), np.log([20, 15, 0.2])))))
        found = burgers_posterior(candidates=FCC, **given).probability
        if np.isfinite(found).all():
            best += found.max(axis=1).tolist()
            right += (found.argmax(axis=1) == wall[3]).tolist()
    best, right = np.array(best), np.array(right)
    sure = best >= 0.9
    print("stated:", len(best), "sure:", sure.mean(), "right of these:", right[sure].mean(), best.mean(), right.mean())
    assert len(best) > 300
    assert sure.mean() > 0.5
    assert right[sure].mean() >= 0.9
    assert abs(best.mean() - right.mean()) < 0.06


def test_burgers_posterior__leaves_open_what_errors_leave_open() -> None:
    normal, line = FCC[0] / B, np.cross(FCC[0] / B, [0.2, 0.3, 0.9])[None]
    line /= np.linalg.norm(line)
    given = {"line": line, "line_error": [0.5], "spacing": [4.0], "spacing_error": [0.04], "candidates": FCC}
    sharp = burgers_posterior(normal, 0.5, **given).probability
    np.testing.assert_allclose(sharp.sum(axis=1), 1)
    assert sharp[0, 0] > 0.95
    between = FCC[0] + FCC[2] * np.sign(FCC[0] @ FCC[2])  # 30 degree from either
    between /= np.linalg.norm(between)
    along = np.cross(between, FCC[0] - FCC[2] * np.sign(FCC[0] @ FCC[2]))[None]
    given |= {"line": along / np.linalg.norm(along)}
    wide = burgers_posterior(between, 20.0, **given).probability[0]
    np.testing.assert_allclose(wide[[0, 2]], 0.5, atol=0.05)
    hidden = burgers_posterior(between, 0.3, **given)  # no vector alone suits the wall
    assert hidden.hidden > 0.9
    assert hidden.probability.max() < 0.9


def test_burgers_posterior__half_the_spacing_is_told_by_the_turn() -> None:
    """Read at half its spacing, a wall contradicts its jump; named as an overtone, it does not."""
    rng = np.random.default_rng(1)
    wall = tilt_wall(rng)
    given = measured(rng, wall, (0.3, 0.5, 0.01))
    given["spacing"] = given["spacing"] / 2
    size = np.linalg.norm(wall[4])
    given |= {"axis": tuple(wall[4] / size), "turn": (size, 0.02 * size), "candidates": FCC}
    assert burgers_posterior(**given).hidden > 0.99
    found = burgers_posterior(**given, overtone=[True])
    assert found.probability[0, wall[3][0]] > 0.9
    assert found.misorientation == pytest.approx(size, rel=0.05)


@pytest.mark.parametrize("make", [tilt_wall, two_families])
def test_burgers_posterior__errors_of_rotation_hold_and_its_sign_follows_from_the_step(make: Any) -> None:
    """Closed form of Frank's rule as truth: stated 68 % hold 60 to 80 % of misorientations, twists and components."""
    rng, held, signs = np.random.default_rng(7), [], []
    for _ in range(150):
        wall = make(rng)
        given = measured(rng, wall, tuple(np.exp(rng.uniform(np.log([0.2, 0.3, 0.01]), np.log([2, 2, 0.04])))))
        found = burgers_posterior(candidates=FCC, **given)
        if not (found.probability.max(axis=1).min() > 0.9 and found.hidden < 0.5):
            continue
        turn = wall[4]
        sign = np.sign(found.rotation @ turn)
        if abs(turn[1]) > 0.3 * np.linalg.norm(turn):
            signs.append(sign)
            assert found.sign_probability > 0.99
        off = np.abs(sign * found.rotation - turn) < found.rotation_error
        size = np.linalg.norm(turn)
        held.append(
            [
                abs(found.misorientation - size) < found.misorientation_error,
                abs(found.twist - abs(turn @ given["normal"]) / size) < found.twist_error,
                off.mean(),
            ]
        )
    shares = np.mean(held, axis=0)
    print(make.__name__, len(held), shares.round(2), np.mean(np.array(signs) > 0))
    assert len(held) > 60
    assert np.mean(np.array(signs) > 0) == 1
    assert ((shares > 0.58) & (shares < 0.88)).all()


def test_burgers_posterior__of_images_tells_the_sign_and_the_product() -> None:
    """Images that prefer g·b = -1 by a factor of a thousand; without a step the sign is open before."""
    g = np.array([-0.7, 0.2, 0.4]) * 1e4
    products = FCC @ g
    normal = FCC[0] / B
    given = {
        "normal": normal,
        "normal_error": 1.0,
        "line": np.cross(normal, [0.0, 0, 1])[None],
        "line_error": [0.5],
        "spacing": [4.0],
        "spacing_error": [0.05],
        "candidates": FCC,
        "products": products,
    }
    open_sign = burgers_posterior(**given)
    assert open_sign.sign_probability == pytest.approx(0.5)
    assert open_sign.product_probability[0] == pytest.approx(0.5, abs=0.05)

    def images(spacing: np.ndarray, burgers: np.ndarray) -> float:
        assert spacing == pytest.approx([4.0])
        return float(np.log(1000)) * (burgers[0] @ g < 0)

    found = burgers_posterior(**given, images=images)
    assert found.burgers[0] @ g < 0
    assert found.product[0] == pytest.approx(-abs(products[0]))
    assert min(found.product_probability[0], found.sign_probability) > 0.9


def test_burgers_posterior__nothing_known_and_refusals() -> None:
    good = {
        "normal": FCC[0] / B,
        "normal_error": 0.5,
        "line": np.array([[0, 0, 1.0]]),
        "line_error": [0.5],
        "spacing": [4.0],
        "spacing_error": [0.1],
        "candidates": FCC,
    }
    for name in ("line_error", "spacing", "spacing_error"):
        assert np.isnan(burgers_posterior(**good | {name: [np.nan]}).probability).all()
    assert np.isnan(burgers_posterior(**good, turn=(np.nan, 1e-6)).probability).all()
    for change in ({"spacing": [4.0, 5.0]}, {"spacing_error": [0.0]}, {"candidates": FCC[:0]}, {"turn": (1e-5, 0.0)}):
        with pytest.raises(InputError, match="burgers_posterior"):
            burgers_posterior(**good | change)
