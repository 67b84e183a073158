"""Wavelet bands of frames: the illumination apart from edges, and the orientation of edges."""

from __future__ import annotations

from typing import Annotated, Literal, NamedTuple

import numpy as np
import pywt
from numba import njit
from pydantic import Field
from scipy import ndimage

from dfxm_dask.dynamics.stationary import averaged, checked_frame, checked_level, orthogonal, smoothed
from dfxm_dask.errors import InputError
from dfxm_dask.reduction import reduction
from dfxm_dask.schema import AXES, BACKGROUND, COUNTS, HOT, SCAN, PlainBackground, Variable, X, Y, plain_background

FRAMES = ("z", SCAN, "y", "x")
ILLUMINATION = Variable("illumination", FRAMES, "float32", "count", "smooth illumination above background")
EDGES = Variable("edges", FRAMES, "float32", "1", "strength of edges that persist over scales, relative to the noise")
ORIENTATION = Variable("orientation", FRAMES, "float32", "degree", "direction of the edge, from x towards y")
COHERENCE = Variable("coherence", FRAMES, "float32", "1", "coherence of the orientation of edges")

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


class Parts(NamedTuple):
    """Illumination and edges of one frame, (y, x), float32.

    Attributes
    ----------
    illumination : ndarray
        Logarithmic brightness, see :func:`logarithm`.
    edges : ndarray
        Geometric mean of the amplitudes of adjacent scales, relative to their noise.
    detail : ndarray
        Sum of the bands of these scales, in logarithmic brightness.
    """

    illumination: np.ndarray
    edges: np.ndarray
    detail: np.ndarray


def logarithm(counts: np.ndarray, floor: float) -> np.ndarray:
    """Logarithmic brightness sign(c) log(1 + |c| / floor) of counts above background: defined for all counts."""
    return np.copysign(np.log1p(np.abs(counts) / np.float32(floor)), counts)


def brightness(logarithmic: np.ndarray, floor: float) -> np.ndarray:
    """Counts of a logarithmic brightness."""
    return np.copysign(np.float32(floor) * np.expm1(np.abs(logarithmic)), logarithmic)


