"""Non-singular segments against quadrature of Mura's and of Cai's formula, equilibrium, and an independent code."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from dfxm_dask.errors import InputError
from dfxm_dask.optics.defects.dislocation import gradient, lines
from dfxm_dask.optics.defects.segments import network_gradient, polygon_loop
from tests.references.segments import loop_gradient, segment_gradient

POISSON = 0.334
REFERENCE = Path(__file__).parents[1] / "references" / "segments.npz"
PERMUTATION = np.zeros((3, 3, 3))
PERMUTATION[[0, 1, 2], [1, 2, 0], [2, 0, 1]] = 1
PERMUTATION[[0, 1, 2], [2, 0, 1], [1, 2, 0]] = -1
ONE = np.eye(3)
VOLUME = 2 * POISSON / (1 - 2 * POISSON)  # lambda / mu
STIFFNESS = (
    VOLUME * np.einsum("pq,mn->pqmn", ONE, ONE)
    + np.einsum("pm,qn->pqmn", ONE, ONE)
    + np.einsum("pn,qm->pqmn", ONE, ONE)
)


def unit(vector: np.ndarray) -> np.ndarray:
    return np.asarray(vector, float) / np.linalg.norm(vector)


def third_derivatives(apart: np.ndarray, core: float) -> np.ndarray:
    """d³ R_a / dx_j dx_m dx_n."""
    r = np.sqrt(np.sum(apart**2, axis=-1) + core**2)[..., None, None, None]
    mixed = sum(
        np.einsum(f"{pair},...{single}->...jmn", ONE, apart) for pair, single in (("jm", "n"), ("jn", "m"), ("mn", "j"))
    )
    return 3 * np.einsum("...j,...m,...n->...jmn", apart, apart, apart) / r**5 - mixed / r**3


def along(start: np.ndarray, end: np.ndarray, points: np.ndarray, count: int = 200) -> tuple[np.ndarray, np.ndarray]:
    s, weight = np.polynomial.legendre.leggauss(count)
    return points - (start + (1 + s[:, None, None]) / 2 * (end - start)), weight / 2


def mura(points: np.ndarray, nodes: np.ndarray, burgers: np.ndarray, core: float) -> np.ndarray:
    """int e_inh C_pqmn G_jp,q b_m dx_h with the whole stiffness and the Green's function made of R_a."""
    total = np.zeros((len(points), 3, 3))
    for start, end in zip(nodes, np.roll(nodes, -1, axis=0), strict=True):
        apart, weight = along(start, end, points)
        third = third_derivatives(apart, core)
        flat = np.einsum("...kkq,jp->...jpq", third, ONE)
        green = (flat - third / (2 * (1 - POISSON))) / (8 * np.pi)
        force = np.einsum("pqmn,m,inh,h->pqi", STIFFNESS, burgers, PERMUTATION, end - start)
        total += np.einsum("s,szjpq,pqi->zji", weight, green, force)
    return total


def test_loop__is_the_quadrature_of_muras_formula() -> None:
    rng = np.random.default_rng(0)
    nodes, b = 2 * rng.normal(size=(4, 3)), rng.normal(size=3)
    points = 2 * rng.normal(size=(25, 3))
    for core in (0.4, 1.5):
        found = loop_gradient(points, nodes, b, poisson=POISSON, core=core)
        np.testing.assert_allclose(found, mura(points, nodes, b, core), atol=1e-11)


def test_segment__strain_is_that_of_the_papers_stress() -> None:
    """Cai et al. 2006: the line integral of their stress, done by quadrature."""
    rng = np.random.default_rng(1)
    start, end, b = rng.normal(size=(3, 3))
    points, core = 2 * rng.normal(size=(25, 3)), 0.5
    apart, weight = along(start, end, points)
    third, step = third_derivatives(apart, core), end - start
    laplacian = np.einsum("...ppi->...i", third)
    first = np.einsum("szi,m,ima,b->szab", laplacian, b, PERMUTATION, step)
    second = np.einsum("m,imk,sziab,k->szab", b, PERMUTATION, third, step)
    spherical = np.einsum("m,imk,szi,k,ab->szab", b, PERMUTATION, laplacian, step, ONE)
    stress = (first + first.swapaxes(-1, -2)) / (8 * np.pi) + (second - spherical) / (4 * np.pi * (1 - POISSON))
    expected = np.einsum("s,szab->zab", weight, stress)
    beta = segment_gradient(points, start, end, b, poisson=POISSON, core=core)
    np.testing.assert_allclose(np.einsum("ijkl,zkl->zij", STIFFNESS, beta), expected, atol=1e-12)


