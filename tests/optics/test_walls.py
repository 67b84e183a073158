"""Sheets, walls and nets against quadrature, closed sums, jumps and Frank's table."""

from __future__ import annotations

import numpy as np
import pytest

from dfxm_dask.errors import InputError
from dfxm_dask.optics.defects.dislocation import gradient, lines
from dfxm_dask.optics.defects.walls import frank_bilby, sheets, wall_lines, wall_sheet
from tests.references.walls import sheet_gradient, three_sets

POISSON = 0.334
B = 2.86e-4
PERMUTATION = np.zeros((3, 3, 3))
PERMUTATION[[0, 1, 2], [1, 2, 0], [2, 0, 1]] = 1
PERMUTATION[[0, 1, 2], [2, 0, 1], [1, 2, 0]] = -1


def oblique_sheet(seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    t = rng.normal(size=3)
    return sheets(rng.normal(size=3), t, np.cross(t, rng.normal(size=3)), -1.3, 2.1, rng.normal(size=3))


def strain(beta: np.ndarray) -> np.ndarray:
    return (beta + beta.swapaxes(-1, -2)) / 2


def turn(beta: np.ndarray) -> np.ndarray:
    """Rotation vector."""
    return np.einsum("ijk,...kj->...i", PERMUTATION, beta) / 2


def rotation(vector: np.ndarray) -> np.ndarray:
    return -np.einsum("ijk,...k->...ij", PERMUTATION, vector)


def test_sheet__is_the_quadrature_of_straight_lines() -> None:
    sheet = oblique_sheet()
    points = 2 * np.random.default_rng(1).normal(size=(40, 3))
    s, weight = np.polynomial.legendre.leggauss(60)
    edges = np.linspace(-1.3, 2.1, 41)
    s = (edges[:-1, None] + np.diff(edges)[:, None] * (1 + s) / 2).ravel()
    weight = (np.diff(edges)[:, None] * weight / 2).ravel()
    places = sheet["origin"] + s[:, None] * sheet["along"]
    many = lines(places, weight[:, None] * sheet["burgers"], sheet["line"])
    found, expected = sheet_gradient(points, sheet, poisson=POISSON), gradient(points, many, poisson=POISSON)
    assert np.abs(expected).max() > 0.1
    np.testing.assert_allclose(found, expected, atol=1e-12)


def test_sheet__is_the_limit_of_a_dense_wall() -> None:
    points = np.array([[0.3, 0.2, 0.1], [-0.4, 0.9, 3.0], [1.5, -0.2, 0.0]])
    geometry = ([0, 0.1, 0], [1, 0, 0], [0, 0.6, 0.8], [0.3, -0.5, 0.7])
    expected = sheet_gradient(points, wall_sheet(*geometry, 0.01, -1, 1), poisson=POISSON)
    misfit = []
    for spacing in (0.01, 0.005):
        b = np.array(geometry[3]) * spacing / 0.01
        dense = gradient(points, wall_lines(*geometry[:3], b, spacing, -1, 1, 0.0), poisson=POISSON)
        misfit.append(np.abs(dense - expected).max())
    assert misfit[0] < 1e-3 * np.abs(expected).max()
    assert misfit[1] / misfit[0] == pytest.approx(1 / 4, rel=1e-2)  # the midpoint rule: second order


def test_sheet__is_in_equilibrium_and_compatible_off_the_strip() -> None:
    sheet = oblique_sheet(2)
    rng, h = np.random.default_rng(3), 1e-3
    up = np.cross(sheet["line"], sheet["along"])
    points = sheet["origin"] + rng.normal(size=(80, 3))
    points = points[np.abs((points - sheet["origin"]) @ up[0]) > 0.2]
    field = [
        sheet_gradient(points[:, None] + m * h * np.eye(3), sheet, poisson=POISSON).transpose(0, 2, 3, 1)
        for m in (-2, -1, 1, 2)
    ]
    slope = (field[0] - 8 * field[1] + 8 * field[2] - field[3]) / (12 * h)
    volume = 2 * POISSON / (1 - 2 * POISSON) * np.einsum("pkki->pi", slope)
    assert np.abs(slope).max() > 0.1
    assert np.abs(np.einsum("pijj->pi", slope) + np.einsum("pjij->pi", slope) + volume).max() < 1e-8
    assert np.abs(np.einsum("jkl,pilk->pij", PERMUTATION, slope)).max() < 1e-8


def test_sheet__jumps_on_the_strip_and_nowhere_else() -> None:
    sheet = oblique_sheet(4)
    a, t = sheet["along"][0], sheet["line"][0]
    c, b = np.cross(t, a), sheet["burgers"][0]
    s = np.array([-40.0, -1.4, -1.2, 0.0, 1.0, 2.0, 2.2, 30.0])
    here = sheet["origin"] + s[:, None] * a + np.linspace(-2, 2, 8)[:, None] * t
    above, below = (sheet_gradient(here + shift * 1e-9 * c, sheet, poisson=POISSON) for shift in (1, -1))
    jump = above - below
    inside = (s > -1.3) & (s < 2.1)
    np.testing.assert_allclose(jump[~inside], 0, atol=1e-7)
    # Along the strip -b; across it whatever keeps the traction, c·sigma, the same on both sides: no more unknowns.
    np.testing.assert_allclose(jump[inside] @ a, np.tile(-b, (4, 1)), atol=1e-7)
    np.testing.assert_allclose(jump[inside] @ t, 0, atol=1e-12)
    lame = 2 * POISSON / (1 - 2 * POISSON)
    stress = 2 * strain(jump) + lame * np.trace(jump, axis1=1, axis2=2)[:, None, None] * np.eye(3)
    np.testing.assert_allclose(stress[inside] @ c, 0, atol=1e-7)
    closed = -np.outer(b, a) + np.outer(b @ c * a + POISSON / (1 - POISSON) * (b @ a) * c, c)
    np.testing.assert_allclose(jump[inside], np.broadcast_to(closed, (4, 3, 3)), atol=1e-7)


def test_sheet__a_point_on_it_belongs_to_the_upper_side() -> None:
    sheet = sheets([0, 0, 0], [0, 0, 1], [0, 1, 0], -1, 1, [1, 0, 0])
    for zero in (0.0, -0.0):
        found = sheet_gradient(np.array([[zero, 0.3, 0], [-1e-12, 0.3, 0]]), sheet, poisson=POISSON)
        np.testing.assert_allclose(found[0], found[1], atol=1e-9)  # line × along = -x
    with pytest.raises(InputError, match="edge of a strip"):
        sheet_gradient(np.array([[0.0, 1, 0]]), sheet, poisson=POISSON)


def test_sheet__far_and_near_keep_their_digits() -> None:
    sheet = sheets([0, 0, 0], [0, 0, 1], [1, 0, 0], -0.5, 0.5, [0.2, -0.7, 0.4])
    far = np.array([[3e5, 2e5, 0], [-4e6, 1e6, 0]])
    one = gradient(far, lines([0, 0, 0], [0.2, -0.7, 0.4], [0, 0, 1]), poisson=POISSON)
    found = sheet_gradient(far, sheet, poisson=POISSON)
    assert (np.abs(found - one).max(axis=(1, 2)) < 1e-8 * np.abs(one).max(axis=(1, 2))).all()
    # Next to an edge only its logarithm and 1/Z count: b32 = b_3 ln(R_start/R_stop) / 2 pi.
    near = sheet_gradient(np.array([-0.5, 1e-9, 0]), sheet, poisson=POISSON)
    assert near[2, 1] == pytest.approx(0.4 / (2 * np.pi) * np.log(1e-9), rel=1e-14)


def test_sheet__a_point_does_not_depend_on_its_block() -> None:
    many = np.concatenate([oblique_sheet(k) for k in range(5)])
    rng = np.random.default_rng(6)
    points = rng.normal(size=(519, 3))
    whole = sheet_gradient(points, many, poisson=POISSON)
    parts = [sheet_gradient(p, many, poisson=POISSON) for p in np.split(points, [1, 8, 300])]
    np.testing.assert_array_equal(np.concatenate(parts), whole)
    order = rng.permutation(519)
    np.testing.assert_array_equal(sheet_gradient(points[order], many, poisson=POISSON), whole[order])
    apart = sum(sheet_gradient(points, many[k : k + 1], poisson=POISSON) for k in range(5))
    np.testing.assert_allclose(whole, apart, atol=1e-13)


def test_wall__turns_the_lattice_by_minus_b_over_spacing() -> None:
    spacing = 0.5
    wall = wall_lines([0, 0, 0], [1, 0, 0], [0, 0, 1], [B, 0, 0], spacing, -1000, 1000, 0.0)
    assert len(wall) == 4000
    points = np.array([[2.0, 0.1, 0], [-2.0, 0.1, 0]])
    beta = gradient(points, wall, poisson=POISSON)
    right, left = turn(beta)
    np.testing.assert_allclose(right - left, [0, 0, -B / spacing], atol=2e-3 * B / spacing)  # 5.713e-4 of 5.72e-4
    # A wall that ends turns by the angle under which it is seen.
    seen = 2 / np.pi * np.arctan(1000 / 2.0)
    np.testing.assert_allclose(right - left, [0, 0, -B / spacing * seen], atol=1e-7 * B / spacing)
    assert np.abs(strain(beta)).max() < 1e-6


def test_wall__less_its_sheet_is_short_ranged_and_the_closed_sum() -> None:
    """Sum over k of 1/(Z - i(k + 1/2)D) = (pi/D) tanh(pi Z/D) gives rotation and dilatation of an endless wall."""
    spacing, reach = 0.5, 1000.0
    geometry = ([0, 0, 0], [1, 0, 0], [0, 0, 1], [B, 0, 0], spacing, -reach, reach)
    rng = np.random.default_rng(7)
    points = np.stack([rng.uniform(-1, 1, 60), rng.uniform(-3, 3, 60), rng.uniform(-9, 9, 60)], axis=1)
    points = points[np.abs(points[:, 0]) > 0.02]
    beta = gradient(points, wall_lines(*geometry, 0.0), poisson=POISSON)
    beta -= sheet_gradient(points, wall_sheet(*geometry), poisson=POISSON)
    beta += rotation(-np.sign(points[:, :1]) * [0, 0, B / spacing / 2])
    wave = np.tanh(np.pi * (points[:, 0] + 1j * points[:, 1]) / spacing)
    size = B / spacing
    np.testing.assert_allclose(turn(beta)[:, 2], -size / 2 * wave.real, atol=1e-7 * size)
    dilatation = (1 - 2 * POISSON) / (2 * (1 - POISSON)) * size * wave.imag
    np.testing.assert_allclose(np.trace(beta, axis1=1, axis2=2), dilatation, atol=1e-7 * size)
    far = np.array([[x, y, 0.0] for x in (2.0, -2.0, 5.0, -40.0) for y in (0.0, 0.13)])
    beta = gradient(far, wall_lines(*geometry, 0.0), poisson=POISSON)
    beta -= sheet_gradient(far, wall_sheet(*geometry), poisson=POISSON)
    assert np.abs(beta).max() < 1e-7 * size  # what the sheet leaves: exp(-2 pi x/D), and (D/reach)² from the ends


def test_wall__stands_where_it_is_told() -> None:
    wall = wall_lines([1, 2, 3], [0, 0, 2], [0, 3, 0], [B, 0, B], 0.4, -1, 1.1, 1e-3)
    along = np.cross([0, 0, 1], [0, 1, 0])
    np.testing.assert_allclose((wall["position"] - [1, 2, 3]) @ along, [-0.8, -0.4, 0, 0.4, 0.8], atol=1e-14)
    np.testing.assert_array_equal(wall["core"], 1e-3)
    np.testing.assert_array_equal(wall["line"], np.tile([0, 1, 0], (5, 1)))


def test_junction__of_three_tilt_walls_only_turns_its_sectors() -> None:
    """Half-planes that meet in a line, their rotations summing to zero: every sector turns, and nothing else."""
    angles = np.radians([10, 130, 235])
    size = np.array([4e-4, 3e-4, -7e-4])
    ways = np.stack([np.cos(angles), np.sin(angles), 0 * angles], axis=1)
    # Frank: the Burgers vector per length along a half-plane is theta (along × z).
    half = sheets([0, 0, 0], [0, 0, 1], ways, 0.0, 1e7, size[:, None] * np.cross(ways, [0, 0, 1]))
    middle = np.radians([-62, 70, 182])
    points = np.stack([np.cos(middle), np.sin(middle), 0 * middle], axis=1) * np.array([0.1, 1, 3])[:, None, None]
    beta = sheet_gradient(points, half, poisson=POISSON)
    # Only the far ends are left: one strain, the same everywhere.
    np.testing.assert_allclose(strain(beta), np.broadcast_to(strain(beta)[0, 0], beta.shape), atol=1e-9)
    w = turn(beta)[..., 2]
    np.testing.assert_allclose(w - w[0], 0, atol=1e-9)
    # Sector 1 lies between walls 0 and 1: crossing wall k counter-clockwise turns the lattice by theta_k.
    np.testing.assert_allclose([w[0, 1] - w[0, 0], w[0, 2] - w[0, 1], w[0, 0] - w[0, 2]], size, atol=1e-9)
    # Without one wall they do not balance, and the strain has a logarithm in it.
    two = strain(sheet_gradient(points, half[:2], poisson=POISSON))
    assert np.abs(two - two[0, 0]).max() > 1e-4


TABLE = {  # normal, axis, b, lines, spacings in um at 0.05 degree
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
def test_frank__table_of_boundaries(name: str) -> None:
    normal, axis, b, along, spacings = TABLE[name]
    burgers = B * np.array(b) / np.sqrt(2)
    net = frank_bilby(normal, axis, np.radians(0.05), burgers, along)
    np.testing.assert_allclose(np.abs(1 / net.densities), spacings, rtol=1.5e-5)  # half of their last digit
    assert net.rank == len(b)
    assert net.residual < 1e-12


def test_frank__tilt_and_twist_are_closed_forms() -> None:
    angle = np.radians(0.05)
    full = 2 * np.sin(angle / 2) / B
    for name, factor in (("tilt", 1), ("twist on (001)", 1), ("twist on (111)", 2 / np.sqrt(3))):
        normal, axis, b, along, _ = TABLE[name]
        net = frank_bilby(normal, axis, angle, B * np.array(b) / np.sqrt(2), along)
        np.testing.assert_allclose(np.abs(net.densities), factor * full, rtol=1e-12)
    assert B / 4.1 == pytest.approx(2 * np.sin(np.radians(0.0040) / 2), rel=2e-3)  # measured: .003 to .006 degree


def test_frank__sheets_of_the_net_turn_the_upper_side_about_the_axis() -> None:
    rng = np.random.default_rng(8)
    normal, axis = rng.normal(size=(2, 3))
    normal, axis, angle = normal / np.linalg.norm(normal), axis / np.linalg.norm(axis), 1e-3
    burgers = B * rng.normal(size=(3, 3))
    along, spacings = three_sets(normal, axis, angle, burgers)
    net = frank_bilby(normal, axis, angle, burgers, along)
    np.testing.assert_allclose(net.densities, 1 / spacings, rtol=1e-12)
    assert net.residual < 1e-12
    np.testing.assert_allclose(along @ normal, 0, atol=1e-14)
    np.testing.assert_allclose(np.linalg.norm(along, axis=1), 1)
    sets = zip(along, burgers, spacings, strict=True)
    wide = np.concatenate([wall_sheet([0, 0, 0], normal, t, b, d, -1e9, 1e9) for t, b, d in sets])
    above, below = sheet_gradient(np.stack([normal, -normal]), wide, poisson=POISSON)
    np.testing.assert_allclose(above - below, rotation(2 * np.sin(angle / 2) * axis), atol=1e-10)


def test_frank__says_what_the_sets_cannot_do() -> None:
    law = {"normal": [0, 0, 1], "axis": [0, 0, 1], "angle": 1e-3}
    one = frank_bilby(**law, burgers=[[B, 0, 0]], lines=[[1, 0, 0]])  # a twist needs two sets
    assert one.rank == 1
    assert one.residual == pytest.approx(np.sqrt(0.5))
    twice = frank_bilby(**law, burgers=[[B, 0, 0], [2 * B, 0, 0]], lines=[[1, 0, 0], [-1, 0, 0]])
    assert twice.rank == 1
    assert frank_bilby(**{**law, "angle": 0.0}, burgers=[[B, 0, 0]], lines=[[1, 0, 0]]) == (0, 1, 0)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"normal": [0, 0, 0]}, "normal: has length zero"),
        ({"axis": [0, 0, np.nan]}, "axis: is"),
        ({"burgers": [], "lines": []}, "hold no set"),
        ({"lines": [[1, 0, 0.01]]}, "line 0: leaves the plane"),
        ({"lines": [[0, 0, 0]]}, "lines: has length zero"),
        ({"burgers": [[0, 0, 0]]}, "burgers: has length zero"),
        ({"burgers": [[B, 0, 0], [0, B, 0]]}, "2 Burgers vectors, 1 lines"),
    ],
)
def test_frank__refuses_what_is_no_boundary(change: dict, match: str) -> None:
    good = {"normal": [0, 0, 1], "axis": [0, 0, 1], "angle": 1e-3, "burgers": [[B, 0, 0]], "lines": [[1, 0, 0]]}
    with pytest.raises(InputError, match=match):
        frank_bilby(**{**good, **change})


