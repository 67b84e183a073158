"""Frank's rule read backwards, and the jump of a map across a wall."""

from __future__ import annotations

import numpy as np
import pytest

from dfxm_dask.boundaries.planes.plane import in_plane
from dfxm_dask.boundaries.vectors.burgers import burgers_of_wall, peak_steps, rotation_of_wall, step_across
from dfxm_dask.errors import InputError
from dfxm_dask.optics.crystal import burgers_vectors, find_crystal
from dfxm_dask.optics.defects.scene import skew
from dfxm_dask.optics.forward import deviation, setting
from dfxm_dask.phantoms.presets import build
from dfxm_dask.phantoms.truth import tables
from tests.boundaries.points import angle_between
from tests.references.walls import three_sets

B = 2.86e-4
ALUMINIUM = burgers_vectors(find_crystal("Al"))
TABLE = {  # normal, axis, b, lines, spacings in um at 0.05 degree, to five digits
    "tilt": ([1, 1, 0], [1, -1, 2], [[1, 1, 0]], [[1, -1, 2]], [0.32773]),
    "twist on (001)": ([0, 0, 1], [0, 0, 1], [[1, 1, 0], [1, -1, 0]], [[1, 1, 0], [1, -1, 0]], [0.32773, 0.32773]),
    "twist on (111)": ([1, 1, 1], [1, 1, 1], [[1, 0, -1], [0, 1, -1]], [[2, -1, -1], [-1, 2, -1]], [0.28382, 0.28382]),
    "mixed on (111)": (
        [1, 1, 1],
        [-1, 3, 1],
        [[1, 0, -1], [0, 1, -1], [1, 0, 1]],
        [[1, 0, -1], [1, 0, -1], [1, -1, 0]],
        [0.94134, 0.94134, 0.31378],
    ),
}


@pytest.mark.parametrize("name", sorted(TABLE))
def test_rotation__of_the_table_of_boundaries(name: str) -> None:
    """The spacings of the table turn the lattice by 0.05 degree about its axis, for one choice of the signs of b."""
    normal, axis, b, line, spacing = TABLE[name]
    best = min(
        (
            rotation_of_wall(normal, line, spacing, np.array(signs)[:, None] * B * np.array(b) / np.sqrt(2))
            for signs in np.array(np.meshgrid(*[[1, -1]] * len(b))).T.reshape(-1, len(b))
        ),
        key=lambda found: found[1],
    )
    assert best[1] < 3e-5  # five digits of the spacings
    assert np.rad2deg(2 * np.arcsin(np.linalg.norm(best[0]) / 2)) == pytest.approx(0.05, rel=3e-5)
    assert angle_between(best[0], axis) < 0.003


def test_rotation__of_the_published_spacing() -> None:
    """4.1 um and 2.86 angstrom: 0.0040 degree."""
    turn, residual = rotation_of_wall([1, 0, 0], [[0, 0, 1]], [4.1], [[B, 0, 0]])
    assert np.linalg.norm(turn) == pytest.approx(B / 4.1, rel=1e-14)
    assert np.rad2deg(np.linalg.norm(turn)) == pytest.approx(0.003997, abs=5e-7)
    assert residual == 0
    np.testing.assert_allclose(turn, [0, 0, -B / 4.1], atol=1e-20)  # w(+) - w(-) = -b/D about the line


def test_rotation__undoes_the_net_of_any_three_burgers_vectors() -> None:
    rng = np.random.default_rng(8)
    for _ in range(5):
        normal, axis = rng.normal(size=(2, 3))
        b = B * rng.normal(size=(3, 3))
        line, spacing = three_sets(normal, axis, 1e-3, b)
        turn, residual = rotation_of_wall(normal, line, spacing, b)
        assert residual < 1e-9
        np.testing.assert_allclose(turn, 2 * np.sin(5e-4) * axis / np.linalg.norm(axis), rtol=1e-8)


def test_rotation__says_what_is_none() -> None:
    one_screw = rotation_of_wall([0, 0, 1], [[1, 0, 0]], [4.0], [[B, 0, 0]])
    assert one_screw[1] == pytest.approx(np.sqrt(0.5))
    np.testing.assert_allclose(one_screw[0], [0, 0, B / 8], atol=1e-18)  # half of what two families make
    assert rotation_of_wall([0, 0, 1], [[1, 0, 0]], [4.0], [[0, B, 0]])[1] == pytest.approx(1)


