"""Weak beam beyond the peaks of all subgrains nearby: single dislocations of a boundary, without the boundary."""

from __future__ import annotations

from typing import Annotated

import numpy as np
from pydantic import Field
from scipy import ndimage

from dfxm_dask.beams.blocks import pixel_length
from dfxm_dask.beams.contrast import enhance_beams
from dfxm_dask.beams.integrate import integrate_beams
from dfxm_dask.reduction import reduction
from dfxm_dask.schema import (
    AXES,
    BACKGROUND,
    COUNTS,
    HAS_WEAK_BEAM,
    ISOLATED,
    LIT,
    NOISE,
    PEAK_LOCAL,
    WIDTH_LOCAL,
    PlainBackground,
    RockingAxis,
    X,
    Y,
)


def extreme_peaks(peak: np.ndarray, lit: np.ndarray, reach: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Lowest and highest local peak in the neighbourhood of every pixel.

    Parameters
    ----------
    peak : array (y, x), float64, degree
    lit : array (y, x), bool
        Unlit pixels have no peak.
    reach : (int, int)
        Pixels along y and x to each side.

    Returns
    -------
    low, high : array (y, x), float64, degree
        NaN where unlit.

    Examples
    --------
    >>> peak = np.array([[1, 1, 1, 5, 5, 5]], np.float32)
    >>> low, high = extreme_peaks(peak, peak > 0, (0, 1))
    >>> low.tolist(), high.tolist()
    ([[1.0, 1.0, 1.0, 1.0, 5.0, 5.0]], [[1.0, 1.0, 5.0, 5.0, 5.0, 5.0]])
    """
    size = [2 * n + 1 for n in reach]
    finite = lit & np.isfinite(peak)
    low = ndimage.minimum_filter(np.where(finite, peak, np.inf), size, mode="nearest")
    high = ndimage.maximum_filter(np.where(finite, peak, -np.inf), size, mode="nearest")
    return np.where(finite, low, np.nan), np.where(finite, high, np.nan)


@reduction(
    reads=(COUNTS, AXES, LIT, PEAK_LOCAL, WIDTH_LOCAL, HAS_WEAK_BEAM, Y, X),
    may_read=(BACKGROUND, NOISE),
    writes=(ISOLATED,),
    over=("scan", "y", "x"),
    min_positions=3,
    group="beams",
)
def isolate_lines(
    counts: np.ndarray,
    scan: dict[str, np.ndarray],
    lit: np.ndarray,
    peak_local: np.ndarray,
    width_local: np.ndarray,
    has_weak_beam: np.ndarray,
    y: np.ndarray,
    x: np.ndarray,
    background_map: np.ndarray | None = None,
    noise: np.ndarray | None = None,
    *,
    reach: Annotated[
        float,
        Field(
            gt=0,
            description="radius around a pixel within which the peaks of all subgrains count as strong beam",
            json_schema_extra={"unit": "um"},
        ),
    ] = 1.0,
    axis: RockingAxis = None,
    background: PlainBackground = None,
) -> dict[str, np.ndarray]:
    """Contrast of single dislocations beyond the peaks of all subgrains nearby, in standard deviations of the noise.

    At a boundary a pixel contains both subgrains, and the strong beam of one lies in the tail of the other. There
    :func:`~dfxm_dask.beams.integrate_beams` shows the boundary as a bright streak that hides its dislocations. Here the
    lower tail begins at the lowest peak within ``reach``, and the upper tail at the highest. The remaining images
    are those of single dislocations; as in all weak-beam images they lie on one side of the line, displaced by about
    0.5 um or less. They give the spacing and direction of the lines of a wall, not its position.

    Parameters
    ----------
    counts : array (y, x, scan axes), uint16 or float32, count
        All frames must be on one scale.
    peak_local, width_local, has_weak_beam : array
        See :func:`dfxm_dask.beams.local_peak`.
    reach : float, um
        Our choice: 1, twice the width of the image of a line.
    background : float or "none", optional
        Either a background map or this parameter is required.

    Returns
    -------
    dict
        NaN where unlit, and in layers without weak beam.

    Raises
    ------
    InputError
        See :func:`dfxm_dask.beams.integrate_beams` and :func:`dfxm_dask.beams.enhance_beams`.

    Notes
    -----
    The tails are those of :func:`~dfxm_dask.beams.integrate_beams`, with u counted from the lowest and from the highest
    peak. Their mean is enhanced as in :func:`~dfxm_dask.beams.enhance_beams`.

    Our own definition.

    Examples
    --------
    >>> import dfxm_dask
    >>> scan = dfxm_dask.example_scan()
    >>> data = scan.merge(dfxm_dask.local_peak(scan, background=100))
    >>> lines = dfxm_dask.isolate_lines(data, background=100)["weak_isolated"].values
    >>> [int(layer.mean(axis=0).argmax()) for layer in lines]  # x of the dislocation, in pixels
    [7, 8]

    The kernel alone, on one layer:

    >>> phi, y = 0.002 * np.arange(31), 0.25 * np.arange(24.0)
    >>> peak = np.where(np.arange(24) < 12, 0.024, 0.036) * np.ones((24, 1))  # two subgrains
    >>> light = np.exp(-0.5 * ((phi - peak[..., None]) / 0.002) ** 2)
    >>> light[:, 11] = light[:, 11] + light[:, 12]  # a column of pixels contains both
    >>> light[6, 6, 3:6] += 0.05  # one pixel far out in the tail shows a dislocation
    >>> counts = (100 + 2000 * light + np.random.default_rng(0).normal(0, 2, light.shape)).astype(np.uint16)
    >>> lit, width = np.ones((24, 24), bool), np.full((24, 24), 0.0047, np.float32)
    >>> contrast = isolate_lines.kernel(
    ...     counts, {"phi": phi}, lit, peak.astype(np.float32), width, True, y, y, background=100
    ... )["weak_isolated"]
    >>> [int(k) for k in np.unravel_index(contrast.argmax(), contrast.shape)]
    [6, 6]
    """
    pixel = pixel_length("y", "isolate_lines", y), pixel_length("x", "isolate_lines", x)
    steps = [round(reach / p) if np.isfinite(p) else 0 for p in pixel]
    common = {"axis": axis, "background": background}
    tails = [
        integrate_beams.kernel(counts, scan, lit, peak, width_local, has_weak_beam, background_map, noise, **common)
        for peak in extreme_peaks(peak_local, lit, (steps[0], steps[1]))
    ]
    minus, plus = tails[0]["weak_minus"], tails[1]["weak_plus"]
    both = np.stack([minus, plus])
    finite = np.isfinite(both)
    weak = np.where(finite, both, 0).sum(axis=0) / np.maximum(finite.sum(axis=0), 1)
    weak = np.where(finite.any(axis=0), weak, np.nan).astype(np.float32)
    sigma = np.fmax(tails[0]["weak_sigma"], tails[1]["weak_sigma"])
    contrast = enhance_beams.kernel(weak, minus, plus, sigma, lit, y, x)
    return {ISOLATED.name: contrast["weak_enhanced"]}
