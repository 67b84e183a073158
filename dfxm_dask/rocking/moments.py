"""Moments of the rocking curve of every pixel, in one pass over the counts."""

from __future__ import annotations

from itertools import combinations
from typing import Annotated

import numpy as np
from pydantic import Field

from dfxm_dask.errors import InputError
from dfxm_dask.memory import frame_lines
from dfxm_dask.reduction import reduction
from dfxm_dask.rocking.power_sums import (
    GROUP,
    HOT_PIXEL,
    MULTIMODAL,
    NO_COUNT,
    SATURATED,
    SINGLE,
    TRUNCATED,
    UNLIT,
    Limits,
    Maps,
    Pixels,
    Scan,
    moments_of_layer,
)
from dfxm_dask.schema import (
    AXES,
    BACKGROUND,
    COM,
    COUNTS,
    FRAME_SCALE,
    FULL_WELL,
    HOT,
    NOISE,
    POSITION,
    SATURATION,
    SPACE,
    PlainBackground,
    Variable,
    full_count,
    plain_background,
)

TOTAL = Variable("total", SPACE, "float32", "count", "sum of the rocking curve above background")
PEAK = Variable("peak", SPACE, "float32", "count", "maximum of the rocking curve above background")
PEAK_AT = Variable("peak_{axis}", SPACE, "float64", "{units}", "{axis} at the maximum of the rocking curve")
STD = Variable("std_{axis}", SPACE, "float32", "{units}", "standard deviation of the rocking curve along {axis}")
SKEWNESS = Variable("skewness_{axis}", SPACE, "float32", "1", "skewness of the rocking curve along {axis}")
KURTOSIS = Variable("kurtosis_{axis}", SPACE, "float32", "1", "excess kurtosis of the rocking curve along {axis}")
COVARIANCE = Variable(
    "cov_{axis}_{other}", SPACE, "float32", "", "covariance of {axis} and {other} in the rocking curve"
)
FLAGS = Variable(
    "flags",
    SPACE,
    "uint8",
    "1",
    "quality flags of the rocking curve",
    flags=(
        (UNLIT, "unlit"),
        (TRUNCATED, "truncated"),
        (SATURATED, "saturated"),
        (HOT_PIXEL, "hot"),
        (MULTIMODAL, "multimodal"),
        (SINGLE, "single"),
        (NO_COUNT, "masked"),
    ),
)

LitAbove = Annotated[
    float,
    Field(ge=0, description="least peak above background of a lit pixel", json_schema_extra={"unit": "count"}),
]
NoiseCut = Annotated[
    float,
    Field(ge=0, description="counts less than noise_cut standard deviations above background get zero weight"),
]


def cut_in_counts(name: str, noise_cut: float, noise: np.ndarray | None) -> float:
    """A cut in standard deviations as counts.

    Raises
    ------
    InputError
        ``noise_cut`` is above 0 and the noise is unknown.
    """
    if noise_cut == 0:
        return 0.0
    if noise is None:
        raise InputError(
            f"{name}: parameter noise_cut={noise_cut:g}", "the noise is unknown", "assign the variable noise (z)"
        )
    return noise_cut * float(noise)


def without_single(maps: dict[str, np.ndarray], flags: np.ndarray | None) -> dict[str, np.ndarray]:
    """Maps with NaN where the flags mark a pixel as lit in a single frame."""
    if flags is None:
        return maps
    return {name: np.where(flags & SINGLE, np.nan, values) for name, values in maps.items()}


def _above_cut(counts: np.ndarray, level: np.ndarray, cut: np.ndarray) -> np.ndarray:
    """Counts, or the background where counts do not exceed it by the cut of their frame; frames come first."""
    made = np.empty((*cut.shape, *counts.shape[:2]), np.float32)
    for frame in np.ndindex(*cut.shape):
        image = counts[(..., *frame)]
        made[frame] = np.where(image - level <= cut[frame], level, image)
    return np.moveaxis(made, (-2, -1), (0, 1))


def _rows_of_sums(unit: np.ndarray) -> np.ndarray:
    """Contribution of a weight of 1 in each frame to every row of the sums: (frame, row); see ``_add_line``."""
    powers = unit[:, :, None] ** np.arange(1, 5)
    products = [unit[:, a] * unit[:, b] for a, b in combinations(range(unit.shape[1]), 2)]
    return np.column_stack([np.ones(len(unit)), powers.reshape(len(unit), -1), *products])


