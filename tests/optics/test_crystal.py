"""Crystals against metric tensors, sums over atoms, and published constants."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from dfxm_dask.errors import InputError
from dfxm_dask.optics.crystal import (
    CRYSTALS,
    STRUCTURES,
    Crystal,
    absorption,
    bragg_angle,
    burgers_vectors,
    extinction_length,
    find_crystal,
    scattering_vector,
    slip_systems,
    spacing,
    susceptibility,
    wavelength,
)
from dfxm_dask.optics.elements import ATOMIC_NUMBERS, DISPERSION, FORM_FACTORS, form_factor

AL = CRYSTALS["Al"]
TRICLINIC = replace(AL, name="triclinic", cell=(3.1, 4.7, 6.2, 75.0, 98.0, 110.0))


def test_B__of_a_triclinic_cell_is_the_inverse_of_its_metric_tensor() -> None:
    a, b, c = TRICLINIC.cell[:3]
    alpha, beta, gamma = np.radians(TRICLINIC.cell[3:])
    metric = np.array(
        [
            [a * a, a * b * np.cos(gamma), a * c * np.cos(beta)],
            [a * b * np.cos(gamma), b * b, b * c * np.cos(alpha)],
            [a * c * np.cos(beta), b * c * np.cos(alpha), c * c],
        ]
    )
    np.testing.assert_allclose(TRICLINIC.edges.T @ TRICLINIC.edges, metric, rtol=1e-13)
    np.testing.assert_allclose(TRICLINIC.edges.T @ TRICLINIC.B, 2 * np.pi * np.eye(3), atol=1e-13)
    assert TRICLINIC.volume == pytest.approx(np.sqrt(np.linalg.det(metric)), rel=1e-13)
    hkl = np.array([2, -1, 3])
    assert spacing(TRICLINIC, (2, -1, 3)) == pytest.approx((hkl @ np.linalg.inv(metric) @ hkl) ** -0.5, rel=1e-13)
    assert TRICLINIC.edges[1, 0] == TRICLINIC.edges[2, 0] == TRICLINIC.edges[2, 1] == 0  # a along x, b in the xy plane
    assert np.abs(TRICLINIC.B[:2, 2]).max() < 1e-15  # c* along z
    assert TRICLINIC.edges[2, 2] > 0


def test_B__of_a_cubic_cell_is_exactly_diagonal() -> None:
    np.testing.assert_array_equal(AL.B, np.diag(np.full(3, AL.B[0, 0])))
    assert AL.B[0, 0] == pytest.approx(2 * np.pi / 4.0495, rel=1e-15)


def test_bragg_angle__of_published_reflections() -> None:
    assert bragg_angle(AL, (-1, 1, -1), 17.0) == pytest.approx(0.156611422, abs=1e-8)
    oblique = replace(AL, cell=(4.0493, 4.0493, 4.0493, 90, 90, 90))
    assert np.degrees(bragg_angle(oblique, (-1, -1, 3), 19.1)) == pytest.approx(15.4168, abs=1e-4)
    # Si 111 with Cu K alpha 1, the textbook 14.221 degree.
    assert np.degrees(bragg_angle(CRYSTALS["Si"], (1, 1, 1), 8.04778)) == pytest.approx(14.221, abs=1e-3)
    assert wavelength(12.398419843320026) == 1.0


def test_scattering_vector__of_many_reflections() -> None:
    hkl = np.array([[1, 1, 1], [0, 0, 2]])
    found = scattering_vector(AL, hkl)
    assert found.shape == (2, 3)
    np.testing.assert_allclose(found, 2 * np.pi / 4.0495 * hkl, rtol=1e-14)


def test_slip_systems__are_the_twelve_of_the_face_centred_lattice() -> None:
    planes, directions = slip_systems()
    assert planes.shape == directions.shape == (12, 3)
    assert (np.abs(planes) == 1).all()
    assert (np.sort(np.abs(directions), axis=1) == [0, 1, 1]).all()
    assert (np.einsum("ij,ij->i", planes, directions) == 0).all()
    lines = {frozenset([tuple(d), tuple(-d)]) for d in directions}
    normals = {frozenset([tuple(n), tuple(-n)]) for n in planes}
    assert (len(lines), len(normals)) == (6, 4)
    assert len({(tuple(n), tuple(d)) for n, d in zip(planes, directions, strict=True)}) == 12
    # Of the pairs (n, ±b), half have g·b = 0 for g = -1 1 -1.
    assert (directions @ [-1, 1, -1] == 0).sum() * 2 == 12


def test_burgers_vectors__are_the_shortest_translations() -> None:
    b = burgers_vectors(AL)
    np.testing.assert_allclose(np.linalg.norm(b, axis=1), 4.0495e-4 / np.sqrt(2), rtol=1e-14)
    _, directions = slip_systems()
    assert {tuple(np.rint(v / np.abs(v).max()).astype(int)) for v in b} == {tuple(d) for d in directions}
    # Q·b is a whole number of turns.
    turns = 1e4 * b @ scattering_vector(AL, (3, 1, 1)) / (2 * np.pi)
    np.testing.assert_allclose(turns, np.rint(turns), atol=1e-12)


@pytest.mark.parametrize("element", sorted(FORM_FACTORS))
def test_form_factor__forward_is_the_number_of_electrons(element: str) -> None:
    assert float(form_factor(element, 0.0)) == pytest.approx(ATOMIC_NUMBERS[element], rel=1e-3)
    falling = form_factor(element, np.linspace(0, 2, 50))
    assert falling.shape == (50,)
    assert (np.diff(falling) < 0).all()
    assert (falling > 0).all()


def test_form_factor__of_al_111() -> None:
    # Waasmaier & Kirfel (1995), an independent fit: 8.9502.
    assert float(form_factor("Al", 0.2139)) == pytest.approx(8.9502, abs=2e-2)


def test_susceptibility__of_al_at_17_kev() -> None:
    zero, h = susceptibility(AL, (1, 1, 1), 17.0)
    assert zero.real == pytest.approx(-3.752e-6, rel=1e-3)
    assert h.real == pytest.approx(-2.490e-6, rel=1e-3)
    # Tables of f'' differ by some percent.
    assert zero.imag == pytest.approx(-1.51e-8, rel=0.02)
    assert h.imag == pytest.approx(-1.45e-8, rel=0.02)


@pytest.mark.parametrize("name", sorted(CRYSTALS))
@pytest.mark.parametrize("hkl", [(1, 1, 1), (2, 2, 0), (1, -3, 1), (4, 0, 0)])
def test_susceptibility__is_the_sum_over_the_atoms(name: str, hkl: tuple[int, int, int]) -> None:
    crystal = CRYSTALS[name]
    total = 0j
    for x, y, z in STRUCTURES[crystal.structure]:
        total += np.exp(2j * np.pi * (hkl[0] * x + hkl[1] * y + hkl[2] * z))
    zero, h = susceptibility(crystal, hkl, 17.0)
    atoms = 4 if crystal.structure == "fcc" else 8
    s = 0.5 / spacing(crystal, hkl)
    dispersion = complex(*(values[2] for values in DISPERSION[crystal.element]))  # at 17 keV
    scattered = (form_factor(crystal.element, s) + dispersion) * np.exp(-crystal.debye_waller * s**2)
    ratio = total / atoms * scattered / (ATOMIC_NUMBERS[crystal.element] + dispersion)
    assert h / zero == pytest.approx(ratio, rel=1e-12)
    opposite = susceptibility(crystal, (-hkl[0], -hkl[1], -hkl[2]), 17.0)[1]
    assert abs(opposite) == pytest.approx(abs(h), rel=1e-12)


def test_extinction_length__of_published_reflections() -> None:
    assert extinction_length(AL, (1, 1, 1), 17.0) == pytest.approx(28.93, rel=2e-3)
    assert extinction_length(AL, (0, 0, 2), 17.0) == pytest.approx(30.7, rel=2e-3)
    # Si 220 with Mo K alpha 1: between 36 and 37 um in the literature of Pendellösung fringes.
    assert extinction_length(CRYSTALS["Si"], (2, 2, 0), 17.479) == pytest.approx(36.5, abs=0.5)
    half = extinction_length(AL, (1, 1, 1), 17.0, polarisation=0.5)
    assert half == pytest.approx(2 * extinction_length(AL, (1, 1, 1), 17.0), rel=1e-12)


# Photoelectric coefficients of Elam, Ravel & Sieber (2002), an independent table, at 17 keV, 1/cm.
ELAM = {"Al": 13.818, "Cu": 462.94, "Ni": 440.72, "Si": 15.674, "diamond": 1.3042}


@pytest.mark.parametrize("name", sorted(CRYSTALS))
def test_absorption__agrees_with_an_independent_table(name: str) -> None:
    found = 1e4 * absorption(CRYSTALS[name], 17.0)
    assert found == pytest.approx(ELAM[name], rel=0.07)
    # mu ~ E^-3, since f'' ~ E^-2.
    slope = np.log(absorption(CRYSTALS[name], 28.0) / absorption(CRYSTALS[name], 14.0)) / np.log(2)
    assert -3.3 < slope < -2.7
    zero, _ = susceptibility(CRYSTALS[name], (2, 2, 0), 17.0)
    assert found == pytest.approx(1e8 * 2 * np.pi * abs(zero.imag) / wavelength(17.0), rel=1e-12)


@pytest.mark.parametrize("name", ["Cu", "Ni", "Si", "diamond"])
def test_poisson__is_the_voigt_average(name: str) -> None:
    c11, c12, c44 = CRYSTALS[name].elastic
    shear, lame = (c11 - c12 + 3 * c44) / 5, (c11 + 4 * c12 - 2 * c44) / 5
    assert CRYSTALS[name].poisson == pytest.approx(lame / (2 * (lame + shear)), abs=1.5e-3)


def test_crystal__refuses_what_cannot_be() -> None:
    with pytest.raises(InputError, match=r"crystal 'Aluminium': is not known.*take one of"):
        find_crystal("Aluminium")
    with pytest.raises(InputError, match=r"did you mean 'diamond'"):
        find_crystal("diamon")
    with pytest.raises(InputError, match="structure 'bcc': is not known; take one of"):
        replace(AL, structure="bcc")
    with pytest.raises(InputError, match="element 'Fe': is not known"):
        replace(AL, element="Fe")
    with pytest.raises(InputError, match="has no volume; give a, b, c in angstrom"):
        replace(AL, cell=(4, 4, 4, 120, 120, 120))
    with pytest.raises(InputError, match="has no volume"):
        replace(AL, cell=(4, -4, 4, 90, 90, 90))
    with pytest.raises(InputError, match=r"Poisson ratio 0\.5: no stable solid has it"):
        Crystal("x", AL.cell, "fcc", "Al", 0.5, AL.elastic, 0.86)


def test_reflections__refuse_what_cannot_be() -> None:
    with pytest.raises(InputError, match="reflection 0 0 0: is the direct beam"):
        bragg_angle(AL, (0, 0, 0), 17.0)
    with pytest.raises(InputError, match="is not three integers"):
        scattering_vector(AL, (1, 1, 0.5))  # type: ignore[arg-type]
    with pytest.raises(InputError, match="is not three integers"):
        scattering_vector(AL, (1, 1))  # type: ignore[arg-type]
    with pytest.raises(InputError, match="reflection 1 1 0 of Al: is forbidden by its fcc structure"):
        bragg_angle(AL, (1, 1, 0), 17.0)
    with pytest.raises(InputError, match="reflection 2 0 0 of Si: is forbidden by its diamond structure"):
        susceptibility(CRYSTALS["Si"], (2, 0, 0), 17.0)
    with pytest.raises(InputError, match=r"reflection 9 9 9 of Al at 17 keV: has no Bragg angle.*above 23.8"):
        bragg_angle(AL, (9, 9, 9), 17.0)
    for energy in (0.0, -17.0, np.nan, np.inf):
        with pytest.raises(InputError, match=r"photon energy.*is not positive and finite"):
            wavelength(energy)
    for energy in (11.9, 30.1):
        with pytest.raises(InputError, match="is tabulated from 12 to 30 keV"):
            absorption(AL, energy)
    with pytest.raises(InputError, match="polarisation factor 0: is not in"):
        extinction_length(AL, (1, 1, 1), 17.0, polarisation=0)
