"""Mosaicity: direction and size of the local tilt as a colour."""

from __future__ import annotations

from functools import lru_cache
from typing import Annotated

import numpy as np
from pydantic import Field

from dfxm_dask.errors import InputError
from dfxm_dask.reduction import reduction
from dfxm_dask.rocking.moments import FLAGS, without_single
from dfxm_dask.schema import AXES, COM, SPACE, Dim, Variable

MOSAICITY = Variable(
    "mosaicity", (*SPACE, Dim("rgb", 3)), "uint8", "1", "sRGB colour of the tilt along the first two scan axes"
)

# CIELAB (D65, 2°). At lightness 74 the circle of chroma 40 just touches the border of sRGB, the largest at any
# lightness; 39.5 leaves room for rounding.
LIGHTNESS, CHROMA = 74.0, 39.5
OUTSIDE = (128, 128, 128)  # grey of another lightness (54), so no colour of the disc equals it
UNKNOWN = (0, 0, 0)
EDGE = 511  # of the colour table; odd, so that the centre is a pixel; neighbours differ by 0.15 CIELAB units


def _srgb(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """sRGB (0 … 1) of CIELAB colours of our lightness; IEC 61966-2-1."""
    fy = (LIGHTNESS + 16) / 116
    f = np.stack([fy + a / 500, np.full_like(a, fy), fy - b / 200], axis=-1)
    xyz = np.where(f > 6 / 29, f**3, 3 * (6 / 29) ** 2 * (f - 4 / 29)) * (0.95047, 1.0, 1.08883)
    matrix = np.array([[0.412453, 0.357580, 0.180423], [0.212671, 0.715160, 0.072169], [0.019334, 0.119193, 0.950227]])
    linear = xyz @ np.linalg.inv(matrix).T
    return np.where(linear > 0.0031308, 1.055 * np.maximum(linear, 1e-9) ** (1 / 2.4) - 0.055, 12.92 * linear)


@lru_cache(maxsize=1)
def _table() -> np.ndarray:
    """Colours over the square around the unit disc, (EDGE, EDGE, 3), uint8; the first coordinate is the row."""
    place = np.linspace(-1, 1, EDGE)
    first, second = np.meshgrid(place, place, indexing="ij")
    rgb = np.rint(255 * _srgb(CHROMA * first, CHROMA * second).clip(0, 1)).astype(np.uint8)
    rgb.setflags(write=False)
    return rgb


def _colour(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Colours of positions in the unit disc, (…, 3), uint8."""
    radius = first * first + second * second
    inside = radius <= 1 + 1e-6  # NaN is not
    row, column = (
        np.rint((np.where(inside, p, 0).clip(-1, 1) + 1) * ((EDGE - 1) / 2)).astype(np.int64) for p in (first, second)
    )
    rgb = _table()[row, column]
    rgb[radius > 1 + 1e-6] = OUTSIDE
    rgb[~np.isfinite(radius)] = UNKNOWN
    return rgb


def colour_key(
    n: int,
    first: tuple[float, float] = (-1.0, 1.0),
    second: tuple[float, float] = (-1.0, 1.0),
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Colour key of :func:`mosaicity`, with the positions along its two edges.

    Parameters
    ----------
    n : int
        Pixels along each edge.
    first, second : tuple of float
        Range of the first and second scan axis that the disc spans: centre − half_range, centre + half_range.

    Returns
    -------
    rgb : array (n, n, 3), uint8
        Rows are the first scan axis; grey outside the disc.
    first, second : array (n,), float64
        Positions along rows and columns, in the units of the axes.

    Examples
    --------
    >>> rgb, first, second = colour_key(5, (0.0, 2.0), (-1.0, 1.0))
    >>> rgb.shape, first.tolist(), rgb[2, 2].tolist(), rgb[0, 0].tolist()
    ((5, 5, 3), [0.0, 0.5, 1.0, 1.5, 2.0], [182, 182, 182], [128, 128, 128])
    """
    place = np.linspace(-1, 1, n)
    rgb = _colour(*np.meshgrid(place, place, indexing="ij"))
    return rgb, np.linspace(*first, n), np.linspace(*second, n)


@reduction(reads=(COM, AXES), may_read=(FLAGS,), writes=(MOSAICITY,), min_axes=2, positions="common")
def mosaicity(
    com: dict[str, np.ndarray],
    scan: dict[str, np.ndarray],
    flags: np.ndarray | None = None,
    *,
    centre: Annotated[
        tuple[float, float] | None, Field(description="white point along both axes; by default mid-scan")
    ] = None,
    half_range: Annotated[
        tuple[float, float] | None,
        Field(description="distance from the centre to full colour along both axes; by default half the scan range"),
    ] = None,
) -> dict[str, np.ndarray]:
    """Mosaicity: colour of the local tilt (centre of mass) along the first two scan axes.

    The direction of the tilt from ``centre`` determines the hue, its size the chroma, at constant lightness: equal
    distances in tilt are equal distances in perceived colour. All layers of a scan share one colour key. Tilts beyond
    ``half_range`` are grey; pixels without a centre of mass are black. :func:`colour_key` returns the key.

    Parameters
    ----------
    scan : dict of arrays
        Mean positions over layers.
    flags : array, optional
        Pixels with the flag ``single`` (lit in a single frame) are black.
    centre : tuple of float, optional
        In the units of the axes.
    half_range : tuple of float, optional
        In the units of the axes.

    Returns
    -------
    dict
        sRGB values, 0 to 255.

    Raises
    ------
    InputError
        A half range that is not positive, or a missing half range for an axis of a single position.

    Notes
    -----
    The colour in CIELAB is, for u² + v² ≤ 1::

        (u, v) = (COM − centre) / half_range
        L* = 74,    a* = 39.5 u,    b* = 39.5 v

    Colours outside this disc are a darker grey. No colour of the key is black.

    References
    ----------
    CIE 15:2004, Colorimetry (L*, a*, b*); IEC 61966-2-1 (sRGB). The disc of even brightness is our own choice.

    Examples
    --------
    >>> import dfxm_dask
    >>> scan = dfxm_dask.example_scan()
    >>> two = scan.assign(counts=scan["counts"].expand_dims({"chi": [0.0, 1.0, 2.0]}, axis=1))
    >>> maps = dfxm_dask.moments(two, background=100, noise_cut=5)
    >>> dfxm_dask.mosaicity(two.merge(maps))["mosaicity"].isel(z=0, y=0)[[0, -1]].values.tolist()
    [[175, 182, 196], [188, 181, 168]]

    The kernel alone, on one layer:

    >>> com = {"chi": np.array([[0.0, np.nan]]), "phi": np.array([[0.0, 0.0]])}
    >>> scan = {"chi": np.linspace(-1, 1, 3), "phi": np.linspace(-1, 1, 3)}
    >>> mosaicity.kernel(com, scan)["mosaicity"].tolist()
    [[[182, 182, 182], [0, 0, 0]]]
    """
    names = list(scan)[:2]
    com = without_single(com, flags)
    placed = []
    for k, name in enumerate(names):
        positions = scan[name]
        low, high = float(positions.min()), float(positions.max())
        middle = (low + high) / 2 if centre is None else centre[k]
        half = (high - low) / 2 if half_range is None else half_range[k]
        if not half > 0:
            raise InputError(
                f"mosaicity: half range of {name}",
                f"is {half:g}" + (f" (the scan stays at {low:g})" if half_range is None else ""),
                "give half_range=(first, second), both above 0",
            )
        placed.append((np.asarray(com[name], np.float64) - middle) / half)
    return {"mosaicity": _colour(*placed)}
