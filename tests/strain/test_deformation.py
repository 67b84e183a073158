"""F from several reflections: round trips against the Laue condition, statistics of noise, missing data."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from dfxm_dask.errors import InputError
from dfxm_dask.strain.deformation import deformation
from dfxm_dask.strain.goniometer import angles_of, reflections
from dfxm_dask.strain.null_space import undetermined
from dfxm_dask.strain.variables import ANGLE_MISSING, COPLANAR, IMPLAUSIBLE, REFLECTION_MISSING, UNLIT, WITHOUT_ERROR
from dfxm_dask.strain.vectors import scattering_vectors
from tests.strain.oblique_set import HKL, LATTICE, SIGMA, angles_for, covariances, rotation, set_of

TABLES = set_of()


def field(shape: tuple[int, int], seed: int, size: float = 3e-4) -> np.ndarray:
    return np.eye(3) + np.random.default_rng(seed).normal(0, size, (*shape, 3, 3))


def found(centre: np.ndarray, tables: dict[str, Any] = TABLES, **given: Any) -> dict[str, np.ndarray]:
    """F of angles in rad."""
    covariance = given.pop("covariance", None)
    covariance = covariances(centre.shape[:-1]) if covariance is None else covariance
    return deformation.kernel(np.rad2deg(centre), covariance, **tables, **given)


def exact(deformed: np.ndarray) -> np.ndarray:
    """Angles of a field, by the package: tested against Newton's method below."""
    at = reflections(**TABLES, deviation=0.01)
    return angles_of(at, np.einsum("yxji,kj->kyxi", np.linalg.inv(deformed), at.vectors))


def test_deformation__round_trip_through_the_laue_condition() -> None:
    turned = rotation(2, 0.02) @ rotation(1, -0.013) @ rotation(0, 0.03)
    deformed = field((3, 2), 1) @ turned
    angles = angles_for(TABLES, deformed)
    np.testing.assert_allclose(exact(deformed), angles, rtol=0, atol=1e-14)
    result = found(angles)
    assert np.abs(result["deformation"] - deformed).max() < 1e-12
    assert (result["deformation_reason"] == 0).all()
    np.testing.assert_allclose(result["deformation_chi2"], 0, atol=1e-6)


def test_deformation__with_a_base_tilt() -> None:
    """Symmetric setting with mu = theta, one reflection per orientation of the crystal on the goniometer."""
    theta = np.arcsin(np.linalg.norm(LATTICE @ [0, 0, 2]) * 0.649 / (4 * np.pi))
    tables = {
        "hkl": np.array([[0, 0, 2]]),
        "setting": np.array([[np.rad2deg(theta), 0.0, 0.0, np.rad2deg(theta)]]),
        "reciprocal_lattice": LATTICE,
        "wavelength": np.array([0.649]),
    }
    at = reflections(**tables, deviation=1e-9)
    np.testing.assert_allclose(angles_of(at, at.vectors), 0, atol=1e-14)
    assert {"rotation about z", "strain along x", "strain along y"} < set(undetermined(at))


def test_deformation__noise_of_ten_microradian() -> None:
    """Without weights 3.2e-5 (published: 3.4e-5 in 36 pixels); with weights less, and the covariance is right."""
    deformed = field((110, 110), 2)
    angles = exact(deformed)
    noisy = angles + np.random.default_rng(3).normal(0, 1, angles.shape) * SIGMA
    covariance = covariances(angles.shape[:-1])
    q = scattering_vectors.kernel(np.rad2deg(noisy), covariance, **TABLES)["scattering_vector"]
    plain = np.linalg.inv(np.einsum("kyxi,kj->yxij", q, np.linalg.pinv(LATTICE @ HKL.T))).swapaxes(-1, -2)
    assert np.sqrt(((plain - deformed) ** 2).mean()) == pytest.approx(3.21e-5, rel=0.03)
    result = found(noisy)
    off = result["deformation"] - deformed
    assert np.sqrt((off**2).mean()) < 2.4e-5
    chi2 = ((off / result["deformation_error"]) ** 2).mean(axis=(0, 1))
    assert (np.abs(chi2 - 1) < 0.05).all()
    weight = np.linalg.inv(result["deformation_covariance"].astype(float))
    flat = off.reshape(110, 110, 9)
    assert np.einsum("yxi,yxij,yxj->yx", flat, weight, flat).mean() == pytest.approx(9, rel=0.02)
    assert (result["deformation_freedom"] == 3).all()
    assert result["deformation_chi2"].mean() == pytest.approx(3, rel=0.03)


def test_scattering_vectors__covariance_is_that_of_many_draws() -> None:
    angles = np.tile(exact(field((1, 1), 4)), (1, 1, 4000, 1))
    factor = np.array([[1.0, 0, 0], [0.5, 1, 0], [-0.3, 0.2, 1]]) * SIGMA[:, None]
    noisy = angles + np.random.default_rng(5).normal(0, 1, angles.shape) @ factor.T
    spread = np.zeros((*angles.shape, 3), np.float32)
    spread[...] = factor @ factor.T * np.rad2deg(1) ** 2
    result = scattering_vectors.kernel(np.rad2deg(noisy), spread, **TABLES)
    for k in range(4):
        drawn = np.cov(result["scattering_vector"][k, 0].T)
        np.testing.assert_allclose(result["scattering_vector_covariance"][k, 0, 0], drawn, atol=0.06 * drawn.max())


