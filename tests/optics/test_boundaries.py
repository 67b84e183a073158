"""Subgrain boundaries: Burgers circuits, Frank's rule, and no stress far away."""

from __future__ import annotations

import numpy as np
import pytest

from dfxm_dask.errors import InputError
from dfxm_dask.optics.defects.dislocation import gradient
from dfxm_dask.optics.defects.scene import Scene, distance, distortion, lattice, line_points, sector
from dfxm_dask.optics.defects.subgrains import edge_sets, plane_wall, tilt_junction

B = 2.86e-4
BOX = np.array([[-12.0, -12, -4], [12, 12, 4]])
HEXAGON = B * np.array([[np.cos(a), np.sin(a), 0] for a in np.deg2rad([0, 60, 120])])


def scene_of(*built) -> Scene:
    return Scene(
        0.334,
        lines=np.concatenate([b.lines for b in built]),
        sheets=np.concatenate([b.sheets for b in built]),
        junctions=tuple(b.junction for b in built),
    )


def junction(azimuths=(30.0, 150, 270), tilts=(6e-5, 5e-5, -11e-5)):
    return tilt_junction(
        np.array([0.3, -0.2, 0]),
        np.array([0, 0, 1.0]),
        np.array([1.0, 0, 0]),
        np.deg2rad(azimuths),
        np.array(tilts),
        HEXAGON,
        BOX,
        0.0,
    )


def circuit(scene: Scene, corners: np.ndarray, step: float = 2e-4) -> np.ndarray:
    """Integral of beta dl along a closed polygon, by the midpoint rule."""
    total = np.zeros(3)
    for a, b in zip(corners, np.roll(corners, -1, axis=0), strict=True):
        count = int(np.ceil(np.linalg.norm(b - a) / step))
        points = a + (np.arange(count)[:, None] + 0.5) / count * (b - a)
        beta = distortion(scene, *points.T).reshape(3, 3, -1)
        total += np.einsum("ijn,j->i", beta, (b - a) / count)
    return total


def square(centre: np.ndarray, half: float) -> np.ndarray:
    return centre + half * np.array([[1, 1, 0], [-1, 1, 0], [-1, -1, 0], [1, -1, 0.0]])


@pytest.mark.parametrize("azimuths", [(30.0, 150, 270), (10.0, 95, 230)])
def test_tilt_junction__circuits_enclose_whole_burgers_vectors(azimuths):
    built = junction(azimuths)
    scene = scene_of(built)
    for corners in (square(np.array([0.3, -0.2, 0]), 7.3), square(np.array([5.0, 3.0, 1.0]), 4.1)):
        low, high = corners.min(0), corners.max(0)
        place = built.lines["position"]
        inside = ((place[:, :2] > low[:2]) & (place[:, :2] < high[:2])).all(1)
        assert inside.sum() >= 2
        wanted = built.lines["burgers"][inside].sum(0)
        np.testing.assert_allclose(circuit(scene, corners), wanted, atol=2e-3 * B)


def test_tilt_junction__far_from_walls_only_the_rotation_is_left():
    built = junction()
    scene = scene_of(built)
    rng = np.random.default_rng(0)
    points = rng.uniform(-11, 11, (400, 3)) * [1, 1, 0.3]
    away = np.full(len(points), np.inf)
    for one in built.boundaries:
        along = np.maximum((points - one.origin) @ one.along, 0)
        foot = one.origin + along[:, None] * one.along
        away = np.minimum(away, np.linalg.norm((points - foot)[:, :2], axis=1))
    spacing = max(b.spacing.max() for b in built.boundaries)
    far = points[away > 0.9 * spacing]
    assert len(far) > 30
    left = distortion(scene, *far.T).reshape(3, 3, -1)
    turned = lattice(scene, *far.T).reshape(3, 3, -1)[1, 0]
    np.testing.assert_allclose((left[1, 0] - left[0, 1]) / 2, turned, atol=1.5e-6)
    assert np.abs((left + left.transpose(1, 0, 2)) / 2).max() < 1.5e-6  # strain; a wall alone has 3e-5


