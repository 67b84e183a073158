"""Burgers vector from maps of the centre of mass: on fields of the optics with noise."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import pytest

import dfxm_dask
from dfxm_dask.identify.catalogue import Candidates, catalogue, on_axes
from dfxm_dask.identify.curves.model import averaged, lines_of, sensitivity
from dfxm_dask.identify.match import microscope_of
from dfxm_dask.optics.defects.dislocation import gradient, lines
from dfxm_dask.optics.defects.lattice import Lattice
from dfxm_dask.optics.defects.scene import Scene
from dfxm_dask.optics.forward import setting, sheet_deviation, sheet_nodes
from dfxm_dask.optics.geometry import orientation, rotation_y, rotation_z
from dfxm_dask.optics.instrument.microscope import find_microscope

CELL, HKL, SHEET = 4.0495e-4, (-1, 1, -1), 0.2
GRAIN = rotation_y(-find_microscope("id06_al111").theta) @ rotation_z(0.7) @ orientation(HKL)
CRYSTAL = Lattice(kind="fcc", parameter=CELL, x=tuple(GRAIN.T[:, 0]), z=tuple(GRAIN.T[:, 2]), hkl=HKL)
SCOPE = replace(microscope_of("id06_al111", CRYSTAL), sheet=SHEET / 2.355)
AT = setting(SCOPE.theta)
Y, X = 0.1 * np.arange(50), 0.25 * np.arange(20)
SCAN = {"phi": np.linspace(-0.03, 0.03, 61), "chi": np.linspace(-0.2, 0.2, 21)}
PARTS = np.array([-1, 0, 1]) / 3
ERROR = {"phi": 3e-5, "chi": 3e-4}  # degree, as in phi-chi scans of the simulator


@cache
def candidates() -> Candidates:
    return on_axes(catalogue(angles=12), CRYSTAL)


def maps_of(k: int | None, rng: np.random.Generator, z: np.ndarray, at: np.ndarray) -> dict[str, np.ndarray]:
    """Centres of mass (z, y, x), degree: the column mean of the exact deviation, a bent lattice, and noise."""
    height, weight = sheet_nodes(SCOPE, 21)
    bend = rng.normal(0, 1e-5, (2, 3))
    out = {a: np.empty((z.size, Y.size, X.size)) for a in SCAN}
    for layer, place in enumerate(z):
        q = np.zeros((Y.size, X.size, 3))
        if k is not None:
            line = lines(at, candidates().burgers[k], candidates().line[k], 1e-3)
            fine_y, fine_x = (np.add.outer(side, PARTS * side[1]).ravel() for side in (Y, X))
            made = sheet_deviation(Scene(0.334, lines=line), AT, fine_y, fine_x, float(place), height)
            q = np.einsum("ypxrnk,n->yxk", made.reshape(Y.size, 3, X.size, 3, -1, 3), weight) / 9
        # At fixed q, phi turns the lattice until its rocking component is 0, and chi until its rolling component is.
        peaks = {"phi": -(q[..., 0] + np.tan(SCOPE.theta) * q[..., 2]), "chi": -q[..., 1]}
        for number, (a, peak) in enumerate(peaks.items()):
            c = bend[number]
            plane = c[0] + c[1] / 3 * (X[None] - X.mean()) + c[2] / 3 * (Y[:, None] - Y.mean())
            out[a][layer] = np.rad2deg(peak + plane) + rng.normal(0, ERROR[a], plane.shape)
    return out


def found_in(maps: dict[str, np.ndarray], z: np.ndarray) -> dict[str, np.ndarray]:
    run = dfxm_dask.burgers_from_curves
    errors = {a: np.full((Y.size, X.size), e, np.float32) for a, e in ERROR.items()}
    made = [
        run.kernel(
            {a: values[k] for a, values in maps.items()}, SCAN, Y, X, z[k : k + 1], errors, lattice=CRYSTAL, angles=12,
            sheet=SHEET, smear=[0.0, 0.0], weak=1.0, tail=0.0,
        )
        for k in range(z.size)
    ]  # fmt: skip
    total = made[0]
    for one in made[1:]:
        total = run.combine(total, one)
    return run.finish(total)


def test_lines__are_the_mean_field_over_a_gaussian() -> None:
    spread = np.diag([0.2, 0.1, 0.05]) ** 2
    matrix = sensitivity(SCOPE, AT, ["phi", "chi"])
    made = lines_of(candidates(), AT.direction, matrix, spread, 0.334)
    rng = np.random.default_rng(0)
    # Reference: the field of the optics at random points of the Gaussian.
    points = np.concatenate([rng.normal(size=(4000, 3))] * 2) * [0.2, 0.1, 0.05] * np.repeat([1, -1], 4000)[:, None]
    for k in (3, 40, 77):
        for place in np.array([[0.9, 0.4], [-0.3, 1.1]]) @ made.frame[k, :2]:
            field = gradient(
                place + points, lines([0, 0, 0], candidates().burgers[k], candidates().line[k]), poisson=0.334
            )
            expected = matrix @ -np.einsum("pij,i->j", field, AT.direction) / len(points)
            u, v = made.frame[k, :2] @ place
            found = made.factors[k] @ averaged(made, k, np.array([u]), np.array([v]))[:, 0]
            np.testing.assert_allclose(found, expected, atol=0.02 * np.abs(expected).max())


@pytest.mark.parametrize("layers", [1, 3])
def test_burgers_from_curves__names_class_sign_and_position(layers: int) -> None:
    rng, z = np.random.default_rng(layers), 0.5 * np.arange(layers)
    visible = np.flatnonzero(np.abs(candidates().burgers @ AT.direction) > 0.5 * CELL / 2)
    steep = visible[np.abs(candidates().line[visible, 2]) > 0.4]
    off = []
    for k in rng.choice(steep, 3 if layers == 1 else 1):
        at = np.array([X.mean() + rng.uniform(-0.5, 0.5), Y.mean() + rng.uniform(-0.5, 0.5), 0.0])
        found = found_in(maps_of(int(k), rng, z, at), z)
        assert found["curve_class"][k] == 0
        assert found["curve_class_probability"][0] > 0.9
        assert found["curve_sign_probability"][0] > 0.99
        assert found["curve_class"][found["curve_opposite"][k]] == 1
        assert np.isfinite(found["curve_chi2"]).sum() == layers
        off.append((found["curve_position"][k] - at[[1, 0]]) / found["curve_position_error"][k])
        assert np.abs(found["curve_position"][k] - at[[1, 0]]).max() < 0.05
    assert np.sqrt(np.mean(np.square(off))) < 2.5


def test_burgers_from_curves__noise_shows_no_dislocation() -> None:
    rng, z = np.random.default_rng(8), np.zeros(1)
    found = found_in(maps_of(None, rng, z, np.zeros(3)), z)
    assert found["curve_none_probability"][0] > 0.95
    assert found["curve_reason"][0] == 4


def test_burgers_from_curves__maps_without_pixels_give_a_reason() -> None:
    z = np.zeros(1)
    found = found_in({a: np.full((1, Y.size, X.size), np.nan) for a in SCAN}, z)
    assert np.isnan(found["curve_probability"]).all()
    assert found["curve_reason"][0] == 1