def filled(frame: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A frame with the value of the nearest known pixel where its own is NaN, and the mask of these pixels."""
    absent = np.isnan(frame)
    if not absent.any():
        return frame, absent
    if absent.all():
        return np.zeros_like(frame), absent
    nearest = ndimage.distance_transform_edt(absent, return_distances=False, return_indices=True)
    return frame[tuple(nearest)], absent


def parts(frame: np.ndarray, wavelet: str, level: int, scales: int, illumination_level: int) -> Parts:
    """Illumination, edges and details of one frame of logarithmic brightness without NaN; see :func:`wavelets`."""
    image, product, detail = frame, np.ones_like(frame), np.zeros_like(frame)
    for k in range(1, max(level, illumination_level) + 1):
        along_x = smoothed(image, wavelet, k, 1)
        both = smoothed(along_x, wavelet, k, 0)
        if level - scales < k <= level:
            along_y = smoothed(image, wavelet, k, 0)
            noise = _noise(image, along_x, along_y, both)
            energy = np.empty_like(frame)
            _energy(image, along_x, along_y, both, noise, energy)
            product *= averaged(energy, k)
            detail += image - both
        image = both
    return Parts(image, product ** np.float32(0.5 / scales), detail)


SAMPLE = 1 << 17  # pixels from which the noise of a band is estimated: to 0.4 %


def _noise(image: np.ndarray, along_x: np.ndarray, along_y: np.ndarray, both: np.ndarray) -> np.ndarray:
    """Noise of the horizontal, vertical and diagonal band by the median absolute value; NaN if it is zero."""
    step = max(1, int(np.sqrt(image.size / SAMPLE)))
    a, x, y, s = (v[::step, ::step] for v in (image, along_x, along_y, both))
    noise = np.array([1.4826 * np.median(np.abs(band)) for band in (x - s, y - s, a - x - y + s)], np.float32)
    return np.where(noise > 0, noise, np.float32(np.nan))


@njit(nogil=True, cache=True)
def _energy(image, along_x, along_y, both, noise, out):
    """Mean over three bands of the squares relative to their noise: 1 where there is noise alone."""
    h, v, d = 1 / (3 * noise[0] ** 2), 1 / (3 * noise[1] ** 2), 1 / (3 * noise[2] ** 2)
    for y in range(image.shape[0]):
        for x in range(image.shape[1]):
            a = along_x[y, x] - both[y, x]
            b = along_y[y, x] - both[y, x]
            c = image[y, x] - along_x[y, x] - b
            out[y, x] = np.float32(h * a * a + v * b * b + d * c * c)


@njit(nogil=True, cache=True)
def _tensor(image, yy, yx, xx):
    """Products of the derivatives along y and x, by differences of sixth order, exact for fine edges."""
    rows, columns = image.shape
    near, far, farthest = np.float32(45 / 60), np.float32(-9 / 60), np.float32(1 / 60)
    for y in range(rows):
        a1, a2, a3 = image[max(y - 1, 0)], image[max(y - 2, 0)], image[max(y - 3, 0)]
        b1, b2, b3 = image[min(y + 1, rows - 1)], image[min(y + 2, rows - 1)], image[min(y + 3, rows - 1)]
        row = image[y]
        for x in range(columns):
            a = near * (b1[x] - a1[x]) + far * (b2[x] - a2[x]) + farthest * (b3[x] - a3[x])
            if 3 <= x < columns - 3:
                b = near * (row[x + 1] - row[x - 1]) + far * (row[x + 2] - row[x - 2])
                b += farthest * (row[x + 3] - row[x - 3])
            else:
                b = (row[min(x + 1, columns - 1)] - row[max(x - 1, 0)]) / 2
            yy[y, x], yx[y, x], xx[y, x] = a * a, a * b, b * b


@njit(nogil=True, cache=True)
def _direction(yy, yx, xx, ratio, orientation, coherence):
    """Direction of the least change, degree, and relative difference of the eigenvalues; NaN without any change."""
    for y in range(yy.shape[0]):
        for x in range(yy.shape[1]):
            total, difference, mixed = yy[y, x] + xx[y, x], yy[y, x] - xx[y, x], 2 * yx[y, x]
            if total > 0:
                length = np.sqrt(difference * difference + mixed * mixed)
                # The least change is along (difference + length, -mixed), in pixels; this form does not cancel.
                if difference > 0:
                    along_x, along_y = difference + length, -mixed
                else:
                    along_x, along_y = abs(mixed), np.copysign(length - difference, -mixed)
                orientation[y, x] = np.float32(180 / np.pi) * np.arctan2(along_y * ratio, along_x)
                coherence[y, x] = min(length / total, np.float32(1))
            else:
                orientation[y, x] = coherence[y, x] = np.nan


def directions(detail: np.ndarray, level: int, pitch: tuple[float, float]) -> tuple[np.ndarray, np.ndarray]:
    """Direction of edges, degree from x towards y, and its coherence, by the structure tensor in pixels.

    Parameters
    ----------
    detail : ndarray (y, x), float32
    level : int
        The tensor is averaged as in :func:`~dfxm_dask.dynamics.stationary.averaged`.
    pitch : (float, float), um
        Distance of pixels along y and x.
    """
    tensor = [np.empty_like(detail) for _ in range(3)]
    _tensor(detail, *tensor)
    for part in tensor:
        part[...] = averaged(part, level)
    orientation, coherence = np.empty_like(detail), np.empty_like(detail)
    _direction(*tensor, np.float32(pitch[0] / pitch[1]), orientation, coherence)
    return orientation, coherence


Wavelet = Annotated[str, Field(description="orthogonal wavelet: haar, db2 (4 taps), db4 (8 taps), ...")]
Level = Annotated[int, Field(ge=1, le=8, description="coarsest scale of edges: 2^level pixels")]
Scales = Annotated[int, Field(ge=1, le=8, description="number of adjacent scales over which edges persist")]
Floor = Annotated[
    float,
    Field(
        gt=0,
        description="counts above background below which the brightness is linear instead of logarithmic",
        json_schema_extra={"unit": "count"},
    ),
]


def check_scales(asked: str, wavelet: str, level: int, scales: int) -> None:
    """Refuse an unknown wavelet, or more scales than levels.

    Raises
    ------
    InputError
    """
    orthogonal(wavelet)
    if scales > level:
        raise InputError(f"{asked}: {scales} scales", f"exceed the {level} levels", f"give at most {level}")


def above_background(
    counts: np.ndarray, level: np.ndarray, hot: np.ndarray | None, floor: float
) -> tuple[np.ndarray, np.ndarray]:
    """Logarithmic brightness of one frame, filled where its pixels are masked or hot, and the mask of these pixels."""
    above = counts.astype(np.float32) - level
    if hot is not None:
        above[hot] = np.nan
    known, absent = filled(above)
    return logarithm(known, floor), absent


@reduction(
    reads=(COUNTS, AXES, Y, X),
    may_read=(BACKGROUND, HOT),
    writes=(ILLUMINATION, EDGES, ORIENTATION, COHERENCE),
    over=("y", "x"),
    group="wavelets",  # maps; tables of the group dynamics have columns y and x
)
def wavelets(
    counts: np.ndarray,
    scan: dict[str, np.ndarray],
    y: np.ndarray,
    x: np.ndarray,
    background_map: np.ndarray | None = None,
    hot: np.ndarray | None = None,
    *,
    background: PlainBackground = None,
    wavelet: Wavelet = "db4",
    level: Level = 3,
    scales: Scales = 2,
    illumination_level: Annotated[
        int, Field(ge=1, le=8, description="scale of the illumination: 2^illumination_level pixels")
    ] = 5,
    floor: Floor = 10.0,
    first: int = 0,
) -> dict[str, np.ndarray]:
    """Illumination, and edges with their orientation, of every frame by an undecimated wavelet transform.

    Each frame is transformed on its own, so that the result does not depend on other frames or on their order.
    Illumination is a factor, and therefore a sum in the logarithm of the counts, where its smooth part is separated
    from details. An edge persists over adjacent scales, noise does not.

    Returns
    -------
    dict
        ``illumination``, ``edges``, ``orientation`` and ``coherence`` (y, x, frame), float32; NaN at masked and hot
        pixels. ``edges`` are NaN in a frame without noise, ``orientation`` and ``coherence`` where nothing changes.

    Raises
    ------
    InputError
        No background at all, or both a map and a number; an unknown wavelet; more scales than levels.

    Notes
    -----
    With the counts c above background, the logarithmic brightness is::

        u = sign(c) log(1 + |c| / floor)

    ``illumination`` is the smooth part of u at illumination_level, as counts. Choose this level so that
    2^illumination_level pixels exceed the size of defects and not that of features of the beam. With the zero-phase
    bands H, V, D of u and their noise s (1.4826 times the median absolute value of a band in the frame)::

        E_j = < (H_j / s_Hj)² + (V_j / s_Vj)² + (D_j / s_Dj)² > / 3
        edges = (product of E_j over the coarsest ``scales`` levels)^(1 / (2 scales))

    where < > is an average over about 2^(j - 1) pixels, which joins the two sides of a step. Noise alone gives edges
    of 1. ``coherence`` is (l1 - l2) / (l1 + l2) with the eigenvalues l1 >= l2 of the structure tensor, in pixels, of
    the sum of the same bands, averaged over about 2^(level - 1) pixels. ``orientation`` is the direction of the
    eigenvector of l2, in um, between -90 and 90 degree.

    Masked and hot pixels are replaced by their nearest neighbour before the transform.

    References
    ----------
    Abulshohoud et al. (2022), arXiv:2210.15757, separate the illumination from edges at several scales. Our own
    definition of persistence, noise and orientation.

    Examples
    --------
    >>> import dfxm_dask
    >>> maps = dfxm_dask.wavelets(dfxm_dask.example_scan(), background=100)
    >>> maps["edges"].dims, maps["orientation"].attrs["units"]
    (('z', 'phi', 'y', 'x'), 'degree')

    The kernel alone, on one frame with an edge along y:

    >>> generator = np.random.default_rng(0)
    >>> counts = generator.poisson(100.0, (64, 96, 1)).astype(np.uint16)
    >>> counts[:, 48:50] += 200
    >>> um = {"y": np.arange(64) * 0.1, "x": np.arange(96) * 0.1}
    >>> found = wavelets.kernel(counts, {"time": np.zeros(1)}, **um, background="none")
    >>> int(found["edges"][32, :, 0].argmax()), abs(round(float(found["orientation"][32, 48, 0])))
    (48, 90)
    """
    check_scales("wavelets", wavelet, level, scales)
    subtracted = plain_background("wavelets", background_map, background, counts.shape[:2])
    pitch = (float(np.median(np.abs(np.diff(y)))), float(np.median(np.abs(np.diff(x)))))
    frames = counts.shape[2]
    out = {v.name: np.empty((frames, *counts.shape[:2]), np.float32) for v in wavelets.writes}
    for k in range(frames):
        frame, absent = above_background(counts[:, :, k], subtracted, hot, floor)
        found = parts(checked_frame(frame), wavelet, level, scales, illumination_level)
        made = (brightness(found.illumination, floor), found.edges, *directions(found.detail, level, pitch))
        for variable, values in zip(wavelets.writes, made, strict=True):
            out[variable.name][k] = np.where(absent, np.float32(np.nan), values)
    return {name: np.moveaxis(values, 0, -1) for name, values in out.items()}