def test_tilt_junction__rotation_agrees_with_the_bare_lines():
    """No spread, no rotation: a long wall of bare lines turns the lattice by b/D, with the sign of the construction."""
    wall = plane_wall(
        "tilt",
        np.zeros(3),
        np.array([1.0, 0, 0]),
        np.array([0, 0, -B / 0.5]),
        np.array([[B, 0, 0]]),
        np.array([[0, 0, 1.0]]),
        np.array([[-1, -400, -1], [1, 400, 1.0]]),
        0.0,
    )
    assert wall.boundaries[0].spacing[0] == pytest.approx(0.5, rel=1e-6)
    beta = gradient(np.array([[1.0, 0.1, 0], [-1.0, 0.1, 0]]), wall.lines, poisson=0.334)
    turned = (beta[:, 1, 0] - beta[:, 0, 1]) / 2
    assert turned[0] - turned[1] == pytest.approx(-B / 0.5, rel=2e-3)
    built = distortion(scene_of(wall), np.array([1.0, -1]), np.array([0.1, 0.1]), np.zeros(2)).reshape(3, 3, 2)
    difference = (built[1, 0] - built[0, 1]) / 2 @ [1, -1]
    assert difference == pytest.approx(-B / 0.5, rel=1e-5)  # exp(-2 pi r/D) of the single lines is 3e-6


def test_plane_wall__twist_of_two_screw_sets_keeps_both_sides_free_of_strain():
    jump = np.array([0, 0, 7e-5])
    b = B * np.array([[1, 1, 0], [1, -1, 0]]) / np.sqrt(2)
    wall = plane_wall("twist", np.zeros(3), np.array([0, 0, 1.0]), jump, b, b / B, BOX, 0.0)
    assert wall.boundaries[0].spacing == pytest.approx([B / 7e-5] * 2, rel=1e-6)
    for side in (1, -1):
        z = side * 3.9
        beta = distortion(scene_of(wall), *np.array([[0.3, -0.4, z]]).T).reshape(3, 3)
        np.testing.assert_allclose(beta - beta.T, side * 7e-5 * np.array([[0, -1, 0], [1, 0, 0], [0, 0, 0]]), atol=1e-6)
        assert np.abs(beta + beta.T).max() < 1e-6


def test_edge_sets__fewest_that_add_up():
    assert len(edge_sets(1e-4 * HEXAGON[1] / B, HEXAGON)) == 1
    target = 1e-4 * np.array([np.cos(0.2), np.sin(0.2), 0])
    sets = edge_sets(target, HEXAGON)
    np.testing.assert_allclose(sum(b / s for b, s in sets), target, atol=1e-14)
    assert sets[0][1] < sets[1][1]


def test_sector__counts_counter_clockwise():
    built = junction((30.0, 150, 270))
    x, y = 0.3 + np.cos(np.deg2rad([90, 200, 300, 0])), -0.2 + np.sin(np.deg2rad([90, 200, 300, 0]))
    assert sector(built.junction, x, y, np.zeros(4)).tolist() == [0, 1, 2, 2]


def test_distance__lines_and_points_agree():
    from scipy.spatial import cKDTree

    scene = scene_of(junction())
    points, number = line_points(scene, BOX, 0.05)
    assert ((points >= BOX[0]) & (points <= BOX[1])).all()
    assert len(np.unique(number)) > 5
    rng = np.random.default_rng(2)
    where = rng.uniform(-5, 5, (200, 3)) * [1, 1, 0.3]
    nearest, _ = cKDTree(points).query(where)
    np.testing.assert_allclose(distance(scene, *where.T), nearest, atol=0.026)
    assert np.isinf(distance(Scene(0.3), np.zeros(1), np.zeros(1), np.zeros(1)))


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: junction(tilts=(1e-5, 1e-5, 1e-5)), "let them add up to zero"),
        (lambda: junction(azimuths=(30.0, 20, 40)), "do not ascend within one turn"),
        (lambda: edge_sets(np.array([0, 0, 1e-4]), HEXAGON), "no one or two Burgers vectors lie along its normal"),
        (
            lambda: plane_wall(
                "tilt",
                np.zeros(3),
                np.array([1.0, 0, 0]),
                np.array([0, 0, 1e-4]),
                np.array([[0, B, 0]]),
                np.array([[0, 0, 1.0]]),
                BOX,
                0.0,
            ),
            "Frank's rule leaves a residual",
        ),
        (lambda: distortion(Scene(0.3), np.zeros(2), np.zeros(3), np.zeros(2)), "1-D arrays of one length"),
        (lambda: distortion(Scene(0.3), np.full(2, np.nan), np.zeros(2), np.zeros(2)), "are not finite"),
    ],
)
def test_boundaries__refuse(call, words):
    with pytest.raises(InputError, match=words):
        call()
