"""Nye tensor against closed forms: lines, walls, noise, missing layers."""

from __future__ import annotations

import numpy as np
import pytest

from dfxm_dask.errors import InputError
from dfxm_dask.optics.defects.dislocation import gradient, lines
from dfxm_dask.strain.nye import NO_DEFORMATION, NO_NEIGHBOUR, ONE_LAYER, dislocation_density
from tests.strain.oblique_set import LATTICE

B = 2.86e-4


def density(beta: np.ndarray, z: np.ndarray, y: np.ndarray, x: np.ndarray, noise: float = 0.0, **given):
    """Result of one layer, the middle one of those given, from adjacent pixels unless a scale is given."""
    covariance = np.zeros((*beta.shape[:3], 9, 9), np.float32)
    covariance[...] = noise**2 * np.eye(9)
    given = {"middle": len(z) // 2, "burgers": B, "scale": 0.0} | given
    return dislocation_density.kernel(np.eye(3) + beta, covariance, LATTICE, z, y, x, **given)


def grid(shape: tuple[int, int, int], steps: tuple[float, float, float]) -> list[np.ndarray]:
    return [(np.arange(n) - (n - 1) / 2) * step for n, step in zip(shape, steps, strict=True)]


def around(line: np.ndarray, burgers: np.ndarray, axes: list[np.ndarray], core: float = 0.05) -> np.ndarray:
    z, y, x = np.meshgrid(*axes, indexing="ij")
    table = lines(np.zeros(3), burgers, line, core)
    return gradient(np.stack([x, y, z], axis=-1), table, poisson=0.334)


@pytest.mark.parametrize("scale", [0.0, 0.06])
@pytest.mark.parametrize("burgers", [(B, 0, 0), (0, B, 0), (0, 0, B)])
def test_density__integral_is_the_burgers_vector(burgers: tuple[float, float, float], scale: float) -> None:
    axes = grid((1, 80, 40), (1.0, 0.025, 0.05))
    beta = around(np.array([0.0, 0, 1]), np.array(burgers), axes)
    found = density(beta, *axes, scale=scale)
    assert np.isnan(found["nye"][..., :2]).all()
    assert (found["nye_reason"] & ONE_LAYER).all()
    np.testing.assert_allclose(
        found["nye"][1:-1, 1:-1, :, 2].sum(axis=(0, 1)) * 0.025 * 0.05, burgers, rtol=0, atol=0.01 * B
    )


def test_density__of_an_inclined_line_with_unequal_layers() -> None:
    """All nine components: alpha = b t / area, integrated over the plane of a layer."""
    z = np.array([-0.03, 0.0, 0.05])
    y, x = grid((1, 60, 100), (1.0, 0.05, 0.025))[1:]
    line, burgers = np.array([0.3, -0.2, 1.0]), np.array([0.5, 1.0, -0.7]) * B
    found = density(around(line, burgers, [z, y, x]), z, y, x)
    total = found["nye"][1:-1, 1:-1].sum(axis=(0, 1)) * 0.05 * 0.025
    assert not found["nye_reason"][1:-1, 1:-1].any()
    np.testing.assert_allclose(total, np.outer(burgers, line), rtol=0, atol=0.02 * B)


@pytest.mark.parametrize("steps", [(0.05, 0.05), (0.04, 0.12), (0.3, 0.07)])
@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("width", [0.0, 0.2])
def test_density__of_a_tilt_wall_is_angle_over_burgers_vector(steps, axis: int, width: float) -> None:
    angle = 1.3e-4
    y, x = np.arange(31) * steps[0], np.arange(40) * steps[1]
    across = (y[:, None] - y[15] + 0 * x) if axis == 0 else (x - x[20] + 0 * y[:, None])
    turn = angle * (np.where(across > -1e-9, 0.5, -0.5) if width == 0 else 0.5 * np.tanh(across / width))
    beta = np.zeros((1, 31, 40, 3, 3))
    beta[0, ..., 1, 0], beta[0, ..., 0, 1] = turn, -turn
    found = density(beta, np.zeros(1), y, x)["density"]
    middle = found[:, 20] if axis == 0 else found[15]
    ends = turn[-1, 0] - turn[0, 0] if axis == 0 else turn[0, -1] - turn[0, 0]
    assert middle.sum() * steps[axis] == pytest.approx(ends / B, rel=0.005)


@pytest.mark.parametrize("layers", [1, 3])
@pytest.mark.parametrize("scale", [0.0, 0.3])
def test_density__of_noise_scatters_about_the_floor(layers: int, scale: float) -> None:
    generator = np.random.default_rng(11)
    factor = generator.normal(0, 1e-5, (9, 9))
    size = (layers, 60, 61)
    beta = (generator.normal(0, 1, (*size, 9)) @ factor.T).reshape(*size, 3, 3)
    covariance = np.zeros((*size, 9, 9), np.float32)
    covariance[...] = factor @ factor.T
    axes = [np.arange(n) * step for n, step in zip(size, (0.5, 0.1, 0.2), strict=True)]
    given = {"middle": layers // 2, "burgers": B, "scale": scale}
    found = dislocation_density.kernel(np.eye(3) + beta, covariance, LATTICE, *axes, **given)
    inside = (slice(6, -6), slice(6, -6))
    assert found["density"][inside].mean() == pytest.approx(
        found["density_floor"][inside].mean(), rel=0.12 if scale else 0.03
    )
    known = (slice(None), slice(2 if layers == 1 else 0, None))
    spread = found["nye"][inside].std(axis=(0, 1))[known] / found["nye_error"][30, 30][known]
    assert np.max(np.abs(spread - 1)) < (0.2 if scale else 0.07)


def test_density__of_incomplete_data() -> None:
    axes = grid((3, 9, 9), (0.5, 0.1, 0.1))
    beta = around(np.array([0.0, 0, 1]), np.array([B, 0, 0]), axes) + 0.0
    beta[0] = beta[2] = np.nan  # missing layers
    beta[1, 2, :] = np.nan
    beta[1, 6, 6, 0, 1] = np.nan
    found = density(beta, *axes, noise=1e-6)
    known = np.isfinite(found["nye"])
    assert (known[4, 4] == np.array([[0, 0, 1]] * 3)).all()
    assert found["nye_reason"][4, 4] == ONE_LAYER
    assert found["nye_reason"][2, 4] == NO_DEFORMATION
    assert (known[6, 6] == np.array([[0, 0, 0], [0, 0, 1], [0, 0, 1]])).all()
    assert found["nye_reason"][6, 6] == ONE_LAYER | NO_DEFORMATION
    assert known[3, 4, :, 2].all()  # a one-sided derivative
    assert np.isfinite(found["density"]).sum() == 72
    column = density(np.where((np.arange(9) == 4)[:, None, None], beta[1:2], np.nan), np.zeros(1), *axes[1:])
    assert column["nye_reason"][4, 4] & NO_NEIGHBOUR
    assert np.isnan(column["density"]).all()


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"scale": 2.0}, "needs 60 rows of 0.1 um on each side, at most 16"),
        ({"burgers": None, "lattice": np.diag([1.5, 1.5, 1.6])}, "the lattice is not cubic"),
    ],
)
def test_density__refuses(given, text: str) -> None:
    axes = grid((1, 5, 5), (1.0, 0.1, 0.1))
    lattice = given.pop("lattice", LATTICE)
    with pytest.raises(InputError, match=text):
        dislocation_density.kernel(
            np.tile(np.eye(3), (1, 5, 5, 1, 1)), np.zeros((1, 5, 5, 9, 9), np.float32), lattice, *axes, **given
        )


