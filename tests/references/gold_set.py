"""Section images of rough plates by Takagi–Taupin, and the closed form of the strong beam fitted to them."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from scipy.ndimage import gaussian_filter, map_coordinates
from scipy.optimize import least_squares

from dfxm_dask.errors import InputError
from dfxm_dask.optics.dynamical import ANGSTROM
from dfxm_dask.optics.surrogate import strong_beam, strong_beam_pattern
from tests.references.section_images import section_image

# Measured with Takagi-Taupin (Al 111, 17 keV, plate of 100 um, sheet of 0.5 um FWHM, divergence Gaussian of 2.25e-4 rad
# rms cut at ±1.4e-4 rad, edge dislocation along y at mid depth, b along Q with Q·b = 2 pi, step 0.08 um, no objective):
# intensity summed within 5 um of the core at 3e-4 rad over the kinematic one of the same field times 2 kap L.
KINEMATIC_GAIN = 1.03
# Same, peak near the core over the mean strong beam of the perfect plate, by |deviation| of its centre (mean of ±).
WEAK_PEAKS = {2e-4: 5.7, 3e-4: 1.82, 4e-4: 0.94}


class Gold(NamedTuple):
    """Pixels of section images.

    Paths (um) and normalised deviation y at each point, relative intensity, number of the plate, and the pattern (7,)
    of `strong_beam_pattern` with the fitted constants.
    """

    entry_path: np.ndarray
    exit_path: np.ndarray
    deviation: np.ndarray
    intensity: np.ndarray
    plate: np.ndarray
    pattern: np.ndarray


def weak_to_strong(path: np.ndarray | float, pattern: np.ndarray) -> np.ndarray:
    """Intensity of a kinematic image in units of the mean strong beam, for paths L = s0 + sh (um).

    A point that fully reflects sends kap² lambda / sin(2 theta) into the diffracted beam per length, the thick crystal
    kap lambda / (2 sin(2 theta)) in all: 2 kap L between their densities. Takagi–Taupin, in plates of 50, 100 and
    150 um, summed within 5 um of the core, over the kinematic sum times 2 kap L: 1.42, 1.03, 1.10 at 3e-4 rad, 1.27,
    0.99, 0.98 at 4e-4 rad. Its peak is 0.55 to 1.1 of the kinematic one. At 2e-4 rad, near the edge of the acceptance,
    the sum is 3.2, 2.3, 2.4: where the lattice bends slowly the image is dynamical, which this leaves out.
    """
    path = np.asarray(path, np.float64)
    return KINEMATIC_GAIN * 2 * pattern[0] * path * np.exp(-pattern[1] * path)


def _plate(
    rng: np.random.Generator,
    deep: float,
    theta: float,
    coupling: float,
    wedge: float,
    roughness: float,
    tilt: float,
) -> tuple[Callable, Callable, Callable]:
    """Depth of a rough exit face, Q·u within and y, as functions of place (um)."""
    pixel = 0.5
    reach = (deep + 30) * np.tan(theta) + 15
    across = np.arange(-reach, reach + pixel, pixel)
    height = gaussian_filter(rng.normal(size=across.size + 200), 10 / pixel)[100:-100]
    height = roughness * height / height.std() + wedge * rng.normal() * across
    face = deep + np.clip(height - height.max(), -0.5 * deep, 0)
    field = gaussian_filter(rng.normal(size=(int((deep + 10) / pixel) + 200, across.size + 200)), 12 / pixel)
    field = field[100:-100, 100:-100]
    slope = np.cos(theta) * np.gradient(field, pixel, axis=0) + np.sin(theta) * np.gradient(field, pixel, axis=1)
    # y = 1 is a gradient of Q·u along the diffracted beam of 2 pi C |chi_h| / lambda = 2 kap, per um.
    field, local = field * (2 * coupling * tilt / slope.std()), slope * (tilt / slope.std())

    def at(values: np.ndarray, depth: np.ndarray, lateral: np.ndarray) -> np.ndarray:
        places = np.broadcast_arrays(depth / pixel, (lateral - across[0]) / pixel)
        return map_coordinates(values, places, order=3, mode="nearest")

    def exit_face(lateral: np.ndarray) -> np.ndarray:
        return np.interp(lateral, across, face)

    def phase(depth: np.ndarray, lateral: np.ndarray) -> np.ndarray:
        return np.where(depth <= exit_face(lateral), at(field, depth, lateral), np.nan)

    def deviation(depth: np.ndarray, lateral: np.ndarray) -> np.ndarray:
        return at(local, depth, lateral)

    return exit_face, phase, deviation


def gold_set(
    seed: int,
    *,
    plates: int = 8,
    thickness: tuple[float, float] = (50.0, 150.0),
    wedge: float = 0.05,
    roughness: float = 1.0,
    tilt: float = 0.1,
    theta: float = 0.156611422,
    wavelength: float = 0.729319,
    chi_h: complex = -2.490e-6 - 1.45e-8j,
    chi0: complex = -3.752e-6 - 1.51e-8j,
    sheet: float = 0.5 / 2.3548,
    step: float = 0.25,
) -> Gold:
    """Section images of rough, slightly tilted plates: Al 111 at 17 keV, a sheet of 0.5 um FWHM by default.

    Thicknesses are drawn evenly over their range (um). ``wedge`` and ``roughness`` (um) are the standard deviations of
    the slope of the exit face and of its height, smooth over 10 um; ``tilt`` is that of y, smooth over 12 um. Points
    nearer than 1.5 um to the entry or exit are left out. Divergence: Gaussian of 2.25e-4 rad rms, cut at ±1.4e-4 rad,
    sampled every 2e-5 rad, which is exact for this sheet (see `section_image`). One plate takes some 0.1 s.
    """
    if plates < 1 or not 0 < thickness[0] <= thickness[1]:
        raise InputError(
            f"gold set: {plates} plates of {thickness} um",
            "is an empty set",
            "ask for one plate or more, thin to thick",
        )
    rng = np.random.default_rng(seed)
    spacing = 2e-5
    deviations = spacing * np.arange(-7, 8)
    weights = np.exp(-0.5 * (deviations / 2.25e-4) ** 2)
    coupling = np.pi * abs(chi_h) / (wavelength * ANGSTROM)
    # Density of angles at the peak times the integrated reflectivity of a thick plate.
    scale = weights.max() / (weights.sum() * spacing) * np.pi / 2 * abs(chi_h) / np.sin(2 * theta)
    rows = []
    for plate in range(plates):
        deep = thickness[0] + (thickness[1] - thickness[0]) * (plate + rng.random()) / plates
        exit_face, phase, deviation = _plate(rng, deep, theta, coupling, wedge, roughness, tilt)
        s0, image = section_image(
            phase,
            thickness=deep,
            sheet=sheet,
            deviations=deviations,
            weights=weights,
            step=step,
            theta=theta,
            wavelength=wavelength,
            chi_h=chi_h,
            chi0=chi0,
        )
        sh = deep / np.cos(theta) - s0
        for _ in range(6):  # the exit on a rough face, by iteration: its slope is far below 1 / tan(theta)
            sh = exit_face((sh - s0) * np.sin(theta)) / np.cos(theta) - s0
        inner = (s0 > 1.5) & (sh > 1.5)
        y = deviation(s0 * np.cos(theta), -s0 * np.sin(theta))
        rows.append(np.array([s0, sh, y, image * (s0 + sh) / scale, np.full(s0.size, plate)])[:, inner])
    columns = np.concatenate(rows, axis=1)
    pattern = strong_beam_pattern(
        extinction_length=np.pi * np.cos(theta) / coupling,
        theta=theta,
        sheet=sheet,
        absorption=2 * np.pi * abs(chi0.imag) / (wavelength * ANGSTROM),
    )
    return Gold(*columns[:4], columns[4].astype(np.int64), pattern)


def explained(gold: Gold, pattern: np.ndarray) -> float:
    """Part of the variance of the fringes that the closed form explains, the mean taken in each plate."""
    form = strong_beam(gold.entry_path, gold.exit_path, gold.deviation, pattern)
    counts = np.maximum(np.bincount(gold.plate), 1)
    mean = (np.bincount(gold.plate, gold.intensity) / counts)[gold.plate]
    return float(1 - ((gold.intensity - form) ** 2).sum() / ((gold.intensity - mean) ** 2).sum())


def fit(gold: Gold) -> dict[str, float]:
    """``visibility``, ``phase0`` (rad) and ``stretch`` of the closed form nearest to the plates, by least squares."""
    pattern = gold.pattern.copy()

    def residual(values: np.ndarray) -> np.ndarray:
        pattern[3:6] = values
        return strong_beam(gold.entry_path, gold.exit_path, gold.deviation, pattern) - gold.intensity

    found = least_squares(residual, [1.0, 0.0, 0.2], bounds=([0, -np.pi, 0], [2, np.pi, 5]), x_scale=[1, 0.1, 0.5]).x
    names = ("visibility", "phase0", "stretch")
    return {name: float(value) for name, value in zip(names, found, strict=True)}
