"""Centres of inversion around dislocations, and the displacements of maps that share them."""

from __future__ import annotations

import numpy as np
import pytest

from dfxm_dask.optics.defects.dislocation import lines
from dfxm_dask.optics.defects.scene import Scene, distortion
from dfxm_dask.strain.lines.inversion import Maps, centre_of_inversion
from dfxm_dask.strain.lines.matching import displacements

PITCH = 0.1
CORES = np.array([[2.13, 2.37], [4.61, 4.22]])
"""Positions (y, x) of two dislocations, um."""
SIGMA = 1e-5
BEAM = 0.15


def recorded(number: int, direction: tuple[float, float], moved: tuple[float, float] = (0.0, 0.0)) -> Maps:
    """Three angles of one reflection around two inclined edges, averaged over a beam of finite height along one
    direction (y, x per unit of height), with noise."""
    generator = np.random.default_rng(number)
    tilts = np.array([[0.3, -0.2, 1.0], [0.0, 0.4, 1.0]])
    burgers = 2.86e-4 * np.array([[1, 0, 0], [0.6, 0.8, 0]])
    scene = Scene(0.33, lines(np.insert(CORES[:, ::-1], 2, 0.0, axis=1), burgers, tilts, np.full(2, 0.02)))
    turn = np.deg2rad(7.0 + 90 * number)
    side = np.arange(67) * PITCH - 3.3
    v, u = np.meshgrid(side, side, indexing="ij")
    y, x = 3.3 + np.cos(turn) * v + np.sin(turn) * u, 3.3 - np.sin(turn) * v + np.cos(turn) * u
    mixed = generator.normal(size=(3, 9))
    values = np.zeros((*y.shape, 3))
    heights = np.linspace(-2.5, 2.5, 15) * BEAM
    weights = np.exp(-0.5 * np.square(heights / BEAM))
    for height, weight in zip(heights, weights / weights.sum(), strict=True):
        here = (x - moved[1] + height * direction[1], y - moved[0] + height * direction[0], np.full(y.shape, height))
        beta = distortion(scene, *(one.ravel() for one in here))
        values += weight * np.moveaxis((mixed @ beta).reshape(3, *y.shape), 0, -1)
    values += SIGMA * generator.normal(size=values.shape)
    covariance = np.zeros((*y.shape, 3, 3)) + SIGMA**2 * np.eye(3)
    return Maps(values, covariance, np.stack([y, x], axis=-1))


@pytest.mark.parametrize("direction", [(0.0, 0.0), (1.8, 0.4), (-0.4, 1.8)])
def test_centre__stays_where_the_beam_has_a_height(direction: tuple[float, float]) -> None:
    """The average along any direction, 1.8 um per um of height, leaves the centre where the line pierces the layer."""
    maps = recorded(1, direction)
    for core in CORES:
        found = centre_of_inversion(maps, core + [0.08, -0.06], PITCH, 9.7 * PITCH)
        assert found is not None
        off = found.position - core
        assert np.abs(off).max() < 0.15 * PITCH
        assert off @ np.linalg.solve(found.covariance, off) < 9
        assert found.chi2 < 3


def test_displacements__of_averages_along_different_directions() -> None:
    """Two maps that share nothing but two dislocations: the displacement within its error and 0.1 pixels."""
    maps = [recorded(1, (1.8, 0.4)), recorded(2, (-0.4, 1.8), (0.31, -0.17))]
    found = displacements(maps, PITCH, None)
    assert found is not None
    shift, error, count = found
    assert count == 2
    assert np.abs(shift[1] - [0.31, -0.17]).max() < 0.1 * PITCH
    assert (np.abs(shift[1] - [0.31, -0.17]) < 3.5 * error[1]).all()
    assert (error[1] < 0.1 * PITCH).all()


def test_displacements__none_without_dislocations() -> None:
    maps = []
    for number in (1, 2):
        one = recorded(number, (0.0, 0.0))
        y, x = np.moveaxis(one.position, -1, 0)
        waves = 1e-4 * np.stack([np.sin(y), np.cos(x + y), np.sin(x - 0.4 * y)], axis=-1)
        noise = SIGMA * np.random.default_rng(number).normal(size=waves.shape)
        maps.append(one._replace(values=waves + noise))
    assert displacements(maps, PITCH, None) is None
