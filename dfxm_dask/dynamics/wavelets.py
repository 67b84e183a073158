"""Wavelet bands of frames: the illumination apart from edges, and the orientation of edges."""

from __future__ import annotations

from typing import Literal

import numpy as np
import pywt

from dfxm_dask.dynamics.stationary import checked_frame, checked_level, orthogonal, smoothed
from dfxm_dask.errors import InputError

Which = Literal["horizontal", "vertical", "diagonal", "smooth"]
WHICH = ("horizontal", "vertical", "diagonal", "smooth")


def zero_phase_band(
    image: np.ndarray, wavelet: str = "db4", level: int = 3, which: Which = "horizontal", *, legacy: bool = False
) -> np.ndarray:
    """One band of the undecimated wavelet transform of a frame, with every feature at its own pixel.

    Parameters
    ----------
    image : ndarray (y, x), float
        A frame of any size from 8 x 8 pixels.
    wavelet : str
        An orthogonal wavelet of PyWavelets. "Daubechies-4" is "db4" (8 taps) or "db2" (4 taps).
    level : int
        Level of the band, from 1 (finest): features of about 2^level pixels.
    which : str
        "horizontal": high-pass along y. "vertical": high-pass along x. "diagonal": high-pass along both. "smooth":
        low-pass along both.
    legacy : bool
        The raw coefficients of the stationary transform, as published. Their features are displaced: by (-6, +12)
        pixels along y and x for the horizontal band of db4 at level 3.

    Returns
    -------
    ndarray (y, x), float32
        In the unit of the frame; the raw coefficients are 2^level times the mean over their filter.

    Raises
    ------
    InputError
        A frame that is too small, an unknown wavelet, level or band.

    Notes
    -----
    The inverse transform of one band, all other bands zeroed. Beyond its edges the frame is mirrored.

    References
    ----------
    Gonzalez et al. (2020), arXiv:2008.04972, use the raw horizontal coefficients of Daubechies-4 at level 3.

    Examples
    --------
    >>> frame = np.zeros((64, 64))
    >>> frame[30, 33] = 1
    >>> band = zero_phase_band(frame, "db4", 3, "horizontal")
    >>> np.unravel_index(band.argmax(), band.shape) == (30, 33)
    True
    """
    image = checked_frame(image)
    if which not in WHICH:
        raise InputError(f"band {which!r}", "is unknown", f"use one of {', '.join(WHICH)}")
    if legacy:
        return _raw_band(image, wavelet, checked_level(level), which)
    orthogonal(wavelet)
    for k in range(1, checked_level(level)):
        image = smoothed(smoothed(image, wavelet, k, 1), wavelet, k, 0)
    # A high-pass along an axis is the rest of the low-pass.
    for axis, high in ((1, which in ("vertical", "diagonal")), (0, which in ("horizontal", "diagonal"))):
        low = smoothed(image, wavelet, level, axis)
        image = image - low if high else low
    return image


def _raw_band(image: np.ndarray, wavelet: str, level: int, which: str) -> np.ndarray:
    """Raw coefficients of one band: the frame is mirrored to sides that are multiples of 2^level."""
    orthogonal(wavelet)
    sides = [-(-size // 2**level) * 2**level for size in image.shape]
    padded = np.pad(image, [(0, side - size) for side, size in zip(sides, image.shape, strict=True)], "symmetric")
    smooth, details = pywt.swt2(padded, wavelet, level)[0]  # the coarsest level is the first
    band = {"smooth": smooth, **dict(zip(WHICH, details, strict=False))}[which]
    return np.ascontiguousarray(band[: image.shape[0], : image.shape[1]])
