"""Whether a scan brackets its curve: light at its ends relative to the peak."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dfxm_dask.frames.trust.features import Frames

EDGE = 0.5
"""Light at an end of a scan, relative to the peak, above which the curve is not bracketed: a full width at half maximum
requires less than half at both ends."""
SHARE = 0.25
"""Part of the light in patches that are not bracketed, above which the layer is not."""


@dataclass(frozen=True)
class Ends:
    """Ends of a scan along one axis.

    Parameters
    ----------
    low, high : float
        Light at the first and the last positions, relative to the peak, of all patches together.
    raw : float
        Mean counts at the brighter end relative to the peak, offset of the detector included.
    middle : float
        Least light of the middle half, relative to the peak.
    cut : float
        Part of the light in patches with more than half their peak at an end.
    """

    low: float
    high: float
    raw: float
    middle: float
    cut: float

    @property
    def bracketed(self) -> bool:
        return max(self.low, self.high) <= EDGE and self.cut <= SHARE


def ends_of(frames: Frames, axis: int) -> Ends | None:
    """Ends of a scan along an axis, summed over the other axes; None without light, or with fewer than 5 positions."""
    length = frames.grid[axis]
    if length < 5:
        return None
    light = np.maximum(frames.light, 0.0).reshape(*frames.grid, -1)
    curves = np.moveaxis(light, axis, 0).reshape(length, -1, light.shape[-1]).mean(axis=1)
    total = curves.mean(axis=1)
    if total.max() <= max(1.0, 3 * float(np.median(frames.error))):
        return None
    near = max(1, length // 50)

    def ends(curve: np.ndarray) -> tuple[float, float]:
        top = float(curve.max())
        return float(curve[:near].mean()) / top, float(curve[-near:].mean()) / top

    low, high = ends(total)
    weight = curves.max(axis=0)
    cut = np.array([max(ends(curve)) > EDGE if top > 0 else False for curve, top in zip(curves.T, weight, strict=True)])
    raw = float((max(low, high) * total.max() + frames.dark) / (total.max() + frames.dark))
    middle = float(total[length // 4 : length - length // 4].min() / total.max())
    return Ends(low, high, raw, middle, float(weight[cut].sum() / weight.sum()))
