"""Rotation about any axis, and where a diffracted beam goes."""

from __future__ import annotations

import numpy as np

from dfxm_dask.optics.geometry import _unit, rotation_x, rotation_y


def rotation_about(axis: np.ndarray, angle: float) -> np.ndarray:
    """Active rotation by ``angle`` (rad) about ``axis`` (any length), (3, 3), float64 (Rodrigues)."""
    k = _unit(axis, "axis")
    cross = np.array([[0, -k[2], k[1]], [k[2], 0, -k[0]], [-k[1], k[0], 0]])
    return np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross


def diffracted_direction(theta: float, eta: float = 0.0) -> np.ndarray:
    """Unit vector along the diffracted beam in the lab, R_x(eta) R_y(-2 theta) x, (3,), float64."""
    return rotation_x(eta) @ rotation_y(-2 * theta) @ np.array([1.0, 0, 0])
