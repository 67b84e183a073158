"""Sets of oblique reflections of an Al crystal, with exact angles of a given deformation field."""

from __future__ import annotations

from typing import Any

import numpy as np

from dfxm_dask.optics.crystal import wavelength
from dfxm_dask.optics.geometry import oblique

ENERGY = 19.1
LATTICE = 2 * np.pi / 4.0493 * np.eye(3)
HKL = np.array([[-1, -1, 3], [-1, 1, 3], [1, -1, 3], [1, 1, 3]])
SIGMA = np.array([20e-6, 10e-6, 10e-6])
"""Standard errors of two_theta, phi and chi, rad: 10 urad of theta."""


def set_of(hkl: np.ndarray = HKL) -> dict[str, Any]:
    """Tables of a set: the first solution of the Laue condition with eta > 0."""
    rows = [max(oblique(LATTICE, tuple(one), ENERGY), key=lambda row: row[1]) for one in hkl]
    omega, eta, theta = np.rad2deg(rows).T
    return {
        "hkl": np.asarray(hkl),
        "setting": np.stack([0 * omega, omega, eta, theta], axis=1),
        "reciprocal_lattice": LATTICE,
        "wavelength": np.full(len(hkl), wavelength(ENERGY)),
    }


def rotation(axis: int, angle: float) -> np.ndarray:
    """Active rotation about one axis by an angle in rad."""
    i, j = (axis + 1) % 3, (axis + 2) % 3
    made = np.eye(3)
    made[i, i] = made[j, j] = np.cos(angle)
    made[j, i], made[i, j] = np.sin(angle), -np.sin(angle)
    return made


def residual(tables: dict[str, Any], k: int, angles: np.ndarray, q: np.ndarray) -> np.ndarray:
    """Deviation from the Laue condition in the laboratory: R Q - (k_out - k_in), by plain products of rotations."""
    mu, omega, eta, theta = np.deg2rad(tables["setting"][k])
    two_theta, phi, chi = angles
    turned = rotation(1, -mu) @ rotation(2, omega) @ rotation(0, chi) @ rotation(1, phi) @ q
    beam = np.array([1.0, 0.0, 0.0])
    out = rotation(0, eta) @ rotation(1, -2 * theta - two_theta) @ beam
    return turned - 2 * np.pi / tables["wavelength"][k] * (out - beam)


def angles_for(tables: dict[str, Any], deformation: np.ndarray) -> np.ndarray:
    """Angles (reflection, ..., angle) in rad that fulfil the Laue condition, by Newton's method on :func:`residual`."""
    vectors = np.einsum("...ji,kj->k...i", np.linalg.inv(deformation), tables["hkl"] @ LATTICE.T)
    found = np.zeros(vectors.shape)
    for index in np.ndindex(vectors.shape[:-1]):
        for _ in range(6):
            off = residual(tables, index[0], found[index], vectors[index])
            slope = np.stack(
                [
                    residual(tables, index[0], found[index] + h, vectors[index])
                    - residual(tables, index[0], found[index] - h, vectors[index])
                    for h in 1e-6 * np.eye(3)
                ],
                axis=1,
            )
            found[index] -= np.linalg.solve(slope / 2e-6, off)
    return found


def covariances(shape: tuple[int, ...], sigma: np.ndarray = SIGMA) -> np.ndarray:
    """Covariance of independent angles in degree2, (*shape, 3, 3), float32."""
    made = np.zeros((*shape, 3, 3), np.float32)
    made[...] = np.diag(np.rad2deg(sigma) ** 2)
    return made
