"""Strong-beam intensity of a thick crystal in closed form, fitted to Takagi-Taupin; its scale to weak-beam images.

A sheet far narrower than the fan, met under many angles, gives the section topograph J0²(2 kap sqrt(s0 sh)): s0 is the
path of the incident beam from its entry to the imaged point, sh that of the diffracted beam from there to its exit.
The closed form is the large-argument limit of that, softened where it fails. Intensities are relative to the mean over
the fan of a thick perfect plate without absorption, 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numba import njit
from scipy.ndimage import gaussian_filter, map_coordinates
from scipy.optimize import least_squares

from dfxm_dask.errors import InputError
from dfxm_dask.optics.dynamical import ANGSTROM, section_image

# fit(gold_set(0, plates=16)), rounded: 1.2 % of the variance of the fringes is left there, 1.5 % on other plates.
VISIBILITY, PHASE0, STRETCH = 0.969, 0.004, 0.26
FADE = 0.1  # our choice: no form of y explains fringes where y > 0.5, so they lose contrast there

# Measured with Takagi-Taupin (Al 111, 17 keV, plate of 100 um, sheet of 0.5 um FWHM, divergence Gaussian of 2.25e-4 rad
# rms cut at ±1.4e-4 rad, edge dislocation along y at mid depth, b along Q with Q·b = 2 pi, step 0.08 um, no objective):
# intensity summed within 5 um of the core at 3e-4 rad over the kinematic one of the same field times 2 kap L.
KINEMATIC_GAIN = 1.03
# Same, peak near the core over the mean strong beam of the perfect plate, by |deviation| of its centre (mean of ±).
WEAK_PEAKS = {2e-4: 5.7, 3e-4: 1.82, 4e-4: 0.94}


class Gold(NamedTuple):
    """Pixels of section images by Takagi-Taupin: what the closed form is fitted to.

    Attributes
    ----------
    entry_path, exit_path : array (n,), float64, um
    deviation : array (n,), float64
        Normalised local deviation y at the imaged point.
    intensity : array (n,), float64
        Relative intensity.
    plate : array (n,), int64
        Which plate.
    pattern : array (7,), float64
        Of :func:`strong_beam_pattern`, with the published constants.
    """

    entry_path: np.ndarray
    exit_path: np.ndarray
    deviation: np.ndarray
    intensity: np.ndarray
    plate: np.ndarray
    pattern: np.ndarray


def strong_beam_pattern(
    *,
    extinction_length: float,
    theta: float,
    absorption: float = 0.0,
    sheet: float = 0.0,
    visibility: float = VISIBILITY,
    phase0: float = PHASE0,
    stretch: float = STRETCH,
    fade: float = FADE,
) -> np.ndarray:
    """Constants of the strong-beam fringes in one crystal and microscope.

    Parameters
    ----------
    extinction_length : float, um
        Lambda = lambda cos(theta) / (C |chi_h|), a depth.
    theta : float, rad
        Bragg angle.
    absorption : float, 1/um
        mu, of the intensity.
    sheet : float, um
        Standard deviation of the intensity across the sheet of light.
    visibility, phase0, stretch, fade : float
        See :func:`fit`.

    Returns
    -------
    array (7,), float64
        kap (1/um), mu (1/um), blur along the sheet (um), visibility, phase0 (rad), stretch, fade.

    Raises
    ------
    InputError
        An extinction length or an angle that is impossible, or a negative parameter (phase0 may be).

    Examples
    --------
    >>> strong_beam_pattern(extinction_length=28.93, theta=0.1566, sheet=0.2)[:3].round(4).tolist()
    [0.1073, 0.0, 0.6491]
    """
    if not (np.isfinite(extinction_length) and extinction_length > 0):
        raise InputError(
            f"strong beam: extinction length {extinction_length:g} um",
            "is not positive",
            "take dynamical.extinction_length()",
        )
    if not 0 < theta < np.pi / 2:
        raise InputError(f"strong beam: theta = {theta:g} rad", "no Bragg angle", "give one between 0 and pi/2 rad")
    for name, value in {
        "absorption": absorption,
        "sheet": sheet,
        "visibility": visibility,
        "stretch": stretch,
        "fade": fade,
    }.items():
        if not (np.isfinite(value) and value >= 0):
            raise InputError(f"strong beam: {name} = {value:g}", "is negative or not finite", "give zero or more")
    # An entry moved by x across the sheet moves the imaged point by x / (2 sin cos) along both paths, opposite ways.
    blur = sheet / np.sin(2 * theta)
    coupling = np.pi * np.cos(theta) / extinction_length
    return np.array([coupling, absorption, blur, visibility, phase0, stretch, fade])


@njit(nogil=True, cache=True, error_model="numpy")
def _sine(angle):  # type: ignore[no-untyped-def]
    """sin within 1e-7 (our choice; far below the fit), at a third of the cost of the library's."""
    half_turns = np.floor(angle * (1 / math.pi) + 0.5)
    r = angle - half_turns * math.pi
    r2 = r * r
    odd = half_turns - 2.0 * np.floor(half_turns * 0.5)
    tail = -1.984126984e-4 + r2 * (2.755731922e-6 + r2 * -2.505210839e-8)
    return (1.0 - 2.0 * odd) * r * (1.0 + r2 * (-1.666666667e-1 + r2 * (8.333333333e-3 + r2 * tail)))