def test_three_sets__leaves_out_a_set_that_is_not_needed() -> None:
    b = B * np.eye(3)
    along, spacings = three_sets([1, 0, 0], [0, 0, 1], 1e-3, b)  # a tilt wall needs edges with b along the normal
    np.testing.assert_allclose(spacings, [B / (2 * np.sin(5e-4)), np.inf, np.inf])
    np.testing.assert_allclose(along, [[0, 0, -1], [0, 0, 0], [0, 0, 0]], atol=1e-14)
    with pytest.raises(InputError, match="in one plane"):
        three_sets([1, 0, 0], [0, 0, 1], 1e-3, [[B, 0, 0], [0, B, 0], [B, B, 0]])
    with pytest.raises(InputError, match="shape"):
        three_sets([1, 0, 0], [0, 0, 1], 1e-3, b[:2])


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"along": [0, 0.01, 1]}, "not at right angles"),
        ({"line": [0, 0, 0]}, "line: has length zero"),
        ({"start": 1.0}, "start: is not below stop"),
        ({"stop": np.inf}, "not finite"),
        ({"burgers": [0, 1]}, "do not fit"),
        ({"origin": np.zeros((2, 3)), "burgers": np.zeros((3, 3))}, "do not fit"),
    ],
)
def test_sheets__refuses_what_is_no_strip(change: dict, match: str) -> None:
    good = {"origin": [0, 0, 0], "line": [0, 0, 1], "along": [0, 1, 0], "start": -1, "stop": 1, "burgers": [1, 0, 0]}
    with pytest.raises(InputError, match=match):
        sheets(**{**good, **change})


def test_wall__refuses_what_is_no_wall() -> None:
    with pytest.raises(InputError, match="not at right angles"):
        wall_lines([0, 0, 0], [1, 0, 0], [1, 0, 1], [B, 0, 0], 0.5, -1, 1, 0.0)
    with pytest.raises(InputError, match="spacing above zero"):
        wall_lines([0, 0, 0], [1, 0, 0], [0, 0, 1], [B, 0, 0], 0.0, -1, 1, 0.0)
    with pytest.raises(InputError, match="spacing above zero"):
        wall_lines([0, 0, 0], [1, 0, 0], [0, 0, 1], [B, 0, 0], 0.5, 1, 1, 0.0)
    with pytest.raises(InputError, match="spacing above zero"):
        wall_sheet([0, 0, 0], [1, 0, 0], [0, 0, 1], [B, 0, 0], -0.5, -1, 1)
    with pytest.raises(InputError, match="poisson"):
        sheet_gradient(np.ones(3), oblique_sheet(), poisson=0.5)
