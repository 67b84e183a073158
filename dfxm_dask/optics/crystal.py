"""Crystals: lattices, Bragg angles, slip systems, and how strongly they scatter and absorb X-rays."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dfxm_dask.errors import InputError
from dfxm_dask.optics.elements import ATOMIC_NUMBERS, FORM_FACTORS, dispersion, form_factor
from dfxm_dask.schema import nearest

HC = 12.398419843320026  # keV angstrom, exact in the SI of 2019
CLASSICAL_RADIUS = 2.8179403262e-5  # angstrom, of the electron; CODATA 2018

_FACE_CENTRES = np.array([[0.0, 0, 0], [0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]])
STRUCTURES = {"fcc": _FACE_CENTRES, "diamond": np.concatenate([_FACE_CENTRES, _FACE_CENTRES + 0.25])}
"""Fractional positions of the atoms of a cell."""


@dataclass(frozen=True)
class Crystal:
    """A perfect crystal of one element.

    Parameters
    ----------
    name : str
        Name of the crystal.
    cell : tuple of 6 float
        a, b, c in angstrom, alpha, beta, gamma in degree.
    structure : "fcc" or "diamond"
        Positions of the atoms, in fractions of the cell.
    element : str
        Chemical symbol.
    poisson : float
        Poisson ratio of the isotropic medium that approximates the crystal.
    elastic : tuple of 3 float, GPa
        C11, C12, C44 of the cubic crystal.
    debye_waller : float, angstrom²
        B of exp(-B sin²(theta)/lambda²) on the amplitude, at room temperature.

    Raises
    ------
    InputError
        Unknown structure or element, or an impossible cell.
    """

    name: str
    cell: tuple[float, float, float, float, float, float]
    structure: str
    element: str
    poisson: float
    elastic: tuple[float, float, float]
    debye_waller: float

    def __post_init__(self) -> None:
        for word, value, known in (
            ("structure", self.structure, STRUCTURES),
            ("element", self.element, FORM_FACTORS),
        ):
            if value not in known:
                remedy = f"take one of {sorted(known)}"
                raise InputError(f"crystal {self.name}: {word} {value!r}", "is not known", remedy)
        if not (np.isfinite(self.cell).all() and min(self.cell[:3]) > 0 and _gram_determinant(self.cell) > 1e-12):
            raise InputError(
                f"crystal {self.name}: cell {self.cell}",
                "has no volume",
                "give a, b, c in angstrom and alpha, beta, gamma in degree",
            )
        if not -1 < self.poisson < 0.5:
            raise InputError(
                f"crystal {self.name}: Poisson ratio {self.poisson}", "no stable solid has it", "take one in (-1, 0.5)"
            )

    @property
    def edges(self) -> np.ndarray:
        """Cell vectors a, b, c as columns (3, 3), float64, angstrom: a along x, b in the xy plane, c towards +z."""
        a, b, c = self.cell[:3]
        cos_alpha, cos_beta, cos_gamma = _cosines(self.cell)
        sin_gamma = np.sqrt(1 - cos_gamma**2)
        c_y = (cos_alpha - cos_beta * cos_gamma) / sin_gamma
        c_z = np.sqrt(_gram_determinant(self.cell)) / sin_gamma
        return np.array([[a, b * cos_gamma, c * cos_beta], [0, b * sin_gamma, c * c_y], [0, 0, c * c_z]])

    @property
    def B(self) -> np.ndarray:
        """Reciprocal vectors as columns (3, 3), float64, 1/angstrom, 2 pi included; a along x and c* along z."""
        return 2 * np.pi * np.linalg.inv(self.edges).T

    @property
    def volume(self) -> float:
        """Volume of the cell, angstrom³."""
        return float(np.linalg.det(self.edges))


def _cosines(cell: tuple[float, ...]) -> list[float]:
    # cos(90 degree) is 6e-17 in floating point; a cubic lattice shall be exactly diagonal.
    return [0.0 if angle == 90 else float(np.cos(np.radians(angle))) for angle in cell[3:]]


def _gram_determinant(cell: tuple[float, ...]) -> float:
    alpha, beta, gamma = _cosines(cell)
    return 1 - alpha**2 - beta**2 - gamma**2 + 2 * alpha * beta * gamma


# Poisson ratios: Al as in the published microscopy of Al; the others are Voigt averages of their elastic constants.
# Elastic constants: Al as in physics texts at room temperature; Cu, Ni, Si: Hirth & Lothe, Theory of Dislocations;
# diamond: McSkimin & Andreatch 1972. B: usual values at room temperature, known to some percent.
CRYSTALS = {
    crystal.name: crystal
    for crystal in (
        Crystal("Al", (4.0495, 4.0495, 4.0495, 90, 90, 90), "fcc", "Al", 0.334, (108.2, 61.3, 28.5), 0.86),
        Crystal("Cu", (3.6149, 3.6149, 3.6149, 90, 90, 90), "fcc", "Cu", 0.324, (168.4, 121.4, 75.4), 0.55),
        Crystal("Ni", (3.5238, 3.5238, 3.5238, 90, 90, 90), "fcc", "Ni", 0.276, (246.5, 147.3, 124.7), 0.37),
        Crystal("Si", (5.43102, 5.43102, 5.43102, 90, 90, 90), "diamond", "Si", 0.218, (165.7, 63.9, 79.6), 0.46),
        Crystal("diamond", (3.5671, 3.5671, 3.5671, 90, 90, 90), "diamond", "C", 0.067, (1079.0, 124.0, 578.0), 0.14),
    )
}
"""Crystals by name, at room temperature."""


def find_crystal(name: str) -> Crystal:
    """Crystal by name.

    Raises
    ------
    InputError
        No such crystal.

    Examples
    --------
    >>> find_crystal("Al").cell[0]
    4.0495
    """
    if name not in CRYSTALS:
        raise InputError(f"crystal {name!r}", f"is not known{nearest(name, CRYSTALS)}", f"take one of {list(CRYSTALS)}")
    return CRYSTALS[name]


def wavelength(energy: float) -> float:
    """Wavelength of a photon, angstrom.

    Parameters
    ----------
    energy : float, keV

    Raises
    ------
    InputError
        Energy that is not positive.

    Examples
    --------
    >>> round(wavelength(17.0), 6)
    0.729319
    """
    if not 0 < energy < np.inf:
        raise InputError(f"photon energy {energy} keV", "is not positive and finite", "give the energy in keV")
    return HC / energy


def scattering_vector(crystal: Crystal, hkl: np.ndarray | tuple[int, int, int]) -> np.ndarray:
    """Scattering vector Q = B hkl in the grain frame, (..., 3), float64, 1/angstrom.

    Parameters
    ----------
    crystal : Crystal
    hkl : array (..., 3) of int
        Miller indices.

    Raises
    ------
    InputError
        Indices that are not integers, or 0 0 0.

    Examples
    --------
    >>> scattering_vector(find_crystal("Al"), (0, 0, 2)).round(4).tolist()
    [0.0, 0.0, 3.1032]
    """
    indices = np.asarray(hkl, np.float64)
    if indices.shape[-1:] != (3,) or not (indices == np.rint(indices)).all():
        raise InputError(f"reflection {np.asarray(hkl).tolist()}", "is not three integers", "give h, k, l")
    if not indices.any(axis=-1).all():
        raise InputError("reflection 0 0 0", "is the direct beam", "give a reflection of the lattice")
    return indices @ crystal.B.T


def spacing(crystal: Crystal, hkl: tuple[int, int, int]) -> float:
    """Spacing of lattice planes d = 2 pi/|Q|, angstrom.

    Raises
    ------
    InputError
        See :func:`scattering_vector`.

    Examples
    --------
    >>> round(spacing(find_crystal("Si"), (1, 1, 1)), 4)
    3.1356
    """
    return float(2 * np.pi / np.linalg.norm(scattering_vector(crystal, hkl)))


def _basis_sum(crystal: Crystal, hkl: tuple[int, int, int]) -> complex:
    """Sum of the phases of the atoms of a cell; a reflection for which it is zero is forbidden."""
    phases = STRUCTURES[crystal.structure] @ np.asarray(hkl, np.float64)
    total = complex(np.exp(2j * np.pi * phases).sum())
    if abs(total) < 1e-9 * len(phases):
        raise InputError(
            f"reflection {' '.join(str(index) for index in hkl)} of {crystal.name}",
            f"is forbidden by its {crystal.structure} structure",
            "take an allowed reflection",
        )
    return total


def bragg_angle(crystal: Crystal, hkl: tuple[int, int, int], energy: float) -> float:
    """Bragg angle theta = arcsin(lambda/(2 d)), rad.

    Parameters
    ----------
    crystal : Crystal
    hkl : 3 int
    energy : float, keV

    Raises
    ------
    InputError
        0 0 0, a forbidden reflection, an energy that is not positive or too low for this reflection.

    Examples
    --------
    >>> round(bragg_angle(find_crystal("Al"), (1, 1, 1), 17.0), 6)
    0.156611
    """
    distance = spacing(crystal, hkl)
    _basis_sum(crystal, hkl)
    sine = wavelength(energy) / (2 * distance)
    if sine >= 1:
        raise InputError(
            f"reflection {' '.join(str(index) for index in hkl)} of {crystal.name} at {energy:g} keV",
            f"has no Bragg angle: the wavelength exceeds twice the spacing of {distance:.5g} angstrom",
            f"take an energy above {HC / (2 * distance):.5g} keV",
        )
    return float(np.arcsin(sine))


def slip_systems() -> tuple[np.ndarray, np.ndarray]:
    """Planes and directions of the 12 slip systems {111}<110> of a face-centred cubic crystal.

    Returns
    -------
    planes, directions : array (12, 3), int64
        Normal and slip direction, perpendicular to each other; three directions for each of the four planes.

    Examples
    --------
    >>> planes, directions = slip_systems()
    >>> planes[0].tolist(), directions[0].tolist()
    ([1, 1, 1], [0, 1, -1])
    """
    pairs = [
        (plane, direction)
        for plane in ((1, 1, 1), (-1, 1, 1), (1, -1, 1), (1, 1, -1))
        for direction in _DIAGONALS
        if np.dot(plane, direction) == 0
    ]
    planes, directions = zip(*pairs, strict=True)
    return np.array(planes, np.int64), np.array(directions, np.int64)


_DIAGONALS = ((0, 1, -1), (0, 1, 1), (1, 0, -1), (1, 0, 1), (1, -1, 0), (1, 1, 0))


def burgers_vectors(crystal: Crystal) -> np.ndarray:
    """Burgers vectors a/2 <110>, one of each pair ±b, (6, 3), float64, um, cartesian in the grain frame.

    Examples
    --------
    >>> b = burgers_vectors(find_crystal("Al"))
    >>> b.shape, round(float(np.linalg.norm(b[0])), 8)
    ((6, 3), 0.00028634)
    """
    return 0.5e-4 * np.array(_DIAGONALS, np.float64) @ crystal.edges.T


def susceptibility(crystal: Crystal, hkl: tuple[int, int, int], energy: float) -> tuple[complex, complex]:
    """Fourier coefficients chi_0 and chi_h of the susceptibility, complex, without unit.

    Parameters
    ----------
    crystal : Crystal
    hkl : 3 int
        Reflection; the origin of the phase is an atom.
    energy : float, keV
        From 12 to 30.

    Returns
    -------
    chi_0, chi_h : complex
        Real and imaginary part both negative for Al: chi = -r lambda²/(pi V) sum (f0 + f' + i f'') exp(-B s²).

    Raises
    ------
    InputError
        See :func:`bragg_angle`; also energies outside the table of f' and f''.

    Notes
    -----
    Authier, Dynamical Theory of X-ray Diffraction (2001). f0 as in :func:`form_factor` (Z forward), f' and f'' of
    Chantler. The bond charge that makes Si 222 weakly visible is not in it.

    Examples
    --------
    >>> zero, h = susceptibility(find_crystal("Al"), (1, 1, 1), 17.0)
    >>> f"{zero.real:.3e} {h.real:.3e}"
    '-3.754e-06 -2.492e-06'
    """
    s = np.sin(bragg_angle(crystal, hkl, energy)) / wavelength(energy)
    anomalous = dispersion(crystal.element, energy)
    basis = _basis_sum(crystal, hkl)
    scale = -CLASSICAL_RADIUS * wavelength(energy) ** 2 / (np.pi * crystal.volume)
    damping = np.exp(-crystal.debye_waller * s**2)
    forward = scale * len(STRUCTURES[crystal.structure]) * (ATOMIC_NUMBERS[crystal.element] + anomalous)
    diffracted = scale * basis * (float(form_factor(crystal.element, s)) + anomalous) * damping
    return complex(forward), complex(diffracted)


def extinction_length(crystal: Crystal, hkl: tuple[int, int, int], energy: float, polarisation: float = 1.0) -> float:
    """Pendellösung length lambda cos(theta)/(C |chi_h|) of the symmetric Laue case, um.

    Parameters
    ----------
    crystal : Crystal
    hkl : 3 int
    energy : float, keV
    polarisation : float
        C: 1 for sigma polarisation, |cos(2 theta)| for pi.

    Raises
    ------
    InputError
        See :func:`susceptibility`; also a polarisation factor outside (0, 1].

    Examples
    --------
    >>> round(extinction_length(find_crystal("Al"), (1, 1, 1), 17.0), 2)
    28.91
    """
    if not 0 < polarisation <= 1:
        raise InputError(f"polarisation factor {polarisation}", "is not in (0, 1]", "take 1 or |cos(2 theta)|")
    theta = bragg_angle(crystal, hkl, energy)
    diffracted = abs(susceptibility(crystal, hkl, energy)[1])
    return 1e-4 * wavelength(energy) * float(np.cos(theta)) / (polarisation * diffracted)


def absorption(crystal: Crystal, energy: float) -> float:
    """Photoelectric absorption coefficient 2 pi |Im chi_0|/lambda, 1/um.

    Parameters
    ----------
    crystal : Crystal
    energy : float, keV
        From 12 to 30.

    Raises
    ------
    InputError
        Energy outside the table of f''.

    Examples
    --------
    >>> round(1e4 * absorption(find_crystal("Al"), 17.0), 1)  # per cm
    13.2
    """
    electrons = len(STRUCTURES[crystal.structure]) * dispersion(crystal.element, energy).imag
    return 1e4 * 2 * CLASSICAL_RADIUS * wavelength(energy) * electrons / crystal.volume
