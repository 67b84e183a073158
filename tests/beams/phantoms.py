"""One layer of a small phantom, rendered once for all tests of the room."""

from __future__ import annotations

from functools import cache
from types import SimpleNamespace
from typing import Any

import numpy as np
from scipy.stats import rankdata

from dfxm_dask.beams.integrate import integrate_beams
from dfxm_dask.frames import background, normalise
from dfxm_dask.phantoms.phantom import coordinates
from dfxm_dask.phantoms.presets import build
from dfxm_dask.phantoms.render import exposures, layer_truth, render


@cache
def layer(name: str, seed: int = 3, shape: tuple[int, int] = (384, 192), strong_beam: Any = None) -> SimpleNamespace:
    """Counts (y, x, phi) on one scale, background map, and truth."""
    phantom = build(name, layers=1, shape=shape, seed=seed, strong_beam=strong_beam)[0]
    frames, truths = zip(*render(phantom, 0), strict=True)
    counts = np.moveaxis(np.stack(frames), 0, -1)
    scan = {"phi": np.array(phantom.axes[0].positions)}
    single = counts.astype(float)
    if name == "hard":
        monitor = exposures(phantom, 0)["monitor"]
        parameters = {"by": "monitor", "reference": float(np.median(monitor)), "offset": 106.0}
        counts = normalise.kernel(counts, scan, monitor, **parameters)["counts"]
    y, x = coordinates(phantom)
    return SimpleNamespace(
        counts=counts,
        scan=scan,
        y=y,
        x=x,
        truth=layer_truth(phantom, 0),
        single=single,
        label=np.stack([t["label"] for t in truths]),
        level=background.kernel(counts, scan)["background_map"],
    )


def auc(values: np.ndarray, positive: np.ndarray, negative: np.ndarray) -> float:
    """Chance that a positive pixel exceeds a negative one; NaN is left out."""
    a, b = (values[m & np.isfinite(values)] for m in (positive, negative))
    ranks = rankdata(np.concatenate([a, b]))
    return float((ranks[: a.size].sum() - a.size * (a.size + 1) / 2) / (a.size * b.size))


def integrated(counts, scan, lit, peak, width, *rest, has_weak_beam=True, **options):
    """Weak and strong beam of a layer that was found to have both."""
    return integrate_beams.kernel(counts, scan, lit, peak, width, np.bool_(has_weak_beam), *rest, **options)