@njit(nogil=True, cache=True, error_model="numpy")
def strong_beam_scalar(entry_path, exit_path, deviation, pattern):  # type: ignore[no-untyped-def]
    """Relative intensity of one pixel; see :func:`strong_beam`. 0 outside the crystal."""
    if not (entry_path >= 0.0 and exit_path >= 0.0):
        return 0.0
    path = entry_path + exit_path
    square = entry_path * exit_path
    y2 = deviation * deviation
    z = 2.0 * pattern[0] * math.sqrt(square)
    envelope = math.exp(-pattern[1] * path) * 2.0 * pattern[0] * path / math.sqrt(1.0 + (math.pi * z) ** 2)
    # The blur ds along the sheet turns the fringes by 2 kap (sh - s0) / sqrt(s0 sh) ds; (1 + w / 4)^-4 for exp(-w).
    slope = pattern[0] * pattern[2] * (exit_path - entry_path)
    share = square / (square + 0.5 * slope * slope + 1e-12)
    share *= share
    angle = 2.0 * z * math.sqrt(1.0 + pattern[5] * y2) + pattern[4] - z / (4.0 * z * z + 1.0)
    return envelope * (1.0 + pattern[3] * _sine(angle) * share * share / (1.0 + pattern[6] * y2))


@njit(nogil=True, cache=True)
def _strong_beam(entry_path, exit_path, deviation, pattern, out):  # type: ignore[no-untyped-def]
    for k in range(out.size):
        out[k] = strong_beam_scalar(entry_path[k], exit_path[k], deviation[k], pattern)


def strong_beam(
    entry_path: np.ndarray, exit_path: np.ndarray, deviation: np.ndarray | float, pattern: np.ndarray
) -> np.ndarray:
    """Relative intensity of the strong beam at points of a thick crystal.

    Parameters
    ----------
    entry_path : array, um
        Path of the incident beam in the crystal, up to the imaged point. Negative or NaN: outside, intensity 0.
    exit_path : array, um
        Path of the diffracted beam from there to the exit face.
    deviation : array or float
        y = local deviation × sin(2 theta) / (C |chi_h|) from the lattice around. A uniform turn of the whole crystal
        is no such deviation: while it stays within the divergence of the beam it changes nothing.
    pattern : array (7,), float64
        Of :func:`strong_beam_pattern`.

    Returns
    -------
    array, float64
        1 on average over the fan of a thick perfect plate without absorption.

    Raises
    ------
    InputError
        A pattern of the wrong shape, or paths and deviations that do not broadcast.

    Notes
    -----
    With L = s0 + sh, z = 2 kap sqrt(s0 sh) and b the blur::

        exp(-mu L) 2 kap L / sqrt(1 + pi² z²) [1 + V sin(2 z sqrt(1 + g y²) - z / (4 z² + 1) + phase0)]
        V = V0 (1 + w / 4)^-4 / (1 + f y²),   w = (2 kap b (sh - s0))² / (2 s0 sh)

    For y = 0 this is 2 kap L J0²(z) for large z (N. Kato, Acta Cryst. 14 (1961) 526), the third term of the phase being
    the next order of J0, blurred by the width of the sheet. How y enters is our choice, see :func:`fit`.

    Examples
    --------
    >>> pattern = strong_beam_pattern(extinction_length=28.93, theta=0.1566, sheet=0.21)
    >>> s0 = np.linspace(0, 600, 20001)
    >>> bool(abs(strong_beam(s0, 600 - s0, 0.0, pattern).mean() - 1) < 0.1)
    True
    """
    pattern = np.require(pattern, np.float64, ["C", "W"])
    if pattern.shape != (7,):
        raise InputError(
            f"strong beam: pattern of shape {pattern.shape}", "is not seven constants", "take strong_beam_pattern()"
        )
    try:
        parts = np.broadcast_arrays(entry_path, exit_path, deviation)
    except ValueError as error:
        raise InputError(
            "strong beam: paths and deviation", "have shapes that do not fit", "give arrays that broadcast"
        ) from error
    flat = [np.array(part, np.float64).ravel() for part in parts]
    out = np.empty(flat[0].size)
    _strong_beam(*flat, pattern, out)
    return out.reshape(parts[0].shape)