def _scan_of(scan: dict[str, np.ndarray], position: dict[str, np.ndarray]) -> Scan:
    """Positions of all frames; `position` has those off the grid, for scans of several axes."""
    names, lengths = list(scan), [values.size for values in scan.values()]
    grid = np.stack(np.meshgrid(*scan.values(), indexing="ij"), -1).reshape(-1, len(names))
    apart = position if len(names) > 1 else {}
    for name, values in apart.items():
        grid[:, names.index(name)] = values.ravel()
    low, high = grid.min(axis=0), grid.max(axis=0)
    middle, half = (low + high) / 2, np.where(high > low, (high - low) / 2, 1.0)
    unit = (grid - middle) / half
    # The last axis is filled up to whole groups with frames of weight 0.
    inner = np.zeros((-(-lengths[-1] // GROUP) * GROUP, 5))
    inner[: lengths[-1]] = unit[: lengths[-1], -1:] ** np.arange(5)
    index = np.indices(lengths).reshape(len(names), -1)
    border = np.zeros(len(grid), bool)
    for place, length in zip(index, lengths, strict=True):
        border |= (length > 2) & ((place == 0) | (place == length - 1))
    return Scan(
        positions=np.ascontiguousarray(grid.T),
        place=index,
        middle=middle,
        half=half,
        step=(high - low) / np.maximum(np.array(lengths) - 1, 1),
        inner=inner,
        outer=np.ascontiguousarray(unit[:: lengths[-1], :-1]),
        each=_rows_of_sums(unit) if apart else np.empty((0, 0)),
        border=np.flatnonzero(border),
    )


@reduction(
    reads=(COUNTS, AXES),
    may_read=(BACKGROUND, HOT, NOISE, POSITION, FULL_WELL, FRAME_SCALE, SATURATION),
    writes=(TOTAL, PEAK, PEAK_AT, COM, STD, SKEWNESS, KURTOSIS, COVARIANCE, FLAGS),
    over=("scan",),
)
def moments(
    counts: np.ndarray,
    scan: dict[str, np.ndarray],
    background_map: np.ndarray | None = None,
    hot: np.ndarray | None = None,
    noise: np.ndarray | None = None,
    position: dict[str, np.ndarray] | None = None,
    full_well: np.ndarray | None = None,
    frame_scale: np.ndarray | None = None,
    *,
    background: PlainBackground = None,
    lit_above: LitAbove = 0.0,
    noise_cut: NoiseCut = 0.0,
    edge_fraction: Annotated[
        float,
        Field(
            gt=0, le=1, description="a curve is truncated if counts at the scan border exceed this fraction of its peak"
        ),
    ] = 0.5,
    saturation: Annotated[
        float | None,
        Field(
            gt=0,
            description="raw count of a full detector well; default: that of the scan, else the largest of the dtype",
            json_schema_extra={"unit": "count"},
        ),
    ] = None,
) -> dict[str, np.ndarray]:
    """Centre of mass, standard deviation, skewness and excess kurtosis of the rocking curve along every scan axis.

    The moments are sums over all scan positions, weighted by the counts above background: no model, one pass over the
    data, exact for curves with several peaks. The centre of mass is the local tilt of the lattice, the standard
    deviation its spread. The map ``flags`` marks pixels whose moments are not reliable, such as those of a curve that
    is truncated by the scan or has several peaks.

    Parameters
    ----------
    scan : dict of arrays
        The positions of the layer where they are recorded.
    background_map : array, optional
        See :func:`dfxm_dask.frames.background`.
    hot : array, optional
        Marked pixels are left out.
    noise : array, optional
        Ingest estimates the noise of every layer.
    position : dict of arrays, optional
        Only for axes along which frames do not lie on a grid.
    full_well : array, optional
        Saturated pixels of counts that are no longer raw, as written by the step ``normalise``.
    frame_scale : array, optional
        Multiplies the cut of each frame. ``peak`` then refers to counts above the cut, and is 0 for unlit pixels.
    background : float or "none", optional
        This parameter or a background map is required: with the detector offset left in, the centre of mass of a real
        scan shrank to 0.43 of its span.
    lit_above : float, count
        Our choice: 0.
    edge_fraction : float
        Axes of fewer than three positions have no border.
    saturation : float, count, optional
        A pixel is saturated where any raw count reaches this value. By default, counts of a float dtype never do.

    Raises
    ------
    InputError
        No background at all, or both a map and a number.

    Notes
    -----
    With the weight w = I − background of each count I, set to 0 where it does not exceed the cut (noise_cut × noise),
    and the position u along a scan axis::

        COM       = Σ w u / Σ w
        μₖ        = Σ w (u − COM)ᵏ / Σ w
        std       = sqrt(μ₂)
        skewness  = μ₃ / std³
        kurtosis  = μ₄ / std⁴ − 3

    Sums are float64 about mid-scan; the central moments follow from them. A pixel with weight in one frame only has std
    0, no skewness or kurtosis (NaN), and the flag ``single``. All maps are NaN for hot pixels and for pixels with NaN
    in counts or background (flag ``masked``); unlit pixels keep ``total`` and ``peak``. The centre of mass is a
    position, which float32 would round to 3e-5 degree at 300 degree.

    Without a cut, the positive half of the noise counts as signal: over the 2666 frames of a real scan its sum exceeded
    the reflection and drew the centre of mass to mid-scan. A cut removes weak tails below its level.

    The moments depend on the tails: 2.3548 std is the FWHM only for a Gaussian fully covered by the scan, without
    background.

    The flag ``multimodal`` requires two conditions. The bimodality coefficient exceeds its value for a flat curve::

        (skewness² + 1) / (kurtosis + 3) > 5/9

    and the curve has a valley 3.5 standard deviations below the lower of the two peaks beside it. The coefficient alone
    is not sufficient: a cut leaves the flat top of a dim single peak, and noise then raises the coefficient above 5/9.
    The valley is that of the curve without cut, in sums over 0.65 std; the variance of a sum over n counts is n noise²
    plus the counts (one count per photon, our choice). In simulations the flag marks at most 2 % of single Gaussians
    with a peak of 5 times the noise or more, and more than 90 % of pairs of equal Gaussians, each at least 2.5 steps
    wide, 6 standard deviations apart at 10 times the noise. Curves narrower than half a step are not tested.

    References
    ----------
    Bimodality coefficient: R. Pfister et al., Frontiers in Psychology 4 (2013) 700, eq. 1, for a large sample.

    Examples
    --------
    >>> import dfxm_dask
    >>> scan = dfxm_dask.example_scan()
    >>> maps = dfxm_dask.moments(scan, background=100, noise_cut=5)
    >>> maps["com_phi"].isel(z=0, y=0)[[0, -1]].values.round(3).tolist()
    [0.024, 0.036]

    The kernel alone, on one layer:

    >>> phi = np.linspace(-1, 1, 5)
    >>> counts = np.array([[[100, 102, 104, 102, 100]]], np.uint16)
    >>> maps = moments.kernel(counts, {"phi": phi}, background=100)
    >>> maps["total"].item(), maps["com_phi"].item(), round(maps["std_phi"].item(), 4)
    (8.0, 0.0, 0.3536)
    """
    shape = counts.shape[:2]
    level = plain_background("moments", background_map, background, shape)
    cut = cut_in_counts("moments", noise_cut, noise)
    if frame_scale is not None and cut > 0 and counts.size:
        counts, cut = _above_cut(counts, level, cut * frame_scale), 0.0
    names = list(scan)
    pairs = list(combinations(names, 2))
    maps = Maps(
        np.empty(shape, np.float32),
        np.empty(shape, np.float32),
        np.empty((2 * len(names), *shape)),
        np.empty((3 * len(names) + len(pairs), *shape), np.float32),
        np.empty(shape, np.uint8),
    )
    if counts.size == 0:  # no pixel, or no frame
        for values, empty in zip(maps, (0, 0, np.nan, np.nan, UNLIT), strict=True):
            values[:] = empty
    else:
        pixels = Pixels(
            level,
            np.zeros(shape, bool) if hot is None else np.require(hot, bool, ["C", "W"]),
            np.zeros(shape, bool) if full_well is None else np.require(full_well, bool, ["C", "W"]),
        )
        limits = Limits(
            0.0 if noise is None else float(noise),
            cut,
            max(float(lit_above), cut),
            float(edge_fraction),
            np.inf if full_well is not None else full_count(saturation, counts.dtype),
        )
        moments_of_layer(frame_lines(counts), pixels, _scan_of(scan, position or {}), limits, maps)
    result: dict[str, np.ndarray] = {"total": maps.total, "peak": maps.peak}
    for a, name in enumerate(names):
        result |= {f"{word}_{name}": maps.places[2 * a + k] for k, word in enumerate(("peak", "com"))}
        result |= {f"{word}_{name}": maps.shapes[3 * a + k] for k, word in enumerate(("std", "skewness", "kurtosis"))}
    for p, (name, other) in enumerate(pairs):
        result[f"cov_{name}_{other}"] = maps.shapes[3 * len(names) + p]
    result["flags"] = maps.flags
    return result