@pytest.mark.parametrize("core", ["0.001", "1.0"])
def test_segments__agree_with_an_independent_code(core: str) -> None:
    with np.load(REFERENCE) as file:
        stored = dict(file)
    points, law = stored["points_b"], {"poisson": float(stored["nu"]), "core": float(core)}
    start, end = stored["segment_r1_r2"]
    found = {
        "segment": (segment_gradient(points, start, end, stored["segment_b"], **law), 1e-12),
        "loop": (loop_gradient(points, stored["loop_nodes"], stored["loop_b"], **law), 1e-12),
    }
    for name in ("edge", "screw", "mixed60"):
        b, t, _ = (unit(v) for v in stored[f"{name}_b_t_n"])
        # Ends 5e4 away: rounding there is the limit.
        found[name] = (segment_gradient(points, -5e4 * t, 5e4 * t, b, **law), 1e-7)
    for name, (beta, within) in found.items():
        expected = stored[f"{name}_a{core}"]
        assert np.abs(beta - expected).max() < within * np.abs(expected).max(), name


@pytest.mark.parametrize("degree", [0, 30, 60, 90])
def test_segment__becomes_the_straight_line(degree: float) -> None:
    rng = np.random.default_rng(int(degree))
    rotation, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    t, across = rotation[:2]
    b = np.cos(np.radians(degree)) * t + np.sin(np.radians(degree)) * across
    points = rng.normal(size=(50, 3))
    line = gradient(points, lines([0, 0, 0], b, t), poisson=POISSON)
    for reach, within in ((1e2, 1e-3), (1e4, 1e-7)):
        found = segment_gradient(points, -reach * t, reach * t, b, poisson=POISSON, core=1e-6)
        assert np.abs(found - line).max() < within


def hexagon(seed: int = 2) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    nodes = polygon_loop([0.1, 0.2, -0.3], rng.normal(size=3), 3.0, 6) + 0.3 * rng.normal(size=(6, 3))
    return nodes, rng.normal(size=3)


def test_loop__is_in_equilibrium_everywhere_and_compatible_off_the_core() -> None:
    nodes, b = hexagon()
    core, h = 0.05, 1e-3
    far = 2 * np.random.default_rng(3).normal(size=(60, 3))
    spine = np.concatenate([nodes + s * (np.roll(nodes, -1, axis=0) - nodes) for s in np.linspace(0, 1, 200)])
    away = np.linalg.norm(far[:, None] - spine, axis=2).min(axis=1)
    far = far[away > 0.7]
    near = (nodes + np.roll(nodes, -1, axis=0)) / 2 + 0.03  # inside the core: the stress is in balance there too
    slopes = {}
    for name, points, step in (("far", far, h), ("near", near, h)):
        field = [
            loop_gradient(points[:, None] + m * step * ONE, nodes, b, poisson=POISSON, core=core).transpose(0, 2, 3, 1)
            for m in (-2, -1, 1, 2)
        ]
        slopes[name] = (field[0] - 8 * field[1] + 8 * field[2] - field[3]) / (12 * step)
    size = {name: np.abs(slope).max() for name, slope in slopes.items()}
    for name, slope in slopes.items():
        assert np.abs(np.einsum("ijkl,pklj->pi", STIFFNESS, slope)).max() < 2e-6 * size[name], name
    curl = {name: np.abs(np.einsum("jkl,pilk->pij", PERMUTATION, s)).max() for name, s in slopes.items()}
    assert curl["far"] < 1e-4 * size["far"]  # the spread Burgers vector falls off like (a/R)^4 and faster
    assert curl["near"] > 0.1 * size["near"]  # in the core there is dislocation density: the check can fail


