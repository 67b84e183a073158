"""Frames against physical laws, and oblique settings against another code."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from dfxm_dask.errors import InputError
from dfxm_dask.optics.crystal import CRYSTALS, bragg_angle, wavelength
from dfxm_dask.optics.geometry import (
    effective_pixel,
    lab_to_sample,
    oblique,
    orientation,
    rotation_x,
    rotation_y,
    rotation_z,
)
from tests.references.directions import diffracted_direction, rotation_about

OBLIQUE = Path(__file__).parents[1] / "references" / "oblique.npz"


def exponential(axis: np.ndarray, angle: float) -> np.ndarray:
    """Rotation as a power series of the cross product."""
    cross = angle * np.cross(axis / np.linalg.norm(axis), np.eye(3)).T
    total = term = np.eye(3)
    for n in range(1, 40):
        term = term @ cross / n
        total = total + term
    return total


def test_rotations__are_the_exponentials_of_their_axes() -> None:
    rng = np.random.default_rng(0)
    for angle in (0.0, 1e-4, 0.7, -2.5):
        for rotation, axis in zip((rotation_x, rotation_y, rotation_z), np.eye(3), strict=True):
            np.testing.assert_allclose(rotation(angle), exponential(axis, angle), atol=1e-14)
            np.testing.assert_allclose(rotation_about(3 * axis, angle), rotation(angle), atol=1e-15)
        axis = rng.normal(size=3)
        np.testing.assert_allclose(rotation_about(axis, angle), exponential(axis, angle), atol=1e-14)


def test_orientation__puts_up_on_z_and_along_on_x() -> None:
    turn = orientation(np.array([-1, 1, -1]), np.array([1, 1, 3]))
    np.testing.assert_allclose(turn @ turn.T, np.eye(3), atol=1e-15)
    assert np.linalg.det(turn) == pytest.approx(1)
    np.testing.assert_allclose(turn @ [-1, 1, -1], [0, 0, np.sqrt(3)], atol=1e-15)
    projected = turn @ [1, 1, 3]
    assert projected[0] > 0
    assert projected[1] == pytest.approx(0, abs=1e-15)


def test_orientation__has_a_default_for_every_direction() -> None:
    for up in ([0, 0, 1], [1, 0, 0], [1, 1, 1], [-1, 1, -1], [1e-3, 0, -2.0]):
        turn = orientation(np.array(up))
        np.testing.assert_allclose(turn @ turn.T, np.eye(3), atol=1e-14)
        assert np.linalg.det(turn) == pytest.approx(1)
        np.testing.assert_allclose(turn @ up, [0, 0, np.linalg.norm(up)], atol=1e-14)
        np.testing.assert_array_equal(turn, orientation(np.array(up)))


def test_sample_frame__has_the_scattering_vector_on_z() -> None:
    """Momentum: k_out = k_in + Q at the Bragg angle, with Q along z of the sample."""
    theta = bragg_angle(CRYSTALS["Al"], (1, 1, 1), 17.0)
    wave = 2 * np.pi / wavelength(17.0)
    q = wave * (diffracted_direction(theta) - np.array([1.0, 0, 0]))
    np.testing.assert_allclose(lab_to_sample(theta) @ q, [0, 0, 2 * wave * np.sin(theta)], atol=1e-13)


def test_diffracted_direction__follows_eta() -> None:
    theta, eta = 0.2, 0.35
    k = diffracted_direction(theta, eta)
    assert np.linalg.norm(k) == pytest.approx(1)
    assert k[0] == pytest.approx(np.cos(2 * theta))
    assert -np.sign(k[1]) * np.arccos(k[2] / np.hypot(k[1], k[2])) == pytest.approx(eta)


def test_effective_pixel__of_both_detectors() -> None:
    theta = bragg_angle(CRYSTALS["Al"], (1, 1, 1), 17.0)
    assert effective_pixel(0.04, theta)[1] == pytest.approx(0.1235, abs=5e-5)
    assert effective_pixel(0.04, theta, "normal")[1] == pytest.approx(0.1298, abs=5e-5)
    # A ray from (x, z = 0) along k_d meets the vertical detector at a height that grows by one pixel per pitch.
    k = diffracted_direction(theta)
    pitch = effective_pixel(0.04, theta)[1]
    heights = [k[2] / k[0] * (10.0 - x) for x in (0.0, pitch)]
    assert heights[0] - heights[1] == pytest.approx(0.04)


def test_oblique__agrees_with_another_code() -> None:
    with np.load(OBLIQUE) as reference:
        for hkl, expected in zip(reference["hkl"], reference["all_omega_eta_theta"].reshape(4, 2, 3), strict=True):
            found = oblique(reference["UB"], hkl, float(reference["keV"]))
            expected = expected[np.argsort(expected[:, 0])]
            np.testing.assert_allclose(found, expected, atol=1e-12)


def test_oblique__conserves_the_energy_of_the_photon() -> None:
    rng = np.random.default_rng(4)
    for _ in range(20):
        turn = rotation_about(rng.normal(size=3), rng.uniform(0, 3))
        ub = turn @ CRYSTALS["Al"].B
        q, wave = ub @ [1, -1, 3], 2 * np.pi / wavelength(19.1)
        try:
            solutions = oblique(ub, (1, -1, 3), 19.1)
        except InputError:
            # No angle at all: |k + R Q| stays away from |k| over a whole turn.
            lengths = [np.linalg.norm(rotation_z(w) @ q + [wave, 0, 0]) - wave for w in np.linspace(0, 2 * np.pi, 721)]
            assert np.min(lengths) > 0 or np.max(lengths) < 0
            continue
        assert len(solutions) == 2
        for omega, eta, theta in solutions:
            k = rotation_z(omega) @ q + [wave, 0, 0]
            np.testing.assert_allclose(k, wave * diffracted_direction(theta, eta), atol=1e-12)


def test_oblique__has_one_row_where_two_solutions_meet() -> None:
    # Q in the plane that just touches the Ewald sphere: Q_xy = |Q| sin(theta).
    sine = 0.25
    length = 2 * sine * 2 * np.pi / wavelength(17.0)
    q = length * np.array([0.0, sine, np.sqrt(1 - sine**2)])
    found = oblique(np.diag(q), (1, 1, 1), 17.0)
    assert np.ptp(found[:, 0]) < 1e-6
    assert np.abs(found[:, 1]).max() < 1e-6


def test_geometry__refuses_what_cannot_be() -> None:
    cubic = CRYSTALS["Al"].B
    with pytest.raises(InputError, match=r"axis .*is not a direction"):
        rotation_about(np.zeros(3), 0.1)
    with pytest.raises(InputError, match=r"direction up .*is not a direction"):
        orientation(np.array([0, 0, 0]))
    with pytest.raises(InputError, match=r"it is parallel to \[1, 1, 1\], which is up"):
        orientation(np.array([1, 1, 1]), np.array([-2, -2, -2]))
    with pytest.raises(InputError, match="Bragg angle 0 rad: is not between 0 and pi/4"):
        effective_pixel(0.04, 0)
    with pytest.raises(InputError, match="pixel of 0 um: is not positive"):
        effective_pixel(0, 0.15)
    with pytest.raises(InputError, match="detector 'tilted': is not known"):
        effective_pixel(0.04, 0.15, "tilted")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="reflection 0 0 0 at 17 keV: is the direct beam"):
        oblique(cubic, (0, 0, 0), 17.0)
    with pytest.raises(InputError, match=r"does not exist at this wavelength; take an energy above 23\.8"):
        oblique(cubic, (9, 9, 9), 17.0)
    with pytest.raises(InputError, match="lies along the rotation axis"):
        oblique(cubic, (0, 0, 2), 17.0)
    with pytest.raises(InputError, match="no rotation about the vertical brings it onto the Ewald sphere"):
        oblique(rotation_x(0.01) @ cubic, (0, 0, 2), 17.0)
