"""Burgers vectors of lattices, against closed forms."""

from __future__ import annotations

import numpy as np
import pytest
from pydantic import ValidationError

from dfxm_dask.boundaries.vectors.burgers import burgers_of_wall
from dfxm_dask.optics.defects.lattice import Lattice, crystal_of, lattice_vectors


def cosines(vectors: np.ndarray) -> np.ndarray:
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.abs(unit @ unit.T)[np.triu_indices(len(vectors), 1)]


@pytest.mark.parametrize("stand", [((1, 0, 0), (0, 0, 1)), ((1, 1, 0), (1, -1, 2)), ((1, 1, 1), (1, -1, 0))])
def test_lattice_vectors__lengths_and_angles_of_cubic_lattices(stand: tuple) -> None:
    """Lengths and angles from the metric of a cubic cell, however it stands."""
    fcc = lattice_vectors(Lattice(parameter=4.05e-4, x=stand[0], z=stand[1]))
    np.testing.assert_allclose(np.linalg.norm(fcc, axis=1), 4.05e-4 / np.sqrt(2), rtol=1e-12)
    np.testing.assert_allclose(np.sort(cosines(fcc)), [0] * 3 + [0.5] * 12, atol=1e-12)
    bcc = lattice_vectors(Lattice(kind="bcc", parameter=2.87e-4, x=stand[0], z=stand[1]))
    np.testing.assert_allclose(np.linalg.norm(bcc, axis=1), 2.87e-4 * np.array([3**0.5 / 2] * 4 + [1] * 3), rtol=1e-12)
    np.testing.assert_allclose(cosines(bcc[:4]), 1 / 3, rtol=1e-12)
    np.testing.assert_allclose(cosines(bcc[4:]), 0, atol=1e-12)
    # <100> is the sum of two of <111>: the reaction that makes it.
    sums = [a + s * b for k, a in enumerate(bcc[:4]) for b in bcc[:k] for s in (1, -1)]
    assert all(min(min(np.abs(s - c).max(), np.abs(s + c).max()) for s in sums) < 1e-15 for c in bcc[4:])


@pytest.mark.parametrize("kind", ["fcc", "bcc"])
def test_lattice_vectors__stand_as_the_axes_say(kind: str) -> None:
    """x and z of the store have the crystal directions that were given; the axes are right-handed."""
    a, x, z = 4e-4, np.array([1, 1, 0.0]), np.array([1, -1, 2.0])
    found = lattice_vectors(Lattice(kind=kind, parameter=a, x=x, z=z))
    plain = lattice_vectors(Lattice(kind=kind, parameter=a, x=(1, 0, 0), z=(0, 0, 1)))
    axes = np.stack([x / np.linalg.norm(x), np.cross(z, x) / np.linalg.norm(np.cross(z, x)), z / np.linalg.norm(z)])
    np.testing.assert_allclose(found, [[v @ e for e in axes] for v in plain], atol=1e-18)
    assert np.linalg.det(axes) == pytest.approx(1)


@pytest.mark.parametrize(
    ("vectors", "kept"),
    [
        ([[3e-4, 0, 0], [-3e-4, 0, 0], [0, 3e-4, 0]], [0, 2]),
        ([[1e-4, 2e-4, 3e-4], [1e-4, 2e-4, -3e-4]], [0, 1]),
        ([[2.5e-4, 0, 0], [-1.25e-4, 2.165063509e-4, 0], [-1.25e-4, -2.165063509e-4, 0], [2.5e-4, 0, 0]], [0, 1, 2]),
    ],
)
def test_lattice_vectors__of_a_list(vectors: list, kept: list) -> None:
    lattice = Lattice(vectors=vectors)
    for one in (lattice, Lattice(**lattice.model_dump())):
        np.testing.assert_array_equal(lattice_vectors(one), np.array(vectors)[kept])


def test_burgers__of_walls_in_bcc_and_in_a_list() -> None:
    """A tilt wall on (111) of bcc has b along its normal and no misfit; so has one of a hexagonal list."""
    bcc = lattice_vectors(Lattice(kind="bcc", parameter=2.87e-4, x=(1, 0, 0), z=(0, 0, 1)))
    hexagonal = lattice_vectors(Lattice(vectors=[[2.5e-4, 0, 0], [-1.25e-4, 2.165063509e-4, 0], [0, 0, 4e-4]]))
    for candidates, number in ((bcc, 0), (bcc, 5), (hexagonal, 1), (hexagonal, 2)):
        b = candidates[number]
        normal = b / np.linalg.norm(b)
        line = np.cross(normal, [0.3, 0.5, -0.8])
        found = burgers_of_wall(normal, line[None], [4.0], candidates)
        np.testing.assert_array_equal(found.burgers[0, 0], b)
        assert found.misfit[0] < 1e-5
        assert np.linalg.norm(found.rotation[0]) == pytest.approx(np.linalg.norm(b) / 4.0, rel=1e-9)


