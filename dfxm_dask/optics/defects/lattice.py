"""Lattices: orientation, candidate Burgers vectors, and the reflection in which they are visible."""

from __future__ import annotations

from typing import Annotated, Literal, NamedTuple, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator

from dfxm_dask.errors import InputError

LONGEST_VECTOR = 0.01  # um: larger than any cell of interest; angstrom given as um is far above
SHORTEST_CELL, SHORTEST_VECTOR = 1e-4, 1e-5
"""um: smaller than any cell, Burgers vector or lattice spacing; metres and millimetres given as um are far below (our
choice)."""
SQUARE = 1.0  # degree: largest deviation from a right angle of directions along two axes of the store
TINY = 1e-100  # smallest index, whose square is still finite
ALIKE = 1e-6  # relative difference below which two vectors are equal

ASIDE = 3.0  # degree: largest deviation of a scattering vector from that of the microscope (our choice)
BRAGG = 1.0, 40.0  # degree: Bragg angles of microscopes of this kind

Triple = tuple[float, float, float]
KINDS = {
    "fcc": 0.5 * np.array([[1, 1, 0], [1, -1, 0], [1, 0, 1], [1, 0, -1], [0, 1, 1], [0, 1, -1]]),
    "bcc": 0.5 * np.array([[1, 1, 1], [-1, 1, 1], [1, -1, 1], [1, 1, -1], [2, 0, 0], [0, 2, 0], [0, 0, 2]]),
}
"""Shortest lattice translations in units of the cell, without signs; for bcc also <100>, the reaction product of a/2
<111>."""

ALLOWED = {"fcc": "h, k, l all even or all odd", "bcc": "h + k + l even"}