@pytest.mark.parametrize(
    ("gaps", "freedom"), [([(0, 0)], 2), ([(1, 2), (3, 1)], 1), ([(2, 0), (2, 1), (2, 2)], 0), ([(0, 1), (1, 2)], 1)]
)
def test_deformation__missing_angles_remove_only_their_equations(gaps: list[tuple[int, int]], freedom: int) -> None:
    deformed = field((4, 5), 6)
    angles = exact(deformed)
    for k, a in gaps:
        angles[k, ..., a] = np.nan
    result = found(angles)
    assert np.abs(result["deformation"] - deformed).max() < 1e-12
    assert (result["deformation_freedom"] == freedom).all()
    assert (result["deformation_reason"] == 0).all()
    noisy = np.repeat(angles[:, :1, :1], 3000, axis=2)
    noisy = noisy + np.random.default_rng(7).normal(0, 1, noisy.shape) * SIGMA
    off = found(noisy)["deformation"] - deformed[0, 0]
    np.testing.assert_allclose(off.std(axis=(0, 1)), result["deformation_error"][0, 0], rtol=0.06)


def test_deformation__undetermined_components_are_missing() -> None:
    deformed = field((2, 6), 8)
    angles = exact(deformed)
    angles[2:, :, 1] = np.nan  # two reflections: a plane without y
    angles[..., 2, 0] = np.nan  # no two_theta at all
    angles[:, :, 3] = np.nan  # unlit
    angles[1:, :, 4] = np.nan  # one reflection
    result = found(angles)
    full, two, arm, dark, one, _ = np.isfinite(result["deformation"]).swapaxes(0, 1)
    assert full.all()
    assert (two == np.array([[0, 0, 0], [1, 1, 1], [0, 0, 0]])).all()
    assert (arm == np.array([[0, 0, 1], [0, 0, 1], [1, 1, 0]])).all()
    assert not dark.any()
    assert not one.any()
    known = np.isfinite(result["deformation"])
    assert np.abs(result["deformation"] - deformed)[known].max() < 3e-6  # to first order
    assert (np.isfinite(result["deformation_error"]) == known).all()
    both = known.reshape(2, 6, 9)
    assert (np.isfinite(result["deformation_covariance"]) == both[..., None] & both[..., None, :]).all()
    assert result["deformation_reason"][0].tolist() == [
        0,
        REFLECTION_MISSING | COPLANAR,
        ANGLE_MISSING,
        UNLIT,
        REFLECTION_MISSING | COPLANAR,
        0,
    ]
    assert np.isnan(result["deformation_chi2"][0, 3])


def test_deformation__implausible_or_without_error() -> None:
    deformed = field((1, 3), 9)
    deformed[0, 1] = rotation(0, 0.2)
    angles = exact(deformed)
    covariance = covariances(angles.shape[:-1])
    covariance[2, 0, 2, 1, 1] = 0
    result = found(angles, covariance=covariance)
    assert result["deformation_reason"].tolist() == [[0, IMPLAUSIBLE, WITHOUT_ERROR]]
    assert np.isnan(result["deformation"][0, 1]).all()
    assert np.isnan(result["deformation_error"][0, 2]).all()
    np.testing.assert_allclose(result["deformation"][0, 2], deformed[0, 2], rtol=0, atol=1e-12)
    assert np.isfinite(found(angles, plausible=0.5)["deformation"]).all()


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"hkl": HKL[[1, 0, 2, 3]]}, "reflection -1 1 3: UB hkl is .* diffracts at its setting"),
        ({"reciprocal_lattice": 1.2 * LATTICE}, "orientation, indices, wavelength and setting of the same"),
        ({"reciprocal_lattice": np.full((3, 3), np.nan)}, "reciprocal_lattice"),
        ({"wavelength": np.array([0.649, 0.649, 0.0, 0.649])}, "wavelength of reflection 1 -1 3"),
        ({"setting": np.where(np.arange(4) == 1, np.nan, TABLES["setting"])}, "setting of reflection -1 -1 3"),
    ],
)
def test_deformation__refuses_tables_that_do_not_agree(change: dict[str, Any], text: str) -> None:
    with pytest.raises(InputError, match=text):
        found(np.zeros((4, 1, 1, 3)), {**TABLES, **change})


def test_deformation__refuses_reflections_that_determine_nothing() -> None:
    with pytest.raises(InputError, match=r"determines no component.*rotation about \[.*non-coplanar|not coplanar"):
        found(np.zeros((1, 1, 1, 3)), {n: v if n == "reciprocal_lattice" else v[:1] for n, v in TABLES.items()})


@pytest.mark.parametrize(
    ("drop", "names"),
    [
        ((), []),
        ((0,), ["rotation about z with strain +1.00 perpendicular to z, +0.69 along z"]),
        ((1,), ["rotation about y", "strain +1.00 along x, -0.11 along z"]),
    ],
)
def test_undetermined__names_deformations_that_change_no_angle(drop: tuple[int, ...], names: list[str]) -> None:
    measured = np.ones((4, 3), bool)
    measured[:, drop] = False
    assert undetermined(reflections(**TABLES, deviation=0.01), measured) == names