def test_loop__circuit_through_it_closes_to_the_burgers_vector() -> None:
    nodes = polygon_loop([0, 0, 0], [0, 0, 1], 1.0, 5)
    b = np.array([0.3, -0.5, 0.8])
    # The whole z axis, closed at infinity: upwards inside a counter-clockwise loop is counter-clockwise about its line.
    s, weight = np.polynomial.legendre.leggauss(200)
    angle = np.pi / 2 * s
    points = np.tan(angle)[:, None] * [0, 0, 1]
    beta = loop_gradient(points, nodes, b, poisson=POISSON, core=1e-3)
    through = np.einsum("p,pi->i", weight * np.pi / 2 / np.cos(angle) ** 2, beta[:, :, 2])
    np.testing.assert_allclose(through, b, atol=1e-5)
    # A small ring about one side.
    middle, side = (nodes[0] + nodes[1]) / 2, unit(nodes[1] - nodes[0])
    out = unit(middle)
    turn = 2 * np.pi * np.arange(400)[:, None] / 400
    ring = middle + 0.3 * (np.cos(turn) * out + np.sin(turn) * np.cross(side, out))
    step = 0.3 * (np.cos(turn) * np.cross(side, out) - np.sin(turn) * out) * 2 * np.pi / 400
    beta = loop_gradient(ring, nodes, b, poisson=POISSON, core=1e-4)
    np.testing.assert_allclose(np.einsum("pij,pj->i", beta, step), b, atol=1e-6)


def test_loop__sides_may_be_split_and_the_sense_reversed() -> None:
    nodes, b = hexagon(4)
    points = 2 * np.random.default_rng(5).normal(size=(40, 3))
    law = {"poisson": POISSON, "core": 0.1}
    whole = loop_gradient(points, nodes, b, **law)
    finer = np.stack([nodes, (nodes + np.roll(nodes, -1, axis=0)) / 2], axis=1).reshape(-1, 3)
    np.testing.assert_allclose(loop_gradient(points, finer, b, **law), whole, atol=1e-13)
    np.testing.assert_allclose(loop_gradient(points, nodes[::-1], -b, **law), whole, atol=1e-13)
    opened = sum(segment_gradient(points, nodes[k - 1], nodes[k], b, **law) for k in range(6))
    np.testing.assert_allclose(opened, whole, atol=1e-13)


