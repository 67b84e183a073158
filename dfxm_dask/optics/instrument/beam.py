"""Fluctuations of the incident beam and of the image position at a beamline: flux, monitor, stripes, drift."""

from __future__ import annotations

import math

import numpy as np
from numba import njit
from scipy.ndimage import gaussian_filter1d

from dfxm_dask.errors import InputError


def _check_count(name: str, n: int) -> None:
    if n < 1:
        raise InputError(name, f"is {n}", "give at least 1")


def _check_least(name: str, value: float, least: float = 0.0) -> None:
    if not (math.isfinite(value) and value >= least):
        raise InputError(name, f"is {value}", f"give a finite number of at least {least:g}")


def flux_series(
    n: int, rng: np.random.Generator, *, drift: float = 0.02, top_up: float = 0.01, top_up_every: int = 60
) -> np.ndarray:
    """Incident flux of every frame, relative to its mean over the series.

    Parameters
    ----------
    n : int
        Frames.
    rng : numpy.random.Generator
        Source of chance.
    drift : float
        Standard deviation of the logarithm of the flux over the whole series: a random walk (1 to 3 % is usual).
    top_up : float
        Part of the flux that is lost between two refills of the storage ring (our choice: 1 %).
    top_up_every : int
        Frames between two refills (our choice: 60); the first falls anywhere.

    Returns
    -------
    array (frame,), float64, 1
        Positive, of mean 1.

    Raises
    ------
    InputError
        No frame, or a drift or top-up out of range.

    Examples
    --------
    >>> flux = flux_series(120, np.random.default_rng(0))
    >>> round(float(flux.mean()), 12), bool((abs(flux - 1) < 0.1).all())
    (1.0, True)
    """
    _check_count("frames of flux_series", n)
    _check_count("top_up_every", top_up_every)
    _check_least("drift", drift)
    if not 0 <= top_up < 1:
        raise InputError("top_up", f"is {top_up}", "give a fraction of at least 0 and below 1")
    walk = np.cumsum(rng.normal(0, drift / math.sqrt(n), n))
    since = (np.arange(n) + rng.integers(top_up_every)) % top_up_every
    flux = np.exp(walk) * (1 - top_up * since / top_up_every)
    return flux / flux.mean()