def test_burgers__of_a_tilt_wall_is_nearest_to_the_normal() -> None:
    rng = np.random.default_rng(0)
    truth = ALUMINIUM[0] / np.linalg.norm(ALUMINIUM[0])
    for _ in range(5):
        normal = truth + 0.05 * rng.normal(size=3)
        normal /= np.linalg.norm(normal)
        line = np.cross(normal, rng.normal(size=3))
        line /= np.linalg.norm(line)
        found = burgers_of_wall(normal, line[None], [4.1], ALUMINIUM)
        np.testing.assert_array_equal(found.burgers[0, 0], ALUMINIUM[0])
        assert np.argmax(np.abs(ALUMINIUM @ normal)) == 0
        # Of b off the normal the part along the line is half undone by a twist, the part across not at all.
        off = ALUMINIUM[0] / np.linalg.norm(ALUMINIUM[0])
        parts = off @ np.cross(normal, line), off @ line
        assert np.sin(np.deg2rad(found.misfit[0])) == pytest.approx(np.sqrt(parts[0] ** 2 + parts[1] ** 2 / 2))
        assert found.residual[1] > 3 * found.residual[0]
        assert (np.diff(found.residual) > -1e-9).all()


@pytest.mark.parametrize("seed", [0, 1])
def test_burgers__of_the_walls_of_the_published_volume(seed: int) -> None:
    """From normal, lines and spacings of the simulator's truth: its Burgers vectors, angles, axes, and kinds."""
    phantom = build("al002", layers=2, shape=(64, 64), seed=seed)[0]
    truth = {name: value for name, (_, value, _) in tables(phantom).items()}
    every = np.unique(np.abs(truth["set_burgers"]).round(12), axis=0)
    assert len(every)
    for k, angle in enumerate(truth["misorientation"]):
        mine = truth["set_boundary"] == k
        b, line, spacing = (truth[f"set_{word}"][mine] for word in ("burgers", "line", "spacing"))
        turned = _lattice_of(truth["set_burgers"])
        found = burgers_of_wall(truth["normal"][k], line, spacing, turned)
        assert found.residual[0] < 1e-6
        same = np.abs(found.burgers[0] - b).max() < 1e-9, np.abs(found.burgers[0] + b).max() < 1e-9
        assert any(same)
        sign = 1 if same[0] else -1
        np.testing.assert_allclose(sign * found.rotation[0], angle * truth["axis"][k], rtol=1e-6, atol=1e-11)
        assert found.twist[0] == pytest.approx(float(truth["twist"][k]), abs=1e-6)


def _lattice_of(burgers: np.ndarray) -> np.ndarray:
    """The six Burgers vectors a/2 <110> of the crystal that has these among its own."""
    known = [burgers[0]]
    for b in burgers:
        cosines = [abs(b @ k) / (b @ b) for k in known]
        if max(cosines) < 0.9:
            known.append(b)
    for a in list(known):
        for b in list(known):
            for c in (a + b, a - b):
                if abs(c @ c / (a @ a) - 1) < 1e-6 and max(abs(c @ k) / (c @ c) for k in known) < 0.9:
                    known.append(c)
    return np.array(known)


@pytest.mark.parametrize("sets", [1, 2])
def test_burgers__of_a_twist_wall_need_both_families(sets: int) -> None:
    screws = ALUMINIUM[[0, 1]]
    found = burgers_of_wall([1, 0, 0], screws[:sets], [4.1] * sets, ALUMINIUM, most=12)
    good = [k for k in range(len(found.residual)) if found.residual[k] < 1e-9]
    if sets == 1:
        assert not good
    else:
        assert len(good) == 1
        assert angle_between(found.burgers[0], screws).max() < 1e-5
        assert found.twist[0] == pytest.approx(1)
        assert np.linalg.norm(found.rotation[0]) == pytest.approx(np.linalg.norm(screws[0]) / 4.1)


