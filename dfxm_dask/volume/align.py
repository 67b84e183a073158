"""How far each layer lies aside from the first: by what neighbouring layers have in common, and by the projection."""

from __future__ import annotations

from typing import Annotated

import numpy as np
from pydantic import Field
from scipy import fft

from dfxm_dask.reduction import Arrays, reduction
from dfxm_dask.schema import DEFECTS, STANDS_OUT, Variable, X, Y, Z, pixel_length
from dfxm_dask.volume.objects import neighbouring

SHIFT_Y = Variable("shift_y", ("z",), "float64", "um", "shift of the layer image along y")
SHIFT_X = Variable("shift_x", ("z",), "float64", "um", "shift of the layer image along x")
SHIFT_QUALITY = Variable(
    "shift_quality",
    ("z",),
    "float64",
    "1",
    "lead of the highest correlation peak over the next, as part of the highest",
)

IMAGE = 0.25  # um, standard deviation: correlations are blurred to half of the width of a dislocation's image
APART = 0.75  # um: maxima nearer than this are one (three times IMAGE)


def layer_shift(
    before: np.ndarray, here: np.ndarray, pixel: tuple[float, float], reach: float
) -> tuple[tuple[float, float], float]:
    """How far what two masks have in common has moved, and how clearly.

    Parameters
    ----------
    before, here : array (y, x), bool
    pixel : (float, float), um
        Along y and x.
    reach : float, um
        Largest shift along y and along x.

    Returns
    -------
    (float, float), um
        Along y and x, to parts of a pixel; NaN where nothing correlates.
    float
        1 less the next highest maximum over the highest one: 0 where another shift is as likely, 1 where there is no
        other. NaN where nothing correlates.

    Notes
    -----
    Phase correlation (C. D. Kuglin and D. C. Hines, Proc. IEEE Conf. Cybernetics and Society (1975) 163) of both masks
    less their means under a Hann window, blurred by 0.25 um; a parabola through the maximum and its neighbours.

    Examples
    --------
    >>> mask = np.random.default_rng(0).random((64, 48)) < 0.1
    >>> (y, x), clear = layer_shift(mask, np.roll(mask, (3, -2), (0, 1)), (0.5, 1.0), 4.0)
    >>> round(y, 1), round(x, 1), clear > 0.5
    (1.5, -2.0, True)
    """
    nothing = (float("nan"), float("nan")), float("nan")
    if not (before.any() and here.any()):
        return nothing
    rows, columns = before.shape
    window = np.outer(*(np.hanning(n + 2)[1:-1].astype(np.float32) for n in before.shape))
    first, second = (fft.rfft2((m - np.float32(m.mean())) * window) for m in (before, here))
    cross = second * first.conj()
    size = np.abs(cross)
    frequency = np.square(fft.fftfreq(rows, pixel[0]))[:, None] + np.square(fft.rfftfreq(columns, pixel[1]))
    blur = np.exp(-2 * (np.pi * IMAGE) ** 2 * frequency).astype(np.float32)
    least = 1e-6 * float(size.max())
    if least == 0:
        return nothing
    both = fft.irfft2(np.where(size > least, cross / np.maximum(size, least), 0) * blur, before.shape)
    lags = [fft.fftfreq(n, 1 / n) for n in before.shape]

    def within(length: float) -> list[np.ndarray]:
        return [np.flatnonzero(np.abs(lag) * p <= length * (1 + 1e-9)) for lag, p in zip(lags, pixel, strict=True)]

    places = within(reach)
    near = both[np.ix_(*places)]
    y, x = (places[k][n] for k, n in enumerate(np.unravel_index(np.argmax(near), near.shape)))
    places = within(max(reach, 2 * APART))  # others are looked for as far as they can be told apart
    near = both[np.ix_(*places)]
    aside = [(lag[place] - lag[n]) * p for lag, place, n, p in zip(lags, places, (y, x), pixel, strict=True)]
    others = near[np.hypot(aside[0][:, None], aside[1][None]) > APART]
    height = float(both[y, x])
    if height <= 0 or others.size == 0:
        return nothing
    fine = _top(both[[y - 1, y, (y + 1) % rows], x]), _top(both[y, [x - 1, x, (x + 1) % columns]])
    found = ((lags[0][y] + fine[0]) * pixel[0], (lags[1][x] + fine[1]) * pixel[1])
    return (float(found[0]), float(found[1])), 1 - max(float(others.max()), 0.0) / height


def _top(values: np.ndarray) -> float:
    """Place of the maximum of the parabola through three values about a maximum, from the middle one."""
    low, middle, high = (float(v) for v in values)
    bend = low - 2 * middle + high
    return 0.5 * (low - high) / bend if bend < 0 else 0.0


def _join(first: Arrays, second: Arrays) -> Arrays:
    once = ("asked",)
    return {n: v if n in once else np.concatenate([v, second[n]]) for n, v in first.items()}


def _added_up(summary: Arrays) -> Arrays:
    """Shifts from the first layer."""
    least, keep_trend, *shear = summary["asked"]
    z, moved, quality = summary["z"], summary["moved"].copy(), summary["quality"]
    neighbouring(z)
    rise, above = np.diff(z, prepend=z[:1])[:, None], (z - z[0])[:, None]
    known = quality >= least
    trend = np.median(moved[known] / rise[known], axis=0) if known.any() else np.zeros(2)
    aside = np.where(known[:, None], moved - trend * rise, 0.0)
    shift = np.cumsum(aside, axis=0) + above * (np.array(shear) + (trend if keep_trend else 0.0))
    return {"shift_y": shift[:, 0], "shift_x": shift[:, 1], "shift_quality": quality}


