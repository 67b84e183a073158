"""Section images by Takagi–Taupin, and closed forms of perfect plates."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from scipy.special import j0

from dfxm_dask.errors import InputError
from dfxm_dask.optics.dynamical import ANGSTROM, _check, lattice, takagi_taupin


def section_image(
    phase: Callable[[np.ndarray, np.ndarray], np.ndarray] | None = None,
    *,
    thickness: float,
    sheet: float,
    deviations: np.ndarray,
    theta: float,
    wavelength: float,
    chi_h: complex,
    chi0: complex = 0.0,
    weights: np.ndarray | None = None,
    step: float = 0.25,
    polarisation: float = 1.0,
) -> tuple[np.ndarray, np.ndarray]:
    """Image of one row of a plate that a sheet of light cuts: incoherent sum over angles of incidence.

    ``phase``: callable (depth (n, 1), lateral (n, m)) -> (n, m), Q·u in rad at positions in um, NaN outside the
    crystal; the centre of the sheet enters at (0, 0). ``sheet``: standard deviation (um) of its Gaussian intensity,
    coherent across. Equal steps d of ``deviations`` (rad) are a quadrature that is exact once lambda / d exceeds the
    width of the sheet, some 2e-5 rad for 0.5 um. Returns the position (m,) along the incident beam from its entry, um,
    s0 = (thickness / cos(theta) - lateral / sin(theta)) / 2, and the flux into the diffracted beam per length of the
    sheet, 1/um. No objective and no detector: blur the result with them.
    """
    if not (np.isfinite(sheet) and sheet > 0):
        raise InputError(f"section image: sheet = {sheet:g} um", "is not positive", "give its standard deviation")
    deviations = np.asarray(deviations, np.float64)
    weights = np.ones(deviations.shape) if weights is None else np.asarray(weights, np.float64)
    if deviations.ndim != 1 or not deviations.size or weights.shape != deviations.shape:
        raise InputError(
            f"section image: deviations {deviations.shape} with weights {weights.shape}",
            "are not two rows of one length",
            "give one weight for each angle of incidence",
        )
    if not (np.isfinite(weights).all() and weights.min() >= 0 and weights.sum() > 0):
        raise InputError("section image: weights", "are negative, zero or not finite", "give positive weights")
    _check(theta, wavelength, chi_h, polarisation)
    _, _, true = lattice(1, thickness=thickness, step=step, theta=theta)
    half = true * np.sin(theta)
    footprint = sheet / np.cos(theta)
    # Six standard deviations: the amplitude has fallen to exp(-9).
    reach = math.ceil((thickness * np.tan(theta) + 6 * footprint) / (2 * half))
    nodes = 2 * reach + 1
    depth, lateral, _ = lattice(nodes, thickness=thickness, step=step, theta=theta, start=-2 * half * reach)
    entry = lateral[0]
    incident = np.where(np.abs(entry) <= 6 * footprint, np.exp(-((entry / (2 * footprint)) ** 2)), 0).astype(complex)
    field = None if phase is None else np.broadcast_to(phase(depth[:, None], lateral), lateral.shape)
    _, diffracted = takagi_taupin(
        incident,
        field,
        thickness=thickness,
        theta=theta,
        wavelength=wavelength,
        chi_h=chi_h,
        chi0=chi0,
        deviation=deviations,
        step=step,
        polarisation=polarisation,
    )
    share = weights / weights.sum()
    image = (share[:, None] * np.abs(diffracted) ** 2).sum(0) / (np.abs(incident) ** 2).sum() / true
    position = (thickness / np.cos(theta) - lateral[-1] / np.sin(theta)) / 2
    return position[::-1].copy(), image[::-1].copy()


def laue_plate(
    deviation: np.ndarray, thickness: float | np.ndarray, extinction_length: float, *, theta: float, wavelength: float
) -> np.ndarray:
    """Rocking curve of a perfect plate without absorption for a plane wave (Authier, Dynamical Theory of X-ray
    Diffraction, section 4.7): sin²(pi t / Lambda sqrt(1 + y²)) / (1 + y²)."""
    if not (np.isfinite(extinction_length) and extinction_length > 0):
        raise InputError(
            f"Laue plate: extinction length {extinction_length:g} um", "is not positive", "take extinction_length()"
        )
    _check(theta, wavelength, 1.0, 1.0)
    y = np.asarray(deviation) * 2 * np.sin(theta) * extinction_length / (wavelength * ANGSTROM)
    return np.sin(np.pi * np.asarray(thickness) / extinction_length * np.sqrt(1 + y * y)) ** 2 / (1 + y * y)


def slit_source(s0: np.ndarray, sh: np.ndarray, coupling: float) -> np.ndarray:
    """Section topograph of a perfect crystal without absorption, from a slit far narrower than the fan: J0²(2 kap
    sqrt(s0 sh)) (Kato, Acta Cryst. 14 (1961) 526)."""
    s0, sh = np.asarray(s0, np.float64), np.asarray(sh, np.float64)
    within = (s0 >= 0) & (sh >= 0)
    return np.where(within, j0(2 * coupling * np.sqrt(np.where(within, s0 * sh, 0))) ** 2, 0)