def weak_to_strong(path: np.ndarray | float, pattern: np.ndarray) -> np.ndarray:
    """Intensity of a kinematic image in units of the mean strong beam.

    Parameters
    ----------
    path : array or float, um
        L = s0 + sh, whole path in the crystal.
    pattern : array (7,), float64
        Of :func:`strong_beam_pattern`.

    Returns
    -------
    array, float64
        What the acceptance p, averaged over the sheet, is to be multiplied by to stand beside :func:`strong_beam`:
        KINEMATIC_GAIN × 2 kap L exp(-mu L).

    Notes
    -----
    A point that fully reflects sends kap² lambda / sin(2 theta) into the diffracted beam per length, the thick crystal
    kap lambda / (2 sin(2 theta)) in all: 2 kap L between their densities. So a dislocation is as bright as the strong
    beam once a small part of the sheet reflects. Takagi-Taupin, in plates of 50, 100 and 150 um, summed within 5 um of
    the core, over the kinematic sum times 2 kap L: 1.42, 1.03, 1.10 at 3e-4 rad, 1.27, 0.99, 0.98 at 4e-4 rad. Its peak
    is 0.55 to 1.1 of the kinematic one. At 2e-4 rad, near the edge of the acceptance, the sum is 3.2, 2.3, 2.4: where
    the lattice bends slowly the image is dynamical, which this leaves out. Peaks: WEAK_PEAKS.

    Examples
    --------
    >>> pattern = strong_beam_pattern(extinction_length=28.93, theta=0.1566)
    >>> float(weak_to_strong(100.0, pattern).round(1))
    22.1
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
    """Section images of rough, slightly tilted plates by Takagi-Taupin.

    Parameters
    ----------
    seed : int
        Of plates and surfaces.
    plates : int
        How many; thicknesses are drawn evenly over the range.
    thickness : (float, float), um
        Range.
    wedge, roughness : float, 1 and um
        Standard deviations of the slope of the exit face, and of its height, smooth over 10 um.
    tilt : float
        Standard deviation of the normalised deviation y, smooth over 12 um; 0 is a perfect lattice.
    theta, wavelength, chi_h, chi0, sheet, step
        As for :func:`dfxm_dask.optics.dynamical.section_image`: Al 111 at 17 keV, 0.5 um FWHM by default.

    Returns
    -------
    Gold
        Points nearer than 1.5 um to the entry or exit are left out.

    Notes
    -----
    Divergence: Gaussian of 2.25e-4 rad rms, cut at ±1.4e-4 rad, sampled every 2e-5 rad, which is exact for this sheet
    (see section_image); so narrow a sheet needs no sampling by importance. One plate takes some 0.1 s.

    Examples
    --------
    >>> gold = gold_set(1, plates=1, thickness=(50, 50))
    >>> bool(np.all(gold.intensity > 0)), sorted(set(gold.plate.tolist()))
    (True, [0])
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
    """Part of the variance of the fringes that the closed form explains.

    Parameters
    ----------
    gold : Gold
        Reference.
    pattern : array (7,), float64
        Of :func:`strong_beam_pattern`.

    Returns
    -------
    float
        1 − Σ(I − form)² / Σ(I − mean)², the mean taken in each plate.

    Examples
    --------
    >>> gold = gold_set(2, plates=1, thickness=(80, 80), tilt=0.0)
    >>> explained(gold, gold.pattern) > 0.97
    True
    """
    form = strong_beam(gold.entry_path, gold.exit_path, gold.deviation, pattern)
    counts = np.maximum(np.bincount(gold.plate), 1)
    mean = (np.bincount(gold.plate, gold.intensity) / counts)[gold.plate]
    return float(1 - ((gold.intensity - form) ** 2).sum() / ((gold.intensity - mean) ** 2).sum())


def fit(gold: Gold) -> dict[str, float]:
    """Constants of the closed form that lie nearest to Takagi-Taupin, by least squares of the intensity.

    Parameters
    ----------
    gold : Gold
        Of :func:`gold_set`; its coupling, absorption and blur are kept.

    Returns
    -------
    dict of str to float
        ``visibility``, ``phase0`` (rad), ``stretch``: arguments of :func:`strong_beam_pattern`.

    Notes
    -----
    Visibility 1 and phase0 0 would be theory, which explains 99.7 % of the variance of held-out rough plates of perfect
    lattice; so do the published constants. What limits the form is the lattice: of plates with a smooth deviation y of
    0.1, 0.2, 0.5 and 1 rms it explains 98.5 to 99, 85 to 94, 5 to 21 % and nothing, however y enters (a factor in the
    phase, in the contrast or in the intensity, at the point or averaged over the exit path, was tried): wave fields sum
    up the deviation along the whole path. Then the fringes of this form look right and lie at wrong places.
    The mean intensity of such plates rises, from 0.73 to 0.76, 0.94 and 1.38, which the form does not follow.

    Examples
    --------
    >>> constants = fit(gold_set(3, plates=2, thickness=(50, 80), tilt=0.0))
    >>> 0.9 < constants["visibility"] < 1.05
    True
    """
    pattern = gold.pattern.copy()

    def residual(values: np.ndarray) -> np.ndarray:
        pattern[3:6] = values
        return strong_beam(gold.entry_path, gold.exit_path, gold.deviation, pattern) - gold.intensity

    found = least_squares(residual, [1.0, 0.0, 0.2], bounds=([0, -np.pi, 0], [2, np.pi, 5]), x_scale=[1, 0.1, 0.5]).x
    names = ("visibility", "phase0", "stretch")
    return {name: float(value) for name, value in zip(names, found, strict=True)}
