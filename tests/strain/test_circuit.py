"""Burgers vectors by closed integrals: every character of a line, and coverage of the stated errors."""

from __future__ import annotations

import numpy as np
import pytest

from dfxm_dask.errors import InputError
from dfxm_dask.strain.lines.circuit import circuit
from tests.strain.test_density import B, around, grid


@pytest.mark.parametrize("burgers", [(B, 0, 0), (0.6 * B, 0.8 * B, 0), (0, 0, B), (0.5 * B, 0, -0.7 * B)])
def test_circuit__of_a_line_is_its_burgers_vector(burgers: tuple[float, float, float]) -> None:
    z, y, x = grid((1, 41, 61), (1.0, 0.06, 0.04))
    beta = around(np.array([0.1, -0.2, 1.0]), np.array(burgers), [z, y, x], 1e-3)[0]
    nothing = np.zeros((41, 61, 9, 9), np.float32)
    found, _ = circuit(np.eye(3) + beta, nothing, y, x, (3, 35, 5, 50))
    np.testing.assert_allclose(found, burgers, rtol=0, atol=0.003 * B)
    outside, _ = circuit(np.eye(3) + beta, nothing, y, x, (3, 12, 5, 50))
    np.testing.assert_allclose(outside, 0, atol=0.003 * B)


def test_circuit__covariance_is_that_of_many_draws() -> None:
    generator = np.random.default_rng(21)
    factor = generator.normal(0, 1e-5, (9, 9))
    spread = np.zeros((9, 9, 9, 9), np.float32)
    spread[...] = factor @ factor.T
    _, y, x = grid((1, 9, 9), (1.0, 0.1, 0.2))
    drawn = []
    for _ in range(2000):
        noise = (generator.normal(0, 1, (9, 9, 9)) @ factor.T).reshape(9, 9, 3, 3)
        found, covariance = circuit(np.eye(3) + noise, spread, y, x, (1, 7, 2, 7))
        drawn.append(found)
    chi2 = np.einsum("ni,ij,nj->n", drawn, np.linalg.inv(covariance), drawn)
    assert chi2.mean() == pytest.approx(3, rel=0.08)
    assert (chi2 < 3.53).mean() == pytest.approx(0.68, abs=0.04)


def test_circuit__missing_pixel_or_box_outside() -> None:
    _, y, x = grid((1, 9, 9), (1.0, 0.1, 0.2))
    deformed = np.tile(np.eye(3), (9, 9, 1, 1))
    deformed[1, 4] = np.nan
    assert np.isnan(circuit(deformed, np.zeros((9, 9, 9, 9)), y, x, (1, 7, 2, 7))[0]).all()
    assert not circuit(deformed, np.zeros((9, 9, 9, 9)), y, x, (2, 7, 2, 7))[0].any()
    with pytest.raises(InputError, match="is not within 9 x 9 pixels"):
        circuit(deformed, np.zeros((9, 9, 9, 9)), y, x, (2, 9, 2, 7))
