"""Weak beam or strong beam: the probability of each for every patch of every frame."""

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
"""Probabilities are kept this far from 0 and 1 where their log-odds are added, or one source would overrule the other
for ever (our choice)."""


def dark_level(counts: np.ndarray) -> float:
    """Counts without beam, as far as a layer shows them: the least mean of a patch of 16 x 16 pixels in any frame.

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
    """Digest of the weights, and what runs them, where a network is asked.

    Weights that are not for such patches are refused here. Another engine or device gives other last digits, so that
    blocks of two of them are not mixed in one step.
    """
    if parameters["method"] == "prior":
        return {}
    from dfxm_dask.beams.network.engines import engine_of
    from dfxm_dask.beams.network.weights import load

    net, facts = load(_path(parameters["weights"]), patch=PATCH, channels=1)
    return {"weights": facts["digest"], "engine": engine_of(net, parameters["engine"], parameters["device"])}


def _path(weights: str) -> Path:
    from dfxm_dask.beams.network.weights import shipped

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
        Field(description="by the local rocking curve, by a network that looks at single frames, or both"),
    ] = "prior",
    weights: Annotated[
        str, Field(description="weights of the network: the name of shipped ones, or a safetensors file")
    ] = "compact",
    trust: Annotated[
        float, Field(ge=0, description="what the log-odds of the network weigh beside those of the rocking curve")
    ] = 1.0,
    dark: Annotated[
        float | None,
        Field(
            description="counts without beam, for the network; the darkest place of the layer by default",
            json_schema_extra={"unit": "count"},
        ),
    ] = None,
    axis: Annotated[str | None, Field(description="scan axis of the rocking curve, as in local_peak")] = None,
    device: Annotated[
        Literal["auto", "cpu", "cuda"], Field(description="where the network runs; auto takes a GPU if there is one")
    ] = "auto",
    engine: Annotated[
        Literal["auto", "torch", "onnxruntime"],
        Field(description="what runs the network; auto takes onnxruntime where it is installed and faster"),
    ] = "auto",
) -> dict[str, np.ndarray]:
    """Probability of weak beam of every patch of 64 px of every frame.

    Parameters
    ----------
    counts : array
        The rocking curve needs all frames on one scale; the network does not.
    peak_local, width_local : array
        See :func:`dfxm_dask.beams.local_peak`.
    method : str
        "prior": logistic of the distance from the local peak, (|u| - 2)/0.3 with u = (phi - peak_local)/width_local,
        averaged over the lit pixels of a patch. "lcnn": the network, on every frame by itself. "fused": the sum of
        their log-odds.

    Returns
    -------
    dict
        NaN where less than half of a patch is lit. The last patches of a frame that is no multiple of 64 px are shifted
        back, so that none is dropped.

    Raises
    ------
    InputError
        Unknown, damaged or foreign weights; see :func:`dfxm_dask.beams.network.weights.load`.

    Notes
    -----
    The network sees log(1 + counts above dark), standardised per frame over lit pixels, so that exposure and
    attenuators drop out; its probabilities are calibrated by the temperature that travels with its weights. What a
    patch gets does not depend on how layers are shared among tasks, to the last bit on one kind of processor and with
    one engine.

    References
    ----------
    Benhadjira et al., arXiv:2509.05017v2, for the idea of a light network; labels, network and calibration are ours.

    Examples
    --------
    >>> import dfxm_dask
    >>> scan = dfxm_dask.example_scan()
    >>> known = scan.merge(dfxm_dask.local_peak(scan, background=100))
    >>> probability = dfxm_dask.classify_beams(known)["p_weak"]
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
    chosen = rocking_axis("classify_beams", scan, axis)
    peak = np.where(lit, peak_local, np.nan)
    known = patch_probability(peak, width_local, scan[chosen])
    places = frame_places(scan, chosen)
    prior = known[places]  # (frame, patch_y, patch_x)
    found = prior
    if method != "prior":
        seen = _network(counts, lit, weights, dark, device, engine)
        seen[np.isnan(prior)] = np.nan
        found = seen
    if method == "fused":
        odds = sum(w * _log_odds(p) for w, p in ((1.0, prior), (trust, found)))
        found = 1 / (1 + np.exp(-odds))
    result = found.transpose(1, 2, 0).reshape(*(s.size for s in patch_starts(shape)), *lengths)
    return {P_WEAK.name: np.ascontiguousarray(result, np.float32)}


def _log_odds(p: np.ndarray) -> np.ndarray:
    inner = np.clip(p.astype(np.float64), SURE, 1 - SURE)
    return np.log(inner) - np.log1p(-inner)


def _network(
    counts: np.ndarray, lit: np.ndarray, weights: str, dark: float | None, device: str, engine: Any
) -> np.ndarray:
    """What the network says of each frame by itself: (frame, patch_y, patch_x), float32."""
    from dfxm_dask.beams.network.inference import predict_counts
    from dfxm_dask.beams.network.weights import load

    net, facts = load(_path(weights), patch=PATCH, channels=1)
    level = dark_level(counts) if dark is None else dark
    frames = counts.transpose(*range(2, counts.ndim), 0, 1).reshape(-1, *counts.shape[:2])  # a view, as they are stored
    return predict_counts(
        net, frames, dark=level, lit=lit, temperature=float(facts["temperature"]), device=device, engine=engine
    )
