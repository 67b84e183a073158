"""Probability of weak beam in every patch of every frame."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field

from dfxm_dask.beams.integrate import P_WEAK
from dfxm_dask.beams.patches import patch_starts
from dfxm_dask.beams.prior import check_counts, frame_places, patch_probability, rocking_axis
from dfxm_dask.reduction import reduction
from dfxm_dask.schema import AXES, COUNTS, LIT, PATCH, PEAK_LOCAL, WIDTH_LOCAL

SURE = 1e-4
"""Probabilities are clipped this far from 0 and 1 before their log-odds are added; otherwise one source would always
overrule the other (our choice)."""


def dark_level(counts: np.ndarray) -> float:
    """Estimate the counts without beam: the least mean of a tile of 16 × 16 pixels in any frame.

    Parameters
    ----------
    counts : array (y, x, scan axes)

    Examples
    --------
    >>> counts = np.full((32, 32, 3), 110.0)
    >>> counts[:16, :16, 1] = 103.0
    >>> dark_level(counts)
    103.0
    """
    frames = counts.reshape(*counts.shape[:2], -1)
    least = np.inf
    for k in range(frames.shape[2]):
        frame = frames[..., k]
        ny, nx = (max(1, n // 16) for n in frame.shape)
        tiles = frame[: min(16 * ny, frame.shape[0]), : min(16 * nx, frame.shape[1])]
        means = tiles.reshape(ny, tiles.shape[0] // ny, nx, tiles.shape[1] // nx).mean((1, 3), dtype=np.float64)
        if np.isfinite(means).any():
            least = min(least, float(np.nanmin(means)))
    return least if np.isfinite(least) else 0.0


def _weights(parameters: Mapping[str, Any]) -> dict[str, str]:
    """Digest of the network weights and name of the inference engine; empty for method "prior".

    Weights that do not fit patches of this size are refused here. Engines and devices differ in the last digits, so
    that blocks of two engines are never mixed in one step.
    """
    if parameters["method"] == "prior":
        return {}
    from dfxm_dask.beams.network.engines import engine_of
    from dfxm_dask.beams.network.weights import load

    net, facts = load(_path(parameters["weights"]), patch=PATCH, channels=1)
    return {"weights": facts["digest"], "engine": engine_of(net, parameters["engine"], parameters["device"])}


def _path(weights: str) -> Path:
    from dfxm_dask.beams.network.weights import shipped

    """Path of a weights file, from a file name or the name of shipped weights."""

    return Path(weights) if weights.endswith(".safetensors") else shipped(weights)


@reduction(
    reads=(COUNTS, AXES, LIT, PEAK_LOCAL, WIDTH_LOCAL),
    writes=(P_WEAK,),
    over=("scan", "y", "x"),
    group="beams",
    files=_weights,
)
def classify_beams(
    counts: np.ndarray,
    scan: dict[str, np.ndarray],
    lit: np.ndarray,
    peak_local: np.ndarray,
    width_local: np.ndarray,
    *,
    method: Annotated[
        Literal["prior", "lcnn", "fused"],
        Field(description="classify by the local rocking curve, by a network on single frames, or by both"),
    ] = "prior",
    weights: Annotated[
        str, Field(description="weights of the network: name of shipped weights, or path of a safetensors file")
    ] = "compact",
    trust: Annotated[float, Field(ge=0, description="for method fused: factor on the log-odds of the network")] = 1.0,
    dark: Annotated[
        float | None,
        Field(
            description="counts without beam, for the network; by default that of the darkest tile of the layer",
            json_schema_extra={"unit": "count"},
        ),
    ] = None,
    axis: Annotated[str | None, Field(description="scan axis of the rocking curve, as for local_peak")] = None,
    device: Annotated[
        Literal["auto", "cpu", "cuda"], Field(description="device of the network; auto uses a GPU if there is one")
    ] = "auto",
    engine: Annotated[
        Literal["auto", "torch", "onnxruntime"],
        Field(description="library that runs the network; auto uses onnxruntime if it is installed and faster"),
    ] = "auto",
) -> dict[str, np.ndarray]:
    """Probability of weak beam in every patch of 64 × 64 pixels of every frame.

    The local rocking coordinate u of a pixel is its distance from the peak of its own rocking curve, in half widths.
    Method "prior" computes the probability from u alone and averages it over the lit pixels of a patch. Method "lcnn"
    applies a light convolutional network to each frame by itself, without the rocking curve. Method "fused" adds the
    log-odds of both.

    Parameters
    ----------
    counts : array (y, x, scan axes), uint16 or float32, count
        The rocking curve requires all frames on one scale; the network does not.
    peak_local, width_local : array (y, x), float64 and float32, unit of the rocking axis
        See :func:`dfxm_dask.beams.local_peak`.
    method : str
        See the formulas in Notes.
    trust : float
        At 1 both sources have the same weight.
    engine : str
        Results of two engines differ in the last digits.

    Returns
    -------
    dict
        NaN where less than half of a patch is lit. If the frame is not a multiple of 64 pixels, the last patches are
        shifted back to end at the border of the frame, so that they overlap their neighbours.

    Raises
    ------
    InputError
        Unknown or damaged weights, or weights of another kind of network; see
        :func:`dfxm_dask.beams.network.weights.load`.

    Notes
    -----
    Method "prior", averaged over the lit pixels of a patch::

        u = (phi − peak_local) / width_local
        p = 1 / (1 + exp(−(|u| − 2) / 0.3))

    The input of the network is log(1 + counts above ``dark``), standardised per frame over lit pixels, which removes
    the influence of exposure and attenuators. Its probabilities are calibrated by a temperature that is stored with
    its weights. The result of a patch does not depend on the distribution of layers among tasks: it is identical to
    the last bit on one kind of processor with one engine.

    References
    ----------
    Benhadjira et al., arXiv:2509.05017v2, for the idea of a light network; labels, network and calibration are ours.

    Examples
    --------
    >>> import dfxm_dask
    >>> scan = dfxm_dask.example_scan()
    >>> data = scan.merge(dfxm_dask.local_peak(scan, background=100))
    >>> probability = dfxm_dask.classify_beams(data)["p_weak"]
    >>> probability.isel(z=0, patch_y=0, patch_x=0)[[0, -1]].values.round(2).tolist()
    [1.0, 1.0]

    The kernel alone, on one layer:

    >>> phi = 0.002 * np.arange(31)
    >>> maps = np.full((64, 64), 0.03, np.float32), np.full((64, 64), 0.004, np.float32)
    >>> counts = np.zeros((64, 64, 31), np.uint16)
    >>> p = classify_beams.kernel(counts, {"phi": phi}, np.ones((64, 64), bool), *maps)["p_weak"]
    >>> p.shape, p[0, 0, [0, 15, 30]].astype(float).round(3).tolist()
    ((1, 1, 31), [1.0, 0.001, 1.0])
    """
    shape = lit.shape
    check_counts("classify_beams", counts, scan, shape)
    lengths = tuple(positions.size for positions in scan.values())
    rocking = rocking_axis("classify_beams", scan, axis)
    peak = np.where(lit, peak_local, np.nan)
    prior_steps = patch_probability(peak, width_local, scan[rocking])
    steps = frame_places(scan, rocking)
    prior = prior_steps[steps]  # (frame, patch_y, patch_x)
    p_weak = prior
    if method != "prior":
        by_network = _network(counts, lit, weights, dark, device, engine)
        by_network[np.isnan(prior)] = np.nan
        p_weak = by_network
    if method == "fused":
        odds = sum(w * _log_odds(p) for w, p in ((1.0, prior), (trust, by_network)))
        p_weak = 1 / (1 + np.exp(-odds))
    result = p_weak.transpose(1, 2, 0).reshape(*(s.size for s in patch_starts(shape)), *lengths)
    return {P_WEAK.name: np.ascontiguousarray(result, np.float32)}


def _log_odds(p: np.ndarray) -> np.ndarray:
    """Log-odds of probabilities that are clipped at a distance :data:`SURE` from 0 and 1."""
    inner = np.clip(p.astype(np.float64), SURE, 1 - SURE)
    return np.log(inner) - np.log1p(-inner)


def _network(
    counts: np.ndarray, lit: np.ndarray, weights: str, dark: float | None, device: str, engine: Any
) -> np.ndarray:
    """Probability of weak beam by the network, each frame by itself: (frame, patch_y, patch_x), float32."""
    from dfxm_dask.beams.network.inference import predict_counts
    from dfxm_dask.beams.network.weights import load

    net, facts = load(_path(weights), patch=PATCH, channels=1)
    level = dark_level(counts) if dark is None else dark
    frames = counts.transpose(*range(2, counts.ndim), 0, 1).reshape(-1, *counts.shape[:2])  # a view in stored order
    return predict_counts(
        net, frames, dark=level, lit=lit, temperature=float(facts["temperature"]), device=device, engine=engine
    )
