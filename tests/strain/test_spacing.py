"""Lattice spacing of one reflection, against the Laue condition and rays through the objective."""

from __future__ import annotations

import numpy as np
import pytest

from dfxm_dask.errors import InputError
from dfxm_dask.strain.spacing import lattice_spacing
from tests.strain.oblique_set import ENERGY, LATTICE, angles_for, set_of

SIDE = np.arange(3.0)


def test_spacing__of_a_strained_lattice() -> None:
    """Angles that fulfil the Laue condition for a turned lattice with a uniform strain."""
    tables = set_of()
    turn = np.array([[0, -2e-3, 1e-3], [2e-3, 0, 1e-3], [-1e-3, -1e-3, 0]])
    strain = np.array([[3e-4, 1e-4, 0], [1e-4, -2e-4, 0], [0, 0, 5e-4]])
    deformed = np.eye(3) + turn + strain
    angles = np.rad2deg(angles_for(tables, deformed[None]))
    for k, hkl in enumerate(tables["hkl"]):
        before = 2 * np.pi / np.linalg.norm(LATTICE @ hkl)
        after = 2 * np.pi / np.linalg.norm(np.linalg.inv(deformed).T @ LATTICE @ hkl)
        com = np.full((3, 3), angles[k, 0, 0])
        error = np.full((3, 3), 1e-3, np.float32)
        given = {"energy": ENERGY, "offset": 2 * tables["setting"][k, 3], "reference": "nominal", "nominal": before}
        found = lattice_spacing.kernel(com, SIDE, SIDE, error, **given)
        assert found["spacing"][1, 1] == pytest.approx(after, rel=1e-9)
        assert found["spacing_strain"][1, 1] == pytest.approx(after / before - 1, abs=1e-9)
        moved = (
            lattice_spacing.kernel(com + 1e-3, SIDE, SIDE, error, **given)["spacing_strain"] - found["spacing_strain"]
        )
        np.testing.assert_allclose(-moved, found["spacing_strain_error"], rtol=1e-3)
        assert np.isnan(found["field_of_view_strain"]).all()


def test_spacing__field_of_view_is_that_of_rays_through_the_objective() -> None:
    """A ray from a point of the layer to the centre of the objective has another angle against the incident beam."""
    theta, distance = np.deg2rad(10.0), 270e3
    x = 0.1 * np.arange(-500, 501)
    objective = distance * np.array([np.cos(2 * theta), np.sin(2 * theta)])
    ray = np.arctan2(objective[1], objective[0] - x)
    apparent = np.sin(theta) / np.sin((2 * theta - (ray - 2 * theta)) / 2) - 1  # the arm compensates for the ray
    com = np.full((2, x.size), 20.0)
    found = lattice_spacing.kernel(com, SIDE[:2], x, energy=17.0, distance=270.0)
    np.testing.assert_allclose(found["field_of_view_strain"][0], apparent, rtol=2e-3, atol=1e-12)
    assert np.abs(found["spacing_strain"]).max() < 1e-12
    across = 0.1 * np.sin(2 * theta)  # pixel of the camera over the magnification
    np.testing.assert_allclose(
        np.diff(found["field_of_view_strain"][0]), across / distance / np.tan(theta) / 2, rtol=1e-2
    )
    back = lattice_spacing.kernel(com.T, x, SIDE[:2], energy=17.0, distance=270.0, downstream="-y")
    np.testing.assert_array_equal(back["field_of_view_strain"][:, 0], -found["field_of_view_strain"][0])


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({}, "energy: is unknown"),
        ({"energy": 17.0, "reference": "nominal"}, "needs the nominal spacing"),
        ({"energy": 17.0, "offset": -20.0}, r"scattering angles: are -20 to -20 degree; set offset"),
    ],
)
def test_spacing__refuses(given, text: str) -> None:
    with pytest.raises(InputError, match=text):
        lattice_spacing.kernel(np.zeros((3, 3)), SIDE, SIDE, **given)


def test_spacing__missing_pixels_and_errors_are_nan() -> None:
    com = np.full((3, 3), 20.0)
    com[1, 1] = np.nan
    found = lattice_spacing.kernel(com, SIDE, SIDE, energy=17.0)
    assert np.isnan(found["spacing"]).sum() == 1
    assert np.abs(np.nan_to_num(found["spacing_strain"])).max() < 1e-15
    assert np.isnan(found["spacing_error"]).all()