def test_density__rows_of_a_band_are_those_of_the_layer() -> None:
    axes = grid((3, 40, 7), (0.5, 0.1, 0.1))
    beta = around(np.array([0.1, 0, 1]), np.array([B, 0, 0]), axes)
    for scale in (0.0, 0.15):
        whole = density(beta, *axes, scale=scale)
        band = density(beta[:, 8:37], axes[0], axes[1][8:37], axes[2], scale=scale, inner=slice(12, 17))
        for name, values in band.items():
            np.testing.assert_allclose(values, whole[name][20:25], rtol=1e-9, err_msg=name)


@pytest.mark.parametrize("steps", [(0.1, 0.1), (0.04, 0.12), (0.12, 0.04)])
@pytest.mark.parametrize("direction", [6.0, 22.5, 45.0, 84.0])
def test_density__of_a_sharp_wall_in_any_direction(steps: tuple[float, float], direction: float) -> None:
    """Smoothed by default. The weights along the wall leave out its ends."""
    half, turn = 18 * max(steps), np.deg2rad(direction)
    y, x = (np.arange(-half - 5 * max(steps), half + 5 * max(steps), step) for step in steps)
    gx, gy = np.meshgrid(x, y)
    jump = 1.3e-4 * np.sign(gx * np.cos(turn) + gy * np.sin(turn) - 0.017) / 2
    beta = np.zeros((1, y.size, x.size, 3, 3))
    beta[0, ..., 1, 0], beta[0, ..., 0, 1] = jump, -jump
    along = gy * np.cos(turn) - gx * np.sin(turn)
    weight = np.where(np.abs(along) < half, np.cos(np.pi * along / (2 * half)) ** 2, 0.0)
    found = density(beta, np.zeros(1), y, x, scale=None)["density"]
    assert np.nansum(weight * found) * steps[0] * steps[1] / half == pytest.approx(1.3e-4 / B, rel=0.005)