GOOD = {"parameter": 4e-4, "x": (1, 0, 0), "z": (0, 0, 1)}


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"parameter": 4e-4}, "lacks x, z"),
        ({}, "lacks parameter, x, z"),
        (GOOD | {"vectors": [(1e-4, 0, 0)]}, "exclude each other"),
        ({"kind": "bcc", "vectors": [(1e-4, 0, 0)]}, "exclude each other"),
        (GOOD | {"kind": "hcp"}, "fcc"),
        (GOOD | {"parameter": 4.05}, "less than or equal to 0.01"),
        ({"vectors": []}, "at least 1"),
        ({"vectors": [(1e-4, 0)]}, "vectors"),
        ({"vectors": [(np.nan, 0, 0)]}, "finite"),
    ],
)
def test_lattice__refuses(given: dict, words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        Lattice(**given)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (GOOD | {"z": (1, 0, 1)}, "degree apart"),
        (GOOD | {"x": (0, 0, 0)}, "length zero"),
        ({"vectors": [(1e-4, 0, 0), (0, 0, 0)]}, "length zero"),
        ({"vectors": [(2.86, 0, 0)]}, "1 angstrom is 0.0001 um"),
    ],
)
def test_lattice_vectors__refuses(given: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        lattice_vectors(Lattice(**given))


def leaning(theta: float, turn: float, hkl: tuple) -> tuple:
    """Crystal directions along x and z of a laboratory in which a reflection stands at its Bragg angle (degree)."""
    theta, turn = np.deg2rad(theta), np.deg2rad(turn)
    up = np.array(hkl) / np.linalg.norm(hkl)
    first = np.cross(up, [0.2, 0.7, 0.4])
    first /= np.linalg.norm(first)
    first = np.cos(turn) * first + np.sin(turn) * np.cross(up, first)
    return tuple(np.cos(theta) * first - np.sin(theta) * up), tuple(np.sin(theta) * first + np.cos(theta) * up)


@pytest.mark.parametrize(
    ("kind", "hkl", "theta"), [("fcc", (0, 0, 2), 10.4), ("fcc", (-1, 1, -1), 8.9), ("bcc", (1, 1, 0), 10.0)]
)
def test_crystal__products_are_those_of_the_indices(kind: str, hkl: tuple, theta: float) -> None:
    """g·b from Miller indices and directions alone, however the crystal stands; theta from the lean of g."""
    x, z = leaning(theta, 37.0, hkl)
    found = crystal_of(Lattice(kind=kind, parameter=3.6e-4, x=x, z=z, hkl=hkl))
    plain = lattice_vectors(Lattice(kind=kind, parameter=1e-4, x=(1, 0, 0), z=(0, 0, 1))) * 1e4
    np.testing.assert_array_equal(found.products, np.round(plain @ np.array(hkl)))
    assert np.rad2deg(found.theta) == pytest.approx(theta)
    g = np.linalg.norm(hkl) / 3.6e-4 * np.array([-np.sin(found.theta), 0, np.cos(found.theta)])
    listed = Lattice(vectors=found.burgers.tolist(), two_theta=2 * theta, scattering_vector=g)
    np.testing.assert_allclose(crystal_of(listed).products, found.products, atol=1e-6)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"hkl": (0, 0, 0)}, "the measured reflection"),
        ({"hkl": (2, 0, 0)}, "degree from the scattering vector"),  # along the beam
        ({"x": (1, 0, 0), "z": (0, 0, 1)}, "leans from z towards -x"),  # of the sample, not of the laboratory
        ({"two_theta": 40.0}, "at theta 20 degree"),
        ({"hkl": (0, 0, -2)}, "degree from the scattering vector"),
    ],
)
def test_crystal__refuses_a_reflection_that_the_microscope_does_not_see(change: dict, said: str) -> None:
    x, z = leaning(10.4, 20.0, (0, 0, 2))
    with pytest.raises(ValueError, match=said):
        Lattice(**{"parameter": 4.05e-4, "x": x, "z": z, "hkl": (0, 0, 2)} | change)


def test_crystal__words_that_exclude_each_other() -> None:
    with pytest.raises(ValidationError, match="scattering_vector instead of hkl"):
        Lattice(vectors=[(3e-4, 0, 0)], hkl=(0, 0, 2))
    with pytest.raises(ValidationError, match="hkl instead of scattering_vector"):
        Lattice(parameter=4e-4, x=(1, 0, 0), z=(0, 0, 1), scattering_vector=(0, 0, 5e3))


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"parameter": 4.05e-10, "x": (1, 0, 0), "z": (0, 0, 1)}, "greater than or equal"),  # metres
        ({"parameter": 4.05e-7, "x": (1, 0, 0), "z": (0, 0, 1)}, "greater than or equal"),  # millimetres
        ({"vectors": [(2.86e-10, 0, 0)]}, "2.86e-10 um"),
        ({"vectors": [(2.86e-4, 0, 0)], "scattering_vector": (-0.1, 0, 0.995)}, "spacing in 1/um"),  # a direction
        ({"vectors": [(2.86e-4, 0, 0)], "scattering_vector": (-0.49, 0, 4.9)}, "spacing in 1/um"),  # 1/nm
        ({"parameter": 4.05e-4, "x": (1e200, 0, 0), "z": (0, 0, 1)}, "too long"),
    ],
)
def test_lattice__other_units_and_lengths_that_no_crystal_has_are_refused(given: dict, said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        Lattice(**given)


@pytest.mark.parametrize(("kind", "hkl"), [("fcc", (0, 0, 1)), ("bcc", (0, 0, 3)), (None, (0, 0, 5))])
def test_lattice__a_reflection_that_the_lattice_extinguishes_is_refused(kind: str | None, hkl: tuple) -> None:
    with pytest.raises(ValidationError, match="extinct"):
        Lattice(kind=kind, parameter=4.05e-4, x=(1, 0, -0.1), z=(0.1, 0, 1), hkl=hkl)
