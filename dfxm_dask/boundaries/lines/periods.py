"""Whether a wave has one period or two in the spacing of lines: a line may have one image or two."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from dfxm_dask.boundaries.lines.strip import StripMap, strip_map, wave_power

SHORTEST, LONGEST = 1.5, 12.0
"""Range of spacings, and of periods along the trace, in um: below, images of neighbouring lines overlap; above, the
high pass weakens them and a boundary has few. As in the specification of the method."""

DOUBLE, DOUBLED = 8.0, 0.25  # power at half of the frequency, over others and over the peak, of lines with two images
SINGLE = 4.0  # power at half of the frequency, over others, below which it is not significant (both our choice)
LEAST = 3.0  # least um of known trace and number of layers (our choice)

Plane = tuple[np.ndarray, np.ndarray, np.ndarray | None]
"""Normal, origin, and corners of the patch, if known."""


class Ridge(NamedTuple):
    """Powers of a map at frequencies of one direction.

    Attributes
    ----------
    peak, half : float
        Power at a frequency, and the largest near half that frequency.
    mean, largest : float
        Mean and largest power at other frequencies of lines of this direction, except multiples of the half.
    """

    peak: float
    half: float
    mean: float
    largest: float


def ridge_of(strip: StripMap, at: np.ndarray, periods: float) -> Ridge:
    """Powers along the direction of a wave with a given number of periods across the patch."""
    size = float(np.hypot(at[0], at[1] * strip.axes[1, 2]))
    low = 1 / LONGEST / min(size, at[0])
    times = np.arange(low, 1 / SHORTEST / size, 0.25 / periods)
    apart = np.abs(times - np.rint(2 * times) / 2) > 0.9 / periods
    if periods < 5:  # multiples of the half leave no other frequencies
        apart = np.abs(times - np.maximum(np.rint(times), 1)) > 0.9 / periods
    ground = wave_power(strip, at[0] * times[apart], at[1] * times[apart])
    near = 0.5 + np.linspace(-0.25, 0.25, 5) / periods
    half = float(wave_power(strip, at[0] * near, at[1] * near).max())
    peak = float(wave_power(strip, *at[:, None])[0])
    # A perfectly regular comb has no background.
    mean = max(float(ground.mean()) if len(ground) else 0.0, 1e-9 * peak)
    return Ridge(peak, half, mean, float(ground.max(initial=0.0)))


def images_of_a_line(
    strip: StripMap, ridge: Ridge, cells: np.ndarray, plane: Plane, at: np.ndarray, periods: float
) -> int:
    """Periods of the wave in one spacing: 1, or 2 for lines with two images each; 0 if images do not decide.

    Notes
    -----
    A line with g·b = 0 has one image in either tail of the rocking curve. In a boundary these are half a spacing apart,
    so that their sum has half the period, and their difference the true one. A line with g·b != 0 has both images at
    one position.
    """
    if ridge.half > max(DOUBLE * ridge.mean, DOUBLED * ridge.peak):
        return 2
    total, difference = (strip_map(cells, image, *plane, (-6.0, 6.0)) for image in _tails(cells))
    if len(total.z) < LEAST or not total.scale > 0:
        return 0
    summed, apart = ridge_of(total, at, periods), ridge_of(difference, at, periods)
    part = (difference.scale / total.scale) ** 2 * apart.half / max(summed.peak, 1e-300)
    if apart.half > DOUBLE * apart.mean and part > DOUBLED:
        return 2
    visible = summed.peak > SINGLE * summed.mean
    return 1 if visible and part < DOUBLED and ridge.half < max(SINGLE * ridge.mean, 0.02 * ridge.peak) else 0


def _tails(cells: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sum and difference of the weak beam in both tails of the rocking curve."""
    minus, plus = cells[:, 5], cells[:, 6]
    return plus + minus, plus - minus
