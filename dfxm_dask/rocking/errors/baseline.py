"""Sensitivity of the moments of the rocking curve to the background, and the background of pixels without a curve."""

from __future__ import annotations

from typing import Annotated

import numpy as np
from pydantic import Field
from scipy.special import ndtri

from dfxm_dask.reduction import reduction
from dfxm_dask.rocking.moments import FLAGS, NoiseCut, moments
from dfxm_dask.rocking.power_sums import UNLIT
from dfxm_dask.schema import (
    AXES,
    BACKGROUND,
    COUNTS,
    HOT,
    NOISE,
    SPACE,
    Variable,
)

UNLIT_BACKGROUND = Variable(
    "unlit_background", ("z",), "float32", "count", "background of the pixels that do not diffract, low quantile"
)
COM_BASELINE = Variable(
    "com_{axis}_baseline", SPACE, "float32", "{units}", "largest change of the centre along {axis} by other backgrounds"
)
STD_BASELINE = Variable(
    "std_{axis}_baseline",
    SPACE,
    "float32",
    "{units}",
    "largest change of the standard deviation along {axis} by other backgrounds",
)
QUANTILES = (0.03, 0.25)  # orders of the other quantiles (our choice)
FEWEST = 100  # unlit pixels with a common background (our choice)
ENDS = 3  # frames at each end of the scan (our choice)


@reduction(reads=(BACKGROUND, FLAGS), writes=(UNLIT_BACKGROUND,), over=("y", "x"), min_axes=0, group="rocking")
def unlit_background(
    background_map: np.ndarray,
    flags: np.ndarray,
    *,
    quantile: Annotated[float, Field(ge=0, le=1, description="order of the quantile over unlit pixels")] = 0.1,
) -> dict[str, np.ndarray]:
    """Background of a layer from the pixels that do not diffract: a low quantile of their backgrounds.

    A pixel that diffracts during most of the scan has no quiet frames, so its own background is too high. Pixels beside
    the sample or between grains show the level of the detector.

    Parameters
    ----------
    quantile : float
        Our choice: 0.1, because pixels below the cut may still diffract weakly.

    Notes
    -----
    NaN with fewer than 100 unlit pixels (our choice). The level assumes that the background is common to all pixels; a
    sample that scatters into lit pixels has a higher one there. To use it for the maps, give it to the step
    ``background`` as ``{method: scalar, value: <count>}``.

    Our own definition.

    Examples
    --------
    >>> import dfxm_dask
    >>> scan = dfxm_dask.example_scan()
    >>> scan = scan.merge(dfxm_dask.background(scan))
    >>> maps = dfxm_dask.moments(scan, noise_cut=5)
    >>> bool(np.isnan(dfxm_dask.unlit_background(scan.merge(maps))["unlit_background"][0]))  # too few unlit pixels
    True

    The kernel alone, on one layer:

    >>> level = np.full((20, 20), 100, np.float32)
    >>> level[:5] = 140
    >>> flags = np.ones((20, 20), np.uint8)
    >>> flags[:5] = 2
    >>> unlit_background.kernel(level, flags)["unlit_background"].item()
    100.0
    """
    dark = background_map[((flags & UNLIT) > 0) & np.isfinite(background_map)]
    level = np.quantile(dark, quantile) if dark.size >= FEWEST else np.nan
    return {"unlit_background": np.asarray(level, np.float32)}


def _ends(counts: np.ndarray) -> np.ndarray:
    """The lower mean of the frames at both ends of the longest scan axis."""
    frames = np.moveaxis(counts, 2 + int(np.argmax(counts.shape[2:])), 2)
    n = min(ENDS, frames.shape[2])
    around = tuple(range(2, frames.ndim))
    return np.minimum(frames[:, :, :n].mean(axis=around), frames[:, :, -n:].mean(axis=around)).astype(np.float32)