def theta() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Two triangles with one side in common."""
    rng = np.random.default_rng(6)
    nodes = 2 * rng.normal(size=(4, 3))
    first, second = rng.normal(size=(2, 3))
    segments = np.array([[0, 1], [1, 2], [2, 0], [2, 3], [3, 0]])
    return nodes, segments, np.array([first, first, first - second, second, second]), np.stack([first, second])


def test_network__is_the_sum_of_its_loops() -> None:
    nodes, segments, burgers, (first, second) = theta()
    points = np.random.default_rng(7).normal(size=(3, 5, 3))
    law = {"poisson": POISSON, "core": 0.2}
    expected = loop_gradient(points, nodes[[0, 1, 2]], first, **law) + loop_gradient(
        points, nodes[[0, 2, 3]], second, **law
    )
    found = network_gradient(points, nodes, segments, burgers, **law)
    np.testing.assert_allclose(found, expected, atol=1e-13)
    turned = network_gradient(points, nodes, segments[:, ::-1], -burgers, **law)
    np.testing.assert_allclose(turned, expected, atol=1e-13)


def test_network__names_the_node_where_it_is_open() -> None:
    nodes, segments, burgers, _ = theta()
    law = {"poisson": POISSON, "core": 0.2}
    with pytest.raises(InputError, match=r"network is not closed: at node [23]"):
        network_gradient(np.ones(3), nodes, np.delete(segments, 3, axis=0), np.delete(burgers, 3, axis=0), **law)
    wrong = burgers.copy()
    wrong[2] *= -1
    with pytest.raises(InputError, match=r"network is not closed: at node [02]"):
        network_gradient(np.ones(3), nodes, segments, wrong, **law)
    with pytest.raises(InputError, match="outside 0 to 3"):
        network_gradient(np.ones(3), nodes, segments + 1, burgers, **law)
    with pytest.raises(InputError, match="integers"):
        network_gradient(np.ones(3), nodes, segments.astype(float), burgers, **law)
    with pytest.raises(InputError, match="segment 1: has length zero"):
        network_gradient(np.ones(3), nodes[[0, 1, 1, 3]], segments, burgers, **law)
    with pytest.raises(InputError, match="shapes"):
        network_gradient(np.ones(3), nodes, segments, burgers[:2], **law)
    # Rounding of a Burgers vector is no opening.
    network_gradient(np.ones(3), nodes, segments, burgers * (1 + 1e-12 * np.arange(5)[:, None]), **law)


def test_segments__a_point_does_not_depend_on_its_block() -> None:
    nodes, b = hexagon(8)
    rng = np.random.default_rng(9)
    points = 3 * rng.normal(size=(1029, 3))
    whole = loop_gradient(points, nodes, b, poisson=POISSON, core=0.01)
    for cuts in ([1], [3, 256, 700], [255, 257, 1028]):
        parts = [loop_gradient(p, nodes, b, poisson=POISSON, core=0.01) for p in np.split(points, cuts)]
        np.testing.assert_array_equal(np.concatenate(parts), whole)
    order = rng.permutation(1029)
    np.testing.assert_array_equal(loop_gradient(points[order], nodes, b, poisson=POISSON, core=0.01), whole[order])


def test_segments__are_finite_on_the_line_itself() -> None:
    nodes, b = hexagon(10)
    found = loop_gradient(
        np.concatenate([nodes, 2 * nodes - np.roll(nodes, 1, axis=0)]), nodes, b, poisson=0.3, core=1e-6
    )
    assert np.isfinite(found).all()


@pytest.mark.parametrize("core", [0.0, -1.0, np.nan, np.inf])
def test_segments__refuse_a_core_of_nothing(core: float) -> None:
    with pytest.raises(InputError, match="core radius above zero"):
        segment_gradient(np.ones(3), [0, 0, 0], [1, 0, 0], [1, 0, 0], poisson=POISSON, core=core)


def test_segments__refuse_what_is_no_segment() -> None:
    with pytest.raises(InputError, match="not finite"):
        segment_gradient(np.ones(3), [0, 0, np.nan], [1, 0, 0], [1, 0, 0], poisson=POISSON, core=1)
    with pytest.raises(InputError, match="poisson"):
        segment_gradient(np.ones(3), [0, 0, 0], [1, 0, 0], [1, 0, 0], poisson=0.6, core=1)
    with pytest.raises(InputError, match="at least three corners"):
        loop_gradient(np.ones(3), np.ones((2, 3)), [1, 0, 0], poisson=POISSON, core=1)


def test_polygon__is_regular_and_counter_clockwise() -> None:
    centre, normal = np.array([1.0, -2, 3]), np.array([1.0, 2, -2])
    nodes = polygon_loop(centre, normal, 0.7, 7) - centre
    np.testing.assert_allclose(np.linalg.norm(nodes, axis=1), 0.7)
    np.testing.assert_allclose(nodes @ normal, 0, atol=1e-14)
    area = np.cross(nodes, np.roll(nodes, -1, axis=0)).sum(axis=0) / 2
    np.testing.assert_allclose(area, 7 / 2 * 0.49 * np.sin(2 * np.pi / 7) * unit(normal), atol=1e-14)
    for bad, match in (([0, 0, 0], "give a direction"), ([0, 0, np.nan], "give a direction")):
        with pytest.raises(InputError, match=match):
            polygon_loop(centre, bad, 1, 5)
    for radius, sides in ((0, 5), (1, 2)):
        with pytest.raises(InputError, match="3 or more"):
            polygon_loop(centre, normal, radius, sides)