GOOD = {"normal": [1, 0, 0], "line": [[0, 0, 1.0]], "spacing": [4.1], "burgers": [[B, 0, 0]]}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"normal": [0, 0, 0]}, "normal: contain a vector of length zero"),
        ({"line": [[0, 0, np.nan]]}, "finite vectors"),
        ({"spacing": [0.0]}, "above zero"),
        ({"spacing": [4.0, 5.0]}, "1 lines, 2 spacings"),
        ({"burgers": [[0, 0, 0]]}, "length zero"),
    ],
)
def test_rotation__refuses(change: dict, words: str) -> None:
    with pytest.raises(InputError, match=words):
        rotation_of_wall(**{**GOOD, **change})


def test_burgers__refuses() -> None:
    for line in (np.zeros((0, 3)), np.tile([0, 0, 1.0], (4, 1))):
        with pytest.raises(InputError, match="families of lines"):
            burgers_of_wall([1, 0, 0], line, [4.0] * len(line), ALUMINIUM)
    with pytest.raises(InputError, match="give finite vectors"):
        burgers_of_wall([1, 0, 0], [[0, 0, 1]], [4.0], np.zeros((6, 2)))
    with pytest.raises(InputError, match="three finite numbers"):
        peak_steps([0, np.nan, 0], 0.1)


def test_peak_steps__are_those_of_the_microscope() -> None:
    """A lattice that is turned a little is brought back to its peak by phi and chi."""
    at = setting(0.15)
    rng = np.random.default_rng(0)
    for turn in rng.normal(0, 1e-5, (4, 3)):
        phi, chi = np.deg2rad(peak_steps(turn, 0.15))
        q = deviation(skew(turn[:, None]), at)[0] + phi * at.moves["phi"] + chi * at.moves["chi"]
        np.testing.assert_allclose(q[:2], 0, atol=1e-9)


def _map(step: float, noise: float, gradient: tuple, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    normal = np.array([0.6, 0, 0.8])
    points = rng.uniform(-40, 40, (30_000, 3))
    distance = points @ normal - 1.0
    return points, normal, step * (distance > 0) + points @ gradient + rng.normal(0, noise, len(points))


def test_step_across__is_the_jump_and_not_the_bending() -> None:
    points, normal, values = _map(0.004, 2e-4, (1e-4, -2e-4, 3e-5))
    values[::97] = np.nan
    values[5::60] += 0.05  # what a dislocation does to a pixel
    found = step_across(points, values, normal, normal)
    assert abs(found.step - 0.004) < 4 * found.error + 2e-5
    assert 0 < found.error < 5e-5
    assert found.blocks >= 9
    back = step_across(points, values, -normal, normal)
    assert back.step == pytest.approx(-found.step, abs=3e-5)


def test_step_across__errors_cover() -> None:
    hits = []
    for seed in range(30):
        found = step_across(*(lambda p, n, v: (p, v, n, n))(*_map(0.004, 1e-3, (0, 0, 0), seed)), seed=seed)
        hits.append(abs(found.step - 0.004) < 2 * found.error)
    assert np.mean(hits) > 0.8


def test_step_across__nothing_known_is_nothing_found() -> None:
    points, normal, values = _map(0.004, 1e-4, (0, 0, 0))
    assert np.isnan(step_across(points, np.full_like(values, np.nan), normal, normal)[:2]).all()
    one_side = points @ normal > 1
    assert step_across(points[one_side], values[one_side], normal, normal).blocks == 0
    few = (np.abs(points).max(1) < 20) & ((points - normal) @ in_plane(normal).T > 0).all(1)
    alone = step_across(points[few], values[few], normal, normal, block=1000.0)
    assert np.isnan(alone.error)
    assert alone.step == pytest.approx(0.004, abs=1e-3)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"values": np.zeros(3)}, r"\(point, xyz\), \(point,\)"),
        ({"normal": [0, 0, 2]}, "unit vector"),
        ({"strip": (5.0, 5.0)}, "near < far"),
        ({"block": 0.0}, "block above 0"),
    ],
)
def test_step_across__refuses(change: dict, words: str) -> None:
    good = {"points": np.zeros((2, 3)), "values": np.zeros(2), "normal": [0, 0, 1], "origin": np.zeros(3)}
    with pytest.raises(InputError, match=words):
        step_across(**{**good, **change})


def test_rotation__refuses_a_vector_of_length_zero() -> None:
    with pytest.raises(InputError, match="normal: contain a vector of length zero"):
        rotation_of_wall(np.zeros(3), [[1, 0, 0]], [4.0], [[B, 0, 0]])