def monitor(flux: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Counts of a beam monitor with photon noise.

    Parameters
    ----------
    flux : array (frame,), float64, count
        Expected counts of every frame: the flux of :func:`flux_series` times the counts of the monitor at a flux of 1.
    rng : numpy.random.Generator
        Source of chance.

    Returns
    -------
    array (frame,), float64, count
        Poisson numbers of this mean.

    Raises
    ------
    InputError
        Flux that is negative or not finite.

    Examples
    --------
    >>> counts = monitor(np.full(3, 1e6), np.random.default_rng(0))
    >>> counts.dtype, bool((abs(counts - 1e6) < 5000).all())
    (dtype('float64'), True)
    """
    expected = np.asarray(flux, np.float64)
    # numpy draws no Poisson numbers beyond 9.2e18.
    if not ((expected >= 0) & (expected < 1e18)).all():
        raise InputError("flux of the monitor", "is negative or not finite", "give expected counts of every frame")
    return rng.poisson(expected).astype(np.float64)


def stripes(ny: int, rng: np.random.Generator, amplitude: float = 0.05, *, length: float = 12.0) -> np.ndarray:
    """Profile of the incident beam along y: a relative brightness for every row of a frame.

    Parameters
    ----------
    ny : int
        Rows.
    rng : numpy.random.Generator
        Source of chance.
    amplitude : float
        Standard deviation of the logarithm of the profile (our choice: 5 %).
    length : float, pixel
        Standard deviation of the Gaussian that smooths it (our choice: 12 pixels).

    Returns
    -------
    array (y,), float64, 1
        Positive, of mean 1.

    Raises
    ------
    InputError
        No row, or numbers out of range.

    Examples
    --------
    >>> profile = stripes(200, np.random.default_rng(0), 0.1)
    >>> round(float(profile.mean()), 12), round(float(np.log(profile).std()), 12)
    (1.0, 0.1)
    """
    _check_count("rows of stripes", ny)
    _check_least("amplitude of stripes", amplitude)
    _check_least("length of stripes", length)
    noise = rng.standard_normal(ny)
    if length:
        noise = gaussian_filter1d(noise, length, mode="reflect")
    noise -= noise.mean()
    spread = float(noise.std())
    profile = np.exp(amplitude * noise / spread) if ny > 1 and spread > 0 else np.ones(ny)
    return profile / profile.mean()


def drift_path(n: int, rng: np.random.Generator, per_frame: float) -> np.ndarray:
    """Random walk of the image on the camera.

    Parameters
    ----------
    n : int
        Frames.
    rng : numpy.random.Generator
        Source of chance.
    per_frame : float, pixel
        Root mean square length of the step between two frames (0.1 to 1 is usual).

    Returns
    -------
    array (frame, 2), float64, pixel
        Along y and x; the first frame is at 0.

    Raises
    ------
    InputError
        No frame, or a step that is negative or not finite.

    Examples
    --------
    >>> drift_path(5, np.random.default_rng(0), 0.3)[0].tolist()
    [0.0, 0.0]
    """
    _check_count("frames of drift_path", n)
    _check_least("per_frame", per_frame)
    steps = rng.normal(0, per_frame / math.sqrt(2), (n, 2))
    steps[0] = 0
    return np.cumsum(steps, axis=0)


@njit(nogil=True, cache=True)
def _sample(image, from_y, part_y, from_x, part_x, out):
    rows, columns = image.shape
    line = np.empty(columns, image.dtype)
    for y in range(rows):
        above = image[min(max(y + from_y, 0), rows - 1)]
        below = above if part_y == 0 else image[min(max(y + from_y + 1, 0), rows - 1)]
        for x in range(columns):
            line[x] = above[x] + part_y * (below[x] - above[x])
        for x in range(columns):
            left = line[min(max(x + from_x, 0), columns - 1)]
            right = left if part_x == 0 else line[min(max(x + from_x + 1, 0), columns - 1)]
            out[y, x] = left + part_x * (right - left)


def shift(image: np.ndarray, dy: float, dx: float) -> np.ndarray:
    """Frame shifted by a fraction of a pixel.

    Parameters
    ----------
    image : array (y, x), float
        Intensity.
    dy, dx : float, pixel
        Shift from (y, x) to (y + dy, x + dx).

    Returns
    -------
    array (y, x), float32
        In the unit of ``image``. The border of the image is repeated beyond the image.

    Raises
    ------
    InputError
        Not a frame of two dimensions, or a shift that is not finite.

    Notes
    -----
    Linear between pixels: exact for whole pixels and for planes, never below 0 where the image is not (a cubic would
    be). It blurs by a variance of f (1 − f) pixel² along an axis that is shifted by the fraction f: at most 0.25, to be
    compared with the 1.44 of the PSF.

    Examples
    --------
    >>> shift(np.array([[0.0, 4.0, 0.0, 0.0]]), 0, 0.25).tolist()
    [[0.0, 3.0, 1.0, 0.0]]
    """
    if image.ndim != 2 or image.size == 0:
        raise InputError("shift", f"was given an array of shape {image.shape}", "give one frame (y, x)")
    if not (math.isfinite(dy) and math.isfinite(dx)):
        raise InputError(f"shift by ({dy}, {dx})", "is not finite", "give two numbers of pixels")
    # Beyond the frame there is only its border: larger shifts change nothing.
    dy, dx = (min(max(d, -float(n)), float(n)) for d, n in zip((dy, dx), image.shape, strict=True))
    from_y, from_x = math.floor(-dy), math.floor(-dx)
    source = np.require(image, np.float32, ["C", "W"])
    out = np.empty_like(source)
    _sample(source, from_y, np.float32(-dy - from_y), from_x, np.float32(-dx - from_x), out)
    return out
