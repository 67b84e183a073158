"""Camera of a dark-field microscope: blur, fixed pattern, photon and read-out noise.

Intensities are expected counts of the camera (ADU) above its offset. The camera constants are those measured on the
PCO Edge 4.2 at ID03, published with dfxm-geo (MIT). Values that are not published are marked "our choice".
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

import numpy as np
from numba import njit

from dfxm_dask.errors import InputError


@dataclass(frozen=True)
class Detector:
    """Constants of a camera.

    Parameters
    ----------
    gain : float, ADU
        Count of one photon equivalent.
    offset, offset_rate : float, ADU and ADU/s
        Level without light, and how it grows with the exposure.
    read_noise, read_noise_rate : float, ADU and ADU/s
        Standard deviation of the read-out, and how it grows with the exposure.
    fixed_pattern : float, ADU
        Standard deviation of the offset from pixel to pixel.
    warm_fraction, warm_scale : float, 1 and ADU
        Part of the pixels with a higher level, by an exponential law of this mean: 0.55 % above +10 ADU (measured
        0.57 %) and 1.0e-4 above +50 ADU (measured 1.1e-4). So hot pixels are the tail of the warm ones.
    edge_rows, edge_amplitude, edge_decay : int, ADU, rows
        The level of the first and last rows is higher by amplitude · exp(−d / decay), d the rows from the border.
    psf : float, pixel
        Standard deviation of the Gaussian blur; 0 for none.
    halo, halo_fraction : float, pixel and 1
        Standard deviation of a second Gaussian, of light that the scintillator scatters, and its part of the light.
        Not published as numbers for this camera: our choice within 20 to 50 pixels and 1 to 3 %.
    saturation : int, ADU
        Count of a full pixel.

    Raises
    ------
    InputError
        A constant out of range.

    Notes
    -----
    Gain, offset, read-out noise, fixed pattern, warm pixels and rows at the border: camera calibration in the
    documentation of dfxm-geo 3.0.0. Warm pixels do not depend on the exposure here, since their rate is not published.

    Examples
    --------
    >>> Detector(psf=0).gain
    2.14
    """

    gain: float = 2.14
    offset: float = 102.5
    offset_rate: float = 7.5
    read_noise: float = 6.3
    read_noise_rate: float = 11.0
    fixed_pattern: float = 1.8
    warm_fraction: float = 0.015
    warm_scale: float = 10.0
    edge_rows: int = 16
    edge_amplitude: float = 20.0
    edge_decay: float = 4.0
    psf: float = 1.2
    halo: float = 30.0
    halo_fraction: float = 0.02
    saturation: int = 65535

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if not (math.isfinite(value) and value >= 0):
                raise InputError(f"detector: {field.name}", f"is {value}", "give a finite number of at least 0")
        for name, least in (("gain", 0.0), ("warm_scale", 0.0), ("edge_decay", 0.0)):
            if getattr(self, name) <= least:
                raise InputError(f"detector: {name}", "is 0", "give a positive number")
        for name in ("warm_fraction", "halo_fraction"):
            if getattr(self, name) > 1:
                raise InputError(f"detector: {name}", f"is {getattr(self, name)}", "give a fraction up to 1")
        for name in ("edge_rows", "saturation"):
            if getattr(self, name) != int(getattr(self, name)):
                raise InputError(f"detector: {name}", f"is {getattr(self, name)}", "give a whole number")
        if not 1 <= self.saturation <= 65535:
            raise InputError("detector: saturation", f"is {self.saturation}", "give a count from 1 to 65535")
        if 0 < self.psf < 0.5:
            # Sampled at pixel centres, the Gaussian would be narrower than specified.
            raise InputError("detector: psf", f"is {self.psf:g} pixels", "give 0, or at least 0.5")
        if self.halo_fraction and self.halo < 4:
            raise InputError("detector: halo", f"is {self.halo:g} pixels", "give at least 4, or halo_fraction=0")


def _check_exposure(exposure: float) -> float:
    if not (math.isfinite(exposure) and exposure > 0):
        raise InputError("exposure", f"is {exposure} s", "give a positive time")
    return float(exposure)


def fixed_pattern(shape: tuple[int, int], detector: Detector, *, exposure: float, seed: int) -> np.ndarray:
    """Counts of every pixel without light and without noise.

    Parameters
    ----------
    shape : (int, int)
        Rows and columns.
    detector : Detector
        Constants.
    exposure : float, s
        Time of one frame.
    seed : int
        A camera: the same seed and shape give the same pixels, whatever the exposure.

    Returns
    -------
    array (y, x), float32, ADU
        offset + offset_rate · exposure, fixed-pattern noise, warm pixels and rows at the border.

    Raises
    ------
    InputError
        Exposure or shape that is not positive.

    Examples
    --------
    >>> pattern = fixed_pattern((64, 64), Detector(), exposure=0.2, seed=1)
    >>> bool(np.median(pattern[20:-20]).round() == 104), bool(np.median(pattern[0]).round() == 124)
    (True, True)
    """
    time = _check_exposure(exposure)
    rows, columns = shape
    if rows < 1 or columns < 1:
        raise InputError(f"frame of {rows} x {columns} pixels", "is empty", "give at least one row and one column")
    rng = np.random.default_rng(seed)
    pattern = detector.fixed_pattern * rng.standard_normal(shape)
    warm = rng.random(shape) < detector.warm_fraction
    pattern[warm] += rng.exponential(detector.warm_scale, int(warm.sum()))
    row = np.arange(rows)
    border = np.minimum(row, row[::-1])
    glow = np.where(border < detector.edge_rows, detector.edge_amplitude * np.exp(-border / detector.edge_decay), 0.0)
    pattern += (detector.offset + detector.offset_rate * time + glow)[:, None]
    return pattern.astype(np.float32)


@njit(nogil=True, cache=True)
def _expose(signal, pattern, gain, noise, full, rng, counts):
    # All draws in this one loop: a generator that is handed on to a further function costs 30 ns a pixel.
    for y in range(signal.shape[0]):
        for x in range(signal.shape[1]):
            mean = signal[y, x] / gain
            photons = 0.0
            if mean < 10.0:
                if mean > 0.0:
                    # Inversion of the distribution function, term by term.
                    rest, term = rng.random(), math.exp(-mean)
                    while rest > term and photons < 150.0:
                        rest -= term
                        photons += 1.0
                        term *= mean / photons
            else:
                # Transformed rejection with squeeze (PTRS), W. Hoermann 1993.
                b = 0.931 + 2.53 * math.sqrt(mean)
                a = -0.059 + 0.02483 * b
                accept = 0.9277 - 3.6224 / (b - 2.0)
                while True:
                    u, v = rng.random() - 0.5, rng.random()
                    s = 0.5 - abs(u)
                    if s == 0.0:
                        continue
                    photons = np.floor((2.0 * a / s + b) * u + mean + 0.43)
                    if s >= 0.07 and v <= accept:
                        break
                    if photons < 0.0 or (s < 0.013 and v > s):
                        continue
                    ratio = v * (1.1239 + 1.1328 / (b - 3.4)) / (a / (s * s) + b)
                    if ratio <= 0.0 or math.log(ratio) <= photons * math.log(mean) - mean - math.lgamma(photons + 1.0):
                        break
            value = np.rint(gain * photons + pattern[y, x] + noise * rng.standard_normal())
            counts[y, x] = np.uint16(min(max(value, 0.0), full))


def record(
    signal: np.ndarray, pattern: np.ndarray, detector: Detector, *, exposure: float, rng: np.random.Generator
) -> np.ndarray:
    """Counts of one frame with photon and read-out noise.

    Parameters
    ----------
    signal : array (y, x), float, ADU
        Expected counts above the offset, blurred already.
    pattern : array (y, x), float32, ADU
        From :func:`fixed_pattern`, for the same exposure.
    detector : Detector
        ``gain``, ``read_noise``, ``read_noise_rate`` and ``saturation`` are used.
    exposure : float, s
        Time of one frame.
    rng : numpy.random.Generator
        The only source of chance; pixels draw in storage order.

    Returns
    -------
    array (y, x), uint16, ADU
        round(g Poisson(s / g) + pattern + N(0, read_noise + read_noise_rate · exposure)), within 0 and saturation.

    Raises
    ------
    InputError
        Signal that is negative or not finite, a pattern of another shape, or an exposure that is not positive.

    Notes
    -----
    Variance of a pixel: g s + read-out² + 1/12 ADU² (rounding). Saturation applies to the total count, offset included.

    References
    ----------
    Camera formula: calibration of the PCO Edge 4.2 in the documentation of dfxm-geo 3.0.0 (MIT). Poisson numbers of
    mean 10 and more: W. Hoermann, Insurance: Mathematics and Economics 12 (1993) 39, algorithm PTRS.

    Examples
    --------
    >>> camera = Detector()
    >>> pattern = fixed_pattern((50, 60), camera, exposure=0.5, seed=0)
    >>> counts = record(np.full((50, 60), 400.0), pattern, camera, exposure=0.5, rng=np.random.default_rng(1))
    >>> counts.dtype, bool(abs(float(counts.mean()) - float(pattern.mean()) - 400) < 3)
    (dtype('uint16'), True)
    """
    time = _check_exposure(exposure)
    if signal.ndim != 2 or signal.shape != pattern.shape:
        raise InputError(
            f"signal {signal.shape}", f"the fixed pattern is {pattern.shape}", "give one frame (y, x) and its pattern"
        )
    if not isinstance(rng, np.random.Generator):
        raise InputError("rng", f"is a {type(rng).__name__}", "give numpy.random.default_rng(seed)")
    expected = np.require(signal, np.float32, ["C", "W"])
    counts = np.empty(expected.shape, np.uint16)
    if counts.size == 0:
        return counts
    # NaN is neither at least 0 nor below infinity; a minimum hands it on.
    if not (expected.min() >= 0 and expected.max() < np.inf):
        wrong = ~((expected >= 0) & (expected < np.inf))
        y, x = np.argwhere(wrong)[0]
        raise InputError(
            f"signal at pixel ({y}, {x})",
            f"is {signal[y, x]} ({int(wrong.sum())} pixels are negative or not finite)",
            "give expected counts of at least 0",
        )
    noise = detector.read_noise + detector.read_noise_rate * time
    _expose(
        expected,
        np.require(pattern, np.float32, ["C", "W"]),
        float(detector.gain),
        noise,
        float(detector.saturation),
        rng,
        counts,
    )
    return counts
