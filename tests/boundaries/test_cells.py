"""Squares of a layer: in which layer they lie, and of positions that fall."""

from __future__ import annotations

import numpy as np
import pytest

from dfxm_dask.boundaries.cells import layer_cells
from dfxm_dask.boundaries.planes.points import layer_points

Y, X = 0.2 * np.arange(30.0), 0.15 * np.arange(40.0)


@pytest.mark.parametrize("z", [0.3, 1.2, 123.4567, 9876.54321])
def test_layer_cells__lie_in_the_layer_of_the_points(z: float) -> None:
    values = np.random.default_rng(0).normal(0, 1, (30, 40))
    cells, reference = layer_cells([values], {}, values < 9, values > 1, Y, X, z)
    points, _ = layer_points(values.astype(np.float32), values > 1, Y, X, z)
    assert {*cells[:, 2].astype(np.float64)} == {*points[:, 2]} == {reference[0, 0]}


@pytest.mark.parametrize("falls", [("y",), ("x",), ("y", "x")])
def test_layer_cells__are_the_same_of_positions_that_fall(falls: tuple[str, ...]) -> None:
    rng = np.random.default_rng(1)
    com, lit = rng.normal(0, 1, (30, 40)), rng.uniform(size=(30, 40)) > 0.1
    turn = tuple(slice(None, None, -1) if n in falls else slice(None) for n in ("y", "x"))
    rising, _ = layer_cells([com], {}, lit, com > 1, Y, X, 1.0)
    falling, _ = layer_cells([com[turn]], {}, lit[turn], com[turn] > 1, Y[turn[0]], X[turn[1]], 1.0)
    first, second = (c[np.lexsort((c[:, 0], c[:, 1]))] for c in (rising, falling))
    np.testing.assert_allclose(first, second, rtol=1e-5, atol=1e-6)
