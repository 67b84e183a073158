"""Dislocation cores: Burgers vectors and positions of all characters, coverage of errors, and noise without any."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest

from dfxm_dask.errors import InputError
from dfxm_dask.optics.defects.dislocation import gradient, lines
from dfxm_dask.strain.deformation import deformation
from dfxm_dask.strain.lines import cores
from dfxm_dask.strain.lines.cores import dislocation_cores
from tests.strain.oblique_set import LATTICE, covariances, set_of

A = 4.0493e-4
PIXEL = 0.1
CHARACTERS = {
    "edge": ((A / 2, A / 2, 0.0), (0.0, 0.0)),
    "screw": ((0.0, 0.0, A), (0.0, 0.0)),
    "inclined screw": ((0.0, A / 2, A / 2), (0.0, 1.0)),
    "mixed": ((A / 2, 0.0, A / 2), (0.3, -0.2)),
}


@cache
def factor() -> np.ndarray:
    """Cholesky factor of the covariance of F for angles of 10 urad (two_theta 20 urad) and four reflections."""
    given = covariances((4, 1, 1))
    found = deformation.kernel(np.zeros((4, 1, 1, 3)), given, *set_of().values())
    return np.linalg.cholesky(found["deformation_covariance"][0, 0].astype(float))


def layer(pierced, size: tuple[int, int] = (36, 36), noise: float = 0.0, seed: int = 0):
    """F, covariance, y and x of a layer that lines (x, y, b, slopes) pierce; noise 1 is that of :func:`factor`."""
    y, x = ((np.arange(n) - (n - 1) / 2) * PIXEL for n in size)
    gy, gx = np.meshgrid(y, x, indexing="ij")
    deformed = np.tile(np.eye(3), (*size, 1, 1))
    for at_x, at_y, burgers, slope in pierced:
        table = lines(np.array([at_x, at_y, 0.0]), np.array(burgers), np.array([*slope, 1.0]), 1e-3)
        deformed += gradient(np.stack([gx, gy, 0 * gx], -1), table, poisson=0.34)
    root = noise * factor()
    deformed += (np.random.default_rng(seed).normal(size=(*size, 9)) @ root.T).reshape(*size, 3, 3)
    covariance = np.zeros((*size, 9, 9), np.float32)
    covariance[...] = root @ root.T
    return deformed, covariance, y, x


def table_of(deformed, covariance, y, x, **given):
    return dislocation_cores.finish(
        dislocation_cores.kernel(deformed, covariance, LATTICE, np.array(0.5), y, x, **given)
    )


def reasons(table, k: int = 0) -> set[str]:
    return {name for bit, name in enumerate(cores.REASONS) if int(table["core_reason"][k]) >> bit & 1}


@pytest.mark.parametrize("name", CHARACTERS)
def test_cores__of_a_line_without_noise(name: str) -> None:
    burgers, slope = CHARACTERS[name]
    table = table_of(*layer([(0.031, -0.012, burgers, slope)]))
    assert table["z"].tolist() == [0.5]
    np.testing.assert_allclose([table["x"][0], table["y"][0]], [0.031, -0.012], atol=1e-3 * PIXEL)
    np.testing.assert_allclose(table["burgers"][0], burgers, rtol=0, atol=1e-4 * A)
    np.testing.assert_allclose(table["burgers_lattice"][0], burgers, rtol=0, atol=1e-9)
    assert table["burgers_misfit"][0] < 1e-3
    assert not reasons(table)


def test_cores__errors_are_those_of_many_draws() -> None:
    """Seeds that no choice depends on."""
    off, squares = [], []
    for k, name in enumerate(("edge", "mixed", "inclined screw") * 6):
        burgers, slope = CHARACTERS[name]
        at = np.random.default_rng(500 + k).uniform(-0.05, 0.05, 2)
        table = table_of(*layer([(*at, burgers, slope)], (30, 30), noise=1.5, seed=500 + k))
        assert len(table["y"]) == 1
        found = np.array([table["x"][0], table["y"][0]]) - at
        assert np.abs(found).max() < 0.25 * PIXEL
        off.append(found / [table["x_error"][0], table["y_error"][0]])
        miss = table["burgers"][0] - burgers
        squares.append(miss @ np.linalg.solve(table["burgers_covariance"][0], miss))
        np.testing.assert_allclose(table["burgers_index"][0], np.array(burgers) / A, atol=1e-9)
    assert np.sqrt(np.mean(np.square(off))) == pytest.approx(1.0, abs=0.35)  # 36 values
    assert np.mean(squares) == pytest.approx(3.0, abs=1.5)  # 18 values of chi-square, three degrees of freedom


def test_cores__none_in_noise() -> None:
    found = [len(table_of(*layer([], (64, 64), noise=20.0, seed=k), least=0.0)["y"]) for k in range(800, 820)]
    assert sum(found) == 0


def test_cores__neighbours_borders_and_missing_pixels_are_named() -> None:
    edge, slope = CHARACTERS["edge"]
    opposite = tuple(-b for b in edge)
    two = table_of(*layer([(-0.4, 0.02, edge, slope), (0.4, 0.02, opposite, slope)]))
    order = np.argsort(two["x"])
    np.testing.assert_allclose(two["burgers"][order], [edge, opposite], rtol=0, atol=0.01 * A)
    np.testing.assert_allclose(two["x"][order], [-0.4, 0.4], atol=0.1 * PIXEL)
    assert all("another_core_nearby" in reasons(two, k) for k in range(2))
    near = table_of(*layer([(0.03, 1.22, edge, slope)]))
    assert reasons(near) == {"contour_leaves_map"}
    np.testing.assert_allclose(near["burgers"][0], edge, rtol=0, atol=1e-3 * A)
    deformed, *rest = layer([(0.03, -0.02, edge, slope)])
    deformed[12] = np.nan
    missing = table_of(deformed, *rest)
    assert reasons(missing) == {"pixels_missing"}
    np.testing.assert_allclose(missing["burgers"][0], edge, rtol=0, atol=1e-3 * A)
    deformed[13:, 10:26] = np.where(
        np.hypot(*np.mgrid[-5:18, -8:8])[..., None, None] > 4.5, np.nan, deformed[13:, 10:26]
    )
    few = table_of(deformed, *rest)
    assert "too_few_contours" in reasons(few)
    assert np.isnan(few["burgers"]).all()
    assert np.isnan(few["contour"]).all()


def test_cores__that_are_no_lattice_vector() -> None:
    burgers = (0.4 * A, 0.45 * A, 0.05 * A)
    table = table_of(*layer([(0.02, 0.01, burgers, (0, 0))], noise=0.2))
    assert "not_a_lattice_vector" in reasons(table)
    unsure = table_of(*layer([(0.02, 0.01, CHARACTERS["edge"][0], (0, 0))], noise=6.0, seed=7), radius=0.4)
    assert "several_lattice_vectors" in reasons(unsure)


def test_cores__of_bands_are_those_of_the_layer() -> None:
    edge, slope = CHARACTERS["edge"]
    deformed, covariance, y, x = layer([(0.3, 5.01, edge, slope), (-0.2, -6.03, edge, slope)], (180, 30), noise=1.0)
    whole = table_of(deformed, covariance, y, x)
    assert len(whole["y"]) == 2
    parts = []
    for low, high in ((0, 66), (66, 140), (140, 180)):
        rows = slice(max(low - cores.BORDER, 0), high + cores.BORDER)
        inner = slice(low - rows.start, high - rows.start)
        given = deformed[rows], covariance[rows], LATTICE, np.array(0.5), y[rows], x
        parts.append(dislocation_cores.kernel(*given, inner=inner))
    joined = dislocation_cores.finish(cores._joined(cores._joined(parts[0], parts[1]), parts[2]))
    for name, values in whole.items():
        np.testing.assert_allclose(joined[name], values, rtol=1e-6, atol=1e-12, err_msg=name)


def test_cores__refuse_a_radius() -> None:
    with pytest.raises(InputError, match=r"is 3 pixels of 0\.1 um; set a radius from 0\.4 to 2\.8 um"):
        table_of(*layer([]), radius=0.3)
