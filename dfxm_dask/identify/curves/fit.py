"""Least-squares fit of a line, or of a lattice without one, to maps of the centre of mass."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from dfxm_dask.identify.curves.model import Lines, Response, tilts

STEPS = 8  # largest number of steps of a fit (our choice)


class Maps(NamedTuple):
    """Centres of mass of all pixels of all layers, whitened by the fit.

    Attributes
    ----------
    place : array (pixel, xyz), um
        Relative to the reference point.
    layer : array (pixel,), int
    centre : array (axis, pixel), rad
    root : array (pixel, axis, axis), 1/rad
        Transposed Cholesky factor of the inverse covariance.
    """

    place: np.ndarray
    layer: np.ndarray
    centre: np.ndarray
    root: np.ndarray


class Fit(NamedTuple):
    """Least-squares fit of one candidate, or of none.

    Attributes
    ----------
    at : array (2,), um
        (u, v) of the line in its own frame.
    chi2, log_determinant : float
        Of the residuals, and of the information matrix of all unknowns.
    covariance : array (2, 2), um2
        Of ``at``, for chi2 = 1 per value.
    centre : array (axis, pixel), rad
        Fitted centres of mass.
    residual : array (pixel, axis)
        Whitened.
    """

    at: np.ndarray
    chi2: float
    log_determinant: float
    covariance: np.ndarray
    centre: np.ndarray
    residual: np.ndarray


def fit(lines: Lines | None, row: int, maps: Maps, response: Response, start: np.ndarray, order: int = 1) -> Fit:
    """Position of a candidate and bending of the lattice, by damped least squares; of none without ``lines``.

    Unknowns: (u, v), and for every layer and scan axis the bending of the lattice, a polynomial of degree ``order``.
    """
    axes, pixels = maps.centre.shape
    planes = _planes(maps, order)
    size, moves = axes * planes.shape[1], 2 if lines is not None else 0

    def made(bend: np.ndarray, own: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        angle = own + bend.reshape(axes, -1) @ planes.T
        both = [_respond(response, a, angle[a]) for a in range(axes)]
        return np.array([value for value, _ in both]), np.array([slope for _, slope in both])

    def shape_of(at: np.ndarray) -> np.ndarray:
        return tilts(lines, row, maps.place, at) if lines is not None else np.zeros((axes, pixels))

    at, own = np.array(start, np.float64)[:2], shape_of(start)
    bend = np.concatenate([_plane(maps, response, a, own[a], planes) for a in range(axes)])
    value, slope = made(bend, own)
    residual = _white(maps, maps.centre - value)
    chi2, damping = float((residual**2).sum()), 1e-3
    for _ in range(STEPS):
        jacobian = np.zeros((pixels, axes, moves + size))
        if moves:
            for k, d in enumerate(np.eye(2) * 1e-3):
                changed = (shape_of(at + d) - own) / 1e-3 * slope
                jacobian[:, :, k] = np.einsum("pij,jp->pi", maps.root, changed)
        for a in range(axes):
            part = maps.root[:, :, a] * slope[a][:, None]
            first = moves + a * planes.shape[1]
            jacobian[:, :, first : first + planes.shape[1]] = part[:, :, None] * planes[:, None]
        flat = jacobian.reshape(-1, moves + size)
        information, gradient = flat.T @ flat, flat.T @ residual.ravel()
        information[np.diag_indices(len(information))] += 1e-12 * np.trace(information) + 1e-30
        better = False
        for _ in range(6):
            damped = information + damping * np.diag(np.diag(information))
            change = np.linalg.solve(damped, gradient)
            moved = change[:moves] * min(1.0, 0.3 / max(np.abs(change[:moves]).max(initial=0.0), 1e-9))
            new_at = at + moved if moves else at
            new_own, new_bend = shape_of(new_at), bend + change[moves:]
            new_value, new_slope = made(new_bend, new_own)
            new_residual = _white(maps, maps.centre - new_value)
            new_chi2 = float((new_residual**2).sum())
            if new_chi2 < chi2:
                better = True
                break
            damping *= 10
        if not better:
            break
        gained = chi2 - new_chi2
        at, own, bend, value, slope, residual, chi2 = (
            new_at, new_own, new_bend, new_value, new_slope, new_residual, new_chi2,
        )  # fmt: skip
        damping = max(damping / 10, 1e-9)
        if gained < 1e-3 * max(1.0, chi2 / pixels):
            break
    covariance = np.linalg.pinv(information)[:moves, :moves]
    return Fit(at, chi2, float(np.linalg.slogdet(information)[1]), covariance, value, residual)


def _planes(maps: Maps, order: int) -> np.ndarray:
    """Polynomials (pixel, layer and term) of the bending."""
    x, y = maps.place[:, :2].T
    terms = np.stack([x**a * y**b for a in range(order + 1) for b in range(order + 1 - a)], axis=1)
    _, number = np.unique(maps.layer, return_inverse=True)
    out = np.zeros((len(x), number.max() + 1, terms.shape[1]))
    out[np.arange(len(x)), number.ravel()] = terms
    return out.reshape(len(x), -1)


def _respond(response: Response, axis: int, angle: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Centre of mass at peak angles, and its derivative."""
    peak, centre = response.peak[axis], response.centre[axis]
    step = peak[1] - peak[0]
    index = np.clip(((angle - peak[0]) / step).astype(np.int64), 0, peak.size - 2)
    slope = (centre[index + 1] - centre[index]) / step
    return centre[index] + slope * (angle - peak[index]), slope


def _plane(maps: Maps, response: Response, axis: int, own: np.ndarray, planes: np.ndarray) -> np.ndarray:
    """Bending along one axis that fits the peak angles without the field of the line."""
    rest = np.interp(maps.centre[axis], response.centre[axis], response.peak[axis]) - own
    root = np.linalg.norm(maps.root[:, :, axis], axis=1)
    weighted = planes * root[:, None]
    return np.linalg.lstsq(weighted.T @ weighted, weighted.T @ (rest * root), rcond=None)[0]


def _white(maps: Maps, values: np.ndarray) -> np.ndarray:
    """Values (axis, pixel) as standard normal numbers (pixel, axis)."""
    return np.einsum("pij,jp->pi", maps.root, values)
