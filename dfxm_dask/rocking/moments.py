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
    SATURATED,
    STRIP,
    TRUNCATED,
    UNLIT,
    moments_of_layer,
)
from dfxm_dask.schema import AXES, BACKGROUND, COUNTS, HOT, NOISE, SPACE, PlainBackground, Variable, plain_background

TOTAL = Variable("total", SPACE, "float32", "count", "sum of the rocking curve above background")
PEAK = Variable("peak", SPACE, "float32", "count", "maximum of the rocking curve above background")
PEAK_AT = Variable("peak_{axis}", SPACE, "float32", "{units}", "{axis} at the maximum of the rocking curve")
COM = Variable("com_{axis}", SPACE, "float32", "{units}", "centre of mass along {axis}")
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
    ),
)


def cut_in_counts(name: str, noise_cut: float, noise: np.ndarray | None) -> float:
    """A cut in standard deviations as counts.

    Raises
    ------
    InputError
        A cut is asked for and the noise is not known.
    """
    if noise_cut == 0:
        return 0.0
    if noise is None:
        raise InputError(
            f"{name}: parameter noise_cut={noise_cut:g}", "the noise is not known", "assign the variable noise (z)"
        )
    return noise_cut * float(noise)


@reduction(
    reads=(COUNTS, AXES),
    may_read=(BACKGROUND, HOT, NOISE),
    writes=(TOTAL, PEAK, PEAK_AT, COM, STD, SKEWNESS, KURTOSIS, COVARIANCE, FLAGS),
    over=("scan",),
)
def moments(
    counts: np.ndarray,
    scan: dict[str, np.ndarray],
    background_map: np.ndarray | None = None,
    hot: np.ndarray | None = None,
    noise: np.ndarray | None = None,
    *,
    background: PlainBackground = None,
    lit_above: Annotated[
        float,
        Field(ge=0, description="a pixel is lit if its peak exceeds this", json_schema_extra={"unit": "count"}),
    ] = 0.0,
    noise_cut: Annotated[
        float, Field(ge=0, description="counts within this many standard deviations of the background weigh nothing")
    ] = 0.0,
    edge_fraction: Annotated[
        float, Field(gt=0, le=1, description="truncated if the border of the scan exceeds this part of the peak")
    ] = 0.5,
    saturation: Annotated[
        float, Field(gt=0, description="raw count of a full detector well", json_schema_extra={"unit": "count"})
    ] = 65535.0,
) -> dict[str, np.ndarray]:
    """Centre of mass, width, skewness and excess kurtosis of the rocking curve along every scan axis.

    Parameters
    ----------
    counts : array (y, x, scan axes), uint16 or float32, count
        Detector counts of one layer.
    scan : dict of str to array (length of the axis,), float64
        Positions along every scan axis, in its unit.
    background_map : array (y, x), float32, count, optional
        Counts without diffracted beam; see :func:`dfxm_dask.frames.background`.
    hot : array (y, x), bool, optional
        Pixels to leave out.
    noise : array (), float32, count, optional
        Noise of a voxel where nothing diffracts; ingest estimates it for every layer.
    background : float or "none", optional
        Counts to subtract where there is no background map. One of the two must be said: with the detector offset left
        in, the centre of mass of a real scan shrank to 0.43 of its span.
    lit_above : float, count
        A pixel is unlit where its peak above background does not exceed this (our choice: 0).
    noise_cut : float
        Counts that do not exceed the background by this many standard deviations of ``noise`` weigh nothing.
    edge_fraction : float
        A curve is truncated where it exceeds this part of its peak at the border of the scan. Axes of fewer than three
        positions have no border.
    saturation : float, count
        A pixel is saturated where any raw count reaches this.

    Returns
    -------
    dict of str to array (y, x)
        ``total``, ``peak`` (float32, count); for each axis ``peak_``, ``com_``, ``std_`` (float32, unit of the axis),
        ``skewness_``, ``kurtosis_`` (float32, 1); for each pair of axes ``cov_`` (float32); ``flags`` (uint8).

    Raises
    ------
    InputError
        No background at all, or both a map and a number.

    Notes
    -----
    With w = I − background where that exceeds the cut (0 by default), else 0, and u a scan axis: COM = Σwu / Σw,
    variance = Σw(u − COM)² / Σw, skewness =
    μ₃ / std³, kurtosis = μ₄ / std⁴ − 3. Sums are in float64 about mid-scan, the central moments follow from them. A
    pixel with weight in one frame only has std 0 and no skewness or kurtosis (NaN). NaN in the counts, or a hot pixel,
    makes every map of that pixel NaN; an unlit one keeps ``total`` and ``peak``.

    Without a cut the positive half of the noise is signal: over the 2666 frames of a real scan it outweighed the
    reflection and drew the centre of mass to mid-scan. With one, weak tails are lost below it.

    The moments weigh the tails: 2.3548 std is the FWHM only of a Gaussian that is covered by the scan, without
    background. ``multimodal`` is set where the bimodality coefficient (skewness² + 1) / kurtosis (without −3) exceeds
    5/9, its value for a flat curve; curves narrower than half a step are not judged.

    References
    ----------
    Bimodality coefficient: R. Pfister et al., Frontiers in Psychology 4 (2013) 700, eq. 1, for a large sample.

    Examples
    --------
    >>> phi = np.linspace(-1, 1, 5)
    >>> counts = np.array([[[100, 102, 104, 102, 100]]], np.uint16)
    >>> maps = moments.kernel(counts, {"phi": phi}, background=100)
    >>> maps["total"].item(), maps["com_phi"].item(), round(maps["std_phi"].item(), 4)
    (8.0, 0.0, 0.3536)
    """
    shape = counts.shape[:2]
    level = plain_background("moments", background_map, background, shape)
    cut = cut_in_counts("moments", noise_cut, noise)
    names = list(scan)
    pairs = list(combinations(names, 2))
    lengths = [scan[name].size for name in names]
    maps = np.empty((5 * len(names) + len(pairs), *shape), np.float32)
    total, peak, flags = np.empty(shape, np.float32), np.empty(shape, np.float32), np.empty(shape, np.uint8)
    if counts.size == 0:  # no pixel, or no frame
        maps[:], total[:], peak[:], flags[:] = np.nan, 0, 0, UNLIT
    else:
        low = np.array([scan[name].min() for name in names])
        high = np.array([scan[name].max() for name in names])
        middle, half = (low + high) / 2, np.where(high > low, (high - low) / 2, 1.0)
        step = (high - low) / np.maximum(np.array(lengths) - 1, 1)
        grid = np.stack(np.meshgrid(*(scan[name] for name in names), indexing="ij"), -1).reshape(-1, len(names))
        unit = (grid - middle) / half
        # The last axis is filled up to whole groups with frames of weight 0.
        inner = np.zeros((-(-lengths[-1] // GROUP) * GROUP, 5))
        inner[: lengths[-1]] = unit[: lengths[-1], -1:] ** np.arange(5)
        index = np.indices(lengths).reshape(len(names), -1)
        border = np.zeros(len(grid), bool)
        for place, length in zip(index, lengths, strict=True):
            border |= (length > 2) & ((place == 0) | (place == length - 1))
        line, starts, row_step = frame_lines(counts)
        moments_of_layer(
            line,
            starts,
            row_step,
            level,
            np.zeros(shape, bool) if hot is None else np.require(hot, bool, ["C", "W"]),
            np.ascontiguousarray(grid.T),
            inner,
            np.ascontiguousarray(unit[:: lengths[-1], :-1]),
            np.flatnonzero(border),
            middle,
            half,
            step,
            cut,
            max(float(lit_above), cut),
            float(edge_fraction),
            float(saturation),
            np.zeros(GROUP * STRIP, line.dtype),
            total,
            peak,
            maps,
            flags,
        )
    result: dict[str, np.ndarray] = {"total": total, "peak": peak}
    for a, name in enumerate(names):
        for k, word in enumerate(("peak", "com", "std", "skewness", "kurtosis")):
            result[f"{word}_{name}"] = maps[5 * a + k]
    for p, (name, other) in enumerate(pairs):
        result[f"cov_{name}_{other}"] = maps[5 * len(names) + p]
    result["flags"] = flags
    return result