class Lattice(BaseModel):
    """Candidate Burgers vectors: a cubic lattice and its orientation, or a list of vectors."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    kind: Literal["fcc", "bcc"] | None = Field(
        None, description="cubic lattice: a/2 <110> (fcc, the default), or a/2 <111> and a <100> (bcc)"
    )
    parameter: Annotated[float, Field(ge=SHORTEST_CELL, le=LONGEST_VECTOR, description="um")] | None = None
    x: Triple | None = Field(None, description="crystal direction along axis x of the store")
    z: Triple | None = Field(None, description="crystal direction along axis z of the store")
    vectors: Annotated[list[Triple], Field(min_length=1, max_length=60)] | None = Field(
        None, description="Burgers vectors along the axes x, y, z of the store, um, instead of kind, parameter, x, z"
    )
    hkl: tuple[int, int, int] | None = Field(None, description="reflection of the cubic lattice")
    scattering_vector: Triple | None = Field(
        None, description="reflection for vectors: g along the axes x, y, z of the store, of length 1/spacing, 1/um"
    )
    two_theta: (
        Annotated[float, Field(gt=2 * BRAGG[0], lt=2 * BRAGG[1], description="scattering angle, degree")] | None
    ) = None

    @model_validator(mode="after")
    def _one_or_the_other(self) -> Self:
        """Require either a cubic lattice or vectors, with all options of that choice."""
        cubic = [name for name in ("kind", "parameter", "x", "z") if getattr(self, name) is not None]
        if self.vectors is not None and cubic:
            raise ValueError(f"vectors and {', '.join(cubic)} exclude each other; give one or the other")
        missing = [name for name in ("parameter", "x", "z") if getattr(self, name) is None]
        if self.vectors is None and missing:
            raise ValueError(f"lacks {', '.join(missing)}; give parameter, x and z, or vectors")
        if self.vectors is not None and self.hkl is not None:
            raise ValueError("hkl requires a cubic cell, not vectors; give scattering_vector instead of hkl")
        if self.vectors is None and self.scattering_vector is not None:
            raise ValueError("scattering_vector requires vectors; give hkl instead of scattering_vector")
        crystal_of(self)
        return self


class Crystal(NamedTuple):
    """Crystal data for boundaries.

    Attributes
    ----------
    burgers : array (candidate, xyz), float64, um
        See :func:`lattice_vectors`.
    products : array (candidate,), float64, or None
        g·b of every candidate: an integer for a lattice translation. None if the reflection is unknown.
    theta : float or None, rad
        Bragg angle.
    """

    burgers: np.ndarray
    products: np.ndarray | None
    theta: float | None


def crystal_of(lattice: Lattice) -> Crystal:
    """Burgers vectors of a lattice, and their products with its reflection.

    Raises
    ------
    InputError
        See :func:`lattice_vectors`; a reflection of length zero, or one that the microscope cannot reach: with x along
        the beam and z up, g lies in the plane of x and z, rotated from z towards -x by the Bragg angle.

    Examples
    --------
    >>> crystal = crystal_of(Lattice(parameter=4.05e-4, x=(1, 0, -0.1), z=(0.1, 0, 1), hkl=(0, 0, 2)))
    >>> crystal.products.tolist(), round(float(np.rad2deg(crystal.theta)), 2)
    ([0.0, 0.0, 1.0, -1.0, 1.0, -1.0], 5.71)
    """
    burgers = lattice_vectors(lattice)
    if lattice.hkl is None and lattice.scattering_vector is None:
        return Crystal(burgers, None, None)
    name = "lattice: hkl" if lattice.hkl is not None else "lattice: scattering_vector"
    given = np.asarray(lattice.hkl or lattice.scattering_vector, np.float64)
    if not given.any():
        raise InputError(name, f"is {given.tolist()}", "give the measured reflection")
    if lattice.hkl is None and not 1 / LONGEST_VECTOR <= np.linalg.norm(given) <= 1 / SHORTEST_VECTOR:
        raise InputError(
            name,
            f"has a length of {np.linalg.norm(given):.4g}, which corresponds to lattice planes"
            f" {1 / np.linalg.norm(given):.4g} um apart",
            "give a vector of length 1/spacing in 1/um, such as 4938 for a spacing of 2.025e-4 um",
        )
    g = axes_of(lattice) @ given / (lattice.parameter or 1.0) if lattice.hkl is not None else given
    g_unit = g / np.linalg.norm(g)
    theta = float(np.arcsin(-g_unit[0])) if lattice.two_theta is None else np.deg2rad(lattice.two_theta) / 2
    expected = np.array([-np.sin(theta), 0.0, np.cos(theta)])
    aside = float(np.rad2deg(np.arctan2(np.linalg.norm(np.cross(expected, g_unit)), expected @ g_unit)))
    if aside > ASIDE or not BRAGG[0] <= np.rad2deg(theta) <= BRAGG[1]:
        direction = f"points along {np.round(g_unit, 3).tolist()}"
        at = f"theta {np.rad2deg(theta) + 0.0:.3g} degree"
        direction += (
            f", {aside:.3g} degree from the scattering vector at {at}"
            if aside > ASIDE
            else f", which corresponds to {at}"
        )
        raise InputError(
            name,
            direction,
            "give x (along the beam) and z (up) of the laboratory, in which g leans from z towards -x by theta",
        )
    products = np.round(burgers @ g, 6) + 0.0
    if lattice.hkl is not None and (np.abs(products - np.rint(products)) > ALIKE).any():
        kind = lattice.kind or "fcc"
        raise InputError(
            name,
            f"{' '.join(str(n) for n in lattice.hkl)} is extinct in {kind}: some g·b are not integers",
            f"give a reflection of {kind}: {ALLOWED[kind]}; or vectors with scattering_vector",
        )
    return Crystal(burgers, products, theta)


def lattice_vectors(lattice: Lattice) -> np.ndarray:
    """Burgers vectors of a lattice in the axes of the store, without signs.

    Parameters
    ----------
    lattice : Lattice
        ``kind``, ``parameter`` a (um), and the crystal directions (cubic indices) along the axes x and z of the store:
        the six a/2 <110> of fcc, or the four a/2 <111> and three a <100> of bcc. Or ``vectors``, um, in the axes of the
        store; of vectors that differ only in sign the first is kept.

    Returns
    -------
    array (vector, xyz), float64, um

    Raises
    ------
    InputError
        Directions or vectors of length zero, directions farther than 1 degree from a right angle, vectors longer than
        0.01 um or shorter than 1e-5 um.

    Examples
    --------
    >>> lattice_vectors(Lattice(parameter=4e-4, x=(1, 0, 0), z=(0, 0, 1)))[0].round(6).tolist()
    [0.0002, 0.0002, 0.0]
    >>> len(lattice_vectors(Lattice(kind="bcc", parameter=2.87e-4, x=(1, 0, 0), z=(0, 0, 1))))
    7
    >>> lattice_vectors(Lattice(vectors=[(3e-4, 0, 0), (-3e-4, 0, 0)])).tolist()
    [[0.0003, 0.0, 0.0]]
    """
    if lattice.vectors is not None:
        return _without_signs(np.asarray(lattice.vectors, np.float64))
    return np.asarray((lattice.parameter or 0.0) * KINDS[lattice.kind or "fcc"] @ axes_of(lattice).T)


def axes_of(lattice: Lattice) -> np.ndarray:
    """Axes x, y, z of the store in the cubic crystal, as rows (3, 3): they convert crystal directions to store axes.

    Raises
    ------
    InputError
        Directions of length zero, or farther than 1 degree from a right angle.
    """
    x, z = (np.asarray(v, np.float64) for v in (lattice.x, lattice.z))
    if not all(TINY < np.abs(v).max() < 1 / TINY for v in (x, z)):
        problem = f"has a direction of length zero, or one that is too long: x {lattice.x}, z {lattice.z}"
        raise InputError("lattice", problem, "give indices")
    x, z = x / np.linalg.norm(x), z / np.linalg.norm(z)
    if abs(x @ z) > np.sin(np.deg2rad(SQUARE)):
        raise InputError(
            f"lattice: x {lattice.x} and z {lattice.z}",
            f"are {np.rad2deg(np.arccos(x @ z)):.4g} degree apart",
            "give the crystal directions along two axes of the store, which are at right angles",
        )
    z = z - (x @ z) * x
    return np.stack([x, np.cross(z / np.linalg.norm(z), x), z / np.linalg.norm(z)])


def _without_signs(vectors: np.ndarray) -> np.ndarray:
    """Vectors without duplicates of opposite sign, checked."""
    length = np.linalg.norm(vectors, axis=1)
    if not (length > 0).all():
        raise InputError("lattice: vectors", "contain a vector of length zero", "give Burgers vectors")
    for one in (length.min(), length.max()):
        if not SHORTEST_VECTOR <= one <= LONGEST_VECTOR:
            raise InputError(
                "lattice: vectors", f"contain a vector of {one:.4g} um", "give um (1 angstrom is 0.0001 um)"
            )
    kept: list[np.ndarray] = []
    for one in vectors:
        if all(min(np.linalg.norm(one - k), np.linalg.norm(one + k)) > ALIKE * np.linalg.norm(k) for k in kept):
            kept.append(one)
    return np.array(kept)