def test_density__of_complete_windows_is_that_of_any_stencil() -> None:
    """A missing pixel far from a row leaves its windows complete; a missing layer takes the stencil of all pixels."""
    generator = np.random.default_rng(12)
    shape = (3, 26, 17)
    beta = generator.normal(0, 1e-5, (*shape, 3, 3))
    factor = generator.normal(0, 1e-5, (9, 9))
    covariance = np.zeros((*shape, 9, 9), np.float32)
    covariance[...] = factor @ factor.T
    covariance *= generator.uniform(0.5, 2, (*shape, 1, 1)).astype(np.float32)
    axes = np.array([0.0, 0.3, 0.8]), 0.1 * np.arange(26), 0.2 * np.arange(17)
    given = {"middle": 1, "burgers": B, "scale": 0.28}
    whole = dislocation_density.kernel(np.eye(3) + beta, covariance, LATTICE, *axes, **given)
    row, column, high, wide = 12, 8, 9, 5
    # The stencil of the same pixels, as weights by least squares of a plane and of a parabola along z.
    dy, dx = np.meshgrid(*(np.arange(-n, n + 1) * s for n, s in ((high, 0.1), (wide, 0.2))), indexing="ij")
    g = np.exp(-(dx**2 + dy**2) / (2 * 0.28**2))
    design = np.stack([np.ones(g.size), dx.ravel(), dy.ravel()], 1)
    plane = np.linalg.solve(design.T @ (g.ravel()[:, None] * design), (design * g.ravel()[:, None]).T)
    weights = np.zeros((3, 3, *g.shape))  # axis x, y, z; layer
    weights[0, 1], weights[1, 1] = plane[1].reshape(g.shape), plane[2].reshape(g.shape)
    a, b = 0.3, 0.5
    weights[2] = np.array([-b / (a * (a + b)), (b - a) / (a * b), a / (b * (a + b))])[:, None, None] * plane[0].reshape(
        g.shape
    )
    window = slice(None), slice(row - high, row + high + 1), slice(column - wide, column + wide + 1)
    slope = np.einsum("alyx,lyxij->aij", weights, beta[window])
    levi = np.zeros((3, 3, 3))
    levi[0, 1, 2] = levi[1, 2, 0] = levi[2, 0, 1] = 1
    levi -= levi.swapaxes(1, 2)
    np.testing.assert_allclose(whole["nye"][row, column], np.einsum("jkl,kil->ij", levi, slope), rtol=1e-7, atol=1e-12)
    form = np.einsum("jkl,kzyx,im->zyxijml", levi, weights, np.eye(3)).reshape(*g[None].repeat(3, 0).shape, 9, 9)
    spread = np.einsum("zyxap,zyxpq,zyxbq->ab", form, covariance[window].astype(float), form, optimize=True)
    np.testing.assert_allclose(whole["nye_error"][row, column].ravel(), np.sqrt(np.diag(spread)), rtol=1e-5)
