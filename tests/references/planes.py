"""What tests ask of fitted planes: statistics of parts together, and angles that hold the true normals."""

from __future__ import annotations

import numpy as np

from dfxm_dask.boundaries.planes.mixture import Statistics
from dfxm_dask.boundaries.planes.plane import Planes, in_plane
from dfxm_dask.boundaries.planes.stripes import radius_of
from dfxm_dask.errors import InputError


def add_statistics(first: Statistics, second: Statistics) -> Statistics:
    """The statistics of two sets of points together; exact, so order and grouping do not matter."""
    if (np.abs(first.sums.astype(float) + second.sums) >= 2.0**63).any():
        raise InputError("sums of both", "do not fit 64 bits", "thin the points, or fit parts of the volume")
    cells, place = np.unique(np.concatenate([first.cells, second.cells]), return_inverse=True)
    masses = np.zeros((len(cells), first.masses.shape[1]), np.int64)
    np.add.at(masses, place.reshape(-1), np.concatenate([first.masses, second.masses]))
    return Statistics(first.sums + second.sums, cells, masses, first.likelihood + second.likelihood)


def normal_errors(planes: Planes, drawn: Planes, *others: Planes) -> np.ndarray:
    """Angles within which the true normals lie with a probability of 68 %."""
    out = np.full(len(planes.sigma), np.nan)
    for k, normal in enumerate(planes.normal):
        axes = in_plane(normal)

        def tilts(stack: Planes, k: int = k, normal: np.ndarray = normal, axes: np.ndarray = axes) -> np.ndarray:
            return np.sign(stack.normal[:, k] @ normal)[:, None] * (stack.normal[:, k] @ axes.T)

        covariance = np.cov(tilts(drawn), rowvar=False)
        for other in others:
            if len(other.sigma):
                off = tilts(other)
                covariance = covariance + off.T @ off / len(off)
        if np.isfinite(covariance).all():
            out[k] = np.rad2deg(radius_of(np.sqrt(np.maximum(np.linalg.eigvalsh(covariance), 0.0))))
    return out