@reduction(
    reads=(DEFECTS, Y, X, Z),
    may_read=(STANDS_OUT,),
    writes=(SHIFT_Y, SHIFT_X, SHIFT_QUALITY),
    over=("y", "x"),
    halo=1,
    combine=_join,
    finish=_added_up,
    min_axes=0,
)
def align_layers(
    defects: np.ndarray,
    y: np.ndarray,
    x: np.ndarray,
    z: np.ndarray,
    stands_out: np.ndarray | None = None,
    *,
    reach: Annotated[
        float,
        Field(gt=0, description="largest shift from one layer to the next", json_schema_extra={"unit": "um"}),
    ] = 3.0,
    least_quality: Annotated[
        float, Field(ge=0, le=1, description="pairs of layers whose correlation stands out less are left as they are")
    ] = 0.33,
    keep_trend: Annotated[
        bool, Field(description="take a steady shift from layer to layer for drift and not for inclined objects")
    ] = False,
    shear_y: Annotated[
        float, Field(description="known shift along y for each um of z, added", json_schema_extra={"unit": "um/um"})
    ] = 0.0,
    shear_x: Annotated[
        float, Field(description="known shift along x for each um of z, added", json_schema_extra={"unit": "um/um"})
    ] = 0.0,
    middle: int = 0,
) -> dict[str, np.ndarray]:
    """Shift of every layer from the first one.

    Parameters
    ----------
    stands_out : array, optional
        It has more in common from layer to layer than ``defects``, and is used in its place.
    reach : float, um
        Our choice: lines of simulated scans wander by up to 1.4 um along each axis from one layer to the next, where
        layers are 1 um apart, and jumps come on top.
    least_quality : float
        See :func:`~dfxm_dask.volume.align.layer_shift`. Our choice: a third; the highest maximum is half as high again
        as any other.
    keep_trend : bool
        See Notes.
    shear_y, shear_x : float, um/um
        For stacks that were scanned by moving the sheet of light and not the sample: a place at height z above the
        middle is imaged at x + z/tan(2 theta).

    Returns
    -------
    dict
        Summaries. Finished: ``shift_y``, ``shift_x`` (z,) um, positive where the image lies at higher coordinates than
        in the first layer, and ``shift_quality`` (z,), NaN for the first layer and where nothing correlates.

    Raises
    ------
    InputError
        Pixels of unequal size, or layers whose positions neither rise nor fall.

    Notes
    -----
    Shifts of neighbouring layers are added up from the first layer on. What two layers have in common are dislocations,
    and most of those are inclined: seen from layer to layer they wander as drift does, in simulated scans by 1.3 um
    for each um of z. No picture tells both apart. So what is common to all pairs, the median shift for each um, is
    taken off, unless ``keep_trend`` asks for it: jumps and jitter are found, steady drift is not. Pairs of no quality
    are taken to follow the trend. In simulated scans of 20 × 30 um pairs were found within 0.1 um of what their lines
    wander; where two families of lines are equally many, some jump from one to the other, by 2 um. Errors add up like
    a random walk, over n layers to about 0.05 um × sqrt(n): only align layers that move by more.

    The mask itself is correlated: in simulated scans the weak-beam image and the local peaks did no better, and the
    borders of what is lit followed the frame, and the blocks in which they were found, instead of the sample.

    References
    ----------
    C. D. Kuglin and D. C. Hines, Proc. IEEE Conf. Cybernetics and Society (1975) 163 (phase correlation).

    Examples
    --------
    >>> import dfxm_dask
    >>> scan = dfxm_dask.example_scan()
    >>> mask = np.random.default_rng(0).random((32, 32)) < 0.1
    >>> moved = scan.assign(defects=(("z", "y", "x"), np.stack([mask, np.roll(mask, 2, axis=0)])))
    >>> dfxm_dask.align_layers(moved, keep_trend=True)["shift_y"].values.round(1).tolist()
    [0.0, 0.5]

    The kernel alone, on one layer:

    >>> mask = np.random.default_rng(0).random((64, 64)) < 0.1
    >>> layers = np.stack([mask, np.roll(mask, 4, axis=0)])
    >>> at = 0.25 * np.arange(64.0)
    >>> found = align_layers.kernel(layers, at, at, np.arange(2.0), middle=1)
    >>> np.allclose(found["moved"], [[1, 0]], atol=0.05), found["quality"].item() > 0.5
    (True, True)
    """
    moved, quality = (0.0, 0.0), float("nan")
    if middle:
        lengths = [pixel_length(n, "align_layers", p) for n, p in (("y", y), ("x", x))]
        pixel = [n if np.isfinite(n) else 1.0 for n in lengths]
        mask = defects if stands_out is None else stands_out
        found, quality = layer_shift(mask[middle - 1], mask[middle], (pixel[0], pixel[1]), reach)
        sign = [-1.0 if p.size > 1 and p[0] > p[-1] else 1.0 for p in (y, x)]
        moved = found[0] * sign[0], found[1] * sign[1]
    return {
        "moved": np.array([moved]),
        "quality": np.array([quality]),
        "z": np.array([float(z[middle])]),
        "asked": np.array([least_quality, float(keep_trend), shear_y, shear_x]),
    }