def _quantiles(counts: np.ndarray, noise: np.ndarray | None) -> list[np.ndarray]:
    """Quantiles of every curve, corrected for the noise like those of the step ``background``."""
    flat = counts.reshape(*counts.shape[:2], -1)
    levels = np.quantile(flat, QUANTILES, axis=2).astype(np.float32)
    if noise is not None:
        ranks = (np.array(QUANTILES) * (flat.shape[2] - 1) + 0.625) / (flat.shape[2] + 0.25)
        levels -= (float(noise) * ndtri(ranks)[:, None, None]).astype(np.float32)
    return list(levels)


@reduction(
    reads=(COUNTS, AXES, BACKGROUND),
    may_read=(HOT, NOISE, UNLIT_BACKGROUND),
    writes=(COM_BASELINE, STD_BASELINE),
    over=("scan",),
    group="rocking",
)
def baseline_sensitivity(
    counts: np.ndarray,
    scan: dict[str, np.ndarray],
    background_map: np.ndarray,
    hot: np.ndarray | None = None,
    noise: np.ndarray | None = None,
    unlit_background: np.ndarray | None = None,
    *,
    noise_cut: NoiseCut = 0.0,
    dark_level: Annotated[
        float | None,
        Field(
            description="another background: known counts without beam; default: unlit_background if known",
            json_schema_extra={"unit": "count"},
        ),
    ] = None,
) -> dict[str, np.ndarray]:
    """Sensitivity of the centre of mass and of the standard deviation to the background.

    The stated errors contain the noise of the background, not its bias. This map shows how far the results move under
    other backgrounds that the data equally support: where it exceeds the stated error, the background limits the
    result, as for curves that the scan truncates.

    Parameters
    ----------
    hot : array, optional
        Marked pixels are left out.
    noise : array, optional
        Ingest estimates the noise of every layer.
    unlit_background : array, optional
        See :func:`unlit_background`.

    Raises
    ------
    InputError
        A cut without a known noise.

    Notes
    -----
    The other backgrounds are the quantiles of 0.03 and 0.25 of the curve, corrected for the noise as in
    :func:`dfxm_dask.frames.background`; the lower mean of the three frames at both ends of the longest axis; and the
    dark level, if one is known, where it lies below the background of the pixel. The result is the largest absolute
    difference from the moments with the background map. It is NaN where the moments are. Alternatives under which a
    pixel is unlit are left out.

    Our own definition.

    Examples
    --------
    >>> import dfxm_dask
    >>> scan = dfxm_dask.example_scan()
    >>> scan = scan.merge(dfxm_dask.background(scan))
    >>> moved = dfxm_dask.baseline_sensitivity(scan, noise_cut=5)
    >>> bool((moved["com_phi_baseline"] < 0.001).mean() > 0.9)
    True

    The kernel alone, on one layer:

    >>> phi = np.linspace(-1, 1, 41)
    >>> counts = 100 + 400 * np.exp(-0.5 * ((phi - 0.6) / 0.4) ** 2)[None, None]
    >>> level = np.full((1, 1), 110, np.float32)
    >>> moved = baseline_sensitivity.kernel(counts, {"phi": phi}, level, dark_level=100.0)
    >>> 0.01 < moved["com_phi_baseline"].item() < 0.1
    True
    """
    others = _quantiles(counts, noise)
    others.append(_ends(counts))
    dark = dark_level if dark_level is not None else unlit_background
    if dark is not None and np.isfinite(dark):
        others.append(np.minimum(background_map, np.float32(dark)))
    first = moments.kernel(counts, scan, background_map, hot, noise, noise_cut=noise_cut)
    made = {f"{word}_{n}_baseline": np.zeros(counts.shape[:2], np.float32) for n in scan for word in ("com", "std")}
    for level in others:
        found = moments.kernel(counts, scan, level, hot, noise, noise_cut=noise_cut)
        for name in scan:
            for word in ("com", "std"):
                moved = np.abs(found[f"{word}_{name}"] - first[f"{word}_{name}"]).astype(np.float32)
                np.fmax(made[f"{word}_{name}_baseline"], moved, out=made[f"{word}_{name}_baseline"])
    for name in scan:
        for word in ("com", "std"):
            made[f"{word}_{name}_baseline"][~np.isfinite(first[f"{word}_{name}"])] = np.nan
    return made
